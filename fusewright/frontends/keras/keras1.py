"""Keras 1 as Keras 2: class names, options, containers and weight layouts of 1.0 to 1.2.

Owns the translation, after the sources of Keras 1.2.2. Must not know the IR; what has no Keras 2 form is in
layers/keras1.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...core.errors import ImportRefused
from .model import KerasModel, LayerSpec, leaves

Config = dict[str, Any]
Names = list[tuple[str, bool]]

# Options that only Keras 1 layers have: they tell its configs where the file states no version.
_MARKS = frozenset({"input_dtype", "nb_filter", "border_mode", "inner_activation", "W_regularizer", "dim_ordering"})

_OPTIONS = {
    "output_dim": "units", "bias": "use_bias", "nb_filter": "filters", "subsample": "strides", "p": "rate",
    "inner_activation": "recurrent_activation", "atrous_rate": "dilation_rate",
}  # fmt: skip
_CLASSES = {
    "Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "Convolution3D": "Conv3D", "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D", "AtrousConv1D": "Conv1D", "AtrousConv2D": "Conv2D",
    "SeparableConvolution2D": "SeparableConv2D", "Deconv2D": "Deconvolution2D", "TimeDistributedDense": "Dense",
}  # fmt: skip
_SPATIAL = {"1D": 1, "2D": 2, "3D": 3}
_MERGES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum", "concat": "Concatenate", "dot": "Dot"}


def is_keras1(config: Any) -> bool:
    """Does a config without a version carry options of Keras 1?"""
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "class_name" in item and isinstance(item.get("config"), dict) and _MARKS & item["config"].keys():
                return True
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False


def translate(kind: str, config: Config, theano: bool, where: str) -> tuple[str, Config]:
    """The Keras 2 class and config of one layer. ``theano``: the file was written by the Theano backend."""
    new: Config = {_OPTIONS.get(k, k): v for k, v in config.items()}
    if kind == "Embedding":
        new["output_dim"] = new.pop("units", None)
    if kind == "InputLayer":
        new["dtype"] = config.get("input_dtype", "float32")
    rank = _SPATIAL.get(kind[-2:], 0)
    if kind == "Merge":
        return _merge(new, where)
    if kind == "BatchNormalization":
        mode = config.get("mode", 0)
        if mode not in (0, 1, 2):
            raise ImportRefused("unsupported-option", where, f"BatchNormalization: mode={mode!r} is not known")
        return (kind if mode == 0 else f"BatchNormalization(mode={mode})"), new
    if "dim_ordering" in config:
        ordering = config["dim_ordering"]
        if ordering not in ("th", "tf"):
            raise ImportRefused("unsupported-option", where, f"{kind}: dim_ordering={ordering!r} is not known")
        # Flatten and Reshape take their input as it lies: only layers that had the option have data_format.
        new["data_format"] = "channels_first" if ordering == "th" else "channels_last"
    if "border_mode" in config:
        mode = config["border_mode"]
        new["padding"] = f"theano-{mode}" if theano and mode == "same" else mode
    if kind == "ConvLSTM2D" and theano:
        new["recurrent_padding"] = "theano-same"
    _sizes(kind, rank, config, new)
    return _CLASSES.get(kind, kind), new


def _sizes(kind: str, rank: int, old: Config, new: Config) -> None:
    """Extents that Keras 1 spells as one option per axis, or under other names."""
    for names in (("filter_length",), ("nb_row", "nb_col"), ("kernel_dim1", "kernel_dim2", "kernel_dim3")):
        if all(n in old for n in names):
            new["kernel_size"] = [old[n] for n in names]
    if "subsample_length" in old:
        new["strides"] = [old["subsample_length"]]
    if "Pooling" in kind and rank == 1 and "pool_length" in old:
        new["pool_size"] = [old["pool_length"]]
        new["strides"] = [old["stride"]] if old.get("stride") is not None else None
    if kind == "UpSampling1D":
        new["size"] = old.get("length", 2)
    if kind.startswith("ZeroPadding"):
        new["padding"] = _padding(rank, old.get("padding", 1))


def _padding(rank: int, value: Any) -> Any:
    """Zero padding per axis: Keras 1 also takes four numbers, or sides by name."""
    if isinstance(value, dict):
        sides = (("left_pad", "right_pad"),) if rank == 1 else (("top_pad", "bottom_pad"), ("left_pad", "right_pad"))
        return [[value.get(low, 0), value.get(high, 0)] for low, high in sides]
    if rank == 2 and isinstance(value, (list, tuple)) and len(value) == 4:
        return [list(value[:2]), list(value[2:])]
    return value


def _merge(config: Config, where: str) -> tuple[str, Config]:
    mode = config.get("mode", "sum")
    if config.get("mode_type", "raw") != "raw":
        hint = "register its lowering, or save the model with a named mode"
        raise ImportRefused("unsafe-layer", where, "Merge: its mode is Python code, which is never executed", hint)
    if mode == "cos":
        return "Merge", config
    if mode not in _MERGES:
        raise ImportRefused("unsupported-option", where, f"Merge: mode={mode!r} is not known")
    return _MERGES[mode], {**config, "axis": config.get("concat_axis", -1), "axes": config.get("dot_axes", -1)}


def branches(config: Any) -> list[Any] | None:
    """The models that a leading Merge joins (a Sequential with several inputs), or None."""
    if not isinstance(config, list) or not config or not isinstance(config[0], dict):
        return None
    first = config[0]
    inner = first.get("config")
    if first.get("class_name") != "Merge" or not isinstance(inner, dict):
        return None
    below = inner.get("layers")
    return below if isinstance(below, list) and below else None


def inputs_of(model: KerasModel) -> list[tuple[Any, str]]:
    """(shape, dtype) of each input of a translated model."""
    if not model.sequential:
        specs = [model.layer(ref.layer) for ref in leaves(model.inputs)]
        return [(s.config.get("batch_input_shape"), s.config.get("dtype", "float32")) for s in specs]
    first = model.layers[0] if model.layers else None
    if first is not None and first.model is not None and "batch_input_shape" not in first.config:
        return inputs_of(first.model)
    config = first.config if first is not None else {}
    return [(config.get("batch_input_shape"), config.get("input_dtype") or "float32")]


# -- weights ---------------------------------------------------------------------------------------------------------

_GATES = {"LSTM": "icfo", "ConvLSTM2D": "icfo", "GRU": "zrh"}
_KERAS2_ORDER = {"LSTM": "ifco", "ConvLSTM2D": "ifco", "GRU": "zrh"}
_CONVOLUTIONS = frozenset({"Conv1D", "Conv2D", "Conv3D", "SeparableConv2D", "Deconvolution2D", "ConvLSTM2D"})


def stored_names(spec: LayerSpec, keras2: Callable[[LayerSpec], Names | None]) -> Names | None:
    """What Keras 1 keeps for a layer, in its order; the rest is as in Keras 2."""
    kind, config = spec.class_name, spec.config
    bias: Names = [("bias", True)] * bool(config.get("use_bias", True))
    if kind in _GATES and config.get("consume_less") != "gpu":
        return [(f"{w}_{g}", True) for g in _GATES[kind] for w in "WUb"]
    if kind in ("LSTM", "GRU", "SimpleRNN"):
        return [("kernel", True), ("recurrent_kernel", True), ("bias", True)]
    if kind == "BatchNormalization" or kind.startswith("BatchNormalization("):
        return [("gamma", True), ("beta", True), ("moving_mean", False), ("moving_variance", False)]
    if kind == "Highway":
        return [("kernel", True), ("carry_kernel", True)] + [("bias", True), ("carry_bias", True)] * bool(bias)
    if kind in ("MaxoutDense", "Deconvolution2D"):
        return [("kernel", True), *bias]
    if kind == "ParametricSoftplus":
        return [("alpha", True), ("beta", True)]
    if kind == "SReLU":
        return [(n, True) for n in ("t_left", "a_left", "t_right", "a_right")]
    return keras2(spec)


def to_keras2(spec: LayerSpec, theano: bool) -> None:
    """Bring the stored arrays of one layer to Keras 2's layout, in place."""
    kind, arrays = spec.class_name, spec.weights
    first = spec.config.get("data_format") == "channels_first"
    if kind in _GATES and "W_" + _GATES[kind][0] in arrays:
        order, axis = _KERAS2_ORDER[kind], 0 if kind == "ConvLSTM2D" and first else -1
        join = lambda w, axis: np.concatenate([arrays[f"{w}_{g}"] for g in order], axis=axis)
        arrays = {"kernel": join("W", axis), "recurrent_kernel": join("U", axis), "bias": join("b", -1)}
    if kind == "Highway":  # 1.0 stores (W, b, carry W, carry b), later versions both matrices first
        matrices = [a for a in arrays.values() if a.ndim == 2]
        vectors = [a for a in arrays.values() if a.ndim == 1]
        if len(matrices) != 2 or len(vectors) not in (0, 2):
            raise ImportRefused("weights", spec.path, "Highway needs two matrices and two vectors, or none")
        arrays = dict(zip(("kernel", "carry_kernel", "bias", "carry_bias"), matrices + vectors, strict=False))
    if kind in _CONVOLUTIONS:
        arrays = {n: _kernel(spec, a, first, theano) if "kernel" in n else a for n, a in arrays.items()}
    if kind == "LocallyConnected2D" and first and "bias" in arrays and arrays["bias"].ndim == 3:
        bias = arrays["bias"]  # [filters, rows, columns]; Keras 2 keeps the same numbers under the other shape
        arrays = {**arrays, "bias": bias.reshape(*bias.shape[1:], bias.shape[0])}
    spec.weights = arrays


