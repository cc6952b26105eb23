"""Shape and movement ops: reshape, broadcast, transpose, slice, reverse, pad, concat.

Owns ops that move elements without computing. Must not know about layouts of kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.dims import Dim, Extent, ceildiv, compare_eq, compare_le, extent, floordiv, product
from ...core.errors import TypeRefused
from ..graph import Graph, Node
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op, extents
from ..types import TensorType
from ._common import Arrays, axes_of, axis_of, broadcast, one_dtype, same

Types = Sequence[TensorType]
Regions = Sequence[Graph]


def moved_cost(node: Node) -> Cost:
    """Cost of moving: no arithmetic, every result byte read and written once."""
    return Cost(0, 2 * node.results[0].type.nbytes)


def view_cost(node: Node) -> Cost:
    """Cost of a view: nothing."""
    return Cost(0, 0)


def _infer_reshape(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    want = list(attrs["shape"])
    if sum(d == -1 for d in want) > 1:
        raise TypeRefused("at most one extent may be -1")
    size = types[0].size
    if -1 in want:
        at = want.index(-1)
        rest = product(extent(d) for d in want if d != -1)
        if rest == 0:
            raise TypeRefused("cannot infer -1 beside an extent 0")
        want[at] = floordiv(size, rest)
        if compare_eq(want[at] * rest, size) is not True:
            raise TypeRefused(f"{size} elements do not split into {rest}")
    shape = extents(want)
    if compare_eq(product(shape), size) is not True:
        raise TypeRefused(f"{size} elements cannot become [{', '.join(map(str, shape))}]")
    attrs["shape"] = shape
    return [types[0].with_shape(shape)]


define_op(
    OpDef(
        "reshape", ("x",), "view", _infer_reshape,
        lambda a, attrs, ctx: np.reshape(a[0], attrs["shape"]), attrs={"shape": REQUIRED},
        bound=lambda a, e, o, bc: np.reshape(np.broadcast_to(e[0], a[0].shape), o.shape), views={0: 0}, cost=view_cost,
        doc="The same elements in row-major order under another shape; one extent may be -1.",
    )
)  # fmt: skip


def _infer_broadcast(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    shape = attrs["shape"] = extents(attrs["shape"])
    if len(shape) < types[0].rank:
        raise TypeRefused(f"cannot broadcast {types[0]} to fewer axes")
    for have, want in zip(types[0].shape[::-1], shape[::-1], strict=False):
        if have != 1:
            same(have, want, "broadcast_to")
    return [types[0].with_shape(shape)]


define_op(
    OpDef(
        "broadcast_to", ("x",), "broadcast", _infer_broadcast,
        lambda a, attrs, ctx: np.broadcast_to(a[0], attrs["shape"]), attrs={"shape": REQUIRED},
        bound=lambda a, e, o, bc: np.broadcast_to(e[0], o.shape), cost=moved_cost,
        doc="NumPy broadcast to ``shape``.",
    )
)  # fmt: skip


def _infer_transpose(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    perm = attrs["perm"] = tuple(axis_of(p, types[0].rank) for p in attrs["perm"])
    if sorted(perm) != list(range(types[0].rank)):
        raise TypeRefused(f"perm {perm} is not a permutation of {types[0].rank} axes")
    return [types[0].with_shape(types[0].shape[p] for p in perm)]


define_op(
    OpDef(
        "transpose", ("x",), "gather", _infer_transpose,
        lambda a, attrs, ctx: np.transpose(a[0], attrs["perm"]), attrs={"perm": REQUIRED},
        bound=lambda a, e, o, bc: np.transpose(np.broadcast_to(e[0], a[0].shape), bc.attrs["perm"]), cost=moved_cost,
        doc="Result axis i is operand axis perm[i].",
    )
)  # fmt: skip


def slice_extent(start: Extent, stop: Extent, step: int) -> Extent:
    """Number of elements of start:stop:step, with start and stop already inside the axis."""
    return ceildiv(stop - start, step) if step > 0 else ceildiv(start - stop, -step)


def _infer_slice(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    rank = types[0].rank
    steps = attrs["steps"] if attrs["steps"] is not None else (1,) * rank
    if not (len(attrs["starts"]) == len(attrs["stops"]) == len(steps) == rank):
        raise TypeRefused(f"slice needs one start, stop and step per axis ({rank})")
    starts, stops, out = [], [], []
    for axis, (size, a, b, step) in enumerate(zip(types[0].shape, attrs["starts"], attrs["stops"], steps, strict=True)):
        if not isinstance(step, int) or step < 1:
            raise TypeRefused(f"axis {axis}: step {step} must be a positive int (use reverse for negative steps)")
        start, stop = extent(0 if a is None else a), extent(size if b is None else b)
        start = start + size if isinstance(start, int) and start < 0 else start
        stop = stop + size if isinstance(stop, int) and stop < 0 else stop
        if isinstance(size, int) and isinstance(start, int) and isinstance(stop, int):
            start, stop = min(max(start, 0), size), min(max(stop, 0), size)
            stop = max(stop, start)
        elif compare_le(stop, size) is False or compare_le(start, stop) is False or compare_le(0, start) is False:
            raise TypeRefused(f"axis {axis}: {start}:{stop} is outside an extent of {size}")
        starts.append(start)
        stops.append(stop)
        out.append(slice_extent(start, stop, step))
    attrs.update(starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))
    return [types[0].with_shape(out)]


def _index(attrs: Attrs) -> tuple[slice, ...]:
    return tuple(slice(a, b, s) for a, b, s in zip(attrs["starts"], attrs["stops"], attrs["steps"], strict=True))


define_op(
    OpDef(
        "slice", ("x",), "gather", _infer_slice, lambda a, attrs, ctx: a[0][_index(attrs)],
        attrs={"starts": REQUIRED, "stops": REQUIRED, "steps": None},
        bound=lambda a, e, o, bc: np.broadcast_to(e[0], a[0].shape)[_index(bc.attrs)], cost=moved_cost,
        doc="x[start:stop:step] per axis; None means the whole axis, negative ints count from the end, steps are >= 1.",
    )
)  # fmt: skip


def _infer_reverse(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    attrs["axes"] = axes_of(attrs["axes"], types[0].rank)
    return [types[0]]


define_op(
    OpDef(
        "reverse", ("x",), "gather", _infer_reverse, lambda a, attrs, ctx: np.flip(a[0], attrs["axes"]),
        attrs={"axes": REQUIRED},
        bound=lambda a, e, o, bc: np.flip(np.broadcast_to(e[0], a[0].shape), bc.attrs["axes"]),
        cost=moved_cost, doc="Elements in opposite order along ``axes``.",
    )
)  # fmt: skip

PAD_MODES = ("constant", "reflect", "symmetric", "edge")


def _infer_pad(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = types[0]
    low, high = attrs["low"], attrs["high"] = extents(attrs["low"]), extents(attrs["high"])
    if len(low) != x.rank or len(high) != x.rank:
        raise TypeRefused(f"pad needs one low and one high per axis ({x.rank})")
    if attrs["mode"] not in PAD_MODES:
        raise TypeRefused(f"mode {attrs['mode']!r} is not one of {', '.join(PAD_MODES)}")
    if len(types) == 2 and (types[1].rank != 0 or types[1].dtype is not x.dtype):
        raise TypeRefused(f"the padding value must be a {x.dtype} scalar, not {types[1]}")
    for axis, (n, a, b) in enumerate(zip(x.shape, low, high, strict=True)):
        if compare_le(0, a) is False or compare_le(0, b) is False:
            raise TypeRefused(f"axis {axis}: negative padding; use slice")
        limit = {"reflect": n - 1, "symmetric": n}.get(attrs["mode"])
        if limit is not None and (compare_le(a, limit) is False or compare_le(b, limit) is False):
            raise TypeRefused(f"axis {axis}: {attrs['mode']} padding ({a}, {b}) is wider than the extent {n} allows")
    return [x.with_shape(a + n + b for n, a, b in zip(x.shape, low, high, strict=True))]


def _eval_pad(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    widths = list(zip(attrs["low"], attrs["high"], strict=True))
    if not widths:
        return a[0]
    if attrs["mode"] == "constant":
        return np.pad(a[0], widths, constant_values=a[1] if len(a) > 1 else 0)
    return np.pad(a[0], widths, mode=attrs["mode"])


def _bound_pad(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    return _eval_pad([np.broadcast_to(e[0], a[0].shape), *e[1:]], bc.attrs, bc.ctx)


define_op(
    OpDef(
        "pad", ("x", "value?"), "gather", _infer_pad, _eval_pad,
        attrs={"low": REQUIRED, "high": REQUIRED, "mode": "constant"}, bound=_bound_pad, cost=moved_cost,
        doc="Pad each axis by low and high elements; ``value`` (scalar, default 0) for mode 'constant'.",
    )
)  # fmt: skip


def _infer_concat(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if not types:
        raise TypeRefused("concat needs at least one operand")
    dt, first = one_dtype(types), types[0]
    axis = attrs["axis"] = axis_of(attrs["axis"], first.rank)
    total: Extent = 0
    shape = list(first.shape)
    for t in types:
        if t.rank != first.rank:
            raise TypeRefused(f"ranks differ: {first} and {t}")
        for i in range(first.rank):
            if i != axis:
                shape[i] = same(shape[i], t.shape[i], f"axis {i}")
        total = total + t.shape[axis]
    shape[axis] = total
    return [TensorType(dt, shape)]


define_op(
    OpDef(
        "concat", ("x*",), "gather", _infer_concat, lambda a, attrs, ctx: np.concatenate(a, attrs["axis"]),
        attrs={"axis": REQUIRED},
        bound=lambda a, e, o, bc: np.concatenate(
            [np.broadcast_to(x, y.shape) for x, y in zip(e, a, strict=True)], bc.attrs["axis"]
        ),
        cost=moved_cost, doc="Operands one after the other along ``axis``.",
    )
)  # fmt: skip
__all__ = ["Dim", "broadcast", "moved_cost", "slice_extent", "view_cost"]
