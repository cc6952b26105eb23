"""Winograd convolution F(m x m, 3 x 3) on blocked tensors: plan, cost and kernel text.

Owns its work units, its scratch and the choice against the direct kernel. Must not know about graphs.
A unit transforms a group of tiles (once per group and thread), multiplies them with a panel of the weights and
transforms back. A block of results that is not finite is computed again tap by tap, as the direct kernel does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....core.dims import Extent, ceildiv
from ....core.dtypes import F32, DType
from ....core.layout import Layout
from ....core.winograd import ROUNDED, TAPS, TILES
from ..variants import Variant
from .asking import far
from .conv_plan import BLOCK, ConvPlan, plan_conv
from .epilogue import NONE, Epilogue, Lowered, loop_text, lower
from .packing import conv_layout, paired
from .panels import Tile, asked_bytes
from .template import (
    SUM_TERMS,
    Template,
    TextBuilder,
    contract_call,
    split_rows,
    winograd_input_call,
    winograd_output_call,
)
from .tiling import SCRATCH_HEAD, going_on

# Scratch is memory that a model needs for each thread: groups of tiles are no larger than speed asks for. Weights that
# no near cache holds are read again for each group, so these groups are larger.
GROUP_BYTES = 128 * 1024  # transformed inputs and products of a group
MOST_TILES, LEAST_TILES, LEAST_TILES_FAR = 64, 8, 25
NEAR_BYTES = 512 * 1024  # transformed weights


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    """What text and packing share. ``direct`` is the plan whose packed weights the second reckoning reads."""

    m: int
    group: int  # tiles of a group
    direct: ConvPlan
    pairs: bool = False  # what is multiplied is rounded to bfloat16, two channels in an element of 4 bytes

    @property
    def tile(self) -> Tile:
        return self.direct.tile

    @property
    def side(self) -> int:
        return self.m + TAPS - 1

    @property
    def points(self) -> int:
        return self.side**2

    @property
    def panels(self) -> int:
        return -(-self.direct.outputs // self.tile.columns)

    @property
    def grid(self) -> tuple[Extent, Extent]:
        """Rows and columns of tiles of an image."""
        return ceildiv(self.direct.axes[1].out, self.m), ceildiv(self.direct.axes[2].out, self.m)


def plan_winograd(
    variant: Variant,
    dtype: DType,
    x_shape: Sequence[Extent],
    w_shape: Sequence[int],
    pads: Sequence[tuple[Extent, Extent]],
    m: int,
    pairs: bool = False,
) -> WinogradPlan:
    """Plan a 3 x 3 convolution of stride 1 on blocked tensors; shapes as for ``plan_conv``. Raises ValueError."""
    if dtype is not F32 or len(x_shape) != 4 or tuple(w_shape[:2]) != (TAPS, TAPS):
        raise ValueError(f"Winograd covers 3 x 3 kernels of f32, not {tuple(w_shape)} of {dtype}")
    direct = plan_conv(variant, dtype, x_shape, w_shape, (1, 1), pads, (1, 1), 1, True, True)
    if pairs and (m != ROUNDED or direct.channels % 2):
        raise ValueError(f"pairs are of an even number of channels in tiles of {ROUNDED}, not {direct.channels} in {m}")
    tiles = ceildiv(direct.axes[1].out, m) * ceildiv(direct.axes[2].out, m)
    total = tiles * x_shape[0]
    point_bytes = (m + TAPS - 1) ** 2 * 4
    least = LEAST_TILES if point_bytes * w_shape[2] * w_shape[3] <= NEAR_BYTES else LEAST_TILES_FAR
    most = max(least, min(MOST_TILES, GROUP_BYTES // (point_bytes * (w_shape[2] + direct.tile.columns))))
    rows: Extent = total if isinstance(total, int) else tiles
    group = _group(rows, most) if isinstance(rows, int) else most
    return WinogradPlan(m, group, direct, pairs)


# Cycles: of one point of a transformed vector of 16 on its way in and on its way out, and bytes of weights per cycle as
# they come from memory. Chosen so that the order of measured times is met; benchmarks/winograd.py shows them.
_IN, _OUT, _WEIGHTS = 5.0, 8.0, 8.0
_LEAST_GAIN = 1.1
_DIRECT = 0


def faster(x_shape: Sequence[Extent], w_shape: Sequence[int], pads: Sequence[tuple[Extent, Extent]], most: int) -> int:
    """Side of the tiles, at most ``most``, in which a convolution is fastest; 0 for direct sums. The batch counts as 1
    where it is free, and free images stay direct: their border is a larger share the smaller they are."""
    best, chosen = _cycles(x_shape, w_shape, pads, _DIRECT), _DIRECT
    if best is None:
        return _DIRECT
    for m in TILES:
        cost = _cycles(x_shape, w_shape, pads, m)
        if m <= most and cost is not None and cost * _LEAST_GAIN < best:
            best, chosen = cost, m
    return chosen


def pairs_faster(
    x_shape: Sequence[Extent], w_shape: Sequence[int], pads: Sequence[tuple[Extent, Extent]], m: int
) -> bool:
    """Pairs of bfloat16, by direct sums or in tiles, are faster than tiles F(m x m, 3 x 3) in float32."""
    best = _cycles(x_shape, w_shape, pads, pairs_tile(x_shape, w_shape, pads), True)
    tiles = _cycles(x_shape, w_shape, pads, m)
    return best is None or tiles is None or best < tiles


def pairs_tile(x_shape: Sequence[Extent], w_shape: Sequence[int], pads: Sequence[tuple[Extent, Extent]]) -> int:
    """Side of the tiles in which a convolution of bfloat16 pairs is fastest; 0 for direct sums."""
    direct, tiles = (_cycles(x_shape, w_shape, pads, m, True) for m in (_DIRECT, ROUNDED))
    return ROUNDED if direct is not None and tiles is not None and tiles < direct else _DIRECT


def _cycles(
    x_shape: Sequence[Extent],
    w_shape: Sequence[int],
    pads: Sequence[tuple[Extent, Extent]],
    m: int,
    pairs: bool = False,
) -> float | None:
    """What a 3 x 3 convolution takes in tiles F(m x m, 3 x 3), or (m = 0) by direct sums; None where its image or
    channels are free. ``pairs`` of bfloat16: half as many steps over half as many bytes of weights."""
    n, *image, channels = x_shape
    if not isinstance(channels, int) or len(_ints((*image, *pads[0], *pads[1]))) < 6:
        return None
    batch, outputs = n if isinstance(n, int) else 1, w_shape[-1]
    inside, out = 1, []
    for size, (low, high) in zip(_ints(image), map(_ints, pads), strict=True):
        out.append(size + low + high - TAPS + 1)
        inside *= sum(0 <= o + t - low < size for o in range(out[-1]) for t in range(TAPS))
    share = 0.5 if pairs else 1.0
    vectors, read = share * channels * outputs / BLOCK, share * channels * outputs * 4 / _WEIGHTS
    if m == _DIRECT:
        return batch * inside * vectors + TAPS * TAPS * read
    points = (m + TAPS - 1) ** 2
    tiles = batch * -(-out[0] // m) * -(-out[1] // m)
    moved = tiles * points * (_IN * channels + _OUT * outputs) / BLOCK
    return tiles * points * vectors + moved + points * read


def _ints(values: Sequence[Extent]) -> list[int]:
    return [v for v in values if isinstance(v, int)]


def _group(total: int, most: int) -> int:
    """Tiles of a group: as few groups as ``most`` allows, all nearly full."""
    groups = max(1, -(-total // most))
    return max(1, -(-total // groups))


def winograd_layout(shape: Sequence[int], plan: WinogradPlan) -> Layout:
    """The kernel ``3, 3, C, K`` as ``[1, panels, side, side, C/16, 16, nr]``, made at load from the direct form."""
    packed = conv_layout(shape, plan.direct.layout)  # [1, panels, C/16, 3, 3, 16, nr]
    moves = [("transpose", (3, 4, 0, 1, 2, 5, 6)), ("winograd", (plan.m,)), ("transpose", (2, 3, 0, 1, 4, 5, 6))]
    made = Layout(shape, [*packed.moves, *moves])
    return paired(made) if plan.pairs else made


def winograd(plan: WinogradPlan, epilogue: Epilogue = NONE, entry: str = "winograd") -> Template:
    """``epilogue(convolution)`` as one kernel.

    Arguments: ``a`` (operand 0), ``w`` (operand 1, packed for the direct plan), ``u`` (operand 1, transformed),
    ``out``, the extras, then integers.
    """
    return _Winograd(plan, epilogue, entry).template()


class _Winograd:
    def __init__(self, plan: WinogradPlan, epilogue: Epilogue, entry: str) -> None:
        self.plan, direct = plan, plan.direct
        self.low: Lowered = lower(epilogue, direct.size, plan.tile.width)
        t = self.text = TextBuilder(entry)
        t.pointer("a", "operand", 0)
        t.pointer("w", "weights", 1)
        t.pointer("u", "transformed", 1)
        t.pointer("out", "output")
        for i in range(len(epilogue.extras)):
            t.pointer(f"e{i}", "extra", i)
        _, height, width = direct.axes
        self.h, self.w, self.oh, self.ow = (t.dim(d) for d in (height.size, width.size, height.out, width.out))
        self.h_low, self.w_low = t.dim(height.low), t.dim(width.low)
        self.nr = plan.tile.columns
        self.in_blocks, self.out_blocks = direct.in_blocks, -(-direct.outputs // BLOCK)
        # Strides in elements; odd numbers of cache lines, so that rows do not meet in one set of the cache.
        self.each = BLOCK // 2 if plan.pairs else BLOCK  # elements of 4 bytes in a block of transformed inputs
        self.row = _odd(-(-self.in_blocks * self.each // BLOCK)) * BLOCK
        self.v_e = _odd(plan.group * self.row // BLOCK) * BLOCK
        self.m_e = _odd(plan.group * self.nr // BLOCK) * BLOCK

    def template(self) -> Template:
        plan, t, direct = self.plan, self.text, self.plan.direct
        rows, columns = plan.grid
        per_image = t.dim(rows * columns)
        self.rows, self.columns = t.dim(rows), t.dim(columns)
        groups = ceildiv(direct.batch * rows * columns, plan.group)
        total = t.dim(direct.batch * rows * columns)
        going_on(t)
        t.add(0, f"room = scratch + {SCRATCH_HEAD}")
        t.add(0, "for unit in range(start, stop):")
        t.add(1, f"p = unit % {plan.panels}\nt0 = unit // {plan.panels} * {plan.group}")
        t.add(1, f"tn = min({plan.group}, {total} - t0)")
        t.add(1, "if p == 0 or (unit == start and not going_on):")
        self._segments(2, per_image, self._transform)
        self._products(1)
        self._segments(1, per_image, self._results)
        scratch = (self.v_e + self.m_e) * plan.points * direct.size + SCRATCH_HEAD
        return Template(
            t.source(), t.entry, tuple(t.args), groups * plan.panels, 1, scratch, direct.flops, self.low.aliasable
        )  # fmt: skip

    def _segments(self, indent: int, per_image: str, body: object) -> None:
        """The group's tiles, cut where a row of tiles ends: ``at`` (first in the group), ``n``, ``ty``, ``tx``,
        ``count``."""
        t = self.text
        t.add(indent, "at = 0")
        t.add(indent, "while at < tn:")
        t.add(indent + 1, f"n = (t0 + at) // {per_image}\nrest = (t0 + at) % {per_image}")
        t.add(indent + 1, f"ty = rest // {self.columns}\ntx = rest % {self.columns}")
        t.add(indent + 1, f"count = min({self.columns} - tx, tn - at)")
        t.add(indent + 1, f"h0 = ty * {self.plan.m} - {self.h_low}")
        body(indent + 1)  # type: ignore[operator]
        t.add(indent + 1, "at += count")

    def _transform(self, indent: int) -> None:
        """Inputs into the scratch, ``[points][tiles][channels]``."""
        plan, t, side = self.plan, self.text, self.plan.side
        t.add(indent, f"for cb in range({self.in_blocks}):")
        t.add(indent + 1, f"plane = (n * {self.in_blocks} + cb) * {self.h} * {self.w} + h0 * {self.w}")
        t.add(indent + 1, "for i in range(count):")
        t.add(indent + 2, f"w0 = (tx + i) * {plan.m} - {self.w_low}")
        values: dict[str, int | str] = {
            "a": f"a + (plane + w0) * {BLOCK * 4}", "v": f"room + ((at + i) * {self.row} + cb * {self.each}) * 4",
            "a_row": f"{self.w} * {BLOCK}", "v_e": self.v_e, "W": plan.tile.width, "M": plan.m,
            "BELOW": int(far(plan.direct, plan.direct.channels, lambda axis: axis.size)), "PAIRS": int(plan.pairs),
        }  # fmt: skip
        whole = f"h0 >= 0 and h0 <= {self.h} - {side} and w0 >= 0 and w0 <= {self.w} - {side}"
        t.add(indent + 2, f"if {whole}:")
        t.add(indent + 3, winograd_input_call(values | {"FULL": 1}))
        t.add(indent + 2, "else:")
        border = {"r_lo": "-h0", "r_hi": f"{self.h} - h0", "c_lo": "-w0", "c_hi": f"{self.w} - w0"}
        t.add(indent + 3, winograd_input_call(values | border))

    def _products(self, indent: int) -> None:
        """One panel's products of all tiles at all points, ``[points][tiles][nr]`` behind the transformed inputs."""
        plan, t, nr = self.plan, self.text, self.nr
        channels = plan.direct.channels * self.each // BLOCK
        t.add(indent, f"for k in range({plan.points}):")
        chunk, point = min(channels, SUM_TERMS), self.in_blocks * self.each * nr * 4
        heights = split_rows(plan.group, plan.tile.rows)
        for height in dict.fromkeys(heights):
            first, count = heights.index(height), heights.count(height)
            start = sum(heights[:first])
            t.add(indent + 1, f"for r in range({start}, {start + count * height}, {height}):")
            values: dict[str, int | str] = {
                "out": f"room + {self.v_e * plan.points * 4}", "off": f"k * {self.m_e} + r * {nr}",
                "a": f"room + (k * {self.v_e} + r * {self.row}) * 4",
                "w": f"u + (p * {plan.points} + k) * {point}",
                "n0": -(-channels // chunk), "a0": chunk, "w0": chunk * nr, "nk": chunk,
                "nk_last": channels - (channels - 1) // chunk * chunk, "wk": nr, "a_px": self.row, "o_px": nr,
                "o_vb": BLOCK, "DT": 4, "W": plan.tile.width, "P": height, "NV": plan.tile.vectors,
                "RUN": 1 if channels > chunk else 0, "DOT": int(plan.pairs),
            }  # fmt: skip
            share = asked_bytes(plan.group, height, nr * 4)
            if share:  # the weights of the next point follow those of this one
                values |= {"ask": f"{values['w']} + {point} + r * {point} // {plan.group}", "ASK": share}
            t.add(indent + 2, contract_call(values))

    def _results(self, indent: int) -> None:
        """From the products to the output; what is not finite is computed again."""
        plan, t, m = self.plan, self.text, self.plan.m
        image = f"{self.oh} * {self.ow}"
        blocks = self.nr // BLOCK
        t.add(indent, "for i in range(count):")
        t.add(indent + 1, f"w0 = (tx + i) * {m}")
        t.add(indent + 1, f"for kb in range({blocks}):")
        inner = indent + 2
        t.add(inner, f"ch = p * {self.nr} + kb * {BLOCK}")
        first = f"(n * {self.out_blocks} + p * {blocks} + kb) * ({image})"
        t.add(inner, f"off = ({first} + ty * {m} * {self.ow} + w0) * {BLOCK}")
        values: dict[str, int | str] = {
            "out": "out", "off": "off", "ch": "ch", "o_row": f"{self.ow} * {BLOCK}", "m_e": self.m_e,
            "m": f"room + ({self.v_e * plan.points} + (at + i) * {self.nr} + kb * {BLOCK}) * 4",
            "r_hi": self._left(1, f"ty * {m}"), "c_hi": self._left(2, "w0"), "W": plan.tile.width, "M": m,
            "EPI": self.low.code, **self.low.slots,
            "BELOW": int(far(plan.direct, plan.direct.outputs, lambda axis: axis.out)),
        }  # fmt: skip
        t.add(inner, f"if {winograd_output_call(values)} != 0:")
        t.add(inner + 1, f"for oh in range(ty * {m}, min(ty * {m} + {m}, {self.oh})):")
        t.add(inner + 2, f"for ow in range(w0, min(w0 + {m}, {self.ow})):")
        self._again(inner + 3)
        if self.low.statements:
            t.add(inner, f"for oh in range(ty * {m}, min(ty * {m} + {m}, {self.oh})):")
            t.add(inner + 1, f"for ow in range(w0, min(w0 + {m}, {self.ow})):")
            t.add(inner + 2, f"row_at = ({first} + oh * {self.ow} + ow) * {BLOCK}")
            for line in loop_text(self.low, 4, "row_at", "ch", str(BLOCK), "pf32"):
                t.add(inner + 2, line)

    def _left(self, axis: int, at: str) -> int | str:
        """How many results of a tile lie inside the image along ``axis``."""
        out = self.plan.direct.axes[axis].out
        if isinstance(out, int) and out % self.plan.m == 0:
            return self.plan.m
        return f"{(self.oh, self.ow)[axis - 1]} - {at}"

    def _again(self, indent: int) -> None:
        """One pixel of one block of channels, tap by tap over the weights of the direct plan."""
        t, layout = self.text, self.plan.direct.layout
        nr, size = layout.nr, self.plan.direct.size
        taps, inner = TAPS * TAPS * BLOCK * nr, BLOCK * nr
        plane = f"{self.h} * {self.w} * {BLOCK}"
        t.add(indent, f"h_at = oh - {self.h_low}\nw_at = ow - {self.w_low}")
        t.add(indent, f"pixel = (n * {self.in_blocks} * {self.h} + h_at) * {self.w} + w_at")
        terms = TAPS * TAPS * BLOCK
        values: dict[str, int | str] = {
            "out": "out", "ch": "ch", "a": f"a + pixel * {BLOCK * size}",
            "off": f"off + ((oh - ty * {self.plan.m}) * {self.ow} + ow - w0) * {BLOCK}",
            "w": f"w + (ch // {nr} * {self.in_blocks * taps} + ch % {nr}) * {size}",
            "n0": self.in_blocks, "a0": plane, "w0": taps, "lo1": "max(0, -h_at)", "hi1": f"min(3, {self.h} - h_at)",
            "a1": f"{self.w} * {BLOCK}", "w1": TAPS * inner, "lo2": "max(0, -w_at)", "hi2": f"min(3, {self.w} - w_at)",
            "a2": BLOCK, "w2": inner, "nk": BLOCK, "nk_last": self.plan.direct.channels - (self.in_blocks - 1) * BLOCK,
            "wk": nr, "DT": size, "W": self.plan.tile.width, "P": 1, "NV": BLOCK // self.plan.tile.width,
            "EPI": self.low.code, "RUN": 0 if self.in_blocks * terms <= SUM_TERMS else max(1, SUM_TERMS // terms),
            **self.low.slots,
        }  # fmt: skip
        t.add(indent, contract_call(values))


def _odd(lines: int) -> int:
    return lines | 1
