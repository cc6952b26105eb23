"""Keras models -> Graph: `.keras`, `.h5`, JSON with weights, live objects.

Owns the public entry ``import_keras``. Must not import Keras: files are read as data, live objects bring it themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import ImportRefused
from ...ir.graph import Graph
from ..formats.limits import DEFAULT, ImportLimits
from ..promise import refusals
from . import layers as _layers
from .containers import from_live, is_live_model, open_keras
from .lower import build_graph
from .model import KerasModel, LayerCall, LayerSpec


def import_keras(
    source: Any,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    shapes: Mapping[str, Any] | None = None,
    limits: ImportLimits = DEFAULT,
) -> Graph:
    """The graph of a Keras model.

    ``source`` is a path (``.keras``, ``.h5``, ``.json`` with ``weights=``; told apart by content) or a live
    ``keras.Model``. ``inputs`` reorders the model's inputs, ``outputs`` names layers whose outputs are wanted instead,
    ``shapes`` maps input names to shapes (ints, symbol names or None). Raises ImportRefused, never anything else.
    """
    where = Path(source).name if isinstance(source, (str, os.PathLike)) else type(source).__name__
    with refusals(where, "the model's description"):
        return _import(source, inputs, outputs, weights, shapes, limits)


def _import(source: Any, inputs: Any, outputs: Any, weights: Any, shapes: Any, limits: ImportLimits) -> Graph:
    if isinstance(source, (str, os.PathLike)):
        model = open_keras(Path(source), None if weights is None else Path(weights), limits)
    elif isinstance(source, KerasModel):
        model = source
    elif is_live_model(source):
        model = from_live(source, limits)
    else:
        raise ImportRefused("unknown-format", type(source).__name__, "neither a path nor a Keras model")
    return build_graph(model, inputs, outputs, shapes, limits)


__all__ = ["KerasModel", "LayerCall", "LayerSpec", "import_keras", "is_live_model", "open_keras"]
_ = _layers
