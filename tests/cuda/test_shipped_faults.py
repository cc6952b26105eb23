"""Faults put into the PTX that the compiler ships: every one of them is found."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import DeviceFailed
from fusewright.runtime.cuda.bundle import CudaBundle
from fusewright.runtime.format import Container

from fake_driver import fake_gpu
from ptx.memory import MemoryFault
from ptx.shared import Race
from sanitised import spread

RNG = np.random.default_rng(21)


@pytest.fixture(scope="module")
def product() -> tuple[memoryview, dict[str, np.ndarray], np.ndarray]:
    """A bundle with one contraction on tensor cores, its input, and what comes out."""
    w = RNG.normal(size=(112, 64)).astype("f4")
    b = fw.Builder()
    graph = b.build(b.relu(b.matmul(b.input("x", "f32", (70, 112)), w)))
    x = RNG.normal(size=(70, 112)).astype("f4")
    with fake_gpu(), quiet():
        data = fw.compile(graph, target="cuda")._container.data
    return data, {"x": x}, np.maximum(x.astype("f8") @ w, 0)


class quiet(warnings.catch_warnings):
    """No warning about PTX."""

    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.simplefilter("ignore", RuntimeWarning)
        return found


def outcome(rewrite: Callable[[str], str], product: Any, **gpu_is: Any) -> tuple[BaseException | None, float]:
    """(what the interpreter found, largest error) of a run with changed PTX."""
    data, feeds, want = product
    with fake_gpu(rewrite=rewrite, **gpu_is) as gpu, quiet(), spread(gpu):
        try:
            got = CudaBundle(Container.open(data)).run(feeds)["output"]
        except DeviceFailed:
            return gpu.fault, 0.0
        return gpu.fault, float(np.abs(got - want).max())


def each(pattern: str, text: str) -> Iterator[Callable[[str], str]]:
    """One rewrite for every place where an instruction stands: it is left out there."""
    for m in re.finditer(pattern, text):
        yield lambda t, m=m: t[: m.start()] + t[m.end() :]  # type: ignore[misc]


def shipped(product: Any) -> str:
    return Container.open(product[0]).read("native/cuda/kernels.ptx").decode()


def test_as_shipped_nothing_is_found(product: Any) -> None:
    fault, error = outcome(lambda text: text, product)
    assert fault is None and error < 1e-4


def test_every_barrier_is_needed(product: Any) -> None:
    rewrites = list(each(r"bar(?:rier)?\.sync[^;]*;", shipped(product)))
    assert len(rewrites) >= 2
    assert {type(outcome(r, product)[0]) for r in rewrites} == {Race}


def test_reading_before_a_copy_has_landed_is_found(product: Any) -> None:
    found = [outcome(r, product) for r in each(r"cp\.async\.wait_group[^;]*;", shipped(product))]
    assert Race in [type(fault) for fault, _ in found]
    # A wait behind the last copy has nothing to wait for: without it all is as it was.
    assert all(isinstance(fault, Race) or fault is None and error < 1e-4 for fault, error in found)


def test_addresses_that_are_off_are_found(product: Any) -> None:
    text = shipped(product)
    copies = list(re.finditer(r"(cp\.async\.cg\.shared\.global\s+\[[^\]]+\],\s*\[)(%rd\d+)(?:\+(\d+))?\]", text))
    assert copies
    for by in (4, 1 << 20):
        for m in copies[:3]:
            moved = f"{m[1]}{m[2]}+{int(m[3] or 0) + by}]"
            fault, _ = outcome(lambda t, m=m, moved=moved: t[: m.start()] + moved + t[m.end() :], product)
            assert isinstance(fault, MemoryFault), m[0]


def test_a_store_past_the_result_is_found(product: Any) -> None:
    text = shipped(product)
    m = next(re.finditer(r"(st\.global\.[\w.]+\s+\[%rd\d+)(?:\+(\d+))?\]", text))
    moved = f"{m[1]}+{int(m[2] or 0) + 4}]"
    fault, _ = outcome(lambda t: t[: m.start()] + moved + t[m.end() :], product)
    assert isinstance(fault, MemoryFault)


def test_a_product_that_is_left_out_shows_in_the_result(product: Any) -> None:
    errors = [outcome(r, product)[1] for r in list(each(r"mma\.sync[^;]*;", shipped(product)))[:6]]
    assert min(errors) > 0.0 and max(errors) > 1e-3
