"""SavedModel folders and TF1 checkpoints -> a request to import.

Owns tags, signatures and which stored tensor each variable is. Must not know ops' meanings beyond restoring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import ImportRefused
from ..formats.filebytes import read_file
from ..formats.limits import DEFAULT, ImportLimits
from . import schema
from .bundle import Bundle
from .graphdef import Attrs, Ref, TFGraph, TFNode, locate, parse_graph_def, parse_ref
from .importer import Entry, Request, entry_of, find, graph_request, no_such
from .tensors import dtype_of, shape_of, strings_of
from .textproto import TextReader, is_text
from .values import Tensor
from .wire import Message, Reader, Schema

_ASSIGN = ("AssignVariableOp", "Assign")
_PASS = ("Identity", "Cast", "ReadVariableOp")
_LONGEST = 4096  # characters of a path to an object
_HANDLES = ("VarHandleOp", "VariableV2", "Variable")


def decode_file(what: Schema, path: Path, limits: ImportLimits) -> tuple[Message, int]:
    """(the message of a file in wire or text form, the file's size)."""
    data = read_file(path, limits)
    reader = TextReader(path.name, limits) if is_text(data) else Reader(path.name, limits)
    return reader.decode(what, data), len(data)


def read_saved_model(path: Path, limits: ImportLimits, signature: str | None = None) -> tuple[Message, int]:
    """(the MetaGraph to serve, the file's size): of several that for serving, else one that has the signature."""
    where = next((n for n in ("saved_model.pb", "saved_model.pbtxt") if (path / n).is_file()), None)
    if where is None:
        raise ImportRefused("unsupported-format", path.name, "there is no saved_model.pb in the folder")
    proto, size = decode_file(schema.SAVED_MODEL, path / where, limits)
    graphs = proto.get("meta_graphs", [])
    if not graphs:
        raise ImportRefused("malformed", where, "the file holds no graph")

    def rank(meta: Message) -> tuple[bool, bool, int]:
        tags = meta.get("info", {}).get("tags", [])
        lacking = signature is not None and signature not in meta.get("signatures", {})
        return lacking, "serve" not in tags, len(tags)

    return min(graphs, key=rank), size


def saved_model_request(
    path: Path,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    signature: str | None,
    feeds: Mapping[str, Any] | None,
    limits: ImportLimits = DEFAULT,
) -> Request:
    """A signature of a SavedModel: inputs and outputs by its names, sorted."""
    meta, size = read_saved_model(path, limits, signature)
    graph = parse_graph_def(meta.get("graph", {}), "saved_model.pb", limits, size)
    bundle = None
    if (path / "variables" / "variables.index").is_file():
        bundle = Bundle(path / "variables" / "variables", limits)
    variables = variable_reader(graph, bundle, meta.get("saver", {}), limits, meta.get("objects", {}))
    signatures = {k: v for k, v in meta.get("signatures", {}).items() if not k.startswith("__saved_model")}
    if signature is None and "serving_default" not in signatures and len(signatures) != 1 and outputs is not None:
        request = graph_request(graph, inputs, outputs, feeds)
        request.variables = variables
        return request
    name = signature or (next(iter(signatures)) if len(signatures) == 1 else "serving_default")
    if name not in signatures:
        raise ImportRefused(
            "no-such-signature", name or path.name, "the model has no such signature",
            f"it has {', '.join(sorted(signatures))}; choose one with signature=" if signatures else "it has none",
        )  # fmt: skip
    return _signature_request(graph, signatures[name], inputs, outputs, feeds, variables, limits)


def _signature_request(
    graph: TFGraph,
    signature: Message,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    feeds: Mapping[str, Any] | None,
    variables: Callable[[str], Tensor | None],
    limits: ImportLimits,
) -> Request:
    ins, outs = signature.get("inputs", {}), signature.get("outputs", {})
    bound: dict[Ref, Any] = {}
    for name, value in (feeds or {}).items():
        if name not in ins:
            raise ImportRefused(
                "no-such-input", name, "the signature has no such input", f"it has {', '.join(sorted(ins))}"
            )
        bound[_tensor(graph, ins[name], name)] = value
    entries = []
    for name in inputs if inputs is not None else sorted(ins):
        if name in (feeds or {}):
            continue
        if name not in ins:
            # Any other tensor, by its name or its path through the functions.
            if locate(graph, parse_ref(name, name).node) is None:
                raise no_such("input", name, "the signature", ins)
            entries.append(entry_of(graph, name, find(graph, name, "input")))
            continue
        info = ins[name]
        ref = _tensor(graph, info, name)
        entries.append(
            Entry(name, ref, dtype_of(info.get("dtype", 0), name), shape_of(info.get("shape"), name, limits))
        )
    wanted = []
    for name in outputs if outputs is not None else sorted(outs):
        if name not in outs:
            if locate(graph, parse_ref(name, name).node) is None:
                raise no_such("output", name, "the signature", outs)
            wanted.append((name, find(graph, name, "output")))
            continue
        wanted.append((name, _tensor(graph, outs[name], name)))
    if not wanted:
        raise ImportRefused(
            "no-such-output", graph.name, "the signature has no outputs", "choose another with signature="
        )
    return Request(graph, entries, wanted, bound, variables)


def _tensor(graph: TFGraph, info: Message, name: str) -> Ref:
    text = info.get("name", "")
    if not text:
        raise ImportRefused("unsupported-dtype", name, "sparse and composite tensors are not supported")
    ref = parse_ref(text, name)
    if ref.node not in graph.nodes:
        raise ImportRefused("malformed", name, f"the signature names {text!r}, which is not in the graph")
    return ref


# -- variables ---------------------------------------------------------------------------------------------------------


def variable_reader(
    graph: TFGraph, bundle: Bundle | None, saver: Message, limits: ImportLimits, objects: Message | None = None
) -> Callable[[str], Tensor | None]:
    """node of a variable -> its contents. The key is what the restore operation assigns to that node; else the path to
    the object that a function captured there.

    Names are not enough: an exported Keras model names a variable ``conv2d/kernel_1`` in the graph and
    ``variables/3/.ATTRIBUTES/VARIABLE_VALUE`` in the checkpoint.
    """
    keys: dict[str, tuple[str, str]] | None = None
    made: dict[str, Tensor] = {}

    def read(name: str) -> Tensor | None:
        nonlocal keys
        if bundle is None:
            return None
        if name not in made:
            if keys is None:
                keys = captured(graph, objects or {}, bundle) | restored(graph, saver)
            key, part = keys.get(name, (None, ""))
            if key is None:
                node = graph.nodes[name]
                shared = Attrs(node, limits).s("shared_name", "") if node.op in _HANDLES else ""
                key = next((k for k in (shared, name) if k and k in bundle), None)
            if key is None:
                return None
            array, kind = bundle.read(key, part)
            made[name] = Tensor.weight(array, kind)
        return made[name]

    return read


def captured(graph: TFGraph, objects: Message, bundle: Bundle) -> dict[str, tuple[str, str]]:
    """Variable node -> (checkpoint key, ""), by the objects whose handles the calls of the top level pass.

    ``tf.saved_model.save`` of a Keras 3 model restores copies of the variables that the signatures read; its objects
    are right. A key is the path from the root, by the shortest way.
    """
    nodes, functions = objects.get("nodes", []), objects.get("functions", {})
    paths: dict[int, str] = {0: ""}
    for at in (queue := [0]):
        for child in nodes[at].get("children", []) if at < len(nodes) else []:
            to = child.get("node", 0)
            if 0 <= to < len(nodes) and to not in paths and len(paths[at]) < _LONGEST:
                # The checkpoint escapes what would end a step.
                paths[to] = paths[at] + child.get("name", "").replace(".", "..").replace("/", ".S") + "/"
                queue.append(to)
    out: dict[str, tuple[str, str]] = {}
    for node in graph.nodes.values():
        if "f" not in node.attrs:
            continue
        given = functions.get(Attrs(node, graph.limits).function("f"), {}).get("captured", [])
        if len(given) > len(node.inputs):
            continue
        for ref, at in zip(node.inputs[len(node.inputs) - len(given) :], given, strict=True):
            key = f"{paths.get(at, '')}.ATTRIBUTES/VARIABLE_VALUE"
            if key in bundle:
                out[_root(graph.nodes, ref)] = (key, "")
    return out


def restored(graph: TFGraph, saver: Message) -> dict[str, tuple[str, str]]:
    """Variable node -> (checkpoint key, slice of it), read off the restore function or a TF1 graph's restore nodes."""
    out: dict[str, tuple[str, str]] = {}
    name = saver.get("restore_op_name", "").partition(":")[0]
    node = graph.nodes.get(name)
    if node is not None and "f" in node.attrs:
        function = graph.functions.get(Attrs(node, graph.limits).function("f"))
        if function is not None:
            given = {arg: ref for (arg, _), ref in zip(function.args, node.inputs, strict=False)}
            for handle, key in _assigned(function.nodes, graph.limits):
                target = _root(graph.nodes, given.get(handle, Ref(handle)))
                if target in graph.nodes:
                    out[target] = key
    for handle, key in _assigned(graph.nodes, graph.limits):
        out.setdefault(handle, key)
    return out


def _assigned(nodes: Mapping[str, TFNode], limits: ImportLimits) -> Iterator[tuple[str, tuple[str, str]]]:
    """(variable, (key, slice)) for every assignment of a restored tensor."""
    keys: dict[str, list[tuple[str, str]]] = {}
    for node in nodes.values():
        if node.op not in _ASSIGN or len(node.inputs) < 2:
            continue
        source = node.inputs[1]
        seen: set[str] = set()
        while source.node in nodes and nodes[source.node].op in _PASS and source.node not in seen:
            seen.add(source.node)
            if not nodes[source.node].inputs:
                break
            source = nodes[source.node].inputs[0]
        restore = nodes.get(source.node)
        if restore is None or restore.op != "RestoreV2" or len(restore.inputs) < 3:
            continue
        if source.node not in keys:
            names, parts = (_strings(nodes, restore.inputs[i].node, limits) for i in (1, 2))
            keys[source.node] = list(zip(names, parts, strict=True)) if len(names) == len(parts) else []
        if 0 <= source.index < len(keys[source.node]):
            yield _root(nodes, node.inputs[0]), keys[source.node][source.index]


def _strings(nodes: Mapping[str, TFNode], name: str, limits: ImportLimits) -> list[str]:
    """The texts of a constant; none where it is something else. One empty text may stand for all."""
    node = nodes.get(name)
    if node is None or node.op != "Const":
        return []
    proto = Attrs(node, limits).tensor_proto("value")
    stored = [s.decode("utf-8", "replace") for s in strings_of(proto, name, limits)]
    shape = shape_of(proto.get("shape"), name, limits) or ()
    count = math.prod(d or 0 for d in shape)
    limits.check("nodes", count, name, "the number of strings")
    last = stored[-1] if stored else ""
    return stored + [last] * (count - len(stored))


def _root(nodes: Mapping[str, TFNode], ref: Ref) -> str:
    """The node behind identities."""
    name, seen = ref.node, set()
    while name in nodes and nodes[name].op == "Identity" and nodes[name].inputs and name not in seen:
        seen.add(name)
        name = nodes[name].inputs[0].node
    return name


# -- TF1 checkpoints ---------------------------------------------------------------------------------------------------


def checkpoint_request(
    path: Path,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    feeds: Mapping[str, Any] | None,
    limits: ImportLimits = DEFAULT,
) -> Request:
    """A TF1 checkpoint: prefix (or its .index, .meta or .data file, or the folder). The graph is in the .meta file."""
    prefix = _prefix(path, limits)
    meta_path = prefix.with_name(prefix.name + ".meta")
    if not meta_path.is_file():
        raise ImportRefused(
            "no-model", prefix.name, "the checkpoint holds weights only: there is no .meta file beside it",
            "export a SavedModel, or import the model's own file",
        )  # fmt: skip
    meta, size = decode_file(schema.META_GRAPH, meta_path, limits)
    graph = parse_graph_def(meta.get("graph", {}), meta_path.name, limits, size)
    request = graph_request(graph, inputs, outputs, feeds)
    # A graph without its weights opens as far as no output needs them.
    stored = prefix.with_name(prefix.name + ".index").is_file()
    bundle = Bundle(prefix, limits) if stored else None
    request.variables = variable_reader(graph, bundle, meta.get("saver", {}), limits)
    return request


def _prefix(path: Path, limits: ImportLimits) -> Path:
    if path.is_dir():
        text = bytes(read_file(path / "checkpoint", limits)[: 1 << 16]).decode("utf-8", "replace")
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model_checkpoint_path":
                # Only the base name: a path in a file is never followed.
                name = value.strip().strip('"').replace("\\", "/").rpartition("/")[2]
                if name in ("", ".", ".."):
                    break
                return path / name
        raise ImportRefused("malformed", path.name, "the checkpoint file names no checkpoint")
    name = path.name
    for suffix in (".index", ".meta"):
        if name.endswith(suffix):
            return path.with_name(name.removesuffix(suffix))
    head, data, _ = name.partition(".data-")
    return path.with_name(head) if data else path


__all__ = ["checkpoint_request", "decode_file", "read_saved_model", "saved_model_request"]
