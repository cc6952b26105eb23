"""Which frontend a source belongs to: told apart by content, not by file name.

Owns sniffing and the refusals for formats without a frontend. Must not know how any format is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from .. import lazy
from ..core.errors import ImportRefused, Problem
from ..ir.graph import Graph
from .formats.hdf5 import MAGIC as HDF5_MAGIC
from .formats.limits import DEFAULT, ImportLimits
from .keras import import_keras, is_live_model
from .tensorflow import import_tensorflow, is_tensorflow_object, keras_function

Kind = Literal["keras", "saved_model", "graph_def", "checkpoint", "onnx", "tf_object", "tflite", "bundle"]
_HEAD = 4096
_SUFFIXES = (".keras", ".h5", ".hdf5", ".onnx", ".pb", ".pbtxt", ".json")


def sniff(source: Any) -> Kind:
    """The kind of a source. Raises ImportRefused when it is none that is known."""
    if isinstance(source, (str, os.PathLike)):
        return _sniff_path(Path(source))
    if is_live_model(source):
        return "keras"
    if type(source).__name__ == "ModelProto":
        return "onnx"
    if is_tensorflow_object(source):
        return "tf_object"
    raise ImportRefused(
        "unknown-format", type(source).__name__, "the source is neither a path nor a model object",
        "pass a path as str, a keras.Model, a tf.function or tf.Module, or an onnx.ModelProto",
    )  # fmt: skip


def _sniff_path(path: Path) -> Kind:
    name = path.name
    try:
        os.fsencode(path)
        os.lstat(path)  # says what is wrong with a path that exists() finds false
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as e:
        raise ImportRefused("unreadable", name, f"this is no path of a file: {_reason(e)}") from None
    try:
        if path.is_dir():
            return _sniff_folder(path)
        if not path.exists():
            if path.with_name(name + ".index").exists() or path.with_name(name + ".meta").exists():
                return "checkpoint"
            raise ImportRefused("not-found", name, "there is no such file or folder", _nearest(path))
        if not path.is_file():
            raise ImportRefused("not-a-file", name, "the source is not a regular file")
        with path.open("rb") as f:
            head = f.read(_HEAD)
            f.seek(0, os.SEEK_END)
            tail_at = max(f.tell() - (1 << 16), 0)
            f.seek(tail_at)
            tail = f.read(1 << 16)
    except (OSError, ValueError) as e:
        raise ImportRefused("unreadable", name, f"cannot be read: {_reason(e)}") from None
    return _sniff_bytes(head, tail, name)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _nearest(path: Path) -> str:
    """The part of a missing path that is there."""
    there = next((p for p in path.absolute().parents if p.is_dir()), None)
    return "" if there is None or there == path.absolute().parent else f"there is no folder {path.parent}"


def _sniff_folder(path: Path) -> Kind:
    if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file():
        return "saved_model"
    if (path / "checkpoint").is_file():
        return "checkpoint"
    if (path / "config.json").is_file():
        raise ImportRefused(
            "unsupported-format", path.name, "an unzipped .keras folder is not supported", "save it as one file"
        )
    inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)[:4]
    hint = f"pass the file itself: it holds {', '.join(inside)}" if inside else "pass the folder of saved_model.pb"
    raise ImportRefused("unknown-format", path.name, "the folder holds neither a SavedModel nor a checkpoint", hint)


def _sniff_bytes(head: bytes, tail: bytes, name: str) -> Kind:
    if head[:8] == HDF5_MAGIC:
        return "keras"
    if head[:4] == b"PK\x03\x04":
        # Member names stand uncompressed in the directory at the end.
        if b"manifest.json" in tail and b"graph.txt" in tail:
            return "bundle"
        return "keras"
    if head[4:8] == b"TFL3":
        return "tflite"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"{":
        return "keras"
    suffix = Path(name).suffix.lower()
    if suffix == ".onnx" or (head[:1] == b"\x08" and suffix != ".pb"):
        return "onnx"
    if suffix == ".index" or suffix == ".meta" or ".data-0000" in name:
        return "checkpoint"
    if name == "saved_model.pbtxt" or head[:3] == b"\x08\x01\x12" and name == "saved_model.pb":
        return "saved_model"
    if suffix in (".pb", ".pbtxt") or head[:1] == b"\x0a":
        return "graph_def"
    if not head:
        raise ImportRefused("malformed", name, "the file is empty")
    raise ImportRefused(
        "unknown-format", name, "the content is none of .keras, .h5, Keras JSON, ONNX, GraphDef or TensorFlow Lite"
    )


class ModelOptions(TypedDict, total=False):
    """Options of ``import_model`` that ``fw.check`` takes by the same names; its ``feeds`` are those of a run."""

    inputs: Sequence[str] | None
    outputs: Sequence[str] | None
    signature: str | None
    weights: str | os.PathLike[str] | None
    shapes: Mapping[str, Any] | None
    base_dir: str | os.PathLike[str] | None
    limits: ImportLimits


class ImportOptions(ModelOptions, total=False):
    """All options of ``import_model``, which ``fw.compile`` and ``fw.plan`` take as well."""

    feeds: Mapping[str, Any] | None


def graph_of(source: Any, options: ImportOptions) -> Graph:
    """A Graph as it is, or that of a model. Raises ImportRefused, also for options that a Graph has no use for."""
    if not isinstance(source, Graph):
        return import_model(source, **options)
    if given := next((name for name, value in options.items() if value is not None), None):
        raise ImportRefused(
            "unused-option", "Graph", f"{given}= says how to import a model; the source is a Graph",
            f"leave {given} out, or pass it to fw.import_model",
        )  # fmt: skip
    return source


def import_model(
    source: Any,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    signature: str | None = None,
    feeds: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    shapes: Mapping[str, Any] | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    limits: ImportLimits = DEFAULT,
) -> Graph:
    """The graph of a model file or object (public as ``fw.import_model``).

    ``inputs`` and ``outputs`` choose and order values by name; ``signature`` is one of a SavedModel or a live module;
    ``feeds`` {name: value} binds values at import; ``weights`` is the file that belongs to an architecture ``.json``;
    ``shapes`` {input: (ints, symbol names or None)} states or fixes shapes; ``base_dir`` is the folder of the external
    data of an ONNX model in memory; ``limits`` bounds every size in the file. Raises ImportRefused and nothing else.
    """
    if isinstance(source, (str, os.PathLike)) and not os.fspath(source):
        raise ImportRefused("not-found", "''", "the path is empty", "pass the path of a model file or folder")
    try:
        return _import(source, inputs, outputs, signature, feeds, weights, shapes, base_dir, limits)
    except ImportRefused as refusal:
        files = [f for f in (source, weights) if isinstance(f, (str, os.PathLike))]
        if files:
            refusal.tell([_with_folder(p, files) for p in refusal.problems])
        raise


def _with_folder(problem: Problem, files: Sequence[str | os.PathLike[str]]) -> Problem:
    """The readers know a file by its name; whoever passed the path wants to see all of it."""
    head = re.split(r"[:!]", problem.where, maxsplit=1)[0]
    for file in map(Path, files):
        shown = _printable(str(file))
        if head == file.name and head:
            return problem._replace(where=shown + problem.where[len(head) :])
        if head.startswith("saved_model.pb"):
            return problem._replace(where=f"{shown}/{problem.where}")
    return problem._replace(where=_printable(problem.where))


def _printable(text: str) -> str:
    """Without characters that a terminal would obey or cannot encode, and not endless."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"


