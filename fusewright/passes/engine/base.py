"""What a pass is: a name, a numeric promise, a function on a graph, and statistics.

Owns numerics levels, PassContext, PassStats and ``graph_pass``. Must not know any particular pass.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...core.errors import RewriteError
from ...ir.graph import Graph, Node, Value
from ...ir.target import Target
from .journal import Entry, Journal, Recorder, watch

LEVELS = ("exact", "ulp", "nsz", "reassoc", "approx")
_ULP = re.compile(r"ulp\(([0-9]+(?:\.[0-9]+)?)\)")


def check_numerics(numerics: str) -> str:
    """``numerics`` as given. Raises RewriteError unless it is exact, ulp(n), nsz, reassoc or approx."""
    if isinstance(numerics, str) and (numerics in LEVELS and numerics != "ulp" or _ULP.fullmatch(numerics)):
        return numerics
    raise RewriteError(f"numerics={numerics!r} is not one of 'exact', 'ulp(n)', 'nsz', 'reassoc', 'approx'")


def numerics_rank(numerics: str) -> tuple[int, float]:
    """Levels in order of what they may change: each includes those before it."""
    match = _ULP.fullmatch(numerics)
    return (LEVELS.index("ulp"), float(match.group(1))) if match else (LEVELS.index(numerics), 0.0)


def loosest(levels: Iterable[str]) -> str:
    """The level that covers all of ``levels``; exact for none. Beside the sign of zero, ulps need ``reassoc``."""
    found = sorted(set(levels), key=numerics_rank)
    if any(n.startswith("ulp") for n in found) and found[-1] == "nsz":
        return "reassoc"
    return found[-1] if found else "exact"


@dataclass(slots=True)
class PassStats:
    """What one pass did: patterns matched, rewrites made, and each refusal with its place and reason."""

    name: str
    numerics: str = "exact"
    matched: int = 0
    rewritten: int = 0
    declined: list[tuple[str, str]] = field(default_factory=list)
    fired: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def explain(self) -> str:
        """One paragraph: counts, which rules fired, and why others did not."""
        lines = [f"{self.name} ({self.numerics}): matched {self.matched}, rewritten {self.rewritten}, "
                 f"declined {len(self.declined)} in {self.seconds * 1e3:.1f} ms"]  # fmt: skip
        lines += [f"  {rule}: {count}" for rule, count in self.fired.items()]
        lines += [f"  declined at {where}: {why}" for where, why in self.declined]
        return "\n".join(lines)


class Halt(Exception):
    """Raised inside a pass once it has made the rewrites that it may make. The graph is then a whole one."""


@dataclass(slots=True)
class PassContext:
    """What a pass may ask and where it reports. ``target`` is None outside a target's pipeline.

    ``journal`` takes an entry per rewrite. ``limit``: the pass ends after that many, which is how bisecting finds one.
    """

    stats: PassStats
    target: Target | None = None
    journal: Journal | None = None
    limit: int | None = None
    made: int = 0
    recorder: Recorder = field(default_factory=Recorder)
    _told: set[tuple[str, str]] = field(default_factory=set)

    def rewrote(self, what: str = "", count: int = 1, where: str = "") -> None:
        """Note ``count`` matches that were rewritten, when the graph is whole again; ``what`` names the rule.

        The journal has seen every edit since the last call; ``where`` says the place better than their origins do.
        May end the pass here.
        """
        self.stats.matched += count
        self.stats.rewritten += count
        if what:
            self.stats.fired[what] = self.stats.fired.get(what, 0) + count
        self.made += 1
        if self.journal is not None:
            found, before, after = self.recorder.take()
            name = what or self.stats.name
            self.journal.entries.append(Entry(self.stats.name, self.made, name, where or found, before, after))
        if self.limit is not None and self.made >= self.limit:
            raise Halt

    def decline(self, node: Node | str, why: str) -> None:
        """Note a match that was left alone, and why. The same refusal twice counts once."""
        entry = (node if isinstance(node, str) else node.where, why)
        if entry not in self._told:
            self._told.add(entry)
            self.stats.matched += 1
            self.stats.declined.append(entry)


class Pass(ABC):
    """Base of passes. ``run`` edits the graph that it is given; ``apply`` works on a copy."""

    name: str
    numerics: str

    def __init__(self, name: str, numerics: str) -> None:
        if not name:
            raise RewriteError("a pass needs a name")
        self.name = name
        self.numerics = check_numerics(numerics)

    @abstractmethod
    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Edit ``graph`` in place."""

    def apply(
        self, graph: Graph, target: Target | None = None, journal: Journal | None = None, limit: int | None = None
    ) -> tuple[Graph, PassStats]:
        """A rewritten copy and the statistics; ``graph`` is not touched. ``limit``: after that many rewrites, stop."""
        copy = graph.clone()
        return copy, self.run_timed(copy, target, journal, limit)

    def run_timed(
        self,
        graph: Graph,
        target: Target | None = None,
        journal: Journal | None = None,
        limit: int | None = None,
        name: str | None = None,
    ) -> PassStats:
        """Run in place and measure. ``name``: what the pass is called in its pipeline.

        Whatever the pass's code raises gets a note that names the pass.
        """
        stats = PassStats(name or self.name, self.numerics)
        ctx = PassContext(stats, target, journal, limit)
        if journal is not None:
            watch(graph, ctx.recorder)
        start = time.perf_counter()
        try:
            if limit != 0:
                self.run(graph, ctx)
        except Halt:
            pass
        except Exception as error:
            error.add_note(f"in pass {stats.name!r}, after {stats.rewritten} rewrites")
            raise
        finally:
            if journal is not None:
                watch(graph, None)
        stats.seconds = time.perf_counter() - start
        return stats

    def __repr__(self) -> str:
        return f"<pass {self.name} ({self.numerics})>"


