"""TensorFlow functions inside Keras 2 functional models (TFOpLambda) against tf-keras, from saved files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from fusewright.core.errors import ImportRefused
from fusewright.frontends.keras import import_keras

X = np.random.default_rng(0).uniform(0.2, 0.9, (3, 4, 6)).astype(np.float32)
UNARY = (
    "abs negative square sqrt rsqrt exp expm1 log log1p sin cos tan tanh atan asin acos sinh cosh erf sigmoid sign "
    "floor ceil round reciprocal softplus log_sigmoid is_nan is_inf is_finite reduce_sum reduce_mean reduce_max "
    "reduce_min reduce_prod reduce_std reduce_variance reduce_logsumexp argmax argmin cumsum cumprod l2_normalize"
).split()
CASES: dict[str, Callable[[Any], Any]] = {
    **{f"math.{n}": getattr(tf.math, n) for n in UNARY},
    **{
        f"nn.{n}": getattr(tf.nn, n)
        for n in "relu relu6 silu elu selu softsign gelu leaky_relu softmax log_softmax tanh softplus".split()
    },
    **{
        f"math.{n} axis": lambda x, f=n: getattr(tf.math, f)(x, axis=1, keepdims=True)
        for n in "reduce_sum reduce_mean reduce_max reduce_std reduce_logsumexp".split()
    },
    **{
        f"math.{n} two": lambda x, f=n: getattr(tf.math, f)(x, x[:, ::-1])
        for n in "add subtract multiply truediv maximum minimum pow floordiv floormod squared_difference atan2".split()
        if n != "atan2"
    },
    **{
        f"math.{n} scalar": lambda x, f=n: tf.cast(getattr(tf.math, f)(x, 0.5), tf.float32)
        for n in "greater less equal not_equal greater_equal less_equal".split()
    },
    "operators": lambda x: (2.0 - x) * x / 3.0 + 1.0,
    "logic": lambda x: tf.cast(tf.math.logical_and(x > 0.4, tf.math.logical_not(x > 0.6)), tf.float32),
    "any": lambda x: tf.cast(tf.math.reduce_any(x > 0.8, axis=-1), tf.float32),
    "softmax axis": lambda x: tf.nn.softmax(x, axis=1),
    "gelu approximate": lambda x: tf.nn.gelu(x, approximate=True),
    "leaky": lambda x: tf.nn.leaky_relu(x - 0.5, alpha=0.1),
    "argmax axis": lambda x: tf.math.argmax(x, axis=-1),
    "reshape": lambda x: tf.reshape(x, (-1, 8, 3)),
    "transpose": lambda x: tf.transpose(x, [0, 2, 1]),
    "expand squeeze": lambda x: tf.squeeze(tf.expand_dims(x, 2), axis=2),
    "tile": lambda x: tf.tile(x, [1, 2, 1]),
    "repeat": lambda x: tf.repeat(x, 2, axis=1),
    "reverse": lambda x: tf.reverse(x, axis=[1]),
    "roll": lambda x: tf.roll(x, 2, axis=1),
    "clip": lambda x: tf.clip_by_value(x, 0.3, 0.7),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 0]], constant_values=2.0),
    "pad reflect": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 0]], mode="REFLECT"),
    "one hot": lambda x: tf.one_hot(tf.math.argmax(x, axis=-1), 6),
    "top k": lambda x: tf.math.top_k(x, k=2)[0],
    "gather": lambda x: tf.gather(x, [0, 2], axis=1),
    "split": lambda x: tf.split(x, 3, axis=2)[1],
    "split sizes": lambda x: tf.split(x, [1, 5], axis=2)[1],
    "concat": lambda x: tf.concat([x, x[:, :2]], axis=1),
    "stack": lambda x: tf.stack([x, -x], axis=2),
    "unstack": lambda x: tf.unstack(x, axis=1)[1],
    "where": lambda x: tf.where(x > 0.5, x, -x),
    "matmul": lambda x: tf.matmul(x, x, transpose_b=True),
    "l2 axis": lambda x: tf.math.l2_normalize(x, axis=-1),
    "resize": lambda x: tf.image.resize(x[..., None], (7, 5)),
    "resize nearest": lambda x: tf.image.resize(x[..., None], (7, 5), method="nearest"),
    "slices": lambda x: x[:, 1:3, ::2],
    "zeros": lambda x: tf.zeros_like(x) + tf.ones_like(x),
}


@pytest.mark.parametrize("name", CASES)
def test_function(name: str, tmp_path: Path) -> None:
    given = tf_keras.Input(X.shape[1:])
    made = CASES[name](given)
    model = tf_keras.Model(given, made)
    want = np.asarray(model(X, training=False))
    model.save(tmp_path / "m.h5")
    for source in (model, tmp_path / "m.h5"):
        graph = import_keras(source)
        got = next(iter(graph.run({graph.inputs[0].name: X}).values()))
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "case",
    [
        lambda x: tf.cast(tf.math.truediv(tf.cast(x, tf.int32), 2), tf.float32),
        lambda x: tf.math.reduce_mean(tf.cast(x * 10, tf.int32)),
        lambda x: tf.math.cumsum(x, exclusive=True),
        lambda x: tf.signal.frame(x, 2, 1),
    ],
)
def test_what_would_differ_is_refused(case: Callable[[Any], Any]) -> None:
    given = tf_keras.Input(X.shape[1:])
    with pytest.raises(ImportRefused):
        import_keras(tf_keras.Model(given, case(given)))
