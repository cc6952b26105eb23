"""``fw.rewrite``: pattern to replacement.

Owns declaring, checking and applying one rule, and sets of rules. Must not know any particular rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, overload

import numpy as np

from ...core.dtypes import DTYPES, DType, dtype
from ...core.errors import FusewrightError, RewriteError, TypeRefused
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value, refines
from .base import Pass, PassContext, check_numerics, loosest
from .driver import LocalRule, drive, made_before
from .pattern import (
    Apply,
    Env,
    OneOf,
    Pattern,
    Placeholder,
    Scalar,
    Var,
    below,
    depth,
    describe,
    match,
    parameters,
    roots_of,
    trace,
    variables,
)  # fmt: skip
from .values import const_array, splat_scalar

_MATCHES_TRIED = 8
_PROBES_TRIED = 160
_SHAPES, _EXTENT = 6, 1 << 16
# An image, the weights of a convolution that only mixes its channels, one number per channel.
_LAYER = (("f32", (2, 8, 8, 4)), ("f32", (1, 1, 4, 4)), ("f32", (4,)))
_PROBES = (
    ("f32", (4, 4)), ("bool", (4, 4)), ("i32", (4, 4)), ("f32", (4,)), ("f32", ()), ("i64", ()), ("bool", ()),
    ("f32", (2, 8, 8, 4)), ("f32", (3, 3, 4, 4)), ("f32", (2, 8, 4)), ("f32", (4, 4, 4)), ("f32", (4, 4, 4, 4)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Declined:
    """Returned by a rule that leaves its match alone."""

    why: str


@dataclass(frozen=True, slots=True)
class Match:
    """One match: ``root`` (the node to replace), ``values`` by variable, the ``nodes`` covered, a Builder ``op``."""

    root: Node
    values: Env
    nodes: tuple[Node, ...]
    op: Builder

    @property
    def graph(self) -> Graph:
        """The graph, or region, that the match lies in."""
        return self.op.graph

    @property
    def result(self) -> Value:
        """The value to be replaced."""
        return self.root.results[0]

    def decline(self, why: str) -> Declined:
        """Leave this match alone; statistics and ``explain`` show the reason."""
        return Declined(why)

    def const(self, value: Value) -> np.ndarray | None:
        """Contents of a constant, else None."""
        return const_array(value)

    def scalar(self, value: Value) -> Any:
        """The one element that a constant repeats, as a Python scalar, else None."""
        element = splat_scalar(value)
        return None if element is None else element.item()

    def number(self, value: Value) -> int | float | None:
        """The finite number that a constant repeats, else None."""
        found = self.scalar(value)
        return found if found is not None and not isinstance(found, bool) and math.isfinite(found) else None


class Rewrite(Pass):
    """A rule. ``apply(graph)`` rewrites a copy up to a fixpoint; a pipeline takes it as a pass."""

    def __init__(
        self, pattern: Pattern, build: Callable[[Match], Any], name: str, numerics: str, closed: bool = False
    ) -> None:
        super().__init__(name, numerics)
        self.pattern = pattern
        self.build = build
        self.closed = closed
        self.function: Callable[..., Any] | None = None
        self.roots = roots_of(pattern.root)
        self.reach = depth(pattern.root) if closed else 1

    def run(self, graph: Graph, ctx: PassContext) -> None:
        drive(graph, [self], ctx)

    def attempt(self, node: Node, ctx: PassContext) -> Sequence[Value] | None:
        """See driver.LocalRule."""
        if len(node.results) != 1:
            return None
        reason = ""
        for env, nodes in islice(match(self.pattern.root, node.results[0], {}), _MATCHES_TRIED):
            value = self._build(node, env, nodes)
            if isinstance(value, Value):
                return (value,)
            reason = reason or value.why
        if reason:
            ctx.decline(node, reason)
        return None

    def _build(self, node: Node, env: Env, nodes: tuple[Node, ...]) -> Value | Declined:
        assert node.graph is not None
        origin = Origin.merge([n.origin for n in nodes], self.name)
        mark, old = node.previous, node.results[0]
        made_by = Builder(node.graph, node, origin)
        value = self._open(node, nodes) or self.build(Match(node, env, nodes, made_by))
        if isinstance(value, Declined):
            return value
        if isinstance(value, (bool, int, float)):
            value = made_by.full(old.shape, value, old.dtype)
        if not isinstance(value, Value):
            raise RewriteError(f"rule {self.name!r} returned {type(value).__name__}; return a value or m.decline(why)")
        if value.producer.graph is not node.graph:
            raise RewriteError(f"rule {self.name!r} returned a value of another graph")
        if value is old:
            return Declined("the replacement is the value itself")
        if not refines(value.type, old.type):
            return Declined(f"the replacement has type {value.type}, the match {old.type}")
        made = made_before(node, mark)
        for n in made:
            if n.origin == Origin():
                n.origin = origin
        return self._worth(node, nodes, made) or value

    def _open(self, root: Node, nodes: tuple[Node, ...]) -> Declined | None:
        """Of a rule on closed matches: a value inside that others read, which the replacement would compute again."""
        inside = set(nodes)
        inner = (n for n in nodes if self.closed and n is not root)
        shared = next((n for n in inner if any(user not in inside for v in n.results for user, _ in v.uses)), None)
        return None if shared is None else Declined(_has_readers(shared))

    def _worth(self, root: Node, nodes: tuple[Node, ...], made: list[Node]) -> Declined | None:
        """Inner values that others read stay computed: then the rewrite must not add work."""
        inside = set(nodes)
        kept = [n for n in nodes if n is not root and any(user not in inside for v in n.results for user, _ in v.uses)]
        work = sum(n.op.kind not in ("source", "view") for n in made)
        if kept and work > len(nodes) - len(kept):
            return Declined(_has_readers(kept[0]))
        return None

    def __repr__(self) -> str:
        return f"<rewrite {self.name}: {self.pattern.text} ({self.numerics})>"


class RuleSet(Pass):
    """Several rules applied together up to one fixpoint. Its numerics are the loosest of theirs.

    ``more`` adds local rules that are no patterns: bit exact, or up to the sign of zero in a set that is no stricter.
    """

    def __init__(self, name: str, rules: Iterable[Rewrite], more: Iterable[LocalRule] = ()) -> None:
        self.rules = list(rules)
        self.all: list[LocalRule] = [*self.rules, *more]
        super().__init__(name, loosest(r.numerics for r in self.rules))

    def run(self, graph: Graph, ctx: PassContext) -> None:
        drive(graph, self.all, ctx)


@overload
def rewrite(
    pattern: Callable[..., Any], replacement: Callable[..., Any], *, numerics: str, name: str | None = None,
    closed: bool = False,
) -> Rewrite: ...  # fmt: skip


@overload
def rewrite(
    pattern: Callable[..., Any], replacement: None = None, *, numerics: str, name: str | None = None,
    closed: bool = False,
) -> Callable[[Callable[..., Any]], Rewrite]: ...  # fmt: skip


def rewrite(
    pattern: Callable[..., Any],
    replacement: Callable[..., Any] | None = None,
    *,
    numerics: str,
    name: str | None = None,
    closed: bool = False,
) -> Rewrite | Callable[[Callable[..., Any]], Rewrite]:
    """A rule from two functions, or a decorator for ``f(m, x, ...)`` when ``replacement`` is left out.

    ``pattern`` is traced: ``fw.op``, operators and Python scalars, which match constants of any broadcastable shape.
    ``replacement`` gets the matched values and returns one of an equal or finer type. The decorated function gets the
    Match first and returns a value or ``m.decline(why)``. ``numerics`` is exact, ulp(n), nsz, reassoc or approx.
    ``closed`` rules decline where a value inside the match has readers outside.

    Raises RewriteError when the rule is wrong as declared.
    """
    check_numerics(numerics)
    traced = trace(pattern)
    if replacement is not None:
        chosen, order = replacement, _bound(traced, parameters(replacement), "the replacement")
        rule = Rewrite(traced, lambda m: chosen(*map(m.values.get, order)), name or traced.text, numerics, closed)
        check_declared(rule)
        return rule
    return lambda function: _conditional(traced, function, numerics, name, closed)


def _conditional(
    pattern: Pattern, function: Callable[..., Any], numerics: str, name: str | None, closed: bool
) -> Rewrite:
    order = _bound(pattern, parameters(function)[1:], "the function after its match")
    build: Callable[[Match], Any] = lambda m: (rule.function or function)(m, *map(m.values.get, order))
    rule = Rewrite(pattern, build, name or function.__name__, numerics, closed)
    rule.function, rule.__doc__ = function, function.__doc__
    return rule


def _bound(pattern: Pattern, names: tuple[str, ...], taker: str) -> tuple[str, ...]:
    """The pattern's variables in the order in which ``taker`` wants them: by name, or by place if no name is shared.

    Raises RewriteError for anything between the two: some names would then stand for other values than they say.
    """
    if set(names) <= set(pattern.names):
        return names
    if len(names) == len(pattern.names) and not set(names) & set(pattern.names):
        return pattern.names
    raise RewriteError(
        f"the pattern takes ({', '.join(pattern.names)}), {taker} ({', '.join(names)}): give both the same names"
    )


def instantiate(pattern: Placeholder, b: Builder, env: Env) -> Value:
    """Build the pattern (the first of several) over the values and attributes of ``env``. Raises TypeRefused."""
    if isinstance(pattern, Var):
        value: Value = env[pattern.name]
        return value
    if isinstance(pattern, OneOf):
        return instantiate(pattern.options[0], b, env)
    if not isinstance(pattern, Apply):
        raise RewriteError(f"{describe(pattern)} alone has no type")
    operands = [o.value if isinstance(o, Scalar) else instantiate(o, b, env) for o in pattern.operands]
    if not any(isinstance(o, Value) for o in operands):
        raise TypeRefused("an op over scalars only")
    attrs = {
        k: env[v.name] if isinstance(v, Var) else v.value if isinstance(v, Scalar) else v
        for k, v in pattern.attrs.items()
    }
    return b.apply(pattern.op, operands, attrs)[pattern.index]


def check_declared(rule: Rewrite) -> None:
    """Try the rule on drawn types. Raises RewriteError if the replacement never has the pattern's type."""
    pattern, refusal = rule.pattern, ""
    if any(v is ... or isinstance(v, Var) for v in _attr_values(pattern.root)):
        return
    root = pattern.root.options[0] if isinstance(pattern.root, OneOf) else pattern.root
    names = tuple(dict.fromkeys(variables(root)))
    for types in islice(_probe_types(len(names), *_named_in(root)), _PROBES_TRIED):
        b = Builder()
        env = {n: b.input(n, *t) for n, t in zip(names, types)}
        try:
            old = instantiate(root, b, env)
        except TypeRefused:
            continue
        try:
            new = rule.build(Match(old.producer, env, (old.producer,), b))
        except FusewrightError as error:
            refusal = refusal or f"the replacement does not type: {error}"
            continue
        if not isinstance(new, Value) or refines(new.type, old.type):
            return
        given = ", ".join(f"{n}: {v.type}" for n, v in env.items())
        refusal = refusal or f"for {given} the pattern has type {old.type}, the replacement {new.type}"
    if refusal:
        raise RewriteError(f"rule {rule.name!r}: {refusal}")


