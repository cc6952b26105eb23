"""Extents and positions that are computed while the model runs: from an element of an integer tensor to an extent.

Owns what slices, reshapes, tiles and ranges by such numbers are built of. A position is clipped into its axis before it
is used, so no number leads outside a tensor; a size is bound as it is, within what ``dims=`` allows. Knows no format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..core.dims import Dim, Extent, compare_eq, floordiv, maximum, minimum, product
from ..core.dtypes import I64, DType
from ..ir.builder import Builder
from ..ir.graph import Node, Value
from . import dependent as common
from .dependent import Fresh
from .slicing import clamped

MOST = 16  # elements of a shape that are looked at one by one
_DEPTH = 32
_ARITHMETIC: dict[str, Callable[..., Extent]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "neg": lambda a: 0 - a,
    "maximum": maximum, "minimum": minimum,
}  # fmt: skip


def extent_of(v: Value, depth: int = _DEPTH) -> Extent | None:
    """What a scalar integer is as an extent of symbols, where its graph says so; None where it depends on values."""
    const = v.const
    if const is not None:
        return int(const.array.ravel()[0]) if const.array.size == 1 and const.dtype.is_int else None
    node = v.producer
    if not depth or v.type.size != 1:
        return None
    if node.op.name in ("cast", "reshape") and node.operands[0].dtype.is_int:
        return extent_of(node.operands[0], depth - 1)
    if node.op.name == "reduce_sum":
        return _ones(node)
    args = [extent_of(x, depth - 1) for x in node.operands]
    if node.op.name == "floordiv" and isinstance(args[1], int) and args[0] is not None and args[1] > 0:
        return floordiv(args[0], args[1])
    fn = _ARITHMETIC.get(node.op.name)
    return None if fn is None or any(a is None for a in args) else fn(*args)


def _ones(node: Node) -> Extent | None:
    """How many ones are added up: what the importers write for an extent."""
    x = node.operands[0]
    one = x.producer.operands[0].const if x.producer.op.name == "broadcast_to" else None
    if one is None or one.array.size != 1 or one.array.ravel()[0] != 1 or len(node.attrs["axes"]) != x.rank:
        return None
    return product(x.shape)


class Positions:
    """``dim`` makes an i64 scalar of an extent in the builder's graph."""

    def __init__(self, b: Builder, fresh: Fresh, dim: Callable[[Extent], Value]) -> None:
        self.b, self.fresh, self.dim = b, fresh, dim

    def const(self, number: int) -> Value:
        return self.b.constant(np.array(number, np.int64))

    def element(self, v: Value, i: int) -> Extent | Value:
        """Element ``i`` of a vector (a scalar has one): an extent, or an i64 scalar."""
        b = self.b
        while True:
            node = v.producer
            if v.const is not None:
                return int(v.const.array.ravel()[i])
            if node.op.name == "concat" and v.rank == 1:
                for part in node.operands:
                    size = part.shape[0]
                    if not isinstance(size, int):
                        break
                    if i < size:
                        v = part
                        break
                    i -= size
                else:
                    break
                if v not in node.operands:
                    break
                continue
            if node.op.name in ("cast", "reshape") and node.operands[0].rank <= 1 and node.operands[0].dtype.is_int:
                v = node.operands[0]
                continue
            break
        found = extent_of(v)
        if found is not None:
            return found
        one = v if not v.rank else b.reshape(b.slice(v, starts=(i,), stops=(i + 1,)), shape=())
        return common.as_i64(b, one)

    def elements(self, v: Value) -> list[Extent | Value] | None:
        """All elements of a short vector; None for a vector that is not short, or of unknown length."""
        length = v.type.size
        if not isinstance(length, int) or length > MOST or v.rank > 1:
            return None
        return [self.element(v, i) for i in range(length)]

    def number(self, e: Extent | Value) -> Value:
        """An extent as an i64 scalar."""
        return e if isinstance(e, Value) else self.const(e) if isinstance(e, int) else self.dim(e)

    def size(self, e: Extent | Value, high: Extent | None = None, hint: str = "K") -> Extent:
        """A number as an extent; the run is refused where it is negative, or more than ``high``."""
        return common.bound(self.b, self.fresh, e, high, hint) if isinstance(e, Value) else e

    def bound(self, value: Extent | Value, size: Extent, hint: str) -> Extent:
        """A number from 0 to ``size`` as an extent; what is outside is clipped."""
        inside = self.b.clip(self.number(value), self.const(0), self.number(size))
        return common.bound(self.b, self.fresh, inside, size, hint)

    def counted(self, at: Extent | Value, size: Extent) -> Value:
        """A position as a number, one counted from the end as one from the start."""
        v = self.number(at)
        from_end: Value = self.b.where(self.b.lt(v, self.const(0)), self.b.add(v, self.number(size)), v)
        return from_end

    def position(self, at: Extent | Value, size: Extent, room: Extent = 0) -> Extent:
        """A position in an axis of ``size``, counted from the end where negative, with ``room`` elements behind it."""
        if isinstance(at, int) and at >= 0 and isinstance(size, int) and isinstance(room, int):
            return min(at, size - room)
        return self.bound(self.counted(at, size), size - room, "S")

    def span(
        self, start: Extent | Value | None, stop: Extent | Value | None, step: int, size: Extent, least: int = -1
    ) -> tuple[Extent, Extent]:
        """As ``slicing.span``, of numbers that are computed. ``least``: what a start backwards is clipped to."""
        b = self.b
        if step > 0:
            first: Extent = 0 if start is None else self._inside(start, size)
            end = size if stop is None else self._inside(stop, size)
            return first, maximum(first, end)
        # Position i of the axis is size - 1 - i of the reversed one.
        last = self.number(size - 1)
        ends: list[Extent] = []
        for at, low, otherwise in ((start, least, 0), (stop, -1, size)):
            if at is None:
                ends.append(otherwise)
                continue
            inside = b.clip(self.counted(at, size), self.const(low), last)
            ends.append(self.bound(b.sub(last, inside), size, "S"))
        return ends[0], maximum(ends[0], ends[1])

    def _inside(self, at: Extent | Value, size: Extent) -> Extent:
        return self.position(at, size) if isinstance(at, Value) else clamped(at, size, 0, size)

    def sliced(self, x: Value, begin: Value, size: Value) -> Value:
        """x from ``begin`` on, ``size`` elements per axis (-1: the rest)."""
        b = self.b
        starts: list[Extent] = []
        stops: list[Extent] = []
        for i, n in enumerate(x.shape):
            first, count = self.element(begin, i), self.element(size, i)
            if isinstance(count, int):
                start = self.position(first, n, max(count, 0))
                stops.append(n if count < 0 else start + count)
            else:
                start = self.position(first, n)
                left = self.number(n - start)
                number = self.number(count)
                taken = b.where(b.lt(number, self.const(0)), left, b.minimum(number, left))
                stops.append(start + common.bound(b, self.fresh, b.maximum(taken, self.const(0)), n))
            starts.append(start)
        out: Value = b.slice(x, starts=tuple(starts), stops=tuple(stops))
        return out

    def reshaped(self, x: Value, parts: Sequence[Extent | Value], zero_copies: bool = False) -> Value:
        """x under a shape that is put together while the model runs. One part may be -1, the rest of the elements;
        with ``zero_copies`` a 0 stands for the extent that is there."""
        b = self.b
        size, one, zero = x.type.size, self.const(1), self.const(0)
        if zero_copies:
            for i, p in enumerate(parts[: x.rank]):
                if isinstance(p, Value):
                    p = b.where(b.eq(p, zero), self.number(x.shape[i]), p)
                parts = [*parts[:i], x.shape[i] if isinstance(p, int) and p == 0 else p, *parts[i + 1 :]]
        rest = one
        for p in parts:
            v = self.number(p)
            rest = b.mul(rest, b.where(b.lt(v, zero), one, v))
        want: list[Extent] = []
        for p in parts:
            if isinstance(p, Dim) or isinstance(p, int) and p >= 0:
                want.append(p)
                continue
            v = self.number(p)
            spread = b.floordiv(self.number(size), b.maximum(rest, one))
            v = b.where(b.lt(v, zero), spread, v)
            want.append(common.bound(b, self.fresh, v, size))
        out: Value = b.view_as(x, shape=tuple(want), axes=False)
        return out

    def spread(self, x: Value, parts: Sequence[Extent | Value], one_keeps: bool) -> Value:
        """x broadcast to a shape that is computed. ``one_keeps``: a 1 leaves an extent as it is."""
        b = self.b
        lead = len(parts) - x.rank
        if lead < 0:
            parts = [*(1,) * -lead, *parts]
            lead = 0
        have: list[Extent] = [*(1,) * lead, *x.shape]
        x = b.reshape(x, shape=tuple(have)) if lead else x
        want: list[Extent] = []
        for n, p in zip(have, parts, strict=True):
            if compare_eq(n, 1) is True:
                want.append(self.size(p))
            elif one_keeps and isinstance(p, int) and p == 1:
                want.append(n)
            elif isinstance(p, Value):
                # Only the extent itself (or 1) fits: taken as given, and compared with it when the run gets there.
                p = b.where(b.eq(p, self.const(1)), self.number(n), p) if one_keeps else p
                want.append(self.size(p, n))
            else:
                want.append(p)
        same = tuple(n if compare_eq(n, 1) is True else w for n, w in zip(have, want, strict=True))
        if any(compare_eq(n, w) is None for n, w in zip(have, same, strict=True)):
            x = b.view_as(x, shape=same)
        return b.broadcast_to(x, shape=tuple(want))  # type: ignore[no-any-return]

    def steps(self, start: Value, limit: Value, delta: Value) -> Value:
        """How many steps of ``delta`` lie between ``start`` and ``limit``, which is left out, in i64; -1, which is
        refused as a size, for a step of 0."""
        b = self.b
        if start.dtype.is_float:
            number = b.maximum(b.ceil(b.div(b.sub(limit, start), delta)), 0.0)
            number = b.where(b.eq(delta, 0.0), b.constant(-1.0, start.dtype), number)
            return b.cast(number, to=I64)  # type: ignore[no-any-return]
        first, last, by = (common.as_i64(b, v) for v in (start, limit, delta))
        zero, one = self.const(0), self.const(1)
        away = b.where(b.lt(by, zero), b.sub(first, last), b.sub(last, first))
        width = b.maximum(b.abs(by), one)
        number = b.maximum(b.floordiv(b.sub(b.add(away, width), one), width), zero)
        return b.where(b.eq(by, zero), self.const(-1), number)  # type: ignore[no-any-return]

    def counting(self, start: Value, limit: Value, delta: Value, dtype: DType) -> Value:
        """start, start + delta... up to ``limit``, which is left out; scalars of one integer or float type."""
        b = self.b
        line = b.iota(shape=(self.size(self.steps(start, limit, delta)),), axis=0, dtype=dtype)
        return b.add(b.mul(line, delta), start)  # type: ignore[no-any-return]


__all__ = ["MOST", "Positions", "extent_of"]
