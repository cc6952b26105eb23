"""What every frontend builds of searches whose results have extents that depend on values.

Owns fresh names of symbols, and the graphs behind where, unique, masks and non-max suppression. Knows no format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..core.dims import Dim, Extent, minimum, product, symbol, symbols
from ..core.dtypes import BOOL, F32, I64
from ..ir.builder import Builder
from ..ir.graph import Value


class Fresh:
    """Names of the symbols that one import defines. ``taken`` are those of its inputs."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.made: set[str] = set()

    def name(self, hint: str) -> str:
        """``hint``, or with a number behind it."""
        out, k = hint, 1
        while out in self.taken or out in self.made:
            out, k = f"{hint}_{k}", k + 1
        self.made.add(out)
        return out

    def concerns(self, *extents: Extent) -> bool:
        """Does one of these depend on values?"""
        return any(s in self.made for e in extents if isinstance(e, Dim) for s in symbols(e))


def as_i64(b: Builder, v: Value) -> Value:
    """The value in i64."""
    return v if v.dtype is I64 else b.cast(v, to=I64)  # type: ignore[no-any-return]


def bound(b: Builder, fresh: Fresh, count: Value, high: Extent | None, hint: str = "K") -> Extent:
    """A new symbol that stands for an i64 scalar, which is at most ``high``; a known number where there is one."""
    if count.const is not None and count.const.array.size == 1:
        return int(count.const.array.ravel()[0])
    name = fresh.name(hint)
    b.symbol_of(count, symbol=name, high=high)
    return symbol(name)


def true_count(b: Builder, mask: Value) -> Value:
    """How many elements of a bool tensor are true, in i64."""
    flat = b.reshape(mask, shape=(product(mask.shape),))
    return b.reduce_sum(b.cast(flat, to=I64), axes=(0,))  # type: ignore[no-any-return]


def as_mask(b: Builder, x: Value) -> Value:
    """Where x is not 0."""
    return x if x.dtype is BOOL else b.ne(x, b.constant(0, x.dtype))  # type: ignore[no-any-return]


def nonzero(b: Builder, fresh: Fresh, x: Value) -> Value:
    """[K, rank] positions of what is not 0, in row-major order."""
    mask = as_mask(b, x)
    k = bound(b, fresh, true_count(b, mask), product(mask.shape))
    return b.nonzero(mask, size=k)  # type: ignore[no-any-return]


def masked(b: Builder, fresh: Fresh, x: Value, mask: Value, axis: int = 0) -> Value:
    """The slices of x along ``axis`` where the bool vector ``mask`` is true."""
    at = nonzero(b, fresh, mask)
    return b.gather(x, b.reshape(at, shape=(at.shape[0],)), axis=axis)  # type: ignore[no-any-return]


def unique_rows(b: Builder, fresh: Fresh, x: Value, order: str, equal_nan: bool) -> tuple[Value, Value, Value, Value]:
    """(distinct rows, first row of each, group of every row, rows of each group) of a matrix."""
    first, inverse, counts, number = b.unique(x, order=order, equal_nan=equal_nan)
    k = bound(b, fresh, number, x.shape[0])
    first, counts = (b.slice(v, starts=(0,), stops=(k,)) for v in (first, counts))
    return b.gather(x, first, axis=0), first, inverse, counts


def unique_along(
    b: Builder, fresh: Fresh, x: Value, axis: int | None, order: str, equal_nan: bool
) -> tuple[Value, Value, Value, Value]:
    """As ``unique_rows``, of the slices along ``axis``; None: of all elements."""
    if axis is None:
        x, axis = b.reshape(x, shape=(product(x.shape),)), 0
    perm = (axis, *(i for i in range(x.rank) if i != axis))
    turned = b.transpose(x, perm=perm) if axis else x
    rows = b.reshape(turned, shape=(turned.shape[0], product(turned.shape[1:])))
    found, first, inverse, counts = unique_rows(b, fresh, rows, order, equal_nan)
    whole = b.reshape(found, shape=(found.shape[0], *turned.shape[1:]))
    back = tuple(int(i) for i in np.argsort(perm))
    return (b.transpose(whole, perm=back) if axis else whole), first, inverse, counts


def suppressed(
    b: Builder, boxes: Value, scores: Value, most: Value, thresholds: Sequence[Value | float], high: Extent,
    center: bool = False,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """non_max_suppression of boxes [batch, n, 4] and scores [batch, classes, n], of any float type and limit."""
    rest = [_f32(b, t) for t in thresholds]
    return b.non_max_suppression(  # type: ignore[no-any-return]
        _f32(b, boxes), _f32(b, scores), b.reshape(as_i64(b, most), shape=()), *rest, size=high, center=center
    )


def _f32(b: Builder, v: Value | float) -> Value:
    if not isinstance(v, Value):
        return b.constant(v, F32)
    v = b.reshape(v, shape=()) if v.type.size == 1 and v.rank == 1 else v
    return v if v.dtype is F32 else b.cast(v, to=F32)  # type: ignore[no-any-return]


def limit_of(most: Value, otherwise: Extent) -> Extent:
    """The bound that a limit gives: its number where that is known."""
    const = most.const
    if const is None or const.array.size != 1:
        return otherwise
    return minimum(max(int(const.array.ravel()[0]), 0), otherwise)


def joined(b: Builder, fresh: Fresh, values: Iterable[Any], left: Extent, right: Extent) -> dict[Value, Value] | None:
    """Values whose extents mention ``right``, as values of extents ``left``; that both are equal is checked during the
    run. None when neither depends on values."""
    if not fresh.concerns(left, right):
        return None
    if not fresh.concerns(right):
        left, right = right, left
    out: dict[Value, Value] = {}
    for v in values:
        if isinstance(v, Value) and any(str(d) == str(right) for d in v.shape):
            out[v] = b.view_as(v, shape=tuple(left if str(d) == str(right) else d for d in v.shape))
    return out or None


__all__ = [
    "Fresh", "as_i64", "as_mask", "bound", "joined", "limit_of", "masked", "nonzero",
    "suppressed", "true_count", "unique_along", "unique_rows",
]  # fmt: skip
