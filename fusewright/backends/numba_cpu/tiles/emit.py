"""Helpers for emitting the LLVM IR of tiles: vectors, masks, loops with values in registers.

Owns nothing about any one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from ..streaming import prefetch

I64 = ir.IntType(64)


class Emitter:
    """Small helpers around an IR builder for vectors of one element type."""

    def __init__(self, builder: ir.IRBuilder, size: int, width: int) -> None:
        self.b = builder
        self.elem = ir.FloatType() if size == 4 else ir.DoubleType()
        self.size, self.width = size, width
        self.vec = ir.VectorType(self.elem, width)
        self.ptr = self.elem.as_pointer()
        suffix = f"v{width}f{8 * size}"
        module = builder.module
        self.fma_fn = cgutils.get_or_insert_function(
            module, ir.FunctionType(self.vec, [self.vec] * 3), f"llvm.fma.{suffix}"
        )
        self.mask = ir.VectorType(ir.IntType(1), width)
        self._suffix = suffix
        self.vptr = self.vec.as_pointer()

    def const(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def mul(self, x: ir.Value, by: ir.Value | int) -> ir.Value:
        if isinstance(by, int):
            by = self.const(by)
        if isinstance(x, ir.Constant):
            x, by = by, x
        if not isinstance(by, ir.Constant):
            return self.b.mul(x, by)
        if isinstance(x, ir.Constant):
            return self.const(x.constant * by.constant)
        return by if by.constant == 0 else x if by.constant == 1 else self.b.mul(x, by)

    def pointer(self, address: ir.Value) -> ir.Value:
        return self.b.inttoptr(address, self.ptr)

    def at(self, pointer: ir.Value, offset: ir.Value) -> ir.Value:
        if isinstance(offset, ir.Constant) and offset.constant == 0:
            return pointer
        return self.b.gep(pointer, [offset])

    def splat_const(self, value: float) -> ir.Constant:
        return ir.Constant(self.vec, [value] * self.width)

    def splat(self, scalar: ir.Value) -> ir.Value:
        undef = ir.Constant(self.vec, ir.Undefined)
        one = self.b.insert_element(undef, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.b.shuffle_vector(one, undef, zeros)

    def broadcast(self, pointer: ir.Value) -> ir.Value:
        return self.splat(self.b.load(pointer))

    def load(self, pointer: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        as_vector = self.b.bitcast(pointer, self.vptr)
        if mask is None:
            return self.b.load(as_vector, align=self.size)
        kind = ir.FunctionType(self.vec, [self.vptr, ir.IntType(32), self.mask, self.vec])
        fn = cgutils.get_or_insert_function(self.b.module, kind, f"llvm.masked.load.{self._suffix}.p0")
        align = ir.Constant(ir.IntType(32), self.size)
        return self.b.call(fn, [as_vector, align, mask, ir.Constant(self.vec, None)])

    def store(self, value: ir.Value, pointer: ir.Value, mask: ir.Value | None = None) -> None:
        as_vector = self.b.bitcast(pointer, self.vptr)
        if mask is None:
            self.b.store(value, as_vector, align=self.size)
            return
        kind = ir.FunctionType(ir.VoidType(), [self.vec, self.vptr, ir.IntType(32), self.mask])
        fn = cgutils.get_or_insert_function(self.b.module, kind, f"llvm.masked.store.{self._suffix}.p0")
        self.b.call(fn, [value, as_vector, ir.Constant(ir.IntType(32), self.size), mask])

    def prefetch(self, pointer: ir.Value, write: bool = False) -> None:
        """Ask for a line that is read soon, or (``write``) written; the address need not exist."""
        prefetch(self.b, pointer, write)

    def lanes_below(self, count: ir.Value) -> ir.Value:
        """Mask of the lanes whose number is below ``count`` (an i64 of any sign)."""
        wide = ir.VectorType(ir.IntType(32), self.width)
        lanes = ir.Constant(wide, list(range(self.width)))
        capped = self.b.select(self.b.icmp_signed("<", count, self.const(self.width)), count, self.const(self.width))
        short = self.b.trunc(capped, ir.IntType(32))
        undef = ir.Constant(wide, ir.Undefined)
        one = self.b.insert_element(undef, short, ir.Constant(ir.IntType(32), 0))
        all_lanes = self.b.shuffle_vector(one, undef, ir.Constant(wide, [0] * self.width))
        return self.b.icmp_signed("<", lanes, all_lanes)

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        return self.b.call(self.fma_fn, [x, y, z])

    def select_below(self, x: ir.Value, bound: ir.Value) -> ir.Value:
        """``bound`` where x < bound, else x (so NaN stays)."""
        return self.b.select(self.b.fcmp_ordered("<", x, bound), bound, x)

    def select_above(self, x: ir.Value, bound: ir.Value) -> ir.Value:
        return self.b.select(self.b.fcmp_ordered(">", x, bound), bound, x)

    def loop(
        self,
        low: ir.Value,
        high: ir.Value,
        carried: list[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
    ) -> list[ir.Value]:
        """``for i in range(low, high): carried = body(i, carried)`` with the carried values in registers."""
        b = self.b
        if isinstance(low, ir.Constant) and isinstance(high, ir.Constant) and high.constant - low.constant <= 1:
            return body(low, carried) if high.constant > low.constant else carried
        before = b.block
        head = b.append_basic_block("head")
        inside = b.append_basic_block("body")
        after = b.append_basic_block("after")
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(low, before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        b.cbranch(b.icmp_signed("<", index, high), inside, after)
        b.position_at_end(inside)
        results = body(index, phis)
        following = b.add(index, self.const(1))
        end = b.block
        b.branch(head)
        index.add_incoming(following, end)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value, end)
        b.position_at_end(after)
        return phis


def literal_values(names: tuple[str, ...], args: tuple[Any, ...]) -> dict[str, int] | None:
    """The values of literal arguments, None where numba asks with non-literal types."""
    tail = args[len(args) - len(names) :]
    if not all(isinstance(t, types.IntegerLiteral) for t in tail):
        return None
    return {name: int(t.literal_value) for name, t in zip(names, tail, strict=True)}


def tile_call(
    emit: Callable[[ir.IRBuilder, dict[str, ir.Value], dict[str, int]], ir.Value | None],
    runtime: Sequence[str],
    literal: tuple[str, ...],
    given: tuple[Any, ...],
    result: types.Type = types.void,
) -> tuple[Any, Any] | None:
    """What an intrinsic of a tile answers numba: its signature and code. ``given`` are the types of the ``runtime`` and
    then of the ``literal`` arguments; None where the latter are not literal."""
    lit = literal_values(literal, given)
    if lit is None:
        return None
    # Literals stay in the signature: numba keys implementations by it, and ``known`` depends on them.
    signature = result(*(t if isinstance(t, types.IntegerLiteral) else types.int64 for t in given))
    # Literal loop bounds and strides become constants here: loops of one trip then cost nothing to compile.
    pairs = zip(runtime, given, strict=False)
    known = {name: ir.Constant(I64, t.literal_value) for name, t in pairs if isinstance(t, types.IntegerLiteral)}

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        made = emit(builder, dict(zip(runtime, args, strict=False)) | known, lit)
        return context.get_dummy_value() if made is None else made

    return signature, codegen
