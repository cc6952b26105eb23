"""Moving a group of nodes into the closed region of one ``fused`` node.

Owns the region's operands, scalar constants and provenance. Must not decide what belongs together.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ..engine.base import erase_dead
from ..engine.values import make_splat, splat_scalar


def inner_constant(v: Value) -> bool:
    """A single element that belongs inside a kernel as a literal."""
    const = v.const
    return const is not None and const.array.size == 1 and v.rank == 0


def build_region(nodes: Sequence[Node], outputs: Sequence[Value]) -> tuple[Graph, list[Value]]:
    """A closed copy of ``nodes`` (in order) that returns ``outputs``, and the outer values that it reads, in order."""
    inside = {v for n in nodes for v in n.results}
    region = Graph()
    b = Builder(region)
    mapping: dict[Value, Value] = {}
    outer: list[Value] = []
    for n in nodes:
        for v in n.operands:
            if v not in inside and v not in mapping and not inner_constant(v):
                mapping[v] = b.input(f"a{len(outer)}", v.dtype, v.shape)
                outer.append(v)
    for n in nodes:
        for v in n.operands:
            if v not in mapping:
                twin = Builder(region, origin=v.producer.origin)
                mapping[v] = twin.constant(make_splat(splat_scalar(v), (), v.dtype))
        copy = Node(n.op, [mapping[v] for v in n.operands], n.attrs, [v.type for v in n.results], (), n.origin)
        region.insert(copy)
        mapping.update(zip(n.results, copy.results))
    names = [v.name or f"y{i}" for i, v in enumerate(outputs)]
    if len(set(names)) != len(names):
        names = [f"y{i}" for i in range(len(outputs))]
    return b.build(*(mapping[v] for v in outputs), names=names), outer


def fuse_nodes(
    nodes: Sequence[Node], outputs: Sequence[Value], kind: str, region: Graph, outer: Sequence[Value]
) -> Node:
    """Put ``fused`` where the last of ``nodes`` stands, in place of all of them."""
    last = nodes[-1]
    graph = last.graph
    assert graph is not None
    origin = Origin.merge([n.origin for n in nodes], "fuse")
    results = Builder(graph, last, origin).apply("fused", list(outer), {"kind": kind}, [region])
    for old, new in zip(outputs, results, strict=True):
        graph.replace(old, new)
    for n in reversed(nodes):
        erase_dead(n)
    return results[0].producer
