"""LLVM-level building blocks of kernels, as Numba intrinsics.

Owns pointer makers, bit casts, fused multiply-add, selects, atomics and the futex system call.
Must not know about ops, graphs or how kernels are linked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_INT = {8: types.int8, 16: types.int16, 32: types.int32, 64: types.int64}
_FLOAT_BITS = {types.float32: 32, types.float64: 64}
_LETTER = {types.float32: "f32", types.float64: "f64"}

FUTEX_WAIT_BITSET_PRIVATE = 137
FUTEX_WAKE_BITSET_PRIVATE = 138
SYS_SCHED_YIELD = 24
SYS_FUTEX = 202


def pointer_maker(element: types.Type) -> Any:
    """An intrinsic that makes a typed pointer from an int64 address; ``p[i]`` loads and stores."""

    @intrinsic
    def make(typingctx: Any, address: Any) -> Any:
        sig = types.CPointer(element)(types.int64)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return sig, codegen

    return make


def _call_llvm(builder: Any, name: str, ret: ir.Type, args: list[Any]) -> Any:
    fnty = ir.FunctionType(ret, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, fnty, name), args)


def float_intrinsic(llvm_name: str, arity: int) -> Any:
    """An intrinsic over f32 or f64 scalars that maps to ``llvm.<name>.f32|f64``."""

    def typed(x: Any) -> Any:
        if x not in _LETTER:
            return None
        sig = x(*([x] * arity))

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            name = f"llvm.{llvm_name}.{_LETTER[signature.return_type]}"
            return _call_llvm(builder, name, args[0].type, list(args))

        return sig, codegen

    if arity == 1:

        @intrinsic
        def unary(typingctx: Any, x: Any) -> Any:
            return typed(x)

        return unary
    if arity == 2:

        @intrinsic
        def binary(typingctx: Any, x: Any, y: Any) -> Any:
            return typed(x) if x == y else None

        return binary

    @intrinsic
    def ternary(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
        return typed(x) if x == y == z else None

    return ternary


sqrt = float_intrinsic("sqrt", 1)
floor = float_intrinsic("floor", 1)
ceil = float_intrinsic("ceil", 1)
trunc = float_intrinsic("trunc", 1)
rint = float_intrinsic("roundeven", 1)
fabs = float_intrinsic("fabs", 1)
fmax_nan = float_intrinsic("maximum", 2)
fmin_nan = float_intrinsic("minimum", 2)
fma = float_intrinsic("fma", 3)


@intrinsic
def copysign(typingctx: Any, x: Any, y: Any) -> Any:
    """``x`` with the sign of ``y``, as a product.

    LLVM moves a rounding to half precision into a copysign, whose sign may come from a double: a library call.
    """
    if x != y or x not in _LETTER:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, letter = args[0].type, _LETTER[signature.return_type]
        size = _call_llvm(builder, f"llvm.fabs.{letter}", kind, [args[0]])
        sign = _call_llvm(builder, f"llvm.copysign.{letter}", kind, [ir.Constant(kind, 1.0), args[1]])
        return builder.fmul(size, sign)

    return x(x, x), codegen


@intrinsic
def select(typingctx: Any, cond: Any, x: Any, y: Any) -> Any:
    """``x if cond else y`` as one select (both sides are evaluated), so that loops around it vectorise."""
    if x != y or cond != types.boolean:
        return None
    sig = x(types.boolean, x, x)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    return sig, codegen


@intrinsic
def bits(typingctx: Any, x: Any) -> Any:
    """The bit pattern of a float, as a signed integer of the same width."""
    if x not in _FLOAT_BITS:
        return None
    sig = _INT[_FLOAT_BITS[x]](x)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return sig, codegen


@intrinsic
def from_bits(typingctx: Any, x: Any) -> Any:
    """The float with this int32 or int64 bit pattern."""
    single, double = types.float32, types.float64
    back = {types.int32: single, types.uint32: single, types.int64: double, types.uint64: double}
    if x not in back:
        return None
    sig = back[x](x)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return sig, codegen


def _int_binary(name: str) -> Any:
    """Integer arithmetic in the operands' own width (Numba itself would widen to int64)."""

    @intrinsic
    def op(typingctx: Any, x: Any, y: Any) -> Any:
        if x != y or not isinstance(x, types.Integer):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(args[0], args[1])

        return x(x, x), codegen

    return op


iadd, isub, imul = _int_binary("add"), _int_binary("sub"), _int_binary("mul")
iand, ior, ixor = _int_binary("and_"), _int_binary("or_"), _int_binary("xor")
raw_sdiv, raw_srem, raw_udiv, raw_urem = (_int_binary(n) for n in ("sdiv", "srem", "udiv", "urem"))
raw_shl, raw_ashr, raw_lshr = _int_binary("shl"), _int_binary("ashr"), _int_binary("lshr")


