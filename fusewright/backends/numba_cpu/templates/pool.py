"""Pooling by tiles: a depthwise convolution whose taps are joined without weights.

Owns its plan and kernel text for floats of 4 and 8 bytes. Must not know about graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....core.dims import Extent, compare_eq
from ....core.dtypes import F32, F64, DType
from ..variants import Variant
from .conv_plan import BLOCK, make_axes
from .depthwise import Depthwise, DepthwisePlan
from .epilogue import NONE
from .panels import registers, width_of
from .rows import MOST_UNROLLED_TAPS, Part, Run
from .template import Template, pool_call

TALLEST = 14
SPARE = 4  # registers for what is not a column


@dataclass(frozen=True, slots=True)
class Pooling:
    """``most``: the greatest value, else the mean; ``divisor`` 0: over the taps that exist."""

    most: bool
    divisor: int = 0


def plan_pool(
    variant: Variant,
    dtype: DType,
    x_shape: Sequence[Extent],
    out: Sequence[Extent],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[Extent, Extent]],
    dilations: Sequence[int],
    blocked: bool,
) -> DepthwisePlan | None:
    """Plan pooling of ``batch, spatial..., channels`` into ``out`` positions; None where tiles do not cover it."""
    rank, channels = len(x_shape) - 2, x_shape[-1]
    covered = dtype in (F32, F64) and 1 <= rank <= (2 if blocked else 3) and isinstance(channels, int)
    if not covered or window[-1] > MOST_UNROLLED_TAPS:
        return None
    assert isinstance(channels, int)
    axes = make_axes(x_shape, (*window, 1, channels), strides, pads, dilations)
    if any(compare_eq(axis.out, size) is not True for axis, size in zip(axes[3 - rank :], out, strict=True)):
        return None
    width = width_of(variant, dtype.size)
    vectors = BLOCK // width if blocked else min(4, max(1, -(-channels // width)))

    def columns(pixels: int) -> int:
        step, apart = axes[2].stride, axes[2].dilation
        return len({p * step + t * apart for p in range(pixels) for t in range(window[-1])})

    fits = [p for p in range(2, TALLEST + 1) if columns(p) * vectors <= registers(variant) - SPARE]
    return DepthwisePlan(
        max(fits, default=1), vectors, width, dtype.size, x_shape[0], (axes[0], axes[1], axes[2]), channels, 1,
        blocked, tuple(axis.out for axis in axes[3 - rank :]),
    )  # fmt: skip


def pool(plan: DepthwisePlan, pooling: Pooling, entry: str) -> Template:
    """A kernel of arguments x and result; a unit is a group of rows of one block of channels."""
    return _Pool(plan, pooling, entry).template()


class _Pool(Depthwise):
    def __init__(self, plan: DepthwisePlan, pooling: Pooling, entry: str) -> None:
        super().__init__(plan, NONE, entry, weights=False)
        self.pooling = pooling

    def tile_call(
        self, indent: int, run: Run, height: int, part: Part, border_at: int | None = None, clip: bool = False,
        loop: bool = True,
    ) -> None:  # fmt: skip
        how: dict[str, int | str] = {"MAX": int(self.pooling.most), "TAPS": self.pooling.divisor}
        self.text.add(indent, pool_call(how | self.place(run, height, part, border_at, clip)))
