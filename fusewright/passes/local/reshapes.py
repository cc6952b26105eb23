"""Reshapes sink towards the outputs, so that what stands behind a contraction meets its result as it lies.

Owns moving a reshape behind ops that treat the elements alike. Must not undo a reshape of a model's input: nothing
stands before it that could take an op in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.regroup import Group, across, regroup
from ...ir.graph import Const, Node, Value
from ..engine.driver import LocalRule
from ..engine.values import same_shape
from .canonicalise import rule

RULES: list[LocalRule] = []
_ROWS = ("layer_norm", "rms_norm", "softmax", "log_softmax")
# What makes a value that an elementwise op may join, once no reshape stands between them.
_MAKERS = frozenset({"contract", "window", "elementwise", "broadcast", "fused"})


def _reshaped(v: Value) -> Value | None:
    """What ``v`` was before its reshape."""
    return v.producer.operands[0] if v.producer.op.name == "reshape" else None


@rule("reshape behind elementwise", into=RULES)
def _behind_elementwise(node: Node, b: Any) -> Value | None:
    if node.op.kind != "elementwise" or len(node.results) != 1:
        return None
    y = node.results[0]
    for v in node.operands:
        x = _reshaped(v)
        if x is None or x.producer.op.kind not in _MAKERS or not same_shape(v.shape, y.shape):
            continue
        groups = regroup(x.shape, y.shape)
        if groups is None or not same_shape(v.shape, y.shape):
            continue
        operands = [_before(w, x, groups, y.rank, b) for w in node.operands]
        if all(w is not None for w in operands):
            return b.reshape(b.apply(node.op, operands, node.attrs)[0], shape=y.shape)
    return None


def _before(v: Value, like: Value, groups: Sequence[Group], rank: int, b: Any) -> Value | None:
    """``v``, which meets the reshaped tensor, as it meets ``like``, the tensor before."""
    x = _reshaped(v)
    if x is not None and same_shape(x.shape, like.shape):
        return x
    if v.rank == 0:
        return v
    shape = across(groups, like.shape, (*(1,) * (rank - v.rank), *v.shape))
    if shape is None:
        return None
    whole = same_shape(shape, like.shape)
    while shape and shape[0] == 1:
        shape = shape[1:]
    if v.const is not None:
        known = tuple(d for d in shape if isinstance(d, int))
        return b.constant(Const(v.const.array.reshape(known), v.dtype)) if len(known) == len(shape) else None
    # Whole tensors that lie otherwise would be turned back and forth.
    return None if whole else b.reshape(v, shape=shape)


def _keeps_rows(x: Value, v: Value) -> bool:
    """The reshape of ``x`` to ``v`` leaves the last axis alone."""
    return x.rank >= 2 and v.rank >= 2 and same_shape(x.shape[-1:], v.shape[-1:]) and x.shape[-1] != 0


@rule("reshape behind matmul", "matmul", into=RULES)
def _behind_matmul(node: Node, b: Any) -> Value | None:
    """Rows are rows, in however many axes they are counted: here in those of the tensor before."""
    v, w = node.operands
    x = _reshaped(v)
    if x is None or node.attrs["transpose_a"] or w.rank != 2:
        return None
    groups = regroup(x.shape, v.shape)
    if not groups or groups[-1][1] != (v.rank - 1,):
        return None
    shape = (*x.shape[: groups[-1][0][0]], v.shape[-1])
    if len(shape) < 2 or same_shape(shape, v.shape):
        return None
    return b.reshape(b.apply(node.op, [b.reshape(x, shape=shape), w], node.attrs)[0], shape=node.results[0].shape)


@rule("reshape behind normalisation of rows", *_ROWS, into=RULES)
def _behind_rows(node: Node, b: Any) -> Value | None:
    v = node.operands[0]
    x = _reshaped(v)
    if x is None or tuple(node.attrs["axes"]) != (v.rank - 1,) or not _keeps_rows(x, v):
        return None
    rest = node.operands[1:]
    if any(d != 1 for p in rest for d in p.shape[:-1]):
        return None
    rest = tuple(b.reshape(p, shape=p.shape[-1:]) if p.rank > 1 else p for p in rest)
    y = b.apply(node.op, [x, *rest], {**node.attrs, "axes": (x.rank - 1,)})[0]
    return b.reshape(y, shape=node.results[0].shape)


__all__ = ["RULES"]
