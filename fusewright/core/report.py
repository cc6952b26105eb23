"""What a compiled model does, in numbers at one binding.

Owns the Report class and its dict form. Must not know the runtime, the backends or the clock: a report has no times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import dims as extents
from .errors import FusewrightError, VerifyError
from .plan import DEVICE_ALIGN, Call, Loop, Plan
from .planner import ALIGN, Lifetimes, lower_bound, plan_offsets
from .slices import rows_of_a_slice

ROLES = ("elementwise", "normalisation", "residual")  # results that one expects to be placed in place
HOW = ("in place", "in concat", "view", "output", "own")


class Report:
    """``kernels`` [{name, kind, origin, flops, bytes}] in order of execution (loops multiply flops and bytes by their
    trip count, other control flow counts once), ``dims`` {symbol: value}, ``arena_bytes``: intermediates and the
    scratch of all threads (``scratch_bytes`` of it), without the caller's arrays: 0 where nothing is kept between
    kernels; ``lower_bound_bytes``: what running one op at a time needs at least, the need of the neediest op of the
    imported graph (see ``ir.footprint``), which fusion may beat; ``in_place`` [{value, role, how, reused, why}],
    ``in_place_share`` {role: {how: count}}, ``numerics``, ``threads``, ``target``; ``rows_at_once``: rows of the batch
    that are computed, and in memory, at a time; None for a call in one piece.
    """

    __slots__ = (
        "kernels", "dims", "arena_bytes", "lower_bound_bytes", "scratch_bytes", "in_place", "in_place_share",
        "numerics", "threads", "target", "rows_at_once",
    )  # fmt: skip

    def __init__(
        self,
        kernels: Sequence[Mapping[str, Any]],
        dims: Mapping[str, int],
        arena_bytes: int,
        lower_bound_bytes: int,
        scratch_bytes: int = 0,
        in_place: Sequence[Mapping[str, Any]] = (),
        numerics: str = "strict",
        threads: int = 1,
        target: str = "",
        rows_at_once: int | None = None,
    ) -> None:
        self.kernels, self.dims = [dict(k) for k in kernels], dict(dims)
        self.arena_bytes, self.lower_bound_bytes, self.scratch_bytes = arena_bytes, lower_bound_bytes, scratch_bytes
        self.in_place, self.numerics = [dict(r) for r in in_place], numerics
        self.in_place_share = _share(self.in_place)
        self.threads, self.target, self.rows_at_once = threads, target, rows_at_once

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""
        return sum(k["flops"] for k in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {s: getattr(self, s) for s in self.__slots__}

    def __repr__(self) -> str:
        dims = ", ".join(f"{k}={v}" for k, v in self.dims.items())
        placed = sum(row.get("how") == "in place" for row in self.in_place)
        return (
            f"Report({len(self.kernels)} kernels, {self.flops} flops, arena {self.arena_bytes} bytes "
            f"(one op at a time: {self.lower_bound_bytes}), {placed} in place, {dims})"
        )

    @classmethod
    def of_plan(
        cls,
        plan: Plan,
        dims: Mapping[str, int],
        threads: int = 1,
        in_place: Sequence[Mapping[str, Any]] = (),
        numerics: str = "strict",
        target: str = "",
        reference: Sequence[str] | None = None,
        batch: str | None = None,
    ) -> Report:
        """The report of ``plan`` with every symbol of it in ``dims``. The maximum of the extents ``reference`` is the
        lower bound; where there are none it is what the plan's own order keeps alive. A ``batch`` may run in slices,
        of which one is in memory at a time."""
        missing = [s for s in plan.symbols if s not in dims]
        if missing:
            raise FusewrightError(f"a report needs a value for {', '.join(missing)}")
        rows = _kernels(plan, plan.evaluate(dims))
        at_once, rows_at_once = dict(dims), None
        if batch is not None and _align(plan) != DEVICE_ALIGN:
            need = lambda n: sum(_memory(plan, {**dims, batch: n}, threads))
            work = lambda: work_of(plan, plan.evaluate({**dims, batch: 1}))
            rows_of = rows_of_a_slice(dims[batch], threads, need, work)
            if rows_of < dims[batch]:
                at_once[batch] = rows_at_once = rows_of
        arena, scratch = _memory(plan, at_once, threads)
        if reference is None:
            bound = lower_bound(*_buffers(plan, plan.evaluate(dims)))
        else:
            bound = max((extents.evaluate(extents.parse(e), dims) for e in reference), default=0)
        return cls(
            rows, dims, arena + scratch, bound, scratch, in_place, numerics, threads, target, rows_at_once
        )  # fmt: skip


def work_of(plan: Plan, values: Sequence[int]) -> tuple[int, int]:
    """(floating-point operations where expressions have these values, bytes of the weights as kernels read them)."""
    return sum(row["flops"] for row in _kernels(plan, values)), sum(c.size for c in plan.constants)


def _kernels(plan: Plan, values: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of ``kernels`` where expressions have these values."""
    rows = []
    for _, step, around in plan.walk():
        if isinstance(step, Call):
            kernel, trips = plan.kernels[step.kernel], 1
            if kernel.launch is not None and values[step.extent] <= 0:
                continue  # the kernel of other sizes
            for loop in around:
                trips *= values[loop.count] if isinstance(loop, Loop) else 1
            flops, moved = values[kernel.flops] * trips, values[kernel.bytes] * trips
            rows.append(
                {"name": kernel.name, "kind": kernel.kind, "origin": step.origin, "flops": flops, "bytes": moved}
            )
    return rows


