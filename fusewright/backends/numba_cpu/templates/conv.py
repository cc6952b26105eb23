"""Kernel text of direct and transposed convolution on the contraction tile, for blocked and channels-last tensors.

Owns loops over rows, tiles and image borders. Must not choose tiles or layouts: that is conv_plan's.
Per output element the order is: channel block or depth tap, row tap, column tap, channel, each one FMA.
"""

from __future__ import annotations

from ....core.dims import Extent, product
from .asking import ahead, claimed
from .conv_plan import BLOCK, ConvPlan
from .epilogue import NONE, Epilogue, loop_text, run_text
from .panels import asked_bytes
from .rows import Part, RowWalk, Run, clip_axis, runs_of
from .template import SUM_TERMS, Template, contract_call
from .tiling import FEWEST_ROWS, Tiling, grain_of, open_runs

PANEL_BYTES = 400 * 1024  # weights of one panel beyond this are taken in passes over channel blocks
PASS_PIXELS = 64  # rows of fewer pixels share a pass


def conv(plan: ConvPlan, epilogue: Epilogue = NONE, entry: str = "conv") -> Template:
    """``epilogue(convolution)`` as one kernel.

    Arguments: ``a`` (operand 0), ``w`` (weights of operand 1), ``out``, the extras, then integers.
    A unit is an output row of one panel of one image; a tile of it where it is a line of pixels, or rows are few.
    """
    return _Conv(plan, epilogue, entry).template()


