"""What rounding the operands of a contraction to bfloat16 adds to its error bound. Defines no ops."""

from __future__ import annotations

import numpy as np

from ...core.dtypes import F32
from ..opdef import BoundContext
from ._common import Arrays, finite

F32_UNIT = float(np.finfo(F32.np).eps) / 2
UNIT = 2.0**-8  # half the distance from 1 to the next bfloat16
LARGEST = (2.0 - UNIT) * 2.0**127  # from here on numbers round to infinity
SMALLEST = 2.0**-126  # what is smaller may count as zero, of operands and of sums


def entered(a: Arrays, e: Arrays, bc: BoundContext) -> list[np.ndarray]:
    """The errors ``e`` of the operands ``a`` after rounding, if the run rounds at all: that of float64 does not."""
    if bc.u != F32_UNIT:
        return [np.broadcast_to(err, x.shape) for x, err in zip(a, e, strict=True)]
    return [_rounded(x, np.broadcast_to(err, x.shape)) for x, err in zip(a, e, strict=True)]


def _rounded(x: np.ndarray, err: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        size = finite(x)
        most = size + err
        # A number that keeps away from the least normal one is rounded in proportion; else it may be lost.
        lost = np.where((size - err < SMALLEST) & (most > 0), SMALLEST, 0.0)
        return np.where(most >= LARGEST, np.inf, err + UNIT * most + lost)


def flushed(total: np.ndarray, k: int, bc: BoundContext) -> np.ndarray:
    """The bound ``total`` of a sum of ``k`` products, for sums whose small intermediate results may count as zero."""
    return total + 2 * k * SMALLEST if bc.u == F32_UNIT else total
