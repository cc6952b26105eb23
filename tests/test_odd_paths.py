"""Paths that are none, and objects that are no paths: one family of errors, which shows the whole path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fusewright as fw
from fusewright.cli import main


@pytest.fixture(scope="module")
def bundle() -> Any:
    b: Any = fw.Builder()
    return fw.compile(b.build(b.relu(b.input("x", "f32", ("N", 3)))))


def odd(folder: Path) -> list[Any]:
    (folder / "file").write_text("hello")
    return [
        f"{folder}/a\0b", f"{folder}/\ud800", f"{folder}/no/such/m.fwb", f"{folder}/file/m", f"{folder}/{'a' * 300}",
        "", folder, None, 5, 1.5, ["m.fwb"], object(),
    ]  # fmt: skip


def test_nothing_but_the_family(bundle: Any, tmp_path: Path) -> None:
    for path in odd(tmp_path):
        with pytest.raises(fw.SaveRefused):
            bundle.save(path)
        for native in (True, False):
            with pytest.raises(fw.BundleRefused) as refusal:
                fw.load(path, native=native)
            str(refusal.value).encode()
        for call in (fw.import_model, fw.compile, fw.plan):
            with pytest.raises(fw.ImportRefused) as import_refusal:
                call(path)
            str(import_refusal.value).encode()
        assert not fw.check(path).ok
    for content in (b"", b"...", bytearray(100), memoryview(b"PK\3\4" + bytes(1000))):
        with pytest.raises(fw.BundleRefused):
            fw.load(content)
    with pytest.raises(fw.SaveRefused):
        bundle.save(b"a\0b")
    bundle.save(os.fsencode(tmp_path / "bytes.fwb"))
    assert fw.load(tmp_path / "bytes.fwb")(np.zeros((1, 3), np.float32)).shape == (1, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bytes.fwb", "file"]


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("missing.keras", "not-found", ""),
        ("no/such/missing.keras", "not-found", "there is no folder"),
        ("text.keras", "unknown-format", ""),
        ("damaged.h5", "malformed", ""),
        ("empty.onnx", "malformed", ""),
        ("folder", "unknown-format", "net.keras"),
        ("other", "unknown-format", "saved_model.pb"),
    ],
)
def test_a_refusal_shows_the_whole_path(name: str, code: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "folder" / "net.keras").write_bytes(b"")
    (tmp_path / "text.keras").write_text("hello")
    (tmp_path / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(fw.ImportRefused) as refusal:
        fw.import_model(tmp_path / name)
    assert refusal.value.code == code
    assert refusal.value.where.startswith(str(tmp_path / name))
    assert hint in refusal.value.hint


def test_a_refusal_inside_a_folder_or_of_the_weights_shows_it(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff")
    with pytest.raises(fw.ImportRefused) as refusal:
        fw.import_model(folder)
    assert refusal.value.where.startswith(str(folder))
    (tmp_path / "net.json").write_text('{"class_name": "Sequential", "config": []}')
    (tmp_path / "w.h5").write_bytes(b"nothing")
    with pytest.raises(fw.ImportRefused) as refusal:
        fw.import_model(tmp_path / "net.json", weights=tmp_path / "w.h5")
    assert refusal.value.where.startswith(str(tmp_path))


def test_a_refusal_from_a_file_says_which_inputs_to_bind(tmp_path: Path) -> None:
    """What is a kind of its own stays one when the path is put into it."""

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((7,), tf.float32, "x"), tf.TensorSpec((), tf.int32, "n")])
        def every(self, x: Any, n: Any) -> Any:
            return x[::n]

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "m"), signatures=model.every)
    with pytest.raises(fw.ImportRefused) as refusal:
        fw.import_model(tmp_path / "m")
    found: Any = refusal.value
    assert found.code == "data-dependent" and found.inputs == ("n",)
    assert fw.import_model(tmp_path / "m", feeds={"n": np.int32(2)}).outputs[0].shape == (4,)


def test_the_origin_of_a_node_stays_the_name_alone(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "net.keras")
    graph = fw.import_model(tmp_path / "net.keras")
    assert {node.origin.file for node in graph.nodes} == {"net.keras", ""}


def test_compiling_to_a_folder_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(tmp_path / "missing.keras"), "-o", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err
