"""Model configs of every Keras dialect -> KerasModel.

Owns the dialects: list and dict Sequential, Model/Functional, Keras 2 and Keras 3 inbound nodes. Must not know weights
or the IR, and resolves no dotted name: classes are names looked up in a closed table.
"""

from __future__ import annotations

import re
from typing import Any

from ...core.errors import ImportRefused
from ..formats.limits import DEFAULT, ImportLimits
from ..registry import registered_layer
from . import keras1
from .call import LAYERS, OPERATIONS, REFUSED, REFUSED_OPERATIONS
from .model import KerasModel, LayerCall, LayerSpec, Ref, leaves, map_tree

MODELS = frozenset({"Sequential", "Functional", "Model"})
_KERAS_MODULES = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras", "keras_core")
# Wrapped layers: config key of the layer that each class owns.
_OWNED = {
    "TimeDistributed": ("layer",),
    "SpectralNormalization": ("layer",),
    "Bidirectional": ("layer", "backward_layer"),
    "RNN": ("cell",),
    "DropoutWrapper": ("cell",),
    "ResidualWrapper": ("cell",),
}
_MAX_NESTING = 40
# Layers that only a GPU runs, as what they compute; their weights say by their shape where they come from.
_CUDNN = {"CuDNNLSTM": "LSTM", "CuDNNGRU": "GRU"}
_CUDNN_OPTIONS = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "reset_after": True}


def parse_version(text: str | None) -> tuple[int, int]:
    """``"2.2.4-tf"`` as (2, 2). A config without a version is taken for Keras 2."""
    match = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(match[1]), int(match[2])) if match else (2, 0)


