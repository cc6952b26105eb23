"""Machine code bytes in executable memory.

Owns the mapping and its lifetime: never writable and executable at once.
Must not know what the code does; whoever maps bytes has checked their hash.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..core.errors import BundleRefused
from ..core.poolwords import WORKER

_FAILED = ctypes.c_void_p(-1).value
_RUN = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)


@cache
def _libc() -> Any:
    """The C library's memory calls; found at first use, for the portable path imports this on every platform."""
    lib = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    lib.mmap.restype = pointer
    lib.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_long)
    lib.mprotect.argtypes = (pointer, size, number)
    lib.munmap.argtypes = (pointer, size)
    return lib


def map_pages(size: int) -> int:
    """The address of fresh zeroed pages, 4096-byte aligned; nobody unmaps them but the caller."""
    address = _libc().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address == _FAILED or address is None:
        raise BundleRefused(f"cannot map {size} bytes of memory (errno {ctypes.get_errno()})")
    return int(address)


class NativeImage:
    """An image of native code, mapped read and execute. Calls through it release the GIL.

    ``run`` has the signature of the dispatcher: (program, pool, threads, scratch, scratch_stride) -> int.
    """

    __slots__ = ("_base", "_size", "_symbols", "_finalizer", "run", "__weakref__")

    def __init__(self, code: bytes, symbols: Mapping[str, int]) -> None:
        if not code:
            raise BundleRefused("the native image is empty")
        for name, offset in symbols.items():
            if not 0 <= offset < len(code):
                raise BundleRefused(f"symbol {name!r} lies outside the native image")
        self._size = len(code)
        self._symbols = dict(symbols)
        self._base = map_pages(self._size)
        self._finalizer: Any = weakref.finalize(self, _libc().munmap, self._base, self._size)
        self._finalizer.atexit = False  # helper threads may still run in it while the process ends
        ctypes.memmove(self._base, code, self._size)
        if _libc().mprotect(self._base, self._size, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
            raise BundleRefused(
                f"this system refuses executable memory (errno {ctypes.get_errno()}); native=False interprets the graph"
            )
        self.run: Any = _RUN(self.address("run")) if "run" in self._symbols else None

    def address(self, symbol: str) -> int:
        """The address of an entry."""
        if symbol not in self._symbols:
            raise BundleRefused(f"the native image has no symbol {symbol!r}")
        return self._base + self._symbols[symbol]

    def has(self, symbol: str) -> bool:
        """Is there such an entry?"""
        return symbol in self._symbols

    def kernel(self, symbol: str) -> Any:
        """A kernel as a ctypes function (args address, start, stop, scratch)."""
        return _KERNEL(self.address(symbol))

    def worker(self) -> Any:
        """The helper thread's loop as a ctypes function (pool address, number of the helper); None where the image was
        made for another layout of the pool."""
        return _WORKER(self.address(WORKER)) if WORKER in self._symbols else None

    def pin(self) -> None:
        """Keep the mapping until the process ends."""
        self._finalizer.detach()
