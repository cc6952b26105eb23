"""Segment reductions and counting.

Owns reductions by segment number. The number of segments must be known: it is an extent of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.dims import Extent
from ....core.dtypes import I64
from ....core.errors import ImportRefused
from ....ir.graph import Value
from ..lower import Ctx, op, same_type
from ..values import Item
from .dependent import partition

_START = {"Sum": 0, "Mean": 0, "SqrtN": 0, "Prod": 1}


def _identity(kind: str, value: Value) -> Any:
    """What a segment holds before anything is added. Of max and min: the type's least and greatest finite number."""
    if kind in _START:
        return _START[kind]
    if value.dtype.is_float:
        most = np.finfo(value.dtype.compute).max
        return -most if kind == "Max" else most
    info = np.iinfo(value.dtype.np)
    return info.min if kind == "Max" else info.max


def _rows(c: Ctx, ids: Value) -> Value:
    out: Value = c.bld.reshape(ids, shape=(*ids.shape, 1))
    return out


def _combine(c: Ctx, kind: str, data: Value, ids: Value, count: Extent, start: Any) -> Value:
    base = c.bld.full((count, *data.shape[ids.rank :]), start, data.dtype)
    how = {"Sum": "add", "Mean": "add", "SqrtN": "add", "Prod": "mul", "Max": "max", "Min": "min"}[kind]
    out: Value = c.bld.scatter_nd(base, _rows(c, ids), data, reduction=how)
    return out


def _counts(c: Ctx, ids: Value, count: Extent, like: Value) -> Value:
    ones = c.bld.full(ids.shape, 1, like.dtype)
    return _combine(c, "Sum", ones, ids, count, 0)


def _beside(c: Ctx, vector: Value, rank: int) -> Value:
    out: Value = c.bld.reshape(vector, shape=(*vector.shape, *(1,) * (rank - 1)))
    return out


def _segments(c: Ctx, kind: str, data: Value, ids: Value, count: Extent) -> Value:
    b = c.bld
    total = _combine(c, kind, data, ids, count, _identity(kind, data))
    if kind in ("Sum", "Prod"):
        return total
    number = _beside(c, _counts(c, ids, count, data), total.rank)
    if kind in ("Max", "Min"):
        # Of sorted segments an empty one is 0.
        out: Value = b.where(b.gt(number, c.const(0, number)), total, c.const(0, total))
        return out
    least = b.maximum(number, c.const(1, number))
    if kind == "Mean":
        out = b.div(total, least) if total.dtype.is_float else b.truncdiv(total, least)
    else:
        out = b.div(total, b.sqrt(least))
    return out


@op("UnsortedSegmentSum", "UnsortedSegmentMax", "UnsortedSegmentMin", "UnsortedSegmentProd", raw=True)
def _unsorted(c: Ctx, data: Item, ids: Item, number: Item) -> Any:
    (count,) = c.extents(number, "the number of segments")
    kind, v = c.node.op.removeprefix("UnsortedSegment"), c.v(data)
    return _combine(c, kind, v, c.v(ids), count, _identity(kind, v))


def _last(c: Ctx, ids: Item) -> int:
    """The number of segments of sorted ids, which must be known."""
    found = c.ints(ids, "the segment numbers")
    if any(b < a for a, b in zip(found, found[1:], strict=False)) or any(i < 0 for i in found):
        raise c.refuse("the segment numbers are not sorted", code="malformed")
    return found[-1] + 1 if found else 0


@op("SegmentSum", "SegmentMean", "SegmentMax", "SegmentMin", "SegmentProd", raw=True)
def _sorted(c: Ctx, data: Item, ids: Item) -> Any:
    count = _last(c, ids)
    return _segments(c, c.node.op.removeprefix("Segment"), c.v(data), c.v(ids), count)


