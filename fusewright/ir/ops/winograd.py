"""Which convolutions Winograd's tiles can compute, and what they add to the error bound. Defines no ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.dtypes import F32
from ...core.winograd import TAPS, Matrix, absolute, input_matrix, kernel_matrix, output_matrix
from ..opdef import Attrs, BoundContext
from ._common import Arrays, finite, gamma
from .bf16 import SMALLEST, UNIT

F32_UNIT = float(np.finfo(F32.np).eps) / 2
STRICT = 2  # the tiles that numerics="strict" admits


def applies(kernel: Sequence[Any], attrs: Attrs) -> bool:
    """A convolution that Winograd's kernels may compute: 3 x 3, stride and dilation 1, one group."""
    return (
        len(kernel) == 4
        and tuple(kernel[:2]) == (TAPS, TAPS)
        and all(v == 1 for v in (*attrs["strides"], *attrs["dilations"], attrs["groups"]))
    )


def widened(
    total: np.ndarray, m: int, a: Arrays, e: Arrays, out: np.ndarray, bc: BoundContext, rounds: bool = False
) -> np.ndarray:
    """The bound ``total`` of the direct sums, widened to that of F(m x m, 3 x 3); ``rounds``: what is multiplied is
    rounded to bfloat16 first.

    a, e and ``out`` are channels-last. Rounding comes to gamma times |A^T| ((|G| |g| |G^T|) * (|B^T| |d| |B|)) |A| per
    tile (Higham, Accuracy and Stability of Numerical Algorithms, on fast matrix products). Every result that is not
    finite is that of the direct sums.
    """
    x, w = a
    if bc.u != F32_UNIT or not x.size or not w.size:
        return total
    ex, ew = np.broadcast_to(e[0], x.shape), np.broadcast_to(e[1], w.shape)
    inner, outer = absolute(input_matrix(m)), absolute(output_matrix(m))
    with np.errstate(all="ignore"):
        tiles = _tiles(finite(x) + ex, m, bc.attrs["pads"])
        v = np.einsum("pi,qj,nyxijc->nyxpqc", inner, inner, tiles, optimize=True)
        g = absolute(kernel_matrix(m))
        u = np.einsum("pi,qj,ijck->pqck", g, g, finite(w) + ew, optimize=True)
        roundings = w.shape[2] + 1 + 2 * sum(map(_roundings, (input_matrix(m), kernel_matrix(m), output_matrix(m))))
        # Underflow: of a product, and of a transformed weight, which meets all of its inputs.
        lost = 8 * bc.eta * (v.sum(-1, keepdims=True) + w.shape[2])
        unit = gamma(roundings, bc.acc)
        if rounds:  # both factors; what is smaller than a normal number may count as zero, of factors and of sums
            unit = (1 + unit) * (1 + UNIT) ** 2 - 1
            lost = lost + SMALLEST * (2 * w.shape[2] + (1 + UNIT) * (v.sum(-1, keepdims=True) + u.sum(2)))
        products = unit * np.einsum("nyxpqc,pqck->nyxpqk", v, u, optimize=True) + lost
        made = np.einsum("ap,bq,nyxpqk->nyaxbk", outer, outer, products, optimize=True)
        n, rows, _, columns, _, k = made.shape
        rounding = made.reshape(n, rows * m, columns * m, k)[:, : out.shape[1], : out.shape[2]]
        # Where the largest number lies within the rounding, the two ways may part over an infinity.
        near = np.abs(finite(out) - bc.top) <= rounding
        inexact = bool(np.any(ex) or np.any(ew))
        both = total + rounding if inexact else np.maximum(total, rounding)
        return np.where(near, np.inf, np.where(np.isfinite(out), both, total))


def _roundings(matrix: Matrix) -> int:
    """The most roundings that a term goes through on one side of a transform; inexact factors count two."""
    sums = max(sum(f != 0 for f in row) - 1 for row in matrix)
    return sums + 2 * any(f and np.frexp(abs(f))[0] != 0.5 for row in matrix for f in row)


def _tiles(x: np.ndarray, m: int, pads: Sequence[tuple[int, int]]) -> np.ndarray:
    """[N, H, W, C] as overlapping tiles [N, rows, columns, m + 2, m + 2, C], padded with zeros."""
    side, high = m + TAPS - 1, []
    for size, (low, top) in zip(x.shape[1:3], pads, strict=True):
        count = -(-(size + low + top - TAPS + 1) // m)
        high.append(max(count * m + TAPS - 1 - size - low, 0))
    padded = np.pad(x, ((0, 0), (pads[0][0], high[0]), (pads[1][0], high[1]), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))[:, ::m, ::m]
    return np.moveaxis(views, 3, -1)
