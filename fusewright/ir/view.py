"""Read-only networkx views of a graph, and DOT export.

Owns the one use of networkx, for tools and cross-checks: it is never the storage and stays off the hot path.
"""

from __future__ import annotations

import json
from typing import Any

import networkx as nx

from .graph import Graph, Node


def digraph(graph: Graph) -> Any:
    """A frozen ``networkx.MultiDiGraph``: Nodes, and one edge per use with ``value`` and ``operand``."""
    out = nx.MultiDiGraph()
    for node in graph.nodes:
        out.add_node(node, op=node.op.name, origin=str(node.origin))
        for i, v in enumerate(node.operands):
            out.add_edge(v.producer, node, value=v, operand=i)
    return nx.freeze(out)


def post_dominators(graph: Graph) -> dict[Node, Node]:
    """Node -> the nearest other node through which every path from it to the outputs runs.

    The return node and nodes that reach no output are left out.
    """
    if graph.return_node is None:
        return {}
    plain = nx.DiGraph(digraph(graph).reverse(copy=True))
    found = nx.immediate_dominators(plain, graph.return_node)
    return {n: d for n, d in found.items() if n is not graph.return_node and d is not None}


def dot(graph: Graph) -> str:
    """The graph in Graphviz DOT, one box per node, types on the edges; regions are counted, not drawn."""
    numbers = {node: i for i, node in enumerate(graph.nodes)}
    lines = ["digraph {", "  node [shape=box, fontname=monospace];"]
    for node, i in numbers.items():
        label = node.op.name
        if node.op.name == "input":
            label = f"input {node.result.name}"
        if node.regions:
            label += f" ({len(node.regions)} regions)"
        lines.append(f"  n{i} [label={json.dumps(label)}, tooltip={json.dumps(str(node.origin))}];")
    for node, i in numbers.items():
        for v in node.operands:
            lines.append(f"  n{numbers[v.producer]} -> n{i} [label={json.dumps(str(v.type))}];")
    return "\n".join([*lines, "}"]) + "\n"


__all__ = ["digraph", "dot", "post_dominators"]