def _import(
    source: Any,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    signature: str | None,
    feeds: Mapping[str, Any] | None,
    weights: str | os.PathLike[str] | None,
    shapes: Mapping[str, Any] | None,
    base_dir: str | os.PathLike[str] | None,
    limits: ImportLimits,
) -> Graph:
    kind = sniff(source)
    where = Path(source).name if isinstance(source, (str, os.PathLike)) else type(source).__name__
    if kind == "keras" and signature == "call" and is_live_model(source):
        # The other route to the same model, to compare: its call, traced by TensorFlow.
        kind, source, signature = "tf_object", keras_function(source, shapes), None
    if kind == "keras":
        for option, given in (("signature", signature), ("feeds", feeds), ("base_dir", base_dir)):
            if given is not None:
                raise ImportRefused(
                    "unused-option", where, f"{option}= does not apply to Keras models", f"leave {option} out"
                )
        return import_keras(source, inputs=inputs, outputs=outputs, weights=weights, shapes=shapes, limits=limits)
    if kind == "onnx":
        for option, value in (("signature", signature), ("weights", weights)):
            if value is not None:
                raise ImportRefused(
                    "unused-option", where, f"{option}= does not apply to ONNX models", f"leave {option} out"
                )
        # Loaded now, because it alone needs the onnx package.
        onnx_frontend: Any = lazy("frontends.onnx")
        found: Graph = onnx_frontend.import_onnx(
            source, inputs=inputs, outputs=outputs, feeds=feeds, shapes=shapes, base_dir=base_dir, limits=limits
        )
        return found
    if kind in ("saved_model", "graph_def", "checkpoint", "tf_object"):
        for option, given in (("weights", weights), ("base_dir", base_dir)):
            if given is not None:
                raise ImportRefused(
                    "unused-option", where, f"{option}= does not apply to TensorFlow models", f"leave {option} out"
                )
        return import_tensorflow(
            source, kind, inputs=inputs, outputs=outputs, signature=signature, feeds=feeds, shapes=shapes,
            limits=limits,
        )  # fmt: skip
    if kind == "tflite":
        raise ImportRefused(
            "unsupported-format",
            where,
            "TensorFlow Lite files are not supported",
            "import the model it was converted from",
        )
    raise ImportRefused("unsupported-format", where, "this is a compiled bundle, not a model", "open it with fw.load")
