"""Searches whose number of finds depends on values: nonzero, unique, non_max_suppression.

Owns their loops: sequential, one unit per list that is searched, so that finds come in one order on any threads.
"""

from __future__ import annotations

from ....core.dims import product
from ....core.dtypes import BOOL, DType
from ....ir.graph import Node
from ..templates.template import Template, TextBuilder
from .scalar import load, pointer


def nonzero(node: Node) -> list[Template]:
    x, size = node.operands[0], node.attrs["size"]
    t = TextBuilder("nonzero")
    t.pointer("x", "operand", 0)
    t.pointer("out", "output", 0)
    most, n = t.dim(size), t.dim(x.type.size)
    zero = "" if x.dtype is BOOL else f" != {'f32' if x.dtype.size == 2 and x.dtype.is_float else x.dtype.name}(0)"
    t.add(0, f"q = {pointer(x.dtype)}(x)\np = pi64(out)\nfound = 0\ni = 0\nwhile i < {n} and found < {most}:")
    t.add(1, f"if {load(x.dtype, 'q[i]')}{zero}:\n    rest = i")
    for axis in reversed(range(x.rank)):
        at = f"p[found * {x.rank} + {axis}]"
        if axis:
            t.add(2, f"{at} = rest % {t.dim(x.shape[axis])}\nrest = rest // {t.dim(x.shape[axis])}")
        else:
            t.add(2, f"{at} = rest")
    t.add(2, "found += 1")
    t.add(1, "i += 1")
    t.add(0, f"for i in range(found * {x.rank}, {most} * {x.rank}):\n    p[i] = 0")
    return [Template(t.source(), t.entry, tuple(t.args), 1, 1)]


def _merge_sort(t: TextBuilder, indent: int, count: str, later: str) -> None:
    """Sort the positions in ``a`` stably; ``later`` sets ``right`` where a[k] goes before a[i]."""
    t.add(indent, f"width = 1\nwhile width < {count}:")
    t.add(indent + 1, f"a = pi64(src)\nb = pi64(dst)\nfor lo in range(0, {count}, 2 * width):")
    t.add(indent + 2, f"mid = min(lo + width, {count})\nhi = min(lo + 2 * width, {count})\ni = lo\nk = mid")
    t.add(indent + 2, "for o in range(lo, hi):")
    t.add(indent + 3, "right = i >= mid\nif not right and k < hi:")
    t.add(indent + 4, later)
    t.add(indent + 3, "if right:\n    b[o] = a[k]\n    k += 1\nelse:\n    b[o] = a[i]\n    i += 1")
    t.add(indent + 1, "held = src\nsrc = dst\ndst = held\nwidth = 2 * width")
    t.add(indent, "a = pi64(src)\nb = pi64(dst)")


def _element(dt: DType, text: str) -> str:
    return f"u8({load(dt, text)})" if dt is BOOL else load(dt, text)


def unique(node: Node) -> list[Template]:
    x = node.operands[0]
    dt, (rows, width) = x.dtype, x.shape
    t = TextBuilder("unique")
    t.pointer("x", "operand", 0)
    for i, name in enumerate(("first", "inverse", "counts", "number")):
        t.pointer(name, "output", i)
    n, m = t.dim(rows), t.dim(width)
    t.add(0, f"q = {pointer(dt)}(x)\nf = pi64(first)\nv = pi64(inverse)\nc = pi64(counts)\ng = pi64(number)")
    t.add(0, f"src = scratch\ndst = scratch + 8 * {n}\na = pi64(src)")
    t.add(0, f"for i in range({n}):\n    a[i] = i\n    f[i] = 0\n    c[i] = 0")
    one, two = (_element(dt, f"q[a[{k}] * {m} + j]") for k in ("k", "i"))
    order = f"j = 0\nsame = True\nwhile same and j < {m}:\n    x1 = {one}\n    x2 = {two}\n    right = x1 < x2\n"
    if dt.is_float:
        order += "    if x2 != x2 and x1 == x1:\n        right = True\n"
        order += "    same = x1 == x2 or (x1 != x1 and x2 != x2)\n    j += 1"
    else:
        order += "    same = x1 == x2\n    j += 1"
    _merge_sort(t, 0, n, order)
    # Groups are runs of equal rows; the sort is stable, so a run begins with its first row.
    t.add(0, f"groups = 0\nfor i in range({n}):\n    fresh = i == 0\n    j = 0\n    while not fresh and j < {m}:")
    t.add(2, f"x1 = {_element(dt, f'q[a[i - 1] * {m} + j]')}\nx2 = {_element(dt, f'q[a[i] * {m} + j]')}")
    alike = "x1 == x2 or (x1 != x1 and x2 != x2)" if dt.is_float and node.attrs["equal_nan"] else "x1 == x2"
    t.add(2, f"fresh = not ({alike})\nj += 1")
    t.add(1, "if fresh:\n    f[groups] = a[i]\n    groups += 1")
    t.add(1, "v[a[i]] = groups - 1\nc[groups - 1] += 1")
    if node.attrs["order"] == "first":
        t.add(0, f"rank = 0\nfor i in range({n}):\n    if f[v[i]] == i:\n        b[v[i]] = rank\n        rank += 1")
        t.add(0, f"for i in range({n}):\n    f[i] = 0\n    c[i] = 0")
        t.add(
            0,
            f"for i in range({n}):\n    k = b[v[i]]\n    if c[k] == 0:\n        f[k] = i\n    c[k] += 1\n    v[i] = k",
        )
    t.add(0, "g[0] = groups")
    return [Template(t.source(), t.entry, tuple(t.args), 1, 1, 16 * rows)]


