"""TFGraph -> IR: walks what the outputs need, inlines functions, keeps provenance.

Owns scopes, calls, constants that lowering needs, and refusals. Must not know any single op.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.dims import Dim, Extent
from ...core.dtypes import BF16, DType, dtype
from ...core.errors import FusewrightError, ImportRefused, Problem, TypeRefused
from ...ir.builder import Builder
from ...ir.graph import Graph, Value
from ..dependent import Fresh, joined
from ..registry import registered_op
from ..symbols import Unequal, unequal
from .graphdef import Attrs, Ref, TFFunction, TFGraph, TFNode, reachable
from .values import Complex, Dead, Item, ListOf, Resource, Strings, Tensor, Withheld

Lowering = Callable[..., Any]
OPS: dict[str, Lowering] = {}
RAW: set[str] = set()
REFUSED: dict[str, str] = {}
RANDOM: set[str] = set()
# What else to do about a refused op, said before how to register it.
HINTS: dict[str, str] = {}
FOLDS: dict[str, Callable[..., Any]] = {}
# How an op lowers when an operand is complex: ``fn(c, *items)``.
COMPLEX: dict[str, Lowering] = {}
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
FUNCTION_DEPTH = 32
FOLD_ELEMENTS = 1024
CONSTANT_BYTES = 64 << 20


def op(*names: str, raw: bool = False) -> Callable[[Lowering], Lowering]:
    """Register how these ops lower. ``fn(c, *operands)`` gets Values, or items with ``raw``; it returns one or many."""

    def add(fn: Lowering) -> Lowering:
        for name in names:
            OPS[name] = fn
            if raw:
                RAW.add(name)
        return fn

    return add


def fold(*names: str) -> Callable[[Lowering], Lowering]:
    """Register what these ops do to small integer contents: ``fn(c, *object arrays)`` -> object arrays, or None."""

    def add(fn: Lowering) -> Lowering:
        for name in names:
            FOLDS[name] = fn
        return fn

    return add


def called_functions(node: TFNode) -> list[str]:
    """Every function that a node's attributes name."""
    out = []
    for attr in node.attrs.values():
        if "func" in attr:
            out.append(attr["func"].get("name", ""))
        out += [f.get("name", "") for f in attr.get("list", {}).get("func", [])]
    return out


class NeedsConstant(ImportRefused):
    """A refusal that would not be one if the inputs ``inputs`` were bound with feeds=."""

    inputs: tuple[str, ...] = ()


class Scope:
    """The nodes of a graph or of one call of a function, and what is computed already."""

    def __init__(self, nodes: Mapping[str, TFNode], path: str, b: Builder, args: Mapping[str, Item]) -> None:
        self.nodes, self.path, self.b, self.args = nodes, path, b, args
        self.done: dict[str, list[Item]] = {}
        self.bound: dict[tuple[str, int], Item] = {}
        # Whether the nodes become part of a region, whose values nothing outside can use.
        self.region = False


