"""Files of Keras 1 against an independent NumPy evaluation (tests/conformance/keras1_numpy.py).

The files are written here in the container layout of Keras 1.2 with random weights. Owns no formula.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from keras1_numpy import evaluate, read

import fusewright as fw
from fusewright.core.errors import ImportRefused

Entry = dict[str, Any]
Shapes = dict[str, list[tuple[str, tuple[int, ...]]]]
RNN = {"return_sequences": True, "go_backwards": False, "stateful": False, "unroll": False, "consume_less": "cpu"}


def entry(kind: str, name: str, shape: tuple[int | None, ...] | None = None, **options: Any) -> Entry:
    config = {"name": name, "trainable": True, **options}
    if shape is not None:
        config |= {"batch_input_shape": [None, *shape], "input_dtype": options.get("input_dtype", "float32")}
    return {"class_name": kind, "config": config}


def dense(name: str, n: int, units: int, shape: tuple[int, ...] | None = None, **options: Any) -> tuple[Entry, Shapes]:
    item = entry("Dense", name, shape, output_dim=units, **{"activation": "linear", "bias": True, **options})
    return item, {name: [("W", (n, units)), ("b", (units,))]}


def conv2d(ordering: str, shape: tuple[int, ...], size: tuple[int, int] = (3, 2), **options: Any) -> tuple[Any, Shapes]:
    channels = shape[0] if ordering == "th" else shape[-1]
    kernel = (4, channels, *size) if ordering == "th" else (*size, channels, 4)
    kind = "AtrousConvolution2D" if "atrous_rate" in options else "Convolution2D"
    defaults = {"activation": "relu", "border_mode": "valid", "subsample": [1, 1], "bias": True}
    item = entry(
        kind, "conv", shape, nb_filter=4, nb_row=size[0], nb_col=size[1], dim_ordering=ordering, **defaults | options
    )
    return [item], {"conv": [("W", kernel), ("b", (4,))]}


def conv1d(**options: Any) -> tuple[Any, Shapes]:
    defaults = {"activation": "tanh", "border_mode": "valid", "subsample_length": 1, "bias": True}
    item = entry("Convolution1D", "conv", (9, 3), nb_filter=4, filter_length=3, **defaults | options)
    return [item], {"conv": [("W", (3, 1, 3, 4)), ("b", (4,))]}


def recurrent(kind: str, n: int = 3, units: int = 4, gpu: bool = False, **options: Any) -> tuple[Entry, Any]:
    options = {**RNN, "output_dim": units, "activation": "tanh", "inner_activation": "hard_sigmoid", **options}
    gates = {"SimpleRNN": "", "LSTM": "icfo", "GRU": "zrh"}[kind]
    if kind == "SimpleRNN" or gpu:
        wide = units * max(len(gates), 1)
        weights = [("W", (n, wide)), ("U", (units, wide)), ("b", (wide,))]
    else:
        shape = {"W": (n, units), "U": (units, units), "b": (units,)}
        weights = [(f"{w}_{g}", shape[w]) for g in gates for w in "WUb"]
    if gpu:
        options["consume_less"] = "gpu"
    return entry(kind, "rnn", (6, n), **options), weights


def rnn(kind: str, **options: Any) -> tuple[Any, Shapes]:
    item, weights = recurrent(kind, **options)
    return [item], {"rnn": weights}


def convlstm(ordering: str, **options: Any) -> tuple[Any, Shapes]:
    shape = (3, 2, 5, 6) if ordering == "th" else (3, 5, 6, 2)
    item = entry(
        "ConvLSTM2D", "cell", shape, **RNN, nb_filter=3, nb_row=3, nb_col=3, dim_ordering=ordering, subsample=[1, 1],
        activation="tanh", inner_activation="hard_sigmoid", border_mode=options.get("border_mode", "valid"),
    )  # fmt: skip
    w, u = ((3, 2, 3, 3), (3, 3, 3, 3)) if ordering == "th" else ((3, 3, 2, 3), (3, 3, 3, 3))
    return [item], {"cell": [(f"{n}_{g}", s) for g in "icfo" for n, s in (("W", w), ("U", u), ("b", (3,)))]}


def wrapped(kind: str, **options: Any) -> tuple[Any, Shapes]:
    inner, weights = recurrent(kind, **options)
    del inner["config"]["batch_input_shape"], inner["config"]["input_dtype"]
    item = entry("Bidirectional", "both", (6, 3), layer=inner, merge_mode=options.pop("merge_mode", "concat"))
    return [item], {"both": [(f"{side}_{n}", s) for side in ("forward", "backward") for n, s in weights]}


def norm(mode: int, shape: tuple[int, ...], axis: int = -1) -> tuple[Any, Shapes]:
    n = shape[axis - 1 if axis > 0 else axis]
    item = entry("BatchNormalization", "bn", shape, mode=mode, axis=axis, epsilon=1e-3, momentum=0.99)
    return [item], {"bn": [(w, (n,)) for w in ("gamma", "beta", "running_mean", "running_std")]}


def plain(kind: str, shape: tuple[int, ...], weights: Any = (), **options: Any) -> tuple[Any, Shapes]:
    return [entry(kind, "one", shape, **options)], {"one": list(weights)}


def joined(mode: str, one: tuple[int, ...] = (5,), two: tuple[int, ...] = (5,), **options: Any) -> tuple[Any, Shapes]:
    """A Sequential that starts with a Merge of two models, one of them of two layers."""
    first, shapes = dense("left", one[-1], one[-1], one)
    branches = [
        {"class_name": "Sequential", "config": [first, entry("Activation", "act", activation="tanh")]},
        {"class_name": "Sequential", "config": [entry("Dropout", "drop", two, p=0.5)]},
    ]
    for i, branch in enumerate(branches):
        branch["config"][0]["config"].setdefault("name", f"branch_{i}")
    merge = entry(
        "Merge", "merge", mode=mode, mode_type="raw", concat_axis=-1, dot_axes=-1, layers=branches, arguments={}
    )
    merge["config"] |= options
    return [merge, entry("Activation", "last", activation="softsign")], {**shapes, "act": [], "drop": [], "merge": []}


def pool(kind: str, shape: tuple[int, ...], ordering: str = "tf", **options: Any) -> tuple[Any, Shapes]:
    rank = len(shape) - 1
    defaults: Entry = {"border_mode": "valid"}
    if rank == 1:
        defaults |= {"pool_length": 2, "stride": None}
    else:
        defaults |= {"pool_size": [2] * rank, "strides": [2] * rank, "dim_ordering": ordering}
    return plain(kind, shape, **defaults | options)


CASES: dict[str, tuple[Any, Shapes]] = {
    "conv tf": conv2d("tf", (6, 7, 3)),
    "conv th": conv2d("th", (3, 6, 7)),
    "conv same strided": conv2d("th", (3, 6, 7), border_mode="same", subsample=[2, 2]),
    "conv same even": conv2d("tf", (6, 7, 3), (2, 4), border_mode="same"),
    "conv same strided odd": conv2d("tf", (6, 8, 3), (3, 3), border_mode="same", subsample=[2, 3]),
    "conv atrous": conv2d("th", (3, 8, 9), atrous_rate=[2, 2]),
    "conv atrous same": conv2d("tf", (8, 9, 3), atrous_rate=[2, 1], border_mode="same"),
    "conv softplus": conv2d("tf", (6, 7, 3), activation="softplus"),
    "conv1d": conv1d(),
    "conv1d same strided": conv1d(border_mode="same", subsample_length=2),
    "conv3d tf": (
        [entry(
            "Convolution3D", "conv", (4, 5, 6, 2), nb_filter=3, kernel_dim1=2, kernel_dim2=3, kernel_dim3=1,
            dim_ordering="tf", border_mode="valid", subsample=[1, 2, 1], activation="relu", bias=True,
        )],
        {"conv": [("W", (2, 3, 1, 2, 3)), ("b", (3,))]},
    ),
    "conv3d th": (
        [entry(
            "Convolution3D", "conv", (2, 4, 5, 6), nb_filter=3, kernel_dim1=3, kernel_dim2=3, kernel_dim3=1,
            dim_ordering="th", border_mode="same", subsample=[1, 1, 1], activation="linear", bias=True,
        )],
        {"conv": [("W", (3, 2, 3, 3, 1)), ("b", (3,))]},
    ),
    "simple rnn": rnn("SimpleRNN"),
    "simple rnn last": rnn("SimpleRNN", return_sequences=False),
    "lstm": rnn("LSTM"),
    "lstm backwards": rnn("LSTM", go_backwards=True),
    "lstm gpu": rnn("LSTM", gpu=True),
    "lstm sigmoid": rnn("LSTM", inner_activation="sigmoid", return_sequences=False),
    "gru": rnn("GRU"),
    "gru gpu": rnn("GRU", gpu=True, return_sequences=False),
    "convlstm tf": convlstm("tf"),
    "convlstm th": convlstm("th", border_mode="same"),
    "bidirectional lstm": wrapped("LSTM"),
    "bidirectional gru": wrapped("GRU", merge_mode="sum", return_sequences=False),
    "bidirectional rnn": wrapped("SimpleRNN", merge_mode="ave"),
    "norm": norm(0, (4, 5)),
    "norm axis 1": norm(0, (3, 4, 5), axis=1),
    "norm mode 1": norm(1, (4, 5)),
    "norm mode 2": norm(2, (4, 5)),
    "norm mode 2 axis 1": norm(2, (3, 4, 5), axis=1),
    "dense": (lambda d: ([d[0]], d[1]))(dense("d", 5, 3, (5,), activation="softmax")),
    "time distributed dense": plain(
        "TimeDistributedDense", (4, 5), [("W", (5, 3)), ("b", (3,))], output_dim=3, activation="relu", bias=True
    ),
    "time distributed": plain(
        "TimeDistributed", (4, 5), [("W", (5, 3)), ("b", (3,))], layer=dense("inner", 5, 3, activation="tanh")[0]
    ),
    "highway": plain(
        "Highway", (4,), [("W", (4, 4)), ("W_carry", (4, 4)), ("b", (4,)), ("b_carry", (4,))], activation="tanh",
        bias=True, transform_bias=-2,
    ),
    "maxout": plain(
        "MaxoutDense", (4,), [("W", (3, 4, 5)), ("b", (3, 5))], output_dim=5, nb_feature=3, bias=True, input_dim=4
    ),
    "embedding": plain(
        "Embedding", (6,), [("W", (7, 3))], input_dim=7, output_dim=3, mask_zero=False, dropout=0.2, input_dtype="int32"
    ),
    "separable tf": plain(
        "SeparableConvolution2D", (6, 7, 3), [("d", (3, 2, 3, 2)), ("p", (1, 1, 6, 4)), ("b", (4,))], nb_filter=4,
        nb_row=3, nb_col=2, depth_multiplier=2, subsample=[1, 1], border_mode="same", dim_ordering="tf",
        activation="relu", bias=True,
    ),
    "deconvolution tf": plain(
        "Deconvolution2D", (4, 3, 2), [("W", (3, 2, 2, 5)), ("b", (5,))], nb_filter=5, nb_row=3, nb_col=2,
        output_shape=[None, 9, 6, 5], subsample=[2, 2], border_mode="valid", dim_ordering="tf", activation="linear",
        bias=True,
    ),
    "deconvolution same": plain(
        "Deconvolution2D", (2, 4, 3), [("W", (5, 2, 3, 3)), ("b", (5,))], nb_filter=5, nb_row=3, nb_col=3,
        output_shape=[None, 5, 8, 6], subsample=[2, 2], border_mode="same", dim_ordering="th", activation="linear",
        bias=True,
    ),
    "local 1d": plain(
        "LocallyConnected1D", (7, 2), [("W", (5, 6, 3)), ("b", (5, 3))], nb_filter=3, filter_length=3,
        subsample_length=1, border_mode="valid", activation="relu", bias=True,
    ),
    "local 2d tf": plain(
        "LocallyConnected2D", (4, 5, 2), [("W", (6, 12, 3)), ("b", (3, 2, 3))], nb_filter=3, nb_row=2, nb_col=3,
        subsample=[1, 2], border_mode="valid", dim_ordering="tf", activation="linear", bias=True,
    ),
    "local 2d th": plain(
        "LocallyConnected2D", (2, 4, 5), [("W", (6, 12, 3)), ("b", (3, 3, 2))], nb_filter=3, nb_row=2, nb_col=3,
        subsample=[1, 2], border_mode="valid", dim_ordering="th", activation="linear", bias=True,
    ),
    "srelu": plain("SReLU", (4, 3), [(n, (4, 3)) for n in ("t_left", "a_left", "t_right", "a_right")]),
    "parametric softplus": plain("ParametricSoftplus", (4, 3), [("alphas", (4, 3)), ("betas", (4, 3))]),
    "prelu": plain("PReLU", (4, 3), [("alphas", (4, 3))]),
    "leaky relu": plain("LeakyReLU", (4,), alpha=0.1),
    "elu": plain("ELU", (4,), alpha=0.7),
    "thresholded relu": plain("ThresholdedReLU", (4,), theta=0.3),
    "masked lstm": (
        [entry("Masking", "m", (6, 3), mask_value=0.0), recurrent("LSTM")[0]], {"m": [], "rnn": recurrent("LSTM")[1]}
    ),
    "masked embedding gru": (
        [
            entry("Embedding", "e", (6,), input_dim=4, output_dim=3, mask_zero=True, dropout=0.0, input_dtype="int32"),
            recurrent("GRU", return_sequences=False)[0],
        ],
        {"e": [("W", (4, 3))], "rnn": recurrent("GRU")[1]},
    ),
    "max pool 1d": pool("MaxPooling1D", (7, 3)),
    "average pool 1d same": pool("AveragePooling1D", (7, 3), pool_length=3, stride=2, border_mode="same"),
    "max pool 2d th": pool("MaxPooling2D", (3, 6, 7), "th"),
    "max pool 2d same": pool("MaxPooling2D", (6, 7, 3), pool_size=[3, 2], strides=[1, 2], border_mode="same"),
    "max pool 2d same five": pool("MaxPooling2D", (9, 9, 2), pool_size=[5, 4], strides=[2, 3], border_mode="same"),
    "average pool 2d same": pool("AveragePooling2D", (3, 6, 7), "th", border_mode="same"),
    "average pool 3d": pool("AveragePooling3D", (4, 6, 5, 2)),
    "global max 2d": plain("GlobalMaxPooling2D", (3, 6, 7), dim_ordering="th"),
    "global average 1d": plain("GlobalAveragePooling1D", (6, 7)),
    "global average 3d": plain("GlobalAveragePooling3D", (3, 2, 4, 5), dim_ordering="tf"),
    "pad 1d": plain("ZeroPadding1D", (5, 2), padding=2),
    "pad 2d": plain("ZeroPadding2D", (2, 4, 5), padding=[1, 2], dim_ordering="th"),
    "pad 2d four": plain("ZeroPadding2D", (4, 5, 2), padding=[1, 2, 3, 0], dim_ordering="tf"),
    "pad 2d named": plain(
        "ZeroPadding2D", (4, 5, 2), dim_ordering="tf",
        padding={"top_pad": 1, "bottom_pad": 0, "left_pad": 2, "right_pad": 3},
    ),
    "pad 3d": plain("ZeroPadding3D", (2, 3, 4, 5), padding=[1, 0, 2], dim_ordering="th"),
    "crop 1d": plain("Cropping1D", (6, 2), cropping=[1, 2]),
    "crop 2d": plain("Cropping2D", (2, 6, 7), cropping=[[1, 2], [0, 3]], dim_ordering="th"),
    "up 1d": plain("UpSampling1D", (4, 2), length=3),
    "up 2d": plain("UpSampling2D", (2, 4, 3), size=[2, 3], dim_ordering="th"),
    "up 3d": plain("UpSampling3D", (2, 3, 4, 2), size=[1, 2, 3], dim_ordering="tf"),
    "reshape": plain("Reshape", (4, 6), target_shape=[3, 8]),
    "permute": plain("Permute", (4, 6, 2), dims=[3, 1, 2]),
    "repeat": plain("RepeatVector", (4,), n=3),
    "flatten th": (
        [*conv2d("th", (3, 6, 7))[0], entry("Flatten", "flat")], {**conv2d("th", (3, 6, 7))[1], "flat": []}
    ),
    **{f"merge {m}": joined(m) for m in ("sum", "mul", "ave", "max", "concat", "dot", "cos")},
    "merge concat axis": joined("concat", (3, 5), (2, 5), concat_axis=1),
    "merge dot matrices": joined("dot", (3, 5), (2, 5), dot_axes=[2, 2]),
    "merge cos matrices": joined("cos", (3, 5), (3, 5), dot_axes=2),
}  # fmt: skip


def write(path: Path, model: Any, shapes: Shapes, theano: bool, seed: int = 0, version: str | None = "1.2.2") -> Path:
    """A file as Keras 1.2 writes it; Theano's variables have plain names, TensorFlow's end in ``:0``."""
    rng = np.random.default_rng(seed)
    config = model if isinstance(model, dict) else {"class_name": "Sequential", "config": model}
    with h5py.File(path, "w") as f:
        if version:
            f.attrs["keras_version"] = version.encode()
        f.attrs["model_config"] = json.dumps(config).encode()
        root = f.create_group("model_weights")
        root.attrs["layer_names"] = [n.encode() for n in shapes]
        for layer, weights in shapes.items():
            group = root.create_group(layer)
            names = [f"{layer}_{n}" + ("" if theano else ":0") for n, _ in weights]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for name, (short, shape) in zip(names, weights, strict=True):
                low = 0.2 if short == "running_std" else -0.7
                group[name] = rng.uniform(low, 0.8, shape).astype(np.float32)
    return path


def feeds(graph: Any, seed: int = 1) -> list[np.ndarray]:
    rng, out = np.random.default_rng(seed), []
    for v in graph.inputs:
        shape = [3 if not isinstance(d, int) else d for d in v.shape]
        if v.dtype.is_int:
            out.append(rng.integers(0, 4, shape).astype(v.dtype.np))
        else:
            drawn = rng.standard_normal(shape).astype(np.float32)
            if len(shape) == 3 and shape[1] > 3:
                drawn[0, 2] = drawn[1, -2:] = 0.0  # what a Masking layer leaves out
            out.append(drawn)
    return out


def agree(path: Path, run: Callable[[Any, list[np.ndarray]], list[np.ndarray]]) -> None:
    graph = fw.import_model(path)
    graph.verify(level=2)
    given = feeds(graph)
    with h5py.File(path) as file:
        config, groups = read(file)
    want = evaluate(config, groups, given)
    got = run(graph, given)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=2e-6 * np.nanmax(np.abs(w), initial=1.0))


def interpret(graph: Any, given: list[np.ndarray]) -> list[np.ndarray]:
    return list(graph.run({v.name: a for v, a in zip(graph.inputs, given, strict=True)}).values())


def compiled(graph: Any, given: list[np.ndarray]) -> list[np.ndarray]:
    found = fw.compile(graph, threads=1)(*given)
    return list(found) if isinstance(found, tuple) else [found]


# The Theano backend of Keras 1 had no separable convolution.
PAIRS = [(n, t) for n in CASES for t in (False, True) if not (t and n.startswith("separable"))]


@pytest.mark.parametrize(("name", "theano"), PAIRS, ids=[f"{n}-{'theano' if t else 'tensorflow'}" for n, t in PAIRS])
def test_layer(name: str, theano: bool, tmp_path: Path) -> None:
    model, shapes = CASES[name]
    agree(write(tmp_path / "m.h5", model, shapes, theano), interpret)


@pytest.mark.parametrize("name", ["conv th", "gru", "bidirectional lstm", "norm mode 2", "max pool 2d same", "srelu"])
def test_native(name: str, tmp_path: Path) -> None:
    model, shapes = CASES[name]
    agree(write(tmp_path / "m.h5", model, shapes, theano=True), compiled)


def test_functional_model_with_a_shared_layer_and_two_outputs(tmp_path: Path) -> None:
    shared, shapes = dense("shared", 4, 5)
    node = lambda item, *froms: {**item, "name": item["config"]["name"], "inbound_nodes": [list(f) for f in froms]}
    layers = [
        node(entry("InputLayer", "a", (4,), sparse=False)),
        node(entry("InputLayer", "b", (4,), sparse=False)),
        node(shared, [["a", 0, 0]], [["b", 0, 0]]),
        node(
            entry("Merge", "m", mode="concat", mode_type="raw", concat_axis=-1, dot_axes=-1),
            [["shared", 0, 0], ["shared", 1, 0]],
        ),
        node(entry("Activation", "t", activation="tanh"), [["m", 0, 0]]),
    ]
    model = {
        "class_name": "Model",
        "config": {
            "name": "model_1", "layers": layers, "input_layers": [["a", 0, 0], ["b", 0, 0]],
            "output_layers": [["t", 0, 0], ["shared", 1, 0]],
        },
    }  # fmt: skip
    agree(write(tmp_path / "m.h5", model, {"a": [], "b": [], **shapes, "m": [], "t": []}, False), interpret)


def test_a_nested_sequential_keeps_its_layers_in_the_file(tmp_path: Path) -> None:
    """Keras 1 flattens a leading Sequential: its layers stand in the file as if they were the outer model's."""
    (one, first), (two, second) = dense("one", 4, 5, (4,), activation="relu"), dense("two", 5, 3)
    model = [{"class_name": "Sequential", "config": [one]}, two]
    agree(write(tmp_path / "m.h5", model, {**first, **second}, False), interpret)


