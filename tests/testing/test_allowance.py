"""How long a search may go on: its own computing counts, and the clock only in the end."""

from __future__ import annotations

import pytest

from fusewright.testing import allowance
from fusewright.testing.allowance import Allowance


class Times:
    """A thread's computing and the clock, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computed = self.clock = 100.0
        monkeypatch.setattr(allowance.time, "thread_time", lambda: self.computed)
        monkeypatch.setattr(allowance.time, "monotonic", lambda: self.clock)


def test_waiting_costs_nothing_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    given = Allowance(2.0, 5)
    times.clock += 9.9
    assert given.left == 2.0
    times.clock += 0.2  # five times two seconds are over
    assert given.left == 0.0


def test_computing_uses_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    given = Allowance(2.0, 5)
    times.computed += 1.5
    assert given.left == 0.5
    times.computed += 1.0
    assert given.left < 0
