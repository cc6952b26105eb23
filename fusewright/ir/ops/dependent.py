"""Ops whose extents depend on values: a symbol bound to a number, and searches that give a stated number of places.

Owns symbol_of, view_as, nonzero, unique and non_max_suppression. Searches take their result's extent as an attribute,
as top_k does; an extent that is known during the run only is a symbol that ``symbol_of`` has bound before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.bounds import out_of_range
from ...core.dims import compare_eq, compare_le, extent, product, symbol
from ...core.dtypes import F32, I64
from ...core.errors import InputRefused, TypeRefused
from ..graph import Graph
from ..opdef import REQUIRED, Attrs, Cost, EvalContext, OpDef, define_op, extents
from ..types import TensorType
from ._common import Arrays, same
from .shape import view_cost

Types = Sequence[TensorType]
Regions = Sequence[Graph]


def _infer_symbol(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if types[0].dtype is not I64 or types[0].rank:
        raise TypeRefused(f"a symbol is bound to an i64 scalar, not {types[0]}")
    symbol(attrs["symbol"])
    low, high = attrs["low"], attrs["high"]
    if not isinstance(low, int) or low < 0:
        raise TypeRefused(f"the least value {low!r} of a symbol is an int >= 0")
    if high is not None:
        attrs["high"] = extent(high)
        if compare_le(low, attrs["high"]) is False:
            raise TypeRefused(f"the symbol {attrs['symbol']} has no value from {low} to {high}")
    return [types[0]]


def _eval_symbol(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    value, low, high = int(a[0]), attrs["low"], attrs["high"]
    if value < low or high is not None and value > high:
        raise InputRefused(out_of_range(attrs["symbol"], value, low, high))
    ctx.bind(attrs["symbol"], value)
    return a[0]


define_op(
    OpDef(
        "symbol_of", ("count",), "opaque", _infer_symbol, _eval_symbol,
        attrs={"symbol": REQUIRED, "high": None, "low": 0}, views={0: 0}, cost=lambda n: Cost(0, 0),
        effects=frozenset({"binds"}),
        doc="Bind the fresh ``symbol`` to an i64 scalar: from here on types may mention it. The run is refused when "
        "the number is not between ``low`` and ``high``; storage is laid out for ``high``. Gives the number.",
    )
)  # fmt: skip


def _infer_view_as(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = types[0]
    shape = attrs["shape"] = extents(attrs["shape"])
    if attrs["axes"]:
        if len(shape) != x.rank:
            raise TypeRefused(f"{x} has not the rank of [{', '.join(map(str, shape))}]")
        pairs = list(zip(x.shape, shape, strict=True))
    else:
        pairs = [(x.size, product(shape))]
    for have, want in pairs:
        if compare_eq(have, want) is False:
            raise TypeRefused(f"{have} is never {want}")
    return [x.with_shape(shape)]


def _eval_view_as(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    shape = attrs["shape"]
    if min(shape, default=0) < 0 or (a[0].shape != shape if attrs["axes"] else a[0].size != np.prod(shape, dtype=int)):
        raise InputRefused(f"a value of shape {a[0].shape} is used as {tuple(shape)}")
    return np.reshape(a[0], shape)


define_op(
    OpDef(
        "view_as", ("x",), "view", _infer_view_as, _eval_view_as, attrs={"shape": REQUIRED, "axes": True},
        bound=lambda a, e, o, bc: np.reshape(np.broadcast_to(e[0], a[0].shape), o.shape), views={0: 0}, cost=view_cost,
        doc="The same elements under ``shape``, which is compared when the run gets here: extent by extent, or with "
        "axes=False only their product (a reshape to extents known during the run only).",
    )
)  # fmt: skip


def _infer_nonzero(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if not types[0].rank:
        raise TypeRefused("nonzero needs an axis")
    attrs["size"] = extent(attrs["size"])
    return [TensorType(I64, (attrs["size"], types[0].rank))]


def _eval_nonzero(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    found = np.argwhere(a[0] != 0)[: attrs["size"]].astype(np.int64)
    return np.concatenate([found, np.zeros((attrs["size"] - len(found), a[0].ndim), np.int64)])


define_op(
    OpDef(
        "nonzero", ("x",), "gather", _infer_nonzero, _eval_nonzero, attrs={"size": REQUIRED},
        cost=lambda n: Cost(n.operands[0].type.size, n.operands[0].type.nbytes),
        doc="Positions of the first ``size`` elements that are not 0 (NaN is not), in row-major order, one row each; "
        "rows of zeros where there are fewer.",
    )
)  # fmt: skip

ORDERS = ("value", "first")


def _infer_unique(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = types[0]
    if x.rank != 2:
        raise TypeRefused(f"unique compares the rows of a matrix, not {x}")
    if attrs["order"] not in ORDERS:
        raise TypeRefused(f"order {attrs['order']!r} is not one of {', '.join(ORDERS)}")
    line = TensorType(I64, x.shape[:1])
    return [line, line, line, TensorType(I64, ())]


def _eval_unique(a: Arrays, attrs: Attrs, ctx: EvalContext) -> tuple[np.ndarray, ...]:
    x = a[0]
    n = x.shape[0]
    first, inverse, counts = (np.zeros(n, np.int64) for _ in range(3))
    keys: dict[Any, int] = {}
    places: list[int] = []
    for i, row in enumerate(x.tolist()):
        key = tuple(_key(v, attrs["equal_nan"]) for v in row)
        inverse[i] = keys.setdefault(key, len(keys))
        if inverse[i] == len(places):
            places.append(i)
    rank = np.arange(len(places))
    if attrs["order"] == "value" and places:
        rows = x[places]
        # np.lexsort takes the last key first, and puts NaN last; equal rows (NaN) keep their order.
        order = np.lexsort([rows[:, k] for k in reversed(range(x.shape[1]))]) if x.shape[1] else rank
        rank = np.argsort(order)
        places = [places[k] for k in order]
    if n:
        inverse = rank[inverse].astype(np.int64)
        counts = np.bincount(inverse, minlength=n).astype(np.int64)
    first[: len(places)] = places
    return first, inverse, counts, np.array(len(places), np.int64)


def _key(v: Any, equal_nan: bool) -> Any:
    return v if v == v else ("nan" if equal_nan else object())


define_op(
    OpDef(
        "unique", ("x",), "opaque", _infer_unique, _eval_unique, attrs={"order": "value", "equal_nan": True},
        cost=lambda n: Cost(n.operands[0].type.size * 10, 8 * n.operands[0].type.nbytes),
        doc="Groups of equal rows of x [n, m]: (first row of each group, group of each row, rows of each group, number "
        "of groups). Groups are numbered in ascending order of their rows, NaN last, or by their first row "
        "(order=\"first\"); entries past the last group are 0. -0 equals 0; NaN equals NaN where ``equal_nan``.",
    )
)  # fmt: skip


def _infer_nms(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    boxes, scores = types[:2]
    if boxes.rank != 3 or scores.rank != 3 or boxes.dtype is not F32 or scores.dtype is not F32:
        raise TypeRefused(f"needs f32 boxes [batch, n, 4] and scores [batch, classes, n], not {boxes} and {scores}")
    same(boxes.shape[0], scores.shape[0], "batch")
    same(boxes.shape[1], scores.shape[2], "boxes")
    same(boxes.shape[2], 4, "corners")
    for t, dt in zip(types[2:], (I64, F32, F32, F32), strict=True):
        if t.dtype is not dt or t.rank:
            raise TypeRefused("limit is an i64 scalar, the thresholds and sigma are f32 scalars")
    size = attrs["size"] = extent(attrs["size"])
    head = scores.shape[:2]
    return [TensorType(I64, (*head, size)), TensorType(F32, (*head, size)), TensorType(I64, head)]


def _overlap(p: np.ndarray, q: np.ndarray, center: bool) -> Any:
    """Intersection over union, operation by operation as the kernel computes it."""
    if center:
        half = p.dtype.type(0.5)
        (ay0, ax0), (ay1, ax1) = p[:2] - p[2:] * half, p[:2] + p[2:] * half
        (by0, bx0), (by1, bx1) = q[:2] - q[2:] * half, q[:2] + q[2:] * half
    else:
        (ay0, ax0), (ay1, ax1) = np.minimum(p[:2], p[2:]), np.maximum(p[:2], p[2:])
        (by0, bx0), (by1, bx1) = np.minimum(q[:2], q[2:]), np.maximum(q[:2], q[2:])
    area_a, area_b = (ay1 - ay0) * (ax1 - ax0), (by1 - by0) * (bx1 - bx0)
    if not (area_a > 0 and area_b > 0):
        return p.dtype.type(0)
    tall = np.maximum(np.minimum(ay1, by1) - np.maximum(ay0, by0), p.dtype.type(0))
    wide = np.maximum(np.minimum(ax1, bx1) - np.maximum(ax0, bx0), p.dtype.type(0))
    inter = tall * wide
    return inter / (area_a + area_b - inter)


def _suppress(boxes: np.ndarray, scores: np.ndarray, most: int, rest: Arrays, center: bool) -> tuple[list[int], Any]:
    iou, least, sigma = (s[()] for s in rest)
    scale = boxes.dtype.type(-0.5) / sigma if sigma > 0 else boxes.dtype.type(0)
    alive = {int(i): s for i, s in enumerate(scores) if s > least}
    seen = dict.fromkeys(alive, 0)
    chosen: list[int] = []
    kept: list[Any] = []
    while alive and len(chosen) < most:
        best = min(alive, key=lambda i: (-alive[i], i))
        score = before = alive.pop(best)
        gone = False
        for j in reversed(range(seen[best], len(chosen))):
            overlap = _overlap(boxes[best], boxes[chosen[j]], center)
            if sigma > 0:
                score = score * np.exp(scale * overlap * overlap)
            elif overlap > iou:
                gone = True
                break
            if score <= least:
                break
        seen[best] = len(chosen)
        if gone:
            continue
        if score == before:
            chosen.append(best)
            kept.append(score)
        elif score > least:
            alive[best] = score
    return chosen, kept


def _eval_nms(a: Arrays, attrs: Attrs, ctx: EvalContext) -> tuple[np.ndarray, ...]:
    boxes, scores, limit = a[:3]
    size = attrs["size"]
    out = np.zeros((*scores.shape[:2], size), np.int64)
    values = np.zeros(out.shape, scores.dtype)
    number = np.zeros(out.shape[:2], np.int64)
    for b, c in np.ndindex(*number.shape):
        found, kept = _suppress(boxes[b], scores[b, c], min(size, max(int(limit), 0)), a[3:], attrs["center"])
        number[b, c] = len(found)
        out[b, c, : len(found)], values[b, c, : len(found)] = found, kept
    return out, values, number


define_op(
    OpDef(
        "non_max_suppression", ("boxes", "scores", "limit", "iou_threshold", "score_threshold", "sigma"), "opaque",
        _infer_nms, _eval_nms, attrs={"size": REQUIRED, "center": False},
        cost=lambda n: Cost(n.operands[1].type.size * 64, 2 * n.operands[0].type.nbytes),
        doc="Greedy selection of boxes [batch, n, (y, x, y, x)] by scores [batch, classes, n], the first of equal "
        "scores first: a box goes when its overlap with one that was chosen is greater than ``iou_threshold``, or its "
        "score not greater than ``score_threshold``. sigma > 0 lowers scores instead (soft suppression, Bodla 2017). "
        "At most min(size, limit) per class. ``center``: boxes are (x, y, width, height). Gives (places, scores, "
        "number).",
    )
)  # fmt: skip

__all__ = ["ORDERS"]
