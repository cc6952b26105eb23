"""A plan played through in NumPy: every value lies where the Program says, in poisoned memory.

Owns the replay, the adversary that writes before it reads, and a target that allows whatever ops allow. Must not ask
the scheduler, the alias analysis or a lifetime for what is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.dims import Extent, evaluate
from ..core.dtypes import BF16, F32, DType, decode, encode
from ..core.errors import FusewrightError, VerifyError
from ..core.planner import Lifetimes, plan_offsets
from ..ir import Graph, Node, Value
from ..ir.interpreter import Interpreter
from ..ir.opdef import Cost, EvalContext
from ..ir.program import Copy, If, Loop, Place, Program, Run, Step, While, walk
from ..ir.target import Target
from ..ir.types import TensorType
from ..passes.memory.schedule import schedule as default_schedule

POISON = 0xFF  # NaN in every float type, -1 in signed integers
GUARD = 64
Schedule = Callable[[Graph, Target], Program]
# Ops that are no elementwise ones and whose kernels finish reading an element's line before they write it.
_BY_LINE = frozenset(
    "softmax log_softmax layer_norm rms_norm batch_norm dynamic_update_slice scatter_nd cumsum cumprod sort".split()
)


@dataclass(frozen=True)
class PlainTarget:
    """A machine for tests: it fuses and overwrites as much as the op table allows."""

    kernels: frozenset[str] = frozenset({"softmax", "layer_norm"})
    block: int = 4
    largest: int = 16
    name: str = "plain"
    cache_bytes: tuple[int, ...] = field(default=(32 << 10, 1 << 20))

    def supports(self, node: Node) -> bool:
        return node.op.decompose is None or node.op.name in self.kernels or node.op.name.endswith("_blocked")

    def dedicated(self, node: Node) -> bool:
        return False

    def can_fuse(self, kind: str, region: Graph) -> bool:
        return sum(n.op.name not in ("input", "constant", "return") for n in region.nodes) <= self.largest

    def prefers_blocked(self, node: Node, given: bool = False) -> bool:
        return node.results[0].dtype.is_float

    def winograd_tile(self, node: Node, most: int) -> int:
        return most

    def prefers_bf16(self, node: Node) -> bool:
        return node.results[0].dtype is F32

    def workspace(self, node: Node) -> tuple[Extent, ...]:
        return ()

    def may_overwrite(self, node: Node, operand: int) -> bool:
        return operand in node.op.overwrites

    def cost(self, node: Node) -> Cost:
        return node.op.cost(node) if node.op.cost is not None else Cost(0, 0)


def run_program(program: Program, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Outputs of a scheduled graph, played in its own memory. Raises VerifyError when a step leaves its storage."""
    return _Replay(program, feeds).outputs()


class Steady(Interpreter):
    """The interpreter with every operand dense and alone: sums depend on strides, products of x and x on BLAS."""

    def evaluate(self, node: Node, operands: Sequence[np.ndarray], ctx: EvalContext) -> list[np.ndarray]:
        return super().evaluate(node, [np.array(o, order="C") for o in operands], ctx)