def _probe_types(
    n: int, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[DType]
) -> Iterable[tuple[tuple[str, tuple[int, ...]], ...]]:
    named = [(dt, shape) for shape in shapes for dt in ("f32", "i32", "bool")]
    for probe in (*_PROBES, *named, *((dt.name, shape) for dt in dtypes for shape in ((4, 4), (4,), (2, 8, 8, 4)))):
        yield (probe,) * n
    if 2 <= n <= 4:
        yield from product(_LAYER, repeat=n)
        yield from product(_PROBES[:4], repeat=n)


def _named_in(root: Placeholder) -> tuple[list[tuple[int, ...]], list[DType]]:
    """Shapes and types that a pattern itself names: where it slices to (2, 3), a value of that shape may be all."""
    shapes: dict[tuple[int, ...], None] = {}
    dtypes: dict[DType, None] = {}
    for v in _attr_values(root):
        given = v.value if isinstance(v, Scalar) else v
        if isinstance(given, (tuple, list)) and all(isinstance(d, int) and 0 <= d <= _EXTENT for d in given):
            shapes[tuple(given)] = None
        elif isinstance(given, DType) or isinstance(given, str) and given in DTYPES:
            dtypes[dtype(given)] = None
    return list(shapes)[:_SHAPES], list(dtypes)


def _attr_values(p: Placeholder) -> Iterable[Any]:
    if isinstance(p, Apply):
        yield from p.attrs.values()
    for inner in below(p):
        yield from _attr_values(inner)


def _has_readers(inner: Node) -> str:
    return f"%{inner.results[0].name or inner.op.name} inside the match has other users"
