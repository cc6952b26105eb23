"""Few rows times a wide matrix whose result is read in equal parts: a step of a recurrent cell as one kernel.

Owns how warps share k, and the tail that meets its operands where they lie. Must not know what gates compute. A unit
is 16 rows and 8 columns of every part; its order of additions depends on k alone.
"""

from __future__ import annotations

from ...core.dims import ceildiv, product
from ...core.dtypes import F32
from ..numba_cpu.loops.nest import digits, scaled
from ..numba_cpu.loops.refusal import NoKernel
from ..numba_cpu.loops.region import Elements
from ..numba_cpu.loops.scalar import pointer
from ..numba_cpu.select.gated import Found
from ..numba_cpu.templates.template import Template, TextBuilder
from .tiles import SLICE

WARPS = 8  # that share k
THREADS, ROWS, COLUMNS = 32 * WARPS, 16, 8
MOST_PARTS = 8
MOST_ROWS = 256  # beyond, tiles that read the matrix less often are faster
LEAST_DEPTH = 16
AHEAD = 4  # slices of a warp that are written without a loop around them: their reads are under way together


def serves(found: Found | None) -> bool:
    """There is a kernel, and the rows are few: a number that says so, or the batch of a recurrent cell."""
    if found is None or found.anchor.results[0].dtype is not F32 or found.anchor.attrs["transpose_a"]:
        return False
    a, z = found.anchor.operands[0], found.anchor.results[0]
    rows, depth = product(z.shape[:-1]), a.shape[-1]
    few = rows <= MOST_ROWS if isinstance(rows, int) else z.rank == 2
    if not few or found.region.parts > MOST_PARTS or not isinstance(depth, int) or depth < LEAST_DEPTH:
        return False
    try:
        GatedProduct(found, 3).template()
    except NoKernel:
        return False
    return True


