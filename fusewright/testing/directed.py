"""Graphs that a pass has something to do in: its own left-hand sides, and what only looks like them.

Owns samplers made from patterns and from root ops, and near misses of a pattern. Must not know how a graph is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..core.dtypes import BF16, BOOL, DTYPES, F32, FLOATS, DType
from ..core.errors import FusewrightError, RewriteError, TypeRefused
from ..ir import OPS, Graph, Node, TensorType, Value
from ..ir.opdef import REQUIRED
from ..passes import Pipeline, Rewrite, RuleSet
from ..passes.engine.base import Pass
from ..passes.engine.pattern import Apply, OneOf, Pattern, Placeholder, Scalar, Var, below, trace
from . import samples
from .draw import Draw
from .graphs import CONTROL_SAMPLERS, PREFERS, SAFE_ECHO, SAMPLERS, Maker, Options, chosen, domain, from_hint, plain
from .likes import LIKES

Sampler = Callable[[Maker], Any]
TRIES = 12
# What surrounds a pattern: cheap to interpret, and each has broken a pass somewhere.
AROUND = (
    "add", "sub", "mul", "neg", "relu", "abs", "maximum", "where", "lt", "cast", "reshape", "transpose", "slice",
    "concat", "reduce_sum", "reduce_max", "exp", "broadcast_to",
)  # fmt: skip
KNOBS = ("none", "second user", "interior output", "attribute", "scalar", "variable", "order")
_AXES = ("perm", "axes", "axis", "starts", "low", "shape")
NEAR = tuple(k for k in KNOBS if k != "none")


class _Given(Maker):
    """A maker whose first operands are decided: a sampler gets these when it asks, or fails and is tried again."""

    __slots__ = ("busy", "known", "queue")

    def __init__(self, m: Maker, queue: Sequence[Value | None]) -> None:
        super().__init__(m.draw, m.options, m.depth, m.b, m.values, m.made, m.refused, m.prefer, m.fixed, m.cube)
        self.known, self.queue = list(queue), list(queue)
        self.busy = False

    def _ask(self, fits: Callable[[Value], bool], otherwise: Callable[[], Value]) -> Value:
        if self.busy or not self.queue:
            return otherwise()
        v = self.queue.pop(0)
        if v is not None:
            if not fits(v):
                raise TypeRefused("the operand that is given does not fit")
            return v
        self.busy = True
        try:
            return otherwise()
        finally:
            self.busy = False

    def value(
        self,
        dtypes: Sequence[DType] | None = None,
        ranks: tuple[int, int] = (0, 5),
        accept: Callable[[Value], bool] = lambda v: True,
        make: Callable[[int], Sequence[Any]] | None = None,
        new: float = 0.2,
    ) -> Value:
        def fits(v: Value) -> bool:
            return (dtypes is None or v.dtype in dtypes) and ranks[0] <= v.rank <= ranks[1] and accept(v)

        return self._ask(fits, lambda: Maker.value(self, dtypes, ranks, accept, make, new))

    def of_type(self, type_: TensorType) -> Value:
        return self._ask(lambda v: v.type is type_, lambda: Maker.of_type(self, type_))

    def like(self, v: Value, element: DType | None = None) -> Value:
        return self._ask(
            lambda w: w.dtype is (v.dtype if element is None else element), lambda: Maker.like(self, v, element)
        )

    def new(self, element: DType, shape: Sequence[Any], constant: bool | None = None, constants: float = 0.4) -> Value:
        want = TensorType(element, shape)
        return self._ask(lambda w: w.type is want, lambda: Maker.new(self, element, shape, constant, constants))

    def weights(self, type_: TensorType) -> Value:
        return self._ask(lambda v: v.type is type_, lambda: Maker.weights(self, type_))

    def given(self, index: int) -> Value | None:
        at = index - len(self.known) + len(self.queue)
        return self.queue[at] if 0 <= at < len(self.queue) else None

    def find(self, accept: Callable[[Value], bool]) -> Value | None:
        return None if self.queue and not self.busy else super().find(accept)


@dataclass(slots=True)
class _Growth:
    """One attempt to build a pattern: variables bound so far, the values of inner nodes, the knob turned."""

    m: Maker
    knob: str
    env: dict[str, Value] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    shared: dict[Placeholder, Value] = field(default_factory=dict)
    chosen: dict[Placeholder, Placeholder] = field(default_factory=dict)
    inner: list[Value] = field(default_factory=list)
    turned: bool = False
    # Attributes that the pattern leaves open, by the op that has drawn them last.
    drawn: dict[str, dict[str, Any]] = field(default_factory=dict)

    def turn(self, knob: str, share: float = 0.6) -> bool:
        """The near miss is due here."""
        if self.knob != knob or self.turned or not self.m.draw.chance(share):
            return False
        self.turned = True
        return True

    def build(self, p: Placeholder) -> Value:
        """A part that the pattern names once and uses twice is mostly one value."""
        if p in self.shared and not self.m.draw.chance(0.2):
            return self.shared[p]
        out = self.apply(self._decided(p))
        self.shared.setdefault(p, out)
        return out

    def _decided(self, p: Placeholder) -> Any:
        while isinstance(p, OneOf):
            if p not in self.chosen or self.turn("variable", 0.2):
                self.chosen[p] = self.m.draw.pick(p.options)
            p = self.chosen[p]
        return p

    def apply(self, p: Apply) -> Value:
        p = Apply(p.op, tuple(map(self._decided, p.operands)), p.attrs, p.index)
        known: list[Value | None] = []
        outer, self.m.prefer = self.m.prefer, PREFERS.get(p.op.name, self.m.prefer)
        try:
            return self._apply(p, known)
        finally:
            self.m.prefer = outer

    def _apply(self, p: Apply, known: list[Value | None]) -> Value:
        for o in p.operands:
            if isinstance(o, Apply):
                known.append(self.build(o))
            elif isinstance(o, Var) and o.name in self.env and not self.turn("variable"):
                known.append(self.env[o.name])
            else:
                known.append(None)
        operands, proposed = self._operands(p, known)
        attrs = {k: v for k, v in proposed.items() if k in p.op.attrs}
        for name, default in p.op.attrs.items():
            given = p.attrs.get(name, default)
            if isinstance(given, Var):
                given = self.attrs.get(given.name, ...)
            given = given.value if isinstance(given, Scalar) else given
            if name in p.attrs and given is ... or given is REQUIRED:
                continue
            if not self.turn("attribute", 0.5):
                attrs[name] = given
        self._repeat(p, operands, attrs)
        if self.turn("order") and len(operands) > 1:
            operands = [operands[1], operands[0], *operands[2:]]
        out: Value = self.m.emit(p.op.name, *operands, **attrs)[p.index]
        for name, given in p.attrs.items():
            if isinstance(given, Var):
                self.attrs.setdefault(given.name, out.producer.attrs[name])
        for o, v in zip(p.operands, operands):
            if isinstance(o, Var):
                self.env.setdefault(o.name, v)
        self.inner.append(out)
        return out

    def _repeat(self, p: Apply, operands: Sequence[Value], attrs: dict[str, Any]) -> None:
        """Now and then what the pattern leaves open is as it was in the last op of the kind: rules ask for that."""
        opened = {k: attrs[k] for k, given in p.attrs.items() if given is ... and k in attrs}
        last = self.drawn.get(p.op.name, {})
        if opened and opened.keys() == last.keys() and self.m.draw.chance(0.4):
            if SAFE_ECHO.get(p.op.name, lambda o, a: True)(operands, {**attrs, **last}):
                attrs.update(last)
        self.drawn[p.op.name] = {k: attrs[k] for k in opened}

    def _operands(self, p: Apply, known: list[Value | None]) -> tuple[list[Value], dict[str, Any]]:
        if p.op.kind == "elementwise":
            operands = self._elementwise(p, known)
            return operands, {k: self._attribute(operands[0], v) for k, v in p.op.attrs.items()}
        sampler = SAMPLERS.get(p.op.name) or from_hint(p.op) or plain(p.op)
        if sampler is None:
            raise RewriteError(f"{p.op.name} has no sampler; give its OpDef a sample hint")
        return self._sampled(p, known, sampler)

    def _attribute(self, x: Value, default: Any) -> Any:
        """A value for an attribute that the pattern leaves open: types go back to where they came from, or on."""
        if default is REQUIRED:
            before = [v.dtype for v in x.producer.operands]
            if self.m.draw.chance(0.4):
                return self.m.draw.pick([d for d in DTYPES.values() if d.kind == x.dtype.kind])
            return self.m.draw.pick((*before, F32, *DTYPES.values()) if self.m.draw.chance(0.6) else (*before, F32))
        if isinstance(default, bool):
            return self.m.draw.chance(0.5)
        return self.m.draw.pick((default, 0.5, 2.0)) if isinstance(default, float) else default

    def _elementwise(self, p: Apply, known: list[Value | None]) -> list[Value]:
        m, where = self.m, p.op.name == "where"
        dtypes: Sequence[DType] | None = None if where or p.op.name == "cast" else domain(p.op)
        if p.op.name == "cast":
            dtypes = m.draw.pick((None, FLOATS, tuple(DTYPES.values())))
        wide = [v for i, v in enumerate(known) if v is not None and not (where and i == 0)]
        base = wide[0] if wide else None
        for i, o in enumerate(p.operands):
            if base is None and isinstance(o, Var) and not (where and i == 0):
                base = known[i] = self._variable(dtypes, None)
                self.env[o.name] = base
        if base is None:
            base = m.value(dtypes)
        out = []
        for i, (o, v) in enumerate(zip(p.operands, known)):
            element = BOOL if where and i == 0 else base.dtype
            if v is None and isinstance(o, Var) and o.name in self.env and self.knob != "variable":
                v = self.env[o.name]
            if v is None:
                v = self._scalar(o.value, base, element) if isinstance(o, Scalar) else self._variable((element,), base)
            if isinstance(o, Var):
                self.env.setdefault(o.name, v)
            out.append(v)
        return out

    def _variable(self, dtypes: Sequence[DType] | None, base: Value | None) -> Value:
        """Any value: an input or inner value, or (rules often ask for that) a constant of one number."""
        m = self.m
        if base is None:
            return m.value(dtypes, new=0.5)
        element = dtypes[0] if dtypes else base.dtype
        if base.rank and isinstance(base.shape[-1], int) and m.draw.chance(0.25):
            # One number per channel, as scales and shifts have.
            shape = (base.shape[-1],) if m.draw.chance(0.7) else (base.shape[-1], *(1,) * m.draw.integer(0, 2))
            return m.new(element, shape, constants=0.8)
        if m.draw.chance(0.4):
            options = (0, 1, 2, 6, -1, 0.5, -0.0, 4, 3, -2, 8) if element.is_float else (0, 1, 2, 3, 4, 6)
            return self._splat(m.draw.pick(options), base, element)
        return m.like(base, element)

    def _scalar(self, value: Any, base: Value, element: DType) -> Value:
        if self.turn("scalar"):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            value = self.m.draw.pick((-value, value + 1, value * 2 + 0.5) if number else (not value,))
            if element.is_int:
                value = int(value)
        return self._splat(value, base, element)

    def _splat(self, value: Any, base: Value, element: DType) -> Value:
        """A constant of one number: 0-d, of one element, as large as ``base``, or larger than it."""
        m = self.m
        how = m.draw.pick(("0-d", "0-d", "one", "same", "wider", "column"))
        static = all(isinstance(d, int) for d in base.shape)
        shape: tuple[Any, ...] = ()
        if how == "one":
            shape = (1,) * m.draw.integer(1, max(base.rank, 1))
        elif how == "same" and static:
            shape = base.shape
        elif how == "wider" and static and base.rank < 4:
            shape = (m.draw.pick((2, 3)), *base.shape)
        elif how == "column" and static and base.rank:
            shape = tuple(3 if d == 1 else d for d in base.shape)
        if not m.fits(shape):
            shape = ()
        if element.is_int and isinstance(value, float):
            value = int(value)
        stored = np.float32 if element is BF16 else element.np
        with np.errstate(all="ignore"):
            array = np.asarray(value).astype(stored)
        if m.draw.chance(0.7):
            return m.b.constant(np.full(shape, array, stored), element)
        one = m.b.constant(array, element).const
        assert one is not None
        return m.b.constant(type(one)(np.broadcast_to(one.array, shape), element))

    def _sampled(self, p: Apply, known: list[Value | None], sampler: Sampler) -> tuple[list[Value], dict[str, Any]]:
        given = _Given(self.m, known)
        before = self.m.b.graph.nodes._last
        sampler(given)
        node = self.m.b.graph.nodes._last
        if node is None or node is before or node.op is not p.op:
            raise TypeRefused("the sampler made another op")
        operands, attrs = list(node.operands), dict(node.attrs)
        if len(operands) != len(p.operands) or any(k is not None and k is not v for k, v in zip(known, operands)):
            raise TypeRefused("the sampler used other operands")
        for v in node.results:
            self.m.values.remove(v)
        self.m.made.remove(node)
        self.m.b.graph.erase(node)
        for i, o in enumerate(p.operands):
            if isinstance(o, Scalar):
                operands[i] = self.m.b.full(operands[i].shape, o.value, operands[i].dtype)
        return operands, attrs


def _names_axes(p: Placeholder) -> bool:
    """Axes are open in the pattern: a rule that takes the wrong one keeps the type of what has equal extents."""
    own = p.attrs.items() if isinstance(p, Apply) else ()
    return any(k in _AXES and (v is ... or isinstance(v, Var)) for k, v in own) or any(map(_names_axes, below(p)))


def instance(m: Maker, pattern: Pattern, knob: str = "none") -> Value:
    """Build ``pattern`` over drawn operands, or something near it. Raises TypeRefused when no try fits."""
    cubes = 0.35 if _names_axes(pattern.root) else 0.05
    for _ in range(TRIES):
        mark, values, made = m.b.graph.nodes._last, len(m.values), len(m.made)
        growth = _Growth(m, knob)
        m.fixed = m.draw.chance(0.15)
        m.cube = m.draw.pick((2, 3)) if m.draw.chance(cubes) else 0
        try:
            root = growth.build(pattern.root)
        except TypeRefused:
            _undo(m, mark, values, made)
            continue
        finally:
            m.fixed, m.cube = False, 0
        inner = [v for v in growth.inner if v is not root]
        if knob == "second user" and inner:
            other = m.draw.pick(inner)
            m.values += m.emit("neg" if other.dtype.is_float else "reshape", other, **_plain(other))
        if knob == "interior output" and inner:
            m.values.append(m.draw.pick(inner))
        m.values.append(root)
        return root
    raise TypeRefused("no operands of this pattern's kind")


def _plain(v: Value) -> dict[str, Any]:
    return {} if v.dtype.is_float else {"shape": v.shape}


def _undo(m: Maker, mark: Node | None, values: int, made: int) -> None:
    """Take back a failed attempt; inputs that it made go as well."""
    del m.values[values:]
    del m.made[made:]
    nodes = m.b.graph.nodes
    while nodes._last is not None and nodes._last is not mark:
        node = nodes._last
        m.b.graph.inputs = [v for v in m.b.graph.inputs if v.producer is not node]
        m.b.graph.erase(node)


def from_pattern(pattern: Pattern) -> Sampler:
    """A sampler of a pattern: half of the time itself, else one of its near misses."""

    def sample(m: Maker) -> Value:
        return instance(m, pattern, m.draw.pick(NEAR) if m.draw.chance(0.5) else "none")

    return sample


def in_region(pattern: Pattern) -> Sampler:
    """The pattern inside the body of a scan, where passes that look at the outermost graph only never come."""

    def sample(m: Maker) -> Any:
        x = m.value(ranks=(1, 3))

        def body(r: Maker, inputs: list[Value]) -> list[Value]:
            return [instance(r, pattern)]

        region = m.region([x.type.with_shape(x.shape[1:])], body)
        return m.emit("scan", x, regions=[region], n_carry=0, n_xs=1)

    return sample


def patterns_of(p: Any) -> Iterator[Pattern]:
    """Every pattern that a rule, a set of them or a pipeline is made of."""
    if isinstance(p, Rewrite):
        yield p.pattern
    elif isinstance(p, RuleSet):
        for rule in p.rules:
            yield rule.pattern
    elif isinstance(p, Pipeline):
        for name in p.names:
            yield from patterns_of(p[name])


def _roots(p: Any) -> Iterable[str]:
    """Ops at which rules start that are no patterns."""
    if isinstance(p, RuleSet):
        for rule in p.all:
            if not isinstance(rule, Rewrite):
                yield from sorted(rule.roots)  # a set: its own order is another one in each process
    elif isinstance(p, Pipeline):
        for name in p.names:
            yield from _roots(p[name])


def _names(p: Any) -> Iterable[str]:
    return p.names if isinstance(p, Pipeline) else (p.name,)


def _chain(name: str) -> Sampler:
    """An op behind one of its own kind, or behind movement: what rules on pairs look for."""

    def sample(m: Maker) -> Any:
        sampler = SAMPLERS.get(name) or from_hint(OPS[name])
        if sampler is None:
            raise TypeRefused(f"{name} has no sampler")
        first = m.draw.pick((name, "transpose", "reshape", "pad", "broadcast_to"))
        (SAMPLERS.get(first) or sampler)(m)
        newest = m.values[-1]
        return sampler(_Given(m, [newest])) if m.draw.chance(0.7) else sampler(m)

    return sample


@dataclass(frozen=True, slots=True)
class Recipe:
    """How graphs for one pass are drawn. ``graph(draw, size)``: a graph of about ``size`` nodes around a pattern."""

    injected: tuple[Sampler, ...]
    options: Options
    around: tuple[Sampler, ...]
    everything: tuple[Sampler, ...]

    def graph(self, draw: Draw, size: int) -> Graph:
        """A graph; the first node is a pattern's most of the time, and an output as often as not."""
        options = replace(self.options, max_nodes=size, inject=self.injected, injected=0.4 if self.injected else 0.0)
        m = Maker(draw, options)
        root: Any = None
        if not self.injected or draw.chance(0.4):
            m.grow(draw.integer(1, max(size // 2, 1)), self.around)
        if self.injected:
            try:
                root = draw.pick(self.injected)(m)
            except TypeRefused:
                root = None
        m.grow(size, self.everything if draw.chance(0.3 if self.injected else 0.6) else self.around)
        if isinstance(root, Value) and draw.chance(0.6):
            m.values.append(root)
        return m.finish()


def recipe(
    p: Pass | Pipeline, like: Sequence[Pattern] = (), ops: Sequence[str] | None = None, extra: Sequence[Sampler] = ()
) -> Recipe:
    """How to draw graphs for ``p``. ``like`` adds patterns, ``extra`` samplers; ``ops`` limits what surrounds them."""
    own = [*patterns_of(p), *(trace(f) for name in _names(p) for f in LIKES.get(name, ()))]
    # What the caller asks for comes at least as often as what the pass itself says.
    found = [*own, *like]
    injected: list[Sampler] = [from_pattern(q) for q in (*own, *(tuple(like) * max(1, len(own) // max(len(like), 1))))]
    injected += list(extra) * max(1, len(found) // max(len(extra), 1))
    injected += [in_region(q) for q in found[:: max(len(found) // 4, 4)]] if len(found) > 1 else []
    injected += [_chain(name) for name in dict.fromkeys(_roots(p)) if name in OPS]
    # Without a pattern to go by, repeated and nearly repeated nodes are what passes look for most.
    options = Options(ops=ops, dtypes=(*(F32,) * 6, *Options().dtypes), echo=0.3 if found else 0.4)
    around = chosen(replace(options, ops=ops or AROUND))
    everything = chosen(options)
    everything += [s for s in everything if s in CONTROL_SAMPLERS] * 4
    if not around:
        raise FusewrightError("no op is left to draw")
    return Recipe(tuple(injected), options, tuple(around), tuple(everything))


__all__ = ["KNOBS", "Recipe", "from_pattern", "in_region", "instance", "patterns_of", "recipe", "samples"]
