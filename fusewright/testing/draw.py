"""Where random decisions come from: one small interface, two drivers.

Owns Draw and its drivers, Hypothesis (shrinks) and a seeded generator (fast). Must not know what is drawn.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Draw(Protocol):
    """Random decisions. The smallest integer and the first option are the simplest: shrinking goes there."""

    def integer(self, low: int, high: int) -> int:
        """An integer of ``low`` to ``high``, both included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""

    def chance(self, share: float) -> bool:
        """True in about ``share`` of the draws; False is the simpler."""


class _Choices(ABC):
    @abstractmethod
    def integer(self, low: int, high: int) -> int: ...

    def pick(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def chance(self, share: float) -> bool:
        return self.integer(0, 99) >= 100 * (1 - share)


class SeededDraw(_Choices):
    """Decisions from a seed: the same seed gives the same decisions on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


class HypothesisDraw(_Choices):
    """Decisions by Hypothesis, which replays, shrinks and stores them."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))


__all__ = ["Draw", "HypothesisDraw", "SeededDraw"]
