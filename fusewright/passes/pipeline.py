"""Pipelines: passes in order, edited by name, verified in between.

Owns ``Pipeline``, its statistics and the default order. Must not know what a pass does.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import FusewrightError, RewriteError, VerifyError
from ..ir.graph import Graph
from ..ir.target import Target
from .bisect import Culprit, Wrong, bisect
from .engine import probe
from .engine.base import GraphPass, Pass, PassContext, PassStats
from .engine.journal import Journal
from .local.canonicalise import canonicalise
from .local.cse import cse
from .local.dce import dce
from .local.fold import fold
from .local.localise import localise
from .local.scale import scale
from .local.simplify import simplify
from .local.sink import sink
from .local.strides import strides
from .local.windows import windows
from .loops.counted import loops
from .loops.hoist import hoist, invariant
from .loops.scanned import carried
from .raising import raising
from .target.bf16 import bf16
from .target.decompose import decompose
from .target.fuse import fuse
from .target.gates import gates
from .target.layout import layout
from .target.merge import merge
from .target.thin import thin
from .target.winograd import winograd, winograd4

MODES = ("strict", "fast")
_ROUNDS = 6
Trace = Callable[[str, Graph], Any]


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Passes drop few objects for good, but looking through all nodes for them took as long as the passes did."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(slots=True)
class PipelineStats:
    """Statistics of every pass of a run, in order; ``stats["cse"]`` picks one."""

    passes: list[PassStats] = field(default_factory=list)
    seconds: float = 0.0

    def __getitem__(self, name: str) -> PassStats:
        found = next((s for s in self.passes if s.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[PassStats]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    @property
    def matched(self) -> int:
        return sum(s.matched for s in self.passes)

    @property
    def rewritten(self) -> int:
        return sum(s.rewritten for s in self.passes)

    @property
    def declined(self) -> list[tuple[str, str]]:
        """(where, why) of every refusal."""
        return [d for s in self.passes for d in s.declined]

    def explain(self) -> str:
        """What each pass did and why it left the rest alone."""
        return "\n".join(s.explain() for s in self.passes)


class Pipeline:
    """An ordered list of named passes, immutable: editing gives a new pipeline.

    ``numerics`` 'strict' leaves out passes declared 'approx' (and says so in the statistics), 'fast' admits them.
    """

    def __init__(self, passes: Iterable[Pass] = (), target: Target | None = None, numerics: str = "strict") -> None:
        self._entries: list[tuple[str, Pass]] = []
        if numerics not in MODES:
            raise RewriteError(f"numerics mode {numerics!r} is not 'strict' or 'fast'")
        self.target = target
        self.numerics = numerics
        self.portable_cut: str | None = None
        for p in passes:
            self._entries.append((self._fresh(p), p))

    def _fresh(self, p: Pass) -> str:
        if not isinstance(p, Pass):
            raise RewriteError(f"{p!r} is not a pass: use fw.rewrite or fw.graph_pass")
        name, n = p.name, 2
        while name in self.names:
            name, n = f"{p.name} ({n})", n + 1
        return name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the passes, in order."""
        return tuple(name for name, _ in self._entries)

    @property
    def admitted(self) -> tuple[str, ...]:
        """The passes that the numerics mode lets run."""
        return tuple(name for name, p in self._entries if self._admits(p))

    def _admits(self, p: Pass) -> bool:
        return p.numerics != "approx" or self.numerics == "fast"

    @property
    def portable_names(self) -> tuple[str, ...]:
        """The passes that make the portable graph: those up to the cut, before decomposition, layout and fusion."""
        if self.portable_cut not in self.names:
            return ()
        return self.names[: self.names.index(self.portable_cut) + 1]

    def __getitem__(self, name: str) -> Pass:
        return self._entries[self._index(name)][1]

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise RewriteError(f"the pipeline has no pass {name!r}; it has {', '.join(self.names)}")
        return self.names.index(name)

    def _edited(self, entries: list[tuple[str, Pass]]) -> Pipeline:
        out = Pipeline((), self.target, self.numerics)
        out._entries = entries
        out.portable_cut = self.portable_cut
        return out

    def after(self, name: str, new: Pass) -> Pipeline:
        """A pipeline with ``new`` right after the pass ``name``. Raises RewriteError for an unknown name."""
        at = self._index(name) + 1
        out = self._edited([*self._entries[:at], (self._fresh(new), new), *self._entries[at:]])
        # A pass put right behind the cut belongs to the portable part.
        out.portable_cut = out.names[at] if name == self.portable_cut else self.portable_cut
        return out

    def before(self, name: str, new: Pass) -> Pipeline:
        """A pipeline with ``new`` right before the pass ``name``."""
        at = self._index(name)
        return self._edited([*self._entries[:at], (self._fresh(new), new), *self._entries[at:]])

    def without(self, name: str) -> Pipeline:
        """A pipeline that lacks the pass ``name``."""
        at = self._index(name)
        out = self._edited([*self._entries[:at], *self._entries[at + 1 :]])
        if name == self.portable_cut:
            out.portable_cut = self.names[at - 1] if at else None
        return out

    def with_numerics(self, numerics: str) -> Pipeline:
        """The same passes under another numerics mode."""
        out = Pipeline((), self.target, numerics)
        out._entries, out.portable_cut = list(self._entries), self.portable_cut
        return out

    @_collector_paused()
    def run(
        self, graph: Graph, verify: int = 1, stop_after: str | None = None, trace: Trace | None = None,
        start_after: str | None = None, journal: Journal | None = None,
    ) -> tuple[Graph, PipelineStats]:  # fmt: skip
        """A rewritten copy and the statistics; ``graph`` is not touched.

        ``verify``: 0 off, 1 structure, 2 types, 3 also interprets probe inputs before and after each pass. ``trace`` is
        called with each pass's name and the graph after it (``trace=print`` shows them). ``stop_after`` and
        ``start_after`` name passes. ``journal`` takes an entry per rewrite.
        Raises VerifyError naming the guilty pass.
        """
        if verify not in range(4):
            raise RewriteError(f"verify={verify!r} is 0 (off), 1 (structure), 2 (types) or 3 (probe inputs)")
        first = 0 if start_after is None else self._index(start_after) + 1
        last = len(self._entries) if stop_after is None else self._index(stop_after) + 1
        stats = PipelineStats()
        begin = time.perf_counter()
        current = graph.clone()
        current.verify(level=min(verify, 2))
        probes = probe.Probes(current) if verify >= 3 else None
        for name, p in self._entries[first:last]:
            if not self._admits(p):
                why = ("pipeline", "numerics='strict' admits no approx")
                stats.passes.append(PassStats(name, p.numerics, declined=[why]))
                continue
            one = self._run_one(name, p, current, verify, journal)
            stats.passes.append(one)
            if probes is not None:
                probes.check(current, name, p.numerics)
            if trace is not None:
                trace(name, current)
        stats.seconds = time.perf_counter() - begin
        return current, stats

    def bisect(self, graph: Graph, wrong: Wrong | None = None) -> Culprit | None:
        """The pass, and the number of the rewrite in it, after which ``wrong(graph)`` holds; None if it never does.

        Without ``wrong``, probe inputs decide. Raises RewriteError if the graph is wrong from the start.
        """
        return bisect(self, graph, wrong)

    def _run_one(self, name: str, p: Pass, graph: Graph, verify: int, journal: Journal | None) -> PassStats:
        signature = _signature(graph) if verify else ()
        stats = p.run_timed(graph, self.target, journal, name=name)
        if not verify:
            return stats
        try:
            graph.verify(level=min(verify, 2))
        except FusewrightError as error:
            raise VerifyError(f"after pass {name!r}: {error}", name) from error
        if _signature(graph) != signature:
            raise VerifyError(f"pass {name!r} changed the signature from {signature} to {_signature(graph)}", name)
        return stats

    def __repr__(self) -> str:
        return f"<pipeline {' > '.join(self.names)}>"


