"""``keras.ops`` nodes of Keras 3 functional models, as far as the IR reaches.

Owns their arguments and Keras' type promotion. Must not know layers. A node's options are in its config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from ....core.dims import Extent, product
from ....core.dtypes import BF16, BOOL, F16, F32, F64, I32, I64, DType, dtype
from ....ir.graph import Value
from ..call import Call, operation
from ..config import Constant
from .activation import ACTIVATIONS, glu, sparsemax
from .merge import l2_normalize
from .reshape import repeat as repeat_axis
from .reshape import resolve

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


# -- elementwise -----------------------------------------------------------------------------------------------------

for _name, _op in {
    "Add": "add", "Subtract": "sub", "Multiply": "mul", "Maximum": "maximum", "Minimum": "minimum", "Power": "pow",
    "FloorDivide": "floordiv", "Mod": "mod", "Equal": "eq", "NotEqual": "ne", "Less": "lt", "LessEqual": "le",
    "Greater": "gt", "GreaterEqual": "ge",
}.items():  # fmt: skip

    @operation(_name)
    def _binary(c: Call, x1: Any, x2: Any, _op: str = _op, **k: Any) -> Any:
        return c.b.apply(_op, pair(c, x1, x2), {})[0]


@operation("Divide", "TrueDivide")
def _divide(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    a, b = pair(c, x1, x2)
    return c.b.div(floats(c, a), floats(c, b))


@operation("DivideNoNan")
def _divide_no_nan(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    a, b = (floats(c, v) for v in pair(c, x1, x2))
    zero = c.b.eq(b, 0)
    return c.b.where(zero, 0.0, c.b.div(a, c.b.where(zero, 1.0, b)))


@operation("Arctan2")
def _arctan2(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    return c.b.atan2(*(floats(c, v) for v in pair(c, x1, x2)))


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
        return c.b.apply(_op, [value(c, x)], {})[0]


for _name, _op in {
    "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Exp": "exp", "Expm1": "expm1", "Log": "log", "Log1p": "log1p", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Arcsin": "asin", "Arccos": "acos", "Arctan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Arcsinh": "asinh", "Arccosh": "acosh", "Arctanh": "atanh", "Erf": "erf", "Reciprocal": "reciprocal",
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Trunc": "trunc", "Isnan": "isnan", "Isinf": "isinf",
    "Isfinite": "isfinite",
}.items():  # fmt: skip

    @operation(_name)
    def _float_unary(c: Call, x: Any, _op: str = _op, **k: Any) -> Any:
        if _op == "round" and option(c, k, "decimals", 0):
            raise c.refuse("decimals is not supported")
        return c.b.apply(_op, [floats(c, x)], {})[0]


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
        return ACTIVATIONS[_key](c, value(c, x) if _key in ("relu", "linear") else floats(c, x))


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
    v = value(c, x)
    for key, op in (("x_min", "maximum"), ("x_max", "minimum")):
        bound = option(c, k, key)
        if bound is not None:
            v = c.b.apply(op, pair(c, v, bound), {})[0]
    return v


@operation("Where")
def _where(c: Call, condition: Any, x1: Any = None, x2: Any = None, **k: Any) -> Value:
    if x1 is None or x2 is None:
        raise c.refuse("where with one argument has a shape that depends on values")
    a, b = pair(c, x1, x2)
    return c.b.where(c.bool_mask(value(c, condition)), a, b)


@operation("Cast")
def _cast(c: Call, x: Any, **k: Any) -> Value:
    return c.cast(value(c, x), dtype(option(c, k, "dtype")))


@operation("Normalize")
def _normalize(c: Call, x: Any, **k: Any) -> Value:
    v = floats(c, x)
    if option(c, k, "order", 2) != 2:
        raise c.refuse("only order 2 is supported")
    epsilon = option(c, k, "epsilon", 1e-7)
    return l2_normalize(c, v, axes_option(c, k, v.rank), float(epsilon) ** 2 if epsilon > 1e-10 else float(epsilon))


# -- reductions ------------------------------------------------------------------------------------------------------

for _name, _op in {"Sum": "sum", "Max": "max", "Min": "min", "Prod": "prod", "Amax": "max", "Amin": "min"}.items():

    @operation(_name)
    def _reduce(c: Call, x: Any, _op: str = _op, **k: Any) -> Any:
        v = value(c, x)
        if option(c, k, "initial") is not None:
            raise c.refuse("initial is not supported")
        axes = axes_option(c, k, v.rank)
        return c.b.apply(f"reduce_{_op}", [v], {"axes": axes, "keepdims": bool(option(c, k, "keepdims", False))})[0]


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


@operation("Norm")
def _norm(c: Call, x: Any, **k: Any) -> Value:
    v = floats(c, x)
    order = option(c, k, "ord")
    axes = axes_option(c, k, v.rank)
    keep = bool(option(c, k, "keepdims", False))
    if order in (None, 2, "fro") and (order is None or len(axes) == 1):
        return c.b.sqrt(c.b.reduce_sum(c.b.square(v), axes=axes, keepdims=keep))
    if order == 1 and len(axes) == 1:
        return c.b.reduce_sum(c.b.abs(v), axes=axes, keepdims=keep)
    raise c.refuse(f"norm with ord={order!r} is not supported")


@operation("Logsumexp")
def _logsumexp(c: Call, x: Any, **k: Any) -> Value:
    v, b = floats(c, x), c.b
    axes, keep = axes_option(c, k, v.rank), bool(option(c, k, "keepdims", False))
    top = b.reduce_max(v, axes=axes, keepdims=True)
    y = b.add(b.log(b.reduce_sum(b.exp(b.sub(v, top)), axes=axes, keepdims=True)), top)
    return y if keep else b.reshape(y, shape=tuple(d for i, d in enumerate(v.shape) if i not in axes))


@operation("Cumsum", "Cumprod")
def _cumulate(c: Call, x: Any, **k: Any) -> Any:
    v, axis = value(c, x), option(c, k, "axis")
    if axis is None:
        raise c.refuse("an axis is needed")
    return c.b.apply(c.spec.class_name.lower(), [v], {"axis": c.axis(axis, v.rank)})[0]


# -- shape -----------------------------------------------------------------------------------------------------------


@operation("Reshape")
def _reshape(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    target = option(c, k, "newshape")
    target = list(target if isinstance(target, (list, tuple)) else [target])
    if any(type(t) is not int for t in target):
        raise c.refuse(f"newshape={target!r} is not a fixed shape")
    return c.b.reshape(v, shape=tuple(keep_batch(c, v, target)))


def keep_batch(c: Call, v: Value, target: list[int]) -> list[Extent]:
    """A reshape target with -1 worked out from symbolic extents."""
    return resolve(c, product(v.shape), list(target))


@operation("Transpose")
def _transpose(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    perm = option(c, k, "axes")
    return c.b.transpose(
        v, perm=tuple(reversed(range(v.rank))) if perm is None else tuple(c.axis(a, v.rank) for a in perm)
    )


@operation("Swapaxes")
def _swapaxes(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    i, j = c.axis(option(c, k, "axis1"), v.rank), c.axis(option(c, k, "axis2"), v.rank)
    perm = list(range(v.rank))
    perm[i], perm[j] = j, i
    return c.b.transpose(v, perm=tuple(perm))


@operation("ExpandDims")
def _expand_dims(c: Call, x: Any, **k: Any) -> Value:
    v, axis = value(c, x), option(c, k, "axis")
    shape = list(v.shape)
    for a in sorted(c.axis(a, v.rank + 1) for a in (axis if isinstance(axis, (list, tuple)) else [axis])):
        shape.insert(a, 1)
    return c.b.reshape(v, shape=tuple(shape))


@operation("Squeeze")
def _squeeze(c: Call, x: Any, **k: Any) -> Value:
    v, axis = value(c, x), option(c, k, "axis")
    drop = [i for i, d in enumerate(v.shape) if d == 1] if axis is None else list(axes_option(c, k, v.rank))
    if any(v.shape[i] != 1 for i in drop):
        raise c.refuse(f"axes {drop} of {v.type} are not all 1")
    return c.b.reshape(v, shape=tuple(d for i, d in enumerate(v.shape) if i not in drop))


def _values(c: Call, xs: Any) -> list[Value]:
    found = [value(c, x) for x in (xs if isinstance(xs, (list, tuple)) else [xs])]
    to = reduce(promote, [v.dtype for v in found])
    return [c.cast(v, to) for v in found]


@operation("Concatenate")
def _concatenate(c: Call, xs: Any, **k: Any) -> Value:
    found = _values(c, xs)
    return c.b.concat(*found, axis=c.axis(option(c, k, "axis", 0), found[0].rank))


@operation("Stack")
def _stack(c: Call, x: Any, **k: Any) -> Value:
    found = _values(c, x)
    axis = c.axis(option(c, k, "axis", 0), found[0].rank + 1)
    shape = (*found[0].shape[:axis], 1, *found[0].shape[axis:])
    return c.b.concat(*(c.b.reshape(v, shape=shape) for v in found), axis=axis)


@operation("Split")
def _split(c: Call, x: Any, **k: Any) -> list[Value]:
    v = value(c, x)
    axis, parts = c.axis(option(c, k, "axis", 0), v.rank), option(c, k, "indices_or_sections")
    size = v.shape[axis]
    if isinstance(parts, int):
        cuts: list[Extent] = [size // parts * i for i in range(1, parts)]
    else:
        cuts = list(parts)
    edges = [0, *cuts, size]
    lead, tail = (None,) * axis, (None,) * (v.rank - axis - 1)
    return [
        c.b.slice(v, starts=(*lead, lo, *tail), stops=(*lead, hi, *tail))
        for lo, hi in zip(edges, edges[1:], strict=False)
    ]


@operation("Flip")
def _flip(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    return c.b.reverse(v, axes=axes_option(c, k, v.rank))


@operation("Tile")
def _tile(c: Call, x: Any, **k: Any) -> Value:
    v, times = value(c, x), option(c, k, "repeats")
    times = [times] if isinstance(times, int) else list(times)
    shape = (*[1] * (len(times) - v.rank), *v.shape)
    times = [1] * (len(shape) - len(times)) + times
    v = c.b.reshape(v, shape=shape)
    for axis, n in enumerate(times):
        if n != 1:
            v = c.b.concat(*([v] * n), axis=axis)
    return v


@operation("Repeat")
def _repeat(c: Call, x: Any, **k: Any) -> Value:
    v, times, axis = value(c, x), option(c, k, "repeats"), option(c, k, "axis")
    if not isinstance(times, int) or axis is None:
        raise c.refuse("only one integer of repeats along one axis is supported")
    return repeat_axis(c, v, c.axis(axis, v.rank), times)


@operation("BroadcastTo")
def _broadcast_to(c: Call, x: Any, **k: Any) -> Value:
    return c.b.broadcast_to(value(c, x), shape=tuple(option(c, k, "shape")))


@operation("Pad")
def _pad(c: Call, x: Any, **k: Any) -> Value:
    v, widths = value(c, x), option(c, k, "pad_width")
    pads = [[w, w] if isinstance(w, int) else list(w) for w in widths]
    pads = pads * v.rank if len(pads) == 1 else pads
    mode = {"constant": "constant", "reflect": "reflect", "symmetric": "symmetric"}.get(
        str(option(c, k, "mode", "constant"))
    )
    if mode is None or len(pads) != v.rank:
        raise c.refuse("these pad options are not supported")
    fill = option(c, k, "constant_values")
    low, high = tuple(p[0] for p in pads), tuple(p[1] for p in pads)
    if fill is not None and mode == "constant":
        return c.b.pad(v, value(c, fill, v.dtype), low=low, high=high)
    return c.b.pad(v, low=low, high=high, mode=mode)


@operation("GetItem")
def _get_item(c: Call, x: Any, key: Any, **k: Any) -> Value:
    return get_item(c, value(c, x), key)


def get_item(c: Call, v: Value, key: Any) -> Value:
    """NumPy basic indexing with constants."""
    items = list(key) if isinstance(key, (list, tuple)) else [key]
    taken = sum(i is not None and i is not Ellipsis for i in items)
    if Ellipsis in [i for i in items if i is None or i is Ellipsis]:
        at = next(n for n, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (v.rank - taken)
    else:
        items += [slice(None)] * (v.rank - taken)
    starts: list[Any] = []
    stops: list[Any] = []
    steps: list[int] = []
    shape: list[Any] = []
    flips: list[int] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = v.shape[axis]
        if isinstance(item, slice) and all(p is None or type(p) is int for p in (item.start, item.stop, item.step)):
            step = item.step or 1
            if step < 0:
                if item.start is not None or item.stop is not None or step != -1:
                    raise c.refuse("a negative step is only supported for a whole axis")
                flips.append(axis)
                step = 1
            starts.append(item.start)
            stops.append(item.stop)
            steps.append(step)
            shape.append("keep")
        elif type(item) is int:
            start = item + size if item < 0 else item
            starts.append(start)
            stops.append(start + 1)
            steps.append(1)
        else:
            raise c.refuse(f"index {item!r} is not supported")
        axis += 1
    if axis != v.rank:
        raise c.refuse(f"{axis} indices for {v.type}")
    dropped = [i for i, item in enumerate(i for i in items if i is not None) if type(item) is int]
    y = c.b.slice(v, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))
    if flips:
        y = c.b.reverse(y, axes=tuple(flips))
    kept = [d for i, d in enumerate(y.shape) if i not in dropped]
    final = [kept.pop(0) if s == "keep" else 1 for s in shape]
    return c.b.reshape(y, shape=tuple(final)) if tuple(final) != y.shape else y


# -- indices and contractions ----------------------------------------------------------------------------------------


@operation("Take")
def _take(c: Call, x: Any, indices: Any, **k: Any) -> Value:
    v, i = value(c, x), value(c, indices)
    axis = option(c, k, "axis")
    if axis is None:
        v, axis = c.b.reshape(v, shape=(product(v.shape),)), 0
    axis = c.axis(axis, v.rank)
    size = v.shape[axis]
    if isinstance(size, int):
        i = c.b.where(c.b.lt(i, 0), c.b.add(i, size), i)
    return c.b.gather(v, i, axis=axis)


@operation("OneHot")
def _one_hot(c: Call, x: Any, **k: Any) -> Value:
    v, depth, axis = value(c, x), option(c, k, "num_classes"), option(c, k, "axis", -1)
    if axis not in (-1, v.rank) or option(c, k, "sparse", False):
        raise c.refuse("only a dense one-hot on the last axis is supported")
    v = v if v.dtype.is_int else c.b.cast(v, to=I32)
    line = c.b.iota(shape=(depth,), axis=0, dtype=v.dtype)
    return c.cast(c.b.eq(c.b.reshape(v, shape=(*v.shape, 1)), line), dtype(option(c, k, "dtype", "float32")))


@operation("Matmul")
def _matmul(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    a, b = pair(c, x1, x2)
    if a.rank < 2 or b.rank < 2:
        raise c.refuse("vectors are not supported")
    return c.b.matmul(a, b)


@operation("Einsum")
def _einsum(c: Call, *operands: Any, **k: Any) -> Value:
    found = _values(c, list(operands))
    return c.b.einsum(*found, equation=str(option(c, k, "subscripts")))


@operation("ZerosLike", "OnesLike")
def _like(c: Call, x: Any, **k: Any) -> Value:
    v = value(c, x)
    kind = option(c, k, "dtype")
    return c.b.full(v.shape, int(c.spec.class_name == "OnesLike"), dtype(kind) if kind else v.dtype)


@operation("Arange")
def _arange(c: Call, *args: Any, **k: Any) -> Value:
    start, stop, step = (option(c, k, n) for n in ("start", "stop", "step"))
    numbers: Sequence[Any] = [a for a in (args or [v for v in (start, stop, step) if v is not None])]
    if not all(isinstance(n, (int, float)) for n in numbers):
        raise c.refuse("arange needs constants")
    kind = option(c, k, "dtype")
    array = np.arange(*numbers)
    return c.b.constant(array, dtype(kind) if kind else (I32 if array.dtype.kind == "i" else F32))


@operation("Dot")
def _dot(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    return _matmul(c, x1, x2)


Lower = Callable[..., Any]
