"""Size expressions of plans and signatures as functions of the symbols' values.

Owns their fast evaluation, all of a plan at once or one alone. Must not know what the numbers are sizes of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ..core import dims
from ..core.errors import InputRefused, VerifyError

Words = np.ndarray[Any, np.dtype[np.int64]]
Evaluator = Callable[[Mapping[str, int]], int]
_LIMIT = float(1 << 62)
_MOST_CELLS = 1 << 25  # of the matrix: thousands of times what large models have


class Expressions:
    """All expressions of a plan at once: a matrix of coefficients times the values of the monomials."""

    __slots__ = ("texts", "constants", "_matrix", "_float", "_monomials", "_monotone", "_most")

    def __init__(self, texts: Sequence[str], symbols: Sequence[str], most: Mapping[str, str] | None = None) -> None:
        """``most`` gives run-time symbols their greatest values. Raises VerifyError when a text is not an expression
        over ``symbols`` and those."""
        self.texts = texts
        self._most = [(name, evaluator(dims.parse(text))) for name, text in (most or {}).items()]
        symbols = [*symbols, *(most or {})]
        known = set(symbols)
        columns: dict[tuple[str, ...], int] = {(): 0}
        closures: list[list[Evaluator]] = [[]]
        cells: list[tuple[int, int, int]] = []
        self.constants: list[int | None] = []
        self._monotone: list[bool | None] = []
        for row, text in enumerate(texts):
            terms = _simple_terms(text)
            self._monotone.append(None if terms is None else True)
            terms = _terms_of(text) if terms is None else terms
            self.constants.append(None if any(names for names, _, _ in terms) else sum(c for _, c, _ in terms))
            for names, c, make in terms:
                used = names if not make else dims.symbols(dims.Dim(((make, 1),)))
                if not known.issuperset(used):
                    raise VerifyError(f"plan: expression {text[:80]!r} has an unknown symbol")
                if abs(c) >= 1 << 62:
                    raise VerifyError(f"plan: expression {text[:80]!r} is out of range")
                column = columns.setdefault(names, len(columns))
                if column == len(closures):
                    closures.append([_closure(a) for a in make] if make else [itemgetter(n) for n in names])
                cells.append((row, column, c))
        if len(texts) * len(columns) > _MOST_CELLS:
            raise VerifyError(f"plan: {len(texts)} expressions of {len(columns)} different terms are too many")
        self._monomials = closures
        self._matrix = np.zeros((len(texts), len(columns)), np.int64)
        for row, column, c in cells:
            self._matrix[row, column] += c
        self._float = np.abs(self._matrix).astype(np.float64)

    def evaluate(self, env: Mapping[str, int]) -> Words:
        """The value of each expression, run-time symbols at their greatest. Raises InputRefused when one leaves 62
        bits."""
        if self._most:
            env = {**env, **{name: value(env) for name, value in self._most}}
        values: list[int] = []
        for monomial in self._monomials:
            product = 1
            for atom in monomial:
                product *= atom(env)
            values.append(product)
        if len(values) == 1:
            return self._matrix[:, 0].copy()
        sizes = np.array([float(v) if abs(v) < _LIMIT else _LIMIT for v in values])
        if (self._float @ np.abs(sizes)).max(initial=0.0) >= _LIMIT:
            raise InputRefused(f"sizes overflow 62 bits for {', '.join(f'{k}={v}' for k, v in env.items())}")
        return np.asarray(self._matrix @ np.array(values, np.int64))

    def monotone(self, index: int) -> bool:
        """Does the expression never fall as a symbol grows?"""
        found = self._monotone[index]
        if found is None:
            found = self._monotone[index] = dims.is_monotone(dims.parse(self.texts[index]))
        return found


Terms = list[tuple[tuple[str, ...], int, dims.Monomial]]


def _simple_terms(text: str) -> Terms | None:
    """The terms of a sum of products of symbols and numbers; None where the general parser is needed (it is slow)."""
    if not text.isascii():
        return None
    out: Terms = []
    for part in text.split(" + "):
        c, names = 1, []
        for factor in part.split("*"):
            if factor.isdigit():
                c *= int(factor)
            elif factor.replace(".", "_").isidentifier():
                names.append(factor)
            else:
                return None
        names.sort()
        out.append((tuple(names), c, ()))
    return out


def _terms_of(text: str) -> Terms:
    try:
        value = dims.parse(text)
    except Exception as e:
        raise VerifyError(f"plan: bad expression {text[:80]!r}: {e}") from None
    if not isinstance(value, dims.Dim):
        return [((), value, ())]
    return [(tuple(a.text for a in m), c, m) for m, c in value.terms]


def _closure(a: dims.Atom) -> Evaluator:
    if a.op == "symbol":
        name = a.text
        return lambda env: env[name]
    x, y = (evaluator(e) for e in a.args)
    if a.op == "//":
        return lambda env: _quotient(x(env), y(env))
    if a.op == "%":
        return lambda env: _remainder(x(env), y(env))
    if a.op == "min":
        return lambda env: min(x(env), y(env))
    return lambda env: max(x(env), y(env))


def _quotient(x: int, y: int) -> int:
    if y == 0:
        raise InputRefused(f"a size of the model is {x} // 0 for these shapes")
    return x // y


def _remainder(x: int, y: int) -> int:
    if y == 0:
        raise InputRefused(f"a size of the model is {x} % 0 for these shapes")
    return x % y


def evaluator(e: dims.Extent) -> Evaluator:
    """A fast function from symbol values to the extent's value."""
    if isinstance(e, int):
        constant = e
        return lambda env: constant
    terms = [(c, tuple(_closure(a) for a in m)) for m, c in e.terms]
    if len(terms) == 1 and terms[0][0] == 1 and len(terms[0][1]) == 1:
        return terms[0][1][0]

    def value(env: Mapping[str, int]) -> int:
        total = 0
        for c, atoms in terms:
            for atom in atoms:
                c *= atom(env)
            total += c
        return total

    return value
