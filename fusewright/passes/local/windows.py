"""Windows and edges that do less than they say: pooling over one element, cuts through a padding.

Owns exact local rules that move less memory than what they replace. Must not know targets; it runs behind the portable
graph, which keeps what the model says.
"""

from __future__ import annotations

from typing import Any

from ...core.dims import Extent, compare_eq
from ...ir.graph import Graph, Node, Value
from ..engine.base import GraphPass, PassContext
from ..engine.driver import LocalRule, drive
from ..engine.values import same_shape
from .canonicalise import RULES as FORMS
from .canonicalise import rule

RULES: list[LocalRule] = []
# First and last element of the operand that is taken (last + 1), step; padding before and behind what is taken.
Cut = tuple[Extent, Extent, int, Extent, Extent]


@rule("pool of one element", "max_pool", "avg_pool", into=RULES)
def _pool_of_one(node: Node, b: Any) -> Value | None:
    """The largest of one number, and its mean, is the number."""
    x, attrs = node.operands[0], node.attrs
    padding = [p for pair in attrs["pads"] for p in pair]
    if any(k != 1 for k in attrs["window"]) or any(compare_eq(p, 0) is not True for p in padding):
        return None
    starts, steps = (0,) * x.rank, (1, *attrs["strides"], 1)
    y: Value = b.slice(x, starts=starts, stops=x.shape, steps=steps)
    return y if same_shape(y.shape, node.result.shape) else None


@rule("slice of pad", "slice", into=RULES)
def _slice_of_pad(node: Node, b: Any) -> Value | None:
    """Cut first: what is cut away is never padded. A padding that others read as a whole is not made twice."""
    pad = node.operands[0].producer
    if pad.op.name != "pad":
        return None
    x = pad.operands[0]
    cuts = [_cut(node, pad, x.shape[a], a) for a in range(x.rank)]
    known = [c for c in cuts if c is not None]
    if len(known) < len(cuts):
        return None
    low, high = [c[3] for c in known], [c[4] for c in known]
    padded = any(compare_eq(p, 0) is not True for p in (*low, *high))
    if padded and len(pad.result.uses) > 1:
        return None
    y: Value = b.slice(x, starts=[c[0] for c in known], stops=[c[1] for c in known], steps=[c[2] for c in known])
    if padded:
        y = b.apply(pad.op, [y, *pad.operands[1:]], {**pad.attrs, "low": tuple(low), "high": tuple(high)})[0]
    return y if same_shape(y.shape, node.result.shape) else None


def _cut(node: Node, pad: Node, size: Extent, axis: int) -> Cut | None:
    """What ``node`` takes of one axis of the operand of ``pad``, of extent ``size``; None where that is not known."""
    start, stop, step = (node.attrs[k][axis] for k in ("starts", "stops", "steps"))
    low, high = pad.attrs["low"][axis], pad.attrs["high"][axis]
    if compare_eq(low, 0) is True and compare_eq(high, 0) is True:
        return start, stop, step, 0, 0
    whole = pad.result.shape[axis]
    if step == 1 and compare_eq(start, 0) is True and compare_eq(stop, whole) is True:
        return 0, size, 1, low, high
    count = node.result.shape[axis]
    if pad.attrs["mode"] != "constant" or not all(isinstance(e, int) for e in (start, count, low, high, size)):
        return None
    before = min(max(-((start - low) // step), 0), count)  # elements taken from the low padding
    inside = min(max(-((start - low - size) // step), 0), count) - before
    if inside <= 0:
        return None  # nothing but padding
    first = start + before * step - low
    return first, first + (inside - 1) * step + 1, step, before, count - before - inside


def run(graph: Graph, ctx: PassContext) -> None:
    """Turn pooling over one element into slices, and cut before padding."""
    drive(graph, [*RULES, *FORMS], ctx)


windows = GraphPass(run, "windows", "exact")
__all__ = ["RULES", "windows"]
