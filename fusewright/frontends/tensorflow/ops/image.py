"""Image ops: resizing, colour, crops.

Owns TensorFlow's coordinate conventions; where the IR's resize lacks one, weights become a constant matrix per axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Dim, Extent
from ....core.dtypes import F32, I32
from ....ir.graph import Value
from ...resizing import resize_axis
from ...slicing import pick
from ..lower import Ctx, op, same_type
from ..values import Item
from .shape import cut


def _scale(n_in: int, n_out: int, align: bool) -> np.float32:
    if align and n_out > 1:
        return np.float32((n_in - 1) / np.float32(n_out - 1))
    return np.float32(n_in / np.float32(max(n_out, 1)))


def _positions(c: Ctx, n_in: int, n_out: int) -> np.ndarray:
    """Source coordinates as TensorFlow computes them, in float32."""
    scale = _scale(n_in, n_out, c.b("align_corners", False))
    i = np.arange(n_out, dtype=np.float32)
    return (i + np.float32(0.5)) * scale - np.float32(0.5) if c.b("half_pixel_centers", False) else i * scale


def _nearest(c: Ctx, n_in: int, n_out: int) -> np.ndarray:
    scale = _scale(n_in, n_out, c.b("align_corners", False))
    i = np.arange(n_out, dtype=np.float32)
    p = (i + np.float32(0.5)) * scale if c.b("half_pixel_centers", False) else i * scale
    whole = np.floor(p + np.float32(0.5)) if c.b("align_corners", False) else np.floor(p)
    return np.clip(whole, 0, n_in - 1).astype(np.int64)


def _bilinear(c: Ctx, n_in: int, n_out: int) -> np.ndarray:
    p = _positions(c, n_in, n_out)
    low = np.floor(p)
    t = (p - low).astype(np.float64)
    matrix = np.zeros((n_out, n_in))
    rows = np.arange(n_out)
    np.add.at(matrix, (rows, np.clip(low, 0, n_in - 1).astype(int)), 1 - t)
    np.add.at(matrix, (rows, np.clip(low + 1, 0, n_in - 1).astype(int)), t)
    return matrix


def _bicubic(c: Ctx, n_in: int, n_out: int) -> np.ndarray:
    """Keys' kernel over a table of 1,024 positions; with half pixel centres a = -0.5 and outside taps are dropped."""
    half = c.b("half_pixel_centers", False)
    a = -0.5 if half else -0.75
    p = _positions(c, n_in, n_out)
    low = np.floor(p)
    t = np.rint((p - low) * np.float32(1024)) / 1024.0
    matrix = np.zeros((n_out, n_in))
    rows = np.arange(n_out)

    def near(x: np.ndarray) -> np.ndarray:
        out: np.ndarray = ((a + 2) * x - (a + 3)) * x * x + 1
        return out

    def far(x: np.ndarray) -> np.ndarray:
        out: np.ndarray = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return out

    for k, w in ((-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))):
        at = low + k
        if half:
            w = np.where((at >= 0) & (at < n_in), w, 0)
        np.add.at(matrix, (rows, np.clip(at, 0, n_in - 1).astype(int)), w)
    if half:
        total = matrix.sum(1, keepdims=True)
        matrix = np.where(np.abs(total) >= 1000 * np.finfo(np.float32).tiny, matrix / np.where(total == 0, 1, total), 0)
    return matrix


def _area(c: Ctx, n_in: int, n_out: int) -> np.ndarray:
    scale = float(_scale(n_in, n_out, c.b("align_corners", False)))
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        start, stop = i * scale, (i + 1) * scale
        for k in range(int(np.floor(start)), int(np.ceil(stop))):
            share = (scale if k + 1 > stop else k + 1 - start) if k < start else (stop - k if k + 1 > stop else 1.0)
            matrix[i, min(max(k, 0), n_in - 1)] += share / scale
    return matrix


