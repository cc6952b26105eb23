"""What a warp does with 16 rows of queries: products with keys and values on tensor cores, everything in registers.

Owns the LLVM IR of these steps and where their numbers lie in a warp. Scores leave the first product as they enter the
second: the thread that holds keys 2t and 2t+1 gives them as terms t and t+4, and reads rows 2t and 2t+1 of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .llvm import FLOAT, I32, I64, VOID, WORD, behind, i32, tf32_parts, tf32_product
from .tiles import SLICE, pitch

_floats = types.CPointer(types.float32)


def _numbers(*given: Any) -> tuple[int, ...] | None:
    """The values of literal integers; None while one is not known to be such."""
    if not all(isinstance(x, types.IntegerLiteral) for x in given):
        return None
    return tuple(x.literal_value for x in given)


def _part(builder: Any, held: Any, index: int) -> Any:
    return builder.gep(held, [i32(index)], inbounds=True)


def _here(builder: Any, value: Any) -> Any:
    """``value``, of which nothing can be worked out before this place: the split queries would fill the registers."""
    return builder.asm(ir.FunctionType(FLOAT, [FLOAT]), "mov.b32 $0, $1;", "=f,f", [value], True)


def _slices(
    builder: Any, terms: int, columns: int, products: int, left: Callable[[int, int], Any],
    right: Callable[[int, int, int], Any], totals: Any,
) -> None:  # fmt: skip
    """Sums over ``terms`` (a multiple of 8) for ``columns`` tiles of 8 join ``totals``, slice by slice. ``left(k, i)``
    and ``right(k, column, i)`` are the numbers of this thread's fragments."""
    for first in range(0, terms, SLICE):
        steps = range(first, min(first + SLICE, terms), 8)
        rows = [[tf32_parts(builder, left(k, i), products) for i in range(4)] for k in steps]
        for column in range(columns):
            sums = [ir.Constant(FLOAT, 0.0)] * 4
            for k, row in zip(steps, rows, strict=True):
                both = [tf32_parts(builder, right(k, column, i), products) for i in range(2)]
                for low_a, low_b in ((1, 0), (0, 1), (0, 0))[3 - products :]:
                    sums = tf32_product(builder, [x[low_a] for x in row], [x[low_b] for x in both], sums)
            for i, part in enumerate(sums):
                place = _part(builder, totals, 4 * column + i)
                builder.store(builder.fadd(builder.load(place), part), place)