@op("SparseSegmentSum", "SparseSegmentMean", "SparseSegmentSqrtN", raw=True)
def _sparse(c: Ctx, data: Item, indices: Item, ids: Item) -> Any:
    picked = c.bld.gather(c.v(data), c.v(indices), axis=0)
    return _segments(c, c.node.op.removeprefix("SparseSegment"), picked, c.v(ids), _last(c, ids))


@op(
    "SparseSegmentSumWithNumSegments", "SparseSegmentMeanWithNumSegments", "SparseSegmentSqrtNWithNumSegments", raw=True
)
def _sparse_counted(c: Ctx, data: Item, indices: Item, ids: Item, number: Item) -> Any:
    picked = c.bld.gather(c.v(data), c.v(indices), axis=0)
    (count,) = c.extents(number, "the number of segments")
    kind = c.node.op.removeprefix("SparseSegment").removesuffix("WithNumSegments")
    return _segments(c, kind, picked, c.v(ids), count)


@op("Bincount", raw=True)
def _bincount(c: Ctx, item: Item, size: Item, weights: Item) -> Any:
    (count,) = c.extents(size, "the size")
    ids = c.v(item)
    w = c.v(weights)
    ids = c.bld.reshape(ids, shape=(_product(ids.shape),))
    values = c.bld.full(ids.shape, 1, w.dtype) if w.shape == (0,) else c.bld.reshape(w, shape=ids.shape)
    return _combine(c, "Sum", values, ids, count, 0)


@op("DenseBincount", raw=True)
def _dense_bincount(c: Ctx, item: Item, size: Item, weights: Item) -> Any:
    (count,) = c.extents(size, "the size")
    ids, w, b = c.v(item), c.v(weights), c.bld
    line = b.reshape(b.iota(shape=(count,), axis=0, dtype=I64), shape=(count,))
    hot = b.eq(b.reshape(same_type(c, ids, I64), shape=(*ids.shape, 1)), line)
    if c.b("binary_output", False):
        return b.cast(b.reduce_any(hot, axes=(ids.rank - 1,)), to=w.dtype)
    if w.shape == (0,):
        values = b.cast(hot, to=w.dtype)
    else:
        values = b.where(hot, b.reshape(w, shape=(*w.shape, 1)), c.const(0, w))
    return b.reduce_sum(values, axes=(ids.rank - 1,))


def _product(shape: Sequence[Extent]) -> Extent:
    total: Extent = 1
    for d in shape:
        total = total * d
    return total


@op("DynamicStitch", "ParallelDynamicStitch", raw=True)
def _stitch(c: Ctx, *items: Item) -> Any:
    n = len(items) // 2
    places = [c.ints(i, "the indices") for i in items[:n]]
    flat: list[Value] = []
    for index, data in zip(items[:n], items[n:], strict=True):
        v, rank = c.v(data), c.tensor(index).rank
        flat.append(c.bld.reshape(v, shape=(_product(v.shape[:rank]), *v.shape[rank:])))
    order = [p for place in places for p in place]
    count = max(order) + 1 if order else 0
    # The last one wins.
    source = np.zeros(count, np.int64)
    filled = np.zeros(count, bool)
    for at, place in enumerate(order):
        source[place], filled[place] = at, True
    if not filled.all():
        raise c.refuse("the indices leave rows out")
    return c.bld.gather(c.bld.concat(*flat, axis=0), c.bld.constant(source), axis=0)


@op("DynamicPartition", raw=True)
def _partition(c: Ctx, data: Item, parts: Item) -> Any:
    v, t = c.v(data), c.tensor(parts)
    try:
        which = np.array(c.ints(t, "the partitions"))
    except ImportRefused:
        return partition(c, v, t.value(c.bld), c.few(c.i("num_partitions"), "the number of results"))
    v = c.bld.reshape(v, shape=(_product(v.shape[: t.rank]), *v.shape[t.rank :]))
    rows = [
        np.flatnonzero(which == k).astype(np.int64)
        for k in range(c.few(c.i("num_partitions"), "the number of results"))
    ]
    return [c.bld.gather(v, c.bld.constant(r), axis=0) for r in rows]