def _signature(graph: Graph) -> tuple[Any, ...]:
    inputs = tuple((v.name, str(v.type)) for v in graph.inputs)
    # An extent may be written in another, equal way after a rewrite; dtype and rank may not change.
    return inputs, tuple((n, v.dtype.name, v.rank) for n, v in zip(graph.output_names, graph.outputs))


def _tidy(graph: Graph, ctx: PassContext) -> None:
    """The clean-up passes again, in rounds, until none finds anything."""
    # Each of them may uncover work for those before it; a handful of rounds is far more than models need.
    for _ in range(_ROUNDS):
        before = ctx.stats.rewritten
        for p in (canonicalise, localise, fold, simplify, cse, dce):
            p.run(graph, ctx)
        if ctx.stats.rewritten == before:
            break


tidy = GraphPass(_tidy, "tidy", simplify.numerics)


def default_pipeline(target: Target | None = None, numerics: str = "strict") -> Pipeline:
    """The passes that every compile runs, for ``target``. The portable graph of a bundle is what ``merge`` leaves.

    Without a target nothing is laid out or fused, and every composite op is decomposed.
    """
    recurrence = [invariant, loops, carried, hoist]
    portable = [canonicalise, localise, fold, simplify, *recurrence, raising, sink, cse, dce, scale, merge]
    targeted = [layout, winograd, winograd4, gates, bf16, fuse, thin] if target is not None else []
    lowering = [strides, windows, decompose, tidy, *targeted]
    out = Pipeline([*portable, *lowering], target, numerics)
    out.portable_cut = merge.name
    return out


__all__ = ["MODES", "Pipeline", "PipelineStats", "Trace", "default_pipeline", "tidy"]
