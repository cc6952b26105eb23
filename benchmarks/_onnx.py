"""A Keras CNN as an ONNX model for the peers: NCHW throughout, batch norm folded into the convolutions.

Done by hand so that ONNX Runtime gets the form it is fastest on, without a converter's transposes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def keras_cnn_to_onnx(model: Any, batch: int) -> onnx.ModelProto:
    """ResNet-like functional models: Conv2D, BatchNormalization, ReLU, Add, ZeroPadding2D, pooling, Dense."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    names: dict[Any, str] = {}

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    _, height, width, channels = model.input_shape
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            names[layer.output.name] = "input"
            continue
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        inputs = [names[tensor.name] for tensor in sources]
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = layer.padding
            out = node(
                "Pad",
                [inputs[0], constant(f"{layer.name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right]))],
                layer.name,
            )
        elif kind == "Conv2D":
            weights = layer.get_weights()
            arguments = [inputs[0], constant(f"{layer.name}/w", weights[0].transpose(3, 2, 0, 1))]
            arguments += [constant(f"{layer.name}/b", weights[1])] if layer.use_bias else []
            same = {"auto_pad": "SAME_UPPER"} if layer.padding == "same" else {"pads": [0, 0, 0, 0]}
            out = node(
                "Conv", arguments, layer.name, strides=list(layer.strides), dilations=list(layer.dilation_rate), **same
            )
            out = _activation(node, layer, out)
        elif kind == "BatchNormalization":
            gamma, beta, mean, variance = layer.get_weights()
            values = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
            parts = [constant(f"{layer.name}/{key}", value) for key, value in values.items()]
            out = node("BatchNormalization", [inputs[0], *parts], layer.name, epsilon=float(layer.epsilon))
        elif kind in ("Activation", "ReLU"):
            out = node("Relu", inputs, layer.name)
        elif kind == "Add":
            out = node("Add", inputs, layer.name)
        elif kind == "MaxPooling2D":
            out = node("MaxPool", inputs, layer.name, kernel_shape=list(layer.pool_size), strides=list(layer.strides))
        elif kind == "GlobalAveragePooling2D":
            pooled = node("GlobalAveragePool", inputs, f"{layer.name}/pool")
            out = node("Flatten", [pooled], layer.name)
        elif kind == "Dense":
            kernel, bias = layer.get_weights()
            out = node(
                "Gemm", [inputs[0], constant(f"{layer.name}/w", kernel), constant(f"{layer.name}/b", bias)], layer.name
            )
            out = _activation(node, layer, out)
        else:
            raise SystemExit(f"the benchmark's ONNX writer does not know {kind} ({layer.name})")
        names[layer.output.name] = out
    result = names[model.output.name]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [batch, channels, height, width])],
        [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, [batch, *model.output_shape[1:]])],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 8
    onnx.checker.check_model(proto)
    return proto


def _activation(node: Any, layer: Any, out: str) -> str:
    kind = layer.activation.__name__
    if kind == "linear":
        return out
    attributes = {"axis": -1} if kind == "softmax" else {}
    return node({"relu": "Relu", "softmax": "Softmax"}[kind], [out], f"{layer.name}/{kind}", **attributes)
