"""What is done with weights before the first call: hashes, and constants in layouts that are not stored.

Owns the use of the image's own code for both; where it has none for a job, NumPy and hashlib do it. Must not know how
a plan is run. Whoever calls has checked the hash of the code.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Callable, Sequence

import numpy as np

from ..core import poolwords
from ..core.dtypes import DTYPES
from ..core.loadwords import (
    COPY,
    HASH,
    HASH_LANES,
    HASH_SCRATCH,
    HASH_WORTH,
    LOOPS,
    ROUND,
    RUN,
    WINOGRAD,
    WINOGRAD_SCRATCH,
)
from ..core.manifest import BLOCK
from ..core.plan import Constant, Plan
from ..core.relayout import Nest, nest
from .call import Array
from .image import NativeImage
from .memory import available_bytes
from .pool import pool

_CHUNK = 1 << 16  # bytes that a thread takes at a time at least
_CHECKED = 256 << 20  # room from here on is checked against free memory

Job = tuple[str, Sequence[int], int, int]  # entry, arguments, extent, grain


class Helper:
    """The loader's entries of an image, run by ``threads`` threads."""

    def __init__(self, image: NativeImage, threads: int) -> None:
        self._image, self._threads = image, threads

    def run(self, jobs: Sequence[Job], scratch: int = 0) -> None:
        """One after the other, each by all threads; ``scratch`` bytes for each of them."""
        blocks = [np.asarray(args, np.int64) for _, args, _, _ in jobs]
        program = [0]
        for (entry, _, extent, grain), block in zip(jobs, blocks):
            program += [poolwords.CALL, self._image.address(entry), block.ctypes.data, extent, grain]
        table = np.asarray([*program, poolwords.HALT], np.int64)
        table[0] = len(table)
        address = 0
        if self._threads > 1:
            shared = pool()
            shared.ensure(self._threads, self._image)
            address = shared.address
        stride = (scratch + 63) & -64
        room = np.empty(stride * self._threads + 64, np.uint8)
        self._image.run(table.ctypes.data, address, self._threads, (room.ctypes.data + 63) & -64, stride)

    def has(self, entry: str) -> bool:
        """Does the image have it?"""
        return self._image.has(entry)

    def digests(self, data: Array) -> list[bytes]:
        """SHA-256 of the first blocks of ``data``, as many as are quicker together than one by one."""
        whole = len(data) // BLOCK
        whole -= whole % HASH_LANES if whole % HASH_LANES < HASH_WORTH else 0
        if not whole or not self.has(HASH):
            return []
        out = np.empty((whole, 32), np.uint8)
        units = -(-whole // HASH_LANES)
        self.run([(HASH, (data.ctypes.data, whole, out.ctypes.data), units, 1)], HASH_SCRATCH)
        return [row.tobytes() for row in out]


def constants(plan: Plan, weights: Array, helper: Helper | None = None) -> list[Array]:
    """The bytes of each constant: over the map, or a layout made now. Raises MemoryError."""
    made = [c for c in plan.constants if c.wanted is not None]
    room = _Room(sum((c.size + 63) & -64 for c in made))
    out: list[Array] = []
    jobs: list[Job] = []
    for c in plan.constants:
        data = weights[c.offset : c.offset + c.bytes]
        if c.stored is not None and c.wanted is not None:
            job = None if helper is None else _job(c, helper)
            if job is None:
                typed = data.view(DTYPES[c.dtype].np)
                data = c.wanted.repack(typed, c.stored, room.array).reshape(-1).view(np.uint8)
            else:
                source, data = data, room.take(c.size)
                jobs.append(job(source.ctypes.data, data.ctypes.data))
        out.append(data)
    if jobs and helper is not None:
        helper.run(jobs, WINOGRAD_SCRATCH)
    return out


def _job(c: Constant, helper: Helper) -> Callable[[int, int], Job] | None:
    """How the image makes ``c`` of (source, target), or None."""
    assert c.stored is not None and c.wanted is not None
    found = nest(c.stored, c.wanted)
    if found is None or (found.side and c.dtype != "f32"):
        return None
    loops = _paired(found) if found.rounds else _in_words(found, DTYPES[c.dtype].size)
    if loops is None:
        return None
    entry = ROUND if found.rounds else COPY
    words: tuple[int, ...] = ()
    if found.side:
        entry = WINOGRAD.get((found.side, found.rounds), "")
        each = 2 if found.rounds else 1  # elements in a word of the target
        words = (*found.source_taps, *(stride // each for stride in found.target_taps))
    if found.rounds:
        words = (*words, found.loops[-1][1])
    if not helper.has(entry):
        return None
    if loops[-1][0] >= 256:
        loops = (*loops[:-1], (1, 0, 0), loops[-1])  # long runs are units of their own
    if len(loops) > LOOPS:
        return None
    loops = ((1, 0, 0),) * (LOOPS - len(loops)) + loops
    extent = math.prod(n for n, _, _ in loops[:-2])
    grain = max(1, extent * _CHUNK // max(c.size, 1))
    words = (*(x for loop in loops for x in loop), *words)
    return lambda source, target: (entry, (source, target, *words), extent, grain)


def _in_words(found: Nest, size: int) -> tuple[tuple[int, int, int], ...] | None:
    """The loops in words of 4 bytes, None where the innermost is not over whole runs of neighbours."""
    *outer, (n, s, t) = found.loops or ((1, 1, 1),)
    if (s, t) != (1, 1) or any(x * size % 4 for loop in outer for x in loop[1:]) or n * size % (4 * RUN):
        return None
    scaled = [(m, a * size // 4, b * size // 4) for m, a, b in outer]
    return (*scaled, (n * size // 4, 1, 1))


def _paired(found: Nest) -> tuple[tuple[int, int, int], ...] | None:
    """The loops in words of the target, which hold two elements; None where the innermost is not over whole runs."""
    if len(found.loops) < 2 or found.loops[-1][0] != 2 or found.loops[-1][2] != 1:
        return None
    *outer, (n, s, t) = found.loops[:-1]
    if (s, t) != (1, 2) or n % RUN or any(b % 2 for b in (*(b for _, _, b in outer), *found.target_taps)):
        return None
    return (*((m, a, b // 2) for m, a, b in outer), (n, 1, 1))


class _Room:
    """Zeroed memory for arrays on 64-byte boundaries, in huge pages where the system has them: to touch 75 MB in small
    ones takes longer than to compute what is stored there."""

    def __init__(self, size: int) -> None:
        self._free = np.empty(0, np.uint8)
        if not size:
            return
        short = MemoryError(f"no memory for {size} bytes of weights in layouts that are made at load")
        if size > _CHECKED and size > available_bytes():
            raise short
        try:
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            raise short from None
        with contextlib.suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
        self._free = np.frombuffer(block, np.uint8)

    def take(self, size: int) -> Array:
        """The next ``size`` bytes, or an array of their own where more is asked for than was foreseen."""
        taken = (size + 63) & -64
        if taken > len(self._free):
            block = np.zeros(taken + 64, np.uint8)
            start = -block.ctypes.data % 64
            return block[start : start + size]
        room, self._free = self._free[:size], self._free[taken:]
        return room

    def array(self, shape: tuple[int, ...], dtype: type) -> Array:
        """Room for an array."""
        kind = np.dtype(dtype)
        return self.take(math.prod(shape) * kind.itemsize).view(kind).reshape(shape)
