"""TensorProto and TensorFlow's element types -> NumPy arrays.

Owns the numbering of types, the ways a TensorProto stores values, and shapes. Must not know graphs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core.dtypes import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
    bf16_to_f32,
)  # fmt: skip
from ...core.errors import ImportRefused
from ..formats.limits import ImportLimits
from .wire import Message

DTYPES: dict[int, DType] = {
    1: F32, 2: F64, 3: I32, 4: U8, 5: I16, 6: I8, 9: I64, 10: BOOL, 14: BF16, 17: U16, 19: F16, 22: U32, 23: U64,
}  # fmt: skip
OTHER = {
    7: "string", 8: "complex64", 11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16", 18: "complex128",
    20: "resource", 21: "variant", 24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4",
}  # fmt: skip
STRING, COMPLEX64, COMPLEX128, RESOURCE, VARIANT = 7, 8, 18, 20, 21
_FIELD = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val", 9: "int64_val",
    10: "bool_val", 14: "half_val", 17: "int_val", 19: "half_val", 22: "uint32_val", 23: "uint64_val",
}  # fmt: skip


def type_name(number: int) -> str:
    """A type's name for messages; reference types are those above 100."""
    number = plain(number)
    found = DTYPES.get(number)
    return found.name if found is not None else OTHER.get(number, f"type {number}")


def plain(number: int) -> int:
    """The type behind a TF1 reference type."""
    return number - 100 if 100 < number < 200 else number


def dtype_of(number: int, where: str) -> DType:
    """The element type, or a refusal for strings, complex numbers and others."""
    found = DTYPES.get(plain(number))
    if found is None:
        hint = "name a tensor of numbers behind it in inputs=" if plain(number) == STRING else ""
        raise ImportRefused("unsupported-dtype", where, f"element type {type_name(number)} is not supported", hint)
    return found


def shape_of(proto: Message | None, where: str, limits: ImportLimits) -> tuple[int | None, ...] | None:
    """A stored shape: None for an unknown extent, None altogether for an unknown rank."""
    if proto is None or proto.get("unknown_rank"):
        return None
    dims = proto.get("dim", [])
    limits.check("rank", len(dims), where, "the rank")
    out: list[int | None] = []
    for d in dims:
        size = d.get("size", 0)
        if size < -1:
            raise ImportRefused("malformed", where, f"negative extent {size}")
        limits.check("extent", size, where, "an extent")
        out.append(None if size == -1 else size)
    return tuple(out)


def array_of(proto: Message, where: str, limits: ImportLimits, file_bytes: int) -> tuple[np.ndarray, DType]:
    """(stored values, type): bf16 as bits. One repeated value stays one (strides 0), whatever shape is claimed."""
    kind = dtype_of(proto.get("dtype", 0), where)
    known = shape_of(proto.get("shape", {}), where, limits)
    if known is None or any(d is None for d in known):
        raise ImportRefused("malformed", where, "a constant's shape is not known")
    shape = tuple(int(d) for d in known if d is not None)
    count = math.prod(shape)
    content = proto.get("content")
    if content:
        if len(content) != count * kind.size:
            raise ImportRefused(
                "malformed", where, f"a constant of shape {shape} and type {kind} holds {len(content)} bytes"
            )
        return np.frombuffer(content, kind.np.newbyteorder("<")).reshape(shape), kind
    values = proto.get(_FIELD[plain(proto["dtype"])], [])
    if len(values) > count:
        raise ImportRefused("malformed", where, f"a constant of shape {shape} stores {len(values)} values")
    small = _numbers(values, kind)
    if len(values) <= 1:
        # Splats stay splats: 18 bytes may claim a gigabyte.
        one = small if len(values) else np.zeros(1, kind.np)
        return np.broadcast_to(one.reshape(()), shape) if count else np.zeros(shape, kind.np), kind
    limits.check_shape(shape, kind.size, file_bytes, where)
    if len(values) < count:
        full = np.empty(count, kind.np)
        full[: len(values)] = small
        full[len(values) :] = small[-1]
        small = full
    return small.reshape(shape), kind


def complex_of(proto: Message, where: str, limits: ImportLimits, file_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a complex constant, which is stored as pairs; the last pair fills the rest."""
    number, field, stored = (1, "float_val", "scomplex_val")
    if plain(proto["dtype"]) == COMPLEX128:
        number, field, stored = (2, "double_val", "dcomplex_val")
    values, dims = list(proto.get(stored, [])), proto.get("shape", {}).get("dim", [])
    if len(values) == 2:
        pair, _ = array_of({"dtype": number, "shape": {"dim": [{"size": 2}]}, field: values}, where, limits, file_bytes)
        whole, _ = array_of({"dtype": number, "shape": proto.get("shape", {})}, where, limits, file_bytes)
        return np.broadcast_to(pair[0], whole.shape), np.broadcast_to(pair[1], whole.shape)
    if values:
        known = shape_of(proto.get("shape", {}), where, limits) or ()
        count = math.prod(d or 0 for d in known)
        limits.check_shape((count, 2), 8, file_bytes, where)
        values += values[-2:] * (count - len(values) // 2)
    pairs = {**proto, "dtype": number, "shape": {"dim": [*dims, {"size": 2}]}, field: values}
    array, _ = array_of(pairs, where, limits, file_bytes)
    return array[..., 0], array[..., 1]


def _numbers(values: list[Any], kind: DType) -> np.ndarray:
    if kind in (BF16, F16):
        bits = np.array([v & 0xFFFF for v in values], np.uint16)
        return bits if kind is BF16 else bits.view(np.float16)
    if kind.is_int:
        mask = (1 << (8 * kind.size)) - 1
        unsigned = np.array([v & mask for v in values], f"u{kind.size}")
        return unsigned.view(kind.np)
    return np.array(values, kind.np)


def decoded(stored: np.ndarray, kind: DType) -> np.ndarray:
    """Stored values in the type NumPy computes with."""
    if kind is not BF16:
        return stored
    if stored.size and not any(stored.strides):
        one = bf16_to_f32(np.array(stored[(0,) * stored.ndim]).reshape(1))
        return np.broadcast_to(one.reshape(()), stored.shape)
    return bf16_to_f32(np.ascontiguousarray(stored))


def strings_of(proto: Message, where: str, limits: ImportLimits) -> list[bytes]:
    """The values of a string tensor, as stored."""
    values = proto.get("string_val", [])
    limits.check("nodes", len(values), where, "the number of strings")
    return [bytes(v) for v in values]
