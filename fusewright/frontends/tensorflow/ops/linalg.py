"""Linear algebra on small fixed matrices: solving, inverses, determinants, Cholesky, LU.

Owns elimination written out step by step, with partial pivoting. Large or symbolic sizes are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Dim
from ....core.dtypes import I64
from ....ir.graph import Value
from ..lower import Ctx, op, same_type

_LARGEST = 16


def _size(c: Ctx, x: Value) -> int:
    n = x.shape[-1]
    if isinstance(n, Dim) or n != x.shape[-2]:
        raise c.refuse(f"takes square matrices of a fixed size, not {list(x.shape)}")
    if n > _LARGEST:
        raise c.refuse(f"matrices larger than {_LARGEST} are not supported")
    return n


def _row(c: Ctx, x: Value, k: int) -> Value:
    starts, stops = [0] * x.rank, list(x.shape)
    starts[-2], stops[-2] = k, k + 1
    out: Value = c.bld.slice(x, starts=tuple(starts), stops=tuple(stops))
    return out


def _column(c: Ctx, x: Value, k: int) -> Value:
    starts, stops = [0] * x.rank, list(x.shape)
    starts[-1], stops[-1] = k, k + 1
    out: Value = c.bld.slice(x, starts=tuple(starts), stops=tuple(stops))
    return out


def _numbers(c: Ctx, n: int) -> Value:
    """Row numbers as a column."""
    out: Value = c.bld.constant(np.arange(n, dtype=np.int64).reshape(n, 1))
    return out


def _pivoted(c: Ctx, x: Value, k: int, n: int) -> tuple[Value, Value]:
    """(the matrix with row k and the row of the largest element of column k, from k on, exchanged; that row)."""
    b = c.bld
    rows = _numbers(c, n)
    size = b.where(b.lt(rows, c.const(k, I64)), c.const(-1, x), b.abs(_column(c, x, k)))
    at = b.argmax(size, axis=x.rank - 2, keepdims=True)
    chosen = b.eq(rows, at)
    lead = x.shape[:-2]
    flat = b.reshape(x, shape=(_count(lead), n, x.shape[-1]))
    places = b.reshape(at, shape=(_count(lead), 1))
    pivot = b.reshape(b.gather(flat, places, axis=1, batch_dims=1), shape=(*lead, 1, x.shape[-1]))
    swapped = b.where(chosen, _row(c, x, k), x)
    return b.where(b.eq(rows, c.const(k, I64)), pivot, swapped), at


def _count(lead: tuple[Any, ...]) -> Any:
    total: Any = 1
    for d in lead:
        total = total * d
    return total


def _solved(c: Ctx, a: Value, rhs: Value) -> Value:
    """a^-1 rhs by Gauss-Jordan elimination."""
    b, n = c.bld, _size(c, a)
    x = b.concat(a, rhs, axis=a.rank - 1)
    rows = _numbers(c, n)
    for k in range(n):
        x, _ = _pivoted(c, x, k, n)
        pivot = b.div(_row(c, x, k), _column(c, _row(c, x, k), k))
        reduced = b.sub(x, b.mul(_column(c, x, k), pivot))
        x = b.where(b.eq(rows, c.const(k, I64)), pivot, reduced)
    starts = [0] * x.rank
    starts[-1] = n
    out: Value = b.slice(x, starts=tuple(starts), stops=x.shape)
    return out


def _turned(c: Ctx, a: Value) -> Value:
    perm = (*range(a.rank - 2), a.rank - 1, a.rank - 2)
    out: Value = c.bld.transpose(a, perm=perm)
    return out


def _swept(c: Ctx, x: Value) -> tuple[Value, list[Value]]:
    """(LU in one matrix, the row exchanged at each step)."""
    b, n = c.bld, _size(c, x)
    rows = _numbers(c, n)
    columns = b.constant(np.arange(n, dtype=np.int64).reshape(1, n))
    chosen = []
    for k in range(n):
        x, at = _pivoted(c, x, k, n)
        chosen.append(at)
        if k + 1 == n:
            break
        row = _row(c, x, k)
        factor = b.div(_column(c, x, k), _column(c, row, k))
        below = b.gt(rows, c.const(k, I64))
        right = b.gt(columns, c.const(k, I64))
        x = b.where(b.logical_and(below, right), b.sub(x, b.mul(factor, row)), x)
        x = b.where(b.logical_and(below, b.eq(columns, c.const(k, I64))), factor, x)
    return x, chosen


@op("MatrixSolve")
def _solve(c: Ctx, a: Value, rhs: Value) -> Any:
    return _solved(c, _turned(c, a) if c.b("adjoint", False) else a, rhs)


@op("MatrixInverse")
def _inverse(c: Ctx, a: Value) -> Any:
    n = _size(c, a)
    eye = c.bld.broadcast_to(c.const(np.eye(n), a), shape=a.shape)
    return _solved(c, _turned(c, a) if c.b("adjoint", False) else a, eye)


@op("MatrixDeterminant")
def _determinant(c: Ctx, a: Value) -> Any:
    b, n = c.bld, _size(c, a)
    if n == 0:
        return b.full(a.shape[:-2], 1, a.dtype)
    # A singular column leaves 0 / 0 below a pivot of 0; the determinant is then 0, not NaN.
    x, rows = a, _numbers(c, n)
    total = b.full((*a.shape[:-2], 1, 1), 1, a.dtype)
    for k in range(n):
        x, at = _pivoted(c, x, k, n)
        row = _row(c, x, k)
        pivot = _column(c, row, k)
        moved = b.ne(at, c.const(k, I64))
        total = b.mul(total, b.where(moved, b.neg(pivot), pivot))
        safe = b.where(b.eq(pivot, c.const(0, pivot)), c.const(1, pivot), pivot)
        reduced = b.sub(x, b.mul(b.div(_column(c, x, k), safe), row))
        x = b.where(b.gt(rows, c.const(k, I64)), reduced, x)
    return b.reshape(total, shape=a.shape[:-2])


@op("Lu")
def _lu(c: Ctx, a: Value) -> Any:
    b, n = c.bld, _size(c, a)
    packed, chosen = _swept(c, a)
    lead = a.shape[:-2]
    order = b.broadcast_to(_numbers(c, n), shape=(*lead, n, 1))
    rows = _numbers(c, n)
    for k, at in enumerate(chosen):
        flat = b.reshape(order, shape=(_count(lead), n))
        picked = b.gather(flat, b.reshape(at, shape=(_count(lead), 1)), axis=1, batch_dims=1)
        picked = b.reshape(picked, shape=(*lead, 1, 1))
        kept = _row(c, order, k)
        order = b.where(b.eq(rows, at), kept, order)
        order = b.where(b.eq(rows, c.const(k, I64)), picked, order)
    out = b.reshape(order, shape=(*lead, n))
    return [packed, same_type(c, out, c.type("output_idx_type", 3))]


@op("Cholesky")
def _cholesky(c: Ctx, a: Value) -> Any:
    b, n = c.bld, _size(c, a)
    rows = _numbers(c, n)
    columns: list[Value] = []
    x = a
    for k in range(n):
        column = _column(c, x, k)
        root = b.sqrt(_row(c, column, k))
        column = b.where(b.lt(rows, c.const(k, I64)), c.const(0, x), b.div(column, root))
        columns.append(column)
        x = b.sub(x, b.mul(column, _turned(c, column)))
    return b.concat(*columns, axis=a.rank - 1) if columns else a


@op("MatrixTriangularSolve")
def _triangular(c: Ctx, a: Value, rhs: Value) -> Any:
    b, n = c.bld, _size(c, a)
    lower = c.b("lower", True)
    if c.b("adjoint", False):
        a, lower = _turned(c, a), not lower
    found: dict[int, Value] = {}
    for k in range(n) if lower else reversed(range(n)):
        row = _row(c, a, k)
        left = _row(c, rhs, k)
        for j, value in found.items():
            left = b.sub(left, b.mul(_column(c, row, j), value))
        found[k] = b.div(left, _column(c, row, k))
    return b.concat(*(found[k] for k in range(n)), axis=found[0].rank - 2) if found else rhs
