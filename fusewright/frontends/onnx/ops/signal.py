"""Sampling and transforms: GridSample, RoiAlign, Col2Im, DFT, STFT, MelWeightMatrix, Det.

Owns their formulas, from the ONNX operator pages. Transforms are products with constant matrices.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ....core.dims import Extent, product
from ....core.dtypes import F32, F64, I64
from ....ir.graph import Value
from ..call import Call, op
from .window import spatial, to_first, to_last

_MATRIX = 1 << 24
CUBIC = -0.75


def _wide(b: Any, x: Value) -> Value:
    return x if x.dtype in (F32, F64) else b.cast(x, to=F32)


def _reflected(b: Any, p: Value, low: float, high: float) -> Value:
    """p folded back at low and high until it lies between."""
    span = high - low
    if span <= 0:
        return b.mul(p, 0.0)
    below = b.lt(p, low)
    gap = b.where(below, b.sub(low, p), b.maximum(b.sub(p, high), 0.0))
    turns = b.trunc(b.div(gap, span))
    rest = b.sub(gap, b.mul(turns, span))
    even = b.eq(b.mod(turns, 2.0), 0.0)
    from_low, from_high = b.add(rest, low), b.sub(high, rest)
    folded = b.where(b.logical_xor(below, even), from_high, from_low)
    return b.where(b.logical_or(below, b.gt(p, high)), folded, p)


def _cubic(b: Any, t: Value, tap: int) -> Value:
    """Keys' weight of tap -1..2 at fraction t."""
    d = b.abs(b.sub(t, float(tap)))
    if tap in (0, 1):
        return b.add(b.mul(b.mul(b.sub(b.mul(d, CUBIC + 2), CUBIC + 3), d), d), 1.0)
    return b.sub(b.mul(b.add(b.mul(b.sub(b.mul(d, CUBIC), 5 * CUBIC), d), 8 * CUBIC), d), 4 * CUBIC)


@op("GridSample")
def _grid_sample(c: Call, x: Value, grid: Value) -> Value:
    b = c.b
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(c.text("mode", "linear"), c.text("mode", "linear"))
    padding, corners = c.text("padding_mode", "zeros"), bool(c.integer("align_corners", 0))
    rank = x.rank - 2
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise c.refuse(f"mode {mode!r}, padding_mode {padding!r}", "malformed")
    sizes = [d for d in x.shape[2:] if isinstance(d, int) and d > 0]
    if grid.rank != x.rank or grid.shape[-1] != rank or not 1 <= rank <= 3 or len(sizes) != rank:
        raise c.refuse(f"a grid {grid.type} for {x.type}", "malformed")
    line = to_last(b, _wide(b, x))
    where = _wide(b, grid)
    lead = grid.shape[:-1]
    axes = []
    for k, n in enumerate(sizes):
        # The grid's last axis counts from the innermost spatial axis.
        at = rank - 1 - k
        g = b.reshape(
            b.slice(where, starts=(*(None,) * (grid.rank - 1), at), stops=(*(None,) * (grid.rank - 1), at + 1)),
            shape=lead,
        )
        axes.append(_taps(b, g, n, mode, padding, corners, line.dtype))
    total: Value | None = None
    for combination in itertools.product(*axes):
        columns = [b.reshape(index, shape=(*lead, 1)) for index, _ in combination]
        index = columns[0] if rank == 1 else b.concat(*columns, axis=len(lead))
        term = b.gather_nd(line, index, batch_dims=1)
        for _, weight in combination:
            if weight is not None:
                term = _weighed(b, term, b.reshape(weight, shape=(*lead, 1)), padding)
        total = term if total is None else b.add(total, term)
    assert total is not None
    out = to_first(b, total)
    return out if out.dtype is x.dtype else b.cast(out, to=x.dtype)


def _weighed(b: Any, term: Value, weight: Value, padding: str) -> Value:
    y = b.mul(term, weight)
    # A pixel outside is zero, whatever stands at the place that was read for it.
    return b.where(b.eq(weight, 0.0), b.mul(weight, 0.0), y) if padding == "zeros" else y


