"""``keras.ops`` nodes in NumPy's family: bits, special functions, NaN-aware reductions, order statistics, products.

Owns their decompositions. Must not know layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....core.dims import Extent, product
from ....core.dtypes import BOOL, F32, I32, I64, dtype
from ....ir.builder import Builder
from ....ir.graph import Value
from ..call import OPERATIONS, Call, operation, static
from .ops import axes_option, float_pair, floats, numeric, option, pair, strong, value, widened
from .ops_shape import along, flat, from_end

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
        place = [1] * v.rank
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


# -- order -------------------------------------------------------------------------------------------------------------


@operation("Sort")
def _sort(c: Call, x: Any, **k: Any) -> Value:
    return _sorted(c, value(c, x), option(c, k, "axis", -1))[0]


def _sorted(c: Call, v: Value, axis: Any) -> tuple[Value, Value]:
    if axis is None:
        v, axis = flat(c, v), 0
    narrow = v.dtype is BOOL
    found, at = c.b.sort(c.cast(v, I32) if narrow else v, axis=c.axis(axis, v.rank), descending=False)
    return (c.b.cast(found, to=BOOL) if narrow else found), at


@operation("Argsort")
def _argsort(c: Call, x: Any, **k: Any) -> Value:
    v, axis = value(c, x), c.config.get("axis", -1)
    return c.cast(_sorted(c, v, k.get("axis", axis))[1], I32)


@operation("TopK")
def _top_k(c: Call, x: Any, **k: Any) -> list[Value]:
    v = value(c, x)
    found, at = c.b.top_k(v, k=int(option(c, k, "k")), axis=v.rank - 1, largest=True)
    return [found, c.cast(at, I32)]


@operation("InTopK")
def _in_top_k(c: Call, targets: Any, predictions: Any, **k: Any) -> Value:
    """Fewer than k classes score higher than the target, and its own score is finite."""
    t, p = value(c, targets), floats(c, predictions)
    b = c.b
    own = b.gather(p, b.reshape(t, shape=(t.shape[0], 1)), axis=1, batch_dims=1)
    higher = b.reduce_sum(b.cast(b.gt(p, own), to=I32), axes=(1,))
    return b.logical_and(b.lt(higher, int(option(c, k, "k"))), b.isfinite(b.reshape(own, shape=t.shape)))


@operation("Median", "Nanmedian", "Quantile", "Percentile", "Nanquantile", "Nanpercentile")
def _quantile(c: Call, x: Any, q: Any = None, **k: Any) -> Value:
    """Order statistics between the sorted elements; NaN wherever one is among them, or leaving those out."""
    v, b, name = floats(c, x), c.b, c.spec.class_name
    axes = axes_option(c, k, v.rank)
    keep, method = bool(option(c, k, "keepdims", False)), str(option(c, k, "method", "linear"))
    levels = np.asarray(0.5 if name.endswith("edian") else getattr(q, "value", q), np.float64)
    if isinstance(q, Value) or levels.dtype.kind != "f":
        raise c.refuse("q must be fixed numbers")
    levels = levels / 100.0 if name.endswith("ercentile") else levels
    rest = tuple(a for a in range(v.rank) if a not in axes)
    lead = tuple(v.shape[a] for a in rest)
    flattened = b.reshape(b.transpose(v, perm=(*rest, *axes)), shape=(*lead, product(v.shape[a] for a in axes)))
    nan = b.isnan(flattened)
    # NaN sorts to the end as infinity; the count of numbers then says where the quantile lies.
    ordered = _sorted(c, b.where(nan, b.constant(math.inf, v.dtype), flattened), -1)[0]
    numbers = b.cast(b.logical_not(nan), to=I64)
    count = b.cast(b.reduce_sum(numbers, axes=(len(lead),), keepdims=True), to=v.dtype)
    parts = []
    for level in levels.reshape(-1):
        at = b.mul(b.sub(count, 1.0), float(level))
        low, high = b.floor(at), b.ceil(at)
        take = lambda i: b.gather(ordered, b.cast(b.maximum(i, 0.0), to=I32), axis=len(lead), batch_dims=len(lead))
        if method == "linear":
            share = b.sub(at, low)
            one, two = take(low), take(high)
            found = b.add(one, b.mul(b.where(b.eq(share, 0.0), b.constant(0, v.dtype), b.sub(two, one)), share))
        elif method == "midpoint":
            found = b.mul(b.add(take(low), take(high)), 0.5)
        elif method in ("lower", "higher", "nearest"):
            found = take({"lower": low, "higher": high, "nearest": b.round(at)}[method])
        else:
            raise c.refuse(f"method={method!r} is not supported")
        bad = b.eq(count, 0.0) if name.startswith("Nan") else b.reduce_any(nan, axes=(len(lead),), keepdims=True)
        parts.append(b.where(bad, b.constant(math.nan, v.dtype), found))
    shape: tuple[Extent, ...] = tuple(1 if a in axes else d for a, d in enumerate(v.shape)) if keep else lead
    found = b.concat(*(b.reshape(p, shape=(1, *shape)) for p in parts), axis=0)
    return found if levels.ndim else b.reshape(found, shape=shape)


@operation("Digitize", "SearchSorted")
def _digitize(c: Call, *args: Any, **k: Any) -> Value:
    """How many of the sorted bounds lie below (right: at or below) each value."""
    first = c.spec.class_name == "SearchSorted"
    bounds, x = (args[0], args[1]) if first else (args[1], args[0])
    b = c.b
    v, edges = strong(c, x, bounds)
    if edges.rank != 1:
        raise c.refuse("only one sorted vector is supported")
    spread = b.reshape(v, shape=(*v.shape, 1))
    right = not first or option(c, k, "side", "left") == "right"
    inside = b.ge(spread, edges) if right else b.gt(spread, edges)
    return b.reduce_sum(b.cast(inside, to=I32), axes=(v.rank,))


@operation("IsIn")
def _is_in(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = strong(c, x1, x2)
    found = c.b.reduce_any(c.b.eq(c.b.reshape(x, shape=(*x.shape, 1)), flat(c, y)), axes=(x.rank,))
    return c.b.logical_not(found) if option(c, k, "invert", False) else found


@operation("UnravelIndex")
def _unravel(c: Call, indices: Any, **k: Any) -> list[Value]:
    shape = option(c, k, "shape")
    shape = [shape] if isinstance(shape, int) else list(shape)
    v, b, out = from_end(c, value(c, indices), math.prod(shape)), c.b, []
    for i, n in enumerate(shape):
        out.append(b.mod(b.floordiv(v, math.prod(shape[i + 1 :])), n))
    return out


for _name, _how in {"SegmentSum": "add", "SegmentMax": "max", "SegmentMin": "min", "SegmentProd": "mul"}.items():

    @operation(_name)
    def _segment(c: Call, data: Any, segment_ids: Any, _how: str = _how, **k: Any) -> Value:
        """Rows combined by their segment; a segment without rows keeps the identity (TensorFlow's largest number)."""
        v, ids, count = value(c, data), value(c, segment_ids), option(c, k, "num_segments")
        if not isinstance(count, int):
            raise c.refuse("num_segments must be given")
        limits = np.finfo(v.dtype.np) if v.dtype.is_float else np.iinfo(v.dtype.np)
        start = {"add": 0, "mul": 1, "max": limits.min, "min": limits.max}[_how]
        base = c.b.full((count, *v.shape[1:]), start.item() if hasattr(start, "item") else start, v.dtype)
        ids = c.b.where(c.b.lt(ids, 0), c.b.constant(count, ids.dtype), ids)  # negative ones are left out
        return c.b.scatter_nd(base, c.b.reshape(ids, shape=(*ids.shape, 1)), v, reduction=_how)


# -- products ----------------------------------------------------------------------------------------------------------

_LETTERS = "abcdefghijklmnopqrstuvw"


def _contract(c: Call, x: Value, y: Value, i: Sequence[int], j: Sequence[int]) -> Value:
    """Sum over axes i of x and j of y; the others follow one another."""
    left = list(_LETTERS[: x.rank])
    right = list(_LETTERS[x.rank : x.rank + y.rank])
    for a, b in zip(i, j, strict=True):
        right[b] = left[a]
    shared = {left[a] for a in i}
    out = [s for s in (*left, *right) if s not in shared]
    return c.b.einsum(x, y, equation=f"{''.join(left)},{''.join(right)}->{''.join(out)}")


def _matrices(c: Call, x1: Any, x2: Any) -> tuple[Value, Value, bool]:
    """Both as numbers, and whether the result is to be bool; products of int8 are int32."""
    x, y = pair(c, x1, x2)
    if x.dtype is BOOL:
        return c.cast(x, I32), c.cast(y, I32), True
    if x.dtype is dtype("i8"):
        return c.cast(x, I32), c.cast(y, I32), False
    return x, y, False


@operation("Matmul", "Dot", "Inner", "Vdot", "Outer", "Tensordot")
def _product(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    kind = c.spec.class_name
    narrow = all(isinstance(v, Value) and v.dtype is dtype("i8") for v in (x1, x2))
    narrow = narrow and (kind != "Matmul" or min(x1.rank, x2.rank) == 1)
    x, y, logical = _matrices(c, x1, x2)
    if kind == "Matmul" and x.rank > 1 and y.rank > 1:
        out = c.b.matmul(x, y)
    elif kind == "Matmul":
        out = _contract(c, x, y, [x.rank - 1], [max(y.rank - 2, 0)])
    elif kind == "Vdot":
        out = c.b.reduce_sum(c.b.mul(flat(c, x), flat(c, y)), axes=(0,))
    elif kind == "Outer":
        x, y = flat(c, x), flat(c, y)
        out = c.b.mul(c.b.reshape(x, shape=(x.shape[0], 1)), y)
    elif kind == "Tensordot":
        axes = option(c, k, "axes", 2)
        if isinstance(axes, int):
            i, j = list(range(x.rank - axes, x.rank)), list(range(axes))
        else:
            i, j = (
                [c.axis(a, v.rank) for a in (e if isinstance(e, (list, tuple)) else [e])]
                for v, e in zip((x, y), axes, strict=True)
            )
        out = _contract(c, x, y, i, j)
    elif x.rank == 0 or y.rank == 0:
        out = c.b.mul(x, y)
    else:
        out = _contract(c, x, y, [x.rank - 1], [y.rank - 1 if kind == "Inner" or y.rank == 1 else y.rank - 2])
    if narrow:
        return c.cast(out, dtype("i8"))
    return c.b.ne(out, 0) if logical else out


@operation("Kron")
def _kron(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    rank = max(x.rank, y.rank)
    x, y = (c.b.reshape(v, shape=(*[1] * (rank - v.rank), *v.shape)) for v in (x, y))
    one = c.b.reshape(x, shape=tuple(d for n in x.shape for d in (n, 1)))
    two = c.b.reshape(y, shape=tuple(d for n in y.shape for d in (1, n)))
    return c.b.reshape(c.b.mul(one, two), shape=tuple(a * b for a, b in zip(x.shape, y.shape, strict=True)))


@operation("Einsum")
def _einsum(c: Call, *operands: Any, **k: Any) -> Value:
    from_config = option(c, k, "subscripts")
    found = [value(c, v) for v in operands]
    for other in found[1:]:
        found[0], _ = pair(c, found[0], other)
    found = [c.cast(v, found[0].dtype) for v in found]
    if found[0].dtype in (BOOL, dtype("i8")):
        found = [c.cast(v, I32) for v in found]
    return c.b.einsum(*found, equation=str(from_config))


@operation("Cross")
def _cross(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    axis, b = option(c, k, "axis"), c.b
    a1, a2, a3 = [axis] * 3 if axis is not None else (option(c, k, n, -1) for n in ("axisa", "axisb", "axisc"))
    a1, a2 = c.axis(a1, x.rank), c.axis(a2, y.rank)
    to_end = lambda v, a: b.transpose(v, perm=(*(i for i in range(v.rank) if i != a), a))
    x, y = to_end(x, a1), to_end(y, a2)
    if x.shape[-1] != 3 or y.shape[-1] != 3:
        raise c.refuse("only vectors of three elements are supported")
    part = lambda v, i: along(c, v, v.rank - 1, i % 3, i % 3 + 1)
    z = b.concat(
        *(b.sub(b.mul(part(x, i + 1), part(y, i + 2)), b.mul(part(x, i + 2), part(y, i + 1))) for i in range(3)),
        axis=x.rank - 1,
    )
    axis = c.axis(a3, z.rank)
    order = list(range(z.rank - 1))
    order.insert(axis, z.rank - 1)
    return b.transpose(z, perm=tuple(order))


@operation("Corrcoef")
def _corrcoef(c: Call, x: Any, **k: Any) -> Value:
    v, b = floats(c, x), c.b
    if v.rank != 2:
        raise c.refuse("takes a matrix of variables in rows")
    centred = b.sub(v, b.reduce_mean(v, axes=(1,), keepdims=True))
    spread = b.sqrt(b.reduce_sum(b.square(centred), axes=(1,), keepdims=True))
    scaled = b.div(centred, spread)
    return b.minimum(b.maximum(b.matmul(scaled, scaled, transpose_b=True), -1.0), 1.0)


@operation("Correlate")
def _correlate(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    n, m = static(c, x.shape[0], "a signal"), static(c, y.shape[0], "a signal")
    mode, b = option(c, k, "mode", "valid"), c.b
    short = min(n, m)
    pads = {"valid": (0, 0), "full": (short - 1, short - 1), "same": (short // 2, (short - 1) // 2)}[mode]
    if m > n:
        raise c.refuse("the second signal may not be the longer one")
    wide = b.pad(x, low=(pads[0],), high=(pads[1],)) if any(pads) else x
    places = np.arange(n + sum(pads) - m + 1)[:, None] + np.arange(m)[None, :]
    rows = b.gather(wide, b.constant(places.astype(np.int32)), axis=0)
    return b.reshape(b.matmul(rows, b.reshape(y, shape=(m, 1))), shape=(len(places),))


@operation("CDist")
def _cdist(c: Call, x: Any, y: Any, **k: Any) -> Value:
    one, two = float_pair(c, x, y)
    b = c.b
    gap = b.sub(
        b.reshape(one, shape=(*one.shape[:-1], 1, one.shape[-1])),
        b.reshape(two, shape=(*two.shape[:-2], 1, *two.shape[-2:])),
    )
    return b.sqrt(b.reduce_sum(b.square(gap), axes=(gap.rank - 1,)))
