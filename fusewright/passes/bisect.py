"""Finding the pass, and the rewrite in it, after which a graph is wrong.

Owns the search. Must not know what a pass does, nor what wrong means beyond the question it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import RewriteError, VerifyError
from ..ir.graph import Graph
from .engine.base import Pass, loosest
from .engine.journal import Entry, Journal
from .engine.probe import Probes

if TYPE_CHECKING:
    from .pipeline import Pipeline

Wrong = Callable[[Graph], bool]


@dataclass(frozen=True, slots=True)
class Culprit:
    """Where a graph goes wrong: the pass, the number of the rewrite in it, and the graphs right before and after.

    ``number`` and ``entry`` are None for a pass that changes more than it counts.
    """

    pass_name: str
    number: int | None
    entry: Entry | None
    before: Graph
    after: Graph

    def __str__(self) -> str:
        return str(self.entry) if self.entry is not None else f"{self.pass_name}: the pass as a whole"


def bisect(pipeline: Pipeline, graph: Graph, wrong: Wrong | None = None) -> Culprit | None:
    """The first pass and rewrite after which ``wrong(graph)`` holds; None if it does not hold at the end.

    Without ``wrong``, probe inputs are interpreted and compared within the running error bounds.
    Takes about log2(passes) + log2(rewrites) questions. Raises RewriteError if the graph is wrong from the start.
    """
    wrong = wrong or _probing(pipeline, graph)
    if wrong(graph.clone()):
        raise RewriteError("the graph is wrong before the first pass")
    stages = [graph.clone()]
    # The numbers of the passes come from the pipeline, so that what strict mode leaves out is left out here too.
    pipeline.run(graph, verify=0, trace=lambda name, after: stages.append(after.clone()))
    if not wrong(stages[-1].clone()):
        return None
    low, high = 0, len(stages) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wrong(stages[middle].clone()) else (middle, high)
    name = pipeline.admitted[low]
    return _inside(pipeline, name, stages[low], stages[high], wrong)


def _inside(pipeline: Pipeline, name: str, before: Graph, after: Graph, wrong: Wrong) -> Culprit:
    guilty = pipeline[name]
    journal = Journal()
    _limited(pipeline, guilty, name, before, None, journal)
    low, high = 0, len(journal)
    if not high or not wrong(_limited(pipeline, guilty, name, before, high).clone()):
        return Culprit(name, None, None, before, after)
    while high - low > 1:
        middle = (low + high) // 2
        bad = wrong(_limited(pipeline, guilty, name, before, middle).clone())
        low, high = (low, middle) if bad else (middle, high)
    first, last = (_limited(pipeline, guilty, name, before, n) for n in (low, high))
    return Culprit(name, high, journal[high - 1], first, last)


def _limited(
    pipeline: Pipeline, guilty: Pass, name: str, graph: Graph, limit: int | None, journal: Journal | None = None
) -> Graph:
    copy = graph.clone()
    guilty.run_timed(copy, pipeline.target, journal, limit, name)
    return copy


def _probing(pipeline: Pipeline, graph: Graph) -> Wrong:
    numerics = loosest(pipeline[name].numerics for name in pipeline.admitted)

    def wrong(candidate: Graph) -> bool:
        try:
            Probes(graph).check(candidate, "bisect", numerics)
        except VerifyError:
            return True
        return False

    return wrong
