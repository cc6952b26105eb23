"""``keras.ops`` nodes in NumPy's family: bits, special functions, NaN-aware reductions, order statistics, products.

Owns their decompositions. Must not know layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....core.dims import Extent
from ....core.dtypes import BOOL, F32, I32, I64, dtype
from ....ir.builder import Builder
from ....ir.graph import Value
from ..call import OPERATIONS, Call, operation, static
from .ops import axes_option, float_pair, floats, numeric, option, pair, strong, value, widened
from .ops_shape import along

# -- elementwise -------------------------------------------------------------------------------------------------------

for _name, _op in {
    "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
    "BitwiseLeftShift": "shift_left", "BitwiseRightShift": "shift_right", "LeftShift": "shift_left",
    "RightShift": "shift_right",
}.items():  # fmt: skip

    @operation(_name)
    def _bits(c: Call, x: Any, y: Any, _op: str = _op, **k: Any) -> Value:
        return c.b.apply(_op, pair(c, x, y), {})[0]


@operation("BitwiseInvert", "BitwiseNot")
def _invert(c: Call, x: Any, **k: Any) -> Value:
    return c.b.bitwise_not(value(c, x))


for _name, _fn in {
    "Exp2": lambda b, x: b.exp(b.mul(x, math.log(2.0))),
    "Deg2rad": lambda b, x: b.mul(x, math.pi / 180.0),
    "Rad2deg": lambda b, x: b.mul(x, 180.0 / math.pi),
    "Fabs": lambda b, x: b.abs(x),
    "Cbrt": lambda b, x: b.mul(b.sign(x), b.pow(b.abs(x), 1.0 / 3.0)),
}.items():

    @operation(_name)
    def _float_function(c: Call, x: Any, _fn: Callable[..., Value] = _fn, **k: Any) -> Value:
        return _fn(c.b, floats(c, x))


@operation("Real", "Conj", "Conjugate", "Array", "ConvertToTensor", "Isreal")
def _real(c: Call, x: Any, **k: Any) -> Value:
    """There are no complex numbers here: every tensor is its own conjugate."""
    v, kind = value(c, x), option(c, k, "dtype")
    if option(c, k, "sparse") or option(c, k, "ragged"):
        raise c.refuse("sparse and ragged tensors are not supported")
    if c.spec.class_name == "Isreal":
        return c.b.full(v.shape, True, BOOL)
    return c.cast(v, dtype(kind)) if kind else v


@operation("Imag", "Angle")
def _imaginary(c: Call, x: Any, **k: Any) -> Value:
    v, b = value(c, x), c.b
    if c.spec.class_name == "Imag":
        return b.full(v.shape, 0, v.dtype)
    v = floats(c, v)
    return b.where(b.isnan(v), v, b.where(b.lt(v, 0.0), b.constant(math.pi, v.dtype), 0.0))


@operation("Signbit")
def _signbit(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    if v.dtype is BOOL or v.dtype.kind == "u":
        return c.b.full(v.shape, False, BOOL)
    if v.dtype.is_float:  # a negative zero has the bit, so comparing does not do
        v = c.b.bitcast(v, to=dtype(f"i{v.dtype.size * 8}"))
    return c.b.lt(v, 0)


@operation("Isposinf", "Isneginf")
def _infinite(c: Call, x: Any, **k: Any) -> Value:
    v = floats(c, x)
    return c.b.eq(v, math.inf if c.spec.class_name == "Isposinf" else -math.inf)


@operation("NanToNum")
def _nan_to_num(c: Call, x: Any, **k: Any) -> Value:
    v, b = value(c, x), c.b
    if not v.dtype.is_float:
        return v
    top = float(np.finfo(v.dtype.np).max)
    posinf, neginf = option(c, k, "posinf", top), option(c, k, "neginf", -top)
    v = b.where(b.isnan(v), b.constant(float(option(c, k, "nan", 0.0)), v.dtype), v)
    v = b.where(b.eq(v, math.inf), b.constant(float(posinf), v.dtype), v)
    return b.where(b.eq(v, -math.inf), b.constant(float(neginf), v.dtype), v)


@operation("Sinc")
def _sinc(c: Call, x: Any, **k: Any) -> Value:
    b = c.b
    v = b.mul(floats(c, x), math.pi)
    zero = b.eq(v, 0.0)
    return b.where(zero, 1.0, b.div(b.sin(v), b.where(zero, 1.0, v)))


@operation("Logaddexp", "Logaddexp2")
def _logaddexp(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = float_pair(c, x1, x2)
    b, two = c.b, c.spec.class_name == "Logaddexp2"
    gap = b.sub(x, y)
    scaled = b.mul(gap, math.log(2.0)) if two else gap
    tail = b.log1p(b.exp(b.neg(b.abs(scaled))))
    out = b.add(b.maximum(x, y), b.mul(tail, 1.0 / math.log(2.0)) if two else tail)
    return b.where(b.isnan(gap), b.add(x, y), out)  # equal infinities


@operation("Hypot")
def _hypot(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = (c.b.abs(v) for v in float_pair(c, x1, x2))
    b = c.b
    high, low = b.maximum(x, y), b.minimum(x, y)
    zero = b.eq(high, 0.0)
    ratio = b.div(low, b.where(zero, 1.0, high))
    return b.mul(high, b.sqrt(b.add(b.square(ratio), 1.0)))


@operation("Fmax", "Fmin")
def _fmax(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    b = c.b
    if not x.dtype.is_float:
        return OPERATIONS["Maximum" if c.spec.class_name == "Fmax" else "Minimum"](c, x, y)
    least = b.maximum(x, y) if c.spec.class_name == "Fmax" else b.minimum(x, y)
    return b.where(b.isnan(x), y, b.where(b.isnan(y), x, least))


@operation("Fmod")
def _fmod(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    return c.b.rem(numeric(c, x), numeric(c, y))


@operation("Heaviside")
def _heaviside(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    if not x.dtype.is_float:
        x, y = float_pair(c, x, y)
    b = c.b
    out = b.where(b.lt(x, 0), b.constant(0, x.dtype), b.where(b.eq(x, 0), y, b.constant(1, x.dtype)))
    return b.where(b.isnan(x), x, out)


@operation("Ldexp")
def _ldexp(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x = floats(c, x1)
    return c.b.mul(x, c.b.pow(c.b.constant(2.0, x.dtype), c.cast(value(c, x2), x.dtype)))


@operation("Isclose")
def _isclose(c: Call, x1: Any, x2: Any, rtol: Any = 1e-5, atol: Any = 1e-8, **k: Any) -> Value:
    b = c.b
    x, y = strong(c, x1, x2)
    x, y = (c.cast(v, v.dtype if v.dtype.is_float else F32) for v in (x, y))
    near = b.le(b.abs(b.sub(x, y)), b.add(b.mul(b.abs(y), float(rtol)), float(atol)))
    found = b.where(b.logical_and(b.isfinite(x), b.isfinite(y)), near, b.eq(x, y))
    if option(c, k, "equal_nan", False):
        found = b.logical_or(found, b.logical_and(b.isnan(x), b.isnan(y)))
    return found


@operation("AllClose")
def _allclose(c: Call, x1: Any, x2: Any, rtol: Any = 1e-5, atol: Any = 1e-8, **k: Any) -> Value:
    found = _isclose(c, x1, x2, rtol, atol, **k)
    return c.b.reduce_all(found, axes=tuple(range(found.rank)))


@operation("Select")
def _select(c: Call, condlist: Any, choicelist: Any, default: Any = 0, **k: Any) -> Value:
    choices = [value(c, v) for v in choicelist]
    whole = all(v.dtype is BOOL for v in choices) and not isinstance(default, bool)
    out = value(c, default, I64 if whole else choices[0].dtype)
    for v in choices:
        v, out = pair(c, v, out)
    for test, v in reversed(list(zip(condlist, choices, strict=True))):
        v, out = pair(c, v, out)
        out = c.b.where(c.bool_mask(value(c, test)), v, out)
    return out


@operation("SaturateCast")
def _saturate(c: Call, x: Any, **k: Any) -> Value:
    v, to = value(c, x), dtype(option(c, k, "dtype"))
    if to.is_float or to is BOOL or not (v.dtype.is_float or v.dtype.size > to.size):
        return c.cast(v, to)
    info = np.iinfo(to.np)
    low, high = float(info.min), float(info.max)
    if v.dtype.is_float:
        # The largest value of the float type that is still inside: 2^31 - 1 is none in float32.
        high = float(np.nextafter(v.dtype.np.type(high), v.dtype.np.type(0))) if v.dtype.np.type(high) > high else high
        return c.cast(c.b.minimum(c.b.maximum(v, low), high), to)
    return c.cast(c.b.minimum(c.b.maximum(v, int(low)), int(high)), to)


def _polynomial(b: Builder, x: Value, factors: Sequence[float]) -> Value:
    """Horner's scheme, the highest power first."""
    out: Value = b.full(x.shape, factors[0], x.dtype)
    for f in factors[1:]:
        out = b.add(b.mul(out, x), f)
    return out


