"""Reductions: axes as attribute or operand, L1/L2/LogSum forms, arg extremes, cumulative ops.

Owns noop_with_empty_axes and select_last_index.
"""

from __future__ import annotations

from typing import Any

from ....core.dims import product
from ....core.dtypes import BOOL, F32, F64, I64
from ....ir.graph import Value
from ..call import OPS, Call, op

_AXES_OPERAND = {"ReduceSum": 13}


def _plain(name: str) -> Any:
    return lambda c, x, axes: getattr(c.b, f"reduce_{name}")(x, axes=axes, keepdims=bool(c.integer("keepdims", 1)))


def _sum(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    return c.b.reduce_sum(x, axes=axes, keepdims=bool(c.integer("keepdims", 1)))


def _mean(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    if x.dtype.is_float:
        return _plain("mean")(c, x, axes)
    count = product(x.shape[a] for a in axes)
    if not isinstance(count, int) or count == 0:
        raise c.refuse("the mean of integers needs fixed, non-empty extents")
    return c.b.truncdiv(_sum(c, x, axes), c.like(count, x))


def _extreme(name: str, on_bool: str) -> Any:
    def lower(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
        return _plain(on_bool if x.dtype is BOOL else name)(c, x, axes)

    return lower


def _square(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    return _sum(c, c.b.square(x), axes)


def _rooted(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    total = _square(c, x, axes)
    if x.dtype.is_float:
        return c.b.sqrt(total)
    return c.b.cast(c.b.sqrt(c.b.cast(total, to=F64)), to=x.dtype)


def _logged(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    total = _sum(c, x, axes)
    return c.b.log(total) if x.dtype.is_float else c.b.cast(c.b.log(c.b.cast(total, to=F64)), to=x.dtype)


def _log_sum_exp(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    b = c.b
    wide = x if x.dtype.is_float else b.cast(x, to=F64)
    top = b.reduce_max(wide, axes=axes, keepdims=True)
    # An infinite maximum would make inf - inf.
    safe = b.where(b.isfinite(top), top, c.like(0.0, wide))
    y = b.add(b.log(b.reduce_sum(b.exp(b.sub(wide, safe)), axes=axes, keepdims=True)), safe)
    if not c.integer("keepdims", 1):
        y = b.reshape(y, shape=tuple(d for i, d in enumerate(x.shape) if i not in axes))
    return y if wide is x else b.cast(y, to=x.dtype)


_FORMS = {
    "ReduceSum": _sum, "ReduceMean": _mean, "ReduceProd": _plain("prod"), "ReduceMax": _extreme("max", "any"),
    "ReduceMin": _extreme("min", "all"), "ReduceL1": lambda c, x, axes: _sum(c, c.b.abs(x), axes), "ReduceL2": _rooted,
    "ReduceSumSquare": _square, "ReduceLogSum": _logged, "ReduceLogSumExp": _log_sum_exp,
}  # fmt: skip
# What remains of x when nothing is reduced (noop_with_empty_axes): the sum over one element each.


def _reduction(name: str) -> Any:
    def lower(c: Call, x: Value, axes: Value | None = None) -> Value:
        given: tuple[int, ...] | None
        if c.opset < _AXES_OPERAND.get(name, 18):
            given = c.ints("axes")
            empty_is_none = False
        else:
            given = None if axes is None else c.known_ints(axes, "axes")
            empty_is_none = bool(c.integer("noop_with_empty_axes", 0))
        if not given:
            if empty_is_none:
                return _FORMS[name](c, x, ())
            given = tuple(range(x.rank))
        return _FORMS[name](c, x, tuple(sorted({c.axis(a, x.rank) for a in given})))

    return lower


for _name in _FORMS:
    OPS[("", _name)] = _reduction(_name)


def _arg(name: str) -> Any:
    def lower(c: Call, x: Value) -> Value:
        b = c.b
        axis, keep = c.axis(c.integer("axis", 0), x.rank), bool(c.integer("keepdims", 1))
        if not c.integer("select_last_index", 0):
            return getattr(b, name)(x, axis=axis, keepdims=keep)
        found = getattr(b, name)(b.reverse(x, axes=(axis,)), axis=axis, keepdims=keep)
        return b.sub(b.dim(x.shape[axis] - 1), found)

    return lower


OPS[("", "ArgMax")] = _arg("argmax")
OPS[("", "ArgMin")] = _arg("argmin")


def _cumulative(name: str) -> Any:
    def lower(c: Call, x: Value, axis: Value) -> Value:
        at = c.axis(int(c.scalar(axis, "axis")), x.rank)
        return getattr(c.b, name)(
            x, axis=at, exclusive=bool(c.integer("exclusive", 0)), reverse=bool(c.integer("reverse", 0))
        )

    return lower


OPS[("", "CumSum")] = _cumulative("cumsum")
OPS[("", "CumProd")] = _cumulative("cumprod")


@op("TopK")
def _top_k(c: Call, x: Value, k: Value | None = None) -> Any:
    if k is None:
        count: Any = c.integer("k")
    else:
        (given,) = c.elements(k, "k")
        count = None
    if count is None and k is None:
        raise c.refuse("k is missing", "malformed")
    axis, largest = c.axis(c.integer("axis", -1), x.rank), bool(c.integer("largest", 1))
    if k is not None:
        count = c.positions.size(given, x.shape[axis])
    values, index = c.b.top_k(x, k=count, axis=axis, largest=largest)
    return values, c.b.cast(index, to=I64)


@op("LpNormalization")
def _lp_norm(c: Call, x: Value) -> Value:
    b, p, axis = c.b, c.integer("p", 2), c.axis(c.integer("axis", -1), x.rank)
    if p not in (1, 2):
        raise c.refuse(f"p={p}", "malformed")
    if p == 1:
        norm = b.reduce_sum(b.abs(x), axes=(axis,), keepdims=True)
    else:
        norm = b.sqrt(b.reduce_sum(b.square(x), axes=(axis,), keepdims=True))
    # A line of zeros stays zero.
    return b.where(b.eq(norm, 0.0), c.like(0.0, x), b.div(x, norm))


_ = F32
