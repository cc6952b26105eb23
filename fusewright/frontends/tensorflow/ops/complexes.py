"""Arithmetic of complex tensors, part by part.

Owns the formulas and the ops that move both parts alike. Complex numbers live inside a graph only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.graph import Value
from ..lower import COMPLEX, OPS, RAW, Ctx
from ..values import Complex, Item, Tensor

Parts = tuple[Value, Value]
# Ops that do to both parts what they do to a tensor.
_ALIKE = (
    "Add", "AddN", "AddV2", "BroadcastTo", "ConcatV2", "Cumsum", "ExpandDims", "Gather", "GatherNd", "GatherV2",
    "Identity", "MatrixBandPart", "MatrixDiagV3", "Mean", "MirrorPad", "Neg", "Pack", "Pad", "PadV2", "Reshape",
    "Reverse", "ReverseV2", "Roll", "Select", "SelectV2", "Slice", "Snapshot", "Split", "SplitV", "Squeeze",
    "StopGradient", "StridedSlice", "Sub", "Sum", "Tile", "Transpose", "Unpack", "ZerosLike",
)  # fmt: skip


def parts(c: Ctx, item: Item) -> Parts:
    """Both parts as values; a real tensor has no imaginary one."""
    if isinstance(item, Complex):
        return c.v(item.re), c.v(item.im)
    v = c.v(item)
    return v, c.bld.full(v.shape, 0.0, v.dtype)


def made(re: Value, im: Value) -> Complex:
    return Complex(Tensor.of(re), Tensor.of(im))


def modulus(b: Any, re: Value, im: Value) -> Value:
    """|z|, scaled so that squares do not leave the range."""
    a, d = b.abs(re), b.abs(im)
    big, small = b.maximum(a, d), b.minimum(a, d)
    one = b.constant(np.asarray(1, big.dtype.compute), big.dtype)
    ratio = b.div(small, b.where(b.eq(big, b.sub(one, one)), one, big))
    size = b.mul(big, b.sqrt(b.add(b.square(ratio), one)))
    out: Value = b.where(b.isinf(big), big, size)
    return out


def _mul(c: Ctx, x: Parts, y: Parts) -> Parts:
    b = c.bld
    return b.sub(b.mul(x[0], y[0]), b.mul(x[1], y[1])), b.add(b.mul(x[0], y[1]), b.mul(x[1], y[0]))


def _div(c: Ctx, x: Parts, y: Parts) -> Parts:
    """Smith's method: divided by the larger part first."""
    b = c.bld
    flat = b.ge(b.abs(y[0]), b.abs(y[1]))
    big, small = b.where(flat, y[0], y[1]), b.where(flat, y[1], y[0])
    ratio = b.div(small, big)
    scale = b.add(big, b.mul(small, ratio))
    re = b.where(flat, b.add(x[0], b.mul(x[1], ratio)), b.add(b.mul(x[0], ratio), x[1]))
    im = b.where(flat, b.sub(x[1], b.mul(x[0], ratio)), b.sub(b.mul(x[1], ratio), x[0]))
    return b.div(re, scale), b.div(im, scale)


def _one(c: Ctx, like: Parts) -> Parts:
    v = like[0]
    return c.bld.full(v.shape, 1.0, v.dtype), c.bld.full(v.shape, 0.0, v.dtype)


def _exp(c: Ctx, x: Parts) -> Parts:
    b = c.bld
    size = b.exp(x[0])
    return b.mul(size, b.cos(x[1])), b.mul(size, b.sin(x[1]))


def _sqrt(c: Ctx, x: Parts) -> Parts:
    b = c.bld
    zero = c.const(0, x[0])
    half = b.sqrt(b.mul(b.add(modulus(b, *x), b.abs(x[0])), c.const(0.5, x[0])))
    safe = b.where(b.eq(half, zero), c.const(1, half), half)
    other = b.div(b.abs(x[1]), b.mul(safe, c.const(2, safe)))
    right = b.ge(x[0], zero)
    im = b.where(right, other, half)
    return b.where(right, half, other), b.where(b.lt(x[1], zero), b.neg(im), im)


def _tanh(c: Ctx, x: Parts) -> Parts:
    b, two = c.bld, c.const(2, x[0])
    a, d = b.mul(x[0], two), b.mul(x[1], two)
    # (sinh a + i sin d) / (cosh a + cos d), both sides times 2 exp(-|a|), which keeps large |a| from overflowing.
    size = b.abs(a)
    e = b.exp(b.neg(size))
    scale = b.add(b.add(b.square(e), c.const(1, x[0])), b.mul(b.mul(e, two), b.cos(d)))
    real = b.neg(b.mul(b.sign(a), b.expm1(b.mul(b.neg(size), two))))
    return b.div(real, scale), b.div(b.mul(b.mul(e, two), b.sin(d)), scale)


