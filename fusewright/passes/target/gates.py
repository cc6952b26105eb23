"""Contractions that are read in equal parts (gates of recurrent cells, gated linear units) take their tail in.

Owns which nodes around a split contraction share its kernel. Must not know how that kernel is written.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ...ir.target import Target
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.values import make_splat, same_shape, splat_scalar
from .outline import inner_constant

MAX_TAIL = 64
MAX_OPERANDS = 16
MAX_OUTPUTS = 4


@graph_pass(numerics="exact", name="gates")
def gates(graph: Graph, ctx: PassContext) -> None:
    """Make ``fused`` nodes of a matrix product with constant weights, the cuts into equal parts, and what follows."""
    if ctx.target is None:
        return
    for g in subgraphs(graph):
        if not any(window(n) for n in g.nodes):
            continue  # without a cut there are no parts, and long sums of products would be searched for them
        at = _positions(g)
        for node in list(g.nodes):
            if node.graph is g and node.op.name == "matmul" and node.operands[1].const is not None:
                _try(node, at, ctx.target, ctx)


def _positions(graph: Graph) -> dict[Node, float]:
    """Numbers that grow along the node list; a node that comes later gets one between its neighbours'."""
    return {n: float(i) for i, n in enumerate(graph.nodes)}


def _number(node: Node, at: dict[Node, float]) -> None:
    before, after = node.previous, node.next
    assert before is not None and after is not None and node.graph is not None
    at[node] = (at[before] + at[after]) / 2
    if not at[before] < at[node] < at[after]:  # halved until nothing was left between them
        at.update(_positions(node.graph))


def window(node: Node) -> bool:
    """A cut without steps, which a kernel makes by reading from another place."""
    return node.op.name == "slice" and all(step == 1 for step in node.attrs["steps"])


@dataclass(slots=True)
class _Group:
    """What shares the kernel. ``wide`` nodes have all columns, ``parts`` cut them, ``tail`` goes on with one part."""

    anchor: Node
    at: dict[Node, float]
    width: int = 0
    wide: list[Node] = field(default_factory=list)
    parts: list[Node] = field(default_factory=list)
    tail: list[Node] = field(default_factory=list)

    @property
    def result(self) -> Value:
        return self.anchor.results[0]

    def members(self) -> set[Node]:
        return {self.anchor, *self.wide, *self.parts, *self.tail}

    def outputs(self) -> list[Value]:
        """Values that others read; those that a loop carries in the place of one of the operands first."""
        inside = self.members()
        found = [v for n in (*self.parts, *self.tail) for v in n.results if any(u not in inside for u in v.users)]
        graph = self.anchor.graph
        assert graph is not None
        place = {v: i for i, v in reversed(list(enumerate(graph.outputs)))}
        reads = {v for n in self.tail for v in n.operands} - set(self.anchor.operands)

        def goes_over(v: Value) -> bool:
            i = place.get(v, len(graph.inputs))
            return i < len(graph.inputs) and graph.inputs[i] in reads

        return sorted(found, key=lambda v: not goes_over(v))

    def outer(self) -> list[Value]:
        inside = self.members()
        reads = (v for n in (self.anchor, *self.wide, *self.parts, *self.tail) for v in n.operands)
        return [v for v in dict.fromkeys(reads) if v.producer not in inside and not inner_constant(v)]

    def span(self) -> tuple[float, float]:
        """Positions of the last thing that the group needs and of the first that needs the group."""
        need = [self.at[v.producer] for v in self.outer()]
        first = self.first_user()
        return max(need, default=-1.0), math.inf if first is None else self.at[first]

    def first_user(self) -> Node | None:
        """The first node that needs the group."""
        inside = self.members()
        users = (u for n in inside for v in n.results for u in v.users if u not in inside)
        return min(users, key=lambda u: self.at[u], default=None)


def _try(anchor: Node, at: dict[Node, float], target: Target, ctx: PassContext) -> None:
    graph = anchor.graph
    assert graph is not None
    if not any(_leads_to_cut(u) for u in anchor.results[0].users):
        return
    group = _Group(anchor, at)
    if not _split(group):
        return
    _grow(group)
    while group.tail:
        _absorb(group)
        need, users = group.span()
        outputs = group.outputs()
        fits = need < users and len(outputs) <= MAX_OUTPUTS and len(group.outer()) <= MAX_OPERANDS
        if fits and outputs and all(v.dtype is group.result.dtype and v.producer not in group.parts for v in outputs):
            if not (group.parts or any(window(n) for n in group.tail)):
                return
            region, outer = _region(group, outputs)
            if target.can_fuse("gated", region):
                return _replace(group, outputs, region, outer, ctx)
        group.tail.pop()
    ctx.decline(anchor, "no tail of its parts fits one kernel")


def _leads_to_cut(node: Node) -> bool:
    """A quick look before a group is grown."""
    return node.op.name == "slice" or node.op.kind == "elementwise"


def _split(group: _Group) -> bool:
    """Find the wide nodes and the parts. False when someone needs all columns together."""
    result = group.result
    columns, stack = result.shape[-1], [result]
    if not isinstance(columns, int):
        return False
    while stack:
        for user in stack.pop().users:
            if user in group.wide or user in group.parts:
                continue
            if _part(user, result, group):
                group.parts.append(user)
            elif _pointwise(user) and same_shape(user.results[0].shape, result.shape):
                group.wide.append(user)
                stack.append(user.results[0])
            else:
                return _narrow(group)
    if not group.parts:
        return _narrow(group)
    group.wide.sort(key=lambda n: group.at[n])
    return True


