"""TensorFlow models -> Graph: frozen graphs, SavedModels, TF1 checkpoints, live functions and modules.

Owns the public entry ``import_tensorflow``. Must not import TensorFlow or protobuf: files are read as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ...core.errors import ImportRefused
from ...ir.graph import Graph
from ..formats.limits import DEFAULT, ImportLimits
from ..promise import refusals
from . import control as _control
from . import ops as _ops
from . import schema
from .graphdef import parse_graph_def
from .importer import Request, build, graph_request
from .live import is_tensorflow_object, keras_function, live_request
from .savedmodel import checkpoint_request, decode_file, saved_model_request

Kind = Literal["saved_model", "graph_def", "checkpoint", "tf_object"]


def import_tensorflow(
    source: Any,
    kind: Kind,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    signature: str | None = None,
    feeds: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Any] | None = None,
    limits: ImportLimits = DEFAULT,
) -> Graph:
    """The graph of a TensorFlow file, folder or live object.

    ``inputs`` and ``outputs`` name tensors (``node`` or ``node:1``), or a signature's inputs and outputs; a graph may
    be cut at any tensor. ``feeds`` binds inputs at import, ``shapes`` gives or fixes shapes. Raises ImportRefused only.
    """
    where = type(source).__name__ if kind == "tf_object" else Path(source).name
    with refusals(where, "the graph"):
        if kind == "tf_object":
            request, shapes = live_request(source, inputs, outputs, signature, feeds, shapes, limits)
        else:
            request = _request(Path(source), kind, inputs, outputs, signature, feeds, limits)
        return build(request, shapes)


def _request(
    path: Path, kind: Kind, inputs: Any, outputs: Any, signature: str | None, feeds: Any, limits: ImportLimits
) -> Request:
    if kind == "saved_model":
        folder = path if path.is_dir() else path.parent
        return saved_model_request(folder, inputs, outputs, signature, feeds, limits)
    if signature is not None:
        raise ImportRefused("unused-option", path.name, "signature= applies to SavedModels", "leave signature out")
    if kind == "checkpoint":
        return checkpoint_request(path, inputs, outputs, feeds, limits)
    proto, size = decode_file(schema.GRAPH, path, limits)
    return graph_request(parse_graph_def(proto, path.name, limits, size), inputs, outputs, feeds)


__all__ = ["import_tensorflow", "is_tensorflow_object", "keras_function"]
_ = (_control, _ops)
