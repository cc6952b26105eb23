"""Kernel text for matrix products and for packing a run-time right operand.

Owns blocking, batch broadcasting and tails. Must not know how text is compiled.
The order over k is sequential for every element, whatever M, the chunk or the tile height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ....core.dims import Extent, ceildiv, compare_le, maximum, product
from ....core.dtypes import F32, F64, DType
from ..lines import CACHE_LINE
from ..tiles.layout import STAGES_PER_ELEMENT, stages_of
from ..variants import Variant
from .asking import FAR_BYTES
from .epilogue import NONE, Epilogue, Lowered, loop_text, lower
from .panels import Tile, asked_bytes, pick
from .plain import Batch, broadcast_batch, matrix_numbers, zero_of
from .template import SUM_TERMS, Template, TextBuilder, contract_call, scalar_access
from .tiling import FEWEST_ROWS, Tiling, grain_of, open_runs

Rhs = Literal["packed", "direct"]
PANEL_BYTES = 400 * 1024  # a panel longer than this is cut along k, so that it stays in the second-level cache
LEAST_CLAIMING = 256  # terms; shorter sums are over before a line is there
ROW_TILES = 24  # tiles that share a pass over a part of a long panel
DIRECT_COLUMNS = 256  # a run-time right operand narrower than this is read where it lies


@dataclass(frozen=True, slots=True)
class MatmulPlan:
    """The choices that a matmul and the packing of its right operand share."""

    tile: Tile
    rhs: Rhs
    m: Extent
    k: Extent
    n: Extent
    batch: Batch
    lhs_transposed: bool
    rhs_transposed: bool
    pairs: bool = False  # elements along k are pairs of bfloat16 (``pairs.round_pairs``, ``packing.paired``)

    @property
    def panels(self) -> Extent:
        return ceildiv(self.n, self.tile.columns)

    @property
    def rhs_batch(self) -> Extent:
        return product(extent for extent, _, in_b in self.batch if in_b)

    @property
    def packed_elements(self) -> Extent:
        """Elements of the packed right operand, all batches."""
        return self.rhs_batch * self.panels * self.k * self.tile.columns


def plan_matmul(
    variant: Variant,
    dtype: DType,
    a_shape: tuple[Extent, ...],
    b_shape: tuple[Extent, ...],
    transpose_a: bool = False,
    transpose_b: bool = False,
    constant_b: bool = False,
    pairs: bool = False,
) -> MatmulPlan:
    """Choose tile, right-hand mode and batch loops.

    ``rhs`` is ``packed`` (constant: ``packing.rhs_layout(shape, plan.tile.columns, transpose_b)``; run time: the
    ``pack_rhs_kernel`` into a buffer of ``packed_elements``) or ``direct`` (the operand itself).
    """
    k = a_shape[-2] if transpose_a else a_shape[-1]
    m = a_shape[-1] if transpose_a else a_shape[-2]
    n = b_shape[-2] if transpose_b else b_shape[-1]
    a_lead, b_lead = a_shape[:-2], b_shape[:-2]
    if not transpose_a and all(d == 1 for d in b_lead):
        m, a_lead, b_lead = product(a_lead) * m, (), ()
    if pairs:
        if dtype is not F32 or transpose_a or not constant_b or not isinstance(k, int) or k % 2:
            raise ValueError("pairs are of an even number of columns of a, beside constant weights")
        k //= 2
    tile = pick(variant, dtype.size, n)
    rhs: Rhs = "packed"
    if not constant_b and not transpose_b and isinstance(n, int) and n <= DIRECT_COLUMNS:
        rhs = "direct"
    return MatmulPlan(tile, rhs, m, k, n, broadcast_batch(a_lead, b_lead), transpose_a, transpose_b, pairs)


def matmul(
    variant: Variant, dtype: DType, plan: MatmulPlan, epilogue: Epilogue = NONE, entry: str = "matmul"
) -> Template:
    """``out[batch..., M, N] = epilogue(a @ b)`` for f32 and f64.

    A unit is one tile of rows against one panel of columns of one batch. Arguments: ``a``, ``w`` (operand 1, packed
    or not), ``out``, the extras, then integers. Per-channel extras have N elements, same-shape extras the result's.
    """
    if dtype not in (F32, F64):
        raise ValueError(f"tiled matmul computes f32 and f64, not {dtype}")
    return MatmulText(variant, dtype, plan, epilogue, entry).template()


class MatmulText:
    """Writes the kernel of one plan; subclasses write what happens to the product. ``rounds_apart``: another kernel has
    rounded the left operand of pairs."""

    rounds_apart = True

    def __init__(self, variant: Variant, dtype: DType, plan: MatmulPlan, epilogue: Epilogue, entry: str) -> None:
        self.plan, self.tile, self.size = plan, plan.tile, dtype.size
        self.pointer = "pf32" if dtype is F32 else "pf64"
        self.low: Lowered = lower(epilogue, dtype.size, plan.tile.width)
        t = self.text = TextBuilder(entry)
        t.pointer("a", "temp" if plan.pairs and self.rounds_apart else "operand", 0)
        t.pointer("w", "weights" if plan.rhs == "packed" else "operand", 1)
        t.pointer("out", "output")
        for i in range(len(epilogue.extras)):
            t.pointer(f"e{i}", "extra", i)
        self.m, self.k, self.n = t.dim(plan.m), t.dim(plan.k), t.dim(plan.n)
        self.tiling = Tiling(t, plan.m, self.tile.rows)
        self.chunk = self._k_chunk()
        self.far = self._is_far()

    def _k_chunk(self) -> int:
        """k per pass; 0 when one pass does."""
        plan, most = self.plan, PANEL_BYTES // (self.tile.columns * self.size)
        few_rows = isinstance(plan.m, int) and plan.m <= self.tile.rows
        if few_rows or (isinstance(plan.k, int) and plan.k <= most):
            return 0
        most = max(most // SUM_TERMS, 1) * SUM_TERMS
        if not isinstance(plan.k, int):
            return most
        even = -(-plan.k // -(-plan.k // most))
        return -(-even // SUM_TERMS) * SUM_TERMS

    def _is_far(self) -> bool:
        """Pieces of rows of the left operand come from far away: tiles prefetch those of the next."""
        plan = self.plan
        if not self.chunk or plan.lhs_transposed or plan.pairs or not isinstance(plan.k, int):
            return False
        return not isinstance(plan.m, int) or plan.m * plan.k * self.size >= FAR_BYTES

    def template(self) -> Template:
        plan, t, columns = self.plan, self.text, self.tile.columns
        panels = t.dim(plan.panels)
        self.tiling.prepare(0)
        open_runs(t, self.tiling.tiles, "rt", "q", ROW_TILES if self.chunk else 0)
        t.add(1, "p = q" if not plan.batch else f"p = q % {panels}\nbi = q // {panels}")
        self._batch_offsets(panels)
        t.add(1, f"n0 = p * {columns}")
        scratch, height = 0, self.tiling.heights[0]
        if self.chunk:
            scratch = height * ROW_TILES * columns * self.size
            t.add(1, f"m0 = {self.tiling.first('rt')}")
            t.add(1, f"for k0 in range(0, max({self.k}, 1), {self.chunk}):")
            t.add(2, f"nk = min({self.chunk}, {self.k} - k0)")
            t.add(2, f"mode = (1 if k0 > 0 else 0) + (2 if k0 + nk < {self.k} else 0)")
            self._rows(2)
        else:
            self._rows(1)
        flops = (4 if plan.pairs else 2) * product(d for d, _, _ in plan.batch) * plan.m * plan.n * plan.k
        per_unit = 2 * max(height, FEWEST_ROWS) * columns * (plan.k if isinstance(plan.k, int) else 512)
        extent = product(d for d, _, _ in plan.batch) * plan.panels * self.tiling.count
        return Template(
            t.source(), t.entry, tuple(t.args), extent, grain_of(per_unit), scratch, flops, self.low.aliasable
        )

    def _batch_offsets(self, panels: str) -> None:
        plan, t = self.plan, self.text
        if not plan.batch:
            t.add(1, "ab = 0\nob = 0")
            t.add(1, "wb = p")
            return
        a_terms, b_terms = [], []
        a_step: Extent = 1
        b_step: Extent = 1
        for i, (extent, in_a, in_b) in reversed(list(enumerate(plan.batch))):
            digit = f"b{i}"
            if i == 0:
                t.add(1, f"{digit} = bi" if len(plan.batch) == 1 else f"{digit} = rest")
            else:
                source = "bi" if i == len(plan.batch) - 1 else "rest"
                t.add(1, f"{digit} = {source} % {t.dim(extent)}\nrest = {source} // {t.dim(extent)}")
            if in_a:
                a_terms.append(f"{digit} * {t.dim(a_step)}")
                a_step = a_step * extent
            if in_b:
                b_terms.append(f"{digit} * {t.dim(b_step)}")
                b_step = b_step * extent
        t.add(1, f"ab = ({' + '.join(a_terms) or '0'}) * ({self.m} * {self.k})")
        t.add(1, f"ob = bi * ({self.m} * {self.n})")
        t.add(1, f"wb = ({' + '.join(b_terms) or '0'}) * {panels} + p")

    def _rows(self, indent: int) -> None:
        """The loop over the row tiles of the run, for whole panels and for the last one."""
        plan, t, columns = self.plan, self.text, self.tile.columns
        if not isinstance(plan.n, int):
            t.add(indent, f"cols = min({columns}, {self.n} - n0)")
            t.add(indent, f"if cols == {columns}:")
            self._tiles(indent + 1, self.tile.vectors, 0, str(columns))
            t.add(indent, "else:")
            self._tiles(indent + 1, self.tile.vectors, 2 if plan.rhs == "direct" else 1, "cols")
            return
        whole, rest = divmod(plan.n, columns)
        if whole and rest:
            t.add(indent, f"if p < {whole}:")
            self._tiles(indent + 1, self.tile.vectors, 0, str(columns))
            t.add(indent, "else:")
            indent += 1
        elif whole:
            self._tiles(indent, self.tile.vectors, 0, str(columns))
        if rest or not whole:
            vectors = max(1, -(-rest // self.tile.width))
            ragged = rest % self.tile.width
            self._tiles(indent, vectors, (2 if plan.rhs == "direct" else 1) if ragged else 0, str(rest))

    def _sums(self, count: str, step: str, wk: str) -> dict[str, int | str]:
        """The loop over k: long sums are taken as partial sums of SUM_TERMS."""
        if isinstance(self.plan.k, int) and self.plan.k <= SUM_TERMS:
            return {"nk": count, "nk_last": count}
        terms = CACHE_LINE // self.size if self.far else SUM_TERMS
        pieces = f"(({count} + {terms - 1}) // {terms})"
        return {
            "n0": pieces, "a0": f"{terms} * {step}", "w0": f"{terms} * {wk}", "nk": terms,
            "nk_last": f"{count} - ({pieces} - 1) * {terms}", "RUN": SUM_TERMS // terms,
        }  # fmt: skip

    def _asked(self, height: int, count: str, row: str) -> dict[str, int | str]:
        """The next panel (or pass over k) follows this one: each tile prefetches its share of it."""
        line = self.tile.columns * self.size
        share = asked_bytes(self.plan.m, height, line) if self.plan.rhs == "packed" else 0
        if not share:
            return {}
        return {"ask": f"wt + {count} * {line} + {row} * {count} * {line} // {self.plan.m}", "ASK": share}

    def _claimed(self, height: int) -> dict[str, int | str]:
        """Lines that an epilogue reads and that are far away, results and operands as large: they come while the tile
        sums. What is only written waits in the store buffer, and holds nobody up."""
        plan, low = self.plan, self.low
        if not low.statements and not any(stage in STAGES_PER_ELEMENT for stage in stages_of(low.code)):
            return {}
        if self.chunk or not isinstance(plan.k, int) or plan.k < LEAST_CLAIMING:
            return {}  # a pass that stores partial sums has no results
        if compare_le(product(d for d, _, _ in plan.batch) * plan.m * plan.n * self.size, FAR_BYTES) is True:
            return {}
        return {"CLAIM": -(-height // -(-plan.k // SUM_TERMS)), "claim": 0}

    def _tiles(self, indent: int, vectors: int, tail: int, cols: str) -> None:
        plan, t, size = self.plan, self.text, self.size
        t.add(indent, "for t in range(rt, rt + run):")
        indent += 1
        t.add(indent, f"h = {self.tiling.height('t')}\nm = {self.tiling.first('t')}")
        t.add(indent, f"off = ob + m * {self.n} + n0")
        row, step = ("1", self.m) if plan.lhs_transposed else (self.k, "1")
        k0 = "k0" if self.chunk else "0"
        wk = str(self.tile.columns) if plan.rhs == "packed" else self.n
        t.add(indent, f"at = a + (ab + m * {row} + {k0} * {step}) * {size}")
        if plan.rhs == "packed":
            t.add(indent, f"wt = w + (wb * {self.k} + {k0}) * {self.tile.columns * size}")
        else:
            base = "wb * 0" if not plan.batch else f"(wb - p) // {t.dim(plan.panels)} * ({self.k} * {self.n})"
            t.add(indent, f"wt = w + ({base} + {k0} * {self.n} + n0) * {size}")
        count = "nk" if self.chunk else self.k
        values: dict[str, int | str] = {
            "out": "out", "off": "off", "ch": "n0", "a": "at", "w": "wt", "cols": cols, "ak": step, "wk": wk,
            "a_px": row, "o_px": self.n, **self._sums(count, step, wk),
            "DT": size, "W": self.tile.width, "NV": vectors, "TAIL": tail, "EPI": self.low.code, **self.low.slots,
            "DOT": int(plan.pairs),
        }  # fmt: skip
        if self.chunk:
            values |= {"part": f"scratch + (m - m0) * {self.tile.columns * size}", "mode": "mode", "SPLIT": 1}
        heights = self.tiling.heights
        for i, height in enumerate(heights):
            if len(heights) > 1:
                t.add(indent, f"{'if' if i == 0 else 'elif'} h == {height}:")
            asked = self._asked(height, count, "m")
            ahead = (
                {"ahead": f"{height} * {row}", "ahead_row": row, "AHEAD": 1, "AHEAD_ROWS": height} if self.far else {}
            )
            lines_asked = asked | ahead | self._claimed(height)
            t.add(indent + (len(heights) > 1), contract_call(values | lines_asked | {"P": height}))
        lines = loop_text(self.low, size, "row_at", "n0", cols, self.pointer)
        if lines:
            if self.chunk:
                t.add(indent, "if mode < 2:")
                indent += 1
            t.add(indent, f"for r_ in range(h):\n    row_at = off + r_ * {self.n}")
            for line in lines:
                t.add(indent + 1, line)


def pack_rhs_kernel(dtype: DType, plan: MatmulPlan, entry: str = "pack_rhs") -> Template:
    """Packs a run-time right operand (operand 1) into the output buffer of ``plan.packed_elements`` elements.

    A unit is one panel of one batch.
    """
    t = TextBuilder(entry)
    t.pointer("b", "operand", 1)
    t.pointer("out", "output")
    nr, size = plan.tile.columns, dtype.size
    k, n, panels = t.dim(plan.k), t.dim(plan.n), t.dim(plan.panels)
    pointer = "pf32" if size == 4 else "pf64"
    # One flat loop over the columns of the panel, with the last panel's padding apart, so that LLVM vectorises both.
    t.add(0, "for u in range(start, stop):")
    t.add(1, f"p = u % {panels}\nbi = u // {panels}\nn0 = p * {nr}\ncols = min({nr}, {n} - n0)")
    source = f"(bi * {n} + n0) * {k}" if plan.rhs_transposed else f"bi * ({k} * {n}) + n0"
    t.add(1, f"src = {pointer}(b + ({source}) * {size})")
    t.add(1, f"dst = {pointer}(out + u * {k} * {nr * size})")
    if plan.rhs_transposed:
        t.add(1, f"for k0 in range(0, {k}, 16):")
        t.add(2, f"k1 = min(k0 + 16, {k})\nfor j in range(cols):\n    for kk in range(k0, k1):")
        t.add(4, f"dst[kk * {nr} + j] = src[j * {k} + kk]")
    else:
        t.add(1, f"for kk in range({k}):\n    for j in range(cols):\n        dst[kk * {nr} + j] = src[kk * {n} + j]")
    t.add(1, f"if cols < {nr}:\n    for kk in range({k}):\n        for j in range(cols, {nr}):")
    t.add(4, f"dst[kk * {nr} + j] = {'f32(0.0)' if size == 4 else 'f64(0.0)'}")
    extent = plan.rhs_batch * plan.panels
    return Template(t.source(), entry, tuple(t.args), extent, 4, 0, 0)


def matmul_scalar(dtype: DType, plan: MatmulPlan, entry: str = "matmul_any") -> Template:
    """``a @ b`` for every dtype by plain loops; ``b`` is operand 1 as it lies. A unit is one row of the result.

    f16 and bf16 accumulate in float32 and round once; integers wrap; bool is "or of ands".
    """
    t = TextBuilder(entry)
    for name, kind, index in (("a", "operand", 0), ("b", "operand", 1), ("out", "output", 0)):
        t.pointer(name, kind, index)  # type: ignore[arg-type]
    m, k, n = t.dim(plan.m), t.dim(plan.k), t.dim(plan.n)
    pointer, load, store = scalar_access(dtype)
    row, step = ("1", m) if plan.lhs_transposed else (k, "1")
    b_row, b_step = ("1", k) if plan.rhs_transposed else (n, "1")
    t.add(0, f"pa = {pointer}(a)\npb = {pointer}(b)\npo = {pointer}(out)")
    t.add(0, "for u in range(start, stop):")
    t.add(1, f"i = u % {m}\nrest = u // {m}")
    a_number, b_number = matrix_numbers(t, 1, plan.batch)
    t.add(1, f"a0 = {a_number} * ({m} * {k}) + i * {row}")
    t.add(1, f"b0 = {b_number} * ({k} * {n})")
    t.add(1, f"for j in range({n}):\n    acc = {zero_of(dtype)}\n    for kk in range({k}):")
    x, y = f"pa[a0 + kk * {step}]", f"pb[b0 + kk * {b_row} + j * {b_step}]"
    if dtype.kind == "b":
        t.add(3, f"acc = acc | ({load(x)} & {load(y)})")
    else:
        t.add(3, f"acc = acc + {load(x)} * {load(y)}")
    t.add(2, f"po[u * {n} + j] = {store('acc')}")
    batch = product(d for d, _, _ in plan.batch)
    flops = 2 * batch * plan.m * plan.n * plan.k
    return Template(t.source(), entry, tuple(t.args), batch * maximum(plan.m, 0), 1, 0, flops)
