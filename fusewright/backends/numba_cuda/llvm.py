"""Short words for the LLVM IR that intrinsics of a GPU write: types, calls, shared memory, tf32 parts and products.

Owns no intrinsic. Must not know tiles, forms or kernels.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

I32, I64, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
WORD, VOID = types.int64, types.void
SHARED = 3
_HIGH, _HALF = 0xFFFFE000, 0x1000  # sign, exponent and the ten bits of a tf32 mantissa; half of its last one


def i32(value: int) -> ir.Constant:
    """A constant."""
    return ir.Constant(I32, value)


def call(builder: Any, name: str, result: ir.Type, args: list[Any]) -> Any:
    """A call of an LLVM intrinsic."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def behind(builder: Any, base: Any, offset: int, kind: ir.Type = FLOAT) -> Any:
    """Pointer to element ``offset`` behind the shared address ``base`` (i32)."""
    pointer = builder.inttoptr(base, kind.as_pointer(SHARED))
    return builder.gep(pointer, [i32(offset)], inbounds=True)


def tf32_product(builder: Any, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
    """``c`` plus the product of 16 by 8 and 8 by 8 tf32 numbers, of each of which a thread has its fragment."""
    fragment = ir.LiteralStructType([FLOAT] * 4)
    out = call(builder, "llvm.nvvm.mma.m16n8k8.row.col.tf32", fragment, [*a, *b, *c])
    return [builder.extract_value(out, i) for i in range(4)]


def tf32_parts(builder: Any, value: Any, products: int) -> tuple[Any, Any]:
    """(high, low) as tf32 bit patterns, ``high`` rounded to nearest; ``low`` is None where one product is taken.

    What is not finite, or becomes infinite by the rounding, makes the sum NaN or infinite: the caller computes such
    results again.
    """
    pattern = builder.bitcast(value, I32)
    high = builder.and_(builder.add(pattern, i32(_HALF)), i32(_HIGH))
    if products == 1:
        return high, None
    return high, builder.bitcast(builder.fsub(value, builder.bitcast(high, FLOAT)), I32)
