"""Reading ONNX protobufs: models, tensors, external data.

Owns bytes -> ModelProto and TensorProto -> Const, with every size checked first. Must not know any operator.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ...core.dtypes import BF16, BOOL, DTYPES, DType
from ...core.errors import ImportRefused
from ...ir.graph import Const
from ..formats.filebytes import read_file
from ..formats.limits import ImportLimits

_TYPES = {
    "FLOAT": "f32", "UINT8": "u8", "INT8": "i8", "UINT16": "u16", "INT16": "i16", "INT32": "i32", "INT64": "i64",
    "BOOL": "bool", "FLOAT16": "f16", "DOUBLE": "f64", "UINT32": "u32", "UINT64": "u64", "BFLOAT16": "bf16",
}  # fmt: skip
ELEMENTS: dict[int, DType] = {onnx.TensorProto.DataType.Value(k): DTYPES[v] for k, v in _TYPES.items()}
_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_EXTERNAL = onnx.TensorProto.EXTERNAL
PROTOBUF_BYTES = 2 << 30
_INT_FIELD = frozenset("i8 i16 i32 u8 u16 bool f16 bf16".split())


@dataclass(frozen=True)
class OnnxModel:
    """A parsed model, the folder its external data may lie in, and the size of what was read."""

    proto: Any
    folder: Path | None
    name: str
    size: int


def element_name(code: int) -> str:
    """ONNX's name of an element type."""
    try:
        return str(onnx.TensorProto.DataType.Name(code))
    except ValueError:
        return f"type {code}"


def element_type(code: int, where: str) -> DType:
    """The DType of an ONNX element type. Raises ImportRefused for those the IR does not have."""
    found = ELEMENTS.get(code)
    if found is None:
        raise ImportRefused("unsupported-dtype", where, f"element type {element_name(code)} is not supported")
    return found


def open_model(source: Any, base_dir: str | os.PathLike[str] | None, limits: ImportLimits) -> OnnxModel:
    """The model of a path, bytes or ModelProto. Raises ImportRefused."""
    folder = None if base_dir is None else Path(base_dir)
    if isinstance(source, onnx.ModelProto):
        return OnnxModel(source, folder, "ModelProto", source.ByteSize())
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = memoryview(source), "bytes"
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        data, name = read_file(path, limits), path.name
        folder = path.parent if folder is None else folder
    else:
        raise ImportRefused("unknown-format", type(source).__name__, "neither a path, bytes nor a ModelProto")
    if len(data) >= PROTOBUF_BYTES:
        raise ImportRefused("limit", name, "a protobuf is at most 2 GiB", "save large tensors as external data")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(bytes(data) if not isinstance(data.obj, bytes) else data.obj)
    except (DecodeError, ValueError, RuntimeError) as e:
        raise ImportRefused("malformed", name, f"this is no ONNX protobuf ({e})") from None
    return OnnxModel(model, folder, name, len(data))


def read_tensor(t: Any, model: OnnxModel, limits: ImportLimits, where: str) -> Const:
    """The contents of a TensorProto. Raw data is a view of the message, never a copy."""
    dt = element_type(t.data_type, where)
    if t.HasField("segment"):
        raise ImportRefused("unsupported-option", where, "segmented tensors are not supported")
    shape = tuple(t.dims)
    if t.data_location == _EXTERNAL:
        entries = _external_keys(t, where)
        raw: Any = None
        total = limits.check_shape(shape, dt.size, PROTOBUF_BYTES, where)
        raw = _external(entries, total, model.folder, limits, where)
        return Const(_raw(raw, dt, shape, where), dt)
    limits.check_shape(shape, dt.size, model.size, where)
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if t.HasField("raw_data"):
        return Const(_raw(t.raw_data, dt, shape, where), dt)
    values = _typed_field(t, dt)
    if len(values) != count:
        raise ImportRefused("malformed", where, f"{len(values)} values for a tensor of shape {shape}")
    return Const(_from_field(values, dt, where).reshape(shape), dt)


