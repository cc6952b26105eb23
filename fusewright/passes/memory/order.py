"""An order of the nodes in which few bytes are alive at once.

Owns the search: a beam over sets of nodes that have run, compared by the peak so far and by what they leave alive. Must
not know places or loops: it sees sizes, who reads what, and which result may lie over which operand.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...ir.graph import Node, Value
from .storage import NO_STEP, Storage

MOST_NODES = 20_000  # larger graphs keep their order
READY = 8  # nodes tried next in each state: those that free most, and the first in the given order
STRETCH = 8
WORK = 20_000  # nodes times width of the beam
MOVES = 40_000  # nodes times rounds of moves that improve the order found
MOST_HELD, SPREAD = 12, 8

Trail = tuple[int, "Trail | None"]
Stretch = tuple[tuple[int, ...], int, int, int]  # nodes, the set after them, bytes alive then, bytes needed meanwhile
State = tuple[tuple[int, int, int], int, int, tuple[int, ...], "Trail | None"]


class Sizes:
    """What the search knows of a graph. ``bytes`` of a storage class (0: not the arena's), ``spare`` of a node's
    workspace, ``over(node)`` pairs of result and operand that may share storage."""

    def __init__(
        self, nodes: Sequence[Node], storage: Storage, bytes: Mapping[Value, int], spare: Mapping[Node, int],
        over: Callable[[Node], Sequence[tuple[Value, Value]]],
    ) -> None:  # fmt: skip
        self.nodes = [n for n in nodes if n.op.name not in NO_STEP]
        at = {n: i for i, n in enumerate(self.nodes)}
        number: dict[Value, int] = {}
        self.bytes: list[int] = []
        self.readers: list[int] = []  # sets of nodes, as bits
        self.reads: list[list[int]] = []
        self.writes: list[list[int]] = []
        self.needs: list[int] = []
        self.spare = [spare.get(n, 0) for n in self.nodes]
        self.users: list[list[int]] = [[] for _ in self.nodes]

        def numbered(v: Value) -> int:
            root = storage.root[v]
            if root not in number:
                number[root] = len(self.bytes)
                self.bytes.append(bytes.get(root, 0))
                self.readers.append(0)
            return number[root]

        for i, node in enumerate(self.nodes):
            read = list(dict.fromkeys(numbered(v) for v in node.operands))
            for k in read:
                self.readers[k] |= 1 << i
            makers = dict.fromkeys(at[v.producer] for v in node.operands if v.producer in at)
            self.needs.append(sum(1 << m for m in makers))
            for m in makers:
                self.users[m].append(i)
            self.reads.append([k for k in read if self.bytes[k]])
            self.writes.append(list(dict.fromkeys(k for v in node.results if self.bytes[k := numbered(v)])))
        self.over = [_pairs((number[storage.root[y]], number[storage.root[x]]) for y, x in over(n)) for n in self.nodes]
        self.makers = [0] * len(self.bytes)  # sets of nodes, as bits
        for i, written in enumerate(self.writes):
            for k in written:
                self.makers[k] |= 1 << i

    def step(self, done: int, live: int, i: int) -> tuple[int, int, int]:
        """(set, live bytes, bytes needed while it runs) after node ``i`` ran in the state (``done``, ``live``)."""
        after = done | 1 << i
        born = sum(self.bytes[k] for k in self.writes[i] if not self._begun(k, done))
        dead = [k for k in self.reads[i] if not self.readers[k] & ~after]
        shared, taken = 0, set[int]()
        for k, operands in self.over[i].items():
            x = next((x for x in operands if x in dead and x not in taken), -1)
            if x >= 0 and not self._begun(k, done):
                taken.add(x)
                shared += self.bytes[k]
        # A result that nobody reads is gone at once.
        dead += [k for k in self.writes[i] if not self.readers[k] & ~after and k not in dead]
        freed = sum(self.bytes[k] for k in dead)
        return after, live + born - freed, live + born - shared + self.spare[i]

    def _begun(self, k: int, done: int) -> bool:
        return bool(self.makers[k] & done)

    def least(self) -> int:
        """Bytes that one node needs by itself, whatever the order."""
        most = 0
        for i, over in enumerate(self.over):
            held = sum(self.bytes[k] for k in {*self.reads[i], *self.writes[i]})
            most = max(most, held - sum(self.bytes[k] for k in over) + self.spare[i])
        return most

    def peak(self, order: Sequence[int]) -> int:
        """The most bytes alive at once when the nodes run in ``order``."""
        done = live = most = 0
        for i in order:
            done, live, high = self.step(done, live, i)
            most = max(most, high)
        return most


def _pairs(found: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Result -> the operands over which it may lie."""
    out: dict[int, list[int]] = {}
    for y, x in found:
        out.setdefault(y, []).append(x)
    return out


def best_order(sizes: Sizes, least: int) -> list[Node]:
    """The nodes in the best order found, which is the given one unless another has a lower peak. ``least``: no order
    has a lower peak, so below it all are equal."""
    count = len(sizes.nodes)
    given = range(count)
    peak = sizes.peak(given)
    if peak <= least or count > MOST_NODES:
        return list(sizes.nodes)
    found = _search(sizes, least, max(2, min(64, WORK // count)), peak)
    return [sizes.nodes[i] for i in _improved(sizes, list(found or given), least)]


def _improved(sizes: Sizes, order: list[int], least: int) -> list[int]:
    """``order`` with what runs at its peak brought forward as long as that lowers the peak, or what is above it."""
    best = _profile(sizes, order, least)
    for _ in range(max(1, MOVES // len(order))):
        peak, at, held = best[0], best[2], best[3]
        if peak <= least:
            break
        moved = [_forward(sizes, order, p, at) for p in held]
        tried = [(_profile(sizes, o, least), o) for o in moved]
        better, candidate = min(tried, key=lambda t: t[0][:2], default=(best, order))
        if better[:2] >= best[:2]:
            break
        best, order = better, candidate
    return order


def _profile(sizes: Sizes, order: Sequence[int], least: int) -> tuple[int, int, int, list[int]]:
    """(peak, bytes above ``least`` summed over the steps, position of the peak, positions before it worth a try: where
    what is alive there was made, and some from the first possible one on)."""
    done = live = peak = above = at = 0
    made: dict[int, int] = {}
    held: list[int] = []
    for position, i in enumerate(order):
        for k in sizes.writes[i]:
            made.setdefault(k, position)
        done, live, high = sizes.step(done, live, i)
        above += max(0, high - least)
        if high > peak:
            peak, at = high, position
            own = {*sizes.reads[i], *sizes.writes[i]}
            held = sorted({p for k, p in made.items() if k not in own and sizes.readers[k] & ~done})
    needs = sizes.needs[order[at]]
    first = max((position + 1 for position in range(at) if needs >> order[position] & 1), default=0)
    spread = {first + (at - first) * j // SPREAD for j in range(SPREAD)}
    return peak, above, at, sorted({*held[-MOST_HELD:], *spread} - {at})


def _forward(sizes: Sizes, order: Sequence[int], p: int, at: int) -> list[int]:
    """``order`` with the node at position ``at``, the stretch behind it and all they need, brought forward to ``p``."""
    done = sum(1 << i for i in order[:at])
    _, (stretch, _, _, _) = _stretch(sizes, done, 0, order[at])
    wanted = 0
    for i in stretch:
        wanted |= 1 << i | sizes.needs[i]
    for i in reversed(order[p:at]):
        if wanted >> i & 1:
            wanted |= sizes.needs[i]
    rest = order[p:]
    return [*order[:p], *(i for i in rest if wanted >> i & 1), *(i for i in rest if not wanted >> i & 1)]


def _search(sizes: Sizes, least: int, width: int, limit: int) -> list[int] | None:
    """An order with a peak below ``limit``."""
    first = tuple(i for i, need in enumerate(sizes.needs) if not need)
    count = len(sizes.nodes)
    # States by the number of nodes that have run: a stretch takes several at once.
    levels: list[dict[int, State]] = [{} for _ in range(count + 1)]
    levels[0][0] = ((least, 0, 0), 0, 0, first, None)
    for done_nodes in range(count):
        states = heapq.nsmallest(width, levels[done_nodes].values(), key=lambda s: s[0])
        levels[done_nodes] = {}
        for (peak, _, _), done, live, ready, trail in states:
            for stretch, after, left, high in _tried(sizes, done, live, ready):
                # The position breaks ties, so that equal choices keep the given order.
                key = (max(high, peak), left, stretch[0])
                level = levels[done_nodes + len(stretch)]
                if key[0] >= limit or (after in level and level[after][0] <= key):
                    continue
                opened = dict.fromkeys(u for i in stretch for u in sizes.users[i] if not sizes.needs[u] & ~after)
                left_over = (*ready, *opened)
                way = trail
                for i in stretch:
                    way = (i, way)
                level[after] = (key, after, left, tuple(r for r in left_over if not after >> r & 1), way)
    end = levels[count]
    if not end:
        return None
    trail, order = min(end.values(), key=lambda s: s[0])[4], []
    while trail is not None:
        order.append(trail[0])
        trail = trail[1]
    return order[::-1]


def _tried(sizes: Sizes, done: int, live: int, ready: Sequence[int]) -> Iterable[Stretch]:
    """What is worth running next: nodes, and stretches that begin with one and end where fewest bytes are alive. What
    makes nothing new and keeps nothing longer alive is run at once."""
    found = []
    for i in ready:
        one, best = _stretch(sizes, done, live, i)
        if best[2] <= live and best[3] <= live:
            return (best,)
        found.append((best[2], best[3], i, one, best))
    if len(found) > READY:
        early = min(found, key=lambda f: f[2])
        found = heapq.nsmallest(READY - 1, found)
        found = found if early in found else [*found, early]
    out = []
    for _, _, _, one, best in found:
        out.append(best)
        if len(best[0]) > 1 and len(found) > 1:
            out.append(one)
    return out


def _stretch(sizes: Sizes, done: int, live: int, i: int) -> tuple[Stretch, Stretch]:
    """Node ``i`` alone, and with those behind it that each wait for the one before only, as far as is best."""
    after, left, high = sizes.step(done, live, i)
    one: Stretch = ((i,), after, left, high)
    best = one
    nodes = [i]
    while len(nodes) < STRETCH:
        opened = [u for u in sizes.users[nodes[-1]] if not sizes.needs[u] & ~after]
        if len(opened) != 1:
            break
        after, left, more = sizes.step(after, left, opened[0])
        nodes.append(opened[0])
        high = max(high, more)
        if left < best[2]:
            best = (tuple(nodes), after, left, high)
    return one, best
