"""Functional Keras models of any rank as ONNX: channels first where windows slide, last elsewhere, as exporters do it.

Owns one rule per layer and where a transpose stands. Must not know the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from _onnx import Writer as Named

_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hard_silu": "HardSwish", "gelu": "Gelu"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value's name, its rank, and whether its channels stand before its spatial axes."""

    name: str
    rank: int
    first: bool


class Writer(Named):
    """Names nodes and constants by number."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.count = batch, 0

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        self.count += 1
        return self.constant(f"c{self.count}", value, dtype)

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        self.count += 1
        return self.node(kind, list(inputs), f"n{self.count}", **attributes)

    def activated(self, function: Any, x: Tensor) -> Tensor:
        """Softmax of channels goes over the last axis, where peers are fastest."""
        kind = function.__name__
        if kind == "linear":
            return x
        if kind == "softmax":
            x = self.last(x)
            return Tensor(self.add("Softmax", [x.name], axis=-1), x.rank, False)
        if kind in ("swish", "silu"):
            return Tensor(self.add("Mul", [x.name, self.add("Sigmoid", [x.name])]), x.rank, x.first)
        return Tensor(self.add(_ACTIVATIONS[kind], [x.name]), x.rank, x.first)

    def first(self, t: Tensor) -> Tensor:
        """``t`` with its channels before its spatial axes."""
        if t.first or t.rank < 3:
            return t
        perm = [0, t.rank - 1, *range(1, t.rank - 1)]
        return Tensor(self.add("Transpose", [t.name], perm=perm), t.rank, True)

    def last(self, t: Tensor) -> Tensor:
        """``t`` as Keras has it."""
        if not t.first or t.rank < 3:
            return Tensor(t.name, t.rank, False)
        return Tensor(self.add("Transpose", [t.name], perm=[0, *range(2, t.rank), 1]), t.rank, False)


def _per_channel(t: Tensor, value: Any) -> np.ndarray:
    flat = np.asarray(value, np.float32)
    return flat.reshape((-1,) + (1,) * (t.rank - 2)) if t.first and flat.size > 1 else flat


def _moved(kernel: np.ndarray) -> np.ndarray:
    """spatial..., in, out as out, in, spatial... (a transposed convolution's spatial..., out, in as in, out, ...)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _pads(layer: Any) -> dict[str, Any]:
    reach = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation_rate)]
    if layer.padding == "same" and max(layer.dilation_rate) == 1:
        return {"auto_pad": "SAME_UPPER"}
    if layer.padding == "same":
        return {"pads": [r // 2 for r in reach] + [r - r // 2 for r in reach]}
    return {"pads": [reach[0], 0] if layer.padding == "causal" else [0] * (2 * len(reach))}


def _conv(w: Writer, layer: Any, x: Tensor) -> Tensor:
    x, weights, kind = w.first(x), layer.get_weights(), type(layer).__name__
    bias = [w.const(weights[-1])] if layer.use_bias else []
    shape = {"strides": list(layer.strides), "dilations": list(layer.dilation_rate), **_pads(layer)}
    name = x.name
    if kind.startswith(("Depthwise", "Separable")):
        spread = np.moveaxis(weights[0], (-2, -1), (0, 1))
        spread = spread.reshape(-1, 1, *spread.shape[2:])
        inner = bias if kind.startswith("Depthwise") else []
        name = w.add("Conv", [name, w.const(spread), *inner], group=weights[0].shape[-2], **shape)
        if kind.startswith("Separable"):
            name = w.add("Conv", [name, w.const(_moved(weights[1])), *bias])
    else:
        name = w.add("Conv", [name, w.const(_moved(weights[0])), *bias], group=layer.groups, **shape)
    return w.activated(layer.activation, Tensor(name, x.rank, True))


def _conv_transpose(w: Writer, layer: Any, x: Tensor) -> Tensor:
    x, weights = w.first(x), layer.get_weights()
    over = [max(k - s, 0) for k, s in zip(layer.kernel_size, layer.strides)]
    inputs = [x.name, *(w.const(v) for v in (_moved(weights[0]), *weights[1:]))]
    pads = [o // 2 for o in over] + [o - o // 2 for o in over]
    name = w.add("ConvTranspose", inputs, strides=list(layer.strides), pads=pads)
    return w.activated(layer.activation, Tensor(name, x.rank, True))


def _batch_norm(w: Writer, layer: Any, x: Tensor) -> Tensor:
    keys = [*(["gamma"] if layer.scale else []), *(["beta"] if layer.center else []), "mean", "variance"]
    values = dict(zip(keys, layer.get_weights()))
    plain = {"gamma": np.ones_like(values["mean"]), "beta": np.zeros_like(values["mean"])} | values
    x = w.first(x)
    parts = [w.const(plain[key]) for key in ("gamma", "beta", "mean", "variance")]
    return Tensor(w.add("BatchNormalization", [x.name, *parts], epsilon=float(layer.epsilon)), x.rank, x.first)


def _pool(w: Writer, layer: Any, x: Tensor) -> Tensor:
    x, kind = w.first(x), "MaxPool" if type(layer).__name__.startswith("Max") else "AveragePool"
    pads = {"auto_pad": "SAME_UPPER"} if layer.padding == "same" else {}
    size = {"kernel_shape": list(layer.pool_size), "strides": list(layer.strides)}
    return Tensor(w.add(kind, [x.name], **size, **pads), x.rank, True)


def _global_average(w: Writer, layer: Any, x: Tensor) -> Tensor:
    if x.first:
        name = w.add("GlobalAveragePool", [x.name])
        return Tensor(name, x.rank, True) if layer.keepdims else Tensor(w.add("Flatten", [name]), 2, False)
    axes = w.const(list(range(1, x.rank - 1)), np.int64)
    return Tensor(w.add("ReduceMean", [x.name, axes], keepdims=0), 2, False)


def _dense(w: Writer, layer: Any, x: Tensor) -> Tensor:
    weights = [w.const(v) for v in layer.get_weights()]
    if x.rank == 2:
        name = w.add("Gemm", [x.name, *weights])
    else:
        name = w.add("MatMul", [w.last(x).name, weights[0]])
        name = w.add("Add", [name, weights[1]]) if layer.use_bias else name
    return w.activated(layer.activation, Tensor(name, x.rank, False))


def _reshape(w: Writer, layer: Any, x: Tensor) -> Tensor:
    to = list(layer.output.shape[1:])
    if x.rank == 2 and to[:2] == [1, 1]:  # what a squeeze makes an image of one pixel
        return Tensor(w.add("Reshape", [x.name, w.const([w.batch, to[2], 1, 1], np.int64)]), 4, True)
    return Tensor(w.add("Reshape", [w.last(x).name, w.const([w.batch, *to], np.int64)]), len(to) + 1, False)


def _layer_norm(w: Writer, layer: Any, x: Tensor) -> Tensor:
    inputs = [w.last(x).name, *(w.const(v) for v in layer.get_weights())]
    return Tensor(w.add("LayerNormalization", inputs, axis=-1, epsilon=float(layer.epsilon)), x.rank, False)


def _resize(w: Writer, layer: Any, x: Tensor) -> Tensor:
    x, scales = w.first(x), w.const([1.0, 1.0, *map(float, np.atleast_1d(layer.size))])
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    how = nearest if layer.interpolation == "nearest" else linear
    return Tensor(w.add("Resize", [x.name, "", scales], **how), x.rank, True)


def _pad(w: Writer, layer: Any, x: Tensor) -> Tensor:
    x = w.first(x)
    pads = [0, 0, *(low for low, _ in layer.padding), 0, 0, *(high for _, high in layer.padding)]
    return Tensor(w.add("Pad", [x.name, w.const(pads, np.int64)]), x.rank, True)


def _crop(w: Writer, layer: Any, x: Tensor) -> Tensor:
    x, count = w.first(x), len(layer.cropping)
    ends = [-high if high else np.iinfo(np.int64).max for _, high in layer.cropping]
    bounds = ([low for low, _ in layer.cropping], ends, list(range(2, 2 + count)))
    return Tensor(w.add("Slice", [x.name, *(w.const(v, np.int64) for v in bounds)]), x.rank, True)


def _attention(w: Writer, layer: Any, x: Tensor, length: int, causal: bool) -> Tensor:
    x = w.last(x)
    q, qb, k, kb, v, vb, o, ob = layer.get_weights()
    _, heads, depth = q.shape
    parts = []
    for kernel, bias, perm in ((q, qb, [0, 2, 1, 3]), (k, kb, [0, 2, 3, 1]), (v, vb, [0, 2, 1, 3])):
        y = w.add("MatMul", [x.name, w.const(kernel.reshape(len(kernel), -1))])
        y = w.add("Add", [y, w.const(bias.ravel())])
        y = w.add("Reshape", [y, w.const([w.batch, length, heads, depth], np.int64)])
        parts.append(w.add("Transpose", [y], perm=perm))
    scores = w.add("Mul", [w.add("MatMul", parts[:2]), w.const(depth**-0.5)])
    if causal:
        scores = w.add("Add", [scores, w.const(np.triu(np.full((length, length), -1e9), 1))])
    mixed = w.add("MatMul", [w.add("Softmax", [scores], axis=-1), parts[2]])
    mixed = w.add("Transpose", [mixed], perm=[0, 2, 1, 3])
    mixed = w.add("Reshape", [mixed, w.const([w.batch, length, heads * depth], np.int64)])
    return Tensor(w.add("Add", [w.add("MatMul", [mixed, w.const(o.reshape(-1, o.shape[-1]))]), w.const(ob)]), 3, False)


def _recurrent_weights(cell: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kernel, recurrent, bias = cell.get_weights()
    if type(cell).__name__ == "GRU":  # z r h in both; two biases
        return kernel.T, recurrent.T, bias.ravel()

    def gates(array: np.ndarray) -> np.ndarray:
        """Keras orders i f c o; ONNX i o f c."""
        i, f, c, o = np.split(array, 4, -1)
        return np.concatenate([i, o, f, c], -1)

    return gates(kernel).T, gates(recurrent).T, np.concatenate([gates(bias), np.zeros_like(bias)])


def _recurrent(w: Writer, layer: Any, x: Tensor) -> Tensor:
    """Steps first, as the operators want them."""
    both = type(layer).__name__ == "Bidirectional"
    cells = [layer.forward_layer, layer.backward_layer] if both else [layer]
    kind, units, steps = type(cells[0]).__name__, cells[0].units, layer.input.shape[1]
    turned = w.add("Transpose", [w.last(x).name], perm=[1, 0, 2])
    weights = [w.const(np.stack(parts)) for parts in zip(*map(_recurrent_weights, cells))]
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    w.count += 1
    every, final = f"every{w.count}", f"final{w.count}"
    direction = "bidirectional" if both else "forward"
    w.nodes.append(
        helper.make_node(kind, [turned, *weights], [every, final], hidden_size=units, direction=direction, **extra)
    )
    if cells[0].return_sequences:
        turned, shape = w.add("Transpose", [every], perm=[2, 0, 1, 3]), [w.batch, steps, len(cells) * units]
    else:
        turned, shape = w.add("Transpose", [final], perm=[1, 0, 2]), [w.batch, len(cells) * units]
    return Tensor(w.add("Reshape", [turned, w.const(shape, np.int64)]), len(shape), False)


def _relu(w: Writer, layer: Any, x: Tensor) -> Tensor:
    if layer.max_value is None:
        return Tensor(w.add("Relu", [x.name]), x.rank, x.first)
    return Tensor(w.add("Clip", [x.name, w.const(0.0), w.const(float(layer.max_value))]), x.rank, x.first)


def _prelu(w: Writer, layer: Any, x: Tensor) -> Tensor:
    x = w.first(x)
    return Tensor(w.add("PRelu", [x.name, w.const(np.moveaxis(layer.get_weights()[0], -1, 0))]), x.rank, True)


def _scaled(w: Writer, x: Tensor, factor: Any, term: Any) -> Tensor:
    y = w.add("Mul", [x.name, w.const(_per_channel(x, factor))])
    return Tensor(w.add("Add", [y, w.const(_per_channel(x, term))]), x.rank, x.first)


def _activation(w: Writer, layer: Any, x: Tensor) -> Tensor:
    return w.activated(layer.activation, x)


def _joined(kind: str) -> Callable[[Writer, Any, list[Any]], Tensor]:
    def rule(w: Writer, layer: Any, xs: list[Any]) -> Tensor:
        tensors = [x for x in xs if isinstance(x, Tensor)]
        rank = max(t.rank for t in tensors)
        first = any(t.first for t in tensors if t.rank == rank)
        names = []
        for x in xs:
            if isinstance(x, Tensor):
                names.append((w.first if first else w.last)(x).name)
            else:
                array = np.asarray(x, np.float32)
                names.append(w.const(np.moveaxis(array, -1, 1) if first and array.ndim else array))
        name = names[0]
        for other in names[1:]:
            name = w.add(kind, [name, other])
        return Tensor(name, rank, first)

    return rule


def _concat(w: Writer, layer: Any, xs: list[Any]) -> Tensor:
    rank, first = xs[0].rank, any(x.first for x in xs)
    axis = layer.axis % rank
    at = axis if not first else 1 if axis == rank - 1 else axis + 1
    return Tensor(w.add("Concat", [(w.first if first else w.last)(x).name for x in xs], axis=at), rank, first)


_WINDOWS = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2D", "SeparableConv2D")
_LAYERS: dict[str, Callable[[Writer, Any, Any], Tensor]] = {
    **dict.fromkeys(_WINDOWS, _conv), "Conv1DTranspose": _conv_transpose, "Conv2DTranspose": _conv_transpose,
    **{f"{kind}Pooling{d}D": _pool for kind in ("Max", "Average") for d in (1, 2, 3)},
    **{f"GlobalAveragePooling{d}D": _global_average for d in (1, 2, 3)}, "BatchNormalization": _batch_norm,
    "Dense": _dense, "Reshape": _reshape, "Flatten": _reshape, "LayerNormalization": _layer_norm,
    "UpSampling2D": _resize, "ZeroPadding2D": _pad, "Cropping2D": _crop,
    **dict.fromkeys(("LSTM", "GRU", "Bidirectional"), _recurrent), "ReLU": _relu, "PReLU": _prelu,
    "LeakyReLU": lambda w, l, x: Tensor(w.add("LeakyRelu", [x.name], alpha=float(l.negative_slope)), x.rank, x.first),
    "Activation": _activation, "Dropout": lambda w, l, x: x,
    "Rescaling": lambda w, l, x: _scaled(w, x, l.scale, l.offset),
    "Normalization": lambda w, l, x: _scaled(
        w, x, np.ravel(l.variance) ** -0.5, -np.ravel(l.mean) * np.ravel(l.variance) ** -0.5),
    "LayerScale": lambda w, l, x: Tensor(w.add("Mul", [x.name, w.const(_per_channel(x, l.gamma))]), x.rank, x.first),
    "Embedding": lambda w, l, x: Tensor(w.add("Gather", [w.const(l.get_weights()[0]), x.name]), x.rank + 1, False),
    "Add": _joined("Add"), "Multiply": _joined("Mul"), "Concatenate": _concat,
}  # fmt: skip
_SEVERAL = ("Add", "Multiply", "Concatenate")


def _slides(model: Any) -> bool:
    """The first layer that does more than scale slides a window: images come with their channels first."""
    kinds = (type(operation).__name__ for operation in model.operations)
    first = next(k for k in kinds if k not in ("InputLayer", "Rescaling", "Normalization"))
    return first in _WINDOWS or first in ("ZeroPadding2D", "Sequential")


def _walk(w: Writer, model: Any, known: dict[int, Tensor]) -> None:
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            layer, kind, args = node.operation, type(node.operation).__name__, node.arguments.args
            flat = list(args[0]) if isinstance(args[0], (list, tuple)) else list(args)
            xs = [known.get(id(v), v) for v in flat]
            if kind == "Sequential":
                inner = {id(layer._functional.inputs[0]): xs[0]}
                _walk(w, layer._functional, inner)
                result = inner[id(layer._functional.outputs[0])]
            elif kind == "MultiHeadAttention":
                result = _attention(
                    w, layer, xs[0], flat[0].shape[1], bool(node.arguments.kwargs.get("use_causal_mask"))
                )
            elif kind in _LAYERS:
                result = _LAYERS[kind](w, layer, xs if kind in _SEVERAL else xs[0])
            else:
                raise SystemExit(f"the benchmark's ONNX writer does not know {kind} ({layer.name})")
            known[id(node.outputs[0])] = result


def keras_to_onnx(model: Any, batch: int) -> onnx.ModelProto:
    """A functional model of one input and one output, for ``batch``; see ``turned`` for the input's layout."""
    w, given = Writer(batch), model.inputs[0]
    first = turned(model)
    x = Tensor("x", len(given.shape), first)
    known = {id(given): x}
    _walk(w, model, known)
    y = w.last(known[id(model.outputs[0])])
    shape = [batch, *given.shape[1:]]
    shape = [shape[0], shape[-1], *shape[1:-1]] if first else shape
    kind = onnx.TensorProto.INT32 if "int" in given.dtype else onnx.TensorProto.FLOAT
    return w.model({"x": shape}, {y.name: [batch, *model.outputs[0].shape[1:]]}, kind)


def turned(model: Any) -> bool:
    """Whether the ONNX model takes its input with channels first."""
    return len(model.inputs[0].shape) > 2 and _slides(model)


def lstm_to_onnx(model: Any, batch: int) -> onnx.ModelProto:
    """One LSTM and a dense layer, for inputs with their steps first: nothing is left to transpose."""
    w = Writer(batch)
    _, steps, features = model.input_shape
    lstm, head = (layer for layer in model.layers if layer.get_weights())
    weights = [w.const(v[None]) for v in _recurrent_weights(lstm)]
    w.nodes.append(helper.make_node("LSTM", ["x", *weights], ["", "last"], hidden_size=lstm.units))
    flat = w.add("Reshape", ["last", w.const([batch, lstm.units], np.int64)])
    y = _dense(w, head, Tensor(flat, 2, False))
    return w.model({"x": [steps, batch, features]}, {y.name: [batch, head.units]})