class GraphPass(Pass):
    """A pass made of one function ``(graph, ctx)`` that edits the graph."""

    def __init__(self, function: Callable[[Graph, PassContext], Any], name: str, numerics: str) -> None:
        super().__init__(name, numerics)
        self.function = function
        self.__doc__ = function.__doc__

    def run(self, graph: Graph, ctx: PassContext) -> None:
        result = self.function(graph, ctx)
        if result is not None and result is not graph:
            what = "another graph" if isinstance(result, Graph) else f"a {type(result).__name__}"
            raise RewriteError(f"pass {self.name!r} returned {what}; edit the graph it is given and return nothing")


def graph_pass(numerics: str, name: str | None = None) -> Callable[[Callable[[Graph, PassContext], Any]], GraphPass]:
    """Decorator: ``def f(graph, ctx)`` as a pass. The function edits ``graph`` in place. Raises RewriteError."""
    check_numerics(numerics)
    return lambda function: GraphPass(function, name or function.__name__, numerics)


def subgraphs(graph: Graph) -> list[Graph]:
    """``graph`` and every graph nested in its regions, innermost first. Regions of ``fused`` are done: left out."""
    found: list[Graph] = []
    stack = [graph]
    while stack:
        current = stack.pop()
        found.append(current)
        stack.extend(r for node in current.nodes if node.regions and node.op.name != "fused" for r in node.regions)
    return found[::-1]


def erase_dead(node: Node) -> list[Value]:
    """Erase ``node`` if nothing uses it, then operands that only it used. Gives the values that lost a use."""
    stack = [node]
    touched: list[Value] = []
    while stack:
        n = stack.pop()
        if n.graph is None or n.op.name in ("input", "return") or n.op.effects or any(v.uses for v in n.results):
            continue
        operands = dict.fromkeys(n.operands)
        n.graph.erase(n)
        touched += operands
        stack.extend(v.producer for v in operands)
    return [v for v in touched if v.producer.graph is not None]
