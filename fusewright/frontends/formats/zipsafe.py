"""Zip archives from untrusted files.

Owns member checks (names, links, encryption, duplicates, ratio) and inflation that counts bytes.
Must not know what the members mean.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from typing import cast

from ...core.errors import ImportRefused
from .filebytes import Stream
from .limits import DEFAULT, ImportLimits


class ZipArchive:
    """The members of a zip, checked as a whole when opened. ``read`` gives a view for stored members."""

    def __init__(self, data: memoryview, where: str, limits: ImportLimits = DEFAULT) -> None:
        self._data, self._where, self._limits = data, where, limits
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            infos = zipfile.ZipFile(cast("str", Stream(data))).infolist()
        except NotImplementedError as e:
            # The directory asks for a later version of the format. Encrypted or oddly packed members never get so far:
            # zipfile refuses them where it opens one, and members are read here.
            raise ImportRefused("unsupported-format", where, str(e)) from None
        except (zipfile.BadZipFile, ValueError, OSError, struct.error, OverflowError, IndexError) as e:
            raise ImportRefused("malformed", where, f"not a readable zip archive: {e}") from None
        limits.check("zip_members", len(infos), where, "the number of members")
        total = 0
        for info in infos:
            total += info.file_size
            self._admit(info)
        limits.check("zip_total", total, where, "the inflated size")

    def _admit(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        at = f"{self._where}!{name[:80]!r}"
        self._limits.check_name(name, at)
        parts = name.rstrip("/").split("/")
        if name.startswith("/") or "\\" in name or ":" in parts[0] or any(p in ("", ".", "..") for p in parts):
            raise ImportRefused("unsafe-path", at, "the member's name is not a plain relative path")
        if name in self._members:
            raise ImportRefused("malformed", at, "the member appears twice")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ImportRefused("unsafe-path", at, "the member is a symbolic link")
        if info.flag_bits & 1:
            raise ImportRefused("unsupported-format", at, "the member is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImportRefused("unsupported-format", at, f"compression method {info.compress_type} is not supported")
        if info.file_size > self._limits.zip_ratio * max(info.compress_size, 1) and info.file_size > (1 << 16):
            raise ImportRefused(
                "limit",
                at,
                f"inflates {info.file_size // max(info.compress_size, 1)}-fold, over the limit "
                f"zip_ratio={self._limits.zip_ratio}",
                "raise ImportLimits.zip_ratio",
            )
        self._members[name] = info

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> memoryview:
        """The member's bytes, checked against its size and CRC."""
        at = f"{self._where}!{name}"
        info = self._members.get(name)
        if info is None:
            raise ImportRefused("malformed", self._where, f"the archive has no member {name!r}")
        head = self._data[info.header_offset : info.header_offset + 30]
        if len(head) < 30 or bytes(head[:4]) != b"PK\x03\x04":
            raise ImportRefused("malformed", at, "the member's local header is damaged")
        name_size, extra_size = struct.unpack("<HH", head[26:30])
        start = info.header_offset + 30 + name_size + extra_size
        packed = self._data[start : start + info.compress_size]
        if len(packed) != info.compress_size:
            raise ImportRefused("malformed", at, "the member passes the end of the file")
        if info.compress_type == zipfile.ZIP_STORED:
            out = packed
        else:
            inflater = zlib.decompressobj(-15)
            try:
                # max_length bounds the allocation by the size that the ratio check admitted.
                out = memoryview(inflater.decompress(packed, info.file_size + 1))
            except zlib.error as e:
                raise ImportRefused("malformed", at, f"cannot be inflated: {e}") from None
        if len(out) != info.file_size or zlib.crc32(out) != info.CRC:
            raise ImportRefused("malformed", at, "the member's size or checksum is wrong")
        return out
