"""Activation functions and activation layers.

Owns their formulas, by Keras version where the meaning of a name changed. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.graph import Value
from ..call import LAYERS, Call, Tensor, layer
from ..model import LayerSpec

Activation = Callable[[Call, Value], Value]


def _hard_sigmoid(c: Call, x: Value) -> Value:
    # Keras 1 and 2: clip(0.2 x + 0.5); Keras 3 changed the slope under the same name.
    return c.b.hard_sigmoid(x, alpha=0.2 if c.version[0] < 3 else 1.0 / 6.0, beta=0.5)


def _clip(c: Call, x: Value, low: float, high: float) -> Value:
    return c.b.minimum(c.b.maximum(x, low), high)


def _relu6(c: Call, x: Value) -> Value:
    return c.b.minimum(c.b.relu(x), 6.0)


def _hard_silu(c: Call, x: Value) -> Value:
    return c.b.mul(x, c.b.hard_sigmoid(x, alpha=1.0 / 6.0, beta=0.5))


def _squareplus(c: Call, x: Value) -> Value:
    return c.b.mul(c.b.add(x, c.b.sqrt(c.b.add(c.b.square(x), 4.0))), 0.5)


def _soft_shrink(c: Call, x: Value, threshold: float = 0.5) -> Value:
    b = c.b
    below = b.where(b.lt(x, -threshold), b.add(x, threshold), 0.0)
    return b.where(b.gt(x, threshold), b.sub(x, threshold), below)


def _hard_shrink(c: Call, x: Value, threshold: float = 0.5) -> Value:
    return c.b.where(c.b.gt(c.b.abs(x), threshold), x, 0.0)


def _sparse_plus(c: Call, x: Value) -> Value:
    b = c.b
    mid = b.mul(b.square(b.add(x, 1.0)), 0.25)
    return b.where(b.le(x, -1.0), 0.0, b.where(b.lt(x, 1.0), mid, x))


def _sparse_sigmoid(c: Call, x: Value) -> Value:
    b = c.b
    return b.where(b.le(x, -1.0), 0.0, b.where(b.ge(x, 1.0), 1.0, b.mul(b.add(x, 1.0), 0.5)))


def _threshold(c: Call, x: Value, threshold: float = 0.0, value: float = 0.0) -> Value:
    return c.b.where(c.b.gt(x, threshold), x, value)


def glu(c: Call, x: Value, axis: int = -1) -> Value:
    """Gated linear unit: first half times sigmoid of the second."""
    axis = c.axis(axis, x.rank)
    half = x.shape[axis] // 2
    first = c.b.slice(x, starts=(None,) * x.rank, stops=tuple(half if i == axis else None for i in range(x.rank)))
    second = c.b.slice(x, starts=tuple(half if i == axis else None for i in range(x.rank)), stops=(None,) * x.rank)
    return c.b.mul(first, c.b.sigmoid(second))


def sparsemax(c: Call, x: Value, axis: int = -1) -> Value:
    """Keras' sparsemax (after Martins and Astudillo, 2016).

    Keras sums the running sums over the support where the paper takes the last one;
    the result is Keras', not the paper's.
    """
    b, axis = c.b, c.axis(axis, x.rank)
    ordered, _ = b.sort(x, axis=axis, descending=True)
    sums = b.cumsum(ordered, axis=axis)
    rank = c.cast(b.add(b.iota(shape=x.shape, axis=axis), 1), x.dtype)
    inside = b.gt(b.sub(ordered, b.div(b.sub(sums, 1.0), rank)), 0.0)
    count = b.reduce_sum(c.cast(inside, x.dtype), axes=(axis,), keepdims=True)
    total = b.reduce_sum(b.where(inside, sums, 0.0), axes=(axis,), keepdims=True)
    return b.relu(b.sub(x, b.div(b.sub(total, 1.0), count)))


ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda c, x: x,
    "relu": lambda c, x: c.b.relu(x),
    "relu6": _relu6,
    "leaky_relu": lambda c, x: c.b.leaky_relu(x, alpha=0.2),
    "sigmoid": lambda c, x: c.b.sigmoid(x),
    "tanh": lambda c, x: c.b.tanh(x),
    "softmax": lambda c, x: c.b.softmax(x, axes=-1),
    "log_softmax": lambda c, x: c.b.log_softmax(x, axes=-1),
    "softplus": lambda c, x: c.b.softplus(x),
    "softsign": lambda c, x: c.b.softsign(x),
    "elu": lambda c, x: c.b.elu(x),
    "selu": lambda c, x: c.b.selu(x),
    "celu": lambda c, x: c.b.celu(x),
    "silu": lambda c, x: c.b.silu(x),
    "swish": lambda c, x: c.b.silu(x),
    "gelu": lambda c, x: c.b.gelu(x, approximate=False),
    "mish": lambda c, x: c.b.mish(x),
    "exponential": lambda c, x: c.b.exp(x),
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _hard_silu,
    "hard_swish": _hard_silu,
    "hard_tanh": lambda c, x: _clip(c, x, -1.0, 1.0),
    "hard_shrink": _hard_shrink,
    "soft_shrink": _soft_shrink,
    "tanh_shrink": lambda c, x: c.b.sub(x, c.b.tanh(x)),
    "threshold": _threshold,
    "squareplus": _squareplus,
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": _sparse_sigmoid,
    "sparsemax": sparsemax,
    "log_sigmoid": lambda c, x: c.b.neg(c.b.softplus(c.b.neg(x))),
    "glu": glu,
}


def activate(c: Call, x: Value, spec: Any) -> Value:
    """Apply an activation option: a name, None, or a serialised function or layer."""
    if spec is None:
        return x
    if isinstance(spec, dict):
        inner = spec.get("config")
        kind = spec.get("class_name")
        if isinstance(inner, str):
            spec = inner
        elif kind in LAYERS and isinstance(inner, dict):
            below = LayerSpec(str(kind), str(kind), f"{c.spec.path}/{kind}", inner, c.version)
            out = c.lowerer.call(below, [Tensor(x)], {}, c.b)
            return out.value if isinstance(out, Tensor) else x
        else:
            raise c.refuse(f"activation {kind!r} is not known", "wrap it in a layer and register that")
    if not isinstance(spec, str) or spec.split(">")[-1] not in ACTIVATIONS or ">" in spec:
        raise c.refuse(f"activation {spec!r} is not known", "wrap it in a layer and register that")
    return ACTIVATIONS[spec](c, x)


def relu(c: Call, x: Value, slope: float, limit: float | None, threshold: float) -> Value:
    """Keras' general relu, with its own order of operations."""
    b = c.b
    if slope and limit is None and threshold == 0:
        return b.leaky_relu(x, alpha=slope)
    negative = b.relu(b.sub(threshold, x) if threshold else b.neg(x)) if slope else None
    y = b.mul(x, c.cast(b.gt(x, threshold), x.dtype)) if threshold else b.relu(x)
    if limit is not None:
        y = _clip(c, y, 0.0, limit)
    return y if negative is None else b.sub(y, b.mul(negative, slope))


