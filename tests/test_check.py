"""fw.check: every problem at once, and the first value that differs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fusewright as fw
from fusewright.cli import main


@pytest.fixture
def graph():
    rng = np.random.default_rng(0)
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 3))
    with b.origin(layer="first"):
        h = b.relu(b.matmul(x, b.constant(rng.normal(size=(3, 4)).astype(np.float32))))
    h.name = "hidden"
    with b.origin(layer="second"):
        y = b.tanh(b.matmul(h, b.constant(rng.normal(size=(4, 2)).astype(np.float32))))
    return b.build({"y": y})


def values(graph):
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    inner = next(v for n in graph.nodes for v in n.results if v.name == "hidden")
    weights = next(n for n in graph.nodes if n.op.name == "constant").attrs["value"].array
    hidden = np.maximum(x @ weights, 0)
    assert hidden.shape[1:] == inner.shape[1:]
    return {"x": x, "hidden": hidden, "y": graph.run({"x": x})["y"]}


def test_a_good_model_is_ok(graph):
    found = fw.check(graph, against=values(graph))
    assert found.ok and found.compared == 2 and found.first_divergence is None
    assert found.to_dict()["ok"] is True


def test_the_first_wrong_value_is_named(graph):
    stored = values(graph)
    stored["hidden"] = stored["hidden"] + np.float32(0.01)
    stored["y"] = stored["y"] + np.float32(1)
    found = fw.check(graph, against=stored)
    assert not found.ok and found.first_divergence.name == "hidden"
    assert "first" in found.first_divergence.where
    assert found.first_divergence.error == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("spoil", ["nan", "shape"])
def test_nan_and_shape_differ(graph, spoil):
    stored = values(graph)
    stored["y"] = np.full_like(stored["y"], np.nan) if spoil == "nan" else stored["y"][:2]
    assert not fw.check(graph, against=stored).ok


def test_a_layer_is_its_last_value(graph):
    b = fw.Builder()
    x = b.input("x", "f32", (2, 3))
    with b.origin(layer="probs"):
        scaled = b.mul(x, 3.0)
        y = b.softmax(scaled)
    model = b.build({"out": b.neg(y)})
    feeds = {"x": np.array([[1, 2, 3], [0, 0, 5]], np.float32)}
    right = -model.run(feeds)["out"]
    assert fw.check(model, against={**feeds, "probs": right}).ok
    assert not fw.check(model, against={**feeds, "probs": feeds["x"] * 3}).ok


def test_names_that_nothing_has_are_refused(graph):
    with pytest.raises(fw.InputRefused, match="'foo'"):
        fw.check(graph, against={**values(graph), "foo": np.zeros(1)})


def test_values_by_position_from_a_file(graph, tmp_path):
    stored = values(graph)
    np.savez(tmp_path / "v.npz", x0=stored["x"], y0=stored["y"])
    assert fw.check(graph, against=str(tmp_path / "v.npz")).ok


def test_useless_values_are_refused(graph, tmp_path):
    with pytest.raises(fw.InputRefused, match="no value for input 'x'"):
        fw.check(graph, against={"y": np.zeros((1, 2))})
    with pytest.raises(fw.InputRefused, match="no value of the model"):
        fw.check(graph, against={"x": np.zeros((1, 3), np.float32)})
    (tmp_path / "bad.npz").write_bytes(b"junk")
    with pytest.raises(fw.InputRefused):
        fw.check(graph, against=tmp_path / "bad.npz")


def test_an_op_without_a_kernel_is_listed_with_its_places():
    fw.define_op(
        fw.OpDef("opaque_thing", ("x",), "opaque", lambda t, a, r: [t[0]], lambda a, attrs, ctx: a[0], doc="Test op.")
    )
    b = fw.Builder()
    x = b.input("x", "f32", (2,))
    for place in ("a", "b"):
        with b.origin(layer=place):
            x = b.opaque_thing(b.exp(x))
    found = fw.check(b.build(x))
    (row,) = found.rows
    assert (row.code, row.count) == ("no-kernel", 2) and [w.split("/")[0] for w in row.where] == ["a", "b"]


def test_a_refused_file_gives_rows(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"not a model")
    found = fw.check(tmp_path / "model.keras")
    assert not found.ok and found.rows[0].count == 1


def test_an_extent_without_a_bound_is_a_row_until_dims_bounds_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    count = helper.make_tensor_value_info("k", TensorProto.INT64, [1])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["k"], ["y"])], "g", [count], [made])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    found = fw.check(path)
    assert [(row.code, row.what) for row in found.rows] == [
        ("no-bound", "the extent K depends on values and has no upper bound")
    ]
    assert "--dim K=0:1000" in found.rows[0].hint
    assert fw.check(path, dims={"K": (0, 8)}).ok
    with pytest.raises(fw.CompileRefused, match="Q"):
        fw.check(path, dims={"Q": 8})
    assert main(["check", str(path)]) == 1
    assert main(["check", str(path), "--dim", "K=0:8"]) == 0
    assert main(["compile", str(path), "-o", str(tmp_path / "m.fwb"), "--dim", "K=0:8"]) == 0
