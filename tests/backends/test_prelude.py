"""NumPy's integer, conversion and half-float rules, compiled against the unjitted lane and against NumPy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu import registry
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.twins import Memory, OutOfBounds, run_unjitted
from fusewright.core.dtypes import f32_to_bf16
from fusewright.runtime.image import NativeImage

VARIANT = "cpu-avx2"
INTS = {f"{'u' if n[0] == 'u' else ''}int{n[1:]}": n for n in ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")}
BINARY = ["floordiv", "mod", "rem", "truncdiv", "pow", "maximum", "minimum", "shift_left", "shift_right"]
FLOAT_BINARY = ["floordiv", "mod", "rem", "truncdiv", "maximum", "minimum"]
NUMPY = {
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "rem": np.fmod,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "truncdiv": lambda x, y: np.trunc(x / y),
}
FLOATS = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -0.5, 2, 3, -3, 7.5, 1e-40, -1e-40, 1e-45, 3e38, -3e38, 1e10]


def text2(fn: str, t: str) -> str:
    return f"""
def k(args, start, stop, scratch):
    x = p{t}(args[0])
    y = p{t}(args[1])
    z = p{t}(args[2])
    for i in range(start, stop):
        z[i] = {fn}(x[i], y[i])
"""


def text1(fn: str, source: str, to: str) -> str:
    return f"""
def k(args, start, stop, scratch):
    x = p{source}(args[0])
    z = p{to}(args[1])
    for i in range(start, stop):
        z[i] = {fn}(x[i])
