"""Strides of 1x1 convolutions go to the convolutions before them, as far as nothing else is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from left import ops
from strided import strided_reader

import fusewright as fw
from fusewright.ir import Builder, Graph
from fusewright.passes.local.strides import strides
from fusewright.testing import assert_equivalent, check_pass

F = np.float32


class Net:
    """A builder with convolutions of drawn weights."""

    def __init__(self) -> None:
        self.b: Any = Builder()
        self.rng = np.random.default_rng(0)

    def conv(self, x: Any, *window: int, **attrs: Any) -> Any:
        *sides, channels = window
        return self.b.conv(x, self.rng.standard_normal((*sides, x.shape[-1], channels)).astype(F), **attrs)

    def moved(self, *outputs: Any) -> tuple[Graph, Any]:
        graph = self.b.build(*outputs)
        got, stats = strides.apply(graph)
        got.verify(2)
        feeds = {v.name: self.rng.standard_normal(v.type.concrete({"N": 2, "H": 6})).astype(F) for v in graph.inputs}
        assert_equivalent(graph, got, feeds, "reassoc")
        assert strides.apply(got)[0].fingerprint == got.fingerprint
        return got, stats


def all_strides(graph: Graph) -> list[tuple[int, ...]]:
    return [n.attrs["strides"] for n in graph.nodes if n.op.name == "conv"]


@pytest.mark.parametrize("shape", [(3,), (8, 3), (1, 3), (7, 8, 3), (1, 7, 1, 3), ()])
def test_operands_of_lower_rank_are_cut_along_the_axes_that_they_have(shape: tuple[int, ...]) -> None:
    net = Net()
    x = net.b.input("x", "f32", ("N", 7, 8, 4))
    h = net.conv(net.conv(x, 1, 1, 3), 3, 3, 3, pads=((1, 1), (1, 1)))
    y = net.b.mul(net.b.relu(h), net.rng.standard_normal(shape).astype(F))
    got, stats = net.moved(net.conv(y, 1, 1, 5, strides=(2, 3)))
    assert stats.rewritten == 1 and all_strides(got) == [(1, 1), (2, 3), (1, 1)]
    assert ops(got).count("slice") == any(d != 1 for d in shape[-3:-1])


def test_what_was_tried_in_vain_is_gone() -> None:
    """Nothing before the sum computes less, so its operand of lower rank is not cut either."""
    net = Net()
    x = net.b.input("x", "f32", ("N", 7, 8, 4))
    got, stats = net.moved(net.conv(net.b.add(x, np.ones((8, 4), F)), 1, 1, 5, strides=(2, 2)))
    assert not stats.rewritten and ops(got) == ["add", "conv"]


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("step", [(2, 2), (3, 1), (1, 2)])
def test_through_a_residual_block(size: int, step: tuple[int, int]) -> None:
    """The last block of a stage, whose readers both skip: its 3x3 convolution computes only what they take."""
    net = Net()
    b = net.b
    x = b.input("x", "f32", ("N", size, size, 4))
    h = b.relu(net.conv(x, 1, 1, 3))
    h = b.relu(b.add(net.conv(h, 3, 3, 3, pads=((1, 1), (1, 1))), np.ones(3, F)))
    y = b.relu(b.add(b.add(net.conv(h, 1, 1, 4), np.ones((1, 1, 4), F)), x))
    got, stats = net.moved(net.conv(y, 1, 1, 5, strides=step), net.conv(y, 1, 1, 6, strides=step))
    assert all_strides(got) == [(1, 1), step, (1, 1), (1, 1), (1, 1)]
    assert stats.rewritten == 2 and ops(got).count("slice") == 1


def test_strides_multiply_and_pools_take_them() -> None:
    net = Net()
    b = net.b
    x = b.input("x", "f32", ("N", 17, 15, 2))
    h = net.conv(x, 3, 3, 2, strides=(2, 1))
    pool = b.max_pool(net.conv(x, 1, 1, 2), window=(3, 2), strides=(2, 1), pads=((0, 0), (0, 0)))
    pool = b.slice(pool, starts=(0,) * 4, stops=("N", 8, 13, 2))
    got, _ = net.moved(net.conv(b.add(b.tanh(h), pool), 1, 1, 3, strides=(2, 2)))
    assert all_strides(got) == [(1, 1), (4, 2), (1, 1)]
    for kind in ("max_pool", "avg_pool"):
        net = Net()
        x = net.b.input("x", "f32", ("N", 9, 9, 2))
        y = net.b.add(net.conv(x, 3, 3, 2), getattr(net.b, kind)(x, window=(3, 3), strides=(1, 1)))
        got, _ = net.moved(net.conv(y, 1, 1, 2, strides=(3, 2)))
        assert next(n for n in got.nodes if n.op.name == kind).attrs["strides"] == (3, 2) and "slice" not in ops(got)


def test_one_dimension_and_three() -> None:
    for rank in (1, 3):
        net = Net()
        x = net.b.input("x", "f32", ("N", *(5,) * rank, 2))
        y = net.b.sigmoid(net.conv(x, *(3,) * rank, 2, pads=((1, 1),) * rank))
        got, _ = net.moved(net.conv(y, *(1,) * rank, 3, strides=(2,) * rank))
        assert all_strides(got) == [(2,) * rank, (1,) * rank]


@pytest.mark.parametrize("read", ["returned", "also read whole", "read at other steps", "padded", "3x3", "free"])
def test_where_every_position_is_needed(read: str) -> None:
    net = Net()
    b = net.b
    x = b.input("x", "f32", ("N", "H" if read == "free" else 6, 6, 2))
    y = b.relu(net.conv(x, 3, 3, 2, pads=((1, 1), (1, 1))))
    window = (3, 3) if read == "3x3" else (1, 1)
    outputs = [net.conv(y, *window, 3, strides=(2, 2), pads=((1, 0), (0, 0)) if read == "padded" else ((0, 0), (0, 0)))]
    outputs += {
        "returned": lambda: [y], "also read whole": lambda: [b.neg(y)],
        "read at other steps": lambda: [net.conv(y, 1, 1, 3, strides=(3, 3))],
    }.get(read, lambda: [])()  # fmt: skip
    got, stats = net.moved(*outputs)
    assert not stats.rewritten and all_strides(got)[0] == (1, 1)
    assert [why for _, why in stats.declined] == (["the image has a free size"] if read == "free" else [])


def test_nothing_is_copied_that_saves_nothing() -> None:
    net = Net()
    x = net.b.input("x", "f32", ("N", 6, 6, 2))
    got, stats = net.moved(net.conv(net.b.relu(x), 1, 1, 3, strides=(2, 2)))
    assert not stats.rewritten and "no convolution" in stats.declined[0][1] and ops(got) == ["relu", "conv"]
    net = Net()
    x = net.b.input("x", "f32", ("N", 6, 6, 2))
    z = net.b.input("z", "f32", ("N", 6, 6, 2))
    y = net.b.add(net.b.mul(net.conv(x, 1, 1, 2), x), z)
    got, stats = net.moved(net.conv(y, 1, 1, 3, strides=(2, 2)))
    assert not stats.rewritten and "slice" not in ops(got)


def test_an_operand_of_one_row() -> None:
    net = Net()
    b = net.b
    x = b.input("x", "f32", ("N", 6, 6, 2))
    row, gain = b.input("row", "f32", (1, 6, 2)), b.input("gain", "f32", ("N", 1, 1, 2))
    y = b.mul(b.add(net.conv(x, 3, 3, 2, pads=((1, 1), (1, 1))), row), gain)
    got, stats = net.moved(net.conv(y, 1, 1, 3, strides=(2, 2)))
    assert stats.rewritten == 1
    cut = next(n for n in got.nodes if n.op.name == "slice")
    assert cut.attrs["steps"] == (1, 2, 1)


def test_the_default_pipeline_computes_less() -> None:
    net = Net()
    b = net.b
    x = b.input("x", "f32", (1, 14, 14, 8))
    h = b.relu(net.conv(x, 3, 3, 8, pads=((1, 1), (1, 1))))
    report = fw.plan(b.build(net.conv(h, 1, 1, 8, strides=(2, 2)))).report().to_dict()
    quarter = 2 * 8 * 8 * (9 + 1) * 7 * 7
    assert quarter <= sum(k["flops"] for k in report["kernels"]) < 1.2 * quarter


def test_drawn_graphs_keep_their_meaning() -> None:
    report = check_pass(strides, 150, extra=[strided_reader])
    assert report.fired >= 20 and report.declined >= 5
