"""Graph -> Program: places, in-place, lifetimes.

Owns the decision where each value lies. Views share storage; a result goes over a dying operand when the op's access
relation and the target's kernel both allow it. Must not know offsets (core/planner.py) or kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...core.bounds import upper
from ...core.dims import Extent, compare_eq
from ...core.errors import CompileRefused, TypeRefused
from ...ir.graph import Graph, Node, Value
from ...ir.program import (
    WHY_NOT,
    Bind,
    Buffer,
    Carry,
    Check,
    Copy,
    If,
    Loop,
    Place,
    Placement,
    Program,
    Run,
    Step,
    Trip,
    While,
)  # fmt: skip
from ...ir.scope import DEFINES, symbol_bounds
from ...ir.target import Target
from ...ir.types import TensorType
from .guards import guards
from .storage import NO_STEP, Storage

_CONTROL = frozenset({"if", "while", "scan"})


def schedule(graph: Graph, target: Target, layout: Layout | None = None) -> Program:
    """Lay out ``graph`` for ``target``: in its own node order, or as ``layout`` says. Raises CompileRefused."""
    return _Scheduler(graph, target, layout or Layout()).run()


@dataclass(slots=True)
class Layout:
    """What is free to choose: the order of the nodes of each graph (its own where none is given), and the slices and
    concats that are to have storage of their own."""

    orders: Mapping[Graph, Sequence[Node]] = field(default_factory=dict)
    apart: Collection[Node] = frozenset()
    promises: dict[tuple[Node, int], bool] = field(default_factory=dict)

    def promised(self, target: Target, node: Node, operand: int) -> bool:
        """``target.may_overwrite``, asked once."""
        found = self.promises.get((node, operand))
        if found is None:
            found = self.promises[node, operand] = target.may_overwrite(node, operand)
        return found


Spot = tuple[Place, int]  # a place and the number of what is to lie there


@dataclass(slots=True)
class _Frame:
    """One graph being laid out: the loops around it, last readers, and values that must survive it."""

    graph: Graph
    nodes: Sequence[Node]
    loops: tuple[int, ...]
    storage: Storage
    wanted: dict[Value, Spot] = field(default_factory=dict)
    guarded: set[str] = field(default_factory=set)
    own: set[int] = field(default_factory=set)


class _Scheduler:
    def __init__(self, graph: Graph, target: Target, layout: Layout) -> None:
        self.target, self.layout = target, layout
        self.program = Program(graph)
        self.number = 0
        self.loop_spans: dict[int, list[int]] = {}
        self.loop_of: list[tuple[int, ...]] = []
        self.loops = 0
        self.constants: dict[str, int] = {}
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
    def graph(
        self, graph: Graph, wants: Sequence[Spot | None], loops: tuple[int, ...], out: list[Step],
        over: Sequence[Value] = (),
    ) -> list[Spot]:  # fmt: skip
        """Emit the steps of ``graph`` (its inputs are placed); gives where its outputs lie.

        Output i is written straight to ``wants[i]`` when a kernel of this graph makes it. For the first outputs that
        is where input ``over[i]`` lies, which must not be read once the output is being written.
        """
        nodes = self.layout.orders.get(graph) or list(graph.nodes)
        frame = _Frame(graph, nodes, loops, Storage(graph, nodes, self.layout.apart, self.bounds))
        self._claim(frame, wants, over)
        for at, node in enumerate(nodes):
            if node.op.name == "constant":
                self._constant(node.results[0])
            elif node.op.name not in NO_STEP:
                self._node(frame, node, at, out)
        return [self._spot(v) for v in graph.outputs]

    def _spot(self, v: Value) -> Spot:
        return self.program.places[v], self.program.contents[v]

    def _put(self, v: Value, spot: Spot) -> None:
        self.program.places[v], self.program.contents[v] = spot

    def _content(self) -> int:
        self.program.n_contents += 1
        return self.program.n_contents - 1

    def _claim(self, frame: _Frame, wants: Sequence[Spot | None], over: Sequence[Value]) -> None:
        """Outputs made by kernels of this graph are written where they are wanted; the first claim wins."""
        at = {node: i for i, node in enumerate(frame.nodes)} if over else {}
        for i, (v, spot) in enumerate(zip(frame.graph.outputs, wants, strict=True)):
            base = frame.storage.base[v]
            if spot is None or base.producer.op.name in NO_STEP or base in frame.wanted or base in frame.storage.inside:
                continue
            if i < len(over) and not self._replaces(frame, base, over[i], at):
                continue
            frame.wanted[base] = spot

    def _replaces(self, frame: _Frame, new: Value, old: Value, at: Mapping[Node, int]) -> bool:
        """``new`` may be written over the carried value ``old`` that it replaces."""
        node, root = new.producer, frame.storage.root[old]
        last = frame.storage.last.get(root, -1)
        if node in frame.storage.joined:
            # Its parts are written before its own turn.
            return last < min(at[v.producer] for v in frame.storage.inside if frame.storage.root[v] is new)
        if last != at[node]:
            return last < at[node]
        if node.op.name in _CONTROL:
            # What a loop carries may start where it ends up; it reads its other operands to the end.
            return _carries(node, new.index, root, frame)
        if new.index and not elementwise(node):
            return False
        reads = [k for k, v in enumerate(node.operands) if frame.storage.root[v] is root]
        return all(not self._order_forbids(frame, node, k, new.index) for k in reads)

    def _home(self, frame: _Frame, base: Value) -> Spot:
        """Where ``base`` lies, if need be from now on: parts of it are written before its own node comes."""
        if base not in self.program.places:
            self._put(base, self._target_spot(frame, base, base.name or base.producer.op.name))
        return self._spot(base)

    def _target_spot(self, frame: _Frame, v: Value, what: str) -> Spot:
        """Where the result ``v`` is wanted; else memory of its own."""
        if v in frame.wanted:
            return frame.wanted[v]
        if v in frame.storage.inside:
            return self._window(frame, v)
        return Place("buffer", self._buffer(frame, v.type.nbytes, what)), self._content()

    def _window(self, frame: _Frame, v: Value) -> Spot:
        """The part of a larger storage in which ``v`` lies."""
        window = frame.storage.inside[v]
        place, whole = self._home(frame, window.whole)
        content = self._content()
        self.program.windows[content] = whole, window.offset
        return Place(place.kind, place.index, place.offset + window.offset, place.trip), content

    def _join(self, frame: _Frame, node: Node, out: list[Step]) -> None:
        """A concat whose parts lie in place: what does not is copied there."""
        y = node.results[0]
        self._note(node, y, "view")
        home, whole = self._home(frame, y)
        offset: Extent = 0
        for k, v in enumerate(node.operands):
            if k not in frame.storage.joined[node]:
                content = self._content()
                self.program.windows[content] = whole, offset
                target = Place(home.kind, home.index, home.offset + offset, home.trip)
                self._copy(self._spot(v), (target, content), v.type, out)
            offset = offset + v.type.nbytes

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
                self._note(node, v, "view", node.operands[views[i]].name or node.operands[views[i]].producer.op.name)
            return
        if node.op.name == "scan":
            return self._scan(frame, node, at, out)
        if node.op.name == "while":
            return self._while(frame, node, at, out)
        if node.op.name == "if":
            return self._if(frame, node, out)
        if node in frame.storage.joined:
            return self._join(frame, node, out)
        if node in frame.storage.cut:
            x = frame.storage.base[node.operands[0]]
            if self._spot(x)[0].kind != "constant":
                self._note(node, node.results[0], "view", x.name or x.producer.op.name)
                return self._put(node.results[0], self._window(frame, node.results[0]))
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
        if v in frame.wanted:
            self._note(node, v, "output")
            return frame.wanted[v]
        if v in frame.storage.inside and node not in frame.storage.cut:
            self._note(node, v, "in concat")
            return self._window(frame, v)
        reasons: list[str] = []
        if node in frame.storage.why:
            reasons.append(WHY_NOT[frame.storage.why[node]])
        elif index and not elementwise(node):
            reasons.append(WHY_NOT["second"])
        else:
            for k, operand in enumerate(node.operands):
                why = self._why_not(frame, node, k, index, at, taken)
                if not why:
                    taken.add(frame.storage.root[operand])
                    self._note(node, v, "in place", operand.name or operand.producer.op.name)
                    return self.program.places[operand], self._content()
                reasons.append(f"operand {k}: {WHY_NOT[why]}")
        self._note(node, v, "own", why="; ".join(reasons) or WHY_NOT["operands"])
        return Place("buffer", self._buffer(frame, v.type.nbytes, _name(node, v))), self._content()

    def _note(self, node: Node, v: Value, how: str, reused: str = "", why: str = "") -> None:
        self.program.placements.append(Placement(_name(node, v), role(node), how, reused, why))

    def _why_not(self, frame: _Frame, node: Node, k: int, index: int, at: int, taken: set[Value]) -> str:
        """Why result ``index`` cannot go over operand ``k``; empty when it can."""
        operand = node.operands[k]
        place, root = self.program.places[operand], frame.storage.root[operand]
        if place.kind != "buffer":
            return "caller"
        if place.index not in frame.own or place.trip is not None:
            return "outer"
        if frame.storage.last[root] != at:
            return "later"
        if root in taken:
            return "taken"
        if compare_eq(root.type.nbytes, operand.type.nbytes) is not True:
            return "part"
        return self._order_forbids(frame, node, k, index)

    def _order_forbids(self, frame: _Frame, node: Node, k: int, index: int) -> str:
        return order_forbids(frame.storage, self.target, self.layout, node, k, index)

    # -- control flow ---------------------------------------------------------------------------------------------
    def _scan(self, frame: _Frame, node: Node, at: int, out: list[Step]) -> None:
        n, m, reverse = node.attrs["n_carry"], node.attrs["n_xs"], node.attrs["reverse"]
        body = node.regions[0]
        state = self._states(frame, node, n, at)
        ys = [self._target_spot(frame, v, f"stacked {v.name}".strip()) for v in node.results[n:]]
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
        fresh = [None if place.trip else (place, self._content()) for place, _ in state]
        found = self.graph(body, [*fresh, *slices], inner, loop.body, body.inputs[:n])
        self._settle(frame, body.outputs, found, [*state, *slices], inner, loop.body, loop.carried)
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

    def _while(self, frame: _Frame, node: Node, at: int, out: list[Step]) -> None:
        n = node.attrs["n_carry"]
        state = self._states(frame, node, n, at)
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
        fresh = [None if place.trip else (place, self._content()) for place, _ in state]
        found = self.graph(body, fresh, inner, step.body, body.inputs[:n])
        self._settle(frame, body.outputs, found, state, inner, step.body, step.carried)
        self._close_loop(ident, [*state, test, *outer])
        for v, spot in zip(node.results, state, strict=True):
            self._put(v, spot)

    def _if(self, frame: _Frame, node: Node, out: list[Step]) -> None:
        results = [self._target_spot(frame, v, f"branch result {v.name}".strip()) for v in node.results]
        operands = [self._spot(v) for v in node.operands]
        step = If(*operands[0], [], [])
        first = self._emit(out, step)
        for region, steps in zip(node.regions, (step.then, step.orelse), strict=True):
            for v, spot in zip(region.inputs, operands[1:], strict=True):
                self._put(v, spot)
            found = self.graph(region, results, frame.loops, steps)
            self._settle(frame, region.outputs, found, results, frame.loops, steps, [])
        for place, _ in (*results, *operands):
            self._touch(place, first)
            self._touch(place, self.number - 1)
        for v, spot in zip(node.results, results, strict=True):
            self._put(v, spot)

    def _states(self, frame: _Frame, node: Node, n: int, at: int) -> list[Spot]:
        """Where the carried values of a loop lie: where they are wanted, else where they start if nobody else reads
        that storage."""
        out = []
        for i, v in enumerate(node.results[:n]):
            operand = node.operands[i]
            place, root = self.program.places[operand], frame.storage.root[operand]
            wanted = v in frame.wanted or v in frame.storage.inside
            free = place.kind == "buffer" and place.index in frame.own and place.trip is None
            sole = frame.storage.last[root] == at and _carries(node, i, root, frame)
            whole = compare_eq(root.type.nbytes, v.type.nbytes) is True
            spot = self._spot(operand) if not wanted and free and sole and whole else None
            spot = spot or self._target_spot(frame, v, f"state {v.name}".strip())
            # A loop inside a loop may carry on where the outer one's state lies.
            out.append(self._spot(operand) if spot[0] == place else spot)
        return out

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
            if self._spot(v)[0] != target[0]:
                self._copy(self._spot(v), target, v.type, out)

    def _settle(
        self, frame: _Frame, values: Sequence[Value], found: Sequence[Spot], targets: Sequence[Spot],
        loops: tuple[int, ...], out: list[Step], carried: list[Carry],
    ) -> None:  # fmt: skip
        """Bring region outputs to their places as if all moved at once; ``carried`` notes those that lie there."""
        for v, a, b in zip(values, found, targets, strict=True):
            if a[0] == b[0] and a[1] != b[1]:
                carried.append(Carry(a[0], v.type, a[1], b[1]))
        moves = [(v.type, a, b) for v, a, b in zip(values, found, targets, strict=True) if a[0] != b[0]]
        written = {(b.kind, b.index) for _, _, (b, _) in moves}
        staged = []
        for t, source, target in moves:
            if (source[0].kind, source[0].index) in written:
                # Another move overwrites this source: go through a buffer of its own.
                inner = _Frame(frame.graph, frame.nodes, loops, frame.storage)
                spare = Place("buffer", self._buffer(inner, t.nbytes, "carried")), self._content()
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


def _carries(node: Node, i: int, root: Value, frame: _Frame) -> bool:
    """Loop ``node`` reads the storage ``root`` as carried value ``i`` and in no other way."""
    if node.op.name == "if" or i >= node.attrs["n_carry"]:
        return False
    return [k for k, v in enumerate(node.operands) if frame.storage.root[v] is root] == [i]


def _name(node: Node, v: Value) -> str:
    return str(node.origin) or v.name or node.op.name


_NORMS = frozenset("softmax log_softmax layer_norm rms_norm batch_norm group_norm".split())


def role(node: Node) -> str:
    """What kind of result one expects to be placed in place: 'residual' (the sum of two values of the result's size,
    neither of them constant), 'normalisation', 'elementwise', or none of them."""
    fused = node.op.name == "fused"
    inner = [n for n in node.regions[0].nodes if n.op.name not in NO_STEP] if fused else [node]
    size = node.results[0].shape
    constant = (
        {v for v, x in zip(node.regions[0].inputs, node.operands, strict=True) if x.const is not None}
        if fused
        else set()
    )
    sums = (n for n in inner if n.op.name == "add")
    if any(all(v.shape == size and v.const is None and v not in constant for v in n.operands) for n in sums):
        return "residual"
    if any(n.op.name in _NORMS for n in inner):
        return "normalisation"
    return "elementwise" if elementwise(node) else ""


def order_forbids(storage: Storage, target: Target, layout: Layout, node: Node, k: int, index: int) -> str:
    """Why (a key of WHY_NOT) the kernel of ``node`` cannot write result ``index`` over operand ``k`` as it goes; empty
    when it can."""
    operand, result = node.operands[k], node.results[index]
    if compare_eq(operand.type.nbytes, result.type.nbytes) is not True:
        return "size"
    if node.op.name != "fused" and k not in node.op.overwrites:
        return "order"
    if not layout.promised(target, node, k):
        return "kernel"
    root = storage.root[operand]
    if any(storage.root[v] is root and v.shape != result.shape for v in node.operands):
        return "shape"
    return ""


def elementwise(node: Node) -> bool:
    """One kernel goes through all results element by element."""
    return node.op.kind == "elementwise" or node.op.name == "fused" and node.attrs["kind"] == "elementwise"
