"""The rewrite driver: applies local rules until none fires.

Owns the worklist, insertion point, splicing, clean-up and the termination budget. Must not know how a rule matches.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ...core.errors import RewriteError, TypeRefused, VerifyError
from ...ir.graph import Graph, Node, Value
from .base import PassContext, erase_dead, subgraphs

# A value with more users than this is not watched for losing one: rules that need a single use do not care.
_FEW = 8


class LocalRule(Protocol):
    """A rule that replaces the results of one node (the root) by values built right before it."""

    @property
    def name(self) -> str: ...

    @property
    def roots(self) -> frozenset[str]:
        """Names of the ops that a root may have; empty for any."""
        ...

    def attempt(self, node: Node, ctx: PassContext) -> Sequence[Value] | None:
        """Replacements for the results of ``node``, built before it; None (after noting why) to leave it alone."""
        ...


def made_before(node: Node, mark: Node | None) -> list[Node]:
    """The nodes between ``mark`` and ``node``, nearest to ``node`` first."""
    out = []
    at = node.previous
    while at is not None and at is not mark:
        out.append(at)
        at = at.previous
    return out


def drive(graph: Graph, rules: Sequence[LocalRule], ctx: PassContext) -> None:
    """Apply ``rules`` to ``graph`` and its regions up to a fixpoint. Raises RewriteError if none is in sight."""
    by_op: dict[str, list[LocalRule]] = {}
    anywhere = [r for r in rules if not r.roots]
    for op in {root for r in rules for root in r.roots}:
        by_op[op] = [r for r in rules if not r.roots or op in r.roots]
    reach = max((getattr(r, "reach", 1) for r in rules), default=1)
    for g in subgraphs(graph):
        _drive_one(g, by_op, anywhere, reach, ctx)


def _drive_one(
    g: Graph, by_op: dict[str, list[LocalRule]], anywhere: list[LocalRule], reach: int, ctx: PassContext
) -> None:
    queue = deque(g.nodes)
    queued = set(queue)
    budget = 1024 + 8 * len(g.nodes)
    history: deque[str] = deque(maxlen=64)

    def push(nodes: Iterable[Node]) -> None:
        for n in nodes:
            if n not in queued and n.graph is g:
                queued.add(n)
                queue.append(n)

    while queue:
        node = queue.popleft()
        queued.discard(node)
        for rule in by_op.get(node.op.name, anywhere):
            if node.graph is not g:
                break
            mark = node.previous
            values = _attempt(rule, node, ctx)
            made = made_before(node, mark)
            if values is None:
                for n in made:
                    erase_dead(n)
                continue
            history.append(rule.name)
            budget -= 1
            if budget < 0:
                _refuse(history)
            for old, new in zip(node.results, values, strict=True):
                g.replace(old, new)
            touched = erase_dead(node)
            for n in made:
                touched += erase_dead(n)
            push(reversed(made))
            for new in values:
                push([new.producer, *new.users])
            for v in touched:
                push(_readers(v, reach))
            ctx.rewrote(rule.name)


def _readers(v: Value, reach: int) -> Iterator[Node]:
    """Readers of ``v``, of their results, and so on: roots of rules for which it matters that ``v`` lost a reader."""
    near = [v]
    for _ in range(reach):
        found = dict.fromkeys(n for w in near if w.use_count <= _FEW for n in w.users)
        yield from found
        near = [w for n in found for w in n.results]


def _attempt(rule: LocalRule, node: Node, ctx: PassContext) -> Sequence[Value] | None:
    assert node.graph is not None
    node.graph.insertion_point = node
    try:
        return rule.attempt(node, ctx)
    except (TypeRefused, VerifyError) as error:
        ctx.decline(node, f"{rule.name}: {error}")
        return None
    except Exception as error:
        error.add_note(f"in rule {rule.name!r} at {node.where}")
        raise
    finally:
        node.graph.insertion_point = None


def _refuse(history: Iterable[str]) -> None:
    common = [name for name, _ in Counter(history).most_common(2)]
    if len(common) == 1:
        raise RewriteError(f"rule {common[0]!r} does not terminate: it keeps matching what it made")
    raise RewriteError(f"rules {common[0]!r} and {common[1]!r} undo each other: no fixpoint within the budget")
