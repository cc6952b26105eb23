"""Constants move into the regions that use them.

Owns the rewriting of if, while and scan operands that are constants. Weights inside a loop body are then visible as
constants there, so that they are folded, fused and packed at compile time.
"""

from __future__ import annotations

from ...ir.graph import Graph, Node
from ...ir.opdef import get_op
from ..engine.base import PassContext, graph_pass, subgraphs


@graph_pass(numerics="exact", name="localise")
def localise(graph: Graph, ctx: PassContext) -> None:
    """Give each region its own copy of the constants it reads (contents are shared, not copied)."""
    # Outermost first: a constant may sink through several levels.
    for g in reversed(subgraphs(graph)):
        for node in g.nodes:
            first = _first_constant_operand(node)
            if first is not None:
                for i in reversed(range(first, len(node.operands))):
                    if node.operands[i].const is not None:
                        _sink(node, i)
                        ctx.rewrote("localised")


def _first_constant_operand(node: Node) -> int | None:
    """Index of the first operand that the regions only read; None for nodes without such regions."""
    if node.op.name == "scan":
        first: int = node.attrs["n_carry"] + node.attrs["n_xs"]
        return first
    if node.op.name == "while":
        carried: int = node.attrs["n_carry"]
        return carried
    return 1 if node.op.name == "if" else None


def _sink(node: Node, index: int) -> None:
    source = node.operands[index].producer
    for region in node.regions:
        inner = region.inputs[index - 1 if node.op.name == "if" else index]
        copy = Node(get_op("constant"), (), source.attrs, [source.results[0].type], (), source.origin)
        region.insert(copy, before=next(iter(region.nodes)))
        region.replace(inner, copy.results[0])
        region.inputs.remove(inner)
        region.erase(inner.producer)
    node.set_operands([v for i, v in enumerate(node.operands) if i != index])
