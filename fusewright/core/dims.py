"""Symbolic extents: canonical integer polynomials.

Owns arithmetic, comparison, substitution, text and JSON form of dims. An extent is an ``int`` or a ``Dim``; a Dim
is never constant (constants are plain ints). Every symbol stands for an integer >= 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import gcd
from typing import Union

from .errors import ParseError, TypeRefused

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
# What text may ask for: characters, operations that nest, and terms that one product may have.
_CHARACTERS, _NESTED, _TERMS = 1 << 16, 100, 4096
# How many //, %, min and max a proof of a lower bound looks into, one after the other, and how many ways it tries.
_RELAXED, _WAYS = 4, 3

# A monomial is a sorted tuple of atoms (repeated for powers); a polynomial maps monomials to coefficients.
Monomial = tuple["Atom", ...]


class Atom:
    """A symbol, or ``//``, ``%``, ``min``, ``max`` of two extents. Interned, ordered by text."""

    __slots__ = ("op", "args", "text")
    _table: dict[str, Atom] = {}

    op: str
    args: tuple[Extent, ...]
    text: str

    def __new__(cls, op: str, args: tuple[Extent, ...] = (), name: str = "") -> Atom:
        if op == "symbol":
            text = name
        elif op in ("min", "max"):
            text = f"{op}({args[0]}, {args[1]})"
        else:
            text = f"{_factor(args[0])}{op}{_factor(args[1])}"
        found = cls._table.get(text)
        if found is None:
            found = object.__new__(cls)
            found.op, found.args, found.text = op, args, text
            cls._table[text] = found
        return found

    def __lt__(self, other: Atom) -> bool:
        return self.text < other.text

    def __reduce__(self) -> tuple[object, ...]:
        return (Atom, (self.op, self.args, self.text if self.op == "symbol" else ""))


def _factor(e: Extent) -> str:
    """``e`` as an operand of ``//`` and ``%``: a name, a number or in parentheses."""
    text = str(e)
    return text if text.isdigit() or _NAME.fullmatch(text) else f"({text})"


class Dim:
    """A non-constant extent. Arithmetic with ints and Dims gives an int where the result is constant."""

    __slots__ = ("terms", "_hash", "_text")

    terms: tuple[tuple[Monomial, int], ...]
    _hash: int
    _text: str

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._text = _format(terms)
        self._hash = hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self._text == other._text

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text

    def __add__(self, other: Extent) -> Extent:
        return _combine(self, other, 1)

    __radd__ = __add__

    def __sub__(self, other: Extent) -> Extent:
        return _combine(self, other, -1)

    def __rsub__(self, other: Extent) -> Extent:
        return _combine(_mul(self, -1), other, 1)

    def __neg__(self) -> Extent:
        return _mul(self, -1)

    def __mul__(self, other: Extent) -> Extent:
        return _mul(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Extent) -> Extent:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Extent) -> Extent:
        return floordiv(other, self)

    def __mod__(self, other: Extent) -> Extent:
        return mod(self, other)

    def __rmod__(self, other: Extent) -> Extent:
        return mod(other, self)

    def __reduce__(self) -> tuple[object, ...]:
        return (Dim, (self.terms,))


Extent = Union[int, Dim]
DimLike = Union[int, str, Dim]


def symbol(name: str) -> Dim:
    """The extent that is the symbol ``name`` (an integer >= 0 bound at call time)."""
    if not _NAME.fullmatch(name) or name in ("min", "max"):
        raise TypeRefused(f"{name!r} cannot name a symbolic extent")
    return Dim((((Atom("symbol", (), name),), 1),))


def extent(like: DimLike) -> Extent:
    """An int, Dim or text (``"N"``, ``"2*N + 1"``) as a canonical extent."""
    if isinstance(like, Dim):
        return like
    if isinstance(like, bool):
        raise TypeRefused("a bool is not an extent")
    if isinstance(like, str):
        return parse(like)
    try:
        return int(like.__index__())
    except AttributeError:
        raise TypeRefused(f"{like!r} is not an extent: use an int, a symbol's name or a Dim") from None


def _terms(e: Extent) -> dict[Monomial, int]:
    return dict(e.terms) if isinstance(e, Dim) else ({(): int(e)} if e else {})


def _from_terms(terms: Mapping[Monomial, int]) -> Extent:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Dim(tuple(sorted(kept.items(), key=lambda t: (-len(t[0]), tuple(a.text for a in t[0])))))


def _combine(a: Extent, b: Extent, sign: int) -> Extent:
    out = _terms(a)
    for m, c in _terms(b).items():
        out[m] = out.get(m, 0) + sign * c
    return _from_terms(out)


