"""The text form of a graph: printer, fingerprint and excerpts for messages.

Owns how graphs are written; parser.py reads the same form back. Must not know what any op means.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..core.dims import Dim
from ..core.dtypes import DTYPES, DType, decode, encode
from .graph import Const, Graph, Node, Origin, Value

# Names that need no quotes. Bare digits are the numbers of unnamed values, so a value named "0" is quoted.
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*", re.ASCII)
WORDS = frozenset({"true", "false", "none", "inf", "nan", "const", "hex", "splat", *DTYPES})
# Constants of up to this many elements are written as numbers, longer ones as bytes.
LITERAL = 16

ConstantWriter = Callable[[Const], str | None]


def quoted(name: str, prefix: str = "") -> str:
    """``name`` bare where the grammar allows it, else as a JSON string."""
    return prefix + (name if PLAIN.fullmatch(name) and name != "from" else json.dumps(name))


def print_graph(graph: Graph, constant: ConstantWriter | None = None, origins: bool = True) -> str:
    """The graph as text that ``parse_graph`` reads back.

    ``constant`` may name a constant's contents (``"@3"``) instead of writing them out; None writes them.
    Value names are made unique; everything but ``meta`` and repeated names round-trips exactly.
    """
    return "\n".join(_Printer(constant, origins).graph(graph, "")) + "\n"


def fingerprint(graph: Graph) -> str:
    """SHA-256 (hex) of what the graph computes: signature, ops, attributes, constants' digests.

    Names of inner values, origins and meta do not count. Equal in every process and under every hash seed.
    """
    lines = _Printer(lambda c: f"@{c.digest}", False, canonical=True).graph(graph, "")
    signature = json.dumps([[v.name for v in graph.inputs], graph.output_names])
    return hashlib.sha256("\n".join([signature, *lines]).encode()).hexdigest()


def excerpt(graph: Graph, node: Node | None, operand: int | None = None, context: int = 5) -> str:
    """The line of ``node`` with ``context`` lines around it and a caret; works on broken graphs too."""
    printer = _Printer(None, True, brief=True)
    names = printer.names(graph)
    nodes = list(graph.nodes)
    at = next((i for i, n in enumerate(nodes) if n is node), len(nodes) - 1)
    lines = []
    for n in nodes[max(at - context, 0) : at + context + 1]:
        text = printer.node(n, names, graph)
        if n is not node:
            lines.append("    " + text)
            continue
        lines.append("--> " + text)
        column, width = _caret(n, names, text, operand)
        lines.append("    " + " " * column + "^" * width)
    return "\n".join(lines)


def node_text(node: Node) -> str:
    """One node on one line, for messages and journals: long constants shortened, unnamed values by their op."""
    names = {v: quoted(v.name or v.producer.op.name, "%") for v in (*node.operands, *node.results)}
    return _Printer(None, False, brief=True).node(node, names, node.graph)


def _caret(node: Node, names: dict[Value, str], text: str, operand: int | None) -> tuple[int, int]:
    start = text.find(node.op.name, text.find(" = ") + 1 if node.results else 0)
    if operand is None or not 0 <= operand < len(node.operands):
        return max(start, 0), len(node.op.name)
    at = start + len(node.op.name)
    for i, v in enumerate(node.operands):
        word = _spelt(v, names)
        at = text.find(word, at)
        if i == operand:
            return max(at, 0), len(word)
        at += len(word)
    return max(start, 0), len(node.op.name)


def _spelt(v: Value, names: dict[Value, str]) -> str:
    return names.get(v) or quoted(v.name or "?", "%")


class _Printer:
    """``canonical`` renumbers every name; ``brief`` shortens what a message does not need."""

    def __init__(
        self, constant: ConstantWriter | None, origins: bool, canonical: bool = False, brief: bool = False
    ) -> None:
        self.constant = constant
        self.origins = origins
        self.canonical = canonical
        self.brief = brief

    def names(self, graph: Graph) -> dict[Value, str]:
        """A distinct spelling per value: inputs keep theirs, later repeats get a number appended."""
        values = dict.fromkeys([*graph.inputs, *(v for n in graph.nodes for v in n.results)])
        taken = {v.name for v in values}
        used: set[str] = set()
        out: dict[Value, str] = {}
        number = 0
        repeats: dict[str, int] = {}
        for v in values:
            if self.canonical or not v.name and v.producer.op.name != "input":
                out[v] = f"%{number}"
                number += 1
                continue
            name = v.name
            if name in used:
                k = repeats.get(name, 0) + 1
                while f"{name}_{k}" in taken:
                    k += 1
                repeats[name] = k
                name = f"{name}_{k}"
                taken.add(name)
            used.add(name)
            out[v] = quoted(name, "%")
        return out

    def graph(self, graph: Graph, indent: str) -> list[str]:
        """Lines of a graph and, nested, of its regions."""
        names = self.names(graph)
        inputs = ", ".join(f"{names[v]}: {v.type}{self._origin(v.producer.origin)}" for v in graph.inputs)
        outputs = ", ".join(
            str(v.type) if self.canonical else f"{quoted(n)}: {v.type}"
            for n, v in zip(graph.output_names, graph.outputs, strict=True)
        )
        head = f"{indent}graph({inputs}) -> ({outputs}){self._bounds(graph)} {{"
        lines = [head]
        for node in graph.nodes:
            if node.op.name == "input":
                continue
            text = indent + "  " + self.node(node, names, graph)
            if not node.regions:
                lines.append(text)
                continue
            lines.append(text + " regions {")
            for region in node.regions:
                lines += self.graph(region, indent + "    ")
            lines.append(indent + "  }")
        lines.append(indent + "}")
        return lines

    @staticmethod
    def _bounds(graph: Graph) -> str:
        if not graph.bounds:
            return ""
        facts = (
            f"{quoted(name)} in {low} to {'any' if high is None else high}"
            for name, (low, high) in sorted(graph.bounds.items())
        )
        return " where " + ", ".join(facts)

    def _origin(self, origin: Origin) -> str:
        if not self.origins or origin == Origin():
            return ""
        if self.brief:
            return f"   # {origin}"
        parts = [
            f"{key}={json.dumps(value)}"
            for key, value in (("layer", origin.layer), ("source", origin.source), ("file", origin.file))
            if value
        ]
        if origin.rewrites:
            parts.append(f"rewrites=({', '.join(map(json.dumps, origin.rewrites))})")
        return f" from({', '.join(parts)})"

    def node(self, node: Node, names: dict[Value, str], graph: Graph | None) -> str:
        """One node without its regions."""
        operands = [_spelt(v, names) for v in node.operands]
        if graph is not None and node is graph.return_node:
            if not self.canonical and len(graph.output_names) == len(operands):
                operands = [f"{quoted(n)} = {v}" for n, v in zip(graph.output_names, operands, strict=True)]
            return ("return " + ", ".join(operands)).rstrip() + self._origin(node.origin)
        text = ", ".join(_spelt(v, names) for v in node.results) + " = " if node.results else ""
        text += quoted(node.op.name)
        if operands:
            text += " " + ", ".join(operands)
        value = node.attrs.get("value")
        if node.op.name == "constant" and isinstance(value, Const):
            text += " " + self._const(value)
        else:
            text += self._attrs(node)
        types = ", ".join(str(v.type) for v in node.results)
        return f"{text} : {types or '()'}{self._origin(node.origin)}"

    def _attrs(self, node: Node) -> str:
        shown = []
        for name, value in node.attrs.items():
            text = self.attr(value)
            # An attribute at its default is left out; equal text, because 1 == True and 0.0 == -0.0.
            if name in node.op.attrs and text == self._default(node.op.attrs[name]):
                continue
            shown.append(f"{quoted(name)} = {text}")
        return f" {{{', '.join(shown)}}}" if shown else ""

    def _default(self, value: Any) -> str:
        return self.attr(value) if value is None or isinstance(value, (bool, int, float, str, tuple, DType)) else ""

    def attr(self, value: Any) -> str:
        """An attribute's value; the exact inverse is Parser.attr."""
        if value is None or isinstance(value, bool):
            return {None: "none", True: "true", False: "false"}[value]
        if isinstance(value, int):
            return str(value)
        if isinstance(value, float):
            return _float(value)
        if isinstance(value, str):
            return json.dumps(value)
        if isinstance(value, DType):
            return value.name
        if isinstance(value, Dim):
            text = str(value)
            return text if PLAIN.fullmatch(text) and text not in WORDS else f"[{text}]"
        if isinstance(value, Const):
            return f"const {value.dtype}[{', '.join(map(str, value.array.shape))}] {self._const(value)}"
        if isinstance(value, tuple):
            return f"({', '.join(map(self.attr, value))}{',' if len(value) == 1 else ''})"
        return f"<{type(value).__name__}>"

    def _const(self, const: Const) -> str:
        if self.brief and const.array.size > LITERAL and not const.is_splat:
            return "..."
        reference = self.constant(const) if self.constant is not None else None
        if reference is not None:
            return reference
        array = const.array
        if array.ndim == 0:
            return elements_text(array.reshape(1), const.dtype)[0]
        if const.is_splat:
            return f"splat({elements_text(array.ravel()[:1], const.dtype)[0]})"
        if array.size <= LITERAL:
            words = elements_text(array.ravel(), const.dtype)
            if not any(w.startswith("hex") for w in words):
                return f"[{', '.join(words)}]"
        return _hex(np.ascontiguousarray(array))


