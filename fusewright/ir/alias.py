"""Storage classes: which values of a graph may share one storage because of views.

Owns the analysis that passes ask; the graph stays pure, reuse is decided in the Program. Must not know any op beyond
its ``views``. The plan checker in core works from byte ranges and does not import this.
"""

from __future__ import annotations

from collections.abc import Iterable

from .graph import Graph, Node, Value


class Aliases:
    """Storage classes of one graph (regions have their own), as it is now: build anew after a change.

    A class is a root (the value whose node writes the storage) and every view of it, in program order. Results of
    control flow are roots: a branch or a body never hands out its operand's storage.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._root: dict[Value, Value] = {}
        self._members: dict[Value, list[Value]] = {}
        for node in graph.nodes:
            for i, v in enumerate(node.results):
                source = node.op.views.get(i)
                root = v if source is None else self._root[node.operands[source]]
                self._root[v] = root
                self._members.setdefault(root, []).append(v)

    def root(self, v: Value) -> Value:
        """The value whose storage ``v`` reads."""
        return self._root[v]

    def storage_class(self, v: Value) -> tuple[Value, ...]:
        """Every value that may share storage with ``v``, itself included, root first."""
        return tuple(self._members[self._root[v]])

    def classes(self) -> Iterable[tuple[Value, ...]]:
        """All classes, in program order of their roots."""
        return (tuple(m) for m in self._members.values())

    def may_alias(self, a: Value, b: Value) -> bool:
        """May a write to ``a``'s storage change what ``b`` reads?"""
        return self._root[a] is self._root[b]

    def readers(self, v: Value) -> tuple[Node, ...]:
        """Nodes that read any value of ``v``'s class, views of it left out (they touch no element)."""
        seen: dict[Node, None] = {}
        for member in self.storage_class(v):
            for node, index in member.uses:
                if all(node.op.views.get(i) != index for i in range(len(node.results))):
                    seen[node] = None
        return tuple(seen)

    def is_input(self, v: Value) -> bool:
        """The storage belongs to the caller: it must not be written."""
        return self._root[v].producer.op.name == "input"

    def is_constant(self, v: Value) -> bool:
        """The storage belongs to the bundle: it must not be written."""
        return self._root[v].producer.op.name == "constant"

    def escapes(self, v: Value) -> bool:
        """Some value of the class is an output of the graph."""
        ret = self.graph.return_node
        return any(node is ret for member in self.storage_class(v) for node, _ in member.uses)


def may_alias(a: Value, b: Value) -> bool:
    """May ``a`` and ``b`` (of one graph) share storage through views? For one question; else build Aliases."""
    return view_root(a) is view_root(b)


def view_root(v: Value) -> Value:
    """The value at the bottom of a chain of views."""
    while True:
        source = v.producer.op.views.get(v.index)
        if source is None:
            return v
        v = v.producer.operands[source]


__all__ = ["Aliases", "may_alias", "view_root"]
