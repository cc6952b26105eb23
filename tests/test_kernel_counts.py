"""What is left of networks after fusion, counted in the Program: a transformer block from every frontend, a CNN."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import helper, numpy_helper

import fusewright as fw
from fusewright.testing.kernels import check_kernels, describe

LENGTH, WIDTH, HEADS = 16, 64, 4
DEPTH = WIDTH // HEADS


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 8).astype(np.float32)


def kernels(graph: Any) -> list[str]:
    return [describe(step.node) for step in fw.plan(graph).program.walk()]


def feed_forward(h: Any) -> Any:
    layers = keras.layers
    y = layers.Dense(WIDTH)(layers.Dense(2 * WIDTH, activation="gelu")(h))
    return layers.LayerNormalization()(layers.Add()([h, y]))


def keras_attention_layer(tmp_path: Path) -> Any:
    layers = keras.layers
    x, keep = keras.Input((LENGTH, WIDTH), name="x"), keras.Input((LENGTH,), dtype="bool", name="m")
    attended = layers.MultiHeadAttention(HEADS, DEPTH)(x, x, attention_mask=keep[:, None, :])
    return keras.Model([x, keep], feed_forward(layers.LayerNormalization()(layers.Add()([x, attended]))))


def keras_dense_layers(tmp_path: Path) -> Any:
    layers, ops = keras.layers, keras.ops
    x, keep = keras.Input((LENGTH, WIDTH), name="x"), keras.Input((LENGTH,), name="m")
    q, k, v = (
        layers.Permute((2, 1, 3))(layers.Reshape((LENGTH, HEADS, DEPTH))(layers.Dense(WIDTH)(x))) for _ in range(3)
    )
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 4.0
    scores = scores + (1.0 - ops.reshape(keep, (-1, 1, 1, LENGTH))) * -1e9
    joined = layers.Permute((2, 1, 3))(ops.matmul(ops.softmax(scores), v))
    attended = layers.Dense(WIDTH)(layers.Reshape((LENGTH, WIDTH))(joined))
    return keras.Model([x, keep], feed_forward(layers.LayerNormalization()(layers.Add()([x, attended]))))


def tensorflow_graph(tmp_path: Path) -> Any:
    """Rows flattened for every product, moments and erf spelt out, as exporters of the first BERT wrote it."""

    def dense(x: Any, n: int, scale: float = 1.0) -> Any:
        return tf.nn.bias_add(tf.matmul(x, tf.constant(weights(x.shape[-1], n) * scale)), tf.constant(weights(n)))

    def norm(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        scale, shift = tf.constant(weights(1, WIDTH)[0]), tf.constant(weights(WIDTH))
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, 1e-12)

    def heads(x: Any) -> Any:
        return tf.transpose(tf.reshape(x, (-1, LENGTH, HEADS, DEPTH)), (0, 2, 1, 3))

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, LENGTH, WIDTH), "x")
        keep = tf.compat.v1.placeholder(tf.float32, (None, LENGTH), "m")
        n, flat = tf.shape(x)[0], tf.reshape(x, (-1, WIDTH))
        q, k, v = (heads(dense(flat, WIDTH, s)) for s in (1.0, 2.0, 3.0))
        scores = tf.matmul(q, k, transpose_b=True) * 0.25 + (1 - keep[:, None, None, :]) * -10000.0
        joined = tf.reshape(tf.transpose(tf.matmul(tf.nn.softmax(scores), v), (0, 2, 1, 3)), (-1, WIDTH))
        h = norm(x + tf.reshape(dense(joined, WIDTH), (n, LENGTH, WIDTH)))
        u = dense(tf.reshape(h, (-1, WIDTH)), 2 * WIDTH)
        u = u * 0.5 * (1.0 + tf.math.erf(u / tf.sqrt(2.0)))
        tf.identity(norm(h + tf.reshape(dense(u, WIDTH), (n, LENGTH, WIDTH))), "y")
    path = tmp_path / "block.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def onnx_graph(tmp_path: Path) -> Any:
    nodes: list[Any] = []
    constants: list[Any] = []

    def const(array: Any, dtype: Any = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.asarray(array, dtype), f"c{len(constants)}"))
        return str(constants[-1].name)

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"v{len(nodes)}"], **attributes))
        return f"v{len(nodes) - 1}"

    def dense(x: str, n: int, m: int, scale: float = 1.0) -> str:
        return op("Add", op("MatMul", x, const(weights(n, m) * scale)), const(weights(m)))

    def heads(x: str, perm: list[int]) -> str:
        return op("Transpose", op("Reshape", x, const([0, 0, HEADS, DEPTH], np.int64)), perm=perm)

    def norm(x: str) -> str:
        centred = op("Sub", x, op("ReduceMean", x, axes=[-1]))
        variance = op("ReduceMean", op("Pow", centred, const(2.0)), axes=[-1])
        y = op("Div", centred, op("Sqrt", op("Add", variance, const(1e-12))))
        return op("Add", op("Mul", y, const(weights(WIDTH))), const(weights(WIDTH)))

    q, v = (heads(dense("x", WIDTH, WIDTH, s), [0, 2, 1, 3]) for s in (1.0, 2.0))
    k = heads(dense("x", WIDTH, WIDTH, 3.0), [0, 2, 3, 1])
    mask = op("Mul", op("Sub", const(1.0), op("Unsqueeze", "m", const([1, 2], np.int64))), const(-10000.0))
    scores = op("Softmax", op("Add", op("Div", op("MatMul", q, k), const(4.0)), mask), axis=-1)
    joined = op("Transpose", op("MatMul", scores, v), perm=[0, 2, 1, 3])
    attended = dense(op("Reshape", joined, const([0, 0, WIDTH], np.int64)), WIDTH, WIDTH)
    h = norm(op("Add", attended, "x"))
    u = dense(h, WIDTH, 2 * WIDTH)
    u = op("Mul", op("Mul", u, op("Add", op("Erf", op("Div", u, const(2**0.5))), const(1.0))), const(0.5))
    y = norm(op("Add", dense(u, 2 * WIDTH, WIDTH), h))
    info = helper.make_tensor_value_info
    inputs = [
        info("x", onnx.TensorProto.FLOAT, ["N", LENGTH, WIDTH]),
        info("m", onnx.TensorProto.FLOAT, ["N", LENGTH]),
    ]
    graph = helper.make_graph(nodes, "block", inputs, [info(y, onnx.TensorProto.FLOAT, None)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


BLOCKS = [keras_attention_layer, keras_dense_layers, tensorflow_graph, onnx_graph]


@pytest.mark.parametrize("make", BLOCKS)
def test_a_transformer_block_is_seven_kernels(make: Any, tmp_path: Path) -> None:
    """Projections, attention, projection and residual, norm, MLP up with GELU, MLP down and residual, norm."""
    found = [name.split("(")[0] for name in kernels(fw.import_model(make(tmp_path)))]
    assert found == ["contract", "attention", "contract", "layer_norm", "contract", "contract", "layer_norm"]


@pytest.mark.parametrize("make", BLOCKS[2:])
def test_the_kernels_of_a_block_are_inside_their_bounds(make: Any, tmp_path: Path) -> None:
    graph = fw.import_model(make(tmp_path))
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((3, LENGTH, WIDTH)).astype(np.float32)}
    feeds["m"] = (rng.random((3, LENGTH)) < 0.8).astype(np.float32)
    verdicts = check_kernels(graph, {v.name: feeds[v.name[:1]] for v in graph.inputs})
    assert verdicts and all(v.ok for v in verdicts), "\n".join(map(str, verdicts))


def test_a_residual_network_is_one_kernel_per_convolution() -> None:
    layers = keras.layers

    def conv(y: Any, n: int, size: int, stride: int = 1, relu: bool = True) -> Any:
        y = layers.BatchNormalization()(layers.Conv2D(n, size, stride, padding="same")(y))
        return layers.Activation("relu")(y) if relu else y

    x = keras.Input((32, 32, 3))
    y = layers.MaxPooling2D(3, 2, padding="same")(conv(x, 16, 7, 2))
    for stride in (1, 2):
        shortcut = conv(y, 64, 1, stride, relu=False)
        body = conv(conv(conv(y, 16, 1, stride), 16, 3), 64, 1, relu=False)
        y = layers.Activation("relu")(layers.Add()([shortcut, body]))
    y = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(y))
    found = [name.split("(")[0] for name in kernels(fw.import_model(keras.Model(x, y)))]
    convolutions = [n for n in found if n in ("contract", "conv_blocked")]
    assert len(convolutions) == 1 + 8 + 1  # stem, two blocks of four, head
    assert sorted(set(found) - {"contract", "conv_blocked"}) == ["max_pool_blocked", "reduce_mean", "softmax"]
    assert len(found) == 13
