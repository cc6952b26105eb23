"""Fusion: what an epilogue takes, how elementwise groups grow, and that no group ever waits for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from targets import FakeTarget

from fusewright.ir import Builder, Graph
from fusewright.ir.graph import Node
from fusewright.passes import default_pipeline
from fusewright.passes.engine.values import same_shape
from fusewright.passes.target.fuse import fuse
from fusewright.testing import assert_equivalent

F = np.float32


def w(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(F)


def run(build: Any, *shapes: tuple[Any, ...], target: FakeTarget | None = None) -> Graph:
    b: Any = Builder()
    out = build(b, *(b.input(f"x{i}", "f32", s) for i, s in enumerate(shapes)))
    graph = b.build(*(out if isinstance(out, tuple) else (out,)))
    target = target or FakeTarget()
    got, _ = fuse.apply(graph, target)
    got.verify(2)
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.type.concrete({"N": 3})).astype(F) for v in graph.inputs}
    assert_equivalent(graph, got, feeds, "exact")
    assert fuse.apply(got, target)[0].fingerprint == got.fingerprint
    return got


def shape_of(graph: Graph) -> list[str]:
    """Op names in order; a fused node as ``kind(ops inside)``."""
    out = []
    for n in graph.nodes:
        if n.op.name == "fused":
            inner = [m.op.name for m in n.regions[0].nodes if m.op.name not in ("input", "constant", "return")]
            out.append(f"{n.attrs['kind']}({' '.join(inner)})")
        elif n.op.name not in ("input", "constant", "return"):
            out.append(n.op.name)
    return out


def fused(graph: Graph) -> Node:
    return next(n for n in graph.nodes if n.op.name == "fused")


def dense(b: Any, x: Any, n: int = 6) -> Any:
    return b.matmul(x, b.constant(w(x.shape[-1], n)))


def test_bias_scale_activation_and_residual() -> None:
    got = run(
        lambda b, x, r: b.relu(b.add(b.mul(b.add(dense(b, x), b.constant(w(6))), b.constant(w(1, 6))), r)),
        ("N", 4),
        ("N", 6),
    )
    assert shape_of(got) == ["contract(matmul add mul add relu)"]
    assert len(fused(got).operands) == 5


def test_scalars_go_inside() -> None:
    got = run(lambda b, x: b.clip(b.mul(dense(b, x), 2.0), 0.0, 6.0), ("N", 4))
    assert shape_of(got) == ["contract(matmul mul clip)"] and len(fused(got).operands) == 2
    assert sum(n.op.name == "constant" for n in fused(got).regions[0].nodes) == 3


def test_each_contraction_adds_what_comes_before_it_to_a_sum() -> None:
    """The first one could take in all of them; it would be the last to run, and all their results would wait for it."""

    def net(b: Any, x: Any) -> Any:
        total = None
        for _ in range(4):
            y = b.add(dense(b, x), b.constant(w(6)))
            total = y if total is None else b.add(total, y)
        return b.relu(total)

    got = run(net, ("N", 4))
    assert shape_of(got) == ["contract(matmul add)", *["contract(matmul add add)"] * 2, "contract(matmul add add relu)"]


def test_a_sum_with_what_two_read_stays_with_the_first_contraction() -> None:
    def net(b: Any, x: Any) -> Any:
        first, second = dense(b, x), dense(b, b.neg(x))
        return b.add(first, second), b.neg(second)

    assert "contract(matmul add)" in shape_of(run(net, ("N", 4)))


@pytest.mark.parametrize(
    "meet, left, taken",
    [
        (lambda b, first, second, row: b.add(first, b.mul(second, row)), ["mul"], "add"),
        (
            lambda b, first, second, row: b.add(first, b.cast(b.cast(second, to="f64"), to="f32")),
            ["elementwise(cast cast)"],
            "add",
        ),
        (lambda b, first, second, row: b.where(b.gt(first, 0.0), first, second), [], "gt where"),
    ],
    ids=["a factor per row", "another type on the way", "a condition made of the first"],
)
def test_what_the_later_contraction_cannot_take_in_stays_with_the_first(meet: Any, left: list[str], taken: str) -> None:
    build = lambda b, x, row: meet(b, dense(b, x), dense(b, b.neg(x)), row)
    assert shape_of(run(build, ("N", 4), ("N", 1))) == ["neg", "matmul", *left, f"contract(matmul {taken})"]


def test_the_search_for_a_later_contraction_does_not_grow_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products are made in one order and added in the other, so that no chain of sums leads to a later one."""
    looked = 0

    def counting(a: Any, b: Any) -> bool:
        nonlocal looked
        looked += 1
        return same_shape(a, b)

    def steps(n: int) -> int:
        nonlocal looked
        looked, b = 0, Builder()
        x = total = b.input("x", "f32", ("N", 6))
        for y in [dense(b, x) for _ in range(n)][::-1]:
            total = b.add(total, y)
        fuse.apply(b.build(total), FakeTarget())
        return looked

    monkeypatch.setattr("fusewright.passes.target.fuse.same_shape", counting)
    assert steps(600) < 3 * steps(300)  # four times as many where each search goes to the end


