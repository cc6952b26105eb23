"""The journal of a run: every rewrite, numbered, with what it replaced and what it made.

Owns entries, their text, and the recorder that watches a pass edit its graph. Must not know passes, nor change graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node, Origin, Value
from ...ir.text import node_text


@dataclass(frozen=True, slots=True)
class Entry:
    """One rewrite. ``number`` counts from 1 inside its pass; ``before`` and ``after`` are lines of text IR."""

    pass_name: str
    number: int
    rule: str
    where: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.pass_name} #{self.number}: {self.rule}" + (f" at {self.where}" if self.where else "")]
        lines += [f"  - {line}" for line in self.before]
        lines += [f"  + {line}" for line in self.after]
        return "\n".join(lines)


@dataclass(slots=True)
class Journal:
    """Entries in order. Hand one to ``Pipeline.run(journal=)`` or ``rule.apply(journal=)``, then print it."""

    entries: list[Entry] = field(default_factory=list)

    def about(self, text: str) -> Journal:
        """The entries that mention ``text``: a layer, an op, a rule, a pass, a value's name."""
        return Journal([e for e in self.entries if text in str(e)])

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> Entry:
        return self.entries[index]


class Recorder:
    """Notes what a pass does to a graph and its regions between one rewrite and the next.

    What was made and is gone again leaves no trace. Lines of what goes are taken while its operands still stand.
    """

    def __init__(self) -> None:
        self._made: dict[Node, None] = {}
        self._gone: dict[Node, str] = {}
        self._altered: dict[Node, str] = {}
        self._stands: dict[Value, Value] = {}

    def inserted(self, node: Node) -> None:
        self._made[node] = None
        for region in node.regions:
            watch(region, self)

    def erasing(self, node: Node) -> None:
        if node in self._made:
            del self._made[node]
        else:
            self._gone[node] = self._altered.pop(node, "") or node_text(node)

    def altering(self, node: Node) -> None:
        if node not in self._made and node not in self._altered:
            self._altered[node] = node_text(node)

    def replacing(self, old: Value, new: Value) -> None:
        if old.producer not in self._made:
            self._stands[old] = new

    def take(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Place, lines before and lines after, of everything since the last call."""
        # Readers go before what they read: turned round, the lines stand as they stood in the graph.
        before = [*reversed(self._gone.values()), *self._altered.values()]
        changed = [n for n in self._altered if n.graph is not None]
        after = [node_text(n) for n in (*self._made, *changed)]
        for old, new in self._stands.items():
            if new.producer not in self._made and new.producer.graph is not None:
                before = before or [node_text(old.producer)]
                same = _spelt(old) == _spelt(new)  # unnamed values of one op: the line of the other says more
                after.append(node_text(new.producer) if same else f"{_spelt(old)} is now {_spelt(new)}")
        if self._gone and not after:
            after = [f"{', '.join(_spelt(v) for n in reversed(self._gone) for v in n.results)}: gone"]
        touched = [*reversed(self._gone), *self._altered, *(v.producer for v in self._stands)] or list(self._made)
        where = str(Origin.merge([n.origin for n in touched])) if touched else ""
        if touched and not where:  # nothing says where it came from: by its name, then
            where = next((_spelt(v) for n in reversed(touched) for v in n.results), "")
        for kept in (self._made, self._gone, self._altered, self._stands):
            kept.clear()
        return where, tuple(before), tuple(after)


def watch(graph: Graph, watcher: Recorder | None) -> None:
    """Let ``watcher`` see every edit of ``graph`` and its regions; None ends that."""
    graph.watcher = watcher
    for node in graph.walk():
        for region in node.regions:
            region.watcher = watcher


def _spelt(v: Value) -> str:
    return "%" + (v.name or v.producer.op.name)
