"""Reshapes seen as groups of axes, and what they do to strides.

Owns the arithmetic on extents, symbolic ones included. Must not know values or ops.
"""

from __future__ import annotations

from collections.abc import Sequence

from .dims import Extent, compare_eq, product

Group = tuple[tuple[int, ...], tuple[int, ...]]


def regroup(old: Sequence[Extent], new: Sequence[Extent]) -> list[Group] | None:
    """The finest pairs (axes of ``old``, axes of ``new``) that hold the same elements, outermost first.

    Axes of extent 1 belong to no group. None when the extents do not tell: one of them is 0, or sizes that are equal
    for no visible reason.
    """
    left = [i for i, d in enumerate(old) if d != 1]
    right = [i for i, d in enumerate(new) if d != 1]
    if any(d == 0 for d in (*old, *new)):
        return None
    groups: list[Group] = []
    ends = [len(left), len(right)]
    sizes: list[list[Extent]] = [_suffixes([s[i] for i in axes]) for s, axes in ((old, left), (new, right))]
    for i in range(len(left) - 1, -1, -1):
        at = next((j for j in range(ends[1] - 1, -1, -1) if compare_eq(sizes[0][i], sizes[1][j]) is True), None)
        if at is None:
            continue
        groups.append((tuple(left[i : ends[0]]), tuple(right[at : ends[1]])))
        ends = [i, at]
    return groups[::-1] if ends == [0, 0] else None


def _suffixes(extents: Sequence[Extent]) -> list[Extent]:
    """The product of the extents from each position on."""
    return [product(extents[i:]) for i in range(len(extents))]


def reshape_strides(
    old: Sequence[Extent], strides: Sequence[Extent], new: Sequence[Extent]
) -> tuple[Extent, ...] | None:
    """Strides of ``new`` over the elements that ``old`` reads with ``strides``; None where they would be copied."""
    groups = regroup(old, new)
    if groups is None:
        return None
    out: list[Extent] = [0] * len(new)
    for before, after in groups:
        for outer, inner in zip(before, before[1:]):
            if compare_eq(strides[outer], strides[inner] * old[inner]) is not True:
                return None
        step = strides[before[-1]]
        for axis in reversed(after):
            out[axis] = step
            step = step * new[axis]
    return tuple(out)


def dense_strides(shape: Sequence[Extent]) -> tuple[Extent, ...]:
    """Row-major strides in elements."""
    return tuple(product(shape[i + 1 :]) for i in range(len(shape)))


def across(groups: Sequence[Group], source: Sequence[Extent], part: Sequence[Extent]) -> tuple[Extent, ...] | None:
    """The shape that ``part``, which broadcasts against the new side of a reshape, has against the old side (shape
    ``source``); None where it spans part of a group only. ``part`` has the rank of the new side."""
    out: list[Extent] = [1] * len(source)
    covered = {axis for _, after in groups for axis in after}
    if any(d != 1 for axis, d in enumerate(part) if axis not in covered):
        return None
    for before, after in groups:
        if all(part[axis] == 1 for axis in after):
            continue
        size = product(part[axis] for axis in after)
        if compare_eq(size, product(source[axis] for axis in before)) is not True:
            return None
        for axis in before:
            out[axis] = source[axis]
    return tuple(out)
