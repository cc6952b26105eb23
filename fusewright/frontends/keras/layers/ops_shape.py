"""``keras.ops`` nodes that move data: shapes, joining, indexing, diagonals, grids.

Owns their index arithmetic. Must not know layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ....core.dims import Extent, compare_eq, product
from ....core.dtypes import BOOL, F32, I32, dtype
from ....ir.graph import Value
from ...slicing import dropped, span
from ..call import Call, operation, static
from .ops import axes_option, float_pair, numeric, option, pair, promote, value, widened
from .reshape import repeat as repeat_axis
from .reshape import resolve

# -- shape -----------------------------------------------------------------------------------------------------------


@operation("Reshape")
def _reshape(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    target = option(c, k, "newshape")
    target = list(target if isinstance(target, (list, tuple)) else [target])
    if any(type(t) is not int for t in target):
        raise c.refuse(f"newshape={target!r} is not a fixed shape")
    return c.b.reshape(v, shape=tuple(keep_batch(c, v, target)))


def keep_batch(c: Call, v: Value, target: list[int]) -> list[Extent]:
    """A reshape target with -1 worked out from symbolic extents."""
    return resolve(c, product(v.shape), list(target))


@operation("Transpose")
def _transpose(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    perm = option(c, k, "axes")
    return c.b.transpose(
        v, perm=tuple(reversed(range(v.rank))) if perm is None else tuple(c.axis(a, v.rank) for a in perm)
    )


@operation("Swapaxes")
def _swapaxes(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    i, j = c.axis(option(c, k, "axis1"), v.rank), c.axis(option(c, k, "axis2"), v.rank)
    perm = list(range(v.rank))
    perm[i], perm[j] = j, i
    return c.b.transpose(v, perm=tuple(perm))


@operation("ExpandDims")
def _expand_dims(c: Call, x: Any, **k: Any) -> Value:
    v, axis = value(c, x), option(c, k, "axis")
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    shape = list(v.shape)
    for a in sorted(c.axis(a, v.rank + len(axes)) for a in axes):
        shape.insert(a, 1)
    return c.b.reshape(v, shape=tuple(shape))


@operation("Squeeze")
def _squeeze(c: Call, x: Any, **k: Any) -> Value:
    v, axis = value(c, x), option(c, k, "axis")
    drop = [i for i, d in enumerate(v.shape) if d == 1] if axis is None else list(axes_option(c, k, v.rank))
    if any(compare_eq(v.shape[i], 1) is False for i in drop):
        raise c.refuse(f"axes {drop} of {v.type} are not all 1")
    return dropped(c.b, v, drop)


def _values(c: Call, xs: Any) -> list[Value]:
    found = [value(c, x) for x in (xs if isinstance(xs, (list, tuple)) else [xs])]
    to = reduce(promote, [v.dtype for v in found])
    return [c.cast(v, to) for v in found]


@operation("Concatenate")
def _concatenate(c: Call, xs: Any, **k: Any) -> Value:
    found = _values(c, xs)
    return c.b.concat(*found, axis=c.axis(option(c, k, "axis", 0), found[0].rank))


@operation("Stack")
def _stack(c: Call, x: Any, **k: Any) -> Value:
    found = _values(c, x)
    axis = c.axis(option(c, k, "axis", 0), found[0].rank + 1)
    shape = (*found[0].shape[:axis], 1, *found[0].shape[axis:])
    return c.b.concat(*(c.b.reshape(v, shape=shape) for v in found), axis=axis)


@operation("Split")
def _split(c: Call, x: Any, **k: Any) -> list[Value]:
    v = value(c, x)
    axis, parts = c.axis(option(c, k, "axis", 0), v.rank), option(c, k, "indices_or_sections")
    size = v.shape[axis]
    if isinstance(parts, int):
        cuts: list[Extent] = [size // parts * i for i in range(1, parts)]
    else:
        cuts = list(parts)
    edges = [0, *cuts, size]
    lead, tail = (None,) * axis, (None,) * (v.rank - axis - 1)
    return [
        c.b.slice(v, starts=(*lead, lo, *tail), stops=(*lead, hi, *tail))
        for lo, hi in zip(edges, edges[1:], strict=False)
    ]


@operation("Flip")
def _flip(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    return c.b.reverse(v, axes=axes_option(c, k, v.rank))


@operation("Tile")
def _tile(c: Call, x: Any, **k: Any) -> Value:
    v, times = value(c, x), option(c, k, "repeats")
    times = [times] if isinstance(times, int) else list(times)
    shape = (*[1] * (len(times) - v.rank), *v.shape)
    times = [1] * (len(shape) - len(times)) + times
    v = c.b.reshape(v, shape=shape)
    for axis, n in enumerate(times):
        if n != 1:
            v = c.b.concat(*([v] * n), axis=axis)
    return v


@operation("Repeat")
def _repeat(c: Call, x: Any, **k: Any) -> Value:
    v, times, axis = value(c, x), option(c, k, "repeats"), option(c, k, "axis")
    if axis is None:
        v, axis = flat(c, v), 0
    axis = c.axis(axis, v.rank)
    times = list(times) if isinstance(times, (list, tuple)) else [times]
    if any(type(t) is not int or t < 0 for t in times):
        raise c.refuse("repeats must be fixed integers")
    if len(times) == 1:
        return repeat_axis(c, v, axis, times[0])
    places = np.repeat(np.arange(len(times)), times)
    if len(times) != v.shape[axis]:
        raise c.refuse(f"{len(times)} repeats for an axis of {v.shape[axis]}")
    return c.b.gather(v, c.b.constant(places.astype(np.int32)), axis=axis)


@operation("BroadcastTo")
def _broadcast_to(c: Call, x: Any, **k: Any) -> Value:
    return c.b.broadcast_to(value(c, x), shape=tuple(option(c, k, "shape")))


@operation("Pad")
def _pad(c: Call, x: Any, constant_values: Any = None, **k: Any) -> Value:
    v, widths = value(c, x), option(c, k, "pad_width")
    widths = [widths] if isinstance(widths, int) else list(widths)
    if len(widths) == 2 and all(isinstance(w, int) for w in widths):
        widths = [widths]
    pads = [[w, w] if isinstance(w, int) else list(w) * (3 - len(w)) for w in widths]
    pads = pads * v.rank if len(pads) == 1 else pads
    mode = str(option(c, k, "mode", "constant"))
    if mode not in ("constant", "reflect", "symmetric") or len(pads) != v.rank:
        raise c.refuse("these pad options are not supported")
    fill = constant_values if constant_values is not None else option(c, k, "constant_values")
    low, high = tuple(p[0] for p in pads), tuple(p[1] for p in pads)
    if fill is not None and mode == "constant":
        return c.b.pad(v, c.cast(value(c, fill, v.dtype), v.dtype), low=low, high=high)
    return c.b.pad(v, low=low, high=high, mode=mode)


@operation("GetItem")
def _get_item(c: Call, x: Any, key: Any, **k: Any) -> Value:
    return get_item(c, value(c, x), key)


def get_item(c: Call, v: Value, key: Any) -> Value:
    """NumPy basic indexing with constants."""
    items = list(key) if isinstance(key, (list, tuple)) else [key]
    taken = sum(i is not None and i is not Ellipsis for i in items)
    if Ellipsis in [i for i in items if i is None or i is Ellipsis]:
        at = next(n for n, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (v.rank - taken)
    else:
        items += [slice(None)] * (v.rank - taken)
    starts: list[Any] = []
    stops: list[Any] = []
    steps: list[int] = []
    shape: list[Any] = []
    flips: list[int] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = v.shape[axis]
        if isinstance(item, slice) and all(p is None or type(p) is int for p in (item.start, item.stop, item.step)):
            step = 1 if item.step is None else item.step
            if step == 0:
                raise c.refuse("a slice with a step of 0")
            first, end = span(item.start, item.stop, step, size)
            if step < 0:
                flips.append(axis)
            starts.append(first)
            stops.append(end)
            steps.append(abs(step))
            shape.append("keep")
        elif type(item) is int:
            start = item + size if item < 0 else item
            starts.append(start)
            stops.append(start + 1)
            steps.append(1)
        else:
            raise c.refuse(f"index {item!r} is not supported")
        axis += 1
    if axis != v.rank:
        raise c.refuse(f"{axis} indices for {v.type}")
    gone = [i for i, item in enumerate(i for i in items if i is not None) if type(item) is int]
    y = c.b.reverse(v, axes=tuple(flips)) if flips else v
    y = c.b.slice(y, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))
    kept = [d for i, d in enumerate(y.shape) if i not in gone]
    final = [kept.pop(0) if s == "keep" else 1 for s in shape]
    return c.b.reshape(y, shape=tuple(final)) if tuple(final) != y.shape else y


# -- indices and contractions ----------------------------------------------------------------------------------------


@operation("Take")
def _take(c: Call, x: Any, indices: Any = None, **k: Any) -> Value:
    v, i = value(c, x), value(c, option(c, k, "indices") if indices is None else indices)
    axis = option(c, k, "axis")
    if axis is None:
        v, axis = flat(c, v), 0
    axis = c.axis(axis, v.rank)
    return c.b.gather(v, from_end(c, i, v.shape[axis]), axis=axis)


def from_end(c: Call, i: Value, size: Extent) -> Value:
    """Indices with negative ones counted from the end."""
    i = i if i.dtype.is_int else c.b.cast(i, to=I32)
    if i.dtype.kind == "u" or not isinstance(size, int):
        return i
    return c.b.where(c.b.lt(i, 0), c.b.add(i, size), i)


@operation("TakeAlongAxis")
def _take_along(c: Call, x: Any, indices: Any, **k: Any) -> Value:
    v, i, axis = value(c, x), value(c, indices), option(c, k, "axis")
    if axis is None:
        v, i, axis = flat(c, v), flat(c, i), 0
    axis = c.axis(axis, v.rank)
    i = from_end(c, i, v.shape[axis])
    last = (*(a for a in range(v.rank) if a != axis), axis)
    back = tuple(last.index(a) for a in range(v.rank))
    lead = tuple(v.shape[a] if i.shape[a] == 1 else i.shape[a] for a in last[:-1])  # the other axes broadcast
    v = c.b.broadcast_to(c.b.transpose(v, perm=last), shape=(*lead, v.shape[axis]))
    i = c.b.broadcast_to(c.b.transpose(i, perm=last), shape=(*lead, i.shape[axis]))
    return c.b.transpose(c.b.gather(v, i, axis=v.rank - 1, batch_dims=v.rank - 1), perm=back)


@operation("OneHot")
def _one_hot(c: Call, x: Any, **k: Any) -> Value:
    v, depth = value(c, x), option(c, k, "num_classes")
    if option(c, k, "sparse", False):
        raise c.refuse("sparse results are not supported")
    axis = c.axis(option(c, k, "axis", -1), v.rank + 1)
    v = v if v.dtype.is_int else c.b.cast(v, to=I32)
    place = [1] * (v.rank + 1)
    place[axis] = depth
    shape = list(v.shape)
    shape.insert(axis, 1)
    line = c.b.iota(shape=tuple(place), axis=axis, dtype=v.dtype)
    return c.cast(c.b.eq(c.b.reshape(v, shape=tuple(shape)), line), dtype(option(c, k, "dtype", "float32")))


@operation("MultiHot")
def _multi_hot(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    kind, depth = dtype(option(c, k, "dtype", "float32")), option(c, k, "num_classes", option(c, k, "num_tokens"))
    if option(c, k, "sparse", False) or option(c, k, "axis", -1) not in (-1, v.rank - 1):
        raise c.refuse("only dense results on the last axis are supported")
    line = c.b.iota(shape=(depth,), axis=0, dtype=v.dtype)
    rows = c.cast(c.b.eq(c.b.reshape(v, shape=(*v.shape, 1)), line), kind)
    return c.b.reduce_max(rows, axes=(1,)) if v.rank > 1 else rows


@operation("ZerosLike", "OnesLike", "EmptyLike")
def _like(c: Call, x: Any, **k: Any) -> Value:
    """An empty tensor is zeros: any contents are as good, and these are the same every time."""
    v = value(c, x)
    kind = option(c, k, "dtype")
    return c.b.full(v.shape, int(c.spec.class_name == "OnesLike"), dtype(kind) if kind else v.dtype)


@operation("FullLike")
def _full_like(c: Call, x: Any, fill_value: Any, **k: Any) -> Value:
    v, kind = value(c, x), option(c, k, "dtype")
    to = dtype(kind) if kind else v.dtype
    return c.b.broadcast_to(c.cast(value(c, fill_value, to), to), shape=v.shape)


@operation("Full")
def _full(c: Call, fill_value: Any, **k: Any) -> Value:
    kind, shape = option(c, k, "dtype"), option(c, k, "shape")
    v = c.cast(value(c, fill_value), dtype(kind) if kind else F32)
    return c.b.broadcast_to(v, shape=(shape,) if isinstance(shape, int) else tuple(shape))


@operation("Arange")
def _arange(c: Call, *args: Any, **k: Any) -> Value:
    start, stop, step = (option(c, k, n) for n in ("start", "stop", "step"))
    numbers: Sequence[Any] = [a for a in (args or [v for v in (start, stop, step) if v is not None])]
    if not all(isinstance(n, (int, float)) for n in numbers):
        raise c.refuse("arange needs constants")
    kind = option(c, k, "dtype")
    array = np.arange(*numbers)
    return c.b.constant(array, dtype(kind) if kind else (I32 if array.dtype.kind == "i" else F32))


def flat(c: Call, v: Value) -> Value:
    """``v`` as a vector."""
    return c.b.reshape(v, shape=(product(v.shape),))


@operation("Ravel")
def _ravel(c: Call, x: Any, **k: Any) -> Value:
    return flat(c, value(c, x))


@operation("Size")
def _count(c: Call, x: Any, **k: Any) -> Value:
    return c.b.constant(static(c, product(value(c, x).shape), "the size"), I32)


@operation("Moveaxis")
def _moveaxis(c: Call, x: Any, **k: Any) -> Value:
    v, ends = value(c, x), []
    for key in ("source", "destination"):
        found = option(c, k, key)
        ends.append([c.axis(a, v.rank) for a in (found if isinstance(found, (list, tuple)) else [found])])
    order = [a for a in range(v.rank) if a not in ends[0]]
    for to, at in sorted(zip(ends[1], ends[0], strict=True)):
        order.insert(to, at)
    return c.b.transpose(v, perm=tuple(order))


@operation("Fliplr", "Flipud")
def _flip_side(c: Call, x: Any, **k: Any) -> Value:
    return c.b.reverse(value(c, x), axes=(1 if c.spec.class_name == "Fliplr" else 0,))


@operation("Rot90")
def _rot90(c: Call, array: Any, **k: Any) -> Value:
    v, turns = value(c, array), int(option(c, k, "k", 1)) % 4
    one, two = (c.axis(a, v.rank) for a in option(c, k, "axes", (0, 1)))
    if turns == 2:
        return c.b.reverse(v, axes=(one, two))
    perm = [two if a == one else one if a == two else a for a in range(v.rank)]
    if turns == 1:
        return c.b.transpose(c.b.reverse(v, axes=(two,)), perm=tuple(perm))
    return c.b.reverse(c.b.transpose(v, perm=tuple(perm)), axes=(two,)) if turns else v


@operation("Roll")
def _roll(c: Call, x: Any, **k: Any) -> Value:
    v, shift, axis = value(c, x), option(c, k, "shift"), option(c, k, "axis")
    shape = v.shape
    if axis is None:
        v, axis = flat(c, v), 0
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    shifts = list(shift) if isinstance(shift, (list, tuple)) else [shift]
    shifts = shifts * len(axes) if len(shifts) == 1 else shifts
    for by, a in zip(shifts, (c.axis(a, v.rank) for a in axes), strict=True):
        n = static(c, v.shape[a], "a rolled axis")
        if n and by % n:
            v = c.b.concat(along(c, v, a, n - by % n, n), along(c, v, a, 0, n - by % n), axis=a)
    return c.b.reshape(v, shape=shape) if v.shape != shape else v


def along(c: Call, v: Value, axis: int, start: Any, stop: Any) -> Value:
    """Elements ``start`` to ``stop`` of one axis."""
    lead, tail = (None,) * axis, (None,) * (v.rank - axis - 1)
    return c.b.slice(v, starts=(*lead, start, *tail), stops=(*lead, stop, *tail))


@operation("Append")
def _append(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    (a, b), axis = pair(c, x1, x2), option(c, k, "axis")
    if axis is None:
        return c.b.concat(flat(c, a), flat(c, b), axis=0)
    return c.b.concat(a, b, axis=c.axis(axis, a.rank))


@operation("Hstack", "Vstack", "Dstack")
def _joined(c: Call, xs: Any, **k: Any) -> Value:
    found, kind = _values(c, xs), c.spec.class_name
    if kind != "Hstack":  # NumPy puts vectors into rows first
        found = [c.b.reshape(v, shape=(1, *v.shape)) if v.rank == 1 else v for v in found]
    if kind == "Dstack":
        found = [c.b.reshape(v, shape=(*v.shape, 1)) if v.rank == 2 else v for v in found]
    axis = {"Hstack": min(1, found[0].rank - 1), "Vstack": 0, "Dstack": 2}[kind]
    return c.b.concat(*found, axis=axis)


@operation("Unstack")
def _unstack(c: Call, x: Any, **k: Any) -> list[Value]:
    v = value(c, x)
    axis = c.axis(option(c, k, "axis", 0), v.rank)
    rest = tuple(d for i, d in enumerate(v.shape) if i != axis)
    count = static(c, v.shape[axis], "the axis to unstack")
    return [c.b.reshape(along(c, v, axis, i, i + 1), shape=rest) for i in range(count)]


@operation("ArraySplit", "Hsplit", "Vsplit", "Dsplit")
def _array_split(c: Call, x: Any, **k: Any) -> list[Value]:
    v, parts = value(c, x), option(c, k, "indices_or_sections")
    fixed = {"Hsplit": min(1, v.rank - 1), "Vsplit": 0, "Dsplit": 2}
    axis = c.axis(fixed.get(c.spec.class_name, option(c, k, "axis", 0)), v.rank)
    if isinstance(parts, int):
        n = static(c, v.shape[axis], "the axis to split")
        sizes = [n // parts + (i < n % parts) for i in range(parts)]
        parts = [sum(sizes[:i]) for i in range(1, len(sizes))]
    edges = [0, *parts, v.shape[axis]]
    return [along(c, v, axis, lo, hi) for lo, hi in zip(edges, edges[1:], strict=False)]


@operation("Slice")
def _slice(c: Call, inputs: Any, start_indices: Any, **k: Any) -> Value:
    v, sizes = value(c, inputs), option(c, k, "shape")
    at = [int(i) for i in _fixed(c, start_indices)]
    stops = tuple(None if n == -1 else i + n for i, n in zip(at, sizes, strict=True))
    return c.b.slice(v, starts=tuple(at), stops=stops)


def _fixed(c: Call, item: Any) -> list[Any]:
    found = np.asarray(getattr(item, "value", item))
    if found.dtype.kind not in "iu":
        raise c.refuse("indices must be fixed integers")
    return list(found.reshape(-1))


@operation("SliceUpdate")
def _slice_update(c: Call, inputs: Any, start_indices: Any, updates: Any, **k: Any) -> Value:
    v = value(c, inputs)
    new = c.cast(value(c, updates, v.dtype), v.dtype)
    starts = [c.b.constant(int(i), I32) for i in _fixed(c, start_indices)]
    return c.b.dynamic_update_slice(v, new, *starts)


@operation("ScatterUpdate", "Scatter")
def _scatter(c: Call, *args: Any, **k: Any) -> Value:
    """Scatter adds what falls on one place; ScatterUpdate takes the reduction that it is given."""
    given = list(args)
    if c.spec.class_name == "Scatter":
        indices, new = value(c, given[0]), value(c, given[1])
        v, kind = c.b.full(tuple(option(c, k, "shape")), 0, new.dtype), "add"
    else:
        v, indices = value(c, given[0]), value(c, given[1])
        new, kind = c.cast(value(c, given[2], v.dtype), v.dtype), option(c, k, "reduction") or "set"
    if kind not in ("set", "add", "mul", "max", "min"):
        raise c.refuse(f"reduction={kind!r} is not supported")
    return c.b.scatter_nd(v, indices, new, reduction=kind)


def _diagonal(c: Call, v: Value, offset: int) -> Value:
    """A diagonal of the last two axes."""
    rows, cols = (static(c, n, "a matrix axis") for n in v.shape[-2:])
    first, second = max(-offset, 0), max(offset, 0)
    count = max(min(rows - first, cols - second), 0)
    places = (first + np.arange(count)) * cols + second + np.arange(count)
    flattened = c.b.reshape(v, shape=(*v.shape[:-2], rows * cols))
    return c.b.gather(flattened, c.b.constant(places.astype(np.int32)), axis=flattened.rank - 1)


@operation("Diagonal", "Trace")
def _trace(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    one, two = (c.axis(option(c, k, key, d), v.rank) for key, d in (("axis1", 0), ("axis2", 1)))
    perm = (*(a for a in range(v.rank) if a not in (one, two)), one, two)
    found = _diagonal(c, c.b.transpose(v, perm=perm), int(option(c, k, "offset", 0)))
    if c.spec.class_name == "Diagonal":
        return found
    return c.b.reduce_sum(widened(c, found), axes=(found.rank - 1,))


@operation("Diag", "Diagflat")
def _diag(c: Call, x: Any, **k: Any) -> Value:
    v, offset = value(c, x), int(option(c, k, "k", 0))
    if c.spec.class_name == "Diagflat":
        v = flat(c, v)
    if v.rank == 2:
        return _diagonal(c, v, offset)
    n = static(c, v.shape[0], "the vector")
    size = n + abs(offset)
    row, column = max(-offset, 0), max(offset, 0)
    wide = c.b.pad(c.b.reshape(v, shape=(n, 1)), low=(row, 0), high=(size - n - row, size - 1))
    places = (np.arange(size)[:, None] * size) * np.ones(size, int)[None, :]
    inside = (np.arange(size)[:, None] - row == np.arange(size)[None, :] - column) & (np.arange(size)[:, None] >= row)
    places = np.where(inside, places, 1 if size > 1 else 0)
    inside &= np.arange(size)[:, None] < row + n
    spread = c.b.reshape(
        c.b.gather(flat(c, wide), c.b.constant(places.astype(np.int32).reshape(-1)), axis=0), shape=(size, size)
    )
    return c.b.where(c.b.constant(inside), spread, c.b.constant(0, v.dtype))


@operation("Tril", "Triu")
def _triangle(c: Call, x: Any, **k: Any) -> Value:
    v, offset = value(c, x), int(option(c, k, "k", 0))
    b, shape = c.b, v.shape[-2:]
    gap = b.sub(b.iota(shape=shape, axis=1, dtype=I32), b.iota(shape=shape, axis=0, dtype=I32))
    keep = b.le(gap, offset) if c.spec.class_name == "Tril" else b.ge(gap, offset)
    return b.where(keep, v, b.constant(0, v.dtype))


@operation("Vander")
def _vander(c: Call, x: Any, **k: Any) -> Value:
    v = numeric(c, x)
    n = option(c, k, "N", v.shape[0])
    powers = np.arange(static(c, n, "N"))
    powers = powers if option(c, k, "increasing", False) else powers[::-1]
    out = c.b.pow(c.b.reshape(v, shape=(v.shape[0], 1)), c.b.constant(powers.copy(), v.dtype))
    return c.cast(out, value(c, x).dtype)


@operation("Meshgrid")
def _meshgrid(c: Call, *xs: Any, **k: Any) -> list[Value]:
    found = [flat(c, value(c, x)) for x in xs]
    swap = option(c, k, "indexing", "xy") == "xy" and len(found) > 1
    order = [1, 0, *range(2, len(found))] if swap else list(range(len(found)))
    shape = tuple(found[i].shape[0] for i in order)
    out = []
    for i, v in enumerate(found):
        place = tuple(v.shape[0] if order[a] == i else 1 for a in range(len(found)))
        out.append(c.b.broadcast_to(c.b.reshape(v, shape=place), shape=shape))
    return out


@operation("Linspace", "Logspace", "Geomspace")
def _linspace(c: Call, start: Any, stop: Any, **k: Any) -> Value:
    b, kind, name = c.b, option(c, k, "dtype"), c.spec.class_name
    lo, hi = float_pair(c, start, stop)
    if name == "Geomspace":  # Keras goes through float32
        lo, hi = (b.log(c.cast(v, F32) if v.dtype.size < 4 else v) for v in (lo, hi))
    num, whole = int(option(c, k, "num", 50)), option(c, k, "endpoint", True) is not False
    shape = _broadcast(lo, hi)
    lo, hi = (b.broadcast_to(v, shape=shape) for v in (lo, hi))
    axis = c.axis(option(c, k, "axis", 0), len(shape) + 1)
    place = [1] * (len(shape) + 1)
    place[axis] = num
    steps = (np.arange(num) / max(num - 1 if whole else num, 1)).reshape(place)
    wide = (*shape[:axis], 1, *shape[axis:])
    lo, gap = b.reshape(lo, shape=wide), b.reshape(b.sub(hi, lo), shape=wide)
    y = b.add(lo, b.mul(gap, b.constant(steps, lo.dtype)))
    if name == "Logspace":
        y = b.pow(b.constant(float(option(c, k, "base", 10)), y.dtype), y)
    if name == "Geomspace":
        y = b.exp(y)
    return c.cast(y, dtype(kind)) if kind else y


def _broadcast(a: Value, b: Value) -> tuple[Extent, ...]:
    one, two = (1,) * (b.rank - a.rank) + a.shape, (1,) * (a.rank - b.rank) + b.shape
    return tuple(y if x == 1 else x for x, y in zip(one, two, strict=True))


@operation("View")
def _view(c: Call, x: Any, **k: Any) -> Value:
    v, kind = value(c, x), option(c, k, "dtype")
    to = dtype(kind) if kind else v.dtype
    if to.size != v.dtype.size or BOOL in (to, v.dtype):
        raise c.refuse("only element types of one size are supported")
    return c.b.bitcast(v, to=to) if to is not v.dtype else v


@operation("ExtractSequences")
def _sequences(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    return sequences(c, v, int(option(c, k, "sequence_length")), int(option(c, k, "sequence_stride")))


def sequences(c: Call, v: Value, size: int, stride: int) -> Value:
    """Windows of the last axis: [..., T] -> [..., (T - size) // stride + 1, size]."""
    n = static(c, v.shape[-1], "the sequence axis")
    count = (n - size) // stride + 1
    places = np.arange(count)[:, None] * stride + np.arange(size)[None, :]
    return c.b.gather(v, c.b.constant(places.astype(np.int32)), axis=v.rank - 1)
