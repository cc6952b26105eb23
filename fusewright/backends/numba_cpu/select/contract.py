"""Kernels of contractions and convolutions, plain or fused with an elementwise tail.

Owns the choice among tiled, depthwise and plain-loop templates and the packing of weights. Must not know tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ....core.dims import Extent, maximum
from ....core.dtypes import BF16, F32, F64
from ....core.errors import CompileRefused
from ....core.layout import Layout
from ....ir.graph import Const, Graph, Node, Value
from ....ir.opdef import Cost
from ..choices import Choices
from ..templates.conv import conv
from ..templates.conv_any import conv_any
from ..templates.conv_plan import BLOCK, ConvPlan, plan_conv
from ..templates.depthwise import DepthwisePlan, covers, depthwise, plan_depthwise
from ..templates.matmul import MatmulPlan, matmul, matmul_scalar, pack_rhs_kernel, plan_matmul
from ..templates.packing import conv_layout, depthwise_layout, paired, rhs_layout
from ..templates.pairs import round_pairs
from ..templates.template import Arg, Template
from ..templates.winograd import (
    WinogradPlan,
    faster,
    pairs_faster,
    pairs_tile,
    plan_winograd,
    winograd,
    winograd_layout,
)
from ..variants import VARIANTS, Variant
from .epilogue import ANCHORS, BLOCKED, TRANSPOSED, Contraction, read, read_region
from .words import Chosen, Word, bound

_TILED = (F32, F64)
MOST_WEIGHT = 2.0**60
LEAST_PRODUCTS, LEAST_COLUMNS = 1 << 18, 32  # below these, rounding takes as long as it saves
_DOTS = next(v for v in VARIANTS.values() if v.dots)
_WIDEST = VARIANTS["cpu-avx512"]  # what the tiles cover does not depend on the variant


def contracts(node: Node) -> bool:
    """``node`` is a contraction, or a fused one."""
    return node.op.name in ANCHORS or (node.op.name == "fused" and node.attrs["kind"] == "contract")


def can_fuse(region: Graph) -> bool:
    """One kernel computes the region: a tiled anchor and a tail that its epilogue can hold."""
    found = read_region(region)
    if found is None or found.anchor.results[0].dtype not in _TILED:
        return False
    return found.anchor.op.name == "matmul" or _tiles(found)


def supports(node: Node) -> bool:
    """There is a kernel for this contraction."""
    found = read(node)
    if found is None:
        return False
    if found.anchor is node and node.op.name not in BLOCKED:
        return True
    return found.anchor.results[0].dtype in _TILED and (found.anchor.op.name == "matmul" or _tiles(found))


def choose(node: Node, variant: Variant, fixed: Mapping[int, Const], cost: Cost) -> list[Chosen]:
    """The kernel calls of a contraction. Raises CompileRefused."""
    found = read(node)
    if found is None:
        raise CompileRefused(f"the tail of {node.where} does not fit a contraction's epilogue")
    if found.anchor.op.name == "matmul":
        return _matmul(found, variant, fixed, cost)
    return _conv(found, variant, fixed, cost)


def workspace(node: Node) -> tuple[Extent, ...]:
    """What all threads share: a left operand rounded once, or a right operand packed once where it is made at run time;
    room for the variant that needs most."""
    found = read(node)
    if found is None or found.anchor.results[0].dtype not in _TILED:
        return ()
    if node.operands[found.operands[1]].const is not None:
        rounded = _rounds(found, _DOTS) and not _pairs_tile(found)
        return (found.anchor.operands[0].type.size * BF16.size,) if rounded else ()
    if found.anchor.op.name != "matmul":
        return ()
    plans = [_matmul_plan(found, v, False) for v in VARIANTS.values()]
    sizes = [p.packed_elements * found.anchor.results[0].dtype.size for p in plans if p.rhs == "packed"]
    room: Extent = 0
    for size in sizes:
        room = maximum(room, size)
    return (room,) if sizes else ()


def may_overwrite(node: Node, operand: int) -> bool:
    """Same-shape epilogue operands are read in the registers that are then stored."""
    found = read(node)
    if found is None or operand not in found.extras or operand in found.operands:
        return False
    if found.extras.count(operand) != 1:
        return False
    extra = found.extras.index(operand)
    return all(extra in _template(found, v).aliasable for v in VARIANTS.values())


def _template(found: Contraction, variant: Variant) -> Template:
    dtype = found.anchor.results[0].dtype
    if found.anchor.op.name == "matmul":
        return matmul(variant, dtype, _matmul_plan(found, variant, True), found.epilogue)
    return _conv_template(found, variant, tuple(int(d) for d in found.anchor.operands[1].shape))[0]


def _words(found: Contraction, weights: Word, transformed: Word | None = None) -> Callable[[Arg], Word]:
    def word(arg: Arg) -> Word:
        if arg.kind == "temp":
            return Word("temp", arg.index)
        if arg.kind == "operand":
            return Word("operand", found.operands[arg.index])
        if arg.kind == "extra":
            return Word("operand", found.extras[arg.index])
        if arg.kind == "transformed" and transformed is not None:
            return transformed
        return weights if arg.kind == "weights" else Word("result", arg.index)

    return word


def _rounds(found: Contraction, variant: Variant) -> bool:
    """Given constant weights, ``variant`` computes this contraction with pairs of bfloat16: a mark only permits it."""
    return variant.dots and bool(found.anchor.attrs.get("bf16")) and _has_pairs(found)


def _has_pairs(found: Contraction) -> bool:
    """There is a kernel of pairs, given constant weights."""
    anchor = found.anchor
    try:
        if anchor.op.name == "matmul":
            _matmul_plan(found, _DOTS, True, True)
            return True
        if anchor.op.name != "conv_blocked" or anchor.attrs["block"] != BLOCK:
            return False
        if _depthwise_plan(found, _DOTS) is not None:
            return False
        _conv_plan(found, _DOTS, True)
    except ValueError:
        return False
    return True


def _pairs_tile(found: Contraction) -> int:
    """Side of the tiles in which a contraction of pairs is computed, where its mark permits tiles; 0: direct sums."""
    anchor = found.anchor
    if not anchor.attrs.get("winograd"):
        return 0
    taps = tuple(int(d) for d in anchor.operands[1].shape)
    return pairs_tile(_logical_shape(found), taps, anchor.attrs["pads"])


def _rounding(found: Contraction) -> Chosen:
    """The kernel that rounds the left operand into the workspace, once for all that read it."""
    x = found.anchor.operands[0].type
    target, source = Word("temp", 0, writes=True), Word("operand", found.operands[0])
    return bound("round", round_pairs(x.size), lambda a: target if a.kind == "temp" else source, 0, x.nbytes // 2 * 3)


def can_round(node: Node) -> bool:
    """There is a kernel of bfloat16 pairs for this contraction, and none of its weights becomes an infinity."""
    found = read(node)
    return found is not None and node.results[0].dtype is F32 and tame(node.operands[1]) and _has_pairs(found)


def prefers_bf16(node: Node) -> bool:
    """Whether a CPU that multiplies pairs of bfloat16 is faster with them, rounding included, than in float32."""
    if not can_round(node) or _columns(node) < LEAST_COLUMNS or _least_products(node) < LEAST_PRODUCTS:
        return False
    m, found = node.attrs.get("winograd"), read(node)
    assert found is not None
    taps = tuple(int(d) for d in node.operands[1].shape)
    return not m or pairs_faster(_logical_shape(found), taps, node.attrs["pads"], m)


def _columns(node: Node) -> int:
    """Results that are made of each element of the left operand, taps aside."""
    w = node.operands[1]
    return int(w.shape[-2 if node.attrs.get("transpose_b") else -1])  # type: ignore[arg-type]


def _least_products(node: Node) -> int:
    """Multiplications of a call; a free batch counts as 1, free sides of an image as 16."""
    w, results = node.operands[1], 1
    if node.op.name == "matmul":
        rows = node.results[0].shape[:-1]
        results = math.prod(d for d in rows if isinstance(d, int)) * _columns(node)
        return results * int(w.shape[-1 if node.attrs["transpose_b"] else -2])  # type: ignore[arg-type]
    n, blocks, *image, block = node.results[0].shape
    for d in (blocks, block, *(d if isinstance(d, int) else 16 for d in image), n if isinstance(n, int) else 1):
        results *= int(d)  # type: ignore[arg-type]
    return results * math.prod(int(d) for d in w.shape[:-1])  # type: ignore[arg-type]


def _name(base: str, found: Contraction) -> str:
    return "_".join([base, *(s.label for s in found.epilogue.stages)])


def site_of(node: Node) -> str:
    """The class of shapes under which choices for this contraction are kept; empty where there is nothing to choose:
    weights made at run time, a filter per channel or small group, bfloat16, other types than float32."""
    found = read(node)
    if found is None or node.operands[found.operands[1]].const is None or found.anchor.attrs.get("bf16"):
        return ""
    anchor = found.anchor
    x, w = anchor.operands
    if x.dtype is not F32:
        return ""
    text = lambda extents: "x".join(str(d) if isinstance(d, int) else "?" for d in extents)
    if anchor.op.name == "matmul":
        if anchor.attrs["transpose_a"] or w.rank != 2:
            return ""
        plan = _matmul_plan(found, _WIDEST, True)
        return f"matmul {text((plan.m, plan.k, plan.n))}"
    shape, attrs = _logical_shape(found), anchor.attrs
    if anchor.op.name in TRANSPOSED or not isinstance(shape[-1], int) or _depthwise_plan(found, _WIDEST):
        return ""
    how = ("blocked" if attrs["x_blocked"] else "to blocks") if anchor.op.name == "conv_blocked" else "plain"
    pads = "+".join(text(p) for p in attrs["pads"])
    return (
        f"conv {text(w.shape[:-2])}/{text(attrs['strides'])} pad {pads} dil {text(attrs['dilations'])} "
        f"groups {attrs['groups']} {text(shape)}>{text(w.shape[-1:])} {how}"
    )


def rows_and_columns(node: Node) -> tuple[Extent, Extent, bool]:
    """What register tiles of a contraction with a site cut: (rows, columns of a group, whether these are blocks)."""
    found = read(node)
    assert found is not None
    if found.anchor.op.name == "matmul":
        matrix = _matmul_plan(found, _WIDEST, True)
        return matrix.m, matrix.n, False
    plan = _conv_plan(found, _WIDEST)
    return plan.axes[2].out, plan.outputs // plan.groups, plan.out_blocked


def winograd_of(node: Node) -> int:
    """The side of the tiles in which ``node``, a contraction, is computed; 0: direct sums."""
    found = read(node)
    return int(found.anchor.attrs.get("winograd", 0)) if found is not None else 0


# -- matmul -----------------------------------------------------------------------------------------------------------
def _matmul_plan(found: Contraction, variant: Variant, constant: bool, pairs: bool = False) -> MatmulPlan:
    a, b = found.anchor.operands
    attrs = found.anchor.attrs
    flags = attrs["transpose_a"], attrs["transpose_b"]
    return plan_matmul(variant, a.dtype, a.shape, b.shape, *flags, constant, pairs)


def _matmul(found: Contraction, variant: Variant, fixed: Mapping[int, Const], cost: Cost) -> list[Chosen]:
    b, dtype = found.anchor.operands[1], found.anchor.results[0].dtype
    at = found.operands[1]
    const = fixed.get(at)
    pairs = const is not None and _rounds(found, variant)
    plan = _matmul_plan(found, variant, const is not None, pairs)
    if dtype not in _TILED:
        template = matmul_scalar(dtype, plan)
        return [bound("matmul_plain", template, _words(found, Word("operand", at)), cost.flops, cost.bytes)]
    out = []
    weights = Word("temp", 0)
    if plan.rhs == "packed" and const is not None:
        shape = tuple(int(d) for d in const.array.shape)
        layout = rhs_layout(shape, plan.tile.columns, found.anchor.attrs["transpose_b"])
        weights = Word("packed", at, layout=paired(layout) if pairs else layout)
        if pairs:
            out.append(_rounding(found))
    elif plan.rhs == "packed":
        pack = pack_rhs_kernel(dtype, plan)
        target = Word("temp", 0, writes=True)
        out.append(
            bound("pack", pack, lambda a: target if a.kind == "output" else Word("operand", at), 0, 2 * b.type.nbytes)
        )
    template = matmul(variant, dtype, plan, found.epilogue)
    out.append(
        bound(
            _name("matmul_bf16" if pairs else "matmul", found), template, _words(found, weights), cost.flops, cost.bytes
        )
    )
    return out


# -- convolution ------------------------------------------------------------------------------------------------------
def _logical_shape(found: Contraction) -> tuple[Extent, ...]:
    """The shape of x as [N, spatial..., C]."""
    node = found.anchor
    x, w = node.operands
    if node.op.name in BLOCKED and node.attrs["x_blocked"]:
        channels = w.shape[-1] if node.op.name in TRANSPOSED else w.shape[-2] * node.attrs["groups"]
        return (x.shape[0], *x.shape[2:-1], channels)
    return x.shape


def _depthwise_plan(found: Contraction, variant: Variant) -> DepthwisePlan | None:
    """The plan of a convolution with a filter per channel or small group, or None when it is not one."""
    node, shape = found.anchor, _logical_shape(found)
    w, attrs = node.operands[1], node.attrs
    channels, rank = shape[-1], len(shape) - 2
    blocked = node.op.name in BLOCKED
    if node.op.name in TRANSPOSED or not isinstance(channels, int) or (blocked and not attrs["x_blocked"]):
        return None
    if not covers(channels, int(w.shape[-1]), attrs["groups"], w.dtype.size):  # type: ignore[arg-type]
        return None
    if rank > (2 if blocked else 3):
        return None
    taps = tuple(int(d) for d in w.shape)
    return plan_depthwise(variant, w.dtype, shape, taps, attrs["strides"], attrs["pads"], attrs["dilations"], blocked)


def _conv_plan(found: Contraction, variant: Variant, pairs: bool = False) -> ConvPlan:
    node = found.anchor
    w, attrs = node.operands[1], node.attrs
    blocked = node.op.name in BLOCKED
    taps = tuple(int(d) for d in w.shape)
    return plan_conv(
        variant, w.dtype, _logical_shape(found), taps, attrs["strides"], attrs["pads"], attrs["dilations"],
        attrs["groups"], blocked and attrs["x_blocked"], blocked, node.op.name in TRANSPOSED,
        attrs.get("output_padding"), pairs,
    )  # fmt: skip


def _winograd_plan(found: Contraction, variant: Variant) -> WinogradPlan | None:
    """The tiles in which ``variant`` computes a convolution; None: direct sums, or no convolution of 3 x 3 taps."""
    node, pairs = found.anchor, _rounds(found, variant)
    m = _pairs_tile(found) if pairs else node.attrs.get("winograd", 0)
    if not m:
        return None
    taps = tuple(int(d) for d in node.operands[1].shape)
    return plan_winograd(variant, node.operands[1].dtype, _logical_shape(found), taps, node.attrs["pads"], m, pairs)


def winograd_tile(node: Node, most: int, choices: Choices) -> int:
    """Side of the fastest tiles F(m x m, 3 x 3) for a blocked convolution, at most ``most``; 0: direct sums. What was
    measured goes before what the rules say."""
    found, weights = read(node), node.operands[1].const
    if found is None or weights is None or node.results[0].dtype is not F32 or node.attrs["block"] != BLOCK:
        return 0
    if not tame(node.operands[1]):
        return 0
    shape = _logical_shape(found)
    taps = tuple(int(d) for d in node.operands[1].shape)
    measured = choices.winograd(site_of(node), most)
    return faster(shape, taps, node.attrs["pads"], most) if measured is None else measured


def tame(weights: Value) -> bool:
    """With weights that are not finite, or so large that sums of them may overflow, every tile would be done twice."""
    return weights.const is not None and bool(np.all(np.abs(weights.const.array) < MOST_WEIGHT))


def _conv_template(found: Contraction, variant: Variant, shape: tuple[int, ...]) -> tuple[Template, Layout]:
    """The kernel of a convolution with constant weights of ``shape``, and how it wants them stored."""
    tiles = _winograd_plan(found, variant)
    if tiles is not None:
        return winograd(tiles, found.epilogue), conv_layout(shape, tiles.direct.layout)
    if _rounds(found, variant):
        plan = _conv_plan(found, variant, True)
        return conv(plan, found.epilogue), paired(conv_layout(shape, plan.layout))
    depthwise_plan = _depthwise_plan(found, variant)
    if depthwise_plan is not None:
        return depthwise(depthwise_plan, found.epilogue), depthwise_layout(shape, depthwise_plan.block)
    plan = _conv_plan(found, variant)
    return conv(plan, found.epilogue), conv_layout(shape, plan.layout)


def _plain_conv(found: Contraction) -> Template:
    """Any dtype, weights made at run time, symbolic channels."""
    node = found.anchor
    x, w = node.operands
    attrs = node.attrs
    return conv_any(
        x.dtype, x.shape, w.shape, attrs["strides"], attrs["pads"], attrs["dilations"], attrs["groups"],
        node.op.name in TRANSPOSED, attrs.get("output_padding"),
    )  # fmt: skip


def _conv(found: Contraction, variant: Variant, fixed: Mapping[int, Const], cost: Cost) -> list[Chosen]:
    at = found.operands[1]
    const, name = fixed.get(at), found.anchor.op.name
    if const is None or not _tiles(found):
        if found.epilogue.stages or name in BLOCKED:
            raise CompileRefused(f"{found.anchor.where} needs constant float32 or float64 weights to be fused")
        words = _words(found, Word("operand", at))
        return [bound(f"{name}_plain", _plain_conv(found), words, cost.flops, cost.bytes)]
    template, layout = _conv_template(found, variant, tuple(const.array.shape))
    tiles, rounds, transformed = _winograd_plan(found, variant), _rounds(found, variant), None
    if tiles is not None:
        name = f"winograd{tiles.m}"
        transformed = Word("packed", at, layout=winograd_layout(tuple(const.array.shape), tiles))
    words = _words(found, Word("packed", at, layout=layout), transformed)
    kernel = bound(_name(f"{name}_bf16" if rounds else name, found), template, words, cost.flops, cost.bytes)
    return [_rounding(found), kernel] if rounds and tiles is None else [kernel]


def _tiles(found: Contraction) -> bool:
    """The direct templates cover this convolution, given constant weights."""
    if found.anchor.results[0].dtype not in _TILED or not isinstance(_logical_shape(found)[-1], int):
        return False
    try:
        _conv_template(found, _WIDEST, tuple(int(d) for d in found.anchor.operands[1].shape))
    except ValueError:
        return False
    return True
