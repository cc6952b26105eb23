"""Faults in raising: dropped guards, wrong axes, an epsilon or a scale in the wrong place, near forms taken for the form."""

# ruff: noqa: E501 - excerpts of source stand on one line, as they do there

from __future__ import annotations

from types import ModuleType
from typing import Any

import spelt
from mutant import Kill, Mutant, changed, fewest_ops
from mutant_rules import hunted, sound

import fusewright as fw
from fusewright.passes.engine import pattern
from fusewright.passes.engine.pattern import trace
from fusewright.passes.raising import RULES as BUILT_IN
from fusewright.passes.raising import activations, atrous, attention, causal, groups, norms

op, one_of, about = fw.op, fw.one_of, fw.about
MUTANTS: list[Mutant] = []
BY_NAME = {r.name: r for r in BUILT_IN}


def fault(kind: str, name: str, rule: str, module: ModuleType, function: str, old: str, new: str) -> None:
    """``old`` becomes ``new`` in a function of the built-in ``rule``, or in what it calls."""
    extra = spelt.SAMPLERS.get(rule, ())

    def hunt(budget: int) -> Kill:
        with changed(module, function, old, new):
            return hunted(lambda: BY_NAME[rule], extra=extra)(budget)

    least = fewest_ops(BY_NAME[rule].pattern)
    MUTANTS.append(Mutant(f"{rule}: {name}", kind, hunt, control=sound(BY_NAME[rule], extra=extra), least=least))


def form(kind: str, name: str, matched: Any, replacement: Any, numerics: str = "reassoc") -> None:
    """A form that is not what it is taken for."""
    make = lambda: fw.rewrite(matched, replacement, numerics=numerics, name="mutant", closed=True)
    MUTANTS.append(Mutant(f"raise: {name}", kind, hunted(make), least=fewest_ops(trace(matched))))


# Norms.
fault("logic", "forgets the mean", "layer_norm", norms, "_layer_norm", "m.op.layer_norm(", "m.op.rms_norm(")
fault("logic", "forgets beta", "layer_norm, folded", norms, "_layer_norm_folded",
      "y if beta is None else m.op.add(y, beta)", "y")  # fmt: skip
fault("logic", "gamma becomes beta", "scale into norm", norms, "_scale_into_norm", "gamma, True", "gamma, False")
fault("logic", "beta becomes gamma", "shift into norm", norms, "_shift_into_norm", "beta, False", "beta, True")
fault("shape", "the axes are not turned", "rows between transposes", norms, "_rows_between_transposes",
      "tuple(p[a] for a in axes)", "axes")  # fmt: skip
fault("shape", "any two transposes", "rows between transposes", norms, "_rows_between_transposes",
      "p[i] != k for", "False for")  # fmt: skip
fault("shape", "rows in the middle", "rows between reshapes", norms, "_rows_between_reshapes",
      "d != 1 and i not in axes for", "False for")  # fmt: skip
fault("shape", "statistics of several axes", "batch_norm", norms, "_channels", "if places or not", "if not")
fault("logic", "beta becomes gamma", "batch_norm", norms, "_batch_norm_folded", "gamma is not None", "True")
fault("shape", "statistics of other axes", "batch_norm of own statistics", norms, "_batch_norm_of_own_statistics",
      "or axes != tuple(range(axis))", "")  # fmt: skip
fault("logic", "forgets gamma", "batch_norm of own statistics", norms, "_batch_norm_of_own_statistics",
      "m.number(gamma) == 1", "True")  # fmt: skip
fault("logic", "each part of a pattern chooses for itself", "layer_norm, folded", pattern, "match",
      "for i in [env[p]] if p in env else range(len(p.options))", "for i in range(len(p.options))")  # fmt: skip
fault("shape", "groups and members change places", "group_norm", groups, "_group_norm",
      "groups=groups, axis", "groups=channels // groups, axis")  # fmt: skip
fault(
    "shape",
    "the norm runs over fewer axes",
    "group_norm",
    groups,
    "_axis",
    "len(left) != 2 or left[0] != 0",
    "left[0] != 0",
)
fault("logic", "a scale inside is forgotten", "group_norm", groups, "_group_norm", "m.number(one) != 1 or", "")
fault("logic", "beta becomes gamma", "group_norm", groups, "_group_norm", "gamma is not None", "True")
fault("logic", "gamma becomes beta", "scale into group_norm", groups, "_scale_into", "gamma, True", "gamma, False")
fault(
    "shape",
    "a shift along any axis",
    "shift into group_norm",
    groups,
    "_joined",
    "d != 1 and i + lead != axis",
    "False",
)
# Attention.
fault("boundary", "the diagonal is hidden, too", "causal attention", causal, "_compared",
      'offset - (name in ("lt", "gt"))', "offset")  # fmt: skip
fault("logic", "the mask is turned round", "causal attention", causal, "_compared", "(rows, columns) == (-1, 1)",
      "(rows, columns) == (1, -1)")  # fmt: skip
fault(
    "logic",
    "other parts of the mask are lost",
    "causal attention",
    causal,
    "causal",
    "rest[0] if rest else None",
    "None",
)
fault("logic", "the opposite of a mask", "causal attention", causal, "band",
      "Band(low=inner.high + 1) if math.isinf(inner.low)", "inner if math.isinf(inner.low)")  # fmt: skip
