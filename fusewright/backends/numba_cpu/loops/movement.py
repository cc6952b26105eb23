"""Kernels of ops that move elements by a fixed index map: broadcast, transpose, slice, reverse, pad, concat, iota.

Owns their index maps. The loops are copying's; pad and concat have their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....core.dims import Extent, product
from ....core.dtypes import I64
from ....ir.graph import Node, Value
from ..templates.template import Template, TextBuilder
from ..templates.units import units as cut
from .copying import Move, copy_of, strided
from .nest import address, digits, flat_loop, grain, guess, scaled, split_rows, strides, total
from .scalar import BIT_ZERO, BITS, Reg, Scalars, pointer


def _builder(entry: str) -> TextBuilder:
    t = TextBuilder(entry)
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    return t


def broadcast_to(node: Node) -> list[Template]:
    x, y = node.operands[0], node.results[0]
    own = strides(x.shape)
    src: list[Extent] = [0] * (y.rank - x.rank) + [0 if d == 1 else s for d, s in zip(x.shape, own, strict=True)]
    t = _builder("broadcast")
    return [strided(t, Move("broadcast", y.dtype.size, y.shape, src, strides(y.shape)))]


def transpose(node: Node) -> list[Template]:
    x, y = node.operands[0], node.results[0]
    own = strides(x.shape)
    t = _builder("transpose")
    return [
        strided(t, Move("transpose", y.dtype.size, y.shape, [own[p] for p in node.attrs["perm"]], strides(y.shape)))
    ]


def slice_(node: Node) -> list[Template]:
    x, y = node.operands[0], node.results[0]
    own = strides(x.shape)
    t = _builder("slice")
    base: Extent = 0
    for start, stride in zip(node.attrs["starts"], own, strict=True):
        base = base + start * stride
    src = [stride * step for stride, step in zip(own, node.attrs["steps"], strict=True)]
    return [strided(t, Move("slice", y.dtype.size, y.shape, src, strides(y.shape), t.dim(base)))]


def reverse(node: Node) -> list[Template]:
    x = node.operands[0]
    src = strides(x.shape)
    t = _builder("reverse")
    base: Extent = 0
    for axis in node.attrs["axes"]:
        if x.shape[axis] != 1:
            base = base + (x.shape[axis] - 1) * src[axis]
            src[axis] = -1 * src[axis]
    return [strided(t, Move("reverse", x.dtype.size, x.shape, src, strides(x.shape), t.dim(base)))]


def clamped_starts(
    t: TextBuilder, starts: Sequence[Value], shape: Sequence[Extent], sizes: Sequence[Extent], first: int
) -> list[str]:
    """Lines that define ``s<i>``, the run-time starts clamped so that a window of ``sizes`` fits."""
    lines = []
    for i, (v, n, k) in enumerate(zip(starts, shape, sizes, strict=True)):
        name = t.pointer(f"p{i}", "operand", first + i)
        wide = f"{pointer(v.dtype)}({name})[0]"
        if v.dtype.name == "u64":
            wide = f"min({wide}, u64({2**62}))"
        lines.append(f"s{i} = min(max(i64({wide}), 0), {t.dim(n - k)})")
    return lines


def dynamic_slice(node: Node) -> list[Template]:
    x, y = node.operands[0], node.results[0]
    own = strides(x.shape)
    t = _builder("dynamic_slice")
    head = clamped_starts(t, node.operands[1:], x.shape, y.shape, 1)
    base = total([scaled(t, f"s{i}", s) for i, s in enumerate(own)])
    return [strided(t, Move("dynamic_slice", y.dtype.size, y.shape, own, strides(y.shape), base, "0", head))]


def dynamic_update_slice(node: Node) -> list[Template]:
    x, update = node.operands[:2]
    own = strides(x.shape)
    t = TextBuilder("dynamic_update")
    t.pointer("x", "operand", 1)
    t.pointer("out", "output")
    head = clamped_starts(t, node.operands[2:], x.shape, update.shape, 2)
    base = total([scaled(t, f"s{i}", s) for i, s in enumerate(own)])
    write = strided(t, Move("dynamic_update", x.dtype.size, update.shape, strides(update.shape), own, "0", base, head))
    copy = copy_of(x.type, guard=True)
    return [copy, replace(write, overwrites=frozenset({0}))]


def iota(node: Node) -> list[Template]:
    y, axis = node.results[0], node.attrs["axis"]
    n, post = y.shape[axis], product(y.shape[axis + 1 :])
    t = TextBuilder("iota")
    t.pointer("out", "output")
    scalars, lines = Scalars(), []
    t.add(0, f"r = {pointer(y.dtype)}(out)")
    if len(y.shape) == 1:
        reg = scalars.cast(lines, Reg("j", I64), y.dtype)
        units = flat_loop(t, n)
    else:
        t.add(0, "for u in range(start, stop):")
        inner = n if post == 1 else post
        parts, first, past = split_rows(t, 1, "w", inner)
        counter = "j" if post == 1 else "k"
        if post != 1:
            t.add(1, f"k = w % {t.dim(n)}")
        reg = scalars.cast(lines, Reg(counter, I64), y.dtype)
        t.add(1, f"at = w * {t.dim(inner)}\nfor j in range({first}, {past}):")
        units = product(y.shape[: axis + (post != 1)]) * parts
    depth = 1 if len(y.shape) == 1 else 2
    for line in lines:
        t.add(depth, line)
    t.add(depth, f"r[{'j' if depth == 1 else 'at + j'}] = {reg.stored}")
    return [Template(t.source(), t.entry, tuple(t.args), units, 64)]


def concat(node: Node) -> list[Template]:
    """A unit is (part of) one row of the result: the axis and everything inside it."""
    y, axis = node.results[0], node.attrs["axis"]
    kind, size = BITS[y.dtype.size], y.dtype.size
    inside = product(y.shape[axis + 1 :])
    t = TextBuilder("concat")
    firsts = [node.operands.index(v) for v in node.operands]
    for i in sorted(set(firsts)):
        t.pointer(f"x{i}", "operand", i)
    t.pointer("out", "output")
    row: Extent = y.shape[axis] * inside
    t.add(0, "for u in range(start, stop):")
    parts, first, past = split_rows(t, 1, "w", row)
    t.add(1, f"r = {kind}(out + {scaled(t, 'w', row)} * {size})")
    base: Extent = 0
    for i, v in zip(firsts, node.operands, strict=True):
        length = v.shape[axis] * inside
        at = t.dim(base)
        t.add(1, f"q = {kind}(x{i} + {scaled(t, 'w', length)} * {size})")
        if parts == 1:
            t.add(1, f"for j in range({t.dim(length)}):\n    put(r, {at} + j, get(q, j))")
        else:
            t.add(1, f"for j in range(max({first}, {at}) - {at}, min({past}, {t.dim(base + length)}) - {at}):")
            t.add(2, f"put(r, {at} + j, get(q, j))")
        base = base + length
    units = product(y.shape[:axis]) * parts
    return [Template(t.source(), t.entry, tuple(t.args), units, grain(min(guess(row), 16384), 2))]


def pad(node: Node) -> list[Template]:
    """A unit is a row of the result along the last (merged) axis."""
    x, y, mode = node.operands[0], node.results[0], node.attrs["mode"]
    axes = _pad_axes(x.shape, node.attrs["low"], node.attrs["high"], mode)
    kind, size = BITS[y.dtype.size], y.dtype.size
    t = _builder("pad_" + mode)
    constant = mode == "constant"
    if constant and len(node.operands) == 2:
        t.pointer("value", "operand", 1)
        t.add(0, f"fill = {kind}(value)[0]")
    elif constant:
        t.add(0, f"fill = {BIT_ZERO[size]}")
    *outer, (n, low, high) = axes
    names = [f"i{a}" for a in range(len(outer))]
    t.add(0, "for u in range(start, stop):")
    parts: Extent = 1
    unit, first, past = "u", "0", ""
    if not cut().tiles:
        parts, first, past = split_rows(t, 1, "w", n + low + high)
        unit = "w"
    digits(t, 1, unit, [(name, a + m + b) for name, (m, a, b) in zip(names, outer, strict=True)], set(names))
    inside, terms = [], []
    stride = n
    for name, (m, a, b) in reversed(list(zip(names, outer, strict=True))):
        at, count = name, t.dim(m)
        if a != 0 or b != 0:
            t.add(1, f"{name}k = {name} - {t.dim(a)}")
            at = f"{name}k"
            if constant:
                inside.append(f"{at} >= 0 and {at} < {count}")
            else:
                _fold(t, 1, at, count, mode)
        terms.append(scaled(t, at, stride))
        stride = stride * m
    row, width = t.dim(n + low + high), t.dim(n)
    t.add(1, f"r = {kind}(out + {unit} * {row} * {size})")
    at = t.dim(low)
    depth = 1
    if inside:
        t.add(1, f"if {' and '.join(inside)}:")
        depth = 2
    t.add(depth, f"q = {kind}({address('x', total(terms), size)})")
    if past:
        t.add(depth, f"for j in range({first}, {past}):\n    k = j - {at}")
        if constant:
            t.add(depth + 1, f"if k >= 0 and k < {width}:\n    put(r, j, get(q, k))\nelse:\n    put(r, j, fill)")
        else:
            _fold(t, depth + 1, "k", width, mode)
            t.add(depth + 1, "put(r, j, get(q, k))")
        if inside:
            t.add(1, f"else:\n    for j in range({first}, {past}):\n        put(r, j, fill)")
        units = product(m + a + b for m, a, b in outer) * parts
        return [Template(t.source(), t.entry, tuple(t.args), units, 1)]
    edges = ((f"range(0, {at})", low), (f"range({at} + {width}, {row})", high))
    for text, extent in edges:
        if extent == 0:
            continue
        t.add(depth, f"for j in {text}:")
        if constant:
            t.add(depth + 1, "put(r, j, fill)")
        else:
            t.add(depth + 1, f"k = j - {at}")
            _fold(t, depth + 1, "k", width, mode)
            t.add(depth + 1, "put(r, j, get(q, k))")
    t.add(depth, f"for j in range({width}):\n    put(r, {at} + j, get(q, j))")
    if inside:
        t.add(1, f"else:\n    for j in range({row}):\n        put(r, j, fill)")
    units = product(m + a + b for m, a, b in outer)
    return [Template(t.source(), t.entry, tuple(t.args), units, grain(n + low + high, 2))]


def _fold(t: TextBuilder, indent: int, name: str, count: str, mode: str) -> None:
    """Bring the index ``name`` into ``[0, count)``, however far outside it is."""
    if mode == "edge":
        t.add(indent, f"{name} = min(max({name}, 0), {count} - 1)")
        return
    period, back = ("max(2 * ({0} - 1), 1)", "period") if mode == "reflect" else ("2 * {0}", "period - 1")
    t.add(indent, f"period = {period.format(count)}\n{name} = {name} % period")
    t.add(indent, f"{name} = {back} - {name} if {name} >= {count} else {name}")


def _pad_axes(
    shape: Sequence[Extent], low: Sequence[Extent], high: Sequence[Extent], mode: str
) -> list[tuple[Extent, Extent, Extent]]:
    """(extent, low, high) with unpadded axes merged into their outer neighbour where the mode's index map allows."""
    out: list[tuple[Extent, Extent, Extent]] = []
    for n, a, b in zip(shape, low, high, strict=True):
        if out and a == 0 and b == 0:
            m, c, d = out[-1]
            if mode == "constant" or (c == 0 and d == 0):
                out[-1] = (m * n, c * n, d * n)
                continue
        out.append((n, a, b))
    return out or [(1, 0, 0)]
