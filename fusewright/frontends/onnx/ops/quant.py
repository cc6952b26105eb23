"""Quantised operators: QuantizeLinear, DequantizeLinear, and integer contractions.

Owns rounding to nearest even with saturation, and per-axis and blocked scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dtypes import DTYPES, F32, F64, I32, U8, DType
from ....ir.graph import Value
from ..call import Call, op
from .matmul import matmul
from .window import convolve

_TARGETS = tuple(DTYPES[n] for n in ("u8", "i8", "u16", "i16"))


def _spread(c: Call, x: Value, p: Value, axis: int, block: int) -> Value:
    """A scale or zero point shaped to broadcast against x."""
    b = c.b
    if p.type.size == 1 and p.rank <= 1:
        return b.reshape(p, shape=())
    axis = c.axis(axis, x.rank)
    if p.rank == 1 and not block:
        return b.reshape(p, shape=(p.shape[0], *(1,) * (x.rank - axis - 1)))
    if p.rank != x.rank or block < 1:
        raise c.refuse(f"a scale {p.type} for {x.type}", "malformed")
    shape = list(p.shape)
    wide = b.broadcast_to(
        b.reshape(p, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :])),
        shape=(*shape[: axis + 1], block, *shape[axis + 1 :]),
    )
    shape[axis] = shape[axis] * block
    flat = b.reshape(wide, shape=tuple(shape))
    if flat.shape == x.shape:
        return flat
    stops = tuple(x.shape[i] if i == axis else None for i in range(x.rank))
    return b.slice(flat, starts=(0,) * x.rank, stops=stops)


def saturate(c: Call, y: Value, zero: Value | None, to: DType) -> Value:
    """Rounded float values plus zero point, cut to the range of ``to``."""
    b, info = c.b, np.iinfo(to.np)
    y = b.round(y)
    if zero is not None:
        y = b.add(y, b.cast(zero, to=y.dtype))
    return b.cast(b.clip(y, float(info.min), float(info.max)), to=to)


@op("QuantizeLinear")
def _quantize(c: Call, x: Value, scale: Value, zero: Value | None = None) -> Value:
    b, axis, block = c.b, c.integer("axis", 1), c.integer("block_size", 0)
    to = zero.dtype if zero is not None else U8
    code = c.integer("output_dtype", 0)
    to = c.element("output_dtype") if code else to
    if to not in _TARGETS:
        raise c.refuse(f"quantising to {to}", "unsupported-dtype")
    wide = F64 if x.dtype in (F64, I32) else F32
    value = x if x.dtype is wide else b.cast(x, to=wide)
    step = b.cast(_spread(c, x, scale, axis, block), to=wide)
    if x.dtype is I32:
        value, step = b.cast(value, to=F32), b.cast(step, to=F32)
    return saturate(c, b.div(value, step), None if zero is None else _spread(c, x, zero, axis, block), to)


@op("DequantizeLinear")
def _dequantize(c: Call, x: Value, scale: Value, zero: Value | None = None) -> Value:
    b, axis, block = c.b, c.integer("axis", 1), c.integer("block_size", 0)
    if x.dtype not in (*_TARGETS, I32):
        raise c.refuse(f"dequantising {x.dtype}", "unsupported-dtype")
    code = c.integer("output_dtype", 0)
    out = c.element("output_dtype") if code else scale.dtype
    value = x if x.dtype is I32 else b.cast(x, to=I32)
    if zero is not None:
        value = b.sub(value, b.cast(_spread(c, x, zero, axis, block), to=I32))
    step = (
        b.cast(_spread(c, x, scale, axis, block), to=F32)
        if scale.dtype is not F64
        else _spread(c, x, scale, axis, block)
    )
    y = b.mul(b.cast(value, to=step.dtype), step)
    return y if y.dtype is out else b.cast(y, to=out)


def _shifted(c: Call, x: Value, zero: Value | None, column: bool = False) -> Value:
    """x - zero in i32; a vector of zero points belongs to rows (or columns)."""
    b = c.b
    wide = b.cast(x, to=I32)
    if zero is None:
        return wide
    z = b.cast(zero, to=I32)
    if z.rank == 1 and z.type.size != 1:
        z = z if column else b.reshape(z, shape=(z.shape[0], 1))
    elif z.type.size == 1:
        z = b.reshape(z, shape=())
    return b.sub(wide, z)


@op("MatMulInteger")
def _matmul_integer(c: Call, x: Value, y: Value, xz: Value | None = None, yz: Value | None = None) -> Value:
    return matmul(c, _shifted(c, x, xz), _shifted(c, y, yz, True))


@op("QLinearMatMul")
def _qlinear_matmul(
    c: Call, x: Value, xs: Value, xz: Value, y: Value, ys: Value, yz: Value, zs: Value, zz: Value
) -> Value:
    b = c.b
    total = matmul(c, _shifted(c, x, xz), _shifted(c, y, yz, True))

    def factor(s: Value, column: bool) -> Value:
        s = b.cast(s, to=F32)
        if s.type.size == 1:
            return b.reshape(s, shape=())
        return s if column or s.rank > 1 else b.reshape(s, shape=(s.shape[0], 1))

    step = b.div(b.mul(factor(xs, False), factor(ys, True)), factor(zs, False))
    zero = b.reshape(zz, shape=()) if zz.type.size == 1 else zz
    return saturate(c, b.mul(b.cast(total, to=F32), step), zero, zz.dtype)


def _centred(c: Call, x: Value, zero: Value | None, axis: int) -> Value:
    b = c.b
    wide = b.cast(x, to=I32)
    if zero is None:
        return wide
    z = b.cast(zero, to=I32)
    z = b.reshape(z, shape=()) if z.type.size == 1 else b.reshape(z, shape=(z.shape[0], *(1,) * (x.rank - axis - 1)))
    return b.sub(wide, z)


@op("ConvInteger")
def _conv_integer(c: Call, x: Value, w: Value, xz: Value | None = None, wz: Value | None = None) -> Value:
    return convolve(c, _centred(c, x, xz, 1), _centred(c, w, wz, 0))


@op("QLinearConv")
def _qlinear_conv(
    c: Call, x: Value, xs: Value, xz: Value, w: Value, ws: Value, wz: Value, ys: Value, yz: Value,
    bias: Value | None = None,
) -> Value:  # fmt: skip
    b = c.b
    total = convolve(c, _centred(c, x, xz, 1), _centred(c, w, wz, 0))

    def per_channel(s: Value) -> Value:
        return b.reshape(s, shape=()) if s.type.size == 1 else b.reshape(s, shape=(s.shape[0], *(1,) * (x.rank - 2)))

    if bias is not None:
        total = b.add(total, per_channel(bias))
    step = b.div(b.mul(per_channel(xs), per_channel(ws)), per_channel(ys))
    return saturate(c, b.mul(b.cast(total, to=F32), step), per_channel(yz), yz.dtype)


@op("DynamicQuantizeLinear")
def _dynamic(c: Call, x: Value) -> Any:
    b = c.b
    high = b.maximum(b.reduce_max(x), 0.0)
    low = b.minimum(b.reduce_min(x), 0.0)
    scale = b.div(b.sub(high, low), 255.0)
    zero = b.cast(b.clip(b.round(b.div(b.neg(low), scale)), 0.0, 255.0), to=U8)
    return saturate(c, b.div(x, scale), zero, U8), scale, zero
