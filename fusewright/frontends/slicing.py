"""Slices as NumPy, Keras and TensorFlow mean them, on axes whose extents may be symbols.

Owns the clamping of bounds into an axis, single elements of one, and axes that are dropped. Knows no format.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core.dims import Extent, compare_eq, compare_le, maximum, minimum
from ..core.errors import TypeRefused
from ..ir.builder import Builder
from ..ir.graph import Value

FAR = (1 << 31) - 1  # what exporters write for "to the end"


def clamped(at: Extent, size: Extent, low: Extent, high: Extent) -> Extent:
    """A bound inside the axis: negative counts from the end, and what lies outside is cut off.

    One whose sign depends on the extents is taken for positive; where it is not, the call is refused.
    """
    if isinstance(at, int):
        if at <= -FAR:
            return low
        if at >= FAR:
            return high
        if at < 0:
            at = size + at
    elif compare_le(0, at) is not True:
        if compare_le(at, -1) is not True:
            return minimum(at, high)
        at = size + at
    return maximum(minimum(at, high), low)


def span(start: Extent | None, stop: Extent | None, step: int, size: Extent) -> tuple[Extent, Extent]:
    """(first, end) of ``start:stop:step``, as ``slice.indices`` finds them; for a negative step, of the reversed axis,
    to be read in steps of ``-step``. Raises TypeRefused for a slice backwards with a bound of unknown sign."""
    if step > 0:
        first = 0 if start is None else clamped(start, size, 0, size)
        end = size if stop is None else clamped(stop, size, 0, size)
    else:
        for e in (start, stop):
            if e is not None and not (compare_le(0, e) or compare_le(e, -1) or compare_le(size - 1, e)):
                raise TypeRefused("a slice backwards with a bound that may be negative is not supported")
        # Position i of the axis is size - 1 - i of the reversed one.
        first = 0 if start is None else size - 1 - clamped(start, size, -1, size - 1)
        end = size if stop is None else size - 1 - clamped(stop, size, -1, size - 1)
    if compare_le(0, first) is True and compare_le(0, end) is True:
        end = maximum(first, end)
    return first, end


def dropped(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    """x without ``axes``, whose extents are 1; one that may be something else is compared when the run gets there.

    Raises TypeRefused for one that is never 1.
    """
    ones = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
    if any(compare_eq(x.shape[i], 1) is not True for i in axes):
        x = b.view_as(x, shape=ones)
    return b.reshape(x, shape=tuple(d for i, d in enumerate(ones) if i not in axes))  # type: ignore[no-any-return]


def pick(b: Builder, x: Value, axis: int, at: Extent) -> Value:
    """Element ``at`` of an axis, which goes."""
    starts: list[Extent] = [0] * x.rank
    stops = list(x.shape)
    starts[axis], stops[axis] = at, at + 1
    return dropped(b, b.slice(x, starts=tuple(starts), stops=tuple(stops)), (axis,))


__all__ = ["FAR", "clamped", "dropped", "pick", "span"]
