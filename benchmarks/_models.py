"""The networks that the benchmarks compare on: made in Keras with random weights, and written for each contestant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx

from _keras_onnx import keras_to_onnx, lstm_to_onnx

L = keras.layers


def encoder(layers: int = 12, width: int = 768, heads: int = 12, length: int = 128) -> keras.Model:
    """A BERT-base-like encoder: post-norm, exact GELU (Keras' default)."""
    x = keras.Input((length, width), name="x")
    y = x
    for _ in range(layers):
        y = L.LayerNormalization(epsilon=1e-12)(y + L.MultiHeadAttention(heads, width // heads)(y, y))
        h = L.Dense(4 * width, activation="gelu")(y)
        y = L.LayerNormalization(epsilon=1e-12)(y + L.Dense(width)(h))
    return keras.Model(x, y)


def lstm(units: int = 128, steps: int = 64, features: int = 128) -> keras.Model:
    x = keras.Input((steps, features), name="x")
    return keras.Model(x, L.Dense(10)(L.LSTM(units)(x)))


@dataclass(frozen=True)
class Network:
    """``make`` the Keras model, ``to_onnx`` it for a batch, and ``turn`` Keras' input into the ONNX one's layout."""

    make: Callable[[], Any]
    to_onnx: Callable[[Any, int], onnx.ModelProto]
    turn: tuple[int, ...] | None = None


def lived_in(model: Any, inputs: Any) -> Any:
    """``model`` with random batch-norm statistics, and a head whose logits differ by a few units on ``inputs``: equal
    probabilities would hide every error."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            # A variable's name says which of gamma, beta, mean and variance it is; scale and center may be off.
            for w in layer.weights:
                scale = w.name in ("gamma", "moving_variance")
                w.assign(rng.uniform(0.7, 1.3, w.shape) if scale else rng.normal(0, 0.1, w.shape))
    head = model.layers[-1]
    if isinstance(head, L.Dense) and head.activation is keras.activations.softmax:
        y = np.asarray(model(inputs, training=False), np.float64)
        head.kernel.assign(head.kernel * (3 / np.log(y).std()))
    return model


def _made(name: str) -> Any:
    keras.utils.set_random_seed(1)
    model = getattr(keras.applications, name)(weights=None)
    return lived_in(model, sample(model, 1))


def _application(name: str) -> Network:
    return Network(lambda: _made(name), keras_to_onnx, (0, 3, 1, 2))


NETWORKS = {
    **{name: _application(name) for name in ("ResNet50", "MobileNetV2", "EfficientNetB0", "InceptionV3")},
    "encoder": Network(encoder, keras_to_onnx),
    "lstm": Network(lstm, lstm_to_onnx, (1, 0, 2)),
}


def sample(model: Any, batch: int) -> np.ndarray:
    """Random input in Keras' layout."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *model.input_shape[1:])).astype(np.float32)
