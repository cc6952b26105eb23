"""Transposes sink and cancel; what they must not pass, and what must not be done twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from left import ops, sunk
from targets import FakeTarget

from fusewright.ir import Builder
from fusewright.passes import default_pipeline
from fusewright.passes.local.sink import RULES

F = np.float32
X = ("N", 4, 5, 6)
FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def w(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(F)


def there_and_back(step: Any) -> Any:
    return lambda b, x: b.transpose(step(b, b.transpose(x, perm=FIRST)), perm=LAST)


CASES: dict[str, tuple[Any, list[str]]] = {
    "unary": (there_and_back(lambda b, y: b.relu(y)), ["relu"]),
    "composite": (there_and_back(lambda b, y: b.gelu(y)), ["gelu"]),
    "scalar": (there_and_back(lambda b, y: b.mul(y, 2.0)), ["mul"]),
    "channels": (there_and_back(lambda b, y: b.add(y, b.constant(w(6, 1, 1)))), ["add"]),
    "places": (there_and_back(lambda b, y: b.sub(b.constant(w(4, 5)), y)), ["sub"]),
    "both sides": (there_and_back(lambda b, y: b.mul(y, b.sigmoid(y))), ["sigmoid", "mul"]),
    "batch norm": (
        there_and_back(lambda b, y: b.batch_norm(y, b.constant(w(6)), b.constant(w(6) ** 2), axis=1)), ["batch_norm"],
    ),
    "mean": (lambda b, x: b.reduce_mean(b.transpose(x, perm=FIRST), axes=(2, 3)), ["reduce_mean"]),
    "mean that turns": (
        lambda b, x: b.reduce_mean(b.transpose(x, perm=FIRST), axes=(2,)), ["reduce_mean", "transpose"],
    ),
    "mean kept": (
        there_and_back(lambda b, y: b.mul(y, b.reduce_mean(y, axes=(2, 3), keepdims=True))), ["reduce_mean", "mul"],
    ),
    "concat": (there_and_back(lambda b, y: b.concat(y, b.neg(y), axis=1)), ["neg", "concat"]),
    "pad": (there_and_back(lambda b, y: b.pad(y, low=(0, 1, 0, 2), high=(0, 0, 3, 0))), ["pad"]),
    "slice": (
        there_and_back(lambda b, y: b.slice(y, starts=(0, 1, 0, 1), stops=(None, 4, 4, 5), steps=(1, 2, 1, 1))),
        ["slice"],
    ),
    "matmul": (
        lambda b, x: b.matmul(y := b.reshape(x, shape=("N", 20, 6)), b.transpose(y, perm=(0, 2, 1))),
        ["reshape", "matmul"],
    ),
    "einsum": (lambda b, x: b.einsum(x, b.constant(w(6, 3)), equation="nhwc,cd->nhwd"), ["matmul"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sinks(name: str) -> None:
    build, want = CASES[name]
    assert sunk(build, X)[0] == want


def test_every_rule_fires() -> None:
    fired = set[str]().union(*(sunk(build, X)[1] for build, _ in CASES.values()))
    assert {r.name for r in RULES} <= fired


def test_not_over_what_makes_it_larger_or_cares() -> None:
    assert sunk(lambda b, x: b.cast(b.transpose(x, perm=FIRST), to="f64"), X)[0] == ["transpose", "cast"]
    assert sunk(lambda b, x: b.softmax(b.transpose(x, perm=FIRST)), X)[0] == ["transpose", "softmax"]
    up = sunk(lambda b, x, y: b.add(b.transpose(x, perm=(1, 0)), y), (3, 4), (2, 4, 3))[0]
    assert up == ["transpose", "add"]


def test_not_when_another_reader_needs_it_anyway() -> None:
    def net(b: Any, x: Any) -> Any:
        y = b.transpose(x, perm=FIRST)
        return b.relu(y), b.reshape(y, shape=("N", 120))

    assert sunk(net, X)[0] == ["transpose", "relu", "reshape"]


def test_mixed_operands_stay() -> None:
    assert sunk(lambda b, x, y: b.add(b.transpose(x, perm=(1, 0)), y), (3, 4), (4, 3))[0] == ["transpose", "add"]


def test_a_channels_first_network_becomes_channels_last() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 3, 12, 12))

    def conv(y: Any, filters: int) -> Any:
        y = b.conv(b.transpose(y, perm=LAST), b.constant(w(3, 3, y.shape[1], filters)), pads=((1, 1), (1, 1)))
        y = b.batch_norm(b.transpose(y, perm=FIRST), b.constant(w(filters)), b.constant(w(filters) ** 2), axis=1)
        return b.relu(y)

    y = conv(x, 16)
    y = b.add(y, conv(y, 16))
    y = b.transpose(b.max_pool(b.transpose(y, perm=LAST), window=(2, 2)), perm=FIRST)
    y = b.reduce_mean(conv(y, 32), axes=(2, 3))
    graph = b.build({"y": b.softmax(b.matmul(y, b.constant(w(32, 5))))})
    got, _ = default_pipeline(FakeTarget(frozenset({"softmax"}))).run(graph, verify=3)
    names = ops(got)
    # One transpose brings the input in; the rest is convolutions with their epilogues, a pool, and the head.
    assert names.count("transpose") == 1 and names.count("fused") == 3 and "from_blocked" not in names
