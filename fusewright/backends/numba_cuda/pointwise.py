"""Elementwise regions of GPUs, 16 bytes of each operand per thread and access.

Owns which regions can be read so, and their loops. The statements of an element are the CPU's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...core.dims import ceildiv, product
from ...ir.graph import Node, Value
from ..numba_cpu.loops.nest import digits, scaled
from ..numba_cpu.loops.refusal import NoKernel
from ..numba_cpu.loops.region import Elements, as_graph, first_operands
from ..numba_cpu.loops.scalar import pointer
from ..numba_cpu.templates.template import Template, TextBuilder

WIDE = 16  # bytes of one access
_READ = re.compile(r"\bget\(q(\d+), j\)")
_NAME = re.compile(r"[A-Za-z_]\w*")


def pointwise(node: Node, wide: Callable[[Value], bool]) -> Template | None:
    """The kernel of an elementwise node whose every value begins where 16 bytes can be read (``wide``), or None."""
    try:
        return _pointwise(node, wide)
    except NoKernel:
        return None


def _pointwise(node: Node, wide: Callable[[Value], bool]) -> Template | None:
    graph, firsts = as_graph(node), first_operands(node)
    if len(graph.outputs) != 1:
        return None
    region = Elements(graph, firsts, graph.outputs, graph.outputs[0].shape)
    axes = region.collapse()
    out = graph.outputs[0]
    moving = [i for i in range(len(region.streams)) if region.inner_step(i) != 0]
    sizes = {out.dtype.size, *(region.streams[i].dtype.size for i in moving)}
    size = sizes.pop()
    # With one element size for all, the places of 16 bytes are the same in each of them.
    if sizes or size not in (2, 4) or any(region.streams[i].shape for i in moving) or not wide(node.results[0]):
        return None
    if not all(wide(node.operands[region.streams[i].operand]) for i in moving):
        return None
    count = WIDE // size
    inner = axes[-1].extent if axes else 1
    if len(axes) > 1 and (not isinstance(inner, int) or inner % count):
        return None
    t = TextBuilder("pointwise")
    for i, s in enumerate(region.streams):
        t.pointer(f"a{i}", "operand", s.operand)
    t.pointer("o", "output")
    names = [f"i{a}" for a in range(len(axes))]
    result = region.emit(names, "get", t.dim)[0].stored

    def body(indent: int) -> None:
        for line in (*region.lines, f"put(r, j, {result})"):
            t.add(indent, line)

    own = {line.partition(" = ")[0] for line in region.lines}

    def copy(text: str, e: int) -> str:
        """``text`` for element ``first + e``, its names apart from those of the others."""
        text = _READ.sub(lambda m: f"w{m[1]}[{e}]", text)
        return _NAME.sub(lambda m: f"{m[0]}_{e}" if m[0] in own else f"(first + {e})" if m[0] == "j" else m[0], text)

    def bodies(indent: int) -> None:
        for i in moving:
            t.add(indent, f"w{i} = get{count}(q{i}, first)")
        for e in range(count):
            for line in (*region.lines, f"out{e} = {result}"):
                t.add(indent, copy(line, e))
        t.add(indent, f"put{count}(r, first, ({', '.join(f'out{e}' for e in range(count))}))")

    def pointers(indent: int, row: str | None) -> None:
        for i, stream in enumerate(region.streams):
            t.add(indent, f"q{i} = {pointer(stream.dtype)}({region.row_address(t, i, row, names)})")
        at = "o" if row is None else f"o + {scaled(t, row, inner)} * {size}"
        t.add(indent, f"r = {pointer(out.dtype)}({at})")
        for line in region.row_lines:
            t.add(indent, line)

    if len(axes) <= 1:
        pointers(0, None)
        total = t.dim(product(a.extent for a in axes))
        t.add(0, f"for u in range(start, stop):\n    first = u * {count}\n    if first + {count} <= {total}:")
        bodies(2)
        t.add(1, f"else:\n    for j in range(first, {total}):")
        body(3)
        units = ceildiv(product(a.extent for a in axes), count)
    else:
        parts = inner // count
        t.add(0, f"for u in range(start, stop):\n    row = u // {parts}\n    first = u % {parts} * {count}")
        needed = {names[a] for a in region.digits_needed(True)}
        digits(t, 1, "row", [(names[a], axes[a].extent) for a in range(len(axes) - 1)], needed)
        pointers(1, "row")
        bodies(1)
        units = product(a.extent for a in axes[:-1]) * parts
    flops = node.op.cost(node).flops if node.op.cost is not None else 0
    return Template(t.source(), t.entry, tuple(t.args), units, 1, 0, flops)
