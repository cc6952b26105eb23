"""Windows over up to three spatial axes: ones that they pass over (one tap, stride 1, no pads), and padding alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.backends.numba_cpu.unjitted import run_plan
from fusewright.ir import Builder, Graph, Value
from fusewright.passes import default_pipeline
from fusewright.passes.memory.schedule import schedule

Window = tuple[int, ...]
IMAGE = (3, 4, 5)


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-4, 5, shape).astype("f4")


def _conv(groups: int, per_group: int) -> Callable[[Builder, Value, Window, Window], Value]:
    def build(b: Builder, x: Value, taps: Window, strides: Window) -> Value:
        channels = x.shape[-1]
        assert isinstance(channels, int)
        w = b.constant(_weights(*taps, channels // groups, groups * per_group))
        return b.conv(x, w, strides=strides, pads=[(k // 2, k // 2) for k in taps], groups=groups)

    return build


def _transposed(b: Builder, x: Value, taps: Window, strides: Window) -> Value:
    return b.conv_transpose(x, b.constant(_weights(*taps, 3, 18)), strides=strides)


def _pool(name: str) -> Callable[[Builder, Value, Window, Window], Value]:
    def build(b: Builder, x: Value, taps: Window, strides: Window) -> Value:
        return getattr(b, name)(x, window=taps, strides=strides, pads=[(k // 2, k // 2) for k in taps])

    return build


KINDS: dict[str, Callable[[Builder, Value, Window, Window], Value]] = {
    "conv": _conv(1, 16), "groups": _conv(3, 5), "depthwise": _conv(18, 1), "transposed": _transposed,
    "max_pool": _pool("max_pool"), "avg_pool": _pool("avg_pool"),
}  # fmt: skip


def _graph(kind: str, image: Window, taps: Window, strides: Window) -> Graph:
    b = Builder()
    x = b.input("x", "f32", ("N", *image, 18))
    return b.build({"y": KINDS[kind](b, x, taps, strides)})


@pytest.mark.parametrize("variant", ["cpu-avx2", "cpu-avx512"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_axis_may_be_one_that_the_window_passes_over(kind: str, variant: str) -> None:
    x = np.random.default_rng(0).integers(-8, 9, (2, *IMAGE, 18)).astype("f4")
    cases = [(taps, (1, 1, 1)) for taps in product((1, 3), repeat=3)]
    cases += [((1, 2, 2), (1, 2, 2)), ((1, 1, 3), (1, 2, 1)), ((2, 1, 1), (2, 1, 1)), ((1, 1, 1), (1, 1, 2))]
    for taps, strides in cases:
        graph = _graph(kind, IMAGE, taps, strides)
        after, _ = default_pipeline(cpu_target()).run(graph)
        got = run_plan(schedule(after, cpu_target()), {"x": x}, variant, chunks=2)["y"]
        # Small whole numbers: every order of summation is exact, and so is a mean but for its one division.
        np.testing.assert_allclose(
            got, graph.run({"x": x}, precision="f64")["y"], rtol=2**-22, err_msg=f"{taps} {strides}"
        )


@pytest.mark.parametrize("variant", ["cpu-avx2", "cpu-avx512"])
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_a_pool_over_padding_alone_is_minus_infinity_or_not_a_number(name: str, variant: str) -> None:
    for shape, pads in (((7, 5), ((1, 2), (0, 1))), ((3, 4, 5), ((2, 0), (3, 3), (0, 2)))):
        b = Builder()
        x = b.input("x", "f32", ("N", *shape, 1))
        taps = (1,) * len(shape)
        graph = b.build({"y": getattr(b, name)(x, window=taps, strides=taps, pads=pads)})
        given = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape, 1)
        want = np.pad(given, ((0, 0), *pads, (0, 0)), constant_values=-np.inf if name == "max_pool" else np.nan)
        after, _ = default_pipeline(cpu_target()).run(graph)
        got = run_plan(schedule(after, cpu_target()), {"x": given}, variant, chunks=2)["y"]
        np.testing.assert_array_equal(got, want)
