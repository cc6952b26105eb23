"""Kernels whose places are read from index tensors: gather, gather_nd, scatter_nd.

Owns clamping and bounds of run-time indices: no index value may lead outside a buffer.
"""

from __future__ import annotations

from dataclasses import replace

from ....core.dims import Extent, ceildiv, product
from ....ir.graph import Node, Value
from ..templates.template import Template, TextBuilder
from .copying import copy_of
from .nest import columns_of, flat_loop, grain, guess, scaled, split_rows, strides, total
from .refusal import NoKernel
from .scalar import BIT_ZERO, BITS, Reg, Scalars, load, pointer

_NAMES = {"add": "add", "mul": "mul", "max": "maximum", "min": "minimum"}
COLUMNS = 4096  # elements of a slice that one unit of a scatter owns


def _index(v: Value, element: str, saturate: bool = True) -> str:
    """An index element as i64; a huge unsigned one stays positive with ``saturate``."""
    if v.dtype.name == "u64" and saturate:
        return f"i64(min({element}, u64({2**62})))"
    return f"i64({element})"


def _clamped(t: TextBuilder, index: str, n: Extent) -> str:
    return f"min(max({index}, 0), {t.dim(n - 1)})"


def _maybe_empty(n: Extent) -> bool:
    return not isinstance(n, int) or n == 0


def gather(node: Node) -> list[Template]:
    """x as [batch, before, n, after], indices as [batch, taken]: a unit is a row of ``after`` or of ``taken``."""
    x, ind, y = *node.operands, node.results[0]
    axis, batch = node.attrs["axis"], node.attrs["batch_dims"]
    before, n, after = product(x.shape[batch:axis]), x.shape[axis], product(x.shape[axis + 1 :])
    lead, taken = product(x.shape[:batch]) * before, product(ind.shape[batch:])
    kind, size = BITS[y.dtype.size], y.dtype.size
    t = TextBuilder("gather")
    for name, role, index in (("x", "operand", 0), ("ind", "operand", 1), ("out", "output", 0)):
        t.pointer(name, role, index)  # type: ignore[arg-type]
    t.add(0, "for u in range(start, stop):")
    inner = taken if after == 1 else after
    parts, first, past = split_rows(t, 1, "row", inner)
    if after == 1:
        t.add(1, "w = row")
    else:
        t.add(1, f"w = row // {t.dim(taken)}\ni = row % {t.dim(taken)}")
    b = scaled(t, f"(w // {t.dim(before)})", taken) if batch else "0"
    t.add(1, f"r = {kind}(out + {scaled(t, 'row', inner)} * {size})")
    t.add(1, f"q = {kind}(x + {scaled(t, 'w', n * after)} * {size})")
    t.add(1, f"p = {pointer(ind.dtype)}(ind + ({b}) * {ind.dtype.size})")
    depth = 1
    if _maybe_empty(n):
        t.add(
            1, f"if {t.dim(n)} == 0:\n    for j in range({first}, {past}):\n        put(r, j, {BIT_ZERO[size]})\nelse:"
        )
        depth = 2
    if after == 1:
        t.add(depth, f"for j in range({first}, {past}):")
        t.add(depth + 1, f"k = {_clamped(t, _index(ind, 'p[j]'), n)}\nput(r, j, get(q, k))")
    else:
        t.add(depth, f"k = {_clamped(t, _index(ind, 'p[i]'), n)} * {t.dim(after)}")
        t.add(depth, f"for j in range({first}, {past}):\n    put(r, j, get(q, k + j))")
    units = lead * (taken if after != 1 else 1) * parts
    return [Template(t.source(), t.entry, tuple(t.args), units, grain(min(guess(inner), 16384), 3))]


