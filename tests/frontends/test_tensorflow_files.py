"""TensorFlow files: SavedModel, checkpoints, frozen graphs, symbols, bound inputs, and what is refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
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
from fusewright.frontends.formats.limits import ImportLimits
from fusewright.frontends.tensorflow import import_tensorflow, schema
from fusewright.frontends.tensorflow.bundle import Bundle, crc32c
from fusewright.frontends.tensorflow.graphdef import parse_graph_def
from fusewright.frontends.tensorflow.wire import Reader

W = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)


class Model(tf.Module):
    """Two variables of one name, one of them bfloat16, behind two signatures."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(W, name="kernel")
        self.b = tf.Variable(tf.constant([1.0, -2.0, 0.5], tf.bfloat16), name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(self, x: Any) -> Any:
        return {"y": self.inner(x), "rows": tf.shape(x)[0]}

    @tf.function
    def inner(self, x: Any) -> Any:
        return tf.matmul(x, self.w) + tf.cast(self.b, tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4])])
    def pair(self, a: Any, b: Any) -> Any:
        return a + b


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = Model()
    tf.saved_model.save(model, str(folder), {"serving_default": model.serve, "pair": model.pair})
    return folder


def save_graph(path: Path, build: Any) -> Path:
    graph = tf.Graph()
    with graph.as_default():
        build()
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def refused(code: str, *args: Any, **options: Any) -> ImportRefused:
    with pytest.raises(ImportRefused) as caught:
        fw.import_model(*args, **options)
    assert caught.value.code == code
    return caught.value


def test_saved_model(saved: Path) -> None:
    graph = fw.import_model(saved)
    assert [v.name for v in graph.inputs] == ["x"]
    assert [str(e) for e in graph.inputs[0].shape] == ["N", "4"]
    assert graph.output_names == ["rows", "y"]
    out = graph.run({"x": X})
    np.testing.assert_allclose(out["y"], X @ W + np.float32([1.0, -2.0, 0.5]), rtol=1e-5)
    assert out["rows"] == 5
    assert any(
        n.origin.layer.startswith("StatefulPartitionedCall/") and n.origin.source == "MatMul" for n in graph.nodes
    )


def test_inputs_of_one_batch_share_a_symbol(saved: Path) -> None:
    graph = fw.import_model(saved, signature="pair")
    assert {str(v.shape[0]) for v in graph.inputs} == {"N"}
    assert len(graph.inputs) == 2


def test_signatures_are_named_in_the_refusal(saved: Path) -> None:
    assert "pair, serving_default" in refused("no-such-signature", saved, signature="other").hint
    refused("no-such-output", saved, outputs=["z"])
    refused("no-such-input", saved, inputs=["z"])


