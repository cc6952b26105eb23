"""Contractions of operands rounded to bfloat16: their own error bound, values at the edges, which code a bundle has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.backends.numba_cpu.lower import ConstantStore, lower
from fusewright.backends.numba_cpu.unjitted import run_plan
from fusewright.backends.numba_cpu.variants import FAST_VARIANTS, VARIANTS
from fusewright.core.dtypes import bf16_to_f32, f32_to_bf16
from fusewright.core.winograd import input_matrix, kernel_matrix, output_matrix
from fusewright.ir import BoundedInterpreter
from fusewright.passes.memory.schedule import schedule
from fusewright.passes.pipeline import default_pipeline
from fusewright.runtime import cpu
from fusewright.testing.kernels import check_kernels
from fusewright.testing.oracle import check_outputs

DOTS = "cpu-avx512bf16"
CONVS = [  # image height, width, channels, filters, taps, strides, pads, groups, side of permitted tiles
    (6, 5, 32, 48, 1, 1, 0, 1, 0), (5, 7, 18, 20, 3, 1, 1, 1, 0), (4, 4, 34, 64, 3, 2, 1, 1, 0),
    (3, 9, 64, 32, 1, 2, 0, 2, 0), (2, 3, 1040, 16, 3, 1, 1, 1, 0), (9, 8, 50, 80, 3, 1, 1, 1, 2),
    (8, 8, 1060, 64, 3, 1, 1, 1, 4),
]  # fmt: skip
MATMULS = [(3, 10, 7), (17, 64, 70), (2, 1500, 130), (1, 32, 16), (40, 3000, 64)]  # rows, inner, columns


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def graph_of(tail: bool = False) -> fw.Graph:
    b: Any = fw.Builder()
    rng, results = np.random.default_rng(1), {}
    for i, (h, w, c, k, taps, stride, pad, groups, side) in enumerate(CONVS):
        x = b.to_blocked(b.input(f"x{i}", "f32", ("N", h, w, c)))
        weights = b.constant(draw(rng, taps, taps, c // groups, k))
        window = {"strides": stride, "pads": ((pad, pad),) * 2, "groups": groups}
        y = b.conv_blocked(x, weights, bf16=True, winograd=side, **window)
        results[f"y{i}"] = b.from_blocked(b.relu(y) if tail else y, channels=k)
    for i, (m, k, n) in enumerate(MATMULS):
        turned = i % 2 == 1
        weights = b.constant(draw(rng, n, k) if turned else draw(rng, k, n))
        y = b.matmul(b.input(f"a{i}", "f32", ("N", m, k)), weights, transpose_b=turned, bf16=True)
        results[f"z{i}"] = b.gelu(b.add(y, b.constant(draw(rng, n)))) if tail else y
    return b.build(results)


def feeds_of(scale: float = 1.0, n: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    feeds = {f"x{i}": draw(rng, n, h, w, c) for i, (h, w, c, *_) in enumerate(CONVS)}
    feeds |= {f"a{i}": draw(rng, n, m, k) for i, (m, k, _) in enumerate(MATMULS)}
    return {name: x * np.float32(scale) for name, x in feeds.items()}


def test_the_bound_counts_operands_that_are_taken_for_zero() -> None:
    """Instructions take denormal numbers for zero; what these were multiplied by makes the error large."""
    b: Any = fw.Builder()
    y = b.matmul(b.input("a", "f32", (2, 1)), b.constant(np.full((1, 1), 1e38, np.float32)), bf16=True)
    feeds = {"a": np.array([[1e-39], [1e-37]], np.float32)}
    ((values, bounds),) = BoundedInterpreter(b.build(y)).run_bounded(feeds).values()
    assert bounds[0, 0] >= values[0, 0] > 0.09
    assert 10 * 2.0**-9 < bounds[1, 0] < 10 * 2.0**-6  # and of others, what rounding both may do


@pytest.mark.parametrize("tail", [False, True])
def test_every_kernel_is_inside_its_bound(tail: bool) -> None:
    graph = graph_of(tail=tail)
    for scale in (1.0,) if tail else (1.0, 1e36, 1e-40):
        verdicts = check_kernels(graph, feeds_of(scale))
        assert [str(v) for v in verdicts if not v.ok] == []
        assert {v.variant for v in verdicts} == {v for v in FAST_VARIANTS if not cpu.missing(v)}


@pytest.mark.parametrize("variant", FAST_VARIANTS)
def test_the_text_of_the_kernels_is_inside_the_bound_of_the_op(variant: str) -> None:
    b: Any = fw.Builder()
    rng = np.random.default_rng(3)
    x = b.input("x", "f32", (2, 3, 4, 18))
    y = b.conv_blocked(b.to_blocked(x), b.constant(draw(rng, 3, 3, 18, 16)), pads=((1, 1), (1, 1)), bf16=True)
    z = b.matmul(b.input("a", "f32", (5, 6)), b.constant(draw(rng, 6, 20)), bf16=True)
    t = b.to_blocked(b.input("t", "f32", (1, 9, 8, 50)))
    t = b.conv_blocked(t, b.constant(draw(rng, 3, 3, 50, 80)), pads=((1, 1), (1, 1)), bf16=True, winograd=4)
    graph = b.build({"y": b.from_blocked(y, channels=16), "z": z, "t": b.from_blocked(t, channels=80)})
    feeds = {"x": draw(rng, 2, 3, 4, 18), "a": draw(rng, 5, 6), "t": draw(rng, 1, 9, 8, 50)}
    feeds["t"][0, 0, 0, :4] = np.inf, 1e-42, 3.395e38, -0.0  # the third rounds to an infinity: done again in float32
    feeds["t"][0, 7, 5, 2] = np.nan
    feeds["a"][0, :4] = np.inf, 1e-42, 3.3e38, -0.0
    feeds["a"][1, 2] = np.nan
    program = schedule(graph, cpu_target())
    program.verify()
    got = run_plan(program, feeds, variant, chunks=2)
    check_outputs(graph, feeds, got, BoundedInterpreter(graph).run_bounded(feeds))
    exact = graph.run(feeds, precision="f64")
    for name, y in (("y", exact["y"]), ("t", exact["t"][:, 2:5])):  # rows that nothing infinite reaches
        error = np.abs(got[name][:, 2:5] - y if name == "t" else got[name] - y).max()
        assert (error > 1e-3) == (variant == DOTS)


def test_the_bound_covers_rounding_and_no_more_than_needed() -> None:
    rng = np.random.default_rng(4)
    a, w = draw(rng, 9, 40), draw(rng, 40, 30)
    a[0, 0], a[1, 1], a[2, 2], a[3] = np.inf, np.nan, 3.4e38, 1e-43
    b: Any = fw.Builder()
    graph = b.build({"y": b.matmul(b.input("a", "f32", (9, 40)), b.constant(w), bf16=True)})
    bounded = BoundedInterpreter(graph).run_bounded({"a": a})
    rounded = bf16_to_f32(f32_to_bf16(a)).astype(np.float64) @ bf16_to_f32(f32_to_bf16(w)).astype(np.float64)
    rounded[3] = 0  # denormal operands count as zero
    with np.errstate(all="ignore"):
        check_outputs(graph, {"a": a}, {"y": rounded.astype(np.float32)}, bounded)
        worse = a.astype(np.float64) @ (w.astype(np.float64) * (1 + 2.0**-6))
        worse[:4] = rounded[:4]
        err = bounded["y"][1]
        assert np.isinf(err[2]).all() and np.isfinite(err[4:]).all()
        sizes = np.abs(a[4:].astype(np.float64)) @ np.abs(w.astype(np.float64))
        assert np.all(err[4:] < 2.1 * 2.0**-8 * sizes)
        one = np.zeros((9, 40), np.float32)
        one[:, 0] = 1.0
        single = BoundedInterpreter(graph).run_bounded({"a": one})
        with pytest.raises(AssertionError):
            check_outputs(graph, {"a": one}, {"y": (one @ w * np.float32(1 + 2.0**-6))}, single)


def tiles_of_pairs(side: int = 14) -> tuple[fw.Graph, np.ndarray, np.ndarray]:
    """A convolution that is fastest in tiles of pairs, with its weights and input."""
    b: Any = fw.Builder()
    rng = np.random.default_rng(8)
    w = draw(rng, 3, 3, 96, 128)
    y = b.conv(b.input("x", "f32", ("N", side, side, 96)), w, pads=((1, 1), (1, 1)))
    return b.build({"y": b.relu(y)}), w, draw(rng, 5, side, side, 96)


def test_the_bound_of_tiles_covers_rounding_behind_the_transform_and_no_more_than_needed() -> None:
    _, w, x = tiles_of_pairs()
    x = x[:1]
    bt, g, at = (np.array(m(2), np.float64) for m in (input_matrix, kernel_matrix, output_matrix))
    padded = np.pad(x[0].astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    tiles = np.array([[padded[i : i + 4, j : j + 4] for j in range(0, 14, 2)] for i in range(0, 14, 2)])
    u, v = np.einsum("pi,qj,ijck->pqck", g, g, w), np.einsum("pi,qj,yxijc->yxpqc", bt, bt, tiles)
    u, v = (bf16_to_f32(f32_to_bf16(a.astype(np.float32))).astype(np.float64) for a in (u, v))
    made = np.einsum("ap,bq,yxpqc,pqck->yaxbk", at, at, v, u, optimize=True).reshape(1, 14, 14, 128)
    b: Any = fw.Builder()
    t = b.to_blocked(b.input("x", "f32", (1, 14, 14, 96)))
    graph = b.build({"y": b.conv_blocked(t, w, pads=((1, 1), (1, 1)), bf16=True, winograd=2)})
    ((values, err),) = BoundedInterpreter(graph).run_bounded({"x": x}).values()
    apart = np.abs(made.reshape(1, 14, 14, 8, 16) - np.moveaxis(values, 1, 3))
    err = np.moveaxis(err, 1, 3)
    assert np.all(apart <= err) and apart.max() > 0.02  # and direct sums of rounded operands are 0.2 off at most
    sizes = largest_around(np.abs(x), np.abs(w))
    assert np.all(err.reshape(1, 14, 14, 128) < 9 * 2.1 * 2.0**-8 * sizes + 1e-3)


def largest_around(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The largest sum of products among the tile around each result: what its bound is measured by."""
    b: Any = fw.Builder()
    y = b.conv(b.input("x", "f32", x.shape), w, pads=((1, 1), (1, 1)))
    y = b.max_pool(y, window=(3, 3), strides=(1, 1), pads=((1, 1), (1, 1)))
    return b.build({"y": y}).run({"x": x}, precision="f64")["y"]


