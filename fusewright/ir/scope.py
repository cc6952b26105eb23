"""Run-time symbols of a graph: extents that a node binds while the graph runs.

Owns where each is defined, how far it reaches and its bounds. ``symbol_of`` is the one op that defines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..core.bounds import Bounds, extent_range
from ..core.dims import Dim, Extent, symbols
from ..core.errors import TypeRefused, VerifyError
from .graph import Graph, Node

DEFINES = "symbol_of"


def definitions(graph: Graph) -> Iterator[Node]:
    """The nodes that define symbols, those of regions included, in order."""
    return (node for node in graph.walk() if node.op.name == DEFINES)


def defined(graph: Graph) -> tuple[str, ...]:
    """Names of the symbols that the graph and its regions define, in order."""
    return tuple(str(node.attrs["symbol"]) for node in definitions(graph))


def attr_symbols(value: Any) -> Iterable[str]:
    """The symbols that an attribute's extents mention."""
    if isinstance(value, Dim):
        return symbols(value)
    if isinstance(value, tuple):
        return [s for v in value for s in attr_symbols(v)]
    return ()


def mentioned(node: Node) -> set[str]:
    """The symbols in the types of a node's results and in its attributes; its regions' nodes are not looked at."""
    found = {s for v in node.results for s in v.type.symbols}
    for value in node.attrs.values():
        found.update(attr_symbols(value))
    return found


def is_live(node: Node, graph: Graph) -> bool:
    """Is the symbol of a defining node mentioned anywhere else in ``graph`` (the outermost one) or its regions?"""
    name = node.attrs["symbol"]
    return any(name in mentioned(other) for other in graph.walk() if other is not node)


def symbol_bounds(graph: Graph, missing: str = "refuse") -> Bounds:
    """Least and greatest value of every run-time symbol, over the symbols of the inputs.

    ``missing`` says what happens without an upper bound: "refuse" raises TypeRefused, "drop" leaves the symbol out.
    """
    out: dict[str, tuple[Extent, Extent]] = {}
    for node in definitions(graph):
        name, low, high = node.attrs["symbol"], node.attrs["low"], node.attrs["high"]
        if high is None or any(s not in out and s in defined(graph) for s in attr_symbols(high)):
            if missing == "drop":
                continue
            text = f"the extent {name} depends on values and has no upper bound ({node.where})"
            raise TypeRefused(f"{text}: give one with dims={{{name!r}: (0, 1000)}}")
        out[name] = (low, extent_range(high, out)[1])
    return out


def check_scopes(graph: Graph) -> None:
    """Every run-time symbol is defined once and mentioned only after its definition, in the same graph or in regions
    beneath it. Raises VerifyError naming the node."""
    names = defined(graph)
    if not names:
        return
    run_time = set(names)
    if len(run_time) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise VerifyError(f"the symbol {twice} is defined twice: clones of a defining node take fresh names")
    clash = run_time.intersection(graph.symbols)
    if clash:
        raise VerifyError(f"the symbol {min(clash)} is defined by a node and is an input's as well")
    _check(graph, run_time, set())


def _check(graph: Graph, run_time: set[str], seen: set[str]) -> None:
    known = set(seen)
    for v in graph.inputs:
        _refuse(v.producer, set(v.type.symbols), run_time, known)
    for node in graph.nodes:
        if node.op.name != "input":
            _refuse(node, mentioned(node), run_time, known)
        for region in node.regions:
            _check(region, run_time, known)
        if node.op.name == DEFINES:
            known.add(node.attrs["symbol"])


def _refuse(node: Node, found: set[str], run_time: set[str], known: set[str]) -> None:
    loose = (found & run_time) - known
    if loose:
        name = min(loose)
        raise VerifyError(f"{node.where}: the symbol {name} is used outside the reach of its definition", node.where)


__all__ = [
    "DEFINES", "attr_symbols", "check_scopes", "defined", "definitions", "is_live", "mentioned", "symbol_bounds",
]  # fmt: skip
