"""Which arrays each layer class owns, and where the containers keep them.

Owns the tables of weight names, of paths in `.keras` archives and of Keras' orders. Must not know the IR.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ...core.errors import ImportRefused
from ..formats.hdf5 import H5File
from ..registry import registered_layer
from . import keras1, quantisation
from .model import KerasModel, LayerSpec

Names = list[tuple[str, bool]]  # (name, trainable) in the order of creation

_KERNEL_BIAS = frozenset(
    "Dense EinsumDense Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose Convolution1D "
    "Convolution2D Convolution3D Convolution1DTranspose Convolution2DTranspose Convolution3DTranspose Deconvolution2D "
    "LocallyConnected1D LocallyConnected2D AtrousConvolution1D AtrousConvolution2D".split()
)
_DEPTHWISE = frozenset({"DepthwiseConv1D", "DepthwiseConv2D"})
_SEPARABLE = frozenset({"SeparableConv1D", "SeparableConv2D", "SeparableConvolution1D", "SeparableConvolution2D"})
RECURRENT = frozenset(
    "SimpleRNN SimpleRNNCell LSTM LSTMCell GRU GRUCell ConvLSTM1D ConvLSTM2D ConvLSTM3D ConvLSTM1DCell ConvLSTM2DCell "
    "ConvLSTM3DCell".split()
)
_IN_CELL = frozenset("SimpleRNN LSTM GRU ConvLSTM1D ConvLSTM2D ConvLSTM3D".split())
_ATTENTION = frozenset({"MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"})


def _flag(config: dict[str, Any], key: str, default: bool = True) -> bool:
    return bool(config.get(key, default))


def names_of(spec: LayerSpec) -> Names | None:
    """The layer's own weights in the order of creation (children's left out), or None for classes not in the table."""
    kind, config = spec.class_name, spec.config
    if spec.operation:
        return []
    if spec.custom or registered_layer(kind) is not None:
        return None
    bias: Names = [("bias", True)] if _flag(config, "use_bias", _flag(config, "bias")) else []
    if kind == "EinsumDense" and config.get("bias_axes") is None:
        bias = []
    if kind in ("Dense", "EinsumDense", "Embedding") and quantisation.mode_of(config)[0]:
        return quantisation.stored_names(kind, config, bool(bias) and kind != "Embedding")
    if kind in _KERNEL_BIAS:
        return [("kernel", True), *bias]
    if kind in _DEPTHWISE:
        return [("depthwise_kernel", True), *bias]
    if kind in _SEPARABLE:
        return [("depthwise_kernel", True), ("pointwise_kernel", True), *bias]
    if kind in RECURRENT:
        return [("kernel", True), ("recurrent_kernel", True), *bias]
    if kind in _ATTENTION:
        parts = ("query", "key", "value", "output")
        if _flag(config, "use_gate", False):
            return None
        return [(f"{p}_{w}", True) for p in parts for w in ("kernel", "bias") if w == "kernel" or bias]
    if kind == "BatchNormalization":
        return [*_scale_center(config), ("moving_mean", False), ("moving_variance", False)]
    if kind in ("LayerNormalization", "GroupNormalization"):
        return [("gamma", True)] * _flag(config, "rms_scaling", False) or _scale_center(config)
    if kind == "LayerScale":
        return [("gamma", True)]
    if kind == "RMSNormalization":
        return [("scale", True)]
    if kind in ("Embedding", "ReversibleEmbedding"):
        tied = kind == "Embedding" or _flag(config, "tie_weights")
        return [("embeddings", True)] + ([] if tied else [("reverse_embeddings", True)])
    if kind == "PReLU":
        return [("alpha", True)]
    if kind == "Normalization":
        return [] if config.get("mean") is not None else [("mean", False), ("variance", False), ("count", False)]
    if kind == "STFTSpectrogram":
        mode = config.get("mode", "log")
        return [(f"{part}_kernel", True) for part, other in (("real", "imag"), ("imag", "real")) if mode != other]
    if kind == "SpectralNormalization":
        return [("vector_u", False)]
    if kind == "Attention":
        scale: Names = [("scale", True)] if _flag(config, "use_scale", False) else []
        return scale + ([("concat_score_weight", True)] if config.get("score_mode") == "concat" else [])
    if kind == "AdditiveAttention":
        return [("scale", True)] if _flag(config, "use_scale") else []
    return []


def _scale_center(config: dict[str, Any]) -> Names:
    return [("gamma", True)] * _flag(config, "scale") + [("beta", True)] * _flag(config, "center")


def assign(spec: LayerSpec, arrays: Sequence[np.ndarray], source: str) -> None:
    """Give a leaf its own arrays, in Keras' order. Raises ImportRefused when the count is wrong."""
    names = names_of(spec)
    if names is None:
        spec.weights = {str(i): a for i, a in enumerate(arrays)}
        return
    if len(names) == 3 and spec.class_name == "Normalization" and len(arrays) == 2:
        names = names[:2]
    if len(names) != len(arrays):
        raise ImportRefused(
            "weights", spec.path, f"{spec.class_name} needs {len(names)} arrays ({', '.join(n for n, _ in names)}), "
            f"{source} has {len(arrays)}", "was the model built before it was saved?",
        )  # fmt: skip
    spec.weights = {name: a for (name, _), a in zip(names, arrays, strict=True)}
    from_cudnn(spec)


