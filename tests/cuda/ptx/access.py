"""Loads, stores, atomics and asynchronous copies.

Owns how an address operand becomes lanes' addresses in a space, and vectors of registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import values as v
from .lanes import Index, Launch, Step, check_all
from .memory import LOCAL_BASE, SHARED_BASE, MemoryFault
from .ops import result, source
from .parse import SIZES, Imm, Inst, Mem, Operand, PtxError, Reg, Sym, Vec
from .shared import FLYING

_HINTS = ("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "volatile", "relaxed", "acquire", "release", "weak", "gpu",
          "cta", "sys", "cluster", "L1::no_allocate", "L1::evict_last", "L1::evict_first", "L1::evict_normal",
          "L2::64B", "L2::128B", "L2::256B", "L1::evict_unchanged")  # fmt: skip
_SPACES = ("global", "shared", "local", "const", "param")


def memory(inst: Inst) -> Step | None:
    """The step of a memory instruction; None when it is none."""
    maker = {"ld": _ld, "ldu": _ld, "st": _st, "atom": _atom, "red": _atom, "cp": _cp, "isspacep": _isspacep}.get(
        inst.op
    )
    return maker(inst) if maker else None


def address(operand: Operand, what: str) -> Callable[[Launch, Index], Any]:
    """The address of each lane."""
    if not isinstance(operand, Mem):
        raise PtxError(f"address {operand}: {what}")
    offset = operand.offset
    base = operand.base
    if isinstance(base, Reg):
        name = base.name

        def read(m: Launch, i: Index) -> Any:
            a = m.get(name, i).astype(np.uint64)
            return a + np.uint64(offset & 0xFFFFFFFFFFFFFFFF) if offset else a

        return read
    if isinstance(base, Imm):
        fixed = base.bits + offset
        return lambda m, i: np.full(len(m.lanes(i)), fixed, np.uint64)
    get = source(Sym(base.name, base.offset + offset), "u64", what)
    return lambda m, i: np.full(len(m.lanes(i)), get(m, i), np.uint64)


def _split(inst: Inst) -> tuple[str, int, str]:
    """(space or "", vector length, type)."""
    type_ = inst.mods[-1]
    rest = list(inst.mods[:-1])
    count = 1
    for name, n in (("v2", 2), ("v4", 4)):
        if name in rest:
            rest.remove(name)
            count = n
    space = next((m for m in rest if m.partition("::")[0] in _SPACES and m not in _HINTS), "")
    if space:
        rest.remove(space)
    check_all(rest, _HINTS, inst.text)
    if type_ not in SIZES or type_ == "pred":
        raise PtxError(f"unknown type .{type_}: {inst.text}")
    if count * SIZES[type_] > 16:
        raise PtxError(f"more than 128 bits: {inst.text}")
    return space.partition("::")[0], count, type_


def _names(operand: Operand, count: int, what: str) -> list[str]:
    items = operand.items if isinstance(operand, Vec) else (operand,)
    if len(items) != count:
        raise PtxError(f"{len(items)} registers for {count} elements: {what}")
    return [result(o, what) for o in items]


def _by_space(m: Launch, lanes: Any, a: Any, space: str, what: str) -> list[tuple[str, Any, Any]]:
    """(space, positions in ``lanes``, addresses in that space); generic addresses fall into their windows."""
    everything = slice(None)
    if space in ("global", "const"):
        return [("global", everything, a)]
    if space:
        return [(space, everything, a)]
    where = np.where(
        a < np.uint64(SHARED_BASE),
        0,
        np.where(a < np.uint64(LOCAL_BASE), 1, np.where(a < np.uint64(LOCAL_BASE * 2), 2, 3)),
    )
    if (where == 0).any():
        raise MemoryFault(f"generic address {int(a[where == 0][0]):#x} is in no space: {what}")
    out = []
    for kind, name, base in ((1, "shared", SHARED_BASE), (2, "local", LOCAL_BASE), (3, "global", 0)):
        at = np.flatnonzero(where == kind)
        if len(at):
            out.append((name, everything if len(at) == len(lanes) else at, a[at] - np.uint64(base)))
    return out


def _local(m: Launch, lanes: Any, a: Any, width: int, what: str) -> Any:
    size = m.local.shape[1]
    if (a & np.uint64(width - 1)).any() or int(a.max()) + width > size:
        raise MemoryFault(f"{width} bytes at local address {int(a.max())} of {size}: {what}")
    return a.astype(np.int64)[:, None] + np.arange(width)


def _ld(inst: Inst) -> Step:
    space, count, type_ = _split(inst)
    width, what = SIZES[type_], inst.text
    names = _names(inst.operands[0], count, what)
    if space == "param":
        return _ld_param(inst, names[0], width)
    where, total = address(inst.operands[1], what), width * count
    to = v.NUMPY[type_]

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        a = where(m, i)
        data = np.empty((len(lanes), total), np.uint8)
        for kind, at, local in _by_space(m, lanes, a, space, what):
            if kind == "global":
                words = m.memory.load(local, total, what, m.block_of(lanes[at]))
            elif kind == "shared":
                words = m.shared.load(lanes[at], local, total, what)
            else:
                words = m.local[lanes[at][:, None], _local(m, lanes[at], local, total, what)]
            data[at] = np.ascontiguousarray(words).view(np.uint8).reshape(-1, total)
        elements = data.view(v.UNSIGNED[width])
        for k, name in enumerate(names):
            value = elements[:, k].copy()
            if m.widths.get(name, width) > width:  # extended into a wider register
                value = value.view(to).astype(np.int64 if type_[0] == "s" else np.uint64)
            m.put(name, value, i)

    return step


def _ld_param(inst: Inst, name: str, width: int) -> Step:
    mem = inst.operands[1]
    if not isinstance(mem, Mem) or not isinstance(mem.base, (Sym, Reg)):
        raise PtxError(f"unknown instruction: {inst.text}")
    param, offset = mem.base.name, mem.offset

    def step(m: Launch, i: Index) -> None:
        if param not in m.params:
            raise PtxError(f"no parameter {param}: {inst.text}")
        raw = m.params[param][offset : offset + width]
        if len(raw) != width:
            raise MemoryFault(f"past the end of a parameter: {inst.text}")
        m.put(name, np.frombuffer(raw, v.UNSIGNED[width])[0], i)

    return step


def _st(inst: Inst) -> Step:
    space, count, type_ = _split(inst)
    width, what = SIZES[type_], inst.text
    where, total = address(inst.operands[0], what), width * count
    value = inst.operands[1]
    items = value.items if isinstance(value, Vec) else (value,)
    if len(items) != count:
        raise PtxError(f"{len(items)} registers for {count} elements: {what}")
    if space in ("const", "param"):
        raise PtxError(f"store to .{space}: {what}")
    reads = [source(o, type_, what) for o in items]
    to = v.UNSIGNED[width]

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        a = where(m, i)
        data = np.empty((len(lanes), count), to)
        for k, r in enumerate(reads):
            x = np.asarray(r(m, i))
            data[:, k] = x if x.dtype == to else x.view(to)
        words = data.view(np.uint64) if total >= 8 else data.view(v.UNSIGNED[total])
        for kind, at, local in _by_space(m, lanes, a, space, what):
            if kind == "global":
                m.memory.store(local, words[at], total, what, m.block_of(lanes[at]))
            elif kind == "shared":
                m.shared.store(lanes[at], local, words[at], total, what)
            else:
                places = _local(m, lanes[at], local, total, what)
                m.local[lanes[at][:, None], places] = np.ascontiguousarray(words[at]).view(np.uint8).reshape(-1, total)

    return step


_COMBINE: dict[str, Callable[..., Any]] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "exch": lambda old, new: new,
    "inc": lambda old, limit: np.where(old >= limit, np.asarray(0, old.dtype), old + np.asarray(1, old.dtype)),
    "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - np.asarray(1, old.dtype)),
}  # fmt: skip


def _atom(inst: Inst) -> Step:
    """Lanes one after another, in order: one of the orders that hardware may take."""
    what, type_ = inst.text, inst.mods[-1]
    op = next((m for m in inst.mods if m in (*_COMBINE, "cas")), "")
    space = next((m.partition("::")[0] for m in inst.mods if m.partition("::")[0] in _SPACES), "")
    rest = [m for m in inst.mods[:-1] if m != op and m.partition("::")[0] not in _SPACES]
    check_all(rest, ("relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "sys", "noftz"), what)
    if not op or type_ not in v.NUMPY or type_.startswith(("bf16", "f16")):
        raise PtxError(f"unknown instruction: {what}")
    operands = list(inst.operands)
    d = result(operands.pop(0), what) if inst.op == "atom" else None
    where, width = address(operands[0], what), SIZES[type_]
    reads = [source(o, type_, what) for o in operands[1:]]

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        a = where(m, i)
        xs = [np.broadcast_to(np.asarray(r(m, i)), len(lanes)) for r in reads]
        old = np.empty(len(lanes), v.NUMPY[type_])
        for kind, at, local in _by_space(m, lanes, a, space, what):
            if kind == "local":
                raise PtxError(f"atomic on local memory: {what}")
            if kind == "shared":
                m.shared.exclusive(lanes[at], local, width, what)
            chosen = np.arange(len(lanes))[at]
            for k, where_ in zip(chosen.tolist(), local):
                one = where_[None]
                lane = lanes[k : k + 1]
                have = (
                    m.memory.load(one, width, what)
                    if kind == "global"
                    else m.shared.load(lane, one, width, what, False)
                )
                before = have.reshape(1).view(v.NUMPY[type_])
                old[k] = before[0]
                args = [x[k : k + 1] for x in xs]
                if op == "cas":
                    after = np.where(before.view(have.dtype) == args[0].view(have.dtype), args[1], before)
                else:
                    after = _COMBINE[op](before, args[0])
                bits = np.ascontiguousarray(after.astype(before.dtype)).view(have.dtype).reshape(1, 1)
                if kind == "global":
                    m.memory.store(one, bits, width, what)
                else:
                    place = m.shared.place(lane, one, width, what)
                    m.shared.data.view(have.dtype)[place] = bits[0]
        if d is not None:
            m.put(d, old, i)

    return step


def _isspacep(inst: Inst) -> Step:
    low, high = {
        "shared": (SHARED_BASE, LOCAL_BASE),
        "local": (LOCAL_BASE, 2 * LOCAL_BASE),
        "global": (2 * LOCAL_BASE, 1 << 63),
    }[inst.mods[0]]
    d, read = result(inst.operands[0], inst.text), source(inst.operands[1], "u64", inst.text)
    return lambda m, i: m.put(d, (read(m, i) >= np.uint64(low)) & (read(m, i) < np.uint64(high)), i)


# -- cp.async ---------------------------------------------------------------------------------------------------------
def _cp(inst: Inst) -> Step:
    mods = inst.mods
    if mods[:1] != ("async",):
        raise PtxError(f"unknown instruction: {inst.text}")
    if mods == ("async", "commit_group"):
        return _commit
    if mods == ("async", "wait_all"):
        return lambda m, i: _wait(m, i, None)
    if mods == ("async", "wait_group"):
        n = inst.operands[0]
        if not isinstance(n, Imm):
            raise PtxError(f"unknown instruction: {inst.text}")
        return lambda m, i: _wait(m, i, n.bits)
    check_all(
        mods, ("async", "ca", "cg", "shared", "shared::cta", "global", "L2::128B", "L2::64B", "L2::256B"), inst.text
    )
    to, from_ = (address(o, inst.text) for o in inst.operands[:2])
    size = inst.operands[2]
    if not isinstance(size, Imm) or size.bits not in ((16,) if "cg" in mods else (4, 8, 16)):
        raise PtxError(f"size of a copy: {inst.text}")
    width, what = size.bits, inst.text
    taken = source(inst.operands[3], "u32", what) if len(inst.operands) > 3 else None

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        a, b = to(m, i), from_(m, i)
        data = np.zeros((len(lanes), max(1, width // 8)), np.uint64 if width >= 8 else np.uint32)
        counts = (
            np.full(len(lanes), width)
            if taken is None
            else np.broadcast_to(np.asarray(taken(m, i)), len(lanes)).astype(np.int64)
        )
        if (counts > width).any():
            raise PtxError(f"more bytes than the copy has: {what}")
        if (b & np.uint64(width - 1)).any():
            raise MemoryFault(f"source {int(b[0]):#x}: misaligned for {width} bytes: {what}")
        whole = counts == width
        if whole.any():
            data[whole] = m.memory.load(b[whole], width, what, m.block_of(lanes[whole]))
        for k in np.flatnonzero(~whole & (counts > 0)):
            raw = [m.memory.load(b[k : k + 1] + np.uint64(j), 1, what)[0, 0] for j in range(int(counts[k]))]
            data[k] = np.frombuffer(np.array(raw + [0] * (width - len(raw)), np.uint8).tobytes(), data.dtype)
        poison = np.full_like(data, ~data.dtype.type(0))
        m.shared.store(lanes, a, poison, width, what, FLYING)
        m.flying.append((lanes.copy(), m.copies[lanes], a, data, width, what))

    return step


def _commit(m: Launch, i: Index) -> None:
    m.copies[m.lanes(i)] += 1


def _wait(m: Launch, i: Index, left: int | None) -> None:
    """The lanes' own copies land, all but those of their last ``left`` groups; None: all, committed or not."""
    here = np.zeros(m.count, np.bool_)
    here[m.lanes(i)] = True
    rest = []
    for lanes, groups, a, data, width, what in m.flying:
        done = here[lanes]
        if left is not None:
            done &= groups < m.copies[lanes] - left
        if done.any():
            m.shared.land(lanes[done], a[done], data[done], width, what)
        if not done.all():
            stay = ~done
            rest.append((lanes[stay], groups[stay], a[stay], data[stay], width, what))
    m.flying = rest