def _mul(a: Extent, b: Extent) -> Extent:
    out: dict[Monomial, int] = {}
    if isinstance(a, Dim) and isinstance(b, Dim) and len(a.terms) * len(b.terms) > _TERMS:
        # Products of sums from a file would otherwise grow without end.
        raise TypeRefused(f"a product of extents with more than {_TERMS} terms")
    for ma, ca in _terms(a).items():
        for mb, cb in _terms(b).items():
            m = tuple(sorted(ma + mb))
            out[m] = out.get(m, 0) + ca * cb
    return _from_terms(out)


def _format(terms: Iterable[tuple[Monomial, int]]) -> str:
    out = ""
    for monomial, c in terms:
        alone = len(monomial) == 1 and c == 1
        factors = [a.text if alone or a.op in ("symbol", "min", "max") else f"({a.text})" for a in monomial]
        if abs(c) != 1 or not factors:
            factors.insert(0, str(abs(c)))
        sign = ("-" if c < 0 else "") if not out else (" - " if c < 0 else " + ")
        out += sign + "*".join(factors)
    return out


def _split(e: Extent, by: int) -> tuple[Extent, Extent]:
    """``e = by * quotient + rest`` term by term."""
    quotient, rest = {}, {}
    for m, c in _terms(e).items():
        q, r = divmod(c, by)
        quotient[m], rest[m] = q, r
    return _from_terms(quotient), _from_terms(rest)


def floordiv(a: Extent, b: Extent) -> Extent:
    """``a // b``, rounding down. Raises TypeRefused when b is 0."""
    if isinstance(b, int):
        if b == 0:
            raise TypeRefused(f"extent {a} // 0")
        if isinstance(a, int):
            return a // b
        if b > 0:
            quotient, rest = _split(a, b)
            if isinstance(rest, int):
                return quotient if rest == 0 or 0 <= rest < b else quotient + rest // b
            if quotient != 0:
                return quotient + floordiv(rest, b)
            smaller = _smaller_quotient(rest, b)
            if smaller is not None:
                return floordiv(*smaller)
    if a == b:
        return 1  # b = 0 has no quotient anyway
    exact = _exact_quotient(a, b)
    if exact is not None:
        return exact
    return Dim((((Atom("//", (a, b)),), 1),))


