"""Kernels of contractions whose result is read in equal parts by an elementwise tail.

Owns the reading of a ``fused`` region of kind "gated" and the packing of its weights. Must not know tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ....core.dims import compare_eq, compare_le
from ....core.dtypes import F32, F64
from ....core.errors import CompileRefused
from ....ir.builder import Builder
from ....ir.graph import Const, Graph, Node, Value
from ....ir.opdef import Cost
from ..loops.gated import Gated, gated, gated_layout
from ..loops.refusal import NoKernel
from ..templates.matmul import MatmulPlan, plan_matmul
from ..templates.packing import paired
from ..templates.panels import halved, pick
from ..templates.template import Arg, Template
from ..variants import VARIANTS, Variant
from .contract import tame
from .words import Chosen, Word, bound

_WIDEST = VARIANTS["cpu-avx512"]  # what can be computed does not depend on the variant
_DOTS = next(v for v in VARIANTS.values() if v.dots)
LEAST_WIDTH = 16  # columns of a part; of fewer, rounding is a share that counts


@dataclass(frozen=True, slots=True)
class Found:
    """The contraction, its operands' places among the region's inputs, and what is made of its result."""

    anchor: Node
    operands: tuple[int, int]
    region: Gated


def gates(node: Node) -> bool:
    """``node`` is fused around a contraction that is read in parts."""
    return node.op.name == "fused" and node.attrs["kind"] == "gated"


def can_fuse(region: Graph) -> bool:
    """One kernel computes the region, given constant weights."""
    found = read(region)
    if found is None:
        return False
    try:
        _template(found, _WIDEST)
    except NoKernel:
        return False
    return True


def supports(node: Node) -> bool:
    """There is a kernel: the weights are constant."""
    found = read(node.regions[0])
    return found is not None and node.operands[found.operands[1]].const is not None and can_fuse(node.regions[0])


def choose(node: Node, variant: Variant, fixed: Mapping[int, Const], cost: Cost) -> list[Chosen]:
    """The kernel call of a gated contraction. Raises CompileRefused."""
    found = read(node.regions[0])
    const = None if found is None else fixed.get(found.operands[1])
    if found is None or const is None:
        raise CompileRefused(f"{node.where} needs constant weights to be fused")
    plan, template = _template(found, variant, bool(found.anchor.attrs["bf16"]))
    shape = tuple(int(d) for d in const.array.shape)
    layout = gated_layout(shape, found.region.parts, plan.tile.columns, plan.rhs_transposed)
    weights = Word("packed", found.operands[1], layout=paired(layout) if plan.pairs else layout)

    def word(arg: Arg) -> Word:
        if arg.kind == "operand":
            return Word("operand", found.operands[arg.index])
        if arg.kind == "extra":
            return Word("operand", arg.index)
        return weights if arg.kind == "weights" else Word("result", arg.index)

    return [bound("gated_bf16" if plan.pairs else "gated", template, word, cost.flops, cost.bytes)]


def may_overwrite(node: Node, operand: int) -> bool:
    """Operands of the tail are read, row by row, before the row is written; the contraction's are read by all."""
    found = read(node.regions[0])
    if found is None or operand in found.operands:
        return False
    return all(operand in _template(found, v)[1].overwrites for v in VARIANTS.values())


def can_round(node: Node) -> bool:
    """There is a kernel of bfloat16 pairs, and none of its weights becomes an infinity."""
    found = read(node.regions[0])
    return found is not None and tame(node.operands[found.operands[1]]) and _template(found, _DOTS, True)[0].pairs


def prefers_bf16(node: Node) -> bool:
    """A CPU that multiplies pairs of bfloat16 is faster with them: it reads half the weights, and rounds few rows while
    it multiplies them."""
    found = read(node.regions[0])
    return found is not None and found.region.width >= LEAST_WIDTH and can_round(node)


def _template(found: Found, variant: Variant, rounds: bool = False) -> tuple[MatmulPlan, Template]:
    """``rounds``: with pairs of bfloat16 where ``variant`` multiplies them and there are pairs."""
    a, b = found.anchor.operands
    attrs, dtype = found.anchor.attrs, found.anchor.results[0].dtype
    flags = attrs["transpose_a"], attrs["transpose_b"]
    whole = plan_matmul(variant, dtype, a.shape, b.shape, *flags, True)
    pairs = rounds and variant.dots and dtype is F32 and not whole.lhs_transposed
    pairs = pairs and isinstance(whole.k, int) and whole.k % 2 == 0
    tile, k = pick(variant, dtype.size, found.region.width), whole.k // 2 if pairs else whole.k
    plan = replace(whole, tile=tile, rhs="packed", k=k, batch=(), pairs=pairs)
    template = gated(variant, dtype, plan, found.region)
    narrow = halved(variant, tile, whole.m)
    if template.extent == 1 and narrow is not None:  # a step of one unit would leave the other threads without work
        shared = replace(plan, tile=narrow)
        cut = gated(variant, dtype, shared, found.region)
        if compare_le(cut.extent, cut.grain) is False:
            return shared, cut
    return plan, template


def read(region: Graph) -> Found | None:
    """The contraction of ``region`` and the elementwise rest of it; None for anything else."""
    anchors = [n for n in region.nodes if n.op.name == "matmul"]
    if len(anchors) != 1:
        return None
    anchor = anchors[0]
    result, (a, b) = anchor.results[0], anchor.operands
    place = {v: i for i, v in enumerate(region.inputs)}
    if a not in place or b not in place or result.dtype not in (F32, F64):
        return None
    if b.rank != 2 or (anchor.attrs["transpose_a"] and a.rank != 2) or result.rank < 2:
        return None
    width, columns = region.outputs[0].shape[-1], result.shape[-1]
    if not isinstance(width, int) or not isinstance(columns, int) or width < 2 or columns % width:
        return None
    if any(v.dtype is not result.dtype or v.producer.op.name == "input" for v in region.outputs):
        return None
    if any(compare_eq(x, y) is not True for x, y in zip(region.outputs[0].shape[:-1], result.shape[:-1], strict=True)):
        return None
    graph, z = _without(region, anchor)
    for node in graph.nodes:
        if z in node.operands and not (_part(node, width) or (columns == width and node.op.kind == "elementwise")):
            return None
    return Found(anchor, (place[a], place[b]), Gated(graph, z, columns // width, width))


def _part(node: Node, width: int) -> bool:
    """A cut that takes one part of the columns and all rows."""
    if node.op.name != "slice" or any(step != 1 for step in node.attrs["steps"]):
        return False
    x, y, start = node.operands[0], node.results[0], node.attrs["starts"][-1]
    whole = all(compare_eq(p, q) is True for p, q in zip(x.shape[:-1], y.shape[:-1], strict=True))
    return whole and y.shape[-1] == width and isinstance(start, int) and start % width == 0


def _without(region: Graph, anchor: Node) -> tuple[Graph, Value]:
    """The region with the contraction's result as one more input, and that input."""
    b = Builder()
    mapping: dict[Value, Value] = {v: b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(region.inputs)}
    result = anchor.results[0]
    mapping[result] = z = b.input("product", result.dtype, result.shape)
    for node in region.nodes:
        if node.op.name not in ("input", "return") and node is not anchor:
            types = [v.type for v in node.results]
            twin = Node(node.op, [mapping[v] for v in node.operands], node.attrs, types, node.regions, node.origin)
            b.graph.insert(twin)
            mapping.update(zip(node.results, twin.results, strict=True))
    return b.build(*(mapping[v] for v in region.outputs), names=list(region.output_names)), z
