"""The names of kernel text where a GPU needs another form than a CPU: pointers to device memory, registers as memory.

Owns these overrides and what only GPU kernels may say. The rest is the CPU's vocabulary, compiled for another machine.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..numba_cpu import prelude, registry
from . import flash, half, tensor

GLOBAL, SHARED = 1, 3
WIDE = 16  # bytes of the widest access
WORD, HALF = ir.IntType(64), ir.IntType(32)


def pointer_maker(element: types.Type, space: int = GLOBAL) -> Any:
    """An intrinsic that makes a typed pointer from the int64 address of device (or shared) memory.

    The address space is stated and then cast away: LLVM finds it again for every access, so that Numba need not know.
    """

    @intrinsic
    def make(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            whole = context.get_value_type(signature.return_type)
            at = args[0] if space == GLOBAL else builder.trunc(args[0], HALF)
            return builder.addrspacecast(builder.inttoptr(at, whole.pointee.as_pointer(space)), whole)

        return types.CPointer(element)(types.int64), codegen

    return make


def slot_maker(element: types.Type) -> Any:
    """An intrinsic that gives a place for one number, which LLVM keeps in a register."""

    @intrinsic
    def make(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return cgutils.alloca_once(builder, context.get_value_type(element))

        return types.CPointer(element)(), codegen

    return make


def _wide(builder: Any, pointer: Any, index: Any, count: int) -> Any:
    vector = ir.VectorType(pointer.type.pointee, count)
    return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())


def wide_get(count: int) -> Any:
    """An intrinsic ``(pointer, index)``: the ``count`` elements, 16 bytes, that begin there at a multiple of 16."""

    @intrinsic
    def get(typingctx: Any, pointer: Any, index: Any) -> Any:
        if not isinstance(pointer, types.CPointer):
            return None
        result = types.UniTuple(pointer.dtype, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = builder.load(_wide(builder, args[0], args[1], count), align=WIDE)
            parts = [builder.extract_element(loaded, ir.Constant(HALF, i)) for i in range(count)]
            return context.make_tuple(builder, result, parts)

        return result(pointer, types.int64), codegen

    return get


def wide_put(count: int) -> Any:
    """An intrinsic ``(pointer, index, elements)``: the opposite of ``wide_get``."""

    @intrinsic
    def put(typingctx: Any, pointer: Any, index: Any, elements: Any) -> Any:
        if not isinstance(pointer, types.CPointer) or elements != types.UniTuple(pointer.dtype, count):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = ir.Constant(ir.VectorType(args[0].type.pointee, count), ir.Undefined)
            for i in range(count):
                value = builder.insert_element(value, builder.extract_value(args[2], i), ir.Constant(HALF, i))
            builder.store(value, _wide(builder, args[0], args[1], count), align=WIDE)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, elements), codegen

    return put


@intrinsic
def take4(typingctx: Any, pointer: Any, index: Any, ok: Any) -> Any:
    """``get4`` where ``ok``, else zeros."""
    if not isinstance(pointer, types.CPointer):
        return None
    result = types.UniTuple(pointer.dtype, 4)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.select(args[2], args[1], ir.Constant(WORD, 0))
        loaded = builder.load(_wide(builder, args[0], at, 4), align=WIDE)
        zero = ir.Constant(args[0].type.pointee, 0)
        parts = [builder.extract_element(loaded, ir.Constant(HALF, i)) for i in range(4)]
        return context.make_tuple(builder, result, [builder.select(args[2], part, zero) for part in parts])

    return result(pointer, types.int64, types.boolean), codegen


@intrinsic
def fma4(typingctx: Any, x: Any, y: Any, acc: Any) -> Any:
    """``fma`` of four numbers with four numbers each."""
    if not isinstance(acc, types.UniTuple) or not x == y == acc:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def one(i: int) -> Any:
            return builder.fma(*(builder.extract_value(a, i) for a in args))

        return context.make_tuple(builder, acc, [one(i) for i in range(acc.count)])

    return acc(x, y, acc), codegen


def special(register: str) -> Any:
    """An intrinsic that reads one of the GPU's special registers as int64."""

    @intrinsic
    def read(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(HALF, [])
            name = f"llvm.nvvm.read.ptx.sreg.{register}"
            return builder.zext(builder.call(cgutils.get_or_insert_function(builder.module, kind, name), []), WORD)

        return types.int64(), codegen

    return read


def names() -> dict[str, Any]:
    """Every name that kernel text may use on a GPU."""
    registry.load_all()
    out = dict(registry.JITTED)
    for name, full in prelude._POINTERS.items():
        out[name] = pointer_maker(getattr(types, full))
        out[f"slot_{name[1:]}"] = slot_maker(getattr(types, full))
    for count in (4, 8):
        out[f"get{count}"], out[f"put{count}"] = wide_get(count), wide_put(count)
    out["take4"], out["fma4"] = take4, fma4
    out["si32"] = pointer_maker(types.int32, SHARED)
    out["sf32"] = pointer_maker(types.float32, SHARED)
    out["thread"] = special("tid.x")
    return out | tensor.names() | half.names() | flash.names()
