"""``keras.ops`` nodes about order: sorting, quantiles, search, sets, segments.

Owns their decompositions. Must not know layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....core.dims import Extent, product
from ....core.dtypes import BOOL, I32, I64
from ....ir.graph import Value
from ..call import Call, operation
from .ops import axes_option, floats, option, strong, value
from .ops_shape import flat, from_end


@operation("Sort")
def _sort(c: Call, x: Any, **k: Any) -> Value:
    return _sorted(c, value(c, x), option(c, k, "axis", -1))[0]


def _sorted(c: Call, v: Value, axis: Any) -> tuple[Value, Value]:
    if axis is None:
        v, axis = flat(c, v), 0
    narrow = v.dtype is BOOL
    found, at = c.b.sort(c.cast(v, I32) if narrow else v, axis=c.axis(axis, v.rank), descending=False)
    return (c.b.cast(found, to=BOOL) if narrow else found), at


@operation("Argsort")
def _argsort(c: Call, x: Any, **k: Any) -> Value:
    v, axis = value(c, x), c.config.get("axis", -1)
    return c.cast(_sorted(c, v, k.get("axis", axis))[1], I32)


@operation("TopK")
def _top_k(c: Call, x: Any, **k: Any) -> list[Value]:
    v = value(c, x)
    found, at = c.b.top_k(v, k=int(option(c, k, "k")), axis=v.rank - 1, largest=True)
    return [found, c.cast(at, I32)]


@operation("InTopK")
def _in_top_k(c: Call, targets: Any, predictions: Any, **k: Any) -> Value:
    """Fewer than k classes score higher than the target, and its own score is finite."""
    t, p = value(c, targets), floats(c, predictions)
    b = c.b
    own = b.gather(p, b.reshape(t, shape=(t.shape[0], 1)), axis=1, batch_dims=1)
    higher = b.reduce_sum(b.cast(b.gt(p, own), to=I32), axes=(1,))
    return b.logical_and(b.lt(higher, int(option(c, k, "k"))), b.isfinite(b.reshape(own, shape=t.shape)))


@operation("Median", "Nanmedian", "Quantile", "Percentile", "Nanquantile", "Nanpercentile")
def _quantile(c: Call, x: Any, q: Any = None, **k: Any) -> Value:
    """Order statistics between the sorted elements; NaN wherever one is among them, or leaving those out."""
    v, b, name = floats(c, x), c.b, c.spec.class_name
    axes = axes_option(c, k, v.rank)
    keep, method = bool(option(c, k, "keepdims", False)), str(option(c, k, "method", "linear"))
    levels = np.asarray(0.5 if name.endswith("edian") else getattr(q, "value", q), np.float64)
    if isinstance(q, Value) or levels.dtype.kind != "f":
        raise c.refuse("q must be fixed numbers")
    levels = levels / 100.0 if name.endswith("ercentile") else levels
    rest = tuple(a for a in range(v.rank) if a not in axes)
    lead = tuple(v.shape[a] for a in rest)
    flattened = b.reshape(b.transpose(v, perm=(*rest, *axes)), shape=(*lead, product(v.shape[a] for a in axes)))
    nan = b.isnan(flattened)
    # NaN sorts to the end as infinity; the count of numbers then says where the quantile lies.
    ordered = _sorted(c, b.where(nan, b.constant(math.inf, v.dtype), flattened), -1)[0]
    numbers = b.cast(b.logical_not(nan), to=I64)
    count = b.cast(b.reduce_sum(numbers, axes=(len(lead),), keepdims=True), to=v.dtype)
    parts = []
    for level in levels.reshape(-1):
        at = b.mul(b.sub(count, 1.0), float(level))
        low, high = b.floor(at), b.ceil(at)
        take = lambda i: b.gather(ordered, b.cast(b.maximum(i, 0.0), to=I32), axis=len(lead), batch_dims=len(lead))
        if method == "linear":
            share = b.sub(at, low)
            one, two = take(low), take(high)
            found = b.add(one, b.mul(b.where(b.eq(share, 0.0), b.constant(0, v.dtype), b.sub(two, one)), share))
        elif method == "midpoint":
            found = b.mul(b.add(take(low), take(high)), 0.5)
        elif method in ("lower", "higher", "nearest"):
            found = take({"lower": low, "higher": high, "nearest": b.round(at)}[method])
        else:
            raise c.refuse(f"method={method!r} is not supported")
        bad = b.eq(count, 0.0) if name.startswith("Nan") else b.reduce_any(nan, axes=(len(lead),), keepdims=True)
        parts.append(b.where(bad, b.constant(math.nan, v.dtype), found))
    shape: tuple[Extent, ...] = tuple(1 if a in axes else d for a, d in enumerate(v.shape)) if keep else lead
    found = b.concat(*(b.reshape(p, shape=(1, *shape)) for p in parts), axis=0)
    return found if levels.ndim else b.reshape(found, shape=shape)


@operation("Digitize", "SearchSorted")
def _digitize(c: Call, *args: Any, **k: Any) -> Value:
    """How many of the sorted bounds lie below (right: at or below) each value."""
    first = c.spec.class_name == "SearchSorted"
    bounds, x = (args[0], args[1]) if first else (args[1], args[0])
    b = c.b
    v, edges = strong(c, x, bounds)
    if edges.rank != 1:
        raise c.refuse("only one sorted vector is supported")
    spread = b.reshape(v, shape=(*v.shape, 1))
    right = not first or option(c, k, "side", "left") == "right"
    inside = b.ge(spread, edges) if right else b.gt(spread, edges)
    return b.reduce_sum(b.cast(inside, to=I32), axes=(v.rank,))


@operation("IsIn")
def _is_in(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = strong(c, x1, x2)
    found = c.b.reduce_any(c.b.eq(c.b.reshape(x, shape=(*x.shape, 1)), flat(c, y)), axes=(x.rank,))
    return c.b.logical_not(found) if option(c, k, "invert", False) else found


@operation("UnravelIndex")
def _unravel(c: Call, indices: Any, **k: Any) -> list[Value]:
    shape = option(c, k, "shape")
    shape = [shape] if isinstance(shape, int) else list(shape)
    v, b, out = from_end(c, value(c, indices), math.prod(shape)), c.b, []
    for i, n in enumerate(shape):
        out.append(b.mod(b.floordiv(v, math.prod(shape[i + 1 :])), n))
    return out


for _name, _how in {"SegmentSum": "add", "SegmentMax": "max", "SegmentMin": "min", "SegmentProd": "mul"}.items():

    @operation(_name)
    def _segment(c: Call, data: Any, segment_ids: Any, _how: str = _how, **k: Any) -> Value:
        """Rows combined by their segment; a segment without rows keeps the identity (TensorFlow's largest number)."""
        v, ids, count = value(c, data), value(c, segment_ids), option(c, k, "num_segments")
        if not isinstance(count, int):
            raise c.refuse("num_segments must be given")
        limits = np.finfo(v.dtype.np) if v.dtype.is_float else np.iinfo(v.dtype.np)
        start = {"add": 0, "mul": 1, "max": limits.min, "min": limits.max}[_how]
        base = c.b.full((count, *v.shape[1:]), start.item() if hasattr(start, "item") else start, v.dtype)
        ids = c.b.where(c.b.lt(ids, 0), c.b.constant(count, ids.dtype), ids)  # negative ones are left out
        return c.b.scatter_nd(base, c.b.reshape(ids, shape=(*ids.shape, 1)), v, reduction=_how)
