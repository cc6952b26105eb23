"""Patterns: what ``lambda x: fw.op.relu(x) * 2`` means when it is traced, and how it matches a graph.

Owns placeholders, tracing, and matching modulo commutativity and broadcasting. Must not change graphs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.dtypes import F32
from ...core.errors import RewriteError, TypeRefused
from ...ir.builder import op as value_op
from ...ir.graph import Node, Value
from ...ir.opdef import OPS, REQUIRED, OpDef, fill_attrs, get_op
from .values import attr_key, same_scalar, splat_scalar

_BINARY = {name: name for name in ("add", "sub", "mul", "floordiv", "mod", "pow", "matmul")} | {"truediv": "div"}
_COMPARE = ("lt", "le", "gt", "ge")
# NumPy's names where they are not ours.
_UFUNCS = {
    "absolute": "abs", "negative": "neg", "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div",
    "power": "pow", "floor_divide": "floordiv", "remainder": "mod", "rint": "round", "less": "lt", "less_equal": "le",
    "greater": "gt", "greater_equal": "ge", "equal": "eq", "not_equal": "ne", "arctan2": "atan2",
    **{"arc" + name: "a" + name for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
}  # fmt: skip


class Placeholder:
    """Stands for a value while a pattern is traced. Operators and ``fw.op`` on placeholders build the pattern."""

    def __getitem__(self, index: int) -> Placeholder:
        raise RewriteError("only the result of an op with several results can be indexed in a pattern")

    def __iter__(self) -> Iterator[Placeholder]:
        raise RewriteError("index the results of an op in a pattern: y[0], y[1]")

    def __bool__(self) -> bool:
        raise RewriteError("a pattern cannot branch on a value: decide in the replacement, or with m.decline(why)")

    def __neg__(self) -> Placeholder:
        return apply("neg", self)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **kwargs: Any) -> Placeholder:
        # np.exp(x), and np.float32(2) * x, which NumPy would otherwise take for an array of objects.
        name = _UFUNCS.get(ufunc.__name__, ufunc.__name__)
        if method != "__call__" or kwargs or name not in OPS:
            raise RewriteError(f"a pattern has no op for np.{ufunc.__name__}: write it with fw.op")
        return apply(name, *operands)


@dataclass(frozen=True, eq=False)
class Var(Placeholder):
    """Any value; the same variable twice is the same value."""

    name: str


@dataclass(frozen=True, eq=False)
class Scalar(Placeholder):
    """A constant whose every element is ``value`` (or no further off than ``ulps`` of its type), of any shape."""

    value: bool | int | float
    ulps: float = 0.0


@dataclass(frozen=True, eq=False)
class OneOf(Placeholder):
    """Any of several patterns, tried in order."""

    options: tuple[Placeholder, ...]


@dataclass(frozen=True, eq=False)
class Apply(Placeholder):
    """A result of an op. An attribute left out must have its default, ``...`` matches anything, and so does a variable,
    which then stands for what it matched. ``about`` goes by units of float32, as models store attributes.
    """

    op: OpDef
    operands: tuple[Placeholder, ...]
    attrs: Mapping[str, Any]
    index: int = 0

    def __getitem__(self, index: int) -> Placeholder:
        return Apply(self.op, self.operands, self.attrs, index)


def about(value: float, ulps: float = 2.0) -> Placeholder:
    """A constant as models store it: ``value`` rounded to whatever type, perhaps by way of another."""
    return Scalar(value, ulps)


def one_of(*options: Any) -> Any:
    """Any of several patterns. Variables that the matched one lacks reach the replacement as None.

    Used in several places, it is the same one of them in each.
    """
    lifted = map(_lift, options)
    return OneOf(tuple(q for p in lifted for q in (p.options if isinstance(p, OneOf) else (p,))))


def _lift(given: Any) -> Placeholder:
    if isinstance(given, Placeholder):
        return given
    if isinstance(given, (bool, int, float)):
        return Scalar(given)
    if isinstance(given, np.generic) or isinstance(given, np.ndarray) and given.ndim == 0:
        return Scalar(given.item())
    raise RewriteError(f"a pattern is made of its arguments, ops and Python scalars, not {type(given).__name__}")


def apply(name: str, *operands: Any, **attrs: Any) -> Placeholder:
    """The pattern of one op. Raises RewriteError for a wrong number of operands or unknown or missing attributes."""
    op = get_op(name)
    if len(operands) < op.required or not op.variadic and len(operands) > len(op.operands):
        raise RewriteError(f"pattern: {name} takes ({', '.join(op.operands)}), got {len(operands)} operands")
    for attr in attrs:
        if attr not in op.attrs:
            raise RewriteError(f"pattern: {name} has no attribute {attr!r}; it has {', '.join(op.attrs) or 'none'}")
    for attr, default in op.attrs.items():
        if default is REQUIRED and attr not in attrs:
            raise RewriteError(f"pattern: {name} needs {attr}=; write {attr}=... to match any")
    return Apply(op, tuple(map(_lift, operands)), attrs)


def _operator(name: str, swap: bool) -> Callable[[Any, Any], Placeholder]:
    return (lambda a, b: apply(name, b, a)) if swap else (lambda a, b: apply(name, a, b))


for _python, _name in _BINARY.items():
    setattr(Placeholder, f"__{_python}__", _operator(_name, False))
    setattr(Placeholder, f"__r{_python}__", _operator(_name, True))
for _name in _COMPARE:
    setattr(Placeholder, f"__{_name}__", _operator(_name, False))


class OpNamespace:
    """``fw.op.<name>(...)``: on placeholders it builds a pattern, on values it inserts the op into their graph."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        on_values = getattr(value_op, name)

        def call(*operands: Any, **kwargs: Any) -> Any:
            if any(isinstance(v, Placeholder) for v in operands):
                return apply(name.removesuffix("_"), *operands, **kwargs)
            return on_values(*operands, **kwargs)

        call.__name__ = name
        call.__doc__ = on_values.__doc__
        return call


