"""Horizontal merge: contractions of one left operand become one, with their weights side by side.

Owns finding siblings whose results are only read through views by kernels that read slices in place (attention), so
that no copy is made. Must not merge where a slice would have to be written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.dtypes import encode
from ...ir.builder import Builder
from ...ir.graph import Const, Graph, Node, Origin, Value
from ...ir.target import Target
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.values import channel_vector, same_shape
from .surround import VIEWS

_DEEPEST = 8


@dataclass(slots=True)
class _Sibling:
    """A matmul with constant weights, and its bias where it has one."""

    node: Node
    weights: Const
    bias: np.ndarray | None
    end: Value

    @property
    def columns(self) -> int:
        return int(self.weights.array.shape[0 if self.node.attrs["transpose_b"] else 1])


def _sibling(node: Node) -> _Sibling | None:
    weights = node.operands[1].const
    if weights is None or weights.array.ndim != 2 or node.attrs["transpose_a"] or not weights.dtype.is_float:
        return None
    found = _Sibling(node, weights, None, node.results[0])
    users = node.results[0].users
    if node.results[0].use_count == 1 and users[0].op.name == "add":
        add, y = users[0], node.results[0]
        other = add.operands[1 if add.operands[0] is y else 0]
        vector = channel_vector(other, y.rank, y.rank - 1, found.columns)
        if vector is not None and same_shape(add.results[0].shape, y.shape):
            found.bias, found.end = vector, add.results[0]
    return found


def _read_in_place(v: Value, target: Target, known: dict[Node, bool], depth: int = 0) -> bool:
    """Every reader of ``v`` is an attention that takes it as query, key or value, through views or at once.

    ``known``: the target's answers so far.
    """
    if depth > _DEEPEST or not v.uses:
        return False
    for user, index in v.uses:
        if user.op.name == "attention":
            if user not in known:
                known[user] = target.supports(user)
            if index > 2 or not known[user]:
                return False
        elif user.op.name not in VIEWS or not _read_in_place(user.results[0], target, known, depth + 1):
            return False
    return True


@graph_pass(numerics="reassoc", name="merge")
def merge(graph: Graph, ctx: PassContext) -> None:
    """Make one contraction of several that share their left operand, where readers take slices of it in place."""
    if ctx.target is None:
        return
    for g in subgraphs(graph):
        groups: dict[tuple[Value, bool], list[_Sibling]] = {}
        known: dict[Node, bool] = {}
        for node in g.nodes:
            found = _sibling(node) if node.op.name == "matmul" else None
            if found is not None and _read_in_place(found.end, ctx.target, known):
                groups.setdefault((node.operands[0], node.attrs["transpose_b"]), []).append(found)
        for siblings in groups.values():
            if len(siblings) > 1:
                _join(g, siblings)
                ctx.rewrote("contractions", len(siblings))


def _join(graph: Graph, siblings: Sequence[_Sibling]) -> None:
    first = siblings[0].node
    b = Builder(graph, first, Origin.merge([s.node.origin for s in siblings], "merge"))
    flipped, dtype = first.attrs["transpose_b"], siblings[0].weights.dtype
    weights = np.concatenate([s.weights.array for s in siblings], 0 if flipped else 1)
    y = b.matmul(first.operands[0], b.constant(Const(weights, dtype)), transpose_b=flipped)
    if any(s.bias is not None for s in siblings):
        biases = [np.zeros(s.columns) if s.bias is None else s.bias for s in siblings]
        # They were widened to double, so rounding gives them back.
        y = b.add(y, b.constant(Const(encode(np.concatenate(biases).astype(dtype.compute), dtype), dtype)))
    parts, at = [], 0
    for s in siblings:
        starts = [0] * (y.rank - 1) + [at]
        at += s.columns
        parts.append(b.slice(y, starts=starts, stops=[*y.shape[:-1], at], steps=[1] * y.rank))
    for s, part in zip(siblings, parts, strict=True):
        graph.replace(s.end, part)
        erase_dead(s.end.producer)
