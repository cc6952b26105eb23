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

from ..core.dtypes import BF16, DTYPES
from ..core.errors import BundleRefused, FusewrightError, InputRefused, VerifyError
from ..core.manifest import Manifest, Signature, parse_canonical
from ..core.plan import Plan
from ..core.planscope import check_scopes
from ..core.poolwords import MAX_THREADS
from ..core.report import Report, read_fields
from . import cpu
from .binding import Binding, Context, Template
from .call import READY, Array, Matcher, Spec, bfloat16_of, convert, decoded, listed, ordered, outward, usable_output
from .format import Buffer, Container, save_atomic
from .image import NativeImage
from .memory import Arena, available_bytes
from .pool import pool
from .trimmed import Trimmed

_KEPT = 64  # bindings in the young generation; the old one holds as many
_GROWTH_CHECKED = 16 << 20  # arena growth from here on is checked against free memory
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int64)  # no argument types: the arguments are ready-made c_int64
_ONE_BYTE = ctypes.c_char

Shapes = tuple[tuple[int, ...], ...]


class Prepared:
    """Everything about calls of one set of input shapes. ``rows`` > 0: run in slices of that many rows of the batch."""

    __slots__ = ("env", "binding", "out_shapes", "rows", "total", "fast", "threads")

    def __init__(self, env: dict[str, int], binding: Binding, out_shapes: Shapes, rows: int, fast: bool) -> None:
        self.env, self.binding, self.out_shapes, self.rows, self.fast = env, binding, out_shapes, rows, fast
        self.threads, self.total = binding.threads, binding.total


class _Ready(Context):
    """A context with the arguments of the native entry made once."""

    __slots__ = ("args", "inputs", "outputs")

    def __init__(self, template: Template, p: Prepared, arena: Arena, pool_address: int) -> None:
        super().__init__(template, p.binding, arena)
        words = (self.address, pool_address, p.threads, self.scratch, p.binding.stride)
        self.args = tuple(ctypes.c_int64(w) for w in words)
        self.inputs, self.outputs = p.binding.inputs, p.binding.outputs


class _NeedsLess(Exception):
    """Inside only: there is less memory now than when the shapes were prepared."""

    def __init__(self, limit: int) -> None:
        self.limit = limit


