"""Numbers in vector registers: arithmetic as Python operators that emit LLVM IR for AVX-512.

Owns the instructions. Must not know any function of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import cgutils

_I32, _ALL = ir.IntType(32), -1
_EXACT_MODE = 4  # rounding as the control register says
_SUFFIX = {8: "256", 16: "512"}
# vfixupimm's classes of an operand, in their order, and its answers.
CLASSES = ("nan", "signalling", "zero", "one", "minus_inf", "inf", "negative", "positive")
SELF, QUIET, INVALID, MINUS_ZERO, ZERO, ONE = 1, 2, 3, 7, 8, 10


class Lanes:
    """Vectors of ``width`` float32 lanes in a function under construction.

    A value has several of them, which every instruction meets in turn: they are independent of each other, and the CPU
    looks for such work only so far ahead.
    """

    def __init__(self, builder: ir.IRBuilder, width: int) -> None:
        self.b, self.width = builder, width
        self.type = ir.VectorType(ir.FloatType(), width)
        self.whole = ir.VectorType(_I32, width)
        self.mask = ir.Constant(ir.IntType(width), _ALL)

    def constant(self, number: float) -> ir.Constant:
        return ir.Constant(self.type, [float(number)] * self.width)

    def each(self, emit: Callable[..., ir.Value], *args: Value | float) -> Value:
        """``emit`` for the vectors of ``args``, one after the other."""
        count = max(len(a.parts) for a in args if isinstance(a, Value))
        columns = [a.parts if isinstance(a, Value) else [self.constant(a)] * count for a in args]
        return Value(self, [emit(*row) for row in zip(*columns, strict=True)])

    def call(self, name: str, *args: ir.Value) -> ir.Value:
        kind = ir.FunctionType(self.type, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def masked(self, name: str, *args: ir.Value) -> ir.Value:
        """An AVX-512 instruction with a mask of all lanes; the widest form also states its rounding."""
        rounding = (_I32(_EXACT_MODE),) if self.width == 16 else ()
        return self.call(f"llvm.x86.avx512.mask.{name}.ps.{_SUFFIX[self.width]}", *args, self.mask, *rounding)

    def generic(self, name: str, *args: Value | float) -> Value:
        return self.each(lambda *row: self.call(f"llvm.{name}.v{self.width}f32", *row), *args)

    @property
    def nothing(self) -> ir.Constant:
        return ir.Constant(self.type, None)


class Value:
    """One number per lane of some vectors."""

    def __init__(self, lanes: Lanes, parts: Sequence[ir.Value]) -> None:
        self.lanes, self.parts = lanes, list(parts)

    def __add__(self, other: Value | float) -> Value:
        return self.lanes.each(self.lanes.b.fadd, self, other)

    def __sub__(self, other: Value | float) -> Value:
        return self.lanes.each(self.lanes.b.fsub, self, other)

    def __rsub__(self, other: float) -> Value:
        return self.lanes.each(self.lanes.b.fsub, other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self.lanes.each(self.lanes.b.fmul, self, other)

    __rmul__, __radd__ = __mul__, __add__

    def __neg__(self) -> Value:
        return self.lanes.each(self.lanes.b.fneg, self)


def fma(x: Value, y: Value | float, z: Value | float) -> Value:
    """x * y + z, rounded once."""
    return x.lanes.generic("fma", x, y, z)


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's form; the highest power first."""
    first, second, *rest = coefficients
    y = fma(x, first, second)
    for c in rest:
        y = fma(y, x, c)
    return y


def whole(x: Value) -> Value:
    """The nearest integer."""
    return x.lanes.generic("roundeven", x)


def size(x: Value) -> Value:
    """|x|."""
    return x.lanes.generic("fabs", x)


def signed(x: Value, sign: Value) -> Value:
    """``x`` with the sign of ``sign``."""
    return x.lanes.generic("copysign", x, sign)


def at_most(x: Value, bound: float) -> Value:
    """min(x, bound); NaN stays."""
    b = x.lanes.b
    return x.lanes.each(lambda v, limit: b.select(b.fcmp_ordered("<", limit, v), limit, v), x, bound)


def size_at_most(x: Value, bound: float) -> Value:
    """min(|x|, bound); NaN gives ``bound``."""
    return _range(x, bound, 0b1010)


def within(x: Value, bound: float) -> Value:
    """``x``, or ``bound`` with the sign of x where |x| is larger; NaN gives ``bound``."""
    return _range(x, bound, 0b0010)


def _range(x: Value, bound: float, how: int) -> Value:
    lanes = x.lanes
    return lanes.each(lambda v, limit: lanes.masked("range", v, limit, _I32(how), lanes.nothing), x, bound)


def scaled(x: Value | float, power: Value) -> Value:
    """x * 2**power for an integer ``power`` of any size, rounded once."""
    lanes = power.lanes
    return lanes.each(lambda v, k: lanes.masked("scalef", v, k, lanes.nothing), x, power)


def about_reciprocal(x: Value) -> Value:
    """1 / x to 14 bits."""
    lanes = x.lanes
    name = f"llvm.x86.avx512.rcp14.ps.{_SUFFIX[lanes.width]}"
    return lanes.each(lambda v: lanes.call(name, v, lanes.nothing, lanes.mask), x)


def by_class(x: Value, **answers: int) -> Value:
    """One answer for each of CLASSES; NaN is quieted."""
    answers = {"nan": QUIET, "signalling": QUIET} | answers
    table = sum(answers[c] << (4 * i) for i, c in enumerate(CLASSES))
    lanes, word = x.lanes, table - (1 << 32) if table >> 31 else table
    words = ir.Constant(lanes.whole, [word] * lanes.width)
    return lanes.each(lambda v: lanes.masked("fixupimm", v, v, words, _I32(0)), x)


def entry(x: Value, table: Sequence[float]) -> Value:
    """The entry of sixteen that the lowest four bits of ``x`` name, without a memory access."""
    lanes = x.lanes
    words = [ir.Constant(lanes.type, list(table[i : i + lanes.width])) for i in range(0, 16, lanes.width)]

    def pick(v: ir.Value) -> ir.Value:
        index = lanes.b.bitcast(v, lanes.whole)
        if lanes.width == 16:
            return lanes.call("llvm.x86.avx512.permvar.sf.512", words[0], index)
        return lanes.call("llvm.x86.avx512.vpermi2var.ps.256", words[0], index, words[1])

    return lanes.each(pick, x)
