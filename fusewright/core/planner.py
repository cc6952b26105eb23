"""Where each arena buffer lies.

Owns the offset planner: best fit by size over lifetimes, and the lower bound that it is measured against.
Must not know what the buffers hold; the checker in `plancheck` never imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence

ALIGN = 64


class Lifetimes:
    """Which buffers are live together: worked out once, for every binding of the sizes."""

    __slots__ = ("first", "last", "neighbours")

    def __init__(self, first: Sequence[int], last: Sequence[int]) -> None:
        self.first, self.last = list(first), list(last)
        self.neighbours: list[list[int]] = [[] for _ in self.first]
        active: list[int] = []
        for i in sorted(range(len(self.first)), key=self.first.__getitem__):
            start = self.first[i]
            active = [j for j in active if self.last[j] >= start]
            self.neighbours[i] += active
            for j in active:
                self.neighbours[j].append(i)
            active.append(i)


def plan_offsets(sizes: Sequence[int], lives: Lifetimes) -> tuple[list[int], int]:
    """Offsets (multiples of 64) and the bytes of the arena for buffers of ``sizes`` bytes.

    Buffers are placed from the largest down, each in the smallest gap that holds it among the buffers live with it
    ("greedy by size", Pisarchyk and Lee 2020). Where that misses the lower bound and there are few buffers, the order
    of birth is tried too and the better plan kept.
    """
    padded = [(s + ALIGN - 1) & -ALIGN for s in sizes]
    by_size = sorted(range(len(padded)), key=lambda i: (-padded[i], lives.first[i], i))
    offsets, total = _place(padded, lives.neighbours, by_size)
    if len(padded) <= 128 and total > lower_bound(sizes, lives):
        by_birth = sorted(range(len(padded)), key=lambda i: (lives.first[i], -padded[i], i))
        other, other_total = _place(padded, lives.neighbours, by_birth)
        if other_total < total:
            return other, other_total
    return offsets, total


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
