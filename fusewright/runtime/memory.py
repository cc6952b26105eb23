"""Memory for calls: how much there is, and aligned blocks of it.

Owns arenas and the reading of /proc and cgroups. Must not know what lies in an arena.
"""

from __future__ import annotations

import os
import resource
from typing import Any

import numpy as np

from ..core.errors import InputRefused


def available_bytes() -> int:
    """Bytes that this process can still take: the least of free memory, cgroup limits and RLIMIT_AS."""
    room = [_meminfo(), *_cgroup_room()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        room.append(max(0, soft - _virtual_size()))
    return min(room)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def _meminfo() -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _virtual_size() -> int:
    fields = _read("/proc/self/statm").split()
    return int(fields[0]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _cgroup_room() -> list[int]:
    """Limit less usage of every cgroup from our own up to the root, versions 2 and 1."""
    room: list[int] = []
    for line in _read("/proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or not (parts[1] == "" or "memory" in parts[1].split(",")):
            continue
        unified = parts[1] == ""
        root = "/sys/fs/cgroup" if unified else "/sys/fs/cgroup/memory"
        limit, usage = (
            ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        path = parts[2].rstrip("/")
        while True:
            most, used = _read(f"{root}{path}/{limit}").strip(), _read(f"{root}{path}/{usage}").strip()
            if most.isdigit() and used.isdigit():
                room.append(max(0, int(most) - int(used)))
            if not path:
                break
            path = path.rpartition("/")[0]
    return room


class Arena:
    """One block, 64-byte aligned (a page for large ones), and the step tables bound to its address.

    One call owns an arena at a time. ``contexts`` is the owner's to fill.
    """

    __slots__ = ("size", "address", "contexts", "_block")

    def __init__(self, size: int = 0) -> None:
        self.contexts: dict[Any, Any] = {}
        self.size = self.address = 0
        self._block: np.ndarray[Any, Any] = np.empty(0, np.uint8)
        self.grow(size)

    def grow(self, size: int) -> None:
        """At least ``size`` bytes; forgets the contexts when the block moves. Raises InputRefused if there are not."""
        if size <= self.size and self.address:
            return
        self.contexts.clear()
        self._block = np.empty(0, np.uint8)  # give the old block back before taking the new one
        align = 64 if size < 1 << 16 else 4096
        try:
            self._block = np.empty(size + align, np.uint8)
        except (MemoryError, ValueError):
            self.size = self.address = 0
            raise InputRefused(
                f"no memory for an arena of {size} bytes: use a smaller batch, or set max_bytes"
            ) from None
        start = self._block.ctypes.data
        self.address = (start + align - 1) & -align
        self.size = size

    def view(self, offset: int, size: int) -> np.ndarray[Any, Any]:
        """``size`` bytes from ``offset`` on."""
        start = self.address - self._block.ctypes.data + offset
        return self._block[start : start + size]
