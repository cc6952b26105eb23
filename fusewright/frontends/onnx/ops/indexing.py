"""Gathers, scatters and what is built of them: OneHot, ReverseSequence.

Owns negative indices, which ONNX counts from the end of the axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Extent
from ....core.dtypes import BOOL, I64
from ....ir.graph import Value
from ..call import OPS, Call, op


def wrapped(c: Call, index: Value, n: Extent) -> Value:
    """Indices with negative ones counted from the end; known ones are checked too."""
    b = c.b
    if index.const is not None:
        array = index.const.array
        if array.dtype.kind == "i" and array.size and array.min() >= 0 and not isinstance(n, int):
            return index
        if isinstance(n, int):
            wide = array.astype(np.int64)
            if wide.size and (wide.min() < -n or wide.max() >= n):
                raise c.refuse(f"an index is outside an extent of {n}", "malformed")
            return b.constant(np.where(wide < 0, wide + n, wide))
    if not index.dtype.is_int:
        raise c.refuse(f"indices must be integers, not {index.type}", "malformed")
    wide_index = index if index.dtype is I64 else b.cast(index, to=I64)
    return b.where(b.lt(wide_index, 0), b.add(wide_index, b.dim(n)), wide_index)


@op("Gather")
def _gather(c: Call, x: Value, index: Value) -> Value:
    axis = c.axis(c.integer("axis", 0), x.rank)
    return c.b.gather(x, wrapped(c, index, x.shape[axis]), axis=axis)


def _grid(c: Call, index: Value, axis: int, n: Extent) -> Value:
    """Full coordinates [..., rank] of elements whose position along one axis is ``index``."""
    b = c.b
    columns = []
    for k in range(index.rank):
        line = wrapped(c, index, n) if k == axis else b.iota(shape=index.shape, axis=k, dtype=I64)
        columns.append(b.reshape(line, shape=(*index.shape, 1)))
    return columns[0] if len(columns) == 1 else b.concat(*columns, axis=index.rank)


@op("GatherElements")
def _gather_elements(c: Call, x: Value, index: Value) -> Value:
    axis = c.axis(c.integer("axis", 0), x.rank)
    if index.rank != x.rank:
        raise c.refuse(f"indices {index.type} for {x.type}", "malformed")
    return c.b.gather_nd(x, _grid(c, index, axis, x.shape[axis]))


def _wrapped_columns(c: Call, index: Value, extents: tuple[Extent, ...]) -> Value:
    """Rows of indices with negative entries counted from the end of their axis."""
    b = c.b
    sizes = b.dims(extents)
    if index.const is not None and sizes.const is not None:
        wide = index.const.array.astype(np.int64)
        n = sizes.const.array
        if wide.size and ((wide < -n) | (wide >= n)).any():
            raise c.refuse("an index is outside its axis", "malformed")
        return b.constant(np.where(wide < 0, wide + n, wide))
    wide_index = index if index.dtype is I64 else b.cast(index, to=I64)
    return b.where(b.lt(wide_index, 0), b.add(wide_index, sizes), wide_index)


@op("GatherND")
def _gather_nd(c: Call, x: Value, index: Value) -> Value:
    batch = c.integer("batch_dims", 0)
    depth = index.shape[-1] if index.rank else None
    if not isinstance(depth, int) or not 0 <= batch < index.rank or batch + depth > x.rank:
        raise c.refuse(f"indices {index.type} for {x.type}", "malformed")
    return c.b.gather_nd(x, _wrapped_columns(c, index, x.shape[batch : batch + depth]), batch_dims=batch)


_REDUCTION = {"none": "set", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def _reduction(c: Call) -> str:
    how = c.text("reduction", "none")
    if how not in _REDUCTION:
        raise c.refuse(f"reduction {how!r}", "malformed")
    return _REDUCTION[how]


@op("ScatterND")
def _scatter_nd(c: Call, x: Value, index: Value, updates: Value) -> Value:
    depth = index.shape[-1] if index.rank else None
    if not isinstance(depth, int) or depth > x.rank:
        raise c.refuse(f"indices {index.type} for {x.type}", "malformed")
    return c.b.scatter_nd(x, _wrapped_columns(c, index, x.shape[:depth]), updates, reduction=_reduction(c))


def _scatter(c: Call, x: Value, index: Value, updates: Value) -> Value:
    axis = c.axis(c.integer("axis", 0), x.rank)
    if index.rank != x.rank:
        raise c.refuse(f"indices {index.type} for {x.type}", "malformed")
    return c.b.scatter_nd(x, _grid(c, index, axis, x.shape[axis]), updates, reduction=_reduction(c))


OPS[("", "ScatterElements")] = _scatter
OPS[("", "Scatter")] = _scatter


@op("OneHot")
def _one_hot(c: Call, index: Value, depth: Value, values: Value) -> Value:
    b = c.b
    if depth.dtype.is_float:
        n: Any = int(c.scalar(depth, "depth"))
    else:
        (n,) = c.extents(depth, "depth")
    axis = c.axis(c.integer("axis", -1), index.rank + 1)
    shape = (*index.shape[:axis], 1, *index.shape[axis:])
    wide = index if index.dtype is I64 else b.cast(index, to=I64)
    wide = b.where(b.lt(wide, 0), b.add(wide, b.dim(n)), wide)
    line = b.iota(shape=(n,), axis=0, dtype=I64)
    line = b.reshape(line, shape=(n, *(1,) * (len(shape) - axis - 1)))
    hot = b.eq(b.reshape(wide, shape=shape), line)
    off = b.reshape(b.slice(values, starts=(0,), stops=(1,)), shape=())
    on = b.reshape(b.slice(values, starts=(1,), stops=(2,)), shape=())
    return b.where(hot, on, off)


@op("ReverseSequence")
def _reverse_sequence(c: Call, x: Value, lengths: Value) -> Value:
    b = c.b
    time, batch = c.integer("time_axis", 0), c.integer("batch_axis", 1)
    if x.rank < 2 or {time, batch} != {0, 1}:
        raise c.refuse(f"axes {time}, {batch} on {x.type}", "malformed")
    y = x if batch == 0 else b.transpose(x, perm=(1, 0, *range(2, x.rank)))
    y = reversed_rows(c, y, lengths)
    return y if batch == 0 else b.transpose(y, perm=(1, 0, *range(2, x.rank)))


def reversed_rows(c: Call, x: Value, lengths: Value) -> Value:
    """x [batch, time, ...] with the first ``lengths`` steps of each row in opposite order."""
    b = c.b
    n, t = x.shape[:2]
    at = b.iota(shape=(n, t), axis=1, dtype=I64)
    size = b.reshape(lengths if lengths.dtype is I64 else b.cast(lengths, to=I64), shape=(n, 1))
    index = b.where(b.lt(at, size), b.sub(b.sub(size, 1), at), at)
    return b.gather(x, index, axis=1, batch_dims=1)


@op("TensorScatter")
def _tensor_scatter(c: Call, past: Value, update: Value, start: Value | None = None) -> Value:
    b = c.b
    axis, mode = c.axis(c.integer("axis", -2), past.rank), c.text("mode", "linear")
    if mode not in ("linear", "circular") or axis == 0:
        raise c.refuse(f"mode {mode!r}, axis {axis}", "malformed")
    n, t = past.shape[axis], update.shape[axis]
    shape = update.shape
    at = b.iota(shape=shape, axis=axis, dtype=I64)
    if start is not None:
        first = start if start.dtype is I64 else b.cast(start, to=I64)
        at = b.add(at, b.reshape(first, shape=(shape[0], *(1,) * (past.rank - 1))))
    if mode == "circular":
        at = b.mod(at, b.dim(n))
    columns = [b.iota(shape=shape, axis=k, dtype=I64) if k != axis else at for k in range(past.rank)]
    grid = b.concat(*(b.reshape(v, shape=(*shape, 1)) for v in columns), axis=past.rank)
    _ = t
    return b.scatter_nd(past, grid, update)


@op("ArrayFeatureExtractor", domain="ai.onnx.ml")
def _features(c: Call, x: Value, index: Value) -> Value:
    y = c.b.reshape(x, shape=(1, *x.shape)) if x.rank == 1 else x
    flat = c.b.reshape(index, shape=(index.type.size,))
    return c.b.gather(y, wrapped(c, flat, y.shape[-1]), axis=y.rank - 1)


_ = BOOL
