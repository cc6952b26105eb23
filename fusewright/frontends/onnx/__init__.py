"""ONNX models -> Graph: files, bytes and ``onnx.ModelProto`` objects.

Owns the public entry ``import_onnx``. The only package that imports onnx; it is loaded when an ONNX source is given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ir.graph import Graph
from ..formats.limits import DEFAULT, ImportLimits
from ..promise import refusals
from . import ops as _ops
from .importer import build_graph
from .reader import open_model


def import_onnx(
    source: Any,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    feeds: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Any] | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    limits: ImportLimits = DEFAULT,
) -> Graph:
    """The graph of an ONNX model.

    ``source`` is a path, the bytes of a file or an ``onnx.ModelProto``. ``inputs`` reorders the model's inputs,
    ``outputs`` names values (inner ones too) that are wanted instead, ``feeds`` binds inputs to arrays at import,
    ``shapes`` maps input names to shapes (ints, symbol names or None). External data is read beneath the model's own
    folder, or beneath ``base_dir`` for models in memory. Raises ImportRefused, never anything else.
    """
    where = Path(source).name if isinstance(source, (str, os.PathLike)) else type(source).__name__
    with refusals(where, "the model"):
        model = open_model(source, base_dir, limits)
        return build_graph(model, inputs, outputs, feeds or {}, shapes, limits)


__all__ = ["import_onnx"]
_ = _ops
