"""Suite ``keras_h5``: full-model .h5 files written by Keras 1.2 to 2.4, one input and one output each."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from case import Case

CORPUS = "keras_h5.zip"


def keys(corpora: Path) -> list[str]:
    with zipfile.ZipFile(corpora / CORPUS) as archive:
        return sorted(json.loads(archive.read("index.json")))


def load(corpora: Path, key: str, scratch: Path) -> Case:
    member = key.replace("/", "__")
    with zipfile.ZipFile(corpora / CORPUS) as archive:
        entry = json.loads(archive.read("index.json"))[key]
        source = scratch / member
        source.write_bytes(archive.read(member))
        if not entry["ref"]:
            return Case(source, uncounted="no_reference")
        with np.load(io.BytesIO(archive.read(f"{member}.npz")), allow_pickle=False) as values:
            return Case(source, feeds=[values["x0"]], wants=[values["y0"]])
