"""Reductions over axes, and argmax/argmin.

Owns reduce_sum/mean/max/min/prod/any/all. Empty reductions: sum 0, prod 1, any False, all True, mean NaN; max and min
of a float give -inf and +inf, of an int the type's least and greatest value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.dtypes import BOOL, FLOATS, I64, INTS, DType
from ...core.errors import InputRefused, TypeRefused
from ..graph import Graph, Node
from ..opdef import Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, axes_of, axis_of, ends, finite, product_bound, summed
from .elementwise import NUMERIC

Types = Sequence[TensorType]


def reduced_shape(x: TensorType, axes: Sequence[int], keepdims: bool) -> tuple[Any, ...]:
    """The shape after reducing ``axes``."""
    if keepdims:
        return tuple(1 if i in axes else d for i, d in enumerate(x.shape))
    return tuple(d for i, d in enumerate(x.shape) if i not in axes)


def _infer(domain: Sequence[DType]) -> Callable[..., list[TensorType]]:
    def infer(types: Types, attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
        x = types[0]
        if x.dtype not in domain:
            raise TypeRefused(f"takes {'/'.join(d.name for d in domain)}, not {x.dtype}")
        attrs["axes"] = axes_of(attrs["axes"], x.rank)
        return [x.with_shape(reduced_shape(x, attrs["axes"], attrs["keepdims"]))]

    return infer


def _lowest(dt: np.dtype[Any], largest: bool) -> Any:
    if dt.kind == "f":
        return np.inf if largest else -np.inf
    return np.iinfo(dt).max if largest else np.iinfo(dt).min


def _evaluator(name: str) -> Callable[[Arrays, Attrs, EvalContext], np.ndarray]:
    def evaluate(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
        x, axes, keep = a[0], attrs["axes"], attrs["keepdims"]
        if not axes:
            # NumPy would start a sum at 0 and so lose the sign of -0.
            return np.asarray(x)
        with np.errstate(all="ignore"):
            if name == "sum":
                out = np.sum(x, axis=axes, keepdims=keep, dtype=x.dtype)
            elif name == "prod":
                out = np.prod(x, axis=axes, keepdims=keep, dtype=x.dtype)
            elif name == "mean":
                count = int(np.prod([x.shape[i] for i in axes], dtype=int))
                out = np.sum(x, axis=axes, keepdims=keep, dtype=x.dtype) / np.asarray(count, x.dtype)
            elif name == "max":
                out = np.max(x, axis=axes, keepdims=keep, initial=_lowest(x.dtype, False))
            elif name == "min":
                out = np.min(x, axis=axes, keepdims=keep, initial=_lowest(x.dtype, True))
            else:
                out = (np.any if name == "any" else np.all)(x, axis=axes, keepdims=keep)
        return np.asarray(out, x.dtype)

    return evaluate


def _sum(x: np.ndarray, bc: BoundContext) -> np.ndarray:
    return np.asarray(np.sum(x, axis=bc.attrs["axes"], keepdims=bc.attrs["keepdims"], dtype=np.float64))


def _bound_sum(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    x, err = np.asarray(a[0], np.float64), np.broadcast_to(e[0], a[0].shape)
    n = int(np.prod([x.shape[i] for i in bc.attrs["axes"]], dtype=int))
    with np.errstate(all="ignore"):
        magnitude, spread = _sum(finite(x) + err, bc), _sum(err, bc)

        def sides() -> tuple[np.ndarray, np.ndarray]:
            above, below = ends(x, err)
            return _sum(above, bc), _sum(below, bc)

        return summed(n, magnitude, spread, o, bc, sides, products=False)


def _bound_mean(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    n = int(np.prod([a[0].shape[i] for i in bc.attrs["axes"]], dtype=int))
    if n == 0:
        return np.zeros(o.shape)
    with np.errstate(all="ignore"):
        # A sum that overflows for certain is still no mean: another order divides first.
        total = np.where(finite(o * n) > bc.top, np.inf, _bound_sum(a, e, o * n, bc)) / n
        err = total + 2 * bc.u * (finite(o) + np.where(np.isfinite(total), total, 0)) + bc.eta
        return np.where((o == 0) & (total == 0), 0.0, err)


def _bound_max(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    err = np.broadcast_to(e[0], a[0].shape)
    return np.asarray(np.max(err, axis=bc.attrs["axes"], keepdims=bc.attrs["keepdims"], initial=0))


def _bound_prod(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    x, err = np.asarray(a[0], np.float64), np.broadcast_to(e[0], a[0].shape)
    n = int(np.prod([x.shape[i] for i in bc.attrs["axes"]], dtype=int))

    def multiply(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.prod(values, axis=bc.attrs["axes"], keepdims=bc.attrs["keepdims"], dtype=np.float64))

    if not bc.u:
        return _bound_bool(a, e, o, bc)
    return product_bound(n, x, err, multiply, o, bc)


def _bound_bool(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    dirty = np.broadcast_to(e[0], a[0].shape) > 0
    return np.where(np.any(dirty, axis=bc.attrs["axes"], keepdims=bc.attrs["keepdims"]), np.inf, 0.0)


def _cost(node: Node) -> Cost:
    x = node.operands[0].type
    return Cost(x.size, x.nbytes + node.results[0].type.nbytes)


for _name, _domain, _bound in (
    ("sum", NUMERIC, _bound_sum), ("mean", FLOATS, _bound_mean), ("prod", NUMERIC, _bound_prod),
    ("max", NUMERIC, _bound_max), ("min", NUMERIC, _bound_max), ("any", (BOOL,), _bound_bool),
    ("all", (BOOL,), _bound_bool),
):  # fmt: skip
    define_op(
        OpDef(
            f"reduce_{_name}", ("x",), "reduce", _infer(_domain), _evaluator(_name),
            attrs={"axes": None, "keepdims": False}, bound=_bound, cost=_cost,
            doc=f"{_name} over ``axes`` (None: all; (): none).",
        )
    )  # fmt: skip


def _infer_arg(types: Types, attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    x = types[0]
    if x.dtype not in (*FLOATS, *INTS, BOOL):
        raise TypeRefused(f"does not take {x.dtype}")
    axis = attrs["axis"] = axis_of(attrs["axis"], x.rank)
    if x.shape[axis] == 0:
        raise TypeRefused("the position of the extreme of an empty axis is not defined")
    return [TensorType(I64, reduced_shape(x, (axis,), attrs["keepdims"]))]


def _eval_arg(pick: Callable[..., Any]) -> Callable[[Arrays, Attrs, EvalContext], np.ndarray]:
    def evaluate(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
        if a[0].shape[attrs["axis"]] == 0:
            raise InputRefused("the position of the extreme of an empty axis is not defined")
        return np.asarray(pick(a[0], axis=attrs["axis"], keepdims=attrs["keepdims"]), np.int64)

    return evaluate


def _bound_arg(sign: float) -> Callable[..., np.ndarray]:
    """Decided where the line is exact, or where the extreme leads by more than the errors."""

    def bound(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
        axis = bc.attrs["axis"]
        err = np.broadcast_to(e[0], a[0].shape)
        dirty = np.any(err > 0, axis=axis, keepdims=True)
        x = np.asarray(a[0], np.float64) * sign
        with np.errstate(all="ignore"):
            best = np.argmax(x, axis=axis, keepdims=True)
            least = np.take_along_axis(x - err, best, axis)
            rivals = x + err
            np.put_along_axis(rivals, best, -np.inf, axis)
            leads = least > np.max(rivals, axis=axis, keepdims=True)
        return np.where(dirty & ~leads, np.inf, 0.0).reshape(o.shape)

    return bound


for _name, _pick, _sign in (("argmax", np.argmax, 1.0), ("argmin", np.argmin, -1.0)):
    define_op(
        OpDef(
            _name, ("x",), "reduce", _infer_arg, _eval_arg(_pick), attrs={"axis": -1, "keepdims": False},
            bound=_bound_arg(_sign), cost=_cost, doc="i64 position of the first extreme along ``axis``; NaN wins.",
        )
    )  # fmt: skip
