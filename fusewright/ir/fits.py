"""What has to hold of a node's extents before it may run: nothing negative, no window beyond its operand.

Owns the conditions. The interpreter asks whether they hold; a plan compares those that are not known to.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..core.dims import Extent, compare_eq, product
from .graph import Node

Pair = tuple[Extent, Extent]


def equal_extents(node: Node) -> list[Pair]:
    """(wanted, there) of the extents of a ``view_as`` that are not known to be equal."""
    if node.op.name != "view_as":
        return []
    have, want = node.operands[0].shape, node.results[0].shape
    pairs = zip(want, have, strict=True) if node.attrs["axes"] else [(product(want), product(have))]
    return [(a, b) for a, b in pairs if compare_eq(a, b) is not True]


def ordered_extents(node: Node) -> Iterator[Pair]:
    """(a, b) with a <= b: no extent is negative, no window leaves its operand, no more is taken than is there."""
    if node.op.name == "fused":
        for inner in node.regions[0].nodes:
            yield from ordered_extents(inner)
    for v in node.results:
        yield from ((0, d) for d in v.shape)
    shape = node.operands[0].shape if node.operands else ()
    if node.op.name == "slice":
        for start, stop, size in zip(node.attrs["starts"], node.attrs["stops"], shape, strict=True):
            yield from ((0, start), (start, stop), (stop, size))
    elif node.op.name == "dynamic_slice":
        yield from zip(node.attrs["sizes"], shape, strict=True)
    elif node.op.name == "dynamic_update_slice":
        yield from zip(node.operands[1].shape, shape, strict=True)
    elif node.op.name == "top_k":
        yield node.attrs["k"], shape[node.attrs["axis"]]
    elif node.op.name in ("argmax", "argmin"):
        yield 1, shape[node.attrs["axis"]]
    elif node.op.name == "pad" and node.attrs["mode"] != "constant":
        widths = zip(node.attrs["low"], node.attrs["high"], shape, strict=True)
        yield from ((1, size) for low, high, size in widths if low != 0 or high != 0)


__all__ = ["Pair", "equal_extents", "ordered_extents"]
