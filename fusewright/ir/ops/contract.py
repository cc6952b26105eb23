"""Contractions: matmul and einsum.

Owns dot products over one or more axes. Sums may be taken in any order, with or without fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.dims import Extent, product
from ...core.dtypes import F32, FLOATS, INTS
from ...core.errors import TypeRefused
from ..graph import Graph, Node
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, broadcast, ends, finite, one_dtype, same, summed
from .bf16 import entered, flushed

Types = Sequence[TensorType]


def dot_bound(
    a: np.ndarray, b: np.ndarray, ea: np.ndarray, eb: np.ndarray, dot: Any, k: int, out: np.ndarray, bc: BoundContext
) -> np.ndarray:
    """Error of a k-term dot product in any order (facts: running error analysis); ``dot`` contracts float64 arrays."""
    with np.errstate(all="ignore"):
        fina, finb = finite(a), finite(b)
        ea, eb = np.broadcast_to(ea, a.shape), np.broadcast_to(eb, b.shape)
        plain = magnitude = dot(fina, finb)
        spread = np.zeros(plain.shape)
        if np.any(ea) or np.any(eb):
            magnitude = dot(fina + ea, finb + eb)
            spread = np.maximum(magnitude - plain, 0)
            # An inexact factor beside an infinity may be the 0 that makes it NaN, unless it is too far from 0.
            infa, infb = np.isinf(a) & np.ones(a.shape, bool), np.isinf(b) & np.ones(b.shape, bool)
            if np.any(infa) or np.any(infb):
                meets = dot(infa.astype(np.float64), ((eb > 0) & ~(np.abs(b) > eb)).astype(np.float64))
                meets = meets + dot(((ea > 0) & ~(np.abs(a) > ea)).astype(np.float64), infb.astype(np.float64))
                spread = np.where(meets > 0, np.inf, spread)

        def sides() -> tuple[np.ndarray, np.ndarray]:
            above, below = zip(ends(a, ea), ends(b, eb), strict=True)
            return dot(*above) + dot(*below), dot(above[0], below[1]) + dot(below[0], above[1])

        return summed(k + 1, magnitude, spread, out, bc, sides)


def _swap(t: tuple[Extent, ...], flag: bool) -> tuple[Extent, ...]:
    return (*t[:-2], t[-1], t[-2]) if flag else t


def _infer_matmul(types: Types, attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    a, b = types
    dt = one_dtype(types)
    if dt not in (*FLOATS, *INTS):
        raise TypeRefused(f"takes numbers, not {dt}")
    if a.rank < 2 or b.rank < 2:
        raise TypeRefused("both operands need rank >= 2; reshape vectors")
    if attrs["bf16"] and dt is not F32:
        raise TypeRefused(f"bf16=True rounds operands of f32, not of {dt}")
    sa, sb = _swap(a.shape, attrs["transpose_a"]), _swap(b.shape, attrs["transpose_b"])
    same(sa[-1], sb[-2], "inner extents")
    return [TensorType(dt, (*broadcast([sa[:-2], sb[:-2]]), sa[-2], sb[-1]))]


def _sides(a: Arrays, attrs: Attrs) -> tuple[np.ndarray, np.ndarray]:
    x = np.swapaxes(a[0], -1, -2) if attrs["transpose_a"] else a[0]
    y = np.swapaxes(a[1], -1, -2) if attrs["transpose_b"] else a[1]
    return x, y


def _eval_matmul(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.matmul(*_sides(a, attrs))


def _bound_matmul(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    x, y = _sides(a, bc.attrs)
    k = x.shape[-1]
    errors = [np.broadcast_to(e[0], a[0].shape), np.broadcast_to(e[1], a[1].shape)]
    ex, ey = _sides(entered(a, errors, bc) if bc.attrs["bf16"] else errors, bc.attrs)
    total = dot_bound(x, y, ex, ey, np.matmul, k, o, bc)
    return flushed(total, k, bc) if bc.attrs["bf16"] else total


def _cost_matmul(node: Node) -> Cost:
    a, b = node.operands
    out = node.results[0].type
    k = a.shape[-2] if node.attrs["transpose_a"] else a.shape[-1]
    return Cost(2 * out.size * k, a.type.nbytes + b.type.nbytes + out.nbytes)


define_op(
    OpDef(
        "matmul", ("a", "b"), "contract", _infer_matmul, _eval_matmul,
        attrs={"transpose_a": False, "transpose_b": False, "bf16": False}, bound=_bound_matmul, cost=_cost_matmul,
        doc="a @ b over the last two axes (each optionally transposed); leading axes broadcast. bf16: a kernel may "
        "round both operands to bfloat16 and sums in f32.",
    )
)  # fmt: skip


def parse_equation(equation: str, types: Types) -> tuple[list[str], str]:
    """(operand subscripts, result subscript), ellipses spelt out with capital letters. Raises TypeRefused."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    ins = left.split(",")
    if not arrow or len(ins) != len(types):
        raise TypeRefused(f"einsum {equation!r} must name {len(types)} operands and a result")
    widest = max((t.rank - len(s.replace("...", "")) for s, t in zip(ins, types, strict=True) if "..." in s), default=0)
    dots = "ZYXWVUTSRQPO"[:widest]
    full = []
    for s, t in zip(ins, types, strict=True):
        n = t.rank - len(s.replace("...", ""))
        full.append(s.replace("...", dots[len(dots) - n :]) if "..." in s else s)
    out = right.replace("...", dots)
    for s, t in zip(full, types, strict=True):
        if len(s) != t.rank or len(set(s)) != len(s) or not s.isalpha() and s:
            raise TypeRefused(f"einsum {equation!r}: subscript {s!r} does not fit {t}")
    if len(set(out)) != len(out) or not set(out) <= set("".join(full)):
        raise TypeRefused(f"einsum {equation!r}: bad result subscript")
    return full, out


