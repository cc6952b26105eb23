"""TensorFlow calls inside Keras 2 functional models: TFOpLambda, SlicingOpLambda, TensorFlowOpLayer.

Owns a closed table from their names to ``keras.ops`` lowerings. Must not know layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....core.dtypes import F32
from ....ir.graph import Value
from ..call import OPERATIONS, Call, layer
from ..config import Constant
from ..model import LayerSpec
from .merge import l2_normalize
from .ops import floats, value
from .ops_shape import get_item
from .reshape import resize

# TensorFlow function -> (keras.ops class, its tensors' names in order, other arguments as ``tf name=option``, defaults
# where the two disagree). ``compat.v1.`` forms take the same arguments.
_PLAIN: dict[str, str] = {
    "Add": "math.add __operators__.add", "Subtract": "math.subtract", "Multiply": "math.multiply",
    "Divide": "math.truediv math.divide", "Maximum": "math.maximum", "Minimum": "math.minimum", "Power": "math.pow pow",
    "FloorDivide": "math.floordiv floor_div", "Mod": "math.floormod math.mod",
    "Greater": "math.greater", "Less": "math.less",
    "Equal": "math.equal", "NotEqual": "math.not_equal", "GreaterEqual": "math.greater_equal",
    "LessEqual": "math.less_equal", "LogicalAnd": "math.logical_and", "LogicalOr": "math.logical_or",
    "LogicalXor": "math.logical_xor", "SquaredDifference": "math.squared_difference",
    "DivideNoNan": "math.divide_no_nan",
}  # fmt: skip
_UNARY: dict[str, str] = {
    "Absolute": "math.abs abs", "Negative": "math.negative", "Square": "math.square", "Sqrt": "math.sqrt",
    "Rsqrt": "math.rsqrt", "Exp": "math.exp", "Expm1": "math.expm1", "Log": "math.log", "Log1p": "math.log1p",
    "Sin": "math.sin", "Cos": "math.cos", "Tan": "math.tan", "Tanh": "math.tanh nn.tanh", "Arctan": "math.atan",
    "Arcsin": "math.asin", "Arccos": "math.acos", "Sinh": "math.sinh", "Cosh": "math.cosh", "Erf": "math.erf",
    "Sigmoid": "math.sigmoid nn.sigmoid", "Sign": "math.sign", "Floor": "math.floor", "Ceil": "math.ceil",
    "Round": "math.round", "Reciprocal": "math.reciprocal", "Softplus": "math.softplus nn.softplus", "Relu": "nn.relu",
    "Relu6": "nn.relu6", "Silu": "nn.silu nn.swish", "Elu": "nn.elu", "Selu": "nn.selu", "Softsign": "nn.softsign",
    "LogSigmoid": "math.log_sigmoid", "Identity": "identity", "StopGradient": "stop_gradient",
    "LogicalNot": "math.logical_not", "Isnan": "math.is_nan", "Isinf": "math.is_inf", "Isfinite": "math.is_finite",
    "ZerosLike": "zeros_like", "OnesLike": "ones_like", "Gelu": "nn.gelu", "LeakyRelu": "nn.leaky_relu",
    "Softmax": "nn.softmax", "LogSoftmax": "nn.log_softmax", "Sum": "math.reduce_sum", "Mean": "math.reduce_mean",
    "Max": "math.reduce_max", "Min": "math.reduce_min", "Prod": "math.reduce_prod", "Any": "math.reduce_any",
    "All": "math.reduce_all", "Std": "math.reduce_std", "Var": "math.reduce_variance",
    "Logsumexp": "math.reduce_logsumexp", "Argmax": "math.argmax", "Argmin": "math.argmin", "Cumsum": "math.cumsum",
    "Cumprod": "math.cumprod", "Reshape": "reshape", "Transpose": "transpose", "ExpandDims": "expand_dims",
    "Squeeze": "squeeze", "Tile": "tile", "Repeat": "repeat", "Flip": "reverse", "Roll": "roll",
    "BroadcastTo": "broadcast_to", "Cast": "cast", "Clip": "clip_by_value", "Pad": "pad", "OneHot": "one_hot",
    "TopK": "math.top_k", "Unstack": "unstack", "Normalize": "math.l2_normalize nn.l2_normalize",
}  # fmt: skip
# Names that the arguments behind the tensors have, in order, and the operation's option for each.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Reshape": ("shape=newshape",), "Transpose": ("perm=axes",), "ExpandDims": ("axis",), "Squeeze": ("axis",),
    "Tile": ("multiples=repeats",), "Repeat": ("repeats", "axis"), "Flip": ("axis",), "Roll": ("shift", "axis"),
    "BroadcastTo": ("shape",), "Cast": ("dtype",), "Clip": ("clip_value_min=x_min", "clip_value_max=x_max"),
    "Pad": ("paddings=pad_width", "mode", "constant_values"), "OneHot": ("depth=num_classes",), "TopK": ("k",),
    "Unstack": ("num", "axis"), "Normalize": ("axis", "epsilon"), "Softmax": ("axis",), "LogSoftmax": ("axis",),
    "LeakyRelu": ("alpha=negative_slope",), "Gelu": ("approximate",), "Argmax": ("axis",), "Argmin": ("axis",),
    **dict.fromkeys("Sum Mean Max Min Prod Any All Std Var Logsumexp".split(), ("axis", "keepdims")),
    **dict.fromkeys(("Cumsum", "Cumprod"), ("axis", "exclusive", "reverse")),
}  # fmt: skip
# What TensorFlow takes where nothing is said and keras.ops something else.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Softmax": {"axis": -1}, "LogSoftmax": {"axis": -1}, "Argmax": {"axis": 0}, "Argmin": {"axis": 0},
    "Gelu": {"approximate": False}, "Cumsum": {"axis": 0}, "Cumprod": {"axis": 0}, "TopK": {"k": 1},
    "Unstack": {"axis": 0},
}  # fmt: skip
_FUNCTIONS: dict[str, tuple[str, int]] = {
    name: (kind, count)
    for count, table in ((2, _PLAIN), (1, _UNARY))
    for kind, names in table.items()
    for name in names.split()
}
# Options that say nothing here, and those that only these values may have.
_SILENT = frozenset({"name", "output_type", "validate_indices", "sorted", "on_value", "off_value", "default_value"})
_ONLY: dict[str, Any] = {"exclusive": False, "reverse": False, "on_value": None, "off_value": None, "output_type": None}
_KEEP = {"keep_dims": "keepdims", "reduction_indices": "axis", "dim": "axis"}


@layer("TFOpLambda", autocast=False)
def _tf_lambda(c: Call, *args: Any, **kwargs: Any) -> Any:
    function = c.config.get("function")
    name = function.removeprefix("compat.v1.") if isinstance(function, str) else ""
    if name in _SPECIAL:
        return _SPECIAL[name](c, list(args), kwargs)
    if name not in _FUNCTIONS:
        raise c.refuse(f"TensorFlow function {function!r} is not supported", "rewrite it with Keras layers")
    kind, count = _FUNCTIONS[name]
    given = list(args)
    tensors = [_take(given, kwargs, n) for n in (_FIRST, _SECOND)[:count]]
    options = dict(_DEFAULTS.get(kind, {}))
    names = _ARGUMENTS.get(kind, ())
    for spec, item in [*zip(names, given, strict=False), *kwargs.items()]:
        key = next((n for n in names if n.partition("=")[0] == spec.partition("=")[0]), _KEEP.get(spec, spec))
        if item is None:
            continue
        if spec in _ONLY and item != _ONLY[spec]:
            raise c.refuse(f"{function} with {spec}={item!r} is not supported")
        if spec not in _SILENT:
            options[key.partition("=")[2] or key] = item
    if kind == "Divide" and not any(isinstance(t, Value) and t.dtype.is_float for t in tensors):
        raise c.refuse(f"{function} of integers gives float64 in TensorFlow", "cast to a float type first")
    if kind == "Mean" and not tensors[0].dtype.is_float:
        raise c.refuse(f"{function} of integers rounds down in TensorFlow", "cast to a float type first")
    if kind == "Pad":
        options["mode"] = str(options.get("mode", "constant")).lower()
    if kind == "Normalize":
        return _normalised(c, tensors[0], options)
    return _as_operation(c, kind, tensors, options)


_FIRST = ("x", "a", "features", "logits", "input_tensor", "input", "tensor", "values", "t", "value", "indices")
_SECOND = ("y", "b")


def _take(given: list[Any], kwargs: dict[str, Any], names: tuple[str, ...]) -> Any:
    """A tensor argument: the next one by position, else the one of these names."""
    if given:
        return given.pop(0)
    return kwargs.pop(next(n for n in names if n in kwargs))


def _normalised(c: Call, x: Value, options: dict[str, Any]) -> Value:
    """x / sqrt(max(sum(x^2), epsilon)), with epsilon under the root."""
    axis = options.get("axis", list(range(x.rank)))
    axes = tuple(c.axis(a, x.rank) for a in (axis if isinstance(axis, (list, tuple)) else [axis]))
    return l2_normalize(c, x, axes, float(options.get("epsilon", 1e-12)))


def _matmul(c: Call, args: list[Any], kwargs: dict[str, Any]) -> Value:
    a, b = (value(c, _take(args, kwargs, (n,))) for n in ("a", "b"))
    names = ("transpose_a", "transpose_b", "adjoint_a", "adjoint_b")
    flags = {**dict(zip(names, args, strict=False)), **kwargs}
    if any(flags.get(k) for k in ("a_is_sparse", "b_is_sparse")):
        raise c.refuse("sparse matrices are not supported")
    turn = lambda k: bool(flags.get(f"transpose_{k}") or flags.get(f"adjoint_{k}"))
    return c.b.matmul(a, b, transpose_a=turn("a"), transpose_b=turn("b"))


def _joined(kind: str) -> Callable[..., Any]:
    def join(c: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
        xs = _take(args, kwargs, ("values",))
        axis = args[0] if args else kwargs.get("axis", 0)
        return _as_operation(c, kind, [xs], {"axis": axis})

    return join


def _gather(c: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
    x, i = _take(args, kwargs, ("params",)), _take(args, kwargs, ("indices",))
    if kwargs.get("batch_dims") not in (None, 0):
        raise c.refuse("batch_dims is not supported")
    return _as_operation(c, "Take", [x, i], {"axis": kwargs.get("axis") or 0})


def _split(c: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
    x, parts = _take(args, kwargs, ("value",)), _take(args, kwargs, ("num_or_size_splits",))
    axis = args[0] if args else kwargs.get("axis") or 0
    if isinstance(parts, (list, tuple)):
        parts = [sum(parts[:i]) for i in range(1, len(parts))]
    return _as_operation(c, "Split", [x], {"axis": axis, "indices_or_sections": parts})


def _where(c: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
    found = [_take(args, kwargs, (n,)) for n in ("condition", "x", "y") if args or n in kwargs]
    return _as_operation(c, "Where", found, {})


def _einsum(c: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
    equation = next((a for a in args if isinstance(a, str)), kwargs.get("equation"))
    return _as_operation(c, "Einsum", [a for a in args if not isinstance(a, str)], {"subscripts": equation})


def _resize(c: Call, args: list[Any], kwargs: dict[str, Any]) -> Value:
    x, size = _take(args, kwargs, ("images",)), _take(args, kwargs, ("size",))
    method = str(args[0] if args else kwargs.get("method") or "bilinear")
    if kwargs.get("preserve_aspect_ratio"):
        raise c.refuse("preserve_aspect_ratio is not supported")
    keep = method == "nearest"
    return resize(c, x if keep else floats(c, x), tuple(size), method, bool(kwargs.get("antialias")))


_SPECIAL: dict[str, Callable[..., Any]] = {
    "linalg.matmul": _matmul, "concat": _joined("Concatenate"), "stack": _joined("Stack"), "gather": _gather,
    "split": _split, "where": _where, "where_v2": _where, "einsum": _einsum, "image.resize": _resize,
}  # fmt: skip


def _as_operation(c: Call, kind: str, tensors: list[Any], options: dict[str, Any]) -> Any:
    spec = LayerSpec(kind, c.spec.name, c.spec.path, {}, c.version)
    return OPERATIONS[kind](Call(c.lowerer, spec, [], c.b), *tensors, **options)


@layer("SlicingOpLambda", autocast=False)
def _slicing(c: Call, x: Value, slice_spec: Any = None, **ignored: Any) -> Value:
    if not isinstance(x, Value):
        raise c.refuse("only tensors are sliced")
    items = slice_spec if isinstance(slice_spec, (list, tuple)) else [slice_spec]
    return get_item(c, x, [_slice_item(c, i) for i in items])


def _slice_item(c: Call, item: Any) -> Any:
    if isinstance(item, dict):
        parts = [item.get(k) for k in ("start", "stop", "step")]
        if item.get("class_name") == "__ellipsis__":
            return Ellipsis
        return slice(*parts)
    if item in ("...", "Ellipsis"):
        return Ellipsis
    return item


_NODES: dict[str, tuple[str, Callable[[Call, list[Any]], tuple[list[Any], dict[str, Any]]]]] = {
    "Transpose": ("Transpose", lambda c, a: ([a[0]], {"axes": _ints(c, a[1])})),
    "Reshape": ("Reshape", lambda c, a: ([a[0]], {"newshape": _ints(c, a[1])})),
    "ExpandDims": ("ExpandDims", lambda c, a: ([a[0]], {"axis": _ints(c, a[1])[0]})),
    "Mean": ("Mean", lambda c, a: ([a[0]], {"axis": _ints(c, a[1])})),
    "Sum": ("Sum", lambda c, a: ([a[0]], {"axis": _ints(c, a[1])})),
    "Max": ("Max", lambda c, a: ([a[0]], {"axis": _ints(c, a[1])})),
}
for _tf, _keras in {
    "Add": "Add", "AddV2": "Add", "Sub": "Subtract", "Mul": "Multiply", "RealDiv": "Divide", "Maximum": "Maximum",
    "Minimum": "Minimum", "Pow": "Power", "Sqrt": "Sqrt", "Rsqrt": "Rsqrt", "Square": "Square", "Exp": "Exp",
    "Log": "Log",
    "Abs": "Absolute", "Neg": "Negative", "Relu": "Relu", "Relu6": "Relu6", "Sigmoid": "Sigmoid", "Tanh": "Tanh",
    "Softplus": "Softplus", "Identity": "Identity", "SquaredDifference": "SquaredDifference",
}.items():  # fmt: skip
    _NODES[_tf] = (_keras, lambda c, a: (a, {}))


def _ints(c: Call, item: Any) -> list[int]:
    array = np.asarray(item.value if isinstance(item, Constant) else item)
    if array.dtype.kind not in "iu":
        raise c.refuse("an axis or shape argument is not a constant")
    return [int(v) for v in array.reshape(-1)]


@layer("TensorFlowOpLayer", autocast=False)
def _tf_node(c: Call, given: Any, **ignored: Any) -> Any:
    """A NodeDef with some inputs stored as constants; attributes beyond types are refused."""
    node = c.config.get("node_def")
    constants = c.config.get("constants") or {}
    if not isinstance(node, dict) or not isinstance(constants, dict):
        raise c.refuse("only node_def as JSON is supported")
    kind = node.get("op")
    found = _NODES.get(kind) if isinstance(kind, str) else None
    if found is None:
        raise c.refuse(f"TensorFlow op {kind!r} is not supported", "rewrite it with Keras layers")
    attributes = node.get("attr") or {}
    keep = bool((attributes.get("keep_dims") or {}).get("b", False))
    inputs = list(given) if isinstance(given, (list, tuple)) else [given]
    total = len(inputs) + len(constants)
    args: list[Any] = []
    for i in range(total):
        args.append(constants[str(i)] if str(i) in constants else inputs.pop(0) if inputs else None)
    like = next((a.dtype for a in args if isinstance(a, Value)), F32)
    target, arrange = found
    tensors, options = arrange(c, args)
    tensors = [t if isinstance(t, Value) else value(c, _constant(t), like) for t in tensors]
    if keep:
        options["keepdims"] = True
    return _as_operation(c, target, tensors, options)


def _constant(item: Any) -> Any:
    return item if isinstance(item, (int, float, bool, list)) else 0
