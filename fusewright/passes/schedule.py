"""Graph -> Program: order, storage classes, in-place, lifetimes.

Owns the decision where each value lies. Views share storage; a result goes over a dying operand when the op's access
relation and the target's kernel both allow it. Must not know offsets (core/planner.py) or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.bounds import upper
from ..core.dims import Extent, compare_eq
from ..core.errors import CompileRefused, TypeRefused
from ..ir.graph import Graph, Node, Value
from ..ir.program import Bind, Buffer, Check, Copy, If, Loop, Place, Placement, Program, Run, Step, Trip, While
from ..ir.scope import DEFINES, symbol_bounds
from ..ir.target import Target
from ..ir.types import TensorType
from .guards import guards

_NO_STEP = frozenset({"input", "constant", "return"})


def schedule(graph: Graph, target: Target) -> Program:
    """Lay out ``graph`` for ``target`` in its own node order. Raises CompileRefused."""
    return _Scheduler(graph, target).run()


Spot = tuple[Place, int]  # a place and the number of what is to lie there


@dataclass(slots=True)
class _Frame:
    """One graph being laid out: the loops around it, last readers, and values that must survive it."""

    graph: Graph
    loops: tuple[int, ...]
    last: dict[Value, int] = field(default_factory=dict)
    roots: dict[Value, Value] = field(default_factory=dict)
    wanted: dict[Value, Spot] = field(default_factory=dict)
    guarded: set[str] = field(default_factory=set)
    own: set[int] = field(default_factory=set)


class _Scheduler:
    def __init__(self, graph: Graph, target: Target) -> None:
        self.target = target
        self.program = Program(graph)
        self.number = 0
        self.loop_spans: dict[int, list[int]] = {}
        self.loop_of: list[tuple[int, ...]] = []
        self.loops = 0
        self.constants: dict[str, int] = {}
        self.n_contents = 0
        try:
            self.bounds = symbol_bounds(graph)
        except TypeRefused as e:
            raise CompileRefused(str(e)) from None

    def run(self) -> Program:
        program, graph = self.program, self.program.graph
        for i, v in enumerate(graph.inputs):
            self._put(v, (Place("input", i), self._content()))
        wants = [(Place("output", i), self._content()) for i in range(len(graph.outputs))]
        program.outputs = [place for place, _ in self.graph(graph, wants, (), program.steps)]
        self._close_lifetimes()
        return program

    # -- one graph ------------------------------------------------------------------------------------------------
    def graph(self, graph: Graph, wants: Sequence[Spot | None], loops: tuple[int, ...], out: list[Step]) -> list[Spot]:
        """Emit the steps of ``graph`` (its inputs are placed); gives where its outputs lie.

        Output i is written straight to ``wants[i]`` when a kernel of this graph makes it.
        """
        frame = _Frame(graph, loops)
        self._analyse(frame)
        self._claim(frame, wants)
        for at, node in enumerate(graph.nodes):
            if node.op.name == "constant":
                self._constant(node.results[0])
            elif node.op.name not in _NO_STEP:
                self._node(frame, node, at, out)
        return [self._spot(v) for v in graph.outputs]

    def _spot(self, v: Value) -> Spot:
        return self.program.places[v], self.program.contents[v]

    def _put(self, v: Value, spot: Spot) -> None:
        self.program.places[v], self.program.contents[v] = spot

    def _content(self) -> int:
        self.n_contents += 1
        return self.n_contents - 1

    def _analyse(self, frame: _Frame) -> None:
        for at, node in enumerate(frame.graph.nodes):
            for i, v in enumerate(node.results):
                source = node.op.views.get(i)
                frame.roots[v] = frame.roots[node.operands[source]] if source is not None else v
            for v in node.operands:
                frame.last[frame.roots[v]] = at

    def _claim(self, frame: _Frame, wants: Sequence[Spot | None]) -> None:
        """Outputs made by kernels of this graph are written where they are wanted; the first claim wins."""
        for v, spot in zip(frame.graph.outputs, wants, strict=True):
            root = frame.roots[v]
            if spot is not None and root.producer.op.name not in _NO_STEP and root not in frame.wanted:
                frame.wanted[root] = spot

    def _constant(self, v: Value) -> None:
        const = v.const
        if const is None:
            raise CompileRefused(f"%{v.name} is not a constant")
        if const.digest not in self.constants:
            self.constants[const.digest] = len(self.program.constants)
            self.program.constants.append(v)
        self._put(v, (Place("constant", self.constants[const.digest]), self._content()))

    # -- one node -------------------------------------------------------------------------------------------------
    def _node(self, frame: _Frame, node: Node, at: int, out: list[Step]) -> None:
        views = node.op.views
        if node.op.name == DEFINES:
            place, value = self._still(frame, node.operands[0], out)
            self._touch(place, self._emit(out, Bind(node, place, value)))
        elif pairs := guards(node, self.bounds, frame.guarded):
            self._emit(out, Check(node, pairs))
        if views and all(i in views for i in range(len(node.results))):
            for i, v in enumerate(node.results):
                self._put(v, self._spot(node.operands[views[i]]))
            return
        if node.op.name == "scan":
            return self._scan(frame, node, out)
        if node.op.name == "while":
            return self._while(frame, node, out)
        if node.op.name == "if":
            return self._if(frame, node, out)
        taken: set[Value] = set()
        for i, v in enumerate(node.results):
            self._put(v, self._place(frame, node, i, at, taken))
        temps = tuple(self._buffer(frame, size, f"workspace of {node.op.name}") for size in self.target.workspace(node))
        step = self._emit(out, Run(node, temps))
        for v in (*node.operands, *node.results):
            self._touch(self.program.places[v], step)
        for index in temps:
            self._touch(Place("buffer", index), step)

    def _place(self, frame: _Frame, node: Node, index: int, at: int, taken: set[Value]) -> Spot:
        v = node.results[index]
        name = str(node.origin) or v.name or node.op.name
        if v in frame.wanted:
            self.program.placements.append(Placement(name, "", "written straight to the output"))
            return frame.wanted[v]
        reasons = []
        if index == 0:
            for k, operand in enumerate(node.operands):
                why = self._why_not(frame, node, k, at, taken)
                if not why:
                    taken.add(frame.roots[operand])
                    place = self.program.places[operand]
                    self.program.placements.append(
                        Placement(name, operand.name or operand.producer.op.name, "in place")
                    )
                    return place, self._content()
                reasons.append(f"operand {k}: {why}")
        self.program.placements.append(Placement(name, "", "; ".join(reasons) or "no operand"))
        return Place("buffer", self._buffer(frame, v.type.nbytes, name)), self._content()

    def _why_not(self, frame: _Frame, node: Node, k: int, at: int, taken: set[Value]) -> str:
        """Why result 0 cannot go over operand ``k``; empty when it can."""
        operand, result = node.operands[k], node.results[0]
        place, root = self.program.places[operand], frame.roots.get(operand)
        if place.kind != "buffer":
            return f"it is in a {place.kind}"
        if root is None or place.index not in frame.own or place.trip is not None or place.offset != 0:
            return "its storage belongs to an outer value"
        if frame.last[root] != at:
            return "it is read later"
        if root in taken:
            return "its storage is taken by another result"
        if compare_eq(operand.type.nbytes, result.type.nbytes) is not True:
            return "its size differs"
        if not self.target.may_overwrite(node, k):
            return "the kernel reads it after writing"
        if any(frame.roots.get(v) is root and v.shape != result.shape for v in node.operands):
            return "it is read in another shape as well"
        return ""

    # -- control flow ---------------------------------------------------------------------------------------------
    def _scan(self, frame: _Frame, node: Node, out: list[Step]) -> None:
        n, m, reverse = node.attrs["n_carry"], node.attrs["n_xs"], node.attrs["reverse"]
        body = node.regions[0]
        state = [self._result_spot(frame, v, "state") for v in node.results[:n]]
        ys = [self._result_spot(frame, v, "stacked") for v in node.results[n:]]
        self._enter(node.operands[:n], state, out)
        outer = [self._still(frame, v, out) for v in node.operands[n:]]
        inner_ys = [self._still_target(frame, spot, v) for spot, v in zip(ys, node.results[n:], strict=True)]
        loop = self._open_loop(node.attrs["length"], out)
        inner = (*frame.loops, loop.id)
        for v, spot in zip(body.inputs, [*state, *outer], strict=True):
            self._put(v, spot)
        for v, spot in zip(body.inputs[n : n + m], outer[:m], strict=True):
            self._put(v, _moving(spot, loop, v, reverse))
        slices = [_moving(spot, loop, v, reverse) for spot, v in zip(inner_ys, body.outputs[n:], strict=True)]
        found = self.graph(body, [*[None] * n, *slices], inner, loop.body)
        self._settle(frame, body.outputs, found, [*state, *slices], inner, loop.body)
        self._close_loop(loop.id, [*state, *inner_ys, *outer])
        for v, still, spot in zip(node.results[n:], inner_ys, ys, strict=True):
            if still != spot:
                self._copy(still, spot, v.type, out)
        for v, spot in zip(node.results, [*state, *ys], strict=True):
            self._put(v, spot)

    def _still(self, frame: _Frame, v: Value, out: list[Step]) -> Spot:
        """Where ``v`` lies for use inside a loop. A place that moves with an outer loop cannot move with two, so it
        is copied to one that stands still."""
        spot = self._spot(v)
        if spot[0].trip is None:
            return spot
        still = (Place("buffer", self._buffer(frame, v.type.nbytes, v.name)), self._content())
        self._copy(spot, still, v.type, out)
        return still

    def _still_target(self, frame: _Frame, spot: Spot, v: Value) -> Spot:
        if spot[0].trip is None:
            return spot
        return Place("buffer", self._buffer(frame, v.type.nbytes, v.name)), self._content()

    def _while(self, frame: _Frame, node: Node, out: list[Step]) -> None:
        n = node.attrs["n_carry"]
        state = [self._result_spot(frame, v, "state") for v in node.results]
        self._enter(node.operands[:n], state, out)
        outer = [self._still(frame, v, out) for v in node.operands[n:]]
        self.loops += 1
        ident = self.loops
        step = While([], Place("buffer", 0), -1, [])
        first = self._emit(out, step)
        self.loop_spans[ident] = [first, first]
        inner = (*frame.loops, ident)
        cond, body = node.regions
        for region in (cond, body):
            for v, spot in zip(region.inputs, [*state, *outer], strict=True):
                self._put(v, spot)
        test = self.graph(cond, [None], inner, step.head)[0]
        step.condition, step.value = test
        found = self.graph(body, [None] * n, inner, step.body)
        self._settle(frame, body.outputs, found, state, inner, step.body)
        self._close_loop(ident, [*state, test, *outer])
        for v, spot in zip(node.results, state, strict=True):
            self._put(v, spot)

    def _if(self, frame: _Frame, node: Node, out: list[Step]) -> None:
        results = [self._result_spot(frame, v, "branch result") for v in node.results]
        operands = [self._spot(v) for v in node.operands]
        step = If(*operands[0], [], [])
        first = self._emit(out, step)
        for region, steps in zip(node.regions, (step.then, step.orelse), strict=True):
            for v, spot in zip(region.inputs, operands[1:], strict=True):
                self._put(v, spot)
            found = self.graph(region, results, frame.loops, steps)
            self._settle(frame, region.outputs, found, results, frame.loops, steps)
        for place, _ in (*results, *operands):
            self._touch(place, first)
            self._touch(place, self.number - 1)
        for v, spot in zip(node.results, results, strict=True):
            self._put(v, spot)

    def _result_spot(self, frame: _Frame, v: Value, what: str) -> Spot:
        if v in frame.wanted:
            return frame.wanted[v]
        return Place("buffer", self._buffer(frame, v.type.nbytes, f"{what} {v.name}".strip())), self._content()

    def _open_loop(self, count: Extent, out: list[Step]) -> Loop:
        self.loops += 1
        loop = Loop(self.loops, count, [])
        first = self._emit(out, loop)
        self.loop_spans[loop.id] = [first, first]
        return loop

    def _close_loop(self, ident: int, crossing: Sequence[Spot]) -> None:
        span = self.loop_spans[ident]
        span[1] = self.number - 1
        for place, _ in crossing:
            self._touch(place, span[0])
            self._touch(place, span[1])

    def _enter(self, values: Sequence[Value], targets: Sequence[Spot], out: list[Step]) -> None:
        for v, target in zip(values, targets, strict=True):
            self._copy(self._spot(v), target, v.type, out)

    def _settle(
        self, frame: _Frame, values: Sequence[Value], found: Sequence[Spot], targets: Sequence[Spot],
        loops: tuple[int, ...], out: list[Step],
    ) -> None:  # fmt: skip
        """Bring region outputs to their places as if all moved at once."""
        moves = [(v.type, a, b) for v, a, b in zip(values, found, targets, strict=True) if a[0] != b[0]]
        written = {(b.kind, b.index) for _, _, (b, _) in moves}
        staged = []
        for t, source, target in moves:
            if (source[0].kind, source[0].index) in written:
                # Another move overwrites this source: go through a buffer of its own.
                spare = (
                    Place("buffer", self._buffer(_Frame(frame.graph, loops), t.nbytes, "carried")),
                    self._content(),
                )
                self._copy(source, spare, t, out)
                source = spare
            staged.append((t, source, target))
        for t, source, target in staged:
            self._copy(source, target, t, out)

    # -- numbering and lifetimes ----------------------------------------------------------------------------------
    def _copy(self, source: Spot, target: Spot, t: TensorType, out: list[Step]) -> None:
        step = self._emit(out, Copy(source[0], target[0], t, source[1], target[1]))
        self._touch(source[0], step)
        self._touch(target[0], step)

    def _emit(self, out: list[Step], step: Step) -> int:
        out.append(step)
        self.number += 1
        return self.number - 1

    def _buffer(self, frame: _Frame, size: Extent, value: str) -> int:
        # Extents that are bound during the run: storage is laid out for the greatest.
        try:
            size = upper(size, self.bounds) if self.bounds else size
        except TypeRefused as e:
            raise CompileRefused(f"{value}: {e}") from None
        self.program.buffers.append(Buffer(size, -1, -1, value))
        self.loop_of.append(frame.loops)
        index = len(self.program.buffers) - 1
        frame.own.add(index)
        return index

    def _touch(self, place: Place, step: int) -> None:
        if place.kind == "buffer":
            buffer = self.program.buffers[place.index]
            buffer.first = step if buffer.first < 0 else min(buffer.first, step)
            buffer.last = max(buffer.last, step)

    def _close_lifetimes(self) -> None:
        """A buffer made outside a loop and touched inside it lives through the whole loop."""
        for buffer, loops in zip(self.program.buffers, self.loop_of, strict=True):
            if buffer.first < 0:
                buffer.first = buffer.last = 0
                continue
            changed = True
            while changed:
                changed = False
                for ident, (first, last) in self.loop_spans.items():
                    if ident in loops:
                        continue
                    inside = first <= buffer.last and buffer.first <= last
                    covers = buffer.first <= first and buffer.last >= last
                    if inside and not covers and not (buffer.last == first and buffer.first < first):
                        buffer.first, buffer.last = min(buffer.first, first), max(buffer.last, last)
                        changed = True


def _moving(spot: Spot, loop: Loop, v: Value, reverse: bool) -> Spot:
    """The slice of a scanned place that belongs to the current trip."""
    place, content = spot
    return Place(place.kind, place.index, place.offset, Trip(loop.id, v.type.nbytes, reverse)), content
