"""How long a search may go on: counted in its own computing, since the clock of a busy machine says little of it.

Owns the two limits. Must not know what is limited.
"""

from __future__ import annotations

import time


class Allowance:
    """``seconds`` of the thread's computing, and ``patience`` times as many by the clock, for whoever only waits."""

    def __init__(self, seconds: float, patience: float) -> None:
        self._computed, self._clock = time.thread_time() + seconds, time.monotonic() + patience * seconds

    @property
    def left(self) -> float:
        """Seconds of computing; 0 or less when it is over."""
        return self._computed - time.thread_time() if time.monotonic() < self._clock else 0.0


__all__ = ["Allowance"]
