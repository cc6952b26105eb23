"""A loaded bundle that runs on a GPU.

Owns weights and arenas in device memory, the way of arguments there and back, and calls in flight.
Must not import `ir` or any compiler part; launches, code and drivers live in their own modules.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.dtypes import BF16
from ...core.errors import FusewrightError, InputRefused, VerifyError
from ...core.plan import DEVICE_ALIGN, Plan
from ..base import Loaded, Prepared, check_plan, new_array, refuse_overlap
from ..call import Array, Spec, bfloat16_of, bindable, convert, decoded, listed, ordered, outward, usable_output
from ..expressions import Expressions, Words, evaluator
from ..format import Container
from ..prepare import constants
from ..room import Room
from .arrays import DeviceArray, Given, given, on_device
from .code import Code
from .device import STAGED, STAGING, Device, Event, Memory, Staging, Stream, aligned, device
from .graph import Ports, Ready, resolve
from .nodes import Part, unroll
from .walk import Dynamic, Walk

FOLDER = "native/cuda"
_CONTEXTS = 32  # sets of shapes whose graphs an arena keeps
_PENDING = 64  # calls under way in one stream; the next one waits for the oldest


class Binding:
    """A plan under symbol values: places in the arena and launches, shared by all calls of these shapes."""

    threads = 1

    def __init__(self, room: Room, env: dict[str, int], limit: int, ports: int) -> None:
        """``ports``: bytes of copies of inputs and outputs; they count, since host arrays need them."""
        self.env = env
        self.values: Words = room.exprs.evaluate(env)
        scratch = room.scratch(self.values)
        self.offsets, arena = room.place(env, self.values, limit - scratch - ports)
        self.scratch, self.arena, self.total = arena, arena + scratch, arena + scratch + ports
        self._plan = room.plan
        self._parts: list[Part] | None = None

    def parts(self) -> list[Part]:
        """The launches, worked out at the first call."""
        if self._parts is None:
            self._parts = unroll(self._plan, self.values.tolist(), self.offsets, self.scratch)
        return self._parts


class Workspace:
    """An arena, room for copies of host arrays, a stream, and the graphs that were made for them."""

    def __init__(self, gpu: Device) -> None:
        self.device, self.stream = gpu, Stream(gpu)
        self.arena: Memory | None = None
        self.ports: Memory | None = None
        self.staging: Staging | None = None
        self.contexts: dict[Prepared[Binding], Ready] = {}
        self.pending: list[tuple[Event, list[Any]]] = []  # what work under way still reads, until the event

    def grow(self, arena: int, ports: int) -> None:
        """At least so many bytes each. The device is current."""
        if self.arena is None or self.arena.size < arena:
            self.settle()
            self.contexts.clear()
            if self.arena is not None:
                self.arena.free()
                self.arena = None
            self.arena = Memory(self.device, max(arena, DEVICE_ALIGN), "an arena")
        if self.ports is None or self.ports.size < ports:
            self.settle()
            if self.ports is not None:
                self.ports.free()
                self.ports = None
            self.ports = Memory(self.device, max(ports, DEVICE_ALIGN), "inputs and outputs")

    def settle(self) -> None:
        """Wait for work under way; results for the host are there then."""
        self.device.driver.wait(self.stream.handle)
        self.pending.clear()
        if self.staging is not None:
            self.staging.land()

    def staged(self, size: int) -> int:
        """The address of host memory that the GPU copies from and to by itself; 0 where an array goes as it is."""
        if not 0 < size <= STAGED:
            return 0
        if self.staging is None:
            self.staging = Staging(self.device, STAGING)
        return self.staging.place(size)

    def send(self, to: int, array: Array) -> None:
        """Queue the copy of a host array to the device. It may change once ``settle`` has been called."""
        source, size = array.__array_interface__["data"][0], array.nbytes
        at = self.staged(size)
        if at:
            ctypes.memmove(at, source, size)
        self.device.driver.send(to, at or source, size, self.stream.handle)

    def fetch(self, array: Array, source: int, size: int) -> None:
        """Queue the copy of ``size`` bytes to a host array, where they are after ``settle``."""
        at = self.staged(size)
        if at:
            assert self.staging is not None
            self.staging.give(array, at, size)
        self.device.driver.fetch(at or array.__array_interface__["data"][0], source, size, self.stream.handle)

    def keep(self, owners: list[Any]) -> None:
        """Hold ``owners`` until the work queued by now is done; let go of those whose work is."""
        driver = self.device.driver
        while self.pending and (driver.happened(self.pending[0][0].handle) or len(self.pending) >= _PENDING):
            driver.wait_event(self.pending[0][0].handle)
            del self.pending[0]
        event = Event(self.device)
        driver.record(event.handle, self.stream.handle)
        self.pending.append((event, owners))


class CudaBundle(Loaded[Binding]):
    """A compiled model on a GPU. Call it with NumPy arrays, or with arrays in GPU memory of any library.

    With an array in GPU memory among the inputs (or in ``out``) the results are there too, and the call does not wait
    for them: their protocols tell consumers what to wait for. Safe to call from many threads at once.
    """

    target = "cuda"

    def __init__(
        self,
        container: Container,
        threads: int | None = None,
        verify: str = "full",
        max_bytes: int | None = None,
        ordinal: int = 0,
    ) -> None:
        super().__init__(container, threads, verify, max_bytes)
        self.device = device(ordinal)
        try:
            plan = Plan.from_bytes(container.read(f"{FOLDER}/plan.json"))
            check_plan(plan, self.manifest, len(container.raw("weights.bin")))
            container.check_small()
            self._report_fields = container.read("report.json")
            if verify == "full":
                container.check_weights(self.threads)
            self._describe()
            most = {b.name: plan.exprs[b.most] for b in plan.bound}
            room = Room(plan, Expressions(plan.exprs, plan.symbols, most), DEVICE_ALIGN)
            self._dynamic = Dynamic(plan)
            made = constants(plan, container.weights())
        except (VerifyError, OverflowError, MemoryError) as e:
            raise container.refused(str(e) or "no memory for it") from None
        self._plan, self._room = plan, room
        with self.device:
            self._code = Code(self.device, container, FOLDER, plan)
            self._weights, self._constants = self._upload(made)
        self._copied = [i for i, o in enumerate(plan.outputs) if o[:2] != ("o", i)]
        self._extents = [[evaluator(e) for e in s.exprs] for s in self._inputs]
        self._idle: list[Workspace] = []
        if self._lazy:
            self._verify_behind()

    def _upload(self, arrays: Sequence[Array]) -> tuple[Memory, list[int]]:
        """All constants in one allocation, each aligned; ranges that several constants share go once."""
        places: dict[tuple[int, int], int] = {}
        size = 0
        for a in arrays:
            key = (a.__array_interface__["data"][0], a.nbytes)
            if key not in places:
                places[key] = size
                size += aligned(a.nbytes)
        free = self.device.driver.free_bytes()
        if size > free:
            raise self._container.refused(f"its weights take {size} bytes, {self.device.name} has {free} free")
        memory = Memory(self.device, size, "weights")
        for (source, count), at in places.items():
            self.device.driver.upload(memory.address + at, source, count)
        addresses = [memory.address + places[a.__array_interface__["data"][0], a.nbytes] for a in arrays]
        return memory, addresses

    # -- preparing ------------------------------------------------------------------------------------------------
    def _limit(self) -> int:
        if self.max_bytes is not None:
            return self.max_bytes
        idle = sum(m.size for w in self._idle for m in (w.arena, w.ports) if m is not None)
        with self.device as gpu:
            return (gpu.driver.free_bytes() + idle) // 2

    def _port_bytes(self, env: Mapping[str, int]) -> int:
        shapes = [[f(env) for f in axes] for axes in (*self._extents, *self._shapes_of)]
        specs = (*self._inputs, *self._outputs)
        return sum(aligned(max(0, math.prod(shape)) * s.stored.itemsize) for s, shape in zip(specs, shapes))

    def _bound(self, env: dict[str, int], limit: int) -> Binding:
        return Binding(self._room, env, limit, self._port_bytes(env))

    def _need(self, env: Mapping[str, int]) -> int:
        return self._room.arena_bytes(self._room.exprs.evaluate(env), 1) + self._port_bytes(env)

    # -- calling --------------------------------------------------------------------------------------------------
    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Any:
        """One output: an array; several: a tuple. ``out`` is an array, or a tuple of arrays, to store the results in.

        Raises InputRefused naming the input, what came and what was wanted.
        """
        values = ordered(self._inputs, args, named)
        results = self._call(values, None if out is None else listed(self._outputs, out))
        return results[0] if len(results) == 1 else tuple(results)

    def _call(self, values: Sequence[Any], outs: list[Any] | None) -> list[Any]:
        if self._bad is not None:
            raise self._bad
        there = any(map(on_device, (*values, *(outs or ()))))
        with self.device:
            space = self._idle.pop() if self._idle else Workspace(self.device)
            try:
                return self._there(space, values, outs) if there else self._here(space, values, outs)
            except BaseException:
                if space.staging is not None:
                    space.staging.forget()
                raise
            finally:
                self._idle.append(space)

    def _shaped(self, shapes: tuple[tuple[int, ...], ...]) -> Prepared[Binding]:
        return self._young.get(shapes) or self._remember(shapes, shapes)

    def _here(self, space: Workspace, values: Sequence[Any], outs: Sequence[Any] | None) -> list[Array]:
        """Arrays of the host in, arrays of the host out."""
        arrays = [convert(s, v) for s, v in zip(self._inputs, values)]
        p = self._shaped(tuple(a.shape for a in arrays))
        types = [outward(s.dtype, bfloat16_of((*values, *(outs or ())))) for s in self._outputs]
        rows = list(zip(self._outputs, p.out_shapes, types))
        theirs = None if outs is None else [usable_output(s, o, shape, to) for (s, shape, to), o in zip(rows, outs)]
        if theirs is not None:
            refuse_overlap(theirs, ())
        stored = [new_array(s, shape) for s, shape, _ in rows]
        found: dict[str, int] = {}
        for part, first, last in self._slices(p):
            found = self._once(
                space,
                part,
                [a[first:last] if p.rows else a for a in arrays],
                [r[first:last] if p.rows else r for r in stored],
            )
        space.settle()
        if self._plan.bound:
            env = {**p.env, **found}
            stored = self._trimmed.cut(stored, env)
            theirs = None if theirs is None else self._trimmed.blocks(theirs, env)
            outs = None if outs is None else self._trimmed.blocks(outs, env)
        results = [decoded(y, to) if s.dtype is BF16 else y for (s, _, to), y in zip(rows, stored)]
        if theirs is None:
            return results
        for given_, y in zip(theirs, results):
            given_[...] = y
        return list(outs or ())

    def _there(self, space: Workspace, values: Sequence[Any], outs: Sequence[Any] | None) -> list[Any]:
        """Arrays of the device, with host arrays among them: results stay on the device."""
        stream = space.stream.handle
        inputs = [
            given(s, v, self.device, stream) if on_device(v) else convert(s, v) for s, v in zip(self._inputs, values)
        ]
        p = self._shaped(tuple(tuple(a.shape) for a in inputs))
        made: list[Any] = []
        targets: list[Given] = []
        for i, (spec, shape) in enumerate(zip(self._outputs, p.out_shapes)):
            if outs is None:
                memory = Memory(self.device, math.prod(shape) * spec.stored.itemsize, f"output {spec.name!r}")
                made.append(DeviceArray(memory, shape, spec.dtype, space.stream))
                targets.append(Given(memory.address, shape, spec.stored.itemsize, made[-1], 0, True))
            else:
                targets.append(self._target(spec, outs[i], shape, stream))
        _refuse_device_overlap(targets, inputs)
        host, found = False, dict[str, int]()
        for part, first, last in self._slices(p):
            ins = [_rows(a, first, last) if p.rows else a for a in inputs]
            host |= any(isinstance(a, np.ndarray) for a in ins)
            found = self._once(space, part, ins, [t.rows(first, last) if p.rows else t for t in targets])
        for i in self._trimmed.ports:
            made[i] = made[i].leading(self._trimmed.shape(i, {**p.env, **found}))
        self._after(space, [*inputs, *targets], host)
        return list(outs) if outs is not None else made

    def _target(self, spec: Spec, value: Any, shape: tuple[int, ...], stream: int) -> Given:
        if self._trimmed.ports:
            raise InputRefused(
                f"out for {spec.name!r}: the extents of results are found out during the call; in GPU memory they are "
                "new arrays"
            )
        if not on_device(value):
            raise InputRefused(f"out for {spec.name!r}: an input is in GPU memory, so out has to be there too")
        found = given(spec, value, self.device, stream, "out for")
        if found.shape != shape or not found.writable:
            state = "" if found.writable else " that is read-only"
            raise InputRefused(
                f"out for {spec.name!r}: got shape {found.shape}{state}, wanted {shape} for {spec.wanted()}"
            )
        return found

    def _after(self, space: Workspace, arrays: Sequence[Any], host: bool) -> None:
        """Producers wait for us before they use their memory again; ours that nobody waits for is kept."""
        stream, driver = space.stream.handle, self.device.driver
        for other in {a.stream for a in arrays if isinstance(a, Given)} - {0, stream}:
            driver.after(other, stream)
        if host:  # the host's arrays may change as soon as we return
            space.settle()
        else:
            space.keep([a.owner for a in arrays if isinstance(a, Given)])

    # -- execution ------------------------------------------------------------------------------------------------
    def _once(
        self, space: Workspace, p: Prepared[Binding], inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> dict[str, int]:
        """Queue one run in the workspace's stream: copies in, kernels, copies out. The extents that it found out."""
        binding, dynamic = p.binding, bool(self._plan.bound)
        space.grow(binding.arena, p.total - binding.arena)
        assert space.ports is not None and space.arena is not None
        driver, stream, at = self.device.driver, space.stream.handle, space.ports.address
        addresses: list[int] = []
        back: list[tuple[int, int, Any]] = []
        for n, a in enumerate((*inputs, *outputs)):
            mine, at = at, at + aligned(a.nbytes)
            direct = isinstance(a, Given) and a.address % DEVICE_ALIGN == 0
            addresses.append(a.address if direct else mine)
            if direct:
                continue
            if n >= len(inputs):
                back.append((n - len(inputs), mine, a))
            elif isinstance(a, Given):
                driver.copy(mine, a.address, a.nbytes, stream)
            else:
                space.send(mine, a)
        ports = addresses[: len(inputs)], addresses[len(inputs) :]
        if dynamic:
            found = self._walk(space, p, ports)
        else:
            self._ready(space, p).run(ports, stream)
            found = {}
        sizes = [a.nbytes for a in outputs]
        for i in self._trimmed.ports:
            sizes[i] = math.prod(self._trimmed.shape(i, {**p.env, **found})) * self._outputs[i].stored.itemsize
        for i in self._copied:
            kind, index, offset = self._plan.outputs[i]
            value = offset if kind == "c" else int(binding.values[offset])
            word = ("b", index, binding.offsets[index] + value) if kind == "b" else (kind, index, value)
            source = resolve(word, space.arena.address, self._constants, ports)
            driver.copy(ports[1][i], source, sizes[i], stream)
        for i, mine, a in back:
            if isinstance(a, Given):
                driver.copy(a.address, mine, sizes[i], stream)
            else:
                space.fetch(a, mine, sizes[i])
        return found

    def _walk(self, space: Workspace, p: Prepared[Binding], ports: Ports) -> dict[str, int]:
        """A run step by step, since what comes next depends on what it finds out."""
        assert space.arena is not None
        b = p.binding
        places, addresses = (b.offsets, b.scratch), (space.arena.address, self._constants, ports)
        functions = self._code.functions
        walk = Walk(
            self.device, self._plan, functions, self._dynamic, b.values.tolist(), p.env, places, addresses,
            space.stream.handle,
        )  # fmt: skip
        return walk.run()

    def _ready(self, space: Workspace, p: Prepared[Binding]) -> Ready:
        space.grow(p.binding.arena, p.total - p.binding.arena)
        found = space.contexts.get(p)
        if found is None:
            if len(space.contexts) >= _CONTEXTS:
                space.settle()
                space.contexts.clear()
            assert space.arena is not None
            functions, parts = self._code.functions, p.binding.parts()
            found = Ready(self.device, self._plan, functions, parts, space.arena.address, self._constants)
            space.contexts[p] = found
        return found

    # -- bound calls ----------------------------------------------------------------------------------------------
    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[..., Any]:
        """A function that reads ``inputs`` and fills ``outputs``: no checks, no allocation.

        Arrays of the host (C-contiguous, aligned, of the stored type) or of the device. It owns its arena: one thread
        at a time. ``f()`` waits until the results are there; ``f(stream)`` with device arrays alone queues the work in
        the stream of that handle (1: the default stream) and does not wait. Where extents are found out during the
        call, it gives {symbol: value}, and arrays are of the host.
        """
        self._check_names(inputs, outputs)
        with self.device:
            space = Workspace(self.device)
            stream = space.stream.handle
            ins = [self._bindable(s, inputs[s.name], stream, "input") for s in self._inputs]
            outs = [self._bindable(s, outputs[s.name], stream, "output") for s in self._outputs]
            p = self._prepare(tuple(tuple(a.shape) for a in ins), self._limit())
            if p.rows:
                raise InputRefused(
                    f"bind needs an arena of {self._need(p.env)} bytes, more than max_bytes allows: raise it"
                )
            for s, r, shape in zip(self._outputs, outs, p.out_shapes):
                writable = r.writable if isinstance(r, Given) else r.flags.writeable
                if tuple(r.shape) != shape or not writable:
                    raise InputRefused(
                        f"output {s.name!r}: got shape {r.shape}, wanted a writable array of shape {shape}"
                    )
            _refuse_device_overlap([r for r in outs if isinstance(r, Given)], ins)
            refuse_overlap([r for r in outs if not isinstance(r, Given)], [a for a in ins if not isinstance(a, Given)])
            space.settle()
            if not self._plan.bound:
                self._ready(space, p)
        if self._plan.bound:
            return self._bound_walk(space, p, ins, outs)
        own, device_only = space.stream, all(isinstance(a, Given) for a in (*ins, *outs))

        def bound(stream: int | None = None) -> None:
            if self._bad is not None:
                raise self._bad
            if stream is not None and not device_only:
                raise InputRefused("a bound call of arrays of the host has its own stream: call it without one")
            with self.device as gpu:
                if stream is None:
                    self._once(space, p, ins, outs)
                    space.settle()
                    return
                gpu.driver.after(own.handle, stream)
                self._once(space, p, ins, outs)
                gpu.driver.after(stream, own.handle)

        return bound

    def _bound_walk(
        self, space: Workspace, p: Prepared[Binding], ins: Sequence[Any], outs: Sequence[Any]
    ) -> Callable[..., Any]:
        """A bound call that finds extents out: results fill the leading blocks of their arrays."""
        if any(isinstance(a, Given) for a in (*ins, *outs)):
            raise InputRefused("extents are found out during this call: bind it to arrays of the host, or call it")
        stored = self._trimmed.stand_ins(outs)

        def bound(stream: int | None = None) -> dict[str, int]:
            if self._bad is not None:
                raise self._bad
            if stream is not None:
                raise InputRefused("a bound call of arrays of the host has its own stream: call it without one")
            with self.device:
                found = self._once(space, p, ins, stored)
                space.settle()
            self._trimmed.store(outs, stored, {**p.env, **found})
            return found

        return bound

    def _bindable(self, spec: Spec, value: Any, stream: int, what: str) -> Any:
        return given(spec, value, self.device, stream, what) if on_device(value) else bindable(spec, value, what)

    def __repr__(self) -> str:
        return f"<Bundle {self.signature} for {self.target} on {self.device.name}>"


def _rows(array: Any, first: int, last: int) -> Any:
    return array.rows(first, last) if isinstance(array, Given) else array[first:last]


def _refuse_device_overlap(outs: Sequence[Given], inputs: Sequence[Any]) -> None:
    """Raises InputRefused for outputs that share memory with each other or with an input."""
    taken = [(a.address, a.address + a.nbytes, "an input") for a in inputs if isinstance(a, Given)]
    for i, a in enumerate(outs):
        low, high = a.address, a.address + a.nbytes
        for other_low, other_high, what in taken:
            if low < other_high and other_low < high:
                raise InputRefused(f"output array {i} overlaps {what} in memory")
        taken.append((low, high, "another output"))


def usable() -> bool:
    """Is there a GPU with a driver that works?"""
    try:
        device()
    except FusewrightError:
        return False
    return True


__all__ = ["CudaBundle", "usable"]
