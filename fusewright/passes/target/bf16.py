"""Which contractions are computed from operands rounded to bfloat16.

Owns the pass that marks them where the target finds that faster; the mark widens the op's error bound. Must not know
instruction sets, costs or kernels.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin
from ..engine.base import PassContext, graph_pass, subgraphs

OPS = ("matmul", "conv_blocked")


@graph_pass(numerics="approx", name="bf16")
def bf16(graph: Graph, ctx: PassContext) -> None:
    """Round the operands of contractions to bfloat16 where the target says that this is faster; sums stay float32."""
    if ctx.target is None:
        return
    for g in subgraphs(graph):
        for node in list(g.nodes):
            anchor = _contraction(node)
            if anchor is None or anchor.attrs["bf16"]:
                continue
            if not ctx.target.prefers_bf16(node):
                ctx.decline(node, "the target has no faster kernel for rounded operands")
                continue
            inside = anchor.graph
            assert inside is not None
            b = Builder(inside, anchor, Origin.merge([anchor.origin], "bf16"))
            marked = b.apply(anchor.op, list(anchor.operands), {**anchor.attrs, "bf16": True})
            inside.replace(anchor.results[0], marked[0])
            inside.erase(anchor)
            ctx.rewrote(anchor.op.name)


def _contraction(node: Node) -> Node | None:
    """``node`` itself, or the one whose parts it reads."""
    if node.op.name == "fused" and node.attrs["kind"] == "gated":
        return next((n for n in node.regions[0].nodes if n.op.name in OPS), None)
    return node if node.op.name in OPS else None
