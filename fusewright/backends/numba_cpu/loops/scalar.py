"""One element's arithmetic as kernel text: the vocabulary of OpDef.scalar for every dtype.

Owns registers (f16 and bf16 compute in float32), literals, casts and rounding. Must not know about loops.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....core.dtypes import BF16, BOOL, F16, F32, F64, I64, DType, bf16_to_f32, f32_to_bf16
from ....ir.opdef import OpDef
from .refusal import NoKernel

BITS = {1: "pu8", 2: "pu16", 4: "pu32", 8: "pu64"}
BIT_ZERO = {1: "u8(0)", 2: "u16(0)", 4: "u32(0)", 8: "u64(0)"}


def register(dt: DType) -> str:
    """The prelude's cast to the type in which ``dt`` is held."""
    if dt in (F16, BF16):
        return "f32"
    return "bool_" if dt is BOOL else dt.name


def pointer(dt: DType) -> str:
    """The prelude's pointer maker for ``dt``."""
    return f"p{dt.name}"


def load(dt: DType, text: str) -> str:
    """The register value of the stored element ``text``."""
    if dt in (F16, BF16):
        return f"{dt.name}_f32({text})"
    return f"({text} != u8(0))" if dt is BOOL else text


def store(dt: DType, text: str) -> str:
    """The stored element of register value ``text``."""
    if dt in (F16, BF16):
        return f"f32_{dt.name}({text})"
    return f"u8({text})" if dt is BOOL else text


def literal(dt: DType, value: Any) -> str:
    """The register value of ``value``, rounded to ``dt``."""
    if dt is BOOL:
        return "True" if value else "False"
    if dt.is_int:
        whole = int(value)
        return f"{dt.name}({whole})" if whole >= 0 else f"{dt.name}(({whole}))"
    with np.errstate(all="ignore"):
        if dt is BF16:
            number = float(bf16_to_f32(f32_to_bf16(np.array(value, np.float32))))
        else:
            number = float(np.asarray(value).astype(dt.np))
    if math.isnan(number):
        text = "1e999 - 1e999"
    else:
        text = repr(number).replace("inf", "1e999")
    return f"{register(dt)}({text})"


def lowest(dt: DType, largest: bool = False) -> str:
    """The register value that never wins a maximum (or, with ``largest``, a minimum)."""
    if dt.is_float:
        return literal(dt, math.inf if largest else -math.inf)
    if dt is BOOL:
        return literal(dt, largest)
    info = np.iinfo(dt.np)
    return literal(dt, info.max if largest else info.min)


def extreme(name: str, dt: DType, a: str, b: str) -> str:
    """``maximum`` or ``minimum`` of two registers; NaN wins."""
    if dt is BOOL:
        return f"({a} {'|' if name == 'maximum' else '&'} {b})"
    return f"{'f' + name[:3] if dt.is_float else name}({a}, {b})"


@dataclass(frozen=True, slots=True)
class Reg:
    """A register: the name (or literal) that holds a value, and the unrounded name that a store may use instead."""

    text: str
    dtype: DType
    raw: str = ""
    number: float | None = None  # of a literal

    @property
    def stored(self) -> str:
        return store(self.dtype, self.raw or self.text)


def literal_reg(dt: DType, value: Any) -> Reg:
    return Reg(literal(dt, value), dt, number=float(value))


# Float functions that the prelude has under the same name, and those under another.
_FLOAT = (
    "exp expm1 log log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh sigmoid erf erfc "
    "floor ceil trunc softplus silu gelu sign relu atan2 pow floordiv mod truncdiv rem maximum minimum"
).split()
_FLOAT_NAME = {n: n for n in _FLOAT} | {"round": "rint", "abs": "fabs"}
_INT = "sign relu pow floordiv mod truncdiv rem maximum minimum shift_left shift_right".split()
_EXACT = frozenset("neg abs sign relu maximum minimum floor ceil trunc round where clip".split())
_SYMBOL = {"add": "+", "sub": "-", "mul": "*"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"logical_and": "&", "logical_or": "|", "logical_xor": "^", "bitwise_and": "&", "bitwise_or": "|",
          "bitwise_xor": "^"}  # fmt: skip
