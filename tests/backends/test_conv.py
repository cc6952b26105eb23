"""Convolution templates against float64 NumPy with the running error bound: layouts, borders, symbolic sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu.templates.conv import conv
from fusewright.backends.numba_cpu.templates.conv_any import conv_any
from fusewright.backends.numba_cpu.templates.conv_plan import plan_conv
from fusewright.backends.numba_cpu.templates.epilogue import NONE, Epilogue, Stage
from fusewright.backends.numba_cpu.templates.packing import ConvLayout, conv_layout
from fusewright.backends.numba_cpu.templates.probe import run_template
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import evaluate, symbol
from fusewright.core.dtypes import F32, F64, I32, U8, DType

AVX512, AVX2 = VARIANTS["cpu-avx512"], VARIANTS["cpu-avx2"]


def to_blocked(x: np.ndarray) -> np.ndarray:
    """NHWC -> [N, C/16, spatial, 16]; the lanes past C hold NaN, which no kernel may let through."""
    n, *spatial, c = x.shape
    padded = np.full((n, *spatial, -(-c // 16) * 16), np.nan, x.dtype)
    padded[..., :c] = x
    split = padded.reshape(n, *spatial, -1, 16)
    return np.ascontiguousarray(np.moveaxis(split, -2, 1))


def from_blocked(x: np.ndarray, channels: int) -> np.ndarray:
    moved = np.moveaxis(x, 1, -2)
    return moved.reshape(*moved.shape[:-2], -1)[..., :channels]


def reference(
    x: np.ndarray, w: np.ndarray, strides: Sequence[int], pads: Any, dilations: Sequence[int], groups: int
) -> np.ndarray:
    rank = x.ndim - 2
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    taps = w.shape[:rank]
    out = [(padded.shape[1 + i] - (taps[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    c, k = w.shape[-2], w.shape[-1] // groups
    total = np.zeros((x.shape[0], *out, w.shape[-1]), x.dtype)
    for tap in product(*(range(t) for t in taps)):
        starts = [tap[i] * dilations[i] for i in range(rank)]
        at = tuple(slice(s, s + (out[i] - 1) * strides[i] + 1, strides[i]) for i, s in enumerate(starts))
        window = padded[(slice(None), *at)]
        for g in range(groups):
            total[..., g * k : (g + 1) * k] += window[..., g * c : (g + 1) * c] @ w[tap][:, g * k : (g + 1) * k]
    return total


def reference_transposed(
    x: np.ndarray, w: np.ndarray, strides: Sequence[int], pads: Any, dilations: Sequence[int], groups: int, extra: Any
) -> np.ndarray:
    rank = x.ndim - 2
    taps, k, c = w.shape[:rank], w.shape[-2], w.shape[-1] // groups
    full = [(x.shape[1 + i] - 1) * strides[i] + (taps[i] - 1) * dilations[i] + 1 + extra[i] for i in range(rank)]
    total = np.zeros((x.shape[0], *full, k * groups), x.dtype)
    for tap in product(*(range(t) for t in taps)):
        starts = [tap[i] * dilations[i] for i in range(rank)]
        at = (slice(None), *(
            slice(s, s + (x.shape[1 + i] - 1) * strides[i] + 1, strides[i]) for i, s in enumerate(starts)
        ))  # fmt: skip
        for g in range(groups):
            part = x[..., g * c : (g + 1) * c] @ w[tap][:, g * c : (g + 1) * c].T
            total[(*at, slice(g * k, (g + 1) * k))] += part
    return total[(slice(None), *(slice(lo, full[i] - hi) for i, (lo, hi) in enumerate(pads)))]


def run_conv(
    x: np.ndarray,
    w: np.ndarray,
    strides: Any = (1, 1),
    pads: Any = ((0, 0), (0, 0)),
    dilations: Any = (1, 1),
    groups: int = 1,
    blocked: tuple[bool, bool] = (False, False),
    variant: Any = AVX512,
    dtype: DType = F32,
    transposed: bool = False,
    extra: Any = None,
    symbolic: bool = False,
    symbolic_pads: bool = False,
    epilogue: Epilogue = NONE,
    extras: tuple[np.ndarray, ...] = (),
    chunks: int = 1,
    twin: bool = False,
    reuse: bool = False,
) -> np.ndarray:
    """The convolution; extras are logical (channels-last). With ``reuse`` the first aliasable extra is the output."""
    rank = x.ndim - 2
    env: dict[str, int] = {}
    shape: list[Any] = list(x.shape)
    if symbolic:
        for i, name in enumerate("NXYZ"[: rank + 1]):
            env[name], shape[i] = shape[i], symbol(name)
    plan_pads = pads
    if symbolic_pads:
        env |= {f"p{i}": lo for i, (lo, _) in enumerate(pads)} | {f"q{i}": hi for i, (_, hi) in enumerate(pads)}
        plan_pads = tuple((symbol(f"p{i}"), symbol(f"q{i}")) for i in range(rank))
    plan = plan_conv(
        variant, dtype, shape, w.shape, strides, plan_pads, dilations, groups, *blocked, transposed, extra
    )  # fmt: skip
    template = conv(plan, epilogue)
    spatial = tuple(evaluate(d, env) for d in plan.out_spatial)
    outputs = plan.outputs
    logical = (x.shape[0], *spatial, outputs)
    out = np.full((logical[0], -(-outputs // 16), *spatial, 16) if blocked[1] else logical, 77, x.dtype)
    arrays = {
        ("operand", 0): to_blocked(x) if blocked[0] else x,
        ("weights", 1): conv_layout(w.shape, plan.layout).pack(w),
        ("output", 0): out,
    }
    assert np.array_equal(conv_layout(w.shape, plan.layout).unpack(arrays["weights", 1]), w)
    for i, (how, value) in enumerate(zip(epilogue.extras, extras, strict=True)):
        if blocked[1] and how == "channel":
            value = np.pad(value, (0, -len(value) % 16))
        elif blocked[1] and how == "same":
            value = to_blocked(value)
        arrays["extra", i] = value.copy()
    if reuse:
        arrays["output", 0] = out = arrays["extra", min(template.aliasable)]
    run_template(template, arrays, env, chunks, twin)
    return np.ascontiguousarray(from_blocked(out, outputs)) if blocked[1] else out


def draw(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def check(got: np.ndarray, x: np.ndarray, w: np.ndarray, fn: Any, *attrs: Any) -> None:
    """|got - want| <= gamma_{k+1} * conv(|x|, |w|), k the number of products of one element."""
    n = int(np.prod(w.shape)) // min(w.shape[-2:]) + 1
    unit = float(np.finfo(got.dtype).eps) / 2
    wide = np.float64 if got.dtype == np.float32 else np.longdouble
    want = fn(x.astype(wide), w.astype(wide), *attrs)
    bound = n * unit / (1 - n * unit) * fn(np.abs(x.astype(wide)), np.abs(w.astype(wide)), *attrs)
    assert got.shape == want.shape
    assert np.all(np.abs(got - want) <= bound + np.finfo(got.dtype).tiny)


BLOCKED = [
    # h, w, c, k, taps, stride, pads, dilation, groups
    (9, 11, 16, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (7, 7, 32, 48, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (8, 28, 24, 40, (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), 1),
    (6, 9, 20, 16, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (7, 9, 16, 80, (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    (12, 13, 16, 32, (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    (9, 10, 16, 32, (1, 7), (1, 1), ((0, 0), (3, 3)), (1, 1), 1),
    (9, 10, 32, 64, (5, 5), (1, 2), ((2, 2), (2, 1)), (1, 1), 2),
    (3, 2, 16, 16, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    (1, 1, 16, 112, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (4, 5, 300, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (20, 20, 17, 33, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
]  # fmt: skip


@pytest.mark.parametrize("variant", [AVX512, AVX2], ids=lambda v: v.name)
@pytest.mark.parametrize("case", range(len(BLOCKED)))
def test_blocked(variant: Any, case: int) -> None:
    h, w, c, k, taps, strides, pads, dilations, groups = BLOCKED[case]
    rng = np.random.default_rng(case)
    x, kernel = draw(rng, 2, h, w, c), draw(rng, *taps, c // groups, k)
    attrs = (strides, pads, dilations, groups)
    fixed = run_conv(x, kernel, *attrs, blocked=(True, True), variant=variant, chunks=3)
    check(fixed, x, kernel, reference, *attrs)
    if variant is AVX512:
        free = run_conv(x, kernel, *attrs, blocked=(True, True), symbolic=True)
        assert np.array_equal(fixed, free)


@pytest.mark.parametrize("case", [0, 2, 5, 7])
def test_mixed_layouts_and_symbolic_pads(case: int) -> None:
    h, w, c, k, taps, strides, pads, dilations, groups = BLOCKED[case]
    rng = np.random.default_rng(case)
    x, kernel = draw(rng, 2, h, w, c), draw(rng, *taps, c // groups, k)
    attrs = (strides, pads, dilations, groups)
    for blocked in ((False, True), (True, False), (False, False)):
        check(run_conv(x, kernel, *attrs, blocked=blocked), x, kernel, reference, *attrs)
    got = run_conv(x, kernel, *attrs, blocked=(True, True), symbolic=True, symbolic_pads=True)
    check(got, x, kernel, reference, *attrs)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("symbolic", [False, True])
def test_first_layer(channels: int, symbolic: bool) -> None:
    rng = np.random.default_rng(channels)
    x, kernel = draw(rng, 1, 19, 30, channels), draw(rng, 7, 7, channels, 64)
    attrs = ((2, 2), ((3, 3), (3, 3)), (1, 1), 1)
    for outputs in (64, 24):
        part = np.ascontiguousarray(kernel[..., :outputs])
        got = run_conv(x, part, *attrs, blocked=(False, True), symbolic=symbolic)
        check(got, x, part, reference, *attrs)


GENERAL = [
    # spatial, c, k, taps, strides, pads, dilations, groups
    ((9,), 5, 7, (3,), (1,), ((1, 1),), (1,), 1),
    ((17,), 6, 21, (4,), (2,), ((3, 0),), (2,), 3),
    ((6, 7), 3, 5, (2, 3), (2, 1), ((0, 1), (1, 1)), (1, 2), 1),
    ((8, 9), 12, 30, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 6),
    ((5, 6), 4, 4, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    ((4, 5, 6), 3, 20, (3, 2, 3), (1, 2, 1), ((1, 1), (0, 1), (1, 1)), (1, 1, 2), 1),
    ((3, 4, 5), 8, 6, (2, 2, 2), (2, 1, 1), ((1, 0), (0, 0), (1, 1)), (1, 2, 1), 2),
    ((3, 3, 3), 2, 3, (1, 1, 1), (1, 1, 1), ((0, 0),) * 3, (1, 1, 1), 1),
    ((3, 4, 5), 3, 20, (1, 3, 2), (1, 1, 1), ((0, 0), (1, 1), (0, 1)), (1, 1, 1), 1),  # planes apart from each other
    ((4, 3, 5), 3, 20, (2, 1, 1), (1, 1, 1), ((0, 1), (0, 0), (0, 0)), (1, 1, 1), 1),
]  # fmt: skip


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("case", range(len(GENERAL)))
def test_general(case: int, symbolic: bool) -> None:
    spatial, c, k, taps, *attrs = GENERAL[case]
    rng = np.random.default_rng(case)
    x, kernel = draw(rng, 2, *spatial, c), draw(rng, *taps, c // attrs[-1], k)
    variant = AVX2 if case % 3 == 0 else AVX512
    got = run_conv(x, kernel, *attrs, symbolic=symbolic, variant=variant, chunks=2)
    check(got, x, kernel, reference, *attrs)


TRANSPOSED = [
    # spatial, c, k/groups, taps, strides, crops, dilations, groups, output padding
    ((5,), 4, 7, (3,), (2,), ((0, 1),), (1,), 1, (0,)),
    ((6,), 6, 5, (4,), (3,), ((1, 1),), (2,), 2, (1,)),
    ((4, 5), 3, 20, (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), 1, (0, 0)),
    ((4, 5), 5, 3, (2, 4), (3, 2), ((0, 0), (1, 2)), (1, 1), 1, (1, 1)),
    ((3, 4), 4, 6, (3, 3), (1, 1), ((1, 1), (2, 2)), (1, 2), 1, (0, 0)),
    ((3, 4), 4, 6, (3, 2), (2, 4), ((0, 0), (0, 0)), (2, 2), 2, (0, 0)),
    ((3, 2, 4), 3, 4, (2, 3, 3), (2, 1, 2), ((0, 1), (1, 1), (0, 1)), (1, 1, 1), 1, (0, 0, 0)),
    ((1, 1), 2, 3, (1, 1), (3, 3), ((0, 0), (0, 0)), (1, 1), 1, (0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("case", range(len(TRANSPOSED)))
def test_transposed(case: int, symbolic: bool) -> None:
    spatial, c, k, taps, *attrs, extra = TRANSPOSED[case]
    rng = np.random.default_rng(case)
    x, kernel = draw(rng, 2, *spatial, c), draw(rng, *taps, k, c)
    got = run_conv(x, kernel, *attrs, transposed=True, extra=extra, symbolic=symbolic, chunks=2)
    check(got, x, kernel, reference_transposed, *attrs, extra)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("channels", [32, 400])
def test_transposed_blocked(channels: int, symbolic: bool) -> None:
    rng = np.random.default_rng(0)
    x, kernel = draw(rng, 2, 4, 5, channels), draw(rng, 4, 4, 48, channels)
    attrs = ((2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    got = run_conv(x, kernel, *attrs, transposed=True, blocked=(True, True), symbolic=symbolic, chunks=2)
    check(got, x, kernel, reference_transposed, *attrs, (0, 0))


def run_any(
    x: np.ndarray, w: np.ndarray, dtype: DType, *attrs: Any, transposed: bool = False, extra: Any = None
) -> Any:
    rank = x.ndim - 2
    env = dict(zip("NXYZC", x.shape, strict=False)) | {"C": x.shape[-1]}
    shape = [*(symbol(s) for s in "NXYZ"[: rank + 1]), symbol("C") if attrs[3] == 1 else x.shape[-1]]
    template = conv_any(dtype, shape, w.shape, *attrs, transposed=transposed, output_padding=extra)
    fn, more = (reference_transposed, (extra,)) if transposed else (reference, ())
    want = fn(x, w, *attrs, *more)
    out = np.zeros(want.shape, x.dtype)
    run_template(template, {("operand", 0): x, ("operand", 1): w, ("output", 0): out}, env, 2)
    return out, want


@pytest.mark.parametrize("dtype", [F32, F64, I32, U8], ids=str)
def test_plain_loops(dtype: DType) -> None:
    rng = np.random.default_rng(11)
    for case in (1, 3, 6):
        spatial, c, k, taps, *attrs = GENERAL[case]
        x = rng.integers(0, 9, (2, *spatial, c)).astype(dtype.np)
        w = rng.integers(0, 9, (*taps, c // attrs[-1], k)).astype(dtype.np)
        got, want = run_any(x, w, dtype, *attrs)
        assert np.array_equal(got, want)
    for case in (1, 3, 5, 6):
        spatial, c, k, taps, *attrs, extra = TRANSPOSED[case]
        x = rng.integers(0, 9, (2, *spatial, c)).astype(dtype.np)
        w = rng.integers(0, 9, (*taps, k, c)).astype(dtype.np)
        got, want = run_any(x, w, dtype, *attrs, transposed=True, extra=extra)
        assert np.array_equal(got, want)


def test_float64() -> None:
    rng = np.random.default_rng(1)
    x, kernel = draw(rng, 1, 6, 7, 16, dtype=np.float64), draw(rng, 3, 3, 16, 32, dtype=np.float64)
    attrs = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    for variant, blocked in product((AVX512, AVX2), ((True, True), (False, False))):
        got = run_conv(x, kernel, *attrs, dtype=F64, variant=variant, blocked=blocked)
        check(got, x, kernel, reference, *attrs)


def test_images_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(2)
    x, kernel = draw(rng, 5, 6, 7, 40), draw(rng, 3, 3, 40, 48)
    attrs = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    whole = run_conv(x, kernel, *attrs, blocked=(True, True), symbolic=True)
    for i in range(5):
        one = run_conv(
            np.ascontiguousarray(x[i : i + 1]), kernel, *attrs, blocked=(True, True), symbolic=True, chunks=4
        )
        assert np.array_equal(one[0], whole[i])


LINES = [
    # spatial, c, k, taps, strides, pads, dilations, groups
    ((150,), 20, 48, (3,), (1,), ((1, 1),), (1,), 1),
    ((150,), 20, 48, (3,), (1,), ((32, 0),), (16,), 1),  # causal, many tiles at the border
    ((61,), 16, 33, (5,), (2,), ((20, 13),), (12,), 1),
    ((20,), 16, 16, (3,), (1,), ((40, 40),), (40,), 1),  # every pixel has one tap at most
    ((2, 75), 16, 16, (2, 3), (1, 1), ((1, 0), (1, 1)), (1, 1), 1),
    ((90,), 640, 64, (3,), (1,), ((1, 1),), (1,), 1),  # in passes over a part of the weights
]  # fmt: skip


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("case", range(len(LINES)))
def test_few_lines_are_cut_and_no_cut_shows(case: int, blocked: bool, symbolic: bool) -> None:
    spatial, c, k, taps, *attrs = LINES[case]
    rng = np.random.default_rng(case)
    x, kernel = draw(rng, 1, *spatial, c), draw(rng, *taps, c, k)
    how: dict[str, Any] = {"blocked": (blocked, blocked), "symbolic": symbolic}
    whole = run_conv(x, kernel, *attrs, **how)
    check(whole, x, kernel, reference, *attrs)
    for chunks in (2, 7, 1000):
        assert np.array_equal(run_conv(x, kernel, *attrs, **how, chunks=chunks), whole)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("stride,taps", [(2, 7), (3, 2)])
def test_few_lines_of_a_transposed_convolution_are_cut(stride: int, taps: int, blocked: bool) -> None:
    rng = np.random.default_rng(5)
    x, kernel = draw(rng, 1, 70, 32), draw(rng, taps, 16, 32)
    attrs = ((stride,), ((1, 0),), (1,), 1)
    for symbolic in (False, True):
        how: dict[str, Any] = {"transposed": True, "extra": (0,), "blocked": (blocked, blocked), "symbolic": symbolic}
        whole = run_conv(x, kernel, *attrs, **how)
        check(whole, x, kernel, reference_transposed, *attrs, (0,))
        assert np.array_equal(run_conv(x, kernel, *attrs, **how, chunks=1000), whole)


def extent_of(shape: Sequence[Any], taps: Sequence[int], pads: Any, blocked: bool = True) -> Any:
    """Units of a convolution of 32 channels into as many."""
    ones = (1,) * len(taps)
    return conv(plan_conv(AVX512, F32, (*shape, 32), (*taps, 32, 32), ones, pads, ones, 1, blocked, blocked)).extent


def test_units_of_few_and_of_enough_lines() -> None:
    assert evaluate(extent_of((1, 256), (3,), ((1, 1),)), {}) >= 16
    assert evaluate(extent_of((symbol("N"), 256), (3,), ((1, 1),)), {"N": 1}) >= 16
    assert evaluate(extent_of((1, symbol("T")), (3,), ((1, 1),)), {"T": 256}) >= 16
    assert evaluate(extent_of((1, 3, 256), (3, 3), ((1, 1), (1, 1))), {}) >= 16
    assert evaluate(extent_of((1, 64, 256), (3, 3), ((1, 1), (1, 1))), {}) == 64


EPILOGUES = [
    Epilogue((Stage("bias"), Stage("relu"))),
    Epilogue((Stage("scale"), Stage("bias"), Stage("residual"), Stage("relu6"))),
    Epilogue((Stage("bias"), Stage("clip", low=-0.5, high=2.0))),
    Epilogue((Stage("bias"), Stage("expr", text="acc * x0 + x1 * x2", operands=("same", "scalar", "channel")))),
    Epilogue((Stage("bias"), Stage("keep"), Stage("affine", 0.25, 0.5), Stage("clip", 0.0, 1.0), Stage("gate"))),
    Epilogue((Stage("bias"), Stage("residual"), Stage("slope"))),
    Epilogue((Stage("bias"), Stage("expr", text="acc * x0 + x1", operands=("same", "scalar")), Stage("relu"))),
]


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("which", range(len(EPILOGUES)))
@pytest.mark.parametrize("blocked,c,k", [((True, True), 16, 40), ((False, False), 5, 19), ((True, True), 600, 16)])
def test_epilogues(which: int, blocked: tuple[bool, bool], c: int, k: int, twin: bool) -> None:
    if twin:
        c = min(c, 20)
    rng = np.random.default_rng(which)
    epilogue = EPILOGUES[which]
    x, kernel = draw(rng, 1, 4, 5, c), draw(rng, 3, 3, c, k)
    attrs = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    acc = reference(x.astype(np.float64), kernel.astype(np.float64), *attrs)
    sizes = {"channel": (k,), "same": acc.shape, "scalar": (1,)}
    extras = tuple(draw(rng, *sizes[how]) for how in epilogue.extras)
    if which == 0:
        want = np.maximum(acc + extras[0], 0)
    elif which == 1:
        want = np.clip(acc * extras[0] + extras[1] + extras[2], 0, 6)
    elif which == 2:
        want = np.clip(acc + extras[0], -0.5, 2.0)
    elif which == 3:
        want = (acc + extras[0]) * extras[1] + extras[2] * extras[3]
    elif which == 4:
        want = (acc + extras[0]) * np.clip((acc + extras[0]) * 0.25 + 0.5, 0, 1)
    elif which == 5:
        total = acc + extras[0] + extras[1]
        want = np.where(total < 0, total * extras[2], total)
    else:
        want = np.maximum((acc + extras[0]) * extras[1] + extras[2], 0)
    for symbolic in (False, True):
        got = run_conv(
            x, kernel, *attrs, blocked=blocked, epilogue=epilogue, extras=extras, symbolic=symbolic, twin=twin
        )  # fmt: skip
        assert np.allclose(got, want, rtol=1e-4, atol=1e-4 * np.sqrt(c))
        if which == 1 and not twin:
            again = run_conv(
                x, kernel, *attrs, blocked=blocked, epilogue=epilogue, extras=extras, symbolic=symbolic, reuse=True
            )  # fmt: skip
            assert np.array_equal(again, got)


def test_special_values_propagate() -> None:
    rng = np.random.default_rng(3)
    x, kernel = draw(rng, 1, 5, 6, 16), draw(rng, 3, 3, 16, 16)
    x[0, 2, 2, 3], x[0, 4, 5, 0] = np.nan, np.inf
    attrs = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    got = run_conv(x, kernel, *attrs, blocked=(True, True))
    with np.errstate(all="ignore"):
        want = reference(x, kernel, *attrs)
    assert np.array_equal(np.isnan(got), np.isnan(want)) and np.array_equal(np.isposinf(got), np.isposinf(want))


@pytest.mark.parametrize("layout", [
    ConvLayout((3, 3), 20, 33, 1, 48), ConvLayout((3, 2), 20, 33, 1, 16, 16), ConvLayout((5,), 4, 6, 3, 16),
    ConvLayout((2, 2, 2), 3, 5, 2, 16, 0, True), ConvLayout((1, 1), 32, 16, 2, 16, 16, True),
])  # fmt: skip
def test_packing_inverts_exactly(layout: ConvLayout) -> None:
    c, k, g = layout.channels, layout.outputs, layout.groups
    shape = (*layout.spatial, k, g * c) if layout.flip else (*layout.spatial, c, g * k)
    w = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    packed = conv_layout(w.shape, layout).pack(w)
    assert packed.shape == layout.shape and packed.size == layout.elements
    assert np.array_equal(conv_layout(w.shape, layout).unpack(packed), w)
