"""Layers that move data: Flatten, Reshape, Permute, RepeatVector, cropping, padding, up-sampling.

Owns their shapes with symbolic extents. Must not know models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Extent, product
from ....ir.graph import Value
from ...resizing import resize_axis
from ..call import Call, layer


@layer("Flatten", autocast=False)
def _flatten(c: Call, x: Value) -> Value:
    if x.rank > 2 and c.channels_first:
        x = c.b.transpose(x, perm=(0, *range(2, x.rank), 1))
    return c.b.reshape(x, shape=(x.shape[0], product(x.shape[1:])))


@layer("Reshape", autocast=False)
def _reshape(c: Call, x: Value) -> Value:
    target = c.config.get("target_shape")
    if isinstance(target, int):
        target = [target]
    if not isinstance(target, (list, tuple)) or any(t is not None and type(t) is not int for t in target):
        raise c.refuse(f"target_shape={target!r} is not a shape")
    return c.b.reshape(
        x, shape=(x.shape[0], *resolve(c, product(x.shape[1:]), [-1 if t is None else t for t in target]))
    )


def resolve(c: Call, total: Extent, target: list[Any]) -> list[Extent]:
    """``target`` with its one -1 worked out."""
    if target.count(-1) > 1:
        raise c.refuse(f"shape {target} has more than one unknown")
    if -1 in target:
        known = product(t for t in target if t != -1)
        target[target.index(-1)] = 0 if known == 0 else total // known
    return target


@layer("Permute", autocast=False)
def _permute(c: Call, x: Value) -> Value:
    dims = c.config.get("dims")
    if not isinstance(dims, (list, tuple)) or sorted(dims) != list(range(1, x.rank)):
        raise c.refuse(f"dims={dims!r} is not a permutation of 1..{x.rank - 1}")
    return c.b.transpose(x, perm=(0, *dims))


@layer("RepeatVector", autocast=False)
def _repeat(c: Call, x: Value) -> Value:
    c.need_rank(x, 2)
    n = c.integer("n", low=0)
    return c.b.broadcast_to(c.b.reshape(x, shape=(x.shape[0], 1, x.shape[1])), shape=(x.shape[0], n, x.shape[1]))


def pairs(c: Call, key: str, rank: int) -> list[tuple[int, int]]:
    """An option given as an int, a list of ints or a list of pairs, as (low, high) per axis."""
    value = c.get(key, 1)
    if isinstance(value, int):
        value = [[value, value]] * rank
    elif rank == 1 and len(value) == 2 and all(isinstance(v, int) for v in value):
        value = [value]
    out = [(v, v) if isinstance(v, int) else tuple(v) for v in value]
    if len(out) != rank or any(len(p) != 2 or any(type(v) is not int or v < 0 for v in p) for p in out):
        raise c.refuse(f"{key}={c.config.get(key)!r} is not valid")
    return out


def _cropping(rank: int) -> None:
    @layer(f"Cropping{rank}D", autocast=False)
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        first = 2 if rank > 1 and c.channels_first else 1
        cuts = pairs(c, "cropping", rank)
        starts: list[Extent] = [0] * x.rank
        stops: list[Extent] = list(x.shape)
        for i, (low, high) in enumerate(cuts, start=first):
            starts[i], stops[i] = low, x.shape[i] - high
        return c.b.slice(x, starts=tuple(starts), stops=tuple(stops))


def _padding(rank: int) -> None:
    @layer(f"ZeroPadding{rank}D", autocast=False)
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        first = 2 if c.channels_first else 1
        low, high = [0] * x.rank, [0] * x.rank
        for i, (a, b) in enumerate(pairs(c, "padding", rank), start=first):
            low[i], high[i] = a, b
        return c.b.pad(x, low=tuple(low), high=tuple(high))


def repeat(c: Call, x: Value, axis: int, times: int) -> Value:
    """Each element ``times`` times along ``axis``."""
    if times == 1:
        return x
    inner = c.b.reshape(x, shape=(*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    wide = c.b.broadcast_to(inner, shape=(*x.shape[: axis + 1], times, *x.shape[axis + 1 :]))
    return c.b.reshape(wide, shape=(*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1 :]))


@layer("UpSampling1D", autocast=False)
def _upsampling1(c: Call, x: Value) -> Value:
    c.need_rank(x, 3)
    return repeat(c, x, 1, c.integer("size", 2))


@layer("UpSampling2D", autocast=False)
def _upsampling2(c: Call, x: Value) -> Value:
    c.need_rank(x, 4)
    size, mode = c.ints("size", 2, default=2), str(c.get("interpolation", "nearest")).lower()
    x = c.to_last(x)
    if mode == "nearest":
        y = repeat(c, repeat(c, x, 1, size[0]), 2, size[1])
    else:
        y = resize(c, x, (x.shape[1] * size[0], x.shape[2] * size[1]), mode)
    return c.from_last(y)


@layer("UpSampling3D", autocast=False)
def _upsampling3(c: Call, x: Value) -> Value:
    c.need_rank(x, 5)
    x = c.to_last(x)
    for axis, times in enumerate(c.ints("size", 3, default=2), start=1):
        x = repeat(c, x, axis, times)
    return c.from_last(x)


_METHODS = {
    "nearest": "nearest", "bilinear": "linear", "linear": "linear", "bicubic": "cubic", "cubic": "cubic",
    "lanczos3": "lanczos3", "lanczos5": "lanczos5",
}  # fmt: skip


def resize(c: Call, x: Value, sizes: tuple[Extent, ...], mode: str, antialias: bool = False) -> Value:
    """tf.image.resize of a channels-last image."""
    method = _METHODS.get(mode)
    if method is None:
        raise c.refuse(f"interpolation {mode!r} is not supported")
    fixed = [n for n in (*x.shape[1:-1], *sizes) if isinstance(n, int)]
    if method == "cubic" and not antialias and len(fixed) == 2 * len(sizes):
        for axis, (n, out) in enumerate(zip(fixed, fixed[len(sizes) :], strict=False), start=1):
            x = _times(c, x, axis, cubic_weights(n, out))
        return x
    if method in ("nearest", "linear") and not antialias and len(fixed) < 2 * len(sizes):
        for axis, size in enumerate(sizes, start=1):
            times = size // x.shape[axis]
            if method == "nearest" and isinstance(times, int) and times * x.shape[axis] == size:
                x = repeat(c, x, axis, times)
            else:
                x = resize_axis(c.b, x, axis, size, method == "linear", "half_pixel")
        return x
    # TensorFlow drops the taps outside the image and renormalises; for linear that equals clamping.
    edge = "clamp" if method == "nearest" else "drop"
    return c.b.resize(x, sizes=sizes, method=method, antialias=antialias, edge=edge)


def cubic_weights(size: int, out: int) -> np.ndarray:
    """Keys' kernel with a = -0.5 on half pixel centres, from a table of 1,024 positions as tf.image.resize has it;
    taps outside are dropped and the others made to sum to one."""
    place = (np.arange(out, dtype=np.float32) + np.float32(0.5)) * np.float32(size / max(out, 1)) - np.float32(0.5)
    low = np.floor(place)
    t = np.rint((place - low) * np.float32(1024)) / 1024.0
    near = lambda x: (1.5 * x - 2.5) * x * x + 1
    far = lambda x: ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.zeros((out, size))
    for k, w in ((-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))):
        at = (low + k).astype(int)
        inside = (at >= 0) & (at < size)
        np.add.at(weights, (np.arange(out)[inside], at[inside]), w[inside])
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _times(c: Call, x: Value, axis: int, weights: np.ndarray) -> Value:
    """Rows of ``weights`` times one axis."""
    front, rest = x.shape[:axis], x.shape[axis + 1 :]
    rows = c.b.reshape(x, shape=(product(front), x.shape[axis], product(rest)))
    return c.b.reshape(c.b.matmul(c.b.constant(weights, x.dtype), rows), shape=(*front, weights.shape[0], *rest))


for _rank in (1, 2, 3):
    _cropping(_rank)
    _padding(_rank)
