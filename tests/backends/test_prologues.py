"""Reductions and row normalisations behind an elementwise prologue: inside their bounds, and in place too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.ir import Builder, Graph
from fusewright.testing.kernels import check_kernels

REDUCES = {
    "softmax": lambda b, y: b.softmax(y),
    "log_softmax": lambda b, y: b.log_softmax(y),
    "layer_norm": lambda b, y: b.layer_norm(y, b.constant(np.linspace(0.5, 2, y.shape[-1]).astype(y.dtype.np))),
    "rms_norm": lambda b, y: b.rms_norm(y),
    "sum of rows": lambda b, y: b.reduce_sum(y, axes=(2,)),
    "mean of columns": lambda b, y: b.reduce_mean(y, axes=(0,)),
    "largest of all": lambda b, y: b.reduce_max(y, axes=(0, 1, 2)),
}
MASKS: dict[str, tuple[Any, ...]] = {
    "full": ("N", 3, 40),
    "rows": ("N", 1, 40),
    "columns": ("N", 3, 1),
    "vector": (40,),
}


def graph_of(mask: str, dtype: str) -> Graph:
    b: Any = Builder()
    x, m = b.input("x", dtype, ("N", 3, 40)), b.input("m", dtype, MASKS[mask])
    keep = b.input("keep", "bool", ("N", 1, 40))
    return b.build(
        {n: f(b, b.where(keep, b.add(b.mul(x, i + 0.5), m), -1e9)) for i, (n, f) in enumerate(REDUCES.items())}
    )


def feeds_of(graph: Graph, n: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {v.name: v.type.concrete({"N": n}) for v in graph.inputs}
    return {
        v.name: rng.random(shapes[v.name]) < 0.7
        if v.dtype.name == "bool"
        else rng.standard_normal(shapes[v.name]).astype(v.dtype.np)
        for v in graph.inputs
    }


@pytest.mark.parametrize(("mask", "dtype"), [("full", "f32"), ("rows", "f32"), ("columns", "f64"), ("vector", "f32")])
def test_inside_its_bounds(mask: str, dtype: str) -> None:
    graph = graph_of(mask, dtype)
    verdicts = check_kernels(graph, feeds_of(graph))
    assert all(v.ok for v in verdicts), "\n".join(map(str, verdicts))
    assert {v.name.split("(")[0] for v in verdicts} == {"rows", "reduce"}


def test_rows_over_two_axes_join_when_they_are_one_loop() -> None:
    b: Any = Builder()
    x, m = b.input("x", "f32", ("N", 3, 40)), b.input("m", "f32", ("N", 1, 40))
    graph = b.build(b.log_softmax(b.mul(x, 0.5), axes=(1, 2)), b.log_softmax(b.add(x, m), axes=(1, 2)))
    verdicts = check_kernels(graph, feeds_of(graph))
    assert all(v.ok for v in verdicts)
    assert {v.name for v in verdicts} == {"rows(mul log_softmax)", "add", "log_softmax"}


def test_half_precision_keeps_its_prologue_apart() -> None:
    b: Any = Builder()
    graph = b.build(b.softmax(b.mul(b.input("x", "f16", ("N", 9)), 0.5)))
    assert [s.node.op.name for s in fw.plan(graph).program.walk()] == ["mul", "softmax"]


def test_rows_are_written_over_what_the_prologue_reads() -> None:
    b: Any = Builder()
    x, m = b.input("x", "f32", ("N", 300)), b.input("m", "f32", ("N", 300))
    first = b.concat(x, m, axis=1)
    y = b.softmax(b.mul(b.add(first, b.concat(m, x, axis=1)), 0.5))
    graph = b.build({"y": b.reverse(b.layer_norm(b.add(y, b.concat(x, x, axis=1))), axes=(0,))})
    report = fw.plan(graph).report({"N": 5}).to_dict()
    assert sum(bool(p["reused"]) for p in report["in_place"]) >= 2
    feeds = feeds_of(graph, 5)
    bundle = fw.compile(graph)
    for threads in (1, 2, 8):
        got = bundle.run(feeds)["y"] if threads == 1 else fw.compile(graph, threads=threads).run(feeds)["y"]
        assert np.abs(got - graph.run(feeds)["y"]).max() < 1e-5
