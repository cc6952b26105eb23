"""Copies that unrolled loops need not make: a step reads a state where the step before wrote it.

Owns the two walks over a run of launches, reads forwards and dead copies backwards. Must not know steps or drivers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Range = tuple[tuple[str, int], int, int]  # a space, first byte and the one past the last
Access = tuple[tuple[str, int], int, int, bool]  # the same, and whether it is written
WIDE = 16  # kernels may read so many bytes at once where an operand lies at such a place


@dataclass(slots=True)
class Queued:
    """A launch of a run. ``places`` are the parameters that ``accesses`` belong to, -1 for what no parameter names;
    ``accesses`` is None where the plan does not say."""

    launch: Any
    places: list[int]
    accesses: list[Access] | None
    copy: bool

    def written(self) -> list[Range]:
        return [(space, low, high) for space, low, high, writes in self.accesses or () if writes]

    def read(self) -> list[Range]:
        return [(space, low, high) for space, low, high, writes in self.accesses or () if not writes]


def without_copies(run: Sequence[Queued]) -> list[Queued]:
    """``run`` with reads of copies turned to what was copied, and without the copies that nobody reads before the next
    copy to their place. What the last copies leave is there behind the run."""
    if not any(q.copy for q in run):
        return list(run)
    _forward(run)
    return _living(run)


def _forward(run: Sequence[Queued]) -> None:
    held: dict[Range, tuple[Any, Range]] = {}  # where a copy lies -> the word and the range of what was copied
    for q in run:
        if q.accesses is None:
            held.clear()
            continue
        written = q.written()
        for at, (space, low, high, writes) in enumerate(q.accesses):
            place, found = q.places[at], held.get((space, low, high))
            # What the launch itself writes it may not read in the source's place: it has not promised that.
            if found is not None and not writes and place >= 0 and not _meets(found[1], written):
                q.launch.words[place] = found[0]
                q.accesses[at] = (*found[1], False)
        for target in [t for t, (_, source) in held.items() if _meets(t, written) or _meets(source, written)]:
            del held[target]
        if q.copy:
            ends = _ends(q)
            if ends is not None:
                place, source, to = ends
                held[to] = q.launch.words[place], source


def _ends(q: Queued) -> tuple[int, Range, Range] | None:
    """The parameter that a copy reads, with its range, and the range that it writes; None unless that is one each, as
    long as the other, and read where kernels may read wide."""
    assert q.accesses is not None
    if len(q.accesses) != 2 or min(q.places) < 0:
        return None
    (first, second), (i, j) = q.accesses, q.places
    if first[3] == second[3]:
        return None
    if first[3]:
        first, second, i = second, first, j
    whole = first[2] - first[1] == second[2] - second[1] and first[1] % WIDE == 0
    return (i, first[:3], second[:3]) if whole and not _meets(first[:3], [second[:3]]) else None


def _living(run: Sequence[Queued]) -> list[Queued]:
    out: list[Queued] = []
    covered: set[Range] = set()  # places that a later copy fills before anybody reads them
    for q in reversed(run):
        if q.accesses is None:
            covered.clear()
        elif q.copy:
            targets = q.written()
            if len(targets) == 1 and targets[0] in covered:
                continue
            covered.update(targets if len(targets) == 1 else ())
        if q.accesses is not None:
            covered -= {c for c in covered if _meets(c, q.read())}
        out.append(q)
    return out[::-1]


def _meets(one: Range, others: Iterable[Range]) -> bool:
    space, low, high = one
    return any(space == s and low < h and l < high for s, l, h in others)
