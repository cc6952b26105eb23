"""Sine, cosine and tangent over the whole range, in float64 and for float32.

Owns the argument reductions, including that of huge arguments, and their tables. Must not depend on fast-math.
"""

from __future__ import annotations

import numpy as np

from .intrinsics import bits, fabs, fma, from_bits, iand, ior, raw_lshr, select, table
from .mathlib64 import MAGIC, MAGIC_BITS, two_sum
from .registry import helper

P1, P2, P3 = 1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33  # pi/2 = P1 + P2 + P3
TWO_OVER_PI = 0.6366197723675814
_BITS = 1400
_FIRST, _LAST = -32, 971  # exponents e of x = m * 2**e with 2**52 <= |m| < 2**53, for 2**20 <= |x|


def _pi_scaled(precision: int) -> int:
    """pi * 2**precision, by Machin's formula."""

    def arctan_inverse(n: int) -> int:
        term = (1 << (precision + 16)) // n
        total, k, sign = term, 3, -1
        while term:
            term //= n * n
            total += sign * (term // k)
            k, sign = k + 2, -sign
        return total

    return (4 * (4 * arctan_inverse(5) - arctan_inverse(239))) >> 16


def _tables() -> tuple[list[float], list[float], list[float]]:
    """2**e modulo 2*pi, nearest zero, as unevaluated sums of three doubles, for each exponent."""
    period = 2 * _pi_scaled(_BITS)
    parts: tuple[list[float], list[float], list[float]] = ([], [], [])
    for e in range(_FIRST, _LAST + 1):
        rest = 1 << (_BITS + e)
        rest %= period
        if 2 * rest > period:
            rest -= period
        for part in parts:
            value = rest / (1 << _BITS)
            part.append(value)
            num, den = value.as_integer_ratio()
            rest -= (num << _BITS) // den
    return parts


_C1, _C2, _C3 = _tables()
_c1, _c2, _c3 = table("two_pi_1", _C1), table("two_pi_2", _C2), table("two_pi_3", _C3)


@helper
def _nearest(t):
    """t rounded to an integer, as a double and as an int64."""
    shifted = t + MAGIC
    return shifted - MAGIC, bits(shifted) - MAGIC_BITS


@helper
def _reduce_pair(x, low):
    """quadrant, r, r_low with x + low = quadrant * pi/2 + r + r_low, |r| <= pi/4, for |x| < 2**24 or so."""
    kf, k = _nearest(x * TWO_OVER_PI)
    p = kf * P1
    p_low = fma(kf, P1, -p)
    h, e = two_sum(x - p, -p_low)
    w = kf * P2
    h, e2 = two_sum(h, -w)
    tail = e + e2 - fma(kf, P2, -w) - kf * P3 + low
    r = h + tail
    return k, r, (h - r) + tail


@helper
def _add(h, low, term):
    s, e = two_sum(h, term)
    return s, low + e


@helper
def _reduce_huge(x):
    """As _reduce_pair, for finite |x| >= 2**20: the product of the mantissa with 2**e mod 2*pi, in pieces."""
    pattern = bits(x)
    e = ((pattern >> 52) & 0x7FF) - 1023 - 52
    m = from_bits((pattern & 0x000FFFFFFFFFFFFF) | (((pattern >> 63) & 1) << 63) | ((1023 + 52) << 52))
    c1, c2, c3 = _c1(e + 32), _c2(e + 32), _c3(e + 32)
    p = m * c1
    kf = p * TWO_OVER_PI
    if fabs(kf) < 2251799813685248.0:
        kf = (kf + MAGIC) - MAGIC
    else:
        kf = 4.0 * ((0.25 * kf + MAGIC) - MAGIC)
    k = int(kf) & 3
    a = kf * P1
    h, low = two_sum(p, -a)
    h, low = _add(h, low, fma(m, c1, -p))
    h, low = _add(h, low, -fma(kf, P1, -a))
    q = m * c2
    b = kf * P2
    h, low = _add(h, low, q)
    h, low = _add(h, low, -b)
    low += fma(m, c2, -q) - fma(kf, P2, -b) + (m * c3 - kf * P3)
    k2, r, r_low = _reduce_pair(h, low)
    return k + k2, r, r_low


@helper
def _reduce(x):
    if fabs(x) < 1048576.0:
        return _reduce_pair(x, 0.0)
    if fabs(x) < 1.7976931348623157e308 or fabs(x) == 1.7976931348623157e308:
        return _reduce_huge(x)
    return _reduce_pair(x - x, 0.0)


@helper
def _sin_kernel(r, low):
    z = r * r
    p = fma(z, 1.58969099521155010221e-10, -2.50507602534068634195e-08)
    p = fma(z, p, 2.75573137070700676789e-06)
    p = fma(z, p, -1.98412698298579493134e-04)
    p = fma(z, p, 8.33333333332248946124e-03)
    v = z * r
    return r - ((z * (0.5 * low - v * p) - low) - v * -1.66666666666666324348e-01)


@helper
def _cos_kernel(r, low):
    z = r * r
    p = fma(z, -1.13596475577881948265e-11, 2.08757232129817482790e-09)
    p = fma(z, p, -2.75573143513906633035e-07)
    p = fma(z, p, 2.48015872894767294178e-05)
    p = fma(z, p, -1.38888888888741095749e-03)
    p = z * fma(z, p, 4.16666666666666019037e-02)
    half = 0.5 * z
    w = 1.0 - half
    return w + (((1.0 - w) - half) + (z * p - r * low))


@helper
def sin64(x):
    k, r, low = _reduce(x)
    s, c = _sin_kernel(r, low), _cos_kernel(r, low)
    y = select((k & 1) == 0, s, c)
    y = select((k & 2) == 0, y, -y)
    return select(fabs(x) < 1e-9, x, y)  # keeps -0 and subnormals


@helper
def cos64(x):
    k, r, low = _reduce(x)
    s, c = _sin_kernel(r, low), _cos_kernel(r, low)
    y = select((k & 1) == 0, c, s)
    return select(((k + 1) & 2) == 0, y, -y)


@helper
def tan64(x):
    k, r, low = _reduce(x)
    s, c = _sin_kernel(r, low), _cos_kernel(r, low)
    odd = (k & 1) != 0
    y = select(odd, -c, s) / select(odd, s, c)
    return select(fabs(x) < 1e-9, x, y)


# ---- float32: one way for all arguments, without a branch, so that loops around it vectorise ------------------------
# x = m * 2**e with an integer m < 2**24, and what matters of 2**e * 2/pi, itself modulo 4, fits two doubles.


def _quadrants() -> tuple[list[float], list[float]]:
    """2**e * 2/pi modulo 4, as sums of two doubles, for the exponent field of each float32; none for infinity."""
    two_over_pi = (2 << (2 * _BITS)) // _pi_scaled(_BITS)
    high, low = [], []
    for field in range(255):
        rest = ((two_over_pi << 150) >> (300 - field)) % (4 << _BITS)
        high.append(rest / (1 << _BITS))
        num, den = high[-1].as_integer_ratio()
        low.append((rest - (num << _BITS) // den) / (1 << _BITS))
    return [*high, float("nan")], [*low, float("nan")]


_Q1, _Q2 = _quadrants()
_q1, _q2 = table("quadrants_1", _Q1), table("quadrants_2", _Q2)
_EXPONENT, _MANTISSA, _WHOLE = np.int32(23), np.int32(0x007FFFFF), np.int32(0x4B000000)
_TINY32 = np.float32(1e-5)


@helper
def _reduce32(x):
    """Bits whose lowest two are the quadrant of |x|, and f in [-1/2, 1/2] with |x| = (quadrant + f) * pi/2."""
    pattern = bits(fabs(x))
    at = np.int64(raw_lshr(pattern, _EXPONENT))
    m = np.float64(from_bits(ior(iand(pattern, _MANTISSA), _WHOLE)))
    high = _q1(at)
    p = m * high
    shifted = p + MAGIC
    f = fma(m, _q2(at), (p - (shifted - MAGIC)) + fma(m, high, -p))
    return bits(shifted), f


@helper
def _sin_of_quadrant(f):
    """sin(f * pi/2) for |f| <= 1/2, with a relative error of 2**-37."""
    z = f * f
    p = fma(z, 0.00015819507224579255, -0.004681260626465317)
    p = fma(z, p, 0.07969258184268864)
    p = fma(z, p, -0.6459640961024031)
    return fma(z, p, 1.5707963267877496) * f


@helper
def _cos_of_quadrant(f):
    z = f * f
    p = fma(z, 0.0009033629789305664, -0.020859936029086423)
    p = fma(z, p, 0.2536691825961754)
    p = fma(z, p, -1.2337005395647618)
    return fma(z, p, 0.9999999999439368)


@helper
def _turned(y, k):
    """-y where bit 1 of ``k`` is set."""
    return from_bits(bits(y) ^ ((k & 2) << 62))


@helper
def sin32(x):
    k, f = _reduce32(x)
    y = select((k & 1) == 0, _sin_of_quadrant(f), _cos_of_quadrant(f))
    y = np.float32(_turned(y, k ^ select(x < np.float32(0), 2, 0)))
    return select(fabs(x) < _TINY32, x, y)  # keeps -0 and subnormals


@helper
def cos32(x):
    k, f = _reduce32(x)
    y = select((k & 1) == 0, _cos_of_quadrant(f), _sin_of_quadrant(f))
    return np.float32(_turned(y, k + 1))


@helper
def tan32(x):
    k, f = _reduce32(x)
    s, c = _sin_of_quadrant(f), _cos_of_quadrant(f)
    odd = (k & 1) != 0
    y = select(odd, -c, s) / select(odd, s, c)
    y = np.float32(select(x < np.float32(0), -y, y))
    return select(fabs(x) < _TINY32, x, y)
