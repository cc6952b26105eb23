"""Matrices: products, einsum, bands and diagonals.

Owns MatMul and its batched forms, MatrixDiag*, MatrixSetDiag*, MatrixBandPart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Dim, Extent, product
from ....core.dtypes import I64
from ....ir.graph import Value
from ..lower import Ctx, op, same_type
from ..values import Item


@op("MatMul")
def _matmul(c: Ctx, a: Value, b: Value) -> Any:
    return c.bld.matmul(a, b, transpose_a=c.b("transpose_a", False), transpose_b=c.b("transpose_b", False))


@op("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(c: Ctx, a: Value, b: Value) -> Any:
    if c.has("Tout"):
        a, b = same_type(c, a, c.type("Tout")), same_type(c, b, c.type("Tout"))
    return c.bld.matmul(a, b, transpose_a=c.b("adj_x", False), transpose_b=c.b("adj_y", False))


@op("Einsum")
def _einsum(c: Ctx, *xs: Value) -> Any:
    if len(xs) > 2:
        raise c.refuse(f"{len(xs)} operands are not supported")
    return c.bld.einsum(*xs, equation=c.s("equation"))


@op("Cross")
def _cross(c: Ctx, a: Value, b: Value) -> Any:
    def part(x: Value, k: int) -> Value:
        starts, stops = [0] * x.rank, list(x.shape)
        starts[-1], stops[-1] = k, k + 1
        out: Value = c.bld.slice(x, starts=tuple(starts), stops=tuple(stops))
        return out

    rows = [
        c.bld.sub(c.bld.mul(part(a, i), part(b, j)), c.bld.mul(part(a, j), part(b, i)))
        for i, j in ((1, 2), (2, 0), (0, 1))
    ]
    return c.bld.concat(*rows, axis=a.rank - 1)


def _offset(c: Ctx, rows: Any, cols: Any) -> Value:
    """Column minus row of every element: [rows, cols]."""
    line = c.bld.iota(shape=(rows, cols), axis=1, dtype=I64)
    out: Value = c.bld.sub(line, c.bld.iota(shape=(rows, cols), axis=0, dtype=I64))
    return out


@op("MatrixBandPart", raw=True)
def _band(c: Ctx, item: Item, lower: Item, upper: Item) -> Any:
    x, b = c.v(item), c.bld
    off = _offset(c, x.shape[-2], x.shape[-1])
    keep = None
    for limit, lower_side in ((lower, True), (upper, False)):
        t = c.tensor(limit)
        if t.content is not None and c.number_of(t, "the band") < 0:
            continue
        bound = same_type(c, c.v(t), I64)
        side = b.ge(off, b.neg(bound)) if lower_side else b.le(off, bound)
        if t.content is None:
            side = b.logical_or(side, b.lt(bound, c.const(0, bound)))
        keep = side if keep is None else b.logical_and(keep, side)
    return x if keep is None else b.where(keep, x, c.const(0, x))


@op("MatrixDiag")
def _diag(c: Ctx, x: Value) -> Any:
    return _main(c, x, c.const(0, x))


def _main(c: Ctx, x: Value, elsewhere: Value) -> Value:
    """The square matrix of any size whose main diagonal is ``x``."""
    n = x.shape[-1]
    wide = c.bld.reshape(x, shape=(*x.shape, 1))
    out: Value = c.bld.where(c.bld.eq(_offset(c, n, n), c.const(0, I64)), wide, elsewhere)
    return out


@op("Diag")
def _whole_diag(c: Ctx, x: Value) -> Any:
    """A tensor of twice the rank, whose two halves of axes are the same."""
    n = product(x.shape)
    out = _diag(c, c.bld.reshape(x, shape=(n,)))
    return c.bld.reshape(out, shape=(*x.shape, *x.shape))


@op("MatrixDiagPart")
def _diag_part(c: Ctx, x: Value) -> Any:
    return _diagonals(c, x, 0, 0, None, "LEFT_LEFT")


@op("DiagPart")
def _whole_diag_part(c: Ctx, x: Value) -> Any:
    half = x.shape[: x.rank // 2]
    if x.rank % 2 or not x.rank or half != x.shape[x.rank // 2 :]:
        raise c.refuse(f"takes two equal halves of axes, not {list(x.shape)}", code="malformed")
    n = product(half)
    return c.bld.reshape(_diagonals(c, c.bld.reshape(x, shape=(n, n)), 0, 0, None, "LEFT_LEFT"), shape=half)


@op("MatrixDiagPartV2", "MatrixDiagPartV3", raw=True)
def _diag_part_v3(c: Ctx, item: Item, k: Item, padding: Item) -> Any:
    band = c.ints(k, "k")
    align = c.s("align", "RIGHT_LEFT") if c.node.op.endswith("V3") else "LEFT_LEFT"
    return _diagonals(c, c.v(item), band[0], band[-1], c.v(padding), align)


def _fixed(c: Ctx, size: Extent) -> int:
    if isinstance(size, Dim):
        raise c.refuse("the matrix's size is not fixed", "fix it with shapes=")
    return size


def _places(c: Ctx, rows: int, cols: int, low: int, high: int, align: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, column, whether it exists) of every entry of the packed band [diagonals from high to low, longest]."""
    if low > high or not -rows < low <= cols or not -rows < high < max(cols, 1) + 1:
        raise c.refuse(f"diagonals {low} to {high} do not fit [{rows}, {cols}]", code="malformed")
    lengths = [min(rows + min(d, 0), cols - max(d, 0)) for d in range(high, low - 1, -1)]
    longest = max(lengths)
    c.limits.check_shape((len(lengths), longest), 24, 0, c.where)
    row, col = np.zeros((2, len(lengths), longest), np.int64)
    there = np.zeros((len(lengths), longest), bool)
    upper, lower = align.split("_")
    for i, d in enumerate(range(high, low - 1, -1)):
        right = (upper if d >= 0 else lower) == "RIGHT"
        shift = longest - lengths[i] if right else 0
        for j in range(lengths[i]):
            row[i, j + shift], col[i, j + shift], there[i, j + shift] = j - min(d, 0), j + max(d, 0), True
    return row, col, there


