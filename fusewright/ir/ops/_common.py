"""Helpers that the op families share: shape algebra, dtype checks, bounds. Must not define ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.dims import Extent, compare_eq
from ...core.dtypes import DType
from ...core.errors import TypeRefused
from ..opdef import BoundContext
from ..types import Shape, TensorType

Arrays = Sequence[np.ndarray]
UNIT_F64, TOP_F32 = 2.0**-53, 3.4028234663852886e38


def same(a: Extent, b: Extent, what: str) -> Extent:
    """The common extent of ``a`` and ``b``. Raises TypeRefused unless they are provably equal."""
    if a == b or compare_eq(a, b) is True:
        return a if isinstance(a, int) else b
    raise TypeRefused(f"{what}: {a} and {b} are not known to be equal")


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The NumPy broadcast of symbolic shapes. Raises TypeRefused where two extents are not known to fit."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Extent] = []
    for axis in range(-rank, 0):
        dim: Extent = 1
        for s in shapes:
            if -axis > len(s) or s[axis] == 1:
                continue
            dim = s[axis] if dim == 1 else same(dim, s[axis], f"axis {axis} does not broadcast")
        out.append(dim)
    return tuple(out)


def one_dtype(types: Sequence[TensorType]) -> DType:
    """The dtype that all operands share. Raises TypeRefused: nothing promotes silently."""
    first = types[0].dtype
    for t in types[1:]:
        if t.dtype is not first:
            raise TypeRefused(f"operands have different types {first} and {t.dtype}; insert a cast")
    return first


def axis_of(axis: Any, rank: int) -> int:
    """A normalised axis. Raises TypeRefused when out of range."""
    if not isinstance(axis, int) or isinstance(axis, bool) or not -rank <= axis < rank:
        raise TypeRefused(f"axis {axis} is not inside rank {rank}")
    return axis % rank


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:
    """Normalised, sorted, distinct axes; ``None`` means all."""
    if axes is None:
        return tuple(range(rank))
    found = [axis_of(a, rank) for a in ((axes,) if isinstance(axes, int) else axes)]
    if len(set(found)) != len(found):
        raise TypeRefused(f"axes {axes} name one axis twice")
    return tuple(sorted(found))


def moved(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    """Bound of an op that only moves operand 0 elementwise into its result: the error moves along."""
    return np.broadcast_to(errs[0], out.shape)


def exact(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    """Bound of an op whose result is exact."""
    return np.zeros(out.shape)


def gamma(k: int, u: float) -> float:
    """Higham's gamma_k = k u / (1 - k u); infinite where that says nothing any more."""
    return k * u / (1.0 - k * u) if k * u < 0.5 else math.inf


def finite(values: np.ndarray) -> np.ndarray:
    """|values| in float64 where finite, else 0: what a rounding error is proportional to."""
    wide = np.abs(np.asarray(values, np.float64))
    return np.where(np.isfinite(wide), wide, 0.0)


