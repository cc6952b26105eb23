"""A call whose extents are found out while it runs: its steps are launched one by one, in the order of the plan.

Owns the numbers read back and what follows from them. Must not know how addresses of ports are found.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from ...core import dims
from ...core.bounds import misfit, out_of_range
from ...core.errors import InputRefused
from ...core.plan import Bind, Call, Check, If, Plan, While, count_steps
from ..expressions import Evaluator, evaluator
from .device import Device
from .driver import KernelArgs
from .graph import Ports, resolve
from .nodes import Reader, Word


class Dynamic:
    """The expressions of a plan over run-time symbols, ready to be worked out again and again."""

    def __init__(self, plan: Plan) -> None:
        found = {b.name for b in plan.bound}
        parsed = ((i, dims.parse(text)) for i, text in enumerate(plan.exprs))
        self.makers: dict[int, Evaluator] = {i: evaluator(e) for i, e in parsed if found & set(dims.symbols(e))}


class _Values:
    """The values of a plan's expressions; those over run-time symbols once these are known."""

    def __init__(self, dynamic: Dynamic, known: Sequence[int], env: Mapping[str, int]) -> None:
        self.makers, self.known, self.env = dynamic.makers, known, dict(env)
        self.made: dict[int, int] = {}

    def __getitem__(self, index: int, /) -> int:
        make = self.makers.get(index)
        if make is None:
            return int(self.known[index])
        if index not in self.made:
            self.made[index] = make(self.env)
        return self.made[index]

    def learn(self, name: str, value: int) -> None:
        self.env[name] = value
        self.made.clear()


class Walk(Reader):
    """One call in a stream, which orders all of it. It waits where a number or a condition has to be read."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        functions: Sequence[int],
        dynamic: Dynamic,
        known: Sequence[int],
        env: Mapping[str, int],
        places: tuple[Sequence[int], int],
        addresses: tuple[int, Sequence[int], Ports],
        stream: int,
    ) -> None:
        """``known`` are the expressions' values, ``places`` the offsets of buffers and of scratch, ``addresses`` those
        of the arena, of constants and of ports. The device is current."""
        self.current = _Values(dynamic, known, env)
        super().__init__(plan, self.current, *places)
        self._device, self._functions, self._stream = device, functions, stream
        self._arena, self._constants, self._ports = addresses
        self._number = (ctypes.c_int64 * 1)()

    def run(self) -> dict[str, int]:
        """Queue the call; the values of the symbols that it found out. Raises InputRefused for those out of range."""
        self.steps(self.plan.steps, 0, {})
        return {b.name: self.current.env.get(b.name, b.low) for b in self.plan.bound}

    def _read(self, word: Word, size: int) -> int:
        driver = self._device.driver
        self._number[0] = 0
        address = resolve(word, self._arena, self._constants, self._ports)
        driver.fetch(ctypes.addressof(self._number), address, size, self._stream)
        driver.wait(self._stream)
        return self._number[0]

    def branch(self, s: If, at: int, moved: dict[tuple[int, int], int]) -> int:
        middle = at + count_steps(s.then)
        if self._read(self.word(s.cond, 0), 1):
            self.steps(s.then, at, moved)
        else:
            self.steps(s.orelse, middle, moved)
        return middle + count_steps(s.orelse)

    def repeat(self, s: While, at: int, moved: dict[tuple[int, int], int]) -> int:
        middle = at + count_steps(s.cond_steps)
        self.steps(s.cond_steps, at, moved)
        while self._read(self.word(s.cond, 0), 1):
            self.steps(s.body, middle, moved)
            self.steps(s.cond_steps, at, moved)
        return middle + count_steps(s.body)

    def find(self, s: Bind | Check) -> None:
        if isinstance(s, Bind):
            self._bind(s)
        else:
            self._check(s)

    def call(self, s: Call, number: int, moved: dict[tuple[int, int], int]) -> None:
        launch = self.launch(s, number, moved)
        if launch is None:
            return
        kernel = self.plan.kernels[launch.kernel].launch
        assert kernel is not None
        args = KernelArgs([resolve(w, self._arena, self._constants, self._ports) for w in launch.words])
        driver, function = self._device.driver, self._functions[launch.kernel]
        driver.launch(function, launch.grid, kernel.block, kernel.shared, args, self._stream)

    def _bind(self, s: Bind) -> None:
        symbol = self.plan.bound[s.symbol]
        value, high = self._read(self.word(s.source, 0), 8), self.values[symbol.high]
        if not symbol.low <= value <= high:
            raise InputRefused(out_of_range(symbol.name, value, symbol.low, high) + _place(s))
        self.current.learn(symbol.name, value)

    def _check(self, s: Check) -> None:
        left, right = self.values[s.left], self.values[s.right]
        if left != right:
            raise InputRefused(misfit(left, right) + _place(s))


def _place(s: Bind | Check) -> str:
    return f" ({s.origin})" if s.origin else ""
