"""Integers that a loop counts with: the contents of small integer values as ``base + step * trip``.

Owns that analysis and the way back from an extent to a value. Must not edit loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...core.dims import Dim, Extent, compare_le, floordiv, lower_bound, maximum, minimum, mod
from ...core.dtypes import I64, DType
from ...ir.builder import Builder
from ...ir.graph import Value
from ..engine.values import splat_scalar

_KEEPS = frozenset("cast reshape broadcast_to".split())
_FIXED = {"floordiv": floordiv, "mod": mod, "maximum": maximum, "minimum": minimum}
_ARITHMETIC = frozenset(("add", "sub", "mul", "neg", *_FIXED))
_COMPARE = frozenset("lt le gt ge".split())


@dataclass(frozen=True, slots=True)
class Affine:
    """The integer ``base + step * t`` on trip ``t``, counted from 0."""

    base: Extent
    step: int = 0

    def __add__(self, other: Affine) -> Affine:
        return Affine(self.base + other.base, self.step + other.step)

    def __sub__(self, other: Affine) -> Affine:
        return Affine(self.base - other.base, self.step - other.step)

    def at(self, trip: Extent) -> Extent:
        """The integer on trip ``trip``."""
        return self.base + self.step * trip

    def within(self, low: Extent, high: Extent, trips: Extent) -> bool:
        """``low <= x <= high`` on each of ``trips`` trips, or there are none."""
        ends = (self.base, self.at(trips - 1)) if self.step >= 0 else (self.at(trips - 1), self.base)
        return compare_le(low, ends[0]) is True and compare_le(ends[1], high) is True


class Forms:
    """Affine forms of the values of one loop region. ``given`` holds those of its inputs.

    ``trips`` is the number of trips once it is known; until then nothing is assumed about ranges. ``seen`` collects
    every form with its type: all of them must fit their types on all trips for the analysis to hold.
    """

    def __init__(self, given: Mapping[Value, Affine], trips: Extent | None = None) -> None:
        self._known: dict[Value, Affine | None] = dict(given)
        self.trips = trips
        self.seen: list[tuple[Affine, DType]] = [(form, v.dtype) for v, form in given.items()]

    def of(self, v: Value) -> Affine | None:
        """The form of ``v`` (an integer of one element), or None."""
        if v not in self._known:
            self._known[v] = form = self._read(v)
            if form is not None:
                self.seen.append((form, v.dtype))
        return self._known[v]

    def _read(self, v: Value) -> Affine | None:
        if not v.dtype.is_int or any(d != 1 for d in v.shape):
            return None
        node = v.producer
        name = node.op.name
        if name == "constant":
            return Affine(int(splat_scalar(v)))
        if name == "reduce_sum":
            return _count(v)
        if name == "where":
            return self._chosen(v)
        if name in _KEEPS:
            source = node.operands[0]
            return self.of(source) if source.dtype.is_int and all(d == 1 for d in source.shape) else None
        if name not in ("add", "sub", "mul", "neg", *_FIXED) or any(
            any(d != 1 for d in x.shape) for x in node.operands
        ):
            return None
        parts = [self.of(x) for x in node.operands]
        if any(p is None for p in parts):
            return None
        return self._combined(name, [p for p in parts if p is not None])

    def _combined(self, name: str, parts: list[Affine]) -> Affine | None:
        if name == "neg":
            return Affine(-parts[0].base, -parts[0].step)
        a, b = parts
        if name == "add":
            return a + b
        if name == "sub":
            return a - b
        if a.step == b.step == 0:
            if name in ("floordiv", "mod") and compare_le(1, b.base) is not True:
                return None
            return Affine(a.base * b.base if name == "mul" else _FIXED[name](a.base, b.base))
        if name == "mul":
            factor, other = (a, b) if a.step == 0 else (b, a)
            if isinstance(factor.base, int) and factor.step == 0:
                return Affine(other.base * factor.base, other.step * factor.base)
            return None
        if name in ("maximum", "minimum") and self.trips is not None:
            # One of the two wins on every trip.
            d = a - b if name == "maximum" else b - a
            if d.within(0, d.base + abs(d.step) * self.trips, self.trips):
                return a
            if Affine(-d.base, -d.step).within(0, abs(d.step) * self.trips - d.base, self.trips):
                return b
        return None

    def _chosen(self, v: Value) -> Affine | None:
        """``where`` whose condition is one and the same on every trip: negative indices made positive."""
        condition, yes, no = v.producer.operands
        truth = self.truth(condition)
        if truth is None or any(any(d != 1 for d in x.shape) for x in (yes, no)):
            return None
        return self.of(yes if truth else no)

    def truth(self, v: Value) -> bool | None:
        """A bool that is the same on every trip, as far as it can be proved."""
        const = v.const
        if const is not None and const.array.size == 1:
            return bool(const.array.reshape(()))
        node = v.producer
        if node.op.name == "logical_not":
            inner = self.truth(node.operands[0])
            return None if inner is None else not inner
        if self.trips is None or node.op.name not in _COMPARE:
            return None
        a, b = (self.of(x) for x in node.operands)
        if a is None or b is None:
            return None
        d = difference(node.op.name, a, b)
        far = abs(d.step) * self.trips
        if d.within(1, d.base + far, self.trips):
            return True
        return False if Affine(-d.base, -d.step).within(0, far - d.base, self.trips) else None

    def fit(self, trips: Extent) -> bool:
        """No integer seen so far wraps around: checked from before the first trip to after the last."""
        return all(_holds(x, dt) for form, dt in self.seen for x in (form.base, form.at(trips)))


def difference(name: str, a: Affine, b: Affine) -> Affine:
    """The form that is above zero exactly where ``a <name> b``."""
    d = b - a if name in ("lt", "le") else a - b
    return d + Affine(1) if name in ("le", "ge") else d


def _holds(x: Extent, dt: DType) -> bool:
    info = np.iinfo(dt.np)
    if isinstance(x, int):
        return int(info.min) <= x <= int(info.max)
    # A symbolic extent counts elements that exist: 32 bits hold it, as they do in the model's own framework.
    return dt.size >= 4 and (dt.kind == "i" or lower_bound(x) >= 0)


def _count(v: Value) -> Affine | None:
    """A sum over equal integers: how frontends spell the value of a symbolic extent."""
    node = v.producer
    one = splat_scalar(node.operands[0])
    if one is None or any(d != 1 for d in v.shape):
        return None
    total: Extent = int(one)
    for axis in node.attrs["axes"]:
        total = total * node.operands[0].shape[axis]
    return Affine(total)


def extent_of(v: Value) -> Extent | None:
    """The integer that a value outside of loops holds, or None where it is not known."""
    form = Forms({}).of(v)
    return None if form is None else form.base


def extent_value(b: Builder, e: Extent, dtype: DType) -> Value:
    """An extent as a scalar value."""
    if isinstance(e, int):
        return b.constant(np.array(e, dtype.np), dtype)
    # The number of ones there are: no op reads an extent. Counts are never negative, so the terms go apart.
    total: Value | None = None
    for sign in (1, -1):
        terms = tuple((m, abs(c)) for m, c in e.terms if c * sign > 0)
        if terms:
            count = Dim(terms) if any(m for m, _ in terms) else terms[0][1]
            one = b.constant(count, I64) if isinstance(count, int) else _ones(b, count)
            total = one if total is None and sign > 0 else b.neg(one) if total is None else b.sub(total, one)
    assert total is not None
    return total if dtype is I64 else b.cast(total, to=dtype)


def _ones(b: Builder, count: Extent) -> Value:
    return b.reduce_sum(b.full((count,), 1, I64), axes=(0,))
