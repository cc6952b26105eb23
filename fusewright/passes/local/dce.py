"""Dead code elimination.

Owns removal of nodes that nothing reads. Must not look at what ops mean beyond their effects.
"""

from __future__ import annotations

from ...ir.graph import Graph
from ...ir.scope import DEFINES, is_live
from ..engine.base import PassContext, graph_pass, subgraphs


@graph_pass(numerics="exact", name="dce")
def dce(graph: Graph, ctx: PassContext) -> None:
    """Remove nodes whose results nothing reads; inputs and nodes with effects stay."""
    # Outermost first: a region that goes away with its owner needs no cleaning.
    for g in reversed(subgraphs(graph)):
        for node in reversed(g.nodes):
            # A definition is kept for its symbol.
            effect = is_live(node, graph) if node.op.name == DEFINES else bool(node.op.effects)
            keep = node.op.name in ("input", "return") or effect
            if not keep and not any(v.uses for v in node.results):
                g.erase(node)
                ctx.rewrote("dead " + node.op.name)
