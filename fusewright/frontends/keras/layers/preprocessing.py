"""Preprocessing layers: Rescaling, Resizing, CenterCrop, CategoryEncoding, Discretization; random ones pass through.

Owns their inference-time meaning. Must not know models. Normalization is in norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import compare_le
from ....core.dtypes import F32, I32, I64
from ....ir.graph import Value
from ..call import Call, layer
from .reshape import resize


@layer("Rescaling", autocast=False, mask="pass")
def _rescaling(c: Call, x: Value) -> Value:
    b, parts = c.b, []
    for key, default in (("scale", 1.0), ("offset", 0.0)):
        value = c.get(key, default)
        parts.append(
            c.const(np.asarray(value, np.float64)) if isinstance(value, (list, tuple)) else c.number(key, default)
        )
    return b.add(b.mul(c.float(x), parts[0]), parts[1])


@layer("Resizing", autocast=False)
def _resizing(c: Call, x: Value) -> Value:
    c.need_rank(x, 4)
    x = c.to_last(c.float(x))
    size = (c.integer("height"), c.integer("width"))
    if c.flag("crop_to_aspect_ratio"):
        x = _cropped(c, x, size, np.float32)
    elif c.flag("pad_to_aspect_ratio"):
        x = _padded(c, x, size)
    return c.from_last(resize(c, x, size, str(c.get("interpolation", "bilinear")).lower(), c.flag("antialias")))


def _sides(c: Call, x: Value) -> tuple[int, int]:
    height, width = x.shape[1:3]
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    raise c.refuse("an aspect ratio is only kept for images of fixed size", "give its size with shapes=")


def _cropped(c: Call, x: Value, size: tuple[int, int], number: Any) -> Value:
    """The middle of the image in the proportions of ``size``; ``number`` is the type that Keras divides in."""
    (height, width), (rows, columns) = _sides(c, x), size
    high = max(min(height, int(number(width * rows) / number(columns))), 1)
    wide = max(min(width, int(number(height * columns) / number(rows))), 1)
    top, left = (height - high) // 2, (width - wide) // 2
    return c.b.slice(x, starts=(None, top, left, None), stops=(None, top + high, left + wide, None))


def _padded(c: Call, x: Value, size: tuple[int, int]) -> Value:
    """The image in a frame in the proportions of ``size``, as wide on both sides."""
    if c.get("fill_mode", "constant") != "constant":
        raise c.refuse("only fill_mode 'constant' is supported")
    (height, width), (rows, columns) = _sides(c, x), size
    above = (max(height, int(np.float32(width * rows) / np.float32(columns))) - height) // 2
    beside = (max(width, int(np.float32(height * columns) / np.float32(rows))) - width) // 2
    frame = (0, above, beside, 0)
    return c.b.pad(x, c.const(float(c.get("fill_value", 0.0)), x.dtype), low=frame, high=frame)


@layer("CenterCrop", autocast=False)
def _center_crop(c: Call, x: Value) -> Value:
    """The middle; an image that is smaller than it in one direction is cut in proportion and resized instead."""
    c.need_rank(x, 4)
    x = c.to_last(c.float(x))
    height, width = c.integer("height"), c.integer("width")
    fits = [compare_le(want, have) for want, have in zip((height, width), x.shape[1:3], strict=True)]
    if all(isinstance(have, int) for have in x.shape[1:3]) and not all(fits):
        return c.from_last(resize(c, _cropped(c, x, (height, width), float), (height, width), "bilinear"))
    # Of an extent known at the call only: the call refuses an image that is smaller.
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    y = c.b.slice(x, starts=(None, top, left, None), stops=(None, top + height, left + width, None))
    return c.from_last(y)


@layer(
    "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform",
    "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert",
    "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
    "RandomTranslation", "RandomZoom", "RandomHeight", "RandomWidth", "RandAugment", "AugMix", "CutMix", "MixUp",
    "RandomCrop", "Solarization", autocast=False,
)  # fmt: skip
def _random(c: Call, x: Value) -> Value:
    """Augmentation only happens in training; the layer still casts to its compute dtype."""
    return c.float(x)


@layer("Equalization", "MaxNumBoundingBoxes", autocast=False)
def _only_training(c: Call, x: Value) -> Value:
    """At inference these give their images back as they are, in their own type."""
    return x


@layer("AutoContrast", autocast=False)
def _auto_contrast(c: Call, x: Value) -> Value:
    """Each channel of each image stretched to the whole range; one of a single value stays as it is."""
    b = c.b
    low, high = (float(v) for v in c.get("value_range", (0, 255)))
    x = c.float(x)
    to_bytes = lambda v: b.mul(b.div(b.sub(v, low), high - low), 255.0)
    v = x if (low, high) == (0.0, 255.0) else to_bytes(x)
    axes = (1, 2)
    least = b.reduce_min(v, axes=axes, keepdims=True)
    scale = b.div(b.constant(255.0, v.dtype), b.sub(b.reduce_max(v, axes=axes, keepdims=True), least))
    y = b.add(b.mul(v, scale), b.mul(b.neg(least), scale))
    y = b.minimum(b.maximum(y, 0.0), 255.0)
    if (low, high) != (0.0, 255.0):
        y = b.add(b.mul(b.div(y, 255.0), high - low), low)
    return b.where(b.isnan(y), x, y)


def one_hot(c: Call, index: Value, depth: int) -> Value:
    """Compute-dtype rows that are 1 at ``index``."""
    line = c.b.iota(shape=(depth,), axis=0, dtype=index.dtype)
    return c.cast(c.b.eq(c.b.reshape(index, shape=(*index.shape, 1)), line), c.dtype)


@layer("CategoryEncoding", autocast=False)
def _category(c: Call, x: Value, count_weights: Value | None = None) -> Value:
    depth, mode = c.integer("num_tokens"), str(c.get("output_mode", "multi_hot"))
    if c.flag("sparse"):
        raise c.refuse("sparse outputs are not supported")
    index = x if x.dtype.is_int else c.cast(x, I32)
    return _encode(c, index, depth, mode, count_weights)


def _encode(c: Call, index: Value, depth: int, mode: str, count_weights: Value | None = None) -> Value:
    b = c.b
    if mode == "one_hot":
        if index.shape[-1] == 1 and index.rank > 1:
            index = b.reshape(index, shape=index.shape[:-1])
        return one_hot(c, index, depth)
    rows = one_hot(c, index, depth)
    if index.rank < 2:
        return rows
    if mode == "multi_hot":
        return b.reduce_max(rows, axes=(rows.rank - 2,))
    if mode == "count":
        if count_weights is not None:
            rows = b.mul(rows, b.reshape(c.float(count_weights), shape=(*count_weights.shape, 1)))
        return b.reduce_sum(rows, axes=(rows.rank - 2,))
    raise c.refuse(f"output_mode={mode!r} is not supported")


@layer("Discretization", autocast=False)
def _discretization(c: Call, x: Value) -> Value:
    bounds = c.config.get("bin_boundaries")
    if not isinstance(bounds, (list, tuple)) or not all(isinstance(v, (int, float)) for v in bounds):
        raise c.refuse("bin_boundaries are not in the config", "call adapt() before saving")
    mode = str(c.get("output_mode", "int"))
    b = c.b
    value = x if x.dtype.is_float else c.cast(x, F32)
    spread = b.reshape(value, shape=(*value.shape, 1))
    inside = b.ge(spread, c.const(np.asarray(bounds, np.float64), value.dtype))
    index = b.reduce_sum(b.cast(inside, to=I32), axes=(spread.rank - 1,))
    if mode != "int":
        return _encode(c, index, len(bounds) + 1, mode)
    return index if c.version[0] >= 3 else c.cast(index, I64)
