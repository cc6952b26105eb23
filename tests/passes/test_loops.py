"""Counted loops become scans; what leaves a loop; what a loop need not carry. Each guard has its near miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_loops import counted_loop, extent, recurrence
from left import ops

from fusewright.ir import Builder, Graph
from fusewright.ir.interpreter import Interpreter
from fusewright.ir.ops.control import at_most
from fusewright.passes import Pass, PassContext, graph_pass
from fusewright.passes.loops.counted import loops
from fusewright.passes.loops.hoist import hoist, invariant
from fusewright.passes.loops.scanned import carried
from fusewright.testing import PassFailure, assert_equivalent, check_pass

F = np.float32


def inner(graph: Graph) -> list[str]:
    """Ops in the bodies of loops."""
    return [n for node in graph.nodes for r in node.regions for n in ops(r)]


def run(p: Pass, graph: Graph, numerics: str = "exact", **env: int) -> tuple[Graph, Any]:
    got, stats = p.apply(graph)
    got.verify(2)
    rng = np.random.default_rng(0)
    values = {v.name: rng.standard_normal(v.type.concrete(env)).astype(v.dtype.np) for v in graph.inputs}
    assert_equivalent(graph, got, values, numerics)
    assert p.apply(got)[0].fingerprint == got.fingerprint
    return got, stats


def loop(
    test: Any, step: Any, first: Any = 0, dtype: str = "i32", rows: Any = 4, bound: Any = None, flag: Any = True,
    keep: Any = (1, 2),
) -> Graph:  # fmt: skip
    """``while test(b, i, go, end)``: (i, go, h, out) -> step(b, i, go, h, out, x, end), over x [rows, 2, 3]."""
    b: Any = Builder()
    x, h = b.input("x", "f32", (rows, 2, 3)), b.input("h", "f32", (2, 3))
    out = b.input("out", "f32", (rows, 2, 3))
    end = b.constant(bound, dtype) if bound is not None else extent(b, rows, dtype)
    go = b.input("go", "bool", ()) if flag is None else b.constant(flag)
    values = [b.constant(first, dtype), go, h, out, x, end]
    types = [v.type for v in values]
    cond = b.region(types, lambda r, i, go, h, out, x, end: test(r, i, go, end))
    body = b.region(types, lambda r, i, go, h, out, x, end: step(r, i, go, h, out, x, end))
    results = b.while_(*values, regions=[cond, body], n_carry=4)
    return b.build(*(results[2 + k - 1] for k in keep), *(results[k] for k in (0, 1) if -k in keep))


def put(r: Any, out: Any, v: Any, at: Any) -> Any:
    zero = r.constant(0, "i64")
    return r.dynamic_update_slice(out, r.reshape(v, shape=(1, 2, 3)), r.cast(at, to="i64"), zero, zero)


def step(read: Any = lambda r, i, end: i, write: Any = lambda r, i, end: i, by: int = 1, go: Any = None) -> Any:
    """h <- tanh(h + x[read(i)]), out[write(i)] <- h."""

    def body(r: Any, i: Any, flag: Any, h: Any, out: Any, x: Any, end: Any) -> tuple[Any, ...]:
        h = r.tanh(r.add(h, r.gather(x, read(r, i, end), axis=0)))
        after = r.add(i, by)
        return after, flag if go is None else go(r, after, end), h, put(r, out, h, write(r, i, end))

    return body


def upto(r: Any, i: Any, go: Any, end: Any) -> Any:
    return r.lt(i, end)


def back(r: Any, i: Any, end: Any) -> Any:
    return r.sub(r.sub(end, 1), i)


WHOLE: dict[str, tuple[Graph, list[str], list[str]]] = {
    "forward": (loop(upto, step()), ["scan"], ["add", "tanh"]),
    "symbolic": (loop(upto, step(), rows="T"), ["scan"], ["add", "tanh"]),
    "backward": (loop(upto, step(back, back), rows="T"), ["scan"], ["add", "tanh"]),
    "reads backward": (loop(upto, step(back), rows="T", keep=(2,)), ["reverse", "scan"], ["add", "tanh"]),
    "writes backward": (loop(upto, step(write=back), rows="T", keep=(2,)), ["reverse", "scan"], ["add", "tanh"]),
    "counts down": (loop(lambda r, i, go, end: r.ge(i, 0), step(by=-1), first=3, bound=0), ["scan"], ["add", "tanh"]),
    "until equal": (loop(lambda r, i, go, end: r.ne(i, end), step(), rows="T"), ["scan"], ["add", "tanh"]),
    "two bounds": (
        loop(lambda r, i, go, end: r.logical_and(r.lt(i, end), r.gt(end, i)), step(), rows="T"), ["scan"],
        ["add", "tanh"],
    ),
    "part of the rows": (loop(upto, step(), first=1, bound=3), ["slice", "slice", "slice", "scan", "concat"],
                         ["add", "tanh"]),
    "wrapped index": (
        loop(upto, step(lambda r, i, end: r.where(r.lt(i, 0), r.add(i, end), i)), rows="T"), ["scan"], ["add", "tanh"],
    ),
    "clamped index": (
        loop(upto, step(lambda r, i, end: r.minimum(r.maximum(i, 0), r.sub(end, 1))), rows="T"), ["scan"],
        ["add", "tanh"],
    ),
    "condition of the body": (
        loop(lambda r, i, go, end: go, step(go=lambda r, i, end: r.lt(i, end)), bound=4), ["scan"], ["add", "tanh"],
    ),
    "every second row": (loop(upto, step(lambda r, i, end: i, by=2), bound=3), ["scan"],
                         ["gather", "add", "tanh", "reshape", "cast", "dynamic_update_slice"]),
    "outside the rows": (
        loop(upto, step(lambda r, i, end: r.add(i, 1))), ["scan"], ["add", "gather", "add", "tanh"],
    ),
    "never runs": (loop(upto, step(), bound=0), [], []),
    "counter is read": (
        loop(upto, lambda r, i, go, h, out, x, end: (
            r.add(i, 1), go, r.mul(h, r.cast(i, to="f32")), put(r, out, h, i)), rows="T"),
        ["scan"], ["cast", "mul"],
    ),
    "buffer is read": (
        loop(upto, lambda r, i, go, h, out, x, end: (
            r.add(i, 1), go, r.add(h, r.gather(out, i, axis=0)), put(r, out, h, i)), rows="T"),
        ["scan"], ["gather", "add", "reshape", "cast", "dynamic_update_slice"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_counted(name: str) -> None:
    graph, outside, inside = WHOLE[name]
    for t in (3, 1) if graph.symbols else (0,):
        got, stats = run(loops, graph, T=t)
        assert stats.fired["counted"] == 1 and "while" not in ops(got)
    left = [n for n in ops(got) if n not in ("iota", "broadcast_to", "reduce_sum", "cast", "add", "sub", "mul")]
    assert sorted(left) == sorted(outside)
    assert [n for n in inner(got) if n != "reshape"] == [n for n in inside if n != "reshape"]


def test_no_trips_of_a_symbolic_loop() -> None:
    run(loops, WHOLE["symbolic"][0], T=0)


def test_the_counters_last_value() -> None:
    graph = loop(upto, step(by=2), rows="T", bound=7, keep=(1, 0))
    got, _ = run(loops, graph, T=2)
    assert "while" not in ops(got)


def data(r: Any, i: Any, go: Any, end: Any) -> Any:
    return r.logical_and(r.lt(i, end), go)


GUARDS: dict[str, tuple[Graph, str]] = {
    "grows": (loop(lambda r, i, go, end: r.ge(i, 0), step(), bound=1), "never fails"),
    "true": (loop(lambda r, i, go, end: r.constant(True), step(), bound=1), "never fails"),
    "stepped over": (loop(lambda r, i, go, end: r.ne(i, end), step(by=2), bound=4), "step over"),
    "wraps": (loop(lambda r, i, go, end: r.lt(i, 125), step(by=10), dtype="i8", bound=4), "may wrap around"),
    "values": (loop(lambda r, i, go, end: r.lt(i, r.mul(i, i)), step(), bound=4), "known at run time only"),
    "flag": (loop(data, step(), flag=None, bound=4), "whether it runs at all"),
    "which of two": (
        loop(data, step(go=lambda r, i, end: r.lt(i, 2)), bound=4, keep=(1, -1)), "which of its conditions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GUARDS)
def test_what_stays_a_while(name: str) -> None:
    graph, why = GUARDS[name]
    got, stats = loops.apply(graph)
    assert got.fingerprint == graph.fingerprint
    assert [why in reason for _, reason in stats.declined] == [True]


# What is carried


def scan(body: Any, carry: int, xs: int, *types: Any, reverse: bool = False, keep: Any = None) -> Graph:
    b: Any = Builder()
    values = [b.input(f"v{i}", *t) if isinstance(t, tuple) else b.full((2, 3), t, "f32") for i, t in enumerate(types)]
    inside = [v.type if not carry <= i < carry + xs else v.type.with_shape(v.shape[1:]) for i, v in enumerate(values)]
    region = b.region(inside, body)
    results = b.apply("scan", values, {"n_carry": carry, "n_xs": xs, "reverse": reverse}, [region])
    return b.build(*(results if keep is None else [results[k] for k in keep]))


ROWS, STATE, SQUARE = ("f32", ("T", 2, 3)), ("f32", (2, 3)), ("f32", (3, 3))


def test_dead_values_go() -> None:
    graph = scan(lambda r, h, d, x: (r.tanh(r.add(h, x)), r.add(d, h), r.exp(d)), 2, 1, STATE, STATE, ROWS, keep=(0,))
    got, stats = run(carried, graph, T=3)
    assert stats.fired == {"dead": 1} and inner(got) == ["add", "tanh"]


def test_fixed_values_are_not_carried() -> None:
    graph = scan(lambda r, h, d, x: (r.tanh(r.add(h, r.mul(x, d))), d), 2, 1, STATE, STATE, ROWS)
    got, _ = run(carried, graph, T=3)
    node = next(n for n in got.nodes if n.op.name == "scan")
    assert node.attrs["n_carry"] == 1 and len(node.operands) == 3


def test_values_that_stay_equal_are_carried_once() -> None:
    def body(r: Any, h: Any, k: Any, x: Any) -> Any:
        return r.tanh(r.add(h, x)), r.tanh(r.add(x, k)), r.sub(h, k)

    got, stats = run(carried, scan(body, 2, 1, 0.0, 0.0, ROWS), T=3)
    assert stats.fired["congruent"] == 1 and inner(got) == ["add", "tanh", "sub"]
    apart, _ = run(carried, scan(body, 2, 1, 0.0, 1.0, ROWS), T=3)
    assert inner(apart) == ["add", "tanh", "add", "tanh", "sub"]


def test_values_that_part_later_are_both_carried() -> None:
    def body(r: Any, h: Any, k: Any, x: Any) -> Any:
        return r.add(h, x), r.sub(k, x)

    got, _ = run(carried, scan(body, 2, 1, 0.0, 0.0, ROWS), T=3)
    assert inner(got) == ["add", "sub"]


@pytest.mark.parametrize("start, merged", [(0.0, True), (1.0, False)])
def test_the_last_of_two_equal_values(start: float, merged: bool) -> None:
    def body(r: Any, h: Any, last: Any, x: Any) -> Any:
        h = r.tanh(r.add(h, x))
        return h, r.reshape(r.reshape(h, shape=(6,)), shape=(2, 3))

    graph = scan(body, 2, 1, 0.0, start, ROWS)
    got, _ = run(carried, graph, T=3)
    run(carried, graph, T=0)
    assert next(n for n in got.nodes if n.op.name == "scan").attrs["n_carry"] == 2 - merged


def test_doubled_and_unread_operands_go() -> None:
    b: Any = Builder()
    x, h, w = b.input("x", *ROWS), b.input("h", *STATE), b.input("w", *STATE)
    types = [h.type, x.type.with_shape((2, 3)), x.type.with_shape((2, 3)), w.type, w.type, h.type]
    region = b.region(types, lambda r, h, p, q, u, v, _: r.add(h, r.add(r.mul(p, u), r.mul(q, v))))
    got, _ = run(carried, b.build(b.scan(h, x, x, w, w, h, regions=[region], n_carry=1, n_xs=2)), T=2)
    assert len(next(n for n in got.nodes if n.op.name == "scan").operands) == 3


def test_one_run_tidies_what_another_loop_leaves_unread() -> None:
    b: Any = Builder()
    x, h = b.input("x", *ROWS), b.input("h", *STATE)
    inner_types = [h.type, x.type.with_shape((2, 3))]
    region = b.region(inner_types, lambda r, h, p: (r.tanh(r.add(h, p)), r.exp(p)))
    _, stacked = b.scan(h, x, regions=[region], n_carry=1, n_xs=1)
    # The second loop hands its rows on as they are: they are the first one's, and nothing else reads its state.
    types = [h.type, stacked.type]
    count = b.region(types, lambda r, h, rows: (r.neg(h), rows))
    y, _ = b.scan(h, stacked, regions=[count], n_carry=2, n_xs=0, length=3)
    got, _ = run(carried, b.build(y), T=2)
    assert ops(got) == ["scan"] and inner(got) == ["neg"]


# What leaves


def test_invariant_work_leaves() -> None:
    def body(r: Any, h: Any, x: Any, w: Any) -> Any:
        return r.tanh(r.add(r.matmul(h, r.exp(r.neg(w))), x))

    got, stats = run(invariant, scan(body, 1, 1, STATE, ROWS, SQUARE), T=3)
    assert ops(got) == ["neg", "exp", "scan"] and stats.rewritten == 1


def test_what_a_kernel_makes_on_the_way_stays() -> None:
    def body(r: Any, h: Any, x: Any, w: Any) -> Any:
        return r.add(r.add(h, x), r.broadcast_to(r.reshape(w, shape=(1, 3)), shape=(2, 3)))

    got, _ = run(invariant, scan(body, 1, 1, STATE, ROWS, ("f32", (3,))), T=3)
    assert ops(got) == ["scan"]


def test_invariant_work_leaves_nested_loops() -> None:
    b: Any = Builder()
    h, x, w = b.input("h", *STATE), b.input("x", *ROWS), b.input("w", *SQUARE)

    def outer(r: Any, h: Any, x: Any, w: Any) -> Any:
        types = [h.type, x.type.with_shape((3,)), w.type]
        deep = r.region(types, lambda q, h, row, w: q.tanh(q.matmul(q.add(h, row), q.exp(w))))
        return r.scan(h, x, w, regions=[deep], n_carry=1, n_xs=1)

    region = b.region([h.type, x.type.with_shape((2, 3)), w.type], outer)
    got, _ = run(invariant, b.build(b.scan(h, x, w, regions=[region], n_carry=1, n_xs=1)), T=3)
    assert ops(got) == ["exp", "scan"]


LIFTED: dict[str, tuple[Any, list[str]]] = {
    "projection": (lambda r, x, w: r.matmul(x, w), ["matmul", "scan"]),
    "with bias": (lambda r, x, w: r.add(r.matmul(x, w), 2.0), ["matmul", "add", "scan"]),
    "from the left": (lambda r, x, w: r.matmul(w, x, transpose_b=True), ["matmul", "scan"]),
    "of what is made of slices": (lambda r, x, w: r.matmul(r.relu(x), w), ["relu", "matmul", "scan"]),
    "of a turned slice": (
        lambda r, x, w: r.matmul(r.transpose(x, perm=(1, 0)), x), ["transpose", "matmul", "scan"],
    ),
    "of part of a slice": (
        lambda r, x, w: r.matmul(r.slice(x, starts=(0, 1), stops=(2, 3)), r.slice(w, starts=(0, 0), stops=(2, 3))),
        ["slice", "slice", "matmul", "scan"],
    ),
    "of a slice and a constant": (
        lambda r, x, w: r.matmul(r.concat(x, r.constant(np.ones((2, 3), F)), axis=0), w),
        ["broadcast_to", "concat", "matmul", "scan"],
    ),
    "with more axes": (
        lambda r, x, w: r.matmul(x, r.broadcast_to(r.reshape(w, shape=(1, 3, 3)), shape=(5, 3, 3))),
        ["reshape", "broadcast_to", "reshape", "matmul", "scan"],
    ),
    "convolution": (
        lambda r, x, w: r.conv(r.reshape(x, shape=(1, 2, 3)), r.constant(np.ones((2, 3, 4), F)), pads=((0, 1),)),
        ["reshape", "reshape", "conv", "reshape", "scan"],
    ),
    "elementwise alone": (lambda r, x, w: r.exp(x), ["scan"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LIFTED)
@pytest.mark.parametrize("reverse", [False, True])
def test_contractions_of_slices_leave(name: str, reverse: bool) -> None:
    make, want = LIFTED[name]

    def body(r: Any, h: Any, x: Any, w: Any) -> Any:
        y = make(r, x, w)
        return r.add(h, r.reduce_sum(y, axes=tuple(range(y.rank)))), y

    graph = scan(body, 1, 1, ("f32", ()), ROWS, SQUARE, reverse=reverse)
    for t in (3, 1, 0):
        got, stats = run(hoist, graph, "reassoc", T=t)
    assert [n for n in ops(got)] == want
    assert stats.rewritten == 0 or "hoisted" in stats.fired


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0)])
def test_the_share_of_a_slice_in_a_product_leaves(order: tuple[int, ...]) -> None:
    w = np.random.default_rng(0).standard_normal((3 * len(order), 3)).astype(F)

    def body(r: Any, h: Any, x: Any) -> Any:
        return r.tanh(r.matmul(r.concat(*((x, h)[i] for i in order), axis=1), r.constant(w)))

    got, stats = run(hoist, scan(body, 1, 1, STATE, ROWS), "reassoc", T=3)
    assert stats.fired["split product"] == 1
    assert [n for n in ops(got) if n in ("matmul", "scan")] == ["matmul", "scan"]
    assert [n for n in inner(got) if n not in ("slice", "concat")] == ["matmul", "add", "tanh"]


def test_what_depends_on_the_state_stays() -> None:
    def body(r: Any, h: Any, x: Any, w: Any) -> Any:
        return r.tanh(r.matmul(r.add(h, x), w))

    got, _ = run(hoist, scan(body, 1, 1, STATE, ROWS, SQUARE), "reassoc", T=3)
    assert ops(got) == ["scan"]


@pytest.mark.parametrize(
    "p, draw", [(loops, [counted_loop]), (carried, [counted_loop, recurrence]), (invariant, [recurrence]),
                (hoist, [recurrence])], ids=["loops", "carried", "invariant", "hoist"]
)  # fmt: skip
def test_drawn_loops(p: Pass, draw: Any) -> None:
    report = check_pass(p, max_examples=100, extra=draw)
    assert report.fired > 30


def test_a_pass_that_makes_a_loop_endless_is_found_and_reduced() -> None:
    @graph_pass(numerics="exact")
    def standstill(graph: Graph, ctx: PassContext) -> None:
        for node in [n for n in graph.walk() if n.op.name == "while"]:
            body = node.regions[1]
            returned = body.return_node
            assert returned is not None
            returned.set_operand(0, body.inputs[0])
            ctx.rewrote("standstill")

    with pytest.raises(PassFailure, match="goes on") as caught:
        check_pass(standstill, max_examples=50, extra=[counted_loop])
    small = caught.value
    # What is left ends as it stands: a smaller graph whose own loop is endless says nothing about the pass.
    with at_most(2000):
        Interpreter(small.graph).run(small.feeds)
