"""Special functions as graphs of elementwise ops: gamma, zeta, beta, inverse error and Bessel functions.

Owns the formulas, computed in float64 whatever the operands' type is: about 1e-13 relative, absolute beside a zero.
Formulas: NIST Digital Library of Mathematical Functions (DLMF), by their numbers below. Must not know any frontend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ..core.dtypes import F64, I64
from ..ir.builder import Builder
from ..ir.graph import Value

_SHIFT = 10
_STEPS = 4096
# B(2), B(4)... of Stirling's series and of Euler-Maclaurin's sum.
_BERNOULLI = [
    Fraction(1, 6), Fraction(-1, 30), Fraction(1, 42), Fraction(-1, 30), Fraction(5, 66), Fraction(-691, 2730),
    Fraction(7, 6), Fraction(-3617, 510), Fraction(43867, 798), Fraction(-174611, 330),
]  # fmt: skip
_TINY, _EPS = 1e-300, 2.0**-53


def in_f64(fn: Callable[..., Value]) -> Callable[..., Value]:
    """The function with operands and result converted: computed in float64, given in the operands' type."""

    def apply(b: Any, *xs: Value) -> Value:
        kind = xs[0].dtype
        out = fn(b, *(x if x.dtype is F64 else b.cast(x, to=F64) for x in xs))
        return out if kind is F64 else b.cast(out, to=kind)

    return apply


def _c(b: Any, number: float) -> Value:
    out: Value = b.constant(np.float64(number), F64)
    return out


