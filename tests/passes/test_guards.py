"""Guards that generated graphs hardly ever meet, one case each."""

from __future__ import annotations

import numpy as np

from fusewright.ir import Builder
from fusewright.passes.local.scale import scale
from fusewright.passes.target.fuse import fuse
from fusewright.passes.target.layout import layout
from fusewright.testing import PlainTarget, check_graph


def reasons(p, graph, target=None):  # type: ignore[no-untyped-def]
    """Why ``p`` left something alone; what it did elsewhere keeps its properties."""
    check_graph(p, graph, target=target)
    return [why for _, why in p.apply(graph, target or PlainTarget())[1].declined]


def test_a_scale_that_is_not_finite_stays_before_the_product() -> None:
    b = Builder()
    x = b.mul(b.input("x", "f32", (2, 3)), b.constant(np.array([1, np.inf, 2], "f4")))
    assert reasons(scale, b.build(b.matmul(x, b.constant(np.ones((3, 2), "f4"))))) == ["the scale is not finite"]


def test_a_scale_of_channels_that_both_factors_have_stays() -> None:
    b = Builder()
    y = b.einsum(b.input("x", "f32", (2, 3)), b.constant(np.ones((2, 3), "f4")), equation="ab,ab->ab")
    graph = b.build(b.mul(y, b.constant(np.array([1, 2, 3], "f4"))))
    assert reasons(scale, graph) == ["the result's channels are not an axis of the weights alone"]


def test_a_convolution_of_no_channels_stays_plain() -> None:
    b = Builder()
    y = b.conv(b.input("x", "f32", (1, 4, 0)), b.constant(np.ones((2, 0, 2), "f4")), groups=2)
    assert reasons(layout, b.build(y)) == ["its channels are not fixed"]


def test_what_the_target_cannot_fuse_stays_apart() -> None:
    b = Builder()
    graph = b.build(b.exp(b.tanh(b.input("x", "f32", (3,)))))
    assert "the target has no kernel for this elementwise group" in reasons(fuse, graph, PlainTarget(largest=1))