class _Conv(RowWalk):
    def __init__(self, plan: ConvPlan, epilogue: Epilogue, entry: str) -> None:
        super().__init__(plan.axes, plan.size, plan.tile.width, epilogue, entry, "temp" if plan.pairs else "operand")
        self.plan, self.tile = plan, plan.tile
        per_group, out_group = plan.channels // plan.groups, plan.layout.outputs
        self.in_blocks = -(-per_group // BLOCK)
        self.all_in_blocks, self.all_out_blocks = -(-plan.channels // BLOCK), -(-plan.outputs // BLOCK)
        self.out_group_blocks = -(-out_group // BLOCK)
        self.px = plan.block_elements if plan.in_blocked else plan.channels
        self.opx = BLOCK if plan.out_blocked else plan.outputs
        # Strides in the weights for one depth, row and column tap, and one channel block.
        nr, inner = plan.tile.columns, self.px if plan.in_blocked else per_group
        self.nr, self.inner = nr, inner
        kd, kh, kw = (axis.taps for axis in plan.axes)
        self.w2, self.w1, self.w0 = inner * nr, kw * inner * nr, kh * kw * inner * nr
        self.panel = (self.in_blocks if plan.in_blocked else kd) * self.w0
        self.most = plan.tile.rows
        self.image = f"{self.d} * {self.h} * {self.w}"
        self.rows_per_pass, self.blocks_per_pass = self._passes()
        if plan.line:
            self.tiling = Tiling(self.text, plan.axes[2].out, self.most)
        elif plan.axes[1].out == 1 or not self.blocks_per_pass:  # rows that share a pass stay whole
            images = plan.batch if isinstance(plan.batch, int) else 1
            self.cut(images * plan.groups * plan.layout.panels * plan.axes[0].out * plan.axes[1].out)

    def _passes(self) -> tuple[int, int]:
        """(most output rows of one pass, its channel blocks or 0): weights beyond the cache are taken in passes."""
        plan = self.plan
        width, height = plan.axes[2], plan.axes[1]
        few = isinstance(width.out, int) and isinstance(height.out, int) and width.out * height.out <= plan.tile.rows
        if self.panel * self.size <= PANEL_BYTES or not plan.in_blocked or few:
            return 1, 0
        per_block = self.w0 * self.size
        passes = -(-self.panel * self.size // PANEL_BYTES)
        blocks = min(max(1, -(-self.in_blocks // passes)), max(1, PANEL_BYTES // per_block))
        if plan.line or not isinstance(width.out, int):
            return (1, blocks) if plan.line else (4, blocks)
        return max(1, -(-PASS_PIXELS // max(width.out, 1))), blocks

    def _run(self) -> int:
        """Channel blocks of one partial sum, so that no sum is longer than SUM_TERMS; 0 when all are short enough."""
        _, height, width = self.plan.axes
        terms = BLOCK * height.taps * width.taps
        return 0 if self.in_blocks * terms <= SUM_TERMS else max(1, SUM_TERMS // terms)

    def template(self) -> Template:
        plan, t = self.plan, self.text
        panels = plan.layout.panels
        height = plan.axes[1]
        row_units = self.tiling.count if plan.line else height.out * self.pieces
        depth_out = plan.axes[0].out
        if plan.line:
            self.tiling.prepare(0)
            open_runs(t, self.tiling.tiles, "rb", "rest", self._tiles_per_pass() if self.blocks_per_pass else 0)
        elif self.pieces != 1:
            self.open_pieces("rb", "rest")
        else:
            open_runs(t, self.oh, "rb", "rest", self.rows_per_pass if self.blocks_per_pass else 0)
        if depth_out == 1:
            t.add(1, "od = 0")
        else:
            t.add(1, f"od = rest % {self.od}\nrest = rest // {self.od}")
        if self._panels_outermost():  # big weights are read once for all images, small ones once per image
            images = t.dim(plan.batch)
            t.add(1, f"n = rest % {images}\nrest = rest // {images}")
            t.add(1, f"p = rest % {panels}\ng = rest // {panels}")
            if not isinstance(plan.batch, int):
                t.add(1, "asks = 1 if n == 0 else 0")  # of a free number of images the first, which may be alone
        else:
            t.add(1, f"p = rest % {panels}\nrest = rest // {panels}")
            t.add(1, f"g = rest % {plan.groups}\nn = rest // {plan.groups}")
        t.add(1, f"n0 = p * {self.nr}\nch = g * {plan.layout.outputs} + n0")
        if plan.in_blocked:
            t.add(1, f"a_img = (n * {self.all_in_blocks} + g * {self.in_blocks}) * ({self.image}) * {self.px}")
        else:
            t.add(1, f"a_img = n * ({self.image}) * {self.px} + g * {self.inner}")
        out_image = f"{self.od} * {self.oh} * {self.ow}"
        if plan.out_blocked:
            first = f"n * {self.all_out_blocks} + g * {self.out_group_blocks} + p * {self.nr // BLOCK}"
            t.add(1, f"o_img = ({first}) * ({out_image}) * {BLOCK}")
        else:
            t.add(1, f"o_img = n * ({out_image}) * {self.opx} + ch")
        t.add(1, f"w_pan = (g * {panels} + p) * {self.panel}")
        self._depth()
        scratch: Extent = 0
        if self.blocks_per_pass:
            scratch = self._part_row() * self.rows_per_pass * self.nr * self.size
            t.add(1, f"for c0 in range(0, {self.in_blocks}, {self.blocks_per_pass}):")
            t.add(2, f"cn = min({self.blocks_per_pass}, {self.in_blocks} - c0)")
            t.add(2, f"mode = (1 if c0 > 0 else 0) + (2 if c0 + cn < {self.in_blocks} else 0)")
            last = self._last_channels()
            t.add(2, f"nkl = {self.inner} if c0 + cn < {self.in_blocks} else {last}")
            self._rows(2)
        else:
            self._rows(1)
        extent = plan.batch * plan.groups * panels * depth_out * row_units
        pixels = self.tiling.heights[0] if plan.line else plan.axes[2].out if self.pieces == 1 else self.most
        pixels = max(pixels, FEWEST_ROWS) if isinstance(pixels, int) else 32
        flops = 2 * plan.layout.elements // max(plan.groups * panels, 1) * pixels
        return Template(
            t.source(), t.entry, tuple(t.args), extent, grain_of(flops), scratch, plan.flops, self.low.aliasable
        )

    def _panels_outermost(self) -> bool:
        image = product((self.plan.axes[1].size, self.plan.axes[2].size, self.plan.channels))
        return isinstance(image, int) and self.plan.layout.elements > image

    def _last_channels(self) -> int:
        last = (self.plan.channels // self.plan.groups) - (self.in_blocks - 1) * BLOCK
        return last // 2 if self.plan.pairs else last

    def _part_row(self) -> Extent:
        """Pixels of partial sums that one output row takes in the scratch."""
        width = self.plan.axes[2]
        if self.plan.line:
            return self._tiles_per_pass() * self.tiling.heights[0]
        return width.steps * (width.stride if width.transposed else 1)

    def _tiles_per_pass(self) -> int:
        return max(1, self.plan.line // self.most)

    def _depth(self) -> None:
        """Depth taps: ``d_lo``, ``d_hi`` (range), ``d_at`` (input depth of tap 0), ``d_w`` (its kernel tap)."""
        if self.plan.in_blocked or self.plan.axes[0].plain:
            return
        clip_axis(self.text, 1, self.plan.axes[0], "od", "d")

    def _rows(self, indent: int) -> None:
        plan, t = self.plan, self.text
        if plan.line:
            t.add(indent, f"j_first = {self.tiling.first('rb')}")
            t.add(indent, "oh = 0\nlocal = 0")
        else:
            t.add(indent, "for oh in range(rb, rb + run):")
            indent += 1
            t.add(indent, "local = oh - rb")
        height = plan.axes[1]
        if height.plain:
            t.add(indent, "h_at = oh")
        else:
            clip_axis(self.text, indent, height, "oh", "h")
        t.add(indent, f"row_a = a_img + ({self.row_text()}) * {self.px}")
        out_row = f"(od * {self.oh} + oh) * {self.ow}" if plan.axes[0].out != 1 else f"oh * {self.ow}"
        t.add(indent, f"row_o = o_img + ({out_row}) * {self.opx}")
        whole, rest = divmod(plan.layout.outputs, self.nr)
        if plan.out_blocked:
            self._columns(indent, Part(self.tile.vectors, 0, str(self.nr)))
            return
        if whole:
            if rest:
                t.add(indent, f"if p < {whole}:")
            self._columns(indent + bool(rest), Part(self.tile.vectors, 0, str(self.nr)))
            if rest:
                t.add(indent, "else:")
                indent += 1
        if rest:
            vectors = -(-rest // self.tile.width)
            self._columns(indent, Part(vectors, 1 if rest % self.tile.width else 0, str(rest)))

    def _columns(self, indent: int, part: Part) -> None:
        """All columns of one output row."""
        if self.plan.line:
            t, (run,), heights = self.text, runs_of(self.plan.axes[2]), self.tiling.heights
            t.add(indent, "for t in range(rb, rb + run):")
            t.add(indent + 1, f"j = {self.tiling.first('t')}\nhh = {self.tiling.height('t')}")
            for i, height in enumerate(heights):
                if len(heights) > 1:
                    t.add(indent + 1, f"{'elif' if i else 'if'} hh == {height}:")
                self.tile_call(indent + 1 + (len(heights) > 1), run, height, part, loop=False)
            self.after(indent + 1, "hh", run, part)
            return
        self.row(indent, part)

    def tile_call(
        self, indent: int, run: Run, height: int, part: Part, border_at: int | None = None,
        clip: bool = False, loop: bool = True,
    ) -> None:  # fmt: skip
        """One call of the tile at step ``j``."""
        plan, t, size, nr = self.plan, self.text, self.size, self.nr
        depth, rows, _ = plan.axes
        base = t.dim(run.in_base)
        a_at = f"a + (row_a + ({base} + j * {run.in_step}) * {self.px}) * {size}"
        w_at = f"w + (w_pan + {run.w_base * self.w2}) * {size}"
        values: dict[str, int | str] = {
            "out": "out", "off": f"row_o + ({run.out_base} + j * {run.out_step}) * {self.opx}", "ch": "ch",
            "cols": part.cols, "nk": self.inner, "nk_last": self.inner, "wk": nr, "a_px": run.in_step * self.px,
            "o_px": run.out_step * self.opx,
            "o_vb": f"{self.od} * {self.oh} * {self.ow} * {BLOCK}" if plan.out_blocked else BLOCK,
            "DT": size, "W": self.tile.width, "P": height, "NV": part.vectors, "TAIL": part.tail, "EPI": self.low.code,
            "DOT": int(plan.pairs), **self.low.slots,
        }  # fmt: skip
        if not rows.plain:
            step = -rows.tap_back if rows.transposed else rows.dilation
            every = rows.tap_every if rows.transposed else 1
            values |= {"a1": f"{step} * {self.w} * {self.px}", "w1": every * self.w1, "lo1": "h_lo", "hi1": "h_hi"}
            if rows.transposed:
                w_at += f" + h_w * {self.w1 * size}"
            elif rows.low == 0 and rows.high == 0:
                values |= {"lo1": 0, "hi1": rows.taps}
        if plan.in_blocked:
            first = "c0" if self.blocks_per_pass else "0"
            a_at += f" + {first} * ({self.h} * {self.w} * {self.px * size})"
            w_at += f" + {first} * {self.w0 * size}"
            values |= {"n0": "cn" if self.blocks_per_pass else self.in_blocks, "w0": self.w0}
            values |= {"a0": f"{self.h} * {self.w} * {self.px}", "RUN": self._run()}
            values |= self._asked(height, w_at, str(values["n0"]))
            values["nk_last"] = "nkl" if self.blocks_per_pass else self._last_channels()
            if self.blocks_per_pass:
                row = t.dim(self._part_row())
                at = f"{t.dim(run.out_base * plan.axes[2].steps)} + j" + (" - j_first" if plan.line else "")
                values |= {"mode": "mode", "SPLIT": 1, "part": f"scratch + (local * {row} + {at}) * {nr * size}"}
        elif not depth.plain:
            step = -depth.tap_back if depth.transposed else depth.dilation
            every = depth.tap_every if depth.transposed else 1
            plane = f"{self.h} * {self.w} * {self.px}"
            a_at += f" + d_lo * ({step} * {plane} * {size})"
            w_at += f" + (d_w + d_lo * {every}) * {self.w0 * size}"
            values |= {"n0": "max(0, d_hi - d_lo)", "a0": f"{step} * {plane}", "w0": every * self.w0}
        values |= ahead(plan, run, height, self.w, self.px)
        times = self.blocks_per_pass or self.in_blocks if plan.in_blocked else 1
        values |= claimed(plan, height, times, height * run.out_step * self.opx)
        values |= self._taps(run, border_at, clip)
        t.add(indent, contract_call(values | {"a": a_at, "w": w_at}))
        if loop:
            self.after(indent, str(height), run, part)

    def _asked(self, height: int, w_at: str, blocks: str) -> dict[str, int | str]:
        """The next panel (or pass) of weights follows this one: each tile prefetches its share of it."""
        plan, pixel = self.plan, f"oh * {self.ow} + j"
        rows, read = plan.axes[1].out * plan.axes[2].out, f"{blocks} * {self.w0 * self.size}"
        if self._panels_outermost() and isinstance(plan.batch, int):
            rows, pixel = rows * plan.batch, f"(n * {self.oh} + oh) * {self.ow} + j"
        share = asked_bytes(rows, height, self.nr * self.size)
        if not share or any(axis.transposed for axis in plan.axes):
            return {}
        following = f"{read} + ({pixel}) * {read} // {rows}"
        if self._panels_outermost() and not isinstance(plan.batch, int):
            following = f"asks * ({following})"
        return {"ask": f"{w_at} + {following}", "ASK": share}

    def _taps(self, run: Run, border_at: int | None, clip: bool) -> dict[str, int | str]:
        """The column taps: a loop, or unrolled with the rows that each one has inside the image."""
        a2, w2 = run.tap_step * self.px, run.w_step * self.w2
        if clip:
            return {"a2": a2, "w2": w2, "lo2": "t_lo", "hi2": "t_hi"}
        if border_at is not None:
            width = self.plan.axes[2].size
            assert isinstance(width, int) and isinstance(run.in_base, int)
            column = run.in_base + border_at * run.in_step
            border = {"LEFT": -column, "RIGHT": width, "SPX": run.in_step, "DPX": run.tap_step}
            return {"a2": a2, "w2": w2, "KW": run.taps, **border}
        if run.tap_step == 1 and run.w_step == 1 and not self.plan.in_blocked and self.plan.groups == 1:
            # Taps and channels of a row are one run of memory in both operands.
            return {"nk": run.taps * self.inner, "nk_last": run.taps * self.inner}
        return {"a2": a2, "w2": w2, "hi2": run.taps}

    def after(self, indent: int, height: str, run: Run, part: Part) -> None:
        """The epilogue's loop stages over the tile just written."""
        if not self.low.statements:
            return
        t = self.text
        if self.blocks_per_pass:
            t.add(indent, "if mode < 2:")
            indent += 1
        at = f"row_o + ({run.out_base} + (j + r_) * {run.out_step}) * {self.opx}"
        blocks, plane = part.vectors * self.tile.width // BLOCK, f"({self.od} * {self.oh} * {self.ow} * {BLOCK})"
        lines = None
        if self.plan.out_blocked and run.out_step == 1 and height.isdigit():
            lines = run_text(self.low, self.size, "row_at", int(height), BLOCK, self.pointer)
        if lines is not None:
            t.add(indent, f"for v_ in range({blocks}):")
            t.add(indent + 1, f"row_at = row_o + ({run.out_base} + j) * {self.opx} + v_ * {plane}")
            indent += 1
        elif self.plan.out_blocked:
            t.add(indent, f"for r_ in range({height}):")
            t.add(indent + 1, f"for v_ in range({blocks}):")
            t.add(indent + 2, f"row_at = {at} + v_ * {plane}")
            t.add(indent + 2, f"ch_at = ch + v_ * {BLOCK}")
            lines = loop_text(self.low, self.size, "row_at", "ch_at", str(BLOCK), self.pointer)
            indent += 2
        else:
            t.add(indent, f"for r_ in range({height}):")
            t.add(indent + 1, f"row_at = {at}")
            lines = loop_text(self.low, self.size, "row_at", "ch", part.cols, self.pointer)
            indent += 1
        for line in lines:
            t.add(indent, line)
