"""Kernels of elementwise ops, elementwise composites and fused regions of them.

Owns the loops around a region's statements. Must not know any particular op.
"""

from __future__ import annotations

from ....core.dims import Extent, ceildiv, product
from ....ir.graph import Node
from ..templates.template import Template, TextBuilder
from ..templates.units import units as cut
from .nest import CHUNK, digits, flat_loop, grain, guess, scaled, split_rows
from .refusal import NoKernel
from .region import Elements, as_graph, first_operands
from .scalar import pointer
from .sink import BLOCK, Sink

LONG = 1024  # elements of a row that is worth streaming
LIGHT = 12.0  # operations per element that leave memory the narrower way


def elementwise(node: Node) -> list[Template]:
    """One pass over the results' common shape; each value of the region is computed once per element."""
    graph, firsts = as_graph(node), first_operands(node)
    shape = graph.outputs[0].shape
    region = Elements(graph, firsts, graph.outputs, shape)
    axes = region.collapse()
    outs = graph.outputs
    # With one result every load feeds the store of its own place, so that ``get`` and ``put`` tell no lie.
    single = len(outs) == 1
    t = TextBuilder("elementwise")
    for i, s in enumerate(region.streams):
        t.pointer(f"a{i}", "operand", s.operand)
    for i in range(len(outs)):
        t.pointer(f"o{i}", "output", i)
    names = [f"i{a}" for a in range(len(axes))]
    results = region.emit(names, "get" if single else "", t.dim)
    work = region.weight + len(region.streams) + len(outs)
    rows = product(a.extent for a in axes[:-1])

    def body(indent: int) -> None:
        for line in region.lines:
            t.add(indent, line)
        for i, reg in enumerate(results):
            t.add(indent, f"put(r{i}, j, {reg.stored})" if single else f"r{i}[j] = {reg.stored}")

    light = single and work <= LIGHT
    sink = Sink(outs[0].type.nbytes, 0, BLOCK if light and (len(axes) <= 1 or _long(axes[-1].extent)) else 0)
    sink.decide(t)
    if len(axes) <= 1:
        region.row_pointers(t, 0, None, names)
        for line in region.row_lines:
            t.add(0, line)
        size = product(a.extent for a in axes)
        if single:
            line = cut().line
            t.add(0, f"lo = start * {line}\nhi = min(stop * {line}, {t.dim(size)})")
            sink.blocks(t, 0, "lo", "hi", (pointer(outs[0].dtype), "o0", outs[0].dtype.size), body)
            units = ceildiv(size, line)
        else:
            for i, v in enumerate(outs):
                t.add(0, f"r{i} = {pointer(v.dtype)}(o{i})")
            units = flat_loop(t, size)
            body(1)
        chunk = max(1, int(CHUNK / work / cut().line))
    else:
        inner = axes[-1].extent
        t.add(0, "for u in range(start, stop):")
        parts, first, past = split_rows(t, 1, "r", inner)
        needed = {names[a] for a in region.digits_needed(True)}
        digits(t, 1, "r", [(names[a], axes[a].extent) for a in range(len(axes) - 1)], needed)
        region.row_pointers(t, 1, "r", names)
        at = [f"o{i} + {scaled(t, 'r', inner)} * {v.dtype.size}" for i, v in enumerate(outs)]
        for line in region.row_lines:
            t.add(1, line)
        if single:
            sink.blocks(t, 1, first, past, (pointer(outs[0].dtype), at[0], outs[0].dtype.size), body)
        else:
            for i, v in enumerate(outs):
                t.add(1, f"r{i} = {pointer(v.dtype)}({at[i]})")
            t.add(1, f"for j in range({first}, {past}):")
            body(2)
        units = rows * parts
        chunk = grain(min(guess(inner), 16384), work)
    sink.when(t, 0, "streamed()")
    sizes = {v.dtype.size for v in outs}
    full = {s.operand for i, s in enumerate(region.streams) if region.is_full(i) and {s.dtype.size} == sizes}
    broadcast = {s.operand for i, s in enumerate(region.streams) if not region.is_full(i)}
    shared = frozenset(i for i, f in enumerate(firsts) if f in full - broadcast)
    flops = node.op.cost(node).flops if node.op.cost is not None else 0
    return [Template(t.source(), t.entry, tuple(t.args), units, chunk, sink.scratch_bytes, flops, frozenset(), shared)]


def _long(inner: Extent) -> bool:
    """Rows of ``inner`` elements are worth streaming."""
    return isinstance(inner, int) and inner >= LONG


def can(node: Node) -> bool:
    """Whether the region has a scalar form throughout."""
    try:
        graph = as_graph(node)
        region = Elements(graph, first_operands(node), graph.outputs, graph.outputs[0].shape)
        region.collapse()
        region.emit([f"i{a}" for a in range(len(region.axes))], "get")
    except NoKernel:
        return False
    return True
