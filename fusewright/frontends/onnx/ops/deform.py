"""Deformable convolution: bilinear samples at learned offsets, then a product of matrices.

Owns where a sample lies and what counts as outside (zero). Two spatial axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dtypes import I64
from ....ir.graph import Value
from ..call import Call, op
from .window import channel, fixed, spatial


@op("DeformConv")
def _deform_conv(
    c: Call, x: Value, w: Value, offset: Value, bias: Value | None = None, mask: Value | None = None
) -> Any:
    b = c.b
    if x.rank != 4 or w.rank != 4 or offset.rank != 4:
        raise c.refuse(f"two spatial axes are supported, not {x.type} and {w.type}")
    kernel, strides, dilations = fixed(c, w), spatial(c, "strides", 2), spatial(c, "dilations", 2)
    groups, parts = c.integer("group", 1), c.integer("offset_group", 1)
    pads = c.ints("pads", (0, 0, 0, 0))
    n, channels, height, width = x.shape
    rows, columns = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    fits = isinstance(channels, int) and isinstance(w.shape[0], int) and len(pads) == 4 and min(groups, parts) >= 1
    if not fits or channels % parts or channels % groups or w.shape[0] % groups or offset.shape[1] != 2 * taps * parts:
        raise c.refuse("groups, offsets and channels do not fit each other", "malformed")
    if c.ints("kernel_shape", kernel) != kernel or w.shape[1] != channels // groups:
        raise c.refuse(f"the kernel {w.type} does not fit", "malformed")
    # Offsets as [N, part, tap, 2, row, column]; positions count from the padded corner.
    shift = b.reshape(offset, shape=(n, parts, taps, 2, rows, columns))
    places = []
    for axis, line in ((0, rows), (1, columns)):
        step = b.mul(b.cast(b.iota(shape=(line,), axis=0, dtype=I64), to=x.dtype), c.like(strides[axis], x))
        tap = np.arange(taps).reshape(kernel)
        index = (tap // kernel[1] if axis == 0 else tap % kernel[1]).reshape(taps)
        base = b.constant((index * dilations[axis] - pads[axis]).astype(x.dtype.compute), x.dtype)
        grid = b.add(b.reshape(step, shape=(line, 1) if axis == 0 else (1, line)), b.reshape(base, shape=(taps, 1, 1)))
        starts, stops = [0] * 6, [*shift.shape]
        starts[3], stops[3] = axis, axis + 1
        part = b.slice(shift, starts=tuple(starts), stops=tuple(stops))
        places.append(b.add(b.reshape(part, shape=(n, parts, taps, rows, columns)), grid))
    flat = b.reshape(x, shape=(n * parts, channels // parts, height * width))
    table = b.transpose(flat, perm=(0, 2, 1))
    total: Value | None = None
    for down in (0, 1):
        for right in (0, 1):
            sample = _corner(c, table, places, (down, right), (height, width))
            total = sample if total is None else b.add(total, sample)
    assert total is not None
    sampled = b.reshape(total, shape=(n, parts, taps, rows, columns, channels // parts))
    if mask is not None:
        sampled = b.mul(sampled, b.reshape(mask, shape=(n, parts, taps, rows, columns, 1)))
    # [N, row, column, group, channel of the group, tap] against [group, channel, tap, result].
    moved = b.transpose(sampled, perm=(0, 3, 4, 1, 5, 2))
    deep = channels // groups * taps
    left = b.transpose(b.reshape(moved, shape=(n * rows * columns, groups, deep)), perm=(1, 0, 2))
    out = w.shape[0] // groups
    right_side = b.transpose(b.reshape(w, shape=(groups, out, deep)), perm=(0, 2, 1))
    y = b.transpose(b.matmul(left, right_side), perm=(1, 0, 2))
    y = b.transpose(b.reshape(y, shape=(n, rows, columns, w.shape[0])), perm=(0, 3, 1, 2))
    return y if bias is None else b.add(y, channel(b, bias, 4))


def _corner(c: Call, table: Value, places: list[Value], corner: tuple[int, int], sizes: tuple[Any, Any]) -> Value:
    """The samples' share of one of the four pixels around them: [N * part, tap * row * column, channel]."""
    b = c.b
    index: Value | None = None
    weight: Value | None = None
    for place, far, size in zip(places, corner, sizes, strict=True):
        low = b.floor(place)
        rest = b.sub(place, low)
        share = rest if far else b.sub(c.like(1, place), rest)
        at = b.add(b.cast(low, to=I64), far)
        extent = b.dim(size)
        inside = b.logical_and(b.ge(at, 0), b.lt(at, extent))
        share = b.where(inside, share, c.like(0, place))
        at = b.minimum(b.maximum(at, b.constant(0, I64)), b.sub(extent, 1))
        index = at if index is None else b.add(b.mul(index, extent), at)
        weight = share if weight is None else b.mul(weight, share)
    assert index is not None and weight is not None
    n, parts, taps, rows, columns = index.shape
    lines = (n * parts, taps * rows * columns)
    picked: Value = b.gather(table, b.reshape(index, shape=lines), axis=1, batch_dims=1)
    out: Value = b.mul(picked, b.reshape(weight, shape=(*lines, 1)))
    return out
