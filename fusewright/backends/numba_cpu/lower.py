"""Program -> plan and kernel text for one instruction-set variant.

Owns the naming of kernels, the binding of their arguments to places, and the packing of constants. Must not know what
a kernel does: that is the templates' and ``select``'s business.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...core.bounds import upper
from ...core.dims import Extent
from ...core.dtypes import DType, decode, encode
from ...core.errors import CompileRefused, TypeRefused
from ...core.layout import Layout
from ...core.plan import Arg as PlanArg
from ...core.plan import Bind, Bump, Call, Carry, Check, If, Loop, Plan, RunSymbol, Step, While
from ...ir import program as p
from ...ir.graph import Const, Node, Value
from ...ir.scope import definitions, symbol_bounds
from ...ir.types import TensorType
from ..writer import Weights
from .choices import Choices, shipped
from .select import Chosen, choose, choose_as, contract, copy_kernel
from .toolchain import KernelSource
from .variants import Variant


@dataclass(slots=True)
class Lowered:
    """What one variant needs: the plan (kernel offsets still to be filled in) and the sources of its kernels."""

    plan: Plan
    sources: list[Any]


class ConstantStore:
    """Constants of all variants in one weights.bin: each Const once, in the layout that asked for it first.

    A later request for another layout is noted in the plan, and made by the runtime at load.
    """

    def __init__(self) -> None:
        self.weights = Weights()
        self.stored: dict[Const, tuple[Layout, int, int]] = {}

    def place(self, const: Const, layout: Layout | None) -> tuple[int, int, Layout]:
        """(offset, bytes, layout as stored) of ``const``."""
        if const not in self.stored:
            if layout is None or layout.derived:  # what is stored has an exact inverse
                layout = Layout(const.array.shape)
            self.stored[const] = (layout, *self.weights.add(layout.pack(const.array)))
        layout, offset, size = self.stored[const]
        return offset, size, layout


@dataclass(slots=True)
class _Open:
    """A loop being lowered and the arguments that move with it."""

    id: int
    bumps: list[Bump] = field(default_factory=list)


def lower(program: p.Program, variant: Variant, store: ConstantStore, choices: Choices | None = None) -> Lowered:
    """Bind every step of ``program`` to kernels of ``variant``. Raises CompileRefused."""
    return CpuLowering(program, variant, store, choices).run()


class Lowering(ABC):
    """Binds the steps of a program to the kernels that a subclass chooses and records."""

    def __init__(self, program: p.Program, store: ConstantStore) -> None:
        self.program, self.store = program, store
        self.plan = Plan(program.graph.symbols, len(program.graph.inputs))
        self.sources: dict[str, Any] = {}  # by symbol, whatever the toolchain of the target takes
        self.kernels: dict[tuple[object, ...], int] = {}
        self.constants: dict[tuple[Const, Layout], int] = {}
        self.cast: dict[tuple[Const, DType], Const] = {}
        self.number = 0  # of plan steps
        self.step = 0  # of program steps
        self.spans: list[tuple[int, int]] = []  # program step -> plan steps
        self.loops: list[_Open] = []
        self.temp_content = program.n_contents
        self.bounds = symbol_bounds(program.graph)
        for node in definitions(program.graph):
            name, low = node.attrs["symbol"], node.attrs["low"]
            high, most = self.plan.expr(node.attrs["high"]), self.plan.expr(self.bounds[name][1])
            self.plan.bound.append(RunSymbol(name, low, high, most))

    def run(self) -> Lowered:
        # Buffers get their lifetimes when all calls are numbered; indices are fixed now.
        for buffer in self.program.buffers:
            self.plan.add_buffer(buffer.bytes, 0, 0)
        self.plan.steps = self._steps(self.program.steps)
        for buffer, planned in zip(self.program.buffers, self.plan.buffers, strict=True):
            planned.first = self.spans[buffer.first][0] if self.spans else 0
            planned.last = self.spans[buffer.last][1] if self.spans else 0
        for content, (whole, offset) in self.program.windows.items():
            self.plan.windows[content] = whole, self.plan.expr(offset)
        self.plan.outputs = [self._address(place) for place in self.program.outputs]
        return Lowered(self.plan, [self.sources[k] for k in sorted(self.sources)])

    # -- steps ----------------------------------------------------------------------------------------------------
    def _steps(self, steps: Sequence[p.Step]) -> list[Step]:
        out: list[Step] = []
        for step in steps:
            index = self.step
            self.step += 1
            self.spans.append((self.number, self.number))
            if isinstance(step, p.Run):
                out += self._run(step)
            elif isinstance(step, p.Copy):
                out.append(self._copy(step))
            elif isinstance(step, p.Bind):
                symbol = [b.name for b in self.plan.bound].index(step.node.attrs["symbol"])
                out.append(Bind(symbol, self._address(step.source), step.value, str(step.node.origin)))
                self.number += 1
            elif isinstance(step, p.Check):
                for a, b in step.pairs:
                    out.append(Check(self.plan.expr(a), self.plan.expr(b), str(step.node.origin)))
                    self.number += 1
            else:
                self.number += 1
                out.append(self._control(step))
            self.spans[index] = (self.spans[index][0], self.number - 1)
        return out

    def _control(self, step: p.Loop | p.If | p.While) -> Step:
        if isinstance(step, p.Loop):
            self.loops.append(_Open(step.id))
            body = self._steps(step.body)
            return Loop(self.plan.expr(step.count), self.loops.pop().bumps, body, self._carried(step))
        if isinstance(step, p.If):
            return If(self._address(step.condition), self._steps(step.then), self._steps(step.orelse), step.value)
        head = self._steps(step.head)
        body = self._steps(step.body)
        return While(head, self._address(step.condition), body, step.value, self._carried(step))

    def _carried(self, step: p.Loop | p.While) -> list[Carry]:
        return [Carry(self._address(c.place), self.plan.expr(c.type.nbytes), c.made, c.state) for c in step.carried]

    def _run(self, step: p.Run) -> list[Step]:
        node = step.node
        fixed = {i: const for i, v in enumerate(node.operands) if (const := self._fixed(v)) is not None}
        out: list[Step] = []
        contents = [self.temp_content + i for i in range(len(step.temps))]
        self.temp_content += len(step.temps)
        for chosen in self.choose(node, fixed):
            out.append(self._call(chosen, node, step.temps, contents, str(node.origin)))
        return out

    def _fixed(self, v: Value) -> Const | None:
        """The contents of ``v`` in its own shape where every run of its kernel reads the same ones."""
        place = self.program.places[v]
        if place.kind != "constant" or place.trip is not None:
            return None  # a scanned constant: each trip reads another slice
        const = self.program.constants[place.index].const
        if const is None or const.array.shape == v.shape:
            return const
        # A view of a constant that was too large to fold.
        fits = v.dtype is const.dtype and all(isinstance(d, int) for d in v.shape)
        return Const(const.array.reshape(v.shape), const.dtype) if fits else None  # type: ignore[arg-type]

    def _const(self, v: Value) -> Const:
        const = self._fixed(v)
        if const is None:
            raise CompileRefused(f"%{v.name} is not a constant")
        return const

    def _cast(self, const: Const, to: DType) -> Const:
        key = (const, to)
        if key not in self.cast:
            self.cast[key] = Const(encode(decode(const.array, const.dtype), to), to)
        return self.cast[key]

    def _call(self, chosen: Chosen, node: Node, temps: Sequence[int], contents: Sequence[int], origin: str) -> Call:
        places, numbers = self.program.places, self.program.contents
        args: list[PlanArg] = []
        access, values, spans = "", [], []
        for arg in chosen.args:
            mode, content, span = "-", -1, -1
            if arg.kind == "dim":
                args.append(self.plan.parameter(arg.value))
            elif arg.kind == "temp":
                args.append(self.plan.address("b", temps[arg.index]))
                mode, content = ("w" if arg.writes else "r"), contents[arg.index]
            elif arg.kind == "packed":
                const = self._const(node.operands[arg.index])
                args.append(self._packed(const if arg.dtype is None else self._cast(const, arg.dtype), arg.layout))
                mode = "r"
            else:
                v = node.results[arg.index] if arg.kind == "result" else node.operands[arg.index]
                args.append(self._address(places[v], position=len(args)))
                mode, content = ("w" if arg.kind == "result" else "r"), numbers[v]
                span = self.plan.expr(v.type.nbytes)
            access += mode
            values.append(content)
            spans.append(span)
        kernel = self._kernel(chosen, node)
        call = Call(kernel, args, self.plan.expr(chosen.extent), chosen.grain, origin, access, values, spans)
        self.number += 1
        return call

    def _copy(self, step: p.Copy) -> Call:
        chosen = self.copy(step.type)
        args: list[PlanArg] = []
        access, values, spans = "", [], []
        for arg in chosen.args:
            if arg.kind == "dim":
                args.append(self.plan.parameter(arg.value))
                access, values, spans = access + "-", [*values, -1], [*spans, -1]
            else:
                writes = arg.kind == "result"
                args.append(self._address(step.target if writes else step.source, position=len(args)))
                access += "w" if writes else "r"
                values.append(step.writes if writes else step.reads)
                spans.append(self.plan.expr(step.type.nbytes))
        kernel = self._kernel(chosen, None)
        call = Call(kernel, args, self.plan.expr(chosen.extent), chosen.grain, "copy", access, values, spans)
        self.number += 1
        return call

    # -- words ----------------------------------------------------------------------------------------------------
    def _address(self, place: p.Place, position: int = -1) -> PlanArg:
        if place.trip is not None:
            if position < 0:
                raise CompileRefused("a place that moves with a loop cannot be used outside a kernel")
            for loop in self.loops:
                if loop.id == place.trip.loop:
                    loop.bumps.append(Bump(self.number, position, self.plan.expr(place.trip.delta), place.trip.reverse))
        if place.kind == "constant":
            const = self.program.constants[place.index].const
            assert const is not None
            return self._packed(const, Layout(const.array.shape))
        return self.plan.address({"buffer": "b", "input": "i", "output": "o"}[place.kind], place.index, place.offset)

    def _packed(self, const: Const, layout: Layout | None) -> PlanArg:
        layout = layout or Layout(const.array.shape)
        key = (const, layout)
        if key not in self.constants:
            offset, size, stored = self.store.place(const, layout)
            if stored == layout:
                self.constants[key] = self.plan.add_constant(offset, size)
            else:
                self.constants[key] = self.plan.add_constant(offset, size, const.dtype.name, stored, layout)
        return self.plan.address("c", self.constants[key])

    @abstractmethod
    def choose(self, node: Node, fixed: Mapping[int, Const]) -> Sequence[Chosen]:
        """The kernel calls that compute ``node``."""

    @abstractmethod
    def copy(self, t: TensorType) -> Chosen:
        """The kernel that moves a value of type ``t``."""

    @abstractmethod
    def add(self, chosen: Chosen, kind: str) -> int:
        """The plan's kernel for ``chosen``, whose source is noted in ``sources``."""

    def _kernel(self, chosen: Chosen, node: Node | None) -> int:
        kind = "copy" if node is None else str(node.attrs["kind"] if node.op.name == "fused" else node.op.kind)
        return self.add(chosen, kind)

    def most(self, e: Extent) -> Extent:
        """A figure for storage and reports: extents bound during the run count as their greatest values."""
        try:
            return upper(e, self.bounds) if self.bounds else e
        except TypeRefused as error:
            raise CompileRefused(str(error)) from None


