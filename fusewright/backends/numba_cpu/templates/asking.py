"""What the tiles of a convolution prefetch: inputs and results that are far from the core.

Owns which lines are asked for, and when. Must not know text or tiles beyond the arguments of one.
"""

from __future__ import annotations

from collections.abc import Callable

from ....core.dims import Extent, product
from ..lines import CACHE_LINE
from .conv_plan import Axis, ConvPlan
from .rows import Run

FAR_BYTES = 512 * 1024


def ahead(plan: ConvPlan, run: Run, height: int, width: str, pixel: int) -> dict[str, int | str]:
    """The lines of the input that the next tile reads, or (strides and larger windows) that the tile below is the first
    to read. ``width``: text of the input's; ``pixel``: elements from one to the next."""
    _, rows, columns = plan.axes
    step, size = run.in_step, pixel * plan.size
    if plan.pairs or any(axis.transposed for axis in plan.axes):
        return {}  # pairs were just rounded
    lines: dict[str, int | str] = {"AHEAD": -(-height * step * size // CACHE_LINE), "APART": CACHE_LINE}
    lines |= {"AHEAD_ROWS": 1}
    if columns.taps == 1 and step > 1 and size % CACHE_LINE == 0:
        lines |= {"AHEAD": height, "APART": step * size}
    once = all(axis.taps == 1 for axis in plan.axes)
    if not plan.in_blocked and (once or size > CACHE_LINE):
        return {}  # pixels lie one behind the other: the processor sees them coming
    if once and rows.stride == columns.stride == 1:
        return lines | {"ahead": height * pixel}
    if not once and not far(plan, plan.channels, lambda axis: axis.size):
        return {}
    first = (rows.taps - 1) * rows.dilation + rows.stride
    if rows.dilation == 1:
        first, lines["AHEAD_ROWS"] = max(rows.taps, rows.stride), min(rows.taps, rows.stride)
    row = f"{width} * {pixel}"
    return lines | {"ahead": f"{first} * {row}", "ahead_row": row}


def claimed(plan: ConvPlan, height: int, times: int, following: int) -> dict[str, int | str]:
    """The results of the next tile, ``following`` elements on, and operands as large, in ``times`` portions."""
    if not far(plan, plan.outputs, lambda axis: axis.out):
        return {}
    return {"CLAIM": -(-height // times), "claim": following}


def far(plan: ConvPlan, channels: int, extent: Callable[[Axis], Extent]) -> bool:
    """A tensor of so many channels has left the near caches when it is used again."""
    total = product((plan.batch, channels * plan.size, *map(extent, plan.axes)))
    return not isinstance(total, int) or total > FAR_BYTES
