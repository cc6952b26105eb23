"""Normalisation layers.

Owns their axes, epsilons and Keras' numerics. Must not know models.
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import F32
from ....ir.graph import Value
from ..call import Call, layer, static


def _axes(c: Call, rank: int, default: int = -1) -> tuple[int, ...]:
    value = c.get("axis", default)
    return tuple(sorted(c.axis(a, rank) for a in (value if isinstance(value, (list, tuple)) else [value])))


@layer("BatchNormalization", mask="pass")
def _batch_norm(c: Call, x: Value) -> Value:
    axes = _axes(c, x.rank)
    if len(axes) != 1:
        raise c.refuse("several axes are not supported")
    axis = axes[0]
    n = static(c, x.shape[axis], "the normalised axis")
    wide = x if x.dtype.size >= 4 else c.b.cast(x, to=F32)
    to = wide.dtype
    mean, var = c.w("moving_mean", (n,), to), c.w("moving_variance", (n,), to)
    gamma = c.w("gamma", (n,), to) if c.has("gamma") else None
    beta = c.w("beta", (n,), to) if c.has("beta") else None
    affine = [v for v in (gamma, beta) if v is not None]
    y = c.b.batch_norm(
        wide, mean, var, *affine, axis=axis, epsilon=c.number("epsilon", 1e-3), has_gamma=gamma is not None
    )
    return c.cast(y, x.dtype)


@layer("LayerNormalization", mask="pass")
def _layer_norm(c: Call, x: Value) -> Value:
    axes = _axes(c, x.rank)
    if c.flag("rms_scaling"):
        return _scaled_rms(c, x, axes)
    wide = x if x.dtype.size >= 4 else c.b.cast(x, to=F32)
    shape = tuple(static(c, x.shape[a], "a normalised axis") for a in axes)
    gamma = c.w("gamma", shape, wide.dtype) if c.has("gamma") else None
    beta = c.w("beta", shape, wide.dtype) if c.has("beta") else None
    epsilon = c.number("epsilon", 1e-3)
    spread = tuple(x.shape[i] if i in axes else 1 for i in range(x.rank))
    trailing = axes == tuple(range(x.rank - len(axes), x.rank))
    affine = [v if trailing else c.b.reshape(v, shape=spread) for v in (gamma, beta) if v is not None]
    return c.cast(c.b.layer_norm(wide, *affine, axes=axes, epsilon=epsilon, has_gamma=gamma is not None), x.dtype)


def _scaled_rms(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    """Keras' rms_scaling divides by the standard deviation around the mean, but does not subtract the mean."""
    b = c.b
    mean = b.reduce_mean(x, axes=axes, keepdims=True)
    var = b.reduce_mean(b.square(b.sub(x, mean)), axes=axes, keepdims=True)
    y = b.mul(x, b.rsqrt(b.add(var, c.number("epsilon", 1e-3))))
    spread = tuple(x.shape[i] if i in axes else 1 for i in range(x.rank))
    return b.mul(y, b.reshape(c.w("gamma"), shape=spread))


@layer("RMSNormalization")
def _rms_norm(c: Call, x: Value) -> Value:
    axes = _axes(c, x.rank)
    wide = x if x.dtype.size >= 4 else c.b.cast(x, to=F32)
    spread = tuple(x.shape[i] if i in axes else 1 for i in range(x.rank))
    scale = c.b.reshape(c.w("scale", None, wide.dtype), shape=spread)
    return c.cast(c.b.rms_norm(wide, scale, axes=axes, epsilon=c.number("epsilon", 1e-6)), x.dtype)


@layer("GroupNormalization", mask="pass")
def _group_norm(c: Call, x: Value) -> Value:
    b, axis = c.b, _axes(c, x.rank)[0]
    n = static(c, x.shape[axis], "the channel axis")
    groups = c.integer("groups", 32, low=-1)
    groups = n if groups == -1 else groups
    if groups < 1 or n % groups:
        raise c.refuse(f"{n} channels do not split into {groups} groups")
    wide = x if x.dtype.size >= 4 else c.b.cast(x, to=F32)
    affine = [c.w(name, (n,), wide.dtype) for name in ("gamma", "beta") if c.has(name)]
    y = b.group_norm(
        wide, *affine, groups=groups, axis=axis, epsilon=c.number("epsilon", 1e-3), has_gamma=c.has("gamma")
    )
    return c.cast(y, x.dtype)


@layer("UnitNormalization", mask="pass")
def _unit_norm(c: Call, x: Value) -> Value:
    b, axes = c.b, _axes(c, x.rank)
    total = b.reduce_sum(b.square(x), axes=axes, keepdims=True)
    return b.mul(x, b.rsqrt(b.maximum(total, 1e-12)))


@layer("Normalization", autocast=False, mask="pass")
def _normalization(c: Call, x: Value) -> Value:
    """(x - mean) / max(sqrt(var), epsilon); ``axis`` None means one mean for all."""
    b, x = c.b, c.float(x)
    given = c.config.get("mean") is not None
    value: Any = c.config.get("axis", -1)
    axes = (
        [] if value is None else [c.axis(a, x.rank) for a in (value if isinstance(value, (list, tuple)) else [value])]
    )
    spread = tuple(x.shape[i] if i in axes else 1 for i in range(x.rank))
    parts = []
    for name in ("mean", "variance"):
        part = c.const(c.config[name]) if given else c.w(name)
        if part.rank and part.rank != x.rank:
            part = b.reshape(part, shape=spread) if part.type.size != 1 else b.reshape(part, shape=())
        parts.append(part)
    mean, var = parts
    if c.flag("invert"):
        return b.add(mean, b.mul(x, b.maximum(b.sqrt(var), 1e-7)))
    return b.div(b.sub(x, mean), b.maximum(b.sqrt(var), 1e-7))
