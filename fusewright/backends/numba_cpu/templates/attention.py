"""Kernel text of attention: scores, their softmax and the weighted sum of one block of queries stay in scratch.

Owns the walk over blocks, the packing of keys and the row softmax. Must not know how views become strides.
The order of every sum depends on the extents alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....core.dims import Extent, ceildiv, product
from ....core.dtypes import F32, DType
from ....ir.graph import Graph, Value
from ..lines import tile_side
from ..loops.lanes import lane_count
from ..loops.nest import digits, guess, scaled, total
from ..loops.refusal import NoKernel
from ..loops.region import AxisMap, Elements
from ..loops.scalar import BITS, Reg
from ..variants import Variant
from .panels import Tile, pick
from .strided import Strided
from .template import SUM_TERMS, Template, TextBuilder, contract_call
from .tiling import SCRATCH_HEAD, Tiling, going_on, grain_of, open_runs


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What the kernel computes: ``softmax(f(q k^T)) v`` for q [lead..., T, D], k [lead..., S, D], v [lead..., S, E].

    ``f`` is the elementwise graph ``scores``: its input ``raw`` is q k^T, input i else is operand ``firsts[i]``. With
    ``hidden``, that is what ``f`` makes of every key behind its query's own position.
    """

    dtype: DType
    lead: tuple[Extent, ...]
    queries: Extent
    keys: Extent
    depth: int
    width: int
    q: Strided
    k: Strided
    v: Strided
    out: tuple[Extent, ...]
    scores: Graph
    raw: Value
    firsts: tuple[int, ...]
    hidden: float | None = None


class Scores(Elements):
    """The scores of one row: ``raw`` is ``sq[j]``, everything else is read as any elementwise operand."""

    def __init__(self, plan: AttentionPlan) -> None:
        self.raw = plan.raw
        shape = (*plan.lead, plan.queries, plan.keys)
        super().__init__(plan.scores, plan.firsts, plan.scores.outputs, shape)
        self.collapse([*["lead"] * len(plan.lead), "row", "key"])

    def _discover(self, v: Value, amap: AxisMap) -> None:
        if self._resolve(v) is not self.raw:
            super()._discover(v, amap)

    def _make(self, v: Value, amap: AxisMap) -> tuple[Reg, bool]:
        if v is self.raw:
            return self._scalars.hold(self.lines, "sq[j]", v.dtype), True
        return super()._make(v, amap)


def attention(variant: Variant, plan: AttentionPlan, entry: str = "attention") -> Template:
    """A unit is one tile of queries of one head. Raises NoKernel where ``f`` has no scalar form."""
    return _Attention(variant, plan, entry).template()


def offsets(t: TextBuilder, indent: int, plan: AttentionPlan, region: Scores) -> list[str]:
    """``qo``, ``ko``, ``vo``, ``oo``: first elements of head ``li`` in the operands and the result.

    Returns the names of the counters of ``region``'s axes; its leading ones are defined.
    """
    names = [f"l{i}" for i in range(len(plan.lead))]
    digits(t, indent, "li", list(zip(names, plan.lead, strict=True)), set(names))
    sides = (("qo", plan.q), ("ko", plan.k), ("vo", plan.v), ("oo", Strided(0, 0, plan.out)))
    for name, side in sides:
        terms = [scaled(t, n, s) for n, s in zip(names, side.strides, strict=False)]
        if side.offset != 0:
            terms.append(t.dim(side.offset))
        t.add(indent, f"{name} = {total(terms)}")
    axes = [a for a in region.axes if a.flags[2] == "lead"]
    counters = [f"i{a}" for a in range(len(axes))]
    needed = {counters[a] for a in region.digits_needed(False) if a < len(axes)}
    digits(t, indent, "li", [(n, a.extent) for n, a in zip(counters, axes, strict=True)], needed)
    return counters + ["row" if a.flags[2] == "row" else "j" for a in region.axes[len(axes) :]]


