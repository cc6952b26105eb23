"""The portable graph of a bundle: text with weights beside it, and the interpreter that runs it.

Owns the member graph.txt: lines ``@k = {...}`` that say where constant k lies in weights.bin, then the graph's text.
Runs on any platform with NumPy; slow, and the reference for what the native code should give.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .core.dtypes import DTYPES
from .core.errors import BundleRefused, InputRefused
from .core.layout import Layout
from .core.manifest import Signature
from .ir.graph import Const, Graph
from .ir.interpreter import Interpreter
from .ir.parser import parse_graph
from .ir.text import print_graph
from .ir.types import TensorType
from .runtime.format import Container

SMALL = 64  # bytes; smaller constants and splats stay in the text


class Store(Protocol):
    """Where constants were put: see backends.numba_cpu.lower.ConstantStore."""

    def place(self, const: Const, layout: Layout | None) -> tuple[int, int, Layout]: ...


def portable_text(graph: Graph, store: Store) -> str:
    """graph.txt for ``graph``, with its larger constants in ``store``."""
    known: dict[Const, int] = {}
    lines: list[str] = []

    def reference(const: Const) -> str | None:
        if const.is_splat or const.array.nbytes <= SMALL:
            return None
        if const not in known:
            offset, size, layout = store.place(const, None)
            entry = {"dtype": const.dtype.name, "offset": offset, "bytes": size, **layout.to_json()}
            lines.append(f"@{len(known)} = {json.dumps(entry, sort_keys=True, separators=(',', ':'))}")
            known[const] = len(known)
        return f"@{known[const]}"

    body = print_graph(graph, constant=reference)
    return "\n".join([*lines, body]) + "\n"


def read_portable(text: str, weights: np.ndarray) -> Graph:
    """The graph that ``portable_text`` wrote. Raises BundleRefused or ParseError."""
    entries: list[Const] = []
    lines = text.split("\n")
    while len(entries) < len(lines) and lines[len(entries)].startswith("@"):
        entries.append(_constant(lines[len(entries)], len(entries), weights))

    def resolve(reference: str, type_: TensorType) -> Const:
        index = reference.removeprefix("@")
        if not index.isdigit() or int(index) >= len(entries):
            raise BundleRefused(f"graph.txt: there is no constant {reference}")
        return entries[int(index)]

    return parse_graph("\n".join(lines[len(entries) :]), constant=resolve)


def _constant(line: str, index: int, weights: np.ndarray) -> Const:
    head, _, body = line.partition(" = ")
    try:
        if head != f"@{index}":
            raise ValueError(head)
        raw = json.loads(body)
        dt, offset, size = DTYPES[raw["dtype"]], raw["offset"], raw["bytes"]
        layout = Layout.from_json(raw)
        if type(offset) is not int or type(size) is not int or offset < 0 or size < 0 or offset + size > weights.nbytes:
            raise ValueError("outside weights.bin")
        stored = weights[offset : offset + size].view(dt.np)
        if stored.size != int(np.prod(layout.packed_shape, dtype=object)):
            raise ValueError("size and layout differ")
        return Const(layout.unpack(stored), dt)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleRefused(f"graph.txt: constant {index} is malformed: {error}") from None


class PortableBundle:
    """A bundle interpreted with NumPy. Called like the native one."""

    def __init__(self, container: Container, max_bytes: int | None = None) -> None:
        self.manifest = container.manifest
        self.signature: Signature = container.manifest.signature
        self.target = "portable"
        self.max_bytes = max_bytes
        container.check_small()
        container.check_weights(1)
        self.graph = read_portable(container.read("graph.txt").decode(), container.weights())

    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Any:
        """Arrays by position or name; one output -> array, several -> tuple. Raises InputRefused."""
        names = [p.name for p in self.signature.inputs]
        if len(args) > len(names):
            raise InputRefused(f"the model takes {len(names)} inputs, got {len(args)}")
        feeds = dict(zip(names, args, strict=False))
        twice = [n for n in named if n in feeds]
        if twice:
            raise InputRefused(f"input {twice[0]!r} is given twice")
        results = list(self.run({**feeds, **named}).values())
        if out is not None:
            outs: Sequence[np.ndarray] = [out] if isinstance(out, np.ndarray) else list(out)
            if self.manifest.run_symbols:
                # As the native bundle: the leading block of an array that may be larger.
                outs = [o[tuple(map(slice, r.shape))] if r.ndim else o for o, r in zip(outs, results, strict=True)]
            for target, result in zip(outs, results, strict=True):
                target[...] = result
            results = list(outs)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """{input name: array} in, {output name: array} out."""
        return Interpreter(self.graph).run(inputs)


def load(source: str | os.PathLike[str] | bytes, max_bytes: int | None = None) -> PortableBundle:
    """The portable form of a bundle file. Raises BundleRefused."""
    return PortableBundle(Container.open(source), max_bytes)