def gather_nd(node: Node) -> list[Template]:
    """A unit is (part of) the slice that one index row names."""
    x, ind, y = *node.operands, node.results[0]
    batch, depth = node.attrs["batch_dims"], ind.shape[-1]
    assert isinstance(depth, int)
    inner = product(x.shape[batch + depth :])
    rows, per_batch = product(ind.shape[:-1]), product(ind.shape[batch:-1])
    own = strides(x.shape)
    kind, size = BITS[y.dtype.size], y.dtype.size
    t = TextBuilder("gather_nd")
    for name, role, index in (("x", "operand", 0), ("ind", "operand", 1), ("out", "output", 0)):
        t.pointer(name, role, index)  # type: ignore[arg-type]
    t.add(0, f"q = {kind}(x)\nr = {kind}(out)\np = {pointer(ind.dtype)}(ind)")
    single = inner == 1
    if single:
        units = flat_loop(t, rows)
        row, indent, first, past = "j", 1, "0", "1"
    else:
        t.add(0, "for u in range(start, stop):")
        parts, first, past = split_rows(t, 1, "row", inner)
        units, row, indent = rows * parts, "row", 1
    terms = [scaled(t, f"({row} // {t.dim(per_batch)})", product(x.shape[batch:]))] if batch else []
    for k in range(depth):
        index = _index(ind, f"p[{row} * {depth} + {k}]", saturate=False)
        terms.append(scaled(t, _clamped(t, index, x.shape[batch + k]), own[batch + k]))
    t.add(indent, f"k = {total(terms)}")
    indexed = product(x.shape[batch : batch + depth])
    if _maybe_empty(indexed):
        t.add(indent, f"empty = {t.dim(indexed)} == 0")
    if single:
        place, source = "j", "k"
    else:
        t.add(1, f"at = row * {t.dim(inner)}\nfor j in range({first}, {past}):")
        place, source, indent = "at + j", "k + j", 2
    if _maybe_empty(indexed):
        t.add(indent, f"if empty:\n    put(r, {place}, {BIT_ZERO[size]})\nelse:\n    put(r, {place}, get(q, {source}))")
    else:
        t.add(indent, f"put(r, {place}, get(q, {source}))")
    work = 64 if single else min(guess(inner), 16384)
    return [Template(t.source(), t.entry, tuple(t.args), units, grain(work, 3))]


def scatter_nd(node: Node) -> list[Template]:
    """A copy, then the updates in order; a unit owns a range of columns of every slice."""
    x, ind, _ = node.operands
    depth, how = ind.shape[-1], node.attrs["reduction"]
    assert isinstance(depth, int)
    if x.dtype.kind == "b" and how != "set":
        raise NoKernel("scatter_nd reductions need numbers")
    inner, rows = product(x.shape[depth:]), product(ind.shape[:-1])
    own = strides(x.shape)
    bits = how == "set"
    kind = BITS[x.dtype.size] if bits else pointer(x.dtype)
    t = TextBuilder("scatter_nd")
    for name, role, index in (("ind", "operand", 1), ("updates", "operand", 2), ("out", "output", 0)):
        t.pointer(name, role, index)  # type: ignore[arg-type]
    t.add(0, f"r = {kind}(out)\nq = {kind}(updates)\np = {pointer(ind.dtype)}(ind)")
    wide = columns_of(COLUMNS)
    t.add(0, f"c0 = start * {wide}\nc1 = min(stop * {wide}, {t.dim(inner)})")
    t.add(0, f"for row in range({t.dim(rows)}):")
    terms, inside = [], []
    for k in range(depth):
        t.add(1, f"i{k} = i64(p[row * {depth} + {k}])")
        inside.append(f"i{k} >= 0 and i{k} < {t.dim(x.shape[k])}")
        terms.append(scaled(t, f"i{k}", own[k]))
    indent = 1
    if inside:
        t.add(1, f"if {' and '.join(inside)}:")
        indent = 2
    t.add(indent, f"at = {total(terms)}\nfrom_ = row * {t.dim(inner)}\nfor j in range(c0, c1):")
    if bits:
        t.add(indent + 1, "r[at + j] = q[from_ + j]")
    else:
        scalars, lines = Scalars(), []
        a = scalars.hold(lines, load(x.dtype, "r[at + j]"), x.dtype)
        b = scalars.hold(lines, load(x.dtype, "q[from_ + j]"), x.dtype)
        out: Reg = scalars.call(lines, _NAMES[how], [a, b])
        for line in lines:
            t.add(indent + 1, line)
        t.add(indent + 1, f"r[at + j] = {out.stored}")
    units = ceildiv(inner, wide)
    update = Template(t.source(), t.entry, tuple(t.args), units, 1)
    return [copy_of(x.type, guard=True), replace(update, overwrites=frozenset({0}))]


__all__ = ["gather", "gather_nd", "scatter_nd"]
