"""Contractions by plain loops: any dtype, any shape, one thread per element of the result, with a fused tail.

Owns what no tensor-core kernel covers. Must not be used where one does: it is far slower.
"""

from __future__ import annotations

from ...core.dims import Extent, floordiv, product
from ...core.dtypes import F64, DType
from ...ir.graph import Node
from ..numba_cpu.select.epilogue import Contraction
from ..numba_cpu.templates.conv_plan import make_axes
from ..numba_cpu.templates.epilogue import lower
from ..numba_cpu.templates.matmul import _batch
from ..numba_cpu.templates.rows import clip_axis
from ..numba_cpu.templates.template import SUM_TERMS, Template, TextBuilder, scalar_access


class _Text:
    """A kernel whose unit ``u`` is one element of the result."""

    def __init__(self, found: Contraction, entry: str) -> None:
        self.found, self.dtype = found, found.anchor.results[0].dtype
        self.pointer, self.load, self.store = scalar_access(self.dtype)
        t = self.text = TextBuilder(entry)
        t.pointer("a", "operand", 0)
        t.pointer("w", "operand", 1)
        t.pointer("out", "output")
        for i in range(len(found.epilogue.extras)):
            t.pointer(f"e{i}", "extra", i)
            t.add(0, f"p_e{i} = {self.pointer}(e{i})")
        t.add(0, f"pa = {self.pointer}(a)\npw = {self.pointer}(w)\npo = {self.pointer}(out)")
        t.add(0, "for u in range(start, stop):")

    @property
    def zero(self) -> str:
        return zero_of(self.dtype)

    def term(self, indent: int, acc: str, x: str, y: str) -> None:
        if self.dtype.is_float:
            self.text.add(indent, f"{acc} = fma({self.load(x)}, {self.load(y)}, {acc})")
            return
        sign, join = ("&", "|") if self.dtype.kind == "b" else ("*", "+")
        self.text.add(indent, f"{acc} = {acc} {join} ({self.load(x)} {sign} {self.load(y)})")

    def finish(self, channel: str, extent: Extent, flops: Extent) -> Template:
        """Epilogue and store of element ``u``, whose channel is ``channel``."""
        t, low = self.text, lower(self.found.epilogue, self.dtype.size, registers=False)
        for name, how in low.loop_extras:
            t.add(1, f"v{name} = p_{name}[{ {'channel': channel, 'same': 'u', 'scalar': '0'}[how] }]")
        for statement in low.statements:
            t.add(1, statement)
        t.add(1, f"po[u] = {self.store('acc')}")
        same = frozenset(i for i, how in enumerate(self.found.epilogue.extras) if how == "same")
        return Template(t.source(), t.entry, tuple(t.args), extent, 1, 0, flops, same)


def zero_of(dtype: DType) -> str:
    """The accumulator's first value."""
    if not dtype.is_float:
        return "i64(0)"
    return "f64(0.0)" if dtype is F64 else "f32(0.0)"


def matmul(found: Contraction) -> Template:
    """``a @ w`` with NumPy's batch broadcasting."""
    node = found.anchor
    a, b = (v.shape for v in node.operands)
    across, down = node.attrs["transpose_a"], node.attrs["transpose_b"]
    k, m = (a[-2], a[-1]) if across else (a[-1], a[-2])
    n = b[-2] if down else b[-1]
    lead = a[:-2]
    if not across and all(d == 1 for d in b[:-2]):
        m, lead = product(a[:-1]), ()
    text = _Text(found, "matmul_general")
    t = text.text
    width, depth, height = t.dim(n), t.dim(k), t.dim(m)
    batch = _batch(lead, b[:-2])
    t.add(1, f"j = u % {width}\nrow = u // {width}")
    t.add(1, f"i = row % {height}\nrest = row // {height}" if batch else "i = row")
    a_terms, b_terms = [], []
    a_step: Extent = 1
    b_step: Extent = 1
    for d, (extent, in_a, in_b) in reversed(list(enumerate(batch))):
        t.add(1, f"b{d} = rest % {t.dim(extent)}\nrest = rest // {t.dim(extent)}")
        if in_a:
            a_terms.append(f"b{d} * {t.dim(a_step)}")
            a_step = a_step * extent
        if in_b:
            b_terms.append(f"b{d} * {t.dim(b_step)}")
            b_step = b_step * extent
    row, step = ("1", height) if across else (depth, "1")
    w_row, w_step = ("1", depth) if down else (width, "1")
    t.add(1, f"a0 = ({' + '.join(a_terms) or '0'}) * ({height} * {depth}) + i * {row}")
    t.add(1, f"w0 = ({' + '.join(b_terms) or '0'}) * ({depth} * {width}) + j * {w_step}")
    t.add(1, f"acc = {text.zero}")
    indent, inner = 1, "acc"
    if text.dtype.is_float and not (isinstance(k, int) and k <= SUM_TERMS):
        # Long sums in pieces: each starts from zero, so that late terms do not meet a large sum.
        t.add(1, f"for k0 in range(0, {depth}, {SUM_TERMS}):\n    part = {text.zero}")
        t.add(2, f"for kk in range(k0, min(k0 + {SUM_TERMS}, {depth})):")
        indent, inner = 2, "part"
    else:
        t.add(1, f"for kk in range({depth}):")
    text.term(indent + 1, inner, f"pa[a0 + kk * {step}]", f"pw[w0 + kk * {w_row}]")
    if inner == "part":
        t.add(2, "acc = acc + part")
    extent = product(d for d, _, _ in batch) * m * n
    return text.finish("j", extent, 2 * extent * k)


