"""``keras.ops`` nodes: arguments, Keras' type promotion, elementwise functions and reductions.

Owns what the other files of operations share. Must not know layers. A node's options are in its config.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ....core.dims import product
from ....core.dtypes import BF16, BOOL, F16, F32, F64, I32, I64, DType, dtype
from ....ir.graph import Value
from ..call import Call, operation
from ..config import Constant
from .activation import ACTIVATIONS, glu, sparsemax
from .merge import l2_normalize

_FLOAT_RANK = {F16: 1, BF16: 1, F32: 2, F64: 3}


def promote(a: DType, b: DType) -> DType:
    """Keras' (JAX's) promotion of two tensor types: any float wins over any integer."""
    if a is b:
        return a
    if a is BOOL or b is BOOL:
        return b if a is BOOL else a
    if a.is_float and b.is_float:
        return F32 if {a, b} == {F16, BF16} else max(a, b, key=lambda d: _FLOAT_RANK[d])
    if a.is_float or b.is_float:
        return a if a.is_float else b
    if a.kind == b.kind:
        return a if a.size >= b.size else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    return signed if signed.size > unsigned.size else dtype(f"i{min(unsigned.size * 16, 64)}")


def value(c: Call, item: Any, like: DType | None = None) -> Value:
    """An argument as a Value. Python scalars are weak: they take ``like``'s type where its kind allows."""
    if isinstance(item, Value):
        return item
    if isinstance(item, Constant):
        array = np.asarray(item.value)
        kind = item.dtype if isinstance(item.dtype, str) else None
        return c.b.constant(array, dtype(kind) if kind else (F32 if array.dtype.kind == "f" else I32))
    if isinstance(item, bool):
        return c.b.constant(item, BOOL)
    if isinstance(item, int):
        return c.b.constant(item, like if like is not None and like is not BOOL else I32)
    if isinstance(item, float):
        return c.b.constant(item, like if like is not None and like.is_float else F32)
    if isinstance(item, (list, tuple)):
        array = np.asarray(item)
        return c.b.constant(array, F32 if array.dtype.kind == "f" else I32 if array.dtype.kind == "i" else None)
    raise c.refuse(f"argument {item!r} is not a tensor or number")


def pair(c: Call, x: Any, y: Any) -> tuple[Value, Value]:
    """Two arguments of one type."""
    like = next((v.dtype for v in (x, y) if isinstance(v, Value)), None)
    a, b = value(c, x, like), value(c, y, like)
    to = promote(a.dtype, b.dtype)
    return c.cast(a, to), c.cast(b, to)


def floats(c: Call, x: Any) -> Value:
    """An argument as a float: integers become float32."""
    v = value(c, x)
    return v if v.dtype.is_float else c.b.cast(v, to=F32)


def option(c: Call, given: dict[str, Any], key: str, default: Any = None) -> Any:
    """An option of the node: in its call or in its config."""
    found = given.get(key, c.config.get(key))
    return default if found is None else found


def axes_option(c: Call, given: dict[str, Any], rank: int, key: str = "axis") -> tuple[int, ...]:
    found = option(c, given, key)
    if found is None:
        return tuple(range(rank))
    return tuple(c.axis(a, rank) for a in (found if isinstance(found, (list, tuple)) else [found]))


# Integer types that sums and products widen to, and those of reductions that keep the type.
_WIDER = {BOOL: I32, dtype("i8"): I32, dtype("i16"): I32, dtype("u8"): dtype("u32"), dtype("u16"): dtype("u32")}


def widened(c: Call, x: Value) -> Value:
    """``x`` in the type in which Keras sums it."""
    return c.cast(x, _WIDER.get(x.dtype, x.dtype))


def numeric(c: Call, x: Any) -> Value:
    """An argument as a number: bool becomes int32."""
    v = value(c, x)
    return c.cast(v, I32) if v.dtype is BOOL else v


def strong(c: Call, x: Any, y: Any) -> tuple[Value, Value]:
    """Two arguments of one type where Python numbers count as int32 and float32, as comparisons have it."""
    a, b = value(c, x), value(c, y)
    to = promote(a.dtype, b.dtype)
    return c.cast(a, to), c.cast(b, to)


def float_pair(c: Call, x: Any, y: Any) -> tuple[Value, Value]:
    """Two arguments of one floating type; integers become float32."""
    found = [v.dtype for v in (x, y) if isinstance(v, Value)]
    like = reduce(promote, found) if found else F32
    like = like if like.is_float else F32
    a, b = (c.cast(value(c, v, like), like) for v in (x, y))
    return a, b


# -- elementwise -----------------------------------------------------------------------------------------------------

