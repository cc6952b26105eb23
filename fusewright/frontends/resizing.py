"""Resizing an image axis whose extent is known at the call only: the graph computes the coordinates.

Follows TensorFlow's kernels, coordinates in float32 among it. Must not know any frontend.
"""

from __future__ import annotations

from ..core.dims import Extent
from ..core.dtypes import F32, I64
from ..ir.builder import Builder
from ..ir.graph import Value

COORDINATES = ("half_pixel", "asymmetric", "align_corners")


def extent_number(b: Builder, e: Extent) -> Value:
    """A non-negative extent as an i64 scalar: so many ones, added up."""
    if isinstance(e, int):
        return b.constant(e, I64)  # type: ignore[no-any-return]
    return b.reduce_sum(b.full((e,), 1, I64), axes=(0,))  # type: ignore[no-any-return]


def resize_axis(b: Builder, x: Value, axis: int, n: Extent, linear: bool, coordinates: str) -> Value:
    """``x`` with ``n`` elements along ``axis``: the nearest ones, or blends of two neighbours."""
    have = x.shape[axis]
    scale, i = _scale(b, have, n, coordinates), b.cast(b.iota(shape=(n,), axis=0, dtype=I64), to=F32)
    half = coordinates == "half_pixel"
    place = b.mul(b.add(i, 0.5), scale) if half else b.mul(i, scale)
    if not linear:
        near = b.floor(b.add(place, 0.5) if coordinates == "align_corners" else place)
        return _at(b, x, axis, near)
    place = b.sub(place, 0.5) if half else place
    low = b.floor(place)
    share = b.reshape(b.sub(place, low), shape=(n, *(1,) * (x.rank - axis - 1)))
    wide = x if x.dtype.size >= 4 else b.cast(x, to=F32)
    first, second = _at(b, wide, axis, low), _at(b, wide, axis, b.add(low, 1.0))
    share = share if share.dtype is wide.dtype else b.cast(share, to=wide.dtype)
    blend = b.add(first, b.mul(b.sub(second, first), share))
    return blend if blend.dtype is x.dtype else b.cast(blend, to=x.dtype)  # type: ignore[no-any-return]


def _scale(b: Builder, have: Extent, n: Extent, coordinates: str) -> Value:
    """Input elements per output element."""
    inner, outer = (b.cast(extent_number(b, e), to=F32) for e in (have, n))
    if coordinates != "align_corners":
        return b.div(inner, b.maximum(outer, 1.0))  # type: ignore[no-any-return]
    between = b.div(b.sub(inner, 1.0), b.maximum(b.sub(outer, 1.0), 1.0))
    return b.where(b.gt(outer, 1.0), between, b.div(inner, b.maximum(outer, 1.0)))  # type: ignore[no-any-return]


def _at(b: Builder, x: Value, axis: int, place: Value) -> Value:
    """The elements at whole places; those outside are the nearest inside, as gather has it."""
    return b.gather(x, b.cast(place, to=I64), axis=axis)  # type: ignore[no-any-return]
