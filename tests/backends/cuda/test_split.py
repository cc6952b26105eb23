"""Products whose k is dealt to several blocks: the bits of a row are its own, whatever else is in the batch.

The PTX that ships runs in the interpreter of ``tests/cuda``; which kernels a size takes is read off the launches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cuda import deal
from fusewright.backends.numba_cuda.tiles import LARGE, MIDDLE, NARROW, SKINNY
from fusewright.core.dims import evaluate, symbol
from fusewright.core.errors import DeviceFailed
from fusewright.core.manifest import parse_canonical
from fusewright.runtime.cuda.bundle import CudaBundle

from fake_driver import fake_gpu
from sanitised import both_ways

RNG = np.random.default_rng(31)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def dense(depth: int = 520, columns: int = 40) -> fw.Graph:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", depth))
    return b.build(b.tanh(b.matmul(x, b.constant(floats(depth, columns) / 24)) + floats(columns)))


def image(rows: Any = "N") -> fw.Graph:
    b = fw.Builder()
    x = b.input("x", "f32", (rows, 5, 7, 32))
    y = b.conv(x, b.constant(floats(3, 3, 32, 72) / 8), strides=(1, 1), pads=((1, 1), (1, 1)))
    return b.build(b.relu(b.add(y + floats(72), b.input("r", "f32", y.shape))))


def launched(bundle: Any, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """The result and the names of the kernels that ran, in order; none of the bundle's spills."""
    table = parse_canonical(bytes(bundle._container.read("native/cuda/resources.json")), "resources.json")["kernels"]
    for symbol_, archs in table.items():
        for used in archs.values():
            assert used["spills"] == used["stack"] == 0 and used["registers"] <= 128, symbol_
            assert used["shared"] <= 48 << 10, symbol_
    with fake_gpu((8, 6)) as gpu:
        seen: list[str] = []
        honest = gpu.execute

        def noted(launch: Any) -> None:
            seen.append(launch[0].name.rsplit("_", 1)[0])
            honest(launch)

        gpu.execute = noted  # type: ignore[method-assign]
        (got,) = CudaBundle(bundle._container).run(feeds).values()
        both_ways(gpu, bundle._container.data, feeds)
    return got, seen[: len(seen) // 3]


def near(graph: fw.Graph, feeds: dict[str, np.ndarray], got: np.ndarray) -> None:
    (want,) = graph.run(feeds, precision="f64").values()
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


# -- the deal ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "m,k,n", [(symbol("N"), 4096, 4096), (symbol("N") * 49, 4608, 512), (symbol("N") * 3136, 576, 64)]
)
def test_one_share_computes_each_size_and_storage_suffices(m: Any, k: int, n: int) -> None:
    dealt = deal.deal(m, k, n)
    assert dealt.segments > 1
    assert (dealt.segments - 1) * dealt.per < -(-k // 16) <= dealt.segments * dealt.per
    for size in (1, 2, 3, 16, 17, 64, 1000, 10**6):
        env = {"N": size}
        taken = [s for s in dealt.shares if evaluate(s.when, env)]
        assert len(taken) == 1 and dealt.finisher.tile is MIDDLE
        rows = evaluate(m, env)
        large = -(-rows // 128) * -(-n // 64) >= 264 and n != 512
        assert (taken[0].tile is LARGE) == large  # 512 channels of 7x7 have so many only at unusual batches
        assert (taken[0].tile is SKINNY) == (rows <= 16)
        split = bool(evaluate(taken[0].split, env))
        assert evaluate(dealt.finish, env) == split
        assert not split or evaluate(dealt.temp_bytes, env) >= 4 * dealt.segments * rows * n
        tiles = -(-rows // taken[0].tile.rows) * -(-n // taken[0].tile.columns)
        assert split == (tiles < {SKINNY: 132, MIDDLE: 66, LARGE: 0}[taken[0].tile])


def test_no_segment_is_empty() -> None:
    for k in range(256, 6000, 16):
        dealt = deal.deal(8, k, 64)
        slices = -(-k // 16)
        assert (dealt.segments - 1) * dealt.per < slices <= dealt.segments * dealt.per


def test_enough_tiles_need_no_segments() -> None:
    assert deal.deal(4096, 4096, 4096).segments == 1 and deal.deal(64, 64, 64).segments == 1
    assert deal.deal(symbol("N"), 256, 30000).segments == 1
    assert deal.deal(1, 4096, 4096).shares == (deal.Share(SKINNY, 1, 1),)
    assert [s.tile for s in deal.deal(symbol("N"), 512, 24).shares] == [SKINNY, NARROW]


# -- the kernels ------------------------------------------------------------------------------------------------------
def test_rows_have_bits_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, more rows in blocks of segments, and so many that each block sums all segments."""
    monkeypatch.setattr(deal, "_SPLIT_BELOW", 2)
    monkeypatch.setattr(deal, "_MANY", 2)
    deal.deal.cache_clear()
    try:
        graph = dense()
        bundle = fw.compile(graph, target="cuda")
    finally:
        monkeypatch.undo()
        deal.deal.cache_clear()
    x = floats(130, 520)
    results = {}
    for n, tile in ((3, SKINNY), (40, MIDDLE), (70, MIDDLE), (130, LARGE)):
        results[n], names = launched(bundle, {"x": x[:n]})
        near(graph, {"x": x[:n]}, results[n])
        assert len(names) == (1 if n >= 70 else 2) and tile.name in names[0], names
        rows = bundle.report(dims={"N": n}).kernels
        assert [r["name"] for r in rows] == names and sum(r["flops"] for r in rows) >= 2 * n * 520 * 40
    assert results[130][:70].tobytes() == results[70].tobytes()
    assert results[70][:3].tobytes() == results[3].tobytes()
    assert results[70][:40].tobytes() == results[40].tobytes()


@pytest.mark.parametrize("n", [1, 3])
def test_convolutions_of_few_pixels_are_split(n: int) -> None:
    graph = image()
    feeds = {"x": floats(n, 5, 7, 32), "r": floats(n, 5, 7, 72)}
    bundle = fw.compile(graph, target="cuda")
    got, names = launched(bundle, feeds)
    near(graph, feeds, got)
    assert len(names) == 2


def test_what_is_not_finite_in_one_segment_is_computed_again() -> None:
    graph = fw.Builder()
    x = graph.input("x", "f32", ("N", 512))
    eye = np.eye(512, 40, k=-300, dtype=np.float32)
    built = graph.build(graph.matmul(x, graph.constant(eye)))
    given = floats(4, 512)
    given[0, 301], given[1, 302], given[2, 303] = np.inf, np.nan, np.finfo(np.float32).max
    got, _ = launched(fw.compile(built, target="cuda"), {"x": given})
    with np.errstate(invalid="ignore"):
        want = given @ eye
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got[2, 3] == np.finfo(np.float32).max and np.isnan(got[0]).sum() == 39


@pytest.mark.parametrize("lost,found", [(0, "ld.global.* nobody wrote|nobody wrote.*ld.global"), (1, "the host reads")])
def test_a_lost_launch_is_found(lost: int, found: str) -> None:
    """The negative control: without the segments' sums, or without their addition, nothing passes."""
    bundle = fw.compile(image(2), target="cuda")
    feeds = {"x": floats(2, 5, 7, 32), "r": floats(2, 5, 7, 72)}
    with fake_gpu((8, 6)) as gpu:
        honest, count = gpu.execute, iter(range(100))

        def without(launch: Any) -> None:
            if next(count) % 2 != lost:
                honest(launch)

        gpu.execute = without  # type: ignore[method-assign]
        with pytest.raises(DeviceFailed, match=found):
            both_ways(gpu, bundle._container.data, feeds)
