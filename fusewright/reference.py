"""Values to hold a model against: stored ones, a live Keras or TensorFlow model's, or ONNX Runtime's.

Owns running the other side, inner values included, and naming what comes out as the importers name it.
Must not know how values are compared. The other side's packages are the caller's; nothing is imported unasked.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .core.errors import InputRefused, MissingDependency
from .ir.graph import Graph

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Reference:
    """Arrays by name: inputs, outputs, inner values. ``exact_names``: a name that the graph lacks is a mistake."""

    values: Arrays
    exact_names: bool


def reference(graph: Graph, source: Any, against: Any, feeds: Mapping[str, Any] | None) -> Reference:
    """What ``against`` says about the model. Raises InputRefused when it cannot be used."""
    given = {name: np.asarray(value) for name, value in (feeds or {}).items()}
    if isinstance(against, Mapping):
        return Reference({**{k: np.asarray(v) for k, v in against.items()}, **given}, True)
    if isinstance(against, str) and against == "onnxruntime":
        fed = draw(graph, given)
        return Reference({**fed, **_onnxruntime(source, graph, fed)}, False)
    if isinstance(against, (str, os.PathLike)):
        return Reference({**_stored(against), **given}, True)
    fed = draw(graph, given)
    if hasattr(against, "get_concrete_function") or hasattr(against, "structured_input_signature"):
        return Reference({**fed, **_tensorflow(against, graph, fed)}, False)
    if hasattr(against, "layers") and hasattr(against, "inputs"):
        return Reference({**fed, **_keras(against, graph, fed)}, False)
    if callable(against):
        return Reference({**fed, **_outputs(graph, _called(against, graph, fed))}, False)
    raise InputRefused(
        f"against={against!r} is none of: an .npz path, a mapping of arrays, a live model, 'onnxruntime'"
    )


def draw(graph: Graph, given: Mapping[str, np.ndarray]) -> Arrays:
    """An array per input: as given, else small random numbers with every symbol 2 (or its least value)."""
    rng = np.random.default_rng(0)
    out: Arrays = {}
    for v in graph.inputs:
        if v.name in given:
            out[v.name] = given[v.name]
            continue
        env = {s: max(2, graph.bounds.get(s, (0, None))[0]) for s in v.type.symbols}
        shape = v.type.concrete(env)
        if v.dtype.is_float:
            out[v.name] = rng.normal(size=shape).astype(v.dtype.compute)
        else:
            out[v.name] = rng.integers(0, 2, shape).astype(v.dtype.np)
    return out


def _stored(path: str | os.PathLike[str]) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {k: data[k] for k in data.files}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputRefused(f"{os.fspath(path)}: not a readable .npz: {error}") from None


def _called(model: Any, graph: Graph, feeds: Arrays) -> Any:
    arrays = [feeds[v.name] for v in graph.inputs]
    return model(arrays[0] if len(arrays) == 1 else arrays)


def _outputs(graph: Graph, found: Any) -> Arrays:
    """By name where the names are ours, else by position."""
    if isinstance(found, Mapping):
        if set(found) >= set(graph.output_names):
            return {n: np.asarray(found[n]) for n in graph.output_names}
        found = list(found.values())
    values = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(values) != len(graph.output_names):
        raise InputRefused(f"the reference gives {len(values)} outputs, the model has {len(graph.output_names)}")
    return {n: np.asarray(v) for n, v in zip(graph.output_names, values)}


def _keras(model: Any, graph: Graph, feeds: Arrays) -> Arrays:
    """Outputs, and every layer's result by the layer's name where the model is functional."""
    inner: dict[str, Any] = {}
    for layer in model.layers:
        nodes = getattr(layer, "_inbound_nodes", ())
        single = len(nodes) == 1 and not isinstance(getattr(layer, "output", None), (list, tuple, dict))
        if single and layer.__class__.__name__ != "InputLayer":
            inner[layer.name] = layer.output
    probe = next((c for c in type(model).__mro__ if c.__name__ == "Model"), None)
    out = _outputs(graph, _called(model, graph, feeds))
    if inner and probe is not None:
        watched = probe(model.inputs, inner)([feeds[v.name] for v in graph.inputs])
        out |= {n: np.asarray(v) for n, v in watched.items() if n not in graph.output_names}
    return out


def _tensorflow(function: Any, graph: Graph, feeds: Arrays) -> Arrays:
    """Outputs of a ConcreteFunction (or of a function with one trace), and what its own ops give, by op name."""
    concrete = function if hasattr(function, "structured_input_signature") else function.get_concrete_function()
    tf = importlib.import_module("tensorflow")
    convert = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    # Without variables its graph can be imported again and asked for any tensor.
    frozen = convert.convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    inner = {
        op.name: op.outputs[0].name
        for op in frozen.graph.get_operations()
        if len(op.outputs) == 1 and op.type not in ("Placeholder", "Const", "Identity", "NoOp")
        and op.outputs[0].dtype not in (tf.string, tf.resource, tf.variant)
    }  # fmt: skip
    definition = frozen.graph.as_graph_def()
    whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    asked = {"inner": inner, "outputs": [t.name for t in frozen.outputs]}
    fetched = tf.nest.map_structure(whole.graph.as_graph_element, asked)
    places = [t.name for t in frozen.inputs]
    names = [name.partition(":")[0] for name in places]
    if set(names) != set(feeds):  # a signature's own names: then by position
        names = [v.name for v in graph.inputs]
    if len(names) != len(places):
        raise InputRefused(f"the reference takes {len(places)} inputs, the model has {len(names)}")
    found = whole.prune([whole.graph.as_graph_element(p) for p in places], fetched)(
        *(tf.constant(feeds[name]) for name in names)
    )
    keys = concrete.structured_outputs
    outputs = dict(zip(sorted(keys), found["outputs"])) if isinstance(keys, Mapping) else list(found["outputs"])
    return {**{n: np.asarray(v) for n, v in found["inner"].items()}, **_outputs(graph, outputs)}


def _onnxruntime(source: Any, graph: Graph, feeds: Arrays) -> Arrays:
    """Every tensor of an ONNX model, by its own name."""
    try:
        onnx = importlib.import_module("onnx")
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        hint = f"pip install {error.name}"
        raise MissingDependency(f"against='onnxruntime' needs the package {error.name!r}: {hint}") from None
    path = isinstance(source, (str, os.PathLike))
    if not path and type(source).__name__ != "ModelProto" or path and not os.fspath(source).endswith(".onnx"):
        raise InputRefused("against='onnxruntime' compares with the same ONNX file; this source is none")
    try:
        model = onnx.load(os.fspath(source)) if path else source
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        known = {o.name for o in watched.graph.output}
        for name in _tensors(watched.graph.node):
            if name not in known:
                watched.graph.output.append(onnx.ValueInfoProto(name=name))
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = runtime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = {i.name for i in session.get_inputs()}
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in wanted})))
    except Exception as error:  # its exceptions have no common family
        raise InputRefused(f"ONNX Runtime does not run this model: {type(error).__name__}: {error}") from None


def _tensors(nodes: Iterable[Any]) -> list[str]:
    return [name for node in nodes for name in node.output if name]