def _along(c: Ctx, x: Value, axis: int, matrix: np.ndarray) -> Value:
    b, front, rest = c.bld, x.shape[:axis], x.shape[axis + 1 :]
    flat = b.reshape(x, shape=(_count(front), x.shape[axis], _count(rest)))
    out: Value = b.reshape(b.matmul(c.const(matrix, x), flat), shape=(*front, matrix.shape[0], *rest))
    return out


def _count(dims: tuple[Extent, ...]) -> Extent:
    total: Extent = 1
    for d in dims:
        total = total * d
    return total


@op("ResizeNearestNeighbor", "ResizeBilinear", "ResizeBicubic", "ResizeArea", raw=True)
def _resize(c: Ctx, item: Item, size: Item) -> Any:
    x, sizes = c.v(item), c.extents(size, "the new size")
    kind = c.node.op.removeprefix("Resize")
    if kind != "NearestNeighbor":
        x = same_type(c, x, F32)
    for axis, n in enumerate(sizes, 1):
        have = x.shape[axis]
        if isinstance(have, Dim) or isinstance(n, Dim):
            x = _symbolic(c, x, axis, have, n, kind)
        elif kind == "NearestNeighbor":
            x = c.bld.gather(x, c.bld.constant(_nearest(c, have, n)), axis=axis)
        else:
            c.limits.check_shape((n, have), 8, 0, c.where)
            form = {"Bilinear": _bilinear, "Bicubic": _bicubic, "Area": _area}[kind]
            x = _along(c, x, axis, form(c, have, n))
    return x


