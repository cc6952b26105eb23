"""Attention layers: MultiHeadAttention, GroupedQueryAttention, Attention, AdditiveAttention.

Owns masks, scales and head layouts. Must not know models.
"""

from __future__ import annotations

import math
from typing import Any

from ....core.dims import Extent
from ....core.dtypes import BOOL, I64
from ....ir.graph import Value
from ..call import Call, Tensor, layer
from .activation import masked_softmax
from .reshape import repeat


def _causal(c: Call, t: Extent, s: Extent) -> Value:
    """bool [1, T, S], True where the key is not after the query."""
    return c.b.ge(c.b.iota(shape=(1, t, s), axis=1, dtype=I64), c.b.iota(shape=(1, t, s), axis=2, dtype=I64))


def _both(c: Call, a: Value | None, m: Value) -> Value:
    return m if a is None else c.b.logical_and(a, m)


def _insert(c: Call, m: Value, axis: int) -> Value:
    shape = list(m.shape)
    shape.insert(axis, 1)
    return c.b.reshape(m, shape=tuple(shape))


def _window(c: Call, t: Extent, s: Extent, width: int) -> Value:
    b = c.b
    gap = b.sub(b.iota(shape=(1, t, s), axis=1, dtype=I64), b.iota(shape=(1, t, s), axis=2, dtype=I64))
    return b.lt(b.abs(gap), width)


@layer("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention")
def _multi_head(
    c: Call, query: Value, value: Value, key: Value | None = None, query_mask: Value | None = None,
    value_mask: Value | None = None, key_mask: Value | None = None, attention_mask: Value | None = None,
    return_attention_scores: bool = False, use_causal_mask: bool = False, **ignored: Any,
) -> Any:  # fmt: skip
    b = c.b
    grouped = c.spec.class_name != "MultiHeadAttention"
    if c.flag("use_gate"):
        raise c.refuse("use_gate=True is not supported")
    axes = c.config.get("attention_axes")
    if (
        not grouped
        and axes is not None
        and list(axes if isinstance(axes, (list, tuple)) else [axes]) != [1]
        or query.rank != 3
    ):
        raise c.refuse(f"only attention over axis 1 of rank-3 inputs is supported, not {axes} of rank {query.rank}")
    explicit_key = key is not None
    key = value if key is None else key
    t, s = query.shape[1], value.shape[1]
    keep: Value | None = None
    given = c.mask_of.get(query, query_mask)
    out_mask = given
    if given is not None:
        keep = _insert(c, c.bool_mask(given), 2)
    for m in (value_mask or c.mask_of.get(value), (key_mask or c.mask_of.get(key)) if explicit_key else None):
        if m is not None:
            keep = _both(c, keep, _insert(c, c.bool_mask(m), 1))
    if use_causal_mask:
        keep = _both(c, keep, _causal(c, t, s))
    window = c.config.get("sliding_window")
    if window is not None:
        keep = _both(c, keep, _window(c, t, s, c.integer("sliding_window")))
    if attention_mask is not None:
        keep = _both(c, keep, c.bool_mask(attention_mask))
    q, k, v = _heads(c, "query", query), _heads(c, "key", key), _heads(c, "value", value)
    depth = c.integer("head_dim") if grouped else c.integer("key_dim")
    if grouped:
        times = c.integer("num_query_heads") // c.integer("num_key_value_heads")
        k, v = repeat(c, k, 1, times), repeat(c, v, 1, times)
    if keep is not None and keep.rank < 4:
        keep = _insert(c, keep, 1)
    # Keras takes the fused path, which leaves fully masked rows uniform, unless dropout or the scores are asked for.
    fused = not (c.number("dropout", 0.0) > 0 or return_attention_scores) and c.version[0] >= 3
    low = (-65504.0 if c.dtype.size == 2 else -3.4028234663852886e38) * 0.7
    if fused:
        y, scores = b.attention(q, k, v, keep, scale=1.0 / math.sqrt(depth), masked=low), None
    else:
        raw = b.matmul(b.mul(q, 1.0 / math.sqrt(depth)), k, transpose_b=True)
        scores = masked_softmax(c, raw, keep, [3])
        y = b.matmul(scores, v)
    kernel = c.w("output_kernel")
    # [N, heads, T, depth] x [heads, depth, out...]
    out = b.einsum(y, kernel, equation="nhtd,hdo->nto" if kernel.rank == 3 else "nhtd,hdop->ntop")
    if c.has("output_bias"):
        out = b.add(out, c.w("output_bias"))
    result = Tensor(out, out_mask)
    return [result, Tensor(scores)] if return_attention_scores and scores is not None else result


def _heads(c: Call, name: str, x: Value) -> Value:
    """[N, T, F] -> [N, heads, T, depth]."""
    kernel = c.w(f"{name}_kernel")
    if kernel.rank != 3:
        raise c.refuse(f"{name}_kernel has shape {kernel.shape}, expected [features, heads, depth]")
    features, heads, depth = kernel.shape
    y = c.b.matmul(x, c.b.reshape(kernel, shape=(features, heads * depth)))
    if c.has(f"{name}_bias"):
        y = c.b.add(y, c.b.reshape(c.w(f"{name}_bias"), shape=(heads * depth,)))
    return c.b.transpose(c.b.reshape(y, shape=(*y.shape[:2], heads, depth)), perm=(0, 2, 1, 3))


@layer("Attention", "AdditiveAttention")
def _attention(
    c: Call, inputs: Any, return_attention_scores: bool = False, use_causal_mask: bool = False, **ignored: Any
) -> Any:
    b = c.b
    if not isinstance(inputs, (list, tuple)) or not 2 <= len(inputs) <= 3:
        raise c.refuse("takes [query, value] or [query, value, key]")
    q, v, k = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else inputs[1]
    scores = _scores(c, q, k)
    v_mask = c.masks[1] if len(c.masks) > 1 else None
    keep = None if v_mask is None else _insert(c, c.bool_mask(v_mask), 1)
    if use_causal_mask or c.flag("causal"):
        keep = _both(c, keep, _causal(c, q.shape[1], v.shape[1]))
    if keep is not None:
        hole = c.cast(b.logical_not(keep), scores.dtype)
        scores = b.sub(scores, b.mul(hole, 65504.0 if scores.dtype.size == 2 else 1e9))
    weights = b.softmax(scores, axes=-1)
    y = b.matmul(weights, v)
    q_mask = c.masks[0] if c.masks else None
    if q_mask is not None:
        y = b.where(_insert(c, c.bool_mask(q_mask), 2), y, 0.0)
    result = Tensor(y, q_mask)
    return [result, Tensor(weights)] if return_attention_scores else result


def _scores(c: Call, q: Value, k: Value) -> Value:
    b = c.b
    if c.spec.class_name == "Attention" and c.get("score_mode", "dot") == "dot":
        scores = b.matmul(q, k, transpose_b=True)
        return b.mul(scores, c.w("scale")) if c.has("scale") else scores
    total = b.add(_insert(c, q, 2), _insert(c, k, 1))
    if c.spec.class_name == "Attention":
        if c.has("scale"):
            total = b.mul(total, c.w("scale"))
        return b.mul(b.reduce_sum(b.tanh(total), axes=(3,)), c.w("concat_score_weight"))
    y = b.tanh(total)
    return b.reduce_sum(b.mul(y, c.w("scale")) if c.has("scale") else y, axes=(3,))


__all__ = ["BOOL"]