_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


@operation("Erfinv")
def _erfinv(c: Call, x: Any, **k: Any) -> Value:
    """Giles, Approximating the erfinv function (2010), the single-precision form."""
    v, b = floats(c, x), c.b
    if v.dtype.size > 4:
        raise c.refuse("float64 is not supported: the approximation has single precision")
    v = c.cast(v, F32)
    w = b.neg(b.log(b.mul(b.sub(1.0, v), b.add(1.0, v))))
    far = b.lt(w, 5.0)
    p = b.where(
        far, _polynomial(b, b.sub(w, 2.5), _CENTRE), _polynomial(b, b.sub(b.sqrt(b.maximum(w, 0.0)), 3.0), _TAIL)
    )
    out = b.where(b.eq(b.abs(v), 1.0), b.mul(v, math.inf), b.mul(p, v))
    return c.cast(out, floats(c, x).dtype)


_I0_NEAR = (0.0045813, 0.0360768, 0.2659732, 1.2067492, 3.0899424, 3.5156229, 1.0)
_I0_FAR = (
    0.00392377, -0.01647633, 0.02635537, -0.02057706, 0.00916281, -0.00157565, 0.00225319, 0.01328592, 0.39894228,
)  # fmt: skip


@operation("I0")
def _i0(c: Call, x: Any, **k: Any) -> Value:
    """The modified Bessel function of order 0: Abramowitz and Stegun, 9.8.1 and 9.8.2, good to 2e-7."""
    given, b = floats(c, x), c.b
    if given.dtype.size > 4:
        raise c.refuse("float64 is not supported: the approximation has single precision")
    v = b.abs(c.cast(given, F32))
    near = _polynomial(b, b.square(b.div(b.minimum(v, 3.75), 3.75)), _I0_NEAR)
    large = b.maximum(v, 3.75)
    far = b.mul(b.div(b.exp(large), b.sqrt(large)), _polynomial(b, b.div(3.75, large), _I0_FAR))
    return c.cast(b.where(b.le(v, 3.75), near, far), given.dtype)


