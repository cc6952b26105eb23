"""Symbols that typing finds to be one: models whose inputs share an unnamed extent.

Owns the reading of a type error as an equation and its solution. Must not know any frontend.
"""

from __future__ import annotations

import re

from ..core.dims import Dim, Extent, parse, substitute, symbols
from ..core.errors import ImportRefused, ParseError

_UNEQUAL = re.compile(r"(?:^|: )([^:]+?) and ([^:]+?) are not known to be equal$")


class Unequal(ImportRefused):
    """A refusal that would not be one if ``left`` and ``right`` were the same extent."""

    left: Extent
    right: Extent


def unequal(message: str, where: str, reason: str) -> ImportRefused:
    """The refusal for a type error: ``Unequal`` when the message says which extents would have to agree."""
    found = _UNEQUAL.search(message)
    if found is not None:
        try:
            error = Unequal("ill-typed", where, reason, "name equal axes alike with shapes=")
            error.left, error.right = parse(found[1]), parse(found[2])
            return error
        except ParseError:
            pass
    return ImportRefused("ill-typed", where, reason)


def solve(left: Extent, right: Extent, known: dict[str, Extent]) -> dict[str, Extent] | None:
    """``known`` with one more symbol given by ``left == right``, or None when that is not possible.

    The batch symbol N is only ever replaced by another symbol's equal, never fixed to a number.
    """
    gap = substitute(left, known) - substitute(right, known)
    if not isinstance(gap, Dim):
        return None
    plain: list[tuple[str, int]] = []
    for monomial, factor in gap.terms:
        if len(monomial) == 1 and monomial[0].op == "symbol" and abs(factor) == 1:
            plain.append((monomial[0].text, factor))
    # The later name goes: the first input names the shared symbol, and N stays.
    for name, factor in sorted(plain, key=lambda p: (p[0] != "N", p[0]), reverse=True):
        own = Dim((((next(m for m, _ in gap.terms if len(m) == 1 and m[0].text == name)), factor),))
        rest = gap - own
        value: Extent = -rest if factor == 1 else rest
        if name in symbols(value) or (isinstance(value, int) and (value < 0 or name == "N")):
            continue
        solved = {k: substitute(v, {name: value}) for k, v in known.items()}
        return {**solved, name: value}
    return None
