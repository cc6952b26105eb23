"""The container `model.fwb`: a zip of stored members, every byte of it accounted for.

Owns the layout, the writer's primitives, the reader over a map, and the hashes. Executes nothing and knows nothing of
plans. The reader rebuilds all headers from what it read and compares: one accepted spelling, no stray byte.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from ..core.errors import BundleNotFound, BundleRefused, SaveRefused
from ..core.manifest import BLOCK, Manifest

Buffer = bytes | bytearray | memoryview | mmap.mmap

WEIGHTS = "weights.bin"
MANIFEST = "manifest.json"
_TAG = b"fusewright-bundle/1 sha256:"
_TAIL = 22 + len(_TAG) + 64
_MAX_MEMBERS = 4096
_MAX_NAME = 200
_MAX_TEXT = 256 << 20
_SMALL = 4 << 20  # files up to here are read instead of mapped: no descriptor stays open, no truncation hurts later

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_TIME, _DATE = 0, (1 << 5) | 1  # 1980-01-01 00:00, the earliest that a zip can say
_PAD_ID = 0xD935  # the extra-field id that zipalign uses for alignment
_FULL = 0xFFFFFFFF


class Entry:
    """A member: ``name``, ``size``, ``crc`` of its data."""

    __slots__ = ("name", "size", "crc")

    def __init__(self, name: str, size: int, crc: int) -> None:
        self.name, self.size, self.crc = name, size, crc


class Layout:
    """All bytes of the file that are not member data: ``headers[i]`` at ``starts[i]``, data at ``offsets[i]``, then the
    directory ``tail`` at ``tail_at``."""

    __slots__ = ("headers", "starts", "offsets", "tail", "tail_at", "size")

    def __init__(self, entries: Sequence[Entry], manifest_hash: str) -> None:
        self.headers: list[bytes] = []
        self.starts: list[int] = []
        self.offsets: list[int] = []
        at, directory = 0, b""
        for e in entries:
            name = e.name.encode("ascii")
            large = e.size >= _FULL
            small = _FULL if large else e.size
            extra = struct.pack("<2H2Q", 1, 16, e.size, e.size) if large else b""
            align = 4096 if e.name == WEIGHTS else 64
            bare = at + _LOCAL.size + len(name) + len(extra) + 4
            pad = -bare % align
            extra += struct.pack("<2H", _PAD_ID, pad) + bytes(pad)
            version = 45 if large else 20
            head = (b"PK\3\4", version, 0, 0, _TIME, _DATE, e.crc, small, small, len(name), len(extra))
            self.starts.append(at)
            self.headers.append(_LOCAL.pack(*head) + name + extra)
            wide = [v for v in (e.size, e.size) if large] + [v for v in (at,) if v >= _FULL]
            more = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
            version = 45 if wide else 20
            row = (b"PK\1\2", version, version, 0, 0, _TIME, _DATE, e.crc, small, small, len(name), len(more))
            directory += _CENTRAL.pack(*row, 0, 0, 0, 0, min(at, _FULL)) + name + more
            at += len(self.headers[-1])
            self.offsets.append(at)
            at += e.size
        self.tail_at = at
        count = len(entries)
        end64 = b""
        if at >= _FULL:
            end64 = _END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), at)
            end64 += _LOCATOR.pack(b"PK\6\7", 0, at + len(directory), 1)
        comment = _TAG + manifest_hash.encode("ascii")
        end = _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), min(at, _FULL), len(comment))
        self.tail = directory + end64 + end + comment
        self.size = at + len(self.tail)


# -- hashes -----------------------------------------------------------------------------------------------------------
def sha256(data: Buffer) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def tree_hash(data: memoryview, threads: int, known: Sequence[bytes] = ()) -> str:
    """SHA-256 over the SHA-256 of each 1 MiB block (``BLOCK``), the blocks hashed by ``threads`` threads, at most one
    for each CPU; those of the first blocks may be ``known``."""
    count = (len(data) + BLOCK - 1) // BLOCK
    first = len(known)
    digests = [*known, *[b""] * (count - first)]
    lanes = max(1, min(threads, count - first, len(os.sched_getaffinity(0))))

    def work(lane: int) -> None:
        for i in range(first + lane, count, lanes):  # hashlib lets go of the GIL for blocks of this size
            digests[i] = hashlib.sha256(data[i * BLOCK : (i + 1) * BLOCK]).digest()

    helpers = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in range(1, lanes)]
    for t in helpers:
        t.start()
    work(0)
    for t in helpers:
        t.join()
    return hashlib.sha256(b"".join(digests)).hexdigest()


# -- writing ----------------------------------------------------------------------------------------------------------
def build(manifest: Manifest, members: Mapping[str, Sequence[Buffer]], threads: int = 1) -> memoryview:
    """The whole file in page-aligned memory. ``members`` maps a name to the pieces of its data, in file order;
    weights.bin is tree-hashed. Fills ``manifest.members``."""
    sizes = {name: sum(memoryview(p).nbytes for p in pieces) for name, pieces in members.items()}
    manifest.members = {name: {"size": size, "sha256": "0" * 64} for name, size in sizes.items()}
    if WEIGHTS in sizes:
        manifest.members[WEIGHTS] = {"size": sizes[WEIGHTS], "tree": "0" * 64}
    names = [MANIFEST, *members]
    sizes[MANIFEST] = len(manifest.to_bytes())  # hashes have one length: the size is known before they are
    draft = Layout([Entry(n, sizes[n], 0) for n in names], "0" * 64)
    block = _page_aligned(draft.size)
    for name, start in zip(names[1:], draft.offsets[1:]):
        at = start
        for piece in members[name]:
            flat = memoryview(piece)
            if not flat.nbytes:
                continue  # a view with an extent of 0 cannot be cast
            flat = flat.cast("B")
            block[at : at + flat.nbytes] = flat
            at += flat.nbytes
        data = block[start:at]
        if name == WEIGHTS:
            manifest.members[name]["tree"] = tree_hash(data, threads)
        else:
            manifest.members[name]["sha256"] = sha256(data)
    text = manifest.to_bytes()
    block[draft.offsets[0] : draft.offsets[0] + len(text)] = text
    entries = [Entry(n, sizes[n], crc32(block[o : o + sizes[n]])) for n, o in zip(names, draft.offsets)]
    final = Layout(entries, sha256(text))
    for start, header in zip(final.starts, final.headers):
        block[start : start + len(header)] = header
    block[final.tail_at :] = final.tail
    return block.toreadonly()


def _page_aligned(size: int) -> memoryview:
    """Zeroed private memory that starts on a page."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return memoryview(mmap.mmap(-1, max(size, 1), flags=flags))[:size]


