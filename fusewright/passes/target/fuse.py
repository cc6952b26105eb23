"""Fusion: views around attention, epilogues into contractions, prologues into reductions, then elementwise groups.

Owns which nodes share a kernel. A group stands where its last node stood; every rule below keeps positions consistent,
so no cycle can arise. Must not know how a kernel is written: it asks ``target.can_fuse``.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from ...ir.graph import Graph, Node, Value
from ...ir.target import Target
from ..engine.base import PassContext, graph_pass, subgraphs
from ..engine.values import same_shape
from .outline import build_region, fuse_nodes, inner_constant
from .surround import surround

BLOCKED = frozenset({"conv_blocked", "conv_transpose_blocked"})
ANCHORS = frozenset({"matmul", "conv", "conv_transpose"}) | BLOCKED
NORMALISES = frozenset({"softmax", "log_softmax", "layer_norm", "rms_norm"})
REDUCES = frozenset(f"reduce_{how}" for how in ("sum", "mean", "max", "min", "prod", "any", "all"))
MAX_GROUP = 64
MAX_OPERANDS = 16
MAX_SIBLINGS = 4
# Cheap enough to be computed again for every element that a smaller operand is spread over.
CHEAP = frozenset(
    "add sub mul neg abs maximum minimum relu cast eq ne lt le gt ge logical_not logical_and logical_or logical_xor "
    "where clip broadcast_to".split()
)


def _extends(anchor: Node) -> bool:
    """Whether a contraction can have an epilogue at all."""
    return anchor.op.name == "matmul" or anchor.operands[1].const is not None


class _Fuser:
    """Fusion of one graph. ``at`` holds positions: strictly growing along the node list."""

    def __init__(self, graph: Graph, target: Target, ctx: PassContext) -> None:
        self.graph, self.target, self.ctx = graph, target, ctx
        self.at: dict[Node, int] = {n: i for i, n in enumerate(graph.nodes)}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.graph is not None and node.op.name == "attention":
                self.attend(node)
        for node in list(self.graph.nodes):
            if node.graph is not None and node.op.name in ANCHORS:
                self.contract(node)
        for node in list(self.graph.nodes):
            if node.graph is not None and reduces(node):
                self.prologue(node)
        for node in list(reversed(self.graph.nodes)):
            if node.graph is not None and elementwise(node):
                self.group(node)

    def attend(self, node: Node) -> None:
        """Take the views around an attention and the making of its mask into its kernel."""

        def region_of(nodes: list[Node]) -> tuple[list[Node], list[Value], Graph, list[Value]]:
            ordered = sorted(nodes, key=lambda n: self.at[n])
            outputs = [ordered[-1].results[0]]
            return (ordered, outputs, *build_region(ordered, outputs))

        def accepts(nodes: list[Node]) -> bool:
            _, _, region, outer = region_of(nodes)
            return len(outer) <= MAX_OPERANDS and self.target.can_fuse("attention", region)

        nodes = surround(node, CHEAP, accepts)
        if len(nodes) > 1:
            ordered, outputs, region, outer = region_of(nodes)
            self._replace(ordered, outputs, "attention", region, outer)

    # Epilogues

    def contract(self, anchor: Node) -> None:
        """Take the elementwise chain behind ``anchor`` into it, as far as the target can."""
        if not _extends(anchor):
            return self.ctx.decline(anchor, "only convolutions of constant weights have an epilogue")
        closed = self._epilogue(anchor)
        for size in reversed(closed):
            nodes = self.grown[:size]
            output = nodes[-1].results[0]
            region, outer = build_region(nodes, [output])
            if self.target.can_fuse("contract", region):
                self._replace(nodes, [output], "contract", region, outer)
                return
        if closed:
            self.ctx.decline(anchor, "the target has no kernel with this epilogue")

    def _epilogue(self, anchor: Node) -> list[int]:
        """Grow a group forwards from ``anchor``; the sizes at which only its newest value is read outside."""
        result = anchor.results[0]
        self.grown = [anchor]
        inside = {anchor}
        # Values of the group that still have a reader outside it, with how many.
        open_uses = {result: result.use_count}
        heap: list[tuple[int, int, Node]] = []
        tick = 0

        def offer(v: Value) -> int:
            n = 0
            for user in v.users:
                heapq.heappush(heap, (self.at[user], tick + n, user))
                n += 1
            return n

        tick += offer(result)
        closed: list[int] = []
        seen = set()
        while heap and len(self.grown) < MAX_GROUP:
            node = heapq.heappop(heap)[2]
            if node in seen:
                continue
            seen.add(node)
            if not self._epilogue_step(node, result, inside) or self._anothers(node, anchor, inside):
                # It reads a value of the group from outside for good, so no later node could be the only output.
                break
            inside.add(node)
            self.grown.append(node)
            for v in node.operands:
                if v in open_uses:
                    open_uses[v] -= 1
                    if not open_uses[v]:
                        del open_uses[v]
            y = node.results[0]
            open_uses[y] = y.use_count
            tick += offer(y)
            if list(open_uses) == [y] and y.dtype is result.dtype:
                closed.append(len(self.grown))
        return closed

    def _epilogue_step(self, node: Node, result: Value, inside: set[Node]) -> bool:
        if node.op.kind != "elementwise" or len(node.results) != 1 or not node.results[0].uses:
            return False
        y = node.results[0]
        if not same_shape(y.shape, result.shape) or (y.dtype is not result.dtype and y.dtype.kind != "b"):
            return False
        for v in node.operands:
            if v.producer in inside or inner_constant(v):
                continue
            if v.dtype is not result.dtype or not (same_shape(v.shape, result.shape) or per_channel(v, result)):
                return False
        return True

    def _anothers(self, node: Node, anchor: Node, inside: set[Node]) -> bool:
        """A contraction behind ``anchor`` can take ``node`` in: so each adds to a sum what came before it.

        Taken in by the first of many contractions, the sum would make all their results wait for each other.
        """
        for v in node.operands:
            way = [node]
            while len(way) < MAX_GROUP and v.producer not in inside and v.use_count == 1:
                found = v.producer
                if found.op.name in ANCHORS:
                    taken = {found, *way}
                    later = self.at[found] > self.at[anchor] and _extends(found)
                    if later and all(self._epilogue_step(n, v, taken) for n in way):
                        return True
                    break
                full = [o for o in found.operands if same_shape(o.shape, v.shape)]
                if not elementwise(found) or not full:
                    break
                way.append(found)
                v = max(full, key=lambda o: self.at[o.producer])
        return False

    # Prologues

    def prologue(self, root: Node) -> None:
        """Take the elementwise nodes that only lead to the reduced operand of ``root`` into its kernel."""
        x = root.operands[0]
        nodes, chosen = [root], {root}
        heap = [(-self.at[x.producer], x.producer)]
        while heap and len(nodes) < MAX_GROUP:
            node = heapq.heappop(heap)[1]
            if node in chosen or not elementwise(node) or any(u not in chosen for u in node.results[0].users):
                continue
            full = same_shape(node.results[0].shape, x.shape)
            if not full and (node.op.name not in CHEAP or node.op.decompose is not None):
                continue
            nodes.append(node)
            chosen.add(node)
            for v in node.operands:
                heapq.heappush(heap, (-self.at[v.producer], v.producer))
        kind = "reduce" if root.op.name.startswith("reduce_") else "rows"
        while len(nodes) > 1:
            ordered = sorted(nodes, key=lambda n: self.at[n])
            region, outer = build_region(ordered, root.results)
            if len(outer) <= MAX_OPERANDS and self.target.can_fuse(kind, region):
                return self._replace(ordered, root.results, kind, region, outer)
            # Every prefix, in the order of growing, is a prologue of its own.
            nodes = nodes[: len(nodes) // 2]
            if len(nodes) <= 1:
                self.ctx.decline(root, "the target has no kernel with this prologue")

    # Elementwise groups

    def group(self, root: Node) -> None:
        """Grow a group backwards from ``root`` and fuse it."""
        nodes = self._backwards(root)
        while len(nodes) > 1:
            ordered = sorted(nodes, key=lambda n: self.at[n])
            chosen = set(ordered)
            results = [v for n in ordered for v in n.results if any(u not in chosen for u in v.users)]
            if not results:
                return
            region, outer = build_region(ordered, results)
            if len(outer) <= MAX_OPERANDS and self.target.can_fuse("elementwise", region):
                self._replace(ordered, results, "elementwise", region, outer)
                return
            # Every prefix, in the order of growing, is a group of its own.
            nodes = nodes[: len(nodes) // 2]
            if len(nodes) <= 1:
                self.ctx.decline(root, "the target has no kernel for this elementwise group")

    def _backwards(self, root: Node) -> list[Node]:
        nodes, chosen = [root], {root}
        seen = {root}
        heap: list[tuple[int, Node]] = []

        def offer(node: Node) -> None:
            # A window is read where it lies: what it is cut from stays outside.
            for v in () if window(node) else node.operands:
                if v.producer not in seen:
                    seen.add(v.producer)
                    heapq.heappush(heap, (-self.at[v.producer], v.producer))

        offer(root)
        while heap and len(nodes) < MAX_GROUP:
            node = heapq.heappop(heap)[1]
            if node in chosen or not (elementwise(node) or window(node)):
                continue
            siblings = self._joins(node, root, chosen)
            if siblings is None or len(nodes) + len(siblings) >= MAX_GROUP:
                continue
            for n in (*siblings, node):
                seen.add(n)
                nodes.append(n)
                chosen.add(n)
                offer(n)
        return nodes

    def _joins(self, node: Node, root: Node, chosen: set[Node]) -> list[Node] | None:
        """None: stays out; else the nodes that must come along, readers first.

        Members may be read outside the group only behind the group's place: so nothing outside can lead from one
        member to another. A reader before that place would have to wait, unless it can join as well.
        """
        y = node.results[0]
        full = same_shape(y.shape, root.results[0].shape)
        outside = [u for u in y.users if u not in chosen]
        if not full and (outside or node.op.name not in CHEAP or node.op.decompose is not None):
            return None
        early = sorted((u for u in outside if self.at[u] < self.at[root]), key=lambda u: -self.at[u])
        if len(early) > MAX_SIBLINGS:
            return None
        known = chosen.union(early)
        for u in early:
            if not (elementwise(u) or window(u)) or not same_shape(u.results[0].shape, y.shape):
                return None
            if any(v not in known and self.at[v] < self.at[root] for v in u.results[0].users):
                return None
        return early

    def _replace(
        self, nodes: Sequence[Node], outputs: Sequence[Value], kind: str, region: Graph, outer: list[Value]
    ) -> None:
        place = self.at[nodes[-1]]
        fused = fuse_nodes(nodes, outputs, kind, region, outer)
        self.at[fused] = place
        self.ctx.rewrote(kind)


def reduces(node: Node) -> bool:
    """A reduction or normalisation, whose kernel may compute what it reads."""
    return node.op.name in NORMALISES or node.op.name in REDUCES


def elementwise(node: Node) -> bool:
    """May be part of an elementwise group."""
    return len(node.results) == 1 and (node.op.kind == "elementwise" or node.op.name == "broadcast_to")


def window(node: Node) -> bool:
    """A cut without steps, which a kernel makes by reading from another place."""
    return node.op.name == "slice" and all(step == 1 for step in node.attrs["steps"])


def per_channel(v: Value, result: Value) -> bool:
    """One number, or one per channel of a contraction's result (per block and lane of a blocked one)."""
    shape = (1,) * (result.rank - v.rank) + v.shape
    if v.rank > result.rank:
        return False
    channels = {result.rank - 1}
    if result.producer.op.name in BLOCKED:
        channels.add(1)
        # Blocks and lanes go together: one without the other is no vector over the channels.
        if any((shape[i] == 1) != (result.shape[i] == 1) for i in channels) and any(d != 1 for d in shape):
            return False
    return all(d == 1 or (i in channels and d == result.shape[i]) for i, d in enumerate(shape))


@graph_pass(numerics="exact", name="fuse")
def fuse(graph: Graph, ctx: PassContext) -> None:
    """Make ``fused`` nodes: attention with views and mask, contractions, reductions, elementwise groups."""
    if ctx.target is None:
        return
    for g in subgraphs(graph):
        _Fuser(g, ctx.target, ctx).run()
