"""One launch on a chunk of blocks: lanes, registers, and who runs next.

Owns register files, divergence, barriers and the order in which groups of lanes proceed. What instructions compute is
in `ops`. A group is the lanes at one place in the code; the one furthest back runs, so groups meet again by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .memory import Memory
from .parse import Entry, Imm, Inst, Operand, PtxError, Reg
from .shared import Shared
from .values import UNSIGNED

Array = np.ndarray[Any, Any]
Index = Array | None  # the lanes that run; None: all
SIZES = {"pred": 1, "b8": 1, "b16": 2, "b32": 4, "b64": 8}


class Deadlock(PtxError):
    """Threads wait for others that never come: a barrier or a .sync instruction in divergent code."""


class Launch:
    """State of ``blocks`` (their numbers) of ``threads`` lanes each."""

    def __init__(
        self,
        entry: Entry,
        widths: dict[str, int],
        memory: Memory,
        shared: Shared,
        blocks: Array,
        threads: int,
        grid: int,
        params: dict[str, bytes],
        symbols: dict[str, int],
        local_bytes: int,
    ) -> None:
        self.entry, self.widths, self.memory, self.shared = entry, widths, memory, shared
        self.blocks, self.threads, self.grid, self.params, self.symbols = blocks, threads, grid, params, symbols
        self.count = len(blocks) * threads
        self.everyone = np.arange(self.count)
        self.regs: dict[str, Array] = {}
        self.carry = np.zeros(self.count, np.bool_)
        self.copies = np.zeros(self.count, np.int64)  # cp.async groups committed so far, per lane
        self.flying: list[tuple[Array, Array, Array, Array, int, str]] = []
        self.local = np.full((self.count, local_bytes), 0xFF, np.uint8)
        self.executed = 0

    # -- registers ------------------------------------------------------------------------------------------------
    def lanes(self, idx: Index) -> Array:
        """Numbers of the lanes in ``idx``."""
        return self.everyone if idx is None else idx

    def block_of(self, lanes: Array) -> Array:
        """The mark of each lane's block in global memory."""
        return (self.blocks[lanes // self.threads] + 1).astype(np.uint32)

    def get(self, name: str, idx: Index) -> Array:
        """Bit patterns (bool for predicates) of a register."""
        r = self.regs.get(name)
        if r is None:
            r = self.regs[name] = self._fresh(name)
        return r if idx is None else r[idx]

    def _fresh(self, name: str) -> Array:
        """What a register holds that nobody wrote: no number that makes sense."""
        width = self.widths.get(name)
        if width is None:
            raise PtxError(f"register {name} is not declared")
        if width == 0:
            return np.zeros(self.count, np.bool_)
        return np.full(self.count, int.from_bytes(b"\xcd" * width, "little"), UNSIGNED[width])

    def put(self, name: str, value: Any, idx: Index) -> None:
        """Store bit patterns; a view of another register is copied."""
        if name == "_":
            return
        width = self.widths.get(name)
        if width is None:
            raise PtxError(f"register {name} is not declared")
        value = np.asarray(value)
        want = np.bool_ if width == 0 else UNSIGNED[width]
        if value.dtype != want:
            if value.dtype.itemsize == width:
                value = np.ascontiguousarray(value).view(want)
            elif width and value.dtype.kind in "iu":
                value = value.astype(np.int64 if value.dtype.kind == "i" else np.uint64).astype(want)
            else:
                raise PtxError(f"a value of {value.dtype} for register {name} of {width} bytes")
        if idx is None:
            if value.shape != (self.count,):
                value = (
                    np.full(self.count, value, want)
                    if value.ndim == 0
                    else np.array(np.broadcast_to(value, self.count))
                )
            else:
                value = value.copy()  # it may be another register: lanes are written one by one later on
            self.regs[name] = value
        else:
            r = self.regs.get(name)
            if r is None:
                r = self.regs[name] = self._fresh(name)
            r[idx] = value


Step = Callable[[Launch, Index], None]


class Code:
    """A kernel ready to run: ``steps[i]`` computes, or ``kinds[i]`` says what the scheduler has to do itself."""

    def __init__(self, entry: Entry, compile_one: Callable[[Inst], Step]) -> None:
        self.entry = entry
        self.kinds: list[str] = []
        self.steps: list[Step | None] = []
        for inst in entry.code:
            kind = _kind(inst)
            self.kinds.append(kind)
            self.steps.append(compile_one(inst) if kind in ("plain", "warp") else None)
        self.targets = [entry.labels[i.operands[0].name] if i.op == "bra" else -1 for i in entry.code]  # type: ignore[union-attr]
        self.members = [_membermask(i) for i in entry.code]


def _kind(inst: Inst) -> str:
    if inst.op in ("bra", "trap", "brkpt"):
        return inst.op
    if inst.op in ("ret", "exit"):
        return "ret"
    if inst.op in ("bar", "barrier"):
        if "warp" in inst.mods:
            return "warp"
        if "sync" in inst.mods:
            return "bar"
        raise PtxError(f"unknown instruction: {inst.text}")
    if "sync" in inst.mods and inst.op in ("shfl", "vote", "mma", "ldmatrix", "match", "redux", "movmatrix"):
        return "warp"
    return "plain"


def _membermask(inst: Inst) -> Operand | None:
    """The operand that names the lanes that take part; None: all 32."""
    if inst.op in ("shfl", "vote", "match", "redux") or inst.op in ("bar", "barrier") and "warp" in inst.mods:
        return inst.operands[-1]
    return None


class Run:
    """Groups of lanes by place. ``ready`` may run, ``waiting`` stand at an instruction until others come."""

    def __init__(self, code: Code, launch: Launch, limit: int) -> None:
        self.code, self.launch, self.limit = code, launch, limit
        self.ready: dict[int, Array] = {0: launch.everyone}
        self.waiting: dict[int, Array] = {}
        self.arrived: dict[tuple[int, int], int] = {}  # (barrier, block): lanes there

    def all(self) -> None:
        """To the end of every lane. Raises Deadlock."""
        while self.ready:
            at = min(self.ready)
            group = self.ready.pop(at)
            early = self.waiting.pop(at, None) if self.code.kinds[at] == "warp" else None
            if early is not None:
                group = np.sort(np.concatenate([early, group]))
            self.group(at, group, min(self.ready, default=1 << 60))
        if self.waiting:
            raise Deadlock("; ".join(self._stuck(at, lanes) for at, lanes in self.waiting.items()))
        if self.launch.flying:
            raise PtxError(f"{self.code.entry.name} ends with copies in flight: {self.launch.flying[0][5]}")

    def _stuck(self, at: int, lanes: Array) -> str:
        text = self.code.entry.code[at].text
        return f"{len(lanes)} lanes (first {int(lanes[0])}) wait for others that ended or went elsewhere: {text}"

    def add(self, at: int, lanes: Array) -> None:
        """Lanes that may go on at a place."""
        if not len(lanes):
            return
        if at >= len(self.code.steps):
            raise PtxError(f"{self.code.entry.name} runs past its end")
        there = self.ready.get(at)
        self.ready[at] = lanes if there is None else np.sort(np.concatenate([there, lanes]))

    def group(self, at: int, lanes: Array, stop: int) -> None:
        """Run ``lanes`` from ``at`` on until they split, wait, end or reach ``stop``, where others are."""
        launch, kinds, steps, insts = self.launch, self.code.kinds, self.code.steps, self.code.entry.code
        idx: Index = None if len(lanes) == launch.count else lanes
        count = len(steps)
        while True:
            if at >= count:
                raise PtxError(f"{self.code.entry.name} runs past its end")
            kind, inst = kinds[at], insts[at]
            launch.executed += 1
            if launch.executed > self.limit:
                raise PtxError(f"{self.code.entry.name} does not end: {inst.text}")
            if kind == "plain":
                step = steps[at]
                assert step is not None
                if inst.guard is None:
                    step(launch, idx)
                else:
                    on = _guard(launch, inst.guard, idx)
                    if on.all():
                        step(launch, idx)
                    elif on.any():
                        step(launch, lanes[on])
                at += 1
            elif kind == "bra":
                target = self.code.targets[at]
                if inst.guard is None:
                    at = target
                else:
                    on = _guard(launch, inst.guard, idx)
                    if on.all():
                        at = target
                    elif on.any():
                        self.add(target, lanes[on])
                        self.add(at + 1, lanes[~on])
                        return
                    else:
                        at += 1
            else:
                if inst.guard is not None:
                    on = _guard(launch, inst.guard, idx)
                    self.add(at + 1, lanes[~on])
                    lanes = lanes[on]
                    if not len(lanes):
                        return
                if kind == "ret":
                    return
                if kind in ("trap", "brkpt"):
                    raise PtxError(f"{len(lanes)} lanes came to {kind}")
                if kind == "bar":
                    self.barrier(at, lanes)
                    return
                done, left = self.together(at, lanes)
                if len(left):
                    self.waiting[at] = left
                if not len(done):
                    return
                step = steps[at]
                assert step is not None
                step(launch, None if len(done) == launch.count else done)
                if len(done) < launch.count:
                    self.add(at + 1, done)
                    return
                at += 1
            if at >= stop or at in self.ready:
                self.add(at, lanes)
                return
            if at in self.waiting and kinds[at] == "warp":
                self.add(at, lanes)
                return

    def together(self, at: int, lanes: Array) -> tuple[Array, Array]:
        """(lanes whose partners are all here, lanes that wait) at an instruction of the warp."""
        launch, operand = self.launch, self.code.members[at]
        warp = lanes // launch.threads * 32 + lanes % launch.threads // 32  # 32 warps at most per block
        bit = (np.uint64(1) << (lanes % launch.threads % 32).astype(np.uint64)).astype(np.uint64)
        if operand is None:
            want = np.full(len(lanes), 0xFFFFFFFF, np.uint64)
        elif isinstance(operand, Imm):
            want = np.full(len(lanes), operand.bits & 0xFFFFFFFF, np.uint64)
        else:
            assert isinstance(operand, Reg)
            want = launch.get(operand.name, lanes).astype(np.uint64)
        if ((want & bit) == 0).any():
            raise PtxError(f"a lane that its own mask does not name: {self.code.entry.code[at].text}")
        if len(lanes) == launch.count and (want == want[0]).all() and want[0] == 0xFFFFFFFF:
            return lanes, lanes[:0]
        here = np.zeros((int(warp.max()) + 1,), np.uint64)
        np.bitwise_or.at(here, warp, bit)
        fine = (here[warp] & want) == want
        return lanes[fine], lanes[~fine]

    def barrier(self, at: int, lanes: Array) -> None:
        """Lanes come to bar.sync: those of a block go on when all of its threads are there."""
        launch, inst = self.launch, self.code.entry.code[at]
        which = inst.operands[0] if inst.operands else Imm(0)
        if not isinstance(which, Imm) or len(inst.operands) > 1:
            raise PtxError(f"unknown instruction: {inst.text}")
        here = self.waiting.get(at)
        self.waiting[at] = lanes if here is None else np.sort(np.concatenate([here, lanes]))
        blocks, counts = np.unique(lanes // launch.threads, return_counts=True)
        released = []
        for b, n in zip(blocks.tolist(), counts.tolist()):
            key = (which.bits, b)
            self.arrived[key] = self.arrived.get(key, 0) + n
            if self.arrived[key] == launch.threads:
                del self.arrived[key]
                launch.shared.barrier(b)
                released.append(b)
        if not released:
            return
        for place in [p for p in self.waiting if self.code.kinds[p] == "bar"]:
            other = self.code.entry.code[place].operands
            if (other[0] if other else Imm(0)) != which:
                continue
            there = self.waiting.pop(place)
            go = np.isin(there // launch.threads, released)
            warps, sizes = np.unique(
                there[go] // launch.threads * 32 + there[go] % launch.threads // 32, return_counts=True
            )
            if len(warps) and (sizes != 32).any():
                raise Deadlock(f"threads of one warp stand at different barriers: {inst.text}")
            self.add(place + 1, there[go])
            if not go.all():
                self.waiting[place] = there[~go]


def _guard(launch: Launch, guard: Reg, idx: Index) -> Array:
    on = launch.get(guard.name, idx)
    return ~on if guard.negated else on


def check_all(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raises PtxError for modifiers that an instruction's code does not read."""
    extra = [n for n in names if n not in known]
    if extra:
        raise PtxError(f"unknown modifier .{extra[0]}: {what}")
