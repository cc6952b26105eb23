"""What a compiled model does, in numbers at one binding.

Owns the Report class and its dict form. Must not know the runtime, the backends or the clock: a report has no times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import FusewrightError
from .plan import Call, Loop, Plan
from .planner import Lifetimes, lower_bound, plan_offsets


class Report:
    """``kernels`` [{name, kind, origin, flops, bytes}] in order of execution (loops multiply flops and bytes by their
    trip count, other control flow counts once), ``dims`` {symbol: value}, ``arena_bytes`` and ``lower_bound_bytes`` of
    the buffers, ``scratch_bytes`` of all threads, ``in_place`` [{value, reused, why}], ``numerics``, ``threads`` and
    ``target``.
    """

    __slots__ = (
        "kernels", "dims", "arena_bytes", "lower_bound_bytes", "scratch_bytes", "in_place", "numerics", "threads",
        "target",
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
    ) -> None:
        self.kernels, self.dims = [dict(k) for k in kernels], dict(dims)
        self.arena_bytes, self.lower_bound_bytes, self.scratch_bytes = arena_bytes, lower_bound_bytes, scratch_bytes
        self.in_place, self.numerics = [dict(r) for r in in_place], numerics
        self.threads, self.target = threads, target

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""
        return sum(k["flops"] for k in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {s: getattr(self, s) for s in self.__slots__}

    def __repr__(self) -> str:
        dims = ", ".join(f"{k}={v}" for k, v in self.dims.items())
        placed = sum(bool(row["reused"]) for row in self.in_place)
        return (
            f"Report({len(self.kernels)} kernels, {self.flops} flops, arena {self.arena_bytes} bytes "
            f"(lower bound {self.lower_bound_bytes}), {placed} in place, {dims})"
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
    ) -> Report:
        """The report of ``plan`` with every symbol of it in ``dims``."""
        missing = [s for s in plan.symbols if s not in dims]
        if missing:
            raise FusewrightError(f"a report needs a value for {', '.join(missing)}")
        values = plan.evaluate(dims)
        rows = []
        for _, step, around in plan.walk():
            if isinstance(step, Call):
                kernel, trips = plan.kernels[step.kernel], 1
                for loop in around:
                    trips *= values[loop.count] if isinstance(loop, Loop) else 1
                flops, moved = values[kernel.flops] * trips, values[kernel.bytes] * trips
                rows.append(
                    {"name": kernel.name, "kind": kernel.kind, "origin": step.origin, "flops": flops, "bytes": moved}
                )
        sizes = [values[b.bytes] for b in plan.buffers]
        lives = Lifetimes([b.first for b in plan.buffers], [b.last for b in plan.buffers])
        scratch = max((values[k.scratch] for k in plan.kernels), default=0)
        total = plan_offsets(sizes, lives)[1]
        bound = lower_bound(sizes, lives)
        return cls(rows, dims, total, bound, scratch * threads, in_place, numerics, threads, target)


def report_fields(plan: Plan, in_place: Sequence[Mapping[str, Any]] = (), numerics: str = "strict") -> dict[str, Any]:
    """The content of report.json: the same fields with expressions as text."""
    rows = []
    for _, step, around in plan.walk():
        if isinstance(step, Call):
            k = plan.kernels[step.kernel]
            trips = [plan.exprs[loop.count] for loop in around if isinstance(loop, Loop)]
            row = {"name": k.name, "kind": k.kind, "origin": step.origin, "flops": plan.exprs[k.flops]}
            rows.append({**row, "bytes": plan.exprs[k.bytes], "trips": trips})
    return {"kernels": rows, "in_place": [dict(r) for r in in_place], "numerics": numerics}
