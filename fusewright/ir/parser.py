"""Reads the text form of a graph back.

Owns the grammar and its limits: the text may come from an untrusted bundle, so every size is checked before it is
used, nothing is evaluated, and every type is inferred anew through the Builder and compared with the one printed.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..core.dims import Dim, Extent, parse, symbol
from ..core.dtypes import DTYPES, DType
from ..core.errors import FusewrightError, ParseError, TypeRefused
from .builder import Builder
from .graph import Const, Graph, Node, Origin, Value
from .opdef import OPS, get_op
from .text import WORDS, elements
from .types import TensorType

ConstantReader = Callable[[str, TensorType], Const]


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """Most that a text may ask for."""

    characters: int = 1 << 28
    nodes: int = 1_000_000
    inputs: int = 10_000
    depth: int = 32
    rank: int = 32
    constant_bytes: int = 1 << 40
    extent: int = 1 << 48


_TOKEN = re.compile(
    r"""(?P<skip>(?:[ \t\r\n]+|\#[^\n]*)+)
  | (?P<value>%(?:[0-9]+|[A-Za-z_][A-Za-z0-9_./]*|"[^"\\\n]*(?:\\.[^"\\\n]*)*"))
  | (?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*")
  | (?P<arrow>->)
  | (?P<bits>0x[0-9a-f]+)
  | (?P<number>-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|inf(?![A-Za-z0-9_./])|nan(?![A-Za-z0-9_./])))
  | (?P<word>[A-Za-z_][A-Za-z0-9_./]*)
  | (?P<reference>@[A-Za-z0-9_.]+)
  | (?P<mark>[()\[\]{},:=])""",
    re.VERBOSE | re.ASCII,
)
_MALFORMED = (
    TypeRefused, TypeError, ValueError, AttributeError, IndexError, KeyError, ArithmeticError, RecursionError
)  # fmt: skip


def parse_graph(text: str, constant: ConstantReader | None = None, limits: ParseLimits = ParseLimits()) -> Graph:
    """The graph that ``print_graph`` wrote. Raises ParseError with line and column for anything malformed.

    ``constant(reference, type)`` returns the Const that a reference such as ``@3`` stands for.
    """
    if not isinstance(text, str):
        raise ParseError(f"a graph's text is a str, not {type(text).__name__}")
    if len(text) > limits.characters:
        raise ParseError(f"the text has {len(text)} characters; at most {limits.characters} are read")
    return _Parser(text, constant, limits).document()


class _Parser:
    def __init__(self, text: str, constant: ConstantReader | None, limits: ParseLimits) -> None:
        self.text = text
        self.constant = constant
        self.limits = limits
        self.nodes = 0
        self.types: dict[str, TensorType] = {}
        self.kind = ""
        self.token = ""
        self.start = 0
        self.end = 0
        self.advance()

    # Tokens.
    def advance(self) -> str:
        """Step over the current token, which is returned."""
        last = self.token
        at = self.end
        while True:
            match = _TOKEN.match(self.text, at)
            if match is None:
                self.start = self.end = at
                if at == len(self.text):
                    self.kind, self.token = "end", ""
                    return last
                self.fail(f"unexpected character {self.text[at]!r}")
            at = match.end()
            if match.lastgroup != "skip":
                break
        self.kind, self.token = match.lastgroup or "", match.group()
        self.start, self.end = match.start(), at
        return last

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        """Raise ParseError at a position (default: the current token)."""
        where = self.start if at is None else at
        line = self.text.count("\n", 0, where) + 1
        begin = self.text.rfind("\n", 0, where) + 1
        stop = self.text.find("\n", where)
        shown = self.text[begin : stop if stop >= 0 else len(self.text)]
        column = where - begin
        # A line can be megabytes of constants: show the part around the column.
        left = max(column - 60, 0)
        excerpt = shown[left : left + 120]
        raise ParseError(f"line {line}, column {column + 1}: {message}\n    {excerpt}\n    {' ' * (column - left)}^")

    def found(self) -> str:
        return repr(self.token[:40]) if self.token else "the end of the text"

    def is_at(self, token: str) -> bool:
        return self.token == token and self.kind in ("mark", "word", "arrow")

    def accept(self, token: str) -> bool:
        if self.is_at(token):
            self.advance()
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail(f"expected {token!r} but found {self.found()}")

    def string(self) -> str:
        if self.kind != "string":
            self.fail(f"expected a quoted string but found {self.found()}")
        return self.decoded(self.token, self.advance)

    def decoded(self, token: str, then: Callable[[], str]) -> str:
        try:
            out = json.loads(token)
        except ValueError:
            self.fail("bad escape in a quoted string")
        then()
        return str(out)

    def name(self) -> str:
        """A bare or quoted name."""
        if self.kind == "string":
            return self.string()
        # `inf` and `nan` are read as numbers, but they are names where only a name can stand.
        if self.kind == "word" or self.token in ("inf", "nan"):
            return self.advance()
        self.fail(f"expected a name but found {self.found()}")

    def value_name(self) -> tuple[str | int, str]:
        """(key in the scope, name kept): the number of an unnamed value is a key, not a name."""
        if self.kind != "value":
            self.fail(f"expected a value such as %0 but found {self.found()}")
        body = self.token[1:]
        if body[0] == '"':
            name = self.decoded(body, self.advance)
            return name, name
        if body[0].isdigit() and len(body) > 12:
            self.fail("a value's number of more than 12 digits")
        self.advance()
        return (int(body), "") if body[0].isdigit() else (body, body)

    def integer(self) -> int:
        if self.kind != "number" or not self.token.lstrip("-").isdigit() or len(self.token) > 64:
            self.fail(f"expected an integer but found {self.found()}")
        return int(self.advance())

    # Types and extents.
    def type(self) -> TensorType:
        begin = self.start
        if self.kind != "word" or self.token not in DTYPES:
            self.fail(f"expected a type such as f32[N, 64] but found {self.found()}")
        element = self.advance()
        if not self.is_at("["):
            self.fail(f"expected '[' but found {self.found()}")
        raw = self.bracketed()
        key = element + raw
        found = self.types.get(key)
        if found is None:
            parts = _split(raw)
            if len(parts) > self.limits.rank:
                self.fail(f"rank {len(parts)} is more than {self.limits.rank}", begin)
            found = self.types[key] = TensorType(element, [self.extent(p, begin) for p in parts])
        return found

    def bracketed(self) -> str:
        """The raw text of ``[...]`` at the current token."""
        stop = self.text.find("]", self.end)
        if stop < 0 or stop - self.end > 1 << 16:
            self.fail("this '[' is not closed")
        raw = self.text[self.end : stop]
        self.end = stop + 1
        self.advance()
        return raw

    def extent(self, raw: str, at: int) -> Extent:
        try:
            found = parse(raw)
        except FusewrightError as error:
            self.fail(str(error), at)
        constants = [found] if isinstance(found, int) else [c for _, c in found.terms]
        if any(abs(c) > self.limits.extent for c in constants) or isinstance(found, int) and found < 0:
            self.fail(f"an extent of {raw.strip()[:40]} is out of range", at)
        return found

    # Attributes.
    def attr(self, depth: int = 0) -> Any:
        if depth > self.limits.depth:
            self.fail(f"an attribute nested deeper than {self.limits.depth}")
        if self.kind == "string":
            return self.string()
        if self.kind == "number":
            return self.number()
        if self.accept("("):
            items = []
            while not self.accept(")"):
                items.append(self.attr(depth + 1))
                if not self.is_at(")"):
                    self.expect(",")
            return tuple(items)
        if self.is_at("["):
            at = self.start
            try:
                return parse(self.bracketed())
            except FusewrightError as error:
                self.fail(str(error), at)
        if self.kind != "word":
            self.fail(f"expected an attribute's value but found {self.found()}")
        return self.word_attr()

    def word_attr(self) -> Any:
        at, word = self.start, self.advance()
        if word in ("true", "false", "none"):
            return {"true": True, "false": False, "none": None}[word]
        if word in DTYPES:
            return DTYPES[word]
        if word == "const":
            type_ = self.type()
            return self.const(self.const_body(), type_, at)
        if word in WORDS:
            self.fail(f"{word!r} is not an attribute's value", at)
        return self.symbol(word, at)

    def symbol(self, word: str, at: int) -> Dim:
        try:
            return symbol(word)
        except TypeRefused as error:
            self.fail(str(error), at)

    def number(self) -> int | float:
        token = self.token
        if token.lstrip("-").isdigit():
            if len(token) > 400:
                self.fail("a number of more than 400 digits")
            return int(self.advance())
        self.advance()
        if token == "nan" and self.is_at("("):
            self.advance()
            if self.kind != "bits" or len(self.token) > 18:
                self.fail(f"expected NaN's bits such as 0x7ff8000000000001 but found {self.found()}")
            value: float = struct.unpack("<d", struct.pack("<Q", int(self.advance(), 16)))[0]
            if value == value:
                self.fail("these bits are not a NaN")
            self.expect(")")
            return value
        return float(token)

    # Constants: the body comes before the type, so it is kept as words until the type is known.
    def const_body(self) -> tuple[str, list[str]]:
        """(form, words) where form is one of reference, hex, splat, splat hex, list, scalar."""
        if self.kind == "reference":
            return "reference", [self.advance()]
        if self.is_at("hex"):
            return "hex", [self.hex_word()]
        if self.accept("splat"):
            self.expect("(")
            form = "splat hex" if self.is_at("hex") else "splat"
            word = self.hex_word() if self.is_at("hex") else self.element()
            self.expect(")")
            return form, [word]
        if self.accept("["):
            words = []
            while not self.accept("]"):
                words.append(self.element())
                if not self.is_at("]"):
                    self.expect(",")
            return "list", words
        return "scalar", [self.element()]

    def hex_word(self) -> str:
        self.expect("hex")
        if self.kind != "string":
            self.fail(f"expected bytes in quotes but found {self.found()}")
        return self.advance()[1:-1]

    def element(self) -> str:
        if self.kind != "number" and self.token not in ("true", "false") or len(self.token) > 400:
            self.fail(f"expected an element but found {self.found()}")
        return self.advance()

    def const(self, body: tuple[str, list[str]], type_: TensorType, at: int) -> Const:
        form, words = body
        shape = tuple(d for d in type_.shape if isinstance(d, int))
        if len(shape) != type_.rank:
            self.fail(f"a constant of the symbolic type {type_}", at)
        count = 1
        for d in shape:
            count *= d
        # With an extent 0 the other extents still have to be sane: NumPy multiplies them.
        spread = 1
        for d in shape:
            spread *= max(d, 1)
        if spread * type_.dtype.size > self.limits.constant_bytes:
            self.fail(f"a constant of {type_} is larger than {self.limits.constant_bytes} bytes", at)
        if form == "reference":
            return self.resolve(words[0], type_, at)
        if form in ("list", "scalar") and len(words) != count or form == "scalar" and shape:
            self.fail(f"{len(words)} elements for a constant of {type_}", at)
        try:
            if form in ("hex", "splat hex"):
                flat = _from_hex(words[0], type_.dtype, 1 if form == "splat hex" else count)
            else:
                flat = _from_words(words, type_.dtype)
            array = np.broadcast_to(flat.reshape(()), shape) if form.startswith("splat") else flat.reshape(shape)
        except (ValueError, OverflowError) as error:
            self.fail(f"bad constant of {type_}: {error}", at)
        return Const(array, type_.dtype)

    def resolve(self, reference: str, type_: TensorType, at: int) -> Const:
        if self.constant is None:
            self.fail(f"this text refers to {reference}, and nothing says what that is (pass constant=)", at)
        try:
            found = self.constant(reference, type_)
        except (KeyError, IndexError, ValueError) as error:
            self.fail(f"there is no constant {reference} ({error})", at)
        if not isinstance(found, Const) or TensorType(found.dtype, found.array.shape) is not type_:
            self.fail(f"{reference} is not a constant of {type_}", at)
        return found

    # Graphs.
    def document(self) -> Graph:
        graph = self.graph(0)
        if self.kind != "end":
            self.fail(f"expected the end of the text but found {self.found()}")
        return graph

    def graph(self, depth: int) -> Graph:
        if depth > self.limits.depth:
            self.fail(f"regions nested deeper than {self.limits.depth}")
        self.expect("graph")
        graph = Graph()
        scope: dict[str | int, Value] = {}
        self.inputs(graph, scope)
        self.expect("->")
        outputs = self.outputs()
        self.bounds(graph)
        self.expect("{")
        while not self.is_at("return"):
            self.node(graph, scope, depth)
        self.finish(graph, scope, outputs)
        self.expect("}")
        return graph

    def inputs(self, graph: Graph, scope: dict[str | int, Value]) -> None:
        self.expect("(")
        while not self.accept(")"):
            at = self.start
            self.count(at)
            key, name = self.value_name()
            self.expect(":")
            type_ = self.type()
            if key in scope or isinstance(key, int):
                self.fail("inputs need distinct names", at)
            if len(graph.inputs) >= self.limits.inputs:
                self.fail(f"more than {self.limits.inputs} inputs", at)
            # Not Builder.input: its check for repeated names is a walk over all inputs.
            node = graph.insert(Node(get_op("input"), (), {"name": name}, [type_], (), self.origin()))
            node.results[0].name = name
            graph.inputs.append(node.results[0])
            scope[key] = node.results[0]
            if not self.is_at(")"):
                self.expect(",")

    def outputs(self) -> list[tuple[str, TensorType]]:
        out: list[tuple[str, TensorType]] = []
        self.expect("(")
        while not self.accept(")"):
            name = self.name()
            self.expect(":")
            out.append((name, self.type()))
            if not self.is_at(")"):
                self.expect(",")
        return out

    def bounds(self, graph: Graph) -> None:
        if not self.accept("where"):
            return
        while True:
            at = self.start
            name = self.symbol(self.name(), at)
            self.expect("in")
            low = self.integer()
            self.expect("to")
            high = None if self.accept("any") else self.integer()
            if low < 0 or high is not None and high < low or str(name) in graph.bounds:
                self.fail(f"bad bounds of {name}", at)
            graph.bounds[str(name)] = (low, high)
            if not self.accept(","):
                return

    def count(self, at: int) -> None:
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            self.fail(f"more than {self.limits.nodes} nodes", at)

    def origin(self) -> Origin:
        if not self.accept("from"):
            return Origin()
        self.expect("(")
        parts: dict[str, Any] = {}
        while not self.accept(")"):
            at, key = self.start, self.name()
            if key not in ("file", "layer", "source", "rewrites") or key in parts:
                self.fail(f"{key!r} does not belong in an origin (or comes twice)", at)
            self.expect("=")
            parts[key] = self.rewrites() if key == "rewrites" else self.string()
            if not self.is_at(")"):
                self.expect(",")
        return Origin(**parts)

    def rewrites(self) -> tuple[str, ...]:
        names = []
        self.expect("(")
        while not self.accept(")"):
            names.append(self.string())
            if not self.is_at(")"):
                self.expect(",")
        return tuple(names)

    def use(self, scope: dict[str | int, Value]) -> Value:
        at = self.start
        key, name = self.value_name()
        found = scope.get(key)
        if found is None:
            self.fail(f"%{name or key} is not defined before this", at)
        return found

    def node(self, graph: Graph, scope: dict[str | int, Value], depth: int) -> None:
        at = self.start
        self.count(at)
        targets = []
        if self.kind == "value":
            targets.append(self.value_name())
            while self.accept(","):
                targets.append(self.value_name())
            self.expect("=")
        op_at = self.start
        name = self.name()
        if name in ("input", "return") or name not in OPS:
            self.fail(f"there is no op {name!r}", op_at)
        operands = [self.use(scope)] if self.kind == "value" else []
        while operands and self.accept(","):
            operands.append(self.use(scope))
        body = self.const_body() if name == "constant" else None
        attrs = self.attrs()
        self.expect(":")
        types_at, types = self.start, self.result_types()
        origin = self.origin()
        regions = self.regions(depth) if self.accept("regions") else []
        builder = Builder(graph, origin=origin)
        if body is not None:
            if operands or attrs or regions or len(types) != 1:
                self.fail("a constant has contents and one type, nothing else", op_at)
            results: Sequence[Value] = [builder.constant(self.const(body, types[0], op_at))]
        else:
            results = self.apply(builder, name, operands, attrs, regions, op_at)
        got = [v.type for v in results]
        if got != types:
            self.fail(f"{name} gives {', '.join(map(str, got)) or '()'}, not what is printed", types_at)
        if len(targets) != len(results):
            self.fail(f"{name} has {len(results)} results, {len(targets)} are named", at)
        for (key, kept), v in zip(targets, results, strict=True):
            if key in scope:
                self.fail(f"%{key} is defined twice", at)
            v.name = kept
            scope[key] = v

    def apply(
        self, builder: Builder, name: str, operands: list[Value], attrs: dict[str, Any], regions: list[Graph], at: int
    ) -> Sequence[Value]:
        try:
            return builder.apply(name, operands, attrs, regions)
        except FusewrightError as error:
            self.fail(str(error), at)
        except _MALFORMED as error:
            # infer reads attributes as its callers write them; a file may hold anything.
            self.fail(f"the attributes do not fit {name} ({error})", at)

    def attrs(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if not self.accept("{"):
            return out
        while not self.accept("}"):
            at, name = self.start, self.name()
            if name in out:
                self.fail(f"the attribute {name!r} is given twice", at)
            self.expect("=")
            out[name] = self.attr()
            if not self.is_at("}"):
                self.expect(",")
        return out

    def result_types(self) -> list[TensorType]:
        if self.accept("("):
            self.expect(")")
            return []
        types = [self.type()]
        while self.accept(","):
            types.append(self.type())
        return types

    def regions(self, depth: int) -> list[Graph]:
        out = []
        self.expect("{")
        while not self.accept("}"):
            out.append(self.graph(depth + 1))
        return out

    def finish(self, graph: Graph, scope: dict[str | int, Value], outputs: list[tuple[str, TensorType]]) -> None:
        at = self.start
        self.expect("return")
        pairs: list[tuple[str, Value]] = []
        while self.kind in ("word", "string", "number") and not self.is_at("from"):
            pairs.append((self.name(), self._assigned(scope)))
            if not self.accept(","):
                break
        if [(n, v.type) for n, v in pairs] != outputs:
            self.fail("the names or types returned are not those in the graph's first line", at)
        origin = self.origin()
        if len({n for n, _ in pairs}) != len(pairs):
            self.fail("two outputs have one name", at)
        node = Node(get_op("return"), [v for _, v in pairs], {}, [], (), origin)
        graph.insert(node)
        graph.return_node = node
        graph.output_names = [n for n, _ in pairs]

    def _assigned(self, scope: dict[str | int, Value]) -> Value:
        self.expect("=")
        return self.use(scope)


def _split(raw: str) -> list[str]:
    """Extents between commas; those inside parentheses belong to min and max."""
    if "(" not in raw:
        return raw.split(",") if raw.strip() else []
    parts, depth, start = [], 0, 0
    for i, c in enumerate(raw):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append(raw[start:i])
            start = i + 1
    parts.append(raw[start:])
    return parts


def _from_hex(word: str, dt: DType, count: int) -> np.ndarray:
    if len(word) != 2 * count * dt.size:
        raise ValueError(f"{len(word)} hex digits for {count * dt.size} bytes")
    data = bytes.fromhex(word)
    if dt.kind == "b" and data.strip(b"\x00\x01"):
        raise ValueError("a bool is the byte 0 or 1")
    return np.frombuffer(data, dt.np.newbyteorder("<")).astype(dt.np, copy=False)


def _from_words(words: list[str], dt: DType) -> np.ndarray:
    if dt.kind == "b":
        if any(w not in ("true", "false") for w in words):
            raise ValueError("elements of bool are true and false")
        return np.array([w == "true" for w in words], np.bool_)
    if dt.is_float:
        return elements(words, dt)
    return np.array([int(w) for w in words], dt.np)


__all__ = ["ConstantReader", "ParseLimits", "parse_graph"]
