"""From a plan and symbol values to launches: loops unrolled, conditions kept, order where bytes conflict.

Owns the reading of steps for a GPU. Must not know the driver: addresses stay symbolic until a context resolves them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...core.errors import InputRefused, VerifyError
from ...core.plan import Arg, Bind, Call, Check, If, Loop, Plan, Step, While, count_steps
from .copies import Access, Queued, without_copies

MOST_LAUNCHES = 200_000  # of one binding: more trips than this are no recurrence of a network
_GRID = (1 << 31) - 1
_REDUCED = 8192  # a run's launches from here on follow each other: edges between so many cost more than they give

# A parameter word: ("x", 0, number), or an address (storage, index, offset); in storage b the offset is the arena's.
Word = tuple[str, int, int]
NUMBER = "x"


@dataclass(slots=True)
class Launch:
    """A kernel with its grid; ``words`` are its plan arguments, first and last unit and scratch. ``after`` lists the
    launches of the same run that must be over before it starts."""

    kernel: int
    grid: int
    words: list[Word]
    after: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Branch:
    """``then`` when the byte at ``cond`` is not 0, else ``orelse``."""

    cond: Word
    then: list[Part]
    orelse: list[Part]


@dataclass(slots=True)
class Repeat:
    """``test``, and while the byte at ``cond`` is not 0, ``body`` and ``test`` again."""

    test: list[Part]
    cond: Word
    body: list[Part]


Part = list[Launch] | Branch | Repeat


def unroll(plan: Plan, values: Values, offsets: Sequence[int], scratch: int) -> list[Part]:
    """The parts of one call. ``offsets`` places buffers in the arena, ``scratch`` all kernels' scratch in it."""
    reader = Reader(plan, values, offsets, scratch)
    reader.steps(plan.steps, 0, {})
    reader.close()
    return reader.out


def straight(parts: Sequence[Part]) -> bool:
    """Is there nothing that values decide?"""
    return all(isinstance(p, list) for p in parts)


class Values(Protocol):
    """The value of each of a plan's expressions."""

    def __getitem__(self, index: int, /) -> int: ...


