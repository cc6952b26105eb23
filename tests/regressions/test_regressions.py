"""Every graph in this folder once compiled to a wrong value, a refusal or a crash: compile it, run it, check it.

A file is a graph's text, as small as it got, named after what was wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusewright as fw
from fusewright.runtime.sanitise import sanitised_run
from fusewright.testing import SeededDraw, check_outputs, feeds

GRAPHS = sorted(Path(__file__).parent.glob("*.txt"))
TARGET = "cpu-avx2"


@pytest.mark.parametrize("path", GRAPHS, ids=lambda p: p.stem)
def test_the_graph_computes_what_it_says(path: Path) -> None:
    graph = fw.parse_graph(path.read_text())
    graph.verify(level=2)
    bundle = fw.compile(graph, target=TARGET)
    decided = 0
    for seed in range(6):
        given = feeds(graph, SeededDraw(seed))
        got = bundle.run(given)
        verdict = check_outputs(graph, given, got)
        decided += verdict.elements - verdict.undecided
        again = sanitised_run(bundle, given)
        assert all(np.asarray(again[name]).size == got[name].size for name in graph.output_names)
    assert decided > 0


def test_there_are_graphs() -> None:
    assert len(GRAPHS) >= 5
