"""Options of the import in one step with compiling, checking and planning: the library and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

import fusewright as fw
from fusewright.cli import main


@pytest.fixture(scope="module")
def two_signatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel that doubles, or raises to a power that is a tensor; neither is the default."""

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None), tf.float32, "x")])
        def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"twice": x + x}

        @tf.function(
            input_signature=[tf.TensorSpec((None, 3), tf.float32, "x"), tf.TensorSpec((), tf.float32, "power")]
        )
        def raised(self, x: tf.Tensor, power: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x**power}

    model = Model()
    path = tmp_path_factory.mktemp("two") / "saved"
    tf.saved_model.save(model, str(path), signatures={"double": model.double, "raised": model.raised})
    return path


@pytest.fixture(scope="module")
def shapeless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file whose bias lies in a file of its own and whose input has a free and an unnamed axis."""
    folder = tmp_path_factory.mktemp("onnx")
    bias = numpy_helper.from_array(np.float32([1, 2, 3, 4]), "bias")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, 4])],
        [bias],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(proto, str(folder / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
    return folder / "m.onnx"


def test_compile_takes_a_signature_and_feeds(two_signatures: Path) -> None:
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    twice = fw.compile(two_signatures, signature="double", shapes={"x": ("N", 3)})
    assert twice.signature.inputs[0].shape == ("N", 3)
    np.testing.assert_array_equal(twice(x), x + x)
    squared = fw.compile(two_signatures, signature="raised", feeds={"power": np.float32(2)})
    assert [port.name for port in squared.signature.inputs] == ["x"]
    np.testing.assert_allclose(squared(x), x * x, rtol=1e-6)
    planned = fw.plan(two_signatures, signature="double", shapes={"x": (2, 3)})
    assert planned.report().to_dict()["kernels"]


def test_no_signature_is_chosen_by_chance(two_signatures: Path) -> None:
    for call in (fw.import_model, fw.compile, fw.plan):
        with pytest.raises(fw.ImportRefused, match="double, raised") as refusal:
            call(two_signatures)
        assert refusal.value.code == "no-such-signature" and "signature=" in refusal.value.hint


def test_compile_takes_shapes_weights_and_a_folder(shapeless: Path, tmp_path: Path) -> None:
    x = np.ones((2, 5, 4), np.float32)
    want = x + np.float32([1, 2, 3, 4])
    fixed = fw.compile(shapeless, shapes={"x": (2, "T", 4)})
    assert fixed.signature.inputs[0].shape == (2, "T", 4)
    np.testing.assert_array_equal(fixed(x), want)
    proto = onnx.load(str(shapeless), load_external_data=False)
    np.testing.assert_array_equal(fw.compile(proto, base_dir=shapeless.parent)(x), want)
    with pytest.raises(fw.ImportRefused, match="base_dir="):
        fw.compile(proto)
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    (tmp_path / "net.json").write_text(net.to_json())
    net.save_weights(tmp_path / "net.weights.h5")
    got = fw.compile(tmp_path / "net.json", weights=tmp_path / "net.weights.h5")(x[0])
    np.testing.assert_allclose(got, net(x[0]), rtol=1e-5)


def test_check_takes_them_by_the_same_names(two_signatures: Path, shapeless: Path) -> None:
    assert fw.check(two_signatures, signature="double").ok
    assert fw.check(two_signatures, signature="raised", bind={"power": np.float32(2)}).ok
    found = fw.check(two_signatures, signature="triple")
    assert [row.code for row in found.rows] == ["no-such-signature"]
    assert fw.check(shapeless, shapes={"x": (2, 3, 4)}, against="onnxruntime").ok


def test_options_that_a_graph_has_no_use_for_are_refused(shapeless: Path) -> None:
    graph = fw.import_model(shapeless)
    for call in (fw.compile, fw.plan):
        with pytest.raises(fw.ImportRefused, match="shapes=") as refusal:
            call(graph, shapes={"x": (1, 1, 4)})
        assert refusal.value.code == "unused-option"
    with pytest.raises(TypeError, match="signatur"):
        fw.compile(shapeless, signatur="double")  # type: ignore[call-arg]
    assert fw.compile(graph, shapes=None, signature=None).signature.inputs[0].name == "x"


def test_from_a_file_to_a_bundle_in_one_command(
    two_signatures: Path, shapeless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "m.fwb")
    assert main(["compile", str(two_signatures), "-o", out]) == 1
    assert "double, raised" in capsys.readouterr().err
    for arguments, inputs in (
        ([str(two_signatures), "--signature", "raised", "--feed", "power=2.0"], {"x": ["N", 3]}),
        ([str(two_signatures), "--signature", "double", "--shape", "x=?,7"], {"x": ["N", 7]}),
        ([str(shapeless), "--shape", "x=batch,5,4", "--base-dir", str(shapeless.parent)], {"x": ["batch", 5, 4]}),
        ([str(shapeless), "--shape", "x=(2, T, 4)"], {"x": [2, "T", 4]}),
    ):
        assert main(["compile", *arguments, "-o", out, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)["signature"]["inputs"]
        assert {row["name"]: row["shape"] for row in printed} == inputs
        assert main(["inspect", *arguments, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)["signature"]["inputs"]
        assert {row["name"]: row["shape"] for row in printed} == inputs
        assert main(["check", *arguments]) == 0
        capsys.readouterr()


@pytest.mark.parametrize("shape", ["x", "=3", "x=2;3", "x=-1,3", "x=2,,3"])
def test_a_shape_that_is_none_is_wrong_usage(shape: str, shapeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compile", str(shapeless), "-o", "never.fwb", "--shape", shape])
    assert stop.value.code == 2
    assert f"--shape {shape}" in capsys.readouterr().err
