"""Five small networks of keras.applications through both routes; tests/conformance/applications.py runs all 40."""

from __future__ import annotations

from pathlib import Path

import applications
import pytest

SMALL = ("MobileNetV2", "MobileNetV3Small", "EfficientNetV2B0", "DenseNet121", "ResNet50V2")


@pytest.mark.parametrize("name", SMALL)
def test_both_routes(name: str, tmp_path: Path) -> None:
    found = applications.file(name, tmp_path) | applications.saved_model(name, tmp_path)
    for key in ("keras_gap", "saved_model_gap", "routes_gap"):
        assert found[key] < applications.BOUND, key
    assert found["kernels"] > 10


def test_compiled(tmp_path: Path) -> None:
    assert applications.native("MobileNetV3Small", tmp_path)["native_gap"] < applications.BOUND


def test_there_are_forty() -> None:
    assert len(applications.classes()) == 40
