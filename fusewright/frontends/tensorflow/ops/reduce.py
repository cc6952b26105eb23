"""Reductions, extremes' positions, cumulative ops, sorting.

Owns axes given as tensors. Axes may be negative; an axis named twice is a refusal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Extent, maximum, minimum, product
from ....core.dtypes import BOOL, I64, U8
from ....ir.graph import Value
from ...slicing import pick
from ..lower import Ctx, fold, op, same_type
from ..values import Item
from . import positions

_IR = {
    "Sum": "reduce_sum", "Mean": "reduce_mean", "Max": "reduce_max", "Min": "reduce_min", "Prod": "reduce_prod",
    "Any": "reduce_any", "All": "reduce_all",
}  # fmt: skip


def axes_of(c: Ctx, axes: Item, rank: int) -> tuple[int, ...]:
    """Reduction axes from a tensor."""
    found = c.ints(axes, "the axes")
    if any(not -rank <= a < rank for a in found):
        raise c.refuse(f"axes {found} are not inside rank {rank}", code="malformed")
    return tuple(a % rank for a in found)


@op(*_IR, raw=True)
def _reduce(c: Ctx, item: Item, axes: Item) -> Any:
    x, keep = c.v(item), c.b("keep_dims", False)
    along = axes_of(c, axes, x.rank)
    kind = c.node.op
    if kind == "Mean" and not x.dtype.is_float:
        total = c.bld.reduce_sum(x, axes=along, keepdims=keep)
        count = product(x.shape[a] for a in along)
        if not isinstance(count, int):
            raise c.refuse("the mean of integers over a symbolic extent is not supported")
        return c.bld.truncdiv(total, c.const(count, x))
    return getattr(c.bld, _IR[kind])(x, axes=along, keepdims=keep)


@op("EuclideanNorm", raw=True)
def _norm(c: Ctx, item: Item, axes: Item) -> Any:
    x = c.v(item)
    total = c.bld.reduce_sum(c.bld.square(x), axes=axes_of(c, axes, x.rank), keepdims=c.b("keep_dims", False))
    return c.bld.sqrt(total)


# Over object arrays of integers and symbolic extents, which have no order that numpy could ask for.
_EXTENTS = {
    "Sum": np.add, "Prod": np.multiply, "Max": np.frompyfunc(maximum, 2, 1), "Min": np.frompyfunc(minimum, 2, 1),
}  # fmt: skip


@fold("Sum", "Prod", "Max", "Min")
def _fold_reduce(c: Ctx, x: np.ndarray, axes: np.ndarray) -> Any:
    if any(not isinstance(a, int) for a in axes.ravel()) or not x.size:
        return None
    along = tuple(int(a) for a in axes.ravel())
    for axis in {a % x.ndim for a in along}:
        x = _EXTENTS[c.node.op].reduce(x, axis=axis, keepdims=True)
    return x if c.b("keep_dims", False) else np.squeeze(x, tuple(along)), c.type("T")


@fold("All", "Any")
def _fold_logic(c: Ctx, x: np.ndarray, axes: np.ndarray) -> Any:
    along = tuple(int(a) for a in axes.ravel())
    f = np.all if c.node.op == "All" else np.any
    return f(x.astype(bool), axis=along, keepdims=c.b("keep_dims", False)), BOOL


@op("ArgMax", "ArgMin", raw=True)
def _arg(c: Ctx, item: Item, axis: Item) -> Any:
    x = c.v(item)
    if x.dtype is BOOL:
        x = c.bld.cast(x, to=U8)
    found = c.bld.argmax if c.node.op == "ArgMax" else c.bld.argmin
    out = found(x, axis=c.axis(axis, x.rank))
    return same_type(c, out, c.type("output_type", 9))


@op("Cumsum", "Cumprod", raw=True)
def _cumulative(c: Ctx, item: Item, axis: Item) -> Any:
    x = c.v(item)
    f = c.bld.cumsum if c.node.op == "Cumsum" else c.bld.cumprod
    along = c.axis(axis, x.rank)
    return f(x, axis=along, exclusive=c.b("exclusive", False), reverse=c.b("reverse", False))


@op("TopKV2", "TopK", raw=True)
def _top_k(c: Ctx, item: Item, count: Item | None = None) -> Any:
    x = c.v(item)
    k: Extent
    if count is None:
        k = c.i("k")
    elif positions.known(c, count, "k") is None:
        k = positions.computed(c).size(positions.elements(c, count, "k")[0], x.shape[-1])
    else:
        k = c.number_of(count, "k")
    values, places = c.bld.top_k(x, k=k, axis=x.rank - 1)
    return [values, same_type(c, places, c.type("index_type", 3))]


@op("NthElement", raw=True)
def _nth(c: Ctx, item: Item, n: Item) -> Any:
    x = c.v(item)
    at = c.number_of(n, "n")
    values, _ = c.bld.sort(x, axis=x.rank - 1, descending=c.b("reverse", False))
    return pick(c.bld, values, x.rank - 1, at)


@op("Softmax")
def _softmax(c: Ctx, x: Value) -> Any:
    return c.bld.softmax(x, axes=x.rank - 1)


@op("LogSoftmax")
def _log_softmax(c: Ctx, x: Value) -> Any:
    return c.bld.log_softmax(x, axes=x.rank - 1)


@op("SoftmaxCrossEntropyWithLogits")
def _cross_entropy(c: Ctx, logits: Value, labels: Value) -> Any:
    b = c.bld
    zero = c.const(0, logits)
    logs = b.log_softmax(logits, axes=1)
    # 0 * log(0) is 0 here.
    terms = b.where(b.eq(labels, zero), zero, b.mul(labels, logs))
    return [b.neg(b.reduce_sum(terms, axes=(1,))), b.sub(b.softmax(logits, axes=1), labels)]


@op("SparseSoftmaxCrossEntropyWithLogits")
def _sparse_cross_entropy(c: Ctx, logits: Value, labels: Value) -> Any:
    b = c.bld
    classes = b.iota(shape=(1, logits.shape[1]), axis=1, dtype=I64)
    wide = b.reshape(same_type(c, labels, I64), shape=(*labels.shape, 1))
    hot = b.eq(wide, classes)
    logs = b.log_softmax(logits, axes=1)
    loss = b.neg(b.reduce_sum(b.where(hot, logs, c.const(0, logits)), axes=(1,)))
    return [loss, b.sub(b.softmax(logits, axes=1), b.cast(hot, to=logits.dtype))]
