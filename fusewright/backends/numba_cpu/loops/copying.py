"""The strided copy behind every op that only moves elements by a fixed index map, with blocked transposition.

Owns its loops. Elements move as bit patterns: a kernel depends on their size, not on their dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ....core.dims import Extent, ceildiv, compare_eq, product
from ....ir.types import TensorType
from ..lines import tile_side
from ..templates.template import Template, TextBuilder
from ..templates.units import units as cut
from .nest import CHUNK, address, digits, flat_loop, grain, guess, scaled, split_rows, total
from .scalar import BITS

TILE_RUN = 64  # destination elements of one line of a transposed tile


@dataclass(slots=True)
class Move:
    """Copy ``extents`` elements between places with these strides, in elements; ``*_base`` is text, ``head`` lines
    before it (they may load further arguments)."""

    entry: str
    size: int
    extents: Sequence[Extent]
    src: Sequence[Extent]
    dst: Sequence[Extent]
    src_base: str = "0"
    dst_base: str = "0"
    head: list[str] = field(default_factory=list)
    guard: bool = False  # nothing to do when source and destination are one buffer


def _merge(m: Move) -> list[tuple[Extent, Extent, Extent]]:
    """(extent, source stride, destination stride), outermost first; neighbours that run on are one axis."""
    out: list[tuple[Extent, Extent, Extent]] = []
    for axis in zip(m.extents, m.src, m.dst, strict=True):
        n, s, d = axis
        if n == 1:
            continue
        if out and compare_eq(out[-1][1], s * n) is True and compare_eq(out[-1][2], d * n) is True:
            out[-1] = (out[-1][0] * n, s, d)
        else:
            out.append(axis)
    return out


def strided(t: TextBuilder, m: Move) -> Template:
    """The kernel of ``m``. The caller has declared the pointers ``x`` (source) and ``out`` in ``t``."""
    axes = _merge(m) or [(1, 1, 1)]
    for line in m.head:
        t.add(0, line)
    if m.guard:
        t.add(0, "if x == out:\n    return")
    lead = next((i for i, a in enumerate(axes[:-1]) if a[1] == 1), None)
    if cut().tiles and lead is not None and axes[-1][1] not in (0, 1) and axes[-1][2] == 1:
        return _transposed(t, m, axes, lead)
    kind = BITS[m.size]
    inner, s, d = axes[-1]
    if len(axes) == 1:
        t.add(0, f"q = {kind}({address('x', m.src_base, m.size)})\nr = {kind}({address('out', m.dst_base, m.size)})")
        units = flat_loop(t, inner)
        t.add(1, f"put(r, {scaled(t, 'j', d)}, get(q, {scaled(t, 'j', s)}))")
        return Template(t.source(), t.entry, tuple(t.args), units, max(1, CHUNK // 2 // cut().line))
    t.add(0, "for u in range(start, stop):")
    parts, first, past = split_rows(t, 1, "r_", inner)
    names = [f"i{a}" for a in range(len(axes) - 1)]
    digits(t, 1, "r_", [(names[a], axes[a][0]) for a in range(len(axes) - 1)], set(names))
    src = total([m.src_base, *(scaled(t, n, a[1]) for n, a in zip(names, axes, strict=False))])
    dst = total([m.dst_base, *(scaled(t, n, a[2]) for n, a in zip(names, axes, strict=False))])
    t.add(1, f"q = {kind}({address('x', src, m.size)})\nr = {kind}({address('out', dst, m.size)})")
    t.add(1, f"for j in range({first}, {past}):")
    t.add(2, f"put(r, {scaled(t, 'j', d)}, get(q, {scaled(t, 'j', s)}))")
    units = product(a[0] for a in axes[:-1]) * parts
    return Template(t.source(), t.entry, tuple(t.args), units, grain(min(guess(inner), 16384), 2))


def _transposed(t: TextBuilder, m: Move, axes: list[tuple[Extent, Extent, Extent]], lead: int) -> Template:
    """Axis ``lead`` is contiguous in the source, the last one in the destination: copy by tiles of both."""
    kind = BITS[m.size]
    (na, _, da), (nb, sb, _) = axes[lead], axes[-1]
    others = [(f"i{i}", *a) for i, a in enumerate(axes[:-1]) if i != lead]
    side = tile_side(m.size)
    tiles = ceildiv(na, side)
    t.add(0, "for u in range(start, stop):")
    if tiles == 1:
        t.add(1, f"w = u\na0 = 0\nta = {t.dim(na)}")
    else:
        t.add(1, f"w = u // {t.dim(tiles)}\na0 = u % {t.dim(tiles)} * {side}\nta = min({side}, {t.dim(na)} - a0)")
    digits(t, 1, "w", [(n, e) for n, e, _, _ in others], {n for n, _, _, _ in others})
    src = total([m.src_base, *(scaled(t, n, s) for n, _, s, _ in others), "a0"])
    dst = total([m.dst_base, *(scaled(t, n, d) for n, _, _, d in others), scaled(t, "a0", da)])
    t.add(1, f"q = {kind}({address('x', src, m.size)})\nr = {kind}({address('out', dst, m.size)})")
    n, one = t.dim(nb), f"put(r, {scaled(t, 'a', da)} + b, get(q, {scaled(t, 'b', sb)} + a))"
    if isinstance(nb, int) and nb < side:
        t.add(1, f"for a in range(ta):\n    for b in range({n}):\n        {one}")
    elif isinstance(na, int) and na < side:
        t.add(1, f"for b0 in range(0, {n}, {TILE_RUN}):")
        t.add(2, f"b1 = min(b0 + {TILE_RUN}, {n})\nfor a in range(ta):\n    for b in range(b0, b1):\n        {one}")
    else:
        t.add(1, f"done = 0\nif ta == {side}:\n    done = {n} // {side} * {side}\nfor b in range(0, done, {side}):")
        t.add(2, f"transpose_tile(q, {scaled(t, 'b', sb)}, {t.dim(sb)}, r, b, {t.dim(da)})")
        t.add(1, f"for a in range(ta):\n    for b in range(done, {n}):\n        {one}")
    units = product(e for _, e, _, _ in others) * tiles
    return Template(t.source(), t.entry, tuple(t.args), units, grain(guess(nb) * min(guess(na), side), 2))


def copy_of(type_: TensorType, operand: int = 0, guard: bool = False) -> Template:
    """``output 0 = operand``, of equal types; ``guard`` does nothing where both are one buffer."""
    t = TextBuilder("copy")
    t.pointer("x", "operand", operand)
    t.pointer("out", "output")
    template = strided(t, Move("copy", type_.dtype.size, [type_.size], [1], [1], guard=guard))
    return replace(template, overwrites=frozenset({operand}))
