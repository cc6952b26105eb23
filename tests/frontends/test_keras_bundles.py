"""One bundle from the `.keras` file and one from the SavedModel serve every batch and length, as eager Keras does.

Recurrence, ConvLSTM, attention and preprocessing, masked where a layer takes masks; several layers to a model, since
it is compiling that takes time. Owns the comparison; random weights.
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
GONE = -1.0  # what a Masking layer leaves out


def named(inputs: Any, **outputs: Any) -> Any:
    return keras.Model(inputs, dict(sorted(outputs.items())))


def recurrent() -> Any:
    x = keras.Input((None, 4), name="x")
    y = L.Masking(GONE)(x)
    cells = L.StackedRNNCells([L.LSTMCell(3), L.GRUCell(2)])
    return named(
        x,
        lstm=L.LSTM(3)(y),
        gru=L.GRU(3, return_sequences=True, reset_after=False)(y),
        simple=L.SimpleRNN(3, go_backwards=True)(x),
        both=L.Bidirectional(L.LSTM(2, return_sequences=True))(y),
        stacked=L.RNN(cells)(y),
    )


def images_in_time() -> Any:
    line, plane = keras.Input((None, 5, 2), name="line"), keras.Input((None, 5, 4, 2), name="plane")
    space, kept = keras.Input((None, 4, 3, 4, 1), name="space"), keras.Input((None,), dtype="bool", name="kept")
    return named(
        [line, plane, space, kept],
        one=L.ConvLSTM1D(2, 3, padding="same")(line),
        two=L.ConvLSTM2D(2, 2, return_sequences=True)(plane, mask=kept),
        three=L.ConvLSTM3D(1, 2)(space),
    )


def attention() -> Any:
    """Every layer has its own Masking: a MultiHeadAttention of Keras 3.15 takes the masks off its inputs, so that
    whatever else takes the same tensors sees them or not by the order of execution."""
    a, b = keras.Input((None, 6), name="a"), keras.Input((None, 6), name="b")
    masked = lambda: [L.Masking(GONE)(a), L.Masking(GONE)(b)]
    return named(
        [a, b],
        heads=L.MultiHeadAttention(2, 3)(*masked()),
        causal=L.MultiHeadAttention(2, 3)(a, a, use_causal_mask=True),
        grouped=L.GroupQueryAttention(3, 4, 2)(*masked()),
        dot=L.Attention(use_scale=True)(masked()),
        additive=L.AdditiveAttention()(masked()),
    )


def preprocessing() -> Any:
    numbers, tokens = keras.Input((4,), name="numbers"), keras.Input((None,), dtype="int32", name="tokens")
    image, weights = keras.Input((None, None, 3), name="image"), keras.Input((None,), name="weights")
    adapted = L.Normalization()
    adapted.adapt(np.random.default_rng(5).normal(3, 2, (50, 4)).astype(np.float32))
    return named(
        [numbers, tokens, image, weights],
        normal=adapted(numbers),
        bins=L.Discretization(bin_boundaries=[-0.5, 0.0, 0.5])(numbers),
        hot=L.CategoryEncoding(9, output_mode="multi_hot")(tokens),
        count=L.CategoryEncoding(9, output_mode="count")(tokens, count_weights=weights),
        scaled=L.Rescaling(1 / 127.5, offset=-1)(image),
        resized=L.Resizing(3, 7)(image),
        middle=L.CenterCrop(2, 3)(image),
    )


def steps() -> Any:
    """With a fixed number of steps: Keras traces TimeDistributed wrongly where batch and time are free."""
    x, frames = keras.Input((4, 3), name="x"), keras.Input((4, 5, 5, 2), name="frames")
    return named(
        [x, frames],
        dense=L.LSTM(2)(L.TimeDistributed(L.Dense(3))(L.Masking(GONE)(x))),
        conv=L.TimeDistributed(L.Conv2D(2, 3))(frames),
    )


def exported(model: Any, path: Path) -> None:
    model.export(path, verbose=False)


def saved(model: Any, path: Path) -> None:
    tf.saved_model.save(model, str(path))


MODELS: dict[str, tuple[Callable[[], Any], Callable[[Any, Path], None]]] = {
    "recurrent": (recurrent, exported),
    "images in time": (images_in_time, saved),
    "attention": (attention, exported),
    "preprocessing": (preprocessing, saved),
    "steps": (steps, exported),
}


def feed(model: Any, n: int, t: int) -> dict[str, np.ndarray]:
    rng, out = np.random.default_rng(10 * n + t), {}
    for x in model.inputs:
        shape = [n if axis == 0 else t + axis if d is None else d for axis, d in enumerate(x.shape)]
        drawn = rng.uniform(-1, 1, shape).astype(np.float32)
        if len(shape) == 3:
            drawn[0, -1], drawn[-1, 1] = GONE, GONE
        out[x.name] = {"int32": lambda v: rng.integers(0, 9, v.shape).astype(np.int32), "bool": lambda v: v > -0.5}.get(
            str(x.dtype), lambda v: v
        )(drawn)
    return out


@pytest.mark.parametrize("name", MODELS)
def test_one_bundle_of_each_route(name: str, tmp_path: Path) -> None:
    make, save = MODELS[name]
    keras.utils.set_random_seed(0)
    model, rng = make(), np.random.default_rng(1)
    for v in model.trainable_weights:
        v.assign(rng.uniform(-0.6, 0.6, v.shape).astype(np.float32))
    model.save(tmp_path / "m.keras")
    save(model, tmp_path / "saved")
    given = [feed(model, n, t) for n, t in ((3, 6), (2, 9), (1, 2))]
    wanted = [{k: np.asarray(v) for k, v in model(g, training=False).items()} for g in given]
    for source in ("m.keras", "saved"):
        bundle = fw.compile(tmp_path / source, target="cpu-avx2", threads=1)
        for g, want in zip(given, wanted, strict=True):
            if source == "saved" and save is saved:  # it numbers the inputs
                g = {f"inputs_{i}" if i else "inputs": v for i, v in enumerate(g.values())}
            got = bundle.run(g)
            assert got.keys() == want.keys(), source
            for key, w in want.items():
                assert (got[key].shape, got[key].dtype) == (w.shape, w.dtype), (source, key)
                scale = max(float(np.abs(w).max()), 1e-3)
                np.testing.assert_allclose(got[key], w, rtol=1e-4, atol=1e-5 * scale, err_msg=f"{source} {key}")
