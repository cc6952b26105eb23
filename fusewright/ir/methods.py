"""Attaches to Graph the methods whose modules import graph.py: str, run, verify, fingerprint.

Owns only the wiring; graph.py declares the same signatures for type checkers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .graph import Graph
from .interpreter import Interpreter
from .text import LITERAL, fingerprint, print_graph
from .verify import verify_graph


def _run(self: Graph, feeds: Mapping[str, Any], precision: str = "f32") -> dict[str, np.ndarray]:
    """Outputs by name for arrays by name, interpreted with NumPy. ``precision`` is 'f32' (as typed) or 'f64'."""
    return Interpreter(self, precision).run(feeds)


def _verify(self: Graph, level: int = 2) -> None:
    """Check structure (1) and types (2). Raises VerifyError."""
    verify_graph(self, level)


def _brief(self: Graph) -> str:
    """The text for reading: long constants shortened to ``...``, so it does not parse back."""
    return print_graph(self, lambda c: "..." if c.array.size > LITERAL and not c.is_splat else None)


def _repr(self: Graph) -> str:
    inputs = ", ".join(f"{v.name}: {v.type}" for v in self.inputs)
    return f"<graph ({inputs}) -> ({', '.join(self.output_names)}), {len(self.nodes)} nodes>"


def _repr_pretty(self: Graph, printer: Any, cycle: bool) -> None:
    """How IPython and Hypothesis show a graph: its text, which parses back."""
    printer.text(print_graph(self))


def attach() -> None:
    """Give Graph its methods; called once by the package."""
    Graph.__str__ = print_graph  # type: ignore[assignment, method-assign]
    Graph.__repr__ = _repr  # type: ignore[assignment, method-assign]
    for name, method in (("run", _run), ("verify", _verify), ("brief", _brief), ("_repr_pretty_", _repr_pretty)):
        setattr(Graph, name, method)
    Graph.fingerprint = property(fingerprint)  # type: ignore[assignment, method-assign]


__all__ = ["attach"]
