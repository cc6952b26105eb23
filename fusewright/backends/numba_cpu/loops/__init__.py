"""Kernel text of every op that is not a contraction or convolution.

``generate(node, variant)`` gives the kernels of a node, run one after the other; ``supports(node)`` whether there are
any; ``temps(node)`` the bytes of storage they share; ``copy_template(type)`` a plain copy of one value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....core.dims import Extent
from ....ir.graph import Node
from ....ir.types import TensorType
from ..templates.template import Template
from . import elementwise, movement
from .copying import copy_of

_BY_NAME: dict[str, Callable[[Node], list[Template]]] = {
    "broadcast_to": movement.broadcast_to, "transpose": movement.transpose, "slice": movement.slice_,
    "reverse": movement.reverse, "pad": movement.pad, "concat": movement.concat, "iota": movement.iota,
    "dynamic_slice": movement.dynamic_slice, "dynamic_update_slice": movement.dynamic_update_slice,
}  # fmt: skip


def supports(node: Node) -> bool:
    """Whether ``generate`` has kernels for ``node``."""
    if node.op.name in _BY_NAME:
        return True
    return node.op.kind in ("elementwise", "broadcast", "fused") and elementwise.can(node)


def generate(node: Node, variant: Any = None) -> list[Template]:
    """The kernels of ``node``, in order. Arguments name operands and results of the node by index.

    Raises NotImplementedError where ``supports`` is False.
    """
    return _BY_NAME.get(node.op.name, elementwise.elementwise)(node)


def temps(node: Node) -> list[Extent]:
    """Bytes of each storage that the kernels of ``node`` share (arguments of kind ``temp``)."""
    return []


def copy_template(type_: TensorType) -> Template:
    """``output 0 = operand 0`` for values of ``type_``; both may be one buffer."""
    return copy_of(type_)


__all__ = ["copy_template", "generate", "supports", "temps"]
