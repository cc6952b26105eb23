"""Linear algebra on small fixed matrices: elimination written out step by step, with partial pivoting.

Owns solving, inverses, determinants, LU, Cholesky and substitution in IR ops. Must not know any framework.
"""

from __future__ import annotations

from ..core.dims import Extent, product
from ..core.dtypes import I64
from ..ir.builder import Builder
from ..ir.graph import Value

LARGEST = 16


def size_of(x: Value) -> int:
    """The order of square matrices. Raises ValueError for other shapes, and for those too large to be written out."""
    n = x.shape[-1]
    if not isinstance(n, int) or n != x.shape[-2]:
        raise ValueError(f"takes square matrices of a fixed size, not {list(x.shape)}")
    if n > LARGEST:
        raise ValueError(f"matrices larger than {LARGEST} are not supported")
    return n


def row(b: Builder, x: Value, k: int) -> Value:
    """Row k, as a matrix of one row."""
    out: Value = b.slice(x, starts=(*(None,) * (x.rank - 2), k, None), stops=(*(None,) * (x.rank - 2), k + 1, None))
    return out


def column(b: Builder, x: Value, k: int) -> Value:
    """Column k, as a matrix of one column."""
    out: Value = b.slice(x, starts=(*(None,) * (x.rank - 1), k), stops=(*(None,) * (x.rank - 1), k + 1))
    return out


def numbers(b: Builder, n: int, axis: int = 0) -> Value:
    """0 to n - 1 as a column (a row for axis 1)."""
    out: Value = b.iota(shape=(n, 1) if axis == 0 else (1, n), axis=axis, dtype=I64)
    return out


def transposed(b: Builder, a: Value) -> Value:
    out: Value = b.transpose(a, perm=(*range(a.rank - 2), a.rank - 1, a.rank - 2))
    return out


def identity(b: Builder, a: Value) -> Value:
    """Unit matrices of the shape and type of ``a``."""
    n = size_of(a)
    eye = b.cast(b.eq(numbers(b, n), numbers(b, n, 1)), to=a.dtype)
    out: Value = b.broadcast_to(eye, shape=a.shape)
    return out


def pivoted(b: Builder, x: Value, k: int) -> tuple[Value, Value]:
    """(``x`` with row k and that of the largest element of column k, from k on, exchanged; the number of that row)."""
    n = x.shape[-2]
    assert isinstance(n, int)
    rows = numbers(b, n)
    sizes = b.where(b.lt(rows, k), b.constant(-1, x.dtype), b.abs(column(b, x, k)))
    at = b.argmax(sizes, axis=x.rank - 2, keepdims=True)
    lead: tuple[Extent, ...] = x.shape[:-2]
    flat = b.reshape(x, shape=(product(lead), n, x.shape[-1]))
    places = b.reshape(at, shape=(product(lead), 1))
    pivot = b.reshape(b.gather(flat, places, axis=1, batch_dims=1), shape=(*lead, 1, x.shape[-1]))
    swapped = b.where(b.eq(rows, at), row(b, x, k), x)
    return b.where(b.eq(rows, k), pivot, swapped), at


def solve(b: Builder, a: Value, rhs: Value) -> Value:
    """a^-1 rhs by Gauss-Jordan elimination."""
    n = size_of(a)
    x = b.concat(a, rhs, axis=a.rank - 1)
    rows = numbers(b, n)
    for k in range(n):
        x, _ = pivoted(b, x, k)
        pivot = b.div(row(b, x, k), column(b, row(b, x, k), k))
        x = b.where(b.eq(rows, k), pivot, b.sub(x, b.mul(column(b, x, k), pivot)))
    out: Value = b.slice(x, starts=(*(None,) * (x.rank - 1), n), stops=(None,) * x.rank)
    return out


def inverse(b: Builder, a: Value) -> Value:
    return solve(b, a, identity(b, a))


def pivots(b: Builder, a: Value) -> list[Value]:
    """The pivots of elimination, with the sign of the exchanges: their product is the determinant."""
    n = size_of(a)
    x, rows, found = a, numbers(b, n), []
    for k in range(n):
        x, at = pivoted(b, x, k)
        here = row(b, x, k)
        pivot = column(b, here, k)
        found.append(b.reshape(b.where(b.ne(at, k), b.neg(pivot), pivot), shape=a.shape[:-2]))
        # A singular column leaves 0 / 0 below a pivot of 0; the determinant is then 0, not NaN.
        safe = b.where(b.eq(pivot, 0), b.constant(1, a.dtype), pivot)
        x = b.where(b.gt(rows, k), b.sub(x, b.mul(b.div(column(b, x, k), safe), here)), x)
    return found


def determinant(b: Builder, a: Value) -> Value:
    total: Value = b.full(a.shape[:-2], 1, a.dtype)
    for pivot in pivots(b, a):
        total = b.mul(total, pivot)
    return total


def cholesky(b: Builder, a: Value) -> Value:
    """The lower factor; NaN where ``a`` is not positive definite."""
    n = size_of(a)
    rows, columns, x = numbers(b, n), [], a
    for k in range(n):
        found = column(b, x, k)
        found = b.where(b.lt(rows, k), b.constant(0, a.dtype), b.div(found, b.sqrt(row(b, found, k))))
        columns.append(found)
        x = b.sub(x, b.mul(found, transposed(b, found)))
    return b.concat(*columns, axis=a.rank - 1) if columns else a


def substitute(b: Builder, a: Value, rhs: Value, lower: bool) -> Value:
    """a^-1 rhs for a triangular ``a``; its other half is not read."""
    n = size_of(a)
    found: dict[int, Value] = {}
    for k in range(n) if lower else reversed(range(n)):
        here, left = row(b, a, k), row(b, rhs, k)
        for j, value in found.items():
            left = b.sub(left, b.mul(column(b, here, j), value))
        found[k] = b.div(left, column(b, here, k))
    return b.concat(*(found[k] for k in range(n)), axis=rhs.rank - 2) if found else rhs
