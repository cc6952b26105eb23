"""Stable sorting and selection along an axis; NaN comes last either way.

Owns the merge sort of positions and the insertion of the best few.
"""

from __future__ import annotations

from ....core.dims import Extent, product
from ....core.dtypes import BOOL, DType
from ....ir.graph import Node
from ..templates.template import Template, TextBuilder
from .nest import grain, guess
from .scalar import load, pointer, register, store

FEW = 32  # a top_k of at most so many keeps them sorted by insertion


def _before(dt: DType, a: str, b: str, descending: bool) -> str:
    """Whether key ``a`` comes strictly before key ``b``."""
    text = f"({a} {'>' if descending else '<'} {b})"
    return f"({text} | (({b} != {b}) & ({a} == {a})))" if dt.is_float else text


def sort(node: Node) -> list[Template]:
    x = node.operands[0]
    return [_sorted(node, x.shape[node.attrs["axis"]], node.attrs["descending"], "i64")]


def top_k(node: Node) -> list[Template]:
    k = node.attrs["k"]
    if isinstance(k, int) and 0 < k <= FEW:
        return [_best(node, k, node.attrs["largest"])]
    return [_sorted(node, k, node.attrs["largest"], "i32")]


def _line(t: TextBuilder, node: Node, taken: Extent) -> tuple[str, str, str]:
    """Declare the pointers and decode a unit as one line: texts of its element ``i`` in x and in the results."""
    x, axis = node.operands[0], node.attrs["axis"]
    n, after = x.shape[axis], product(x.shape[axis + 1 :])
    t.pointer("x", "operand", 0)
    t.pointer("values", "output", 0)
    t.pointer("places", "output", 1)
    t.add(0, f"q = {pointer(x.dtype)}(x)\nr = {pointer(x.dtype)}(values)")
    width = t.dim(after)
    t.add(0, "for u in range(start, stop):")
    t.add(1, f"lead = u // {width}\ncol = u % {width}")
    t.add(1, f"xb = lead * {t.dim(n)} * {width} + col\nob = lead * {t.dim(taken)} * {width} + col")
    element = load(x.dtype, f"q[xb + i * {width}]") if x.dtype is not BOOL else f"q[xb + i * {width}]"
    return element, f"ob + i * {width}", t.dim(n)


def _key(dt: DType) -> str:
    return "u8" if dt is BOOL else register(dt)


def _sorted(node: Node, taken: Extent, descending: bool, places: str) -> Template:
    x, axis = node.operands[0], node.attrs["axis"]
    size, dt = x.shape[axis], x.dtype
    t = TextBuilder("sort")
    element, slot, n = _line(t, node, taken)
    t.add(1, f"keys = p{_key(dt)}(scratch)\nsrc = scratch + 8 * {n}\ndst = scratch + 16 * {n}\na = pi64(src)")
    t.add(1, f"for i in range({n}):\n    keys[i] = {element}\n    a[i] = i")
    t.add(
        1,
        f"width = 1\nwhile width < {n}:\n    a = pi64(src)\n    b = pi64(dst)\n    for lo in range(0, {n}, 2 * width):",
    )
    t.add(3, f"mid = min(lo + width, {n})\nhi = min(lo + 2 * width, {n})\ni = lo\nk = mid\nfor o in range(lo, hi):")
    t.add(4, "right = i >= mid\nif not right and k < hi:\n    ka = keys[a[k]]\n    kb = keys[a[i]]")
    t.add(5, f"right = {_before(dt, 'ka', 'kb', descending)}")
    t.add(4, "if right:\n    b[o] = a[k]\n    k += 1\nelse:\n    b[o] = a[i]\n    i += 1")
    t.add(2, "held = src\nsrc = dst\ndst = held\nwidth = 2 * width")
    stored = "keys[at]" if dt is BOOL else store(dt, "keys[at]")
    t.add(1, f"a = pi64(src)\np = p{places}(places)\nfor i in range({t.dim(taken)}):")
    t.add(2, f"at = a[i]\nr[{slot}] = {stored}\np[{slot}] = {places}(at)")
    lines = product(x.shape[:axis]) * product(x.shape[axis + 1 :])
    shared = frozenset({0}) if taken is size else frozenset()
    scratch = 24 * size
    return Template(
        t.source(), t.entry, tuple(t.args), lines, grain(guess(size), 40), scratch, 0, frozenset(), shared
    )  # fmt: skip


def _best(node: Node, k: int, largest: bool) -> Template:
    x, axis = node.operands[0], node.attrs["axis"]
    size, dt = x.shape[axis], x.dtype
    t = TextBuilder("top_k")
    element, slot, n = _line(t, node, k)
    t.add(1, f"best = p{_key(dt)}(scratch)\nat = pi64(scratch + {8 * FEW})\ncount = 0\nfor i in range({n}):")
    t.add(
        2,
        f"v = {element}\nfits = count < {k}\nif not fits:\n    w = best[{k - 1}]\n"
        f"    fits = {_before(dt, 'v', 'w', largest)}",
    )
    t.add(2, f"if fits:\n    j = min(count, {k - 1})\n    moving = j > 0\n    while moving:")
    t.add(4, f"w = best[j - 1]\nif {_before(dt, 'v', 'w', largest)}:")
    t.add(5, "best[j] = w\nat[j] = at[j - 1]\nj -= 1\nmoving = j > 0")
    t.add(4, "else:\n    moving = False")
    t.add(3, f"best[j] = v\nat[j] = i\ncount = min(count + 1, {k})")
    t.add(
        1, f"p = pi32(places)\nfor i in range({k}):\n    r[{slot}] = {store(dt, 'best[i]')}\n    p[{slot}] = i32(at[i])"
    )
    lines = product(x.shape[:axis]) * product(x.shape[axis + 1 :])
    return Template(t.source(), t.entry, tuple(t.args), lines, grain(guess(size), 4), 16 * FEW)
