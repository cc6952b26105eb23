"""Program: when and where. The graph's nodes in order, with a place in memory for every value.

Owns the record, its text and its own consistency check. Must not know how places were chosen or how kernels look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from ..core.dims import Extent
from ..core.errors import VerifyError
from .graph import Graph, Node, Value
from .types import TensorType


@dataclass(frozen=True, slots=True)
class Trip:
    """A place moves by ``delta`` bytes with each trip of loop ``loop``; ``reverse``: from the far end downwards."""

    loop: int
    delta: Extent
    reverse: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies: ``kind`` 'buffer' (arena), 'input', 'output' or 'constant', and its index there."""

    kind: Literal["buffer", "input", "output", "constant"]
    index: int
    offset: Extent = 0
    trip: Trip | None = None

    def __str__(self) -> str:
        moved = f" +{self.trip.delta}/trip" if self.trip else ""
        return f"{self.kind}{self.index}" + (f"+{self.offset}" if self.offset != 0 else "") + moved


@dataclass(slots=True)
class Run:
    """One node's kernel or kernels. ``temps`` are buffers that live during this step only."""

    node: Node
    temps: tuple[int, ...] = ()


@dataclass(slots=True)
class Copy:
    """Move a value between places; ``reads`` and ``writes`` number the contents (see ``Program.contents``)."""

    source: Place
    target: Place
    type: TensorType
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class Carry:
    """At the end of a trip the content ``made`` at ``place`` becomes the content ``state`` of the next."""

    place: Place
    type: TensorType
    made: int
    state: int


@dataclass(slots=True)
class Loop:
    """``body`` repeated ``count`` times."""

    id: int
    count: Extent
    body: list[Step]
    carried: list[Carry] = field(default_factory=list)


@dataclass(slots=True)
class If:
    """``then`` where the bool at ``condition`` (content ``value``) is true, else ``orelse``."""

    condition: Place
    value: int
    then: list[Step]
    orelse: list[Step]


@dataclass(slots=True)
class While:
    """``head`` computes ``condition`` (content ``value``); while it is true run ``body`` and start again."""

    head: list[Step]
    condition: Place
    value: int
    body: list[Step]
    carried: list[Carry] = field(default_factory=list)


@dataclass(slots=True)
class Bind:
    """The symbol that ``node`` defines becomes the number at ``source`` (content ``value``)."""

    node: Node
    source: Place
    value: int


@dataclass(slots=True)
class Check:
    """The run ends with a refusal unless each pair of extents is equal."""

    node: Node
    pairs: tuple[tuple[Extent, Extent], ...]


Step = Run | Copy | Loop | If | While | Bind | Check


@dataclass(slots=True)
class Buffer:
    """A storage class of the arena: live over steps ``first`` to ``last`` (numbers in pre-order)."""

    bytes: Extent
    first: int
    last: int
    value: str = ""