def _narrow(group: _Group) -> bool:
    """The contraction is read as one part: its tail starts at the result itself."""
    if any(window(n) for n in group.parts):
        return False
    group.wide, group.parts = [], []
    columns = group.result.shape[-1]
    group.width = columns if isinstance(columns, int) else 0
    return True


def _part(node: Node, like: Value, group: _Group) -> bool:
    """A cut of one part, as wide as the others."""
    if not window(node):
        return False
    y, start, columns = node.results[0], node.attrs["starts"][-1], like.shape[-1]
    width = y.shape[-1]
    if not isinstance(width, int) or not isinstance(start, int) or not isinstance(columns, int) or width < 1:
        return False
    if (
        group.width not in (0, width)
        or columns % width
        or start % width
        or not same_shape(y.shape[:-1], like.shape[:-1])
    ):
        return False
    group.width = width
    return True


def _pointwise(node: Node) -> bool:
    return node.op.kind == "elementwise" and len(node.results) == 1


def _grow(group: _Group) -> None:
    """Elementwise nodes behind the parts, as long as all else that they read is there before the kernel runs."""
    starts = [n.results[0] for n in group.parts] or [group.result]
    shape = (*group.result.shape[:-1], group.width)
    heap: list[tuple[float, Node]] = []
    seen: set[Node] = set()

    def offer(v: Value) -> None:
        for u in v.users:
            if u not in seen:
                seen.add(u)
                heapq.heappush(heap, (group.at[u], u))

    for v in starts:
        offer(v)
    inside = group.members()
    # Those that will not join and read the group: nothing from behind them may come in.
    fence = math.inf
    while heap and len(group.tail) < MAX_TAIL:
        at, node = heapq.heappop(heap)
        if node in inside:
            continue
        fits = _pointwise(node) and same_shape(node.results[0].shape, shape)
        fits = fits and (node.results[0].dtype is group.result.dtype or node.results[0].dtype.kind == "b")
        late = (v for v in node.operands if v.producer not in inside and group.at[v.producer] > fence)
        if not fits or any(not inner_constant(v) for v in late):
            fence = min(fence, at)
            continue
        group.tail.append(node)
        inside.add(node)
        offer(node.results[0])


def _absorb(group: _Group) -> None:
    """Cuts and elementwise nodes that only the tail reads are made on the way."""
    inside = group.members()
    shape = (*group.result.shape[:-1], group.width)
    changed = True
    while changed:
        changed = False
        for v in [v for n in group.tail for v in n.operands]:
            n = v.producer
            if n in inside or len(group.tail) >= MAX_TAIL or any(u not in group.tail for u in v.users):
                continue
            if not same_shape(v.shape, shape) or not (window(n) or _pointwise(n)):
                continue
            if v.dtype is not group.result.dtype and v.dtype.kind != "b":
                continue
            group.tail.insert(0, n)
            inside.add(n)
            changed = True


def _region(group: _Group, outputs: Iterable[Value]) -> tuple[Graph, list[Value]]:
    """The group as a closed region: cuts stand right behind what is read from outside and behind the contraction."""
    b = Builder(Graph(), origin=Origin.merge([n.origin for n in (group.anchor, *group.parts)], "gates"))
    outer = group.outer()
    mapping: dict[Value, Value] = {v: b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(outer)}
    wide, columns = {v for n in group.wide for v in n.results}, group.result.shape[-1]
    cut: dict[tuple[Value, int], Value] = {}

    def get(v: Value) -> Value:
        if v not in mapping and inner_constant(v):
            mapping[v] = Builder(b.graph, origin=v.producer.origin).constant(make_splat(splat_scalar(v), (), v.dtype))
        return mapping[v]

    def part(v: Value, start: int) -> Value:
        """Columns ``start`` and on of a value that all columns of the result meet."""
        key = (v, start)
        if key not in cut:
            if v in wide:
                n = v.producer
                made = Builder(b.graph, origin=n.origin).apply(n.op, [part(x, start) for x in n.operands], n.attrs)
                cut[key] = made[0]
            elif v.rank == 0 or v.shape[-1] != columns:
                cut[key] = get(v)
            else:
                lead = (None,) * (v.rank - 1)
                cut[key] = b.slice(get(v), starts=(*lead, start), stops=(*lead, start + group.width))
        return cut[key]

    def copy(n: Node) -> None:
        twin = Node(n.op, [get(v) for v in n.operands], n.attrs, [v.type for v in n.results], (), n.origin)
        b.graph.insert(twin)
        mapping.update(zip(n.results, twin.results, strict=True))

    copy(group.anchor)
    for n in group.parts:
        mapping[n.results[0]] = part(n.operands[0], n.attrs["starts"][-1])
    for n in sorted(group.tail, key=lambda n: group.at[n]):
        copy(n)
    return b.build(*(mapping[v] for v in outputs), names=[f"y{i}" for i, _ in enumerate(outputs)]), outer


def _replace(group: _Group, outputs: list[Value], region: Graph, outer: list[Value], ctx: PassContext) -> None:
    graph = group.anchor.graph
    assert graph is not None
    members = sorted(group.members(), key=lambda n: group.at[n])
    place = group.first_user()
    assert place is not None  # what is replaced has readers
    origin = Origin.merge([n.origin for n in members], "gates")
    results = Builder(graph, place, origin).apply("fused", outer, {"kind": "gated"}, [region])
    _number(results[0].producer, group.at)
    for old, new in zip(outputs, results, strict=True):
        graph.replace(old, new)
    for n in reversed(members):
        erase_dead(n)
    ctx.rewrote("gated")
