"""Whole models on the GPU path without a GPU: compiled here, run by a process that has NumPy alone.

The bundle's PTX is what runs; outputs by the rule for whole models, kernels one by one inside their own bounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.testing.kernels import check_kernels

from fake_driver import fake_gpu

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("FUSEWRIGHT_SHARED", HERE.parents[2] / "shared")) / "models"
# Weights of others are no part of the repository; where they are not at hand, the networks made below have to do.
TRAINED = [
    pytest.param(
        f"{folder}/{model}", f"{folder}/{ref}", rows,
        marks=pytest.mark.skipif(
            not (SHARED / folder / model).exists(),
            reason=f"no trained {model}: set FUSEWRIGHT_SHARED to the folder that holds models/{folder}",
        ),
    )
    for folder, model, ref, rows in (
        ("fer", "emotion_model.hdf5", "ref.npz", 1),
        ("sleepecg", "wrn-gru-mesa.keras", "ref_wrn-gru-mesa.npz", 2),
    )
]  # fmt: skip


def in_a_bare_process(
    bundle: Any, feeds: dict[str, np.ndarray], folder: Path
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Outputs and launched kernels of a saved bundle in a process that cannot import a compiler."""
    bundle.save(folder / "m.fwb")
    np.savez(folder / "in.npz", **feeds)
    paths = [str(HERE), str(Path(fw.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(HERE / "bare.py"), *(str(folder / n) for n in ("m.fwb", "in.npz", "out.npz"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "out.npz") as out:
        return {k[2:]: out[k] for k in out if k != "kernels"}, out["kernels"].tolist()


def near_enough(got: np.ndarray, exact: np.ndarray, independent: np.ndarray) -> None:
    """At most four times the error of an independent float32 run plus 1e-6 of the largest value, at most 1e-4 of it."""
    most = np.abs(exact).max()
    theirs, ours = np.abs(independent - exact).max(), np.abs(got - exact).max()
    assert ours <= 4 * theirs + 1e-6 * most and ours <= 1e-4 * most, (ours, theirs, most)


@pytest.mark.parametrize("model,reference,rows", TRAINED)
def test_trained_models(model: str, reference: str, rows: int, tmp_path: Path) -> None:
    bundle = fw.compile(SHARED / model, target="cuda")
    with np.load(SHARED / reference) as ref:
        x, theirs = ref["x0"][:rows], ref["y0"][:rows]
    port = bundle.signature.inputs[0].name
    got, kernels = in_a_bare_process(bundle, {port: x}, tmp_path)
    exact = fw.import_model(SHARED / model).run({port: x}, precision="f64")
    for name, want in exact.items():
        near_enough(got[name], want, theirs)
    assert len(kernels) > 20


def _residual(keras: Any) -> Any:
    """Stem, two bottlenecks with a projection, batch norms, as a small ResNet."""
    layers = keras.layers
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 7, 2, "same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(3, 2, "same")(x)
    for width, stride in ((16, 1), (24, 2)):
        short = layers.BatchNormalization()(layers.Conv2D(2 * width, 1, stride)(x))
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 1, stride)(x)))
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(y)))
        y = layers.BatchNormalization()(layers.Conv2D(2 * width, 1)(y))
        x = layers.ReLU()(layers.Add()([y, short]))
    return keras.Model(inputs, layers.Dense(10, "softmax")(layers.GlobalAveragePooling2D()(x)))


def _mobile(keras: Any) -> Any:
    """Inverted residuals with depthwise convolutions, and a convolution in wide groups."""
    layers = keras.layers
    x = inputs = keras.Input((14, 14, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(16, 3, 2, "same", use_bias=False)(x)))
    for width, stride in ((16, 1), (24, 2)):
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(48, 1, use_bias=False)(x)))
        y = layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(width, 1, use_bias=False)(y))
        x = layers.Add()([x, y]) if stride == 1 else y
    x = layers.ReLU()(layers.Conv2D(64, 3, padding="same", groups=2)(layers.Conv2D(32, 1)(x)))
    return keras.Model(inputs, layers.Dense(10, "softmax")(layers.GlobalAveragePooling2D()(x)))


def _transformer(keras: Any) -> Any:
    """One encoder block over token numbers."""
    layers = keras.layers
    inputs = keras.Input((11,), dtype="int32")
    x = layers.Embedding(50, 32)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    y = layers.Dense(32)(layers.Dense(64, "gelu")(x))
    return keras.Model(inputs, layers.LayerNormalization()(x + y))


def _lstm(keras: Any) -> Any:
    """Two LSTM layers, the first one giving every step."""
    layers = keras.layers
    inputs = keras.Input((9, 5))
    x = layers.LSTM(16, return_sequences=True)(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.LSTM(12)(x)))


NETS: dict[str, tuple[Callable[[Any], Any], Callable[[np.random.Generator], np.ndarray]]] = {
    "resnet": (_residual, lambda rng: rng.normal(size=(2, 16, 16, 3)).astype("f4")),
    "mobile": (_mobile, lambda rng: rng.normal(size=(2, 14, 14, 3)).astype("f4")),
    "transformer": (_transformer, lambda rng: rng.integers(0, 50, (3, 11)).astype("i4")),
    "lstm": (_lstm, lambda rng: rng.normal(size=(3, 9, 5)).astype("f4")),
}


@pytest.fixture(scope="module", params=list(NETS))
def net(request: pytest.FixtureRequest) -> tuple[Any, np.ndarray]:
    import keras

    build, feed = NETS[request.param]
    keras.utils.set_random_seed(4)
    model, rng = build(keras), np.random.default_rng(8)
    for w in model.weights:  # as after training: no bias is zero, no variance is one
        drawn = rng.normal(0, 0.3, w.shape)
        w.assign(np.abs(drawn) + 0.5 if "variance" in w.path or "gamma" in w.path else drawn)
    return model, feed(rng)


def test_small_models(net: tuple[Any, np.ndarray], tmp_path: Path) -> None:
    model, x = net
    theirs = np.asarray(model(x))
    bundle = fw.compile(model, target="cuda")
    port = bundle.signature.inputs[0].name
    got, _ = in_a_bare_process(bundle, {port: x}, tmp_path)
    exact = fw.import_model(model).run({port: x}, precision="f64")
    for name, want in exact.items():
        near_enough(got[name], want, theirs)


def test_small_models_with_rounded_weights(net: tuple[Any, np.ndarray]) -> None:
    """Mode fast is off by no more than measuring on a GPU asks for."""
    model, x = net
    graph = fw.import_model(model)
    feeds = {graph.inputs[0].name: x}
    with fake_gpu((8, 6)), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        got, strict = (fw.compile(graph, target="cuda", numerics=mode).run(feeds) for mode in ("fast", "strict"))
    for name, want in graph.run(feeds, precision="f64").items():
        assert np.abs(got[name] - want).max() <= 3e-2 * np.abs(want).max()
        assert got[name].tobytes() != strict[name].tobytes()


def test_every_kernel_is_inside_its_bound(net: tuple[Any, np.ndarray]) -> None:
    model, x = net
    graph = fw.import_model(model)
    with fake_gpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        verdicts = check_kernels(graph, {graph.inputs[0].name: x}, target="cuda")
    assert verdicts and {v.variant for v in verdicts} == {"cuda"}
    assert [str(v) for v in verdicts if not v.ok] == []
    assert 0 < max(v.worst for v in verdicts) <= 1
