"""Blocked layouts: ordinary tensors of one more rank.

Owns to_blocked / from_blocked, which reorder [N, spatial..., C] to [N, ceil(C/block), spatial..., block] and back, and
windows on blocked operands: conv by direct sums or in Winograd tiles, conv_transpose, pooling. Padding lanes are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.dims import Extent, product
from ...core.dtypes import F32
from ...core.errors import TypeRefused
from ...core.winograd import ROUNDED, TILES
from ..graph import Graph, Node, Value
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, same
from .bf16 import entered, flushed
from .contract import dot_bound
from .elementwise import NUMERIC
from .shape import moved_cost
from .window import (
    _bound_avg_pool,
    _bound_conv_transpose,
    _bound_max_pool,
    _eval_avg_pool,
    _eval_max_pool,
    conv_arrays,
    conv_transpose_arrays,
    pooled_extents,
    transposed_extents,
    window_attrs,
    window_extent,
)  # fmt: skip
from .winograd import applies, widened

Types = Sequence[TensorType]
Regions = Sequence[Graph]


def _infer_to(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, block = types[0], attrs["block"]
    if not isinstance(block, int) or block < 1:
        raise TypeRefused(f"block {block!r} must be an int of at least 1")
    if x.rank < 2 or not isinstance(x.shape[-1], int):
        raise TypeRefused(f"needs [N, spatial..., C] with a fixed C, got {x}")
    return [x.with_shape((x.shape[0], -(-x.shape[-1] // block), *x.shape[1:-1], block))]


def to_blocked_array(x: np.ndarray, block: int) -> np.ndarray:
    """[N, spatial..., C] to [N, ceil(C/block), spatial..., block], zero padded."""
    c = x.shape[-1]
    blocks = -(-c // block)
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * block - c)])
    return np.moveaxis(padded.reshape((*x.shape[:-1], blocks, block)), -2, 1)


def from_blocked_array(x: np.ndarray, channels: int) -> np.ndarray:
    """The inverse of to_blocked_array."""
    flat = np.moveaxis(x, 1, -2)
    return flat.reshape((*flat.shape[:-2], flat.shape[-2] * flat.shape[-1]))[..., :channels]


define_op(
    OpDef(
        "to_blocked", ("x",), "gather", _infer_to, lambda a, attrs, ctx: to_blocked_array(a[0], attrs["block"]),
        attrs={"block": 16},
        bound=lambda a, e, o, bc: to_blocked_array(np.broadcast_to(e[0], a[0].shape), bc.attrs["block"]),
        cost=moved_cost, doc="[N, spatial..., C] to [N, ceil(C/block), spatial..., block], zero padded.",
    )
)  # fmt: skip


def _infer_from(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, c = types[0], attrs["channels"]
    if x.rank < 3 or not isinstance(x.shape[1], int) or not isinstance(x.shape[-1], int) or not isinstance(c, int):
        raise TypeRefused(f"needs [N, C/block, spatial..., block] with fixed channels, got {x}")
    if c < 0 or x.shape[-1] < 1 or x.shape[1] != -(-c // x.shape[-1]):
        raise TypeRefused(f"{x.shape[1]} blocks of {x.shape[-1]} do not hold {c} channels")
    return [x.with_shape((x.shape[0], *x.shape[2:-1], c))]


define_op(
    OpDef(
        "from_blocked", ("x",), "gather", _infer_from,
        lambda a, attrs, ctx: from_blocked_array(a[0], attrs["channels"]),
        attrs={"channels": REQUIRED},
        bound=lambda a, e, o, bc: from_blocked_array(np.broadcast_to(e[0], a[0].shape), bc.attrs["channels"]),
        cost=moved_cost, doc="[N, C/block, spatial..., block] back to [N, spatial..., C].",
    )
)  # fmt: skip


def _operands(types: Types, attrs: Attrs) -> int:
    """The first spatial axis of x, once types and block go together. Raises TypeRefused."""
    x, w = types
    block, blocked = attrs["block"], attrs["x_blocked"]
    if x.rank != w.rank + int(blocked) or not 3 <= w.rank <= 5 or x.dtype is not w.dtype or x.dtype not in NUMERIC:
        raise TypeRefused(f"needs {'blocked' if blocked else 'plain'} x and plain w of one dtype, got {x} and {w}")
    if not isinstance(block, int) or block < 1:
        raise TypeRefused(f"block {block!r} must be an int of at least 1")
    return 2 if blocked else 1


def _same_channels(x: TensorType, channels: Extent, attrs: Attrs) -> None:
    """x, blocked or plain, holds ``channels``. Raises TypeRefused."""
    block = attrs["block"]
    if attrs["x_blocked"]:
        same(x.shape[-1], block, "block")
        same(x.shape[1] * block, -(-channels // block) * block, "channel blocks")
    else:
        same(x.shape[-1], channels, "channels")


def _infer_conv(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, w = types
    first, block, blocked = _operands(types, attrs), attrs["block"], attrs["x_blocked"]
    rank = w.rank - 2
    window_attrs(attrs, rank)
    groups, c_out = attrs["groups"], w.shape[-1]
    if not isinstance(groups, int) or groups < 1 or not isinstance(c_out, int) or c_out % groups:
        raise TypeRefused(f"{c_out} filters do not split into {groups} groups")
    _same_channels(x, w.shape[-2] * groups, attrs)
    if attrs["winograd"] and (attrs["winograd"] not in TILES or not blocked or not applies(w.shape, attrs)):
        raise TypeRefused(
            f"winograd={attrs['winograd']!r}: tiles are of {TILES} and need blocked x, a 3 x 3 kernel, stride and "
            "dilation 1 and one group"
        )
    if attrs["bf16"] and x.dtype is not F32:
        raise TypeRefused(f"bf16=True rounds operands of f32, not of {x.dtype}")
    out = [
        window_extent(x.shape[first + i], w.shape[i], attrs["strides"][i], attrs["pads"][i], attrs["dilations"][i])
        for i in range(rank)
    ]
    return [x.with_shape((x.shape[0], -(-c_out // block), *out, block))]


def _plain(a: Arrays, attrs: Attrs) -> np.ndarray:
    return from_blocked_array(a[0], a[1].shape[-2] * attrs["groups"]) if attrs["x_blocked"] else a[0]


def _eval_conv(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return to_blocked_array(conv_arrays(_plain(a, attrs), a[1], attrs), attrs["block"])


def _bound_conv(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    plain = _plain(a, bc.attrs)
    ex = _plain([np.broadcast_to(e[0], a[0].shape), a[1]], bc.attrs)
    k = int(np.prod(a[1].shape[:-1], dtype=int))
    out = from_blocked_array(o, a[1].shape[-1])
    m, rounds = bc.attrs["winograd"], bc.attrs["bf16"]

    def direct(ex: np.ndarray, ew: np.ndarray) -> np.ndarray:
        return dot_bound(plain, a[1], ex, ew, lambda x, w: conv_arrays(x, np.asarray(w), bc.attrs), k, out, bc)

    total = exact = direct(ex, e[1])
    if rounds:
        total = flushed(direct(*entered([plain, a[1]], [ex, e[1]], bc)), k, bc)
    # A mark permits and does not demand: each way to compute it is inside the bound.
    for side, pairs in ((m, False), (ROUNDED, True)) if m and rounds else ((m, False),) if m else ():
        total = np.maximum(total, widened(exact, side, [plain, a[1]], [ex, e[1]], out, bc, pairs))
    return to_blocked_array(total, bc.attrs["block"])


def _cost_conv(node: Node) -> Cost:
    x, w = node.operands
    out = node.results[0].type
    size: Any = 2
    for d in w.shape[:-1]:
        size = size * d
    return Cost(out.size * size, x.type.nbytes + w.type.nbytes + out.nbytes)


def _decompose_conv(b: Any, operands: Sequence[Value], attrs: Attrs) -> Value:
    """The plain convolution between reorders: for weights made at run time, or blocks that no kernel has."""
    x, w = operands
    if attrs["x_blocked"]:
        x = b.from_blocked(x, channels=w.shape[-2] * attrs["groups"])
    plain = {k: attrs[k] for k in ("strides", "pads", "dilations", "groups")}
    return b.to_blocked(b.conv(x, w, **plain), block=attrs["block"])


define_op(
    OpDef(
        "conv_blocked", ("x", "w"), "window", _infer_conv, _eval_conv,
        attrs={
            "strides": 1, "pads": None, "dilations": 1, "groups": 1, "block": 16, "x_blocked": True, "winograd": 0,
            "bf16": False,
        },
        bound=_bound_conv, cost=_cost_conv, decompose=_decompose_conv,
        doc="conv with a blocked result; x is blocked, or plain with x_blocked=False (first layers with few channels); "
        "w stays [kernel..., C/groups, filters]. winograd=m: 3 x 3 kernels in tiles F(m x m, 3 x 3); 0: direct sums. "
        "bf16: a kernel may round what it multiplies to bfloat16 (in tiles F(2 x 2, 3 x 3) behind their transform) and "
        "sums in f32.",
    )
)  # fmt: skip


def _infer_transposed(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x, w = types
    first, block = _operands(types, attrs), attrs["block"]
    if not all(isinstance(d, int) for d in w.shape):
        raise TypeRefused("the kernel's shape must be fixed")
    _same_channels(x, w.shape[-1], attrs)
    out = transposed_extents(x.shape[first : first + w.rank - 2], w, attrs)
    return [x.with_shape((x.shape[0], -(-w.shape[-2] * attrs["groups"] // block), *out, block))]


def _unblocked(x: np.ndarray, w: np.ndarray, attrs: Attrs) -> np.ndarray:
    """The operand of a transposed convolution as [N, spatial..., C]."""
    return from_blocked_array(x, w.shape[-1]) if attrs["x_blocked"] else x


def _eval_transposed(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return to_blocked_array(conv_transpose_arrays(_unblocked(a[0], a[1], attrs), a[1], attrs), attrs["block"])


def _bound_transposed(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    attrs, w = bc.attrs, a[1]
    plain = _unblocked(a[0], w, attrs), w
    error = _unblocked(np.broadcast_to(e[0], a[0].shape), w, attrs), e[1]
    out = from_blocked_array(o, w.shape[-2] * attrs["groups"])
    return to_blocked_array(_bound_conv_transpose(plain, error, out, bc), attrs["block"])


def _cost_transposed(node: Node) -> Cost:
    x, w = node.operands
    spatial = x.shape[2:-1] if node.attrs["x_blocked"] else x.shape[1:-1]
    moved = x.type.nbytes + w.type.nbytes + node.results[0].type.nbytes
    return Cost(2 * product((x.shape[0], *spatial, *w.shape)), moved)


def _decompose_transposed(b: Any, operands: Sequence[Value], attrs: Attrs) -> Value:
    x, w = operands
    if attrs["x_blocked"]:
        x = b.from_blocked(x, channels=w.shape[-1])
    plain = {k: attrs[k] for k in ("strides", "pads", "output_padding", "dilations", "groups")}
    return b.to_blocked(b.conv_transpose(x, w, **plain), block=attrs["block"])


define_op(
    OpDef(
        "conv_transpose_blocked", ("x", "w"), "window", _infer_transposed, _eval_transposed,
        attrs={
            "strides": 1, "pads": None, "output_padding": 0, "dilations": 1, "groups": 1, "block": 16,
            "x_blocked": True,
        },
        bound=_bound_transposed, cost=_cost_transposed, decompose=_decompose_transposed,
        doc="conv_transpose with a blocked result; x is blocked, or plain with x_blocked=False; w stays "
        "[kernel..., filters/groups, C].",
    )
)  # fmt: skip


def _infer_pool(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = types[0]
    if not 4 <= x.rank <= 6:
        raise TypeRefused(f"pooling on blocks needs rank 4 to 6, got {x}")
    out = pooled_extents(x.shape[2:-1], attrs)
    return [x.with_shape((*x.shape[:2], *out, x.shape[-1]))]


def _merged(x: np.ndarray) -> np.ndarray:
    """Blocks and batch as one axis: pooling treats them alike."""
    return x.reshape((x.shape[0] * x.shape[1], *x.shape[2:]))


def _on_blocks(fn: Any) -> Any:
    def run(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
        y = fn([_merged(a[0])], attrs, ctx)
        return np.asarray(y).reshape((*a[0].shape[:2], *y.shape[1:]))

    return run


def _bound_on_blocks(fn: Any) -> Any:
    def run(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
        y = fn([_merged(a[0])], [_merged(np.broadcast_to(e[0], a[0].shape))], _merged(o), bc)
        return np.asarray(y).reshape(o.shape)

    return run


for _name, _eval, _bound, _extra in (
    ("max_pool_blocked", _eval_max_pool, _bound_max_pool, {}),
    ("avg_pool_blocked", _eval_avg_pool, _bound_avg_pool, {"count_include_pad": False}),
):
    define_op(
        OpDef(
            _name, ("x",), "window", _infer_pool, _on_blocks(_eval),
            attrs={"window": REQUIRED, "strides": None, "pads": None, "dilations": 1, **_extra},
            bound=_bound_on_blocks(_bound), cost=moved_cost, doc=f"{_name[:8]} on [N, C/block, spatial..., block].",
        )
    )  # fmt: skip
