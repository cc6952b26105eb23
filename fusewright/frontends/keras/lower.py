"""KerasModel -> Graph.

Owns the walk over calls, masks between layers, inputs, outputs and symbols. Must not know what a single layer does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.dims import Extent, extent, substitute
from ...core.dtypes import DType, dtype
from ...core.errors import FusewrightError, ImportRefused, Problem, TypeRefused
from ...ir.builder import Builder
from ...ir.graph import Graph, Origin, Value
from ..formats.limits import DEFAULT, ImportLimits
from ..registry import registered_layer
from ..symbols import Unequal, solve, unequal
from .call import CELLS, HINTS, LAYERS, OPERATIONS, REFUSED, REFUSED_OPERATIONS, Call, Tensor, policy_dtypes
from .model import KerasModel, LayerCall, LayerSpec, Ref, leaves, map_tree, walk


def check_known(model: KerasModel) -> None:
    """Refuse every class that has no lowering, all of them in one error."""
    problems: list[Problem] = []
    for spec in walk(model):
        kind = spec.class_name
        if spec.operation:
            if kind not in OPERATIONS:
                why = REFUSED_OPERATIONS.get(kind, "it is not known here")
                hint = "rewrite it with layers, or with operations of docs/keras-support.md"
                problems.append(Problem("unsupported-op", spec.path, f"keras.ops node {kind}: {why}", hint))
        elif registered_layer(kind) is not None or spec.model is not None or (kind == "InputLayer" and not spec.custom):
            continue
        elif kind in REFUSED and not spec.custom:
            own = f'rewrite it with layers, or lower it in your own code: @fw.register_layer("{kind}")'
            hint = HINTS.get(kind, own)
            problems.append(
                Problem(
                    "unsafe-layer" if kind == "Lambda" else "unsupported-layer",
                    spec.path,
                    f"{kind}: {REFUSED[kind]}",
                    hint,
                )
            )
        elif spec.custom or (kind not in LAYERS and kind not in CELLS):
            hint = f'register its lowering: @fw.register_layer("{kind}")'
            problems.append(Problem("unknown-layer", spec.path, f"layer class {kind!r} has no lowering here", hint))
    if problems:
        raise ImportRefused.of(problems)


class Lowerer:
    """Lowers one model into one Builder."""

    def __init__(self, b: Builder, limits: ImportLimits = DEFAULT) -> None:
        self.b, self.limits = b, limits
        # The spec is kept with its constant: an id may be given again once its object is gone.
        self._weights: dict[tuple[int, str, str], tuple[LayerSpec, Value]] = {}

    def weight(self, spec: LayerSpec, name: str, array: np.ndarray, to: DType) -> Value:
        """The constant for a weight, made once."""
        key = (id(spec), name, to.name)
        found = self._weights.get(key)
        if found is None:
            found = self._weights[key] = (spec, self.b.constant(array, to))
        return found[1]

    # -- models -----------------------------------------------------------------------------------------------------

    def model(self, model: KerasModel, given: Any) -> Any:
        """Outputs (a tree of Tensors) of a model called on ``given`` (a tree of Tensors)."""
        if model.sequential:
            x = next(iter(leaves(given)), None)
            for spec in model.layers:
                if spec.class_name == "InputLayer" and not spec.custom:
                    continue
                x = self.call(spec, [x], {})
            return x
        return self.functional(model, _bind_inputs(model, given), model.outputs)

    def functional(self, model: KerasModel, values: dict[Ref, Any], wanted: Any) -> Any:
        """The tree ``wanted`` of Refs, computed from those in ``values``; only what it needs is lowered."""
        done: dict[tuple[str, int], list[Any]] = {}
        for ref, tensor in values.items():
            done[(ref.layer, ref.node)] = [tensor]
        specs = {s.name: s for s in model.layers}
        active: set[tuple[str, int]] = set()
        for target in leaves(wanted):
            stack = [(target.layer, target.node)]
            while stack:
                key = stack[-1]
                if key in done:
                    stack.pop()
                    continue
                spec = specs.get(key[0])
                if spec is None or not 0 <= key[1] < len(spec.calls):
                    raise ImportRefused(
                        "malformed", model.path, f"a node refers to call {key[1]} of {key[0]!r}, which is not there"
                    )
                call = spec.calls[key[1]]
                missing = [
                    (r.layer, r.node)
                    for r in leaves([call.args, call.kwargs])
                    if isinstance(r, Ref) and (r.layer, r.node) not in done
                ]
                if missing:
                    if key in active:
                        raise ImportRefused("malformed", spec.path, "the model's graph has a cycle")
                    active.add(key)
                    stack.extend(missing)
                    continue
                done[key] = list(leaves(self._run(spec, call, done)))
                stack.pop()
        return map_tree(lambda r: _pick(done, r, model.path), wanted)

    def _run(self, spec: LayerSpec, call: LayerCall, done: dict[tuple[str, int], list[Any]]) -> Any:
        fill = lambda v: _pick(done, v, spec.path) if isinstance(v, Ref) else v
        return self.call(spec, map_tree(fill, call.args), map_tree(fill, call.kwargs))

    # -- one layer --------------------------------------------------------------------------------------------------

    def call(self, spec: LayerSpec, args: list[Any], kwargs: dict[str, Any], b: Builder | None = None) -> Any:
        """Outputs of one layer call: a Tensor or a tree of them."""
        b = b or self.b
        with b.origin(layer=spec.path, source=spec.class_name):
            try:
                return self._dispatch(spec, args, kwargs, b)
            except TypeRefused as e:
                raise unequal(str(e), spec.path, f"{spec.class_name}: {e}") from None
            except FusewrightError:
                raise
            except (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError) as e:
                # Options of a wrong kind surface as these; the importer's promise is one family of errors.
                raise ImportRefused(
                    "malformed",
                    spec.path,
                    f"{spec.class_name}: an option or argument is not valid ({type(e).__name__}: {e})",
                ) from e

    def _dispatch(self, spec: LayerSpec, args: list[Any], kwargs: dict[str, Any], b: Builder) -> Any:
        tensors = [t for t in leaves(args) if isinstance(t, Tensor)]
        masks = [t.mask for t in tensors]
        explicit = kwargs.get("mask")
        if isinstance(explicit, Tensor):
            masks = [explicit.value, *masks[1:]]
        elif isinstance(explicit, (list, tuple)) and any(isinstance(m, Tensor) for m in explicit):
            masks = [m.value if isinstance(m, Tensor) else None for m in explicit]
        call = Call(self, spec, masks, b)
        call.explicit_mask = explicit is not None
        custom = registered_layer(spec.class_name)
        if spec.operation:
            plain_kwargs = map_tree(_value, kwargs)
            return self._wrap(spec, OPERATIONS[spec.class_name](call, *map_tree(_value, args), **plain_kwargs), None)
        if spec.model is not None and custom is None:
            given = args[0] if len(args) == 1 else args
            if isinstance(explicit, Tensor) and isinstance(given, Tensor):
                given = Tensor(given.value, explicit.value)
            return self.model(spec.model, given)
        rest = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
        if custom is not None:
            given = list(leaves(map_tree(_value, args)))
            return self._wrap(spec, custom(call, *given, **map_tree(_value, rest)), None)
        lowering = LAYERS[spec.class_name]

        def plain(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            value = item.value
            if lowering.autocast and value.dtype.is_float:
                value = call.float(value)
            call.mask_of[value] = item.mask
            return value

        result = lowering.fn(call, *map_tree(plain, args), **map_tree(plain, rest))
        return self._wrap(spec, result, call.mask if lowering.mask == "pass" else None)

    def _wrap(self, spec: LayerSpec, result: Any, mask: Value | None) -> Any:
        def wrap(item: Any) -> Any:
            if isinstance(item, Tensor):
                return item
            if isinstance(item, Value):
                return Tensor(item, mask)
            raise spec.refuse(f"its lowering returned {type(item).__name__}, not a Value")

        return map_tree(wrap, result)


def _value(item: Any) -> Any:
    return item.value if isinstance(item, Tensor) else item


def _pick(done: Mapping[tuple[str, int], list[Any]], ref: Ref, where: str) -> Any:
    outputs = done[(ref.layer, ref.node)]
    if not 0 <= ref.tensor < len(outputs):
        raise ImportRefused("malformed", where, f"{ref.layer!r} has no output {ref.tensor}")
    return outputs[ref.tensor]


def _bind_inputs(model: KerasModel, given: Any) -> dict[Ref, Any]:
    refs = list(leaves(model.inputs))
    if isinstance(given, dict):
        if isinstance(model.inputs, dict) and set(given) == set(model.inputs):
            return {model.inputs[k]: v for k, v in given.items()}
        names = {r.layer: r for r in refs}
        if set(given) <= set(names):
            return {names[k]: v for k, v in given.items()}
    tensors = list(leaves(given))
    if len(tensors) != len(refs):
        raise ImportRefused(
            "malformed", model.path, f"the model takes {len(refs)} inputs, it is called on {len(tensors)}"
        )
    return dict(zip(refs, tensors, strict=True))


# -- the whole ---------------------------------------------------------------------------------------------------------


Entry = tuple[str, Any, str, "Ref | None"]  # name, shape, dtype, where it enters


def _input_entry(model: KerasModel) -> tuple[str, Any, str]:
    """(name, shape, dtype) of a Sequential model's input."""
    first = model.layers[0] if model.layers else None
    shape: Any
    shape, name, kind = model.input_shape, f"{model.name}_input", "float32"
    inner: LayerSpec | None = first
    while inner is not None:
        found = inner.config.get("batch_input_shape") or inner.config.get("batch_shape")
        if found is None and inner.class_name == "Embedding" and inner.config.get("input_length"):
            found = [None, inner.config["input_length"]]
        if found is not None:
            shape = found
            name = inner.name if inner.class_name == "InputLayer" else f"{inner.name}_input"
            kind = policy_dtypes(inner.config.get("dtype"))[0] if inner.class_name == "InputLayer" else "float32"
            break
        below = inner.model
        if below is None:
            break
        if below.sequential:
            inner = below.layers[0] if below.layers else None
        else:
            inner = below.layer(next(leaves(below.inputs)).layer)
    if inner is not None and inner.version[0] < 2:
        kind = inner.config.get("input_dtype") or kind
    elif first is not None and first.class_name == "Embedding":
        kind = "float32" if first.version[0] < 3 else "int32"
    return name, shape, kind


