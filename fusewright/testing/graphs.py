"""Random typed graphs: one builder, driven by Hypothesis or by a seed.

Owns the growth of a graph: inputs, constants, operands, echoes, outputs. How each op is sampled is in samples*.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..core.dims import Dim, Extent, evaluate, symbol, symbols
from ..core.dtypes import BF16, BOOL, DTYPES, F16, F32, F64, FLOATS, I8, I32, I64, U8, DType, encode
from ..core.errors import FusewrightError, TypeRefused
from ..ir import OPS, Builder, Graph, Node, OpDef, Origin, TensorType, Value
from ..ir.opdef import REQUIRED
from ..ir.scope import DEFINES, defined, is_live
from .draw import Draw, HypothesisDraw, SeededDraw
from .feeds import contents

EXTENTS = (2, 3, 1, 4, 0, 5, 7, 8, 16, 17, 33, 1, 2, 3)
DTYPE_WEIGHTS = (F32,) * 8 + (I32, I32, BOOL, I64, F64, F16, BF16, U8, I8)
# The largest value a symbol takes where sizes are capped.
SYMBOL_TOP = 8


@dataclass(frozen=True, slots=True)
class Options:
    """What may be generated. ``ops`` None means every op of the table.

    ``inject`` holds further samplers, each ``(maker) -> anything`` and picked with share ``injected``: a rewrite's own
    left-hand side and its near-misses, spliced into a graph, are found where blind generation needs thousands.
    """

    max_nodes: int = 12
    ops: Sequence[str] | None = None
    symbols: bool = True
    control: bool = True
    echo: float = 0.25
    max_elements: int = 2048
    dtypes: Sequence[DType] = DTYPE_WEIGHTS
    dead_code: bool = True
    inject: Sequence[Callable[[Maker], Any]] = ()
    injected: float = 0.25


@dataclass(slots=True)
class Maker:
    """A graph under construction. Samplers ask it for operands and emit ops through it."""

    draw: Draw
    options: Options
    depth: int = 0
    b: Builder = field(default_factory=Builder)
    values: list[Value] = field(default_factory=list)
    made: list[Node] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    # The shape that a pattern's outer op asks of new values further in.
    prefer: Callable[[Maker], Sequence[Extent]] | None = None
    # New values are constants, as what folding looks for.
    fixed: bool = False
    # The extent of every axis of new values (0: drawn): where axes cannot be told apart by type, only values can.
    cube: int = 0

    # Types.
    def size(self, shape: Sequence[Extent]) -> int:
        """Elements when every symbol is at its largest."""
        total = 1
        for d in shape:
            total *= evaluate(d, _TopEnv()) if isinstance(d, Dim) else d
        return total

    def fits(self, shape: Sequence[Extent]) -> bool:
        """The shape is small enough to generate."""
        return self.size(shape) <= self.options.max_elements

    def extent(self, static: bool = True, least: int = 0) -> Extent:
        """An axis: mostly an int, sometimes a symbol."""
        if not static and self.options.symbols and self.draw.chance(0.2):
            return symbol(self.draw.pick(("N", "M")))
        return self.draw.pick([e for e in EXTENTS if e >= least])

    def shape(self, rank: int, static: bool = False, least: int = 0) -> tuple[Extent, ...]:
        """A shape of ``rank`` axes under the cap."""
        if self.cube and self.cube >= least and self.draw.chance(0.9):
            return (self.cube,) * rank
        shape = [self.extent(static, least) for _ in range(rank)]
        while not self.fits(shape):
            i = max(range(rank), key=lambda k: self.size([shape[k]]))
            shape[i] = max(least, 2)
        return tuple(shape)

    def dtype(self, among: Sequence[DType] | None = None) -> DType:
        """An element type, float32 most often."""
        options = [d for d in self.options.dtypes if among is None or d in among]
        return self.draw.pick(options or list(among or (F32,)))

    # Values.
    def new(
        self, element: DType, shape: Sequence[Extent], constant: bool | None = None, constants: float = 0.4
    ) -> Value:
        """A fresh value of a type: an input, or (share ``constants``) a constant."""
        static = all(isinstance(d, int) for d in shape)
        if not static and any(s in defined(self.b.graph) for d in shape if isinstance(d, Dim) for s in symbols(d)):
            constant = True  # an input cannot have an extent that is bound during the run
        if constant is None:
            constant = self.depth > 0 or static and (self.fixed or self.draw.chance(constants))
        if not constant and not self.depth:
            v = self.b.input(f"x{len(self.b.graph.inputs)}", element, shape)
        elif not static:
            v = self.b.full(shape, self.draw.integer(0, 3), element)
        elif self.draw.chance(0.5 if self.fixed else 0.15):
            one = contents(self.draw, element, ())
            v = self.b.constant(_splat(self.b, one, element, shape))
        else:
            v = self.b.constant(contents(self.draw, element, tuple(number(d) for d in shape)), element)
        self.values.append(v)
        return v

    def find(self, accept: Callable[[Value], bool]) -> Value | None:
        """An existing value, counted from the newest, so that deletions keep later references meaningful."""
        found = [v for v in reversed(self.values) if accept(v)]
        return self.draw.pick(found) if found else None

    def value(
        self,
        dtypes: Sequence[DType] | None = None,
        ranks: tuple[int, int] = (0, 5),
        accept: Callable[[Value], bool] = lambda v: True,
        make: Callable[[int], Sequence[Extent]] | None = None,
        new: float = 0.2,
    ) -> Value:
        """An operand: an existing value that fits, or a new one (of shape ``make(rank)``)."""
        found, prefer = None, self.prefer
        if not self.draw.chance(new if prefer is None else 0.7):
            found = self.find(
                lambda v: (
                    (dtypes is None or v.dtype in dtypes)
                    and ranks[0] <= v.rank <= ranks[1]
                    and accept(v)
                    and (not self.cube or v.rank > 2 and {*v.shape} == {self.cube})
                )
            )
        if found is not None:
            return found
        if prefer is not None and self.draw.chance(0.9):
            shape = prefer(self)
            if ranks[0] <= len(shape) <= ranks[1]:
                made = self.new(self.dtype(dtypes), shape, constants=0.1)
                if accept(made):
                    return made
        usual = (3, 4, 3, 2) if self.cube else (2, 1, 2, 3, 0, 4, 2, 1, 5)
        rank = min(max(self.draw.pick(usual), ranks[0]), ranks[1])
        return self.new(self.dtype(dtypes), make(rank) if make else self.shape(rank))

    def given(self, index: int) -> Value | None:
        """The operand that a pattern has decided on, where a sampler has to start from it."""
        return None

    def weights(self, type_: TensorType) -> Value:
        """A second factor: mostly a constant of its own, as in trained models."""
        found = self.find(lambda v: v.type is type_) if self.draw.chance(0.2) else None
        return found if found is not None else self.new(type_.dtype, type_.shape, constants=0.8)

    def of_type(self, type_: TensorType) -> Value:
        """A value of exactly this type: an existing one, or a new one."""
        found = self.find(lambda v: v.type is type_)
        return found if found is not None else self.new(type_.dtype, type_.shape)

    def like(self, v: Value, element: DType | None = None) -> Value:
        """A value that broadcasts against ``v``: the same shape, or with axes dropped or made 1, or of more axes."""
        element = v.dtype if element is None else element
        if self.draw.chance(0.6):
            found = self.find(lambda w: w.dtype is element and _broadcasts(v.shape, w.shape) and self._pair(v, w))
            if found is not None:
                return found
        shape = [1 if self.draw.chance(0.2) else d for d in v.shape[self.draw.integer(0, v.rank) :]]
        if self.draw.chance(0.6):
            shape = list(v.shape)
        elif v.rank < 4 and self.draw.chance(0.15):
            extra = self.draw.pick((2, 1, 3))
            shape = [extra, *v.shape] if self.fits([extra, *v.shape]) else shape
        return self.new(element, shape)

    def _pair(self, v: Value, w: Value) -> bool:
        shape = [max((d for d in pair), key=lambda d: self.size([d])) for pair in _aligned(v.shape, w.shape)]
        return self.fits(shape)

    # Ops.
    def emit(self, op: str, *operands: Any, regions: Sequence[Graph] = (), **attrs: Any) -> Sequence[Value]:
        """Insert an op; its results become operands for others. Raises TypeRefused, also for results over the cap."""
        before = self.b.graph.nodes._last
        try:
            results = self.b.apply(op, operands, attrs, regions)
        except TypeRefused:
            self.refused[op] += 1
            raise
        node = results[0].producer if results else self.b.graph.nodes._last
        if not all(self.fits(v.shape) for v in results):
            if node is not None and node is not before:
                self.b.graph.erase(node)
            raise TypeRefused("over the cap of elements")
        if node is not None:
            self.made.append(node)
            node.origin = Origin(layer=f"op{len(self.made)}", source=op)
        self.values.extend(results)
        return results

    def region(self, types: Sequence[TensorType], body: Callable[[Maker, list[Value]], Sequence[Value]]) -> Graph:
        """A closed region whose inputs have ``types``."""
        inner = Maker(self.draw, replace(self.options, control=False, max_nodes=4), self.depth + 1)
        inputs = [inner.b.input(f"a{i}", t.dtype, t.shape) for i, t in enumerate(types)]
        inner.values += inputs
        out = body(inner, inputs)
        self.refused += inner.refused
        return inner.b.build(*out, names=[f"o{i}" for i in range(len(out))])

    def grow(self, most: int, samplers: Sequence[Callable[[Maker], Any]]) -> None:
        """Add up to ``most`` ops. Going on is the draw's decision, stopping its simplest value."""
        for _ in range(most):
            if not self.draw.chance(0.875):
                return
            try:
                if self.options.inject and not self.depth and self.draw.chance(self.options.injected):
                    self.draw.pick(self.options.inject)(self)
                elif self.made and self.draw.chance(self.options.echo):
                    self.echo() if self.draw.chance(0.75) else self.again()
                else:
                    self.draw.pick(samplers)(self)
            except TypeRefused:
                continue

    def echo(self) -> None:
        """Repeat a node: exactly, with operands swapped, with one attribute changed, or on its own result."""
        node = self.draw.pick(self.made[::-1])
        operands, attrs = list(node.operands), dict(node.attrs)
        how = self.draw.pick(("same", "self", "swap", "attr", "attr") if attrs else ("same", "self", "swap"))
        if how == "swap" and len(operands) > 1:
            i = self.draw.integer(0, len(operands) - 2)
            operands[i], operands[i + 1] = operands[i + 1], operands[i]
        elif how == "self" and operands and node.results:
            operands[0] = self.draw.pick(node.results)
        elif how == "attr" and attrs:
            name = self.draw.pick(sorted(attrs))
            attrs[name] = _changed(self.draw, attrs[name])
        self.apply_again(node, operands, attrs)

    def again(self) -> None:
        """A constant once more: of the same contents, with one element changed, or with a zero of the other sign."""
        found = self.find(lambda v: v.const is not None and v.type.size != 0)
        if found is None or found.const is None:
            return
        const = found.const
        how = self.draw.pick(("same", "zero", "element", "splat"))
        array = np.array(const.array)
        at = np.unravel_index(self.draw.integer(0, array.size - 1), array.shape)
        if how == "zero":
            array[at] = 0
            self.values.append(self.b.constant(type(const)(array.copy(), const.dtype)))
            if const.dtype.is_float:
                array[at] = encode(np.array(-0.0, np.float32), const.dtype)
        elif how != "same":
            with np.errstate(over="ignore"):
                array[at] = not array[at] if const.dtype is BOOL else array[at] + 1
        if how == "splat" or how == "same" and const.is_splat:
            array = np.broadcast_to(array[at], array.shape)
        other = self.values[-1] if how == "zero" else found
        self.values.append(self.b.constant(type(const)(array, const.dtype)))
        free = self.options.ops is None or "concat" in self.options.ops
        if found.rank and self.draw.chance(0.5) and free:
            # Both are read, so that taking one for the other shows.
            self.emit("concat", other, self.values[-1], axis=0)

    def apply_again(self, node: Node, operands: Sequence[Value], attrs: dict[str, Any]) -> None:
        """Emit a node's op with other operands or attributes, if its domain at run time allows that."""
        if not SAFE_ECHO.get(node.op.name, lambda o, a: True)(operands, attrs):
            raise TypeRefused("not defined for every binding")
        self.emit(node.op.name, *operands, regions=[r.clone() for r in node.regions], **attrs)

    def finish(self) -> Graph:
        """Draw the outputs, name them, and drop dead code unless that is wanted."""
        count = self.draw.pick((1, 2, 1, 3, 4))
        newest = self.values[::-1]
        if not newest:
            newest = [self.new(F32, (2,))]
        outputs = [newest[0]]
        while len(outputs) < count:
            outputs.append(newest[min(self.draw.integer(0, len(newest) - 1), self.draw.integer(0, len(newest) - 1))])
        graph = self.b.build(*outputs, names=[f"y{i}" for i in range(len(outputs))])
        if not (self.options.dead_code and self.draw.chance(0.3)):
            for node in reversed(graph.nodes):
                dead = node.op.name != "return" and not any(v.uses for v in node.results)
                if dead and not (node.op.name == DEFINES and is_live(node, graph)):
                    graph.erase(node)
            graph.inputs = [v for v in graph.inputs if v.uses]
        # A symbol that only inner values have is bound by an input that nothing else reads.
        inner = {s for node in graph.walk() for v in node.results for s in v.type.symbols}
        bound = {str(d) for v in graph.inputs for d in v.shape}
        for name in sorted(inner - bound - set(defined(graph))):
            self.b.input(f"bind_{name}", F32, (name,))
        return graph


