"""bfloat16: the tile that rounds to it, and the emitter that makes a contraction tile one of bfloat16 pairs.

Owns the instructions of AVX512-BF16. Must not know what is contracted, nor where pairs come from.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .emit import Emitter

BF16_LANES = 32  # of one 512-bit vector


class BFloatType(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloatType)

    def __hash__(self) -> int:
        return hash(BFloatType)


class DotEmitter(Emitter):
    """Vectors whose 4-byte lanes are pairs of bfloat16 wherever they are multiplied."""

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """``z`` plus both products of each lane's pair. Denormal numbers count as zero, rounding is to nearest even."""
        if self.width != BF16_LANES // 2:
            raise ValueError(f"pairs are multiplied {BF16_LANES // 2} at a time, not {self.width}")
        pairs = ir.VectorType(BFloatType(), BF16_LANES)
        kind = ir.FunctionType(self.vec, [self.vec, pairs, pairs])
        dot = cgutils.get_or_insert_function(self.b.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        return self.b.call(dot, [z, self.b.bitcast(x, pairs), self.b.bitcast(y, pairs)])


def rounded(e: Emitter, value: ir.Value) -> ir.Value:
    """16 float32 as patterns of bfloat16, to nearest even; denormal numbers become zero."""
    lanes = BF16_LANES // 2
    if e.width != lanes:
        raise ValueError(f"{lanes} numbers are rounded at a time, not {e.width}")
    kind = ir.FunctionType(ir.VectorType(BFloatType(), lanes), [e.vec])
    convert = cgutils.get_or_insert_function(e.b.module, kind, "llvm.x86.avx512bf16.cvtneps2bf16.512")
    return e.b.bitcast(e.b.call(convert, [value]), ir.VectorType(ir.IntType(16), lanes))


def emit_round(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, count: ir.Value) -> None:
    """Emit the rounding of ``count`` float32 at address ``x`` to patterns at ``y``, 16 at a time."""
    lanes = BF16_LANES // 2
    e, b = Emitter(builder, 4, lanes), builder
    i16, i32 = ir.IntType(16), ir.IntType(32)
    stored = ir.VectorType(i16, lanes)
    kind = ir.FunctionType(ir.VoidType(), [stored, stored.as_pointer(), i32, e.mask])
    put = cgutils.get_or_insert_function(b.module, kind, "llvm.masked.store.v16i16.p0")
    source, target = e.pointer(x), b.inttoptr(y, i16.as_pointer())

    def place(at: ir.Value) -> Any:
        return b.bitcast(b.gep(target, [at]), stored.as_pointer())

    def whole(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        at = e.mul(index, lanes)
        b.store(rounded(e, e.load(e.at(source, at))), place(at), align=2)
        return []

    vectors = b.ashr(count, e.const(4))
    e.loop(e.const(0), vectors, [], whole)
    at = e.mul(vectors, lanes)
    with b.if_then(b.icmp_signed("<", at, count)):
        mask = e.lanes_below(b.sub(count, at))
        b.call(put, [rounded(e, e.load(e.at(source, at), mask)), place(at), ir.Constant(i32, 2), mask])


@intrinsic
def round_tile(typingctx, x, y, count):  # type: ignore[no-untyped-def]
    """``count`` float32 at ``x`` as bfloat16 at ``y``, to nearest even; denormal numbers become zero."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        emit_round(builder, *args)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
