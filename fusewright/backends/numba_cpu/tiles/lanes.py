"""Reductions of a row that lies in memory: accumulators in registers, in the order of ``loops.lanes``.

Owns the LLVM IR and the NumPy twins. Must not know how rows are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..twins import view
from .emit import Emitter, literal_values

LITERAL = ("LANES", "DT", "W")
Combine = Callable[[Emitter, ir.Value, ir.Value], ir.Value]
Plain = Callable[[Any, Any], Any]


def _add(e: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return e.b.fadd(a, b)


def _greater(e: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return e.b.select(e.b.fcmp_ordered(">", b, a), b, a)


def _emit(
    builder: ir.IRBuilder, at: ir.Value, n: ir.Value, lit: dict[str, int], init: float, combine: Combine,
    take: Combine | None = None,
) -> Any:  # fmt: skip
    """``take`` brings an element into an accumulator, ``combine`` joins two accumulators."""
    e = Emitter(builder, lit["DT"], lit["W"])
    b, lanes, width = builder, lit["LANES"], lit["W"]
    row, vectors = e.pointer(at), lanes // width
    take = take or combine

    def whole(i: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        first = e.mul(i, lanes)
        return [take(e, acc, e.load(e.at(row, b.add(first, e.const(v * width))))) for v, acc in enumerate(accs)]

    chunks = b.sdiv(n, e.const(lanes))
    accs = e.loop(e.const(0), chunks, [e.splat_const(init)] * vectors, whole)
    first = b.mul(chunks, e.const(lanes))
    rest = b.sub(n, first)
    for v, acc in enumerate(accs):
        mask = e.lanes_below(b.sub(rest, e.const(v * width)))
        x = e.load(e.at(row, b.add(first, e.const(v * width))), mask)
        accs[v] = b.select(mask, take(e, acc, x), acc)
    while len(accs) > 1:
        half = len(accs) // 2
        accs = [combine(e, accs[v], accs[v + half]) for v in range(half)]
    joined, i32 = accs[0], ir.IntType(32)
    while width > 1:  # by halves too: lane l takes in lane l + width / 2
        width //= 2
        picks = [ir.Constant(ir.VectorType(i32, width), list(range(s, s + width))) for s in (0, width)]
        low, high = (b.shuffle_vector(joined, joined, pick) for pick in picks)
        joined = combine(e, low, high)
    return b.extract_element(joined, i32(0))


def _reduction(name: str, init: float, combine: Combine) -> Any:
    def lanes(typingctx, at, n, LANES, DT, W):  # type: ignore[no-untyped-def]
        lit = literal_values(LITERAL, (LANES, DT, W))
        if lit is None:
            return None
        kind = types.float32 if lit["DT"] == 4 else types.float64

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return _emit(builder, args[0], args[1], lit, init, combine)

        return kind(types.int64, types.int64, LANES, DT, W), codegen

    lanes.__name__ = name
    return intrinsic(prefer_literal=True)(lanes)


@intrinsic(prefer_literal=True)
def lanes_squares(typingctx, at, n, centre, LANES, DT, W):  # type: ignore[no-untyped-def]
    """The sum of the squares of the differences from ``centre``."""
    lit = literal_values(LITERAL, (LANES, DT, W))
    if lit is None:
        return None
    kind = types.float32 if lit["DT"] == 4 else types.float64

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        middle = Emitter(builder, lit["DT"], lit["W"]).splat(args[2])

        def take(e: Emitter, acc: ir.Value, x: ir.Value) -> ir.Value:
            apart = e.b.fsub(x, middle)
            return e.b.fadd(acc, e.b.fmul(apart, apart))

        return _emit(builder, args[0], args[1], lit, 0.0, _add, take)

    return kind(types.int64, types.int64, kind, LANES, DT, W), codegen


lanes_sum = _reduction("lanes_sum", 0.0, _add)
lanes_max = _reduction("lanes_max", -np.inf, _greater)


def _reduce(at: int, n: int, lanes: int, size: int, init: float, combine: Plain, take: Plain) -> Any:
    dtype = np.float32 if size == 4 else np.float64
    acc = np.full(lanes, init, dtype)
    row = view(at, dtype, n)
    with np.errstate(all="ignore"):
        for first in range(0, n, lanes):
            x = row[first : first + lanes]
            acc[: x.size] = take(acc[: x.size], x)
        while acc.size > 1:
            half = acc.size // 2
            acc = combine(acc[:half], acc[half:])
    return acc[0]


def lanes_sum_twin(at: int, n: int, lanes: int, size: int, _: int) -> Any:
    return _reduce(at, n, lanes, size, 0.0, np.add, np.add)


def lanes_max_twin(at: int, n: int, lanes: int, size: int, _: int) -> Any:
    def greater(a: Any, b: Any) -> Any:
        return np.where(b > a, b, a)

    return _reduce(at, n, lanes, size, -np.inf, greater, greater)


def lanes_squares_twin(at: int, n: int, centre: Any, lanes: int, size: int, _: int) -> Any:
    return _reduce(at, n, lanes, size, 0.0, np.add, lambda acc, x: acc + (x - centre) * (x - centre))
