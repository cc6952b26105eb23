"""Instructions as functions on lanes: arithmetic, conversion, moves.

Owns the reading of operands and the table of scalar opcodes; memory and warp instructions stand in `access` and `warp`.
An opcode, type or modifier that is not in a table raises: nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import values as v
from .lanes import Index, Launch, Step, check_all
from .memory import LOCAL_BASE, SHARED_BASE
from .parse import SIZES, Imm, Inst, Operand, Pair, PtxError, Reg, Sym, Vec

Source = Callable[[Launch, Index], Any]
_NO_EFFECT = {"membar", "fence", "nanosleep", "prefetch", "prefetchu", "discard", "applypriority", "griddepcontrol"}


def source(operand: Operand, type_: str, what: str) -> Source:
    """Reads an operand as an array (or scalar) of a type's NumPy kind; predicates as bool."""
    if isinstance(operand, Reg):
        name, negated = operand.name, operand.negated
        if name.startswith("%") and name.split(".")[0] in _SPECIAL:
            return _special(name, type_)
        if type_ == "pred":
            return lambda m, i: ~m.get(name, i) if negated else m.get(name, i)
        to, width = v.NUMPY[type_], SIZES[type_]

        def read(m: Launch, i: Index) -> Any:
            bits = m.get(name, i)
            if bits.dtype.itemsize != width:
                if bits.dtype.itemsize < width or to in (np.float32, np.float64, np.float16):
                    raise PtxError(f"{name} is read as .{type_}: {what}")
                bits = bits.astype(v.UNSIGNED[width])
            return bits if bits.dtype == to else bits.view(to)

        return read
    if isinstance(operand, Imm):
        value = immediate(operand, type_)
        return lambda m, i: value
    if isinstance(operand, Sym):
        name, offset = operand.name, operand.offset
        return lambda m, i: v.NUMPY[type_](m.symbols[name] + offset) if name in m.symbols else _unknown(name, what)
    raise PtxError(f"operand {operand}: {what}")


def _unknown(name: str, what: str) -> Any:
    raise PtxError(f"{name} is not declared: {what}")


def immediate(operand: Imm, type_: str) -> Any:
    """A literal as a NumPy scalar of a type."""
    if type_ == "pred":
        return np.bool_(operand.bits != 0)
    to, width = v.NUMPY[type_], SIZES[type_]
    if operand.width and np.dtype(to).kind == "f":
        as_double = (
            np.uint64(operand.bits).view(np.float64)
            if operand.width == 64
            else np.uint32(operand.bits).view(np.float32)
        )
        return to(as_double)
    bits = operand.bits & ((1 << 8 * width) - 1)
    return v.UNSIGNED[width](bits).view(to) if np.dtype(to).kind != "f" else to(operand.bits)


_SPECIAL = {"%tid", "%ntid", "%ctaid", "%nctaid", "%laneid", "%warpid", "%nwarpid", "%lanemask_lt", "%lanemask_le",
            "%lanemask_gt", "%lanemask_ge", "%lanemask_eq", "%clock", "%clock64", "%smid", "%gridid"}  # fmt: skip