@intrinsic(prefer_literal=True)
def hold_queries(typingctx: Any, held: Any, at: Any, depth: Any) -> Any:
    """16 rows of ``depth`` numbers that lie at shared address ``at`` (this thread's corner) go to ``held``."""
    numbers = _numbers(depth)
    if numbers is None:
        return None
    (deep,) = numbers

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base = builder.trunc(args[1], I32)
        for k in range(0, deep, 8):
            for i, (row, column) in enumerate(((0, 0), (8, 0), (0, 4), (8, 4))):
                value = builder.load(behind(builder, base, row * pitch(deep) + k + column))
                builder.store(value, _part(builder, args[0], k // 2 + i))
        return context.get_dummy_value()

    return VOID(_floats, WORD, depth), codegen


@intrinsic(prefer_literal=True)
def score(typingctx: Any, scores: Any, queries: Any, at: Any, depth: Any, keys: Any, products: Any) -> Any:
    """``scores`` become the products of the held queries with ``keys`` keys, which lie at ``at`` as [key][depth]."""
    numbers = _numbers(depth, keys, products)
    if numbers is None:
        return None
    deep, many, how = numbers

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base = builder.trunc(args[2], I32)

        for i in range(many // 2):
            builder.store(ir.Constant(FLOAT, 0.0), _part(builder, args[0], i))
        held = lambda k, i: _here(builder, builder.load(_part(builder, args[1], k // 2 + i)))
        _slices(
            builder, deep, many // 8, how, held,
            lambda k, column, i: builder.load(behind(builder, base, column * 8 * pitch(deep) + k + 4 * i)),
            args[0],
        )  # fmt: skip
        return context.get_dummy_value()

    return VOID(_floats, _floats, WORD, depth, keys, products), codegen


@intrinsic(prefer_literal=True)
def weigh(typingctx: Any, sums: Any, weights: Any, at: Any, width: Any, keys: Any, products: Any) -> Any:
    """The products of ``weights`` (as ``score`` leaves them) with values that lie at ``at`` as [key][width] join
    ``sums``."""
    numbers = _numbers(width, keys, products)
    if numbers is None:
        return None
    wide, many, how = numbers

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base = builder.trunc(args[2], I32)

        order = (0, 2, 1, 3)  # row g, row g+8, then the same of the other key
        _slices(
            builder, many, wide // 8, how, lambda k, i: builder.load(_part(builder, args[1], k // 2 + order[i])),
            lambda k, column, i: builder.load(behind(builder, base, (k + i) * pitch(wide) + column * 8)),
            args[0],
        )  # fmt: skip
        return context.get_dummy_value()

    return VOID(_floats, _floats, WORD, width, keys, products), codegen


@intrinsic(prefer_literal=True)
def rescale(typingctx: Any, sums: Any, upper: Any, lower: Any, width: Any) -> Any:
    """Both rows of ``sums`` times their factors."""
    numbers = _numbers(width)
    if numbers is None:
        return None
    (wide,) = numbers

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i in range(wide // 2):
            place = _part(builder, args[0], i)
            builder.store(builder.fmul(builder.load(place), args[1 + i % 4 // 2]), place)
        return context.get_dummy_value()

    return VOID(_floats, types.float32, types.float32, width), codegen


@intrinsic(prefer_literal=True)
def leave_rows(typingctx: Any, sums: Any, at: Any, width: Any) -> Any:
    """``sums`` go to shared memory at ``at``, this thread's corner, as [row][width]."""
    numbers = _numbers(width)
    if numbers is None:
        return None
    (wide,) = numbers

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base = builder.trunc(args[1], I32)
        for i in range(wide // 2):
            column, row = i // 4 * 8 + i % 2, i % 4 // 2 * 8
            value = builder.load(_part(builder, args[0], i))
            builder.store(value, behind(builder, base, row * pitch(wide) + column))
        return context.get_dummy_value()

    return VOID(_floats, WORD, width), codegen


@intrinsic(prefer_literal=True)
def join_slice(
    typingctx: Any, sums: Any, left: Any, upper: Any, lower: Any, right: Any, first: Any, own: Any, row: Any,
    part: Any, parts: Any, terms: Any, products: Any,
) -> Any:  # fmt: skip
    """One slice of 16 rows times 8 columns of each of ``parts`` parts joins ``sums``, all read from global memory.

    ``upper``, ``lower`` and ``first`` are the places of this thread's first numbers, ``own`` of four; ``right`` has
    ``row`` elements from term to term, ``part`` from part to part. ``terms`` is 0 for a whole slice.
    """
    numbers = _numbers(row, part, parts, terms, products)
    if numbers is None:
        return None
    step, apart, many, few, how = numbers

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        acc, a, at_upper, at_lower, w, at_right, mine = args[:7]

        def load(held: Any, at: Any, term: int, stride: int, extra: int) -> Any:
            """Element ``term`` terms behind ``at``, zero past the end."""
            place = builder.add(at, ir.Constant(I64, term * stride + extra))
            if not few:
                return builder.load(builder.gep(held, [place]))
            there = builder.icmp_signed("<", builder.add(mine, ir.Constant(I64, term)), ir.Constant(I64, few))
            # Past the end the first element is read: it is there.
            value = builder.load(builder.gep(held, [builder.select(there, place, ir.Constant(I64, 0))]))
            return builder.select(there, value, ir.Constant(FLOAT, 0.0))

        _slices(
            builder, SLICE, many, how,
            lambda k, i: load(a, at_lower if i % 2 else at_upper, k + i // 2 * 4, 1, 0),
            lambda k, column, i: load(w, at_right, k + 4 * i, step, column * apart), acc,
        )  # fmt: skip
        return context.get_dummy_value()

    kinds = (_floats, _floats, WORD, WORD, _floats, WORD, WORD, row, part, parts, terms, products)
    return VOID(*kinds), codegen


@intrinsic
def later(typingctx: Any, number: Any) -> Any:
    """``number``, as a new one of which nothing is known: what follows from it is worked out behind this place."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.asm(ir.FunctionType(I64, [I64]), "mov.b64 $0, $1;", "=l,l", [args[0]], True)

    return WORD(WORD), codegen


def names() -> dict[str, Any]:
    """What kernel text calls these steps."""
    return {
        "hold_queries": hold_queries, "score": score, "weigh": weigh, "rescale": rescale, "leave_rows": leave_rows,
        "join_slice": join_slice, "later": later,
    }  # fmt: skip
