"""Suite ``keras_h5``: full-model .h5 files written by Keras 1.2 to 2.4, one input and one output each.

Files of Keras 1 come without reference values: they are judged by the NumPy evaluation of ``keras1_numpy``, and stay
outside the totals.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import keras1_numpy
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
            return _keras1(source) or Case(source, uncounted="no_reference")
        with np.load(io.BytesIO(archive.read(f"{member}.npz")), allow_pickle=False) as values:
            return Case(source, feeds=[values["x0"]], wants=[values["y0"]])


def _keras1(source: Path) -> Case | None:
    if not h5py.is_hdf5(source):
        return None
    with h5py.File(source) as file:
        version = file.attrs.get("keras_version", "")
        version = version.decode() if isinstance(version, bytes) else version
        if not version.startswith("1."):
            return None
        config, groups = keras1_numpy.read(file)
    rng = np.random.default_rng(0)
    first = config["config"][0]["config"]
    shape = [3, *first["batch_input_shape"][1:]]
    whole = first["input_dtype"] == "int32"
    x = rng.integers(0, first["input_dim"], shape).astype(np.int32) if whole else rng.standard_normal(shape, np.float32)
    wants = [y.astype(np.float32) for y in keras1_numpy.evaluate(config, groups, [x])]
    return Case(source, feeds=[x], wants=wants, uncounted="no_reference")
