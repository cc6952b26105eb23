"""Linear algebra on small fixed matrices: solving, inverses, determinants, Cholesky, LU.

Owns TensorFlow's options; the elimination is in frontends.linalg. Large or symbolic sizes are refused.
"""

from __future__ import annotations

from typing import Any

from ....core.dims import product
from ....ir.graph import Value
from ... import factors, linalg
from ..lower import Ctx, op, same_type
from ..values import Tensor, Withheld


def _size(c: Ctx, x: Value) -> int:
    return int(_fitting(c, linalg.size_of, x))


def _fitting(c: Ctx, fn: Any, *args: Any) -> Any:
    """What ``fn`` gives; the sizes that it does not take are a refusal."""
    try:
        return fn(*args)
    except ValueError as e:
        raise c.refuse(str(e)) from None


def _adjoint(c: Ctx, a: Value) -> Value:
    _size(c, a)
    return linalg.transposed(c.bld, a) if c.b("adjoint", False) else a


@op("MatrixSolve")
def _solve(c: Ctx, a: Value, rhs: Value) -> Any:
    return linalg.solve(c.bld, _adjoint(c, a), rhs)


@op("MatrixInverse")
def _inverse(c: Ctx, a: Value) -> Any:
    return linalg.inverse(c.bld, _adjoint(c, a))


@op("MatrixDeterminant")
def _determinant(c: Ctx, a: Value) -> Any:
    _size(c, a)
    return linalg.determinant(c.bld, a)


def _swept(c: Ctx, x: Value) -> tuple[Value, list[Value]]:
    """(LU in one matrix, the row exchanged at each step)."""
    b, n = c.bld, _size(c, x)
    rows, columns = linalg.numbers(b, n), linalg.numbers(b, n, 1)
    chosen = []
    for k in range(n):
        x, at = linalg.pivoted(b, x, k)
        chosen.append(at)
        if k + 1 == n:
            break
        row = linalg.row(b, x, k)
        factor = b.div(linalg.column(b, x, k), linalg.column(b, row, k))
        below = b.gt(rows, k)
        x = b.where(b.logical_and(below, b.gt(columns, k)), b.sub(x, b.mul(factor, row)), x)
        x = b.where(b.logical_and(below, b.eq(columns, k)), factor, x)
    return x, chosen


@op("Lu")
def _lu(c: Ctx, a: Value) -> Any:
    b, n = c.bld, _size(c, a)
    packed, chosen = _swept(c, a)
    lead = a.shape[:-2]
    rows = linalg.numbers(b, n)
    order = b.broadcast_to(rows, shape=(*lead, n, 1))
    for k, at in enumerate(chosen):
        flat = b.reshape(order, shape=(product(lead), n))
        picked = b.gather(flat, b.reshape(at, shape=(product(lead), 1)), axis=1, batch_dims=1)
        picked = b.reshape(picked, shape=(*lead, 1, 1))
        kept = linalg.row(b, order, k)
        order = b.where(b.eq(rows, at), kept, order)
        order = b.where(b.eq(rows, k), picked, order)
    out = b.reshape(order, shape=(*lead, n))
    return [packed, same_type(c, out, c.type("output_idx_type", 3))]


@op("Cholesky")
def _cholesky(c: Ctx, a: Value) -> Any:
    _size(c, a)
    return linalg.cholesky(c.bld, a)


@op("MatrixTriangularSolve")
def _triangular(c: Ctx, a: Value, rhs: Value) -> Any:
    adjoint = c.b("adjoint", False)
    return linalg.substitute(c.bld, _adjoint(c, a), rhs, c.b("lower", True) != adjoint)


@op("LogMatrixDeterminant")
def _log_determinant(c: Ctx, a: Value) -> Any:
    b = c.bld
    sign, total = b.full(a.shape[:-2], 1, a.dtype), b.full(a.shape[:-2], 0, a.dtype)
    for pivot in _fitting(c, linalg.pivots, b, a):
        sign, total = b.mul(sign, b.sign(pivot)), b.add(total, b.log(b.abs(pivot)))
    return [sign, total]


@op("Qr")
def _qr(c: Ctx, x: Value) -> Any:
    return list(_fitting(c, factors.qr, c.bld, x, c.b("full_matrices", False)))


@op("Svd")
def _svd(c: Ctx, x: Value) -> Any:
    m, n = _fitting(c, factors.sizes_of, x)
    if not c.b("compute_uv", True):
        values = factors.singular_values(c.bld, x)
        return [same_type(c, values, x.dtype), Withheld(factors.SIGNS), Withheld(factors.SIGNS)]
    found = [same_type(c, v, x.dtype) for v in factors.svd(c.bld, x)]
    # Vectors beyond the singular values complete a basis in any way.
    whole = [not c.b("full_matrices", False) or m <= n, not c.b("full_matrices", False) or n <= m]
    vectors = [Withheld(factors.SIGNS, Tensor.of(v) if w else None) for v, w in zip(found[1:], whole, strict=True)]
    return [found[0], *vectors]


@op("SelfAdjointEigV2")
def _eigenvalues(c: Ctx, x: Value) -> Any:
    values = _fitting(c, factors.eigenvalues, c.bld, x)
    return [same_type(c, values, x.dtype), Withheld(factors.SIGNS)]
