"""Decompositions of small fixed matrices: QR, singular values, eigenvalues of symmetric matrices.

Owns Householder's and Jacobi's methods in IR ops. Vectors whose sign no definition fixes are not given.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from ..core.dtypes import F64, I64
from ..ir.builder import Builder
from ..ir.graph import Value
from .linalg import column, numbers, row, transposed

SIGNS = "the sign of each vector is arbitrary, so that results could differ from the framework's: only values are given"
_SWEEPS = 20
_SMALLER, _LARGER = 12, 1 << 12


def sizes_of(x: Value) -> tuple[int, int]:
    """(rows, columns). Raises ValueError for matrices that are empty, of open size, or too large to be written out."""
    m, n = x.shape[-2:]
    if not isinstance(m, int) or not isinstance(n, int) or not 0 < min(m, n) <= _SMALLER or max(m, n) > _LARGER:
        raise ValueError(f"takes matrices of fixed sizes, the smaller from 1 to {_SMALLER}, not {list(x.shape)}")
    return m, n


def qr(b: Builder, x: Value, full: bool = False) -> tuple[Value, Value]:
    """(Q, R) by Householder's reflections, with LAPACK's signs: a diagonal element opposes its column's first one."""
    m, n = sizes_of(x)
    k, lead = min(m, n), x.shape[:-2]
    zero, one = b.constant(0, x.dtype), b.constant(1, x.dtype)
    least = b.constant(float(np.finfo(x.dtype.compute).tiny), x.dtype)
    rows, r = numbers(b, m), x
    q = b.broadcast_to(b.cast(b.eq(rows, numbers(b, m, 1)), to=x.dtype), shape=(*lead, m, m))
    for j in range(min(k, m - 1)):
        here = column(b, r, j)
        first = row(b, here, j)
        tail = b.where(b.gt(rows, j), here, zero)
        square = b.reduce_sum(b.square(tail), axes=(x.rank - 2,), keepdims=True)
        flat = b.le(square, least)
        norm = b.sqrt(b.add(b.square(first), square))
        beta = b.where(flat, first, b.where(b.ge(first, zero), b.neg(norm), norm))
        v = b.where(b.eq(rows, j), one, b.div(tail, b.where(flat, one, b.sub(first, beta))))
        tau = b.where(flat, zero, b.div(b.sub(beta, first), b.where(flat, one, beta)))
        step = b.mul(tau, v)
        r = b.sub(r, b.matmul(step, b.matmul(transposed(b, v), r)))
        q = b.sub(q, b.matmul(b.matmul(q, step), transposed(b, v)))
    r = b.where(b.le(rows, numbers(b, n, 1)), r, zero)
    if full:
        return q, r
    zeros = (0,) * x.rank
    return b.slice(q, starts=zeros, stops=(*lead, m, k)), b.slice(r, starts=zeros, stops=(*lead, k, n))


def singular_values(b: Builder, x: Value) -> Value:
    """[..., min(m, n)], largest first, in float64: one-sided Jacobi rotations until the columns are orthogonal."""
    m, n = sizes_of(x)
    wide = x if x.dtype is F64 else b.cast(x, to=F64)
    wide = wide if m >= n else transposed(b, wide)
    if min(m, n) > 1:
        count = b.constant(0, I64)
        regions = [_condition(b, wide), _sweep(b, wide, min(m, n))]
        wide = b.apply("while", [count, wide], {"n_carry": 2}, regions)[1]
    norms = b.sqrt(b.reduce_sum(b.square(wide), axes=(x.rank - 2,)))
    values, _ = b.sort(norms, axis=x.rank - 2, descending=True)
    out: Value = values
    return out


def _condition(b: Builder, x: Value) -> Any:
    inner = Builder(origin=b._origin)
    at, _ = inner.input("n", I64, ()), inner.input("a", F64, x.shape)
    return inner.build({"r0": inner.lt(at, _SWEEPS)})


def _sweep(b: Builder, x: Value, n: int) -> Any:
    """Every pair of columns turned once."""
    inner = Builder(origin=b._origin)
    at, a = inner.input("n", I64, ()), inner.input("a", F64, x.shape)
    columns = [column(inner, a, k) for k in range(n)]
    for p, q in combinations(range(n), 2):
        columns[p], columns[q] = _turned(inner, columns[p], columns[q])
    return inner.build(inner.add(at, 1), inner.concat(*columns, axis=a.rank - 1), names=["r0", "r1"])


def _turned(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """Two columns turned in their plane until they are orthogonal."""

    def dot(u: Value, v: Value) -> Value:
        out: Value = b.reduce_sum(b.mul(u, v), axes=(u.rank - 2,), keepdims=True)
        return out

    product, first, second = dot(x, y), dot(x, x), dot(y, y)
    still = b.le(b.abs(product), b.mul(b.constant(1e-17, F64), b.sqrt(b.mul(first, second))))
    slope = b.div(b.sub(second, first), b.mul(b.constant(2.0, F64), b.where(still, b.constant(1.0, F64), product)))
    sign = b.where(b.lt(slope, 0.0), b.constant(-1.0, F64), b.constant(1.0, F64))
    tangent = b.div(sign, b.add(b.abs(slope), b.sqrt(b.add(b.square(slope), 1.0))))
    tangent = b.where(still, b.constant(0.0, F64), tangent)
    cosine = b.rsqrt(b.add(b.square(tangent), 1.0))
    sine = b.mul(cosine, tangent)
    return b.sub(b.mul(cosine, x), b.mul(sine, y)), b.add(b.mul(sine, x), b.mul(cosine, y))


def eigenvalues(b: Builder, x: Value) -> Value:
    """Those of symmetric matrices, of which the lower triangle is read: [..., n], least first, in float64.

    Moved by more than their size all are positive, and positive eigenvalues are singular values.
    """
    m, n = sizes_of(x)
    if m != n:
        raise ValueError(f"takes square matrices, not {list(x.shape)}")
    wide = x if x.dtype is F64 else b.cast(x, to=F64)
    rows, columns = numbers(b, n), numbers(b, n, 1)
    lower = b.where(b.ge(rows, columns), wide, b.constant(0.0, F64))
    strict = b.where(b.gt(rows, columns), wide, b.constant(0.0, F64))
    whole = b.add(lower, transposed(b, strict))
    move = b.sqrt(b.reduce_sum(b.square(whole), axes=(x.rank - 2, x.rank - 1), keepdims=True))
    eye = b.cast(b.eq(rows, columns), to=F64)
    moved = singular_values(b, b.add(whole, b.mul(move, eye)))
    out: Value = b.sub(b.reverse(moved, axes=(x.rank - 2,)), b.reshape(move, shape=(*x.shape[:-2], 1)))
    return out


__all__ = ["SIGNS", "eigenvalues", "qr", "singular_values", "sizes_of"]
