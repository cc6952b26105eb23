"""Depthwise convolution (multiplier 1) and that of small groups, blocked or channels-last: plan and kernel text.

Owns its tile table and work units. Must not know about graphs; other multipliers take the general convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....core.dims import Extent, ceildiv, compare_le, product
from ....core.dtypes import F32, F64, DType
from ..variants import Variant
from .conv_plan import BLOCK, Axis, make_axes
from .epilogue import NONE, Epilogue, loop_text, run_text
from .panels import registers, width_of
from .rows import MOST_UNROLLED_TAPS, Part, RowWalk, Run, clip_axis
from .template import Template, depthwise_call

# vectors -> most pixels: accumulators, the columns under the taps and one weight stay in registers.
_TALLEST = {32: {1: 14, 2: 8, 3: 6, 4: 5}, 16: {1: 8, 2: 4, 3: 3, 4: 2}}
UNIT_FLOPS = 60_000
CHUNK_FLOPS = 4 * UNIT_FLOPS
CACHED = 1 << 20  # bytes of operand and result that the second-level cache keeps from kernel to kernel
AHEAD = 4 << 10  # bytes by which a kernel fetches ahead, at least
MOST_GROUP_BYTES = 32  # channels of a group stay inside the shortest vector


def covers(channels: int, outputs: int, groups: int, size: int) -> bool:
    """As many results as channels, in groups that divide every vector of elements of ``size`` bytes."""
    group = channels // groups
    return groups > 1 and channels == outputs and group & (group - 1) == 0 and group * size <= MOST_GROUP_BYTES


@dataclass(frozen=True, slots=True)
class DepthwisePlan:
    """What text and packing share.

    The weights are packed by ``packing.depthwise_layout(shape, plan.block)``. In blocked form per-channel extras are
    zero padded to whole blocks of 16.
    """

    rows: int
    vectors: int
    width: int
    size: int
    batch: Extent
    axes: tuple[Axis, Axis, Axis]
    channels: int
    group: int  # channels that a result reads
    blocked: bool
    out_spatial: tuple[Extent, ...]

    @property
    def block(self) -> int:
        """Channels of one packed block of weights."""
        return self.vectors * self.width

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.block)

    @property
    def taps(self) -> int:
        return self.axes[0].taps * self.axes[1].taps * self.axes[2].taps


def plan_depthwise(
    variant: Variant,
    dtype: DType,
    x_shape: Sequence[Extent],
    w_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[Extent, Extent]],
    dilations: Sequence[int],
    blocked: bool,
) -> DepthwisePlan:
    """Plan ``conv`` of ``C // G`` groups with kernel ``spatial..., G, C`` (depthwise: G = 1). Raises ValueError for
    what the tile does not cover."""
    rank, channels = len(x_shape) - 2, x_shape[-1]
    if dtype not in (F32, F64) or not 1 <= rank <= (2 if blocked else 3):
        raise ValueError(f"depthwise convolution covers f32 and f64 of rank 1 to {2 if blocked else 3}")
    group = w_shape[-2]
    if not isinstance(channels, int) or channels % group or not covers(
        channels, w_shape[-1], channels // group, dtype.size
    ):  # fmt: skip
        raise ValueError(f"depthwise convolution needs a kernel (..., G, {channels}), not {tuple(w_shape)}")
    axes = make_axes(x_shape, w_shape, strides, pads, dilations)
    width = width_of(variant, dtype.size)
    vectors = BLOCK // width if blocked else min(4, max(1, -(-channels // width)))
    rows = _TALLEST[registers(variant)][vectors]
    return DepthwisePlan(
        rows, vectors, width, dtype.size, x_shape[0], (axes[0], axes[1], axes[2]), channels, group, blocked,
        tuple(axis.out for axis in axes[3 - rank :]),
    )  # fmt: skip


def depthwise(plan: DepthwisePlan, epilogue: Epilogue = NONE, entry: str = "depthwise") -> Template:
    """``epilogue(depthwise convolution)``. Arguments as ``conv``; a unit is a group of rows of one channel
    block, or a piece of a row where these are few."""
    return Depthwise(plan, epilogue, entry).template()


class Depthwise(RowWalk):
    """Writes the kernel: groups of rows of one block of channels."""

    def __init__(self, plan: DepthwisePlan, epilogue: Epilogue, entry: str, weights: bool = True) -> None:
        super().__init__(plan.axes, plan.size, plan.width, epilogue, entry, weights=weights)
        self.plan, self.most = plan, plan.rows
        self.px = BLOCK if plan.blocked else plan.channels
        self.ahead = self._ahead()

    def _ahead(self) -> int:
        """By how many rows this kernel fetches what it will read and write; 0 where it need not or gains nothing.

        Where rows are as long as they were, reading and writing take as long as computing, and their lines come late.
        """
        _, rows, width = self.plan.axes
        self.row_bytes = 0
        alike = rows.stride == width.stride == rows.dilation == 1 and width.out == width.size
        if not (self.plan.blocked and alike and rows.taps > 1 and isinstance(width.size, int)):
            return 0
        pixels = self.plan.batch * product(axis.size for axis in self.plan.axes)
        nbytes = pixels * self.plan.blocks * BLOCK * self.size
        if compare_le(2 * nbytes, CACHED) is True:
            return 0
        self.row_bytes = width.size * BLOCK * self.size
        return -(-AHEAD // self.row_bytes)

    def template(self) -> Template:
        plan, t = self.plan, self.text
        depth, height, width = plan.axes
        flops = 2 * plan.batch * product(axis.out for axis in plan.axes) * plan.taps * plan.channels * plan.group
        if compare_le(flops, CHUNK_FLOPS) is not True:
            self.cut(plan.batch * plan.blocks * depth.out * height.out)
        whole = self.pieces == 1
        pixels = width.out if whole else self.most
        unit_flops = 2 * (pixels if isinstance(pixels, int) else 56) * plan.taps * plan.block * plan.group
        group = max(1, UNIT_FLOPS // max(unit_flops, 1)) if whole else 1  # rows of a unit
        if isinstance(height.out, int):
            group = min(group, max(height.out, 1))
        units = ceildiv(height.out, group) * self.pieces
        if whole:
            rb = t.dim(units)
            t.add(0, "for u in range(start, stop):")
            t.add(1, f"rb = u % {rb}\nrest = u // {rb}")
        else:
            self.open_pieces("rb", "rest")
        if depth.out == 1:
            t.add(1, "od = 0")
        else:
            t.add(1, f"od = rest % {self.od}\nrest = rest // {self.od}")
        t.add(1, f"p = rest % {plan.blocks}\nn = rest // {plan.blocks}\nch = p * {plan.block}")
        image, out_image = f"{self.d} * {self.h} * {self.w}", f"{self.od} * {self.oh} * {self.ow}"
        if plan.blocked:
            t.add(1, f"a_img = (n * {plan.blocks} + p) * ({image}) * {BLOCK}")
            t.add(1, f"o_img = (n * {plan.blocks} + p) * ({out_image}) * {BLOCK}")
        else:
            t.add(1, f"a_img = n * ({image}) * {self.px} + ch")
            t.add(1, f"o_img = n * ({out_image}) * {self.px} + ch")
        t.add(1, f"w_pan = p * {plan.taps * plan.block * plan.group}")
        if not depth.plain:
            clip_axis(self.text, 1, depth, "od", "d")
        indent = 1
        if group == 1:
            t.add(1, "oh = rb")
        else:
            t.add(1, f"for oh in range(rb * {group}, min((rb + 1) * {group}, {self.oh})):")
            indent = 2
        if height.plain:
            t.add(indent, "h_at = oh")
        else:
            clip_axis(self.text, indent, height, "oh", "h")
        t.add(indent, f"row_a = a_img + ({self.row_text()}) * {self.px}")
        t.add(indent, f"row_o = o_img + ((od * {self.oh} + oh) * {self.ow}) * {self.px}")
        self._parts(indent)
        grain = max(1, CHUNK_FLOPS // max(unit_flops * group, 1))
        extent = plan.batch * plan.blocks * depth.out * units
        return Template(t.source(), t.entry, tuple(t.args), extent, grain, 0, flops, self.low.aliasable)

    def _parts(self, indent: int) -> None:
        plan, t = self.plan, self.text
        if plan.blocked:
            self.row(indent, Part(plan.vectors, 0, str(BLOCK)))
            return
        whole, rest = divmod(plan.channels, plan.block)
        if whole and rest:
            t.add(indent, f"if p < {whole}:")
        if whole:
            self.row(indent + bool(rest), Part(plan.vectors, 0, str(plan.block)))
        if rest:
            if whole:
                t.add(indent, "else:")
                indent += 1
            self.row(indent, Part(-(-rest // plan.width), 1 if rest % plan.width else 0, str(rest)))

    def tile_call(
        self, indent: int, run: Run, height: int, part: Part, border_at: int | None = None, clip: bool = False,
        loop: bool = True,
    ) -> None:  # fmt: skip
        size, step = self.size, self.plan.block * self.plan.group
        _, rows, width = self.plan.axes
        values: dict[str, int | str] = {
            "ch": "ch", "w": f"w + w_pan * {size}", "w1": width.taps * step, "w0": rows.taps * width.taps * step,
            "WTAP": step, "GROUP": self.plan.group, "EPI": self.low.code, **self.low.slots,
            **self.place(run, height, part, border_at, clip),
        }  # fmt: skip
        if self.ahead:
            values |= {
                "ask": f"{self._at(run)} + {(rows.taps - 1 + self.ahead) * self.row_bytes}",
                "own": f"out + (row_o + j * {self.px}) * {size} + {self.ahead * self.row_bytes}",
                "ASK": 1, "TAPS": rows.taps,
            }  # fmt: skip
        self.text.add(indent, depthwise_call(values))
        if loop:
            self.after(indent, str(height), run, part)

    def place(self, run: Run, height: int, part: Part, border_at: int | None, clip: bool) -> dict[str, int | str]:
        """Where a tile reads and writes, and which taps it has."""
        depth, rows, width = self.plan.axes
        values: dict[str, int | str] = {
            "out": "out", "off": f"row_o + j * {self.px}", "a": self._at(run), "cols": part.cols, "px": self.px,
            "o_px": self.px, "SPX": run.in_step, "DPX": run.tap_step, "DT": self.size, "W": self.plan.width,
            "P": height, "NV": part.vectors, "TAIL": part.tail,
        }  # fmt: skip
        if not depth.plain:
            values |= {"lo0": "d_lo", "hi0": "d_hi", "a0": f"{depth.dilation} * {self.h} * {self.w} * {self.px}"}
        if not rows.plain:
            bounds: dict[str, int | str] = {"lo1": "h_lo", "hi1": "h_hi"}
            if rows.low == 0 and rows.high == 0:
                bounds = {"lo1": 0, "hi1": rows.taps}
            values |= bounds | {"a1": f"{rows.dilation} * {self.w} * {self.px}"}
        if clip:
            values |= {"lo2": "t_lo", "hi2": "t_hi"}
        elif border_at is not None:
            assert isinstance(width.size, int) and isinstance(run.in_base, int)
            column = run.in_base + border_at * run.in_step
            values |= {"KW": run.taps, "LEFT": -column, "RIGHT": width.size}
        elif run.taps <= MOST_UNROLLED_TAPS:
            values |= {"KW": run.taps}
        else:
            values |= {"hi2": run.taps}
        return values

    def _at(self, run: Run) -> str:
        """The address of the first tap of step ``j``."""
        return f"a + (row_a + ({self.text.dim(run.in_base)} + j * {run.in_step}) * {self.px}) * {self.size}"

    def after(self, indent: int, height: str, run: Run, part: Part) -> None:
        """The epilogue's loop stages over the tile just written."""
        if not self.low.statements:
            return
        lines = None
        if self.plan.blocked and height.isdigit():
            lines = run_text(self.low, self.size, "row_at", int(height), BLOCK, self.pointer)
        if lines is not None:
            self.text.add(indent, f"row_at = row_o + j * {self.px}")
        else:
            self.text.add(indent, f"for r_ in range({height}):\n    row_at = row_o + (j + r_) * {self.px}")
            lines = loop_text(self.low, self.size, "row_at", "ch", part.cols, self.pointer)
            indent += 1
        for line in lines:
            self.text.add(indent, line)
