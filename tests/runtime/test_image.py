"""Machine code in memory: protection, symbols, lifetime."""

from __future__ import annotations

import gc
import time

import pytest

from fusewright.backends.numba_cpu.toolchain import build_image
from fusewright.core.errors import BundleRefused
from fusewright.runtime import cpu
from fusewright.runtime.image import NativeImage

RETURN = b"\xc3"  # ret


def mapping(address: int) -> str | None:
    """The protection of the mapping that holds ``address``."""
    with open("/proc/self/maps") as file:
        for line in file:
            span, protection = line.split()[:2]
            low, high = (int(v, 16) for v in span.split("-"))
            if low <= address < high:
                return protection
    return None


def test_code_is_executable_and_never_writable() -> None:
    image = NativeImage(RETURN * 8192, {"a": 0, "b": 4096})
    for symbol in ("a", "b"):
        assert mapping(image.address(symbol)) == "r-xp"
        image.kernel(symbol)(0, 0, 0, 0)
    assert image.address("a") % 64 == 0 and image.run is None


def test_the_mapping_goes_with_the_image_unless_pinned() -> None:
    image, kept = NativeImage(RETURN * 3_000_000, {"a": 0}), NativeImage(RETURN * 3_000_000, {"a": 0})
    first, second = image.address("a"), kept.address("a")
    kept.pin()
    del image, kept
    gc.collect()
    assert mapping(second) == "r-xp" and mapping(first) != "r-xp"


def test_bad_images_are_refused() -> None:
    with pytest.raises(BundleRefused, match="empty"):
        NativeImage(b"", {})
    for offset in (-1, 1):
        with pytest.raises(BundleRefused, match="outside"):
            NativeImage(RETURN, {"a": offset})
    with pytest.raises(BundleRefused, match="no symbol"):
        NativeImage(RETURN, {"a": 0}).address("b")


def test_loading_is_quick() -> None:
    code = RETURN * 1_000_000
    took = []
    for _ in range(10):
        start = time.perf_counter()
        NativeImage(code, {"a": 0})
        took.append(time.perf_counter() - start)
    assert min(took) < 5e-3


def test_variants_and_features() -> None:
    assert cpu.missing("cpu-z80") == ("cpu-z80",)
    runnable = [v for v in cpu.REQUIRED if not cpu.missing(v)]
    best = cpu.best(cpu.REQUIRED)
    assert best in runnable if runnable else best is None
    assert cpu.best([]) is None and cpu.best(["cpu-z80"]) is None
    if "cpu-avx2" in runnable:
        assert cpu.best(["cpu-avx2"]) == "cpu-avx2"
        image = build_image([], "cpu-avx2")
        assert NativeImage(image.code, image.symbols).run is not None
