"""Attention as one kernel: plain, or fused with the views before and behind it and the making of its mask.

Owns the reading of an ``attention`` node or a ``fused`` region of kind "attention". Must not know tiles.
"""

from __future__ import annotations

import math

from ....core.dtypes import BOOL, F32, F64
from ....core.errors import CompileRefused
from ....ir.builder import Builder
from ....ir.graph import Graph, Node, Value
from ....ir.opdef import Cost
from ..loops.region import first_operands
from ..templates.attention import AttentionPlan, attention, fits
from ..templates.strided import read_through, write_through
from ..templates.template import Arg
from ..variants import Variant
from .words import Chosen, Word, bound


def attends(node: Node) -> bool:
    """``node`` is an attention, or one fused with what stands around it."""
    return node.op.name == "attention" or (node.op.name == "fused" and node.attrs["kind"] == "attention")


def supports(node: Node) -> bool:
    """One kernel computes ``node``."""
    return can_fuse(_region(node))


def can_fuse(region: Graph) -> bool:
    """One kernel computes ``region``."""
    plan = read_region(region)
    return plan is not None and fits(plan)


def read(node: Node) -> AttentionPlan | None:
    """The plan of ``node``, or None; an operand given twice is read once."""
    return read_region(_region(node), first_operands(node))


def choose(node: Node, variant: Variant, cost: Cost) -> list[Chosen]:
    """The kernel call of an attention. Raises CompileRefused."""
    plan = read(node)
    if plan is None:
        raise CompileRefused(f"there is no attention kernel for {node.where}")

    def word(arg: Arg) -> Word:
        return Word("operand" if arg.kind == "operand" else "result", arg.index)

    return [bound("attention", attention(variant, plan), word, cost.flops, cost.bytes)]


def _region(node: Node) -> Graph:
    """What ``node`` computes as a closed graph with the attention in it."""
    if node.op.name == "fused":
        return node.regions[0]
    b = Builder()
    inputs = [b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(node.operands)]
    return b.build(b.apply(node.op, inputs, node.attrs)[0])


def read_region(region: Graph, firsts: list[int] | None = None) -> AttentionPlan | None:
    """The plan of a region with one attention, views around it and an elementwise mask; None for anything else.

    ``firsts``: per region input the first operand that holds the same value.
    """
    found = [n for n in region.nodes if n.op.name == "attention"]
    if len(found) != 1 or len(region.outputs) != 1:
        return None
    node = found[0]
    y = node.results[0]
    firsts = list(range(len(region.inputs))) if firsts is None else firsts
    place = {v: firsts[i] for i, v in enumerate(region.inputs)}
    q, k, v = (read_through(x, place) for x in node.operands[:3])
    out = write_through(region.outputs[0], y)
    depth, width, keys = node.operands[0].shape[-1], y.shape[-1], node.operands[1].shape[-2]
    if q is None or k is None or v is None or out is None or y.dtype not in (F32, F64):
        return None
    if not isinstance(depth, int) or not isinstance(width, int) or depth < 1 or width < 1:
        return None
    if isinstance(keys, int) and keys < 2:
        return None  # there is nothing to weigh
    lead = y.rank - 2
    sides = []
    for side, x in zip((q, k, v), node.operands[:3], strict=True):
        # A leading axis of one is spread over the others' heads.
        pairs = zip(side.strides[:lead], x.shape[:lead], y.shape[:lead], strict=True)
        strides = [0 if d == 1 and e != 1 else s for s, d, e in pairs]
        sides.append(type(side)(side.operand, side.offset, (*strides, *side.strides[lead:])))
    scores, raw = _scores(node, region)
    hidden = float(node.attrs["masked"]) if node.attrs["causal"] else None
    return AttentionPlan(
        y.dtype, y.shape[:-2], y.shape[-2], keys, depth, width, sides[0], sides[1], sides[2], out, scores, raw,
        (*firsts, -1), hidden,
    )  # fmt: skip


def _scores(node: Node, region: Graph) -> tuple[Graph, Value]:
    """What becomes of q k^T before the softmax, as the op's decomposition has it; and its input for q k^T."""
    b = Builder()
    mapping = {v: b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(region.inputs)}
    q, k = node.operands[:2]
    y, attrs = node.results[0], node.attrs
    raw = b.input("raw", y.dtype, (*y.shape[:-1], k.shape[-2]))
    scale = 1.0 / math.sqrt(int(q.shape[-1])) if attrs["scale"] is None else attrs["scale"]  # type: ignore[arg-type]
    scores = b.mul(raw, scale)
    if len(node.operands) > 3:
        mask = _copy(node.operands[3], mapping, b)
        scores = b.where(mask, scores, attrs["masked"]) if mask.dtype is BOOL else b.add(scores, mask)
    if attrs["causal"]:
        shape = (q.shape[-2], k.shape[-2])
        scores = b.where(b.ge(b.iota(shape=shape, axis=0), b.iota(shape=shape, axis=1)), scores, attrs["masked"])
    return b.build(scores), raw


def _copy(v: Value, mapping: dict[Value, Value], b: Builder) -> Value:
    """``v`` with everything before it, in the graph of ``b``."""
    if v not in mapping:
        node = v.producer
        if node.op.name == "constant":
            mapping[v] = b.constant(node.attrs["value"])
        else:
            operands = [_copy(x, mapping, b) for x in node.operands]
            mapping[v] = b.apply(node.op, operands, node.attrs)[v.index]
    return mapping[v]
