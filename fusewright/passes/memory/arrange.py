"""The best layout of a graph's memory: tries orders and shared storage, keeps what the offset planner finds smallest.

Owns the choice between candidates, made on planned bytes at a few bindings. Must not know how places are assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ...core.bounds import upper
from ...core.dims import evaluate
from ...core.errors import FusewrightError
from ...core.planner import Lifetimes, plan_offsets
from ...ir.footprint import footprint
from ...ir.graph import Graph, Node, Value
from ...ir.program import Program
from ...ir.scope import symbol_bounds
from ...ir.target import Target
from ..engine.base import subgraphs
from .order import MOST_NODES, Sizes, best_order
from .schedule import Layout, elementwise, order_forbids, schedule
from .storage import NO_STEP, Storage

# Values of the free symbols at which layouts are compared; the first that gives sizes also rules the search.
PROBES = (16, 1, 300)
# Written straight into their concat, values are not copied: worth this share of the arena.
SHARING = 16
_TRIES = 4


def arrange(graph: Graph, target: Target) -> Program:
    """Lay out ``graph`` for ``target`` with a small arena, never larger than that of its own node order without
    sharing, but for a sixteenth where it saves copies. Raises CompileRefused."""
    shared = [n for g in subgraphs(graph) for n in g.nodes if n.op.name in ("concat", "slice")]
    plain = Layout(apart=frozenset(shared))
    candidates = _Candidates(graph, target, _bindings(graph))
    best = candidates.better_order(plain)
    if not shared:
        return best
    return candidates.share(plain, best)


class _Candidates:
    def __init__(self, graph: Graph, target: Target, envs: Sequence[Mapping[str, int]]) -> None:
        self.graph, self.target, self.envs = graph, target, envs

    def better_order(self, layout: Layout) -> Program:
        """The program in the order found, where no binding needs more than in the given order; else in that one."""
        given = schedule(self.graph, self.target, layout)
        orders = self.orders(layout) if self.envs else {}
        if not orders:
            return given
        found = schedule(self.graph, self.target, replace(layout, orders=orders))
        have, want = self.arenas(given), self.arenas(found)
        return found if all(b <= a for a, b in zip(have, want, strict=True)) and want != have else given

    def share(self, layout: Layout, plain: Program) -> Program:
        """The program with as many values in their concat (and slices in their operand) as memory allows."""
        apart: set[Node] = set()
        limit = [a + a // SHARING for a in self.arenas(plain)]
        for _ in range(_TRIES):
            program = self.better_order(replace(layout, apart=frozenset(apart)))
            if all(a <= b for a, b in zip(self.arenas(program), limit, strict=True)):
                return program
            worst = self._at_peak(program, apart)
            if worst is None:
                break
            apart.add(worst)
        return plain

    def arenas(self, program: Program) -> list[int]:
        """Planned bytes at each binding."""
        lives = Lifetimes([b.first for b in program.buffers], [b.last for b in program.buffers])
        return [plan_offsets([evaluate(b.bytes, env) for b in program.buffers], lives)[1] for env in self.envs]

    def _at_peak(self, program: Program, apart: Iterable[Node]) -> Node | None:
        """The largest shared storage that is alive where most bytes are."""
        sizes = [evaluate(b.bytes, self.envs[0]) for b in program.buffers]
        at = peak_step(sizes, program)
        found, most = None, 0
        for g in subgraphs(self.graph):
            for node in g.nodes:
                index = _shared(program, node)
                if index < 0 or node in apart or sizes[index] <= most:
                    continue
                if program.buffers[index].first <= at <= program.buffers[index].last:
                    found, most = node, sizes[index]
        return found

    def orders(self, layout: Layout) -> dict[Graph, Sequence[Node]]:
        """A better order for each graph that has one."""
        out: dict[Graph, Sequence[Node]] = {}
        if symbol_bounds(self.graph):
            return out  # what is bound during the run must be bound before it is used, which no operand says
        for g in subgraphs(self.graph):
            nodes = list(g.nodes)
            found = self._order(g, nodes, layout) if len(nodes) <= MOST_NODES else None
            if found is not None:
                out[g] = found
        return out

    def _order(self, graph: Graph, nodes: Sequence[Node], layout: Layout) -> list[Node] | None:
        env = self.envs[0]
        storage = Storage(graph, nodes, layout.apart)
        given = {storage.root[v] for v in graph.outputs}
        bytes = {
            v: (evaluate(v.type.nbytes, env) + 63) & -64
            for v in dict.fromkeys(storage.root.values())
            if v.producer.op.name not in NO_STEP and v not in given
        }
        spare = {n: sum(evaluate(e, env) for e in self.target.workspace(n)) for n in nodes if n.op.name not in NO_STEP}
        over = self._over(storage, layout)
        sizes = Sizes(nodes, storage, bytes, spare, over)
        least = sizes.least()
        if not storage.joined and not any(len(n.results) > 1 and over(n) for n in nodes):
            mine = {n: [n.operands.index(x) for _, x in over(n)] for n in nodes}
            # What nodes of bodies may overwrite is not asked: whatever they read, which leaves too low a figure.
            needs = footprint(graph, lambda n: mine.get(n, range(len(n.operands))))
            least = max(least, *(evaluate(e, env) for e in needs))
        found = best_order(sizes, least)
        if found == sizes.nodes:
            return None
        fixed = [n for n in nodes if n.op.name in ("input", "constant")]
        return [*fixed, *found, *(n for n in nodes if n.op.name == "return")]

    def _over(self, storage: Storage, layout: Layout) -> Callable[[Node], list[tuple[Value, Value]]]:
        """Results of a node with the operands over which they may lie."""
        known: dict[Node, list[tuple[Value, Value]]] = {}

        def over(node: Node) -> list[tuple[Value, Value]]:
            if node not in known:
                found = known[node] = []
                if node.op.name not in NO_STEP and not (node.regions and node.op.name != "fused"):
                    results = range(len(node.results)) if elementwise(node) else range(min(1, len(node.results)))
                    for i in results:
                        for k, v in enumerate(node.operands):
                            if not order_forbids(storage, self.target, layout, node, k, i):
                                found.append((node.results[i], v))
            return known[node]

        return over


def _shared(program: Program, node: Node) -> int:
    """The buffer in which a concat's parts lie already, or a slice's operand; -1 where there is none."""
    if node.op.name not in ("concat", "slice"):
        return -1
    result, *parts = (program.places[v] for v in (node.results[0], *node.operands))
    lies = result.kind == "buffer" and any((p.kind, p.index) == ("buffer", result.index) for p in parts)
    return result.index if lies else -1


def _bindings(graph: Graph) -> list[dict[str, int]]:
    """Values of the symbols at which every size of ``graph`` is known and none is negative."""
    out = []
    sizes = [v.type.nbytes for g in subgraphs(graph) for n in g.nodes for v in n.results]
    run = symbol_bounds(graph, missing="drop")
    for probe in PROBES:
        env = {}
        for name in graph.symbols:
            low, high = graph.bounds.get(name, (0, None))
            env[name] = max(low, probe if high is None else min(probe, high))
        try:
            if all(evaluate(upper(e, run), env) >= 0 for e in dict.fromkeys(sizes)):
                out.append(env)
        except FusewrightError:
            continue
        if not graph.symbols:
            break
    return out


def peak_step(sizes: Sequence[int], program: Program) -> int:
    """The step at which most bytes are alive."""
    change: dict[int, int] = {}
    for size, b in zip(sizes, program.buffers, strict=True):
        change[b.first] = change.get(b.first, 0) + size
        change[b.last + 1] = change.get(b.last + 1, 0) - size
    live = most = at = 0
    for step in sorted(change):
        live += change[step]
        if live > most:
            most, at = live, step
    return at
