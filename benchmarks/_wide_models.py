"""Networks of many kinds, made in Keras with random weights: what users bring besides the six of ``_models.py``.

Owns their layers. Must not know who runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from _models import lived_in

L = keras.layers


def _cell(x: Any, channels: int, size: int = 3, stride: int = 1, act: str | None = "relu", **more: Any) -> Any:
    """A convolution, batch norm and activation."""
    x = L.Conv2D(channels, size, stride, padding="same", use_bias=False, **more)(x)
    x = L.BatchNormalization()(x)
    return L.Activation(act)(x) if act else x


def _grouped(x: Any, stages: Any, groups: Callable[[int], int]) -> Any:
    """Bottlenecks around grouped convolutions."""
    for channels, count in stages:
        for i in range(count):
            stride = 2 if i == 0 else 1
            y = _cell(_cell(x, channels, 1), channels, 3, stride, groups=groups(channels))
            y = _cell(y, channels, 1, act=None)
            x = _cell(x, channels, 1, stride, act=None) if i == 0 else x
            x = L.Activation("relu")(L.Add()([x, y]))
    return x


def regnet() -> keras.Model:
    """RegNetX-like: groups of 16 channels."""
    x = keras.Input((224, 224, 3))
    y = _grouped(_cell(x, 32, 3, 2), ((64, 1), (128, 3), (288, 7), (672, 5)), lambda channels: channels // 16)
    return keras.Model(x, L.Dense(1000, activation="softmax")(L.GlobalAveragePooling2D()(y)))


def resnext() -> keras.Model:
    """Two stages of a ResNeXt: 32 groups of 4 and of 8 channels."""
    x = keras.Input((64, 64, 16))
    y = _grouped(x, ((128, 2), (256, 2)), lambda channels: 32)
    return keras.Model(x, L.Dense(10)(L.GlobalAveragePooling2D()(y)))


def unet() -> keras.Model:
    x = y = keras.Input((128, 128, 3))
    skips = []
    for channels in (32, 64, 128, 256):
        y = _cell(_cell(y, channels), channels)
        skips.append(y)
        y = L.MaxPooling2D()(y)
    y = _cell(_cell(y, 512), 512)
    for channels in (256, 128, 64, 32):
        y = L.Concatenate()([L.Conv2DTranspose(channels, 2, 2, padding="same")(y), skips.pop()])
        y = _cell(_cell(y, channels), channels)
    return keras.Model(x, L.Conv2D(1, 1, activation="sigmoid")(y))


def segmenter() -> keras.Model:
    """DeepLab-like: dilations, branches, bilinear resizing, softmax over 21 classes."""
    x = keras.Input((160, 160, 3))
    y = _cell(_cell(_cell(x, 32, 3, 2), 64, 3, 2), 128, 3, 2)
    for rate in (2, 4, 8):
        y = L.Add()([y, _cell(y, 128, dilation_rate=rate)])
    branches = [_cell(y, 64, 1), *(_cell(y, 64, dilation_rate=rate) for rate in (6, 12, 18))]
    y = _cell(L.Concatenate()(branches), 64, 1)
    y = _cell(L.UpSampling2D(4, interpolation="bilinear")(y), 32)
    y = L.UpSampling2D(2, interpolation="bilinear")(L.Conv2D(21, 1)(y))
    return keras.Model(x, L.Activation("softmax")(y))


def detector() -> keras.Model:
    """SSD-like: depthwise cells with PReLU, a pyramid with nearest resizing, heads joined over scales."""

    def prelu(y: Any) -> Any:
        return L.PReLU(alpha_initializer=keras.initializers.RandomUniform(0.05, 0.4), shared_axes=[1, 2])(y)

    def cell(y: Any, channels: int, stride: int = 1) -> Any:
        y = prelu(L.BatchNormalization()(L.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)))
        return prelu(_cell(y, channels, 1, act=None))

    x = keras.Input((256, 256, 3))
    c3 = cell(cell(cell(cell(prelu(_cell(x, 24, 3, 2, act=None)), 48), 72, 2), 72), 96, 2)
    c4 = cell(cell(c3, 144, 2), 144)
    pyramid = [L.Conv2D(96, 1)(cell(cell(c4, 192, 2), 192))]
    for level in (c4, c3):
        pyramid.append(L.Add()([L.Conv2D(96, 1)(level), L.UpSampling2D(2)(pyramid[-1])]))
    heads = []
    for level in map(lambda p: cell(p, 96), pyramid):
        parts = [L.Reshape((-1, 4))(L.Conv2D(24, 3, padding="same")(level)) for _ in range(2)]
        heads.append(L.Concatenate()(parts))
    return keras.Model(x, L.Concatenate(axis=1)(heads))


def _block(x: Any, heads: int, width: int, causal: bool = False) -> Any:
    y = L.LayerNormalization(epsilon=1e-6)(x)
    x = L.Add()([x, L.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=causal)])
    y = L.Dense(4 * width, activation="gelu")(L.LayerNormalization(epsilon=1e-6)(x))
    return L.Add()([x, L.Dense(width)(y)])


def _placed(x: Any, length: int, width: int) -> Any:
    return keras.ops.add(x, np.random.default_rng(0).normal(0, 0.02, (1, length, width)).astype(np.float32))


def vit() -> keras.Model:
    """A small vision transformer: 196 patches of 16 x 16, 12 blocks of width 384."""
    x = keras.Input((224, 224, 3))
    y = _placed(L.Reshape((196, 384))(L.Conv2D(384, 16, 16)(x)), 196, 384)
    for _ in range(12):
        y = _block(y, 6, 384)
    y = L.GlobalAveragePooling1D()(L.LayerNormalization(epsilon=1e-6)(y))
    return keras.Model(x, L.Dense(1000, activation="softmax")(y))


def gpt() -> keras.Model:
    """Six causal blocks of width 512 over 64 tokens."""
    x = keras.Input((64,), dtype="int32")
    y = _placed(L.Embedding(5000, 512)(x), 64, 512)
    for _ in range(6):
        y = _block(y, 8, 512, causal=True)
    return keras.Model(x, L.Dense(5000)(L.LayerNormalization(epsilon=1e-6)(y)))


def wavenet() -> keras.Model:
    """Ten gated dilated convolutions over 1024 steps."""

    def causal(y: Any, rate: int, act: str | None = None) -> Any:
        return L.Conv1D(64, 2, padding="causal", dilation_rate=rate, activation=act)(y)

    x = keras.Input((1024, 1))
    y, skips = causal(x, 1), []
    for i in range(10):
        z = L.Multiply()([causal(y, 1 << i, "tanh"), causal(y, 1 << i, "sigmoid")])
        skips.append(L.Conv1D(64, 1)(z))
        y = L.Add()([y, L.Conv1D(64, 1)(z)])
    y = L.Conv1D(64, 1, activation="relu")(L.Activation("relu")(L.Add()(skips)))
    return keras.Model(x, L.Conv1D(256, 1, activation="softmax")(y))


def tcn() -> keras.Model:
    x = keras.Input((256, 12))
    y = L.Conv1D(48, 1)(x)
    for i in range(6):
        z = y
        for _ in range(2):
            z = L.BatchNormalization()(L.Conv1D(48, 3, padding="causal", dilation_rate=1 << i)(z))
            z = L.Activation("relu")(z)
        y = L.Activation("relu")(L.Add()([y, z]))
    return keras.Model(x, L.Dense(5)(L.GlobalAveragePooling1D()(y)))


def conv3d() -> keras.Model:
    x = y = keras.Input((16, 64, 64, 3))
    for channels, pool in ((32, (1, 2, 2)), (64, 2), (128, 2), (128, 2)):
        y = L.BatchNormalization()(L.Conv3D(channels, 3, padding="same")(y))
        y = L.MaxPooling3D(pool)(L.Activation("relu")(y))
    y = L.Dense(256, activation="relu")(L.Flatten()(y))
    return keras.Model(x, L.Dense(10, activation="softmax")(y))


def gru() -> keras.Model:
    x = keras.Input((100, 64))
    return keras.Model(x, L.Dense(10)(L.GRU(128)(L.GRU(128, return_sequences=True)(x))))


def bilstm() -> keras.Model:
    x = keras.Input((64,), dtype="int32")
    y = L.Bidirectional(L.LSTM(64, return_sequences=True))(L.Embedding(8000, 100)(x))
    return keras.Model(x, L.Dense(2, activation="softmax")(L.Bidirectional(L.LSTM(64))(y)))


def keywords() -> keras.Model:
    """A depthwise-separable network over 49 frames of 10 features."""
    x = keras.Input((49, 10, 1))
    y = _cell(x, 64, (10, 4), 2)
    for _ in range(4):
        y = L.Activation("relu")(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(y)))
        y = _cell(y, 64, 1)
    return keras.Model(x, L.Dense(12, activation="softmax")(L.GlobalAveragePooling2D()(y)))


def autoencoder() -> keras.Model:
    x = y = keras.Input((512, 8))
    for channels in (32, 64, 128):
        y = L.Conv1D(channels, 7, 2, padding="same", activation="relu")(y)
    for channels in (64, 32, 16):
        y = L.Conv1DTranspose(channels, 7, 2, padding="same", activation="relu")(y)
    return keras.Model(x, L.Conv1D(8, 7, padding="same")(y))


def generator() -> keras.Model:
    """DCGAN-like: 64 x 64 images from 100 numbers, transposed convolutions of 5 x 5 and stride 2."""
    x = keras.Input((100,))
    y = L.Reshape((4, 4, 512))(L.Dense(4 * 4 * 512)(x))
    for channels in (256, 128, 64):
        y = L.Conv2DTranspose(channels, 5, 2, padding="same", use_bias=False)(y)
        y = L.LeakyReLU(negative_slope=0.2)(L.BatchNormalization()(y))
    return keras.Model(x, L.Conv2DTranspose(3, 5, 2, padding="same", activation="tanh")(y))


def upscaler() -> keras.Model:
    """FSRCNN-like: a 96 x 96 image to 192 x 192, learnt details on top of a bilinear enlargement."""
    x = keras.Input((96, 96, 3))
    y = L.PReLU(shared_axes=[1, 2])(L.Conv2D(56, 5, padding="same")(x))
    y = L.PReLU(shared_axes=[1, 2])(L.Conv2D(16, 1)(y))
    for _ in range(4):
        y = L.PReLU(shared_axes=[1, 2])(L.Conv2D(16, 3, padding="same")(y))
    y = L.PReLU(shared_axes=[1, 2])(L.Conv2D(56, 1)(y))
    y = L.Conv2DTranspose(3, 9, 2, padding="same")(y)
    return keras.Model(x, L.Add()([y, L.UpSampling2D(2, interpolation="bilinear")(x)]))


APPLICATIONS = (
    "DenseNet121 Xception ResNet50V2 NASNetMobile MobileNet MobileNetV3Small MobileNetV3Large EfficientNetV2B0 "
    "ConvNeXtTiny"
).split()
OWN = (
    regnet, resnext, unet, segmenter, detector, vit, gpt, wavenet, tcn, conv3d, gru, bilstm, keywords, autoencoder,
    generator, upscaler,
)  # fmt: skip
NETWORKS = (*APPLICATIONS, *(f.__name__ for f in OWN))


def sample(model: Any, batch: int) -> np.ndarray:
    """Random input in Keras' layout: standard normal, or tokens below 5000."""
    rng, given = np.random.default_rng(0), model.inputs[0]
    shape = (batch, *given.shape[1:])
    return rng.integers(0, 5000, shape).astype(np.int32) if "int" in given.dtype else rng.standard_normal(shape, "f4")


def make(name: str) -> keras.Model:
    """A network by name, the same one every time."""
    keras.utils.set_random_seed(1)
    if name in APPLICATIONS:
        size = 299 if name == "Xception" else 224
        model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    else:
        model = {f.__name__: f for f in OWN}[name]()
    return lived_in(model, sample(model, 1))
