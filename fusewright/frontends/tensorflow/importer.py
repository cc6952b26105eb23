"""A TFGraph with chosen inputs and outputs -> ir.Graph.

Owns the choice of inputs and outputs, bound feeds, shapes and symbols. Must not know any op or file format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.dims import Extent, extent, substitute, symbol
from ...core.dtypes import BF16, DType
from ...core.errors import FusewrightError, ImportRefused, TypeRefused
from ...ir.builder import Builder
from ...ir.graph import Graph, Origin
from ..symbols import Unequal, solve
from .conds import rebuild_conditionals
from .effects import written
from .frames import rebuild_loops
from .graphdef import Attrs, Ref, TFFunction, TFGraph, locate, parse_ref, reachable
from .lower import Lowerer, Scope, called_functions
from .tensors import array_of, dtype_of
from .values import Item, Tensor, Withheld

Shape = tuple[Any, ...]
_NO_OUTPUT = {"NoOp", "Const", "Placeholder", "Assert", "PlaceholderWithDefault", "PlaceholderV2"}
_EFFECTS = re.compile(r"^(Assign|Restore|Save|Merge.*V2Checkpoints|.*Summary|MergeSummary|Print|VarHandleOp|Variable)")


@dataclass
class Entry:
    """A graph input: its public name, the tensor that it replaces, its type as far as it is known."""

    name: str
    ref: Ref
    dtype: DType
    shape: Shape | None


@dataclass
class Request:
    """What to import: inputs and outputs by public name."""

    graph: TFGraph
    inputs: list[Entry]
    outputs: list[tuple[str, Ref]]
    feeds: dict[Ref, Any]
    variables: Callable[[str], Tensor | None] | None = None
    captured: dict[Ref, Item] = field(default_factory=dict)


def no_such(what: str, name: str, where: str, known: Iterable[str] = ()) -> ImportRefused:
    """The refusal of a name that is no input or output."""
    hint = f"it has {', '.join(sorted(known))}" if known else ""
    code = "no-such-input" if what == "input" else "no-such-output"
    return ImportRefused(code, name, f"{where} has no such {what}", hint)


def find(graph: TFGraph, text: str, what: str) -> Ref:
    """The tensor ``node`` or ``node:1`` of the graph; inside called functions by its path."""
    ref = parse_ref(text, text)
    if ref.arg or ref.index < 0 or locate(graph, ref.node) is None:
        raise no_such(what, text, "the graph")
    return ref


def entry_of(graph: TFGraph, name: str, ref: Ref) -> Entry:
    """An input in place of any tensor of the graph. Its type comes from the node it replaces."""
    node = locate(graph, ref.node)
    if node is None:
        raise no_such("input", name, "the graph")
    attrs = Attrs(node, graph.limits)
    shape: Shape | None
    if node.op == "Const":
        array, kind = array_of(attrs.tensor_proto("value"), node.name, graph.limits, graph.file_bytes)
        return Entry(name, ref, kind, array.shape)
    number = next((attrs.number(a) for a in ("dtype", "T", "DstT", "out_type", "Tparams") if attrs.has(a)), 1)
    shape = attrs.shape("shape") if node.op.startswith("Placeholder") else None
    stored = node.attrs.get("_output_shapes", {}).get("list", {}).get("shape", [])
    if shape is None and ref.index < len(stored):
        shape = _stored_shape(stored[ref.index])
    return Entry(name, ref, dtype_of(number, ref.node), shape)


def _stored_shape(proto: Mapping[str, Any]) -> Shape | None:
    if proto.get("unknown_rank"):
        return None
    return tuple(None if d.get("size", 0) < 0 else d.get("size", 0) for d in proto.get("dim", []))


def graph_request(
    graph: TFGraph,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    feeds: Mapping[str, Any] | None,
) -> Request:
    """Inputs and outputs of a bare graph: as asked for, else its placeholders and the nodes that nobody reads."""
    bound = {find(graph, name, "input"): value for name, value in (feeds or {}).items()}
    if outputs is not None:
        wanted = [(text, find(graph, text, "output")) for text in outputs]
    else:
        read = {r.node for n in graph.nodes.values() for r in n.inputs}
        wanted = [
            (n.name, Ref(n.name))
            for n in graph.nodes.values()
            if n.name not in read and n.op not in _NO_OUTPUT and not _EFFECTS.match(n.op)
        ]
    if not wanted:
        raise ImportRefused("no-such-output", graph.name, "the graph has no output", "name some with outputs=")
    stop = {r.node for r in bound}
    if inputs is not None:
        entries = [entry_of(graph, text, find(graph, text, "input")) for text in inputs]
    else:
        used = {n.name for path, n in reachable(graph, [r.node for _, r in wanted], stop, called_functions) if not path}
        entries = [
            entry_of(graph, n.name, Ref(n.name))
            for n in graph.nodes.values()
            if n.op in ("Placeholder", "PlaceholderV2") and n.name in used and Ref(n.name) not in bound
        ]
    return Request(graph, entries, wanted, bound)


def build(request: Request, shapes: Mapping[str, Any] | None) -> Graph:
    """Lower what the outputs need. Symbols that typing finds to be equal become one."""
    graph = request.graph
    _structured(graph, [r for _, r in request.outputs])
    cut = {e.ref.node for e in request.inputs} | {r.node for r in request.feeds}
    if all(e.ref.node in graph.nodes for e in request.inputs) and all(
        r.node in graph.nodes for _, r in request.outputs
    ):
        Lowerer(graph, request.variables).check_known([r.node for _, r in request.outputs], cut)
    typed, batch = symbolic(request.inputs, shapes)
    equal: dict[str, Extent] = {}
    while True:
        try:
            result = _lower(request, [tuple(substitute(d, equal) for d in s) for s in typed])
        except Unequal as e:
            more = solve(e.left, e.right, equal)
            if more is None or len(more) > 256:
                raise ImportRefused(e.code, e.where, e.reason, e.hint) from None
            equal = more
            continue
        merged = {str(equal.get(s, symbol(s))) for s in batch}
        if len(batch) > 1 and len(merged) == 1 and merged != {"N"}:
            # Every input's axis 0 turned out to be the same: it is the batch.
            one = merged.pop()
            if one in batch:
                equal = {k: substitute(v, {one: symbol("N")}) for k, v in equal.items()} | {one: symbol("N")}
                continue
        return result


def _structured(graph: TFGraph, outputs: Sequence[Ref]) -> None:
    """TF1 control flow becomes While and If nodes, in every function when it is first called."""

    def inside(function: TFFunction) -> None:
        rebuild_loops(graph, function.nodes, f"{function.name}/")
        rebuild_conditionals(graph, function.nodes, list(function.returns.values()), f"{function.name}/")

    rebuild_loops(graph, graph.nodes)
    rebuild_conditionals(graph, graph.nodes, outputs)
    graph.functions.prepare(inside)


def symbolic(entries: Sequence[Entry], shapes: Mapping[str, Any] | None) -> tuple[list[tuple[Extent, ...]], list[str]]:
    """(shapes with symbols, the symbols of axis 0): N if there is one such axis, else ``<input>_0``."""
    given = dict(shapes or {})
    raw: list[list[Any]] = []
    for e in entries:
        shape = given.pop(e.name, e.shape)
        if shape is None:
            raise ImportRefused(
                "no-shape", e.name, "the file does not say the input's rank", f"pass shapes={{{e.name!r}: (...)}}"
            )
        if not isinstance(shape, (list, tuple)):
            raise ImportRefused("malformed", e.name, f"{shape!r} is not a shape")
        raw.append(list(shape))
    if given:
        raise ImportRefused(
            "no-such-input",
            next(iter(given)),
            "no input has this name",
            f"there are {', '.join(e.name for e in entries)}",
        )
    first = [i for i, shape in enumerate(raw) if shape and shape[0] is None]
    later = [(i, a) for i, shape in enumerate(raw) for a, d in enumerate(shape) if d is None and a > 0]
    batch = []
    for i in first:
        raw[i][0] = "N" if len(first) == 1 else f"{symbol_name(entries[i].name)}_0"
        batch.append(raw[i][0])
    for i, a in later:
        raw[i][a] = "T" if len(later) == 1 else f"{symbol_name(entries[i].name)}_{a}"
    out = []
    for e, shape in zip(entries, raw, strict=True):
        try:
            dims = tuple(extent(d) for d in shape)
        except FusewrightError as error:
            raise ImportRefused("malformed", e.name, f"{shape!r} is not a shape: {error}") from None
        if any(isinstance(d, int) and d < 0 for d in dims):
            raise ImportRefused("malformed", e.name, f"{shape!r} is not a shape")
        out.append(dims)
    return out, batch


def symbol_name(name: str) -> str:
    """A tensor name as a symbol's."""
    clean = re.sub(r"[^A-Za-z0-9_.]", "_", name.removesuffix(":0"))
    return clean if re.match(r"[A-Za-z_]", clean) and clean not in ("min", "max") else f"_{clean}"