for _name, _op in {
    "Add": "add", "Subtract": "sub", "Multiply": "mul", "Maximum": "maximum", "Minimum": "minimum", "Power": "pow",
    "FloorDivide": "floordiv", "Mod": "mod",
}.items():  # fmt: skip

    @operation(_name)
    def _binary(c: Call, x1: Any, x2: Any, _op: str = _op, **k: Any) -> Any:
        a, b = pair(c, x1, x2)
        if a.dtype is BOOL and _op in ("maximum", "minimum", "add", "mul"):
            logical = "logical_or" if _op in ("maximum", "add") else "logical_and"
            return c.b.apply(logical, (a, b), {})[0]
        if a.dtype is BOOL:
            a, b = c.cast(a, I32), c.cast(b, I32)
        return c.b.apply(_op, (a, b), {})[0]


for _name, _op in {
    "Equal": "eq", "NotEqual": "ne", "Less": "lt", "LessEqual": "le", "Greater": "gt", "GreaterEqual": "ge",
}.items():  # fmt: skip

    @operation(_name)
    def _compare(c: Call, x1: Any, x2: Any, _op: str = _op, **k: Any) -> Any:
        return c.b.apply(_op, strong(c, x1, x2), {})[0]


@operation("Divide", "TrueDivide")
def _divide(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    return c.b.div(*float_pair(c, x1, x2))


@operation("DivideNoNan")
def _divide_no_nan(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    a, b = float_pair(c, x1, x2)
    zero = c.b.eq(b, 0)
    return c.b.where(zero, 0.0, c.b.div(a, c.b.where(zero, 1.0, b)))


@operation("Arctan2")
def _arctan2(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    return c.b.atan2(*float_pair(c, x1, x2))


@operation("SquaredDifference")
def _squared_difference(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    return c.b.square(c.b.sub(*pair(c, x1, x2)))


for _name, _op in {"LogicalAnd": "logical_and", "LogicalOr": "logical_or", "LogicalXor": "logical_xor"}.items():

    @operation(_name)
    def _logical(c: Call, x1: Any, x2: Any, _op: str = _op, **k: Any) -> Any:
        return c.b.apply(_op, [c.bool_mask(value(c, v)) for v in (x1, x2)], {})[0]


@operation("LogicalNot")
def _logical_not(c: Call, x: Any, **k: Any) -> Value:
    return c.b.logical_not(c.bool_mask(value(c, x)))


for _name, _op in {"Absolute": "abs", "Abs": "abs", "Negative": "neg", "Sign": "sign", "Square": "square"}.items():

    @operation(_name)
    def _numeric(c: Call, x: Any, _op: str = _op, **k: Any) -> Any:
        v = value(c, x)
        if v.dtype is BOOL and _op == "abs":
            return v
        v = numeric(c, v)
        if v.dtype.kind == "u" and _op == "sign":
            return c.b.minimum(v, 1)
        return c.b.apply(_op, [v], {})[0]


for _name, _op in {
    "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Exp": "exp", "Expm1": "expm1", "Log": "log", "Log1p": "log1p", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Arcsin": "asin", "Arccos": "acos", "Arctan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Arcsinh": "asinh", "Arccosh": "acosh", "Arctanh": "atanh", "Erf": "erf", "Reciprocal": "reciprocal",
    "Floor": "floor", "Ceil": "ceil", "Isnan": "isnan", "Isinf": "isinf", "Isfinite": "isfinite", "Erfc": "erfc",
}.items():  # fmt: skip

    @operation(_name)
    def _float_unary(c: Call, x: Any, _op: str = _op, **k: Any) -> Any:
        return c.b.apply(_op, [floats(c, x)], {})[0]


@operation("Round", "Trunc")
def _round(c: Call, x: Any, **k: Any) -> Any:
    v, decimals = value(c, x), int(option(c, k, "decimals", 0))
    if not v.dtype.is_float:
        if decimals < 0:
            raise c.refuse("negative decimals of integers are not supported")
        return numeric(c, v) if c.spec.class_name == "Round" else v
    if c.spec.class_name == "Trunc":
        return c.b.trunc(v)
    return c.b.mul(c.b.round(c.b.mul(v, 10.0**decimals)), 10.0**-decimals) if decimals else c.b.round(v)


for _name in ("Log2", "Log10"):

    @operation(_name)
    def _log_base(c: Call, x: Any, _name: str = _name, **k: Any) -> Value:
        return c.b.mul(c.b.log(floats(c, x)), 1.0 / math.log(2.0 if _name == "Log2" else 10.0))


for _name, _key in {
    "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus",
    "Softsign": "softsign",
    "Silu": "silu", "Selu": "selu", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "HardTanh": "hard_tanh",
    "LogSigmoid": "log_sigmoid", "TanhShrink": "tanh_shrink", "Squareplus": "squareplus", "SparsePlus": "sparse_plus",
    "SparseSigmoid": "sparse_sigmoid", "Identity": "linear", "StopGradient": "linear", "Copy": "linear",
}.items():  # fmt: skip

    @operation(_name)
    def _act(c: Call, x: Any, _key: str = _key, **k: Any) -> Value:
        v = value(c, x)
        if _key in ("relu", "relu6") and not v.dtype.is_float:
            if v.dtype.kind != "u":
                v = c.b.maximum(numeric(c, v), 0)
            return c.b.minimum(v, 6) if _key == "relu6" else v
        return ACTIVATIONS[_key](c, v if _key in ("relu", "linear") else floats(c, v))


@operation("Gelu")
def _gelu(c: Call, x: Any, **k: Any) -> Value:
    return c.b.gelu(floats(c, x), approximate=bool(option(c, k, "approximate", True)))


@operation("LeakyRelu")
def _leaky(c: Call, x: Any, **k: Any) -> Value:
    return c.b.leaky_relu(floats(c, x), alpha=float(option(c, k, "negative_slope", 0.2)))


@operation("Elu")
def _elu(c: Call, x: Any, **k: Any) -> Value:
    return c.b.elu(floats(c, x), alpha=float(option(c, k, "alpha", 1.0)))


@operation("Celu")
def _celu(c: Call, x: Any, **k: Any) -> Value:
    return c.b.celu(floats(c, x), alpha=float(option(c, k, "alpha", 1.0)))


@operation("Glu")
def _glu(c: Call, x: Any, **k: Any) -> Value:
    return glu(c, floats(c, x), option(c, k, "axis", -1))


@operation("Sparsemax")
def _sparsemax(c: Call, x: Any, **k: Any) -> Value:
    return sparsemax(c, floats(c, x), option(c, k, "axis", -1))


@operation("Softmax")
def _softmax(c: Call, x: Any, **k: Any) -> Value:
    v = floats(c, x)
    return c.b.softmax(v, axes=axes_option(c, k, v.rank))


@operation("LogSoftmax")
def _log_softmax(c: Call, x: Any, **k: Any) -> Value:
    v = floats(c, x)
    return c.b.log_softmax(v, axes=axes_option(c, k, v.rank))


@operation("Clip")
def _clip(c: Call, x: Any, **k: Any) -> Value:
    v = numeric(c, x)
    # The upper bound first, as tf.clip_by_value has it: it shows where the bounds cross.
    for key, op in (("x_max", "minimum"), ("x_min", "maximum")):
        bound = option(c, k, key)
        if bound is not None:
            v = c.b.apply(op, pair(c, v, bound), {})[0]
    return v


@operation("Where")
def _where(c: Call, condition: Any, x1: Any = None, x2: Any = None, **k: Any) -> Value:
    if x1 is None or x2 is None:
        raise c.refuse("where with one argument is not supported", hint="use keras.ops.nonzero")
    a, b = pair(c, x1, x2)
    return c.b.where(c.bool_mask(value(c, condition)), a, b)


@operation("Cast")
def _cast(c: Call, x: Any, **k: Any) -> Value:
    return c.cast(value(c, x), dtype(option(c, k, "dtype")))


@operation("Normalize")
def _normalize(c: Call, x: Any, **k: Any) -> Value:
    v, order = floats(c, x), option(c, k, "order", 2)
    epsilon, axes = option(c, k, "epsilon", 1e-7), axes_option(c, k, v.rank)
    if order == 2:
        # keras.ops.nn.normalize: the square of the length is kept from 0, by the square of epsilon where that is safe.
        return l2_normalize(c, v, axes, float(epsilon) ** 2 if epsilon > 1e-10 else float(epsilon))
    return c.b.div(v, c.b.maximum(length(c, v, order, axes, True), float(epsilon)))


# -- reductions ------------------------------------------------------------------------------------------------------

for _name, _op in {"Sum": "sum", "Max": "max", "Min": "min", "Prod": "prod", "Amax": "max", "Amin": "min"}.items():

    @operation(_name)
    def _reduce(c: Call, x: Any, _op: str = _op, **k: Any) -> Any:
        v = value(c, x)
        attrs = {"axes": axes_option(c, k, v.rank), "keepdims": bool(option(c, k, "keepdims", False))}
        if option(c, k, "dtype") is not None:
            v = c.cast(v, dtype(option(c, k, "dtype")))
        elif _op in ("sum", "prod"):
            v = widened(c, v)
        if v.dtype is BOOL:
            out = c.b.apply("reduce_any" if _op == "max" else "reduce_all", [v], attrs)[0]
        else:
            out = c.b.apply(f"reduce_{_op}", [v], attrs)[0]
        initial = option(c, k, "initial")
        if initial is None:
            return out
        start = c.cast(value(c, initial, v.dtype), v.dtype)
        if v.dtype is BOOL:
            return c.b.apply("logical_or" if _op == "max" else "logical_and", (out, start), {})[0]
        return c.b.apply(f"{_op}imum", (out, start), {})[0]


@operation("Mean")
def _mean(c: Call, x: Any, **k: Any) -> Value:
    v = floats(c, x)
    return c.b.reduce_mean(v, axes=axes_option(c, k, v.rank), keepdims=bool(option(c, k, "keepdims", False)))


@operation("Var", "Std")
def _var(c: Call, x: Any, **k: Any) -> Value:
    v, b = floats(c, x), c.b
    axes = axes_option(c, k, v.rank)
    centred = b.square(b.sub(v, b.reduce_mean(v, axes=axes, keepdims=True)))
    out = b.reduce_mean(centred, axes=axes, keepdims=bool(option(c, k, "keepdims", False)))
    return b.sqrt(out) if c.spec.class_name == "Std" else out


@operation("Any", "All")
def _any(c: Call, x: Any, **k: Any) -> Any:
    v = c.bool_mask(value(c, x))
    attrs = {"axes": axes_option(c, k, v.rank), "keepdims": bool(option(c, k, "keepdims", False))}
    return c.b.apply(f"reduce_{c.spec.class_name.lower()}", [v], attrs)[0]


@operation("Argmax", "Argmin")
def _argmax(c: Call, x: Any, **k: Any) -> Any:
    v, axis = value(c, x), option(c, k, "axis")
    keep = bool(option(c, k, "keepdims", False))
    if axis is None:
        v, axis = c.b.reshape(v, shape=(product(v.shape),)), 0
    out = c.b.apply(c.spec.class_name.lower(), [v], {"axis": c.axis(axis, v.rank), "keepdims": keep})[0]
    return c.cast(out, I32 if c.version[0] >= 3 else I64)


def length(c: Call, v: Value, order: Any, axes: Sequence[int], keep: bool) -> Value:
    """The norm of vectors (one axis) or matrices (two), or the root of the sum of squares."""
    b, size = c.b, c.b.abs(v)
    over = lambda op, x, a, kept=True: c.b.apply(f"reduce_{op}", [x], {"axes": tuple(a), "keepdims": kept})[0]
    if order is None or order == "fro" or (order == 2 and len(axes) == 1):
        return b.sqrt(over("sum", b.square(v), axes, keep))
    if len(axes) == 1 and isinstance(order, (int, float)):
        if order in (math.inf, -math.inf):
            return over("max" if order > 0 else "min", size, axes, keep)
        if order == 0:
            return over("sum", c.cast(b.ne(v, 0), v.dtype), axes, keep)
        if order == 1:
            return over("sum", size, axes, keep)
        return b.pow(over("sum", b.pow(size, float(order)), axes, keep), 1.0 / order)
    if len(axes) == 2 and order in (1, -1, math.inf, -math.inf):
        row, column = axes if abs(order) == 1 else axes[::-1]
        found = over("max" if order > 0 else "min", over("sum", size, (row,)), (column,))
        return found if keep else b.reshape(found, shape=tuple(d for i, d in enumerate(v.shape) if i not in axes))
    raise c.refuse(f"norm with ord={order!r} over {len(axes)} axes is not supported")


@operation("Norm")
def _norm(c: Call, x: Any, **k: Any) -> Value:
    v, order = floats(c, x), option(c, k, "ord")
    if isinstance(order, str) and order != "fro":
        order = {"inf": math.inf, "-inf": -math.inf}.get(order, order)
    return length(c, v, order, axes_option(c, k, v.rank), bool(option(c, k, "keepdims", False)))


@operation("Logsumexp")
def _logsumexp(c: Call, x: Any, **k: Any) -> Value:
    v, b = floats(c, x), c.b
    axes, keep = axes_option(c, k, v.rank), bool(option(c, k, "keepdims", False))
    top = b.reduce_max(v, axes=axes, keepdims=True)
    y = b.add(b.log(b.reduce_sum(b.exp(b.sub(v, top)), axes=axes, keepdims=True)), top)
    return y if keep else b.reshape(y, shape=tuple(d for i, d in enumerate(v.shape) if i not in axes))


@operation("Cumsum", "Cumprod")
def _cumulate(c: Call, x: Any, **k: Any) -> Any:
    v, axis, kind = numeric(c, x), option(c, k, "axis"), option(c, k, "dtype")
    v = c.cast(v, dtype(kind)) if kind else v
    if axis is None:
        v, axis = c.b.reshape(v, shape=(product(v.shape),)), 0
    return c.b.apply(c.spec.class_name.lower(), [v], {"axis": c.axis(axis, v.rank)})[0]
