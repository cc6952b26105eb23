"""Rows cut into tiles of nearly equal height, each of them a unit of work, and runs of such units.

Owns the arithmetic of tiles and of runs. Must not know what a tile computes.
A unit is as small as a tile, so that threads can share few rows; what is common to neighbours is done once per run.
"""

from __future__ import annotations

from ....core.dims import Extent, ceildiv
from .template import TextBuilder

FEWEST_ROWS = 12  # of fewer rows, time goes into reading the weights
CHUNK_FLOPS = 400_000  # what a thread takes at a time


def grain_of(flops: int) -> int:
    """The least units of a chunk, of so many operations each."""
    return max(1, CHUNK_FLOPS // max(flops, 1))


class Tiling:
    """``rows`` rows in as few tiles of at most ``most`` rows as hold them; heights differ by one at most, the taller
    ones come last."""

    def __init__(self, t: TextBuilder, rows: Extent, most: int) -> None:
        self.rows, self.most = rows, most
        self.count: Extent = ceildiv(rows, most)
        self._text = t
        if isinstance(rows, int):
            tiles = max(-(-rows // most), 1)
            self._low, self._high, self._short = rows // tiles, -(-rows // tiles), tiles - rows % tiles

    @property
    def tiles(self) -> str:
        """Text of their number."""
        return self._text.dim(self.count)

    @property
    def heights(self) -> list[int]:
        """Every height that can occur, the greatest first."""
        if not isinstance(self.rows, int):
            return list(range(self.most, 0, -1))
        return sorted({max(self._low, 1), max(self._high, 1)}, reverse=True)

    def prepare(self, indent: int) -> None:
        """What ``first`` and ``height`` need, once per call of the kernel."""
        if not isinstance(self.rows, int):
            rows, tiles = self._text.dim(self.rows), self.tiles
            self._text.add(indent, f"t_low = {rows} // max({tiles}, 1)\nt_short = {tiles} - {rows} % max({tiles}, 1)")

    def first(self, tile: str) -> str:
        """The first row of ``tile``."""
        if not isinstance(self.rows, int):
            return f"{tile} * t_low + max(0, {tile} - t_short)"
        if self._low == self._high:
            return f"{tile} * {self._low}"
        return f"{tile} * {self._low} + max(0, {tile} - {self._short})"

    def height(self, tile: str) -> str:
        """The rows of ``tile``."""
        heights = self.heights
        if len(heights) == 1:
            return str(heights[0])
        if not isinstance(self.rows, int):
            return f"t_low + (1 if {tile} >= t_short else 0)"
        return f"{self._low} + (1 if {tile} >= {self._short} else 0)"


def open_runs(t: TextBuilder, per_line: str, at: str, rest: str, most: int = 0) -> None:
    """The loop over runs of neighbouring units of one line of ``per_line`` units, at most ``most`` (0: all there are)
    of them each: ``at`` is the first one's number in its line, ``rest`` the line's, ``run`` how many there are."""
    t.add(0, "u = start\nwhile u < stop:")
    t.add(1, f"{at} = u % {per_line}\n{rest} = u // {per_line}")
    t.add(1, f"run = min({per_line} - {at}, stop - u)")
    if most:
        t.add(1, f"run = min(run, {most})")
    t.add(1, "u += run")


SCRATCH_HEAD = 64  # bytes at the front of the scratch of kernels that use ``going_on``


def going_on(t: TextBuilder) -> None:
    """``going_on``: the unit before ``start`` was the last one that this thread ran, in this very step; what that left
    in the scratch is still there. The dispatcher keeps the scratch's first word, and that alone."""
    t.add(0, "going_on = start > 0 and pi64(scratch)[0] == start")