class _Replay:
    def __init__(self, program: Program, feeds: Mapping[str, Any]) -> None:
        self.program, graph = program, program.graph
        self.interpreter = Steady(graph)
        arrays, self.env = self.interpreter._check(feeds)
        self.ctx = self.interpreter._context(self.env)
        sizes = [evaluate(b.bytes, self.env) for b in program.buffers]
        lives = Lifetimes([b.first for b in program.buffers], [b.last for b in program.buffers])
        offsets, total = plan_offsets(sizes, lives)
        self.sizes, self.offsets = sizes, offsets
        self.arena = np.full(total + GUARD, POISON, np.uint8)
        self.inputs = [_raw(a, v.dtype) for a, v in zip(arrays, graph.inputs)]
        self.before = [a.tobytes() for a in self.inputs]
        self.constants = []
        for v in program.constants:
            assert v.const is not None
            self.constants.append(np.frombuffer(np.ascontiguousarray(v.const.array).tobytes(), np.uint8).copy())
        self.results = [np.full(self._bytes(v.type) + GUARD, POISON, np.uint8) for v in graph.outputs]
        self.trips: dict[int, tuple[int, int]] = {}
        self.number = 0
        self.freed: set[int] = set()

    def _bytes(self, t: TensorType) -> int:
        return evaluate(t.nbytes, self.env)

    # -- memory ---------------------------------------------------------------------------------------------------
    def view(self, place: Place, t: TensorType) -> np.ndarray:
        """The bytes of a value of type ``t`` at ``place``."""
        low = evaluate(place.offset, self.env)
        if place.trip is not None:
            at, count = self.trips[place.trip.loop]
            low += evaluate(place.trip.delta, self.env) * (count - 1 - at if place.trip.reverse else at)
        size = self._bytes(t)
        if place.kind == "buffer":
            if low < 0 or low + size > self.sizes[place.index]:
                raise VerifyError(f"{place}: bytes {low}..{low + size} of {self.sizes[place.index]}")
            low += self.offsets[place.index]
            return self.arena[low : low + size]
        store = {"input": self.inputs, "output": self.results, "constant": self.constants}[place.kind][place.index]
        return store[low : low + size]

    def load(self, place: Place, t: TensorType) -> np.ndarray:
        stored = self.view(place, t).copy().view(t.dtype.np).reshape(t.concrete(self.env))
        return decode(stored, t.dtype)

    def store(self, place: Place, t: TensorType, array: np.ndarray) -> None:
        target = self.view(place, t)
        raw = _raw(array, t.dtype)
        if target.size != raw.size:
            raise VerifyError(f"{place} holds {target.size} bytes, the value has {raw.size}")
        target[...] = raw

    # -- steps ----------------------------------------------------------------------------------------------------
    def outputs(self) -> dict[str, np.ndarray]:
        graph = self.program.graph
        with np.errstate(all="ignore"):
            for step in self.program.steps:
                first = self.number
                self.step(step)
                self.number = first + sum(1 for _ in walk([step]))
                self.free()
        if any(a.tobytes() != b for a, b in zip(self.inputs, self.before)):
            raise VerifyError("a step wrote to an input")
        out = {}
        for name, v, place in zip(graph.output_names, graph.outputs, self.program.outputs):
            out[name] = np.array(self.load(place, v.type))
        return out

    def free(self) -> None:
        """Poison what no later step is said to need."""
        for i, b in enumerate(self.program.buffers):
            if b.last < self.number and i not in self.freed:
                self.freed.add(i)
                low = self.offsets[i]
                others = [
                    (self.offsets[j], self.offsets[j] + self.sizes[j])
                    for j, c in enumerate(self.program.buffers)
                    if j != i and c.first < self.number <= c.last
                ]
                if not any(a < low + self.sizes[i] and low < b for a, b in others):
                    self.arena[low : low + self.sizes[i]] = POISON

    def step(self, step: Step) -> None:
        if isinstance(step, Run):
            self.run(step.node)
        elif isinstance(step, Copy):
            self.store(step.target, step.type, self.load(step.source, step.type))
        elif isinstance(step, Loop):
            count = evaluate(step.count, self.env)
            for t in range(count):
                self.trips[step.id] = (t, count)
                self.steps(step.body)
        elif isinstance(step, If):
            taken = bool(self.view(step.condition, _BOOL)[0])
            self.steps(step.then if taken else step.orelse)
        elif isinstance(step, While):
            for _ in range(1000):
                self.steps(step.head)
                if not bool(self.view(step.condition, _BOOL)[0]):
                    return
                self.steps(step.body)
            raise VerifyError("a loop does not end")

    def steps(self, steps: Sequence[Step]) -> None:
        for s in steps:
            self.step(s)

    def run(self, node: Node) -> None:
        places = self.program.places
        targets = [self.view(places[v], v.type) for v in node.results]
        for i, v in enumerate(node.results):
            if places[v].kind in ("input", "constant") and targets[i].size:
                raise VerifyError(f"{node.where} writes to {places[v]}")
            # An adversary writes its result before it reads, unless the op can be computed in place there.
            sources = [(k, x, self.view(places[x], x.type)) for k, x in enumerate(node.operands)]
            touching = [(k, x) for k, x, s in sources if np.may_share_memory(targets[i], s) and s.size]
            if touching and not in_place_is_safe(node, i, touching, places, self.env):
                targets[i][...] = POISON
        operands = [self.load(places[v], v.type) for v in node.operands]
        for v, array in zip(node.results, self.interpreter.evaluate(node, operands, self.ctx), strict=True):
            self.store(places[v], v.type, self.interpreter._settle(v, array, self.ctx))


def in_place_is_safe(
    node: Node, index: int, touching: Sequence[tuple[int, Value]], places: Mapping[Value, Place], env: Mapping[str, int]
) -> bool:
    """A kernel that goes through the elements in any order may compute result ``index`` over these operands."""
    result = node.results[index]
    shape = result.type.concrete(env)
    same = all(
        places[x] == places[result] and x.type.concrete(env) == shape and x.dtype.size == result.dtype.size
        for _, x in touching
    )
    if node.op.kind == "elementwise":
        return same
    if node.op.name == "fused":
        return same and all(_read_by_element(node.regions[0].inputs[k]) for k, _ in touching)
    # The data may be read as a parameter of the same shape too: element by element that is one place.
    return same and index == 0 and node.op.name in _BY_LINE and touching[0][0] == 0


def _read_by_element(v: Value) -> bool:
    """What is made of ``v`` in its graph depends on one element of it at a time: that of the same index."""
    return all(
        user.op.name == "return"
        or user.op.kind == "elementwise"
        and all(y.shape == v.shape and _read_by_element(y) for y in user.results)
        for user in v.users
    )


_BOOL = TensorType("bool", ())


def _raw(array: np.ndarray, dt: DType) -> np.ndarray:
    stored = encode(np.asarray(array), dt) if dt is BF16 else np.asarray(array, dt.np)
    return np.frombuffer(np.asarray(stored, order="C").tobytes(), np.uint8).copy()


class MemoryFault(AssertionError):
    """A run in the planned memory differs from the graph."""


def check_memory(
    graph: Graph, feeds: Mapping[str, Any], target: Target | None = None, schedule: Schedule | None = None
) -> None:
    """Schedule ``graph``, play the plan in poisoned memory, compare with the interpreter. Raises MemoryFault.

    Every promised reuse is taken at its word: a result that lies over an operand is destroyed before the operand is
    read, unless each element depends on that element alone.
    """
    try:
        program = (schedule or default_schedule)(graph, target or PlainTarget())
        program.verify()
        got = run_program(program, feeds)
    except FusewrightError as error:
        raise MemoryFault(f"the plan of a valid graph fails: {error}") from error
    want = Steady(graph).run(feeds)
    for name, a in want.items():
        b = got[name]
        if a.shape != b.shape or a.dtype != b.dtype or not _same(a, b):
            raise MemoryFault(f"output {name!r} differs when it is computed in the planned memory:\n{program}")


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    equal = a == b
    if a.dtype.kind == "f":
        equal = equal & (np.signbit(a) == np.signbit(b)) | np.isnan(a) & np.isnan(b)
    return bool(np.all(equal))


__all__ = ["MemoryFault", "PlainTarget", "Steady", "check_memory", "in_place_is_safe", "run_program"]
