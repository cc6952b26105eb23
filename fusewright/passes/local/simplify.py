"""Algebra: identities of arithmetic, each with the numerics it keeps.

Owns one- to four-line rules, written as users write theirs. Must not move data or look at constants' contents
beyond single repeated elements.
"""

from __future__ import annotations

import math
from typing import Any

from ...core.dims import compare_le
from ...ir.graph import Node, Value
from ..engine.driver import LocalRule
from ..engine.pattern import op
from ..engine.rewrite import Match, Rewrite, RuleSet, rewrite
from .canonicalise import RULES as FORMS
from .canonicalise import rule as form
from .canonicalise import zero_padding


def _rule(name: str, pattern: Any, replacement: Any, numerics: str = "exact") -> Rewrite:
    return rewrite(pattern, replacement, numerics=numerics, name=name)


RULES: list[Rewrite] = [
    _rule("x * 1", lambda x: x * 1, lambda x: x),
    _rule("x / 1", lambda x: x / 1, lambda x: x),
    _rule("x - 0", lambda x: x - 0, lambda x: x),
    _rule("x + -0.0", lambda x: x + -0.0, lambda x: x),
    # -0.0 + 0.0 is 0.0, so only up to the sign of zero.
    _rule("x + 0", lambda x: x + 0, lambda x: x, "nsz"),
    _rule("x * -1", lambda x: x * -1, lambda x: -x),
    _rule("neg of neg", lambda x: op.neg(op.neg(x)), lambda x: x),
    _rule("x + -y", lambda x, y: x + -y, lambda x, y: x - y),
    _rule("x - -y", lambda x, y: x - -y, lambda x, y: x + y),
    _rule("x ** 1", lambda x: x**1, lambda x: x, "ulp(4)"),
    _rule("x ** 2", lambda x: x**2, lambda x: op.square(x), "ulp(4)"),
    _rule("x * x", lambda x: x * x, lambda x: op.square(x)),
    _rule("1 / x", lambda x: 1 / x, lambda x: op.reciprocal(x)),
    # In bf16 the square root is rounded once more than inside rsqrt.
    _rule("1 / sqrt x", lambda x: op.reciprocal(op.sqrt(x)), lambda x: op.rsqrt(x), "ulp(2)"),
    _rule("relu of relu", lambda x: op.relu(op.relu(x)), lambda x: op.relu(x)),
    _rule("max(x, 0)", lambda x: op.maximum(x, 0), lambda x: op.relu(x), "nsz"),
    _rule("max(x, x)", lambda x: op.maximum(x, x), lambda x: x),
    _rule("min(x, x)", lambda x: op.minimum(x, x), lambda x: x),
    _rule("abs of abs", lambda x: op.abs(op.abs(x)), lambda x: op.abs(x)),
    _rule("square of -x", lambda x: op.square(-x), lambda x: op.square(x)),
    _rule("square of abs", lambda x: op.square(op.abs(x)), lambda x: op.square(x)),
    _rule("not not x", lambda x: op.logical_not(op.logical_not(x)), lambda x: x),
    _rule("x and true", lambda x: op.logical_and(x, True), lambda x: x),
    _rule("x or false", lambda x: op.logical_or(x, False), lambda x: x),
    _rule("where(c, x, x)", lambda c, x: op.where(c, x, x), lambda c, x: x),
    _rule("where(not c, x, y)", lambda c, x, y: op.where(op.logical_not(c), x, y), lambda c, x, y: op.where(c, y, x)),
    _rule("min(relu x, h)", lambda x, h: op.minimum(op.relu(x), h), lambda x, h: op.clip(x, 0, h), "nsz"),
    _rule(
        "min(max(x, l), h)", lambda x, low, high: op.minimum(op.maximum(x, low), high),
        lambda x, low, high: op.clip(x, low, high), "nsz",
    ),
]  # fmt: skip


def _number(m: Match, v: Value) -> Any:
    found = m.scalar(v)
    return None if found is None or isinstance(found, bool) or math.isnan(found) else found


