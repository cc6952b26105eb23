"""Where an error bound may be certain about NaN, infinities and zeros, and where it must not be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusewright.ir import BoundedInterpreter, Builder

BIG = np.float32(3e38)
INF, NAN = np.float32(np.inf), np.float32(np.nan)
RNG = np.random.default_rng(5)


def run(build: Any, *arrays: Any, overflows: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(float64 value, bound, float32 result) of ``build(builder, *inputs)``."""
    b = Builder()
    made = [np.asarray(a, None if isinstance(a, np.ndarray) else np.float32) for a in arrays]
    graph = b.build(build(b, *(b.input(f"x{i}", a.dtype, a.shape) for i, a in enumerate(made))))
    feeds = {f"x{i}": a for i, a in enumerate(made)}
    ((value, err),) = BoundedInterpreter(graph, overflows).run_bounded(feeds).values()
    assert not np.isnan(err).any() and (err >= 0).all()
    (got,) = graph.run(feeds).values()
    return value, err, got


def agrees(value: np.ndarray, err: np.ndarray, got: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        near = (np.abs(got - value) <= err) | (got == value) | np.isnan(got) & np.isnan(value)
    return bool(np.all(near | np.isinf(err)))


def inexact(b: Builder, x: Any) -> Any:
    """x with a small error: three times a third of it."""
    return b.mul(b.div(x, 3.0), 3.0)


def test_zero_times_a_number_and_over_one_is_exact() -> None:
    zero, some = np.zeros(4, "f4"), np.array([1, -3, 1e-40, 2.5], "f4")
    for op in ("mul", "div"):
        value, err, got = run(lambda b, x, y, op=op: getattr(b, op)(x, inexact(b, y)), zero, some[[0, 1, 3, 3]])
        assert not err.any() and not value.any() and not got.any()
    for op in ("sin", "tanh", "sqrt", "expm1", "erf", "asinh"):
        _, err, got = run(lambda b, x, op=op: getattr(b, op)(x), zero)
        assert not err.any() and not got.any()
    # A zero that is the smallest number rounded away is none.
    _, err, _ = run(lambda b, x, y: b.mul(x, y), np.float32(1e-40), np.float32(1e-40))
    assert err > 0
    # 0 times what may be infinite is undecided.
    _, err, _ = run(lambda b, x, y: b.mul(x, b.mul(y, 2.0)), np.float32(0), BIG)
    assert np.isinf(err)
    _, err, _ = run(lambda b, x: b.div(b.sub(inexact(b, x), x), b.sub(inexact(b, x), x)), np.float32(0.7))
    assert np.isinf(err)


def test_an_infinity_keeps_its_class_beside_what_cannot_be_zero() -> None:
    x = np.array([INF, -INF, INF, -INF], "f4")
    y = np.array([0.3, 0.3, -7, -7], "f4")
    for op in ("mul", "div"):
        value, err, got = run(lambda b, p, q, op=op: getattr(b, op)(p, inexact(b, q)), x, y)
        assert not err.any() and np.array_equal(value, got) and np.isinf(got).all()
    # What may be 0 makes it NaN or turns its sign.
    for op in ("mul", "div"):
        _, err, _ = run(lambda b, p, q, op=op: getattr(b, op)(p, b.sub(inexact(b, q), q)), x, y)
        assert np.isinf(err).all()
    # A sure sign over a sure zero is an infinity, an unsure one is not.
    value, err, got = run(lambda b, p, q: b.div(inexact(b, p), q), y, np.zeros(4, "f4"))
    assert not err.any() and np.array_equal(value, got)
    _, err, _ = run(lambda b, p, q: b.div(b.sub(inexact(b, p), p), q), y, np.zeros(4, "f4"))
    assert np.isinf(err).all()


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum", "minimum", "atan2"])
def test_a_certain_nan_beside_anything_is_nan(op: str) -> None:
    def over(b: Builder, x: Any, y: Any) -> Any:
        return getattr(b, op)(x, b.mul(y, 2.0))

    value, err, got = run(over, np.array([NAN]), np.array([BIG]))
    assert not err.any() and np.isnan(value).all() and np.isnan(got).all()
    _, err, _ = run(over, np.array([1.0], "f4"), np.array([BIG]))
    assert np.isinf(err).all()


def test_sums_know_what_no_order_can_change() -> None:
    def total(b: Builder, x: Any) -> Any:
        return b.reduce_sum(x, axes=1)

    rows = np.array(
        [
            [NAN, BIG, BIG, -BIG],  # NaN however the rest overflows
            [INF, -INF, BIG, BIG],  # NaN
            [INF, BIG, BIG, -1],  # +inf: what is negative stays small
            [-INF, -BIG, -BIG, 5],  # -inf
            [INF, -BIG, -BIG, 1],  # -inf on the way makes NaN
            [-INF, BIG, BIG, 1],
            [BIG, BIG, -BIG, -BIG],  # anything
            [BIG, BIG, -BIG, 1],  # inf or a number
        ],
        "f4",
    )
    value, err, got = run(total, rows)
    assert (err[:4] == 0).all() and np.isinf(err[4:]).all() and agrees(value, err, got)
    for order in (RNG.permutation(4) for _ in range(24)):
        running = np.zeros(8, "f4")
        with np.errstate(all="ignore"):
            for k in order:
                running = running + rows[:, k]
        assert agrees(value, err, running)
    # The same through a dot product, whose terms overflow one by one.
    value, err, got = run(lambda b, x, w: b.matmul(x, w), rows, np.full((4, 1), 2, "f4"))
    assert (err[:4] == 0).all() and np.isinf(err[4:]).all() and agrees(value, err, got)
    mean, err, got = run(lambda b, x: b.reduce_mean(x, axes=1), rows)
    assert (err[:4] == 0).all() and np.isinf(err[4:]).all() and agrees(mean, err, got)


def test_overflow_is_an_infinity_where_the_order_of_evaluation_counts() -> None:
    x = np.array([BIG, -BIG, 1e30, 1.0], "f4")
    for build in (lambda b, v: b.mul(v, 4.0), lambda b, v: b.square(v), lambda b, v: b.mul(inexact(b, v), v)):
        value, err, got = run(build, x)
        assert np.isinf(err[:2]).all() and np.isfinite(err[3])  # another order may stay inside
        value, err, got = run(build, x, overflows=True)
        assert (err[:2] == 0).all() and np.array_equal(value[:2], got[:2]) and np.isinf(got[:2]).all()
    value, err, got = run(lambda b, v: b.exp(v), np.array([1000, 88.9, 88.72283935546875, 3e38], "f4"), overflows=True)
    assert np.array_equal(np.isinf(err), [False, False, True, False]) and agrees(value, err, got)
    # The largest numbers are numbers, and so is what rounds back to one.
    top = np.finfo("f4").max
    _, err, _ = run(lambda b, v: b.mul(v, 1.0), np.array([top]), overflows=True)
    assert np.isinf(err).all()
    value, err, got = run(lambda b, v: b.neg(v), np.array([65504, -65504], "f2"))
    assert not err.any() and np.array_equal(value, got)
    value, err, _ = run(lambda b, v: b.cast(v, to="f16"), np.array([65504, 65519, 65520, 65700, 1e6], "f4"))
    assert err[0] == 0 and np.isinf(err[1:]).all()
    value, err, got = run(lambda b, v: b.cast(v, to="f16"), np.array([65504, 65519, 65520, 1e6], "f4"), overflows=True)
    assert np.isinf(value[3]) and err[3] == 0 and np.isinf(err[1:3]).all() and agrees(value, err, got)


def test_a_sum_overflows_for_certain_only_when_one_side_stays_small() -> None:
    rows = np.array(
        [[BIG, BIG, BIG, -1], [BIG, BIG, BIG, -BIG], [BIG, 1e37, 1e37, 1e37], [np.finfo("f4").max, 1e31, 0, 0]], "f4"
    )
    value, err, got = run(lambda b, x: b.reduce_sum(x, axes=1), rows, overflows=True)
    assert (value[:2] == np.inf).all() and not err[:2].any() and agrees(value, err, got)
    # Inside the range, and so near to its end that rounding decides.
    assert np.isfinite(err[2]) and np.isfinite(value[2]) and np.isinf(err[3])
    rows = np.array([[BIG] * 6 + [-BIG] * 2, [BIG] * 2 + [-BIG] * 6], "f4")
    _, err, _ = run(lambda b, x: b.reduce_sum(x, axes=1), rows, overflows=True)
    assert np.isinf(err).all()  # both sides overflow: inf, -inf or NaN
    # A mean of large numbers may divide first.
    _, err, _ = run(lambda b, x: b.reduce_mean(x, axes=1), np.array([[BIG, BIG]]), overflows=True)
    assert np.isinf(err).all()
    _, err, _ = run(
        lambda b, x: b.avg_pool(x, window=(2,), strides=(2,)), np.full((1, 2, 1), BIG, "f4"), overflows=True
    )
    assert np.isinf(err).all()


def test_undecided_operands_stay_undecided() -> None:
    """Beside an operand that may be anything nothing but NaN is certain."""
    two = np.array([BIG, BIG], "f4")
    for other, op in ((INF, "add"), (INF, "mul"), (np.float32(0), "mul"), (INF, "maximum")):
        _, err, _ = run(lambda b, x, y, op=op: getattr(b, op)(b.mul(x, 2.0), y), two, np.full(2, other, "f4"))
        assert np.isinf(err).all(), op
    _, err, _ = run(lambda b, x, w: b.matmul(b.mul(x, 2.0), w), two[None], np.array([[0], [INF]], "f4"))
    assert np.isinf(err).all()


def test_an_inexact_factor_beside_an_infinity_decides_only_away_from_zero() -> None:
    x = np.array([[INF, 1.0], [INF, 1.0]], "f4")
    value, err, got = run(lambda b, p, q: b.matmul(p, inexact(b, q)), x, np.array([[0.3], [0.7]], "f4"))
    assert not err.any() and np.array_equal(value, got)
    _, err, _ = run(lambda b, p, q: b.matmul(p, b.sub(inexact(b, q), q)), x, np.array([[0.3], [0.7]], "f4"))
    assert np.isinf(err).all()


def test_a_number_that_may_have_underflowed_to_zero_beside_an_infinity() -> None:
    """Also where other elements of the same product overflow and are settled by their signs."""
    x = np.array([[1e-40, INF], [1.0, 1.0], [NAN, 1.0]], "f4")
    w = np.array([[INF, BIG], [1.0, BIG]], "f4")
    value, err, got = run(lambda b, p, q: b.matmul(b.square(p), q), x, w)
    assert np.isnan(got[0, 0]) and np.isinf(value[0, 0]) and np.isinf(err[0, 0])
    assert np.isinf(err[1, 1]) and not err[2].any() and agrees(value, err, got)
