"""Broken rewrites that take axes, orders, strides or padding from what they match, and get one of them wrong.

Most keep the type only where extents are equal, so nothing but a cube, and an order that is no swap, shows them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mutant import Mutant
from mutant_rules import ANY_WINDOW, hunted

import fusewright as fw

op = fw.op
MUTANTS: list[Mutant] = []
CUT = {"starts": ..., "stops": ..., "steps": ...}
PAD = {"low": ..., "high": ..., "mode": "constant"}
POOL = {"window": ..., "strides": ..., "pads": ..., "dilations": ...}
REDUCE = {"axes": ..., "keepdims": ...}


def turned(*args: Any) -> Any:
    return op.transpose(*args, perm=...)


def axes(kind: str, name: str, pattern: Any, numerics: str = "exact") -> Any:
    """A rule given as a function of the match."""

    def add(f: Any) -> None:
        MUTANTS.append(Mutant(name, kind, hunted(lambda: fw.rewrite(pattern, numerics=numerics, name="mutant")(f))))

    return add


def inner(m: Any) -> dict[str, Any]:
    """The attributes of the first operand's op."""
    found: dict[str, Any] = m.root.operands[0].producer.attrs
    return found


def inverse(perm: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(perm))


def done(m: Any) -> bool:
    """The rule made this itself: what exchanges two numbers would go on for ever, which is found at once."""
    return "mutant" in m.root.origin.rewrites


def other_order(m: Any, name: str, *operands: Any) -> Any:
    """The windowed op under a relu with one of its attributes in the other order."""
    attrs = inner(m)
    if operands[0].rank < 4 or attrs[name] == attrs[name][::-1] or done(m):
        return m.decline("no other order, or done")
    made = m.op.apply(m.root.operands[0].producer.op, list(operands), {**attrs, name: attrs[name][::-1]})
    return op.relu(made[0])


# Orders of axes.
@axes("shape", "transpose of transpose, composed the wrong way round", lambda x: turned(turned(x)))
def _composed(m: Any, x: Any) -> Any:
    p, q = inner(m)["perm"], m.root.attrs["perm"]
    return op.transpose(x, perm=tuple(q[i] for i in p))


@axes("shape", "relu of transpose -> transpose of relu by the inverse", lambda x: op.relu(turned(x)))
def _sunk(m: Any, x: Any) -> Any:
    return op.transpose(op.relu(x), perm=inverse(inner(m)["perm"]))


@axes("shape", "x^T + y^T -> (x + y)^T by the first's order only", lambda x, y: turned(x) + turned(y))
def _added(m: Any, x: Any, y: Any) -> Any:
    return op.transpose(x + y, perm=inner(m)["perm"]) if x.rank == y.rank else m.decline("ranks")


@axes(
    "shape",
    "reduction of transpose: axes left as they are",
    lambda x: op.reduce_max(turned(x), axes=..., keepdims=False),
)
def _unmapped(m: Any, x: Any) -> Any:
    return op.reduce_max(x, axes=m.root.attrs["axes"])


@axes(
    "shape", "reduction of transpose: axes by the inverse", lambda x: op.reduce_max(turned(x), axes=..., keepdims=False)
)
def _by_inverse(m: Any, x: Any) -> Any:
    back, drop = inverse(inner(m)["perm"]), m.root.attrs["axes"]
    left = [p for i, p in enumerate(inner(m)["perm"]) if i not in drop]
    if sorted(left) != left:
        return m.decline("what is left is turned")
    return op.reduce_max(x, axes=tuple(back[a] for a in drop))


@axes("shape", "reverse of transpose: axes left as they are", lambda x: op.reverse(turned(x), axes=...))
def _reverse(m: Any, x: Any) -> Any:
    return op.transpose(op.reverse(x, axes=m.root.attrs["axes"]), perm=inner(m)["perm"])


@axes("shape", "slice of transpose: cuts by the inverse", lambda x: op.slice(turned(x), **CUT))
def _slice_of_transpose(m: Any, x: Any) -> Any:
    perm = inner(m)["perm"]
    cuts = {k: tuple(m.root.attrs[k][p] for p in perm) for k in CUT}
    return op.transpose(op.slice(x, **cuts), perm=perm)


