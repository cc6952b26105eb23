"""The bits of one element type read as another: ``bitcast``.

Owns the layout of elements in bytes (little-endian). Must not convert values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.dtypes import BOOL, DTYPES, DType, decode, dtype, encode
from ...core.errors import TypeRefused
from ..graph import Graph
from ..opdef import REQUIRED, Attrs, BoundContext, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays
from .shape import view_cost


def _infer(types: Sequence[TensorType], attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    x, to = types[0], dtype(attrs["to"])
    attrs["to"], attrs["of"] = to, x.dtype
    if BOOL in (x.dtype, to):
        raise TypeRefused("a bool has one bit that counts: cast instead")
    if to.size < x.dtype.size:
        return [TensorType(to, (*x.shape, x.dtype.size // to.size))]
    if to.size > x.dtype.size:
        if not x.rank or x.shape[-1] != to.size // x.dtype.size:
            raise TypeRefused(f"the last extent must be {to.size // x.dtype.size} to make {to} of {x}")
        return [TensorType(to, x.shape[:-1])]
    return [x.with_dtype(to)]


def _eval(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    of: DType = attrs["of"]
    to: DType = attrs["to"]
    x = a[0]
    with np.errstate(all="ignore"):
        stored = np.ascontiguousarray(encode(x.astype(of.compute), of)).reshape(x.shape)
    if to.size == of.size:
        bits = stored.view(to.np)
    elif to.size < of.size:
        bits = stored.reshape((*x.shape, 1)).view(to.np)
    else:
        bits = stored.view(to.np).reshape(x.shape[:-1])
    return decode(bits, to).astype(ctx.np_dtype(to))


def _bound(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    """Exact bits of exact values; those of an inexact one, or of a NaN, may be any."""
    undecided = (np.broadcast_to(e[0], a[0].shape) > 0) | np.isnan(np.asarray(a[0], np.float64))
    wide = np.where(undecided, np.inf, 0.0)
    if o.ndim == wide.ndim:
        return wide
    if o.ndim > wide.ndim:
        return np.broadcast_to(wide[..., None], o.shape)
    return np.max(wide, axis=-1, initial=0.0)


def _sample(draw: Any, value: Any) -> Any:
    """Integers of one size, whose bits are always decided."""
    pairs = {"i8": "u8", "i16": "u16", "i32": "u32", "i64": "u64", "u8": "i8", "u16": "i16", "u32": "i32", "u64": "i64"}
    x = value(dtypes=tuple(DTYPES[name] for name in pairs))
    return [x], {"to": pairs[x.dtype.name]}


define_op(
    OpDef(
        "bitcast", ("x",), "view", _infer, _eval, attrs={"to": REQUIRED, "of": None}, bound=_bound, views={0: 0},
        cost=view_cost, sample=_sample,
        doc="The bits of x as dtype ``to``: of a smaller type a last axis of parts, lowest first; of a larger one the "
        "last axis goes. ``of`` is x's own type (filled in).",
    )
)  # fmt: skip
