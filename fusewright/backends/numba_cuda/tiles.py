"""The shapes in which tensor cores take a product apart: blocks, warps and their places in shared memory.

Owns the numbers that kernel text and its steps share. Must not import Numba.
"""

from __future__ import annotations

from dataclasses import dataclass

DEPTH = 16  # of one slice of k
STAGES = 3  # slices on their way or in use
A_PITCH = DEPTH + 4  # floats from row to row: the eight rows and four columns that a warp reads lie in 32 banks
WARP = 32
PLAIN_SHARED = 48 << 10  # bytes that a kernel may declare; more is asked for by its launch
SLICE = 16  # terms that are summed from zero before they join a longer sum


@dataclass(frozen=True, slots=True)
class Tile:
    """A block of ``wm`` by ``wn`` warps, each of which has ``mt`` by ``nt`` products of 16 by 8."""

    wm: int
    wn: int
    mt: int
    nt: int

    @property
    def rows(self) -> int:
        return self.wm * self.mt * 16

    @property
    def columns(self) -> int:
        return self.wn * self.nt * 8

    @property
    def threads(self) -> int:
        return self.wm * self.wn * WARP

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def c_pitch(self) -> int:
        return self.columns + 8

    @property
    def sums(self) -> int:
        """Numbers of the result that each thread has."""
        return 4 * self.mt * self.nt

    @property
    def total_bytes(self) -> int:
        """What the threads keep of earlier segments of k."""
        return 4 * self.sums * self.threads


LARGE, MIDDLE, NARROW, SKINNY = Tile(4, 2, 2, 4), Tile(2, 2, 2, 4), Tile(4, 1, 1, 4), Tile(1, 2, 1, 2)
TILES = (LARGE, MIDDLE, NARROW, SKINNY)


def pitch(width: int) -> int:
    """Floats from row to row of ``width`` floats in shared memory: what a warp reads at once lies in 32 banks."""
    return -(-width // 8) * 8 + 4
