"""Keras models as ONNX for the peers: images NCHW throughout, standard operators that their optimisers fuse.

Done by hand so that a peer gets the form it is fastest on, without a converter's transposes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 20
_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "Gelu", "softmax": "Softmax"}


class Writer:
    """Nodes and constants of one ONNX graph; every method gives the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        array = np.ascontiguousarray(value, dtype)
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def activation(self, kind: str, x: str, name: str) -> str:
        if kind == "linear":
            return x
        if kind in ("swish", "silu"):
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}/sigmoid")], f"{name}/swish")
        return self.node(_ACTIVATIONS[kind], [x], f"{name}/{kind}", **({"axis": -1} if kind == "softmax" else {}))

    def model(self, inputs: dict[str, list[int]], outputs: dict[str, list[int]]) -> onnx.ModelProto:
        def ports(named: dict[str, list[int]]) -> list[Any]:
            return [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in named.items()]

        graph = helper.make_graph(self.nodes, "model", ports(inputs), ports(outputs), self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(proto)
        return proto


def keras_cnn_to_onnx(model: Any, batch: int) -> onnx.ModelProto:
    """A functional image classifier. The input is NCHW. Raises SystemExit for a layer that it does not know."""
    w = Writer()
    names: dict[str, str] = {}
    _, height, width, channels = model.input_shape
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            names[layer.output.name] = "input"
            continue
        if kind not in _LAYERS:
            raise SystemExit(f"the benchmark's ONNX writer does not know {kind} ({layer.name})")
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        names[layer.output.name] = _LAYERS[kind](w, layer, [names[tensor.name] for tensor in sources])
    result = names[model.output.name]
    return w.model({"input": [batch, channels, height, width]}, {result: [batch, *model.output_shape[1:]]})


def _pad(w: Writer, layer: Any, x: list[str]) -> str:
    (top, bottom), (left, right) = layer.padding
    pads = w.constant(f"{layer.name}/pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
    return w.node("Pad", [x[0], pads], layer.name)


def _window(layer: Any) -> dict[str, Any]:
    return {"auto_pad": "SAME_UPPER"} if layer.padding == "same" else {"pads": [0, 0, 0, 0]}


def _conv(w: Writer, layer: Any, x: list[str]) -> str:
    weights = layer.get_weights()
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    # Keras: height, width, in, out (depthwise: in, multiplier); ONNX: out, in / group, height, width.
    kernel = weights[0].transpose(2, 3, 0, 1) if depthwise else weights[0].transpose(3, 2, 0, 1)
    kernel = kernel.reshape(-1, 1, *kernel.shape[2:]) if depthwise else kernel
    arguments = [x[0], w.constant(f"{layer.name}/w", kernel)]
    arguments += [w.constant(f"{layer.name}/b", weights[1])] if layer.use_bias else []
    group = weights[0].shape[2] if depthwise else 1
    out = w.node(
        "Conv", arguments, layer.name, strides=list(layer.strides), dilations=list(layer.dilation_rate), group=group,
        kernel_shape=list(layer.kernel_size), **_window(layer),
    )  # fmt: skip
    return w.activation(layer.activation.__name__, out, layer.name)


def _batch_norm(w: Writer, layer: Any, x: list[str]) -> str:
    values = dict(zip([*(["gamma"] if layer.scale else []), *(["beta"] if layer.center else []), "mean", "variance"],
                      layer.get_weights()))  # fmt: skip
    values.setdefault("gamma", np.ones_like(values["mean"]))
    values.setdefault("beta", np.zeros_like(values["mean"]))
    parts = [w.constant(f"{layer.name}/{key}", values[key]) for key in ("gamma", "beta", "mean", "variance")]
    return w.node("BatchNormalization", [x[0], *parts], layer.name, epsilon=float(layer.epsilon))


def _relu(w: Writer, layer: Any, x: list[str]) -> str:
    if getattr(layer, "max_value", None) is None:
        return w.node("Relu", x, layer.name)
    limits = [w.constant(f"{layer.name}/low", 0.0), w.constant(f"{layer.name}/high", float(layer.max_value))]
    return w.node("Clip", [x[0], *limits], layer.name)


def _max_pool(w: Writer, layer: Any, x: list[str]) -> str:
    size = {"kernel_shape": list(layer.pool_size), "strides": list(layer.strides)}
    return w.node("MaxPool", x, layer.name, **size, **_window(layer))


def _average_pool(w: Writer, layer: Any, x: list[str]) -> str:
    size = {"kernel_shape": list(layer.pool_size), "strides": list(layer.strides)}
    return w.node("AveragePool", x, layer.name, **size, **_window(layer))


def _global_average(w: Writer, layer: Any, x: list[str]) -> str:
    pooled = w.node("GlobalAveragePool", x, f"{layer.name}/pool")
    return pooled if layer.keepdims else w.node("Flatten", [pooled], layer.name)


def _dense(w: Writer, layer: Any, x: list[str]) -> str:
    kernel, bias = layer.get_weights()
    out = w.node("Gemm", [x[0], w.constant(f"{layer.name}/w", kernel), w.constant(f"{layer.name}/b", bias)], layer.name)
    return w.activation(layer.activation.__name__, out, layer.name)


def _reshape(w: Writer, layer: Any, x: list[str]) -> str:
    height, width, channels = layer.target_shape
    return w.node(
        "Reshape", [x[0], w.constant(f"{layer.name}/to", [-1, channels, height, width], np.int64)], layer.name
    )


def _rescaling(w: Writer, layer: Any, x: list[str]) -> str:
    def channelled(value: Any) -> Any:
        return np.asarray(value, np.float32).reshape((-1, 1, 1) if np.size(value) > 1 else ())

    scaled = w.node("Mul", [x[0], w.constant(f"{layer.name}/scale", channelled(layer.scale))], f"{layer.name}/mul")
    return w.node("Add", [scaled, w.constant(f"{layer.name}/offset", channelled(layer.offset))], layer.name)


def _normalization(w: Writer, layer: Any, x: list[str]) -> str:
    mean, variance = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (layer.mean, layer.variance))
    centred = w.node("Sub", [x[0], w.constant(f"{layer.name}/mean", mean)], f"{layer.name}/sub")
    return w.node("Div", [centred, w.constant(f"{layer.name}/deviation", np.sqrt(variance))], layer.name)


_LAYERS: dict[str, Callable[[Writer, Any, list[str]], str]] = {
    "ZeroPadding2D": _pad,
    "Conv2D": _conv,
    "DepthwiseConv2D": _conv,
    "BatchNormalization": _batch_norm,
    "ReLU": _relu,
    "Activation": lambda w, layer, x: w.activation(layer.activation.__name__, x[0], layer.name),
    "Add": lambda w, layer, x: w.node("Add", x, layer.name),
    "Multiply": lambda w, layer, x: w.node("Mul", x, layer.name),
    "Concatenate": lambda w, layer, x: w.node("Concat", x, layer.name, axis=1),
    "Dropout": lambda w, layer, x: x[0],
    "MaxPooling2D": _max_pool,
    "AveragePooling2D": _average_pool,
    "GlobalAveragePooling2D": _global_average,
    "Dense": _dense,
    "Reshape": _reshape,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
}


def encoder_to_onnx(model: Any, batch: int) -> onnx.ModelProto:
    """The encoder of ``_models.py`` with fixed batch: Q, K and V as one Gemm each, softmax, exact Gelu, layer norms."""
    w = Writer()
    _, length, width = model.input_shape
    layers = [layer for layer in model.layers if layer.get_weights()]
    x = "x"
    for i in range(0, len(layers), 5):
        attend, norm1, up, down, norm2 = layers[i : i + 5]
        q, qb, k, kb, v, vb, o, ob = attend.get_weights()
        heads, depth = q.shape[1:]
        parts = []
        for name, kernel, bias in (("q", q, qb), ("k", k, kb), ("v", v, vb)):
            flat = w.constant(f"{i}/{name}/w", kernel.reshape(width, -1))
            product = w.node("MatMul", [x, flat], f"{i}/{name}/mm")
            y = w.node("Add", [product, w.constant(f"{i}/{name}/b", bias.ravel())], f"{i}/{name}")
            split = w.constant(f"{i}/{name}/split", [batch, length, heads, depth], np.int64)
            y = w.node("Reshape", [y, split], f"{i}/{name}/heads")
            parts.append(w.node("Transpose", [y], f"{i}/{name}/t", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]))
        scores = w.node("MatMul", parts[:2], f"{i}/scores")
        scores = w.node("Div", [scores, w.constant(f"{i}/scale", float(np.sqrt(depth)))], f"{i}/scaled")
        mixed = w.node("MatMul", [w.node("Softmax", [scores], f"{i}/softmax", axis=-1), parts[2]], f"{i}/mixed")
        mixed = w.node("Transpose", [mixed], f"{i}/mixed/t", perm=[0, 2, 1, 3])
        joined = w.node("Reshape", [mixed, w.constant(f"{i}/join", [batch, length, width], np.int64)], f"{i}/joined")
        out = _affine(w, joined, o.reshape(-1, width), ob, f"{i}/out")
        x = _layer_norm(w, w.node("Add", [x, out], f"{i}/sum1"), norm1, f"{i}/norm1")
        h = w.node("Gelu", [_affine(w, x, *up.get_weights(), f"{i}/up")], f"{i}/gelu")
        out = _affine(w, h, *down.get_weights(), f"{i}/down")
        x = _layer_norm(w, w.node("Add", [x, out], f"{i}/sum2"), norm2, f"{i}/norm2")
    return w.model({"x": [batch, length, width]}, {x: [batch, length, width]})


