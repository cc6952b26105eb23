"""Winograd kernels: their own error bound, borders, values that are not finite, threads, weights made at load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.backends.numba_cpu.templates.epilogue import NONE, Epilogue, Stage
from fusewright.backends.numba_cpu.templates.packing import conv_layout
from fusewright.backends.numba_cpu.templates.probe import run_template
from fusewright.backends.numba_cpu.templates.winograd import faster, plan_winograd, winograd, winograd_layout
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import evaluate, symbol
from fusewright.core.dtypes import F32, F64
from fusewright.passes.pipeline import default_pipeline
from fusewright.runtime import cpu
from fusewright.testing.kernels import check_kernels

SAME = ((1, 1), (1, 1))
CASES = [  # image height, width, channels, filters, pads, side of a tile
    (15, 13, 40, 48, SAME, 2), (7, 9, 20, 16, ((0, 1), (2, 0)), 2), (3, 3, 16, 64, ((0, 0), (0, 0)), 2),
    (1, 1, 16, 16, SAME, 2), (2, 20, 530, 80, SAME, 2), (12, 12, 32, 32, SAME, 4), (6, 7, 17, 33, ((2, 2), (0, 1)), 4),
]  # fmt: skip


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def graph_of(cases: list[Any], tail: Any = None) -> fw.Graph:
    """One blocked convolution per case, each on an input of its own."""
    b: Any = fw.Builder()
    rng, results = np.random.default_rng(1), {}
    for i, (h, w, c, k, pads, m) in enumerate(cases):
        x = b.input(f"x{i}", "f32", ("N", h, w, c))
        y = b.conv_blocked(b.to_blocked(x), b.constant(draw(rng, 3, 3, c, k)), pads=pads, winograd=m)
        results[f"y{i}"] = b.from_blocked(y if tail is None else tail(b, y), channels=k)
    return b.build(results)


def feeds_of(cases: list[Any], n: int = 2, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {f"x{i}": draw(rng, n, h, w, c) * np.float32(scale) for i, (h, w, c, *_) in enumerate(cases)}


def tail(b: Any, y: Any) -> Any:
    """Bias and clip in registers, a sigmoid in the loop."""
    bias = b.constant(np.linspace(-1, 1, y.shape[1] * 16, dtype=np.float32).reshape(1, y.shape[1], 1, 1, 16))
    z = b.clip(b.add(y, bias), -30.0, 30.0)
    return b.mul(z, b.sigmoid(z))


def fails(graph: fw.Graph, feeds: dict[str, np.ndarray]) -> list[str]:
    verdicts = check_kernels(graph, feeds)
    assert any("conv_blocked" in v.name for v in verdicts)
    return [str(v) for v in verdicts if not v.ok]


@pytest.mark.parametrize("epilogue", [None, tail], ids=["plain", "tail"])
def test_every_kernel_is_inside_its_bound(epilogue: Any) -> None:
    cases = CASES if epilogue is None else [CASES[1], CASES[-1]]
    graph = graph_of(cases, epilogue)
    for scale in (1.0,) if epilogue else (1.0, 1e36, 1e-43):
        assert fails(graph, feeds_of(cases, 2, scale)) == []


def test_values_that_are_not_finite_reach_what_reads_them_and_nothing_else() -> None:
    graph, feeds = graph_of(CASES), feeds_of(CASES)
    for x in feeds.values():
        x[0, -1, 0, 3] = np.inf
        x[1, 0, -1, 5] = np.nan
    feeds["x0"][0, 6, 6, :2] = np.inf, -np.inf
    feeds["x5"][0, 3, 3, 7] = 3e38  # the transform of this tile overflows, the sums do not
    want = graph.run(feeds)
    bundle = fw.compile(graph)
    got = bundle.run(feeds)
    for name, y in want.items():
        assert np.array_equal(np.isnan(y), np.isnan(got[name])), name
        assert np.array_equal(y[np.isinf(y)], got[name][np.isinf(y)]), name
        assert np.isfinite(y).any() and not np.isfinite(y).all() or y.shape[1] < 3, name
    assert fails(graph, feeds) == []


def test_a_tile_done_again_reads_its_residual_before_it_writes() -> None:
    """The residual lies where the result goes: the tile must not be stored before it is known to be finite."""
    rng = np.random.default_rng(3)
    shape, kernel = (1, 5, 6, 16), draw(rng, 3, 3, 16, 16)
    template, plan = made(shape, kernel, Epilogue((Stage("residual"), Stage("relu"))))
    assert template.aliasable == {0}
    x, residual = draw(rng, *shape), draw(rng, *shape)
    x[0, 2, 2, 1] = np.inf
    apart = run(template, plan, x, kernel, [blocked(residual)])
    extra = blocked(residual)
    together = run(template, plan, x, kernel, [extra], out=extra)
    assert np.array_equal(apart, together, equal_nan=True)


def test_bits_depend_neither_on_threads_nor_on_the_batch(tmp_path: Path) -> None:
    cases = [(28, 9, 64, 64, SAME, 2), (7, 7, 40, 96, SAME, 2)]
    graph = graph_of(cases)
    feeds = feeds_of(cases, 5)
    feeds["x0"][2, 3, 3, 3] = np.inf
    fw.compile(graph).save(tmp_path / "model.fwb")
    one = fw.load(tmp_path / "model.fwb", threads=1).run(feeds)
    for threads in (2, 8):
        bundle = fw.load(tmp_path / "model.fwb", threads=threads)
        assert all(c.ctypes.data % 64 == 0 for c in bundle._constants)
        many = bundle.run(feeds)
        assert all(one[k].tobytes() == many[k].tobytes() for k in one)
    alone = bundle.run({k: v[3:4] for k, v in feeds.items()})
    assert all(one[k][3:4].tobytes() == alone[k].tobytes() for k in one)


# -- the template by itself ---
def blocked(x: np.ndarray) -> np.ndarray:
    """Lanes past the channels hold NaN, which no kernel may let through."""
    n, h, w, c = x.shape
    padded = np.full((n, h, w, -(-c // 16) * 16), np.nan, np.float32)
    padded[..., :c] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, h, w, -1, 16), 3, 1))


def made(
    shape: tuple[Any, ...], kernel: np.ndarray, epilogue: Epilogue = NONE, variant: str = "cpu-avx512", m: int = 2,
    pads: Any = SAME, pairs: bool = False,
) -> Any:  # fmt: skip
    plan = plan_winograd(VARIANTS[variant], F32, shape, kernel.shape, pads, m, pairs)
    return winograd(plan, epilogue), plan


def run(
    template: Any, plan: Any, x: np.ndarray, kernel: np.ndarray, extras: list[np.ndarray], chunks: int = 1,
    twin: bool = False, env: dict[str, int] | None = None, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    env = env or {}
    oh, ow = (evaluate(d, env) for d in plan.direct.out_spatial)
    if out is None:
        out = np.full((x.shape[0], -(-kernel.shape[3] // 16), oh, ow, 16), 77, np.float32)
    arrays = {
        ("operand", 0): blocked(x), ("weights", 1): conv_layout(kernel.shape, plan.direct.layout).pack(kernel),
        ("transformed", 1): winograd_layout(kernel.shape, plan).pack(kernel), ("output", 0): out,
        **{("extra", i): e for i, e in enumerate(extras)},
    }  # fmt: skip
    run_template(template, arrays, env, chunks, twin)
    return out


@pytest.mark.parametrize("variant", ["cpu-avx512", "cpu-avx2"])
@pytest.mark.parametrize("m", [2, 4])
def test_the_unjitted_text_computes_the_same(variant: str, m: int) -> None:
    rng = np.random.default_rng(m)
    x, kernel, bias = draw(rng, 1, 5, 7, 20), draw(rng, 3, 3, 20, 32), draw(rng, 32)
    x[0, 0, 0, 2] = np.inf
    template, plan = made(x.shape, kernel, Epilogue((Stage("bias"), Stage("relu"))), variant, m)
    fast = run(template, plan, x, kernel, [bias], chunks=2)
    slow = run(template, plan, x, kernel, [bias], twin=True)
    assert np.isinf(fast).any() and np.isfinite(fast).any()
    assert np.allclose(fast, slow, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("native", [False] + [True] * (not cpu.missing("cpu-avx512bf16")))
def test_tiles_of_pairs_multiply_what_is_rounded(native: bool) -> None:
    """Their text, and where there is such a CPU their code, against a float32 kernel of operands that need no rounding
    before or behind their transform."""
    rng = np.random.default_rng(6)
    x, kernel = (rng.integers(-4, 5, s).astype(np.float32) for s in ((2, 7, 9, 50), (3, 3, 50, 48)))
    kernel *= 4  # quarters of sums are whole numbers
    exact = run(*made(x.shape, kernel), x, kernel, [], twin=True)
    pairs = made(x.shape, kernel, NONE, "cpu-avx512bf16", 2, SAME, True)
    assert np.array_equal(run(*pairs, x, kernel, [], chunks=3, twin=not native), exact)
    x += np.float32(2.0**-7)
    kernel *= np.float32(1 + 2.0**-7)
    off = np.abs(run(*pairs, x, kernel, [], twin=not native) - run(*made(x.shape, kernel), x, kernel, [], twin=True))
    assert 0.5 < off.max() < 2.0**-5 * np.abs(exact).max()


def test_free_extents_change_no_bit() -> None:
    rng = np.random.default_rng(5)
    x, kernel = draw(rng, 3, 9, 11, 32), draw(rng, 3, 3, 32, 48)
    fixed = run(*made(x.shape, kernel), x, kernel, [], chunks=3)
    free = made((symbol("N"), symbol("H"), symbol("W"), 32), kernel)
    got = run(*free, x, kernel, [], chunks=2, env={"N": 3, "H": 9, "W": 11})
    assert np.array_equal(fixed, got)


def test_what_no_tile_covers_is_refused() -> None:
    variant = VARIANTS["cpu-avx2"]
    for dtype, taps in ((F64, (3, 3)), (F32, (3, 1))):
        with pytest.raises(ValueError, match="Winograd covers"):
            plan_winograd(variant, dtype, (1, 8, 8, 16), (*taps, 16, 16), SAME, 2)
    for channels, m in ((17, 2), (16, 4)):
        with pytest.raises(ValueError, match="pairs are of an even number"):
            plan_winograd(VARIANTS["cpu-avx512bf16"], F32, (1, 8, 8, channels), (3, 3, channels, 16), SAME, m, True)


# -- the choice ---
def test_the_cost_keeps_small_images_and_few_channels_direct() -> None:
    chosen = {
        (side, c, most): faster((1, side, side, c), (3, 3, c, c), SAME, most)
        for side, c in ((56, 64), (28, 128), (14, 256), (3, 512), (4, 64), (112, 4))
        for most in (2, 4)
    }
    assert [chosen[s, c, 2] for s, c in ((56, 64), (28, 128), (14, 256))] == [2, 2, 2]
    assert [chosen[s, c, 4] for s, c in ((3, 512), (112, 4))] == [0, 0]
    assert chosen[56, 64, 4] == 4
    assert faster((1, symbol("H"), 56, 64), (3, 3, 64, 64), SAME, 2) == 0


@pytest.mark.parametrize("numerics,tiles", [("strict", 2), ("fast", 4)])
def test_the_pipeline_marks_what_the_mode_admits(numerics: str, tiles: int) -> None:
    b: Any = fw.Builder()
    rng = np.random.default_rng(0)
    y = b.conv(b.input("x", "f32", ("N", 40, 40, 64)), draw(rng, 3, 3, 64, 64), pads=SAME)
    y = b.conv(y, draw(rng, 3, 3, 64, 64), pads=SAME, strides=2)
    y = b.conv(y, np.full((3, 3, 64, 64), 1e30, np.float32), pads=SAME)
    graph, _ = default_pipeline(cpu_target(), numerics).run(b.build(y))
    found = [n.attrs["winograd"] for n in graph.walk() if n.op.name == "conv_blocked"]
    assert found == [tiles, 0, 0]
