"""Convolutions in groups on GPUs: depthwise ones directly, wide groups on tensor cores, the others by plain loops.

The PTX that ships runs in the interpreter of ``tests/cuda``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.select.epilogue import Contraction
from fusewright.backends.numba_cpu.templates.epilogue import Epilogue
from fusewright.backends.numba_cuda import depthwise
from fusewright.core.errors import DeviceFailed
from fusewright.core.manifest import parse_canonical
from fusewright.core.plan import Plan

from fake_driver import fake_gpu
from ptx.memory import MemoryFault
from sanitised import both_ways

RNG = np.random.default_rng(51)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def image(size: tuple[int, int], w: np.ndarray, groups: int, **attrs: Any) -> fw.Graph:
    """A convolution with a tail of every kind: per channel, scalar, elementwise."""
    b = fw.Builder()
    x = b.input("x", "f32", ("N", *size, w.shape[2] * groups))
    attrs = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)} | attrs
    y = b.conv(x, b.constant(w), groups=groups, **attrs)
    y = b.minimum(b.relu(y * floats(w.shape[-1]) + floats(w.shape[-1])), np.float32(20.0))
    return b.build(y + b.input("r", "f32", y.shape))


def run(graph: fw.Graph, n: int, numerics: str = "strict", bound: float = 1e-6) -> tuple[str, list[str]]:
    """The PTX and the names of the kernels, after the result was found right in every layout."""
    feeds = {v.name: floats(n, *(int(d) for d in v.shape[1:])) for v in graph.inputs}
    bundle = fw.compile(graph, target="cuda", numerics=numerics)
    with fake_gpu((8, 6)) as gpu:
        (got,) = both_ways(gpu, bundle._container.data, feeds).values()
    (want,) = graph.run(feeds, precision="f64").values()
    assert np.abs(got - want).max() <= bound * np.abs(want).max()
    read = bundle._container.read
    table = parse_canonical(bytes(read("native/cuda/resources.json")), "resources.json")["kernels"]
    for symbol, archs in table.items():
        for used in archs.values():
            assert used["spills"] == used["stack"] == 0 and used["registers"] <= 128, symbol
    plan = Plan.from_bytes(bytes(read("native/cuda/plan.json")))
    return bytes(read("native/cuda/kernels.ptx")).decode(), [k.name for k in plan.kernels]


@pytest.mark.parametrize("pixels", [1, 2, 4])
@pytest.mark.parametrize(
    "window,attrs",
    [
        ((3, 3), {}),
        ((5, 5), {"pads": ((2, 2), (1, 3))}),
        ((3, 3), {"strides": (2, 2), "pads": ((0, 1), (0, 1))}),
        ((2, 3), {"dilations": (1, 2), "pads": ((0, 0), (0, 0))}),
    ],
)
def test_depthwise(window: tuple[int, int], attrs: Any, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "_PIXELS", (pixels, 1))
    monkeypatch.setattr(depthwise, "_THREADS", 1)
    graph = image((9, 11), floats(*window, 1, 12), 12, **attrs)
    ptx, names = run(graph, 2)
    assert [n for n in names if "depthwise" in n] and not any("conv" in n for n in names)
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx


def test_what_the_direct_kernel_does_not_serve() -> None:
    """Channels that are no whole 16 bytes, two results per channel, weights of the call and weights that are infinite:
    beside the image these meet nothing."""
    infinite = floats(3, 3, 1, 8)
    infinite[0, 0, 0, 0] = np.inf
    for w, groups in ((floats(3, 3, 1, 6), 6), (floats(3, 3, 1, 16), 8), (infinite, 8)):
        graph = image((5, 6), w, groups)
        bundle = fw.compile(graph, target="cuda")
        plan = Plan.from_bytes(bytes(bundle._container.read("native/cuda/plan.json")))
        assert not any("depthwise" in k.name for k in plan.kernels)
        feeds = {v.name: floats(1, *(int(d) for d in v.shape[1:])) for v in graph.inputs}
        with fake_gpu((8, 6)), np.errstate(all="ignore"):
            (got,) = fw.compile(graph, target="cuda").run(feeds).values()
        assert np.isfinite(got[..., 1:]).all()


def test_more_pixels_per_thread_where_there_are_many() -> None:
    def pixels(size: int, channels: int) -> int:
        b = fw.Builder()
        x = b.input("x", "f32", ("N", size, size, channels))
        w = b.constant(floats(3, 3, 1, channels))
        node = b.conv(x, w, strides=(1, 1), pads=((1, 1), (1, 1)), groups=channels).producer
        found = Contraction(node, (0, 1), Epilogue(), ())
        plan = depthwise.read(found, node, {1: node.operands[1].const}, lambda v: True)
        assert plan is not None
        return plan.pixels

    assert [pixels(*s) for s in ((112, 32), (28, 192), (7, 960))] == [4, 2, 1]


def test_a_read_beside_the_image_is_found() -> None:
    """The negative control: without the test of columns, the first thread reads before the image."""
    graph = image((5, 6), floats(3, 3, 1, 8), 8)
    feeds = {v.name: floats(1, *(int(d) for d in v.shape[1:])) for v in graph.inputs}
    bundle = fw.compile(graph, target="cuda")
    ptx = bytes(bundle._container.read("native/cuda/kernels.ptx")).decode()
    lines = [i for i, line in enumerate(ptx.splitlines()) if "selp.b64" in line]
    faults = set()
    for at in lines[:4]:
        text = ptx.splitlines()
        target, first = text[at].replace(";", "").split()[1:3]
        text[at] = f"\tmov.b64 {target} {first.rstrip(',')};"
        with fake_gpu(rewrite=lambda _, text=text: "\n".join(text)) as gpu:
            try:
                both_ways(gpu, bundle._container.data, feeds)
            except (DeviceFailed, AssertionError):
                faults.add(type(gpu.fault))
    assert MemoryFault in faults


@pytest.mark.parametrize("numerics,bound", [("strict", 1e-6), ("fast", 2e-2)])
@pytest.mark.parametrize("inner,outer,groups,attrs", [
    (12, 20, 3, {}), (16, 32, 2, {"strides": (2, 1), "pads": ((0, 1), (1, 1))}),
    (40, 18, 2, {"pads": ((0, 0), (0, 0))}),
])  # fmt: skip
def test_wide_groups_on_tensor_cores(
    inner: int, outer: int, groups: int, attrs: Any, numerics: str, bound: float
) -> None:
    window = (1, 1) if inner == 40 else (3, 3)
    graph = image((6, 7), floats(*window, inner, outer * groups), groups, **attrs)
    ptx, names = run(graph, 2, numerics, bound)
    unit = "m16n8k8.row.col.f32.tf32" if numerics == "strict" else "m16n8k16.row.col.f32.bf16"
    assert unit in ptx and all("64x32" in n for n in names if n.startswith("conv"))


def test_segments_of_groups() -> None:
    """Few blocks and long sums: the groups' segments lie side by side, too."""
    graph = image((4, 5), floats(3, 3, 48, 64), 2)
    _, names = run(graph, 1)
    assert len(names) == 2


def test_infinities_in_groups_are_computed_again() -> None:
    b = fw.Builder()
    x = b.input("x", "f32", (1, 3, 3, 64))
    w = np.zeros((1, 1, 32, 32), np.float32)
    w[0, 0, 3, 20] = 1.0
    graph = b.build(b.conv(x, b.constant(w), strides=(1, 1), pads=((0, 0), (0, 0)), groups=2))
    given = floats(1, 3, 3, 64)
    given[0, 1, 1, 35] = np.finfo(np.float32).max
    with fake_gpu((8, 6)):
        (got,) = fw.compile(graph, target="cuda").run({"x": given}).values()
    assert got[0, 1, 1, 20] == np.finfo(np.float32).max and (got[..., :20] == 0).all()
