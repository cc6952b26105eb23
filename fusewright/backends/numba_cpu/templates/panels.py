"""The table of register tiles: how many rows by how many vectors for each vector width.

Owns the vetted shapes and the choice among them. Must not know any op.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....core.dims import Extent
from ..variants import Variant

# vectors -> most rows. Accumulators + one row of weights + one broadcast fit the register file without spills
# (rows * vectors + vectors + 1 <= 32 or 16), and rows * vectors >= 8 hides the latency of FMA at full height.
_TALLEST = {32: {1: 14, 2: 12, 3: 8, 4: 6, 5: 5, 6: 4, 7: 3}, 16: {1: 12, 2: 6, 3: 4}}
LATENCY = 8  # accumulators that keep both multipliers busy
_COST = {1: 1.25, 2: 1.04, 3: 1.0, 4: 1.0, 5: 1.05, 6: 1.1, 7: 1.2}  # time per useful FMA, relative
# The same where each step multiplies pairs: weights are wanted from the second-level cache twice as fast, and a tall
# tile asks for the fewest.
_COST_PAIRS = {1: 1.12, 2: 1.0, 3: 1.04, 4: 1.12, 5: 1.2, 6: 1.3, 7: 1.4}


@dataclass(frozen=True, slots=True)
class Tile:
    """At most ``rows`` rows of ``vectors`` vectors of ``width`` lanes."""

    rows: int
    vectors: int
    width: int

    @property
    def columns(self) -> int:
        return self.vectors * self.width


def width_of(variant: Variant, size: int) -> int:
    """Lanes of one vector for elements of ``size`` bytes."""
    return variant.width // size


def registers(variant: Variant) -> int:
    return 32 if variant.width == 64 else 16


def pick(variant: Variant, size: int, columns: Extent) -> Tile:
    """The tile for a row-major result of ``columns`` columns: little padding first, then speed."""
    width = width_of(variant, size)
    tallest = _TALLEST[registers(variant)]
    rows, vectors = variant.tile
    if 0 < rows <= tallest.get(vectors, 0):
        return Tile(rows, vectors, width)
    if not isinstance(columns, int):
        best = 4 if registers(variant) == 32 else 2
        return Tile(tallest[best], best, width)
    needed = max(1, -(-columns // width))
    usable = [v for v in tallest if v <= 4]
    best = min(usable, key=lambda v: (-(-needed // v) * v * _COST[v], -v))
    return Tile(tallest[best], best, width)


def halved(variant: Variant, tile: Tile, rows: Extent) -> Tile | None:
    """Half as many columns as ``tile`` has, where ``rows`` still make accumulators enough."""
    vectors, odd = divmod(tile.vectors, 2)
    if odd or not isinstance(rows, int):
        return None
    tallest = _TALLEST[registers(variant)][vectors]
    return Tile(tallest, vectors, tile.width) if min(rows, tallest) * vectors >= LATENCY else None


def pick_blocks(variant: Variant, size: int, blocks: int, rows: Extent | None = None, pairs: bool = False) -> Tile:
    """The tile for a blocked result of ``blocks`` blocks of 16 channels: whole blocks, no padding."""
    width = width_of(variant, size)
    per_block = 16 // width
    tallest = _TALLEST[registers(variant)]
    rows_chosen, vectors = variant.tile
    if 0 < rows_chosen <= tallest.get(vectors, 0) and vectors % per_block == 0 and blocks % (vectors // per_block) == 0:
        return Tile(rows_chosen, vectors, width)
    usable = [n for n in range(1, blocks + 1) if blocks % n == 0 and n * per_block in tallest]
    if not usable:  # float64 on AVX2: a block alone is wider than any tile that hides latency
        return Tile(2, per_block, width)
    cost = _COST_PAIRS if pairs else _COST

    def slowness(n: int) -> float:
        vectors = n * per_block
        wait = 0.0 if pairs else _wait(tallest[vectors], vectors, rows)
        return (_row_cost(tallest[vectors], rows) + wait) * cost[vectors]

    best = min(usable, key=lambda n: (slowness(n), -n))
    return Tile(tallest[best * per_block], best * per_block, width)


def tiles_of(variant: Variant, columns: Extent, blocked: bool, rows: Extent) -> list[tuple[int, int]]:
    """Rows and vectors of the float32 tiles worth trying: each width at its full height, and at the greatest height
    that divides ``rows``."""
    width, tallest = width_of(variant, 4), _TALLEST[registers(variant)]
    per_block = 16 // width if blocked else 1
    out = []
    for vectors, most in tallest.items():
        if vectors % per_block or vectors * most < 8:
            continue
        if isinstance(columns, int):
            whole = -(-columns // 16) if blocked else -(-columns // width)
            if (whole % (vectors // per_block)) if blocked else vectors > whole:
                continue
        out.append((most, vectors))
        if isinstance(rows, int) and rows > 0:
            even = next(r for r in range(min(most, rows), 0, -1) if rows % r == 0)
            if even * vectors >= 8 and even != most:
                out.append((even, vectors))
    return out


def _row_cost(most: int, rows: Extent | None) -> float:
    """How much slower short tiles are when ``rows`` is not a multiple of the tallest."""
    if not isinstance(rows, int) or rows < 1:
        return 1.0
    tiles = -(-rows // most)
    return 1.0 + 0.08 * (tiles * most - rows) / rows


def _wait(most: int, vectors: int, rows: Extent | None) -> float:
    """What is added where a last tile has too few accumulators: it waits for its own results, half of which time the
    tiles around it fill."""
    if not isinstance(rows, int) or rows <= most or rows % most == 0:
        return 0.0
    return 0.5 * max(0, LATENCY - rows % most * vectors) / (rows * vectors)


LEAST_ROWS_ASKING, MOST_ROWS_ASKING = 12, 512  # of fewer rows, there is no time; with more, one reading costs little


def asked_bytes(rows: Extent, height: int, line: int) -> int:
    """Bytes of the weights to be read next that a tile of ``height`` prefetches for each ``line`` bytes that it reads
    of its own, where ``rows`` share one reading; 0 where asking ahead does not pay."""
    if not isinstance(rows, int) or not LEAST_ROWS_ASKING <= rows <= MOST_ROWS_ASKING:
        return 0
    return -(-height * line // rows // 8) * 8
