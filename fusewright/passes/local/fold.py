"""Bounded constant folding.

Owns evaluating nodes whose operands are constants, where every machine gets the same bytes (``ir.folding`` says where).
Must not spread a splat out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.dims import symbols
from ...core.dtypes import DType, decode, encode
from ...core.errors import FusewrightError
from ...ir.builder import Builder
from ...ir.folding import FREE_BYTES, affordable, same_everywhere
from ...ir.graph import Const, Graph, Node, Value
from ...ir.opdef import EvalContext
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.driver import made_before
from ..engine.values import make_splat, splat_scalar

_CONTEXT = EvalContext({})


def foldable(node: Node) -> bool:
    """The op gives the same bytes everywhere, and nothing about it is symbolic."""
    if not same_everywhere(node) or len(node.results) != 1 or not node.results[0].type.is_static:
        return False
    return not any(map(_symbolic, node.attrs.values()))


def _symbolic(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_symbolic, value))
    return not isinstance(value, (int, str, float, DType)) and value is not None and bool(symbols(value))


def _splats(node: Node) -> list[Any] | None:
    """One element per operand when the whole result is one repeated element."""
    name = node.op.name
    moved = name in ("reshape", "broadcast_to", "transpose", "slice", "reverse")
    if not moved and not (node.op.kind == "elementwise" and node.op.scalar is not None):
        return None
    found = [splat_scalar(v) for v in node.operands]
    return None if any(f is None for f in found) else found


def evaluate(node: Node) -> Const | None:
    """The contents of the result, or None when folding would cost more than it saves."""
    result = node.results[0]
    shape, dt = result.type.concrete({}), result.dtype
    bytes_out = int(np.prod(shape, dtype=int)) * dt.size
    elements = _splats(node)
    if elements is not None and bytes_out:
        # A broadcast of one element says it all already; as a constant it would have to be stored.
        if node.op.name == "broadcast_to" and bytes_out > FREE_BYTES:
            return None
        if node.op.kind != "elementwise":
            return make_splat(elements[0], shape, dt)
        assert node.op.eval is not None
        args = [np.asarray(e) for e in elements]
        return make_splat(node.op.eval(args, node.attrs, _CONTEXT), shape, dt)
    if any(v.const is None for v in node.operands):
        return None
    consts = [v.const for v in node.operands if v.const is not None]
    bytes_in = sum(c.array.nbytes for c in consts)
    if not affordable(bytes_out, bytes_in):
        return None
    # Spreading a splat for a mixed operation is bounded by the same figures.
    assert node.op.eval is not None
    out = node.op.eval([decode(c.array, c.dtype) for c in consts], node.attrs, _CONTEXT)
    return Const(encode(np.ascontiguousarray(out, dt.compute).reshape(shape), dt), dt)


def _branch(node: Node) -> list[Value] | None:
    """The taken branch of an ``if`` on a constant, inlined before it."""
    condition = node.operands[0].const
    if node.op.name != "if" or condition is None or node.graph is None:
        return None
    region = node.regions[0 if bool(condition.array) else 1]
    return inline(region, list(node.operands[1:]), node)


def inline(region: Graph, args: list[Value], before: Node) -> list[Value]:
    """Copy a closed region's nodes before a node; the values that its outputs became."""
    graph = before.graph
    assert graph is not None
    mapping = dict(zip(region.inputs, args, strict=True))
    for node in region.nodes:
        if node.op.name == "input" or node is region.return_node:
            continue
        types = [v.type for v in node.results]
        regions = [r.clone() for r in node.regions]
        twin = Node(node.op, [mapping[v] for v in node.operands], node.attrs, types, regions, node.origin)
        graph.insert(twin, before)
        mapping.update(zip(node.results, twin.results))
    return [mapping[v] for v in region.outputs]


@graph_pass(numerics="exact", name="fold")
def fold(graph: Graph, ctx: PassContext) -> None:
    """Replace nodes on constants by their result, within 64 MiB and 16 times the operands."""
    for g in subgraphs(graph):
        for node in g.nodes:
            _fold_node(node, ctx)


def _fold_node(node: Node, ctx: PassContext) -> None:
    graph = node.graph
    assert graph is not None
    if node.op.name == "if":
        mark = node.previous
        taken = _branch(node)
        if taken is None:
            return
        inlined = made_before(node, mark)[::-1]
        for old, new in zip(node.results, taken):
            graph.replace(old, new)
        erase_dead(node)
        ctx.rewrote("if")
        for n in inlined:
            if n.graph is graph:
                _fold_node(n, ctx)
        return
    if not foldable(node) or not (node.operands or node.op.name == "iota"):
        return
    try:
        const = evaluate(node)
    except (FusewrightError, MemoryError) as error:
        return ctx.decline(node, f"{type(error).__name__}: {error}")
    if const is None:
        return
    folded = Builder(graph, node, node.origin).constant(const)
    graph.replace(node.results[0], folded)
    erase_dead(node)
    ctx.rewrote(node.op.name)