def _horner(b: Any, x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial with these coefficients, that of the highest power first."""
    out: Value = b.broadcast_to(_c(b, coefficients[0]), shape=x.shape)
    for coefficient in coefficients[1:]:
        out = b.add(b.mul(out, x), _c(b, coefficient))
    return out


def _while(
    b: Any, carried: Sequence[Value], constants: Sequence[Value], go: Callable[..., Value], step: Callable[..., Any]
) -> list[Value]:
    """Carried values after ``step`` while ``go`` holds anywhere, at most _STEPS times. Both get (b, *values)."""
    count = b.constant(np.int64(0), I64)
    values = [count, *carried, *constants]
    regions = []
    for part in ("condition", "body"):
        inner = Builder(origin=b.current_origin)
        args = [inner.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(values)]
        if part == "condition":
            on = go(inner, *args[1:])
            anywhere = inner.reduce_any(on, axes=tuple(range(on.rank))) if on.rank else on
            regions.append(
                inner.build({"r": inner.logical_and(inner.lt(args[0], inner.constant(_STEPS, I64)), anywhere)})
            )
        else:
            results = [inner.add(args[0], inner.constant(1, I64)), *step(inner, *args[1:])]
            regions.append(inner.build(*results, names=[f"r{i}" for i in range(len(results))]))
    return list(b.apply("while", values, {"n_carry": 1 + len(carried)}, regions))[1 : 1 + len(carried)]


def _sin_pi(b: Any, x: Value) -> Value:
    """sin(pi x), exact where x is an integer."""
    rest = b.sub(x, b.mul(_c(b, 2.0), b.round(b.mul(x, _c(b, 0.5)))))  # in [-1, 1]
    folded = b.where(b.gt(b.abs(rest), _c(b, 0.5)), b.sub(b.mul(b.sign(rest), _c(b, 1.0)), rest), rest)
    out: Value = b.sin(b.mul(folded, _c(b, math.pi)))
    return out


def _above(b: Any, x: Value, term: Callable[[Value, Value], Value], start: float) -> tuple[Value, Value]:
    """(y, total): y = x + k >= _SHIFT, and what ``term(total, x + j)`` makes of every j < k."""
    y, total = x, b.broadcast_to(_c(b, start), shape=x.shape)
    for _ in range(_SHIFT):
        low = b.lt(y, _c(b, float(_SHIFT)))
        total = b.where(low, term(total, y), total)
        y = b.where(low, b.add(y, _c(b, 1.0)), y)
    return y, total


def _lgamma_right(b: Any, x: Value) -> Value:
    """DLMF 5.11.1 for x > 0, after 5.5.1."""
    y, product = _above(b, x, lambda total, z: b.mul(total, z), 1.0)
    inverse = b.reciprocal(y)
    series = [float(v / (2 * k * (2 * k - 1))) for k, v in enumerate(_BERNOULLI, 1)]
    tail = b.mul(_horner(b, b.square(inverse), series[::-1]), inverse)
    main = b.sub(b.mul(b.sub(y, _c(b, 0.5)), b.log(y)), y)
    out: Value = b.sub(b.add(b.add(main, _c(b, 0.5 * math.log(2 * math.pi))), tail), b.log(product))
    return b.where(b.isinf(y), y, out)


@in_f64
def lgamma(b: Any, x: Value) -> Value:
    """log |gamma(x)|; infinite at 0, -1, -2... Reflection: DLMF 5.5.3."""
    left = b.lt(x, _c(b, 0.5))
    right = _lgamma_right(b, b.where(left, b.sub(_c(b, 1.0), x), x))
    mirrored = b.sub(b.sub(_c(b, math.log(math.pi)), b.log(b.abs(_sin_pi(b, x)))), right)
    out = b.where(left, mirrored, right)
    pole = b.logical_and(b.le(x, _c(b, 0.0)), b.eq(x, b.floor(x)))
    return b.where(pole, _c(b, math.inf), out)


@in_f64
def digamma(b: Any, x: Value) -> Value:
    """The derivative of log gamma (DLMF 5.11.2, 5.5.2, 5.5.4); NaN at 0, -1, -2..."""
    left = b.lt(x, _c(b, 0.5))
    y, total = _above(b, b.where(left, b.sub(_c(b, 1.0), x), x), lambda total, z: b.add(total, b.reciprocal(z)), 0.0)
    inverse = b.reciprocal(y)
    series = [float(v / (2 * k)) for k, v in enumerate(_BERNOULLI, 1)]
    square = b.square(inverse)
    tail = b.add(b.mul(_horner(b, square, series[::-1]), square), b.mul(inverse, _c(b, 0.5)))
    right = b.sub(b.sub(b.log(y), tail), total)
    # pi cot(pi x), with x brought into one period.
    part = b.sub(x, b.round(x))
    mirrored = b.sub(right, b.div(_c(b, math.pi), b.tan(b.mul(part, _c(b, math.pi)))))
    out = b.where(left, mirrored, right)
    pole = b.logical_and(b.le(x, _c(b, 0.0)), b.eq(x, b.floor(x)))
    return b.where(pole, _c(b, math.nan), out)


@in_f64
def zeta(b: Any, s: Value, q: Value) -> Value:
    """Hurwitz' zeta function, the sum of (q + k)**-s over k >= 0 for s > 1, by Euler-Maclaurin (DLMF 25.11.5).

    Infinite for s = 1 and at q = 0, -1...; NaN for s < 1, and for q < 0 unless s is an integer.
    """
    s, q = _together(b, s, q)
    near = b.full(q.shape, 0.0, F64)

    def low(b: Any, total: Value, a: Value, s: Value) -> Value:
        out: Value = b.lt(a, _c(b, float(_SHIFT)))
        return out

    def add(b: Any, total: Value, a: Value, s: Value) -> list[Value]:
        on = low(b, total, a, s)
        return [b.where(on, b.add(total, b.pow(a, b.neg(s))), total), b.where(on, b.add(a, _c(b, 1.0)), a)]

    total, a = _while(b, [near, q], [s], low, add)
    power = b.pow(a, b.neg(s))
    total = b.add(total, b.add(b.div(b.mul(power, a), b.sub(s, _c(b, 1.0))), b.mul(power, _c(b, 0.5))))
    factor, inverse = b.mul(s, b.div(power, a)), b.reciprocal(b.square(a))
    for k, number in enumerate(_BERNOULLI, 1):
        total = b.add(total, b.mul(factor, _c(b, float(number / math.factorial(2 * k)))))
        more = b.mul(b.add(s, _c(b, 2.0 * k - 1)), b.add(s, _c(b, 2.0 * k)))
        factor = b.mul(b.mul(factor, more), inverse)
    whole = b.eq(q, b.floor(q))
    negative = b.le(q, _c(b, 0.0))
    bad = b.logical_or(
        b.lt(s, _c(b, 1.0)), b.logical_and(negative, b.logical_and(b.ne(s, b.floor(s)), b.logical_not(whole)))
    )
    out = b.where(b.logical_and(negative, whole), _c(b, math.inf), total)
    out = b.where(b.eq(s, _c(b, 1.0)), _c(b, math.inf), out)
    nan = b.logical_or(b.isnan(s), b.isnan(q))
    return b.where(b.logical_or(bad, nan), _c(b, math.nan), out)


@in_f64
def polygamma(b: Any, n: Value, x: Value) -> Value:
    """The nth derivative of digamma (DLMF 5.15.1): (-1)**(n+1) n! zeta(n+1, x). NaN unless n is a number 0, 1, 2..."""
    n, x = _together(b, n, x)
    one = _c(b, 1.0)
    sign = b.sub(b.mul(_c(b, 2.0), b.mod(n, _c(b, 2.0))), one)  # -1 for even n
    rest = b.mul(b.mul(sign, b.exp(lgamma(b, b.add(n, one)))), zeta(b, b.add(n, one), x))
    out = b.where(b.eq(n, _c(b, 0.0)), digamma(b, x), rest)
    fit = b.logical_and(b.ge(n, _c(b, 0.0)), b.eq(n, b.floor(n)))
    return b.where(fit, out, _c(b, math.nan))


def _together(b: Any, *xs: Value) -> list[Value]:
    """The operands in their common shape."""
    total = xs[0]
    for x in xs[1:]:
        total = b.add(total, x)
    return [b.broadcast_to(x, shape=total.shape) for x in xs]


def _prefactor(b: Any, a: Value, x: Value) -> Value:
    """x**a exp(-x) / gamma(a)."""
    out: Value = b.exp(b.sub(b.sub(b.mul(a, b.log(x)), x), lgamma(b, a)))
    return out


def _igamma_pair(b: Any, a: Value, x: Value) -> tuple[Value, Value, Value]:
    """(whether to use the series, P by the series DLMF 8.7.1, Q by the continued fraction 8.9.2)."""
    one, zero = _c(b, 1.0), _c(b, 0.0)
    fit = b.logical_and(b.gt(a, zero), b.gt(x, zero))
    fit = b.logical_and(fit, b.logical_and(b.isfinite(x), b.isfinite(a)))
    safe_a, safe_x = b.where(fit, a, one), b.where(fit, x, one)
    series = b.logical_or(b.le(safe_x, one), b.le(safe_x, safe_a))
    start = b.reciprocal(safe_a)
    used = b.cast(series, to=F64)

    def more(b: Any, term: Value, total: Value, n: Value, x: Value, used: Value) -> Value:
        out: Value = b.gt(b.mul(term, used), b.mul(total, _c(b, _EPS)))
        return out

    def grow(b: Any, term: Value, total: Value, n: Value, x: Value, used: Value) -> list[Value]:
        n = b.add(n, _c(b, 1.0))
        term = b.div(b.mul(term, b.mul(x, used)), n)
        return [term, b.add(total, term), n]

    _, total, _ = _while(b, [start, start, safe_a], [safe_x, used], more, grow)
    factor = _prefactor(b, safe_a, safe_x)

    def going(b: Any, f: Value, c: Value, d: Value, k: Value, delta: Value, a: Value, x: Value, used: Value) -> Value:
        out: Value = b.gt(b.mul(b.abs(b.sub(delta, _c(b, 1.0))), b.sub(_c(b, 1.0), used)), _c(b, 4 * _EPS))
        return out

    def lentz(
        b: Any, f: Value, c: Value, d: Value, k: Value, delta: Value, a: Value, x: Value, used: Value
    ) -> list[Value]:
        k = b.add(k, _c(b, 1.0))
        an = b.mul(k, b.sub(a, k))
        bn = b.add(b.sub(x, a), b.add(b.mul(k, _c(b, 2.0)), _c(b, 1.0)))
        d = _away(b, b.add(b.mul(an, d), bn))
        c = _away(b, b.add(bn, b.div(an, c)))
        d = b.reciprocal(d)
        delta = b.mul(c, d)
        on = going(b, f, c, d, k, b.add(delta, _c(b, 1.0)), a, x, used)
        return [b.where(on, b.mul(f, delta), f), c, d, k, delta]

    first = _away(b, b.add(b.sub(safe_x, safe_a), one))
    d0 = b.reciprocal(first)
    zeros = b.full(safe_x.shape, 0.0, F64)
    huge = b.full(safe_x.shape, 1 / _TINY, F64)
    fraction = _while(b, [d0, huge, d0, zeros, zeros], [safe_a, safe_x, used], going, lentz)[0]
    return series, b.mul(factor, total), b.mul(factor, fraction)


def _away(b: Any, x: Value) -> Value:
    """Lentz' method may not divide by zero."""
    out: Value = b.where(b.lt(b.abs(x), _c(b, _TINY)), _c(b, _TINY), x)
    return out


def _igamma(b: Any, a: Value, x: Value, lower: bool) -> Value:
    a, x = _together(b, a, x)
    series, p, q = _igamma_pair(b, a, x)
    one, zero = _c(b, 1.0), _c(b, 0.0)
    out = b.where(series, p, b.sub(one, q)) if lower else b.where(series, b.sub(one, p), q)
    at_zero, at_end = (zero, one) if lower else (one, zero)
    out = b.where(b.eq(x, zero), at_zero, out)
    out = b.where(b.logical_and(b.isinf(x), b.isfinite(a)), at_end, out)
    out = b.where(b.logical_and(b.isinf(a), b.isfinite(x)), at_zero, out)
    bad = b.logical_not(b.logical_and(b.gt(a, zero), b.ge(x, zero)))
    return b.where(bad, _c(b, math.nan), out)


@in_f64
def igamma(b: Any, a: Value, x: Value) -> Value:
    """The regularised lower incomplete gamma function P(a, x); NaN unless a > 0 and x >= 0."""
    return _igamma(b, a, x, True)


@in_f64
def igammac(b: Any, a: Value, x: Value) -> Value:
    """The regularised upper incomplete gamma function Q(a, x); NaN unless a > 0 and x >= 0."""
    return _igamma(b, a, x, False)


@in_f64
def betainc(b: Any, p: Value, q: Value, x: Value) -> Value:
    """The regularised incomplete beta function I_x(p, q) (DLMF 8.17.22); NaN outside p, q > 0 and 0 <= x <= 1."""
    p, q, x = _together(b, p, q, x)
    one, zero, two = _c(b, 1.0), _c(b, 0.0), _c(b, 2.0)
    fit = b.logical_and(b.logical_and(b.gt(p, zero), b.gt(q, zero)), b.logical_and(b.ge(x, zero), b.le(x, one)))
    p0, q0, x0 = (b.where(fit, v, _c(b, 0.5)) for v in (p, q, x))
    turned = b.gt(x0, b.div(b.add(p0, one), b.add(b.add(p0, q0), two)))
    p1, q1 = b.where(turned, q0, p0), b.where(turned, p0, q0)
    x1 = b.where(turned, b.sub(one, x0), x0)

    def going(b: Any, h: Value, c: Value, d: Value, m: Value, delta: Value, p: Value, q: Value, x: Value) -> Value:
        out: Value = b.gt(b.abs(b.sub(delta, _c(b, 1.0))), _c(b, 4 * _EPS))
        return out

    def lentz(
        b: Any, h: Value, c: Value, d: Value, m: Value, delta: Value, p: Value, q: Value, x: Value
    ) -> list[Value]:
        m = b.add(m, _c(b, 1.0))
        even = b.add(p, b.mul(m, _c(b, 2.0)))
        first = b.div(b.mul(b.mul(m, b.sub(q, m)), x), b.mul(b.sub(even, _c(b, 1.0)), even))
        more = b.mul(b.mul(b.add(p, m), b.add(b.add(p, q), m)), x)
        second = b.neg(b.div(more, b.mul(even, b.add(even, _c(b, 1.0)))))
        delta = b.broadcast_to(_c(b, 1.0), shape=h.shape)
        for a in (first, second):
            d = b.reciprocal(_away(b, b.add(_c(b, 1.0), b.mul(a, d))))
            c = _away(b, b.add(_c(b, 1.0), b.div(a, c)))
            delta = b.mul(c, d)
            h = b.mul(h, delta)
        return [h, c, d, m, delta]

    total = b.add(p1, q1)
    start = b.reciprocal(_away(b, b.sub(one, b.div(b.mul(total, x1), b.add(p1, one)))))
    zeros = b.full(x1.shape, 0.0, F64)
    ones = b.full(x1.shape, 1.0, F64)
    fraction = _while(b, [start, ones, start, zeros, zeros], [p1, q1, x1], going, lentz)[0]
    logs = b.add(b.mul(p1, b.log(x1)), b.mul(q1, b.log1p(b.neg(x1))))
    factor = b.exp(b.add(b.sub(b.sub(lgamma(b, total), lgamma(b, p1)), lgamma(b, q1)), logs))
    part = b.div(b.mul(factor, fraction), p1)
    out = b.where(turned, b.sub(one, part), part)
    out = b.where(b.eq(x, zero), zero, b.where(b.eq(x, one), one, out))
    return b.where(fit, out, _c(b, math.nan))


def _erfc_inverse(b: Any, q: Value) -> Value:
    """x >= 0 with erfc(x) = q, for 0 < q <= 1, by Newton steps from Winitzki's estimate."""
    log = b.log(b.mul(q, b.sub(_c(b, 2.0), q)))
    shape = 0.147
    mean = b.add(_c(b, 2 / (math.pi * shape)), b.mul(log, _c(b, 0.5)))
    root = b.sub(b.sqrt(b.sub(b.square(mean), b.div(log, _c(b, shape)))), mean)
    x = b.sqrt(b.maximum(root, _c(b, 0.0)))
    near = b.sub(_c(b, 1.0), q)
    slope = _c(b, 2 / math.sqrt(math.pi))
    for _ in range(4):
        density = b.mul(slope, b.exp(b.neg(b.square(x))))
        rest = b.erfc(x)
        # In the tail on the logarithm, which is nearly a parabola; in the middle on erf itself.
        far = b.mul(b.div(rest, density), b.sub(b.log(rest), b.log(q)))
        close = b.div(b.sub(b.erf(x), near), density)
        x = b.where(b.lt(q, _c(b, 0.5)), b.add(x, far), b.sub(x, close))
    return x


def _signed_inverse(b: Any, q: Value, positive: Value) -> Value:
    """The inverse with its sign, for the smaller tail q."""
    safe = b.where(b.gt(q, _c(b, 0.0)), q, _c(b, 1.0))
    x = b.where(b.gt(q, _c(b, 0.0)), _erfc_inverse(b, safe), _c(b, math.inf))
    out: Value = b.where(positive, x, b.neg(x))
    return out


@in_f64
def erfinv(b: Any, y: Value) -> Value:
    """x with erf(x) = y; infinite at -1 and 1, NaN beyond."""
    size = b.abs(y)
    # Below 1e-8 the first term of the series is exact to rounding, and keeps what 1 - y would lose.
    small = b.mul(y, b.add(_c(b, math.sqrt(math.pi) / 2), b.mul(b.square(y), _c(b, math.sqrt(math.pi) ** 3 / 24))))
    out = b.where(b.lt(size, _c(b, 1e-4)), small, _signed_inverse(b, b.sub(_c(b, 1.0), size), b.ge(y, _c(b, 0.0))))
    return b.where(b.le(size, _c(b, 1.0)), out, _c(b, math.nan))


@in_f64
def ndtri(b: Any, p: Value) -> Value:
    """The quantile of the normal distribution: x with a share p below it. Infinite at 0 and 1, NaN outside."""
    upper = b.gt(p, _c(b, 0.5))
    tail = b.where(upper, b.sub(_c(b, 1.0), p), p)
    x = b.mul(_signed_inverse(b, b.mul(tail, _c(b, 2.0)), upper), _c(b, math.sqrt(2)))
    inside = b.logical_and(b.ge(p, _c(b, 0.0)), b.le(p, _c(b, 1.0)))
    return b.where(inside, x, _c(b, math.nan))


_BESSEL_SPLIT, _BESSEL_TERMS, _BESSEL_TAIL = 25.0, 56, 28


def _bessel(order: int) -> Callable[[Any, Value], Value]:
    """exp(-|x|) I(x) of order 0 or 1: DLMF 10.25.2 (all terms positive), beyond 25 the asymptotic 10.40.1."""
    near = [1.0 / (math.factorial(k) * math.factorial(k + order)) for k in range(_BESSEL_TERMS)]
    far, term = [], Fraction(1)
    for k in range(_BESSEL_TAIL):
        far.append(float(term))
        term *= -Fraction(4 * order * order - (2 * k + 1) ** 2, 8 * (k + 1))

    def apply(b: Any, x: Value) -> Value:
        size = b.abs(x)
        split = _c(b, _BESSEL_SPLIT)
        low = b.minimum(size, split)
        half = b.mul(low, _c(b, 0.5))
        inner = b.mul(_horner(b, b.square(half), near[::-1]), b.exp(b.neg(low)))
        high = b.maximum(size, split)
        outer = b.div(_horner(b, b.reciprocal(high), far[::-1]), b.sqrt(b.mul(_c(b, 2 * math.pi), high)))
        if order:
            inner = b.mul(inner, half)
        out = b.where(b.le(size, split), inner, outer)
        out = b.where(b.isnan(x), x, out)
        return b.mul(out, b.sign(x)) if order else out

    return apply


bessel_i0e, bessel_i1e = in_f64(_bessel(0)), in_f64(_bessel(1))


@in_f64
def bessel_i0(b: Any, x: Value) -> Value:
    """The modified Bessel function of order 0."""
    out: Value = b.mul(_bessel(0)(b, x), b.exp(b.abs(x)))
    return out


@in_f64
def bessel_i1(b: Any, x: Value) -> Value:
    """The modified Bessel function of order 1."""
    out: Value = b.mul(_bessel(1)(b, x), b.exp(b.abs(x)))
    return out
