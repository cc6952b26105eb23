"""Gates: drawn cells keep their meaning whatever surrounds them, for targets that take much or little."""

from __future__ import annotations

from typing import Any

import pytest
from drawn_loops import cell
from targets import FakeTarget

from fusewright.passes.target.gates import gates
from fusewright.testing import check_pass


@pytest.mark.parametrize("largest", [64, 7])
def test_drawn_cells(largest: int) -> None:
    target: Any = FakeTarget(largest=largest)
    report = check_pass(gates, max_examples=120, target=target, extra=[cell])
    assert report.fired > (20 if largest == 64 else 5)
