"""A compiled plan without machine code: its kernels' text runs as plain Python, with NumPy twins for the tiles.

Owns the walk over a plan's steps in bounds-checked, poisoned memory. Must not know what a kernel computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

import numpy as np

from ...core.dtypes import DTYPES, decode, encode
from ...core.errors import VerifyError
from ...core.plan import Arg, Call, If, Loop, Step, While, count_steps
from ...ir.interpreter import Interpreter
from ...ir.program import Program
from . import registry
from .bundle import check_memory
from .lower import ConstantStore, Lowered, lower
from .tiles.probe import aligned
from .twins import Memory
from .variants import VARIANTS

POISON = 0xFF  # NaN in every float type
_PARAMETERS = ("args", "start", "stop", "scratch")
_MOST_TRIPS = 1000
Kernel = Callable[[tuple[int, ...], int, int, int], None]


@lru_cache(maxsize=4096)
def kernel_of(text: str) -> Kernel:
    """The kernel that ``text`` (our own generated source) defines, over the twins of the prelude."""
    registry.load_all()  # whatever else has been imported, and so registered, before
    space: dict[str, Any] = dict(registry.TWINS)
    exec(compile(text, "<unjitted kernel>", "exec"), space)
    own = [f for f in space.values() if isinstance(f, FunctionType) and f.__globals__ is space]
    return [f for f in own if f.__code__.co_varnames[: f.__code__.co_argcount] == _PARAMETERS][-1]


def run_plan(
    program: Program, feeds: Mapping[str, Any], variant: str = "cpu-avx2", chunks: int = 1
) -> dict[str, np.ndarray]:
    """Outputs of ``program`` by the text of its kernels, each call cut into ``chunks`` pieces.

    Every buffer is an allocation of its own: a kernel that touches a byte outside its arguments raises OutOfBounds.
    Raises CompileRefused as ``compile_cpu`` does, VerifyError for a plan that does not hold together.
    """
    store = ConstantStore()
    lowered = lower(program, VARIANTS[variant], store)
    lowered.plan.entries = {s.entry: 0 for s in lowered.sources}
    lowered.plan.verify()
    check_memory(lowered.plan, program)
    return _Run(program, lowered, store, feeds, chunks).outputs()


class _Run:
    def __init__(
        self, program: Program, lowered: Lowered, store: ConstantStore, feeds: Mapping[str, Any], chunks: int
    ) -> None:
        graph = self.graph = program.graph
        self.plan, self.chunks = lowered.plan, chunks
        self.texts = {s.entry: s.text for s in lowered.sources}
        checker = Interpreter(graph)
        arrays, self.env = checker._check(feeds)
        self.values = self.plan.evaluate(self.env)
        self.memory = Memory()
        self.keep: list[np.ndarray] = []
        raw = [np.ascontiguousarray(encode(a, v.dtype)) for a, v in zip(arrays, graph.inputs)]
        self.results = [self._poisoned(v.type.concrete(self.env), v.dtype.np) for v in graph.outputs]
        scratch = max((self.values[k.scratch] for k in self.plan.kernels), default=0)
        self.scratch = int(self._poisoned((scratch,), np.uint8).ctypes.data)
        self.bases = {
            "i": [self._readonly(a) for a in raw],
            "o": [int(a.ctypes.data) for a in self.results],
            "b": [int(self._poisoned((self.values[b.bytes],), np.uint8).ctypes.data) for b in self.plan.buffers],
            "c": self._constants(store),
        }
        # Arguments that loops move: (step, position) -> bytes to add.
        self.moved: dict[tuple[int, int], int] = {}

    # -- memory ---------------------------------------------------------------------------------------------------
    def _poisoned(self, shape: Sequence[int], kind: Any) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        block = aligned(size)
        block[...] = POISON
        self.keep.append(block)
        self.memory.add(block)
        return block.view(kind).reshape(shape)

    def _readonly(self, array: np.ndarray) -> int:
        block = aligned(array.nbytes)
        block[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else 0
        self.keep.append(block)
        return self.memory.add(block, writable=False)

    def _constants(self, store: ConstantStore) -> list[int]:
        weights = np.zeros(store.weights.size, np.uint8)
        at = 0
        for piece in store.weights.pieces:
            weights[at : at + piece.nbytes] = np.frombuffer(piece, np.uint8)
            at += piece.nbytes
        out = []
        for c in self.plan.constants:
            data = weights[c.offset : c.offset + c.bytes]
            if c.stored is not None and c.wanted is not None:
                data = c.wanted.repack(data.view(DTYPES[c.dtype].np), c.stored)
            out.append(self._readonly(data))
        return out

    def _address(self, arg: Arg) -> int:
        kind, index, offset = arg
        return self.bases[kind][index] + (offset if kind == "c" else self.values[offset])

    # -- steps ----------------------------------------------------------------------------------------------------
    def outputs(self) -> dict[str, np.ndarray]:
        """Run every step; outputs by name, as the interpreter gives them."""
        with self.memory, np.errstate(all="ignore"):
            self._steps(self.plan.steps, 0)
            out = {}
            for name, v, place, mine in zip(
                self.graph.output_names, self.graph.outputs, self.plan.outputs, self.results
            ):
                if place[0] != "o" or self._address(place) != mine.ctypes.data:
                    source = self.memory.view(self._address(place), v.dtype.np, mine.size)
                    mine = np.array(source).reshape(mine.shape)
                out[name] = np.array(decode(mine, v.dtype))
        return out

    def _steps(self, steps: Sequence[Step], number: int) -> None:
        for s in steps:
            self._step(s, number)
            number += count_steps([s])

    def _step(self, s: Step, number: int) -> None:
        if isinstance(s, Call):
            self._call(s, number)
        elif isinstance(s, Loop):
            count = self.values[s.count]
            for t in range(count):
                shifts = [(b, self.values[b.delta] * (count - 1 - t if b.reverse else t)) for b in s.bumps]
                for b, by in shifts:
                    self.moved[b.step, b.pos] = self.moved.get((b.step, b.pos), 0) + by
                self._steps(s.body, number + 1)
                for b, by in shifts:
                    self.moved[b.step, b.pos] -= by
        elif isinstance(s, If):
            taken = self._flag(s.cond)
            self._steps(s.then, number + 1) if taken else self._steps(s.orelse, number + 1 + count_steps(s.then))
        elif isinstance(s, While):
            for _ in range(_MOST_TRIPS):
                self._steps(s.cond_steps, number + 1)
                if not self._flag(s.cond):
                    return
                self._steps(s.body, number + 1 + count_steps(s.cond_steps))
            raise VerifyError("a loop does not end")
        else:
            raise VerifyError(f"no way to run a step of type {type(s).__name__} without machine code")

    def _flag(self, arg: Arg) -> bool:
        return bool(self.memory.view(self._address(arg), np.uint8, 1)[0])

    def _call(self, s: Call, number: int) -> None:
        kernel = kernel_of(self.texts[self.plan.kernels[s.kernel].symbol])
        words = tuple(
            self.values[a[1]] if a[0] == "x" else self._address(a) + self.moved.get((number, i), 0)
            for i, a in enumerate(s.args)
        )
        extent = self.values[s.extent]
        pieces = max(min(self.chunks, extent), 1)
        edges = [extent * i // pieces for i in range(pieces + 1)]
        for start, stop in zip(edges, edges[1:]):
            kernel(words, start, stop, self.scratch)


__all__ = ["kernel_of", "run_plan"]
