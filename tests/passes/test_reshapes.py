"""Reshapes sink behind what does not mind them; einsum becomes matmul with the fewest transposes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from left import sunk

from fusewright.core.dims import symbol
from fusewright.core.regroup import across, dense_strides, regroup, reshape_strides
from fusewright.passes.local.reshapes import RULES

F = np.float32
N = symbol("N")


def w(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(F)


def flat(b: Any, x: Any) -> Any:
    return b.reshape(x, shape=(x.shape[0] * x.shape[1], x.shape[2]))


def dense(b: Any, x: Any, n: int = 6) -> Any:
    return b.matmul(x, b.constant(w(x.shape[-1], n)))


SEQ = ("N", 5, 4)
CASES: dict[str, tuple[Any, list[tuple[Any, ...]], list[str]]] = {
    "dense and back": (lambda b, x: b.reshape(dense(b, flat(b, x)), shape=("N", 5, 6)), [SEQ], ["matmul"]),
    "bias": (
        lambda b, x: b.reshape(b.add(dense(b, flat(b, x)), b.constant(w(6))), shape=("N", 5, 6)), [SEQ],
        ["matmul", "add"],
    ),
    "bias of heads": (
        lambda b, x: b.add(b.reshape(dense(b, x), shape=("N", 5, 2, 3)), b.constant(w(2, 3))), [SEQ],
        ["matmul", "add", "reshape"],
    ),
    "bias at run time": (
        lambda b, x, v: b.add(b.reshape(dense(b, x), shape=("N", 5, 2, 3)), v), [SEQ, (2, 3)],
        ["matmul", "reshape", "add", "reshape"],
    ),
    "residual": (
        lambda b, x, r: b.add(b.reshape(dense(b, flat(b, x)), shape=("N", 5, 6)), r), [SEQ, ("N", 5, 6)],
        ["matmul", "add"],
    ),
    "two branches": (
        lambda b, x: b.mul(*(b.reshape(b.relu(dense(b, x)), shape=("N", 30)) for _ in range(2))), [SEQ],
        ["matmul", "relu", "matmul", "relu", "mul", "reshape"],
    ),
    "layer norm": (
        lambda b, x: b.reshape(b.layer_norm(flat(b, b.relu(x)), b.constant(w(1, 4))), shape=("N", 5, 4)), [SEQ],
        ["relu", "reshape", "layer_norm"],
    ),
    "heads joined in rows": (
        lambda b, x: b.reshape(dense(b, b.reshape(x, shape=(N * 5, 8))), shape=("N", 5, 6)), [("N", 5, 2, 4)],
        ["reshape", "matmul"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sinks(name: str) -> None:
    build, shapes, want = CASES[name]
    assert sunk(build, *shapes)[0] == want


def test_every_rule_fires() -> None:
    fired = set[str]().union(*(sunk(build, *shapes)[1] for build, shapes, _ in CASES.values()))
    assert {r.name for r in RULES} <= fired


def test_what_does_not_sink() -> None:
    # A model's own reshape of its input, a vector along part of a group, another whole tensor.
    assert sunk(lambda b, x: b.relu(flat(b, x)), SEQ)[0] == ["reshape", "relu"]
    part = sunk(lambda b, x: b.add(b.reshape(dense(b, x), shape=("N", 5, 2, 3)), b.constant(w(3))), SEQ)[0]
    assert part == ["matmul", "reshape", "add"]
    other = sunk(lambda b, x, r: b.add(flat(b, dense(b, x)), r), SEQ, (N * 5, 6))[0]
    assert other == ["matmul", "reshape", "add"]
    # Also where the batch is one, and the tensor would only seem smaller without its first axis.
    heads = sunk(lambda b, x, r: b.add(b.reshape(dense(b, x), shape=(1, 5, 2, 3)), r), (1, 5, 4), (1, 5, 2, 3))[0]
    assert heads == ["matmul", "reshape", "add"]
    turned = sunk(lambda b, x: b.matmul(flat(b, x), b.constant(w(10, 3)), transpose_a=True), (2, 5, 4))[0]
    assert turned == ["reshape", "matmul"]
    assert sunk(lambda b, x: b.softmax(b.reshape(b.relu(x), shape=("N", 20))), SEQ)[0] == ["relu", "reshape", "softmax"]


def test_groups_of_axes() -> None:
    assert regroup((N, 4, 6), (N * 4, 2, 3)) == [((0, 1), (0,)), ((2,), (1, 2))]
    assert regroup((2, 1, 6), (1, 3, 4)) == [((0, 2), (1, 2))]
    assert regroup((N, 1, 1, 8), (N, 8)) == [((0,), (0,)), ((3,), (1,))]
    assert regroup((), (1, 1)) == []
    # Nothing is known of empty tensors, nor of symbols that happen to agree.
    assert regroup((0, 4), (4, 0)) is None
    assert regroup((symbol("A"), 4), (symbol("B"), 4)) is None
    groups = regroup((N, 8), (N, 2, 4))
    assert groups is not None
    assert across(groups, (N, 8), (1, 2, 4)) == (1, 8) and across(groups, (N, 8), (N, 1, 1)) == (N, 1)
    assert across(groups, (N, 8), (1, 1, 4)) is None


@pytest.mark.parametrize("seed", range(40))
def test_strides_of_reshapes_match_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(d) for d in rng.integers(1, 5, 3))
    perm = tuple(int(p) for p in rng.permutation(3))
    x = np.zeros(shape, np.int8)
    strides = dense_strides(shape)
    assert strides == x.strides
    turned = x.transpose(perm)
    total = int(np.prod(shape))
    first = int(rng.choice([d for d in range(1, total + 1) if total % d == 0]))
    new = (first, total // first)
    got = reshape_strides(turned.shape, tuple(strides[p] for p in perm), new)
    view = turned.view()
    try:
        view.shape = new
    except AttributeError:
        assert got is None
        return
    assert got is not None
    assert all(g == s for g, s, d in zip(got, view.strides, new, strict=True) if d != 1)


def einsum(equation: str, a: tuple[Any, ...], b_shape: tuple[Any, ...], constant: bool = False) -> list[str]:
    def build(b: Any, x: Any, *rest: Any) -> Any:
        return b.einsum(x, rest[0] if rest else b.constant(w(*b_shape)), equation=equation)

    return [n for n in sunk(build, a, *([] if constant else [b_shape]))[0] if n != "reshape"]


def test_einsum_takes_the_fewest_transposes() -> None:
    assert einsum("abc,cde->abde", ("N", 3, 4), (4, 2, 5), True) == ["matmul"]
    assert einsum("abcd,cde->abe", ("N", 3, 2, 5), (2, 5, 4), True) == ["matmul"]
    # Scores and their use: one transpose per operand whose heads do not lead, none of the scores.
    assert einsum("aecd,abcd->acbe", ("N", 3, 2, 5), ("N", 4, 2, 5)) == ["transpose", "transpose", "matmul"]
    assert einsum("acbe,aecd->abcd", ("N", 2, 4, 3), ("N", 3, 2, 5)) == ["transpose", "matmul", "transpose"]
    assert einsum("ki,kj->ij", (4, 3), (4, 5)) == ["matmul"]
    assert einsum("ik,kj->ji", (3, 4), (4, 5)) == ["matmul"]
    assert einsum("i,j->ij", (3,), (5,)) == ["matmul"]
