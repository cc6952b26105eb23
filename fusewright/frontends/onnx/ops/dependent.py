"""Operators whose results have extents that depend on values: NonZero, Unique, NonMaxSuppression, Compress.

Owns ONNX's forms of them; what they are built of is the frontends' common ``dependent``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import compare_le, product
from ....core.dtypes import I64
from ....ir.graph import Value
from ... import dependent as common
from ..call import Call, op


@op("NonZero")
def _nonzero(c: Call, x: Value) -> Value:
    if not x.rank:
        raise c.refuse("takes no scalar", "malformed")
    out: Value = c.b.transpose(common.nonzero(c.b, c.importer.fresh, x), perm=(1, 0))
    return out


@op("Unique")
def _unique(c: Call, x: Value) -> Any:
    axis = c.integer("axis")
    axis = axis if axis is None else c.axis(axis, x.rank)
    order = "value" if c.integer("sorted", 1) else "first"
    return common.unique_along(c.b, c.importer.fresh, x, axis, order, True)


@op("Compress")
def _compress(c: Call, x: Value, condition: Value) -> Value:
    b = c.b
    axis = c.integer("axis")
    if axis is None:
        x, axis = b.reshape(x, shape=(product(x.shape),)), 0
    axis = c.axis(axis, x.rank)
    n = x.shape[axis]
    if condition.const is None:
        if condition.rank != 1 or compare_le(condition.shape[0], n) is False:
            raise c.refuse(f"a condition {condition.type} does not fit an extent of {n}", "malformed")
        return common.masked(b, c.importer.fresh, x, common.as_mask(b, condition), axis)
    index = np.flatnonzero(c.const(condition, "condition")).astype(np.int64)
    if not isinstance(n, int) or (index.size and index.max() >= n):
        raise c.refuse("the condition does not fit the axis", "malformed")
    return b.gather(x, b.constant(index), axis=axis)


@op("NonMaxSuppression")
def _suppress(
    c: Call, boxes: Value, scores: Value, most: Value | None = None, iou: Value | None = None,
    least: Value | None = None,
) -> Value:  # fmt: skip
    """Rows of (batch, class, box) in the order of batch, class and score."""
    b = c.b
    limit = b.constant(np.array(0, np.int64)) if most is None else most
    high = common.limit_of(limit, scores.shape[2])
    center = bool(c.integer("center_point_box", 0))
    rest = [0.0 if iou is None else iou, -np.inf if least is None else least, 0.0]
    places, _, number = common.suppressed(b, boxes, scores, limit, rest, high, center)
    n, classes = places.shape[:2]
    mask = b.lt(b.iota(shape=places.shape, axis=2, dtype=I64), b.reshape(number, shape=(n, classes, 1)))
    at = common.nonzero(b, c.importer.fresh, mask)
    box = b.reshape(b.gather_nd(places, at), shape=(at.shape[0], 1))
    return b.concat(b.slice(at, starts=(0, 0), stops=(at.shape[0], 2)), box, axis=1)
