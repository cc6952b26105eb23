"""Preprocessing layers against eager Keras: spectrograms, lookups, contrast, and those that only act in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from fusewright.core.errors import InputRefused
from fusewright.frontends.keras import import_keras

L = keras.layers
SIGNAL = np.random.default_rng(0).standard_normal((2, 600)).astype(np.float32)
TRACKS = np.random.default_rng(1).standard_normal((2, 600, 2)).astype(np.float32)
IMAGE = np.random.default_rng(2).uniform(0, 255, (2, 7, 6, 3)).astype(np.float32)
NUMBERS = np.array([[5, 1, 12, 36], [36, 0, 7, -4]], np.int64)

CASES: dict[str, tuple[Any, np.ndarray]] = {
    "mel": (L.MelSpectrogram(fft_length=64, sequence_stride=20, num_mel_bins=10, sampling_rate=8000), SIGNAL),
    "mel window": (
        L.MelSpectrogram(
            fft_length=64, sequence_length=50, sequence_stride=16, window="hamming", num_mel_bins=6,
            sampling_rate=8000, power_to_db=False, mag_exp=1.0, max_freq=3000.0,
        ), SIGNAL,
    ),
    **{
        f"stft {m}": (L.STFTSpectrogram(mode=m, frame_length=32, frame_step=10, window=None, scaling=None), TRACKS)
        for m in ("log", "magnitude", "psd", "real", "imag", "stft")
    },
    "stft expanded": (
        L.STFTSpectrogram(frame_length=32, fft_length=64, expand_dims=True, window=None, scaling=None), TRACKS,
    ),
    **{
        f"lookup {i}": (L.IntegerLookup(vocabulary=[12, 36, 5], **options), NUMBERS)
        for i, options in enumerate(
            [
                {}, {"num_oov_indices": 3}, {"mask_token": 0}, {"output_mode": "multi_hot"},
                {"output_mode": "one_hot"}, {"output_mode": "count"}, {"output_mode": "count", "mask_token": 7},
                {"invert": True}, {"invert": True, "mask_token": 0}, {"output_mode": "multi_hot", "max_tokens": 6,
                "pad_to_max_tokens": True},
            ]
        )
    },
    "auto contrast": (L.AutoContrast(), IMAGE),
    "auto contrast in a range": (L.AutoContrast(value_range=(0, 1)), IMAGE / 255),
    "solarization": (L.Solarization(0.5, 0.1), IMAGE),
    "random crop": (L.RandomCrop(4, 4), IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_layer(name: str, tmp_path: Path) -> None:
    layer, x = CASES[name]
    given = keras.Input(x.shape[1:], dtype=x.dtype.name)
    model = keras.Model(
        given, layer(given, training=False) if "training" in layer._call_signature.parameters else layer(given)
    )
    want = np.asarray(model(x, training=False))
    model.save(tmp_path / "m.keras")
    for source in (model, tmp_path / "m.keras"):
        graph = import_keras(source)
        got = next(iter(graph.run({graph.inputs[0].name: x}).values()))
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4 * max(float(np.abs(want).max()), 1e-3))


FREE = (None, None, 3)
ANY_SIZE: dict[str, tuple[Any, Any, tuple[tuple[int, int], ...]]] = {
    "resizing": (L.Resizing(5, 11), FREE, ((6, 7), (9, 4), (5, 11), (1, 1))),
    "resizing, nearest": (L.Resizing(5, 11, interpolation="nearest"), FREE, ((6, 7), (9, 30), (1, 1))),
    "center crop": (L.CenterCrop(4, 3), FREE, ((6, 7), (9, 4), (4, 3))),
    "center crop of a small image": (L.CenterCrop(9, 12), (8, 7, 3), ((8, 7),)),
    "center crop of a flat image": (L.CenterCrop(9, 6), (8, 17, 3), ((8, 17),)),
    "cropped to the ratio": (L.Resizing(5, 4, crop_to_aspect_ratio=True), (8, 7, 3), ((8, 7),)),
    "cropped to a wide ratio": (L.Resizing(3, 9, crop_to_aspect_ratio=True), (8, 7, 3), ((8, 7),)),
    "padded to the ratio": (L.Resizing(5, 4, pad_to_aspect_ratio=True, fill_value=3.0), (8, 7, 3), ((8, 7),)),
    "padded to a high ratio": (L.Resizing(9, 3, pad_to_aspect_ratio=True), (8, 7, 3), ((8, 7),)),
}


@pytest.mark.parametrize("name", ANY_SIZE)
def test_images(name: str, tmp_path: Path) -> None:
    layer, shape, sizes = ANY_SIZE[name]
    given = keras.Input(shape)
    model = keras.Model(given, layer(given))
    model.save(tmp_path / "m.keras")
    graph = import_keras(tmp_path / "m.keras")
    for i, size in enumerate(sizes):
        x = np.random.default_rng(i).uniform(0, 255, (2, *size, 3)).astype(np.float32)
        want = np.asarray(model(x))
        (got,) = graph.run({graph.inputs[0].name: x}).values()
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)


def test_an_image_of_free_size_smaller_than_the_crop_is_refused() -> None:
    given = keras.Input(FREE)
    graph = import_keras(keras.Model(given, L.CenterCrop(4, 3)(given)))
    with pytest.raises(InputRefused):
        graph.run({graph.inputs[0].name: np.ones((1, 3, 9, 3), np.float32)})


def test_weights_of_a_count_have_the_extent_of_what_is_counted() -> None:
    x, w = keras.Input((None,), dtype="int32"), keras.Input((None,))
    model = keras.Model([x, w], L.CategoryEncoding(9, output_mode="count")(x, count_weights=w))
    graph = import_keras(model)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (3, 5)).astype(np.int32), rng.uniform(-1, 1, (3, 5)).astype(np.float32)
    (got,) = graph.run({v.name: g for v, g in zip(graph.inputs, (a, b), strict=True)}).values()
    np.testing.assert_allclose(got, np.asarray(model([a, b])), rtol=1e-6, atol=1e-6)
