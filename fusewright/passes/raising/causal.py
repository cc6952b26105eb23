"""A mask that keeps what lies on or below the diagonal becomes ``causal`` of the attention that reads it.

Owns what a bool mask says about j - i, for row i and column j. Masks that are added stay: an infinite score would show
the difference. Must not know who made the mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.dims import compare_eq
from ...core.dtypes import BOOL, I32, I64
from ...ir.graph import Value
from ..engine.pattern import op
from ..engine.rewrite import Match, Rewrite, rewrite
from ..engine.values import const_array, splat_scalar

_DEEPEST = 24
_FAR = 1 << 28  # sums of a few such offsets and any index stay in 32 bits


@dataclass(frozen=True, slots=True)
class Band:
    """Where a mask is true: low <= j - i <= high, everywhere along the other axes."""

    low: float = -math.inf
    high: float = math.inf

    def __and__(self, other: Band) -> Band:
        return Band(max(self.low, other.low), min(self.high, other.high))


CAUSAL = Band(high=0)
# rows * i + columns * j + offset
Form = tuple[int, int, int]


def _last(v: Value) -> tuple[Any, Any]:
    """Extents of rows and columns; 1 where there is no such axis."""
    shape = (1, 1, *v.shape)
    return shape[-2], shape[-1]


def _form(v: Value, depth: int = 0) -> Form | None:
    """What integer every position holds, where that is linear in its row and column."""
    if v.dtype not in (I32, I64) or depth > _DEEPEST:
        return None
    element = splat_scalar(v)
    if element is not None:
        return (0, 0, int(element)) if abs(int(element)) <= _FAR else None
    node = v.producer
    name = node.op.name
    found: Form | None = None
    if name == "iota":
        back = v.rank - node.attrs["axis"]
        found = (1, 0, 0) if back == 2 else (0, 1, 0) if back == 1 else None
    elif name in ("broadcast_to", "cast"):
        found = _form(node.operands[0], depth + 1)
    elif name == "reshape":
        found = _reshaped(v, _form(node.operands[0], depth + 1))
    elif name in ("add", "sub"):
        a, b = (_form(x, depth + 1) for x in node.operands)
        sign = 1 if name == "add" else -1
        found = None if a is None or b is None else (a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2])
    if found is None:
        return None
    if abs(found[2]) > _FAR:
        return None
    rows, columns = _last(v)
    # Along an axis of extent 1 there is nothing to count, and the axis may be spread later.
    return (0 if rows == 1 else found[0]), (0 if columns == 1 else found[1]), found[2]


def _reshaped(v: Value, form: Form | None) -> Form | None:
    """Axes of extent 1 may come and go around rows and columns; a vector may be stood up or laid down."""
    if form is None:
        return None
    before, after = _last(v.producer.operands[0]), _last(v)
    if _same(before, after) and _padded(v.producer.operands[0], v):
        return form
    if before[0] == 1 and after[1] == 1 and compare_eq(before[1], after[0]) is True:
        return form[1], 0, form[2]
    if before[1] == 1 and after[0] == 1 and compare_eq(before[0], after[1]) is True:
        return 0, form[0], form[2]
    return None


def _padded(x: Value, y: Value) -> bool:
    """Nothing but axes of extent 1 before rows and columns, in one of them."""
    return all(d == 1 for d in x.shape[:-2]) or all(d == 1 for d in y.shape[:-2])


def _same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    return all(compare_eq(x, y) is True for x, y in zip(a, b))


def band(v: Value, depth: int = 0) -> Band | None:
    """Where the mask ``v`` is true, if that depends on j - i only."""
    if v.dtype is not BOOL or depth > _DEEPEST:
        return None
    element = splat_scalar(v)
    if element is not None:
        return Band() if element else None
    array = const_array(v)
    if array is not None:
        lower = array.ndim >= 2 and np.array_equal(array, np.broadcast_to(np.tri(*array.shape[-2:]) > 0, array.shape))
        return CAUSAL if lower else None
    node = v.producer
    name, operands = node.op.name, node.operands
    if name == "logical_and":
        return _both(v, operands[0], operands[1], depth)
    if name == "where":  # false where the condition is
        never = splat_scalar(operands[2])
        return _both(v, operands[0], operands[1], depth) if never is not None and not never else None
    if name in ("le", "lt", "ge", "gt"):
        return _compared(name, _form(operands[0]), _form(operands[1]))
    if name == "logical_not":
        inner = band(operands[0], depth + 1)
        if inner is None or math.isinf(inner.low) == math.isinf(inner.high):
            return None
        return Band(low=inner.high + 1) if math.isinf(inner.low) else Band(high=inner.low - 1)
    if name == "broadcast_to":
        inner = band(operands[0], depth + 1)
        return inner if inner == Band() or _same(_last(operands[0]), _last(v)) else None
    if name == "reshape":
        inner = band(operands[0], depth + 1)
        kept = _same(_last(operands[0]), _last(v)) and _padded(operands[0], v)
        return inner if inner == Band() or kept else None
    if name == "slice" and all(s == 0 and t == 1 for s, t in zip(node.attrs["starts"][-2:], node.attrs["steps"][-2:])):
        return band(operands[0], depth + 1) if v.rank >= 2 else None
    return None


def _both(v: Value, a: Value, b: Value, depth: int) -> Band | None:
    found = Band()
    for x in (a, b):
        here = band(x, depth + 1)
        # What is spread over rows or columns says nothing about them any more.
        if here is None or here != Band() and not _same(_last(x), _last(v)):
            return None
        found = found & here
    return found


def _compared(name: str, a: Form | None, b: Form | None) -> Band | None:
    if a is None or b is None:
        return None
    if name in ("ge", "gt"):
        a, b = b, a
    rows, columns, offset = (x - y for x, y in zip(a, b))
    least = -offset - (name in ("lt", "gt"))  # rows*i + columns*j <= least
    if (rows, columns) == (-1, 1):
        return Band(high=least)
    return Band(low=-least) if (rows, columns) == (1, -1) else None


def _parts(mask: Value) -> list[Value]:
    """What has to hold together."""
    parts, stack = [], [mask]
    while stack:
        v = stack.pop()
        if v.producer.op.name == "logical_and":
            stack += reversed(v.producer.operands)
        else:
            parts.append(v)
    return parts


def _masked(q: Any, k: Any, v: Any, mask: Any, scale: Any, masked: Any) -> Any:
    return op.attention(q, k, v, mask, scale=scale, masked=masked)


@rewrite(_masked, numerics="exact", name="causal attention")
def causal(m: Match, q: Value, k: Value, v: Value, mask: Value, scale: float | None, masked: float) -> Any:
    """An attention whose mask, or a part of it, keeps j <= i: other parts stay the mask."""
    scores = (q.shape[-2], k.shape[-2])
    found, rest = Band(), []
    for part in _parts(mask):
        here = band(part) if _same(_last(part), scores) or splat_scalar(part) is not None else None
        if here is None:
            rest.append(part)
        else:
            found = found & here
    if found != CAUSAL:
        return m.decline("the mask does not keep just what lies on or below the diagonal")
    left = rest[0] if rest else None
    for part in rest[1:]:
        left = m.op.logical_and(left, part)
    return m.op.attention(q, k, v, left, scale=scale, causal=True, masked=masked)


RULES: list[Rewrite] = [causal]
__all__ = ["CAUSAL", "RULES", "Band", "band"]
