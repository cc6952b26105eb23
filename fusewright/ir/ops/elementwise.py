"""Elementwise ops: one scalar expression each, shared by eval and every backend.

Owns arithmetic, comparison, logic, casts. Operands broadcast as in NumPy and share one dtype (``where``'s condition is
bool). The vocabulary of the expressions is the NumPy namespace below; backends provide the same names per dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as cartesian
from types import CodeType
from typing import Any

import numpy as np

from ...core.dtypes import BF16, BOOL, FLOATS, INTS, DType, bf16_to_f32, dtype, f32_to_bf16
from ...core.errors import TypeRefused
from ..graph import Graph, Node
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, broadcast, finite, moved, one_dtype
from ._special import erf, erfc

NUMERIC = (*FLOATS, *INTS)
ANY = (*NUMERIC, BOOL)
SIGNED = tuple(d for d in NUMERIC if d.kind in "fi")


def _floordiv(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.floor_divide(a, b)


def _truncdiv(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.trunc(a / b)
    safe = np.where(b == 0, np.ones_like(b), b)
    q = np.floor_divide(a, safe)
    q = q + ((np.remainder(a, safe) != 0) & ((a < 0) != (safe < 0)))
    return np.where(b == 0, np.zeros_like(q), q).astype(a.dtype)


def _rem(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.fmod(a, b)


def _shift_left(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bits = a.dtype.itemsize * 8
    ok = (b >= 0) & (b < bits)
    return np.where(ok, np.left_shift(a, np.where(ok, b, 0).astype(a.dtype)), 0).astype(a.dtype)


def _shift_right(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bits = a.dtype.itemsize * 8
    ok = (b >= 0) & (b < bits)
    lost = np.where(a < 0, -1, 0).astype(a.dtype) if a.dtype.kind == "i" else np.zeros_like(a)
    return np.where(ok, np.right_shift(a, np.where(ok, b, 0).astype(a.dtype)), lost).astype(a.dtype)


def _sigmoid(a: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1 / (1 + e), e / (1 + e)).astype(a.dtype)


def _softplus(a: np.ndarray) -> np.ndarray:
    return (np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a)))).astype(a.dtype)


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.power(a, b)
    # Integers wrap; a negative exponent truncates toward zero: 0 except for bases 1 and -1 (and 0 -> 0).
    result = np.ones(np.broadcast_shapes(a.shape, b.shape), a.dtype)
    base = np.broadcast_to(a, result.shape).copy()
    left = np.broadcast_to(b, result.shape).copy()
    negative = left < 0 if a.dtype.kind == "i" else np.zeros(result.shape, bool)
    odd = (left & 1) == 1
    left = np.where(negative, 0, left).astype(a.dtype)
    while np.any(left):
        result = np.where(left & 1, result * base, result)
        base, left = base * base, left >> 1
    small = np.where(a == 1, 1, np.where(a == -1, np.where(odd, -1, 1), 0)) if a.dtype.kind == "i" else 0
    return np.where(negative, small, result).astype(a.dtype)


def _rsqrt(a: np.ndarray) -> np.ndarray:
    return (1 / np.sqrt(a)).astype(a.dtype)


def _square(a: np.ndarray) -> np.ndarray:
    return a * a


VOCABULARY: dict[str, Callable[..., Any]] = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "exp": np.exp, "expm1": np.expm1, "log": np.log,
    "log1p": np.log1p, "sqrt": np.sqrt, "rsqrt": _rsqrt, "square": _square, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "sigmoid": _sigmoid, "erf": erf, "erfc": erfc,
    "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc, "softplus": _softplus,
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "logical_not": np.logical_not,
    "bitwise_not": np.invert, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "floordiv": _floordiv, "mod": np.mod, "truncdiv": _truncdiv, "rem": _rem, "pow": _pow, "maximum": np.maximum,
    "minimum": np.minimum, "atan2": np.arctan2, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor, "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor, "shift_left": _shift_left,
    "shift_right": _shift_right, "where": np.where,
}  # fmt: skip

_LETTERS = "abcdefgh"


def _infer(domain: Sequence[DType], result: DType | None) -> Callable[..., list[TensorType]]:
    def infer(types: Sequence[TensorType], attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
        dt = one_dtype(types)
        if dt not in domain:
            raise TypeRefused(f"takes {'/'.join(d.name for d in domain)}, not {dt}")
        return [TensorType(result or dt, broadcast([t.shape for t in types]))]

    return infer


def _evaluator(scalar: str) -> Callable[[Arrays, Attrs, EvalContext], np.ndarray]:
    code: CodeType = compile(scalar, f"<{scalar}>", "eval")

    def evaluate(args: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
        scope = {**VOCABULARY, **dict(zip(_LETTERS, args, strict=False))}
        with np.errstate(all="ignore"):
            # Our own table's text, compiled at import of this module: never text from a file.
            return np.asarray(eval(code, {"__builtins__": {}}, scope))

    return evaluate


def _finite(total: np.ndarray, errs: Arrays) -> np.ndarray:
    """NaN appears where infinities meet exact operands: decided; with inexact operands nothing is known."""
    dirty = sum((np.asarray(e) > 0 for e in errs), np.zeros(total.shape, bool))
    return np.where(np.isnan(total), np.where(dirty, np.inf, 0.0), total)


def _rounded(
    spread: np.ndarray, args: Arrays, out: np.ndarray, ulp: float, errs: Arrays, bc: BoundContext
) -> np.ndarray:
    """``spread`` from the operands' errors, and ``ulp`` units in the last place of whatever the result then is."""
    with np.errstate(all="ignore"):
        total = _finite(spread + ulp * 2 * bc.u * (finite(out) + spread) + bc.eta, errs)
    # What is 0 at 0 is so in every library (C standard, annex F): sin, tanh, sqrt, expm1, atan2, pow...
    exact = (np.asarray(args[0]) == 0) & (out == 0)
    undecided = np.zeros(total.shape, bool)
    for e in errs:
        exact = exact & (np.asarray(e) == 0)
        # An undecided operand may be anything, NaN included, however flat the function is there.
        undecided = undecided | np.isinf(e)
    return np.where(undecided, np.inf, np.where(exact, 0.0, total))


