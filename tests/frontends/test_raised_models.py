"""Models as TensorFlow, Keras and PyTorch exporters write them: after raising they hold exactly the ops they mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from onnx import TensorProto, helper, numpy_helper

import fusewright as fw
from fusewright.passes import default_pipeline

RNG = np.random.default_rng(7)
X = RNG.normal(0, 2, (2, 5, 8)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 9, 7, 4)).astype(np.float32)
PLUMBING = ("input", "constant", "return", "reshape", "transpose")


def raised(source: Any, **options: Any) -> tuple[fw.Graph, fw.Graph]:
    """The graph as imported, and as the portable part of the pipeline leaves it."""
    graph = fw.import_model(source, **options)
    return graph, default_pipeline().run(graph, stop_after="scale", verify=2)[0]


def compare(before: fw.Graph, after: fw.Graph, arrays: list[np.ndarray], want: Any) -> None:
    """Within 4 times the distance of the framework's own float32 from float64."""
    feeds = {v.name: a for v, a in zip(after.inputs, arrays, strict=True)}
    (exact,) = before.run(feeds, precision="f64").values()
    (got,) = after.run(feeds).values()
    (wide,) = after.run(feeds, precision="f64").values()
    scale = np.abs(exact).max()
    np.testing.assert_allclose(wide, exact, rtol=0, atol=1e-6 * scale)
    own = np.abs(np.asarray(want, np.float64) - exact).max()
    assert np.abs(got - exact).max() <= 4 * own + 1e-6 * scale


def ops(graph: fw.Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.name not in PLUMBING]


def layer(made: Any, *arrays: np.ndarray, **kwargs: Any) -> Callable[..., Any]:
    """A layer with random weights, called like a function."""
    made(*arrays, **kwargs)
    for v in made.weights:
        v.assign(RNG.uniform(0.3, 1.2, v.shape).astype(np.float32))
    return lambda *xs: made(*xs, **kwargs)


def causal(q: Any, k: Any, v: Any) -> Any:
    scores = tf.matmul(q, k, transpose_b=True) / 2.0
    keep = tf.constant(np.tril(np.ones((1, 5, 5), bool)))
    return tf.matmul(tf.nn.softmax(tf.where(keep, scores, -1e9)), v)


def softmax(x: Any) -> Any:
    e = tf.exp(x - tf.reduce_max(x, 1, True))
    return e / tf.reduce_sum(e, 1, True)


WINDOW = RNG.standard_normal((3, 3, 4, 6)).astype(np.float32)


def atrous(padding: str) -> Callable[..., Any]:
    conv = lambda x, n, p: tf.nn.conv2d(x, WINDOW, 1, "VALID")
    return lambda x: tf.nn.with_space_to_batch(x, [2, 3], padding, conv, filter_shape=[3, 3], spatial_dims=[1, 2])


def batch_norm(x: Any, mean: Any, var: Any, beta: Any, gamma: Any) -> Any:
    return tf.nn.batch_normalization(x, mean, tf.square(var), beta, gamma, 1e-3)


