"""From a parsed ONNX model to a Graph: names, scopes, symbols, functions, and one refusal for everything unsupported.

Owns the walk over nodes and subgraphs. Must not know how any operator is lowered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import defs

from ...core.dims import Extent, extent, substitute, symbol
from ...core.dtypes import BF16, DType, f32_to_bf16
from ...core.errors import ImportRefused, Problem, TypeRefused
from ...ir.graph import Const, Graph, Value
from ...ir.scope import DEFINES, is_live
from ..dependent import Fresh, joined
from ..formats.limits import ImportLimits
from ..registry import registered_op
from ..symbols import Unequal, solve, unequal
from .call import OPS, REFUSED, Call
from .fold import Folder
from .reader import OnnxModel, element_name, element_type, read_tensor
from .scope import POISON, Known, Poison, Scope, free_names

OLDEST, NEWEST = 7, 28
# Operators of opsets 1 to 6 that mean today what they meant then; others broadcast or name their axes differently.
UNCHANGED = frozenset(
    "Abs Ceil Constant Conv Exp Floor GlobalAveragePool GlobalMaxPool Identity LRN Log MatMul Neg Not Reciprocal Relu "
    "Shape Sigmoid Size Sqrt Tanh Transpose".split()
)
NEWEST_OF = {"": NEWEST, "ai.onnx.ml": 6, "ai.onnx.preview.training": 1, "ai.onnx.preview": 1}
DEPTH = 32
_DEFAULT = {"", "ai.onnx"}


def build_graph(
    model: OnnxModel,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    feeds: Mapping[str, Any],
    shapes: Mapping[str, Any] | None,
    limits: ImportLimits,
) -> Graph:
    """The graph of a model. Raises ImportRefused."""
    equal: dict[str, Extent] = {}
    while True:
        try:
            return Importer(model, limits, equal).run(inputs, outputs, feeds, shapes or {})
        except Unequal as e:
            # Two symbols have to agree: they are one. Each round solves one more, so this ends.
            more = solve(e.left, e.right, equal)
            if more is None or len(more) > 256:
                raise ImportRefused(e.code, e.where, e.reason, e.hint) from None
            equal = more


class Importer:
    """Lowers one model into one Graph."""

    def __init__(self, model: OnnxModel, limits: ImportLimits, equal: Mapping[str, Extent]) -> None:
        self.model, self.limits, self.equal = model, limits, equal
        self.problems: list[Problem] = []
        self.solvable: Unequal | None = None
        self.nodes = 0
        self.functions: dict[tuple[str, str], Any] = {}
        self.symbols: dict[str, str] = {}
        self.fresh = Fresh()

    # -- the model -----------------------------------------------------------------------------------------------
    def run(
        self,
        inputs: Sequence[str] | None,
        outputs: Sequence[str] | None,
        feeds: Mapping[str, Any],
        shapes: Mapping[str, Any],
    ) -> Graph:
        """Lower the model's graph."""
        proto = self.model.proto
        if not proto.HasField("graph"):
            raise ImportRefused("malformed", self.model.name, "the model has no graph")
        opsets = self.opsets(proto.opset_import)
        for f in proto.functions:
            self.functions[(_domain(f.domain), f.name)] = f
        b = Folder()
        scope = Scope(b, opsets)
        with b.origin(file=self.model.name):
            self._inputs(proto.graph, scope, inputs, feeds, shapes)
            self.fresh.taken.update(b.graph.symbols)
            self.initialisers(proto.graph, scope)
            nodes = list(proto.graph.node)
            unknown = self._unknown(nodes, scope)
            self.body(nodes, scope, unknown)
            wanted = [o.name for o in proto.graph.output] if outputs is None else list(outputs)
            results = self._outputs(wanted, scope)
        if self.solvable is not None:
            raise self.solvable
        if self.problems:
            raise ImportRefused.of(self.problems)
        graph = b.build(results)
        _erase_dead(graph)
        return graph

    def opsets(self, imports: Iterable[Any]) -> dict[str, int]:
        """domain -> version, checked."""
        found: dict[str, int] = {}
        for entry in imports:
            domain = _domain(entry.domain)
            found[domain] = max(int(entry.version), found.get(domain, 0))
            top = NEWEST_OF.get(domain)
            if top is not None and not 1 <= found[domain] <= top:
                raise ImportRefused(
                    "unsupported-version", self.model.name,
                    f"opset {entry.version} of {domain or 'ai.onnx'} is outside 1..{top}",
                    "convert it with onnx.version_converter",
                )  # fmt: skip
        return found

    def _inputs(
        self, graph: Any, scope: Scope, order: Sequence[str] | None, feeds: Mapping[str, Any], shapes: Mapping[str, Any]
    ) -> None:
        fixed = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        given = {v.name: v for v in graph.input if v.name not in fixed}
        unknown = [n for n in (*(order or ()), *feeds, *shapes) if n not in given]
        if unknown:
            raise ImportRefused(
                "no-such-input", self.model.name, f"there is no input {unknown[0]!r}; there are {', '.join(given)}"
            )
        free = [n for n in given if n not in feeds]
        names = free if order is None else list(order)
        if sorted(names) != sorted(free):
            raise ImportRefused("no-such-input", self.model.name, f"inputs= must name {', '.join(free)}, each once")
        whole: dict[str, list[Any]] = {}
        for n in given:
            whole[n] = self._shape(given[n], shapes.get(n))
        unnamed = [n for n in free if whole[n] and whole[n][0] is None]
        for n in names:
            info = given[n]
            dt = self._input_type(info)
            shape = [self.extent(d, n, i, "N" if i == 0 and len(unnamed) == 1 else "") for i, d in enumerate(whole[n])]
            scope.names[n] = scope.b.input(n, dt, shape)
        for n, array in feeds.items():
            scope.names[n] = self._fed(given[n], array, scope.b)

    def _input_type(self, info: Any) -> DType:
        if info.type.WhichOneof("value") != "tensor_type":
            kind = info.type.WhichOneof("value") or "nothing"
            raise ImportRefused("unsupported-dtype", info.name, f"an input of type {kind} is not supported")
        return element_type(info.type.tensor_type.elem_type, info.name)

    def _fed(self, info: Any, array: Any, b: Folder) -> Value:
        dt = self._input_type(info)
        given = np.asarray(array)
        if dt is BF16:
            bits = given.view(np.uint16) if given.dtype.name == "bfloat16" else f32_to_bf16(given.astype(np.float32))
            return b.constant(Const(bits, dt))
        if given.dtype.kind not in "fiub":
            raise ImportRefused("unsupported-dtype", info.name, f"feeds has {given.dtype} for a {dt} input")
        if info.type.tensor_type.HasField("shape") and given.ndim != len(info.type.tensor_type.shape.dim):
            raise ImportRefused("ill-typed", info.name, f"feeds has shape {given.shape}")
        return b.constant(np.array(given, dt.np))

    def _shape(self, info: Any, wanted: Any) -> list[Any]:
        """Per axis an int, a name, or None."""
        tensor = info.type.tensor_type
        if wanted is not None:
            return list(wanted)
        if not tensor.HasField("shape"):
            raise ImportRefused(
                "no-shape", info.name, "the input's shape is not stated", "state it with shapes={name: (...)}"
            )
        out: list[Any] = []
        for d in tensor.shape.dim:
            which = d.WhichOneof("value")
            if which == "dim_value" and d.dim_value >= 0:
                self.limits.check("extent", d.dim_value, info.name, "an extent")
                out.append(int(d.dim_value))
            else:
                out.append(d.dim_param if which == "dim_param" and d.dim_param else None)
        self.limits.check("rank", len(out), info.name, "the rank")
        return out

    def extent(self, d: Any, name: str, axis: int, default: str = "") -> Extent:
        """The extent of an input axis; the file's own symbol names are kept as far as they can be written."""
        if d is None:
            d = default or f"{name}_{axis}"
        if not isinstance(d, str):
            return extent(d)
        if d not in self.symbols:
            clean = re.sub(r"[^A-Za-z0-9_]", "_", d)
            clean = clean if re.match(r"[A-Za-z_]", clean) and clean not in ("min", "max") else f"d_{clean}"
            while clean in self.symbols.values():
                clean += "_"
            self.symbols[d] = clean[:200]
        return substitute(symbol(self.symbols[d]), self.equal)

    def _outputs(self, wanted: Sequence[str], scope: Scope) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for name in wanted:
            if name in found:
                raise ImportRefused("malformed", self.model.name, f"the output {name!r} is named twice")
            try:
                value = scope.find(name)
            except KeyError:
                raise ImportRefused("no-such-output", self.model.name, f"nothing makes the output {name!r}") from None
            if isinstance(value, Value):
                found[name] = value
        if not wanted:
            raise ImportRefused("malformed", self.model.name, "the model has no outputs")
        return found

    def initialisers(self, graph: Any, scope: Scope) -> None:
        """Constants of a graph, under their names."""
        for t in graph.sparse_initializer:
            where = t.values.name or "sparse initializer"
            self.problems.append(Problem("unsupported-option", where, "sparse initialisers are not supported"))
            scope.names[t.values.name] = POISON
        for t in graph.initializer:
            self.limits.check_name(t.name, self.model.name)
            try:
                scope.names[t.name] = scope.b.constant(self.tensor(t, t.name))
            except ImportRefused as e:
                self.problems.extend(e.problems)
                scope.names[t.name] = POISON

    def tensor(self, t: Any, where: str) -> Const:
        """The contents of a TensorProto."""
        return read_tensor(t, self.model, self.limits, where)

    # -- what is unsupported, all at once ------------------------------------------------------------------------
    def _unknown(self, nodes: Sequence[Any], scope: Scope) -> frozenset[int]:
        """Places of the nodes that are, or hold, what has no lowering; the others are lowered all the same, so that
        what is wrong with them is told at once as well."""
        found = set()
        for at, node in enumerate(nodes):
            before = len(self.problems)
            self.check_known([node], scope, 0)
            if len(self.problems) > before:
                found.add(at)
        return frozenset(found)

    def check_known(self, nodes: Iterable[Any], scope: Scope, depth: int) -> None:
        """Note every operator that has no lowering, in subgraphs and functions too."""
        if depth > DEPTH:
            raise ImportRefused("limit", self.model.name, f"graphs or functions nest deeper than {DEPTH}")
        for node in nodes:
            key = (_domain(node.domain), node.op_type)
            self.limits.check("attributes", len(node.attribute), node.name or node.op_type, "the attributes")
            where = f"{scope.path}{node.name or (node.output[0] if node.output else node.op_type)}"
            if not key[0] and scope.opsets.get("", OLDEST) < OLDEST and node.op_type not in UNCHANGED:
                old = f"{node.op_type} of opset {scope.opsets['']}, before {OLDEST}"
                self.problems.append(
                    Problem("unsupported-version", where, old, "convert the model with onnx.version_converter")
                )
            elif key in REFUSED and registered_op("onnx", node.op_type) is None:
                self.problems.append(Problem(REFUSED[key][0], where, f"{node.op_type}: {REFUSED[key][1]}"))
            elif not self._lowerable(key, scope):
                name = "/".join(p for p in key if p)
                self.problems.append(
                    Problem(
                        "unsupported-op", where, f"the operator {name} is not supported",
                        f'register a lowering with fw.register_op("onnx", {node.op_type!r})',
                    )
                )  # fmt: skip
            for a in node.attribute:
                for g in (*([a.g] if a.type == onnx.AttributeProto.GRAPH else ()), *a.graphs):
                    self.check_known(g.node, scope, depth + 1)

    def _lowerable(self, key: tuple[str, str], scope: Scope) -> bool:
        if key in OPS or key in self.functions or registered_op("onnx", key[1]) is not None:
            return True
        return self._schema(key, scope) is not None

    def _schema(self, key: tuple[str, str], scope: Scope) -> Any:
        """The operator's schema when it defines the operator as a function of others."""
        version = scope.opsets.get(key[0])
        if version is None:
            return None
        try:
            schema = defs.get_schema(key[1], version, key[0])
        except defs.SchemaError:
            return None
        return schema if schema.has_function or schema.has_context_dependent_function else None

    # -- nodes ---------------------------------------------------------------------------------------------------
    def body(self, nodes: Iterable[Any], scope: Scope, refused: frozenset[int] = frozenset()) -> None:
        """Lower nodes in order; a refused one poisons what reads it, and all refusals come out together."""
        for at, node in enumerate(nodes):
            self.nodes += 1
            self.limits.check("nodes", self.nodes, self.model.name, "the number of nodes")
            where = f"{scope.path}{node.name or (node.output[0] if node.output else node.op_type)}"
            try:
                operands = [self._operand(n, scope, where) for n in node.input]
                if at in refused or any(v is POISON for v in operands) or self._captures_poison(node, scope):
                    results: list[Any] = [POISON] * len(node.output)
                else:
                    results = self._node(node, [v for v in operands if not isinstance(v, Poison)], scope, where)
            except Unequal as e:
                self.solvable = self.solvable or e
                results = [POISON] * len(node.output)
                self.problems.extend(e.problems)
            except ImportRefused as e:
                self.problems.extend(e.problems)
                results = [POISON] * len(node.output)
            for name, value in zip(node.output, results, strict=False):
                if not name:
                    continue
                if name in scope.names:
                    raise ImportRefused("malformed", where, f"the name {name[:80]!r} is given twice")
                self.limits.check_name(name, where)
                scope.names[name] = value
                if isinstance(value, Value) and not value.name and value.producer.op.name != "constant":
                    value.name = name

    def _captures_poison(self, node: Any, scope: Scope) -> bool:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                for name in free_names(a.g):
                    try:
                        if scope.find(name) is POISON:
                            return True
                    except KeyError:
                        continue
        return False

    def _operand(self, name: str, scope: Scope, where: str) -> Known | None:
        if not name:
            return None
        try:
            return scope.find(name)
        except KeyError:
            raise ImportRefused("malformed", where, f"the input {name[:80]!r} is made by nothing before") from None

    def _node(self, node: Any, operands: list[Value | None], scope: Scope, where: str) -> list[Any]:
        key = (_domain(node.domain), node.op_type)
        opset = scope.opsets.get(key[0])
        own = registered_op("onnx", node.op_type)
        function = self.functions.get(key)
        if own is None and function is not None:
            return self._function(function, node, operands, scope, where)
        if own is None and opset is None:
            raise ImportRefused("malformed", where, f"the model imports no opset for {key[0] or 'ai.onnx'}")
        lowering = own or OPS.get(key)
        if lowering is None:
            return self._schema_function(key, node, operands, scope, where)
        call = Call(self, scope, node, operands, opset or 0, where)
        with scope.b.origin(layer=where):
            try:
                found = self._checked(lowering, call, operands, scope.b)
            except ImportRefused:
                raise
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as e:
                raise ImportRefused(
                    "malformed", where, f"{node.op_type}: an operand or attribute is not valid "
                    f"({type(e).__name__}: {e})",
                ) from e  # fmt: skip
        if found is NotImplemented:
            return self._schema_function(key, node, operands, scope, where)
        results = [found] if isinstance(found, Value) else list(found)
        for i, name in enumerate(node.output):
            if name and (i >= len(results) or results[i] is None):
                raise ImportRefused("unsupported-option", where, f"{node.op_type}: output {i} is not supported")
        return results

    def _checked(self, lowering: Any, call: Call, operands: Sequence[Value | None], b: Folder) -> Any:
        """A lowering's results; extents that depend on values and have to be equal are compared during the run."""
        while True:
            try:
                return lowering(call, *operands)
            except TypeRefused as e:
                refused = unequal(str(e), call.where, f"{call.type}: {e}")
            if not isinstance(refused, Unequal):
                raise refused
            swapped = joined(b, self.fresh, operands, refused.left, refused.right)
            if swapped is None:
                raise refused
            operands = [v if v is None else swapped.get(v, v) for v in operands]

    def attributes(self, scope: Scope, node: Any, where: str) -> dict[str, Any]:
        """name -> AttributeProto; references of a function body are resolved."""
        found: dict[str, Any] = {}
        for a in node.attribute:
            if a.ref_attr_name:
                given = (scope.attrs or {}).get(a.ref_attr_name)
                if given is not None:
                    found[a.name] = given
            elif a.name in found:
                raise ImportRefused("malformed", where, f"the attribute {a.name[:80]!r} is given twice")
            else:
                found[a.name] = a
        return found

    # -- functions -----------------------------------------------------------------------------------------------
    def _function(self, f: Any, node: Any, operands: Sequence[Value | None], scope: Scope, where: str) -> list[Any]:
        """The results of a function's body on the operands."""
        if scope.depth >= DEPTH:
            raise ImportRefused("limit", where, f"functions nest deeper than {DEPTH}")
        opsets = self.opsets(f.opset_import) if f.opset_import else dict(scope.opsets)
        attrs = {a.name: a for a in f.attribute_proto}
        attrs.update(self.attributes(scope, node, where))
        inner = Scope(scope.b, opsets, attrs=attrs, path=f"{where}/", depth=scope.depth + 1)
        if len(operands) > len(f.input):
            raise ImportRefused("malformed", where, f"{f.name} takes {len(f.input)} inputs, got {len(operands)}")
        for i, name in enumerate(f.input):
            inner.names[name] = operands[i] if i < len(operands) else None
        before = len(self.problems)
        self.check_known(f.node, inner, inner.depth)
        if len(self.problems) == before:
            self.body(f.node, inner)
        if len(self.problems) > before:
            return [POISON] * len(node.output)
        return [inner.names.get(name) for name in f.output][: len(node.output)]

    def _schema_function(
        self, key: tuple[str, str], node: Any, operands: Sequence[Value | None], scope: Scope, where: str
    ) -> list[Any]:
        """An operator that the standard defines by others."""
        schema = self._schema(key, scope)
        if schema is None:
            raise ImportRefused("unsupported-op", where, f"the operator {node.op_type} is not supported")
        version = scope.opsets[key[0]]
        if schema.has_context_dependent_function:
            flat = onnx.NodeProto()
            flat.CopyFrom(node)
            del flat.attribute[:]
            for name, a in self.attributes(scope, node, where).items():
                copy = flat.attribute.add()
                copy.CopyFrom(a)
                copy.name = name
            types = [_type_proto(v).SerializeToString() for v in operands]
            versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
            text = schema.get_context_dependent_function_with_opset_version(
                max(versions, default=version), flat.SerializeToString(), types
            )
        else:
            versions = [v for v in schema.function_opset_versions if v <= version]
            text = schema.get_function_with_opset_version(max(versions, default=version))
        f = onnx.FunctionProto()
        f.ParseFromString(text)
        if not any(_domain(entry.domain) == "" for entry in f.opset_import):
            # The standard's own functions may leave the standard's own opset out.
            entry = f.opset_import.add()
            entry.version = scope.opsets.get("", min(NEWEST, defs.onnx_opset_version()))
        if not f.node:
            raise ImportRefused("unsupported-op", where, f"the operator {node.op_type} is not supported in this form")
        defaults = onnx.NodeProto()
        defaults.CopyFrom(node)
        present = {a.name for a in node.attribute}
        for name, a in schema.attributes.items():
            if name not in present and a.default_value.name:
                defaults.attribute.add().CopyFrom(a.default_value)
        return self._function(f, defaults, operands, scope, where)

    # -- subgraphs -----------------------------------------------------------------------------------------------
    def inline(self, graph: Any, scope: Scope, where: str, given: Mapping[str, Value | None]) -> list[Value]:
        """Lower a subgraph into the graph around it: its outputs, names staying its own."""
        inner = Scope(scope.b, scope.opsets, dict(given), scope, scope.attrs, f"{where}/", scope.depth + 1)
        return self._subgraph(graph, inner, where)

    def region(
        self,
        graph: Any,
        scope: Scope,
        where: str,
        inputs: Mapping[str, Any],
        captured: Mapping[str, Value],
        finish: Any = None,
    ) -> tuple[Graph, list[Value]]:
        """A closed region from a subgraph: inputs (name -> type), then the captured values. ``finish(b, outputs)``
        may change what it returns."""  # fmt: skip
        b = Folder(origin=scope.b.current_origin)
        inner = Scope(b, scope.opsets, {}, None, scope.attrs, f"{where}/", scope.depth + 1)
        for i, (name, t) in enumerate(inputs.items()):
            inner.names[name] = b.input(f"a{i}", t.dtype, t.shape)
        for i, (name, v) in enumerate(captured.items()):
            inner.names[name] = b.input(f"c{i}", v.dtype, v.shape)
        for name in free_names(graph):
            if name in inner.names:
                continue
            try:
                outer = scope.find(name)
            except KeyError:
                continue
            if outer is None or isinstance(outer, Poison):
                inner.names[name] = outer
            elif outer.const is not None:
                inner.names[name] = b.constant(outer.const)
            else:
                known = scope.b.contents[outer]
                inner.names[name] = b.reshape(b.cast(b.dims(tuple(known.ravel())), to=outer.dtype), shape=outer.shape)
        results = self._subgraph(graph, inner, where)
        results = finish(b, inner, results) if finish is not None else results
        built = b.build(*results, names=[f"r{i}" for i in range(len(results))])
        _erase_dead(built)
        return built, results

    def captures(self, graphs: Iterable[Any], scope: Scope) -> dict[str, Value]:
        """Run-time values of the outside that subgraphs read, by name."""
        found: dict[str, Value] = {}
        for g in graphs:
            for name in free_names(g):
                try:
                    value = scope.find(name)
                except KeyError:
                    continue
                if isinstance(value, Value) and value.const is None and value not in scope.b.contents:
                    found[name] = value
        return found

    def _subgraph(self, graph: Any, inner: Scope, where: str) -> list[Value]:
        if inner.depth > DEPTH:
            raise ImportRefused("limit", where, f"graphs nest deeper than {DEPTH}")
        before = len(self.problems)
        self.initialisers(graph, inner)
        self.body(graph.node, inner)
        if len(self.problems) > before:
            mine = self.problems[before:]
            del self.problems[before:]
            if self.solvable is not None:
                raise self.solvable
            raise ImportRefused.of(mine)
        out = []
        for o in graph.output:
            value = self._operand(o.name, inner, where)
            if not isinstance(value, Value):
                raise ImportRefused("malformed", where, f"the output {o.name[:80]!r} has no value")
            if value.producer.graph is not inner.b.graph:
                raise ImportRefused("malformed", where, f"the output {o.name[:80]!r} is not made in its graph")
            out.append(value)
        return out


def _domain(name: str) -> str:
    return "" if name in _DEFAULT else name


def _type_proto(v: Value | None) -> Any:
    t = onnx.TypeProto()
    if v is not None:
        names = {"f32": 1, "u8": 2, "i8": 3, "u16": 4, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11,
                 "u32": 12, "u64": 13, "bf16": 16}  # fmt: skip
        t.tensor_type.elem_type = names[v.dtype.name]
        t.tensor_type.shape.SetInParent()
        for d in v.shape:
            dim = t.tensor_type.shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
    return t


def _erase_dead(graph: Graph) -> None:
    for node in list(reversed(graph.nodes)):
        needed = node is graph.return_node or node.op.name == "input" or any(v.uses for v in node.results)
        if not needed and not (node.op.name == DEFINES and is_live(node, graph)):
            graph.erase(node)


__all__ = ["Importer", "build_graph", "element_name"]
