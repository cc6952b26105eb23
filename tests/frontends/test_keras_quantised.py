"""Quantised and adapted layers of Keras 3, the training configuration and the reading of large files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

import fusewright as fw
from fusewright.core.errors import ImportRefused
from fusewright.frontends.keras import import_keras

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 12)).astype(np.float32)


def dense() -> tuple[Any, np.ndarray]:
    x = keras.Input((12,))
    return keras.Model(x, keras.layers.Dense(5, use_bias=False)(keras.layers.Dense(7, activation="relu")(x))), X


def long_dense() -> tuple[Any, np.ndarray]:
    """More products than float32 sums exactly."""
    x = keras.Input((1500,))
    return keras.Model(x, keras.layers.Dense(3)(x)), RNG.standard_normal((2, 1500)).astype(np.float32)


def einsum() -> tuple[Any, np.ndarray]:
    x = keras.Input((4, 12))
    y = keras.layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 5), bias_axes="de", activation="tanh")(x)
    return keras.Model(x, y), RNG.standard_normal((3, 4, 12)).astype(np.float32)


def embedding() -> tuple[Any, np.ndarray]:
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, keras.layers.Embedding(9, 7)(x)), RNG.integers(0, 9, (3, 6)).astype(np.int32)


INT4 = {"packed": Int4QuantizationConfig(block_size=-1), "grouped": Int4QuantizationConfig(block_size=4)}
QUANTISED: dict[str, tuple[Any, str, Any]] = {
    "dense int8": (dense, "int8", None),
    "dense int8 weights only": (dense, "int8", Int8QuantizationConfig(activation_quantizer=None)),
    "long dense int8": (long_dense, "int8", None),
    "dense int4": (dense, "int4", None),
    **{f"dense int4 {n}": (dense, "int4", c) for n, c in INT4.items()},
    "einsum int8": (einsum, "int8", None),
    "embedding int8": (embedding, "int8", None),
    "embedding int4": (embedding, "int4", None),
    **{f"embedding int4 {n}": (embedding, "int4", c) for n, c in INT4.items()},
}


def check(model: Any, x: np.ndarray, path: Path) -> None:
    want = np.asarray(model(x))
    model.save(path)
    for source in (model, path):
        graph = import_keras(source)
        got = next(iter(graph.run({graph.inputs[0].name: x}).values()))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(np.abs(want).max()))


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_weights(name: str, tmp_path: Path) -> None:
    make, mode, config = QUANTISED[name]
    keras.utils.set_random_seed(0)
    model, x = make()
    model.quantize(mode, config=config) if config is not None else model.quantize(mode)
    check(model, x, tmp_path / "m.keras")


def test_quantised_weights_compiled(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model, x = dense()
    model.quantize("int8")
    model.save(tmp_path / "m.keras")
    got = fw.compile(tmp_path / "m.keras", threads=1)(x)
    np.testing.assert_allclose(got, np.asarray(model(x)), rtol=1e-4, atol=1e-5)


def test_other_modes_are_refused_by_name(tmp_path: Path) -> None:
    model, _ = dense()
    model.quantize("float8")
    model.save(tmp_path / "m.keras")
    with pytest.raises(ImportRefused, match="float8"):
        import_keras(tmp_path / "m.keras")


@pytest.mark.parametrize("kind", ["dense", "embedding", "conv", "einsum"])
def test_adapters_are_merged(kind: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    if kind == "conv":
        given = keras.Input((6, 6, 2))
        model = keras.Model(given, keras.layers.Conv2D(3, 3)(given))
        x = RNG.standard_normal((2, 6, 6, 2)).astype(np.float32)
    else:
        model, x = {"dense": dense, "embedding": embedding, "einsum": einsum}[kind]()
    model.layers[1].enable_lora(2)
    for v in model.layers[1].trainable_weights:
        v.assign(np.random.default_rng(1).standard_normal(v.shape).astype(np.float32))
    check(model, x, tmp_path / "m.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
def test_training_configuration_travels_as_data(suffix: str, tmp_path: Path) -> None:
    model, _ = dense()
    model.compile(optimizer=keras.optimizers.Adam(0.25), loss="mse", metrics=["mae"])
    if suffix:
        model.save(tmp_path / f"m{suffix}")
    graph = fw.import_model(tmp_path / f"m{suffix}" if suffix else model)
    training = graph.meta["training"]
    optimiser = training["optimizer_config"] if suffix == ".h5" else training["optimizer"]
    assert optimiser["class_name"] == "Adam"
    assert optimiser["config"]["learning_rate"] == 0.25
    assert training["loss"] == "mse"
    bare = graph.clone()
    assert bare.meta["training"] == training
    bare.meta.clear()
    assert bare.fingerprint == graph.fingerprint


def test_a_model_that_was_not_compiled_has_no_training_configuration(tmp_path: Path) -> None:
    model, _ = dense()
    model.save(tmp_path / "m.keras")
    assert "training" not in fw.import_model(tmp_path / "m.keras").meta


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_weights_are_read_once_and_not_copied(suffix: str, tmp_path: Path) -> None:
    x = keras.Input((2048,))
    model = keras.Model(x, keras.layers.Dense(2048)(x))  # 16 MiB
    path = tmp_path / f"m{suffix}"
    model.save(path)
    fw.import_model(path)  # modules loaded
    tracemalloc.start()
    try:
        graph = fw.import_model(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert graph.nodes
    assert peak < 1.1 * path.stat().st_size + (4 << 20)


def test_indices_outside_an_embedding_take_the_nearest_row() -> None:
    """Keras raises on a CPU and gives zeros on a GPU; one answer on every machine, and no read outside the table."""
    model, _ = embedding()
    graph = import_keras(model)
    x = np.array([[-9, -1, 0, 8, 9, 1000]], np.int32)
    want = np.asarray(model.layers[1].embeddings)[[0, 0, 0, 8, 8, 8]][None]
    np.testing.assert_array_equal(next(iter(graph.run({graph.inputs[0].name: x}).values())), want)
    np.testing.assert_array_equal(fw.compile(graph, threads=1)(x), want)
