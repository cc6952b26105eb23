"""Nodes and constants of an ONNX graph by name: what the peers of a benchmark read is written by hand, in the form that
they are fastest on.

Must not know layers or networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 20


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

    def model(
        self, inputs: dict[str, list[int]], outputs: dict[str, list[int]], given: int = onnx.TensorProto.FLOAT
    ) -> onnx.ModelProto:
        """The finished model; ``given`` is the type of its inputs."""
        ins = [helper.make_tensor_value_info(n, given, shape) for n, shape in inputs.items()]
        outs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "model", ins, outs, self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(proto)
        return proto
