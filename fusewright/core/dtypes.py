"""The closed set of element types.

Owns names, sizes, NumPy carriers and promotion. Must not know about shapes or ops.
bf16 has no NumPy type: it is carried as uint16 bit patterns in storage and as float32 in arithmetic.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .errors import TypeRefused

NumpyType = np.dtype[Any]


class DType:
    """An element type, interned: compare with ``is`` or ``==``.

    ``kind`` is ``f`` (float), ``i`` (signed), ``u`` (unsigned) or ``b`` (bool); ``size`` is in bytes;
    ``np`` is the NumPy type of stored bytes; ``compute`` the NumPy type in which ``eval`` computes.
    """

    __slots__ = ("name", "kind", "size", "np", "compute")  # no dataclass: importing those would take a tenth of a load
    name: str
    kind: str
    size: int
    np: NumpyType
    compute: NumpyType

    def __init__(self, name: str, kind: str, size: int, np: NumpyType, compute: NumpyType) -> None:
        for slot, value in zip(self.__slots__, (name, kind, size, np, compute)):
            object.__setattr__(self, slot, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self} is interned: {name} cannot be set")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        return (dtype, (self.name,))

    @property
    def dtype(self) -> NumpyType:
        """The NumPy type of arrays that users pass and get: ``np.empty(shape, port.dtype)`` works because of it."""
        return self.compute

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        return self.kind in "iu"


def _make(name: str, kind: str, np_name: str, compute: str | None = None) -> DType:
    stored = np.dtype(np_name)
    return DType(name, kind, stored.itemsize, stored, np.dtype(compute or np_name))


F16 = _make("f16", "f", "float16")
F32 = _make("f32", "f", "float32")
F64 = _make("f64", "f", "float64")
BF16 = _make("bf16", "f", "uint16", "float32")
I8, I16, I32, I64 = (_make(f"i{b}", "i", f"int{b}") for b in (8, 16, 32, 64))
U8, U16, U32, U64 = (_make(f"u{b}", "u", f"uint{b}") for b in (8, 16, 32, 64))
BOOL = _make("bool", "b", "bool")

DTYPES: dict[str, DType] = {d.name: d for d in (F16, F32, F64, BF16, I8, I16, I32, I64, U8, U16, U32, U64, BOOL)}
_BY_NUMPY = {d.np: d for d in DTYPES.values() if d is not BF16}
FLOATS = (F16, BF16, F32, F64)
INTS = (I8, I16, I32, I64, U8, U16, U32, U64)

_PLAIN = re.compile(r"[<>=|]?[A-Za-z_]+[0-9]*_?")


def dtype(like: Any) -> DType:
    """The DType for a name (``"f32"``, ``"float32"``), NumPy type or DType.

    Raises TypeRefused for anything outside the closed set (strings, complex, objects...).
    """
    if isinstance(like, DType):
        return like
    if isinstance(like, str):
        if like in DTYPES:
            return DTYPES[like]
        if like == "bfloat16":
            return BF16
        # NumPy reads other texts in a small language of its own, with numbers and commas.
        if not _PLAIN.fullmatch(like):
            raise TypeRefused(f"element type {like!r} is not supported; supported are {', '.join(DTYPES)}")
    try:
        found = np.dtype(like)
    except TypeError:
        found = None
    if found is not None:
        if found.name == "bfloat16":
            return BF16
        native = found.newbyteorder("=")
        if native in _BY_NUMPY:
            return _BY_NUMPY[native]
    raise TypeRefused(f"element type {like!r} is not supported; supported are {', '.join(DTYPES)}")


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """bf16 bit patterns (uint16) as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32).reshape(bits.shape)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 rounded to nearest even bf16 bit patterns (uint16); NaN stays a quiet NaN."""
    wide = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).reshape(np.shape(values))
    rounded = ((wide + np.uint32(0x7FFF) + ((wide >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), ((wide >> 16) | np.uint32(0x40)).astype(np.uint16), rounded)


def encode(values: np.ndarray, to: DType) -> np.ndarray:
    """Compute-type values as stored bytes of ``to`` (only bf16 differs)."""
    return f32_to_bf16(values) if to is BF16 else np.asarray(values, dtype=to.np)


def decode(stored: np.ndarray, of: DType) -> np.ndarray:
    """Stored bytes of type ``of`` as compute-type values (only bf16 differs)."""
    return bf16_to_f32(stored) if of is BF16 else stored
