"""The native route (`.keras` file) and the traced one (TensorFlow) agree with each other and with eager Keras.

At several batches and lengths from one graph and from one bundle. Owns the comparison; random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fusewright as fw

L = keras.layers
Make = Callable[[], Any]


def sequence(*layers: Any, features: int = 4) -> Make:
    def make() -> Any:
        x = y = keras.Input((None, features))
        for layer in layers:
            y = type(layer).from_config(layer.get_config())(y)
        return keras.Model(x, y)

    return make


def frames(layer: Any, *shape: int) -> Make:
    def make() -> Any:
        x = keras.Input((None, *shape))
        return keras.Model(x, type(layer).from_config(layer.get_config())(x))

    return make


def attention(kind: str, **options: Any) -> Make:
    def make() -> Any:
        x, y = keras.Input((None, 6)), keras.Input((None, 6))
        if kind == "heads":
            z = L.MultiHeadAttention(2, 3)(x, y, **options)
        elif kind == "grouped":
            z = L.GroupQueryAttention(3, 4, 2)(x, y, **options)
        else:
            z = {"dot": L.Attention, "additive": L.AdditiveAttention}[kind]()([x, y], **options)
        return keras.Model([x, y], z)

    return make


def words(**options: Any) -> Make:
    def make() -> Any:
        x = keras.Input((None,), dtype="int32")
        y = L.Embedding(9, 5, mask_zero=True)(x)
        y = L.Bidirectional(L.GRU(4, return_sequences=True))(y)
        return keras.Model(x, L.LSTM(3, **options)(y))

    return make


def image(layer: Any) -> Make:
    def make() -> Any:
        x = keras.Input((8, 8, 3))
        return keras.Model(x, type(layer).from_config(layer.get_config())(x))

    return make


def adapted() -> Any:
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(5).normal(3, 2, (50, 4)).astype(np.float32))
    x = keras.Input((4,))
    return keras.Model(x, layer(x))


MODELS: dict[str, Make] = {
    "simple rnn": sequence(L.SimpleRNN(5)),
    "lstm": sequence(L.LSTM(5)),
    "lstm sequences": sequence(L.LSTM(5, return_sequences=True), L.LSTM(3)),
    "lstm backwards": sequence(L.LSTM(5, go_backwards=True, return_sequences=True)),
    "gru": sequence(L.GRU(5)),
    "gru reset before": sequence(L.GRU(5, reset_after=False, return_sequences=True)),
    "gru masked": sequence(L.Masking(-1.0), L.GRU(5, return_sequences=True)),
    "lstm masked": sequence(L.Masking(-1.0), L.LSTM(5)),
    "bidirectional": sequence(L.Bidirectional(L.LSTM(4, return_sequences=True)), L.Bidirectional(L.GRU(3))),
    "stacked cells": sequence(L.RNN([L.LSTMCell(4), L.GRUCell(3)], return_sequences=True)),
    "words": words(),
    "words sequences": words(return_sequences=True),
    "conv lstm 1d": frames(L.ConvLSTM1D(3, 3, padding="same"), 7, 2),
    "conv lstm 2d": frames(L.ConvLSTM2D(3, 3, return_sequences=True), 6, 5, 2),
    "conv lstm 3d": frames(L.ConvLSTM3D(2, 2, padding="same"), 4, 3, 4, 2),
    "attention heads": attention("heads"),
    "attention causal": attention("heads", use_causal_mask=True),
    "attention grouped": attention("grouped"),
    "attention dot": attention("dot"),
    "attention additive": attention("additive"),
    "rescaling": image(L.Rescaling(1 / 127.5, offset=-1)),
    "resizing": image(L.Resizing(5, 11)),
    "center crop": image(L.CenterCrop(4, 6)),
    "contrast": image(L.AutoContrast()),
    "random ones": image(L.RandomFlip()),
    "normalization": adapted,
}
BINDINGS = ((3, 6), (1, 1), (2, 9))


def randomised(make: Make) -> Any:
    keras.utils.set_random_seed(0)
    model, rng = make(), np.random.default_rng(1)
    for v in model.trainable_weights:
        v.assign(rng.uniform(-0.6, 0.6, v.shape).astype(np.float32))
    return model


def feeds(model: Any, n: int, t: int) -> list[np.ndarray]:
    rng, out = np.random.default_rng(n * 100 + t), []
    for i, x in enumerate(model.inputs):
        shape = [n if a == 0 else t if d is None else d for a, d in enumerate(x.shape)]
        if x.dtype == "int32":
            out.append(rng.integers(0, 9, shape).astype(np.int32))
            continue
        drawn = rng.uniform(-1, 1, shape).astype(np.float32)
        if len(shape) == 3 and t > 2 and not i:
            drawn[0, -2:] = -1.0  # what a Masking layer leaves out
        out.append(drawn)
    return out


def eager(model: Any, given: list[np.ndarray]) -> np.ndarray:
    return np.asarray(model([tf.constant(g) for g in given] if len(given) > 1 else given[0], training=False))


def near(got: np.ndarray, want: np.ndarray, where: str) -> None:
    assert got.shape == want.shape, where
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(float(np.abs(want).max()), 1e-3), err_msg=where)


def first(graph: Any, given: list[np.ndarray]) -> np.ndarray:
    return next(iter(graph.run({v.name: g for v, g in zip(graph.inputs, given, strict=True)}).values()))


@pytest.mark.parametrize("name", MODELS)
def test_both_routes_agree(name: str, tmp_path: Path) -> None:
    model = randomised(MODELS[name])
    model.save(tmp_path / "m.keras")
    native, traced = fw.import_model(tmp_path / "m.keras"), fw.import_model(model, signature="call")
    for n, t in BINDINGS:
        given = feeds(model, n, t)
        want = eager(model, given)
        near(first(native, given), want, f"native {n} {t}")
        near(first(traced, given), want, f"traced {n} {t}")


@pytest.mark.parametrize("name", ["lstm sequences", "words", "conv lstm 2d", "attention heads", "resizing"])
def test_saved_model_route(name: str, tmp_path: Path) -> None:
    model = randomised(MODELS[name])
    model.save(tmp_path / "m.keras")
    model.export(tmp_path / "saved", verbose=False)
    native, traced = fw.import_model(tmp_path / "m.keras"), fw.import_model(tmp_path / "saved")
    order = [x.name for x in model.inputs]
    for n, t in BINDINGS:
        given = feeds(model, n, t)
        by_name = dict(zip(order, given, strict=True))
        # A signature sorts its names: only models of one input may be fed by position.
        feed = {v.name: by_name.get(v.name, given[0]) for v in traced.inputs}
        near(next(iter(traced.run(feed).values())), first(native, given), f"{n} {t}")


def test_one_bundle_serves_every_batch_and_length(tmp_path: Path) -> None:
    """Of words; numbers are in test_keras_bundles.py."""
    model = randomised(MODELS["words"])
    model.save(tmp_path / "m.keras")
    fw.compile(tmp_path / "m.keras", target="cpu-avx2", threads=1).save(tmp_path / "m.fwb")
    bundle = fw.load(tmp_path / "m.fwb")
    for n, t in (*BINDINGS, (5, 17), (3, 6)):
        given = feeds(model, n, t)
        near(bundle(*given), eager(model, given), f"{n} {t}")


def test_tracing_loses_steps_of_time_distributed_with_free_extents() -> None:
    """A finding about the other route: with batch and time free, Keras 3.15 traces TimeDistributed with as many steps
    as the batch has rows. The traced graph computes that, as TensorFlow does; eager and the native route agree."""
    x = keras.Input((None, 4))
    model = keras.Model(x, L.TimeDistributed(L.Dense(2))(x))
    given = [np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)]
    want = eager(model, given)
    assert want.shape == (2, 5, 2)
    near(first(fw.import_model(model), given), want, "native")
    traced = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec([None, None, 4])])
    lost = np.asarray(traced(given[0]))
    assert lost.shape == (2, 2, 2)
    near(first(fw.import_model(model, signature="call"), given), lost, "traced")
