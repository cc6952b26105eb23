"""Fix or rename symbols: a graph for ``N = 8`` from a graph for any N.

Owns substitution of extents through types, attributes and regions. Types are inferred anew, so a fixed extent also
decides what was unknown before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.dims import Extent
from ..ir.builder import Builder
from ..ir.graph import Graph, Value
from ..ir.opdef import substitute_attr


def specialise(graph: Graph, env: Mapping[str, Extent]) -> Graph:
    """A new graph with the symbols of ``env`` replaced. Raises TypeRefused when the sizes do not fit."""
    if not env:
        return graph.clone()
    out = _rebuild(graph, env)
    out.bounds = {k: v for k, v in graph.bounds.items() if k not in env}
    return out


def _rebuild(graph: Graph, env: Mapping[str, Extent]) -> Graph:
    b = Builder()
    mapping: dict[Value, Value] = {}
    outputs: Sequence[Value] = ()
    for node in graph.nodes:
        b._origin = node.origin
        if node.op.name == "input":
            v = node.results[0]
            mapping[v] = b.input(v.name, v.dtype, v.type.substitute(env).shape)
            continue
        if node is graph.return_node:
            outputs = [mapping[v] for v in node.operands]
            continue
        if node.op.name == "constant":
            results: Sequence[Value] = (b.constant(node.attrs["value"]),)
        else:
            attrs = {k: substitute_attr(v, env) for k, v in node.attrs.items()}
            regions = [_rebuild(r, env) for r in node.regions]
            results = b.apply(node.op, [mapping[v] for v in node.operands], attrs, regions)
        for old, new in zip(node.results, results, strict=True):
            new.name = old.name
            mapping[old] = new
    built = b.build(*outputs, names=graph.output_names)
    built.bounds, built.meta = dict(graph.bounds), dict(graph.meta)
    return built