class _Attention:
    def __init__(self, variant: Variant, plan: AttentionPlan, entry: str) -> None:
        self.plan, self.size = plan, plan.dtype.size
        self.kind = "f32" if plan.dtype is F32 else "f64"
        self.narrow = pick(variant, self.size, plan.width)
        self.wide = pick(variant, self.size, plan.keys)
        if self.wide.rows > self.narrow.rows:  # its height would be cut to the other's, and leave registers idle
            self.wide = self.narrow
        self.most = self.wide.rows
        self.region = Scores(plan)
        t = self.text = TextBuilder(entry)
        for name, side in (("qa", plan.q), ("ka", plan.k), ("va", plan.v)):
            t.pointer(name, "operand", side.operand)
        for i, s in enumerate(self.region.streams):
            t.pointer(f"a{i}", "operand", s.operand)
        t.pointer("out", "output")
        self.tiling = Tiling(t, plan.queries, self.most)
        self.pitch: Extent = ceildiv(plan.keys, self.wide.columns) * self.wide.columns
        self.packed = _lines(self.pitch * plan.depth * self.size)

    def template(self) -> Template:
        plan, t = self.plan, self.text
        t.add(0, f"kt = scratch + {SCRATCH_HEAD}\nst = kt + {t.dim(self.packed)}")
        self.tiling.prepare(0)
        going_on(t)
        open_runs(t, self.tiling.tiles, "rt", "li")
        self._offsets()
        t.add(1, "if rt == 0 or not going_on:  # only a call's first run begins inside a head")
        self._pack(2)
        t.add(1, "for t in range(rt, rt + run):")
        t.add(2, f"h = {self.tiling.height('t')}\nm = {self.tiling.first('t')}")
        self._product(2)
        t.add(2, "for r_ in range(h):")
        self._softmax(3)
        self._weighted(2)
        per_unit = 2 * self.tiling.heights[0] * guess(plan.keys, 128) * (plan.depth + plan.width)
        scratch = SCRATCH_HEAD + self.packed + _lines(self.pitch * self.most * self.size)
        return Template(
            t.source(), t.entry, tuple(t.args), product(plan.lead) * self.tiling.count,
            grain_of(per_unit), scratch,
        )  # fmt: skip

    # -- where things lie ---------------------------------------------------------------------------------------------
    def _offsets(self) -> None:
        self.names = offsets(self.text, 1, self.plan, self.region)

    def _pack(self, at: int) -> None:
        """The keys of this head as panels [D, columns], zero padded."""
        plan, t, size, nr = self.plan, self.text, self.size, self.wide.columns
        step, lane = plan.k.strides[-2], plan.k.strides[-1]
        keys, depth = t.dim(plan.keys), plan.depth
        t.add(at, f"src = p{self.kind}(ka + ko * {size})\nfor p in range({t.dim(ceildiv(plan.keys, nr))}):")
        t.add(at + 1, f"dst = p{self.kind}(kt + p * {depth * nr * size})\ncols = min({nr}, {keys} - p * {nr})")
        side = tile_side(size)
        whole = depth // side * side
        first = f"p * {scaled(t, str(nr), step)}"
        if lane == 1 and whole:
            t.add(at + 1, f"full = cols // {side} * {side}\nfor c in range(0, full, {side}):")
            t.add(at + 2, f"for d in range(0, {whole}, {side}):")
            bits = BITS[size]
            t.add(at + 3, f"keys = {bits}(ka + (ko + {first}) * {size})\npanel = {bits}(kt + p * {depth * nr * size})")
            t.add(at + 3, f"transpose_tile(keys, c * {t.dim(step)} + d, {t.dim(step)}, panel, d * {nr} + c, {nr})")
        else:
            t.add(at + 1, "full = 0")
            whole = 0
        element = f"src[{first} + {scaled(t, 'c', step)} + {scaled(t, 'd', lane)}]"
        if whole < depth:
            t.add(at + 1, f"for d in range({whole}, {depth}):\n    for c in range(full):")
            t.add(at + 3, f"dst[d * {nr} + c] = {element}")
        t.add(
            at + 1, f"for d in range({depth}):\n    for c in range(full, cols):\n        dst[d * {nr} + c] = {element}"
        )
        t.add(at + 1, f"if cols < {nr}:\n    for d in range({depth}):\n        for c in range(cols, {nr}):")
        t.add(at + 4, f"dst[d * {nr} + c] = {self.kind}(0.0)")

    # -- one tile of rows ---------------------------------------------------------------------------------------------
    def _tall(self, indent: int, values: dict[str, int | str]) -> None:
        heights = self.tiling.heights
        for i, height in enumerate(heights):
            if len(heights) > 1:
                self.text.add(indent, f"{'if' if i == 0 else 'elif'} h == {height}:")
            self.text.add(indent + (len(heights) > 1), contract_call(values | {"P": height}))

    def _sums(self, count: Extent, step: str, wk: str) -> dict[str, int | str]:
        """As in a matrix product: long sums are taken as partial sums of SUM_TERMS."""
        n = self.text.dim(count)
        if isinstance(count, int) and count <= SUM_TERMS:
            return {"nk": n, "nk_last": n}
        pieces = f"(({n} + {SUM_TERMS - 1}) // {SUM_TERMS})"
        return {
            "n0": pieces, "a0": f"{SUM_TERMS} * {step}", "w0": f"{SUM_TERMS} * {wk}", "nk": SUM_TERMS,
            "nk_last": f"{n} - ({pieces} - 1) * {SUM_TERMS}", "RUN": 1,
        }  # fmt: skip

    def _call(self, tile: Tile, vectors: int, values: dict[str, int | str]) -> dict[str, int | str]:
        return {"DT": self.size, "W": tile.width, "NV": vectors, **values}

    def _product(self, indent: int) -> None:
        """Raw scores of the tile's rows into scratch."""
        plan, t, nr = self.plan, self.text, self.wide.columns
        t.add(indent, f"at = qa + (qo + m * {t.dim(plan.q.strides[-2])}) * {self.size}")
        if not isinstance(plan.keys, int):
            self._panels(indent, 0, ceildiv(plan.keys, nr), self.wide.vectors)
            return
        whole, rest = divmod(plan.keys, nr)
        if whole:
            self._panels(indent, 0, whole, self.wide.vectors)
        if rest:  # the last panel's padding is left out but for what fills up a vector
            self._panels(indent, whole, 1, -(-rest // self.wide.width))

    def _panels(self, indent: int, first: int, count: Extent, vectors: int) -> None:
        """Raw scores of ``count`` panels of keys: of as many of their vectors."""
        plan, t, nr = self.plan, self.text, self.wide.columns
        lane = t.dim(plan.q.strides[-1])
        t.add(indent, f"for p in range({first}, {t.dim(first + count)}):")
        t.add(indent + 1, f"wt = kt + p * {plan.depth * nr * self.size}")
        values = self._call(self.wide, vectors, {
            "out": "st", "off": f"p * {nr}", "a": "at", "w": "wt", "ak": lane, "wk": nr,
            "a_px": t.dim(plan.q.strides[-2]), "o_px": t.dim(self.pitch), **self._sums(plan.depth, lane, str(nr)),
        })  # fmt: skip
        self._tall(indent + 1, values)

    def _softmax(self, indent: int) -> None:
        """One row of scores: through ``f``, then exponentials that sum to one."""
        plan, t, region = self.plan, self.text, self.region
        t.add(indent, f"row = m + r_\nsq = p{self.kind}(st + r_ * {t.dim(self.pitch)} * {self.size})")
        value = region.emit(self.names, "get")[0].text
        region.row_pointers(t, indent, None, self.names)
        for line in region.row_lines:
            t.add(indent, line)
        n, at = t.dim(plan.keys), f"st + r_ * {t.dim(self.pitch)} * {self.size}"
        t.add(indent, f"for j in range({n}):")
        for line in (*region.lines, f"sq[j] = {value}"):
            t.add(indent + 1, line)
        t.add(indent, f"top = lanes_max({at}, {n}, {self._lanes()})")
        # Whole vectors, into the panel's padding: single exponentials behind them took a third of the kernel's time.
        vectors = f"for jv in range(0, {n}, {self.wide.width}):\n    for j in range(jv, jv + {self.wide.width}):"
        t.add(indent, f"{vectors}\n        sq[j] = exp(sq[j] - top)")
        t.add(indent, f"sums = lanes_sum({at}, {n}, {self._lanes()})")
        t.add(indent, f"scale = {self.kind}(1.0) / sums\n{vectors}\n        sq[j] = sq[j] * scale")

    def _lanes(self) -> str:
        """How the tiles that reduce a row in scratch see it: accumulators, element size and vector width."""
        return f"{max(lane_count(self.plan.keys), 16)}, {self.size}, {self.wide.width}"

    def _weighted(self, indent: int) -> None:
        """Probabilities times values, straight to the result."""
        plan, t, columns = self.plan, self.text, self.narrow.columns
        row, out_row, pitch = t.dim(plan.v.strides[-2]), t.dim(plan.out[-2]), t.dim(self.pitch)
        for first in range(0, plan.width, columns):
            count = min(columns, plan.width - first)
            vectors = -(-count // self.narrow.width)
            t.add(indent, f"wt = va + (vo + {first}) * {self.size}\noff = oo + m * {out_row} + {first}")
            values = self._call(self.narrow, vectors, {
                "out": "out", "off": "off", "a": "st", "w": "wt", "cols": count, "ak": 1, "wk": row, "a_px": pitch,
                "o_px": out_row, "TAIL": 2 if count % self.narrow.width else 0, **self._sums(plan.keys, "1", row),
            })  # fmt: skip
            self._tall(indent, values)


def _lines(size: Extent) -> Extent:
    """``size`` bytes as whole cache lines."""
    return ceildiv(size, 64) * 64


def fits(plan: AttentionPlan) -> bool:
    """A kernel can be written: values and results are dense along their last axis, and ``f`` has a scalar form."""
    if plan.v.strides[-1] != 1 or plan.out[-1] != 1:
        return False
    try:
        region = Scores(plan)
        region.emit([f"i{a}" for a in range(len(region.axes))], "get")
    except NoKernel:
        return False
    return True
