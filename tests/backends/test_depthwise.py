"""Depthwise convolution templates against float64 NumPy with the running error bound."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu.templates import depthwise as depthwise_module
from fusewright.backends.numba_cpu.templates.depthwise import depthwise, plan_depthwise
from fusewright.backends.numba_cpu.templates.epilogue import NONE, Epilogue, Stage
from fusewright.backends.numba_cpu.templates.packing import depthwise_layout
from fusewright.backends.numba_cpu.templates.probe import run_template
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import evaluate, symbol
from fusewright.core.dtypes import F32, F64

AVX512, AVX2 = VARIANTS["cpu-avx512"], VARIANTS["cpu-avx2"]


def to_blocked(x: np.ndarray) -> np.ndarray:
    n, *spatial, c = x.shape
    padded = np.full((n, *spatial, -(-c // 16) * 16), np.nan, x.dtype)
    padded[..., :c] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, *spatial, -1, 16), -2, 1))


def from_blocked(x: np.ndarray, channels: int) -> np.ndarray:
    moved = np.moveaxis(x, 1, -2)
    return np.ascontiguousarray(moved.reshape(*moved.shape[:-2], -1)[..., :channels])


def reference(x: np.ndarray, w: np.ndarray, strides: Any, pads: Any, dilations: Any) -> np.ndarray:
    rank = x.ndim - 2
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    out = [(padded.shape[1 + i] - (w.shape[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    total = np.zeros((x.shape[0], *out, x.shape[-1]), x.dtype)
    for tap in product(*(range(t) for t in w.shape[:rank])):
        at = [slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in zip(tap, dilations, out, strides, strict=True)]
        seen = padded[(slice(None), *at)]
        group = w.shape[-2]
        members = np.arange(x.shape[-1]) // group * group
        for i in range(group):
            total += seen[..., members + i] * w[tap][i]
    return total


def run(
    x: np.ndarray, w: np.ndarray, strides: Any, pads: Any, dilations: Any, blocked: bool, variant: Any = AVX512,
    symbolic: bool = False, epilogue: Epilogue = NONE, extras: tuple[np.ndarray, ...] = (), twin: bool = False,
    chunks: int = 3,
) -> np.ndarray:  # fmt: skip
    env: dict[str, int] = {}
    shape: list[Any] = list(x.shape)
    if symbolic:
        for i, name in enumerate("NXYZ"[: x.ndim - 1]):
            env[name], shape[i] = shape[i], symbol(name)
    dtype = F32 if x.dtype == np.float32 else F64
    plan = plan_depthwise(variant, dtype, shape, w.shape, strides, pads, dilations, blocked)
    template = depthwise(plan, epilogue)
    spatial = tuple(evaluate(d, env) for d in plan.out_spatial)
    c = x.shape[-1]
    out = np.full((x.shape[0], -(-c // 16), *spatial, 16) if blocked else (x.shape[0], *spatial, c), 77, x.dtype)
    layout = depthwise_layout(w.shape, plan.block)
    packed = layout.pack(w)
    assert np.array_equal(layout.unpack(packed), w)
    arrays = {("operand", 0): to_blocked(x) if blocked else x, ("weights", 1): packed, ("output", 0): out}
    for i, (how, value) in enumerate(zip(epilogue.extras, extras, strict=True)):
        if blocked:
            value = np.pad(value, (0, -len(value) % 16)) if how == "channel" else to_blocked(value)
        arrays["extra", i] = value
    run_template(template, arrays, env, chunks, twin)
    return from_blocked(out, c) if blocked else out


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


CASES = [
    # spatial, c, taps, strides, pads, dilations
    ((9, 14), 16, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    ((8, 30), 40, (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1)),
    ((7, 7), 33, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)),
    ((3, 2), 5, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)),
    ((9, 13), 17, (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)),
    ((4, 20), 3, (1, 11), (1, 1), ((0, 0), (5, 5)), (1, 1)),
    ((6, 6), 100, (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((21,), 20, (3,), (1,), ((2, 0),), (1,)),
    ((4, 5, 6), 19, (3, 2, 3), (1, 2, 1), ((1, 1), (0, 1), (1, 1)), (1, 1, 1)),
    ((4, 5, 6), 19, (1, 2, 3), (1, 2, 1), ((0, 0), (0, 1), (1, 1)), (1, 1, 1)),  # planes apart from each other
]  # fmt: skip


@pytest.mark.parametrize("variant", [AVX512, AVX2], ids=lambda v: v.name)
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_against_the_reference(case: int, blocked: bool, variant: Any) -> None:
    spatial, c, taps, *attrs = CASES[case]
    if blocked and len(spatial) == 3:
        blocked = False
        c = 70
    rng = np.random.default_rng(case)
    x, w = draw(rng, 2, *spatial, c), draw(rng, *taps, 1, c)
    n = int(np.prod(taps)) + 1
    want = reference(x.astype(np.float64), w.astype(np.float64), *attrs)
    bound = n * 6e-8 * reference(np.abs(x.astype(np.float64)), np.abs(w.astype(np.float64)), *attrs)
    fixed = run(x, w, *attrs, blocked, variant)
    assert fixed.shape == want.shape
    assert np.all(np.abs(fixed - want) <= bound + 1e-38)
    if variant is AVX512:
        assert np.array_equal(run(x, w, *attrs, blocked, variant, symbolic=True), fixed)


GROUPED = [
    # spatial, channels, of a group, taps, strides, pads, dilations
    ((9, 14), 32, 2, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    ((8, 30), 72, 4, (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1)),
    ((7, 19), 24, 8, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)),
    ((3, 20), 8, 4, (1, 11), (1, 1), ((0, 0), (5, 5)), (1, 1)),
    ((4, 5, 6), 20, 4, (3, 2, 3), (1, 2, 1), ((1, 1), (0, 1), (1, 1)), (1, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("variant", [AVX512, AVX2], ids=lambda v: v.name)
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("case", range(len(GROUPED)))
def test_small_groups(case: int, blocked: bool, variant: Any) -> None:
    spatial, c, group, taps, *attrs = GROUPED[case]
    blocked = blocked and len(spatial) < 3
    rng = np.random.default_rng(case)
    x, w = draw(rng, 2, *spatial, c), draw(rng, *taps, group, c)
    n = int(np.prod(taps)) * group + 1
    want = reference(x.astype(np.float64), w.astype(np.float64), *attrs)
    bound = n * 6e-8 * reference(np.abs(x.astype(np.float64)), np.abs(w.astype(np.float64)), *attrs)
    fixed = run(x, w, *attrs, blocked, variant)
    assert np.all(np.abs(fixed - want) <= bound + 1e-38)
    if variant is AVX512:
        assert np.array_equal(run(x, w, *attrs, blocked, variant, symbolic=True), fixed)
        assert np.allclose(run(x, w, *attrs, blocked, variant, twin=True), want, rtol=1e-5, atol=1e-5)


FEW_ROWS = [
    # spatial, channels, taps, strides, pads, dilations
    ((900,), 40, (5,), (1,), ((4, 0),), (1,)),  # blocked, as the next
    ((2000,), 20, (7,), (2,), ((3, 3),), (1,)),
    ((1300,), 33, (3,), (1,), ((32, 0),), (16,)),
    ((2, 3, 300), 24, (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1)), (1, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(FEW_ROWS)))
def test_few_rows_are_cut_and_no_cut_shows(case: int) -> None:
    spatial, c, taps, *attrs = FEW_ROWS[case]
    blocked = case < 2
    rng = np.random.default_rng(case)
    x, w = draw(rng, 1, *spatial, c), draw(rng, *taps, 1, c)
    n = int(np.prod(taps)) + 1
    want = reference(x.astype(np.float64), w.astype(np.float64), *attrs)
    bound = n * 6e-8 * reference(np.abs(x.astype(np.float64)), np.abs(w.astype(np.float64)), *attrs)
    whole = run(x, w, *attrs, blocked, chunks=1)
    assert np.all(np.abs(whole - want) <= bound + 1e-38)
    for chunks in (2, 7, 1000):
        assert np.array_equal(run(x, w, *attrs, blocked, chunks=chunks), whole)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("free", [False, True])
def test_threads_share_the_rows_of_one_sequence(free: bool, blocked: bool) -> None:
    def units(length: int, batch: Any = 1) -> tuple[Any, int]:
        shape = (batch, symbol("T") if free and batch == 1 else length, 16)
        made = depthwise(plan_depthwise(AVX512, F32, shape, (9, 1, 16), (1,), ((4, 4),), (1,), blocked))
        return evaluate(made.extent, {"T": length, "N": 64}), made.grain

    extent, grain = units(4096)
    assert extent >= 4 * grain
    assert units(4096, 64)[0] == 64  # rows enough
    if not free:
        assert units(128)[0] == 1  # nothing to hand out


EPILOGUE = Epilogue((Stage("scale"), Stage("bias"), Stage("residual"), Stage("relu6")))
LOOPED = Epilogue((Stage("bias"), Stage("expr", text="acc * x0", operands=("same",)), Stage("relu")))


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("twin", [False, True])
def test_epilogues(blocked: bool, twin: bool) -> None:
    rng = np.random.default_rng(0)
    x, w, attrs = draw(rng, 1, 6, 9, 21), draw(rng, 3, 3, 1, 21), ((1, 1), ((1, 1), (1, 1)), (1, 1))
    acc = reference(x.astype(np.float64), w.astype(np.float64), *attrs)
    scale, bias, same = draw(rng, 21), draw(rng, 21), draw(rng, *acc.shape)
    got = run(x, w, *attrs, blocked, epilogue=EPILOGUE, extras=(scale, bias, same), twin=twin)
    assert np.allclose(got, np.clip(acc * scale + bias + same, 0, 6), rtol=1e-5, atol=1e-5)
    got = run(x, w, *attrs, blocked, epilogue=LOOPED, extras=(bias, same), twin=twin)
    assert np.allclose(got, np.maximum((acc + bias) * same, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [AVX512, AVX2], ids=lambda v: v.name)
def test_lines_that_are_fetched_ahead_change_nothing(variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tensors only; at the ends rows are asked for that do not exist."""
    rng = np.random.default_rng(3)
    x, w, attrs = draw(rng, 2, 9, 14, 33), draw(rng, 3, 3, 1, 33), ((1, 1), ((1, 1), (1, 1)), (1, 1))
    plan = plan_depthwise(variant, F32, x.shape, w.shape, *attrs, True)
    plain = run(x, w, *attrs, True, variant)
    text = depthwise(plan).text
    monkeypatch.setattr(depthwise_module, "CACHED", 1 << 10)
    assert depthwise(plan).text != text
    assert np.array_equal(run(x, w, *attrs, True, variant), plain)
    assert np.allclose(run(x, w, *attrs, True, variant, twin=True), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("group", [1, 4])
def test_float64(group: int) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 5, 6, 16)), rng.standard_normal((3, 3, group, 16))
    attrs = ((1, 1), ((1, 1), (1, 1)), (1, 1))
    for variant, blocked in product((AVX512, AVX2), (False, True)):
        got = run(x, w, *attrs, blocked, variant)
        assert np.allclose(got, reference(x, w, *attrs), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kernel", [(1, 16), (2, 16), (3, 24), (16, 32), (24, 24)])
def test_other_kernels_are_refused(kernel: tuple[int, int]) -> None:
    """Another multiplier, groups of three, groups wider than a vector of AVX2, one group."""
    channels = {(1, 16): 8, (2, 16): 8}.get(kernel, kernel[1])
    with pytest.raises(ValueError, match="depthwise"):
        plan_depthwise(AVX512, F32, (1, 4, 4, channels), (3, 3, *kernel), (1, 1), ((0, 0), (0, 0)), (1, 1), True)
