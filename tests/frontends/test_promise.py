"""Whatever an importer meets, its answer is a refusal with the first error as its cause."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from fusewright.core.errors import FusewrightError, ImportRefused, MissingDependency, TypeRefused
from fusewright.frontends import keras, onnx, tensorflow
from fusewright.frontends.promise import refusals

ENTRIES = [
    (keras, "open_keras", lambda p: keras.import_keras(p)),
    (onnx, "open_model", lambda p: onnx.import_onnx(p)),
    (tensorflow, "decode_file", lambda p: tensorflow.import_tensorflow(p, "graph_def")),
]


@pytest.mark.parametrize(
    "raised", [RuntimeError, NotImplementedError, struct.error, zlib.error, OSError, StopIteration]
)
@pytest.mark.parametrize(("module", "inner", "entry"), ENTRIES, ids=["keras", "onnx", "tensorflow"])
def test_every_error_is_a_refusal(
    module: Any, inner: str, entry: Any, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise raised("deep inside")

    monkeypatch.setattr(module, inner, fail)
    with pytest.raises(ImportRefused, match=rf"is not valid \({raised.__name__}: deep inside\)") as caught:
        entry(Path("model.bin"))
    assert (caught.value.code, caught.value.where) == ("malformed", "model.bin")
    assert isinstance(caught.value.__cause__, raised)


@pytest.mark.parametrize("stays", [ImportRefused("limit", "x", "too large"), MissingDependency("onnx", "to read it")])
def test_refusals_stay_as_they_are(stays: FusewrightError) -> None:
    with pytest.raises(type(stays)) as caught, refusals("model.bin", "the model"):
        raise stays
    assert caught.value is stays


def test_other_errors_of_ours_and_interrupts() -> None:
    with pytest.raises(ImportRefused, match="no such type") as caught, refusals("model.bin", "the model"):
        raise TypeRefused("no such type")
    assert caught.value.code == "ill-typed"
    with pytest.raises(KeyboardInterrupt), refusals("model.bin", "the model"):
        raise KeyboardInterrupt
