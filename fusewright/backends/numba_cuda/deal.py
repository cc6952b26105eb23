"""How a product is dealt to processors: tiles by its number of rows, and k in segments where tiles are few.

Owns the assumption of how many processors there are. What is fixed when compiling (segments) decides the order of
additions; what a call's sizes decide (which tile, who sums a segment) does not, so that the bits of a row are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ...core.dims import Extent, ceildiv, evaluate, maximum, minimum, symbols
from .tiles import LARGE, MIDDLE, NARROW, SKINNY, Tile

PROCESSORS = 132  # of an H100; an A100 has 108
_SPLIT_BELOW = PROCESSORS // 2  # tiles; with more of them sums in memory cost more than idle processors
_LEAST_TERMS = 128  # of a segment: below, starting copies takes longer than multiplying
_MOST_SEGMENTS = 16


def below(e: Extent, limit: int) -> Extent:
    """1 where ``e`` is less than ``limit``, else 0."""
    return minimum(1, maximum(0, limit - e))


def fewest(e: Extent) -> int:
    """The value with 1 for every symbol: a batch of one."""
    return e if isinstance(e, int) else evaluate(e, dict.fromkeys(symbols(e), 1))


@dataclass(frozen=True, slots=True)
class Share:
    """A tile with the condition (1 or 0) under which it computes the product."""

    tile: Tile
    when: Extent
    split: Extent  # 1 where each segment has a block of its own


@dataclass(frozen=True, slots=True)
class Deal:
    """``segments`` of ``per`` slices of k are each summed from zero, then added in order. Where ``split``, blocks leave
    them in ``temp_bytes`` of storage, and the last of the tiles finishes."""

    segments: int
    per: int
    shares: tuple[Share, ...]
    temp_bytes: Extent

    @property
    def finish(self) -> Extent:
        """1 where the segments' sums are to be added."""
        found: Extent = 0
        for share in self.shares:
            found = found + share.when * share.split
        return found


@lru_cache(maxsize=1 << 12)  # planning asks again and again
def deal(m: Extent, k: int, n: int, batch: Extent = 1, depth: int = 16) -> Deal:
    """How ``m`` rows of ``n`` columns, each a sum of ``k`` terms in slices of ``depth``, are dealt; ``batch`` such
    products."""
    slices, count = -(-k // depth), batch
    main = NARROW if n <= NARROW.columns else MIDDLE
    tiles = count * ceildiv(m, main.rows) * -(-n // main.columns)
    least = max(1, fewest(tiles))
    segments = 1
    if least < _SPLIT_BELOW:
        segments = max(1, min(-(-2 * PROCESSORS // least), slices * depth // _LEAST_TERMS, _MOST_SEGMENTS))
    per = -(-slices // segments)
    segments = -(-slices // per)
    large = count * ceildiv(m, LARGE.rows) * -(-n // LARGE.columns)
    if segments == 1 and main is MIDDLE and fewest(large) >= PROCESSORS:
        main = LARGE
    split = below(tiles, _SPLIT_BELOW) if segments > 1 else 0
    shares = [Share(main, 1, split)]
    if fewest(m) <= SKINNY.rows:
        few = below(m, SKINNY.rows + 1)
        narrow = count * -(-n // SKINNY.columns)  # cheaper to sum in memory: a tile has an eighth of the numbers
        skinny = Share(SKINNY, few, below(narrow, PROCESSORS) if segments > 1 else 0)
        shares = [skinny] if few == 1 else [skinny, Share(main, 1 - few, split)]
    size = count * m * n
    room: Extent = 0
    if segments > 1 and any(share.split != 0 for share in shares):
        room = 4 * segments * minimum(size, _SPLIT_BELOW * main.rows * main.columns)
    return Deal(segments, per, tuple(shares), room)
