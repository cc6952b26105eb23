"""Kernel text to images: what comes out, what is refused, what a dying worker does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from fusewright.backends import workers
from fusewright.backends.numba_cpu.image import ALIGN, Code, assemble, flatten
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image, build_images
from fusewright.backends.numba_cpu.variants import DEFAULT_VARIANTS, VARIANTS, expand_target
from fusewright.backends.numba_cpu.worker import Codegen
from fusewright.core import poolwords
from fusewright.core.errors import CompileRefused
from fusewright.runtime.cpu import missing
from fusewright.runtime.image import NativeImage

HERE = [v for v in DEFAULT_VARIANTS if not missing(v)]
SCALE = """
def k(args, start, stop, scratch):
    x = pf32(args[0])
    y = pf32(args[1])
    for i in range(start, stop):
        y[i] = x[i] * f32({factor})
"""


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FUSEWRIGHT_CACHE", "off")
    yield


def call(image: NativeImage, symbol: str, words: list[int], stop: int, start: int = 0) -> None:
    block = np.array(words, np.int64)
    image.kernel(symbol)(block.ctypes.data, start, stop, 0)


@pytest.mark.parametrize("variant", HERE)
def test_a_kernel_computes(variant: str) -> None:
    image = build_image(
        [KernelSource("a", SCALE.format(factor=2.5)), KernelSource("b", SCALE.format(factor=-3))], variant
    )
    native = NativeImage(image.code, image.symbols)
    x = np.arange(1001, dtype=np.float32)
    for symbol, factor in (("a", 2.5), ("b", -3)):
        y = np.zeros_like(x)
        call(native, symbol, [x.ctypes.data, y.ctypes.data], 1000, 3)
        assert np.array_equal(y[3:1000], x[3:1000] * np.float32(factor))
        assert not y[:3].any() and y[1000] == 0


def test_every_image_has_the_dispatcher_and_aligned_kernels() -> None:
    images = build_images({v: [KernelSource("a", SCALE.format(factor=1.5))] for v in DEFAULT_VARIANTS})
    assert set(images) == set(DEFAULT_VARIANTS)
    for image in images.values():
        assert set(image.symbols) == {"run", poolwords.WORKER, "a"}
        assert len(image.code) < 20_000


def test_equal_text_compiles_once() -> None:
    text = SCALE.format(factor=4)
    seen: list[tuple[int, int]] = []
    image = build_image(
        [KernelSource("a", text), KernelSource("b", text), KernelSource("c", text, ("contract",))],
        HERE[0],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert image.symbols["a"] == image.symbols["b"] != image.symbols["c"]
    assert seen[-1] == (4, 4)  # run, worker and two texts


def test_the_same_bytes_from_different_processes(uncached: None) -> None:
    sources = [KernelSource(f"k{i}", SCALE.format(factor=i)) for i in range(4)]
    first = build_image(sources, HERE[0], jobs=1)
    workers.WORKERS.close()
    second = build_image(sources, HERE[0], jobs=2)
    assert first == second


def test_fills_and_copies_call_nothing_outside() -> None:
    text = """
def k(args, start, stop, scratch):
    x = pu8(args[0])
    y = pu8(args[1])
    for i in range(start, stop):
        x[i] = u8(0)
    for i in range(start, stop):
        y[i] = x[i]
"""
    image = build_image([KernelSource("a", text)], HERE[0])
    x, y = np.ones(5000, np.uint8), np.ones(5000, np.uint8)
    call(NativeImage(image.code, image.symbols), "a", [x.ctypes.data, y.ctypes.data], 4999)
    assert not x[:4999].any() and not y[:4999].any() and x[4999] == y[4999] == 1


def test_helpers_in_the_text_are_compiled_with_it() -> None:
    text = """
def twice(v):
    return v + v

def four(v):
    return twice(twice(v))

def kernel_of_any_name(args, start, stop, scratch):
    x = pf64(args[0])
    for i in range(start, stop):
        x[i] = four(x[i])