# Their float32 form ends in a conversion from double that LLVM joins with the one to half: a library call.
_DOUBLE = frozenset(("asin", "atanh", "rem"))
_TESTS = frozenset(("isnan", "isinf", "isfinite"))
VOCABULARY = frozenset((*_FLOAT_NAME, *_INT, *_SYMBOL, *_COMPARE, *_LOGIC, *_TESTS, "neg", "square", "div", "where",
                        "logical_not", "bitwise_not", "cast"))  # fmt: skip
_OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv",
              ast.Mod: "mod", ast.Pow: "pow"}  # fmt: skip
_HEAVY = frozenset(
    "exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh sigmoid erf erfc softplus silu "
    "gelu atan2 pow floordiv mod rem".split()
)


def weight(op: OpDef) -> int:
    """About how many simple operations one element of ``op`` costs."""
    return 10 if op.name in _HEAVY else 1


class Scalars:
    """Emits statements for scalar operations into ``lines``; names are unique within a kernel."""

    def __init__(self) -> None:
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def hold(self, lines: list[str], text: str, dt: DType) -> Reg:
        """A register with the value of ``text``."""
        name = self.name()
        lines.append(f"{name} = {text}")
        return Reg(name, dt)

    def rounded(self, lines: list[str], reg: Reg) -> Reg:
        """``reg`` as storing and loading it would leave it."""
        if reg.dtype not in (F16, BF16) or reg.number is not None:
            return reg
        name = self.name()
        lines.append(f"{name} = {load(reg.dtype, store(reg.dtype, reg.text))}")
        return Reg(name, reg.dtype, reg.text)

    def op(self, lines: list[str], op: OpDef, args: Sequence[Reg], attrs: Mapping[str, Any], result: DType) -> Reg:
        """The result of one elementwise op."""
        if op.name == "cast":
            return self.cast(lines, args[0], attrs["to"])
        if op.name == "relu":
            return self.call(lines, "relu", args)
        if op.scalar is None:
            raise NoKernel(f"{op.name} has no scalar form")
        tree = ast.parse(op.scalar, mode="eval").body
        names = dict(zip("abcdefgh", args, strict=False))
        like = args[-1].dtype if args else result
        return self._expression(lines, tree, names, attrs, like)

    def _expression(
        self, lines: list[str], tree: ast.expr, names: Mapping[str, Reg], attrs: Mapping[str, Any], like: DType
    ) -> Reg:
        if isinstance(tree, ast.Constant):
            return literal_reg(like, tree.value)
        if isinstance(tree, ast.Name):
            return names[tree.id] if tree.id in names else literal_reg(like, attrs[tree.id])
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            if isinstance(tree.operand, ast.Constant):
                return literal_reg(like, -tree.operand.value)  # type: ignore[operator]
            return self.call(lines, "neg", [self._expression(lines, tree.operand, names, attrs, like)])
        if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
            parts = [self._expression(lines, side, names, attrs, like) for side in (tree.left, tree.right)]
            return self.call(lines, _OPERATORS[type(tree.op)], parts)
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id in VOCABULARY:
            parts = [self._expression(lines, a, names, attrs, like) for a in tree.args]
            return self.call(lines, tree.func.id, parts)
        raise NoKernel(f"kernel text has no form for {ast.unparse(tree)}")

    def call(self, lines: list[str], name: str, args: Sequence[Reg]) -> Reg:
        """``name`` of the vocabulary on registers of one dtype."""
        dt = args[-1].dtype
        result = BOOL if name in _COMPARE or name in _TESTS else dt
        if dt is F16 and name in _DOUBLE:
            wide = ", ".join(f"f64({a.text})" for a in args)
            return self.hold(lines, f"f16_f32(f64_f16({name}({wide})))", dt)
        held = self.hold(lines, _text(name, [a.text for a in args], args, dt), result)
        return held if name in _EXACT else self.rounded(lines, held)

    def cast(self, lines: list[str], a: Reg, to: DType) -> Reg:
        """``a`` converted: floats truncate and saturate to integers (NaN gives 0), to bool is != 0."""
        source = a.dtype
        if to is source:
            return a
        if to is BOOL:
            return self.hold(lines, f"({a.text} != {literal(source, 0)})", to)
        if source is BOOL:
            return self.hold(lines, f"select({a.text}, {literal(to, 1)}, {literal(to, 0)})", to)
        if to.is_int and source.is_float:
            return self._saturate(lines, a, to)
        if to.is_int:
            return self.hold(lines, f"{to.name}({a.text})", to)
        if to in (F16, BF16) and source is F64:
            return self.hold(lines, load(to, f"f64_{to.name}({a.text})"), to)
        wide = self.hold(lines, f"{register(to)}({a.text})", to)
        return self.rounded(lines, wide)

    def _saturate(self, lines: list[str], a: Reg, to: DType) -> Reg:
        info = np.iinfo(to.np)
        x = self.hold(lines, f"f64({a.text})", F64).text
        number = self.hold(lines, f"select({x} == {x}, {x}, f64(0.0))", F64).text
        low, high = literal(F64, float(info.min)), literal(F64, float(info.max))
        if to.size < 8:
            inside = f"select({number} >= {high}, {high}, select({number} <= {low}, {low}, {number}))"
            return self.hold(lines, f"{to.name}({inside})", to)
        # The largest 64-bit integer is no double: the first double above it saturates.
        inside = self.hold(lines, f"select({number} <= {low}, {low}, {number})", F64).text
        return self.hold(lines, f"select({inside} >= {high}, {literal(to, info.max)}, {to.name}({inside}))", to)


