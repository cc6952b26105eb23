"""Fused recurrent cells: LSTMBlockCell, GRUBlockCell, BlockLSTM.

Owns their gate orders (tensorflow/core/kernels/rnn/lstm_ops.h, gru_ops.h).
"""

from __future__ import annotations

from typing import Any

from ....core.dims import Dim
from ....ir.graph import Value
from ...slicing import pick
from ..lower import Ctx, op
from ..values import Item
from .shape import cut


def _quarters(c: Ctx, v: Value, parts: int) -> list[Value]:
    size = v.shape[-1]
    if isinstance(size, Dim) or size % parts:
        raise c.refuse(f"{size} gates do not split into {parts}", code="malformed")
    return cut(c, v, v.rank - 1, [size // parts] * parts)


def _lstm(
    c: Ctx, x: Value, cs: Value, h: Value, w: Value, peep: tuple[Value, Value, Value] | None, bias: Value, version: int
) -> list[Value]:
    """(i, cs, f, o, ci, co, h): gates in the order i, ci, f, o; of BlockLSTMV2 i, f, ci, o."""
    b = c.bld
    gates = b.add(b.matmul(b.concat(x, h, axis=1), w), bias)
    i, ci, f, o = _quarters(c, gates, 4)
    if version == 2:
        ci, f = f, ci
    else:
        f = b.add(f, c.const(c.f("forget_bias", 1.0), f))
    if peep is not None:
        i, f = b.add(i, b.mul(cs, peep[0])), b.add(f, b.mul(cs, peep[1]))
    i, f, ci = b.sigmoid(i), b.sigmoid(f), b.tanh(ci)
    new = b.add(b.mul(ci, i), b.mul(cs, f))
    clip = c.f("cell_clip", 3.0 if c.node.op == "BlockLSTM" else -1.0)
    if clip > 0:
        new = b.clip(new, c.const(-clip, new), c.const(clip, new))
    if peep is not None:
        o = b.add(o, b.mul(new, peep[2]))
    o, co = b.sigmoid(o), b.tanh(new)
    return [i, new, f, o, ci, co, b.mul(co, o)]


@op("LSTMBlockCell")
def _lstm_cell(c: Ctx, x: Value, cs: Value, h: Value, w: Value, wci: Value, wcf: Value, wco: Value, bias: Value) -> Any:
    peep = (wci, wcf, wco) if c.b("use_peephole", False) else None
    return _lstm(c, x, cs, h, w, peep, bias, 1)


@op("GRUBlockCell")
def _gru_cell(c: Ctx, x: Value, h: Value, w_ru: Value, w_c: Value, b_ru: Value, b_c: Value) -> Any:
    b = c.bld
    r, u = _quarters(c, b.sigmoid(b.add(b.matmul(b.concat(x, h, axis=1), w_ru), b_ru)), 2)
    candidate = b.tanh(b.add(b.matmul(b.concat(x, b.mul(r, h), axis=1), w_c), b_c))
    out = b.add(b.mul(u, h), b.mul(b.sub(c.const(1, u), u), candidate))
    return [r, u, candidate, out]


@op("BlockLSTM", "BlockLSTMV2", raw=True)
def _block_lstm(c: Ctx, length: Item, item: Item, *rest: Item) -> Any:
    x, steps = c.v(item), c.number_of(length, "the sequence's length")
    cs, h, w, wci, wcf, wco, bias = (c.v(r) for r in rest)
    if x.rank != 3 or isinstance(x.shape[0], Dim) or steps != x.shape[0]:
        raise c.refuse("the sequence's length must be the extent of the input")
    if not 0 < steps <= 64:
        raise c.refuse(f"{steps} steps are not supported")
    peep = (wci, wcf, wco) if c.b("use_peephole", False) else None
    version = 2 if c.node.op == "BlockLSTMV2" else 1
    columns: list[list[Value]] = [[] for _ in range(7)]
    for t in range(steps):
        out = _lstm(c, pick(c.bld, x, 0, t), cs, h, w, peep, bias, version)
        cs, h = out[1], out[6]
        for column, value in zip(columns, out, strict=True):
            column.append(c.bld.reshape(value, shape=(1, *value.shape)))
    return [c.bld.concat(*column, axis=0) for column in columns]
