"""Canonical forms, folding, common subexpressions, dead code, decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from left import ops
from targets import FakeTarget

from fusewright.core.errors import RewriteError
from fusewright.ir import Builder, Graph
from fusewright.ir.folding import MAX_BYTES
from fusewright.ir.graph import Const
from fusewright.passes import GraphPass, Pass
from fusewright.passes.local.canonicalise import RULES, canonicalise
from fusewright.passes.local.cse import cse
from fusewright.passes.local.dce import dce
from fusewright.passes.local.fold import fold
from fusewright.passes.local.localise import localise
from fusewright.passes.target.decompose import decompose
from fusewright.testing import assert_equivalent

F = np.float32


def graph_of(build: Any, *inputs: tuple[str, tuple[Any, ...]]) -> Graph:
    b: Any = Builder()
    values = [b.input(f"x{i}", dt, shape) for i, (dt, shape) in enumerate(inputs)]
    out = build(b, *values)
    return b.build(*(out if isinstance(out, tuple) else (out,)))


def data(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out = {}
    for v in graph.inputs:
        shape = v.type.concrete({s: 3 for s in graph.symbols})
        values = rng.standard_normal(shape) * 3
        out[v.name] = values.astype(v.dtype.np) if v.dtype.name != "bool" else values > 0
    return out


X = ("f32", ("N", 4, 6))
CASES: dict[str, tuple[Any, list[str], tuple[Any, ...]]] = {
    "reshape same": (lambda b, x: b.reshape(x, shape=("N", 4, 6)), [], (X,)),
    "reshape twice": (lambda b, x: b.reshape(b.reshape(x, shape=("N", 24)), shape=("N", 6, 4)), ["reshape"], (X,)),
    "reshape back": (lambda b, x: b.reshape(b.reshape(x, shape=("N", 24)), shape=("N", 4, 6)), [], (X,)),
    "transpose same": (lambda b, x: b.transpose(x, perm=(0, 1, 2)), [], (X,)),
    "transpose twice": (lambda b, x: b.transpose(b.transpose(x, perm=(2, 0, 1)), perm=(2, 0, 1)), ["transpose"], (X,)),
    "transpose back": (lambda b, x: b.transpose(b.transpose(x, perm=(2, 0, 1)), perm=(1, 2, 0)), [], (X,)),
    "transpose rank 1": (lambda b, x: b.transpose(x, perm=(0,)), [], (("f32", (4,)),)),
    "transpose of ones": (lambda b, x: b.transpose(x, perm=(1, 0, 2)), ["reshape"], (("f32", (1, "N", 5)),)),
    "slice all": (lambda b, x: b.slice(x, starts=(0, 0, 0), stops=(None, None, None)), [], (X,)),
    "slice twice": (
        lambda b, x: b.slice(
            b.slice(x, starts=(0, 1, 0), stops=(None, 4, 6), steps=(1, 1, 2)), starts=(0, 1, 1), stops=(None, 3, 3)
        ), ["slice"], (("f32", (2, 4, 6)),),
    ),
    "slice to nothing": (
        lambda b, x: b.slice(b.slice(x, starts=(1,), stops=(4,)), starts=(2,), stops=(2,)), ["slice"], (("f32", (5,)),),
    ),
    "reverse back": (lambda b, x: b.reverse(b.reverse(x, axes=(1,)), axes=(1,)), [], (X,)),
    "reverse one": (lambda b, x: b.reverse(x, axes=(0,)), [], (("f32", (1, 3)),)),
    "reverse two axes": (lambda b, x: b.reverse(b.reverse(x, axes=(1,)), axes=(2,)), ["reverse", "reverse"], (X,)),
    "cast same": (lambda b, x: b.cast(x, to="f32"), [], (X,)),
    "cast wider and back": (lambda b, x: b.cast(b.cast(x, to="f64"), to="f32"), [], (X,)),
    "cast wider and on": (lambda b, x: b.cast(b.cast(x, to="f64"), to="i32"), ["cast"], (X,)),
    "cast narrower and back": (lambda b, x: b.cast(b.cast(x, to="f16"), to="f32"), ["cast", "cast"], (X,)),
    "cast u8 via f16": (lambda b, x: b.cast(b.cast(x, to="f16"), to="u8"), [], (("u8", (3,)),)),
    "cast i32 via f32": (lambda b, x: b.cast(b.cast(x, to="f32"), to="i32"), ["cast", "cast"], (("i32", (3,)),)),
    "cast i16 via bf16": (lambda b, x: b.cast(b.cast(x, to="bf16"), to="i16"), ["cast", "cast"], (("i16", (3,)),)),
    "pad nothing": (lambda b, x: b.pad(x, low=(0, 0, 0), high=(0, 0, 0)), [], (X,)),
    "concat one": (lambda b, x: b.concat(x, axis=1), [], (X,)),
    "concat of concat": (lambda b, x: b.concat(b.concat(x, x, axis=1), x, axis=1), ["concat"], (X,)),
    "concat of other axis": (lambda b, x: b.concat(b.concat(x, x, axis=2), b.concat(x, x, axis=2), axis=1),
                             ["concat", "concat", "concat"], (X,)),
    "concat with empty": (
        lambda b, x: b.concat(b.slice(x, starts=(0, 2, 0), stops=(None, 2, 6)), x, axis=1), [], (X,),
    ),
    "broadcast twice": (
        lambda b, x: b.broadcast_to(b.broadcast_to(x, shape=(3, 4)), shape=(2, 3, 4)),
        ["broadcast_to"], (("f32", (4,)),),
    ),
    "broadcast before add": (
        lambda b, x, y: b.add(x, b.broadcast_to(y, shape=("N", 4, 6))), ["add"], (X, ("f32", (6,))),
    ),
    "broadcast that counts": (
        lambda b, x, y: b.add(b.broadcast_to(x, shape=(3, 4)), y),
        ["broadcast_to", "add"], (("f32", (4,)), ("f32", (4,))),
    ),
    "update of the whole": (
        lambda b, x, y, i: b.dynamic_update_slice(x, y, i, i, i), [], (X, X, ("i32", ())),
    ),
    "update of a part": (
        lambda b, x, y, i: b.dynamic_update_slice(x, y, i, i, i), ["dynamic_update_slice"],
        (X, ("f32", ("N", 1, 6)), ("i32", ())),
    ),
    "reduce nothing": (lambda b, x: b.reduce_sum(x, axes=()), [], (X,)),
    "where true": (lambda b, x, y: b.where(b.constant(True), x, y), [], (X, X)),
    "where false wider": (
        lambda b, x, y: b.where(b.constant(np.zeros((2, 3), bool)[:, :1] * True), x, y),
        ["where"], (("f32", (3,)), ("f32", (3,))),
    ),
    "where spread": (
        lambda b, x, y: b.where(b.constant(False), x, y), ["broadcast_to"], (("f32", (2, 3)), ("f32", (3,))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_canonical_form(name: str) -> None:
    build, want, inputs = CASES[name]
    graph = graph_of(build, *inputs)
    before = str(graph)
    got, _ = canonicalise.apply(graph)
    got, _ = dce.apply(got)
    got.verify(2)
    assert ops(got) == want and str(graph) == before
    assert_equivalent(graph, got, data(graph), "exact")
    again, stats = canonicalise.apply(got)
    assert again.fingerprint == got.fingerprint and not stats.rewritten


def test_pad_joins_convolution() -> None:
    w = np.ones((3, 3, 2, 4), F)
    pads: dict[str, Any] = {"low": (0, 1, 0, 0), "high": (0, 2, 1, 0)}
    cases: list[tuple[Any, list[str]]] = [
        (lambda b, x: b.conv(b.pad(x, **pads), b.constant(w), pads=((0, 0), (1, 1))), ["conv"]),
        (lambda b, x: b.conv(b.pad(x, b.constant(1.0), **pads), b.constant(w)), ["pad", "conv"]),
        (lambda b, x: b.conv(b.pad(x, **pads, mode="edge"), b.constant(w)), ["pad", "conv"]),
        (lambda b, x: b.conv(b.pad(x, low=(1, 0, 0, 0), high=(0, 0, 0, 0)), b.constant(w)), ["pad", "conv"]),
    ]
    for build, want in cases:
        graph = graph_of(build, ("f32", (2, 5, 6, 2)))
        got, _ = dce.apply(canonicalise.apply(graph)[0])
        assert ops(got) == want
        assert_equivalent(graph, got, data(graph), "exact")


def test_every_rule_of_canonicalise_fires() -> None:
    fired: set[str] = set()
    for build, _, inputs in CASES.values():
        fired |= set(canonicalise.apply(graph_of(build, *inputs))[1].fired)
    pads: dict[str, Any] = {"low": (0, 1, 0), "high": (0, 0, 0)}
    padded = graph_of(lambda b, x: b.conv(b.pad(x, **pads), b.constant(np.ones((2, 1, 1), F))), ("f32", (1, 4, 1)))
    fired |= set(canonicalise.apply(padded)[1].fired)
    assert fired == {r.name for r in RULES}


# Folding


def folded(build: Any, *inputs: tuple[str, tuple[Any, ...]]) -> tuple[Graph, Graph]:
    graph = graph_of(build, *inputs)
    got, _ = fold.apply(graph)
    got.verify(2)
    return graph, got


def test_folds_what_is_correctly_rounded() -> None:
    values = np.array([0.1, -0.0, 3.0, np.inf, np.nan, 1e-40], F)
    graph, got = folded(lambda b: b.div(b.sqrt(b.add(b.constant(values), b.constant(values))), 3.0))
    assert ops(got) == []
    assert_equivalent(graph, got, {}, "exact")


def test_leaves_what_depends_on_the_machine() -> None:
    for name in ("exp", "tanh", "sigmoid", "log", "reduce_sum", "softmax"):
        _, got = folded(lambda b, n=name: getattr(b, n)(b.constant(np.ones(3, F))))
        assert ops(got) == [name]


@pytest.mark.parametrize("dt", ["i8", "u8", "i32", "i64", "u64"])
def test_integers_wrap_and_divide_as_they_do_at_run_time(dt: str) -> None:
    a = np.array([-7, 7, 0, 127, -128 if dt[0] == "i" else 0], np.int64)
    for name in ("add", "mul", "floordiv", "mod", "truncdiv", "rem", "pow"):
        graph, got = folded(
            lambda b, n=name: getattr(b, n)(b.constant(a.astype("int64"), dt), b.constant(a[::-1].copy(), dt))
        )
        assert ops(got) == []
        assert_equivalent(graph, got, {}, "exact")


def test_splats_stay_splats() -> None:
    wide = np.broadcast_to(F(2), (1000, 1000))
    graph, got = folded(lambda b: b.mul(b.constant(wide), b.constant(wide)))
    const = got.outputs[0].const
    assert isinstance(const, Const) and const.is_splat and const.array[0, 0] == 4
    assert ops(graph) == ["mul"]
    _, got = folded(lambda b: b.transpose(b.constant(wide), perm=(1, 0)))
    assert got.outputs[0].const is not None and got.outputs[0].const.is_splat


def test_never_spreads_far() -> None:
    _, got = folded(lambda b: b.broadcast_to(b.constant(np.arange(100, dtype=F)), shape=(100, 100)))
    assert ops(got) == ["broadcast_to"]
    _, got = folded(lambda b: b.broadcast_to(b.constant(1.0), shape=(MAX_BYTES,)))
    assert ops(got) == ["broadcast_to"]
    _, got = folded(lambda b: b.broadcast_to(b.constant(np.arange(4, dtype=F)), shape=(8, 4)))
    assert ops(got) == []
    _, got = folded(lambda b: b.iota(shape=(100000,)))
    assert ops(got) == ["iota"]


def test_symbolic_shapes_are_not_folded() -> None:
    _, got = folded(lambda b, x: b.add(x, b.full(("N",), 0.0, "f32")), ("f32", ("N",)))
    assert ops(got) == ["broadcast_to", "add"]


def test_bf16_folds_as_it_computes() -> None:
    graph, got = folded(
        lambda b: b.mul(b.constant(np.array([1.1, 3.3], F), "bf16"), b.constant(np.array([7.7, 1e38], F), "bf16"))
    )
    assert ops(got) == []
    assert_equivalent(graph, got, {}, "exact")


def test_empty_constants_fold() -> None:
    graph, got = folded(lambda b: b.add(b.constant(np.zeros((0, 3), F)), b.constant(np.ones(3, F))))
    assert ops(got) == []
    assert_equivalent(graph, got, {}, "exact")


@pytest.mark.parametrize("condition", [True, False])
def test_a_decided_branch_is_inlined_and_folded(condition: bool) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", (4,))
    then = b.region([x.type], lambda i, v: i.mul(v, i.add(i.constant(1.0), 2.0)))
    other = b.region([x.type], lambda i, v: i.neg(v))
    graph = b.build(b.if_(b.constant(condition), x, regions=[then, other]))
    got, _ = fold.apply(graph)
    got.verify(2)
    assert ops(got) == (["mul"] if condition else ["neg"])
    assert_equivalent(graph, got, data(graph), "exact")


# Common subexpressions


def test_equal_expressions_and_constants_merge() -> None:
    w = np.arange(6, dtype=F)
    graph = graph_of(lambda b, x: b.mul(b.add(x, b.constant(w)), b.add(b.constant(w.copy()), x)), ("f32", (6,)))
    got, stats = cse.apply(graph)
    got.verify(2)
    assert ops(got) == ["add", "mul"] and stats.fired == {"merged constant": 1, "merged add": 1}
    assert_equivalent(graph, got, data(graph), "exact")


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: (b.sub(x, b.exp(x)), b.sub(b.exp(x), x)),
        lambda b, x: (b.maximum(x, 0.0), b.maximum(b.constant(0.0), x)),
        lambda b, x: (b.reduce_sum(x, axes=0), b.reduce_sum(x, axes=0, keepdims=True)),
        lambda b, x: (b.leaky_relu(x, alpha=0.0), b.leaky_relu(x, alpha=-0.0)),
        lambda b, x: (b.add(x, 0.0), b.add(x, -0.0)),
        lambda b, x: (b.cast(x, to="i32"), b.cast(x, to="i64")),
    ],
)
def test_what_differs_stays_apart(build: Any) -> None:
    graph = graph_of(build, ("f32", (4,)))
    got, _ = cse.apply(graph)
    assert got.outputs[0] is not got.outputs[1]


def test_constants_with_equal_corners_stay_apart() -> None:
    a, b_ = np.zeros(9, F), np.zeros(9, F)
    b_[2] = 1
    got, _ = cse.apply(graph_of(lambda b, x: (b.add(x, b.constant(a)), b.add(x, b.constant(b_))), ("f32", (9,))))
    assert ops(got) == ["add", "add"]


def test_regions_do_not_share_with_outside() -> None:
    b: Any = Builder()
    c, x = b.input("c", "bool", ()), b.input("x", "f32", (4,))
    arms = [b.region([x.type], lambda i, v: i.exp(i.exp(v))) for _ in range(2)]
    got, _ = cse.apply(b.build(b.exp(x), b.if_(c, x, regions=arms)))
    got.verify(2)
    assert ops(got) == ["exp", "if"]


# Dead code


def test_dead_code_goes_inputs_stay() -> None:
    graph = graph_of(lambda b, x, y: (b.exp(b.exp(y)), b.neg(x))[1], X, X)
    got, stats = dce.apply(graph)
    assert ops(got) == ["neg"] and len(got.inputs) == 2 and stats.rewritten == 2


# Decomposition


def test_decompose_asks_the_target_and_recurses() -> None:
    graph = graph_of(lambda b, x: b.attention(x, x, x), X)
    got, _ = decompose.apply(graph, FakeTarget(frozenset({"softmax"})))
    assert "softmax" in ops(got) and "attention" not in ops(got)
    got, _ = decompose.apply(graph, FakeTarget())
    assert "softmax" not in ops(got)
    got.verify(2)
    assert_equivalent(graph, got, data(graph), "reassoc")
    assert decompose.apply(graph, FakeTarget(frozenset({"attention"})))[1].rewritten == 0


def test_elementwise_composites_without_a_function_of_their_own_are_always_spelt_out() -> None:
    silu, hard = graph_of(lambda b, x: b.silu(x), X), graph_of(lambda b, x: b.hard_swish(x), X)
    assert ops(decompose.apply(silu, FakeTarget(frozenset({"silu"})))[0]) == ["silu"]
    assert ops(decompose.apply(silu, FakeTarget())[0]) == ["sigmoid", "mul"]
    assert "hard_swish" not in ops(decompose.apply(hard, FakeTarget(frozenset({"hard_swish"})))[0])


def test_passes_have_names_and_numerics() -> None:
    for p in (canonicalise, fold, cse, dce, decompose):
        assert isinstance(p, Pass) and p.name in repr(p) and p.numerics in ("exact", "reassoc")
    with pytest.raises(RewriteError):
        GraphPass(lambda g, c: None, "", "exact")


def test_constants_move_into_the_bodies_that_read_them() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("T", 2, 4))
    w = b.constant(np.eye(4, dtype=np.float32))
    start = b.full((2, 4), 0.0, "f32")
    types = [start.type, x.type.with_shape((2, 4)), w.type]
    body = b.region(types, lambda r, h, s, m: r.add(h, r.matmul(s, m)))
    graph = b.build(b.scan(start, x, w, n_carry=1, n_xs=1, regions=[body]))
    after, stats = localise.apply(graph)
    after.verify(level=2)
    scan = next(n for n in after.nodes if n.op.name == "scan")
    assert len(scan.operands) == 2 and stats.rewritten == 1
    inner = next(n for n in scan.regions[0].nodes if n.op.name == "matmul")
    assert inner.operands[1].const is w.const
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(3, 2, 4)}
    for name, value in graph.run(feeds).items():
        assert np.array_equal(value, after.run(feeds)[name])