# Why a result has memory of its own, per operand that it could lie over; or why a slice or concat needs a kernel.
WHY_NOT = {
    "caller": "it belongs to the caller or the bundle",
    "outer": "its storage belongs to an outer value",
    "later": "it is read later",
    "taken": "its storage is taken by another result",
    "part": "it is a part of a larger storage",
    "size": "its size differs",
    "order": "the op reads its elements in another order",
    "kernel": "the kernel reads it after writing",
    "shape": "it is read in another shape as well",
    "second": "only elementwise ops have more than one result in place",
    "scattered": "its elements do not lie together",
    "interleaved": "its parts interleave",
    "elsewhere": "its parts lie elsewhere already",
    "output": "it is an output",
    "constant": "it is cut from a constant",
    "run": "its size is known during the run only",
    "memory": "the arena would grow",
    "operands": "it has no operand",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """How a result got its memory. ``role`` elementwise, normalisation, residual or ''; ``how`` 'in place' (over the
    operand ``reused``), 'in concat', 'view', 'output' or 'own', then ``why``: reasons of WHY_NOT."""

    value: str
    role: str
    how: str
    reused: str
    why: str


@dataclass(slots=True)
class Program:
    """A scheduled graph. ``outputs[i]`` is where output i lies at the end (a place of kind 'output' with index i when
    kernels write it straight into the caller's array).

    ``contents`` numbers what the bytes of a place mean, below ``n_contents``: views share a number, and so do a loop's
    state before, in and after the loop. ``windows`` says which content is a range of which other one, from which byte
    on (slices, parts of a concat). The plan checker reads them; nothing else depends on them.
    """

    graph: Graph
    steps: list[Step] = field(default_factory=list)
    places: dict[Value, Place] = field(default_factory=dict)
    contents: dict[Value, int] = field(default_factory=dict)
    n_contents: int = 0
    windows: dict[int, tuple[int, Extent]] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)
    constants: list[Value] = field(default_factory=list)
    outputs: list[Place] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)

    def placement_rows(self) -> list[dict[str, str]]:
        """``placements`` as the report shows them."""
        return [asdict(p) for p in self.placements]

    def walk(self) -> Iterator[Step]:
        """Every step in pre-order: the order of step numbers."""
        yield from walk(self.steps)

    def verify(self) -> None:
        """Every operand and result of a run has a place; lifetimes are ordered. Raises VerifyError."""
        for number, step in enumerate(self.walk()):
            if isinstance(step, Run):
                for v in (*step.node.operands, *step.node.results):
                    if v not in self.places:
                        raise VerifyError(f"step {number}: %{v.name or '?'} has no place", step.node.where)
                    place = self.places[v]
                    if place.kind == "buffer":
                        buffer = self.buffers[place.index]
                        if not buffer.first <= number <= buffer.last:
                            raise VerifyError(
                                f"step {number} touches {place}, live over {buffer.first}..{buffer.last}",
                                step.node.where,
                            )
        for buffer in self.buffers:
            if buffer.first > buffer.last:
                raise VerifyError(f"a buffer lives from {buffer.first} to {buffer.last}")

    def __str__(self) -> str:
        lines = [
            f"buffer{i}: {b.bytes} bytes, steps {b.first}..{b.last}  # {b.value}" for i, b in enumerate(self.buffers)
        ]
        _print(self, self.steps, 0, [0], lines)
        lines += [f"output {name}: {place}" for name, place in zip(self.graph.output_names, self.outputs, strict=True)]
        return "\n".join(lines)


def walk(steps: Sequence[Step]) -> Iterator[Step]:
    """Steps in pre-order."""
    for step in steps:
        yield step
        if isinstance(step, Loop):
            yield from walk(step.body)
        elif isinstance(step, If):
            yield from walk(step.then)
            yield from walk(step.orelse)
        elif isinstance(step, While):
            yield from walk(step.head)
            yield from walk(step.body)


def _print(program: Program, steps: Sequence[Step], depth: int, number: list[int], lines: list[str]) -> None:
    for step in steps:
        head = f"{number[0]:4d} " + "  " * depth
        number[0] += 1
        if isinstance(step, Run):
            reads = ", ".join(str(program.places[v]) for v in step.node.operands)
            writes = ", ".join(str(program.places[v]) for v in step.node.results)
            lines.append(f"{head}{writes} = {step.node.op.name} {reads}  # {step.node.origin}")
        elif isinstance(step, Copy):
            lines.append(f"{head}{step.target} = copy {step.source} : {step.type}")
        elif isinstance(step, Loop):
            lines.append(f"{head}loop {step.count}")
            _print(program, step.body, depth + 1, number, lines)
        elif isinstance(step, If):
            lines.append(f"{head}if {step.condition}")
            _print(program, step.then, depth + 1, number, lines)
            _print(program, step.orelse, depth + 1, number, lines)
        elif isinstance(step, Bind):
            lines.append(f"{head}{step.node.attrs['symbol']} = {step.source}  # {step.node.origin}")
        elif isinstance(step, Check):
            pairs = ", ".join(f"{a} == {b}" for a, b in step.pairs)
            lines.append(f"{head}check {pairs}  # {step.node.origin}")
        else:
            lines.append(f"{head}while {step.condition}")
            _print(program, step.head, depth + 1, number, lines)
            _print(program, step.body, depth + 1, number, lines)
