"""Reductions over axes, and argmax/argmin.

Owns reduce_sum/mean/max/min/prod/any/all. Empty reductions: sum 0, prod 1, any False, all True, mean NaN; max and min
of a float give -inf and +inf, of an int the type's least and greatest value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.dtypes import BOOL, FLOATS, I64, INTS, DType
from ...core.errors import TypeRefused
from ..graph import Graph, Node
from ..opdef import Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, axes_of, axis_of, gamma
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
        finite = np.where(np.isfinite(x), np.abs(x), 0)
        magnitude = _sum(finite + err, bc)
        total = _sum(err, bc) + gamma(n, bc.u) * magnitude
        # Partial overflow: where the magnitudes pass float32's range the order decides.
        return np.where(magnitude >= 3.4028234e38, np.inf, total)


def _bound_mean(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    n = int(np.prod([a[0].shape[i] for i in bc.attrs["axes"]], dtype=int))
    if n == 0:
        return np.zeros(o.shape)
    with np.errstate(all="ignore"):
        return _bound_sum(a, e, o, bc) / n + 2 * bc.u * np.where(np.isfinite(o), np.abs(o), 0) + bc.eta


def _bound_max(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    err = np.broadcast_to(e[0], a[0].shape)
    return np.asarray(np.max(err, axis=bc.attrs["axes"], keepdims=bc.attrs["keepdims"], initial=0))


def _bound_prod(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    if np.any(e[0]):
        return np.full(o.shape, np.inf)
    x = np.asarray(a[0], np.float64)
    n = int(np.prod([x.shape[i] for i in bc.attrs["axes"]], dtype=int))
    with np.errstate(all="ignore"):
        # A partial product may leave float32's range in another order although the whole does not.
        wide = np.prod(np.maximum(np.abs(x), 1), axis=bc.attrs["axes"], keepdims=bc.attrs["keepdims"])
        tiny = np.prod(np.minimum(np.abs(x), 1), axis=bc.attrs["axes"], keepdims=bc.attrs["keepdims"])
        risky = np.isfinite(wide) & ((wide >= 3.4028234e38) | (tiny < 2.0**-126)) | ~np.isfinite(wide) & np.isfinite(o)
        return np.where(risky, np.inf, np.where(np.isfinite(o), gamma(n, bc.u) * np.abs(o) + bc.eta, 0))


def _bound_bool(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    return np.where(np.any(e[0]), np.inf, np.zeros(o.shape))


def _cost(node: Node) -> Cost:
    x = node.operands[0].type
    return Cost(x.size, x.nbytes + node.results[0].type.nbytes)


for _name, _domain, _bound in (
    ("sum", NUMERIC, _bound_sum), ("mean", FLOATS, _bound_mean), ("prod", NUMERIC, _bound_prod),
    ("max", NUMERIC, _bound_max), ("min", NUMERIC, _bound_max), ("any", (BOOL,), _bound_bool), ("all", (BOOL,), _bound_bool),
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
        return np.asarray(pick(a[0], axis=attrs["axis"], keepdims=attrs["keepdims"]), np.int64)

    return evaluate


def _bound_arg(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    return np.where(np.any(e[0]), np.inf, np.zeros(o.shape))


for _name, _pick in (("argmax", np.argmax), ("argmin", np.argmin)):
    define_op(
        OpDef(
            _name, ("x",), "reduce", _infer_arg, _eval_arg(_pick), attrs={"axis": -1, "keepdims": False},
            bound=_bound_arg, cost=_cost, doc="i64 position of the first extreme along ``axis``; NaN wins.",
        )
    )  # fmt: skip