@pytest.mark.parametrize("name", ["silu", "gelu", "elu", "mish", "leaky_relu", "hard_swish"])
def test_spelt_out_activations_are_epilogues(name: str) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 4))
    got, _ = default_pipeline(FakeTarget()).run(b.build(getattr(b, name)(dense(b, x))), verify=3)
    assert len(shape_of(got)) == 1 and shape_of(got)[0].startswith("contract(matmul")


@pytest.mark.parametrize("anchor", ["conv", "conv_blocked", "conv_transpose", "conv_transpose_blocked"])
def test_every_anchor(anchor: str) -> None:
    def net(b: Any, x: Any) -> Any:
        if anchor.endswith("_blocked"):
            weights = w(1, 1, 16, 32) if anchor == "conv_blocked" else w(1, 1, 32, 16)
            y = b.apply(anchor, [b.to_blocked(x), b.constant(weights)], {})[0]
            return b.relu(b.add(y, b.constant(w(1, 2, 1, 1, 16))))
        y = b.apply(anchor, [x, b.constant(w(2, 2, 16, 16))], {})[0]
        return b.relu(b.add(y, b.constant(w(16))))

    got = run(net, ("N", 4, 4, 16))
    assert shape_of(got)[-1] == f"contract({anchor} add relu)"


def test_operands_that_an_epilogue_cannot_read() -> None:
    for shape in ((3, 1), (1, 1, 6), (4, 3, 6)):
        got = run(lambda b, x, r: b.add(dense(b, x), r), (3, 4), shape)
        assert (shape_of(got) == ["contract(matmul add)"]) == (shape == ())
    # One lane per block, or one block per lane, is no vector over the channels.
    for shape in ((1, 2, 1, 1, 1), (1, 1, 1, 1, 16)):
        got = run(
            lambda b, x, r: b.add(b.conv_blocked(b.to_blocked(x), b.constant(w(1, 1, 16, 32))), r),
            ("N", 4, 4, 16),
            shape,
        )
        assert shape_of(got) == ["to_blocked", "conv_blocked", "add"]


def test_result_read_elsewhere_ends_the_epilogue() -> None:
    got = run(lambda b, x: (b.relu(y := b.add(dense(b, x), b.constant(w(6)))), y), ("N", 4))
    assert shape_of(got) == ["contract(matmul add)", "relu"]
    got = run(lambda b, x: (b.relu(y := dense(b, x)), y), ("N", 4))
    assert shape_of(got) == ["matmul", "relu"]


def test_two_convolutions_meet_in_one_add() -> None:
    got = run(lambda b, x: b.relu(b.add(dense(b, x), b.add(dense(b, x), b.constant(w(6))))), ("N", 4))
    assert sorted(shape_of(got)) == ["contract(matmul add add relu)", "matmul"]


def test_residual_that_depends_on_the_result_is_no_cycle() -> None:
    # softmax(y) is outside and depends on y: the add that reads both cannot join y's kernel.
    got = run(lambda b, x: b.add(y := dense(b, x), b.softmax(y)), ("N", 4))
    assert shape_of(got) == ["matmul", "softmax", "add"]
    got = run(lambda b, x: b.mul(b.add(y := b.exp(x), b.softmax(y)), y), ("N", 4))
    assert shape_of(got) == ["exp", "softmax", "elementwise(add mul)"]


def test_dtype_changes_stay_out_of_epilogues() -> None:
    got = run(lambda b, x: b.cast(dense(b, x), to="f16"), ("N", 4))
    assert shape_of(got) == ["matmul", "cast"]
    got = run(lambda b, x: b.where(b.gt(y := dense(b, x), 0.0), y, b.mul(y, 0.1)), ("N", 4))
    assert shape_of(got) == ["contract(matmul gt mul where)"]


def test_target_decides_and_shorter_epilogues_are_tried() -> None:
    got = run(lambda b, x: b.exp(b.relu(b.add(dense(b, x), b.constant(w(6))))), ("N", 4), target=FakeTarget(largest=3))
    assert shape_of(got) == ["contract(matmul add relu)", "exp"]
    b: Any = Builder()
    graph = b.build(b.relu(dense(b, b.input("x", "f32", ("N", 4)))))
    got, stats = fuse.apply(graph, FakeTarget(largest=1))
    assert shape_of(got) == ["matmul", "relu"] and "no kernel" in stats.declined[0][1]


# Elementwise groups


def test_a_diamond_is_one_group() -> None:
    got = run(lambda b, x: b.mul(b.sin(y := b.exp(x)), b.cos(y)), ("N", 4))
    assert shape_of(got) == ["elementwise(exp sin cos mul)"]


def test_values_read_later_become_outputs() -> None:
    got = run(lambda b, x: (b.tanh(y := b.exp(x)), y), ("N", 4))
    assert shape_of(got) == ["elementwise(exp tanh)"] and len(fused(got).results) == 2


