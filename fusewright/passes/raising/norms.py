"""Softmax and normalisations spelt out become one op.

Owns softmax, log-softmax, batch, layer and RMS norm. Scale and shift join a norm one at a time, so each form of the
norm itself is one rule. Must not know where a graph comes from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.dims import compare_eq, product
from ...ir.graph import Value
from ..engine.pattern import one_of, op
from ..engine.rewrite import Declined, Match
from ..engine.values import same_shape
from .family import Family

RULES = Family()


def _shifted(x: Any, axes: Any) -> Any:
    return x - op.reduce_max(x, axes=axes, keepdims=True)


def _total(x: Any, axes: Any) -> Any:
    return op.reduce_sum(x, axes=axes, keepdims=True)


def _softmax(x: Any, axes: Any) -> Any:
    e = op.exp(_shifted(x, axes))
    return e / _total(e, axes)


def _softmax_by_reciprocal(x: Any, axes: Any) -> Any:
    e = op.exp(_shifted(x, axes))
    return e * op.reciprocal(_total(e, axes))


def _log_softmax(x: Any, axes: Any) -> Any:
    s = _shifted(x, axes)
    return s - op.log(_total(op.exp(s), axes))


def _minus_log_sum(x: Any, axes: Any) -> Any:
    top = op.reduce_max(x, axes=axes, keepdims=True)
    return x - (op.log(_total(op.exp(x - top), axes)) + top)


# Without the shift by the maximum the exponentials overflow to other classes of result: those forms stay.
RULES.form("softmax", "exp(x - max) / sum(exp(x - max)).", _softmax, lambda x, axes: op.softmax(x, axes=axes))
RULES.form(
    "softmax by reciprocal", "exp(x - max) times the reciprocal of its sum.",
    _softmax_by_reciprocal, lambda x, axes: op.softmax(x, axes=axes), "reassoc",
)  # fmt: skip
RULES.form(
    "log_softmax", "x - max - log(sum(exp(x - max))).", _log_softmax, lambda x, axes: op.log_softmax(x, axes=axes)
)
RULES.form(
    "log_softmax by log of sum", "x - logsumexp(x), shifted by the maximum.",
    _minus_log_sum, lambda x, axes: op.log_softmax(x, axes=axes), "reassoc",
)  # fmt: skip


# Statistics over axes that stay.
def _mean(x: Any, axes: Any) -> Any:
    return op.reduce_mean(x, axes=axes, keepdims=True)


def _epsilon(m: Match, eps: Value) -> float | Declined:
    number = m.number(eps)
    return number if number is not None and number > 0 else m.decline("epsilon is no known positive number")


def _centred_norm(x: Any, axes: Any, eps: Any) -> Any:
    d = x - _mean(x, axes)
    var = _mean(op.square(d), axes) + eps
    return one_of(d * op.rsqrt(var), d / op.sqrt(var))


@RULES.rule("layer_norm", _centred_norm, "reassoc")
def _layer_norm(m: Match, x: Value, axes: tuple[int, ...], eps: Value) -> Any:
    """(x - mean) / sqrt(variance + epsilon), as PyTorch exports it."""
    epsilon = _epsilon(m, eps)
    return epsilon if isinstance(epsilon, Declined) else m.op.layer_norm(x, axes=axes, epsilon=epsilon)


def _root_mean_square(x: Any, axes: Any, eps: Any) -> Any:
    power = _mean(op.square(x), axes) + eps
    return one_of(x * op.rsqrt(power), x / op.sqrt(power))


@RULES.rule("rms_norm", _root_mean_square, "reassoc")
def _rms_norm(m: Match, x: Value, axes: tuple[int, ...], eps: Value) -> Any:
    """x / sqrt(mean of squares + epsilon)."""
    epsilon = _epsilon(m, eps)
    return epsilon if isinstance(epsilon, Declined) else m.op.rms_norm(x, axes=axes, epsilon=epsilon)


def _finite(m: Match, *vectors: Value | None) -> bool:
    """Known and finite: folded into other places, an infinity or a NaN would spread to where it was not before."""
    arrays = [m.const(v) for v in vectors if v is not None]
    return all(a is not None and bool(np.all(np.isfinite(a))) for a in arrays)


def _folded(x: Any, mean: Any, inv: Any, beta: Any) -> Any:
    y = x * inv
    return one_of(y + (beta - mean * inv), y + (-mean * inv + beta), y - mean * inv, y + -mean * inv)


def _folded_norm(x: Any, axes: Any, eps: Any, gamma: Any, beta: Any) -> Any:
    mean = _mean(x, axes)
    inv = op.rsqrt(_mean(op.square(x - mean), axes) + eps)
    return _folded(x, mean, one_of(inv * gamma, inv), beta)


@RULES.rule("layer_norm, folded", _folded_norm, "reassoc")
def _layer_norm_folded(
    m: Match, x: Value, axes: tuple[int, ...], eps: Value, gamma: Value | None, beta: Value | None
) -> Any:
    """x * inv + (beta - mean * inv) with inv = gamma / sqrt(variance + epsilon), as Keras and TensorFlow write it."""
    epsilon = _epsilon(m, eps)
    if isinstance(epsilon, Declined):
        return epsilon
    if not _finite(m, gamma):
        return m.decline("gamma is not known to be finite")
    y = m.op.layer_norm(x, axes=axes, epsilon=epsilon)
    y = y if gamma is None else m.op.mul(y, gamma)
    return y if beta is None else m.op.add(y, beta)


# Scale and shift.
def _plain(x: Any, axes: Any, epsilon: Any, has_gamma: Any) -> Any:
    attrs = {"axes": axes, "epsilon": epsilon, "has_gamma": has_gamma}
    return one_of(op.layer_norm(x, **attrs), op.rms_norm(x, **attrs))


def _scaled(x: Any, axes: Any, epsilon: Any, gamma: Any) -> Any:
    attrs = {"axes": axes, "epsilon": epsilon}
    return one_of(op.layer_norm(x, gamma, **attrs), op.rms_norm(x, gamma, **attrs))


def _joined(m: Match, v: Value, has_gamma: bool) -> Any:
    """The norm inside the match with one operand more, if that spans the normalised axes as row kernels want it."""
    norm = m.nodes[1]
    x, axes = norm.operands[0], norm.attrs["axes"]
    if v.rank > x.rank or any(d != 1 and i + x.rank - v.rank not in axes for i, d in enumerate(v.shape)):
        return m.decline("the scale or shift varies along an axis that is not normalised")
    if v.type.size != 1 and compare_eq(v.type.size, product(x.shape[a] for a in axes)) is not True:
        return m.decline("the scale or shift is larger than the normalised axes, or spans only some of them")
    return m.op.apply(norm.op, [*norm.operands, v], {**norm.attrs, "has_gamma": has_gamma})[0]


@RULES.rule("scale into norm", lambda x, axes, e, h, gamma: _plain(x, axes, e, h) * gamma, "exact")
def _scale_into_norm(m: Match, gamma: Value) -> Any:
    """norm(x) * gamma, where gamma varies along the normalised axes only."""
    return _joined(m, gamma, True)


@RULES.rule("shift into norm", lambda x, axes, e, h, beta: _plain(x, axes, e, h) + beta, "exact")
def _shift_into_norm(m: Match, beta: Value) -> Any:
    """norm(x) + beta, where beta varies along the normalised axes only."""
    return _joined(m, beta, False)


@RULES.rule("shift into scaled norm", lambda x, axes, e, gamma, beta: _scaled(x, axes, e, gamma) + beta, "exact")
def _shift_into_scaled_norm(m: Match, beta: Value) -> Any:
    """norm(x, gamma) + beta, where beta varies along the normalised axes only."""
    return _joined(m, beta, True)


# Movement around rows: TensorFlow turns the axis to be the last, and flattens the others.
def _turned(x: Any, axes: Any, p: Any, q: Any, e: Any, h: Any) -> Any:
    y = op.transpose(x, perm=p)
    rows = one_of(op.softmax(y, axes=axes), op.log_softmax(y, axes=axes), _plain(y, axes, e, h))
    return op.transpose(rows, perm=q)


@RULES.rule("rows between transposes", _turned, "reassoc")
def _rows_between_transposes(m: Match, x: Value, axes: tuple[int, ...], p: tuple[int, ...], q: tuple[int, ...]) -> Any:
    """A softmax or norm over another axis, which is turned to be the last and back."""
    if any(p[i] != k for k, i in enumerate(q)):
        return m.decline("the transposes do not undo each other")
    rows = m.nodes[1]
    return m.op.apply(rows.op, [x], {**rows.attrs, "axes": tuple(p[a] for a in axes)})[0]


def _flattened(x: Any, axes: Any, s: Any, t: Any, e: Any, h: Any) -> Any:
    y = op.reshape(x, shape=s)
    rows = one_of(op.softmax(y, axes=axes), op.log_softmax(y, axes=axes), _plain(y, axes, e, h))
    return op.reshape(rows, shape=t)


@RULES.rule("rows between reshapes", _flattened, "reassoc")
def _rows_between_reshapes(m: Match, x: Value, axes: tuple[int, ...]) -> Any:
    """Rows at the end of the shape, which a reshape in front only numbered in another way."""
    rows = m.nodes[1]
    inner = rows.operands[0].shape
    length = product(inner[a] for a in axes)
    first = next((i for i, d in enumerate(inner) if i in axes and d != 1), None)
    if first is None or any(d != 1 and i not in axes for i, d in enumerate(inner[first:], first)):
        return m.decline("the rows are not the last axes")
    if not same_shape(m.result.shape, x.shape):
        return m.decline("the second reshape does not undo the first")
    start = next((k for k in range(x.rank) if compare_eq(product(x.shape[k:]), length) is True), None)
    if start is None:
        return m.decline("the rows are no whole axes of the operand")
    return m.op.apply(rows.op, [x], {**rows.attrs, "axes": tuple(range(start, x.rank))})[0]


# Statistics per channel.
def _channels(m: Match, x: Value, *vectors: Value | None) -> tuple[int, list[Value]] | Declined:
    """(axis, vectors) when each varies along one and the same axis of ``x``, over all of it."""
    found = [v for v in vectors if v is not None]
    places = {i + x.rank - v.rank for v in found for i, d in enumerate(v.shape) if d != 1}
    axis = places.pop() if len(places) == 1 else x.rank - 1
    if places or not x.rank or axis < 0:
        return m.decline("the statistics vary along several axes")
    if any(compare_eq(v.type.size, x.shape[axis]) is not True for v in found):
        return m.decline("the statistics are not one number per channel")
    return axis, [v if v.rank == 1 else m.op.reshape(v, shape=(x.shape[axis],)) for v in found]


def _batch_norm(x: Any, mean: Any, var: Any, eps: Any, gamma: Any, beta: Any) -> Any:
    inv = op.rsqrt(var + eps)
    return _folded(x, mean, one_of(inv * gamma, inv), beta)


@RULES.rule("batch_norm", _batch_norm, "reassoc")
def _batch_norm_folded(
    m: Match, x: Value, mean: Value, var: Value, eps: Value, gamma: Value | None, beta: Value | None
) -> Any:
    """x * inv + (beta - mean * inv) with inv = gamma / sqrt(variance + epsilon): the op means just that."""
    epsilon = _epsilon(m, eps)
    found = _channels(m, x, mean, var, gamma, beta)
    if isinstance(epsilon, Declined) or isinstance(found, Declined):
        return epsilon if isinstance(epsilon, Declined) else found
    axis, vectors = found
    return m.op.batch_norm(x, *vectors, axis=axis, epsilon=epsilon, has_gamma=gamma is not None)


def _own_statistics(x: Any, axes: Any, axis: Any, eps: Any, gamma: Any, beta: Any) -> Any:
    mean = op.reduce_mean(x, axes=axes)
    var = op.reduce_mean(op.square(x - mean), axes=axes)
    return op.batch_norm(x, mean, var, gamma, beta, axis=axis, epsilon=eps)


@RULES.rule("batch_norm of own statistics", _own_statistics, "reassoc")
def _batch_norm_of_own_statistics(
    m: Match, x: Value, axes: tuple[int, ...], axis: int, eps: float, gamma: Value, beta: Value
) -> Any:
    """A batch norm in training is a layer norm over the other axes: how tf.keras computes its LayerNormalization."""
    if axis != x.rank - 1 or axes != tuple(range(axis)):
        return m.decline("the statistics are not those of the other axes")
    if not eps > 0 or not _finite(m, gamma) and m.number(gamma) is None:
        return m.decline("epsilon is not positive, or gamma is not known to be finite")
    y = m.op.layer_norm(x, axes=axes, epsilon=eps)
    y = y if m.number(gamma) == 1 else m.op.mul(y, gamma)
    return y if m.number(beta) == 0 else m.op.add(y, beta)


__all__ = ["RULES"]
