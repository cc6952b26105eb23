"""The table of choices that ships: each entry names a class of shapes that exists, and changes its kernel."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends import targets as machines
from fusewright.backends.numba_cpu import tune as tuning
from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.backends.numba_cpu.choices import Choices, shipped
from fusewright.backends.numba_cpu.lower import ConstantStore, lower
from fusewright.backends.numba_cpu.select import contract
from fusewright.backends.numba_cpu.templates.panels import pick_blocks, tiles_of
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.passes.memory.schedule import schedule
from fusewright.passes.pipeline import default_pipeline

SITE = re.compile(
    r"conv (\d+)x(\d+)/(\d+)x\d+ pad (\d+)x(\d+)\+(\d+)x(\d+) dil 1x1 groups 1 \?x(\d+)x(\d+)x(\d+)>(\d+) blocked"
)


def graph_of(site: str) -> fw.Graph:
    """A graph with a convolution of this class of shapes."""
    found = SITE.fullmatch(site)
    assert found is not None, site
    high, wide, stride, top, bottom, left, right, h, w, c, k = map(int, found.groups())
    rng, b = np.random.default_rng(0), fw.Builder()
    narrow, taps = rng.standard_normal((1, 1, 16, c), np.float32), rng.standard_normal((high, wide, c, k), np.float32)
    x = b.relu(b.conv(b.input("x", "f32", ("N", h, w, 16)), b.constant(narrow), strides=1, pads=((0, 0), (0, 0))))
    y = b.conv(x, b.constant(taps), strides=stride, pads=((top, bottom), (left, right)))
    return b.build({"y": b.relu(y)})


SHIPPED = [(variant, site) for variant, rows in shipped()._table.items() for site in rows]


@pytest.mark.parametrize("variant,site", SHIPPED)
def test_what_ships_is_of_a_class_that_is_there_and_changes_its_kernel(variant: str, site: str) -> None:
    made, graph = shipped().get(variant, site), graph_of(site)
    assert made is not None and made.grain == 1  # threads differ from machine to machine
    texts = []
    for table in (shipped(), Choices()):
        program = schedule(default_pipeline(cpu_target(table)).run(graph)[0], cpu_target(table))
        (node,) = [s.node for s in tuning.sites_of(program, program.graph.bounds) if s.name == site]
        rows, columns, blocked = contract.rows_and_columns(node)
        for m, tile in made.tiles.items():
            assert m == contract.winograd_of(node)
            assert tile in tiles_of(VARIANTS[variant], columns, blocked, rows)
        texts.append([s.text for s in lower(program, VARIANTS[variant], ConstantStore(), table).sources])
    assert texts[0] != texts[1]


def test_what_ships_is_in_the_code_of_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, site), *_ = SHIPPED
    code = []
    for table in (shipped(), Choices()):
        monkeypatch.setattr(machines, "shipped", lambda table=table: table)
        bundle = fw.compile(graph_of(site), target=["cpu-avx2", "cpu-avx512"])
        code.append([bundle._container.read(f"native/{t.name}/code.bin") for t in bundle.manifest.targets])
        again = fw.compile(graph_of(site), target=["cpu-avx2", "cpu-avx512"])
        assert bytes(again._container.data) == bytes(bundle._container.data)
    assert [a == b for a, b in zip(*code, strict=True)] == [False, False]  # an algorithm is that of all targets


def test_a_last_tile_that_waits_for_itself_is_avoided() -> None:
    wide = VARIANTS["cpu-avx512"]
    tiles = {rows: pick_blocks(wide, 4, 16, rows) for rows in (7, 14, 19, 28, 56)}
    assert {rows: (t.rows, t.vectors) for rows, t in tiles.items()} == {
        7: (12, 2), 14: (6, 4), 19: (6, 4), 28: (6, 4), 56: (6, 4)
    }  # fmt: skip


def test_the_table_of_the_package_is_read_and_in_order() -> None:
    file = Path(tuning.__file__).with_name("choices.json")
    assert shipped() == Choices.of(file.read_text(), "choices.json") and shipped().to_text() == file.read_text()