def from_cudnn(spec: LayerSpec) -> None:
    """Bring the weights of a cuDNN layer to Keras' layout, as Keras does when one loads into an LSTM or GRU.

    They are told by their two biases in one vector; kernels lie the other way round, gate by gate.
    """
    gates = {"LSTM": 4, "GRU": 3}.get(spec.class_name, 0)
    found = [spec.weights.get(n) for n in ("kernel", "recurrent_kernel", "bias")]
    if not gates or any(a is None for a in found) or spec.custom:
        return
    kernel, recurrent, bias = (a for a in found if a is not None)
    if bias.shape != (2 * gates * recurrent.shape[0],):
        return
    turned = [k.T.reshape(k.shape, order="F") for k in np.split(kernel, gates, axis=1)]
    spec.weights = {
        "kernel": np.concatenate(turned, axis=1),
        "recurrent_kernel": np.concatenate([k.T for k in np.split(recurrent, gates, axis=1)], axis=1),
        "bias": bias.reshape(2, -1).sum(0) if gates == 4 else bias.reshape(2, -1),
    }


# -- flat lists (.h5) ------------------------------------------------------------------------------------------------


def _stored(spec: LayerSpec) -> Names | None:
    """What a flat list holds of the layer's own weights, in its order."""
    if spec.version[0] >= 2 or spec.custom or registered_layer(spec.class_name) is not None:
        return names_of(spec)
    return keras1.stored_names(spec, names_of)


def _owners(spec: LayerSpec) -> Iterable[LayerSpec]:
    """The leaves below ``spec`` in Keras' tracking order."""
    yield spec
    for child in spec.children.values():
        yield from _owners(child)
    if spec.model is not None:
        for layer in spec.model.layers:
            yield from _owners(layer)


def assign_flat(spec: LayerSpec, arrays: Sequence[np.ndarray], source: str, theano: bool = False) -> None:
    """Give a top-level layer of an ``.h5`` its arrays: all trainable ones come first, then the others."""
    owners = list(_owners(spec))
    if any(_stored(o) is None for o in owners):
        if len(owners) > 1:
            raise ImportRefused(
                "weights", spec.path, "cannot tell which arrays belong to the user's layer inside this one"
            )
        assign(spec, arrays, source)
        return
    first: list[tuple[LayerSpec, str]] = []
    later: list[tuple[LayerSpec, str]] = []
    for owner in owners:
        for name, trainable in _stored(owner) or ():
            (first if trainable and owner.trainable else later).append((owner, name))
    slots = first + later
    if spec.model is None and len(owners) == 1:
        slots = [(spec, name) for name, _ in _stored(spec) or ()]
    if len(slots) > len(arrays):  # the optional counter of Normalization
        slots = [s for s in slots if s[1] != "count"]
    if len(slots) != len(arrays):
        raise ImportRefused(
            "weights", spec.path, f"{spec.class_name} needs {len(slots)} arrays, {source} has {len(arrays)}",
            "was the model built before it was saved?",
        )  # fmt: skip
    for (owner, name), array in zip(slots, arrays, strict=True):
        owner.weights[name] = array
    if spec.version[0] < 2:
        for owner in owners:
            keras1.to_keras2(owner, theano)
    for owner in owners:
        from_cudnn(owner)


