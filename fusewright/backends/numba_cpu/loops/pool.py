"""Max and mean pooling over 1 to 3 spatial axes, channels last or in blocks, and the change between the two layouts.

Owns their loops: a unit is one line of windows; windows that lie inside the input take their taps in one pass.
"""

from __future__ import annotations

from itertools import product as cartesian
from math import prod

import numpy as np

from ....core.dims import Extent, ceildiv, product
from ....core.dtypes import BOOL, F64
from ....ir.graph import Node
from ..templates.conv_plan import BLOCK
from ..templates.pool import Pooling, plan_pool
from ..templates.pool import pool as by_tiles
from ..templates.template import Template, TextBuilder
from ..templates.units import units as cut
from ..variants import DEFAULT_VARIANTS, VARIANTS, Variant
from .nest import accumulators, column_bytes, digits, grain, guess, strides
from .scalar import BIT_ZERO, BITS, extreme, load, lowest, pointer, register, store

UNROLLED = 32  # taps of a window that are written out
RUN = 8  # positions of one unit of a layout change
AHEAD = {"to_blocked": 2, "from_blocked": 16}  # positions; blocks are written at many places at once


def pool(node: Node, variant: Variant | None = None) -> list[Template]:
    """By tiles where there is one for the type of element, else by plain loops."""
    tiles = _by_tiles(node, variant or VARIANTS[DEFAULT_VARIANTS[0]]) if cut().tiles else None
    return _by_loops(node) if tiles is None else [tiles]


def _by_tiles(node: Node, variant: Variant) -> Template | None:
    blocked = node.op.name.endswith("_blocked")
    x, y, attrs = node.operands[0], node.results[0], node.attrs
    spatial = slice(2 if blocked else 1, -1)
    channels = x.shape[-1]
    if blocked:
        if channels != BLOCK or not isinstance(x.shape[1], int):
            return None
        channels = x.shape[1] * BLOCK
    window = attrs["window"]
    plan = plan_pool(
        variant, x.dtype, (x.shape[0], *x.shape[spatial], channels), y.shape[spatial], window, attrs["strides"],
        attrs["pads"], attrs["dilations"], blocked,
    )  # fmt: skip
    if plan is None:
        return None
    most = node.op.name.startswith("max")
    return by_tiles(plan, Pooling(most, 0 if most or not attrs["count_include_pad"] else prod(window)), node.op.name)


def _by_loops(node: Node) -> list[Template]:
    blocked = node.op.name.endswith("_blocked")
    x, y, attrs = node.operands[0], node.results[0], node.attrs
    first = 2 if blocked else 1
    lead, channels = product(x.shape[:first]), x.shape[-1]
    sizes, outs = x.shape[first:-1], y.shape[first:-1]
    rank, dt, mean = len(sizes), x.dtype, node.op.name.startswith("avg")
    window, dilations = attrs["window"], attrs["dilations"]
    taps = int(np.prod(window, dtype=int))
    acc = "f64" if dt is F64 else "f32" if mean else "u8" if dt is BOOL else register(dt)
    init = f"{acc}(0.0)" if mean else "u8(0)" if dt is BOOL else lowest(dt)

    def take(text: str) -> str:
        return text if dt is BOOL else load(dt, text)

    def combine(a: str, b: str) -> str:
        if mean:
            return f"({a} + {b})"
        return f"u8({a} | {b})" if dt is BOOL else extreme("maximum", dt, a, b)

    def give(a: str, count: str) -> str:
        if mean:
            return store(dt, f"({a} / {acc}({count}))")
        return a if dt is BOOL else store(dt, a)

    t = TextBuilder(node.op.name)
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    ptr, size, c = pointer(dt), dt.size, t.dim(channels)
    steps = [s * channels for s in strides(sizes)]
    t.add(0, "for u in range(start, stop):")
    names = ["b", *(f"o{a}" for a in range(rank - 1))]
    line, points, every, at = "u", f"range({t.dim(outs[-1])})", f"range({c})", "j"
    alone = not cut().tiles  # a unit is one element of the result
    if alone:
        t.add(1, f"ch = u % {c}\nleft = u // {c}\nfirst = left % {t.dim(outs[-1])}\nline = left // {t.dim(outs[-1])}")
        line, points, every, at = "line", "range(first, first + 1)", "range(ch, ch + 1)", "j - ch"
    digits(t, 1, line, list(zip(names, [lead, *outs[:-1]], strict=True)), set(names))
    for a in range(rank - 1):
        _span(t, 1, a, window[a], attrs["strides"][a], dilations[a], sizes[a], attrs["pads"][a][0])
    t.add(1, f"for o{rank - 1} in {points}:")
    last = rank - 1
    _span(t, 2, last, window[last], attrs["strides"][last], dilations[last], sizes[last], attrs["pads"][last][0])
    t.add(2, f"r = {ptr}(out + ({line} * {t.dim(outs[-1])} + o{last}) * {c} * {size})")
    origin = " + ".join([f"b * {t.dim(product(sizes))} * {c}", *(f"h{a} * {t.dim(steps[a])}" for a in range(rank))])
    general = 2
    padded = any(p != 0 for pair in attrs["pads"] for p in pair)
    if taps <= UNROLLED:
        depth = 2
        if padded:
            whole = " and ".join(f"f{a} == 0 and e{a} == {window[a]}" for a in range(rank))
            t.add(2, f"if {whole}:")
            depth = 3
        t.add(depth, f"q = {ptr}(x + ({origin}) * {size})")
        offsets = []
        for tap in cartesian(*(range(k) for k in window)):
            place: Extent = 0
            for a in range(rank):
                place = place + tap[a] * dilations[a] * steps[a]
            offsets.append(t.dim(place))
        t.add(depth, f"for j in {every}:\n    acc = {take('get(q, j)')}")
        for place_text in offsets[1:]:
            t.add(depth + 1, f"acc = {combine('acc', take(f'get(q, {place_text} + j)'))}")
        t.add(depth + 1, f"put(r, j, {give('acc', str(taps))})")
        if padded:
            t.add(2, "else:")
            general = 3
    if taps > UNROLLED or padded:
        _general(t, general, rank, dilations, steps, every, at, f"{ptr}(x + ({origin}", size, acc, init, take, combine)
        count = str(taps)
        if mean and not attrs["count_include_pad"]:
            count = " * ".join(f"(e{a} - f{a})" for a in range(rank))
        t.add(general, f"for j in {every}:\n    put(r, j, {give(f'sums[{at}]', count)})")
    units = lead * product(outs[:-1]) * (outs[-1] * channels if alone else 1)
    flops = node.op.cost(node).flops if node.op.cost is not None else 0
    work = guess(outs[-1], 16) * guess(channels, 16)
    return [Template(t.source(), t.entry, tuple(t.args), units, grain(work, taps), column_bytes(1, channels), flops)]


