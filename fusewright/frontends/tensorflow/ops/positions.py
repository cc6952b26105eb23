"""Shapes and positions that are computed while the model runs, as TensorFlow's nodes give them.

Owns the way from a node's operand to the frontends' common ``Positions``.
"""

from __future__ import annotations

import numpy as np

from ....core.dims import Extent, product
from ....core.dtypes import I64
from ....core.errors import ImportRefused
from ....ir.graph import Value
from ...positions import Positions
from ..lower import Ctx
from ..values import Item, Tensor


def computed(c: Ctx) -> Positions:
    """Positions in the graph that the node goes into."""

    def dim(e: Extent) -> Value:
        return Tensor.known(np.array(e, object), I64).value(c.bld)

    return Positions(c.bld, c.lowerer.fresh, dim)


def known(c: Ctx, item: Item, what: str) -> list[Extent] | None:
    """The contents of an integer tensor, or None where they depend on values."""
    try:
        return c.extents(item, what)
    except ImportRefused:
        return None


def is_known(c: Ctx, item: Item, what: str) -> bool:
    """Are the contents known, of integers as extents?"""
    try:
        return bool(c.extents(item, what) if c.tensor(item).dtype.is_int else c.array(item, what).size)
    except ImportRefused:
        return False


def elements(c: Ctx, item: Item, what: str) -> list[Extent | Value]:
    """The contents of a short integer tensor, with an i64 scalar for each that depends on values."""
    found = known(c, item, what)
    if found is not None:
        return list(found)
    v = c.v(item)
    parts = computed(c).elements(v) if v.dtype.is_int else None
    if parts is None:
        c.extents(item, what)  # says what is wrong with it
        raise c.refuse(f"{what} is too long to be computed while the model runs")
    return parts


def sizes(c: Ctx, item: Item, what: str) -> list[Extent]:
    """A shape, repeats...: what depends on values is bound during the run."""
    at = computed(c)
    return [at.size(e) for e in elements(c, item, what)]


def joined(v: Value) -> bool:
    """Is the vector put together of parts, so that some of them may be known?"""
    while v.producer.op.name in ("cast", "reshape"):
        v = v.producer.operands[0]
    return v.producer.op.name == "concat"


def reshaped(c: Ctx, x: Value, shape: Value) -> Value:
    """x under a shape that is put together while the model runs; one part may be -1."""
    parts = computed(c).elements(shape) if shape.rank == 1 else None
    if parts is None:
        raise c.refuse("the rank of the new shape must be known")
    size = x.type.size
    if isinstance(size, int) and size and product(p for p in parts if isinstance(p, int) and p >= 0) == 0:
        raise c.refuse(f"{size} elements cannot take a shape with an extent of 0", code="malformed")
    return computed(c).reshaped(x, parts)


__all__ = ["computed", "elements", "joined", "is_known", "known", "reshaped", "sizes"]
