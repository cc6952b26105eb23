"""The NumPy twins of the tiles: same arguments, same order of accumulation.

Owns nothing else. Must not import Numba or llvmlite.
"""

from __future__ import annotations

import struct
from itertools import product
from typing import Any

import numpy as np

from ....core.dtypes import f32_to_bf16
from ....core.winograd import TAPS, Matrix, input_matrix, output_matrix, terms
from ..twins import SCALARS
from ..twins import view as _view
from .layout import (
    BLOCK,
    DEPTHWISE_SIGNATURE,
    SIGNATURE,
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
    WINOGRAD_IN_SIGNATURE,
    WINOGRAD_OUT_SIGNATURE,
    valid_rows,
    with_words,
)

SMALLEST = np.float32(2.0**-126)  # the least normal number


def view(address: int, count: int, size: int, write: bool = False) -> Any:
    return _view(address, np.float32 if size == 4 else np.float64, count, write)


def contract_tile(*args: int) -> None:
    """See ``contract.contract_tile``; every argument is an int."""
    g = dict(zip(SIGNATURE, (int(x) for x in args), strict=True))
    size, width, rows, vectors = g["DT"], g["W"], g["P"], g["NV"]
    dtype = np.float32 if size == 4 else np.float64
    columns = vectors * width
    live_columns = min(columns, g["cols"]) if g["TAIL"] else columns
    read_columns = live_columns if g["TAIL"] == 2 else columns
    acc = np.zeros((rows, columns), dtype)
    if g["SPLIT"] and g["mode"] & 1:
        acc[:] = view(g["part"], rows * columns, size).reshape(rows, columns)

    def channels(a_at: int, w_at: int, count: int, live: list[int]) -> None:
        for k in range(count):
            weights = np.zeros(columns, dtype)
            weights[:read_columns] = view(w_at + k * g["wk"] * size, read_columns, size)
            x = np.array([view(a_at + (k * g["ak"] + p * g["a_px"]) * size, 1, size)[0] for p in live], dtype)
            acc[live] = (_dot if g["DOT"] else _fma)(x[:, None], weights[None, :], acc[live])

    with np.errstate(all="ignore"):
        total = acc
        for i0 in range(g["n0"]):
            if g["RUN"] and i0 % g["RUN"] == 0:
                total, acc = (total + acc if i0 else acc), np.zeros_like(acc)
            count = g["nk_last"] if i0 + 1 == g["n0"] else g["nk"]
            for i1 in range(g["lo1"], g["hi1"]):
                a_row = g["a"] + (i0 * g["a0"] + i1 * g["a1"]) * size
                w_row = g["w"] + (i0 * g["w0"] + i1 * g["w1"]) * size
                for i2 in range(g["KW"]) if g["KW"] else range(g["lo2"], g["hi2"]):
                    live = valid_rows(g, i2) if g["KW"] else list(range(rows))
                    if live:
                        channels(a_row + i2 * g["a2"] * size, w_row + i2 * g["w2"] * size, count, live)
        if g["RUN"] and g["n0"]:
            acc = total + acc
        if g["SPLIT"] and g["mode"] & 2:
            view(g["part"], rows * columns, size, True)[:] = acc.reshape(-1)
            return
        for p in range(rows):
            for v in range(vectors):
                block, lane = divmod(v * width, 16)
                at = g["off"] + p * g["o_px"] + block * g["o_vb"] + lane
                count = max(0, min(width, live_columns - v * width))
                value = _stages(g, acc[p, v * width : v * width + count], g["ch"] + v * width, at, dtype)
                view(g["out"] + at * size, count, size, True)[:] = value


def round_tile(*args: int) -> None:
    """See ``dot.round_tile``; every argument is an int."""
    x, y, count = (int(v) for v in args)
    values = view(x, count, 4)
    _view(y, np.uint16, count, True)[:] = f32_to_bf16(_flushed(values))


def _dot(x: Any, y: Any, z: Any) -> Any:
    """``z`` plus both products of pairs of bfloat16, as the patterns of float32."""
    total, words = _flushed(z), (x.view(np.uint32), y.view(np.uint32))
    for upper in (True, False):
        a, b = ((v & np.uint32(0xFFFF0000) if upper else v << np.uint32(16)).view(np.float32) for v in words)
        total = _flushed(_fma(_flushed(a), _flushed(b), total))
    return total


def _flushed(x: Any) -> Any:
    return np.where(np.abs(x) < SMALLEST, np.copysign(np.float32(0), x), x)


def depthwise_tile(*args: int) -> None:
    """See ``depthwise.depthwise_tile``; every argument is an int."""
    g = dict(zip(DEPTHWISE_SIGNATURE, (int(x) for x in args), strict=True))
    size, width, rows = g["DT"], g["W"], g["P"]
    dtype = np.float32 if size == 4 else np.float64
    columns = g["NV"] * width
    live_columns = min(columns, g["cols"]) if g["TAIL"] else columns
    acc = np.zeros((rows, live_columns), dtype)
    each = g["WTAP"] // g["GROUP"]
    with np.errstate(all="ignore"):
        for i0 in range(g["lo0"], g["hi0"]):
            for i1 in range(g["lo1"], g["hi1"]):
                taps = range(g["KW"]) if g["KW"] else range(g["lo2"], g["hi2"])
                for member, i2 in product(range(g["GROUP"]), taps):
                    live = valid_rows(g, i2) if g["KW"] and g["RIGHT"] else range(rows)
                    w_at = g["w"] + (i0 * g["w0"] + i1 * g["w1"] + i2 * g["WTAP"] + member * each) * size
                    lanes = np.arange(live_columns) // g["GROUP"] * g["GROUP"] + member
                    for p in live:
                        column = (p * g["SPX"] + i2 * g["DPX"]) * g["px"]
                        x = view(g["a"] + (i0 * g["a0"] + i1 * g["a1"] + column) * size, live_columns, size)
                        acc[p] = _fma(x[lanes], view(w_at, columns, size)[:live_columns], acc[p])
        for p in range(rows):
            at = g["off"] + p * g["o_px"]
            view(g["out"] + at * size, live_columns, size, True)[:] = _stages(g, acc[p], g["ch"], at, dtype)


