"""Recurrent models through both routes: no loop of a traced model stays a while, a step is one kernel, values agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import fusewright as fw
from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.ir import Graph
from fusewright.ir.graph import Node
from fusewright.passes import default_pipeline

L = keras.layers


def randomise(model: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for v in model.weights:
        v.assign(rng.uniform(-0.6, 0.9, v.shape).astype(np.float32))


RECURRENT = {
    "lstm": (lambda: [L.LSTM(5, return_sequences=True)], 1),
    "lstm, last step": (lambda: [L.LSTM(5)], 1),
    "gru": (lambda: [L.GRU(5, return_sequences=True)], 1),
    "gru, reset before": (lambda: [L.GRU(5, reset_after=False)], 2),
    "hard gates": (lambda: [L.LSTM(5, recurrent_activation="hard_sigmoid", activation="relu")], 1),
    "no bias": (lambda: [L.LSTM(5, use_bias=False)], 1),
    "simple": (lambda: [L.SimpleRNN(5, return_sequences=True)], 1),
    "backwards": (lambda: [L.LSTM(5, go_backwards=True, return_sequences=True)], 1),
    "both ways": (lambda: [L.Bidirectional(L.LSTM(4, return_sequences=True))], 1),
    "stacked": (lambda: [L.LSTM(6, return_sequences=True), L.GRU(4, return_sequences=True), L.LSTM(3)], 1),
    "masked": (lambda: [L.Masking(), L.LSTM(5, return_sequences=True)], 1),
    "masked, both ways": (lambda: [L.Masking(), L.Bidirectional(L.GRU(4))], 1),
}


def model_of(name: str, steps: Any) -> Any:
    made = keras.Sequential([keras.Input((steps, 3)), *RECURRENT[name][0]()])
    randomise(made, 3)
    return made


def data(rows: int, steps: int) -> np.ndarray:
    x = np.random.default_rng(rows * 10 + steps).standard_normal((rows, steps, 3)).astype(np.float32)
    if rows > 1 and steps > 2:
        x[0, 2:] = 0.0
    return x


def optimised(graph: Graph) -> Graph:
    target = cpu_target()
    got, _ = default_pipeline(target).run(graph, verify=2)
    return got


def bodies(graph: Graph) -> Iterator[list[Node]]:
    """The nodes of each step that kernels compute."""
    for node in graph.walk():
        if node.op.name == "scan":
            skip = ("input", "constant", "return", "reshape")
            yield [n for n in node.regions[0].nodes if n.op.name not in skip]


def check(graph: Graph, x: np.ndarray, want: np.ndarray, kernels: int | None) -> np.ndarray:
    """One kernel (or ``kernels``) per step, no while, and the values of ``want`` in exact arithmetic and compiled."""
    final = optimised(graph)
    ops = {n.op.name for n in final.walk()}
    assert "while" not in ops and "scan" in ops
    if kernels is not None:
        assert [len(b) for b in bodies(final)] == [kernels] * len(list(bodies(final)))
    (name,) = [v.name for v in graph.inputs]
    got: np.ndarray = fw.compile(graph)(**{name: x})
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    return got


@pytest.mark.parametrize("name", RECURRENT)
def test_saved_model_and_native(name: str, tmp_path: Path) -> None:
    model, x = model_of(name, None), data(3, 6)
    model.export(str(tmp_path / "saved"), verbose=False)
    model.save(tmp_path / "model.keras")
    want = np.asarray(model(x))
    traced = check(fw.import_model(tmp_path / "saved"), x, want, RECURRENT[name][1])
    native = check(fw.import_model(tmp_path / "model.keras"), x, want, RECURRENT[name][1])
    np.testing.assert_allclose(traced, native, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru, reset before", "masked"])
def test_one_bundle_for_every_batch_and_length(name: str, tmp_path: Path) -> None:
    model = model_of(name, None)
    model.export(str(tmp_path / "saved"), verbose=False)
    bundle = fw.compile(fw.import_model(tmp_path / "saved"))
    for rows, steps in ((1, 1), (2, 7), (5, 3), (17, 2)):
        x = data(rows, steps)
        np.testing.assert_allclose(bundle(x), np.asarray(model(x)), rtol=2e-5, atol=2e-5)


def frozen(model: Any, steps: int, lower: bool, path: Path) -> Path:
    function = tf.function(lambda x: tf.identity(model(x), name="result"))
    concrete = function.get_concrete_function(tf.TensorSpec([None, steps, 3], tf.float32, name="x"))
    graph = convert_variables_to_constants_v2(concrete, lower_control_flow=lower).graph
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


@pytest.mark.parametrize("name", ["lstm", "gru", "both ways", "stacked"])
@pytest.mark.parametrize("lower", [False, True], ids=["functions", "switch and merge"])
def test_frozen_graph(name: str, lower: bool, tmp_path: Path) -> None:
    model, x = model_of(name, 6), data(2, 6)
    path = frozen(model, 6, lower, tmp_path / "graph.pb")
    check(fw.import_model(path, inputs=["x"], outputs=["result"]), x, np.asarray(model(x)), RECURRENT[name][1])


def test_tensor_array_loop_of_tf1(tmp_path: Path) -> None:
    w = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    u = np.random.default_rng(2).standard_normal((4, 4)).astype(np.float32)
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.disable_control_flow_v2()
        try:
            x = tf.compat.v1.placeholder(tf.float32, [5, 2, 3], name="x")
            steps = tf.TensorArray(tf.float32, 5, element_shape=[2, 3]).unstack(x)
            outs = tf.TensorArray(tf.float32, 5, element_shape=[2, 4])

            def body(i: Any, h: Any, outs: Any) -> Any:
                h = tf.tanh(tf.matmul(steps.read(i), w) + tf.matmul(h, u))
                return i + 1, h, outs.write(i, h)

            found = tf.compat.v1.while_loop(lambda i, h, o: i < 5, body, [0, tf.zeros([2, 4]), outs])
            tf.identity(found[2].stack(), name="result")
        finally:
            tf.compat.v1.enable_control_flow_v2()
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    feed = np.random.default_rng(3).standard_normal((5, 2, 3)).astype(np.float32)
    with tf.compat.v1.Session(graph=graph) as session:
        want = session.run("result:0", {"x:0": feed})
    assert "Enter" in {n.op for n in graph.as_graph_def().node}
    check(fw.import_model(path, inputs=["x"], outputs=["result"]), feed, want, 1)


def test_conv_lstm(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 6, 6, 2)), L.ConvLSTM2D(3, 3, padding="same", return_sequences=True)])
    randomise(model, 4)
    x = np.random.default_rng(4).standard_normal((2, 4, 6, 6, 2)).astype(np.float32)
    model.export(str(tmp_path / "saved"), verbose=False)
    model.save(tmp_path / "model.keras")
    for path in (tmp_path / "saved", tmp_path / "model.keras"):
        graph = fw.import_model(path)
        check(graph, x, np.asarray(model(x)), None)
        for body in bodies(optimised(graph)):
            # The input's share of the gates is computed before the loop; the state's is in it.
            assert sum("conv" in m.op.name for n in body for m in (n, *(i for r in n.regions for i in r.nodes))) <= 4


def test_a_loop_that_values_end_stays(tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def halve(x: Any) -> Any:
        while tf.reduce_max(tf.abs(x)) > 1.0:
            x = x * 0.5
        return x

    module = tf.Module()
    module.f = halve
    tf.saved_model.save(module, str(tmp_path / "saved"), halve)
    graph = fw.import_model(tmp_path / "saved")
    assert "while" in {n.op.name for n in optimised(graph).walk()}
    x = data(2, 1)[:, 0] * 40
    np.testing.assert_array_equal(fw.compile(graph)(x), np.asarray(halve(x)))
