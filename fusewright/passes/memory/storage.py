"""Which values of one graph may lie in one storage: views, slices of a value, parts of a concat; and who reads last.

Owns that analysis for the scheduler. Must not know places, kernels or targets: the plan checker believes none of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...core.dims import Extent, compare_eq, compare_le, product, symbols
from ...ir.graph import Graph, Node, Value
from ...ir.types import TensorType

NO_STEP = frozenset({"input", "constant", "return"})


@dataclass(frozen=True, slots=True)
class Window:
    """A range of the storage of ``whole``, from byte ``offset`` on."""

    whole: Value
    offset: Extent


class Storage:
    """The storage classes of ``graph`` whose nodes run in the order ``nodes``.

    ``base``    value -> the value at the bottom of its views
    ``inside``  base -> the window of a larger storage in which it lies
    ``root``    value -> the base in whose storage it lies in the end
    ``last``    root -> position of the last reader of anything in its storage
    ``joined``  concat -> operands that are written where the result lies; the others are copied there
    ``cut``     slices that are read where their operand lies
    ``why``     concat or slice -> why it needs a kernel (a key of ``ir.program.WHY_NOT``)
    """

    def __init__(
        self, graph: Graph, nodes: Sequence[Node], apart: Collection[Node] = (), moving: Collection[str] = ()
    ) -> None:
        """``apart``: concats and slices that are to have their own storage. ``moving``: symbols bound during a run."""
        self.base: dict[Value, Value] = {}
        self.inside: dict[Value, Window] = {}
        self.joined: dict[Node, frozenset[int]] = {}
        self.cut: set[Node] = set()
        self.why: dict[Node, str] = {}
        self.root: dict[Value, Value] = {}
        self.last: dict[Value, int] = {}
        self._moving = frozenset(moving)
        for node in nodes:
            for i, v in enumerate(node.results):
                source = node.op.views.get(i)
                self.base[v] = v if source is None else self.base[node.operands[source]]
        self._given = {self.base[v] for v in graph.outputs}
        for node in nodes:
            if node in apart:
                self.why[node] = "memory"
            elif node.op.name == "slice":
                self._slice(node)
            elif node.op.name == "concat":
                self._concat(node)
        for v, base in self.base.items():
            self.root[v] = self._bottom(base)
        for at, node in enumerate(nodes):
            for v in node.operands:
                self.last[self.root[v]] = at

    def _bottom(self, v: Value) -> Value:
        while v in self.inside:
            v = self.inside[v].whole
        return v

    def _fixed(self, t: TensorType) -> bool:
        return not self._moving or self._moving.isdisjoint(symbols(t.nbytes))

    def _slice(self, node: Node) -> None:
        y, x = node.results[0], node.operands[0]
        offset = slice_offset(node)
        if offset is None:
            self.why[node] = "scattered"
        elif self.base[y] in self._given:
            self.why[node] = "output"
        elif self.base[x].producer.op.name == "constant":
            self.why[node] = "constant"
        elif not self._fixed(x.type) or not self._fixed(y.type):
            self.why[node] = "run"
        else:
            self.inside[y] = Window(self.base[x], offset)
            self.cut.add(node)

    def _concat(self, node: Node) -> None:
        y, axis = node.results[0], node.attrs["axis"]
        if not all(compare_eq(d, 1) is True for d in y.shape[:axis]):
            self.why[node] = "interleaved"
            return
        if not self._fixed(y.type):
            self.why[node] = "run"
            return
        offset: Extent = 0
        joined = set[int]()
        for k, v in enumerate(node.operands):
            part = self.base[v]
            if self._may_join(part):
                joined.add(k)
                self.inside[part] = Window(y, offset)
            offset = offset + v.type.nbytes
        if joined:
            self.joined[node] = frozenset(joined)
        else:
            self.why[node] = "elsewhere"

    def _may_join(self, part: Value) -> bool:
        made = part.producer.op.name not in NO_STEP and self._fixed(part.type)
        return made and part not in self.inside and part not in self._given


def slice_offset(node: Node) -> Extent | None:
    """Where the result of a slice begins in its operand, in bytes; None when its elements do not lie together."""
    x, y, attrs = node.operands[0], node.results[0], node.attrs
    if any(step != 1 for step in attrs["steps"]):
        return None
    spread = False  # an outer axis has more than one index, so every inner one must be whole
    total: Extent = 0
    for i, (start, have, want) in enumerate(zip(attrs["starts"], x.shape, y.shape, strict=True)):
        whole = compare_eq(have, want) is True and compare_eq(start, 0) is True
        if spread and not whole:
            return None
        if not whole and (compare_le(0, start) is not True or compare_le(start + want, have) is not True):
            return None
        if not whole:
            total = total + start * product(x.shape[i + 1 :]) * x.dtype.size
        spread = spread or compare_eq(want, 1) is not True
    return total


__all__ = ["NO_STEP", "Storage", "Window", "slice_offset"]