VECTORS = [RNG.uniform(0.5, 2, 8).astype(np.float32) for _ in range(4)]
MHA = {"num_heads": 2, "key_dim": 4}
L3, L2 = keras.layers, tf_keras.layers
TRACED: dict[str, tuple[Callable[..., Any], list[np.ndarray], list[str]]] = {
    "Keras layer norm": (layer(L3.LayerNormalization(), X), [X], ["layer_norm"]),
    "Keras layer norm, centre only": (layer(L3.LayerNormalization(scale=False), X), [X], ["layer_norm"]),
    "Keras layer norm, scale only": (layer(L3.LayerNormalization(center=False), X), [X], ["layer_norm"]),
    "Keras layer norm over two axes": (layer(L3.LayerNormalization(axis=(1, 2)), X), [X], ["layer_norm"]),
    "tf.keras layer norm": (layer(L2.LayerNormalization(), X), [X], ["layer_norm"]),
    "tf.keras layer norm over two axes": (layer(L2.LayerNormalization(axis=(1, 2)), X), [X], ["layer_norm"]),
    "RMS norm": (layer(L3.RMSNormalization(), X), [X], ["rms_norm"]),
    "batch norm of given statistics": (batch_norm, [X, *VECTORS], ["square", "batch_norm"]),
    "Keras batch norm": (layer(L3.BatchNormalization(), X, training=False), [X], ["mul", "add"]),
    "GELU": (keras.activations.gelu, [X], ["gelu"]),
    "GELU by tanh": (lambda x: keras.activations.gelu(x, approximate=True), [X], ["gelu"]),
    "GELU by erf": (lambda x: 0.5 * x * (1 + tf.math.erf(x / np.sqrt(2))), [X], ["gelu"]),
    "tf.keras GELU": (lambda x: tf_keras.activations.gelu(x), [X], ["gelu"]),
    "swish": (keras.activations.silu, [X], ["silu"]),
    "tf.keras swish": (tf_keras.activations.swish, [X], ["silu"]),
    "mish": (keras.activations.mish, [X], ["mish"]),
    "hard sigmoid": (keras.activations.hard_sigmoid, [X], ["hard_sigmoid"]),
    "tf.keras hard sigmoid": (tf_keras.activations.hard_sigmoid, [X], ["hard_sigmoid"]),
    "hard swish": (keras.activations.hard_silu, [X], ["hard_swish"]),
    "CELU": (keras.activations.celu, [X], ["elu"]),
    "log of sigmoid": (keras.activations.log_sigmoid, [X], ["log_sigmoid"]),
    "softmax over another axis": (lambda x: keras.activations.softmax(x, axis=1), [X], ["softmax"]),
    "softmax spelt out": (softmax, [X], ["softmax"]),
    "attention": (causal, [X, X, X], ["attention"]),
    "Keras attention": (lambda q, v: L3.Attention()([q, v]), [X, X], ["attention"]),
    "atrous convolution, SAME": (atrous("SAME"), [IMAGE], ["conv"]),
    "atrous convolution, VALID": (atrous("VALID"), [IMAGE], ["conv"]),
    "Keras dilated convolution": (layer(L3.Conv1D(4, 3, dilation_rate=2, padding="same"), X), [X], ["conv", "add"]),
    "tf.keras causal convolution": (
        layer(L2.Conv1D(4, 3, dilation_rate=2, padding="causal"), X), [X], ["conv", "add"]),
}  # fmt: skip


@pytest.mark.parametrize("batch", [None, 2], ids=["N", "2"])
@pytest.mark.parametrize("name", TRACED)
def test_traced(name: str, batch: int | None) -> None:
    fn, arrays, want = TRACED[name]
    specs = [tf.TensorSpec((batch, *a.shape[1:]) if a.ndim > 1 else a.shape, a.dtype) for a in arrays]
    traced = tf.function(lambda *xs: fn(*xs))
    before, after = raised(traced.get_concrete_function(*specs))
    assert ops(after) == want
    compare(before, after, arrays, traced(*map(tf.constant, arrays)))


def test_atrous_convolution_of_any_image() -> None:
    traced = tf.function(atrous("SAME"))
    before, after = raised(traced.get_concrete_function(tf.TensorSpec((None, None, None, 4))))
    assert [n.op.name for n in after.nodes if n.op.kind != "source"] == ["conv", "return"]
    for image in (IMAGE, IMAGE[:1, :6, :6]):
        compare(before, after, [np.ascontiguousarray(image)], traced(tf.constant(image)))


@pytest.mark.parametrize(
    ("module", "masked"), [(keras, False), (keras, True), (tf_keras, False), (tf_keras, True)],
    ids=["Keras", "Keras, masked", "tf.keras", "tf.keras, masked"],
)  # fmt: skip
def test_multi_head_attention(module: Any, masked: bool) -> None:
    made = module.layers.MultiHeadAttention(**MHA)
    keep = np.tril(np.ones((1, 5, 5), bool)).repeat(2, axis=0)
    arrays = [X, keep] if masked else [X]
    fn = layer(made, X, X)
    call = (lambda x, m: made(x, x, attention_mask=m)) if masked else (lambda x: fn(x, x))
    traced = tf.function(call)
    specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays]
    before, after = raised(traced.get_concrete_function(*specs))
    assert ops(after).count("attention") == 1 and not {"softmax", "einsum"} & set(ops(after))
    compare(before, after, arrays, traced(*map(tf.constant, arrays)))


# What torch.onnx writes.
def exported(nodes: list[Any], arrays: list[np.ndarray], **constants: Any) -> Any:
    ins = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["N", *a.shape[1:]]) for i, a in enumerate(arrays)]
    weights = [numpy_helper.from_array(np.asarray(a), k) for k, a in constants.items()]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", ins, outs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def node(op: str, inputs: str, output: str, **attrs: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], **attrs)


