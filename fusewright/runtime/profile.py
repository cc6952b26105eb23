"""How long every kernel call of a step table takes, one step at a time, in the order and the memory of a real call.

Owns the walk over a context's table with a clock. Must not know what a kernel does, nor how tables are made.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..core.plan import Call, Plan
from ..core.poolwords import BIND, BRANCH, CALL, CHECK, ENDLOOP, HALT, JUMP, LOOP

Clock = Callable[[], float]
Entry = Callable[..., int]
_LENGTH = {CALL: 5, LOOP: 6, ENDLOOP: 2, BRANCH: 3, JUMP: 2, HALT: 1, BIND: 9, CHECK: 3}
_EMPTY = 32  # calls of an empty table that find out what handing one over takes


class StepTime:
    """A kernel call of the plan.

    ``flops`` and ``bytes`` are the report's (all trips of loops), ``constants`` the bytes of weights that it is given,
    ``extent`` and ``grain`` its work in the last run, ``runs`` how often it ran in the last round (trips of loops,
    slices of the batch). ``seconds`` has one number per round: the sum over its runs.
    """

    __slots__ = ("kernel", "kind", "origin", "flops", "bytes", "constants", "extent", "grain", "runs", "seconds")

    def __init__(self, row: Mapping[str, Any], constants: int, grain: int) -> None:
        self.kernel, self.kind, self.origin = row["name"], row["kind"], row["origin"]
        self.flops, self.bytes, self.constants, self.grain = row["flops"], row["bytes"], constants, grain
        self.extent = self.runs = 0
        self.seconds: list[float] = []

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {s: getattr(self, s) for s in self.__slots__}

    def __repr__(self) -> str:
        best = f"best {min(self.seconds) * 1e6:.1f} us" if self.seconds else "not measured"
        return f"StepTime({self.kernel}, {self.runs} runs, {best}, {self.origin})"


def rows_of(plan: Plan, kernels: list[dict[str, Any]]) -> list[StepTime]:
    """A row for each call of ``plan``, in the order of its report's ``kernels``, which is that of its step table."""
    calls = [s for _, s, _ in plan.walk() if isinstance(s, Call)]
    out = []
    for call, row in zip(calls, kernels, strict=True):
        given: dict[int, int] = {}  # several layouts of one constant: the kernel works with the largest
        for arg in call.args:
            if arg[0] == "c":
                c = plan.constants[arg[1]]
                given[c.offset] = max(given.get(c.offset, 0), c.size)
        out.append(StepTime(row, sum(given.values()), call.grain))
    return out


class Walk:
    """Passes over one step table: ``words`` as the dispatcher reads them, ``args`` those of its native entry.

    Loops and conditions are followed here, word for word as the dispatcher does; whatever else there is goes to the
    dispatcher as a table of one step, so threads, pool and scratch are those of a call.
    """

    def __init__(
        self, entry: Entry, args: tuple[Any, ...], words: memoryview, steps: list[StepTime], clock: Clock | None = None
    ) -> None:
        self.words, self.entry, self.steps, self.clock = words, entry, steps, clock or time.perf_counter
        self.single = np.zeros(16, np.int64)
        self.table = memoryview(self.single)
        self.args = (ctypes.c_int64(self.single.ctypes.data), *args[1:])
        self.at: dict[int, int] = {}  # pc of a CALL -> its row
        pc, end = 1, words[0]
        while pc < end:
            if words[pc] == CALL:
                self.at[pc] = len(self.at)
            pc += _LENGTH[words[pc]]

    def run(self, measured: bool = True, more: bool = False) -> int:
        """One pass, or ``more`` of the pass that another table began; 0, or the dispatcher's refusal."""
        w, runs, seconds = self.words, [0] * len(self.at), [0.0] * len(self.at)
        empty = self._empty()
        pc = 1
        while (op := w[pc]) != HALT:
            if op == LOOP:
                w[pc + 3] = 0
                self._bump(w[pc + 5], w[pc + 4], True)
                if w[pc + 1] > 0:
                    pc += 6
                else:
                    pc = w[pc + 2]
            elif op == ENDLOOP:
                loop = w[pc + 1]
                w[loop + 3] += 1
                again = w[loop + 3] < w[loop + 1]
                if again:
                    self._bump(w[loop + 5], w[loop + 4], False)
                pc = loop + 6 if again else pc + 2
            elif op == BRANCH:
                pc = pc + 3 if ctypes.c_uint8.from_address(w[pc + 1]).value else w[pc + 2]
            elif op == JUMP:
                pc = w[pc + 1]
            else:
                code, took = self._alone(pc, _LENGTH[op])
                if code:
                    return -pc if code < 0 else pc
                if op == CALL:
                    row = self.at[pc]
                    runs[row] += 1
                    seconds[row] += max(took - empty, 0.0)
                    self.steps[row].extent = w[pc + 3]
                pc += _LENGTH[op]
        if measured:
            for step, n, took in zip(self.steps, runs, seconds, strict=True):
                if not more:
                    step.runs = 0
                    step.seconds.append(0.0)
                step.runs += n
                step.seconds[-1] += took
        return 0

    def _alone(self, pc: int, length: int) -> tuple[int, float]:
        """The dispatcher's answer to one step, and how long it took."""
        self.table[0] = length + 2
        self.table[1 : 1 + length] = self.words[pc : pc + length]
        self.table[1 + length] = HALT
        entry, args, clock = self.entry, self.args, self.clock
        start = clock()
        code = entry(*args)
        return code, clock() - start

    def _empty(self) -> float:
        """Seconds that a table without a step takes."""
        self.table[0], self.table[1] = 2, HALT
        best = float("inf")
        for _ in range(_EMPTY):
            start = self.clock()
            self.entry(*self.args)
            best = min(best, self.clock() - start)
        return best

    @staticmethod
    def _bump(table: int, count: int, first: bool) -> None:
        """The words that follow a loop: their first values, or one iteration on."""
        for i in range(count):
            target, start, delta = (ctypes.c_int64 * 3).from_address(table + 24 * i)
            word = ctypes.c_int64.from_address(target)
            word.value = start if first else word.value + delta