def stored_groups(file: H5File, root: str) -> list[tuple[str, list[str]]]:
    """(layer, names of its arrays) in the order of ``layer_names``. Raises ImportRefused when there are none."""
    layer_names = file.attr_names(root, "layer_names")
    if layer_names is None:
        raise ImportRefused("malformed", file.where, "the file has no layer_names: it holds no weights")
    prefix = f"{root}/" if root else ""
    return [(name, list(file.attr_names(f"{prefix}{name}", "weight_names") or ())) for name in layer_names]


def load_h5(model: KerasModel, file: H5File, root: str) -> None:
    """Weights of an ``.h5`` file: groups in the order of ``layer_names``, arrays in the order of ``weight_names``."""
    groups = stored_groups(file, root)
    theano = model.version[0] < 2 and keras1.is_theano(n for _, names in groups for n in names)
    prefix = f"{root}/" if root else ""
    stored = [(name, [f"{prefix}{name}/{n}" for n in names]) for name, names in groups]
    by_name = dict(stored)
    pairs: list[tuple[LayerSpec, list[str]]] | None = None
    if len(by_name) == len(stored):
        if model.version[0] < 2:
            pairs = keras1.pairs_by_name(model.layers, by_name, _needs)
        elif all(s.name in by_name for s in model.layers if _needs(s)):
            pairs = [(s, by_name[s.name]) for s in model.layers if _needs(s)]
    if pairs is None:  # names were changed: Keras matches by order then
        wanting = [s for s in model.layers if _needs(s)]
        holding = [paths for _, paths in stored if paths]
        if len(wanting) != len(holding):
            raise ImportRefused(
                "weights", file.where, f"{len(wanting)} layers need weights, the file has them for {len(holding)}"
            )
        pairs = list(zip(wanting, holding, strict=True))
    for spec, paths in pairs:
        assign_flat(spec, [file.array(p) for p in paths], f"the group of {spec.name!r}", theano)


def _needs(spec: LayerSpec) -> bool:
    return any(names is None or names for names in map(_stored, _owners(spec)))


# -- paths (.keras) --------------------------------------------------------------------------------------------------


def snake_case(name: str) -> str:
    """Keras' own rule: ``Conv2DTranspose`` -> ``conv2d_transpose``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


Store = Callable[[str], "list[np.ndarray] | None"]  # path -> the arrays at <path>/vars, None when there is no such path
# Paths follow the Python class, configs its public name; these differ.
_CLASS_OF = {"GroupQueryAttention": "GroupedQueryAttention"}
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")


def load_paths(model: KerasModel, has: Callable[[str], bool], read: Store, prefix: str = "") -> None:
    """Weights of a ``.keras`` archive. ``read(path)`` gives the arrays in ``<path>/vars`` in order."""
    used: dict[str, int] = {}
    root = next((c for c in _CONTAINERS if has(f"{prefix}{c}")), None)
    for spec in model.layers:
        if spec.operation or (model.sequential and spec.class_name == "InputLayer"):
            continue  # these own no path, and take no number in the names of the others
        base = snake_case(_CLASS_OF.get(spec.class_name, spec.class_name))
        name = base if base not in used else f"{base}_{used[base]}"
        used[base] = used.get(base, 0) + 1
        _load_layer(spec, f"{prefix}{root}/{name}" if root else f"{prefix}{name}", has, read)


def _load_layer(spec: LayerSpec, path: str, has: Callable[[str], bool], read: Store) -> None:
    if spec.model is not None:
        load_paths(spec.model, has, read, path + "/")
        return
    cells: dict[str, int] = {}
    for key, child in spec.children.items():
        if spec.class_name == "Bidirectional":
            below = f"{path}/{'forward_layer' if key == 'layer' else 'backward_layer'}"
        elif key.startswith("cells_"):
            base = snake_case(child.class_name)
            below = f"{path}/cells/{base}" + (f"_{cells[base]}" if base in cells else "")
            cells[base] = cells.get(base, 0) + 1
        else:
            below = f"{path}/{key}"
        _load_layer(child, below, has, read)
    kind = spec.class_name
    if kind == "SpectralNormalization":
        return  # its own state only matters in training, and its group repeats the wrapped kernel
    if kind in _IN_CELL:
        arrays = read(f"{path}/cell") or []
    elif kind in _ATTENTION:
        arrays = []
        for part in ("query_dense", "key_dense", "value_dense", "output_dense"):
            arrays += read(f"{path}/{part}") or read(f"{path}/_{part}") or []
    else:
        arrays = read(path) or []
    names = names_of(spec)
    if names is None or names or arrays:
        assign(spec, arrays if names != [] else [], f"the archive at {path!r}")
