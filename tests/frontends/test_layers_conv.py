"""Convolutions and pooling against eager Keras over drawn configurations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fusewright.frontends.keras import import_keras

L = keras.layers
quick = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def data(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def chain(shape: tuple[int | None, ...], layer: Any) -> Any:
    inp = keras.Input(shape)
    return keras.Model(inp, layer(inp))


def per_axis(rank: int, low: int, high: int) -> Any:
    return st.tuples(*[st.integers(low, high)] * rank)


@st.composite
def conv_options(draw: Any, rank: int) -> dict[str, Any]:
    strides, dilation = draw(per_axis(rank, 1, 3)), draw(per_axis(rank, 1, 2))
    if max(strides) > 1:
        dilation = (1,) * rank  # Keras refuses both at once
    paddings = ["valid", "same"] + (["causal"] if rank == 1 else [])
    return {
        "kernel_size": draw(per_axis(rank, 1, 3)),
        "strides": strides,
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(paddings)),
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "relu", "tanh"])),
    }


@given(
    rank=st.integers(1, 3),
    options=st.data(),
    groups=st.sampled_from([1, 2]),
    symbolic=st.booleans(),
    size=st.integers(5, 8),
)
@quick
def test_conv(against_keras: Any, rank: int, options: Any, groups: int, symbolic: bool, size: int) -> None:
    drawn = options.draw(conv_options(rank))
    # As for pooling below: TensorFlow's two 3-D kernels disagree where SAME would crop.
    skips = any(s > k for s, k in zip(drawn["strides"], drawn["kernel_size"], strict=True))
    assume(not (rank == 3 and drawn["padding"] == "same" and skips))
    spatial = (size, size + 1, 6)[:rank]
    model = chain(
        ((None,) * rank if symbolic else spatial) + (4,), getattr(L, f"Conv{rank}D")(6, groups=groups, **drawn)
    )
    against_keras(model, data(2, *spatial, 4), save=(".keras",) if drawn["use_bias"] else ())


@given(
    rank=st.integers(1, 3),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["valid", "same"]),
    extra=st.sampled_from([None, 0, 1]),
    dilation=st.sampled_from([1, 1, 2]),
    symbolic=st.booleans(),
)
@settings(quick, max_examples=40)
def test_conv_transpose(
    against_keras: Any,
    rank: int,
    kernel: int,
    stride: int,
    padding: str,
    extra: int | None,
    dilation: int,
    symbolic: bool,
) -> None:
    assume(extra is None or extra < stride)
    assume(dilation == 1 or stride == 1)
    # TensorFlow's CPU kernels lack dilated 3-D transposed convolution; SAME needs a size that its formula can invert.
    assume(not (dilation > 1 and rank == 3))
    assume(padding == "valid" or extra is None or kernel >= stride)
    layer = getattr(L, f"Conv{rank}DTranspose")(
        3, kernel, stride, padding, output_padding=extra, dilation_rate=dilation
    )
    spatial = (4, 5, 3)[:rank]
    try:
        model = chain(((None,) * rank if symbolic else spatial) + (2,), layer)
        model(data(1, *spatial, 2))
    except Exception:
        assume(False)
    against_keras(model, data(2, *spatial, 2), save=(".keras",))


@given(rank=st.integers(1, 2), multiplier=st.integers(1, 3), options=st.data(), separable=st.booleans())
@quick
def test_depthwise_and_separable(against_keras: Any, rank: int, multiplier: int, options: Any, separable: bool) -> None:
    drawn = options.draw(conv_options(rank))
    if drawn["padding"] == "causal":
        drawn["padding"] = "same"
    drawn["strides"] = (drawn["strides"][0],) * rank
    drawn["dilation_rate"] = (drawn["dilation_rate"][0],) * rank
    kind = f"{'Separable' if separable else 'Depthwise'}Conv{rank}D"
    layer = getattr(L, kind)(*([5] if separable else []), depth_multiplier=multiplier, **drawn)
    spatial = (8, 7)[:rank]
    model = chain((*spatial, 3), layer)
    against_keras(model, data(2, *spatial, 3), save=(".keras", ".h5"))


def test_channels_first() -> None:
    # Eager TensorFlow has no channels_first convolution on CPU, so the channels_last twin is the reference.
    last = chain((6, 7, 4), L.Conv2D(5, 3, strides=2, padding="same"))
    first = chain((4, 6, 7), L.Conv2D(5, 3, strides=2, padding="same", data_format="channels_first"))
    first.set_weights(last.get_weights())
    x = data(2, 6, 7, 4)
    graph = import_keras(first)
    got = graph.run({graph.inputs[0].name: x.transpose(0, 3, 1, 2)})[graph.output_names[0]]
    np.testing.assert_allclose(got.transpose(0, 2, 3, 1), np.asarray(last(x)), rtol=1e-4, atol=1e-5)


@given(
    rank=st.integers(1, 3),
    kind=st.sampled_from(["Max", "Average"]),
    window=st.integers(1, 3),
    strides=st.sampled_from([None, 1, 2, 3]),
    padding=st.sampled_from(["valid", "same"]),
    symbolic=st.booleans(),
)
@quick
def test_pooling(
    against_keras: Any, rank: int, kind: str, window: int, strides: int | None, padding: str, symbolic: bool
) -> None:
    # TensorFlow's two 3-D kernels (with and without oneDNN) disagree where SAME would crop instead of pad.
    assume(not (rank == 3 and padding == "same" and (strides or window) > window))
    layer = getattr(L, f"{kind}Pooling{rank}D")(window, strides, padding)
    spatial = (7, 6, 5)[:rank]
    against_keras(chain(((None,) * rank if symbolic else spatial) + (3,), layer), data(2, *spatial, 3))


@given(rank=st.integers(1, 3), keepdims=st.booleans(), first=st.booleans())
@settings(quick, max_examples=12)
def test_global_pooling(against_keras: Any, rank: int, keepdims: bool, first: bool) -> None:
    form = "channels_first" if first else "channels_last"
    inp = keras.Input((4, 5, 3, 2)[: rank + 1])
    kinds = ("GlobalAveragePooling", "GlobalMaxPooling")
    out = [getattr(L, f"{k}{rank}D")(data_format=form, keepdims=keepdims)(inp) for k in kinds]
    against_keras(keras.Model(inp, out), data(2, *inp.shape[1:]))


def test_adaptive_pooling(against_keras: Any) -> None:
    inp = keras.Input((7, 6, 2))
    model = keras.Model(inp, [L.AdaptiveAveragePooling2D((3, 4))(inp), L.AdaptiveMaxPooling2D((2, 5))(inp)])
    against_keras(model, data(2, 7, 6, 2))
