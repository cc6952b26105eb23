"""Arithmetic of single instructions on arrays of lanes, bit patterns in and out.

Owns rounding, saturation, comparison and conversion, after the PTX ISA. Must not know registers, memory or threads.
Approximate instructions come out as far from the truth as the ISA allows: a kernel that needs more shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .parse import PtxError

Array = Any

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
NUMPY: dict[str, Any] = {
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "s8": np.int8, "s16": np.int16,
    "s32": np.int32, "s64": np.int64, "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64,
    "f16": np.float16, "f32": np.float32, "f64": np.float64, "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32,
}  # fmt: skip
ROUNDINGS = ("rn", "rz", "rm", "rp")


# -- rounding ---------------------------------------------------------------------------------------------------------
def odd(total: Array, error: Array) -> Array:
    """float64 ``total`` whose exact value is total + error, rounded to odd: rounding it again is then correct."""
    bits = np.ascontiguousarray(total).view(np.int64)
    fix = (error != 0) & np.isfinite(total) & ((bits & 1) == 0)
    if np.any(fix):
        away = (error > 0) == (total > 0)
        zero = total == 0
        moved = np.where(away, bits + 1, bits - 1).view(np.float64)
        total = np.where(fix & ~zero, moved, np.where(fix & zero, np.copysign(5e-324, error), total))
    return total


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b and its rounding error, exactly (Knuth)."""
    s = a + b
    t = s - a
    return s, np.where(np.isfinite(s), (a - (s - t)) + (b - t), 0.0)


def to_f32(exact: Array, mode: str) -> Array:
    """A float64 (exact, or rounded to odd) as float32 in a rounding mode."""
    f = np.asarray(exact).astype(np.float32)
    if mode in ("rn", ""):
        return f
    back = f.astype(np.float64)
    if mode == "rz":
        f = np.where(np.abs(back) > np.abs(exact), np.nextafter(f, np.float32(0)), f)
        return np.where(np.isinf(f) & np.isfinite(exact), np.copysign(np.finfo(np.float32).max, f), f)
    if mode == "rm":
        return np.where(back > exact, np.nextafter(f, np.float32(-np.inf)), f)
    if mode == "rp":
        return np.where(back < exact, np.nextafter(f, np.float32(np.inf)), f)
    raise PtxError(f"rounding .{mode}")


def flush(x: Array) -> Array:
    """Subnormal float32 as zero of the same sign (.ftz)."""
    return np.where(np.abs(x) < np.float32(1.1754943508222875e-38), np.copysign(np.float32(0), x), x)


def saturate(x: Array) -> Array:
    """Into [0, 1]; NaN becomes +0 (.sat of floats)."""
    return np.where(np.isnan(x), 0, np.clip(x, 0, 1)).astype(x.dtype)


