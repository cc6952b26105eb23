"""Chains of views as strides: how a kernel reads or writes a value that never lies anywhere by itself.

Owns the walk through slices, reshapes, transposes and broadcasts. Must not know what a kernel computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ....core.dims import Extent
from ....core.regroup import dense_strides, reshape_strides
from ....ir.graph import Value


@dataclass(frozen=True, slots=True)
class Strided:
    """Element ``i`` of a value is element ``offset + i . strides`` of the operand with index ``operand``."""

    operand: int
    offset: Extent
    strides: tuple[Extent, ...]


def read_through(v: Value, place: Mapping[Value, int]) -> Strided | None:
    """How ``v`` is read from one of the values in ``place`` (value -> operand index); None where it is computed."""
    if v in place:
        return Strided(place[v], 0, dense_strides(v.shape))
    node = v.producer
    if node.op.name not in ("transpose", "reshape", "slice", "broadcast_to"):
        return None
    x = node.operands[0]
    inner = read_through(x, place)
    if inner is None:
        return None
    strides: Sequence[Extent] | None = inner.strides
    offset = inner.offset
    if node.op.name == "transpose":
        strides = [inner.strides[p] for p in node.attrs["perm"]]
    elif node.op.name == "reshape":
        strides = reshape_strides(x.shape, inner.strides, v.shape)
    elif node.op.name == "slice":
        starts, steps = node.attrs["starts"], node.attrs["steps"]
        offset = offset + sum((s * d for s, d in zip(starts, inner.strides, strict=True)), 0)
        strides = [s * d for s, d in zip(steps, inner.strides, strict=True)]
    else:
        lead = v.rank - x.rank
        spread = [d == 1 and e != 1 for d, e in zip(x.shape, v.shape[lead:], strict=True)]
        strides = [*[0] * lead, *(0 if s else d for s, d in zip(spread, inner.strides, strict=True))]
    return None if strides is None else Strided(inner.operand, offset, tuple(strides))


def write_through(output: Value, source: Value) -> tuple[Extent, ...] | None:
    """Strides with which ``source`` is written so that ``output``, a view of all of it, lies dense; else None."""
    strides: Sequence[Extent] | None = dense_strides(output.shape)
    v = output
    while v is not source:
        node = v.producer
        if node.op.name not in ("transpose", "reshape") or strides is None:
            return None
        x = node.operands[0]
        if node.op.name == "transpose":
            turned: list[Extent] = [0] * x.rank
            for stride, p in zip(strides, node.attrs["perm"], strict=True):
                turned[p] = stride
            strides = turned
        else:
            strides = reshape_strides(v.shape, strides, x.shape)
        v = x
    return None if strides is None else tuple(strides)
