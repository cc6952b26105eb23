"""Suite ``models``: real trained models with reference outputs, in the folder beside the corpora."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from case import Case

# key: (file, references, where each stored output is found: None by position, else {model output: stored name})
MODELS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "fer": ("fer/emotion_model.hdf5", "fer/ref.npz", None),
    "sleepecg/wrn-gru-mesa": ("sleepecg/wrn-gru-mesa.keras", "sleepecg/ref_wrn-gru-mesa.npz", None),
    "sleepecg/wrn-gru-mesa-weighted": (
        "sleepecg/wrn-gru-mesa-weighted.keras",
        "sleepecg/ref_wrn-gru-mesa-weighted.npz",
        None,
    ),
    "sleepecg/ws-gru-mesa": ("sleepecg/ws-gru-mesa.keras", "sleepecg/ref_ws-gru-mesa.npz", None),
    "basic_pitch/savedmodel": (
        "basic_pitch/nmp",
        "basic_pitch/ref.npz",
        {"contour": "contour", "note": "note", "onset": "onset"},
    ),
    # The ONNX twin names its outputs otherwise; the map is the model's own, by name and not by position.
    "basic_pitch/onnx": (
        "basic_pitch/nmp.onnx",
        "basic_pitch/ref.npz",
        {
            "StatefulPartitionedCall:0": "contour",
            "StatefulPartitionedCall:1": "note",
            "StatefulPartitionedCall:2": "onset",
        },
    ),
}


def keys(corpora: Path) -> list[str]:
    return list(MODELS)


def load(corpora: Path, key: str, scratch: Path) -> Case:
    model, references, names = MODELS[key]
    folder = corpora.parent / "models"
    with np.load(folder / references, allow_pickle=False) as values:
        wants = [values["y0"]] if names is None else {ours: values[stored] for ours, stored in names.items()}
        return Case(folder / model, feeds=[values["x0"]], wants=wants)
