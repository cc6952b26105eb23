"""ONNX operators whose options matter, on symbolic shapes, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto as T
from onnx import helper
from onnx import numpy_helper as nh

import fusewright as fw

RNG = np.random.default_rng(0)
N = helper.make_node


def V(name: str, shape: Any, kind: int = T.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def f32(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def agrees(
    nodes: Any, inputs: Any, outputs: Any, feeds: Mapping[str, np.ndarray], constants: Any = None, opset: int = 18,
    tolerance: float = 2e-5,
) -> fw.Graph:  # fmt: skip
    """Import and interpret; the same values as ONNX Runtime."""
    tensors = [nh.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    found = fw.import_model(proto)
    got = found.run(feeds)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for (name, g), w in zip(got.items(), session.run(None, dict(feeds)), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype, name
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance, err_msg=name)
    return found


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_with_lengths(kind: str, gates: int, direction: str):
    d = 2 if direction == "bidirectional" else 1
    graph = agrees(
        [N(kind, ["x", "W", "R", "B", "len"], ["y", "yh"], hidden_size=5, direction=direction)],
        [V("x", ["T", "N", 3]), V("len", ["N"], T.INT32)], [V("y", None), V("yh", None)],
        {"x": f32(7, 2, 3), "len": np.array([7, 4], np.int32)},
        {"W": f32(d, 5 * gates, 3), "R": f32(d, 5 * gates, 5), "B": f32(d, 10 * gates)},
    )  # fmt: skip
    assert graph.symbols == ("N", "T")


@pytest.mark.parametrize("after", [0, 1])
def test_gru_reset_before_and_after(after: int):
    agrees(
        [N("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=4, linear_before_reset=after)], [V("x", ["T", 2, 3])],
        [V("y", None)], {"x": f32(5, 2, 3)}, {"W": f32(1, 12, 3), "R": f32(1, 12, 4), "B": f32(1, 24)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "coordinates", "rounding"),
    [("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"),
     ("linear", "pytorch_half_pixel", "floor"), ("linear", "align_corners", "floor"),
     ("cubic", "half_pixel", "floor"), ("nearest", "asymmetric", "ceil")],
)  # fmt: skip
def test_resize(mode: str, coordinates: str, rounding: str):
    # With align_corners the standard's reference takes 0.6 * 8 = 4.8 as the length, ONNX Runtime takes 4.
    for scale in (2.0, 3.0 if coordinates == "align_corners" else 0.6):
        agrees(
            [N("Resize", ["x", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=coordinates,
               nearest_mode=rounding)],
            [V("x", ["N", 3, 8, 9])], [V("y", None)], {"x": f32(1, 3, 8, 9)},
            {"s": np.array([1, 1, scale, scale], np.float32)}, tolerance=1e-4,
        )  # fmt: skip


def test_resize_of_symbolic_images():
    agrees(
        [N("Resize", ["x", "", "s"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
           nearest_mode="floor")],
        [V("x", ["N", 3, "H", "W"])], [V("y", None)], {"x": f32(1, 3, 5, 6)}, {"s": np.array([1, 1, 2, 2], np.float32)},
    )  # fmt: skip


def test_causal_attention_over_a_symbolic_length():
    constants = {
        "W": f32(16, 48), "s": np.array([0, 0, 3, 4, 4]), "one": np.array(1), "ax": np.array([0]),
        "d": np.array([16]), "i0": np.array(0), "i1": np.array(1), "i2": np.array(2),
        "scale": np.array(0.5, np.float32),
    }  # fmt: skip
    far = nh.from_array(np.array([-1e9], np.float32))
    nodes = [
        N("MatMul", ["x", "W"], ["p"]), N("Reshape", ["p", "s"], ["q5"]),
        N("Transpose", ["q5"], ["t"], perm=[2, 0, 3, 1, 4]), N("Gather", ["t", "i0"], ["q"]),
        N("Gather", ["t", "i1"], ["k"]), N("Gather", ["t", "i2"], ["v"]),
        N("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        N("MatMul", ["q", "kt"], ["raw"]), N("Mul", ["raw", "scale"], ["scores"]), N("Shape", ["x"], ["sh"]),
        N("Gather", ["sh", "i1"], ["L"]), N("Unsqueeze", ["L", "ax"], ["L1"]),
        N("Concat", ["L1", "L1"], ["LL"], axis=0),
        N("ConstantOfShape", ["LL"], ["far"], value=far), N("Trilu", ["far", "one"], ["mask"], upper=1),
        N("Add", ["scores", "mask"], ["masked"]), N("Softmax", ["masked"], ["pr"], axis=-1),
        N("MatMul", ["pr", "v"], ["o"]), N("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        N("Gather", ["sh", "i0"], ["B"]), N("Unsqueeze", ["B", "ax"], ["B1"]),
        N("Concat", ["B1", "L1", "d"], ["os"], axis=0), N("Reshape", ["ot", "os"], ["y"]),
    ]  # fmt: skip
    graph = agrees(nodes, [V("x", ["N", "L", 16])], [V("y", None)], {"x": f32(2, 5, 16)}, constants, tolerance=1e-4)
    assert [str(e) for e in graph.outputs[0].shape] == ["N", "L", "16"]


def test_the_expand_that_torch_exports():
    one = nh.from_array(np.array([1], np.int64))
    nodes = [
        N("Shape", ["x"], ["sh"]), N("Gather", ["sh", "i0"], ["B"]), N("Unsqueeze", ["B", "ax"], ["B1"]),
        N("Concat", ["B1", "m", "m"], ["to"], axis=0), N("Shape", ["to"], ["ts"]),
        N("ConstantOfShape", ["ts"], ["ones"], value=one), N("Mul", ["ones", "m"], ["minus"]),
        N("Equal", ["to", "minus"], ["eq"]), N("Where", ["eq", "ones", "to"], ["shape"]),
        N("Expand", ["cls", "shape"], ["e"]), N("Concat", ["e", "x"], ["y"], axis=1),
    ]  # fmt: skip
    constants = {"cls": f32(1, 1, 4), "i0": np.array(0), "ax": np.array([0]), "m": np.array([-1])}
    agrees(nodes, [V("x", ["N", "L", 4])], [V("y", None)], {"x": f32(2, 5, 4)}, constants)


def test_a_loop_until_a_condition_fails():
    body = helper.make_graph(
        [N("Add", ["s", "k"], ["s2"]), N("ReduceSum", ["s2"], ["sum"], keepdims=0), N("Less", ["sum", "top"], ["go"])],
        "b", [V("i", [], T.INT64), V("c", [], T.BOOL), V("s", [3])], [V("go", [], T.BOOL), V("s2", [3])],
    )  # fmt: skip
    constants = {"k": np.ones(3, np.float32), "top": np.array(20, np.float32), "yes": np.array(True)}
    graph = agrees(
        [N("Loop", ["", "yes", "x"], ["y"], body=body)], [V("x", [3])], [V("y", [3])], {"x": f32(3)}, constants
    )
    assert "while" in [n.op.name for n in graph.nodes]


@pytest.mark.parametrize("count", [4, 100])
def test_a_loop_of_known_length_stacks(count: int):
    body = helper.make_graph(
        [N("Add", ["s", "k"], ["s2"]), N("Identity", ["c"], ["go"]), N("Mul", ["s2", "s2"], ["sq"])], "b",
        [V("i", [], T.INT64), V("c", [], T.BOOL), V("s", [3])], [V("go", [], T.BOOL), V("s2", [3]), V("sq", [3])],
    )  # fmt: skip
    constants = {"k": np.ones(3, np.float32), "n": np.array(count), "yes": np.array(True)}
    graph = agrees(
        [N("Loop", ["n", "yes", "x"], ["y", "st"], body=body)], [V("x", [3])], [V("y", [3]), V("st", None)],
        {"x": f32(3)}, constants,
    )  # fmt: skip
    assert ("scan" in [n.op.name for n in graph.nodes]) == (count == 100)


def test_a_quantised_convolution():
    agrees(
        [
            N("QuantizeLinear", ["x", "s", "z"], ["q"]), N("DequantizeLinear", ["q", "s", "z"], ["dq"]),
            N("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=0), N("Conv", ["dq", "w"], ["y"], pads=[1, 1, 1, 1]),
        ],
        [V("x", ["N", 3, 8, 8])], [V("y", None)], {"x": f32(2, 3, 8, 8)},
        {"s": np.array(0.05, np.float32), "z": np.array(3, np.uint8),
         "wq": RNG.integers(-128, 127, (4, 3, 3, 3)).astype(np.int8), "ws": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
         "wz": np.zeros(4, np.int8)}, tolerance=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_pools_with_partial_windows(kind: str, include: int):
    more = {"count_include_pad": include} if kind == "AveragePool" else {}
    agrees(
        [N(kind, ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, **more)],
        [V("x", ["N", 3, "H", "W"])], [V("y", None)], {"x": f32(2, 3, 10, 11)},
    )  # fmt: skip


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_of_symbolic_images(auto: str):
    agrees(
        [N("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad=auto)], [V("x", ["N", 4, "H", 5])], [V("y", None)],
        {"x": f32(2, 4, 6, 5)}, {"w": f32(6, 4, 3, 2)},
    )  # fmt: skip


def test_a_grouped_transposed_convolution():
    agrees(
        [N("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], group=2, output_padding=[1, 1], pads=[1, 0, 1, 0])],
        [V("x", ["N", 4, "H", 5])], [V("y", None)], {"x": f32(2, 4, 6, 5)}, {"w": f32(4, 3, 3, 3), "b": f32(6)},
    )  # fmt: skip


def test_negative_indices():
    nodes = [N("Gather", ["x", "i"], ["g"], axis=1), N("GatherElements", ["g", "j"], ["y"], axis=1)]
    feeds = {"x": f32(2, 6), "i": np.array([-1, 0, -6, 3]), "j": np.array([[-1, 0], [2, -4]])}
    agrees(nodes, [V("x", ["N", 6]), V("i", ["K"], T.INT64), V("j", ["N", 2], T.INT64)], [V("y", None)], feeds)


def test_integer_division_and_remainders():
    a, b = np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])
    nodes = [N("Div", ["a", "b"], ["q"]), N("Mod", ["a", "b"], ["r"]), N("Mod", ["a", "b"], ["f"], fmod=1)]
    i64 = [V(n, [4], T.INT64) for n in "abqrf"]
    agrees(nodes, i64[:2], i64[2:], {"a": a, "b": b})
