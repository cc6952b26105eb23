"""TensorFlow calls inside Keras 2 functional models: TFOpLambda, SlicingOpLambda, TensorFlowOpLayer.

Owns a closed table from their names to ``keras.ops`` lowerings. Must not know layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....core.dtypes import F32, I32, dtype
from ....ir.graph import Value
from ..call import OPERATIONS, Call, layer
from ..config import Constant
from ..model import LayerSpec
from .ops import value
from .ops_shape import get_item

# TensorFlow function -> (keras.ops class, names of positional arguments in order).
_FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "math.add": ("Add", ("x", "y")), "__operators__.add": ("Add", ("x", "y")),
    "math.subtract": ("Subtract", ("x", "y")), "math.multiply": ("Multiply", ("x", "y")),
    "math.truediv": ("Divide", ("x", "y")), "math.divide": ("Divide", ("x", "y")),
    "math.maximum": ("Maximum", ("x", "y")), "math.minimum": ("Minimum", ("x", "y")), "math.pow": ("Power", ("x", "y")),
    "math.floordiv": ("FloorDivide", ("x", "y")), "math.greater": ("Greater", ("x", "y")),
    "math.less": ("Less", ("x", "y")), "math.equal": ("Equal", ("x", "y")), "math.not_equal": ("NotEqual", ("x", "y")),
    "math.greater_equal": ("GreaterEqual", ("x", "y")), "math.less_equal": ("LessEqual", ("x", "y")),
    "math.logical_and": ("LogicalAnd", ("x", "y")), "math.logical_or": ("LogicalOr", ("x", "y")),
    "math.squared_difference": ("SquaredDifference", ("x", "y")), "linalg.matmul": ("Matmul", ("a", "b")),
    "math.abs": ("Absolute", ("x",)), "math.negative": ("Negative", ("x",)), "math.square": ("Square", ("x",)),
    "math.sqrt": ("Sqrt", ("x",)), "math.rsqrt": ("Rsqrt", ("x",)), "math.exp": ("Exp", ("x",)),
    "math.log": ("Log", ("x",)), "math.log1p": ("Log1p", ("x",)), "math.sin": ("Sin", ("x",)),
    "math.cos": ("Cos", ("x",)), "math.tanh": ("Tanh", ("x",)), "math.sigmoid": ("Sigmoid", ("x",)),
    "math.sign": ("Sign", ("x",)), "math.floor": ("Floor", ("x",)), "math.ceil": ("Ceil", ("x",)),
    "math.softplus": ("Softplus", ("features",)), "nn.relu": ("Relu", ("features",)),
    "nn.relu6": ("Relu6", ("features",)), "nn.sigmoid": ("Sigmoid", ("x",)), "nn.tanh": ("Tanh", ("x",)),
    "nn.softplus": ("Softplus", ("features",)), "nn.silu": ("Silu", ("features",)), "nn.elu": ("Elu", ("features",)),
    "nn.selu": ("Selu", ("features",)), "nn.softsign": ("Softsign", ("features",)), "nn.gelu": ("Gelu", ("features",)),
    "nn.softmax": ("Softmax", ("logits",)), "math.reduce_sum": ("Sum", ("input_tensor",)),
    "math.reduce_mean": ("Mean", ("input_tensor",)), "math.reduce_max": ("Max", ("input_tensor",)),
    "math.reduce_min": ("Min", ("input_tensor",)), "math.reduce_prod": ("Prod", ("input_tensor",)),
    "math.argmax": ("Argmax", ("input",)), "reshape": ("Reshape", ("tensor", "shape")),
    "transpose": ("Transpose", ("a", "perm")), "expand_dims": ("ExpandDims", ("input", "axis")),
    "compat.v1.squeeze": ("Squeeze", ("input", "axis")), "squeeze": ("Squeeze", ("input", "axis")),
    "concat": ("Concatenate", ("values", "axis")), "stack": ("Stack", ("values", "axis")),
    "cast": ("Cast", ("x", "dtype")), "tile": ("Tile", ("input", "multiples")), "identity": ("Identity", ("input",)),
    "stop_gradient": ("StopGradient", ("input",)), "reverse": ("Flip", ("tensor", "axis")),
    "where": ("Where", ("condition", "x", "y")), "einsum": ("Einsum", ("equation",)),
    "clip_by_value": ("Clip", ("t", "clip_value_min", "clip_value_max")), "zeros_like": ("ZerosLike", ("input",)),
    "ones_like": ("OnesLike", ("input",)),
}  # fmt: skip
_RENAMED = {
    "shape": "newshape", "perm": "axes", "multiples": "repeats", "clip_value_min": "x_min", "clip_value_max": "x_max",
}  # fmt: skip
_TENSORS = frozenset(
    {"x", "y", "a", "b", "features", "logits", "input_tensor", "input", "tensor", "values", "condition", "t"}
)


@layer("TFOpLambda", autocast=False)
def _tf_lambda(c: Call, *args: Any, **kwargs: Any) -> Any:
    function = c.config.get("function")
    found = _FUNCTIONS.get(function) if isinstance(function, str) else None
    if found is None or function == "einsum":
        raise c.refuse(f"TensorFlow function {function!r} is not supported", "rewrite it with Keras layers")
    kind, names = found
    kwargs.pop("name", None)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    tensors = [given.pop(n) for n in names if n in _TENSORS and n in given]
    if any(given.get(k) for k in ("transpose_a", "transpose_b", "adjoint_a", "adjoint_b")):
        raise c.refuse(f"{function} with transposition is not supported")
    options = {_RENAMED.get(k, k): v for k, v in given.items() if v is not None}
    return _as_operation(c, kind, tensors, options)


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
    if item == "...":
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


__all__ = ["I32", "dtype"]
