"""Moving elements: Transpose, Pad, Tile, Gather, Scatter, Reverse, Roll, OneHot, space and depth.

Owns TensorFlow's argument forms of these. Indices are as TensorFlow takes them; what it refuses at run time is clamped
or dropped as the IR's ops state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.dims import Extent, product
from ....core.dtypes import I64
from ....ir.graph import Value
from ..lower import Ctx, fold, op, same_type
from ..values import Complex, Item, Resource, Tensor
from . import positions
from .state import contents


@op("Transpose", raw=True)
def _transpose(c: Ctx, item: Item, perm: Item) -> Any:
    order = tuple(c.ints(perm, "the permutation"))
    if isinstance(item, Complex):
        return item.each(lambda p: c.bld.transpose(c.v(p), perm=order))
    return c.bld.transpose(c.v(item), perm=order)


@op("InvertPermutation", raw=True)
def _invert(c: Ctx, item: Item) -> Any:
    x = c.tensor(item)
    if x.content is not None:
        return Tensor.known(np.argsort(c.array(x, "the permutation"), kind="stable").astype(x.dtype.np), x.dtype)
    v = c.v(x)
    line = c.bld.iota(shape=v.shape, axis=0, dtype=v.dtype)
    rows = c.bld.reshape(v, shape=(*v.shape, 1))
    return c.bld.scatter_nd(c.bld.full(v.shape, 0, v.dtype), rows, line)


def _pairs(c: Ctx, item: Item, rank: int) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
    widths = c.extents(item, "the padding")
    if len(widths) != 2 * rank:
        raise c.refuse(f"{len(widths)} widths for rank {rank}", code="malformed")
    return tuple(widths[::2]), tuple(widths[1::2])


@op("Pad", "PadV2", raw=True)
def _pad(c: Ctx, item: Item, paddings: Item, value: Item | None = None) -> Any:
    x = c.v(item)
    low, high = _pairs(c, paddings, x.rank)
    rest = [] if value is None else [c.v(value)]
    return c.bld.pad(x, *rest, low=low, high=high)


@op("MirrorPad", raw=True)
def _mirror_pad(c: Ctx, item: Item, paddings: Item) -> Any:
    x = c.v(item)
    low, high = _pairs(c, paddings, x.rank)
    return c.bld.pad(x, low=low, high=high, mode="reflect" if c.s("mode") == "REFLECT" else "symmetric")


@op("Tile", raw=True)
def _tile(c: Ctx, item: Item, multiples: Item) -> Any:
    x = c.v(item)
    times = positions.sizes(c, multiples, "the multiples")
    if len(times) != x.rank:
        raise c.refuse(f"{len(times)} multiples for rank {x.rank}", code="malformed")
    if all(t == 1 for t in times):
        return x
    apart = c.bld.reshape(x, shape=tuple(d for n in x.shape for d in (1, n)))
    spread = c.bld.broadcast_to(apart, shape=tuple(d for n, t in zip(x.shape, times, strict=True) for d in (t, n)))
    return c.bld.reshape(spread, shape=tuple(n * t for n, t in zip(x.shape, times, strict=True)))


@fold("Tile")
def _fold_tile(c: Ctx, x: np.ndarray, times: np.ndarray) -> Any:
    if any(not isinstance(e, int) for e in times.ravel()) or x.size * int(product(list(times.ravel()))) > 256:  # type: ignore[arg-type]
        return None
    return np.tile(x, [int(e) for e in times.ravel()]), c.type("T")


@op("ReverseV2", raw=True)
def _reverse(c: Ctx, item: Item, axes: Item) -> Any:
    x = c.v(item)
    along = tuple(a % x.rank for a in c.ints(axes, "the axes")) if x.rank else ()
    return c.bld.reverse(x, axes=along) if along else x


@op("Reverse", raw=True)
def _reverse_mask(c: Ctx, item: Item, mask: Item) -> Any:
    x = c.v(item)
    along = tuple(i for i, m in enumerate(c.array(mask, "the axes").ravel()) if m)
    return c.bld.reverse(x, axes=along) if along else x


@op("ReverseSequence")
def _reverse_sequence(c: Ctx, x: Value, lengths: Value) -> Any:
    seq, batch = c.i("seq_dim"), c.i("batch_dim", 0)
    b = c.bld
    order = (batch, seq, *(a for a in range(x.rank) if a not in (batch, seq)))
    moved = b.transpose(x, perm=order)
    n, t = moved.shape[:2]
    step = b.iota(shape=(n, t), axis=1, dtype=I64)
    size = b.reshape(same_type(c, lengths, I64), shape=(n, 1))
    source = b.where(b.lt(step, size), b.sub(b.sub(size, c.const(1, size)), step), step)
    back = b.gather(moved, source, axis=1, batch_dims=1)
    return b.transpose(back, perm=tuple(order.index(a) for a in range(x.rank)))


@op("Roll", raw=True)
def _roll(c: Ctx, item: Item, shift: Item, axis: Item) -> Any:
    x = c.v(item)
    for by, at in zip(c.ints(shift, "the shift"), c.ints(axis, "the axes"), strict=True):
        at %= x.rank
        size = x.shape[at]
        by = by % size  # type: ignore[assignment]
        if by == 0:
            continue
        x = c.bld.concat(_part(c, x, at, size - by, size), _part(c, x, at, 0, size - by), axis=at)
    return x


def _part(c: Ctx, x: Value, axis: int, start: Extent, stop: Extent) -> Value:
    starts: list[Extent] = [0] * x.rank
    stops = list(x.shape)
    starts[axis], stops[axis] = start, stop
    out: Value = c.bld.slice(x, starts=tuple(starts), stops=tuple(stops))
    return out


# -- gather and scatter ------------------------------------------------------------------------------------------------


@op("Gather", "GatherV2", "ResourceGather", raw=True)
def _gather(c: Ctx, item: Item, indices: Item, axis: Item | None = None) -> Any:
    if isinstance(item, Resource):
        item = contents(c, item.key)
    x, i = c.v(item), c.v(indices)
    batch = c.i("batch_dims", 0)
    at = c.axis(axis, x.rank) if axis is not None else batch
    if batch < 0:
        batch += i.rank
    return c.bld.gather(x, i, axis=at, batch_dims=batch)


@fold("GatherV2", "Gather")
def _fold_gather(c: Ctx, x: np.ndarray, indices: np.ndarray, axis: np.ndarray | None = None) -> Any:
    if any(not isinstance(e, int) for e in indices.ravel()) or c.i("batch_dims", 0):
        return None
    at = 0 if axis is None else int(axis.ravel()[0])
    places = indices.astype(np.int64)
    if places.size and not (places.min() >= 0 and places.max() < x.shape[at]):
        return None
    box = np.empty(np.shape(np.take(np.zeros(x.shape), places, at)), object)
    box[...] = np.take(x, places, at)
    return box, c.type("Tparams")


@op("GatherNd")
def _gather_nd(c: Ctx, x: Value, indices: Value) -> Any:
    return c.bld.gather_nd(x, indices)


@op("ScatterNd", raw=True)
def _scatter_nd(c: Ctx, indices: Item, updates: Item, shape: Item) -> Any:
    i, u = c.v(indices), c.v(updates)
    empty = c.bld.full(tuple(c.extents(shape, "the shape")), 0, u.dtype)
    return c.bld.scatter_nd(empty, i, u, reduction="add")


@op("TensorScatterUpdate", "TensorScatterAdd", "TensorScatterSub", "TensorScatterMax", "TensorScatterMin")
def _tensor_scatter(c: Ctx, x: Value, indices: Value, updates: Value) -> Any:
    kind = c.node.op.removeprefix("TensorScatter")
    if kind == "Sub":
        updates, kind = c.bld.neg(updates), "Add"
    reduction = {"Update": "set", "Add": "add", "Max": "max", "Min": "min"}[kind]
    return c.bld.scatter_nd(x, indices, updates, reduction=reduction)


@op("SparseToDense", raw=True)
def _sparse_to_dense(c: Ctx, indices: Item, shape: Item, values: Item, default: Item) -> Any:
    i, v = c.v(indices), c.v(values)
    out = tuple(c.extents(shape, "the shape"))
    base = c.bld.broadcast_to(c.v(default), shape=out)
    if i.rank == 0:
        i = c.bld.reshape(i, shape=(1, 1))
    elif i.rank == 1:
        i = c.bld.reshape(i, shape=(*i.shape, 1))
    updates = c.bld.broadcast_to(v, shape=(i.shape[0],)) if v.rank == 0 else v
    return c.bld.scatter_nd(base, i, updates)


@op("OneHot", raw=True)
def _one_hot(c: Ctx, indices: Item, depth: Item, on: Item, off: Item) -> Any:
    i = c.v(indices)
    (n,) = c.extents(depth, "the depth")
    axis = c.i("axis", -1)
    axis = i.rank if axis == -1 else axis
    line = c.bld.iota(shape=(*(1,) * axis, n, *(1,) * (i.rank - axis)), axis=axis, dtype=I64)
    wide = c.bld.reshape(same_type(c, i, I64), shape=(*i.shape[:axis], 1, *i.shape[axis:]))
    return c.bld.where(c.bld.eq(wide, line), c.v(on), c.v(off))


# -- space, depth and batch --------------------------------------------------------------------------------------------


@op("SpaceToDepth", "DepthToSpace")
def _space_depth(c: Ctx, x: Value) -> Any:
    size, form = c.i("block_size"), c.s("data_format", "NHWC")
    b = c.bld
    if form not in ("NHWC", "NCHW"):
        raise c.refuse(f"data format {form} is not supported")
    v = b.transpose(x, perm=(0, 2, 3, 1)) if form == "NCHW" else x
    n, h, w, d = v.shape
    if c.node.op == "SpaceToDepth":
        v = b.reshape(v, shape=(n, h // size, size, w // size, size, d))
        v = b.reshape(b.transpose(v, perm=(0, 1, 3, 2, 4, 5)), shape=(n, h // size, w // size, size * size * d))
    else:
        v = b.reshape(v, shape=(n, h, w, size, size, d // (size * size)))
        v = b.reshape(b.transpose(v, perm=(0, 1, 3, 2, 4, 5)), shape=(n, h * size, w * size, d // (size * size)))
    return b.transpose(v, perm=(0, 3, 1, 2)) if form == "NCHW" else v


def _blocks(c: Ctx, sizes: Item, edges: Item) -> tuple[list[int], list[Extent], list[Extent]]:
    block, pairs = c.ints(sizes, "the block's shape"), c.extents(edges, "the edges")
    if any(s < 1 for s in block) or len(pairs) != 2 * len(block):
        raise c.refuse(f"the edges {pairs} do not fit the block {block}", code="malformed")
    return block, pairs[::2], pairs[1::2]


@op("SpaceToBatchND", raw=True)
def _space_to_batch(c: Ctx, item: Item, sizes: Item, paddings: Item) -> Any:
    block, low, high = _blocks(c, sizes, paddings)
    return _to_batch(c, c.v(item), block, low, high)


def _to_batch(c: Ctx, x: Value, block: Sequence[int], low: Sequence[Extent], high: Sequence[Extent]) -> Any:
    b, m = c.bld, len(block)
    rest = x.rank - 1 - m
    if any(w != 0 for w in (*low, *high)):
        x = b.pad(x, low=(0, *low, *(0,) * rest), high=(0, *high, *(0,) * rest))
    inner = [d for n, s in zip(x.shape[1 : 1 + m], block, strict=True) for d in (n // s, s)]
    apart = b.reshape(x, shape=(x.shape[0], *inner, *x.shape[1 + m :]))
    perm = (*(2 + 2 * i for i in range(m)), 0, *(1 + 2 * i for i in range(m)), *range(1 + 2 * m, 1 + 2 * m + rest))
    spatial = [n // s for n, s in zip(x.shape[1 : 1 + m], block, strict=True)]
    shape = (x.shape[0] * product(block), *spatial, *x.shape[1 + m :])
    return b.reshape(b.transpose(apart, perm=perm), shape=shape)


@op("BatchToSpaceND", raw=True)
def _batch_to_space(c: Ctx, item: Item, sizes: Item, crops: Item) -> Any:
    block, low, high = _blocks(c, sizes, crops)
    return _from_batch(c, c.v(item), block, low, high)


def _from_batch(c: Ctx, x: Value, block: Sequence[int], low: Sequence[Extent], high: Sequence[Extent]) -> Any:
    b, m = c.bld, len(block)
    batch = x.shape[0] // product(block)
    apart = b.reshape(x, shape=(*block, batch, *x.shape[1:]))
    rest = x.rank - 1 - m
    perm = (m, *(a for i in range(m) for a in (m + 1 + i, i)), *range(2 * m + 1, 2 * m + 1 + rest))
    spatial = [n * s for n, s in zip(x.shape[1 : 1 + m], block, strict=True)]
    y = b.reshape(b.transpose(apart, perm=perm), shape=(batch, *spatial, *x.shape[1 + m :]))
    if all(w == 0 for w in (*low, *high)):
        return y
    stops = [n - hi for n, hi in zip(spatial, high, strict=True)]
    return b.slice(y, starts=(0, *low, *(0,) * rest), stops=(batch, *stops, *x.shape[1 + m :]))


@op("SpaceToBatch", "BatchToSpace", raw=True)
def _old_batch(c: Ctx, item: Item, edges: Item) -> Any:
    size = c.i("block_size")
    pairs = c.extents(edges, "the edges")
    change = _to_batch if c.node.op == "SpaceToBatch" else _from_batch
    return change(c, c.v(item), [size, size], pairs[::2], pairs[1::2])
