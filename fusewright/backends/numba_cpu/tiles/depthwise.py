"""The depthwise tile: P pixels of a row for NV vectors of channels, each channel, or small group, with its own taps.

Owns its LLVM IR and its NumPy twin's argument list. Must not know about graphs or layouts.
"""

from __future__ import annotations

from itertools import product

from llvmlite import ir
from numba.extending import intrinsic

from ..lines import CACHE_LINE as LINE
from .contract import Place, finish_rows
from .emit import Emitter, tile_call
from .layout import DEPTHWISE_LITERAL, DEPTHWISE_RUNTIME, valid_rows


def emit_depthwise(builder: ir.IRBuilder, run: dict[str, ir.Value], lit: dict[str, int]) -> None:
    """Emit one tile in place."""
    e = Emitter(builder, lit["DT"], lit["W"])
    b, rows, vectors, width = builder, lit["P"], lit["NV"], lit["W"]
    a, w = e.pointer(run["a"]), e.pointer(run["w"])
    masks: list[ir.Value | None] = [None] * vectors
    if lit["TAIL"]:
        masks = [e.lanes_below(b.sub(run["cols"], e.const(v * width))) for v in range(vectors)]

    group = lit["GROUP"]
    each = lit["WTAP"] // group  # from the weights by which a channel reads one member of its group to the next

    def spread(value: ir.Value, member: int) -> ir.Value:
        """In all lanes of a group what its ``member`` holds."""
        if group == 1:
            return value
        lanes = [lane // group * group + member for lane in range(width)]
        return b.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), width), lanes))

    def taps(pa: ir.Value, pw: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        """The unrolled column taps of one row; a column that several taps share is loaded once."""
        out = list(accs)
        live = [valid_rows(lit, tap) if lit["RIGHT"] else list(range(rows)) for tap in range(lit["KW"])]
        uses: dict[int, list[tuple[int, int]]] = {}
        for tap, pixels in enumerate(live):
            for p in pixels:
                uses.setdefault(p * lit["SPX"] + tap * lit["DPX"], []).append((p, tap))
        for v, member in product(range(vectors), range(group)):
            weights = {
                tap: e.load(e.at(pw, e.const(tap * lit["WTAP"] + member * each + v * width)))
                for tap, pixels in enumerate(live)
                if pixels
            }
            # Column by column, each is in a register for its own taps only; a pixel's taps keep their order.
            for column in sorted(uses, reverse=lit["DPX"] < 0):
                value = e.load(e.at(e.at(pa, e.mul(run["px"], column)), e.const(v * width)), masks[v])
                value = spread(value, member)
                for p, tap in uses[column]:
                    out[p * vectors + v] = e.fma(value, weights[tap], out[p * vectors + v])
        return out

    def tap_loop(pa: ir.Value, pw: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        for member in range(group):
            accs = member_loop(pa, e.at(pw, e.const(member * each)), accs, member)
        return accs

    def member_loop(pa: ir.Value, pw: ir.Value, accs: list[ir.Value], member: int) -> list[ir.Value]:
        def step(i2: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
            out = list(accs)
            a_tap = e.at(pa, e.mul(e.mul(run["px"], lit["DPX"]), i2))
            w_tap = e.at(pw, e.mul(i2, lit["WTAP"]))
            for v in range(vectors):
                weight = e.load(e.at(w_tap, e.const(v * width)))
                for p in range(rows):
                    at = e.at(e.at(a_tap, e.mul(run["px"], p * lit["SPX"])), e.const(v * width))
                    value = spread(e.load(at, masks[v]), member)
                    out[p * vectors + v] = e.fma(value, weight, out[p * vectors + v])
            return out

        return e.loop(run["lo2"], run["hi2"], accs, step)

    def ahead(i1: ir.Value) -> None:
        """This row tap's share of the lines that later tiles read and write."""
        share = -(-rows // lit["TAPS"])
        for address, pitch, write in ((run["ask"], run["px"], False), (run["own"], run["o_px"], True)):
            start = e.at(e.pointer(address), e.mul(e.mul(pitch, share), i1))
            for p in range(share):
                for line in range(0, vectors * width, LINE // e.size):
                    e.prefetch(e.at(e.at(start, e.mul(pitch, p)), e.const(line)), write)

    def outer(i0: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        a_plane, w_plane = e.at(a, e.mul(i0, run["a0"])), e.at(w, e.mul(i0, run["w0"]))

        def middle(i1: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
            a_row, w_row = e.at(a_plane, e.mul(i1, run["a1"])), e.at(w_plane, e.mul(i1, run["w1"]))
            if lit["ASK"]:
                ahead(i1)
            return (taps if lit["KW"] else tap_loop)(a_row, w_row, accs)

        return e.loop(run["lo1"], run["hi1"], accs, middle)

    accs = e.loop(run["lo0"], run["hi0"], [e.splat_const(0.0)] * (rows * vectors), outer)
    out = e.pointer(run["out"])
    slots = [run[f"s{i}"] for i in range(4)]

    def of_row(row: ir.Value) -> list[Place]:
        first = b.add(run["off"], e.mul(run["o_px"], row))
        return [
            Place(b.add(run["ch"], e.const(v * width)), b.add(first, e.const(v * width)), masks[v])
            for v in range(vectors)
        ]

    finish_rows(e, lit["EPI"], slots, out, accs, rows, of_row)


# fmt: off
@intrinsic(prefer_literal=True)
def depthwise_tile(  # type: ignore[no-untyped-def]
    typingctx, out, off, ch, a, w, cols, lo0, hi0, a0, w0, lo1, hi1, a1, w1, lo2, hi2, px, o_px, ask,
    own, s0, s1, s2, s3, DT, W, P, NV, TAIL, EPI, KW, LEFT, RIGHT, SPX, DPX, WTAP, GROUP, ASK, TAPS,
):
    """``out[p, c] = epilogue(sum over taps of a[p, tap, c] * w[tap, c])`` in tap order with one FMA each; in a row of
    taps of a group, one member after the other."""
    given = (
        out, off, ch, a, w, cols, lo0, hi0, a0, w0, lo1, hi1, a1, w1, lo2, hi2, px, o_px, ask,
        own, s0, s1, s2, s3, DT, W, P, NV, TAIL, EPI, KW, LEFT, RIGHT, SPX, DPX, WTAP, GROUP, ASK, TAPS,
    )
    # fmt: on
    return tile_call(emit_depthwise, DEPTHWISE_RUNTIME, DEPTHWISE_LITERAL, given)