def conv(found: Contraction) -> Template:
    """Channels-last convolution (kernel HWIO) or transposed convolution (kernel HWOI)."""
    node: Node = found.anchor
    x, w = (v.shape for v in node.operands)
    attrs, transposed = node.attrs, node.op.name == "conv_transpose"
    groups = attrs["groups"]
    axes = make_axes(
        x, w, attrs["strides"], attrs["pads"], attrs["dilations"], transposed, attrs.get("output_padding")
    )  # fmt: skip
    text = _Text(found, "conv_general")
    t = text.text
    channels = x[-1]
    out_group = w[-2] if transposed else floordiv(w[-1], groups)
    outputs = out_group * groups
    c, cg, k, kg = t.dim(channels), t.dim(floordiv(channels, groups)), t.dim(outputs), t.dim(out_group)
    d_size, h_size, w_size = (t.dim(axis.size) for axis in axes)
    t.add(1, f"j = u % {k}\nrest = u // {k}")
    for name, axis in zip(("ow", "oh", "od"), reversed(axes), strict=True):
        t.add(1, f"{name} = rest % {t.dim(axis.out)}\nrest = rest // {t.dim(axis.out)}")
    for name, axis in zip("dhw", axes, strict=True):
        clip_axis(t, 1, axis, f"o{name}", name)
    step = [-axis.tap_back if axis.transposed else axis.dilation for axis in axes]
    every = [axis.tap_every if axis.transposed else 1 for axis in axes]
    taps_h, taps_w = axes[1].taps, axes[2].taps
    t.add(1, f"g = j // {kg}\nacc = {text.zero}")
    t.add(1, "for t0 in range(d_lo, d_hi):\n    for t1 in range(h_lo, h_hi):\n        for t2 in range(w_lo, w_hi):")
    t.add(4, f"row = (rest * {d_size} + d_at + t0 * {step[0]}) * {h_size} + h_at + t1 * {step[1]}")
    t.add(4, f"at = (row * {w_size} + w_at + t2 * {step[2]}) * {c} + g * {cg}")
    tap = f"((d_w + t0 * {every[0]}) * {taps_h} + h_w + t1 * {every[1]}) * {taps_w} + w_w + t2 * {every[2]}"
    t.add(4, f"tap = {tap}")
    if transposed:
        t.add(4, f"wt = (tap * {kg} + j - g * {kg}) * {c} + g * {cg}")
        weight = "pw[wt + i]"
    else:
        t.add(4, f"wt = tap * {cg} * {k} + j")
        weight = f"pw[wt + i * {k}]"
    t.add(4, f"part = {text.zero}\nfor i in range({cg}):")
    text.term(5, "part", "pa[at + i]", weight)
    t.add(4, "acc = acc | part" if text.dtype.kind == "b" else "acc = acc + part")
    spatial = product(axis.out for axis in axes)
    extent = x[0] * spatial * outputs
    work = product(axis.taps for axis in axes) * floordiv(channels, groups)
    return text.finish("j", extent, 2 * extent * work)
