"""Banded products along one axis or two: rows are blended into scratch, their columns into the result.

Owns their loops. No value of ``first`` may lead outside a buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....core.dims import Extent, product
from ....ir.graph import Node
from ..templates.template import Template, TextBuilder
from ..templates.units import units
from .nest import digits, flat_loop, grain, guess, split_rows
from .scalar import pointer

UNROLLED = 8  # taps that are written out
NARROW = 8  # elements of a column below which vectors go across columns


@dataclass(frozen=True, slots=True)
class _Band:
    """One axis: ``size`` elements become ``out``, each from ``taps`` neighbours."""

    name: str
    size: int
    out: int
    taps: int

    def declare(self, t: TextBuilder, ptr: str, index: int) -> None:
        t.pointer(f"{self.name}_first", "operand", index)
        t.pointer(f"{self.name}_weights", "operand", index + 1)
        t.add(0, f"{self.name}f = pi64({self.name}_first)\n{self.name}w = {ptr}({self.name}_weights)")

    def first(self, at: str) -> str:
        return f"min(max({self.name}f[{at}], 0), {self.size - self.taps})"


def resample(node: Node) -> list[Template]:
    """A unit is a row of the result (a part of it along one axis); on a GPU, an element."""
    x, axes = node.operands[0], node.attrs["axes"]
    tables = zip("ab", axes, node.operands[2::2])
    bands = [_Band(n, int(x.shape[a]), *(int(d) for d in w.shape)) for n, a, w in tables]  # type: ignore[arg-type]
    outer, inner = product(x.shape[: axes[0]]), product(x.shape[axes[-1] + 1 :])
    ptr, size = pointer(x.dtype), x.dtype.size
    t = TextBuilder(node.op.name)
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    for i, band in enumerate(bands):
        band.declare(t, ptr, 1 + 2 * i)
    flops = node.op.cost(node).flops if node.op.cost is not None else 0
    if not units().tiles:
        return [_elements(t, bands, outer, inner, ptr, flops)]
    if len(bands) == 1:
        return [_rows(t, bands[0], outer, inner, ptr, size, flops)]
    return [_planes(t, bands[0], bands[1], outer, inner, ptr, size, flops)]


def _elements(t: TextBuilder, bands: list[_Band], outer: Extent, inner: Extent, ptr: str, flops: Extent) -> Template:
    """The sum over the taps of the first axis lies inside that over the second, as where rows are blended first."""
    zero = "f32(0.0)" if ptr == "pf32" else "f64(0.0)"
    t.add(0, f"p = {ptr}(x)\nr = {ptr}(out)")
    extents = [("n", outer), *((f"o{b.name}", b.out) for b in bands), ("c", inner)]
    extent = flat_loop(t, product(e for _, e in extents))
    digits(t, 1, "j", extents, {name for name, _ in extents})
    step, at = inner, "c"
    steps: list[Extent] = []
    for band in reversed(bands):
        t.add(1, f"{band.name}0 = {band.first(f'o{band.name}')}")
        at += f" + {band.name}0 * {t.dim(step)}"
        steps.insert(0, step)
        step = step * band.size
    t.add(1, f"at = n * {t.dim(step)} + {at}\ntotal = {zero}")
    indent, place = 1, "at"
    for band, by in reversed(list(zip(bands, steps, strict=True))):
        if band is not bands[-1]:
            t.add(indent, f"part = {zero}")
        t.add(indent, f"for t{band.name} in range({band.taps}):")
        place += f" + t{band.name} * {t.dim(by)}"
        indent += 1
    weight = lambda band: f"{band.name}w[o{band.name} * {band.taps} + t{band.name}]"
    if len(bands) == 1:
        t.add(indent, f"total = fma({weight(bands[0])}, p[{place}], total)")
    else:
        t.add(indent, f"part = fma({weight(bands[0])}, p[{place}], part)")
        t.add(indent - 1, f"total = fma({weight(bands[1])}, part, total)")
    t.add(1, "r[j] = total")
    return Template(t.source(), t.entry, tuple(t.args), extent, 1, 0, flops)


def _blend(
    t: TextBuilder, indent: int, band: _Band, row: str, source: str, step: str, low: str, past: str, target: str,
    held: bool,
) -> None:  # fmt: skip
    """``target[j]``, for j from ``low`` to ``past``: the taps of element ``row`` from ``source``, ``step`` apart.

    ``held``: the target is read again, by ``get``, in this kernel.
    """
    give = (lambda value: f"{target}[j] = {value}") if held else (lambda value: f"put({target}, j, {value})")
    weight = lambda tap: f"{band.name}w[{row} * {band.taps} + {tap}]"
    now = min(band.taps, UNROLLED)
    for tap in range(now):
        t.add(indent, f"w{tap} = {weight(tap)}")
    value = f"w0 * get({source}, j)"
    for tap in range(1, now):
        value = f"fma(w{tap}, get({source}, {tap} * {step} + j), {value})"
    t.add(indent, f"for j in range({low}, {past}):\n    {give(value)}")
    if band.taps > now:
        t.add(indent, f"for tap in range({now}, {band.taps}):\n    w = {weight('tap')}\n    far = tap * {step}")
        t.add(indent + 1, f"for j in range({low}, {past}):")
        t.add(indent + 2, give(f"fma(w, get({source}, far + j), {target}[j])"))


def _rows(
    t: TextBuilder, band: _Band, outer: Extent, inner: Extent, ptr: str, size: int, flops: Extent
) -> Template:  # fmt: skip
    t.add(0, "for u in range(start, stop):")
    parts, low, past = split_rows(t, 1, "row", inner)
    t.add(1, f"n = row // {band.out}\no = row % {band.out}\nat = n * {band.size} + {band.first('o')}")
    step = t.dim(inner)
    t.add(1, f"q = {ptr}(x + at * {step} * {size})\nr = {ptr}(out + row * {step} * {size})")
    _blend(t, 1, band, "o", "q", step, low, past, "r", held=False)
    extent = outer * band.out * parts
    cut = grain(min(guess(inner), units().split), 2 * band.taps)
    return Template(t.source(), t.entry, tuple(t.args), extent, cut, 0, flops)


def _planes(
    t: TextBuilder, rows: _Band, columns: _Band, outer: Extent, inner: Extent, ptr: str, size: int, flops: Extent
) -> Template:  # fmt: skip
    step, across = t.dim(inner), t.dim(inner * columns.size)
    narrow = isinstance(inner, int) and inner < NARROW
    held = columns.size * inner
    scratch = -(-held * size // 64) * 64 if isinstance(held, int) else (held + 16) * size
    t.add(0, f"s = {ptr}(scratch)")
    room: Extent = scratch
    if narrow:
        # The places and weights of every element of a row, once per chunk: vectors then go across columns.
        count = columns.out * inner
        places = -(-8 * count // 64) * 64
        assert isinstance(scratch, int)
        t.add(0, f"place = pi64(scratch + {scratch})\nheavy = {ptr}(scratch + {scratch + places})")
        t.add(0, f"for o in range({columns.out}):\n    g = {columns.first('o')} * {inner}")
        t.add(1, f"for c in range({inner}):\n    place[o * {inner} + c] = g + c")
        t.add(2, f"for tap in range({columns.taps}):")
        t.add(3, f"heavy[tap * {count} + o * {inner} + c] = bw[o * {columns.taps} + tap]")
        room = scratch + places + columns.taps * count * size
    t.add(0, f"for u in range(start, stop):\n    n = u // {rows.out}\n    oa = u % {rows.out}")
    t.add(1, f"q = {ptr}(x + (n * {rows.size} + {rows.first('oa')}) * {across} * {size})")
    _blend(t, 1, rows, "oa", "q", across, "0", across, "s", held=True)
    if narrow:
        t.add(1, f"r = {ptr}(out + u * {count * size})")
        t.add(1, f"for j in range({count}):\n    put(r, j, get(heavy, j) * get(s, get(place, j)))")
        t.add(1, f"for tap in range(1, {columns.taps}):\n    for j in range({count}):")
        value = f"fma(get(heavy, tap * {count} + j), get(s, get(place, j) + tap * {inner}), r[j])"
        t.add(3, f"put(r, j, {value})")
    else:
        t.add(1, f"for ob in range({columns.out}):")
        t.add(2, f"v = {ptr}(scratch + {columns.first('ob')} * {step} * {size})")
        t.add(2, f"r = {ptr}(out + (u * {columns.out} + ob) * {step} * {size})")
        _blend(t, 2, columns, "ob", "v", step, "0", step, "r", held=False)
    work = guess(inner) * (columns.size * rows.taps + columns.out * columns.taps)
    return Template(t.source(), t.entry, tuple(t.args), outer * rows.out, grain(work, 2), room, flops)