def _kernel(spec: LayerSpec, array: np.ndarray, first: bool, theano: bool) -> np.ndarray:
    """Spatial axes, input channels, filters. Theano convolves: its kernels lie the other way round."""
    kind, size = spec.class_name, spec.config.get("kernel_size") or []
    if kind == "Conv1D" and array.ndim == 4:
        if array.shape[:2] != (size[0], 1):  # before 1.1.1: [filters, channels, length, 1]
            array = array.transpose(2, 3, 1, 0)
        array = array[:, 0]
    elif first and array.ndim == len(size) + 2:
        array = array.transpose(*range(2, array.ndim), 1, 0)
    rank = array.ndim - 2
    if theano and kind not in ("Deconvolution2D", "SeparableConv2D"):
        array = array[(slice(None, None, -1),) * rank]
    # Keras 1 keeps the kernel of a Deconvolution2D as that of a convolution; Keras 2 exchanges the channel axes.
    return array.swapaxes(-1, -2) if kind == "Deconvolution2D" else array


def is_theano(weight_names: Iterable[str]) -> bool:
    """Theano's variables have plain names, TensorFlow's end in ``:0``; Keras 1 files do not state the backend."""
    names = list(weight_names)
    return bool(names) and not any(n.endswith(":0") for n in names)


def pairs_by_name(
    specs: Iterable[LayerSpec], groups: Mapping[str, list[str]], needs: Callable[[LayerSpec], bool]
) -> list[tuple[LayerSpec, list[str]]] | None:
    """Layers with their groups; a model without one has its layers' (Keras 1 flattens nested models), else None."""
    out: list[tuple[LayerSpec, list[str]]] = []
    for spec in specs:
        if not needs(spec):
            continue
        if spec.name in groups:
            out.append((spec, groups[spec.name]))
        elif spec.model is not None:
            below = pairs_by_name(spec.model.layers, groups, needs)
            if below is None:
                return None
            out += below
        else:
            return None
    return out
