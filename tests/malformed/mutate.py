"""Changes to a valid file that know its structure: protobuf, JSON, HDF5, zip, and the tables of a checkpoint.

Each mutator takes a ``random.Random`` and bytes, and gives other bytes. Must not know any model format above those.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import warnings
import zipfile
from typing import Any

NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    b"",
    b"x",
    b"\0",
    b"../../etc/passwd",
    b"a" * 5000,
    b"\xff\xfe",
    b"Const",
    b"Lambda",
    b"os.system",
    b"ReadFile",
)


def flip(rng: random.Random, data: bytes) -> bytes:
    """Bytes overwritten, removed, repeated, or the end cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        at, kind = rng.randrange(len(out)), rng.randrange(6)
        if kind <= 2:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 3:
            del out[at : at + rng.randrange(1, 24)]
        elif kind == 4:
            out[at:at] = out[at : at + rng.randrange(1, 24)]
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


# Protobuf: a message is a list of (field, wire type, value); bytes that read as a message may be one.
Field = tuple[int, int, Any]


def _varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    n = shift = 0
    while True:
        byte = data[at]
        n |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return n, at
        if shift > 63:
            raise ValueError


def fields_of(data: bytes) -> list[Field]:
    """The fields of a message. Raises ValueError or IndexError for bytes that are none."""
    out: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (0, 1, 2, 5):
            raise ValueError
        if wire == 0:
            value, at = _read_varint(data, at)
            out.append((number, wire, value))
            continue
        size = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            size, at = _read_varint(data, at)
        if at + size > len(data):
            raise ValueError
        out.append((number, wire, data[at : at + size]))
        at += size
    return out


def message(fields: list[Field]) -> bytes:
    """The bytes of a message."""
    out = []
    for number, wire, value in fields:
        out.append(_varint(number << 3 | wire))
        out.append(_varint(value) if wire == 0 else _varint(len(value)) + value if wire == 2 else value)
    return b"".join(out)


def protobuf(rng: random.Random, data: bytes) -> bytes:
    """One change in one message, at any depth: lengths stay right on the way up."""
    if rng.random() < 0.1:
        return flip(rng, data)
    try:
        return message(_change(rng, fields_of(data), 0))
    except (ValueError, IndexError):
        return flip(rng, data)


def _change(rng: random.Random, fields: list[Field], depth: int) -> list[Field]:
    if not fields:
        return [(rng.randrange(1, 40), 0, rng.choice(NUMBERS))]
    at = rng.randrange(len(fields))
    number, wire, value = fields[at]
    out = list(fields)
    if wire == 2 and depth < 40 and rng.random() < 0.85:
        try:
            inner = fields_of(value)
        except (ValueError, IndexError):
            inner = []
        if inner:
            out[at] = (number, wire, message(_change(rng, inner, depth + 1)))
            return out
    kind = rng.randrange(8)
    if kind == 0:
        del out[at]
    elif kind == 1:
        out.insert(rng.randrange(len(out) + 1), out[at])
    elif kind == 2:
        other = rng.randrange(len(out))
        out[at], out[other] = out[other], out[at]
    elif kind == 3:
        out[at] = (rng.randrange(1, 40), wire, value)
    elif kind == 4 and depth < 4:
        # One message as a part of itself, some levels deep.
        nested = value if wire == 2 else _varint(8) + _varint(1)
        for _ in range(rng.choice((2, 10, 70))):
            nested = message([(number, 2, nested[:4096])])
        out[at] = (number, 2, nested)
    else:
        out[at] = (number, wire, _other(rng, wire, value))
    return out


def _other(rng: random.Random, wire: int, value: Any) -> Any:
    if wire == 0:
        return rng.choice((*NUMBERS, value + 1, max(value - 1, 0), value ^ 1)) & (2**64 - 1)
    if wire in (1, 5):
        return bytes(rng.randrange(256) for _ in value)
    return rng.choice(
        (*WORDS, value[:-1], value + value, flip(rng, value) if value else b"\1", message([(1, 0, 2**40)]))
    )


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"), "", "x", "valid",
    "same", "relu", "linear", "channels_first", "float16", "../../x", [], [0], [1, 2], [None, None, 3], [-1, -1],
    {}, [[]], {"class_name": "Lambda", "config": {}}, {"class_name": "__tensor__"}, "a" * 5000,
)  # fmt: skip


