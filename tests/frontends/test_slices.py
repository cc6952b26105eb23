"""Slices on axes of unknown extent, against Keras, TensorFlow and ONNX Runtime at several lengths, shorter ones too."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

import fusewright as fw

LENGTHS = (5, 1, 3, 9, 2, 4)
BOUNDS = (None, 0, 2, 4, 100, -1, -3, -100)
SPANS = [(a, b, s) for a in BOUNDS for b in BOUNDS for s in (1, 2)]
BACK = [(a, b, s) for a in BOUNDS for b in BOUNDS for s in (-1, -3)]


def line(n: int) -> np.ndarray:
    return np.arange(2 * n * 3, dtype=np.float32).reshape(2, n, 3)


def held(graph: fw.Graph, native: Any, want: Any) -> None:
    """Interpreter, bundle and ``want`` (of an array) at every length, in one order with shrinking and growing ones."""
    for n in LENGTHS:
        x = line(n)
        expected = [np.asarray(w) for w in want(x)]
        for run in (graph.run, native.run):
            for got, w in zip(run({"x": x}).values(), expected, strict=True):
                assert got.shape == w.shape
                np.testing.assert_array_equal(got, w)


@pytest.mark.parametrize("spans", [SPANS, BACK], ids=["forward", "backward"])
def test_keras_clamps_like_numpy(spans: list[Any]) -> None:
    x = keras.Input((None, 3), name="x")
    graph = fw.import_model(keras.Model(x, [x[:, a:b:s] for a, b, s in spans]))
    held(graph, fw.compile(graph, target="cpu-avx2"), lambda v: [v[:, a:b:s] for a, b, s in spans])


def test_keras_models_that_cut_a_sequence_to_length(tmp_path: Any) -> None:
    x = keras.Input((None, 3), name="x")
    y = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(4, 2, padding="same")(x[:, 1:4]))
    model = keras.Model(x, x[:, 0] + keras.layers.Dense(3)(y))
    model.save(tmp_path / "m.keras")
    graph = fw.import_model(tmp_path / "m.keras")
    native = fw.compile(graph, target="cpu-avx2")
    for n in (5, 2, 9, 4):
        np.testing.assert_allclose(native(line(n)), model(line(n)), rtol=1e-5, atol=1e-5)


def test_an_axis_that_may_be_cut_short_is_dropped_where_it_is_there() -> None:
    traced = tf.function(
        lambda x: tf.squeeze(x[:, 0:1], 1) * 2, input_signature=[tf.TensorSpec([2, None, 3], tf.float32, "x")]
    )
    graph = fw.import_model(traced)
    native = fw.compile(graph, target="cpu-avx2")
    held(graph, native, lambda x: [traced(x)])
    for run in (graph.run, native.run):
        with pytest.raises(fw.InputRefused, match="an extent is 0 where 1 is needed"):
            run({"x": np.zeros((2, 0, 3), np.float32)})


@pytest.mark.parametrize("spans", [SPANS, BACK], ids=["forward", "backward"])
def test_tensorflow_clamps(spans: list[Any]) -> None:
    traced = tf.function(
        lambda x: [x[:, a:b:s] for a, b, s in spans], input_signature=[tf.TensorSpec([2, None, 3], tf.float32, "x")]
    )
    graph = fw.import_model(traced)
    held(graph, fw.compile(graph, target="cpu-avx2"), traced)


@pytest.mark.parametrize("spans", [SPANS, BACK], ids=["forward", "backward"])
def test_onnx_clamps(spans: list[Any]) -> None:
    """ONNX has no None: what is left out is the end that the step comes from or goes to."""
    nodes, constants, outputs = [], [], []
    for k, (a, b, s) in enumerate(spans):
        far = (1 << 63) - 1
        first = (0 if s > 0 else far) if a is None else a
        last = (far if s > 0 else -far) if b is None else b
        for name, number in (("a", first), ("b", last), ("s", s)):
            constants.append(numpy_helper.from_array(np.array([number], np.int64), f"{name}{k}"))
        nodes.append(helper.make_node("Slice", ["x", f"a{k}", f"b{k}", "one", f"s{k}"], [f"y{k}"]))
        outputs.append(helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, [2, None, 3]))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, "T", 3])]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = fw.import_model(proto)
    held(graph, fw.compile(graph, target="cpu-avx2"), lambda x: session.run(None, {"x": x}))
