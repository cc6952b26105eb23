"""``keras.ops.linalg`` nodes on small fixed matrices.

Owns their options; elimination is in frontends.linalg, and what iterates until it converges is refused by name.
"""

from __future__ import annotations

from typing import Any

from ....ir.graph import Value
from ... import linalg
from ..call import Call, operation
from .ops import float_pair, floats, option


def _square(c: Call, x: Any) -> Value:
    v = floats(c, x)
    try:
        linalg.size_of(v)
    except ValueError as e:
        raise c.refuse(str(e)) from None
    return v


@operation("Inv")
def _inv(c: Call, x: Any, **k: Any) -> Value:
    return linalg.inverse(c.b, _square(c, x))


@operation("Det")
def _det(c: Call, x: Any, **k: Any) -> Value:
    return linalg.determinant(c.b, _square(c, x))


@operation("Logdet", "Slogdet")
def _logdet(c: Call, x: Any, **k: Any) -> Any:
    """Pivot by pivot, so that the product cannot overflow."""
    v, b = _square(c, x), c.b
    sign: Value = b.full(v.shape[:-2], 1, v.dtype)
    total: Value = b.full(v.shape[:-2], 0, v.dtype)
    for pivot in linalg.pivots(b, v):
        sign, total = b.mul(sign, b.sign(pivot)), b.add(total, b.log(b.abs(pivot)))
    return total if c.spec.class_name == "Logdet" else [sign, total]


@operation("Cholesky", "CholeskyInverse")
def _cholesky(c: Call, x: Any, **k: Any) -> Value:
    v, upper = _square(c, x), bool(option(c, k, "upper", False))
    if c.spec.class_name == "Cholesky":
        out = linalg.cholesky(c.b, v)
        return linalg.transposed(c.b, out) if upper else out
    half = linalg.substitute(c.b, v, linalg.identity(c.b, v), lower=not upper)
    return c.b.matmul(half, half, transpose_a=not upper, transpose_b=upper)


@operation("Solve", "SolveTriangular")
def _solve(c: Call, a: Any, b: Any, **k: Any) -> Value:
    matrix, rhs = float_pair(c, a, b)
    matrix = _square(c, matrix)
    vector = rhs.rank == matrix.rank - 1
    if vector:
        rhs = c.b.reshape(rhs, shape=(*rhs.shape, 1))
    if c.spec.class_name == "Solve":
        out = linalg.solve(c.b, matrix, rhs)
    else:
        out = linalg.substitute(c.b, matrix, rhs, bool(option(c, k, "lower", False)))
    return c.b.reshape(out, shape=out.shape[:-1]) if vector else out