class Bundle:
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
        if verify not in ("full", "lazy"):
            raise BundleRefused(f"verify={verify!r}: it is 'full' or 'lazy'")
        for name, value in (("threads", threads), ("max_bytes", max_bytes)):
            if value is not None and (type(value) is not int or value < 1):
                raise BundleRefused(f"{name}={value!r}: it is a positive int or None")
        manifest = container.manifest
        self.manifest: Manifest = manifest
        self.signature: Signature = manifest.signature
        self.threads: int = threads or manifest.threads or len(os.sched_getaffinity(0))
        self._lanes = min(self.threads, MAX_THREADS)
        self.max_bytes = max_bytes
        self._container = container
        self._bad: BundleRefused | None = None
        self.target: str = _choose(container)
        folder = f"native/{self.target}"
        code = container.read(f"{folder}/code.bin")
        try:
            plan = Plan.from_bytes(container.read(f"{folder}/plan.json"))
            _check_plan(plan, manifest, len(code), len(container.raw("weights.bin")))
            container.check_small()
            self._report_fields = container.read("report.json")
            if verify == "full":
                container.check_weights(self.threads)
            self._constants = _constants(plan, container.weights())
            self._image = NativeImage(code, plan.entries)
            base = self._image.address("run") - plan.entries["run"]
            self._template = Template(plan, base, [c.ctypes.data for c in self._constants])
        except (VerifyError, OverflowError) as e:
            raise container.refused(str(e)) from None
        self._plan = plan
        self._entry: Callable[..., int] = _ENTRY(self._image.address("run"))
        self._inputs = [Spec(p) for p in manifest.signature.inputs]
        self._outputs = [Spec(p) for p in manifest.signature.outputs]
        self._matcher = Matcher(self._inputs, manifest.symbols)
        self._trimmed = Trimmed(self._outputs, manifest.run_symbols)
        self._shapes_of = self._trimmed.most
        self._copied = [i for i, o in enumerate(plan.outputs) if o[:2] != ("o", i)]
        self._stored = [s.stored for s in self._inputs]
        self._lock = threading.RLock()
        self._young: dict[Any, Prepared] = {}
        self._old: dict[Any, Prepared] = {}
        self._arenas: list[Arena] = []
        plain = not self._copied and not any(s.dtype is BF16 for s in self._inputs + self._outputs)
        self._plain = plain
        self._fast_arity = len(self._inputs) if plain and self._inputs else -1
        self._types_out = [s.stored for s in self._outputs]
        self._lazy = verify == "lazy"
        _alive.add(self)
        if self._lazy:
            self._verify_behind()

    # -- calling --------------------------------------------------------------------------------------------------
    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Any:
        """One output: an array; several: a tuple. ``out`` is an array, or a tuple of arrays, to store the results in.

        Raises InputRefused naming the input, what came and what was wanted.
        """
        if out is None and not named and self._bad is None and len(args) == self._fast_arity:
            # The hot path: arrays as they must be, shapes seen before, an idle arena that holds their step table.
            for x, want in zip(args, self._stored):
                if type(x) is not np.ndarray or x.dtype is not want or x.flags.num & READY != READY:
                    break
            else:
                p = self._young.get(args[0].shape if len(args) == 1 else tuple([x.shape for x in args]))
                if p is not None and p.fast and self._arenas:
                    done = self._again(p, args)
                    if done is not None:
                        return done
        values = ordered(self._inputs, args, named)
        outs = None if out is None else listed(self._outputs, out)
        results = self._call(values, outs)
        return results[0] if len(results) == 1 else tuple(results)

    def _again(self, p: Prepared, args: Sequence[Array]) -> Any:
        """A call whose step table is ready in an idle arena; None when it is not."""
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
        results = [np.empty(shape, to) for shape, to in zip(p.out_shapes, self._types_out)]
        for where, y in zip(c.outputs, results):
            address = _address_of(_ONE_BYTE.from_buffer(y))
            for at, offset in where:
                words[at] = address + offset
        code = self._entry(*c.args)
        self._arenas.append(arena)
        if code:
            raise self._refused(code, c)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """{input name: array} in, {output name: array} out."""
        if not isinstance(inputs, Mapping):
            raise InputRefused(f"run() takes a dict of inputs, not a {type(inputs).__name__}")
        values = ordered(self._inputs, (), inputs)
        return dict(zip([s.name for s in self._outputs], self._call(values, None)))

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], dict[str, int] | None]:
        """A function without arguments that reads ``inputs`` and fills ``outputs``: no checks, no allocation.

        The arrays must be C-contiguous, aligned, native and of the stored type (bf16: uint16 or ml_dtypes.bfloat16).
        It owns its arena: one thread at a time. An output whose extents are found out during the run needs an array of
        their greatest values; the result is its leading block. Then the function gives {symbol: value}, else None.
        """
        for what, given, specs in (("input", inputs, self._inputs), ("output", outputs, self._outputs)):
            if set(given) != {s.name for s in specs}:
                wanted = ", ".join(repr(s.name) for s in specs)
                raise InputRefused(f"bind takes the {what}s {wanted}; got {', '.join(map(repr, given)) or 'none'}")
        arrays = [_bindable(s, inputs[s.name], f"input {s.name!r}") for s in self._inputs]
        results = [_bindable(s, outputs[s.name], f"output {s.name!r}") for s in self._outputs]
        p = self._prepare(tuple(a.shape for a in arrays), self._limit())
        if p.rows:
            raise InputRefused(f"bind needs an arena of {self._arena_bytes(p.env)} bytes, more than max_bytes allows")
        for s, r, shape in zip(self._outputs, results, p.out_shapes):
            if r.shape != shape or not r.flags.writeable:
                raise InputRefused(f"output {s.name!r}: got shape {r.shape}, wanted a writable array of shape {shape}")
        _refuse_overlap(results, arrays)
        arena = Arena(p.total)
        context = self._context(arena, p)
        theirs, results = results, self._trimmed.stand_ins(results)
        self._patch(context, arrays, results)
        entry, args, copied, dynamic = self._entry, context.args, self._copied, bool(self._plan.bound)

        def bound() -> dict[str, int] | None:
            if self._bad is not None:
                raise self._bad
            code = entry(*args)
            if code:
                raise self._refused(code, context)
            if copied:
                self._copy_out(arena, p, arrays, results)
            if not dynamic:
                return None
            found = self._found(context)
            self._trimmed.store(theirs, results, {**p.env, **found})
            return found

        return bound

    def room(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Fresh output arrays as ``bind`` wants them for ``inputs``: of the stored types and the greatest shapes."""
        p = self._prepare(tuple(np.shape(inputs[s.name]) for s in self._inputs), self._limit())
        return {s.name: _new(s, shape) for s, shape in zip(self._outputs, p.out_shapes)}

    def _call(self, values: Sequence[Any], outs: Sequence[Any] | None) -> list[Array]:
        if self._bad is not None:
            raise self._bad
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
            if given is not None and direct and given.flags.num & READY == READY and not _overlaps(given, arrays):
                stored.append(given if type(given) is np.ndarray else np.asarray(given))
            else:
                stored.append(_new(s, shape))
        if outs is not None:
            _refuse_overlap(outs, ())
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
    def _execute(self, p: Prepared, arrays: list[Array], results: list[Array], checked: bool = False) -> dict[str, int]:
        """Run, in slices if need be; gives the values of the symbols that were found out."""
        if not self._plan.bound and not any(r.size for r in results):
            return {}
        arena = self._arenas.pop() if self._arenas else Arena()
        try:
            if not p.rows:
                return self._once(arena, p, arrays, results, checked)
            count = arrays[0].shape[0]
            for start in range(0, count, p.rows):
                part = slice(start, min(start + p.rows, count))
                ins, outs = [a[part] for a in arrays], [r[part] for r in results]
                q = p
                if part.stop - start != p.rows:
                    q = self._part(p, part.stop - start)
                self._once(arena, q, ins, outs, checked)
            return {}
        finally:
            self._arenas.append(arena)

    def _once(
        self, arena: Arena, p: Prepared, arrays: list[Array], results: list[Array], checked: bool
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

    def _context(self, arena: Arena, p: Prepared) -> _Ready:
        """The step table of ``p`` in ``arena``, which grows as needed."""
        arena.grow(max(p.total, 64))
        if len(arena.contexts) >= 2 * _KEPT:
            arena.contexts.clear()
        address = 0
        if p.threads > 1:
            shared = pool()
            shared.ensure(p.threads, self._image)
            address = shared.address
        context = _Ready(self._template, p, arena, address)
        arena.contexts[p] = context
        return context

    @staticmethod
    def _patch(context: _Ready, arrays: Sequence[Array], results: Sequence[Array]) -> None:
        words = context.words
        for places, group in ((context.inputs, arrays), (context.outputs, results)):
            for where, a in zip(places, group):
                if where:
                    address = a.__array_interface__["data"][0]
                    for at, offset in where:
                        words[at] = address + offset

    def _copy_out(self, arena: Arena, p: Prepared, arrays: Sequence[Array], results: Sequence[Array]) -> None:
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

    def _remember(self, key: Any, shapes: Shapes) -> Prepared:
        with self._lock:
            p = self._young.get(key) or self._old.get(key) or self._prepare(shapes, self._limit())
            if len(self._young) >= _KEPT:
                self._old, self._young = self._young, {}
            self._young[key] = p
            return p

    def _prepare(self, shapes: Shapes, limit: int) -> Prepared:
        env = self._matcher.solve(shapes)
        with self._lock:
            p = self._bind_env(env, limit)
            if p.total <= limit:
                return p
            batch = self.manifest.batch
            rows = self._rows(env, batch, limit) if batch is not None and env[batch] > 1 else 0
            if rows:
                part = self._bind_env({**env, str(batch): rows}, limit)
                return Prepared(env, part.binding, p.out_shapes, rows, False)
        need = self._arena_bytes({**env, batch: 1} if batch is not None else env)
        which = "even one row of the batch" if batch is not None else "this call"
        sizes = ", ".join(f"{k} = {v}" for k, v in env.items())
        raise InputRefused(
            f"{which} ({sizes}) needs an arena of {need} bytes, but max_bytes is {limit}: "
            "raise max_bytes or use smaller inputs"
        )

    def _bind_env(self, env: dict[str, int], limit: int) -> Prepared:
        binding = Binding(self._template, env, limit, self._lanes)
        out_shapes = tuple(tuple(f(env) for f in axes) for axes in self._shapes_of)
        for spec, shape in zip(self._outputs, out_shapes):
            if any(d < 0 for d in shape):
                raise InputRefused(f"output {spec.name!r} would have the shape {shape}: the inputs are too small")
        empty = any(0 in shape for shape in out_shapes)
        return Prepared(env, binding, out_shapes, 0, not empty and not self._trimmed.ports)

    def _part(self, p: Prepared, rows: int) -> Prepared:
        """The rest of a sliced batch."""
        env = {**p.env, str(self.manifest.batch): rows}
        key = ("part", *env.items())
        with self._lock:
            found = self._young.get(key)
            if found is None:
                # The slice's own plan fits, and a smaller one never needs more than it does.
                found = self._young[key] = self._bind_env(env, max(p.total, 1))
            return found

    def _rows(self, env: dict[str, int], batch: str, limit: int) -> int:
        """The most rows whose arena fits ``limit``; 0 when one row does not."""
        low, high = 0, env[batch]
        guess = max(1, int(high * limit / max(1, self._arena_bytes(env))))
        while high - low > 1:
            middle = min(max(guess, low + 1), high - 1)
            if self._arena_bytes({**env, batch: middle}) <= limit:
                low, guess = middle, middle + max(1, middle // 64)
            else:
                high, guess = middle, (low + middle) // 2
            if low and high - low <= low // 16:
                break
        return low

    def _arena_bytes(self, env: Mapping[str, int]) -> int:
        values = self._template.exprs.evaluate(env)
        threads = self._lanes if self._template.parallel(values) else 1
        return self._template.arena_bytes(values, threads)

    # -- the rest -------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bundle file: a temporary name in the same folder, synced, renamed."""
        save_atomic(self._container.data, path)

    def report(self, dims: Mapping[str, int] | None = None, threads: int | None = None) -> Report:
        """Numbers at one binding; a free symbol left out counts as 1 (its lower bound if bounded)."""
        dims = dims or {}
        if threads is not None and (type(threads) is not int or threads < 1):
            raise InputRefused(f"threads={threads!r} is a positive int or None")
        known = {s.name: s for s in self.manifest.symbols}
        unknown = [d for d in dims if d not in known]
        if unknown:
            raise InputRefused(f"no symbol {', '.join(map(repr, unknown))}; there are {', '.join(known) or 'none'}")
        env: dict[str, int] = {}
        for s in self.manifest.symbols:
            value = dims.get(s.name, s.low if s.high is not None or s.low > 0 else 1)
            if type(value) is not int or value < s.low or (s.high is not None and value > s.high):
                raise InputRefused(f"symbol {s.name}: {value!r} is outside {s.low}..{'' if s.high is None else s.high}")
            env[s.name] = value
        fields = parse_canonical(self._report_fields, "report.json")
        try:
            rows, bounds = read_fields(fields, list(env))
            numerics = self.manifest.numerics
            return Report.of_plan(self._plan, env, threads or self.threads, rows, numerics, self.target, bounds)
        except VerifyError as e:
            raise self._container.refused(str(e)) from None

    def graph_text(self) -> str:
        """The portable text of the graph before layout and fusion."""
        return self._container.read("graph.txt").decode()

    def __repr__(self) -> str:
        return f"<Bundle {self.signature} for {self.target}, {self.threads} threads>"

    def _verify_behind(self) -> None:
        """Hash the weights in the background; a mismatch makes later calls raise."""
        container, me = self._container, weakref.ref(self)

        def work() -> None:
            try:
                container.check_weights(1)
            except BundleRefused as e:
                bundle = me()
                if bundle is not None:
                    bundle._bad = e
            else:
                bundle = me()
                if bundle is not None:
                    bundle._lazy = False

        threading.Thread(target=work, name="fusewright-verify", daemon=True).start()

    def _after_fork(self) -> None:
        """In the child: no other thread lives, so locks are made anew and calls in flight are forgotten."""
        self._lock = threading.RLock()
        for arena in self._arenas:
            arena.contexts.clear()  # the next call asks for helper threads again
        if self._lazy and self._bad is None:
            self._verify_behind()


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


def _check_plan(plan: Plan, manifest: Manifest, code: int, weights: int) -> None:
    signature = manifest.signature
    if plan.n_inputs != len(signature.inputs) or len(plan.outputs) != len(signature.outputs):
        raise VerifyError("the plan's inputs and outputs are not those of the manifest")
    check_scopes(plan)
    if [(b.name, plan.exprs[b.most]) for b in plan.bound] != [(s.name, str(s.high)) for s in manifest.run_symbols]:
        raise VerifyError("the plan's run-time symbols are not those of the manifest")
    if not {s.name for s in manifest.symbols}.issuperset(plan.symbols):
        raise VerifyError("the plan uses symbols that the manifest does not declare")
    if any(offset >= code for offset in plan.entries.values()) or "run" not in plan.entries:
        raise VerifyError("a native entry is missing or lies past the end of the code")
    if any(c.offset + c.bytes > weights for c in plan.constants):
        raise VerifyError("a constant lies past the end of the weights")


def _constants(plan: Plan, weights: Array) -> list[Array]:
    """The bytes of each constant: over the map, or a layout made now."""
    out: list[Array] = []
    for c in plan.constants:
        data = weights[c.offset : c.offset + c.bytes]
        if c.stored is not None and c.wanted is not None:
            array = data.view(DTYPES[c.dtype].np).reshape(c.stored.packed_shape)
            made = c.wanted.pack(c.stored.unpack(array)).reshape(-1).view(np.uint8)
            block = np.empty(made.nbytes + 64, np.uint8)
            start = -block.ctypes.data % 64
            data = block[start : start + made.nbytes]
            data[...] = made
        out.append(data)
    return out


def _bindable(spec: Spec, array: Any, what: str) -> Array:
    if not isinstance(array, np.ndarray):
        raise InputRefused(f"{what}: got a {type(array).__name__}, wanted a NumPy array")
    stored = array.view(np.uint16) if spec.dtype is BF16 and array.dtype.name == "bfloat16" else array
    if stored.dtype != spec.stored:
        raise InputRefused(f"{what}: got {array.dtype}, wanted {spec.stored} as stored ({spec.wanted()})")
    if stored.flags.num & READY != READY:
        raise InputRefused(f"{what}: a bound array must be C-contiguous and aligned; use np.ascontiguousarray first")
    return stored


def _new(spec: Spec, shape: tuple[int, ...]) -> Array:
    try:
        return np.empty(shape, spec.stored)
    except (MemoryError, ValueError):
        raise InputRefused(f"no memory for output {spec.name!r} of shape {shape}: use a smaller batch") from None


def _overlaps(a: Array, others: Sequence[Array]) -> bool:
    return any(np.may_share_memory(a, b) for b in others)


def _refuse_overlap(outs: Sequence[Array], inputs: Sequence[Array]) -> None:
    for i, a in enumerate(outs):
        if _overlaps(a, outs[:i]):
            raise InputRefused(f"output arrays {i} and an earlier one overlap in memory")
        if _overlaps(a, inputs):
            raise InputRefused(f"output array {i} overlaps an input in memory")


def load(
    source: str | os.PathLike[str] | Buffer,
    threads: int | None = None,
    verify: str = "full",
    max_bytes: int | None = None,
) -> Bundle:
    """A bundle from a path or from the bytes of one. Raises BundleRefused, BundleNotFound."""
    return Bundle(Container.open(source), threads, verify, max_bytes)


__all__ = ["Bundle", "FusewrightError", "load"]
