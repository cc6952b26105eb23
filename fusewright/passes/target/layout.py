"""Blocked layouts: where tensors are [N, C/block, spatial..., block] and where they are [N, spatial..., C].

Owns one forward walk that keeps a blocked twin for a value as long as its users can read it, so a CNN reorders once on
the way in and once on the way out. Padding lanes of a twin hold anything: only ops that keep lanes apart may read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.dims import Extent, compare_le
from ...core.dtypes import decode, encode
from ...ir.builder import Builder
from ...ir.graph import Const, Graph, Node, Origin, Value
from ...ir.ops.blocked import to_blocked_array
from ...ir.target import Target
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.values import same_shape, splat_scalar


@dataclass(slots=True)
class Twin:
    """The blocked form of a plain value with ``channels`` on its last axis."""

    value: Value
    channels: int


class _Layout:
    def __init__(self, graph: Graph, target: Target, ctx: PassContext) -> None:
        self.graph, self.target, self.ctx = graph, target, ctx
        self.block = target.block
        self.twins: dict[Value, Twin] = {}

    def run(self) -> None:
        nodes = list(self.graph.nodes)
        # Dead code that was there before is not this pass's business.
        idle = {n for n in nodes if not any(v.uses for v in n.results)}
        for node in nodes:
            if node.graph is None or len(node.results) != 1:
                continue
            if node.op.name == "from_blocked" and node.operands[0].shape[-1] == self.block:
                self.twins[node.results[0]] = Twin(node.operands[0], node.attrs["channels"])
                continue
            handler = HANDLERS.get(node.op.name)
            if handler is None and node.op.kind == "elementwise":
                handler = _elementwise
            twin = handler(self, node) if handler is not None else None
            if twin is not None:
                self.adopt(node, twin)
        for plain, twin in list(self.twins.items()):
            for v in (plain, twin.value):
                if v.producer.graph is not None and v.producer not in idle:
                    erase_dead(v.producer)

    def builder(self, node: Node) -> Builder:
        return Builder(self.graph, node, Origin.merge([node.origin], "layout"))

    def adopt(self, node: Node, twin: Twin) -> None:
        """``twin`` is the blocked form of the node's result: plain readers get a reorder or view of it."""
        old = node.results[0]
        plain = self.unblock(self.builder(node), twin, old)
        self.twins[plain] = twin
        self.graph.replace(old, plain)
        erase_dead(node)
        self.ctx.rewrote(node.op.name)

    def unblock(self, b: Any, twin: Twin, like: Value) -> Value:
        inner = twin.value.shape[2:-1]
        if twin.channels % self.block == 0 and all(d == 1 for d in inner):
            return b.reshape(twin.value, shape=like.shape)
        return b.from_blocked(twin.value, channels=twin.channels)

    def blocked(self, v: Value, b: Any) -> Value | None:
        """``v`` blocked: its twin, or a reorder right behind it that later readers share. None when it cannot be."""
        twin = self.twins.get(v)
        if twin is not None:
            return twin.value
        channels = v.shape[-1] if v.rank >= 2 else None
        if not isinstance(channels, int) or channels == 0:
            return None
        after = v.producer.next
        here = Builder(self.graph, after, Origin.merge([v.producer.origin], "layout")) if after is not None else b
        if v.const is not None:
            made = here.constant(blocked_const(v.const, self.block))
        elif channels % self.block == 0 and all(d == 1 for d in v.shape[1:-1]):
            made = here.reshape(v, shape=(v.shape[0], channels // self.block, *v.shape[1:-1], self.block))
        else:
            made = here.to_blocked(v, block=self.block)
        self.twins[v] = Twin(made, channels)
        return made

    def operand(self, v: Value, shape: Sequence[Extent], b: Any) -> Value | None:
        """An operand of an elementwise op with result ``shape``, broadcastable against the blocked result."""
        rank, channels = len(shape), shape[-1]
        if v in self.twins and v.rank == rank and channels == 1:
            return self.twins[v].value
        if all(d == 1 for d in v.shape):
            element = splat_scalar(v) if v.const is not None else None
            if element is not None and v.const is not None:
                return v if v.rank == 0 else b.constant(Const(v.const.array.reshape(()), v.dtype))
            return v if v.rank == 0 else b.reshape(v, shape=())
        full = (*(1,) * (rank - v.rank), *v.shape)
        lead = (1,) * (rank - v.rank)
        if full[-1] == 1 and channels != 1:
            if v.const is not None:
                array = v.const.array.reshape(lead + v.const.array.shape)
                return b.constant(Const(np.expand_dims(array, 1), v.dtype))
            return b.reshape(v, shape=(full[0], 1, *full[1:-1], 1))
        if v.const is not None:
            array = v.const.array.reshape(lead + v.const.array.shape)
            return b.constant(blocked_const(Const(array, v.dtype), self.block))
        if v.rank == rank:
            return self.blocked(v, b)
        raised = b.reshape(v, shape=full)
        twin = _reshape(self, raised.producer)
        if twin is None:
            return self.blocked(raised, b)
        erase_dead(raised.producer)
        return twin.value


def blocked_const(const: Const, block: int) -> Const:
    """[N, spatial..., C] contents as [N, C/block, spatial..., block], zero padded."""
    array = to_blocked_array(np.asarray(decode(const.array, const.dtype)), block)
    return Const(np.ascontiguousarray(encode(array, const.dtype)), const.dtype)


Handler = Callable[[_Layout, Node], Twin | None]
HANDLERS: dict[str, Handler] = {}


def _handles(*names: str) -> Callable[[Handler], Handler]:
    def register(fn: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, fn))
        return fn

    return register


@_handles("conv", "conv_transpose")
def _conv(s: _Layout, node: Node) -> Twin | None:
    if not s.target.prefers_blocked(node, node.operands[0] in s.twins):
        return None
    b = s.builder(node)
    x, weights = node.operands
    channels = node.results[0].shape[-1]
    # A first layer with few channels reads them as they lie: a reorder would move mostly padding.
    plain = x not in s.twins and node.attrs["groups"] == 1 and compare_le(x.shape[-1], s.block - 1) is True
    source = x if plain else s.blocked(x, b)
    if source is None or not isinstance(channels, int):
        s.ctx.decline(node, "its channels are not fixed")
        return None
    attrs = {**node.attrs, "block": s.block, "x_blocked": not plain}
    return Twin(b.apply(node.op.name + "_blocked", [source, weights], attrs)[0], channels)


@_handles("max_pool", "avg_pool")
def _pool(s: _Layout, node: Node) -> Twin | None:
    twin = s.twins.get(node.operands[0])
    if twin is None or twin.value.rank < 4:
        return None
    return Twin(s.builder(node).apply(node.op.name + "_blocked", [twin.value], node.attrs)[0], twin.channels)


@_handles("reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod")
def _reduce(s: _Layout, node: Node) -> Twin | None:
    x = node.operands[0]
    twin, axes = s.twins.get(x), node.attrs["axes"]
    if twin is None or not axes or 0 in axes or x.rank - 1 in axes:
        return None
    inner = tuple(a + 1 for a in axes)
    b = s.builder(node)
    return Twin(b.apply(node.op, [twin.value], {"axes": inner, "keepdims": node.attrs["keepdims"]})[0], twin.channels)


@_handles("concat")
def _concat(s: _Layout, node: Node) -> Twin | None:
    """Follows the parts that are blocked already, unless the others are more."""
    y, axis = node.results[0], node.attrs["axis"]
    lack = [v for v in node.operands if v not in s.twins]
    if y.rank < 3 or len(lack) == len(node.operands):
        return None
    have = [v for v in node.operands if v in s.twins]
    size: Callable[[Sequence[Value]], Extent] = lambda parts: sum((v.shape[axis] for v in parts), 0)
    if lack and compare_le(size(lack), size(have)) is not True:
        return None
    widths = [v.shape[-1] for v in node.operands]
    # Only the last part may end inside a block.
    if axis == y.rank - 1 and any(not isinstance(c, int) or c % s.block for c in widths[:-1]):
        s.ctx.decline(node, "a part ends inside a block of channels")
        return None
    b = s.builder(node)
    parts = [s.blocked(v, b) for v in node.operands]
    channels = y.shape[-1]
    if any(p is None for p in parts) or not isinstance(channels, int):
        return None
    at = 0 if axis == 0 else 1 if axis == y.rank - 1 else axis + 1
    return Twin(b.concat(*parts, axis=at), channels)


def _inner(values: Sequence[Any], channel: Any, lane: Any) -> tuple[Any, ...]:
    """A per-axis attribute of a plain tensor for its blocked form."""
    return (values[0], channel, *values[1:-1], lane)


@_handles("pad")
def _pad(s: _Layout, node: Node) -> Twin | None:
    twin, low, high = s.twins.get(node.operands[0]), node.attrs["low"], node.attrs["high"]
    if twin is None or twin.value.rank < 4 or low[-1] != 0 or high[-1] != 0:
        return None
    attrs = {"low": _inner(low, 0, 0), "high": _inner(high, 0, 0), "mode": node.attrs["mode"]}
    return Twin(s.builder(node).apply(node.op, [twin.value, *node.operands[1:]], attrs)[0], twin.channels)


@_handles("slice")
def _slice(s: _Layout, node: Node) -> Twin | None:
    x = node.operands[0]
    twin = s.twins.get(x)
    if twin is None or twin.value.rank < 4:
        return None
    start, stop, step = (node.attrs[k][-1] for k in ("starts", "stops", "steps"))
    if step != 1 or not isinstance(start, int) or not isinstance(stop, int) or start >= stop:
        return None
    if start % s.block or (stop % s.block and stop != twin.channels):
        s.ctx.decline(node, "the channels taken do not begin or end with a block")
        return None
    attrs = {
        "starts": _inner(node.attrs["starts"], start // s.block, 0),
        "stops": _inner(node.attrs["stops"], -(-stop // s.block), s.block),
        "steps": _inner(node.attrs["steps"], 1, 1),
    }
    return Twin(s.builder(node).apply(node.op, [twin.value], attrs)[0], stop - start)


@_handles("resize")
def _resize(s: _Layout, node: Node) -> Twin | None:
    x = node.operands[0]
    twin = s.twins.get(x)
    if twin is None or twin.value.rank < 4:
        return None
    b: Any = s.builder(node)
    t = twin.value
    # Blocks join the batch: two views around a resize that knows nothing of blocks.
    merged = b.reshape(t, shape=(t.shape[0] * t.shape[1], *t.shape[2:]))
    y = b.apply(node.op, [merged, *node.operands[1:]], node.attrs)[0]
    return Twin(b.reshape(y, shape=(t.shape[0], t.shape[1], *y.shape[1:])), twin.channels)


def _wanted(v: Value) -> bool:
    """An op that may read blocks is among the readers of ``v`` and of what elementwise ops and resizing make of it."""
    seen, todo = {v}, [v]
    while todo:
        for user in todo.pop().users:
            if user.op.kind != "elementwise" and user.op.name not in ("gather", "resample"):
                if user.op.name in HANDLERS:
                    return True
                continue
            new = [r for r in user.results if r not in seen]
            seen.update(new)
            todo += new
    return False


def _along_space(s: _Layout, node: Node, axes: Sequence[int]) -> Twin | None:
    """The twin of the operand, unless channels are among ``axes`` or a larger result would be put in order again."""
    x, y = node.operands[0], node.results[0]
    twin = s.twins.get(x)
    if twin is None or axes[0] == 0 or axes[-1] == x.rank - 1:
        return None
    return twin if compare_le(y.type.size, x.type.size) is True or _wanted(y) else None


@_handles("resample")
def _resample(s: _Layout, node: Node) -> Twin | None:
    """Interpolation weighs whole pixels: blocks are one more axis in front."""
    axes = node.attrs["axes"]
    twin = _along_space(s, node, axes)
    if twin is None:
        return None
    attrs = {"axes": tuple(a + 1 for a in axes)}
    return Twin(s.builder(node).apply(node.op, [twin.value, *node.operands[1:]], attrs)[0], twin.channels)


@_handles("gather")
def _gather(s: _Layout, node: Node) -> Twin | None:
    """Places along a spatial axis, as nearest resizing picks them."""
    indices, axis = node.operands[1], node.attrs["axis"]
    if indices.rank != 1 or node.attrs["batch_dims"]:
        return None
    twin = _along_space(s, node, (axis,))
    return None if twin is None else Twin(s.builder(node).gather(twin.value, indices, axis=axis + 1), twin.channels)


@_handles("reshape")
def _reshape(s: _Layout, node: Node) -> Twin | None:
    """[N, C] and [N, 1, 1, C] are one tensor: the twin follows through such reshapes only."""
    x, y = node.operands[0], node.results[0]
    twin = s.twins.get(x)
    if twin is None or y.rank < 2 or not same_shape((x.shape[0], x.shape[-1]), (y.shape[0], y.shape[-1])):
        return None
    if any(d != 1 for d in (*x.shape[1:-1], *y.shape[1:-1])):
        return None
    t = twin.value
    return Twin(s.builder(node).reshape(t, shape=(t.shape[0], t.shape[1], *y.shape[1:-1], s.block)), twin.channels)


def _weight(v: Value) -> int:
    """How many axes an operand really spans: what it would cost to reorder it, roughly."""
    return sum(d != 1 for d in v.shape)


def _elementwise(s: _Layout, node: Node) -> Twin | None:
    """Follows the operands that are blocked already, unless as many large ones are not."""
    y = node.results[0]
    channels = y.shape[-1] if y.rank >= 3 else None
    if not isinstance(channels, int) or channels == 0:
        return None
    full = [v for v in dict.fromkeys(node.operands) if _weight(v) == _weight(y) and v.rank == y.rank]
    have = [v for v in full if v in s.twins]
    lack = [v for v in full if v not in s.twins and v.const is None]
    if not have or len(have) < len(lack):
        return None
    b = s.builder(node)
    operands = [s.operand(v, y.shape, b) for v in node.operands]
    if any(v is None for v in operands):
        return None
    return Twin(b.apply(node.op, operands, node.attrs)[0], channels)


@graph_pass(numerics="reassoc", name="layout")
def layout(graph: Graph, ctx: PassContext) -> None:
    """Lay convolutional stretches out in blocks of channels where the target prefers that."""
    if ctx.target is None or not ctx.target.block:
        return
    for g in subgraphs(graph):
        _Layout(g, ctx.target, ctx).run()
