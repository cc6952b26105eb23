"""Drawn graphs through every pass: same meaning, same signature, same result twice, input untouched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import cnn, lstm, transformer
from targets import FakeTarget

from fusewright.ir import Graph
from fusewright.passes import default_pipeline
from fusewright.testing import SeededDraw, assert_equivalent, feeds, graphs

NAMES = default_pipeline(FakeTarget()).names


def target_of(seed: int) -> FakeTarget:
    """A target that blocks by 16 or 4, fuses a lot or little, knows some composite ops or none."""
    kernels = frozenset({"softmax", "layer_norm"}) if seed % 3 else frozenset()
    return FakeTarget(kernels, block=(16, 4)[seed % 2], largest=(64, 3)[seed // 2 % 2])


def check(graph: Graph, seed: int) -> Graph:
    target = target_of(seed)
    pipeline = default_pipeline(target)
    values = feeds(graph, SeededDraw(seed))
    before, current = graph.fingerprint, graph
    for name in pipeline.admitted:
        after, _ = pipeline[name].apply(current, target)
        after.verify(2)
        assert [(v.name, v.type) for v in after.inputs] == [(v.name, v.type) for v in graph.inputs]
        if after.fingerprint != current.fingerprint:
            assert_equivalent(current, after, values, pipeline[name].numerics)
            again, _ = pipeline[name].apply(after, target)
            assert again.fingerprint == after.fingerprint, f"{name} is not idempotent"
        current = after
    assert graph.fingerprint == before
    assert pipeline.run(graph)[0].fingerprint == current.fingerprint
    if current.fingerprint != before:
        assert_equivalent(graph, current, values, "reassoc")
    return current


@settings(max_examples=60, deadline=None)
@given(graphs(max_nodes=12), st.integers(0, 1 << 16))
def test_any_graph(graph: Graph, seed: int) -> None:
    assert check(graph, seed).output_names == graph.output_names


@pytest.mark.parametrize("seed", range(40))
def test_convolutional_networks(seed: int) -> None:
    got = check(cnn(seed), seed)
    # A convolution stays outside blocks only where its channels are read plain.
    assert not any(n.op.name == "conv" for n in got.walk())


@pytest.mark.parametrize("make", [transformer, lstm])
@pytest.mark.parametrize("seed", range(3))
def test_sequence_models(make: Any, seed: int) -> None:
    got = check(make(seed), seed)
    assert any(n.op.name == "fused" for n in got.walk())