def save_atomic(data: Buffer, path: str | os.PathLike[str]) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one, whatever happens between.

    Raises SaveRefused, after which the old file is as it was.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise SaveRefused(f"{type(path).__name__} is no path: pass the name of the .fwb file to write")
    try:
        _save(data, path)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte, or one that cannot be encoded
        why = getattr(error, "strerror", None) or str(error)
        raise SaveRefused(f"{_shown(path)}: cannot be written: {why}") from error


def _shown(path: str | bytes | os.PathLike[str]) -> str:
    """A path as text that can be printed: quoted where it holds what cannot."""
    text = os.fsdecode(path)
    return text if text.isprintable() and text else ascii(text)


def _save(data: Buffer, path: str | os.PathLike[str]) -> None:
    target = os.path.realpath(os.fsdecode(path))
    if _takes_bytes(target):
        with open(target, "wb", buffering=0) as f:
            _write(f.fileno(), data)
        return
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:100]}.{os.getpid()}-{threading.get_ident():x}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_fd)
    except OSError as e:  # some network file systems cannot sync a folder: the rename itself is done
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder_fd)


def _takes_bytes(target: str) -> bool:
    """A device or a pipe: bytes go into it, where a new file would take its place (``/dev/null``, for root)."""
    try:
        mode = os.stat(target).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write(fd: int, data: Buffer) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest[: 1 << 30]) :]


