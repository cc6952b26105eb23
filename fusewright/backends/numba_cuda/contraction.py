"""Contractions and convolutions on tensor cores, with a fused tail: kernel text around the steps of ``tensor``.

Owns the reading of operands slice by slice, and the repair of results that are not finite. A unit is one block of the
result, or one segment of k of it; the order of additions is ``deal``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...core.dims import Extent, ceildiv, product
from ...core.dtypes import F32, DType
from ..numba_cpu.select.epilogue import Contraction
from ..numba_cpu.templates.conv_plan import Axis, make_axes
from ..numba_cpu.templates.epilogue import lower
from ..numba_cpu.templates.plain import Batch, broadcast_batch, matrix_numbers
from ..numba_cpu.templates.template import Arg, Template, TextBuilder, scalar_access
from .deal import Deal, Share, deal
from .forms import HALVES, TF32X3, Form
from .tiles import STAGES, WARP

LEAST_DEPTH, LEAST_COLUMNS = 32, 16  # smaller products leave tensor cores idle, and their splits inexact
_FLAT = Axis(1, 1, 1, 1, 1, 0, 0, False)  # an axis that an image has not
REGISTERS, MOST_REGISTERS = 1 << 16, 128  # of a processor; of a thread


@dataclass(frozen=True, slots=True)
class Product:
    """``out[batch, m, n] = tail(sum_k left[batch, m, k] * right[batch, k, n])``; ``wide`` says whether the left and the
    right operand begin where 16 bytes are read at once. ``axes`` when the left one is an image."""

    m: Extent
    k: int
    n: int
    batch: Batch
    across: bool
    channels: int
    axes: tuple[Axis, ...]
    stretched: bool  # the image is read as it lies: one tap, no stride, no padding
    wide: tuple[bool, bool]
    dtype: DType

    @property
    def batches(self) -> Extent:
        return product(d for d, _, _ in self.batch)

    @property
    def deal(self) -> Deal:
        depth = HALVES[self.dtype.name].depth if self.half else TF32X3.depth
        return deal(self.m, self.k, self.n, tuple(d for d, _, _ in self.batch), depth)

    @property
    def half(self) -> bool:
        return self.dtype.name in HALVES

    @property
    def row(self) -> int:
        """Elements of a row of the right operand."""
        return self.k if self.across else self.n


def read(found: Contraction, wide: tuple[bool, bool] = (False, False)) -> Product | None:
    """The product that a contraction is, or None where tensor cores do not serve it."""
    node = found.anchor
    a, b = (v.shape for v in node.operands)
    dtype = node.results[0].dtype
    if dtype is not F32 and dtype.name not in HALVES:
        return None
    axes: tuple[Axis, ...] = ()
    stretched, across = True, False
    batch: Batch = ()
    if node.op.name == "matmul":
        if node.attrs["transpose_a"]:
            return None
        across = node.attrs["transpose_b"]
        k, n = a[-1], b[-2] if across else b[-1]
        m, lead = a[-2], a[:-2]
        if all(d == 1 for d in b[:-2]):
            m, lead = product(a[:-1]), ()
        batch = broadcast_batch(lead, b[:-2])
        channels = k
    elif node.op.name == "conv" and node.attrs["groups"] == 1:
        if not all(isinstance(d, int) for d in b):
            return None
        attrs = node.attrs
        axes = tuple(make_axes(a, b, attrs["strides"], attrs["pads"], attrs["dilations"]))
        stretched = all(axis.plain for axis in axes)
        channels, n = b[-2], b[-1]
        k = product(b[:-1])
        m = a[0] * product(axis.out for axis in axes)
    else:
        return None
    if not isinstance(k, int) or not isinstance(n, int) or k < LEAST_DEPTH or n < LEAST_COLUMNS:
        return None
    found_product = Product(m, k, n, batch, across, channels, axes, stretched, wide, dtype)
    if found_product.half and (channels % 2 or found_product.row % 2):
        return None  # no copy takes two bytes
    return found_product


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel of ``Blocks``: its part of the work is an argument, so that all share one text."""

    template: Template
    writes_sums: bool  # of segments, into the storage that the launches share