"""


CASTS = [(a, b) for a in ("f32", "f64", "i64", "i8", "u32") for b in (*INTS.values(), "f32", "f64")]
HALVES = [("f16_f32", "u16", "f32"), ("f32_f16", "f32", "u16"), ("bf16_f32", "u16", "f32"), ("f32_bf16", "f32", "u16"),
          ("f64_f16", "f64", "u16"), ("f64_bf16", "f64", "u16")]  # fmt: skip
ROUNDS = ["floor", "ceil", "trunc", "rint", "fabs", "sign", "relu", "absolute"]


def sources() -> dict[str, str]:
    out = {f"{n}_{t}": text2(n, t) for n in BINARY for t in INTS.values()}
    out |= {f"{n}_{t}": text2(n, t) for n in FLOAT_BINARY for t in ("f32", "f64")}
    out |= {f"cast_{a}_{b}": text1(b, a, b) for a, b in CASTS}
    out |= {name: text1(name, a, b) for name, a, b in HALVES}
    out |= {f"{n}_{t}": text1(n, t, t) for n in ROUNDS for t in ("f32", "f64")}
    out |= {f"{n}_{t}": text1(n, t, t) for n in ("absolute", "sign", "relu") for t in INTS.values()}
    return out


@cache
def native() -> NativeImage:
    image = build_image([KernelSource(name, text) for name, text in sources().items()], VARIANT)
    return NativeImage(image.code, image.symbols)


def run(symbol: str, z: np.ndarray, *operands: np.ndarray) -> np.ndarray:
    """The compiled kernel, held against the unjitted lane on the way."""
    block = np.array([a.ctypes.data for a in (*operands, z)], np.int64)
    native().kernel(symbol)(block.ctypes.data, 0, len(z), 0)
    registry.load_all()
    memory, twin = Memory(), np.empty_like(z)
    words = [memory.add(a, writable=False) for a in operands] + [memory.add(twin)]
    run_unjitted(registry.TWINS, sources()[symbol], "k", words, 0, len(z), 0, memory)
    assert np.array_equal(z, twin, equal_nan=z.dtype.kind == "f"), (symbol, operands, z, twin)
    return z


def int_pairs(kind: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    info = np.iinfo(kind)
    special = [0, 1, 2, 3, 7, 8, 31, 63, info.max, info.max - 1, info.min, info.min + 1]
    special += [-1, -2, -7] if info.min < 0 else []
    x, y = (v.ravel() for v in np.meshgrid(np.array(special, dtype=object), np.array(special, dtype=object)))
    return x.astype(kind), y.astype(kind)


@pytest.mark.parametrize("name", BINARY)
def test_integer_arithmetic(name: str) -> None:
    for full, t in INTS.items():
        x, y = int_pairs(np.dtype(full))
        got = run(f"{name}_{t}", np.empty_like(x), x, y)
        if name in NUMPY and name != "truncdiv":
            with np.errstate(all="ignore"):
                assert np.array_equal(got, NUMPY[name](x, y)), (name, t)


@pytest.mark.parametrize("name", FLOAT_BINARY)
def test_float_arithmetic(name: str) -> None:
    rng = np.random.default_rng(3)
    a, b = (v.ravel() for v in np.meshgrid(FLOATS, FLOATS))
    for t, kind in (("f32", np.float32), ("f64", np.float64)):
        top = 38 if t == "f32" else 300
        x = np.concatenate([a, rng.uniform(-9, 9, 200), 10 ** rng.uniform(-top, top, 200)]).astype(kind)
        y = np.concatenate([b, rng.uniform(-3, 3, 200), 10 ** rng.uniform(-top, top, 200)]).astype(kind)
        got = run(f"{name}_{t}", np.empty_like(x), x, y)
        with np.errstate(all="ignore"):
            assert np.array_equal(got, NUMPY[name](x, y), equal_nan=True)


def test_casts() -> None:
    for a, b in CASTS:
        source = np.dtype({v: k for k, v in INTS.items()}.get(a, {"f32": "float32", "f64": "float64"}.get(a)))
        to = np.dtype({v: k for k, v in INTS.items()}.get(b, {"f32": "float32", "f64": "float64"}.get(b)))
        with np.errstate(all="ignore"):
            floats = np.array([*FLOATS, 2.0**31, -(2.0**31), 2.0**63, 2.0**64, 255.9, -128.5, 1e300]).astype(source)
        x = floats if source.kind == "f" else int_pairs(source)[0]
        got = run(f"cast_{a}_{b}", np.empty(len(x), to), x)
        inside = np.ones(len(x), bool)
        if source.kind == "f" and to.kind in "iu":
            info = np.iinfo(to)
            with np.errstate(invalid="ignore"):
                inside = (x > max(float(info.min), -(2.0**62)) - 1) & (x < min(float(info.max), 2.0**62) + 1)
        with np.errstate(all="ignore"):
            assert np.array_equal(got[inside], x[inside].astype(to), equal_nan=to.kind == "f"), (a, b)


def test_half_floats() -> None:
    every = np.arange(65536, dtype=np.uint16)
    with np.errstate(all="ignore"):
        assert np.array_equal(run("f16_f32", np.empty(512, "f4"), every[::128].copy()),
                              every[::128].view(np.float16).astype("f4"), equal_nan=True)  # fmt: skip
        wide = (np.arange(2000, dtype=np.uint32) * np.uint32(2147483)).view(np.float32)
        tie = np.array([2049.0, 2051.0, 65519.9, 65520.0, 1e-8, 2.98e-8, np.inf, np.nan], np.float32)
        x = np.concatenate([wide[~np.isnan(wide)], tie])  # the payloads of NaNs are nobody's promise
        halves = run("f32_f16", np.empty(len(x), np.uint16), x).view(np.float16)
        assert np.array_equal(halves, x.astype(np.float16), equal_nan=True)
        assert np.array_equal(run("f32_bf16", np.empty(len(x), np.uint16), x), f32_to_bf16(x))
        # A value just off a tie in double, on the tie in single: one rounding is right, two are not.
        y = np.array([2049.0 + 1e-9, 2049.0 - 1e-9, 1.0 + 2.0**-8 + 1e-12, 1e300, np.nan, -0.0])
        assert np.array_equal(
            run("f64_f16", np.empty(6, np.uint16), y).view(np.float16), y.astype(np.float16), equal_nan=True
        )
        assert run("f64_bf16", np.empty(6, np.uint16), y)[2] == 0x3F81
    assert run("bf16_f32", np.empty(1, "f4"), np.array([0x3FC0], np.uint16))[0] == 1.5


def test_rounding_sign_and_relu() -> None:
    x64 = np.array([*FLOATS, 2.5, 3.5, -2.5, 0.49999999999999994])
    with np.errstate(over="ignore"):
        both = {"f32": x64.astype(np.float32), "f64": x64}
    plain = {"fabs": np.abs, "absolute": np.abs, "relu": lambda v: np.maximum(v, 0)}
    for name in ROUNDS:
        for t, x in both.items():
            got = run(f"{name}_{t}", np.empty_like(x), x)
            assert np.array_equal(got, (plain.get(name) or getattr(np, name))(x), equal_nan=True), name
    for full, t in INTS.items():
        x = int_pairs(np.dtype(full))[0]
        for name in ("absolute", "sign", "relu"):
            with np.errstate(all="ignore"):
                assert np.array_equal(
                    run(f"{name}_{t}", np.empty_like(x), x), (plain.get(name) or getattr(np, name))(x)
                )


def test_the_unjitted_lane_catches_stray_accesses() -> None:
    registry.load_all()
    text = text1("f32", "f32", "f32")
    x, z = np.ones(8, np.float32), np.zeros(8, np.float32)
    for stop, writable, fine in ((8, True, True), (9, True, False), (8, False, False)):
        memory = Memory()
        words = [memory.add(x), memory.add(z, writable=writable)]
        if fine:
            run_unjitted(registry.TWINS, text, "k", words, 0, stop, 0, memory)
            assert z.all()
        else:
            with pytest.raises(OutOfBounds):
                run_unjitted(registry.TWINS, text, "k", words, 0, stop, 0, memory)
    assert Memory.current is None


def test_both_lanes_know_the_same_names() -> None:
    registry.load_all()
    assert set(registry.JITTED) == set(registry.TWINS)
    with pytest.raises(ValueError, match="twice"):
        registry.register("exp", lambda x: x, lambda x: x)
