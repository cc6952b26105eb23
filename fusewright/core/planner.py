"""Where each arena buffer lies.

Owns the offset planner: best fit by size over lifetimes, and the lower bound that it is measured against.
Must not know what the buffers hold; the checker in `plancheck` never imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

ALIGN = 64


class Lifetimes:
    """Which buffers are live together: worked out once, for every binding of the sizes."""

    __slots__ = ("first", "last", "neighbours", "winner")

    def __init__(self, first: Sequence[int], last: Sequence[int]) -> None:
        self.first, self.last = list(first), list(last)
        self.winner: int | None = None  # the order of placement that served best
        self.neighbours: list[list[int]] = [[] for _ in self.first]
        active: list[int] = []
        for i in sorted(range(len(self.first)), key=self.first.__getitem__):
            start = self.first[i]
            active = [j for j in active if self.last[j] >= start]
            self.neighbours[i] += active
            for j in active:
                self.neighbours[j].append(i)
            active.append(i)


def plan_offsets(sizes: Sequence[int], lives: Lifetimes, quick: bool = False) -> tuple[list[int], int]:
    """Offsets (multiples of 64) and the bytes of the arena for buffers of ``sizes`` bytes.

    Buffers are placed one by one, each in the smallest gap that holds it among the buffers live with it, in order of
    size ("greedy by size", Pisarchyk and Lee 2020); where that misses the lower bound other orders are tried and the
    best plan kept. ``quick``: only the order that won last time, for sizes that grew or shrank together.
    """
    padded = [(s + ALIGN - 1) & -ALIGN for s in sizes]
    first, last = lives.first, lives.last
    keys: tuple[Callable[[int], tuple[int, ...]], ...] = (
        lambda i: (-padded[i], first[i], i),
        lambda i: (first[i], -padded[i], i),
        lambda i: (-padded[i] * (last[i] - first[i] + 1), first[i], i),
        lambda i: (first[i] - last[i], -padded[i], i),
    )
    everyone = range(len(padded))
    if quick and lives.winner is not None:
        return _place(padded, lives.neighbours, sorted(everyone, key=keys[lives.winner]))
    best, bound = None, lower_bound(sizes, lives)
    for number, key in enumerate(keys):
        offsets, total = _place(padded, lives.neighbours, sorted(everyone, key=key))
        if best is None or total < best[1]:
            best, lives.winner = (offsets, total), number
        if total <= bound:
            break
    assert best is not None
    return best


def _place(sizes: Sequence[int], neighbours: Sequence[Sequence[int]], order: Sequence[int]) -> tuple[list[int], int]:
    offsets = [-1] * len(sizes)
    total = 0
    for i in order:
        size = sizes[i]
        if size == 0:
            offsets[i] = 0
            continue
        taken = [(offsets[j], offsets[j] + sizes[j]) for j in neighbours[i] if offsets[j] >= 0 and sizes[j]]
        taken.sort()
        at, best, best_gap = 0, -1, 0
        for low, high in taken:
            gap = low - at
            if gap >= size and (best < 0 or gap < best_gap):
                best, best_gap = at, gap
            if high > at:
                at = high
        place = at if best < 0 else best
        offsets[i] = place
        if place + size > total:
            total = place + size
    return offsets, total


def lower_bound(sizes: Sequence[int], lives: Lifetimes) -> int:
    """The most bytes (each size rounded up to 64) live at one step: no plan is smaller."""
    change: dict[int, int] = {}
    for size, first, last in zip(sizes, lives.first, lives.last):
        padded = (size + ALIGN - 1) & -ALIGN
        change[first] = change.get(first, 0) + padded
        change[last + 1] = change.get(last + 1, 0) - padded
    live = peak = 0
    for step in sorted(change):
        live += change[step]
        if live > peak:
            peak = live
    return peak
