"""Dense, EinsumDense, Embedding, Masking and the layers that inference passes through.

Owns their semantics. Must not know models.
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import I32
from ....ir.graph import Value
from ..call import Call, Tensor, layer
from ..quantisation import mode_of
from . import quantised
from .activation import activate


def dense(c: Call, x: Value, kernel: Value, bias: Value | None) -> Value:
    """x @ kernel + bias over the last axis."""
    if x.rank < 2:
        raise c.refuse(f"takes inputs of rank 2 or more, got {x.type}")
    y = c.b.matmul(c.float(x), kernel)
    return y if bias is None else c.b.add(y, bias)


@layer("Dense", mask="pass")
def _dense(c: Call, x: Value) -> Value:
    units = c.integer("units")
    if mode_of(c.config)[0]:
        y = quantised.dense(c, x) if c.has("kernel_scale") else None
        if y is None:
            raise quantised.unsupported(c)
        y = c.b.add(y, c.w("bias", (units,))) if c.has("bias") else y
        return activate(c, y, c.config.get("activation"))
    kernel = c.w("kernel", (x.shape[-1] if isinstance(x.shape[-1], int) else None, units))
    bias = c.w("bias", (units,)) if c.has("bias") else None
    return activate(c, dense(c, x, kernel, bias), c.config.get("activation"))


@layer("EinsumDense", mask="drop")
def _einsum_dense(c: Call, x: Value) -> Value:
    equation = c.config.get("equation")
    if not isinstance(equation, str):
        raise c.refuse(f"equation={equation!r} is not text")
    if mode_of(c.config)[0] and not c.has("kernel_scale"):
        raise quantised.unsupported(c)
    spelled = _spell(c, equation)
    if mode_of(c.config)[0]:
        y = quantised.einsum(c, x, spelled)
    else:
        y = c.b.einsum(c.float(x), c.w("kernel"), equation=spelled)
    if c.has("bias"):
        y = c.b.add(y, c.w("bias"))
    return activate(c, y, c.config.get("activation"))


def _spell(c: Call, equation: str) -> str:
    text = equation.replace(" ", "")
    if "->" not in text or "," not in text:
        raise c.refuse(f"equation {equation!r} is not of the form 'ab,bc->ac'")
    return text


@layer("Embedding", autocast=False)
def _embedding(c: Call, x: Value) -> Tensor:
    if not mode_of(c.config)[0]:
        return embed(c, x, c.w("embeddings"), c.flag("mask_zero"))
    if not c.has("embeddings_scale"):
        raise quantised.unsupported(c)
    index = x if x.dtype.is_int else c.cast(x, I32)
    return Tensor(quantised.embedding(c, index), c.b.ne(x, 0) if c.flag("mask_zero") else None)


def embed(c: Call, x: Value, table: Value, mask_zero: bool) -> Tensor:
    """Rows of ``table``; the mask is index != 0."""
    mask = c.b.ne(x, 0) if mask_zero else None
    index = x if x.dtype.is_int else c.cast(x, I32)
    return Tensor(c.b.gather(table, index, axis=0), mask)


@layer("ReversibleEmbedding", autocast=False)
def _reversible(c: Call, x: Value, reverse: bool = False) -> Tensor:
    if mode_of(c.config)[0]:
        raise quantised.unsupported(c)
    if not reverse:
        return embed(c, x, c.w("embeddings"), c.flag("mask_zero"))
    if c.config.get("logit_soft_cap") is not None or c.config.get("reverse_dtype") is not None:
        raise c.refuse("logit_soft_cap and reverse_dtype are not supported")
    kernel = c.w("reverse_embeddings") if c.has("reverse_embeddings") else c.b.transpose(c.w("embeddings"), perm=(1, 0))
    return Tensor(c.b.matmul(c.float(x), kernel))


@layer("Masking")
def _masking(c: Call, x: Value) -> Tensor:
    b = c.b
    keep = b.reduce_any(b.ne(x, c.number("mask_value", 0.0)), axes=(x.rank - 1,), keepdims=True)
    y = b.mul(x, c.cast(keep, x.dtype))
    return Tensor(y, b.reshape(keep, shape=x.shape[:-1]))


@layer(
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout", "ActivityRegularization", "Identity", mask="pass",
)  # fmt: skip
def _identity(c: Call, x: Any) -> Any:
    return x


@layer("StochasticDepth", mask="pass")
def _stochastic_depth(c: Call, x: Value) -> Value:
    """From keras.applications.convnext: drops paths in training only."""
    c.number("drop_path_rate")
    return x


@layer("LayerScale", mask="pass")
def _layer_scale(c: Call, x: Value) -> Value:
    """From keras.applications.convnext: a learned factor per channel."""
    return c.b.mul(x, c.w("gamma", (c.integer("projection_dim"),)))


@layer("CustomScaleLayer")
def _custom_scale(c: Call, xs: Any) -> Value:
    """From keras.applications.inception_resnet_v2: x + residual * scale."""
    first, second = xs
    return c.b.add(first, c.b.mul(second, c.number("scale")))


@layer("InputLayer", autocast=False, mask="pass")
def _input(c: Call, x: Value) -> Value:
    return x
