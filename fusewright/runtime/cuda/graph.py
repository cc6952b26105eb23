"""Launches of one call as driver graphs, ready to go with other input and output addresses.

Owns parameter blocks, graphs and the walk over conditions. Must not know how addresses of ports are found.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

from ...core.plan import Plan
from .device import Device
from .driver import KernelArgs, NodeParams, node_params
from .nodes import NUMBER, Branch, Launch, Part, Repeat, Word

Ports = tuple[Sequence[int], Sequence[int]]  # addresses of inputs, of outputs


def resolve(word: Word, arena: int, constants: Sequence[int], ports: Ports) -> int:
    """The number of a parameter word, with everything where these addresses say."""
    kind, index, value = word
    if kind == NUMBER:
        return value
    if kind == "b":
        return arena + value
    if kind == "c":
        return constants[index] + value
    return ports[kind == "o"][index] + value


class Ready:
    """The parts of a call in one arena, with graphs. One call at a time."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        functions: Sequence[int],
        parts: Sequence[Part],
        arena: int,
        constants: Sequence[int],
    ) -> None:
        """The device is current. ``arena`` and ``constants`` are addresses."""
        self._device, self._plan, self._functions = device, plan, functions
        self._arena, self._constants = arena, constants
        self._flag = (ctypes.c_ubyte * 1)()
        self._parts = [self._part(p) for p in parts]

    def _part(self, part: Part) -> _Run | _Choice | _Again:
        if isinstance(part, Branch):
            sides = [self._part(p) for p in part.then], [self._part(p) for p in part.orelse]
            return _Choice(part.cond, *sides)
        if isinstance(part, Repeat):
            return _Again([self._part(p) for p in part.test], part.cond, [self._part(p) for p in part.body])
        return _Run(self, part)

    def run(self, ports: Ports, stream: int) -> None:
        """Queue the call in ``stream``; waits only where a condition has to be read."""
        self._run(self._parts, ports, stream)

    def _run(self, parts: Sequence[_Run | _Choice | _Again], ports: Ports, stream: int) -> None:
        for p in parts:
            if isinstance(p, _Run):
                p.run(ports, stream)
            elif isinstance(p, _Choice):
                self._run(p.then if self._holds(p.cond, ports, stream) else p.orelse, ports, stream)
            else:
                self._run(p.test, ports, stream)
                while self._holds(p.cond, ports, stream):
                    self._run(p.body, ports, stream)
                    self._run(p.test, ports, stream)

    def _holds(self, cond: Word, ports: Ports, stream: int) -> bool:
        driver = self._device.driver
        driver.fetch(ctypes.addressof(self._flag), self.word(cond, ports), 1, stream)
        driver.wait(stream)
        return self._flag[0] != 0

    def word(self, word: Word, ports: Ports) -> int:
        """The number of a parameter word."""
        return resolve(word, self._arena, self._constants, ports)


class _Choice:
    def __init__(self, cond: Word, then: list[_Run | _Choice | _Again], orelse: list[_Run | _Choice | _Again]) -> None:
        self.cond, self.then, self.orelse = cond, then, orelse


class _Again:
    def __init__(self, test: list[_Run | _Choice | _Again], cond: Word, body: list[_Run | _Choice | _Again]) -> None:
        self.test, self.cond, self.body = test, cond, body


class _Run:
    """Launches without a condition between them: one graph, made at its first run; a single launch goes as it is."""

    def __init__(self, owner: Ready, launches: Sequence[Launch]) -> None:
        self._owner, self._launches = owner, launches
        self._args: list[KernelArgs] = []
        self._nodes: list[int] = []
        self._executable = 0
        self._ports: Ports = ([], [])
        # Where addresses of inputs and outputs stand: node, place, word.
        self._moving = [
            (n, at, w) for n, launch in enumerate(launches) for at, w in enumerate(launch.words) if w[0] in "io"
        ]

    def run(self, ports: Ports, stream: int) -> None:
        driver, owner = self._owner._device.driver, self._owner
        if not self._args:
            self._args = [KernelArgs([owner.word(w, ports) for w in launch.words]) for launch in self._launches]
            self._ports = ports
            if len(self._launches) > 1:
                self._build()
        elif ports != self._ports:
            self._move(ports)
        if self._executable:
            driver.launch_graph(self._executable, stream)
            return
        launch = self._launches[0]
        kernel = owner._plan.kernels[launch.kernel].launch
        assert kernel is not None
        function = owner._functions[launch.kernel]
        driver.launch(function, launch.grid, kernel.block, kernel.shared, self._args[0], stream)

    def _build(self) -> None:
        device = self._owner._device
        driver = device.driver
        graph = driver.graph()
        try:
            for n, launch in enumerate(self._launches):
                after = [self._nodes[i] for i in launch.after]
                self._nodes.append(driver.add_node(graph, after, self._params(n)))
            self._executable = driver.instantiate(graph)
        except BaseException:
            self._args, self._nodes = [], []
            driver.end_graph(graph)
            raise
        # The nodes' handles are those of the graph: it stays as long as they may be changed.
        weakref.finalize(self, device.quietly, driver.end_graph, graph)
        weakref.finalize(self, device.quietly, driver.end_executable, self._executable)

    def _params(self, n: int) -> NodeParams:
        launch = self._launches[n]
        kernel = self._owner._plan.kernels[launch.kernel].launch
        assert kernel is not None
        function = self._owner._functions[launch.kernel]
        return node_params(function, launch.grid, kernel.block, kernel.shared, self._args[n])

    def _move(self, ports: Ports) -> None:
        changed: set[int] = set()
        for n, at, word in self._moving:
            value = self._owner.word(word, ports)
            if self._args[n].words[at] != value:
                self._args[n].words[at] = value
                changed.add(n)
        if self._executable:
            for n in changed:
                self._owner._device.driver.change_node(self._executable, self._nodes[n], self._params(n))
        self._ports = ports
