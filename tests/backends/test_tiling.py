"""Rows cut into tiles that are units of work: every row once, whatever the chunks; what a chunk may take over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu.templates.conv import conv
from fusewright.backends.numba_cpu.templates.conv_plan import plan_conv
from fusewright.backends.numba_cpu.templates.matmul import matmul, plan_matmul
from fusewright.backends.numba_cpu.templates.packing import conv_layout
from fusewright.backends.numba_cpu.templates.template import TextBuilder, split_rows
from fusewright.backends.numba_cpu.templates.tiling import Tiling, open_runs
from fusewright.backends.numba_cpu.templates.winograd import plan_winograd, winograd, winograd_layout
from fusewright.backends.numba_cpu.tiles.probe import aligned, compile_text
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import symbol
from fusewright.core.dtypes import F32


def tiles_of(rows: int, most: int, free: bool) -> list[tuple[int, int]]:
    """(first row, height) of every tile, by the texts."""
    t = TextBuilder("k")
    tiling = Tiling(t, symbol("M") if free else rows, most)
    tiling.prepare(0)
    space: dict[str, Any] = {"rows": rows, "out": [], "max": max}
    names = {arg.name: (rows if str(arg.value) == "M" else -(-rows // most)) for arg in t.args}
    lines = [f"{k} = {v}" for k, v in names.items()] + [line.strip() for line in t.lines]
    exec("\n".join(lines), space)
    for tile in range(-(-rows // most)):
        space["t"] = tile
        out = (eval(tiling.first("t"), space), eval(tiling.height("t"), space))
        assert out[1] in tiling.heights
        space["out"].append(out)
    return space["out"]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("most", [1, 3, 6, 14])
def test_tiles_cover_every_row_once(most: int, free: bool) -> None:
    for rows in range(60):
        found = tiles_of(rows, most, free)
        assert [h for _, h in found] == (split_rows(rows, most) if rows else [])
        assert [first for first, _ in found] == [sum(h for _, h in found[:i]) for i in range(len(found))]


@pytest.mark.parametrize("most", [0, 3])
def test_runs_end_with_their_line_and_with_the_chunk(most: int) -> None:
    t = TextBuilder("k")
    open_runs(t, "7", "at", "line", most)
    t.add(1, "out.append((line, at, run))")
    for start in range(22):
        for stop in range(start, 22):
            space: dict[str, Any] = {"start": start, "stop": stop, "out": []}
            exec("\n".join(line[4:] for line in t.lines), space)
            units = [line * 7 + at + i for line, at, run in space["out"] for i in range(run)]
            assert units == list(range(start, stop))
            assert all(at + run <= 7 and 0 < run <= (most or 7) for _, at, run in space["out"])
            if not most:  # as few runs as lines
                assert len(space["out"]) == len({u // 7 for u in units})


def test_a_chunk_takes_over_what_its_thread_left_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 7, 7, 32), np.float32), rng.standard_normal((3, 3, 32, 144), np.float32)
    plan = plan_winograd(VARIANTS["cpu-avx512"], F32, x.shape, kernel.shape, ((1, 1), (1, 1)), 2)
    template = winograd(plan)
    extent = int(template.extent)  # type: ignore[arg-type]
    assert plan.panels == extent == 3  # one group of tiles
    held = [
        np.ascontiguousarray(np.moveaxis(x.reshape(1, 7, 7, 2, 16), 3, 1)),
        conv_layout(kernel.shape, plan.direct.layout).pack(kernel), winograd_layout(kernel.shape, plan).pack(kernel),
    ]  # fmt: skip
    function = compile_text(template.text, template.entry)

    def run(chunks: list[tuple[int, int]], ends: list[int]) -> np.ndarray:
        """``ends``: what the dispatcher says before each chunk; the scratch is overwritten where it says something
        else than what is true."""
        out = np.full((1, 9, 7, 7, 16), 77, np.float32)
        block = np.array([a.ctypes.data for a in (*held, out)], np.int64)
        scratch, last = aligned(int(template.scratch_bytes)), 0  # type: ignore[arg-type]
        for (start, stop), end in zip(chunks, ends, strict=True):
            if start != last or end != last:
                scratch[:] = 0
            scratch[:8].view(np.int64)[:] = end
            function(block.ctypes.data, start, stop, scratch.ctypes.data)
            last = stop
        return out

    whole = run([(0, 3)], [0])
    assert np.abs(whole).max() < 77
    for chunks, ends in (
        ([(0, 1), (1, 3)], [0, 1]), ([(1, 3), (0, 1)], [0, 3]), ([(2, 3), (1, 2), (0, 1)], [0, 3, 2]),
        ([(0, 1), (1, 2), (2, 3)], [0, 1, 0]),
    ):  # fmt: skip
        assert run(chunks, ends).tobytes() == whole.tobytes()
    assert run([(0, 1), (2, 3)], [0, 2]).tobytes() != whole.tobytes()  # a false word would be believed


@pytest.mark.parametrize("rows", [1, 2, 49, 128])
def test_two_threads_find_even_halves(rows: int) -> None:
    """Few units left one of two threads with five of nine; a unit is a tile, a chunk at most a part of twenty."""
    plan = plan_matmul(VARIANTS["cpu-avx512"], F32, (rows, 768), (768, 960), constant_b=True)
    template = matmul(VARIANTS["cpu-avx512"], F32, plan)
    extent = int(template.extent)  # type: ignore[arg-type]
    assert template.grain * 7 <= extent and (rows < 49 or template.grain * 20 <= extent)
    image = (1, 7, 7, 512) if rows == 49 else (1, rows, 1, 512)
    direct = plan_conv(
        VARIANTS["cpu-avx512"], F32, image, (1, 1, 512, 192), (1, 1), ((0, 0),) * 2, (1, 1), 1, True, True
    )
    assert conv(direct).extent == 192 // direct.tile.columns * -(-rows // direct.tile.rows)