op = OpNamespace()


@dataclass(frozen=True, slots=True)
class Pattern:
    """A traced pattern: its root (an op, or one of several) and the names of its variables, in order."""

    root: Placeholder
    names: tuple[str, ...]
    text: str = field(default="", compare=False)


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the positional parameters. Raises RewriteError for ``*args`` and keyword-only ones."""
    found = []
    for p in inspect.signature(function).parameters.values():
        if p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            raise RewriteError(f"a pattern takes plain positional arguments, not {p}")
        found.append(p.name)
    return tuple(found)


def trace(function: Callable[..., Any]) -> Pattern:
    """The pattern that ``function`` computes. Raises RewriteError unless it is one op over its arguments."""
    names = parameters(function)
    root = function(*(Var(n) for n in names))
    for option in root.options if isinstance(root, OneOf) else (root,):
        if not isinstance(option, Apply):
            raise RewriteError(f"a pattern must return the result of one op; this one returns {describe(option)}")
    pattern = Pattern(root, names, describe(root))
    values, attrs = set(variables(root)), set(attr_variables(root))
    unused = [n for n in names if n not in values | attrs]
    if unused:
        raise RewriteError(f"the pattern does not use its argument {unused[0]!r}")
    if values & attrs:
        raise RewriteError(f"the pattern uses {min(values & attrs)!r} as a value and as an attribute")
    return pattern


def below(p: Placeholder) -> tuple[Placeholder, ...]:
    """The patterns that ``p`` is made of."""
    return p.operands if isinstance(p, Apply) else p.options if isinstance(p, OneOf) else ()


def variables(p: Placeholder) -> Iterator[str]:
    """Names of the variables that stand for values, once per place."""
    if isinstance(p, Var):
        yield p.name
    for inner in below(p):
        yield from variables(inner)


def attr_variables(p: Placeholder) -> Iterator[str]:
    """Names of the variables that stand for attributes, once per place."""
    if isinstance(p, Apply):
        yield from (v.name for v in p.attrs.values() if isinstance(v, Var))
    for inner in below(p):
        yield from attr_variables(inner)


def alternatives(p: Placeholder) -> Iterator[Placeholder]:
    """``p`` with each ``one_of`` decided, in every way."""
    yield from (form for form, _ in _decided(p, {}))


def _decided(p: Placeholder, chosen: dict[OneOf, int]) -> Iterator[tuple[Placeholder, dict[OneOf, int]]]:
    if isinstance(p, OneOf):
        for i in [chosen[p]] if p in chosen else range(len(p.options)):
            yield from _decided(p.options[i], {**chosen, p: i})
    elif isinstance(p, Apply):
        forms: list[tuple[tuple[Placeholder, ...], dict[OneOf, int]]] = [((), chosen)]
        for operand in p.operands:
            forms = [((*done, form), now) for done, then in forms for form, now in _decided(operand, then)]
        yield from ((Apply(p.op, operands, p.attrs, p.index), now) for operands, now in forms)
    else:
        yield p, chosen


def depth(p: Placeholder) -> int:
    """Ops on the longest way from the root to a variable."""
    return isinstance(p, Apply) + max(map(depth, below(p)), default=0)


def roots_of(p: Placeholder) -> frozenset[str]:
    """Names of the ops that a match's root may have."""
    return frozenset().union(*map(roots_of, p.options)) if isinstance(p, OneOf) else frozenset({_op_name(p)})