class CpuLowering(Lowering):
    """Kernels of one instruction-set variant."""

    def __init__(
        self, program: p.Program, variant: Variant, store: ConstantStore, choices: Choices | None = None
    ) -> None:
        super().__init__(program, store)
        self.variant, self.choices = variant, shipped() if choices is None else choices

    def choose(self, node: Node, fixed: Mapping[int, Const]) -> Sequence[Chosen]:
        site = contract.site_of(node) if len(self.choices) and contract.contracts(node) else ""
        made = self.choices.get(self.variant.name, site) if site else None
        if made is None:
            return choose(node, self.variant, fixed)
        return choose_as(node, self.variant, fixed, made)

    def copy(self, t: TensorType) -> Chosen:
        return copy_kernel(t)

    def add(self, chosen: Chosen, kind: str) -> int:
        digest = hashlib.sha256(repr((chosen.text, chosen.fastmath)).encode()).hexdigest()[:16]
        symbol = f"{chosen.name}_{digest}"
        self.sources.setdefault(symbol, KernelSource(symbol, chosen.text, chosen.fastmath))
        flops, moved, scratch = (self.most(e) for e in (chosen.flops, chosen.bytes, chosen.scratch))
        key = (symbol, kind, str(flops), str(moved), scratch)
        if key not in self.kernels:
            self.kernels[key] = self.plan.add_kernel(chosen.name, symbol, kind, flops, moved, scratch)
        return self.kernels[key]
