"""Device memory with a judge: every byte knows whether it may be touched and whether anybody wrote it.

Owns global allocations (addresses never used twice in reach, guards between them) and the checks of an access.
Must not know registers, threads or instructions: it is handed addresses.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np

from .parse import PtxError

Array = np.ndarray[Any, Any]

FORBIDDEN, UNWRITTEN, WRITTEN = 0, 1, 2
GLOBAL_BASE = 0x7F00_0000_0000
SHARED_BASE = 0x0100_0000_0000  # generic addresses of shared and local memory; global memory is its own generic address
LOCAL_BASE = 0x0200_0000_0000
_GUARD = 1 << 20
_WORD = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SEVERAL = np.uint32(0xFFFFFFFF)  # a mark: blocks, not one block
POISON = 0xFF  # NaN in every float type, so that what nobody wrote shows in results


class MemoryFault(PtxError):
    """An access outside every allocation, to freed memory, misaligned, or of bytes that nobody wrote."""


class GlobalRace(PtxError):
    """Two blocks of one launch touch the same bytes of global memory, one of them writing: nothing orders them."""


class Block:
    """One allocation: ``data`` bytes and ``state`` of each, padded to 16; the padding is forbidden.

    ``writer`` and ``reader`` say for each four bytes which block of the present launch touched them (0: none).
    """

    __slots__ = ("address", "size", "data", "state", "writer", "reader", "_views")

    def __init__(self, address: int, size: int, poison: int = POISON) -> None:
        self.address, self.size = address, size
        padded = (size + 15) // 16 * 16
        self.data = np.full(padded, poison, np.uint8)
        self.state = np.full(padded, UNWRITTEN, np.uint8)
        self.state[size:] = FORBIDDEN
        self.writer: Array | None = None
        self.reader: Array | None = None
        self._views: dict[int, tuple[Array, Array]] = {}

    def marks(self) -> tuple[Array, Array]:
        """Writers and readers, made at need."""
        if self.writer is None or self.reader is None:
            self.writer, self.reader = (np.zeros(len(self.data) // 4, np.uint32) for _ in range(2))
        return self.writer, self.reader

    def rows(self, width: int) -> tuple[Array, Array]:
        """Data and state as rows of ``width`` bytes."""
        found = self._views.get(width)
        if found is None:
            found = self._views[width] = rows_of(self.data, width), rows_of(self.state, width)
        return found


def rows_of(flat: Array, width: int) -> Array:
    """Bytes as (rows, words of a row): few and large words gather faster than bytes."""
    if width <= 8:
        return flat.view(_WORD[width]).reshape(-1, 1)
    return flat.view(np.uint64).reshape(-1, width // 8)


def pattern(state: int, width: int) -> Any:
    """``width`` bytes of ``state`` as the words that ``rows_of`` gives."""
    word = min(width, 8)
    return _WORD[word](int.from_bytes(bytes([state] * word), "little"))


class Memory:
    """Global memory. ``strict``: reading bytes that nobody wrote is a fault."""

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self.blocks: list[Block] = []
        self.starts: list[int] = []
        self.freed: list[tuple[int, int]] = []
        self._next = GLOBAL_BASE
        self._marked: set[Block] = set()

    @property
    def size(self) -> int:
        """Bytes allocated now."""
        return sum(b.size for b in self.blocks)

    def begin(self) -> None:
        """A launch starts: what came before it is ordered before it."""
        for block in self._marked:
            for marks in block.marks():
                marks[...] = 0
        self._marked.clear()

    # -- the host's side ------------------------------------------------------------------------------------------
    def alloc(self, size: int) -> int:
        """The address of ``size`` fresh bytes, 512-byte aligned."""
        block = Block(self._next, size)
        self._next += (size + 511) // 512 * 512 + _GUARD
        self.blocks.append(block)
        self.starts.append(block.address)
        return block.address

    def free(self, address: int) -> None:
        """Give an allocation back; its addresses are not used again."""
        i = bisect_right(self.starts, address) - 1
        if i < 0 or self.starts[i] != address:
            raise MemoryFault(f"free of {address:#x}, which is no allocation")
        self.freed.append((address, self.blocks[i].size))
        del self.blocks[i], self.starts[i]

    def find(self, address: int, size: int = 1) -> tuple[Block, int]:
        """The allocation that holds ``size`` bytes from ``address`` on, and the offset in it."""
        i = bisect_right(self.starts, address) - 1
        if i >= 0:
            block = self.blocks[i]
            at = address - block.address
            if at + size <= block.size:
                return block, at
        raise MemoryFault(self._why(address, size))

    def _why(self, address: int, size: int) -> str:
        for start, length in self.freed:
            if start <= address < start + max(length, 1):
                return f"{size} bytes at {address:#x}: in memory that was freed"
        i = bisect_right(self.starts, address) - 1
        if i >= 0:
            block = self.blocks[i]
            over = address + size - block.address - block.size
            return f"{size} bytes at {address:#x}: {over} bytes past the end of an allocation of {block.size}"
        return f"{size} bytes at {address:#x}: in no allocation"

    def write(self, address: int, data: Array) -> None:
        """Bytes from the host."""
        if data.size:
            block, at = self.find(address, data.size)
            block.data[at : at + data.size] = data
            block.state[at : at + data.size] = WRITTEN

    def read(self, address: int, size: int) -> Array:
        """Bytes for the host; what nobody wrote is a fault too."""
        if not size:
            return np.empty(0, np.uint8)
        block, at = self.find(address, size)
        state = block.state[at : at + size]
        if self.strict and (state != WRITTEN).any():
            first = int(np.flatnonzero(state != WRITTEN)[0])
            raise MemoryFault(f"the host reads {size} bytes at {address:#x}: byte {first} was never written")
        return block.data[at : at + size].copy()

    def copy(self, to: int, source: int, size: int) -> None:
        """Device to device; unwritten bytes stay unwritten."""
        if size:
            a, i = self.find(to, size)
            b, j = self.find(source, size)
            a.data[i : i + size], a.state[i : i + size] = b.data[j : j + size], b.state[j : j + size]

    def fill(self, address: int, value: int, size: int) -> None:
        """Set bytes."""
        if size:
            block, at = self.find(address, size)
            block.data[at : at + size], block.state[at : at + size] = value, WRITTEN

    def mark(self, address: int, size: int, state: int) -> None:
        """Say that bytes are forbidden, or hold nothing yet."""
        if size:
            block, at = self.find(address, size)
            block.state[at : at + size] = state
            if state == UNWRITTEN:
                block.data[at : at + size] = POISON

    # -- the device's side ----------------------------------------------------------------------------------------
    def load(self, address: Array, width: int, what: str, who: Array | None = None) -> Array:
        """(lanes, words) of ``width`` bytes at each address. ``who``: each lane's block + 1; None: not judged."""
        block = self._one(address, width, what)
        if block is None:
            out = np.empty((len(address), max(1, width // 8)), _WORD[min(width, 8)])
            for part, chosen in self._parts(address, width, what):
                out[part] = self._load(chosen, address[part], width, what)
                if who is not None and width >= 4:
                    self._read(chosen, address[part], width, who[part], what)
            return out
        if who is not None and width >= 4:
            self._read(block, address, width, who, what)
        return self._load(block, address, width, what)

    def store(self, address: Array, values: Array, width: int, what: str, who: Array | None = None) -> None:
        """Values as ``load`` gives them; of bytes narrower than four, blocks are not told apart."""
        block = self._one(address, width, what)
        parts = [(slice(None), block)] if block is not None else self._parts(address, width, what)
        for part, chosen in parts:
            self._store(chosen, address[part], values[part], width, what)
            if who is not None and width >= 4:
                self._wrote(chosen, address[part], width, who[part], what)

    def _places(self, block: Block, address: Array, width: int) -> Array:
        first = ((address - np.uint64(block.address)) >> np.uint64(2)).astype(np.int64)[:, None]
        return first if width == 4 else first + np.arange(width // 4)

    def _read(self, block: Block, address: Array, width: int, who: Array, what: str) -> None:
        writer, reader = block.marks()
        self._marked.add(block)
        at, mine = self._places(block, address, width), who[:, None]
        self._ordered(writer[at], mine, what, "written")
        before = reader[at]
        reader[at] = np.broadcast_to(mine, at.shape)
        other = (reader[at] != mine) | ((before != 0) & (before != mine))
        reader[at[other]] = _SEVERAL

    def _wrote(self, block: Block, address: Array, width: int, who: Array, what: str) -> None:
        writer, reader = block.marks()
        self._marked.add(block)
        at, mine = self._places(block, address, width), who[:, None]
        self._ordered(writer[at], mine, what, "written")
        self._ordered(reader[at], mine, what, "read")
        writer[at] = np.broadcast_to(mine, at.shape)
        self._ordered(writer[at], mine, what, "written")

    def _ordered(self, found: Array, mine: Array, what: str, how: str) -> None:
        odd = (found != 0) & (found != mine)
        if odd.any():
            i, j = np.argwhere(odd)[0]
            other = "several blocks" if found[i, j] == _SEVERAL else f"block {int(found[i, j]) - 1}"
            raise GlobalRace(f"block {int(mine[i, 0]) - 1} touches bytes {how} by {other} of the same launch: {what}")

    def _load(self, block: Block, address: Array, width: int, what: str) -> Array:
        data, state = block.rows(width)
        at = (address - np.uint64(block.address)) // np.uint64(width)
        have = state[at]
        if (
            self.strict
            and (have != pattern(WRITTEN, width)).any()
            or not self.strict
            and (have.view(np.uint8) == FORBIDDEN).any()
        ):
            self._complain(have, address, width, what)
        return np.asarray(data[at])

    def _store(self, block: Block, address: Array, values: Array, width: int, what: str) -> None:
        data, state = block.rows(width)
        at = (address - np.uint64(block.address)) // np.uint64(width)
        have = state[at]
        if (have.view(np.uint8) == FORBIDDEN).any():
            self._complain(have, address, width, what)
        data[at] = values
        state[at] = pattern(WRITTEN, width)

    def _complain(self, have: Array, address: Array, width: int, what: str) -> None:
        states = np.ascontiguousarray(have).view(np.uint8).reshape(len(address), width)
        closed = (states == FORBIDDEN).any(1)
        which = closed if closed.any() else (states != WRITTEN).any(1)
        why = "between two buffers" if closed.any() else "that nobody wrote"
        raise MemoryFault(f"{width} bytes at {int(address[which][0]):#x} {why}, {int(which.sum())} lanes: {what}")

    def _one(self, address: Array, width: int, what: str) -> Block | None:
        """The block of all addresses; None when there are several. Raises for a misaligned or stray one."""
        if width > 1 and (address & np.uint64(width - 1)).any():
            bad = address[(address & np.uint64(width - 1)) != 0]
            raise MemoryFault(f"{width} bytes at {int(bad[0]):#x}: misaligned, {len(bad)} lanes: {what}")
        low, high = int(address.min()), int(address.max())
        i = bisect_right(self.starts, low) - 1
        if i >= 0:
            block = self.blocks[i]
            if high + width <= block.address + block.size:
                return block
        return None

    def _parts(self, address: Array, width: int, what: str) -> list[tuple[Array, Block]]:
        starts = np.array(self.starts, np.uint64)
        ends = np.array([b.address + b.size for b in self.blocks], np.uint64)
        which = np.searchsorted(starts, address, "right") - 1
        bad = which < 0
        if len(ends):
            bad |= address + np.uint64(width) > ends[which]
        if len(ends) == 0 or bad.any():
            raise MemoryFault(f"{self._why(int(address[bad][0]), width)}, {int(bad.sum())} lanes: {what}")
        return [(np.flatnonzero(which == i), self.blocks[i]) for i in np.unique(which)]
