"""What tiles of convolutions prefetch, seen by running kernel text over tiles that note the lines they touch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest

from fusewright.backends.numba_cpu.templates.conv import conv
from fusewright.backends.numba_cpu.templates.conv_plan import ConvPlan, plan_conv
from fusewright.backends.numba_cpu.templates.depthwise import depthwise, plan_depthwise
from fusewright.backends.numba_cpu.templates.epilogue import NONE, Epilogue, Stage
from fusewright.backends.numba_cpu.templates.matmul import matmul, plan_matmul
from fusewright.backends.numba_cpu.templates.template import Template
from fusewright.backends.numba_cpu.templates.winograd import plan_winograd, winograd
from fusewright.backends.numba_cpu.tiles.layout import (
    DEPTHWISE_SIGNATURE,
    SIGNATURE,
    WINOGRAD_IN_SIGNATURE,
    WINOGRAD_OUT_SIGNATURE,
    valid_rows,
)
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import Extent, evaluate, symbol
from fusewright.core.dtypes import F32

LINE, INPUT, OUTPUT, WEIGHTS = 64, 1 << 30, 1 << 40, 1 << 50  # addresses far from each other


@dataclass
class Noted:
    """Lines in the order of their first use, whether they were asked for before, and how often lines were asked for
    that nobody had used. A tile uses its own lines before it asks, which is to help later ones."""

    asked: set[int] = field(default_factory=set)
    used: dict[int, bool] = field(default_factory=dict)
    requests: int = 0

    def use(self, addresses: Iterable[int]) -> None:
        for line in (a // LINE for a in addresses):
            self.used.setdefault(line, line in self.asked)

    def ask(self, addresses: Iterable[int]) -> None:
        lines = {a // LINE for a in addresses}
        self.asked |= lines
        self.requests += sum(line not in self.used for line in lines)

    @property
    def missed(self) -> list[int]:
        return [line for line, before in self.used.items() if not before]


def noted(template: Template, env: Mapping[str, int] = {}) -> tuple[Noted, Noted]:
    """(input, results) of all tiles of a kernel."""
    read, written = Noted(), Noted()

    def tile(*words: int) -> None:
        g = dict(zip(SIGNATURE, words, strict=True))
        rows, width = range(g["P"]), g["W"] * 4
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
        read.ask(
            g["a"] + (i0 * g["a0"] + g["ahead"] + row * g["ahead_row"]) * 4 + line * g["APART"]
            for i0, row, line in product(range(g["n0"]), range(g["AHEAD_ROWS"]), range(g["AHEAD"]))
        )
        claimed = (g["off"] + g["claim"] + row * g["o_px"] for row in range(g["n0"] * g["CLAIM"]))
        per_line = max(1, LINE // width)
        written.ask(
            g["out"] + (first + v * width // LINE * g["o_vb"]) * 4
            for first, v in product(claimed, range(0, g["NV"], per_line))
        )

    run(template, {"contract_tile": tile}, env)
    return read, written


def run(template: Template, space: dict[str, Any], env: Mapping[str, int] = {}) -> None:
    exec(template.text, space)
    places = {"operand": INPUT, "weights": WEIGHTS, "output": OUTPUT}
    words = [evaluate(arg.value, env) if arg.kind == "dim" else places.get(arg.kind, 0) for arg in template.args]
    space[template.entry](words, 0, evaluate(template.extent, env), 0)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("free", [False, True])
def test_weights_of_the_next_panel_are_asked_for_however_many_images_there_are(images: int, free: bool) -> None:
    batch = symbol("N") if free else images
    window = (1, 1, 256, 320), (1, 1), ((0, 0),) * 2, (1, 1), 1
    plan = plan_conv(VARIANTS["cpu-avx512"], F32, (batch, 7, 7, 256), *window, True, True)
    weights = Noted()

    def tile(*words: int) -> None:
        g = dict(zip(SIGNATURE, words, strict=True))
        steps = list(product(range(g["n0"]), range(g["nk"])))
        weights.use(g["w"] + (i0 * g["w0"] + k * g["wk"]) * 4 + v * LINE for i0, k in steps for v in range(g["NV"]))
        weights.ask(range(g["ask"], g["ask"] + len(steps) * g["ASK"], 8))

    run(conv(plan), {"contract_tile": tile}, {"N": images})
    panel = 256 * plan.tile.columns * 4 // LINE
    assert len(weights.used) == 256 * 320 * 4 // LINE
    assert len(weights.missed) <= 1.05 * panel  # nobody comes before the first one
    assert weights.requests <= 2 * len(weights.used)  # once for all images; pieces of lines are rounded up


def planned(
    side: int, channels: int, outputs: int, taps: int, stride: int, blocked: bool = True, dilation: int = 1,
    variant: str = "cpu-avx512", images: Extent = 1, pairs: bool = False,
) -> ConvPlan:  # fmt: skip
    pads = ((taps // 2 * dilation,) * 2,) * 2 if blocked else ((0, 0), (0, 0))
    window = (taps, taps, channels, outputs), (stride, stride), pads, (dilation, dilation), 1
    return plan_conv(VARIANTS[variant], F32, (images, side, side, channels), *window, blocked, True, pairs=pairs)


FAR = [(64, 64, 32, 3, 2, True), (64, 64, 32, 3, 1, True), (60, 64, 32, 1, 1, True), (61, 64, 32, 5, 2, True)]


@pytest.mark.parametrize("variant", ["cpu-avx512", "cpu-avx2"])
@pytest.mark.parametrize("shape", [*FAR, (64, 64, 32, 3, 1, True, 2), (243, 3, 32, 3, 2, False)])
def test_an_input_far_away_is_asked_for_before_it_is_read(shape: tuple[int, ...], variant: str) -> None:
    side, channels, _, taps, stride, blocked, dilation = (*shape, 1)[:7]
    plan = planned(*shape, variant=variant)
    read, _ = noted(conv(plan))
    row = -(-side * (channels if not blocked else 16) * 4 // LINE)
    # Nobody comes before the first row of tiles: of one line of pixels, the first tile.
    top = max((taps - 1) * dilation + 1, stride) * row * (channels // 16 if blocked else 1)
    top = plan.tile.rows * channels // 16 if taps == 1 else top
    assert len(read.used) > 4 * top
    assert len(read.missed) <= 1.1 * top + 0.05 * len(read.used)
    assert len(read.asked) <= 1.15 * len(read.used)  # and little for nothing
    assert read.requests <= 1.3 * len(read.used)


def test_pixels_of_a_strided_1x1_that_nobody_reads_are_not_asked_for() -> None:
    read, _ = noted(conv(planned(64, 64, 32, 1, 2)))
    assert len(read.missed) < 0.2 * len(read.used)
    assert len(read.asked) <= 1.1 * len(read.used)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_asks_for_an_input_of_any_size(stride: int) -> None:
    """Nobody else has read its lines, whoever wrote them."""
    assert noted(conv(planned(14, 64, 64, 1, stride)))[0].asked


NOT_ASKED = {
    "neighbouring rows have brought most of the lines": planned(14, 64, 64, 3, 1),
    "pixels lie one behind the other": planned(64, 64, 32, 3, 1, False),
    "pixels lie one behind the other, few bytes each": planned(40, 3, 32, 1, 1, False),
    "pairs were just rounded": planned(64, 64, 32, 1, 1, variant="cpu-avx512bf16", pairs=True),
}


@pytest.mark.parametrize("why", NOT_ASKED)
def test_an_input_that_comes_anyway_is_not_asked_for(why: str) -> None:
    assert not noted(conv(NOT_ASKED[why]))[0].asked


RESULTS = [
    (96, 16, 64, 1, 1, True), (64, 64, 64, 1, 1, True), (120, 3, 64, 3, 1, False), (48, 16, 128, 3, 1, True),
]  # fmt: skip


@pytest.mark.parametrize("variant", ["cpu-avx512", "cpu-avx2"])
@pytest.mark.parametrize("shape", RESULTS)
def test_results_far_away_are_asked_for_before_they_are_written(shape: tuple[int, ...], variant: str) -> None:
    plan = planned(*shape, variant=variant)
    _, written = noted(conv(plan, Epilogue((Stage("bias"),))))
    first = plan.tile.rows * plan.outputs // 16  # of a row, at the most
    assert len(written.missed) <= first * int(evaluate(plan.axes[1].out, {}))
    assert len(written.missed) < 0.3 * len(written.used)
    assert len(written.asked - written.used.keys()) <= first * 2
    assert written.requests <= 1.4 * len(written.used)


def test_results_that_stay_near_are_not_asked_for() -> None:
    assert not noted(conv(planned(14, 64, 64, 3, 1)))[1].asked


def test_tensors_of_a_free_number_of_images_are_far() -> None:
    read, written = noted(conv(planned(14, 64, 64, 3, 1, images=symbol("N"))), {"N": 1})
    assert read.asked and written.asked


def test_long_rows_of_a_far_matrix_are_asked_for() -> None:
    variant = VARIANTS["cpu-avx512"]
    plan = plan_matmul(variant, F32, (64, 2048), (2048, 64), constant_b=True)
    read, _ = noted(matmul(variant, F32, plan))
    assert len(read.used) == 64 * 2048 * 4 // LINE
    assert len(read.missed) <= plan.tile.rows * 2048 * 4 // LINE
    assert read.requests <= 1.2 * len(read.used)


RESIDUAL = Epilogue((Stage("bias"), Stage("residual")))
LOOP = Epilogue((Stage("scale"),) * 5)  # more than registers hold: a loop reads the results back


@pytest.mark.parametrize("epilogue", [RESIDUAL, LOOP])
@pytest.mark.parametrize("rows", [101, symbol("N")])
@pytest.mark.parametrize("k, pairs", [(256, False), (768, False), (1100, True)])
def test_a_matmul_asks_for_far_results_of_its_own_while_it_sums(
    k: int, pairs: bool, rows: Extent, epilogue: Epilogue
) -> None:
    variant = VARIANTS["cpu-avx512bf16"]
    plan = plan_matmul(variant, F32, (rows, k), (k, 1536), constant_b=True, pairs=pairs)
    written = Noted()

    def tile(*words: int) -> None:
        g = dict(zip(SIGNATURE, words, strict=True))
        lines = range(g["NV"])
        written.ask(
            g["out"] + (g["off"] + g["claim"] + row * g["o_px"]) * 4 + v * LINE
            for row, v in product(range(g["n0"] * g["CLAIM"]), lines)
        )
        written.use(g["out"] + (g["off"] + p * g["o_px"]) * 4 + v * LINE for p, v in product(range(g["P"]), lines))

    space = {"contract_tile": tile, "pf32": lambda at: defaultdict(float)}
    run(matmul(variant, F32, plan, epilogue), space, {"N": 101})
    assert len(written.used) == 101 * 1536 * 4 // LINE
    assert not written.missed and written.requests <= 1.2 * len(written.used)


@pytest.mark.parametrize(
    "m, k, n, epilogue",
    [
        (64, 768, 1024, RESIDUAL),
        (256, 128, 4096, RESIDUAL),
        (64, 2048, 4096, RESIDUAL),
        (256, 768, 4096, NONE),
    ],
    ids=["results stay near", "sums are short", "partial sums are no results", "nothing is read"],
)
def test_a_matmul_asks_for_no_results_where_that_does_not_help(m: int, k: int, n: int, epilogue: Epilogue) -> None:
    variant = VARIANTS["cpu-avx512"]
    plan = plan_matmul(variant, F32, (m, k), (k, n), constant_b=True)
    assert not noted(matmul(variant, F32, plan, epilogue))[1].asked


@pytest.mark.parametrize("variant", ["cpu-avx512", "cpu-avx2"])
@pytest.mark.parametrize("taps", [3, 5])
def test_a_large_depthwise_layer_asks_for_what_it_reads_and_writes(taps: int, variant: str) -> None:
    side, channels, pad = 80, 32, (taps // 2, taps // 2)
    window = (taps, taps, 1, channels), (1, 1), (pad, pad), (1, 1)
    plan = plan_depthwise(VARIANTS[variant], F32, (1, side, side, channels), *window, True)
    read, written = Noted(), Noted()

    def tile(*words: int) -> None:
        g = dict(zip(DEPTHWISE_SIGNATURE, words, strict=True))
        rows, step, share = range(g["P"]), g["px"] * 4, -(-g["P"] // g["TAPS"])
        live = [p * g["SPX"] + t * g["DPX"] for t in range(g["KW"]) for p in (valid_rows(g, t) if g["RIGHT"] else rows)]
        read.use(g["a"] + (i1 * g["a1"] + c * g["px"]) * 4 for i1 in range(g["lo1"], g["hi1"]) for c in live)
        written.use(g["out"] + (g["off"] + p * g["o_px"]) * 4 for p in rows)
        ahead = [i1 * share + p for i1 in range(g["lo1"], g["hi1"]) for p in range(share)]
        read.ask(g["ask"] + p * step for p in ahead)
        written.ask(g["own"] + p * step for p in ahead)

    run(depthwise(plan), {"depthwise_tile": tile})
    for seen, before in ((read, taps + 2), (written, 2)):  # rows that nobody comes before
        assert len(seen.used) == side * side * channels // 16
        assert len(seen.missed) <= before * side * channels // 16
        assert seen.requests <= 1.6 * len(seen.used)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("side", [20, 76])
def test_tiles_of_winograd_ask_for_those_below_where_these_are_far(side: int, m: int) -> None:
    plan = plan_winograd(VARIANTS["cpu-avx512"], F32, (1, side, side, 64), (3, 3, 64, 64), ((1, 1), (1, 1)), m)
    read, written = Noted(), Noted()

    def taken(*words: int) -> None:
        g = dict(zip(WINOGRAD_IN_SIGNATURE, words, strict=True))
        inside = range(m + 2)
        rows, columns = ((inside if g["FULL"] else [i for i in inside if g[lo] <= i < g[hi]]) for lo, hi in EDGES)
        read.use(g["a"] + (i * g["a_row"] + j * 16) * 4 for i, j in product(rows, columns))
        if g["BELOW"]:
            read.ask(g["a"] + (i * g["a_row"] + j * 16) * 4 for i, j in product(range(m + 2, 2 * m + 2), range(m)))

    def made(*words: int) -> int:
        g = dict(zip(WINOGRAD_OUT_SIGNATURE, words, strict=True))
        first = g["out"] + g["off"] * 4
        rows, columns = range(min(m, g["r_hi"])), range(min(m, g["c_hi"]))
        written.use(first + (i * g["o_row"] + j * 16) * 4 for i, j in product(rows, columns))
        if g["BELOW"]:
            written.ask(first + (i * g["o_row"] + j * 16) * 4 for i, j in product(range(m, 2 * m), range(m)))
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