def _special(name: str, type_: str) -> Source:
    to = v.NUMPY[type_]
    first, _, axis = name.partition(".")

    def read(m: Launch, i: Index) -> Any:
        lanes = m.lanes(i)
        thread = lanes % m.threads
        if axis in ("y", "z"):
            return to(1 if first in ("%ntid", "%nctaid") else 0)
        if first == "%tid":
            return thread.astype(to)
        if first == "%ctaid":
            return m.blocks[lanes // m.threads].astype(to)
        if first in ("%ntid", "%nctaid"):
            return to(m.threads if first == "%ntid" else m.grid)
        if first == "%laneid":
            return (thread % 32).astype(to)
        if first in ("%warpid", "%nwarpid"):
            return (thread // 32).astype(to) if first == "%warpid" else to((m.threads + 31) // 32)
        if first.startswith("%lanemask"):
            bit = np.uint64(1) << (thread % 32).astype(np.uint64)
            below, all_ = bit - np.uint64(1), np.uint64(0xFFFFFFFF)
            masks = {"lt": below, "le": below | bit, "eq": bit, "gt": all_ ^ (below | bit), "ge": all_ ^ below}
            return masks[first[-2:]].astype(to)
        if first.startswith("%clock"):
            return to(m.executed)
        return to(0)

    return read


# -- opcodes ----------------------------------------------------------------------------------------------------------
def scalar(inst: Inst) -> Step | None:
    """The step of a scalar instruction; None when it is none."""
    if inst.op in _NO_EFFECT:
        return lambda m, i: None
    maker = _TABLE.get(inst.op)
    return maker(inst) if maker else None


def result(operand: Operand, what: str) -> str:
    """The name of a destination register."""
    if not isinstance(operand, Reg) or operand.negated:
        raise PtxError(f"destination {operand}: {what}")
    return operand.name


def _type(inst: Inst) -> str:
    type_ = inst.mods[-1] if inst.mods else ""
    if type_ not in v.NUMPY and type_ != "pred":
        raise PtxError(f"unknown type .{type_}: {inst.text}")
    return type_


def _mods(inst: Inst, type_: str, *known: str) -> list[str]:
    mods = list(inst.mods)
    mods.remove(type_)
    check_all(mods, known, inst.text)
    return mods


def _elementwise(inst: Inst, type_: str, function: Callable[..., Any], types: list[str] | None = None) -> Step:
    d = result(inst.operands[0], inst.text)
    sources = [source(o, t, inst.text) for o, t in zip(inst.operands[1:], types or [type_] * 8)]

    def step(m: Launch, i: Index) -> None:
        m.put(d, function(*[s(m, i) for s in sources]), i)

    return step


def _half(function: Callable[..., Any], type_: str) -> Callable[..., Any]:
    """A float32 function on f16, bf16 and pairs of them: computed exactly enough, rounded once."""

    def one(*xs: Any) -> Any:
        if type_.startswith("bf16"):
            return v.f32_to_bf16(function(*[v.bf16_to_f32(x) for x in xs]))
        with np.errstate(all="ignore"):
            return function(*[x.astype(np.float32) for x in xs]).astype(np.float16)

    if not type_.endswith("x2"):
        return one
    part: Any = np.uint16 if type_.startswith("bf16") else np.float16

    def two(*xs: Any) -> Any:
        halves = [np.ascontiguousarray(x).view(np.uint16) for x in (np.atleast_1d(x) for x in xs)]
        low, top = (one(*[h[k::2].view(part) for h in halves]) for k in (0, 1))
        both = [np.ascontiguousarray(np.atleast_1d(h)).view(np.uint16).astype(np.uint32) for h in (low, top)]
        return both[0] | (both[1] << np.uint32(16))

    return two


def _add(inst: Inst) -> Step:
    type_ = _type(inst)
    op = inst.op
    if type_ in ("f32", "f64"):
        mods = _mods(inst, type_, *v.ROUNDINGS, "ftz", "sat")
        return _elementwise(inst, type_, _finish(lambda a, b, r: v.binary_float(op, a, b, type_, r), mods))
    if type_.startswith(("f16", "bf16")):
        _mods(inst, type_, "rn")
        return _elementwise(inst, type_, _half(lambda a, b: v.binary_float(op, a, b, "f32", "rn"), type_))
    mods = _mods(inst, type_, "cc", "sat")
    if "sat" in mods:
        return _elementwise(inst, type_, lambda a, b: _saturating(op, a, b))
    if "cc" in mods:
        return _carrying(inst, type_, False)
    return _elementwise(inst, type_, np.add if op == "add" else np.subtract)


def _finish(function: Callable[..., Any], mods: list[str]) -> Callable[..., Any]:
    """``function(*operands, rounding)`` with .ftz and .sat around it."""
    rounding = next((m for m in mods if m in v.ROUNDINGS), "rn")
    ftz, sat = "ftz" in mods, "sat" in mods

    def run(*xs: Any) -> Any:
        if ftz:
            xs = tuple(v.flush(x) for x in xs)
        out = np.asarray(function(*xs, rounding))
        out = v.flush(out) if ftz else out
        return v.saturate(out) if sat else out

    return run


def _saturating(op: str, a: Any, b: Any) -> Any:
    wide = a.astype(np.int64) + (b.astype(np.int64) if op == "add" else -b.astype(np.int64))
    return np.clip(wide, -(2**31), 2**31 - 1).astype(np.int32)


def _carrying(inst: Inst, type_: str, with_carry: bool) -> Step:
    """add.cc, addc, sub.cc, subc: the carry (borrow) goes through a flag of the lane."""
    d, out_carry = result(inst.operands[0], inst.text), "cc" in inst.mods
    unsigned = v.UNSIGNED[SIZES[type_]]
    a, b = (source(o, "u" + type_[1:], inst.text) for o in inst.operands[1:3])
    minus = inst.op.startswith("sub")

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        x, y = np.broadcast_arrays(np.asarray(a(m, i)), np.asarray(b(m, i)))
        c = m.carry[lanes].astype(unsigned) if with_carry else np.zeros(len(lanes), unsigned)
        if minus:
            out = x - y - c
            carry = (x < y) | ((x == y) & (c == 1))
        else:
            out = x + y + c
            carry = (out < x) | ((out == x) & (c == 1) & (y != 0) | (c == 1) & (y == ~np.asarray(0, unsigned)))
        if out_carry:
            m.carry[lanes] = carry
        m.put(d, out, i)

    return step


def _addc(inst: Inst) -> Step:
    type_ = _type(inst)
    _mods(inst, type_, "cc")
    return _carrying(inst, type_, True)


def _wide(type_: str) -> str:
    return type_[0] + str(2 * int(type_[1:]))


def _mul(inst: Inst) -> Step:
    type_ = _type(inst)
    if type_ in ("f32", "f64"):
        mods = _mods(inst, type_, *v.ROUNDINGS, "ftz", "sat")
        return _elementwise(inst, type_, _finish(lambda a, b, r: v.binary_float("mul", a, b, type_, r), mods))
    if type_.startswith(("f16", "bf16")):
        _mods(inst, type_, "rn")
        return _elementwise(inst, type_, _half(lambda a, b: a * b, type_))
    mods = _mods(inst, type_, "lo", "hi", "wide")
    return _elementwise(inst, type_, _product(mods[0] if mods else "", type_, inst))


def _product(part: str, type_: str, inst: Inst) -> Callable[..., Any]:
    if part == "lo":
        return np.multiply
    if part == "hi":
        return v.high
    if part == "wide":
        to = v.NUMPY[_wide(type_)]
        return lambda a, b: np.multiply(a, b, dtype=to, casting="unsafe")
    raise PtxError(f"which half of the product: {inst.text}")


def _mad(inst: Inst) -> Step:
    type_ = _type(inst)
    if type_ in ("f32", "f64"):
        return _fma(inst)
    mods = _mods(inst, type_, "lo", "hi", "wide", "cc")
    part = mods[0]
    product = _product(part, type_, inst)
    last = _wide(type_) if part == "wide" else type_
    if inst.op == "madc" or "cc" in mods:
        return _mad_carry(inst, type_, product, "cc" in mods)
    return _elementwise(inst, type_, lambda a, b, c: product(a, b) + c, [type_, type_, last])


def _mad_carry(inst: Inst, type_: str, product: Callable[..., Any], out_carry: bool) -> Step:
    d, unsigned = result(inst.operands[0], inst.text), v.UNSIGNED[SIZES[type_]]
    a, b, c = (source(o, type_, inst.text) for o in inst.operands[1:4])
    with_carry = inst.op == "madc"

    def step(m: Launch, i: Index) -> None:
        lanes = m.lanes(i)
        p = np.broadcast_to(np.asarray(product(a(m, i), b(m, i))), len(lanes)).astype(unsigned)
        x = np.broadcast_to(np.asarray(c(m, i)), len(lanes)).astype(unsigned)
        flag = m.carry[lanes].astype(unsigned) if with_carry else np.zeros(len(lanes), unsigned)
        first = p + x
        out = first + flag
        if out_carry:
            m.carry[lanes] = (first < p) | (out < first)
        m.put(d, out, i)

    return step


def _fma(inst: Inst) -> Step:
    type_ = _type(inst)
    if type_.startswith(("f16", "bf16")):
        _mods(inst, type_, "rn")
        return _elementwise(inst, type_, _half(lambda a, b, c: v.fma(a, b, c, "f32", "rn"), type_))
    mods = _mods(inst, type_, *v.ROUNDINGS, "ftz", "sat")
    return _elementwise(inst, type_, _finish(lambda a, b, c, r: v.fma(a, b, c, type_, r), mods))


def _div(inst: Inst) -> Step:
    type_ = _type(inst)
    if type_ in ("f32", "f64"):
        mods = _mods(inst, type_, *v.ROUNDINGS, "ftz", "full", "approx")
        if "full" in mods or "approx" in mods:
            ftz = "ftz" in mods
            return _elementwise(inst, type_, lambda a, b: v.divide_approx(*np.broadcast_arrays(a, b), ftz))
        return _elementwise(inst, type_, _finish(lambda a, b, r: v.binary_float("div", a, b, type_, r), mods))
    _mods(inst, type_)
    return _elementwise(inst, type_, v.quotient if inst.op == "div" else v.remainder)


def _unary(inst: Inst) -> Step:
    """rcp, sqrt, rsqrt, ex2, lg2, sin, cos, tanh."""
    type_, op = _type(inst), inst.op
    mods = _mods(inst, type_, "approx", "ftz", "rn")
    if "approx" in mods:
        ftz = "ftz" in mods
        if type_ == "f64":
            if op not in ("rcp", "rsqrt"):
                raise PtxError(f"unknown instruction: {inst.text}")
            # The upper 32 bits of the result alone are computed.
            return _elementwise(inst, type_, lambda x: _upper(1.0 / x if op == "rcp" else 1.0 / np.sqrt(x)))
        return _elementwise(inst, type_, lambda x: v.approximate(op, np.asarray(x), ftz))
    return _elementwise(inst, type_, _finish(lambda x, r: v.unary_float(op, np.asarray(x), r, False), mods))


def _upper(x: Any) -> Any:
    return (np.ascontiguousarray(x).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


def _sign(inst: Inst) -> Step:
    """abs, neg."""
    type_, op = _type(inst), inst.op
    mods = _mods(inst, type_, "ftz")
    if type_.startswith(("f16", "bf16")):
        bits = SIZES[type_] * 8
        mask = 0x8000 if bits == 16 else 0x80008000
        unsigned = v.UNSIGNED[SIZES[type_]]

        def flip(x: Any) -> Any:
            raw = np.ascontiguousarray(x).view(unsigned)
            return raw ^ unsigned(mask) if op == "neg" else raw & unsigned(~mask & ((1 << bits) - 1))

        return _elementwise(inst, type_, flip)
    function = np.negative if op == "neg" else np.abs
    if type_ in ("f32", "f64"):
        return _elementwise(inst, type_, _finish(lambda x, r: function(x), mods))
    return _elementwise(inst, type_, function)


def _minmax(inst: Inst) -> Step:
    type_, op = _type(inst), inst.op
    mods = _mods(inst, type_, "ftz", "NaN")
    nan = "NaN" in mods
    if type_ in ("f32", "f64"):
        return _elementwise(inst, type_, _finish(lambda a, b, r: v.pick(op, a, b, nan), mods))
    if type_.startswith(("f16", "bf16")):
        return _elementwise(inst, type_, _half(lambda a, b: v.pick(op, a, b, nan), type_))
    return _elementwise(inst, type_, np.minimum if op == "min" else np.maximum)


def _bitwise(inst: Inst) -> Step:
    type_ = _type(inst)
    _mods(inst, type_)
    functions = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
                 "cnot": lambda x: (x == 0).astype(x.dtype)}  # fmt: skip
    return _elementwise(inst, type_, functions[inst.op])


def _shift(inst: Inst) -> Step:
    type_, op = _type(inst), inst.op
    _mods(inst, type_)
    return _elementwise(inst, type_, lambda a, n: v.shift(op, np.asarray(a), n), [type_, "u32"])


def _shf(inst: Inst) -> Step:
    direction, mode, _ = inst.mods
    if direction not in "lr" or mode not in ("wrap", "clamp"):
        raise PtxError(f"unknown instruction: {inst.text}")
    return _elementwise(inst, "u32", lambda a, b, c: v.funnel(direction, mode, a, b, c))


def _bits(inst: Inst) -> Step:
    type_, op = _type(inst), inst.op
    _mods(inst, type_)
    if op == "bfe":
        return _elementwise(inst, type_, lambda a, b, c: v.extract(np.asarray(a), b, c), [type_, "u32", "u32"])
    if op == "bfi":
        return _elementwise(inst, type_, v.insert, [type_, type_, "u32", "u32"])
    if op == "prmt":
        return _elementwise(inst, "u32", v.permute)
    if op == "lop3":
        table = inst.operands[4]
        if not isinstance(table, Imm):
            raise PtxError(f"unknown instruction: {inst.text}")
        inst = Inst(inst.op, inst.mods, inst.operands[:4], inst.guard, inst.text)
        return _elementwise(
            inst, type_, lambda a, b, c: v.logic3(np.asarray(a), np.asarray(b), np.asarray(c), table.bits)
        )
    functions = {
        "popc": lambda x: np.bitwise_count(x).astype(np.uint32),
        "clz": v.leading_zeros,
        "brev": v.reverse_bits,
    }
    return _elementwise(inst, type_, lambda x: functions[op](np.asarray(x)))


def _copysign(inst: Inst) -> Step:
    type_ = _type(inst)
    _mods(inst, type_)
    return _elementwise(inst, type_, lambda sign, magnitude: np.copysign(magnitude, sign))


def _setp(inst: Inst) -> Step:
    """setp.CMP[.BOOL][.ftz].TYPE p[|q], a, b[, [!]c]."""
    type_, op = _type(inst), inst.mods[0]
    mods = [m for m in inst.mods[1:-1]]
    check_all(mods, ("and", "or", "xor", "ftz"), inst.text)
    floats, ftz = type_ in ("f16", "f32", "f64"), "ftz" in mods
    combine = next((m for m in mods if m != "ftz"), None)
    first = inst.operands[0]
    p, q = (first.first, first.second) if isinstance(first, Pair) else (first, None)
    p_name = result(p, inst.text)
    q_name = result(q, inst.text) if q is not None else None
    a, b = (source(o, type_, inst.text) for o in inst.operands[1:3])
    c = source(inst.operands[3], "pred", inst.text) if combine else None
    joins: dict[str, Any] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
    if type_ == "bf16":
        raise PtxError(f"unknown instruction: {inst.text}")

    def step(m: Launch, i: Index) -> None:
        x, y = a(m, i), b(m, i)
        if ftz and floats:
            x, y = v.flush(x), v.flush(y)
        out = np.asarray(v.compare(op, x, y, floats))
        other = ~out
        if combine and c is not None:
            third = c(m, i)
            out, other = joins[combine](out, third), joins[combine](other, third)
        m.put(p_name, out, i)
        if q_name is not None:
            m.put(q_name, other, i)

    return step


def _selp(inst: Inst) -> Step:
    type_ = _type(inst)
    _mods(inst, type_)
    return _elementwise(inst, type_, lambda a, b, p: np.where(p, a, b), [type_, type_, "pred"])


def _slct(inst: Inst) -> Step:
    type_, test = inst.mods[-2:]
    return _elementwise(inst, type_, lambda a, b, c: np.where(c >= 0, a, b), [type_, type_, test])


def _cvt(inst: Inst) -> Step:
    to, from_ = inst.mods[-2:]
    if to in ("bf16x2", "f16x2"):
        check_all(inst.mods[:-2], ("rn", "rz", "relu"), inst.text)
        mode, relu = inst.mods[0], "relu" in inst.mods

        def pack(a: Any, b: Any) -> Any:
            if relu:
                a, b = v.pick("max", a, np.float32(0), True), v.pick("max", b, np.float32(0), True)
            if to == "bf16x2":
                top, low = v.f32_to_bf16(a, mode), v.f32_to_bf16(b, mode)
            else:
                top, low = (np.asarray(v.convert(x, "f16", "f32", mode, False, False)).view(np.uint16) for x in (a, b))
            return (top.astype(np.uint32) << np.uint32(16)) | low.astype(np.uint32)

        return _elementwise(inst, "f32", pack)
    mods = list(inst.mods[:-2])
    check_all(mods, (*v.ROUNDINGS, "rni", "rzi", "rmi", "rpi", "rna", "ftz", "sat"), inst.text)
    mode = next((m for m in mods if m not in ("ftz", "sat")), "")
    ftz, sat = "ftz" in mods, "sat" in mods
    known = (*v.NUMPY, "tf32")
    if to not in known or from_ not in v.NUMPY:
        raise PtxError(f"unknown type: {inst.text}")
    d = result(inst.operands[0], inst.text)
    x = source(inst.operands[1], from_, inst.text)

    def step(m: Launch, i: Index) -> None:
        out = v.convert(np.asarray(x(m, i)), to, from_, mode, ftz, sat)
        width = m.widths.get(d, 0)
        if out.dtype.itemsize < width:  # a narrow result in a wide register is extended
            out = out.astype(np.int64 if out.dtype.kind == "i" else np.uint64)
        m.put(d, out, i)

    return step


def _cvta(inst: Inst) -> Step:
    """Generic addresses: global memory's are its own, shared and local memory have windows."""
    to_space = "to" in inst.mods
    space = inst.mods[1] if to_space else inst.mods[0]
    base = {"global": 0, "const": 0, "param": 0, "shared": SHARED_BASE, "local": LOCAL_BASE}.get(
        space.partition("::")[0]
    )
    if base is None:
        raise PtxError(f"unknown space: {inst.text}")
    move = np.uint64(base)
    return _elementwise(inst, "u64", (lambda x: x - move) if to_space else (lambda x: x + move))


def _mov(inst: Inst) -> Step:
    type_ = _type(inst)
    _mods(inst, type_)
    d, s = inst.operands
    if isinstance(d, Vec):
        return _unpack(d, s, type_, inst)
    if isinstance(s, Vec):
        return _pack(d, s, type_, inst)
    return _elementwise(inst, type_, lambda x: x)


def _unpack(d: Vec, s: Operand, type_: str, inst: Inst) -> Step:
    part = SIZES[type_] // len(d.items)
    names, read = [result(o, inst.text) for o in d.items], source(s, f"b{8 * SIZES[type_]}", inst.text)

    def step(m: Launch, i: Index) -> None:
        x = np.broadcast_to(np.asarray(read(m, i)), len(m.lanes(i)))
        words = np.ascontiguousarray(x).view(v.UNSIGNED[part]).reshape(-1, len(names))
        for k, name in enumerate(names):
            m.put(name, words[:, k].copy(), i)

    return step


def _pack(d: Operand, s: Vec, type_: str, inst: Inst) -> Step:
    part = SIZES[type_] // len(s.items)
    name, reads = result(d, inst.text), [source(o, f"b{8 * part}", inst.text) for o in s.items]

    def step(m: Launch, i: Index) -> None:
        words = [np.broadcast_to(np.asarray(r(m, i)), len(m.lanes(i))) for r in reads]
        m.put(name, np.stack(words, 1).reshape(-1).view(v.UNSIGNED[SIZES[type_]]), i)

    return step


def _testp(inst: Inst) -> Step:
    test, type_ = inst.mods
    tiny = np.finfo(v.NUMPY[type_]).tiny
    tests: dict[str, Callable[[Any], Any]] = {
        "finite": np.isfinite, "infinite": np.isinf, "number": lambda x: ~np.isnan(x), "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= tiny), "subnormal": lambda x: (x != 0) & (np.abs(x) < tiny),
    }  # fmt: skip
    return _elementwise(inst, type_, tests[test])


_TABLE: dict[str, Callable[[Inst], Step]] = {
    "add": _add, "sub": _add, "addc": _addc, "subc": _addc, "mul": _mul, "mad": _mad, "madc": _mad, "fma": _fma,
    "div": _div, "rem": _div, "rcp": _unary, "sqrt": _unary, "rsqrt": _unary, "ex2": _unary, "lg2": _unary,
    "sin": _unary, "cos": _unary, "tanh": _unary, "abs": _sign, "neg": _sign, "min": _minmax, "max": _minmax,
    "and": _bitwise, "or": _bitwise, "xor": _bitwise, "not": _bitwise, "cnot": _bitwise, "shl": _shift, "shr": _shift,
    "shf": _shf, "popc": _bits, "clz": _bits, "brev": _bits, "bfe": _bits, "bfi": _bits, "prmt": _bits, "lop3": _bits,
    "copysign": _copysign, "setp": _setp, "selp": _selp, "slct": _slct, "cvt": _cvt, "cvta": _cvta, "mov": _mov,
    "testp": _testp,
}  # fmt: skip
