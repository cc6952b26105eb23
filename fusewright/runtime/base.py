"""What every loaded bundle is, whatever runs it: signature, report, and calls prepared per set of input shapes.

Owns the cache of prepared shapes, the slicing of batches under a memory limit and the check of weights behind a load.
Must not know how a plan is run: its heirs bind and execute. Must not import `ir` or any compiler part.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..core.errors import BundleRefused, InputRefused, VerifyError
from ..core.manifest import Manifest, Signature, parse_canonical
from ..core.plan import Plan
from ..core.planscope import check_scopes
from ..core.report import Report, read_fields
from .call import Array, Matcher, Spec, by_name
from .format import Container, save_atomic
from .trimmed import Trimmed

KEPT = 64  # bindings in the young generation; the old one holds as many

Shapes = tuple[tuple[int, ...], ...]


class Bound(Protocol):
    """A plan under symbol values: ``total`` bytes of memory for a call."""

    threads: int
    total: int


B = TypeVar("B", bound=Bound)


class Prepared(Generic[B]):
    """Everything about calls of one set of input shapes. ``rows`` > 0: run in slices of that many rows of the batch."""

    __slots__ = ("env", "binding", "out_shapes", "rows", "total", "fast", "threads")

    def __init__(self, env: dict[str, int], binding: B, out_shapes: Shapes, rows: int, fast: bool) -> None:
        self.env, self.binding, self.out_shapes, self.rows, self.fast = env, binding, out_shapes, rows, fast
        self.threads, self.total = binding.threads, binding.total


class Loaded(ABC, Generic[B]):
    """A bundle with its target chosen. ``threads`` is how many threads of the CPU one call may use."""

    target: str
    _plan: Plan
    _report_fields: bytes

    def __init__(
        self, container: Container, threads: int | None = None, verify: str = "full", max_bytes: int | None = None
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
        self.max_bytes = max_bytes
        self._container = container
        self._bad: BundleRefused | None = None
        self._inputs = [Spec(p) for p in manifest.signature.inputs]
        self._outputs = [Spec(p) for p in manifest.signature.outputs]
        self._stored = [s.stored for s in self._inputs]
        self._lock = threading.RLock()
        self._young: dict[Any, Prepared[B]] = {}
        self._old: dict[Any, Prepared[B]] = {}
        self._lazy = verify == "lazy"

    def _describe(self) -> None:
        """What calls need of the signature. Raises BundleRefused."""
        self._matcher = Matcher(self._inputs, self.manifest.symbols)
        self._trimmed = Trimmed(self._outputs, self.manifest.run_symbols)
        self._shapes_of: list[list[Callable[[Mapping[str, int]], int]]] = self._trimmed.most

    # -- for the heirs --------------------------------------------------------------------------------------------
    @abstractmethod
    def _limit(self) -> int:
        """Bytes that a call may take."""

    @abstractmethod
    def _bound(self, env: dict[str, int], limit: int) -> B:
        """The plan under ``env``."""

    @abstractmethod
    def _need(self, env: Mapping[str, int]) -> int:
        """Bytes that a call under ``env`` takes."""

    @abstractmethod
    def _call(self, values: Sequence[Any], outs: list[Any] | None) -> list[Any]:
        """One call; ``outs`` are the user's arrays for the results, or None."""

    # -- preparing ------------------------------------------------------------------------------------------------
    def _remember(self, key: Any, shapes: Shapes) -> Prepared[B]:
        with self._lock:
            p = self._young.get(key) or self._old.get(key) or self._prepare(shapes, self._limit())
            if len(self._young) >= KEPT:
                self._old, self._young = self._young, {}
            self._young[key] = p
            return p

    def _at_once(self, env: dict[str, int], batch: str) -> int:
        """Rows of the batch that had better be computed at a time, were there room for all."""
        return env[batch]

    def _prepare(self, shapes: Shapes, limit: int) -> Prepared[B]:
        env = self._matcher.solve(shapes)
        batch = self.manifest.batch
        with self._lock:
            p = self._sliced(env, 0 if batch is None else self._at_once(env, batch), limit)
            if p.total > limit and batch is not None and env[batch] > 1:
                p = self._sliced(env, self._rows(env, batch, limit), limit)
            if p.total <= limit:
                return p
        need = self._need({**env, batch: 1} if batch is not None else env)
        which = "even one row of the batch" if batch is not None else "this call"
        sizes = ", ".join(f"{k} = {v}" for k, v in env.items())
        raise InputRefused(
            f"{which} ({sizes}) needs an arena of {need} bytes, but max_bytes is {limit}: "
            "raise max_bytes or use smaller inputs"
        )

    def _sliced(self, env: dict[str, int], rows: int, limit: int) -> Prepared[B]:
        """``env`` prepared to run in slices of ``rows`` of its batch; in one piece where that is none or all."""
        batch = self.manifest.batch
        if batch is None or rows in (0, env[batch]):
            return self._bind_env(env, limit)
        part = self._bind_env({**env, batch: rows}, limit)
        return Prepared(env, part.binding, self._results(env), rows, False)

    def _slices(self, p: Prepared[B]) -> list[tuple[Prepared[B], int, int]]:
        """(prepared, first row, last row) of each slice of the batch."""
        if not p.rows:
            return [(p, 0, 0)]
        count = p.env[str(self.manifest.batch)]
        out = []
        for start in range(0, count, p.rows):
            stop = min(start + p.rows, count)
            out.append((p if stop - start == p.rows else self._part(p, stop - start), start, stop))
        return out

    def _bind_env(self, env: dict[str, int], limit: int) -> Prepared[B]:
        binding, out_shapes = self._bound(env, limit), self._results(env)
        empty = any(0 in shape for shape in out_shapes)
        return Prepared(env, binding, out_shapes, 0, not empty and not self._trimmed.ports)

    def _results(self, env: dict[str, int]) -> Shapes:
        """Shapes of the outputs. Raises InputRefused."""
        out_shapes = tuple(tuple(f(env) for f in axes) for axes in self._shapes_of)
        for spec, shape in zip(self._outputs, out_shapes):
            if any(d < 0 for d in shape):
                raise InputRefused(f"output {spec.name!r} would have the shape {shape}: the inputs are too small")
        return out_shapes

    def _part(self, p: Prepared[B], rows: int) -> Prepared[B]:
        """The rest of a sliced batch."""
        env = {**p.env, str(self.manifest.batch): rows}
        key = ("part", *env.items())
        with self._lock:
            found = self._young.get(key)
            if found is None:
                # The slice's own plan fits, and fewer rows need no more, unless a size falls as rows grow.
                found = self._young[key] = self._bind_env(env, max(p.total, 1))
            return found

    def _rows(self, env: dict[str, int], batch: str, limit: int) -> int:
        """The most rows whose arena fits ``limit``; 0 when one row does not."""
        low, high = 0, env[batch]
        guess = max(1, int(high * limit / max(1, self._need(env))))
        while high - low > 1:
            middle = min(max(guess, low + 1), high - 1)
            if self._need({**env, batch: middle}) <= limit:
                low, guess = middle, middle + max(1, middle // 64)
            else:
                high, guess = middle, (low + middle) // 2
            if low and high - low <= low // 16:
                break
        return low

    def _check_names(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """``bind`` is handed every input and output and nothing else. Raises InputRefused."""
        for what, given, specs in (("input", inputs, self._inputs), ("output", outputs, self._outputs)):
            if not isinstance(given, Mapping):
                raise InputRefused(f"bind takes a dict of {what}s, not a {type(given).__name__}")
            if set(given) != {s.name for s in specs}:
                wanted = ", ".join(repr(s.name) for s in specs)
                raise InputRefused(f"bind takes the {what}s {wanted}; got {', '.join(map(repr, given)) or 'none'}")

    # -- for users ------------------------------------------------------------------------------------------------
    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """{input name: array} in, {output name: array} out."""
        values = by_name(self._inputs, inputs, "run()")
        return dict(zip([s.name for s in self._outputs], self._call(values, None)))

    def room(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Fresh output arrays as ``bind`` wants them for ``inputs``: of the stored types and the greatest shapes."""
        p = self._prepare(tuple(np.shape(inputs[s.name]) for s in self._inputs), self._limit())
        return {s.name: new_array(s, shape) for s, shape in zip(self._outputs, p.out_shapes)}

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
            numerics, batch = self.manifest.numerics, self.manifest.batch
            return Report.of_plan(self._plan, env, threads or self.threads, rows, numerics, self.target, bounds, batch)
        except VerifyError as e:
            raise self._container.refused(str(e)) from None

    def graph_text(self) -> str:
        """The portable text of the graph before layout and fusion."""
        return self._container.read("graph.txt").decode()

    def __repr__(self) -> str:
        return f"<Bundle {self.signature} for {self.target}, {self.threads} threads>"

    # -- checks ---------------------------------------------------------------------------------------------------
    def _verify_behind(self, digests: Callable[[], Sequence[bytes]] = tuple) -> None:
        """Hash the weights in the background, some blocks by ``digests``; a mismatch makes later calls raise."""
        container, me = self._container, weakref.ref(self)

        def work() -> None:
            with contextlib.suppress(OSError):  # calls go before: on Linux a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            try:
                container.check_weights(1, digests())
            except BundleRefused as e:
                bundle = me()
                if bundle is not None:
                    bundle._bad = e
            else:
                bundle = me()
                if bundle is not None:
                    bundle._lazy = False

        threading.Thread(target=work, name="fusewright-verify", daemon=True).start()


def check_plan(plan: Plan, manifest: Manifest, weights: int) -> None:
    """The plan fits the manifest and the weights. Raises VerifyError."""
    signature = manifest.signature
    if plan.n_inputs != len(signature.inputs) or len(plan.outputs) != len(signature.outputs):
        raise VerifyError("the plan's inputs and outputs are not those of the manifest")
    check_scopes(plan)
    if [(b.name, plan.exprs[b.most]) for b in plan.bound] != [(s.name, str(s.high)) for s in manifest.run_symbols]:
        raise VerifyError("the plan's run-time symbols are not those of the manifest")
    if not {s.name for s in manifest.symbols}.issuperset(plan.symbols):
        raise VerifyError("the plan uses symbols that the manifest does not declare")
    if any(c.offset + c.bytes > weights for c in plan.constants):
        raise VerifyError("a constant lies past the end of the weights")


def new_array(spec: Spec, shape: tuple[int, ...]) -> Array:
    """A fresh output. Raises InputRefused where there is no memory."""
    try:
        return np.empty(shape, spec.stored)
    except (MemoryError, ValueError):
        raise InputRefused(f"no memory for output {spec.name!r} of shape {shape}: use a smaller batch") from None


def overlaps(a: Array, others: Sequence[Array]) -> bool:
    """May ``a`` share memory with one of ``others``?"""
    return any(np.may_share_memory(a, b) for b in others)


def refuse_overlap(outs: Sequence[Array], inputs: Sequence[Array]) -> None:
    """Raises InputRefused for outputs that share memory with each other or with an input."""
    for i, a in enumerate(outs):
        if overlaps(a, outs[:i]):
            raise InputRefused(f"output arrays {i} and an earlier one overlap in memory")
        if overlaps(a, inputs):
            raise InputRefused(f"output array {i} overlaps an input in memory")
