"""How many rows of a batch a CPU computes at a time: few enough for what they need to stay in the last-level cache, and
enough for reading the weights once more not to show.

Owns this rule. Must not know plans, arenas or calls: it is told what rows need.
"""

from __future__ import annotations

from collections.abc import Callable

# Half of a last-level cache of 32 MiB: the other half is for weights, and for whoever else is there.
CACHE = 16 << 20
# A core of 250 GF/s reads weights from memory at 5 GB/s then, an eighth of what it can, while it computes.
FLOPS_PER_BYTE = 48
LEAST = 2  # rows of a slice


def in_cache(size: int) -> bool:
    """Do ``size`` bytes stay in the last-level cache?"""
    return size <= CACHE


def rows_of_a_slice(count: int, threads: int, need: Callable[[int], int], work: Callable[[], tuple[int, int]]) -> int:
    """Rows of each slice of a batch of ``count`` rows; ``count`` where it had better run whole.

    ``need(rows)``: bytes of arena. ``work()``: floating-point operations of one row, bytes of the weights; it is asked
    only where the batch does not stay in the cache.
    """
    least = max(LEAST, threads)
    if count < 2 * least or in_cache(whole := need(count)):
        return count
    flops, weights = work()
    if not in_cache(weights):
        least = max(least, -(-FLOPS_PER_BYTE * threads * weights // max(flops, 1)))
    rows = max(least, CACHE * count // whole)
    if count <= rows or count < 2 * least:
        return count
    even = -(-count // -(-count // rows))
    if rows > 64:
        return even  # the last one is hardly smaller
    # Slices of one size share their plan, which is worth a third more memory.
    below = [r for r in range(rows, max(least, rows // 2) - 1, -1) if count % r == 0]
    above = [r for r in range(rows + 1, rows * 4 // 3 + 1) if count % r == 0 and r < count]
    return (below or above or [even])[0]
