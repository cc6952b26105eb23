"""The reference figure that a memory plan is measured against: the bytes that one op needs, whatever the order.

Owns ``footprint``: over the ops of a graph, the most bytes of what the op reads and makes and of what every order keeps
alive across it. Must not know schedules, kernels or fusion (which may need less).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..core.bounds import upper
from ..core.dims import Dim, Extent, compare_eq, lower_bound, maximum
from .graph import Graph, Node, Value
from .scope import symbol_bounds

# Storage classes whose crossings are worked out together: their sets are Python integers of that many bits.
BLOCK = 1024
_NO_OP = frozenset({"input", "constant", "return"})


def footprint(graph: Graph, overwrites: Callable[[Node], Iterable[int]] | None = None) -> tuple[Extent, ...]:
    """Extents whose maximum, at any binding, is the largest need of an op of ``graph``.

    The need of an op: its operands, its results, and every value that all orders keep alive across it (its producer
    an ancestor of the op, one of its users a descendant); less the largest operand that the op may overwrite and that
    no descendant reads. Views count once with their base; constants, inputs and outputs are the caller's or the
    bundle's and count nothing. Extents bound during the run count as their greatest values. An op with regions needs
    what its most needy body does on top. ``overwrites`` gives the operands that a node may overwrite where that is not
    what its op says. Cost: nodes times the classes alive with them.
    """
    needs = _Needs(graph, overwrites or (lambda node: node.op.overwrites))
    bounds = symbol_bounds(graph, missing="drop")
    return tuple(upper(e, bounds) for e in _maximal(needs.rows(), needs.columns))


class _Columns:
    """Sizes as rows of integers: one column per monomial, so that they add and compare as vectors."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.monomials: list[Extent] = []
        self.nonnegative: list[bool] = []
        self._known: dict[Extent, dict[int, int]] = {}

    def terms(self, e: Extent) -> dict[int, int]:
        found = self._known.get(e)
        if found is None:
            found = self._known[e] = {}
            for monomial, c in e.terms if isinstance(e, Dim) else (((), e),):
                alone: Extent = Dim(((monomial, 1),)) if monomial else 1
                column = self.index.setdefault(str(alone), len(self.monomials))
                if column == len(self.monomials):
                    self.monomials.append(alone)
                    self.nonnegative.append(lower_bound(alone) >= 0)
                found[column] = c
        return found

    def extent(self, row: Sequence[int]) -> Extent:
        total: Extent = 0
        for c, monomial in zip(row, self.monomials):
            if c:
                total = total + int(c) * monomial
        return total


