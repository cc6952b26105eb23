"""Sources, gathers, scatters, scans over an axis, sorting.

Owns input, constant, return, iota, gather*, scatter_nd, dynamic slices, cumulative ops, sort and top_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.dims import compare_le, extent
from ...core.dtypes import BF16, BOOL, I32, I64, INTS, dtype
from ...core.errors import TypeRefused
from ..graph import Graph, Node
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op, extents
from ..types import TensorType
from ._common import Arrays, axis_of, ends, finite, one_dtype, product_bound, same, summed
from .elementwise import NUMERIC
from .shape import moved_cost

Types = Sequence[TensorType]
Regions = Sequence[Graph]


def _no_infer(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    raise TypeRefused("made by Builder.input, Builder.constant and Builder.build only")


define_op(OpDef("input", (), "source", _no_infer, attrs={"name": REQUIRED}, doc="A graph input."))
define_op(OpDef("constant", (), "source", _no_infer, attrs={"value": REQUIRED}, doc="Fixed contents."))
define_op(OpDef("return", ("x*",), "opaque", lambda t, a, r: [], doc="The outputs of a graph are its operands."))


def _infer_iota(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    attrs["shape"], attrs["dtype"] = extents(attrs["shape"]), dtype(attrs["dtype"])
    attrs["axis"] = axis_of(attrs["axis"], len(attrs["shape"]))
    if attrs["dtype"] not in NUMERIC:
        raise TypeRefused(f"iota makes numbers, not {attrs['dtype']}")
    return [TensorType(attrs["dtype"], attrs["shape"])]


def _eval_iota(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    shape, axis = attrs["shape"], attrs["axis"]
    line = np.arange(shape[axis], dtype=np.int64).astype(ctx.np_dtype(attrs["dtype"]))
    return np.broadcast_to(line.reshape((-1,) + (1,) * (len(shape) - axis - 1)), shape)


define_op(
    OpDef(
        "iota", (), "source", _infer_iota, _eval_iota, attrs={"shape": REQUIRED, "axis": 0, "dtype": I64},
        bound=lambda a, e, o, bc: np.where(finite(o) * bc.u > 0.5, bc.u * finite(o), 0.0),
        cost=lambda n: Cost(0, n.results[0].type.nbytes),
        doc="0, 1, 2... along ``axis``.",
    )
)  # fmt: skip


def _index_type(t: TensorType) -> None:
    if t.dtype not in INTS:
        raise TypeRefused(f"indices must be integers, not {t.dtype}")


def _infer_gather(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, i = types
    _index_type(i)
    axis = attrs["axis"] = axis_of(attrs["axis"], x.rank)
    batch = attrs["batch_dims"]
    if not isinstance(batch, int) or not 0 <= batch <= min(axis, i.rank):
        raise TypeRefused(f"batch_dims {batch} must be between 0 and axis {axis}")
    for k in range(batch):
        same(x.shape[k], i.shape[k], f"batch axis {k}")
    return [x.with_shape((*x.shape[:axis], *i.shape[batch:], *x.shape[axis + 1 :]))]


def _gather(x: np.ndarray, i: np.ndarray, attrs: Attrs) -> np.ndarray:
    axis, batch = attrs["axis"], attrs["batch_dims"]
    n = x.shape[axis]
    shape = (*x.shape[:axis], *i.shape[batch:], *x.shape[axis + 1 :])
    if n == 0:
        return np.zeros(shape, x.dtype)
    i = np.clip(i.astype(np.int64) if i.dtype != np.uint64 else np.minimum(i, 2**62).astype(np.int64), 0, n - 1)
    if batch == 0:
        return np.take(x, i, axis)
    count = int(np.prod(x.shape[:batch], dtype=int))
    if not count:
        return np.zeros(shape, x.dtype)
    flat = x.reshape((count, *x.shape[batch:]))
    rows = i.reshape((count, *i.shape[batch:]))
    return np.stack([np.take(r, k, axis - batch) for r, k in zip(flat, rows, strict=True)]).reshape(shape)


define_op(
    OpDef(
        "gather", ("x", "indices"), "gather", _infer_gather, lambda a, attrs, ctx: _gather(a[0], a[1], attrs),
        attrs={"axis": 0, "batch_dims": 0},
        bound=lambda a, e, o, bc: _gather(np.broadcast_to(e[0], a[0].shape), a[1], bc.attrs), cost=moved_cost,
        doc="Take slices of x along ``axis``. Indices outside the axis are clamped to it (0 for a negative one).",
    )
)  # fmt: skip


def _infer_gather_nd(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, i = types
    _index_type(i)
    batch = attrs["batch_dims"]
    if i.rank < 1 or not isinstance(i.shape[-1], int):
        raise TypeRefused("the last axis of the indices must have a fixed extent")
    depth = i.shape[-1]
    if not 0 <= batch < i.rank or batch + depth > x.rank:
        raise TypeRefused(f"indices of depth {depth} with batch_dims {batch} do not fit {x}")
    for k in range(batch):
        same(x.shape[k], i.shape[k], f"batch axis {k}")
    return [x.with_shape((*i.shape[:-1], *x.shape[batch + depth :]))]


def _gather_nd(x: np.ndarray, i: np.ndarray, attrs: Attrs, shape: Sequence[int]) -> np.ndarray:
    batch, depth = attrs["batch_dims"], i.shape[-1]
    if x.size == 0 or i.size == 0 and depth:
        return np.zeros(shape, x.dtype)
    index: list[np.ndarray] = []
    for k in range(batch):
        line = np.arange(x.shape[k]).reshape((1,) * k + (-1,) + (1,) * (i.ndim - 2 - k))
        index.append(np.broadcast_to(line, i.shape[:-1]))
    index += [np.clip(i[..., k].astype(np.int64), 0, x.shape[batch + k] - 1) for k in range(depth)]
    return x[tuple(index)] if index else np.broadcast_to(x, shape)


def _gather_nd_shape(a: Arrays, attrs: Attrs) -> tuple[int, ...]:
    return (*a[1].shape[:-1], *a[0].shape[attrs["batch_dims"] + a[1].shape[-1] :])


define_op(
    OpDef(
        "gather_nd", ("x", "indices"), "gather", _infer_gather_nd,
        lambda a, attrs, ctx: _gather_nd(a[0], a[1], attrs, _gather_nd_shape(a, attrs)), attrs={"batch_dims": 0},
        bound=lambda a, e, o, bc: _gather_nd(np.broadcast_to(e[0], a[0].shape), a[1], bc.attrs, o.shape),
        cost=moved_cost, doc="x[indices[..., 0], indices[..., 1], ...]; indices are clamped to the axes.",
    )
)  # fmt: skip

REDUCTIONS = ("set", "add", "mul", "max", "min")


def _infer_scatter(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, i, u = types
    _index_type(i)
    one_dtype([x, u])
    if attrs["reduction"] not in REDUCTIONS:
        raise TypeRefused(f"reduction {attrs['reduction']!r} is not one of {', '.join(REDUCTIONS)}")
    if i.rank < 1 or not isinstance(i.shape[-1], int) or i.shape[-1] > x.rank:
        raise TypeRefused(f"indices {i} do not fit {x}")
    want = (*i.shape[:-1], *x.shape[i.shape[-1] :])
    if len(want) != u.rank:
        raise TypeRefused(f"updates must have shape {want}, not {u.shape}")
    for k, (p, q) in enumerate(zip(want, u.shape, strict=True)):
        same(p, q, f"updates axis {k}")
    return [x]


def _eval_scatter(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    x, i, u = a[0].copy(), a[1], a[2]
    depth = i.shape[-1]
    rows = i.reshape((int(np.prod(i.shape[:-1], dtype=int)), depth)).astype(np.int64)
    updates = u.reshape((rows.shape[0], *x.shape[depth:]))
    inside = np.all((rows >= 0) & (rows < np.array(x.shape[:depth], np.int64)), axis=1)
    rows, updates = rows[inside], updates[inside]
    index = tuple(rows[:, k] for k in range(depth)) if depth else (slice(None),)
    ops = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
    with np.errstate(all="ignore"):
        if depth == 0:
            for row in updates:
                x = row.copy() if attrs["reduction"] == "set" else ops[attrs["reduction"]](x, row)
        elif attrs["reduction"] == "set":
            x[index] = updates
        elif x.dtype == bool:
            raise TypeRefused("scatter_nd reductions need numbers")
        else:
            ops[attrs["reduction"]].at(x, index, updates)  # type: ignore[arg-type]
    return x


def _bound_scatter(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    errs = [
        np.broadcast_to(e[0], a[0].shape).astype(np.float64),
        a[1],
        np.broadcast_to(e[2], a[2].shape).astype(np.float64),
    ]
    mode = bc.attrs["reduction"]
    if mode == "set":
        return _eval_scatter(errs, bc.attrs, bc.ctx)
    if mode in ("max", "min"):
        worst = _eval_scatter(errs, {**bc.attrs, "reduction": "max"}, bc.ctx)
        return worst
    n = a[2].size // max(int(np.prod(o.shape[a[1].shape[-1] :], dtype=int)), 1) + 1
    if mode == "add":
        magnitude = _eval_scatter([finite(a[0]) + errs[0], a[1], finite(a[2]) + errs[2]], bc.attrs, bc.ctx)
        return summed(n, magnitude, _eval_scatter(errs, bc.attrs, bc.ctx), o, bc, products=False)
    # x and the updates as one array, so that both are factors of one product.
    joined = np.concatenate([a[0].ravel(), a[2].ravel()]).astype(np.float64)
    errors = np.concatenate([errs[0].ravel(), errs[2].ravel()])

    def multiply(values: np.ndarray) -> np.ndarray:
        x, u = values[: o.size].reshape(o.shape), values[o.size :].reshape(a[2].shape)
        return _eval_scatter([x, a[1], u], bc.attrs, bc.ctx)

    if not bc.u:
        return np.where(multiply(np.where(errors > 0, 0.0, 1.0)) == 0, np.inf, 0.0)
    return product_bound(n, joined, errors, multiply, o, bc)


define_op(
    OpDef(
        "scatter_nd", ("x", "indices", "updates"), "gather", _infer_scatter, _eval_scatter,
        attrs={"reduction": "set"}, bound=_bound_scatter, overwrites=(0,), cost=moved_cost,
        doc="x with updates written (or combined) at indices, in order; rows of indices outside x are dropped.",
    )
)  # fmt: skip


def _infer_dynamic_slice(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, starts = types[0], types[1:]
    sizes = attrs["sizes"] = extents(attrs["sizes"])
    if len(starts) != x.rank or len(sizes) != x.rank:
        raise TypeRefused(f"needs one start and one size per axis ({x.rank})")
    for s in starts:
        _index_type(s)
        if s.rank:
            raise TypeRefused("starts must be scalars")
    for n, k in zip(x.shape, sizes, strict=True):
        if compare_le(k, n) is False or compare_le(0, k) is False:
            raise TypeRefused(f"size {k} is outside the extent {n}")
    return [x.with_shape(sizes)]


def _window(x: np.ndarray, starts: Arrays, sizes: Sequence[int]) -> tuple[slice, ...]:
    low = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, sizes, strict=True)]
    return tuple(slice(s, s + k) for s, k in zip(low, sizes, strict=True))


define_op(
    OpDef(
        "dynamic_slice", ("x", "starts*"), "gather", _infer_dynamic_slice,
        lambda a, attrs, ctx: a[0][_window(a[0], a[1:], attrs["sizes"])], attrs={"sizes": REQUIRED},
        bound=lambda a, e, o, bc: np.broadcast_to(e[0], a[0].shape)[_window(a[0], a[1:], o.shape)], cost=moved_cost,
        doc="A window of ``sizes`` at run-time starts, which are clamped so that the window fits.",
    )
)  # fmt: skip


def _infer_dynamic_update(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, u, starts = types[0], types[1], types[2:]
    one_dtype([x, u])
    if u.rank != x.rank or len(starts) != x.rank:
        raise TypeRefused(f"needs an update of rank {x.rank} and one start per axis")
    if any(compare_le(k, n) is False for k, n in zip(u.shape, x.shape, strict=True)):
        raise TypeRefused(f"an update of {u} is larger than {x}")
    for s in starts:
        _index_type(s)
        if s.rank:
            raise TypeRefused("starts must be scalars")
    return [x]


def _eval_dynamic_update(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    out = np.array(a[0])
    out[_window(a[0], a[2:], a[1].shape)] = a[1]
    return out


define_op(
    OpDef(
        "dynamic_update_slice", ("x", "update", "starts*"), "gather", _infer_dynamic_update, _eval_dynamic_update,
        bound=lambda a, e, o, bc: _eval_dynamic_update(
            [np.broadcast_to(e[0], a[0].shape), np.broadcast_to(e[1], a[1].shape), *a[2:]], bc.attrs, bc.ctx
        ),
        overwrites=(0,), cost=moved_cost, doc="x with a window replaced, at run-time starts clamped so that it fits.",
    )
)  # fmt: skip


def _infer_cumulative(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if types[0].dtype not in NUMERIC:
        raise TypeRefused(f"takes numbers, not {types[0].dtype}")
    attrs["axis"] = axis_of(attrs["axis"], types[0].rank)
    return [types[0]]


def _cumulative(ufunc: np.ufunc, x: np.ndarray, attrs: Attrs, unit: float) -> np.ndarray:
    axis = attrs["axis"]
    line = np.flip(x, axis) if attrs["reverse"] else x
    with np.errstate(all="ignore"):
        out = ufunc.accumulate(line, axis=axis, dtype=x.dtype) if x.size else line
    if attrs["exclusive"] and x.size:
        head = np.full_like(np.take(out, [0], axis), unit)
        out = np.concatenate([head, np.take(out, range(out.shape[axis] - 1), axis)], axis)
    return np.flip(out, axis) if attrs["reverse"] else out


def _bound_cumsum(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    err = np.broadcast_to(e[0], o.shape).astype(np.float64)
    n = max(o.shape[bc.attrs["axis"]], 1)
    with np.errstate(all="ignore"):
        magnitude = _cumulative(np.add, finite(a[0]) + err, bc.attrs, 0)
        spread = _cumulative(np.add, err, bc.attrs, 0)

        def sides() -> tuple[np.ndarray, np.ndarray]:
            above, below = (_cumulative(np.add, side, bc.attrs, 0) for side in ends(a[0], err))
            return above, below

        return summed(n, magnitude, spread, o, bc, sides, products=False)


def _bound_cumprod(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    err = np.broadcast_to(e[0], o.shape).astype(np.float64)

    def multiply(values: np.ndarray) -> np.ndarray:
        return _cumulative(np.multiply, values, bc.attrs, 1)

    if not bc.u:
        return np.where(multiply(np.where(err > 0, 0.0, 1.0)) == 0, np.inf, 0.0)
    x = np.asarray(a[0], np.float64)
    return product_bound(max(o.shape[bc.attrs["axis"]], 1), x, err, multiply, o, bc)


for _name, _ufunc, _unit, _bound in (("cumsum", np.add, 0, _bound_cumsum), ("cumprod", np.multiply, 1, _bound_cumprod)):

    def _eval(a: Arrays, attrs: Attrs, ctx: EvalContext, _f: np.ufunc = _ufunc, _u: float = _unit) -> np.ndarray:
        return _cumulative(_f, a[0], attrs, _u)

    define_op(
        OpDef(
            _name, ("x",), "scan", _infer_cumulative, _eval,
            attrs={"axis": REQUIRED, "exclusive": False, "reverse": False}, bound=_bound,
            cost=lambda n: Cost(n.results[0].type.size, 2 * n.results[0].type.nbytes),
            overwrites=(0,), doc=f"Running {'sum' if _name == 'cumsum' else 'product'} along ``axis``.",
        )
    )  # fmt: skip


def _sort_key(x: np.ndarray, descending: bool) -> np.ndarray:
    """Stable order: NaN sorts last either way, ties keep their order."""
    if not descending:
        return np.argsort(x, axis=-1, kind="stable")
    n = x.shape[-1]
    flipped = np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    order = n - 1 - flipped
    if x.dtype.kind == "f":
        # Reversing brought NaN to the front; move them behind, keeping their order.
        nan = np.isnan(np.take_along_axis(x, order, -1))
        order = np.take_along_axis(order, np.argsort(nan, axis=-1, kind="stable"), -1)
    return order


def _infer_sort(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    attrs["axis"] = axis_of(attrs["axis"], types[0].rank)
    if types[0].dtype is BF16:
        raise TypeRefused("sort does not take bf16; cast first")
    return [types[0], types[0].with_dtype(I64)]


def _eval_sort(a: Arrays, attrs: Attrs, ctx: EvalContext) -> tuple[np.ndarray, np.ndarray]:
    x = np.moveaxis(a[0], attrs["axis"], -1)
    order = _sort_key(x, attrs["descending"])
    values = np.take_along_axis(x, order, -1)
    return np.moveaxis(values, -1, attrs["axis"]), np.moveaxis(order.astype(np.int64), -1, attrs["axis"])


define_op(
    OpDef(
        "sort", ("x",), "opaque", _infer_sort, _eval_sort, attrs={"axis": -1, "descending": False}, overwrites=(0,),
        cost=lambda n: Cost(n.results[0].type.size * 10, 4 * n.results[0].type.nbytes),
        doc="Stable sort along ``axis``: (values, i64 positions). NaN comes last in both directions.",
    )
)  # fmt: skip


def _infer_top_k(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = types[0]
    axis = attrs["axis"] = axis_of(attrs["axis"], x.rank)
    attrs["k"] = extent(attrs["k"])
    if compare_le(attrs["k"], x.shape[axis]) is False:
        raise TypeRefused(f"k = {attrs['k']} is more than the extent {x.shape[axis]}")
    shape = list(x.shape)
    shape[axis] = attrs["k"]
    if x.dtype in (BF16, BOOL):
        raise TypeRefused(f"top_k does not take {x.dtype}; cast first")
    return [x.with_shape(shape), TensorType(I32, shape)]


def _eval_top_k(a: Arrays, attrs: Attrs, ctx: EvalContext) -> tuple[np.ndarray, np.ndarray]:
    x = np.moveaxis(a[0], attrs["axis"], -1)
    order = _sort_key(x, attrs["largest"])[..., : attrs["k"]]
    values = np.take_along_axis(x, order, -1)
    return np.moveaxis(values, -1, attrs["axis"]), np.moveaxis(order.astype(np.int32), -1, attrs["axis"])


define_op(
    OpDef(
        "top_k", ("x",), "opaque", _infer_top_k, _eval_top_k, attrs={"k": REQUIRED, "axis": -1, "largest": True},
        cost=lambda n: Cost(n.operands[0].type.size * 4, n.operands[0].type.nbytes),
        doc="The k largest (or smallest) along ``axis``, sorted, first position wins a tie: (values, i32 positions).",
    )
)  # fmt: skip
__all__ = ["Node"]