@operation("Gcd", "Lcm")
def _gcd(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    """Euclid's algorithm, as many steps as the type can need (consecutive Fibonacci numbers)."""
    x, y = (numeric(c, v) for v in pair(c, x1, x2))
    b = c.b
    if x.dtype.is_float:
        raise c.refuse(f"takes integers, not {x.dtype.name}")
    size = lambda v: v if v.dtype.kind == "u" else b.abs(v)
    zero = b.constant(0, x.dtype)
    one = size(b.add(x, b.mul(y, zero)))
    two = size(b.add(y, b.mul(x, zero)))

    def step(i: Builder, p: Value, q: Value) -> list[Value]:
        done = i.eq(q, 0)
        rest = i.rem(p, i.where(done, i.constant(1, q.dtype), q))
        return [i.where(done, p, q), i.where(done, q, rest)]

    length = 12 * x.dtype.size
    region = b.region([one.type, two.type], step)
    common = b.apply("scan", [one, two], {"n_carry": 2, "n_xs": 0, "length": length, "reverse": False}, [region])[0]
    if c.spec.class_name == "Gcd":
        return common
    safe = b.where(b.eq(common, 0), b.constant(1, common.dtype), common)
    return b.mul(b.truncdiv(one, safe), two)


# -- reductions --------------------------------------------------------------------------------------------------------


def _keep(c: Call, k: dict[str, Any], v: Value) -> dict[str, Any]:
    return {"axes": axes_option(c, k, v.rank), "keepdims": bool(option(c, k, "keepdims", False))}


def _filled(c: Call, v: Value, by: float) -> Value:
    return c.b.where(c.b.isnan(v), c.b.constant(by, v.dtype), v) if v.dtype.is_float else v


@operation("Nansum", "Nanprod")
def _nansum(c: Call, x: Any, **k: Any) -> Value:
    v = widened(c, value(c, x))
    product_of = c.spec.class_name == "Nanprod"
    v = _filled(c, v, float(product_of))
    return c.b.apply("reduce_prod" if product_of else "reduce_sum", [v], _keep(c, k, v))[0]


@operation("Nanmax", "Nanmin")
def _nanmax(c: Call, x: Any, **k: Any) -> Value:
    kind = "Max" if c.spec.class_name == "Nanmax" else "Min"
    v = value(c, x)
    if not v.dtype.is_float:
        return OPERATIONS[kind](c, v, **k)
    bare = _filled(c, v, -math.inf if kind == "Max" else math.inf)
    out = c.b.apply(f"reduce_{kind.lower()}", [bare], _keep(c, k, v))[0]
    empty = c.b.reduce_all(c.b.isnan(v), **_keep(c, k, v))
    return c.b.where(empty, c.b.constant(math.nan, v.dtype), out)


def _nanmean(c: Call, v: Value, axes: Sequence[int], keep: bool) -> Value:
    b = c.b
    total = b.reduce_sum(_filled(c, v, 0.0), axes=tuple(axes), keepdims=keep)
    count = b.reduce_sum(b.cast(b.logical_not(b.isnan(v)), to=v.dtype), axes=tuple(axes), keepdims=keep)
    return b.div(total, count)


@operation("Nanmean", "Nanvar", "Nanstd")
def _nan_moments(c: Call, x: Any, **k: Any) -> Value:
    v, given = floats(c, x), None
    given = _keep(c, k, v)
    if c.spec.class_name == "Nanmean":
        return _nanmean(c, v, given["axes"], given["keepdims"])
    centred = c.b.square(c.b.sub(v, _nanmean(c, v, given["axes"], True)))
    out = _nanmean(c, centred, given["axes"], given["keepdims"])
    return c.b.sqrt(out) if c.spec.class_name == "Nanstd" else out


@operation("Nanargmax", "Nanargmin")
def _nanargmax(c: Call, x: Any, **k: Any) -> Value:
    """The place of the extreme number; -1 where there is none."""
    v, low = value(c, x), c.spec.class_name == "Nanargmin"
    kind = "Argmin" if low else "Argmax"
    if not v.dtype.is_float:
        return OPERATIONS[kind](_as(c, kind), v, **k)
    bare = _filled(c, v, math.inf if low else -math.inf)
    at = OPERATIONS[kind](_as(c, kind), bare, **k)
    axis = option(c, k, "axis")
    axes = tuple(range(v.rank)) if axis is None else (c.axis(axis, v.rank),)
    empty = c.b.reduce_all(c.b.isnan(v), axes=axes, keepdims=bool(option(c, k, "keepdims", False)))
    empty = c.b.reshape(empty, shape=at.shape) if empty.shape != at.shape else empty
    return c.b.where(empty, c.b.constant(-1, at.dtype), at)


def _as(c: Call, kind: str) -> Call:
    """The same call under another class name, for lowerings that look at it."""
    spec = type(c.spec)(kind, c.spec.name, c.spec.path, c.config, c.version)
    return Call(c.lowerer, spec, [], c.b)


@operation("Nancumsum", "Nancumprod")
def _nancumsum(c: Call, x: Any, **k: Any) -> Any:
    kind = c.spec.class_name[3:].capitalize()
    v = value(c, x)
    return OPERATIONS[kind](_as(c, kind), _filled(c, v, float(kind == "Cumprod")), **k)


@operation("CountNonzero")
def _count_nonzero(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    found = c.b.cast(v if v.dtype is BOOL else c.b.ne(v, 0), to=I32)
    return c.b.reduce_sum(found, **_keep(c, k, v))


@operation("Ptp")
def _ptp(c: Call, x: Any, **k: Any) -> Value:
    v = numeric(c, x)
    return c.b.sub(c.b.reduce_max(v, **_keep(c, k, v)), c.b.reduce_min(v, **_keep(c, k, v)))


@operation("Average")
def _average(c: Call, x: Any, weights: Any = None, **k: Any) -> Value:
    v = floats(c, x)
    axes, b = axes_option(c, k, v.rank), c.b
    if weights is None:
        return b.reduce_mean(v, axes=axes)
    v, w = float_pair(c, v, weights)
    if w.rank == 1 and v.rank > 1:
        place: list[Extent] = [1] * v.rank
        place[axes[0]] = w.shape[0]
        w = b.reshape(w, shape=tuple(place))
    w = b.broadcast_to(w, shape=v.shape)
    return b.div(b.reduce_sum(b.mul(v, w), axes=axes), b.reduce_sum(w, axes=axes))


@operation("Moments")
def _moments(c: Call, x: Any, **k: Any) -> list[Value]:
    v, axes = value(c, x), option(c, k, "axes")
    axes = tuple(c.axis(a, v.rank) for a in (axes if isinstance(axes, (list, tuple)) else [axes]))
    keep, wide = bool(option(c, k, "keepdims", False)), c.cast(v, F32) if v.dtype.size < 4 else v
    mean = c.b.reduce_mean(wide, axes=axes, keepdims=True)
    var = c.b.reduce_mean(c.b.square(c.b.sub(wide, mean)), axes=axes, keepdims=keep)
    mean = mean if keep else c.b.reshape(mean, shape=var.shape)
    return [c.cast(mean, v.dtype), c.cast(var, v.dtype)]


@operation("Trapezoid")
def _trapezoid(c: Call, y: Any, **k: Any) -> Value:
    v = floats(c, y)
    axis, b = c.axis(option(c, k, "axis", -1), v.rank), c.b
    if option(c, k, "x") is not None:
        raise c.refuse("sample points are not supported, give dx")
    n = static(c, v.shape[axis], "the axis")
    pairs = b.add(along(c, v, axis, 0, n - 1), along(c, v, axis, 1, n))
    return b.mul(b.reduce_sum(pairs, axes=(axis,)), 0.5 * float(option(c, k, "dx", 1.0)))


@operation("Diff")
def _diff(c: Call, a: Any, **k: Any) -> Value:
    v = value(c, a)
    axis, b = c.axis(option(c, k, "axis", -1), v.rank), c.b
    for _ in range(int(option(c, k, "n", 1))):
        n = v.shape[axis]
        one, two = along(c, v, axis, 1, n), along(c, v, axis, 0, n - 1)
        v = b.ne(one, two) if v.dtype is BOOL else b.sub(one, two)
    return v