def _affine(w: Writer, x: str, kernel: np.ndarray, bias: np.ndarray, name: str) -> str:
    product = w.node("MatMul", [x, w.constant(f"{name}/w", kernel)], f"{name}/mm")
    return w.node("Add", [product, w.constant(f"{name}/b", bias)], name)


def _layer_norm(w: Writer, x: str, layer: Any, name: str) -> str:
    gamma, beta = (w.constant(f"{name}/{i}", v) for i, v in enumerate(layer.get_weights()))
    return w.node("LayerNormalization", [x, gamma, beta], name, axis=-1, epsilon=float(layer.epsilon))


def lstm_to_onnx(model: Any, batch: int) -> onnx.ModelProto:
    """The LSTM of ``_models.py`` with fixed batch: time first, as the operator wants it."""
    w = Writer()
    _, steps, features = model.input_shape
    lstm, head = (layer for layer in model.layers if layer.get_weights())
    kernel, recurrent, bias = lstm.get_weights()
    units = lstm.units

    def gates(array: np.ndarray) -> np.ndarray:
        """Keras orders i f c o; ONNX i o f c."""
        i, f, c, o = np.split(array, 4, axis=-1)
        return np.concatenate([i, o, f, c], axis=-1)

    constants = [w.constant("w", gates(kernel).T[None]), w.constant("r", gates(recurrent).T[None]),
                 w.constant("b", np.concatenate([gates(bias), np.zeros(4 * units, np.float32)])[None])]  # fmt: skip
    w.nodes.append(helper.make_node("LSTM", ["x", *constants], ["", "last"], hidden_size=units))
    flat = w.node("Reshape", ["last", w.constant("to", [batch, units], np.int64)], "flat")
    return w.model({"x": [steps, batch, features]}, {_affine(w, flat, *head.get_weights(), "head"): [batch, 10]})
