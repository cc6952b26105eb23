"""Opening what holds a Keras model: `.keras` archives, `.h5` files, JSON plus weights, live objects.

Owns the containers -> KerasModel. Must not know lowering, and never imports Keras: a live object brings it.
"""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ImportRefused
from ..formats.filebytes import read_file
from ..formats.hdf5 import MAGIC, H5File
from ..formats.jsonsafe import loads
from ..formats.limits import DEFAULT, ImportLimits
from ..formats.zipsafe import ZipArchive
from . import keras1
from .config import ConfigReader, parse_version
from .model import KerasModel, LayerSpec
from .quantisation import mode_of
from .weights import assign, load_h5, load_paths, names_of, stored_groups


def open_keras(path: str | Path, weights: str | Path | None = None, limits: ImportLimits = DEFAULT) -> KerasModel:
    """The model in a ``.keras``, ``.h5`` or ``.json`` file (told apart by content). Raises ImportRefused."""
    data, name = read_file(path, limits), Path(path).name
    head = bytes(data[:8])
    if head[:4] == b"PK\x03\x04":
        return _from_archive(data, name, weights, limits)
    if head == MAGIC:
        return _from_h5(data, name, weights, limits)
    if bytes(data[:64]).lstrip()[:1] == b"{":
        return _from_json(data, name, weights, limits)
    raise ImportRefused("unknown-format", name, "neither a .keras archive, an HDF5 file nor model JSON")


def _from_h5(data: memoryview, name: str, weights: str | Path | None, limits: ImportLimits) -> KerasModel:
    file = H5File(data, name, limits)
    text = file.attr_text("", "model_config")
    if text is None:
        raise ImportRefused(
            "no-model", name, "the file has weights but no model_config",
            "save the whole model, or pass its JSON as the source and this file as weights=",
        )  # fmt: skip
    root = "model_weights" if file.has_group("model_weights") else ""
    config = loads(text, f"{name}:model_config", limits)
    version = _version(file.attr_text("", "keras_version") or file.attr_text(root, "keras_version"), config)
    model = _reader(name, version, limits, _theano(file, root, version)).read(config)
    training = file.attr_text("", "training_config")
    if training is not None:
        model.training = _object(loads(training, f"{name}:training_config", limits))
    if weights is None:
        load_h5(model, file, root)
    else:
        _load_weights(model, weights, limits)
    return model


def _object(item: Any) -> dict[str, Any] | None:
    return item if isinstance(item, dict) and item else None


def _version(text: str | None, config: Any) -> tuple[int, int]:
    """The version as stated; Keras before 1.2 states none, and is told by its options."""
    return (1, 0) if text is None and keras1.is_keras1(config) else parse_version(text)


def _theano(file: H5File, root: str, version: tuple[int, int]) -> bool:
    if version[0] > 1 or file.attr_names(root, "layer_names") is None:
        return False
    return keras1.is_theano(n for _, names in stored_groups(file, root) for n in names)


def _reader(name: str, version: tuple[int, int], limits: ImportLimits, theano: bool = False) -> ConfigReader:
    if version[0] < 1:
        raise ImportRefused(
            "unsupported-version", name, f"written by Keras {version[0]}.{version[1]}, before the file format of 1.0",
            "open and save it with Keras 1",
        )  # fmt: skip
    return ConfigReader(name, version, limits, theano)


def _from_json(data: memoryview, name: str, weights: str | Path | None, limits: ImportLimits) -> KerasModel:
    config = loads(data, name, limits)
    if not isinstance(config, dict) or "class_name" not in config:
        raise ImportRefused("not-a-model-graph", name, "the JSON is not a Keras model config")
    if weights is None:
        raise ImportRefused("weights", name, "model JSON holds no weights", "pass weights=FILE")
    version = config.get("keras_version")
    stated = version if isinstance(version, str) else None
    parsed = (3, 0) if stated is None and "module" in config else _version(stated, config)
    theano = False
    if parsed[0] < 2:  # the backend shows in the weights' names, and decides what the config means
        data, where = read_file(weights, limits), Path(weights).name
        if bytes(data[:8]) == MAGIC:
            file = H5File(data, where, limits)
            theano = _theano(file, "model_weights" if file.has_group("model_weights") else "", parsed)
    model = _reader(name, parsed, limits, theano).read(config)
    _load_weights(model, weights, limits)
    return model


