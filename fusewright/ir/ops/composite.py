"""Composite ops: activations, softmax, normalisations, attention, resize.

Owns ops with a ``decompose`` into simpler ones. A backend without a kernel decomposes; ``eval`` runs the decomposition,
so the two can never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...core.dims import product
from ...core.dtypes import BOOL, FLOATS
from ...core.errors import TypeRefused
from ..graph import Graph, Node, Value
from ..opdef import Attrs, Cost, OpDef, define_op
from ..types import TensorType
from ._common import axes_of, axis_of, broadcast, one_dtype, same

Types = Sequence[TensorType]
Regions = Sequence[Graph]
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def _cost(weight: int) -> Callable[[Node], Cost]:
    def cost(node: Node) -> Cost:
        out = node.results[0].type
        return Cost(out.size * weight, out.nbytes + sum((v.type.nbytes for v in node.operands), 0))

    return cost


def _float(types: Types) -> TensorType:
    if types[0].dtype not in FLOATS:
        raise TypeRefused(f"takes floats, not {types[0].dtype}")
    return types[0]


def _infer_same(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    return [_float(types)]


def _activation(
    name: str, decompose: Callable[..., Value], doc: str, weight: int = 8, scalar: str | None = None,
    **attrs: float | bool,
) -> None:  # fmt: skip
    define_op(
        OpDef(
            name, ("x",), "elementwise", _infer_same, attrs=attrs, decompose=lambda b, v, a: decompose(b, v[0], **a),
            scalar=scalar, overwrites=(0,), cost=_cost(weight), doc=doc,
        )
    )  # fmt: skip


def _gelu(b: Any, x: Value, approximate: bool) -> Value:
    if approximate:
        inner = b.mul(b.add(x, b.mul(b.mul(b.square(x), x), 0.044715)), math.sqrt(2 / math.pi))
        return b.mul(b.mul(x, 0.5), b.add(b.tanh(inner), 1.0))
    return b.mul(b.mul(x, 0.5), b.erfc(b.mul(x, -math.sqrt(0.5))))


def _elu(b: Any, x: Value, alpha: float) -> Value:
    negative = b.mul(b.expm1(b.minimum(x, 0.0)), alpha)
    return b.where(b.gt(x, 0.0), x, negative)


def _celu(b: Any, x: Value, alpha: float) -> Value:
    return b.where(b.gt(x, 0.0), x, b.mul(b.expm1(b.div(b.minimum(x, 0.0), alpha)), alpha))


def _hard_sigmoid(b: Any, x: Value, alpha: float, beta: float) -> Value:
    return b.clip(b.add(b.mul(x, alpha), beta), 0.0, 1.0)


_activation(
    "gelu", _gelu, "x * Phi(x); with ``approximate`` the tanh form (Hendrycks & Gimpel, 2016).", 16,
    "gelu(a, approximate)", approximate=False,
)  # fmt: skip
_activation("silu", lambda b, x: b.mul(x, b.sigmoid(x)), "x * sigmoid(x), also called swish.", 8, "silu(a)")
_activation("elu", _elu, "x where x > 0, else alpha * (exp(x) - 1).", alpha=1.0)
_activation("selu", lambda b, x: b.mul(_elu(b, x, SELU_ALPHA), SELU_SCALE), "Scaled ELU (Klambauer et al., 2017).")
_activation("celu", _celu, "x where x > 0, else alpha * (exp(x / alpha) - 1).", alpha=1.0)
_activation(
    "leaky_relu",
    lambda b, x, alpha: b.where(b.gt(x, 0.0), x, b.mul(x, alpha)),
    "x where x > 0, else alpha * x.",
    2,
    alpha=0.2,
)
_activation(
    "hard_sigmoid", _hard_sigmoid, "clip(alpha * x + beta, 0, 1): alpha 0.2 in Keras 1 and 2, 1/6 in Keras 3.", 3,
    alpha=1 / 6, beta=0.5,
)  # fmt: skip
_activation("hard_swish", lambda b, x: b.mul(x, _hard_sigmoid(b, x, 1 / 6, 0.5)), "x * clip(x / 6 + 0.5, 0, 1).", 4)
_activation("softsign", lambda b, x: b.div(x, b.add(b.abs(x), 1.0)), "x / (1 + |x|).", 3)
_activation("mish", lambda b, x: b.mul(x, b.tanh(b.softplus(x))), "x * tanh(softplus(x)) (Misra, 2019).", 20)
_activation("log_sigmoid", lambda b, x: b.neg(b.softplus(b.neg(x))), "log(sigmoid(x)).")
_activation("relu6", lambda b, x: b.clip(x, 0.0, 6.0), "min(max(x, 0), 6).", 2)


def _infer_softmax(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    attrs["axes"] = axes_of(attrs["axes"], _float(types).rank)
    return [types[0]]


def _shifted(b: Any, x: Value, axes: Any) -> Value:
    return b.sub(x, b.reduce_max(x, axes=axes, keepdims=True))


def _softmax(b: Any, v: Sequence[Value], a: Attrs) -> Value:
    e = b.exp(_shifted(b, v[0], a["axes"]))
    return b.div(e, b.reduce_sum(e, axes=a["axes"], keepdims=True))


def _log_softmax(b: Any, v: Sequence[Value], a: Attrs) -> Value:
    s = _shifted(b, v[0], a["axes"])
    return b.sub(s, b.log(b.reduce_sum(b.exp(s), axes=a["axes"], keepdims=True)))


for _name, _decompose in (("softmax", _softmax), ("log_softmax", _log_softmax)):
    define_op(
        OpDef(
            _name, ("x",), "reduce", _infer_softmax, attrs={"axes": -1}, decompose=_decompose, overwrites=(0,),
            cost=_cost(12), doc=f"{_name} over ``axes``, shifted by the maximum.",
        )
    )  # fmt: skip


def _vector(v: Value, axis: int, rank: int, b: Any) -> Value:
    """A per-channel vector shaped to broadcast along ``axis``."""
    return v if axis == rank - 1 else b.reshape(v, shape=(*v.shape, *(1,) * (rank - axis - 1)))


def _check_affine(types: Types, attrs: dict[str, Any]) -> None:
    if not isinstance(attrs["has_gamma"], bool):
        raise TypeRefused(f"has_gamma is True or False, not {attrs['has_gamma']!r}")
    most = 2 if attrs["has_gamma"] else 1
    if len(types) > most:
        raise TypeRefused(f"takes {'gamma and beta' if most == 2 else 'beta'} at most, got {len(types)} vectors")


def _infer_batch_norm(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = _float(types)
    one_dtype(types)
    _check_affine(types[3:], attrs)
    axis = attrs["axis"] = axis_of(attrs["axis"], x.rank)
    for t in types[1:]:
        if t.rank != 1:
            raise TypeRefused(f"statistics must be vectors, not {t}")
        same(t.shape[0], x.shape[axis], "channels")
    return [x]


def _batch_norm(b: Any, v: Sequence[Value], a: Attrs) -> Value:
    x, mean, var, *affine = v
    scale = b.rsqrt(b.add(var, a["epsilon"]))
    scale = b.mul(scale, affine[0]) if affine and a["has_gamma"] else scale
    beta = affine[-1] if len(affine) > int(a["has_gamma"]) else None
    shift = b.mul(mean, scale)
    shift = b.sub(beta, shift) if beta is not None else b.neg(shift)
    rank = x.rank
    return b.add(b.mul(x, _vector(scale, a["axis"], rank, b)), _vector(shift, a["axis"], rank, b))


define_op(
    OpDef(
        "batch_norm", ("x", "mean", "var", "gamma_beta*"), "broadcast", _infer_batch_norm,
        attrs={"axis": -1, "epsilon": 1e-3, "has_gamma": True}, decompose=_batch_norm, overwrites=(0,), cost=_cost(2),
        doc="(x - mean) / sqrt(var + epsilon) * gamma + beta per channel. After var: gamma (if has_gamma), beta.",
    )
)  # fmt: skip


def _infer_norm(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = _float(types)
    one_dtype(types)
    _check_affine(types[1:], attrs)
    attrs["axes"] = axes_of(attrs["axes"], x.rank)
    for t in types[1:]:
        if broadcast([x.shape, t.shape]) != x.shape:
            raise TypeRefused(f"{t} does not broadcast into {x}")
    return [x]


def _affine(b: Any, y: Value, rest: Sequence[Value], has_gamma: bool) -> Value:
    if has_gamma and rest:
        y, rest = b.mul(y, rest[0]), rest[1:]
    return b.add(y, rest[0]) if rest else y


def _layer_norm(b: Any, v: Sequence[Value], a: Attrs) -> Value:
    x, axes = v[0], a["axes"]
    centred = b.sub(x, b.reduce_mean(x, axes=axes, keepdims=True))
    var = b.reduce_mean(b.square(centred), axes=axes, keepdims=True)
    return _affine(b, b.mul(centred, b.rsqrt(b.add(var, a["epsilon"]))), v[1:], a["has_gamma"])


def _rms_norm(b: Any, v: Sequence[Value], a: Attrs) -> Value:
    x = v[0]
    power = b.reduce_mean(b.square(x), axes=a["axes"], keepdims=True)
    return _affine(b, b.mul(x, b.rsqrt(b.add(power, a["epsilon"]))), v[1:], a["has_gamma"])


for _name, _decompose, _doc in (
    ("layer_norm", _layer_norm, "(x - mean) / sqrt(var + epsilon) over ``axes`` (Ba et al., 2016)"),
    ("rms_norm", _rms_norm, "x / sqrt(mean(x^2) + epsilon) over ``axes`` (Zhang & Sennrich, 2019)"),
):
    define_op(
        OpDef(
            _name, ("x", "gamma_beta*"), "reduce", _infer_norm,
            attrs={"axes": -1, "epsilon": 1e-3, "has_gamma": True}, decompose=_decompose, overwrites=(0,),
            cost=_cost(8),
            doc=f"{_doc}, times gamma (if has_gamma), plus beta; both broadcast into x.",
        )
    )  # fmt: skip


def _infer_group_norm(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    x = _float(types)
    _check_affine(types[1:], attrs)
    axis = attrs["axis"] = axis_of(attrs["axis"], x.rank)
    channels, groups = x.shape[axis], attrs["groups"]
    if not isinstance(channels, int) or not isinstance(groups, int) or groups < 1 or channels % groups:
        raise TypeRefused(f"{channels} channels do not split into {groups} groups")
    if axis == 0:
        raise TypeRefused("axis 0 is the batch")
    for t in types[1:]:
        if t.rank != 1:
            raise TypeRefused(f"gamma and beta must be vectors, not {t}")
        same(t.shape[0], channels, "channels")
    one_dtype(types)
    return [x]


def _group_norm(b: Any, v: Sequence[Value], a: Attrs) -> Value:
    x, axis, groups = v[0], a["axis"], a["groups"]
    channels = x.shape[axis]
    split = (*x.shape[:axis], groups, channels // groups, *x.shape[axis + 1 :])
    axes = tuple(i for i in range(1, len(split)) if i != axis)
    # As an op: where the members come last, a target has a kernel for it. Scale and shift meet the groups, so that
    # no reshape stands between them and the norm.
    y = b.layer_norm(b.reshape(x, shape=split), axes=axes, epsilon=a["epsilon"], has_gamma=False)
    each = (groups, channels // groups) + (1,) * (x.rank - axis - 1)
    rest = [b.reshape(t, shape=each) for t in v[1:]]
    return b.reshape(_affine(b, y, rest, a["has_gamma"]), shape=x.shape)


define_op(
    OpDef(
        "group_norm", ("x", "gamma_beta*"), "reduce", _infer_group_norm,
        attrs={"groups": 32, "axis": -1, "epsilon": 1e-3, "has_gamma": True}, decompose=_group_norm, cost=_cost(8),
        doc="Normalise each group of channels of each sample (Wu & He, 2018), times gamma, plus beta (vectors).",
    )
)  # fmt: skip


def _infer_attention(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    q, k, v = types[:3]
    one_dtype(types[:3])
    _float(types)
    if attrs["scale"] is not None:
        if not isinstance(attrs["scale"], (int, float)):
            raise TypeRefused(f"scale must be a number, not {attrs['scale']!r}")
        attrs["scale"] = float(attrs["scale"])
    if not (q.rank == k.rank == v.rank) or q.rank < 3:
        raise TypeRefused(f"q, k, v need one rank >= 3, got {q}, {k}, {v}")
    lead = broadcast([q.shape[:-2], k.shape[:-2], v.shape[:-2]])
    same(q.shape[-1], k.shape[-1], "depth of q and k")
    same(k.shape[-2], v.shape[-2], "length of k and v")
    if len(types) == 4:
        mask = types[3]
        scores = (*lead, q.shape[-2], k.shape[-2])
        if mask.dtype not in (BOOL, q.dtype) or broadcast([scores, mask.shape]) != scores:
            raise TypeRefused(f"mask {mask} does not broadcast to scores {scores}")
    return [q.with_shape((*lead, q.shape[-2], v.shape[-1]))]


def _attention(b: Any, operands: Sequence[Value], a: Attrs) -> Value:
    q, k, v, *mask = operands
    depth = q.shape[-1]
    scale = a["scale"]
    if scale is None:
        if not isinstance(depth, int):
            raise TypeRefused("attention over a symbolic depth needs scale=")
        scale = 1.0 / math.sqrt(depth)
    scores = b.mul(b.matmul(q, k, transpose_b=True), scale)
    if mask:
        m = mask[0]
        scores = b.where(m, scores, a["masked"]) if m.dtype is BOOL else b.add(scores, m)
    if a["causal"]:
        shape = (q.shape[-2], k.shape[-2])
        keep = b.ge(b.iota(shape=shape, axis=0), b.iota(shape=shape, axis=1))
        scores = b.where(keep, scores, a["masked"])
    return b.matmul(b.softmax(scores, axes=-1), v)


def _attention_cost(node: Node) -> Cost:
    q, k = node.operands[0].type, node.operands[1].type
    out = node.results[0].type
    moved = out.nbytes + sum((v.type.nbytes for v in node.operands), 0)
    return Cost(2 * out.size * k.shape[-2] + 2 * product(out.shape[:-1]) * k.shape[-2] * q.shape[-1], moved)


define_op(
    OpDef(
        "attention", ("q", "k", "v", "mask?"), "contract", _infer_attention,
        attrs={"scale": None, "causal": False, "masked": -1e9}, decompose=_attention, cost=_attention_cost,
        doc="softmax(q k^T * scale + mask) v over the last two axes; scale defaults to 1/sqrt(depth). A bool mask "
        "keeps where true and writes ``masked`` elsewhere.",
    )
)  # fmt: skip
