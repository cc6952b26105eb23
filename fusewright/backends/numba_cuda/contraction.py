"""Contractions and convolutions on tensor cores, with a fused tail: kernel text around the steps of ``tensor``.

Owns the reading of operands slice by slice, and the repair of results that are not finite. A unit is one block of the
result, or one segment of k of it; the order of additions is ``deal``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

from ...core.dims import Extent, ceildiv
from ..numba_cpu.select.epilogue import Contraction
from ..numba_cpu.templates.epilogue import lower
from ..numba_cpu.templates.plain import matrix_numbers
from ..numba_cpu.templates.template import Arg, Template, TextBuilder, scalar_access
from .deal import Share
from .forms import Form
from .product import FLAT, Product
from .tiles import PLAIN_SHARED, STAGES, WARP

REGISTERS, MOST_REGISTERS = 1 << 16, 128  # of a processor; of a thread


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
        self.windows = [] if plan.stretched else [d for d in range(3) if plan.axes[d] != FLAT]
        # Elements that one copy takes: as many as rows of 16 bytes allow, where the operand lies in such rows.
        self.left = _at_once(form.left, plan.channels, plan.wide[0])
        self.right = _at_once(form.right, gcd(self.row, plan.n) if plan.groups > 1 else self.row, mixed or plan.wide[1])

    @property
    def resident(self) -> int:
        """Blocks that a processor is to hold at a time. Copies of single elements have too many addresses under way
        for the registers that are left then."""
        return REGISTERS // (MOST_REGISTERS * self.tile.threads) if self._wide else 1

    @property
    def _wide(self) -> bool:
        return self.left * self.form.left == 16 and self.right * self.form.right == 16

    @property
    def shared(self) -> int:
        """Bytes of shared memory that the launch states: those that a kernel cannot declare."""
        return self._room if self._room > PLAIN_SHARED else 0

    @property
    def _room(self) -> int:
        return self._totals + (self.tile.total_bytes if self.split else 0)

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
        if deal.finish != 0 and share is deal.finisher:
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
        left, right = self.form.corners(tile, plan.across)
        t.add(0, f"smem = shared({self._room})\na_corner = {left}\nb_corner = {right} + {self.form.a_bytes(tile)}")
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
        if plan.groups > 1:
            t.add(1, f"group = rest % {plan.groups}\nrest = rest // {plan.groups}")
        if plan.batch:
            t.add(1, f"m0 = rest % {blocks} * {tile.rows}\nrest = rest // {blocks}\nwhich = rest")
        else:
            t.add(1, f"m0 = rest * {tile.rows}")
        left, right = matrix_numbers(t, 1, plan.batch)
        t.add(1, f"ab = {left} * {self.rows} * {plan.k}")
        t.add(1, f"wb = {right} * {self.row * (plan.n if plan.across else plan.k)}")
        t.add(1, f"ob = {f'which * {self.rows} * {plan.n}' if plan.batch else '0'}")
        if plan.groups > 1:
            t.add(1, f"ab = group * {plan.channels}\nwb = group * {plan.n}\nob = wb")

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
            t.add(indent + 1, f"ok = (k < {plan.k}) & (j < {plan.n})")
        else:
            per_row = tile.columns // self.right
            self._chunks(indent, form.depth * per_row)
            t.add(indent + 1, f"kk = c // {per_row}\nrow = c % {per_row} * {self.right}\nk = k0 + kk\nj = n0 + row")
            t.add(indent + 1, f"at = wb + k * {self.row} + j\nto = (kk * {pitch} + row) * {form.right}")
            t.add(indent + 1, f"ok = (k < {plan.k}) & (j < {plan.n})")
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
            t.add(indent, f"at = ab + i * {plan.pitch} + k\nok = (i < {self.rows}) & (k < {plan.k})")
            return
        width = 1 + len(self.windows)
        t.add(indent, f"ch = k % {plan.channels}\ntap = k // {plan.channels}\npixel = i64(table[row * {width}])")
        for at, d in reversed(list(enumerate(self.windows))):
            axis = plan.axes[d]
            t.add(indent, f"x{d} = i64(table[row * {width} + {1 + at}]) + tap % {axis.taps} * {axis.dilation}")
            t.add(indent, f"tap = tap // {axis.taps}")
        t.add(indent, f"ok = (i < {self.rows}) & (k < {plan.k})")
        place = self._place(indent, "ok")
        t.add(indent, f"at = ab + ({place}) * {plan.pitch} + ch")

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
        low = lower(self.found.epilogue, 4, lanes=0)
        pieces = f"range({self._pieces})"
        if self.split:
            t.add(1, f"lo = select(parts > 0, i64(0), part)\nhi = select(parts > 0, i64({self._pieces}), part + 1)")
            pieces = "range(lo, hi)"
        t.add(1, f"ps = sf32(smem)\nfor p in {pieces}:")
        t.add(2, f"c = p * {tile.threads} + tid\nrow = c // {tile.columns}\ncol = c % {tile.columns}")
        t.add(2, f"i = m0 + row\nj = n0 + col\nif i < {self.rows} and j < {plan.n}:")
        t.add(3, f"at = ob + i * {plan.columns} + j\nchannel = {'ob + j' if plan.groups > 1 else 'j'}")
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
            t.add(inner, f"v{name} = p_{name}[{ {'channel': 'channel', 'same': 'at', 'scalar': '0'}[how] }]")
        for statement in low.statements:
            t.add(inner, _renamed(statement))
        t.add(inner, f"po[at] = {self.store('value')}")

    def _again(self, indent: int) -> None:
        """The same element by plain float32 products: splitting turns an infinity times an exact number into NaN."""
        t, plan = self.text, self.plan
        t.add(indent, "value = f32(0.0)")
        # Where the right operand is read, ``wb`` counts in rows that may be filled up.
        base = "wb" if self.row == plan.row or plan.groups > 1 else f"wb // {self.row} * {plan.row}"
        if plan.stretched:
            right = f"{base} + j * {plan.k} + k" if plan.across else f"{base} + k * {plan.columns} + j"
            t.add(indent, f"for k in range({plan.k}):")
            t.add(indent + 1, f"value = fma(pa[ab + i * {plan.pitch} + k], pw[{right}], value)")
            return
        taps = plan.k // plan.channels
        t.add(indent, f"for tap0 in range({taps}):\n    tap = tap0\n    pixel = i")
        self._taps(indent + 1)
        t.add(indent + 1, "ok = True")
        place = self._place(indent + 1, "ok")
        t.add(indent + 1, f"if ok:\n    base = ab + ({place}) * {plan.pitch}")
        t.add(indent + 2, f"for ch in range({plan.channels}):")
        right = f"wb + (tap0 * {plan.channels} + ch) * {plan.columns} + j"
        t.add(indent + 3, f"value = fma(pa[base + ch], pw[{right}], value)")


def _at_once(size: int, row: int, wide: bool) -> int:
    """Elements of ``size`` bytes that one copy takes from rows of ``row``."""
    return next(n // size for n in (16, 8, 4) if n == 4 or (wide and row % (n // size) == 0))


def _renamed(statement: str) -> str:
    """An epilogue statement on ``value``: ``acc`` are the registers here."""
    return statement.replace("acc", "value")
