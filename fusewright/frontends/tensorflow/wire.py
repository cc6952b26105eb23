"""Protocol buffer wire format, read by tables.

Owns varints, lengths, nesting and the limits on all of them. Must not know what any message means (see schema.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from ...core.errors import ImportRefused
from ..formats.limits import DEFAULT, ImportLimits

MAX_DEPTH = 64
MAX_BYTES = (1 << 31) - 1
_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")
_FIXED32 = struct.Struct("<I")
_VARINT, _I64, _LENGTH, _I32 = 0, 1, 2, 5
_WIRE_OF = {
    "int": _VARINT, "bool": _VARINT, "float": _I32, "double": _I64, "fixed32": _I32, "bytes": _LENGTH,
    "string": _LENGTH,
}  # fmt: skip

Message = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One field of a message: its name, what it holds (a scalar kind or a message) and whether it repeats.

    ``kind`` "map" is a map from strings to ``message`` or, without one, to strings; "late" a message that is decoded
    when somebody wants it (see ``opened``).
    """

    name: str
    kind: str
    repeated: bool = False
    message: Schema | None = None


@dataclass
class Schema:
    """A message: field number -> Field. Fields that are not listed are skipped, as the format intends."""

    name: str
    fields: dict[int, Field] = field(default_factory=dict)


class Late:
    """A message that was found but not decoded yet."""

    __slots__ = ("_reader", "_schema", "_data", "_depth")

    def __init__(self, reader: Reader, schema: Schema, data: memoryview, depth: int) -> None:
        self._reader, self._schema, self._data, self._depth = reader, schema, data, depth

    def message(self) -> Message:
        """The message, decoded now."""
        return self._reader._message(self._schema, self._data, self._depth)


def opened(item: Message | Late) -> Message:
    """The message, decoded if it was not."""
    return item.message() if isinstance(item, Late) else item


