"""From a plan and symbol values to a filled step table.

Owns the step-table layout (the native dispatcher reads it) and the choice to reuse a memory plan. Must not know how
arguments are checked or where the image comes from: it is handed addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..core.bounds import misfit, out_of_range
from ..core.errors import InputRefused
from ..core.plan import Arg, Bind, Call, Check, If, Loop, Plan, Step
from ..core.poolwords import BIND, BRANCH, CALL, CHECK, ENDLOOP, HALT, JUMP, LOOP
from .dynamic import Registers, tables
from .expressions import Expressions, Words
from .memory import Arena
from .room import Room

_TAIL = 1 << 40  # positions from here on count from the end of the program words


class _Assembler:
    """Lays out program words and, behind them, argument blocks and bump tables; records what must be filled in when."""

    def __init__(self, plan: Plan, code: int, constants: Sequence[int], known: Sequence[int | None]) -> None:
        self.plan, self.code, self.constants, self.known = plan, code, constants, known
        self.program: list[int] = [0]
        self.tail: list[int] = []
        self.exprs: list[tuple[int, int, int]] = []  # position, expression, sign
        self.buffers: list[tuple[int, int]] = []
        self.selves: list[tuple[int, int]] = []  # position, position whose address goes there
        self.ports: list[tuple[int, str, int]] = []
        self.ends: list[tuple[int, int, int]] = []  # position, count, delta: adds (count - 1) * delta
        self.words: dict[tuple[int, int], int] = {}  # (step, argument) -> the word that an outer loop must move
        self.shifts: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.args: dict[tuple[int, int], Arg] = {}
        self.number = 0
        self.registers = Registers(plan, self.grow, self.set) if plan.bound else None
        self.bases: dict[int, tuple[str, int]] = {}  # word -> the storage that its address lies in
        self.binds: dict[int, Bind | Check] = {}  # instruction -> its step

    def set(self, at: int, word: int) -> None:
        (self.tail if at >= _TAIL else self.program)[at % _TAIL] = word

    def fill(self, at: int, e: int, sign: int = 1) -> None:
        constant = self.known[e]
        if self.registers is not None:
            self.registers.add(at, sign * self.registers.exprs[e])
        if constant is None:
            self.exprs.append((at, e, sign))
        else:
            segment = self.tail if at >= _TAIL else self.program
            segment[at % _TAIL] += sign * constant

    def put(self, at: int, arg: Arg) -> None:
        kind = arg[0]
        if kind == "x":
            self.fill(at, arg[1])
        elif kind == "c":
            self.set(at, self.constants[arg[1]] + arg[2])
        else:
            if kind == "b":
                self.buffers.append((at, arg[1]))
            else:
                self.ports.append((at, kind, arg[1]))
            self.bases[at] = (kind, arg[1])
            self.fill(at, arg[2])

    def grow(self, words: int) -> int:
        at = _TAIL + len(self.tail)
        self.tail += [0] * words
        return at

    def emit(self, *words: int) -> int:
        at = len(self.program)
        self.program += words
        return at

    def steps(self, steps: Sequence[Step]) -> None:
        for s in steps:
            number, self.number = self.number, self.number + 1
            if isinstance(s, Call):
                self.call(s, number)
            elif isinstance(s, Loop):
                self.loop(s)
            elif isinstance(s, If):
                at = self.emit(BRANCH, 0, 0)
                self.put(at + 1, s.cond)
                self.steps(s.then)
                jump = self.emit(JUMP, 0)
                self.program[at + 2] = len(self.program)
                self.steps(s.orelse)
                self.program[jump + 1] = len(self.program)
            elif isinstance(s, Bind):
                self.bind(s)
            elif isinstance(s, Check):
                at = self.emit(CHECK, 0, 0)
                self.binds[at] = s
                self.fill(at + 1, s.left)
                self.fill(at + 2, s.right)
            else:
                start = len(self.program)
                self.steps(s.cond_steps)
                at = self.emit(BRANCH, 0, 0)
                self.put(at + 1, s.cond)
                self.steps(s.body)
                self.emit(JUMP, start)
                self.program[at + 2] = len(self.program)

    def call(self, s: Call, number: int) -> None:
        block = self.grow(max(1, len(s.args)))
        for pos, arg in enumerate(s.args):
            self.put(block + pos, arg)
            self.words[number, pos] = block + pos
            self.args[number, pos] = arg
        entry = self.code + self.plan.entries[self.plan.kernels[s.kernel].symbol]
        at = self.emit(CALL, entry, 0, 0, s.grain)
        self.selves.append((at + 2, block))
        self.fill(at + 3, s.extent)

    def bind(self, s: Bind) -> None:
        assert self.registers is not None
        symbol = self.plan.bound[s.symbol]
        at = self.emit(BIND, 0, 0, symbol.low, 0, 0, 0, 0, 0)
        self.binds[at] = s
        self.put(at + 1, s.source)
        self.selves.append((at + 2, self.registers.symbols[symbol.name]))
        self.fill(at + 4, symbol.high)

    def close(self) -> None:
        """The tables of every BIND, when all words are laid out."""
        if self.registers is None:
            return
        words = self.registers.patches()
        for at, step in self.binds.items():
            if not isinstance(step, Bind):
                continue
            rows, patches = tables(self.registers, self.plan.bound[step.symbol].name, words)
            table = self.grow(max(1, 4 * len(rows)))
            for i, r in enumerate(rows):
                self.set(table + 4 * i, r.code)
                self.selves += [(table + 4 * i + 1, r.target), (table + 4 * i + 2, r.a), (table + 4 * i + 3, r.b)]
            changes = self.grow(max(1, 3 * len(patches)))
            for i, (word, register) in enumerate(patches):
                row = changes + 3 * i
                self.selves += [(row, word), (row + 2, register)]
                base = self.bases.get(word)
                if base is not None and base[0] == "b":
                    self.buffers.append((row + 1, base[1]))
                elif base is not None:
                    self.ports.append((row + 1, *base))
            self.program[at + 5], self.program[at + 7] = len(rows), len(patches)
            self.selves += [(at + 6, table), (at + 8, changes)]

    def loop(self, s: Loop) -> None:
        at = self.emit(LOOP, 0, 0, 0, len(s.bumps), 0)
        self.fill(at + 1, s.count)
        self.steps(s.body)
        self.emit(ENDLOOP, at)
        self.program[at + 2] = len(self.program)
        table = self.grow(max(1, 3 * len(s.bumps)))
        self.selves.append((at + 5, table))
        for i, b in enumerate(s.bumps):
            key, row = (b.step, b.pos), table + 3 * i
            shifts = self.shifts.setdefault(key, [])
            if b.reverse:
                shifts.append((s.count, b.delta))
            self.selves.append((row, self.words[key]))
            self.put(row + 1, self.args[key])
            self.ends += [(row + 1, count, delta) for count, delta in shifts]
            if self.registers is not None:
                exprs = self.registers.exprs
                for count, delta in shifts:
                    self.registers.add(row + 1, (exprs[count] - 1) * exprs[delta])
            self.fill(row + 2, b.delta, -1 if b.reverse else 1)
            # A loop around this one moves where this one starts from: the first value in this table.
            self.words[key] = row + 1


class Template(Room):
    """The step table of a plan with everything filled in that does not depend on shapes or arena."""

    __slots__ = (
        "_words", "_expr_at", "_expr", "_sign", "_ends", "buf_at", "_buf", "self_at", "port_at", "_extents", "_grains",
        "symbol_at", "refusals",
    )  # fmt: skip

    def __init__(self, plan: Plan, code: int, constants: Sequence[int]) -> None:
        """``code`` is the address of code.bin in memory, ``constants`` those of the plan's constants."""
        most = {b.name: plan.exprs[b.most] for b in plan.bound}
        super().__init__(plan, Expressions(plan.exprs, plan.symbols, most))
        calls = [s for _, s, _ in plan.walk() if isinstance(s, Call)]
        self._extents = np.array([c.extent for c in calls], np.intp)
        self._grains = np.array([c.grain for c in calls], np.int64)
        asm = _Assembler(plan, code, constants, self.exprs.constants)
        asm.steps(plan.steps)
        asm.emit(HALT)
        asm.close()
        self.symbol_at: dict[str, int] = {}
        self.refusals = asm.binds
        n = asm.program[0] = len(asm.program)

        def place(at: int) -> int:
            return at - _TAIL + n if at >= _TAIL else at

        if asm.registers is not None:
            extra = asm.registers.static
            asm.exprs += [(at, len(plan.exprs) + i, 1) for i, (at, _) in enumerate(extra)]
            self.exprs = Expressions([*plan.exprs, *(text for _, text in extra)], plan.symbols, most)
            self.symbol_at = {name: place(at) for name, at in asm.registers.symbols.items()}
        words = np.array(asm.program + asm.tail, np.int64)
        self._expr_at = np.array([place(a) for a, _, _ in asm.exprs], np.intp)
        self._expr = np.array([e for _, e, _ in asm.exprs], np.intp)
        self._sign = np.array([s for _, _, s in asm.exprs], np.int64)
        self._ends = [(place(a), c, d) for a, c, d in asm.ends]
        self.buf_at = np.array([place(a) for a, _ in asm.buffers], np.intp)
        self._buf = np.array([b for _, b in asm.buffers], np.intp)
        self.self_at = np.array([place(a) for a, _ in asm.selves], np.intp)
        words[self.self_at] = [8 * place(b) for _, b in asm.selves]
        self.port_at: dict[tuple[str, int], list[int]] = {}
        for at, kind, index in asm.ports:
            self.port_at.setdefault((kind, index), []).append(place(at))
        self._words = words

    def fill(self, values: Words, offsets: Sequence[int]) -> Words:
        """The words for these expression values and buffer offsets, addresses relative to arena and table."""
        words = self._words.copy()
        words[self._expr_at] += values[self._expr] * self._sign
        for at, count, delta in self._ends:
            words[at] += (values[count] - 1) * values[delta]
        if len(self._buf):
            words[self.buf_at] += np.array(offsets, np.int64)[self._buf]
        return words

    def refusal(self, code: int, words: Mapping[int, int] | memoryview) -> InputRefused | None:
        """Why a run ended with ``code``, from the words of its table; None when it is no refusal."""
        step = self.refusals.get(-code)
        if step is None:
            return None
        place = f" ({step.origin})" if step.origin else ""
        if isinstance(step, Check):
            return InputRefused(misfit(words[1 - code], words[2 - code]) + place)
        symbol = self.plan.bound[step.symbol]
        value = words[self.symbol_at[symbol.name]]
        return InputRefused(out_of_range(symbol.name, value, words[3 - code], words[4 - code]) + place)

    def parallel(self, values: Words) -> bool:
        """Is there a step that more than one thread can share?"""
        return bool((values[self._extents] > self._grains).any())


