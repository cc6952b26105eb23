"""Builder: the one door through which nodes enter a graph.

Owns construction: infers the type, refuses an ill-typed op, turns Python scalars into constants. Knows ops only
through their OpDef.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..core.dims import DimLike
from ..core.dtypes import BF16, DType, dtype, f32_to_bf16
from ..core.errors import TypeRefused
from .graph import Const, Graph, Node, Origin, Value
from .opdef import OpDef, fill_attrs, get_op
from .types import TensorType

Operand = Value | int | float | bool | np.ndarray | np.generic | None


class Builder:
    """Builds a graph, or inserts into one (``Builder(graph, before=node)``).

    ``b.<op>(*operands, **attrs)`` exists for every OpDef; names that are Python keywords take a trailing underscore.
    One result comes back as a Value, several as a tuple. Raises TypeRefused for anything ill-typed.
    """

    def __init__(self, graph: Graph | None = None, before: Node | None = None, origin: Origin = Origin()) -> None:
        self.graph = graph if graph is not None else Graph()
        self.before = before
        self.current_origin = origin  # of the nodes made next

    @contextmanager
    def origin(self, **parts: str) -> Iterator[None]:
        """Nodes made inside carry this Origin (``file=``, ``layer=``, ``source=``; others are kept)."""
        kept = self.current_origin
        values = {"file": kept.file, "layer": kept.layer, "source": kept.source, **parts}
        self.current_origin = Origin(values["file"], values["layer"], values["source"], kept.rewrites)
        try:
            yield
        finally:
            self.current_origin = kept

    def input(self, name: str, element: Any, shape: Sequence[DimLike]) -> Value:
        """A graph input. Names are unique."""
        if any(v.name == name for v in self.graph.inputs):
            raise TypeRefused(f"there is an input {name!r} already")
        node = Node(get_op("input"), (), {"name": name}, [TensorType(element, shape)], (), self.current_origin)
        self.graph.insert(node, self.before)
        node.results[0].name = name
        self.graph.inputs.append(node.results[0])
        return node.results[0]

    def constant(self, array: Any, element: Any = None) -> Value:
        """A constant. ``element`` casts; bf16 takes float values. Splats (stride-0 arrays) stay splats."""
        if isinstance(array, Const):
            const = array
        else:
            const = make_const(array, None if element is None else dtype(element))
        node = Node(
            get_op("constant"),
            (),
            {"value": const},
            [TensorType(const.dtype, const.array.shape)],
            (),
            self.current_origin,
        )
        self.graph.insert(node, self.before)
        return node.results[0]

    def full(self, shape: Sequence[DimLike], value: float | int | bool, element: Any) -> Value:
        """A tensor of one repeated value, of any (symbolic) shape."""
        scalar = self.constant(value, element)
        return scalar if not shape else self.broadcast_to(scalar, shape=tuple(shape))

    def apply(
        self, op: OpDef | str, operands: Sequence[Operand], attrs: Mapping[str, Any], regions: Sequence[Graph] = ()
    ) -> tuple[Value, ...]:
        """Insert ``op`` and return its results. Raises TypeRefused."""
        op = get_op(op) if isinstance(op, str) else op
        values = self._operands(op, operands)
        full = fill_attrs(op, attrs)
        try:
            types = op.infer([v.type for v in values], full, regions)
        except TypeRefused as error:
            given = ", ".join(str(v.type) for v in values)
            place = f" at {self.current_origin}" if str(self.current_origin) else ""
            raise TypeRefused(f"{op.name}({given}){place}: {error}") from None
        node = Node(op, values, full, types, regions, self.current_origin)
        self.graph.insert(node, self.before)
        return node.results

    def _operands(self, op: OpDef, given: Sequence[Operand]) -> list[Value]:
        while given and given[-1] is None:
            given = given[:-1]
        if len(given) < op.required or (not op.variadic and len(given) > len(op.operands)):
            raise TypeRefused(f"{op.name} takes ({', '.join(op.operands)}), got {len(given)} operands")
        like = next((v.dtype for v in reversed(given) if isinstance(v, Value)), None)
        if op.name == "where" and len(given) == 3:
            like = next((v.dtype for v in given[1:] if isinstance(v, Value)), None)
        return [self._operand(op, v, like) for v in given]

    def _operand(self, op: OpDef, given: Operand, like: DType | None) -> Value:
        if isinstance(given, Value):
            if given.producer.graph is not self.graph:
                raise TypeRefused(f"{op.name}: operand {given!r} belongs to another graph")
            return given
        if given is None:
            raise TypeRefused(f"{op.name}: an operand in the middle is missing")
        weak = isinstance(given, (bool, int, float)) or np.ndim(given) == 0
        return self.constant(given, like if weak and like is not None else None)

    def build(self, *outputs: Value | Mapping[str, Value], names: Sequence[str] | None = None) -> Graph:
        """Finish: return the outputs (values, or one mapping name -> value). The graph stays editable."""
        if len(outputs) == 1 and isinstance(outputs[0], Mapping):
            names, values = list(outputs[0]), list(outputs[0].values())
        else:
            values = [v for v in outputs if isinstance(v, Value)]
            if len(values) != len(outputs):
                raise TypeRefused("build takes values, or one mapping from name to value")
        if self.graph.return_node is not None:
            raise TypeRefused("this graph is built already")
        for v in values:
            if v.producer.graph is not self.graph:
                raise TypeRefused(f"output {v!r} belongs to another graph")
        node = Node(get_op("return"), values, {}, [])
        self.graph.insert(node)
        self.graph.return_node = node
        self.graph.output_names = list(names or _output_names(values))
        if len(self.graph.output_names) != len(values) or len(set(self.graph.output_names)) != len(values):
            raise TypeRefused("outputs need one distinct name each")
        return self.graph

    def region(self, inputs: Sequence[TensorType], body: Callable[..., Value | Sequence[Value]]) -> Graph:
        """A closed region: ``body(builder, *values)`` returns its outputs."""
        inner = Builder(origin=self.current_origin)
        values = [inner.input(f"a{i}", t.dtype, t.shape) for i, t in enumerate(inputs)]
        out = body(inner, *values)
        return inner.build(*([out] if isinstance(out, Value) else out))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        op = get_op(name.removesuffix("_"))

        def call(*operands: Operand, regions: Sequence[Graph] = (), **attrs: Any) -> Value | tuple[Value, ...]:
            results = self.apply(op, operands, attrs, regions)
            return results[0] if len(results) == 1 else results

        call.__name__ = name
        call.__doc__ = op.doc
        return call


def _output_names(values: Sequence[Value]) -> list[str]:
    names: list[str] = []
    for i, v in enumerate(values):
        name = v.name or ("output" if len(values) == 1 else f"output_{i}")
        names.append(name if name not in names else f"{name}_{i}")
    return names


def make_const(array: Any, element: DType | None = None) -> Const:
    """Contents for a constant from anything array-like; float64 Python floats become f32 unless ``element`` says so."""
    if isinstance(array, (bool, np.bool_)) and element is None:
        element = dtype("bool")
    elif isinstance(array, int) and element is None:
        element = dtype("i64")
    elif isinstance(array, float) and element is None:
        element = dtype("f32")
    raw = np.asarray(array)
    if raw.dtype.byteorder == ">":
        raw = raw.astype(raw.dtype.newbyteorder("="))
    if element is None:
        element = dtype(raw.dtype)
    if element is BF16:
        stored = raw.view(np.uint16) if raw.dtype.name == "bfloat16" else f32_to_bf16(raw.astype(np.float32))
    else:
        stored = raw if raw.dtype == element.np else raw.astype(element.np)
    return Const(stored, element)


class _OpNamespace:
    """``fw.op.<name>(*operands, **attrs)``: appends to the graph that the operands belong to."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        get_op(name.removesuffix("_"))

        def call(*operands: Operand, **kwargs: Any) -> Any:
            return getattr(builder_of(operands), name)(*operands, **kwargs)

        call.__name__ = name
        return call


op = _OpNamespace()


def builder_of(operands: Sequence[Operand]) -> Builder:
    """A builder that appends to the operands' graph. Raises TypeRefused if no operand is a Value."""
    for v in operands:
        if isinstance(v, Value):
            return Builder(v.graph, before=v.graph.insertion_point)
    raise TypeRefused("fw.op needs at least one Value among its operands")


def _binary(name: str, swap: bool = False) -> Callable[[Value, Operand], Value]:
    def method(self: Value, other: Operand) -> Value:
        pair = (other, self) if swap else (self, other)
        return builder_of(pair).apply(name, pair, {})[0]

    return method


for _symbol, _name in {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "floordiv": "floordiv", "mod": "mod", "pow": "pow",
}.items():  # fmt: skip
    setattr(Value, f"__{_symbol}__", _binary(_name))
    setattr(Value, f"__r{_symbol}__", _binary(_name, swap=True))
setattr(Value, "__matmul__", _binary("matmul"))  # noqa: B010 - as above, Value declares none of these
setattr(Value, "__neg__", lambda self: builder_of([self]).apply("neg", [self], {})[0])  # noqa: B010
for _symbol, _name in {"lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}.items():
    setattr(Value, f"__{_symbol}__", _binary(_name))
