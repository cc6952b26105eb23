"""Convolutions and pools: ONNX's channels-first tensors around the IR's channels-last ops.

Owns auto_pad, ceil_mode and the layouts of kernels. The transposes cancel in the pass pipeline.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ....core.dims import Extent, ceildiv, compare_le, floordiv, product
from ....core.dtypes import F32, I64
from ....ir.graph import Value
from ....ir.ops.window import same_pads
from ..call import Call, op

Pads = tuple[tuple[Extent, Extent], ...]


def to_last(b: Any, x: Value) -> Value:
    """[N, C, spatial...] as [N, spatial..., C]."""
    return b.transpose(x, perm=(0, *range(2, x.rank), 1))


def to_first(b: Any, x: Value) -> Value:
    """[N, spatial..., C] as [N, C, spatial...]."""
    return b.transpose(x, perm=(0, x.rank - 1, *range(1, x.rank - 1)))


def spatial(c: Call, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    """An attribute with one integer per spatial axis."""
    found = c.ints(name, (default,) * rank)
    if len(found) != rank:
        raise c.refuse(f"{name} {found} needs {rank} numbers", "malformed")
    least = 0 if name == "output_padding" else 1
    if any(v < least or v > 1 << 31 for v in found):
        raise c.refuse(f"{name} {found} must be at least {least}", "malformed")
    return found


def window_pads(
    c: Call, sizes: tuple[Extent, ...], window: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Pads:
    """(low, high) per axis from pads or auto_pad."""
    auto = c.text("auto_pad", "NOTSET")
    rank = len(sizes)
    if auto in ("NOTSET", ""):
        flat = c.ints("pads", (0,) * (2 * rank))
        if len(flat) != 2 * rank:
            raise c.refuse(f"pads {flat} need {2 * rank} numbers", "malformed")
        return tuple((flat[i], flat[i + rank]) for i in range(rank))
    if auto == "VALID":
        return ((0, 0),) * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise c.refuse(f"auto_pad {auto!r}", "malformed")
    pairs = tuple(same_pads(n, k, s, d) for n, k, s, d in zip(sizes, window, strides, dilations))
    return pairs if auto == "SAME_UPPER" else tuple((high, low) for low, high in pairs)


def kernel_last(b: Any, w: Value) -> Value:
    """[M, C/g, k...] as [k..., C/g, M]."""
    return b.transpose(w, perm=(*range(2, w.rank), 1, 0))


def fixed(c: Call, w: Value) -> tuple[int, ...]:
    """The spatial extents of a kernel."""
    window = tuple(d for d in w.shape[2:] if isinstance(d, int))
    if len(window) != w.rank - 2:
        raise c.refuse(f"the kernel's shape {w.type} must be fixed")
    return window


def convolve(c: Call, x: Value, w: Value) -> Value:
    """Conv without bias, channels first."""
    b = c.b
    if x.rank < 3 or w.rank != x.rank:
        raise c.refuse(f"takes one rank >= 3, got {x.type} and {w.type}", "malformed")
    rank, window = x.rank - 2, fixed(c, w)
    if c.ints("kernel_shape", window) != window:
        raise c.refuse(f"kernel_shape {c.ints('kernel_shape')} is not that of {w.type}", "malformed")
    strides, dilations = spatial(c, "strides", rank), spatial(c, "dilations", rank)
    pads = window_pads(c, x.shape[2:], window, strides, dilations)
    if any(isinstance(p, int) and p < 0 for pair in pads for p in pair):
        raise c.refuse(f"negative pads {pads}")
    y = b.conv(
        to_last(b, x), kernel_last(b, w), strides=strides, pads=pads, dilations=dilations, groups=c.integer("group", 1)
    )
    return to_first(b, y)


def channel(b: Any, v: Value, rank: int) -> Value:
    """A vector per channel, to broadcast against [N, C, ...]."""
    return b.reshape(v, shape=(v.type.size, *(1,) * (rank - 2)))


@op("Conv")
def _conv(c: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    y = convolve(c, x, w)
    return y if bias is None else c.b.add(y, channel(c.b, bias, x.rank))


@op("ConvTranspose")
def _conv_transpose(c: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    b = c.b
    if x.rank < 3 or w.rank != x.rank:
        raise c.refuse(f"takes one rank >= 3, got {x.type} and {w.type}", "malformed")
    rank, window = x.rank - 2, fixed(c, w)
    strides, dilations = spatial(c, "strides", rank), spatial(c, "dilations", rank)
    extra = list(spatial(c, "output_padding", rank, 0))
    auto, wanted = c.text("auto_pad", "NOTSET"), c.ints("output_shape")
    sizes = x.shape[2:]
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations)]
    if wanted is not None:
        wanted = wanted[-rank:]
        if len(wanted) != rank:
            raise c.refuse(f"output_shape {wanted} needs {rank} numbers", "malformed")
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(n * s for n, s in zip(sizes, strides))
    pads: list[tuple[Extent, Extent]] = []
    if wanted is None:
        flat = c.ints("pads", (0,) * (2 * rank)) if auto in ("NOTSET", "") else (0,) * (2 * rank)
        if len(flat) != 2 * rank:
            raise c.refuse(f"pads {flat} need {2 * rank} numbers", "malformed")
        pads = [(flat[i], flat[i + rank]) for i in range(rank)]
    else:
        for i in range(rank):
            total = strides[i] * (sizes[i] - 1) + extra[i] + reach[i] - wanted[i]
            if compare_le(0, total) is False and isinstance(total, int):
                # More than the kernel reaches: zeros at the end.
                extra[i] -= total
                total = 0
            half = floordiv(total, 2)
            pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    groups = c.integer("group", 1)
    kernel = b.transpose(w, perm=(*range(2, w.rank), 1, 0))
    y = b.conv_transpose(
        to_last(b, x), kernel, strides=strides, pads=tuple(pads), dilations=dilations, output_padding=tuple(extra),
        groups=groups,
    )  # fmt: skip
    y = to_first(b, y)
    return y if bias is None else b.add(y, channel(b, bias, x.rank))


def _ceiled(
    c: Call, sizes: tuple[Extent, ...], window: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...],
    pads: Pads,
) -> Pads:  # fmt: skip
    """Pads grown so that a last partial window counts; one that starts in the padding at the end does not."""
    out = []
    for n, k, s, d, (low, high) in zip(sizes, window, strides, dilations, pads):
        reach = (k - 1) * d + 1
        count = ceildiv(n + low + high - reach, s) + 1
        beyond = compare_le(n + low, (count - 1) * s)
        if beyond is True:
            count = count - 1
        elif beyond is None and not (isinstance(high, int) and high + s <= reach):
            raise c.refuse(f"ceil_mode over the symbolic extent {n}", "unsupported-option", "fix it with shapes=")
        need = (count - 1) * s + reach - n - low
        short = compare_le(need, high)
        if short is None:
            # count * stride reaches at least the floor form's end.
            out.append((low, need))
        else:
            out.append((low, high if short else need))
    return tuple(out)


def _pool_window(c: Call, x: Value) -> tuple[Any, ...]:
    rank = x.rank - 2
    if rank < 1:
        raise c.refuse(f"takes rank >= 3, got {x.type}", "malformed")
    window = c.ints("kernel_shape")
    if window is None or len(window) != rank or any(k < 1 or k > 1 << 31 for k in window):
        raise c.refuse(f"kernel_shape {window} on {x.type}", "malformed")
    strides, dilations = spatial(c, "strides", rank), spatial(c, "dilations", rank)
    pads = window_pads(c, x.shape[2:], window, strides, dilations)
    whole = pads
    if c.integer("ceil_mode", 0) and c.text("auto_pad", "NOTSET") in ("NOTSET", ""):
        whole = _ceiled(c, x.shape[2:], window, strides, dilations, pads)
    for (low, high), k, d in zip(pads, window, dilations):
        if any(isinstance(p, int) and (p < 0 or p >= (k - 1) * d + 1) for p in (low, high)):
            raise c.refuse(f"pads {pads} reach past the window {window}", "malformed")
    return window, strides, dilations, pads, whole


@op("MaxPool")
def _max_pool(c: Call, x: Value) -> Any:
    b = c.b
    window, strides, dilations, _, whole = _pool_window(c, x)
    if c.wants(1):
        return _max_with_indices(c, x, window, strides, dilations, whole)
    y = b.max_pool(to_last(b, x), window=window, strides=strides, pads=whole, dilations=dilations)
    return to_first(b, y)


def _max_with_indices(c: Call, x: Value, window: Any, strides: Any, dilations: Any, pads: Pads) -> Any:
    """Windows spelt out as a gather of every tap: the position of the first maximum is wanted too."""
    b = c.b
    if not x.type.is_static:
        raise c.refuse("indices of a tensor of symbolic shape", "unsupported-option", "fix it with shapes=")
    sizes = tuple(int(d) for d in x.shape[2:])  # type: ignore[arg-type]
    taps = int(np.prod(window))
    out = [
        (n + lo + hi - ((k - 1) * d + 1)) // s + 1  # type: ignore[operator]
        for n, k, s, d, (lo, hi) in zip(sizes, window, strides, dilations, pads)
    ]
    if taps * int(np.prod(out, dtype=object)) > 1 << 20:
        raise c.refuse("indices of so many windows")
    flat = np.zeros((*out, taps), np.int64)
    inside = np.zeros((*out, taps), bool)
    for t, tap in enumerate(itertools.product(*(range(k) for k in window))):
        index, ok = np.zeros(out, np.int64), np.ones(out, bool)
        for i, (n, s, d, (lo, _)) in enumerate(zip(sizes, strides, dilations, pads)):
            at = np.arange(out[i]) * s + tap[i] * d - lo  # type: ignore[operator]
            along = (1,) * i + (-1,) + (1,) * (len(out) - 1 - i)
            ok &= ((at >= 0) & (at < n)).reshape(along)
            index = index * n + np.clip(at, 0, n - 1).reshape(along)
        flat[..., t], inside[..., t] = index, ok
    lead = x.shape[:2]
    source = b.reshape(x, shape=(*lead, product(sizes)))
    patches = b.gather(source, b.constant(flat), axis=2)
    info = np.iinfo(x.dtype.np).min if x.dtype.is_int else -np.inf
    patches = b.where(b.constant(inside), patches, c.like(info, x))
    best = b.argmax(patches, axis=patches.rank - 1, keepdims=True)
    axis = patches.rank - 1
    value = b.reduce_max(patches, axes=(axis,))
    spread = b.broadcast_to(b.constant(flat), shape=patches.shape)
    position = b.gather(
        b.reshape(spread, shape=(product(patches.shape[:-1]), taps)),
        b.reshape(best, shape=(product(patches.shape[:-1]), 1)), axis=1, batch_dims=1,
    )  # fmt: skip
    index_of = b.reshape(position, shape=value.shape)
    if c.integer("storage_order", 0):
        index_of = _column_major(c, index_of, sizes)
    plane = product(sizes)
    shape: tuple[Extent, ...] = (*lead, *(1,) * len(sizes))
    base = b.add(
        b.mul(b.iota(shape=shape, axis=0), b.dim(lead[1] * plane)), b.mul(b.iota(shape=shape, axis=1), b.dim(plane))
    )
    return value, b.add(index_of, base)


def _column_major(c: Call, index: Value, sizes: tuple[int, ...]) -> Value:
    b, rest = c.b, index
    parts = []
    for n in reversed(sizes):
        parts.append(b.mod(rest, n))
        rest = b.floordiv(rest, n)
    parts.reverse()
    total, step = None, 1
    for part, n in zip(parts, sizes):
        term = b.mul(part, step)
        total = term if total is None else b.add(total, term)
        step *= n
    assert total is not None
    return total


@op("AveragePool")
def _average_pool(c: Call, x: Value) -> Value:
    b = c.b
    window, strides, dilations, pads, whole = _pool_window(c, x)
    y = to_last(b, x)
    if c.integer("count_include_pad", 0) and any(p != 0 for pair in pads for p in pair):
        # The model's padding counts, what ceil_mode adds beyond it does not.
        zero = (0,)
        y = b.pad(y, low=(*zero, *(p for p, _ in pads), 0), high=(*zero, *(q for _, q in pads), 0))
        whole = tuple((a - p, z - q) for (a, z), (p, q) in zip(whole, pads))
    y = b.avg_pool(y, window=window, strides=strides, pads=whole, dilations=dilations, count_include_pad=False)
    return to_first(b, y)


@op("LpPool")
def _lp_pool(c: Call, x: Value) -> Value:
    b, p = c.b, c.integer("p", 2)
    window, strides, dilations, _, whole = _pool_window(c, x)
    if p < 1:
        raise c.refuse(f"p={p}", "malformed")
    power = b.abs(x) if p == 1 else b.square(x) if p == 2 else b.pow(b.abs(x), float(p))
    mean = b.avg_pool(
        to_last(b, power), window=window, strides=strides, pads=whole, dilations=dilations, count_include_pad=True
    )
    total = b.mul(to_first(b, mean), float(np.prod(window)))
    return total if p == 1 else b.sqrt(total) if p == 2 else b.pow(total, 1.0 / p)


def _spatial_axes(c: Call, x: Value) -> tuple[int, ...]:
    if x.rank < 3:
        raise c.refuse(f"takes rank >= 3, got {x.type}", "malformed")
    return tuple(range(2, x.rank))


@op("GlobalAveragePool")
def _global_average(c: Call, x: Value) -> Value:
    return c.b.reduce_mean(x, axes=_spatial_axes(c, x), keepdims=True)


@op("GlobalMaxPool")
def _global_max(c: Call, x: Value) -> Value:
    return c.b.reduce_max(x, axes=_spatial_axes(c, x), keepdims=True)


@op("GlobalLpPool")
def _global_lp(c: Call, x: Value) -> Value:
    b, p = c.b, c.integer("p", 2)
    total = b.reduce_sum(b.pow(b.abs(x), float(p)), axes=_spatial_axes(c, x), keepdims=True)
    return b.pow(total, 1.0 / p)


@op("MaxUnpool")
def _max_unpool(c: Call, x: Value, index: Value, shape: Value | None = None) -> Value:
    b, rank = c.b, x.rank - 2
    window = c.ints("kernel_shape") or ()
    if len(window) != rank:
        raise c.refuse(f"kernel_shape {window} on {x.type}", "malformed")
    strides = spatial(c, "strides", rank)
    flat = c.ints("pads", (0,) * (2 * rank))
    natural = tuple(
        (n - 1) * s - (flat[i] + flat[i + rank]) + k for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, window))
    )
    full: tuple[Extent, ...] = (*x.shape[:2], *natural)
    if shape is not None:
        full = c.extents(shape, "output_shape")
        if len(full) != x.rank:
            raise c.refuse(f"output_shape {full} for {x.type}", "malformed")
        # Indices count in the natural shape; the wanted one may be larger.
        if full[2:] != natural:
            return _spread_unpool(c, x, index, (*x.shape[:2], *natural), full)
    size = product(full)
    zeros = b.full((size,), 0, x.dtype)
    y = b.scatter_nd(
        zeros, b.reshape(index, shape=(index.type.size, 1)), b.reshape(x, shape=(x.type.size,)), reduction="set"
    )
    return b.reshape(y, shape=full)


def _spread_unpool(c: Call, x: Value, index: Value, natural: Any, full: Any) -> Value:
    """Indices of the natural result, placed in the larger one."""
    b = c.b
    size = product(natural)
    y = b.scatter_nd(
        b.full((size,), 0, x.dtype), b.reshape(index, shape=(index.type.size, 1)), b.reshape(x, shape=(x.type.size,))
    )
    y = b.reshape(y, shape=natural)
    return b.pad(y, low=(0,) * x.rank, high=tuple(f - n for f, n in zip(full, natural)))


_ = (F32, I64)
