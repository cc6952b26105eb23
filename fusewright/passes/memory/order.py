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
WIDTH = 64  # states kept for each number of nodes that have run, where WORK allows it
WORK = 40_000  # stretches looked at in one search
LOOKED_AT = 24  # nodes that are ready and looked at in each state: those opened last, and the first in the given order
MOVES = 200_000  # nodes that run while moves are tried that improve the order found
MOST_HELD, SPREAD = 12, 8

Trail = tuple[int, "Trail | None"]
Stretch = tuple[tuple[int, ...], int, int, int]  # nodes, the set after them, bytes alive then, bytes needed meanwhile
Ready = tuple[Sequence[int], Sequence[int]]  # what was ready before a stretch, and what it opened
State = tuple[tuple[int, int, int], int, int, Ready, "Trail | None"]


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
    found = _search(sizes, least, peak)
    return [sizes.nodes[i] for i in _improved(sizes, list(found or given), least)]


def _improved(sizes: Sizes, order: list[int], least: int) -> list[int]:
    """``order`` with what runs at its peak brought forward as long as that lowers the peak, or what is above it."""
    best = _Profile(sizes, order, least)
    left = MOVES // (1 + len(order) // 2048)
    while best.peak > least and left > 0:
        tried = []
        for p in best.worth_a_try():
            moved = _forward(sizes, best.order, p, best.at)
            tried.append((best.after(moved, p), moved))
            left -= best.at - p + 1
        score, order = min(tried, key=lambda t: t[0], default=((best.peak, best.above), order))
        if score >= (best.peak, best.above):
            break
        left -= len(order)
        best = _Profile(sizes, order, least)
    return best.order


class _Profile:
    """What an order needs, step by step. ``at``: the position of the ``peak``; ``above``: bytes above ``least``, summed
    over the steps."""

    def __init__(self, sizes: Sizes, order: list[int], least: int) -> None:
        self.sizes, self.order, self.least = sizes, order, least
        self.live, self.highs = [0], list[int]()
        done = live = 0
        for i in order:
            done, live, high = sizes.step(done, live, i)
            self.live.append(live)
            self.highs.append(high)
        self.peak = max(self.highs, default=0)
        self.above = sum(max(0, high - least) for high in self.highs)
        self.at = self.highs.index(self.peak) if self.highs else 0
        # The most before each position, and behind it.
        self.before, self.behind = [0], [0]
        for high in self.highs:
            self.before.append(max(self.before[-1], high))
        for high in reversed(self.highs):
            self.behind.append(max(self.behind[-1], high))

    def after(self, moved: Sequence[int], first: int) -> tuple[int, int]:
        """(peak, bytes above) of ``moved``, which is the same up to position ``first``."""
        done = sum(1 << i for i in moved[:first])
        live, end = self.live[first], len(moved)
        while end > self.at + 1 and moved[end - 1] == self.order[end - 1]:
            end -= 1
        most, above = 0, self.above - sum(max(0, h - self.least) for h in self.highs[first:end])
        for i in moved[first:end]:
            done, live, high = self.sizes.step(done, live, i)
            most, above = max(most, high), above + max(0, high - self.least)
        return max(most, self.before[first], self.behind[len(moved) - end]), above

    def worth_a_try(self) -> list[int]:
        """Positions before the peak: where what is alive there was made, and some from the first possible one on."""
        sizes, at = self.sizes, self.at
        made: dict[int, int] = {}
        for position, i in enumerate(self.order[: at + 1]):
            for k in sizes.writes[i]:
                made.setdefault(k, position)
        done = sum(1 << i for i in self.order[: at + 1])
        node = self.order[at]
        own = {*sizes.reads[node], *sizes.writes[node]}
        held = sorted({p for k, p in made.items() if k not in own and sizes.readers[k] & ~done})
        needs = sizes.needs[node]
        first = max((position + 1 for position in range(at) if needs >> self.order[position] & 1), default=0)
        spread = {first + (at - first) * j // SPREAD for j in range(SPREAD)}
        return sorted({*held[-MOST_HELD:], *spread} - {at})


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


def _search(sizes: Sizes, least: int, limit: int) -> list[int] | None:
    """An order with a peak below ``limit``; None where there is none, or WORK is done before one is found."""
    first = tuple(i for i, need in enumerate(sizes.needs) if not need)
    count = len(sizes.nodes)
    # States by the number of nodes that have run: a stretch takes several at once.
    levels: list[dict[int, State]] = [{} for _ in range(count + 1)]
    levels[0][0] = ((least, 0, 0), 0, 0, (first, ()), None)
    # Sets of nodes are numbers of as many bits: the more there are, the more a stretch costs.
    left = WORK // (1 + count // 2048)
    for done_nodes in range(count):
        states = heapq.nsmallest(WIDTH, levels[done_nodes].values(), key=lambda s: s[0])
        levels[done_nodes] = {}
        if states and left <= 0:
            return None
        fair = left // (count - done_nodes)  # what is left is shared out evenly
        for (peak, _, _), done, live, (before, opened), trail in states:
            if fair <= 0:
                break
            ready = [i for i in (*before, *opened) if not done >> i & 1]
            looked = _looked_at(ready, max(2, min(LOOKED_AT, fair)))
            cost = len(looked) + len(ready) // 256  # going through a list costs little, but not nothing
            left, fair = left - cost, fair - cost
            for stretch, after, alive, high in _tried(sizes, done, live, looked):
                # The position breaks ties, so that equal choices keep the given order.
                key = (max(high, peak), alive, stretch[0])
                level = levels[done_nodes + len(stretch)]
                if key[0] >= limit or (after in level and level[after][0] <= key):
                    continue
                new = dict.fromkeys(u for i in stretch for u in sizes.users[i] if not sizes.needs[u] & ~after)
                way = trail
                for i in stretch:
                    way = (i, way)
                level[after] = (key, after, alive, (ready, tuple(new)), way)
    end = levels[count]
    if not end:
        return None
    trail, order = min(end.values(), key=lambda s: s[0])[4], []
    while trail is not None:
        order.append(trail[0])
        trail = trail[1]
    return order[::-1]


def _looked_at(ready: list[int], most: int) -> list[int]:
    """At most ``most`` of the nodes that are ready: half of them opened last, which go on with what was begun, the
    others first in the given order."""
    if len(ready) <= most:
        return ready
    last = ready[-(most // 2) :]
    return [*heapq.nsmallest(most - len(last), ready[: -len(last)]), *last]


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