def _taps(
    b: Any, g: Value, n: int, mode: str, padding: str, corners: bool, dtype: Any
) -> list[tuple[Value, Value | None]]:
    """(element, weight) of each tap along one axis; no weight means 1."""
    g = g if g.dtype is dtype else b.cast(g, to=dtype)
    if corners:
        p = b.mul(b.mul(b.add(g, 1.0), 0.5), float(n - 1))
        low, high = 0.0, float(n - 1)
    else:
        p = b.mul(b.sub(b.mul(b.add(g, 1.0), float(n)), 1.0), 0.5)
        low, high = -0.5, n - 0.5
    if mode == "nearest":
        p = b.round(p)
    if padding == "border":
        outside = b.logical_or(b.lt(p, low), b.gt(p, high))
        p = b.where(outside, b.clip(p, 0.0, float(n - 1)), p)
    elif padding == "reflection":
        p = _reflected(b, p, low, high)
    if mode == "nearest":
        return [_pixel(b, p, None, n, padding, low, high)]
    base = b.floor(p)
    t = b.sub(p, base)
    found = []
    for tap in (0, 1) if mode == "linear" else (-1, 0, 1, 2):
        weight = (b.sub(1.0, t) if tap == 0 else t) if mode == "linear" else _cubic(b, t, tap)
        found.append(_pixel(b, b.add(base, float(tap)), weight, n, padding, low, high))
    return found


def _pixel(
    b: Any, i: Value, weight: Value | None, n: int, padding: str, low: float, high: float
) -> tuple[Value, Value | None]:
    if padding == "zeros":
        inside = b.cast(b.logical_and(b.ge(i, 0.0), b.le(i, float(n - 1))), to=i.dtype)
        weight = inside if weight is None else b.where(b.eq(inside, 0.0), inside, weight)
    elif padding == "reflection":
        i = b.trunc(_reflected(b, i, low, high))
    return b.cast(b.clip(i, 0.0, float(n - 1)), to=I64), weight


@op("RoiAlign")
def _roi_align(c: Call, x: Value, rois: Value, batch: Value) -> Value:
    b = c.b
    mode, ratio, scale = c.text("mode", "avg"), c.integer("sampling_ratio", 0), c.number("spatial_scale", 1.0)
    height, width = c.integer("output_height", 1), c.integer("output_width", 1)
    half = c.opset >= 16 and c.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    if x.rank != 4 or rois.rank != 2 or mode not in ("avg", "max") or min(height, width) < 1:
        raise c.refuse(f"mode {mode!r}, {height}x{width} on {x.type}", "malformed")
    if ratio < 1:
        raise c.refuse("sampling_ratio 0 samples as often as the values of rois say", "data-dependent")
    h, w = x.shape[2:]
    if not isinstance(h, int) or not isinstance(w, int) or h * w == 0:
        raise c.refuse(f"a symbolic image {x.type}", "unsupported-option", "fix it with shapes=")
    n = rois.shape[0]
    box = b.mul(rois, scale)
    box = b.sub(box, 0.5) if half else box

    def lines(low: int, high: int, count: int, size: int) -> list[tuple[Value, Value]]:
        """Per neighbour (index, weight) [n, count * ratio] along one axis; weight 0 outside."""
        start = b.slice(box, starts=(None, low), stops=(None, low + 1))
        end = b.slice(box, starts=(None, high), stops=(None, high + 1))
        extent = b.sub(end, start)
        extent = extent if half else b.maximum(extent, 1.0)
        step = b.div(extent, float(count))
        offsets = np.array([p + (i + 0.5) / ratio for p in range(count) for i in range(ratio)])
        p = b.add(start, b.mul(step, b.constant(offsets, rois.dtype)))
        ok = b.cast(b.logical_and(b.ge(p, -1.0), b.le(p, float(size))), to=rois.dtype)
        p = b.clip(p, 0.0, float(size - 1))
        first = b.floor(p)
        t = b.sub(p, first)
        second = b.minimum(b.add(first, 1.0), float(size - 1))
        return [(b.cast(first, to=I64), b.mul(b.sub(1.0, t), ok)), (b.cast(second, to=I64), b.mul(t, ok))]

    rows, cols = lines(1, 3, height, h), lines(0, 2, width, w)
    shape = (n, height * ratio, width * ratio)
    line = to_last(b, x)
    image = b.broadcast_to(b.reshape(b.cast(batch, to=I64), shape=(n, 1, 1)), shape=shape)
    terms = []
    for (yi, yw), (xi, xw) in itertools.product(rows, cols):
        yy = b.broadcast_to(b.reshape(yi, shape=(n, shape[1], 1)), shape=shape)
        xx = b.broadcast_to(b.reshape(xi, shape=(n, 1, shape[2])), shape=shape)
        index = b.concat(*(b.reshape(v, shape=(*shape, 1)) for v in (image, yy, xx)), axis=3)
        weight = b.mul(b.reshape(yw, shape=(n, shape[1], 1, 1)), b.reshape(xw, shape=(n, 1, shape[2], 1)))
        terms.append(b.mul(b.gather_nd(line, index), weight))
    y = terms[0]
    for term in terms[1:]:
        y = b.maximum(y, term) if mode == "max" else b.add(y, term)
    y = b.reshape(y, shape=(n, height, ratio, width, ratio, x.shape[1]))
    y = b.reduce_max(y, axes=(2, 4)) if mode == "max" else b.reduce_mean(y, axes=(2, 4))
    return to_first(b, y)


