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
_MANY = 2 * PROCESSORS  # blocks of the largest tile that keep every processor busy
# A kernel with the largest tile is made where these values of the symbols give so many.
_BATCH, _ROWS = 16, 1024  # images, say; rows of a matrix


def below(e: Extent, limit: int) -> Extent:
    """1 where ``e`` is less than ``limit``, else 0."""
    return minimum(1, maximum(0, limit - e))


def fewest(e: Extent, each: int = 1) -> int:
    """The value with 1, or ``each``, for every symbol: a batch of one."""
    return e if isinstance(e, int) else evaluate(e, dict.fromkeys(symbols(e), each))


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

    @property
    def finisher(self) -> Share:
        """The share whose kernel adds them: the last one that may leave any."""
        return [share for share in self.shares if share.split != 0][-1]


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
    large, many = count * ceildiv(m, LARGE.rows) * -(-n // LARGE.columns), None
    if main is MIDDLE and fewest(large) >= PROCESSORS:
        main = LARGE
    few: Extent = below(m, SKINNY.rows + 1) if fewest(m) <= SKINNY.rows else 0
    if main is MIDDLE and not isinstance(large, int) and fewest(large, _ROWS if few != 0 else _BATCH) >= _MANY:
        many = 1 - below(large, _MANY)
    split = below(tiles, _SPLIT_BELOW) if segments > 1 else 0
    shares = []
    if few != 0:
        narrow = count * -(-n // SKINNY.columns)  # cheaper to sum in memory: a tile has an eighth of the numbers
        shares.append(Share(SKINNY, few, below(narrow, PROCESSORS) if segments > 1 else 0))
    if few != 1:
        shares.append(Share(main, (1 - few) * (1 if many is None else 1 - many), split))
        if many is not None:
            shares.append(Share(LARGE, (1 - few) * many, 0))
    size = count * m * n
    room: Extent = 0
    if segments > 1 and any(share.split != 0 for share in shares):
        room = 4 * segments * minimum(size, _SPLIT_BELOW * main.rows * main.columns)
    return Deal(segments, per, tuple(shares), room)
