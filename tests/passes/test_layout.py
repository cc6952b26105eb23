"""Blocked layouts: what follows a convolution into blocks, how few reorders are left, padding lanes that never leak."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from targets import FakeTarget

from fusewright.backends.numba_cpu.target import CpuTarget
from fusewright.ir import OPS, Builder, Graph
from fusewright.passes.local.dce import dce
from fusewright.passes.target.layout import layout
from fusewright.testing import assert_equivalent

F = np.float32
RESIZE = {k: v for k, v in OPS["resize"].attrs.items() if k != "sizes"}


def w(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(F)


def conv(b: Any, x: Any, filters: int, size: int = 3, **attrs: Any) -> Any:
    p = size // 2
    c = x.shape[-1] // attrs.get("groups", 1)
    return b.conv(x, b.constant(w(size, size, c, filters)), pads=((p, p), (p, p)), **attrs)


def run(build: Any, shape: tuple[Any, ...] = ("N", 6, 5, 20), block: int = 16) -> tuple[Graph, Counter[str]]:
    b: Any = Builder()
    out = build(b, b.input("x", "f32", shape))
    graph = b.build(out if isinstance(out, dict) else {"y": out})
    target = FakeTarget(block=block)
    got, _ = layout.apply(graph, target)
    got.verify(2)
    rng = np.random.default_rng(1)
    feeds = {"x": rng.standard_normal([2 if d == "N" else d for d in shape]).astype(F)}
    assert_equivalent(graph, got, feeds, "reassoc")
    again, _ = layout.apply(got, target)
    assert again.fingerprint == got.fingerprint
    assert dce.apply(got)[0].fingerprint == got.fingerprint, "dead code is left behind"
    return got, Counter(n.op.name for n in got.nodes if n.op.name not in ("input", "constant", "return"))


def reorders(ops: Counter[str]) -> int:
    return ops["to_blocked"] + ops["from_blocked"]


def test_a_chain_reorders_once_each_way() -> None:
    def net(b: Any, x: Any) -> Any:
        y = b.relu(b.add(conv(b, x, 24), b.constant(w(24))))
        y = b.max_pool(y, window=(2, 2))
        return b.tanh(conv(b, y, 33))

    _, ops = run(net)
    assert ops == {
        "to_blocked": 1,
        "conv_blocked": 2,
        "add": 1,
        "relu": 1,
        "max_pool_blocked": 1,
        "tanh": 1,
        "from_blocked": 1,
    }


def test_few_channels_are_read_as_they_lie() -> None:
    got, ops = run(lambda b, x: conv(b, conv(b, x, 16), 16), ("N", 6, 5, 3))
    assert ops == {"conv_blocked": 2, "from_blocked": 1}
    assert [n.attrs["x_blocked"] for n in got.nodes if n.op.name == "conv_blocked"] == [False, True]


@pytest.mark.parametrize(
    ("channels", "filters", "reads"), [(32, 11, "blocked"), (16, 15, "plain"), (24, 15, "blocked"), (20, 15, "plain")]
)
def test_few_results_of_a_blocked_operand(channels: int, filters: int, reads: str) -> None:
    """A block of results that is mostly padding moves less than the operand's reorder, or it does not."""
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 9, 9, 3))
    y = b.relu(conv(b, x, channels))
    graph = b.build({"y": conv(b, y, filters, 1), "z": b.reduce_mean(y, axes=(1, 2))})
    got, _ = layout.apply(graph, CpuTarget())
    last = [n for n in got.nodes if n.op.name.startswith("conv")][-1]
    assert (last.op.name == "conv_blocked") == (reads == "blocked")
    assert_equivalent(graph, got, {"x": np.random.default_rng(0).standard_normal((2, 9, 9, 3)).astype(F)}, "reassoc")
    alone: Any = Builder()
    plain = alone.build(conv(alone, alone.input("x", "f32", ("N", 9, 9, channels)), filters, 1))
    assert not any(n.op.name == "conv_blocked" for n in layout.apply(plain, CpuTarget())[0].nodes)


def enlarged(channels: int, filters: int, size: int = 9) -> Counter[str]:
    """A convolution, enlarged twofold."""
    b: Any = Builder()
    y = conv(b, b.input("x", "f32", ("N", size, size, 3)), channels)
    graph = b.build({"y": b.conv_transpose(y, b.constant(w(2, 2, filters, channels)), strides=2)})
    got, _ = layout.apply(graph, CpuTarget())
    feeds = {"x": np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(F)}
    assert_equivalent(graph, got, feeds, "reassoc")
    return Counter(n.op.name for n in got.nodes if n.op.name not in ("input", "constant", "return"))


def test_a_transposed_convolution_follows_its_operand() -> None:
    assert enlarged(32, 24) == {"conv_blocked": 1, "conv_transpose_blocked": 1, "from_blocked": 1}
    plain = {"conv_blocked": 1, "from_blocked": 1, "conv_transpose": 1}
    assert enlarged(32, 15) == plain, "not a block of results"
    assert enlarged(32, 32, size=3) == plain, "more weights than pixels"


