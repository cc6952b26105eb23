"""An order of the nodes in which few bytes are alive at once.

Owns the search: a beam over sets of nodes that have run, compared by the peak so far and by what they leave alive. Must
not know places or loops: it sees sizes, who reads what, and which result may lie over which operand.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..ir.graph import Node, Value
from .storage import NO_STEP, Storage

MOST_NODES = 20_000  # larger graphs keep their order
READY = 8  # nodes tried next in each state: those that free most, and the first in the given order
WORK = 60_000  # nodes times width of the beam

Trail = tuple[int, "Trail | None"]
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
    found = _search(sizes, least, max(4, min(64, WORK // count)), peak)
    return [sizes.nodes[i] for i in (found or given)]


def _search(sizes: Sizes, least: int, width: int, limit: int) -> list[int] | None:
    """An order with a peak below ``limit``."""
    first = tuple(i for i, need in enumerate(sizes.needs) if not need)
    states: list[State] = [((least, 0, 0), 0, 0, first, None)]
    for _ in sizes.nodes:
        best: dict[int, State] = {}
        for (peak, _, _), done, live, ready, trail in states:
            for i in _tried(sizes, done, live, ready):
                after, left, high = sizes.step(done, live, i)
                high = max(high, peak)
                known = best.get(after)
                # The position breaks ties, so that equal choices keep the given order.
                key = (high, left, i)
                if high >= limit or (known is not None and known[0] <= key):
                    continue
                opened = tuple(u for u in sizes.users[i] if not sizes.needs[u] & ~after)
                best[after] = (key, after, left, tuple(r for r in ready if r != i) + opened, (i, trail))
        if not best:
            return None
        states = heapq.nsmallest(width, best.values(), key=lambda s: s[0])
    trail, order = states[0][4], []
    while trail is not None:
        order.append(trail[0])
        trail = trail[1]
    return order[::-1]


def _tried(sizes: Sizes, done: int, live: int, ready: Sequence[int]) -> Sequence[int]:
    """The nodes worth running next. One that makes nothing new and keeps nothing longer alive is run at once."""
    if len(ready) == 1:
        return ready
    growth = []
    for i in ready:
        _, left, high = sizes.step(done, live, i)
        if left <= live and high <= live:
            return (i,)
        growth.append((left, high, i))
    if len(ready) <= READY:
        return ready
    return sorted({min(ready), *(i for _, _, i in heapq.nsmallest(READY - 1, growth))})
