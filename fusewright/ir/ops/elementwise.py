"""Elementwise ops: one scalar expression each, shared by eval and every backend.

Owns arithmetic, comparison, logic, casts. Operands broadcast as in NumPy and share one dtype (``where``'s condition is
bool). The vocabulary of the expressions is the NumPy namespace below; backends provide the same names per dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import numpy as np

from ...core.dtypes import BF16, BOOL, FLOATS, INTS, DType, bf16_to_f32, dtype, f32_to_bf16
from ...core.errors import TypeRefused
from ..graph import Graph, Node
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, broadcast, moved, one_dtype
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
            return np.asarray(eval(code, {"__builtins__": {}}, scope))  # noqa: S307

    return evaluate


def _monotone(fn: Callable[[np.ndarray], np.ndarray], ulp: float) -> Callable[..., np.ndarray]:
    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        a, e = np.asarray(args[0], np.float64), errs[0]
        with np.errstate(all="ignore"):
            spread = np.maximum(np.abs(fn(a + e) - out), np.abs(fn(a - e) - out)) if np.any(e) else 0.0
            total = spread + ulp * 2 * bc.u * (np.abs(out) + spread) + bc.eta
        # Outside the domain (NaN at one end) nothing is decided, unless the input itself is exact.
        return np.where(np.isnan(total), np.where(e == 0, 0.0, np.inf), total)

    return bound


def _lipschitz(factor: float, ulp: float) -> Callable[..., np.ndarray]:
    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        with np.errstate(all="ignore"):
            total = factor * errs[0] + ulp * 2 * bc.u * np.abs(out) + bc.eta
        return np.where(np.isnan(total), 0.0, total)

    return bound


def _step(fn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Bound of a decision (floor, comparison...): exact where both ends agree, else undecided."""

    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        if not any(np.any(e) for e in errs):
            return np.zeros(out.shape)
        stable = np.ones(out.shape, bool)
        ends = [(a - e, a + e) if np.any(e) else (a,) for a, e in zip(args, errs, strict=True)]
        with np.errstate(all="ignore"):
            if len(ends) == 1:
                for x in ends[0]:
                    stable &= fn(x) == out
            else:
                for x in ends[0]:
                    for y in ends[1]:
                        stable &= fn(x, y) == out
        return np.where(stable, 0.0, np.inf)

    return bound


def _finite(total: np.ndarray, errs: Arrays) -> np.ndarray:
    """NaN appears where infinities meet exact operands: decided; with inexact operands nothing is known."""
    dirty = sum((np.asarray(e) > 0 for e in errs), np.zeros(total.shape, bool))
    return np.where(np.isnan(total), np.where(dirty, np.inf, 0.0), total)


