"""Products of 16-bit floats on tensor cores: what a warp does with one slice of k.

Owns the LLVM IR of these steps. Sums stay in float32; 16-bit operands are read eight rows at a time by ldmatrix,
float32 ones are rounded to nearest even as they are read.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .forms import FORMS, Form
from .llvm import FLOAT, I32, SHARED, VOID, WORD, behind, call, i32
from .tiles import TILES, Tile

_FOUR, _PAIR = ir.LiteralStructType([I32] * 4), ir.VectorType(ir.HalfType(), 2)
_STEP = 16  # terms of k in one product


def _matrices(builder: Any, base: Any, offset: int, turned: bool) -> list[Any]:
    """Four 8 by 8 matrices, one register of each; ``base`` is the address of this thread's row of the first ones."""
    at = builder.inttoptr(builder.add(base, i32(offset)), ir.IntType(8).as_pointer(SHARED))
    name = f"llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4{'.trans' if turned else ''}.b16.p3"
    out = call(builder, name, _FOUR, [at])
    return [builder.extract_value(out, i) for i in range(4)]


def _rounded(builder: Any, base: Any, offset: int) -> Any:
    """Two neighbouring float32 numbers as bf16 in one register."""
    vector = ir.VectorType(FLOAT, 2)
    both = builder.load(builder.bitcast(behind(builder, base, offset), vector.as_pointer(SHARED)), align=8)
    low, high = (builder.extract_element(both, i32(i)) for i in range(2))
    kind = ir.FunctionType(I32, [FLOAT, FLOAT])
    return builder.asm(kind, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", [high, low], False)


def _product(builder: Any, unit: str, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
    name = "llvm.nvvm.mma.m16n8k16.row.col." + ("bf16" if unit == "bf16" else "f32.f32")
    words = [*a, *b] if unit == "bf16" else [builder.bitcast(x, _PAIR) for x in (*a, *b)]
    out = call(builder, name, ir.LiteralStructType([FLOAT] * 4), [*words, *c])
    return [builder.extract_value(out, i) for i in range(4)]


def _multiply(tile: Tile, form: Form, across: bool) -> Any:
    """An intrinsic ``(acc, a, b)``: a warp adds its share of one slice to ``acc``; ``a`` and ``b`` are this thread's
    corners of the operands in shared memory: see ``Form.corners``."""

    @intrinsic
    def multiply(typingctx: Any, acc: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_base, b_base = (builder.trunc(x, I32) for x in args[1:])
            a_pitch, b_pitch = form.a_pitch, form.b_pitch(tile, across)
            places = [builder.gep(args[0], [i32(i)], inbounds=True) for i in range(tile.sums)]
            sums = [[builder.load(p) for p in places[4 * at : 4 * at + 4]] for at in range(tile.mt * tile.nt)]
            for k in range(0, form.depth, _STEP):
                left = []
                for i in range(tile.mt):
                    at = i * 16 * a_pitch + k
                    if form.left == 4:
                        spots = [at, at + 8 * a_pitch, at + 8, at + 8 * a_pitch + 8]
                        left.append([_rounded(builder, a_base, p) for p in spots])
                    else:
                        left.append(_matrices(builder, a_base, 2 * at, False))
                for j in range(0, tile.nt, 2):
                    at = j * 8 * b_pitch + k if across else k * b_pitch + j * 8
                    four = _matrices(builder, b_base, 2 * at, not across)
                    for half in range(2):
                        for i in range(tile.mt):
                            to = i * tile.nt + j + half
                            right = four[2 * half : 2 * half + 2]
                            sums[to] = _product(builder, form.unit, left[i], right, sums[to])
            for place, value in zip(places, [part for parts in sums for part in parts], strict=True):
                builder.store(value, place)
            return context.get_dummy_value()

        return VOID(types.CPointer(types.float32), WORD, WORD), codegen

    return multiply


def names() -> dict[str, Any]:
    """What kernel text calls these steps."""
    return {
        form.step(tile, across): _multiply(tile, form, across)
        for form in FORMS
        if form.unit != "tf32"
        for tile in TILES
        for across in (False, True)
    }
