"""Sizes and positions that are computed while the model runs, against TensorFlow and ONNX Runtime on several inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import fusewright as fw
from fusewright.ir.scope import definitions
from fusewright.runtime.sanitise import sanitised_run

RNG = np.random.default_rng(3)
Spec = tf.TensorSpec
I32 = Spec([], tf.int32)
X = RNG.standard_normal((2, 3)).astype(np.float32)


def agree(graph: fw.Graph, want: Callable[..., Any], feeds: Sequence[Sequence[Any]]) -> Any:
    """Interpreter and bundle on each of ``feeds``; extents without a bound get one of 40."""
    graph.verify(level=2)
    free = {n.attrs["symbol"]: (0, 40) for n in definitions(graph) if n.attrs["high"] is None}
    bundle = fw.compile(graph, target="cpu-avx2", dims=free)
    for arrays in feeds:
        named = dict(zip([v.name for v in graph.inputs], map(np.asarray, arrays), strict=True))
        expected = want(*arrays)
        expected = list(expected) if isinstance(expected, (list, tuple)) else [expected]
        for found in (graph.run(named), bundle.run(named), sanitised_run(bundle, named)):
            for got, w in zip(found.values(), map(np.asarray, expected), strict=True):
                assert got.shape == w.shape and got.dtype == w.dtype
                np.testing.assert_allclose(got, w, rtol=1e-5, atol=1e-5)
    return bundle


def i32(*rows: Sequence[int]) -> list[list[np.int32]]:
    return [[np.int32(v) for v in row] for row in rows]


ROW = Spec([None, 3], tf.float32)


@pytest.mark.parametrize(
    ("fn", "specs", "feeds"),
    [
        (lambda k: tf.fill([k, 2], 1.5), [I32], i32((0,), (3,), (1,))),
        (lambda k, v: tf.fill([3, k], v), [I32, Spec([], tf.float32)], [[np.int32(4), np.float32(2)]]),
        (lambda k: tf.reduce_sum(tf.ones([k, 3]), 0) + tf.zeros([k, 1]), [I32], i32((0,), (5,))),
        (lambda x, k: tf.tile(x, [k, 2]), [ROW, I32], [[X, np.int32(k)] for k in (0, 1, 3)]),
        (lambda x, k: tf.fill([tf.shape(x)[0], k], 1.0) @ tf.fill([k, 2], 2.0), [ROW, I32], [[X, np.int32(3)]]),
        (lambda a, z: tf.range(a, z), [I32, I32], i32((0, 5), (3, 3), (-2, 4))),
        (lambda a, z, d: tf.range(a, z, d) * 2, [I32] * 3, i32((0, 10, 3), (10, 0, -4), (2, 3, 7))),
        (lambda z: tf.range(0.0, z, 0.5), [Spec([], tf.float32)], [[np.float32(v)] for v in (0, 0.2, 3, 7.25)]),
        (lambda k: tf.one_hot(tf.range(k), 4), [I32], i32((0,), (3,), (9,))),
        (
            lambda x, k: tf.broadcast_to(x, [k, 3]) + 1,
            [Spec([1, 3], tf.float32), I32],
            [[X[:1], np.int32(k)] for k in (1, 4)],
        ),
        (
            lambda x, k: tf.broadcast_to(x, [k, 2, 3]),
            [Spec([2, 3], tf.float32), I32],
            [[X, np.int32(k)] for k in (2, 0)],
        ),
        (lambda lengths: tf.sequence_mask(lengths), [Spec([None], tf.int32)], [[np.int32([2, 0, 5])], [np.int32([1])]]),
        (
            lambda x, r: tf.repeat(x, r, axis=0),
            [ROW, Spec([None], tf.int32)],
            [[X, np.int32([2, 3])], [X, np.int32([0, 1])]],
        ),
        (lambda x, i, j: x[j:i:-1], [ROW, I32, I32], [[X, *map(np.int32, p)] for p in ((0, 1), (-9, 9), (1, -1))]),
        (lambda k, m: tf.reshape(tf.fill([k, m], 2.0), [3, -1]) + 1, [I32, I32], i32((3, 4), (6, 1), (3, 0))),
        (lambda x, k: tf.reshape(x, [k, tf.shape(x)[0], -1]), [ROW, I32], [[X, np.int32(k)] for k in (1, 3)]),
    ],
)
def test_tensorflow(fn: Any, specs: Any, feeds: Any) -> None:
    traced = tf.function(fn, input_signature=specs)
    agree(fw.import_model(traced), traced, feeds)


def test_a_size_without_a_bound_is_asked_for_and_kept() -> None:
    traced = tf.function(lambda k: tf.fill([k], 1.0), input_signature=[I32])
    with pytest.raises(fw.CompileRefused, match=r"dims=\{'K'"):
        fw.compile(traced)
    bundle = fw.compile(traced, dims={"K": (0, 8)})
    assert bundle(np.int32(8)).shape == (8,)
    for found in (bundle, fw.load(bundle._container.data, native=False)):
        for wrong in (9, -1):
            with pytest.raises(fw.InputRefused, match=f"K came out as {wrong}; it must be from 0 to 8"):
                found(np.int32(wrong))


def test_an_extent_that_cannot_be_spread_is_refused() -> None:
    traced = tf.function(lambda x, k: tf.broadcast_to(x, [k, 3]), input_signature=[Spec([2, 3], tf.float32), I32])
    graph = fw.import_model(traced)
    assert graph.run({"x": X, "k": np.int32(2)})
    for wrong in (1, 3):
        with pytest.raises(fw.InputRefused):
            graph.run({"x": X, "k": np.int32(wrong)})


def test_a_step_of_nothing_is_refused() -> None:
    traced = tf.function(lambda d: tf.range(0, 5, d), input_signature=[I32])
    bundle = fw.compile(traced, dims={"K": (0, 8)})
    with pytest.raises(fw.InputRefused):
        bundle(np.int32(0))


# -- ragged tensors ----------------------------------------------------------------------------------------------------
def rows_of(values: Any, splits: Any) -> Any:
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


VALUES = RNG.standard_normal(7).astype(np.float32)
SPLITS = Spec([None], tf.int64)


@pytest.mark.parametrize(
    "fn",
    [
        lambda v, s: rows_of(v, s).to_tensor(),
        lambda v, s: rows_of(v, s).to_tensor(-1.5, shape=[None, 2]) * 2,
        lambda v, s: rows_of(v, s).to_tensor(shape=[5, 4]),
        lambda v, s: rows_of(v, s).to_tensor(shape=[1, None]),
        lambda v, s: rows_of(tf.stack([v, v * 2], 1), s).to_tensor(7.0),
    ],
)
def test_ragged_rows_become_a_padded_tensor(fn: Any) -> None:
    traced = tf.function(fn, input_signature=[Spec([None], tf.float32), SPLITS])
    feeds = [[VALUES, np.array(s, np.int64)] for s in ([0, 3, 3, 7], [0, 0, 1, 7], [0, 7])]
    agree(fw.import_model(traced), traced, feeds)


def test_nested_rows_and_rows_by_their_numbers() -> None:
    nested = tf.function(
        lambda v, a, b: tf.RaggedTensor.from_nested_row_splits(v, [a, b], validate=False).to_tensor(),
        input_signature=[Spec([None], tf.float32), SPLITS, SPLITS],
    )
    agree(fw.import_model(nested), nested, [[VALUES, np.array([0, 1, 3]), np.array([0, 2, 2, 7])]])
    numbered = tf.function(
        lambda v, r: tf.RaggedTensor.from_value_rowids(v, r, nrows=4, validate=False).to_tensor(),
        input_signature=[Spec([None], tf.float32), SPLITS],
    )
    agree(fw.import_model(numbered), numbered, [[VALUES, np.array(r)] for r in ([0, 0, 0, 1, 3, 3, 3], [2] * 7)])


def test_rows_of_ranges() -> None:
    def ranges(a: Any, z: Any) -> Any:
        made = tf.ragged.range(a, z, 2)
        return made.values, made.row_splits, made.to_tensor(-1)

    traced = tf.function(ranges, input_signature=[Spec([None], tf.int32)] * 2)
    feeds = [[np.int32(a), np.int32(z)] for a, z in (([0, 5, 3], [5, 5, 10]), ([2], [9]), ([4, 4], [0, 0]))]
    agree(fw.import_model(traced), traced, feeds)


# -- ONNX --------------------------------------------------------------------------------------------------------------
def info(name: str, shape: Any, kind: int = T.INT64) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def onnx(nodes: Any, inputs: Any, kind: int = T.FLOAT, rank: int = 2, **constants: Any) -> Any:
    tensors = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", [None] * rank, kind)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(kind: str, *inputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, ["y"], **attributes)


FLOAT = info("x", ["N", 3], T.FLOAT)
X5 = RNG.standard_normal((5, 3)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("proto", "feeds"),
    [
        (onnx([node("Reshape", "x", "s")], [FLOAT, info("s", [2])]),
         [[X, ints(3, 2)], [X, ints(-1, 6)], [X, ints(0, -1)]]),
        (
            onnx([helper.make_node("Concat", ["k", "rest"], ["s"], axis=0), node("Reshape", "x", "s")],
                 [FLOAT, info("k", [1])], rest=[-1]),
            [[X5, ints(5)], [X5, ints(15)], [X5, ints(0)]],
        ),
        (onnx([node("Slice", "x", "a", "b")], [FLOAT, info("a", [2]), info("b", [2])]),
         [[X5, ints(1, 0), ints(9, 2)], [X5, ints(-2, 1), ints(-1, 1)], [X5, ints(4, -9), ints(2, 9)]]),
        (onnx([node("Slice", "x", "a", "b", "axes", "steps")], [FLOAT, info("a", [1]), info("b", [1])], axes=[0],
              steps=[-2]),
         [[X5, ints(9), ints(-9)], [X5, ints(3), ints(0)], [X5, ints(-9), ints(-9)], [X5, ints(1), ints(4)]]),
        (onnx([node("Slice", "x", "a", "b", "axes")], [FLOAT, info("a", [1])], b=[(1 << 63) - 1], axes=[0]),
         [[X5, ints(2)], [X5, ints(-1)]]),
        (onnx([helper.make_node("TopK", ["x", "k"], ["y", "i"])], [FLOAT, info("k", [1])]),
         [[X5, ints(2)], [X5, ints(0)], [X5, ints(3)]]),
        (onnx([node("Tile", "x", "k")], [FLOAT, info("k", [2])]), [[X, ints(2, 3)], [X, ints(0, 1)], [X, ints(1, 1)]]),
        (onnx([node("Expand", "x", "s")], [info("x", [1, 3], T.FLOAT), info("s", [2])]),
         [[X[:1], ints(4, 3)], [X[:1], ints(1, 1)], [X[:1], ints(2, 1)]]),
        (onnx([node("Expand", "x", "s")], [FLOAT, info("s", [3])], rank=3), [[X, ints(4, 2, 1)], [X, ints(1, 1, 3)]]),
        (onnx([node("ConstantOfShape", "s", value=helper.make_tensor("v", T.FLOAT, [1], [2.5]))], [info("s", [2])]),
         [[ints(2, 3)], [ints(0, 1)], [ints(7, 1)]]),
        (onnx([node("Range", "a", "b", "c")], [info("a", []), info("b", []), info("c", [])], T.INT64, 1),
         [[np.int64(a), np.int64(b), np.int64(c)] for a, b, c in ((0, 5, 1), (9, 0, -4), (3, 3, 2), (5, 1, 1))]),
        (onnx([node("Range", "a", "b", "c")], [info(n, [], T.FLOAT) for n in "abc"], T.FLOAT, 1),
         [[np.float32(a), np.float32(b), np.float32(c)] for a, b, c in ((0, 3, 0.5), (2, -1, -0.75), (3, 3, 2))]),
    ],
)  # fmt: skip
def test_onnx(proto: Any, feeds: Any) -> None:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in proto.graph.input]
    agree(
        fw.import_model(proto), lambda *a: session.run(["y"], dict(zip(names, map(np.asarray, a), strict=True))), feeds
    )


def test_onnx_more_than_there_is_refused() -> None:
    bundle = fw.compile(onnx([helper.make_node("TopK", ["x", "k"], ["y", "i"])], [FLOAT, info("k", [1])]))
    with pytest.raises(fw.InputRefused, match="K came out as 4; it must be from 0 to 3"):
        bundle(X, ints(4))
    assert bundle(X, ints(1)).shape == (2, 1)