def _float(value: float) -> str:
    if not math.isnan(value):
        return repr(value)
    bits = struct.unpack("<Q", struct.pack("<d", value))[0]
    return "nan" if bits == 0x7FF8000000000000 else f"nan(0x{bits:016x})"


def _hex(array: np.ndarray) -> str:
    # Any byte but 0 counts as true in memory; in the text it is 1.
    array = array.view(np.uint8) != 0 if array.dtype == np.bool_ else array
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return f'hex"{little.tobytes().hex()}"'


def elements_text(stored: np.ndarray, dt: DType) -> list[str]:
    """Stored elements as the shortest numbers that read back to the same bits, else as hex bytes."""
    if dt.kind == "b":
        # A byte other than 0 and 1 is not a bool that NumPy made; it is written as the true it reads as.
        return ["true" if v else "false" for v in stored]
    if dt.kind in "iu":
        return [str(int(v)) for v in stored]
    words = [str(v) for v in decode(stored, dt)]
    back = elements(words, dt)
    return [
        w if a.tobytes() == b.tobytes() else _hex(b.reshape(1)) for w, a, b in zip(words, back, stored, strict=True)
    ]


def elements(words: Iterable[str], dt: DType) -> np.ndarray:
    """Floats written by ``elements_text`` as stored elements."""
    with np.errstate(all="ignore"):
        wide = np.array([float(w) for w in words], np.float64)
        return encode(wide.astype(dt.compute), dt)


__all__ = [
    "LITERAL", "PLAIN", "WORDS", "ConstantWriter", "elements", "elements_text", "excerpt", "fingerprint", "node_text",
    "print_graph", "quoted",
]  # fmt: skip
