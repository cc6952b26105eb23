"""Winograd tiles: one block of channels of one tile into the transformed domain, and back with the epilogue.

Owns their LLVM IR. Must not know about graphs, layouts or the products in between, which the contraction tile makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ....core.winograd import TAPS, Matrix, input_matrix, output_matrix, terms
from .contract import Place, apply_stages
from .dot import rounded
from .emit import Emitter, tile_call
from .layout import (
    BLOCK,
    STAGES_PER_ELEMENT,
    WINOGRAD_IN_LITERAL,
    WINOGRAD_IN_RUNTIME,
    WINOGRAD_OUT_LITERAL,
    WINOGRAD_OUT_RUNTIME,
    with_words,
)


def _combine(e: Emitter, row: tuple[float, ...], values: Sequence[ir.Value]) -> ir.Value:
    """The sum of a matrix row over vectors, in the order of ``terms``."""
    (first, factor), *rest = terms(row)
    total = values[first] if factor == 1 else e.b.fmul(values[first], e.splat_const(factor))
    for i, factor in rest:
        if factor == 1:
            total = e.b.fadd(total, values[i])
        elif factor == -1:
            total = e.b.fsub(total, values[i])
        else:
            total = e.fma(values[i], e.splat_const(factor), total)
    return total


def _both_sides(e: Emitter, matrix: Matrix, tile: list[list[ir.Value]]) -> list[list[ir.Value]]:
    """``matrix @ tile @ matrix.T``: columns first, then rows."""
    columns = [[_combine(e, row, column) for row in matrix] for column in zip(*tile, strict=True)]
    return [[_combine(e, row, values) for row in matrix] for values in zip(*columns, strict=True)]


def emit_input(builder: ir.IRBuilder, run: dict[str, ir.Value], lit: dict[str, int]) -> None:
    """Emit the input tile in place."""
    e = Emitter(builder, 4, lit["W"])
    b, side = builder, lit["M"] + TAPS - 1
    a, v = e.pointer(run["a"]), e.pointer(run["v"])

    def inside(i: int, low: ir.Value, high: ir.Value) -> ir.Value:
        at = e.const(i)
        return b.and_(b.icmp_signed("<=", low, at), b.icmp_signed("<", at, high))

    for i, j in product(range(side, side + lit["M"]), range(lit["M"] if lit["BELOW"] else 0)):
        e.prefetch(e.at(e.at(a, e.mul(run["a_row"], i)), e.const(j * BLOCK)))
    flags: list[list[ir.Value | None]] = [[None] * side for _ in range(side)]
    if not lit["FULL"]:
        rows = [inside(i, run["r_lo"], run["r_hi"]) for i in range(side)]
        columns = [inside(j, run["c_lo"], run["c_hi"]) for j in range(side)]
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), lit["W"]), [0] * lit["W"])
        undef = ir.Constant(e.mask, ir.Undefined)
        zero = ir.Constant(ir.IntType(32), 0)
        for i in range(side):
            for j in range(side):
                one = b.insert_element(undef, b.and_(rows[i], columns[j]), zero)
                flags[i][j] = b.shuffle_vector(one, undef, lanes)
    for lane in range(0, BLOCK, lit["W"]):
        tile = [
            [e.load(e.at(e.at(a, e.mul(run["a_row"], i)), e.const(j * BLOCK + lane)), flags[i][j]) for j in range(side)]
            for i in range(side)
        ]
        for k, value in enumerate(x for row in _both_sides(e, input_matrix(lit["M"]), tile) for x in row):
            to = e.at(v, e.mul(run["v_e"], k))
            if lit["PAIRS"]:
                made = rounded(e, value)
                b.store(made, b.bitcast(to, made.type.as_pointer()), align=4)
            else:
                e.store(value, e.at(to, e.const(lane)))


def emit_output(builder: ir.IRBuilder, run: dict[str, ir.Value], lit: dict[str, int]) -> ir.Value:
    """Emit the output tile in place; the value is 1 when nothing was stored because a result is not finite."""
    e = Emitter(builder, 4, lit["W"])
    b, m, side = builder, lit["M"], lit["M"] + TAPS - 1
    source, out = e.pointer(run["m"]), e.pointer(run["out"])
    slots = [run[f"s{i}"] for i in range(4)]
    stages = with_words(lit["EPI"], slots)
    per_element = [e.pointer(word) for stage, word in stages if stage in STAGES_PER_ELEMENT]
    results: list[tuple[int, list[list[ir.Value]]]] = []
    doubt: ir.Value | None = None
    for lane in range(0, BLOCK, lit["W"]):
        tile = [
            [e.load(e.at(e.at(source, e.mul(run["m_e"], i * side + j)), e.const(lane))) for j in range(side)]
            for i in range(side)
        ]
        made = _both_sides(e, output_matrix(m), tile)
        results.append((lane, made))
        for value in (x for row in made for x in row):
            nothing = b.fsub(value, value)  # 0, or NaN where the value is an infinity or NaN
            doubt = nothing if doubt is None else b.fadd(doubt, nothing)
    assert doubt is not None
    bits = b.bitcast(b.fcmp_unordered("uno", doubt, doubt), ir.IntType(lit["W"]))
    fine = b.icmp_unsigned("==", bits, ir.Constant(ir.IntType(lit["W"]), 0))
    for i, j in product(range(m, 2 * m), range(m if lit["BELOW"] else 0)):
        at = b.add(b.add(run["off"], e.mul(run["o_row"], i)), e.const(j * BLOCK))
        e.prefetch(e.at(out, at), write=True)
        for word in per_element:
            e.prefetch(e.at(word, at))
    with b.if_then(fine, likely=True):
        for i in range(m):
            for j in range(m):
                valid = _valid(b, e, run, i, j)
                if valid is None:
                    _store(e, run, lit, slots, out, results, i, j)
                    continue
                with b.if_then(valid):
                    _store(e, run, lit, slots, out, results, i, j)
    return b.select(fine, e.const(0), e.const(1))


def _valid(b: ir.IRBuilder, e: Emitter, run: dict[str, ir.Value], i: int, j: int) -> ir.Value | None:
    """Is result (i, j) inside the image? None: always."""
    tests = []
    for at, high in ((i, run["r_hi"]), (j, run["c_hi"])):
        if not (isinstance(high, ir.Constant) and high.constant > at) and at > 0:
            tests.append(b.icmp_signed("<", e.const(at), high))
    if not tests:
        return None
    return tests[0] if len(tests) == 1 else b.and_(*tests)


def _store(
    e: Emitter,
    run: dict[str, ir.Value],
    lit: dict[str, int],
    slots: list[ir.Value],
    out: ir.Value,
    results: list[tuple[int, list[list[ir.Value]]]],
    i: int,
    j: int,
) -> None:
    b = e.b
    for lane, made in results:
        at = b.add(b.add(run["off"], e.mul(run["o_row"], i)), e.const(j * BLOCK + lane))
        channel = b.add(run["ch"], e.const(lane))
        (value,) = apply_stages(e, lit["EPI"], slots, [made[i][j]], [Place(channel, at, None)])
        e.store(value, e.at(out, at))


@intrinsic(prefer_literal=True)
def winograd_input(typingctx, a, v, a_row, v_e, r_lo, r_hi, c_lo, c_hi, W, M, FULL, BELOW, PAIRS):  # type: ignore[no-untyped-def]
    """``B^T d B`` of one tile for one block of channels; what lies outside the image counts as 0."""
    given = (a, v, a_row, v_e, r_lo, r_hi, c_lo, c_hi, W, M, FULL, BELOW, PAIRS)
    return tile_call(emit_input, WINOGRAD_IN_RUNTIME, WINOGRAD_IN_LITERAL, given)


@intrinsic(prefer_literal=True)
def winograd_output(  # type: ignore[no-untyped-def]
    typingctx, out, off, ch, m, m_e, o_row, r_hi, c_hi, s0, s1, s2, s3, W, M, EPI, BELOW
):
    """``epilogue(A^T m A)`` of one tile for one block of channels, and 0; or 1 and nothing written when a result of
    the transform is not finite."""
    given = (out, off, ch, m, m_e, o_row, r_hi, c_hi, s0, s1, s2, s3, W, M, EPI, BELOW)
    return tile_call(emit_output, WINOGRAD_OUT_RUNTIME, WINOGRAD_OUT_LITERAL, given, types.int64)