def _input_entries(model: KerasModel) -> list[Entry]:
    if model.sequential:
        return [(*_input_entry(model), None)]
    out: list[Entry] = []
    for ref in leaves(model.inputs):
        spec = model.layer(ref.layer)
        config = spec.config
        if config.get("sparse") or config.get("ragged"):
            raise spec.refuse("sparse and ragged inputs are not supported")
        shape = config.get("batch_shape")
        shape = config.get("batch_input_shape") if shape is None else shape
        out.append((spec.name, shape, policy_dtypes(config.get("dtype"))[0], ref))
    return out


def _shapes(entries: Sequence[Entry], given: Mapping[str, Any] | None) -> list[tuple[Extent, ...]]:
    """Shapes with symbols: None on axis 0 is N, the others ``<input>_<axis>``, or T if there is only one."""
    raw: list[list[Any]] = []
    given = dict(given or {})
    for name, shape, _, _ in entries:
        shape = given.pop(name, shape)
        if shape is None:
            raise ImportRefused(
                "no-shape", name, "the file does not say the input's shape", f"pass shapes={{{name!r}: (...)}}"
            )
        if not isinstance(shape, (list, tuple)) or any(s is not None and isinstance(s, bool) for s in shape):
            raise ImportRefused("malformed", name, f"{shape!r} is not a shape")
        raw.append(list(shape))
    if given:
        raise ImportRefused(
            "no-such-input",
            next(iter(given)),
            "the model has no such input",
            f"it has {', '.join(e[0] for e in entries)}",
        )
    free = [(i, a) for i, shape in enumerate(raw) for a, s in enumerate(shape) if s is None and a > 0]
    for i, a in free:
        raw[i][a] = "T" if len(free) == 1 else f"{symbol_name(entries[i][0])}_{a}"
    out: list[tuple[Extent, ...]] = []
    for (name, *_), shape in zip(entries, raw, strict=True):
        try:
            dims = tuple(extent("N" if s is None else s) for s in shape)
        except FusewrightError as e:
            raise ImportRefused("malformed", name, f"{shape!r} is not a shape: {e}") from None
        if any(isinstance(d, int) and d < 0 for d in dims):
            raise ImportRefused("malformed", name, f"{shape!r} is not a shape")
        out.append(dims)
    return out


