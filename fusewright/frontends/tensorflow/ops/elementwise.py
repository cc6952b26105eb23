"""Elementwise TensorFlow ops: arithmetic, comparison, logic, activations, casts.

Owns TensorFlow's division and rounding rules. Operands broadcast as in NumPy and have one type, as in TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Dim, compare_eq, compare_le, maximum, minimum
from ....core.dtypes import BOOL, F32
from ....ir.graph import Value
from ..lower import FOLDS, OPS, Ctx, fold, op, same_type
from ..values import Complex, Item, Tensor
from .complexes import modulus


def _unary(tf: str, ir: str, **attrs: Any) -> None:
    OPS[tf] = lambda c, x: getattr(c.bld, ir)(x, **attrs)


def _binary(tf: str, ir: str) -> None:
    OPS[tf] = lambda c, x, y: getattr(c.bld, ir)(x, y)


for _tf, _ir in {
    "Abs": "abs", "Neg": "neg", "Exp": "exp", "Expm1": "expm1", "Log": "log", "Log1p": "log1p",
    "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Reciprocal": "reciprocal", "Inv": "reciprocal", "Square": "square", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Sigmoid": "sigmoid", "Erf": "erf",
    "Erfc": "erfc", "Relu": "relu", "Relu6": "relu6", "Elu": "elu", "Selu": "selu",
    "Softplus": "softplus", "Softsign": "softsign", "LogicalNot": "logical_not", "Invert": "bitwise_not",
    "IsNan": "isnan", "IsInf": "isinf", "IsFinite": "isfinite",
}.items():  # fmt: skip
    _unary(_tf, _ir)
for _tf, _ir in {
    "Add": "add", "AddV2": "add", "Sub": "sub", "Mul": "mul", "RealDiv": "div", "FloorDiv": "floordiv",
    "FloorMod": "mod", "TruncateDiv": "truncdiv", "TruncateMod": "rem", "Mod": "rem", "Pow": "pow", "Atan2": "atan2",
    "Less": "lt", "LessEqual": "le", "Greater": "gt", "GreaterEqual": "ge", "LogicalAnd": "logical_and",
    "LogicalOr": "logical_or", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
    "LeftShift": "shift_left", "RightShift": "shift_right",
}.items():  # fmt: skip
    _binary(_tf, _ir)


def _single(v: Value) -> int | None:
    """The one number of an integer constant."""
    const = v.const
    return int(const.array.reshape(())) if const is not None and const.array.size == 1 and v.dtype.is_int else None


@op("Maximum", "Minimum")
def _extreme(c: Ctx, x: Value, y: Value) -> Any:
    """Of integers clipped already the limit is known: the number of classes that an encoding counts up to."""
    name, other = ("maximum", "minimum") if c.node.op == "Maximum" else ("minimum", "maximum")
    for limit, v in ((x, y), (y, x)):
        k = _single(limit)
        if k is None or v.producer.op.name != other:
            continue
        for found in (_single(o) for o in v.producer.operands):
            if found is not None and (found <= k if name == "maximum" else found >= k):
                return limit if not v.rank else c.bld.broadcast_to(limit, shape=v.shape)
    return getattr(c.bld, name)(x, y)


@op("Sign")
def _sign(c: Ctx, x: Value) -> Any:
    if x.dtype.kind == "u":
        return c.bld.minimum(x, c.const(1, x))
    return c.bld.sign(x)


@op("Floor", "Ceil", "Round", "Rint")
def _rounding(c: Ctx, x: Value) -> Any:
    if not x.dtype.is_float:
        return x
    return getattr(c.bld, {"Floor": "floor", "Ceil": "ceil"}.get(c.node.op, "round"))(x)


@op("Equal", "NotEqual")
def _equal(c: Ctx, x: Value, y: Value) -> Any:
    return (c.bld.eq if c.node.op == "Equal" else c.bld.ne)(x, y)


@op("Div")
def _div(c: Ctx, x: Value, y: Value) -> Any:
    return c.bld.div(x, y) if x.dtype.is_float else c.bld.truncdiv(x, y)


@op("DivNoNan")
def _div_no_nan(c: Ctx, x: Value, y: Value) -> Any:
    zero = c.const(0, y)
    return c.bld.where(c.bld.eq(y, zero), zero, c.bld.div(x, y))


@op("MulNoNan")
def _mul_no_nan(c: Ctx, x: Value, y: Value) -> Any:
    zero = c.const(0, y)
    return c.bld.where(c.bld.eq(y, zero), zero, c.bld.mul(x, y))


@op("Xdivy", "Xlogy", "Xlog1py")
def _x_times(c: Ctx, x: Value, y: Value) -> Any:
    zero = c.const(0, x)
    if c.node.op == "Xdivy":
        other = c.bld.div(x, y)
    else:
        other = c.bld.mul(x, c.bld.log(y) if c.node.op == "Xlogy" else c.bld.log1p(y))
    return c.bld.where(c.bld.eq(x, zero), zero, other)


@op("SquaredDifference")
def _squared_difference(c: Ctx, x: Value, y: Value) -> Any:
    return c.bld.square(c.bld.sub(x, y))


@op("AddN", "AccumulateNV2")
def _add_n(c: Ctx, *xs: Value) -> Any:
    total = xs[0]
    for x in xs[1:]:
        total = c.bld.add(total, x)
    return total


@op("LeakyRelu")
def _leaky_relu(c: Ctx, x: Value) -> Any:
    alpha = c.f("alpha", 0.2)
    if alpha > 1:
        return c.bld.where(c.bld.gt(x, c.const(0, x)), x, c.bld.mul(x, c.const(alpha, x)))
    return c.bld.leaky_relu(x, alpha=alpha)


@op("ZerosLike", "OnesLike")
def _like(c: Ctx, x: Value) -> Any:
    return c.bld.full(x.shape, c.node.op == "OnesLike", x.dtype)


@op("L2Loss")
def _l2_loss(c: Ctx, x: Value) -> Any:
    return c.bld.mul(c.bld.reduce_sum(c.bld.square(x)), c.const(0.5, x))


@op("ClipByValue")
def _clip(c: Ctx, x: Value, low: Value, high: Value) -> Any:
    return c.bld.clip(x, low, high)


@op("Cast", raw=True)
def _cast(c: Ctx, item: Item) -> Any:
    to = c.number("DstT")
    if isinstance(item, Complex):
        return item if to in (8, 18) else same_type(c, c.v(item.re), c.type("DstT"))
    if to in (8, 18):
        part = same_type(c, c.v(item), F32) if to == 8 else c.bld.cast(c.v(item), to="f64")
        return Complex(Tensor.of(part), Tensor.of(c.bld.full(part.shape, 0.0, part.dtype)))
    return same_type(c, c.v(item), c.type("DstT"))


@op("SelectV2")
def _select_v2(c: Ctx, condition: Value, x: Value, y: Value) -> Any:
    return c.bld.where(condition, x, y)


@op("Select")
def _select(c: Ctx, condition: Value, x: Value, y: Value) -> Any:
    if condition.rank == 1 and x.rank > 1:
        condition = c.bld.reshape(condition, shape=(*condition.shape, *(1,) * (x.rank - 1)))
    return c.bld.where(condition, x, y)


@op("Bitcast")
def _bitcast(c: Ctx, x: Value) -> Any:
    to = c.type("type")
    return x if to is x.dtype else c.bld.bitcast(x, to=to)


@op("FakeQuantWithMinMaxArgs")
def _fake_quant_args(c: Ctx, x: Value) -> Any:
    low, high = np.float32(c.f("min", -6.0)), np.float32(c.f("max", 6.0))
    return _fake_quant(c, x, c.const(low, x), c.const(high, x))


@op("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
def _fake_quant_vars(c: Ctx, x: Value, low: Value, high: Value) -> Any:
    return _fake_quant(c, x, low, high)


def _fake_quant(c: Ctx, x: Value, low: Value, high: Value) -> Any:
    """tensorflow/core/kernels/fake_quant_ops_functor.h: the range is nudged so that 0 is one of the steps."""
    b = c.bld
    least, most = float(c.b("narrow_range", False)), float(2 ** c.i("num_bits", 8) - 1)
    lo, hi = c.const(least, x), c.const(most, x)
    scale = b.div(b.sub(high, low), c.const(most - least, x))
    inverse = b.div(c.const(most - least, x), b.sub(high, low))
    zero = b.sub(lo, b.div(low, scale))
    half = c.const(0.5, x)
    nudged = b.where(b.lt(zero, lo), lo, b.where(b.gt(zero, hi), hi, b.floor(b.add(zero, half))))
    start, end = b.mul(b.sub(lo, nudged), scale), b.mul(b.sub(hi, nudged), scale)
    clamped = b.clip(x, start, end)
    steps = b.floor(b.add(b.mul(b.sub(clamped, start), inverse), half))
    y = b.add(b.mul(steps, scale), start)
    empty = b.logical_and(b.eq(low, c.const(0, x)), b.eq(high, c.const(0, x)))
    return b.where(empty, c.const(0, x), y)


@op("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4", raw=True)
def _quantize_dequantize(c: Ctx, x: Item, low: Item, high: Item, bits: Item | None = None) -> Any:
    """tensorflow/core/kernels/quantize_and_dequantize_op.h."""
    b, v = c.bld, c.v(x)
    axis = c.i("axis", -1)
    width = c.number_of(bits, "num_bits") if bits is not None else c.i("num_bits", 8)
    signed, narrow = c.b("signed_input", True), c.b("narrow_range", False)
    if c.b("range_given", False):
        least, most = c.v(low), c.v(high)
    else:
        axes = tuple(range(v.rank)) if axis < 0 else tuple(a for a in range(v.rank) if a != axis)
        least, most = b.reduce_min(v, axes=axes), b.reduce_max(v, axes=axes)
    if axis >= 0 and least.rank:
        shape = tuple(d if a == axis else 1 for a, d in enumerate(v.shape))
        least, most = b.reshape(least, shape=shape), b.reshape(most, shape=shape)
    q_min = float(-(2 ** (width - 1)) + narrow) if signed else 0.0
    q_max = float(2 ** (width - 1) - 1) if signed else float(2**width - 1)
    zero, infinite = c.const(0, v), c.const(np.finfo(v.dtype.compute).max, v)
    low_scale = (
        b.where(b.gt(b.mul(c.const(q_min, v), least), zero), b.div(c.const(q_min, v), least), infinite)
        if q_min
        else b.full((), float(np.finfo(v.dtype.compute).max), v.dtype)
    )
    high_scale = b.where(b.gt(b.mul(c.const(q_max, v), most), zero), b.div(c.const(q_max, v), most), infinite)
    by_low = b.lt(low_scale, high_scale)
    scale = b.where(by_low, low_scale, high_scale)
    inverse = b.where(by_low, b.div(least, c.const(q_min or 1.0, v)), b.div(most, c.const(q_max, v)))
    most = b.where(by_low, b.mul(c.const(q_max, v), inverse), most)
    least = b.where(by_low, least, b.mul(c.const(q_min, v), inverse))
    clamped = b.minimum(b.maximum(v, least), most) if c.b("range_given", False) else v
    scaled = b.mul(clamped, scale)
    mode = c.s("round_mode", "HALF_TO_EVEN")
    steps = b.floor(b.add(scaled, c.const(0.5, v))) if mode == "HALF_UP" else b.round(scaled)
    return b.mul(steps, inverse)


@op("Real", "Imag", "Conj", "ComplexAbs", "Complex", "Angle", raw=True)
def _complex(c: Ctx, x: Item, y: Item | None = None) -> Any:
    kind = c.node.op
    if kind == "Complex":
        return Complex(c.tensor(x), c.tensor(y))
    if not isinstance(x, Complex):
        raise c.refuse("takes complex numbers")
    re, im = c.v(x.re), c.v(x.im)
    if kind == "Real":
        return re
    if kind == "Imag":
        return im
    if kind == "Conj":
        return Complex(x.re, Tensor.of(c.bld.neg(im)))
    if kind == "Angle":
        return c.bld.atan2(im, re)
    return modulus(c.bld, re, im)


# -- small integers ----------------------------------------------------------------------------------------------------


def _fold_binary(fn: Any) -> Any:
    apply = np.frompyfunc(fn, 2, 1)

    def folding(c: Ctx, x: np.ndarray, y: np.ndarray) -> Any:
        out = apply(x, y)
        if any(e is None for e in np.ravel(np.asarray(out, object))):
            return None
        return out, c.type("T")

    return folding


def _known(e: Any) -> bool:
    return not isinstance(e, Dim)


def _floor_div(a: Any, b: Any) -> Any:
    if _known(b) and b == 0:
        return None
    return a // b


def _floor_mod(a: Any, b: Any) -> Any:
    if _known(b) and b == 0:
        return None
    return a % b if _known(a) and _known(b) else a - (a // b) * b


def _trunc_div(a: Any, b: Any) -> Any:
    if _known(a) and _known(b):
        return None if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)
    return a // b if compare_le(0, a) and _known(b) and b > 0 else None


FOLDS["Add"] = FOLDS["AddV2"] = _fold_binary(lambda a, b: a + b)
FOLDS["Sub"] = _fold_binary(lambda a, b: a - b)
FOLDS["Mul"] = _fold_binary(lambda a, b: a * b)
FOLDS["FloorDiv"] = _fold_binary(_floor_div)
FOLDS["FloorMod"] = _fold_binary(_floor_mod)
FOLDS["TruncateDiv"] = FOLDS["Div"] = _fold_binary(_trunc_div)
FOLDS["Maximum"] = _fold_binary(maximum)
FOLDS["Minimum"] = _fold_binary(minimum)


def _not(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _fold_compare(fn: Any) -> Any:
    apply = np.frompyfunc(fn, 2, 1)

    def folding(c: Ctx, x: np.ndarray, y: np.ndarray) -> Any:
        out = np.asarray(apply(x, y), object)
        return None if any(e is None for e in out.ravel()) else (out, BOOL)

    return folding


for _names, _fn in (
    (("Less",), lambda a, b: _not(compare_le(b, a))),
    (("LessEqual",), compare_le),
    (("Greater",), lambda a, b: _not(compare_le(a, b))),
    (("GreaterEqual",), lambda a, b: compare_le(b, a)),
    (("Equal",), compare_eq),
    (("NotEqual",), lambda a, b: _not(compare_eq(a, b))),
):
    for _name in _names:
        FOLDS[_name] = _fold_compare(_fn)


@fold("LogicalAnd", "LogicalOr")
def _fold_logic(c: Ctx, x: np.ndarray, y: np.ndarray) -> Any:
    f = (lambda a, b: bool(a) and bool(b)) if c.node.op == "LogicalAnd" else (lambda a, b: bool(a) or bool(b))
    return np.frompyfunc(f, 2, 1)(x, y), BOOL


@fold("LogicalNot")
def _fold_not(c: Ctx, x: np.ndarray) -> Any:
    return np.frompyfunc(lambda a: not a, 1, 1)(x), BOOL


@fold("Neg")
def _fold_neg(c: Ctx, x: np.ndarray) -> Any:
    return np.frompyfunc(lambda a: -a, 1, 1)(x), c.type("T")


@fold("Cast")
def _fold_cast(c: Ctx, x: np.ndarray) -> Any:
    to = c.number("DstT")
    if to not in (3, 9, 22, 23, 10) or to == 10 and any(not _known(e) for e in x.ravel()):
        return None
    if to == 10:
        return np.frompyfunc(bool, 1, 1)(x), BOOL
    return np.frompyfunc(lambda e: e if isinstance(e, Dim) else int(e), 1, 1)(x), c.type("DstT")


@fold("Select", "SelectV2")
def _fold_select(c: Ctx, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> Any:
    if c.node.op == "Select" and condition.ndim == 1 and x.ndim > 1:
        return None
    return np.where(condition.astype(bool), x, y), c.type("T")
