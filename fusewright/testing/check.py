"""``check_pass``: generated graphs, twelve properties, a small failing example.

Owns the search and the report of a failure. Must not know how any property is judged.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.dims import evaluate
from ..core.errors import FusewrightError, InputRefused
from ..ir import Graph
from ..ir.interpreter import Interpreter
from ..ir.ops.control import at_most
from ..ir.target import Target
from ..passes import Pipeline
from ..passes.engine.base import Pass
from ..passes.engine.pattern import Pattern, trace
from .arena import PlainTarget
from .directed import Recipe, recipe
from .draw import Draw, SeededDraw
from .feeds import SPECIAL, bindings, feeds
from .graphs import Maker
from .paste import repro
from .properties import PROPERTIES, TRIPS, Applied, Feeds, Subject, Violation, check_one
from .reduce import ops_of, reduce_graph

_BY_TURNS = {"deterministic": 3, "idempotent": 2, "roundtrip": 3, "memory": 4, "metamorphic": 1}
_REDUCE_SECONDS = 15.0


class PassFailure(AssertionError):
    """A pass lacks a property.

    ``property`` names it, ``graph`` and ``feeds`` are the smallest example found, ``repro`` is a test to paste,
    ``seed`` and ``examples`` say where the search was.
    """

    def __init__(
        self, name: str, violation: Violation, graph: Graph, feeds: Feeds, repro: str, seed: int, examples: int
    ) -> None:
        self.property, self.why = violation.property, violation.why
        self.graph, self.feeds, self.repro = graph, feeds, repro
        self.seed, self.examples = seed, examples
        super().__init__(
            f"{name} fails {violation.property!r} ({PROPERTIES[violation.property]}) on example {examples}, seed "
            f"{seed}:\n{violation.why}\n\n{repro}"
        )


@dataclass(slots=True)
class CheckReport:
    """What a successful check looked at: graphs, and how many the pass matched, rewrote and declined."""

    name: str
    examples: int = 0
    matched: int = 0
    fired: int = 0
    declined: int = 0
    properties: tuple[str, ...] = ()
    by_property: dict[str, int] = field(default_factory=dict)


def check_pass(
    p: Pass | Pipeline,
    max_examples: int = 200,
    seed: int | None = None,
    skip: Sequence[str] = (),
    *,
    target: Target | None = None,
    claims: Sequence[str] = (),
    like: Sequence[Callable[..., Any]] = (),
    extra: Sequence[Callable[[Maker], Any]] = (),
    ops: Sequence[str] | None = None,
    reduce: bool = True,
) -> CheckReport:
    """Test a rewrite, rule set, graph pass or pipeline on ``max_examples`` generated graphs.

    Graphs grow around the pass's own patterns and their near misses. ``seed`` None is 0: the same graphs every time.
    ``skip`` leaves out properties (see ``PROPERTIES``); ``claims=("cost",)`` adds that work never grows. ``target`` is
    what ``ctx.target`` gives (a pipeline has its own). ``like`` are further patterns to draw, as ``fw.rewrite`` takes
    them, which a graph pass has none of; ``extra`` are functions that put something into the graph that is being made,
    where the pass asks for more than a pattern can say. ``ops`` limits the ops around them. ``reduce=False`` keeps the
    failing graph as drawn.

    Raises PassFailure, whose ``repro`` is a test to paste. Warns when the pass never found anything to do.
    """
    unknown = [n for n in (*skip, *claims) if n not in PROPERTIES]
    if unknown:
        raise InputRefused(f"there is no property {unknown[0]!r}; there are {', '.join(PROPERTIES)}")
    subject = subject_of(p, target, claims)
    found = recipe(p, [trace(f) for f in like], ops, extra)
    start = 0 if seed is None else seed
    report = CheckReport(subject.name, properties=tuple(n for n in PROPERTIES if n not in skip))
    for i in range(max_examples):
        graph, given = example(found, start, i)
        asked = [n for n in report.properties if i % _BY_TURNS.get(n, 1) == 0]
        try:
            after = check_one(subject, graph, given, _draw(start, i, 1), asked)
        except Violation as violation:
            raise _failure(subject, violation, graph, given, start, i, reduce) from violation
        _count(report, after, asked)
    if max_examples >= 50 and not report.matched:
        warnings.warn(f"{subject.name} matched none of {max_examples} graphs: nothing was tested", stacklevel=2)
    return report


def subject_of(p: Pass | Pipeline, target: Target | None = None, claims: Sequence[str] = ()) -> Subject:
    """What is tested. Raises InputRefused for what is no pass."""
    if not isinstance(p, (Pass, Pipeline)):
        raise InputRefused(f"{p!r} is not a pass: use fw.rewrite, fw.graph_pass or a pipeline")
    own = p.target if isinstance(p, Pipeline) else None
    return Subject(p, target or own or PlainTarget(), tuple(claims))


def _draw(seed: int, i: int, stream: int) -> Draw:
    return SeededDraw((seed * 1_000_003 + i) * 4 + stream)


def example(found: Recipe, seed: int, i: int) -> tuple[Graph, list[Feeds]]:
    """Graph ``i`` of a seed and what to feed it: drawn numbers, and special ones. Small graphs come first."""
    draw = _draw(seed, i, 0)
    graph = found.graph(draw, 1 + min(i // 12, 7))
    return graph, feed_sets(graph, draw)


def feed_sets(graph: Graph, draw: Draw) -> list[Feeds]:
    """Drawn feeds, and feeds of special values only (NaN, infinities, zeros of both signs, extremes)."""
    return [feeds(graph, draw), _special(graph, draw)]


def _special(graph: Graph, draw: Draw) -> Feeds:
    env = bindings(draw, graph)
    rng = np.random.default_rng(draw.integer(0, 1 << 16))
    few = np.array((0.0, -0.0, 1.0)) if rng.random() < 0.25 else rng.choice(SPECIAL, 4)
    out = {}
    for v in graph.inputs:
        shape = tuple(evaluate(d, env) for d in v.shape)
        kind = np.dtype(np.float32) if v.dtype.name == "bf16" else v.dtype.np
        with np.errstate(all="ignore"):
            if v.dtype.is_float:
                a = rng.choice(few if rng.random() < 0.5 else SPECIAL, shape).astype(kind)
            elif v.dtype.is_int:
                info = np.iinfo(v.dtype.np)
                salt = np.array([info.min, info.max, 0, 1, info.max // 2, info.min + 1], v.dtype.np)
                a = rng.choice(salt, shape) if rng.random() < 0.5 else rng.integers(0, 5, shape).astype(kind)
            else:
                a = rng.random(shape) < 0.5
        out[v.name] = np.array(a, kind)
    return out


def _count(report: CheckReport, after: Applied, asked: Sequence[str]) -> None:
    report.examples += 1
    report.matched += bool(after.matched)
    report.fired += bool(after.rewritten)
    report.declined += bool(after.declined)
    for name in asked:
        report.by_property[name] = report.by_property.get(name, 0) + 1


def check_graph(
    p: Pass | Pipeline,
    graph: Graph,
    feeds: Mapping[str, Any] | None = None,
    skip: Sequence[str] = (),
    *,
    target: Target | None = None,
    claims: Sequence[str] = (),
) -> CheckReport:
    """Ask every property of ``p`` on one graph: what a pasted ``repro`` calls. Raises PassFailure."""
    subject = subject_of(p, target, claims)
    names = tuple(n for n in PROPERTIES if n not in skip)
    report = CheckReport(subject.name, properties=names)
    for seed in range(8):
        draw = _draw(seed, 0, 1)
        given = feed_sets(graph, draw)
        if feeds is not None:
            given.insert(0, {k: np.asarray(v) for k, v in feeds.items()})
        try:
            _count(report, check_one(subject, graph, given, draw, names), names)
        except Violation as violation:
            raise PassFailure(
                subject.name, violation, graph, given[0], _paste(subject, violation, graph, given[0]), seed, 0
            ) from violation
    return report


def _failure(
    subject: Subject, violation: Violation, graph: Graph, given: Sequence[Feeds], seed: int, i: int, reduce: bool
) -> PassFailure:
    violation, graph = _plainly(subject, violation, graph, given, _draw(seed, i, 1))
    state: dict[str, Violation] = {}

    def fails(g: Graph, f: dict[str, np.ndarray]) -> bool:
        # A smaller graph may have lost what ends its loop, and then it tells nothing: InputRefused.
        with at_most(TRIPS):
            Interpreter(g).run(f)
        # Metamorphic variants are drawn: a smaller graph fails if any of a few draws does.
        for k in range(12 if violation.property == "metamorphic" else 1):
            try:
                check_one(subject, g, [f], _draw(seed, i, 1) if k == 0 else SeededDraw(k), (violation.property,))
            except Violation as found:
                if found.property == violation.property:
                    state["last"] = found
                    return True
        return False

    chosen: dict[str, np.ndarray] | None = None
    for f in given:
        if fails(graph, dict(f)):
            chosen = dict(f)
            break
    small, fed = graph, dict(given[0])
    if chosen is not None:
        small, fed = reduce_graph(graph, chosen, fails, _REDUCE_SECONDS) if reduce else (graph, chosen)
        if fails(small, fed):
            violation = state["last"]
    if isinstance(subject.tested, Pipeline):
        violation = _blame(subject, violation, small, fed, seed, i)
    text = _paste(subject, violation, small, fed)
    return PassFailure(subject.name, violation, small, fed, text, seed, i + 1)


def _paste(subject: Subject, violation: Violation, graph: Graph, fed: Feeds) -> str:
    p = subject.tested
    own = p.target if isinstance(p, Pipeline) else None
    plain = subject.target is own or subject.target == PlainTarget()
    return repro(p, violation, graph, fed, subject.claims, "" if plain else repr(subject.target))


def _plainly(
    subject: Subject, violation: Violation, graph: Graph, given: Sequence[Feeds], draw: Draw
) -> tuple[Violation, Graph]:
    """What a variant of the graph has shown, as a failure on that variant: said at once, and quicker to reduce."""
    if violation.variant is not None:
        for name in ("terminates", "verifies", "semantics"):
            try:
                check_one(subject, violation.variant, given, draw, (name,))
            except Violation as found:
                return found, violation.variant
            except FusewrightError:
                break
    return violation, graph


def _blame(subject: Subject, violation: Violation, graph: Graph, fed: Feeds, seed: int, i: int) -> Violation:
    """Name the pass of a pipeline behind which the failure first shows."""
    pipeline = subject.tested
    assert isinstance(pipeline, Pipeline)
    for k, name in enumerate(pipeline.names):
        head = pipeline
        for later in pipeline.names[k + 1 :]:
            head = head.without(later)
        try:
            check_one(dataclasses.replace(subject, tested=head), graph, [fed], _draw(seed, i, 1), (violation.property,))
        except Violation as found:
            if found.property == violation.property:
                return Violation(violation.property, f"first seen after pass {name!r}: {found.why}")
    return violation


__all__ = ["CheckReport", "FusewrightError", "PassFailure", "Pattern", "check_graph", "check_pass", "ops_of", "repro"]
