"""Banded products along neighbouring axes: ``resample``, what interpolation comes to once its weights are known.

Owns semantics and bound of bands and the tables of a matrix. Must not know where weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.dims import Extent, product
from ...core.dtypes import F32, F64, I64
from ...core.errors import TypeRefused
from ..graph import Graph, Node, Value
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, finite, summed


def bands(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first [m], weights [m, taps]) of ``matrix`` [m, n]: row i is 0 outside columns first[i] to first[i] + taps."""
    there = matrix != 0
    low = np.argmax(there, axis=1)
    past = matrix.shape[1] - np.argmax(there[:, ::-1], axis=1)
    empty = ~there.any(axis=1)
    low, past = np.where(empty, 0, low), np.where(empty, 1, past)
    taps = max(int(np.max(past - low, initial=1)), 1)
    first = np.minimum(low, matrix.shape[1] - taps)
    columns = first[:, None] + np.arange(taps)
    return first.astype(np.int64), np.take_along_axis(matrix, columns, 1)


def along(x: np.ndarray, first: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """The sum over taps t of ``weights[o, t] * x[first[o] + t]`` along ``axis``, tap by tap in the arrays' type."""
    taps = weights.shape[1]
    first = np.clip(first, 0, x.shape[axis] - taps)
    spread = [1] * x.ndim
    spread[axis] = len(first)
    total = None
    for t in range(taps):
        term = np.take(x, first + t, axis) * weights[:, t].reshape(spread)
        total = term if total is None else total + term
    assert total is not None
    return total


def _infer(types: Sequence[TensorType], attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    x, tables = types[0], types[1:]
    axes = attrs["axes"] = tuple(attrs["axes"])
    if len(axes) not in (1, 2) or any(not isinstance(a, int) or not 0 <= a < x.rank for a in axes):
        raise TypeRefused(f"axes {axes} must be one or two of {x}")
    if len(axes) == 2 and axes[1] != axes[0] + 1:
        raise TypeRefused(f"axes {axes} are not neighbours")
    if len(tables) != 2 * len(axes):
        raise TypeRefused(f"{len(axes)} axes need as many pairs of (first, weights), got {len(tables)} tables")
    if x.dtype not in (F32, F64):
        raise TypeRefused(f"takes f32 or f64, not {x.dtype}")
    shape = list(x.shape)
    for axis, first, weights in zip(axes, tables[::2], tables[1::2], strict=True):
        size = x.shape[axis]
        if first.rank != 1 or first.dtype is not I64 or weights.rank != 2 or weights.dtype is not x.dtype:
            raise TypeRefused(f"needs first i64[m] and weights {x.dtype}[m, taps], got {first} and {weights}")
        m, taps = weights.shape
        if first.shape[0] != m or not isinstance(m, int) or not isinstance(taps, int) or not isinstance(size, int):
            raise TypeRefused(f"tables {first} and {weights} of axis {axis} of {x} must be fixed and go together")
        if not 1 <= taps <= size:
            raise TypeRefused(f"{taps} taps do not fit an extent of {size}")
        shape[axis] = m
    return [x.with_shape(tuple(shape))]


def _eval(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    x = a[0]
    with np.errstate(all="ignore"):
        for axis, first, weights in zip(attrs["axes"], a[1::2], a[2::2], strict=True):
            x = along(x, first, weights, axis)
    return x


def _bound(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    plain, errors = finite(a[0]), np.broadcast_to(e[0], a[0].shape)
    most, lost = plain + errors, False
    taps = 0
    with np.errstate(all="ignore"):
        for axis, first, weights, slack in zip(bc.attrs["axes"], a[1::2], a[2::2], e[2::2], strict=True):
            w, slack = finite(weights), np.broadcast_to(slack, weights.shape)
            # An inexact factor beside an infinity may be the 0 that makes it NaN.
            lost |= bool(np.any(slack) and not np.all(np.isfinite(a[0])))
            lost |= bool(np.any(errors) and not np.all(np.isfinite(weights)))
            plain, most = along(plain, first, w, axis), along(most, first, w + slack, axis)
            # What underflows on the way meets the weights of the next axis; what overflows stays so.
            most = np.where(most < bc.top, most + (weights.shape[1] + 1) * bc.eta, np.inf)
            taps += weights.shape[1] + 1
        spread = np.where(np.isfinite(most), np.maximum(most - plain, 0), np.inf)
        return np.where(lost, np.inf, summed(taps, most, spread, o, bc))


def _cost(node: Node) -> Cost:
    y, moved = node.results[0], sum((v.type.nbytes for v in (*node.operands, *node.results)), 0)
    shape = list(node.operands[0].shape)
    flops: Extent = 0
    for axis, weights in zip(node.attrs["axes"], node.operands[2::2], strict=True):
        shape[axis] = y.shape[axis]
        flops = flops + 2 * product((*shape, weights.shape[1]))
    return Cost(flops, moved)


def _decompose(b: Any, operands: Sequence[Value], attrs: Attrs) -> Value:
    """A gather per tap: for targets without a kernel."""
    x = operands[0]
    for axis, first, weights in zip(attrs["axes"], operands[1::2], operands[2::2], strict=True):
        m, taps = (int(d) for d in weights.shape)  # type: ignore[arg-type]
        spread = [1] * x.rank
        spread[axis] = m
        # All taps stay inside together, as those of the band do.
        lowest, highest = b.constant(np.int64(0)), b.constant(np.int64(x.shape[axis] - taps))
        first = b.clip(first, lowest, highest)
        total: Any = None
        for t in range(taps):
            weight = b.reshape(b.slice(weights, starts=(0, t), stops=(m, t + 1), steps=(1, 1)), shape=tuple(spread))
            term = b.mul(b.gather(x, b.add(first, b.constant(np.int64(t))), axis=axis), weight)
            total = term if total is None else b.add(total, term)
        x = total
    return x


define_op(
    OpDef(
        "resample", ("x", "tables*"), "opaque", _infer, _eval, attrs={"axes": REQUIRED}, bound=_bound, cost=_cost,
        decompose=_decompose,
        doc="Banded products along one axis or two neighbouring ones, the first of them first: element o of an axis is "
        "the sum over t of weights[o, t] * x[first[o] + t]. ``tables``: first [m] and weights [m, taps] of each axis; "
        "first is clamped so that all taps are inside.",
    )
)  # fmt: skip
