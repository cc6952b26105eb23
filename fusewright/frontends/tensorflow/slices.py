"""Partitioned variables: how a checkpoint names, stores and cuts the slices of a tensor.

Owns the keys of slices (tensorflow/core/lib/strings/ordered_code.h) and the text of a slice. Must not know files.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import ImportRefused
from .wire import Message

# (start, length) of every axis.
Box = tuple[tuple[int, int], ...]
_HEADERS = (
    (0x00, 0x00), (0x80, 0x00), (0xC0, 0x00), (0xE0, 0x00), (0xF0, 0x00), (0xF8, 0x00), (0xFC, 0x00), (0xFE, 0x00),
    (0xFF, 0x00), (0xFF, 0x80), (0xFF, 0xC0),
)  # fmt: skip


def _signed(value: int) -> bytes:
    size = value if value >= 0 else ~value
    length = 1 + size.bit_length() // 7
    out = bytearray(((value + (1 << 80)) % (1 << 80)).to_bytes(10, "big")[10 - length :])
    head = _HEADERS[length]
    out[0] ^= head[0]
    if length > 1:
        out[1] ^= head[1]
    return bytes(out)


def _unsigned(value: int) -> bytes:
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def slice_key(name: str, box: Box) -> bytes:
    """The key under which a checkpoint stores one slice of a tensor."""
    text = name.encode().replace(b"\xff", b"\xff\x00").replace(b"\x00", b"\x00\xff")
    out = _unsigned(0) + text + b"\x00\x01" + _unsigned(len(box))
    for start, length in box:
        out += _signed(start) + _signed(length)
    return out


def stored_box(proto: Message, shape: Sequence[int], where: str) -> Box:
    """A TensorSliceProto; an axis without extent is whole."""
    extents = proto.get("extent", [])
    if len(extents) != len(shape):
        raise ImportRefused("malformed", where, "a slice has another rank than its tensor")
    box = tuple((e.get("start", 0), e.get("length", d)) for e, d in zip(extents, shape, strict=True))
    return _inside(box, shape, where)


def text_box(text: str, shape: Sequence[int], where: str) -> Box:
    """The slice that a restore operation asks for: ``6 4 0,2:-`` is rows 0 and 1 of a 6 by 4 tensor."""
    whole: Box = tuple((0, d) for d in shape)
    words = text.split()
    if not words:
        return whole
    pieces = words[-1].split(":") if len(shape) else []
    try:
        if [int(w) for w in words[:-1]] != list(shape) or len(pieces) != len(shape):
            raise ValueError
        box = tuple(
            w if p == "-" else (int(p.partition(",")[0]), int(p.partition(",")[2]))
            for p, w in zip(pieces, whole, strict=True)
        )
    except ValueError:
        raise ImportRefused("malformed", where, f"{text!r} is no slice of a tensor of shape {tuple(shape)}") from None
    return _inside(box, shape, where)


def _inside(box: Box, shape: Sequence[int], where: str) -> Box:
    if any(start < 0 or length < 0 or start + length > d for (start, length), d in zip(box, shape, strict=True)):
        raise ImportRefused("malformed", where, f"a slice lies outside its tensor of shape {tuple(shape)}")
    return box


__all__ = ["Box", "slice_key", "stored_box", "text_box"]
