"""Transposes (and reshapes, see reshapes.py) sink towards the outputs, where they meet others and cancel.

Owns moving a transpose behind ops that work on any order of axes, so that channels-first models become channels-last.
Must not move one over an op that cares about memory order, nor behind one that makes the tensor larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.graph import Const, Graph, Node, Value
from ..engine.base import GraphPass, PassContext
from ..engine.driver import LocalRule, drive
from ..engine.values import same_shape
from .canonicalise import RULES as FORMS
from .canonicalise import rule
from .reshapes import RULES as RESHAPES

RULES: list[LocalRule] = []
REDUCTIONS = tuple(f"reduce_{how}" for how in ("sum", "mean", "max", "min", "prod", "any", "all"))
_FOLLOWS = frozenset({"batch_norm", "transpose", "concat", "pad", "slice", "return", *REDUCTIONS})
# Results wider than the operand: a transpose is cheaper before these.
_WIDENS = frozenset({"cast"})


def _movable(v: Value) -> bool:
    """A transpose that no reader holds back: each of them lets it through, so it does not end up done twice."""
    if v.producer.op.name != "transpose":
        return False
    return all(n.op.name in _FOLLOWS or _elementwise(n) for n in v.users)


def _elementwise(node: Node) -> bool:
    return node.op.kind == "elementwise" and len(node.results) == 1 and node.op.name not in _WIDENS


def _source(v: Value) -> Value:
    return v.producer.operands[0]


def _perm(v: Value) -> tuple[int, ...]:
    return tuple(v.producer.attrs["perm"])


def _spread(values: Sequence[Any], perm: Sequence[int]) -> list[Any]:
    """A per-axis attribute of the transposed tensor, for the tensor before."""
    out: list[Any] = [None] * len(perm)
    for i, p in enumerate(perm):
        out[p] = values[i]
    return out


def _before(v: Value, perm: Sequence[int], b: Any) -> Value | None:
    """``v``, which meets a transposed tensor, as it meets the tensor before the transpose."""
    if v.producer.op.name == "transpose" and _perm(v) == tuple(perm):
        return _source(v)
    if v.rank == 0:
        return v
    if v.const is None or v.rank > len(perm):
        return None
    array = v.const.array.reshape((1,) * (len(perm) - v.rank) + v.const.array.shape)
    turned = np.transpose(array, np.argsort(perm))
    return b.constant(Const(turned if v.const.is_splat else np.ascontiguousarray(turned), v.dtype))


@rule("transpose behind elementwise", into=RULES)
def _behind_elementwise(node: Node, b: Any) -> Value | None:
    if not _elementwise(node):
        return None
    first = next((v for v in node.operands if _movable(v) and same_shape(v.shape, node.results[0].shape)), None)
    if first is None:
        return None
    perm = _perm(first)
    operands = [_before(v, perm, b) for v in node.operands]
    if any(v is None for v in operands):
        return None
    return b.transpose(b.apply(node.op, operands, node.attrs)[0], perm=perm)


@rule("transpose behind batch_norm", "batch_norm", into=RULES)
def _behind_batch_norm(node: Node, b: Any) -> Value | None:
    x = node.operands[0]
    if not _movable(x):
        return None
    attrs = {**node.attrs, "axis": _perm(x)[node.attrs["axis"]]}
    return b.transpose(b.apply(node.op, [_source(x), *node.operands[1:]], attrs)[0], perm=_perm(x))


@rule("transpose behind reduction", *REDUCTIONS, into=RULES)
def _behind_reduction(node: Node, b: Any) -> Value | None:
    x = node.operands[0]
    if not _movable(x):
        return None
    perm, axes, keep = _perm(x), node.attrs["axes"], node.attrs["keepdims"]
    y = b.apply(node.op, [_source(x)], {"axes": tuple(perm[a] for a in axes), "keepdims": keep})[0]
    if keep:
        return b.transpose(y, perm=perm)
    left = [p for i, p in enumerate(perm) if i not in axes]
    return b.transpose(y, perm=tuple(sorted(left).index(p) for p in left)) if left != sorted(left) else y


@rule("transpose behind concat", "concat", into=RULES)
def _behind_concat(node: Node, b: Any) -> Value | None:
    if not all(_movable(v) for v in node.operands) or len({_perm(v) for v in node.operands}) != 1:
        return None
    perm = _perm(node.operands[0])
    return b.transpose(b.concat(*map(_source, node.operands), axis=perm[node.attrs["axis"]]), perm=perm)


@rule("transpose behind pad or slice", "pad", "slice", into=RULES)
def _behind_pad(node: Node, b: Any) -> Value | None:
    x = node.operands[0]
    if not _movable(x):
        return None
    attrs = {k: _spread(v, _perm(x)) if isinstance(v, tuple) else v for k, v in node.attrs.items()}
    return b.transpose(b.apply(node.op, [_source(x), *node.operands[1:]], attrs)[0], perm=_perm(x))


@rule("transpose into matmul", "matmul", into=RULES)
def _into_matmul(node: Node, b: Any) -> Value | None:
    """Weights are packed anyway, and packing reads either order."""
    x = node.operands[1]
    if x.producer.op.name != "transpose" or x.rank != _source(x).rank:
        return None
    swap = (*range(x.rank - 2), x.rank - 1, x.rank - 2)
    if _perm(x) != swap:
        return None
    attrs = {**node.attrs, "transpose_b": not node.attrs["transpose_b"]}
    return b.apply(node.op, [node.operands[0], _source(x)], attrs)[0]


@rule("einsum as matmul", "einsum", into=RULES)
def _einsum(node: Node, b: Any) -> Value | None:
    """One form for contractions: its transposes and reshapes then sink and cancel like all others."""
    assert node.op.decompose is not None
    value: Value = node.op.decompose(b, list(node.operands), node.attrs)
    return value


def run(graph: Graph, ctx: PassContext) -> None:
    """Move transposes and reshapes behind what does not care, and cancel those that meet."""
    drive(graph, [*RULES, *RESHAPES, *FORMS], ctx)


sink = GraphPass(run, "sink", "reassoc")