def _load_weights(model: KerasModel, weights: str | Path, limits: ImportLimits) -> None:
    data, name = read_file(weights, limits), Path(weights).name
    if bytes(data[:8]) != MAGIC:
        raise ImportRefused("unknown-format", name, "weights must be an HDF5 file (.h5, .weights.h5)")
    file = H5File(data, name, limits)
    root = "model_weights" if file.has_group("model_weights") else ""
    if file.attr_names(root, "layer_names") is not None:
        load_h5(model, file, root)
    else:
        _load_tree(model, file)


def _load_tree(model: KerasModel, file: H5File) -> None:
    def read(path: str) -> list[np.ndarray] | None:
        group = f"{path}/vars" if path else "vars"
        names = file.members(group)
        if any(not n.isdigit() for n in names):
            raise ImportRefused("malformed", f"{file.where}:{group}", "variables must be numbered")
        return [file.array(f"{group}/{n}") for n in sorted(names, key=int)]

    load_paths(model, file.has_group, read)


def _from_archive(data: memoryview, name: str, weights: str | Path | None, limits: ImportLimits) -> KerasModel:
    archive = ZipArchive(data, name, limits)
    if "config.json" not in archive:
        raise ImportRefused("unknown-format", name, "the zip archive has no config.json: it is not a .keras file")
    version = (3, 0)
    if "metadata.json" in archive:
        metadata = loads(archive.read("metadata.json"), f"{name}!metadata.json", limits)
        text = metadata.get("keras_version") if isinstance(metadata, dict) else None
        version = parse_version(text) if isinstance(text, str) else version
    config = loads(archive.read("config.json"), f"{name}!config.json", limits)
    model = _reader(name, version, limits).read(config)
    model.training = _object(config.get("compile_config"))
    if weights is not None:
        _load_weights(model, weights, limits)
    elif "model.weights.h5" in archive:
        _load_tree(model, H5File(archive.read("model.weights.h5"), f"{name}!model.weights.h5", limits))
    elif "model.weights.npz" in archive:
        _load_npz(model, archive.read("model.weights.npz"), f"{name}!model.weights.npz", limits)
    elif any(n.endswith(".weights.json") for n in archive.names):
        raise ImportRefused(
            "unsupported-format", name, "sharded weights are not supported", "save with one weights file"
        )
    else:
        raise ImportRefused("weights", name, "the archive has no model.weights.h5")
    return model


def _load_npz(model: KerasModel, data: memoryview, where: str, limits: ImportLimits) -> None:
    """Keras stores one pickled dict per layer there: that needs unpickling, which is never done."""
    archive = ZipArchive(data, where, limits)
    for member in archive.names:
        head = archive.read(member)[:128]
        try:
            stream = io.BytesIO(bytes(head))
            np.lib.format.read_magic(stream)
            _, _, dtype = np.lib.format.read_array_header_1_0(stream)
        except (ValueError, EOFError):
            raise ImportRefused("malformed", f"{where}!{member}", "not a NumPy array") from None
        if dtype.hasobject:
            break
    raise ImportRefused(
        "unsupported-format", where, "npz weights hold pickled objects", "save with weights_format='h5'"
    )


# -- live objects ----------------------------------------------------------------------------------------------------


def is_live_model(source: object) -> bool:
    """Does it come from Keras and have layers? Judged by its class's own modules, without importing any."""
    modules = {c.__module__.split(".")[0] for c in type(source).__mro__}
    keras = {"keras", "tf_keras", "keras_core"} & modules or any(
        c.__module__.startswith("tensorflow.python.keras") for c in type(source).__mro__
    )
    return bool(keras) and hasattr(source, "get_config") and hasattr(source, "layers")


