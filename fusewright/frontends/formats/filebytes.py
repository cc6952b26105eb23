"""Reading a source once.

Owns the one read of a file's bytes and a read-only stream over a slice of them. Must not know any format.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ...core.errors import ImportRefused
from .limits import DEFAULT, ImportLimits


def read_file(path: str | os.PathLike[str], limits: ImportLimits = DEFAULT) -> memoryview:
    """The bytes of a regular file. Arrays of the imported graph are views of them, so they are read exactly once."""
    where = Path(path).name
    try:
        with open(path, "rb") as f:
            info = os.fstat(f.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ImportRefused("not-a-file", where, "the source is not a regular file")
            limits.check("file_bytes", info.st_size, where, "the file")
            return memoryview(f.read(info.st_size))
    except OSError as e:
        raise ImportRefused("unreadable", where, f"cannot be read: {e.strerror or e}") from None


class Stream:
    """A seekable read-only binary stream over bytes, without copying them; reads never pass the end."""

    closed = False

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self.data))[whence]
        if self._at < 0:
            raise ValueError("seek before the start")
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        start = min(self._at, len(self.data))
        stop = len(self.data) if size is None or size < 0 else min(start + size, len(self.data))
        self._at = stop
        return bytes(self.data[start:stop])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        return None