@axes("shape", "pad of transpose: widths left as they are", lambda x: op.pad(turned(x), **PAD))
def _pad_of_transpose(m: Any, x: Any) -> Any:
    return op.transpose(op.pad(x, **m.root.attrs), perm=inner(m)["perm"])


@axes("shape", "softmax of transpose: axis left as it is", lambda x: op.softmax(turned(x), axes=...), "reassoc")
def _softmax(m: Any, x: Any) -> Any:
    return op.transpose(op.softmax(x, axes=m.root.attrs["axes"]), perm=inner(m)["perm"])


@axes("shape", "cumsum of transpose: axis by the inverse", lambda x: op.cumsum(
    turned(x), axis=..., exclusive=..., reverse=...), "reassoc")  # fmt: skip
def _cumsum(m: Any, x: Any) -> Any:
    perm = inner(m)["perm"]
    return op.transpose(op.cumsum(x, **{**m.root.attrs, "axis": inverse(perm)[m.root.attrs["axis"]]}), perm=perm)


@axes("shape", "transpose of a cube -> x", lambda x: turned(x))
def _cube(m: Any, x: Any) -> Any:
    return x if x.rank < 3 or len(set(x.shape)) == 1 else m.decline("no cube")


# Axes of reductions.
@axes("shape", "sum of sum: the outer axes not moved", lambda x: op.reduce_sum(
    op.reduce_sum(x, axes=..., keepdims=False), axes=..., keepdims=False), "reassoc")  # fmt: skip
def _sum_of_sum(m: Any, x: Any) -> Any:
    both = {*inner(m)["axes"], *m.root.attrs["axes"]}
    if len(both) != len(inner(m)["axes"]) + len(m.root.attrs["axes"]):
        return m.decline("axes meet")
    return op.reduce_sum(x, axes=tuple(sorted(both)))


@axes(
    "shape",
    "sum over one axis -> over the last of that extent",
    lambda x: op.reduce_sum(op.neg(x), **REDUCE),
    "reassoc",
)
def _last_of_extent(m: Any, x: Any) -> Any:
    drop = m.root.attrs["axes"]
    if len(drop) != 1:
        return m.decline("several")
    last = max(i for i, d in enumerate(x.shape) if d == x.shape[drop[0]])
    return op.neg(op.reduce_sum(x, axes=(last,), keepdims=m.root.attrs["keepdims"]))


@axes("shape", "x - max(x) without keeping the axes", lambda x: x - op.reduce_max(x, axes=..., keepdims=True))
def _keepdims(m: Any, x: Any) -> Any:
    drop = m.root.operands[1].producer.attrs["axes"]
    return x - op.reduce_max(x, axes=drop) if drop else m.decline("nothing to drop")


@axes("shape", "argmax of -x -> argmin over the first axis", lambda x: op.argmax(op.neg(x), axis=..., keepdims=...))
def _argmax(m: Any, x: Any) -> Any:
    return op.argmin(x, axis=0, keepdims=m.root.attrs["keepdims"]) if x.dtype.is_float else m.decline("wraps")


@axes("shape", "softmax of -x over the last axis", lambda x: op.softmax(op.neg(x), axes=...), "reassoc")
def _last_axis(m: Any, x: Any) -> Any:
    return op.softmax(op.neg(x), axes=(-1,)) if m.root.attrs["axes"] != (x.rank - 1,) else m.decline("is the last")