def test_a_part_is_put_into_blocks_where_the_others_are() -> None:
    def spread(b: Any, x: Any) -> Any:
        return b.concat(conv(b, x, 32), b.reverse(x, axes=(1,)), b.reverse(x, axes=(2,)), axis=3)

    def joined(b: Any, x: Any) -> Any:
        wide = b.concat(x, x, x, axis=3)
        return conv(b, b.concat(conv(b, x, 48), b.reverse(wide, axes=(1,)), axis=3), 16)

    _, ops = run(joined, ("N", 6, 5, 16))
    assert reorders(ops) == 3 and ops["from_blocked"] == 1
    _, ops = run(spread, ("N", 6, 5, 32))
    assert ops["to_blocked"] == 1 and ops["from_blocked"] == 1, "the greater part is plain"


def test_values_that_lanes_must_not_leak() -> None:
    # exp and + 1 make the padding lanes of 20 channels nonzero; a mean over space and the next convolution ignore them.
    def net(b: Any, x: Any) -> Any:
        y = b.exp(b.add(conv(b, x, 20), 1.0))
        return {"y": conv(b, b.div(y, b.constant(np.abs(w(20)) + 1)), 5), "m": b.reduce_mean(y, axes=(1, 2))}

    _, ops = run(net)
    assert ops["to_blocked"] == 1


def test_residual_and_concat() -> None:
    def net(b: Any, x: Any) -> Any:
        y = b.relu(conv(b, x, 16))
        z = b.add(y, conv(b, y, 16))
        return conv(b, b.concat(y, z, conv(b, z, 20), axis=3), 16)

    _, ops = run(net)
    assert reorders(ops) == 2 and ops["concat"] == 1


def test_concat_inside_a_block_is_left_plain() -> None:
    got, ops = run(lambda b, x: conv(b, b.concat(conv(b, x, 20), conv(b, x, 16), axis=3), 8))
    at = next(n for n in got.nodes if n.op.name == "concat")
    assert at.results[0].rank == 4 and ops["from_blocked"] == 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_over_batch_and_space(axis: int) -> None:
    def net(b: Any, x: Any) -> Any:
        y = conv(b, x, 20)
        return conv(b, b.concat(y, b.relu(y), axis=axis), 4)

    _, ops = run(net, (2, 4, 4, 20))
    assert reorders(ops) == 2


def test_spatial_padding_and_slices_follow() -> None:
    def net(b: Any, x: Any) -> Any:
        y = b.pad(conv(b, x, 20), b.constant(2.0), low=(0, 1, 0, 0), high=(0, 0, 2, 0))
        y = b.slice(y, starts=(0, 1, 0, 0), stops=(None, 5, 6, 20), steps=(1, 2, 1, 1))
        return conv(b, y, 4)

    _, ops = run(net)
    assert reorders(ops) == 2 and ops["pad"] == ops["slice"] == 1


@pytest.mark.parametrize(
    ("start", "stop", "left"), [(0, 16, 2), (16, 40, 2), (16, 32, 2), (0, 40, 2), (8, 24, 4), (0, 20, 4)]
)
def test_channel_slices_on_whole_blocks(start: int, stop: int, left: int) -> None:
    def net(b: Any, x: Any) -> Any:
        y = b.slice(conv(b, x, 40), starts=(0, 0, 0, start), stops=(None, None, None, stop))
        return conv(b, y, 4)

    _, ops = run(net)
    assert reorders(ops) == left


def test_channel_padding_is_left_plain() -> None:
    _, ops = run(lambda b, x: conv(b, b.pad(conv(b, x, 16), low=(0, 0, 0, 0), high=(0, 0, 0, 4)), 4))
    assert reorders(ops) == 4


@pytest.mark.parametrize(("channels", "keep"), [(32, True), (32, False), (20, True), (20, False)])
def test_global_pooling(channels: int, keep: bool) -> None:
    got, ops = run(lambda b, x: b.reduce_mean(conv(b, x, channels), axes=(1, 2), keepdims=keep))
    mean = next(n for n in got.nodes if n.op.name == "reduce_mean")
    assert mean.attrs["axes"] == (2, 3)
    # Whole blocks need no reorder at all: the result is a view.
    assert ops["from_blocked"] == (0 if channels == 32 else 1)


def test_reduction_over_channels_is_left_plain() -> None:
    _, ops = run(lambda b, x: b.reduce_sum(conv(b, x, 20), axes=(1, 2, 3)))
    assert ops["from_blocked"] == 1


