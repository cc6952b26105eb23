"""The rules of one file, entered as they are written down.

Owns that a form is raised only where its match is closed: nothing outside reads a value inside. Must not know any rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.rewrite import Rewrite, rewrite


class Family(list[Rewrite]):
    """A list that makes its own entries."""

    def form(self, name: str, doc: str, pattern: Any, replacement: Any, numerics: str = "exact") -> None:
        """Enter a rule whose replacement is an expression."""
        rule = rewrite(pattern, replacement, numerics=numerics, name=name, closed=True)
        rule.__doc__ = doc
        self.append(rule)

    def rule(self, name: str, pattern: Any, numerics: str) -> Callable[[Callable[..., Any]], Rewrite]:
        """Enter the decorated function, which says what a match becomes."""

        def enter(function: Callable[..., Any]) -> Rewrite:
            rule = rewrite(pattern, numerics=numerics, name=name, closed=True)(function)
            self.append(rule)
            return rule

        return enter


__all__ = ["Family"]
