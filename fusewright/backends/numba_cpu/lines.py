"""The side of a transposed tile, which kernel generators and the tile itself share.

Must not import Numba.
"""

from __future__ import annotations

CACHE_LINE = 64  # bytes


def tile_side(size: int) -> int:
    """Rows and columns of a transposed tile of elements of ``size`` bytes: its lines are cache lines."""
    return min(16, CACHE_LINE // size)
