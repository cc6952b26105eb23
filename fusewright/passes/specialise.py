"""Fix or rename symbols: a graph for ``N = 8`` from a graph for any N.

Owns substitution of extents through types, attributes and regions. Types are inferred anew, so a fixed extent also
decides what was unknown before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.dims import Extent, minimum
from ..core.errors import CompileRefused
from ..ir.builder import Builder
from ..ir.graph import Graph, Value
from ..ir.opdef import substitute_attr
from ..ir.scope import defined, definitions


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
        b.current_origin = node.origin
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


def bind_dims(graph: Graph, dims: Mapping[str, int | tuple[int, int | None]] | None) -> Graph:
    """The graph with fixed symbols replaced and bounded ones noted; raises CompileRefused for what is neither."""
    dims = dims or {}
    if not isinstance(dims, Mapping):
        raise CompileRefused(f"dims is a dict like {{'N': 8}}, not {dims!r}")
    found = defined(graph)
    unknown = [d for d in dims if d not in graph.symbols and d not in found]
    if unknown:
        known = ", ".join((*graph.symbols, *found)) or "none"
        raise CompileRefused(f"dims names {', '.join(map(repr, unknown))}; the model's symbols are {known}")
    fixed: dict[str, int] = {}
    bounds: dict[str, tuple[int, int | None]] = {}
    for name, value in dims.items():
        if isinstance(value, tuple) and len(value) == 2:
            low, high = _extent(value[0]), _extent(value[1])
            if low is not None and (value[1] is None or high is not None and high >= low):
                bounds[name] = (low, high)
                continue
        elif (size := _extent(value)) is not None:
            fixed[name] = size
            continue
        raise CompileRefused(f"dims[{name!r}] = {value!r} must be an int >= 0 or (low, high)")
    out = specialise(graph, {name: size for name, size in fixed.items() if name not in found})
    out.bounds.update({name: b for name, b in bounds.items() if name not in found})
    for node in definitions(out):
        name = node.attrs["symbol"]
        low, high = bounds.get(name, (fixed.get(name, 0), fixed.get(name)))
        node.attrs["low"] = max(low, node.attrs["low"])
        if high is not None:
            node.attrs["high"] = high if node.attrs["high"] is None else minimum(high, node.attrs["high"])
    return out


def _extent(value: Any) -> int | None:
    """``value`` as an extent, or None when it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return None
    return int(value) if value >= 0 else None
