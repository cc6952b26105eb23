"""From a node to its kernels: the one place that maps ops to templates.

Owns the choice among families and the cost that reports state. Must not know where values lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ....core.dims import Extent
from ....core.errors import CompileRefused
from ....ir.graph import Const, Node
from ....ir.opdef import Cost
from ....ir.types import TensorType
from ...registry import registered_kernel
from .. import loops
from ..choices import Choice
from ..templates.conv_plan import BLOCK
from ..templates.template import Arg, Template
from ..variants import Variant
from . import attention, contract, gated
from .epilogue import read
from .words import Chosen, Word, bound


def choose(node: Node, variant: Variant, fixed: Mapping[int, Const]) -> list[Chosen]:
    """The kernel calls that compute ``node``; ``fixed`` holds its constant operands. Raises CompileRefused."""
    own = registered_kernel(node.op.name, "cpu")
    if own is None and contract.contracts(node):
        return contract.choose(node, variant, fixed, cost_of(node))
    if own is None and gated.gates(node):
        return gated.choose(node, variant, fixed, cost_of(node))
    if own is None and attention.attends(node):
        return attention.choose(node, variant, cost_of(node))
    if own is None and not loops.supports(node):
        raise CompileRefused(f"there is no CPU kernel for {node.where}")
    cost, out, written = cost_of(node), [], set[int]()
    for template in _templates(own(node, variant)) if own else loops.generate(node, variant):
        # The first kernel that names a workspace fills it, later ones read it.
        fills = {a.index for a in template.args if a.kind == "temp"} - written
        written |= fills
        out.append(bound(template.entry, template, lambda arg, f=fills: _word(arg, f), cost.flops, cost.bytes))
        cost = Cost(0, 0)  # counted once per node
    return out


def choose_as(node: Node, variant: Variant, fixed: Mapping[int, Const], made: Choice) -> list[Chosen]:
    """The kernel calls of a contraction under a measured choice."""
    tile = made.tiles.get(contract.winograd_of(node), (0, 0))
    return [replace(c, grain=c.grain * made.grain) for c in choose(node, replace(variant, tile=tile), fixed)]


def copy_kernel(t: TensorType) -> Chosen:
    """The kernel that moves a value of type ``t``."""
    return bound("copy", loops.copy_template(t), _word, 0, 2 * t.nbytes)


def supports(node: Node) -> bool:
    """There is a kernel for ``node`` as it stands."""
    if registered_kernel(node.op.name, "cpu") is not None:
        return True
    if contract.contracts(node):
        return contract.supports(node) and _as_tiles_want(node)
    if gated.gates(node):
        return gated.supports(node)
    return attention.supports(node) if attention.attends(node) else loops.supports(node)


def _as_tiles_want(node: Node) -> bool:
    """Blocked convolutions and those with a tail need constant weights and our block: the plain loops do neither."""
    found = read(node)
    if found is None or found.anchor.op.name == "matmul" or node.op.name in ("conv", "conv_transpose"):
        return True
    if found.anchor.attrs.get("block", BLOCK) != BLOCK:
        return False
    return node.operands[found.operands[1]].const is not None


def workspace(node: Node) -> tuple[Extent, ...]:
    """Bytes of the buffers that all threads share while ``node`` runs."""
    if registered_kernel(node.op.name, "cpu") is not None:
        return ()
    if attention.attends(node) or gated.gates(node):
        return ()
    return contract.workspace(node) if contract.contracts(node) else tuple(loops.temps(node))


def may_overwrite(node: Node, operand: int) -> bool:
    """Every variant's kernel reads each element of ``operand`` before its only write to that place."""
    if registered_kernel(node.op.name, "cpu") is not None:
        return False
    if node.op.kind != "elementwise" and node.operands.count(node.operands[operand]) > 1:
        return False  # as its other operand it is read in another order
    if contract.contracts(node):
        return contract.may_overwrite(node, operand)
    if gated.gates(node):
        return gated.may_overwrite(node, operand)
    if not loops.supports(node):
        return False
    return all(operand in template.overwrites for template in loops.generate(node))


def cost_of(node: Node) -> Cost:
    """Operations and bytes of a node; a fused node moves only what crosses its border."""
    if node.op.cost is None:
        return Cost(0, 0)
    cost = node.op.cost(node)
    if node.op.name == "fused":
        moved: Extent = sum((v.type.nbytes for v in (*node.operands, *node.results)), 0)
        return Cost(cost.flops, moved)
    return cost


def _templates(found: Template | list[Template]) -> list[Template]:
    return [found] if isinstance(found, Template) else list(found)


def _word(arg: Arg, fills: set[int] = frozenset()) -> Word:  # type: ignore[assignment]
    if arg.kind == "operand":
        return Word("operand", arg.index)
    if arg.kind == "output":
        return Word("result", arg.index)
    if arg.kind == "temp":
        return Word("temp", arg.index, writes=arg.index in fills)
    raise CompileRefused(f"a loop kernel cannot take the argument {arg.name} ({arg.kind})")
