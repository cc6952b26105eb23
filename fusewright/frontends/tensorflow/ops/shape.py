"""Shapes and views: Shape, Reshape, Pack, StridedSlice, Range, Fill... and what they do to shape arithmetic.

Owns the propagation of known integers through ops that only arrange them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.dims import Dim, Extent, ceildiv, compare_le, maximum, product
from ....core.dtypes import I64
from ....core.errors import TypeRefused
from ....ir.graph import Value
from ...slicing import dropped, pick, span
from ..lower import Ctx, fold, op, same_type, settle
from ..values import Complex, Item, Tensor
from . import positions


@op(
    "Identity", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "DeepCopy", "EnsureShape", "Copy",
    "PlaceholderWithDefault", "RefIdentity", raw=True,
)  # fmt: skip
def _identity(c: Ctx, x: Item, *rest: Item) -> Any:
    return x


@op("IdentityN", raw=True)
def _identity_n(c: Ctx, *xs: Item) -> Any:
    return list(xs)


def _dims(t: Tensor, c: Ctx, out_type: str = "out_type") -> Tensor | None:
    return settle(np.array(list(t.shape) + [None], object)[:-1], c.type(out_type, 3))


@op("Shape", raw=True)
def _shape(c: Ctx, x: Item) -> Any:
    if isinstance(x, Complex):
        x = x.re
    return _dims(c.tensor(x), c)


@op("ShapeN", raw=True)
def _shape_n(c: Ctx, *xs: Item) -> Any:
    return [_dims(c.tensor(x), c) for x in xs]


@op("Rank", raw=True)
def _rank(c: Ctx, x: Item) -> Any:
    return Tensor.known(np.array(c.tensor(x).rank, np.int32), c.type("_", 3))


@op("Size", raw=True)
def _size(c: Ctx, x: Item) -> Any:
    return settle(np.array(product(c.tensor(x).shape), object), c.type("out_type", 3))


def new_shape(c: Ctx, wanted: Sequence[Extent]) -> tuple[Extent, ...]:
    """A shape with -1 for an extent that follows from the others."""
    if any(isinstance(d, int) and d < -1 for d in wanted):
        raise c.refuse(f"{list(wanted)} is not a shape", code="malformed")
    return tuple(wanted)


@op("Reshape", raw=True)
def _reshape(c: Ctx, item: Item, shape: Item) -> Any:
    if isinstance(item, Tensor) and c.tensor(shape).content is None and positions.joined(c.v(shape)):
        if positions.known(c, shape, "the new shape") is None:
            return positions.reshaped(c, c.v(item), c.v(shape))
    wanted = c.extents(shape, "the new shape")
    if isinstance(item, Complex):
        return item.each(lambda p: c.bld.reshape(c.v(p), shape=new_shape(c, wanted)))
    x = c.tensor(item)
    want = new_shape(c, wanted)
    try:
        return c.bld.reshape(c.v(x), shape=want)
    except TypeRefused:
        if not c.lowerer.fresh.concerns(*x.shape):
            raise
        return positions.computed(c).reshaped(c.v(x), want)  # whether it fits turns out during the run


@fold("Reshape")
def _fold_reshape(c: Ctx, x: np.ndarray, shape: np.ndarray) -> Any:
    if any(not isinstance(e, int) for e in shape.ravel()):
        return None
    return x.reshape([int(e) for e in shape.ravel()]), c.type("T")


@op("ExpandDims", raw=True)
def _expand_dims(c: Ctx, item: Item, axis: Item) -> Any:
    if isinstance(item, Complex):
        return item.each(lambda p: _expand_dims(c, p, axis))
    x = c.tensor(item)
    at = c.axis(axis, x.rank + 1)
    return c.bld.reshape(c.v(x), shape=(*x.shape[:at], 1, *x.shape[at:]))


@fold("ExpandDims")
def _fold_expand(c: Ctx, x: np.ndarray, axis: np.ndarray) -> Any:
    return np.expand_dims(x, int(axis.ravel()[0])), c.type("T")


def _squeezed(c: Ctx, shape: Sequence[Extent]) -> list[int]:
    axes = c.list_ints("squeeze_dims") or c.list_ints("axis")
    rank = len(shape)
    if not axes:
        if any(isinstance(d, Dim) for d in shape):
            raise c.refuse("which axes go depends on a symbolic extent", "fix it with shapes=")
        return [i for i, d in enumerate(shape) if d == 1]
    if any(not -rank <= a < rank for a in axes):
        raise c.refuse(f"axes {axes} are not inside rank {rank}", code="malformed")
    return [a % rank for a in axes]


@op("Squeeze", raw=True)
def _squeeze(c: Ctx, item: Item) -> Any:
    if isinstance(item, Complex):
        return item.each(lambda p: _squeeze(c, p))
    x = c.tensor(item)
    return dropped(c.bld, c.v(x), _squeezed(c, x.shape))


@fold("Squeeze")
def _fold_squeeze(c: Ctx, x: np.ndarray) -> Any:
    return x.reshape([d for i, d in enumerate(x.shape) if i not in _squeezed(c, x.shape)]), c.type("T")


# -- joining and splitting ---------------------------------------------------------------------------------------------


@op("Pack")
def _pack(c: Ctx, *xs: Value) -> Any:
    axis = c.i("axis", 0)
    rank = xs[0].rank + 1
    if not -rank <= axis < rank:
        raise c.refuse(f"axis {axis} is not inside rank {rank}", code="malformed")
    axis %= rank
    rows = [c.bld.reshape(x, shape=(*x.shape[:axis], 1, *x.shape[axis:])) for x in xs]
    return c.bld.concat(*rows, axis=axis)


@fold("Pack")
def _fold_pack(c: Ctx, *xs: np.ndarray) -> Any:
    return np.stack(xs, c.i("axis", 0)), c.type("T")


@op("Unpack", raw=True)
def _unpack(c: Ctx, item: Item) -> Any:
    x = c.tensor(item)
    axis, rank = c.i("axis", 0), x.rank
    if not -rank <= axis < rank or x.shape[axis] != c.i("num"):
        raise c.refuse(f"axis {axis} of {list(x.shape)} does not hold {c.i('num')} elements", code="malformed")
    axis %= rank
    v = c.v(x)
    return [pick(c.bld, v, axis, i) for i in range(c.few(c.i("num"), "the number of results"))]


@fold("Unpack")
def _fold_unpack(c: Ctx, x: np.ndarray) -> Any:
    axis = c.i("axis", 0)
    return [(p, c.type("T")) for p in np.moveaxis(x, axis, 0)]


@op("ConcatV2", "Concat", raw=True)
def _concat(c: Ctx, *items: Item) -> Any:
    axis, xs = (items[-1], items[:-1]) if c.node.op == "ConcatV2" else (items[0], items[1:])
    values = [c.v(x) for x in xs]
    return c.bld.concat(*values, axis=c.axis(axis, values[0].rank))


@fold("ConcatV2", "Concat")
def _fold_concat(c: Ctx, *items: np.ndarray) -> Any:
    axis, xs = (items[-1], items[:-1]) if c.node.op == "ConcatV2" else (items[0], items[1:])
    return np.concatenate(xs, int(axis.ravel()[0])), c.type("T")


def cut(c: Ctx, x: Value, axis: int, sizes: Sequence[Extent]) -> list[Value]:
    """Consecutive pieces along an axis."""
    out, at = [], 0
    start: Extent = at
    for size in sizes:
        starts: list[Extent] = [0] * x.rank
        stops = list(x.shape)
        starts[axis], stops[axis] = start, start + size
        out.append(c.bld.slice(x, starts=tuple(starts), stops=tuple(stops)))
        start = start + size
    return out


@op("Split", raw=True)
def _split(c: Ctx, axis: Item, item: Item) -> Any:
    x, n = c.v(item), c.i("num_split")
    at = c.axis(axis, x.rank)
    size = x.shape[at]
    if n < 1 or size % n != 0:
        raise c.refuse(f"an extent of {size} does not split into {n}")
    return cut(c, x, at, [size // n] * c.few(n, "the number of results"))


@fold("Split")
def _fold_split(c: Ctx, axis: np.ndarray, x: np.ndarray) -> Any:
    return [(p, c.type("T")) for p in np.split(x, c.i("num_split"), int(axis.ravel()[0]))]


@op("SplitV", raw=True)
def _split_v(c: Ctx, item: Item, sizes: Item, axis: Item) -> Any:
    x = c.v(item)
    at, parts = c.axis(axis, x.rank), c.extents(sizes, "the sizes")
    if any(isinstance(p, int) and p == -1 for p in parts):
        rest: Extent = x.shape[at]
        for p in parts:
            rest = rest - (0 if p == -1 else p)
        parts = [rest if p == -1 else p for p in parts]
    c.few(len(parts), "the number of results")
    return cut(c, x, at, parts)


# -- making ------------------------------------------------------------------------------------------------------------


@op("Fill", raw=True)
def _fill(c: Ctx, dims: Item, value: Item) -> Any:
    shape, t = positions.sizes(c, dims, "the shape"), c.tensor(value)
    if t.is_constant and not any(isinstance(d, Dim) for d in shape):
        return Tensor.known(np.broadcast_to(t.content.reshape(()), [int(d) for d in shape]), t.dtype)  # type: ignore[union-attr, arg-type]
    return c.bld.broadcast_to(c.v(t), shape=tuple(shape)) if shape else c.v(t)


@op("Range", raw=True)
def _range(c: Ctx, start: Item, limit: Item, delta: Item) -> Any:
    kind = c.tensor(start).dtype
    if not all(positions.is_known(c, i, "the range") for i in (start, limit, delta)):
        return positions.computed(c).counting(c.v(start), c.v(limit), c.v(delta), kind)
    if kind.is_int:
        (a,), (z,), (d,) = (c.extents(i, "the range") for i in (start, limit, delta))
        if not isinstance(d, int) or d == 0:
            raise c.refuse("the step must be a fixed number other than 0")
        length = maximum(ceildiv(z - a, d) if d > 0 else ceildiv(a - z, -d), 0)
        line = c.bld.iota(shape=(length,), axis=0, dtype=I64)
        if isinstance(a, Dim):
            first = Tensor.known(np.array(a, object), I64).value(c.bld)
        else:
            first = c.const(a, I64)
        line = c.bld.mul(line, c.const(d, I64)) if d != 1 else line
        line = c.bld.add(line, first) if a != 0 else line
        return same_type(c, line, kind)
    a_, z_, d_ = (float(c.array(i, "the range").reshape(())) for i in (start, limit, delta))
    if d_ == 0 or not all(np.isfinite([a_, z_, d_])):
        raise c.refuse("the step must be a finite number other than 0")
    count = max(int(np.ceil(np.abs((z_ - a_) / d_))) if (z_ - a_) * d_ > 0 else 0, 0)
    c.limits.check_shape((count,), kind.size, 0, c.where)
    # Each element is the one before plus the step, in the type, as TensorFlow's kernel adds.
    steps = np.full(count, d_, kind.compute)
    if count:
        steps[0] = a_
    return Tensor.known(np.cumsum(steps, dtype=kind.compute), kind)


@fold("Range")
def _fold_range(c: Ctx, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> Any:
    flat = [x.ravel()[0] for x in (start, limit, delta)]
    if any(not isinstance(e, int) for e in flat) or flat[2] == 0 or len(range(*flat)) > 256:
        return None
    return np.array([*range(*flat), None], object)[:-1], c.type("Tidx", 3)


@fold("Fill")
def _fold_fill(c: Ctx, dims: np.ndarray, value: np.ndarray) -> Any:
    if any(not isinstance(e, int) for e in dims.ravel()) or product(int(e) for e in dims.ravel()) > 256:  # type: ignore[operator]
        return None
    out = np.empty([int(e) for e in dims.ravel()], object)
    out[...] = value.ravel()[0]
    return out, c.type("T")


@op("LinSpace", raw=True)
def _lin_space(c: Ctx, start: Item, stop: Item, num: Item) -> Any:
    n = c.number_of(num, "num")
    a, z = c.v(start), c.v(stop)
    c.limits.check_shape((n,), 8, 0, c.where)
    if n < 1:
        raise c.refuse("num must be at least 1", code="malformed")
    b = c.bld
    if n == 1:
        return b.reshape(a, shape=(1,))
    step = b.div(b.sub(z, a), c.const(n - 1, a))
    line = b.add(a, b.mul(step, b.iota(shape=(n - 1,), axis=0, dtype=a.dtype)))
    return b.concat(line, b.reshape(z, shape=(1,)), axis=0)


# -- slicing -----------------------------------------------------------------------------------------------------------


_ENTRIES = 64  # of a slice: its masks are 64 bits wide


def _sparse(c: Ctx, begin: Item) -> tuple[int, dict[str, int]]:
    masks = {m: c.i(m, 0) for m in ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")}
    shape = c.tensor(begin).shape
    if len(shape) != 1 or not isinstance(shape[0], int):
        raise c.refuse("the slice must have a fixed number of entries", code="malformed")
    if shape[0] > _ENTRIES:
        raise c.refuse(f"the slice has {shape[0]} entries", code="malformed")
    return shape[0], masks


@op("StridedSlice", raw=True)
def _strided_slice(c: Ctx, item: Item, begin: Item, end: Item, strides: Item) -> Any:
    if isinstance(item, Complex):
        return item.each(lambda p: _strided_slice(c, p, begin, end, strides))
    x = c.tensor(item)
    count, masks = _sparse(c, begin)
    steps = c.ints(strides, "the steps")
    plan, out_axes = _plan(c, count, masks, x.rank)
    known_begin = c.tensor(begin).content is not None or positions.known(c, begin, "where the slice begins") is not None
    v = c.v(x)
    starts: list[Extent] = [0] * x.rank
    stops: list[Extent] = list(x.shape)
    jumps = [1] * x.rank
    backward, picked = [], []
    firsts = c.extents(begin, "where the slice begins") if known_begin else None
    lasts: list[Extent] | None = None
    for entry, axis in plan:
        bit, size, step = 1 << entry, x.shape[axis], steps[entry]
        if step == 0:
            raise c.refuse("a step is 0", code="malformed")
        if masks["shrink_axis_mask"] & bit:
            if firsts is None:
                picked.append((axis, entry))
                continue
            at = firsts[entry]
            if compare_le(at, -1) is True:
                at = at + size
            starts[axis], stops[axis] = at, at + 1
            continue
        from_start, to_end = masks["begin_mask"] & bit, masks["end_mask"] & bit
        if not to_end and lasts is None:
            lasts = positions.known(c, end, "where the slice ends")
        if not from_start and firsts is None or not to_end and lasts is None:
            at_, p, q = positions.computed(c), None, None
            if not from_start:
                p = firsts[entry] if firsts is not None else at_.element(c.v(begin), entry)
            if not to_end:
                q = lasts[entry] if lasts is not None else at_.element(c.v(end), entry)
            starts[axis], stops[axis] = at_.span(p, q, step, size)
            jumps[axis] = abs(step)
            backward += [axis] * (step < 0)
            continue
        first = None if from_start or firsts is None else firsts[entry]
        last = None if to_end or lasts is None else lasts[entry]
        if step < 0:
            backward.append(axis)
        starts[axis], stops[axis] = span(first, last, step, size)
        jumps[axis] = abs(step)
    if backward:
        v = c.bld.reverse(v, axes=tuple(backward))
    plain = all(a == 0 and z == n and s == 1 for a, z, n, s in zip(starts, stops, x.shape, jumps, strict=True))
    if not plain:
        v = c.bld.slice(v, starts=tuple(starts), stops=tuple(stops), steps=tuple(jumps))
    for axis, entry in picked:
        v = _pick_at(c, v, axis, c.v(begin), entry)
    shape = tuple(1 if axis is None else v.shape[axis] for axis in out_axes)
    return v if shape == v.shape else c.bld.reshape(v, shape=shape)


def _pick_at(c: Ctx, v: Value, axis: int, begin: Value, entry: int) -> Value:
    at = c.bld.slice(begin, starts=(entry,), stops=(entry + 1,))
    size = (
        Tensor.known(np.array(v.shape[axis], object), at.dtype).value(c.bld)
        if isinstance(v.shape[axis], Dim)
        else c.const(v.shape[axis], at)
    )
    at = c.bld.where(c.bld.lt(at, c.const(0, at)), c.bld.add(at, size), at)
    out: Value = c.bld.gather(v, at, axis=axis)
    return out


def _plan(c: Ctx, count: int, masks: dict[str, int], rank: int) -> tuple[list[tuple[int, int]], list[int | None]]:
    """((entry, axis) pairs, the axis of every result axis or None for a new one)."""
    ellipses = [i for i in range(count) if masks["ellipsis_mask"] >> i & 1]
    if len(ellipses) > 1:
        raise c.refuse("two ellipses", code="malformed")
    used = sum(1 for i in range(count) if i not in ellipses and not masks["new_axis_mask"] >> i & 1)
    if used > rank:
        raise c.refuse(f"{used} entries for rank {rank}", code="malformed")
    plan: list[tuple[int, int]] = []
    out: list[int | None] = []
    axis = 0
    for i in range(count):
        if i in ellipses:
            out.extend(range(axis, axis + rank - used))
            axis += rank - used
        elif masks["new_axis_mask"] >> i & 1:
            out.append(None)
        else:
            plan.append((i, axis))
            if not masks["shrink_axis_mask"] >> i & 1:
                out.append(axis)
            axis += 1
    out.extend(range(axis, rank))
    return plan, out


@fold("StridedSlice")
def _fold_strided_slice(c: Ctx, x: np.ndarray, begin: np.ndarray, end: np.ndarray, strides: np.ndarray) -> Any:
    if any(not isinstance(e, int) for a in (begin, end, strides) for e in a.ravel()):
        return None
    masks = {m: c.i(m, 0) for m in ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")}
    index: list[Any] = []
    for i in range(begin.size):
        bit = 1 << i
        if masks["ellipsis_mask"] & bit:
            index.append(Ellipsis)
        elif masks["new_axis_mask"] & bit:
            index.append(None)
        elif masks["shrink_axis_mask"] & bit:
            index.append(int(begin[i]))
        else:
            index.append(
                slice(
                    None if masks["begin_mask"] & bit else begin[i],
                    None if masks["end_mask"] & bit else end[i],
                    strides[i],
                )
            )
    out = x[tuple(index)]
    return np.array([out, None], object)[:1].reshape(()) if not isinstance(out, np.ndarray) else out, c.type("T")


@op("Slice", raw=True)
def _slice(c: Ctx, item: Item, begin: Item, size: Item) -> Any:
    x = c.v(item)
    sizes = positions.known(c, size, "the sizes")
    if sizes is None:
        return positions.computed(c).sliced(x, c.v(begin), c.v(size))
    if len(sizes) != x.rank:
        raise c.refuse(f"{len(sizes)} sizes for rank {x.rank}", code="malformed")
    if c.tensor(begin).content is None and positions.known(c, begin, "where the slice begins") is None:
        if any(isinstance(s, int) and s < 0 for s in sizes):
            return positions.computed(c).sliced(x, c.v(begin), c.v(size))
        first = c.v(begin)
        starts = [c.bld.reshape(c.bld.slice(first, starts=(i,), stops=(i + 1,)), shape=()) for i in range(x.rank)]
        return c.bld.dynamic_slice(x, *starts, sizes=tuple(sizes))
    begins = c.extents(begin, "where the slice begins")
    stops = [n if s == -1 else a + s for a, s, n in zip(begins, sizes, x.shape, strict=True)]
    return c.bld.slice(x, starts=tuple(begins), stops=tuple(stops))


@fold("Slice")
def _fold_slice(c: Ctx, x: np.ndarray, begin: np.ndarray, size: np.ndarray) -> Any:
    if any(not isinstance(e, int) for a in (begin, size) for e in a.ravel()):
        return None
    index = tuple(slice(a, None if s == -1 else a + s) for a, s in zip(begin.ravel(), size.ravel(), strict=True))
    return x[index], c.type("T")


@op("BroadcastTo", raw=True)
def _broadcast_to(c: Ctx, item: Item, shape: Item) -> Any:
    parts = positions.elements(c, shape, "the shape")
    if any(isinstance(p, Value) for p in parts):
        return positions.computed(c).spread(c.v(item), parts, one_keeps=False)
    return c.bld.broadcast_to(c.v(item), shape=tuple(parts))


@fold("BroadcastArgs")
def _broadcast_args(c: Ctx, x: np.ndarray, y: np.ndarray) -> Any:
    a, b = list(x.ravel()), list(y.ravel())
    rank = max(len(a), len(b))
    a, b = [1] * (rank - len(a)) + a, [1] * (rank - len(b)) + b
    out: list[Any] = []
    for p, q in zip(a, b, strict=True):
        if p == 1 or q == 1 or p == q:
            out.append(q if p == 1 else p)
        else:
            return None
    return np.array([*out, None], object)[:-1], c.type("T")


@op("BroadcastArgs", raw=True)
def _broadcast_args_unknown(c: Ctx, x: Item, y: Item) -> Any:
    raise c.refuse("the shapes are not known")
