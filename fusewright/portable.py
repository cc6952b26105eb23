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

from .core.dtypes import DTYPES, decode
from .core.errors import BundleRefused
from .core.layout import Layout
from .core.manifest import Signature
from .ir.graph import Const, Graph
from .ir.interpreter import Interpreter
from .ir.parser import parse_graph
from .ir.text import print_graph
from .ir.types import TensorType
from .runtime.call import Array, Matcher, Spec, bfloat16_of, by_name, convert, listed, ordered, outward, usable_output
from .runtime.format import Container
from .runtime.trimmed import Trimmed

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
        self._inputs = [Spec(p) for p in self.signature.inputs]
        self._outputs = [Spec(p) for p in self.signature.outputs]
        self._matcher = Matcher(self._inputs, self.manifest.symbols)
        self._most = Trimmed(self._outputs, self.manifest.run_symbols).most
        self._interpreter = Interpreter(self.graph)

    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Any:
        """Arrays by position or name; one output -> array, several -> tuple. Raises InputRefused."""
        values = ordered(self._inputs, args, named)
        outs = None if out is None else listed(self._outputs, out)
        results = self._call(values, outs)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """{input name: array} in, {output name: array} out."""
        values = by_name(self._inputs, inputs, "run()")
        return dict(zip([s.name for s in self._outputs], self._call(values, None), strict=True))

    def _call(self, values: Sequence[Any], outs: Sequence[Any] | None) -> list[Array]:
        """Under the rules for arguments that the native bundle has, with the same refusals."""
        arrays = [convert(s, v) for s, v in zip(self._inputs, values, strict=True)]
        env = self._matcher.solve([a.shape for a in arrays])
        like = bfloat16_of((*values, *(outs or ())))
        types = [outward(s.dtype, like) for s in self._outputs]
        if outs is not None:
            shapes = [tuple(f(env) for f in axes) for axes in self._most]
            outs = [usable_output(*row) for row in zip(self._outputs, outs, shapes, types, strict=True)]
        feeds = {s.name: decode(a, s.dtype) for s, a in zip(self._inputs, arrays, strict=True)}
        found = self._interpreter.run(feeds)
        results = [np.asarray(y, to) for y, to in zip(found.values(), types, strict=True)]
        if outs is None:
            return results
        # Of an array made for the greatest extents, the leading block.
        blocks = [o[tuple(map(slice, y.shape))] if y.ndim else o for o, y in zip(outs, results, strict=True)]
        for block, y in zip(blocks, results, strict=True):
            block[...] = y
        return blocks


def load(source: str | os.PathLike[str] | bytes, max_bytes: int | None = None) -> PortableBundle:
    """The portable form of a bundle file. Raises BundleRefused."""
    return PortableBundle(Container.open(source), max_bytes)