@layer("Activation", mask="pass")
def _activation(c: Call, x: Value) -> Value:
    return activate(c, x, c.config.get("activation"))


@layer("ReLU", mask="pass")
def _relu(c: Call, x: Value) -> Value:
    limit = c.config.get("max_value")
    return relu(
        c,
        x,
        c.number("negative_slope", 0.0),
        None if limit is None else c.number("max_value"),
        c.number("threshold", 0.0),
    )


@layer("LeakyReLU", mask="pass")
def _leaky(c: Call, x: Value) -> Value:
    key = "negative_slope" if "negative_slope" in c.config else "alpha"
    return c.b.leaky_relu(x, alpha=c.number(key, 0.3))


@layer("ThresholdedReLU", mask="pass")
def _thresholded(c: Call, x: Value) -> Value:
    theta = c.number("theta", 1.0)
    return c.b.mul(x, c.cast(c.b.gt(x, theta), x.dtype))


@layer("ELU", mask="pass")
def _elu(c: Call, x: Value) -> Value:
    return c.b.elu(x, alpha=c.number("alpha", 1.0))


@layer("PReLU", mask="pass")
def _prelu(c: Call, x: Value) -> Value:
    shared = c.get("shared_axes", [])
    if not isinstance(shared, (list, tuple)):
        shared = [shared]
    shape = [None if i in shared else d for i, d in enumerate(x.shape)][1:]
    want = [1 if (i + 1) in shared or (i + 1 - x.rank) in shared else d for i, d in enumerate(shape)]
    alpha = c.w("alpha", [d if isinstance(d, int) else None for d in want])
    return c.b.sub(c.b.relu(x), c.b.mul(alpha, c.b.relu(c.b.neg(x))))


def masked_scores(c: Call, x: Value, mask: Value) -> Value:
    """Scores with a large negative number where the mask is False, as the Softmax layer of each Keras has it."""
    keep = c.bool_mask(mask)
    if c.version[0] >= 3:
        return c.b.where(keep, x, -0.5 * (65504.0 if x.dtype.size == 2 else 3.4028234663852886e38))
    hole = c.cast(c.b.logical_not(keep), x.dtype)
    return c.b.add(x, c.b.mul(hole, -65504.0 if x.dtype.size == 2 else -1e9))


def masked_softmax(c: Call, x: Value, mask: Value | None, axes: Sequence[int]) -> Value:
    """Keras' Softmax layer: Keras 3 also zeroes what is masked, which matters where a whole row is."""
    if mask is None:
        return c.b.softmax(x, axes=tuple(axes))
    y = c.b.softmax(masked_scores(c, x, mask), axes=tuple(axes))
    return c.b.where(c.bool_mask(mask), y, 0.0) if c.version[0] >= 3 else y


@layer("Softmax", mask="pass")
def _softmax(c: Call, x: Value, mask: Value | None = None) -> Value:
    axis = c.get("axis", -1)
    mask = c.mask if mask is None else mask
    if mask is not None and mask.rank != x.rank:
        raise c.refuse(f"a mask of rank {mask.rank} on an input of rank {x.rank}")
    axes = [c.axis(a, x.rank) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
    return masked_softmax(c, x, mask, axes)