def number(d: Extent) -> int:
    """An extent that is known to be an int."""
    assert isinstance(d, int)
    return d


class _TopEnv(dict[str, int]):
    """Every symbol at its largest."""

    def get(self, name: str, default: Any = None) -> int:
        return SYMBOL_TOP


def _splat(b: Builder, one: np.ndarray, element: DType, shape: Sequence[Extent]) -> Any:
    scalar = b.constant(one, element)
    const = scalar.const
    b.graph.erase(scalar.producer)
    assert const is not None
    return type(const)(np.broadcast_to(const.array, tuple(number(d) for d in shape)), element)


def _aligned(a: Sequence[Extent], b: Sequence[Extent]) -> list[tuple[Extent, Extent]]:
    rank = max(len(a), len(b))
    one: tuple[Extent, ...] = (1,)
    return list(zip((*one * (rank - len(a)), *a), (*one * (rank - len(b)), *b), strict=True))


def _broadcasts(a: Sequence[Extent], b: Sequence[Extent]) -> bool:
    return all(x == y or x == 1 or y == 1 for x, y in _aligned(a, b))


def _changed(draw: Draw, value: Any) -> Any:
    """Another value of the same form: one axis over, the other truth value..."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + draw.pick((1, -1))
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        i = draw.integer(0, len(value) - 1)
        if draw.chance(0.5):
            j = draw.integer(0, len(value) - 1)
            return tuple(value[{i: j, j: i}.get(k, k)] for k in range(len(value)))
        return (*value[:i], _changed(draw, value[i]), *value[i + 1 :])
    if isinstance(value, DType):
        return draw.pick(list(DTYPES.values()))
    return value


def _fixed_axis(operands: Sequence[Value], attrs: dict[str, Any]) -> bool:
    """The axis an extreme is taken over must not be empty for any binding."""
    axis = attrs["axis"]
    x = operands[0].shape
    return -len(x) <= axis < len(x) and isinstance(x[axis], int)


def _static(operands: Sequence[Value], attrs: dict[str, Any]) -> bool:
    return all(v.type.is_static for v in operands)


# Ops that some bindings of a symbol put outside their domain, and what to ask before an echo.
SAFE_ECHO: dict[str, Callable[[Sequence[Value], dict[str, Any]], bool]] = {
    "argmax": _fixed_axis,
    "argmin": _fixed_axis,
    "while": lambda operands, attrs: False,
    "symbol_of": lambda operands, attrs: False,  # a symbol is bound once
    **{
        name: _static
        for name in (
            "slice", "pad", "conv", "conv_transpose", "max_pool", "avg_pool", "resize", "top_k", "dynamic_slice",
            "dynamic_update_slice", "conv_blocked", "conv_transpose_blocked", "max_pool_blocked", "avg_pool_blocked",
            "iota", "scan",
        )
    },
}  # fmt: skip


def build(draw: Draw, options: Options, samplers: Sequence[Callable[[Maker], Any]] | None = None) -> Graph:
    """Grow one graph with ``draw``: the builder that both drivers share."""
    maker = Maker(draw, options)
    maker.grow(options.max_nodes, samplers if samplers is not None else chosen(options))
    return maker.finish()


def chosen(options: Options) -> list[Callable[[Maker], Any]]:
    """Samplers for the ops asked for. Raises FusewrightError for a name that is no op."""
    names = list(OPS) if options.ops is None else list(options.ops)
    unknown = [n for n in names if n not in OPS]
    if unknown:
        raise FusewrightError(f"there is no op {unknown[0]!r}")
    table = [SAMPLERS.get(n) or from_hint(OPS[n]) for n in names if n not in ("input", "constant", "return")]
    return [s for s in table if s is not None and (options.control or s not in CONTROL_SAMPLERS)]


def from_hint(op: OpDef) -> Callable[[Maker], Any] | None:
    """A sampler for an op outside the table: its own ``sample`` hint, or the plain form of an elementwise op."""
    if op.sample is not None:
        sample = op.sample

        def hinted(m: Maker) -> Any:
            operands, attrs = sample(m.draw, m.value)
            return m.emit(op.name, *operands, **attrs)

        return hinted
    return elementwise(op) if op.kind == "elementwise" and op.required == len(op.operands) else None


def plain(op: OpDef) -> Callable[[Maker], Any] | None:
    """A sampler for an op of which nothing is known but its types: operands alike, attributes at their defaults.

    Only where a pattern names the op: infer may refuse most of what it is given.
    """
    if not op.required or any(default is REQUIRED for default in op.attrs.values()):
        return None

    def sample(m: Maker) -> Any:
        first = m.value(dtypes=FLOATS if m.draw.chance(0.8) else None, ranks=(1, 4))
        return m.emit(op.name, first, *(m.of_type(first.type) for _ in range(op.required - 1)))

    return sample


_DOMAINS: dict[str, tuple[DType, ...]] = {}


def domain(op: OpDef) -> tuple[DType, ...]:
    """Element types that the op takes in all its operands."""
    if op.name not in _DOMAINS:
        out = []
        for d in DTYPES.values():
            try:
                op.infer([TensorType(d, ())] * len(op.operands), dict(op.attrs), ())
                out.append(d)
            except TypeRefused:
                continue
        _DOMAINS[op.name] = tuple(out)
    return _DOMAINS[op.name]


def elementwise(op: OpDef) -> Callable[[Maker], Any]:
    """The sampler of an elementwise op whose operands share a dtype and broadcast."""

    def sample(m: Maker) -> Any:
        first = m.value(dtypes=domain(op))
        operands = [first, *(m.like(first) for _ in op.operands[1:])]
        if len(operands) > 1 and m.draw.chance(0.3):
            operands.reverse()
        attrs = {k: _float_attr(m.draw, v) for k, v in op.attrs.items()}
        return m.emit(op.name, *operands, **attrs)

    return sample


def _float_attr(draw: Draw, default: Any) -> Any:
    if isinstance(default, bool):
        return draw.chance(0.5)
    return draw.pick((default, 0.5, 2.0)) if isinstance(default, float) else default


# Filled by samples.py, which imports this module.
SAMPLERS: dict[str, Callable[[Maker], Any]] = {}
# What shape an op likes its first operand to have, for patterns that hold other ops between it and their variables.
PREFERS: dict[str, Callable[[Maker], Sequence[Extent]]] = {}
CONTROL_SAMPLERS: list[Callable[[Maker], Any]] = []


def random_graph(seed: int, **options: Any) -> Graph:
    """The graph of a seed; ``options`` are those of ``graphs``."""
    return build(SeededDraw(seed), Options(**options))


def graphs(**options: Any) -> st.SearchStrategy[Graph]:
    """A Hypothesis strategy of typed graphs: ``max_nodes``, ``ops`` (names), ``symbols``, ``control``, ``dtypes``...

    Graphs verify at level 2; extents of symbols are free from 0 on. See Options for all names.
    """
    made = Options(**options)

    @st.composite
    def strategy(draw: Any) -> Graph:
        return build(HypothesisDraw(draw), made)

    return strategy()


__all__ = [
    "CONTROL_SAMPLERS",
    "PREFERS",
    "SAMPLERS",
    "Maker",
    "Options",
    "build",
    "chosen",
    "elementwise",
    "graphs",
    "number",
    "random_graph",
]