def test_highway_of_1_0_stores_each_matrix_with_its_bias(tmp_path: Path) -> None:
    model, _ = CASES["highway"]
    old = {"one": [("W", (4, 4)), ("b", (4,)), ("W_carry", (4, 4)), ("b_carry", (4,))]}
    path = write(tmp_path / "m.h5", model, old, False)
    graph = fw.import_model(path)
    given = feeds(graph)
    with h5py.File(path) as file:
        config, groups = read(file)
    w, b, carry, carry_b = groups["one"]
    want = evaluate(config, {"one": [w, carry, b, carry_b]}, given)
    np.testing.assert_allclose(interpret(graph, given)[0], want[0], rtol=1e-5, atol=1e-6)


def test_a_file_without_a_version_is_told_by_its_options(tmp_path: Path) -> None:
    model, shapes = CASES["lstm"]
    agree(write(tmp_path / "m.h5", model, shapes, False, version=None), interpret)


def test_json_with_weights(tmp_path: Path) -> None:
    model, shapes = CASES["conv th"]
    path = write(tmp_path / "m.h5", model, shapes, theano=True)
    text = tmp_path / "m.json"
    text.write_text(json.dumps({"class_name": "Sequential", "config": model, "keras_version": "1.2.2"}))
    one, two = fw.import_model(path), fw.import_model(text, weights=path)
    given = feeds(one)
    np.testing.assert_array_equal(interpret(one, given)[0], interpret(two, given)[0])


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (CASES["max pool 2d th"][0][0] | {"class_name": "Lambda"}, "unsafe-layer"),
        (entry("Merge", "m", mode="marshalled", mode_type="lambda"), "unsafe-layer"),
        (entry("Merge", "m", mode="power", mode_type="raw"), "unsupported-option"),
        (entry("BatchNormalization", "b", (3,), mode=3, axis=-1), "unsupported-option"),
        (entry("Convolution2D", "c", (3, 4, 5), nb_row=1, nb_col=1, dim_ordering="x"), "unsupported-option"),
        (entry("Antirectifier", "a", (3,)), "unknown-layer"),
    ],
)  # fmt: skip
def test_refusals(model: Entry, code: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused) as caught:
        fw.import_model(write(tmp_path / "m.h5", [model], {model["config"]["name"]: []}, False))
    assert caught.value.code == code