def test_squeeze_and_excite_stays_in_blocks() -> None:
    def net(b: Any, x: Any) -> Any:
        y = b.silu(conv(b, x, 32))
        s = b.reshape(b.reduce_mean(y, axes=(1, 2)), shape=("N", 1, 1, 32))
        s = b.sigmoid(conv(b, b.relu(conv(b, s, 16, 1)), 32, 1))
        return conv(b, b.mul(y, s), 24)

    _, ops = run(net)
    assert reorders(ops) == 2


def test_operands_of_every_shape() -> None:
    def net(b: Any, x: Any) -> Any:
        y = conv(b, x, 20)
        for c in (w(20), w(1, 1, 1, 20), w(6, 5, 20), w(5, 1), w(1, 6, 1, 1), w(1), w(1, 1, 1, 1), w(5, 20)):
            y = b.mul(b.add(y, b.constant(c)), 0.5)
        per_sample = b.reduce_max(x, axes=(1, 2), keepdims=True)
        per_place = b.reduce_max(x, axes=(3,), keepdims=True)
        vector = b.reduce_max(x, axes=(0, 1, 2))
        y = b.add(b.mul(b.add(y, per_sample), per_place), vector)
        return b.where(b.gt(y, 0.0), y, b.reduce_max(vector))

    _, ops = run(net)
    assert ops["from_blocked"] == 1


def test_resize_between_convolutions() -> None:
    def net(b: Any, x: Any) -> Any:
        return conv(b, b.resize(conv(b, x, 20), sizes=(12, 10), method="nearest"), 4)

    _, ops = run(net)
    assert reorders(ops) == 2


def test_depthwise_and_groups() -> None:
    def net(b: Any, x: Any) -> Any:
        return conv(b, conv(b, conv(b, x, 20, groups=20), 40, 1), 8, groups=2)

    _, ops = run(net, block=4)
    assert reorders(ops) == 2 and ops["conv_blocked"] == 3


def test_plain_majority_stays_plain() -> None:
    # One blocked operand against two large plain ones: the blocked one comes back instead.
    def net(b: Any, x: Any) -> Any:
        p, q = b.sin(x), b.cos(x)
        return b.where(b.gt(p, 0.0), conv(b, b.tan(x), 20), q)

    got, _ = run(net)
    assert next(n for n in got.nodes if n.op.name == "where").results[0].rank == 4


@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("then", ["conv", "softmax"])
def test_resizing_stays_in_blocks_where_blocks_are_read(method: str, then: str) -> None:
    def net(b: Any, x: Any) -> Any:
        attrs = {**RESIZE, "sizes": (12, 10), "method": method}
        y = b.relu(OPS["resize"].decompose(b, [conv(b, x, 20)], attrs))
        return conv(b, y, 4) if then == "conv" else b.softmax(y, axes=-1)

    got, ops = run(net)
    assert reorders(ops) == 2
    moved = [n for n in got.nodes if n.op.name in ("resample", "gather")]
    assert {n.operands[0].rank for n in moved} == {5 if then == "conv" else 4}


def test_intermediate_outputs_come_back_once() -> None:
    def net(b: Any, x: Any) -> Any:
        y = conv(b, x, 20)
        return {"a": y, "b": conv(b, y, 20), "c": y}

    _, ops = run(net)
    assert ops["from_blocked"] == 2


def test_targets_without_blocks_change_nothing() -> None:
    b: Any = Builder()
    graph = b.build(conv(b, b.input("x", "f32", ("N", 4, 4, 16)), 16))
    assert not layout.apply(graph, FakeTarget(block=0))[1].rewritten
    assert not layout.apply(graph)[1].rewritten


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    def net(b: Any, x: Any) -> Any:
        k = (3,) * rank
        y = b.relu(b.conv(x, b.constant(w(*k, 20, 16)), pads=((1, 1),) * rank))
        y = b.avg_pool(y, window=(2,) * rank)
        return b.conv(y, b.constant(w(*k, 16, 5)), pads=((1, 1),) * rank)

    _, ops = run(net, ("N", *(4,) * rank, 20))
    assert reorders(ops) == 2


def test_a_blocked_operand_of_lower_rank_stays_blocked() -> None:
    """It meets the others through a view of its blocks; a second run finds nothing to do."""
    b: Any = Builder()
    x, y = b.input("x", "f32", ("N", 4, 4, 16)), b.input("y", "f32", (1, 3, 3, 16))
    vector = b.reshape(b.conv(y, b.constant(w(3, 3, 16, 20))), shape=(1, 1, 20))
    graph = b.build(b.add(b.conv(x, b.constant(w(1, 1, 16, 20))), vector))
    once, _ = layout.apply(graph, FakeTarget())
    assert layout.apply(once, FakeTarget())[0].fingerprint == once.fingerprint
    names = [n.op.name for n in once.nodes]
    assert names.count("to_blocked") == 2 and names.count("from_blocked") == 1
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.type.concrete({"N": 2})).astype(np.float32) for v in graph.inputs}
    assert_equivalent(graph, once, feeds, "reassoc")