def test_bundle_reads_what_tensorflow_wrote(saved: Path) -> None:
    bundle = Bundle(saved / "variables" / "variables")
    reader = tf.train.load_checkpoint(str(saved / "variables" / "variables"))
    numbers = [k for k, d in reader.get_variable_to_dtype_map().items() if d == tf.float32]
    assert numbers
    for key in numbers:
        np.testing.assert_array_equal(bundle.read(key)[0], reader.get_tensor(key))
    assert crc32c(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_tf1_checkpoint(tmp_path: Path) -> None:
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        w = tf.compat.v1.get_variable("w", initializer=W, use_resource=False)
        v = tf.compat.v1.get_variable("v", initializer=W + 1, use_resource=True)
        y = tf.identity(tf.matmul(x, w) * tf.matmul(x, v), name="y")
        session.run(tf.compat.v1.global_variables_initializer())
        want = session.run(y, {x: X})
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    for source in (tmp_path / "model.ckpt", tmp_path, tmp_path / "model.ckpt.index"):
        got = fw.import_model(source, outputs=["y"]).run({"x": X})["y"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_cut_bind_and_fix(tmp_path: Path) -> None:
    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [None, None], name="x")
        training = tf.compat.v1.placeholder_with_default(True, [], name="training")
        middle = tf.identity(x * 2, name="middle")
        tf.identity(tf.cond(training, lambda: middle + 1, lambda: middle), name="y")

    path = save_graph(tmp_path / "graph.pb", build)
    graph = fw.import_model(path, inputs=["x"], outputs=["y:0"], feeds={"training": False})
    assert [str(e) for e in graph.inputs[0].shape] == ["N", "T"]
    np.testing.assert_array_equal(graph.run({"x": X})["y:0"], X * 2)
    cut = fw.import_model(path, inputs=["middle"], outputs=["y"], shapes={"middle": ("B", 4)})
    np.testing.assert_array_equal(cut.run({"middle": X})["y"], X + 1)


def test_everything_unsupported_at_once(tmp_path: Path) -> None:
    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [3], name="x")
        tf.identity(tf.random.uniform([3]) + tf.raw_ops.NextAfter(x1=x, x2=x), name="y")
        tf.strings.as_string(x, name="z")

    with pytest.raises(ImportRefused) as caught:
        fw.import_model(save_graph(tmp_path / "graph.pb", build), outputs=["z", "y"])
    found = caught.value.problems
    assert sorted(p.where for p in found) == ["NextAfter", "random_uniform/RandomUniform", "z"]
    assert {p.code for p in found} == {"random", "unsupported-op"}


def test_a_shape_operand_is_bound_at_import(tmp_path: Path) -> None:
    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [4, 6], name="x")
        tf.reshape(x, tf.compat.v1.placeholder(tf.int32, [2], name="shape"), name="y")

    path = save_graph(tmp_path / "graph.pb", build)
    assert getattr(refused("data-dependent", path), "inputs") == ("shape",)  # noqa: B009 - not every refusal has it
    assert fw.import_model(path, feeds={"shape": [3, 8]}).outputs[0].shape == (3, 8)


def test_splats_stay_small_and_claims_are_checked(tmp_path: Path) -> None:
    huge = tf.compat.v1.GraphDef()
    node = huge.node.add(name="c", op="Const")
    node.attr["dtype"].type = 1
    node.attr["value"].tensor.dtype = 1
    node.attr["value"].tensor.tensor_shape.dim.add(size=1 << 34)
    node.attr["value"].tensor.float_val.append(2.0)
    last = huge.node.add(name="y", op="StridedSlice", input=["c", "b", "e", "s"])
    last.attr["T"].type = 1
    last.attr["shrink_axis_mask"].i = 1
    for name in "bes":
        huge.node.add(name=name, op="Const").attr["value"].tensor.CopyFrom(tf.make_tensor_proto([1], tf.int32))
    path = tmp_path / "graph.pb"
    path.write_bytes(huge.SerializeToString())
    graph = fw.import_model(path, inputs=[], outputs=["y"])
    assert graph.outputs[0].shape == ()
    node.attr["value"].tensor.float_val.append(3.0)
    path.write_bytes(huge.SerializeToString())
    refused("limit", path, inputs=[], outputs=["y"])


def test_damaged_files_have_one_kind_of_error(saved: Path, tmp_path: Path) -> None:
    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 2], name="x")
        y = tf.nn.conv2d(x, np.ones((3, 3, 2, 4), np.float32), 2, "SAME")
        tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * 2), [0, tf.reduce_mean(y, [1, 2])])

    frozen = save_graph(tmp_path / "good.pb", build).read_bytes()
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    files = [p for p in saved.rglob("*") if p.is_file()]
    draw = random.Random(0)
    refusals = 0
    for attempt in range(400):
        for p in files:
            (folder / p.relative_to(saved)).parent.mkdir(exist_ok=True)
            (folder / p.relative_to(saved)).write_bytes(p.read_bytes())
        target, content = (tmp_path / "bad.pb", frozen) if attempt % 2 else (folder / "saved_model.pb", None)
        if content is None:
            target = folder / draw.choice(["saved_model.pb", "variables/variables.index"])
            content = (saved / target.relative_to(folder)).read_bytes()
        data = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        target.write_bytes(bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data))
        try:
            import_tensorflow(target if attempt % 2 else folder, "graph_def" if attempt % 2 else "saved_model")
        except ImportRefused:
            refusals += 1
    assert refusals > 100


