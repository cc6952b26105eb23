"""Which contractions are computed from operands rounded to bfloat16.

Owns the pass that marks them where the target finds that faster; the mark widens the op's error bound. Must not know
instruction sets, costs or kernels.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Origin
from ..engine.base import PassContext, graph_pass, subgraphs

OPS = ("matmul", "conv_blocked")


@graph_pass(numerics="approx", name="bf16")
def bf16(graph: Graph, ctx: PassContext) -> None:
    """Round the operands of contractions to bfloat16 where the target says that this is faster; sums stay float32."""
    if ctx.target is None:
        return
    for g in subgraphs(graph):
        for node in list(g.nodes):
            if node.op.name not in OPS or node.attrs["bf16"]:
                continue
            if not ctx.target.prefers_bf16(node):
                ctx.decline(node, "the target has no faster kernel for rounded operands")
                continue
            b = Builder(g, node, Origin.merge([node.origin], "bf16"))
            g.replace(node.results[0], b.apply(node.op, list(node.operands), {**node.attrs, "bf16": True})[0])
            g.erase(node)
            ctx.rewrote(node.op.name)
