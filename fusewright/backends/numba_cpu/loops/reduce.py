"""Reductions over any axes, with an elementwise prologue, and argmax/argmin.

Owns their loops. The order in which elements are joined depends on the reduced extents alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ....core.dims import Extent, product
from ....core.dtypes import BOOL, F64, DType
from ....ir.graph import Graph, Node, Value
from ..templates.template import Template, TextBuilder
from .lanes import Lanes
from .nest import Axis, accumulators, column_bytes, digits, grain, guess, scaled, shared_row, split_rows, unit_loop
from .refusal import NoKernel
from .region import Elements, as_graph, first_operands
from .scalar import extreme, literal, load, lowest, pointer, register, store

COLUMNS = 256  # accumulators of one unit where the last axis stays


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one reduction of one dtype accumulates."""

    acc: str
    init: str
    take: Callable[[str], str]
    combine: Callable[[str, str], str]
    give: Callable[[str], str]


def _kind(name: str, dt: DType, count: str) -> _Kind:
    if name in ("any", "all"):
        sign, init = ("|", "u8(0)") if name == "any" else ("&", "u8(1)")
        return _Kind("u8", init, lambda v: f"u8({v})", lambda a, b: f"u8({a} {sign} {b})", lambda a: a)
    if name in ("max", "min"):
        word = "maximum" if name == "max" else "minimum"
        return _Kind(
            register(dt),
            lowest(dt, name == "min"),
            lambda v: v,
            lambda a, b: extreme(word, dt, a, b),
            lambda a: store(dt, a),
        )
    sign, unit = ("*", 1) if name == "prod" else ("+", 0)
    if dt.is_int:
        return _Kind(
            "i64",
            f"i64({unit})",
            lambda v: f"i64({v})",
            lambda a, b: f"i64(u64({a}) {sign} u64({b}))",  # signed, an overflow would be undefined
            lambda a: f"{dt.name}({a})",
        )
    acc = "f64" if dt is F64 else "f32"
    tail = f" / {acc}({count})" if name == "mean" else ""
    return _Kind(
        acc, f"{acc}({unit}.0)", lambda v: v, lambda a, b: f"({a} {sign} {b})", lambda a: store(dt, f"({a}{tail})")
    )


def _root(graph: Graph) -> tuple[Value, Node]:
    """The value that is reduced and the reduction, of a plain or fused node."""
    if len(graph.outputs) != 1 or not graph.outputs[0].producer.op.name.startswith("reduce_"):
        raise NoKernel("a fused reduction must end in one reduction")
    return graph.outputs[0].producer.operands[0], graph.outputs[0].producer


def can(node: Node) -> bool:
    try:
        reduce(node)
    except NoKernel:
        return False
    return True


def reduce(node: Node) -> list[Template]:
    graph = as_graph(node)
    root, last = _root(graph)
    region = Elements(graph, first_operands(node), [root], root.shape)
    axes = region.collapse([i in last.attrs["axes"] for i in range(root.rank)])
    if not axes:
        none = tuple(False for _ in region.streams)
        axes = region.axes = [Axis(1, (none, tuple(-1 for _ in region.iotas), False))]
    t = TextBuilder(last.op.name)
    for i, s in enumerate(region.streams):
        t.pointer(f"a{i}", "operand", s.operand)
    t.pointer("out", "output")
    count = product(a.extent for a in axes if a.flags[2])
    kind = _kind(last.op.name[7:], root.dtype, t.dim(count))
    names = [f"i{a}" for a in range(len(axes))]
    value = region.emit(names, "get", t.dim)[0].text
    needed = {names[a] for a in region.digits_needed(False)}
    outer = list(range(len(axes) - 1))
    kept = [(names[a], axes[a].extent) for a in outer if not axes[a].flags[2]]
    gone = [(names[a], axes[a].extent) for a in outer if axes[a].flags[2]]
    dt = last.results[0].dtype
    inner = axes[-1].extent
    together = bool(axes[-1].flags[2]) and shared_row(inner)
    t.add(0, f"r = {'pu8' if dt is BOOL else pointer(dt)}(out)\n{unit_loop(together)}")
    work = region.weight + len(region.streams) + 1

    def rows(indent: int) -> int:
        """Open the loop over the outer reduced axes and point at the row; returns the indent inside."""
        if gone:
            t.add(indent, f"for w in range({t.dim(product(e for _, e in gone))}):")
            digits(t, indent + 1, "w", gone, needed)
            indent += 1
        region.row_pointers(t, indent, None, names)
        for line in region.row_lines:
            t.add(indent, line)
        return indent

    if axes[-1].flags[2]:
        lanes = Lanes("acc", kind.acc, inner, 0, kind.init, kind.combine, together)
        digits(t, 1, "u", kept, needed)
        lanes.open(t, 1)
        lanes.loop(t, rows(1), region.lines, kind.take(value))
        total = lanes.close(t, 1)
        t.add(1, f"if lane == 0:\n    r[u] = {kind.give(total)}" if together else f"r[u] = {kind.give(total)}")
        units: Extent = product(e for _, e in kept)
        return [
            Template(
                t.source(), t.entry, tuple(t.args), units, grain(guess(count, 1024), work), lanes.scratch_bytes,
                last.op.cost(last).flops if last.op.cost else 0, warps=together,
            )
        ]  # fmt: skip
    parts, first, past = split_rows(t, 1, "row", inner, COLUMNS)
    digits(t, 1, "row", kept, needed)
    t.add(1, f"acc = {accumulators(kind.acc)}")
    at = "j" if first == "0" else f"j - {first}"
    t.add(1, f"for j in range({first}, {past}):\n    put(acc, {at}, {kind.init})")
    indent = rows(1)
    t.add(indent, f"for j in range({first}, {past}):")
    for line in region.lines:
        t.add(indent + 1, line)
    t.add(indent + 1, f"put(acc, {at}, {kind.combine(f'acc[{at}]', kind.take(value))})")
    t.add(
        1,
        f"o = {scaled(t, 'row', inner)}\nfor j in range({first}, {past}):\n"
        f"    put(r, o + j, {kind.give(f'acc[{at}]')})",
    )
    units = product(e for _, e in kept) * parts
    elements = guess(count, 64) * min(guess(inner), COLUMNS)
    flops = last.op.cost(last).flops if last.op.cost else 0
    return [Template(t.source(), t.entry, tuple(t.args), units, grain(elements, work), column_bytes(1, COLUMNS), flops)]


