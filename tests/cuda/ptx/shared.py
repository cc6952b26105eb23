"""Shared memory of the blocks in flight, with a race detector.

Owns the bytes, who touched each since the last barrier, and copies that are still in flight (cp.async).
Must not know instructions; two accesses of a byte by different threads, one of them a write, need a barrier between.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .memory import FORBIDDEN, POISON, UNWRITTEN, WRITTEN, MemoryFault, pattern, rows_of
from .parse import PtxError

Array = np.ndarray[Any, Any]
FLYING = 3  # bytes that a cp.async writes at some time from now on

_EPOCH = 11  # a mark is epoch << 11 | thread + 1; 0: nobody since the last barrier
_THREAD = (1 << _EPOCH) - 1


class Race(PtxError):
    """Two threads touch the same byte of shared memory without a barrier in between."""


class Shared:
    """``blocks`` x ``size`` bytes. A lane's block is lane // threads."""

    def __init__(self, blocks: int, size: int, threads: int, strict: bool = True) -> None:
        self.size, self.threads, self.strict = size, threads, strict
        self.stride = (size + 15) // 16 * 16 + 16
        self.data = np.full(blocks * self.stride, POISON, np.uint8)
        self.state = np.full(blocks * self.stride, UNWRITTEN, np.uint8)
        self.state.reshape(blocks, self.stride)[:, size:] = FORBIDDEN
        self.writer = np.zeros(blocks * self.stride, np.uint32)
        self.reader = np.zeros(blocks * self.stride, np.uint32)
        self.many = np.zeros(blocks * self.stride, np.uint8)  # 1: readers of one warp, 2: of several
        self.epoch = np.zeros((blocks, (threads + 31) // 32), np.uint32)

    # -- order ----------------------------------------------------------------------------------------------------
    def barrier(self, block: int) -> None:
        """Everything before is ordered before everything after, in this block."""
        part = slice(block * self.stride, (block + 1) * self.stride)
        self.writer[part] = 0
        self.reader[part] = 0
        self.many[part] = 0
        self.epoch[block] = 0

    def warp_barrier(self, lanes: Array) -> None:
        """The same among the lanes' warps."""
        block, thread = np.divmod(lanes, self.threads)
        for b, w in {(int(b), int(t) // 32) for b, t in zip(block, thread)}:
            self.epoch[b, w] += 1

    # -- access ---------------------------------------------------------------------------------------------------
    def place(self, lanes: Array, address: Array, width: int, what: str) -> Array:
        if width > 1 and (address & np.uint64(width - 1)).any():
            bad = int(address[(address & np.uint64(width - 1)) != 0][0])
            raise MemoryFault(f"shared address {bad:#x}: misaligned for {width} bytes: {what}")
        if int(address.max()) + width > self.size:
            over = int(address.max())
            raise MemoryFault(f"{width} bytes at shared address {over}: there are {self.size} bytes: {what}")
        return (address.astype(np.int64) + (lanes // self.threads) * self.stride) // width

    def load(self, lanes: Array, address: Array, width: int, what: str, mark: bool = True) -> Array:
        """(lanes, words) of ``width`` bytes."""
        at = self.place(lanes, address, width, what)
        have = rows_of(self.state, width)[at]
        wanted = pattern(WRITTEN, width)
        if (have != wanted).any():
            states = np.ascontiguousarray(have).view(np.uint8).reshape(len(at), width)
            if (states == FLYING).any():
                raise Race(f"read of bytes that a cp.async may still be writing (no wait): {what}")
            if (states == FORBIDDEN).any() or self.strict:
                raise MemoryFault(
                    f"{int((states != WRITTEN).any(1).sum())} lanes read shared bytes nobody wrote: {what}"
                )
        if mark:
            self._read_marks(lanes, at, width, what)
        return np.asarray(rows_of(self.data, width)[at])

    def store(self, lanes: Array, address: Array, values: Array, width: int, what: str, state: int = WRITTEN) -> None:
        """Values as ``load`` gives them; ``state`` FLYING for the start of a cp.async."""
        at = self.place(lanes, address, width, what)
        have = rows_of(self.state, width)[at]
        states = np.ascontiguousarray(have).view(np.uint8)
        if (states == FORBIDDEN).any():
            raise MemoryFault(f"write between shared variables: {what}")
        if state == WRITTEN and (states == FLYING).any():
            raise Race(f"write to bytes that a cp.async may still be writing: {what}")
        self._write_marks(lanes, at, width, what)
        rows_of(self.data, width)[at] = values
        rows_of(self.state, width)[at] = pattern(state, width)

    def land(self, lanes: Array, address: Array, values: Array, width: int, what: str) -> None:
        """The end of a cp.async: the thread's own write, now."""
        at = self.place(lanes, address, width, what)
        rows_of(self.data, width)[at] = values
        rows_of(self.state, width)[at] = pattern(WRITTEN, width)
        self._marks(self.writer, width)[at] = self._own(lanes)[:, None]

    def exclusive(self, lanes: Array, address: Array, width: int, what: str) -> None:
        """An atomic access: ordered against other atomics, so it leaves no mark, but it may not meet plain ones."""
        at = self.place(lanes, address, width, what)
        own = self._own(lanes)
        self._against(self._marks(self.writer, width)[at], own, lanes, what, "written by")
        self._against(self._marks(self.reader, width)[at], own, lanes, what, "read by")

    # -- marks ----------------------------------------------------------------------------------------------------
    @staticmethod
    def _marks(marks: Array, width: int) -> Array:
        return marks.reshape(-1, width)

    def _own(self, lanes: Array) -> Array:
        block, thread = np.divmod(lanes, self.threads)
        epoch = self.epoch[block, thread // 32]
        return (epoch << np.uint32(_EPOCH)) | (thread + 1).astype(np.uint32)

    def _against(self, found: Array, own: Array, lanes: Array, what: str, how: str) -> None:
        """Marks of others that no barrier orders before us."""
        odd = (found != 0) & (found != own[:, None])
        if not odd.any():
            return
        thread, mine = (found & np.uint32(_THREAD)).astype(np.int64) - 1, (lanes % self.threads)[:, None]
        same_warp = thread // 32 == mine // 32
        earlier = (found >> np.uint32(_EPOCH)) < (own >> np.uint32(_EPOCH))[:, None]
        odd &= (thread != mine) & ~(same_warp & earlier)
        if odd.any():
            i, j = np.argwhere(odd)[0]
            raise Race(
                f"thread {int(mine[i, 0])} touches shared bytes {how} thread {int(thread[i, j])}, no barrier between, "
                f"{int(odd.any(1).sum())} lanes: {what}"
            )

    def _read_marks(self, lanes: Array, at: Array, width: int, what: str) -> None:
        own = self._own(lanes)
        self._against(self._marks(self.writer, width)[at], own, lanes, what, "written by")
        readers, many = self._marks(self.reader, width), self._marks(self.many, width)
        before = readers[at]
        readers[at] = own[:, None]
        # Lanes of this very instruction that share bytes, and readers before them: remember that there are several.
        after = readers[at]
        for seen in (before, after):
            other = (seen != 0) & (((seen ^ own[:, None]) & np.uint32(_THREAD)) != 0)
            if other.any():
                thread = (seen & np.uint32(_THREAD)).astype(np.int64) - 1
                wide = other & (thread // 32 != (lanes % self.threads)[:, None] // 32)
                rows = many[at]
                rows[other & (rows == 0)] = 1
                rows[wide] = 2
                byte = at[:, None] * width + np.arange(width)
                for level in (1, 2):  # the higher one last: lanes that share a byte may disagree
                    self.many[byte[other & (rows == level)]] = level

    def _write_marks(self, lanes: Array, at: Array, width: int, what: str) -> None:
        own = self._own(lanes)
        self._against(self._marks(self.writer, width)[at], own, lanes, what, "written by")
        readers, many = self._marks(self.reader, width)[at], self._marks(self.many, width)[at]
        single = np.where(many == 0, readers, 0)
        self._against(single, own, lanes, what, "read by")
        several = many > 0
        if several.any():
            thread, mine = (readers & np.uint32(_THREAD)).astype(np.int64) - 1, (lanes % self.threads)[:, None]
            earlier = (readers >> np.uint32(_EPOCH)) < (own >> np.uint32(_EPOCH))[:, None]
            fine = (many == 1) & (thread // 32 == mine // 32) & earlier
            bad = several & ~fine
            if bad.any():
                raise Race(
                    f"{int(bad.any(1).sum())} lanes write shared bytes that others read, no barrier between: {what}"
                )
        writers = self._marks(self.writer, width)
        writers[at] = own[:, None]
        clash = writers[at] != own[:, None]
        if clash.any():
            raise Race(f"{int(clash.any(1).sum())} lanes write the same shared bytes at once: {what}")
