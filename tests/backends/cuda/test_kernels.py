"""GPU kernels as they are shipped: what the assembler says of them, the instructions they use, and what they compute.

The PTX runs in the interpreter of ``tests/cuda``, with its checks of bounds, alignment, races and divergence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.manifest import parse_canonical

from fake_driver import fake_gpu

RNG = np.random.default_rng(11)
MMA = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def on_gpu(graph: fw.Graph, feeds: dict[str, np.ndarray], numerics: str = "strict") -> tuple[Any, dict[str, Any]]:
    with fake_gpu((8, 6)):
        bundle = fw.compile(graph, target="cuda", numerics=numerics)
        return bundle, bundle.run(feeds)


def members(bundle: Any) -> tuple[str, dict[str, dict[str, dict[str, int]]]]:
    """The PTX, and the resources of each kernel."""
    read = bundle._container.read
    table = parse_canonical(bytes(read("native/cuda/resources.json")), "resources.json")
    return bytes(read("native/cuda/kernels.ptx")).decode(), table["kernels"]


def near(graph: fw.Graph, feeds: dict[str, np.ndarray], got: dict[str, Any], tolerance: float = 1e-6) -> None:
    for name, want in graph.run(feeds, precision="f64").items():
        most = np.abs(want[np.isfinite(want)]).max(initial=0)
        same = np.isnan(got[name]) == np.isnan(want)
        assert same.all() and (np.isinf(got[name]) == np.isinf(want)).all()
        finite = np.isfinite(want)
        assert np.abs(got[name][finite] - want[finite]).max(initial=0) <= tolerance * most


def dense() -> fw.Graph:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 64))
    return b.build(b.relu(b.matmul(x, b.constant(floats(64, 40))) + floats(40)))


def image(strides: tuple[int, int] = (1, 1), dilations: tuple[int, int] = (1, 1), channels: int = 8) -> fw.Graph:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 9, 11, channels))
    w = b.constant(floats(3, 3, channels, 24))
    pads = ((1, 1), (2, 1))
    y = b.conv(x, w, strides=strides, pads=pads, dilations=dilations, groups=1)
    return b.build(b.relu(y + b.input("r", "f32", y.shape)))


def rows() -> fw.Graph:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 70))
    ones, zeros = np.ones(70, np.float32), np.zeros(70, np.float32)
    normal = b.layer_norm(x, ones, zeros, axes=(1,), epsilon=1e-5)
    return b.build({"s": b.softmax(x, axes=(1,)), "n": normal, "m": b.reduce_max(x, axes=(1,))})


def chain() -> fw.Graph:
    b = fw.Builder()
    x, z = b.input("x", "f32", ("N", 6)), b.input("z", "f32", ("N", 8))
    return b.build({"x": b.exp(x) * x + x, "z": z * b.input("scale", "f32", (8,)) + 1.0})


# -- gates ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make,feeds,wanted,registers",
    [
        (dense, {"x": (3, 64)}, [MMA, "cp.async.cg.shared.global", "bar.sync"], 128),
        (image, {"x": (1, 9, 11, 8), "r": (1, 9, 12, 24)}, [MMA, "cp.async.cg.shared.global"], 128),
        (rows, {"x": (3, 70)}, ["shfl.sync.bfly.b32"], 48),
        (chain, {"x": (3, 6), "z": (3, 8), "scale": (8,)}, ["ld.global.v4.b32", "st.global.v4.b32"], 64),
    ],
)
def test_tuned_kernels_keep_to_registers(
    make: Callable[[], fw.Graph], feeds: dict[str, tuple[int, ...]], wanted: list[str], registers: int
) -> None:
    graph = make()
    given = {name: floats(*shape) for name, shape in feeds.items()}
    bundle, got = on_gpu(graph, given)
    near(graph, given, got)
    ptx, resources = members(bundle)
    version = re.search(r"^\.version (\d+)\.(\d+)$", ptx, re.M)
    assert version is not None and int(version[1]) <= 8
    assert all(opcode in ptx for opcode in wanted)
    assert ".extern" not in ptx and "call" not in re.findall(r"^\s+(\w+)", ptx, re.M)
    assert resources and set(re.findall(r"\.entry (\w+)", ptx)) == set(resources)
    for symbol, archs in resources.items():
        assert set(archs) == {"sm_80", "sm_90"}
        for used in archs.values():
            assert used["spills"] == used["stack"] == 0, symbol
            assert used["registers"] <= registers and used["shared"] <= 48 << 10, (symbol, used)


def test_only_fast_rounds_to_tf32() -> None:
    """Three products per pair of tiles keep float32's accuracy; one does not, and the manifest says so."""
    b = fw.Builder()
    graph = b.build(b.matmul(b.input("x", "f32", ("N", 64)), b.input("y", "f32", (64, 40))))
    given = {"x": floats(40, 64), "y": floats(64, 40)}
    want = graph.run(given, precision="f64")["output"]
    error, products = {}, {}
    for numerics in ("strict", "fast"):
        bundle, got = on_gpu(graph, given, numerics)
        assert bundle.manifest.numerics == numerics
        error[numerics] = np.abs(got["output"] - want).max() / np.abs(want).max()
        products[numerics] = members(bundle)[0].count(MMA)
    assert products["strict"] == 3 * products["fast"] > 0
    assert error["strict"] < 5e-7 < 1e-5 < error["fast"] < 5e-3


