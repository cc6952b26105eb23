"""Kernels that somebody registered for GPUs: one thread per unit, threads together, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.templates.template import Template, TextBuilder
from fusewright.backends.registry import unregister_kernel
from fusewright.core.dims import product
from fusewright.ir.opdef import OPS
from fusewright.testing.kernels import check_kernels

from fake_driver import fake_gpu

NAME = "rows_doubled_on_gpu"


@pytest.fixture(autouse=True)
def op() -> Iterator[None]:
    fw.define_op(
        fw.OpDef(NAME, ("x",), "opaque", OPS["neg"].infer, decompose=lambda b, v, a: b.add(v[0], v[0]), doc="x + x")
    )  # fmt: skip
    yield
    for target in ("cpu", "cuda"):
        unregister_kernel(NAME, target)
    del OPS[NAME]


def graph() -> fw.Graph:
    b: Any = fw.Builder()
    return b.build({"y": b.neg(getattr(b, NAME)(b.exp(b.input("x", "f32", ("N", 40)))))})


def single(factor: float) -> Any:
    """One thread per element."""

    def make(node: Any, variant: Any) -> Template:
        assert variant == "cuda"
        t = TextBuilder("doubled")
        t.pointer("x", "operand", 0)
        t.pointer("y", "output", 0)
        t.add(0, f"a = pf32(x)\nb = pf32(y)\nfor i in range(start, stop):\n    b[i] = a[i] * f32({factor})")
        return Template(t.source(), t.entry, tuple(t.args), product(node.operands[0].shape), 1)

    return make


def together(threads: int = 64, barrier: bool = True, scratch: int = 0) -> Any:
    """A block per row, through shared memory, turned round twice: threads read what others wrote."""

    def make(node: Any, variant: Any) -> Template:
        n = int(node.operands[0].shape[-1])
        t = TextBuilder("doubled")
        t.pointer("x", "operand", 0)
        t.pointer("y", "output", 0)
        t.add(0, f"a = pf32(x)\nb = pf32(y)\nroom = sf32(shared({4 * n}))\nfor row in range(start, stop):")
        t.add(1, f"for i in range(thread(), {n}, {threads}):\n    room[{n} - 1 - i] = a[row * {n} + i] * f32(2)")
        t.add(1, "barrier()" if barrier else "c = 0")
        t.add(1, f"for i in range(thread(), {n}, {threads}):\n    b[row * {n} + {n} - 1 - i] = room[i]")
        if barrier:
            t.add(1, "barrier()")
        extent = product(node.operands[0].shape[:-1])
        return Template(t.source(), t.entry, tuple(t.args), extent, 1, scratch, together=threads)

    return make


FEEDS = {"x": np.linspace(-1, 1, 120, dtype=np.float32).reshape(3, 40)}


@pytest.mark.parametrize("make,right", [(single(2.0), True), (single(2.5), False), (together(), True)])
def test_a_registered_kernel_is_the_one_that_runs(make: Any, right: bool) -> None:
    fw.register_kernel(NAME, target="cuda")(make)
    with fake_gpu((8, 6)) as gpu:
        got = fw.compile(graph(), target="cuda").run(FEEDS)["y"]
        assert sum(name.startswith("doubled_") for name in gpu.launched) == 1
        assert all(v.ok for v in check_kernels(graph(), FEEDS, target="cuda")) is right
    factor = 2.0 if right else 2.5
    np.testing.assert_allclose(got, -np.exp(FEEDS["x"].astype("f8")) * factor, rtol=1e-6)


def test_one_targets_kernel_is_not_the_others() -> None:
    fw.register_kernel(NAME, target="cuda")(single(2.5))
    y = fw.compile(graph(), target=["cpu", "cuda"])(FEEDS["x"])  # no GPU here: the processor's code
    np.testing.assert_allclose(y, -np.exp(FEEDS["x"].astype("f8")) * 2, rtol=1e-6)


def test_threads_that_do_not_meet_are_found() -> None:
    fw.register_kernel(NAME, target="cuda")(together(barrier=False))
    with fake_gpu((8, 6)) as gpu, pytest.raises(fw.DeviceFailed):
        fw.compile(graph(), target="cuda").run(FEEDS)
    assert type(gpu.fault).__name__ in ("Race", "MemoryFault")


@pytest.mark.parametrize("make,why", [(together(48), "multiple of 32"), (together(2048), "1024"),
                                      (together(64, scratch=8), r"use shared\(bytes\)")])  # fmt: skip
def test_what_no_launch_can_have_is_refused(make: Any, why: str) -> None:
    fw.register_kernel(NAME, target="cuda")(make)
    with pytest.raises(fw.CompileRefused, match=why):
        fw.compile(graph(), target="cuda")
