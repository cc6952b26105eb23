"""Decompositions of small fixed matrices: QR, singular values, eigenvalues of symmetric matrices.

Owns Householder's and Jacobi's methods in IR ops. Vectors whose sign no definition fixes are not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..core.dims import product
from ..core.dtypes import F64, I64
from ..ir.builder import Builder
from ..ir.graph import Graph, Value
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
    """[..., min(m, n)], largest first, in float64."""
    columns, _ = _orthogonal(b, x, False)
    values, _ = b.sort(_norms(b, columns), axis=x.rank - 2, descending=True)
    out: Value = values
    return out


def svd(b: Builder, x: Value) -> tuple[Value, Value, Value]:
    """(s [..., k], U [..., m, k], V [..., n, k]) in float64, k = min(m, n); each pair of vectors up to its sign.

    A vector that belongs to the singular value 0 is 0.
    """
    m, n = sizes_of(x)
    columns, turns = _orthogonal(b, x, True)
    norms = _norms(b, columns)
    k = min(m, n)
    values, order = b.top_k(norms, k=k, axis=x.rank - 2)
    safe = b.where(b.eq(norms, 0.0), b.constant(1.0, F64), norms)
    left = b.div(columns, b.reshape(safe, shape=(*x.shape[:-2], 1, k)))
    parts = [_ordered(b, v, order) for v in (left, turns)]
    u, v = parts if m >= n else reversed(parts)
    return values, u, v


def _ordered(b: Builder, x: Value, order: Value) -> Value:
    """The columns in another order, one for each matrix."""
    lead = product(x.shape[:-2])
    rows = b.reshape(transposed(b, x), shape=(lead, x.shape[-1], x.shape[-2]))
    places = b.reshape(b.cast(order, to=I64), shape=(lead, x.shape[-1]))
    picked = b.gather(rows, places, axis=1, batch_dims=1)
    return transposed(b, b.reshape(picked, shape=(*x.shape[:-2], x.shape[-1], x.shape[-2])))


def _norms(b: Builder, x: Value) -> Value:
    out: Value = b.sqrt(b.reduce_sum(b.square(x), axes=(x.rank - 2,)))
    return out


def _orthogonal(b: Builder, x: Value, turns: bool) -> tuple[Value, Value]:
    """(the columns of x, or of its transpose if those are fewer, made orthogonal; the turns that did it, or the same).

    One-sided Jacobi rotations, a fixed number of sweeps over all pairs.
    """
    m, n = sizes_of(x)
    wide = x if x.dtype is F64 else b.cast(x, to=F64)
    wide = wide if m >= n else transposed(b, wide)
    k = min(m, n)
    eye = b.cast(b.eq(numbers(b, k), numbers(b, k, 1)), to=F64)
    carried = [wide, b.broadcast_to(eye, shape=(*x.shape[:-2], k, k))] if turns else [wide]
    if k > 1:
        regions = [_condition(b, carried), _sweep(b, carried, k)]
        carried = list(b.apply("while", [b.constant(0, I64), *carried], {"n_carry": 1 + len(carried)}, regions))[1:]
    return carried[0], carried[-1]


def _entered(carried: Sequence[Value], b: Builder) -> list[Value]:
    return [b.input("n", I64, ()), *(b.input(f"a{i}", F64, v.shape) for i, v in enumerate(carried))]


def _condition(b: Builder, carried: Sequence[Value]) -> Graph:
    inner = Builder(origin=b.current_origin)
    at = _entered(carried, inner)[0]
    return inner.build({"r0": inner.lt(at, _SWEEPS)})


def _sweep(b: Builder, carried: Sequence[Value], n: int) -> Graph:
    """Every pair of columns turned once, and what has to turn along with them."""
    inner = Builder(origin=b.current_origin)
    at, *matrices = _entered(carried, inner)
    columns = [[column(inner, a, k) for a in matrices] for k in range(n)]
    for p, q in combinations(range(n), 2):
        cosine, sine = _angle(inner, columns[p][0], columns[q][0])
        turned = [_turned(inner, u, v, cosine, sine) for u, v in zip(columns[p], columns[q], strict=True)]
        columns[p], columns[q] = [t[0] for t in turned], [t[1] for t in turned]
    whole = [inner.concat(*(c[i] for c in columns), axis=a.rank - 1) for i, a in enumerate(matrices)]
    return inner.build(inner.add(at, 1), *whole, names=[f"r{i}" for i in range(1 + len(whole))])


def _angle(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """(cosine, sine) of the turn in their plane that makes two columns orthogonal."""

    def dot(u: Value, v: Value) -> Value:
        out: Value = b.reduce_sum(b.mul(u, v), axes=(u.rank - 2,), keepdims=True)
        return out

    inner, first, second = dot(x, y), dot(x, x), dot(y, y)
    still = b.le(b.abs(inner), b.mul(b.constant(1e-17, F64), b.sqrt(b.mul(first, second))))
    slope = b.div(b.sub(second, first), b.mul(b.constant(2.0, F64), b.where(still, b.constant(1.0, F64), inner)))
    sign = b.where(b.lt(slope, 0.0), b.constant(-1.0, F64), b.constant(1.0, F64))
    tangent = b.div(sign, b.add(b.abs(slope), b.sqrt(b.add(b.square(slope), 1.0))))
    tangent = b.where(still, b.constant(0.0, F64), tangent)
    cosine = b.rsqrt(b.add(b.square(tangent), 1.0))
    return cosine, b.mul(cosine, tangent)


def _turned(b: Builder, x: Value, y: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
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


__all__ = ["SIGNS", "eigenvalues", "qr", "singular_values", "sizes_of", "svd"]
