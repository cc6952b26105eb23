"""Finding places: Bucketize, LowerBound, UpperBound, InTopK, histograms, flat positions, what one list lacks.

Owns counting comparisons in place of a search: tables are small beside what is looked up in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Dim, product
from ....core.dtypes import F32, I32, I64
from ....ir.graph import Value
from ..lower import Ctx, fold, op, same_type
from ..values import Item, Tensor


def _count(c: Ctx, flags: Value, axis: int) -> Value:
    out: Value = c.bld.reduce_sum(c.bld.cast(flags, to=I32), axes=(axis,))
    return out


@op("Bucketize")
def _bucketize(c: Ctx, x: Value) -> Any:
    """How many boundaries are <= x."""
    b = c.bld
    edges = c.list_floats("boundaries")
    if any(e > f for e, f in zip(edges, edges[1:], strict=False)):
        raise c.refuse("the boundaries are not sorted", code="malformed")
    if not x.dtype.is_float:
        x = b.cast(x, to=F32)
    table = b.constant(np.array(edges, np.float32).astype(x.dtype.compute), x.dtype)
    found = _count(c, b.ge(b.reshape(x, shape=(*x.shape, 1)), table), x.rank)
    # NaN lies behind every boundary, as in a search by upper bound.
    return b.where(b.isnan(x), c.const(len(edges), I32), found)


@op("LowerBound", "UpperBound")
def _bound(c: Ctx, table: Value, x: Value) -> Any:
    b = c.bld
    if table.rank != 2 or x.rank != 2:
        raise c.refuse("takes matrices", code="malformed")
    rows = b.reshape(table, shape=(table.shape[0], 1, table.shape[1]))
    wide = b.reshape(x, shape=(*x.shape, 1))
    before = b.lt(rows, wide) if c.node.op == "LowerBound" else b.le(rows, wide)
    return same_type(c, _count(c, before, 2), c.type("out_type", 3))


@op("InTopK", "InTopKV2", raw=True)
def _in_top_k(c: Ctx, predictions: Item, targets: Item, k: Item | None = None) -> Any:
    b, x, t = c.bld, c.v(predictions), same_type(c, c.v(targets), I64)
    most = c.number_of(k, "k") if k is not None else c.i("k")
    line = b.iota(shape=(1, x.shape[1]), axis=1, dtype=I64)
    hot = b.eq(b.reshape(t, shape=(*t.shape, 1)), line)
    own = b.reduce_sum(b.where(hot, x, c.const(0, x)), axes=(1,), keepdims=True)
    better = _count(c, b.gt(x, own), 1)
    inside = b.logical_and(b.reduce_any(hot, axes=(1,)), b.reduce_all(b.isfinite(x), axes=(1,)))
    return b.logical_and(inside, b.lt(better, c.const(most, I32)))


@op("HistogramFixedWidth", raw=True)
def _histogram(c: Ctx, item: Item, limits: Item, bins: Item) -> Any:
    b, x = c.bld, c.v(item)
    count = c.number_of(bins, "nbins")
    if not 0 < count <= 1 << 16:
        raise c.refuse(f"{count} bins")
    size: Any = 1
    for d in x.shape:
        size = size * d
    flat, ends = b.reshape(x, shape=(size,)), c.v(limits)
    if not x.dtype.is_float:
        flat, ends = b.cast(flat, to="f64"), b.cast(ends, to="f64")
    low, high = (b.reshape(b.slice(ends, starts=(k,), stops=(k + 1,)), shape=()) for k in (0, 1))
    part = b.div(b.sub(flat, low), b.sub(high, low))
    place = b.floor(b.mul(part, c.const(count, part)))
    place = b.clip(place, c.const(0, place), c.const(count - 1, place))
    hot = b.eq(b.reshape(b.cast(place, to=I32), shape=(size, 1)), b.constant(np.arange(count, dtype=np.int32)))
    return same_type(c, _count(c, hot, 0), c.type("dtype", 3))


@op("UnravelIndex", raw=True)
def _unravel(c: Ctx, item: Item, dims: Item) -> Any:
    b, v = c.bld, c.v(item)
    sizes = c.extents(dims, "the dims")
    if any(isinstance(s, Dim) or s <= 0 for s in sizes) or not sizes:
        raise c.refuse("takes fixed positive extents")
    rows, left = [], v
    for size in reversed(sizes):
        rows.append(b.reshape(b.mod(left, c.const(size, v)), shape=(1, *v.shape)))
        left = b.floordiv(left, c.const(size, v))
    return b.concat(*reversed(rows), axis=0)


@op("ApproximateEqual")
def _near(c: Ctx, x: Value, y: Value) -> Any:
    return c.bld.lt(c.bld.abs(c.bld.sub(x, y)), c.const(c.f("tolerance", 1e-5), x))


@op("PopulationCount")
def _ones(c: Ctx, x: Value) -> Any:
    """Bits added up in pairs, fours, eights, and so on."""
    b, size = c.bld, x.dtype.size * 8
    kind = f"u{size}"
    v = x if x.dtype.name == kind else b.bitcast(x, to=kind)
    full, step = (1 << size) - 1, 1

    def number(value: int) -> Value:
        out: Value = b.constant(np.asarray(value, v.dtype.np), v.dtype)
        return out

    while step < size:
        mask = number(full // ((1 << step) + 1))
        v = b.add(b.bitwise_and(v, mask), b.bitwise_and(b.shift_right(v, number(step)), mask))
        step *= 2
    return b.cast(v, to="u8")


@op("CumulativeLogsumexp", raw=True)
def _cumulative(c: Ctx, item: Item, axis: Item) -> Any:
    """Each sum relative to its own maximum."""
    b, x = c.bld, c.v(item)
    along = c.axis(axis, x.rank)
    n = x.shape[along]
    if isinstance(n, Dim) or n > 256:
        raise c.refuse(f"an axis of {n} elements is not supported")
    # Row i of the table says which elements the ith sum has.
    table = np.tril(np.ones((n, n), bool), -1 if c.b("exclusive", False) else 0)
    table = table.T if c.b("reverse", False) else table
    last = b.transpose(x, perm=(*(a for a in range(x.rank) if a != along), along))
    wide = b.where(b.constant(table), b.reshape(last, shape=(*last.shape[:-1], 1, n)), c.const(-np.inf, x))
    top = b.reduce_max(wide, axes=(x.rank,), keepdims=True)
    safe = b.where(b.isfinite(top), top, c.const(0, x))
    total = b.add(b.log(b.reduce_sum(b.exp(b.sub(wide, safe)), axes=(x.rank,))), b.reshape(safe, shape=last.shape))
    order = list(range(x.rank - 1))
    order.insert(along, x.rank - 1)
    return b.transpose(total, perm=tuple(order))


@fold("ListDiff")
def _fold_difference(c: Ctx, x: np.ndarray, y: np.ndarray) -> Any:
    """Of numbers known at import (the axes that a tensordot keeps)."""
    if any(isinstance(e, Dim) for e in (*x.ravel(), *y.ravel())):
        return None
    there = {int(e) for e in y.ravel()}
    at = [i for i, e in enumerate(x.ravel()) if int(e) not in there]
    kept = np.array([x.ravel()[i] for i in at], object)
    return [(kept, c.type("T")), (np.array(at, object), c.type("out_idx", 3))]


@op("SparseReshape", raw=True)
def _sparse_reshape(c: Ctx, indices: Item, shape: Item, wanted: Item) -> Any:
    """Positions in a sparse tensor's new shape, by way of flat positions."""
    b, old, new = c.bld, c.extents(shape, "the shape"), c.extents(wanted, "the new shape")
    whole, open_ = product(old), [i for i, d in enumerate(new) if isinstance(d, int) and d == -1]
    if len(open_) > 1:
        raise c.refuse("two extents are left open", code="malformed")
    if open_:
        rest = product(d for i, d in enumerate(new) if i not in open_)
        if isinstance(rest, int) and rest == 0:
            raise c.refuse("an open extent beside one of 0", code="malformed")
        new[open_[0]] = whole // rest
    x = same_type(c, c.v(indices), I64)
    flat = b.full((x.shape[0], 1), 0, I64)
    for axis, extent in enumerate(old):
        column = b.slice(x, starts=(0, axis), stops=(x.shape[0], axis + 1))
        flat = b.add(b.mul(flat, _number(c, extent)), column)
    columns: list[Value] = []
    for extent in reversed(new):
        size = _number(c, extent)
        columns.insert(0, b.mod(flat, size))
        flat = b.floordiv(flat, size)
    out = b.concat(*columns, axis=1) if columns else b.full((x.shape[0], 0), 0, I64)
    content = np.empty(len(new), object)
    content[:] = new
    known = Tensor.known(content if any(isinstance(d, Dim) for d in new) else content.astype(np.int64), I64)
    return [out, known]


def _number(c: Ctx, extent: Any) -> Value:
    content = np.empty((), object)
    content[()] = extent
    return Tensor.known(content if isinstance(extent, Dim) else np.array(extent, np.int64), I64).value(c.bld)