class Ctx(Attrs):
    """One node being lowered: its attributes, a builder, and the readings of operands that lowerings share."""

    def __init__(self, lowerer: Lowerer, node: TFNode, scope: Scope) -> None:
        super().__init__(node, lowerer.limits)
        self.lowerer, self.scope = lowerer, scope
        self.bld: Any = scope.b

    def refuse(self, reason: str, hint: str = "", code: str = "unsupported-op") -> ImportRefused:
        return ImportRefused(code, self.where, f"{self.node.op}: {reason}", hint)

    @property
    def where(self) -> str:
        return f"{self.scope.path}{self.node.name}"

    def v(self, item: Any) -> Value:
        """The operand as a value of the graph."""
        if isinstance(item, Tensor):
            return item.value(self.bld)
        if isinstance(item, Value):
            return item
        if isinstance(item, Withheld):
            if item.unsigned is not None and self.node.op in ("Abs", "Square"):
                return item.unsigned.value(self.bld)
            raise self.refuse(item.reason, item.hint, item.code)
        kinds = {Complex: "complex numbers", Strings: "strings", Resource: "resources", ListOf: "a list of tensors"}
        raise self.refuse(f"does not take {kinds.get(type(item), 'this')} here")

    def tensor(self, item: Any) -> Tensor:
        if isinstance(item, Value):
            return Tensor.of(item)
        if not isinstance(item, Tensor):
            self.v(item)
        return item  # type: ignore[no-any-return]

    def array(self, item: Any, what: str) -> np.ndarray:
        """The operand's contents, which must not depend on an input."""
        t = self.tensor(item)
        if t.content is None:
            t.content = self.lowerer.evaluate(t.value(self.bld), self, what)
        if t.content.dtype == object:
            raise self.refuse(f"{what} depends on a symbolic extent", "fix it with shapes=")
        self.few(t.content.size, f"the number of elements of {what}", 1 << 24)
        return t.content

    def few(self, count: int, what: str, most: int = 1 << 14) -> int:
        """A number of nodes to make, refused where the file asks for too many."""
        if count > most:
            raise ImportRefused("limit", self.where, f"{self.node.op}: {what} is {count}, over the limit {most}")
        return count

    def extents(self, item: Any, what: str) -> list[Extent]:
        """The operand's contents as a flat list of extents."""
        t = self.tensor(item)
        if t.content is None:
            t.content = self.lowerer.evaluate(t.value(self.bld), self, what)
        if t.content.dtype != object and t.content.dtype.kind not in "iu":
            raise self.refuse(f"{what} must hold integers")
        if t.content.size > 1 << 16:
            raise self.refuse(f"{what} holds {t.content.size} numbers")
        return [e if isinstance(e, Dim) else int(e) for e in t.content.ravel()]

    def ints(self, item: Any, what: str) -> list[int]:
        out = self.extents(item, what)
        if any(isinstance(e, Dim) for e in out):
            raise self.refuse(f"{what} depends on a symbolic extent", "fix it with shapes=")
        return [int(e) for e in out if not isinstance(e, Dim)]

    def number_of(self, item: Any, what: str) -> int:
        found = self.ints(item, what)
        if len(found) != 1:
            raise self.refuse(f"{what} must be one number")
        return found[0]

    def axis(self, item: Any, rank: int, what: str = "the axis") -> int:
        found = self.number_of(item, what)
        if not -rank <= found < rank:
            raise self.refuse(f"{what} {found} is not inside rank {rank}", code="malformed")
        return found % rank

    def const(self, number: Any, like: Value | DType) -> Value:
        kind = like.dtype if isinstance(like, Value) else like
        value: Value = self.bld.constant(np.asarray(number, kind.compute), kind)
        return value