def _bound_add(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        return _finite(errs[0] + errs[1] + bc.u * np.where(np.isfinite(out), np.abs(out), 0), errs)


def _bound_mul(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    a, b = np.abs(args[0]), np.abs(args[1])
    with np.errstate(all="ignore"):
        spread = np.where(errs[1] == 0, 0, a * errs[1]) + np.where(errs[0] == 0, 0, b * errs[0]) + errs[0] * errs[1]
        return _finite(spread + bc.u * np.where(np.isfinite(out), np.abs(out), 0) + bc.eta, errs)


def _bound_div(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    b = np.abs(args[1])
    with np.errstate(all="ignore"):
        spread = (errs[0] + np.where(errs[1] == 0, 0, np.abs(out) * errs[1])) / (b - errs[1])
        # One more rounding is allowed for: x * (1/y) is a usual form.
        total = np.where((errs[0] == 0) & (errs[1] == 0), 0, spread) + 2 * bc.u * np.where(np.isfinite(out), np.abs(out), 0) + bc.eta
        return np.where((b <= errs[1]) & (errs[1] > 0), np.inf, _finite(total, errs))


def _bound_max(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    return np.broadcast_to(np.maximum(errs[0], errs[1]), out.shape)


def _bound_pow(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    with np.errstate(all="ignore"):
        a, b = np.abs(np.asarray(args[0], np.float64)), np.asarray(args[1], np.float64)
        rel = np.abs(b) * errs[0] / (a - errs[0]) + np.abs(np.log(a)) * errs[1]
        rel = np.where((errs[0] == 0) & (errs[1] == 0), 0, rel)
        total = np.abs(out) * (np.expm1(rel) + POW_ULP * 2 * bc.u) + bc.eta
        return np.where(np.isfinite(out), _finite(total, errs), np.where((errs[0] == 0) & (errs[1] == 0), 0, np.inf))


def _bound_where(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    chosen = np.where(args[0], errs[1], errs[2])
    return np.where(np.broadcast_to(errs[0], out.shape) > 0, np.inf, chosen)


def _bound_integer(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
    dirty = sum((np.broadcast_to(e, out.shape) > 0 for e in errs), np.zeros(out.shape, bool))
    return np.where(dirty, np.inf, 0.0)


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
for _name, _fn, _ulp in (
    ("exp", np.exp, 1.0), ("expm1", np.expm1, 2.0), ("log", np.log, 2.0), ("log1p", np.log1p, 2.0),
    ("sqrt", np.sqrt, 0.5), ("rsqrt", _rsqrt, 1.5), ("asin", np.arcsin, 2.0), ("acos", np.arccos, 2.0),
    ("atan", np.arctan, 2.0), ("sinh", np.sinh, 2.0), ("tanh", np.tanh, 2.0), ("asinh", np.arcsinh, 3.0),
    ("acosh", np.arccosh, 3.0), ("atanh", np.arctanh, 3.0), ("sigmoid", _sigmoid, 2.0), ("erf", erf, 2.0),
    ("erfc", erfc, 4.0), ("softplus", _softplus, 3.0),
):  # fmt: skip
    _define(_name, 1, FLOATS, _monotone(_fn, _ulp), ulp=_ulp)
_define("sin", 1, FLOATS, _lipschitz(1.0, 2.0), ulp=2.0)
_define("cos", 1, FLOATS, _lipschitz(1.0, 2.0), ulp=2.0)


def _bound_even(slope: Callable[[np.ndarray], np.ndarray], ulp: float) -> Callable[..., np.ndarray]:
    def bound(args: Arrays, errs: Arrays, out: np.ndarray, bc: BoundContext) -> np.ndarray:
        a, e = np.abs(np.asarray(args[0], np.float64)), errs[0]
        with np.errstate(all="ignore"):
            spread = np.where(e == 0, 0.0, e * slope(a + e))
            return _finite(spread + ulp * 2 * bc.u * np.where(np.isfinite(out), np.abs(out) + spread, 0) + bc.eta, errs)

    return bound


_define("cosh", 1, FLOATS, _bound_even(np.sinh, 2.0), ulp=2.0)
_define("tan", 1, FLOATS, _bound_even(lambda x: np.where(x < 1.5, 1 / np.cos(x) ** 2, np.inf), 3.0), ulp=3.0)
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

_define("add", 2, NUMERIC, _bound_add, scalar="a + b", commutative=True)
_define("sub", 2, NUMERIC, _bound_add, scalar="a - b")
_define("mul", 2, NUMERIC, _bound_mul, scalar="a * b", commutative=True)
_define("div", 2, FLOATS, _bound_div, scalar="a / b", doc="True division of floats.")
_define("floordiv", 2, NUMERIC, _step(_floordiv), doc="NumPy floor division; integer x // 0 is 0.")
_define("mod", 2, NUMERIC, _step(np.mod), doc="NumPy modulo, sign of the divisor; integer x % 0 is 0.")
_define("truncdiv", 2, NUMERIC, _step(_truncdiv), doc="Division rounded toward zero; integer x / 0 is 0.")
_define("rem", 2, NUMERIC, _step(_rem), doc="C remainder, sign of the dividend; integer x rem 0 is 0.")
_define("pow", 2, NUMERIC, _bound_pow, ulp=POW_ULP)
_define("maximum", 2, NUMERIC, _bound_max, commutative=True, doc="NaN if either is NaN.")
_define("minimum", 2, NUMERIC, _bound_max, commutative=True, doc="NaN if either is NaN.")
_define("atan2", 2, FLOATS, lambda a, e, o, bc: np.where((e[0] == 0) & (e[1] == 0), 4 * 2 * bc.u * np.abs(o) + bc.eta, np.inf), ulp=4.0)
for _name, _fn in (("eq", np.equal), ("ne", np.not_equal)):
    _define(_name, 2, ANY, _step(_fn), result=BOOL, commutative=True)
for _name, _fn in (("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal)):
    _define(_name, 2, ANY, _step(_fn), result=BOOL)
for _name in ("logical_and", "logical_or", "logical_xor"):
    _define(_name, 2, (BOOL,), _bound_integer, commutative=True)
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    _define(_name, 2, (*INTS, BOOL), _bound_integer, commutative=True)
for _name in ("shift_left", "shift_right"):
    _define(_name, 2, INTS, _bound_integer, doc="Shift; a count outside the width gives what shifting bit by bit gives.")


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
    lambda a, e, o, bc: np.broadcast_to(np.maximum(np.maximum(e[0], e[1]), e[2]), o.shape),
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
            ends = [np.asarray(a).astype(np.float64) for a in (args[0] - errs[0], args[0] + errs[0])] if np.any(errs[0]) else []
            stable = np.ones(out.shape, bool)
            for end in ends:
                same_end = (end != 0) == (args[0] != 0) if to is BOOL else np.trunc(end) == np.trunc(args[0])
                stable &= same_end
        return np.where(stable, 0.0, np.inf)
    u = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24, "f64": 2.0**-53}[to.name]
    with np.errstate(all="ignore"):
        return _finite(errs[0] + u * np.where(np.isfinite(out), np.abs(out), 0) + bc.eta, errs)


define_op(
    OpDef(
        "cast", ("a",), "elementwise", _infer_cast, _eval_cast, attrs={"to": REQUIRED}, bound=_bound_cast,
        scalar="cast(a)", cost=_cost,
        doc="Convert to dtype ``to``. Float to int truncates and saturates (NaN gives 0); to bool is != 0.",
    )
)  # fmt: skip
