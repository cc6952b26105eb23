"""From an ELF object to flat position-independent bytes, and from many of those to one image.

Owns ELF section layout, PC-relative relocation and the Image type.
Must not import Numba or llvmlite: it sees bytes only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ...core.errors import CompileRefused

ALIGN = 64
_SHF_WRITE, _SHF_ALLOC = 1, 2
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS = 2, 4, 8
_PC_RELATIVE = (2, 4)  # R_X86_64_PC32, R_X86_64_PLT32
_DROPPED = (".eh_frame", ".note.GNU-stack", ".note.gnu.property", ".llvm_addrsig")


@dataclass(frozen=True, slots=True)
class Code:
    """One compiled kernel: relocated bytes that run at any 64-byte aligned address, and where its entry is."""

    data: bytes
    entry: int


@dataclass(frozen=True, slots=True)
class Image:
    """Flat position-independent code of many kernels; ``symbols`` gives each entry's offset."""

    code: bytes
    symbols: dict[str, int]


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    at: int = -1


def _sections(elf: bytes) -> list[_Section]:
    if elf[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", elf, 18)[0] != 62:
        raise CompileRefused("the code generator did not give an x86-64 ELF object")
    table = struct.unpack_from("<Q", elf, 40)[0]
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * size) for i in range(count)]
    strings = rows[names][4]

    def text(at: int) -> str:
        return elf[strings + at : elf.index(b"\0", strings + at)].decode()

    return [_Section(text(r[0]), r[1], r[2], r[4], r[5], r[6], r[7], r[8]) for r in rows]


def _symbols(elf: bytes, sections: list[_Section]) -> list[tuple[str, int, int]]:
    """(name, section index, value) of every symbol."""
    found: list[tuple[str, int, int]] = []
    for section in sections:
        if section.kind != _SHT_SYMTAB:
            continue
        strings = sections[section.link].offset
        for at in range(section.offset, section.offset + section.size, 24):
            name, _, _, where, value, _ = struct.unpack_from("<IBBHQQ", elf, at)
            start = strings + name
            found.append((elf[start : elf.index(b"\0", start)].decode(), where, value))
    return found


def flatten(elf: bytes, entry: str) -> Code:
    """Lay out an object's allocated sections in one block and apply its relocations.

    Raises CompileRefused on writable data, an undefined symbol or any relocation that is not PC-relative.
    """
    sections = _sections(elf)
    kept = [s for s in sections if s.flags & _SHF_ALLOC and s.size and s.name not in _DROPPED]
    size = 0
    for section in sorted(kept, key=lambda s: not s.name.startswith(".text")):
        if section.flags & _SHF_WRITE or section.kind == _SHT_NOBITS:
            raise CompileRefused(f"kernel {entry!r} has writable data (section {section.name})")
        if section.align > ALIGN:
            raise CompileRefused(f"kernel {entry!r}: section {section.name} wants alignment {section.align}")
        size = -(-size // max(section.align, 1)) * max(section.align, 1)
        section.at = size
        size += section.size
    block = bytearray(size)
    for section in kept:
        block[section.at : section.at + section.size] = elf[section.offset : section.offset + section.size]
    symbols = _symbols(elf, sections)
    for section in sections:
        if section.kind != _SHT_RELA or sections[section.info].at < 0:
            continue
        base = sections[section.info].at
        for at in range(section.offset, section.offset + section.size, 24):
            where, info, addend = struct.unpack_from("<QQq", elf, at)
            name, home, value = symbols[info >> 32]
            if not 0 < home < len(sections) or sections[home].at < 0:
                raise CompileRefused(f"kernel {entry!r} needs the outside symbol {name!r}")
            if info & 0xFFFFFFFF not in _PC_RELATIVE:
                raise CompileRefused(f"kernel {entry!r} has a relocation of type {info & 0xFFFFFFFF} against {name!r}")
            struct.pack_into("<i", block, base + where, sections[home].at + value + addend - (base + where))
    for name, home, value in symbols:
        if name == entry and 0 < home < len(sections) and sections[home].at >= 0:
            return Code(bytes(block), sections[home].at + value)
    raise CompileRefused(f"the object does not define {entry!r}")


def assemble(parts: Iterable[tuple[list[str], Code]]) -> Image:
    """Lay the kernels out one after another, each 64-byte aligned; ``parts`` gives each one's symbol names."""
    code, symbols = bytearray(), {}
    for names, part in parts:
        code += b"\xcc" * (-len(code) % ALIGN)  # int3 between kernels: a stray jump traps
        for name in names:
            symbols[name] = len(code) + part.entry
        code += part.data
    return Image(bytes(code), symbols)
