"""Text forms, partitioned variables and several graphs in one SavedModel, against what TensorFlow wrote."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import fusewright as fw
from fusewright.core.errors import ImportRefused
from fusewright.frontends.formats.limits import ImportLimits
from fusewright.frontends.tensorflow import schema
from fusewright.frontends.tensorflow.bundle import Bundle
from fusewright.frontends.tensorflow.slices import slice_key, text_box
from fusewright.frontends.tensorflow.textproto import TextReader, is_text
from fusewright.frontends.tensorflow.wire import Reader

v1 = tf.compat.v1
X = np.random.default_rng(0).standard_normal((2, 300)).astype(np.float32)


def plain(item: Any) -> Any:
    """Bytes in place of views, so that messages compare."""
    if isinstance(item, dict):
        return {k: plain(v) for k, v in item.items()}
    if isinstance(item, list):
        return [plain(v) for v in item]
    return bytes(item) if isinstance(item, memoryview) else item


def without_defaults(item: Any) -> Any:
    """Zeros left out: the text form may state what the wire form omits."""
    if isinstance(item, dict):
        kept = {k: without_defaults(v) for k, v in item.items()}
        return {k: v for k, v in kept.items() if not isinstance(v, (int, float)) or v}
    return [without_defaults(v) for v in item] if isinstance(item, list) else item


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of partitioned variables of both kinds, the graph as text beside it, and the values of a run."""
    folder = tmp_path_factory.mktemp("partitioned")
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        parts = v1.fixed_size_partitioner(3)
        old = v1.get_variable("old", [300, 4], partitioner=parts, use_resource=False)
        new = v1.get_variable("new", [300, 4], partitioner=v1.fixed_size_partitioner(2, axis=1), use_resource=True)
        x = v1.placeholder(tf.float32, [None, 300], name="x")
        y = tf.matmul(x, tf.convert_to_tensor(old) + tf.convert_to_tensor(new), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "model.ckpt"))
        np.savez(folder / "values.npz", y=session.run(y, {x: X}))
    meta = (folder / "model.ckpt.meta").read_bytes()
    message = v1.MetaGraphDef()
    message.ParseFromString(meta)
    (folder / "text.meta").write_text(text_format.MessageToString(message))
    for suffix in (".index", ".data-00000-of-00001"):
        (folder / f"text{suffix}").write_bytes((folder / f"model.ckpt{suffix}").read_bytes())
    return folder


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt.meta", "text", "text.meta"])
def test_partitioned_variables_and_text_meta(model: Path, name: str) -> None:
    graph = fw.import_model(model / name, outputs=["y"])
    np.testing.assert_allclose(graph.run({"x": X})["y"], np.load(model / "values.npz")["y"], rtol=1e-4, atol=1e-5)


def test_slices_are_read_one_by_one_and_whole(model: Path) -> None:
    bundle = Bundle(model / "model.ckpt")
    reader = tf.train.load_checkpoint(str(model / "model.ckpt"))
    for name in ("old", "new"):
        want = reader.get_tensor(name)
        np.testing.assert_array_equal(bundle.read(name)[0], want)
        np.testing.assert_array_equal(bundle.read(name, "300 4 90,120:1,2")[0], want[90:210, 1:3])
        np.testing.assert_array_equal(bundle.read(name, "300 4 -:-")[0], want)
    for bad in ("300 4 290,20:-", "300 4 -", "3 4 -:-", "300 4 a,b:-"):
        with pytest.raises(ImportRefused):
            bundle.read("old", bad)
    assert text_box("", (3, 2), "") == ((0, 3), (0, 2))


def test_keys_of_slices_are_those_that_tensorflow_wrote(model: Path) -> None:
    keys = set(Bundle(model / "model.ckpt")._entries)
    assert {slice_key("old", ((s, 100), (0, 4))) for s in (0, 100, 200)} <= keys
    assert {slice_key("new", ((0, 300), (s, 2))) for s in (0, 2)} <= keys


def test_text_and_wire_forms_decode_alike(model: Path) -> None:
    message = v1.MetaGraphDef()
    message.ParseFromString((model / "model.ckpt.meta").read_bytes())
    wire = Reader("m").decode(schema.META_GRAPH, memoryview(message.SerializeToString()))
    text = (model / "text.meta").read_bytes()
    assert is_text(memoryview(text))
    assert not is_text(memoryview(message.SerializeToString()))
    found = TextReader("m").decode(schema.META_GRAPH, memoryview(text))
    assert without_defaults(plain(found)) == without_defaults(plain(wire))


def test_every_kind_of_value_in_text() -> None:
    tensors = [
        tf.make_tensor_proto(np.array(v, t)) for t in (
            np.float32, np.float64, np.int32, np.int64, np.uint8, np.float16, np.uint64, np.bool_
        ) for v in ([0, 1], 1)
    ]  # fmt: skip
    tensors += [
        tf.make_tensor_proto([-1, 7], tf.int64), tf.make_tensor_proto([np.inf, -np.inf, np.nan]),
        tf.make_tensor_proto([b"a\x00\xff\"'\\\n", "é".encode()]), tf.make_tensor_proto(2**63, tf.uint64),
    ]  # fmt: skip
    for tensor in tensors:
        wire = Reader("t").decode(schema.TENSOR, memoryview(tensor.SerializeToString()))
        found = TextReader("t").decode(schema.TENSOR, memoryview(text_format.MessageToString(tensor).encode()))
        np.testing.assert_equal(without_defaults(plain(found)), without_defaults(plain(wire)))