def f32(value: float) -> np.ndarray:
    return np.array(value, np.float32)


NORM = [
    node("ReduceMean", "x0", "m", axes=[-1]), node("Sub", "x0 m", "d"), node("Pow", "d two", "s"),
    node("ReduceMean", "s", "v", axes=[-1]), node("Add", "v eps", "w"), node("Sqrt", "w", "r"),
    node("Div", "d r", "n"), node("Mul", "n g", "o"), node("Add", "o h", "y"),
]  # fmt: skip
GELU = [
    node("Div", "x0 root", "a"), node("Erf", "a", "e"), node("Add", "e one", "f"), node("Mul", "x0 f", "p"),
    node("Mul", "p half", "y"),
]  # fmt: skip
GELU_TANH = [
    node("Pow", "x0 three", "c"), node("Mul", "c k", "a"), node("Add", "x0 a", "i"), node("Mul", "i q", "j"),
    node("Tanh", "j", "t"), node("Add", "t one", "u"), node("Mul", "x0 half", "h"), node("Mul", "h u", "y"),
]  # fmt: skip
ATTENTION = [
    node("Transpose", "x1", "kt", perm=[0, 2, 1]), node("MatMul", "x0 kt", "qk"), node("Div", "qk scale", "s"),
    node("Add", "s mask", "sm"), node("Softmax", "sm", "p", axis=-1), node("MatMul", "p x2", "y"),
]  # fmt: skip
LOG_SOFTMAX = [
    node("ReduceMax", "x0", "m", axes=[1]), node("Sub", "x0 m", "d"), node("Exp", "d", "e"),
    node("ReduceSum", "e axes", "s"), node("Log", "s", "l"), node("Sub", "d l", "y"),
]  # fmt: skip
HARD_SWISH = [
    node("Add", "x0 three", "a"), node("Clip", "a zero six", "b"), node("Mul", "x0 b", "c"), node("Div", "c six", "y")
]  # fmt: skip
MASK = np.triu(np.full((5, 5), -10000, np.float32), 1)
ONNX: dict[str, tuple[Any, list[np.ndarray], list[str]]] = {
    "layer norm": (exported(NORM, [X], two=f32(2), eps=f32(1e-5), g=VECTORS[0], h=VECTORS[1]), [X], ["layer_norm"]),
    "GELU": (exported(GELU, [X], root=f32(1.4142135381698608), one=f32(1), half=f32(0.5)), [X], ["gelu"]),
    "GELU by tanh": (
        exported(GELU_TANH, [X], three=f32(3), k=f32(0.044715), q=f32(0.7978845608), one=f32(1), half=f32(0.5)),
        [X], ["gelu"]),
    "attention": (exported(ATTENTION, [X, X, X], scale=f32(2.8284271), mask=MASK), [X, X, X], ["attention"]),
    "swish": (exported([node("Sigmoid", "x0", "s"), node("Mul", "x0 s", "y")], [X]), [X], ["silu"]),
    "hard swish": (exported(HARD_SWISH, [X], three=f32(3), zero=f32(0), six=f32(6)), [X], ["hard_swish"]),
    "log-softmax": (exported(LOG_SOFTMAX, [X], axes=np.array([1])), [X], ["log_softmax"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_exported(name: str) -> None:
    model, arrays, want = ONNX[name]
    before, after = raised(model)
    assert ops(after) == want
    feeds = {v.name: a for v, a in zip(before.inputs, arrays, strict=True)}
    compare(before, after, arrays, next(iter(before.run(feeds).values())))


def test_a_transformer_block_runs_compiled() -> None:
    """What is raised is computed by the kernels that there are for it."""
    inputs = keras.Input((5, 8))
    y = L3.LayerNormalization()(inputs)
    y = inputs + L3.MultiHeadAttention(**MHA)(y, y)
    z = L3.Dense(8)(L3.Dense(16, activation="gelu")(L3.LayerNormalization()(y)))
    model = keras.Model(inputs, y + z)
    traced = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 5, 8)))
    before, after = raised(traced)
    counts = {n: ops(after).count(n) for n in ("layer_norm", "attention", "gelu")}
    assert counts == {"layer_norm": 2, "attention": 1, "gelu": 1}
    got = fw.compile(traced)(X)
    exact = next(iter(before.run({before.inputs[0].name: X}, precision="f64").values()))
    assert np.abs(got - exact).max() <= 1e-5 * np.abs(exact).max()
