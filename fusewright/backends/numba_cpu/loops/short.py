"""Softmax and log_softmax of rows too short for vectors of their own: vectors go across rows.

Owns the turning of a group of rows in scratch. A row's bits depend on that row alone, not on its neighbours.
"""

from __future__ import annotations

from ....core.dims import Extent, ceildiv
from ....core.dtypes import F32, F64, DType
from ....ir.graph import Node
from ..lines import tile_side
from ..templates.template import Template, TextBuilder
from ..templates.units import units
from .nest import grain
from .scalar import load, pointer, register, store

ROWS = 64  # of a group: a whole number of vectors, and what scratch holds of them fits the first-level cache
SHORT = 48  # elements from which a row fills vectors of its own
FEW = 8  # elements of a row up to which LLVM's own interleaved accesses are faster than tiles


def fits(before: Extent, n: Extent) -> bool:
    """Vectors along rows of ``n`` elements would be too short, and there are rows to go across."""
    return units().lanes and isinstance(n, int) and 1 < n < SHORT and not (isinstance(before, int) and before < 4)


def softmax(node: Node, before: Extent, n: int) -> Template:
    """Element ``i`` of row ``l`` of a group waits at ``i * ROWS + l``."""
    dt, log = node.operands[0].dtype, node.op.name == "log_softmax"
    reg, ptr, size = register(dt), pointer(dt), dt.size
    t = TextBuilder(f"{node.op.name}_short")
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    t.add(0, f"kept = p{reg}(scratch)\ntops = p{reg}(scratch + {n * ROWS * 8})")
    t.add(0, f"sums = p{reg}(scratch + {(n + 1) * ROWS * 8})")
    t.add(0, f"for u in range(start, stop):\n    count = min({ROWS}, {t.dim(before)} - u * {ROWS})")
    rows, member = "for l in range(count):", f"for i in range({n}):"
    t.add(1, f"q = {ptr}(x + u * {ROWS * n * size})\nr = {ptr}(out + u * {ROWS * n * size})")
    at = f"kept[i * {ROWS} + l]"
    load_it = f"put(kept, i * {ROWS} + l, {load(dt, f'get(q, l * {n} + i)')})"
    _turn(t, dt, n, load_it, "q, {row}, {n}, kept, {column}, {ROWS}", inwards=True)
    t.add(1, f"{rows}\n    put(tops, l, kept[l])\n    put(sums, l, {reg}(0.0))")
    t.add(1, f"for i in range(1, {n}):\n    {rows}")
    # NaN is not looked for here: the sum of exponentials that follows finds it.
    t.add(3, f"v = {at}\nput(tops, l, select(v > tops[l], v, tops[l]))")
    t.add(1, f"{member}\n    {rows}")
    value, term = ("kept[j] - tops[l]", "exp(v)") if log else ("exp(kept[j] - tops[l])", "v")
    t.add(3, f"j = i * {ROWS} + l\nv = {value}\nput(kept, j, v)\nput(sums, l, sums[l] + {term})")
    t.add(1, f"{rows}\n    put(sums, l, {'log(sums[l])' if log else f'{reg}(1.0) / sums[l]'})")
    t.add(1, f"{member}\n    {rows}")
    t.add(3, f"j = i * {ROWS} + l\nput(kept, j, kept[j] {'-' if log else '*'} sums[l])")
    store_it = f"put(r, l * {n} + i, {store(dt, at)})"
    _turn(t, dt, n, store_it, "kept, {column}, {ROWS}, r, {row}, {n}", inwards=False)
    flops = node.op.cost(node).flops if node.op.cost is not None else 0
    return Template(
        t.source(), t.entry, tuple(t.args), ceildiv(before, ROWS), grain(n * ROWS, 12), (n + 2) * ROWS * 8, flops,
        frozenset(), frozenset({0}),
    )  # fmt: skip


def _turn(t: TextBuilder, dt: DType, n: int, move: str, where: str, inwards: bool) -> None:
    """All elements of the group's rows by ``move``, those of whole tiles of rows through registers."""
    t.add(1, "done = 0")
    if dt in (F32, F64) and n > FEW:
        side = tile_side(dt.size)
        t.add(1, f"done = count // {side} * {side}\nfor l in range(0, done, {side}):")
        for i in range(0, n, side):
            part = min(side, n - i)
            args = where.format(row=f"l * {n} + {i}", n=n, column=f"{i * ROWS} + l", ROWS=ROWS)
            t.add(2, f"transpose_part({args}, {f'{side}, {part}' if inwards else f'{part}, {side}'})")
    t.add(1, f"for l in range(done, count):\n    for i in range({n}):\n        {move}")
