"""Positions that no later convolution reads are not computed: strides of 1x1 convolutions go to what comes before.

Owns how far a stride can go, and when that pays. Must not know targets; it runs behind the portable graph.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ..engine.base import GraphPass, PassContext, erase_dead

_WINDOWS = frozenset({"conv", "max_pool", "avg_pool"})


def skipping(conv: Node) -> tuple[int, ...] | None:
    """The strides of a 1x1 convolution that leaves out positions of its operand, else None."""
    strides = tuple(conv.attrs["strides"])
    window = conv.operands[1].shape[: len(strides)]
    pads = [p for pair in conv.attrs["pads"] for p in pair]
    return strides if all(k == 1 for k in window) and all(p == 0 for p in pads) and max(strides) > 1 else None


def every(b: Builder, v: Value, strides: tuple[int, ...]) -> Value:
    """Every ``strides``-th position of ``v``, whose last axis is no position and whose axes before them neither. Where
    ``v`` lacks axes, as broadcasting allows, it gets them."""
    lead = v.rank - len(strides) - 1
    if lead < 0:
        v, lead = b.reshape(v, shape=(*(1,) * -lead, *v.shape)), 0
    steps = [1] * lead + [1 if d == 1 else s for s, d in zip(strides, v.shape[lead:-1], strict=True)] + [1]
    return b.apply("slice", [v], {"starts": (0,) * v.rank, "stops": v.shape, "steps": tuple(steps)})[0]


def _stride(reader: Node, x: Value) -> tuple[int, ...] | None:
    """How far apart the positions of ``x`` are that a 1x1 convolution reads; None for any other reader."""
    if reader.op.name != "conv" or reader.operands[0] is not x or reader.operands[1] is x:
        return None
    return skipping(reader)


class _Thinning:
    """What is made of a value of which every ``strides``-th position is read, by ``readers`` alone."""

    def __init__(self, b: Builder, strides: tuple[int, ...]) -> None:
        self.b, self.strides = b, strides
        self.saved = self.cut = 0  # convolutions that compute less; values that are copied in part
        self.values: dict[Value, Value] = {}

    def of(self, v: Value, readers: set[Node]) -> Value:
        if v not in self.values:
            self.values[v] = self._of(v, readers)
        return self.values[v]

    def _of(self, v: Value, readers: set[Node]) -> Value:
        node = v.producer
        if set(v.users) <= readers:
            if node.op.name in _WINDOWS and len(node.attrs["strides"]) == len(self.strides):
                self.saved += node.op.name == "conv"
                strides = tuple(a * s for a, s in zip(node.attrs["strides"], self.strides, strict=True))
                return self.b.apply(node.op, node.operands, {**node.attrs, "strides": strides})[0]
            if node.op.kind == "elementwise" and not node.regions:
                operands = [self._operand(o, node) for o in node.operands]
                return self.b.apply(node.op, operands, dict(node.attrs))[0]
        self.cut += 1
        return every(self.b, v, self.strides)

    def _operand(self, o: Value, user: Node) -> Value:
        """An operand of an elementwise op: as it is where it is the same at every position."""
        image = o.shape[:-1][-len(self.strides) :]
        return o if all(d == 1 for d in image) else self.of(o, {user})


def _move(graph: Graph, x: Value, ctx: PassContext) -> bool:
    """Let what makes ``x`` compute only what its readers take. False where that is not so, or saves nothing."""
    readers = list(dict.fromkeys(x.users))
    found = {_stride(r, x) for r in readers}
    strides = next(iter(found), None)
    if len(found) != 1 or strides is None or x.rank != len(strides) + 2:
        return False
    if not all(isinstance(d, int) for d in x.shape[1:-1]):
        ctx.decline(x.producer, "the image has a free size")
        return False
    at = {n: i for i, n in enumerate(graph.nodes)}
    thinning = _Thinning(Builder(graph, min(readers, key=at.__getitem__), x.producer.origin), strides)
    thin = thinning.of(x, set(readers))
    if not thinning.saved or thinning.cut > thinning.saved:
        erase_dead(thin.producer)
        ctx.decline(x.producer, "no convolution before it would compute less, or more would be copied than that saves")
        return False
    for reader in readers:
        attrs = {**reader.attrs, "strides": (1,) * len(strides)}
        made = Builder(graph, reader, reader.origin).apply(reader.op, [thin, *reader.operands[1:]], attrs)[0]
        graph.replace(reader.result, made)
        graph.erase(reader)
    erase_dead(x.producer)
    return True


def run(graph: Graph, ctx: PassContext) -> None:
    """Give the stride of a 1x1 convolution to the convolutions before it, through elementwise ops."""
    for node in reversed(list(graph.nodes)):
        if node.graph is graph and len(node.results) == 1 and node.results[0].uses:
            where = node.where
            if _move(graph, node.results[0], ctx):
                ctx.rewrote("stride of 1x1 convolution", where=where)


strides = GraphPass(run, "strides", "exact")
__all__ = ["every", "skipping", "strides"]
