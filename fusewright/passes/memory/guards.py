"""What has to hold for extents and is not known to, whatever the inputs: compared when the run gets there.

Owns which of the conditions of ``ir.fits`` are left over for the run. Must not know how a plan compares.
"""

from __future__ import annotations

from ...core.bounds import Bounds, extent_range
from ...core.dims import Extent, lower_bound, maximum
from ...core.errors import TypeRefused
from ...ir.fits import Pair, equal_extents, ordered_extents
from ...ir.graph import Node


def guards(node: Node, bounds: Bounds, seen: set[str]) -> tuple[Pair, ...]:
    """Pairs of extents that must be equal before ``node`` may run. ``seen`` holds what is known to be no less than 0
    already, and is added to.

    Extents of the inputs count as much as those bound during the run: a slice of the first five steps of a sequence
    that has three would read memory that is not its own.
    """
    out: list[Pair] = equal_extents(node)
    for low, high in ordered_extents(node):
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


__all__ = ["guards"]
