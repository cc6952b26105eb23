"""Generated graphs whose extents depend on values: passes, plans, kernels and threads against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import FusewrightError, InputRefused
from fusewright.ir.scope import defined
from fusewright.runtime.sanitise import sanitised_run
from fusewright.testing.dependent import DEPENDENT
from fusewright.testing.draw import SeededDraw
from fusewright.testing.feeds import feeds
from fusewright.testing.graphs import random_graph
from fusewright.testing.kernels import check_kernels
from fusewright.testing.oracle import check_outputs

OPTIONS = {"inject": DEPENDENT, "injected": 0.4, "max_nodes": 10, "control": False}


def drawn(seed: int) -> fw.Graph | None:
    """A graph that binds symbols during a run, or None."""
    graph = random_graph(seed, **OPTIONS)
    graph.verify(level=2)
    return graph if defined(graph) else None


def test_most_graphs_bind_symbols_and_round_trip():
    found = [g for g in map(drawn, range(60)) if g is not None]
    assert len(found) > 30
    for graph in found:
        again = fw.parse_graph(str(graph))
        again.verify(level=2)
        assert again.fingerprint == graph.fingerprint


@pytest.mark.parametrize("block", range(4))
def test_passes_keep_the_meaning(block):
    seen = 0
    for seed in range(40 * block, 40 * block + 40):
        graph = drawn(seed)
        if graph is None:
            continue
        after, _ = fw.default_pipeline("cpu").run(graph, verify=2)
        for k in range(3):
            given = feeds(graph, SeededDraw(1000 * seed + k))
            try:
                got = after.run(given)
            except InputRefused:
                continue
            check_outputs(graph, given, got)
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("seed", [1, 4, 9, 17, 23, 42])
def test_bundles_agree(seed):
    """Several inputs in a row through one bundle, sanitised, at 1, 2 and 8 threads with equal bits."""
    graph = next(g for s in range(seed * 100, seed * 100 + 100) if (g := drawn(s)) is not None and len(defined(g)) > 1)
    bundle = fw.compile(graph, target="cpu-avx2")
    others = [fw.load(bundle._container.data, threads=n) for n in (1, 8)]
    runs = 0
    for k in range(8):
        given = feeds(graph, SeededDraw(31 * seed + k))
        try:
            want = graph.run(given)
        except InputRefused:
            with pytest.raises(FusewrightError):
                bundle.run(given)
            continue
        got = bundle.run(given)
        assert {n: a.shape for n, a in got.items()} == {n: a.shape for n, a in want.items()}
        check_outputs(graph, given, got)
        for other in others:
            for name, array in other.run(given).items():
                assert array.tobytes() == got[name].tobytes()
        for name, array in sanitised_run(bundle, given).items():
            assert array.shape == got[name].shape
        runs += 1
    assert runs


def test_each_kernel_is_within_its_bound():
    graph = next(g for s in range(700, 800) if (g := drawn(s)) is not None and len(defined(g)) > 1)
    verdicts = check_kernels(graph, feeds(graph, SeededDraw(5), env={s: 7 for s in graph.symbols}), "cpu-avx2")
    assert verdicts and all(v.ok for v in verdicts), [v for v in verdicts if not v.ok]
    assert np.isfinite([v.worst for v in verdicts]).all()
