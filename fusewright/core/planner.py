"""Where each arena buffer lies.

Owns the offset planner: best fit by size over lifetimes, and the lower bound that it is measured against.
Must not know what the buffers hold; the checker in `plancheck` never imports this module.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

ALIGN = 64
PROMOTIONS = 200_000  # neighbours looked at while an order of placement is improved


class Lifetimes:
    """Which buffers are live together: worked out once, for every binding of the sizes."""

    __slots__ = ("first", "last", "neighbours", "order")

    def __init__(self, first: Sequence[int], last: Sequence[int]) -> None:
        self.first, self.last = list(first), list(last)
        self.order: list[int] | None = None  # the order of placement that served best
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
    size ("greedy by size", Pisarchyk and Lee 2020); where that misses the lower bound other orders are tried, the best
    one is improved, and the best plan kept. ``quick``: only the order that won last time, for sizes that grew or shrank
    together.
    """
    padded = [(s + ALIGN - 1) & -ALIGN for s in sizes]
    if quick and lives.order is not None:
        return _place(padded, lives.neighbours, lives.order)
    best, bound = None, lower_bound(sizes, lives)
    for key in _keys(padded, lives):
        order = sorted(range(len(padded)), key=key)
        offsets, total = _place(padded, lives.neighbours, order)
        if best is None or total < best[1]:
            best, lives.order = (offsets, total), order
        if total <= bound:
            return best
    assert best is not None and lives.order is not None
    return _promoted(padded, lives, best, bound)


def _keys(padded: Sequence[int], lives: Lifetimes) -> Sequence[Callable[[int], tuple[int, ...]]]:
    """The orders of placement that are tried, as keys of a buffer's number."""
    first, last = lives.first, lives.last
    crowd: list[int] = []

    def crowded(i: int) -> tuple[int, ...]:
        if not crowd:
            crowd.extend(_crowds(padded, lives))
        return (-crowd[i], -padded[i], first[i], i)

    return (
        lambda i: (-padded[i], first[i], i),
        lambda i: (first[i], -padded[i], i),
        lambda i: (-padded[i] * (last[i] - first[i] + 1), first[i], i),
        lambda i: (first[i] - last[i], -padded[i], i),
        crowded,
    )


def _crowds(padded: Sequence[int], lives: Lifetimes) -> list[int]:
    """For each buffer the most bytes that are live at one step of its life."""
    # That is a step at which a buffer begins: a table of maxima over 1, 2, 4... of them answers for any stretch.
    starts = sorted(set(lives.first))
    change = [0] * (len(starts) + 1)
    spans = [(bisect_left(starts, a), bisect_right(starts, b)) for a, b in zip(lives.first, lives.last)]
    for size, (low, high) in zip(padded, spans):
        change[low] += size
        change[high] -= size
    live = 0
    level = []
    for delta in change[:-1]:
        live += delta
        level.append(live)
    table = [level]
    while 2 ** len(table) <= len(starts):
        half = 2 ** (len(table) - 1)
        level = table[-1]
        table.append([max(pair) for pair in zip(level, level[half:])])
    out = []
    for low, high in spans:
        k = (high - low).bit_length() - 1
        out.append(max(table[k][low], table[k][high - 2**k]))
    return out


def _promoted(
    padded: Sequence[int], lives: Lifetimes, best: tuple[list[int], int], bound: int
) -> tuple[list[int], int]:
    """``best``, or a better plan: what ends highest is placed before all that it met, again and again."""
    assert lives.order is not None
    order, (offsets, total) = list(lives.order), best
    for _ in range(PROMOTIONS // max(1, sum(map(len, lives.neighbours)))):
        at = {i: position for position, i in enumerate(order)}
        top = min((i for i in order if offsets[i] + padded[i] == total), key=at.__getitem__)
        to = min((at[j] for j in lives.neighbours[top] if padded[j]), default=at[top])
        if total <= bound or to >= at[top]:
            break
        order.remove(top)
        order.insert(to, top)
        offsets, total = _place(padded, lives.neighbours, order)
        if total < best[1]:
            best, lives.order = (offsets, total), list(order)
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
