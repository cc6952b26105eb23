"""Order, shared storage and carried state: fewer bytes and fewer copies, with the same results."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fusewright.core.dims import evaluate
from fusewright.core.planner import Lifetimes, plan_offsets
from fusewright.ir import Builder, Graph
from fusewright.ir.program import WHY_NOT, Copy, Program, Run
from fusewright.passes.memory import order
from fusewright.passes.memory.arrange import arrange
from fusewright.passes.memory.schedule import schedule
from fusewright.testing import PlainTarget, SeededDraw, check_memory, feeds, random_graph

TARGET = PlainTarget()


def arena(program: Program, **env: int) -> int:
    lives = Lifetimes([b.first for b in program.buffers], [b.last for b in program.buffers])
    return plan_offsets([evaluate(b.bytes, env) for b in program.buffers], lives)[1]


def checked(graph: Graph, **env: int) -> Program:
    for how in (arrange, schedule):
        check_memory(graph, feeds(graph, SeededDraw(0)), TARGET, how)
    program = arrange(graph, TARGET)
    program.verify()
    return program


def runs(program: Program) -> list[str]:
    return [s.node.op.name if isinstance(s, Run) else "copy" for s in program.walk() if isinstance(s, (Run, Copy))]


def test_branches_run_one_after_the_other() -> None:
    # As written, all four wide values are alive at once.
    b = Builder()
    x = b.input("x", "f32", (64,))
    wide = [b.concat(b.mul(x, float(i)), x, x, x, axis=0) for i in range(1, 5)]
    sums = [b.reduce_sum(w, axes=0) for w in wide]
    graph = b.build(b.add(b.add(sums[0], sums[1]), b.add(sums[2], sums[3])))
    assert arena(checked(graph)) < arena(schedule(graph, TARGET)) / 2


@pytest.mark.parametrize("seed", range(60))
def test_no_graph_needs_more_than_in_its_own_order(seed: int) -> None:
    graph = random_graph(
        seed, max_nodes=14, ops=("add", "mul", "exp", "matmul", "reduce_sum", "transpose", "broadcast_to")
    )
    program = arrange(graph, TARGET)
    for value in (1, 16, 300):
        env = {s: value for s in graph.symbols}
        assert arena(program, **env) <= arena(schedule(graph, TARGET), **env)
    check_memory(graph, feeds(graph, SeededDraw(seed)), TARGET, arrange)


def test_parts_of_a_concat_are_written_in_place() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 8))
    y = b.concat(b.exp(x), b.concat(b.tanh(x), b.sin(x), axis=0), axis=0)
    program = checked(b.build(b.matmul(y, np.ones((8, 3), np.float32))))
    assert runs(program) == ["exp", "tanh", "sin", "matmul"]
    assert sum(p.how == "in concat" for p in program.placements) == 3


def test_a_concat_between_other_axes_or_of_inputs_has_its_kernel() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 8))
    y = b.concat(b.exp(x), b.tanh(x), axis=1)
    program = checked(b.build(b.matmul(y, np.ones((16, 3), np.float32))))
    assert "concat" in runs(program)
    why = next(p.why for p in program.placements if p.how == "own" and "interleave" in p.why)
    assert why == WHY_NOT["interleaved"]


def test_an_input_is_copied_into_a_concat_that_lies_in_place() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 8))
    e = b.exp(x)
    program = checked(b.build(b.neg(b.cumsum(b.concat(x, e, e, axis=0), axis=0))))
    assert runs(program).count("copy") == 2 and "concat" not in runs(program)


def test_slices_are_read_where_they_lie() -> None:
    b = Builder()
    x = b.exp(b.input("x", "f32", (4, 8)))
    low = b.slice(x, starts=(0, 0), stops=(2, 8), steps=(1, 1))
    high = b.slice(x, starts=(2, 0), stops=(4, 8), steps=(1, 1))
    program = checked(b.build(b.add(b.sigmoid(low), high)))
    assert "slice" not in runs(program)


def test_a_slice_that_is_a_part_of_a_concat_has_its_kernel() -> None:
    # Once the slice was taken for a view of its operand because it lies inside a larger storage: the concat's.
    b = Builder()
    x = b.exp(b.input("x", "f32", (4, 3)))
    columns = b.slice(x, starts=(0, 1), stops=(4, 3), steps=(1, 1))
    program = checked(b.build(b.neg(b.cumsum(b.concat(columns, b.neg(columns), axis=0), axis=0))))
    assert runs(program).count("slice") == 1 and "concat" not in runs(program)


def loop(body: Any, *extra: Any) -> Graph:
    b = Builder()
    h, c = b.exp(b.input("h", "f32", (8,))), b.exp(b.input("c", "f32", (8,)))
    region = b.region([h.type, c.type], body)
    out = b.scan(h, c, n_carry=2, length=5, regions=[region])
    return b.build(b.add(b.reverse(out[0], axes=0), b.reverse(out[1], axes=0)))


def test_carried_values_are_replaced_where_they_lie() -> None:
    program = checked(loop(lambda r, h, c: (r.tanh(r.add(h, c)), r.mul(c, 2.0))))
    assert "copy" not in runs(program)


def test_a_state_that_is_read_again_is_copied() -> None:
    program = checked(loop(lambda r, h, c: (r.tanh(h), r.reverse(r.add(c, h), axes=0))))
    # The new h may not replace the old one before c has read it, and c is reversed, which no kernel does in place.
    assert "copy" in runs(program)


def test_every_reason_is_in_the_list() -> None:
    seen = set()
    for seed in range(150):
        graph = random_graph(seed, max_nodes=12)
        for p in schedule(graph, TARGET).placements:
            assert p.how in ("in place", "in concat", "view", "output", "own")
            assert bool(p.why) == (p.how == "own")
            seen |= {
                part.split(": ", 1)[-1] if part.startswith("operand ") else part for part in p.why.split("; ") if part
            }
    assert seen <= set(WHY_NOT.values()) and len(seen) >= 6


def test_roles_are_counted() -> None:
    b = Builder()
    x = b.input("x", "f32", (4, 8))
    w = np.ones((8, 8), np.float32)
    y = b.add(b.matmul(x, w), b.exp(x))
    program = arrange(b.build(b.matmul(b.softmax(b.relu(y)), w)), TARGET)
    assert [p.role for p in program.placements] == ["", "elementwise", "residual", "elementwise", "normalisation", ""]
    assert [p.how for p in program.placements][2:5] == ["in place"] * 3


def test_ten_thousand_nodes_take_seconds() -> None:
    b = Builder()
    x = b.exp(b.input("x", "f32", ("N", 8)))
    kept = [x] * 8
    for i in range(5000):
        kept.append(b.add(b.tanh(kept[-1]), kept[-1 - 3 * (i % 3)]))
    graph = b.build(b.neg(kept[-1]))
    start = time.process_time()
    arrange(graph, TARGET)
    assert time.process_time() - start < 60


def branches(count: int, length: int = 4) -> Graph:
    """Chains that begin at one value, of widths that go up and down, and meet in a tree of sums."""
    b: Any = Builder()
    x = b.input("x", "f32", (32,))
    ends = []
    for i in range(count):
        y = x
        for j in range(length):
            y = b.concat(b.exp(y), y, axis=0) if (i + j) % 3 else b.cumsum(y, axis=0)
        ends.append(b.reduce_sum(y, axes=0))
    while len(ends) > 1:
        ends = [
            b.add(*pair) if len(pair) == 2 else pair[0] for pair in (ends[i : i + 2] for i in range(0, len(ends), 2))
        ]
    return b.build(ends[0])


@pytest.mark.parametrize("count", [50, 200])
def test_the_search_costs_the_same_however_many_nodes_are_ready(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counted(*args: Any) -> Any:
        nonlocal looked
        looked += 1
        return stretch(*args)

    stretch = order._stretch
    monkeypatch.setattr(order, "_stretch", counted)
    graph = branches(count)
    program = arrange(graph, TARGET)
    # At most one search for each try to share storage, and one without; moves look at a stretch each.
    assert 0 < looked <= 5 * (order.WORK + 1000)
    assert arena(program) < arena(schedule(graph, TARGET)) / 2


def test_a_move_is_judged_as_if_the_whole_order_were_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = 0

    def compared(self: Any, moved: list[int], first: int) -> tuple[int, int]:
        nonlocal judged
        judged += 1
        whole = order._Profile(self.sizes, list(moved), self.least)
        found: tuple[int, int] = after(self, moved, first)
        assert found == (whole.peak, whole.above)
        return found

    after = order._Profile.after
    monkeypatch.setattr(order._Profile, "after", compared)
    for seed in range(40):
        arrange(
            random_graph(seed, max_nodes=24, ops=("add", "matmul", "reduce_sum", "concat", "cumsum", "sort")), TARGET
        )
    arrange(branches(12), TARGET)
    assert judged > 20
