"""Products of 16-bit floats on tensor cores: weights as bf16 in mode ``fast``, and graphs of f16 and bf16.

The PTX that ships runs in the interpreter of ``tests/cuda``. Bounds are those of rounding each operand once.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.dtypes import bf16_to_f32, f32_to_bf16
from fusewright.core.manifest import parse_canonical
from fusewright.core.plan import Plan
from fusewright.runtime.cuda.bundle import CudaBundle
from fusewright.runtime.format import Container

from fake_driver import fake_gpu
from ptx.memory import MemoryFault
from ptx.shared import Race

RNG = np.random.default_rng(41)
BF16, F16, TF32 = (f"{shape}.row.col.f32.{t}.{t}.f32" for shape, t in (
    ("m16n8k16", "bf16"), ("m16n8k16", "f16"), ("m16n8k8", "tf32"),
))  # fmt: skip
ROUNDED = 2.0**-8 * 1.01  # two factors, each off by at most 2^-9 of itself


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def compiled(
    graph: fw.Graph, feeds: dict[str, np.ndarray], numerics: str = "strict", registers: int = 128
) -> tuple[np.ndarray, str, Any]:
    """The result, the PTX and the bundle. Copies of less than 16 bytes may take more ``registers``."""
    with fake_gpu((8, 6)):
        bundle = fw.compile(graph, target="cuda", numerics=numerics)
        (got,) = bundle.run(feeds).values()
    read = bundle._container.read
    table = parse_canonical(bytes(read("native/cuda/resources.json")), "resources.json")["kernels"]
    for symbol, archs in table.items():
        for used in archs.values():
            assert used["spills"] == used["stack"] == 0 and used["registers"] <= registers, symbol
            assert used["shared"] <= 48 << 10, symbol
    return got, bytes(read("native/cuda/kernels.ptx")).decode(), bundle


def inside(got: np.ndarray, exact: np.ndarray, sizes: np.ndarray, least: float, most: float) -> None:
    """``sizes``: the sums of the terms' absolute values. The error is at most ``most`` of them, somewhere ``least``."""
    error = np.abs(np.asarray(got, np.float64) - exact)
    assert (error <= most * sizes).all() and (error > least * sizes).any(), (error / sizes).max()


# -- mode fast --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("depth,columns,across", [(64, 40, False), (300, 36, False), (36, 20, True), (264, 40, True)])
def test_weights_are_rounded_to_bf16(rows: int, depth: int, columns: int, across: bool) -> None:
    """Rows of weights that are no whole 16 bytes are filled up."""
    x, w = floats(rows, depth), floats(*((columns, depth) if across else (depth, columns)))
    b = fw.Builder()
    graph = b.build(b.matmul(b.input("x", "f32", ("N", depth)), b.constant(w), transpose_b=across))
    got, ptx, bundle = compiled(graph, {"x": x}, "fast")
    exact, sizes = (f(x).astype("f8") @ f(w.T if across else w).astype("f8") for f in (np.asarray, np.abs))
    inside(got, exact, sizes, 2.0**-12, ROUNDED)
    assert BF16 in ptx and TF32 not in ptx and "ldmatrix.sync.aligned.m8n8.x4" in ptx
    assert ("ldmatrix.sync.aligned.m8n8.x4.trans" in ptx) != across
    assert bundle.manifest.numerics == "fast"
    plan = Plan.from_bytes(bytes(bundle._container.read("native/cuda/plan.json")))
    assert all(k.name.endswith("_bf16") for k in plan.kernels)


def test_convolutions_and_their_tails_in_bf16() -> None:
    x, w = floats(2, 9, 11, 8), floats(3, 3, 8, 24)
    b = fw.Builder()
    y = b.conv(b.input("x", "f32", ("N", 9, 11, 8)), b.constant(w), strides=(2, 1), pads=((1, 1), (2, 1)))
    graph = b.build(b.abs(b.add(y, floats(24))))
    plain = fw.Builder()
    size = plain.conv(plain.constant(np.abs(x)), plain.constant(np.abs(w)), strides=(2, 1), pads=((1, 1), (2, 1)))
    (sizes,) = plain.build(size).run({}, precision="f64").values()
    got, ptx, _ = compiled(graph, {"x": x}, "fast")
    (exact,) = graph.run({"x": x}, precision="f64").values()
    inside(got, exact, sizes, 2.0**-12, ROUNDED)
    assert BF16 in ptx


