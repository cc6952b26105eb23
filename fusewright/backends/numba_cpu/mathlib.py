"""The mathematical functions of kernel text: float32 forms, and the names for both widths.

Owns the float32 algorithms, which function serves which type, and the accuracy stated for each.
Must not depend on fast-math or on any library function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from . import mathlib64 as wide
from . import mathtrig, twins
from .intrinsics import bits, copysign, fabs, fma, from_bits, iand, isub, raw_shl, select, sqrt
from .prelude import INT_POWER
from .registry import by_type, helper, register

_f = np.float32
_i = np.int32
ZERO, ONE, TWO, HALF, INF, NAN = _f(0), _f(1), _f(2), _f(0.5), _f(np.inf), _f(np.nan)
MINUS_TWO = _f(-2)

# exp and log follow N. Juffa's published minimax polynomials; erf's and the reduction of both are fitted here.
LOG2E, LN2_HI, LN2_LO = _f(1.442695041), _f(0.693147182), _f(-1.904654323e-9)
E5, E4, E3, E2 = _f(1.37805939e-3), _f(8.37312452e-3), _f(4.16695364e-2), _f(1.66664720e-1)
E1 = _f(4.99999851e-1)
EXP_MAX, EXP_MIN, EXP_LEAST, EXP_SMALL = _f(89.0), _f(-104.0), _f(-105.0), _f(-80.0)
EXPONENT = _i(23)
# A number added to these leaves its nearest integer, plus a bias of the exponent, in the low bits of the sum.
WHOLE, HALVED, RAISED = _f(12582912.0 + 127), _f(12582912.0 + 126), _f(12582912.0 + 127 + 64)
LOWERED = _f(2.0**-64)


@helper
def _reduced(x, magic):
    """(k + bias, magic's way; r) with x = k * ln(2) + r."""
    t = fma(x, LOG2E, magic)
    kf = t - magic
    return t, fma(-kf, LN2_LO, fma(-kf, LN2_HI, x))


@helper
def _power_of_two(t):
    """2**k for the t of _reduced."""
    return from_bits(raw_shl(bits(t), EXPONENT))


@helper
def _curve(r):
    """q with exp(r) = 1 + r + r * r * q, for |r| <= ln(2) / 2."""
    s = r * r
    q = fma(s, E5, fma(r, E4, E3))
    return fma(s, q, fma(r, E2, E1))


@helper
def _less_one(r):
    """exp(r) - 1 for |r| <= ln(2) / 2."""
    return fma(r * r, _curve(r), r)


@helper
def _exp_parts(x, least):
    """r, s, f with exp(x) = exp(r) * s * f, |r| <= ln(2) / 2 and s a power of two, for -110 <= x <= 89.

    Two factors: 2**k itself may not be a normal number; so subnormal results round once, and large ones overflow. What
    is below ``least`` (a masked score, say) becomes 0 by f = 0: subnormal products cost a hundred cycles.
    """
    small = x < EXP_SMALL
    f = select(x < least, ZERO, select(small, LOWERED, TWO))
    t, r = _reduced(x, select(small, RAISED, HALVED))
    return r, _power_of_two(t), f


@helper
def exp32(x):
    c = select(x > EXP_MAX, EXP_MAX, x)
    r, s, f = _exp_parts(select(c < EXP_LEAST, EXP_LEAST, c), EXP_MIN)
    return fma(r, fma(r, _curve(r), ONE), ONE) * s * f


M_MAX, M_MIN = _f(89.0), _f(-30.0)


@helper
def expm1_32(x):
    c = select(x > M_MAX, M_MAX, x)
    t, r = _reduced(select(c < M_MIN, M_MIN, c), HALVED)
    s = _power_of_two(t)  # 2**(k - 1): 2**k may be too large
    return select(x == ZERO, x, fma(s, _less_one(r), s - HALF) * TWO)


@helper
def _reduced_below(x):
    """r and 2**k with x = k * ln(2) + r, for the uses of 2**k - 1 where -80 <= x <= 0: k * LN2_LO is nothing there."""
    t = fma(x, LOG2E, WHOLE)
    return fma(WHOLE - t, LN2_HI, x), _power_of_two(t)


L_TINY, L_SCALE, L_SHIFT = _f(1.17549435e-38), _f(8388608.0), _f(23.0)
L_OFF, L_MASK, L_TO_FLOAT = _i(0x3F2AAAAB), _i(-8388608), _f(1.1920929e-7)
L8, L7, L6, L5 = _f(-0.130310059), _f(0.140869141), _f(-0.121483512), _f(0.139814854)
L4, L3, L2, L1, L0 = _f(-0.166846126), _f(0.200120345), _f(-0.249996200), _f(0.333331972), _f(-0.5)
LN2 = _f(0.693147182)


@helper
def _log_positive(x):
    """log of a positive finite x."""
    tiny = x < L_TINY
    y = select(tiny, x * L_SCALE, x)
    e = iand(isub(bits(y), L_OFF), L_MASK)
    m = from_bits(isub(bits(y), e)) - ONE
    k = fma(_f(e), L_TO_FLOAT, select(tiny, -L_SHIFT, ZERO))
    s = m * m
    r = fma(L8, s, L6)
    t = fma(L7, s, L5)
    r = fma(r, s, L4)
    t = fma(t, s, L3)
    r = fma(r, s, L2)
    r = fma(t, m, r)
    r = fma(r, m, L1)
    r = fma(r, m, L0)
    r = fma(r, s, m)
    return fma(k, LN2, r)


@helper
def log32(x):
    y = select(x < INF, _log_positive(x), x)
    return select(x > ZERO, y, select(x == ZERO, -INF, NAN + x))


T_MAX = _f(10.0)


@helper
def tanh32(x):
    a = fabs(x)
    r, s = _reduced_below(select(a > T_MAX, T_MAX, a) * MINUS_TWO)
    e = fma(s, _less_one(r), s - ONE)
    d = TWO + e
    y = e / d
    # What the roundings of d and y took; 1 / d = (1 - y) / 2.
    rest = fma(y, (d - TWO) - e, fma(-y, d, e))
    return copysign(fma(rest, fma(y, -HALF, HALF), y), x)


@helper
def sigmoid32(x):
    a = -fabs(x)
    r, s, f = _exp_parts(select(a < EXP_LEAST, EXP_LEAST, a), EXP_MIN)
    p, whole = _less_one(r), s * f
    above = x >= ZERO
    one = ONE + whole
    d = fma(p, whole, one)  # 1 + exp(-|x|)
    n = select(above, ONE, fma(p, s, s) * f)
    y = n / d
    # What the roundings of d and y took; 1 / d is y or 1 - y.
    rest = fma(y, fma(-p, whole, d - one), fma(-y, d, n))
    return fma(rest, select(above, y, ONE - y), y)


@helper
def softplus32(x):
    e = exp32(-fabs(x))
    u = ONE + e
    return select(x < ZERO, ZERO, x) + (_log_positive(u) + (e - (u - ONE)) / u)


F_MAX = _f(4.0)
# -log(erfc(t)) = t + t * q(t) on [0, 4], fitted for the error of erf.
F8, F7, F6 = _f(-9.20269878e-06), _f(1.17218902e-04), _f(-6.31585976e-04)
F5, F4, F3 = _f(1.66531519e-03), _f(-1.59351677e-04), _f(-1.91532494e-02)
F2, F1, F0 = _f(1.02777795e-01), _f(6.36619391e-01), _f(1.28379171e-01)


@helper
def erf32(x):
    a = fabs(x)
    t = select(a > F_MAX, F_MAX, a)
    s = t * t
    q = fma(s * s, fma(s, fma(t, F8, F7), fma(t, F6, F5)), fma(s, fma(t, F4, F3), fma(t, F2, F1)))
    q = fma(t, q, F0)
    y = fma(-t, q, -t)
    low = fma(-t, q, -t - y)  # what rounding took from y
    r, s = _reduced_below(y)
    return copysign(fma(s, fma(r * r, _curve(r), low) + r, s - ONE), x)


# (1 + 2a) exp(a*a) erfc(a) - 1 as a polynomial in (a - 2) / (a + 2): M. Shepherd and J. Laframboise, Math. Comp. 36
# (1981); coefficients and the correction of the quotients by N. Juffa.
C9, C8, C7 = _f(-0.0004011392593383789), _f(-0.001230752095580101), _f(0.001313553424552083)
C6, C5, C4 = _f(0.008632274344563484), _f(-0.008059919811785221), _f(-0.05420466139912605)
C3, C2, C1, C0 = _f(0.16405539214611053), _f(-0.1660313606262207), _f(-0.0927639827132225), _f(0.27697840332984924)
C_ZERO = _f(10.25)
FIVE = _f(5)


@helper
def erfc32(x):
    a = fabs(x)
    t = select(a > C_ZERO, C_ZERO, a)
    # One division for 1 / (1 + 2t) and 1 / (2 + t).
    d = fma(TWO, t, ONE)
    both = ONE / fma(t, fma(TWO, t, FIVE), TWO)
    q = fma(t + t, both * d, -ONE)  # (t - 2) / (t + 2), in this way exact where the slope is steep
    w = both * (t + TWO)
    u = q * q
    v = u * u
    y = fma(v, fma(u, fma(q, C7, C6), fma(q, C5, C4)), fma(u, fma(q, C3, C2), fma(q, C1, C0)))
    y = fma(v * v, fma(q, C9, C8), y)
    # What rounding took from w joins y before the product.
    h = fma(w, y + fma(-w, fma(TWO, t, ONE - d), fma(-w, d, ONE)), w)
    s = t * t
    r, scale, f = _exp_parts(-s, EXP_MIN)
    p = _less_one(r - fma(t, t, -s))
    y = fma(h, p, h) * scale * f
    return select(x < ZERO, TWO - y, y)


GATE_MAX, GATE_MIN = _f(110), _f(-109)


@helper
def _gate(x):
    """The larger of x and -0; NaN at minus infinity."""
    return select(x > ZERO, x, x * ZERO)


@helper
def _gated(a, r, s, f):
    """a * e / (1 + e) for e = exp(r) * s * f <= 1."""
    m = ONE + _less_one(r)
    e = m * s * f
    inverse = ONE / (ONE + e)
    y = m * inverse * a
    return fma(fma(-y, e, fma(m, a, -y)), inverse, y) * s * f


@helper
def silu32(x):
    a = fabs(x)
    a = select(a > GATE_MAX, GATE_MAX, a)
    r, s, f = _exp_parts(-a, GATE_MIN)
    return _gate(x) - _gated(a, r, s, f)


# 2 * sqrt(2 / pi) and 0.044715 times it, each as two numbers.
TANH_LIN, TANH_LIN_LOW = _f(1.5957691669464111), _f(-4.534068054340423e-08)
TANH_CUBE, TANH_CUBE_LOW = _f(0.07135481387376785), _f(2.3988324659995897e-09)
TANH_GATE_MAX = _f(12)


@helper
def gelu_tanh32(x):
    """x * sigmoid(z) with z = 2 * sqrt(2 / pi) * (x + 0.044715 * x**3)."""
    a = fabs(x)
    a = select(a > TANH_GATE_MAX, TANH_GATE_MAX, a)
    t = a * a
    u = fma(t, TANH_CUBE, TANH_LIN)
    w = u - TANH_LIN
    low = fma(t, TANH_CUBE, -w) - (u - w - TANH_LIN)
    low = low + fma(fma(a, a, -t), TANH_CUBE, fma(t, TANH_CUBE_LOW, TANH_LIN_LOW))
    z = a * u  # its rounding would be the result's error many times over
    r, s, f = _exp_parts(select(z > GATE_MAX, -GATE_MAX, -z), GATE_MIN)
    return _gate(x) - _gated(a, r - fma(a, u, -z) - a * low, s, f)


# The tail of the normal distribution is exp(-a * a / 2) / (a + TAIL_SHIFT) times a polynomial in
# a / (a + TAIL_SHIFT) - 1/4, fitted here on [0, 14.4] for the relative error.
TAIL_SHIFT, TAIL_MIDDLE, TAIL_END = _f(3.76), _f(0.25), _f(14.8)
TAIL = (
    0.1151314303278923, -0.15913893282413483, -0.19094011187553406, 0.42375239729881287, 0.3186757564544678,
    -1.731860876083374, 2.5443241596221924, -2.1523561477661133, 1.1550345420837402,
)  # fmt: skip
Q8, Q7, Q6, Q5, Q4, Q3, Q2, Q1, Q0 = (_f(c) for c in TAIL)


@helper
def gelu32(x):
    """x * Phi(x): the larger of x and 0 less |x| times the tail beyond |x|."""
    a = fabs(x)
    a = select(a > TAIL_END, TAIL_END, a)
    t = a * a
    r, s, f = _exp_parts(t * -HALF, EXP_LEAST)
    v = a / (a + TAIL_SHIFT)
    w = v - TAIL_MIDDLE
    h = fma(w, fma(w, fma(w, fma(w, fma(w, fma(w, fma(w, fma(w, Q8, Q7), Q6), Q5), Q4), Q3), Q2), Q1), Q0) * v
    return _gate(x) - fma(h, _less_one(fma(fma(-a, a, t), HALF, r)), h) * s * f


@helper
def rsqrt32(x):
    return ONE / sqrt(x)


@helper
def pow32(x, y):
    a, b = np.float64(x), np.float64(y)
    return _f(wide.pow_special(a, b, wide.exp64(b * wide.log64(fabs(a)))))


@helper
def atan2_32(x, y):
    return _f(wide.atan2_64(np.float64(x), np.float64(y)))


def _through_double(fn: Any) -> Any:
    """A float32 function by way of the float64 one: a hair over half a ULP, at half the vector width."""

    @helper
    def narrow(x):
        return _f(fn(np.float64(x)))

    return narrow


UNARY: dict[str, tuple[Any, Any]] = {
    "exp": (exp32, wide.exp64),
    "expm1": (expm1_32, wide.expm1_64),
    "log": (log32, wide.log64),
    "log1p": (_through_double(wide.log1p_64), wide.log1p_64),
    "rsqrt": (rsqrt32, wide.rsqrt64),
    "sin": (mathtrig.sin32, mathtrig.sin64),
    "cos": (mathtrig.cos32, mathtrig.cos64),
    "tan": (mathtrig.tan32, mathtrig.tan64),
    "asin": (_through_double(wide.asin64), wide.asin64),
    "acos": (_through_double(wide.acos64), wide.acos64),
    "atan": (_through_double(wide.atan64), wide.atan64),
    "sinh": (_through_double(wide.sinh64), wide.sinh64),
    "cosh": (_through_double(wide.cosh64), wide.cosh64),
    "tanh": (tanh32, wide.tanh64),
    "asinh": (_through_double(wide.asinh64), wide.asinh64),
    "acosh": (_through_double(wide.acosh64), wide.acosh64),
    "atanh": (_through_double(wide.atanh64), wide.atanh64),
    "sigmoid": (sigmoid32, wide.sigmoid64),
    "softplus": (softplus32, wide.softplus64),
    "erf": (erf32, wide.erf64),
    "erfc": (erfc32, wide.erfc64),
    "silu": (silu32, wide.silu64),
    "gelu": (gelu32, wide.gelu64),
    "gelu_tanh": (gelu_tanh32, wide.gelu_tanh64),
}

# Largest error in units in the last place, (float32, float64), over the whole range; tests hold them.
ULPS: dict[str, tuple[float, float]] = {
    "exp": (1.0, 1.0),
    "expm1": (1.5, 2.0),
    "log": (1.0, 1.0),
    "log1p": (0.51, 2.5),
    "sqrt": (0.5, 0.5),
    "rsqrt": (1.5, 1.5),
    "sin": (0.51, 1.0),
    "cos": (0.51, 1.0),
    "tan": (0.51, 2.5),
    "asin": (0.51, 1.5),
    "acos": (0.51, 1.5),
    "atan": (0.51, 1.5),
    "sinh": (0.51, 2.5),
    "cosh": (0.51, 2.5),
    "tanh": (2.0, 3.0),
    "asinh": (0.51, 3.0),
    "acosh": (0.51, 3.0),
    "atanh": (0.51, 3.0),
    "sigmoid": (2.0, 2.5),
    "softplus": (2.0, 3.0),
    "erf": (1.5, 2.0),
    "erfc": (3.0, 4.0),
    "silu": (2.0, 6.0),
    "gelu": (4.0, 40.0),
    "gelu_tanh": (2.0, 4000.0),
    "pow": (0.51, 4.0),
    "atan2": (0.51, 2.0),
}


def _pick_unary(pair: tuple[Any, Any]) -> Any:
    return lambda x: pair[0] if x == types.float32 else pair[1] if x == types.float64 else None


def with_vector_forms(forms: dict[str, Any]) -> dict[str, Any]:
    """The names of functions whose float32 form is another one than here."""
    return {name: by_type(name, 1, _pick_unary((form, UNARY[name][1]))) for name, form in forms.items()}


for _name, _pair in UNARY.items():
    register(_name, by_type(_name, 1, _pick_unary(_pair)), twins.SCALARS[_name])

_POW = INT_POWER | {types.float32: pow32, types.float64: wide.pow64}
_ATAN2 = {types.float32: atan2_32, types.float64: wide.atan2_64}
register("pow", by_type("power", 2, lambda x, y: _POW.get(x) if x == y else None), twins.SCALARS["pow"])
register("atan2", by_type("atan2", 2, lambda x, y: _ATAN2.get(x) if x == y else None), twins.SCALARS["atan2"])
