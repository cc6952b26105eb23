"""A GPU in NumPy: modules are loaded, kernels launched.

Owns variables of modules, the split of a grid into chunks of blocks, and compiled code. Raises for whatever it does not
know and for what a kernel must not do: stray, misaligned or unwritten accesses, races, threads that never meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .access import memory as memory_step
from .lanes import Code, Launch, Run, Step
from .memory import Memory
from .ops import scalar
from .parse import SIZES, Entry, Inst, PtxError, Variable, parse
from .shared import Shared
from .warp import together

LANES = 8192  # at a time: more make the arrays leave the caches, fewer make Python's share large
STEPS = 20_000_000
SHARED_LIMIT = 227 << 10


def compile_one(inst: Inst) -> Step:
    """The step of an instruction. Raises PtxError for one that is not known."""
    for family in (scalar, memory_step, together):
        step = family(inst)
        if step is not None:
            return step
    raise PtxError(f"unknown instruction: {inst.text}")


class Loaded:
    """A module in memory: ``addresses`` of its global and constant variables; ``code`` of each kernel, made at need."""

    def __init__(self, text: str, memory: Memory) -> None:
        self.module = parse(text)
        self.memory = memory
        self.addresses: dict[str, int] = {}
        for var in self.module.variables.values():
            if var.space in ("global", "const") and not var.external and var.size:
                address = memory.alloc(var.size)
                memory.write(address, np.frombuffer(var.init or bytes(var.size), np.uint8))
                self.addresses[var.name] = address
        self._code: dict[str, Code] = {}

    def code(self, name: str) -> Code:
        """A kernel's compiled code. Raises PtxError."""
        found = self._code.get(name)
        if found is None:
            entry = self.module.entries.get(name)
            if entry is None:
                raise PtxError(f"the module has no kernel {name}")
            found = self._code[name] = Code(entry, compile_one)
        return found

    def unload(self) -> None:
        """Give the variables' memory back."""
        for address in self.addresses.values():
            self.memory.free(address)

    def static_shared(self, name: str) -> int:
        """Bytes of shared memory that a kernel declares."""
        return _place_shared(self._shared(self.module.entries[name]))[1]

    def _shared(self, entry: Entry) -> list[Variable]:
        used = {n for i in entry.code for n in _symbols(i.operands)}
        outer = [x for x in self.module.variables.values() if x.space == "shared" and x.name in used]
        return [*outer, *(x for x in entry.variables.values() if x.space == "shared")]

    def launch(
        self, name: str, grid: int, block: int, dynamic: int, params: Sequence[int | bytes], limit: int = STEPS
    ) -> int:
        """Run a kernel over ``grid`` blocks of ``block`` threads; the number of steps taken."""
        code = self.code(name)
        entry = code.entry
        if grid < 1 or not 1 <= block <= 1024 or block % 32:
            raise PtxError(f"{name}: a launch of {grid} blocks of {block} threads")
        if entry.block and block > entry.block:
            raise PtxError(f"{name}: {block} threads, compiled for at most {entry.block}")
        if len(params) != len(entry.params):
            raise PtxError(f"{name}: {len(params)} parameters, it takes {len(entry.params)}")
        values = {
            n: p if isinstance(p, bytes) else (p & ((1 << 8 * SIZES[t]) - 1)).to_bytes(SIZES[t], "little")
            for (n, t), p in zip(entry.params, params)
        }
        symbols, static = _place_shared(self._shared(entry))
        if static + dynamic > SHARED_LIMIT:
            raise PtxError(f"{name}: {static + dynamic} bytes of shared memory")
        local = {x.name: x for x in entry.variables.values() if x.space == "local"}
        at = 0
        for var in local.values():
            at = (at + var.align - 1) // var.align * var.align
            symbols[var.name] = at
            at += var.size
        symbols = {**self.addresses, **symbols}
        widths = {n: 0 if t == "pred" else SIZES[t] for n, t in entry.regs.items()}
        per, steps = max(1, LANES // block), 0
        self.memory.begin()
        with np.errstate(all="ignore"):
            for start in range(0, grid, per):
                blocks = np.arange(start, min(start + per, grid))
                shared = Shared(len(blocks), static + dynamic, block, self.memory.strict)
                state = Launch(
                    entry, widths, self.memory, shared, blocks, block, grid, values, symbols, (at + 15) // 16 * 16
                )
                Run(code, state, limit).all()
                steps += state.executed
        return steps


def _symbols(operands: Sequence[object]) -> list[str]:
    out: list[str] = []
    for o in operands:
        name = getattr(getattr(o, "base", o), "name", None)
        if name is not None:
            out.append(name)
        out += _symbols(getattr(o, "items", ()))
    return out


def _place_shared(variables: Sequence[Variable]) -> tuple[dict[str, int], int]:
    """(offset of each variable, bytes of the static ones); dynamic memory begins behind them, 16-byte aligned."""
    places: dict[str, int] = {}
    at = 0
    for var in variables:
        if not var.external:
            at = (at + var.align - 1) // var.align * var.align
            places[var.name] = at
            at += var.size
    dynamic = (at + 15) // 16 * 16
    if any(x.external for x in variables):
        at = dynamic
    places.update({x.name: dynamic for x in variables if x.external})
    return places, at
