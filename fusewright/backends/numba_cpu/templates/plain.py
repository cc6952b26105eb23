"""Pieces of plain loops: the batch of a product, the walk over a convolution's taps, an accumulator's first value.

Owns the index arithmetic that kernels for CPUs and GPUs share. Must not know what a unit of work is.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....core.dims import Extent, floordiv, product
from ....core.dtypes import F64, DType
from .conv_plan import Pads, make_axes
from .rows import clip_axis
from .template import TextBuilder

Batch = tuple[tuple[Extent, bool, bool], ...]  # (extent, a has it, b has it), outermost first


def broadcast_batch(a: tuple[Extent, ...], b: tuple[Extent, ...]) -> Batch:
    """The batch axes of a product of operands with these leading axes; neighbours that go together are one."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    out: list[tuple[Extent, bool, bool]] = []
    for x, y in zip(a, b, strict=True):
        if x == 1 and y == 1:
            continue
        item = (y if x == 1 else x, x != 1, y != 1)
        if out and out[-1][1:] == item[1:]:
            out[-1] = (out[-1][0] * item[0], *item[1:])
        else:
            out.append(item)
    return tuple(out)


def matrix_numbers(t: TextBuilder, indent: int, batch: Batch) -> tuple[str, str]:
    """Takes the number of a product in ``rest`` apart into its digits; text of its matrices' numbers in a and b."""
    a_terms, b_terms = [], []
    a_step: Extent = 1
    b_step: Extent = 1
    for d, (extent, in_a, in_b) in reversed(list(enumerate(batch))):
        t.add(indent, f"b{d} = rest % {t.dim(extent)}\nrest = rest // {t.dim(extent)}")
        if in_a:
            a_terms.append(f"b{d} * {t.dim(a_step)}")
            a_step = a_step * extent
        if in_b:
            b_terms.append(f"b{d} * {t.dim(b_step)}")
            b_step = b_step * extent
    return f"({' + '.join(a_terms) or '0'})", f"({' + '.join(b_terms) or '0'})"


def zero_of(dtype: DType) -> str:
    """An accumulator's first value."""
    if not dtype.is_float:
        return "i64(0)"
    return "f64(0.0)" if dtype is F64 else "f32(0.0)"


class TapWalk:
    """The loops over the taps of a channels-last convolution (kernel HWIO) or transposed convolution (kernel HWOI).

    ``c`` and ``k`` are the text of all channels and results, ``cg`` and ``kg`` of those of one group.
    """

    def __init__(
        self,
        t: TextBuilder,
        x: Sequence[Extent],
        w: Sequence[Extent],
        strides: Sequence[int],
        pads: Pads,
        dilations: Sequence[int],
        groups: int,
        transposed: bool,
        output_padding: Sequence[int] | None,
    ) -> None:
        self.text, self.transposed = t, transposed
        self.axes = make_axes(x, w, strides, pads, dilations, transposed, output_padding)
        out_group = w[-2] if transposed else floordiv(w[-1], groups)
        group = floordiv(x[-1], groups)
        self.outputs = out_group * groups
        self.pixels = x[0] * product(axis.out for axis in self.axes)
        self.terms = product(axis.taps for axis in self.axes) * group  # of one result
        self.c, self.cg, self.k, self.kg = t.dim(x[-1]), t.dim(group), t.dim(self.outputs), t.dim(out_group)
        self._sizes = [t.dim(axis.size) for axis in self.axes]

    def pixel(self, indent: int) -> None:
        """Takes the output pixel ``rest`` apart: ``rest`` becomes the image's number; the ranges of its taps."""
        t = self.text
        for name, axis in zip(("ow", "oh", "od"), reversed(self.axes), strict=True):
            t.add(indent, f"{name} = rest % {t.dim(axis.out)}\nrest = rest // {t.dim(axis.out)}")
        for name, axis in zip("dhw", self.axes, strict=True):
            clip_axis(t, indent, axis, f"o{name}", name)

    def taps(self, indent: int) -> tuple[str, str]:
        """Opens three loops over the taps of result ``j`` of group ``g``; where channel ``i`` of both operands lies."""
        t, (d_size, h_size, w_size) = self.text, self._sizes
        step = [-axis.tap_back if axis.transposed else axis.dilation for axis in self.axes]
        every = [axis.tap_every if axis.transposed else 1 for axis in self.axes]
        taps_h, taps_w = self.axes[1].taps, self.axes[2].taps
        for depth, name in enumerate("dhw"):
            t.add(indent + depth, f"for t{depth} in range({name}_lo, {name}_hi):")
        indent += 3
        t.add(indent, f"row = (rest * {d_size} + d_at + t0 * {step[0]}) * {h_size} + h_at + t1 * {step[1]}")
        t.add(indent, f"at = (row * {w_size} + w_at + t2 * {step[2]}) * {self.c} + g * {self.cg}")
        tap = f"((d_w + t0 * {every[0]}) * {taps_h} + h_w + t1 * {every[1]}) * {taps_w} + w_w + t2 * {every[2]}"
        t.add(indent, f"tap = {tap}")
        if self.transposed:
            t.add(indent, f"wt = (tap * {self.kg} + j - g * {self.kg}) * {self.c} + g * {self.cg}")
            return "at + i", "wt + i"
        t.add(indent, f"wt = tap * {self.cg} * {self.k} + j")
        return "at + i", f"wt + i * {self.k}"
