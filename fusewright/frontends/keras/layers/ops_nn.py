"""``keras.ops.nn`` nodes: convolution, pooling, normalisation, attention, losses.

Owns their arguments; windows and padding are those of the layers. Must not know models.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....core.dtypes import F32, I32
from ....ir.graph import Value
from ..call import LAYERS, Call, operation, static
from ..model import LayerSpec
from .activation import ACTIVATIONS
from .ops import axes_option, floats, option, pair, value


def windowed(c: Call, x: Value, weights: dict[str, np.ndarray], kind: str, **options: Any) -> Value:
    """A layer's own lowering, run with the options of an operation."""
    spec = LayerSpec(kind, c.spec.name, c.spec.path, {**options, "dtype": x.dtype.np.name}, c.version)
    spec.weights = weights
    return LAYERS[kind].fn(Call(c.lowerer, spec, [], c.b), x)  # type: ignore[no-any-return]


def _format(c: Call, k: dict[str, Any]) -> str:
    return str(option(c, k, "data_format", "channels_last"))


@operation("MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool")
def _pool(c: Call, inputs: Any, **k: Any) -> Value:
    v = value(c, inputs)
    kind = f"{c.spec.class_name}ing{v.rank - 2}D"
    options = {"data_format": _format(c, k)}
    if kind.startswith("Adaptive"):
        return windowed(c, v, {}, kind, **options, output_size=option(c, k, "output_size"))
    return windowed(
        c, v, {}, kind, **options, pool_size=option(c, k, "pool_size"), strides=option(c, k, "strides"),
        padding=option(c, k, "padding", "valid"),
    )  # fmt: skip


@operation("Conv", "DepthwiseConv", "ConvTranspose", "SeparableConv")
def _conv(c: Call, inputs: Any, *kernels: Any, **k: Any) -> Value:
    """The kernel is a value here, so the layer's lowering is given it under the name of its weight."""
    v, kind = value(c, inputs), c.spec.class_name
    found = [value(c, w) for w in kernels] + [value(c, k.pop(n)) for n in list(k) if "kernel" in n]
    for i, w in enumerate(found):
        v, found[i] = pair(c, v, w)
    rank = v.rank - 2
    shape = found[0].shape
    options = {
        "data_format": _format(c, k), "strides": option(c, k, "strides", 1), "kernel_size": list(shape[:rank]),
        "padding": option(c, k, "padding", "valid"), "dilation_rate": option(c, k, "dilation_rate", 1),
    }  # fmt: skip
    names = ["kernel"]
    if kind in ("DepthwiseConv", "SeparableConv"):
        names = ["depthwise_kernel", "pointwise_kernel"]
        options["depth_multiplier"] = shape[-1]
    options["filters"] = shape[-2] if kind == "ConvTranspose" else found[-1].shape[-1]
    if kind == "ConvTranspose":
        options["output_padding"] = option(c, k, "output_padding")
    if kind == "Conv":
        channels = v.shape[1] if options["data_format"] == "channels_first" else v.shape[-1]
        options["groups"] = static(c, channels, "the channel axis") // static(c, shape[-2], "the kernel's channels")
    layer = {"ConvTranspose": f"Conv{rank}DTranspose"}.get(kind, f"{kind}{rank}D")
    if layer not in LAYERS:
        raise c.refuse(f"a {kind} over {rank} axes is not supported")
    spec = LayerSpec(layer, c.spec.name, c.spec.path, {**options, "dtype": v.dtype.np.name}, c.version)
    inner = _GivenWeights(c.lowerer, spec, [], c.b)
    inner.given = dict(zip(names, found, strict=False))
    return LAYERS[layer].fn(inner, v)  # type: ignore[no-any-return]


class _GivenWeights(Call):
    """A call whose weights are values of the graph instead of arrays of the file."""

    given: dict[str, Value]

    def has(self, name: str) -> bool:
        return name in self.given

    def w(self, name: str, shape: Any = None, to: Any = None) -> Value:
        return self.given[name]


@operation("SoftShrink", "HardShrink")
def _shrink(c: Call, x: Any, **k: Any) -> Value:
    key = "soft_shrink" if c.spec.class_name == "SoftShrink" else "hard_shrink"
    shrink: Any = ACTIVATIONS[key]
    out: Value = shrink(c, floats(c, x), float(option(c, k, "threshold", 0.5)))
    return out


@operation("Threshold")
def _threshold(c: Call, x: Any, **k: Any) -> Value:
    threshold: Any = ACTIVATIONS["threshold"]
    limit, other = float(option(c, k, "threshold", 0.0)), float(option(c, k, "default_value", 0.0))
    out: Value = threshold(c, floats(c, x), limit, other)
    return out


