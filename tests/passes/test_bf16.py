"""Marks of rounding to bfloat16: what the CPU's costs choose, and that only `fast` admits the pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from targets import FakeTarget

from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.core.errors import TypeRefused
from fusewright.ir import Builder, Graph
from fusewright.passes import default_pipeline
from fusewright.passes.target.bf16 import bf16
from fusewright.testing import assert_equivalent


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 30).astype(np.float32)


def marks(graph: Graph) -> list[bool]:
    return [n.attrs["bf16"] for n in graph.walk() if n.op.name in ("matmul", "conv_blocked")]


def product(rows: Any, inner: int, columns: int, **attrs: Any) -> Graph:
    b: Any = Builder()
    shape = (inner, rows) if attrs.get("transpose_a") else (rows, inner)
    return b.build({"y": b.matmul(b.input("x", "f32", shape), weights(inner, columns), **attrs)})


def blocked(side: int, channels: int, filters: int, taps: int = 1, winograd: int = 0, groups: int = 1) -> Graph:
    b: Any = Builder()
    x = b.input("x", "f32", (1, -(-channels // 16), side, side, 16))
    pads = ((taps // 2, taps // 2),) * 2
    w = weights(taps, taps, channels // groups, filters)
    return b.build({"y": b.conv_blocked(x, w, pads=pads, winograd=winograd, groups=groups)})


def test_a_mark_keeps_the_value_and_says_so() -> None:
    graph = product(64, 128, 128)
    marked, stats = bf16.apply(graph, FakeTarget())
    marked.verify(2)
    assert marks(marked) == [True] and stats.rewritten == 1
    assert_equivalent(graph, marked, {"x": weights(64, 128)}, "approx")
    again, stats = bf16.apply(marked, FakeTarget())
    assert stats.rewritten == 0 and again.fingerprint == marked.fingerprint != graph.fingerprint


@pytest.mark.parametrize(
    "graph,want",
    [
        (product(64, 128, 128), True),
        (product("N", 512, 512), True),
        (product("N", 64, 64), False),  # rounding takes as long as it saves
        (product(4096, 512, 8), False),
        (product(64, 129, 128), False),  # no pairs
        (product(64, 128, 128, transpose_a=True), False),
        (blocked(14, 256, 1024), True),
        (blocked(14, 255, 1024), False),
        (blocked(14, 64, 64, 3, groups=64), False),  # nothing is summed over channels
        (blocked(56, 64, 64, 3, winograd=4), False),  # 144 products as 36 beat half the time
        (blocked(7, 512, 512, 3, winograd=2), True),  # the weights are what is read
        (blocked(28, 128, 128, 3, winograd=4), True),  # 16 products of pairs for 4 results beat 36 for 16
    ],
)
def test_the_cpu_rounds_where_it_pays(graph: Graph, want: bool) -> None:
    marked, stats = bf16.apply(graph, cpu_target())
    assert marks(marked) == [want] and (stats.declined == []) == want


@pytest.mark.parametrize("inner,width,want", [(64, 32, True), (63, 32, False), (64, 8, False)])
def test_gates_are_rounded_however_few_their_rows(inner: int, width: int, want: bool) -> None:
    """They read half the weights, and round in the kernel itself."""
    b: Any = Builder()
    z = b.matmul(b.input("x", "f32", (1, inner)), weights(inner, 2 * width))
    left, right = (b.slice(z, starts=(None, i * width), stops=(None, (i + 1) * width)) for i in range(2))
    done, _ = default_pipeline(cpu_target(), "fast").run(b.build({"y": b.mul(b.sigmoid(left), b.tanh(right))}))
    (node,) = (n for n in done.nodes if n.op.name == "fused")
    assert node.attrs["kind"] == "gated"
    assert [n.attrs["bf16"] for n in node.regions[0].nodes if n.op.name == "matmul"] == [want]


def test_weights_made_at_run_time_are_not_rounded() -> None:
    b: Any = Builder()
    graph = b.build({"y": b.matmul(b.input("x", "f32", (64, 512)), b.input("w", "f32", (512, 512)))})
    assert marks(bf16.apply(graph, cpu_target())[0]) == [False]


def test_only_fast_admits_it() -> None:
    graph = product(64, 512, 512)
    for numerics, want in (("strict", False), ("fast", True)):
        done, _ = default_pipeline(cpu_target(), numerics).run(graph)
        assert marks(done) == [want]


@pytest.mark.parametrize("dtype", ["f64", "i32"])
def test_only_float32_can_be_marked(dtype: str) -> None:
    b: Any = Builder()
    with pytest.raises(TypeRefused, match="bf16"):
        b.matmul(b.input("x", dtype, (2, 2)), b.input("y", dtype, (2, 2)), bf16=True)