def json_text(rng: random.Random, data: bytes) -> bytes:
    """A value replaced, dropped, repeated, swapped with another, or nested."""
    if rng.random() < 0.05:
        return flip(rng, data)
    try:
        return _changed_json(rng, json.loads(data))
    except (RecursionError, ValueError):
        return b"[" * 5000


def _changed_json(rng: random.Random, tree: Any) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        spots: list[tuple[Any, Any]] = []
        stack = [tree]
        while stack:
            item = stack.pop()
            for key in list(item) if isinstance(item, dict) else range(len(item)):
                spots.append((item, key))
                if isinstance(item[key], (dict, list)):
                    stack.append(item[key])
        if not spots:
            break
        holder, key = rng.choice(spots)
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, place = rng.choice(spots)
            if place in other if isinstance(other, dict) else place < len(other):
                holder[key] = copy.deepcopy(other[place])
        elif kind == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif kind == 3:
            for _ in range(rng.choice((2, 300))):
                holder[key] = [holder[key]]
        else:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return json.dumps(tree).encode()


_SIGNATURES = re.compile(rb"\x89HDF|OHDR|OCHK|TREE|SNOD|HEAP|GCOL|FRHP|FHDB|FHIB|BTHD|BTLF|BTIN|FSHD|SMTB|FAHD|EAHD")


def hdf5(rng: random.Random, data: bytes) -> bytes:
    """Fields behind the signatures of HDF5's structures: addresses, sizes, counts, message types."""
    if rng.random() < 0.2:
        return flip(rng, data)
    out = bytearray(data)
    marks = [m.start() for m in _SIGNATURES.finditer(data)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        # Version 1 object headers have no signature: they stand anywhere.
        base = rng.choice(marks) if marks and rng.random() < 0.7 else rng.randrange(len(out)) & ~7
        at = base + rng.randrange(0, 96)
        width = rng.choice((1, 1, 2, 4, 8))
        if at + width > len(out):
            continue
        old = int.from_bytes(out[at : at + width], "little")
        new = rng.choice((*NUMBERS, old + 1, old - 1, old ^ 1, base, len(out), rng.choice(marks or [0])))
        out[at : at + width] = (new & (256**width - 1)).to_bytes(width, "little")
    return bytes(out)


def keras_zip(rng: random.Random, data: bytes) -> bytes:
    """A member changed in its own way, or the archive's own headers, names, order and number of members."""
    if rng.random() < 0.15:
        return flip(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        members = [(info.filename, z.read(info)) for info in z.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(12)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append((rng.choice(("../x", "/abs", "config.json", "a\\b", "x" * 300, name)), content))
    elif kind == 2:
        members[at] = (rng.choice(("config.json", "model.weights.h5", "other")), content)
    elif name.endswith(".json"):
        members[at] = (name, json_text(rng, content))
    else:
        members[at] = (name, hdf5(rng, content))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", rng.choice((0, zipfile.ZIP_DEFLATED))) as z:
        warnings.simplefilter("ignore")  # two members of one name are what we want
        for name, content in members:
            z.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def table(rng: random.Random, data: bytes) -> bytes:
    """A checkpoint's index: bytes inside a block, with the block's checksum made right again."""
    if rng.random() < 0.2 or len(data) < 64:
        return flip(rng, data)
    out = bytearray(data)
    footer = bytes(out[-48:])
    try:
        _, at = _read_varint(footer, 0)
        _, at = _read_varint(footer, at)
        offset, at = _read_varint(footer, at)
        size, _ = _read_varint(footer, at)
    except (ValueError, IndexError):
        return flip(rng, data)
    # The first data block begins the file; the index block's place is in the footer.
    begin, end = (offset, offset + size) if rng.random() < 0.3 else (0, offset - 5)
    if not 0 <= begin < end <= len(out) - 5:
        return flip(rng, data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        out[rng.randrange(begin, end)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    crc = _crc32c(bytes(out[begin : end + 1]))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    out[end + 1 : end + 5] = struct.pack("<I", masked)
    return bytes(out)
