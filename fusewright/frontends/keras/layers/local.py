"""LocallyConnected1D and 2D of Keras 2: a convolution with own weights at every position.

Owns their three ways of storing the weights, all brought to [positions, window * C, filters]. Must not know models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir.graph import Value
from ..call import Call, layer, static
from .conv import activate_channels_last


def _reach(c: Call, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """(output extents, padding before each axis)."""
    mode = str(c.get("padding", "valid"))
    if mode == "valid":
        return [-(-(n - k + 1) // s) for n, k, s in zip(size, kernel, strides, strict=True)], [0] * len(size)
    if mode == "same" and c.integer("implementation", 1) != 1:
        return [-(-n // s) for n, s in zip(size, strides, strict=True)], [k // 2 for k in kernel]
    raise c.refuse(f"padding={mode!r} is not supported with implementation={c.get('implementation', 1)}")


def _windows(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], out: Sequence[int], low: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Flat input position of every [output position, window position], and whether it is inside the input."""
    rank = len(size)
    flat, inside = np.zeros((1,) * 2 * rank, np.int64), np.ones((1,) * 2 * rank, bool)
    for axis in range(rank):
        at = np.arange(out[axis])[:, None] * strides[axis] + np.arange(kernel[axis])[None, :] - low[axis]
        shape = [1] * 2 * rank
        shape[axis], shape[rank + axis] = out[axis], kernel[axis]
        at = at.reshape(shape)
        flat = flat * size[axis] + at
        inside = inside & (at >= 0) & (at < size[axis])
    shape2 = (int(np.prod(out)), int(np.prod(kernel)))
    return np.where(inside, flat, 0).reshape(shape2), inside.reshape(shape2)


def _weights(c: Call, flat: np.ndarray, inside: np.ndarray, inputs: int, channels: int, filters: int) -> np.ndarray:
    """The kernel as [positions, window, C, filters]."""
    array, first = c.raw("kernel"), c.channels_first
    positions, window = flat.shape
    mode = c.integer("implementation", 1)
    full = (positions, window, channels, filters)
    stored = {1: positions * window, 2: inputs * positions}.get(mode, int(inside.sum())) * channels * filters
    if array.size != stored:
        raise c.refuse(f"kernel of shape {array.shape} does not fit implementation={mode}")
    if mode == 1:
        if first:  # a patch is stored channel by channel
            return array.reshape(positions, channels, window, filters).transpose(0, 2, 1, 3)
        return array.reshape(full)
    if mode == 2:
        if first:
            spread = array.reshape(channels, inputs, filters, positions).transpose(1, 0, 3, 2)
        else:
            spread = array.reshape(inputs, channels, positions, filters)
        return np.asarray(spread[flat, :, np.arange(positions)[:, None], :] * inside[..., None, None])
    if mode != 3:
        raise c.refuse(f"implementation={mode} is not known")
    # The entries stand in the order of (flat output, flat input).
    p, k, ch, f = np.nonzero(np.broadcast_to(inside[..., None, None], full))
    source = flat[p, k]
    into = f * positions + p if first else p * filters + f
    of = ch * inputs + source if first else source * channels + ch
    order = np.lexsort((of, into))
    out = np.zeros(full, array.dtype)
    out[p[order], k[order], ch[order], f[order]] = array
    return out


def _local(rank: int) -> None:
    @layer(f"LocallyConnected{rank}D")
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        x = c.float(c.to_last(x))
        kernel, strides, filters = c.ints("kernel_size", rank), c.ints("strides", rank), c.integer("filters")
        size = [static(c, n, "a spatial axis") for n in x.shape[1:-1]]
        channels = static(c, x.shape[-1], "the channel axis")
        out, low = _reach(c, size, kernel, strides)
        flat, inside = _windows(size, kernel, strides, out, low)
        array = _weights(c, flat, inside, int(np.prod(size)), channels, filters)
        positions, depth = flat.shape[0], flat.shape[1] * channels
        w = c.lowerer.weight(c.spec, "positions", array.reshape(positions, depth, filters), c.dtype)
        high = [max((n - 1) * s + k - p - d, 0) for n, s, k, p, d in zip(out, strides, kernel, low, size, strict=True)]
        if any(low) or any(high):
            x = c.b.pad(x, low=(0, *low, 0), high=(0, *high, 0))
        rows = c.b.reshape(_patches(c, x, kernel, strides, out), shape=(x.shape[0], positions, depth))
        y = c.b.reshape(c.b.einsum(rows, w, equation="npd,pdf->npf"), shape=(x.shape[0], *out, filters))
        if c.has("bias"):
            bias = c.w("bias", (*out, filters))
            if c.channels_first:  # Keras reads the same numbers as [filters, out...], without moving them
                bias = c.b.transpose(c.b.reshape(bias, shape=(filters, *out)), perm=(*range(1, rank + 1), 0))
            y = c.b.add(y, bias)
        return c.from_last(activate_channels_last(c, y))


def _patches(c: Call, x: Value, kernel: Sequence[int], strides: Sequence[int], out: Sequence[int]) -> Value:
    """[N, out..., window, C]: every window, row by row."""
    taps: list[tuple[int, ...]] = [()]
    for k in kernel:
        taps = [(*t, i) for t in taps for i in range(k)]
    parts = []
    for tap in taps:
        stops = [t + (n - 1) * s + 1 for t, n, s in zip(tap, out, strides, strict=True)]
        part = c.b.slice(x, starts=(None, *tap, None), stops=(None, *stops, None), steps=(1, *strides, 1))
        parts.append(c.b.reshape(part, shape=(x.shape[0], *out, 1, x.shape[-1])))
    return c.b.concat(*parts, axis=len(out) + 1)


for _rank in (1, 2):
    _local(_rank)