@rewrite(lambda x, low, high: op.relu(op.clip(x, low, high)), numerics="nsz")
def relu_of_clip(m: Match, x: Value, low: Value, high: Value) -> Any:
    """relu(clip(x, l, h)) = clip(x, max(l, 0), h), which needs h >= 0."""
    a, b = _number(m, low), _number(m, high)
    if a is None or b is None:
        return m.decline("the limits are not known")
    if b < 0:
        return m.decline(f"the upper limit {b} is below 0")
    return m.op.clip(x, max(a, 0), high)


@rewrite(lambda x, low, high: op.clip(op.relu(x), low, high), numerics="nsz")
def clip_of_relu(m: Match, x: Value, low: Value, high: Value) -> Any:
    """clip(relu(x), l, h) = clip(x, max(l, 0), h)."""
    a = _number(m, low)
    if a is None:
        return m.decline("the lower limit is not known")
    return m.op.clip(x, max(a, 0), high)


@rewrite(lambda x: op.abs(-x), numerics="exact")
def abs_of_neg(m: Match, x: Value) -> Any:
    """|-x| = |x|, but -1 of an unsigned type is its largest value."""
    return m.decline("unsigned numbers wrap") if x.dtype.kind == "u" else m.op.abs(x)


@rewrite(lambda x, c: x / c, numerics="exact")
def division_by_power_of_two(m: Match, x: Value, c: Value) -> Any:
    """x / 2^k = x * 2^-k, both exact roundings of one number as long as 2^-k is a normal number."""
    d = _number(m, c)
    if d is None or x.dtype.name not in ("f32", "f64"):
        return m.decline("the divisor is no constant number in f32 or f64")
    if abs(math.frexp(d)[0]) != 0.5 or not 2.0**-100 <= abs(d) <= 2.0**100 or d == 1:
        return m.decline("the divisor is no power of two in range")
    return m.op.mul(x, 1.0 / d)


_NOT_NEGATIVE = frozenset("relu relu6 sigmoid hard_sigmoid exp square abs sqrt softplus softmax".split())
_KEEPS_SIGN = frozenset("max_pool avg_pool reshape transpose slice concat reverse".split())
POOLS: list[LocalRule] = []


def not_negative(v: Value, depth: int = 4) -> bool:
    """No element of ``v`` is below zero (NaN may be)."""
    name = v.producer.op.name
    if name in _KEEPS_SIGN and depth:
        return all(not_negative(x, depth - 1) for x in v.producer.operands)
    # Integers wrap: their squares may be negative, and the smallest one is its own absolute value.
    return name in _NOT_NEGATIVE and (v.dtype.is_float or name not in ("abs", "square"))


@form("zero padding into max pool", "max_pool", into=POOLS)
def _pad_into_max_pool(node: Node, b: Any) -> Value | None:
    """Zeros never beat numbers >= 0, and padding inside the pool never wins at all: both give the same maximum."""
    pad = node.operands[0].producer
    if not zero_padding(pad) or not not_negative(pad.operands[0]) or any(d != 1 for d in node.attrs["dilations"]):
        return None
    low, high = pad.attrs["low"], pad.attrs["high"]
    if any(d != 0 for d in (low[0], high[0], low[-1], high[-1])):
        return None
    pads = tuple((a + p, c + q) for (a, c), p, q in zip(node.attrs["pads"], low[1:-1], high[1:-1]))
    for (first, last), window, size in zip(pads, node.attrs["window"], pad.operands[0].shape[1:-1]):
        # Each window must hold an element that is no padding.
        if compare_le(first, window - 1) is not True or compare_le(last, window - 1) is not True:
            return None
        if compare_le(1, size) is not True:
            return None
    return b.apply(node.op, [pad.operands[0]], {**node.attrs, "pads": pads})[0]


RULES += [relu_of_clip, clip_of_relu, abs_of_neg, division_by_power_of_two]
simplify = RuleSet("simplify", RULES, [*FORMS, *POOLS])
