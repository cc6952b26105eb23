"""PTX text to instructions.

Owns statements, declarations and operands of the subset that compiled kernels use; whatever it does not know raises.
Must not know what an instruction does.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field


class PtxError(Exception):
    """Something in a module that the interpreter does not know, or that a kernel must not do."""


@dataclass(frozen=True, slots=True)
class Reg:
    """A register; ``negated`` for a predicate read as ``!%p``."""

    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Imm:
    """A number: ``bits`` of a float literal of ``width`` 32 or 64, or an integer (``width`` 0)."""

    bits: int
    width: int = 0


@dataclass(frozen=True, slots=True)
class Sym:
    """The address of a variable, or a label."""

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Mem:
    """``[base + offset]``; the base is a register, a symbol or a number."""

    base: Reg | Sym | Imm
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Vec:
    """``{a, b, ...}``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """``d|p``: a result and its predicate."""

    first: Operand
    second: Operand


Operand = Reg | Imm | Sym | Mem | Vec | Pair


@dataclass(slots=True)
class Inst:
    """``@guard op.mods operands``; ``text`` is what errors show."""

    op: str
    mods: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Reg | None
    text: str


@dataclass(slots=True)
class Variable:
    """A declared variable: ``space``, alignment, bytes, initial content (None: none), external (dynamic shared)."""

    name: str
    space: str
    align: int
    size: int
    init: bytes | None = None
    external: bool = False


@dataclass(slots=True)
class Entry:
    """A kernel: parameter names with types, register types, its own variables, instructions and labels."""

    name: str
    params: list[tuple[str, str]]
    regs: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    code: list[Inst] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    block: int = 0  # .maxntid, 0 when not said


@dataclass(slots=True)
class Module:
    """``version`` as (major, minor), ``target``, variables of the module, kernels by name."""

    version: tuple[int, int] = (0, 0)
    target: str = ""
    variables: dict[str, Variable] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)


SIZES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4, "s32": 4,
         "f32": 4, "f16x2": 4, "bf16x2": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8, "pred": 1}  # fmt: skip
_ID = r"[A-Za-z_$%][\w$]*"
_TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_VARIABLE = re.compile(
    rf"(?:\.(?P<link>visible|extern|weak|common)\s+)?\.(?P<space>global|shared|const|local|param)\s+"
    rf"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?P<name>{_ID})\s*(?P<dims>(?:\[\d*\]\s*)*)(?:=\s*(?P<init>.*))?$",
    re.S,
)
_REGS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.S)
_PARAM = re.compile(rf"\.param\s+\.(\w+)\s+(?:\.ptr\s+)?(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?({_ID})\s*(\[\d+\])?$")


