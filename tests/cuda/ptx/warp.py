"""Instructions that lanes of a warp execute together: shuffles, votes, ldmatrix, mma.

Owns fragment layouts after the PTX ISA. The scheduler has seen to it that the named lanes are here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import values as v
from .access import address
from .lanes import Index, Launch, Step
from .memory import SHARED_BASE
from .ops import result, source
from .parse import Imm, Inst, Pair, PtxError, Vec

_LANE = np.arange(32)
_GROUP, _IN = _LANE // 4, _LANE % 4


def together(inst: Inst) -> Step | None:
    """The step of a warp instruction; None when it is none."""
    makers = {"shfl": _shfl, "vote": _vote, "ldmatrix": _ldmatrix, "mma": _mma, "bar": _warp_barrier, "redux": _redux,
              "barrier": _warp_barrier, "activemask": _activemask}  # fmt: skip
    maker = makers.get(inst.op)
    return maker(inst) if maker else None


def _warp_barrier(inst: Inst) -> Step:
    return lambda m, i: m.shared.warp_barrier(m.lanes(i))


def _shfl(inst: Inst) -> Step:
    """shfl.sync.MODE.b32 d[|p], a, b, c, membermask: c holds the segment mask << 8 | clamp."""
    mode = inst.mods[1]
    if mode not in ("up", "down", "bfly", "idx") or inst.mods[2:] != ("b32",):
        raise PtxError(f"unknown instruction: {inst.text}")
    first = inst.operands[0]
    d = result(first.first if isinstance(first, Pair) else first, inst.text)
    p = result(first.second, inst.text) if isinstance(first, Pair) else None
    a, b, c = (source(o, "b32", inst.text) for o in inst.operands[1:4])

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        lane = (lanes % m.threads % 32).astype(np.int64)
        n = len(lanes)
        value = np.broadcast_to(np.asarray(a(m, i)), n)
        by = np.broadcast_to(np.asarray(b(m, i)), n).astype(np.int64) & 31
        control = np.broadcast_to(np.asarray(c(m, i)), n).astype(np.int64)
        segment, clamp = (control >> 8) & 31, control & 31
        top = (lane & segment) | (clamp & ~segment)
        low = lane & segment
        if mode == "up":
            j = lane - by
            ok = j >= top
        elif mode == "down":
            j = lane + by
            ok = j <= top
        elif mode == "bfly":
            j = lane ^ by
            ok = j <= top
        else:
            j = low | (by & ~segment)
            ok = j <= top
        j = np.where(ok, j, lane)
        full = np.zeros(m.count, np.uint32)
        full[lanes] = value
        here = np.zeros(m.count, np.bool_)
        here[lanes] = True
        target = lanes - lane + j
        if not here[target].all():
            raise PtxError(f"shuffle from a lane that does not take part: {inst.text}")
        m.put(d, full[target], i)
        if p is not None:
            m.put(p, ok, i)

    return step


def _ballot(m: Launch, lanes: Any, on: Any) -> Any:
    """The mask of each lane's warp."""
    bit = np.where(on, np.uint32(1) << (lanes % m.threads % 32).astype(np.uint32), np.uint32(0))
    warp = lanes // m.threads * 32 + lanes % m.threads // 32
    masks = np.zeros(int(warp.max()) + 1, np.uint32)
    np.bitwise_or.at(masks, warp, bit)
    return masks[warp]


def _vote(inst: Inst) -> Step:
    mode = inst.mods[1]
    d, on = result(inst.operands[0], inst.text), source(inst.operands[1], "pred", inst.text)
    if mode not in ("all", "any", "uni", "ballot"):
        raise PtxError(f"unknown instruction: {inst.text}")

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        flags = np.broadcast_to(np.asarray(on(m, i)), len(lanes))
        yes, here = _ballot(m, lanes, flags), _ballot(m, lanes, np.ones(len(lanes), np.bool_))
        results = {"ballot": yes, "any": yes != 0, "all": yes == here, "uni": (yes == 0) | (yes == here)}
        m.put(d, results[mode], i)

    return step


def _activemask(inst: Inst) -> Step:
    d = result(inst.operands[0], inst.text)
    return lambda m, i: m.put(d, _ballot(m, m.lanes(i), np.ones(len(m.lanes(i)), np.bool_)), i)


def _redux(inst: Inst) -> Step:
    op, type_ = inst.mods[1:]
    combine = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
               "xor": np.bitwise_xor}  # fmt: skip
    d, a = result(inst.operands[0], inst.text), source(inst.operands[1], type_, inst.text)

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        x = np.broadcast_to(np.asarray(a(m, i)), len(lanes))
        warp = lanes // m.threads * 32 + lanes % m.threads // 32
        order = np.argsort(warp, kind="stable")
        _, starts, back = np.unique(warp[order], return_index=True, return_inverse=True)
        sums = combine[op].reduceat(x[order], starts)
        out = np.empty(len(lanes), x.dtype)
        out[order] = sums[back]
        m.put(d, out, i)

    return step


# -- matrices ---------------------------------------------------------------------------------------------------------
def _whole_warps(m: Launch, i: Index, inst: Inst) -> Any:
    lanes = m.lanes(i)
    if len(lanes) % 32:
        raise PtxError(f"part of a warp: {inst.text}")
    return lanes.reshape(-1, 32)


