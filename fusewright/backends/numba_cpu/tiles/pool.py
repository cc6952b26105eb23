"""The pooling tile: the greatest or mean value under P windows of a row, for NV vectors of channels.

Owns its LLVM IR and its NumPy twin. Must not know about graphs or layouts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from ..twins import view
from .emit import Emitter, tile_call
from .layout import POOL_LITERAL, POOL_RUNTIME, POOL_SIGNATURE, valid_rows


def _columns(lit: dict[str, int]) -> tuple[list[int], list[list[int]]]:
    """The columns under the windows, and which of them each window joins, in the order of its taps."""
    taps = [valid_rows(lit, tap) if lit["RIGHT"] else list(range(lit["P"])) for tap in range(lit["KW"])]
    windows = [
        [p * lit["SPX"] + tap * lit["DPX"] for tap, live in enumerate(taps) if p in live] for p in range(lit["P"])
    ]
    return sorted({c for window in windows for c in window}), windows


def emit_pool(builder: ir.IRBuilder, run: dict[str, ir.Value], lit: dict[str, int]) -> None:
    """Emit one tile in place. Columns are joined over the rows first: neighbouring windows share them."""
    e = Emitter(builder, lit["DT"], lit["W"])
    b, vectors, width = builder, lit["NV"], lit["W"]
    a, out = e.pointer(run["a"]), e.pointer(run["out"])
    masks: list[ir.Value | None] = [None] * vectors
    if lit["TAIL"]:
        masks = [e.lanes_below(b.sub(run["cols"], e.const(v * width))) for v in range(vectors)]
    name = f"llvm.maximum.v{width}f{8 * e.size}"
    maximum = cgutils.get_or_insert_function(b.module, ir.FunctionType(e.vec, [e.vec, e.vec]), name)

    def join(x: ir.Value, y: ir.Value) -> ir.Value:
        return b.call(maximum, [x, y], fastmath=("nsz",)) if lit["MAX"] else b.fadd(x, y)

    columns, windows = _columns(lit)
    starts = [e.splat_const(-np.inf if lit["MAX"] else 0.0)] * ((len(columns) if lit["KW"] else lit["P"]) * vectors)

    def take(at: ir.Value, accs: list[ir.Value], offsets: list[int]) -> list[ir.Value]:
        taken = []
        for i, column in enumerate(offsets):
            for v in range(vectors):
                x = e.load(e.at(e.at(at, e.mul(run["px"], column)), e.const(v * width)), masks[v])
                taken.append(join(accs[i * vectors + v], x))
        return taken

    def row(at: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        if lit["KW"]:
            return take(at, accs, columns)
        pixels = [p * lit["SPX"] for p in range(lit["P"])]

        def step(i2: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
            return take(e.at(at, e.mul(e.mul(run["px"], lit["DPX"]), i2)), accs, pixels)

        return e.loop(run["lo2"], run["hi2"], accs, step)

    def plane(i0: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        at = e.at(a, e.mul(i0, run["a0"]))
        return e.loop(run["lo1"], run["hi1"], accs, lambda i1, accs: row(e.at(at, e.mul(i1, run["a1"])), accs))

    accs = e.loop(run["lo0"], run["hi0"], starts, plane)

    def taps(axis: int) -> ir.Value:  # of a window outside the image the range is turned round
        lo, hi = run[f"lo{axis}"], run[f"hi{axis}"]
        return b.select(b.icmp_signed(">", hi, lo), b.sub(hi, lo), e.const(0))

    rows = b.mul(taps(0), taps(1))
    for p in range(lit["P"]):
        if lit["KW"]:
            count = b.mul(rows, e.const(len(windows[p])))
        else:
            count = b.mul(rows, taps(2))
        divisor = e.splat(b.sitofp(e.const(lit["TAPS"]) if lit["TAPS"] else count, e.elem))
        for v in range(vectors):
            value = starts[0]
            if not lit["KW"]:
                value = accs[p * vectors + v]
            elif windows[p]:
                value, *rest = (accs[columns.index(c) * vectors + v] for c in windows[p])
                for other in rest:
                    value = join(value, other)
            at = b.add(run["off"], b.add(e.mul(run["o_px"], p), e.const(v * width)))
            e.store(value if lit["MAX"] else b.fdiv(value, divisor), e.at(out, at), masks[v])


# fmt: off
@intrinsic(prefer_literal=True)
def pool_tile(  # type: ignore[no-untyped-def]
    typingctx, out, off, a, cols, lo0, hi0, a0, lo1, hi1, a1, lo2, hi2, px, o_px, DT, W, P, NV, TAIL, MAX, TAPS, KW,
    LEFT, RIGHT, SPX, DPX,
):
    """``out[p, c]``: the greatest of ``a[p, tap, c]`` over taps, or their sum over ``TAPS`` or how many there are."""
    given = (
        out, off, a, cols, lo0, hi0, a0, lo1, hi1, a1, lo2, hi2, px, o_px, DT, W, P, NV, TAIL, MAX, TAPS, KW,
        LEFT, RIGHT, SPX, DPX,
    )
    # fmt: on
    return tile_call(emit_pool, POOL_RUNTIME, POOL_LITERAL, given)


def pool_tile_twin(*args: int) -> None:
    """The same in NumPy; every argument is an int."""
    g = dict(zip(POOL_SIGNATURE, (int(x) for x in args), strict=True))
    size, pixels = g["DT"], range(g["P"])
    dtype: Any = np.float32 if size == 4 else np.float64
    live = min(g["NV"] * g["W"], g["cols"]) if g["TAIL"] else g["NV"] * g["W"]
    join: Any = np.maximum if g["MAX"] else np.add
    start = np.full(live, -np.inf if g["MAX"] else 0.0, dtype)
    columns, windows = _columns(g)
    if not g["KW"]:
        columns = [p * g["SPX"] for p in pixels]
        windows = [[c] for c in columns]
    accs = dict.fromkeys(columns, start)
    with np.errstate(all="ignore"):
        for i0 in range(g["lo0"], g["hi0"]):
            for i1 in range(g["lo1"], g["hi1"]):
                for i2 in range(1) if g["KW"] else range(g["lo2"], g["hi2"]):
                    for c in columns:
                        at = i0 * g["a0"] + i1 * g["a1"] + (c + i2 * g["DPX"]) * g["px"]
                        accs[c] = join(accs[c], view(g["a"] + at * size, dtype, live))
        taps = [max(0, g[f"hi{axis}"] - g[f"lo{axis}"]) for axis in range(3)]
        for p in pixels:
            value = accs[windows[p][0]] if windows[p] else start
            for c in windows[p][1:]:
                value = join(value, accs[c])
            count = taps[0] * taps[1] * (len(windows[p]) if g["KW"] else taps[2])
            at = g["off"] + p * g["o_px"]
            value = value if g["MAX"] else value / dtype(g["TAPS"] or count)
            view(g["out"] + at * size, dtype, live, True)[:] = value
