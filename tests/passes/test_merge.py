"""Siblings become one contraction when their readers take slices in place, and only then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from targets import FakeTarget

from fusewright.ir import Builder, Graph
from fusewright.passes import Journal, default_pipeline
from fusewright.passes.target.merge import merge
from fusewright.testing import assert_equivalent

F = np.float32
TARGET = FakeTarget(frozenset({"softmax", "layer_norm", "attention"}))


def w(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(F)


def run(graph: Graph, target: Any = TARGET) -> tuple[Graph, int]:
    got, stats = merge.apply(graph, target)
    got.verify(2)
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.type.concrete({"N": 3})).astype(F) for v in graph.inputs}
    assert_equivalent(graph, got, feeds, "reassoc")
    assert merge.apply(got, target)[0].fingerprint == got.fingerprint
    return got, stats.rewritten


def heads(b: Any, y: Any) -> Any:
    n, t, c = y.shape
    return b.transpose(b.reshape(y, shape=(n, t, 2, c // 2)), perm=(0, 2, 1, 3))


def count(graph: Graph, name: str) -> int:
    return sum(n.op.name == name for n in graph.nodes)


def project(b: Any, x: Any, width: int = 8, bias: bool = True, flipped: bool = False) -> Any:
    shape = (width, x.shape[-1]) if flipped else (x.shape[-1], width)
    y = b.matmul(x, b.constant(w(*shape)), transpose_b=flipped)
    return b.add(b.constant(w(width)), y) if bias else y


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("biases", [(True, True, True), (True, False, True), (False, False, False)])
def test_queries_keys_and_values(flipped: bool, biases: tuple[bool, ...]) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 5, 6))
    widths = (8, 8, 12)
    q, k, v = (heads(b, project(b, x, n, has, flipped)) for n, has in zip(widths, biases, strict=True))
    got, merged = run(b.build(b.attention(q, k, v)))
    assert merged == 3 and count(got, "matmul") == 1 and count(got, "slice") == 3
    assert count(got, "add") == int(any(biases))


def test_a_memory_that_others_attend_to() -> None:
    b: Any = Builder()
    x, memory = b.input("x", "f32", ("N", 5, 6)), b.input("memory", "f32", ("N", 7, 6))
    q, k, v = heads(b, project(b, x)), heads(b, project(b, memory)), heads(b, project(b, memory))
    got, merged = run(b.build(b.attention(q, k, v)))
    assert merged == 2 and count(got, "matmul") == 2


def test_the_journal_shows_the_siblings_and_the_one_that_stands_for_them() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 5, 6))
    journal = Journal()
    merge.apply(b.build(b.attention(*(heads(b, project(b, x, bias=False)) for _ in range(3)))), TARGET, journal)
    (entry,) = journal
    assert sum(" = matmul" in line for line in entry.before) == 3
    assert sum(" = matmul" in line for line in entry.after) == 1 and entry.where


def test_what_would_have_to_be_written_out_stays() -> None:
    def net(b: Any, x: Any, reads: str) -> Any:
        q, k, v = (project(b, x) for _ in range(3))
        y = b.attention(*(heads(b, p) for p in (q, k, v)))
        return y, {"key": lambda: k, "activation": lambda: b.relu(q), "none": lambda: y}[reads]()

    for reads, merged in (("none", 3), ("key", 2), ("activation", 2)):
        b: Any = Builder()
        graph = b.build(*net(b, b.input("x", "f32", ("N", 5, 6)), reads))
        assert run(graph)[1] == merged
    b = Builder()
    x = b.input("x", "f32", ("N", 6))
    assert run(b.build(b.relu(project(b, x)), b.tanh(project(b, x))))[1] == 0


def test_a_mask_made_by_a_projection_is_no_value() -> None:
    b: Any = Builder()
    x, k, v = b.input("x", "f32", ("N", 5, 6)), b.input("k", "f32", ("N", 4, 8)), b.input("v", "f32", ("N", 4, 8))
    graph = b.build(b.attention(project(b, x), k, v, project(b, x, 4)))
    assert run(graph)[1] == 0


def test_without_a_kernel_nothing_is_merged() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 5, 6))
    graph = b.build(b.attention(*(heads(b, project(b, x)) for _ in range(3))))
    assert run(graph, FakeTarget())[1] == 0 and run(graph, None)[1] == 0


def test_the_pipeline_keeps_each_weight_once() -> None:
    """Merging is part of the portable graph: its constants are those that kernels pack."""
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 5, 6))
    q, k, v = (heads(b, b.matmul(x, b.constant(w(6, 8) * scale))) for scale in (F(1), F(2), F(3)))
    pipeline = default_pipeline(TARGET)
    portable, _ = pipeline.run(b.build(b.attention(q, k, v)), stop_after=pipeline.portable_cut)
    weights = [n.results[0].shape for n in portable.nodes if n.op.name == "constant"]
    assert (6, 24) in weights and (6, 8) not in weights
