"""Kernels as they stand in whole nets: each inside its own error bound, on the values that a run feeds to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.select.kernels import choose
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.ir.program import Run
from fusewright.passes.pipeline import Pipeline
from fusewright.testing import kernels
from fusewright.testing.kernels import KernelVerdict, available_variants, check_kernels

Net = Callable[[np.random.Generator, Any], fw.Graph]


def array(rng: np.random.Generator, *shape: int, scale: float = 0.3) -> np.ndarray:
    return rng.normal(0, scale, shape).astype(np.float32)


def convolutions(rng: np.random.Generator, b: Any) -> fw.Graph:
    """First layer, depthwise, squeeze and excite, residual; 24 and 40 channels end inside a block."""
    same = ((1, 1), (1, 1))
    x = b.input("x", "f32", ("N", 13, 13, 3))
    y = b.relu(b.add(b.conv(x, array(rng, 3, 3, 3, 24), strides=(2, 2), pads=same), array(rng, 24)))
    y = b.clip(b.add(b.conv(y, array(rng, 3, 3, 1, 24), pads=same, groups=24), array(rng, 24)), 0.0, 6.0)
    gate = b.reduce_mean(y, axes=(1, 2), keepdims=True)
    gate = b.sigmoid(b.conv(b.silu(b.conv(gate, array(rng, 1, 1, 24, 8))), array(rng, 1, 1, 8, 24)))
    y = b.mul(y, gate)
    z = b.add(b.conv(y, array(rng, 1, 1, 24, 40)), array(rng, 40))
    z = b.add(z, b.conv(b.elu(z), array(rng, 3, 3, 40, 40), pads=same))
    z = b.concat(b.max_pool(z, window=3, strides=2, pads=same), b.avg_pool(z, window=3, strides=2, pads=same), axis=-1)
    z = b.batch_norm(z, array(rng, 80), np.abs(array(rng, 80)) + 0.5, array(rng, 80), array(rng, 80))
    return b.build(b.softmax(b.matmul(b.reduce_mean(z, axes=(1, 2)), array(rng, 80, 10)), axes=-1))


def filling_lanes(rng: np.random.Generator, b: Any) -> fw.Graph:
    """Division makes NaN and infinities of the lanes that only fill up a block; the next convolution skips them."""
    x = b.input("x", "f32", ("N", 6, 7, 20))
    y = b.conv(x, array(rng, 3, 3, 20, 20))
    y = b.div(y, b.abs(b.conv(x, array(rng, 3, 3, 20, 20))) + 0.5)
    y = b.conv(b.log1p(b.reciprocal(b.square(y) + 1.0)), array(rng, 3, 3, 20, 36), pads=((1, 1), (1, 1)))
    return b.build(y, b.reduce_max(b.conv(y, array(rng, 1, 1, 36, 17)), axes=(1, 2)))


def groups(rng: np.random.Generator, b: Any) -> fw.Graph:
    """Groups of 4 behind lanes that only fill up a block and hold infinities, of whole blocks, and of 24 channels."""
    same = ((1, 1), (1, 1))
    x = b.input("x", "f32", ("N", 6, 7, 20))
    y = b.reciprocal(b.square(b.conv(x, array(rng, 1, 1, 20, 40))) + 0.5) * 0.7
    y = b.relu(b.add(b.conv(b.div(y, b.abs(y)) + y, array(rng, 3, 3, 4, 40), pads=same, groups=10), array(rng, 40)))
    y = b.conv(b.conv(y, array(rng, 1, 1, 40, 64)), array(rng, 3, 3, 16, 64), strides=(2, 2), pads=same, groups=4)
    return b.build(b.conv(b.conv(y, array(rng, 1, 1, 64, 48)), array(rng, 3, 3, 24, 48), pads=same, groups=2))


def planes(rng: np.random.Generator, b: Any) -> fw.Graph:
    """Windows of one plane over volumes of many."""
    edges = ((0, 0), (1, 1), (1, 1))
    x = b.input("x", "f32", ("N", 3, 6, 8, 5))
    y = b.relu(b.conv(x, array(rng, 1, 3, 3, 5, 20), pads=edges))
    y = b.conv(y, array(rng, 1, 3, 3, 1, 20), pads=edges, groups=20)
    how: dict[str, Any] = {"window": (1, 2, 2), "strides": (1, 2, 2)}
    return b.build(b.concat(b.max_pool(y, **how), b.avg_pool(y, **how), axis=-1))


def enlarging(rng: np.random.Generator, b: Any) -> fw.Graph:
    """Transposed convolutions in blocks: apart, overlapping, with holes and in groups, beside what they enlarge."""
    x = b.input("x", "f32", ("N", 9, 10, 20))
    skip = b.conv(x, array(rng, 3, 3, 20, 32), pads=((1, 1), (1, 1)))
    y = b.max_pool(b.conv(skip, array(rng, 1, 1, 32, 40)), window=2, strides=2, pads=((0, 1), (0, 0)))
    y = b.conv_transpose(y, array(rng, 2, 2, 16, 40), strides=2, pads=((0, 1), (0, 0)))
    y = b.concat(skip, b.relu(b.add(y, array(rng, 16))), axis=-1)
    y = b.conv_transpose(b.log1p(b.square(y)), array(rng, 3, 3, 20, 48), strides=2, pads=((1, 0), (0, 1)))
    z = b.conv_transpose(
        skip, array(rng, 3, 2, 16, 32), strides=(3, 1), dilations=(2, 1), output_padding=(1, 0), groups=2
    )
    z = b.conv_transpose(b.add(z, z), array(rng, 1, 1, 24, 32), strides=(1, 2))
    return b.build(b.reduce_max(b.conv(y, array(rng, 1, 1, 20, 16)), axes=(1,)), z)


def resizing(rng: np.random.Generator, b: Any) -> fw.Graph:
    """Interpolation in blocks and of few channels, with few taps and many, along one axis, two and three."""
    x = b.input("x", "f32", ("N", 9, 10, 20))
    y = b.resize(b.conv(x, array(rng, 1, 1, 20, 32)), sizes=(18, 7), method="linear")
    y = b.resize(b.relu(b.conv(y, array(rng, 3, 3, 32, 24))), sizes=(3, 40), method="cubic", antialias=True)
    three = b.slice(x, starts=(0, 0, 0, 0), stops=("N", 9, 10, 3), steps=(1, 1, 1, 1))
    few = b.resize(three, sizes=(8, 30), method="linear")
    one = b.resize(b.reshape(x, shape=("N", 9, 200)), sizes=(2,), method="lanczos5", antialias=True)
    deep = b.resize(b.reshape(x, shape=("N", 9, 5, 2, 20)), sizes=(4, 7, 3), method="linear")
    near = b.resize(b.conv(x, array(rng, 1, 1, 20, 16)), sizes=(18, 15), method="nearest")
    return b.build(y, few, one, deep, b.conv(near, array(rng, 1, 1, 16, 16)))


def attention(rng: np.random.Generator, b: Any) -> fw.Graph:
    """One transformer block over sequences of any length."""
    x = b.input("x", "f32", ("N", "T", 24))

    def heads(v: Any) -> Any:
        return b.transpose(b.reshape(v, shape=("N", "T", 3, 8)), perm=(0, 2, 1, 3))

    q, k, v = (heads(b.add(b.matmul(x, array(rng, 24, 24)), array(rng, 24))) for _ in range(3))
    mixed = b.reshape(b.transpose(b.attention(q, k, v, causal=True), perm=(0, 2, 1, 3)), shape=("N", "T", 24))
    y = b.layer_norm(b.add(x, b.matmul(mixed, array(rng, 24, 24))), array(rng, 24), array(rng, 24), axes=-1)
    z = b.matmul(b.gelu(b.add(b.matmul(y, array(rng, 24, 50)), array(rng, 50))), array(rng, 50, 24))
    return b.build(b.rms_norm(b.add(y, z), array(rng, 24), axes=-1))


def recurrence(rng: np.random.Generator, b: Any) -> fw.Graph:
    """An LSTM, its weights closed over inside the body and handed in from outside, read backwards."""
    x = b.input("x", "f32", ("T", "N", 5))
    start = b.full(("N", 8), 0.0, "f32")
    outer = b.constant(array(rng, 8, 32))
    inner, bias = array(rng, 5, 32), array(rng, 32)

    def cell(r: Any, h: Any, c: Any, s: Any, u: Any) -> tuple[Any, ...]:
        z = r.add(r.add(r.matmul(s, r.constant(inner)), r.matmul(h, u)), r.constant(bias))
        i, f, g, o = (r.slice(z, starts=(0, 8 * k), stops=("N", 8 * k + 8), steps=(1, 1)) for k in range(4))
        c = r.add(r.mul(r.sigmoid(f), c), r.mul(r.sigmoid(i), r.tanh(g)))
        h = r.mul(r.sigmoid(o), r.tanh(c))
        return h, c, h

    types = [start.type, start.type, x.type.with_shape(x.shape[1:]), outer.type]
    body = b.region(types, cell)
    h, _, all_h = b.scan(start, start, x, outer, n_carry=2, n_xs=1, reverse=True, regions=[body])
    return b.build(b.matmul(h, array(rng, 8, 3)), all_h)


def branches(rng: np.random.Generator, b: Any) -> fw.Graph:
    """A while loop whose values may end it, and whose body chooses between two updates."""
    x = b.input("x", "f32", ("N", 6))
    w = b.constant(array(rng, 6, 6))
    kind = x.type

    def step(r: Any, i: Any, v: Any, w: Any) -> tuple[Any, ...]:
        then = r.region([kind, w.type], lambda s, v, w: s.tanh(s.matmul(v, w)))
        other = r.region([kind, w.type], lambda s, v, w: s.add(s.mul(v, 0.5), 0.25))
        even = r.eq(r.mod(i, 2), 0)
        return r.add(i, 1), r.if_(even, v, w, regions=[then, other])

    zero = b.constant(0, "i32")
    types = [zero.type, kind, w.type]
    small = lambda r, v: r.lt(r.reduce_max(r.abs(v), axes=(0, 1)), 1e6)
    cond = b.region(types, lambda r, i, v, w: r.logical_and(r.lt(i, 5), small(r, v)))
    _, y = b.while_(zero, x, w, n_carry=2, regions=[cond, b.region(types, step)])
    return b.build(y)


NETS: dict[str, tuple[Net, tuple[int, ...]]] = {
    "convolutions": (convolutions, (2, 13, 13, 3)),
    "filling_lanes": (filling_lanes, (2, 6, 7, 20)),
    "groups": (groups, (2, 6, 7, 20)),
    "planes": (planes, (2, 3, 6, 8, 5)),
    "enlarging": (enlarging, (2, 9, 10, 20)),
    "resizing": (resizing, (2, 9, 10, 20)),
    "attention": (attention, (2, 7, 24)),
    "recurrence": (recurrence, (6, 3, 5)),
    "branches": (branches, (3, 6)),
}
EXPECTED = {
    "convolutions": {"conv_blocked", "max_pool_blocked", "avg_pool_blocked", "softmax", "reduce_mean"},
    "filling_lanes": {"conv_blocked", "to_blocked", "from_blocked"},
    "groups": {"conv_blocked", "to_blocked", "from_blocked", "conv"},
    "planes": {"conv", "max_pool", "avg_pool"},
    "enlarging": {"conv_transpose_blocked", "max_pool_blocked", "concat", "from_blocked"},
    "resizing": {"resample", "gather", "conv_blocked"},
    "attention": {"matmul", "attention", "layer_norm", "rms_norm"},
    "recurrence": {"matmul", "tanh"},
    "branches": {"matmul", "tanh", "lt"},
}


def build(name: str) -> tuple[fw.Graph, dict[str, np.ndarray]]:
    net, shape = NETS[name]
    rng = np.random.default_rng(11)
    return net(rng, fw.Builder()), {"x": rng.normal(size=shape).astype(np.float32)}


def words(verdicts: list[KernelVerdict]) -> set[str]:
    return {w for v in verdicts for w in v.name.replace("(", " ").replace(")", " ").split()}


@pytest.mark.parametrize("name", NETS)
def test_every_kernel_is_inside_its_bound(name: str) -> None:
    verdicts = check_kernels(*build(name))
    assert [str(v) for v in verdicts if not v.ok] == []
    assert {v.variant for v in verdicts} == set(available_variants())
    assert words(verdicts) >= EXPECTED[name]
    assert all(v.undecided < 0.01 for v in verdicts), [str(v) for v in verdicts if v.undecided >= 0.01]
    assert 0 < max(v.worst for v in verdicts) <= 1


def wide_image(rng: np.random.Generator, b: Any) -> fw.Graph:
    """More numbers in an image than weights; a gated unit behind them."""
    y = b.conv(b.input("x", "f32", ("N", 40, 40, 16)), array(rng, 3, 3, 16, 16), pads=((1, 1), (1, 1)))
    y = b.matmul(b.reduce_mean(b.relu(b.conv(y, array(rng, 1, 1, 16, 32))), axes=(1, 2)), array(rng, 32, 128))
    half = [b.slice(y, starts=(0, at), stops=("N", at + 64), steps=(1, 1)) for at in (0, 64)]
    return b.build(b.mul(b.sigmoid(half[0]), half[1]))


@pytest.mark.parametrize("net", [*(net for net, _ in NETS.values()), wide_image])
def test_kernels_read_every_argument_that_they_take(net: Net) -> None:
    """A word for each is written into the step table for every new binding."""
    graph = net(np.random.default_rng(11), fw.Builder())
    runs = [step.node for step in fw.plan(graph).program.walk() if isinstance(step, Run)]
    for node in runs:
        fixed = {i: v.const for i, v in enumerate(node.operands) if v.const is not None}
        for chosen in choose(node, VARIANTS["cpu-avx512"], fixed):
            taken = re.findall(r"^    (\w+) = args\[\d+\]$", chosen.text, re.MULTILINE)
            assert len(taken) == len(chosen.args)
            assert [a for a in taken if len(re.findall(rf"\b{a}\b", chosen.text)) == 1] == [], chosen.text
    assert runs


@pytest.mark.parametrize("name", NETS)
def test_the_whole_net_is_near_float64(name: str) -> None:
    """What single kernels cannot show: places, copies, loops and writing in place."""
    graph, feeds = build(name)
    near(graph, feeds)


def test_a_scanned_constant_is_read_slice_by_slice() -> None:
    rng = np.random.default_rng(5)
    b = fw.Builder()
    x, stacked = b.input("x", "f32", ("N", 40)), b.constant(array(rng, 3, 40, 40))
    types = [x.type, stacked.type.with_shape((40, 40))]
    body = b.region(types, lambda r, h, w: (r.tanh(r.matmul(h, w)),))
    near(b.build(b.scan(x, stacked, n_carry=1, n_xs=1, regions=[body])), {"x": array(rng, 5, 40)})


def test_a_view_of_a_constant_is_packed_in_its_own_shape() -> None:
    """As the schedule meets it where folding the view would pass the limit."""
    rng = np.random.default_rng(5)
    b = fw.Builder()
    x, w = b.input("x", "f32", ("N", 1, 1, 40)), b.constant(array(rng, 40, 80))
    graph = b.build(b.matmul(x, b.reshape(w, shape=(1, 2, 40, 40))))
    near(graph, {"x": array(rng, 5, 1, 1, 40)}, Pipeline((), fw.default_pipeline().target))


def near(graph: fw.Graph, feeds: dict[str, np.ndarray], pipeline: Pipeline | None = None) -> None:
    want = graph.run(feeds, precision="f64")
    for variant in available_variants():
        got = fw.compile(graph, target=variant, pipeline=pipeline).run(feeds)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=variant)


def test_loop_bodies_are_fed_three_times() -> None:
    verdicts = check_kernels(*build("recurrence"))
    assert max(v.runs for v in verdicts) == 3
    assert {v.runs for v in check_kernels(*build("branches")) if "tanh" in v.name} == {3}


def test_filling_lanes_are_fed_as_nan_and_stay_inside() -> None:
    graph, feeds = build("filling_lanes")
    final, _ = fw.default_pipeline().run(graph)
    walk = kernels._Walk(final)
    out = walk.run(feeds)
    fed = [a for job in walk.jobs() if "conv_blocked" in kernels.describe(job.node) for a in job.operands]
    assert any(np.isnan(a).any() for a in fed)
    assert not any(np.isnan(a).any() for a in out.values())


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = kernels._run_native

    def skewed(graph: fw.Graph, feeds: Any, variant: str) -> dict[str, np.ndarray]:
        out = honest(graph, feeds, variant)
        out["r0_0"].reshape(-1)[1] *= np.float32(1.01)
        return out

    monkeypatch.setattr(kernels, "_run_native", skewed)
    verdicts = check_kernels(*build("attention"))
    wrong = [v for v in verdicts if not v.ok]
    assert len(wrong) == len(available_variants())
    assert all(v.worst > 1 and "result 0[" in v.detail for v in wrong)
