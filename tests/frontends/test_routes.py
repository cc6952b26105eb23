"""One Keras model by three routes (its own config, its call traced, its SavedModel), against eager Keras."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import fusewright as fw

Model = Any


def sequence(*parts: Any) -> Model:
    return keras.Sequential([keras.Input(parts[0]), *parts[1:]])


def attention() -> Model:
    x = keras.Input((None, 16))
    y = L.LayerNormalization()(x + L.MultiHeadAttention(2, 8)(x, x))
    return keras.Model(x, L.GlobalAveragePooling1D()(y + L.Dense(16, activation="gelu")(y)))


def masked() -> Model:
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, L.Dense(3)(L.Bidirectional(L.LSTM(5))(L.Embedding(20, 8, mask_zero=True)(ids))))


def two_of_each() -> Model:
    a, b = keras.Input((8,), name="a"), keras.Input((4,), name="b")
    joined = L.Dense(3)(L.Concatenate()([a, b]))
    return keras.Model({"a": a, "b": b}, {"s": joined, "p": L.Dense(2, activation="softmax")(a)})


def counted() -> Model:
    return keras.Sequential([keras.Input((4,), dtype="int32"), L.CategoryEncoding(8, output_mode="multi_hot")])


def normalised() -> Model:
    layer = L.Normalization(axis=-1)
    layer.adapt(np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32))
    return sequence((3,), layer, L.Discretization(bin_boundaries=[-1.0, 0.0, 0.5]))


CASES: dict[str, tuple[Callable[[], Model], list[tuple[int, ...]]]] = {
    "cnn": (
        lambda: sequence(
            (16, 16, 3), L.Conv2D(8, 3, padding="same"), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D(),
            L.SeparableConv2D(6, 3), L.GlobalAveragePooling2D(), L.Dense(4, activation="softmax"),
        ),
        [(2, 16, 16, 3)],
    ),
    "image of any size": (
        lambda: sequence(
            (None, None, 3), L.Conv2D(8, 3, strides=2, padding="same"), L.DepthwiseConv2D(3, padding="same"),
            L.Conv2D(4, 3, dilation_rate=2, padding="same"), L.GlobalMaxPooling2D(),
        ),
        [(2, 13, 11, 3)],
    ),
    "transposed": (
        lambda: sequence(
            (7, 6, 3), L.Conv2DTranspose(4, 3, strides=2, padding="same"), L.UpSampling2D(2, interpolation="bilinear")
        ),
        [(2, 7, 6, 3)],
    ),
    "causal": (
        lambda: sequence((None, 4), L.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="swish")),
        [(2, 9, 4)],
    ),
    "recurrent": (lambda: sequence((None, 4), L.LSTM(6, return_sequences=True), L.GRU(5)), [(3, 7, 4)]),
    "masked": (masked, [(3, 7)]),
    "stacked cells": (
        lambda: sequence((None, 4), L.RNN([L.LSTMCell(5), L.GRUCell(3)], return_sequences=True)), [(2, 6, 4)]
    ),
    "convolutional lstm": (lambda: sequence((4, 6, 6, 2), L.ConvLSTM2D(3, 3, padding="same")), [(2, 4, 6, 6, 2)]),
    "attention": (attention, [(2, 6, 16)]),
    "two of each": (two_of_each, [(3, 8), (3, 4)]),
    "norms": (
        lambda: sequence(
            (6, 6, 4), L.GroupNormalization(2), L.UnitNormalization(), L.LayerNormalization(axis=[1, 2])
        ),
        [(2, 6, 6, 4)],
    ),
    "preprocessing": (
        lambda: sequence((12, 12, 3), L.Rescaling(1 / 127.5, offset=-1), L.Resizing(8, 9), L.CenterCrop(6, 6)),
        [(2, 12, 12, 3)],
    ),
    "normalised": (normalised, [(4, 3)]),
    "counted": (counted, [(3, 4)]),
    "activations": (
        lambda: sequence(
            (9,), L.Dense(8, activation="selu"), L.Dense(8, activation="hard_sigmoid"), L.Dense(8, activation="mish"),
            L.LeakyReLU(), L.PReLU(), L.ELU(), L.Softmax(),
        ),
        [(4, 9)],
    ),
}  # fmt: skip


def randomise(model: Model, rng: np.random.Generator) -> None:
    for v in model.weights:
        if v.dtype.startswith("float") and not v.path.startswith("normalization"):
            low = 0.3 if "variance" in v.path else -0.6
            v.assign(rng.uniform(low, 0.9, v.shape).astype(np.float32))


@pytest.mark.parametrize("name", CASES)
def test_routes_agree(name: str, tmp_path: Path) -> None:
    build, shapes = CASES[name]
    rng = np.random.default_rng(1)
    model = build()
    randomise(model, rng)
    whole = [t.dtype.startswith("int") for t in model.inputs]
    arrays = [
        rng.integers(0, 6, s).astype(np.int32) if w else rng.standard_normal(s).astype(np.float32)
        for s, w in zip(shapes, whole, strict=True)
    ]
    given: Any = dict(zip("ab", arrays, strict=False)) if len(arrays) > 1 else arrays[0]
    want = [np.asarray(t) for t in tf.nest.flatten(model(given, training=False))]
    model.export(str(tmp_path / "saved"), verbose=False)
    for source, options in ((model, {}), (model, {"signature": "call"}), (tmp_path / "saved", {})):
        graph = fw.import_model(source, **options)
        assert all(not isinstance(v.shape[0], int) for v in graph.inputs)
        got = graph.run(dict(zip([v.name for v in graph.inputs], arrays, strict=True)))
        # Keras keeps the model's own order of outputs, a signature sorts them: told apart by shape here.
        left = list(got.values())
        for expected in want:
            found = next(g for g in left if g.shape == expected.shape)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(expected).max())))
