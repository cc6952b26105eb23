"""Activations, softmax and its kin.

Owns defaults of attributes and the flattening Softmax of opsets before 13.
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import F32, I64
from ....ir.graph import Value
from ..call import Call, op


@op("Relu")
def _relu(c: Call, x: Value) -> Value:
    return c.b.relu(x)


@op("LeakyRelu")
def _leaky(c: Call, x: Value) -> Value:
    return c.b.leaky_relu(x, alpha=c.number("alpha", 0.01))


@op("Elu")
def _elu(c: Call, x: Value) -> Value:
    return c.b.elu(x, alpha=c.number("alpha", 1.0))


@op("Celu")
def _celu(c: Call, x: Value) -> Value:
    return c.b.celu(x, alpha=c.number("alpha", 1.0))


@op("Selu")
def _selu(c: Call, x: Value) -> Value:
    alpha, gamma = c.number("alpha", 1.67326319217681884765625), c.number("gamma", 1.05070102214813232421875)
    return c.b.mul(c.b.elu(x, alpha=alpha), gamma)


@op("ThresholdedRelu")
def _thresholded(c: Call, x: Value) -> Value:
    return c.b.where(c.b.gt(x, c.number("alpha", 1.0)), x, c.like(0.0, x))


@op("HardSigmoid")
def _hard_sigmoid(c: Call, x: Value) -> Value:
    return c.b.hard_sigmoid(x, alpha=c.number("alpha", 0.2), beta=c.number("beta", 0.5))


@op("Swish")
def _swish(c: Call, x: Value) -> Value:
    alpha = c.number("alpha", 1.0)
    return c.b.silu(x) if alpha == 1.0 else c.b.mul(x, c.b.sigmoid(c.b.mul(x, alpha)))


@op("Gelu")
def _gelu(c: Call, x: Value) -> Value:
    how = c.text("approximate", "none")
    if how not in ("none", "tanh"):
        raise c.refuse(f"approximate={how!r}", "malformed")
    return c.b.gelu(x, approximate=how == "tanh")


@op("Shrink")
def _shrink(c: Call, x: Value) -> Value:
    b, lambd, bias = c.b, c.number("lambd", 0.5), c.number("bias", 0.0)
    wide = x if x.dtype.is_float else b.cast(x, to=F32)
    zero = c.like(0.0, wide)
    y = b.where(b.lt(wide, -lambd), b.add(wide, bias), b.where(b.gt(wide, lambd), b.sub(wide, bias), zero))
    return y if wide is x else b.cast(y, to=x.dtype)


@op("PRelu")
def _prelu(c: Call, x: Value, slope: Value) -> Value:
    b = c.b
    zero = c.like(0, x)
    if slope.rank > x.rank:
        raise c.refuse(f"a slope {slope.type} does not broadcast into {x.type}", "malformed")
    return b.where(b.lt(x, zero), b.mul(x, slope), x)


def _softmax_axes(c: Call, x: Value) -> tuple[int, ...]:
    if c.opset >= 13:
        return (c.axis(c.integer("axis", -1), x.rank),)
    # Before opset 13 everything from the axis on was one row.
    axis = c.integer("axis", 1)
    if not -x.rank <= axis <= x.rank:
        raise c.refuse(f"axis {axis} is outside rank {x.rank}", "malformed")
    return tuple(range(axis + x.rank if axis < 0 else axis, x.rank))


@op("Softmax")
def _softmax(c: Call, x: Value) -> Value:
    return c.b.softmax(x, axes=_softmax_axes(c, x))


@op("LogSoftmax")
def _log_softmax(c: Call, x: Value) -> Value:
    return c.b.log_softmax(x, axes=_softmax_axes(c, x))


@op("Hardmax")
def _hardmax(c: Call, x: Value) -> Value:
    b, axes = c.b, _softmax_axes(c, x)
    first = axes[0] if axes else x.rank
    if len(axes) == 1:
        flat, axis = x, axes[0]
    else:
        rest: Any = 1
        for d in x.shape[first:]:
            rest = rest * d
        flat, axis = b.reshape(x, shape=(*x.shape[:first], rest)), first
    best = b.argmax(flat, axis=axis, keepdims=True)
    hot = b.eq(b.iota(shape=flat.shape, axis=axis, dtype=I64), best)
    return b.reshape(b.cast(hot, to=x.dtype), shape=x.shape)
