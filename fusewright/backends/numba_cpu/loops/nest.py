"""Loop nests over broadcast operands: collapsing axes, decoding units, sizing chunks.

Owns index arithmetic as text. Must not know any op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....core.dims import Extent, ceildiv, product
from ..templates.template import TextBuilder
from ..templates.units import LANES, SHARED_ROW, WARPS, units

CHUNK = 16384  # simple operations that make a chunk worth handing to another thread


@dataclass(frozen=True, slots=True)
class Axis:
    """A collapsed axis: ``flags`` says per stream whether it moves along the axis."""

    extent: Extent
    flags: tuple[Any, ...]


def collapse(extents: Sequence[Extent], flags: Sequence[tuple[Any, ...]]) -> list[Axis]:
    """Axes of extent 1 dropped, neighbours with equal flags merged."""
    out: list[Axis] = []
    for size, flag in zip(extents, flags, strict=True):
        if size == 1:
            continue
        if out and out[-1].flags == flag:
            out[-1] = Axis(out[-1].extent * size, flag)
        else:
            out.append(Axis(size, flag))
    return out


def guess(size: Extent, default: int = 256) -> int:
    """A number for an extent, for sizing only."""
    return size if isinstance(size, int) else default


def grain(elements: Extent, weight: float, default: int = 256) -> int:
    """Units per chunk for units of ``elements`` elements of ``weight`` operations."""
    return max(1, int(CHUNK // max(1.0, guess(elements, default) * max(weight, 1.0))))


def digits(t: TextBuilder, indent: int, source: str, axes: Sequence[tuple[str, Extent]], needed: set[str]) -> None:
    """Split the flat index ``source`` over ``axes`` (outermost first) into the variables ``needed``."""
    last = min((i for i, (name, _) in enumerate(axes) if name in needed), default=len(axes))
    rest = source
    for i in range(len(axes) - 1, last - 1, -1):
        name, extent = axes[i]
        if i == 0:
            t.add(indent, f"{name} = {rest}")
            return
        size = t.dim(extent)
        if name in needed:
            t.add(indent, f"{name} = {rest} % {size}")
        if i > last:
            t.add(indent, f"{name}_ = {rest} // {size}")
            rest = f"{name}_"


def scaled(t: TextBuilder, index: str, stride: Extent) -> str:
    """``index * stride`` as text."""
    if stride == 0:
        return "0"
    return index if stride == 1 else f"{index} * {t.dim(stride)}"


def total(terms: Sequence[str]) -> str:
    """The sum of ``terms`` as text."""
    kept = [x for x in terms if x != "0"]
    return " + ".join(kept) or "0"


def address(base: str, offset: str, size: int) -> str:
    """The address ``offset`` elements behind ``base``."""
    if offset == "0":
        return base
    return f"{base} + {offset} * {size}" if " " not in offset else f"{base} + ({offset}) * {size}"


def flat_loop(t: TextBuilder, size: Extent) -> Extent:
    """Open ``for j`` over this chunk's part of ``size`` elements in one long loop; returns the extent in units."""
    line = units().line
    t.add(0, f"lo = start * {line}\nhi = min(stop * {line}, {t.dim(size)})")
    t.add(0, "for j in range(lo, hi):")
    return ceildiv(size, line)


def split_rows(
    t: TextBuilder, indent: int, row: str, inner: Extent, inside: int | None = None
) -> tuple[Extent, str, str]:
    """Decode unit ``u`` as ``row`` and part of a row of ``inner`` elements: (units per row, first, past the last)."""
    most = min(inside or units().split, units().split)
    if isinstance(inner, int) and inner <= most:
        t.add(indent, f"{row} = u")
        return 1, "0", str(inner)
    parts = ceildiv(inner, most)
    t.add(
        indent, f"{row} = u // {t.dim(parts)}\nj0 = u % {t.dim(parts)} * {most}\nj1 = min(j0 + {most}, {t.dim(inner)})"
    )
    return parts, "j0", "j1"


def columns_of(most: int) -> int:
    """Neighbouring columns, at most ``most``, whose accumulators one unit holds."""
    return min(most, units().columns)


def accumulators(kind: str, offset: int = 0) -> str:
    """Text of a pointer to one accumulator per column of a unit, of type ``kind``, ``offset`` bytes into scratch."""
    if units().columns == 1:
        return f"slot_{kind}()"
    return f"p{kind}(scratch + {offset})" if offset else f"p{kind}(scratch)"


def column_bytes(count: int, most: Extent) -> Extent:
    """Scratch for ``count`` accumulators (8 bytes at most) of each column."""
    return 0 if units().columns == 1 else 8 * count * most


def shared_row(n: Extent) -> bool:
    """Whether the threads of a warp share rows of ``n`` elements."""
    return units().warps and not (isinstance(n, int) and n < SHARED_ROW)


def unit_loop(together: bool) -> str:
    """Text of the loop over units, each by a thread or by a warp ``together``."""
    if together:
        return f"lane = thread() % {LANES}\nfor u in range(start + thread() // {LANES}, stop, {WARPS}):"
    return "for u in range(start, stop):"


def along(n: str, together: bool) -> str:
    """Text of the range of a row's elements that this thread takes."""
    return f"range(lane, {n}, {LANES})" if together else f"range({n})"


def strides(shape: Sequence[Extent]) -> list[Extent]:
    """Row-major strides in elements."""
    return [product(shape[i + 1 :]) for i in range(len(shape))]
