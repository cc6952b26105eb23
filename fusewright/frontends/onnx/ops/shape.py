"""Shape and movement operators: Reshape, Slice, Split, Pad, Expand, Tile, and the constants they live on.

Owns ONNX's shape conventions (0 copies, -1 infers, clamped slices). Extents may be symbolic throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.dims import Extent, ceildiv, compare_eq, compare_le, floordiv, product
from ....core.dtypes import BOOL, F32
from ....core.errors import TypeRefused
from ....ir.graph import Const, Value
from ...slicing import FAR, clamped, dropped, span
from ..call import REFUSED, Call, op

for _name in ("ImageDecoder", "StringNormalizer", "StringSplit", "StringConcat", "RegexFullMatch"):
    REFUSED[("", _name)] = ("unsupported-op", "it works on encoded images or strings, not on tensors of numbers")


@op("Constant")
def _constant(c: Call) -> Value:
    b = c.b
    given = [n for n in c.attrs if n.startswith(("value", "sparse_value"))]
    if len(given) != 1:
        raise c.refuse("needs exactly one value", "malformed")
    name = given[0]
    if name == "value":
        return b.constant(c.tensor("value"))
    if name in ("value_float", "value_floats"):
        found: Any = c.number(name) if name == "value_float" else c.floats(name)
        return b.constant(np.array(found, np.float32))
    if name in ("value_int", "value_ints"):
        found = c.integer(name) if name == "value_int" else c.ints(name)
        return b.constant(np.array(found, np.int64))
    raise c.refuse(f"{name} is not supported", "unsupported-dtype")


@op("ConstantOfShape")
def _constant_of_shape(c: Call, shape: Value) -> Value:
    value = c.tensor("value")
    dims = c.sizes(shape, "the shape")
    _check_extents(c, dims)
    if value is None:
        return c.b.full(dims, 0.0, F32)
    if value.array.size != 1:
        raise c.refuse("value must be one element", "malformed")
    return spread(c, c.b.constant(Const(value.array.reshape(()), value.dtype)), dims)


def spread(c: Call, scalar: Value, dims: tuple[Extent, ...]) -> Value:
    """A scalar repeated."""
    return c.b.broadcast_to(scalar, shape=dims) if dims else scalar


def _check_extents(c: Call, dims: Any) -> None:
    for d in dims:
        if isinstance(d, int):
            if d < 0:
                raise c.refuse(f"negative extent {d}", "malformed")
            c.importer.limits.check("extent", d, c.where, "an extent")
    c.importer.limits.check("rank", len(dims), c.where, "the rank")


@op("Shape")
def _shape(c: Call, x: Value) -> Value:
    start, end = c.integer("start", 0), c.integer("end")
    line = slice(start, x.rank if end is None else end)
    n = x.rank
    low, high, _ = line.indices(n)
    return c.b.dims(x.shape[low:high])


@op("Size")
def _size(c: Call, x: Value) -> Value:
    return c.b.dim(x.type.size)


@op("Reshape")
def _reshape(c: Call, x: Value, shape: Value) -> Value:
    parts = c.elements(shape, "the shape")
    if any(isinstance(p, Value) for p in parts):
        return c.positions.reshaped(x, parts, zero_copies=not c.integer("allowzero", 0))
    want = [p for p in parts if not isinstance(p, Value)]
    if not c.integer("allowzero", 0):
        for i, d in enumerate(want):
            if isinstance(d, int) and d == 0:
                if i >= x.rank:
                    raise c.refuse(f"a 0 at {i} copies no extent of {x.type}", "malformed")
                want[i] = x.shape[i]
    minus = [i for i, d in enumerate(want) if isinstance(d, int) and d == -1]
    if len(minus) > 1:
        raise c.refuse(f"the shape {want} has more than one -1", "malformed")
    if minus:
        rest = product(d for i, d in enumerate(want) if i != minus[0])
        if isinstance(rest, int) and rest == 0:
            want[minus[0]] = 0
            if compare_eq(x.type.size, 0) is not True:
                raise c.refuse(f"cannot infer -1 beside an extent 0 for {x.type}", "malformed")
    _check_extents(c, [d for i, d in enumerate(want) if i not in minus])
    try:
        return c.b.reshape(x, shape=tuple(want))
    except TypeRefused:
        if not c.importer.fresh.concerns(*x.shape):
            raise
        return c.positions.reshaped(x, want)  # whether it fits turns out during the run


@op("Flatten")
def _flatten(c: Call, x: Value) -> Value:
    axis = c.integer("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    if not 0 <= axis <= x.rank:
        raise c.refuse(f"axis {axis} is outside rank {x.rank}", "malformed")
    return c.b.reshape(x, shape=(product(x.shape[:axis]), product(x.shape[axis:])))


@op("Transpose")
def _transpose(c: Call, x: Value) -> Value:
    return c.b.transpose(x, perm=c.ints("perm", tuple(reversed(range(x.rank)))))


def _axes(c: Call, given: Value | None, since: int = 13) -> tuple[int, ...] | None:
    if c.opset < since:
        return c.ints("axes")
    return None if given is None else c.known_ints(given, "axes")


@op("Squeeze")
def _squeeze(c: Call, x: Value, axes: Value | None = None) -> Value:
    given = _axes(c, axes)
    if given is None:
        for d in x.shape:
            if not isinstance(d, int):
                raise c.refuse(
                    f"which axes of {x.type} to drop depends on {d}", "data-dependent", "fix it with shapes="
                )
        drop = {i for i, d in enumerate(x.shape) if d == 1}
    else:
        drop = {c.axis(a, x.rank) for a in given}
    for i in drop:
        if compare_eq(x.shape[i], 1) is False:
            raise c.refuse(f"axis {i} of {x.type} is not 1", "malformed")
    return dropped(c.b, x, sorted(drop))


@op("Unsqueeze")
def _unsqueeze(c: Call, x: Value, axes: Value | None = None) -> Value:
    given = _axes(c, axes)
    if given is None:
        raise c.refuse("axes are missing", "malformed")
    rank = x.rank + len(given)
    new = {c.axis(a, rank) for a in given}
    if len(new) != len(given):
        raise c.refuse(f"axes {given} name one axis twice", "malformed")
    c.importer.limits.check("rank", rank, c.where, "the rank")
    old = iter(x.shape)
    return c.b.reshape(x, shape=tuple(1 if i in new else next(old) for i in range(rank)))


@op("Concat")
def _concat(c: Call, *xs: Value) -> Value:
    axis = c.integer("axis")
    if axis is None:
        raise c.refuse("axis is missing", "malformed")
    if len(xs) == 1:
        return xs[0]
    return c.b.concat(*xs, axis=c.axis(axis, xs[0].rank))


@op("Split")
def _split(c: Call, x: Value, sizes: Value | None = None) -> Any:
    axis = c.axis(c.integer("axis", 0), x.rank)
    size = x.shape[axis]
    given = c.ints("split") if c.opset < 13 else None if sizes is None else c.extents(sizes, "split")
    if given is None:
        n = c.integer("num_outputs", c.n_outputs)
        if n < 1 or n > c.importer.limits.nodes:
            raise c.refuse(f"num_outputs {n}", "malformed")
        part = ceildiv(size, n)
        given = (*(part,) * (n - 1), size - part * (n - 1))
    out = []
    start: Extent = 0
    for d in given:
        out.append(part_of(c, x, axis, start, start + d))
        start = start + d
    if compare_eq(start, size) is not True:
        raise c.refuse(f"parts {given} do not add up to {size}", "malformed")
    return out


def part_of(c: Call, x: Value, axis: int, start: Extent, stop: Extent) -> Value:
    """x[start:stop] along one axis."""
    if compare_le(0, stop - start) is False:
        raise c.refuse(f"a part of negative extent {stop - start}", "malformed")
    starts: list[Any] = [None] * x.rank
    stops: list[Any] = [None] * x.rank
    starts[axis], stops[axis] = start, stop
    return c.b.slice(x, starts=tuple(starts), stops=tuple(stops))


@op("Slice")
def _slice(
    c: Call, x: Value, starts: Value | None = None, ends: Value | None = None, axes: Value | None = None,
    steps: Value | None = None,
) -> Value:  # fmt: skip
    first: Sequence[Extent | Value]
    last: Sequence[Extent | Value]
    if c.opset < 10:
        first, last = c.ints("starts") or (), c.ints("ends") or ()
        which = c.ints("axes", tuple(range(len(first))))
        stride: tuple[int, ...] = (1,) * len(first)
    else:
        if starts is None or ends is None:
            raise c.refuse("starts or ends are missing", "malformed")
        which = tuple(range(starts.type.size)) if axes is None else c.known_ints(axes, "axes")  # type: ignore[arg-type]
        stride = (1,) * len(which) if steps is None else c.known_ints(steps, "steps")
        first, last = c.elements(starts, "starts"), c.elements(ends, "ends")
    if not len(first) == len(last) == len(which) == len(stride):
        raise c.refuse("starts, ends, axes and steps differ in length", "malformed")
    which = tuple(c.axis(a, x.rank) for a in which)
    if len(set(which)) != len(which):
        raise c.refuse(f"axes {which} name one axis twice", "malformed")
    return _sliced(c, x, first, last, which, stride)


def _sliced(c: Call, x: Value, first: Any, last: Any, which: Any, stride: Any) -> Value:
    low: list[Any] = [None] * x.rank
    high: list[Any] = [None] * x.rank
    steps = [1] * x.rank
    flip = []
    for s, e, axis, step in zip(first, last, which, stride):
        n = x.shape[axis]
        if step == 0:
            raise c.refuse("a step of 0", "malformed")
        if step < 0:
            flip.append(axis)
        if isinstance(s, Value) or isinstance(e, Value):
            # What exporters write for the end, or the start.
            ends = [None if isinstance(v, int) and (v >= FAR if up else v <= -FAR) else v
                    for v, up in ((s, step < 0), (e, step > 0))]  # fmt: skip
            low[axis], high[axis] = c.positions.span(ends[0], ends[1], step, n, least=0)
            steps[axis] = abs(step)
            continue
        if step < 0:
            # A start before the axis is its first element here, not nothing as in NumPy.
            s = n - 1 if isinstance(s, int) and s >= FAR else clamped(s, n, 0, n - 1)
        low[axis], high[axis] = span(s, e, step, n)
        steps[axis] = abs(step)
    x = c.b.reverse(x, axes=tuple(flip)) if flip else x
    return c.b.slice(x, starts=tuple(low), stops=tuple(high), steps=tuple(steps))


@op("Expand")
def _expand(c: Call, x: Value, shape: Value) -> Value:
    parts = c.elements(shape, "the shape")
    if any(isinstance(p, Value) for p in parts):
        return c.positions.spread(x, parts, one_keeps=True)
    want = [p for p in parts if not isinstance(p, Value)]
    _check_extents(c, want)
    rank = max(len(want), x.rank)
    have = (1,) * (rank - x.rank) + tuple(x.shape)
    full = (1,) * (rank - len(want)) + tuple(want)
    out = []
    for h, w in zip(have, full):
        if isinstance(w, int) and w == 1:
            out.append(h)
        else:
            out.append(w)
    return c.b.broadcast_to(x, shape=tuple(out))


@op("Tile")
def _tile(c: Call, x: Value, repeats: Value) -> Value:
    b = c.b
    counts = c.sizes(repeats, "repeats")
    if len(counts) != x.rank:
        raise c.refuse(f"{len(counts)} repeats for {x.type}", "malformed")
    _check_extents(c, counts)
    split: list[Extent] = []
    wide: list[Extent] = []
    for n, d in zip(counts, x.shape):
        if compare_eq(n, 1) is True:
            split.append(d)
            wide.append(d)
        else:
            split += [1, d]
            wide += [n, d]
    if len(split) == x.rank:
        return x
    y = b.broadcast_to(b.reshape(x, shape=tuple(split)), shape=tuple(wide))
    return b.reshape(y, shape=tuple(n * d for n, d in zip(counts, x.shape)))


@op("Pad")
def _pad(c: Call, x: Value, pads: Value | None = None, value: Value | None = None, axes: Value | None = None) -> Value:
    b = c.b
    mode = c.text("mode", "constant")
    if c.opset < 11:
        amounts: tuple[Extent, ...] = c.ints("pads") or ()
        fill: Value | None = c.like(c.number("value", 0.0), x)
    else:
        if pads is None:
            raise c.refuse("pads are missing", "malformed")
        amounts, fill = c.extents(pads, "pads"), value
    which = tuple(range(x.rank)) if axes is None else tuple(c.axis(a, x.rank) for a in c.known_ints(axes, "axes"))
    if len(amounts) != 2 * len(which) or len(set(which)) != len(which):
        raise c.refuse(f"{len(amounts)} pads for {len(which)} axes", "malformed")
    low: list[Extent] = [0] * x.rank
    high: list[Extent] = [0] * x.rank
    for i, axis in enumerate(which):
        low[axis], high[axis] = amounts[i], amounts[i + len(which)]
    # Negative pads crop.
    crop = [(isinstance(p, int) and p < 0, isinstance(q, int) and q < 0) for p, q in zip(low, high)]
    if any(p or q for p, q in crop):
        starts = tuple(-p if cut else 0 for p, (cut, _) in zip(low, crop))
        stops = tuple(n + q if cut else n for n, q, (_, cut) in zip(x.shape, high, crop))
        x = b.slice(x, starts=starts, stops=stops)
        low = [0 if cut else p for p, (cut, _) in zip(low, crop)]
        high = [0 if cut else q for q, (_, cut) in zip(high, crop)]
    _check_extents(c, (*low, *high))
    if mode == "wrap":
        return _wrap(c, x, low, high)
    if mode not in ("constant", "reflect", "edge"):
        raise c.refuse(f"mode {mode!r}", "malformed")
    if mode == "constant" and fill is not None:
        fill = b.reshape(fill, shape=()) if fill.rank else fill
        return b.pad(x, fill, low=tuple(low), high=tuple(high), mode=mode)
    return b.pad(x, low=tuple(low), high=tuple(high), mode=mode)


def _wrap(c: Call, x: Value, low: list[Extent], high: list[Extent]) -> Value:
    for axis, (p, q) in enumerate(zip(low, high)):
        n = x.shape[axis]
        if p == 0 and q == 0:
            continue
        if not (isinstance(p, int) and isinstance(q, int) and isinstance(n, int)) or n == 0:
            raise c.refuse("wrap padding of a symbolic extent", "unsupported-option", "fix it with shapes=")
        index = np.arange(-p, n + q) % n
        x = c.b.gather(x, c.b.constant(index.astype(np.int64)), axis=axis)
    return x


@op("Range")
def _range(c: Call, start: Value, limit: Value, delta: Value) -> Value:
    b = c.b
    known = (b.elements(v) if start.dtype.is_int else v.const for v in (start, limit, delta))
    if any(k is None for k in known):
        first_, last_, step_ = (b.reshape(v, shape=()) for v in (start, limit, delta))
        return c.positions.counting(first_, last_, step_, start.dtype)
    if start.dtype.is_int:
        (s,), (e,), (d,) = (c.extents(v, "the range") for v in (start, limit, delta))
        if not isinstance(d, int) or d == 0:
            raise c.refuse("delta must be a known number that is not 0", "data-dependent")
        n: Extent = ceildiv(e - s, d) if d > 0 else ceildiv(s - e, -d)
        n = max(n, 0) if isinstance(n, int) else n
        _check_extents(c, (n,))
        line = b.iota(shape=(n,), axis=0, dtype=start.dtype)
        line = line if d == 1 else b.mul(line, c.like(d, start))
        if isinstance(s, int):
            return line if s == 0 else b.add(line, c.like(s, start))
        return b.add(line, b.cast(b.dim(s), to=start.dtype))
    first, last, gap = (float(c.scalar(v, "the range")) for v in (start, limit, delta))
    if gap == 0.0 or not np.all(np.isfinite([first, last, gap])):
        raise c.refuse("the range is not finite", "malformed")
    count = max(int(np.ceil((last - first) / gap)), 0)
    _check_extents(c, (count,))
    c.importer.limits.check_shape((count,), 8, c.importer.model.size, c.where)
    return b.constant(first + np.arange(count, dtype=np.float64) * gap, start.dtype)


@op("EyeLike")
def _eye(c: Call, x: Value) -> Value:
    b = c.b
    if x.rank != 2:
        raise c.refuse(f"takes a matrix, not {x.type}", "malformed")
    dt, k = c.element("dtype", x.dtype), c.integer("k", 0)
    rows, cols = b.iota(shape=x.shape, axis=0), b.iota(shape=x.shape, axis=1)
    return b.cast(b.eq(b.add(rows, k), cols), to=dt)


@op("Trilu")
def _trilu(c: Call, x: Value, k: Value | None = None) -> Value:
    b = c.b
    offset = 0 if k is None else int(c.scalar(k, "k"))
    offset = max(min(offset, 1 << 40), -(1 << 40))
    if x.rank < 2:
        raise c.refuse(f"takes matrices, not {x.type}", "malformed")
    shape = x.shape[-2:]
    gap = b.sub(b.iota(shape=shape, axis=1), b.iota(shape=shape, axis=0))
    keep = b.ge(gap, offset) if c.integer("upper", 1) else b.le(gap, offset)
    return b.where(keep, x, c.like(False if x.dtype is BOOL else 0, x))


@op("DepthToSpace")
def _depth_to_space(c: Call, x: Value) -> Value:
    b, k = c.b, c.integer("blocksize")
    if x.rank != 4 or not k or k < 1:
        raise c.refuse(f"blocksize {k} on {x.type}", "malformed")
    n, ch, h, w = x.shape
    inner = floordiv(ch, k * k)
    if c.text("mode", "DCR") == "DCR":
        y = b.transpose(b.reshape(x, shape=(n, k, k, inner, h, w)), perm=(0, 3, 4, 1, 5, 2))
    else:
        y = b.transpose(b.reshape(x, shape=(n, inner, k, k, h, w)), perm=(0, 1, 4, 2, 5, 3))
    return b.reshape(y, shape=(n, inner, h * k, w * k))


@op("SpaceToDepth")
def _space_to_depth(c: Call, x: Value) -> Value:
    b, k = c.b, c.integer("blocksize")
    if x.rank != 4 or not k or k < 1:
        raise c.refuse(f"blocksize {k} on {x.type}", "malformed")
    n, ch, h, w = x.shape
    y = b.reshape(x, shape=(n, ch, floordiv(h, k), k, floordiv(w, k), k))
    if c.text("mode", "DCR") == "CRD":
        y = b.transpose(y, perm=(0, 1, 3, 5, 2, 4))
    else:
        y = b.transpose(y, perm=(0, 3, 5, 1, 2, 4))
    return b.reshape(y, shape=(n, ch * k * k, floordiv(h, k), floordiv(w, k)))


@op("OptionalHasElement")
def _has_element(c: Call, x: Value | None = None) -> Value:
    return c.b.constant(np.array(x is not None))


@op("OptionalGetElement")
def _get_element(c: Call, x: Value) -> Value:
    return x
