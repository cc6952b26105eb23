"""One form for what can be written in several: movement that moves nothing, movement of movement, needless spreading.

Owns exact local rules on shapes, casts, padding and broadcasts. Must not reorder arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.dims import Extent
from ...core.dtypes import BF16, FLOATS, DType, decode
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ...ir.ops._common import broadcast
from ..engine.base import GraphPass, PassContext
from ..engine.driver import LocalRule, drive
from ..engine.values import make_splat, same_scalar, same_shape, splat_scalar

Fn = Callable[[Node, Any], Value | None]


@dataclass(frozen=True, slots=True)
class Function:
    """A local rule given as a function ``(node, builder) -> replacement or None``."""

    name: str
    roots: frozenset[str]
    function: Fn

    def attempt(self, node: Node, ctx: PassContext) -> Sequence[Value] | None:
        assert node.graph is not None
        builder = Builder(node.graph, node, Origin.merge([node.origin], self.name))
        value = self.function(node, builder)
        return None if value is None else (value,)


RULES: list[LocalRule] = []


def rule(name: str, *roots: str, into: list[LocalRule] | None = None) -> Callable[[Fn], Fn]:
    """Register a function as a rule of this pass (or of the list ``into``)."""

    def register(fn: Fn) -> Fn:
        (RULES if into is None else into).append(Function(name, frozenset(roots), fn))
        return fn

    return register


def _source(node: Node, op: str) -> Node | None:
    producer = node.operands[0].producer
    return producer if producer.op.name == op else None


@rule("identity", "reshape", "broadcast_to", "slice", "pad", "cast")
def _identity(node: Node, b: Any) -> Value | None:
    # For a slice or pad an equal shape leaves nothing to cut or add; NumPy slices have steps >= 1.
    x, y = node.operands[0], node.result
    return x if x.dtype is y.dtype and same_shape(x.shape, y.shape) else None


@rule("identity order", "transpose", "reverse", "concat")
def _identity_order(node: Node, b: Any) -> Value | None:
    x = node.operands[0]
    if node.op.name == "transpose":
        return x if list(node.attrs["perm"]) == list(range(x.rank)) else None
    if node.op.name == "reverse":
        return x if all(x.shape[a] == 1 for a in node.attrs["axes"]) else None
    return x if len(node.operands) == 1 else None


@rule("whole update", "dynamic_update_slice")
def _whole_update(node: Node, b: Any) -> Value | None:
    # A window as large as the whole fits in one place only, wherever it is asked to start.
    return node.operands[1] if same_shape(node.operands[0].shape, node.operands[1].shape) else None


@rule("reduce nothing", *(f"reduce_{how}" for how in ("sum", "mean", "max", "min", "prod", "any", "all")))
def _reduce_nothing(node: Node, b: Any) -> Value | None:
    return node.operands[0] if not node.attrs["axes"] else None


@rule("view of view", "reshape", "broadcast_to")
def _view_of_view(node: Node, b: Any) -> Value | None:
    inner = _source(node, node.op.name)
    if inner is None:
        return None
    return b.apply(node.op, [inner.operands[0]], {"shape": node.result.shape})[0]


@rule("transpose of transpose", "transpose")
def _transpose_of_transpose(node: Node, b: Any) -> Value | None:
    inner = _source(node, "transpose")
    if inner is None:
        return None
    first = inner.attrs["perm"]
    return b.transpose(inner.operands[0], perm=tuple(first[p] for p in node.attrs["perm"]))


@rule("transpose that only moves ones", "transpose")
def _transpose_of_ones(node: Node, b: Any) -> Value | None:
    x, perm = node.operands[0], node.attrs["perm"]
    kept = [p for p in perm if x.shape[p] != 1]
    return b.reshape(x, shape=node.result.shape) if kept == sorted(kept) and list(perm) != sorted(perm) else None


@rule("slice of slice", "slice")
def _slice_of_slice(node: Node, b: Any) -> Value | None:
    inner = _source(node, "slice")
    if inner is None:
        return None
    starts: list[Extent] = []
    stops: list[Extent] = []
    steps: list[int] = []
    for a in range(node.result.rank):
        i_start, i_step = inner.attrs["starts"][a], inner.attrs["steps"][a]
        start, step, size = node.attrs["starts"][a], node.attrs["steps"][a], node.result.shape[a]
        whole = [n for n in (node, inner) if n.attrs["steps"][a] == 1 and n.result.shape[a] == n.operands[0].shape[a]]
        if whole:  # one of them takes everything there is: the other one decides, whatever the extent
            other = inner if whole[0] is node else node
            starts.append(other.attrs["starts"][a])
            stops.append(other.attrs["stops"][a])
            steps.append(other.attrs["steps"][a])
            continue
        if not all(isinstance(v, int) for v in (i_start, start, size)):
            return None
        starts.append(i_start + start * i_step)
        steps.append(i_step * step)
        # The last element taken decides, so that the whole stays inside the first operand.
        stops.append(starts[-1] + (size - 1) * steps[-1] + 1 if size else starts[-1])
    return b.slice(inner.operands[0], starts=starts, stops=stops, steps=steps)


@rule("reverse of reverse", "reverse")
def _reverse_of_reverse(node: Node, b: Any) -> Value | None:
    inner = _source(node, "reverse")
    return inner.operands[0] if inner is not None and inner.attrs["axes"] == node.attrs["axes"] else None


def holds(wide: DType, narrow: DType) -> bool:
    """Every value of ``narrow`` is exact in ``wide``."""
    if narrow is BF16:
        return wide.is_float and wide.size >= 4 or wide is BF16
    if wide is BF16:
        return narrow.size == 1
    return bool(np.can_cast(narrow.np, wide.np, "safe"))


@rule("cast there and back", "cast")
def _cast_of_cast(node: Node, b: Any) -> Value | None:
    inner = _source(node, "cast")
    if inner is None:
        return None
    x, middle, out = inner.operands[0], inner.result.dtype, node.result.dtype
    if not holds(middle, x.dtype):
        return None
    if middle.is_float and x.dtype.is_int and out.is_int and not holds(out, x.dtype):
        return None  # integers wrap, floats out of range do not
    # A bool is != 0 and a number to bool is too, so a detour through an exact type changes nothing.
    return x if x.dtype is out else b.cast(x, to=out)


@rule("empty parts of concat", "concat")
def _concat_empty(node: Node, b: Any) -> Value | None:
    axis = node.attrs["axis"]
    kept = [v for v in node.operands if v.shape[axis] != 0]
    return b.concat(*kept, axis=axis) if kept and len(kept) < len(node.operands) else None


@rule("concat of concat", "concat")
def _concat_of_concat(node: Node, b: Any) -> Value | None:
    axis = node.attrs["axis"]
    parts: list[Value] = []
    for v in node.operands:
        inner = v.producer
        flat = inner.op.name == "concat" and inner.attrs["axis"] == axis and len(v.uses) == 1
        parts += inner.operands if flat else [v]
    return b.concat(*parts, axis=axis) if len(parts) > len(node.operands) else None


def zero_padding(node: Node) -> bool:
    if node.op.name != "pad" or node.attrs["mode"] != "constant":
        return False
    value = splat_scalar(node.operands[1]) if len(node.operands) > 1 else 0
    return value is not None and same_scalar(value, 0, node.result.dtype)


@rule("pad into convolution", "conv")
def _pad_into_conv(node: Node, b: Any) -> Value | None:
    pad = node.operands[0].producer
    weights = node.operands[1].const
    if not zero_padding(pad) or weights is None or not np.isfinite(decode(weights.array, weights.dtype)).all():
        # A zero of the input times an infinity is NaN; the padding of a convolution is no input.
        return None
    low, high = pad.attrs["low"], pad.attrs["high"]
    if any(d != 0 for d in (low[0], high[0], low[-1], high[-1])):
        return None
    pads = tuple((a + p, c + q) for (a, c), p, q in zip(node.attrs["pads"], low[1:-1], high[1:-1]))
    return b.apply(node.op, [pad.operands[0], node.operands[1]], {**node.attrs, "pads": pads})[0]


@rule("choose by constant", "where")
def _where_constant(node: Node, b: Any) -> Value | None:
    condition = splat_scalar(node.operands[0])
    if condition is None:
        return None
    chosen = node.operands[1 if bool(condition) else 2]
    if same_shape(chosen.shape, node.result.shape):
        return chosen
    return b.broadcast_to(chosen, shape=node.result.shape)


@rule("needless spreading")
def _needless_spreading(node: Node, b: Any) -> Value | None:
    """Elementwise ops broadcast by themselves: an operand that was spread out before is read as it was."""
    if node.op.kind != "elementwise" or len(node.operands) < 2:
        return None
    operands = list(node.operands)
    changed = False
    for i, v in enumerate(operands):
        lean = _lean(v, b)
        if lean is None:
            continue
        shapes = [lean.shape if j == i else w.shape for j, w in enumerate(operands)]
        if same_shape(broadcast(shapes), node.result.shape):
            operands[i], changed = lean, True
    return b.apply(node.op, operands, node.attrs)[0] if changed else None


def _lean(v: Value, b: Any) -> Value | None:
    const = v.const
    if const is not None:
        if not const.is_splat or v.rank == 0:
            return None
        return b.constant(make_splat(splat_scalar(v), (), const.dtype))
    return v.producer.operands[0] if v.producer.op.name == "broadcast_to" else None


def run(graph: Graph, ctx: PassContext) -> None:
    """Bring shapes, casts and broadcasts to one form."""
    drive(graph, RULES, ctx)


canonicalise = GraphPass(run, "canonicalise", "exact")
__all__ = ["FLOATS", "RULES", "Function", "canonicalise", "holds", "rule"]
