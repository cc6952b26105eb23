"""From a node to its GPU kernels: the one place that maps ops to templates.

Owns the choice among families. Must not know where values lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...core.dims import Extent
from ...core.dtypes import BF16, F32, F64
from ...core.errors import CompileRefused
from ...core.layout import Layout
from ...ir.graph import Const, Graph, Node, Value
from ...ir.opdef import Cost
from ...ir.types import TensorType
from ..numba_cpu import loops
from ..numba_cpu.select import attention as attending
from ..numba_cpu.select import gated as gates
from ..numba_cpu.select.contract import contracts
from ..numba_cpu.select.epilogue import BLOCKED, Contraction, read, read_region
from ..numba_cpu.select.kernels import cost_of
from ..numba_cpu.select.words import Word
from ..numba_cpu.templates.template import Arg, Template
from ..numba_cpu.templates.units import LANES, THREADS, WARPS, cut_for
from ..registry import registered_kernel
from . import attention, contraction, depthwise, gated, general, product
from .forms import HALVES, MIXED, TF32, TF32X3, Form
from .pointwise import pointwise
from .words import Placed

_FUSED = (F32, F64)
MOST_THREADS = 1024  # of a block
SCRATCH_BLOCK, SCRATCH_BLOCKS = 64, 256  # of kernels whose threads need memory of their own


def choose(node: Node, fixed: Mapping[int, Const], wide: Callable[[Value], bool], products: int = 3) -> list[Placed]:
    """The kernel calls that compute ``node``; ``fixed`` holds its constant operands, and ``wide`` tells of an operand
    whether 16 bytes can be read at once where it begins. ``products``: see ``contraction.Blocks``.

    Raises CompileRefused.
    """
    cost = cost_of(node)
    if own(node):
        return _own(node, cost)
    if contracts(node):
        found = read(node)
        if found is None or not supports(node):
            raise CompileRefused(f"there is no CUDA kernel for {node.where}")
        return _contract(found, node, fixed, wide, products, cost)
    if attending.attends(node):
        plan = attending.read(node)
        if plan is None or not attention.serves(plan):
            raise CompileRefused(f"there is no CUDA kernel for {node.where}")
        flash = attention.Flash(plan, lambda i: wide(node.operands[i]), products)
        return [_together("attention", flash.template(), _word, attention.THREADS, cost, flash.resident)]
    if gates.gates(node):
        return [_gated(node, products, cost)]
    with cut_for(THREADS):
        if not loops.supports(node):
            raise CompileRefused(f"there is no CUDA kernel for {node.where}")
        fast = pointwise(node, wide) if _elementwise(node) else None
        templates = [fast] if fast is not None else loops.generate(node)
    out = []
    for template in templates:
        out.append(placed(template.entry, template, _word, cost.flops, cost.bytes))
        cost = Cost(0, 0)  # counted once per node
    return out


def own(node: Node) -> bool:
    """Somebody registered a kernel for just this op."""
    return registered_kernel(node.op.name, "cuda") is not None


def _own(node: Node, cost: Cost) -> list[Placed]:
    make = registered_kernel(node.op.name, "cuda")
    assert make is not None
    with cut_for(THREADS):
        found = make(node, "cuda")
    out = []
    for template in [found] if isinstance(found, Template) else list(found):
        if template.together % LANES or not 0 <= template.together <= MOST_THREADS:
            raise CompileRefused(
                f"the kernel of {node.op.name!r} wants {template.together} threads together: a multiple of {LANES}, "
                f"at most {MOST_THREADS}"
            )
        if template.together and template.scratch_bytes != 0:
            raise CompileRefused(
                f"the kernel of {node.op.name!r} wants scratch, which threads that work together do not have: use "
                "shared(bytes)"
            )
        if template.together:
            out.append(_together(template.entry, template, _word, template.together, cost))
        else:
            out.append(placed(template.entry, template, _word, cost.flops, cost.bytes))
        cost = Cost(0, 0)  # counted once per node
    return out


def _elementwise(node: Node) -> bool:
    if node.op.name == "fused":
        return node.attrs["kind"] == "elementwise"
    return node.op.kind == "elementwise"


def copy_kernel(t: TensorType) -> Placed:
    """The kernel that moves a value of type ``t``."""
    with cut_for(THREADS):
        return placed("copy", loops.copy_template(t), _word, 0, 2 * t.nbytes)


def placed(
    name: str, template: Template, word: Callable[[Arg], Word], flops: Extent = 0, bytes: Extent = 0
) -> Placed:  # fmt: skip
    """A template that each thread runs for one unit, or whose units are rows that warps share."""
    words = [Word("dim", value=a.value) if a.kind == "dim" else word(a) for a in template.args]
    room = template.scratch_bytes
    common = (name, template.text)
    if template.warps:
        return Placed(
            *common, tuple(words), template.extent, 1, 0, flops, bytes, (), "block", WARPS * LANES, WARPS
        )  # fmt: skip
    if room == 0:
        return Placed(*common, tuple(words), template.extent, 1, 0, flops, bytes)
    room = (room + 15) // 16 * 16
    words.append(Word("dim", value=room))
    return Placed(
        *common, tuple(words), template.extent, 1, 0, flops, bytes, (), "thread", SCRATCH_BLOCK, SCRATCH_BLOCK, 0,
        SCRATCH_BLOCKS, room,
    )  # fmt: skip


def supports(node: Node) -> bool:
    """There is a kernel for ``node`` as it stands."""
    if own(node):
        return True
    if contracts(node):
        found = read(node)
        if found is None or found.anchor.op.name in BLOCKED:
            return False
        return found.anchor is node or can_fuse(node.regions[0])
    if attending.attends(node):
        return attention.serves(attending.read(node))
    if gates.gates(node):
        return can_gate(node.regions[0])
    with cut_for(THREADS):
        return loops.supports(node)


def can_fuse(region: Graph) -> bool:
    """One kernel computes a contraction with this tail."""
    found = read_region(region)
    return found is not None and found.anchor.results[0].dtype in _FUSED and found.anchor.op.name not in BLOCKED


def can_attend(region: Graph) -> bool:
    """One kernel computes an attention with the views and the mask around it."""
    return attention.serves(attending.read_region(region))


def can_gate(region: Graph) -> bool:
    """One kernel computes a contraction that is read in parts, and what follows."""
    return gated.serves(gates.read(region))


def may_overwrite(node: Node, operand: int) -> bool:
    """The kernel reads each element of ``operand`` before its only write to that place."""
    if own(node) or attending.attends(node):
        return False  # another block may still read it
    if gates.gates(node):
        cell = gates.read(node.regions[0])
        if cell is None or operand in cell.operands:
            return False
        return operand in gated.GatedProduct(cell, 3).template().overwrites
    if node.op.kind != "elementwise" and node.operands.count(node.operands[operand]) > 1:
        return False  # as its other operand it is read in another order
    if contracts(node):
        found = read(node)
        if found is None or operand not in found.extras or operand in found.operands:
            return False
        plan = product.read(found)
        if plan is not None and (plan.deal.segments > 1 or len(plan.deal.shares) > 1):
            return False  # the launch that reads it may come after one that writes the result
        return found.extras.count(operand) == 1 and found.epilogue.extras[found.extras.index(operand)] == "same"
    if not supports(node):
        return False
    with cut_for(THREADS):
        return all(operand in template.overwrites for template in loops.generate(node))


def _contract(
    found: Contraction, node: Node, fixed: Mapping[int, Const], wide: Callable[[Value], bool], products: int, cost: Cost
) -> list[Placed]:  # fmt: skip
    direct = depthwise.read(found, node, fixed, wide)
    if direct is not None:
        template = depthwise.template(found, direct)
        name = "_".join(["depthwise", *_name(found).split("_")[1:]])
        return [placed(name, template, _contraction_words(found), cost.flops, cost.bytes)]
    left, right = (wide(node.operands[i]) for i in found.operands)
    plan = product.read(found, (left, right))
    if plan is None or (plan.half and not (left and right)):
        return [placed(_name(found), _contraction(found), _contraction_words(found), cost.flops, cost.bytes)]
    form, out = _form(plan, found.operands[1] in fixed, products), []
    suffix = "" if form is TF32X3 else f"_{form.name}"
    for share in plan.deal.shares:
        blocks = contraction.Blocks(found, plan, share, form)
        flops, moved = cost.flops * share.when, cost.bytes * share.when
        for launch in blocks.launches():
            words = _contraction_words(found, launch.writes_sums)
            out.append(
                _together(
                    f"{_name(found)}_{blocks.tile.name}{suffix}", launch.template, words, blocks.tile.threads,
                    Cost(flops, moved), blocks.resident, blocks.shared,
                )
            )  # fmt: skip
            flops, moved = 0, 0  # counted once per share
    return out


def _form(plan: product.Product, weights: bool, products: int) -> Form:
    """What multiplies: with one product per pair, weights are rounded to bf16 when compiling. Of two values of the
    graph neither is: tf32 keeps what attention's scores need."""
    if plan.half:
        return HALVES[plan.dtype.name]
    if products == 3:
        return TF32X3
    copied = plan.groups == 1 or plan.n % 2 == 0  # a group's columns begin at a copy of four bytes
    return MIXED if weights and copied else TF32


