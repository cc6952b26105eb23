"""Reductions along a row: independent accumulators in a fixed order, so that LLVM may use vectors.

Owns the accumulators' text. The order of additions depends on the row's extent alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ....core.dims import Extent
from ..templates.template import TextBuilder
from ..templates.units import units
from .nest import along


def lane_count(n: Extent) -> int:
    """Accumulators for rows of ``n``: 0 means one scalar."""
    if not units().lanes:
        return 0
    if not isinstance(n, int):
        return 64
    return 128 if n >= 1024 else 64 if n >= 256 else 16 if n >= 32 else 0


class Lanes:
    """One reduction: ``combine(a, b)`` is the text that joins two partial results of type ``kind`` (f32, i64...)."""

    def __init__(
        self, name: str, kind: str, n: Extent, offset: int, init: str, combine: Callable[[str, str], str],
        together: bool = False,
    ) -> None:  # fmt: skip
        self.together = together
        self.name, self.kind, self.init, self.combine = name, kind, init, combine
        self.n, self.count, self.offset = n, lane_count(n), offset

    @property
    def scratch_bytes(self) -> int:
        return self.offset + 8 * self.count if units().lanes else 0

    def open(self, t: TextBuilder, indent: int) -> None:
        """Set every accumulator to the neutral value."""
        if not self.count:
            t.add(indent, f"{self.name} = {self.init}")
            return
        t.add(indent, f"{self.name}_p = p{self.kind}(scratch + {self.offset})")
        t.add(indent, f"for l in range({self.count}):\n    put({self.name}_p, l, {self.init})")

    def loop(self, t: TextBuilder, indent: int, lines: Sequence[str], value: str) -> None:
        """Run ``lines`` for each element ``j`` of the row and take in ``value``."""
        n = t.dim(self.n)
        if not self.count:
            t.add(indent, f"for j in {along(n, self.together)}:")
            self._body(t, indent + 1, lines, f"{self.name} = {self.combine(self.name, value)}")
            return
        take = f"put({self.name}_p, l, {self.combine(f'{self.name}_p[l]', value)})"
        t.add(indent, f"whole = {n} // {self.count} * {self.count}")
        t.add(indent, f"for jb in range(0, whole, {self.count}):")
        t.add(indent + 1, f"for l in range({self.count}):\n    j = jb + l")
        self._body(t, indent + 2, lines, take)
        if not isinstance(self.n, int) or self.n % self.count:
            t.add(indent, f"for l in range({n} - whole):\n    j = whole + l")
            self._body(t, indent + 1, lines, take)

    @staticmethod
    def _body(t: TextBuilder, indent: int, lines: Sequence[str], last: str) -> None:
        for line in (*lines, last):
            t.add(indent, line)

    def close(self, t: TextBuilder, indent: int) -> str:
        """Join the accumulators by halves; the name of the result."""
        if self.together:
            for distance in (16, 8, 4, 2, 1):
                t.add(indent, f"other = shuffle({self.name}, {distance})")
                t.add(indent, f"{self.name} = {self.combine(self.name, 'other')}")
        if self.count:
            half = self.count // 2
            while half:
                joined = self.combine(f"{self.name}_p[l]", f"{self.name}_p[l + {half}]")
                t.add(indent, f"for l in range({half}):\n    put({self.name}_p, l, {joined})")
                half //= 2
            t.add(indent, f"{self.name} = {self.name}_p[0]")
        return self.name