@pytest.mark.parametrize(
    "content",
    [b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0a\x05ab", b"\x03", b"\x00\x01", b"\x0a" + b"\x80" * 12],
)
def test_wire_errors(content: bytes) -> None:
    with pytest.raises(ImportRefused) as caught:
        Reader("f").decode(schema.GRAPH, memoryview(content))
    assert caught.value.code == "malformed"


def test_nesting_and_counts_are_limited() -> None:
    deep = b""
    for _ in range(200):
        deep = b"\x52" + _length(b"\x12" + _length(b"\x0a\x01a\x12" + _length(deep)))
    with pytest.raises(ImportRefused) as caught:
        Reader("f").decode(schema.ATTR, memoryview(deep))
    assert caught.value.code == "limit"
    many = memoryview(b"\x0a\x00" * 1000)
    with pytest.raises(ImportRefused):
        Reader("f", ImportLimits(nodes=10)).decode(schema.GRAPH, many)


def _length(data: bytes) -> bytes:
    n, head = len(data), b""
    while n > 127:
        head, n = head + bytes([n & 127 | 128]), n >> 7
    return head + bytes([n]) + data


def test_support_page_agrees_with_the_tables() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "docs/generate_tensorflow.py", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_weights_are_read_once(tmp_path: Path) -> None:
    module = tf.Module()
    module.w = tf.Variable(np.ones((1000, 1500), np.float32))
    module.h = tf.Variable(tf.ones((1000, 1000), tf.bfloat16))
    f = tf.function(
        lambda x: {"a": x @ module.w, "b": tf.cast(x, tf.bfloat16) @ module.h},
        input_signature=[tf.TensorSpec((None, 1000))],
    )
    module.f = f
    tf.saved_model.save(module, str(tmp_path / "m"), {"serving_default": f})
    size = (tmp_path / "m" / "variables" / "variables.data-00000-of-00001").stat().st_size
    fw.import_model(tmp_path / "m")  # what is loaded once is loaded
    tracemalloc.start()
    graph = fw.import_model(tmp_path / "m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert graph.output_names == ["a", "b"]
    assert size < peak < 1.1 * size + 2_000_000


def test_functions_that_are_not_called_are_not_read(saved: Path) -> None:
    proto = Reader("m").decode(schema.SAVED_MODEL, memoryview((saved / "saved_model.pb").read_bytes()))
    graph = parse_graph_def(proto["meta_graphs"][0]["graph"], "m")
    assert not graph.functions._made
    names = list(graph.functions._late)
    assert graph.functions.get(names[0]) is graph.functions[names[0]]
    assert graph.functions.get("none") is None
    assert len(graph.functions._made) == 1


def test_variables_of_a_keras_model_that_tensorflow_saves(tmp_path: Path) -> None:
    """Keras 3 beside ``tf.saved_model.save``: restored are copies; what the signature reads is found by its object."""
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LSTM(3)(inputs)))
    for i, v in enumerate(model.weights):
        v.assign(np.random.default_rng(i).uniform(-1, 1, v.shape).astype(np.float32))
    tf.saved_model.save(model, str(tmp_path / "saved"))
    graph = fw.import_model(tmp_path / "saved")
    x = np.random.default_rng(9).standard_normal((2, 5, 4)).astype(np.float32)
    (got,) = graph.run({graph.inputs[0].name: x}).values()
    np.testing.assert_allclose(got, np.asarray(model(x)), rtol=1e-5, atol=1e-6)