def _op_name(p: Placeholder) -> str:
    if not isinstance(p, Apply):
        raise RewriteError(f"{describe(p)} is no op")
    return p.op.name


def describe(p: Any) -> str:
    """The pattern as text; what stands in several places gets a capital letter."""
    uses: dict[Placeholder, int] = {}
    _count(p, uses)
    names = {q: chr(ord("A") + i % 26) for i, q in enumerate(q for q, n in uses.items() if n > 1 and q is not p)}
    lets = [f"{name} = {_text(q, names)}" for q, name in names.items()]
    return _text(p, names) + (f" where {', '.join(lets)}" if lets else "")


def _count(p: Any, uses: dict[Placeholder, int]) -> None:
    """How often each part is used, inner ones first; a part used twice counts what is inside it once."""
    if isinstance(p, (Apply, OneOf)):
        if p not in uses:
            for inner in below(p):
                _count(inner, uses)
        uses[p] = uses.get(p, 0) + 1


def _text(p: Any, names: Mapping[Placeholder, str]) -> str:
    if isinstance(p, Var):
        return p.name
    if isinstance(p, Scalar):
        return f"about {p.value!r}" if p.ulps else repr(p.value)
    parts = [names.get(o) or _text(o, names) for o in below(p)] if isinstance(p, Placeholder) else []
    if isinstance(p, OneOf):
        return f"one of ({', '.join(parts)})"
    if isinstance(p, Apply):
        parts += [f"{k}={_describe_attr(v)}" for k, v in p.attrs.items()]
        return f"{p.op.name}({', '.join(parts)})" + (f"[{p.index}]" if p.index else "")
    return type(p).__name__


def _describe_attr(v: Any) -> str:
    return "..." if v is ... else describe(v) if isinstance(v, Placeholder) else str(v)


# Values and attributes by variable, and which of several patterns was taken by ``one_of``.
Env = dict[Any, Any]


def match(p: Placeholder, v: Value, env: Env, nodes: tuple[Node, ...] = ()) -> Iterator[tuple[Env, tuple[Node, ...]]]:
    """Every way in which ``v`` is an instance of ``p``: variables bound and the nodes covered, root first."""
    if isinstance(p, Var):
        known = env.get(p.name)
        if known is None:
            yield {**env, p.name: v}, nodes
        elif known is v or (known.const is not None and known.type is v.type and known.const == v.const):
            yield env, nodes
    elif isinstance(p, Scalar):
        element = splat_scalar(v)
        if element is not None and same_scalar(element, p.value, v.dtype, p.ulps):
            yield env, nodes
    elif isinstance(p, OneOf):
        for i in [env[p]] if p in env else range(len(p.options)):
            yield from match(p.options[i], v, {**env, p: i}, nodes)
    elif isinstance(p, Apply):
        node = v.producer
        if node.op is not p.op or v.index != p.index or len(node.operands) != len(p.operands):
            return
        bound = _match_attrs(p, node, env)
        if bound is None:
            return
        covered = nodes if node in nodes else (*nodes, node)
        orders = [p.operands]
        if p.op.commutative and len(p.operands) == 2:
            orders.append(p.operands[::-1])
        for order in orders:
            yield from _match_all(order, node.operands, bound, covered)


def _match_all(
    ps: tuple[Placeholder, ...], vs: tuple[Value, ...], env: Env, nodes: tuple[Node, ...]
) -> Iterator[tuple[Env, tuple[Node, ...]]]:
    if not ps:
        yield env, nodes
        return
    for inner, covered in match(ps[0], vs[0], env, nodes):
        yield from _match_all(ps[1:], vs[1:], inner, covered)


def _match_attrs(p: Apply, node: Node, env: Env) -> Env | None:
    """``env`` with the variables among the attributes bound, or None where an attribute differs."""
    if not p.op.attrs:
        return env
    given = {k: node.attrs[k] if v is ... else v for k, v in p.attrs.items()}
    for k, v in p.attrs.items():
        if isinstance(v, Var):
            given[k] = env.get(v.name, node.attrs[k])
            env = {**env, v.name: given[k]}
        elif isinstance(v, Scalar):
            given[k] = node.attrs[k] if same_scalar(node.attrs[k], v.value, F32, v.ulps) else v.value
    try:
        wanted = fill_attrs(p.op, given)
        # infer brings attributes to the form that nodes carry (axes counted from the front, strides per axis...).
        p.op.infer([v.type for v in node.operands], wanted, node.regions)
    except TypeRefused:
        return None
    return env if all(_same_attr(wanted[k], node.attrs[k]) for k in p.op.attrs) else None


def _same_attr(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same_attr(x, y) for x, y in zip(a, b))
    return bool(attr_key(a) == attr_key(b))
