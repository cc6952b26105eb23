"""Small valid models of every format, as files in one folder. Needs Keras, TensorFlow and onnx.

python tests/malformed/seeds.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

L = keras.layers


def keras_models() -> dict[str, Any]:
    x = keras.Input((6, 5, 2))
    y = L.Conv2D(3, 2, padding="same", activation="relu")(x)
    y = L.MaxPooling2D((2, 1))(L.BatchNormalization()(y))
    y = L.Bidirectional(L.LSTM(2, return_sequences=True))(L.Reshape((-1, 3))(y))
    y = L.Concatenate()([y, L.TimeDistributed(L.Dense(2))(y)])
    recurrent = keras.Model(x, L.GlobalAveragePooling1D()(y[:, 1:]))
    ids = keras.Input((4,), dtype="int32")
    a = L.Embedding(7, 4, mask_zero=True)(ids)
    a = L.LayerNormalization()(a + L.MultiHeadAttention(2, 2)(a, a))
    attention = keras.Model(ids, L.Dense(3, activation="softmax")(L.GRU(3)(a)))
    plain = keras.Sequential([keras.Input((3,)), L.Dense(4, activation="tanh"), L.Dropout(0.5), L.Dense(2)])
    return {"recurrent": recurrent, "attention": attention, "plain": plain}


def onnx_models() -> dict[str, onnx.ModelProto]:
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    def ints(name: str, *values: int) -> Any:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    def value(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def model(nodes: Any, inputs: Any, outputs: Any, constants: Any) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])

    conv = [
        helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], ceil_mode=1, pads=[0, 0, 1, 1]),
        helper.make_node("Resize", ["b", "", "s"], ["c"], mode="linear"),
        helper.make_node("Pad", ["c", "p"], ["y"], mode="reflect"),
    ]
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
    shapes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "i", "j"], ["t"]),
        helper.make_node("Concat", ["t", "r"], ["u"], axis=0),
        helper.make_node("Reshape", ["x", "u"], ["v"]),
        helper.make_node("Tile", ["v", "k"], ["z"]),
        helper.make_node("Split", ["z", "q"], ["y", "w"], axis=1),
        helper.make_node("Einsum", ["y", "w"], ["e"], equation="ij,kj->ik"),
        helper.make_node("TopK", ["z", "one"], ["tv", "ti"], axis=1),
    ]
    body = helper.make_graph(
        [helper.make_node("Add", ["h", "z"], ["h2"]), helper.make_node("Mul", ["h2", "k"], ["o"])],
        "b", [value("h", [4]), value("z", [4])], [value("h2", [4]), value("o", [4])],
    )  # fmt: skip
    loops = [
        helper.make_node("Scan", ["h0", "x"], ["hn", "ys"], body=body, num_scan_inputs=1),
        helper.make_node("LSTM", ["x3", "W", "R"], ["Y"], hidden_size=3),
    ]
    return {
        "conv": model(conv, [value("x", ["N", 3, 8, 8])], [value("y", None)],
                      [tensor("w", 4, 3, 3, 3), scales, ints("p", 0, 0, 1, 1, 0, 0, 1, 1)]),
        "shapes": model(shapes, [value("x", ["N", 2, 6])], [value("e", None), value("ti", None, TensorProto.INT64)],
                        [ints("i", 0), ints("j", 1), ints("r", -1), ints("k", 1, 2), ints("q", 12, 12),
                         ints("one", 1)]),
        "loops": model(loops, [value("x", ["T", 4]), value("x3", [5, 1, 4])], [value("ys", None), value("Y", None)],
                       [tensor("h0", 4), tensor("k", 4), tensor("W", 1, 12, 4), tensor("R", 1, 12, 3)]),
    }  # fmt: skip


class Looping(tf.Module):
    """Control flow, lists, shape arithmetic and two variables."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal((4, 4), (1, 2)), name="w")
        self.b = tf.Variable(tf.zeros(4), name="b")

    @tf.function(input_signature=[tf.TensorSpec((None, 5, 4), tf.float32)])
    def __call__(self, x: Any) -> Any:
        h = tf.zeros((tf.shape(x)[0], 4))
        out = tf.TensorArray(tf.float32, 5)
        for i in tf.range(5):
            h = tf.tanh(x[:, i] @ self.w + h + self.b)
            out = out.write(i, h)
        y = tf.transpose(out.stack(), (1, 0, 2))
        y = tf.cond(tf.reduce_sum(h) > 0, lambda: y * 2.0, lambda: y)
        return {"y": tf.reshape(tf.nn.softmax(y), (-1, 20)), "n": tf.argmax(h, -1)}


def graph_def() -> bytes:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3), "x")
        w = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32))
        y = tf.nn.relu(tf.nn.conv2d(x, w, 2, "SAME"))
        y = tf.compat.v1.nn.fused_batch_norm(y, tf.ones(4), tf.zeros(4), tf.zeros(4), tf.ones(4), is_training=False)[0]
        y = tf.pad(y, ((0, 0), (1, 1), (0, 0), (0, 0)))
        y = tf.concat((tf.nn.max_pool2d(y, 2, 2, "VALID"), tf.nn.avg_pool2d(y, 2, 2, "VALID")), -1)
        y = tf.reshape(y, tf.stack((tf.shape(y)[0], -1)))
        tf.identity(tf.strided_slice(y, (0, 1), (0, 9), (1, 2), begin_mask=1, end_mask=1), "y")
        return graph.as_graph_def().SerializeToString()


def checkpoint(prefix: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, (None, 3), "x")
        w = v1.get_variable("w", (3, 4), use_resource=False)
        b = v1.get_variable("b", (4,), use_resource=False)
        tf.nn.relu(x @ w + b, name="y")
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(prefix))


def main(folder: Path) -> None:
    """Write every seed. The name before the first dot is the format's."""
    keras.utils.set_random_seed(0)
    for name, model in keras_models().items():
        model.save(folder / f"keras.{name}.keras")
        model.save(folder / f"h5.{name}.h5")
        (folder / f"json.{name}.json").write_text(model.to_json())
        model.save_weights(folder / f"json.{name}.weights.h5")
    for name, proto in onnx_models().items():
        (folder / f"onnx.{name}.onnx").write_bytes(proto.SerializeToString())
    (folder / "graph_def.conv.pb").write_bytes(graph_def())
    loop = Looping()
    called = tf.function(lambda x: loop(x)).get_concrete_function(tf.TensorSpec((2, 5, 4), tf.float32))
    frozen = convert_variables_to_constants_v2(called, lower_control_flow=False)
    (folder / "graph_def.loop.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    tf.saved_model.save(loop, str(folder / "saved_model.loop"))
    (folder / "checkpoint.relu").mkdir()
    checkpoint(folder / "checkpoint.relu" / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