def test_grammar() -> None:
    text = b"""# a comment
    node < name: "a" 'b'; op: "Const", attr { key: "value" value: { tensor { dtype: DT_FLOAT float_val: [1, 2.5f, -1e3]
      tensor_shape { dim { size: 0x3 } } } } } [some.extension]: 3  unknown { deep { [1] x: {} } } >
    """
    with pytest.raises(ImportRefused, match="line 3"):
        TextReader("g").decode(schema.GRAPH, memoryview(text))
    found = TextReader("g").decode(schema.GRAPH, memoryview(text.replace(b"[1] x", b"x")))
    node = found["node"][0]
    assert (node["name"], node["op"]) == ("ab", "Const")
    assert node["attr"]["value"]["tensor"] == {
        "dtype": 1,
        "float_val": [1, 2.5, -1000],
        "shape": {"dim": [{"size": 3}]},
    }


def test_graph_as_text_with_a_loop_and_functions(tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def f(x: Any) -> Any:
        for _ in tf.range(3):
            x = tf.tanh(x) + 1
        return x

    proto = f.get_concrete_function().graph.as_graph_def()
    (tmp_path / "g.pbtxt").write_text(text_format.MessageToString(proto))
    (tmp_path / "g.pb").write_bytes(proto.SerializeToString())
    text, wire = (fw.import_model(tmp_path / f"g.{s}", outputs=["Identity"]) for s in ("pbtxt", "pb"))
    assert str(text).replace("g.pbtxt", "g.pb") == str(wire)


def test_saved_model_as_text(tmp_path: Path) -> None:
    module = tf.Module()
    module.w = tf.Variable(np.float32([[1, 2], [3, 4]]))
    f = tf.function(lambda x: x @ module.w, input_signature=[tf.TensorSpec((None, 2), name="x")])
    module.f = f
    tf.saved_model.save(module, str(tmp_path / "m"), {"serving_default": f})
    wire = fw.import_model(tmp_path / "m")
    path = tmp_path / "m" / "saved_model.pb"
    message = SavedModel()
    message.ParseFromString(path.read_bytes())
    path.unlink()
    (tmp_path / "m" / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    x = np.float32([[1, 1]])
    for source in (tmp_path / "m", tmp_path / "m" / "saved_model.pbtxt"):
        np.testing.assert_array_equal(fw.import_model(source).run({"x": x})["output_0"], [[4, 6]])
    assert wire.output_names == ["output_0"]


def test_of_several_graphs_that_for_serving_is_taken(tmp_path: Path) -> None:
    builder = v1.saved_model.Builder(str(tmp_path / "m"))
    for tags, factor, key in (
        (["train", "serve"], 2.0, "both"),
        (["serve"], 3.0, "serving_default"),
        (["x"], 5.0, "x"),
    ):
        graph = tf.Graph()
        with graph.as_default(), v1.Session(graph=graph) as session:
            x = v1.placeholder(tf.float32, [2], name="x")
            v = v1.get_variable("v", initializer=np.float32(1))
            y = x * v * factor
            info = v1.saved_model.build_signature_def(
                {"x": v1.saved_model.build_tensor_info(x)}, {"y": v1.saved_model.build_tensor_info(y)}
            )
            session.run(v1.global_variables_initializer())
            if tags == ["train", "serve"]:
                builder.add_meta_graph_and_variables(session, tags, {key: info})
            else:
                builder.add_meta_graph(tags, {key: info})
    builder.save()
    for signature, factor in ((None, 3), ("both", 2), ("x", 5)):
        got = fw.import_model(tmp_path / "m", signature=signature).run({"x": np.float32([1, 2])})["y"]
        np.testing.assert_array_equal(got, np.float32([1, 2]) * factor)


def test_a_graph_without_its_weights(model: Path, tmp_path: Path) -> None:
    (tmp_path / "only.meta").write_bytes((model / "model.ckpt.meta").read_bytes())
    graph = fw.import_model(tmp_path / "only.meta", inputs=["old/part_0/read"], outputs=["old/part_0/read"])
    assert [str(v.type) for v in graph.inputs] == ["f32[100, 4]"]
    with pytest.raises(ImportRefused) as caught:
        fw.import_model(tmp_path / "only.meta", outputs=["y"])
    assert caught.value.code == "weights"


def test_damaged_text_is_refused_and_nothing_else(model: Path, tmp_path: Path) -> None:
    text = (model / "text.meta").read_bytes()[:6000]
    rng = random.Random(0)
    path = tmp_path / "g.pbtxt"
    for _ in range(300):
        data = bytearray(text)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            kind = rng.randrange(3)
            if kind == 0:
                data[at] = rng.choice(b'{}<>"\\:;,[]x0-.#\n')
            elif kind == 1:
                del data[at : at + rng.randint(1, 40)]
            else:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.randint(1, 60)]
        path.write_bytes(bytes(data))
        with pytest.raises(fw.FusewrightError):
            fw.import_model(path)
    with pytest.raises(ImportRefused, match="nested"):
        TextReader("d").decode(schema.GRAPH, memoryview(b"a{" * 5000))
    with pytest.raises(ImportRefused, match="messages"):
        TextReader("d", ImportLimits(nodes=1)).decode(schema.GRAPH, memoryview(b"node{}" * 50))
