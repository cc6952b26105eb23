"""Quantised Dense, EinsumDense and Embedding of Keras 3: int8 and packed int4 weights.

Owns unpacking, scales and the rounding of activations, as Keras computes them. Must not know containers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dtypes import F32, I32, DType
from ....ir.graph import Value
from ..call import Call
from ..quantisation import mode_of

# Sums of this many products of two int8 are exact in float32.
_EXACT = (1 << 24) // (127 * 127)


def unpack_int4(array: np.ndarray, size: int) -> np.ndarray:
    """Two numbers in a byte along the last axis, the lower half first, as int8."""
    low, high = (array << 4).astype(np.int8) >> 4, array >> 4
    return np.stack([low, high], axis=-1).reshape(*array.shape[:-1], -1)[..., :size]


def weight(c: Call, name: str, size: int | None) -> np.ndarray:
    """The stored integers of a weight; ``size`` is its last extent where they are packed."""
    array = c.raw(name)
    if mode_of(c.config)[0] == "int4" and size is not None:
        return unpack_int4(array.view(np.int8), size)
    return array


def constant(c: Call, name: str, array: np.ndarray, to: DType) -> Value:
    """Small integers, kept as they are stored and widened in the graph."""
    return c.cast(c.lowerer.weight(c.spec, f"{name} unpacked", array, c.b.constant(array[:0]).dtype), to)


def by_group(c: Call, name: str, values: Value, axis: int) -> Value:
    """(q - zero) * scale, where ``g_idx`` tells each place along ``axis`` its group."""
    groups = c.b.constant(c.raw("g_idx").astype(np.int32))
    scale = c.b.gather(c.w(f"{name}_scale"), groups, axis=axis)
    zero = c.b.gather(c.w(f"{name}_zero"), groups, axis=axis)
    return c.b.mul(c.b.sub(values, zero), scale)


def rounded(c: Call, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value] | None:
    """(the activations as whole numbers, their scale), or None where only the weights are quantised."""
    config = c.config.get("quantization_config")
    inner = config.get("config") if isinstance(config, dict) else None
    low, high, epsilon = -127.0, 127.0, 1e-7
    if isinstance(inner, dict):
        quantiser = inner.get("activation_quantizer")
        if quantiser is None:
            return None
        options = quantiser.get("config") if isinstance(quantiser, dict) else None
        if not isinstance(options, dict) or quantiser.get("class_name") != "AbsMaxQuantizer":
            raise c.refuse("only AbsMaxQuantizer is supported for activations")
        (low, high), epsilon = options.get("value_range", (low, high)), options.get("epsilon", epsilon)
    elif mode_of(c.config)[0] == "int4":
        return None
    b = c.b
    top = b.add(b.reduce_max(b.abs(x), axes=axes, keepdims=True), float(epsilon))
    scale = b.div(b.constant(float(high), x.dtype), top)
    return b.minimum(b.maximum(b.round(b.mul(x, scale)), float(low)), float(high)), scale


def dense(c: Call, x: Value) -> Value:
    """x @ kernel of a quantised Dense, without bias and activation."""
    b, units = c.b, c.integer("units")
    x = c.float(x)
    array = weight(c, "kernel", units)
    if c.has("kernel_zero"):
        return b.matmul(x, by_group(c, "kernel", constant(c, "kernel", array, x.dtype), 0))
    found = rounded(c, x, (x.rank - 1,))
    scale = c.w("kernel_scale")
    if found is None:
        return b.div(b.matmul(x, constant(c, "kernel", array, x.dtype)), scale)
    x, own = found
    return b.div(_exact(c, x, array, None), b.mul(scale, own))


def _exact(c: Call, x: Value, array: np.ndarray, equation: str | None) -> Value:
    """The product of whole numbers, in float32 while that is exact and in int32 beyond."""
    depth = array.size // max(array.shape[-1], 1)
    to = F32 if depth <= _EXACT else I32
    left, right = c.cast(x, to), constant(c, "kernel", array, to)
    y = c.b.matmul(left, right) if equation is None else c.b.einsum(left, right, equation=equation)
    return c.cast(y, c.dtype)


def einsum(c: Call, x: Value, equation: str) -> Value:
    """The product of a quantised EinsumDense. The stored scale has the axes of the output."""
    b = c.b
    x = c.float(x)
    if mode_of(c.config)[0] != "int8":
        raise c.refuse("only int8 is supported for EinsumDense")
    array = c.raw("kernel")
    given, rest = equation.split(",")
    kernel, out = rest.split("->")
    axes = tuple(i for i, s in enumerate(given) if s in kernel)
    found = rounded(c, x, axes)
    scale = c.w("kernel_scale")
    if found is None:
        return b.div(b.einsum(x, constant(c, "kernel", array, x.dtype), equation=equation), scale)
    x, own = found
    kept = [s for s in given if s not in kernel]
    # The scale of the activations keeps the axes that the contraction keeps; it moves to their place in the output.
    own = b.reshape(own, shape=tuple(d for s, d in zip(given, own.shape, strict=True) if s in kept))
    order = [s for s in out if s in kept]
    own = b.transpose(own, perm=tuple(kept.index(s) for s in order))
    extents = iter(own.shape)
    own = b.reshape(own, shape=tuple(next(extents) if s in kept else 1 for s in out))
    return b.div(_exact(c, x, array, equation), b.mul(scale, own))


def embedding(c: Call, index: Value) -> Value:
    """Rows of a quantised Embedding."""
    b, width = c.b, c.integer("output_dim")
    array = weight(c, "embeddings", width)
    stored = c.lowerer.weight(c.spec, "embeddings unpacked", array, b.constant(array[:0]).dtype)
    rows = c.cast(b.gather(stored, index, axis=0), c.dtype)
    scale = b.gather(c.w("embeddings_scale"), index, axis=0)
    if c.has("embeddings_zero"):
        groups = b.constant(c.raw("g_idx").astype(np.int32))
        zero = b.gather(c.w("embeddings_zero"), index, axis=0)
        spread = [b.gather(v, groups, axis=v.rank - 1) for v in (scale, zero)]
        return b.mul(b.sub(rows, spread[1]), spread[0])
    return b.div(rows, b.reshape(scale, shape=(*scale.shape, 1)))


def unsupported(c: Call) -> Any:
    """The refusal of a mode that is not here."""
    mode = mode_of(c.config)[0]
    return c.refuse(f"quantisation mode {mode!r} is not supported", "int8 and int4 are; or save the model unquantised")


__all__ = ["dense", "einsum", "embedding", "unpack_int4", "unsupported"]