def test_each_variant_computes_in_the_tiles_that_suit_it() -> None:
    graph, _, _ = tiles_of_pairs(28)
    done, _ = default_pipeline(cpu_target(), "fast").run(graph)
    program = schedule(done, cpu_target())
    for variant, want in (
        ("cpu-avx2", "winograd4_relu"),
        ("cpu-avx512", "winograd4_relu"),
        (DOTS, "winograd2_bf16_relu"),
    ):
        names = [k.name for k in lower(program, VARIANTS[variant], ConstantStore()).plan.kernels]
        assert want in names and not any(name.startswith(("round", "conv")) for name in names)


def test_bits_of_tiles_depend_neither_on_threads_nor_on_the_batch(tmp_path: Path) -> None:
    graph, _, x = tiles_of_pairs()
    x[2, 3, 3, 3] = np.inf
    fw.compile(graph, numerics="fast").save(tmp_path / "m.fwb")
    one = fw.load(tmp_path / "m.fwb", threads=1)(x)
    for threads in (2, 8):
        bundle = fw.load(tmp_path / "m.fwb", threads=threads)
        assert bundle(x).tobytes() == one.tobytes()
        assert bundle(x[3:4]).tobytes() == one[3:4].tobytes()


def test_only_fast_bundles_have_code_that_rounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    b: Any = fw.Builder()
    graph = b.build({"y": b.matmul(b.input("x", "f32", ("N", 512)), b.constant(draw(rng, 512, 512)))})
    x = draw(rng, 4, 512)
    strict, fast = fw.compile(graph), fw.compile(graph, numerics="fast")
    assert [t.name for t in strict.manifest.targets] == ["cpu-avx2", "cpu-avx512"]
    assert [t.name for t in fast.manifest.targets] == list(FAST_VARIANTS)
    near = strict(x)
    fast.save(tmp_path / "m.fwb")
    got = fw.load(tmp_path / "m.fwb")(x)
    rounds = not cpu.missing(DOTS)
    error = np.abs(got - near).max() / np.abs(near).max()
    assert (1e-4 < error < 1e-2) if rounds else error < 1e-5
    assert np.array_equal(fw.load(tmp_path / "m.fwb", threads=2)(x), got)
    assert np.array_equal(fast(x[:1]), got[:1])


