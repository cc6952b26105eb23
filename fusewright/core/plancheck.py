"""An independent judge of memory plans.

Owns the replay of a plan on byte ranges: who wrote each byte last, and is that what a step expects to read.
Imports neither the planner nor any pass, and believes no lifetime: it looks at addresses only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from .errors import VerifyError
from .plan import Arg, Bind, Call, Carry, Check, If, Loop, Plan, Step, While

_UNKNOWN = -2
Owner = tuple[int, int, int]  # value, address of its first byte, step
_NOBODY: Owner = (_UNKNOWN, 0, -1)


class _Ends(Exception):
    """The run is refused here for these sizes: nothing after it is read."""


class _Space:
    """Owners of the bytes of one storage, as a sorted list of cut points; ``owner[i]`` holds from ``cuts[i]`` on: a
    value, the address at which that value begins, and the step that wrote it."""

    def __init__(self, size: int, cuts: list[int] | None = None, owner: list[Owner] | None = None) -> None:
        self.size = size
        self.cuts = cuts or [0]
        self.owner = owner or [_NOBODY]

    def copy(self) -> _Space:
        return _Space(self.size, self.cuts[:], self.owner[:])

    def _cut(self, at: int) -> int:
        i = bisect_left(self.cuts, at)
        if i == len(self.cuts) or self.cuts[i] != at:
            self.cuts.insert(i, at)
            self.owner.insert(i, self.owner[i - 1])
        return i

    def write(self, low: int, high: int, owner: Owner) -> None:
        if low < high:
            i = self._cut(low)
            j = self._cut(high)
            self.cuts[i:j], self.owner[i:j] = [low], [owner]

    def stranger(self, low: int, high: int, value: int, begin: int) -> Owner | None:
        """The first owner in the range that is not ``value``, begun at ``begin``."""
        if low >= high:
            return None
        for i in range(bisect_right(self.cuts, low) - 1, bisect_left(self.cuts, high)):
            if self.owner[i][:2] != (value, begin):
                return self.owner[i]
        return None

    def merge(self, other: _Space) -> None:
        """Keep only what both agree on."""
        for at in other.cuts:
            self._cut(at)
        for at in self.cuts:
            other._cut(at)
        self.owner = [a if a[:2] == b[:2] else _NOBODY for a, b in zip(self.owner, other.owner)]


class _Replay:
    def __init__(self, plan: Plan, env: Mapping[str, int], offsets: Sequence[int], arena: int) -> None:
        self.plan, self.offsets = plan, offsets
        self.values = plan.evaluate(env)
        self.sizes = [self.values[b.bytes] for b in plan.buffers]
        # Outputs have no stated size here: the signature is not part of a plan. Their ranges are only told apart.
        self.spaces = [_Space(arena)] + [_Space(1 << 62) for _ in plan.outputs]
        self.bumped: dict[tuple[int, int], int] = {}

    # -- addresses ------------------------------------------------------------------------------------------------
    def where(self, arg: Arg, span: int, extra: int, step: int) -> tuple[int, int, int] | None:
        """(space, low, high) of an access; None for read-only storage. Raises when it leaves its storage."""
        kind, index = arg[0], arg[1]
        if kind == "c":
            low, size = arg[2] + extra, self.plan.constants[index].size
            self.inside(low, size if span < 0 else low + span, size, f"constant {index}", step)
            return None
        low = self.values[arg[2]] + extra
        if kind == "i":
            return None
        if kind == "o":
            return 1 + index, low, low + max(span, 0)
        size = self.sizes[index]
        high = size if span < 0 else low + span
        self.inside(low, high, size, f"buffer {index}", step)
        return 0, self.offsets[index] + low, self.offsets[index] + high

    def inside(self, low: int, high: int, size: int, what: str, step: int) -> None:
        if low < high and (low < 0 or high > size):
            raise VerifyError(f"step {step} touches bytes {low}..{high} of {what}, which has {size}", f"step {step}")

    # -- steps ----------------------------------------------------------------------------------------------------
    def run(self, steps: Sequence[Step], at: int) -> int:
        for s in steps:
            number, at = at, at + 1
            if isinstance(s, Call):
                self.call(s, number)
            elif isinstance(s, Loop):
                at = self.loop(s, at)
            elif isinstance(s, If):
                self.read(s.cond, 1, s.value, number)
                before = [x.copy() for x in self.spaces]
                middle = self.run(s.then, at)
                after_then, self.spaces = self.spaces, before
                at = self.run(s.orelse, middle)
                self.merge(after_then)
            elif isinstance(s, Bind):
                self.read(s.source, 8, s.value, number)
            elif isinstance(s, Check):
                if self.values[s.left] != self.values[s.right]:
                    raise _Ends
            else:
                at = self.loop_while(s, number, at)
        return at

    def merge(self, others: list[_Space]) -> None:
        for mine, other in zip(self.spaces, others):
            mine.merge(other)

    def call(self, s: Call, number: int) -> None:
        if len(s.access) != len(s.args) or len(s.values) != len(s.args):
            raise VerifyError(f"step {number} ({s.origin}) states no access for its arguments", f"step {number}")
        touched: list[tuple[Arg, str, Owner, int, tuple[int, int, int]]] = []
        for pos, (arg, access, value) in enumerate(zip(s.args, s.access, s.values)):
            if arg[0] == "x" or access == "-":
                continue
            span = self.values[s.spans[pos]] if s.spans and s.spans[pos] >= 0 else -1
            moved = self.bumped.get((number, pos), 0)
            place = self.where(arg, span, moved, number)
            if place is None:
                if access in "wm":
                    raise VerifyError(f"step {number} ({s.origin}) writes to read-only {arg}", f"step {number}")
                continue
            touched.append((arg, access, self.owner(value, place[1] - moved, number), pos, place))
        for _, access, owner, pos, (space, low, high) in touched:
            if access in "rm":
                self.expect(space, low, high, owner, f"{s.origin} argument {pos}")
        for arg, access, _, pos, (space, low, high) in touched:
            if access not in "wm":
                continue
            for other, _, _, other_pos, (space2, low2, high2) in touched:
                apart = space2 != space or low2 >= high or low >= high2
                if other_pos != pos and not apart and other[:2] != arg[:2]:
                    what = f"step {number} ({s.origin}): arguments {pos} and {other_pos} overlap, no declared reuse"
                    raise VerifyError(what, f"step {number}")
        for _, access, owner, _, (space, low, high) in touched:
            if access in "wm":
                self.spaces[space].write(low, high, owner)

    def owner(self, value: int, begin: int, step: int) -> Owner:
        """``value``, which begins at address ``begin``, as the whole of which it is a range."""
        while value in self.plan.windows:
            value, offset = self.plan.windows[value]
            begin -= self.values[offset]
        return value, begin, step

    def read(self, arg: Arg, span: int, value: int, number: int) -> None:
        place = self.where(arg, span, 0, number)
        if place is not None and value >= 0:
            self.expect(*place, self.owner(value, place[1], number), "condition")

    def expect(self, space: int, low: int, high: int, owner: Owner, what: str) -> None:
        value, begin, number = owner
        found = self.spaces[space].stranger(low, high, value, begin)
        if found is not None:
            name = "nothing certain" if found[0] == _UNKNOWN else f"value {found[0]} of step {found[2]}"
            name += f" from {found[1]} on" if found[0] == value else ""
            text = f"step {number} ({what}) reads value {value} at {low}..{high} but finds {name}"
            raise VerifyError(text, f"step {number}")

    def carry(self, rows: Sequence[Carry], number: int) -> None:
        """The end of a trip: what was made where a loop's state lies is the state from now on."""
        for c in rows:
            place = self.where(c.arg, self.values[c.span], 0, number)
            if place is not None:
                space, low, high = place
                self.expect(space, low, high, self.owner(c.made, low, number), "end of a trip")
                self.spaces[space].write(low, high, self.owner(c.state, low, number))

    def loop(self, s: Loop, at: int) -> int:
        """Trips 0, 1 and the last one; before the last, what the moving writes cover in between counts as written."""
        count = self.values[s.count]
        end = at
        before = [x.copy() for x in self.spaces] if count <= 0 else None
        trips = sorted({0, min(1, count - 1), count - 1}) if count > 0 else [0]
        saved = dict(self.bumped)
        for trip in trips:
            if trip > 2:
                self.cover(s, at, 2, trip - 1, count, saved)
            for b in s.bumps:
                place = count - 1 - trip if b.reverse else trip
                self.bumped[b.step, b.pos] = saved.get((b.step, b.pos), 0) + place * self.values[b.delta]
            if before is None:
                end = self.run(s.body, at)
                self.carry(s.carried, at - 1)
        self.bumped = saved
        return at + _count(s.body) if before is not None else end

    def cover(self, s: Loop, at: int, low: int, high: int, count: int, saved: Mapping[tuple[int, int], int]) -> None:
        calls = dict(_calls(s.body, at))
        for b in s.bumps:
            call = calls[b.step]
            if b.pos < len(call.access) and call.access[b.pos] in "wm" and call.spans and call.spans[b.pos] >= 0:
                delta, span = self.values[b.delta], self.values[call.spans[b.pos]]
                base = saved.get((b.step, b.pos), 0)
                ends = [(count - 1 - t if b.reverse else t) * delta + base for t in (low, high)]
                if abs(delta) > span:
                    continue  # the trips leave holes: only the trips replayed count as written
                place = self.where(call.args[b.pos], span + max(ends) - min(ends), min(ends), b.step)
                if place is not None:
                    owner = self.owner(call.values[b.pos], place[1] - min(ends), b.step)
                    self.spaces[place[0]].write(place[1], place[2], owner)

    def loop_while(self, s: While, number: int, at: int) -> int:
        after_cond = self.run(s.cond_steps, at)
        self.read(s.cond, 1, s.value, number)
        none = [x.copy() for x in self.spaces]
        end = after_cond
        for _ in range(2):
            end = self.run(s.body, after_cond)
            self.carry(s.carried, number)
            self.run(s.cond_steps, at)
            self.read(s.cond, 1, s.value, number)
        self.merge(none)
        return end


