"""Packed layouts of constant weights, and their exact inverses.

Owns the arithmetic of panels. Must not know about files or kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ceil_to(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def pack_rhs(b: Array, nr: int, transpose: bool = False) -> Array:
    """``[..., K, N]`` (``[..., N, K]`` when transposed) -> ``[..., ceil(N/nr), K, nr]``, zero padded."""
    if transpose:
        b = np.swapaxes(b, -1, -2)
    *lead, k, n = b.shape
    panels = -(-n // nr)
    padded = np.zeros((*lead, k, panels * nr), b.dtype)
    padded[..., :n] = b
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*lead, k, panels, nr), -2, -3))


def unpack_rhs(packed: Array, n: int, transpose: bool = False) -> Array:
    """The exact inverse of ``pack_rhs``."""
    *lead, panels, k, nr = packed.shape
    b = np.moveaxis(packed, -3, -2).reshape(*lead, k, panels * nr)[..., :n]
    return np.ascontiguousarray(np.swapaxes(b, -1, -2) if transpose else b)


@dataclass(frozen=True, slots=True)
class ConvLayout:
    """How a convolution's kernel ``spatial..., C/groups, K`` is stored.

    ``[groups, panels, taps..., C/groups, nr]``, or with ``block`` > 0
    ``[groups, panels, C/groups/block, taps..., block, nr]``. Panels hold ``nr`` output channels of one group, zero
    padded; channels are padded to whole blocks. ``flip`` marks transposed convolution, whose kernel is
    ``spatial..., K/groups, C``.
    """

    spatial: tuple[int, ...]
    channels: int  # per group
    outputs: int  # per group
    groups: int
    nr: int
    block: int = 0
    flip: bool = False

    @property
    def panels(self) -> int:
        return -(-self.outputs // self.nr)

    @property
    def shape(self) -> tuple[int, ...]:
        if self.block:
            blocks = -(-self.channels // self.block)
            return (self.groups, self.panels, blocks, *self.spatial, self.block, self.nr)
        return (self.groups, self.panels, *self.spatial, self.channels, self.nr)

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))


def pack_conv(w: Array, layout: ConvLayout) -> Array:
    """A kernel as ``layout`` says.

    ``w`` is ``spatial..., C/groups, K`` (output channel ``g * K/groups + j``) or, with ``flip``, the transposed
    convolution's ``spatial..., K/groups, C`` (input channel ``g * C/groups + c``).
    """
    rank, taps = len(layout.spatial), layout.spatial
    c, k, g, nr = layout.channels, layout.outputs, layout.groups, layout.nr
    if layout.flip:
        w = np.moveaxis(w.reshape(*taps, k, g, c), (rank, rank + 1, rank + 2), (rank + 2, rank + 1, rank))
    else:
        w = w.reshape(*taps, c, g, k)
    cp = ceil_to(c, layout.block) if layout.block else c
    padded = np.zeros((*taps, cp, g, layout.panels * nr), w.dtype)
    padded[..., :c, :, :k] = w
    if layout.block:
        split = padded.reshape(*taps, cp // layout.block, layout.block, g, layout.panels, nr)
        axes = (rank + 2, rank + 3, rank, *range(rank), rank + 1, rank + 4)
    else:
        split = padded.reshape(*taps, c, g, layout.panels, nr)
        axes = (rank + 1, rank + 2, *range(rank), rank, rank + 3)
    return np.ascontiguousarray(split.transpose(axes))


def unpack_conv(packed: Array, layout: ConvLayout) -> Array:
    """The exact inverse of ``pack_conv``."""
    rank, taps = len(layout.spatial), layout.spatial
    c, k, g = layout.channels, layout.outputs, layout.groups
    packed = packed.reshape(layout.shape)
    if layout.block:
        axes = (*range(3, 3 + rank), 2, 3 + rank, 0, 1, 4 + rank)
    else:
        axes = (*range(2, 2 + rank), 2 + rank, 0, 1, 3 + rank)
    cp = ceil_to(c, layout.block) if layout.block else c
    w = packed.transpose(axes).reshape(*taps, cp, g, layout.panels * layout.nr)[..., :c, :, :k]
    if layout.flip:
        moved = np.moveaxis(w, (rank + 2, rank + 1, rank), (rank, rank + 1, rank + 2))
        return np.ascontiguousarray(moved.reshape(*taps, k, g * c))
    return np.ascontiguousarray(w.reshape(*taps, c, g * k))


def pack_depthwise(w: Array, block: int) -> Array:
    """``kh, kw, 1, C`` (multiplier 1; any spatial rank) -> ``[ceil(C/block), taps..., block]``, zero padded."""
    *taps, one, c = w.shape
    if one != 1:
        raise ValueError(f"a depthwise kernel has shape (..., 1, C), not {w.shape}")
    padded = np.zeros((*taps, ceil_to(c, block)), w.dtype)
    padded[..., :c] = w[..., 0, :]
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*taps, -1, block), -2, 0))


def unpack_depthwise(packed: Array, channels: int) -> Array:
    """The exact inverse of ``pack_depthwise``."""
    moved = np.moveaxis(packed, 0, -2)
    return np.ascontiguousarray(moved.reshape(*moved.shape[:-2], -1)[..., None, :channels])


def pad_channels(values: Array, block: int) -> Array:
    """A per-channel vector with zeros up to whole blocks, as epilogues of blocked layouts read it."""
    out = np.zeros(ceil_to(len(values), block), values.dtype)
    out[: len(values)] = values
    return out