def _diagonals(c: Ctx, x: Value, low: int, high: int, padding: Value | None, align: str) -> Value:
    b = c.bld
    rows, cols = (_fixed(c, d) for d in x.shape[-2:])
    row, col, there = _places(c, rows, cols, low, high, align)
    flat = b.reshape(x, shape=(*x.shape[:-2], rows * cols))
    picked: Value = b.gather(flat, b.constant((row * cols + col).reshape(-1)), axis=x.rank - 2)
    if not there.all():
        fill = padding if padding is not None else c.const(0, x)
        picked = b.where(b.constant(there.reshape(-1)), picked, fill)
    if low == high:
        return picked
    out: Value = b.reshape(picked, shape=(*x.shape[:-2], *row.shape))
    return out


@op("MatrixDiagV2", "MatrixDiagV3", raw=True)
def _diag_v3(c: Ctx, item: Item, k: Item, num_rows: Item, num_cols: Item, padding: Item) -> Any:
    x, band = c.v(item), c.ints(k, "k")
    low, high = band[0], band[-1]
    align = c.s("align", "RIGHT_LEFT") if c.node.op.endswith("V3") else "LEFT_LEFT"
    longest = x.shape[-1]
    if isinstance(longest, Dim):
        if low == high == 0 and all(c.number_of(i, "the size") == -1 for i in (num_rows, num_cols)):
            return _main(c, x, same_type(c, c.v(padding), x.dtype))
        raise c.refuse("the diagonal's length is not fixed", "fix it with shapes=")
    least_rows, least_cols = longest - min(high, 0), longest + max(low, 0)
    rows, cols = c.number_of(num_rows, "num_rows"), c.number_of(num_cols, "num_cols")
    if rows == -1 and cols == -1:
        rows = cols = max(least_rows, least_cols)
    rows, cols = (least_rows if rows == -1 else rows), (least_cols if cols == -1 else cols)
    base = c.bld.broadcast_to(c.v(padding), shape=(*x.shape[: x.rank - (1 if low == high else 2)], rows, cols))
    return _set(c, base, x, low, high, align)


@op("MatrixSetDiag")
def _set_diag(c: Ctx, x: Value, diagonal: Value) -> Any:
    return _set(c, x, diagonal, 0, 0, "LEFT_LEFT")


@op("MatrixSetDiagV2", "MatrixSetDiagV3", raw=True)
def _set_diag_v3(c: Ctx, item: Item, diagonal: Item, k: Item) -> Any:
    band = c.ints(k, "k")
    align = c.s("align", "RIGHT_LEFT") if c.node.op.endswith("V3") else "LEFT_LEFT"
    return _set(c, c.v(item), c.v(diagonal), band[0], band[-1], align)


def _set_main(c: Ctx, x: Value, diagonal: Value) -> Value:
    """The same for the main diagonal of a matrix of any size."""
    rows, cols = x.shape[-2:]
    line = diagonal.rank - 1
    high = (0,) * line + (cols - diagonal.shape[-1],)
    row = c.bld.pad(diagonal, low=(0,) * diagonal.rank, high=high)
    out: Value = c.bld.where(
        c.bld.eq(_offset(c, rows, cols), c.const(0, I64)), c.bld.reshape(row, shape=(*row.shape[:-1], 1, cols)), x
    )
    return out


def _set(c: Ctx, x: Value, diagonal: Value, low: int, high: int, align: str) -> Any:
    """The matrix with a band replaced: every element of the result picks its source."""
    b = c.bld
    if low == high == 0 and not x.type.is_static:
        return _set_main(c, x, diagonal)
    rows, cols = (_fixed(c, d) for d in x.shape[-2:])
    row, col, there = _places(c, rows, cols, low, high, align)
    source = np.zeros((rows, cols), np.int64)
    inside = np.zeros((rows, cols), bool)
    number = np.arange(row.size).reshape(row.shape)
    source[row[there], col[there]] = number[there]
    inside[row[there], col[there]] = True
    lead = diagonal.shape[: diagonal.rank - (1 if low == high else 2)]
    flat = b.reshape(diagonal, shape=(*lead, row.size))
    picked = b.reshape(b.gather(flat, b.constant(source.reshape(-1)), axis=len(lead)), shape=(*lead, rows, cols))
    return b.where(b.constant(inside), picked, x)
