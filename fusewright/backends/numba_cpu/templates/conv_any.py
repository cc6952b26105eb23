"""Convolution by plain loops: every dtype, weights as they lie (run-time weights too), symbolic channels.

Owns what no tile covers. Must not be used where ``conv`` or ``depthwise`` applies: it is far slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....core.dims import Extent
from ....core.dtypes import DType
from .plain import TapWalk, zero_of
from .template import Template, TextBuilder, scalar_access


def conv_any(
    dtype: DType,
    x_shape: Sequence[Extent],
    w_shape: Sequence[Extent],
    strides: Sequence[int],
    pads: Sequence[tuple[Extent, Extent]],
    dilations: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    output_padding: Sequence[int] | None = None,
    entry: str = "conv_any",
) -> Template:
    """Channels-last convolution (kernel HWIO) or transposed convolution (kernel HWOI), no epilogue.

    Arguments: ``x``, ``w`` (operands 0 and 1, as they lie), ``out``. A unit is one output pixel. f16 and bf16
    accumulate in float32 and round once; integers wrap. Order per element: taps, then channels.
    """
    t = TextBuilder(entry)
    t.pointer("x", "operand", 0)
    t.pointer("w", "operand", 1)
    t.pointer("out", "output")
    walk = TapWalk(t, x_shape, w_shape, strides, pads, dilations, groups, transposed, output_padding)
    pointer, load, store = scalar_access(dtype)
    t.add(0, f"px = {pointer}(x)\npw = {pointer}(w)\npo = {pointer}(out)")
    t.add(0, "for u in range(start, stop):\n    rest = u")
    walk.pixel(1)
    t.add(1, f"for j in range({walk.k}):\n    g = j // {walk.kg}\n    acc = {zero_of(dtype)}")
    at, weight = walk.taps(2)
    x, w = load(f"px[{at}]"), load(f"pw[{weight}]")
    t.add(5, f"for i in range({walk.cg}):")
    t.add(6, f"acc = acc | ({x} & {w})" if dtype.kind == "b" else f"acc = acc + {x} * {w}")
    t.add(2, f"po[u * {walk.k} + j] = {store('acc')}")
    work = walk.terms * walk.outputs
    grain = max(1, 50_000 // max(work, 1)) if isinstance(work, int) else 8
    return Template(t.source(), entry, tuple(t.args), walk.pixels, grain, 0, 2 * walk.pixels * work)
