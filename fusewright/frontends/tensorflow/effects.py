"""Assignments that a run of the graph performs: which variables change while the outputs are computed.

Owns the walk over data and control edges, functions included. Must not know what is read (lower.py does).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .graphdef import Attrs, Ref, TFFunction, TFGraph, TFNode

# Ops whose first input is a variable that they write (or a table, a queue: those have no value that we read).
_WRITES = re.compile(
    r"^(Assign.*|Scatter(Add|Sub|Mul|Div|Min|Max|Update)|ScatterNd(Add|Sub|Update|Max|Min)|StridedSliceAssign"
    r"|Resource(Scatter|Apply|SparseApply|StridedSliceAssign).*|(Sparse)?Apply.*|CountUpTo|ResourceCountUpTo)$"
)
_PASS = ("Identity", "RefIdentity", "Enter", "RefEnter", "Switch", "RefSwitch")
# Op -> (attributes that name functions, how many inputs come before the functions' arguments).
_CALLS: dict[str, tuple[tuple[str, ...], int]] = {
    "PartitionedCall": (("f",), 0), "StatefulPartitionedCall": (("f",), 0), "If": (("then_branch", "else_branch"), 1),
    "StatelessIf": (("then_branch", "else_branch"), 1), "While": (("cond", "body"), 0),
    "StatelessWhile": (("cond", "body"), 0),
}  # fmt: skip
_DEPTH = 32


def written(graph: TFGraph, outputs: Iterable[Ref], stop: Iterable[str]) -> dict[str, str]:
    """Variable (its node in the main graph) -> the node that assigns it when ``outputs`` are computed.

    A node runs if an output needs it by data or by control; inside a function also if its control outputs do.
    """
    found: dict[str, str] = {}
    _walk(graph, graph.nodes, [r.node for r in outputs], set(stop), {}, "", found, set(), 0)
    return found


def _walk(
    graph: TFGraph,
    nodes: Mapping[str, TFNode],
    roots: Iterable[str],
    stop: set[str],
    handles: Mapping[str, str],
    path: str,
    found: dict[str, str],
    done: set[tuple[str, tuple[tuple[str, str], ...]]],
    depth: int,
) -> None:
    stack, seen = list(roots), set(stop)
    while stack:
        name = stack.pop()
        node = nodes.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        stack.extend(r.node for r in node.inputs)
        stack.extend(node.controls)
        if _WRITES.match(node.op) and node.inputs:
            variable = _handle(nodes, node.inputs[0].node, handles)
            if variable:
                found.setdefault(variable, f"{path}{name}")
        if depth >= _DEPTH:
            continue
        for function, args in _called(graph, node):
            inner = {
                arg: h
                for (arg, _), ref in zip(function.args, args, strict=False)
                if (h := _handle(nodes, ref.node, handles))
            }
            key = (function.name, tuple(sorted(inner.items())))
            if key not in done:
                done.add(key)
                ends = [r.node for r in function.returns.values()] + function.controls
                _walk(graph, function.nodes, ends, set(), inner, f"{path}{name}/", found, done, depth + 1)


def _called(graph: TFGraph, node: TFNode) -> list[tuple[TFFunction, tuple[Ref, ...]]]:
    if node.op in graph.functions:
        return [(graph.functions[node.op], node.inputs)]
    if node.op in ("Case", "StatelessCase"):
        names, skip = Attrs(node, graph.limits).functions("branches"), 1
    elif node.op in _CALLS:
        attrs, skip = _CALLS[node.op]
        names = [Attrs(node, graph.limits).function(a) for a in attrs if a in node.attrs]
    else:
        return []
    return [(graph.functions[n], node.inputs[skip:]) for n in names if n in graph.functions]


def _handle(nodes: Mapping[str, TFNode], name: str, handles: Mapping[str, str]) -> str:
    """The variable behind a handle, or "" where there is none."""
    seen: set[str] = set()
    while name in nodes and nodes[name].op in _PASS and nodes[name].inputs and name not in seen:
        seen.add(name)
        name = nodes[name].inputs[0].node
    if name in handles:
        return handles[name]
    node = nodes.get(name)
    if node is None or node.op not in ("VarHandleOp", "VariableV2", "Variable", "Placeholder"):
        return ""
    return name


__all__ = ["written"]
