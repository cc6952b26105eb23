"""Gates: drawn cells keep their meaning whatever surrounds them, for targets that take much or little."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from drawn_loops import cell
from targets import FakeTarget

from fusewright.ir import Builder
from fusewright.passes.target.gates import gates
from fusewright.testing import check_pass


@pytest.mark.parametrize("largest", [64, 7])
def test_drawn_cells(largest: int) -> None:
    target: Any = FakeTarget(largest=largest)
    report = check_pass(gates, max_examples=120, target=target, extra=[cell])
    assert report.fired > (20 if largest == 64 else 5)


def test_sums_of_products_without_a_cut_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each product would be tried with up to 64 nodes behind it, one fewer at a time."""
    tried: list[Any] = []
    monkeypatch.setattr(sys.modules["fusewright.passes.target.gates"], "_absorb", tried.append)
    b = Builder()
    x = b.input("x", "f32", ("N", 8))
    total = x
    for _ in range(40):
        total = b.add(total, b.matmul(x, b.constant(np.ones((8, 8), np.float32))))
    target: Any = FakeTarget()
    _, stats = gates.apply(b.build(total), target=target)
    assert not tried and not stats.fired
