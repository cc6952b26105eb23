"""Every algebra rule fires and keeps what its numerics say, on special values of every type it takes."""

from __future__ import annotations

from itertools import islice, product
from typing import Any

import numpy as np
import pytest

from fusewright.core.errors import TypeRefused
from fusewright.ir import Builder, Graph
from fusewright.passes import Rewrite
from fusewright.passes.engine.rewrite import instantiate
from fusewright.passes.local.simplify import RULES, simplify
from fusewright.testing import Mismatch, assert_equivalent

TYPES = ("f32", "f16", "i32", "u8", "bool", "f64")
FLOATS = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -7.25, 6.0, 1e-30, np.inf, -np.inf, np.nan, 65504.0, 2.0**-14])
CONSTANTS = {"low": 0.25, "high": 6.0, "h": 6.0, "c": 4.0}


def contents(dt: str) -> np.ndarray:
    if dt == "bool":
        return np.array([True, False])
    if dt[0] == "f":
        with np.errstate(all="ignore"):
            return FLOATS.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[dt])
    info = np.iinfo({"i32": np.int32, "u8": np.uint8}[dt])
    return np.array([0, 1, 2, 3, info.max, info.min, info.max - 1], info.dtype)


def instances(rule: Rewrite) -> Any:
    """Graphs of the rule's own pattern over every choice of types that types."""
    names = rule.pattern.names
    for choice in product(TYPES, repeat=len(names)):
        columns = [contents(dt) for dt in choice]
        grid = np.meshgrid(*columns, indexing="ij")
        b: Any = Builder()
        env, feeds = {}, {}
        for name, dt, g in zip(names, choice, grid):
            if name in CONSTANTS:
                env[name] = b.constant(CONSTANTS[name], dt)
                continue
            env[name] = b.input(name, dt, g.shape)
            feeds[name] = np.ascontiguousarray(g)
        try:
            y = instantiate(rule.pattern.root, b, env)
        except TypeRefused:
            continue
        yield b.build({"y": y}), feeds


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rule_fires_and_keeps_its_promise(rule: Rewrite) -> None:
    fired = 0
    for graph, feeds in islice(instances(rule), 200):
        got, stats = rule.apply(graph)
        got.verify(2)
        fired += stats.rewritten
        if stats.rewritten:
            assert_equivalent(graph, got, feeds, rule.numerics)
            assert rule.apply(got)[1].rewritten == 0
    assert fired, "the rule never matched its own pattern"


def test_plus_zero_is_not_exact() -> None:
    rule = next(r for r in RULES if r.name == "x + 0")
    b: Any = Builder()
    x = b.input("x", "f32", (1,))
    graph = b.build({"y": b.add(x, 0.0)})
    feeds = {"x": np.array([-0.0], np.float32)}
    got, _ = rule.apply(graph)
    assert_equivalent(graph, got, feeds, "nsz")
    with pytest.raises(Mismatch):
        assert_equivalent(graph, got, feeds, "exact")


@pytest.mark.parametrize(("lo", "hi", "want"), [(-1.0, 6.0, 1), (2.0, 6.0, 1), (-3.0, -1.0, 2), (-1.0, np.nan, 2)])
def test_relu_of_clip(lo: float, hi: float, want: int) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", (5,))
    graph = b.build({"y": b.relu(b.clip(x, lo, hi))})
    got, _ = simplify.apply(graph)
    assert count(got) == want
    assert_equivalent(graph, got, {"x": np.array([-5, -0.5, 1, 9, np.nan], np.float32)}, "reassoc")


def count(graph: Graph) -> int:
    return sum(n.op.name not in ("input", "constant", "return") for n in graph.nodes)


@pytest.mark.parametrize(
    ("divisor", "becomes"), [(4.0, "mul"), (-0.5, "mul"), (3.0, "div"), (2.0**120, "div"), (0.0, "div")]
)
def test_division_by_powers_of_two_only(divisor: float, becomes: str) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", (14,))
    graph = b.build({"y": b.div(x, divisor)})
    got, _ = simplify.apply(graph)
    assert got.outputs[0].producer.op.name == becomes
    assert_equivalent(graph, got, {"x": FLOATS.astype(np.float32)}, "exact")


def pooled(x: Any, b: Any, low: int, value: float = 0.0, window: int = 3) -> Any:
    padded = b.pad(x, b.constant(value), low=(0, low, low, 0), high=(0, 1, 1, 0))
    return b.max_pool(padded, window=(window, window), strides=(2, 2))


@pytest.mark.parametrize(
    ("before", "low", "value", "merged"),
    [("relu", 1, 0.0, True), ("neg", 1, 0.0, False), ("relu", 3, 0.0, False), ("relu", 1, 1.0, False)],
)
def test_zero_padding_joins_the_max_pool_behind_relu(before: str, low: int, value: float, merged: bool) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 6, 6, 2))
    graph = b.build({"y": pooled(getattr(b, before)(x), b, low, value)})
    got, _ = simplify.apply(graph)
    assert merged == (not any(n.op.name == "pad" for n in got.nodes))
    data = np.random.default_rng(0).standard_normal((2, 6, 6, 2)).astype(np.float32)
    data[0, 0, 0, 0] = np.nan
    assert_equivalent(graph, got, {"x": data}, "nsz")