def _symbolic(c: Ctx, x: Value, axis: int, have: Extent, n: Extent, kind: str) -> Value:
    """Along an axis of symbolic extent coordinates are computed during the run, unless elements are only repeated."""
    b, aligned = c.bld, c.b("align_corners", False)
    times = n // have if not isinstance(have, int) else n
    if kind == "NearestNeighbor" and not aligned and isinstance(times, int) and times * have == n:
        wide = b.reshape(x, shape=(*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
        wide = b.broadcast_to(wide, shape=(*x.shape[: axis + 1], times, *x.shape[axis + 1 :]))
        out: Value = b.reshape(wide, shape=(*x.shape[:axis], n, *x.shape[axis + 1 :]))
        return out
    if kind not in ("NearestNeighbor", "Bilinear"):
        raise c.refuse(f"resizing a symbolic extent {have} to {n} is not supported", "fix it with shapes=")
    half = c.b("half_pixel_centers", False)
    coordinates = "align_corners" if aligned else "half_pixel" if half else "asymmetric"
    return resize_axis(b, x, axis, n, kind == "Bilinear", coordinates)


_SAMPLERS = {"triangle": "linear", "keyscubic": "cubic", "lanczos3": "lanczos3", "lanczos5": "lanczos5"}


@op("ScaleAndTranslate", raw=True)
def _scale_and_translate(c: Ctx, item: Item, size: Item, scale: Item, translation: Item) -> Any:
    """What tf.image.resize makes of the other samplers and of antialias: the whole image on the whole result."""
    x, sizes = same_type(c, c.v(item), F32), c.extents(size, "the new size")
    method, antialias = _SAMPLERS.get(c.s("kernel_type", "lanczos3")), c.b("antialias", True)
    fixed = [e for e in (*x.shape[1:3], *sizes) if isinstance(e, int)]
    if method is None or len(fixed) != 4:
        raise c.refuse("only fixed sizes and the samplers of tf.image.resize are supported", "fix sizes with shapes=")
    given = c.array(scale, "the scale").ravel(), c.array(translation, "the translation").ravel()
    whole = [np.float32(n) / np.float32(max(have, 1)) for have, n in zip(fixed[:2], fixed[2:], strict=True)]
    if not np.allclose(given[0], whole, rtol=1e-6, atol=0) or np.any(given[1]):
        raise c.refuse("a part of the image, or a translated one, is not supported")
    return c.bld.resize(x, sizes=tuple(sizes), method=method, antialias=antialias, edge="drop")


# -- colour ------------------------------------------------------------------------------------------------------------


@op("AdjustContrastv2")
def _contrast(c: Ctx, x: Value, factor: Value) -> Any:
    b, kind = c.bld, x.dtype
    wide, factor = same_type(c, x, F32), same_type(c, factor, F32)
    mean = b.reduce_mean(wide, axes=(x.rank - 3, x.rank - 2), keepdims=True)
    return same_type(c, b.add(b.mul(b.sub(wide, mean), factor), mean), kind)


def _channels(c: Ctx, x: Value) -> list[Value]:
    if x.shape[-1] != 3:
        raise c.refuse(f"takes 3 channels, not {x.shape[-1]}", code="malformed")
    return cut(c, x, x.rank - 1, [1, 1, 1])


def _to_hsv(c: Ctx, r: Value, g: Value, bl: Value) -> tuple[Value, Value, Value]:
    """tensorflow/core/kernels/colorspace_op.h: hue in turns."""
    b = c.bld
    zero, one = c.const(0, r), c.const(1, r)
    most = b.maximum(b.maximum(r, g), bl)
    spread = b.sub(most, b.minimum(b.minimum(r, g), bl))
    s = b.where(b.gt(most, zero), b.div(spread, most), zero)
    norm = b.div(c.const(1 / 6, r), spread)
    by_r = b.mul(norm, b.sub(g, bl))
    by_g = b.add(b.mul(norm, b.sub(bl, r)), c.const(2 / 6, r))
    by_b = b.add(b.mul(norm, b.sub(r, g)), c.const(4 / 6, r))
    h = b.where(b.eq(r, most), by_r, b.where(b.eq(g, most), by_g, by_b))
    h = b.where(b.gt(spread, zero), h, zero)
    return b.where(b.lt(h, zero), b.add(h, one), h), s, most


def _sectors(c: Ctx, h: Value) -> tuple[Value, Value, Value]:
    """How far red, green and blue are from the least to the greatest channel at a hue."""
    b = c.bld
    zero, one = c.const(0, h), c.const(1, h)
    six = b.mul(h, c.const(6, h))

    def clamped(x: Value) -> Value:
        out: Value = b.clip(x, zero, one)
        return out

    dr = clamped(b.sub(b.abs(b.sub(six, c.const(3, h))), one))
    dg = clamped(b.sub(c.const(2, h), b.abs(b.sub(six, c.const(2, h)))))
    db = clamped(b.sub(c.const(2, h), b.abs(b.sub(six, c.const(4, h)))))
    return dr, dg, db


def _to_rgb(c: Ctx, h: Value, s: Value, v: Value) -> list[Value]:
    b = c.bld
    rest = b.sub(c.const(1, s), s)
    return [b.mul(b.add(rest, b.mul(s, d)), v) for d in _sectors(c, h)]


@op("RGBToHSV")
def _rgb_to_hsv(c: Ctx, x: Value) -> Any:
    return c.bld.concat(*_to_hsv(c, *_channels(c, x)), axis=x.rank - 1)


@op("HSVToRGB")
def _hsv_to_rgb(c: Ctx, x: Value) -> Any:
    return c.bld.concat(*_to_rgb(c, *_channels(c, x)), axis=x.rank - 1)


@op("AdjustHue")
def _hue(c: Ctx, x: Value, delta: Value) -> Any:
    b, kind = c.bld, x.dtype
    r, g, bl = _channels(c, same_type(c, x, F32))
    h, _, most = _to_hsv(c, r, g, bl)
    least = b.minimum(b.minimum(r, g), bl)
    turned = b.add(h, same_type(c, delta, F32))
    turned = b.sub(turned, b.floor(turned))
    # Least and greatest stay what they are, below 0 too.
    rows = [b.add(least, b.mul(d, b.sub(most, least))) for d in _sectors(c, turned)]
    return same_type(c, b.concat(*rows, axis=x.rank - 1), kind)


@op("AdjustSaturation")
def _saturation(c: Ctx, x: Value, scale: Value) -> Any:
    b, kind = c.bld, x.dtype
    h, s, v = _to_hsv(c, *_channels(c, same_type(c, x, F32)))
    s = b.clip(b.mul(s, same_type(c, scale, F32)), c.const(0, s), c.const(1, s))
    return same_type(c, b.concat(*_to_rgb(c, h, s, v), axis=x.rank - 1), kind)


# -- crops -------------------------------------------------------------------------------------------------------------


@op("CropAndResize", raw=True)
def _crop(c: Ctx, image: Item, boxes: Item, which: Item, size: Item) -> Any:
    """tensorflow/core/kernels/image/crop_and_resize_op.cc: corners aligned; outside the image a fixed value."""
    b = c.bld
    x, box, index = same_type(c, c.v(image), F32), c.v(boxes), c.v(which)
    out_h, out_w = c.ints(size, "the crop's size")
    height, width = x.shape[1], x.shape[2]
    if isinstance(height, Dim) or isinstance(width, Dim):
        raise c.refuse("the image's size is not fixed", "fix it with shapes=")
    (y1, x1, y2, x2) = (pick(c.bld, box, 1, k) for k in range(4))
    ys = _crop_positions(c, y1, y2, height, out_h)
    xs = _crop_positions(c, x1, x2, width, out_w)
    rows = b.reshape(index, shape=(*index.shape, 1, 1, 1))
    n = box.shape[0]

    def corner(yi: Value, xi: Value) -> Value:
        parts = [
            b.broadcast_to(b.cast(rows, to=I32), shape=(n, out_h, out_w, 1)),
            b.broadcast_to(b.reshape(yi, shape=(n, out_h, 1, 1)), shape=(n, out_h, out_w, 1)),
            b.broadcast_to(b.reshape(xi, shape=(n, 1, out_w, 1)), shape=(n, out_h, out_w, 1)),
        ]
        found: Value = b.gather_nd(x, b.concat(*parts, axis=3))
        return found

    if c.s("method", "bilinear") == "nearest":
        half = c.const(0.5, F32)
        # roundf: halves away from zero; what lies inside is not negative.
        values = corner(b.cast(b.floor(b.add(ys, half)), to=I32), b.cast(b.floor(b.add(xs, half)), to=I32))
    else:
        y0, x0 = b.floor(ys), b.floor(xs)
        ty = b.reshape(b.sub(ys, y0), shape=(n, out_h, 1, 1))
        tx = b.reshape(b.sub(xs, x0), shape=(n, 1, out_w, 1))
        top_i, low_i = b.cast(y0, to=I32), b.cast(b.ceil(ys), to=I32)
        left_i, right_i = b.cast(x0, to=I32), b.cast(b.ceil(xs), to=I32)

        def mix(p: Value, q: Value, t: Value) -> Value:
            found: Value = b.add(p, b.mul(b.sub(q, p), t))
            return found

        top = mix(corner(top_i, left_i), corner(top_i, right_i), tx)
        low = mix(corner(low_i, left_i), corner(low_i, right_i), tx)
        values = mix(top, low, ty)
    inside = b.logical_and(
        b.reshape(_between(c, ys, height), shape=(n, out_h, 1, 1)),
        b.reshape(_between(c, xs, width), shape=(n, 1, out_w, 1)),
    )
    return b.where(inside, values, c.const(c.f("extrapolation_value", 0.0), F32))


def _crop_positions(c: Ctx, low: Value, high: Value, size: int, count: int) -> Value:
    b, last = c.bld, c.const(size - 1, F32)
    low, high = (b.reshape(v, shape=(*v.shape, 1)) for v in (low, high))
    if count > 1:
        step = b.div(b.mul(b.sub(high, low), last), c.const(count - 1, F32))
        line = b.reshape(b.iota(shape=(count,), axis=0, dtype=F32), shape=(1, count))
        out: Value = b.add(b.mul(low, last), b.mul(line, step))
        return out
    out = b.mul(b.mul(c.const(0.5, F32), b.add(low, high)), last)
    return out


def _between(c: Ctx, p: Value, size: int) -> Value:
    out: Value = c.bld.logical_and(c.bld.ge(p, c.const(0, p)), c.bld.le(p, c.const(size - 1, p)))
    return out
