"""The contraction tile: a register block of P rows x NV vectors, shared by matmul and every dense convolution.

Owns the LLVM IR of the tile and its NumPy twin. Must not know about graphs, layouts or how work is cut into tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from llvmlite import ir
from numba.extending import intrinsic

from ..lines import CACHE_LINE as LINE
from ..vector import calls
from .dot import DotEmitter
from .emit import Emitter, tile_call
from .layout import (
    LITERAL,
    RUNTIME,
    STAGE_AFFINE,
    STAGE_BIAS,
    STAGE_CLIP,
    STAGE_FORMS,
    STAGE_GATE,
    STAGE_KEEP,
    STAGE_LEAK,
    STAGE_MUL,
    STAGE_RELU,
    STAGE_RELU6,
    STAGE_RESIDUAL,
    STAGE_SCALE,
    STAGE_SLOPE,
    STAGES_PER_ELEMENT,
    stages_of,
    valid_rows,
    with_words,
)

_FORMS = {code: name for name, code in STAGE_FORMS.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a vector of results goes: the first channel, the element offset, and the lanes that count (None: all)."""

    channel: ir.Value
    offset: ir.Value
    mask: ir.Value | None


def finish_rows(
    e: Emitter, epilogue: int, slots: list[ir.Value], out: ir.Value, sums: list[ir.Value], rows: int,
    places: Callable[[ir.Value], list[Place]],
) -> None:  # fmt: skip
    """The register epilogue on the vectors of ``rows`` rows, and their way to ``out``; ``places`` of those of a row."""
    vectors = len(sums) // rows

    def store(values: list[ir.Value], where: list[Place]) -> None:
        for value, place in zip(apply_stages(e, epilogue, slots, values, where), where, strict=True):
            e.store(value, e.at(out, place.offset), place.mask)

    forms = [_FORMS[stage] for stage in stages_of(epilogue) if stage in _FORMS]
    if not forms:
        for i, value in enumerate(sums):
            store([value], places(e.const(i // vectors))[i % vectors :][:1])
        return
    # A function wants most of the registers: the sums wait in memory, and a few go through it side by side.
    with e.b.goto_entry_block():
        waiting = e.b.alloca(ir.ArrayType(e.vec, len(sums)))
    waiting.align = e.width * e.size
    memory = e.b.bitcast(waiting, e.ptr)
    for i, value in enumerate(sums):
        e.store(value, e.at(memory, e.const(i * e.width)))
    most = max(1, min(map(calls.side_by_side, forms)) // vectors)
    together = -(-rows // -(-rows // most))  # in as many parts, of nearly one size

    def several(first: ir.Value, count: int) -> None:
        start = e.at(memory, e.mul(first, vectors * e.width))
        values = [e.load(e.at(start, e.const(i * e.width))) for i in range(count * vectors)]
        store(values, [place for i in range(count) for place in places(e.b.add(first, e.const(i)))])

    def step(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        several(e.mul(index, together), together)
        return []

    whole = rows // together
    e.loop(e.const(0), e.const(whole), [], step)
    if rows % together:
        several(e.const(whole * together), rows % together)


def apply_stages(
    e: Emitter, epilogue: int, slots: list[ir.Value], values: list[ir.Value], places: list[Place]
) -> list[ir.Value]:
    """The register epilogue on vectors, each at its place."""
    kept = values
    for stage, word in with_words(epilogue, slots):
        if stage == STAGE_KEEP:
            kept = values
        elif stage == STAGE_GATE:
            values = [e.b.fmul(k, v) for k, v in zip(kept, values, strict=True)]
        elif stage in _FORMS:
            values = calls.emit(e.b, _FORMS[stage], values)
        else:
            values = [_apply(e, stage, word, v, place) for v, place in zip(values, places, strict=True)]
    return values


def _apply(e: Emitter, stage: int, word: ir.Value | None, value: ir.Value, place: Place) -> ir.Value:
    b = e.b

    def per_channel() -> ir.Value:
        return e.load(e.at(e.pointer(word), place.channel), place.mask)

    def per_element() -> ir.Value:
        return e.load(e.at(e.pointer(word), place.offset), place.mask)

    def downhill(slope: ir.Value) -> ir.Value:
        return b.select(b.fcmp_ordered("<", value, e.splat_const(0.0)), b.fmul(value, slope), value)

    if stage == STAGE_BIAS:
        return b.fadd(value, per_channel())
    if stage == STAGE_SCALE:
        return b.fmul(value, per_channel())
    if stage == STAGE_RESIDUAL:
        return b.fadd(value, per_element())
    if stage == STAGE_MUL:
        return b.fmul(value, per_element())
    if stage == STAGE_RELU:
        return e.select_below(value, e.splat_const(0.0))
    if stage == STAGE_RELU6:
        return e.select_above(e.select_below(value, e.splat_const(0.0)), e.splat_const(6.0))
    if stage == STAGE_SLOPE:
        return downhill(per_channel())
    if stage not in (STAGE_CLIP, STAGE_AFFINE, STAGE_LEAK):
        raise ValueError(f"unknown epilogue stage {stage}")
    first, second = two_numbers(e, word)
    if stage == STAGE_CLIP:
        return e.select_above(e.select_below(value, first), second)
    return b.fadd(b.fmul(value, first), second) if stage == STAGE_AFFINE else downhill(first)


def two_numbers(e: Emitter, word: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Two vectors from two float32 patterns in one word."""
    i32, f32, bounds = ir.IntType(32), ir.FloatType(), []
    for shift in (0, 32):
        pattern = e.b.trunc(e.b.lshr(word, e.const(shift)), i32)
        scalar = e.b.bitcast(pattern, f32)
        bounds.append(e.splat(scalar if e.size == 4 else e.b.fpext(scalar, e.elem)))
    return bounds[0], bounds[1]


def emit_contract(builder: ir.IRBuilder, run: dict[str, ir.Value], lit: dict[str, int]) -> None:
    """Emit one tile in place."""
    e = (DotEmitter if lit["DOT"] else Emitter)(builder, lit["DT"], lit["W"])
    b, rows, vectors, width = builder, lit["P"], lit["NV"], lit["W"]
    a, w, ask = e.pointer(run["a"]), e.pointer(run["w"]), e.pointer(run["ask"])
    masks: list[ir.Value | None] = [None] * vectors
    if lit["TAIL"]:
        masks = [e.lanes_below(b.sub(run["cols"], e.const(v * width))) for v in range(vectors)]
    w_masks = masks if lit["TAIL"] == 2 else [None] * vectors
    row_offsets = [e.mul(run["a_px"], p) for p in range(rows)]
    slots = [run[f"s{i}"] for i in range(4)]

    def places(row: ir.Value) -> list[ir.Value]:
        """Element offsets of the vectors of a row of results."""
        first = b.add(run["off"], e.mul(run["o_px"], row))
        blocks = [divmod(v * width, 16) for v in range(vectors)]
        return [b.add(first, b.add(e.mul(run["o_vb"], block), e.const(lane))) for block, lane in blocks]

    accs: list[ir.Value] = [e.splat_const(0.0)] * (rows * vectors)
    if lit["SPLIT"]:
        accs = _load_partial(e, run, rows, vectors, width)

    def shares(stride: str, index: ir.Value) -> ir.Value:
        """Elements asked for while the weights go on by ``index`` strides."""
        return e.mul(e.mul(index, b.sdiv(run[stride], run["wk"])), lit["ASK"] // e.size)

    def channels(
        pa: ir.Value, pw: ir.Value, asked: list[ir.Value], count: ir.Value, live: list[int], accs: list[ir.Value]
    ) -> list[ir.Value]:  # fmt: skip
        first = 2 + len(asked)

        def step(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            ca, cw, acc = carried[0], carried[1], list(carried[first:])
            for start in carried[2:first]:
                for line in range(0, lit["ASK"], LINE):
                    e.prefetch(e.at(start, e.const(line // e.size)))
            ws = [e.load(e.at(cw, e.const(v * width)), w_masks[v]) for v in range(vectors)]
            for i, p in enumerate(live):
                x = e.broadcast(e.at(ca, row_offsets[p]))
                for v in range(vectors):
                    acc[i * vectors + v] = e.fma(x, ws[v], acc[i * vectors + v])
            following = [e.at(start, e.const(lit["ASK"] // e.size)) for start in carried[2:first]]
            return [e.at(ca, run["ak"]), e.at(cw, run["wk"]), *following, *acc]

        picked = [accs[p * vectors + v] for p in live for v in range(vectors)]
        done = e.loop(e.const(0), count, [pa, pw, *asked, *picked], step)[first:]
        out = list(accs)
        for i, p in enumerate(live):
            out[p * vectors : (p + 1) * vectors] = done[i * vectors : (i + 1) * vectors]
        return out

    def claim(i0: ir.Value) -> None:
        """Ask for the lines of a few rows of results, and for those of operands as large. All at once they would keep
        the weights waiting."""
        extras = [e.pointer(word) for stage, word in with_words(lit["EPI"], slots) if stage in STAGES_PER_ELEMENT]
        for row in range(lit["CLAIM"]):
            later = b.add(e.mul(i0, lit["CLAIM"]), e.const(row))
            for at in places(later)[:: max(1, LINE // (width * e.size))]:
                target = b.add(at, run["claim"])
                e.prefetch(e.at(e.pointer(run["out"]), target), write=True)
                for extra in extras:
                    e.prefetch(e.at(extra, target))

    def outer(i0: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        a_at = e.at(a, e.mul(i0, run["a0"]))
        if lit["CLAIM"]:
            claim(i0)
        for row, line in product(range(lit["AHEAD_ROWS"]), range(lit["AHEAD"])):
            start = e.at(e.at(a_at, run["ahead"]), e.mul(run["ahead_row"], row))
            e.prefetch(e.at(start, e.const(line * lit["APART"] // e.size)))
        w_at = e.at(w, e.mul(i0, run["w0"]))
        asked = [e.at(ask, shares("w0", i0))] if lit["ASK"] else []
        count = run["nk"]
        if not _same(run["nk"], run["nk_last"]):
            last = b.icmp_signed("==", b.add(i0, e.const(1)), run["n0"])
            count = b.select(last, run["nk_last"], run["nk"])

        def middle(i1: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
            a_row = e.at(a_at, e.mul(i1, run["a1"]))
            w_row = e.at(w_at, e.mul(i1, run["w1"]))
            asked_row = [e.at(start, shares("w1", i1)) for start in asked]
            if lit["KW"]:
                for tap in range(lit["KW"]):
                    live = valid_rows(lit, tap)
                    if live:
                        a_tap, w_tap = e.at(a_row, e.mul(run["a2"], tap)), e.at(w_row, e.mul(run["w2"], tap))
                        asked_tap = [e.at(start, shares("w2", e.const(tap))) for start in asked_row]
                        accs = channels(a_tap, w_tap, asked_tap, count, live, accs)
                return accs

            def tap_loop(i2: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
                a_tap, w_tap = e.at(a_row, e.mul(i2, run["a2"])), e.at(w_row, e.mul(i2, run["w2"]))
                asked_tap = [e.at(start, shares("w2", i2)) for start in asked_row]
                return channels(a_tap, w_tap, asked_tap, count, list(range(rows)), accs)

            return e.loop(run["lo2"], run["hi2"], accs, tap_loop)

        return e.loop(run["lo1"], run["hi1"], accs, middle)

    def chunk(index: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        """A partial sum of RUN outer iterations, started from zero: its rounding errors stay those of a short sum."""
        first = e.mul(index, lit["RUN"])
        past = b.add(first, e.const(lit["RUN"]))
        stop = b.select(b.icmp_signed("<", past, run["n0"]), past, run["n0"])
        sums = e.loop(first, stop, [e.splat_const(0.0)] * (rows * vectors), outer)
        return [b.fadd(total, s) for total, s in zip(totals, sums, strict=True)]

    if lit["RUN"]:
        count = b.sdiv(b.add(run["n0"], e.const(lit["RUN"] - 1)), e.const(lit["RUN"]))
        accs = e.loop(e.const(0), count, accs, chunk)
    else:
        accs = e.loop(e.const(0), run["n0"], accs, outer)

    def finish() -> None:
        def of_row(row: ir.Value) -> list[Place]:
            return [Place(b.add(run["ch"], e.const(v * width)), at, masks[v]) for v, at in enumerate(places(row))]

        finish_rows(e, lit["EPI"], slots, e.pointer(run["out"]), accs, rows, of_row)

    if not lit["SPLIT"]:
        finish()
        return
    more = b.icmp_signed("!=", b.and_(run["mode"], e.const(2)), e.const(0))
    with b.if_else(more) as (then, otherwise):
        with then:
            part = e.pointer(run["part"])
            for i, acc in enumerate(accs):
                e.store(acc, e.at(part, e.const(i * width)))
        with otherwise:
            finish()


def _same(x: ir.Value, y: ir.Value) -> bool:
    return isinstance(x, ir.Constant) and isinstance(y, ir.Constant) and x.constant == y.constant


def _load_partial(e: Emitter, run: dict[str, ir.Value], rows: int, vectors: int, width: int) -> list[ir.Value]:
    """Accumulators that start from the partial sums when bit 0 of mode is set, else from zero."""
    b = e.b
    resume = b.icmp_signed("!=", b.and_(run["mode"], e.const(1)), e.const(0))
    before = b.block
    with b.if_then(resume):
        part = e.pointer(run["part"])
        loaded = [e.load(e.at(part, e.const(i * width))) for i in range(rows * vectors)]
        inside = b.block
    accs = []
    for value in loaded:
        phi = b.phi(e.vec)
        phi.add_incoming(e.splat_const(0.0), before)
        phi.add_incoming(value, inside)
        accs.append(phi)
    return accs


# fmt: off
@intrinsic(prefer_literal=True)
def contract_tile(  # type: ignore[no-untyped-def]
    typingctx, out, off, ch, a, w, cols, n0, a0, w0, lo1, hi1, a1, w1, lo2, hi2, a2, w2, nk, nk_last, ak,
    wk, a_px, o_px, o_vb, part, mode, ahead, ahead_row, claim, ask, s0, s1, s2, s3, DT, W, P, NV, TAIL, SPLIT,
    EPI, KW, LEFT, RIGHT, SPX, DPX, AHEAD, APART, AHEAD_ROWS, ASK, CLAIM, RUN, DOT,
):
    """``out[p, n] = epilogue(sum over taps and channels of a * w)``, accumulated in loop order with one FMA each."""
    given = (
        out, off, ch, a, w, cols, n0, a0, w0, lo1, hi1, a1, w1, lo2, hi2, a2, w2, nk, nk_last, ak,
        wk, a_px, o_px, o_vb, part, mode, ahead, ahead_row, claim, ask, s0, s1, s2, s3, DT, W, P, NV, TAIL, SPLIT,
        EPI, KW, LEFT, RIGHT, SPX, DPX, AHEAD, APART, AHEAD_ROWS, ASK, CLAIM, RUN, DOT,
    )
    # fmt: on
    return tile_call(emit_contract, RUNTIME, LITERAL, given)
