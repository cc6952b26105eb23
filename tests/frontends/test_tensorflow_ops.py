"""TensorFlow ops: frozen graphs against what TensorFlow computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import tensorflow as tf

import fusewright as fw

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 6, 5, 4)).astype(np.float32)
M = RNG.standard_normal((4, 6)).astype(np.float32)
K = RNG.integers(-9, 9, (3, 4)).astype(np.int32)
J = np.where(K == 0, 3, K[::-1]).astype(np.int32)
J[J == 0] = 2
V = RNG.standard_normal(7).astype(np.float32)
P = (np.abs(M) + 0.1).astype(np.float32)
raw = tf.raw_ops


def frozen(fn: Callable[..., Any], *arrays: np.ndarray) -> tuple[bytes, list[np.ndarray], list[str]]:
    """(GraphDef with the arrays as placeholders, what TensorFlow computes, output names)."""
    graph = tf.Graph()
    with graph.as_default():
        places = [tf.compat.v1.placeholder(a.dtype, a.shape, name=f"x{i}") for i, a in enumerate(arrays)]
        out = fn(*places)
        outputs = list(out) if isinstance(out, (list, tuple)) else [out]
        with tf.compat.v1.Session(graph=graph) as session:
            want = session.run(outputs, dict(zip(places, arrays, strict=True)))
    return graph.as_graph_def().SerializeToString(), want, [o.name for o in outputs]


def check(tmp_path: Path, fn: Callable[..., Any], *arrays: np.ndarray) -> fw.Graph:
    content, want, names = frozen(fn, *arrays)
    path = tmp_path / "graph.pb"
    path.write_bytes(content)
    inputs = [f"x{i}" for i in range(len(arrays))]
    imported = fw.import_model(path, inputs=inputs, outputs=list(dict.fromkeys(names)))
    imported.verify(level=2)
    got = imported.run(dict(zip(inputs, arrays, strict=True)))
    for name, expected in zip(names, want, strict=True):
        assert got[name].dtype == expected.dtype
        np.testing.assert_allclose(got[name], expected, rtol=2e-4, atol=2e-5, err_msg=name)
    return imported


CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "floor division and modulo": (lambda x, y: [x // y, x % y, tf.truncatediv(x, y), tf.truncatemod(x, y)], (K, J)),
    "division without NaN": (lambda x, y: tf.math.divide_no_nan(x, y - y), (M, M)),
    "rounding": (lambda x: [tf.round(x * 2), tf.floor(x), tf.math.ceil(x), tf.math.rint(x)], (M,)),
    "shifts and bits": (lambda x, y: [tf.bitwise.bitwise_xor(x, y), tf.bitwise.left_shift(x, y & 7)], (K, J)),
    "comparison and select": (lambda x, y: tf.where(x > y, x, y), (K, J)),
    "cast": (lambda x: [tf.cast(x * 9, tf.int32), tf.cast(x > 0, tf.float32), tf.cast(x, tf.float64)], (M,)),
    "activations": (
        lambda x: [tf.nn.elu(x), tf.nn.selu(x), tf.nn.relu6(x), tf.nn.leaky_relu(x), tf.nn.softsign(x)],
        (M,),
    ),
    "squared difference": (lambda x, y: tf.math.squared_difference(x, y[:1]), (M, M)),
    "reductions": (
        lambda x: [tf.reduce_sum(x, [0, -1]), tf.reduce_mean(x, 1, True), tf.reduce_max(x), tf.norm(x)],
        (M,),
    ),
    "integer mean": (lambda x: tf.reduce_mean(x, 1), (K,)),
    "argmax": (lambda x: [tf.argmax(x, 1), tf.argmin(x, 0, tf.int32)], (M,)),
    "cumulative": (lambda x: [tf.cumsum(x, 1, exclusive=True, reverse=True), tf.math.cumprod(x, 0)], (M,)),
    "top k": (lambda x: list(tf.math.top_k(x, 3)), (M,)),
    "strided slice": (lambda x: [x[1:, ::-2, tf.newaxis, ..., 2], x[..., -1], x[:, 4:1:-1], x[-1, :20:3]], (X,)),
    "shape arithmetic": (lambda x: tf.reshape(x, [tf.shape(x)[0], -1, tf.shape(x)[3] // 2]), (X,)),
    "pack and split": (lambda x: [tf.stack(tf.unstack(x, axis=1), axis=0), *tf.split(x, [1, -1, 2], 1)], (M,)),
    "tile and pad": (lambda x: [tf.tile(x, [2, 1]), tf.pad(x, [[1, 0], [2, 3]], constant_values=4.0)], (M,)),
    "mirror pad": (lambda x: [tf.pad(x, [[1, 2], [2, 1]], "REFLECT"), tf.pad(x, [[3, 4], [0, 1]], "SYMMETRIC")], (M,)),
    "gather": (
        lambda x, i: [tf.gather(x, i & 3), tf.gather(x, i[:, 0] & 3, axis=1), tf.gather_nd(x, i[:, :2] & 3)],
        (M, K),
    ),
    "batched gather": (lambda x, i: tf.gather(x[:3], i & 3, axis=1, batch_dims=1), (M, K)),
    "scatter": (lambda x, i: tf.scatter_nd(tf.reshape(i[:, 0] & 3, [3, 1]), x[:3], [4, 6]), (M, K)),
    "one hot": (lambda i: [tf.one_hot(i, 5), tf.one_hot(i & 3, 4, 2, 7, axis=0)], (K,)),
    "roll and reverse": (lambda x: [tf.roll(x, [1, -2], [0, 1]), tf.reverse(x, [-1])], (M,)),
    "reverse sequence": (lambda x: tf.reverse_sequence(x, [2, 6, 0, 3], seq_axis=1), (M,)),
    "space and depth": (lambda x: [tf.nn.space_to_depth(x[:, :, :4], 2), tf.nn.depth_to_space(x, 2)], (X,)),
    "space to batch": (lambda x: tf.space_to_batch_nd(x, [2, 3], [[1, 1], [0, 1]]), (X,)),
    "convolution SAME": (lambda x: tf.nn.conv2d(x, np.ones((3, 2, 4, 3), np.float32), [1, 2, 2, 1], "SAME"), (X,)),
    "convolution dilated": (
        lambda x: tf.nn.conv2d(x, np.ones((2, 2, 4, 3), np.float32), 1, "VALID", dilations=2),
        (X,),
    ),
    "grouped convolution": (lambda x: tf.nn.conv2d(x, np.ones((2, 2, 2, 6), np.float32), 1, "VALID"), (X,)),
    "depthwise": (
        lambda x: tf.nn.depthwise_conv2d(x, np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2), [1, 1, 1, 1], "SAME"),
        (X,),
    ),
    "transposed convolution": (
        lambda x: tf.nn.conv2d_transpose(x, np.arange(72, dtype=np.float32).reshape(3, 3, 2, 4), [2, 12, 9, 2], 2),
        (X,),
    ),
    "pooling": (lambda x: [tf.nn.max_pool2d(x, 3, 2, "SAME"), tf.nn.avg_pool2d(x, 3, 2, "SAME")], (X,)),
    "pooling with positions": (
        lambda x: list(tf.nn.max_pool_with_argmax(x, 3, 2, "SAME", include_batch_in_index=True)),
        (X,),
    ),
    "batch norm": (
        lambda x: tf.compat.v1.nn.fused_batch_norm(x, V[:4], V[1:5], V[2:6], P[0, :4], is_training=False)[0], (X,),
    ),
    "batch norm, training": (lambda x: list(tf.compat.v1.nn.fused_batch_norm(x, V[:4], V[1:5]))[:3], (X,)),
    "local response": (lambda x: tf.nn.lrn(x, 2, 1.0, 0.3, 0.7), (X,)),
    "patches": (lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1, 2, 1, 1], [1, 2, 1, 1], "SAME"), (X,)),
    "matmul": (lambda x, y: [tf.matmul(x, y, transpose_b=True), tf.einsum("ij,kj->ki", x, y)], (M, M)),
    "band and diagonal": (
        lambda x: [tf.linalg.band_part(x, 1, 2), tf.linalg.diag_part(x, k=(-1, 2)), tf.linalg.diag(x, k=1)], (M,),
    ),
    "set diagonal": (lambda x: tf.linalg.set_diag(x, x[0, :4]), (M,)),
    "softmax": (lambda x: [tf.nn.softmax(x), tf.nn.log_softmax(x)], (M,)),
    "cross entropy": (lambda x, y: tf.nn.softmax_cross_entropy_with_logits(y, x), (M, P)),
    "transforms": (
        lambda x: [tf.abs(tf.signal.rfft(x)), tf.signal.irfft(tf.signal.rfft(x)), tf.abs(tf.signal.rfft2d(x))],
        (M,),
    ),
    "segments": (
        lambda x: [tf.math.segment_mean(x, [0, 0, 2, 2]), tf.math.unsorted_segment_max(x, [3, 0, 0, 2], 5)],
        (M,),
    ),
    "resize": (
        lambda x: [
            raw.ResizeBilinear(images=x, size=[9, 4], half_pixel_centers=True),
            raw.ResizeNearestNeighbor(images=x, size=[3, 11], align_corners=True),
            raw.ResizeBicubic(images=x, size=[8, 7]), raw.ResizeBicubic(images=x, size=[8, 7], half_pixel_centers=True),
            raw.ResizeArea(images=x, size=[4, 3]),
        ],
        (X,),
    ),
    "colour": (
        lambda x: [tf.image.rgb_to_hsv(x), tf.image.adjust_hue(x, 0.3), tf.image.adjust_contrast(x, 2.0)],
        (np.abs(X[..., :3]) % 1,),
    ),
    "crop and resize": (
        lambda x: tf.image.crop_and_resize(x, [[0, 0, 1, 1], [-0.2, 0, 1, 1]], [1, 0], [3, 4], extrapolation_value=2),
        (X,),
    ),
    "fake quantisation": (lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1.1, 2.3), (M,)),
    "small matrices": (
        lambda x, y: [
            tf.linalg.solve(x, y),
            tf.linalg.inv(x),
            tf.linalg.det(x),
            tf.linalg.cholesky(x @ tf.transpose(x)),
            *tf.linalg.lu(x),
            tf.linalg.triangular_solve(x + 4 * np.eye(4, dtype=np.float32), y, lower=False),
        ],
        (M[:, :4], M),
    ),
    "bits": (lambda x: [tf.bitcast(x, tf.int32), tf.bitcast(x, tf.uint8)], (M,)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_agrees_with_tensorflow(tmp_path: Path, name: str) -> None:
    fn, arrays = CASES[name]
    assert check(tmp_path, fn, *arrays).outputs


@pytest.mark.parametrize("version", [1, 2])
def test_loop_and_conditional(tmp_path: Path, version: int) -> None:
    (tf.compat.v1.disable_control_flow_v2 if version == 1 else tf.compat.v1.enable_control_flow_v2)()
    try:

        def loop(x: Any) -> Any:
            steps = tf.while_loop(lambda i, v: tf.less(i, 5), lambda i, v: (i + 1, tf.tanh(v @ M[:, :4]) + x), [0, x])
            arrays = tf.TensorArray(tf.float32, 4, element_shape=[4])
            fill = lambda i, t: (i + 1, t.write(i, tf.square(x[i])))
            filled = tf.while_loop(lambda i, t: i < 4, fill, [0, arrays])[1].stack()
            return [steps[1], filled]

        check(tmp_path, loop, M[:, :4])
        for sign in (1, -1):
            check(tmp_path, lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1), np.abs(M) * sign)
    finally:
        tf.compat.v1.enable_control_flow_v2()
    assert tf.compat.v1.control_flow_v2_enabled()
