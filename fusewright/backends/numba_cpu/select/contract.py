"""Kernels of contractions and convolutions, plain or fused with an elementwise tail.

Owns the choice among tiled, depthwise and plain-loop templates and the packing of weights. Must not know tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ....core.dims import Extent, maximum
from ....core.dtypes import F32, F64
from ....core.errors import CompileRefused
from ....ir.graph import Const, Graph, Node
from ....ir.opdef import Cost
from ..templates.conv import conv
from ..templates.conv_plan import ConvPlan, plan_conv
from ..templates.matmul import MatmulPlan, matmul, matmul_scalar, pack_rhs_kernel, plan_matmul
from ..templates.template import Arg, Template
from ..variants import VARIANTS, Variant
from .epilogue import ANCHORS, Contraction, read, read_region
from .layouts import conv_layout, rhs_layout
from .words import Chosen, Word, bound

_TILED = (F32, F64)


def contracts(node: Node) -> bool:
    """``node`` is a contraction, or a fused one."""
    return node.op.name in ANCHORS or (node.op.name == "fused" and node.attrs["kind"] == "contract")


def can_fuse(region: Graph) -> bool:
    """One kernel computes the region: a tiled anchor and a tail that its epilogue can hold."""
    found = read_region(region)
    return found is not None and found.anchor.results[0].dtype in _TILED


def supports(node: Node) -> bool:
    """There is a kernel for this contraction."""
    found = read(node)
    return found is not None and (found.anchor is node or found.anchor.results[0].dtype in _TILED)


def choose(node: Node, variant: Variant, fixed: Mapping[int, Const], cost: Cost) -> list[Chosen]:
    """The kernel calls of a contraction. Raises CompileRefused."""
    found = read(node)
    if found is None:
        raise CompileRefused(f"the tail of {node.where} does not fit a contraction's epilogue")
    if found.anchor.op.name == "matmul":
        return _matmul(found, variant, fixed, cost)
    return _conv(found, variant, fixed, cost)


def workspace(node: Node) -> tuple[Extent, ...]:
    """A right operand made at run time is packed once for all threads; room for the variant that needs most."""
    found = read(node)
    if found is None or found.anchor.op.name != "matmul" or found.anchor.results[0].dtype not in _TILED:
        return ()
    if node.operands[found.operands[1]].const is not None:
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
    return conv(_conv_plan(found, variant), found.epilogue)


def _words(found: Contraction, weights: Word) -> Callable[[Arg], Word]:
    def word(arg: Arg) -> Word:
        if arg.kind == "operand":
            return Word("operand", found.operands[arg.index])
        if arg.kind == "extra":
            return Word("operand", found.extras[arg.index])
        return weights if arg.kind == "weights" else Word("result", arg.index)

    return word


def _name(base: str, found: Contraction) -> str:
    return "_".join([base, *(s.kind for s in found.epilogue.stages)])


# -- matmul -----------------------------------------------------------------------------------------------------------
def _matmul_plan(found: Contraction, variant: Variant, constant: bool) -> MatmulPlan:
    a, b = found.anchor.operands
    attrs = found.anchor.attrs
    return plan_matmul(variant, a.dtype, a.shape, b.shape, attrs["transpose_a"], attrs["transpose_b"], constant)


def _matmul(found: Contraction, variant: Variant, fixed: Mapping[int, Const], cost: Cost) -> list[Chosen]:
    b, dtype = found.anchor.operands[1], found.anchor.results[0].dtype
    at = found.operands[1]
    const = fixed.get(at)
    plan = _matmul_plan(found, variant, const is not None)
    if dtype not in _TILED:
        template = matmul_scalar(dtype, plan)
        return [bound("matmul_plain", template, _words(found, Word("operand", at)), cost.flops, cost.bytes)]
    out = []
    weights = Word("temp", 0)
    if plan.rhs == "packed" and const is not None:
        shape = tuple(int(d) for d in const.array.shape)
        weights = Word("packed", at, layout=rhs_layout(shape, plan.tile.columns, found.anchor.attrs["transpose_b"]))
    elif plan.rhs == "packed":
        pack = pack_rhs_kernel(dtype, plan)
        target = Word("temp", 0, writes=True)
        out.append(
            bound("pack", pack, lambda a: target if a.kind == "output" else Word("operand", at), 0, 2 * b.type.nbytes)
        )
    template = matmul(variant, dtype, plan, found.epilogue)
    out.append(bound(_name("matmul", found), template, _words(found, weights), cost.flops, cost.bytes))
    return out


# -- convolution ------------------------------------------------------------------------------------------------------
def _conv_plan(found: Contraction, variant: Variant) -> ConvPlan:
    node = found.anchor
    x, w = node.operands
    attrs = node.attrs
    blocked = node.op.name == "conv_blocked"
    in_blocked = blocked and attrs["x_blocked"]
    shape = x.shape
    if in_blocked:
        shape = (x.shape[0], *x.shape[2:-1], w.shape[-2] * attrs["groups"])
    return plan_conv(
        variant, x.dtype, shape, tuple(int(d) for d in w.shape), attrs["strides"], attrs["pads"], attrs["dilations"],
        attrs["groups"], in_blocked, blocked, node.op.name == "conv_transpose", attrs.get("output_padding"),
    )  # fmt: skip


def _conv(found: Contraction, variant: Variant, fixed: Mapping[int, Const], cost: Cost) -> list[Chosen]:
    const = fixed.get(found.operands[1])
    if const is None:
        raise CompileRefused(f"the kernel of {found.anchor.where} must be a constant")
    plan = _conv_plan(found, variant)
    weights = Word("packed", found.operands[1], layout=conv_layout(const.array.shape, plan.layout))
    template = conv(plan, found.epilogue)
    return [bound(_name(found.anchor.op.name, found), template, _words(found, weights), cost.flops, cost.bytes)]
