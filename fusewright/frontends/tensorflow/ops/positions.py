"""Shapes and positions that are computed while the model runs: slices, reshapes and top-k by numbers from values.

Owns the step from an element of an integer tensor to an extent with a bound. Every position is clipped into its axis
before it is used, so no number leads outside a tensor.
"""

from __future__ import annotations

import numpy as np

from ....core.dims import Dim, Extent, product
from ....core.dtypes import I64
from ....core.errors import ImportRefused
from ....ir.graph import Value
from ... import dependent as common
from ..lower import Ctx
from ..values import Item, Tensor

MOST = 16  # elements of a shape that are looked at one by one


def known(c: Ctx, item: Item, what: str) -> list[Extent] | None:
    """The contents of an integer tensor, or None where they depend on values."""
    try:
        return c.extents(item, what)
    except ImportRefused:
        return None


def joined(v: Value) -> bool:
    """Is the vector put together of parts, so that some of them may be known?"""
    while v.producer.op.name in ("cast", "reshape"):
        v = v.producer.operands[0]
    return v.producer.op.name == "concat"


def element(c: Ctx, v: Value, i: int) -> int | Value:
    """Element ``i`` of a vector: a number, or an i64 scalar."""
    b = c.bld
    while True:
        node = v.producer
        if v.const is not None:
            return int(v.const.array.ravel()[i])
        if node.op.name == "concat" and v.rank == 1:
            for part in node.operands:
                size = part.shape[0]
                if not isinstance(size, int):
                    break
                if i < size:
                    v = part
                    break
                i -= size
            else:
                break
            if v not in node.operands:
                break
            continue
        if node.op.name == "cast" or node.op.name == "reshape" and node.operands[0].rank <= 1:
            v = node.operands[0]
            continue
        break
    one = v if not v.rank else b.reshape(b.slice(v, starts=(i,), stops=(i + 1,)), shape=())
    return common.as_i64(b, one)


def number(c: Ctx, e: Extent | Value) -> Value:
    """An extent as an i64 scalar."""
    if isinstance(e, Value):
        return e
    if isinstance(e, Dim):
        return Tensor.known(np.array(e, object), I64).value(c.bld)
    return c.const(e, I64)


def bound(c: Ctx, value: int | Value, size: Extent, hint: str) -> Extent:
    """A number from 0 to ``size`` as an extent; what is outside is clipped."""
    inside = c.bld.clip(number(c, value), c.const(0, I64), number(c, size))
    return common.bound(c.bld, c.lowerer.fresh, inside, size, hint)


def position(c: Ctx, at: int | Value, size: Extent, room: Extent = 0) -> Extent:
    """A position in an axis of ``size``, counted from the end where negative, with ``room`` elements behind it."""
    if isinstance(at, int) and at >= 0 and isinstance(size, int) and isinstance(room, int):
        return min(at, size - room)
    v = number(c, at)
    v = c.bld.where(c.bld.lt(v, c.const(0, I64)), c.bld.add(v, number(c, size)), v)
    return bound(c, v, size - room, "S")


def sliced(c: Ctx, x: Value, begin: Value, size: Value) -> Value:
    """x from ``begin`` on, ``size`` elements per axis (-1: the rest)."""
    b = c.bld
    starts: list[Extent] = []
    stops: list[Extent] = []
    for i, n in enumerate(x.shape):
        first, count = element(c, begin, i), element(c, size, i)
        if isinstance(count, int):
            start = position(c, first, n, max(count, 0))
            stops.append(n if count < 0 else start + count)
        else:
            start = position(c, first, n)
            left = number(c, n - start)
            taken = b.where(b.lt(count, c.const(0, I64)), left, b.minimum(count, left))
            stops.append(start + common.bound(b, c.lowerer.fresh, b.maximum(taken, c.const(0, I64)), n))
        starts.append(start)
    out: Value = b.slice(x, starts=tuple(starts), stops=tuple(stops))
    return out


def reshaped(c: Ctx, x: Value, shape: Value) -> Value:
    """x under a shape that is put together while the model runs; one part may be -1."""
    b, rank = c.bld, shape.shape[0]
    if not isinstance(rank, int) or rank > MOST or shape.rank != 1:
        raise c.refuse("the rank of the new shape must be known")
    parts = [element(c, shape, i) for i in range(rank)]
    size, one = x.type.size, c.const(1, I64)
    rest = one
    for p in parts:
        v = number(c, p)
        rest = b.mul(rest, b.where(b.lt(v, c.const(0, I64)), one, v))
    want: list[Extent] = []
    for p in parts:
        if isinstance(p, int) and p >= 0:
            want.append(p)
            continue
        v = number(c, p)
        spread = b.floordiv(number(c, size), b.maximum(rest, one))
        v = b.where(b.lt(v, c.const(0, I64)), spread, v)
        want.append(common.bound(b, c.lowerer.fresh, v, size))
    if product(d for d in want if isinstance(d, int)) == 0 and not isinstance(size, Dim) and size:
        raise c.refuse(f"{size} elements cannot take the shape {want}", code="malformed")
    out: Value = b.view_as(x, shape=tuple(want), axes=False)
    return out


__all__ = ["bound", "element", "joined", "known", "number", "position", "reshaped", "sliced"]
