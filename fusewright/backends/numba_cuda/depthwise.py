"""Depthwise convolutions of GPUs: four channels and some neighbouring pixels of a row per thread, with a fused tail.

Owns which ones are served so, and their text. Each input pixel of a row is read once for all results that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...core.dims import Extent, ceildiv, product
from ...core.dtypes import F32
from ...ir.graph import Const, Node, Value
from ..numba_cpu.select.epilogue import Contraction
from ..numba_cpu.templates.conv_plan import Axis, make_axes
from ..numba_cpu.templates.epilogue import lower
from ..numba_cpu.templates.template import Template, TextBuilder
from .deal import PROCESSORS, fewest
from .product import FLAT

WIDTH = 4  # channels of a thread: 16 bytes
_PIXELS = (4, 2, 1)  # of a thread
_THREADS = 128 * PROCESSORS  # fewer leave processors without enough reads under way
_MOST_COLUMNS = 16  # read for one row of a thread: registers


@dataclass(frozen=True, slots=True)
class Plan:
    """One row of results: ``pixels`` of them per thread along ``row``, over ``column`` of the windows."""

    images: Extent
    channels: int
    column: Axis
    row: Axis
    pixels: int

    @property
    def places(self) -> list[int]:
        """Input columns of a thread, from its first one."""
        return _places(self.row, self.pixels)

    @property
    def units(self) -> Extent:
        across = ceildiv(self.row.out, self.pixels) * (self.channels // WIDTH)
        return self.images * self.column.out * across


def _places(row: Axis, pixels: int) -> list[int]:
    return sorted({p * row.stride + t * row.dilation for p in range(pixels) for t in range(row.taps)})


def read(found: Contraction, node: Node, fixed: Mapping[int, Const], wide: Callable[[Value], bool]) -> Plan | None:
    """The plan of a depthwise convolution with one result per channel, or None where this kernel does not serve it.

    Weights are finite constants: beside the image they meet zeros.
    """
    anchor, weights = found.anchor, fixed.get(found.operands[1])
    if anchor.op.name != "conv" or anchor.results[0].dtype is not F32 or weights is None:
        return None
    x, w = (v.shape for v in anchor.operands)
    channels, attrs = x[-1], anchor.attrs
    if not isinstance(channels, int) or attrs["groups"] != channels or w[-1] != channels or channels % WIDTH:
        return None
    axes = make_axes(x, w, attrs["strides"], attrs["pads"], attrs["dilations"])
    values = [node.operands[i] for i in found.operands] + [node.results[0]]
    values += [node.operands[i] for i, how in zip(found.extras, found.epilogue.extras, strict=True) if how != "scalar"]
    if axes[0] != FLAT or not all(wide(v) for v in values) or not np.isfinite(weights.array).all():
        return None
    for pixels in _PIXELS:
        plan = Plan(x[0], channels, axes[1], axes[2], pixels)
        if len(plan.places) <= _MOST_COLUMNS and (pixels == 1 or fewest(plan.units) >= _THREADS):
            return plan
    return None


def template(found: Contraction, plan: Plan) -> Template:
    """The kernel; a unit is ``plan.pixels`` results of ``WIDTH`` channels."""
    t, low, c = TextBuilder("depthwise"), lower(found.epilogue, 4, lanes=0), plan.channels
    column, row, pixels = plan.column, plan.row, range(plan.pixels)
    t.pointer("a", "operand", 0)
    t.pointer("w", "operand", 1)
    t.pointer("out", "output")
    t.add(0, "pa = pf32(a)\npw = pf32(w)\npo = pf32(out)")
    for i in range(len(found.epilogue.extras)):
        t.pointer(f"e{i}", "extra", i)
        t.add(0, f"p_e{i} = pf32(e{i})")
    parts = t.dim(ceildiv(row.out, plan.pixels))
    height, width = t.dim(column.size), t.dim(row.size)
    out_height, out_width = t.dim(column.out), t.dim(row.out)
    t.add(0, "for u in range(start, stop):")
    t.add(1, f"channel = u % {c // WIDTH} * {WIDTH}\nrest = u // {c // WIDTH}")
    t.add(1, f"ox = rest % {parts} * {plan.pixels}\nrest = rest // {parts}")
    t.add(1, f"oy = rest % {out_height}\nimage = rest // {out_height}")
    t.add(1, f"left = ox * {row.stride} - {t.dim(row.low)}\ntop = oy * {column.stride} - {t.dim(column.low)}")
    for p in pixels:
        t.add(1, f"acc{p} = (f32(0.0), f32(0.0), f32(0.0), f32(0.0))")
    even = isinstance(row.out, int) and row.out % plan.pixels == 0
    inside = even and not row.clips  # no thread reads beside the image
    t.add(1, f"for ty in range({column.taps}):\n    y = top + ty * {column.dilation}")
    indent = 2
    if column.clips:
        t.add(2, f"if y >= 0 and y < {height}:")
        indent = 3
    t.add(indent, f"at = ((image * {height} + y) * {width} + left) * {c} + channel")
    t.add(indent, f"wt = ty * {row.taps * c} + channel")
    for tap in range(row.taps):
        t.add(indent, f"w{tap} = get4(pw, wt + {tap * c})")
    for place in plan.places:
        if inside:
            t.add(indent, f"x{place} = get4(pa, at + {place * c})")
        else:
            ok = f"(left + {place} >= 0) & (left + {place} < {width})"
            t.add(indent, f"x{place} = take4(pa, at + {place * c}, {ok})")
    for tap in range(row.taps):
        for p in pixels:
            t.add(indent, f"acc{p} = fma4(x{p * row.stride + tap * row.dilation}, w{tap}, acc{p})")
    for name, how in low.loop_extras:
        if how != "same":
            t.add(1, f"v{name} = " + (f"get4(p_{name}, channel)" if how == "channel" else f"p_{name}[0]"))
    t.add(1, f"to = ((image * {out_height} + oy) * {out_width} + ox) * {c} + channel")
    for p in pixels:
        indent = 1
        if p and not even:
            t.add(1, f"if ox + {p} < {out_width}:")
            indent = 2
        for name, how in low.loop_extras:
            if how == "same":
                t.add(indent, f"v{name} = get4(p_{name}, to + {p * c})")
        given = [
            ", ".join(
                [f"acc{p}[{e}]", *(f"v{n}" + ("" if how == "scalar" else f"[{e}]") for n, how in low.loop_extras)]
            )
            for e in range(WIDTH)
        ]
        done = f"({', '.join(f'tail({g})' for g in given)})" if low.statements else f"acc{p}"
        t.add(indent, f"put4(po, to + {p * c}, {done})")
    same = frozenset(i for i, how in enumerate(found.epilogue.extras) if how == "same")
    text, taps = t.source(), row.taps * column.taps
    if low.statements:
        # A function of its own: Numba reads the tail once, not once per result.
        body = "\n".join(f"    {line}" for s in low.statements for line in s.split("\n"))
        named = ", ".join(["acc", *(f"v{name}" for name, _ in low.loop_extras)])
        text = f"def tail({named}):\n{body}\n    return acc\n\n\n{text}"
    flops = 2 * taps * product((plan.images, column.out, row.out, c))
    return Template(text, t.entry, tuple(t.args), plan.units, 1, 0, flops, same)
