"""Which 3 x 3 convolutions are computed in Winograd tiles.

Owns two passes that mark blocked convolutions where the target finds tiles faster: F(2 x 2) always, larger tiles where
approximations are admitted. Must not know costs or kernels.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Origin
from ...ir.ops.winograd import STRICT, applies
from ...ir.target import Target
from ..engine.base import PassContext, graph_pass, subgraphs


def _mark(graph: Graph, ctx: PassContext, target: Target, most: int) -> None:
    for g in subgraphs(graph):
        for node in list(g.nodes):
            if node.op.name != "conv_blocked" or not node.attrs["x_blocked"] or node.attrs["winograd"] >= most:
                continue
            if not applies(node.operands[1].shape, node.attrs):
                continue
            m = target.winograd_tile(node, most)
            if m <= node.attrs["winograd"]:
                ctx.decline(node, f"the direct kernel or a smaller tile than F({most}x{most}) is as fast")
                continue
            b = Builder(g, node, Origin.merge([node.origin], "winograd"))
            g.replace(node.results[0], b.apply(node.op, list(node.operands), {**node.attrs, "winograd": m})[0])
            g.erase(node)
            ctx.rewrote(node.op.name)


@graph_pass(numerics="reassoc", name="winograd")
def winograd(graph: Graph, ctx: PassContext) -> None:
    """Compute 3 x 3 convolutions in tiles F(2 x 2, 3 x 3) where the target says that this is faster."""
    if ctx.target is not None:
        _mark(graph, ctx, ctx.target, STRICT)


@graph_pass(numerics="approx", name="winograd4")
def winograd4(graph: Graph, ctx: PassContext) -> None:
    """Compute 3 x 3 convolutions in tiles F(4 x 4, 3 x 3), which lose about a decimal digit, where that is faster."""
    if ctx.target is not None:
        _mark(graph, ctx, ctx.target, 4)