# -- results --------------------------------------------------------------------------------------------------------
def test_products_of_infinities_and_of_the_largest_numbers() -> None:
    """An infinity split in two would be NaN; the largest numbers become infinite when they are rounded to tf32."""
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 32))
    graph = b.build(b.matmul(x, b.constant(np.eye(32, 16, dtype=np.float32))))
    given = floats(6, 32)
    given[0, 3], given[1, 4], given[2, 5], given[3, 6] = np.inf, -np.inf, np.nan, np.finfo(np.float32).max
    _, got = on_gpu(graph, {"x": given})
    with np.errstate(invalid="ignore"):
        want = given @ np.eye(32, 16, dtype=np.float32)
    np.testing.assert_allclose(got["output"], want, rtol=1e-6)
    assert got["output"][3, 6] == np.finfo(np.float32).max


@pytest.mark.parametrize("strides,dilations,channels", [((2, 1), (1, 1), 8), ((1, 1), (2, 2), 5)])
def test_convolutions_of_every_geometry(
    strides: tuple[int, int], dilations: tuple[int, int], channels: int
) -> None:  # fmt: skip
    graph = image(strides, dilations, channels)
    shape = graph.inputs[1].shape
    given = {"x": floats(2, 9, 11, channels), "r": floats(2, *(int(d) for d in shape[1:]))}
    bundle, got = on_gpu(graph, given)
    near(graph, given, got)
    assert not any(a["spills"] or a["stack"] for row in members(bundle)[1].values() for a in row.values())


def test_batches_of_products_and_reads_that_are_not_wide() -> None:
    """Rows of 33 elements begin anywhere, and so does what was cut out of a row."""
    b = fw.Builder()
    x, y = b.input("x", "f32", ("N", 12, 33)), b.input("y", "f32", ("N", 19, 33))
    z = b.input("z", "f32", (3, 40))
    cut = b.slice(z, starts=(1, 0), stops=(2, 40), steps=(1, 1))
    graph = b.build({"p": b.matmul(x, y, transpose_b=True), "q": b.tanh(b.reshape(cut, shape=(40,)))})
    given = {"x": floats(2, 12, 33), "y": floats(2, 19, 33), "z": floats(3, 40)}
    near(graph, given, on_gpu(graph, given)[1])


def test_interpolation() -> None:
    """Along two axes and one, with few taps and the many that a smooth reduction has."""
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 5, 9, 3))
    more = b.resize(x, sizes=(10, 4), method="linear")
    graph = b.build({"more": more, "less": b.resize(b.relu(x), sizes=(5, 3), method="cubic", antialias=True)})
    given = {"x": floats(2, 5, 9, 3)}
    bundle, got = on_gpu(graph, given)
    near(graph, given, got)
    assert [k["name"] for k in bundle.report().to_dict()["kernels"]].count("resample") == 2


def test_a_lost_barrier_is_found() -> None:
    """The negative control of the tiled kernels: without its barriers the interpreter sees the race."""
    import fusewright.backends.numba_cuda.bundle as backend

    graph, given = dense(), {"x": floats(70, 64)}
    whole = backend.build

    def without(sources: Any, progress: Any = None) -> Any:
        module = whole(sources, progress)
        assert module.ptx.count(b"bar.sync") >= 3
        return type(module)(module.ptx.replace(b"bar.sync \t0;", b""), {}, module.resources)

    backend.build = without
    try:
        with pytest.raises(Exception, match=r"(?i)race|unwritten|uninitiali"):
            on_gpu(graph, given)
    finally:
        backend.build = whole