def from_live(source: Any, limits: ImportLimits = DEFAULT) -> KerasModel:
    """The model behind a live ``keras.Model`` (Keras 3 or tf-keras). Weights are the layers' own NumPy copies."""
    package = next(
        (c.__module__.split(".")[0] for c in type(source).__mro__ if c.__module__.startswith(("keras", "tf_keras"))), ""
    )
    version = parse_version(getattr(sys.modules.get(package), "__version__", None))
    kind = type(source).__name__
    try:
        config = source.get_config()
    except Exception as e:
        # Configs come from every layer's own get_config, which is anybody's code; where a class with arguments has
        # none, Keras raises NotImplementedError.
        raise ImportRefused(
            "not-a-model-graph", kind, f"get_config() fails ({type(e).__name__}: {_first_line(e)})",
            "give the class a get_config, pass a tf.function of the model's call, or export it as a SavedModel",
        ) from e  # fmt: skip
    if not isinstance(config, dict) or "layers" not in config:
        raise ImportRefused(
            "not-a-model-graph", kind, "a subclassed model has no graph in its config",
            "pass a tf.function of its call, or export it as a SavedModel",
        )  # fmt: skip
    class_name = "Sequential" if "input_layers" not in config else "Functional"
    model = ConfigReader(kind, version, limits).read({"class_name": class_name, "config": _plain(config)})
    model.file = str(getattr(source, "name", kind))
    if model.sequential and model.input_shape is None:
        model.input_shape = _built_shape(source)
    _live_model(model, source)
    # Losses, metrics and optimisers serialise themselves, with the user's code too. Inference needs nothing of it.
    with suppress(Exception):
        model.training = _object(_plain(source.get_compile_config()))
    return model


def _first_line(error: Exception) -> str:
    return " ".join(str(error).strip().partition("\n\n")[0].split())


def _built_shape(source: Any) -> Any:
    try:
        shape = source.input_shape
    except (AttributeError, ValueError, RuntimeError):
        return None
    return list(shape) if isinstance(shape, tuple) else None


def _plain(item: Any) -> Any:
    """A live config as the JSON that a file would hold: tuples become lists, NumPy scalars numbers."""
    if isinstance(item, dict):
        return {str(k): _plain(v) for k, v in item.items()}
    if isinstance(item, (list, tuple)):
        return [_plain(v) for v in item]
    if isinstance(item, np.ndarray):
        return item.tolist()
    if isinstance(item, np.generic):
        return item.item()
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    if hasattr(item, "get_config") and hasattr(item, "__class__"):
        return {"class_name": type(item).__name__, "config": _plain(item.get_config())}
    name = getattr(item, "name", None) or getattr(item, "__name__", None)
    return name if isinstance(name, str) else str(item)


def _live_model(model: KerasModel, source: Any) -> None:
    layers = {layer.name: layer for layer in source.layers}
    for spec in model.layers:
        if spec.operation or (spec.class_name == "InputLayer" and spec.name not in layers):
            continue
        if spec.name not in layers:
            raise ImportRefused("malformed", spec.path, "the live model has no layer of this name")
        _live_layer(spec, layers[spec.name])


_LIVE_CHILD = {"layer": ("forward_layer", "layer"), "backward_layer": ("backward_layer",), "cell": ("cell",)}


def _live_layer(spec: LayerSpec, layer: Any) -> None:
    if spec.model is not None:
        if spec.model.sequential and spec.model.input_shape is None:
            spec.model.input_shape = _built_shape(layer)
        _live_model(spec.model, layer)
        return
    for key, child in spec.children.items():
        if key.startswith("cells_"):
            below = layer.cells[int(key[6:])]
        else:
            below = next(getattr(layer, a) for a in _LIVE_CHILD[key] if hasattr(layer, a))
        _live_layer(child, below)
    names = names_of(spec)
    if names == []:
        return
    if spec.children:  # wrappers own nothing that inference needs
        return
    if mode_of(spec.config)[0] or spec.config.get("lora_rank"):
        # What Keras would write to a file: adapters are merged there, and the arrays come in the order of the mode.
        stored: dict[str, Any] = {}
        layer.save_own_variables(stored)
        found = list(stored.values())
    else:
        found = layer.get_weights()
    arrays = [a.astype(np.float32) if a.dtype.name == "bfloat16" else a for a in map(np.asarray, found)]
    assign(spec, arrays, "the live layer")