def winograd_input(*args: int) -> None:
    """See ``winograd.winograd_input``; every argument is an int."""
    g = dict(zip(WINOGRAD_IN_SIGNATURE, (int(x) for x in args), strict=True))
    side = g["M"] + TAPS - 1
    whole = (0, side)
    rows, columns = (whole, whole) if g["FULL"] else ((g["r_lo"], g["r_hi"]), (g["c_lo"], g["c_hi"]))
    tile = np.zeros((side, side, BLOCK), np.float32)
    for i in range(max(rows[0], 0), min(rows[1], side)):
        for j in range(max(columns[0], 0), min(columns[1], side)):
            tile[i, j] = view(g["a"] + (i * g["a_row"] + j * BLOCK) * 4, BLOCK, 4)
    for k, value in enumerate(_both_sides(input_matrix(g["M"]), tile).reshape(-1, BLOCK)):
        at = g["v"] + k * g["v_e"] * 4
        if g["PAIRS"]:
            _view(at, np.uint16, BLOCK, True)[:] = f32_to_bf16(_flushed(value))
        else:
            view(at, BLOCK, 4, True)[:] = value


def winograd_output(*args: int) -> int:
    """See ``winograd.winograd_output``; every argument is an int."""
    g = dict(zip(WINOGRAD_OUT_SIGNATURE, (int(x) for x in args), strict=True))
    side = g["M"] + TAPS - 1
    tile = np.array([view(g["m"] + k * g["m_e"] * 4, BLOCK, 4) for k in range(side * side)])
    made = _both_sides(output_matrix(g["M"]), tile.reshape(side, side, BLOCK))
    if not np.all(np.isfinite(made)):
        return 1
    with np.errstate(all="ignore"):
        for i in range(min(g["M"], g["r_hi"])):
            for j in range(min(g["M"], g["c_hi"])):
                at = g["off"] + i * g["o_row"] + j * BLOCK
                value = _stages(g | {"DT": 4}, made[i, j], g["ch"], at, np.float32)
                view(g["out"] + at * 4, BLOCK, 4, True)[:] = value
    return 0


def _both_sides(matrix: Matrix, tile: Any) -> Any:
    """``matrix @ tile @ matrix.T`` in the order of the compiled tile: columns first, then rows."""
    with np.errstate(all="ignore"):
        half = np.array([_combine(row, tile) for row in matrix])
        return np.array([_combine(row, half.swapaxes(0, 1)) for row in matrix]).swapaxes(0, 1)


def _combine(row: tuple[float, ...], values: Any) -> Any:
    (first, factor), *rest = terms(row)
    total = values[first] * np.float32(factor)
    for i, factor in rest:
        total = _fma(values[i], np.float32(factor), total)
    return total


def _fma(x: Any, y: Any, z: Any) -> Any:
    """One rounding for float32 (but for rare double roundings); two for float64."""
    if z.dtype == np.float32:
        return (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(np.float32)
    return x * y + z


def _two_numbers(word: int) -> tuple[float, float]:
    low, high = struct.unpack("<ff", struct.pack("<q", word))
    return low, high


_FORMS = {code: SCALARS[name] for name, code in STAGE_FORMS.items()}


def _stages(g: dict[str, int], value: Any, channel: int, offset: int, dtype: Any) -> Any:
    size, count, kept = g["DT"], len(value), value
    for stage, given in with_words(g["EPI"], [g[f"s{i}"] for i in range(4)]):
        word = given or 0
        if stage == STAGE_BIAS:
            value = value + view(word + channel * size, count, size)
        elif stage == STAGE_SCALE:
            value = value * view(word + channel * size, count, size)
        elif stage == STAGE_RESIDUAL:
            value = value + view(word + offset * size, count, size)
        elif stage == STAGE_MUL:
            value = value * view(word + offset * size, count, size)
        elif stage == STAGE_RELU:
            value = np.where(value < 0, dtype(0), value)
        elif stage == STAGE_KEEP:
            kept = value
        elif stage == STAGE_GATE:
            value = kept * value
        elif stage == STAGE_AFFINE:
            factor, term = _two_numbers(word)
            value = value * dtype(factor) + dtype(term)
        elif stage in _FORMS:
            value = np.array([_FORMS[stage](x) for x in value], dtype)
        elif stage in (STAGE_SLOPE, STAGE_LEAK):
            slope = view(word + channel * size, count, size) if stage == STAGE_SLOPE else dtype(_two_numbers(word)[0])
            value = np.where(value < 0, value * slope, value)
        elif stage in (STAGE_RELU6, STAGE_CLIP):
            low, high = (0.0, 6.0) if stage == STAGE_RELU6 else _two_numbers(word)
            value = np.where(value < low, dtype(low), value)
            value = np.where(value > high, dtype(high), value)
    return value