def test_a_machine_without_the_instructions_gets_the_float32_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    b: Any = fw.Builder()
    graph = b.build({"y": b.matmul(b.input("x", "f32", (3, 512)), b.constant(draw(rng, 512, 600)))})
    x = draw(rng, 3, 512)
    have = cpu.features() - {"avx512_bf16"}
    monkeypatch.setattr(cpu, "features", lambda: have)
    plain = fw.compile(graph, numerics="fast")
    assert plain.target == cpu.best(FAST_VARIANTS) != DOTS
    exact = graph.run({"x": x}, precision="f64")["y"]
    assert np.abs(plain(x) - exact).max() < 1e-4


@pytest.mark.parametrize("weight", [np.nan, np.inf, 2.0**61])
def test_weights_that_may_become_infinite_are_not_rounded(weight: float) -> None:
    b: Any = fw.Builder()
    w = np.ones((512, 512), np.float32)
    w[3, 4] = weight
    graph = b.build({"y": b.matmul(b.input("x", "f32", (64, 512)), b.constant(w))})
    done, _ = default_pipeline(cpu_target(), "fast").run(graph)
    assert not any(n.attrs.get("bf16") for n in done.walk())


def test_a_mark_permits_but_does_not_demand() -> None:
    """No pairs in odd extents, no constant weights, nothing to sum: the float32 kernels compute what is marked."""
    rng = np.random.default_rng(7)
    b: Any = fw.Builder()
    results = {"odd": b.matmul(b.input("a", "f32", (5, 33)), b.constant(draw(rng, 33, 40)), bf16=True)}
    x = b.input("x", "f32", (4, 300))
    results["made"] = b.relu(b.matmul(x, b.input("w", "f32", (300, 600)), bf16=True))
    turned = b.constant(draw(rng, 4, 30))
    results["turned"] = b.matmul(x, turned, transpose_a=True, bf16=True)
    image = b.to_blocked(b.input("i", "f32", (1, 5, 6, 32)))
    results["each"] = b.conv_blocked(image, b.constant(draw(rng, 3, 3, 1, 32)), groups=32, bf16=True)
    graph = b.build(results)
    feeds = {"a": draw(rng, 5, 33), "x": draw(rng, 4, 300), "w": draw(rng, 300, 600), "i": draw(rng, 1, 5, 6, 32)}
    exact = graph.run(feeds, precision="f64")
    program = schedule(graph, cpu_target())
    for variant in FAST_VARIANTS:
        got = run_plan(program, feeds, variant)
        assert all(np.allclose(got[name], exact[name], atol=2e-4) for name in results)
