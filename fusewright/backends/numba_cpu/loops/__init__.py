"""Kernel text of every op that is not a contraction or convolution.

``generate(node)`` gives the kernels of a node, run one after the other; ``supports(node)`` whether there are
any; ``temps(node)`` the bytes of storage they share; ``copy_template(type)`` a plain copy of one value.
"""

from __future__ import annotations

from collections.abc import Callable

from ....core.dims import Extent
from ....ir.graph import Node
from ....ir.types import TensorType
from ..templates.template import Template
from ..variants import Variant
from . import dependent, elementwise, gathering, movement, norm, pool, reduce, resampling, scan, sorting
from .copying import copy_of
from .refusal import NoKernel

_BY_NAME: dict[str, Callable[[Node], list[Template]]] = {
    "broadcast_to": movement.broadcast_to, "transpose": movement.transpose, "slice": movement.slice_,
    "reverse": movement.reverse, "pad": movement.pad, "concat": movement.concat, "iota": movement.iota,
    "dynamic_slice": movement.dynamic_slice, "dynamic_update_slice": movement.dynamic_update_slice,
    "gather": gathering.gather, "gather_nd": gathering.gather_nd, "argmax": reduce.extreme_position,
    "argmin": reduce.extreme_position, "cumsum": scan.cumulative, "cumprod": scan.cumulative, "sort": sorting.sort,
    "top_k": sorting.top_k, "nonzero": dependent.nonzero, "unique": dependent.unique,
    "non_max_suppression": dependent.non_max_suppression, "max_pool": pool.pool, "avg_pool": pool.pool,
    "max_pool_blocked": pool.pool, "avg_pool_blocked": pool.pool, "to_blocked": pool.to_blocked,
    "from_blocked": pool.from_blocked, "resample": resampling.resample,
}  # fmt: skip

DEDICATED = frozenset(_BY_NAME)  # ops with a generator of their own, whatever their operands are


def _generator(node: Node) -> Callable[[Node], list[Template]] | None:
    name, kind = node.op.name, node.attrs.get("kind")
    if name.startswith("avg_pool") and not node.operands[0].dtype.is_float:
        return None
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name == "scatter_nd":
        usable = node.operands[0].dtype.kind != "b" or node.attrs["reduction"] == "set"
        return gathering.scatter_nd if usable else None
    if name in norm.NAMES or (name == "fused" and kind == "rows"):
        return norm.generate if norm.can(node) else None
    if name.startswith("reduce_") or (name == "fused" and kind == "reduce"):
        return reduce.reduce if reduce.can(node) else None
    if node.op.kind in ("elementwise", "broadcast") or (name == "fused" and kind == "elementwise"):
        return elementwise.elementwise if elementwise.can(node) else None
    return None


def supports(node: Node) -> bool:
    """Whether ``generate`` has kernels for ``node``."""
    return _generator(node) is not None


def generate(node: Node, variant: Variant | None = None) -> list[Template]:
    """The kernels of ``node``, in order, for a CPU ``variant``: it decides about registers, and about nothing of what
    callers see. Arguments name operands and results of the node by index.

    Raises NoKernel where ``supports`` is False.
    """
    generator = _generator(node)
    if generator is None:
        raise NoKernel(f"no loop kernel for {node.where}")
    return pool.pool(node, variant) if generator is pool.pool else generator(node)


def temps(node: Node) -> list[Extent]:
    """Bytes of each storage that the kernels of ``node`` share (arguments of kind ``temp``)."""
    return []


def copy_template(type_: TensorType) -> Template:
    """``output 0 = operand 0`` for values of ``type_``; both may be one buffer."""
    return copy_of(type_)


__all__ = ["DEDICATED", "copy_template", "generate", "supports", "temps"]
