"""Deformable convolution, tree ensembles, n-grams, bits read as another type, and the oldest opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto as T
from onnx import helper
from onnx import numpy_helper as nh

import fusewright as fw

RNG = np.random.default_rng(0)
N = helper.make_node


def V(name: str, shape: Any, kind: int = T.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def proto(nodes: Any, inputs: Any, constants: Any = None, opset: int = 22, ml: bool = False) -> Any:
    tensors = [nh.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, [V("y", None)], tensors)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("ai.onnx.ml", 5)] if ml else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(("shift", "groups"), [((0, 0), 1), ((1, -2), 1), ((0, 0), 2)])
def test_a_deformable_convolution_of_whole_offsets_is_a_convolution_of_the_shifted_image(
    shift: tuple[int, int], groups: int
) -> None:
    x = RNG.standard_normal((2, 4, 7, 6)).astype(np.float32)
    w = RNG.standard_normal((6, 4 // groups, 3, 2)).astype(np.float32)
    bias = RNG.standard_normal(6).astype(np.float32)
    moved = np.zeros_like(x)
    dy, dx = shift
    rows = slice(max(0, dy), min(7, 7 + dy)), slice(max(0, dx), min(6, 6 + dx))
    moved[:, :, rows[0].start - dy : rows[0].stop - dy, rows[1].start - dx : rows[1].stop - dx] = x[:, :, *rows]
    offset = np.broadcast_to(np.float32(shift).reshape(1, 1, 2, 1, 1), (2, 12, 2, 3, 3)).reshape(2, 24, 3, 3)
    attributes = {"strides": [2, 2], "dilations": [1, 1], "group": groups}
    deform = proto(
        [N("DeformConv", ["x", "w", "o", "b"], ["y"], offset_group=2, **attributes)],
        [V("x", ["N", 4, 7, 6]), V("o", ["N", 24, 3, 3])], {"w": w, "b": bias},
    )  # fmt: skip
    plain = proto([N("Conv", ["x", "w", "b"], ["y"], **attributes)], [V("x", ["N", 4, 7, 6])], {"w": w, "b": bias})
    got = fw.import_model(deform).run({"x": x, "o": np.ascontiguousarray(offset)})["y"]
    want = fw.import_model(plain).run({"x": moved})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_sample_between_pixels_is_their_mean_and_the_mask_scales_it() -> None:
    x = RNG.standard_normal((1, 1, 4, 5)).astype(np.float32)
    offset = np.full((1, 2, 4, 4), 0.0, np.float32)
    offset[:, 1] = 0.5
    mask = RNG.standard_normal((1, 1, 4, 4)).astype(np.float32)
    node = N("DeformConv", ["x", "w", "o", "", "m"], ["y"], pads=[0, 0, 0, 0])
    model = proto(
        [node], [V("x", x.shape), V("o", offset.shape), V("m", mask.shape)], {"w": np.ones((1, 1, 1, 1), np.float32)}
    )
    got = fw.import_model(model).run({"x": x, "o": offset, "m": mask})["y"]
    np.testing.assert_allclose(got, (x[..., :4] + x[..., 1:5]) / 2 * mask, rtol=1e-5, atol=1e-6)


def forest(modes: list[int], how: int, after: int = 0) -> Any:
    """Two trees of depth 2 over three features; node 3 is the second root."""

    def f(values: Any) -> Any:
        return nh.from_array(np.array(values, np.float32))

    node = N(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, aggregate_function=how, post_transform=after,
        tree_roots=[0, 3], nodes_featureids=[0, 1, 2, 2], nodes_splits=f([0.1, -0.2, 0.3, 0.0]),
        nodes_modes=nh.from_array(np.array(modes, np.uint8)), nodes_truenodeids=[1, 0, 2, 4],
        nodes_trueleafs=[0, 1, 1, 1], nodes_falsenodeids=[2, 1, 3, 5], nodes_falseleafs=[0, 1, 1, 1],
        leaf_targetids=[0, 1, 0, 1, 0, 1], leaf_weights=f([1, 2, 3, 4, 5, 6]),
        nodes_missing_value_tracks_true=[1, 0, 0, 1],
    )  # fmt: skip
    return proto([node], [V("x", ["N", 3])], ml=True)


def walked(x: np.ndarray, modes: list[int], how: int) -> np.ndarray:
    compare = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    nodes = [(0, 0.1, 1, 2, 1), (1, -0.2, ("leaf", 0), ("leaf", 1), 0), (2, 0.3, ("leaf", 2), ("leaf", 3), 0),
             (2, 0.0, ("leaf", 4), ("leaf", 5), 1)]  # fmt: skip
    out = np.zeros((len(x), 2), np.float32)
    for i, row in enumerate(x):
        scores: list[list[float]] = [[], []]
        for root in (0, 3):
            at: Any = root
            while not isinstance(at, tuple):
                feature, split, yes, no, nan = nodes[at]
                true = compare[modes[at]](row[feature], np.float32(split)) or (np.isnan(row[feature]) and nan)
                at = yes if true else no
            scores[at[1] % 2].append(at[1] + 1.0)
        for k, s in enumerate(scores):
            out[i, k] = 0 if not s else {0: sum(s) / 2, 1: sum(s), 2: min(s), 3: max(s)}[how]
    return out


@pytest.mark.parametrize("how", range(4))
@pytest.mark.parametrize("modes", [[0, 0, 0, 0], [1, 2, 3, 0], [5, 4, 1, 2]])
def test_trees(modes: list[int], how: int) -> None:
    x = RNG.choice(np.float32([-0.5, -0.2, 0, 0.1, 0.3, 1, np.nan]), (40, 3))
    model = forest(modes, how)
    np.testing.assert_array_equal(fw.import_model(model).run({"x": x})["y"], walked(x, modes, how))


def test_transforms_of_scores() -> None:
    x = RNG.standard_normal((9, 3)).astype(np.float32)
    scores = walked(x, [0, 0, 0, 0], 1).astype(np.float64)
    got = fw.import_model(forest([0, 0, 0, 0], 1, 2)).run({"x": x})["y"]
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-scores)), rtol=1e-6)
    got = fw.import_model(forest([0, 0, 0, 0], 1, 1)).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.exp(scores) / np.exp(scores).sum(1, keepdims=True), rtol=1e-5)
    with pytest.raises(fw.FusewrightError):
        fw.import_model(forest([0, 0, 0, 0], 1, 3))


def test_a_cycle_of_tree_nodes_is_refused() -> None:
    model = forest([0, 0, 0, 0], 1)
    node = model.graph.node[0]
    for attribute in node.attribute:
        if attribute.name == "nodes_trueleafs":
            del attribute.ints[:]
            attribute.ints.extend([0, 0, 0, 0])
        if attribute.name == "nodes_truenodeids":
            del attribute.ints[:]
            attribute.ints.extend([1, 0, 0, 3])
    with pytest.raises(fw.FusewrightError, match="cycle"):
        fw.import_model(model)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 1, 3])
def test_ngrams(mode: str, skips: int) -> None:
    node = N(
        "TfIdfVectorizer", ["x"], ["y"], mode=mode, min_gram_length=1, max_gram_length=3, max_skip_count=skips,
        ngram_counts=[0, 3, 7], ngram_indexes=[4, 0, 2, 1, 6, 3], pool_int64s=[1, 2, 3, 1, 2, 2, 1, 1, 2, 3],
        weights=[1.0, 0.5, 2.0, 3.0, 0.25, 1.5],
    )  # fmt: skip
    model = proto([node], [V("x", ["N", 9], T.INT32)], opset=18)
    x = RNG.integers(0, 4, (5, 9)).astype(np.int32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(fw.import_model(model).run({"x": x})["y"], session.run(None, {"x": x})[0], rtol=1e-6)


def test_bits_of_floats() -> None:
    model = proto([N("BitCast", ["x"], ["y"], to=T.INT32)], [V("x", ["N", 3])], opset=26)
    x = RNG.standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_array_equal(fw.import_model(model).run({"x": x})["y"], x.view(np.int32))
    with pytest.raises(fw.FusewrightError):
        fw.import_model(proto([N("BitCast", ["x"], ["y"], to=T.INT64)], [V("x", ["N", 3])], opset=26))


def test_the_batched_scan_of_opset_8() -> None:
    body = helper.make_graph(
        [N("Add", ["s", "v"], ["t"]), N("Mul", ["t", "v"], ["o"])], "b", [V("s", [2]), V("v", [2])],
        [V("t", [2]), V("o", [2])],
    )  # fmt: skip
    model = proto(
        [N("Scan", ["", "s", "x"], ["z", "y"], body=body, num_scan_inputs=1)],
        [V("s", [3, 2]), V("x", [3, 4, 2])], opset=8,
    )  # fmt: skip
    s = RNG.standard_normal((3, 2)).astype(np.float32)
    x = RNG.standard_normal((3, 4, 2)).astype(np.float32)
    want = (s[:, None] + np.cumsum(x, 1)) * x
    np.testing.assert_allclose(fw.import_model(model).run({"s": s, "x": x})["y"], want, rtol=1e-5, atol=1e-6)


def test_operators_of_the_oldest_opsets() -> None:
    x = np.array([True, False])
    model = proto([N("Not", ["x"], ["y"])], [V("x", [2], T.BOOL)], opset=1)
    np.testing.assert_array_equal(fw.import_model(model).run({"x": x})["y"], ~x)
    with pytest.raises(fw.FusewrightError) as refused:
        fw.import_model(proto([N("Add", ["x", "x"], ["y"])], [V("x", [2])], opset=6))
    assert refused.value.code == "unsupported-version"
