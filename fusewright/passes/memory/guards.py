"""What has to hold for extents and is not known to, whatever the inputs: compared when the run gets there.

Owns the conditions under which an op stays inside its operands. Must not know how a plan compares.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...core.bounds import Bounds, extent_range
from ...core.dims import Extent, compare_eq, lower_bound, maximum, product
from ...core.errors import TypeRefused
from ...ir.graph import Node

Pair = tuple[Extent, Extent]


def guards(node: Node, bounds: Bounds, seen: set[str]) -> tuple[Pair, ...]:
    """Pairs of extents that must be equal before ``node`` may run. ``seen`` holds what is known to be no less than 0
    already, and is added to.

    Extents of the inputs count as much as those bound during the run: a slice of the first five steps of a sequence
    that has three would read memory that is not its own.
    """
    out: list[Pair] = []
    if node.op.name == "view_as":
        out += _unequal(node)
    for low, high in _ordered(node):
        gap = high - low
        if isinstance(gap, int) or str(gap) in seen:
            continue
        seen.add(str(gap))
        if not _nonnegative(gap, bounds):
            out.append((maximum(low, high), high))
    return tuple(out)


def _nonnegative(e: Extent, bounds: Bounds) -> bool:
    if lower_bound(e) >= 0:
        return True
    try:
        return lower_bound(extent_range(e, bounds)[0]) >= 0
    except TypeRefused:
        return False


def _unequal(node: Node) -> list[Pair]:
    """The extents of a ``view_as`` that are not known to be equal."""
    have, want = node.operands[0].shape, node.results[0].shape
    pairs = zip(have, want, strict=True) if node.attrs["axes"] else [(product(have), product(want))]
    return [(a, b) for a, b in pairs if compare_eq(a, b) is not True]


def _ordered(node: Node) -> Iterator[Pair]:
    """(a, b) with a <= b: no extent is negative, no window leaves its operand, no more is taken than is there."""
    if node.op.name == "fused":
        for inner in node.regions[0].nodes:
            yield from _ordered(inner)
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


__all__ = ["guards"]
