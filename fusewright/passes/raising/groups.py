"""Group norm spelt out becomes one op.

Owns the reshapes that split channels into groups, as Keras, TensorFlow and PyTorch's exporter write them, and scale and
shift per channel. Must not know how a norm is computed.
"""

from __future__ import annotations

from typing import Any

from ...core.dims import compare_eq, product
from ...ir.graph import Value
from ..engine.pattern import one_of, op
from ..engine.rewrite import Declined, Match
from ..engine.values import same_shape
from .family import Family

RULES = Family()


def _split(
    x: Any, s: Any, t: Any, axes: Any, epsilon: Any, one: Any, zero: Any, gamma: Any, beta: Any
) -> Any:  # fmt: skip
    y = op.reshape(x, shape=s)
    attrs = {"axes": axes, "epsilon": epsilon}
    y = one_of(op.layer_norm(y, one, zero, **attrs), op.layer_norm(y, **attrs))
    return op.reshape(one_of(y * gamma + beta, y * gamma, y + beta, y), shape=t)


@RULES.rule("group_norm", _split, "reassoc")
def _group_norm(
    m: Match, x: Value, axes: tuple[int, ...], epsilon: float, one: Value | None, zero: Value | None,
    gamma: Value | None, beta: Value | None,
) -> Any:  # fmt: skip
    """Channels split into groups and their members, the norm over all but batch and groups, and back."""
    inner = next(n for n in m.nodes if n.op.name == "layer_norm").operands[0].shape
    axis = _axis(x, inner, axes)
    if axis is None or not same_shape(m.result.shape, x.shape):
        return m.decline("the reshapes do not split channels into groups and join them again")
    if one is not None and (m.number(one) != 1 or zero is None or m.number(zero) != 0):
        return m.decline("the norm inside has a scale or shift of its own")
    groups, channels = inner[axis], x.shape[axis]
    flat = len(inner) <= x.rank  # the members lie in one axis with what follows the channels
    vectors = []
    for v in (gamma, beta):
        vector = None if v is None else _vector(m, v, inner, axis, channels, flat)
        if isinstance(vector, Declined):
            return vector
        vectors.append(vector)
    operands = [v for v in vectors if v is not None]
    return m.op.group_norm(x, *operands, groups=groups, axis=axis, epsilon=epsilon, has_gamma=gamma is not None)


def _axis(x: Value, inner: tuple[Any, ...], axes: tuple[int, ...]) -> int | None:
    """The axis of channels that ``inner`` splits: groups are the one axis that is neither batch nor in ``axes``."""
    left = [i for i in range(len(inner)) if i not in axes]
    if len(left) != 2 or left[0] != 0 or not x.rank or compare_eq(inner[0], x.shape[0]) is not True:
        return None
    axis, groups = left[1], inner[left[1]]
    channels = x.shape[axis] if axis < x.rank else None
    if not isinstance(groups, int) or not isinstance(channels, int) or groups < 1:
        return None
    members, uneven = divmod(channels, groups)
    split = (*x.shape[:axis], groups, members, *x.shape[axis + 1 :])
    if uneven or not members:
        return None
    if same_shape(inner, split):
        return axis
    flat = (x.shape[0], groups, product((members, *x.shape[2:])))
    return 1 if axis == 1 and same_shape(inner, flat) else None


def _vector(m: Match, v: Value, inner: tuple[Any, ...], axis: int, channels: Any, flat: bool) -> Value | Declined:
    """One number per channel, of an operand that meets the split tensor."""
    lead = len(inner) - v.rank
    spans = {i + lead for i, d in enumerate(v.shape) if d != 1}
    if lead < 0 or not spans <= ({axis} if flat else {axis, axis + 1}):
        return m.decline("scale or shift vary along other axes than the channels")
    groups = inner[axis]
    here = [v.shape[i - lead] if i >= lead else 1 for i in ((axis,) if flat else (axis, axis + 1))]
    wide = m.op.broadcast_to(m.op.reshape(v, shape=(*here, *([1] if flat else []))), shape=(groups, channels // groups))
    return m.op.reshape(wide, shape=(channels,))


# Scale and shift behind the groups.
def _plain(x: Any, groups: Any, axis: Any, epsilon: Any, has_gamma: Any) -> Any:
    return op.group_norm(x, groups=groups, axis=axis, epsilon=epsilon, has_gamma=has_gamma)


def _scaled(x: Any, groups: Any, axis: Any, epsilon: Any, gamma: Any) -> Any:
    return op.group_norm(x, gamma, groups=groups, axis=axis, epsilon=epsilon)


def _joined(m: Match, v: Value, has_gamma: bool) -> Any:
    norm = m.nodes[1]
    x, axis = norm.operands[0], norm.attrs["axis"]
    lead, channels = x.rank - v.rank, x.shape[axis]
    if lead < 0 or any(d != 1 and i + lead != axis for i, d in enumerate(v.shape)):
        return m.decline("scale or shift vary along other axes than the channels")
    if v.type.size != 1 and compare_eq(v.type.size, channels) is not True:
        return m.decline("scale or shift are not one number per channel")
    vector = m.op.broadcast_to(m.op.reshape(v, shape=(v.type.size,)), shape=(channels,))
    return m.op.apply(norm.op, [*norm.operands, vector], {**norm.attrs, "has_gamma": has_gamma})[0]


@RULES.rule("scale into group_norm", lambda x, g, a, e, h, gamma: _plain(x, g, a, e, h) * gamma, "exact")
def _scale_into(m: Match, gamma: Value) -> Any:
    """group_norm(x) * gamma, one number per channel."""
    return _joined(m, gamma, True)


@RULES.rule("shift into group_norm", lambda x, g, a, e, h, beta: _plain(x, g, a, e, h) + beta, "exact")
def _shift_into(m: Match, beta: Value) -> Any:
    """group_norm(x) + beta, one number per channel."""
    return _joined(m, beta, False)


@RULES.rule("shift into scaled group_norm", lambda x, g, a, e, gamma, beta: _scaled(x, g, a, e, gamma) + beta, "exact")
def _shift_into_scaled(m: Match, beta: Value) -> Any:
    """group_norm(x, gamma) + beta, one number per channel."""
    return _joined(m, beta, True)


__all__ = ["RULES"]
