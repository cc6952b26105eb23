"""How finely kernel text cuts work: coarse for the threads of a CPU, one element for those of a GPU.

Owns the numbers and which of them hold while text is generated. Must not know any kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Units:
    """``line`` elements of a flat loop, ``split`` elements of a long row and at most ``columns`` beside a sequential
    axis make one unit of work; ``lanes`` of accumulators may stand in memory; ``tiles`` of elements move together.
    With ``warps``, long rows are units that the 32 threads of a warp share, ``WARPS`` of them per block.
    """

    line: int
    split: int
    columns: int
    lanes: bool
    tiles: bool
    warps: bool


WARPS, LANES = 8, 32
SHARED_ROW = 16  # elements of a row that make sharing it worth while
CORES = Units(line=64, split=16384, columns=4096, lanes=True, tiles=True, warps=False)
# Neighbouring threads take neighbouring elements, so that their accesses join; accumulators are registers.
THREADS = Units(line=1, split=1, columns=1, lanes=False, tiles=False, warps=True)
_current: ContextVar[Units] = ContextVar("units", default=CORES)


def units() -> Units:
    """What holds for the text that is being generated."""
    return _current.get()


@contextmanager
def cut_for(chosen: Units) -> Iterator[None]:
    """Text generated inside is cut by ``chosen``."""
    token = _current.set(chosen)
    try:
        yield
    finally:
        _current.reset(token)
