"""Special functions against independent values: the math module, closed forms, identities and integrals."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from fusewright.frontends import special
from fusewright.ir.builder import Builder

RNG = np.random.default_rng(0)
EULER = 0.57721566490153286060651209


def run(fn: Callable[..., Any], *xs: Any, kind: type = np.float64) -> np.ndarray:
    arrays = [np.asarray(x, kind) for x in xs]
    b = Builder()
    values = [b.input(f"x{i}", "f64" if kind is np.float64 else "f32", a.shape) for i, a in enumerate(arrays)]
    graph = b.build({"y": fn(b, *values)})
    return graph.run({f"x{i}": a for i, a in enumerate(arrays)})["y"]


def close(got: np.ndarray, want: Any, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    np.testing.assert_allclose(got, np.asarray(want, np.float64), rtol=rtol, atol=atol)


def test_lgamma() -> None:
    x = np.concatenate([RNG.uniform(-9, 30, 200), [1e-300, 1e-5, 1e5, 1e100, 0.5, 1, 2, 171]])
    close(run(special.lgamma, x), [math.lgamma(v) for v in x])
    special_values = run(special.lgamma, [0, -1, -7, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(special_values, [np.inf, np.inf, np.inf, np.inf, np.inf, np.nan])


def test_digamma() -> None:
    close(run(special.digamma, [1, 0.5, 2, 0.25]), [
        -EULER, -EULER - 2 * math.log(2), 1 - EULER, -EULER - math.pi / 2 - 3 * math.log(2)
    ])  # fmt: skip
    x = RNG.uniform(-8, 30, 200)
    close(run(special.digamma, x + 1) - run(special.digamma, x), 1 / x, rtol=1e-10)
    assert np.isnan(run(special.digamma, [0, -1, -20, np.nan])).all()


def test_zeta_and_polygamma() -> None:
    close(run(special.zeta, [2, 4, 2, 3], [1, 1, 0.5, -0.5]), [
        math.pi**2 / 6, math.pi**4 / 90, math.pi**2 / 2, 7 * 1.2020569031595942854 + (-0.5) ** -3
    ])  # fmt: skip
    s, q = np.array([6.5, 9.25]), np.array([2.5, 0.75])
    close(run(special.zeta, s, q), [sum((b + k) ** -a for k in range(4000)) for a, b in zip(s, q, strict=True)])
    got = run(special.zeta, [1, 0.5, 2, 2.5, np.nan], [2, 2, -3, -1.5, 1])
    np.testing.assert_array_equal(got, [np.inf, np.nan, np.inf, np.nan, np.nan])
    close(run(special.polygamma, [0, 1, 2, 3], [1, 1, 1, 1]), [
        -EULER, math.pi**2 / 6, -2 * 1.2020569031595942854, math.pi**4 / 15
    ])  # fmt: skip
    assert np.isnan(run(special.polygamma, [1.5, -1], [2, 2])).all()


def test_incomplete_gamma() -> None:
    x = np.concatenate([RNG.uniform(0, 40, 60), [0, 1e-12, 700]])
    lower, upper = run(special.igamma, np.ones_like(x), x), run(special.igammac, np.ones_like(x), x)
    close(lower, -np.expm1(-x), atol=1e-15)
    close(upper, np.exp(-x), atol=1e-300)
    close(run(special.igamma, np.full(60, 0.5), x[:60]), [math.erf(math.sqrt(v)) for v in x[:60]])
    for a in (3, 12):
        poisson = [sum(math.exp(-v) * v**k / math.factorial(k) for k in range(a)) for v in x[:60]]
        close(run(special.igammac, np.full(60, a), x[:60]), poisson, rtol=1e-11, atol=1e-300)
    a, at = [0, -1, 1, 2, 1, 3, np.inf], [1, 1, -1, np.nan, np.inf, 0, 1]
    np.testing.assert_array_equal(run(special.igamma, a, at), [np.nan, np.nan, np.nan, np.nan, 1, 0, 0])
    np.testing.assert_array_equal(run(special.igammac, a, at), [np.nan, np.nan, np.nan, np.nan, 0, 1, 1])


def test_incomplete_beta() -> None:
    x, p = RNG.uniform(0, 1, 80), RNG.uniform(0.1, 30, 80)
    one = np.ones(80)
    close(run(special.betainc, p, one, x), x**p, rtol=1e-11, atol=1e-300)
    close(run(special.betainc, one, p, x), -np.expm1(p * np.log1p(-x)))
    close(run(special.betainc, 2 * one, 3 * one, x), x**2 * (6 - 8 * x + 3 * x**2))
    q = RNG.uniform(0.1, 30, 80)
    close(run(special.betainc, p, q, x) + run(special.betainc, q, p, 1 - x), one)
    got = run(special.betainc, [0, 1, 2, 2, 2, 2], [1, -1, 2, 2, 2, 2], [0.5, 0.5, -0.1, 1.1, 0, 1])
    np.testing.assert_array_equal(got, [np.nan, np.nan, np.nan, np.nan, 0, 1])


def test_inverse_error_functions() -> None:
    x = np.concatenate([RNG.uniform(-4, 4, 200), [1e-300, 1e-9, -1e-5, 5e-4]])
    y = np.array([math.erf(v) for v in x])
    # What rounding of y alone moves x by: its unit over the slope.
    slack = 4e-16 * np.abs(y) / (2 / math.sqrt(math.pi) * np.exp(-(x**2)))
    got = run(special.erfinv, y)
    assert (np.abs(got - x) <= slack + 1e-13 * np.abs(x)).all()
    np.testing.assert_array_equal(run(special.erfinv, [1, -1, 1.5, -2, np.nan]), [np.inf, -np.inf] + [np.nan] * 3)
    p = np.concatenate([RNG.uniform(0, 1, 200), [1e-300, 1e-30, 1e-9, 0.5, 1 - 1e-12]])
    close(run(special.ndtri, p), [NormalDist().inv_cdf(v) for v in p], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(run(special.ndtri, [0, 1, -1, 2]), [-np.inf, np.inf, np.nan, np.nan])


def test_bessel() -> None:
    x = np.concatenate([RNG.uniform(-40, 40, 60), [0, 24.99, 25.01, 1e-8, 200]])
    angle = (np.arange(4000) + 0.5) * np.pi / 4000
    for order, scaled, plain in (
        (0, special.bessel_i0e, special.bessel_i0), (1, special.bessel_i1e, special.bessel_i1)
    ):  # fmt: skip
        # DLMF 10.32.3, by the midpoint rule, which converges geometrically for a periodic integrand.
        want = np.mean(
            np.exp(x[:, None] * np.cos(angle) - np.abs(x)[:, None]) * np.cos(order * angle), axis=1
        )  # fmt: skip
        close(run(scaled, x), want, rtol=1e-12, atol=1e-15)  # the rule's own rounding
        close(run(plain, x[:60]), want[:60] * np.exp(np.abs(x[:60])), rtol=1e-11)
    assert np.isnan(run(special.bessel_i0e, [np.nan])).all()
    np.testing.assert_array_equal(run(special.bessel_i0e, [np.inf, -np.inf]), [0, 0])


@pytest.mark.parametrize("name", ["lgamma", "digamma", "erfinv", "ndtri", "bessel_i0e", "bessel_i1e"])
def test_float32_is_the_rounded_float64(name: str) -> None:
    x = RNG.uniform(0.01, 0.99, 100).astype(np.float32)
    got = run(getattr(special, name), x, kind=np.float32)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, run(getattr(special, name), x).astype(np.float32))


def test_operands_broadcast() -> None:
    got = run(special.igamma, [[1.0], [2.0]], [0.5, 1.0, 2.0])
    assert got.shape == (2, 3)
    close(got[0], -np.expm1(-np.array([0.5, 1, 2])))


def test_empty_operands() -> None:
    assert run(special.betainc, np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)
    assert run(special.lgamma, np.zeros(0)).shape == (0,)
