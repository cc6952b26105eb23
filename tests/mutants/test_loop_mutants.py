"""Every seeded miscompile of the passes on loops and gates is found within its budget of graphs."""

from __future__ import annotations

import statistics
import warnings

import pytest
from mutant import table
from mutant_loops import MUTANTS


def test_every_loop_mutant_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kills = [(m, m.hunt(m.budget)) for m in MUTANTS]
    graphs = [k.graphs for _, k in kills if k.graphs is not None]
    with capsys.disabled():
        print(f"\n{table(kills)}\n{len(graphs)} of {len(kills)} killed, median {statistics.median(graphs):.0f} graphs")
    assert [m.name for m, k in kills if k.graphs is None] == []
    assert statistics.median(graphs) <= 100
