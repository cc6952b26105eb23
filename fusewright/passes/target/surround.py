"""What joins an attention in its kernel: the views before and behind it, and the making of its mask.

Owns growing that group. Must not know how a kernel reads a view: whoever asks says what is taken.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Node, Value
from ..engine.values import same_shape

VIEWS = frozenset({"slice", "reshape", "transpose", "broadcast_to"})
MOST_MASK = 24


def surround(node: Node, cheap: frozenset[str], accepts: Callable[[list[Node]], bool]) -> list[Node]:
    """Nodes that share ``node``'s kernel, itself included, in no order; ``accepts`` judges every step.

    Views and masks may have other readers: those keep theirs. A view behind the result joins as its only reader.
    """
    before = [_before(v) for v in dict.fromkeys(node.operands[:3])]
    mask = _mask(node.operands[3], cheap) if len(node.operands) > 3 else []
    behind = _behind(node.results[0])
    everything = list(dict.fromkeys([node, *(n for c in (*before, behind) for n in _moving(c)), *mask]))
    if accepts(everything):
        return everything
    group = [node]
    for chain in before:
        group = _longest(group, chain, accepts)
    if mask and accepts(group + [n for n in mask if n not in group]):
        group += [n for n in mask if n not in group]
    return _longest(group, behind, accepts)


def _moving(chain: list[Node]) -> list[Node]:
    """``chain`` up to its last node that moves anything: reshapes at its far end are views as it is."""
    end = max((i for i, n in enumerate(chain) if n.op.name != "reshape"), default=-1)
    return chain[: end + 1]


def _longest(group: list[Node], chain: list[Node], accepts: Callable[[list[Node]], bool]) -> list[Node]:
    """``group`` with as much of ``chain`` as is accepted."""
    best, grown = group, list(group)
    for n in chain:
        if n not in grown:
            grown = [*grown, n]
        if n.op.name != "reshape" and accepts(grown):
            best = grown
    return best


def _before(v: Value) -> list[Node]:
    chain = []
    while v.producer.op.name in VIEWS:
        chain.append(v.producer)
        v = v.producer.operands[0]
    return chain


def _behind(v: Value) -> list[Node]:
    chain: list[Node] = []
    while v.use_count == 1:
        user = v.users[0]
        if user.op.name not in ("transpose", "reshape"):
            break
        chain.append(user)
        v = user.results[0]
    return chain


def _mask(v: Value, cheap: frozenset[str]) -> list[Node]:
    """Cheap elementwise nodes that lead to ``v``; nothing when there are too many to do them again."""
    found: dict[Node, None] = {}
    work = [v.producer]
    while work:
        n = work.pop()
        if n in found or not _joins_mask(n, cheap):
            continue
        if len(found) == MOST_MASK:
            return []
        found[n] = None
        work += [x.producer for x in n.operands]
    return list(found)


def _joins_mask(n: Node, cheap: frozenset[str]) -> bool:
    if n.op.name == "reshape":
        x, y = n.operands[0], n.results[0]
        return same_shape(tuple(d for d in x.shape if d != 1), tuple(d for d in y.shape if d != 1))
    return n.op.name == "iota" or (len(n.results) == 1 and n.op.name in cheap)
