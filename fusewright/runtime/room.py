"""How much memory a plan takes under symbol values, and where each buffer lies in it.

Owns the choice to reuse an earlier layout for smaller shapes. Must not know kernels, step tables or devices.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import InputRefused
from ..core.plan import Plan
from ..core.planner import ALIGN, Lifetimes, lower_bound, plan_offsets
from .expressions import Expressions, Words


class Room:
    """Buffers and scratch of a plan; ``align`` (a multiple of 64) is what every buffer's address has to be divisible
    by."""

    __slots__ = ("plan", "exprs", "lives", "monotone", "plans", "_sizes", "_scratch", "_align")

    def __init__(self, plan: Plan, exprs: Expressions, align: int = ALIGN) -> None:
        self.plan, self.exprs, self._align = plan, exprs, align
        self.lives = Lifetimes([b.first for b in plan.buffers], [b.last for b in plan.buffers])
        self._sizes = np.array([b.bytes for b in plan.buffers], np.intp)
        self._scratch = sorted({k.scratch for k in plan.kernels})
        self.monotone: bool | None = None
        self.plans: list[tuple[dict[str, int], list[int], int]] = []

    def sizes(self, values: Words) -> list[int]:
        """Bytes of each buffer. Raises InputRefused for a negative one."""
        sizes: list[int] = values[self._sizes].tolist()
        if sizes and min(sizes) < 0:
            raise InputRefused(
                "these shapes are too small for the model: a tensor inside it would have a negative size"
            )
        if self._align > ALIGN:  # sizes that are multiples of it keep offsets multiples of it
            sizes = [(s + self._align - 1) & -self._align for s in sizes]
        return sizes

    def scratch(self, values: Words) -> int:
        """Bytes of the neediest kernel, aligned."""
        most = max((int(values[e]) for e in self._scratch), default=0)
        return (most + self._align - 1) & -self._align

    def place(self, env: dict[str, int], values: Words, limit: int) -> tuple[list[int], int]:
        """Buffer offsets and arena bytes; a plan made for larger shapes is taken where it is not wasteful."""
        sizes = self.sizes(values)
        if self.plans:
            if self.monotone is None:
                self.monotone = all(self.exprs.monotone(b.bytes) for b in self.plan.buffers)
            if self.monotone:
                bound = lower_bound(sizes, self.lives)
                for other, offsets, total in self.plans:
                    if total <= min(limit, 2 * bound + 65536) and all(v <= other[k] for k, v in env.items()):
                        return offsets, total
        offsets, total = plan_offsets(sizes, self.lives, quick=bool(self.plans))
        if total > limit:
            offsets, total = plan_offsets(sizes, self.lives)
        self.plans = [(dict(env), offsets, total), *self.plans[:7]]
        return offsets, total

    def arena_bytes(self, values: Words, threads: int) -> int:
        """Bytes of arena that a call with these expression values needs, scratch included."""
        return plan_offsets(self.sizes(values), self.lives, quick=True)[1] + self.scratch(values) * threads