def _align(plan: Plan) -> int:
    return DEVICE_ALIGN if any(k.launch is not None for k in plan.kernels) else ALIGN


def _buffers(plan: Plan, values: Sequence[int]) -> tuple[list[int], Lifetimes]:
    align = _align(plan)
    sizes = [(values[b.bytes] + align - 1) & -align for b in plan.buffers]
    return sizes, Lifetimes([b.first for b in plan.buffers], [b.last for b in plan.buffers])


def _memory(plan: Plan, dims: Mapping[str, int], threads: int) -> tuple[int, int]:
    """Bytes of arena: (buffers, scratch of all threads)."""
    values, align = plan.evaluate(dims), _align(plan)
    scratch = (max((values[k.scratch] for k in plan.kernels), default=0) + align - 1) & -align
    calls = [s for _, s, _ in plan.walk() if isinstance(s, Call)]
    # A call that no second thread could help with runs on the caller alone.
    # On a GPU scratch is a launch's, and launches that use it follow each other.
    on_gpu = align == DEVICE_ALIGN
    lanes = threads if not on_gpu and any(values[c.extent] > c.grain for c in calls) else 1
    return plan_offsets(*_buffers(plan, values))[1], scratch * lanes


def _share(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many results of each role were placed how."""
    counts = {role: dict.fromkeys(HOW, 0) for role in ROLES}
    for row in rows:
        if row.get("role") in counts and row.get("how") in HOW:
            counts[row["role"]][row["how"]] += 1
    return counts


def report_fields(plan: Plan, in_place: Sequence[Mapping[str, Any]] = (), numerics: str = "strict") -> dict[str, Any]:
    """The content of report.json: the same fields with expressions as text. The compiler adds the lower bound: a list
    of expressions, of which the maximum counts."""
    rows = []
    for _, step, around in plan.walk():
        if isinstance(step, Call):
            k = plan.kernels[step.kernel]
            trips = [plan.exprs[loop.count] for loop in around if isinstance(loop, Loop)]
            row = {"name": k.name, "kind": k.kind, "origin": step.origin, "flops": plan.exprs[k.flops]}
            rows.append({**row, "bytes": plan.exprs[k.bytes], "trips": trips})
    return {"kernels": rows, "in_place": [dict(r) for r in in_place], "numerics": numerics}


def read_fields(raw: Any, symbols: Sequence[str]) -> tuple[list[dict[str, Any]], list[str] | None]:
    """(rows of ``in_place``, extents of the lower bound) of a report.json. Raises VerifyError when it is malformed."""
    rows = raw.get("in_place") if isinstance(raw, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "reused" in r for r in rows):
        raise VerifyError("report.json is malformed: in_place")
    if not all(isinstance(text, str) for r in rows for text in r.values()):
        raise VerifyError("report.json is malformed: in_place holds more than texts")
    bounds = raw.get("lower_bound_bytes")
    if bounds is None:
        return rows, None
    try:
        known = {s for text in bounds for s in extents.symbols(extents.parse(text))}
    except (FusewrightError, TypeError, AttributeError):
        raise VerifyError("report.json is malformed: lower_bound_bytes") from None
    if not known.issubset(symbols):
        raise VerifyError("report.json is malformed: lower_bound_bytes names an unknown symbol")
    return rows, bounds