def ends(x: np.ndarray, err: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far finite elements can be above 0 and below it; 0 for the others."""
    wide = np.asarray(x, np.float64)
    known = np.isfinite(wide)
    return np.where(known, np.maximum(wide + err, 0), 0.0), np.where(known, np.maximum(err - wide, 0), 0.0)


def summed(
    k: int,
    magnitude: np.ndarray,
    spread: np.ndarray,
    out: np.ndarray,
    bc: BoundContext,
    sides: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    products: bool = True,
) -> np.ndarray:
    """Bound of a sum of ``k`` roundings in any order: ``spread`` from the operands' errors, the rest from rounding.

    ``magnitude`` is the sum of absolute values, errors included. Where it passes the type's range the order decides
    between a number, an infinity and NaN; where an operand is undecided, so is the sum. ``sides`` gives the most that
    the positive and the negative finite terms can each come to, which settles many of these. Terms that are no
    ``products`` lose nothing to underflow: sums of denormal numbers are exact.
    """
    with np.errstate(all="ignore"):
        growth = 1.0 + (gamma(k, bc.acc) if bc.acc else 0.0)
        total = spread + (growth - 1.0) * magnitude if bc.acc else spread
        if bc.acc != bc.u:
            total = total * (1 + bc.u) + bc.u * finite(out)
        if products:
            # Where every term is 0 the sum is; in float64 the magnitude itself may have underflowed.
            total = np.where((magnitude == 0) & (bc.u > UNIT_F64), total, total + k * bc.eta)
        room = magnitude * growth <= bc.top
        if np.all(room) or bc.top > TOP_F32:
            return np.where(np.isnan(total) | ~room, np.inf, total)
        # NaN comes from operands here, as float64 holds all that a narrower type can add up; no order loses it.
        settled = np.isnan(out) & np.isfinite(spread)
        if sides is not None:
            plus, minus = (side * growth <= bc.top for side in sides())
            # A side that stays finite yields no infinity of its own, in no order; so that of the other side stands,
            # be it an operand's or (a finite sum so large that some partial sum has to) overflow.
            settled |= ((out == np.inf) & minus | (out == -np.inf) & plus) & np.isfinite(spread)
            settled |= np.isfinite(out) & ((out - total > bc.top) & minus | (-out - total > bc.top) & plus)
        total = np.where(settled & ~np.isfinite(out), 0.0, total)
        return np.where(np.isnan(total) | ~room & ~settled, np.inf, total)


def product_bound(
    n: int,
    x: np.ndarray,
    err: np.ndarray,
    multiply: Callable[[np.ndarray], np.ndarray],
    out: np.ndarray,
    bc: BoundContext,
) -> np.ndarray:
    """Bound of a product of ``n`` factors in any order; ``multiply`` multiplies float64 factors as the op does."""
    with np.errstate(all="ignore"):
        size = finite(x)
        most = multiply(size + err)
        total = (most - multiply(size) if np.any(err) else 0.0) + gamma(n + 1, bc.acc) * most
        if bc.acc != bc.u:
            total = total * (1 + bc.u) + bc.u * finite(out)
        total = np.where(
            np.isfinite(out) & ~np.isnan(total), total + n * bc.eta, np.where(np.isnan(total), np.inf, 0.0)
        )
        # An inexact factor beside an infinity may be the 0 that makes it NaN.
        special = multiply(np.where(np.isfinite(x), 1.0, 0.0)) == 0
        dirty = multiply(np.where(err > 0, 0.0, 1.0)) == 0
        risky = product_risk(x, err, multiply, bc) & ~np.isnan(out) | special & dirty
        # A factor that is exactly 0 leaves nothing to round.
        zero = (multiply(np.where((size == 0) & (err == 0) & np.isfinite(x), 0.0, 1.0)) == 0) & (out == 0)
        return np.where(risky, np.inf, np.where(zero & np.isfinite(total), 0.0, total))


def product_risk(
    values: np.ndarray, errors: np.ndarray, multiply: Callable[[np.ndarray], np.ndarray], bc: BoundContext
) -> np.ndarray:
    """Where some order of a product leaves the type's range, at the top or at the bottom, though the whole does not."""
    with np.errstate(all="ignore"):
        size = finite(values)
        wide = multiply(np.maximum(size + errors, 1.0))
        small = np.where(size == 0, np.where(errors > 0, 0.0, 1.0), np.maximum(size - errors, 0.0))
        small = np.where(np.isfinite(np.asarray(values, np.float64)), small, 1.0)
        tiny = multiply(np.minimum(small, 1.0))
        zero = (
            multiply(np.where((size == 0) & (errors == 0) & np.isfinite(np.asarray(values, np.float64)), 0.0, 1.0)) == 0
        )
        return ~(wide < bc.top) | (tiny < (bc.eta / bc.u if bc.u else 0.0)) & ~zero