# -- reading ----------------------------------------------------------------------------------------------------------
class Container:
    """An opened bundle file: ``manifest``, and members by name. Nothing is trusted before its hash is checked."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.data, self.where = data, where
        entries, tag = self._directory()
        self._check_layout(entries, tag)
        text = bytes(self.raw(MANIFEST))
        if sha256(text) != tag:
            raise self.refused("the manifest does not match its hash: the file is damaged")
        self.manifest = Manifest.from_bytes(text)
        listed = {n: m["size"] for n, m in self.manifest.members.items()}
        there = {n: size for n, (_, size) in self._places.items() if n != MANIFEST}
        if listed != there:
            raise self.refused("the members of the file are not those that the manifest lists")
        if "sha256" in self.manifest.members.get(WEIGHTS, {}):
            raise self.refused("weights.bin has no tree hash")

    @classmethod
    def open(cls, source: str | os.PathLike[str] | Buffer) -> Container:
        """A path, or the bytes of a bundle. Raises BundleRefused for every fault, BundleNotFound for a missing file."""
        if isinstance(source, (bytes, bytearray, memoryview, mmap.mmap)):
            return cls(_aligned(memoryview(source).cast("B")), "bundle in memory")
        if not isinstance(source, (str, os.PathLike)):
            raise BundleRefused(
                f"{type(source).__name__} is neither a path nor the bytes of a bundle: pass the name of a .fwb file"
            )
        return cls(_map(os.fspath(source)), _shown(source))

    def refused(self, why: str) -> BundleRefused:
        """A refusal that names the file."""
        return BundleRefused(f"{self.where}: {why}")

    def _directory(self) -> tuple[list[Entry], str]:
        data, size = self.data, len(self.data)
        if size < _TAIL or bytes(data[:4]) != b"PK\3\4":
            raise self.refused("not a Fusewright bundle, or cut short")
        comment = bytes(data[size - len(_TAG) - 64 :])
        if not comment.startswith(_TAG):
            older = comment.startswith(_TAG.partition(b"/")[0])
            why = (
                "its container version is not 1: upgrade Fusewright"
                if older
                else "not a Fusewright bundle, or cut short"
            )
            raise self.refused(why)
        mark, *_, count, length, at, _ = _END.unpack(data[size - _TAIL : size - _TAIL + _END.size])
        end = size - _TAIL
        if mark != b"PK\5\6" or count > _MAX_MEMBERS:
            raise self.refused("the zip directory is damaged")
        if at == _FULL:
            end -= _LOCATOR.size + _END64.size
            at = _END64.unpack(data[end : end + _END64.size])[-1] if end >= 0 else -1
        if at < 0 or at + length != end:
            raise self.refused("the zip directory is damaged")
        entries = []
        for _ in range(count):
            if at + _CENTRAL.size > end:
                raise self.refused("the zip directory is damaged")
            row = _CENTRAL.unpack(data[at : at + _CENTRAL.size])
            name_length, more = row[10], row[11]
            name = bytes(data[at + _CENTRAL.size : at + _CENTRAL.size + name_length])
            at += _CENTRAL.size + name_length
            length = row[9]
            if length == _FULL and more >= 12:
                length = struct.unpack("<Q", data[at + 4 : at + 12])[0]
            at += more
            entries.append(Entry(self._name(name), length, row[7]))
        return entries, comment[len(_TAG) :].decode("ascii", "replace")

    def _name(self, raw: bytes) -> str:
        name = raw.decode("ascii", "replace")
        parts = name.split("/")
        plain = all(c.isalnum() or c in "._-/" for c in name) and name.isascii()
        if not plain or len(name) > _MAX_NAME or any(p in ("", ".", "..") for p in parts):
            raise self.refused(f"bad member name {name[:80]!r}")
        return name

    def _check_layout(self, entries: list[Entry], tag: str) -> None:
        if not entries or entries[0].name != MANIFEST:
            raise self.refused("the first member is not manifest.json")
        if len({e.name for e in entries}) != len(entries):
            raise self.refused("two members have one name")
        if not tag.isascii() or sum(e.size for e in entries) > len(self.data):
            raise self.refused("the zip directory is damaged")
        if any(e.size > _MAX_TEXT for e in entries if e.name.endswith(".json")):
            raise self.refused("a description in it is too long")
        want = Layout(entries, tag)
        same = want.size == len(self.data) and self.data[want.tail_at :] == want.tail
        if not same or any(self.data[s : s + len(h)] != h for s, h in zip(want.starts, want.headers)):
            raise self.refused("its zip headers are damaged, or another program rewrote it")
        self._places = {e.name: (o, e.size) for e, o in zip(entries, want.offsets)}

    def raw(self, name: str) -> memoryview:
        """The bytes of a member, not checked."""
        if name not in self._places:
            raise self.refused(f"member {name} is missing")
        at, size = self._places[name]
        return self.data[at : at + size]

    def read(self, name: str) -> bytes:
        """A private copy of a member's bytes, checked against the manifest."""
        copy = bytes(self.raw(name))
        if sha256(copy) != self.manifest.members[name].get("sha256"):
            raise self.refused(f"member {name} does not match its hash: the file is damaged")
        return copy

    def check_small(self) -> None:
        """Raises BundleRefused if any member but weights.bin is not what the manifest says."""
        for name, member in self.manifest.members.items():
            if "sha256" in member and sha256(self.raw(name)) != member["sha256"]:
                raise self.refused(f"member {name} does not match its hash: the file is damaged")

    def has(self, name: str) -> bool:
        """Is there such a member?"""
        return name in self._places

    def weights(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """weights.bin as read-only bytes over the map, not checked (see ``check_weights``)."""
        data = self.raw(WEIGHTS)
        return np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)

    def check_weights(self, threads: int, known: Sequence[bytes] = ()) -> None:
        """Raises BundleRefused if weights.bin is not what the manifest says; ``known`` as in ``tree_hash``."""
        if tree_hash(self.raw(WEIGHTS), threads, known) != self.manifest.members[WEIGHTS]["tree"]:
            raise self.refused("the weights do not match their hash: the file is damaged")


def _aligned(data: memoryview) -> memoryview:
    """``data`` itself where it starts on a page, else a copy that does."""
    if len(data) and np.frombuffer(data, np.uint8).ctypes.data % 4096 == 0 and data.readonly:
        return data
    copy = _page_aligned(len(data))
    copy[:] = data
    return copy.toreadonly()


def _map(path: str) -> memoryview:
    where = _shown(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # NONBLOCK: opening a pipe must not hang
    except FileNotFoundError:
        raise BundleNotFound(f"{where}: there is no such file") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BundleRefused(f"{where}: cannot be opened: {why}") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise BundleRefused(f"{where}: not a regular file")
        if info.st_size < _TAIL:
            raise BundleRefused(f"{where}: not a Fusewright bundle, or cut short")
        if info.st_size > _SMALL:
            return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        block, done = _page_aligned(info.st_size), 0
        while done < info.st_size:
            got = os.preadv(fd, [block[done:]], done)
            if got == 0:
                raise BundleRefused(f"{where}: cut short while it was read")
            done += got
        return block.toreadonly()
    finally:
        os.close(fd)
