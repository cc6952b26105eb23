"""Convolution by plain loops: every dtype, weights as they lie (run-time weights too), symbolic channels.

Owns what no tile covers. Must not be used where ``conv`` or ``depthwise`` applies: it is far slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....core.dims import Extent, floordiv, product
from ....core.dtypes import F64, DType
from .conv_plan import make_axes
from .rows import clip_axis
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
    axes = make_axes(x_shape, w_shape, strides, pads, dilations, transposed, output_padding)
    t = TextBuilder(entry)
    t.pointer("x", "operand", 0)
    t.pointer("w", "operand", 1)
    t.pointer("out", "output")
    channels = x_shape[-1]
    out_group = w_shape[-2] if transposed else floordiv(w_shape[-1], groups)
    outputs = out_group * groups
    c, cg, k, kg = t.dim(channels), t.dim(floordiv(channels, groups)), t.dim(outputs), t.dim(out_group)
    d_size, h_size, w_size = (t.dim(axis.size) for axis in axes)
    pointer, load, store = scalar_access(dtype)
    zero = ("f64(0.0)" if dtype is F64 else "f32(0.0)") if dtype.is_float else "i64(0)"
    t.add(0, f"px = {pointer}(x)\npw = {pointer}(w)\npo = {pointer}(out)")
    t.add(0, "for u in range(start, stop):\n    rest = u")
    for name, axis in zip(("ow", "oh", "od"), reversed(axes), strict=True):
        t.add(1, f"{name} = rest % {t.dim(axis.out)}\nrest = rest // {t.dim(axis.out)}")
    for name, axis in zip("dhw", axes, strict=True):
        clip_axis(t, 1, axis, f"o{name}", name)
    step = [-axis.tap_back if axis.transposed else axis.dilation for axis in axes]
    every = [axis.tap_every if axis.transposed else 1 for axis in axes]
    taps_h, taps_w = axes[1].taps, axes[2].taps
    t.add(1, f"for j in range({k}):\n    g = j // {kg}\n    acc = {zero}")
    t.add(2, "for t0 in range(d_lo, d_hi):\n    for t1 in range(h_lo, h_hi):\n        for t2 in range(w_lo, w_hi):")
    t.add(5, f"row = (rest * {d_size} + d_at + t0 * {step[0]}) * {h_size} + h_at + t1 * {step[1]}")
    t.add(5, f"at = (row * {w_size} + w_at + t2 * {step[2]}) * {c} + g * {cg}")
    tap = f"((d_w + t0 * {every[0]}) * {taps_h} + h_w + t1 * {every[1]}) * {taps_w} + w_w + t2 * {every[2]}"
    t.add(5, f"tap = {tap}")
    if transposed:
        t.add(5, f"wt = (tap * {kg} + j - g * {kg}) * {c} + g * {cg}")
        weight = "pw[wt + i]"
    else:
        t.add(5, f"wt = tap * {cg} * {k} + j")
        weight = f"pw[wt + i * {k}]"
    t.add(5, f"for i in range({cg}):")
    if dtype.kind == "b":
        t.add(6, f"acc = acc | ({load('px[at + i]')} & {load(weight)})")
    else:
        t.add(6, f"acc = acc + {load('px[at + i]')} * {load(weight)}")
    t.add(2, f"po[u * {k} + j] = {store('acc')}")
    spatial = product(axis.out for axis in axes)
    work = product(axis.taps for axis in axes) * floordiv(channels, groups) * outputs
    extent = x_shape[0] * spatial
    grain = max(1, 50_000 // max(work, 1)) if isinstance(work, int) else 8
    return Template(t.source(), entry, tuple(t.args), extent, grain, 0, 2 * extent * work)
