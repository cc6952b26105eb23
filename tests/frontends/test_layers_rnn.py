"""Recurrent layers, wrappers, masks and attention against eager Keras over drawn configurations."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusewright.frontends.keras import import_keras

L = keras.layers
quick = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def data(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def masked(n: int, t: int, features: int) -> np.ndarray:
    """Some steps all -1: leading, middle and trailing ones, and one sample without any live step."""
    x = data(n, t, features)
    x[0, -2:] = -1
    x[1, :2] = -1
    x[1, 3] = -1
    x[2] = -1
    return x


@st.composite
def recurrent(draw: Any, kinds: tuple[str, ...] = ("SimpleRNN", "LSTM", "GRU"), state: bool = True) -> Any:
    kind = draw(st.sampled_from(kinds))
    options = {
        "return_sequences": draw(st.booleans()),
        "go_backwards": draw(st.booleans()),
        "use_bias": draw(st.booleans()),
        "return_state": state and draw(st.booleans()),
        "activation": draw(st.sampled_from(["tanh", "relu"])),
    }
    if kind != "SimpleRNN":
        options["recurrent_activation"] = draw(st.sampled_from(["sigmoid", "hard_sigmoid"]))
    if kind == "GRU":
        options["reset_after"] = draw(st.booleans())
    return getattr(L, kind)(3, **options)


@given(layer=recurrent(), mask=st.booleans(), zero=st.booleans(), steps=st.integers(4, 6))
@settings(quick, max_examples=50)
def test_recurrent(against_keras: Any, layer: Any, mask: bool, zero: bool, steps: int) -> None:
    layer.zero_output_for_mask = zero
    inp = keras.Input((None, 4))
    x = L.Masking(-1.0)(inp) if mask else inp
    against_keras(keras.Model(inp, layer(x)), masked(3, steps, 4), save=(".keras",) if layer.go_backwards else ())


@given(
    layer=recurrent(state=False),
    mode=st.sampled_from(["concat", "sum", "mul", "ave", None]),
    mask=st.booleans(),
    state=st.booleans(),
)
@settings(quick, max_examples=30)
def test_bidirectional(against_keras: Any, layer: Any, mode: str | None, mask: bool, state: bool) -> None:
    config = {**layer.get_config(), "return_state": state, "go_backwards": False}
    wrapped = L.Bidirectional(type(layer).from_config(config), merge_mode=mode)
    inp = keras.Input((None, 4))
    x = L.Masking(-1.0)(inp) if mask else inp
    against_keras(keras.Model(inp, wrapped(x)), masked(3, 5, 4), save=(".keras", ".h5") if mask else ())


@given(sequences=st.booleans(), state=st.booleans(), mask=st.booleans())
@settings(quick, max_examples=8)
def test_stacked_cells(against_keras: Any, sequences: bool, state: bool, mask: bool) -> None:
    cells = [L.LSTMCell(3), L.GRUCell(2), L.SimpleRNNCell(4), L.GRUCell(2, reset_after=False)]
    inp = keras.Input((None, 4))
    x = L.Masking(-1.0)(inp) if mask else inp
    y = L.RNN(cells, return_sequences=sequences)(x)
    z = L.RNN(L.LSTMCell(3), return_sequences=sequences, return_state=state)(x)
    against_keras(keras.Model(inp, [y, z]), masked(3, 5, 4), save=(".keras", ".h5"))


def test_initial_state_between_layers(against_keras: Any) -> None:
    a, b = keras.Input((None, 4)), keras.Input((None, 2))
    y, h, c = L.LSTM(3, return_state=True)(a)
    z = L.LSTM(3, return_sequences=True)(b, initial_state=[h, c])
    against_keras(keras.Model([a, b], [z, y]), data(2, 5, 4), data(2, 3, 2), save=(".keras", ".h5"))


@given(
    rank=st.integers(1, 2),
    padding=st.sampled_from(["valid", "same"]),
    sequences=st.booleans(),
    strides=st.integers(1, 2),
)
@settings(quick, max_examples=10)
def test_conv_lstm(against_keras: Any, rank: int, padding: str, sequences: bool, strides: int) -> None:
    layer = getattr(L, f"ConvLSTM{rank}D")(3, 3, strides=strides, padding=padding, return_sequences=sequences)
    shape = (4, 6, 5)[: rank + 1]
    inp = keras.Input((*shape, 2))
    against_keras(keras.Model(inp, layer(inp)), data(2, *shape, 2), save=(".keras",), atol=1e-4)


def test_embedding_masks_flow(against_keras: Any) -> None:
    inp = keras.Input((None,), dtype="int32")
    e = L.Embedding(12, 6, mask_zero=True)(inp)
    d = L.Dropout(0.5)(L.Dense(5, activation="tanh")(e))
    pooled = L.GlobalAveragePooling1D()(d)
    seq = L.Bidirectional(L.GRU(3, return_sequences=True))(e)
    joined = L.Concatenate()([seq, L.LayerNormalization()(d)])
    out = [pooled, L.LSTM(4)(joined), L.TimeDistributed(L.Dense(2))(seq), L.LSTM(2)(L.Add()([e, e]))]
    tokens = np.array([[3, 4, 0, 0, 0], [1, 2, 3, 11, 5], [7, 0, 2, 0, 1]], np.int32)
    against_keras(keras.Model(inp, out), tokens, save=(".keras", ".h5"))


def test_time_distributed(against_keras: Any) -> None:
    inp = keras.Input((3, 6, 6, 2))
    sub = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(3, 3), L.BatchNormalization(), L.Flatten()])
    out = [
        L.TimeDistributed(L.Conv2D(4, 3, padding="same"))(inp),
        L.TimeDistributed(sub)(inp),
        L.TimeDistributed(L.TimeDistributed(L.Dense(3)))(inp),
    ]
    against_keras(keras.Model(inp, out), data(2, 3, 6, 6, 2), save=(".keras", ".h5"))


@given(
    heads=st.integers(1, 3),
    value_dim=st.sampled_from([None, 5]),
    out=st.sampled_from([None, 7]),
    bias=st.booleans(),
    causal=st.booleans(),
    scores=st.booleans(),
    mask=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
)
@settings(quick, max_examples=30)
def test_multi_head_attention(
    against_keras: Any,
    heads: int,
    value_dim: Any,
    out: Any,
    bias: bool,
    causal: bool,
    scores: bool,
    mask: bool,
    dropout: float,
) -> None:
    layer = L.MultiHeadAttention(heads, 4, value_dim=value_dim, output_shape=out, use_bias=bias, dropout=dropout)
    q, v = keras.Input((None, 6)), keras.Input((5, 6))
    query, value = (L.Masking(-1.0)(q), L.Masking(-1.0)(v)) if mask else (q, v)
    y = layer(query, value, use_causal_mask=causal, return_attention_scores=scores)
    a, b = data(3, 4, 6), data(3, 5, 6, seed=4)
    a[0, -1], b[1, -2:] = -1, -1
    against_keras(keras.Model([q, v], y), a, b, save=(".keras", ".h5") if bias else (), atol=5e-5)


def test_attention_variants(against_keras: Any) -> None:
    q, v, k = keras.Input((4, 6)), keras.Input((5, 6)), keras.Input((5, 6))
    m = keras.Input((4, 5), dtype="bool")
    out = [
        L.Attention()([q, v]),
        L.Attention(use_scale=True)([q, v, k]),
        L.Attention(score_mode="concat")([q, v]),
        L.AdditiveAttention()([q, v]),
        L.AdditiveAttention(use_scale=False)([q, v, k]),
        L.Attention()([q, v], use_causal_mask=True),
        L.Attention()([L.Masking(-1.0)(q), L.Masking(-1.0)(v)]),
        L.GroupQueryAttention(3, 4, 2)(q, v),
        L.MultiHeadAttention(2, 3)(q, v, k, attention_mask=m),
        L.MultiHeadAttention(2, 3, sliding_window=2)(q, q),
    ]
    a, b = data(2, 4, 6), data(2, 5, 6, seed=2)
    a[0, -1], b[1, -2:] = -1, -1
    keep = np.random.default_rng(0).random((2, 4, 5)) < 0.7
    keep[..., 0] = True
    against_keras(keras.Model([q, v, k, m], out), a, b, data(2, 5, 6, seed=3), keep, save=(".keras",), atol=5e-5)


@pytest.mark.parametrize("package", [keras, tf_keras], ids=["keras3", "keras2"])
@pytest.mark.parametrize("kind", ["Add", "Multiply", "Maximum", "Minimum", "Average", "Subtract", "Concatenate"])
def test_merged_masks(against_keras: Any, package: Any, kind: str) -> None:
    """Keras 2 joins masks with and, Keras 3 with or, and lets them decide some values. The time axes are one symbol."""
    layers = package.layers
    a, b, plain = package.Input((None, 4)), package.Input((None, 4)), package.Input((None, 4))
    left, right = layers.Masking(-1.0)(a), layers.Masking(-1.0)(b)
    pairs = (
        [[left, right]]
        if kind == "Concatenate" and package is tf_keras
        else [[left, right], [left, plain], [plain, left]]
    )
    merged = [getattr(layers, kind)()(p) for p in pairs]
    model = package.Model([a, b, plain], [*merged, *(layers.GRU(2)(m) for m in merged)])
    x, y = masked(3, 5, 4), masked(3, 5, 4)[::-1].copy()
    against_keras(model, x, y, data(3, 5, 4, seed=9), save=(".keras", ".h5"))
    assert len(import_keras(model).symbols) == (2 if len(pairs) > 1 else 3)  # the batch, the time and an unused input's


@pytest.mark.parametrize("package", [keras, tf_keras], ids=["keras3", "keras2"])
def test_masks_beside_initial_states(against_keras: Any, package: Any) -> None:
    """Keras 3 does not hand an implicit mask to a recurrence that gets initial states; Keras 2 does."""
    layers = package.layers
    a, h, c = package.Input((None, 4)), package.Input((3,)), package.Input((3,))
    x = layers.Masking(-1.0)(a)
    y = layers.LSTM(3, return_sequences=True)(x, initial_state=[h, c])
    z = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x, initial_state=[h, c])
    model = package.Model([a, h, c], [y, z, layers.GRU(2)(y)])
    against_keras(model, masked(3, 5, 4), data(3, 3), data(3, 3, seed=2), save=(".keras", ".h5"))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_cudnn_layers(kind: str, wrapped: bool, tmp_path: Path) -> None:
    """They run on GPUs alone; the reference is the plain layer that Keras loads their weights into."""
    K = tf_keras.layers
    module = importlib.import_module(f"tf_keras.src.layers.rnn.cudnn_{kind.lower()}")
    around = (lambda layer: K.Bidirectional(layer)) if wrapped else (lambda layer: layer)
    only_gpu = getattr(module, f"CuDNN{kind}")(3, return_sequences=True)
    inp = tf_keras.Input((5, 4))
    model = tf_keras.Model(inp, around(only_gpu)(inp))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-1, 1, w.shape).astype(np.float32) for w in model.get_weights()])
    model.save(tmp_path / "m.h5")
    plain = tf_keras.Model(inp, around(getattr(K, kind)(3, return_sequences=True))(inp))
    plain.load_weights(tmp_path / "m.h5")
    x = data(2, 5, 4)
    graph = import_keras(tmp_path / "m.h5")
    got = next(iter(graph.run({graph.inputs[0].name: x}).values()))
    np.testing.assert_allclose(got, np.asarray(plain(x)), rtol=1e-5, atol=1e-6)