class _Needs:
    """One pass over a graph: classes, who reads them, and the need of every op as a row over ``columns``."""

    def __init__(self, graph: Graph, overwrites: Callable[[Node], Iterable[int]]) -> None:
        self.overwrites = overwrites
        self.columns = _Columns()
        self.nodes = [n for n in graph.nodes if n.op.name not in _NO_OP]
        self.at = {n: i for i, n in enumerate(self.nodes)}
        self.root: dict[Value, Value] = {}
        self.classes: list[Value] = []
        self.number: dict[Value, int] = {}  # of counted classes
        self.reads: list[tuple[int, ...]] = []
        self.first: list[int] = []
        self.last: list[int] = []
        self._number(graph)

    def _number(self, graph: Graph) -> None:
        for node in graph.nodes:
            for i, v in enumerate(node.results):
                source = node.op.views.get(i)
                self.root[v] = v if source is None else self.root[node.operands[source]]
        theirs = {self.root[v] for v in graph.outputs}
        for at, node in enumerate(self.nodes):
            for v in node.results:
                if self.root[v] is v and v not in theirs:
                    self.number[v] = len(self.classes)
                    self.classes.append(v)
                    self.first.append(at)
                    self.last.append(at)
            read = tuple(dict.fromkeys(self.number[r] for v in node.operands if (r := self.root[v]) in self.number))
            self.reads.append(read)
            for k in read:
                self.last[k] = at
        for v in self.classes:
            self.columns.terms(v.type.nbytes)
        self.inner = [self._inner(node) for node in self.nodes]

    def _inner(self, node: Node) -> Extent:
        """What the bodies of ``node`` need beyond their inputs and outputs, which are its operands and results."""
        most: Extent = 0
        for region in node.regions if node.op.name != "fused" else ():
            for need in footprint(region, self.overwrites):
                most = maximum(most, need)
        self.columns.terms(most)
        return most

    def rows(self) -> np.ndarray:
        sizes = [self.columns.terms(v.type.nbytes) for v in self.classes]
        spare = [self._freed(node) for node in self.nodes]
        width = len(self.columns.monomials)
        table = np.zeros((len(sizes), width), np.int64)
        for i, terms in enumerate(sizes):
            for column, c in terms.items():
                table[i, column] = c
        out = np.zeros((len(self.nodes), width), np.int64)
        for at, e in enumerate(self.inner):
            for column, c in self.columns.terms(e).items():
                out[at, column] += c
        best: dict[int, int] = {}
        for low in range(0, len(sizes), BLOCK):
            self._block(low, min(low + BLOCK, len(sizes)), table, out, spare, best)
        for at, k in best.items():
            out[at] -= table[k]
        return out

    def _freed(self, node: Node) -> tuple[int, ...]:
        """Classes that ``node`` may overwrite as far as its access relation goes."""
        found = []
        for k in self.overwrites(node):
            if k < len(node.operands):
                v = node.operands[k]
                root = self.root[v]
                if root in self.number and compare_eq(root.type.nbytes, node.results[0].type.nbytes) is True:
                    found.append(self.number[root])
        return tuple(found)

    def _block(
        self, low: int, high: int, table: np.ndarray, out: np.ndarray, spare: Sequence[tuple[int, ...]],
        best: dict[int, int],
    ) -> None:  # fmt: skip
        """Add what the classes ``low`` to ``high`` contribute to the ops between their first maker and last reader."""
        begin, end = self.first[low], max(self.last[low:high]) + 1
        size = end - begin
        own = [0] * size  # classes the op touches
        made = [0] * size  # classes made by the op or an ancestor of it
        for i in range(size):
            node = self.nodes[begin + i]
            bits = 0
            for v in node.operands:
                at = self.at.get(v.producer, -1) - begin
                if at >= 0:
                    bits |= made[at]
            touched = 0
            for v in node.results:
                k = self.number.get(v, -1)
                if low <= k < high:
                    touched |= 1 << (k - low)
            made[i] = bits | touched
            for k in self.reads[begin + i]:
                if low <= k < high:
                    touched |= 1 << (k - low)
            own[i] = touched
        later = [0] * size  # classes that a descendant of the op reads
        width = (high - low + 7) // 8
        packed = bytearray(size * width)
        for i in range(size - 1, -1, -1):
            bits = 0
            for v in self.nodes[begin + i].results:
                for user in v.users:
                    at = self.at.get(user, end) - begin
                    if at < size:
                        bits |= later[at]
                        for k in self.reads[begin + at]:
                            if low <= k < high:
                                bits |= 1 << (k - low)
            later[i] = bits
            held = made[i] & bits | own[i]
            packed[i * width : (i + 1) * width] = held.to_bytes(width, "little")
            for k in spare[begin + i]:
                if low <= k < high and not bits >> (k - low) & 1:
                    best[begin + i] = k  # all of one size: that of the result
        flat = np.frombuffer(packed, np.uint8).reshape(size, width)
        for start in range(0, size, BLOCK):
            part = np.unpackbits(flat[start : start + BLOCK], axis=1, bitorder="little", count=high - low)
            out[begin + start : begin + start + len(part)] += part.astype(np.int64) @ table[low:high]


def _maximal(rows: np.ndarray, columns: _Columns) -> tuple[Extent, ...]:
    """The rows that no other exceeds at every binding, as extents."""
    if not len(rows):
        return (0,)
    rows = np.unique(rows, axis=0)
    signs = np.array(columns.nonnegative, np.bool_)
    # A row that exceeds another in every column has the larger sum too: it comes first.
    rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
    kept = np.zeros((0, rows.shape[1]), np.int64)
    for row in rows:
        over = (kept[:, signs] >= row[signs]).all(axis=1) & (kept[:, ~signs] == row[~signs]).all(axis=1)
        if not over.any():
            kept = np.vstack([kept, row])
    return tuple(columns.extent(row) for row in kept.tolist())