def truncating_cast(to: types.Integer) -> Any:
    """float -> signed integer without any range check: only for values known or selected to be in range."""

    @intrinsic
    def cast(typingctx: Any, x: Any) -> Any:
        if x not in _FLOAT_BITS:
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fptosi(args[0], context.get_value_type(to))

        return to(x), codegen

    return cast


fptosi32 = truncating_cast(types.int32)
fptosi64 = truncating_cast(types.int64)


@intrinsic
def half_bits_to_f32(typingctx: Any, x: Any) -> Any:
    """IEEE binary16 bits (uint16) as float32, exactly."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def f32_to_half_bits(typingctx: Any, x: Any) -> Any:
    """float32 rounded to nearest even binary16, as uint16 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


def mark_access(builder: Any, instruction: Any, mine: str, others: str) -> None:
    """Put an access into the alias scope ``mine``, apart from the scope ``others``."""
    module = builder.module
    domain = module.add_metadata(["fusewright"])
    for kind, name in (("alias.scope", mine), ("noalias", others)):
        scope = module.add_metadata([f"fusewright.{name}", domain])
        instruction.set_metadata(kind, module.add_metadata([scope]))


def table(name: str, values: list[float]) -> Any:
    """An intrinsic ``t(i)`` that loads entry ``i`` of a constant f64 table placed beside the code."""

    @intrinsic
    def load(typingctx: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = ir.ArrayType(ir.DoubleType(), len(values))
            symbol = f"fusewright.table.{name}"
            held = builder.module.globals.get(symbol)
            if held is None:
                held = ir.GlobalVariable(builder.module, array, symbol)
                held.initializer = ir.Constant(array, [ir.Constant(ir.DoubleType(), v) for v in values])
                held.global_constant = True
                held.linkage = "internal"
            zero = ir.Constant(ir.IntType(64), 0)
            loaded = builder.load(builder.gep(held, [zero, args[0]], inbounds=True))
            mark_access(builder, loaded, "read", "written")  # nor does a store to anywhere change it
            return loaded

        return types.float64(types.int64), codegen

    return load


# ---- what only the dispatcher uses -------------------------------------------------------------------------------


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def call_kernel(typingctx: Any, fn: Any, args: Any, start: Any, stop: Any, scratch: Any) -> Any:
    """Call the C function at address ``fn`` as ``void(int64*, int64, int64, int64)``."""
    i64 = types.int64

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        word = ir.IntType(64)
        fnty = ir.FunctionType(ir.VoidType(), [word.as_pointer(), word, word, word])
        builder.call(builder.inttoptr(a[0], fnty.as_pointer()), [_word(builder, a[1]), a[2], a[3], a[4]])
        return context.get_dummy_value()

    return types.void(i64, i64, i64, i64, i64), codegen


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """Acquire-load the int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        return builder.load_atomic(_word(builder, a[0]), "acquire", 8, typ=ir.IntType(64))

    return types.int64(types.int64), codegen


@intrinsic
def atomic_swap(typingctx: Any, address: Any, value: Any) -> Any:
    """Exchange the int64 at ``address`` (sequentially consistent); returns the old value."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        return builder.atomic_rmw("xchg", _word(builder, a[0]), a[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at ``address`` (sequentially consistent); returns the old value."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        return builder.atomic_rmw("add", _word(builder, a[0]), a[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_and(typingctx: Any, address: Any, value: Any) -> Any:
    """And into the int64 at ``address`` (sequentially consistent); returns the old value."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        return builder.atomic_rmw("and", _word(builder, a[0]), a[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_cas(typingctx: Any, address: Any, expected: Any, desired: Any) -> Any:
    """Compare-and-swap the int64 at ``address``; returns whether it was ``expected`` and is now ``desired``."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        pair = builder.cmpxchg(_word(builder, a[0]), a[1], a[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def cpu_pause(typingctx: Any) -> Any:
    """The spin-wait hint."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        builder.asm(ir.FunctionType(ir.VoidType(), []), "pause", "~{memory}", [], True)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def syscall6(typingctx: Any, number: Any, a0: Any, a1: Any, a2: Any, a3: Any, a4: Any, a5: Any) -> Any:
    """Linux x86-64 system call with six arguments; returns the raw result."""
    i64 = types.int64

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        word = ir.IntType(64)
        fnty = ir.FunctionType(word, [word] * 7)
        constraint = "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},{r9},~{rcx},~{r11},~{memory}"
        return builder.asm(fnty, "syscall", constraint, list(a), True)

    return i64(i64, i64, i64, i64, i64, i64, i64), codegen


@intrinsic
def get_mxcsr(typingctx: Any) -> Any:
    """The SSE control and status register."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        _call_llvm(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [slot])
        return builder.load(slot)

    return types.uint32(), codegen


@intrinsic
def set_mxcsr(typingctx: Any, value: Any) -> Any:
    """Set the SSE control and status register."""

    def codegen(context: Any, builder: Any, signature: Any, a: Any) -> Any:
        slot = cgutils.alloca_once_value(builder, a[0])
        _call_llvm(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [slot])
        return context.get_dummy_value()

    return types.void(types.uint32), codegen
