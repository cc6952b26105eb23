"""Protocol buffer text format, read by the same tables as the wire format.

Owns tokens, strings, nesting and the limits on them. Must not know what any message means (see schema.py).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ...core.errors import ImportRefused
from ..formats.limits import DEFAULT, ImportLimits
from .wire import MAX_DEPTH, Field, Message, Schema

_TOKEN = re.compile(
    r"""(?:[ \t\r\n\f\v]|\#[^\n]*)*(?:
        (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>-?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?))
      | (?P<name>-?[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>[{}<>\[\]:,;/.])
      | (?P<end>\Z) )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_PLAIN = {
    b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"\\": b"\\",
    b"'": b"'", b'"': b'"', b"?": b"?",
}  # fmt: skip
_TYPES = (
    "INVALID FLOAT DOUBLE INT32 UINT8 INT16 INT8 STRING COMPLEX64 INT64 BOOL QINT8 QUINT8 QINT32 BFLOAT16 QINT16 "
    "QUINT16 UINT16 COMPLEX128 HALF RESOURCE VARIANT UINT32 UINT64 FLOAT8_E5M2 FLOAT8_E4M3FN"
).split()
_ENUMS = {f"DT_{name}": i for i, name in enumerate(_TYPES)} | {
    f"DT_{name}_REF": i + 100 for i, name in enumerate(_TYPES)
}
_WORDS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
# How the tables' short names are spelt in full: (message, name in the text) -> field.
_SPELT = {
    ("TensorProto", "tensor_shape"): "shape", ("TensorProto", "tensor_content"): "content",
    ("MetaInfoDef", "tags"): "tags", ("MetaGraphDef", "meta_info_def"): "info", ("MetaGraphDef", "graph_def"): "graph",
    ("MetaGraphDef", "saver_def"): "saver", ("MetaGraphDef", "signature_def"): "signatures",
    ("SavedModel", "saved_model_schema_version"): "version", ("TensorInfo", "tensor_shape"): "shape",
    ("SignatureDef", "method_name"): "method", ("FunctionDef", "node_def"): "node_def",
}  # fmt: skip


def is_text(data: memoryview) -> bool:
    """Whether the start of a file is text: every message of ours has control characters in its wire form."""
    head = bytes(data[:4096])
    return bool(head.strip()) and _CONTROL.search(head) is None


