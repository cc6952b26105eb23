"""A strided 1x1 convolution that waits: what it reads is thinned out first, so that the whole need not wait with it.

Owns when that pays. Fusion gave the convolution a sum whose other term is made from the same value (a shortcut around a
pool), so it runs last, and what it skips would stay in memory for nothing. Must not know places or kernels.
"""

from __future__ import annotations

from ...core.dims import Extent, compare_le
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.values import same_shape
from ..local.strides import every, skipping
from .fuse import ANCHORS

MOST_NODES = 256  # of a branch that are looked at
_NO_OP = frozenset({"input", "constant", "return"})


@graph_pass(numerics="exact", name="thin")
def thin(graph: Graph, ctx: PassContext) -> None:
    """Slice what a strided 1x1 convolution reads where its operand would else stay alive at the peak."""
    if ctx.target is None:
        return
    for g in subgraphs(graph):
        waiting = [(n, anchor) for n in g.nodes if (anchor := _skips(n)) is not None]
        if waiting:
            at = {n: i for i, n in enumerate(g.nodes)}
            needs = list(dict.fromkeys(_need(n) for n in g.nodes))
            for node, anchor in waiting:
                _thin(node, anchor, at, needs, ctx)


def _skips(node: Node) -> Node | None:
    """The 1x1 convolution in ``node`` that leaves out elements of its operand."""
    if node.op.name != "fused" or node.attrs["kind"] != "contract":
        return None
    anchor = next((n for n in node.regions[0].nodes if n.op.name in ("conv", "conv_blocked")), None)
    return anchor if anchor is not None and skipping(anchor) is not None else None


def _thin(node: Node, anchor: Node, at: dict[Node, int], needs: list[Extent], ctx: PassContext) -> None:
    region, graph = node.regions[0], node.graph
    assert graph is not None
    x = node.operands[region.inputs.index(anchor.operands[0])]
    if x.producer.op.name in _NO_OP or x in graph.outputs or node.operands.count(x) != 1:
        return
    others = [u for u in x.users if u is not node]
    terms = [v for v in node.operands if v is not x and same_shape(v.shape, node.results[0].shape)]
    for term in terms:
        branch = _branch(term, at, at[x.producer])
        if term.producer in branch and any(u in branch for u in others):
            break
    else:
        return
    if _contraction(term.producer):
        return ctx.decline(node, "the other term of its sum comes from a contraction, which may run last as well")
    most = [_need(n) + x.type.nbytes for n in branch if n not in others]
    if all(any(compare_le(m, need) is True for need in needs) for m in most):
        return ctx.decline(node, "its operand does not wait where most memory is needed")
    made = _replace(node, anchor, x, ctx)
    if made is None:
        return ctx.decline(node, "the target has no kernel for it without strides")
    at[made], at[made.operands[node.operands.index(x)].producer] = at[node], at[x.producer]
    erase_dead(node)
    ctx.rewrote("thin")


def _branch(term: Value, at: dict[Node, int], first: int) -> set[Node]:
    """The nodes behind position ``first`` that lead to ``term``; none when they are too many."""
    found: set[Node] = set()
    work = [term.producer]
    while work:
        n = work.pop()
        if n in found or at.get(n, -1) <= first:
            continue
        if len(found) == MOST_NODES:
            return set()
        found.add(n)
        work += [v.producer for v in n.operands]
    return found


def _contraction(node: Node) -> bool:
    return node.op.name in ANCHORS or node.op.name == "fused" and node.attrs["kind"] == "contract"


def _need(node: Node) -> Extent:
    """Bytes of what ``node`` reads and makes."""
    if node.op.name in _NO_OP:
        return 0
    read = [v for v in dict.fromkeys(node.operands) if v.producer.op.name not in ("input", "constant")]
    total: Extent = 0
    for v in (*read, *node.results):
        total = total + v.type.nbytes
    return total


def _sliced(region: Graph, anchor: Node, x: Value) -> Graph:
    """A copy of ``region`` whose ``anchor`` reads every element of its operand, which is ``x`` now."""
    out = Graph()
    b = Builder(out)
    mapping: dict[Value, Value] = {}
    for v in region.inputs:
        t = x if v is anchor.operands[0] else v
        mapping[v] = b.input(v.name, t.dtype, t.shape)
    for n in region.nodes:
        if n.op.name in ("input", "return"):
            continue
        attrs = {**n.attrs, "strides": (1,) * len(n.attrs["strides"])} if n is anchor else n.attrs
        made = Builder(out, origin=n.origin).apply(n.op, [mapping[v] for v in n.operands], attrs)
        mapping.update(zip(n.results, made, strict=True))
    return b.build(*(mapping[v] for v in region.outputs), names=region.output_names)


def _replace(node: Node, anchor: Node, x: Value, ctx: PassContext) -> Node | None:
    """A node that computes the same from a slice of ``x``, in place of ``node``."""
    graph, after, region = node.graph, x.producer.next, node.regions[0]
    assert graph is not None and after is not None and ctx.target is not None
    origin = Origin.merge([node.origin], "thin")
    y = every(Builder(graph, after, origin), x, anchor.attrs["strides"])
    new = _sliced(region, anchor, y)
    if not same_shape(new.outputs[0].shape, node.results[0].shape) or not ctx.target.can_fuse("contract", new):
        erase_dead(y.producer)
        return None
    operands = [y if v is x else v for v in node.operands]
    z: Value = Builder(graph, node, origin).apply("fused", operands, node.attrs, [new])[0]
    graph.replace(node.results[0], z)
    return z.producer


__all__ = ["thin"]