def _certain(a: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where an operand is certainly the number 0, certainly infinite, and certainly finite but not 0."""
    size, known = np.abs(np.asarray(a, np.float64)), np.isfinite(e)
    return (size == 0) & (np.asarray(e) == 0), np.isinf(size) & known, np.isfinite(size) & known & (size > e)


def _strict(bound: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Of an op that gives NaN for NaN: one operand that is NaN for certain decides, whatever the others are."""

    def strict(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        total = bound(args, errs, out, bc)
        if out.dtype.kind != "f" or not np.any(np.isnan(out)):
            return total
        sure = np.zeros(out.shape, bool)
        for a, e in zip(args, errs, strict=True):
            sure |= np.isnan(a) & np.isfinite(e)
        return np.where(sure, 0.0, total)

    return strict


def _corners(fn: Callable[..., np.ndarray], args: Arrays, errs: Arrays, out: np.ndarray) -> np.ndarray:
    """Largest change of ``fn``, monotone in each operand, over the box of its operands' errors."""
    spread = np.zeros(out.shape)
    if not any(np.any(e) for e in errs):
        return spread
    ends = [(np.asarray(a, np.float64) - e, np.asarray(a, np.float64) + e) for a, e in zip(args, errs, strict=True)]
    with np.errstate(all="ignore"):
        for corner in cartesian(*ends):
            spread = np.maximum(spread, np.abs(fn(*corner) - out))
    clean = np.ones(out.shape, bool)
    for e in errs:
        clean = clean & (np.asarray(e) == 0)
    return np.where(clean, 0.0, spread)


# Of a finite operand these are infinite only where float64 itself overflows: as undecided as any other overflow.
_WITHOUT_POLES = (np.exp, np.expm1, np.sinh)


def _monotone(fn: Callable[[np.ndarray], np.ndarray], ulp: float) -> Callable[..., np.ndarray]:
    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        total = _rounded(_corners(fn, args, errs, out), args, out, ulp, errs, bc)
        if fn in _WITHOUT_POLES and np.any(np.isinf(out)):
            a, e = np.asarray(args[0], np.float64), np.asarray(errs[0])
            over = np.isinf(out) & np.isfinite(a)
            total = np.where(over, np.inf, total)
            if bc.overflows:
                # Monotone: the end of the interval next to 0 has the least of all results.
                with np.errstate(all="ignore"):
                    least = np.abs(fn(np.copysign(np.maximum(np.abs(a) - e, 0), a)))
                total = np.where(over & (np.abs(a) > e) & (least > 2 * bc.top), 0.0, total)
        if not np.any(np.isnan(out)):
            return total
        # Outside the domain on one side with all of its error: NaN for certain.
        a, e = np.asarray(args[0], np.float64), np.asarray(errs[0])
        with np.errstate(all="ignore"):
            outside = np.isnan(out) & np.isnan(fn(a - e)) & np.isnan(fn(a + e)) & (np.abs(a) > e)
        return np.where(outside, 0.0, total)

    return bound


def _lipschitz(factor: float, ulp: float) -> Callable[..., np.ndarray]:
    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        return _rounded(factor * np.broadcast_to(errs[0], out.shape), args, out, ulp, errs, bc)

    return bound


def _step(fn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Bound of a decision that is monotone in each operand: exact where all corners agree, else undecided."""

    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        if not any(np.any(e) for e in errs):
            return np.zeros(out.shape)
        stable = np.ones(out.shape, bool)
        clean = np.ones(out.shape, bool)
        for e in errs:
            stable = stable & np.isfinite(e)
            clean = clean & (np.asarray(e) == 0)
        with np.errstate(all="ignore"):
            for corner in cartesian(*((a - e, a + e) for a, e in zip(args, errs, strict=True))):
                stable &= fn(*corner) == out
        return np.where(stable | clean, 0.0, np.inf)

    return bound


def _bound_eq(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    """Equality is not monotone: inexact operands are known to differ where they are further apart than their errors."""
    a, b = np.asarray(args[0], np.float64), np.asarray(args[1], np.float64)
    with np.errstate(all="ignore"):
        reach = np.asarray(errs[0]) + errs[1]
        # An infinity is exact wherever it is decided.
        known = (reach == 0) | (np.abs(a - b) > reach) | np.isfinite(reach) & ~np.isfinite(a + b)
    return np.broadcast_to(np.where(known, 0.0, np.inf), out.shape)


def _bound_exact(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    """Of mod and rem: exact operands give the exact result, rounded once; others a - q b where the quotient is sure."""
    if not bc.u:
        return _bound_integer(args, errs, out, bc)
    a, b = np.asarray(args[0], np.float64), np.asarray(args[1], np.float64)
    sure = np.ones(out.shape, bool)
    with np.errstate(all="ignore"):
        quotient = np.broadcast_to(np.floor(a / b), out.shape)
        for x, y in cartesian((a - errs[0], a + errs[0]), (b - errs[1], b + errs[1])):
            sure &= np.floor(x / y) == quotient
        # The sign of a decides between floor and trunc, and beyond the gap of 1 the quotient itself is rounded.
        sure &= (np.abs(a) > errs[0]) & (np.abs(b) > errs[1]) & (np.abs(quotient) < 0.1 / bc.u)
        sure &= np.abs(a / b - np.rint(a / b)) > 8 * bc.u * (np.abs(quotient) + 1)
        spread = errs[0] + (np.abs(quotient) + 1) * errs[1]
        total = np.where(sure & np.isfinite(spread), spread + 2 * bc.u * (finite(out) + spread), np.inf)
    return np.where(_bound_integer(args, errs, out, bc) > 0, total, bc.u * finite(out))


def _bound_floordiv(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    """Exact while the quotient is small beside 1/u; above, an integer near it."""
    crossing = (np.asarray(errs[1]) > 0) & (np.abs(args[1]) <= errs[1])
    size = 4 * bc.u * finite(out)
    rounding = np.where(size >= 0.5, size + 1, 0.0)
    return np.where(crossing, np.inf, _step(_floordiv)(args, errs, out, bc) + rounding)


def _bound_truncdiv(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    """The quotient is rounded before it is cut: just below an integer it may become that integer."""
    if not bc.u:
        return _bound_integer(args, errs, out, bc)
    crossing = (np.asarray(errs[1]) > 0) & (np.abs(args[1]) <= errs[1])
    with np.errstate(all="ignore"):
        quotient = np.asarray(args[0]) / np.asarray(args[1])
        size = 4 * bc.u * finite(quotient)
        near = np.where(np.isfinite(quotient), np.abs(quotient - np.rint(quotient)), 1.0) <= size
    rounding = np.where(size >= 0.5, size + 1, np.where(near & (np.rint(quotient) != 0), 1.0, 0.0))
    return np.where(crossing, np.inf, _step(_truncdiv)(args, errs, out, bc) + rounding)


def _bound_add(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return _finite(errs[0] + errs[1] + bc.u * finite(out), errs)


def _bound_mul(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    a, b = np.abs(args[0]), np.abs(args[1])
    with np.errstate(all="ignore"):
        spread = np.where(errs[1] == 0, 0, a * errs[1]) + np.where(errs[0] == 0, 0, b * errs[0]) + errs[0] * errs[1]
        total = _finite(spread + bc.u * (finite(out) + spread) + bc.eta, errs)
        (zero, inf, some), (zero_b, inf_b, some_b) = (_certain(x, e) for x, e in zip(args, errs, strict=True))
        number, number_b = (np.isfinite(x) & np.isfinite(e) for x, e in zip((a, b), errs, strict=True))
        # 0 times a number has nothing to round; an infinity stays one unless its factor may be 0 or NaN.
        sure = zero & number_b | zero_b & number | inf & (some_b | inf_b) | inf_b & some
        return np.where(sure, 0.0, total)


def _bound_div(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    b = np.abs(args[1])
    with np.errstate(all="ignore"):
        spread = (errs[0] + np.where(errs[1] == 0, 0, np.abs(out) * errs[1])) / (b - errs[1])
        spread = np.where((errs[0] == 0) & (errs[1] == 0), 0, spread)
        # One more rounding is allowed for: x * (1/y) is a usual form.
        total = spread + 2 * bc.u * (finite(out) + spread) + bc.eta
        unknown = (b <= errs[1]) & (errs[1] > 0) | np.isinf(errs[0]) | np.isinf(errs[1])
        total = np.where(unknown, np.inf, _finite(total, errs))
        (zero, inf, some), (zero_b, inf_b, some_b) = (_certain(x, e) for x, e in zip(args, errs, strict=True))
        # The same for quotients; what is not 0 over 0 is infinite, what is finite over an infinity is 0.
        sure = zero & (some_b | inf_b) | some & (zero_b | inf_b) | inf & (zero_b | some_b)
        return np.where(sure, 0.0, total)


def _bound_max(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    return np.broadcast_to(np.maximum(errs[0], errs[1]), out.shape)


def _bound_pow(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    if not bc.u:
        return _bound_integer(args, errs, out, bc)
    # For positive bases a power is monotone in base and exponent; for negative ones in the base.
    unknown = (_bound_integer(args, errs, out, bc) > 0) & ~(args[0] - errs[0] > 0)
    unknown &= ~((np.asarray(errs[1]) == 0) & (np.abs(args[0]) > errs[0]))
    return np.where(unknown, np.inf, _rounded(_corners(np.power, args, errs, out), args, out, POW_ULP, errs, bc))


def _bound_atan2(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    y, x = np.asarray(args[0], np.float64), np.asarray(args[1], np.float64)
    with np.errstate(all="ignore"):
        near = np.maximum(np.abs(y) - errs[0], 0) ** 2 + np.maximum(np.abs(x) - errs[1], 0) ** 2
        turn = ((np.abs(x) + errs[1]) * errs[0] + (np.abs(y) + errs[0]) * errs[1]) / near
    clean = (np.asarray(errs[0]) == 0) & (np.asarray(errs[1]) == 0)
    # Across the negative x axis the angle jumps by a whole turn.
    jump = ~clean & (np.abs(y) <= errs[0]) & (x <= errs[1]) | ~clean & ~np.isfinite(x + y)
    spread = np.where(clean, 0.0, np.where(jump, np.inf, turn))
    return _rounded(np.broadcast_to(spread, out.shape), args, out, LIBRARY_ULP, errs, bc)


def _bound_where(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    chosen = np.where(args[0], errs[1], errs[2])
    if not np.any(errs[0]):
        return chosen
    # An undecided condition gives one of two values, and their distance is known.
    with np.errstate(all="ignore"):
        either = np.abs(np.asarray(args[1], np.float64) - args[2]) + np.maximum(errs[1], errs[2])
    either = np.where(np.isfinite(either) & (out.dtype.kind == "f"), either, np.inf)
    same = np.asarray((args[1] == args[2]) & (errs[1] == 0) & (errs[2] == 0))
    return np.where(np.broadcast_to(errs[0], out.shape) > 0, np.where(same, 0.0, either), chosen)


def _bound_integer(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    dirty = sum((np.broadcast_to(e, out.shape) > 0 for e in errs), np.zeros(out.shape, bool))
    return np.where(dirty, np.inf, 0.0)


# NumPy's own float32 functions may be vector code that is 4 units off, and eval is what everything is held to.
LIBRARY_ULP = 4.0
POW_ULP = 4.0


def _cost(node: Node) -> Cost:
    out = node.results[0].type
    weight = 8 if node.op.ulp > 0.5 else 1
    return Cost(out.size * weight, out.nbytes + sum((v.type.nbytes for v in node.operands), 0))


def _define(
    name: str,
    arity: int,
    domain: Sequence[DType],
    bound: Callable[..., np.ndarray],
    *,
    result: DType | None = None,
    scalar: str | None = None,
    ulp: float = 0.5,
    commutative: bool = False,
    doc: str = "",
) -> OpDef:
    letters = tuple(_LETTERS[:arity])
    expression = scalar or f"{name}({', '.join(letters)})"
    return define_op(
        OpDef(
            name,
            letters,
            "elementwise",
            _infer(domain, result),
            _evaluator(expression),
            bound=bound,
            scalar=expression,
            overwrites=tuple(range(arity)) if result is None else (),
            commutative=commutative,
            ulp=ulp,
            cost=_cost,
            doc=doc or f"{name}, elementwise.",
        )
    )


_define("neg", 1, NUMERIC, moved, doc="-a (unsigned wraps).")
_define("abs", 1, NUMERIC, moved, doc="|a|.")
_define("sign", 1, SIGNED, _step(np.sign), doc="-1, 0 or 1; NaN stays NaN.")
_fn: Callable[..., Any]
for _name, _fn, _ulp in (
    ("exp", np.exp, LIBRARY_ULP), ("expm1", np.expm1, LIBRARY_ULP), ("log", np.log, LIBRARY_ULP),
    ("log1p", np.log1p, LIBRARY_ULP), ("sqrt", np.sqrt, 0.5), ("rsqrt", _rsqrt, 1.5), ("asin", np.arcsin, LIBRARY_ULP),
    ("acos", np.arccos, LIBRARY_ULP), ("atan", np.arctan, LIBRARY_ULP), ("sinh", np.sinh, LIBRARY_ULP),
    ("tanh", np.tanh, LIBRARY_ULP), ("asinh", np.arcsinh, LIBRARY_ULP), ("acosh", np.arccosh, LIBRARY_ULP),
    ("atanh", np.arctanh, LIBRARY_ULP), ("sigmoid", _sigmoid, 6.0), ("erf", erf, 2.0), ("erfc", erfc, 4.0),
    ("softplus", _softplus, 10.0),
):  # fmt: skip
    _define(_name, 1, FLOATS, _monotone(_fn, _ulp), ulp=_ulp)
_define("sin", 1, FLOATS, _lipschitz(1.0, LIBRARY_ULP), ulp=LIBRARY_ULP)
_define("cos", 1, FLOATS, _lipschitz(1.0, LIBRARY_ULP), ulp=LIBRARY_ULP)


def _bound_even(slope: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        a, e = np.abs(np.asarray(args[0], np.float64)), errs[0]
        with np.errstate(all="ignore"):
            spread = np.where(e == 0, 0.0, e * slope(a + e))
        return _rounded(np.broadcast_to(spread, out.shape), args, out, LIBRARY_ULP, errs, bc)

    return bound


_define("cosh", 1, FLOATS, _bound_even(np.sinh), ulp=LIBRARY_ULP)
_define("tan", 1, FLOATS, _bound_even(lambda x: np.where(x < 1.5, 1 / np.cos(x) ** 2, np.inf)), ulp=LIBRARY_ULP)
_define("square", 1, NUMERIC, lambda a, e, o, bc: _bound_mul([a[0], a[0]], [e[0], e[0]], o, bc), scalar="a * a")
_define(
    "reciprocal", 1, FLOATS,
    lambda a, e, o, bc: _bound_div([np.ones(()), a[0]], [np.zeros(()), e[0]], o, bc), scalar="1 / a",
)  # fmt: skip
for _name, _fn in (("floor", np.floor), ("ceil", np.ceil), ("round", np.rint), ("trunc", np.trunc)):
    _define(_name, 1, FLOATS, _step(_fn), doc="half to even" if _name == "round" else "")
for _name, _fn in (("isnan", np.isnan), ("isinf", np.isinf), ("isfinite", np.isfinite)):
    _define(_name, 1, FLOATS, _step(_fn), result=BOOL)
_define("logical_not", 1, (BOOL,), _bound_integer)
_define("bitwise_not", 1, (*INTS, BOOL), _bound_integer)
_define("relu", 1, SIGNED, moved, scalar="maximum(a, 0)", doc="max(a, 0); NaN stays NaN.")

_define("add", 2, NUMERIC, _strict(_bound_add), scalar="a + b", commutative=True)
_define("sub", 2, NUMERIC, _strict(_bound_add), scalar="a - b")
_define("mul", 2, NUMERIC, _strict(_bound_mul), scalar="a * b", commutative=True)
_define("div", 2, FLOATS, _strict(_bound_div), scalar="a / b", doc="True division of floats.")
_define("floordiv", 2, NUMERIC, _strict(_bound_floordiv), doc="NumPy floor division; integer x // 0 is 0.")
_define("mod", 2, NUMERIC, _strict(_bound_exact), doc="NumPy modulo, sign of the divisor; integer x % 0 is 0.")
_define("truncdiv", 2, NUMERIC, _strict(_bound_truncdiv), doc="Division rounded toward zero; integer x / 0 is 0.")
_define("rem", 2, NUMERIC, _strict(_bound_exact), doc="C remainder, sign of the dividend; integer x rem 0 is 0.")
_define("pow", 2, NUMERIC, _bound_pow, ulp=POW_ULP)
_define("maximum", 2, NUMERIC, _strict(_bound_max), commutative=True, doc="NaN if either is NaN.")
_define("minimum", 2, NUMERIC, _strict(_bound_max), commutative=True, doc="NaN if either is NaN.")
_define("atan2", 2, FLOATS, _strict(_bound_atan2), ulp=LIBRARY_ULP)
for _name in ("eq", "ne"):
    _define(_name, 2, ANY, _bound_eq, result=BOOL, commutative=True)
for _name, _fn in (("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal)):
    _define(_name, 2, ANY, _step(_fn), result=BOOL)
for _name in ("logical_and", "logical_or", "logical_xor"):
    _define(_name, 2, (BOOL,), _bound_integer, commutative=True)
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    _define(_name, 2, (*INTS, BOOL), _bound_integer, commutative=True)
for _name in ("shift_left", "shift_right"):
    _define(
        _name, 2, INTS, _bound_integer, doc="Shift; a count outside the width gives what shifting bit by bit gives."
    )


def _infer_where(types: Sequence[TensorType], attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    if types[0].dtype is not BOOL:
        raise TypeRefused(f"the condition must be bool, not {types[0].dtype}")
    return [TensorType(one_dtype(types[1:]), broadcast([t.shape for t in types]))]


define_op(
    OpDef(
        "where", ("a", "b", "c"), "elementwise", _infer_where, _evaluator("where(a, b, c)"), bound=_bound_where,
        scalar="where(a, b, c)", overwrites=(1, 2), cost=_cost, doc="b where the condition a holds, else c.",
    )
)  # fmt: skip
_define(
    "clip", 3, NUMERIC,
    _strict(lambda a, e, o, bc: np.broadcast_to(np.maximum(np.maximum(e[0], e[1]), e[2]), o.shape)),
    scalar="minimum(maximum(a, b), c)", doc="min(max(a, lo), hi); NaN stays NaN.",
)  # fmt: skip


def _infer_cast(types: Sequence[TensorType], attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    attrs["to"] = dtype(attrs["to"])
    return [types[0].with_dtype(attrs["to"])]


def round_to(values: np.ndarray, dt: DType) -> np.ndarray:
    """Computed values rounded as storing them in ``dt`` would (only bf16 has work to do)."""
    return bf16_to_f32(f32_to_bf16(values)) if dt is BF16 else values


def _eval_cast(args: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    a, to = args[0], attrs["to"]
    target = ctx.np_dtype(to)
    with np.errstate(all="ignore"):
        if to.is_int and a.dtype.kind == "f":
            # Truncate; out-of-range and NaN are unspecified in C: we saturate, NaN gives 0.
            info = np.iinfo(target)
            wide = np.where(np.isnan(a), 0, np.trunc(a.astype(np.float64)))
            low, high = float(info.min), float(info.max)
            inside = np.clip(wide, low, np.nextafter(high, 0) if high > 2**53 else high)
            return np.where(wide >= high, info.max, inside.astype(target)).astype(target)
        return round_to(a.astype(target), to) if not ctx.wide else a.astype(target)


def _bound_cast(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    to: DType = bc.attrs["to"]
    if not to.is_float:
        with np.errstate(all="ignore"):
            ends = (
                [np.asarray(a).astype(np.float64) for a in (args[0] - errs[0], args[0] + errs[0])]
                if np.any(errs[0])
                else []
            )
            stable = np.ones(out.shape, bool)
            for end in ends:
                # A bool is false only at 0 itself, which an interval around 0 may hold.
                kept = (end > 0) == (ends[0] > 0) if to is BOOL else np.trunc(end) == np.trunc(args[0])
                stable &= kept & (end != 0 if to is BOOL else np.isfinite(end))
        return np.where(stable | (np.asarray(errs[0]) == 0), 0.0, np.inf)
    with np.errstate(all="ignore"):
        # A hundredth more: to bf16 the value is rounded to float32 first.
        total = _finite(errs[0] + 1.01 * bc.u * (finite(out) + errs[0]) + bc.eta, errs)
        # A number that the type has is itself again.
        kept = round_to(out.astype(np.float32 if to is BF16 else to.np), to) == out
        return np.where(kept & (np.asarray(errs[0]) == 0), 0.0, total)


define_op(
    OpDef(
        "cast", ("a",), "elementwise", _infer_cast, _eval_cast, attrs={"to": REQUIRED}, bound=_bound_cast,
        scalar="cast(a)", cost=_cost,
        doc="Convert to dtype ``to``. Float to int truncates and saturates (NaN gives 0); to bool is != 0.",
    )
)  # fmt: skip
