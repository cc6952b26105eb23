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
from .intrinsics import bits, copysign, fabs, fma, from_bits, iadd, iand, isub, raw_ashr, raw_shl, select, sqrt
from .prelude import INT_POWER
from .registry import by_type, helper, register

_f = np.float32
_i = np.int32
ZERO, ONE, TWO, HALF, INF, NAN = _f(0), _f(1), _f(2), _f(0.5), _f(np.inf), _f(np.nan)

# exp, log and erf follow N. Juffa's published minimax polynomials; tanh's was fitted for |x| < 0.6.
LOG2E, LN2_HI, LN2_LO = _f(1.442695041), _f(0.693147182), _f(-1.904654323e-9)
MAGIC, MAGIC_BITS = _f(12582912.0), _i(0x4B400000)
E5, E4, E3, E2 = _f(1.37805939e-3), _f(8.37312452e-3), _f(4.16695364e-2), _f(1.66664720e-1)
E1 = _f(4.99999851e-1)
EXP_MAX, EXP_MIN = _f(89.0), _f(-104.0)
BIAS, SHIFT, I1 = _i(127), _i(23), _i(1)


@helper
def _exp_core(x):
    """k, r, q with exp(x) = 2**k * (1 + r + r*r*q)."""
    t = fma(x, LOG2E, MAGIC)
    k = isub(bits(t), MAGIC_BITS)
    kf = t - MAGIC
    r = fma(-kf, LN2_LO, fma(-kf, LN2_HI, x))
    q = fma(r, E5, E4)
    q = fma(r, q, E3)
    q = fma(r, q, E2)
    return k, r, fma(r, q, E1)


@helper
def _power_of_two(k):
    return from_bits(raw_shl(iadd(k, BIAS), SHIFT))


@helper
def exp32(x):
    none = x < EXP_MIN
    # What becomes 0 (a masked score, say) goes by way of exp(0): subnormal products cost a hundred cycles.
    c = select(x > EXP_MAX, EXP_MAX, select(none, ZERO, x))
    k, r, q = _exp_core(c)
    half = raw_ashr(k, I1)
    # Two factors: 2**k itself may not be a normal number; so subnormal results round once, and large ones overflow.
    y = fma(r, fma(r, q, ONE), ONE) * _power_of_two(half) * _power_of_two(isub(k, half))
    return select(none, ZERO, y)


M_MAX, M_MIN, M_EXP = _f(80.0), _f(-30.0), _f(60.0)


@helper
def expm1_32(x):
    c = select(x > M_MAX, M_MAX, select(x < M_MIN, M_MIN, x))
    k, r, q = _exp_core(c)
    scale = _power_of_two(k)
    y = fma(scale, fma(r * r, q, r), scale - ONE)
    return select(x > M_EXP, exp32(x), select(x == ZERO, x, y))


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


T_SWITCH = _f(0.55)
T4, T3, T2 = _f(-0.0059058223851025105), _f(0.020805343985557556), _f(-0.05378666892647743)
T1, T0 = _f(0.13331958651542664), _f(-0.33333298563957214)


@helper
def tanh32(x):
    a = fabs(x)
    s = x * x
    p = fma(s, T4, T3)
    p = fma(s, p, T2)
    p = fma(s, p, T1)
    p = fma(s, p, T0)
    near = fma(s * p, x, x)
    far = ONE - TWO / (exp32(a + a) + ONE)
    return copysign(select(a < T_SWITCH, near, far), x)


@helper
def sigmoid32(x):
    e = exp32(-fabs(x))
    return select(x >= ZERO, ONE, e) / (ONE + e)


@helper
def softplus32(x):
    e = exp32(-fabs(x))
    u = ONE + e
    return select(x < ZERO, ZERO, x) + (_log_positive(u) + (e - (u - ONE)) / u)


