"""Whole models: nested, shared, several inputs and outputs, keras.ops nodes, both Keras generations, all containers."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tf_keras
from keras import ops

import fusewright.frontends.keras as frontend
from fusewright.frontends.keras import import_keras
from fusewright.frontends.registry import register_layer, unregister_layer

L, K = keras.layers, tf_keras.layers


def data(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def nested() -> Any:
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, [L.Dense(4, name="same")(inner_in), L.BatchNormalization()(inner_in)], name="inner")
    sequence = keras.Sequential([keras.Input((4,)), L.Dense(4, activation="tanh"), L.BatchNormalization()], name="seq")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = L.Dense(4)
    x, y = inner(a)
    u, v = inner(shared(b))
    out = L.Concatenate()([sequence(x), sequence(shared(y)), u, shared(v)])
    deep = keras.Model([a, b], [out, L.Dense(2)(out)], name="deep")
    c, d = keras.Input((4,)), keras.Input((4,))
    return keras.Model([c, d], [deep([d, c]), deep([c, L.ReLU()(c)])[1]])


def test_nested_shared_and_several_outputs(against_keras: Any) -> None:
    against_keras(nested(), data(3, 4), data(3, 4, seed=2), save=(".keras", ".h5"))


def test_layers_whose_config_does_not_say_trainable_are_layers_in_h5(against_keras: Any) -> None:
    """An .h5 names no modules, and these leave out what tells other layers from keras.ops nodes."""
    lines = [keras.Input((6, 4)), L.SpatialDropout1D(0.2), L.Reshape((2, 3, 4)), L.SpatialDropout2D(0.2), L.Softmax()]
    lines += [L.Reshape((1, 2, 3, 4)), L.SpatialDropout3D(0.2), L.Flatten(), L.Dense(2), L.Discretization([0.0, 0.5])]
    against_keras(keras.Sequential(lines), data(3, 6, 4), save=(".h5", ".keras"))


def test_a_layer_whose_config_says_only_its_own_options_is_the_registered_one_in_h5(scratch: Path) -> None:
    class Twice(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + x

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    @register_layer("Twice")
    def lower(layer: Any, x: Any) -> Any:
        return x + x

    try:
        keras.Sequential([keras.Input((3,)), Twice()]).save(scratch / "twice.h5")
        graph = import_keras(scratch / "twice.h5")
    finally:
        unregister_layer("Twice")
    assert [n.op.name for n in graph.nodes] == ["input", "add", "return"]


def test_a_refused_layer_is_no_operation_in_h5(scratch: Path, refused: Any) -> None:
    inp = keras.Input((3,), dtype="int32")
    keras.Model(inp, L.HashedCrossing(5)((inp[:, :1], inp[:, 1:2]))).save(scratch / "crossed.h5")
    assert "HashedCrossing" in refused(scratch / "crossed.h5", "unsupported-layer").reason


def test_frozen_layers_in_nested_models_keep_their_weights(against_keras: Any) -> None:
    """Keras 2 order in an .h5 is trainable weights first: freezing a layer moves its weights to the end."""
    inner = keras.Sequential([keras.Input((3,)), L.Dense(3), L.BatchNormalization(), L.Dense(3)], name="inner")
    inner.layers[0].trainable = False
    outer = keras.Sequential([keras.Input((3,)), inner, L.Dense(2)])
    against_keras(outer, data(2, 3), save=(".h5", ".keras"))


def test_operations(against_keras: Any) -> None:
    a, b = keras.Input((4, 6)), keras.Input((4, 6))
    out = [
        a[:, 0],
        a[..., 1:3],
        a[:, None, ::2],
        a[:, -1, ::-1],
        a + b,
        1 - a,
        a / 2,
        a**2.0,
        -a,
        abs(a),
        a > b,
        a @ ops.transpose(b, (0, 2, 1)),
        ops.mean(a, axis=1, keepdims=True),
        ops.reshape(a, (-1, 24)),
        ops.expand_dims(a, 1),
        ops.squeeze(a[:, 0:1], 1),
        ops.where(a > 0, a, b),
        ops.where(a > 0, a, 0.0),
        ops.stack([a, b], axis=1),
        *ops.split(a, 3, axis=-1),
        ops.softmax(a, axis=1),
        ops.relu(a),
        ops.einsum("abc,abd->acd", a, b),
        ops.cast(a * 4, "int32"),
        ops.max(a, axis=-1),
        ops.clip(a, -0.2, 0.3),
        ops.pad(a, ((0, 0), (1, 1), (0, 2))),
        ops.take(a, [0, -1], axis=1),
        ops.maximum(a, 0.5),
        ops.tile(a, (1, 2, 1)),
        ops.repeat(a, 2, axis=1),
        ops.argmax(a, axis=-1),
        ops.one_hot(ops.argmax(a, axis=-1), 6),
        ops.norm(a, axis=-1),
        ops.gelu(a),
        ops.normalize(a),
        ops.logical_and(a > 0, b > 0),
        ops.sum(a, axis=(1, 2)),
        ops.flip(a, axis=1),
        ops.cumsum(a, axis=1),
        ops.matmul(a, ops.swapaxes(b, 1, 2)),
        ops.rsqrt(ops.square(a) + 1),
        ops.std(a, axis=1),
        ops.logsumexp(a, axis=-1),
        ops.log1p(ops.exp(a)),
        ops.concatenate([a, b], axis=-1),
        ops.power(a, 2),
        ops.leaky_relu(a),
        ops.cast(a, "int32") + 1,
        ops.sign(a) * ops.floor(a * 3),
    ]
    against_keras(keras.Model([a, b], out), data(3, 4, 6), data(3, 4, 6, seed=2), save=(".keras", ".h5"))


def keras2_models() -> dict[str, tuple[Any, tuple[np.ndarray, ...]]]:
    a = tf_keras.Input((None, 4))
    m = K.Masking(-1.0)(a)
    x = K.Bidirectional(K.LSTM(3, return_sequences=True, recurrent_activation="hard_sigmoid"))(m)
    x = K.TimeDistributed(K.Dense(4, activation="hard_sigmoid"))(x)
    y, h = K.GRU(5, return_state=True, reset_after=False)(x)
    recurrent = tf_keras.Model(a, [K.Dense(2)(y), h, K.LeakyReLU(0.25)(x)])
    inner = tf_keras.Sequential(
        [K.Dense(4, activation="relu", input_shape=(4,)), K.BatchNormalization(), K.Dropout(0.3)]
    )
    i, j = tf_keras.Input((4,)), tf_keras.Input((4,))
    functional = tf_keras.Model([i, j], [K.Add()([inner(i), inner(j)]), K.Concatenate(axis=1)([i, inner(inner(j))])])
    image = tf_keras.Sequential(
        [
            K.Conv2D(4, 3, padding="same", activation="relu", input_shape=(8, 8, 3)),
            K.BatchNormalization(),
            K.MaxPooling2D(),
            K.SeparableConv2D(5, 3),
            K.DepthwiseConv2D(2),
            K.ELU(),
            K.PReLU(shared_axes=[1, 2]),
            K.GlobalAveragePooling2D(),
            K.Dense(3, activation="softmax"),
        ]
    )
    sequence = data(3, 5, 4)
    sequence[0, -2:] = -1
    q, v = tf_keras.Input((4, 6)), tf_keras.Input((5, 6))
    attention = tf_keras.Model(
        [q, v], [K.MultiHeadAttention(2, 3)(q, v), K.Attention()([q, v]), K.AdditiveAttention()([q, v])]
    )
    t = tf_keras.Input((6,))
    raw = tf_keras.Model(t, [tf_keras.activations.relu(t * 2.0 + 1.0), t[:, 1:3], tf_keras.backend.abs(t)])
    return {
        "recurrent": (recurrent, (sequence,)),
        "functional": (functional, (data(2, 4), data(2, 4, seed=3))),
        "image": (image, (data(2, 8, 8, 3),)),
        "attention": (attention, (data(2, 4, 6), data(2, 5, 6, seed=3))),
        "raw": (raw, (data(2, 6),)),
    }


@pytest.mark.parametrize("name", ["recurrent", "functional", "image", "attention", "raw"])
def test_keras_2_dialects(against_keras: Any, name: str) -> None:
    model, arrays = keras2_models()[name]
    against_keras(model, *arrays, save=(".h5", ".keras") if name != "raw" else (".h5",))


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_locally_connected(against_keras: Any, implementation: int) -> None:
    shared = {"implementation": implementation, "activation": "tanh"}
    padding = "same" if implementation > 1 else "valid"
    inp = tf_keras.Input((6, 7, 3))
    line = tf_keras.Input((8, 3))
    out = [
        K.LocallyConnected2D(4, (3, 2), strides=(2, 1), **shared)(inp),
        K.LocallyConnected2D(2, (3, 2), strides=(2, 1), data_format="channels_first", **shared)(inp),
        K.LocallyConnected2D(2, 3, padding=padding, **shared)(inp),
        K.LocallyConnected1D(4, 3, strides=2, **shared)(line),
    ]
    against_keras(tf_keras.Model([inp, line], out), data(2, 6, 7, 3), data(2, 8, 3), save=(".h5",))


def test_hard_sigmoid_follows_the_version(scratch: Path) -> None:
    x = np.linspace(-4, 4, 33, dtype=np.float32).reshape(-1, 1)
    got = {}
    for package in (keras, tf_keras):
        model = package.Sequential([package.Input((1,)), package.layers.Activation("hard_sigmoid")])
        graph = import_keras(model)
        got[package.__name__] = next(iter(graph.run({graph.inputs[0].name: x}).values()))
    np.testing.assert_allclose(got["tf_keras"], np.clip(0.2 * x + 0.5, 0, 1), atol=1e-6)
    np.testing.assert_allclose(got["keras"], np.clip(x / 6 + 0.5, 0, 1), atol=1e-6)


def edit_config(path: Path, change: Any) -> None:
    """Rewrite the model_config attribute of an .h5 file, split the way old files have it."""
    with h5py.File(path, "r+") as f:
        config = change(json.loads(f.attrs["model_config"]))
        f.attrs["model_config"] = json.dumps(config).encode()


def test_sequential_as_list_with_batch_input_shape(scratch: Path) -> None:
    model = tf_keras.Sequential([K.Dense(4, activation="tanh", input_shape=(3,)), K.Dense(2)])
    path = scratch / "list.h5"
    model.save(path)

    def old(config: Any) -> Any:
        layers = [e for e in config["config"]["layers"] if e["class_name"] != "InputLayer"]
        layers[0]["config"]["batch_input_shape"] = [None, 3]
        return {"class_name": "Sequential", "config": layers}

    edit_config(path, old)
    graph = import_keras(path)
    x = data(5, 3)
    np.testing.assert_allclose(
        graph.run({graph.inputs[0].name: x})[graph.output_names[0]], np.asarray(model(x)), rtol=1e-4, atol=1e-5
    )


def test_chunked_attributes(scratch: Path) -> None:
    model = tf_keras.Sequential([K.Dense(4, input_shape=(3,)), K.Dense(2)])
    path = scratch / "chunks.h5"
    model.save(path)
    with h5py.File(path, "r+") as f:
        group = f["model_weights"]
        names = list(group.attrs["layer_names"])
        del group.attrs["layer_names"]
        for i, name in enumerate(names):
            group.attrs[f"layer_names{i}"] = np.array([name], dtype="S32")
    graph = import_keras(path)
    x = data(5, 3)
    np.testing.assert_allclose(
        graph.run({graph.inputs[0].name: x})[graph.output_names[0]], np.asarray(model(x)), rtol=1e-4, atol=1e-5
    )


def test_json_with_weights(scratch: Path) -> None:
    for package, weights in ((keras, "m.weights.h5"), (tf_keras, "old.h5")):
        model = package.Sequential([package.Input((3,)), package.layers.Dense(2, activation="relu")])
        (scratch / "m.json").write_text(model.to_json())
        model.save_weights(scratch / weights)
        graph = import_keras(scratch / "m.json", weights=scratch / weights)
        x = data(4, 3)
        got = graph.run({graph.inputs[0].name: x})[graph.output_names[0]]
        np.testing.assert_allclose(got, np.asarray(model(x)), rtol=1e-4, atol=1e-5)


def test_symbols() -> None:
    one = keras.Input((None, 4), name="one")
    assert [str(d) for d in import_keras(keras.Model(one, L.ReLU()(one))).inputs[0].shape] == ["N", "T", "4"]
    two = keras.Input((None, None, 3), name="two")
    graph = import_keras(keras.Model(two, L.ReLU()(two)))
    assert [str(d) for d in graph.inputs[0].shape] == ["N", "two_1", "two_2", "3"]
    fixed = import_keras(keras.Model(two, L.ReLU()(two)), shapes={"two": (1, "H", 32, 3)})
    assert [str(d) for d in fixed.inputs[0].shape] == ["1", "H", "32", "3"]


def test_selected_outputs_and_reordered_inputs() -> None:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    hidden = L.Dense(4, name="hidden")(a)
    model = keras.Model([a, b], L.Concatenate(name="all")([hidden, b]))
    graph = import_keras(model, inputs=["b", "a"], outputs=["hidden"])
    assert [v.name for v in graph.inputs] == ["b", "a"]
    assert graph.output_names == ["hidden"]
    np.testing.assert_allclose(
        graph.run({"a": data(2, 3), "b": data(2, 2)})["hidden"],
        np.asarray(model.get_layer("hidden")(data(2, 3))),
        atol=1e-5,
    )


def test_recurrence_is_one_scan_and_nodes_know_their_layer() -> None:
    inp = keras.Input((None, 4))
    sub = keras.Sequential([keras.Input((None, 4)), L.GRU(3, name="memory")], name="sub")
    graph = import_keras(keras.Model(inp, sub(inp)))
    scans = [n for n in graph.nodes if n.op.name == "scan"]
    assert len(scans) == 1
    assert scans[0].origin.layer == "sub/memory"
    assert all(n.origin.layer == "sub/memory" for n in scans[0].regions[0].nodes if n.op.name == "matmul")


def test_weights_are_views_of_the_file(scratch: Path) -> None:
    path = scratch / "view.keras"
    keras.Sequential([keras.Input((64,)), L.Dense(64)]).save(path)
    graph = import_keras(path)
    kernel = next(v.const.array for n in graph.nodes for v in n.results if v.const is not None and v.type.rank == 2)
    assert not kernel.flags.owndata
    assert not kernel.flags.writeable


def test_an_archive_of_keras_3_holds_what_the_reader_expects(scratch: Path) -> None:
    path = scratch / "plain.keras"
    keras.Sequential([keras.Input((3,)), L.Dense(2)]).save(path)
    with zipfile.ZipFile(path) as z:
        assert {"config.json", "metadata.json", "model.weights.h5"} <= set(z.namelist())


def test_the_frontend_imports_no_framework() -> None:
    sources = [Path(frontend.__file__).parent, Path(frontend.__file__).parent.parent / "formats"]
    for folder in sources:
        for file in folder.rglob("*.py"):
            lines = [line.strip() for line in file.read_text().splitlines()]
            heads = [line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))]
            assert not {"keras", "tf_keras", "tensorflow", "h5py", "pickle", "marshal", "importlib"} & set(heads), file
    assert "fusewright.frontends.keras" in sys.modules
