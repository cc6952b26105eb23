"""Models whose extents depend on values: compiled, on several inputs in a row, against TensorFlow and ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from onnx import TensorProto as T
from onnx import helper

import fusewright as fw
from fusewright.runtime.sanitise import sanitised_run

RNG = np.random.default_rng(17)
Spec = tf.TensorSpec


def compare(got: Sequence[np.ndarray], want: Sequence[Any]) -> None:
    assert len(got) == len(want)
    for y, w in zip(got, map(np.asarray, want), strict=True):
        assert y.shape == w.shape and y.dtype == w.dtype
        np.testing.assert_allclose(y, w, rtol=1e-4, atol=1e-5)


def against_tensorflow(fn: Callable[..., Any], specs: Sequence[Any], *feeds: Sequence[np.ndarray]) -> fw.Graph:
    """The interpreter and one bundle, at 1, 2 and 8 threads and sanitised, on each of ``feeds``."""
    traced = tf.function(fn, input_signature=specs)
    graph = fw.import_model(traced)
    graph.verify(level=2)
    data = fw.compile(graph, target="cpu-avx2")._container.data
    bundles = [fw.load(data, threads=n) for n in (1, 2, 8)]
    names = [v.name for v in graph.inputs]
    for arrays in feeds:
        want = traced(*arrays)
        want = list(want) if isinstance(want, (list, tuple)) else [want]
        named = dict(zip(names, arrays, strict=True))
        compare(list(graph.run(named).values()), want)
        for bundle in bundles:
            compare(list(bundle.run(named).values()), want)
        compare(list(sanitised_run(bundles[0], named).values()), want)
    return graph


def f32(*shape: int, shift: float = 0.0) -> np.ndarray:
    return (RNG.standard_normal(shape) + shift).astype(np.float32)


ROWS = [[f32(n, 3, shift=s)] for n, s in ((5, 0), (5, 9), (5, -9), (0, 0), (2, 0))]
NUMBERS = [[RNG.integers(0, 4, n).astype(np.int32)] for n in (9, 1, 0, 6)]
WEIGHTS = f32(3, 5)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: tf.where(x > 0),
        lambda x: tf.boolean_mask(x, x[:, 0] > 0) * 2,
        lambda x: tf.nn.softmax(tf.boolean_mask(x, x[:, 1] > 0) @ WEIGHTS),
        lambda x: (
            tf.reduce_mean(tf.boolean_mask(x, x[:, 1] > 0), 0) + tf.cast(tf.shape(tf.where(x > 0))[0], tf.float32)
        ),
        # Two searches with one mask: that they find as many is compared during the run.
        lambda x: tf.boolean_mask(x, x[:, 0] > 0) + tf.boolean_mask(x * x, x[:, 0] > 0),
        lambda x: tf.dynamic_partition(x, tf.cast(x[:, 2] > 0, tf.int32), 2),
        lambda x: tf.concat([tf.boolean_mask(x, x[:, 0] > 0), x], 0),
    ],
)
def test_masks(fn):
    against_tensorflow(fn, [Spec([None, 3], tf.float32)], *[f for f in ROWS if len(f[0]) or fn(f[0]) is not None])


@pytest.mark.parametrize("fn", [tf.unique, tf.unique_with_counts, lambda x: tf.raw_ops.UniqueV2(x=x, axis=[0])])
def test_unique(fn):
    graph = against_tensorflow(lambda x: list(fn(x)), [Spec([None], tf.int32)], *NUMBERS)
    assert graph.outputs[0].shape == (fw.core.dims.symbol("K"),)


def test_unique_of_floats_tells_no_nan_from_another_apart_from_itself():
    x = np.array([np.nan, 0.0, -0.0, np.nan, 2.0, 0.0], np.float32)
    against_tensorflow(lambda x: list(tf.unique_with_counts(x)), [Spec([None], tf.float32)], [x], [x[::-1].copy()])


def test_list_difference():
    feeds = [
        (RNG.integers(0, 9, n).astype(np.int32), RNG.integers(0, 9, m).astype(np.int32))
        for n, m in ((7, 4), (3, 0), (0, 2))
    ]
    specs = [Spec([None], tf.int32), Spec([None], tf.int32)]
    against_tensorflow(lambda x, y: list(tf.raw_ops.ListDiff(x=x, y=y)), specs, *feeds)


def scene(n: int, spread: float) -> list[np.ndarray]:
    corner = RNG.random((n, 2)) * spread
    return [np.concatenate([corner, corner + 0.2 + RNG.random((n, 2)) * 0.3], 1).astype(np.float32),
            RNG.random(n).astype(np.float32)]  # fmt: skip


SCENES = [scene(60, 2.0), scene(60, 0.05), scene(3, 1.0), scene(0, 1.0), scene(60, 9.0)]


def test_detection_from_features_to_boxes():
    """Scores of a small network, suppression, then gathers: as many rows as there are finds."""
    w = f32(4, 1)

    def detect(boxes, scores):
        logits = tf.squeeze(tf.sigmoid(boxes @ w), 1) * scores
        at = tf.image.non_max_suppression(boxes, logits, 12, 0.4, 0.1)
        return tf.gather(boxes, at), tf.gather(logits, at), at

    graph = against_tensorflow(detect, [Spec([None, 4], tf.float32), Spec([None], tf.float32)], *SCENES)
    assert "non_max_suppression" in {n.op.name for n in graph.nodes}


@pytest.mark.parametrize("pad", [False, True])
def test_soft_suppression(pad):
    def soft(boxes, scores):
        return list(tf.raw_ops.NonMaxSuppressionV5(
            boxes=boxes, scores=scores, max_output_size=20, iou_threshold=1.0, score_threshold=0.1,
            soft_nms_sigma=0.5, pad_to_max_output_size=pad,
        ))  # fmt: skip

    against_tensorflow(soft, [Spec([None, 4], tf.float32), Spec([None], tf.float32)], *SCENES[:3])


@pytest.mark.parametrize(("shared", "per_class"), [(1, False), (3, False), (3, True)])
def test_combined_suppression(shared, per_class):
    def combined(boxes, scores):
        return list(tf.image.combined_non_max_suppression(boxes, scores, 4, 9, 0.4, 0.2, pad_per_class=per_class))

    n = 20
    boxes = np.stack([np.stack([scene(n, 1.0)[0] for _ in range(shared)], 1) for _ in range(2)])
    scores = RNG.random((2, n, 3)).astype(np.float32)
    specs = [Spec([2, n, shared, 4], tf.float32), Spec([2, n, 3], tf.float32)]
    against_tensorflow(combined, specs, [boxes, scores])


def test_inside_a_loop_and_a_branch():
    def looped(x):
        def body(i, total):
            kept = tf.boolean_mask(x, x[:, 0] > tf.cast(i, tf.float32) * 0.3)
            return i + 1, total + tf.reduce_sum(kept)

        _, total = tf.while_loop(lambda i, total: i < 4, body, [tf.constant(0), tf.constant(0.0)])
        side = tf.cond(total > 0, lambda: tf.shape(tf.where(x > 0))[0], lambda: tf.shape(tf.where(x < 0))[0])
        return total, side

    against_tensorflow(looped, [Spec([None, 3], tf.float32)], *ROWS)


I32 = Spec([], tf.int32)


def numbers(*values: int) -> list[np.int32]:
    return [np.int32(v) for v in values]


@pytest.mark.parametrize(
    ("fn", "shape", "more"),
    [
        (lambda x, i: x[:i], [None, 3], [(0,), (2,), (5,), (9,), (-2,), (-9,)]),
        (lambda x, i: x[:, i:], [None, 3], [(0,), (3,), (7,), (-1,)]),
        (lambda x, i, j: x[i:j] * 2, [None, 3], [(1, 4), (4, 1), (-3, 9), (0, 0), (-9, -1)]),
        (lambda x, i: tf.slice(x, [i, 0], [-1, 2]), [5, 3], [(0,), (2,), (5,)]),
        (lambda x, i, n: tf.slice(x, [i, 0], [n, 2]), [5, 3], [(0, 5), (2, 1), (5, 0), (1, 3)]),
        (lambda x, k: list(tf.math.top_k(x, k)), [5, 3], [(0,), (1,), (3,)]),
        (lambda x, k: tf.reduce_sum(tf.reshape(x, [-1, k]), 1), [4, 3], [(1,), (4,), (12,), (3,)]),
        (lambda x, k: tf.reshape(tf.boolean_mask(x, x[:, 0] > 0), [-1])[: tf.maximum(k, 0)], [None, 3], [(0,), (99,)]),
    ],
)
def test_numbers_that_are_computed_cut_and_shape(fn, shape, more):
    rows = 5 if shape[0] is None else shape[0]
    feeds = [[f32(rows, shape[1]), *numbers(*given)] for given in more]
    against_tensorflow(fn, [Spec(shape, tf.float32), *[I32] * (len(feeds[0]) - 1)], *feeds)


def test_a_shape_that_does_not_fit_is_refused_and_the_next_call_works():
    fn = tf.function(lambda x, k: tf.reshape(x, [3, k]) * 2, input_signature=[Spec([12], tf.float32), I32])
    bundle = fw.compile(fw.import_model(fn), target="cpu-avx2")
    x = f32(12)
    for k in (4, 5, 4, -7, 4, 13):
        if k == 4:
            np.testing.assert_array_equal(bundle(x, np.int32(k)), x.reshape(3, 4) * 2)
        elif k == -7:
            assert bundle(x, np.int32(k)).shape == (3, 4)  # a negative part is what is left, as for -1
        else:
            with pytest.raises(fw.FusewrightError):
                bundle(x, np.int32(k))


# -- Keras -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make",
    [
        lambda x: keras.ops.nonzero(x > 0),
        lambda x: keras.ops.take(x, keras.ops.nonzero(x[:, 0] > 0)[0], axis=0) * 2,
        lambda x: keras.ops.unique(keras.ops.floor(x), return_index=True, return_inverse=True, return_counts=True),
        lambda x: keras.ops.unique(keras.ops.sign(x), axis=0, return_counts=True),
        lambda x: keras.ops.unique(keras.ops.sign(x), sorted=False),
    ],
)
def test_keras_operations(make, tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, make(x))
    model.save(tmp_path / "m.keras")
    graph = fw.import_model(tmp_path / "m.keras")
    graph.verify(level=2)
    bundle = fw.compile(graph, target="cpu-avx2")
    for (rows,) in ROWS[:3]:
        want = model(rows)
        want = list(want) if isinstance(want, (list, tuple)) else [want]
        compare(list(graph.run({"x": rows}).values()), want)
        compare(list(bundle.run({"x": rows}).values()), want)


# -- ONNX --------------------------------------------------------------------------------------------------------------
def against_onnxruntime(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *feeds: dict[str, Any]):
    made = helper.make_graph(nodes, "g", inputs, outputs)
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = fw.import_model(proto)
    graph.verify(level=2)
    bundle = fw.compile(graph, target="cpu-avx2")
    for given in feeds:
        want = session.run(None, given)
        compare(list(graph.run(given).values()), want)
        compare(list(bundle.run(given).values()), want)
        compare(list(sanitised_run(bundle, given).values()), want)


def info(name: str, shape: Any, kind: int = T.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def test_onnx_positions_and_a_run_time_condition():
    nodes = [helper.make_node("NonZero", ["x"], ["at"]), helper.make_node("Compress", ["x", "keep"], ["y"], axis=1)]
    feeds = [{"x": f32(n, 4, shift=s), "keep": np.array(k)} for n, s, k in (
        (3, 0, [True, False, True, True]), (2, 0, [False] * 4), (5, 0, [True] * 4))]  # fmt: skip
    feeds[0]["x"][1] = 0
    inputs = [info("x", ["N", 4]), info("keep", [4], T.BOOL)]
    against_onnxruntime(nodes, inputs, [info("at", [2, None], T.INT64), info("y", ["N", None])], *feeds)


@pytest.mark.parametrize("options", [{"sorted": 1}, {"sorted": 0}, {"axis": 0, "sorted": 1}, {"axis": 1, "sorted": 0}])
def test_onnx_unique(options):
    names = ["y", "first", "inverse", "counts"]
    outputs = [info(names[0], None), *(info(n, [None], T.INT64) for n in names[1:])]
    feeds = [{"x": RNG.integers(0, 2, (n, 3)).astype(np.float32)} for n in (6, 1, 4)]
    against_onnxruntime([helper.make_node("Unique", ["x"], names, **options)], [info("x", ["N", 3])], outputs, *feeds)


def test_onnx_suppression_over_batches_and_classes():
    boxes = np.stack([scene(25, 1.0)[0] for _ in range(2)])
    feeds = [
        {"b": boxes, "s": RNG.random((2, 3, 25)).astype(np.float32), "m": np.array([m]), "i": np.array([i], np.float32),
         "t": np.array([t], np.float32)}
        for m, i, t in ((5, 0.4, 0.3), (0, 0.4, 0.3), (25, 1.0, 0.0), (3, 0.1, 0.95))
    ]  # fmt: skip
    node = helper.make_node("NonMaxSuppression", ["b", "s", "m", "i", "t"], ["at"])
    inputs = [info("b", [2, "n", 4]), info("s", [2, 3, "n"]), info("m", [1], T.INT64), info("i", [1]), info("t", [1])]
    against_onnxruntime([node], inputs, [info("at", [None, 3], T.INT64)], *feeds)


@pytest.mark.parametrize("square", [True, False])
def test_the_main_diagonal_of_a_matrix_of_any_size(square: bool) -> None:
    def run(x: Any) -> Any:
        rows = tf.shape(tf.where(x > 0))[0]
        return tf.eye(rows) if square else [tf.eye(rows, tf.shape(x)[0]), tf.linalg.set_diag(tf.eye(tf.shape(x)[0]), x)]

    against_tensorflow(
        run, [Spec([None], tf.float32)], *([f32(n, shift=s)] for n, s in ((5, 0), (5, -9), (0, 0), (4, 9)))
    )


def test_a_transposed_convolution_fixes_the_extents_of_its_input() -> None:
    """What was reshaped to numbers found during the run can only have the extents that give the size asked for."""
    weights = f32(3, 3, 2, 4)

    def run(x: Any, n: Any) -> Any:
        sides = tf.minimum(tf.reduce_max(n), 5)
        y = tf.reshape(x, tf.stack([1, sides, sides, 4]))
        return tf.nn.conv2d_transpose(y, weights, (1, 10, 10, 2), 2)

    graph = fw.import_model(tf.function(run, input_signature=[Spec([100], tf.float32), Spec([2], tf.int32)]))
    x, n = f32(100), np.array([5, 3], np.int32)
    names = [v.name for v in graph.inputs]
    compare(list(graph.run(dict(zip(names, (x, n), strict=True))).values()), [run(x, n)])
    with pytest.raises(fw.InputRefused):
        graph.run(dict(zip(names, (x, n - 1), strict=True)))
