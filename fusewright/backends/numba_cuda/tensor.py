"""What threads of a block do together: exchanges, asynchronous copies to shared memory, products on tensor cores.

Owns the LLVM IR of these steps. One step is one name in kernel text, so that Numba sees little code.

Float32 operands are split, ``x = high + low`` with ``high`` rounded to tf32: three products (low*high, high*low and
high*high) keep float32's accuracy. Each slice of k is summed from zero and then added: the units' sums truncate.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .forms import FORMS, Form
from .llvm import FLOAT, I32, I64, SHARED, VOID, WORD, behind, call, i32, tf32_parts, tf32_product
from .tiles import A_PITCH, PLAIN_SHARED, TILES, Tile


@intrinsic(prefer_literal=True)
def shared(typingctx: Any, size: Any) -> Any:
    """The address of ``size`` bytes of shared memory that the kernel's blocks each have; of more than ``PLAIN_SHARED``,
    the launch says how many."""
    if not isinstance(size, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        plain = size.literal_value <= PLAIN_SHARED
        kind = ir.ArrayType(ir.IntType(8), size.literal_value if plain else 0)
        held = ir.GlobalVariable(builder.module, kind, builder.module.get_unique_name("shared"), SHARED)
        held.align = 16
        if plain:
            held.linkage, held.initializer = "internal", ir.Constant(kind, ir.Undefined)
        return builder.zext(builder.ptrtoint(held, I32), I64)

    return WORD(size), codegen


@intrinsic(prefer_literal=True)
def registers(typingctx: Any, count: Any) -> Any:
    """``count`` float32 numbers, all zero, that stay in registers."""
    if not isinstance(count, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.ArrayType(FLOAT, count.literal_value)
        held = cgutils.alloca_once(builder, kind)
        builder.store(ir.Constant(kind, [0.0] * count.literal_value), held)
        return builder.bitcast(held, FLOAT.as_pointer())

    return types.CPointer(types.float32)(count), codegen


@intrinsic
def barrier(typingctx: Any) -> Any:
    """All threads of the block have come here, and see what the others wrote to shared memory."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call(builder, "llvm.nvvm.barrier0", ir.VoidType(), [])
        return context.get_dummy_value()

    return VOID(), codegen


