"""Window ops on channels-last tensors: conv, conv_transpose, max_pool, avg_pool.

Owns sliding windows over 1 to 3 spatial axes; x is [N, spatial..., C]. Must not know blocked layouts (see blocked.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from ...core.dims import Extent, compare_le, extent, floordiv, maximum, product
from ...core.dtypes import FLOATS
from ...core.errors import TypeRefused
from ..graph import Graph, Node
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op, extents
from ..types import TensorType
from ._common import Arrays, ends, finite, one_dtype, same, summed
from .contract import dot_bound
from .elementwise import NUMERIC
from .winograd import STRICT, applies, widened

Types = Sequence[TensorType]
Regions = Sequence[Graph]


def window_attrs(attrs: dict[str, Any], rank: int) -> None:
    """Canonical strides, dilations and pads for ``rank`` spatial axes. Raises TypeRefused."""
    for name in ("strides", "dilations", "window", "output_padding"):
        if name in attrs:
            value = attrs[name]
            value = (value,) * rank if isinstance(value, int) else tuple(value)
            least = 0 if name == "output_padding" else 1
            if len(value) != rank or any(not isinstance(v, int) or v < least for v in value):
                raise TypeRefused(f"{name} {value} must be {rank} ints >= {least}")
            attrs[name] = value
    pads = attrs["pads"]
    pads = ((0, 0),) * rank if pads is None or pads == 0 else tuple(extents(p) for p in pads)
    if len(pads) != rank or any(len(p) != 2 for p in pads):
        raise TypeRefused(f"pads {pads} must be {rank} (low, high) pairs")
    if any(compare_le(0, v) is False for p in pads for v in p):
        raise TypeRefused("pads must not be negative")
    attrs["pads"] = pads


def window_extent(size: Extent, window: Extent, stride: int, pads: tuple[Extent, Extent], dilation: int) -> Extent:
    """Number of window positions along one axis. Raises TypeRefused when the window is known not to fit."""
    reach = (window - 1) * dilation + 1
    left = size + pads[0] + pads[1] - reach
    if compare_le(0, left) is False:
        raise TypeRefused(f"a window of {reach} does not fit an extent of {size} with pads {pads}")
    return floordiv(left, stride) + 1


def same_pads(size: Extent, window: int, stride: int, dilation: int = 1) -> tuple[Extent, Extent]:
    """TensorFlow's SAME padding (low, high): the result has ceil(size / stride) positions, odd padding goes high."""
    reach = (window - 1) * dilation + 1
    if stride == 1:
        total: Extent = reach - 1
    else:
        total = maximum((floordiv(size + stride - 1, stride) - 1) * stride + reach - size, 0)
    low = floordiv(total, 2)
    return low, total - low


def _conv_types(x: TensorType, w: TensorType) -> int:
    if not 3 <= x.rank <= 5 or w.rank != x.rank:
        raise TypeRefused(f"conv needs x and w of one rank 3 to 5, got {x} and {w}")
    if one_dtype([x, w]) not in NUMERIC:
        raise TypeRefused(f"takes numbers, not {x.dtype}")
    if not all(isinstance(d, int) for d in w.shape):
        raise TypeRefused("the kernel's shape must be fixed")
    return x.rank - 2