class Lowerer:
    """Lowers one TFGraph. ``variables(key)`` gives a variable's contents."""

    def __init__(self, graph: TFGraph, variables: Callable[[str], Tensor | None] | None = None) -> None:
        self.graph, self.limits = graph, graph.limits
        self.variables = variables or (lambda key: None)
        self.calls: list[str] = []
        # By the path of a node inside called functions: tensors that are given, and tensors that are wanted.
        self.cuts: dict[Ref, Item] = {}
        self.taps: dict[Ref, Item | None] = {}
        # Variable -> the first node that reads it.
        self.reads: dict[str, str] = {}
        self.nodes_left = graph.limits.nodes
        self.fresh = Fresh()

    # -- what is supported -----------------------------------------------------------------------------------------

    def check_known(self, roots: list[str], stop: set[str]) -> None:
        """Refuse every op that has no lowering, all of them in one error."""
        problems: dict[str, Problem] = {}
        count: dict[str, int] = {}
        for path, node in reachable(self.graph, roots, stop, called_functions):
            kind = node.op
            if kind in OPS or kind in CALLS or kind in self.graph.functions or registered_op("tf", kind) is not None:
                continue
            count[kind] = count.get(kind, 0) + 1
            if kind not in problems:
                reason = REFUSED.get(kind, f"the TensorFlow op {kind} has no lowering here")
                hint = HINTS.get(kind, "") + f'register its lowering: @fw.register_op("tf", "{kind}")'
                where = f"{path}/{node.name}" if path else node.name
                problems[kind] = Problem("random" if kind in RANDOM else "unsupported-op", where, reason, hint)
        if problems:
            raise ImportRefused.of(
                [
                    Problem(p.code, p.where, p.reason + (f" ({count[k]} nodes)" if count[k] > 1 else ""), p.hint)
                    for k, p in problems.items()
                ]
            )

    # -- walking ---------------------------------------------------------------------------------------------------

    def get(self, scope: Scope, refs: Iterable[Ref]) -> list[Item]:
        """The items behind references; whatever they need is lowered first."""
        wanted = list(refs)
        for ref in wanted:
            self._need(scope, ref)
        return [self._read(scope, r) for r in wanted]

    def _need(self, scope: Scope, target: Ref) -> None:
        stack, active = [target.node], set()
        first = (target.node, self._index(scope, target))
        while stack:
            name = stack[-1]
            if name in scope.done or name in scope.args or name == target.node and first in scope.bound:
                stack.pop()
                continue
            node = scope.nodes.get(name)
            if node is None:
                raise ImportRefused("malformed", scope.path + name, "a node refers to this one, which is not there")
            missing = [
                r.node
                for r in node.inputs
                if r.node not in scope.done
                and r.node not in scope.args
                and (r.node, self._index(scope, r)) not in scope.bound
            ]
            if missing:
                if name in active:
                    raise ImportRefused("unsupported-op", scope.path + name, "the graph has a cycle")
                active.add(name)
                stack.extend(missing)
                continue
            scope.done[name] = self.node(node, scope)
            stack.pop()

    @staticmethod
    def _index(scope: Scope, ref: Ref) -> int:
        node = scope.nodes.get(ref.node)
        return ref.index if node is None else node.output(ref)

    def _read(self, scope: Scope, ref: Ref) -> Item:
        if ref.node in scope.args:
            return scope.args[ref.node]
        index = self._index(scope, ref)
        bound = scope.bound.get((ref.node, index))
        if bound is not None:
            return bound
        outputs = scope.done[ref.node]
        if not 0 <= index < len(outputs):
            raise ImportRefused("malformed", scope.path + ref.node, f"{ref.node!r} has no output {index}")
        return outputs[index]

    def node(self, node: TFNode, scope: Scope) -> list[Item]:
        """Lower one node whose inputs are done."""
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise ImportRefused("limit", node.name, f"more than {self.limits.nodes} nodes after inlining")
        items = [self._read(scope, r) for r in node.inputs]
        if node.op not in ("Merge", "RefMerge") and any(isinstance(i, Dead) for i in items):
            return [Dead()] * 16
        c = Ctx(self, node, scope)
        with scope.b.origin(layer=c.where, source=node.op):
            try:
                out = self._checked(c, node, items)
            except FusewrightError:
                raise
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as e:
                raise ImportRefused(
                    "malformed", c.where, f"{node.op}: an attribute or operand is not valid ({type(e).__name__}: {e})"
                ) from e
        return out

    def _checked(self, c: Ctx, node: TFNode, items: list[Item]) -> list[Item]:
        """As ``_dispatch``; extents that depend on values and have to be equal are compared during the run."""
        while True:
            try:
                return self._dispatch(c, node, items)
            except TypeRefused as e:
                refused = unequal(str(e), c.where, f"{node.op}: {e}")
            if not isinstance(refused, Unequal):
                raise refused
            values = {i: t.value(c.bld) for i, t in enumerate(items) if isinstance(t, Tensor) and t.content is None}
            swapped = joined(c.bld, self.fresh, values.values(), refused.left, refused.right)
            if swapped is None:
                raise refused
            items = [Tensor.of(swapped[values[i]]) if values.get(i) in swapped else t for i, t in enumerate(items)]

    def _dispatch(self, c: Ctx, node: TFNode, items: list[Item]) -> list[Item]:
        custom = registered_op("tf", node.op)
        if custom is not None:
            return _items(custom(c, *[c.v(i) for i in items]))
        if node.op in CALLS:
            return self.call(c.function("f"), items, c)
        if node.op in self.graph.functions:
            return self.call(node.op, items, c)
        if node.op in COMPLEX and any(isinstance(i, Complex) for i in items):
            return _items(COMPLEX[node.op](c, *items))
        folding = FOLDS.get(node.op)
        if folding is not None:
            folded = _fold(c, folding, items)
            if folded is not None:
                return folded
        lowering = OPS.get(node.op)
        if lowering is None:
            raise c.refuse("has no lowering here", f'register its lowering: @fw.register_op("tf", "{node.op}")')
        return _items(lowering(c, *(items if node.op in RAW else [c.v(i) for i in items])))

    # -- functions -------------------------------------------------------------------------------------------------

    def function(self, name: str, where: str) -> TFFunction:
        found = self.graph.functions.get(name)
        if found is None:
            raise ImportRefused("malformed", where, f"function {name!r} is not in the library")
        return found

    def call(self, name: str, items: Sequence[Item], c: Ctx, b: Builder | None = None) -> list[Item]:
        """The outputs of a library function, inlined."""
        function = self.function(name, c.where)
        if len(items) != len(function.args):
            raise c.refuse(f"{name} takes {len(function.args)} values, got {len(items)}", code="malformed")
        if name in self.calls or len(self.calls) >= FUNCTION_DEPTH:
            raise ImportRefused("limit", c.where, f"functions call each other deeper than {FUNCTION_DEPTH}, or recur")
        args = {arg: item for (arg, _), item in zip(function.args, items, strict=True)}
        scope = Scope(function.nodes, f"{c.where}/", b or c.scope.b, args)
        plain = b is None and not c.scope.region
        scope.region = not plain
        for ref, item in self.cuts.items() if plain else ():
            if (inner := self._inner(scope, ref)) is not None:
                scope.bound[(inner.node, inner.index)] = item
        self.calls.append(name)
        try:
            for ref in self.taps if plain else ():
                if (inner := self._inner(scope, ref)) is not None:
                    self.taps[ref] = self.get(scope, [inner])[0]
            refs = []
            for output in function.outputs:
                if output not in function.returns:
                    raise ImportRefused("malformed", c.where, f"{name} does not define its output {output!r}")
                refs.append(function.returns[output])
            return self.get(scope, refs)
        finally:
            self.calls.pop()

    @staticmethod
    def _inner(scope: Scope, ref: Ref) -> Ref | None:
        """A tensor named by its path as one of this call, or None."""
        name = ref.node.removeprefix(scope.path)
        return Ref(name, ref.index) if ref.node.startswith(scope.path) and name in scope.nodes else None

    # -- constants -------------------------------------------------------------------------------------------------

    def evaluate(self, value: Value, c: Ctx, what: str) -> np.ndarray:
        """The contents of a value that no input decides. Raises NeedsConstant naming the inputs that do."""
        order: list[Value] = []
        seen: set[int] = set()
        inputs: list[str] = []
        open_extents = False
        stack: list[tuple[Value, bool]] = [(value, False)]
        while stack:
            v, ready = stack.pop()
            if ready:
                order.append(v)
                continue
            if id(v.producer) in seen:
                continue
            seen.add(id(v.producer))
            if v.producer.op.name == "input":
                inputs.append(v.name)
                continue
            # Bound inputs have fixed extents, and so has what follows from them.
            open_extents = open_extents or any(not r.type.is_static for r in v.producer.results)
            size = sum(math.prod(int(d) for d in r.shape if not isinstance(d, Dim)) for r in v.producer.results)
            if size * 8 > CONSTANT_BYTES:
                raise c.refuse(f"{what} needs more than {CONSTANT_BYTES} bytes to compute")
            stack.append((v, True))
            stack.extend((o, False) for o in v.producer.operands)
        if inputs:
            error = NeedsConstant(
                "data-dependent",
                c.where,
                f"{c.node.op}: {what} depends on the input{'s' * (len(inputs) > 1)} {', '.join(inputs)}",
                f"bind it at import with feeds={{{inputs[0]!r}: ...}}",
            )
            error.inputs = tuple(inputs)
            raise error
        if open_extents:
            raise c.refuse(f"{what} depends on a symbolic extent", "fix it with shapes=")
        b = Builder()
        made: dict[Value, Value] = {}
        for v in order:
            node = v.producer
            if node.op.name == "constant":
                results: tuple[Value, ...] = (b.constant(node.attrs["value"]),)
            else:
                results = b.apply(node.op, [made[o] for o in node.operands], node.attrs, node.regions)
            made.update(zip(node.results, results, strict=True))
        return b.build({"value": made[value]}).run({})["value"]