class Reader:
    """Reads steps into ``out``."""

    def __init__(self, plan: Plan, values: Values, offsets: Sequence[int], scratch: int) -> None:
        self.plan, self.values, self.offsets, self.scratch = plan, values, offsets, scratch
        self.out: list[Part] = []
        self.queued: list[Queued] = []
        self.count = 0

    def word(self, arg: Arg, moved: int) -> Word:
        kind = arg[0]
        if kind == NUMBER:
            return (NUMBER, 0, self.values[arg[1]] + moved)
        if kind == "c":
            return ("c", arg[1], arg[2] + moved)
        offset = self.values[arg[2]] + moved
        return ("b", arg[1], self.offsets[arg[1]] + offset) if kind == "b" else (kind, arg[1], offset)

    def steps(self, steps: Sequence[Step], at: int, moved: dict[tuple[int, int], int]) -> int:
        """Read steps numbered from ``at`` on; ``moved`` are the bytes that loops have moved arguments by."""
        for s in steps:
            if isinstance(s, Call):
                self.call(s, at, moved)
                at += 1
            elif isinstance(s, Loop):
                at = self.loop(s, at + 1, moved)
            elif isinstance(s, If):
                at = self.branch(s, at + 1, moved)
            elif isinstance(s, While):
                at = self.repeat(s, at + 1, moved)
            else:
                self.find(s)
                at += 1
        return at

    def branch(self, s: If, at: int, moved: dict[tuple[int, int], int]) -> int:
        """Read an ``if`` whose regions start at ``at``; the number after them."""
        then, middle = self.inside(s.then, at, moved)
        orelse, end = self.inside(s.orelse, middle, moved)
        self.stop(Branch(self.word(s.cond, 0), then, orelse))
        return end

    def repeat(self, s: While, at: int, moved: dict[tuple[int, int], int]) -> int:
        """Read a ``while`` whose regions start at ``at``; the number after them."""
        test, middle = self.inside(s.cond_steps, at, moved)
        body, end = self.inside(s.body, middle, moved)
        self.stop(Repeat(test, self.word(s.cond, 0), body))
        return end

    def find(self, s: Bind | Check) -> None:
        raise VerifyError("extents that are found out during the run are read step by step")

    def inside(self, steps: Sequence[Step], at: int, moved: dict[tuple[int, int], int]) -> tuple[list[Part], int]:
        """The parts of a region, and the number after its last step."""
        self.close()
        outer, self.out = self.out, []
        end = self.steps(steps, at, moved)
        self.close()
        parts, self.out = self.out, outer
        return parts, end

    def stop(self, part: Branch | Repeat) -> None:
        self.close()
        self.out.append(part)

    def close(self) -> None:
        """The launches so far are a run: nothing but their order lies between them."""
        run, self.queued = without_copies(self.queued), []
        if not run:
            return
        order = Order()
        for number, q in enumerate(run):
            q.launch.after = order.add(number, q.accesses)
        self.out.append([q.launch for q in run])

    def loop(self, s: Loop, at: int, moved: dict[tuple[int, int], int]) -> int:
        count = self.values[s.count]
        end = at + count_steps(s.body)
        for trip in range(max(count, 0)):
            inner = dict(moved)
            for b in s.bumps:
                place = count - 1 - trip if b.reverse else trip
                inner[b.step, b.pos] = inner.get((b.step, b.pos), 0) + place * self.values[b.delta]
            self.steps(s.body, at, inner)
        return end

    def launch(self, s: Call, number: int, moved: dict[tuple[int, int], int]) -> Launch | None:
        """The launch of a call; None where there is nothing to do."""
        kernel = self.plan.kernels[s.kernel]
        launch, extent = kernel.launch, self.values[s.extent]
        if launch is None:
            raise VerifyError(f"kernel {kernel.name} has no launch record")
        if extent <= 0:
            return None
        self.count += 1
        if self.count > MOST_LAUNCHES:
            raise InputRefused(f"this call needs more than {MOST_LAUNCHES} launches: its loops are too long for a GPU")
        grid = -(-extent // launch.units)
        grid = min(grid, launch.max_blocks or grid)
        if grid > _GRID:
            raise InputRefused(f"step {s.origin or number} has more blocks than a GPU takes: use a smaller batch")
        words = [self.word(a, moved.get((number, pos), 0)) for pos, a in enumerate(s.args)]
        words += [(NUMBER, 0, 0), (NUMBER, 0, extent), ("b", -1, self.scratch)]
        return Launch(s.kernel, grid, words)

    def call(self, s: Call, number: int, moved: dict[tuple[int, int], int]) -> None:
        launch = self.launch(s, number, moved)
        if launch is None:
            return
        kernel = self.plan.kernels[s.kernel]
        places, accesses = self.touched(s, launch.words, self.values[kernel.scratch])
        self.queued.append(Queued(launch, places, accesses, kernel.kind == "copy"))

    def touched(self, s: Call, words: Sequence[Word], scratch: int) -> tuple[list[int], list[Access] | None]:
        """What a call reads and writes, with the parameters that name it; None when the plan does not say."""
        if len(s.access) != len(s.args):
            return [], None
        out: list[Access] = []
        places: list[int] = []
        for pos, (access, word) in enumerate(zip(s.access, words)):
            kind, index, low = word
            if kind in (NUMBER, "c") or access == "-":
                continue
            span = self.values[s.spans[pos]] if s.spans and s.spans[pos] >= 0 else -1
            space = (kind, 0 if kind == "b" else index)
            if span >= 0:
                high = low + span
            elif kind == "b":
                high = self.offsets[index] + self.values[self.plan.buffers[index].bytes]
            else:
                high = 1 << 62
            if low >= high:
                continue
            if access == "m":  # what is read is also written, so that nothing else can be read in its place
                out.append((space, low, high, False))
                places.append(-1)
            out.append((space, low, high, access != "r"))
            places.append(pos)
        if scratch:
            out.append((("b", 0), self.scratch, self.scratch + scratch, True))
            places.append(-1)
        return places, out


class Order:
    """Who wrote each byte range last and who has read it since: what a launch has to wait for."""

    def __init__(self) -> None:
        self.spaces: dict[tuple[str, int], _Ranges] = {}
        self.behind: list[int] = []  # for each launch, the set (as bits) of those that it waits for by way of others
        self.barrier = -1  # a launch of which the plan does not say what it touches: after all, before all

    def add(self, number: int, accesses: list[Access] | None) -> list[int]:
        """The launches that ``number`` has to wait for, none of them implied by another."""
        if accesses is None:
            found = set(range(number))
            self.spaces, self.barrier = {}, number
        else:
            found = {self.barrier} if self.barrier >= 0 else set()
            for space, low, high, writes in accesses:
                ranges = self.spaces.setdefault(space, _Ranges())
                found |= ranges.touch(low, high, number, writes)
            found.discard(number)
        if number >= _REDUCED:
            return [number - 1]
        direct: list[int] = []
        known = 0
        for n in sorted(found, reverse=True):  # later ones first: they imply most
            if not known >> n & 1:
                direct.append(n)
                known |= self.behind[n] | 1 << n
        self.behind.append(known)
        return direct[::-1]


class _Ranges:
    """A space cut where accesses begin and end; each piece has its last writer and the readers since."""

    def __init__(self) -> None:
        self.cuts: list[int] = [-1]
        self.writer: list[int] = [-1]
        self.readers: list[frozenset[int]] = [frozenset()]

    def _cut(self, at: int) -> int:
        i = bisect_left(self.cuts, at)
        if i == len(self.cuts) or self.cuts[i] != at:
            self.cuts.insert(i, at)
            self.writer.insert(i, self.writer[i - 1])
            self.readers.insert(i, self.readers[i - 1])
        return i

    def touch(self, low: int, high: int, number: int, writes: bool) -> set[int]:
        """Those that come before ``number``, which from now on has read or written the range."""
        i = self._cut(low)
        j = self._cut(high)
        found = {w for w in self.writer[i:j] if w >= 0}
        if writes:
            for r in self.readers[i:j]:
                found |= r
            self.cuts[i:j], self.writer[i:j], self.readers[i:j] = [low], [number], [frozenset()]
        else:
            self.readers[i:j] = [r | {number} for r in self.readers[i:j]]
        return found


def walk(parts: Sequence[Part], run: Callable[[list[Launch]], None]) -> None:
    """Every straight run of launches, whether or not a call comes to it."""
    for p in parts:
        if isinstance(p, list):
            run(p)
        elif isinstance(p, Branch):
            walk(p.then, run)
            walk(p.orelse, run)
        else:
            walk(p.test, run)
            walk(p.body, run)