def _lower(request: Request, shapes: Sequence[tuple[Extent, ...]]) -> Graph:
    graph = request.graph
    b = Builder(origin=Origin(file=graph.name))
    lowerer = Lowerer(graph, request.variables)
    scope = Scope(graph.nodes, "", b, {})
    for entry, shape in zip(request.inputs, shapes, strict=True):
        try:
            value = b.input(entry.name, entry.dtype, shape)
        except TypeRefused as e:
            raise ImportRefused("ill-typed", entry.name, str(e)) from None
        if entry.ref.node in graph.nodes:
            scope.bound[(entry.ref.node, entry.ref.index)] = Tensor.of(value)
        else:
            lowerer.cuts[entry.ref] = Tensor.of(value)
    lowerer.fresh.taken.update(b.graph.symbols)
    for ref, item in request.captured.items():
        scope.bound[(ref.node, ref.index)] = item
    for ref, given in request.feeds.items():
        scope.bound[(ref.node, ref.index)] = _feed(graph, ref, given)
    lowerer.taps = {r: None for _, r in request.outputs if r.node not in graph.nodes}
    roots = [r if r.node in graph.nodes else _outermost(graph, r) for _, r in request.outputs]
    found = lowerer.get(scope, roots)
    for at, (name, ref) in enumerate(request.outputs):
        if ref in lowerer.taps:
            inner = lowerer.taps[ref]
            if inner is None:
                raise ImportRefused("no-such-output", name, "the tensor lies in a function that no output needs")
            found[at] = inner
    changed = written(graph, roots, [n for n, _ in scope.bound])
    for variable, node in changed.items():
        if variable in lowerer.reads:
            raise ImportRefused(
                "stateful", node, f"a call changes the variable {variable!r}, which {lowerer.reads[variable]} reads",
                "name outputs before the assignment, or cut there with inputs=",
            )  # fmt: skip
    named: dict[str, Any] = {}
    for (name, ref), item in zip(request.outputs, found, strict=True):
        named[name] = _output(ref.node, item, b)
    return b.build(named)