def _joined(word: str, dt: DType) -> Callable[[str, str], str]:
    if dt is BOOL:
        return lambda a, b: f"{word}({a}, {b})"
    return lambda a, b: extreme(word, dt, a, b)


def extreme_position(node: Node) -> list[Template]:
    """argmax and argmin over [before, n, after]: the first extreme, the first NaN if there is one."""
    x, axis = node.operands[0], node.attrs["axis"]
    n, after = x.shape[axis], product(x.shape[axis + 1 :])
    before, dt = product(x.shape[:axis]), x.dtype
    sign = ">" if node.op.name == "argmax" else "<"
    t = TextBuilder(node.op.name)
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    together = after == 1 and shared_row(n)
    t.add(0, f"r = pi64(out)\n{unit_loop(together)}")
    if dt is BOOL:
        kind, take = "u8", "{}"
    else:
        kind, take = register(dt), load(dt, "{}")
    better = f"(v {sign} best)"
    if dt.is_float:
        better = f"({better} | ((v != v) & (best == best)))"
    count, ptr = t.dim(n), pointer(dt)
    if after == 1:
        # The extreme first, NaN included, then the least position that holds it: both passes run in vectors.
        word = "maximum" if node.op.name == "argmax" else "minimum"
        init = ("u8(0)" if sign == ">" else "u8(255)") if dt is BOOL else lowest(dt, sign == "<")
        top = Lanes("top", kind, n, 0, init, _joined(word, dt), together)
        least = lambda a, b: f"minimum({a}, {b})"
        place = Lanes("place", "i64", n, 1024, f"i64({2**62})", least, together)
        t.add(1, f"q = {ptr}(x + u * {count} * {dt.size})")
        top.open(t, 1)
        top.loop(t, 1, [f"v = {take.format('get(q, j)')}"], "v")
        top.close(t, 1)
        place.open(t, 1)
        hit = "(v == top) | (v != v)" if dt.is_float else "v == top"
        place.loop(t, 1, [f"v = {take.format('get(q, j)')}"], f"select({hit}, j, i64({2**62}))")
        found = place.close(t, 1)
        t.add(1, f"if lane == 0:\n    put(r, u, {found})" if together else f"put(r, u, {found})")
        chunk = grain(guess(n, 512), 4)
        return [
            Template(t.source(), t.entry, tuple(t.args), before, chunk, place.scratch_bytes, warps=together)
        ]  # fmt: skip
    parts, first, past = split_rows(t, 1, "row", after, COLUMNS)
    width = t.dim(after)
    zero = literal(dt, 0) if dt is not BOOL else "u8(0)"
    t.add(
        1, f"bests = {accumulators(kind)}\nplaces = {accumulators('i64', 8 * COLUMNS)}\nbase = row * {count} * {width}"
    )
    t.add(1, f"q = {ptr}(x + base * {dt.size})\nfor j in range({first}, {past}):")
    t.add(2, f"places[j - {first}] = 0\nbests[j - {first}] = {take.format('q[j]')} if {count} > 0 else {zero}")
    t.add(1, f"for i in range(1, {count}):\n    q = {ptr}(x + (base + i * {width}) * {dt.size})")
    t.add(2, f"for j in range({first}, {past}):")
    t.add(3, f"v = {take.format('q[j]')}\nbest = bests[j - {first}]\nwins = {better}")
    t.add(3, f"places[j - {first}] = select(wins, i, places[j - {first}])\nbests[j - {first}] = select(wins, v, best)")
    t.add(1, f"for j in range({first}, {past}):\n    r[row * {width} + j] = places[j - {first}]")
    elements = guess(n, 64) * min(guess(after), COLUMNS)
    return [Template(t.source(), t.entry, tuple(t.args), before * parts, grain(elements, 4), column_bytes(2, COLUMNS))]
