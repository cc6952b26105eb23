"""Contractions by plain loops: any dtype, any shape, one thread per element of the result, with a fused tail.

Owns what no tensor-core kernel covers. Must not be used where one does: it is far slower.
"""

from __future__ import annotations

from ...core.dims import Extent, product
from ...ir.graph import Node
from ..numba_cpu.select.epilogue import Contraction
from ..numba_cpu.templates.epilogue import lower
from ..numba_cpu.templates.plain import TapWalk, broadcast_batch, matrix_numbers, zero_of
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
        t, low = self.text, lower(self.found.epilogue, self.dtype.size, lanes=0)
        for name, how in low.loop_extras:
            t.add(1, f"v{name} = p_{name}[{ {'channel': channel, 'same': 'u', 'scalar': '0'}[how] }]")
        for statement in low.statements:
            t.add(1, statement)
        t.add(1, f"po[u] = {self.store('acc')}")
        same = frozenset(i for i, how in enumerate(self.found.epilogue.extras) if how == "same")
        return Template(t.source(), t.entry, tuple(t.args), extent, 1, 0, flops, same)


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
    batch = broadcast_batch(lead, b[:-2])
    t.add(1, f"j = u % {width}\nrow = u // {width}")
    t.add(1, f"i = row % {height}\nrest = row // {height}" if batch else "i = row")
    a_number, b_number = matrix_numbers(t, 1, batch)
    row, step = ("1", height) if across else (depth, "1")
    w_row, w_step = ("1", depth) if down else (width, "1")
    t.add(1, f"a0 = {a_number} * ({height} * {depth}) + i * {row}")
    t.add(1, f"w0 = {b_number} * ({depth} * {width}) + j * {w_step}")
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
    text = _Text(found, "conv_general")
    t = text.text
    walk = TapWalk(
        t, x, w, attrs["strides"], attrs["pads"], attrs["dilations"], attrs["groups"], transposed,
        attrs.get("output_padding"),
    )  # fmt: skip
    t.add(1, f"j = u % {walk.k}\nrest = u // {walk.k}")
    walk.pixel(1)
    t.add(1, f"g = j // {walk.kg}\nacc = {text.zero}")
    at, weight = walk.taps(1)
    t.add(4, f"part = {text.zero}\nfor i in range({walk.cg}):")
    text.term(5, "part", f"pa[{at}]", f"pw[{weight}]")
    t.add(4, "acc = acc | part" if text.dtype.kind == "b" else "acc = acc + part")
    extent = walk.pixels * walk.outputs
    return text.finish("j", extent, 2 * extent * walk.terms)
