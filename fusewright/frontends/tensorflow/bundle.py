"""Tensor bundle: the checkpoint format of `.index` and `.data-00000-of-0000n`.

Owns the table format (LevelDB's, uncompressed) and reading tensors by key. Must not know graphs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core.dtypes import DType
from ...core.errors import ImportRefused
from ..formats.filebytes import read_file
from ..formats.limits import DEFAULT, ImportLimits
from . import schema
from .slices import Box, slice_key, stored_box, text_box
from .tensors import dtype_of, shape_of
from .wire import Message, Reader

MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_MAX_SHARDS = 10_000


def _crc_table() -> list[int]:
    table = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ 0x82F63B78 if c & 1 else c >> 1
        table.append(c)
    return table


_CRC = _crc_table()


def crc32c(data: bytes | memoryview) -> int:
    """The Castagnoli checksum, masked as LevelDB stores it."""
    c = 0xFFFFFFFF
    table = _CRC
    for byte in bytes(data):
        c = table[(c ^ byte) & 255] ^ (c >> 8)
    c ^= 0xFFFFFFFF
    return (((c >> 15) | (c << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class _Table:
    """Sorted string table: key -> value."""

    def __init__(self, data: memoryview, where: str, limits: ImportLimits) -> None:
        self.data, self.where, self.limits = data, where, limits
        self.reader = Reader(where, limits)
        if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
            raise ImportRefused("malformed", where, "not a tensor bundle index: its last bytes are wrong")
        footer = data[-_FOOTER:]
        at = self._handle(footer, 0)[1]
        index, _ = self._handle(footer, at)
        self.entries: dict[bytes, memoryview] = {}
        for _, handle in self._block(index):
            self.entries.update(self._block(self._handle(handle, 0)[0]))

    def _handle(self, data: memoryview, at: int) -> tuple[tuple[int, int], int]:
        offset, at = self.reader.varint(data, at)
        size, at = self.reader.varint(data, at)
        return (offset, size), at

    def _block(self, handle: tuple[int, int]) -> list[tuple[bytes, memoryview]]:
        offset, size = handle
        if offset + size + 5 > len(self.data) - _FOOTER:
            raise self.reader.refuse("a block of the index lies outside the file")
        whole = self.data[offset : offset + size + 1]
        stored = struct.unpack("<I", self.data[offset + size + 1 : offset + size + 5])[0]
        if crc32c(whole) != stored:
            raise self.reader.refuse("a block of the index has a wrong checksum")
        if whole[-1]:
            raise ImportRefused(
                "unsupported-format", self.where, "the index is compressed", "TensorFlow does not do so"
            )
        block = whole[:-1]
        if len(block) < 4:
            raise self.reader.refuse("a block of the index is too short")
        restarts = struct.unpack("<I", block[-4:])[0]
        end = len(block) - 4 - 4 * restarts
        if end < 0:
            raise self.reader.refuse("a block of the index is damaged")
        out: list[tuple[bytes, memoryview]] = []
        key, at = b"", 0
        while at < end:
            shared, at = self.reader.varint(block, at)
            unshared, at = self.reader.varint(block, at)
            length, at = self.reader.varint(block, at)
            if shared > len(key) or at + unshared + length > end or shared + unshared > self.limits.name_bytes:
                raise self.reader.refuse("an entry of the index is damaged")
            key = key[:shared] + bytes(block[at : at + unshared])
            out.append((key, block[at + unshared : at + unshared + length]))
            at += unshared + length
            self.limits.check("nodes", len(out), self.where, "the number of entries")
        return out


class Bundle:
    """The tensors of one checkpoint, read when asked for. Arrays are views of the file's bytes."""

    def __init__(self, prefix: Path, limits: ImportLimits = DEFAULT) -> None:
        self.prefix, self.limits, self.where = prefix, limits, f"{prefix.name}.index"
        self.reader = Reader(self.where, limits)
        table = _Table(read_file(prefix.with_name(self.where), limits), self.where, limits)
        header = self.reader.decode(schema.BUNDLE_HEADER, table.entries.pop(b"", memoryview(b"")))
        self.shards = header.get("num_shards", 1)
        if header.get("endianness", 0):
            raise ImportRefused("unsupported-format", self.where, "the checkpoint is big-endian")
        if not 0 < self.shards <= _MAX_SHARDS:
            raise ImportRefused("malformed", self.where, f"{self.shards} data files")
        self._entries = table.entries
        self._data: dict[int, memoryview] = {}

    @property
    def keys(self) -> list[str]:
        """Every key, as text."""
        return [k.decode("utf-8", "replace") for k in self._entries]

    def __contains__(self, key: str) -> bool:
        return key.encode() in self._entries

    def entry(self, key: str) -> Message:
        """The entry's message. Raises ImportRefused when there is none."""
        return self._entry(key.encode(), key)

    def _entry(self, key: bytes, where: str) -> Message:
        raw = self._entries.get(key)
        if raw is None:
            raise ImportRefused("weights", where, "the checkpoint has no tensor of this name")
        return self.reader.decode(schema.BUNDLE_ENTRY, raw)

    def read(self, key: str, part: str = "") -> tuple[np.ndarray, DType]:
        """(stored values, type) of a tensor, or of a slice of it (``6 4 0,2:-``); bf16 as bits."""
        entry = self.entry(key)
        kind, shape = self._type(entry, key)
        wanted = text_box(part, shape, key)
        if entry.get("slices"):
            boxes = [stored_box(s, shape, key) for s in entry["slices"]]
            if wanted in boxes:
                return self._stored(self._entry(slice_key(key, wanted), key), key)
            whole = self._joined(key, shape, kind, boxes)
        else:
            whole, _ = self._stored(entry, key)
        return whole[tuple(slice(a, a + n) for a, n in wanted)], kind

    def _joined(self, key: str, shape: tuple[int, ...], kind: DType, boxes: Sequence[Box]) -> np.ndarray:
        """The whole of a tensor that is stored in slices, which must cover it."""
        if sum(math.prod(n for _, n in box) for box in boxes) != math.prod(shape):
            raise ImportRefused("malformed", key, "the stored slices do not make up the tensor")
        pieces = [self._stored(self._entry(slice_key(key, box), key), key) for box in boxes]
        out = np.empty(shape, kind.np)
        for box, (piece, other) in zip(boxes, pieces, strict=True):
            if other is not kind or piece.shape != tuple(n for _, n in box):
                raise ImportRefused("malformed", key, "a stored slice has another type than its tensor")
            out[tuple(slice(a, a + n) for a, n in box)] = piece
        return out

    def _type(self, entry: Message, key: str) -> tuple[DType, tuple[int, ...]]:
        kind = dtype_of(entry.get("dtype", 0), key)
        known = shape_of(entry.get("shape", {}), key, self.limits)
        if known is None or any(d is None for d in known):
            raise ImportRefused("malformed", key, "a stored tensor has no shape")
        return kind, tuple(int(d) for d in known if d is not None)

    def _stored(self, entry: Message, key: str) -> tuple[np.ndarray, DType]:
        kind, shape = self._type(entry, key)
        data = self._shard(entry.get("shard", 0))
        offset, size = entry.get("offset", 0), entry.get("size", 0)
        if size != math.prod(shape) * kind.size:
            raise ImportRefused("malformed", key, f"{size} bytes for shape {shape} of {kind}")
        if offset < 0 or size < 0 or offset + size > len(data):
            raise ImportRefused("malformed", key, "the tensor lies outside its data file")
        return np.frombuffer(data[offset : offset + size], kind.np.newbyteorder("<")).reshape(shape), kind

    def _shard(self, number: int) -> memoryview:
        if not 0 <= number < self.shards:
            raise ImportRefused("malformed", self.where, f"data file {number} of {self.shards}")
        if number not in self._data:
            name = f"{self.prefix.name}.data-{number:05d}-of-{self.shards:05d}"
            self._data[number] = read_file(self.prefix.with_name(name), self.limits)
        return self._data[number]
