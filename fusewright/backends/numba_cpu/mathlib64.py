"""Transcendental functions in float64, as straight-line jitted scalars that LLVM can vectorise.

Owns algorithms and coefficients; the float32 forms and the names that kernels use are in mathlib.
Must not depend on fast-math or on any library function.
"""

from __future__ import annotations

import numpy as np

from .intrinsics import bits, copysign, fabs, fma, from_bits, select, sqrt, trunc
from .registry import helper

# Sources: exponent and logarithm by Cody and Waite's reduction with Taylor or fdlibm (Sun Microsystems, 1993)
# polynomials; sin, cos, asin, acos, erf, erfc: fdlibm kernels; atan: Cephes (Moshier) rational function.

INF, NAN = np.inf, np.nan
LOG2E = 1.4426950408889634
LN2_HI, LN2_LO = 0.6931471805599453, 2.3190468138462996e-17  # their sum has 106 bits
LN2_HEAD, LN2_TAIL = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # k * LN2_HEAD is exact
MAGIC = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer, held in the low bits
MAGIC_BITS = 0x4338000000000000
PI, PI_LO = 3.141592653589793, 1.2246467991473532e-16
HALF_PI, HALF_PI_LO = 1.5707963267948966, 6.123233995736766e-17


@helper
def two_sum(a, b):
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@helper
def _exp_core(x, low):
    """k, r, q with exp(x + low) = 2**k * (1 + r + r*r*q), |r| <= ln2/2; x is in -1100..1100 or NaN."""
    t = fma(x, LOG2E, MAGIC)
    k = bits(t) - MAGIC_BITS
    kf = t - MAGIC
    r = fma(-kf, LN2_LO, fma(-kf, LN2_HI, x)) + low
    q = fma(r, 1.6059043836821613e-10, 2.08767569878681e-09)
    q = fma(r, q, 2.505210838544172e-08)
    q = fma(r, q, 2.755731922398589e-07)
    q = fma(r, q, 2.7557319223985893e-06)
    q = fma(r, q, 2.48015873015873e-05)
    q = fma(r, q, 0.0001984126984126984)
    q = fma(r, q, 0.001388888888888889)
    q = fma(r, q, 0.008333333333333333)
    q = fma(r, q, 0.041666666666666664)
    q = fma(r, q, 0.16666666666666666)
    q = fma(r, q, 0.5)
    return k, r, q


@helper
def exp_low(x, low):
    """exp(x + low) for a tiny ``low``; gradual underflow, overflow to infinity."""
    c = select(x > 711.0, 711.0, select(x < -746.0, -746.0, x))
    k, r, q = _exp_core(c, low)
    half = k >> 1
    # Two factors: 2**k itself may not be a normal number.
    return (1.0 + fma(r * r, q, r)) * from_bits((half + 1023) << 52) * from_bits((k - half + 1023) << 52)


@helper
def exp64(x):
    return exp_low(x, 0.0)


@helper
def expm1_64(x):
    c = select(x > 50.0, 50.0, select(x < -50.0, -50.0, x))
    k, r, q = _exp_core(c, 0.0)
    scale = from_bits((k + 1023) << 52)
    y = fma(scale, fma(r * r, q, r), scale - 1.0)
    return select(x > 50.0, exp64(x), select(x == 0.0, x, y))


