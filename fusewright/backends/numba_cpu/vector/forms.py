"""Float32 functions as AVX-512 computes them best: no branch, no division, special cases by instructions for them.

Owns the formulas. Must not know how kernels come to call them; the forms for other machines are mathlib's.

Multiplications go to two of the CPU's vector units, additions and the instructions of ``values`` to others: what is
counted here is multiplications.
"""

from __future__ import annotations

import numpy as np

from .values import (
    INVALID,
    MINUS_ZERO,
    ONE,
    SELF,
    ZERO,
    Value,
    about_reciprocal,
    at_most,
    by_class,
    entry,
    fma,
    polynomial,
    scaled,
    signed,
    size,
    size_at_most,
    whole,
    within,
)

LOG2E, LN2_HI, LN2_LO = 1.442695041, 0.693147182, -1.904654323e-9
LN2_SHORT, LN2_REST = 0.693115234375, 3.194618498e-5  # the first of 12 bits
# (exp(r) - 1 - r) / r**2 by N. Juffa, the highest power first.
CURVE = (1.37805939e-3, 8.37312452e-3, 4.16695364e-2, 1.66664720e-1, 4.99999851e-1)


def _reduced(x: Value) -> tuple[Value, Value]:
    """k and r with x = k * ln(2) + r."""
    k = whole(x * LOG2E)
    return k, fma(k, -LN2_LO, fma(k, -LN2_HI, x))


def _exp(r: Value) -> Value:
    """exp(r) for |r| <= ln(2) / 2."""
    return polynomial(r, (*CURVE, 1.0, 1.0))


# For the 16 parts of an octave: 1.5 * 2**19 added leaves the sixteenths of a number in the last bits of the sum.
SIXTEENTHS = 786432.0
PARTS = tuple(2.0 ** (-i / 16) for i in range(16))
# What rounding took from each, as a part of it.
PARTS_LOW = tuple(part / float(np.float32(part)) - 1.0 for part in PARTS)
# (exp(r) - 1) / r, the highest power first: the middle one takes the square's share of what the fourth power adds.
SHORT_CURVE = (1 / 6, 0.5000162, 1.0)


def _times_exp(first: Value, r: Value) -> Value:
    """first * exp(r) for |r| <= ln(2) / 32."""
    return fma(first * r, polynomial(r, SHORT_CURVE), first)


def _grown(a: Value) -> tuple[Value, Value]:
    """m and k with exp(a) = m / 2**floor(k), by a table: fewer multiplications, and fewer one after the other."""
    t = fma(a, -LOG2E, SIXTEENTHS)
    k = t - SIXTEENTHS
    r = fma(k, LN2_HI, a) + fma(k, LN2_LO, entry(t, PARTS_LOW))
    return _times_exp(entry(t, PARTS), r), k


def exp(x: Value) -> Value:
    # Only r is bounded: a huge k gives infinity or 0 as it should, and r is anything there.
    k, r = _reduced(x)
    return scaled(_exp(within(r, 0.5)), k)


_GONE = 110.0  # exp(-x) * x is 0 from here on


def _share(a: Value | float, m: Value, k: Value) -> Value:
    """a / (1 + m / 2**floor(k)) for m near 1 and k <= 0. The power of two does not wait for m, nor m for it."""
    s = scaled(1.0, k)
    inverse = about_reciprocal(m + s)
    y = inverse * a
    return scaled(fma(fma(-y, s, fma(-y, m, a)), inverse, y), k)


def sigmoid(x: Value) -> Value:
    base = by_class(x, zero=ONE, one=ONE, minus_inf=ZERO, inf=ONE, negative=ZERO, positive=ONE)
    return size(base - _share(1.0, *_grown(size_at_most(x, _GONE))))


def _gate(x: Value) -> Value:
    """The larger of x and -0.0; NaN at minus infinity, where x meets a factor of 0."""
    return by_class(x, zero=SELF, one=SELF, minus_inf=INVALID, inf=SELF, negative=MINUS_ZERO, positive=SELF)


def silu(x: Value) -> Value:
    """x * sigmoid(x)."""
    a = size_at_most(x, _GONE)
    return _gate(x) - _share(a, *_grown(a))


# 2 * sqrt(2 / pi) and 0.044715 times it, each as two numbers.
G0, G0_LOW, G1, G1_LOW = 1.5957691669464111, -4.534068054340423e-08, 0.07135481387376785, 2.3988324659995897e-09


def gelu_tanh(x: Value) -> Value:
    """x * sigmoid(z) with z = 2 * sqrt(2 / pi) * (x + 0.044715 * x**3)."""
    a = size_at_most(x, 12.0)
    s = a * a
    u = fma(s, G1, G0)
    w = u - G0
    low = (fma(s, G1, -w) - (u - w - G0)) + fma(fma(a, a, -s), G1, fma(s, G1_LOW, G0_LOW))
    t = fma(a * u, -LOG2E, SIXTEENTHS)
    k = t - SIXTEENTHS
    # z = a * (u + low): its rounding would be m's error many times over. 12 bits of k times LN2_SHORT are exact.
    r = fma(a, u, k * LN2_SHORT) + fma(a, low, fma(k, LN2_REST, entry(t, PARTS_LOW)))
    return _gate(x) - _share(a, _times_exp(entry(t, PARTS), r), k)


# The tail of the normal distribution: Q(a) = exp(-a * a / 2) / (a + APART) * TAIL(v - 1/4), v = a / (a + APART); fitted
# here on [0, 14.4] for the relative error.
APART = 3.76
TAIL = (
    0.1151314303278923, -0.15913893282413483, -0.19094011187553406, 0.42375239729881287, 0.3186757564544678,
    -1.731860876083374, 2.5443241596221924, -2.1523561477661133, 1.1550345420837402,
)  # fmt: skip


def gelu(x: Value) -> Value:
    """x * Phi(x): the larger of x and 0 less |x| * Q(|x|)."""
    a = size_at_most(x, 15.0)
    s = a * a
    k = whole(s * (-0.5 * LOG2E))
    r = fma(k, -2 * LN2_HI, -s)  # twice the exponent that is left
    r = r + fma(k, -2 * LN2_LO, fma(-a, a, s))
    f = polynomial(r, (*(c / 2**p for c, p in zip(CURVE, (6, 5, 4, 3, 2), strict=True)), 0.5)) * r
    d = a + APART
    inverse = about_reciprocal(d)
    v = a * inverse
    v = fma(fma(-v, d, a), inverse, v)
    h = polynomial(v - 0.25, TAIL) * v
    return _gate(x) - scaled(fma(h, f, h), k)


TANH_ONE = 10.0


def tanh(x: Value) -> Value:
    a = at_most(size(x), TANH_ONE) * -2.0
    k = whole(a * LOG2E)
    r = fma(k, -LN2_HI, a)
    p = fma(r * r, polynomial(r, CURVE), r)
    s = scaled(1.0, k)
    e = fma(s, p, s - 1.0)  # exp(-2|x|) - 1
    d = e + 2.0
    inverse = about_reciprocal(d)
    y = e * inverse
    rest = fma(y, (d - 2.0) - e, fma(-y, d, e))
    return signed(fma(rest, inverse, y), x)


FORMS = {"exp": exp, "sigmoid": sigmoid, "silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "tanh": tanh}
