"""Merging layers: Add, Multiply, Concatenate, Dot and their kin, with Keras' mask rules.

Owns broadcasting of unequal ranks as Keras does it. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from ....core.dtypes import BOOL, F16, F32, F64, DType
from ....ir.graph import Value
from ..call import Call, Tensor, layer


def _common(c: Call, xs: Sequence[Value]) -> list[Value]:
    """One dtype: floats are the compute dtype already; an integer among floats is cast to them."""
    kinds = {x.dtype for x in xs}
    if len(kinds) == 1:
        return list(xs)
    floats: list[DType] = [d for d in (F64, F32, F16) if d in kinds]
    to = floats[0] if floats else max(kinds, key=lambda d: d.size)
    return [c.cast(x, to) for x in xs]


def _list(c: Call, xs: Any, least: int = 2) -> list[Value]:
    if isinstance(xs, dict):
        xs = list(xs.values())
    if isinstance(xs, Value):
        xs = [xs]
    if not isinstance(xs, (list, tuple)) or len(xs) < least or not all(isinstance(x, Value) for x in xs):
        raise c.refuse(f"takes a list of at least {least} tensors")
    return _common(c, xs)


def _merge_mask(c: Call, count: int) -> Value | None:
    """Keras 3: a step counts if any input says so, unless one has no mask. Keras 2: if every input with a mask does."""
    masks = [None if m is None else c.bool_mask(m) for m in c.masks[:count]]
    given = [m for m in masks if m is not None]
    if not given or (c.version[0] >= 3 and len(given) < len(masks)):
        return None
    rank = max(m.rank for m in given)
    return reduce(c.b.logical_or if c.version[0] >= 3 else c.b.logical_and, [c.expand(m, rank) for m in given])


def _align(c: Call, xs: list[Value]) -> list[Value]:
    """Equal ranks: lower ones get axes of 1 after the batch axis."""
    rank = max(x.rank for x in xs)
    return [
        x if x.rank == rank else c.b.reshape(x, shape=(x.shape[0], *([1] * (rank - x.rank)), *x.shape[1:])) for x in xs
    ]


def _merging(name: str, combine: Callable[[Call, list[Value]], Value]) -> None:
    @layer(name)
    def lower(c: Call, xs: Any) -> Tensor:
        values = _align(c, _list(c, xs, least=1))
        return Tensor(combine(c, values), _merge_mask(c, len(values)))


def _fold(op: str) -> Callable[[Call, list[Value]], Value]:
    return lambda c, xs: reduce(getattr(c.b, op), xs)


def _masks_of(c: Call, xs: list[Value]) -> list[Value | None] | None:
    """Masks that decide values, or None: in Keras 3 Multiply, Maximum and Minimum skip what is masked."""
    masks = c.masks[: len(xs)]
    if c.version[0] < 3 or all(m is None for m in masks):
        return None
    if any(m is not None and m.rank + 1 != x.rank for m, x in zip(masks, xs, strict=True)):
        raise c.refuse("a mask must have one axis less than its input")
    return [None if m is None else c.expand(c.bool_mask(m), m.rank + 1) for m in masks]


def _extreme(op: str) -> Callable[[Call, list[Value]], Value]:
    def combine(c: Call, xs: list[Value]) -> Value:
        masks = _masks_of(c, xs)
        if masks is None:
            return reduce(getattr(c.b, op), xs)
        out, kept = xs[0], masks[0]
        for x, m in zip(xs[1:], masks[1:], strict=True):
            x = x if m is None else c.b.where(m, x, out)
            out = out if kept is None else c.b.where(kept, out, x)
            kept = None if m is None or kept is None else c.b.logical_or(kept, m)
            out = getattr(c.b, op)(out, x)
        return out

    return combine


def _product(c: Call, xs: list[Value]) -> Value:
    masks = _masks_of(c, xs)
    if masks is None:
        return reduce(c.b.mul, xs)
    ones = [x if m is None else c.b.where(m, x, 1) for x, m in zip(xs, masks, strict=True)]
    out = reduce(c.b.mul, ones)
    given = [m for m in masks if m is not None]
    return c.b.where(reduce(c.b.logical_or, given), out, 0) if len(given) == len(masks) else out


_merging("Add", _fold("add"))
_merging("Multiply", _product)
_merging("Maximum", _extreme("maximum"))
_merging("Minimum", _extreme("minimum"))
_merging("Average", lambda c, xs: c.b.div(reduce(c.b.add, [c.float(x) for x in xs]), float(len(xs))))


@layer("Subtract")
def _subtract(c: Call, xs: Any) -> Tensor:
    values = _align(c, _list(c, xs))
    if len(values) != 2:
        raise c.refuse("takes exactly two inputs")
    return Tensor(c.b.sub(*values), _merge_mask(c, 2))


@layer("Concatenate")
def _concatenate(c: Call, xs: Any) -> Tensor:
    values = _list(c, xs, least=1)
    axis = c.axis(c.get("axis", -1), values[0].rank)
    return Tensor(c.b.concat(*values, axis=axis), _concat_mask(c, values, axis))


def _concat_mask(c: Call, xs: list[Value], axis: int) -> Value | None:
    """Masks are spread to the inputs' shape and joined; any of the last axis must hold in Keras 3, all in Keras 2."""
    masks = c.masks[: len(xs)]
    if all(m is None for m in masks):
        return None
    b, parts = c.b, []
    for x, m in zip(xs, masks, strict=True):
        if m is None:
            parts.append(b.full(x.shape, True, BOOL))
        else:
            parts.append(b.broadcast_to(c.expand(c.bool_mask(m), x.rank), shape=x.shape))
    joined, last = b.concat(*parts, axis=axis), (xs[0].rank - 1,)
    return b.reduce_any(joined, axes=last) if c.version[0] >= 3 else b.reduce_all(joined, axes=last)


@layer("Dot")
def _dot(c: Call, xs: Any) -> Value:
    x, y = _list(c, xs)
    axes = c.config.get("axes")
    pair = (axes, axes) if isinstance(axes, int) else tuple(axes or ())
    if len(pair) != 2:
        raise c.refuse(f"axes={axes!r} must be one or two ints")
    i, j = c.axis(pair[0], x.rank), c.axis(pair[1], y.rank)
    if c.flag("normalize"):
        x, y = l2_normalize(c, x, (i,)), l2_normalize(c, y, (j,))
    return batch_dot(c, x, y, i, j)


def l2_normalize(c: Call, x: Value, axes: tuple[int, ...], epsilon: float = 1e-12) -> Value:
    """x / sqrt(max(sum(x^2), epsilon)) over ``axes``."""
    total = c.b.reduce_sum(c.b.square(x), axes=axes, keepdims=True)
    return c.b.mul(x, c.b.rsqrt(c.b.maximum(total, epsilon)))


def batch_dot(c: Call, x: Value, y: Value, i: int, j: int) -> Value:
    """Keras' batch_dot: axis 0 is shared, axis i of x and j of y are contracted."""
    if i == 0 or j == 0:
        raise c.refuse("the batch axis cannot be contracted")
    left = "a" + "bcdefgh"[: x.rank - 1]
    right = "a" + "mnopqrs"[: y.rank - 1]
    right = right[:j] + left[i] + right[j + 1 :]
    out = left[:i] + left[i + 1 :] + right[1:j] + right[j + 1 :]
    z = c.b.einsum(x, y, equation=f"{left},{right}->{out}")
    return c.b.reshape(z, shape=(*z.shape, 1)) if z.rank == 1 else z
