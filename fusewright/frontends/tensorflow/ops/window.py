"""Sliding windows: convolutions, pooling, patches, normalisation of channels.

Owns padding rules and data formats; the IR is channels-last, so NCHW is transposed on the way in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from ....core.dims import Dim, Extent, product
from ....core.dtypes import F32, I64
from ....ir.graph import Value
from ....ir.ops.window import same_pads, window_extent
from ..lower import Ctx, op, same_type
from ..values import Item

Pads = tuple[tuple[Extent, Extent], ...]


class Layout:
    """A data format: where channels and spatial axes stand in attributes, and how to get channels-last and back."""

    def __init__(self, c: Ctx, rank: int, default: str = "") -> None:
        self.c, self.rank = c, rank
        form = c.s("data_format", default or {3: "NWC", 4: "NHWC", 5: "NDHWC"}[rank])
        if form not in ("NWC", "NHWC", "NDHWC", "NCW", "NCHW", "NCDHW"):
            raise c.refuse(f"data format {form} is not supported")
        self.first = form[1] == "C"

    @property
    def spatial(self) -> range:
        return range(2, self.rank) if self.first else range(1, self.rank - 1)

    def enter(self, x: Value) -> Value:
        out: Value = self.c.bld.transpose(x, perm=(0, *range(2, self.rank), 1)) if self.first else x
        return out

    def leave(self, x: Value) -> Value:
        out: Value = self.c.bld.transpose(x, perm=(0, self.rank - 1, *range(1, self.rank - 1))) if self.first else x
        return out

    def steps(self, name: str, default: int | None = None) -> tuple[int, ...]:
        """A per-axis attribute's spatial part. Batch and channels must be 1."""
        values = self.c.list_ints(name) or ([default] * self.rank if default is not None else [])
        if len(values) != self.rank:
            raise self.c.refuse(f"{name} {values} does not fit rank {self.rank}", code="malformed")
        channel = 1 if self.first else self.rank - 1
        if values[0] != 1 or values[channel] != 1:
            raise self.c.refuse(f"{name} {values} over the batch or the channels is not supported")
        return tuple(int(values[a]) for a in self.spatial)

    def pads(self, x: Value, window: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Pads:
        kind = self.c.s("padding")
        if kind == "VALID":
            return ((0, 0),) * len(window)
        if kind == "SAME":
            sizes = x.shape[1:-1]
            return tuple(same_pads(n, k, s, d) for n, k, s, d in zip(sizes, window, strides, dilations, strict=True))
        if kind == "EXPLICIT":
            flat = self.c.list_ints("explicit_paddings")
            if len(flat) == 2 * self.rank:
                return tuple((flat[2 * a], flat[2 * a + 1]) for a in self.spatial)
        raise self.c.refuse(f"padding {kind!r} is not supported")


def _kernel(c: Ctx, w: Value) -> tuple[int, ...]:
    if any(isinstance(d, Dim) for d in w.shape):
        raise c.refuse("the kernel's shape is not fixed")
    return tuple(int(d) for d in w.shape if not isinstance(d, Dim))


@op("Conv2D", "Conv3D")
def _conv(c: Ctx, x: Value, w: Value) -> Any:
    layout = Layout(c, x.rank)
    x, shape = layout.enter(x), _kernel(c, w)
    strides, dilations = layout.steps("strides"), layout.steps("dilations", 1)
    groups = _groups(c, x, shape[-2])
    pads = layout.pads(x, shape[:-2], strides, dilations)
    return layout.leave(c.bld.conv(x, w, strides=strides, pads=pads, dilations=dilations, groups=groups))


def _groups(c: Ctx, x: Value, inner: int) -> int:
    channels = x.shape[-1]
    if not isinstance(channels, int) or inner < 1 or channels % inner:
        raise c.refuse(f"{channels} channels do not fit a kernel of {inner}", code="malformed")
    return channels // inner


@op("DepthwiseConv2dNative")
def _depthwise(c: Ctx, x: Value, w: Value) -> Any:
    layout = Layout(c, x.rank)
    x, shape = layout.enter(x), _kernel(c, w)
    strides, dilations = layout.steps("strides"), layout.steps("dilations", 1)
    flat = c.bld.reshape(w, shape=(*shape[:2], 1, shape[2] * shape[3]))
    pads = layout.pads(x, shape[:2], strides, dilations)
    return layout.leave(c.bld.conv(x, flat, strides=strides, pads=pads, dilations=dilations, groups=shape[2]))


@op("Conv2DBackpropInput", "Conv3DBackpropInputV2", "Conv3DBackpropInput", raw=True)
def _conv_transpose(c: Ctx, sizes: Item, kernel: Item, item: Item) -> Any:
    w, y = c.v(kernel), c.v(item)
    layout = Layout(c, w.rank)
    y, shape = layout.enter(y), _kernel(c, w)
    strides, dilations = layout.steps("strides"), layout.steps("dilations", 1)
    wanted = c.extents(sizes, "the size of the result")
    if len(wanted) == w.rank:
        target = [wanted[a] for a in layout.spatial]
        batch, channels = wanted[0], wanted[1 if layout.first else -1]
    elif len(wanted) == w.rank - 2:
        target, batch, channels = wanted, y.shape[0], shape[-2]
    else:
        raise c.refuse(f"the size {wanted} does not fit rank {w.rank}", code="malformed")
    if not isinstance(channels, int) or channels % shape[-2]:
        raise c.refuse(f"{channels} channels do not fit a kernel of {shape[-2]}", code="malformed")
    if c.s("padding") == "SAME":
        pads = [same_pads(n, k, s, d) for n, k, s, d in zip(target, shape[:-2], strides, dilations, strict=True)]
    elif c.s("padding") == "VALID":
        pads = [(0, 0)] * len(target)
    else:
        flat = c.list_ints("explicit_paddings")
        pads = [(flat[2 * a], flat[2 * a + 1]) for a in layout.spatial]
    crops: list[tuple[Extent, Extent]] = []
    extra = []
    for i, n in enumerate(target):
        reach = (shape[i] - 1) * dilations[i] + 1
        have, want = y.shape[1 + i], window_extent(n, shape[i], strides[i], pads[i], dilations[i])
        if want != have:
            if isinstance(want - have, int):
                raise c.refuse(f"an input of {have} does not give {n}", code="malformed")
            if isinstance(want, int):
                # Found during the run, it can only be this.
                y = c.bld.view_as(y, shape=(*y.shape[: 1 + i], want, *y.shape[2 + i :]))
        full = (y.shape[1 + i] - 1) * strides[i] + reach
        rest = full - pads[i][0] - n
        if isinstance(rest, Dim):
            raise c.refuse("the size of the result is not known from the input's", "fix it with shapes=")
        crops.append((pads[i][0], max(rest, 0)))
        extra.append(max(-rest, 0))
    if batch != y.shape[0] and not isinstance(batch - y.shape[0], Dim):
        raise c.refuse(f"batch {batch} for an input of {y.shape[0]}", code="malformed")
    out = c.bld.conv_transpose(
        y, w, strides=strides, pads=tuple(crops), output_padding=tuple(extra), dilations=dilations,
        groups=channels // shape[-2],
    )  # fmt: skip
    return layout.leave(out)


@op("MaxPool", "MaxPool3D", "AvgPool", "AvgPool3D")
def _pool(c: Ctx, x: Value) -> Any:
    layout = Layout(c, x.rank)
    x = layout.enter(x)
    window, strides = layout.steps("ksize"), layout.steps("strides")
    pads = layout.pads(x, window, strides, (1,) * len(window))
    f = c.bld.max_pool if c.node.op.startswith("Max") else c.bld.avg_pool
    return layout.leave(f(x, window=window, strides=strides, pads=pads))


@op("MaxPoolV2", raw=True)
def _pool_v2(c: Ctx, item: Item, size: Item, step: Item) -> Any:
    x = c.v(item)
    layout = Layout(c, x.rank)
    x = layout.enter(x)
    window = tuple(c.ints(size, "ksize")[a] for a in layout.spatial)
    strides = tuple(c.ints(step, "strides")[a] for a in layout.spatial)
    pads = layout.pads(x, window, strides, (1,) * len(window))
    return layout.leave(c.bld.max_pool(x, window=window, strides=strides, pads=pads))


def taps(
    c: Ctx, x: Value, window: Sequence[int], strides: Sequence[int], rates: Sequence[int], pads: Pads, fill: Any
) -> list[Value]:
    """For every position inside the window, what it sees at every place: [N, places..., C] each."""
    b = c.bld
    places = [
        window_extent(n, k, s, p, r) for n, k, s, p, r in zip(x.shape[1:-1], window, strides, pads, rates, strict=True)
    ]
    if any(v != 0 for p in pads for v in p):
        x = b.pad(x, c.const(fill, x), low=(0, *(p[0] for p in pads), 0), high=(0, *(p[1] for p in pads), 0))
    out = []
    c.few(int(np.prod([max(k, 0) for k in window], dtype=object)), "the window's size", 4096)
    for tap in cartesian(*(range(k) for k in window)):
        first = [t * r for t, r in zip(tap, rates, strict=True)]
        stops = [a + (m - 1) * s + 1 for a, m, s in zip(first, places, strides, strict=True)]
        out.append(b.slice(x, starts=(0, *first, 0), stops=(x.shape[0], *stops, x.shape[-1]), steps=(1, *strides, 1)))
    return out


@op("ExtractImagePatches")
def _patches(c: Ctx, x: Value) -> Any:
    window, strides, rates = (tuple(c.list_ints(n)[1:3]) for n in ("ksizes", "strides", "rates"))
    pads = _plain_pads(c, x, window, strides, rates)
    return c.bld.concat(*taps(c, x, window, strides, rates, pads, 0), axis=3)


def _plain_pads(c: Ctx, x: Value, window: Sequence[int], strides: Sequence[int], rates: Sequence[int]) -> Pads:
    if c.s("padding") == "SAME":
        return tuple(same_pads(n, k, s, r) for n, k, s, r in zip(x.shape[1:-1], window, strides, rates, strict=True))
    return ((0, 0),) * len(window)


@op("MaxPoolWithArgmax")
def _pool_argmax(c: Ctx, x: Value) -> Any:
    b = c.bld
    window, strides = (tuple(c.list_ints(n)[1:3]) for n in ("ksize", "strides"))
    pads = _plain_pads(c, x, window, strides, (1, 1))
    n, h, w, d = x.shape
    if isinstance(h, Dim) or isinstance(w, Dim) or isinstance(d, Dim):
        raise c.refuse("the image's size is not fixed", "fix it with shapes=")
    low = -np.inf if x.dtype.is_float else np.iinfo(x.dtype.np).min
    seen = taps(c, x, window, strides, (1, 1), pads, low)
    if h * w * d >= 1 << 31:
        raise c.refuse("the image is too large to number its elements")
    numbers = b.reshape(b.iota(shape=(h * w * d,), axis=0, dtype=I64), shape=(1, h, w, d))
    marks = taps(c, numbers, window, strides, (1, 1), pads, -1)
    best, at = seen[0], b.broadcast_to(marks[0], shape=seen[0].shape)
    for value, mark in zip(seen[1:], marks[1:], strict=True):
        # Padding never wins, also against the least number.
        better = b.logical_or(b.gt(value, best), b.logical_and(b.lt(at, c.const(0, at)), b.ge(mark, c.const(0, at))))
        best, at = b.where(better, value, best), b.where(better, mark, at)
    if c.b("include_batch_in_index", False):
        each = b.mul(b.iota(shape=(n, 1, 1, 1), axis=0, dtype=I64), c.const(h * w * d, I64))
        at = b.add(at, each)
    return [best, same_type(c, at, c.type("Targmax", 9))]


@op("BiasAdd", "BiasAddV1")
def _bias(c: Ctx, x: Value, bias: Value) -> Any:
    if c.s("data_format", "NHWC") == "NCHW":
        bias = c.bld.reshape(bias, shape=(*bias.shape, *(1,) * (x.rank - 2)))
    return c.bld.add(x, bias)


@op("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def _batch_norm(c: Ctx, x: Value, gamma: Value, beta: Value, mean: Value, var: Value) -> Any:
    b, layout = c.bld, Layout(c, x.rank)
    kind, x = x.dtype, layout.enter(x)
    epsilon = c.f("epsilon", 1e-4)
    x = same_type(c, x, F32)
    variance = var
    if c.b("is_training", True):
        axes = tuple(range(x.rank - 1))
        mean = b.reduce_mean(x, axes=axes)
        var = b.reduce_mean(b.square(b.sub(x, mean)), axes=axes)
        count = product(x.shape[:-1])
        if isinstance(count, Dim):
            raise c.refuse("training statistics of a symbolic batch are not supported", "freeze with is_training=False")
        variance = b.mul(var, c.const(count / max(count - 1, 1), var))
        if c.f("exponential_avg_factor", 1.0) != 1.0:
            raise c.refuse("running averages are training, which is not supported")
    y = b.batch_norm(x, mean, var, gamma, beta, axis=-1, epsilon=epsilon)
    return [layout.leave(same_type(c, y, kind)), mean, variance, mean, var, var]


@op("LRN")
def _lrn(c: Ctx, x: Value) -> Any:
    """x / (bias + alpha * sum of squares over 2 * radius + 1 channels) ** beta (Krizhevsky et al., 2012)."""
    b, radius = c.bld, c.few(c.i("depth_radius", 5), "the radius", 1024)
    square = b.square(x)
    wide = b.pad(square, low=(0, 0, 0, radius), high=(0, 0, 0, radius))
    total = None
    for k in range(2 * radius + 1):
        part = b.slice(wide, starts=(0, 0, 0, k), stops=(*x.shape[:3], x.shape[3] + k))
        total = part if total is None else b.add(total, part)
    base = b.add(c.const(c.f("bias", 1.0), x), b.mul(total, c.const(c.f("alpha", 1.0), x)))
    return b.mul(x, b.pow(base, c.const(-c.f("beta", 0.5), x)))