F_SWITCH = _f(0.927734375)
FA, FB = _f(-1.72853470e-5), _f(3.83197126e-4)
FC, FD = _f(-3.88396438e-3), _f(2.42546219e-2)
FE, FF, FG = _f(-1.06777877e-1), _f(-6.34846687e-1), _f(-1.28717512e-1)
G0, G1, G2 = _f(-5.96761703e-4), _f(4.99119423e-3), _f(-2.67681349e-2)
G3, G4, G5 = _f(1.12819925e-1), _f(-3.76125336e-1), _f(1.28379166e-1)


@helper
def erf32(x):
    t, s = fabs(x), x * x
    r = fma(FA, t, FB)
    u = fma(FC, t, FD)
    r = fma(r, s, u)
    r = fma(r, t, FE)
    r = fma(r, t, FF)
    r = fma(r, t, FG)
    r = fma(r, t, -t)
    far = copysign(ONE - exp32(select(t > _f(4.5), -INF, r)), x)
    r = fma(G0, s, G1)
    r = fma(r, s, G2)
    r = fma(r, s, G3)
    r = fma(r, s, G4)
    r = fma(r, s, G5)
    near = fma(r, x, x)
    return select(x != x, x, select(t > F_SWITCH, far, near))


# (1 + 2a) exp(a*a) erfc(a) - 1 as a polynomial in (a - 2) / (a + 2): M. Shepherd and J. Laframboise, Math. Comp. 36
# (1981); coefficients and the correction of the quotients by N. Juffa.
C9, C8, C7 = _f(-0.0004011392593383789), _f(-0.001230752095580101), _f(0.001313553424552083)
C6, C5, C4 = _f(0.008632274344563484), _f(-0.008059919811785221), _f(-0.05420466139912605)
C3, C2, C1, C0 = _f(0.16405539214611053), _f(-0.1660313606262207), _f(-0.0927639827132225), _f(0.27697840332984924)
C_ZERO = _f(10.0546875)


@helper
def erfc32(x):
    a = fabs(x)
    c = select(a > C_ZERO, ONE, a)
    p, d = c + TWO, fma(TWO, c, ONE)
    both = ONE / (p * d)  # one division for both quotients: what it loses, the corrections recover
    r = both * d
    q = (c - TWO) * r
    q = fma(r, fma(q, -c, fma(q + ONE, -TWO, c)), q)
    y = fma(C9, q, C8)
    y = fma(y, q, C7)
    y = fma(y, q, C6)
    y = fma(y, q, C5)
    y = fma(y, q, C4)
    y = fma(y, q, C3)
    y = fma(y, q, C2)
    y = fma(y, q, C1)
    y = fma(y, q, C0)
    r = both * p
    q = fma(y, r, r)
    r = fma(fma(fma(q, -c, HALF), TWO, y - q), r, q)
    s = c * c
    e = exp32(-s)
    r = fma(r, e, r * e * fma(-c, c, s))
    r = select(a > C_ZERO, ZERO, r)
    return select(x != x, x, select(x < ZERO, TWO - r, r))


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
    "sin": (_through_double(mathtrig.sin64), mathtrig.sin64),
    "cos": (_through_double(mathtrig.cos64), mathtrig.cos64),
    "tan": (_through_double(mathtrig.tan64), mathtrig.tan64),
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
    "sigmoid": (2.5, 2.5),
    "softplus": (2.5, 3.0),
    "erf": (1.5, 2.0),
    "erfc": (3.0, 4.0),
    "pow": (0.51, 4.0),
    "atan2": (0.51, 2.0),
}


def _pick_unary(pair: tuple[Any, Any]) -> Any:
    return lambda x: pair[0] if x == types.float32 else pair[1] if x == types.float64 else None


for _name, _pair in UNARY.items():
    register(_name, by_type(_name, 1, _pick_unary(_pair)), twins.SCALARS[_name])

_POW = INT_POWER | {types.float32: pow32, types.float64: wide.pow64}
_ATAN2 = {types.float32: atan2_32, types.float64: wide.atan2_64}
register("pow", by_type("power", 2, lambda x, y: _POW.get(x) if x == y else None), twins.SCALARS["pow"])
register("atan2", by_type("atan2", 2, lambda x, y: _ATAN2.get(x) if x == y else None), twins.SCALARS["atan2"])