class ConfigReader:
    """Turns one top-level config into a KerasModel."""

    def __init__(
        self, file: str, version: tuple[int, int], limits: ImportLimits = DEFAULT, theano: bool = False
    ) -> None:
        self.file, self.version, self.limits, self.theano = file, version, limits, theano
        self._count = 0

    def read(self, config: Any) -> KerasModel:
        """Raises ImportRefused when the config is not a model's."""
        class_name = self._field(config, "class_name", str, "model_config")
        inner = config.get("config")
        if class_name not in MODELS and not (isinstance(inner, dict) and "input_layers" in inner):
            raise ImportRefused(
                "not-a-model-graph", class_name, "the top-level object is neither Sequential nor a functional model",
                "a subclassed model has no graph in its config: export it as a SavedModel or pass a tf.function",
            )  # fmt: skip
        model = self._model(inner, "", "model", 0)
        model.file = self.file
        return model

    def _field(self, item: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
        if not isinstance(item, dict) or not isinstance(item.get(key), kind):
            raise ImportRefused("malformed", where or self.file, f"the config has no valid {key!r}")
        return item[key]

    def _model(self, config: Any, prefix: str, name: str, depth: int) -> KerasModel:
        where = prefix.rstrip("/") or self.file
        if depth > _MAX_NESTING:
            raise ImportRefused("limit", where, f"models are nested deeper than {_MAX_NESTING}")
        if self.version[0] < 2:
            joined = keras1.branches(config)
            if joined is not None:
                return self._joined(config, joined, prefix, name, depth)
        if isinstance(config, list):
            config = {"name": name, "layers": config}
        if not isinstance(config, dict):
            raise ImportRefused("malformed", where, "the model's config is not an object")
        entries = self._field(config, "layers", list, where)
        model = KerasModel(str(config.get("name", name)), where, [], self.version)
        model.sequential = "input_layers" not in config
        seen: set[str] = set()
        for entry in entries:
            spec = self._layer(entry, prefix, depth)
            if spec.name in seen and not model.sequential:
                raise ImportRefused("malformed", spec.path, "two layers have this name")
            seen.add(spec.name)
            model.layers.append(spec)
        if model.sequential:
            model.input_shape = config.get("build_input_shape") or config.get("batch_input_shape")
            return model
        model.inputs = self._refs(config["input_layers"], where)
        model.outputs = self._refs(self._field(config, "output_layers", (list, dict), where), where)
        self._calls(model, {str(e.get("name") or e["config"].get("name")): e for e in entries})
        return model

    def _joined(self, config: list[Any], joined: list[Any], prefix: str, name: str, depth: int) -> KerasModel:
        """A Sequential of Keras 1 that starts with the Merge of other models, as the functional model that it is."""
        model = KerasModel(name, prefix.rstrip("/") or self.file, [], self.version)
        model.inputs, ends = [], []
        for n, entry in enumerate(joined):
            branch = self._layer(entry, prefix, depth + 1, f"branch_{n}")
            if branch.model is None:
                raise branch.refuse("only models can be joined by a leading Merge")
            given: list[Any] = []
            for i, (shape, kind) in enumerate(keras1.inputs_of(branch.model)):
                feed = f"{branch.name}_input" + (f"_{i}" if i else "")
                options = {"batch_input_shape": shape, "dtype": kind}
                model.layers.append(LayerSpec("InputLayer", feed, f"{prefix}{feed}", options, self.version))
                given.append(Ref(feed, 0, 0))
            branch.calls = [LayerCall([given if len(given) > 1 else given[0]], {})]
            model.layers.append(branch)
            model.inputs += given
            ends.append(Ref(branch.name, 0, 0))
        last: Any = ends
        for entry in config:
            spec = self._layer(entry, prefix, depth)
            spec.calls = [LayerCall([last], {})]
            model.layers.append(spec)
            last = Ref(spec.name, 0, 0)
        if len({s.name for s in model.layers}) != len(model.layers):
            raise ImportRefused("malformed", model.path, "two layers have the same name")
        model.outputs = [last]
        return model

    def _layer(self, entry: Any, prefix: str, depth: int, role: str = "") -> LayerSpec:
        self._count += 1
        self.limits.check("nodes", self._count, self.file, "the number of layers")
        if depth > _MAX_NESTING:
            raise ImportRefused("limit", prefix, f"layers are nested deeper than {_MAX_NESTING}")
        class_name = self._field(entry, "class_name", str, prefix)
        config = entry.get("config")
        if isinstance(config, list) and class_name == "Sequential":
            config = {"name": entry.get("name") or role or "sequential", "layers": config}
        if not isinstance(config, dict):
            raise ImportRefused("malformed", prefix or self.file, f"{class_name} has no config")
        self.limits.check("attributes", len(config), prefix or self.file, f"the number of options of {class_name}")
        name = str(entry.get("name") or config.get("name") or role or class_name.lower())
        self.limits.check_name(name, prefix or self.file)
        path = f"{prefix}{name}"
        custom = self._is_custom(entry, class_name)
        if self.version[0] < 2 and not custom:
            class_name, config = keras1.translate(class_name, config, self.theano, path)
        if class_name in _CUDNN and not custom:
            class_name, config = _CUDNN[class_name], {**config, **_CUDNN_OPTIONS}
        spec = LayerSpec(class_name.split(">")[-1], name, path, config, self.version, custom)
        spec.operation = not custom and self._is_operation(entry, class_name, config)
        if spec.operation:
            return spec
        if not custom and class_name in MODELS:
            spec.model = self._model(config, path + "/", name, depth + 1)
            return spec
        for key in _OWNED.get(class_name, ()):
            if isinstance(config.get(key), dict):
                spec.children[key] = self._layer(config[key], path + "/", depth + 1, key)
            elif key == "cell" and isinstance(config.get(key), list):
                stacked = {"class_name": "StackedRNNCells", "config": {"name": "cells", "cells": config[key]}}
                spec.children[key] = self._layer(stacked, path + "/", depth + 1, key)
        if class_name == "StackedRNNCells":
            for i, cell in enumerate(self._field(config, "cells", list, path)):
                spec.children[f"cells_{i}"] = self._layer(cell, path + "/", depth + 1, f"cell_{i}")
        if class_name == "Bidirectional" and "layer" in spec.children and "backward_layer" not in spec.children:
            spec.children["backward_layer"] = self._mirrored(spec.children["layer"])
        return spec

    @staticmethod
    def _mirrored(forward: LayerSpec) -> LayerSpec:
        config = {**forward.config, "go_backwards": not forward.config.get("go_backwards", False)}
        back = LayerSpec(forward.class_name, forward.name, forward.path, config, forward.version, forward.custom)
        back.children = {
            k: LayerSpec(c.class_name, c.name, c.path, c.config, c.version, c.custom, children=dict(c.children))
            for k, c in forward.children.items()
        }
        return back

    def _is_operation(self, entry: dict[str, Any], class_name: str, config: dict[str, Any]) -> bool:
        """Is it a ``keras.ops`` node? In ``.h5`` nothing carries a module, and what has ``trainable`` is a layer.

        A few layers (SpatialDropout, HashedCrossing, some of users) leave it out too: their names decide.
        """
        if self.version[0] < 3 or class_name in MODELS or class_name == "InputLayer":
            return False
        module = entry.get("module")
        if isinstance(module, str):
            return module.startswith(("keras.src.ops", "keras.ops"))
        if "trainable" in config:
            return False
        layer = class_name in LAYERS or class_name in REFUSED or registered_layer(class_name) is not None
        return class_name in OPERATIONS or class_name in REFUSED_OPERATIONS or not layer

    @staticmethod
    def _is_custom(entry: dict[str, Any], class_name: str) -> bool:
        """Keras' own classes carry no package: a registered name or a foreign module is the user's class."""
        module, registered = entry.get("module"), entry.get("registered_name")
        if ">" in class_name or (isinstance(registered, str) and ">" in registered):
            return True
        if not isinstance(module, str):
            return False
        return not any(module == m or module.startswith(m + ".") for m in _KERAS_MODULES)

    # -- calls ------------------------------------------------------------------------------------------------------

    def _refs(self, tree: Any, where: str) -> Any:
        """``["layer", 0, 0]`` leaves as Refs."""
        if _is_ref(tree):
            return Ref(tree[0], tree[1], tree[2])
        if isinstance(tree, dict):
            return {k: self._refs(v, where) for k, v in tree.items()}
        if isinstance(tree, list):
            return [self._refs(v, where) for v in tree]
        raise ImportRefused("malformed", where, f"not a reference to a layer's output: {str(tree)[:60]}")

    def _calls(self, model: KerasModel, entries: dict[str, Any]) -> None:
        used: dict[str, set[int]] = {}
        for spec in model.layers:
            nodes = entries[spec.name].get("inbound_nodes", []) if spec.name in entries else []
            if not isinstance(nodes, (list, tuple)):
                raise ImportRefused("malformed", spec.path, "inbound_nodes is not a list")
            for node in nodes:
                call = (
                    _keras3_call(node) if isinstance(node, dict) and "args" in node else _keras2_call(node, spec.path)
                )
                spec.calls.append(call)
                for leaf in leaves([call.args, call.kwargs]):
                    if isinstance(leaf, Ref):
                        used.setdefault(leaf.layer, set()).add(leaf.node)
        for leaf in leaves([model.inputs, model.outputs]):
            used.setdefault(leaf.layer, set()).add(leaf.node)
        # A nested functional model counts its own construction as node 0 in most versions: its calls start at 1.
        shifted = {
            s.name
            for s in model.layers
            if s.calls and s.name in used and 0 not in used[s.name] and max(used[s.name]) == len(s.calls)
        }
        if shifted:
            fix = lambda r: Ref(r.layer, r.node - 1, r.tensor) if isinstance(r, Ref) and r.layer in shifted else r
            for spec in model.layers:
                for call in spec.calls:
                    call.args, call.kwargs = map_tree(fix, call.args), map_tree(fix, call.kwargs)
            model.inputs, model.outputs = map_tree(fix, model.inputs), map_tree(fix, model.outputs)


def _is_ref(item: Any) -> bool:
    return (
        isinstance(item, (list, tuple))
        and len(item) in (3, 4)
        and isinstance(item[0], str)
        and type(item[1]) is int
        and type(item[2]) is int
        and (len(item) == 3 or isinstance(item[3], dict))
    )


def _keras3_call(node: dict[str, Any]) -> LayerCall:
    args = node.get("args")
    kwargs = node.get("kwargs") or {}
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise ImportRefused("malformed", "inbound_nodes", "a node has no argument list")
    return LayerCall([_keras3_value(a) for a in args], {k: _keras3_value(v) for k, v in kwargs.items()})


def _keras3_value(item: Any) -> Any:
    if isinstance(item, dict):
        kind = item.get("class_name")
        config = item.get("config")
        if kind == "__keras_tensor__" and isinstance(config, dict):
            history = config.get("keras_history")
            if not isinstance(history, list) or not _is_ref(history):
                raise ImportRefused("malformed", "inbound_nodes", "a keras_tensor has no valid keras_history")
            return Ref(history[0], history[1], history[2])
        if kind in ("__tensor__", "__numpy__") and isinstance(config, dict):
            return _Constant(config.get("value"), config.get("dtype"))
        if kind == "__slice__" and isinstance(config, dict):
            return slice(*(_keras3_value(config.get(k)) for k in ("start", "stop", "step")))
        if kind == "__ellipsis__":
            return Ellipsis
        if kind == "__tuple__":
            return tuple(_keras3_value(v) for v in item.get("items") or config or ())
        return {k: _keras3_value(v) for k, v in item.items()}
    if isinstance(item, (list, tuple)):
        return [_keras3_value(v) for v in item]
    return item


class _Constant:
    """An inline array of a Keras 3 config."""

    __slots__ = ("value", "dtype")

    def __init__(self, value: Any, dtype: Any) -> None:
        self.value, self.dtype = value, dtype


Constant = _Constant


def _keras2_call(node: Any, where: str) -> LayerCall:
    """``[[layer, node, tensor, kwargs], ...]``, one entry or a dict of entries."""
    kwargs: dict[str, Any] = {}

    def entry(item: Any) -> Any:
        if isinstance(item, dict):
            return {k: entry(v) for k, v in item.items()}
        if isinstance(item, (list, tuple)) and len(item) in (3, 4) and item and item[0] == "_CONSTANT_VALUE":
            if len(item) == 4 and isinstance(item[3], dict):
                kwargs.update({k: _keras2_value(v) for k, v in item[3].items()})
            return item[2]
        if not _is_ref(item):
            if isinstance(item, (list, tuple)):
                return [entry(v) for v in item]
            raise ImportRefused("malformed", where, "an inbound node is not a reference to a layer's output")
        if len(item) == 4:
            kwargs.update({k: _keras2_value(v) for k, v in item[3].items()})
        return Ref(item[0], item[1], item[2])

    single = _is_ref(node) or isinstance(node, dict)
    args = entry(node)
    if not single and isinstance(args, list) and len(args) == 1:
        args = args[0]
    return LayerCall([args], kwargs)


def _keras2_value(item: Any) -> Any:
    if _is_ref(item):
        return item[2] if item[0] == "_CONSTANT_VALUE" else Ref(item[0], item[1], item[2])
    if isinstance(item, (list, tuple)):
        if len(item) == 3 and item[0] == "_CONSTANT_VALUE":
            return item[2]
        return [_keras2_value(v) for v in item]
    if isinstance(item, dict):
        return {k: _keras2_value(v) for k, v in item.items()}
    return item
