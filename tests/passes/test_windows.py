"""Pools of one element are slices, and what is cut away is never padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from left import ops

from fusewright.ir import Builder, Graph
from fusewright.passes.local.windows import RULES, windows
from fusewright.testing import assert_equivalent, check_pass

F = np.float32
X = ("N", 7, 6, 3)


def run(build: Any, shape: tuple[Any, ...] = X, numbers: np.ndarray | None = None) -> tuple[Graph, set[str]]:
    b: Any = Builder()
    out = build(b, b.input("x", "f32", shape))
    graph = b.build(*(out if isinstance(out, tuple) else (out,)))
    got, stats = windows.apply(graph)
    got.verify(2)
    concrete = graph.inputs[0].type.concrete({"N": 2})
    x = np.random.default_rng(0).standard_normal(concrete).astype(F)
    if numbers is not None:
        x.reshape(-1)[: len(numbers)] = numbers
    assert_equivalent(graph, got, {"x": x}, "exact")
    assert windows.apply(got)[0].fingerprint == got.fingerprint
    return got, set(stats.fired)


def crop(b: Any, x: Any, starts: tuple[int, ...], stops: tuple[Any, ...], steps: Any = None) -> Any:
    return b.slice(x, starts=starts, stops=stops, steps=steps)


def framed(b: Any, x: Any, low: tuple[int, ...], high: tuple[int, ...], **more: Any) -> Any:
    return b.pad(x, low=low, high=high, **more)


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(("strides", "left"), [((2, 3), ["slice"]), ((1, 1), [])])
def test_a_pool_of_one_element_is_a_slice(kind: str, strides: tuple[int, int], left: list[str]) -> None:
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-42], F)
    got, _ = run(lambda b, x: getattr(b, kind)(x, window=(1, 1), strides=strides), numbers=special)
    assert ops(got) == left


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
def test_a_padded_pool_of_one_element_stays(kind: str) -> None:
    pads = ((1, 0), (0, 0))
    assert ops(run(lambda b, x: getattr(b, kind)(x, window=(1, 1), strides=(2, 2), pads=pads))[0]) == [kind]


def test_shifted_and_thinned_out() -> None:
    """The second path of a factorised reduction: pad below, cut above, take every other pixel."""

    def net(b: Any, x: Any) -> Any:
        y = crop(b, framed(b, x, (0, 0, 0, 0), (0, 1, 1, 0)), (0, 1, 1, 0), ("N", 8, 7, 3))
        return b.avg_pool(y, window=(1, 1), strides=(2, 2))

    got, fired = run(net)
    assert ops(got) == ["slice", "pad"] and fired >= {r.name for r in RULES}
    pad = next(n for n in got.nodes if n.op.name == "pad")
    assert pad.operands[0].shape[1:] == (3, 3, 3) and pad.attrs["high"] == (0, 1, 0, 0)


def test_an_inner_part_needs_no_padding_whoever_reads_it() -> None:
    def net(b: Any, x: Any) -> Any:
        y = framed(b, x, (0, 1, 2, 0), (0, 1, 2, 0))
        return crop(b, y, (0, 2, 2, 0), ("N", 7, 8, 3)), b.relu(y)

    assert sorted(ops(run(net)[0])) == ["pad", "relu", "slice"]
    got, _ = run(lambda b, x: crop(b, framed(b, x, (0, 1, 2, 0), (0, 1, 2, 0)), (0, 2, 2, 0), ("N", 7, 8, 3)))
    assert ops(got) == ["slice"]


def test_a_padding_that_others_read_is_not_made_twice() -> None:
    def net(b: Any, x: Any) -> Any:
        y = framed(b, x, (0, 1, 1, 0), (0, 1, 1, 0))
        return crop(b, y, (0, 0, 0, 0), ("N", 4, 8, 3)), b.relu(y)

    got, fired = run(net)
    assert "slice of pad" not in fired
    assert sum(n.op.name == "pad" for n in got.nodes) == 1


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge"])
def test_other_modes_let_other_axes_be_cut(mode: str) -> None:
    def across(b: Any, x: Any) -> Any:
        return crop(b, framed(b, x, (0, 2, 0, 0), (0, 1, 0, 0), mode=mode), (0, 0, 1, 0), ("N", 10, 5, 2))

    def along(b: Any, x: Any) -> Any:
        return crop(b, framed(b, x, (0, 2, 0, 0), (0, 1, 0, 0), mode=mode), (0, 1, 0, 0), ("N", 10, 6, 3))

    assert ops(run(across)[0]) == ["slice", "pad"]
    assert ops(run(along)[0]) == ["pad", "slice"]


def test_nothing_but_padding_stays() -> None:
    got, _ = run(lambda b, x: crop(b, framed(b, x, (0, 3, 0, 0), (0, 0, 0, 0)), (0, 0, 0, 0), ("N", 2, 6, 3)))
    assert ops(got) == ["pad", "slice"]


def test_extents_that_are_not_known() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", "H", 6, 3))
    graph = b.build(b.slice(b.pad(x, low=(0, 1, 1, 0), high=(0, 1, 0, 0)), starts=(0, 0, 1, 0), stops=(None,) * 4))
    got, _ = windows.apply(graph)
    assert ops(got) == ["pad"] and got.outputs[0].type == graph.outputs[0].type
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype(F)}
    assert_equivalent(graph, got, feeds, "exact")


@given(
    st.integers(0, 3), st.integers(0, 3), st.integers(1, 6), st.integers(0, 11), st.integers(1, 12), st.integers(1, 4)
)
def test_every_cut_through_a_padding(low: int, high: int, size: int, start: int, stop: int, step: int) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", (size,))
    graph = b.build(b.slice(b.pad(x, 7.0, low=(low,), high=(high,)), starts=(start,), stops=(stop,), steps=(step,)))
    got, _ = windows.apply(graph)
    assert_equivalent(graph, got, {"x": np.arange(size, dtype=F)}, "exact")


def test_drawn_graphs_keep_their_meaning() -> None:
    check_pass(windows, 150)
