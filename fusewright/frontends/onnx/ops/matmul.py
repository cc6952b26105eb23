"""Contractions: MatMul, Gemm, Einsum.

Owns one-dimensional operands of MatMul and einsum's implicit results, diagonals and chains.
"""

from __future__ import annotations

from collections import Counter

from ....core.dims import product
from ....ir.graph import Value
from ..call import Call, op


def matmul(c: Call, x: Value, y: Value) -> Value:
    """NumPy's matmul, vectors included."""
    b = c.b
    if x.rank == 0 or y.rank == 0:
        raise c.refuse("takes no scalars", "malformed")
    left = b.reshape(x, shape=(1, *x.shape)) if x.rank == 1 else x
    right = b.reshape(y, shape=(*y.shape, 1)) if y.rank == 1 else y
    out = b.matmul(left, right)
    shape = list(out.shape)
    if y.rank == 1:
        del shape[-1]
    if x.rank == 1:
        del shape[-1 if y.rank == 1 else -2]
    return out if len(shape) == out.rank else b.reshape(out, shape=shape)


@op("MatMul")
def _matmul(c: Call, x: Value, y: Value) -> Value:
    return matmul(c, x, y)


@op("Gemm")
def _gemm(c: Call, x: Value, y: Value, z: Value | None = None) -> Value:
    b, alpha, beta = c.b, c.number("alpha", 1.0), c.number("beta", 1.0)
    if x.rank != 2 or y.rank != 2:
        raise c.refuse("takes matrices", "malformed")
    out = b.matmul(x, y, transpose_a=bool(c.integer("transA", 0)), transpose_b=bool(c.integer("transB", 0)))
    if alpha != 1.0:
        out = b.mul(out, alpha if out.dtype.is_float else int(alpha))
    if z is None or beta == 0.0:
        return out
    if z.rank > 2:
        raise c.refuse(f"C {z.type} does not broadcast to a matrix", "malformed")
    return b.add(out, z if beta == 1.0 else b.mul(z, beta if z.dtype.is_float else int(beta)))


def _diagonal(c: Call, x: Value, letters: str) -> tuple[Value, str]:
    """Repeated letters of one operand: take the diagonal, one pair after the other."""
    b = c.b
    while len(set(letters)) < len(letters):
        letter = next(k for k, n in Counter(letters).items() if n > 1)
        i = letters.index(letter)
        j = letters.index(letter, i + 1)
        n = x.shape[i]
        rest = [k for k in range(x.rank) if k not in (i, j)]
        x = b.transpose(x, perm=(*rest, i, j))
        lead = x.shape[:-2]
        flat = b.reshape(x, shape=(*lead, n * n))
        if not isinstance(n, int):
            raise c.refuse("the diagonal of a symbolic extent")
        whole = (None,) * len(lead)
        x = b.slice(flat, starts=(*whole, 0), stops=(*whole, n * n), steps=(*(1,) * len(lead), n + 1))
        letters = "".join(letters[k] for k in rest) + letter
    return x, letters


@op("Einsum")
def _einsum(c: Call, *xs: Value) -> Value:
    text = (c.text("equation") or "").replace(" ", "")
    left, arrow, right = text.partition("->")
    ins = left.split(",")
    if len(ins) != len(xs) or not xs:
        raise c.refuse(f"equation {text!r} names {len(ins)} operands, there are {len(xs)}", "malformed")
    widest = max((v.rank - len(s.replace("...", "")) for s, v in zip(ins, xs) if "..." in s), default=0)
    if not 0 <= widest <= 10:
        raise c.refuse(f"equation {text!r} does not fit its operands", "malformed")
    used = set(text)
    spare = [k for k in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if k not in used][:widest]
    dots = "".join(spare)
    full: list[str] = []
    for s, v in zip(ins, xs):
        n = v.rank - len(s.replace("...", ""))
        s = s.replace("...", dots[len(dots) - n :]) if "..." in s else s
        if len(s) != v.rank or (s and not s.isalpha()):
            raise c.refuse(f"equation {text!r}: {s!r} does not fit {v.type}", "malformed")
        full.append(s)
    if arrow:
        out = right.replace("...", dots)
    else:
        counts = Counter("".join(full))
        out = dots + "".join(sorted(k for k, n in counts.items() if n == 1 and k not in dots))
    pairs = [_diagonal(c, v, s) for v, s in zip(xs, full)]
    value, letters = pairs[0]
    if len(pairs) == 1:
        return c.b.einsum(value, equation=f"{letters}->{out}")
    for i, (other, more) in enumerate(pairs[1:], 1):
        later = set(out).union(*(s for _, s in pairs[i + 1 :]))
        last = i == len(pairs) - 1
        target = out if last else "".join(k for k in dict.fromkeys(letters + more) if k in later)
        value = c.b.einsum(value, other, equation=f"{letters},{more}->{target}")
        letters = target
    return value


_ = product