class Reader:
    """Decodes messages of one file; every message decoded counts against one budget."""

    def __init__(self, where: str, limits: ImportLimits = DEFAULT) -> None:
        self.where, self.limits = where, limits
        self._left = 32 * limits.nodes
        # Names repeat: every node names its attributes anew.
        self._texts: dict[bytes, str] = {}

    def refuse(self, reason: str) -> ImportRefused:
        return ImportRefused("malformed", self.where, reason)

    def decode(self, schema: Schema, data: memoryview) -> Message:
        """The message as a dict; absent fields are absent, bytes are views of ``data``."""
        if len(data) > MAX_BYTES:
            raise ImportRefused("limit", self.where, f"a message of {len(data)} bytes; protocol buffers end at 2 GiB")
        return self._message(schema, data, 0)

    def _message(self, schema: Schema, data: memoryview, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise ImportRefused("limit", self.where, f"messages are nested deeper than {MAX_DEPTH}")
        self._left -= 1
        if self._left < 0:
            raise ImportRefused("limit", self.where, "the file holds too many messages", "raise ImportLimits.nodes")
        out: Message = {}
        at, end, fields = 0, len(data), schema.fields
        while at < end:
            key = data[at]
            at += 1
            if key > 127:
                key, at = self.varint(data, at - 1)
            wire = key & 7
            spec = fields.get(key >> 3)
            if spec is None:
                if key < 8:
                    raise self.refuse(f"field number 0 in {schema.name}")
                at = self._skip(data, at, wire, end)
                continue
            if wire == _LENGTH:
                size = data[at] if at < end else 128
                if size < 128:
                    at += 1
                else:
                    size, at = self.varint(data, at)
                if size > end - at:
                    raise self.refuse(f"{schema.name}.{spec.name} ends past its message")
                self._length(schema, spec, data[at : at + size], out, depth)
                at += size
                continue
            if wire != _WIRE_OF.get(spec.kind, -1):
                raise self.refuse(f"{schema.name}.{spec.name} has wire type {wire}")
            value, at = self._scalar(spec.kind, data, at, end)
            if spec.repeated:
                out.setdefault(spec.name, []).append(value)
            else:
                out[spec.name] = value
        return out

    def _length(self, schema: Schema, spec: Field, piece: memoryview, out: Message, depth: int) -> None:
        kind = spec.kind
        if kind == "message":
            assert spec.message is not None
            value: Any = self._message(spec.message, piece, depth + 1)
            if not spec.repeated and spec.name in out:
                value = {**out[spec.name], **value}  # a repeated single message merges
        elif kind == "map":
            entry = self._message(_entry(spec.message), piece, depth + 1)
            name = entry.get("key", "")
            default: Any = "" if spec.message is None else {}
            table = out.setdefault(spec.name, {})
            table[name] = entry.get("value", default)
            self.limits.check("nodes", len(table), self.where, f"the number of entries of {schema.name}.{spec.name}")
            return
        elif kind == "late":
            assert spec.message is not None
            value = Late(self, spec.message, piece, depth + 1)
        elif kind == "bytes":
            value = piece
        elif kind == "string":
            value = self.text(piece)
        else:  # packed scalars
            if not spec.repeated:
                raise self.refuse(f"{schema.name}.{spec.name} has the wire type of a message")
            out.setdefault(spec.name, []).extend(self._packed(kind, piece))
            return
        if spec.repeated:
            out.setdefault(spec.name, []).append(value)
        else:
            out[spec.name] = value

    def text(self, piece: memoryview) -> str:
        """A name or other text: valid UTF-8 of bounded length, without NUL."""
        self.limits.check("name_bytes", len(piece), self.where, "a text's length")
        raw = bytes(piece)
        found = self._texts.get(raw)
        if found is not None:
            return found
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse("a name is not valid UTF-8") from None
        if "\0" in text:
            raise self.refuse("a name holds a NUL character")
        self._texts[raw] = text
        return text

    def _scalar(self, kind: str, data: memoryview, at: int, end: int) -> tuple[Any, int]:
        if kind == "int":
            value, at = self.varint(data, at)
            return (value - (1 << 64) if value >= 1 << 63 else value), at
        if kind == "bool":
            value, at = self.varint(data, at)
            return bool(value), at
        form = {"float": _FLOAT, "double": _DOUBLE, "fixed32": _FIXED32}[kind]
        if at + form.size > end:
            raise self.refuse("a number ends past its message")
        return form.unpack_from(data, at)[0], at + form.size

    def _packed(self, kind: str, piece: memoryview) -> list[Any]:
        if kind in ("int", "bool"):
            values, at = [], 0
            while at < len(piece):
                value, at = self._scalar(kind, piece, at, len(piece))
                values.append(value)
            return values
        form = {"float": "f", "double": "d", "fixed32": "I"}[kind]
        size = struct.calcsize(form)
        if len(piece) % size:
            raise self.refuse("packed numbers do not fill their field")
        return list(struct.unpack(f"<{len(piece) // size}{form}", piece))

    def varint(self, data: memoryview, at: int) -> tuple[int, int]:
        """(value below 2**64, next position)."""
        value = shift = 0
        try:
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                if byte < 128:
                    return value & 0xFFFFFFFFFFFFFFFF, at
                shift += 7
                if shift > 63:
                    raise self.refuse("a varint has more than 10 bytes")
        except IndexError:
            raise self.refuse("the data ends inside a varint") from None

    def _skip(self, data: memoryview, at: int, wire: int, end: int) -> int:
        if wire == _VARINT:
            return self.varint(data, at)[1]
        if wire == _LENGTH:
            size, at = self.varint(data, at)
            at += size
        elif wire in (_I32, _I64):
            at += 4 if wire == _I32 else 8
        else:
            raise self.refuse(f"wire type {wire} is not used by any TensorFlow file")
        if at > end:
            raise self.refuse("a field ends past its message")
        return at


_ENTRIES: dict[str, Schema] = {}


def _entry(message: Schema | None) -> Schema:
    """The hidden message of a map's entry."""
    name = "" if message is None else message.name
    found = _ENTRIES.get(name)
    if found is None:
        value = Field("value", "string") if message is None else Field("value", "message", False, message)
        found = _ENTRIES[name] = Schema(f"map<{name or 'string'}>", {1: Field("key", "string"), 2: value})
    return found
