"""fw.check against a live model or ONNX Runtime: inner values are compared, and the first wrong layer is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

import fusewright as fw
from fusewright.reference import reference

L = keras.layers


def net() -> Any:
    keras.utils.set_random_seed(3)
    x = keras.Input((6, 6, 2))
    y = L.BatchNormalization(name="norm")(L.Conv2D(3, 3, activation="relu", name="conv")(x))
    return keras.Model(x, L.Dense(2, name="head")(L.Flatten(name="flat")(y)))


def test_every_layer_of_a_live_keras_model(tmp_path: Path) -> None:
    model = net()
    model.save(tmp_path / "net.keras")
    found = fw.check(tmp_path / "net.keras", against=model)
    assert found.ok and found.compared == 4 and found.flops_share == 1.0
    model.get_layer("norm").set_weights([w + 0.1 for w in model.get_layer("norm").get_weights()])
    divergence = fw.check(tmp_path / "net.keras", against=model).first_divergence
    assert divergence is not None and divergence.where.startswith("norm/") and divergence.error > divergence.allowed


def onnx_model(shift: float = 0.0) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    w = numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "w")
    b = numpy_helper.from_array(np.full(3, 0.5 + shift, np.float32), "b")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, ["N", 3])], [w, b]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_every_tensor_of_onnx_runtime(tmp_path: Path) -> None:
    onnx.save(onnx_model(), str(tmp_path / "m.onnx"))
    assert fw.check(tmp_path / "m.onnx", against="onnxruntime").compared == 3
    assert fw.check(onnx_model(), against="onnxruntime").ok
    # The same graph with another constant is told apart at the node that reads it.
    graph = fw.import_model(onnx_model())
    other = reference(graph, onnx_model(shift=0.25), "onnxruntime", None)
    divergence = fw.check(onnx_model(), against=other.values).first_divergence
    assert divergence is not None and divergence.name == "sum" and divergence.error == pytest.approx(0.25, rel=1e-3)


def test_every_op_of_a_live_tensorflow_function() -> None:
    w = tf.Variable(np.eye(4, dtype=np.float32))
    good = tf.function(lambda x: tf.nn.softmax(tf.exp(x @ w) * 2.0, name="probs"))
    bad = tf.function(lambda x: tf.nn.softmax(tf.exp(x @ w) * 3.0, name="probs"))
    spec = tf.TensorSpec((None, 4), tf.float32, name="x")
    one, other = good.get_concrete_function(spec), bad.get_concrete_function(spec)
    found = fw.check(one, against=one)
    assert found.ok and found.compared >= 4
    divergence = fw.check(one, against=other).first_divergence
    assert divergence is not None and "mul" in divergence.where


def test_other_callables_and_given_feeds() -> None:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 3))
    graph = b.build({"y": b.square(x)})
    seen: list[Any] = []

    def square(values: Any) -> Any:
        seen.append(values)
        return np.square(values)

    feed = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert fw.check(graph, against=square, feeds={"x": feed}).ok
    assert np.array_equal(seen[0], feed)
    assert not fw.check(graph, against=lambda values: values + 1).ok
    with pytest.raises(fw.InputRefused, match="2 outputs"):
        fw.check(graph, against=lambda values: (values, values))
    with pytest.raises(fw.InputRefused, match="none of"):
        fw.check(graph, against=7)
    with pytest.raises(fw.InputRefused, match="this source is none"):
        fw.check(graph, against="onnxruntime")


def test_options_of_the_import_and_the_share_of_arithmetic(tmp_path: Path) -> None:
    onnx.save(onnx_model(), str(tmp_path / "m.onnx"))
    assert fw.check(tmp_path / "m.onnx", outputs=["sum"], against="onnxruntime").ok
    found = fw.check(tmp_path / "m.onnx", outputs=["nothing"])
    assert not found.ok and found.flops_share is None
    fw.define_op(
        fw.OpDef("kernelless", ("x",), "opaque", lambda t, a, r: [t[0]], lambda a, attrs, ctx: a[0], doc="Test op.")
    )
    b = fw.Builder()
    x = b.input("x", "f32", (8, 8))
    share = fw.check(b.build(b.kernelless(b.matmul(x, x)))).flops_share
    assert share is not None and 0.99 < share < 1