_UNARY: dict[str, Callable[[Ctx, Parts], Parts]] = {
    "Exp": _exp, "Sqrt": _sqrt, "Tanh": _tanh,
    "Square": lambda c, x: _mul(c, x, x), "Reciprocal": lambda c, x: _div(c, _one(c, x), x),
    "Log": lambda c, x: (c.bld.log(modulus(c.bld, *x)), c.bld.atan2(x[1], x[0])),
    "Sin": lambda c, x: (c.bld.mul(c.bld.sin(x[0]), c.bld.cosh(x[1])), c.bld.mul(c.bld.cos(x[0]), c.bld.sinh(x[1]))),
    "Cos": lambda c, x: (
        c.bld.mul(c.bld.cos(x[0]), c.bld.cosh(x[1])), c.bld.neg(c.bld.mul(c.bld.sin(x[0]), c.bld.sinh(x[1])))
    ),
    "Sinh": lambda c, x: (c.bld.mul(c.bld.sinh(x[0]), c.bld.cos(x[1])), c.bld.mul(c.bld.cosh(x[0]), c.bld.sin(x[1]))),
    "Cosh": lambda c, x: (c.bld.mul(c.bld.cosh(x[0]), c.bld.cos(x[1])), c.bld.mul(c.bld.sinh(x[0]), c.bld.sin(x[1]))),
}  # fmt: skip
_UNARY["Inv"] = _UNARY["Reciprocal"]
_BINARY: dict[str, Callable[[Ctx, Parts, Parts], Parts]] = {"Mul": _mul, "RealDiv": _div, "Div": _div}


def _matmul(c: Ctx, x: Item, y: Item) -> Any:
    b, (a, d), (e, f) = c.bld, parts(c, x), parts(c, y)
    if c.node.op == "MatMul":
        turned = c.b("transpose_a", False), c.b("transpose_b", False)
        if c.b("adjoint_a", False) or c.b("adjoint_b", False):
            raise c.refuse("adjoints of complex matrices are not supported")
    else:
        turned = c.b("adj_x", False), c.b("adj_y", False)
        d, f = (b.neg(d) if turned[0] else d), (b.neg(f) if turned[1] else f)

    def product(p: Value, q: Value) -> Value:
        out: Value = b.matmul(p, q, transpose_a=turned[0], transpose_b=turned[1])
        return out

    return made(b.sub(product(a, e), product(d, f)), b.add(product(a, f), product(d, e)))


def _equal(c: Ctx, x: Item, y: Item) -> Any:
    b, p, q = c.bld, parts(c, x), parts(c, y)
    same = b.logical_and(b.eq(p[0], q[0]), b.eq(p[1], q[1]))
    return same if c.node.op == "Equal" else b.logical_not(same)


def _alike(name: str) -> Callable[..., Any]:
    def lower(c: Ctx, *items: Item) -> Any:
        found = []
        for k in (0, 1):
            own = [(i.re, i.im)[k] if isinstance(i, Complex) else i for i in items]
            result = OPS[name](c, *(own if name in RAW else [c.v(i) for i in own]))
            many = result if isinstance(result, (list, tuple)) else [result]
            found.append([Tensor.of(r) if isinstance(r, Value) else r for r in many])
        return [Complex(re, im) for re, im in zip(*found, strict=True)]

    return lower


def _unary(fn: Callable[[Ctx, Parts], Parts]) -> Callable[..., Any]:
    return lambda c, x: made(*fn(c, parts(c, x)))


def _binary(fn: Callable[[Ctx, Parts, Parts], Parts]) -> Callable[..., Any]:
    return lambda c, x, y: made(*fn(c, parts(c, x), parts(c, y)))


def register() -> None:
    """Fill the table; the lowerings of real tensors must be there already."""
    COMPLEX.update({name: _unary(fn) for name, fn in _UNARY.items()})
    COMPLEX.update({name: _binary(fn) for name, fn in _BINARY.items()})
    COMPLEX.update(dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matmul))
    COMPLEX.update(dict.fromkeys(("Equal", "NotEqual"), _equal))
    for name in _ALIKE:
        if name in OPS:
            COMPLEX.setdefault(name, _alike(name))
