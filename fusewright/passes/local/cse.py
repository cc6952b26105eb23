"""Common subexpression elimination.

Owns merging of nodes that compute the same value from the same operands. Must not merge across regions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.graph import Const, Graph, Node, Origin
from ..engine.base import PassContext, graph_pass, subgraphs
from ..engine.values import attr_key

# max(+0, -0) depends on the order of the operands, so only these may be sorted and stay bit exact.
_ORDER_FREE = frozenset("add mul eq ne logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor".split())


def _bytes_equal(a: Const, b: Const) -> bool:
    if a.array is b.array:
        return True
    if a.is_splat or b.is_splat:
        return a.digest == b.digest
    return np.array_equal(np.ascontiguousarray(a.array).view(np.uint8), np.ascontiguousarray(b.array).view(np.uint8))


def _const_key(const: Const) -> Any:
    """A cheap key: type, shape and a few elements. Equal keys are compared in full."""
    array = const.array
    if array.size == 0:
        return (const.dtype.name, array.shape)
    corners = (array[(0,) * array.ndim], array[(-1,) * array.ndim], array[tuple(d // 2 for d in array.shape)])
    return (const.dtype.name, array.shape, const.is_splat, tuple(np.asarray(c).tobytes() for c in corners))


def _key(node: Node) -> Any:
    operands = [id(v) for v in node.operands]
    if node.op.name in _ORDER_FREE:
        operands.sort()
    attrs = tuple((name, attr_key(value)) for name, value in node.attrs.items())
    return (node.op.name, tuple(operands), attrs, tuple(v.type for v in node.results))


def _find_constant(node: Node, table: dict[Any, list[Node]]) -> Node | None:
    const = node.attrs["value"]
    same = table.setdefault(_const_key(const), [])
    for other in same:
        if other.graph is not None and _bytes_equal(other.attrs["value"], const):
            return other
    same.append(node)
    return None


@graph_pass(numerics="exact", name="cse")
def cse(graph: Graph, ctx: PassContext) -> None:
    """Compute equal expressions once, equal constants included."""
    for g in subgraphs(graph):
        seen: dict[Any, Node] = {}
        constants: dict[Any, list[Node]] = {}
        for node in g.nodes:
            if node.op.name in ("input", "return") or node.op.effects or node.regions:
                continue
            first = _find_constant(node, constants) if node.op.name == "constant" else seen.setdefault(_key(node), node)
            if first is None or first is node:
                continue
            for old, new in zip(node.results, first.results):
                g.replace(old, new)
            first.origin = Origin.merge([first.origin, node.origin])
            g.erase(node)
            ctx.rewrote("merged " + node.op.name)
