"""Contractions added up exactly: what they give is a matter of their terms alone, in whatever order they stand.

Owns the interpreter that decides about exact rules which give NumPy other shapes to add up. Must not know any rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import Node
from ..ir.opdef import EvalContext, bind_attr
from .arena import Steady

# Every finite number of a type is a whole number of 2 ** -unit.
_UNITS = {"f16": 24, "bf16": 133, "f32": 149, "f64": 1074}
_CONTRACTIONS = frozenset(("matmul", "einsum", "conv", "conv_transpose"))


class Exact(Steady):
    """Dot products are computed without any rounding and rounded once. A sum that is 0 is +0."""

    def evaluate(self, node: Node, operands: Sequence[np.ndarray], ctx: EvalContext) -> list[np.ndarray]:
        result, compute = node.results[0], node.op.eval
        if node.op.name not in _CONTRACTIONS or result.dtype.name not in _UNITS or compute is None:
            return super().evaluate(node, operands, ctx)
        attrs = {k: bind_attr(v, ctx.env) for k, v in node.attrs.items()}
        unit = _UNITS[result.dtype.name]
        with np.errstate(all="ignore"):
            # Whether an operand makes it NaN or infinite is a matter of float64; the number is one of integers.
            rough = np.asarray(compute([o.astype(np.float64) for o in operands], attrs, ctx))
            whole = np.asarray(compute([_whole(o, unit) for o in operands], attrs, ctx))
            number = _quotients(whole, 1 << unit * len(operands)).reshape(rough.shape)
            return [self._settle(result, np.where(np.isfinite(rough), number, rough), ctx)]


def _whole(array: np.ndarray, unit: int) -> np.ndarray:
    """Finite numbers as Python integers, in units of 2 ** -unit; 0 for the others."""

    def one(x: Any) -> int:
        numerator, denominator = x.as_integer_ratio()
        return int(numerator) * ((1 << unit) // int(denominator))

    known = np.where(np.isfinite(array), array, 0).astype(np.float64)
    return np.asarray(np.frompyfunc(one, 1, 1)(known), object).reshape(array.shape)


def _quotients(whole: np.ndarray, unit: int) -> np.ndarray:
    """Integers over ``unit``, each rounded once to float64."""

    def one(n: int) -> float:
        try:
            return n / unit
        except OverflowError:
            return float("inf") if n > 0 else float("-inf")

    return np.asarray([one(n) for n in whole.ravel()], np.float64)


__all__ = ["Exact"]
