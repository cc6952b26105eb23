"""The accuracy that mathlib states, over the whole range, and the special values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu import mathlib
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.variants import DEFAULT_VARIANTS
from fusewright.runtime.cpu import missing
from fusewright.runtime.image import NativeImage

HERE = [v for v in DEFAULT_VARIANTS if not missing(v)]
UNARY = [name for name in mathlib.ULPS if name not in ("pow", "atan2")]
TYPES = {"f32": np.float32, "f64": np.float64}
LD = np.longdouble
PI = "3.14159265358979323846264338327950288"
SPECIAL = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.0,
    3.0,
    -3.0,
    7.5,
    1e-40,
    -1e-40,
    3e38,
    -3e38,
]


def elementwise(fn: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: np.array([fn(float(a)) for a in v], LD)


def sigmoid(v: np.ndarray) -> np.ndarray:
    e = np.exp(-abs(v))
    return np.where(v >= 0, 1 / (1 + e), e / (1 + e))


def gelu(v: np.ndarray) -> np.ndarray:
    """By libm's erfc in double, corrected to the first order for the rounding of its argument."""
    t = -v * np.sqrt(LD(0.5))
    low = np.where(np.isfinite(t), t - t.astype(np.float64), 0)
    slope = np.where((t > 1) & (t < 40), -2 * t * low, 0)
    return v / 2 * elementwise(math.erfc)(t) * (1 + slope)


def gelu_tanh(v: np.ndarray) -> np.ndarray:
    return v * sigmoid(np.sqrt(8 / LD(PI)) * (v + LD("0.044715") * v * v * v))


# References carry 64 bits of mantissa, except erf and erfc: libm's double.
REFERENCE: dict[str, Callable[..., Any]] = {
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "atan2": np.arctan2,
    "pow": np.power,
    "rsqrt": lambda v: 1 / np.sqrt(v),
    "sigmoid": sigmoid,
    "softplus": lambda v: np.maximum(v, 0) + np.log1p(np.exp(-abs(v))),
    "silu": lambda v: v * sigmoid(v),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "erf": elementwise(math.erf),
    "erfc": elementwise(math.erfc),
}


@cache
def native(variant: str) -> NativeImage:
    unary = """
def k(args, start, stop, scratch):
    x = p{t}(args[0])
    z = p{t}(args[2])
    for i in range(start, stop):
        z[i] = {n}(x[i])
"""
    binary = unary.replace("z = ", "y = p{t}(args[1])\n    z = ").replace("(x[i])", "(x[i], y[i])")
    sources = [KernelSource(f"{n}_{t}", unary.format(n=n, t=t)) for n in UNARY for t in TYPES]
    sources += [KernelSource(f"{n}_{t}", binary.format(n=n, t=t)) for n in ("pow", "atan2") for t in TYPES]
    image = build_image(sources, variant)
    return NativeImage(image.code, image.symbols)


def run(variant: str, symbol: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    z = np.empty_like(x)
    block = np.array([x.ctypes.data, y.ctypes.data, z.ctypes.data], np.int64)
    native(variant).kernel(symbol)(block.ctypes.data, 0, len(x), 0)
    return z


def check(name: str, kind: Any, got: np.ndarray, wanted: np.ndarray, inputs: tuple[np.ndarray, ...]) -> None:
    """Equal classes (NaN, infinities with sign, sign of zero), finite values within the stated ULPs."""
    with np.errstate(all="ignore"):
        rounded = wanted.astype(kind)
        finite = np.isfinite(rounded)
        same = np.where(finite, np.isfinite(got), (rounded == got) | (np.isnan(rounded) & np.isnan(got)))
        assert same.all(), (name, [v[~same][:5] for v in inputs], got[~same][:5], rounded[~same][:5])
        zero = (rounded == 0) & (got == 0)
        assert (np.signbit(rounded) == np.signbit(got))[zero].all(), name
        step = np.spacing(np.maximum(abs(rounded), np.finfo(kind).tiny))
        error = np.where(finite, abs(got.astype(LD) - wanted) / step, 0)
    worst = int(np.argmax(error))
    slack = 1.0 if name in ("erf", "erfc", "gelu") and kind is np.float64 else 0.0  # the reference's own error
    limit = mathlib.ULPS[name][0 if kind is np.float32 else 1] + slack
    assert error[worst] <= limit, (name, float(error[worst]), [v[worst] for v in inputs])


@pytest.mark.parametrize("variant", HERE)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str, variant: str) -> None:
    rng = np.random.default_rng(7)
    for t, kind in TYPES.items():
        top = 38 if t == "f32" else 307
        ranges = [(-1, 1), (-4, 4), (-20, 20), (-100, 100), (-800, 800), (0.5, 2)]
        parts = [rng.uniform(low, high, 8000) for low, high in ranges]
        parts.append(10 ** rng.uniform(-top, top, 8000) * rng.choice([-1, 1], 8000))
        with np.errstate(over="ignore"):
            x = np.concatenate([np.array([*SPECIAL, 5e-324, 1e-310, 1e-45, 88.7, 88.8, 709.7, 709.9]), *parts]).astype(
                kind
            )
        with np.errstate(all="ignore"):
            wanted = (REFERENCE.get(name) or getattr(np, name))(x.astype(LD))
        check(name, kind, run(variant, f"{name}_{t}", x, x), wanted, (x,))


@pytest.mark.parametrize("variant", HERE)
@pytest.mark.parametrize("name", ["pow", "atan2"])
def test_binary(name: str, variant: str) -> None:
    rng = np.random.default_rng(8)
    a, b = (v.ravel() for v in np.meshgrid([*SPECIAL, 1e10, 1e-45], [*SPECIAL, 1e10, 1e-45]))
    for t, kind in TYPES.items():
        top, n = (38 if t == "f32" else 300), 8000
        x = np.concatenate(
            [a, rng.uniform(-4, 4, n), 10 ** rng.uniform(-top, top, n), rng.integers(-20, 20, n), rng.uniform(0, 3, n)]
        )
        y = np.concatenate(
            [b, rng.uniform(-4, 4, n), rng.uniform(-2, 2, n), rng.integers(-20, 20, n), rng.uniform(-700, 700, n)]
        )
        x, y = x.astype(kind), y.astype(kind)
        with np.errstate(all="ignore"):
            wanted = REFERENCE[name](x.astype(LD), y.astype(LD))
        check(name, kind, run(variant, f"{name}_{t}", x, y), wanted, (x, y))


def test_an_element_does_not_depend_on_its_place() -> None:
    """Vector body and scalar tail give the same bits, whatever the chunk."""
    rng = np.random.default_rng(9)
    x = rng.uniform(-5, 5, 300).astype(np.float32)
    for name in UNARY:
        whole = run(HERE[-1], f"{name}_f32", x, x)
        alone = np.concatenate([run(HERE[-1], f"{name}_f32", x[i : i + 1].copy(), x) for i in range(len(x))])
        assert whole.tobytes() == alone.tobytes(), name


def test_every_function_states_its_accuracy() -> None:
    assert set(mathlib.ULPS) == set(mathlib.UNARY) | {"sqrt", "pow", "atan2"}
