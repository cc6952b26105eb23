"""Ranges of extents whose symbols are bound during a run.

Owns the step from an expression over run-time symbols to its least and greatest value, as expressions over the ordinary
ones. Must not know where symbols come from.
"""

from __future__ import annotations

from collections.abc import Mapping

from .dims import Atom, Dim, Extent, floordiv, lower_bound, maximum, minimum, symbols
from .errors import TypeRefused

# Least and greatest value of each run-time symbol; both over ordinary symbols only.
Bounds = Mapping[str, tuple[Extent, Extent]]


def is_dynamic(e: Extent, bounds: Bounds) -> bool:
    """Does ``e`` mention a run-time symbol?"""
    return not isinstance(e, int) and any(s in bounds for s in symbols(e))


def extent_range(e: Extent, bounds: Bounds) -> tuple[Extent, Extent]:
    """(least, greatest) value of ``e`` over all values of the run-time symbols. Terms are taken as independent, so the
    range may be wider than the truth. Raises TypeRefused where none can be given."""
    if isinstance(e, int) or not is_dynamic(e, bounds):
        return e, e
    low: Extent = 0
    high: Extent = 0
    for monomial, c in e.terms:
        least: Extent = c
        most: Extent = c
        dynamic = any(is_dynamic(Dim((((a,), 1),)), bounds) for a in monomial)
        for atom in monomial:
            a, b = _atom_range(atom, bounds)
            if dynamic and not lower_bound(a) >= 0:
                raise TypeRefused(f"extent {e} has no bound: {atom.text} may be negative")
            least, most = least * a, most * b
        if c < 0:
            least, most = most, least
        low, high = low + least, high + most
    return low, high


def upper(e: Extent, bounds: Bounds) -> Extent:
    """The greatest value of ``e``, over ordinary symbols. Raises TypeRefused where there is none."""
    return extent_range(e, bounds)[1]


def _atom_range(atom: Atom, bounds: Bounds) -> tuple[Extent, Extent]:
    if atom.op == "symbol":
        own: Extent = Dim((((atom,), 1),))
        return bounds.get(atom.text, (own, own))
    if not is_dynamic(Dim((((atom,), 1),)), bounds):
        own = Dim((((atom,), 1),))
        return own, own
    (a, b), (c, d) = (extent_range(x, bounds) for x in atom.args)
    if atom.op == "min":
        return minimum(a, c), minimum(b, d)
    if atom.op == "max":
        return maximum(a, c), maximum(b, d)
    if not lower_bound(c) >= 0 or atom.op == "//" and not lower_bound(a) >= 0 and not isinstance(atom.args[1], int):
        raise TypeRefused(f"{atom.text} has no bound")
    if atom.op == "%":
        # A divisor of 0 has no remainder at all.
        return 0, maximum(d - 1, 0)
    if isinstance(atom.args[1], int):
        return floordiv(a, c), floordiv(b, d)
    return 0, b  # a divisor is at least 1


def out_of_range(name: str, value: int, low: int, high: int | None) -> str:
    """The words of a refusal: a run-time symbol came out as a number that it may not be."""
    most = f"from {low} to {high}" if high is not None else f"at least {low}"
    return f"the extent {name} came out as {value}; it must be {most}"


def misfit(need: int, have: int) -> str:
    """The words of a refusal: inputs, or numbers found during the run, give an extent that the model cannot have."""
    return f"these inputs do not fit the model: an extent is {have} where {need} is needed"


__all__ = ["Bounds", "extent_range", "is_dynamic", "misfit", "out_of_range", "upper"]
