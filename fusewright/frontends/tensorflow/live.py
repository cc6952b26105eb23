"""Live TensorFlow objects: functions, modules, loaded SavedModels, graphs -> a request to import.

Owns tracing, captured values and the names of structured inputs and outputs. TensorFlow is the caller's own: it is used
through the objects that he passes, never imported here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.errors import ImportRefused
from ..formats.limits import DEFAULT, ImportLimits
from . import schema
from .graphdef import Ref, TFGraph, locate, parse_graph_def, parse_ref
from .importer import Request, entry_of, find, graph_request, no_such
from .tensors import RESOURCE, VARIANT, dtype_of
from .values import Item, Resource, Tensor
from .wire import Reader


def is_tensorflow_object(source: object) -> bool:
    """Judged by the modules of its class, without importing any."""
    modules = {c.__module__.split(".")[0] for c in type(source).__mro__}
    return "tensorflow" in modules or hasattr(source, "get_concrete_function")


def live_request(
    source: Any,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    signature: str | None,
    feeds: Mapping[str, Any] | None,
    shapes: Mapping[str, Any] | None,
    limits: ImportLimits = DEFAULT,
) -> tuple[Request, Mapping[str, Any] | None]:
    """(the request, the shapes without the specs in them): inputs in the order of the arguments.

    A function without an input signature is traced with ``shapes=`` (float32, or a ``tf.TensorSpec``) and with the
    values of ``feeds=``; if it was called with one kind of arguments already, that trace is taken.
    """
    kind = type(source).__name__
    if kind in ("GraphDef", "Graph", "FuncGraph") and signature is None:
        graph = _graph(source if kind == "GraphDef" else source.as_graph_def(), kind, limits)
        return graph_request(graph, inputs, outputs, feeds), shapes
    function = _function(source, signature)
    concrete = _concrete(function, shapes, feeds)
    graph = _graph(concrete.graph.as_graph_def(), str(getattr(concrete.graph, "name", kind)), limits)
    specs = {name: _shape(spec) for name, spec in (shapes or {}).items()}
    return _request(
        concrete, graph, inputs, outputs, feeds, _parameters(function)
    ), specs if shapes is not None else None


def keras_function(model: Any, shapes: Mapping[str, Any] | None) -> Any:
    """A Keras model's call in inference mode as a function to trace, with the model's own inputs."""
    tf = _tensorflow(type(model).__name__)
    tensors = getattr(model, "inputs", None)
    # A Sequential model says only which tensors it takes.
    structure = getattr(model, "input", None) if tensors else None
    structure = (tensors[0] if len(tensors) == 1 else tensors) if structure is None and tensors else structure
    if structure is None:
        raise ImportRefused(
            "no-shape", type(model).__name__, "the model does not say what it takes",
            "pass tf.function(model.call) with shapes= or with an input_signature",
        )  # fmt: skip
    given = dict(shapes or {})
    leaves = tf.nest.flatten(structure)
    specs = [
        tf.TensorSpec(_free(given.get(t.name, tuple(t.shape))), tf.as_dtype(t.dtype), name=t.name.partition(":")[0])
        for t in leaves
    ]

    def call(*tensors: Any) -> Any:
        return model(tf.nest.pack_sequence_as(structure, list(tensors)), training=False)

    return tf.function(call, input_signature=specs)


def _tensorflow(where: str) -> Any:
    found = sys.modules.get("tensorflow")
    if found is None:
        raise ImportRefused("no-tensorflow", where, "tracing needs TensorFlow, which this process has not imported")
    return found


def _graph(proto: Any, name: str, limits: ImportLimits) -> TFGraph:
    try:
        data = memoryview(proto.SerializeToString())
    except Exception as e:
        raise ImportRefused(
            "limit", name, f"the graph cannot be written as one message: {e}", "keep large arrays in variables"
        ) from e
    return parse_graph_def(Reader(name, limits).decode(schema.GRAPH, data), name, limits, len(data))


# -- which function ----------------------------------------------------------------------------------------------------


def _is_concrete(item: Any) -> bool:
    return hasattr(item, "structured_outputs") and hasattr(item, "captured_inputs") and hasattr(item, "graph")


def _is_function(item: Any) -> bool:
    return _is_concrete(item) or hasattr(item, "get_concrete_function")


def _functions(source: Any) -> dict[str, Any]:
    """The functions that an object carries, by name, private ones left out. No property of it is evaluated."""
    names = [*vars(source), *dir(type(source))] if hasattr(source, "__dict__") else dir(type(source))
    out = {}
    for name in names:
        if name.startswith("_") and name != "__call__":
            continue
        if hasattr(inspect.getattr_static(source, name, None), "get_concrete_function"):
            out[name] = getattr(source, name)
    return out


def _function(source: Any, signature: str | None) -> Any:
    where = type(source).__name__
    if _is_function(source):
        if signature is not None:
            raise ImportRefused("unused-option", where, "signature= does not apply to a function", "leave it out")
        return source
    stored: Any = getattr(source, "signatures", None)
    signatures = dict(stored.items()) if hasattr(stored, "items") else {}
    functions = {**_functions(source), **signatures}
    if signature is None:
        for name in ("serving_default", "__call__"):
            if name in functions:
                return functions[name]
        public = signatures or {n: f for n, f in functions.items() if n != "__call__"}
        if len(public) == 1:
            return next(iter(public.values()))
    elif signature in functions:
        return functions[signature]
    raise ImportRefused(
        "no-such-signature", signature or where, "the object has no such function" if signature else
        "the object does not say which of its functions is meant",
        f"signature= names one of {', '.join(sorted(functions))}" if functions else
        "decorate a method with tf.function, or pass tf.function(f)",
    )  # fmt: skip


def _concrete(function: Any, shapes: Mapping[str, Any] | None, feeds: Mapping[str, Any] | None) -> Any:
    if _is_concrete(function):
        return function
    where = str(getattr(function, "__name__", type(function).__name__))
    if getattr(function, "input_signature", None) is not None:
        return _trace(function, where, {})
    known = _parameters(function)
    given = {n: v for n, v in (shapes or {}).items() if n in known}
    bound = {n: v for n, v in (feeds or {}).items() if n in known}
    if given:
        tf = _tensorflow(where)
        specs = {n: v if hasattr(v, "dtype") else tf.TensorSpec(_free(v), tf.float32) for n, v in given.items()}
        return _trace(function, where, {**specs, **bound})
    traced = list(getattr(function, "concrete_functions", None) or _traced(function))
    if len(traced) == 1:
        return traced[0]
    if traced:
        raise ImportRefused(
            "ambiguous", where, f"the function has been traced for {len(traced)} kinds of arguments",
            "pass one of them (get_concrete_function), or an input signature",
        )  # fmt: skip
    return _trace(function, where, bound)


def _traced(function: Any) -> list[Any]:
    every = getattr(function, "_list_all_concrete_functions", None)
    return list(every()) if callable(every) else []


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(getattr(function, "python_function", function)).parameters)
    except (TypeError, ValueError):
        return []


def _trace(function: Any, where: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return function.get_concrete_function(**arguments)
    except Exception as e:
        # Tracing runs the caller's own code, which may raise anything.
        reason = str(e).strip().splitlines()
        raise ImportRefused(
            "not-traced", where, f"TensorFlow cannot trace the function ({type(e).__name__}: {''.join(reason[:1])})",
            "give it an input_signature, or shapes= for every tensor argument",
        ) from e  # fmt: skip


def _free(shape: Any) -> Any:
    """A shape for TensorFlow: symbols are open extents."""
    if not isinstance(shape, (list, tuple)):
        return shape
    return [d if isinstance(d, int) else None for d in shape]


def _shape(spec: Any) -> Any:
    """A ``tf.TensorSpec`` as a shape; anything else as it is."""
    shape: Any = getattr(spec, "shape", None)
    return tuple(shape.as_list()) if hasattr(shape, "as_list") else spec


# -- inputs, outputs, captures -----------------------------------------------------------------------------------------


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, leaf) in TensorFlow's order: keys sorted. Leaves without a type (None, numbers) are left out."""
    if isinstance(tree, Mapping):
        for key in sorted(tree):
            yield from _leaves(tree[key], f"{name}_{key}" if name else str(key))
    elif isinstance(tree, (list, tuple)):
        for i, item in enumerate(tree):
            yield from _leaves(item, f"{name}_{i}" if name else str(i))
    elif hasattr(tree, "dtype") and hasattr(tree, "shape"):
        yield name, tree


