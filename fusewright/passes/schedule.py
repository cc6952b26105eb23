"""Graph -> Program: order, storage classes, in-place, lifetimes.

Owns the decision where each value lies. Views share storage; a result goes over a dying operand when the op's access
relation and the target's kernel both allow it. Must not know offsets (core/planner.py) or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.dims import compare_eq
from ..core.errors import CompileRefused
from ..ir.graph import Graph, Node, Value
from ..ir.program import Buffer, Copy, If, Loop, Place, Placement, Program, Run, Step, Trip, While
from ..ir.target import Target
from ..ir.types import TensorType

_NO_STEP = frozenset({"input", "constant", "return"})


def schedule(graph: Graph, target: Target) -> Program:
    """Lay out ``graph`` for ``target`` in its own node order. Raises CompileRefused."""
    return _Scheduler(graph, target).run()


@dataclass(slots=True)
class _Frame:
    """One graph being laid out: the loops around it, last readers, and values that must survive it."""

    graph: Graph
    loops: tuple[int, ...]
    last: dict[Value, int] = field(default_factory=dict)
    roots: dict[Value, Value] = field(default_factory=dict)
    wanted: dict[Value, Place] = field(default_factory=dict)
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

    def run(self) -> Program:
        program, graph = self.program, self.program.graph
        for i, v in enumerate(graph.inputs):
            program.places[v] = Place("input", i)
        wants = [Place("output", i) for i in range(len(graph.outputs))]
        program.outputs = self.graph(graph, wants, (), program.steps)
        self._close_lifetimes()
        return program

    # -- one graph ------------------------------------------------------------------------------------------------
    def graph(self, graph: Graph, wants: Sequence[Place | None], loops: tuple[int, ...], out: list[Step]) -> list[Place]:
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
        return [self.program.places[v] for v in graph.outputs]

    def _analyse(self, frame: _Frame) -> None:
        for at, node in enumerate(frame.graph.nodes):
            for i, v in enumerate(node.results):
                source = node.op.views.get(i)
                frame.roots[v] = frame.roots[node.operands[source]] if source is not None else v
            for v in node.operands:
                frame.last[frame.roots[v]] = at

    def _claim(self, frame: _Frame, wants: Sequence[Place | None]) -> None:
        """Outputs made by kernels of this graph are written where they are wanted; the first claim wins."""
        for v, place in zip(frame.graph.outputs, wants, strict=True):
            root = frame.roots[v]
            if place is not None and root.producer.op.name not in _NO_STEP and root not in frame.wanted:
                frame.wanted[root] = place

    def _constant(self, v: Value) -> None:
        const = v.const
        if const is None:
            raise CompileRefused(f"%{v.name} is not a constant")
        if const.digest not in self.constants:
            self.constants[const.digest] = len(self.program.constants)
            self.program.constants.append(v)
        self.program.places[v] = Place("constant", self.constants[const.digest])

    # -- one node -------------------------------------------------------------------------------------------------
    def _node(self, frame: _Frame, node: Node, at: int, out: list[Step]) -> None:
        views = node.op.views
        if views and all(i in views for i in range(len(node.results))):
            for i, v in enumerate(node.results):
                self.program.places[v] = self.program.places[node.operands[views[i]]]
            return
        if node.op.name == "scan":
            return self._scan(frame, node, out)
        if node.op.name == "while":
            return self._while(frame, node, out)
        if node.op.name == "if":
            return self._if(frame, node, out)
        taken: set[Value] = set()
        for i, v in enumerate(node.results):
            self.program.places[v] = self._place(frame, node, i, at, taken)
        temps = tuple(self._buffer(frame, size, f"workspace of {node.op.name}") for size in self.target.workspace(node))
        step = self._emit(out, Run(node, temps))
        for v in (*node.operands, *node.results):
            self._touch(self.program.places[v], step)
        for index in temps:
            self._touch(Place("buffer", index), step)

    def _place(self, frame: _Frame, node: Node, index: int, at: int, taken: set[Value]) -> Place:
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
                    self.program.placements.append(Placement(name, operand.name or operand.producer.op.name, "in place"))
                    return place
                reasons.append(f"operand {k}: {why}")
        self.program.placements.append(Placement(name, "", "; ".join(reasons) or "no operand"))
        return Place("buffer", self._buffer(frame, v.type.nbytes, name))

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
        program = self.program
        n, m = node.attrs["n_carry"], node.attrs["n_xs"]
        reverse, length = node.attrs["reverse"], node.attrs["length"]
        body = node.regions[0]
        state = [self._result_place(frame, v, "state") for v in node.results[:n]]
        ys = [self._result_place(frame, v, "stacked") for v in node.results[n:]]
        self._copy_all(frame, node.operands[:n], state, out)
        outer = [self._still(frame, v, out) for v in node.operands[n:]]
        ys_still = [self._still_target(frame, p, v) for p, v in zip(ys, node.results[n:], strict=True)]
        loop = self._open_loop(length, out)
        inner = (*frame.loops, loop.id)
        for v, place in zip(body.inputs, [*state, *outer], strict=True):
            program.places[v] = place
        for v, place in zip(body.inputs[n : n + m], outer[:m], strict=True):
            program.places[v] = Place(place.kind, place.index, place.offset, Trip(loop.id, v.type.nbytes, reverse))
        slices = [
            Place(p.kind, p.index, p.offset, Trip(loop.id, v.type.nbytes, reverse))
            for p, v in zip(ys_still, body.outputs[n:], strict=True)
        ]
        found = self.graph(body, [*[None] * n, *slices], inner, loop.body)
        self._settle(frame, body.outputs, found, [*state, *slices], inner, loop.body)
        self._close_loop(loop, [*state, *ys_still, *outer])
        for v, still, place in zip(node.results[n:], ys_still, ys, strict=True):
            if still != place:
                self._copy(still, place, v.type, out)
        for v, place in zip(node.results, [*state, *ys], strict=True):
            program.places[v] = place

    def _still(self, frame: _Frame, v: Value, out: list[Step]) -> Place:
        """The place of ``v`` for use inside a loop. A place that moves with an outer loop cannot move with two, so it
        is copied to one that stands still."""
        place = self.program.places[v]
        if place.trip is None:
            return place
        still = Place("buffer", self._buffer(frame, v.type.nbytes, v.name))
        self._copy(place, still, v.type, out)
        return still

    def _still_target(self, frame: _Frame, place: Place, v: Value) -> Place:
        if place.trip is None:
            return place
        return Place("buffer", self._buffer(frame, v.type.nbytes, v.name))

    def _while(self, frame: _Frame, node: Node, out: list[Step]) -> None:
        program = self.program
        n = node.attrs["n_carry"]
        state = [self._result_place(frame, v, "state") for v in node.results]
        self._copy_all(frame, node.operands[:n], state, out)
        outer = [self._still(frame, v, out) for v in node.operands[n:]]
        self.loops += 1
        ident = self.loops
        step = While([], Place("buffer", 0), [])
        first = self._emit(out, step)
        self.loop_spans[ident] = [first, first]
        inner = (*frame.loops, ident)
        cond, body = node.regions
        for region in (cond, body):
            for v, place in zip(region.inputs, [*state, *outer], strict=True):
                program.places[v] = place
        step.condition = self.graph(cond, [None], inner, step.head)[0]
        found = self.graph(body, [None] * n, inner, step.body)
        self._settle(frame, body.outputs, found, state, inner, step.body)
        self.loop_spans[ident][1] = self.number - 1
        for place in (*state, step.condition, *outer):
            self._touch(place, first)
            self._touch(place, self.number - 1)
        for v, place in zip(node.results, state, strict=True):
            program.places[v] = place

    def _if(self, frame: _Frame, node: Node, out: list[Step]) -> None:
        program = self.program
        results = [self._result_place(frame, v, "branch result") for v in node.results]
        step = If(program.places[node.operands[0]], [], [])
        first = self._emit(out, step)
        for v in node.operands:
            self._touch(program.places[v], first)
        for region, steps in zip(node.regions, (step.then, step.orelse), strict=True):
            for v, operand in zip(region.inputs, node.operands[1:], strict=True):
                program.places[v] = program.places[operand]
            found = self.graph(region, results, frame.loops, steps)
            self._settle(frame, region.outputs, found, results, frame.loops, steps)
        for place in (*results, *(program.places[v] for v in node.operands)):
            self._touch(place, first)
            self._touch(place, self.number - 1)
        for v, place in zip(node.results, results, strict=True):
            program.places[v] = place

    def _result_place(self, frame: _Frame, v: Value, what: str) -> Place:
        if v in frame.wanted:
            return frame.wanted[v]
        return Place("buffer", self._buffer(frame, v.type.nbytes, f"{what} {v.name}".strip()))

    def _open_loop(self, count: object, out: list[Step]) -> Loop:
        self.loops += 1
        loop = Loop(self.loops, count, [])  # type: ignore[arg-type]
        first = self._emit(out, loop)
        self.loop_spans[loop.id] = [first, first]
        return loop

    def _close_loop(self, loop: Loop, crossing: Sequence[Place]) -> None:
        span = self.loop_spans[loop.id]
        span[1] = self.number - 1
        for place in crossing:
            self._touch(place, span[0])
            self._touch(place, span[1])

    def _copy_all(self, frame: _Frame, values: Sequence[Value], targets: Sequence[Place], out: list[Step]) -> None:
        for v, target in zip(values, targets, strict=True):
            self._copy(self.program.places[v], target, v.type, out)

    def _settle(
        self, frame: _Frame, values: Sequence[Value], found: Sequence[Place], targets: Sequence[Place],
        loops: tuple[int, ...], out: list[Step],
    ) -> None:  # fmt: skip
        """Bring region outputs to their places as if all moved at once."""
        moves = [(v.type, a, b) for v, a, b in zip(values, found, targets, strict=True) if a != b]
        written = {(b.kind, b.index) for _, _, b in moves}
        staged = []
        for t, source, target in moves:
            if (source.kind, source.index) in written:
                # Another move overwrites this source: go through a buffer of its own.
                inner = _Frame(frame.graph, loops)
                spare = Place("buffer", self._buffer(inner, t.nbytes, "carried"))
                self._copy(source, spare, t, out)
                source = spare
            staged.append((t, source, target))
        for t, source, target in staged:
            self._copy(source, target, t, out)

    # -- numbering and lifetimes ----------------------------------------------------------------------------------
    def _copy(self, source: Place, target: Place, t: TensorType, out: list[Step]) -> None:
        step = self._emit(out, Copy(source, target, t))
        self._touch(source, step)
        self._touch(target, step)

    def _emit(self, out: list[Step], step: Step) -> int:
        out.append(step)
        self.number += 1
        return self.number - 1

    def _buffer(self, frame: _Frame, size: object, value: str) -> int:
        self.program.buffers.append(Buffer(size, -1, -1, value))  # type: ignore[arg-type]
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


def program_nodes(program: Program) -> list[Node]:
    """The nodes that run, in step order, once each."""
    return [step.node for step in program.walk() if isinstance(step, Run)]