fault(
    "shape", "a piece from the middle of a triangle", "causal attention", causal, "band", "s == 0 and t == 1", "t == 1"
)
fault("numeric", "masked scores become the default", "causal attention", causal, "causal", ", masked=masked", "")
fault("shape", "a softmax over any axis", "attention", attention, "_attention", "axes != (q.rank - 1,)", "not axes")
fault("logic", "hidden scores are kept", "attention", attention, "_attention", "m.op.logical_not(hidden)", "hidden")
fault("numeric", "masked scores become the default", "attention", attention, "_attention",
      'else {"masked": masked}', "else {}")  # fmt: skip
fault("shape", "the keys stay transposed", "attention", attention, "_keys", "(*perm[:-2], perm[-1], perm[-2])", "perm")
fault("numeric", "multiplied by the divisor", "attention, divided", attention, "_attention",
      "1.0 / factor if divided else float(factor)", "float(factor)")  # fmt: skip
fault("numeric", "forgets the scale", "attention of einsums", attention, "_attention",
      "1.0 / factor if divided else float(factor)", "1.0")  # fmt: skip
# Convolutions.
fault("shape", "any transpose behind", "dilated convolution", atrous, "dilated", "list(q) != back or", "")
fault(
    "shape",
    "borders change sides",
    "crop of convolution",
    atrous,
    "crop",
    "(a - lo, b - (n - hi))",
    "(a - (n - hi), b - lo)",
)
# Activations.
fault(
    "numeric",
    "alpha above 1",
    "leaky_relu by maximum",
    activations,
    "leaky_relu_by_maximum",
    "not 0 < alpha <= 1",
    "not 0 < alpha",
)
fault(
    "numeric",
    "alpha of 0",
    "leaky_relu by maximum",
    activations,
    "leaky_relu_by_maximum",
    "not 0 < alpha <= 1",
    "not 0 <= alpha <= 1",
)
fault("logic", "slope and offset change places", "hard_sigmoid", activations, "hard_sigmoid",
      "alpha=alpha, beta=beta", "alpha=beta, beta=alpha")  # fmt: skip
fault("logic", "forgets alpha", "elu", activations, "elu", "op.elu(x, alpha=alpha)", "op.elu(x)")
form("numeric", "gelu without the root of 2", lambda x: (x * 0.5) * (op.erf(x) + 1), lambda x: op.gelu(x))
form("numeric", "gelu by tanh -> gelu by erf",
     lambda x: (x * 0.5) * (op.tanh((x + x**3 * about(0.044715)) * about(activations.SQRT_2_PI)) + 1),
     lambda x: op.gelu(x))  # fmt: skip
form("numeric", "x sigmoid(1.702 x) -> gelu", lambda x: x * op.sigmoid(x * about(1.702)), lambda x: op.gelu(x))
form("numeric", "x tanh(x) -> mish", lambda x: x * op.tanh(x), lambda x: op.mish(x))
form("numeric", "swish of another value", lambda x, y: x * op.sigmoid(y), lambda x, y: op.silu(x))
form("numeric", "hard swish over 3", lambda x: x * op.relu6(x + 3) / 3, lambda x: op.hard_swish(x))
form("logic", "selu of any elu", lambda x, a: op.elu(x, alpha=a) * about(1.0507009873554805), lambda x, a: op.selu(x))
form("shape", "softmax whose sum runs elsewhere", lambda x, a, c: op.exp(x - op.reduce_max(x, axes=a, keepdims=True))
     / op.reduce_sum(op.exp(x - op.reduce_max(x, axes=a, keepdims=True)), axes=c, keepdims=True),
     lambda x, a, c: op.softmax(x, axes=a))  # fmt: skip
form("logic", "softmax of two values", lambda x, y, a: op.exp(x - op.reduce_max(x, axes=a, keepdims=True))
     / op.reduce_sum(op.exp(y - op.reduce_max(y, axes=a, keepdims=True)), axes=a, keepdims=True),
     lambda x, y, a: op.softmax(x, axes=a))  # fmt: skip
form("numeric", "epsilon outside the root", lambda x, a: x / (op.sqrt(op.reduce_mean(op.square(x), axes=a, keepdims=True)) + 1),
     lambda x, a: op.rms_norm(x, axes=a, epsilon=1.0))  # fmt: skip
form("numeric", "sum of squares for their mean",
     lambda x, a: x * op.rsqrt(op.reduce_sum(op.square(x), axes=a, keepdims=True) + 1),
     lambda x, a: op.rms_norm(x, axes=a, epsilon=1.0))  # fmt: skip
EQUIVALENT = {
    "layer_norm: takes a negative epsilon": "the op means the same formula",
    "layer_norm, folded: takes an infinite gamma": "it meets an inexact value, of which nothing is promised",
    "scale into norm: takes a gamma along other axes": "slower, not wrong: it broadcasts into the result",
    "group_norm: any reshape behind": "the result has another type, and the driver refuses that",
    "dilated convolution: blocks in any order": "what is behind must undo the same order",
    "crop of convolution: any stride": "the extents no longer fit, and the driver refuses that",
}