def _rounded(found: Contraction, index: int) -> Layout:
    """The layout of weights as bf16: rows of whole 16 bytes."""
    shape = found.anchor.operands[index].shape
    sizes = [d for d in shape if isinstance(d, int)]
    return Layout(sizes, [("pad", (*sizes[:-1], (sizes[-1] + 7) // 8 * 8))])


def workspace(node: Node) -> tuple[Extent, ...]:
    """Bytes of storage that the launches of ``node`` share."""
    found = read(node) if not own(node) and contracts(node) and supports(node) else None
    plan = product.read(found) if found is not None else None
    return (plan.deal.temp_bytes,) if plan is not None and plan.deal.segments > 1 else ()


def _gated(node: Node, products: int, cost: Cost) -> Placed:
    found = gates.read(node.regions[0])
    if found is None or not gated.serves(found):
        raise CompileRefused(f"there is no CUDA kernel for {node.where}")

    def word(arg: Arg) -> Word:
        if arg.kind == "output":
            return Word("result", arg.index)
        return Word("operand", arg.index if arg.kind == "extra" else found.operands[arg.index])

    return _together("gated", gated.GatedProduct(found, products).template(), word, gated.THREADS, cost)


def _together(
    name: str, template: Template, word: Callable[[Arg], Word], threads: int, cost: Cost, resident: int = 0,
    shared: int = 0,
) -> Placed:  # fmt: skip
    """A template whose units are computed by ``threads`` threads together; ``shared``: bytes that a launch states."""
    args = tuple(Word("dim", value=a.value) if a.kind == "dim" else word(a) for a in template.args)
    return Placed(
        name, template.text, args, template.extent, 1, 0, cost.flops, cost.bytes, (), "block", threads, 1,
        shared, resident=resident,
    )  # fmt: skip


def _contraction(found: Contraction) -> Template:
    return general.matmul(found) if found.anchor.op.name == "matmul" else general.conv(found)


def _contraction_words(found: Contraction, writes: bool = False) -> Callable[[Arg], Word]:
    def word(arg: Arg) -> Word:
        if arg.kind == "temp":
            return Word("temp", arg.index, writes=writes)
        if arg.kind == "weights":
            layout = _rounded(found, arg.index)
            return Word("packed", found.operands[arg.index], layout=layout, dtype=BF16)
        if arg.kind == "output":
            return Word("result", arg.index)
        return Word("operand", (found.extras if arg.kind == "extra" else found.operands)[arg.index])

    return word


def _name(found: Contraction) -> str:
    return "_".join([found.anchor.op.name, *(s.label for s in found.epilogue.stages)])


def _word(arg: Arg) -> Word:
    if arg.kind not in ("operand", "output"):
        raise CompileRefused(f"a loop kernel cannot take the argument {arg.name} ({arg.kind})")
    return Word("operand" if arg.kind == "operand" else "result", arg.index)


__all__ = [
    "can_attend",
    "can_fuse",
    "can_gate",
    "choose",
    "copy_kernel",
    "may_overwrite",
    "supports",
    "workspace",
]
