"""The plan of a direct convolution: geometry, tile and weight layout.

Owns the choices that packing, text and callers share. Must not write text or know about graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from ....core.dims import Extent, ceildiv, floordiv, product
from ....core.dtypes import F32, F64, DType
from ..variants import Variant
from .packing import ConvLayout
from .panels import Tile, pick, pick_blocks

PASS_LINE = 112  # pixels of a 1x1 convolution that share a pass
BLOCK = 16

Pads = tuple[tuple[Extent, Extent], ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis, forward or transposed.

    Output ``o`` of residue ``o % phases`` reads, at tap ``t``, input ``base + j * step + t * tap_step`` where
    ``o = residue + j * phases``; see ``phase``.
    """

    size: Extent
    out: Extent
    taps: int
    stride: int
    dilation: int
    low: Extent
    high: Extent
    transposed: bool

    @property
    def clips(self) -> bool:
        """Can a tap fall outside the input?"""
        return self.transposed or self.low != 0 or self.high != 0

    @property
    def plain(self) -> bool:
        """Output i reads input i and nothing else."""
        return self.taps == 1 and self.stride == 1 and self.low == 0 and self.high == 0 and not self.transposed

    @property
    def steps(self) -> Extent:
        """Outputs of a row that are computed side by side: all of them, or those of one residue of the stride."""
        return ceildiv(self.out, self.stride) if self.transposed else self.out

    @property
    def tap_every(self) -> int:
        """Transposed: every how many kernel taps one fits a given output."""
        return self.stride // gcd(self.stride, self.dilation)

    @property
    def tap_back(self) -> int:
        """Transposed: how many inputs back the next fitting tap reads."""
        return self.dilation // gcd(self.stride, self.dilation)


@dataclass(frozen=True, slots=True)
class ConvPlan:
    """Everything that text and packing need.

    The weights are packed by ``packing.conv_layout(shape, plan.layout)``. Blocked tensors are
    ``[N, C/16, spatial..., 16]``; per-channel extras of a blocked result have ``channel_extent`` elements, zero padded
    to whole blocks.
    """

    tile: Tile
    size: int
    layout: ConvLayout
    batch: Extent
    axes: tuple[Axis, Axis, Axis]
    rank: int
    channels: int
    outputs: int
    groups: int
    in_blocked: bool
    out_blocked: bool
    out_spatial: tuple[Extent, ...]
    line: int  # when not 0, axis 2 is one line of pixels; at most this many share a pass over a part of the weights
    pairs: bool = False  # x and the weights are pairs of bfloat16 (``pairs.round_pairs``, ``packing.paired``)

    @property
    def channel_extent(self) -> int:
        return -(-self.outputs // BLOCK) * BLOCK if self.out_blocked else self.outputs

    @property
    def in_blocks(self) -> int:
        """Channel blocks of one group."""
        return -(-(self.channels // self.groups) // BLOCK)

    @property
    def block_elements(self) -> int:
        """Elements that the tile multiplies one by one in a block of channels of x: pairs of bfloat16 are one each."""
        return BLOCK // 2 if self.pairs else BLOCK

    @property
    def flops(self) -> Extent:
        taps = product(axis.taps for axis in self.axes)
        spatial = product((axis.size if axis.transposed else axis.out) for axis in self.axes)
        return 2 * self.batch * spatial * taps * (self.channels // self.groups) * self.outputs


def supports_blocked(rank: int, channels: int, outputs: int, groups: int) -> tuple[bool, bool]:
    """Whether (input, output) may be blocked: rank 1 and 2; with groups, whole blocks per group."""
    if rank > 2:
        return False, False
    whole = groups == 1
    return whole or channels // groups % BLOCK == 0, whole or outputs // groups % BLOCK == 0


def plan_conv(
    variant: Variant,
    dtype: DType,
    x_shape: Sequence[Extent],
    w_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[Extent, Extent]],
    dilations: Sequence[int],
    groups: int = 1,
    in_blocked: bool = False,
    out_blocked: bool = False,
    transposed: bool = False,
    output_padding: Sequence[int] | None = None,
    pairs: bool = False,
) -> ConvPlan:
    """Plan a convolution of logical shapes ``x`` (N, spatial..., C) and ``w`` (HWIO; transposed: HWOI).

    Pads may be symbolic. Raises ValueError for what no template covers.
    """
    rank = len(x_shape) - 2
    if not 1 <= rank <= 3 or dtype not in (F32, F64):
        raise ValueError(f"direct convolution covers rank 1 to 3 of f32 and f64, not rank {rank} of {dtype}")
    channels = x_shape[-1]
    if not isinstance(channels, int):
        raise ValueError("direct convolution needs a known number of channels")
    outputs = w_shape[-2] * groups if transposed else w_shape[-1]
    if pairs and (dtype is not F32 or not in_blocked or channels // groups % 2):
        raise ValueError(f"pairs are of an even number of blocked channels, not {channels // groups}")
    allowed = supports_blocked(rank, channels, outputs, groups)
    if (in_blocked and not allowed[0]) or (out_blocked and not allowed[1]):
        raise ValueError(f"a convolution with {groups} groups of {channels // groups} channels cannot be blocked")
    axes = make_axes(x_shape, w_shape, strides, pads, dilations, transposed, output_padding)
    out_spatial = tuple(axis.out for axis in axes[3 - rank :])
    line = 0
    if all(axis.plain for axis in axes):
        axes, line = _flatten(axes)
    per_group = outputs // groups
    if out_blocked:
        tile = pick_blocks(variant, dtype.size, -(-per_group // BLOCK), axes[2].steps, pairs)
    else:
        tile = pick(variant, dtype.size, per_group)
    block = BLOCK if in_blocked else 0
    layout = ConvLayout(tuple(w_shape[:rank]), channels // groups, per_group, groups, tile.columns, block, transposed)
    return ConvPlan(
        tile, dtype.size, layout, x_shape[0], (axes[0], axes[1], axes[2]), rank, channels, outputs, groups, in_blocked,
        out_blocked, out_spatial, line, pairs,
    )  # fmt: skip


def make_axes(
    x_shape: Sequence[Extent],
    w_shape: Sequence[Extent],
    strides: Sequence[int],
    pads: Sequence[tuple[Extent, Extent]],
    dilations: Sequence[int],
    transposed: bool = False,
    output_padding: Sequence[int] | None = None,
) -> list[Axis]:
    """The three spatial axes, missing ones of extent 1 in front."""
    rank = len(x_shape) - 2
    axes = [Axis(1, 1, 1, 1, 1, 0, 0, False)] * (3 - rank)
    for i in range(rank):
        low, high = pads[i]
        size, taps, stride, dilation = x_shape[1 + i], w_shape[i], strides[i], dilations[i]
        if not isinstance(taps, int):
            raise ValueError("a convolution needs a known kernel size")
        if transposed:
            extra = output_padding[i] if output_padding else 0
            out = (size - 1) * stride + (taps - 1) * dilation + 1 + extra - low - high
        else:
            out = floordiv(size + low + high - (taps - 1) * dilation - 1, stride) + 1
        axes.append(Axis(size, out, taps, stride, dilation, low, high, transposed))
    return axes


def _flatten(axes: list[Axis]) -> tuple[list[Axis], int]:
    """The pixels of a 1x1 convolution are one line (storage stays the same)."""
    total = product(axis.size for axis in axes)
    one = Axis(1, 1, 1, 1, 1, 0, 0, False)
    return [one, one, Axis(total, total, 1, 1, 1, 0, 0, False)], PASS_LINE
