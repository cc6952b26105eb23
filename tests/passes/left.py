"""What a pass left of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusewright.ir import Builder, Graph
from fusewright.passes.local.sink import sink
from fusewright.testing import assert_equivalent


def ops(graph: Graph) -> list[str]:
    """The names of the nodes that compute something, in order."""
    return [n.op.name for n in graph.nodes if n.op.name not in ("input", "constant", "return")]


def sunk(build: Any, *shapes: tuple[Any, ...]) -> tuple[list[str], set[str]]:
    """``ops`` of what ``build(b, *inputs)`` makes after ``sink``, checked in every way, and the rules that fired."""
    b: Any = Builder()
    out = build(b, *(b.input(f"x{i}", "f32", s) for i, s in enumerate(shapes)))
    graph = b.build(*(out if isinstance(out, tuple) else (out,)))
    got, stats = sink.apply(graph)
    got.verify(2)
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.type.concrete({"N": 2})).astype(np.float32) for v in graph.inputs}
    assert_equivalent(graph, got, feeds, "reassoc")
    assert sink.apply(got)[0].fingerprint == got.fingerprint
    return ops(got), set(stats.fired)
