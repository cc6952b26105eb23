"""Elementwise ONNX operators: arithmetic, comparison, logic, casts.

Owns the differences from NumPy's semantics (integer division, Mod's sign, Pow's mixed types).
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import BF16, BOOL, F16, F32, F64, I32, I64
from ....ir.graph import Value
from ..call import OPS, REFUSED, Call, op

_UNARY = {
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin",
    "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh",
    "Atanh": "atanh", "Sigmoid": "sigmoid", "Erf": "erf", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Reciprocal": "reciprocal", "Neg": "neg", "Abs": "abs", "Softplus": "softplus", "Softsign": "softsign",
    "IsNaN": "isnan", "Not": "logical_not", "BitwiseNot": "bitwise_not", "HardSwish": "hard_swish", "Mish": "mish",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor", "Equal": "eq",
    "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le",
}  # fmt: skip
_NARY = {"Max": "maximum", "Min": "minimum", "Sum": "add"}
for _name in ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"):
    REFUSED[("", _name)] = ("random", "random operators have no reproducible meaning")


def _unary(name: str) -> Any:
    return lambda c, x: getattr(c.b, name)(x)


def _binary(name: str) -> Any:
    return lambda c, x, y: getattr(c.b, name)(x, y)


def _nary(name: str) -> Any:
    def lower(c: Call, *xs: Value) -> Value:
        total = xs[0]
        for x in xs[1:]:
            total = getattr(c.b, name)(total, x)
        return total

    return lower


for _onnx, _ours in _UNARY.items():
    OPS[("", _onnx)] = _unary(_ours)
for _onnx, _ours in _BINARY.items():
    OPS[("", _onnx)] = _binary(_ours)
for _onnx, _ours in _NARY.items():
    OPS[("", _onnx)] = _nary(_ours)


@op("Identity")
def _identity(c: Call, x: Value) -> Value:
    return x


@op("Mean")
def _mean(c: Call, *xs: Value) -> Value:
    total = _nary("add")(c, *xs)
    return c.b.div(total, float(len(xs))) if len(xs) > 1 else total


@op("Sign")
def _sign(c: Call, x: Value) -> Value:
    if x.dtype.kind == "u":
        return c.b.minimum(x, c.like(1, x))
    return c.b.sign(x)


@op("Div")
def _div(c: Call, x: Value, y: Value) -> Value:
    return c.b.div(x, y) if x.dtype.is_float else c.b.truncdiv(x, y)


@op("Mod")
def _mod(c: Call, x: Value, y: Value) -> Value:
    if c.integer("fmod", 0):
        return c.b.rem(x, y)
    return c.b.mod(x, y)


@op("Pow")
def _pow(c: Call, x: Value, y: Value) -> Value:
    b = c.b
    if x.dtype is y.dtype:
        return b.pow(x, y)
    if x.dtype.is_float:
        return b.pow(x, b.cast(y, to=x.dtype))
    if y.dtype.is_float:
        wide = F64 if x.dtype.size > 2 or y.dtype is F64 else F32
        return b.cast(b.pow(b.cast(x, to=wide), b.cast(y, to=wide)), to=x.dtype)
    if x.dtype.size > y.dtype.size or (x.dtype.size == y.dtype.size and x.dtype.kind == "i"):
        if y.const is None and y.dtype.kind == "u" and y.dtype.size == x.dtype.size:
            wide = I64
            return b.cast(b.pow(b.cast(x, to=wide), b.cast(y, to=wide)), to=x.dtype)
        return b.pow(x, b.cast(y, to=x.dtype))
    if x.dtype.kind == "u" and y.dtype.kind == "i" and x.dtype.size == 8:
        return b.pow(x, b.cast(b.maximum(y, c.like(0, y)), to=x.dtype))
    # Powers wrap, so the low bits of the wider arithmetic are the narrow result.
    return b.cast(b.pow(b.cast(x, to=I64), b.cast(y, to=I64)), to=x.dtype)


@op("BitShift")
def _shift(c: Call, x: Value, y: Value) -> Value:
    direction = c.text("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise c.refuse(f"direction {direction!r} is neither LEFT nor RIGHT", "malformed")
    return c.b.shift_left(x, y) if direction == "LEFT" else c.b.shift_right(x, y)


@op("Where")
def _where(c: Call, cond: Value, x: Value, y: Value) -> Value:
    return c.b.where(cond, x, y)


@op("IsInf")
def _isinf(c: Call, x: Value) -> Value:
    positive, negative = c.integer("detect_positive", 1), c.integer("detect_negative", 1)
    b = c.b
    found = b.isinf(x)
    if positive and negative:
        return found
    if not positive and not negative:
        return b.full(x.shape, False, BOOL)
    return b.logical_and(found, b.gt(x, 0.0) if positive else b.lt(x, 0.0))


@op("Cast")
def _cast(c: Call, x: Value) -> Value:
    return _convert(c, x, c.element("to"))


@op("CastLike")
def _cast_like(c: Call, x: Value, like: Value) -> Value:
    return _convert(c, x, like.dtype)


@op("BitCast")
def _bit_cast(c: Call, x: Value) -> Value:
    to = c.element("to")
    if x.dtype is BOOL and to.size == 1:
        return _convert(c, x, to)
    if x.dtype.size != to.size or to is BOOL:
        raise c.refuse(f"{x.dtype} to {to}: only types of one size are reinterpreted")
    return x if to is x.dtype else c.b.bitcast(x, to=to)


def _convert(c: Call, x: Value, to: Any) -> Value:
    if x.dtype is to:
        return x
    if x.dtype is F64 and to in (F16, BF16):
        return c.b.cast(x, to=to)
    return c.b.cast(x, to=to)


@op("Clip")
def _clip(c: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    b = c.b
    if c.opset < 11:
        a, z = c.number("min"), c.number("max")
        low = None if a is None else c.like(a, x)
        high = None if z is None else c.like(z, x)
    low, high = (None if v is None else b.reshape(v, shape=()) if v.rank else v for v in (low, high))
    if low is not None and high is not None:
        return b.clip(x, low, high)
    if low is not None:
        return b.maximum(x, low)
    return x if high is None else b.minimum(x, high)


@op("Dropout")
def _dropout(c: Call, x: Value, ratio: Value | None = None, training: Value | None = None) -> Any:
    if training is not None and bool(c.scalar(training, "training_mode")):
        if ratio is None or float(c.scalar(ratio, "ratio")) != 0.0:
            raise c.refuse("in training mode it is random", "random")
    if not c.wants(1):
        return x
    return x, c.b.full(x.shape, True, BOOL)


@op("Binarizer", domain="ai.onnx.ml")
def _binarizer(c: Call, x: Value) -> Value:
    return c.b.cast(c.b.gt(x, c.like(c.number("threshold", 0.0), x)), to=x.dtype)


_ = I32