@intrinsic
def shuffle(typingctx: Any, x: Any, distance: Any) -> Any:
    """``x`` of the thread whose number in the warp differs from ours in the bits ``distance``."""
    if not isinstance(x, (types.Integer, types.Float)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, kind = args[0], args[0].type
        width = {FLOAT: 32, ir.DoubleType(): 64}.get(kind) or kind.width
        whole = ir.IntType(width)
        if width >= 32:
            bits = builder.bitcast(value, whole) if not isinstance(kind, ir.IntType) else value
        else:
            bits = builder.zext(value, I32)
        by = builder.trunc(args[1], I32)
        exchange = lambda part: call(builder, "llvm.nvvm.shfl.sync.bfly.i32", I32, [i32(0xFFFFFFFF), part, by, i32(31)])
        if width == 64:
            low, high = builder.trunc(bits, I32), builder.trunc(builder.lshr(bits, ir.Constant(I64, 32)), I32)
            low, high = (builder.zext(exchange(part), I64) for part in (low, high))
            out = builder.or_(low, builder.shl(high, ir.Constant(I64, 32)))
        else:
            out = exchange(bits)
        if isinstance(kind, ir.IntType):
            return builder.trunc(out, kind) if width < 32 else out
        return builder.bitcast(out, kind)

    return x(x, WORD), codegen


def _copy(size: int) -> Any:
    """An intrinsic that starts a copy of ``size`` bytes to shared memory: ``given`` bytes (all or none), then zeros."""
    cache = "cg" if size == 16 else "ca"

    @intrinsic
    def start(typingctx: Any, target: Any, source: Any, given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [I32, I64, I32])
            text = f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;"
            words = [builder.trunc(args[0], I32), args[1], builder.trunc(args[2], I32)]
            builder.asm(kind, text, "r,l,r,~{memory}", words, True)
            return context.get_dummy_value()

        return VOID(WORD, WORD, WORD), codegen

    return start


def _plain(text: str) -> Any:
    @intrinsic
    def run(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.asm(ir.FunctionType(ir.VoidType(), []), text, "~{memory}", [], True)
            return context.get_dummy_value()

        return VOID(), codegen

    return run


def _multiply(tile: Tile, form: Form, across: bool) -> Any:
    """An intrinsic ``(acc, a, b)``: a warp adds its share of one slice of float32 operands to ``acc``; ``a`` and ``b``
    are this thread's corners of the operands in shared memory: see ``Form.corners``."""
    products, b_pitch = form.products, form.b_pitch(tile, across)

    def fragments(builder: Any, base: Any, places: list[int]) -> list[tuple[Any, Any]]:
        return [tf32_parts(builder, builder.load(behind(builder, base, p)), products) for p in places]

    @intrinsic
    def multiply(typingctx: Any, acc: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_base, b_base = (builder.trunc(x, I32) for x in args[1:])
            zero = ir.Constant(FLOAT, 0.0)
            sums = [[zero] * 4 for _ in range(tile.mt * tile.nt)]
            for k in range(0, form.depth, 8):
                left = []
                for i in range(tile.mt):
                    at = i * 16 * A_PITCH + k
                    left.append(fragments(builder, a_base, [at, at + 8 * A_PITCH, at + 4, at + 8 * A_PITCH + 4]))
                # Column by column, so that few of the right operand's numbers wait in registers.
                for j in range(tile.nt):
                    if across:
                        at = j * 8 * b_pitch + k
                        places = [at, at + 4]
                    else:
                        at = k * b_pitch + j * 8
                        places = [at, at + 4 * b_pitch]
                    right = fragments(builder, b_base, places)
                    for low_a, low_b in ((1, 0), (0, 1), (0, 0))[3 - products :]:
                        for i in range(tile.mt):
                            at = i * tile.nt + j
                            a_regs, b_regs = [x[low_a] for x in left[i]], [x[low_b] for x in right]
                            sums[at] = tf32_product(builder, a_regs, b_regs, sums[at])
            for at, four in enumerate(sums):
                for i, part in enumerate(four):
                    place = builder.gep(args[0], [i32(4 * at + i)], inbounds=True)
                    builder.store(builder.fadd(builder.load(place), part), place)
            return context.get_dummy_value()

        return VOID(types.CPointer(types.float32), WORD, WORD), codegen

    return multiply


def _leave(tile: Tile) -> Any:
    """An intrinsic ``(acc, c)``: the thread's numbers go to its places of the result in shared memory at ``c``."""

    @intrinsic
    def leave(typingctx: Any, acc: Any, c: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base = builder.trunc(args[1], I32)
            for i in range(tile.mt):
                for j in range(tile.nt):
                    for r, (row, column) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
                        at = builder.gep(args[0], [i32(4 * (i * tile.nt + j) + r)], inbounds=True)
                        to = (i * 16 + row) * tile.c_pitch + j * 8 + column
                        builder.store(builder.load(at), behind(builder, base, to))
            return context.get_dummy_value()

        return VOID(types.CPointer(types.float32), WORD), codegen

    return leave


def _totals(tile: Tile, keep: bool) -> Any:
    """An intrinsic ``(acc, room)`` on the thread's own totals in shared memory at ``room``: with ``keep`` they take
    the sums in ``acc``, which are zero then; without, ``acc`` takes the totals."""

    @intrinsic
    def move(typingctx: Any, acc: Any, room: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base = builder.trunc(args[1], I32)
            for i in range(tile.sums):
                place = builder.gep(args[0], [i32(i)], inbounds=True)
                kept = behind(builder, base, i * tile.threads)  # neighbouring threads lie in neighbouring banks
                if keep:
                    builder.store(builder.fadd(builder.load(kept), builder.load(place)), kept)
                    builder.store(ir.Constant(FLOAT, 0.0), place)
                else:
                    builder.store(builder.load(kept), place)
            return context.get_dummy_value()

        return VOID(types.CPointer(types.float32), WORD), codegen

    return move


def _zero(tile: Tile) -> Any:
    """An intrinsic ``(room)``: the thread's totals are zero."""

    @intrinsic
    def clear(typingctx: Any, room: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base = builder.trunc(args[0], I32)
            for i in range(tile.sums):
                builder.store(ir.Constant(FLOAT, 0.0), behind(builder, base, i * tile.threads))
            return context.get_dummy_value()

        return VOID(WORD), codegen

    return clear


def names() -> dict[str, Any]:
    """What kernel text calls these steps."""
    out = {
        "shared": shared, "registers": registers, "barrier": barrier, "shuffle": shuffle,
        "copy4": _copy(4), "copy8": _copy(8), "copy16": _copy(16),
        "copies_commit": _plain("cp.async.commit_group;"), "copies_wait0": _plain("cp.async.wait_group 0;"),
        "copies_wait1": _plain("cp.async.wait_group 1;"),
    }  # fmt: skip
    for tile in TILES:
        out[f"leave_{tile.name}"] = _leave(tile)
        out[f"clear_{tile.name}"] = _zero(tile)
        out[f"keep_{tile.name}"], out[f"take_{tile.name}"] = _totals(tile, True), _totals(tile, False)
        for form in FORMS:
            if form.unit == "tf32":
                for across in (False, True):
                    out[form.step(tile, across)] = _multiply(tile, form, across)
    return out
