"""Questions that passes ask about values: constants, splats, per-channel vectors.

Owns reading and making constants across dtypes. Must not edit graphs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core.dims import compare_eq
from ...core.dtypes import BF16, F16, F32, F64, DType, bf16_to_f32, decode, encode
from ...ir.graph import Const, Value
from ...ir.types import Shape

# Binary digits of a significand.
_DIGITS = {F16: 11, BF16: 8, F32: 24, F64: 53}


def const_array(value: Value) -> np.ndarray | None:
    """Contents in computing precision (bf16 as float32) when ``value`` is a constant, else None."""
    const = value.const
    return None if const is None else decode(const.array, const.dtype)


def splat_scalar(value: Value) -> Any:
    """The one element that every position of ``value`` holds (a 0-d array), or None. Looks through broadcasts."""
    for _ in range(8):
        if value.producer.op.name not in ("broadcast_to", "reshape"):
            break
        value = value.producer.operands[0]
    const = value.const
    if const is None or not const.is_splat:
        return None
    element = const.array[(slice(0, 1),) * const.array.ndim].reshape(())
    return bf16_to_f32(element) if const.dtype is BF16 else element


def same_scalar(element: Any, want: bool | int | float, dt: DType, ulps: float = 0.0) -> bool:
    """Is the stored element ``want`` in its type, up to ``ulps`` of it? The sign of zero counts, NaN equals NaN."""
    if dt.kind == "b":
        return isinstance(want, (bool, np.bool_)) and bool(element) == bool(want)
    if dt.kind != "f":
        return float(want).is_integer() and int(element) == int(want)
    target = decode(encode(np.asarray(want, np.float32), dt), dt) if dt is BF16 else np.asarray(want, dt.np)
    with np.errstate(invalid="ignore"):
        if np.isnan(target):
            return bool(np.isnan(element))
        if ulps and np.isfinite(target) and dt in _DIGITS:
            return bool(abs(float(element) - float(want)) <= ulps * 2.0 ** (math.frexp(want)[1] - _DIGITS[dt]))
        return bool(element == target) and bool(np.signbit(element)) == bool(np.signbit(target))


def make_splat(element: Any, shape: tuple[int, ...], dt: DType) -> Const:
    """A constant of one repeated element, never spread out."""
    stored = encode(np.asarray(element), dt)
    return Const(np.broadcast_to(stored.reshape(()), shape), dt)


def channel_vector(value: Value, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """float64 vector [channels] when the constant ``value`` varies along ``axis`` of a rank-``rank`` tensor only."""
    array = const_array(value)
    if array is None or array.ndim > rank or array.dtype.kind != "f":
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,))


def same_shape(a: Shape, b: Shape) -> bool:
    """Equal for every binding of the symbols."""
    return a is b or (len(a) == len(b) and all(x == y or compare_eq(x, y) is True for x, y in zip(a, b)))


def attr_key(value: Any) -> Any:
    """A hashable form of an attribute that tells 0.0 from -0.0 and 1 from True."""
    if isinstance(value, tuple):
        return tuple(attr_key(v) for v in value)
    return (type(value).__name__, repr(value))
