"""``keras.ops.image`` nodes: colour, resizing, patches, borders, filters.

Owns their formulas as TensorFlow has them. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....core.dtypes import I32
from ....ir.graph import Value
from ....ir.ops.window import same_pads
from ..call import Call, operation, static
from .conv import depthwise
from .ops import floats, option, value
from .ops_shape import along
from .reshape import resize


def _last(c: Call, v: Value, k: dict[str, Any]) -> tuple[Value, bool]:
    """(the image with channels last and a batch axis is not added, whether they came first)."""
    first = option(c, k, "data_format", "channels_last") == "channels_first"
    lead = v.rank - 3
    return (c.b.transpose(v, perm=(*range(lead), lead + 1, lead + 2, lead)) if first else v), first


def _back(c: Call, v: Value, first: bool) -> Value:
    lead = v.rank - 3
    return c.b.transpose(v, perm=(*range(lead), lead + 2, lead, lead + 1)) if first else v


def _channels(c: Call, v: Value) -> list[Value]:
    if v.shape[-1] != 3:
        raise c.refuse(f"takes three channels, not {v.shape[-1]}")
    return [along(c, v, v.rank - 1, i, i + 1) for i in range(3)]


@operation("RGBToGrayscale")
def _gray(c: Call, images: Any, **k: Any) -> Value:
    v, first = _last(c, value(c, images), k)
    b, to = c.b, v.dtype
    r, g, u = (floats(c, x) for x in _channels(c, v))
    y = b.add(b.add(b.mul(r, 0.2989), b.mul(g, 0.5870)), b.mul(u, 0.1140))
    return _back(c, c.cast(y, to), first)


@operation("RGBToHSV")
def _to_hsv(c: Call, images: Any, **k: Any) -> Value:
    v, first = _last(c, floats(c, images), k)
    b = c.b
    r, g, u = _channels(c, v)
    top, low = b.maximum(b.maximum(r, g), u), b.minimum(b.minimum(r, g), u)
    span = b.sub(top, low)
    flat = b.eq(span, 0.0)
    safe = b.where(flat, 1.0, span)
    saturation = b.where(b.gt(top, 0.0), b.div(span, b.where(b.gt(top, 0.0), top, 1.0)), 0.0)
    third = lambda x, y, shift: b.add(b.div(b.sub(x, y), b.mul(safe, 6.0)), shift)
    hue = b.where(b.eq(top, r), third(g, u, 0.0), b.where(b.eq(top, g), third(u, r, 1 / 3), third(r, g, 2 / 3)))
    hue = b.where(flat, 0.0, b.where(b.lt(hue, 0.0), b.add(hue, 1.0), hue))
    return _back(c, b.concat(hue, saturation, top, axis=v.rank - 1), first)


@operation("HSVToRGB")
def _to_rgb(c: Call, images: Any, **k: Any) -> Value:
    v, first = _last(c, floats(c, images), k)
    b = c.b
    hue, saturation, top = _channels(c, v)
    turn = b.mul(hue, 6.0)
    wave = lambda x: b.minimum(b.maximum(x, 0.0), 1.0)
    parts = (
        wave(b.sub(b.abs(b.sub(turn, 3.0)), 1.0)),
        wave(b.sub(2.0, b.abs(b.sub(turn, 2.0)))),
        wave(b.sub(2.0, b.abs(b.sub(turn, 4.0)))),
    )
    rest = b.sub(1.0, saturation)
    return _back(c, b.concat(*(b.mul(b.add(rest, b.mul(saturation, p)), top) for p in parts), axis=v.rank - 1), first)


@operation("Resize")
def _resize(c: Call, images: Any, **k: Any) -> Value:
    for key in ("crop_to_aspect_ratio", "pad_to_aspect_ratio"):
        if option(c, k, key, False):
            raise c.refuse(f"{key} is not supported")
    given = value(c, images)
    method = str(option(c, k, "interpolation", "bilinear")).lower()
    v, first = _last(c, given if method == "nearest" else floats(c, given), k)
    single = v.rank == 3
    v = c.b.reshape(v, shape=(1, *v.shape)) if single else v
    size = option(c, k, "size")
    y = resize(c, v, tuple(size), method, bool(option(c, k, "antialias", False)))
    y = c.b.reshape(y, shape=y.shape[1:]) if single else y
    return _back(c, c.cast(y, given.dtype), first)


@operation("ExtractPatches")
def _patches(c: Call, images: Any, **k: Any) -> Value:
    """[N, H, W, C] -> [N, rows, columns, window * C]: a patch lies row by row, its pixels whole."""
    v, first = _last(c, value(c, images), k)
    two = lambda o: (o, o) if isinstance(o, int) else tuple(o)
    size = two(option(c, k, "size"))
    if v.rank != 4 or len(size) != 2:
        raise c.refuse("only batches of flat images are supported")
    stride, rate = two(option(c, k, "strides", size)), two(option(c, k, "dilation_rate", 1))
    b = c.b
    extents = [static(c, n, "a spatial axis") for n in v.shape[1:3]]
    if option(c, k, "padding", "valid") == "same":
        pads = [same_pads(n, s, t, r) for n, s, t, r in zip(extents, size, stride, rate, strict=True)]
        v = b.pad(v, low=(0, pads[0][0], pads[1][0], 0), high=(0, pads[0][1], pads[1][1], 0))
        extents = [static(c, n, "a spatial axis") for n in v.shape[1:3]]
    outs = [(n - (s - 1) * r - 1) // t + 1 for n, s, r, t in zip(extents, size, rate, stride, strict=True)]
    parts = []
    for i in range(size[0]):
        for j in range(size[1]):
            starts = (i * rate[0], j * rate[1])
            stops = tuple(lo + (o - 1) * t + 1 for lo, o, t in zip(starts, outs, stride, strict=True))
            parts.append(b.slice(v, starts=(None, *starts, None), stops=(None, *stops, None), steps=(1, *stride, 1)))
    return _back(c, b.concat(*parts, axis=3), first)


@operation("PadImages", "CropImages")
def _borders(c: Call, images: Any, **k: Any) -> Value:
    v, first = _last(c, value(c, images), k)
    crop = c.spec.class_name == "CropImages"
    word = "cropping" if crop else "padding"
    lead, low, high = v.rank - 3, [0] * v.rank, [0] * v.rank
    for axis, one, two, whole in (
        (lead, "top", "bottom", "target_height"), (lead + 1, "left", "right", "target_width"),
    ):  # fmt: skip
        before, after, target = (option(c, k, f"{one}_{word}"), option(c, k, f"{two}_{word}"), option(c, k, whole))
        if target is not None:
            gap = static(c, v.shape[axis], "a spatial axis") - target
            gap = gap if crop else -gap
            before = gap - after if before is None else before
            after = gap - before
        if type(before) is not int or type(after) is not int or before < 0 or after < 0:
            raise c.refuse("the sides must be given as numbers that fit the image")
        low[axis], high[axis] = before, after
    if crop:
        stops = tuple(n - h for n, h in zip(v.shape, high, strict=True))
        return _back(c, c.b.slice(v, starts=tuple(low), stops=stops), first)
    return _back(c, c.b.pad(v, low=tuple(low), high=tuple(high)), first)


@operation("GaussianBlur")
def _blur(c: Call, images: Any, **k: Any) -> Value:
    v, first = _last(c, floats(c, images), k)
    two: Callable[[Any], list[Any]] = lambda o: [o, o] if isinstance(o, (int, float)) else list(o)
    size, sigma = two(option(c, k, "kernel_size", (3, 3))), two(option(c, k, "sigma", (1.0, 1.0)))
    single = v.rank == 3
    v = c.b.reshape(v, shape=(1, *v.shape)) if single else v
    lines = []
    for n, s in zip(size, sigma, strict=True):
        at = np.arange(n) - (n - 1) / 2
        line = np.exp(-0.5 * (at / s) ** 2)
        lines.append(line / line.sum())
    window = np.outer(lines[0], lines[1])
    channels = static(c, v.shape[-1], "the channel axis")
    kernel = c.b.constant(np.repeat(window[:, :, None, None], channels, 2), v.dtype)
    pads = tuple(same_pads(d, n, 1, 1) for d, n in zip(v.shape[1:3], size, strict=True))
    y = depthwise(c, v, kernel, (1, 1), pads, (1, 1))
    return _back(c, c.b.reshape(y, shape=y.shape[1:]) if single else y, first)


@operation("MapCoordinates")
def _map_coordinates(c: Call, inputs: Any, coordinates: Any, **k: Any) -> Value:
    """Values between grid points; places outside are handled by ``fill_mode`` constant or nearest."""
    v, at, b = value(c, inputs), floats(c, coordinates), c.b
    order, mode = int(option(c, k, "order", 1)), str(option(c, k, "fill_mode", "constant"))
    if order not in (0, 1) or mode not in ("constant", "nearest") or at.shape[0] != v.rank:
        raise c.refuse(f"order={order} with fill_mode={mode!r} is not supported")
    fill = value(c, option(c, k, "fill_value", 0), v.dtype)
    shape = at.shape[1:]
    axes = []
    for i in range(v.rank):
        place = b.reshape(along(c, at, 0, i, i + 1), shape=shape)
        n = static(c, v.shape[i], "an axis")
        if order == 0:
            axes.append([(b.cast(b.round(place), to=I32), None, n)])
        else:
            low = b.floor(place)
            share = b.sub(place, low)
            index = b.cast(low, to=I32)
            axes.append([(index, b.sub(1.0, share), n), (b.add(index, 1), share, n)])
    total: Value | None = None
    corners: list[list[Any]] = [[]]
    for options in axes:
        corners = [[*corner, o] for corner in corners for o in options]
    for corner in corners:
        index = [b.minimum(b.maximum(i, 0), n - 1) for i, _, n in corner]
        found = b.gather_nd(v, b.concat(*(b.reshape(i, shape=(*shape, 1)) for i in index), axis=len(shape)))
        if mode == "constant":
            inside = None
            for i, _, n in corner:
                here = b.logical_and(b.ge(i, 0), b.lt(i, n))
                inside = here if inside is None else b.logical_and(inside, here)
            found = b.where(inside, found, fill)
        for _, share, _ in corner:
            found = found if share is None else b.mul(floats(c, found), share)
        total = found if total is None else b.add(total, found)
    assert total is not None
    return c.cast(total, v.dtype) if v.dtype.is_float or order == 0 else c.cast(b.round(total), v.dtype)