def _outermost(graph: TFGraph, ref: Ref) -> Ref:
    """The call in the main graph that a path leads into."""
    parts = ref.node.split("/")
    return Ref(next(p for i in range(1, len(parts)) if (p := "/".join(parts[:i])) in graph.nodes))


def _output(name: str, item: Item, b: Builder) -> Any:
    if isinstance(item, Withheld):
        raise ImportRefused(item.code, name, item.reason, item.hint or "name other outputs")
    if not isinstance(item, Tensor):
        kind = {"Strings": "strings", "Complex": "complex numbers", "ListOf": "a list of tensors"}
        what = kind.get(type(item).__name__, "no tensor")
        raise ImportRefused("unsupported-dtype", name, f"the output is {what}", "name other outputs")
    return item.value(b)


def _feed(graph: TFGraph, ref: Ref, given: Any) -> Item:
    kind = entry_of(graph, ref.node, ref).dtype
    array = np.asarray(given)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ImportRefused("unsupported-dtype", ref.node, f"a bound value of type {array.dtype} is not supported")
    target = np.dtype(np.float32) if kind is BF16 else kind.np
    cast = array.astype(target)
    if cast.dtype.kind in "iub" and array.dtype.kind in "iufb" and not np.array_equal(cast, array):
        raise ImportRefused("malformed", ref.node, f"the bound value does not fit {kind}")
    return Tensor.known(cast, kind)


__all__ = ["Entry", "Request", "build", "entry_of", "find", "graph_request", "no_such"]