@operation("BatchNorm")
def _batch_norm(c: Call, x: Any, mean: Any, variance: Any, offset: Any = None, scale: Any = None, **k: Any) -> Value:
    v = value(c, x)
    axis = c.axis(option(c, k, "axis"), v.rank)
    wide = c.cast(v, F32) if v.dtype.size < 4 else v
    parts = [c.cast(value(c, p), wide.dtype) for p in (mean, variance, scale, offset) if p is not None]
    y = c.b.batch_norm(
        wide, *parts, axis=axis, epsilon=float(option(c, k, "epsilon", 1e-3)), has_gamma=scale is not None
    )
    return c.cast(y, v.dtype)


@operation("LayerNorm", "RMSNorm")
def _layer_norm(c: Call, x: Any, gamma: Any = None, beta: Any = None, scale: Any = None, **k: Any) -> Value:
    v, b = floats(c, x), c.b
    wide = c.cast(v, F32) if v.dtype.size < 4 else v
    axes = axes_option(c, {"axis": option(c, k, "axis", -1)}, v.rank)
    given = option(c, k, "epsilon")
    epsilon = float(np.finfo(v.dtype.np).eps) if given is None else float(given)
    spread = tuple(v.shape[i] if i in axes else 1 for i in range(v.rank))
    shaped = [None if p is None else b.reshape(c.cast(value(c, p), wide.dtype), shape=spread) for p in (gamma, beta)]
    if c.spec.class_name == "LayerNorm" and not option(c, k, "rms_scaling", False):
        affine = [p for p in shaped if p is not None]
        y = b.layer_norm(wide, *affine, axes=axes, epsilon=epsilon, has_gamma=gamma is not None)
        return c.cast(y, v.dtype)
    if c.spec.class_name == "LayerNorm":
        raise c.refuse("rms_scaling is not supported")
    if scale is not None:
        shaped[0] = b.reshape(c.cast(value(c, scale), wide.dtype), shape=spread)
    y = b.mul(wide, b.rsqrt(b.add(b.reduce_mean(b.square(wide), axes=axes, keepdims=True), epsilon)))
    return c.cast(y if shaped[0] is None else b.mul(y, shaped[0]), v.dtype)


@operation("DotProductAttention")
def _attention(
    c: Call, query: Any, key: Any, v: Any = None, bias: Any = None, mask: Any = None, scale: Any = None, **k: Any
) -> Value:
    """[N, T, heads, depth]; fewer key heads are shared by groups of query heads."""
    b = c.b
    given = k.pop("value", None) if v is None else v
    if option(c, k, "attn_logits_soft_cap") is not None:
        raise c.refuse("attn_logits_soft_cap is not supported")
    q, keys, values = (b.transpose(value(c, x), perm=(0, 2, 1, 3)) for x in (query, key, given))
    times = static(c, q.shape[1], "heads") // static(c, keys.shape[1], "heads")
    if times > 1:
        from_heads = np.repeat(np.arange(static(c, keys.shape[1], "heads")), times).astype(np.int32)
        keys, values = (b.gather(x, b.constant(from_heads), axis=1) for x in (keys, values))
    scale = 1.0 / math.sqrt(static(c, q.shape[-1], "depth")) if scale is None else float(scale)
    scores = b.mul(b.matmul(q, keys, transpose_b=True), scale)
    if bias is not None:
        scores = b.add(scores, c.cast(value(c, bias), scores.dtype))
    keep = None if mask is None else c.bool_mask(value(c, mask))
    if option(c, k, "is_causal", False):
        shape = (1, 1, *scores.shape[2:])
        causal = b.ge(b.iota(shape=shape, axis=2, dtype=I32), b.iota(shape=shape, axis=3, dtype=I32))
        keep = causal if keep is None else b.logical_and(keep, causal)
    if keep is not None:
        scores = b.where(keep, scores, b.constant(float(np.finfo(scores.dtype.np).max) * -0.7, scores.dtype))
    return b.transpose(b.matmul(b.softmax(scores, axes=-1), values), perm=(0, 2, 1, 3))


_EPSILON = 1e-7  # keras.config.epsilon() by default


def _clipped(c: Call, x: Value) -> Value:
    return c.b.minimum(c.b.maximum(x, _EPSILON), 1.0 - _EPSILON)