def test_infinities_are_as_in_float32_whatever_is_rounded() -> None:
    """The largest number is infinite as bf16, and infinity times a weight that is rounded to zero would be NaN."""
    w = np.eye(32, 16, dtype=np.float32)
    w[5, 5] = 1e-45
    b = fw.Builder()
    graph = b.build(b.matmul(b.input("x", "f32", ("N", 32)), b.constant(w)))
    x = floats(3, 32)
    x[0, 3], x[1, 5] = np.finfo(np.float32).max, np.inf
    got, ptx, _ = compiled(graph, {"x": x}, "fast")
    with np.errstate(invalid="ignore", under="ignore"):
        want = x @ w
    assert BF16 in ptx and got[0, 3] == np.finfo(np.float32).max and got[1, 5] == np.inf
    assert (np.isnan(got) == np.isnan(want)).all()


# -- graphs of 16-bit floats ------------------------------------------------------------------------------------------
def stored(values: np.ndarray, kind: str) -> np.ndarray:
    return values.astype(np.float16) if kind == "f16" else bf16_to_f32(f32_to_bf16(values))


def constant(b: fw.Builder, values: np.ndarray, kind: str) -> Any:
    return b.cast(b.constant(values), to=kind)


@pytest.mark.parametrize("kind,opcode", [("f16", F16), ("bf16", BF16)])
@pytest.mark.parametrize("depth,columns,across", [(64, 40, False), (300, 36, False), (264, 22, True)])
def test_products_of_half_precision(kind: str, opcode: str, depth: int, columns: int, across: bool) -> None:
    x = stored(floats(37, depth) / 8, kind)
    w = stored(floats(*((columns, depth) if across else (depth, columns))), kind)
    b = fw.Builder()
    graph = b.build(b.matmul(b.input("x", kind, ("N", depth)), b.input("w", kind, w.shape), transpose_b=across))
    got, ptx, _ = compiled(graph, {"x": x, "w": w}, registers=128 if columns == 40 else 200)
    exact, sizes = (f(x).astype("f8") @ f(w.T if across else w).astype("f8") for f in (np.asarray, np.abs))
    step = 2.0**-11 if kind == "f16" else 2.0**-8
    inside(got, exact, np.abs(exact) + depth * 2.0**-10 * sizes + 1e-7, step / 64, step * 1.01)
    assert opcode in ptx and TF32 not in ptx


def test_convolutions_of_half_precision_and_odd_channels() -> None:
    """Two channels fit a copy of four bytes; five do not, and plain loops serve them."""
    for channels, tensor in ((8, True), (6, True), (5, False)):
        x, w = stored(floats(2, 7, 9, channels), "f16"), stored(floats(3, 3, channels, 18) / 8, "f16")
        b = fw.Builder()
        y = b.conv(b.input("x", "f16", ("N", 7, 9, channels)), b.input("w", "f16", w.shape), strides=(1, 1),
                   pads=((1, 1), (1, 1)))  # fmt: skip
        graph = b.build(y)
        got, ptx, _ = compiled(graph, {"x": x, "w": w}, registers=200)
        (exact,) = graph.run({"x": x, "w": w}, precision="f64").values()
        assert np.abs(got.astype("f8") - exact).max() <= 2.0**-11 * 1.01 * np.abs(exact).max()
        assert (F16 in ptx) == tensor


# -- negative controls ------------------------------------------------------------------------------------------------
def test_what_is_left_out_is_found() -> None:
    x, w = floats(70, 112), floats(112, 64)
    b = fw.Builder()
    graph = b.build(b.matmul(b.input("x", "f32", (70, 112)), b.constant(w)))
    want, ptx, bundle = compiled(graph, {"x": x}, "fast")

    def faults(pattern: str, by: str = "") -> list[Any]:
        out = []
        for m in re.finditer(pattern, ptx):
            text = ptx[: m.start()] + m.expand(by) + ptx[m.end() :]
            with fake_gpu(rewrite=lambda _, text=text: text) as gpu:
                try:
                    got = CudaBundle(Container.open(bundle._container.data)).run({"x": x})["output"]
                    out.append(gpu.fault if (got == want).all() else "other")
                except fw.FusewrightError:
                    out.append(type(gpu.fault))
        return out

    assert set(faults(r"bar(?:rier)?\.sync[^;]*;")) == {Race}
    assert set(faults(r"mma\.sync[^;]*;")) == {"other"}
    assert set(faults(r"(ldmatrix\.sync[^;\[]*\[%rd?\d+)(?:\+\d+)?\];", r"\1+65536];")) == {MemoryFault}
    moved = faults(r"(cp\.async\.cg\.shared\.global\s+\[%r\d+)\]", r"\1+16]")
    assert moved and set(moved) <= {Race, MemoryFault, "other"}
