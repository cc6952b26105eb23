"""Layouts of stored constants with exact inverses.

Owns the three moves (reshape, pad with zeros, transpose), their inverse and their JSON form. Must not know why a
kernel wants a layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import BundleRefused

Array = np.ndarray[Any, Any]
Move = tuple[str, tuple[int, ...]]


class Layout:
    """Moves applied in order to an array of ``shape``: ("reshape", shape), ("pad", shape), ("transpose", perm).

    ``pad`` appends zeros up to the given shape; ``unpack(pack(a))`` is ``a``, bit for bit.
    """

    __slots__ = ("shape", "moves")

    def __init__(self, shape: Sequence[int], moves: Sequence[Move] = ()) -> None:
        self.shape = tuple(shape)
        self.moves = tuple((kind, tuple(int(x) for x in arg)) for kind, arg in moves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (self.shape, self.moves) == (other.shape, other.moves)

    def __hash__(self) -> int:
        return hash((self.shape, self.moves))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape before each move, and after the last."""
        out = [self.shape]
        for kind, arg in self.moves:
            out.append(tuple(out[-1][p] for p in arg) if kind == "transpose" else arg)
        return out

    @property
    def packed_shape(self) -> tuple[int, ...]:
        return self.shapes[-1]

    def pack(self, array: Array) -> Array:
        """A C-contiguous array in this layout."""
        for kind, arg in self.moves:
            if kind == "reshape":
                array = array.reshape(arg)
            elif kind == "transpose":
                array = array.transpose(arg)
            elif array.shape != arg:
                padded = np.zeros(arg, array.dtype)
                padded[tuple(slice(0, n) for n in array.shape)] = array
                array = padded
        return np.ascontiguousarray(array)

    def unpack(self, packed: Array) -> Array:
        """The array that ``pack`` was given."""
        shapes = self.shapes
        array = packed.reshape(shapes[-1])
        for (kind, arg), before in zip(reversed(self.moves), reversed(shapes[:-1]), strict=True):
            if kind == "reshape":
                array = array.reshape(before)
            elif kind == "transpose":
                array = array.transpose(np.argsort(arg))
            else:
                array = array[tuple(slice(0, n) for n in before)]
        return array

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON data."""
        return {"shape": list(self.shape), "moves": [[kind, list(arg)] for kind, arg in self.moves]}

    @classmethod
    def from_json(cls, raw: Any) -> Layout:
        """Read and check: every move fits what came before. Raises BundleRefused."""
        try:
            layout = cls(raw["shape"], [(kind, arg) for kind, arg in raw["moves"]])
            at = layout.shape
            for kind, arg in layout.moves:
                if any(not 0 <= x < 1 << 40 for x in arg) or len(arg) > 32:
                    raise ValueError(arg)
                if kind == "reshape":
                    ok = _count(arg) == _count(at)
                elif kind == "transpose":
                    ok = sorted(arg) == list(range(len(at)))
                else:
                    ok = kind == "pad" and len(arg) == len(at) and all(a >= b for a, b in zip(arg, at, strict=True))
                if not ok:
                    raise ValueError((kind, arg))
                at = tuple(at[p] for p in arg) if kind == "transpose" else arg
        except (KeyError, TypeError, ValueError) as error:
            raise BundleRefused(f"a constant's layout is malformed: {error}") from None
        return layout


def _count(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