def _text(name: str, x: Sequence[str], regs: Sequence[Reg], dt: DType) -> str:
    if name == "where":
        return f"select({x[0]}, {x[1]}, {x[2]})"
    if name in _TESTS:
        return f"{name}({x[0]})"
    if dt is BOOL:
        return _bool_text(name, x)
    if name in _COMPARE:
        return f"({x[0]} {_COMPARE[name]} {x[1]})"
    if name in ("maximum", "minimum"):
        # Against a number, one select is enough: NaN compares false and passes through.
        sign = "<" if name == "maximum" else ">"
        for v, c in ((0, 1), (1, 0)):
            number = regs[c].number
            if number is not None and not math.isnan(number) and regs[v].number is None:
                return f"select({x[v]} {sign} {x[c]}, {x[c]}, {x[v]})"
        return extreme(name, dt, x[0], x[1])
    if dt.is_int:
        return _int_text(name, x, dt)
    if name in _SYMBOL:
        return f"({x[0]} {_SYMBOL[name]} {x[1]})"
    if name == "gelu":
        return f"{'gelu_tanh' if regs[1].number else 'gelu'}({x[0]})"
    special = {"neg": f"(-{x[0]})", "square": f"({x[0]} * {x[0]})", "div": f"({x[0]} / {x[-1]})"}
    return special[name] if name in special else f"{_FLOAT_NAME[name]}({', '.join(x)})"


def _bool_text(name: str, x: Sequence[str]) -> str:
    if name in ("logical_not", "bitwise_not"):
        return f"(not {x[0]})"
    if name in _LOGIC:
        return f"({x[0]} {_LOGIC[name]} {x[1]})"
    if name == "ne":
        return f"({x[0]} ^ {x[1]})"
    if name == "eq":
        return f"(not ({x[0]} ^ {x[1]}))"
    if name in ("maximum", "minimum"):
        return f"({x[0]} {'|' if name == 'maximum' else '&'} {x[1]})"
    return f"(u8({x[0]}) {_COMPARE[name]} u8({x[1]}))"


def _int_text(name: str, x: Sequence[str], dt: DType) -> str:
    to = dt.name
    if dt is I64 and name in (*_SYMBOL, "neg", "square"):
        # Numba promises LLVM that signed 64-bit arithmetic does not overflow: x * x would never be negative.
        left, right = {"neg": ("i64(0)", x[0]), "square": (x[0], x[0])}.get(name, x)
        return f"i64(u64({left}) {_SYMBOL[{'neg': 'sub', 'square': 'mul'}.get(name, name)]} u64({right}))"
    if name in _SYMBOL:
        return f"{to}({x[0]} {_SYMBOL[name]} {x[1]})"
    if name in _LOGIC:
        return f"{to}({x[0]} {_LOGIC[name]} {x[1]})"
    special = {"neg": f"{to}({to}(0) - {x[0]})", "square": f"{to}({x[0]} * {x[0]})", "bitwise_not": f"{to}(~{x[0]})",
               "abs": f"absolute({x[0]})"}  # fmt: skip
    return special[name] if name in special else f"{name}({', '.join(x)})"


__all__ = ["BIT_ZERO", "BITS", "F32", "Reg", "Scalars", "literal", "literal_reg", "load", "lowest", "pointer",
           "register", "store", "weight"]  # fmt: skip
