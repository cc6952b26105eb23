"""Folding of batch normalisation and per-channel scale and shift into the weights before (or after) them.

Owns the affine chain behind a contraction. Arithmetic on weights is done in float64 with correctly rounded operations
in a fixed order, so every machine makes the same bytes. Must not touch a constant that others read: it makes new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.dtypes import F32, F64, DType
from ...ir.builder import Builder
from ...ir.graph import Const, Graph, Node, Origin, Value
from ...ir.ops.contract import parse_equation
from ...ir.ops.elementwise import round_to
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.values import channel_vector, const_array, same_shape

ANCHORS = frozenset({"conv", "conv_transpose", "matmul", "einsum"})
_BLOCK = 1 << 15  # elements scaled at a time
_TINY = {"f32": 2.0**-126, "f64": 2.0**-1022}


@dataclass(slots=True)
class Affine:
    """y = scale * x + shift per channel, in float64, and the nodes that compute it."""

    scale: np.ndarray
    shift: np.ndarray
    nodes: list[Node] = field(default_factory=list)
    scales: int = 0
    shifts: int = 0


def batch_norm_affine(node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, shift) of a ``batch_norm`` whose statistics are constants."""
    arrays = [const_array(v) for v in node.operands[1:]]
    if any(a is None for a in arrays):
        return None
    vectors = [np.asarray(a, np.float64) for a in arrays]
    mean, var, rest = vectors[0], vectors[1], vectors[2:]
    # Epsilon is a constant of the op's own type: beside a variance near -epsilon its rounding is what is left.
    dtype = node.results[0].dtype
    epsilon = round_to(np.asarray(node.attrs["epsilon"], dtype.compute), dtype).astype(np.float64)
    with np.errstate(all="ignore"):
        scale = 1.0 / np.sqrt(var + epsilon)
        if node.attrs["has_gamma"] and rest:
            scale, rest = scale * rest[0], rest[1:]
        shift = -(mean * scale)
        return scale, (shift + rest[0] if rest else shift)


def _step(node: Node, index: int, axis: int, channels: int, chain: Affine) -> bool:
    """Append ``node``, which reads the chain's end as operand ``index``; False if it is no affine step."""
    rank, name = node.results[0].rank, node.op.name
    if name == "neg":
        chain.scale, chain.shift, chain.scales = -chain.scale, -chain.shift, chain.scales + 1
        return True
    if name == "batch_norm":
        pair = batch_norm_affine(node) if index == 0 and node.attrs["axis"] == axis else None
        if pair is None:
            return False
        chain.scale, chain.shift = chain.scale * pair[0], chain.shift * pair[0] + pair[1]
        chain.scales, chain.shifts = chain.scales + 1, chain.shifts + 1
        return True
    if name not in ("add", "sub", "mul", "div") or node.operands[0] is node.operands[1]:
        return False
    c = channel_vector(node.operands[1 - index], rank, axis, channels)
    if c is None or (name == "div" and index == 1):
        return False
    if name in ("mul", "div"):
        factor = c if name == "mul" else None
        chain.scale = chain.scale * factor if factor is not None else chain.scale / c
        chain.shift = chain.shift * factor if factor is not None else chain.shift / c
        chain.scales += 1
        return True
    sign = -1.0 if name == "sub" and index == 1 else 1.0
    chain.scale = sign * chain.scale
    chain.shift = sign * chain.shift + (-c if name == "sub" and index == 0 else c)
    chain.scales, chain.shifts = chain.scales + (sign < 0), chain.shifts + 1
    return True


def _chain(value: Value, axis: int, channels: int) -> Affine:
    out = Affine(np.ones(channels), np.zeros(channels))
    with np.errstate(all="ignore"):
        while value.use_count == 1:
            node, index = value.uses[0]
            if len(node.results) != 1 or not same_shape(node.results[0].shape, value.shape):
                break
            if not _step(node, index, axis, channels, out):
                break
            out.nodes.append(node)
            value = node.results[0]
    return out


