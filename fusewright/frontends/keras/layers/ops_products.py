"""``keras.ops`` nodes that multiply and sum: matrix products, Kronecker and cross products, correlations.

Owns their contractions. Must not know layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.dtypes import BOOL, I32, dtype
from ....ir.graph import Value
from ..call import Call, operation, static
from .ops import float_pair, floats, option, pair, value
from .ops_shape import along, flat

_LETTERS = "abcdefghijklmnopqrstuvw"


def _contract(c: Call, x: Value, y: Value, i: Sequence[int], j: Sequence[int]) -> Value:
    """Sum over axes i of x and j of y; the others follow one another."""
    left = list(_LETTERS[: x.rank])
    right = list(_LETTERS[x.rank : x.rank + y.rank])
    for a, b in zip(i, j, strict=True):
        right[b] = left[a]
    shared = {left[a] for a in i}
    out = [s for s in (*left, *right) if s not in shared]
    return c.b.einsum(x, y, equation=f"{''.join(left)},{''.join(right)}->{''.join(out)}")


def _matrices(c: Call, x1: Any, x2: Any) -> tuple[Value, Value, bool]:
    """Both as numbers, and whether the result is to be bool; products of int8 are int32."""
    x, y = pair(c, x1, x2)
    if x.dtype is BOOL:
        return c.cast(x, I32), c.cast(y, I32), True
    if x.dtype is dtype("i8"):
        return c.cast(x, I32), c.cast(y, I32), False
    return x, y, False


@operation("Matmul", "Dot", "Inner", "Vdot", "Outer", "Tensordot")
def _product(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    kind = c.spec.class_name
    narrow = all(isinstance(v, Value) and v.dtype is dtype("i8") for v in (x1, x2))
    narrow = narrow and (kind != "Matmul" or min(x1.rank, x2.rank) == 1)
    x, y, logical = _matrices(c, x1, x2)
    if kind == "Matmul" and x.rank > 1 and y.rank > 1:
        out = c.b.matmul(x, y)
    elif kind == "Matmul":
        out = _contract(c, x, y, [x.rank - 1], [max(y.rank - 2, 0)])
    elif kind == "Vdot":
        out = c.b.reduce_sum(c.b.mul(flat(c, x), flat(c, y)), axes=(0,))
    elif kind == "Outer":
        x, y = flat(c, x), flat(c, y)
        out = c.b.mul(c.b.reshape(x, shape=(x.shape[0], 1)), y)
    elif kind == "Tensordot":
        axes = option(c, k, "axes", 2)
        if isinstance(axes, int):
            i, j = list(range(x.rank - axes, x.rank)), list(range(axes))
        else:
            i, j = (
                [c.axis(a, v.rank) for a in (e if isinstance(e, (list, tuple)) else [e])]
                for v, e in zip((x, y), axes, strict=True)
            )
        out = _contract(c, x, y, i, j)
    elif x.rank == 0 or y.rank == 0:
        out = c.b.mul(x, y)
    else:
        out = _contract(c, x, y, [x.rank - 1], [y.rank - 1 if kind == "Inner" or y.rank == 1 else y.rank - 2])
    if narrow:
        return c.cast(out, dtype("i8"))
    return c.b.ne(out, 0) if logical else out


@operation("Kron")
def _kron(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    rank = max(x.rank, y.rank)
    x, y = (c.b.reshape(v, shape=(*[1] * (rank - v.rank), *v.shape)) for v in (x, y))
    one = c.b.reshape(x, shape=tuple(d for n in x.shape for d in (n, 1)))
    two = c.b.reshape(y, shape=tuple(d for n in y.shape for d in (1, n)))
    return c.b.reshape(c.b.mul(one, two), shape=tuple(a * b for a, b in zip(x.shape, y.shape, strict=True)))


@operation("Einsum")
def _einsum(c: Call, *operands: Any, **k: Any) -> Value:
    from_config = option(c, k, "subscripts")
    found = [value(c, v) for v in operands]
    for other in found[1:]:
        found[0], _ = pair(c, found[0], other)
    found = [c.cast(v, found[0].dtype) for v in found]
    if found[0].dtype in (BOOL, dtype("i8")):
        found = [c.cast(v, I32) for v in found]
    return c.b.einsum(*found, equation=str(from_config))


@operation("Cross")
def _cross(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    axis, b = option(c, k, "axis"), c.b
    a1, a2, a3 = [axis] * 3 if axis is not None else (option(c, k, n, -1) for n in ("axisa", "axisb", "axisc"))
    a1, a2 = c.axis(a1, x.rank), c.axis(a2, y.rank)
    to_end = lambda v, a: b.transpose(v, perm=(*(i for i in range(v.rank) if i != a), a))
    x, y = to_end(x, a1), to_end(y, a2)
    if x.shape[-1] != 3 or y.shape[-1] != 3:
        raise c.refuse("only vectors of three elements are supported")
    part = lambda v, i: along(c, v, v.rank - 1, i % 3, i % 3 + 1)
    z = b.concat(
        *(b.sub(b.mul(part(x, i + 1), part(y, i + 2)), b.mul(part(x, i + 2), part(y, i + 1))) for i in range(3)),
        axis=x.rank - 1,
    )
    axis = c.axis(a3, z.rank)
    order = list(range(z.rank - 1))
    order.insert(axis, z.rank - 1)
    return b.transpose(z, perm=tuple(order))


@operation("Corrcoef")
def _corrcoef(c: Call, x: Any, **k: Any) -> Value:
    v, b = floats(c, x), c.b
    if v.rank != 2:
        raise c.refuse("takes a matrix of variables in rows")
    centred = b.sub(v, b.reduce_mean(v, axes=(1,), keepdims=True))
    spread = b.sqrt(b.reduce_sum(b.square(centred), axes=(1,), keepdims=True))
    scaled = b.div(centred, spread)
    return b.minimum(b.maximum(b.matmul(scaled, scaled, transpose_b=True), -1.0), 1.0)


@operation("Correlate")
def _correlate(c: Call, x1: Any, x2: Any, **k: Any) -> Value:
    x, y = pair(c, x1, x2)
    n, m = static(c, x.shape[0], "a signal"), static(c, y.shape[0], "a signal")
    mode, b = option(c, k, "mode", "valid"), c.b
    short = min(n, m)
    pads = {"valid": (0, 0), "full": (short - 1, short - 1), "same": (short // 2, (short - 1) // 2)}[mode]
    if m > n:
        raise c.refuse("the second signal may not be the longer one")
    wide = b.pad(x, low=(pads[0],), high=(pads[1],)) if any(pads) else x
    places = np.arange(n + sum(pads) - m + 1)[:, None] + np.arange(m)[None, :]
    rows = b.gather(wide, b.constant(places.astype(np.int32)), axis=0)
    return b.reshape(b.matmul(rows, b.reshape(y, shape=(m, 1))), shape=(len(places),))


@operation("CDist")
def _cdist(c: Call, x: Any, y: Any, **k: Any) -> Value:
    one, two = float_pair(c, x, y)
    b = c.b
    gap = b.sub(
        b.reshape(one, shape=(*one.shape[:-1], 1, one.shape[-1])),
        b.reshape(two, shape=(*two.shape[:-2], 1, *two.shape[-2:])),
    )
    return b.sqrt(b.reduce_sum(b.square(gap), axes=(gap.rank - 1,)))
