"""Ops whose results have extents that depend on values: Where, Unique, NonMaxSuppression...

Owns TensorFlow's forms of them; what they are built of is the frontends' common ``dependent``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Extent, product
from ....core.dtypes import F32, I32, I64
from ....ir.graph import Value
from ... import dependent as common
from ..lower import Ctx, op, same_type
from ..values import Item


@op("Where")
def _where(c: Ctx, x: Value) -> Any:
    if not x.rank:
        raise c.refuse("takes no scalar here", "give the condition an axis")
    return common.nonzero(c.bld, c.lowerer.fresh, x)


def _unique(c: Ctx, x: Value, axis: int | None) -> list[Value]:
    kind = c.type("out_idx", 3)
    found, _, inverse, counts = common.unique_along(c.bld, c.lowerer.fresh, x, axis, "first", False)
    return [found, same_type(c, inverse, kind), same_type(c, counts, kind)]


@op("Unique")
def _unique_flat(c: Ctx, x: Value) -> Any:
    return _unique(c, x, None)[:2]


@op("UniqueWithCounts")
def _unique_counted(c: Ctx, x: Value) -> Any:
    return _unique(c, x, None)


@op("UniqueV2", "UniqueWithCountsV2", raw=True)
def _unique_axis(c: Ctx, item: Item, axis: Item) -> Any:
    x, axes = c.v(item), c.ints(axis, "the axis")
    if any(not -x.rank <= a < x.rank for a in axes) or not axes and x.rank != 1:
        raise c.refuse(f"axis {axes} of a tensor of rank {x.rank}", code="malformed")
    found = _unique(c, x, axes[0] % x.rank if axes else None)
    return found if c.node.op == "UniqueWithCountsV2" else found[:2]


@op("ListDiff")
def _list_diff(c: Ctx, x: Value, y: Value) -> Any:
    b = c.bld
    hits = b.eq(b.reshape(x, shape=(x.shape[0], 1)), b.reshape(y, shape=(1, y.shape[0])))
    at = common.nonzero(b, c.lowerer.fresh, b.logical_not(b.reduce_any(hits, axes=(1,))))
    at = b.reshape(at, shape=(at.shape[0],))
    return [b.gather(x, at, axis=0), same_type(c, at, c.type("out_idx", 3))]


def partition(c: Ctx, x: Value, parts: Value, count: int) -> list[Value]:
    """The slices of x by the number that ``parts`` gives each of them, where that is known during the run only."""
    b = c.bld
    n = product(parts.shape)
    rows = b.reshape(x, shape=(n, *x.shape[parts.rank :]))
    which = b.reshape(parts, shape=(n,))
    return [common.masked(b, c.lowerer.fresh, rows, b.eq(which, c.const(k, which))) for k in range(count)]


# -- non-max suppression -----------------------------------------------------------------------------------------------
def _suppress(c: Ctx, boxes: Value, scores: Value, most: Value, *thresholds: Any) -> tuple[Value, Value, Value, Extent]:
    """(places, scores, number, most places) for one list of boxes."""
    b = c.bld
    n = boxes.shape[0]
    high = common.limit_of(most, n)
    whole = b.reshape(boxes, shape=(1, n, 4)), b.reshape(scores, shape=(1, 1, scores.shape[0]))
    places, kept, number = common.suppressed(b, *whole, most, thresholds, high)
    size = places.shape[2]
    return b.reshape(places, shape=(size,)), b.reshape(kept, shape=(size,)), b.reshape(number, shape=()), size


def _head(c: Ctx, number: Value, high: Extent, *values: Value) -> list[Value]:
    """The part of each vector that was found."""
    k = common.bound(c.bld, c.lowerer.fresh, number, high)
    return [c.bld.slice(v, starts=(0,), stops=(k,)) for v in values]


def _padded(c: Ctx, most: Item, high: Extent, *values: Value) -> list[Value]:
    """Each vector with zeros behind it, as long as was asked for."""
    want = c.number_of(most, "the number of boxes, which pads the result,")
    out = []
    for v in values:
        if high == want:
            out.append(v)
        elif isinstance(high, int):
            out.append(c.bld.pad(v, low=(0,), high=(want - high,)))
        else:
            spare = c.bld.concat(v, c.bld.full((want,), 0, v.dtype), axis=0)
            out.append(c.bld.slice(spare, starts=(0,), stops=(want,)))
    return out


@op("NonMaxSuppression")
def _nms_1(c: Ctx, boxes: Value, scores: Value, most: Value) -> Any:
    least = float(np.finfo(np.float32).min)
    places, _, number, high = _suppress(c, boxes, scores, most, c.f("iou_threshold", 0.5), least, 0.0)
    return same_type(c, _head(c, number, high, places)[0], I32)


@op("NonMaxSuppressionV2")
def _nms_2(c: Ctx, boxes: Value, scores: Value, most: Value, iou: Value) -> Any:
    places, _, number, high = _suppress(c, boxes, scores, most, iou, float(np.finfo(np.float32).min), 0.0)
    return same_type(c, _head(c, number, high, places)[0], I32)


@op("NonMaxSuppressionV3")
def _nms_3(c: Ctx, boxes: Value, scores: Value, most: Value, iou: Value, least: Value) -> Any:
    places, _, number, high = _suppress(c, boxes, scores, most, iou, least, 0.0)
    return same_type(c, _head(c, number, high, places)[0], I32)


@op("NonMaxSuppressionV4", raw=True)
def _nms_4(c: Ctx, boxes: Item, scores: Item, most: Item, iou: Item, least: Item) -> Any:
    places, _, number, high = _suppress(c, *map(c.v, (boxes, scores, most, iou, least)), 0.0)
    shown = _padded(c, most, high, places) if c.b("pad_to_max_output_size") else _head(c, number, high, places)
    return [same_type(c, shown[0], I32), same_type(c, number, I32)]


@op("NonMaxSuppressionV5", raw=True)
def _nms_5(c: Ctx, boxes: Item, scores: Item, most: Item, iou: Item, least: Item, sigma: Item) -> Any:
    values = [c.v(i) for i in (boxes, scores, most, iou, least, sigma)]
    places, kept, number, high = _suppress(c, *values)
    padded = c.b("pad_to_max_output_size")
    shown = _padded(c, most, high, places, kept) if padded else _head(c, number, high, places, kept)
    return [same_type(c, shown[0], I32), same_type(c, shown[1], values[1].dtype), same_type(c, number, I32)]


@op("CombinedNonMaxSuppression", raw=True)
def _nms_combined(c: Ctx, boxes: Item, scores: Item, per_class: Item, total: Item, iou: Item, least: Item) -> Any:
    """Per class, then the best of all classes; every extent is known."""
    b, x, s = c.bld, c.v(boxes), c.v(scores)
    (n, m, shared, _), classes = x.shape, s.shape[2]
    most, want = c.v(per_class), c.number_of(total, "the number of boxes")
    if shared != 1 and shared != classes:
        raise c.refuse(f"boxes for {shared} classes and scores for {classes}", code="malformed")
    turned = b.transpose(s, perm=(0, 2, 1))
    high = common.limit_of(most, m)
    # Where classes have boxes of their own, each class is a list of its own.
    lists = b.reshape(b.transpose(x, perm=(0, 2, 1, 3)), shape=(n * shared, m, 4))
    each = 1 if shared != 1 else classes
    found = common.suppressed(
        b, lists, b.reshape(turned, shape=(n * shared, each, m)), most, [c.v(iou), c.v(least), 0.0], high
    )
    size = found[0].shape[2]
    places, kept = (b.reshape(v, shape=(n, classes * size)) for v in found[:2])
    number = b.reshape(found[2], shape=(n, classes, 1))
    real = b.reshape(b.lt(b.iota(shape=(n, classes, size), axis=2, dtype=I64), number), shape=(n, classes * size))
    of_class = b.reshape(b.iota(shape=(n, classes, size), axis=1, dtype=I64), shape=(n, classes * size))
    ranked = b.where(real, kept, c.const(-np.inf, F32))
    _, order = b.sort(ranked, axis=1, descending=True)
    given = min(want, classes * size) if isinstance(size, int) and isinstance(classes, int) else None
    if given is None:
        raise c.refuse("the number of boxes must be known", "fix it with shapes=")
    full = min(want, given)
    order = b.slice(order, starts=(0, 0), stops=(n, full))

    def pick(v: Value) -> Value:
        out: Value = b.gather(v, order, axis=1, batch_dims=1)
        return out

    valid = pick(real)
    at = b.add(b.mul(pick(places), shared), pick(of_class)) if shared != 1 else pick(places)
    flat = b.reshape(x, shape=(n, m * shared, 4))
    chosen = b.gather(flat, at, axis=1, batch_dims=1)
    if c.b("clip_boxes", True):
        chosen = b.clip(chosen, c.const(0, x), c.const(1, x))
    chosen = b.where(b.reshape(valid, shape=(n, full, 1)), chosen, c.const(0, x))
    score = b.where(valid, pick(kept), c.const(0, F32))
    labels = b.where(valid, b.cast(pick(of_class), to=F32), c.const(0, F32))
    count = b.reduce_sum(b.cast(valid, to=I32), axes=(1,))
    length = want
    if c.b("pad_per_class", False):
        limit = c.number_of(per_class, "the number of boxes of a class")
        length = min(want, limit * (classes if isinstance(classes, int) else 1))
    spare = length - full
    if spare > 0:
        chosen = b.pad(chosen, low=(0, 0, 0), high=(0, spare, 0))
        score, labels = (b.pad(v, low=(0, 0), high=(0, spare)) for v in (score, labels))
    elif spare < 0:
        chosen = b.slice(chosen, starts=(0, 0, 0), stops=(n, length, 4))
        score, labels = (b.slice(v, starts=(0, 0), stops=(n, length)) for v in (score, labels))
    return [chosen, same_type(c, score, s.dtype), same_type(c, labels, s.dtype), count]
