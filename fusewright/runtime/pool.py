"""The one thread pool of the process.

Owns the shared block that native code meets at, and the daemon threads inside the native worker loop.
Must not know what the threads run.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

from ..core import poolwords
from .image import NativeImage, map_pages

# About 30 microseconds of spinning before a helper sleeps: longer than the gap between two steps of a model, short
# enough not to take a core from others.
_SPINS = 1500
PIN = "FUSEWRIGHT_PIN"  # set to 1: each helper stays on a CPU of its own, the second of the affinity mask and on


class ThreadPool:
    """``address`` stays the same for the life of the process, also across fork; pass it to every ``run``."""

    def __init__(self) -> None:
        self._size = 8 * poolwords.WORDS
        self.address = map_pages(self._size)
        self._lock = threading.Lock()
        self._helpers = 0
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _reset(self) -> None:
        ctypes.memset(self.address, 0, self._size)
        block = (ctypes.c_int64 * poolwords.WORDS).from_address(self.address)
        block[poolwords.SPINS] = _SPINS
        block[poolwords.MAGIC] = poolwords.LAYOUT

    def _after_fork(self) -> None:
        """The child has none of the threads; the block may show a parent's call in flight."""
        self._lock = threading.Lock()
        self._helpers = 0
        self._reset()

    @property
    def helpers(self) -> int:
        """Helper threads alive."""
        return self._helpers

    def ensure(self, threads: int, image: NativeImage) -> None:
        """Have at least ``threads - 1`` helpers, started on ``image``'s worker loop where they are missing.

        Never raises: with fewer helpers, callers do more of the work themselves.
        """
        wanted = min(threads, poolwords.MAX_THREADS) - 1
        if wanted <= self._helpers:
            return
        with self._lock:
            if wanted <= self._helpers:
                return
            loop = image.worker()
            if loop is None:
                return
            image.pin()  # its code must outlive every bundle, for the threads never leave it
            for number in range(self._helpers, wanted):
                name = f"fusewright-{number + 1}"
                thread = threading.Thread(target=_help, args=(loop, self.address, number), name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # out of threads, or the interpreter is going down
                    return
                self._helpers += 1


def _help(loop: Callable[[int, int], None], address: int, number: int) -> None:
    """A helper's life. A caller that pins itself, to the first CPU say, keeps it to itself this way."""
    if os.environ.get(PIN) == "1":
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[(number + 1) % len(cpus)]})  # of this thread alone
    loop(address, number)


_pool: ThreadPool | None = None
_make = threading.Lock()


def pool() -> ThreadPool:
    """The process's pool, made at the first request."""
    global _pool
    if _pool is None:
        with _make:
            if _pool is None:
                _pool = ThreadPool()
    return _pool
