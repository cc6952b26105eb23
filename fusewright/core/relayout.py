"""A change of layout as one nest of strided loops, where there is one.

Owns the arithmetic of axes that are split and joined. Must not know arrays, kernels or why a layout is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .layout import Layout
from .winograd import TAPS

Axis = list[tuple[int, int]]  # an axis as digits (extent, stride), outermost first; strides in elements
Loop = tuple[int, int, int]
Taps = tuple[int, int]
_ROW, _COLUMN = -1, -2  # instead of the strides of axes that Winograd's transform makes longer


class Nest:
    """``loops``: (extent, stride in the source, stride in the target), outermost first. With ``side`` > 0 each element
    stands for a kernel of 3 x 3 taps that Winograd's transform makes ``side + 2`` square: ``source_taps`` and
    ``target_taps`` are the strides of their rows and columns. ``rounds``: float32 becomes bfloat16 on the way."""

    __slots__ = ("loops", "side", "source_taps", "target_taps", "rounds")

    def __init__(
        self,
        loops: Sequence[Loop],
        side: int = 0,
        source_taps: Taps = (0, 0),
        target_taps: Taps = (0, 0),
        rounds: bool = False,
    ) -> None:
        self.loops, self.side, self.rounds = tuple(loops), side, rounds
        self.source_taps, self.target_taps = source_taps, target_taps


def nest(stored: Layout, wanted: Layout) -> Nest | None:
    """The loops that make ``wanted`` of ``stored``, over room that holds zeros; None where digits do not fit each
    other."""
    if stored.derived or 0 in stored.shape:
        return None
    source, target = _digits(stored), _digits(wanted)
    if source is None or target is None:
        return None
    loops: list[Loop] = []
    for a, b in zip(source.axes, target.axes, strict=True):
        common = _refined(a, b)
        if common is None:
            return None
        loops += common
    if not target.side:
        return Nest(_joined(loops), rounds=wanted.rounds)
    taps = [next((loop for loop in loops if loop[2] == mark), None) for mark in (_ROW, _COLUMN)]
    if taps[0] is None or taps[1] is None or taps[0][0] != TAPS or taps[1][0] != TAPS:
        return None
    rest = [loop for loop in loops if loop[2] >= 0]
    return Nest(_joined(rest), target.side, (taps[0][1], taps[1][1]), target.taps, wanted.rounds)


class _Digits:
    """Where the elements of an array lie in a layout, axis by axis."""

    __slots__ = ("axes", "side", "taps")

    def __init__(self, axes: list[Axis]) -> None:
        self.axes, self.side, self.taps = axes, 0, (0, 0)


def _digits(layout: Layout) -> _Digits | None:
    shapes = layout.shapes
    made = _Digits([[(n, math.prod(shapes[-1][i + 1 :]))] for i, n in enumerate(shapes[-1])])
    for (kind, arg), before in zip(reversed(layout.moves), reversed(shapes[:-1]), strict=True):
        axes: list[Axis] | None = made.axes
        if kind == "transpose":
            axes = [made.axes[arg.index(i)] for i in range(len(arg))]
        elif kind == "reshape":
            axes = _regrouped(made.axes, before)
        elif kind == "pad":
            axes = _cut(made.axes, before)
        elif kind == "winograd" and not made.side and all(len(axis) == 1 for axis in made.axes[:2]):
            made.side, made.taps = arg[0], (made.axes[0][0][1], made.axes[1][0][1])
            axes = [[(TAPS, _ROW)], [(TAPS, _COLUMN)], *made.axes[2:]]
        elif kind != "bf16":
            return None
        if axes is None:
            return None
        made.axes = axes
    return made


def _regrouped(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis] | None:
    """The same elements in the same order with the extents ``shape``."""
    digits = [d for axis in axes for d in axis if d[0] != 1]
    out: list[Axis] = []
    for n in shape:
        axis: Axis = []
        while n > 1:
            if not digits:
                return None
            extent, stride = digits.pop(0)
            if n % extent:  # the outer part of it belongs to this axis
                if extent % n or stride < 0:
                    return None
                digits.insert(0, (extent // n, stride))
                extent, stride = n, stride * (extent // n)
            axis.append((extent, stride))
            n //= extent
        out.append(axis)
    return None if digits else out


def _cut(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis] | None:
    """The first elements of each axis, ``shape`` of them."""
    out: list[Axis] = []
    for axis, n in zip(axes, shape, strict=True):
        whole = math.prod(extent for extent, _ in axis)
        if n == whole:
            out.append(axis)
            continue
        inner = whole // axis[0][0]
        if n % inner or axis[0][1] < 0:
            return None
        out.append([(n // inner, axis[0][1]), *axis[1:]])
    return out


def _refined(a: Axis, b: Axis) -> list[Loop] | None:
    """Both splits of one axis as one: (extent, stride by ``a``, stride by ``b``)."""
    left, right = [d for d in a if d[0] != 1], [d for d in b if d[0] != 1]
    out: list[Loop] = []
    while left and right:
        (n, s), (m, t) = left.pop(), right.pop()
        if n % m and m % n:
            return None
        common = min(n, m)
        if n > common:
            left.append((n // common, s * common))
        if m > common:
            if t < 0:
                return None
            right.append((m // common, t * common))
        out.append((common, s, t))
    return None if left or right else out


def _joined(loops: list[Loop]) -> list[Loop]:
    """Loops in the order of the target, those that run on in both places as one."""
    out: list[Loop] = []
    for n, s, t in sorted(loops, key=lambda loop: -loop[2]):
        if out and out[-1][1] == s * n and out[-1][2] == t * n:
            out[-1] = (out[-1][0] * n, s, t)
        else:
            out.append((n, s, t))
    return out