class TextReader:
    """Decodes messages of one file into what ``wire.Reader`` gives for the same content."""

    def __init__(self, where: str, limits: ImportLimits = DEFAULT) -> None:
        self.where, self.limits = where, limits
        self._left = 32 * limits.nodes
        self._text, self._at = "", 0
        self._kind, self._token = "end", ""

    def decode(self, schema: Schema, data: memoryview) -> Message:
        """The message as a dict; absent fields are absent."""
        try:
            self._text = bytes(data).decode("utf-8")
        except UnicodeDecodeError:
            raise self._refuse("the text is not valid UTF-8") from None
        self._at = 0
        self._next()
        out = self._message(schema, "", 0)
        if self._kind != "end":
            raise self._refuse(f"{self._token!r} closes nothing")
        return out

    def _refuse(self, reason: str) -> ImportRefused:
        line = self._text.count("\n", 0, self._at) + 1
        return ImportRefused("malformed", self.where, f"line {line}: {reason}")

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self._refuse("not the text form of a message")
        self._at, self._kind = found.end(), str(found.lastgroup)
        self._token = found[self._kind]

    def _mark(self, token: str) -> bool:
        """Whether the next token is this mark, which is then behind us."""
        if self._kind != "mark" or self._token != token:
            return False
        self._next()
        return True

    def _message(self, schema: Schema | None, close: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise ImportRefused("limit", self.where, f"messages are nested deeper than {MAX_DEPTH}")
        self._left -= 1
        if self._left < 0:
            raise ImportRefused("limit", self.where, "the file holds too many messages", "raise ImportLimits.nodes")
        fields = {} if schema is None else {f.name: f for f in schema.fields.values()}
        out: Message = {}
        while not (self._kind == "end" if not close else self._mark(close)):
            if self._kind == "end":
                raise self._refuse(f"the file ends before {close!r}")
            name = self._name()
            spelt = _SPELT.get((schema.name, name), name) if schema is not None else name
            spec = fields.get(spelt)
            colon = self._mark(":")
            if colon and self._mark("["):
                while not self._mark("]"):
                    self._value(spec, out, depth)
                    self._mark(",")
            else:
                self._value(spec, out, depth)
            if not self._mark(","):
                self._mark(";")
        return out

    def _name(self) -> str:
        if self._mark("["):  # an extension or the type of an Any: never one of ours
            while not self._mark("]"):
                if self._kind == "end":
                    raise self._refuse("the file ends inside a name")
                self._next()
            return ""
        if self._kind != "name":
            raise self._refuse(f"{self._token!r} where a field's name belongs")
        name = self._token
        self._next()
        return name

    def _value(self, spec: Field | None, out: Message, depth: int) -> None:
        for opened, close in (("{", "}"), ("<", ">")):
            if self._mark(opened):
                if spec is None:
                    self._message(None, close, depth + 1)
                elif spec.kind == "map":
                    self._entry(spec, out, close, depth)
                elif spec.kind in ("message", "late"):
                    self._put(spec, self._message(spec.message, close, depth + 1), out)
                else:
                    raise self._refuse(f"{spec.name} is no message")
                return
        value = self._scalar(spec)
        if spec is None:
            return
        if spec.kind in ("message", "late", "map"):
            raise self._refuse(f"{spec.name} is a message")
        self._put(spec, value, out)

    def _put(self, spec: Field, value: Any, out: Message) -> None:
        if spec.repeated:
            out.setdefault(spec.name, []).append(value)
        else:
            out[spec.name] = value

    def _entry(self, spec: Field, out: Message, close: str, depth: int) -> None:
        inner = Field("value", "string") if spec.message is None else Field("value", "message", False, spec.message)
        entry = self._message(Schema("entry", {1: Field("key", "string"), 2: inner}), close, depth + 1)
        table = out.setdefault(spec.name, {})
        table[entry.get("key", "")] = entry.get("value", "" if spec.message is None else {})
        self.limits.check("nodes", len(table), self.where, f"the number of entries of {spec.name}")

    def _scalar(self, spec: Field | None) -> Any:
        kind, token = self._kind, self._token
        if kind == "string":
            pieces = []
            while self._kind == "string":
                pieces.append(_unescaped(self._token[1:-1], self))
                self._next()
            value = b"".join(pieces)
            if spec is None or spec.kind == "bytes":
                return memoryview(value)
            if spec.kind != "string":
                raise self._refuse(f"{spec.name} is no text")
            return self._name_text(value)
        if kind not in ("number", "name"):
            raise self._refuse(f"{token!r} where a value belongs")
        self._next()
        if spec is None:
            return None
        return self._number(spec, token)

    def _number(self, spec: Field, token: str) -> Any:
        try:
            if spec.kind == "bool":
                return _WORDS[token] if token in _WORDS else bool(int(token, 0))
            if spec.kind in ("float", "double"):
                value = float(token.rstrip("fF") if token[-1:] in "fF" and token.lstrip("-")[:3] != "inf" else token)
                # Rounded as the wire form stores it: 0.1 there is a float32's 0.1.
                with np.errstate(over="ignore"):
                    return float(np.float32(value)) if spec.kind == "float" else value
            if spec.kind in ("int", "fixed32"):
                if token in _ENUMS:
                    return _ENUMS[token]
                bare = token.lstrip("-")
                octal = len(bare) > 1 and bare[0] == "0" and bare.isdigit()
                number = int(token, 8) if octal else int(token, 0)
                if not -(1 << 63) <= number < 1 << 64:
                    raise ValueError
                return number - (1 << 64) if number >= 1 << 63 else number
        except (ValueError, KeyError):
            pass
        raise self._refuse(f"{token!r} is no value of {spec.name}")

    def _name_text(self, value: bytes) -> str:
        self.limits.check("name_bytes", len(value), self.where, "a text's length")
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise self._refuse("a name is not valid UTF-8") from None
        if "\0" in text:
            raise self._refuse("a name holds a NUL character")
        return text


def _unescaped(text: str, reader: TextReader) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        octal, hexadecimal, short, long, plain = found.groups()
        if octal is not None:
            return bytes([int(octal, 8) & 255])
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        if plain is not None:
            if plain not in _PLAIN:
                raise reader._refuse(f"unknown escape \\{plain.decode('latin-1')}")
            return _PLAIN[plain]
        code = int(short or long, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise reader._refuse("an escape is no character")
        return chr(code).encode()

    raw = text.encode("utf-8")
    return _ESCAPE.sub(one, raw) if b"\\" in raw else raw


__all__ = ["TextReader", "is_text"]