@operation("BinaryCrossentropy")
def _binary_crossentropy(c: Call, target: Any, output: Any, **k: Any) -> Value:
    t, x = (floats(c, v) for v in pair(c, target, output))
    b = c.b
    if option(c, k, "from_logits", False):
        return b.add(b.sub(b.relu(x), b.mul(x, t)), b.log1p(b.exp(b.neg(b.abs(x)))))
    x = _clipped(c, x)
    return b.neg(b.add(b.mul(t, b.log(x)), b.mul(b.sub(1.0, t), b.log(b.sub(1.0, x)))))


@operation("CategoricalCrossentropy", "SparseCategoricalCrossentropy")
def _crossentropy(c: Call, target: Any, output: Any, **k: Any) -> Value:
    x, b = floats(c, output), c.b
    axis = c.axis(option(c, k, "axis", -1), x.rank)
    if option(c, k, "from_logits", False):
        logs = b.log_softmax(x, axes=axis)
    else:
        if c.spec.class_name == "CategoricalCrossentropy":
            x = b.div(x, b.reduce_sum(x, axes=(axis,), keepdims=True))
        x = _clipped(c, x)
        # The sparse form goes through a softmax of the logarithms, which makes the classes sum to one.
        logs = b.log(x)
        logs = logs if c.spec.class_name == "CategoricalCrossentropy" else b.log_softmax(logs, axes=axis)
    t = value(c, target)
    if c.spec.class_name == "CategoricalCrossentropy":
        return b.neg(b.reduce_sum(b.mul(c.cast(t, x.dtype), logs), axes=(axis,)))
    if axis != x.rank - 1:
        raise c.refuse("only classes on the last axis are supported")
    index = t if t.dtype.is_int else b.cast(t, to=I32)
    shape = logs.shape[:-1]
    index = b.reshape(index, shape=(*shape, 1))
    found = b.gather(logs, index, axis=logs.rank - 1, batch_dims=logs.rank - 1)
    return b.neg(b.reshape(found, shape=shape))


@operation("PSNR")
def _psnr(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = (floats(c, v) for v in pair(c, x1, x2))
    b = c.b
    error = b.reduce_mean(b.square(b.sub(x, y)), axes=tuple(range(x.rank)))
    top = 20.0 * math.log10(float(option(c, k, "max_val")))
    return b.sub(top, b.mul(b.log(error), 10.0 / math.log(10.0)))


@operation("Unfold")
def _unfold(c: Call, x: Any, **k: Any) -> Value:
    """[N, C, H, W] -> [N, C * window, positions], windows in row order as PyTorch has them."""
    v, b = value(c, x), c.b
    two = lambda key, default: (lambda o: (o, o) if isinstance(o, int) else tuple(o))(option(c, k, key, default))
    size, rate, pad, stride = two("kernel_size", None), two("dilation", 1), two("padding", 0), two("stride", 1)
    if any(pad):
        v = b.pad(v, low=(0, 0, *pad), high=(0, 0, *pad))
    outs = [
        (static(c, n, "a spatial axis") - (s - 1) * r - 1) // t + 1
        for n, s, r, t in zip(v.shape[2:], size, rate, stride, strict=True)
    ]
    parts = []
    for i in range(size[0]):
        for j in range(size[1]):
            starts = (i * rate[0], j * rate[1])
            stops = tuple(lo + (o - 1) * t + 1 for lo, o, t in zip(starts, outs, stride, strict=True))
            part = b.slice(v, starts=(None, None, *starts), stops=(None, None, *stops), steps=(1, 1, *stride))
            parts.append(b.reshape(part, shape=(v.shape[0], v.shape[1], 1, outs[0] * outs[1])))
    joined = b.concat(*parts, axis=2)
    return b.reshape(joined, shape=(v.shape[0], v.shape[1] * len(parts), outs[0] * outs[1]))


@operation("DepthToSpace", "SpaceToDepth")
def _blocks(c: Call, x: Any, **k: Any) -> Value:
    v, s, b = value(c, x), int(option(c, k, "block_size")), c.b
    first = _format(c, k) == "channels_first"
    v = b.transpose(v, perm=(0, 2, 3, 1)) if first else v
    n, h, w, ch = v.shape
    if c.spec.class_name == "DepthToSpace":
        wide = b.reshape(v, shape=(n, h, w, s, s, ch // (s * s)))
        y = b.reshape(b.transpose(wide, perm=(0, 1, 3, 2, 4, 5)), shape=(n, h * s, w * s, ch // (s * s)))
    else:
        wide = b.reshape(v, shape=(n, h // s, s, w // s, s, ch))
        y = b.reshape(b.transpose(wide, perm=(0, 1, 3, 2, 4, 5)), shape=(n, h // s, w // s, ch * s * s))
    return b.transpose(y, perm=(0, 3, 1, 2)) if first else y
