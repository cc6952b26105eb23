"""What plain loops need below Numba: ``get`` and ``put``, the quick ``fmax`` and ``fmin``, and ``transpose_tile``.

Owns the alias annotations of loops whose every element is read before its only write. Must not know about ops.

LLVM guards a vector loop by a run-time overlap check of its buffers, which an in-place loop fails. ``get`` and ``put``
carry alias scopes instead: no ``put`` of a kernel changes what a ``get`` of it reads later. That holds where
a buffer is shared at equal indices only and the stored value is computed from the loaded one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import twins
from .intrinsics import mark_access
from .lines import tile_side
from .registry import register


@intrinsic
def get(typingctx: Any, pointer: Any, index: Any) -> Any:
    """``pointer[index]``, which no ``put`` of this kernel changes before it is read."""
    if not isinstance(pointer, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(builder.gep(args[0], [args[1]]))
        mark_access(builder, loaded, "read", "written")
        return loaded

    return pointer.dtype(pointer, types.int64), codegen


@intrinsic
def put(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    """``pointer[index] = value``, at a place that no later ``get`` of this kernel reads."""
    if not isinstance(pointer, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = builder.store(args[2], builder.gep(args[0], [args[1]]))
        mark_access(builder, stored, "written", "read")
        return context.get_dummy_value()

    return types.void(pointer, types.int64, pointer.dtype), codegen


def _get_twin(pointer: Any, index: int) -> Any:
    return pointer[index]


def _put_twin(pointer: Any, index: int, value: Any) -> None:
    pointer[index] = value


def _extreme(llvm_name: str) -> Any:
    """NaN-propagating maximum or minimum of floats that may give either zero: a third of the instructions."""

    @intrinsic
    def run(typingctx: Any, x: Any, y: Any) -> Any:
        if x != y or x not in (types.float32, types.float64):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            name = f"llvm.{llvm_name}.{'f32' if signature.return_type == types.float32 else 'f64'}"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind, kind]), name)
            return builder.call(function, args, fastmath=("nsz",))

        return x(x, x), codegen

    return run


def _lanes(element: Any, side: int, count: int) -> tuple[str, Any, Any]:
    """The name of a vector type in LLVM's intrinsics, the type of its masks, and the mask of its first lanes."""
    name = {"float": "f32", "double": "f64"}.get(str(element), str(element))
    kind = ir.VectorType(ir.IntType(1), side)
    return f"v{side}{name}.p0", kind, ir.Constant(kind, [int(k < count) for k in range(side)])


def transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of a square tile of ``rows``, vectors of as many lanes."""
    # A perfect shuffle of the rows, repeated log2(side) times, is the transposition.
    side = len(rows)
    half, lanes = side // 2, ir.VectorType(ir.IntType(32), side)
    picks = [ir.Constant(lanes, [k // 2 + base + (k % 2) * side for k in range(side)]) for base in (0, half)]
    for _ in range(side.bit_length() - 1):
        rows = [builder.shuffle_vector(rows[i], rows[i + half], pick) for i in range(half) for pick in picks]
    return rows


def _transpose(builder: Any, element: Any, args: Any, rows: int, columns: int) -> None:
    """``rows`` vectors of ``columns`` lanes each come in, ``columns`` vectors of ``rows`` lanes go out."""
    size = element.width // 8 if isinstance(element, ir.IntType) else {"float": 4, "double": 8}[str(element)]
    side = tile_side(size)
    vector, word, i32 = ir.VectorType(element, side), ir.IntType(64), ir.IntType(32)
    align, none = ir.Constant(i32, size), ir.Constant(vector, None)

    def row(pointer: Any, first: Any, stride: Any, i: int) -> Any:
        index = builder.add(first, builder.mul(stride, ir.Constant(word, i)))
        return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())

    def masked(what: str, result: Any, kinds: list[Any]) -> Any:
        kind = ir.FunctionType(result, kinds)
        return cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{what}.{suffix}")

    suffix, flags, mask = _lanes(element, side, columns)
    held = [none] * side
    for i in range(rows):
        place = row(args[0], args[1], args[2], i)
        if columns == side:
            held[i] = builder.load(place, align=size)
        else:
            load = masked("load", vector, [vector.as_pointer(), i32, flags, vector])
            held[i] = builder.call(load, [place, align, mask, none])
    held = transposed(builder, held)  # what nobody stores is not made
    mask = _lanes(element, side, rows)[2]
    for i in range(columns):
        place = row(args[3], args[4], args[5], i)
        if rows == side:
            builder.store(held[i], place, align=size)
        else:
            store = masked("store", ir.VoidType(), [vector, vector.as_pointer(), i32, flags])
            builder.call(store, [held[i], place, align, mask])


@intrinsic
def transpose_tile(typingctx: Any, src: Any, at: Any, step: Any, dst: Any, to: Any, pitch: Any) -> Any:
    """``dst[to + j * pitch + i] = src[at + i * step + j]`` for a whole tile, through registers."""
    if not isinstance(src, types.CPointer) or src != dst:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(src.dtype)
        side = tile_side(src.dtype.bitwidth // 8)
        _transpose(builder, element, args, side, side)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(src, i64, i64, dst, i64, i64), codegen


@intrinsic(prefer_literal=True)
def transpose_part(
    typingctx: Any, src: Any, at: Any, step: Any, dst: Any, to: Any, pitch: Any, rows: Any, columns: Any
) -> Any:  # fmt: skip
    """As ``transpose_tile`` for literal ``rows`` and ``columns`` of a tile; nothing beside them is read or written."""
    if not isinstance(src, types.CPointer) or src != dst:
        return None
    if not all(isinstance(t, types.IntegerLiteral) for t in (rows, columns)):
        return None
    i64 = types.int64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(src.dtype)
        _transpose(builder, element, args, rows.literal_value, columns.literal_value)
        return context.get_dummy_value()

    return types.void(src, i64, i64, dst, i64, i64, rows, columns), codegen


def _transpose_part_twin(src: Any, at: int, step: int, dst: Any, to: int, pitch: int, rows: int, columns: int) -> None:
    for i in range(rows):
        for j in range(columns):
            dst[to + j * pitch + i] = src[at + i * step + j]


def _transpose_tile_twin(src: Any, at: int, step: int, dst: Any, to: int, pitch: int) -> None:
    side = tile_side(src.dtype.itemsize)
    _transpose_part_twin(src, at, step, dst, to, pitch, side, side)


register("transpose_tile", transpose_tile, _transpose_tile_twin)
register("transpose_part", transpose_part, _transpose_part_twin)
register("fmax", _extreme("maximum"), twins.SCALARS["maximum"])
register("fmin", _extreme("minimum"), twins.SCALARS["minimum"])
register("get", get, _get_twin)
register("put", put, _put_twin)
