"""What tiles of convolutions prefetch, seen by running kernel text over tiles that note the lines they touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest

from fusewright.backends.numba_cpu.templates.conv import conv
from fusewright.backends.numba_cpu.templates.conv_plan import ConvPlan, plan_conv
from fusewright.backends.numba_cpu.templates.epilogue import NONE, Epilogue, Stage
from fusewright.backends.numba_cpu.templates.template import Template
from fusewright.backends.numba_cpu.templates.winograd import plan_winograd, winograd
from fusewright.backends.numba_cpu.tiles.layout import (
    SIGNATURE,
    WINOGRAD_IN_SIGNATURE,
    WINOGRAD_OUT_SIGNATURE,
    valid_rows,
)
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import evaluate, symbol
from fusewright.core.dtypes import F32

LINE, INPUT, OUTPUT = 64, 1 << 30, 1 << 40  # addresses far from each other


@dataclass
class Noted:
    """Lines in the order of their first use, and which of them were asked for before."""

    asked: set[int] = field(default_factory=set)
    used: dict[int, bool] = field(default_factory=dict)

    def use(self, addresses: Iterator[int]) -> None:
        for line in (a // LINE for a in addresses):
            self.used.setdefault(line, line in self.asked)

    @property
    def missed(self) -> list[int]:
        return [line for line, before in self.used.items() if not before]


def noted(plan: ConvPlan, epilogue: Epilogue = NONE) -> tuple[Noted, Noted]:
    """(input, results) of all tiles of a kernel."""
    template, read, written = conv(plan, epilogue), Noted(), Noted()

    def tile(*words: int) -> None:
        g = dict(zip(SIGNATURE, words, strict=True))
        rows, width = range(g["P"]), g["W"] * 4
        for i0 in range(g["n0"]):
            at = g["a"] + i0 * g["a0"] * 4
            for row, line in product(range(g["AHEAD_ROWS"]), range(g["AHEAD"])):
                read.asked.add((at + (g["ahead"] + row * g["ahead_row"]) * 4 + line * g["APART"]) // LINE)
            for row, v in product(range(g["CLAIM"]), range(g["NV"])):
                first = g["off"] + g["claim"] + (i0 * g["CLAIM"] + row) * g["o_px"]
                written.asked.add((g["out"] + first * 4 + v * width // LINE * g["o_vb"] * 4) // LINE)
        taps = range(g["KW"]) if g["KW"] else range(g["lo2"], g["hi2"])
        read.use(
            g["a"] + (i0 * g["a0"] + i1 * g["a1"] + i2 * g["a2"] + p * g["a_px"] + k * g["ak"]) * 4
            for i0, i1, i2, k in product(range(g["n0"]), range(g["lo1"], g["hi1"]), taps, range(0, g["nk"], 4))
            for p in (valid_rows(g, i2) if g["KW"] else rows)
        )
        written.use(
            g["out"] + (g["off"] + p * g["o_px"]) * 4 + v * width // LINE * g["o_vb"] * 4
            for p, v in product(rows, range(g["NV"]))
        )

    run(template, {"contract_tile": tile})
    return read, written


def run(template: Template, space: dict[str, Any]) -> None:
    exec(template.text, space)
    places = {"operand": INPUT, "output": OUTPUT}
    space[template.entry]([places.get(arg.kind, 0) for arg in template.args], 0, evaluate(template.extent, {}), 0)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("free", [False, True])
def test_weights_of_the_next_panel_are_asked_for_however_many_images_there_are(images: int, free: bool) -> None:
    batch = symbol("N") if free else images
    window = (1, 1, 256, 320), (1, 1), ((0, 0),) * 2, (1, 1), 1
    plan = plan_conv(VARIANTS["cpu-avx512"], F32, (batch, 7, 7, 256), *window, True, True)
    template, weights = conv(plan), Noted()
    far = INPUT << 20

    def tile(*words: int) -> None:
        g = dict(zip(SIGNATURE, words, strict=True))
        steps = list(product(range(g["n0"]), range(g["nk"])))
        for step, line in product(range(len(steps)), range(0, g["ASK"], LINE)):
            weights.asked.add((g["ask"] + step * g["ASK"] + line) // LINE)
        weights.use(g["w"] + (i0 * g["w0"] + k * g["wk"]) * 4 + v * LINE for i0, k in steps for v in range(g["NV"]))

    space: dict[str, Any] = {"contract_tile": tile}
    exec(template.text, space)
    args = [images if arg.kind == "dim" else far * (arg.kind == "weights") for arg in template.args]
    space[template.entry](args, 0, evaluate(template.extent, {"N": images}), 0)
    panel = 256 * plan.tile.columns * 4 // LINE
    assert len(weights.used) == 256 * 320 * 4 // LINE
    assert len(weights.missed) <= 1.05 * panel  # nobody comes before the first one
    assert len(weights.asked) <= 1.05 * (len(weights.used) + panel)  # the last one asks for what follows


def planned(
    side: int, channels: int, outputs: int, taps: int, stride: int, blocked: bool = True, **kind: str
) -> ConvPlan:
    pads = ((taps // 2, taps // 2),) * 2 if blocked else ((0, 0), (0, 0))
    variant = VARIANTS[kind.get("variant", "cpu-avx512")]
    window = (taps, taps, channels, outputs), (stride, stride), pads, (1, 1), 1
    return plan_conv(variant, F32, (1, side, side, channels), *window, blocked, True)


FAR = [(64, 64, 32, 3, 2, True), (64, 64, 32, 3, 1, True), (60, 64, 32, 1, 1, True), (61, 64, 32, 5, 2, True)]


@pytest.mark.parametrize("variant", ["cpu-avx512", "cpu-avx2"])
@pytest.mark.parametrize("shape", [*FAR, (243, 3, 32, 3, 2, False)])
def test_an_input_far_away_is_asked_for_before_it_is_read(shape: tuple[int, ...], variant: str) -> None:
    side, channels, _, taps, stride, blocked = shape
    read, _ = noted(planned(*shape, variant=variant))
    row = -(-side * (channels if not blocked else 16) * 4 // LINE)
    top = max(taps, stride) * row * (channels // 16 if blocked else 1)  # nobody comes before the first row of tiles
    assert len(read.used) > 4 * top
    assert len(read.missed) <= 1.1 * top + 0.05 * len(read.used)
    assert len(read.asked) <= 1.15 * len(read.used)  # and little for nothing


def test_pixels_of_a_strided_1x1_that_nobody_reads_are_not_asked_for() -> None:
    read, _ = noted(planned(64, 64, 32, 1, 2))
    assert len(read.missed) < 0.2 * len(read.used)
    assert len(read.asked) <= 1.1 * len(read.used)


def test_an_input_that_is_near_is_not_asked_for() -> None:
    """Neighbouring rows have brought most of the lines already."""
    assert not noted(planned(14, 64, 64, 3, 1))[0].asked


@pytest.mark.parametrize("variant", ["cpu-avx512", "cpu-avx2"])
@pytest.mark.parametrize("shape", [(96, 16, 64, 1, 1, True), (120, 3, 64, 3, 1, False), (48, 16, 128, 3, 1, True)])
def test_results_far_away_are_asked_for_before_they_are_written(shape: tuple[int, ...], variant: str) -> None:
    plan = planned(*shape, variant=variant)
    _, written = noted(plan, Epilogue((Stage("bias"),)))
    first = plan.tile.rows * plan.outputs // 16  # of a row, at the most
    assert len(written.missed) <= first * int(evaluate(plan.axes[1].out, {}))
    assert len(written.missed) < 0.3 * len(written.used)
    assert len(written.asked - written.used.keys()) <= first * 2


def test_results_that_stay_near_are_not_asked_for() -> None:
    assert not noted(planned(14, 64, 64, 3, 1))[1].asked


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("side", [20, 76])
def test_tiles_of_winograd_ask_for_those_below_where_these_are_far(side: int, m: int) -> None:
    plan = plan_winograd(VARIANTS["cpu-avx512"], F32, (1, side, side, 64), (3, 3, 64, 64), ((1, 1), (1, 1)), m)
    read, written = Noted(), Noted()

    def taken(*words: int) -> None:
        g = dict(zip(WINOGRAD_IN_SIGNATURE, words, strict=True))
        inside = range(m + 2)
        rows, columns = ((inside if g["FULL"] else [i for i in inside if g[lo] <= i < g[hi]]) for lo, hi in EDGES)
        if g["BELOW"]:
            read.asked |= {(g["a"] + (i * g["a_row"] + j * 16) * 4) // LINE for i in below(m + 2, m) for j in range(m)}
        read.use(g["a"] + (i * g["a_row"] + j * 16) * 4 for i, j in product(rows, columns))

    def made(*words: int) -> int:
        g = dict(zip(WINOGRAD_OUT_SIGNATURE, words, strict=True))
        first = g["out"] + g["off"] * 4
        if g["BELOW"]:
            written.asked |= {(first + (i * g["o_row"] + j * 16) * 4) // LINE for i in below(m, m) for j in range(m)}
        rows, columns = range(min(m, g["r_hi"])), range(min(m, g["c_hi"]))
        written.use(first + (i * g["o_row"] + j * 16) * 4 for i, j in product(rows, columns))
        return 0

    run(winograd(plan), {"contract_tile": lambda *words: None, "winograd_input": taken, "winograd_output": made})
    assert len(read.used) == len(written.used) == side * side * 4
    if side == 20:
        assert not read.asked and not written.asked
        return
    top = (m + 2) * side * 4
    assert len(read.missed) <= top + 2 * side * 4  # the first row of tiles, and columns that the last tile adds
    assert len(written.missed) <= m * side * 4


EDGES = (("r_lo", "r_hi"), ("c_lo", "c_hi"))


def below(first: int, m: int) -> range:
    return range(first, first + m)