def bf16_to_f32(bits: Array) -> Array:
    """bf16 patterns as float32."""
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(x: Array, mode: str = "rn") -> Array:
    """float32 as bf16 patterns."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    if mode == "rn":
        out = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    elif mode == "rz":
        out = bits >> np.uint32(16)
    else:
        raise PtxError(f"bf16 rounding .{mode}")
    return np.where(np.isnan(x), np.uint32(0x7FFF), out).astype(np.uint16)


# -- floats -----------------------------------------------------------------------------------------------------------
def fma(a: Array, b: Array, c: Array, type_: str, mode: str) -> Array:
    """a * b + c with one rounding; f64 within an ulp."""
    if type_ == "f32":
        s, e = two_sum(np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64))
        return to_f32(odd(s, e), mode)
    p = a * b
    split = np.float64(134217729.0)

    def halves(v: Array) -> tuple[Array, Array]:
        t = split * v
        high = t - (t - v)
        return high, v - high

    (ah, al), (bh, bl) = halves(a), halves(b)
    low = ((ah * bh - p) + ah * bl + al * bh) + al * bl
    s, e = two_sum(p, c)
    better = s + (e + low)
    return np.where(np.isfinite(better), better, s)


def binary_float(op: str, a: Array, b: Array, type_: str, mode: str) -> Array:
    """add, sub, mul, div of f32 or f64."""
    if mode in ("rn", "", "full", "approx"):
        if op == "add":
            return a + b
        if op == "sub":
            return a - b
        return a * b if op == "mul" else a / b
    if type_ != "f32":
        raise PtxError(f"{op}.{mode}.{type_}")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if op == "mul":
        return to_f32(x * y, mode)
    if op in ("add", "sub"):
        s, e = two_sum(x, y if op == "add" else -y)
        return to_f32(odd(s, e), mode)
    q = x / y  # the remainder of the rounded quotient says on which side the true one lies; f32 by f32 leaves room
    r = x - q * y
    return to_f32(odd(q, np.where(np.isfinite(q), r * np.sign(y), 0.0)), mode)


def _noise(bits: Array) -> Array:
    """Numbers in [-1, 1] that depend on the bits alone."""
    h = bits.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((h >> np.uint64(40)).astype(np.float64) / (1 << 23)) - 1.0


# Greatest errors after the PTX ISA, relative to the result unless the second entry says absolute.
_APPROX: dict[str, tuple[Callable[[Array], Array], float, bool]] = {
    "rcp": (lambda x: 1.0 / x, 2.0**-23, False),
    "sqrt": (np.sqrt, 2.0**-23, False),
    "rsqrt": (lambda x: 1.0 / np.sqrt(x), 2.0**-22.9, False),
    "ex2": (np.exp2, 2.0**-22.5, False),
    "lg2": (np.log2, 2.0**-22.6, True),
    "sin": (np.sin, 2.0**-20.5, True),
    "cos": (np.cos, 2.0**-20.5, True),
    "tanh": (np.tanh, 2.0**-11, False),
}


def approximate(op: str, x: Array, ftz: bool) -> Array:
    """An .approx instruction of f32."""
    if op not in _APPROX:
        raise PtxError(f"{op}.approx")
    function, error, absolute = _APPROX[op]
    x = flush(x) if ftz else x
    true = function(x.astype(np.float64))
    noise = error * _noise(np.ascontiguousarray(x).view(np.uint32))
    out = (true + noise if absolute else true * (1 + noise)).astype(np.float32)
    out = np.clip(out, -1, 1) if op in ("sin", "cos", "tanh") else out
    exact = np.isinf(true) | (true == 0) | np.isnan(true) | np.isinf(x)
    out = np.where(exact, true.astype(np.float32), out)
    return flush(out) if ftz else out


def divide_approx(a: Array, b: Array, ftz: bool) -> Array:
    """div.approx and div.full: 2 ulp; a divisor above 2^126 may give 0."""
    if ftz:
        a, b = flush(a), flush(b)
    true = a.astype(np.float64) / b.astype(np.float64)
    noise = 2.0**-22 * _noise(np.ascontiguousarray(a).view(np.uint32) ^ np.ascontiguousarray(b).view(np.uint32))
    out = np.where(np.isfinite(true) & (true != 0), true * (1 + noise), true).astype(np.float32)
    return flush(out) if ftz else out


def unary_float(op: str, x: Array, mode: str, ftz: bool) -> Array:
    """rcp, sqrt with a rounding mode."""
    if op == "sqrt" and mode == "rn":
        return np.sqrt(x)
    if op == "rcp" and mode == "rn":
        return np.asarray(1, x.dtype) / x
    raise PtxError(f"{op}.{mode}")


def pick(op: str, a: Array, b: Array, nan: bool) -> Array:
    """min or max of floats: the other operand where one is NaN, unless .NaN; -0 is less than +0."""
    low = op == "min"
    out = np.fmin(a, b) if low else np.fmax(a, b)
    zeros = (a == 0) & (b == 0)
    if np.any(zeros):
        sign = np.signbit(a) | np.signbit(b) if low else np.signbit(a) & np.signbit(b)
        out = np.where(zeros, np.where(sign, np.asarray(-0.0, out.dtype), np.asarray(0.0, out.dtype)), out)
    return np.where(np.isnan(a) | np.isnan(b), np.asarray(np.nan, out.dtype), out) if nan else out


_ORDERED = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
            "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
            "hs": np.greater_equal}  # fmt: skip


def compare(op: str, a: Array, b: Array, floats: bool) -> Array:
    """setp's comparison: ordered ones are false for NaN (``ne`` too), those with u are true."""
    if not floats:
        if op not in _ORDERED:
            raise PtxError(f"comparison .{op}")
        return _ORDERED[op](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if op == "num":
        return ~unordered
    if op == "nan":
        return unordered
    if op in ("eq", "ne", "lt", "le", "gt", "ge"):
        return _ORDERED[op](a, b) & ~unordered
    if op in ("equ", "neu", "ltu", "leu", "gtu", "geu"):
        return _ORDERED[op[:2]](a, b) | unordered
    raise PtxError(f"comparison .{op} of floats")


# -- integers ---------------------------------------------------------------------------------------------------------
def high(a: Array, b: Array) -> Array:
    """The upper half of the full product of two arrays of one integer type."""
    type_ = a.dtype if isinstance(a, np.ndarray) else np.asarray(a).dtype
    size = type_.itemsize
    a, b = np.broadcast_arrays(np.asarray(a), np.asarray(b))
    if size < 8:
        wide = np.int64 if type_.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(8 * size)).astype(type_)
    x, y = a.view(np.uint64), b.view(np.uint64)
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x0, x1, y0, y1 = x & mask, x >> shift, y & mask, y >> shift
    middle = x1 * y0 + ((x0 * y0) >> shift)
    rest = x0 * y1 + (middle & mask)
    top = x1 * y1 + (middle >> shift) + (rest >> shift)
    if type_.kind == "i":
        top = top - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
        return top.view(np.int64)
    return top


