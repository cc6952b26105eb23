"""Offsets: never two live buffers on one byte, never below the lower bound, close to the best there is."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusewright.core.errors import VerifyError
from fusewright.core.plancheck import check_disjoint
from fusewright.core.planner import ALIGN, Lifetimes, lower_bound, plan_offsets

buffers = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 12), st.integers(0, 5)), max_size=40)


def _split(drawn: list[tuple[int, int, int]]) -> tuple[list[int], list[int], list[int]]:
    return [s for s, _, _ in drawn], [f for _, f, _ in drawn], [f + d for _, f, d in drawn]


@given(buffers)
def test_plans_are_disjoint_aligned_and_bounded(drawn: list[tuple[int, int, int]]) -> None:
    sizes, first, last = _split(drawn)
    lives = Lifetimes(first, last)
    offsets, total = plan_offsets(sizes, lives)
    check_disjoint(sizes, first, last, offsets)
    assert all(o % ALIGN == 0 and o + s <= total for o, s in zip(offsets, sizes))
    assert lower_bound(sizes, lives) <= total <= sum((s + 63) & -64 for s in sizes)


@given(buffers)
def test_lower_bound_is_the_peak_of_live_bytes(drawn: list[tuple[int, int, int]]) -> None:
    sizes, first, last = _split(drawn)
    live = [sum((s + 63) & -64 for s, f, e in zip(sizes, first, last) if f <= t <= e) for t in range(20)]
    assert lower_bound(sizes, Lifetimes(first, last)) == max(live)


@given(buffers)
def test_neighbours_are_exactly_the_overlapping_lifetimes(drawn: list[tuple[int, int, int]]) -> None:
    _, first, last = _split(drawn)
    lives = Lifetimes(first, last)
    for i, j in itertools.permutations(range(len(first)), 2):
        assert (j in lives.neighbours[i]) == (first[i] <= last[j] and first[j] <= last[i])


def _best(sizes: list[int], lives: Lifetimes) -> int:
    """The smallest arena over all orders of first-fit placement: some order gives an optimal plan."""
    best = sum(sizes)
    for order in itertools.permutations(range(len(sizes))):
        offsets: dict[int, int] = {}
        for i in order:
            at = 0
            for low, high in sorted((offsets[j], offsets[j] + sizes[j]) for j in lives.neighbours[i] if j in offsets):
                if low - at >= sizes[i]:
                    break
                at = max(at, high)
            offsets[i] = at
        best = min(best, max(offsets[i] + sizes[i] for i in order))
    return best


def test_small_plans_are_close_to_the_best() -> None:
    rng = random.Random(1)
    ratios = []
    for _ in range(60):
        first = [rng.randrange(6) for _ in range(6)]
        lives = Lifetimes(first, [f + rng.randrange(4) for f in first])
        sizes = [64 * rng.randrange(1, 9) for _ in first]
        total, best = plan_offsets(sizes, lives)[1], _best(sizes, lives)
        assert total >= best
        ratios.append(total / best)
    assert sum(ratios) / len(ratios) < 1.02 and max(ratios) <= 1.4


def test_a_chain_needs_two_buffers() -> None:
    lives = Lifetimes(range(300), range(1, 301))
    assert plan_offsets([1000] * 300, lives)[1] == 2 * 1024


def test_the_disjointness_check_sees_an_overlap() -> None:
    with pytest.raises(VerifyError, match="overlap"):
        check_disjoint([64, 64], [0, 1], [1, 2], [0, 32])
    check_disjoint([64, 64], [0, 2], [1, 3], [0, 32])
    assert plan_offsets([], Lifetimes([], [])) == ([], 0)


def grown(seed: int) -> tuple[list[int], Lifetimes, int]:
    """Buffers cut out of a full arena: rectangles of bytes and steps that leave no gap. Their best plan is known."""
    rng = random.Random(seed)
    height, length = 64 * 60, 60
    pieces = [(0, height, 0, length - 1)]
    while len(pieces) < 60:
        at = rng.randrange(len(pieces))
        low, high, first, last = pieces[at]
        if rng.random() < 0.5 and high - low >= 128:
            cut = low + 64 * rng.randrange(1, (high - low) // 64)
            pieces[at : at + 1] = [(low, cut, first, last), (cut, high, first, last)]
        elif last > first:
            step = rng.randrange(first, last)
            pieces[at : at + 1] = [(low, high, first, step), (low, high, step + 1, last)]
    rng.shuffle(pieces)
    lives = Lifetimes([first for _, _, first, _ in pieces], [last for _, _, _, last in pieces])
    return [high - low for low, high, _, _ in pieces], lives, height


def test_what_sticks_out_is_placed_earlier() -> None:
    """Full arenas cut to pieces: orders by one key leave 5 % of gaps."""
    ratios = []
    for seed in range(20):
        sizes, lives, height = grown(seed)
        offsets, total = plan_offsets(sizes, lives)
        assert lower_bound(sizes, lives) == height <= total
        check_disjoint(sizes, lives.first, lives.last, offsets)
        # The order that won is kept, and gives the same plan again.
        assert plan_offsets(sizes, lives, quick=True) == (offsets, total)
        ratios.append(total / height)
    assert sum(ratios) / len(ratios) <= 1.03
