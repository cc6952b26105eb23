"""The journal of a run: every rewrite, numbered, with what it replaced and what it made.

Owns entries and their text. Must not know passes, nor change graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...ir.graph import Node, Value
from ...ir.text import node_text


@dataclass(frozen=True, slots=True)
class Entry:
    """One rewrite. ``number`` counts from 1 inside its pass; ``before`` and ``after`` are lines of text IR.

    A pass that edits the graph by hand may say less: then ``where`` and the lines are empty.
    """

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


def replaced(old: Iterable[Value], new: Iterable[Value], made: Iterable[Node]) -> tuple[str, ...]:
    """The lines of a replacement: the nodes made, then which value stands for which where none was made."""
    nodes = list(made)
    known = {id(n) for n in nodes}
    lines = [node_text(n) for n in nodes]
    for a, b in zip(old, new):
        if id(b.producer) not in known:
            lines.append(f"{_spelt(a)} is now {_spelt(b)}")
    return tuple(lines)


def _spelt(v: Value) -> str:
    return "%" + (v.name or v.producer.op.name)