def _unlike(names: list[str], otherwise: list[str]) -> list[str]:
    """The names if all differ and there are enough, else the others."""
    return names if len(set(names)) == len(names) == len(otherwise) and all(names) else otherwise


def _request(
    concrete: Any,
    graph: TFGraph,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    feeds: Mapping[str, Any] | None,
    literals: Iterable[str],
) -> Request:
    """``literals``: parameters whose bound value is part of the trace if it is no tensor."""
    captured = list(concrete.captured_inputs)
    count = len(concrete.inputs) - len(captured)
    own = [parse_ref(t.name, t.name) for t in concrete.inputs]
    specs = [getattr(leaf, "name", None) or "" for _, leaf in _leaves(concrete.structured_input_signature)]
    names = _unlike([n.partition(":")[0] for n in specs], [r.node for r in own[:count]])
    public = dict(zip(names, own[:count], strict=True))
    literals = set(literals) - set(public)
    bound = {_ref(graph, public, n, "input"): value for n, value in (feeds or {}).items() if n not in literals}
    wanted = names if inputs is None else list(inputs)
    entries = []
    for name in wanted:
        ref = _ref(graph, public, name, "input")
        if ref not in bound:
            entries.append(entry_of(graph, name, ref))
    results = [parse_ref(t.name, t.name) for t in concrete.outputs]
    found = _unlike(
        [n if not n or n[0] not in "0123456789" else f"output_{n}" for n in (
            name or "output_0" for name, _ in _leaves(concrete.structured_outputs))],
        [f"output_{i}" for i in range(len(results))],
    )  # fmt: skip
    produced = dict(zip(found, results, strict=True))
    pairs = [(n, _ref(graph, produced, n, "output")) for n in (found if outputs is None else outputs)]
    if not pairs:
        raise ImportRefused("no-such-output", graph.name, "the function returns no tensor")
    items = {ref: _captured(ref, value) for ref, value in zip(own[count:], captured, strict=True)}
    variables = {ref.node: value for ref, value in zip(own[count:], captured, strict=True)}
    made: dict[str, Tensor] = {}

    def read(name: str) -> Tensor | None:
        if name not in made and name in variables:
            made[name] = _variable(name, variables[name])
        return made.get(name)

    return Request(graph, entries, pairs, bound, read, items)


