"""A loaded bundle: the callable that users hold.

Owns target choice, the cache of bindings, arenas in flight, slicing under a memory limit and the call itself.
Must not import `ir` or any compiler part; container, step table and argument rules live in their own modules.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.dtypes import BF16
from ..core.errors import FusewrightError, InputRefused, VerifyError
from ..core.plan import Plan
from ..core.poolwords import MAX_THREADS
from ..core.report import work_of
from ..core.slices import rows_of_a_slice
from . import cpu
from .base import KEPT, Loaded, Prepared, check_plan, new_array, overlaps, refuse_overlap
from .binding import Binding, Context, Template
from .call import (
    READY,
    WRITABLE,
    Array,
    bfloat16_of,
    bindable,
    by_name,
    convert,
    decoded,
    listed,
    ordered,
    outward,
    usable_output,
)
from .format import Buffer, Container
from .image import NativeImage
from .memory import Arena, available_bytes
from .pool import pool
from .prepare import Helper, constants
from .profile import Clock, StepTime, Walk, rows_of

_GROWTH_CHECKED = 16 << 20  # arena growth from here on is checked against free memory
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int64)  # no argument types: the arguments are ready-made c_int64
_ONE_BYTE = ctypes.c_char


class _Ready(Context):
    """A context with the arguments of the native entry made once."""

    __slots__ = ("args", "inputs", "outputs")

    def __init__(self, template: Template, p: Prepared[Binding], arena: Arena, pool_address: int) -> None:
        super().__init__(template, p.binding, arena)
        words = (self.address, pool_address, p.threads, self.scratch, p.binding.stride)
        self.args = tuple(ctypes.c_int64(w) for w in words)
        self.inputs, self.outputs = p.binding.inputs, p.binding.outputs


Pieces = list[tuple[_Ready, Prepared[Binding], list[Array], list[Array]]]


class _NeedsLess(Exception):
    """Inside only: there is less memory now than when the shapes were prepared."""

    def __init__(self, limit: int) -> None:
        self.limit = limit


class Bundle(Loaded[Binding]):
    """A compiled model. Call it with arrays in the order of ``signature.inputs``, or by name.

    Safe to call from many threads at once and in a forked child. ``threads`` is how many threads one call may use.
    """

    def __init__(
        self,
        container: Container,
        threads: int | None = None,
        verify: str = "full",
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(container, threads, verify, max_bytes)
        manifest = container.manifest
        self._lanes = min(self.threads, MAX_THREADS)
        self.target: str = _choose(container)
        folder = f"native/{self.target}"
        code = container.read(f"{folder}/code.bin")
        try:
            plan = Plan.from_bytes(container.read(f"{folder}/plan.json"))
            check_plan(plan, manifest, len(container.raw("weights.bin")))
            _check_entries(plan, len(code))
            container.check_small()
            self._report_fields = container.read("report.json")
            self._image = NativeImage(code, plan.entries)
            helper = Helper(self._image, self._lanes)
            if verify == "full":
                container.check_weights(self.threads, helper.digests(container.weights()))
            self._constants = constants(plan, container.weights(), helper)
            base = self._image.address("run") - plan.entries["run"]
            self._template = Template(plan, base, [c.ctypes.data for c in self._constants])
        except (VerifyError, OverflowError, MemoryError) as e:
            raise container.refused(str(e) or "no memory for it") from None
        self._plan = plan
        self._entry: Callable[..., int] = _ENTRY(self._image.address("run"))
        self._describe()
        self._copied = [i for i, o in enumerate(plan.outputs) if o[:2] != ("o", i)]
        self._arenas: list[Arena] = []
        plain = not self._copied and not any(s.dtype is BF16 for s in self._inputs + self._outputs)
        self._plain = plain
        self._arity = len(self._inputs)
        self._types_out = [s.stored for s in self._outputs]
        _alive.add(self)
        if self._lazy:
            self._verify_behind(self._digests())

    def _digests(self) -> Callable[[], Sequence[bytes]]:
        """Blocks of the weights hashed by one thread; keeps the code alive, not the bundle."""
        helper, weights = Helper(self._image, 1), self._container.weights()
        return lambda: helper.digests(weights)

    # -- calling --------------------------------------------------------------------------------------------------
    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Any:
        """One output: an array; several: a tuple. ``out`` is an array, or a tuple of arrays, to store the results in.

        Raises InputRefused naming the input, what came and what was wanted.
        """
        values = args if not named and len(args) == self._arity else ordered(self._inputs, args, named)
        results = self._call(values, None if out is None else listed(self._outputs, out))
        return results[0] if len(results) == 1 else tuple(results)

    def _quick(self, args: Sequence[Any], outs: list[Any] | None) -> list[Array] | None:
        """Arrays as they must be, shapes seen before, an idle arena that holds their step table; else None."""
        for x, want in zip(args, self._stored):
            if type(x) is not np.ndarray or x.dtype is not want or x.flags.num & READY != READY:
                return None
        p = self._young.get(args[0].shape if len(args) == 1 else tuple([x.shape for x in args]))
        if p is None or not p.fast or not (outs is None or self._as_they_are(p, args, outs)):
            return None
        return self._again(p, args, outs)

    def _as_they_are(self, p: Prepared[Binding], args: Sequence[Array], outs: Sequence[Any]) -> bool:
        """May kernels write straight into ``outs``? No, where that takes a closer look."""
        for i, (y, shape, want) in enumerate(zip(outs, p.out_shapes, self._types_out)):
            if type(y) is not np.ndarray or y.dtype is not want or y.shape != shape:
                return False
            if y.flags.num & WRITABLE != WRITABLE or overlaps(y, args) or overlaps(y, outs[:i]):
                return False
        return True

    def _again(self, p: Prepared[Binding], args: Sequence[Array], outs: list[Array] | None) -> list[Array] | None:
        """A call whose step table is ready in an idle arena, its results new or in ``outs``; None when it is not."""
        try:
            arena = self._arenas.pop()
        except IndexError:
            return None
        c = arena.contexts.get(p)
        if c is None:
            self._arenas.append(arena)
            return None
        words = c.words
        for where, x in zip(c.inputs, args):
            address = x.__array_interface__["data"][0]
            for at, offset in where:
                words[at] = address + offset
        results = outs or [np.empty(shape, to) for shape, to in zip(p.out_shapes, self._types_out)]
        for where, y in zip(c.outputs, results):
            address = _address_of(_ONE_BYTE.from_buffer(y))
            for at, offset in where:
                words[at] = address + offset
        code = self._entry(*c.args)
        self._arenas.append(arena)
        if code:
            raise self._refused(code, c)
        return results

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], dict[str, int] | None]:
        """A function without arguments that reads ``inputs`` and fills ``outputs``: no checks, no allocation.

        The arrays must be C-contiguous, aligned, native and of the stored type (bf16: uint16 or ml_dtypes.bfloat16).
        It owns its arena: one thread at a time. An output whose extents are found out during the run needs an array of
        their greatest values; the result is its leading block. Then the function gives {symbol: value}, else None.
        """
        self._check_names(inputs, outputs)
        arrays = [bindable(s, inputs[s.name], "input") for s in self._inputs]
        results = [bindable(s, outputs[s.name], "output") for s in self._outputs]
        p = self._prepare(tuple(a.shape for a in arrays), self._limit())
        for s, r, shape in zip(self._outputs, results, p.out_shapes):
            if r.shape != shape or not r.flags.writeable:
                raise InputRefused(f"output {s.name!r}: got shape {r.shape}, wanted a writable array of shape {shape}")
        refuse_overlap(results, arrays)
        arena = Arena(p.total)
        theirs, results = results, self._trimmed.stand_ins(results)
        pieces = self._pieces(arena, p, arrays, results)
        entry, copied, dynamic = self._entry, self._copied, bool(self._plan.bound)

        def bound() -> dict[str, int] | None:
            if self._bad is not None:
                raise self._bad
            for context, part, ins, outs in pieces:
                code = entry(*context.args)
                if code:
                    raise self._refused(code, context)
                if copied:
                    self._copy_out(arena, part, ins, outs)
            if not dynamic:
                return None
            found = self._found(context)
            self._trimmed.store(theirs, results, {**p.env, **found})
            return found

        return bound

    def profile(
        self, inputs: Mapping[str, Any], rounds: int = 10, warm: int = 2, clock: Clock | None = None
    ) -> list[StepTime]:
        """The time of every kernel call on ``inputs``, in the order of the report: ``rounds`` passes after ``warm``.

        Steps are handed to the dispatcher one by one, in memory of their own, with this bundle's threads; what handing
        over an empty table takes is subtracted. A step that a pass does not reach has no runs in it. ``clock`` gives
        seconds (None: ``time.perf_counter``). Raises InputRefused.
        """
        if type(rounds) is not int or type(warm) is not int or rounds < 1 or warm < 0:
            raise InputRefused(f"profile: rounds={rounds!r} is at least 1, warm={warm!r} at least 0")
        if self._bad is not None:
            raise self._bad
        arrays = [convert(s, v) for s, v in zip(self._inputs, by_name(self._inputs, inputs, "profile"))]
        p = self._prepare(tuple(a.shape for a in arrays), self._limit())
        results = self._trimmed.stand_ins([new_array(s, shape) for s, shape in zip(self._outputs, p.out_shapes)])
        steps = rows_of(self._plan, self.report(p.env).kernels)
        arena = Arena(p.total)  # step tables hold its address alone
        contexts = [c for c, _, _, _ in self._pieces(arena, p, arrays, results)]
        walks = [Walk(self._entry, c.args, c.words, steps, clock) for c in contexts]
        for i in range(-warm, rounds):
            for walk, context in zip(walks, contexts):
                code = walk.run(i >= 0, walk is not walks[0])
                if code:
                    raise self._refused(code, context)
        return steps

    def _pieces(self, arena: Arena, p: Prepared[Binding], arrays: Sequence[Array], results: Sequence[Array]) -> Pieces:
        """What runs one after the other to fill ``results``: each with a step table of its own, in one arena."""
        out: Pieces = []
        slices = self._slices(p)
        arena.grow(max(part.total for part, _, _ in slices))  # it must not move under a table made before
        for part, first, last in slices:
            ins, outs = ([a[first:last] if p.rows else a for a in group] for group in (arrays, results))
            context = self._made(arena, part)
            self._patch(context, ins, outs)
            out.append((context, part, ins, outs))
        return out

    def _call(self, values: Sequence[Any], outs: list[Any] | None) -> list[Array]:
        if self._bad is not None:
            raise self._bad
        if self._plain:
            done = self._quick(values, outs)
            if done is not None:
                return done
        arrays = [convert(s, v) for s, v in zip(self._inputs, values)]
        shapes = tuple(a.shape for a in arrays)
        key = shapes[0] if len(shapes) == 1 else shapes
        p = self._young.get(key) or self._remember(key, shapes)
        like = None if self._plain else bfloat16_of((*values, *(outs or ())))
        types = [outward(s.dtype, like) for s in self._outputs]
        stored: list[Array] = []
        for i, (s, shape, to) in enumerate(zip(self._outputs, p.out_shapes, types)):
            given = None if outs is None else usable_output(s, outs[i], shape, to)
            direct = given is not None and s.dtype is not BF16 and given.dtype == s.stored
            direct = direct and i not in self._trimmed.ports
            if given is not None and direct and given.flags.num & READY == READY and not overlaps(given, arrays):
                stored.append(given if type(given) is np.ndarray else np.asarray(given))
            else:
                stored.append(new_array(s, shape))
        if outs is not None:
            refuse_overlap(outs, ())
        try:
            found = self._execute(p, arrays, stored)
        except _NeedsLess as e:
            found = self._execute(self._prepare(shapes, e.limit), arrays, stored, checked=True)
        if self._plan.bound:
            env = {**p.env, **found}
            stored = self._trimmed.cut(stored, env)
            outs = None if outs is None else self._trimmed.blocks(outs, env)
        results = [decoded(y, to) if s.dtype is BF16 else y for s, y, to in zip(self._outputs, stored, types)]
        if outs is None:
            return results
        for given, y in zip(outs, results):
            if given is not y and not (given.size and np.may_share_memory(given, y)):
                given[...] = y
        return list(outs)

    # -- execution ------------------------------------------------------------------------------------------------
    def _execute(
        self, p: Prepared[Binding], arrays: list[Array], results: list[Array], checked: bool = False
    ) -> dict[str, int]:
        """Run, in slices if need be; gives the values of the symbols that were found out."""
        if not self._plan.bound and not any(r.size for r in results):
            return {}
        arena = self._arenas.pop() if self._arenas else Arena()
        try:
            if not p.rows:
                return self._once(arena, p, arrays, results, checked)
            for part, first, last in self._slices(p):
                self._once(arena, part, [a[first:last] for a in arrays], [r[first:last] for r in results], checked)
            return {}
        finally:
            self._arenas.append(arena)

    def _once(
        self, arena: Arena, p: Prepared[Binding], arrays: list[Array], results: list[Array], checked: bool
    ) -> dict[str, int]:
        if p.total > arena.size and p.total > _GROWTH_CHECKED and self.max_bytes is None and not checked:
            limit = (available_bytes() + arena.size) // 2
            if p.total > limit:
                raise _NeedsLess(limit)
        context = arena.contexts.get(p) or self._context(arena, p)
        self._patch(context, arrays, results)
        code = self._entry(*context.args)
        if code:
            raise self._refused(code, context)
        if self._copied:
            self._copy_out(arena, p, arrays, results)
        return self._found(context) if self._plan.bound else {}

    def _found(self, context: _Ready) -> dict[str, int]:
        """The run-time symbols after a run."""
        return {name: context.words[at] for name, at in self._template.symbol_at.items()}

    def _refused(self, code: int, context: _Ready) -> FusewrightError:
        damaged = "the native code met an unknown instruction in its step table"
        return self._template.refusal(code, context.words) or self._container.refused(damaged)

    def _context(self, arena: Arena, p: Prepared[Binding]) -> _Ready:
        """The step table of ``p`` in ``arena``, made and kept there."""
        context = self._made(arena, p)
        if len(arena.contexts) >= 2 * KEPT:
            arena.contexts.clear()
        arena.contexts[p] = context
        return context

    def _made(self, arena: Arena, p: Prepared[Binding]) -> _Ready:
        """A step table of ``p`` in ``arena``, which grows as needed."""
        arena.grow(max(p.total, 64))
        address = 0
        if p.threads > 1:
            shared = pool()
            shared.ensure(p.threads, self._image)
            address = shared.address
        return _Ready(self._template, p, arena, address)

    @staticmethod
    def _patch(context: _Ready, arrays: Sequence[Array], results: Sequence[Array]) -> None:
        words = context.words
        for places, group in ((context.inputs, arrays), (context.outputs, results)):
            for where, a in zip(places, group):
                if where:
                    address = a.__array_interface__["data"][0]
                    for at, offset in where:
                        words[at] = address + offset

    def _copy_out(self, arena: Arena, p: Prepared[Binding], arrays: Sequence[Array], results: Sequence[Array]) -> None:
        """Outputs that no kernel writes: an input, a constant, a buffer or another output, passed on."""
        for i in self._copied:
            kind, index, offset = self._plan.outputs[i]
            out = results[i].reshape(-1).view(np.uint8)
            if kind == "b":
                source = arena.view(p.binding.offsets[index] + int(p.binding.values[offset]), out.nbytes)
            elif kind == "c":
                source = self._constants[index][offset:]
            else:
                origin = arrays[index] if kind == "i" else results[index]
                source = origin.reshape(-1).view(np.uint8)[int(p.binding.values[offset]) :]
            source = source[: out.nbytes]  # an output laid out for its greatest extents may be the longer one
            out[: len(source)] = source

    # -- preparing ------------------------------------------------------------------------------------------------
    def _limit(self) -> int:
        return self.max_bytes if self.max_bytes is not None else available_bytes() // 2

    def _bound(self, env: dict[str, int], limit: int) -> Binding:
        return Binding(self._template, env, limit, self._lanes)

    def _at_once(self, env: dict[str, int], batch: str) -> int:
        need = lambda rows: self._need({**env, batch: rows})
        work = lambda: work_of(self._plan, self._template.exprs.evaluate({**env, batch: 1}).tolist())
        return rows_of_a_slice(env[batch], self._lanes, need, work)

    def _need(self, env: Mapping[str, int]) -> int:
        values = self._template.exprs.evaluate(env)
        threads = self._lanes if self._template.parallel(values) else 1
        return self._template.arena_bytes(values, threads)

    def _after_fork(self) -> None:
        """In the child: no other thread lives, so locks are made anew and calls in flight are forgotten."""
        self._lock = threading.RLock()
        for arena in self._arenas:
            arena.contexts.clear()  # the next call asks for helper threads again
        if self._lazy and self._bad is None:
            self._verify_behind(self._digests())


_alive: weakref.WeakSet[Bundle] = weakref.WeakSet()
_address_of = ctypes.addressof


def _fork_hook() -> None:
    for bundle in list(_alive):
        bundle._after_fork()


os.register_at_fork(after_in_child=_fork_hook)


def _choose(container: Container) -> str:
    """The best native target that this machine can run."""
    targets = {t.name: t for t in container.manifest.targets}
    have = cpu.features()
    lacking = {n: sorted(set(t.features) - have) or list(cpu.missing(n)) for n, t in targets.items()}
    best = cpu.best(n for n, missing in lacking.items() if not missing)
    if best is None:
        reasons = "; ".join(f"{n} needs {', '.join(m) or 'another kind of machine'}" for n, m in lacking.items())
        reasons = reasons or "it has none"
        raise container.refused(f"no native code in it runs here ({reasons}); load with native=False to interpret it")
    return best


def _check_entries(plan: Plan, code: int) -> None:
    if any(offset >= code for offset in plan.entries.values()) or "run" not in plan.entries:
        raise VerifyError("a native entry is missing or lies past the end of the code")


def load(
    source: str | os.PathLike[str] | Buffer,
    threads: int | None = None,
    verify: str = "full",
    max_bytes: int | None = None,
) -> Bundle:
    """A bundle from a path or from the bytes of one. Raises BundleRefused, BundleNotFound."""
    return Bundle(Container.open(source), threads, verify, max_bytes)


__all__ = ["Bundle", "FusewrightError", "load"]
