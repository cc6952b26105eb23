"""Packed layouts of constant weights as exact moves.

Owns the translation of what templates want into core.layout. Must not pack anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....core.layout import Layout, Move
from ..templates.packing import ConvLayout, ceil_to


def rhs_layout(shape: Sequence[int], nr: int, transposed: bool) -> Layout:
    """``[..., K, N]`` (``[..., N, K]`` when transposed) as ``[..., ceil(N/nr), K, nr]``: see packing.pack_rhs."""
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
    """A convolution kernel as ``want`` says: see packing.pack_conv."""
    rank, taps = len(want.spatial), want.spatial
    c, k, g, nr = want.channels, want.outputs, want.groups, want.nr
    cp = ceil_to(c, want.block) if want.block else c
    moves: list[Move] = [("transpose", (*range(rank), rank + 1, rank))] if want.flip else []
    moves += [("reshape", (*taps, c, g, k)), ("pad", (*taps, cp, g, want.panels * nr))]
    if want.block:
        moves.append(("reshape", (*taps, cp // want.block, want.block, g, want.panels, nr)))
        moves.append(("transpose", (rank + 2, rank + 3, rank, *range(rank), rank + 1, rank + 4)))
    else:
        moves.append(("reshape", (*taps, c, g, want.panels, nr)))
        moves.append(("transpose", (rank + 1, rank + 2, *range(rank), rank, rank + 3)))
    return Layout(shape, moves)


def depthwise_layout(shape: Sequence[int], block: int) -> Layout:
    """``taps..., 1, C`` as ``[ceil(C/block), taps..., block]``: see packing.pack_depthwise."""
    *taps, _, c = shape
    rank, blocks = len(taps), -(-c // block)
    return Layout(
        shape,
        [
            ("pad", (*taps, 1, blocks * block)),
            ("reshape", (*taps, blocks, block)),
            ("transpose", (rank, *range(rank), rank + 1)),
        ],
    )