def quotient(a: Array, b: Array) -> Array:
    """C division; a zero divisor gives all ones, as machines do."""
    a, b = np.broadcast_arrays(a, b)
    safe = np.where(b == 0, np.asarray(1, b.dtype), b)
    if a.dtype.kind == "u":
        return np.where(b == 0, ~np.asarray(0, a.dtype), a // safe)
    lowest = (a == np.iinfo(a.dtype).min) & (safe == -1)
    safe = np.where(lowest, np.asarray(1, b.dtype), safe)  # the quotient does not fit: machines wrap
    q = a // safe
    q = q + ((q * safe != a) & ((a < 0) != (safe < 0))).astype(a.dtype)  # NumPy rounds down, C towards zero
    return np.where(b == 0, np.asarray(-1, a.dtype), q)


def remainder(a: Array, b: Array) -> Array:
    """a - quotient * b."""
    a, b = np.broadcast_arrays(a, b)
    return np.where(b == 0, a, a - quotient(a, b) * b)


def shift(op: str, a: Array, count: Array) -> Array:
    """shl, shr; counts past the width give 0, or the sign for signed shr."""
    bits = a.dtype.itemsize * 8
    count = np.asarray(count, np.uint32)
    big = count >= bits
    small = np.where(big, np.uint32(0), count).astype(a.dtype)
    if op == "shl":
        return np.where(big, np.asarray(0, a.dtype), a << small)
    fill = a >> np.asarray(bits - 1, a.dtype) if a.dtype.kind == "i" else np.asarray(0, a.dtype)
    return np.where(big, fill, a >> small)


def funnel(direction: str, mode: str, low: Array, top: Array, count: Array) -> Array:
    """shf: a shift of the 64 bits top:low."""
    count = np.asarray(count, np.uint64)
    count = count & np.uint64(31) if mode == "wrap" else np.minimum(count, np.uint64(32))
    both = (np.asarray(top).astype(np.uint64) << np.uint64(32)) | np.asarray(low).astype(np.uint64)
    if direction == "r":
        return (both >> count).astype(np.uint32)
    return ((both << count) >> np.uint64(32)).astype(np.uint32)


def leading_zeros(a: Array) -> Array:
    """clz."""
    bits = a.dtype.itemsize * 8
    out = np.full(a.shape, bits, np.uint32)
    for i in range(bits):
        out = np.where((a >> np.asarray(i, a.dtype)) & np.asarray(1, a.dtype) != 0, np.uint32(bits - 1 - i), out)
    return out


def reverse_bits(a: Array) -> Array:
    """brev."""
    out, one = np.zeros_like(a), np.asarray(1, a.dtype)
    for i in range(a.dtype.itemsize * 8):
        out = (out << one) | ((a >> np.asarray(i, a.dtype)) & one)
    return out


def extract(a: Array, at: Array, length: Array) -> Array:
    """bfe: ``length`` bits from ``at`` on, sign-extended for signed types."""
    bits = a.dtype.itemsize * 8
    at, length = (np.asarray(v, np.int64) & 255 for v in (at, length))
    u = np.ascontiguousarray(a).view(UNSIGNED[a.dtype.itemsize])
    end = np.minimum(at + length - 1, bits - 1)
    mask = np.where(
        length >= 64, ~np.uint64(0), (np.uint64(1) << np.minimum(length, 63).astype(np.uint64)) - np.uint64(1)
    )
    out = np.where(at >= 64, np.uint64(0), (u.astype(np.uint64) >> np.minimum(at, 63).astype(np.uint64))) & mask
    if a.dtype.kind == "i":
        sign = (u.astype(np.uint64) >> end.astype(np.uint64)) & np.uint64(1)
        out = np.where((sign == 1) & (length > 0), out | ~mask, out)
        beyond = at + length > bits
        kept = np.maximum(bits - at, 0)
        low = np.where(
            kept >= 64, ~np.uint64(0), (np.uint64(1) << np.minimum(kept, 63).astype(np.uint64)) - np.uint64(1)
        )
        out = np.where(beyond & (sign == 1) & (length > 0), out | ~low, out)
    return out.astype(u.dtype).view(a.dtype)


def insert(a: Array, b: Array, at: Array, length: Array) -> Array:
    """bfi: the low ``length`` bits of a at bit ``at`` of b."""
    at, length = (np.asarray(v, np.int64) & 255 for v in (at, length))
    full = np.where(
        length >= 64, ~np.uint64(0), (np.uint64(1) << np.minimum(length, 63).astype(np.uint64)) - np.uint64(1)
    )
    place = np.minimum(at, 63).astype(np.uint64)
    mask = np.where(at >= 64, np.uint64(0), full << place)
    return ((np.asarray(b).astype(np.uint64) & ~mask) | ((np.asarray(a).astype(np.uint64) << place) & mask)).astype(
        np.asarray(b).dtype
    )


def permute(a: Array, b: Array, selector: Array) -> Array:
    """prmt, default mode: four bytes chosen from b:a, or their signs."""
    both = np.asarray(a).astype(np.uint64) | (np.asarray(b).astype(np.uint64) << np.uint64(32))
    out: Array = np.uint32(0)
    for i in range(4):
        code = (np.asarray(selector).astype(np.uint64) >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> ((code & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        byte = np.where(
            code & np.uint64(8) != 0, np.where(byte & np.uint64(128) != 0, np.uint64(255), np.uint64(0)), byte
        )
        out = out | (byte << np.uint64(8 * i)).astype(np.uint32)
    return out


def logic3(a: Array, b: Array, c: Array, table: int) -> Array:
    """lop3: any function of three bits."""
    out: Array = np.zeros(np.broadcast(a, b, c).shape, np.asarray(a).dtype)
    for i in range(8):
        if table >> i & 1:
            out = out | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return out


# -- conversion -------------------------------------------------------------------------------------------------------
_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(x: Array, to: str, source: str, mode: str, ftz: bool, sat: bool) -> Array:
    """cvt between two scalar types; ``x`` has the source's NumPy type (bf16: patterns)."""
    if source == "bf16":
        x, source = bf16_to_f32(x), "f32"
    from_float, to_float = source[0] == "f", to in ("f16", "f32", "f64", "bf16", "tf32")
    if from_float and ftz and source == "f32":
        x = flush(x)
    if from_float and to_float:
        if mode in _TO_INTEGER:
            x = _TO_INTEGER[mode](x)
            mode = "rn"
        return _float_to_float(x, to, mode, ftz, sat)
    if from_float:
        if mode not in _TO_INTEGER:
            raise PtxError(f"cvt.{mode}.{to}.{source}")
        limits = np.iinfo(NUMPY[to])
        whole = _TO_INTEGER[mode](x.astype(np.float64))
        top, bottom = float(limits.max), float(limits.min)
        inside = np.where(np.isnan(whole) | (whole >= top) | (whole <= bottom), 0.0, whole).astype(NUMPY[to])
        out = np.where(whole >= top, NUMPY[to](limits.max), np.where(whole <= bottom, NUMPY[to](limits.min), inside))
        return np.where(np.isnan(whole), NUMPY[to](0), out)
    if to_float:
        out = _integer_to_float(x, to, mode)
        return saturate(out) if sat else out
    if sat:
        limits = np.iinfo(NUMPY[to])
        low = max(limits.min, int(np.iinfo(x.dtype).min))
        top_int = min(limits.max, int(np.iinfo(x.dtype).max))
        x = np.clip(x, x.dtype.type(low), x.dtype.type(top_int))
    return x.astype(NUMPY[to])


def _integer_to_float(x: Array, to: str, mode: str) -> Array:
    if mode not in ROUNDINGS:
        raise PtxError(f"cvt.{mode or '(no rounding)'} from an integer")
    if to == "f64" or mode == "rn" and to in ("f32", "f16"):
        return x.astype(NUMPY[to])
    if x.dtype.itemsize == 8 or to != "f32":
        raise PtxError(f"cvt.{mode}.{to} from a 64-bit integer")
    return to_f32(x.astype(np.float64), mode)


def _float_to_float(x: Array, to: str, mode: str, ftz: bool, sat: bool) -> Array:
    if to == "bf16":
        return f32_to_bf16(x, mode)
    if to == "tf32":
        if mode != "rna":
            raise PtxError(f"cvt.{mode}.tf32")
        bits = np.ascontiguousarray(x).view(np.uint32)
        return np.where(np.isfinite(x), (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000), bits).view(np.float32)
    if to == "f32" and x.dtype == np.float64:
        out = to_f32(x, mode)
    elif to == "f16" and mode not in ("rn", ""):
        raise PtxError(f"cvt.{mode}.f16")
    else:
        out = x.astype(NUMPY[to])
    if sat:
        out = saturate(out)
    return flush(out) if ftz and to == "f32" else out