class Binding:
    """A template under symbol values: immutable, shared by every call of these shapes."""

    __slots__ = ("env", "offsets", "arena", "stride", "words", "inputs", "outputs", "values", "threads", "total")

    def __init__(self, template: Template, env: dict[str, int], limit: int, threads: int) -> None:
        """``limit`` is on arena and scratch together; what lies above it is made all the same: the caller judges."""
        self.env = env
        self.values = template.exprs.evaluate(env)
        self.threads = threads if template.parallel(self.values) else 1
        self.stride = template.scratch(self.values)
        self.offsets, self.arena = template.place(env, self.values, limit - self.stride * self.threads)
        self.total = self.arena + self.stride * self.threads
        self.words = template.fill(self.values, self.offsets)
        plan = template.plan
        self.inputs = [self._words_of(template, "i", i) for i in range(plan.n_inputs)]
        self.outputs = [self._words_of(template, "o", i) for i in range(len(plan.outputs))]

    def _words_of(self, template: Template, kind: str, index: int) -> list[tuple[int, int]]:
        places = template.port_at.get((kind, index), [])
        return [(at, int(self.words[at])) for at in places]


class Context:
    """A binding in one arena: the step table with all but input and output addresses filled in."""

    __slots__ = ("table", "address", "words", "scratch")

    def __init__(self, template: Template, binding: Binding, arena: Arena) -> None:
        self.table = binding.words.copy()
        self.address = self.table.ctypes.data
        self.table[template.buf_at] += arena.address
        self.table[template.self_at] += self.address
        self.words = memoryview(self.table)  # a word is quicker to set this way
        self.scratch = arena.address + binding.arena
