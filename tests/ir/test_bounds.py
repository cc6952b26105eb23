"""Error bounds: every order of summation is inside, what cannot be known is undecided, what can be is decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusewright.ir import BoundedInterpreter, Builder, TensorType, Value

RNG = np.random.default_rng(3)


def bounded(build: Any, **arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(value, bound) of the one output of ``build(builder, *inputs)``; float32 feeds."""
    b = Builder()
    values: list[Value] = [b.input(k, a.dtype, a.shape) for k, a in arrays.items()]
    graph = b.build(build(b, *values))
    ((value, err),) = BoundedInterpreter(graph).run_bounded(arrays).values()
    assert not np.isnan(err).any() and (err >= 0).all()
    return value, err


def wild(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 10.0 ** RNG.uniform(-4, 4, shape)).astype("f4")


def inside(got: np.ndarray, value: np.ndarray, err: np.ndarray) -> bool:
    return bool(np.all(np.abs(got.astype("f8") - value) <= err * (1 + 1e-6)))


def orders(n: int) -> list[np.ndarray]:
    return [np.arange(n), np.arange(n)[::-1], *(RNG.permutation(n) for _ in range(6))]


def test_sums_in_any_order_and_blocking() -> None:
    x = wild(7, 300)
    value, err = bounded(lambda b, v: b.reduce_sum(v, axes=1), x=x)
    for order in orders(300):
        running = np.zeros(7, "f4")
        for k in order:
            running += x[:, k]
        assert inside(running, value, err)
        blocks = x[:, order].reshape(7, 30, 10).sum(2, dtype="f4").sum(1, dtype="f4")
        assert inside(blocks, value, err)
    mean, slack = bounded(lambda b, v: b.reduce_mean(v, axes=1), x=x)
    assert inside((x[:, ::-1] * np.float32(1 / 300)).sum(1, dtype="f4"), mean, slack)


def test_dot_products_in_any_order_with_and_without_fused_rounding() -> None:
    a, c = wild(5, 64), wild(64, 4)
    value, err = bounded(lambda b, x, y: b.matmul(x, y), x=a, y=c)
    for order in orders(64):
        plain, fused = np.zeros((5, 4), "f4"), np.zeros((5, 4), "f4")
        for k in order:
            plain = plain + a[:, k : k + 1] * c[k : k + 1]
            # Fused multiply-add rounds once.
            fused = (fused.astype("f8") + a[:, k : k + 1].astype("f8") * c[k : k + 1]).astype("f4")
        assert inside(plain, value, err) and inside(fused, value, err)
    half = (a.astype("f2").astype("f4") @ c.astype("f2").astype("f4")).astype("f4")
    assert not inside(half, value, err)


def test_products_and_running_sums_in_blocks() -> None:
    x = (RNG.standard_normal((3, 24)) * 2).astype("f4")
    value, err = bounded(lambda b, v: b.reduce_prod(v, axes=1), x=x)
    for order in orders(24):
        assert inside(np.multiply.reduce(x[:, order].reshape(3, 4, 6).prod(2, dtype="f4"), 1, "f4"), value, err)
    y = wild(3, 24)
    value, err = bounded(lambda b, v: b.cumsum(v, axis=1), x=y)
    parts = y.reshape(3, 4, 6)
    local = parts.cumsum(2, dtype="f4")
    carry = np.concatenate([np.zeros((3, 1), "f4"), local[:, :-1, -1].cumsum(1, dtype="f4")], 1)
    assert inside((local + carry[..., None]).reshape(3, 24), value, err)


def test_partial_overflow_is_undecided() -> None:
    x = np.array([3e38, 3e38, -3e38, -np.inf], "f4")
    assert np.isinf(bounded(lambda b, v: b.reduce_sum(v), x=x)[1])
    assert np.isinf(bounded(lambda b, v: b.reduce_sum(v), x=x[:3])[1])
    assert np.isinf(bounded(lambda b, v: b.reduce_prod(v), x=np.array([1e30, 1e30, 1e-30], "f4"))[1])
    assert np.isinf(bounded(lambda b, v: b.reduce_prod(v), x=np.array([1e-30, 1e-30, 1e30], "f4"))[1])
    assert np.isinf(bounded(lambda b, v: b.exp(v), x=np.array(89.0, "f4"))[1])
    # Summing one operand's letters first overflows, and 0 times that is NaN.
    both = {"x": np.zeros((0, 3), "f4"), "y": np.full((3, 2), 3e38, "f4")}
    assert np.isinf(bounded(lambda b, x, y: b.einsum(x, y, equation="ab,bx->b"), **both)[1]).all()