def symbol_name(name: str) -> str:
    """A layer name as a symbol's."""
    clean = re.sub(r"[^A-Za-z0-9_.]", "_", name)
    return clean if re.match(r"[A-Za-z_]", clean) and clean not in ("min", "max") else f"_{clean}"


def build_graph(
    model: KerasModel,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    shapes: Mapping[str, Any] | None = None,
    limits: ImportLimits = DEFAULT,
) -> Graph:
    """Lower a whole model. ``inputs`` reorders the model's inputs; ``outputs`` names layers to return."""
    check_known(model)
    entries = _input_entries(model)
    if inputs is not None:
        names = [e[0] for e in entries]
        if sorted(inputs) != sorted(names):
            raise ImportRefused(
                "no-such-input", str(list(inputs)), f"the model's inputs are {', '.join(names)}", "name all of them"
            )
        entries = [entries[names.index(n)] for n in inputs]
    typed = _shapes(entries, shapes)
    equal: dict[str, Extent] = {}
    while True:
        bound = [tuple(substitute(d, equal) for d in shape) for shape in typed]
        try:
            return _lower(model, entries, bound, outputs, limits)
        except Unequal as e:
            # Two unnamed extents have to agree (two sequences that are added): they are one symbol. Each round solves
            # one more symbol, so this ends.
            more = solve(e.left, e.right, equal)
            if more is None or len(more) > 256:
                raise ImportRefused(e.code, e.where, e.reason, e.hint) from None
            equal = more


