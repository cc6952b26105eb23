"""Suite ``tf_cases``: single-purpose TensorFlow graphs with inputs and expected outputs.

Inputs that decide a shape or an axis are bound at import: TensorFlow takes them as tensors, a compiled graph does not.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import fusewright as fw

from case import Case

CORPUS = "tf_cases.zip"


def _index(archive: zipfile.ZipFile) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(archive.read("index.json"))}


def keys(corpora: Path) -> list[str]:
    with zipfile.ZipFile(corpora / CORPUS) as archive:
        return sorted(name for name, entry in _index(archive).items() if not entry["strings"])


def load(corpora: Path, key: str, scratch: Path) -> Case:
    member = key.replace("/", "__")
    with zipfile.ZipFile(corpora / CORPUS) as archive:
        entry = _index(archive)[key]
        source = scratch / f"{member}.pb"
        source.write_bytes(archive.read(f"{member}.pb"))
        with np.load(io.BytesIO(archive.read(f"{member}.npz")), allow_pickle=False) as values:
            feeds = {name: values[f"in{i}"] for i, name in enumerate(entry["inputs"])}
            wants = {name: values[f"out{i}"] for i, name in enumerate(entry["outputs"])}
    options: dict[str, Any] = {"inputs": list(feeds), "outputs": list(wants)}
    options = bind_shapes(source, options, feeds)
    left = {name: feeds[name] for name in options["inputs"]}
    return Case(source, left, wants, options, entry["rtol"], entry["atol"], entry["check_value"])


def bind_shapes(source: Path, options: dict[str, Any], feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """The import options with every input bound that the importer says must be known."""
    while True:
        try:
            fw.import_model(source, **options)
        except fw.FusewrightError as error:
            named = [name for name in getattr(error, "inputs", ()) if name in options["inputs"]]
            if not named:
                return options
            bound = {**options.get("feeds", {}), **{name: feeds[name] for name in named}}
            options = {**options, "feeds": bound, "inputs": [n for n in options["inputs"] if n not in bound]}
        except Exception:
            return options  # the runner reports it
        else:
            return options
