"""Marks of Winograd tiles: what is marked, what stays direct and why, the greater tile only where it is admitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from targets import FakeTarget

from fusewright.core.errors import TypeRefused
from fusewright.ir import Builder, Graph
from fusewright.ir.graph import Node
from fusewright.passes import default_pipeline
from fusewright.passes.target.winograd import winograd, winograd4
from fusewright.testing import assert_equivalent


@dataclass(frozen=True)
class Direct(FakeTarget):
    """Direct sums are never slower."""

    def winograd_tile(self, node: Node, most: int) -> int:
        return 0


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(np.float32)


def network() -> Graph:
    """3x3 on a plain image, 3x3, with stride, with dilation, 1x1, and in groups."""
    b: Any = Builder()
    y = b.conv_blocked(b.input("x", "f32", ("N", 9, 8, 3)), weights(3, 3, 3, 32), x_blocked=False)
    y = b.conv_blocked(y, weights(3, 3, 32, 32), pads=((1, 1), (0, 1)))
    y = b.conv_blocked(y, weights(3, 3, 32, 32), pads=((1, 1), (1, 1)), strides=2)
    y = b.conv_blocked(y, weights(3, 3, 32, 32), pads=((2, 2), (2, 2)), dilations=2)
    y = b.conv_blocked(y, weights(1, 1, 32, 32))
    return b.build({"y": b.conv_blocked(y, weights(3, 3, 16, 32), pads=((1, 1), (1, 1)), groups=2)})


def tiles(graph: Graph) -> list[int]:
    return [n.attrs["winograd"] for n in graph.nodes if n.op.name == "conv_blocked"]


def test_only_what_the_tiles_cover_is_marked() -> None:
    graph = network()
    marked, stats = winograd.apply(graph, FakeTarget())
    marked.verify(2)
    assert tiles(marked) == [0, 2, 0, 0, 0, 0] and stats.rewritten == 1 and not stats.declined
    x = np.random.default_rng(0).standard_normal((2, 9, 8, 3)).astype(np.float32)
    assert_equivalent(graph, marked, {"x": x}, "reassoc")
    again, stats = winograd.apply(marked, FakeTarget())
    assert again.fingerprint == marked.fingerprint and stats.rewritten == 0


def test_a_larger_tile_replaces_a_smaller_one() -> None:
    marked, _ = winograd.apply(network(), FakeTarget())
    larger, _ = winograd4.apply(marked, FakeTarget())
    assert tiles(larger) == [0, 4, 0, 0, 0, 0]
    assert tiles(winograd.apply(larger, FakeTarget())[0]) == tiles(larger)


def test_the_target_has_the_last_word() -> None:
    graph, stats = winograd.apply(network(), Direct())
    assert tiles(graph) == [0] * 6
    assert [why for _, why in stats.declined] == ["the direct kernel or a smaller tile than F(2x2) is as fast"]
    assert tiles(winograd.apply(network())[0]) == tiles(winograd4.apply(network())[0]) == [0] * 6


@pytest.mark.parametrize("numerics,most", [("strict", 2), ("fast", 4)])
def test_the_mode_says_how_large(numerics: str, most: int) -> None:
    graph, _ = default_pipeline(FakeTarget(), numerics).run(network())
    assert [n.attrs["winograd"] for n in graph.walk() if n.op.name == "conv_blocked"] == [0, most, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "attrs",
    [{"winograd": 3}, {"winograd": 2, "strides": 2}, {"winograd": 2, "dilations": 2}, {"winograd": 2, "groups": 2}],
)
def test_marks_that_no_tile_covers_are_refused(attrs: dict[str, int]) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 2, 9, 9, 16))
    with pytest.raises(TypeRefused, match="winograd="):
        b.conv_blocked(x, weights(3, 3, 32 // attrs.get("groups", 1), 32), **attrs)