_CORNERS = """ax0 = fmin({a}[0], {a}[2])
ax1 = fmax({a}[0], {a}[2])
ay0 = fmin({a}[1], {a}[3])
ay1 = fmax({a}[1], {a}[3])"""
_CENTER = """ax0 = {a}[0] - {a}[2] * f32(0.5)
ax1 = {a}[0] + {a}[2] * f32(0.5)
ay0 = {a}[1] - {a}[3] * f32(0.5)
ay1 = {a}[1] + {a}[3] * f32(0.5)"""
_OVERLAP = """size_a = (ax1 - ax0) * (ay1 - ay0)
size_b = (bx1 - bx0) * (by1 - by0)
overlap = f32(0.0)
if size_a > f32(0.0) and size_b > f32(0.0):
    inter = fmax(fmin(ax1, bx1) - fmax(ax0, bx0), f32(0.0)) * fmax(fmin(ay1, by1) - fmax(ay0, by0), f32(0.0))
    overlap = inter / (size_a + size_b - inter)"""


def _overlap(t: TextBuilder, indent: int, center: bool) -> None:
    """``overlap`` of boxes i and r[j]."""
    corners = _CENTER if center else _CORNERS
    t.add(indent, "pa = pf32(base + i * 16)\npb = pf32(base + r[j] * 16)")
    t.add(indent, corners.format(a="pa"))
    for line in corners.format(a="pb").split("\n"):
        t.add(indent, "b" + line[1:])
    t.add(indent, _OVERLAP)


def non_max_suppression(node: Node) -> list[Template]:
    boxes, scores = node.operands[:2]
    count, classes, size = boxes.shape[1], scores.shape[1], node.attrs["size"]
    t = TextBuilder("non_max_suppression")
    for i, name in enumerate(("boxes", "scores", "limit", "iou_at", "least_at", "sigma_at")):
        t.pointer(name, "operand", i)
    for i, name in enumerate(("places", "kept", "number")):
        t.pointer(name, "output", i)
    n, most = t.dim(count), t.dim(size)
    t.add(
        0, "iou = pf32(iou_at)[0]\nleast = pf32(least_at)[0]\nsigma = pf32(sigma_at)[0]\nfor u in range(start, stop):"
    )
    t.add(1, f"base = boxes + u // {t.dim(classes)} * {n} * 16\ns = pf32(scores + u * {n} * 4)")
    t.add(1, f"r = pi64(places + u * {most} * 8)\nv = pf32(kept + u * {most} * 4)")
    t.add(
        1,
        f"most = min({most}, max(pi64(limit)[0], 0))\nsrc = scratch\ndst = scratch + 8 * {n}\na = pi64(src)\ntotal = 0",
    )
    t.add(1, f"for i in range({n}):\n    if s[i] > least:\n        a[total] = i\n        total += 1")
    _merge_sort(t, 1, "total", "right = s[a[k]] > s[a[i]]")
    t.add(1, "chosen = 0\nif sigma <= f32(0.0) or sigma != sigma:\n    at = 0\n    while at < total and chosen < most:")
    t.add(3, "i = a[at]\ngone = False\nj = chosen - 1\nwhile j >= 0 and not gone:")
    _overlap(t, 4, node.attrs["center"])
    t.add(4, "gone = overlap > iou\nj -= 1")
    t.add(3, "if not gone:\n    r[chosen] = i\n    v[chosen] = s[i]\n    chosen += 1\nat += 1")
    t.add(1, "else:")
    t.add(
        2, f"scale = f32(-0.5) / sigma\nseen = pi64(scratch + 16 * {n})\nnow = pf32(scratch + 24 * {n})\nleft = total"
    )
    t.add(2, "for k in range(total):\n    seen[k] = 0\n    now[k] = s[a[k]]")
    t.add(
        2, "while left > 0 and chosen < most:\n    best = 0 - 1\n    for k in range(total):\n        if seen[k] >= 0:"
    )
    t.add(
        5,
        "if best < 0 or now[k] > now[best] or (now[k] == now[best] and a[k] < a[best]):\n    best = k",
    )
    t.add(
        3,
        "before = now[best]\nscore = before\ni = a[best]\nj = chosen - 1\ngoing = True\n"
        "while going and j >= seen[best]:",
    )
    _overlap(t, 4, node.attrs["center"])
    t.add(4, "score = score * exp(scale * overlap * overlap)\ngoing = score > least\nj -= 1")
    t.add(3, "seen[best] = chosen\nif score == before:\n    r[chosen] = i\n    v[chosen] = score\n    chosen += 1")
    t.add(4, "seen[best] = 0 - 1\nleft -= 1")
    t.add(3, "elif score > least:\n    now[best] = score\nelse:\n    seen[best] = 0 - 1\n    left -= 1")
    t.add(1, f"pi64(number)[u] = chosen\nfor i in range(chosen, {most}):\n    r[i] = 0\n    v[i] = f32(0.0)")
    units = product(scores.shape[:2])
    return [Template(t.source(), t.entry, tuple(t.args), units, 1, 32 * count)]


__all__ = ["non_max_suppression", "nonzero", "unique"]
