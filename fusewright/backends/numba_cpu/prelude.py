"""The base vocabulary of kernel text: pointers, casts, integer semantics, half floats, rounding.

Owns NumPy's integer and conversion rules as jitted scalars; transcendentals are in mathlib.
Must not know about ops or graphs.

Rules for kernel text: write every literal with its type (``f32(0.5)``, ``i32(3)``) and cast every integer result to its
dtype (``i32(a + b)``): Numba widens narrow integers to int64 where NumPy wraps, and the unjitted lane wraps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from . import intrinsics as low
from . import twins
from .registry import by_type, helper, register

F32, F64 = types.float32, types.float64
INTS: dict[types.Type, Any] = {
    types.int8: np.int8, types.int16: np.int16, types.int32: np.int32, types.int64: np.int64,
    types.uint8: np.uint8, types.uint16: np.uint16, types.uint32: np.uint32, types.uint64: np.uint64,
}  # fmt: skip
_NAMES = {"i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "u8": "uint8", "u16": "uint16",
          "u32": "uint32", "u64": "uint64"}  # fmt: skip

# ---- pointers: bool is carried as uint8, f16 and bf16 as uint16 bit patterns ---------------------------------------

_POINTERS = {"pf32": "float32", "pf64": "float64", "pbool": "uint8", "pf16": "uint16", "pbf16": "uint16"}
_POINTERS.update({f"p{short}": full for short, full in _NAMES.items()})
for _name, _full in _POINTERS.items():
    register(_name, low.pointer_maker(getattr(types, _full)), twins.pointer_twin(_full))

# ---- casts ---------------------------------------------------------------------------------------------------------

_LOW64, _TWO63 = np.int64(-(2**63)), np.float64(2.0**63)
_LOW32, _TWO31 = np.int32(-(2**31)), np.float64(2.0**31)


@helper
def _f_to_i64(x):
    x = np.float64(x)
    return low.select((x >= -_TWO63) & (x < _TWO63), low.fptosi64(x), _LOW64)


@helper
def _f_to_i32(x):
    x = np.float64(x)
    return low.select((x > -_TWO31 - np.float64(1.0)) & (x < _TWO31), low.fptosi32(x), _LOW32)


@helper
def _f_to_u64(x):
    x = np.float64(x)
    big = x >= _TWO63
    y = low.select(big, x - _TWO63, x)
    return np.uint64(low.select(big, low.ixor(_f_to_i64(y), _LOW64), _f_to_i64(x)))


def _int_cast(name: str, make: Any) -> Any:
    wide = name in ("int64", "uint32")

    @helper
    def from_int(x):
        return make(x)

    if name == "uint64":
        return by_type(name, 1, lambda x: _f_to_u64 if x in (F32, F64) else from_int)
    narrow = _f_to_i64 if wide else _f_to_i32

    @helper
    def from_float(x):
        return make(narrow(x))

    return by_type(name, 1, lambda x: from_float if x in (F32, F64) else from_int)


for _name, _full in _NAMES.items():
    register(_name, _int_cast(_full, getattr(np, _full)), twins.cast_twin(_full))


@helper
def _to_bool(x):
    return x != 0


register("f32", np.float32, np.float32)
register("f64", np.float64, np.float64)
register("bool_", _to_bool, lambda x: bool(x != 0))

# ---- plain intrinsics ----------------------------------------------------------------------------------------------

for _name in ("floor", "ceil", "trunc", "rint", "fabs", "copysign", "fma", "sqrt", "bits", "from_bits", "select"):
    register(_name, getattr(low, _name), twins.SCALARS[_name])


# ---- minimum, maximum, sign, abs, tests ----------------------------------------------------------------------------


@helper
def _max_int(x, y):
    return low.select(x > y, x, y)


@helper
def _min_int(x, y):
    return low.select(x < y, x, y)


@helper
def _max_float(x, y):
    return low.fmax_nan(x, y)


@helper
def _min_float(x, y):
    return low.fmin_nan(x, y)


def _pair(for_float: Any, for_int: Any) -> Callable[[Any, Any], Any]:
    def pick(x: Any, y: Any) -> Any:
        if x != y:
            return None
        return for_float if x in (F32, F64) else for_int if x in INTS else None

    return pick


maximum = by_type("maximum", 2, _pair(_max_float, _max_int))
minimum = by_type("minimum", 2, _pair(_min_float, _min_int))


def _per_int(make: Callable[[Any, bool], Any]) -> dict[types.Type, Any]:
    """One jitted implementation per integer type: ``make(numpy type, signed)``."""
    return {ty: make(kind, ty.signed) for ty, kind in INTS.items()}


def _make_abs(kind: Any, signed: bool) -> Any:
    zero = kind(0)

    @helper
    def run(x):
        return low.select(x < zero, low.isub(zero, x), x)

    return run


def _make_sign(kind: Any, signed: bool) -> Any:
    zero, one, minus = kind(0), kind(1), kind(-1 if signed else 0)

    @helper
    def run(x):
        return low.select(x > zero, one, low.select(x < zero, minus, zero))

    return run


def _make_sign_float(kind: Any) -> Any:
    one, minus, zero = kind(1), kind(-1), kind(0)

    @helper
    def run(x):
        # No copysign: rounded to half afterwards, LLVM would give it the sign of a double and call a library for that.
        return low.select(x > zero, one, low.select(x < zero, minus, x))

    return run


def _make_relu(kind: Any) -> Any:
    zero = kind(0)

    @helper
    def run(x):
        return low.select(x < zero, zero, x)  # NaN compares false and passes through

    return run


_FLOATS = {F32: np.float32, F64: np.float64}
_ABS = _per_int(_make_abs) | {F32: low.fabs, F64: low.fabs}
_SIGN = _per_int(_make_sign) | {ty: _make_sign_float(kind) for ty, kind in _FLOATS.items()}
_RELU = {ty: _make_relu(kind) for ty, kind in (INTS | _FLOATS).items()}


@helper
def _isnan(x):
    return x != x


@helper
def _isinf(x):
    return low.fabs(x) == np.float32(np.inf)


@helper
def _isfinite(x):
    return low.fabs(x) < np.float32(np.inf)


register("maximum", maximum, twins.SCALARS["maximum"])
register("minimum", minimum, twins.SCALARS["minimum"])
register("absolute", by_type("absolute", 1, _ABS.get), twins.SCALARS["absolute"])
register("sign", by_type("sign", 1, _SIGN.get), twins.SCALARS["sign"])
register("relu", by_type("relu", 1, _RELU.get), twins.SCALARS["relu"])
for _name, _fn in (("isnan", _isnan), ("isinf", _isinf), ("isfinite", _isfinite)):
    register(_name, _fn, twins.SCALARS[_name])


# ---- integer division with NumPy's rules: by zero gives 0, INT_MIN / -1 wraps --------------------------------------


def _make_truncdiv(kind: Any, signed: bool) -> Any:
    zero, one, minus = kind(0), kind(1), kind(-1 if signed else 0)
    if not signed:

        @helper
        def unsigned(x, y):
            return low.select(y == zero, zero, low.raw_udiv(x, low.select(y == zero, one, y)))

        return unsigned

    @helper
    def run(x, y):
        safe = low.select((y == zero) | (y == minus), one, y)
        return low.select(y == zero, zero, low.select(y == minus, low.isub(zero, x), low.raw_sdiv(x, safe)))

    return run


_TRUNCDIV = _per_int(_make_truncdiv)


def _make_rem(kind: Any, signed: bool) -> Any:
    zero, divide = kind(0), _TRUNCDIV[_numba_type(kind)]

    @helper
    def run(x, y):
        return low.select(y == zero, zero, low.isub(x, low.imul(divide(x, y), y)))

    return run


def _make_floordiv(kind: Any, signed: bool) -> Any:
    zero, one, divide = kind(0), kind(1), _TRUNCDIV[_numba_type(kind)]
    if not signed:
        return divide

    @helper
    def run(x, y):
        q = divide(x, y)
        r = low.isub(x, low.imul(q, y))
        off = (r != zero) & (low.ixor(r, y) < zero) & (y != zero)
        return low.select(off, low.isub(q, one), q)

    return run


def _make_mod(kind: Any, signed: bool) -> Any:
    zero, divide = kind(0), _TRUNCDIV[_numba_type(kind)]

    @helper
    def run(x, y):
        r = low.isub(x, low.imul(divide(x, y), y))
        off = (r != zero) & (low.ixor(r, y) < zero)
        return low.select(y == zero, zero, low.select(off, low.iadd(r, y), r))

    return run


def _numba_type(kind: Any) -> types.Type:
    return next(ty for ty, k in INTS.items() if k is kind)


def _make_shift_left(kind: Any, signed: bool) -> Any:
    zero, width = kind(0), kind(8 * np.dtype(kind).itemsize)

    @helper
    def run(x, y):
        inside = (y >= zero) & (y < width)
        return low.select(inside, low.raw_shl(x, low.select(inside, y, zero)), zero)

    return run


def _make_shift_right(kind: Any, signed: bool) -> Any:
    zero, width, last = kind(0), kind(8 * np.dtype(kind).itemsize), kind(8 * np.dtype(kind).itemsize - 1)
    if not signed:

        @helper
        def unsigned(x, y):
            return low.select(y < width, low.raw_lshr(x, low.select(y < width, y, zero)), zero)

        return unsigned

    @helper
    def run(x, y):
        return low.raw_ashr(x, low.select((y >= zero) & (y < width), y, last))

    return run


def _make_power(kind: Any, signed: bool) -> Any:
    zero, one, minus = kind(0), kind(1), kind(-1 if signed else 0)

    @helper
    def run(x, y):
        if signed and y < zero:
            odd = low.iand(y, one) == one
            return low.select(x == one, one, low.select(x == minus, low.select(odd, minus, one), zero))
        result = one
        base, n = x, y
        while n != zero:
            result = low.select(low.iand(n, one) == one, low.imul(result, base), result)
            base = low.imul(base, base)
            n = low.raw_lshr(n, one)
        return result

    return run


INT_POWER = _per_int(_make_power)


# ---- float remainder: exact, without fmod ---------------------------------------------------------------------------


@helper
def _scale(x, n):
    """x * 2**n for 0 <= n <= 2046, in two steps."""
    half = n >> 1
    return x * low.from_bits((half + 1023) << 52) * low.from_bits((n - half + 1023) << 52)


@helper
def _exponent(x):
    """floor(log2(x)) of a positive finite double."""
    e = (low.bits(x) >> 52) - 1023
    if e == -1023:
        e = (low.bits(x * np.float64(2.0**54)) >> 52) - 1023 - 54
    return e


@helper
def fmod64(x, y):
    a, b = low.fabs(x), low.fabs(y)
    if not (a < np.float64(np.inf)) or b == np.float64(0.0) or b != b:
        return np.float64(np.nan)
    while a >= b:
        # A quotient below 2**50 makes the fused remainder exact up to one multiple of the divisor.
        gap = _exponent(a) - _exponent(b) - 50
        step = _scale(b, gap) if gap > 0 else b
        a = low.fma(-low.trunc(a / step), step, a)
        if a < np.float64(0.0):
            a += step
    return low.copysign(a, x)


@helper
def _fmod32(x, y):
    return np.float32(fmod64(np.float64(x), np.float64(y)))


def _make_float_mod(kind: Any, fmod: Any) -> Any:
    zero = kind(0)

    @helper
    def run(x, y):
        r = fmod(x, y)
        if r == zero:
            return low.copysign(zero, y)
        return r + y if (y < zero) != (r < zero) else r

    return run


def _make_float_floordiv(kind: Any, fmod: Any) -> Any:
    zero, half, one = kind(0), kind(0.5), kind(1)

    @helper
    def run(x, y):
        if y == zero:
            return x / y
        r = fmod(x, y)
        q = (x - r) / y
        if r != zero and (y < zero) != (r < zero):
            q -= one
        if q == zero:
            return low.copysign(zero, x / y)
        whole = low.floor(q)
        return whole + one if q - whole > half else whole

    return run


@helper
def _float_truncdiv(x, y):
    return low.trunc(x / y)


_REM = _per_int(_make_rem) | {F32: _fmod32, F64: fmod64}
_MOD = _per_int(_make_mod) | {F32: _make_float_mod(np.float32, _fmod32), F64: _make_float_mod(np.float64, fmod64)}
_FLOORDIV = _per_int(_make_floordiv) | {
    F32: _make_float_floordiv(np.float32, _fmod32),
    F64: _make_float_floordiv(np.float64, fmod64),
}
_TRUNCDIV_ALL = _TRUNCDIV | {F32: _float_truncdiv, F64: _float_truncdiv}
for _name, _impls in (
    ("truncdiv", _TRUNCDIV_ALL), ("rem", _REM), ("floordiv", _FLOORDIV), ("mod", _MOD),
    ("shift_left", _per_int(_make_shift_left)), ("shift_right", _per_int(_make_shift_right)),
):  # fmt: skip
    register(
        _name,
        by_type(_name, 2, lambda x, y, impls=_impls: impls.get(x) if x == y else None),
        twins.SCALARS[_name],
    )


# ---- half floats ----------------------------------------------------------------------------------------------------


@helper
def _bf16_f32(x):
    return low.from_bits(np.uint32(np.uint32(x) << np.uint32(16)))


@helper
def _f32_bf16(x):
    wide = np.uint32(low.bits(x))
    odd = np.uint32((wide >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(wide + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return np.uint16(low.select(x != x, np.uint32((wide >> np.uint32(16)) | np.uint32(0x40)), np.uint32(rounded)))


@helper
def _round_to_odd(x):
    y = np.float32(x)
    back = np.float64(y)
    exact = (back == x) | (x != x)
    pattern = low.bits(y)
    towards = low.select(low.fabs(back) > low.fabs(x), low.isub(pattern, np.int32(1)), pattern)
    return low.from_bits(low.select(exact, pattern, low.ior(towards, np.int32(1))))


@helper
def _f64_f16(x):
    return low.f32_to_half_bits(_round_to_odd(x))


@helper
def _f64_bf16(x):
    return _f32_bf16(_round_to_odd(x))


for _name, _fn in (
    ("f16_f32", low.half_bits_to_f32), ("f32_f16", low.f32_to_half_bits), ("bf16_f32", _bf16_f32),
    ("f32_bf16", _f32_bf16), ("f64_f16", _f64_f16), ("f64_bf16", _f64_bf16),
):  # fmt: skip
    register(_name, _fn, twins.SCALARS[_name])