def test_classes_are_decided() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0], "f4")
    value, err = bounded(lambda b, v: b.sub(v, v), x=x)
    assert np.isnan(value[:3]).all() and not err[:3].any()
    value, err = bounded(lambda b, v: b.reduce_sum(v), x=x[:3])
    assert np.isnan(value) and err == 0
    # Certain NaN: far outside the domain with all of its error.
    value, err = bounded(lambda b, v: b.sqrt(b.sub(v, 0.1)), x=np.array([-3.0], "f4"))
    assert np.isnan(value[0]) and err[0] == 0
    value, err = bounded(lambda b, v: b.isnan(b.tanh(b.add(v, 0.1))), x=x)
    assert not err.any()
    value, err = bounded(lambda b, v: b.mul(v, 0.0), x=x)
    assert not err[:3].any() and np.isnan(value[:3]).all()


def test_an_undecided_value_stays_undecided() -> None:
    """It may even be NaN: flat functions and predicates know nothing about it."""
    x = np.array([89.0, 1.0], "f4")
    for name in ("tanh", "sigmoid", "isnan", "isfinite", "erf", "sign", "relu", "sin"):
        _, err = bounded(lambda b, v, name=name: getattr(b, name)(b.exp(v)), x=x)
        assert np.isinf(err[0]) and np.isfinite(err[1]), name
    _, err = bounded(lambda b, v: b.matmul(b.exp(v), b.constant(np.zeros((2, 1), "f4"))), x=x.reshape(1, 2))
    assert np.isinf(err).all()


def test_equality_of_inexact_values_is_undecided_between_the_ends() -> None:
    x = np.array([0.1, 5.0], "f4")
    near = bounded(lambda b, v: b.eq(b.mul(v, 1.1), b.constant(np.float32(0.11))), x=x)[1]
    assert np.isinf(near[0]) and near[1] == 0
    assert not bounded(lambda b, v: b.eq(v, v), x=x)[1].any()


def test_decisions_near_a_step() -> None:
    x = np.array([1.0, 2.5], "f4")
    for name in ("floor", "ceil", "sign"):
        err = bounded(lambda b, v, name=name: getattr(b, name)(b.sub(b.mul(v, 1.1), 1.1)), x=x)[1]
        assert np.isinf(err[0]) and err[1] == 0, name
    chosen = bounded(lambda b, v: b.where(b.gt(b.sub(b.mul(v, 1.1), 1.1), 0.0), v, b.neg(v)), x=x)[1]
    assert 2 <= chosen[0] < 2.1 and chosen[1] == 0
    lead = np.array([[1.0, 1.0], [1.0, 2.0]], "f4")
    err = bounded(lambda b, v: b.argmax(b.mul(v, 1.1), axis=1), x=lead)[1]
    assert np.isinf(err[0]) and err[1] == 0


def test_bf16_sums_in_float32_and_rounds_once() -> None:
    x = RNG.standard_normal(4000).astype("f4")
    _, err = bounded(lambda b, v: b.reduce_sum(b.cast(v, to="bf16")), x=x)
    assert np.isfinite(err) and err < 4000 * 2.0**-8
    half = bounded(lambda b, v: b.reduce_sum(b.cast(v, to="f16")), x=x)[1]
    assert np.isinf(half)


def test_while_carries_errors_and_scan_keeps_integers() -> None:
    f, i = TensorType("f32", ()), TensorType("i32", ())
    b = Builder()
    x = b.input("x", "f32", ())
    cond = b.region([i, f], lambda r, n, v: r.lt(n, 3))
    body = b.region([i, f], lambda r, n, v: [r.add(n, 1), r.mul(v, 1.1)])
    n, y = b.while_(b.constant(0, "i32"), x, regions=(cond, body))
    z, ints = b.scan(
        n, b.constant(np.arange(4, dtype="i4")), n_carry=1, n_xs=1,
        regions=[b.region([i, i], lambda r, c, v: [r.add(c, v), r.bitwise_and(c, v)])],
    )  # fmt: skip
    graph = b.build({"y": y, "bits": b.bitwise_xor(ints, ints), "z": z})
    out = BoundedInterpreter(graph).run_bounded({"x": np.float32(0.3)})
    value, err = out["y"]
    assert 0 < err < 1e-6 and abs(graph.run({"x": np.float32(0.3)})["y"] - value) <= err
    assert out["bits"][0].dtype == np.int32 and not out["bits"][1].any() and out["z"][0] == 9


def test_a_loop_whose_end_is_uncertain_is_undecided() -> None:
    f = TensorType("f32", ())
    b = Builder()
    x = b.input("x", "f32", ())
    cond = b.region([f], lambda r, v: r.lt(v, 1.1))
    body = b.region([f], lambda r, v: r.add(v, 0.1))
    graph = b.build(b.while_(x, regions=(cond, body)))
    ((_, err),) = BoundedInterpreter(graph).run_bounded({"x": np.float32(0)}).values()
    assert np.isinf(err)


def test_pads_of_rank_0_and_negative_extents() -> None:
    value, err = bounded(lambda b, v: b.pad(v, low=(), high=(), mode="edge"), x=np.array(2, "f4"))
    assert value == 2 and err == 0
    with pytest.raises(Exception, match="negative"):
        TensorType("f32", (2, -1))