def _weight_factor(node: Node, w: np.ndarray, s: np.ndarray) -> np.ndarray | None:
    """``s`` per result channel, shaped to multiply the weights of an anchor."""
    name, attrs = node.op.name, node.attrs
    if name == "conv":
        return s
    if name == "matmul":
        # The bare vector lies along the last axis; transposed weights have the channels one before.
        return s[:, None] if attrs["transpose_b"] else s
    if name == "conv_transpose":
        groups = attrs["groups"]
        out, per_group = w.shape[-2], w.shape[-1] // groups
        return np.repeat(s.reshape(groups, out), per_group, axis=0).T
    ins, out_letters = parse_equation(attrs["equation"], [v.type for v in node.operands])
    letter = out_letters[-1:]
    if len(ins) != 2 or not letter or letter in ins[0] or letter not in ins[1]:
        return None
    at = ins[1].index(letter)
    return s.reshape((-1,) + (1,) * (len(ins[1]) - at - 1))


def to_const(array: np.ndarray, dt: DType) -> Const | None:
    """float64 values rounded to ``dt``; None when one overflows or sinks below the normal numbers."""
    with np.errstate(all="ignore"):
        stored = array.astype(dt.np)
    return Const(np.ascontiguousarray(stored), dt) if _normal(stored, array, dt) else None


def _normal(rounded: np.ndarray, exact: np.ndarray, dt: DType) -> bool:
    """Nothing overflowed, and nothing but zeros lies below the normal numbers."""
    size = np.abs(rounded)
    if not size.max(initial=0) < np.inf:
        return False
    small = size < _TINY[dt.name]
    return not (small.any() and np.any(exact[small]))


