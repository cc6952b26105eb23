"""Normalisations.

Owns the axes and parameter shapes of ONNX's forms, and stash_type's wider arithmetic.
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import F32, F64
from ....ir.graph import Value
from ..call import Call, op
from .window import channel


def _params(c: Call, x: Value, *params: Value) -> list[Value]:
    return [p if p.dtype is x.dtype else c.b.cast(p, to=x.dtype) for p in params]


@op("BatchNormalization")
def _batch_norm(c: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Any:
    b, epsilon = c.b, c.number("epsilon", 1e-5)
    if c.opset < 9 and not c.integer("spatial", 1):
        raise c.refuse("spatial=0")
    if not c.integer("training_mode", 0):
        if any(c.wants(i) for i in range(1, 5)):
            raise c.refuse("statistics of training are wanted")
        wide = x if max(p.dtype.size for p in (scale, mean)) <= x.dtype.size else b.cast(x, to=mean.dtype)
        gamma, beta, mu, sigma = _params(c, wide, scale, bias, mean, var)
        y = b.batch_norm(wide, mu, sigma, gamma, beta, axis=1, epsilon=epsilon)
        return y if wide is x else b.cast(y, to=x.dtype)
    momentum = c.number("momentum", 0.9)
    axes = tuple(i for i in range(x.rank) if i != 1)
    mu = b.reduce_mean(x, axes=axes)
    centred = b.sub(x, channel(b, mu, x.rank))
    sigma = b.reduce_mean(b.square(centred), axes=axes)
    gamma, beta = _params(c, x, scale, bias)
    y = b.batch_norm(x, mu, sigma, gamma, beta, axis=1, epsilon=epsilon)
    running = [
        b.add(b.mul(old, momentum), b.mul(b.cast(new, to=old.dtype), 1.0 - momentum))
        for old, new in ((mean, mu), (var, sigma))
    ]
    return (y, *running)


@op("InstanceNormalization")
def _instance_norm(c: Call, x: Value, scale: Value, bias: Value) -> Value:
    b = c.b
    if x.rank < 3:
        raise c.refuse(f"takes rank >= 3, got {x.type}", "malformed")
    gamma, beta = (channel(b, p, x.rank) for p in _params(c, x, scale, bias))
    return b.layer_norm(x, gamma, beta, axes=tuple(range(2, x.rank)), epsilon=c.number("epsilon", 1e-5))


def _stash(c: Call, x: Value) -> Value:
    """x in the type that statistics are computed in."""
    if x.dtype is F64 or x.dtype is F32 or c.integer("stash_type", 1) != 1:
        return x
    return c.b.cast(x, to=F32)


@op("LayerNormalization")
def _layer_norm(c: Call, x: Value, scale: Value, bias: Value | None = None) -> Any:
    b, epsilon = c.b, c.number("epsilon", 1e-5)
    axes = tuple(range(c.axis(c.integer("axis", -1), x.rank), x.rank))
    wide = _stash(c, x)
    if c.wants(1) or c.wants(2):
        mean = b.reduce_mean(wide, axes=axes, keepdims=True)
        centred = b.sub(wide, mean)
        inv = b.rsqrt(b.add(b.reduce_mean(b.square(centred), axes=axes, keepdims=True), epsilon))
        y = b.mul(centred, inv)
    else:
        y, mean, inv = b.layer_norm(wide, axes=axes, epsilon=epsilon, has_gamma=False), None, None
        if wide is x and scale.dtype is x.dtype:
            rest = [scale] if bias is None else [scale, bias]
            return b.layer_norm(x, *rest, axes=axes, epsilon=epsilon)
    y = b.mul(b.cast(y, to=x.dtype) if wide is not x else y, scale)
    return (y if bias is None else b.add(y, bias)), mean, inv


@op("RMSNormalization")
def _rms_norm(c: Call, x: Value, scale: Value) -> Value:
    b = c.b
    axes = tuple(range(c.axis(c.integer("axis", -1), x.rank), x.rank))
    wide = _stash(c, x)
    epsilon = c.number("epsilon", 1e-5)
    if wide is x and scale.dtype is x.dtype:
        return b.rms_norm(x, scale, axes=axes, epsilon=epsilon)
    y = b.rms_norm(wide, axes=axes, epsilon=epsilon, has_gamma=False)
    return b.mul(b.cast(y, to=scale.dtype), scale)


@op("GroupNormalization")
def _group_norm(c: Call, x: Value, scale: Value, bias: Value) -> Value:
    b, groups = c.b, c.integer("num_groups")
    if x.rank < 3 or not isinstance(x.shape[1], int) or not groups or groups < 1 or x.shape[1] % groups:
        raise c.refuse(f"{groups} groups of {x.type}", "malformed")
    wide = _stash(c, x)
    params = _params(c, wide, scale, bias)
    if c.opset < 21:
        # One scale and bias per group.
        each = x.shape[1] // groups
        params = [
            b.reshape(b.broadcast_to(b.reshape(p, shape=(groups, 1)), shape=(groups, each)), shape=(x.shape[1],))
            for p in params
        ]
    y = b.group_norm(wide, *params, groups=groups, axis=1, epsilon=c.number("epsilon", 1e-5))
    return y if wide is x else b.cast(y, to=x.dtype)


@op("LRN")
def _lrn(c: Call, x: Value) -> Value:
    b, size = c.b, c.integer("size")
    alpha, beta, bias = c.number("alpha", 1e-4), c.number("beta", 0.75), c.number("bias", 1.0)
    if x.rank < 2 or not size or not 1 <= size <= 1 << 16:
        raise c.refuse(f"size {size} on {x.type}", "malformed")
    low, high = (size - 1) // 2, size - 1 - (size - 1) // 2
    n, ch = x.shape[:2]
    # The window runs over channels: they become the one spatial axis.
    lines = b.reshape(b.transpose(x, perm=(0, *range(2, x.rank), 1)), shape=(x.type.size // ch, ch, 1))
    mean = b.avg_pool(b.square(lines), window=(size,), strides=(1,), pads=((low, high),), count_include_pad=True)
    power = b.pow(b.add(b.mul(mean, alpha), bias), beta)
    power = b.transpose(b.reshape(power, shape=(n, *x.shape[2:], ch)), perm=(0, x.rank - 1, *range(1, x.rank - 1)))
    return b.div(x, power)
