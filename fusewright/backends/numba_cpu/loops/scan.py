"""Running sums and products along an axis.

Owns their loops: sequential along the axis, in vectors across it.
"""

from __future__ import annotations

from ....core.dims import product
from ....core.dtypes import BF16, F16, F32
from ....ir.graph import Node
from ..templates.template import Template, TextBuilder
from .nest import accumulators, column_bytes, grain, guess, split_rows
from .scalar import Reg, Scalars, literal, load, pointer, register, store

COLUMNS = 256


def cumulative(node: Node) -> list[Template]:
    x, axis = node.operands[0], node.attrs["axis"]
    n, after, before = x.shape[axis], product(x.shape[axis + 1 :]), product(x.shape[:axis])
    dt, exclusive = x.dtype, node.attrs["exclusive"]
    name, unit = ("add", 0) if node.op.name == "cumsum" else ("mul", 1)
    size, ptr = dt.size, pointer(dt)
    t = TextBuilder(node.op.name)
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    count = t.dim(n)
    step = f"{count} - 1 - s" if node.attrs["reverse"] else "s"
    scalars, lines = Scalars(), []
    wide = F32 if dt in (F16, BF16) else dt  # 16-bit floats round on the way out only

    def joined(acc: str, element: str) -> Reg:
        v = scalars.hold(lines, load(dt, element), wide)
        return scalars.call(lines, name, [Reg(acc, wide), v])

    t.add(0, "for u in range(start, stop):")
    if after == 1:
        new = joined("acc", "q[i]")
        t.add(
            1, f"q = {ptr}(x + u * {count} * {size})\nr = {ptr}(out + u * {count} * {size})\nacc = {literal(dt, unit)}"
        )
        t.add(1, f"for s in range({count}):\n    i = {step}")
        for line in lines:
            t.add(2, line)
        t.add(2, f"r[i] = {store(dt, 'acc' if exclusive else new.text)}\nacc = {new.text}")
        return [
            Template(
                t.source(), t.entry, tuple(t.args), before, grain(guess(n, 512), 4), 0, node.op.cost(node).flops
                if node.op.cost else 0, frozenset(), frozenset({0}),
            )
        ]  # fmt: skip
    width = t.dim(after)
    parts, first, past = split_rows(t, 1, "row", after, COLUMNS)
    t.add(
        1,
        f"acc = {accumulators(register(dt))}\nfor j in range({first}, {past}):\n"
        f"    acc[j - {first}] = {literal(dt, unit)}",
    )
    t.add(1, f"for s in range({count}):\n    i = {step}\n    base = (row * {count} + i) * {width}")
    t.add(2, f"q = {ptr}(x + base * {size})\nr = {ptr}(out + base * {size})\nfor j in range({first}, {past}):")
    # An exclusive result is not computed from the element in its place: it may not use get and put.
    new = joined("held", "q[j]" if exclusive else "get(q, j)")
    t.add(3, f"held = acc[j - {first}]")
    for line in lines:
        t.add(3, line)
    t.add(3, f"r[j] = {store(dt, 'held')}" if exclusive else f"put(r, j, {store(dt, new.text)})")
    t.add(3, f"acc[j - {first}] = {new.text}")
    elements = guess(n, 64) * min(guess(after), COLUMNS)
    return [
        Template(
            t.source(), t.entry, tuple(t.args), before * parts, grain(elements, 3), column_bytes(1, COLUMNS),
            node.op.cost(node).flops if node.op.cost else 0, frozenset(), frozenset({0}),
        )
    ]  # fmt: skip