def _rows_scaled(w: np.ndarray, factor: np.ndarray, dt: DType) -> Const | None:
    """A factor along the last axis, rounded as it goes: the products in double never leave the cache."""
    out = np.empty(w.shape, dt.np)
    source, target = w.reshape(-1, w.shape[-1]), out.reshape(-1, w.shape[-1])
    step = max(1, _BLOCK // max(1, w.shape[-1]))
    with np.errstate(all="ignore"):
        for at in range(0, len(source), step):
            product = np.multiply(source[at : at + step], factor, dtype=np.float64)
            target[at : at + step] = product
            if not _normal(target[at : at + step], product, dt):
                return None
    return Const(out, dt)


def scaled(w: np.ndarray, factor: np.ndarray, dt: DType) -> Const | None:
    """The weights times the factor."""
    if w.size and factor.ndim == 1 and factor.shape[0] == w.shape[-1]:
        return _rows_scaled(w, factor, dt)
    return to_const(np.multiply(w, factor, dtype=np.float64), dt)


def _too_coarse(node: Node, ctx: PassContext) -> bool:
    """Rounding a factor into 16-bit numbers costs more than any order of the same operations on them would."""
    if node.results[0].dtype in (F32, F64):
        return False
    ctx.decline(node, "its numbers of 16 bits are too coarse to take in a factor")
    return True


def _fold_behind(anchor: Node, ctx: PassContext) -> None:
    x, weights = anchor.operands[0], anchor.operands[-1]
    w, result = const_array(weights), anchor.results[0]
    channels = result.shape[-1] if result.rank else None
    if w is None or len(anchor.operands) != 2 or w.ndim < 2 or not isinstance(channels, int):
        return
    if not result.dtype.is_float:
        return
    chain = _chain(result, result.rank - 1, channels)
    if not chain.scales and chain.shifts < 2:
        return
    if _too_coarse(anchor, ctx):
        return
    if not (np.all(np.isfinite(chain.scale)) and np.all(np.isfinite(chain.shift))):
        return ctx.decline(anchor, "the scale or shift is not finite")
    factor = _weight_factor(anchor, w, chain.scale)
    if factor is None:
        return ctx.decline(anchor, "the result's channels are not an axis of the weights alone")
    new_w = scaled(w, factor, result.dtype)
    new_t = to_const(chain.shift, result.dtype)
    if new_w is None or new_t is None:
        return ctx.decline(anchor, "the scaled weights leave the range of normal numbers")
    last = chain.nodes[-1]
    graph = anchor.graph
    assert graph is not None
    b = Builder(graph, last, Origin.merge([anchor.origin, *(n.origin for n in chain.nodes)], "scale"))
    kept = weights if not chain.scales or np.all(chain.scale == 1.0) else b.constant(new_w)
    y = b.apply(anchor.op, [x, kept], anchor.attrs)[0]
    if np.any(chain.shift):
        y = b.add(y, b.constant(new_t))
    graph.replace(last.results[0], y)
    erase_dead(last)
    ctx.rewrote("into " + anchor.op.name)


def _fold_before(node: Node, ctx: PassContext) -> Node | None:
    """x * s before a contraction over that axis: s goes into the weights. A shift stays: folded, it may cancel.

    The contraction that stands for ``node``, which may have another factor before it.
    """
    x, weights = node.operands[0], node.operands[-1]
    scale = x.producer
    w = const_array(weights)
    if w is None or scale.op.name not in ("mul", "div") or x.use_count != 1 or not x.dtype.is_float or w.ndim < 2:
        return None
    channels = x.shape[-1] if x.rank else None
    if not isinstance(channels, int) or node.op.name == "matmul" and node.attrs["transpose_a"]:
        return None
    for i in (0, 1) if scale.op.name == "mul" else (1,):
        s = channel_vector(scale.operands[i], x.rank, x.rank - 1, channels)
        inner = scale.operands[1 - i]
        if s is not None and same_shape(inner.shape, x.shape):
            break
    else:
        return None
    if _too_coarse(scale, ctx):
        return None
    with np.errstate(all="ignore"):
        s = s if scale.op.name == "mul" else 1.0 / s
    if not np.all(np.isfinite(s)):
        ctx.decline(scale, "the scale is not finite")
        return None
    if node.op.name == "matmul":
        factor = s if node.attrs["transpose_b"] else s[:, None]
    elif node.op.name == "conv":
        groups = node.attrs["groups"]
        factor = np.repeat(s.reshape(groups, -1), w.shape[-1] // groups, axis=0).T
    else:
        return None
    new_w = scaled(w, factor, x.dtype)
    if new_w is None:
        ctx.decline(scale, "the scaled weights leave the range of normal numbers")
        return None
    assert node.graph is not None
    b = Builder(node.graph, node, Origin.merge([scale.origin, node.origin], "scale"))
    y = b.apply(node.op, [inner, b.constant(new_w)], node.attrs)[0]
    node.graph.replace(node.results[0], y)
    erase_dead(node)
    ctx.rewrote("before " + node.op.name)
    return y.producer


def _spell_out(node: Node, ctx: PassContext) -> None:
    """A batch norm that nothing takes in becomes x * scale + shift with constants."""
    x, axis = node.operands[0], node.attrs["axis"]
    pair = batch_norm_affine(node)
    if pair is None:
        return
    if _too_coarse(node, ctx):
        return
    scale, shift = (to_const(v, x.dtype) if np.all(np.isfinite(v)) else None for v in pair)
    if scale is None or shift is None:
        return ctx.decline(node, "the scale or shift leaves the range of normal numbers")
    assert node.graph is not None
    b = Builder(node.graph, node, Origin.merge([node.origin], "scale"))
    shape = (-1,) + (1,) * (x.rank - axis - 1)
    vector: Any = lambda c: b.constant(Const(c.array.reshape(shape), c.dtype))
    node.graph.replace(node.results[0], b.add(b.mul(x, vector(scale)), vector(shift)))
    erase_dead(node)
    ctx.rewrote("spelt out batch_norm")


@graph_pass(numerics="reassoc", name="scale")
def scale(graph: Graph, ctx: PassContext) -> None:
    """Fold batch norms and per-channel factors into weights; spell out the batch norms that are left."""
    for g in subgraphs(graph):
        for node in g.nodes:
            if node.op.name in ANCHORS:
                _fold_behind(node, ctx)
        for node in g.nodes:
            if node.op.name == "batch_norm":
                _spell_out(node, ctx)
        for node in g.nodes:
            left: Node | None = node if node.op.name in ("conv", "matmul") else None
            while left is not None:
                left = _fold_before(left, ctx)