def _letter_sizes(ins: Sequence[str], types: Types) -> dict[str, Extent]:
    sizes: dict[str, Extent] = {}
    for s, t in zip(ins, types, strict=True):
        for letter, d in zip(s, t.shape, strict=True):
            if sizes.get(letter, 1) == 1:
                sizes[letter] = d
            elif d != 1:
                sizes[letter] = same(sizes[letter], d, f"subscript {letter}")
    return sizes


def _infer_einsum(types: Types, attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    dt = one_dtype(types)
    if not 1 <= len(types) <= 2:
        raise TypeRefused("einsum takes one or two operands; chain it for more")
    ins, out = parse_equation(attrs["equation"], types)
    sizes = _letter_sizes(ins, types)
    return [TensorType(dt, [sizes[c] for c in out])]


def _eval_einsum(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum(attrs["equation"].replace(" ", ""), *a, optimize=len(a) > 1), a[0].dtype)


def _bound_einsum(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    equation = bc.attrs["equation"].replace(" ", "")
    ins, out = parse_equation(equation, [TensorType("f64", x.shape) for x in a])
    sizes: dict[str, int] = {}
    for s, x in zip(ins, a, strict=True):
        for c, d in zip(s, x.shape, strict=True):
            sizes[c] = d if sizes.get(c, 1) == 1 else sizes[c]
    k = int(np.prod([sizes[c] for c in sizes if c not in out], dtype=int))
    if len(a) == 1:
        ones = np.ones(())
        return dot_bound(a[0], ones, e[0], np.zeros(()), lambda x, y: np.einsum(equation, x) * y, k, o, bc)
    for x, err, s, other in zip(a, e, ins, reversed(ins), strict=True):
        # Letters of one operand may be summed out before the product; that sum can overflow on its own.
        alone = tuple(i for i, c in enumerate(s) if c not in out and c not in other)
        if alone and not np.all(np.sum(finite(x) + err, axis=alone) < bc.top):
            return np.full(o.shape, np.inf)
    return dot_bound(a[0], a[1], e[0], e[1], lambda x, y: np.einsum(equation, x, y, optimize=True), k, o, bc)


def _decompose_einsum(b: Any, operands: Sequence[Any], attrs: Attrs) -> Any:
    """Sum out letters of one operand only, then one matmul with as few transposes as there can be."""
    ins, out = parse_equation(attrs["equation"], [v.type for v in operands])
    if len(operands) == 1:
        x, s = operands[0], ins[0]
        drop = tuple(i for i, c in enumerate(s) if c not in out)
        x = b.reduce_sum(x, axes=drop) if drop else x
        left = [c for c in s if c in out]
        return (
            b.transpose(x, perm=tuple(left.index(c) for c in out))
            if "".join(left) != out
            else b.reshape(x, shape=x.shape)
        )
    sizes = _letter_sizes(ins, [v.type for v in operands])
    values, subs = [], []
    for v, s, other in zip(operands, ins, reversed(ins), strict=True):
        drop = tuple(i for i, c in enumerate(s) if c not in out and c not in other)
        v = b.reduce_sum(v, axes=drop) if drop else v
        subs.append("".join(c for c in s if c in out or c in other))
        want = [sizes[c] for c in subs[-1]]
        # A letter of extent 1 on one side broadcasts against the other.
        values.append(b.broadcast_to(v, shape=want) if any(p != q for p, q in zip(v.shape, want, strict=True)) else v)
    plan = _fewest_transposes(subs, out, [v.const is not None for v in values])
    batch, rows, cols, inner = plan.batch, plan.rows, plan.cols, plan.inner
    if plan.swap:
        values, subs = values[::-1], subs[::-1]
    sides, flags = [], []
    for side, plain in enumerate(((rows, inner), (inner, cols))):
        v, s = values[side], subs[side]
        order = _order(s, batch, plain)
        flags.append(order != plain)
        flat = batch + "".join(order)
        v = b.transpose(v, perm=tuple(s.index(c) for c in flat)) if s != flat else v
        # Without a batch the rows stay apart: [rows..., inner] x [inner, cols] needs no reshape.
        lead, groups = batch, order
        if side == 0 and not batch and not flags[0]:
            lead, groups = rows[:-1], (rows[-1:], inner)
        sides.append(b.reshape(v, shape=[sizes[c] for c in lead] + [product(sizes[c] for c in g) for g in groups]))
    y = b.matmul(*sides, transpose_a=flags[0], transpose_b=flags[1])
    letters = batch + rows + cols
    y = b.reshape(y, shape=[sizes[c] for c in letters])
    return b.transpose(y, perm=tuple(letters.index(c) for c in out)) if letters != out else y


def _order(s: str, batch: str, plain: tuple[str, str]) -> tuple[str, str]:
    """The two groups of letters in the order in which ``s`` has them; else in the one that leaves its last letter."""
    turned = plain[::-1]
    if s == batch + "".join(plain) or not all(plain):
        return plain
    return turned if s == batch + "".join(turned) or s[-1] == turned[1][-1] else plain


@dataclass(frozen=True, slots=True)
class _Plan:
    """Orders of the letters of a product ``[batch, rows, inner] x [batch, inner, cols]``; ``swap``: operands change
    places."""

    swap: bool
    batch: str
    rows: str
    cols: str
    inner: str

    def transposes(self, subs: Sequence[str], out: str, constant: Sequence[bool]) -> int:
        """How many run-time values are not in an order that matmul reads or writes."""
        first, second = subs[::-1] if self.swap else subs
        fixed = constant[::-1] if self.swap else constant
        count = int(out != self.batch + self.rows + self.cols)
        for s, free, is_constant in ((first, self.rows, fixed[0]), (second, self.cols, fixed[1])):
            reads = (self.batch + free + self.inner, self.batch + self.inner + free)
            count += s not in reads and not is_constant
        return count


def _fewest_transposes(subs: Sequence[str], out: str, constant: Sequence[bool]) -> _Plan:
    """The cheapest way to take a two-operand einsum as one matmul; the first of equals."""

    def orders(letters: set[str], *like: str) -> list[str]:
        return list(dict.fromkeys("".join(c for c in s if c in letters) for s in like))

    one, two = set(subs[0]), set(subs[1])
    found = []
    for swap in (False, True):
        left, right = subs[::-1] if swap else subs
        for batch in orders(one & two & set(out), out, left, right):
            for rows in orders(set(left) - set(right), out, left):
                for cols in orders(set(right) - set(left), out, right):
                    found += [_Plan(swap, batch, rows, cols, i) for i in orders((one & two) - set(out), left, right)]
    return min(found, key=lambda plan: plan.transposes(subs, out, constant))


def _cost_einsum(node: Node) -> Cost:
    types = [v.type for v in node.operands]
    ins, _ = parse_equation(node.attrs["equation"], types)
    work = product(_letter_sizes(ins, types).values())
    return Cost(2 * work, sum((t.nbytes for t in types), 0) + node.results[0].type.nbytes)


define_op(
    OpDef(
        "einsum", ("x*",), "contract", _infer_einsum, _eval_einsum, attrs={"equation": REQUIRED}, bound=_bound_einsum,
        cost=_cost_einsum, decompose=_decompose_einsum,
        doc="Einstein summation over one or two operands, explicit result, distinct letters per operand; ellipses too.",
    )
)  # fmt: skip
__all__ = ["EvalContext", "dot_bound", "parse_equation"]
