"""Kernel text for a contraction whose result is read in equal parts: gates of recurrent cells, gated linear units.

Owns the tiles of all parts of a block and the loop over their elements. Must not know what the gates compute.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....core.dims import ceildiv
from ....core.dtypes import DType
from ....core.layout import Layout, Move
from ....ir.graph import Graph, Value
from ..templates.epilogue import NONE
from ..templates.matmul import MatmulPlan, MatmulText
from ..templates.template import Template, contract_call, round_call, split_rows
from ..templates.tiling import FEWEST_ROWS, grain_of
from ..variants import Variant
from .nest import digits, scaled
from .region import Elements
from .scalar import pointer

MAX_ROWS = 24  # rows of a block: all parts of it stay in the first-level cache
ELEMENT_FLOPS = 8  # of one element's operation, in operations of the contraction


@dataclass(frozen=True, slots=True)
class Gated:
    """A region without its contraction: ``graph`` computes the outputs from ``result`` (its input in place of the
    contraction's result, ``parts`` times ``width`` columns) and the other inputs, region input i being input i."""

    graph: Graph
    result: Value
    parts: int
    width: int


def gated_layout(shape: tuple[int, ...], parts: int, nr: int, transposed: bool) -> Layout:
    """``[K, parts * width]`` (``[parts * width, K]`` when transposed) as ``[parts, panels, K, nr]``, zero padded."""
    k, n = (shape[1], shape[0]) if transposed else shape
    width = n // parts
    panels = -(-width // nr)
    moves: list[Move] = [("transpose", (1, 0))] if transposed else []
    moves += [
        ("reshape", (k, parts, width)),
        ("pad", (k, parts, panels * nr)),
        ("reshape", (k, parts, panels, nr)),
        ("transpose", (1, 2, 0, 3)),
    ]
    return Layout(shape, moves)


def gated(variant: Variant, dtype: DType, plan: MatmulPlan, region: Gated, entry: str = "gated") -> Template:
    """``outputs = f(a @ w, others)`` where the product is read as ``parts`` parts of ``width`` columns.

    A unit is one block of rows and one panel of columns of every part. Arguments: ``a``, ``w`` (packed by
    ``gated_layout``), the outputs, then the others' streams and integers.
    """
    return _Gated(variant, dtype, plan, region, entry).template()


class _Gated(MatmulText):
    rounds_apart = False

    def __init__(self, variant: Variant, dtype: DType, plan: MatmulPlan, region: Gated, entry: str) -> None:
        super().__init__(variant, dtype, plan, NONE, entry)
        self.region, self.chunk = region, 0
        self.block = self.tile.rows * max(1, MAX_ROWS // self.tile.rows)
        if isinstance(plan.m, int):
            self.block = min(self.block, max(plan.m, 1))
        graph = region.graph
        shape = graph.outputs[0].shape
        self.elements = Elements(graph, list(range(len(graph.inputs))), graph.outputs, shape)
        self.elements.collapse([None] * (len(shape) - 1) + ["columns"])
        for i in range(1, len(graph.outputs)):
            self.text.pointer(f"o{i}", "output", i)
        self.at = graph.inputs.index(region.result)
        for i, stream in enumerate(self.elements.streams):
            if stream.operand != self.at:
                self.text.pointer(f"a{i}", "extra", stream.operand)

    def template(self) -> Template:
        t, plan, columns, parts = self.text, self.plan, self.tile.columns, self.region.parts
        outs = self.region.graph.outputs
        panels = -(-self.region.width // columns)
        row_blocks = t.dim(ceildiv(plan.m, self.block))
        t.add(0, "for u in range(start, stop):")
        t.add(1, f"rb = u % {row_blocks}\np = u // {row_blocks}")
        t.add(1, f"m0 = rb * {self.block}\nrows = min({self.block}, {self.m} - m0)\nn0 = p * {columns}")
        t.add(1, f"cols = min({columns}, {self.region.width} - n0)")
        self.places = (parts * self.block + len(outs)) * columns * self.size
        if plan.pairs:  # by each unit: rows are few, and its products many
            t.add(1, f"rounded = scratch + {self.places}")
            source = f"a + m0 * {self.k} * {2 * self.size}"
            t.add(1, round_call({"x": source, "y": "rounded", "count": f"rows * {self.k} * 2"}))
        t.add(1, f"for g in range({parts}):")
        self._part(2, panels)
        self._elements(1)
        streams = [(s, self.elements.is_full(i)) for i, s in enumerate(self.elements.streams)]
        full = {s.operand for s, whole in streams if whole and s.dtype.size == self.size and s.operand != self.at}
        other = {s.operand for s, whole in streams if not whole}
        flops = (4 if plan.pairs else 2) * plan.m * plan.n * plan.k
        work = self.elements.weight * ELEMENT_FLOPS
        products = 2 * parts * (plan.k if isinstance(plan.k, int) else 512)
        per_unit = columns * (max(self.block, FEWEST_ROWS) * products + self.block * int(work))
        scratch = self.places + (self.block * plan.k * self.size if plan.pairs else 0)
        return Template(
            t.source(), t.entry, tuple(t.args), panels * ceildiv(plan.m, self.block),
            grain_of(per_unit), scratch, flops, frozenset(), frozenset(full - other),
        )  # fmt: skip

    def _part(self, indent: int, panels: int) -> None:
        """The product's columns of part ``g``, into scratch."""
        plan, t, size, tallest, columns = self.plan, self.text, self.size, self.tile.rows, self.tile.columns
        t.add(indent, f"tiles = (rows + {tallest - 1}) // {tallest}\nr0 = 0")
        t.add(indent, f"wt = w + (g * {panels} + p) * {self.k} * {columns * size}")
        t.add(indent, "for t in range(tiles):")
        indent += 1
        t.add(indent, "h = (rows + t) // tiles")
        row, step = ("1", self.m) if plan.lhs_transposed else (self.k, "1")
        t.add(indent, f"at = rounded + r0 * {row} * {size}" if plan.pairs else f"at = a + (m0 + r0) * {row} * {size}")
        values: dict[str, int | str] = {
            "out": "scratch", "off": f"(g * {self.block} + r0) * {columns}", "ch": 0, "a": "at", "w": "wt",
            "cols": columns, "ak": step, "wk": columns, "a_px": row, "o_px": columns,
            **self._sums(self.k, step, str(columns)),
            "DT": size, "W": self.tile.width, "NV": self.tile.vectors, "TAIL": 0, "EPI": 0,
            "DOT": int(plan.pairs),
        }  # fmt: skip
        heights = self._heights()
        for i, height in enumerate(heights):
            if len(heights) > 1:
                t.add(indent, f"{'if' if i == 0 else 'elif'} h == {height}:")
            t.add(indent + (len(heights) > 1), contract_call(values | {"P": height}))
        t.add(indent, "r0 += h")

    def _heights(self) -> list[int]:
        """Every tile height that can occur."""
        m = self.plan.m
        if not isinstance(m, int):
            return list(range(self.tile.rows, 0, -1))
        blocks = {min(self.block, m)} | ({m % self.block} if m else set())
        return sorted({h for rows in blocks if rows for h in split_rows(rows, self.tile.rows)} or {1}, reverse=True)

    def _elements(self, indent: int) -> None:
        """The rest of the region, row by row. With several outputs each row is finished in scratch before any of it
        is written, so that an output may lie where an operand lies."""
        t, size, columns, region = self.text, self.size, self.tile.columns, self.elements
        outs = self.region.graph.outputs
        axes = region.axes
        names = [f"i{a}" for a in range(len(axes))]
        results = region.emit(names, "get", t.dim)
        t.add(indent, "for r_ in range(rows):")
        indent += 1
        t.add(indent, "row = m0 + r_")
        digits(t, indent, "row", [(names[a], axes[a].extent) for a in range(len(axes) - 1)],
               {names[a] for a in region.digits_needed(False)})  # fmt: skip
        for i, stream in enumerate(region.streams):
            if stream.operand == self.at:
                part = int(str(stream.starts[-1])) // self.region.width if stream.starts else 0
                at = f"scratch + ({part} * {self.block} + r_) * {columns * size}"
            else:
                at = region.row_address(t, i, None, names)
                if region.inner_step(i):
                    at += f" + {scaled(t, 'n0', region.inner_step(i))} * {stream.dtype.size}"
            t.add(indent, f"q{i} = {pointer(stream.dtype)}({at})")
        for line in region.row_lines:
            t.add(indent, line)
        single = len(outs) == 1
        base = self.region.parts * self.block * columns * size
        for i in range(len(outs)):
            name = "out" if i == 0 else f"o{i}"
            t.add(indent, f"w{i} = {self.pointer}({name} + (row * {self.region.width} + n0) * {size})")
            if not single:
                t.add(indent, f"s{i} = {self.pointer}(scratch + {base + i * columns * size})")
        t.add(indent, "for j in range(cols):")
        for line in region.lines:
            t.add(indent + 1, line)
        for i, reg in enumerate(results):
            t.add(indent + 1, f"put({'w' if single else 's'}{i}, j, {reg.stored})")
        if not single:
            for i in range(len(outs)):
                t.add(indent, f"for j in range(cols):\n    w{i}[j] = s{i}[j]")
