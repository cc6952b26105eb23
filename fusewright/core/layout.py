"""Layouts of constants: as they are stored, with exact inverses, and as kernels want them.

Owns the moves (reshape, pad with zeros, transpose; Winograd's transform and rounding to bfloat16, which have no
inverse), the inverse and the JSON form. Must not know why a kernel wants a layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .dtypes import f32_to_bf16
from .errors import BundleRefused
from .winograd import TAPS, TILES, transform_kernel

Array = np.ndarray[Any, Any]
Move = tuple[str, tuple[int, ...]]
New = Callable[[tuple[int, ...], Any], Array]
_DERIVES = ("winograd", "bf16")  # moves without an inverse
_MOST = 32  # axes, and moves, of a layout in a file


class Layout:
    """Moves applied in order to an array of ``shape``: ("reshape", shape), ("pad", shape), ("transpose", perm).

    ``pad`` appends zeros up to the given shape; ``unpack(pack(a))`` is ``a``, bit for bit. ("winograd", (m,)) makes
    m + 2 of each of the first two axes, which are 3 long; ("bf16", ()) makes bfloat16 patterns (uint16) of float32:
    such a layout is ``derived`` and cannot be unpacked.
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
            out.append(_after(kind, arg, out[-1]))
        return out

    @property
    def derived(self) -> bool:
        """There is no way back: what is stored must be another layout."""
        return any(kind in _DERIVES for kind, _ in self.moves)

    @property
    def rounds(self) -> bool:
        """What it makes are bfloat16 patterns of 2 bytes, of float32 elements."""
        return any(kind == "bf16" for kind, _ in self.moves)

    @property
    def packed_shape(self) -> tuple[int, ...]:
        return self.shapes[-1]

    def pack(self, array: Array) -> Array:
        """A C-contiguous array in this layout."""
        return _moved(array, self.moves, np.empty)

    def repack(self, packed: Array, stored: Layout, new: New = np.empty) -> Array:
        """This layout of the array that lies in ``packed`` as ``stored`` says, over ``packed`` where that is possible,
        else in room that ``new(shape, dtype)`` makes. Moves that both begin with are not undone and done again."""
        same = len(stored.moves)
        if self.moves[:same] == stored.moves:
            return _moved(packed.reshape(stored.packed_shape), self.moves[same:], new)
        return _moved(stored.unpack(packed), self.moves, new)

    def unpack(self, packed: Array) -> Array:
        """The array that ``pack`` was given. Raises ValueError for a derived layout."""
        if self.derived:
            raise ValueError("a derived layout cannot be unpacked")
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
            layout = cls(_numbers(raw["shape"]), [(kind, _numbers(arg)) for kind, arg in raw["moves"]])
            at = layout.shape
            if len(layout.moves) > _MOST:
                raise ValueError(f"{len(layout.moves)} moves")
            for kind, arg in layout.moves:
                if kind == "reshape":
                    ok = _count(arg) == _count(at)
                elif kind == "transpose":
                    ok = sorted(arg) == list(range(len(at)))
                elif kind == "winograd":
                    ok = len(arg) == 1 and arg[0] in TILES and at[:2] == (TAPS, TAPS)
                elif kind == "bf16":
                    ok = not arg and sum(k == "bf16" for k, _ in layout.moves) == 1
                else:
                    ok = kind == "pad" and len(arg) == len(at) and all(a >= b for a, b in zip(arg, at, strict=True))
                if not ok:
                    raise ValueError((kind, arg))
                at = _after(kind, arg, at)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleRefused(f"a constant's layout is malformed: {error}") from None
        return layout


def _moved(array: Array, moves: Sequence[Move], new: New) -> Array:
    for at, (kind, arg) in enumerate(moves):
        if kind == "reshape":
            array = array.reshape(arg)
        elif kind == "transpose":
            array = array.transpose(arg)
        elif kind == "bf16":
            array = _rounded(array, new)
        elif kind == "winograd":
            shape, rest = _after(kind, arg, array.shape), moves[at + 1 :]
            if any(k != "transpose" for k, _ in rest):
                array = transform_kernel(array, arg[0], new(shape, array.dtype))
                continue
            # Straight to where it belongs: the room, seen through the transposes that follow.
            last = Layout(shape, rest)
            room = new(last.packed_shape, array.dtype)
            transform_kernel(array, arg[0], last.unpack(room))
            return room
        elif array.shape != arg:
            padded = new(arg, array.dtype)
            padded[...] = 0
            padded[tuple(slice(0, n) for n in array.shape)] = array
            array = padded
    if array.flags.c_contiguous:
        return array
    room = new(array.shape, array.dtype)
    room[...] = array
    return room


_CHUNK = 1 << 15  # elements that are rounded at a time: all that belongs to them stays in the cache


def _rounded(array: Array, new: New) -> Array:
    """float32 elements as bfloat16 patterns."""
    out = new(array.shape, np.uint16)
    flat, target = np.ascontiguousarray(array).reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        target[start : start + _CHUNK] = f32_to_bf16(flat[start : start + _CHUNK])
    return out


def _after(kind: str, arg: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a move makes of ``shape``."""
    if kind == "bf16":
        return shape
    if kind == "transpose":
        return tuple(shape[p] for p in arg)
    return (arg[0] + TAPS - 1, arg[0] + TAPS - 1, *shape[2:]) if kind == "winograd" else arg


def _numbers(raw: Sequence[Any]) -> tuple[int, ...]:
    """Extents or axes from a file. Raises ValueError."""
    if len(raw) > _MOST or any(type(x) is not int or not 0 <= x < 1 << 40 for x in raw):
        raise ValueError(f"numbers {str(raw)[:80]}")
    return tuple(raw)


def _count(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
