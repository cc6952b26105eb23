"""Generated graphs compiled for GPUs: their PTX, as the interpreter runs it, stays inside the bounds of the result."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cuda.bundle import cuda_target
from fusewright.passes.pipeline import default_pipeline
from fusewright.testing.volume import agrees, sharp, volume_graph

from fake_driver import fake_gpu


@pytest.mark.parametrize("seed", range(0, 40, 5))
def test_generated_graphs(seed: int) -> None:
    graph, feeds = volume_graph(seed, 160)
    after, _ = default_pipeline(cuda_target()).run(graph, verify=0)
    with warnings.catch_warnings(), fake_gpu((8, 6)), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        bundle = fw.compile(graph, target="cuda")
        seen = agrees(graph, after, feeds[0], sharp(graph, feeds[0]), bundle.run(feeds[0]))
    assert seen is not None