def _items(result: Any) -> list[Item]:
    """What a lowering returned, as items."""
    many = result if isinstance(result, (list, tuple)) else [result]
    return [Tensor.of(r) if isinstance(r, Value) else r for r in many]


def _fold(c: Ctx, folding: Callable[..., Any], items: Sequence[Item]) -> list[Item] | None:
    """Integer contents small enough to be shape arithmetic are computed at once, symbols included."""
    arrays = []
    for item in items:
        if not isinstance(item, Tensor) or item.content is None or item.content.size > FOLD_ELEMENTS:
            return None
        if not (item.dtype.is_int or item.dtype.kind == "b"):
            return None
        content = item.content
        arrays.append(content if content.dtype == object else content.astype(object))
    result = folding(c, *arrays)
    if result is None:
        return None
    out: list[Item] = []
    for array, kind in result if isinstance(result, list) else [result]:
        made = settle(array, kind)
        if made is None:
            return None
        out.append(made)
    return out


def settle(array: Any, kind: DType) -> Tensor | None:
    """Folded contents as a tensor; None if a number does not fit its type (it would wrap)."""
    box = np.empty(np.shape(array), object)
    box[...] = array
    if box.size > FOLD_ELEMENTS:
        return None
    flat = [e for e in box.ravel()]
    if any(isinstance(e, Dim) for e in flat):
        return Tensor.known(box, kind) if kind.is_int else None
    if kind.is_int:
        info = np.iinfo(kind.np)
        if any(not info.min <= int(e) <= info.max for e in flat):
            return None
    elif kind.kind != "b":
        return None
    return Tensor.known(np.array([int(e) for e in flat], np.int64).astype(kind.np).reshape(box.shape), kind)


def same_type(c: Ctx, value: Value, to: DType) -> Value:
    """The value in another element type."""
    result: Value = value if value.dtype is to else c.bld.cast(value, to=to)
    return result


__all__ = [
    "BF16",
    "Graph",
    "dtype",
    "OPS",
    "FOLDS",
    "REFUSED",
    "Ctx",
    "Lowerer",
    "NeedsConstant",
    "Scope",
    "fold",
    "op",
]