"""
    image = build_image([KernelSource("a", text)], HERE[0])
    x = np.ones(7)
    call(NativeImage(image.code, image.symbols), "a", [x.ctypes.data], 6)
    assert x.tolist() == [4.0] * 6 + [1.0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pf64(args[0])[0] = f64(args[1]) ** 0.3", "outside symbol 'pow'"),
        ("pf64(args[0])[0] = no_such_name(start)", "no_such_name"),
        ("pf64(args[0])[0] = exp(start)", "exp"),
        ("1 +", "SyntaxError"),
    ],
)
def test_a_bad_kernel_is_refused_with_its_text(body: str, words: str) -> None:
    text = f"def k(args, start, stop, scratch):\n    {body}\n"
    with pytest.raises(CompileRefused) as caught:
        build_image([KernelSource("a", text)], HERE[0])
    assert words in str(caught.value) and body in str(caught.value)


def test_a_refusal_leaves_the_workers_usable(uncached: None) -> None:
    with pytest.raises(CompileRefused):
        build_image([KernelSource("a", "x = 1\n")], HERE[0])
    assert "b" in build_image([KernelSource("b", SCALE.format(factor=7))], HERE[0]).symbols


def test_a_dying_worker_is_a_typed_refusal(uncached: None) -> None:
    build_image([], HERE[0], jobs=1)
    for worker in workers.WORKERS._idle[HERE[0]]:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    with pytest.raises(CompileRefused, match="died"):
        build_image([KernelSource("a", SCALE.format(factor=9))], HERE[0], jobs=1)
    workers.WORKERS.close()
    assert "a" in build_image([KernelSource("a", SCALE.format(factor=9))], HERE[0], jobs=1).symbols


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(CompileRefused, match="two kernels"):
        build_image([KernelSource("a", "1"), KernelSource("a", "2")], HERE[0])
    with pytest.raises(CompileRefused, match="two kernels"):
        build_image([KernelSource("run", "1")], HERE[0])
    with pytest.raises(CompileRefused, match="unknown CPU variant"):
        build_image([], "cpu-pentium")
    with pytest.raises(CompileRefused, match="unknown CPU target"):
        expand_target("gpu")
    assert expand_target("cpu") == DEFAULT_VARIANTS and expand_target("cpu-avx2") == ("cpu-avx2",)


def test_what_is_no_object_file_is_refused() -> None:
    with pytest.raises(CompileRefused, match="ELF"):
        flatten(b"\x7fELF" + bytes(100), "k")


def test_kernels_are_laid_out_on_boundaries() -> None:
    image = assemble([(["a"], Code(b"x" * 10, 2)), (["b", "c"], Code(b"y" * 70, 0))])
    assert image.symbols == {"a": 2, "b": ALIGN, "c": ALIGN}
    assert image.code[10:ALIGN] == b"\xcc" * (ALIGN - 10) and len(image.code) == ALIGN + 70


@pytest.mark.parametrize(("variant", "wide"), [("cpu-avx2", False), ("cpu-avx512", True), ("cpu-avx512bf16", True)])
def test_a_variant_uses_its_own_vectors_only(variant: str, wide: bool) -> None:
    codegen = Codegen(VARIANTS[variant])
    codegen.request("kernel", SCALE.format(factor=2.5), [])
    text = codegen.machine.emit_assembly(codegen.last)
    assert "%ymm" in text or "%zmm" in text
    assert ("%zmm" in text) is wide


SUM = """
def k(args, start, stop, scratch):
    x = pf32(args[0])
    y = pf32(args[1])
    for u in range(start, stop):
        total = f32({seed})
        for i in range({count}):
            total = total + x[u * {count} + i]
        y[u] = total
"""
GATE = """
def k(args, start, stop, scratch):
    x = pf32(args[0])
    y = pf32(args[1])
    for u in range(start, stop):
        for i in range({count}):
            y[u * {count} + i] = silu(x[u * {count} + i])
"""


def test_only_loops_with_vector_calls_keep_their_shape(uncached: None) -> None:
    texts = {
        "short sum": SUM.format(seed=0, count=4),
        "long sum": SUM.format(seed=0, count=16),
        "short gate": GATE.format(count=8),
        "long gate": GATE.format(count=64),
        "last sum": SUM.format(seed=1, count=16),
    }
    # One process compiles all of them: what it does for one kernel says nothing about the next.
    image = build_image([KernelSource(name, text) for name, text in texts.items()], "cpu-avx512bf16", jobs=1)
    places = sorted([*image.symbols.values(), len(image.code)])
    size = {name: places[places.index(at) + 1] - at for name, at in image.symbols.items()}
    # Without the unroller, sums of any length take the same code; with it, eight gates are eight calls taken apart.
    assert min(size["long sum"], size["last sum"]) > size["short sum"]
    assert size["short gate"] < size["long gate"]
