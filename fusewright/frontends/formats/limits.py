"""Bounds that every importer checks before it allocates.

Owns the numbers and the refusal that prints them. Must not know any file format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...core.errors import ImportRefused

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class ImportLimits:
    """What a model file may ask for. Sizes are bytes; every refusal names the limit that it passed."""

    file_bytes: int = 8 * GIB
    zip_members: int = 20_000
    zip_ratio: int = 200
    zip_total: int = 16 * GIB
    json_bytes: int = 64 * MIB
    json_depth: int = 200
    nodes: int = 1_000_000
    attributes: int = 1_000
    name_bytes: int = 4_096
    rank: int = 32
    extent: int = 1 << 40
    hdf5_ratio: int = 1_100
    hdf5_depth: int = 64
    hdf5_objects: int = 1_000_000
    constant_floor: int = 64 * MIB
    constant_ratio: int = 4

    def check(self, limit: str, value: int, where: str, what: str) -> None:
        """Refuse when ``value`` passes the limit of that name."""
        bound = getattr(self, limit)
        if value > bound:
            raise ImportRefused(
                "limit", where, f"{what} is {value}, over the limit {limit}={bound}", f"raise ImportLimits.{limit}"
            )

    def check_shape(self, shape: Iterable[int], itemsize: int, file_bytes: int, where: str) -> int:
        """The bytes that an array of this shape takes, or a refusal. Products are exact Python ints."""
        dims = tuple(int(d) for d in shape)
        self.check("rank", len(dims), where, "the rank")
        total = itemsize
        for d in dims:
            if d < 0:
                raise ImportRefused("malformed", where, f"negative extent {d}")
            self.check("extent", d, where, "an extent")
            total *= d
        bound = max(self.constant_floor, self.constant_ratio * file_bytes)
        if total > bound:
            raise ImportRefused(
                "limit",
                where,
                f"the array of shape {dims} takes {total} bytes, over the {bound} allowed for this file",
                "raise ImportLimits.constant_ratio or .constant_floor",
            )
        return total

    def check_name(self, name: str, where: str) -> None:
        """Refuse names that are too long, hold a NUL or cannot be encoded."""
        try:
            size = len(name.encode("utf-8"))
        except UnicodeEncodeError:
            raise ImportRefused("malformed", where, "a name is not valid Unicode") from None
        self.check("name_bytes", size, where, "a name's length")
        if "\0" in name:
            raise ImportRefused("malformed", where, "a name holds a NUL character")


DEFAULT = ImportLimits()
