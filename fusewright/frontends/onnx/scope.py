"""The names that nodes of an ONNX graph see, their own and those around them.

Owns scopes and what stands for a value that was refused. Must not know how anything is lowered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from ...ir.graph import Value
from .fold import Folder


class Poison:
    """What a value is whose producer was refused: its readers say nothing more."""


POISON = Poison()
Known = Value | Poison


@dataclass
class Scope:
    """Names visible to nodes of one graph. ``outer`` looks up what a subgraph captures."""

    b: Folder
    opsets: Mapping[str, int]
    names: dict[str, Known | None] = field(default_factory=dict)
    outer: Scope | None = None
    attrs: Mapping[str, Any] | None = None
    path: str = ""
    depth: int = 0

    def find(self, name: str) -> Known | None:
        """The value of a name, innermost first. Raises KeyError."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        raise KeyError(name)


def free_names(graph: Any) -> list[str]:
    """Names that a subgraph (and those in it) reads from around it, in order. Its depth was checked before."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        for name in node.input:
            if name and name not in own:
                found[name] = None
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                for name in free_names(a.g):
                    if name not in own:
                        found[name] = None
        own |= set(node.output)
    for o in graph.output:
        if o.name not in own:
            found[o.name] = None
    return list(found)


__all__ = ["POISON", "Known", "Poison", "Scope", "free_names"]