def _lower(
    model: KerasModel,
    entries: Sequence[Entry],
    shapes: Sequence[tuple[Extent, ...]],
    outputs: Sequence[str] | None,
    limits: ImportLimits,
) -> Graph:
    b = Builder(origin=Origin(file=model.file))
    tensors: list[Tensor] = []
    for (name, _, kind, _), shape in zip(entries, shapes, strict=True):
        try:
            tensors.append(Tensor(b.input(name, dtype(kind), shape)))
        except TypeRefused as e:
            raise ImportRefused("unsupported-dtype", name, str(e)) from None
    lowerer = Lowerer(b, limits)
    if model.sequential:
        found = _sequential_outputs(lowerer, model, tensors[0], outputs)
    else:
        values = {e[3]: t for e, t in zip(entries, tensors, strict=True) if e[3] is not None}
        wanted = _wanted(model, outputs)
        tree = lowerer.functional(model, values, [ref for _, ref in wanted])
        found = [(name, t) for (name, _), t in zip(wanted, tree, strict=True)]
    named: dict[str, Value] = {}
    for name, tensor in found:
        unique, i = name, 1
        while unique in named:
            unique, i = f"{name}_{i}", i + 1
        named[unique] = tensor.value
    graph = b.build(named)
    if model.training is not None:
        graph.meta["training"] = model.training
    return graph


def _wanted(model: KerasModel, outputs: Sequence[str] | None) -> list[tuple[str, Ref]]:
    if outputs is None:
        if isinstance(model.outputs, dict) and all(isinstance(v, Ref) for v in model.outputs.values()):
            return list(model.outputs.items())
        return [(r.layer, r) for r in leaves(model.outputs)]
    wanted = []
    for text in outputs:
        name, _, index = text.partition(":")
        if not any(s.name == name for s in model.layers):
            raise ImportRefused("no-such-output", text, "the model has no such layer")
        calls = max(len(model.layer(name).calls), 1)
        wanted.append((text if index else name, Ref(name, calls - 1, int(index) if index.isdigit() else 0)))
    return wanted


def _sequential_outputs(
    lowerer: Lowerer, model: KerasModel, x: Any, outputs: Sequence[str] | None
) -> list[tuple[str, Tensor]]:
    seen: dict[str, Any] = {}
    last = model.name
    for spec in model.layers:
        if spec.class_name == "InputLayer" and not spec.custom:
            continue
        x = lowerer.call(spec, [x], {})
        seen[spec.name] = x
        last = spec.name
    if outputs is not None:
        missing = [n for n in outputs if n not in seen]
        if missing:
            raise ImportRefused("no-such-output", missing[0], "the model has no such layer")
        return [(n, t) for n in outputs for t in leaves(seen[n])]
    return [(last, t) for t in leaves(x)]
