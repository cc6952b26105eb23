"""Composite ops that the target has no kernel for become the ops they mean.

Owns asking the target and inserting the decomposition, in regions too. Must not know any particular composite op.
"""

from __future__ import annotations

from ...core.errors import RewriteError
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ...ir.target import Target
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..local.fold import inline

_DEEPEST = 16


def expand(node: Node, name: str = "decompose") -> list[Node]:
    """Replace a composite node by its decomposition; the nodes made. Raises RewriteError if the op has none."""
    graph = node.graph
    if graph is None or node.op.decompose is None:
        raise RewriteError(f"{node.where} cannot be decomposed")
    before = node.previous
    builder = Builder(graph, node, Origin.merge([node.origin], name))
    out = node.op.decompose(builder, list(node.operands), node.attrs)
    values: tuple[Value, ...] = tuple(out) if isinstance(out, (tuple, list)) else (out,)
    made: list[Node] = []
    at = node.previous
    while at is not None and at is not before:
        made.append(at)
        at = at.previous
    for old, new in zip(node.results, values, strict=True):
        graph.replace(old, new)
    erase_dead(node)
    return made[::-1]


def _unfuse(graph: Graph, ctx: PassContext, target: Target) -> None:
    """A group that the model brought along and no kernel computes falls apart; fusion groups its nodes anew."""
    found = True
    while found:
        found = False
        for g in subgraphs(graph):
            for node in g.nodes:
                if node.op.name == "fused" and not target.supports(node):
                    for old, new in zip(node.results, inline(node.regions[0], list(node.operands), node), strict=True):
                        g.replace(old, new)
                    erase_dead(node)
                    ctx.rewrote("fused")
                    found = True


def _kept(node: Node, target: Target, pointwise: bool) -> bool:
    return target.dedicated(node) or (not pointwise and target.supports(node))


@graph_pass(numerics="reassoc", name="decompose")
def decompose(graph: Graph, ctx: PassContext) -> None:
    """Expand every composite op that the target does not support, recursively.

    Elementwise ones without a function of their own are always expanded, unless somebody registered a kernel for them:
    fusion puts their pieces into whatever kernel stands next to them.
    """
    target = ctx.target
    if target is not None:
        _unfuse(graph, ctx, target)
    for g in subgraphs(graph):
        work = [(node, 0) for node in g.nodes if node.op.decompose is not None]
        while work:
            node, depth = work.pop()
            pointwise = node.op.kind == "elementwise" and node.op.scalar is None
            if node.graph is None or (target is not None and _kept(node, target, pointwise)):
                continue
            if depth > _DEEPEST:
                raise RewriteError(f"the decomposition of {node.where} does not end")
            name = node.op.name
            made = expand(node)
            work += [(n, depth + 1) for n in made if n.op.decompose is not None]
            ctx.rewrote(name)