def _ldmatrix(inst: Inst) -> Step:
    """ldmatrix.sync.aligned.m8n8.xN[.trans].shared.b16: row r of matrix k is at the address of lane 8 k + r."""
    mods = set(inst.mods) - {"sync", "aligned", "m8n8", "b16", "shared", "shared::cta", "trans"}
    count = {"x1": 1, "x2": 2, "x4": 4}.get(mods.pop() if len(mods) == 1 else "", 0)
    if not count or not {"sync", "aligned", "m8n8", "b16"} <= set(inst.mods):
        raise PtxError(f"unknown instruction: {inst.text}")
    trans = "trans" in inst.mods
    generic = "shared" not in inst.mods and "shared::cta" not in inst.mods
    first = inst.operands[0]
    names = [result(o, inst.text) for o in (first.items if isinstance(first, Vec) else (first,))]
    if len(names) != count:
        raise PtxError(f"{len(names)} registers for {count} matrices: {inst.text}")
    where = address(inst.operands[1], inst.text)

    def step(m: Launch, i: Index) -> None:
        warps = _whole_warps(m, i, inst)
        a = where(m, i).reshape(-1, 32)[:, : 8 * count]
        readers = warps[:, : 8 * count].reshape(-1)
        rows = m.shared.load(readers, a.reshape(-1) - np.uint64(SHARED_BASE if generic else 0), 16, inst.text)
        matrices = np.ascontiguousarray(rows).view(np.uint16).reshape(len(warps), count, 8, 8)
        if trans:
            matrices = matrices.transpose(0, 1, 3, 2)
        for k, name in enumerate(names):
            low, top = matrices[:, k, _GROUP, 2 * _IN], matrices[:, k, _GROUP, 2 * _IN + 1]
            m.put(name, (low.astype(np.uint32) | (top.astype(np.uint32) << np.uint32(16))).reshape(-1), i)

    return step


def _words(m: Launch, i: Index, operand: Any, inst: Inst, type_: str = "b32") -> Any:
    """(warps, lane, register)."""
    items = operand.items if isinstance(operand, Vec) else (operand,)
    n = len(m.lanes(i))
    columns = [np.broadcast_to(np.asarray(source(o, type_, inst.text)(m, i)), n) for o in items]
    return np.stack(columns, 1).reshape(-1, 32, len(items))


def _halves(words: Any, type_: str) -> Any:
    """(..., registers) of packed pairs as (..., 2 * registers) float64."""
    u = np.ascontiguousarray(words).view(np.uint16)
    return (v.bf16_to_f32(u) if type_ == "bf16" else u.view(np.float16)).astype(np.float64)


def _tf32(words: Any) -> Any:
    """What the tensor cores see of a float32: the low 13 bits are not looked at."""
    return (np.ascontiguousarray(words) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def _mma(inst: Inst) -> Step:
    """mma.sync.aligned.m16n8kK.row.col.f32.T.T.f32 for T = f16, bf16 (K 8, 16) and tf32 (K 4, 8)."""
    mods = inst.mods
    if len(mods) != 9 or mods[:2] != ("sync", "aligned") or mods[3:6] != ("row", "col", "f32") or mods[8] != "f32":
        raise PtxError(f"unknown instruction: {inst.text}")
    type_, shape = mods[6], mods[2]
    allowed = {"f16": ("m16n8k8", "m16n8k16"), "bf16": ("m16n8k8", "m16n8k16"), "tf32": ("m16n8k4", "m16n8k8")}
    if mods[7] != type_ or shape not in allowed.get(type_, ()):
        raise PtxError(f"unknown instruction: {inst.text}")
    k = int(shape.rpartition("k")[2])
    d, a, b, c = inst.operands
    names = [result(o, inst.text) for o in d.items] if isinstance(d, Vec) else []
    if len(names) != 4:
        raise PtxError(f"unknown instruction: {inst.text}")

    def step(m: Launch, i: Index) -> None:
        count = len(_whole_warps(m, i, inst))
        left, right = np.empty((count, 16, k)), np.empty((count, k, 8))
        x, y = _words(m, i, a, inst), _words(m, i, b, inst)
        if type_ == "tf32":
            x, y = _tf32(x), _tf32(y)
            for r in range(
                x.shape[2]
            ):  # registers go down the rows first: (g, c), (g + 8, c), (g, c + 4), (g + 8, c + 4)
                left[:, _GROUP + 8 * (r % 2), _IN + 4 * (r // 2)] = x[:, :, r]
            for r in range(y.shape[2]):
                right[:, _IN + 4 * r, _GROUP] = y[:, :, r]
        else:
            x, y = _halves(x, type_), _halves(y, type_)
            for e in range(x.shape[2]):
                r, pair = e // 2, e % 2
                left[:, _GROUP + 8 * (r % 2), 2 * _IN + pair + 8 * (r // 2)] = x[:, :, e]
            for e in range(y.shape[2]):
                r, pair = e // 2, e % 2
                right[:, 2 * _IN + pair + 8 * r, _GROUP] = y[:, :, e]
        acc = _words(m, i, c, inst, "f32").astype(np.float64)
        product = left @ right
        for r in range(4):
            out = product[:, _GROUP + 8 * (r // 2), 2 * _IN + r % 2] + acc[:, :, r]
            m.put(names[r], out.astype(np.float32).reshape(-1), i)

    return step


__all__ = ["Imm", "together"]
