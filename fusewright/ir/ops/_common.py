"""Helpers that the op families share: shape algebra, dtype checks, bounds. Must not define ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.dims import Extent, compare_eq
from ...core.dtypes import DType
from ...core.errors import TypeRefused
from ..opdef import BoundContext
from ..types import Shape, TensorType

Arrays = Sequence[np.ndarray]


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


def gamma(k: int | np.ndarray, u: float) -> Any:
    """Higham's gamma_k = k u / (1 - k u)."""
    return k * u / (1.0 - k * u)
