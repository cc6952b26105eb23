"""The transforms of Winograd's minimal filtering F(m x m, 3 x 3): matrices, and what they make of arrays.

Owns the matrices for m = 2 and 4 (points 0, +-1, +-2 and infinity; Lavin and Gray, arXiv 1509.09308) and the order in
which a row is summed. Must not know kernels, layouts or files.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Matrix = tuple[tuple[float, ...], ...]

TAPS = 3

# y = A^T [(G g G^T) * (B^T d B)] A for one tile d of (m + 2) x (m + 2) inputs and a kernel g of 3 x 3.
_BT: dict[int, Matrix] = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}  # fmt: skip
_G: dict[int, Matrix] = {
    2: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
    ),
}  # fmt: skip
_AT: dict[int, Matrix] = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
TILES = tuple(_BT)
ROUNDED = 2  # the tiles whose products may be of bfloat16: the sums of larger ones magnify what rounding does


def input_matrix(m: int) -> Matrix:
    """B^T: what is made of a tile of inputs."""
    return _BT[m]


def output_matrix(m: int) -> Matrix:
    """A^T: what makes a tile of results."""
    return _AT[m]


def kernel_matrix(m: int) -> Matrix:
    """G: what is made of the kernel."""
    return _G[m]


@cache
def terms(row: tuple[float, ...]) -> tuple[tuple[int, float], ...]:
    """(index, factor) of a row's terms in the order of summing: those with factor 1 first, then -1, then others."""
    kinds = {1.0: 0, -1.0: 1}
    present = [(i, float(f)) for i, f in enumerate(row) if f]
    return tuple(sorted(present, key=lambda t: kinds.get(t[1], 2)))


_CHUNK = 8192  # elements of a tap that are transformed at a time: all that belongs to them stays in the cache


def transform_kernel(w: Array, m: int, out: Array) -> Array:
    """``G g G^T`` over the first two axes of ``w`` [3, 3, ...] into ``out`` [m + 2, m + 2, ...] of the same dtype."""
    rest = w.shape[2:]
    size = int(np.prod(rest, dtype=np.int64))
    axis = next((i for i, n in enumerate(rest) if n > 1), None)
    if size > _CHUNK and axis is not None:
        step = max(1, _CHUNK * rest[axis] // size)
        for start in range(0, rest[axis], step):
            at = (slice(None),) * (axis + 2) + (slice(start, start + step),)
            transform_kernel(w[at], m, out[at])
        return out
    with np.errstate(all="ignore"):
        half = np.empty((m + TAPS - 1, *w.shape[1:]), w.dtype)
        _along(w, m, half)
        _along(half.swapaxes(0, 1), m, out.swapaxes(0, 1))
    return out


def _along(w: Array, m: int, out: Array) -> None:
    """``G`` applied to the first axis of ``w``. Rows that differ in signs only share their sums."""
    kind = w.dtype.type
    even, odd = np.empty(w.shape[1:], w.dtype), np.empty(w.shape[1:], w.dtype)
    for k, row in enumerate(_G[m]):
        first, second, third = row
        if (second, third) == (0, 0) or (first, second) == (0, 0):
            np.multiply(w[0 if first else 2], kind(first or third), out=out[k])
        elif second * _G[m][k - 1][1] < 0 and (first, third) == (_G[m][k - 1][0], _G[m][k - 1][2]):
            np.subtract(even, odd, out=out[k])
        else:
            np.multiply(w[0], kind(first), out=even)
            np.multiply(w[2], kind(third), out=odd)
            even += odd
            np.multiply(w[1], kind(second), out=odd)
            np.add(even, odd, out=out[k])


def absolute(matrix: Matrix) -> Array:
    """The matrix of absolute values, for error bounds."""
    return np.abs(np.asarray(matrix, np.float64))