def _typed_field(t: Any, dt: DType) -> Any:
    if dt.name == "f32":
        return t.float_data
    if dt.name == "f64":
        return t.double_data
    if dt.name == "i64":
        return t.int64_data
    return t.int32_data if dt.name in _INT_FIELD else t.uint64_data


def _from_field(values: Any, dt: DType, where: str) -> np.ndarray:
    if dt.name in ("f16", "bf16"):
        bits = np.asarray(values, np.int64).astype(np.uint16)
        return bits if dt is BF16 else bits.view(np.float16)
    if dt.name in _INT_FIELD or dt.name in ("u32", "u64"):
        wide = np.asarray(values, np.uint64 if dt.name in ("u32", "u64") else np.int64)
        if dt is BOOL:
            return wide != 0
        info = np.iinfo(dt.np)
        if wide.size and (wide.max() > info.max or wide.min() < info.min):
            raise ImportRefused("malformed", where, f"a value does not fit {dt}")
        return wide.astype(dt.np)
    return np.asarray(values, dt.np)


def _raw(raw: Any, dt: DType, shape: tuple[int, ...], where: str) -> np.ndarray:
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if len(raw) != count * dt.size:
        raise ImportRefused("malformed", where, f"{len(raw)} bytes for a {dt} tensor of shape {shape}")
    array = np.frombuffer(raw, dt.np.newbyteorder("<") if dt.size > 1 else np.uint8 if dt is BOOL else dt.np)
    if dt is BOOL:
        array = array != 0
    return array.astype(dt.np, copy=False).reshape(shape)


def _external_keys(t: Any, where: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for entry in t.external_data:
        if entry.key not in _KEYS or entry.key in found:
            raise ImportRefused("malformed", where, f"external data key {entry.key[:40]!r} is unknown or given twice")
        found[entry.key] = entry.value
    if not found.get("location"):
        raise ImportRefused("malformed", where, "external data without a location")
    return found


def _number(text: str, what: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ImportRefused("malformed", where, f"external data {what} {text[:40]!r} is not a size")
    return int(text)


def _external(
    entries: Mapping[str, str], total: int, folder: Path | None, limits: ImportLimits, where: str
) -> memoryview:
    """``total`` bytes of a regular file beneath ``folder``: no link, no way up, no absolute name."""
    if folder is None:
        raise ImportRefused(
            "unsafe-path", where, "a model in memory has no folder for its external data", "pass base_dir="
        )
    location = entries["location"]
    limits.check_name(location, where)
    parts = location.split("/")
    if "\\" in location or ":" in location or any(p in ("", ".", "..") for p in parts):
        raise ImportRefused("unsafe-path", where, f"location {location[:80]!r} is not a plain relative name")
    offset = _number(entries.get("offset", "0"), "offset", where)
    length = _number(entries["length"], "length", where) if entries.get("length") else total
    if length != total:
        raise ImportRefused("malformed", where, f"external data of {length} bytes for a tensor of {total}")
    opened: list[int] = []
    try:
        # One component at a time and never through a link, so that nothing can be swapped in on the way.
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in parts[:-1]:
            opened.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened[-1]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        opened.append(os.open(parts[-1], flags, dir_fd=opened[-1]))
        info = os.fstat(opened[-1])
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise ImportRefused("unsafe-path", where, f"{location[:80]!r} is not a regular file without hard links")
        limits.check("file_bytes", info.st_size, where, "the external data file")
        if offset + total > info.st_size:
            raise ImportRefused("malformed", where, f"external data ends at {offset + total} of {info.st_size} bytes")
        with os.fdopen(opened.pop(), "rb") as f:
            f.seek(offset)
            data = f.read(total)
    except OSError as e:
        raise ImportRefused("unsafe-path", where, f"{location[:80]!r} cannot be read: {e.strerror or e}") from None
    finally:
        for fd in opened:
            os.close(fd)
    if len(data) != total:
        raise ImportRefused("malformed", where, "external data is shorter than its file said")
    return memoryview(data)


__all__ = ["DecodeError", "OnnxModel", "element_name", "element_type", "open_model", "read_tensor"]
