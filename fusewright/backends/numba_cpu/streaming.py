"""Moves between the caches and memory: ``stream`` writes past the caches, ``fetch`` and ``own`` bring
lines in before they are read and written.

Owns their LLVM IR. Must not know about ops, nor when a kernel should stream.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import twins
from .lines import CACHE_LINE
from .registry import register

_WORD, _BYTE = ir.IntType(64), ir.IntType(8)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _past_caches(b: Any, to: Any, source: Any, lines: Any) -> None:
    """Copy so many whole lines to address ``to``, where one begins."""
    line = ir.VectorType(_BYTE, CACHE_LINE)
    once = b.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    with cgutils.for_range(b, lines) as loop:
        at = b.mul(loop.index, ir.Constant(_WORD, CACHE_LINE))
        value = b.load(_at(b, b.add(source, at), line), align=1)
        b.store(value, _at(b, b.add(to, at), line), align=CACHE_LINE).set_metadata("nontemporal", once)


@intrinsic
def stream(typingctx: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` bytes from address ``source``, which caches hold, to address ``to``, whose lines none will hold.

    The lines that ``to`` shares with its neighbours are written as usual.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b, (to, source, count) = builder, args

        def word(value: int) -> Any:
            return ir.Constant(_WORD, value)

        def part(first: Any, size: Any) -> None:
            """``size`` bytes, less than a line: a line that is streamed must not be touched in any other way."""
            piece = CACHE_LINE // 2
            while piece:
                with b.if_then(b.icmp_signed("!=", b.and_(size, word(piece)), word(0))):
                    at, kind = b.add(first, b.and_(size, word(-2 * piece))), ir.VectorType(_BYTE, piece)
                    value = b.load(_at(b, b.add(source, at), kind), align=1)
                    b.store(value, _at(b, b.add(to, at), kind), align=1)
                piece //= 2

        head = b.and_(b.sub(word(0), to), word(CACHE_LINE - 1))
        head = b.select(b.icmp_signed("<", count, head), count, head)
        part(word(0), head)
        lines = b.sdiv(b.sub(count, head), word(CACHE_LINE))
        _past_caches(b, b.add(to, head), b.add(source, head), lines)
        done = b.add(head, b.mul(lines, word(CACHE_LINE)))
        part(done, b.sub(count, done))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def stream_lines(typingctx: Any, to: Any, source: Any, count: Any) -> Any:
    """``stream`` for whole lines: ``to`` begins one and ``count`` bytes end one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source, count = args
        _past_caches(builder, to, source, builder.sdiv(count, ir.Constant(_WORD, CACHE_LINE)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def carry(typingctx: Any, to: Any, source: Any) -> Any:
    """Copy the one line at address ``source`` to address ``to``, within the caches."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = ir.VectorType(_BYTE, CACHE_LINE)
        builder.store(builder.load(_at(builder, args[1], line), align=1), _at(builder, args[0], line), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def streamed(typingctx: Any) -> Any:
    """Order what was streamed before everything that this thread writes later; a kernel ends with it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        fence = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse.sfence"
        )
        builder.call(fence, [])
        return context.get_dummy_value()

    return types.void(), codegen


def prefetch(builder: Any, pointer: Any, write: bool = False) -> None:
    """Ask for the line at ``pointer``, mapped or not, to be in the first-level cache soon; to ``write`` it: and in no
    other core's."""
    if write:  # LLVM emits the instruction for targets that promise it only; to others it is a NOP
        builder.asm(ir.FunctionType(ir.VoidType(), [pointer.type]), "prefetchw ($0)", "r", [pointer], True)
        return
    i32, place = ir.IntType(32), _BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [place, i32, i32, i32])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(ask, [builder.bitcast(pointer, place), ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)])


@intrinsic
def fetch(typingctx: Any, address: Any, count: Any) -> Any:
    """Ask for the lines of ``count`` bytes at ``address``, mapped or not, to be in the first-level cache soon."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        with cgutils.for_range(b, b.sdiv(args[1], ir.Constant(_WORD, CACHE_LINE))) as loop:
            prefetch(b, _at(b, b.add(args[0], b.mul(loop.index, ir.Constant(_WORD, CACHE_LINE))), _BYTE))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def own(typingctx: Any, address: Any) -> Any:
    """Ask for the line at ``address``, mapped or not, to be in the first-level cache soon and in no other core's."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch(builder, _at(builder, args[0], _BYTE), write=True)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _stream_twin(to: int, source: int, count: int) -> None:
    twins.view(to, "u1", count, True)[:] = twins.view(source, "u1", count)


register("stream", stream, _stream_twin)
register("stream_lines", stream_lines, _stream_twin)
register("carry", carry, lambda to, source: _stream_twin(to, source, CACHE_LINE))
register("streamed", streamed, lambda: None)
register("fetch", fetch, lambda address, count: None)
register("own", own, lambda address: None)
