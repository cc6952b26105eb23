"""Compiled kernels kept on disk, private to the user.

Owns where entries live, how they are checked and how they are written.
Must not know what an entry means: key text in, bytes out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import tempfile
from pathlib import Path

_MAGIC = b"FWK1"


def _default_folder() -> Path | None:
    setting = os.environ.get("FUSEWRIGHT_CACHE", "")
    if setting == "off":
        return None
    if setting:
        return Path(setting)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "fusewright"
    try:
        return Path.home() / ".cache" / "fusewright"
    except RuntimeError:  # no home folder
        return None


def _private(folder: Path) -> bool:
    """Whether only this user can have put anything into ``folder``."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


class Cache:
    """A folder of entries. A missing, foreign or damaged entry, or an unusable folder, is a miss, never an error."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError:
                self.folder = None
            if self.folder is not None and not _private(folder):
                self.folder = None

    @classmethod
    def default(cls) -> Cache:
        return cls(_default_folder())

    def _path(self, key: bytes) -> Path | None:
        return None if self.folder is None else self.folder / f"{hashlib.sha256(key).hexdigest()}.kernel"

    def get(self, key: str) -> bytes | None:
        """The payload stored under exactly this key text, or None."""
        wanted = key.encode()
        path = self._path(wanted)
        if path is None:
            return None
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                return None
            try:
                data = file.read()
            except OSError:
                return None
        if len(data) < 48 or data[:4] != _MAGIC:
            return None
        key_size, size = struct.unpack_from("<IQ", data, 4)
        if len(data) != 48 + key_size + size or data[48 : 48 + key_size] != wanted:
            return None
        payload = data[48 + key_size :]
        return payload if hashlib.sha256(payload).digest() == data[16:48] else None

    def put(self, key: str, payload: bytes) -> None:
        """Store atomically; a full disk or a vanished folder is ignored."""
        text = key.encode()
        path = self._path(text)
        if path is None:
            return
        head = _MAGIC + struct.pack("<IQ", len(text), len(payload)) + hashlib.sha256(payload).digest()
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        except OSError:
            return
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(head + text + payload)
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
