"""Strided 1x1 convolutions that wait for a sum read a slice, where what they skip would stay alive at the peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from networks import around, conv, pooled
from targets import FakeTarget

from fusewright.backends.numba_cpu.target import CpuTarget
from fusewright.core.dims import evaluate
from fusewright.core.planner import Lifetimes, plan_offsets
from fusewright.ir import Builder, Graph
from fusewright.passes import PassStats, default_pipeline
from fusewright.passes.memory.arrange import arrange
from fusewright.passes.target.fuse import fuse
from fusewright.passes.target.thin import thin
from fusewright.testing import assert_equivalent

F = np.float32


@dataclass(frozen=True)
class NoStrides(FakeTarget):
    """Its kernels go over every element or are not fused."""

    def can_fuse(self, kind: str, region: Graph) -> bool:
        return all(set(n.attrs.get("strides", (2,))) == {2} for n in region.nodes)


def strided(b: Any, x: Any, stride: int) -> Any:
    return conv(b, x, 8, strides=(stride, stride))


def thinned(graph: Graph, target: Any = None) -> tuple[Graph, PassStats]:
    target = target or FakeTarget()
    before, _ = fuse.apply(graph, target)
    got, stats = thin.apply(before, target)
    got.verify(2)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 12, 12, 4)).astype(F)}
    assert_equivalent(before, got, feeds, "exact")
    assert thin.apply(got, target)[0].fingerprint == got.fingerprint
    return got, stats


def slices(graph: Graph) -> int:
    return sum(n.op.name == "slice" for n in graph.nodes)


def test_a_slice_waits_instead_of_the_whole() -> None:
    got, stats = thinned(around())
    assert slices(got) == 1 and stats.rewritten == 1
    cut = next(n for n in got.nodes if n.op.name == "slice")
    assert cut.attrs["steps"] == (1, 2, 2, 1) and cut.operands[0].producer is cut.previous
    anchor = next(n for v in cut.results[0].users for n in v.regions[0].nodes if n.op.name == "conv")
    assert anchor.attrs["strides"] == (1, 1) and "thin" in str(cut.origin)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"stride": 1}, ""),
        ({"size": 3}, ""),
        ({"given": True}, ""),
        ({"before": 64}, "where most memory is needed"),
        ({"last": strided}, ""),  # the later of two contractions takes in the sum
        ({"last": strided, "late": True}, "from a contraction"),
    ],
)
def test_what_does_not_wait_or_does_not_matter(options: dict[str, Any], why: str) -> None:
    got, stats = thinned(around(**options))
    assert slices(got) == 0 and len(stats.declined) == bool(why)
    assert all(why in text for _, text in stats.declined)


def test_the_target_decides() -> None:
    got, stats = thinned(around(), NoStrides())
    assert slices(got) == 0 and "no kernel" in stats.declined[0][1]


def test_without_a_target_nothing_is_done() -> None:
    graph = around()
    assert thin.apply(graph)[0].fingerprint == graph.fingerprint


def arena(graph: Graph) -> int:
    program = arrange(graph, CpuTarget())
    lives = Lifetimes([b.first for b in program.buffers], [b.last for b in program.buffers])
    return plan_offsets([evaluate(b.bytes, {"N": 1}) for b in program.buffers], lives)[1]


def test_the_arena_is_smaller_in_blocks_too() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 24, 24, 3))
    y = conv(b, x, 32)
    z = conv(b, b.relu(conv(b, y, 64)), 64)
    out = b.add(pooled(b, z, 2), conv(b, y, 64, 1, strides=(2, 2)))
    graph = b.build(conv(b, out, 16))
    pipeline = default_pipeline(CpuTarget())
    with_it, without = pipeline.run(graph)[0], pipeline.without("thin").run(graph)[0]
    cut = next(n for n in with_it.nodes if n.op.name == "slice")
    assert cut.attrs["steps"] == (1, 1, 2, 2, 1)
    assert arena(with_it) < arena(without)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 24, 24, 3)).astype(F)}
    assert_equivalent(without, with_it, feeds, "exact")
