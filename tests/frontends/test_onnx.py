"""ONNX models: import, symbols, contents of shapes, options; against NumPy and ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import fusewright as fw
from fusewright.core.errors import ImportRefused

F = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def value(name: str, shape: Any, kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: Any, inputs: Any, outputs: Any, constants: Any = None, opset: int = 18, **more: Any) -> Any:
    tensors = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **more)


def same_as_runtime(proto: Any, feeds: dict[str, np.ndarray], tolerance: float = 1e-5) -> fw.Graph:
    """The imported graph, checked against ONNX Runtime on these feeds."""
    graph = fw.import_model(proto)
    got = graph.run(feeds)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wants = session.run(None, feeds)
    for (name, g), w in zip(got.items(), wants, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape, name
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance, err_msg=name)
    return graph


def test_a_convolution_with_its_symbols_kept():
    w, c = RNG.normal(size=(8, 3, 3, 3)).astype(np.float32), RNG.normal(size=8).astype(np.float32)
    proto = model(
        [
            helper.make_node("Conv", ["x", "w", "c"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["y"], ["z"]),
            helper.make_node("GlobalAveragePool", ["z"], ["p"]),
            helper.make_node("Flatten", ["p"], ["out"]),
        ],
        [value("x", ["batch", 3, 16, 16])],
        [value("out", ["batch", 8])],
        {"w": w, "c": c},
    )
    graph = same_as_runtime(proto, {"x": RNG.normal(size=(2, 3, 16, 16)).astype(np.float32)})
    assert graph.symbols == ("batch",) and graph.output_names == ["out"]
    assert [str(d) for d in graph.outputs[0].shape] == ["batch", "8"]


def test_shape_arithmetic_disappears():
    """Shape -> Gather -> Concat -> Reshape leaves one reshape whose extents are symbols."""
    proto = model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
            helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
            helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
            helper.make_node("Reshape", ["x", "to"], ["y"]),
        ],
        [value("x", ["N", "T", 4])],
        [value("y", ["N", None])],
        {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])},
    )
    graph = same_as_runtime(proto, {"x": RNG.normal(size=(2, 3, 4)).astype(np.float32)})
    assert [n.op.name for n in graph.nodes] == ["input", "reshape", "return"]
    assert [str(d) for d in graph.outputs[0].shape] == ["N", "4*T"]


def test_a_run_time_extent_can_be_an_output():
    proto = model(
        [helper.make_node("Shape", ["x"], ["s"])], [value("x", ["N", 4])], [value("s", [2], TensorProto.INT64)]
    )
    graph = fw.import_model(proto)
    np.testing.assert_array_equal(graph.run({"x": np.zeros((3, 4), np.float32)})["s"], [3, 4])


def test_odd_symbol_names_and_unnamed_axes():
    proto = model(
        [helper.make_node("Relu", ["in:0"], ["y"])], [value("in:0", [None, "batch size", None])], [value("y", None)]
    )
    graph = fw.import_model(proto)
    assert [str(d) for d in graph.inputs[0].shape] == ["N", "batch_size", "in_0_2"]


def test_two_symbols_that_must_agree_become_one():
    proto = model(
        [helper.make_node("Add", ["a", "b"], ["y"])], [value("a", ["n", 4]), value("b", ["m", 4])], [value("y", None)]
    )
    graph = fw.import_model(proto)
    assert len(graph.symbols) == 1


def test_feeds_bind_an_operand_at_import():
    proto = model(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [value("x", [2, 6]), value("s", [2], TensorProto.INT64)],
        [value("y", None)],
    )
    assert [v.name for v in fw.import_model(proto).inputs] == ["x", "s"]
    graph = fw.import_model(proto, feeds={"s": np.array([3, -1])})
    assert graph.outputs[0].shape == (3, 4) and [v.name for v in graph.inputs] == ["x"]


def test_inner_values_can_be_asked_for():
    proto = model(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
        [value("x", [3])],
        [value("z", [3])],
    )
    graph = fw.import_model(proto, outputs=["y"])
    np.testing.assert_array_equal(graph.run({"x": np.array([-1, 0, 2], np.float32)})["y"], [0, 0, 2])
    with pytest.raises(ImportRefused):
        fw.import_model(proto, outputs=["nothing"])


def test_everything_unsupported_comes_at_once():
    proto = model(
        [
            helper.make_node("Resize", ["x", "", "by"], ["i"]),
            helper.make_node("NoSuchOp", ["x"], ["a"]),
            helper.make_node("Other", ["x"], ["b"], domain="com.example"),
        ],
        [value("x", [3]), value("by", [1])],
        [value("a", None), value("b", None)],
    )
    with pytest.raises(ImportRefused) as refused:
        fw.import_model(proto)
    assert [p.code for p in refused.value.problems] == ["unsupported-op", "unsupported-op", "data-dependent"]
    assert "com.example/Other" in refused.value.problems[1].reason


def test_a_registered_lowering_is_used():
    from fusewright.frontends import registry

    proto = model([helper.make_node("MyOp", ["x"], ["y"])], [value("x", [3])], [value("y", None)])
    fw.register_op("onnx", "MyOp", replace=True)(lambda call, x: call.b.add(x, x))
    try:
        got = fw.import_model(proto).run({"x": np.ones(3, np.float32)})
    finally:
        registry._OPS.pop(("onnx", "MyOp"))
    np.testing.assert_array_equal(got["y"], [2, 2, 2])


def test_local_functions_are_expanded():
    body = helper.make_function(
        "my", "Twice", ["a"], ["b"],
        [helper.make_node("Constant", [], ["k"], value_float=2.0), helper.make_node("Mul", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="my")], "g", [value("x", [3])], [value("y", [3])]
    )
    proto = helper.make_model(
        graph, functions=[body], opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    )
    got = fw.import_model(proto).run({"x": np.ones(3, np.float32)})
    np.testing.assert_array_equal(got["y"], [2, 2, 2])


def test_a_function_that_calls_itself_is_refused():
    body = helper.make_function(
        "my", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="my")], [helper.make_opsetid("my", 1)]
    )
    graph = helper.make_graph(
        [helper.make_node("F", ["x"], ["y"], domain="my")], "g", [value("x", [3])], [value("y", [3])]
    )
    proto = helper.make_model(
        graph, functions=[body], opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    )
    with pytest.raises(ImportRefused, match="deeper"):
        fw.import_model(proto)


def test_softmax_of_old_opsets_flattens():
    x = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    for opset in (11, 13):
        proto = model(
            [helper.make_node("Softmax", ["x"], ["y"], axis=1)], [value("x", [2, 3, 4])], [value("y", [2, 3, 4])],
            opset=opset,
        )  # fmt: skip
        same_as_runtime(proto, {"x": x})


def test_a_branch_captures_and_a_known_one_is_inlined():
    def branch(name: str, op: str) -> Any:
        return helper.make_graph([helper.make_node(op, ["x", "k"], [name])], name, [], [value(name, [3])])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("t", "Add"), else_branch=branch("e", "Sub"))
    proto = model(
        [node], [value("c", [], TensorProto.BOOL), value("x", [3])], [value("y", [3])], {"k": np.ones(3, np.float32)}
    )
    graph = same_as_runtime(proto, {"c": np.array(True), "x": np.zeros(3, np.float32)})
    assert "if" in [n.op.name for n in graph.nodes]
    known = fw.import_model(proto, feeds={"c": np.array(False)})
    assert "if" not in [n.op.name for n in known.nodes]
    np.testing.assert_array_equal(known.run({"x": np.zeros(3, np.float32)})["y"], [-1, -1, -1])


def test_slices_of_a_symbolic_axis():
    nodes = [helper.make_node("Slice", ["x", "s", "e", "a", "k"], ["y"])]
    x = np.arange(20, dtype=np.float32).reshape(2, 10)
    for start, end, step in ((0, 4, 1), (-3, 2**31 - 1, 1), (2, -1, 1), (-1, -(2**31) + 1, -1), (0, 2**63 - 1, 2)):
        proto = model(
            nodes, [value("x", [2, "T"])], [value("y", [2, None])],
            {"s": np.array([start]), "e": np.array([end]), "a": np.array([1]), "k": np.array([step])},
        )  # fmt: skip
        graph = fw.import_model(proto)
        np.testing.assert_array_equal(graph.run({"x": x})["y"], x[:, start:end:step])


def test_in_memory_bytes_and_old_opsets():
    proto = model([helper.make_node("Elu", ["x"], ["y"])], [value("x", [3])], [value("y", [3])])
    proto.opset_import[0].version = 3
    with pytest.raises(ImportRefused) as refused:
        fw.import_model(proto)
    assert refused.value.code == "unsupported-version"
    assert onnx.__version__


def test_without_the_onnx_package_the_error_names_the_extra(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(
        model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [3])], [value("y", [3])]).SerializeToString()
    )
    script = (
        "import sys\n"
        "for name in ('onnx', 'google', 'google.protobuf'): sys.modules[name] = None\n"
        "import fusewright as fw\n"
        f"try: fw.import_model({str(path)!r})\n"
        "except fw.MissingDependency as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "fusewright[compile]" in done.stdout, done.stderr


def test_onnx_is_imported_only_for_onnx_sources():
    script = "import sys, fusewright as fw; fw.import_model; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
