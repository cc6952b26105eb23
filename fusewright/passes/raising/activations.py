"""Activations spelt out become one op: GELU, swish, mish, softplus, hard-swish, ELU, leaky ReLU and their kin.

Owns elementwise rules, one declared form each. Must not look beyond elementwise ops.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core.dtypes import decode
from ...ir.graph import Value
from ...ir.ops.composite import SELU_ALPHA, SELU_SCALE
from ..engine.pattern import about, one_of, op
from ..engine.rewrite import Match, rewrite
from .family import Family

RULES = Family()
SQRT_2_PI = math.sqrt(2 / math.pi)


def _half(x: Any, y: Any) -> Any:
    """0.5 * x * y, in any order."""
    return one_of((x * 0.5) * y, (x * y) * 0.5, x * (y * 0.5))


def _cube(x: Any) -> Any:
    return one_of(op.square(x) * x, x**3)


def _inner(x: Any) -> Any:
    """sqrt(2 / pi) * (x + 0.044715 x^3), as written by TensorFlow and PyTorch, and with x taken out, as others do."""
    c, k = about(SQRT_2_PI), about(0.044715)
    square = op.square(x)
    factored = one_of(square * k, (x * k) * x) + 1
    return one_of((x + one_of(_cube(x) * k, (square * k) * x)) * c, (x * c) * factored, (x * factored) * c)


def _positive(x: Any, yes: Any, no: Any) -> Any:
    """``yes`` where x > 0, else ``no``; both must agree at zero and at NaN."""
    return one_of(op.where(op.gt(x, 0), yes, no), op.where(op.ge(x, 0), yes, no), op.where(op.le(x, 0), no, yes))


def _gelu(x: Any) -> Any:
    root, scaled = about(math.sqrt(0.5)), one_of(x * about(math.sqrt(0.5)), x / about(math.sqrt(2)))
    negated = one_of(-x * root, x * about(-math.sqrt(0.5)), -(x * root), -x / about(math.sqrt(2)))
    return one_of(_half(x, op.erf(scaled) + 1), _half(x, op.erfc(negated)))


RULES.form(
    "gelu", "x * Phi(x) by erf or erfc, as TensorFlow, Keras and PyTorch write it.",
    _gelu, lambda x: op.gelu(x), "reassoc",
)  # fmt: skip
RULES.form(
    "gelu by tanh", "The tanh form of GELU (Hendrycks & Gimpel, 2016).",
    lambda x: _half(x, op.tanh(_inner(x)) + 1), lambda x: op.gelu(x, approximate=True), "reassoc",
)  # fmt: skip
RULES.form("silu", "x * sigmoid(x), also called swish.", lambda x: x * op.sigmoid(x), lambda x: op.silu(x))
RULES.form("mish", "x * tanh(softplus(x)) (Misra, 2019).", lambda x: x * op.tanh(op.softplus(x)), lambda x: op.mish(x))
RULES.form("softsign", "x / (1 + |x|).", lambda x: x / (op.abs(x) + 1), lambda x: op.softsign(x))
RULES.form("log_sigmoid", "-softplus(-x).", lambda x: -op.softplus(-x), lambda x: op.log_sigmoid(x))
RULES.form(
    "sigmoid", "1 / (1 + exp(-x)), without its overflow.",
    lambda x: one_of(op.reciprocal(op.exp(-x) + 1), 1 / (op.exp(-x) + 1)), lambda x: op.sigmoid(x), "reassoc",
)  # fmt: skip
RULES.form(
    "softplus", "log(1 + exp(x)), without its overflow.",
    lambda x: one_of(op.log1p(op.exp(x)), op.log(op.exp(x) + 1)), lambda x: op.softplus(x), "reassoc",
)  # fmt: skip


# Hard forms. A ReLU6 stands as itself or as its limits.
def _relu6(z: Any) -> Any:
    return one_of(op.relu6(z), op.clip(z, 0, 6), op.relu(op.minimum(z, 6)))


def _sixth(y: Any) -> Any:
    return one_of(y / 6, y * about(1 / 6))


RULES.form(
    "hard_swish", "x * relu6(x + 3) / 6 (Howard et al., 2019).",
    lambda x: one_of(x * _sixth(_relu6(x + 3)), _sixth(x * _relu6(x + 3))), lambda x: op.hard_swish(x), "reassoc",
)  # fmt: skip
RULES.form(
    "hard_swish of hard_sigmoid", "x * hard_sigmoid(x) of the slope 1/6.",
    lambda x: x * op.hard_sigmoid(x), lambda x: op.hard_swish(x),
)  # fmt: skip
RULES.form(
    "hard_sigmoid by relu6", "relu6(x + 3) / 6, as Keras 3 and PyTorch have it.",
    lambda x: _sixth(_relu6(x + 3)), lambda x: op.hard_sigmoid(x), "reassoc",
)  # fmt: skip


@rewrite(
    lambda x, a, b: one_of(op.clip(x * a + b, 0, 1), op.relu(op.minimum(x * a + b, 1))),
    numerics="nsz", name="hard_sigmoid", closed=True,
)  # fmt: skip
def hard_sigmoid(m: Match, x: Value, a: Value, b: Value) -> Any:
    """clip(alpha * x + beta, 0, 1) for numbers alpha and beta."""
    alpha, beta = m.number(a), m.number(b)
    if alpha is None or beta is None:
        return m.decline("slope and offset are not known numbers")
    return op.hard_sigmoid(x, alpha=alpha, beta=beta)


@rewrite(
    lambda x, a: _positive(x, x, one_of(op.expm1(x) * a, (op.exp(x) - 1) * a, op.expm1(op.minimum(x, 0)) * a)),
    numerics="reassoc", name="elu", closed=True,
)  # fmt: skip
def elu(m: Match, x: Value, a: Value) -> Any:
    """x where x > 0, else alpha * (exp(x) - 1), for a known alpha."""
    alpha = m.number(a)
    return m.decline("alpha is no known number") if alpha is None else op.elu(x, alpha=alpha)


RULES.form(
    "elu of alpha 1", "x where x > 0, else exp(x) - 1.",
    lambda x: _positive(x, x, one_of(op.expm1(x), op.exp(x) - 1)), lambda x: op.elu(x), "reassoc",
)  # fmt: skip
RULES.form(
    "elu of two halves", "relu(x) + expm1(min(x, 0)): a CELU of alpha 1.",
    lambda x: op.relu(x) + op.expm1(op.minimum(x, 0)), lambda x: op.elu(x), "reassoc",
)  # fmt: skip
RULES.form(
    "selu", "An ELU of SELU's alpha, times its scale (Klambauer et al., 2017).",
    lambda x: op.elu(x, alpha=about(SELU_ALPHA)) * about(SELU_SCALE), lambda x: op.selu(x), "reassoc",
)  # fmt: skip


@rewrite(lambda x, a: _positive(x, x, x * a), numerics="nsz", name="leaky_relu", closed=True)
def leaky_relu(m: Match, x: Value, a: Value) -> Any:
    """x where x > 0, else alpha * x, for a known alpha."""
    alpha = m.number(a)
    return m.decline("alpha is no known number") if alpha is None else op.leaky_relu(x, alpha=alpha)


@rewrite(lambda x, a: op.maximum(x, x * a), numerics="exact", name="leaky_relu by maximum", closed=True)
def leaky_relu_by_maximum(m: Match, x: Value, a: Value) -> Any:
    """max(x, alpha * x) is the leaky ReLU only for 0 < alpha <= 1."""
    alpha = m.number(a)
    if alpha is None or not 0 < alpha <= 1:
        return m.decline("alpha is no known number in (0, 1]")
    return op.leaky_relu(x, alpha=alpha)


@rewrite(lambda x, a: op.relu(x) - op.relu(-x) * a, numerics="nsz", name="leaky_relu of two halves", closed=True)
def leaky_relu_of_two_halves(m: Match, x: Value, a: Value) -> Any:
    """relu(x) - alpha * relu(-x), as Keras has it; with finite slopes per channel a choice of one product."""
    alpha = m.number(a)
    if alpha is not None:
        return op.leaky_relu(x, alpha=alpha)
    if not x.dtype.is_float:
        return m.decline("alpha is no known number, and the least integer has no negative")
    if a.const is None or not np.all(np.isfinite(decode(a.const.array, a.const.dtype))):
        return m.decline("alpha is not known to be finite")
    return m.op.where(m.op.lt(x, 0.0), m.op.mul(x, a), x)


RULES += [hard_sigmoid, elu, leaky_relu, leaky_relu_by_maximum, leaky_relu_of_two_halves]
__all__ = ["RULES"]
