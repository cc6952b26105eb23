"""Rules about open axes, orders and cuts: right ones pass, and cubes are drawn on which wrong ones keep the type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.testing import check_pass
from fusewright.testing.check import example
from fusewright.testing.directed import recipe

op = fw.op
CUT = {"starts": ..., "stops": ..., "steps": ...}


def turned(x: Any) -> Any:
    return op.transpose(x, perm=...)


def perm_of(m: Any) -> tuple[int, ...]:
    found: tuple[int, ...] = m.root.operands[0].producer.attrs["perm"]
    return found


@fw.rewrite(lambda x: turned(turned(x)), numerics="exact")
def composed(m: Any, x: Any) -> Any:
    return op.transpose(x, perm=tuple(perm_of(m)[i] for i in m.root.attrs["perm"]))


@fw.rewrite(lambda x: op.relu(turned(x)), numerics="exact")
def sunk(m: Any, x: Any) -> Any:
    return op.transpose(op.relu(x), perm=perm_of(m))


@fw.rewrite(lambda x: op.reduce_max(turned(x), axes=..., keepdims=True), numerics="exact")
def reduced(m: Any, x: Any) -> Any:
    axes = tuple(perm_of(m)[a] for a in m.root.attrs["axes"])
    return op.transpose(op.reduce_max(x, axes=axes, keepdims=True), perm=perm_of(m))


@fw.rewrite(lambda x: op.slice(turned(x), **CUT), numerics="exact")
def cut(m: Any, x: Any) -> Any:
    back = np.argsort(perm_of(m))
    return op.transpose(op.slice(x, **{k: tuple(m.root.attrs[k][i] for i in back) for k in CUT}), perm=perm_of(m))


@fw.rewrite(
    lambda x: op.reduce_sum(op.reduce_sum(x, axes=..., keepdims=False), axes=..., keepdims=False), numerics="reassoc"
)
def summed(m: Any, x: Any) -> Any:
    first = m.root.operands[0].producer.attrs["axes"]
    left = [i for i in range(x.rank) if i not in first]
    return op.reduce_sum(x, axes=tuple(sorted((*first, *(left[a] for a in m.root.attrs["axes"])))))


@fw.rewrite(lambda x: op.cumsum(turned(x), axis=..., exclusive=..., reverse=...), numerics="reassoc")
def accumulated(m: Any, x: Any) -> Any:
    attrs = {**m.root.attrs, "axis": perm_of(m)[m.root.attrs["axis"]]}
    return op.transpose(op.cumsum(x, **attrs), perm=perm_of(m))


@pytest.mark.parametrize("rule", [composed, sunk, reduced, cut, summed, accumulated], ids=lambda r: r.name)
def test_a_right_rule_on_axes_passes(rule: Any) -> None:
    report = check_pass(rule, 120)
    assert report.fired > 40


def test_cubes_are_drawn_where_axes_are_open() -> None:
    def shares(pattern: Callable[..., Any]) -> tuple[int, int]:
        found = recipe(fw.rewrite(pattern, numerics="exact")(lambda m, x: m.decline("looks only")))
        cubes = turns = 0
        for i in range(200):
            graph, _ = example(found, 0, i)
            reads = [n.operands[0].shape for n in graph.nodes if n.op.name == "relu" and n.operands[0].rank > 2]
            cubes += any(set(shape) in ({2}, {3}) for shape in reads)
            perms = [n.attrs["perm"] for n in graph.nodes if n.op.name == "transpose"]
            # An order that is no exchange of two axes: its inverse is another one.
            turns += any(tuple(np.argsort(p)) != p for p in perms)
        return cubes, turns

    cubes, turns = shares(lambda x: op.relu(turned(x)))
    assert cubes > 40 and turns > 30
    assert shares(lambda x: op.relu(op.neg(x)))[0] < cubes / 2