# Cuts, padding, windows.
@axes("shape", "slice of slice: starts not scaled by the inner steps", lambda x: op.slice(op.slice(x, **CUT), **CUT))
def _slice_of_slice(m: Any, x: Any) -> Any:
    one, two = inner(m), m.root.attrs
    ints = [v for k in CUT for t in (one[k], two[k]) for v in t]
    if not all(isinstance(v, int) and v >= 0 for v in ints):
        return m.decline("symbols")
    starts = tuple(a + b for a, b in zip(one["starts"], two["starts"]))
    steps = tuple(a * b for a, b in zip(one["steps"], two["steps"]))
    counts = [-(-(b - a) // s) if b > a else 0 for a, b, s in zip(two["starts"], two["stops"], two["steps"])]
    stops = tuple(a + (n - 1) * s + 1 if n else a for a, n, s in zip(starts, counts, steps))
    return op.slice(x, starts=starts, stops=stops, steps=steps)


@axes("shape", "slice of reverse -> reverse of the same slice", lambda x: op.slice(op.reverse(x, axes=...), **CUT))
def _slice_of_reverse(m: Any, x: Any) -> Any:
    return op.reverse(op.slice(x, **m.root.attrs), axes=inner(m)["axes"])


@axes("shape", "pad of pad: low and high of the outer change places", lambda x: op.pad(op.pad(x, **PAD), **PAD))
def _pad_of_pad(m: Any, x: Any) -> Any:
    one, two = inner(m), m.root.attrs
    low = tuple(a + b for a, b in zip(one["low"], two["high"]))
    high = tuple(a + b for a, b in zip(one["high"], two["low"]))
    return op.pad(x, low=low, high=high)


@axes(
    "shape",
    "convolution with its strides in the other order",
    lambda x, w: op.relu(op.conv(x, w, **ANY_WINDOW)),
    "reassoc",
)
def _strides(m: Any, x: Any, w: Any) -> Any:
    return other_order(m, "strides", x, w)


@axes(
    "shape",
    "convolution with low and high padding exchanged",
    lambda x, w: op.relu(op.conv(x, w, **ANY_WINDOW)),
    "reassoc",
)
def _pads(m: Any, x: Any, w: Any) -> Any:
    pads = inner(m)["pads"]
    swapped = tuple((high, low) for low, high in pads)
    if swapped == pads or done(m):
        return m.decline("symmetric, or done")
    return op.relu(m.op.apply("conv", [x, w], {**inner(m), "pads": swapped})[0])


@axes("shape", "max pool with its window in the other order", lambda x: op.relu(op.max_pool(x, **POOL)))
def _window(m: Any, x: Any) -> Any:
    return other_order(m, "window", x)


@axes(
    "shape",
    "convolution with its dilations in the other order",
    lambda x, w: op.relu(op.conv(x, w, **ANY_WINDOW)),
    "reassoc",
)
def _dilations(m: Any, x: Any, w: Any) -> Any:
    return other_order(m, "dilations", x, w)


# Joining and looking up.
@axes("shape", "gather of relu over the first axis", lambda x, i: op.relu(op.gather(x, i, axis=..., batch_dims=0)))
def _gather(m: Any, x: Any, i: Any) -> Any:
    return op.gather(op.relu(x), i, axis=0) if inner(m)["axis"] else m.decline("is the first")


@axes(
    "shape",
    "concat of transposes: only the first order looked at",
    lambda x, y: op.concat(turned(x), turned(y), axis=...),
)
def _concat(m: Any, x: Any, y: Any) -> Any:
    perm = inner(m)["perm"]
    if x.rank != y.rank:
        return m.decline("ranks")
    return op.transpose(op.concat(x, y, axis=perm[m.root.attrs["axis"]]), perm=perm)


@axes("shape", "concat of reverses: parts stay in their order", lambda x, y: op.concat(
    op.reverse(x, axes=...), op.reverse(y, axes=...), axis=...))  # fmt: skip
def _concat_of_reverses(m: Any, x: Any, y: Any) -> Any:
    one = inner(m)["axes"]
    if m.root.operands[1].producer.attrs["axes"] != one:
        return m.decline("two orders")
    return op.reverse(op.concat(x, y, axis=m.root.attrs["axis"]), axes=one)


@axes("shape", "broadcast along the other axes of a cube", lambda x: op.broadcast_to(op.neg(x), shape=...))
def _broadcast(m: Any, x: Any) -> Any:
    target = m.result.shape
    if not x.rank or x.rank == len(target):
        return m.decline("no new axes")
    wide = op.reshape(x, shape=(*x.shape, *(1,) * (len(target) - x.rank)))
    return op.neg(op.broadcast_to(wide, shape=target))