def _bodies(s: Step) -> tuple[Sequence[Step], ...]:
    if isinstance(s, Loop):
        return (s.body,)
    if isinstance(s, If):
        return (s.then, s.orelse)
    return (s.cond_steps, s.body) if isinstance(s, While) else ()


def _count(steps: Sequence[Step]) -> int:
    return sum(1 + sum(_count(body) for body in _bodies(s)) for s in steps)


def _calls(steps: Sequence[Step], at: int) -> list[tuple[int, Call]]:
    out: list[tuple[int, Call]] = []
    for s in steps:
        number, at = at, at + 1
        if isinstance(s, Call):
            out.append((number, s))
            continue
        for body in _bodies(s):
            out += _calls(body, at)
            at += _count(body)
    return out


def check_plan(plan: Plan, env: Mapping[str, int], offsets: Sequence[int], arena_bytes: int) -> None:
    """Replay ``plan`` under ``env`` with buffers at ``offsets`` of an arena of ``arena_bytes``.

    Raises VerifyError when a buffer leaves the arena or is misaligned, when a step reads a byte that holds anything but
    the value it asks for, touches bytes outside its storage, writes to an input or constant, or when two arguments
    of one step overlap, one of them written, without lying in the same buffer (a declared reuse).
    """
    replay = _Replay(plan, env, offsets, arena_bytes)
    for i, (size, offset) in enumerate(zip(replay.sizes, offsets)):
        if offset < 0 or offset % 64 or offset + size > arena_bytes or size < 0:
            text = f"buffer {i} of {size} bytes at {offset} does not fit the arena of {arena_bytes}"
            raise VerifyError(text, f"buffer {i}")
    try:
        replay.run(plan.steps, 0)
    except _Ends:
        return
    calls = [c for _, c in _calls(plan.steps, 0)]
    stored = {a[1] for c in calls for a, access in zip(c.args, c.access) if a[0] == "o" and access in "wm"}
    for i, out in enumerate(plan.outputs):
        if out[0] == "o" and out[1] not in stored:
            raise VerifyError(f"output {i} is never written", f"output {i}")


def check_disjoint(sizes: Sequence[int], first: Sequence[int], last: Sequence[int], offsets: Sequence[int]) -> None:
    """No two buffers that are live at one step share a byte. Raises VerifyError. O(n * live)."""
    active: list[int] = []
    for i in sorted(range(len(sizes)), key=first.__getitem__):
        active = [j for j in active if last[j] >= first[i]]
        for j in active:
            if offsets[i] < offsets[j] + sizes[j] and offsets[j] < offsets[i] + sizes[i]:
                raise VerifyError(f"buffers {j} and {i} are live together and overlap", f"buffer {i}")
        if sizes[i]:
            active.append(i)
