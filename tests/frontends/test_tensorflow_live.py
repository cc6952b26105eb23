"""Live TensorFlow objects: functions, modules, loaded SavedModels; names, captures, tracing, state, Keras models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import pytest
import tensorflow as tf

import fusewright as fw
from fusewright.core.errors import ImportRefused

W = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)


class Nested(tf.Module):
    """Nested arguments and results, a variable, a bfloat16 variable and a captured constant."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(W)
        self.half = tf.Variable(tf.constant([0.5, 1, 2, 3], tf.bfloat16))
        self.c = tf.constant(np.arange(4.0), tf.float32)

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 3), tf.float32),
            {"b": tf.TensorSpec((), tf.int32), "a": tf.TensorSpec((None, 4), tf.float32)},
        ]
    )
    def f(self, x: Any, d: Any) -> Any:
        y = x @ self.w + self.c * tf.cast(self.half, tf.float32)
        return {"z": (y, d["b"] + 1), "a": y * d["a"]}


class Stateful(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.calls = tf.Variable([1.0, 2.0]), tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec((2,))])
    def changed(self, x: Any) -> Any:
        self.v.assign_add(x)
        return self.v * 2

    @tf.function(input_signature=[tf.TensorSpec((2,))])
    def in_a_loop(self, x: Any) -> Any:
        for _ in tf.range(3):
            self.v.assign_add(x)
        return self.v + x

    @tf.function(input_signature=[tf.TensorSpec((2,))])
    def in_a_branch(self, x: Any) -> Any:
        if x[0] > 0:
            self.v.assign(x)
        return self.v + x

    @tf.function(input_signature=[tf.TensorSpec((2,))])
    def counted(self, x: Any) -> Any:
        self.calls.assign_add(1)
        return self.v * x


def refused(code: str, *args: Any, **options: Any) -> ImportRefused:
    with pytest.raises(ImportRefused) as caught:
        fw.import_model(*args, **options)
    assert caught.value.code == code
    return caught.value


def test_every_form_of_one_function_agrees(tmp_path: Path) -> None:
    module = Nested()
    tf.saved_model.save(module, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    a = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)
    want = module.f(X, {"a": a, "b": 6})
    for source in (module, module.f, module.f.get_concrete_function(), loaded, loaded.f):
        graph = fw.import_model(source)
        assert [v.name for v in graph.inputs] == ["x", "d_a", "d_b"]
        assert graph.output_names == ["a", "z_0", "z_1"]
        assert {str(v.shape[0]) for v in graph.inputs[:2]} == {"N"}
        got = graph.run({"x": X, "d_a": a, "d_b": np.int32(6)})
        np.testing.assert_allclose(got["a"], want["a"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["z_0"], want["z"][0], rtol=1e-5, atol=1e-6)
        assert got["z_1"] == 7


def test_a_variable_is_read_when_the_model_is_imported() -> None:
    module = Nested()
    module.w.assign(W * 2)
    graph = fw.import_model(module.f, outputs=["z_0"], feeds={"d_b": 1})
    assert [v.name for v in graph.inputs] == ["x", "d_a"]
    got = graph.run({"x": X, "d_a": np.ones((5, 4), np.float32)})
    np.testing.assert_allclose(got["z_0"], X @ (W * 2) + np.float32([0, 1, 4, 9]), rtol=1e-5, atol=1e-5)


def test_a_function_is_traced_with_shapes_and_feeds() -> None:
    @tf.function
    def scaled(x: Any, factor: Any, double: Any = False) -> Any:
        return x * factor * (2 if double else 1)

    graph = fw.import_model(scaled, shapes={"x": (None, 3)}, feeds={"factor": np.float32(3), "double": True})
    assert [str(v.type) for v in graph.inputs] == ["f32[N, 3]"]
    np.testing.assert_allclose(graph.run({"x": X})["output_0"], X * 6, rtol=1e-6)
    whole = fw.import_model(
        scaled, shapes={"x": tf.TensorSpec((None, 3), tf.int32), "factor": tf.TensorSpec((), tf.int32)}
    )
    assert [v.dtype.name for v in whole.inputs] == ["i32", "i32"]
    refused("ambiguous", scaled)
    refused("not-traced", tf.function(lambda x: x))


def test_a_function_that_was_called_needs_no_signature() -> None:
    @tf.function
    def once(x: Any) -> Any:
        return x + 1

    once(tf.constant([1.0, 2.0]))
    graph = fw.import_model(once)
    assert [str(v.type) for v in graph.inputs] == ["f32[2]"]


def test_a_module_names_its_functions() -> None:
    module = Stateful()
    assert "changed, counted, in_a_branch, in_a_loop" in refused("no-such-signature", module).hint
    refused("no-such-signature", module, signature="none")
    graph = fw.import_model(module, signature="counted")
    np.testing.assert_array_equal(graph.run({"x": np.float32([3, 4])})["output_0"], [3, 8])
    refused("no-such-signature", tf.Module())


@pytest.mark.parametrize("name", ["changed", "in_a_loop", "in_a_branch"])
def test_a_read_variable_that_a_call_changes_is_refused(name: str, tmp_path: Path) -> None:
    module = Stateful()
    assert "changes the variable" in refused("stateful", getattr(module, name)).reason
    tf.saved_model.save(module, str(tmp_path / "saved"), {"serving_default": getattr(module, name)})
    refused("stateful", tmp_path / "saved")


def test_what_else_a_function_may_capture_is_refused() -> None:
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2], tf.int64), tf.constant([3, 4], tf.int64)), 0
    )
    error = refused("unsupported-op", tf.function(table.lookup), shapes={"keys": tf.TensorSpec((None,), tf.int64)})
    assert "lookup tables" in str(error)