def _span(t: TextBuilder, indent: int, a: int, k: int, stride: int, dilation: int, n: Extent, low: Extent) -> None:
    """``h``: where the window of output ``o`` begins; ``[f, e)``: its taps inside the input."""
    t.add(indent, f"h{a} = o{a} * {stride} - {t.dim(low)}")
    up = "" if dilation == 1 else f" + {dilation - 1}"
    over = "" if dilation == 1 else f" // {dilation}"
    t.add(indent, f"f{a} = (max(-h{a}, 0){up}){over}")
    t.add(indent, f"e{a} = max(min({k}, ({t.dim(n)} - h{a}{up}){over}), f{a})")


def _general(t, indent, rank, dilations, steps, every, at, base, size, acc, init, take, combine) -> None:  # type: ignore[no-untyped-def]
    """Taps one after the other into accumulators of all channels."""
    t.add(indent, f"sums = {accumulators(acc)}\nfor j in {every}:\n    put(sums, {at}, {init})")
    shifts = []
    for a in range(rank):
        t.add(indent, f"for t{a} in range(f{a}, e{a}):")
        indent += 1
        shifts.append(f"t{a} * {t.dim(dilations[a] * steps[a])}")
    t.add(indent, f"q = {base} + {' + '.join(shifts)}) * {size})")
    t.add(indent, f"for j in {every}:\n    put(sums, {at}, {combine(f'sums[{at}]', take('get(q, j)'))})")


def to_blocked(node: Node) -> list[Template]:
    """[N, S, C] to [N, C/block, S, block]: a unit is a run of positions of one sample."""
    x, block = node.operands[0], node.attrs["block"]
    return [
        _layout(node, x.shape[-1], product(x.shape[1:-1]), block, "put(r, {b}, get(q, {p}))", BIT_ZERO[x.dtype.size])
    ]


def from_blocked(node: Node) -> list[Template]:
    """The way back; padding lanes are dropped."""
    x, y = node.operands[0], node.results[0]
    return [_layout(node, y.shape[-1], product(y.shape[1:-1]), x.shape[-1], "put(r, {p}, get(q, {b}))", "")]


def _layout(node: Node, channels: Extent, points: Extent, block: Extent, move: str, zero: str) -> Template:
    """``move`` between element ``p`` of the plain and ``b`` of the blocked layout; ``zero`` fills padding lanes."""
    assert isinstance(channels, int) and isinstance(block, int)
    kind = BITS[node.operands[0].dtype.size]
    t = TextBuilder(node.op.name)
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    t.add(0, f"q = {kind}(x)\nr = {kind}(out)\nfor u in range(start, stop):")
    count, runs = t.dim(points), t.dim(ceildiv(points, RUN))
    t.add(1, f"n = u // {runs}\ns0 = u % {runs} * {RUN}\ns1 = min(s0 + {RUN}, {count})")
    blocks, whole, rest = -(-channels // block), channels // block, channels % block
    places = ["pb = (n * {0} + s) * {1} + k * {2}", "bb = ((n * {3} + k) * {0} + s) * {2}"]
    lines = "\n".join(p.format(count, channels, block, blocks) for p in places)
    if whole:
        # Position by position: one side is walked in the order of its addresses, and its lines are whole at once.
        t.add(1, f"for s in range(s0, s1):\n    for k in range({whole}):")
        size, ahead = node.operands[0].dtype.size, AHEAD[node.op.name]
        later = f"bb + {ahead * block}" if node.op.name == "to_blocked" else f"pb + {ahead * channels}"
        t.add(3, f"{lines}\nown(out + ({later}) * {size})\nfor j in range({block}):")
        t.add(4, move.format(b="bb + j", p="pb + j"))
    if rest:
        t.add(1, f"k = {whole}\nfor s in range(s0, s1):")
        t.add(2, f"{lines}\nfor j in range({rest}):\n    {move.format(b='bb + j', p='pb + j')}")
        if zero:
            t.add(2, f"for j in range({rest}, {block}):\n    put(r, bb + j, {zero})")
    units = node.operands[0].shape[0] * ceildiv(points, RUN)
    return Template(t.source(), t.entry, tuple(t.args), units, grain(min(guess(points), RUN) * channels, 2))