def test_siblings_join() -> None:
    def net(b: Any, x: Any, p: Any, q: Any) -> Any:
        new = b.tanh(x)
        return b.maximum(new, p), b.minimum(new, q)

    got = run(net, ("N", 4), ("N", 4), ("N", 4))
    assert shape_of(got) == ["elementwise(tanh maximum minimum)"] and len(fused(got).results) == 2


def test_a_reader_in_between_keeps_the_group_apart() -> None:
    def net(b: Any, x: Any) -> Any:
        y = b.exp(x)
        s = b.reduce_sum(y, axes=1, keepdims=True)
        return b.tanh(b.div(y, s))

    assert shape_of(run(net, ("N", 4))) == ["exp", "reduce_sum", "elementwise(div tanh)"]


def test_expensive_work_is_not_repeated_over_a_broadcast() -> None:
    got = run(lambda b, x, v: b.relu(b.add(x, b.exp(v))), ("N", 4, 5), (5,))
    assert shape_of(got) == ["exp", "elementwise(add relu)"]
    got = run(lambda b, x, v: b.relu(b.add(x, b.mul(v, 2.0))), ("N", 4, 5), (5,))
    assert shape_of(got) == ["elementwise(mul add relu)"]


def test_single_ops_stay_as_they_are() -> None:
    assert shape_of(run(lambda b, x: b.exp(x), ("N", 4))) == ["exp"]


def test_large_groups_are_cut_to_what_the_target_takes() -> None:
    def net(b: Any, x: Any) -> Any:
        y = x
        for i in range(20):
            y = b.add(b.tanh(y), float(i))
        return y

    got = run(net, ("N", 4), target=FakeTarget(largest=6))
    sizes = [len(s.split()) for s in shape_of(got) if s.startswith("elementwise")]
    assert sum(sizes) >= 30 and max(sizes) <= 6


def test_regions_of_loops_are_fused() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 4))
    h = b.constant(np.zeros(4, F))
    body = b.region([h.type, h.type], lambda i, c, v: [i.tanh(i.add(c, v)), i.exp(v)])
    graph = b.build(*b.scan(h, x, n_carry=1, n_xs=1, regions=[body]))
    got, _ = fuse.apply(graph, FakeTarget())
    got.verify(2)
    scan = next(n for n in got.nodes if n.op.name == "scan")
    assert "elementwise(add tanh)" in shape_of(scan.regions[0])
    feeds = {"x": w(3, 4)}
    assert_equivalent(graph, got, feeds, "exact")


# Prologues


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "layer_norm", "rms_norm"])
def test_rows_compute_what_they_normalise(name: str) -> None:
    target = FakeTarget(frozenset({name}))
    got = run(
        lambda b, x, m: getattr(b, name)(b.add(b.mul(x, 0.5), b.mul(m, -1e4))), ("N", 3, 4), ("N", 1, 4), target=target
    )
    assert shape_of(got) == [f"rows(mul mul add {name})"] and len(fused(got).operands) == 2


def test_reductions_compute_what_they_reduce() -> None:
    got = run(lambda b, x, y: b.reduce_mean(b.square(b.sub(x, y)), axes=(1,)), ("N", 4), ("N", 4))
    assert shape_of(got) == ["reduce(sub square reduce_mean)"]


def test_a_prologue_that_others_read_stays() -> None:
    got = run(lambda b, x: (b.reduce_sum(y := b.exp(x), axes=1), y), ("N", 4))
    assert shape_of(got) == ["exp", "reduce_sum"]
    got = run(lambda b, x: b.reduce_sum(b.abs(b.exp(x)), axes=1), ("N", 4))
    assert shape_of(got) == ["reduce(exp abs reduce_sum)"]


def test_a_prologue_repeats_no_expensive_work_and_leaves_scale_and_shift() -> None:
    got = run(lambda b, x, v: b.reduce_sum(b.add(x, b.exp(v)), axes=1), ("N", 4), (4,))
    assert shape_of(got) == ["exp", "reduce(add reduce_sum)"]
    target = FakeTarget(frozenset({"layer_norm"}))
    got = run(lambda b, x, v: b.layer_norm(b.neg(x), b.neg(v)), ("N", 4), (4,), target=target)
    assert shape_of(got) == ["neg", "rows(neg layer_norm)"]


def test_contractions_come_first() -> None:
    got = run(lambda b, x: b.softmax(b.mul(dense(b, x), 0.5)), ("N", 4), target=FakeTarget(frozenset({"softmax"})))
    assert shape_of(got) == ["contract(matmul mul)", "softmax"]


def test_the_target_decides_about_prologues() -> None:
    got = run(lambda b, x: b.reduce_sum(b.abs(b.exp(b.sin(x))), axes=1), ("N", 4), target=FakeTarget(largest=2))
    assert shape_of(got) == ["elementwise(sin exp)", "reduce(abs reduce_sum)"]