def test_graphs_and_their_messages() -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
        tf.matmul(x, tf.constant(W), name="y")
    for source in (graph, graph.as_graph_def()):
        np.testing.assert_allclose(fw.import_model(source).run({"x": X})["y"], X @ W, rtol=1e-5, atol=1e-6)


def test_a_model_beyond_its_config_is_traced() -> None:
    class Doubled(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x: Any) -> Any:
            return self.dense(x) * 2

    model = Doubled()
    want = model(X)
    graph = fw.import_model(tf.function(model.call), shapes={"x": (None, 3)})
    np.testing.assert_allclose(graph.run({"x": X})["output_0"], want, rtol=1e-5, atol=1e-5)


def test_tensorflow_is_not_imported_to_tell_a_source() -> None:
    code = (
        "import sys, fusewright as fw\n"
        "class ConcreteFunction: pass\n"
        "try: fw.import_model(ConcreteFunction())\n"
        "except fw.FusewrightError: print('tensorflow' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_a_model_behind_a_table_is_cut_there(tmp_path: Path) -> None:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([3, 4], tf.int64)), 0)
    module = tf.Module()
    module.table, module.w = table, tf.Variable(np.arange(6, dtype=np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="words")])
    def f(words: Any) -> Any:
        return tf.gather(module.w, tf.identity(table.lookup(words), name="numbers")) * 2

    assert "inputs=" in refused("unsupported-dtype", f).hint
    graph = fw.import_model(f, inputs=["numbers"], shapes={"numbers": (None,)})
    np.testing.assert_array_equal(graph.run({"numbers": np.array([1, 5])})["output_0"], [2, 10])
    tf.saved_model.save(module, str(tmp_path / "m"), {"serving_default": f})


def test_a_saved_model_is_cut_inside_its_functions(tmp_path: Path) -> None:
    module = Nested()
    f = tf.function(
        lambda x: tf.tanh(tf.identity(x @ module.w, name="middle")) * 2, input_signature=[tf.TensorSpec((None, 3))]
    )
    module.g = f
    tf.saved_model.save(module, str(tmp_path / "m"), {"serving_default": f})
    whole = fw.import_model(tmp_path / "m")
    path = next(n.origin.layer for n in whole.nodes if n.origin.source == "Tanh").replace("Tanh", "middle")
    assert path.startswith("StatefulPartitionedCall/")
    np.testing.assert_allclose(
        fw.import_model(tmp_path / "m", outputs=[path]).run({"x": X})[path], X @ W, rtol=1e-5, atol=1e-6
    )
    behind = fw.import_model(tmp_path / "m", inputs=[path], shapes={path: (None, 4)})
    np.testing.assert_allclose(next(iter(behind.run({path: X @ W}).values())), np.tanh(X @ W) * 2, rtol=1e-5, atol=1e-6)
    refused("no-such-output", tmp_path / "m", outputs=[path + "x"])
