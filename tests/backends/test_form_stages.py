"""Functions among the stages of an epilogue: wherever they are applied, the bits are those of an elementwise kernel."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu import mathlib
from fusewright.backends.numba_cpu.templates.conv import conv
from fusewright.backends.numba_cpu.templates.conv_plan import plan_conv
from fusewright.backends.numba_cpu.templates.depthwise import depthwise, plan_depthwise
from fusewright.backends.numba_cpu.templates.epilogue import MAX_STAGES, Epilogue, Stage, lower
from fusewright.backends.numba_cpu.templates.matmul import matmul, plan_matmul
from fusewright.backends.numba_cpu.templates.packing import conv_layout, depthwise_layout, rhs_layout
from fusewright.backends.numba_cpu.templates.probe import run_template, words_of
from fusewright.backends.numba_cpu.templates.template import Template
from fusewright.backends.numba_cpu.templates.winograd import plan_winograd, winograd, winograd_layout
from fusewright.backends.numba_cpu.tiles.layout import STAGE_FORMS
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.twins import SCALARS
from fusewright.backends.numba_cpu.variants import DEFAULT_VARIANTS, VARIANTS
from fusewright.backends.numba_cpu.vector.forms import FORMS
from fusewright.core.dims import evaluate
from fusewright.core.dtypes import F32, F64, DType
from fusewright.runtime.cpu import missing
from fusewright.runtime.image import NativeImage

HERE = [v for v in DEFAULT_VARIANTS if not missing(v)]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, 1e-45, -1e-45, 3e-39, -3e-39, 3e38, -3e38, 1.0, -1.0, 87.9, -87.9, 104.5,
           -104.5, -150.0, 150.0, -13.5, 13.5, -0.011, 0.011]  # fmt: skip
ROWS, COLUMNS = 7, 11
EACH = "def k(args, start, stop, scratch):\n    x, z = P(args[0]), P(args[1])\n    for i in range(start, stop):\n"
SAME = ((1, 1), (1, 1))
Case = tuple[Template, dict[tuple[str, int], np.ndarray], Any]  # kernel, arrays, from the output to rows of one number


def numbers(dtype: DType) -> np.ndarray:
    x = np.random.default_rng(4).normal(0, 4, ROWS * COLUMNS).astype(dtype.np)
    x[: len(SPECIAL)] = np.array(SPECIAL, np.float64).astype(dtype.np)
    return x


def conv_case(variant: str, dtype: DType, epilogue: Epilogue, outputs: int, blocked: bool) -> Case:
    """One channel times 1: each result is a number of the image."""
    plan = plan_conv(VARIANTS[variant], dtype, (1, ROWS, COLUMNS, 1), (1, 1, 1, outputs), (1, 1), ((0, 0), (0, 0)),
                     (1, 1), 1, False, blocked)  # fmt: skip
    shape = (1, -(-outputs // 16), ROWS, COLUMNS, 16) if blocked else (1, ROWS, COLUMNS, outputs)
    weights = conv_layout((1, 1, 1, outputs), plan.layout).pack(np.ones((1, 1, 1, outputs), dtype.np))
    arrays = {("operand", 0): numbers(dtype), ("weights", 1): weights, ("output", 0): np.full(shape, 77, dtype.np)}

    def rows(out: np.ndarray) -> np.ndarray:
        return (np.moveaxis(out, 1, 3) if blocked else out).reshape(ROWS * COLUMNS, -1)[:, :outputs]

    return conv(plan, epilogue), arrays, rows


def matmul_case(variant: str, dtype: DType, epilogue: Epilogue, outputs: int) -> Case:
    count = ROWS * COLUMNS
    plan = plan_matmul(VARIANTS[variant], dtype, (count, 1), (1, outputs), False, False, True)
    ones = np.ones((1, outputs), dtype.np)
    packed = rhs_layout(ones.shape, plan.tile.columns, False).pack(ones) if plan.rhs == "packed" else ones
    arrays = {("operand", 0): numbers(dtype), ("operand", 1): ones, ("weights", 1): packed,
              ("output", 0): np.full((count, outputs), 77, dtype.np)}  # fmt: skip
    return matmul(VARIANTS[variant], dtype, plan, epilogue), arrays, lambda out: out


def depthwise_case(variant: str, dtype: DType, epilogue: Epilogue, outputs: int, blocked: bool) -> Case:
    plan = plan_depthwise(VARIANTS[variant], dtype, (1, ROWS, COLUMNS, outputs), (1, 1, 1, outputs), (1, 1),
                          ((0, 0), (0, 0)), (1, 1), blocked)  # fmt: skip
    whole = np.repeat(numbers(dtype), 16 * -(-outputs // 16) if blocked else outputs).reshape(ROWS * COLUMNS, -1)
    if blocked:
        whole = np.ascontiguousarray(np.moveaxis(whole.reshape(ROWS * COLUMNS, -1, 16), 1, 0))
    weights = depthwise_layout((1, 1, 1, outputs), plan.block).pack(np.ones((1, 1, 1, outputs), dtype.np))
    arrays = {("operand", 0): whole, ("weights", 1): weights, ("output", 0): np.full_like(whole, 77)}

    def rows(out: np.ndarray) -> np.ndarray:
        return (np.moveaxis(out, 0, 1).reshape(ROWS * COLUMNS, -1) if blocked else out)[:, :outputs]

    return depthwise(plan, epilogue), arrays, rows


def cases(variant: str, dtype: DType, name: str) -> dict[str, Case]:
    """Tiles of every kind of one to six vectors, whole and ragged ones; for most functions a few will do."""
    epilogue = Epilogue((Stage("form", text=name),))
    every = dtype is F32 and variant == "cpu-avx512" and name in ("silu", "gelu")
    made = {
        f"blocks {n}": conv_case(variant, dtype, epilogue, n, True) for n in (40, 16, 32, 64, 96)[: 5 if every else 1]
    }
    made |= {f"matmul {n}": matmul_case(variant, dtype, epilogue, n) for n in (19, 64)[: 2 if every else 1]}
    if name == "silu":
        made["plain"] = conv_case(variant, dtype, epilogue, 5, False)
        made |= {f"depthwise {b}": depthwise_case(variant, dtype, epilogue, 20, b) for b in (False, True)}
    return made


# Every function where a tile takes it in; elsewhere the loop behind the tile is the same for each.
KERNELS = [(v, d, n) for v in HERE for d in (F32, F64) for n in STAGE_FORMS
           if n == "silu" or (v == "cpu-avx512" and d is F32)]  # fmt: skip


@cache
def image(variant: str, dtype: DType) -> NativeImage:
    """Elementwise kernels and those with a stage."""
    sources = []
    for name in [n for v, d, n in KERNELS if (v, d) == (variant, dtype)]:
        text = EACH.replace("P(", f"p{dtype.name}(") + f"        put(z, i, {name}(get(x, i)))\n"
        sources.append(KernelSource(f"each_{name}", text))
        for i, (template, *_) in enumerate(cases(variant, dtype, name).values()):
            sources.append(KernelSource(f"{name}_{i}", template.text))
    built = build_image(sources, variant)
    return NativeImage(built.code, built.symbols)


def run(kernel: Any, case: Case) -> np.ndarray:
    template, arrays, rows = case
    words = np.array(words_of(template, arrays, {}), np.int64)
    scratch = np.zeros(int(evaluate(template.scratch_bytes, {})) + 64, np.uint8)
    kernel(words.ctypes.data, 0, int(evaluate(template.extent, {})), scratch.ctypes.data + -scratch.ctypes.data % 64)
    return rows(arrays["output", 0])


def bits(x: np.ndarray) -> np.ndarray:
    """Patterns; those of NaN are one."""
    return np.where(np.isnan(x), np.nan, x).view(np.uint32 if x.dtype == np.float32 else np.uint64)


@pytest.mark.parametrize("variant,dtype,name", KERNELS, ids=str)
def test_every_tile_applies_what_an_elementwise_kernel_does(variant: str, dtype: DType, name: str) -> None:
    native, x = image(variant, dtype), numbers(dtype)
    sums = x + dtype.np.type(0)  # a sum starts from +0
    want = np.empty_like(sums)
    words = np.array([sums.ctypes.data, want.ctypes.data], np.int64)
    native.kernel(f"each_{name}")(words.ctypes.data, 0, len(x), 0)
    with np.errstate(all="ignore"):
        exact = np.array([SCALARS[name](np.float64(v)) for v in sums])
        assert np.array_equal(np.isnan(want), np.isnan(exact))
        finite = np.isfinite(exact.astype(dtype.np)) & (np.abs(exact) >= np.finfo(dtype.np).tiny)
        bound = mathlib.ULPS[name][dtype is F64] * np.finfo(dtype.np).eps
        assert np.all(np.abs(want[finite] - exact[finite]) <= (bound + 1e-12) * np.abs(exact[finite]))
    for i, (label, case) in enumerate(cases(variant, dtype, name).items()):
        got = run(native.kernel(f"{name}_{i}"), case)
        assert np.array_equal(bits(got), np.repeat(bits(want)[:, None], got.shape[1], 1)), label


@pytest.mark.parametrize("name", STAGE_FORMS)
def test_the_plain_form_of_the_text_computes_it_too(name: str) -> None:
    for case in cases("cpu-avx512", F32, name).values():
        template, arrays, rows = case
        run_template(template, arrays, {}, twin=True)
        with np.errstate(all="ignore"):
            want = np.array([SCALARS[name](v + np.float32(0)) for v in numbers(F32)])
        got = rows(arrays["output", 0])
        assert np.array_equal(bits(got), np.repeat(bits(want)[:, None], got.shape[1], 1))


def test_the_stages_are_the_vector_forms() -> None:
    assert STAGE_FORMS.keys() == FORMS.keys()


SILU = Stage("form", text="silu")


def test_only_whole_registers_of_float32_take_a_function_in() -> None:
    """Elsewhere it and what follows is a loop; before it, the tile still does its part."""
    stages = Epilogue((Stage("bias"), SILU, Stage("residual")))
    inside, outside = lower(stages, 4, 16), [lower(stages, 4, 8), lower(stages, 8, 8), lower(stages, 4, 0)]
    assert inside.statements == [] and inside.aliasable == {1}
    assert [low.statements[-2:] for low in outside] == [["acc = silu(acc)", "acc = acc + ve1"]] * 3
    assert [len(low.statements) for low in outside] == [2, 2, 3]
    assert [low.aliasable for low in outside] == [frozenset()] * 3


def test_what_a_gate_needs_goes_where_the_function_goes() -> None:
    low = lower(Epilogue((Stage("bias"), Stage("keep"), SILU, Stage("gate"))), 4, 8)
    assert low.statements == ["kept = acc", "acc = silu(acc)", "acc = kept * acc"]


def test_more_stages_than_a_code_holds_are_a_loop() -> None:
    low = lower(Epilogue((SILU,) * (MAX_STAGES + 2)), 4, 16)
    assert low.statements == ["acc = silu(acc)"] * 2 and low.code < 2**63


@pytest.mark.parametrize("variant", HERE)
def test_winograd_results_go_through_a_function(variant: str) -> None:
    rng = np.random.default_rng(6)
    x, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((1, 9, 7, 16), (3, 3, 16, 32)))
    x[0, 0, 0, 0] = np.inf  # some results are computed again, tap by tap
    plan = plan_winograd(VARIANTS[variant], F32, x.shape, kernel.shape, SAME, 2)
    outs = []
    for stages in ((), (SILU,)):
        out = np.full((1, 2, 9, 7, 16), 77, np.float32)
        arrays = {("operand", 0): x.reshape(1, 1, 9, 7, 16), ("output", 0): out,
                  ("weights", 1): conv_layout(kernel.shape, plan.direct.layout).pack(kernel),
                  ("transformed", 1): winograd_layout(kernel.shape, plan).pack(kernel)}  # fmt: skip
        template = winograd(plan, Epilogue(stages), "k")
        each = EACH.replace("P(", "pf32(") + "        put(z, i, silu(get(x, i)))\n"
        built = build_image([KernelSource("k", template.text), KernelSource("each", each)], variant)
        native = NativeImage(built.code, built.symbols)
        outs.append(run(native.kernel("k"), (template, arrays, lambda y: y)))
    want = np.empty_like(outs[0])
    words = np.array([outs[0].ctypes.data, want.ctypes.data], np.int64)
    native.kernel("each")(words.ctypes.data, 0, want.size, 0)
    assert np.isnan(want).any() and np.isfinite(want).any()
    assert np.array_equal(bits(outs[1]), bits(want))
