"""Walking one output row in tiles: inside the image in bulk, at its borders with the taps that exist.

Owns the cut of rows and the ranges of taps, forward and transposed. Must not know what a tile computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ....core.dims import Extent, ceildiv
from .conv_plan import Axis
from .epilogue import Epilogue, Lowered, lower
from .template import ArgKind, TextBuilder, split_rows
from .tiling import open_runs

MOST_UNROLLED_TAPS = 9
FEWEST_ALIKE = 4  # fewer pixels that read the same taps are not worth a tile
FEW_LINES = 16  # fewer units than this do not keep the threads of a CPU even


@dataclass(frozen=True, slots=True)
class Run:
    """A walk along one row: step ``j`` of ``count`` writes column ``out_base + j * out_step``; its tap ``t`` reads
    column ``in_base + j * in_step + t * tap_step`` with kernel tap ``w_base + t * w_step``."""

    count: Extent
    in_base: Extent
    in_step: int
    out_base: int
    out_step: int
    taps: int
    tap_step: int
    w_base: int
    w_step: int


def runs_of(axis: Axis) -> list[Run]:
    """One run forward; one per residue of the stride for a transposed axis."""
    if not axis.transposed:
        return [Run(axis.out, -axis.low, axis.stride, 0, 1, axis.taps, axis.dilation, 0, 1)]
    if not isinstance(axis.low, int):
        raise ValueError("a transposed convolution crops by known amounts")
    runs = []
    for residue in range(axis.stride):
        full = residue + axis.low
        first = next((k for k in range(axis.taps) if (full - k * axis.dilation) % axis.stride == 0), None)
        count = ceildiv(axis.out - residue, axis.stride)
        if isinstance(count, int) and count <= 0:
            continue
        if first is None:
            runs.append(Run(count, 0, 1, residue, axis.stride, 0, 1, 0, 1))
            continue
        taps = -(-(axis.taps - first) // axis.tap_every)
        base = (full - first * axis.dilation) // axis.stride
        runs.append(Run(count, base, 1, residue, axis.stride, taps, -axis.tap_back, first, axis.tap_every))
    return runs


@dataclass(frozen=True, slots=True)
class Part:
    """The columns of a tile: vectors, masking (see the tile's TAIL) and the text of how many are valid."""

    vectors: int
    tail: int
    cols: str


class RowWalk(ABC):
    """Writes the loops over the columns of a row; subclasses write the tile itself.

    ``axis`` is the row's axis, ``most`` the tallest tile. Loops leave the current step in ``j``. Where rows are few,
    units are ``pieces`` of a row: then a walk goes from piece ``p_lo`` up to ``p_hi``, and no tile lies in two pieces.
    """

    most: int
    pieces: Extent = 1

    def __init__(
        self, axes: tuple[Axis, Axis, Axis], size: int, lanes: int, epilogue: Epilogue, entry: str,
        operand: ArgKind = "operand", weights: bool = True,
    ) -> None:  # fmt: skip
        self.size = size
        self.low: Lowered = lower(epilogue, size, lanes)
        self.pointer = "pf32" if size == 4 else "pf64"
        t = self.text = TextBuilder(entry)
        t.pointer("a", operand, 0)
        if weights:
            t.pointer("w", "weights", 1)
        t.pointer("out", "output")
        for i in range(len(epilogue.extras)):
            t.pointer(f"e{i}", "extra", i)
        self.depth, height, self.axis = axes
        self.od, self.oh, self.ow = t.dim(self.depth.out), t.dim(height.out), t.dim(self.axis.out)
        self.d, self.h, self.w = t.dim(self.depth.size), t.dim(height.size), t.dim(self.axis.size)
        self.width_text = self.w

    @abstractmethod
    def tile_call(
        self, indent: int, run: Run, height: int, part: Part, border_at: int | None = None, clip: bool = False,
        loop: bool = True,
    ) -> None:  # fmt: skip
        """Write one tile of ``height`` rows at step ``j``, and with ``loop`` what follows it.

        ``border_at``: the step, known now, of a tile with taps outside; ``clip``: taps are ``[t_lo, t_hi)``.
        """

    @abstractmethod
    def after(self, indent: int, height: str, run: Run, part: Part) -> None:
        """Write what follows a tile."""

    def row_text(self) -> str:
        """The first pixel of the input row under the first tap of an output row, counted from the image's first."""
        if self.depth.plain:
            return f"h_at * {self.w}" if self.depth.out == 1 else f"(od * {self.h} + h_at) * {self.w}"
        return f"(d_at * {self.h} + h_at) * {self.w}"

    def cut(self, lines: Extent) -> None:
        """Make pieces of rows where there are but ``lines`` of them: their tiles, or as many steps as a tile has."""
        if not isinstance(lines, int) or lines >= FEW_LINES:
            return
        cells = [self._static(run) for run in runs_of(self.axis)]
        if None in cells:
            self.pieces = ceildiv(self.axis.steps, self.most)
        else:
            self.pieces = max(1, sum(len(c) for c in cells if c))

    def open_pieces(self, at: str, rest: str) -> None:
        """The loop over runs of neighbouring pieces of one row: ``at`` is the row's number, ``rest`` what is left."""
        t = self.text
        open_runs(t, t.dim(self.pieces), "p_lo", rest)
        t.add(1, f"p_hi = p_lo + run\nrun = 1\n{at} = {rest} % {self.oh}\n{rest} = {rest} // {self.oh}")

    @property
    def _whole(self) -> bool:
        """Rows are walked from end to end."""
        return self.pieces == 1

    def row(self, indent: int, part: Part) -> None:
        """All columns of one output row, or of the pieces of it."""
        runs = runs_of(self.axis)
        cells = [self._static(run) for run in runs]
        free, first = not self._whole and None in cells, 0
        for run, given in zip(runs, cells, strict=True):
            if given is None or free:
                self._clipped(indent, run, part)
            else:
                self._segments(indent, run, given, part, first)
                first += len(given)

    def _static(self, run: Run) -> list[tuple[int, int, bool]] | None:
        """Tiles (first step, height, all taps inside) of a row known at compile time, else None."""
        width = self.axis.size
        if not (isinstance(run.count, int) and isinstance(run.in_base, int) and isinstance(width, int)):
            return None
        cells, at = [], 0
        for height in split_rows(run.count, self.most) if run.count > 0 else []:
            steps = range(at, at + height)
            columns = [run.in_base + j * run.in_step + t * run.tap_step for j in steps for t in range(run.taps)]
            cells.append((at, height, all(0 <= c < width for c in columns)))
            at += height
        borders = sum(not inside for *_, inside in cells)
        return None if borders > 2 or (borders and run.taps > MOST_UNROLLED_TAPS) else cells

    def _segments(
        self, indent: int, run: Run, cells: list[tuple[int, int, bool]], part: Part, first: int
    ) -> None:  # fmt: skip
        """Static tiles, pieces from ``first`` on; neighbours of one kind share a loop and so one copy of the code."""
        t, i = self.text, 0
        while i < len(cells):
            at, height, inside = cells[i]
            k = i + 1
            while inside and k < len(cells) and cells[k][1:] == (height, True):
                k += 1
            piece = first + i
            if k - i > 1:
                steps = str(k - i) if self._whole else f"max(0, p_lo - {piece}), min({k - i}, p_hi - {piece})"
                t.add(indent, f"for t in range({steps}):")
                t.add(indent + 1, f"j = {at} + t * {height}")
                self.tile_call(indent + 1, run, height, part)
            else:
                if not self._whole:
                    t.add(indent, f"if p_lo <= {piece} and {piece} < p_hi:")
                inner = indent if self._whole else indent + 1
                t.add(inner, f"j = {at}")
                self.tile_call(inner, run, height, part, border_at=None if inside else at)
            i = k

    def _clipped(self, indent: int, run: Run, part: Part) -> None:
        """A row of unknown width, or with many tiles at its borders: whole tiles inside, clipped taps outside."""
        t, width = self.text, self.width_text
        count, base = t.dim(run.count), t.dim(run.in_base)
        from_, to = "0", count
        if not self._whole:
            t.add(indent, f"j_from = min({count}, p_lo * {self.most})\nj_to = min({count}, p_hi * {self.most})")
            from_, to = "j_from", "j_to"
        lowest, highest = min(0, (run.taps - 1) * run.tap_step), max(0, (run.taps - 1) * run.tap_step)
        t.add(indent, f"j_lo = min({to}, max({from_}, ({run.in_step - 1} - ({base} + {lowest})) // {run.in_step}))")
        t.add(indent, f"j_hi = ({width} - 1 - ({base} + {highest})) // {run.in_step} + 1")
        t.add(indent, f"j_hi = max(j_lo, min({to}, j_hi))")
        self._borders(indent, run, part, from_, to)
        self.walk_tiles(indent, run, part, "j_lo", "j_hi")

    def _borders(self, indent: int, run: Run, part: Part, from_: str, to: str) -> None:
        """Steps ``[from_, j_lo)`` and ``[j_hi, to)``, where taps are outside: pixel by pixel, and in tiles where those
        of far taps have neighbours that read the same ones."""
        t, width, base = self.text, self.width_text, self.text.dim(run.in_base)
        tallest = min(self.most, run.tap_step // run.in_step)
        if tallest < FEWEST_ALIKE:
            t.add(indent, f"for b in range({from_}, j_lo + {to} - j_hi):")
            t.add(indent + 1, "j = b if b < j_lo else j_hi + b - j_lo")
        else:
            t.add(indent, f"b = {from_}\nwhile b < j_lo + {to} - j_hi:")
            t.add(indent + 1, f"j = b if b < j_lo else j_hi + b - j_lo\nalike = (j_lo if b < j_lo else {to}) - j")
        indent += 1
        t.add(indent, f"at_c = {base} + j * {run.in_step}")
        lo, hi = clip_taps("at_c", width, run.tap_step, str(run.taps))
        t.add(indent, f"t_lo = {lo}\nt_hi = {hi}")
        if tallest >= FEWEST_ALIKE:
            last = run.in_step * (tallest - 1)  # from the first pixel of a tile to its last one
            t.add(indent, f"end_c = at_c + {last}")
            lo, hi = clip_taps("end_c", width, run.tap_step, str(run.taps))
            t.add(indent, f"if alike >= {tallest} and t_lo == {lo} and t_hi == {hi}:")
            self.tile_call(indent + 1, run, tallest, part, clip=True)
            t.add(indent + 1, f"b += {tallest}\ncontinue")
            t.add(indent, "b += 1")
        self.tile_call(indent, run, 1, part, clip=True)

    def walk_tiles(self, indent: int, run: Run, part: Part, low: str, high: str) -> None:
        """Steps ``[low, high)``, all taps inside, in tiles of even height."""
        t, most = self.text, self.most
        t.add(indent, f"span = {high} - {low}\ntiles = (span + {most - 1}) // {most}\nj = {low}")
        t.add(indent, "for t in range(tiles):")
        t.add(indent + 1, "hh = (span + t) // tiles")
        for i, height in enumerate(range(most, 0, -1)):
            t.add(indent + 1, f"{'elif' if i else 'if'} hh == {height}:")
            self.tile_call(indent + 2, run, height, part, loop=False)
        self.after(indent + 1, "hh", run, part)
        t.add(indent + 1, "j += hh")


def clip_taps(column: str, size: str, step: int, taps: str) -> tuple[str, str]:
    """Texts of the range of taps ``t`` with ``0 <= column + t * step < size``."""
    if step > 0:
        if step == 1:
            return f"max(0, -{column})", f"min({taps}, {size} - {column})"
        low = f"max(0, ({step - 1} - {column}) // {step})"
        return low, f"min({taps}, ({size} - {column} + {step - 1}) // {step})"
    return f"max(0, ({column} - {size}) // {-step} + 1)", f"min({taps}, {column} // {-step} + 1)"


def clip_axis(t: TextBuilder, indent: int, axis: Axis, at: str, name: str) -> None:
    """Range of taps inside the input for output ``at`` of ``axis``: ``{name}_at``, ``_w``, ``_lo``, ``_hi``."""
    if axis.transposed:
        every, back = axis.tap_every, axis.tap_back
        t.add(indent, f"{name}_f = {at} + {t.dim(axis.low)}\n{name}_w = 0")
        t.add(indent, f"while {name}_w < {every} and ({name}_f - {name}_w * {axis.dilation}) % {axis.stride} != 0:")
        t.add(indent + 1, f"{name}_w += 1")
        t.add(indent, f"{name}_at = ({name}_f - {name}_w * {axis.dilation}) // {axis.stride}")
        fits = f"({axis.taps} - {name}_w + {every - 1}) // {every}"
        t.add(indent, f"{name}_t = {fits} if {name}_w < {every} else 0")
        size = t.dim(axis.size)
        t.add(indent, f"{name}_lo = max(0, ({name}_at - {size}) // {back} + 1)")
        t.add(indent, f"{name}_hi = min({name}_t, {name}_at // {back} + 1)")
        return
    t.add(indent, f"{name}_at = {at} * {axis.stride} - {t.dim(axis.low)}\n{name}_w = 0")
    if axis.low == 0 and axis.high == 0:
        t.add(indent, f"{name}_lo = 0\n{name}_hi = {axis.taps}")
    else:
        lo, hi = clip_taps(f"{name}_at", t.dim(axis.size), axis.dilation, str(axis.taps))
        t.add(indent, f"{name}_lo = {lo}\n{name}_hi = {hi}")
