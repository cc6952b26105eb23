"""One line that property-tests a registered lowering: an imported model against what it stands for.

Owns drawing inputs and the comparison. Must not know any framework: the reference is a callable of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import FusewrightError, InputRefused
from ..frontends.source import import_model
from ..ir import BoundedInterpreter, Graph, parse_graph
from .draw import SeededDraw
from .feeds import feeds as draw_feeds

RTOL, ATOL = 1e-4, 1e-5  # beside the graph's own bound; ATOL of the largest value


class LoweringFailure(AssertionError):
    """The lowered model differs from its reference. ``graph`` and ``feeds`` show it."""

    def __init__(self, message: str, graph: Graph, feeds: Mapping[str, np.ndarray]) -> None:
        self.graph, self.feeds = graph, dict(feeds)
        given = "\n".join(f"  {name}: {array!r}" for name, array in feeds.items() if array.size <= 64)
        super().__init__(f"{message}\n{given}\n{graph.brief()}")


@dataclass(slots=True)
class LoweringReport:
    """How many inputs were tried, elements compared, and elements that no float32 evaluation decides.

    ``refused``: drawn inputs whose extents the graph or the reference does not take (an image of no pixels, say).
    """

    examples: int = 0
    elements: int = 0
    undecided: int = 0
    refused: int = 0


def check_lowering(
    source: Any,
    reference: Callable[..., Any] | None = None,
    max_examples: int = 50,
    seed: int = 0,
    **options: Any,
) -> LoweringReport:
    """Hold an imported model to a reference on drawn inputs: several extents per symbol, empty ones, special values.

    ``source`` is anything that ``fw.import_model`` takes (with ``options``), as small as possible around the layer or
    op whose lowering you registered; a Graph too. ``reference`` gets one array per input, in order, and returns the
    outputs; left out, the source itself is called (a live Keras model, a tf.function). A result may be off by
    the error bound of the lowered graph and the conformance tolerance (1e-4 of the value, 1e-5 of the largest).

    What no float32 evaluation decides (positions behind a comparison, say) is compared in shape alone and counted.
    Raises LoweringFailure, an AssertionError, and what importing raises; what the reference raises at extents that
    were drawn counts as refused, unless every input is.
    """
    call = source if reference is None else reference
    if not callable(call):
        raise InputRefused("this source cannot be called: give check_lowering a reference=, a function of the inputs")
    graph = source if isinstance(source, Graph) else import_model(source, **options)
    graph.verify(level=2)
    if parse_graph(str(graph)).fingerprint != graph.fingerprint:
        raise LoweringFailure("the graph does not read back from its text", graph, {})
    report = LoweringReport()
    last: BaseException | None = None
    for i in range(max_examples):
        # From small to large, so that the first failure is a small one.
        env = {s: _extent(graph, s, i) for s in graph.symbols}
        fed = draw_feeds(graph, SeededDraw(seed * 1_000_003 + i), env)
        try:
            bounded = BoundedInterpreter(graph).run_bounded(fed)
        except FusewrightError:
            report.refused += 1  # these extents do not fit the graph
            continue
        try:
            found = call(*(np.array(fed[v.name]) for v in graph.inputs))
        except Exception as error:
            if not graph.symbols:
                raise
            report.refused, last = report.refused + 1, error
            continue
        wanted = _listed(found, graph)
        report.examples += 1
        for name, want in zip(graph.output_names, wanted, strict=True):
            value, err = bounded[name]
            problem = _differs(value, err, np.asarray(want), report)
            if problem:
                raise LoweringFailure(f"output {name!r} {problem}", graph, fed)
    if not report.examples:
        raise LoweringFailure("every drawn input was refused, last of all by the exception above", graph, {}) from last
    if not report.elements and not report.undecided:
        raise LoweringFailure("nothing was compared: every output was empty", graph, {})
    return report


def _extent(graph: Graph, symbol: str, i: int) -> int:
    low, high = graph.bounds.get(symbol, (0, None))
    wanted = (1, 2, 3, 0, 5)[i % 5]
    return max(low, wanted if high is None else min(high, wanted))


def _listed(found: Any, graph: Graph) -> list[Any]:
    if isinstance(found, Mapping):
        found = [found[n] for n in graph.output_names] if set(found) >= set(graph.output_names) else [*found.values()]
    values = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(values) != len(graph.output_names):
        raise InputRefused(f"the reference gives {len(values)} results, the graph has {len(graph.output_names)}")
    return values


def _differs(value: np.ndarray, err: np.ndarray, want: np.ndarray, report: LoweringReport) -> str:
    if want.shape != value.shape:
        return f"has shape {value.shape}, the reference {want.shape}"
    a, b = np.asarray(value, np.float64), np.asarray(want, np.float64)
    bound = np.broadcast_to(np.asarray(err, np.float64), a.shape)
    # Where the bound is infinite, or a magnitude leaves float32, rounding decides and either may be right.
    decided = np.isfinite(bound) & ~(np.isfinite(a) & (np.abs(a) > 1e37))
    report.elements += int(np.count_nonzero(decided))
    report.undecided += int(np.count_nonzero(~decided))
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    with np.errstate(all="ignore"):
        near = np.abs(a - b) <= 4 * bound + RTOL * np.abs(b) + ATOL * scale
    wrong = decided & ~near & (a != b) & ~(np.isnan(a) & np.isnan(b))
    if not np.any(wrong):
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"is {a[at]:.9g} at {at}, the reference says {b[at]:.9g}"


__all__ = ["LoweringFailure", "LoweringReport", "check_lowering"]