def parse(text: str) -> Module:
    """The module in ``text``. Raises PtxError."""
    return _Parser(_TOKEN.sub(" ", text)).module()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.out = Module()
        self.scopes = 0

    def module(self) -> Module:
        while True:
            self._space()
            if self.at >= len(self.text):
                break
            word = self._peek(r"\.\w+(?:\s+\.\w+)?")
            if re.match(r"(?:\.(?:visible|weak)\s+)?\.entry\b", self.text[self.at :]):
                self._entry()
            elif re.match(r"(?:\.(?:visible|weak|extern)\s+)?\.func\b", self.text[self.at :]):
                raise PtxError(f"a function outside a kernel: {self.text[self.at : self.at + 80]!r}")
            elif word.startswith((".version", ".target", ".address_size")):
                self._header()
            else:
                v = self._variable(self._until(";"))
                self.out.variables[v.name] = v
        if self.out.version == (0, 0) or not self.out.target:
            raise PtxError("no .version or no .target")
        return self.out

    def _header(self) -> None:
        line = self.text[self.at :].split("\n", 1)[0]
        self.at += len(line)
        words = line.split()
        if words[0] == ".version":
            major, _, minor = words[1].partition(".")
            self.out.version = (int(major), int(minor))
        elif words[0] == ".target":
            self.out.target = words[1].rstrip(",")
        elif words != [".address_size", "64"]:
            raise PtxError(f"only 64-bit addresses: {line}")

    def _entry(self) -> None:
        m = re.compile(rf"(?:\.\w+\s+)?\.entry\s+({_ID})\s*").match(self.text, self.at)
        if m is None:
            raise PtxError(f"bad entry at {self.text[self.at : self.at + 60]!r}")
        self.at = m.end()
        params: list[tuple[str, str]] = []
        if self.text[self.at] == "(":
            end = self.text.index(")", self.at)
            for part in filter(None, (p.strip() for p in self.text[self.at + 1 : end].split(","))):
                p = _PARAM.match(part)
                if p is None or p[3]:
                    raise PtxError(f"parameter {part!r} of {m[1]}")
                params.append((p[2], p[1]))
            self.at = end + 1
        entry = Entry(m[1], params)
        start = self.text.index("{", self.at)
        limits = self.text[self.at : start]
        block = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", limits)
        if block:
            entry.block = int(block[1]) * int(block[2] or 1) * int(block[3] or 1)
        self.at = start + 1
        self._body(entry, [{}])
        if entry.name in self.out.entries:
            raise PtxError(f"two kernels named {entry.name}")
        for inst in entry.code:
            targets = [o for o in inst.operands if isinstance(o, Sym)] if inst.op == "bra" else []
            if any(t.name not in entry.labels for t in targets):
                raise PtxError(f"no such label: {inst.text}")
        self.out.entries[entry.name] = entry

    def _body(self, entry: Entry, scopes: list[dict[str, str]]) -> None:
        """Statements up to the closing brace. Names of an inner scope get a suffix: inlined assembly reuses names."""
        label = re.compile(rf"({_ID})\s*:(?!:)")
        while True:
            self._space()
            if self.at >= len(self.text):
                raise PtxError(f"{entry.name} does not end")
            if self.text[self.at] == "}":
                self.at += 1
                return
            if self.text[self.at] == "{":
                self.at += 1
                self.scopes += 1
                self._body(entry, [*scopes, {}])
                continue
            m = label.match(self.text, self.at)
            if m:
                self.at = m.end()
                name = self._declare(scopes, m[1])
                if name in entry.labels:
                    raise PtxError(f"two labels {name}")
                entry.labels[name] = len(entry.code)
                continue
            statement = self._until(";")
            if not statement or statement.split()[0] in (".pragma", ".loc", ".file"):
                continue
            if statement.startswith(".reg"):
                self._registers(entry, scopes, statement)
            elif statement.startswith("."):
                v = self._variable(statement)
                v.name = self._declare(scopes, v.name)
                entry.variables[v.name] = v
            else:
                entry.code.append(self._instruction(statement, scopes, entry))

    def _declare(self, scopes: list[dict[str, str]], name: str) -> str:
        new = name if len(scopes) == 1 else f"{name}@{self.scopes}"
        scopes[-1][name] = new
        return new

    def _registers(self, entry: Entry, scopes: list[dict[str, str]], statement: str) -> None:
        m = _REGS.match(statement)
        if m is None or m[1] not in SIZES:
            raise PtxError(f"bad declaration {statement!r}")
        for part in m[2].split(","):
            name, _, count = part.strip().partition("<")
            names = [f"{name}{i}" for i in range(int(count.rstrip(">")))] if count else [name]
            for n in names:
                entry.regs[self._declare(scopes, n)] = m[1]

    def _variable(self, statement: str) -> Variable:
        m = _VARIABLE.match(statement)
        if m is None or m["type"] not in SIZES:
            raise PtxError(f"unknown directive {statement[:100]!r}")
        size, external = SIZES[m["type"]], m["link"] == "extern"
        for d in re.findall(r"\[(\d*)\]", m["dims"]):
            size *= int(d) if d else 0
        if external and m["space"] != "shared":
            raise PtxError(f"external variable {m['name']}: only dynamic shared memory is")
        init = _initial(m["type"], m["init"], size) if m["init"] else None
        align = int(m["align"] or SIZES[m["type"]])
        return Variable(m["name"], m["space"], align, size if init is None else max(size, len(init)), init, external)

    def _instruction(self, text: str, scopes: list[dict[str, str]], entry: Entry) -> Inst:
        shown, guard = " ".join(text.split()), None
        m = re.match(rf"@(!?)({_ID})\s+", text)
        if m:
            guard = Reg(self._name(m[2], scopes), m[1] == "!")
            text = text[m.end() :]
        head, *rest = text.strip().split(maxsplit=1)
        op, *mods = head.split(".")
        operands = tuple(self._operand(o, scopes, entry) for o in _split(rest[0] if rest else ""))
        return Inst(op, tuple(mods), operands, guard, shown)

    def _name(self, name: str, scopes: list[dict[str, str]]) -> str:
        for scope in reversed(scopes):
            if name in scope:
                return scope[name]
        return name

    def _operand(self, text: str, scopes: list[dict[str, str]], entry: Entry) -> Operand:
        text = text.strip()
        if text.startswith("{"):
            return Vec(tuple(self._operand(o, scopes, entry) for o in _split(text[1:-1])))
        if text.startswith("["):
            inner = text[1:-1].strip()
            m = re.match(r"(.+?)\s*([+-])\s*(-?(?:0[xX][0-9a-fA-F]+|\d+))$", inner)
            base, offset = (m[1], int(m[3], 0) * (-1 if m[2] == "-" else 1)) if m else (inner, 0)
            where = self._operand(base, scopes, entry)
            if not isinstance(where, (Reg, Sym, Imm)):
                raise PtxError(f"address {text}")
            return Mem(where, offset)
        if "|" in text:
            a, b = text.split("|")
            return Pair(self._operand(a, scopes, entry), self._operand(b, scopes, entry))
        number = _number(text)
        if number is not None:
            return number
        negated = text.startswith("!")
        name = self._name(text.lstrip("!").strip(), scopes)
        if name.startswith("%") or name == "_" or name in entry.regs:
            return Reg(name, negated)
        m = re.match(rf"({_ID}(?:@\d+)?)\s*(?:\+\s*(\d+))?$", name)
        if m is None:
            raise PtxError(f"operand {text!r}")
        return Sym(m[1], int(m[2] or 0))

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _peek(self, pattern: str) -> str:
        m = re.compile(pattern).match(self.text, self.at)
        return m[0] if m else ""

    def _until(self, mark: str) -> str:
        """The statement up to ``mark``; braces of vectors and initialisers belong to it."""
        end = self.text.find(mark, self.at)
        if end < 0:
            raise PtxError(f"no {mark!r} after {self.text[self.at : self.at + 60]!r}")
        out = self.text[self.at : end].strip()
        self.at = end + 1
        return out


def _split(text: str) -> list[str]:
    """Operands at commas outside brackets."""
    out, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "[{(") - (c in "]})")
        if c == "," and depth == 0:
            out.append(text[start:i])
            start = i + 1
    out.append(text[start:])
    return [o for o in out if o.strip()]


def _number(text: str) -> Imm | None:
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        return Imm(int(text[2:], 16), 32)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        return Imm(int(text[2:], 16), 64)
    if re.fullmatch(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?", text):
        return Imm(int(text.rstrip("U"), 0 if "x" in text.lower() else 10))
    if re.fullmatch(r"-?\d+\.\d*(?:[eE][+-]?\d+)?", text):
        return Imm(struct.unpack("<Q", struct.pack("<d", float(text)))[0], 64)
    return None


def _initial(type_: str, text: str, size: int) -> bytes:
    width = SIZES[type_]
    out = bytearray()
    for part in _split(text.strip().strip("{}")):
        number = _number(part.strip())
        if number is None:
            raise PtxError(f"initial value {part.strip()!r}")
        out += (number.bits & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(out) + bytes(max(0, size - len(out)))
