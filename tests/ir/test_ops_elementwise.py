"""Elementwise ops, casts and reductions against Python's own arithmetic, edge by edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewright.core.dtypes import DTYPES
from fusewright.core.errors import TypeRefused
from fusewright.ir import Builder

INF, NAN = math.inf, math.nan


def run(op: str, *arrays: Any, precision: str = "f32", **attrs: Any) -> np.ndarray:
    """One op on arrays; bf16 is not used here."""
    b = Builder()
    values = [b.input(f"x{i}", np.asarray(a).dtype, np.shape(a)) for i, a in enumerate(arrays)]
    out = b.apply(op, values, attrs)
    graph = b.build(*out)
    graph.verify()
    result = graph.run({f"x{i}": np.asarray(a) for i, a in enumerate(arrays)}, precision)
    return next(iter(result.values()))


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


POINTS = [-30.0, -5.5, -1.0, -0.5, -1e-3, -0.0, 0.0, 1e-3, 0.25, 0.46875, 0.5, 1.0, 1.5, 4.0, 5.5, 12.0, 80.0]


def _log(x: float) -> float:
    return math.log(x) if x > 0 else (-INF if x == 0 else NAN)


def _rsqrt(x: float) -> float:
    return 1 / math.sqrt(x) if x > 0 else (math.copysign(INF, x) if x == 0 else NAN)


def _inside(fn: Callable[[float], float], low: float, high: float) -> Callable[[float], float]:
    return lambda x: fn(x) if low <= x <= high else NAN


REFERENCES: dict[str, Callable[[float], float]] = {
    "neg": lambda x: -x, "abs": abs, "exp": math.exp, "expm1": math.expm1, "log": _log,
    "log1p": lambda x: math.log1p(x) if x > -1 else (-INF if x == -1 else NAN),
    "sqrt": _inside(math.sqrt, 0, INF), "rsqrt": _rsqrt,
    "square": lambda x: x * x, "sin": math.sin, "cos": math.cos, "tan": math.tan, "asin": _inside(math.asin, -1, 1),
    "acos": _inside(math.acos, -1, 1), "atan": math.atan, "sinh": math.sinh, "cosh": math.cosh, "tanh": math.tanh,
    "asinh": math.asinh, "acosh": _inside(math.acosh, 1, INF),
    "atanh": lambda x: math.atanh(x) if abs(x) < 1 else (math.copysign(INF, x) if abs(x) == 1 else NAN),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "erf": math.erf, "erfc": math.erfc, "floor": math.floor,
    "ceil": math.ceil, "round": round, "trunc": math.trunc,
    "softplus": lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))),
    "relu": lambda x: max(x, 0.0), "sign": lambda x: (x > 0) - (x < 0),
    "reciprocal": lambda x: 1 / x if x else math.copysign(INF, x),
    "silu": lambda x: x / (1 + math.exp(-x)), "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "elu": lambda x: x if x > 0 else math.expm1(x), "softsign": lambda x: x / (1 + abs(x)),
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
    "leaky_relu": lambda x: x if x > 0 else 0.2 * x, "relu6": lambda x: min(max(x, 0), 6),
    "hard_sigmoid": lambda x: min(max(x / 6 + 0.5, 0), 1), "hard_swish": lambda x: x * min(max(x / 6 + 0.5, 0), 1),
    "mish": lambda x: x * math.tanh(max(x, 0) + math.log1p(math.exp(-abs(x)))),
    "log_sigmoid": lambda x: -(max(-x, 0) + math.log1p(math.exp(-abs(x)))),
}  # fmt: skip


@pytest.mark.parametrize("op", REFERENCES)
@pytest.mark.parametrize(("dtype", "rtol"), [("f8", 1e-13), ("f4", 1e-5)])
def test_functions_of_one_variable(op: str, dtype: str, rtol: float) -> None:
    x = f32(*POINTS).astype(dtype)
    want = np.array([REFERENCES[op](float(v)) for v in x])
    got = run(op, x)
    assert got.dtype == x.dtype
    np.testing.assert_allclose(got, want.astype(dtype), rtol=rtol, atol=1e-35)
    # A wide run of a float32 graph computes in float64; its constants keep the values they have in float32.
    wide = run(op, x.astype("f4"), precision="f64")
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, want, rtol=1e-6, atol=1e-35)


def test_erf_is_accurate_everywhere() -> None:
    x = np.concatenate([np.linspace(-7, 7, 2001), [1e-300, -1e-20, 26.0, -INF, INF]])
    np.testing.assert_allclose(run("erf", x), [math.erf(v) for v in x], rtol=1e-15, atol=1e-300)
    np.testing.assert_allclose(run("erfc", x), [math.erfc(v) for v in x], rtol=2e-14, atol=1e-300)
    assert np.isnan(run("erf", np.array([NAN]))[0]) and np.isnan(run("erfc", np.array([NAN]))[0])


def test_special_values() -> None:
    assert np.isnan(run("relu", f32(NAN)))[0] and np.isnan(run("maximum", f32(NAN), f32(1.0)))[0]
    assert np.isnan(run("minimum", f32(1.0), f32(NAN)))[0] and np.isnan(run("clip", f32(NAN), f32(0), f32(1)))[0]
    assert np.isnan(run("sign", f32(NAN)))[0]
    np.testing.assert_array_equal(run("round", f32(0.5, 1.5, 2.5, -0.5, -1.5)), f32(0, 2, 2, -0.0, -2))
    assert np.signbit(run("round", f32(-0.5)))[0]
    np.testing.assert_array_equal(run("div", f32(1, -1, 0), f32(0, 0, 0)), f32(INF, -INF, NAN))
    np.testing.assert_array_equal(run("sigmoid", f32(-INF, INF, -200, 200)), f32(0, 1, 0, 1))
    np.testing.assert_array_equal(run("isnan", f32(NAN, INF, 1)), [True, False, False])
    np.testing.assert_array_equal(run("isinf", f32(NAN, -INF, 1)), [False, True, False])
    np.testing.assert_array_equal(run("where", np.array([True, False]), f32(1, 2), f32(3, NAN)), f32(1, NAN))
    # min(max(x, lo), hi): the upper bound wins.
    np.testing.assert_array_equal(run("clip", f32(5.0), f32(3.0), f32(1.0)), f32(1.0))


A, B = [7, -7, 7, -7, 0, 5, -(2**31)], [3, 3, -3, -3, 5, 0, -1]


@pytest.mark.parametrize(
    ("op", "reference"),
    [
        ("floordiv", lambda a, b: a // b if b else 0),
        ("mod", lambda a, b: a % b if b else 0),
        ("truncdiv", lambda a, b: int(a / b) if b else 0),
        ("rem", lambda a, b: int(math.fmod(a, b)) if b else 0),
    ],
)
def test_integer_division(op: str, reference: Callable[[int, int], int]) -> None:
    got = run(op, np.array(A, np.int32), np.array(B, np.int32))
    want = [(reference(a, b) + 2**31) % 2**32 - 2**31 for a, b in zip(A, B)]
    np.testing.assert_array_equal(got, want)


def test_float_division() -> None:
    a, b = f32(7, -7, 7, -7, 5.5), f32(3, 3, -3, -3, -2)
    np.testing.assert_array_equal(run("floordiv", a, b), f32(2, -3, -3, 2, -3))
    np.testing.assert_array_equal(run("mod", a, b), f32(1, 2, -2, -1, -0.5))
    np.testing.assert_array_equal(run("truncdiv", a, b), f32(2, -2, -2, 2, -2))
    np.testing.assert_array_equal(run("rem", a, b), f32(1, -1, 1, -1, 1.5))


def test_integers_wrap() -> None:
    top = np.array([2**31 - 1], np.int32)
    assert run("add", top, np.array([1], np.int32))[0] == -(2**31)
    assert run("mul", top, top)[0] == 1
    assert run("neg", np.array([3], np.uint8))[0] == 253
    base, power = np.array([2, -2, 3, 0, 1, -1, 7], np.int32), np.array([31, 3, -1, 0, -5, -3, 0], np.int32)
    np.testing.assert_array_equal(run("pow", base, power), [-(2**31), -8, 0, 1, 1, -1, 1])


def test_shifts_of_any_count() -> None:
    a, n = np.array([1, -8, -8, 5, 5], np.int8), np.array([7, 1, 9, -1, 8], np.int8)
    np.testing.assert_array_equal(run("shift_left", a, n), [-128, -16, 0, 0, 0])
    np.testing.assert_array_equal(run("shift_right", a, n), [0, -4, -1, 0, 0])


def test_bits_and_logic() -> None:
    a, b = np.array([12, 10], np.uint8), np.array([10, 3], np.uint8)
    assert run("bitwise_and", a, b).tolist() == [8, 2] and run("bitwise_or", a, b).tolist() == [14, 11]
    assert run("bitwise_xor", a, b).tolist() == [6, 9] and run("bitwise_not", a).tolist() == [243, 245]
    p, q = np.array([True, True, False]), np.array([True, False, False])
    assert run("logical_and", p, q).tolist() == [True, False, False]
    assert run("logical_xor", p, q).tolist() == [False, True, False]
    assert run("logical_not", p).tolist() == [False, False, True]


def test_casts_saturate_and_nan_is_zero() -> None:
    x = f32(1.9, -1.9, 300, -300, NAN, INF, -INF)
    assert run("cast", x, to="i8").tolist() == [1, -1, 127, -128, 0, 127, -128]
    assert run("cast", x, to="u8").tolist() == [1, 0, 255, 0, 0, 255, 0]
    assert run("cast", x, to="i64").tolist()[-2:] == [2**63 - 1, -(2**63)]
    assert run("cast", x, to="bool").tolist() == [True] * 7
    assert run("cast", f32(0.0, -0.0), to="bool").tolist() == [False, False]
    assert run("cast", np.array([300, -1], np.int32), to="u8").tolist() == [44, 255]
    assert run("cast", np.array([True]), to="f32").tolist() == [1.0]
    # Round to nearest even bf16: 1 + 2^-8 is a tie.
    assert run("cast", f32(1 + 2**-8, 1 + 3 * 2**-8), to="bf16").tolist() == [1.0, 1 + 2**-6]


@pytest.mark.parametrize("name", [n for n in DTYPES if n != "bf16"])
def test_comparisons_in_every_type(name: str) -> None:
    dt = DTYPES[name].np
    a, b = np.array([0, 1, 1], dt), np.array([1, 1, 0], dt)
    for op, want in {
        "eq": [0, 1, 0],
        "ne": [1, 0, 1],
        "lt": [1, 0, 0],
        "le": [1, 1, 0],
        "gt": [0, 0, 1],
        "ge": [0, 1, 1],
    }.items():
        assert run(op, a, b).tolist() == [bool(w) for w in want]


def test_broadcasting_is_numpys_and_dtypes_do_not_promote() -> None:
    x, y = np.arange(6, dtype="f4").reshape(2, 1, 3), np.arange(4, dtype="f4").reshape(4, 1)
    np.testing.assert_array_equal(run("add", x, y), x + y)
    b = Builder()
    with pytest.raises(TypeRefused, match="insert a cast"):
        b.add(b.input("x", "f32", (2,)), b.input("y", "i32", (2,)))
    with pytest.raises(TypeRefused, match="not known to be equal"):
        b.add(b.input("p", "f32", ("N",)), b.input("q", "f32", ("M",)))
    with pytest.raises(TypeRefused, match="takes"):
        b.exp(b.input("r", "i32", (2,)))


EMPTY = np.zeros((0, 2), np.float32)


@pytest.mark.parametrize(
    ("op", "want"),
    [("reduce_sum", 0.0), ("reduce_prod", 1.0), ("reduce_mean", NAN), ("reduce_max", -INF), ("reduce_min", INF)],
)
def test_reductions_of_nothing(op: str, want: float) -> None:
    np.testing.assert_array_equal(run(op, EMPTY, axes=(0,)), f32(want, want))
    assert run("reduce_any", EMPTY > 0, axes=None) == np.False_ and run("reduce_all", EMPTY > 0, axes=None) == np.True_
    assert run("reduce_max", EMPTY.astype(np.int8), axes=0).tolist() == [-128, -128]


def test_reductions_over_every_form_of_axes() -> None:
    x = np.arange(24, dtype="f4").reshape(2, 3, 4)
    np.testing.assert_array_equal(run("reduce_sum", x), x.sum())
    np.testing.assert_array_equal(run("reduce_sum", x, axes=()), x)
    np.testing.assert_array_equal(run("reduce_mean", x, axes=(-1, 0), keepdims=True), x.mean((0, 2), keepdims=True))
    np.testing.assert_array_equal(run("reduce_prod", x[:, :, 1:2], axes=1), x[:, :, 1:2].prod(1))
    assert run("argmax", f32(1, NAN, 5, NAN)) == 1 and run("argmin", f32(3, 1, 1)) == 1
    assert run("argmax", x, axis=1, keepdims=True).shape == (2, 1, 4)
    with pytest.raises(TypeRefused, match="twice"):
        run("reduce_sum", x, axes=(0, -3))
