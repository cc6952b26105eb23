"""Which kernel variant a contraction gets where rules alone do not decide: a table of measured choices.

Owns the records, the file format and the table that ships with the package. Must not know nodes, kernels or clocks.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from ...core.errors import CompileRefused
from ...core.winograd import TILES
from ...runtime.format import save_atomic

VERSION = 1
MOST_BYTES = 16 << 20
Tile = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """For one class of shapes on one instruction set; what is left out is decided by rules.

    ``winograd``: sides of tiles, fastest first, 0 for direct sums. ``tiles``: rows and vectors of the register tile,
    by the side of Winograd's tiles. ``grain``: by how much the least units of a thread's chunk are multiplied.
    """

    winograd: tuple[int, ...] = ()
    tiles: Mapping[int, Tile] = field(default_factory=dict)
    grain: int = 1

    def to_json(self) -> dict[str, Any]:
        """Only what is decided."""
        out: dict[str, Any] = {}
        if self.winograd:
            out["winograd"] = list(self.winograd)
        if self.tiles:
            out["tiles"] = {str(m): list(self.tiles[m]) for m in sorted(self.tiles)}
        return {**out, "grain": self.grain} if self.grain != 1 else out

    @classmethod
    def of(cls, raw: Any) -> Choice:
        """What ``to_json`` gave. Raises ValueError for anything else."""
        if not isinstance(raw, dict) or not raw.keys() <= {"winograd", "tiles", "grain"}:
            raise ValueError(f"{raw!r} is no choice")
        winograd = tuple(map(_side, raw.get("winograd", ())))
        tiles = {}
        for m, tile in dict(raw.get("tiles", {})).items():
            rows, vectors = tile
            tiles[_side(int(m))] = (_number(rows, 1, 64), _number(vectors, 1, 16))
        return cls(winograd, tiles, _number(raw.get("grain", 1), 1, 1 << 20))


class Choices:
    """Choices by instruction-set variant and class of shapes; never changed once made."""

    def __init__(self, table: Mapping[str, Mapping[str, Choice]] | None = None) -> None:
        self._table = {variant: dict(rows) for variant, rows in (table or {}).items()}

    def get(self, variant: str, site: str) -> Choice | None:
        """The choice for a class of shapes, if there is one. One for any batch holds where none is for this batch."""
        return _find(self._table.get(variant, {}), site)

    def winograd(self, site: str, most: int) -> int | None:
        """The side of the fastest tiles, at most ``most``. All variants of a bundle compute one graph, so the first one
        that has measured the site decides."""
        for rows in self._table.values():
            found = _find(rows, site)
            for m in found.winograd if found is not None else ():
                if m <= most:
                    return m
        return None

    def over(self, other: Choices) -> Choices:
        """Both tables; what this one has goes before ``other``'s."""
        names = [*self._table, *(n for n in other._table if n not in self._table)]
        return Choices({n: {**other._table.get(n, {}), **self._table.get(n, {})} for n in names})

    def __len__(self) -> int:
        return sum(map(len, self._table.values()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choices) and self._table == other._table

    def __hash__(self) -> int:
        return hash(self.to_text())

    def to_text(self) -> str:
        """One line per class of shapes, in order."""
        rows = []
        for variant in sorted(self._table):
            sites = self._table[variant]
            inner = ",\n".join(f"  {json.dumps(s)}: {json.dumps(sites[s].to_json())}" for s in sorted(sites))
            rows.append(f" {json.dumps(variant)}: {{\n{inner}\n }}")
        return f'{{"version": {VERSION}, "choices": {{\n' + ",\n".join(rows) + "\n}}\n"

    @classmethod
    def of(cls, text: str, where: str) -> Choices:
        """The table of a file's ``text``. Raises CompileRefused that names ``where``."""
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict) or raw.keys() != {"version", "choices"}:
                raise ValueError("it has other keys than version and choices")
            if raw["version"] != VERSION:
                raise ValueError(f"its version is {raw['version']!r}, this Fusewright reads {VERSION}")
            return cls({v: {s: Choice.of(c) for s, c in rows.items()} for v, rows in raw["choices"].items()})
        except (ValueError, TypeError, AttributeError, RecursionError) as e:
            raise CompileRefused(f"{where} is no table of choices: {e}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to ``path``, whole or not at all. Raises SaveRefused."""
        save_atomic(self.to_text().encode(), path)


@cache
def shipped() -> Choices:
    """The table of the package: where an entry is, it was measured to be faster than what the rules say."""
    return Choices.of(files(__package__).joinpath("choices.json").read_text("ascii"), "choices.json")


def read(path: str | os.PathLike[str], new: bool = False) -> Choices:
    """The table in a file; where it may be ``new``, an absent one is empty. Raises CompileRefused."""
    if not isinstance(path, (str, os.PathLike)):
        raise CompileRefused(f"choices is the path of a file, not {path!r}")
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as e:
        if new and isinstance(e, FileNotFoundError) and os.path.isdir(os.path.dirname(os.path.abspath(path))):
            return Choices()
        raise CompileRefused(f"{where}: cannot be read: {getattr(e, 'strerror', None) or e}") from None
    if len(data) > MOST_BYTES:
        raise CompileRefused(f"{where} is no table of choices: it is longer than {MOST_BYTES} bytes")
    return Choices.of(data.decode("utf-8", "replace"), where)


def _side(value: Any) -> int:
    if type(value) is not int or value not in (0, *TILES):
        raise ValueError(f"{value!r} is no side of Winograd's tiles, which is one of {(0, *TILES)}")
    return value


_BATCH = re.compile(r"(?<= groups )([0-9]+) [0-9]+(?=x)")


def _find(rows: Mapping[str, Choice], site: str) -> Choice | None:
    """The choice for ``site``, else the one for a batch that is free: tiles lie within one image."""
    found = rows.get(site)
    return rows.get(_BATCH.sub(r"\1 ?", site)) if found is None else found


def _number(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r} is not a number from {low} to {high}")
    return value