def _ref(graph: TFGraph, public: Mapping[str, Ref], name: str, what: str) -> Ref:
    if name in public:
        return public[name]
    if locate(graph, parse_ref(name, name).node) is not None:
        return find(graph, name, what)
    raise no_such(what, name, "the function", public)


def _number(external: Any) -> int:
    return int(getattr(external.dtype, "as_datatype_enum", 0))


def _captured(ref: Ref, external: Any) -> Item:
    """What the function closes over: a variable's handle, or an array."""
    number = _number(external)
    if number == RESOURCE:
        return Resource(ref.node)
    if number == VARIANT:
        return Resource(ref.node, "variant")
    if not hasattr(external, "numpy"):
        raise ImportRefused(
            "unsupported-source", ref.node, "the function captures a tensor of another graph", "pass the outer function"
        )
    return _array(ref.node, external)


def _array(name: str, tensor: Any) -> Tensor:
    kind = dtype_of(_number(tensor), name)
    array = np.asarray(tensor.numpy())
    return Tensor.weight(array.view(kind.np) if array.dtype != kind.np else array, kind)


def _variable(name: str, handle: Any) -> Tensor:
    stored = getattr(handle, "_handle_data", None)
    if stored is None or not stored.is_set:
        raise ImportRefused(
            "unsupported-op", name, "the function captures a resource that is no variable (a table or an iterator)",
            "cut the graph behind it with inputs=",
        )  # fmt: skip
    number = int(stored.shape_and_type[0].dtype)
    dtype_of(number, name)
    try:
        value = _tensorflow(name).raw_ops.ReadVariableOp(resource=handle, dtype=number)
    except Exception as e:
        raise ImportRefused(
            "weights", name, f"the variable cannot be read ({type(e).__name__})", "initialise it"
        ) from e
    return _array(name, value)


__all__ = ["is_tensorflow_object", "keras_function", "live_request"]
