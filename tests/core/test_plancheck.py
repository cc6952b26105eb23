"""The plan checker accepts right plans and sees every kind of wrong one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusewright.core.errors import VerifyError
from fusewright.core.plan import Bump, Call, Carry, If, Loop, Plan, While, count_steps, memory_expression
from fusewright.core.plancheck import check_plan
from fusewright.core.planner import Lifetimes, plan_offsets


class Maker:
    """Builds plans of copy-like steps on whole buffers."""

    def __init__(self, symbols: tuple[str, ...] = ("N",)) -> None:
        self.plan = Plan(symbols, 1)
        self.plan.entries = {"k": 0}
        self.plan.add_kernel("k", "k", "copy")
        self.plan.outputs = [self.plan.address("o", 0)]

    def step(self, *accesses: tuple[str, int, str, int], size: str = "64*N", offset: str = "0") -> Call:
        """Each access is (kind, index, r|w|m, value)."""
        args = [self.plan.address(kind, index, offset if kind == "b" else 0) for kind, index, _, _ in accesses]
        values = [v for *_, v in accesses]
        spans = [self.plan.expr(size)] * len(args)
        return Call(0, args, self.plan.expr("N"), 1, "step", "".join(a for _, _, a, _ in accesses), values, spans)

    def check(self, n: int = 2, offsets: list[int] | None = None) -> None:
        plan = self.plan
        plan.verify()
        again = Plan.from_bytes(plan.to_bytes())
        assert again.to_bytes() == plan.to_bytes()
        lives = Lifetimes([b.first for b in plan.buffers], [b.last for b in plan.buffers])
        sizes = [plan.evaluate({"N": n})[b.bytes] for b in plan.buffers]
        planned, total = plan_offsets(sizes, lives)
        check_plan(again, {"N": n}, offsets or planned, max(total, max(offsets or [0]) + 64 * n))


def chain(lives: list[tuple[int, int]]) -> Maker:
    """x -> b0 -> b1 -> out, the last step reads b0 too."""
    m = Maker()
    for first, last in lives:
        m.plan.add_buffer("64*N", first, last)
    m.plan.steps = [
        m.step(("i", 0, "r", 0), ("b", 0, "w", 1)),
        m.step(("b", 0, "r", 1), ("b", 1, "w", 2)),
        m.step(("b", 0, "r", 1), ("b", 1, "r", 2), ("o", 0, "w", 3)),
    ]
    return m


def test_right_plan() -> None:
    m = chain([(0, 2), (1, 2)])
    m.check()
    assert memory_expression(m.plan) == "128*N"
    assert count_steps(m.plan.steps) == 3 and [n for n, _, _ in m.plan.walk()] == [0, 1, 2]


def test_value_overwritten_while_live() -> None:
    with pytest.raises(VerifyError, match=r"reads value 1|overlap"):
        chain([(0, 0), (1, 2)]).check()
    with pytest.raises(VerifyError):
        chain([(0, 2), (1, 2)]).check(offsets=[0, 64])


def _broken(change: Callable[[Maker], None], match: str) -> None:
    m = chain([(0, 2), (1, 2)])
    m.check()
    change(m)
    with pytest.raises(VerifyError, match=match):
        m.check()


def test_each_kind_of_fault() -> None:
    def in_place_but_read_later(m: Maker) -> None:
        m.plan.steps[1] = m.step(("b", 0, "r", 1), ("b", 0, "w", 2))

    def undefined_read(m: Maker) -> None:
        m.plan.steps[0] = m.step(("i", 0, "r", 0), ("b", 0, "w", 1), size="32*N")

    def outside(m: Maker) -> None:
        m.plan.steps[1] = m.step(("b", 0, "r", 1), ("b", 1, "w", 2), size="65*N")

    def writes_input(m: Maker) -> None:
        m.plan.steps[1] = m.step(("i", 0, "w", 1), ("b", 1, "w", 2))

    def no_output(m: Maker) -> None:
        m.plan.steps.pop()

    def silent(m: Maker) -> None:
        m.plan.steps[1] = Call(0, m.plan.steps[1].args, 0)  # type: ignore[union-attr]

    _broken(in_place_but_read_later, "reads value 1")
    _broken(undefined_read, "nothing certain")
    _broken(outside, "touches bytes")
    _broken(writes_input, "read-only")
    _broken(no_output, "never written")
    _broken(silent, "no access")


def test_declared_reuse_in_place() -> None:
    m = Maker()
    m.plan.add_buffer("64*N", 0, 2)
    m.plan.steps = [
        m.step(("i", 0, "r", 0), ("b", 0, "w", 1)),
        m.step(("b", 0, "r", 1), ("b", 0, "w", 2)),
        m.step(("b", 0, "r", 2), ("o", 0, "w", 3)),
    ]
    m.check()
    m.plan.steps[2] = m.step(("b", 0, "r", 1), ("o", 0, "w", 3))
    with pytest.raises(VerifyError, match="reads value 1"):
        m.check()


def loop_plan(count: str, moved: bool = True) -> Maker:
    """rows of 16 bytes: state += x[t]; ys[t] = state; out = ys."""
    m = Maker()
    p = m.plan
    p.add_buffer("16", 0, 4), p.add_buffer("16*N", 1, 4)
    ys = m.step(("b", 0, "r", 1), ("b", 1, "w", 2), size="16")
    bumps = [Bump(3, 1, p.expr("16"))] if moved else []
    p.steps = [
        m.step(("i", 0, "r", 0), ("b", 0, "w", 1), size="16"),
        Loop(p.expr(count), bumps, [m.step(("b", 0, "m", 1), size="16"), ys]),
        m.step(("b", 1, "r", 2), ("o", 0, "w", 3), size="16*N"),
    ]
    return m


@pytest.mark.parametrize("n", [1, 2, 3, 4, 50])
def test_loops_fill_by_slices(n: int) -> None:
    loop_plan("N").check(n)
    if n > 1:
        with pytest.raises(VerifyError, match="nothing certain"):
            loop_plan("N - 1").check(n)
        with pytest.raises(VerifyError, match="nothing certain"):
            loop_plan("N", moved=False).check(n)
    with pytest.raises(VerifyError, match="touches bytes"):
        loop_plan("N + 1").check(n)


def test_a_loop_that_clobbers_its_carry() -> None:
    m = Maker()
    m.plan.add_buffer("64", 0, 2), m.plan.add_buffer("64", 1, 2)
    body = [
        m.step(("b", 0, "r", 1), ("b", 1, "w", 2), size="64"),
        m.step(("b", 1, "r", 2), ("b", 0, "w", 5), size="64"),
    ]
    m.plan.steps = [m.step(("i", 0, "r", 0), ("b", 0, "w", 1), size="64"), Loop(m.plan.expr("N"), [], body)]
    m.plan.outputs = [m.plan.address("b", 0)]
    with pytest.raises(VerifyError, match="reads value 1"):
        m.check(2)
    m.check(1)


def test_branches_must_agree() -> None:
    m = Maker()
    m.plan.add_buffer("64", 0, 4)
    seven, eight = ([m.step(("b", 0, "w", v), size="64")] for v in (7, 8))
    cond = m.plan.address("i", 0)
    use = m.step(("b", 0, "r", 7), ("o", 0, "w", 9), size="64")
    m.plan.steps = [If(cond, seven, seven), use]
    m.check()
    m.plan.steps = [If(cond, seven, eight), use]
    with pytest.raises(VerifyError, match="reads value 7"):
        m.check()


def test_while_may_run_not_at_all() -> None:
    m = Maker()
    m.plan.add_buffer("64", 0, 5), m.plan.add_buffer("64", 1, 4)
    flag = m.plan.address("b", 1)
    test = m.step(("b", 0, "r", 1), ("b", 1, "w", 2), size="1")
    m.plan.steps = [
        m.step(("i", 0, "r", 0), ("b", 0, "w", 1), size="64"),
        While([test], flag, [m.step(("b", 0, "m", 1), size="64")], 2),
        m.step(("b", 0, "r", 1), ("o", 0, "w", 3), size="64"),
    ]
    m.check()
    m.plan.steps[1] = While([test], flag, [m.step(("b", 0, "r", 1), ("b", 0, "w", 4), size="64")], 2)
    with pytest.raises(VerifyError, match="reads value 1"):
        m.check()


@given(st.integers(0, 2**32), st.integers(2, 14))
def test_random_chains_pass_and_shifted_offsets_are_judged_by_replay(seed: int, length: int) -> None:
    """Values with random readers. The checker agrees with a replay that stores value names in a byte array."""
    rng = random.Random(seed)
    m = Maker()
    reads = [sorted(rng.sample(range(i), min(i, rng.randrange(3)))) for i in range(length)]
    reads.append([length - 1])
    for i in range(length):
        m.plan.add_buffer(64 * rng.randrange(1, 5), i, max([j for j, r in enumerate(reads) if i in r], default=i))
    sizes = m.plan.evaluate({})
    byte_sizes = [sizes[b.bytes] for b in m.plan.buffers]
    for i, r in enumerate(reads):
        to = ("b", i) if i < length else ("o", 0)
        args = [m.plan.address("b", j) for j in r] + [m.plan.address(*to)]
        spans = [m.plan.expr(byte_sizes[j]) for j in r] + [m.plan.expr(byte_sizes[i] if i < length else 1)]
        m.plan.steps.append(Call(0, args, 0, 1, "", "r" * len(r) + "w", [*r, i], spans))
    m.plan.expr("0")
    lives = Lifetimes([b.first for b in m.plan.buffers], [b.last for b in m.plan.buffers])
    offsets, total = plan_offsets(byte_sizes, lives)
    check_plan(m.plan, {}, offsets, total)
    moved = offsets[:]
    moved[rng.randrange(length)] = 64 * rng.randrange(1 + total // 64)
    arena = [-1] * (total + 512)
    right = True
    for i, r in enumerate(reads):
        for j in r:
            right &= all(v == j for v in arena[moved[j] : moved[j] + byte_sizes[j]])
        if i < length:
            mine = range(moved[i], moved[i] + byte_sizes[i])
            right &= not any(moved[j] < mine.stop and mine.start < moved[j] + byte_sizes[j] for j in r)
            arena[mine.start : mine.stop] = [i] * len(mine)
    try:
        check_plan(m.plan, {}, moved, total + 512)
        judged = True
    except VerifyError:
        judged = False
    assert judged == right


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.add_buffer("64", 3, 1),
        lambda p: p.add_constant(3, 8),
        lambda p: p.outputs.append(("x", 0)),
        lambda p: p.outputs.append(("b", 99, 0)),
        lambda p: p.kernels[0].__setattr__("symbol", "gone"),
        lambda p: p.steps.append(Call(5, [], 0)),
        lambda p: p.steps.append(Call(0, [("b", 0, 10**6)], 0)),
        lambda p: p.steps.append(Call(0, [], 0, 0)),
        lambda p: p.steps.append(Loop(0, [Bump(99, 0, 0)], [])),
        lambda p: p.steps.append(If(("x", 0), [], [])),
    ],
)
def test_malformed_plans_are_refused(change: Callable[[Plan], None]) -> None:
    m = chain([(0, 2), (1, 2)])
    m.plan.verify()
    change(m.plan)
    with pytest.raises(VerifyError):
        m.plan.verify()
    with pytest.raises(VerifyError):
        Plan.from_bytes(m.plan.to_bytes())


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"version":2}', b"[" * 5000, b'{"version":1,"symbols":3}'])
def test_text_that_is_no_plan(text: bytes) -> None:
    with pytest.raises(VerifyError):
        Plan.from_bytes(text)


def joined(second: str = "64*N", declared: str = "64*N") -> Maker:
    """Values 1 and 2 written one behind the other into value 3, which is then read as a whole."""
    m = Maker()
    m.plan.add_buffer("128*N", 0, 2)
    m.plan.windows = {4: (3, m.plan.expr("0")), 5: (3, m.plan.expr(declared))}
    m.plan.steps = [
        m.step(("i", 0, "r", 0), ("b", 0, "w", 4)),
        m.step(("i", 0, "r", 0), ("b", 0, "w", 5), offset=second),
        m.step(("b", 0, "r", 4), ("b", 0, "r", 3), ("o", 0, "w", 6)),
    ]
    m.plan.steps[2].spans = (m.plan.expr("64*N"), m.plan.expr("128*N"), m.plan.expr("64*N"))
    return m


def test_parts_make_up_a_whole() -> None:
    joined().check()


@pytest.mark.parametrize("second, declared", [("0", "64*N"), ("64*N", "32*N"), ("32*N", "32*N"), ("0", "0")])
def test_parts_that_lie_elsewhere_than_declared(second: str, declared: str) -> None:
    with pytest.raises(VerifyError, match="finds"):
        joined(second, declared).check()


def test_a_part_overwritten_before_the_whole_is_read() -> None:
    m = joined()
    m.plan.steps.insert(2, m.step(("i", 0, "r", 0), ("b", 0, "w", 9)))
    with pytest.raises(VerifyError, match="value 9"):
        m.check()


def test_windows_that_close_a_circle_are_refused() -> None:
    m = joined()
    m.plan.windows[3] = (5, m.plan.expr("0"))
    with pytest.raises(VerifyError, match="no range"):
        m.plan.verify()


def carrying(made: int, read: int = 1, carried: bool = True) -> Maker:
    """A loop whose state, value 1, is replaced where it lies by value ``made``; its body reads ``read``."""
    m = Maker()
    m.plan.add_buffer("64*N", 0, 3)
    body = [m.step(("b", 0, "r", read), ("b", 0, "w", 2))]
    rows = [Carry(m.plan.address("b", 0), m.plan.expr("64*N"), made, 1)] if carried else []
    m.plan.steps = [
        m.step(("i", 0, "r", 0), ("b", 0, "w", 1)),
        Loop(m.plan.expr("N"), (), body, rows),
        m.step(("b", 0, "r", 1), ("o", 0, "w", 3)),
    ]
    return m


def test_a_state_replaced_where_it_lies() -> None:
    carrying(2).check(3)
    for wrong in (carrying(4), carrying(2, read=2), carrying(2, carried=False)):
        with pytest.raises(VerifyError, match="finds value"):
            wrong.check(3)