class GatedProduct:
    """The kernel of one fused region. ``products`` as in ``contraction.Blocks``."""

    def __init__(self, found: Found, products: int) -> None:
        self.region, self.products = found.region, products
        a = found.anchor.operands[0]
        self.across = found.anchor.attrs["transpose_b"]
        self.rows, self.depth = product(a.shape[:-1]), int(str(a.shape[-1]))
        self.all = found.region.parts * found.region.width
        graph = self.region.graph
        shape = graph.outputs[0].shape
        self.elements = Elements(graph, list(range(len(graph.inputs))), graph.outputs, shape)
        self.elements.collapse([None] * (len(shape) - 1) + ["columns"])
        self.at = graph.inputs.index(self.region.result)
        t = self.text = TextBuilder("gated")
        t.pointer("a", "operand", 0)
        t.pointer("w", "operand", 1)
        for i in range(len(graph.outputs)):
            t.pointer(f"o{i}", "output", i)
        for i, stream in enumerate(self.elements.streams):
            if stream.operand != self.at:
                t.pointer(f"a{i}", "extra", stream.operand)

    def template(self) -> Template:
        t, parts, width = self.text, self.region.parts, self.region.width
        tiles = -(-width // COLUMNS)
        own = ROWS * COLUMNS  # numbers of one part
        t.add(0, "tid = thread()\nlane = tid % 32\nwarp = tid // 32\ng = lane // 4\nt = lane % 4")
        t.add(0, f"smem = shared({4 * WARPS * parts * own})\nsums = sf32(smem)\npa = pf32(a)\npw = pf32(w)")
        t.add(0, "for u in range(start, stop):")
        m = t.dim(self.rows)
        t.add(1, f"m0 = u // {tiles} * {ROWS}\nn0 = u % {tiles} * {COLUMNS}\nacc = registers({4 * parts})")
        # What lies past the end is read as the last row or column: nothing of it is stored.
        t.add(1, f"col = min(n0 + g, {width} - 1)\nupper = min(m0 + g, {m} - 1) * {self.depth} + t")
        t.add(1, f"lower = min(m0 + g + 8, {m} - 1) * {self.depth} + t")
        t.add(1, f"right = col * {self.depth} + t" if self.across else f"right = t * {self.all} + col")
        self._sum(1)
        t.add(1, f"for i in range({parts}):")
        for r in range(4):
            place = f"((warp * {parts} + i) * {ROWS} + g + {r // 2 * 8}) * {COLUMNS} + 2 * t + {r % 2}"
            t.add(2, f"sums[{place}] = acc[4 * i + {r}]")
        t.add(1, f"barrier()\nfor c in range(tid, {parts * own}, {THREADS}):\n    z = sums[c]")
        t.add(2, f"for i in range(1, {WARPS}):\n    z = z + sums[i * {parts * own} + c]")
        t.add(2, f"if not isfinite(z):\n    row = m0 + c // {COLUMNS} % {ROWS}\n    j = n0 + c % {COLUMNS}")
        t.add(3, f"if row < {m} and j < {width}:")
        self._again(4, own)
        t.add(2, "sums[c] = z")
        t.add(1, f"barrier()\nr_ = tid // {COLUMNS}\nj = tid % {COLUMNS}\nrow = m0 + r_")
        t.add(1, f"if r_ < {ROWS} and row < {m} and n0 + j < {width}:")
        self._tail(2, own)
        t.add(1, "barrier()")
        streams = [(s, self.elements.is_full(i)) for i, s in enumerate(self.elements.streams)]
        full = {s.operand for s, whole in streams if whole and s.dtype is F32 and s.operand != self.at}
        other = {s.operand for s, whole in streams if not whole}
        flops = 2 * self.rows * self.all * self.depth
        extent = tiles * ceildiv(self.rows, ROWS)
        return Template(t.source(), t.entry, tuple(t.args), extent, 1, 0, flops, frozenset(), frozenset(full - other))

    # -- the product --------------------------------------------------------------------------------------------------
    def _sum(self, indent: int) -> None:
        """This warp's share of k, a run of whole slices; the last slice of all may be short."""
        t, slices = self.text, -(-self.depth // SLICE)
        each = -(-slices // WARPS)
        whole = self.depth // SLICE
        group = min(AHEAD, each)
        t.add(indent, f"first = warp * {each}\nlast = min(first + {each}, {whole})")
        t.add(indent, f"s = first\nwhile s + {group} <= last:")
        for i in range(group):
            self._step(indent + 1, f"(s + {i})", 0)
        t.add(indent + 1, f"s += {group}")
        if group > 1:
            t.add(indent, "while s < last:")
            self._step(indent + 1, "s", 0)
            t.add(indent + 1, "s += 1")
        if self.depth % SLICE:
            t.add(indent, f"if warp == {whole // each}:")
            self._step(indent + 1, str(whole), self.depth % SLICE)

    def _step(self, indent: int, number: str, terms: int) -> None:
        row, part = (1, self.region.width * self.depth) if self.across else (self.all, self.region.width)
        at = f"{number} * {SLICE}"
        self.text.add(
            indent, f"join_slice(acc, pa, upper + {at}, lower + {at}, pw, right + {at} * {row}, t, {row}, {part}, "
            f"{self.region.parts}, {terms}, {self.products})"
        )  # fmt: skip

    def _again(self, indent: int, own: int) -> None:
        """The same element by plain float32 products: splitting turns an infinity into NaN."""
        t, width = self.text, self.region.width
        t.add(indent, f"j = c // {own} * {width} + j\nz = f32(0.0)\nfor k in range({self.depth}):")
        right = f"j * {self.depth} + k" if self.across else f"k * {self.all} + j"
        t.add(indent + 1, f"z = fma(pa[row * {self.depth} + k], pw[{right}], z)")

    # -- the tail -----------------------------------------------------------------------------------------------------
    def _tail(self, indent: int, own: int) -> None:
        """One element of every result. All is read before any of it is written: a result may lie where an operand
        lies."""
        t, region = self.text, self.elements
        names = [f"i{a}" for a in range(len(region.axes))]
        results = region.emit(names, "get", t.dim)
        outer = [(names[a], region.axes[a].extent) for a in range(len(region.axes) - 1)]
        digits(t, indent, "row", outer, {names[a] for a in region.digits_needed(False)})
        for i, stream in enumerate(region.streams):
            if stream.operand == self.at:
                part = int(str(stream.starts[-1])) // self.region.width if stream.starts else 0
                t.add(indent, f"q{i} = sf32(smem + ({part} * {own} + r_ * {COLUMNS}) * 4)")
                continue
            at = region.row_address(t, i, None, names)
            if region.inner_step(i):
                at += f" + {scaled(t, 'n0', region.inner_step(i))} * {stream.dtype.size}"
            t.add(indent, f"q{i} = {pointer(stream.dtype)}({at})")
        for line in (*region.row_lines, *region.lines):
            t.add(indent, line)
        for i, reg in enumerate(results):
            t.add(indent, f"y{i} = {reg.stored}")
        for i in range(len(results)):
            t.add(indent, f"put(pf32(o{i}), row * {self.region.width} + n0 + j, y{i})")