class Blocks:
    """The kernel of one share of a product. ``form``: what multiplies; with MIXED its argument ``wh`` are the weights
    as bf16, rows filled up to a multiple of eight.

    Its argument ``parts`` is the number of blocks per tile: 1 sums all segments itself, more leave the segments' sums
    in ``temp``, and with 0 these are added and finished, ``tile.threads`` elements per block.
    """

    def __init__(self, found: Contraction, plan: Product, share: Share, form: Form) -> None:
        self.found, self.plan, self.share, self.form = found, plan, share, form
        self.pointer, _, self.store = scalar_access(plan.dtype)
        mixed = form.left != form.right
        self.deal, self.tile = plan.deal, share.tile
        self.split = self.deal.segments > 1
        t = self.text = TextBuilder("tiled")
        t.pointer("a", "operand", 0)
        t.pointer("w", "operand", 1)
        t.pointer("out", "output")
        for i in range(len(found.epilogue.extras)):
            t.pointer(f"e{i}", "extra", i)
        self.weights, self.row = "w", plan.row
        if mixed:
            self.weights, self.row = t.pointer("wh", "weights", 1), (plan.row + 7) // 8 * 8
        if self.split:
            t.pointer("temp", "temp", 0)
            t.args.append(Arg("parts", "dim"))
        self.rows = t.dim(plan.m)
        # Of an image, what a row of the block reads: the image's number, and where its window begins on each axis.
        self.windows = [] if plan.stretched else [d for d in range(3) if plan.axes[d] != _FLAT]
        # Elements that one copy takes: as many as rows of 16 bytes allow, where the operand lies in such rows.
        self.left = _at_once(form.left, plan.channels, plan.wide[0])
        self.right = _at_once(form.right, self.row, mixed or plan.wide[1])

    @property
    def resident(self) -> int:
        """Blocks that a processor is to hold at a time. Copies of single elements have too many addresses under way
        for the registers that are left then."""
        return REGISTERS // (MOST_REGISTERS * self.tile.threads) if self._wide else 1

    @property
    def _wide(self) -> bool:
        return self.left * self.form.left == 16 and self.right * self.form.right == 16

    @property
    def _pieces(self) -> int:
        return self.tile.rows * self.tile.columns // self.tile.threads

    def launches(self) -> Iterator[Launch]:
        """The tiles' launch, and the one that finishes them."""
        template, deal, share = self._template(), self.deal, self.share
        if not self.split:
            yield Launch(template, False)
            return
        parts = 1 + (deal.segments - 1) * share.split
        yield Launch(self._with(template, parts, template.extent * parts * share.when), True)
        if share is deal.shares[-1] and deal.finish != 0:
            yield Launch(self._with(template, 0, self._tiles() * self._pieces * deal.finish), False)

    def _with(self, template: Template, parts: Extent, extent: Extent) -> Template:
        args = tuple(replace(a, value=parts) if a.name == "parts" else a for a in template.args)
        return replace(template, args=args, extent=extent)

    def _tiles(self) -> Extent:
        plan, tile = self.plan, self.tile
        return plan.batches * ceildiv(plan.m, tile.rows) * -(-plan.n // tile.columns)

    def _template(self) -> Template:
        t = self.text
        self._head()
        inner = 1
        if self.split:
            t.add(1, "if parts > 0:")
            inner = 2
        self._sums(inner)
        self._tail()
        same = frozenset(i for i, how in enumerate(self.found.epilogue.extras) if how == "same")
        units = self._tiles() if self.split else self._tiles() * self.share.when
        return Template(t.source(), t.entry, tuple(t.args), units, 1, 0, 0, same)

    def _sums(self, indent: int) -> None:
        """The block's sums, from both operands to shared memory at ``smem``."""
        t, plan, tile = self.text, self.plan, self.tile
        if not plan.stretched:
            self._table(indent)
        t.add(indent, f"acc = registers({tile.sums})")
        slices, per = -(-plan.k // self.form.depth), self.deal.per
        stage = self.form.stage(tile, plan.across)
        count, first = str(slices), "0"
        if self.split:
            t.add(indent, f"totals = smem + {self._totals} + tid * 4\nif parts == 1:\n    clear_{tile.name}(totals)")
            t.add(indent, f"first = part * {per}\nrest = min({per}, {slices} - first)")
            t.add(indent, f"count = select(parts == 1, i64({slices}), rest)")
            count, first = "count", "first"
        # The first trips only start copies: written apart they would triple the text.
        lead = STAGES - 1
        t.add(
            indent,
            f"for trip in range({count} + {lead}):\n    if trip >= {lead}:\n        copies_wait1()\n        barrier()",
        )
        t.add(indent + 1, f"if trip < {count}:\n    room = smem + trip % {STAGES} * {stage}")
        self._load(indent + 2, "room", "trip" if first == "0" else "(first + trip)")
        t.add(indent + 1, f"copies_commit()\nif trip >= {lead}:")
        t.add(indent + 2, f"here = smem + (trip - {lead}) % {STAGES} * {stage}")
        t.add(indent + 2, f"{self.form.step(tile, plan.across)}(acc, here + a_corner, here + b_corner)")
        if self.split:
            t.add(indent + 2, f"done = trip - {lead - 1}\nif parts == 1 and (done % {per} == 0 or done == {slices}):")
            t.add(indent + 3, f"keep_{tile.name}(acc, totals)")
            t.add(indent, f"if parts == 1:\n    take_{tile.name}(acc, totals)")
        t.add(indent, "copies_wait0()\nbarrier()")
        t.add(indent, f"leave_{tile.name}(acc, smem + c_corner)\nbarrier()")

    @property
    def _table_bytes(self) -> int:
        return 0 if self.plan.stretched else self.tile.rows * (1 + len(self.windows)) * 4

    @property
    def _totals(self) -> int:
        """Where the threads' totals lie: behind the slices and the table of rows."""
        return self.form.shared_bytes(self.tile, self.plan.across) + self._table_bytes

    def _head(self) -> None:
        t, plan, tile = self.text, self.plan, self.tile
        t.add(0, f"po = {self.pointer}(out)\npa = {self.pointer}(a)\npw = {self.pointer}(w)")
        for i in range(len(self.found.epilogue.extras)):
            t.add(0, f"p_e{i} = {self.pointer}(e{i})")
        t.add(0, f"tid = thread()\nlane = tid % {WARP}\nwarp = tid // {WARP}\ng = lane // 4\nt = lane % 4")
        t.add(0, f"wm = warp % {tile.wm} * {tile.mt * 16}\nwn = warp // {tile.wm} * {tile.nt * 8}")
        size = self._totals + (tile.total_bytes if self.split else 0)
        left, right = self.form.corners(tile, plan.across)
        t.add(0, f"smem = shared({size})\na_corner = {left}\nb_corner = {right} + {self.form.a_bytes(tile)}")
        t.add(0, f"c_corner = ((wm + g) * {tile.c_pitch} + wn + 2 * t) * 4")
        if self.split:
            t.add(0, f"sums = pf32(temp)\nsize = {t.dim(plan.batches * plan.m * plan.n)}")
        t.add(0, "for u in range(start, stop):")
        columns = -(-plan.n // tile.columns)
        blocks = t.dim(ceildiv(plan.m, tile.rows))
        unit = "u"
        if self.split:
            # Neighbouring blocks have the same rows and segment: what they read of the left operand is in the cache.
            t.add(1, f"tiles = {t.dim(self._tiles())}")
            t.add(1, "part = u // tiles\nunit = u - part * tiles")
            unit = "unit"
        t.add(1, f"n0 = {unit} % {columns} * {tile.columns}\nrest = {unit} // {columns}")
        if plan.batch:
            t.add(1, f"m0 = rest % {blocks} * {tile.rows}\nrest = rest // {blocks}\nwhich = rest")
        else:
            t.add(1, f"m0 = rest * {tile.rows}")
        left, right = matrix_numbers(t, 1, plan.batch)
        t.add(1, f"ab = {left} * {self.rows} * {plan.k}")
        t.add(1, f"wb = {right} * {self.row * (plan.n if plan.across else plan.k)}")
        t.add(1, f"ob = {f'which * {self.rows} * {plan.n}' if plan.batch else '0'}")

    def _table(self, indent: int) -> None:
        """What the block's rows read, once for all slices: in registers it would be too much."""
        t, plan, tile, width = self.text, self.plan, self.tile, 1 + len(self.windows)
        t.add(indent, f"table = si32(smem + {self.form.shared_bytes(tile, plan.across)})")
        t.add(indent, f"for row in range(tid, {tile.rows}, {tile.threads}):")
        t.add(indent + 1, "pixel = m0 + row")
        for at, d in reversed(list(enumerate(self.windows))):
            axis = plan.axes[d]
            t.add(indent + 1, f"o{d} = pixel % {t.dim(axis.out)}\npixel = pixel // {t.dim(axis.out)}")
            t.add(indent + 1, f"table[row * {width} + {1 + at}] = i32(o{d} * {axis.stride} - {t.dim(axis.low)})")
        t.add(indent + 1, f"table[row * {width}] = i32(pixel)")
        t.add(indent, "barrier()")

    # -- operands -------------------------------------------------------------------------------------------------
    def _load(self, indent: int, room: str, number: str) -> None:
        """Start the copies of slice ``number`` of both operands into shared memory at ``room``."""
        t, plan, tile, form = self.text, self.plan, self.tile, self.form
        t.add(indent, f"k0 = {number} * {form.depth}")
        per_row = form.depth // self.left
        self._chunks(indent, tile.rows * per_row)
        t.add(indent + 1, f"row = c // {per_row}\nkk = c % {per_row} * {self.left}\nk = k0 + kk\ni = m0 + row")
        self._left(indent + 1)
        self._copy(indent + 1, f"{room} + (row * {form.a_pitch} + kk) * {form.left}", "a", form.left, self.left)
        pitch = form.b_pitch(tile, plan.across)
        if plan.across:
            per_row = form.depth // self.right
            self._chunks(indent, tile.columns * per_row)
            t.add(indent + 1, f"row = c // {per_row}\nkk = c % {per_row} * {self.right}\nk = k0 + kk\nj = n0 + row")
            t.add(indent + 1, f"at = wb + j * {self.row} + k\nto = (row * {pitch} + kk) * {form.right}")
            t.add(indent + 1, f"ok = (k < {self.row}) & (j < {plan.n})")
        else:
            per_row = tile.columns // self.right
            self._chunks(indent, form.depth * per_row)
            t.add(indent + 1, f"kk = c // {per_row}\nrow = c % {per_row} * {self.right}\nk = k0 + kk\nj = n0 + row")
            t.add(indent + 1, f"at = wb + k * {self.row} + j\nto = (kk * {pitch} + row) * {form.right}")
            t.add(indent + 1, f"ok = (k < {plan.k}) & (j < {self.row})")
        self._copy(indent + 1, f"{room} + {form.a_bytes(tile)} + to", self.weights, form.right, self.right)

    def _copy(self, indent: int, to: str, source: str, size: int, count: int) -> None:
        """Start the copy of ``count`` elements of ``size`` bytes from place ``at``, or of zeros where not ``ok``."""
        given = f"select(ok, i64({count * size}), i64(0))"
        self.text.add(indent, f"copy{count * size}({to}, select(ok, {source} + at * {size}, {source}), {given})")

    def _chunks(self, indent: int, count: int) -> None:
        """Open a loop over this thread's part ``c`` of ``count`` copies."""
        threads = self.tile.threads
        if count % threads == 0:
            self.text.add(indent, f"for p in range({count // threads}):\n    c = p * {threads} + tid")
        else:
            self.text.add(indent, f"for c in range(tid, {count}, {threads}):")

    def _left(self, indent: int) -> None:
        """``at`` and ``ok`` of element (``i``, ``k``) of the left operand."""
        t, plan = self.text, self.plan
        if plan.stretched:
            t.add(indent, f"at = ab + i * {plan.k} + k\nok = (i < {self.rows}) & (k < {plan.k})")
            return
        width = 1 + len(self.windows)
        t.add(indent, f"ch = k % {plan.channels}\ntap = k // {plan.channels}\npixel = i64(table[row * {width}])")
        for at, d in reversed(list(enumerate(self.windows))):
            axis = plan.axes[d]
            t.add(indent, f"x{d} = i64(table[row * {width} + {1 + at}]) + tap % {axis.taps} * {axis.dilation}")
            t.add(indent, f"tap = tap // {axis.taps}")
        t.add(indent, f"ok = (i < {self.rows}) & (k < {plan.k})")
        place = self._place(indent, "ok")
        t.add(indent, f"at = ({place}) * {plan.channels} + ch")

    def _taps(self, indent: int) -> None:
        """``x<axis>``: the places that ``tap`` of output ``pixel`` reads; ``pixel`` becomes the number of the image."""
        t = self.text
        for d in reversed(self.windows):
            axis = self.plan.axes[d]
            t.add(indent, f"o{d} = pixel % {t.dim(axis.out)}\npixel = pixel // {t.dim(axis.out)}")
            t.add(indent, f"x{d} = o{d} * {axis.stride} + tap % {axis.taps} * {axis.dilation} - {t.dim(axis.low)}")
            t.add(indent, f"tap = tap // {axis.taps}")

    def _place(self, indent: int, ok: str) -> str:
        """Text of the pixel that ``x<axis>`` of image ``pixel`` name; ``ok`` is cleared where there is none."""
        t = self.text
        text = "pixel"
        for d in self.windows:
            axis = self.plan.axes[d]
            if axis.clips:
                t.add(indent, f"{ok} = {ok} & (x{d} >= 0) & (x{d} < {t.dim(axis.size)})")
            text = f"({text}) * {t.dim(axis.size)} + x{d}"
        return text

    # -- results --------------------------------------------------------------------------------------------------
    def _tail(self) -> None:
        """Epilogue and store, element by element in the order of memory."""
        t, plan, tile = self.text, self.plan, self.tile
        low = lower(self.found.epilogue, 4, registers=False)
        pieces = f"range({self._pieces})"
        if self.split:
            t.add(1, f"lo = select(parts > 0, i64(0), part)\nhi = select(parts > 0, i64({self._pieces}), part + 1)")
            pieces = "range(lo, hi)"
        t.add(1, f"ps = sf32(smem)\nfor p in {pieces}:")
        t.add(2, f"c = p * {tile.threads} + tid\nrow = c // {tile.columns}\ncol = c % {tile.columns}")
        t.add(2, f"i = m0 + row\nj = n0 + col\nif i < {self.rows} and j < {plan.n}:")
        t.add(3, f"at = ob + i * {plan.n} + j")
        inner = 3
        if self.split:
            t.add(3, f"if parts > 1:\n    sums[part * size + at] = ps[row * {tile.c_pitch} + col]\nelse:")
            inner = 4
            t.add(inner, "if parts == 0:\n    value = f32(0.0)")
            t.add(inner + 1, f"for s in range({self.deal.segments}):\n    value = value + sums[s * size + at]")
            t.add(inner, f"else:\n    value = ps[row * {tile.c_pitch} + col]")
        else:
            t.add(inner, f"value = ps[row * {tile.c_pitch} + col]")
        if self.pointer == "pf32":
            t.add(inner, "if not isfinite(value):")
            self._again(inner + 1)
        for name, how in low.loop_extras:
            t.add(inner, f"v{name} = p_{name}[{ {'channel': 'j', 'same': 'at', 'scalar': '0'}[how] }]")
        for statement in low.statements:
            t.add(inner, _renamed(statement))
        t.add(inner, f"po[at] = {self.store('value')}")

    def _again(self, indent: int) -> None:
        """The same element by plain float32 products: splitting turns an infinity times an exact number into NaN."""
        t, plan = self.text, self.plan
        t.add(indent, "value = f32(0.0)")
        if plan.stretched:
            right = "wb" if self.row == plan.row else f"wb // {self.row} * {plan.row}"
            right = f"{right} + j * {plan.k} + k" if plan.across else f"{right} + k * {plan.n} + j"
            t.add(indent, f"for k in range({plan.k}):")
            t.add(indent + 1, f"value = fma(pa[ab + i * {plan.k} + k], pw[{right}], value)")
            return
        taps = plan.k // plan.channels
        t.add(indent, f"for tap0 in range({taps}):\n    tap = tap0\n    pixel = i")
        self._taps(indent + 1)
        t.add(indent + 1, "ok = True")
        place = self._place(indent + 1, "ok")
        t.add(indent + 1, f"if ok:\n    base = ({place}) * {plan.channels}")
        t.add(indent + 2, f"for ch in range({plan.channels}):")
        t.add(
            indent + 3,
            f"value = fma(pa[base + ch], pw[(tap0 * {plan.channels} + ch) * {plan.n} + j], value)",
        )


def _at_once(size: int, row: int, wide: bool) -> int:
    """Elements of ``size`` bytes that one copy takes from rows of ``row``."""
    return next(n // size for n in (16, 8, 4) if n == 4 or (wide and row % (n // size) == 0))


def _renamed(statement: str) -> str:
    """An epilogue statement on ``value``: ``acc`` are the registers here."""
    return statement.replace("acc", "value")