@helper
def _split(x):
    """k, m with x = 2**k * m and m in [sqrt(1/2), sqrt(2)), for positive finite x."""
    tiny = x < 2.2250738585072014e-308
    y = select(tiny, x * 18014398509481984.0, x)
    pattern = bits(y) - 0x3FE6A09E667F3BCD
    k = pattern >> 52
    m = from_bits((pattern & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD)
    # Small integers become doubles by the same trick as in exp: AVX2 has no conversion from int64.
    kf = from_bits(k + MAGIC_BITS) - MAGIC
    return kf - select(tiny, 54.0, 0.0), m


@helper
def _log_tail(s2):
    """(log((1+s)/(1-s)) - 2s) / s as a polynomial in s2 = s*s (fdlibm)."""
    t = fma(s2, 1.479819860511658591e-01, 1.531383769920937332e-01)
    t = fma(s2, t, 1.818357216161805012e-01)
    t = fma(s2, t, 2.222219843214978396e-01)
    t = fma(s2, t, 2.857142874366239149e-01)
    t = fma(s2, t, 3.999999999940941908e-01)
    t = fma(s2, t, 6.666666666666735130e-01)
    return s2 * t


@helper
def _log_sum(k, f, c):
    """k*ln2 + log(1+f) + c."""
    s = f / (2.0 + f)
    half = 0.5 * f * f
    return k * LN2_HEAD - ((half - fma(s, half + _log_tail(s * s), fma(k, LN2_TAIL, c))) - f)


@helper
def log64(x):
    k, m = _split(x)
    y = _log_sum(k, m - 1.0, 0.0)
    y = select(x < INF, y, x)  # infinity and NaN
    return select(x > 0.0, y, select(x == 0.0, -INF, NAN + x))


@helper
def log1p_64(x):
    small = (x > -0.29) & (x < 0.41)
    u = 1.0 + x
    k, m = _split(u)
    c = select(k > 0.0, 1.0 - (u - x), x - (u - 1.0)) / u
    y = _log_sum(select(small, 0.0, k), select(small, x, m - 1.0), select(small, 0.0, c))
    y = select(x < INF, y, x)
    y = select(fabs(x) < 1e-300, x, y)  # keeps -0
    return select(x > -1.0, y, select(x == -1.0, -INF, NAN + x))


@helper
def tanh64(x):
    a = fabs(x)
    t = expm1_64(-2.0 * a)
    return copysign(-t / (t + 2.0), x)


@helper
def sigmoid64(x):
    e = exp64(-fabs(x))
    return select(x >= 0.0, 1.0, e) / (1.0 + e)


@helper
def softplus64(x):
    return select(x < 0.0, 0.0, x) + log1p_64(exp64(-fabs(x)))


@helper
def sinh64(x):
    a = fabs(x)
    t = expm1_64(select(a > 700.0, 700.0, a))
    y = 0.5 * (t + t / (t + 1.0))
    w = exp64(0.5 * a)
    return copysign(select(a > 700.0, (0.5 * w) * w, y), x)


@helper
def cosh64(x):
    a = fabs(x)
    t = exp64(select(a > 700.0, 700.0, a))
    w = exp64(0.5 * a)
    return select(a > 700.0, (0.5 * w) * w, 0.5 * t + 0.5 / t)


@helper
def asinh64(x):
    a = fabs(x)
    big = a > 268435456.0
    s = select(big, 1.0, a)
    y = log1p_64(s + s * s / (1.0 + sqrt(s * s + 1.0)))
    return copysign(select(big, log64(a) + LN2_HI, y), x)


@helper
def acosh64(x):
    big = x > 268435456.0
    t = select(big, 1.0, x) - 1.0
    y = select(big, log64(x) + LN2_HI, log1p_64(t + sqrt(fma(t, t, 2.0 * t))))
    return select(x < 1.0, NAN, y)


@helper
def atanh64(x):
    a = fabs(x)
    t = a + a
    y = 0.5 * log1p_64(select(a < 0.5, t + t * a / (1.0 - a), t / (1.0 - a)))
    return copysign(y, x)


# ---- inverse trigonometric ------------------------------------------------------------------------------------------


@helper
def _atan_positive(t):
    """atan of t >= 0."""
    far, mid = t > 2.41421356237309504880, t > 0.66
    z = select(far, -1.0 / t, select(mid, (t - 1.0) / (t + 1.0), t))
    base = select(far, HALF_PI, select(mid, 0.5 * HALF_PI, 0.0))
    low = select(far, HALF_PI_LO, select(mid, 0.5 * HALF_PI_LO, 0.0))
    s = z * z
    p = fma(s, -8.750608600031904122785e-01, -1.615753718733365076637e01)
    p = fma(s, p, -7.500855792314704667340e01)
    p = fma(s, p, -1.228866684490136173410e02)
    p = fma(s, p, -6.485021904942025371773e01)
    q = s + 2.485846490142306297962e01
    q = fma(s, q, 1.650270098316988542046e02)
    q = fma(s, q, 4.328810604912902668951e02)
    q = fma(s, q, 4.853903996359136964868e02)
    q = fma(s, q, 1.945506571482613964425e02)
    return base + (fma(z, s * p / q, z) + low)


@helper
def atan64(x):
    return copysign(_atan_positive(fabs(x)), x)


@helper
def atan2_64(x, y):
    """The angle of the point (y, x): NumPy's arctan2(x, y)."""
    a, b = fabs(x), fabs(y)
    swap = a > b
    num, den = select(swap, b, a), select(swap, a, b)
    t = select(num == den, select(den == 0.0, 0.0, 1.0), num / den)
    r = _atan_positive(t)
    r = select(swap, HALF_PI - (r - HALF_PI_LO), r)
    r = select(bits(y) < 0, PI - (r - PI_LO), r)
    return select((x != x) | (y != y), x + y, copysign(r, x))


@helper
def _asin_ratio(t):
    """(asin(s) - s) / s with t = s*s, s <= 0.5 (fdlibm)."""
    p = fma(t, 3.47933107596021167570e-05, 7.91534994289814532176e-04)
    p = fma(t, p, -4.00555345006794114027e-02)
    p = fma(t, p, 2.01212532134862925881e-01)
    p = fma(t, p, -3.25565818622400915405e-01)
    p = t * fma(t, p, 1.66666666666666657415e-01)
    q = fma(t, 7.70381505559019352791e-02, -6.88283971605453293030e-01)
    q = fma(t, q, 2.02094576023350569471e00)
    q = fma(t, q, -2.40339491173441421878e00)
    return p / fma(t, q, 1.0)


@helper
def asin64(x):
    a = fabs(x)
    t = 0.5 * (1.0 - a)
    s = sqrt(t)
    low = fma(-s, s, t) / (s + s)  # what the rounded root lacks
    low = select(t == 0.0, 0.0, low)
    far = HALF_PI - (2.0 * s + (2.0 * fma(s, _asin_ratio(t), low) - HALF_PI_LO))
    return copysign(select(a < 0.5, fma(a, _asin_ratio(a * a), a), far), x)


@helper
def acos64(x):
    a = fabs(x)
    t = 0.5 * (1.0 - a)
    s = sqrt(t)
    low = select(t == 0.0, 0.0, fma(-s, s, t) / (s + s))
    tail = fma(s, _asin_ratio(t), low)
    far = select(x < 0.0, PI - (2.0 * s + (2.0 * tail - PI_LO)), 2.0 * s + 2.0 * tail)
    near = HALF_PI - (x - (HALF_PI_LO - x * _asin_ratio(x * x)))
    return select(a < 0.5, near, far)


# ---- power ----------------------------------------------------------------------------------------------------------


@helper
def _log_pair(x):
    """log of a positive finite x as an unevaluated sum, relative error about 2**-64."""
    k, m = _split(x)
    f = m - 1.0
    d = 2.0 + f
    d_low = f - (d - 2.0)
    s = f / d
    s_low = (fma(-s, d, f) - s * d_low) / d
    s2 = s * s
    s2_low = fma(s, s, -s2) + 2.0 * s * s_low
    q = fma(s2, 0.09090909090909091, 0.10526315789473684)
    q = fma(s2, q, 0.11764705882352941)
    q = fma(s2, q, 0.13333333333333333)
    q = fma(s2, q, 0.15384615384615385)
    q = fma(s2, q, 0.18181818181818182)
    q = fma(s2, q, 0.2222222222222222)
    q = fma(s2, q, 0.2857142857142857)
    q = s2 * fma(s2, q, 0.4)
    p = 0.6666666666666666 + q
    p_low = q - (p - 0.6666666666666666) + 3.700743415417188e-17
    c = s2 * s
    c_low = fma(s2, s, -c) + s2 * s_low + s2_low * s
    t = c * p
    t_low = fma(c, p, -t) + c * p_low + c_low * p
    h, e = two_sum(2.0 * s, t)
    low = e + (t_low + 2.0 * s_low)
    h, e = two_sum(k * LN2_HEAD, h)
    return h, low + e + k * LN2_TAIL


@helper
def pow_special(x, y, magnitude):
    """The sign and the special cases of x**y, given |x|**y for the others (C99 annex F)."""
    whole = trunc(y) == y
    odd = whole & (trunc(0.5 * y) != 0.5 * y)
    r = select(odd & (bits(x) < 0), -magnitude, magnitude)
    r = select((x < 0.0) & (x > -INF) & (not whole), NAN, r)
    r = select((fabs(x) == 1.0) & (fabs(y) == INF), 1.0, r)
    r = select((x != x) | (y != y), x + y, r)
    return select((x == 1.0) | (y == 0.0), 1.0, r)


@helper
def pow64(x, y):
    a = fabs(x)
    plain = (a > 0.0) & (a < INF)
    h, low = _log_pair(select(plain, a, 1.0))
    h = select(plain, h, select(a == 0.0, -INF, INF))
    p = y * h
    tail = fma(y, h, -p) + y * low
    return pow_special(x, y, exp_low(p, select(plain & (fabs(p) < 1000.0), tail, 0.0)))


# ---- error function -----------------------------------------------------------------------------------------------


@helper
def _erf_small(x):
    """(erf(x) - x) / x, |x| < 0.84375."""
    z = x * x
    r = fma(z, -2.37630166566501626084e-05, -5.77027029648944159157e-03)
    r = fma(z, r, -2.84817495755985104766e-02)
    r = fma(z, r, -3.25042107247001499370e-01)
    r = fma(z, r, 1.28379167095512558561e-01)
    s = fma(z, -3.96022827877536812320e-06, 1.32494738004321644526e-04)
    s = fma(z, s, 5.08130628187576562776e-03)
    s = fma(z, s, 6.50222499887672944485e-02)
    s = fma(z, s, 3.97917223959155352819e-01)
    return r / fma(z, s, 1.0)


@helper
def _erf_middle(a):
    """erf(a) - 0.845..., 0.84375 <= a < 1.25."""
    s = a - 1.0
    p = fma(s, -2.16637559486879084300e-03, 3.54783043256182359371e-02)
    p = fma(s, p, -1.10894694282396677476e-01)
    p = fma(s, p, 3.18346619901161753674e-01)
    p = fma(s, p, -3.72207876035701323847e-01)
    p = fma(s, p, 4.14856118683748331666e-01)
    p = fma(s, p, -2.36211856075265944077e-03)
    q = fma(s, 1.19844998467991074170e-02, 1.36370839120290507362e-02)
    q = fma(s, q, 1.26171219808761642112e-01)
    q = fma(s, q, 7.18286544141962662868e-02)
    q = fma(s, q, 5.40397917702171048937e-01)
    q = fma(s, q, 1.06420880400844228286e-01)
    return p / fma(s, q, 1.0)


@helper
def _erfc_far(a):
    """erfc(a) for a >= 1.25."""
    a = select(a > 28.0, 28.0, a)
    s = 1.0 / (a * a)
    r = fma(s, -9.81432934416914548592e00, -8.12874355063065934246e01)
    r = fma(s, r, -1.84605092906711035994e02)
    r = fma(s, r, -1.62396669462573470355e02)
    r = fma(s, r, -6.23753324503260060396e01)
    r = fma(s, r, -1.05586262253232909814e01)
    r = fma(s, r, -6.93858572707181764372e-01)
    r = fma(s, r, -9.86494403484714822705e-03)
    d = fma(s, -6.04244152148580987438e-02, 6.57024977031928170135e00)
    d = fma(s, d, 1.08635005541779435134e02)
    d = fma(s, d, 4.29008140027567833386e02)
    d = fma(s, d, 6.45387271733267880336e02)
    d = fma(s, d, 4.34565877475229228821e02)
    d = fma(s, d, 1.37657754143519042600e02)
    d = fma(s, d, 1.96512716674392571292e01)
    near = r / fma(s, d, 1.0)
    r = fma(s, -4.83519191608651397019e02, -1.02509513161107724954e03)
    r = fma(s, r, -6.37566443368389627722e02)
    r = fma(s, r, -1.60636384855821916062e02)
    r = fma(s, r, -1.77579549177547519889e01)
    r = fma(s, r, -7.99283237680523006574e-01)
    r = fma(s, r, -9.86494292470009928597e-03)
    d = fma(s, -2.24409524465858183362e01, 4.74528541206955367215e02)
    d = fma(s, d, 2.55305040643316442583e03)
    d = fma(s, d, 3.19985821950859553908e03)
    d = fma(s, d, 1.53672958608443695994e03)
    d = fma(s, d, 3.25792512996573918826e02)
    d = fma(s, d, 3.03380607434824582924e01)
    ratio = select(a < 2.857142857142857, near, r / fma(s, d, 1.0))
    square = a * a
    h = -square - 0.5625
    e, low = two_sum(h, ratio)
    return exp_low(e, low + (((-square - h) - 0.5625) - fma(a, a, -square))) / a


@helper
def erf64(x):
    a = fabs(x)
    near = fma(a, _erf_small(a), a)
    middle = 8.45062911510467529297e-01 + _erf_middle(a)
    y = select(a < 0.84375, near, select(a < 1.25, middle, 1.0 - _erfc_far(a)))
    return select(x != x, x, copysign(y, x))


@helper
def erfc64(x):
    a = fabs(x)
    near = select(x < 0.25, 1.0 - fma(x, _erf_small(x), x), 0.5 - (fma(x, _erf_small(x), x - 0.5)))
    m = _erf_middle(a)
    middle = select(x < 0.0, 1.0 + (8.45062911510467529297e-01 + m), (1.0 - 8.45062911510467529297e-01) - m)
    far = _erfc_far(a)
    y = select(a < 0.84375, near, select(a < 1.25, middle, select(x < 0.0, 2.0 - far, far)))
    return select(x != x, x, y)


ROOT_HALF, ROOT_HALF_LOW = 0.7071067811865476, -4.833646656726457e-17
CUBE, ROOT = 0.044715, 0.7978845608028654


@helper
def gelu64(x):
    t = x * -ROOT_HALF
    # erfc's slope times what rounding took from its argument; elsewhere than in the tail that is nothing.
    low = fma(x, -ROOT_HALF, -t) - x * ROOT_HALF_LOW
    y = erfc64(t)
    return (x * 0.5) * fma(select((t > 1.0) & (t < 40.0), -2.0 * t * low, 0.0), y, y)


@helper
def _gated(x, z):
    """x * sigmoid(z) for z of the sign of x; the exponential comes in halves, which are normal numbers."""
    h = exp64(-0.5 * fabs(z))
    a = fabs(x)
    small = (a * h) * h / fma(h, h, 1.0)
    gone = a == INF
    return select(x > 0.0, select(gone, x, x - small), select(gone, NAN, x * 0.0 - small))


@helper
def gelu_tanh64(x):
    return _gated(x, (2.0 * ROOT) * (x * fma(CUBE * x, x, 1.0)))


@helper
def silu64(x):
    return _gated(x, x)


@helper
def rsqrt64(x):
    return 1.0 / sqrt(x)