def _smaller_quotient(a: Extent, b: int) -> tuple[Extent, int] | None:
    """Another way to write a // b: without a factor that b shares with all but the constant of a, or with the quotient
    inside a taken into it, (x//i + k) // b = (x + k*i) // (i*b)."""
    terms = _terms(a)
    k = terms.pop((), 0)
    shared = gcd(b, *terms.values())
    if shared > 1:
        return _from_terms({**{m: c // shared for m, c in terms.items()}, (): k // shared}), b // shared
    if len(terms) == 1:
        ((monomial, c),) = terms.items()
        if c == 1 and len(monomial) == 1 and monomial[0].op == "//":
            inner, by = monomial[0].args
            if isinstance(by, int) and by > 0:
                return inner + k * by, b * by
    return None


def _exact_quotient(a: Extent, b: Extent) -> Extent | None:
    """a / b where b is a single term that divides every term of a."""
    if not isinstance(b, Dim) or len(b.terms) != 1:
        return None
    (mb, cb), out = b.terms[0], {}
    for m, c in _terms(a).items():
        left = list(m)
        for atom in mb:
            if atom not in left:
                return None
            left.remove(atom)
        if c % cb:
            return None
        out[tuple(left)] = c // cb
    return _from_terms(out)


def mod(a: Extent, b: Extent) -> Extent:
    """``a % b`` with the sign of b, as in Python."""
    if isinstance(b, int):
        if b == 0:
            raise TypeRefused(f"extent {a} % 0")
        if isinstance(a, int):
            return a % b
        if b > 0:
            rest = _split(a, b)[1]
            if isinstance(rest, int):
                return rest % b
            a = rest
    if a == b or _exact_quotient(a, b) is not None:
        return 0
    return Dim((((Atom("%", (a, b)),), 1),))


def minimum(a: Extent, b: Extent) -> Extent:
    """The smaller extent."""
    order = compare_le(a, b)
    if order is not None:
        return a if order else b
    if compare_le(b, a):
        return b
    a, b = sorted((a, b), key=str)
    return Dim((((Atom("min", (a, b)),), 1),))


def maximum(a: Extent, b: Extent) -> Extent:
    """The larger extent."""
    order = compare_le(a, b)
    if order is not None:
        return b if order else a
    if compare_le(b, a):
        return a
    a, b = sorted((a, b), key=str)
    return Dim((((Atom("max", (a, b)),), 1),))


def ceildiv(a: Extent, b: Extent) -> Extent:
    """``a / b`` rounded up; b > 0."""
    return floordiv(a + b - 1, b)


def product(dims: Iterable[Extent]) -> Extent:
    """The product of extents; 1 for none."""
    total: Extent = 1
    for d in dims:
        total = total * d
    return total


def _nonnegative_atom(a: Atom) -> bool:
    if a.op == "symbol":
        return True
    if a.op == "%":
        return isinstance(a.args[1], int) and a.args[1] > 0
    if a.op == "//":
        return isinstance(a.args[1], int) and a.args[1] > 0 and lower_bound(a.args[0]) >= 0
    bounds = [lower_bound(x) >= 0 for x in a.args]
    return all(bounds) if a.op == "min" else any(bounds)


def lower_bound(e: Extent) -> float:
    """A constant that ``e`` never falls below (``-inf`` when none is known)."""
    return e if isinstance(e, int) else _lower_bound(e, _RELAXED)


@lru_cache(maxsize=1 << 14)
def _lower_bound(e: Extent, steps: int) -> float:
    if isinstance(e, int):
        return e
    low = 0
    for m, c in e.terms:
        if not m:
            low += c
        elif c < 0 or not all(_nonnegative_atom(a) for a in m):
            return _relaxed(e, steps) if steps else float("-inf")
    return low


def _relaxed(e: Dim, steps: int) -> float:
    """The bound of an extent with some ``//``, ``%``, ``min`` or ``max`` replaced by what it never passes.

    Quotients by constants keep what they are quotients of: 2*((H + 1)//2) - H >= 0 because 2*(x//2) >= x - 1.
    """
    found = float("-inf")
    # What holds others goes first; only a few are tried, for text from a file may name hundreds.
    eligible = ((m, c, a) for m, c in e.terms for a in dict.fromkeys(m) if _relaxes(m, a))
    for m, c, atom in sorted(eligible, key=lambda t: -len(t[2].text))[:_WAYS]:
        rest = list(m)
        rest.remove(atom)
        around: Extent = Dim(((tuple(rest), c),)) if rest else c
        others = e - Dim(((m, c),))
        a, b = atom.args
        if atom.op == "//" and isinstance(b, int):  # a - (b - 1) <= b*(a//b) <= a
            low = _lower_bound(b * others + around * (a - (b - 1) if c > 0 else a), steps - 1)
            low = low if low == float("-inf") else -(-int(low) // b)  # e is whole: rounded up
        elif atom.op == "%":
            low = _lower_bound(others + (0 if c > 0 else around * (b - 1)), steps - 1)
        else:
            either = [_lower_bound(others + around * x, steps - 1) for x in (a, b)]
            low = max(either) if (atom.op == "max") == (c > 0) else min(either)
        found = max(found, low)
        if found >= 0:
            break
    return found


def _relaxes(m: Monomial, atom: Atom) -> bool:
    """May the atom be replaced by a bound: its own limits are known, and the factors beside it are not negative."""
    if atom.op == "symbol" or not all(a is atom and m.count(a) == 1 or _nonnegative_atom(a) for a in m):
        return False
    return atom.op in ("min", "max") or isinstance(atom.args[1], int) and atom.args[1] > 0


def compare_eq(a: Extent, b: Extent) -> bool | None:
    """Are they equal for every binding: True, for no binding: False, else None (unknown)."""
    d = a - b
    if isinstance(d, int):
        return d == 0
    return False if lower_bound(d) > 0 or lower_bound(-d) > 0 else None


def compare_le(a: Extent, b: Extent) -> bool | None:
    """``a <= b`` for every binding: True, for no binding: False, else None (unknown)."""
    if lower_bound(b - a) >= 0:
        return True
    return False if lower_bound(a - b) > 0 else None


def symbols(e: Extent) -> tuple[str, ...]:
    """The names of the symbols in ``e``, sorted."""
    found: set[str] = set()

    def visit(x: Extent) -> None:
        if isinstance(x, Dim):
            for m, _ in x.terms:
                for a in m:
                    if a.op == "symbol":
                        found.add(a.text)
                    for arg in a.args:
                        visit(arg)

    visit(e)
    return tuple(sorted(found))


_OPS: dict[str, Callable[[Extent, Extent], Extent]] = {"//": floordiv, "%": mod, "min": minimum, "max": maximum}


def substitute(e: Extent, env: Mapping[str, Extent]) -> Extent:
    """``e`` with each symbol found in ``env`` replaced."""
    if isinstance(e, int):
        return e
    total: Extent = 0
    for m, c in e.terms:
        factor: Extent = c
        for a in m:
            if a.op == "symbol":
                value = env.get(a.text)
                factor = factor * (Dim((((a,), 1),)) if value is None else value)
            else:
                factor = factor * _OPS[a.op](substitute(a.args[0], env), substitute(a.args[1], env))
        total = total + factor
    return total


def evaluate(e: Extent, env: Mapping[str, int]) -> int:
    """The integer that ``e`` is under ``env``. Raises TypeRefused naming an unbound symbol."""
    if isinstance(e, int):
        return e
    value = substitute(e, env)
    if not isinstance(value, int):
        raise TypeRefused(f"extent {e} needs a value for {', '.join(symbols(value))}")
    return value


def is_monotone(e: Extent) -> bool:
    """True when ``e`` is known not to fall as any symbol grows."""
    if isinstance(e, int):
        return True
    return all(not m or (c > 0 and all(_monotone_atom(a) for a in m)) for m, c in e.terms)


def _monotone_atom(a: Atom) -> bool:
    if a.op == "symbol":
        return True
    if a.op == "//":
        return isinstance(a.args[1], int) and a.args[1] > 0 and is_monotone(a.args[0]) and lower_bound(a.args[0]) >= 0
    if a.op in ("min", "max"):
        return all(is_monotone(x) for x in a.args) and _nonnegative_atom(a)
    return False


_TOKEN = re.compile(r"\s*(//|[-+*%(),]|[A-Za-z_][A-Za-z0-9_.]*|[0-9]+)")


def parse(text: str) -> Extent:
    """The extent that ``str`` printed. Raises ParseError, also for text that asks for too much work."""
    if len(text) > _CHARACTERS:
        raise ParseError(f"an extent of {len(text)} characters")
    tokens: list[str] = []
    at = 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:
            raise ParseError(f"bad extent {text!r} at column {at + 1}")
        tokens.append(match.group(1))
        at = match.end()
    tokens.append("")
    # Each of these nests one level deeper, and extents are walked recursively.
    if sum(t in _OPS for t in tokens) > _NESTED:
        raise ParseError(f"an extent with more than {_NESTED} of //, %, min and max")
    try:
        value, rest = _parse_sum(tokens, 0, text, 0)
    except TypeRefused as error:
        raise ParseError(f"bad extent {text[:80]!r}: {error}") from None
    if tokens[rest]:
        raise ParseError(f"bad extent {text!r}: unexpected {tokens[rest]!r}")
    return value


def _parse_sum(tokens: list[str], i: int, text: str, depth: int) -> tuple[Extent, int]:
    if depth > 64:
        raise ParseError("extent nested deeper than 64")
    value: Extent = 0
    sign = 1
    if tokens[i] == "-":
        sign, i = -1, i + 1
    while True:
        term, i = _parse_term(tokens, i, text, depth)
        value = value + sign * term
        if tokens[i] not in ("+", "-"):
            return value, i
        sign, i = (1 if tokens[i] == "+" else -1), i + 1


def _parse_term(tokens: list[str], i: int, text: str, depth: int) -> tuple[Extent, int]:
    value, i = _parse_atom(tokens, i, text, depth)
    while tokens[i] in ("*", "//", "%"):
        op = tokens[i]
        right, i = _parse_atom(tokens, i + 1, text, depth)
        value = value * right if op == "*" else _OPS[op](value, right)
    return value, i


def _parse_atom(tokens: list[str], i: int, text: str, depth: int) -> tuple[Extent, int]:
    token = tokens[i]
    if token.isdigit():
        if len(token) > 40:
            raise ParseError("an extent with a number of more than 40 digits")
        return int(token), i + 1
    if token == "(":
        value, i = _parse_sum(tokens, i + 1, text, depth + 1)
        return value, _expect(tokens, i, ")", text)
    if token in ("min", "max") and tokens[i + 1] == "(":
        a, i = _parse_sum(tokens, i + 2, text, depth + 1)
        b, i = _parse_sum(tokens, _expect(tokens, i, ",", text), text, depth + 1)
        return _OPS[token](a, b), _expect(tokens, i, ")", text)
    if token and _NAME.fullmatch(token):
        return symbol(token), i + 1
    raise ParseError(f"bad extent {text!r}: expected a number, name or '(' but found {token or 'the end'!r}")


def _expect(tokens: list[str], i: int, want: str, text: str) -> int:
    if tokens[i] != want:
        raise ParseError(f"bad extent {text!r}: expected {want!r} but found {tokens[i] or 'the end'!r}")
    return i + 1