@op("Col2Im")
def _col2im(c: Call, x: Value, image: Value, block: Value) -> Value:
    b = c.b
    size, window = c.known_ints(image, "image_shape"), c.known_ints(block, "block_shape")
    rank = len(size)
    if x.rank != 3 or len(window) != rank or rank < 1 or min((*size, *window)) < 1:
        raise c.refuse(f"image {size}, block {window} on {x.type}", "malformed")
    strides, dilations = spatial(c, "strides", rank), spatial(c, "dilations", rank)
    pads = c.ints("pads", (0,) * (2 * rank))
    if len(pads) != 2 * rank or min(pads) < 0:
        raise c.refuse(f"pads {pads}", "malformed")
    counts = [
        (size[i] + pads[i] + pads[i + rank] - (window[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)
    ]
    taps, blocks = int(np.prod(window, dtype=object)), int(np.prod(counts, dtype=object))
    if min(counts) < 1 or taps * blocks > _MATRIX or x.shape[2] != blocks:
        raise c.refuse(f"{counts} blocks do not fit {x.type}", "malformed")
    place = np.zeros((taps, *counts), np.int64)
    inside = np.ones((taps, *counts), bool)
    for t, tap in enumerate(itertools.product(*(range(k) for k in window))):
        for i in range(rank):
            at = np.arange(counts[i]) * strides[i] + tap[i] * dilations[i] - pads[i]
            at = at.reshape((-1,) + (1,) * (rank - 1 - i))
            inside[t] &= (at >= 0) & (at < size[i])
            place[t] = place[t] * size[i] + at
    flat = np.where(inside, place, -1).reshape(-1, 1)
    n = x.shape[0]
    channels = x.shape[1] // taps
    pixels = int(np.prod(size, dtype=object))
    parts = b.reshape(x, shape=(n, channels, taps * blocks))
    y = b.scatter_nd(
        b.full((pixels, n, channels), 0.0, x.dtype), b.constant(flat), b.transpose(parts, perm=(2, 0, 1)),
        reduction="add",
    )  # fmt: skip
    return b.reshape(b.transpose(y, perm=(1, 2, 0)), shape=(n, channels, *size))


def _dft_matrix(c: Call, size: int, parts: int, n: int, inverse: bool, onesided: bool) -> tuple[np.ndarray, int, int]:
    """(matrix from (size, parts) to (out, out parts), out, out parts)."""
    out = n // 2 + 1 if onesided and not inverse else n
    used = min(size, n // 2 + 1 if onesided and inverse else n)
    out_parts = 1 if onesided and inverse else 2
    if size * parts * out * out_parts > _MATRIX or out > _MATRIX:
        raise c.refuse(f"a transform of {n} points is too long for a matrix")
    j, k = np.arange(used), np.arange(out)
    angle = 2 * np.pi * (np.outer(j, k) % n) / n
    matrix = np.zeros((size, parts, out, out_parts))
    cos, sin = np.cos(angle), np.sin(angle) * (1 if inverse else -1)
    if onesided and inverse:
        # The missing half is the conjugate of the other; the ends have no partner.
        twice = np.where((j == 0) | ((n % 2 == 0) & (j == n // 2)), 1.0, 2.0)[:, None]
        matrix[:used, 0, :, 0] = cos * twice
        if parts == 2:
            matrix[:used, 1, :, 0] = -sin * twice
    else:
        matrix[:used, 0, :, 0], matrix[:used, 0, :, 1] = cos, sin
        if parts == 2:
            matrix[:used, 1, :, 0], matrix[:used, 1, :, 1] = -sin, cos
    return matrix.reshape(size * parts, out * out_parts) / (n if inverse else 1), out, out_parts


def _transform(c: Call, x: Value, axis: int, n: Any, inverse: bool, onesided: bool) -> Value:
    b = c.b
    size, parts = x.shape[axis], x.shape[-1]
    if not isinstance(size, int) or not isinstance(parts, int) or parts not in (1, 2) or axis == x.rank - 1:
        raise c.refuse(f"axis {axis} of {x.type} has no fixed extent", "unsupported-option", "fix it with shapes=")
    if n is None:
        n = 2 * (size - 1) if inverse and onesided else size
    if n < 1:
        raise c.refuse(f"a transform of {n} points", "malformed")
    matrix, out, out_parts = _dft_matrix(c, size, parts, n, inverse, onesided)
    wide = _wide(b, x)
    rest = [i for i in range(x.rank - 1) if i != axis]
    front = [x.shape[i] for i in rest]
    moved = b.transpose(wide, perm=(*rest, axis, x.rank - 1))
    flat = b.reshape(moved, shape=(product(front), size * parts))
    y = b.reshape(b.matmul(flat, b.constant(matrix, wide.dtype)), shape=(*front, out, out_parts))
    where = list(range(len(rest)))
    y = b.transpose(y, perm=(*where[:axis], len(rest), *where[axis:], len(rest) + 1))
    return y if wide is x else b.cast(y, to=x.dtype)


@op("DFT")
def _dft(c: Call, x: Value, length: Value | None = None, axis: Value | None = None) -> Value:
    if c.opset >= 20:
        at = -2 if axis is None else int(c.scalar(axis, "axis"))
    else:
        at = c.integer("axis", 1)
    n = None if length is None else int(c.scalar(length, "dft_length"))
    return _transform(c, x, c.axis(at, x.rank), n, bool(c.integer("inverse", 0)), bool(c.integer("onesided", 0)))


@op("STFT")
def _stft(c: Call, x: Value, step: Value, window: Value | None = None, length: Value | None = None) -> Value:
    b = c.b
    hop = int(c.scalar(step, "frame_step"))
    size: Extent = x.shape[1] if x.rank == 3 else -1
    n = int(c.scalar(length, "frame_length")) if length is not None else None
    if window is not None:
        known = window.shape[0]
        if not isinstance(known, int) or (n is not None and n != known):
            raise c.refuse(f"a window {window.type} for frames of {n}", "malformed")
        n = known
    if not isinstance(size, int) or hop < 1 or n is None or not 1 <= n <= size:
        raise c.refuse(f"frames of {n} every {hop} on {x.type}", "unsupported-option", "fix the length with shapes=")
    frames = 1 + (size - n) // hop
    if frames * n > _MATRIX:
        raise c.refuse(f"{frames} frames of {n}")
    index = np.arange(frames)[:, None] * hop + np.arange(n)
    y = b.gather(x, b.constant(index.astype(np.int64)), axis=1)
    if window is not None:
        y = b.mul(y, b.reshape(window, shape=(n, 1)))
    return _transform(c, y, 2, n, False, bool(c.integer("onesided", 1)))


@op("MelWeightMatrix")
def _mel(c: Call, bins: Value, length: Value, rate: Value, low: Value, high: Value) -> Value:
    count, n = int(c.scalar(bins, "num_mel_bins")), int(c.scalar(length, "dft_length"))
    sampling = float(c.scalar(rate, "sample_rate"))
    first, last = float(c.scalar(low, "lower_edge_hertz")), float(c.scalar(high, "upper_edge_hertz"))
    if count < 1 or n < 1 or sampling <= 0 or (n // 2 + 1) * count > _MATRIX:
        raise c.refuse(f"{count} bins of {n} points", "malformed")
    spectrum = n // 2 + 1
    mel_low, mel_high = (2595 * np.log10(1 + f / 700) for f in (first, last))
    mel = np.arange(count + 2) * ((mel_high - mel_low) / (count + 2)) + mel_low
    edges = (((n + 1) * (700 * (10 ** (mel / 2595) - 1))) // sampling).astype(np.int64)
    if edges.min() < 0 or edges.max() > spectrum:
        raise c.refuse("the edges lie outside the spectrum", "malformed")
    out = np.zeros((spectrum, count))
    for i in range(count):
        a, m, z = edges[i : i + 3]
        if m == a:
            out[m, i] = 1
        else:
            out[a : m + 1, i] = (np.arange(a, m + 1) - a) / (m - a)
        if z > m:
            out[m:z, i] = (z - np.arange(m, z)) / (z - m)
    return c.b.constant(out, c.element("output_datatype", F32))


@op("Det")
def _det(c: Call, x: Value) -> Value:
    n = x.shape[-1] if x.rank >= 2 else None
    if not isinstance(n, int) or x.shape[-2] != n or not 1 <= n <= 4:
        raise c.refuse(f"matrices of {x.type}; up to 4 x 4 are supported")
    b, lead = c.b, (None,) * (x.rank - 2)

    def entry(i: int, j: int) -> Value:
        found = b.slice(x, starts=(*lead, i, j), stops=(*lead, i + 1, j + 1))
        return b.reshape(found, shape=x.shape[:-2])

    def minor(row: int, columns: tuple[int, ...]) -> Value:
        if len(columns) == 1:
            return entry(row, columns[0])
        total: Value | None = None
        for k, j in enumerate(columns):
            term = b.mul(entry(row, j), minor(row + 1, columns[:k] + columns[k + 1 :]))
            total = term if total is None else b.sub(total, term) if k % 2 else b.add(total, term)
        assert total is not None
        return total

    return minor(0, tuple(range(n)))