def _infer_conv(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, w = types
    rank = _conv_types(x, w)
    window_attrs(attrs, rank)
    groups, c_in, c_out = attrs["groups"], w.shape[-2], w.shape[-1]
    if not isinstance(groups, int) or groups < 1 or c_out % groups:
        raise TypeRefused(f"{c_out} filters do not split into {groups} groups")
    same(x.shape[-1], c_in * groups, "channels")
    out = [
        window_extent(x.shape[1 + i], w.shape[i], attrs["strides"][i], attrs["pads"][i], attrs["dilations"][i])
        for i in range(rank)
    ]
    return [x.with_shape((x.shape[0], *out, c_out))]


def _taps(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return cartesian(*(range(k) for k in kernel))


def _tap_slice(tap: Sequence[int], out: Sequence[int], attrs: Attrs) -> tuple[slice, ...]:
    spatial = (
        slice(t * d, t * d + (o - 1) * s + 1 if o else t * d, s)
        for t, d, s, o in zip(tap, attrs["dilations"], attrs["strides"], out, strict=True)
    )
    return (slice(None), *spatial, slice(None))


def _padded(x: np.ndarray, pads: Sequence[tuple[int, int]], value: Any = 0) -> np.ndarray:
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value) if any(map(any, pads)) else x


def _tap_within(
    tap: Sequence[int], size: Sequence[int], out: Sequence[int], attrs: Attrs
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(results, inputs) that meet at a tap: a tap outside the input adds nothing, whatever its weight is."""
    results, inputs = [slice(None)], [slice(None)]
    for t, n, o, d, s, (low, _) in zip(
        tap, size, out, attrs["dilations"], attrs["strides"], attrs["pads"], strict=True
    ):
        at = t * d - low  # the input under the first result
        first = max(-(at // s), 0)
        last = max(min((n - 1 - at) // s + 1, o), first)
        results.append(slice(first, last))
        inputs.append(slice(at + first * s, at + (last - 1) * s + 1 if last > first else at + first * s, s))
    return (*results, slice(None)), (*inputs, slice(None))


def conv_arrays(x: np.ndarray, w: np.ndarray, attrs: Attrs) -> np.ndarray:
    """Convolution of concrete arrays, tap by tap, in the arrays' dtype. Padding is no input: inf * padding adds 0."""
    kernel, groups, size = w.shape[:-2], attrs["groups"], x.shape[1:-1]
    out = [
        (n + low + high - ((k - 1) * d + 1)) // s + 1
        for n, k, d, s, (low, high) in zip(
            size, kernel, attrs["dilations"], attrs["strides"], attrs["pads"], strict=True
        )
    ]
    y = np.zeros((x.shape[0], *out, w.shape[-1]), x.dtype)
    cin, cout = w.shape[-2], w.shape[-1] // groups
    for tap in _taps(kernel):
        results, inputs = _tap_within(tap, size, out, attrs)
        part = x[inputs]
        if groups == 1:
            y[results] += part @ w[tap]
        elif cin == 1:
            y[results] += np.repeat(part, cout, -1) * w[tap][0]
        else:
            for g in range(groups):
                y[(*results[:-1], slice(g * cout, (g + 1) * cout))] += (
                    part[..., g * cin : (g + 1) * cin] @ w[tap][:, g * cout : (g + 1) * cout]
                )
    return y


def _eval_conv(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return conv_arrays(a[0], a[1], attrs)


def _bound_conv(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    k = int(np.prod(a[1].shape[:-1], dtype=int))
    total = dot_bound(a[0], a[1], e[0], e[1], lambda x, w: conv_arrays(x, np.asarray(w), bc.attrs), k, o, bc)
    return widened(total, STRICT, a, e, o, bc) if applies(a[1].shape, bc.attrs) else total


def _cost_conv(node: Node) -> Cost:
    x, w = node.operands
    out = node.results[0].type
    return Cost(2 * out.size * product(w.shape[:-1]), x.type.nbytes + w.type.nbytes + out.nbytes)


define_op(
    OpDef(
        "conv", ("x", "w"), "window", _infer_conv, _eval_conv,
        attrs={"strides": 1, "pads": None, "dilations": 1, "groups": 1}, bound=_bound_conv, cost=_cost_conv,
        doc="Cross-correlation. x [N, spatial..., C], w [kernel..., C/groups, filters] -> [N, spatial'..., filters].",
    )
)  # fmt: skip


def transposed_extents(spatial: Sequence[Extent], w: TensorType, attrs: dict[str, Any]) -> list[Extent]:
    """The extents after a transposed convolution of ``spatial``; puts the attributes in canonical form, checks groups.

    Raises TypeRefused.
    """
    window_attrs(attrs, len(spatial))
    groups, out = attrs["groups"], []
    if not isinstance(groups, int) or groups < 1 or (isinstance(w.shape[-1], int) and w.shape[-1] % groups):
        raise TypeRefused(f"{w.shape[-1]} channels do not split into {groups} groups")
    for i, n in enumerate(spatial):
        reach = (w.shape[i] - 1) * attrs["dilations"][i] + 1
        low, high = attrs["pads"][i]
        size = (n - 1) * attrs["strides"][i] + reach - low - high + attrs["output_padding"][i]
        if compare_le(0, size) is False:
            raise TypeRefused(f"pads {attrs['pads'][i]} crop more than there is")
        out.append(size)
    return out


def _infer_conv_transpose(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, w = types
    _conv_types(x, w)
    same(x.shape[-1], w.shape[-1], "channels")
    out = transposed_extents(x.shape[1:-1], w, attrs)
    return [x.with_shape((x.shape[0], *out, w.shape[-2] * attrs["groups"]))]


def conv_transpose_arrays(x: np.ndarray, w: np.ndarray, attrs: Attrs) -> np.ndarray:
    """Transposed convolution of concrete arrays: every input position adds its scaled kernel to the full result."""
    kernel, groups = w.shape[:-2], attrs["groups"]
    strides, dilations = attrs["strides"], attrs["dilations"]
    cin, cout = w.shape[-1] // groups, w.shape[-2]
    want = [
        (n - 1) * s + (k - 1) * d + 1 - lo - hi + op
        for n, k, s, d, (lo, hi), op in zip(
            x.shape[1:-1], kernel, strides, dilations, attrs["pads"], attrs["output_padding"], strict=True
        )
    ]
    full = [
        max((n - 1) * s + (k - 1) * d + 1, lo + size)
        for n, k, s, d, (lo, _), size in zip(
            x.shape[1:-1], kernel, strides, dilations, attrs["pads"], want, strict=True
        )
    ]
    y = np.zeros((x.shape[0], *full, cout * groups), x.dtype)
    for tap in _taps(kernel):
        at = _tap_slice(tap, x.shape[1:-1], attrs)
        for g in range(groups):
            part = x[..., g * cin : (g + 1) * cin] @ w[tap][:, g * cin : (g + 1) * cin].T
            y[(*at[:-1], slice(g * cout, (g + 1) * cout))] += part
    crop = (slice(lo, lo + size) for (lo, _), size in zip(attrs["pads"], want, strict=True))
    return y[(slice(None), *crop, slice(None))]


def _eval_conv_transpose(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return conv_transpose_arrays(a[0], a[1], attrs)


def _bound_conv_transpose(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    k = int(np.prod(a[1].shape[:-2], dtype=int)) * a[1].shape[-1]
    return dot_bound(a[0], a[1], e[0], e[1], lambda x, w: conv_transpose_arrays(x, np.asarray(w), bc.attrs), k, o, bc)


def _cost_conv_transpose(node: Node) -> Cost:
    x, w = node.operands
    out = node.results[0].type
    return Cost(2 * x.type.size * product(w.shape[:-1]), x.type.nbytes + w.type.nbytes + out.nbytes)


define_op(
    OpDef(
        "conv_transpose", ("x", "w"), "window", _infer_conv_transpose, _eval_conv_transpose,
        attrs={"strides": 1, "pads": None, "output_padding": 0, "dilations": 1, "groups": 1},
        bound=_bound_conv_transpose, cost=_cost_conv_transpose,
        doc="Gradient of conv. x [N, spatial..., C], w [kernel..., filters/groups, C]; the full result "
        "(n-1)*stride + (k-1)*dilation + 1 is cropped by pads and extended at the end by output_padding.",
    )
)  # fmt: skip


def pooled_extents(spatial: Sequence[Extent], attrs: dict[str, Any]) -> list[Extent]:
    """The extents after pooling ``spatial``; puts the attributes in canonical form. Raises TypeRefused."""
    attrs["strides"] = attrs["window"] if attrs["strides"] is None else attrs["strides"]
    window_attrs(attrs, len(spatial))
    each = zip(spatial, attrs["window"], attrs["strides"], attrs["pads"], attrs["dilations"], strict=True)
    return [window_extent(*axis) for axis in each]


def _infer_pool(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = types[0]
    if not 3 <= x.rank <= 5:
        raise TypeRefused(f"pooling needs rank 3 to 5, got {x}")
    return [x.with_shape((x.shape[0], *pooled_extents(x.shape[1:-1], attrs), x.shape[-1]))]


def _infer_avg(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if types[0].dtype not in FLOATS:
        raise TypeRefused(f"avg_pool takes floats, not {types[0].dtype}")
    return _infer_pool(types, attrs, regions)


def _pooled(x: np.ndarray, attrs: Attrs, value: Any, combine: Any) -> np.ndarray:
    x = _padded(x, attrs["pads"], value)
    out = [
        (n - ((k - 1) * d + 1)) // s + 1
        for n, k, d, s in zip(x.shape[1:-1], attrs["window"], attrs["dilations"], attrs["strides"], strict=True)
    ]
    y = None
    for tap in _taps(attrs["window"]):
        part = x[_tap_slice(tap, out, attrs)]
        y = part.copy() if y is None else combine(y, part)
    return np.asarray(y)


def _eval_max_pool(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    dt = a[0].dtype
    low = -np.inf if dt.kind == "f" else (False if dt.kind == "b" else np.iinfo(dt).min)
    return _pooled(a[0], attrs, low, np.maximum)


def _counts(shape: Sequence[int], attrs: Attrs) -> np.ndarray:
    inside = np.ones((1, *shape[1:-1], 1))
    return _pooled(inside, attrs, 1 if attrs["count_include_pad"] else 0, np.add)


def _eval_avg_pool(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (_pooled(a[0], attrs, 0, np.add) / _counts(a[0].shape, attrs)).astype(a[0].dtype)


def _bound_max_pool(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    return _pooled(np.broadcast_to(e[0], a[0].shape), bc.attrs, 0, np.maximum)


def _bound_avg_pool(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    n = int(np.prod(bc.attrs["window"]))
    x, err = np.asarray(a[0], np.float64), np.broadcast_to(e[0], a[0].shape)
    with np.errstate(all="ignore"):
        counts = _counts(a[0].shape, bc.attrs)
        magnitude = _pooled(finite(x) + err, bc.attrs, 0, np.add)

        def sides() -> tuple[np.ndarray, np.ndarray]:
            above, below = (_pooled(side, bc.attrs, 0, np.add) for side in ends(x, err))
            return above, below

        spread = _pooled(err, bc.attrs, 0, np.add)
        total = summed(n + 1, magnitude, spread, o * counts, bc, sides, products=False)
        # As for a mean over axes, an overflow on the way is undecided.
        mean = np.where(finite(o * counts) > bc.top, np.inf, total) / np.maximum(counts, 1)
        whole = mean + bc.u * (finite(o) + np.where(np.isfinite(mean), mean, 0)) + bc.eta
        return np.where((counts > 0) & ~((o == 0) & (mean == 0)), whole, 0.0)


def _cost_pool(node: Node) -> Cost:
    out = node.results[0].type
    return Cost(out.size * int(np.prod(node.attrs["window"])), out.nbytes + node.operands[0].type.nbytes)


define_op(
    OpDef(
        "max_pool", ("x",), "window", _infer_pool, _eval_max_pool,
        attrs={"window": REQUIRED, "strides": None, "pads": None, "dilations": 1}, bound=_bound_max_pool,
        cost=_cost_pool,
        doc="Largest of each window of [N, spatial..., C]; padding never wins; NaN wins.",
    )
)  # fmt: skip
define_op(
    OpDef(
        "avg_pool", ("x",), "window", _infer_avg, _eval_avg_pool,
        attrs={"window": REQUIRED, "strides": None, "pads": None, "dilations": 1, "count_include_pad": False},
        bound=_bound_avg_pool, cost=_cost_pool,
        doc="Mean of each window of [N, spatial..., C]; padding counts only with count_include_pad.",
    )
)  # fmt: skip
__all__ = ["extent", "same_pads", "window_attrs", "window_extent"]
