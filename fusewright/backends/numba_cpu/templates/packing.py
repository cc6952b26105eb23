"""How kernels want their constant weights: panels and blocks as exact moves.

Owns the layouts as core.layout.Layout, which packs, unpacks and repacks. Must not know about files or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....core.layout import Layout, Move


def ceil_to(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


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


def rhs_layout(shape: Sequence[int], nr: int, transposed: bool) -> Layout:
    """``[..., K, N]`` (``[..., N, K]`` when transposed) as ``[..., ceil(N/nr), K, nr]``, zero padded."""
    lead = tuple(range(len(shape) - 2))
    *head, k, n = (*shape[:-2], shape[-1], shape[-2]) if transposed else shape
    panels, rank = -(-n // nr), len(shape)
    moves: list[Move] = [("transpose", (*lead, rank - 1, rank - 2))] if transposed else []
    moves += [
        ("pad", (*head, k, panels * nr)),
        ("reshape", (*head, k, panels, nr)),
        ("transpose", (*lead, rank - 1, rank - 2, rank)),
    ]
    return Layout(shape, moves)


def conv_layout(shape: Sequence[int], want: ConvLayout) -> Layout:
    """A convolution's kernel as ``want`` says.

    It is ``spatial..., C/groups, K`` (output channel ``g * K/groups + j``) or, with ``flip``, the transposed
    convolution's ``spatial..., K/groups, C`` (input channel ``g * C/groups + c``).
    """
    rank, taps = len(want.spatial), want.spatial
    c, k, g, nr = want.channels, want.outputs, want.groups, want.nr
    cp = ceil_to(c, want.block) if want.block else c
    moves: list[Move] = [("reshape", (*taps, c, g, k))]
    if want.flip:
        moves = [("reshape", (*taps, k, g, c)), ("transpose", (*range(rank), rank + 2, rank + 1, rank))]
    moves.append(("pad", (*taps, cp, g, want.panels * nr)))
    if want.block:
        moves.append(("reshape", (*taps, cp // want.block, want.block, g, want.panels, nr)))
        moves.append(("transpose", (rank + 2, rank + 3, rank, *range(rank), rank + 1, rank + 4)))
    else:
        moves.append(("reshape", (*taps, c, g, want.panels, nr)))
        moves.append(("transpose", (rank + 1, rank + 2, *range(rank), rank, rank + 3)))
    return Layout(shape, moves)


def paired(layout: Layout) -> Layout:
    """``[..., k, nr]`` (k even) as bfloat16 ``[..., k/2, nr, 2]``: what a lane needs of two rows lies side by side."""
    *lead, k, nr = layout.packed_shape
    rank = len(lead)
    moves: list[Move] = [
        ("bf16", ()),
        ("reshape", (*lead, k // 2, 2, nr)),
        ("transpose", (*range(rank), rank, rank + 2, rank + 1)),
    ]
    return Layout(layout.shape, [*layout.moves, *moves])


def depthwise_layout(shape: Sequence[int], block: int) -> Layout:
    """``taps..., G, C`` as ``[ceil(C/block), taps..., G, block]``, zero padded."""
    *taps, g, c = shape
    rank, blocks = len(taps), -(-c // block)
    return Layout(
        shape,
        [
            ("pad", (*taps, g, blocks * block)),
            ("reshape", (*taps, g, blocks, block)),
            ("transpose", (rank + 1, *range(rank), rank, rank + 2)),
        ],
    )
