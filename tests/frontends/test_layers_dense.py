"""Core, activation, merge, normalisation and reshaping layers against eager Keras over drawn configurations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from fusewright.frontends.keras import import_keras

L = keras.layers
quick = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ACTIVATIONS = (
    "linear relu relu6 leaky_relu sigmoid tanh softmax log_softmax softplus softsign elu selu celu silu gelu mish "
    "exponential hard_sigmoid hard_silu hard_tanh hard_shrink soft_shrink tanh_shrink squareplus sparse_plus "
    "sparse_sigmoid sparsemax log_sigmoid threshold"
).split()


def data(*shape: int, seed: int = 1, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).uniform(-1, 1, shape) * scale).astype(np.float32)


def chain(shape: tuple[int | None, ...], *layers: Any) -> Any:
    x = inp = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inp, x)


@given(activation=st.sampled_from(ACTIVATIONS), bias=st.booleans(), rank=st.integers(1, 3), batch=st.integers(0, 3))
@settings(quick, max_examples=25)
def test_dense(against_keras: Any, activation: str, bias: bool, rank: int, batch: int) -> None:
    shape = (3, 2, 5)[3 - rank :]
    kept = None if activation == "threshold" else activation
    model = chain(shape, L.Dense(4, activation=kept, use_bias=bias))
    against_keras(model, data(batch, *shape), save=(".keras",) if bias else (".h5",))


def test_every_activation_function(against_keras: Any) -> None:
    inp = keras.Input((7,))
    names = [a for a in ACTIVATIONS if a != "threshold"]
    model = keras.Model(inp, [L.Activation(a)(inp) for a in names])
    against_keras(model, data(5, 7, scale=5.0), save=(".keras", ".h5"))


def test_activation_layers(against_keras: Any) -> None:
    inp = keras.Input((4, 6))
    layers = [
        L.ReLU(),
        L.ReLU(max_value=1.5),
        L.ReLU(negative_slope=0.1),
        L.ReLU(threshold=0.5, max_value=2.0),
        L.ReLU(max_value=6.0, negative_slope=0.2, threshold=0.3),
        L.LeakyReLU(0.17),
        L.ELU(0.7),
        L.PReLU(),
        L.PReLU(shared_axes=[1]),
        L.Softmax(),
        L.Softmax(axis=1),
        L.Softmax(axis=(1, 2)),
        L.Activation("gelu"),
        L.Activation(keras.activations.gelu),
        L.Dense(3, activation=L.LeakyReLU(0.3)),
    ]
    against_keras(keras.Model(inp, [layer(inp) for layer in layers]), data(3, 4, 6, scale=4.0), save=(".keras", ".h5"))


@given(
    equation=st.sampled_from(
        [("abc,cd->abd", (None, 4), "d"), ("...x,xy->...y", 6, None), ("abc,cde->abde", (None, 2, 3), "de")]
    ),
)
@quick
def test_einsum_dense(against_keras: Any, equation: Any) -> None:
    text, shape, bias = equation
    against_keras(
        chain((3, 5), L.EinsumDense(text, shape, bias_axes=bias, activation="tanh")), data(2, 3, 5), save=(".keras",)
    )


@given(
    kind=st.sampled_from(["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]),
    axis=st.sampled_from([1, -1]),
    broadcast=st.booleans(),
)
@quick
def test_merges(against_keras: Any, kind: str, axis: int, broadcast: bool) -> None:
    a, b = keras.Input((4, 3)), keras.Input((4, 1) if broadcast and kind != "Concatenate" else (4, 3))
    layer = L.Concatenate(axis=axis) if kind == "Concatenate" else getattr(L, kind)()
    against_keras(keras.Model([a, b], layer([a, b])), data(2, 4, 3), data(2, *b.shape[1:], seed=2), save=(".keras",))


@given(axes=st.sampled_from([1, 2, (1, 2), (2, 1), (2, 2)]), normalize=st.booleans())
@quick
def test_dot(against_keras: Any, axes: Any, normalize: bool) -> None:
    a, b = keras.Input((4, 4)), keras.Input((4, 4))
    against_keras(
        keras.Model([a, b], L.Dot(axes=axes, normalize=normalize)([a, b])), data(2, 4, 4), data(2, 4, 4, seed=5)
    )


@given(
    kind=st.sampled_from(["batch", "layer", "group", "unit", "rms"]),
    axis=st.sampled_from([-1, 1, 2, (1, 2), (2, 3)]),
    scale=st.booleans(),
    center=st.booleans(),
    epsilon=st.sampled_from([1e-3, 1e-6, 0.1]),
)
@settings(quick, max_examples=40)
def test_normalisation(against_keras: Any, kind: str, axis: Any, scale: bool, center: bool, epsilon: float) -> None:
    single = axis if isinstance(axis, int) else -1
    layer = {
        "batch": lambda: L.BatchNormalization(axis=single, epsilon=epsilon, scale=scale, center=center),
        "layer": lambda: L.LayerNormalization(axis=axis, epsilon=epsilon, scale=scale, center=center),
        "group": lambda: L.GroupNormalization(
            groups=2 if single == -1 else -1, axis=single, epsilon=epsilon, scale=scale, center=center
        ),
        "unit": lambda: L.UnitNormalization(axis=axis),
        "rms": lambda: L.RMSNormalization(epsilon=epsilon),
    }[kind]()
    against_keras(chain((3, 5, 4), layer), data(2, 3, 5, 4), save=(".keras", ".h5") if scale else ())


def test_normalization_layer(against_keras: Any) -> None:
    adapted = L.Normalization()
    adapted.adapt(data(20, 4))
    layers = [
        adapted,
        L.Normalization(mean=1.5, variance=2.5),
        L.Normalization(axis=None, mean=0.5, variance=4.0),
        L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 9.0, 16.0], invert=True),
    ]
    inp = keras.Input((4,))
    model = keras.Model(inp, [layer(inp) for layer in layers])
    against_keras(model, data(5, 4), save=(".keras", ".h5"))


@given(
    target=st.sampled_from([(-1,), (2, -1), (3, 4), (1, 12), (2, 2, 3)]),
    dims=st.permutations([1, 2, 3]),
    n=st.integers(1, 3),
)
@quick
def test_reshaping(against_keras: Any, target: Any, dims: Any, n: int) -> None:
    inp = keras.Input((2, 3, 2))
    out = [L.Reshape(target)(inp), L.Permute(tuple(dims))(inp), L.Flatten()(inp), L.RepeatVector(n)(L.Flatten()(inp))]
    against_keras(keras.Model(inp, out), data(3, 2, 3, 2))


def test_flatten_and_reshape_with_symbolic_extents(against_keras: Any) -> None:
    inp = keras.Input((None, 4))
    model = keras.Model(inp, [L.Reshape((-1, 2))(inp), L.Flatten()(inp), L.Reshape((-1, 2, 2))(inp)])
    for t in (1, 3, 6):
        against_keras(model, data(2, t, 4))


@given(
    crop=st.sampled_from([1, (1, 2), ((0, 1), (2, 1))]),
    pad=st.sampled_from([1, (2, 1), ((0, 2), (1, 0))]),
    size=st.sampled_from([2, (1, 3), (2, 2)]),
    mode=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    first=st.booleans(),
)
@settings(quick, max_examples=20)
def test_cropping_padding_upsampling(
    against_keras: Any, crop: Any, pad: Any, size: Any, mode: str, first: bool
) -> None:
    form = "channels_first" if first else "channels_last"
    shape = (3, 5, 6) if first else (5, 6, 3)
    layers = [L.Cropping2D(crop, data_format=form), L.ZeroPadding2D(pad, data_format=form)]
    if not first or mode == "nearest":
        layers.append(L.UpSampling2D(size, data_format=form, interpolation=mode))
    inp = keras.Input(shape)
    against_keras(
        keras.Model(inp, [layer(inp) for layer in layers]), data(2, *shape), atol=4e-3 if mode == "bicubic" else 2e-5
    )


def test_one_and_three_dimensional_moves(against_keras: Any) -> None:
    a, b = keras.Input((None, 3)), keras.Input((4, 3, 5, 2))
    out = [
        L.Cropping1D((1, 2))(a),
        L.ZeroPadding1D((2, 1))(a),
        L.UpSampling1D(3)(a),
        L.Cropping3D(1)(b),
        L.ZeroPadding3D(((0, 1), (2, 0), (1, 1)))(b),
        L.UpSampling3D((2, 1, 3))(b),
    ]
    against_keras(keras.Model([a, b], out), data(2, 5, 3), data(2, 4, 3, 5, 2), save=(".keras",))


@given(
    size=st.sampled_from([(4, 4), (7, 3), (11, 13)]),
    mode=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos3"]),
    antialias=st.booleans(),
)
@quick
def test_resizing(against_keras: Any, size: Any, mode: str, antialias: bool) -> None:
    model = chain((6, 8, 2), L.Resizing(*size, interpolation=mode, antialias=antialias))
    # TensorFlow rounds bicubic positions to 1/1024 of a pixel; the IR does not.
    against_keras(model, data(2, 6, 8, 2), atol=4e-3 if mode == "bicubic" else 1e-4)


def test_preprocessing_and_identities(against_keras: Any) -> None:
    inp = keras.Input((6, 8, 3))
    layers = [
        L.Rescaling(1 / 127.5, offset=-1),
        L.Rescaling([0.1, 0.2, 0.3]),
        L.CenterCrop(4, 5),
        L.Dropout(0.5),
        L.SpatialDropout2D(0.5),
        L.GaussianNoise(0.3),
        L.GaussianDropout(0.3),
        L.AlphaDropout(0.2),
        L.RandomFlip(),
        L.RandomRotation(0.2),
        L.RandomZoom(0.1),
        L.RandomContrast(0.3),
        L.Identity(),
        L.ActivityRegularization(0.1),
        L.SpectralNormalization(L.Dense(3)),
        L.Discretization(bin_boundaries=[-1.0, 0.0, 0.5]),
    ]
    against_keras(keras.Model(inp, [layer(inp) for layer in layers]), data(2, 6, 8, 3), save=(".keras",))


def test_category_encoding(against_keras: Any) -> None:
    inp = keras.Input((4,), dtype="int32")
    model = keras.Model(inp, [L.CategoryEncoding(5, output_mode=m)(inp) for m in ("multi_hot", "count")])
    against_keras(model, np.array([[0, 1, 1, 4], [3, 3, 3, 2]], np.int32), save=(".keras",))


@given(policy=st.sampled_from(["mixed_float16", "float64", "float16"]))
@quick
def test_dtype_policies(against_keras: Any, policy: str) -> None:
    inp = keras.Input((6,), dtype="float64" if policy == "float64" else "float32")
    x = L.Dense(8, activation="relu", dtype=policy)(inp)
    x = L.BatchNormalization(dtype=policy)(x)
    model = keras.Model(inp, [L.Dense(3, dtype="float32")(x), L.LayerNormalization(dtype=policy)(x)])
    arrays = data(4, 6).astype(np.float64 if policy == "float64" else np.float32)
    loose = 1e-9 if policy == "float64" else 4e-3
    against_keras(model, arrays, rtol=loose, atol=loose, save=(".keras",))


def test_bfloat16_policy() -> None:
    """bf16 rounds at other places in NumPy than in TensorFlow: only the types and a coarse agreement are promised."""
    inp = keras.Input((6,))
    model = keras.Model(inp, L.Dense(3, dtype="float32")(L.Dense(8, activation="relu", dtype="mixed_bfloat16")(inp)))
    x = data(4, 6)
    graph = import_keras(model)
    got = graph.run({graph.inputs[0].name: x})[graph.output_names[0]]
    assert {"bf16", "f32"} <= {v.dtype.name for n in graph.nodes for v in n.results}
    np.testing.assert_allclose(got, np.asarray(model(x)), atol=0.05)


def test_layers_of_keras_applications(against_keras: Any) -> None:
    inp = keras.Input((4, 6))
    x = LayerScale(1e-2, 6)(StochasticDepth(0.2)(inp))
    against_keras(keras.Model(inp, CustomScaleLayer(0.17)([inp, x])), data(2, 4, 6), save=(".keras", ".h5"))
