"""Suite ``tf_graphs``: frozen GraphDefs whose inputs are mostly stored as constants.

Constants called ``in_N`` become inputs (else ``Variable*`` and ``Const*``), fed with their own values, so that folding
cannot pass a case; one that decides a shape stays what it is. A graph without any such constant is ``constant``.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import fusewright as fw
from fusewright.frontends.formats.limits import DEFAULT
from fusewright.frontends.tensorflow import schema
from fusewright.frontends.tensorflow.graphdef import Attrs, TFGraph, TFNode, parse_graph_def
from fusewright.frontends.tensorflow.tensors import DTYPES, array_of, decoded
from fusewright.frontends.tensorflow.wire import Reader

from case import Case

CORPUS = "tf_graphs.zip"
PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def keys(corpora: Path) -> list[str]:
    with zipfile.ZipFile(corpora / CORPUS) as archive:
        return sorted(json.loads(archive.read("index.json")))


def load(corpora: Path, key: str, scratch: Path) -> Case:
    member = key.replace("/", "__")
    with zipfile.ZipFile(corpora / CORPUS) as archive:
        entry = json.loads(archive.read("index.json"))[key]
        content = archive.read(f"{member}.pb")
        with np.load(io.BytesIO(archive.read(f"{member}.npz")), allow_pickle=False) as stored:
            values = {name.replace("|", "/"): stored[name] for name in stored.files}
    source = scratch / f"{member}.pb"
    source.write_bytes(content)
    graph = parse_graph_def(Reader(member).decode(schema.GRAPH, memoryview(content)), member)
    outputs = [name for name in entry["outputs"] if name in values and values[name].dtype.kind not in "SUO"]
    if not outputs:
        return Case(source, uncounted="no_reference")
    feeds, lifted = _inputs(graph, values)
    options: dict[str, Any] = {"inputs": list(feeds), "outputs": outputs}
    options, types = _settle(source, options, feeds, lifted)
    if not options["inputs"]:
        return Case(source, uncounted="constant")
    wants = {name: values[name] for name in outputs}
    if types is not None:
        # Some references are stored in a wider type.
        wants = {name: np.asarray(want).astype(types[name].compute) for name, want in wants.items()}
    rtol = 2.0**-7 if types is not None and any(t.name == "bf16" for t in types.values()) else 0.0
    # The stored decimals write subnormal numbers as 0.
    atol = max(
        [0.0, *(float(np.finfo(w.dtype).tiny) for w in wants.values() if w.dtype.itemsize > 2 and w.dtype.kind == "f")]
    )
    return Case(source, {name: feeds[name] for name in options["inputs"]}, wants, options, rtol, atol)


def _constant(node: TFNode) -> np.ndarray | None:
    proto = Attrs(node).tensor_proto("value")
    if proto.get("dtype") not in DTYPES:
        return None
    array, kind = array_of(proto, node.name, DEFAULT, 1 << 20)
    return np.array(decoded(array, kind))


def _inputs(graph: TFGraph, values: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], set[str]]:
    """(name -> value, which of them are lifted constants)."""
    feeds = {
        f"{n.name}:0": values[f"{n.name}:0"]
        for n in graph.nodes.values()
        if n.op in PLACEHOLDERS and f"{n.name}:0" in values
    }
    constants = [n for n in graph.nodes.values() if n.op == "Const"]
    chosen = [n for n in constants if re.fullmatch(r"in_[0-9]+", n.name)]
    if not chosen and not feeds:
        chosen = [n for n in constants if re.match(r"Variable|Const", n.name)]
    lifted = {}
    for node in chosen:
        value = _constant(node)
        if value is not None:
            lifted[f"{node.name}:0"] = value
    return {**feeds, **lifted}, set(lifted)


def _settle(
    source: Path, options: dict[str, Any], feeds: dict[str, np.ndarray], lifted: set[str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(options that leave alone what decides a shape, the outputs' types or None if the import is refused)."""
    shapes = {n: feeds[n].shape for n in options["inputs"] if n not in lifted}
    while True:
        given = {**options, "shapes": {n: s for n, s in shapes.items() if n in options["inputs"]}}
        try:
            graph = fw.import_model(source, **given)
        except fw.FusewrightError as error:
            named = [name for name in getattr(error, "inputs", ()) if name in options["inputs"]]
            if not named:
                return given, None
            bound = {**options.get("feeds", {}), **{n: feeds[n] for n in named if n not in lifted}}
            options = {**options, "feeds": bound, "inputs": [n for n in options["inputs"] if n not in named]}
        except Exception:
            return given, None  # the runner reports it
        else:
            return given, {name: v.dtype for name, v in zip(graph.output_names, graph.outputs, strict=True)}
