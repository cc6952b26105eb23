"""Matrix product templates against float64 NumPy with the running error bound, over shapes, tails and broadcasting."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu.templates.epilogue import NONE, Epilogue, Stage
from fusewright.backends.numba_cpu.templates.matmul import matmul, matmul_scalar, pack_rhs_kernel, plan_matmul
from fusewright.backends.numba_cpu.templates.packing import rhs_layout
from fusewright.backends.numba_cpu.templates.probe import run_template
from fusewright.backends.numba_cpu.tiles.layout import SIGNATURE
from fusewright.backends.numba_cpu.tiles.probe import aligned
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import Extent, evaluate, symbol
from fusewright.core.dtypes import F32, F64, I32, DType

AVX512, AVX2 = VARIANTS["cpu-avx512"], VARIANTS["cpu-avx2"]


def product(
    a: np.ndarray,
    b: np.ndarray,
    dtype: DType = F32,
    variant: Any = AVX512,
    transpose_a: bool = False,
    transpose_b: bool = False,
    constant_b: bool = True,
    symbols: dict[str, int] | None = None,
    a_shape: tuple[Extent, ...] | None = None,
    b_shape: tuple[Extent, ...] | None = None,
    epilogue: Epilogue = NONE,
    extras: tuple[np.ndarray, ...] = (),
    chunks: int = 1,
    twin: bool = False,
    out_at: np.ndarray | None = None,
) -> np.ndarray:
    env = symbols or {}
    plan = plan_matmul(variant, dtype, a_shape or a.shape, b_shape or b.shape, transpose_a, transpose_b, constant_b)
    a2 = np.swapaxes(a, -1, -2) if transpose_a else a
    b2 = np.swapaxes(b, -1, -2) if transpose_b else b
    shape = (*np.broadcast_shapes(a2.shape[:-2], b2.shape[:-2]), a2.shape[-2], b2.shape[-1])
    out = np.full(shape, 77, a.dtype) if out_at is None else out_at
    arrays = {("operand", 0): a, ("operand", 1): b, ("output", 0): out}
    if plan.rhs == "packed":
        if constant_b:
            packed = rhs_layout(b.shape, plan.tile.columns, transpose_b).pack(b)
        else:
            packed = aligned(evaluate(plan.packed_elements, env) * dtype.size).view(dtype.np)
            packed[:] = np.nan
            run_template(pack_rhs_kernel(dtype, plan), {("operand", 1): b, ("output", 0): packed}, env, chunks, twin)
        arrays["weights", 1] = packed
    arrays |= {("extra", i): x for i, x in enumerate(extras)}
    run_template(matmul(variant, dtype, plan, epilogue), arrays, env, chunks, twin)
    return out


def assert_close(got: np.ndarray, a: np.ndarray, b: np.ndarray, slack: float = 1.0) -> None:
    """|got - want| <= gamma_{k+1} * (|a| @ |b|) with gamma_n = n u / (1 - n u)."""
    unit = float(np.finfo(got.dtype).eps) / 2
    n = a.shape[-1] + 1
    want = a.astype(np.longdouble) @ b.astype(np.longdouble)
    bound = n * unit / (1 - n * unit) * (np.abs(a).astype(np.longdouble) @ np.abs(b).astype(np.longdouble))
    assert got.shape == want.shape
    assert np.all(np.abs(got - want) <= slack * bound + np.finfo(got.dtype).tiny)


def draw(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


SHAPES = [
    (0, 5, 7), (5, 0, 7), (1, 1, 1), (1, 3, 17), (3, 1, 16), (2, 5, 10), (7, 13, 33), (8, 16, 48), (9, 31, 49),
    (17, 64, 64), (37, 29, 131), (64, 20, 100), (65, 33, 96), (130, 7, 47), (5, 2500, 70), (70, 2300, 50),
    (1, 2500, 130),
]  # fmt: skip


@pytest.mark.parametrize("variant", [AVX512, AVX2], ids=lambda v: v.name)
@pytest.mark.parametrize("m,k,n", SHAPES)
def test_symbolic_rows_constant_weights(variant: Any, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(m * 1000 + n)
    a, b = draw(rng, m, k), draw(rng, k, n)
    got = product(a, b, variant=variant, a_shape=(symbol("N"), k), symbols={"N": m})
    assert_close(got, a, b)
    static = product(a, b, variant=variant, chunks=3)
    assert np.array_equal(static, got)


@pytest.mark.parametrize("n", [1, 10, 24, 40, 56, 64, 1000])
def test_static_rows(n: int) -> None:
    rng = np.random.default_rng(n)
    for m in (1, 4, 11):
        a, b = draw(rng, m, 40), draw(rng, 40, n)
        assert_close(product(a, b), a, b)


def test_rows_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(5)
    for k in (100, 2500):
        a, b = draw(rng, 131, k), draw(rng, k, 70)
        n = symbol("N")
        whole = product(a, b, a_shape=(n, k), symbols={"N": 131})
        for start, stop in ((0, 1), (3, 4), (130, 131), (5, 12), (60, 131)):
            part = product(
                np.ascontiguousarray(a[start:stop]), b, a_shape=(n, k), symbols={"N": stop - start}, chunks=2
            )
            assert np.array_equal(part, whole[start:stop])


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("constant_b", [False, True])
@pytest.mark.parametrize(
    "batch", [((), ()), ((3,), ()), ((), (2,)), ((2, 3), (2, 3)), ((2, 1), (1, 3)), ((4, 1, 2), (3, 1))]
)
def test_batches_and_transposes(transpose_a: bool, transpose_b: bool, constant_b: bool, batch: Any) -> None:
    rng = np.random.default_rng(1)
    for m, k, n in ((5, 7, 33), (9, 12, 64)):
        a = draw(rng, *batch[0], *((k, m) if transpose_a else (m, k)))
        b = draw(rng, *batch[1], *((n, k) if transpose_b else (k, n)))
        got = product(a, b, transpose_a=transpose_a, transpose_b=transpose_b, constant_b=constant_b, chunks=2)
        assert_close(got, np.swapaxes(a, -1, -2) if transpose_a else a, np.swapaxes(b, -1, -2) if transpose_b else b)


@pytest.mark.parametrize("transpose_b", [False, True])
def test_everything_symbolic(transpose_b: bool) -> None:
    rng = np.random.default_rng(2)
    batch, rows, inner, cols = (symbol(s) for s in ("B", "M", "K", "C"))
    for bind in ((2, 5, 7, 70), (1, 1, 1, 1), (3, 20, 4, 64), (2, 3, 0, 5), (2, 0, 3, 5), (2, 3, 4, 0)):
        size = dict(zip("BMKC", bind, strict=True))
        a = draw(rng, bind[0], bind[1], bind[2])
        b = draw(rng, bind[0], *((bind[3], bind[2]) if transpose_b else (bind[2], bind[3])))
        got = product(
            a, b, transpose_b=transpose_b, constant_b=False, symbols=size, a_shape=(batch, rows, inner),
            b_shape=(batch, cols, inner) if transpose_b else (batch, inner, cols),
        )  # fmt: skip
        assert_close(got, a, np.swapaxes(b, -1, -2) if transpose_b else b)


def test_direct_right_operand_never_reads_past_its_end() -> None:
    rng = np.random.default_rng(3)
    a, b = draw(rng, 4, 9), draw(rng, 9, 21)
    got = product(a, b, constant_b=False)
    assert np.array_equal(product(a, b, constant_b=False, twin=True), got)


@pytest.mark.parametrize("dtype,np_type", [(F64, np.float64)])
@pytest.mark.parametrize("variant", [AVX512, AVX2], ids=lambda v: v.name)
def test_float64(dtype: DType, np_type: Any, variant: Any) -> None:
    rng = np.random.default_rng(4)
    for m, k, n in ((1, 5, 3), (13, 40, 29), (30, 8, 64)):
        a, b = draw(rng, m, k, dtype=np_type), draw(rng, k, n, dtype=np_type)
        assert_close(product(a, b, dtype=dtype, variant=variant), a, b)


def test_special_values_propagate() -> None:
    rng = np.random.default_rng(6)
    a, b = draw(rng, 20, 30), draw(rng, 30, 50)
    a[3, 4], a[7, 0], b[5, 6], a[9, 9], b[9, 11] = np.nan, np.inf, -np.inf, np.inf, 0
    got = product(a, b, a_shape=(symbol("N"), 30), symbols={"N": 20})
    with np.errstate(all="ignore"):
        want = a.astype(np.float64) @ b.astype(np.float64)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.array_equal(got == np.inf, want == np.inf) and np.array_equal(got == -np.inf, want == -np.inf)


RELU = Stage("relu")
EPILOGUES = [
    Epilogue((Stage("bias"),)),
    Epilogue((Stage("bias"), RELU)),
    Epilogue((Stage("scale"), Stage("bias"), Stage("residual"), Stage("relu6"))),
    Epilogue((Stage("bias"), Stage("clip", low=-0.5, high=0.25), Stage("mul"))),
    Epilogue((Stage("bias"), Stage("expr", text="acc * x0 + x1 * x2", operands=("same", "scalar", "channel")), RELU)),
    Epilogue((Stage("bias"), Stage("keep"), Stage("affine", 0.25, 0.5), Stage("clip", 0.0, 1.0), Stage("gate"), RELU)),
    Epilogue((Stage("bias"), Stage("slope"), Stage("leak", 0.125), Stage("affine", 1.0, -0.0))),
    # The tile has too few slots for what follows: all from ``keep`` on goes behind it.
    Epilogue(
        (Stage("bias"), Stage("mul"), Stage("keep"), Stage("residual"), Stage("slope"), Stage("scale"), Stage("gate"))
    ),
    Epilogue((Stage("bias"), Stage("scale"), Stage("residual"), Stage("mul"), Stage("clip", 0.5, np.inf))),
    Epilogue((Stage("expr", text="select(acc < f32(0.0), acc * f32(0.25), acc)"), Stage("bias"))),
]


def reference(epilogue: Epilogue, acc: np.ndarray, extras: list[np.ndarray]) -> np.ndarray:
    left, kept = list(extras), acc
    for stage in epilogue.stages:
        used = [left.pop(0) for _ in stage.uses]
        if stage.kind in ("bias", "residual"):
            acc = acc + used[0]
        elif stage.kind in ("scale", "mul"):
            acc = acc * used[0]
        elif stage.kind == "relu":
            acc = np.maximum(acc, 0)
        elif stage.kind == "relu6":
            acc = np.clip(acc, 0, 6)
        elif stage.kind == "clip":
            acc = np.clip(acc, stage.low, stage.high)
        elif stage.kind == "keep":
            kept = acc
        elif stage.kind == "gate":
            acc = kept * acc
        elif stage.kind == "affine":
            acc = acc * stage.low + stage.high
        elif stage.kind in ("slope", "leak"):
            acc = np.where(acc < 0, acc * (used[0] if used else stage.low), acc)
        elif used:
            acc = acc * used[0] + used[1] * used[2]
        else:
            acc = np.where(acc < 0, acc * 0.25, acc)
    return acc


def extras_for(
    rng: np.random.Generator, epilogue: Epilogue, shape: tuple[int, ...], channels: int
) -> tuple[np.ndarray, ...]:
    sizes = {"channel": (channels,), "same": shape, "scalar": (1,)}
    return tuple(draw(rng, *sizes[how]) for how in epilogue.extras)


@pytest.mark.parametrize("which", range(len(EPILOGUES)))
@pytest.mark.parametrize("m,k,n", [(9, 12, 100), (3, 2200, 33), (20, 5, 16)])
def test_epilogues(which: int, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(which)
    epilogue = EPILOGUES[which]
    a, b = draw(rng, m, k), draw(rng, k, n)
    extras = extras_for(rng, epilogue, (m, n), n)
    shape = (symbol("N"), k)
    got = product(a, b, a_shape=shape, symbols={"N": m}, epilogue=epilogue, extras=extras)
    want = reference(epilogue, a.astype(np.float64) @ b, list(extras))
    assert np.allclose(got, want, rtol=1e-4, atol=1e-5 * k)
    plan = plan_matmul(AVX512, F32, shape, b.shape, constant_b=True)
    hows = epilogue.extras
    for i in matmul(AVX512, F32, plan, epilogue).aliasable:
        assert hows[i] == "same"
        shared = extras[i].copy()
        mixed = tuple(shared if j == i else x for j, x in enumerate(extras))
        again = product(a, b, a_shape=shape, symbols={"N": m}, epilogue=epilogue, extras=mixed, out_at=shared, chunks=2)
        assert np.array_equal(again, got)


@pytest.mark.parametrize("constant_b", [False, True])
@pytest.mark.parametrize("m,k,n", [(3, 5, 20), (9, 4, 70), (1, 3, 5)])
def test_unjitted_text_gives_the_compiled_bits(constant_b: bool, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(8)
    a, b = draw(rng, m, k), draw(rng, k, n)
    for epilogue in EPILOGUES[1:5]:
        extras = extras_for(rng, epilogue, (m, n), n)
        both = [product(a, b, constant_b=constant_b, epilogue=epilogue, extras=extras, twin=t) for t in (False, True)]
        assert np.allclose(both[0], both[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype,np_type", [(I32, np.int32), (F64, np.float64)])
def test_plain_loops(dtype: DType, np_type: Any) -> None:
    rng = np.random.default_rng(9)
    for transpose_a in (False, True):
        a = rng.integers(-50, 50, (2, 1, 4, 3)).astype(np_type)
        b = rng.integers(-50, 50, (5, 3, 6)).astype(np_type)
        if transpose_a:
            a = np.ascontiguousarray(np.swapaxes(a, -1, -2))
        plan = plan_matmul(AVX512, dtype, a.shape, b.shape, transpose_a)
        out = np.zeros((2, 5, 4, 6), np_type)
        run_template(matmul_scalar(dtype, plan), {("operand", 0): a, ("operand", 1): b, ("output", 0): out}, {})
        assert np.array_equal(out, (np.swapaxes(a, -1, -2) if transpose_a else a) @ b)


@pytest.mark.parametrize("shape,nr,transpose", [((3, 5), 16, False), ((2, 7, 40), 24, True), ((0, 4), 16, False)])
def test_packing_inverts_exactly(shape: tuple[int, ...], nr: int, transpose: bool) -> None:
    b = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    layout = rhs_layout(b.shape, nr, transpose)
    packed = layout.pack(b)
    back = layout.unpack(packed)
    assert np.array_equal(back, b) and packed.shape[-1] == nr


def test_panels_used_a_few_times_are_asked_for_ahead() -> None:
    """Weights that stream from memory are prefetched while their predecessors are multiplied; others never."""

    def asked(rows: Extent) -> set[tuple[int, int]]:
        """(height, bytes asked for per row of the panel) of every tile."""
        plan = plan_matmul(AVX512, F32, (rows, 768), (768, 2304), constant_b=True)
        calls = re.findall(r"contract_tile\((.*)\)", matmul(AVX512, F32, plan).text)
        height, share = (SIGNATURE.index(name) - len(SIGNATURE) for name in ("P", "ASK"))
        return {(int(words[height]), int(words[share])) for words in (call.split(", ") for call in calls)}

    for rows in (1, 4096, symbol("N")):
        assert {share for _, share in asked(rows)} == {0}
    for rows in (32, 128):
        for height, share in asked(rows):  # all tiles together ask for a whole panel, and for not much more
            assert 64 * 4 * height <= share * rows <= 64 * 4 * height + 8 * rows


def test_rows_far_away_are_asked_for_ahead() -> None:
    def ahead(m: Extent, k: int) -> set[str]:
        plan = plan_matmul(AVX512, F32, (m, k), (k, 96), constant_b=True)
        calls = re.findall(r"contract_tile\((.*)\)", matmul(AVX512, F32, plan).text)
        return {call.split(", ")[SIGNATURE.index("AHEAD") - len(SIGNATURE)] for call in calls}

    assert ahead(128, 768) == ahead(1, 4096) == {"0"}
    assert ahead(1024, 768) == {"0"}  # whole rows lie one behind the other: the processor sees them coming
    assert "0" not in ahead(1024, 3072) | ahead(symbol("N"), 4096)
