"""Layers of Keras 1 that have no Keras 2 form, after the sources of 1.2.2.

Owns their formulas. Must not know how Keras 1 stores options and weights.
"""

from __future__ import annotations

from typing import Any

from ....core.dims import Extent
from ....ir.graph import Value
from ..call import Call, layer, static
from .activation import activate
from .conv import activate_channels_last
from .merge import batch_dot

_EPSILON = 1e-7  # keras.backend.epsilon() by default


@layer("Highway", mask="pass")
def _highway(c: Call, x: Value) -> Value:
    """t = sigmoid(x W_carry + b_carry); t * f(x W + b) + (1 - t) * x."""
    b, n = c.b, static(c, c.need_rank(x, 2).shape[-1], "the feature axis")
    gate, y = b.matmul(x, c.w("carry_kernel", (n, n))), b.matmul(x, c.w("kernel", (n, n)))
    if c.has("bias"):
        gate, y = b.add(gate, c.w("carry_bias", (n,))), b.add(y, c.w("bias", (n,)))
    t = b.sigmoid(gate)
    return b.add(b.mul(t, activate(c, y, c.config.get("activation"))), b.mul(b.sub(1.0, t), x))


@layer("MaxoutDense")
def _maxout(c: Call, x: Value) -> Value:
    """The largest of ``nb_feature`` dense layers."""
    n, units = static(c, c.need_rank(x, 2).shape[-1], "the feature axis"), c.integer("units")
    features = c.integer("nb_feature", 4)
    y = c.b.einsum(x, c.w("kernel", (features, n, units)), equation="nd,fdo->nfo")
    if c.has("bias"):
        y = c.b.add(y, c.w("bias", (features, units)))
    return c.b.reduce_max(y, axes=(1,))


@layer("ParametricSoftplus", mask="pass")
def _parametric_softplus(c: Call, x: Value) -> Value:
    """alpha * softplus(beta x), by element."""
    return c.b.mul(c.b.softplus(c.b.mul(c.w("beta"), x)), c.w("alpha"))


@layer("SReLU", mask="pass")
def _srelu(c: Call, x: Value) -> Value:
    """Linear pieces with learned thresholds and slopes (Jin et al., 2016); the right one lies right of the left one."""
    b = c.b
    t_left, a_left, t_right, a_right = (c.w(n) for n in ("t_left", "a_left", "t_right", "a_right"))
    right = b.add(t_left, b.abs(t_right))
    shifted = b.sub(x, t_left)
    middle = b.sub(b.minimum(b.relu(shifted), b.sub(right, t_left)), b.mul(a_left, b.relu(b.neg(shifted))))
    return b.add(b.add(t_left, middle), b.mul(b.relu(b.sub(x, right)), a_right))


@layer("BatchNormalization(mode=1)", mask="pass")
def _sample_norm(c: Call, x: Value) -> Value:
    """Each sample by its own last axis; Keras 1 adds epsilon under the root and again behind it."""
    b, epsilon, last = c.b, c.number("epsilon", 1e-3), (x.rank - 1,)
    centred = b.sub(x, b.reduce_mean(x, axes=last, keepdims=True))
    deviation = b.sqrt(b.add(b.reduce_mean(b.square(centred), axes=last, keepdims=True), epsilon))
    return b.add(b.mul(c.w("gamma"), b.div(centred, b.add(deviation, epsilon))), c.w("beta"))


@layer("BatchNormalization(mode=2)", mask="pass")
def _batch_statistics(c: Call, x: Value) -> Value:
    """The batch's own mean and variance, at inference too: a row depends on the others."""
    b, axis = c.b, c.axis(c.get("axis", -1), x.rank)
    axes = tuple(i for i in range(x.rank) if i != axis)
    spread: tuple[Extent, ...] = tuple(x.shape[i] if i == axis else 1 for i in range(x.rank))
    centred = b.sub(x, b.reduce_mean(x, axes=axes, keepdims=True))
    scale = b.rsqrt(b.add(b.reduce_mean(b.square(centred), axes=axes, keepdims=True), c.number("epsilon", 1e-3)))
    gamma, beta = (b.reshape(c.w(n), shape=spread) for n in ("gamma", "beta"))
    return b.add(b.mul(b.mul(centred, scale), gamma), beta)


@layer("Merge")
def _cosine(c: Call, xs: Any) -> Value:
    """mode="cos": the product over ``dot_axes`` divided by both lengths, with an axis of 1 put behind the batch."""
    if not isinstance(xs, (list, tuple)) or len(xs) != 2:
        raise c.refuse("mode='cos' takes two inputs")
    b, (x, y) = c.b, xs
    axes = c.config.get("dot_axes", -1)
    i, j = [axes] * 2 if isinstance(axes, int) else list(axes)
    i, j = c.axis(i, x.rank), c.axis(j, y.rank)
    lengths = b.sqrt(b.mul(batch_dot(c, x, x, i, i), batch_dot(c, y, y, j, j)))
    z = b.div(batch_dot(c, x, y, i, j), b.maximum(lengths, _EPSILON))
    return b.reshape(z, shape=(z.shape[0], 1, *z.shape[1:]))


@layer("Deconvolution2D")
def _deconvolution(c: Call, x: Value) -> Value:
    """A transposed convolution whose result has the extents that ``output_shape`` states."""
    c.need_rank(x, 4)
    x = c.float(c.to_last(x))
    kernel, strides, filters = c.ints("kernel_size", 2), c.ints("strides", 2), c.integer("filters")
    stated = c.config.get("output_shape")
    if not isinstance(stated, (list, tuple)) or len(stated) != 4:
        raise c.refuse(f"output_shape={stated!r} is not a shape of 4 axes")
    wanted = stated[2:] if c.channels_first else stated[1:3]
    mode, pads, more = str(c.get("padding", "valid")), [], []
    for n, k, s, out in zip(x.shape[1:3], kernel, strides, wanted, strict=True):
        n = static(c, n, "a spatial axis")
        full = (n - 1) * s + k
        if mode not in ("valid", "same", "theano-same"):
            raise c.refuse(f"border_mode={mode!r} is not supported")
        spread = k // 2 * 2 if mode == "theano-same" else max(full - out, 0) if mode == "same" else 0
        if type(out) is not int or not 0 <= out - (full - spread) < s:
            raise c.refuse(f"output_shape={stated!r} does not follow from an input of {n}, a window of {k}, stride {s}")
        low = spread // 2
        pads.append((low, max(full - low - out, 0)))
        more.append(max(out + low - full, 0))
    w = c.w("kernel", (*kernel, filters, static(c, x.shape[-1], "the channel axis")))
    y = c.b.conv_transpose(x, w, strides=strides, pads=tuple(pads), output_padding=tuple(more))
    if c.has("bias"):
        y = c.b.add(y, c.w("bias", (filters,)))
    return c.from_last(activate_channels_last(c, y))
