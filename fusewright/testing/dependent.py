"""Generated extents that depend on values: masks, distinct rows, heads of a run-time length.

Owns samplers for ``Options.inject``. What decides an extent is read from inputs alone, so no rounding decides it.
"""

from __future__ import annotations

from typing import Any

from ..core.dims import Extent, product
from ..core.dtypes import BF16, BOOL, F32, I64
from ..core.errors import TypeRefused
from ..ir.graph import Value
from ..ir.scope import defined
from .graphs import Maker


def _input(m: Maker, ranks: tuple[int, int]) -> Value:
    """An input, found or new; inside bodies, where there are none, a refusal."""
    if m.depth:
        raise TypeRefused("bodies have no inputs of their own")
    found = m.find(lambda v: v.producer.op.name == "input" and ranks[0] <= v.rank <= ranks[1] and v.dtype is not BF16)
    if found is not None and m.draw.chance(0.8):
        return found
    return m.new(m.dtype((F32, I64)), m.shape(m.draw.integer(*ranks)), constant=False)


def bind(m: Maker, count: Value, high: Extent) -> str:
    """A new symbol that stands for ``count``."""
    name = f"K{len(defined(m.b.graph))}"
    m.emit("symbol_of", count, symbol=name, high=high)
    return name


def masked(m: Maker) -> Any:
    """What lies where an input is above a threshold, or the slices of which an element is."""
    x = _input(m, (1, 3))
    (mask,) = (x,) if x.dtype is BOOL else m.emit("gt", x, m.draw.pick((0, 1, -100, 100)))
    whole = m.draw.chance(0.5)
    if not whole and mask.rank > 1:
        (mask,) = m.emit("reduce_any", mask, axes=tuple(range(1, mask.rank)))
    (flat,) = m.emit("reshape", mask, shape=(product(mask.shape),))
    (number,) = m.emit("cast", flat, to=I64)
    (count,) = m.emit("reduce_sum", number, axes=(0,))
    name = bind(m, count, product(mask.shape))
    (at,) = m.emit("nonzero", mask, size=name)
    source = m.find(lambda v: v.rank >= mask.rank and v.shape[: mask.rank] == mask.shape) or x
    return m.emit("gather_nd", source, at)


def distinct(m: Maker) -> Any:
    """The distinct rows of an input and how often each occurs."""
    x = _input(m, (1, 2))
    (rows,) = m.emit("reshape", x, shape=(x.shape[0], product(x.shape[1:])))
    order, equal_nan = m.draw.pick(("value", "first")), m.draw.chance(0.5)
    first, _, counts, number = m.emit("unique", rows, order=order, equal_nan=equal_nan)
    name = bind(m, number, x.shape[0])
    (head,) = m.emit("slice", first, starts=(0,), stops=(name,))
    m.emit("slice", counts, starts=(0,), stops=(name,))
    return m.emit("gather", m.find(lambda v: v.rank > 0 and v.shape[0] == x.shape[0]) or x, head, axis=0)


def head_and_tail(m: Maker) -> Any:
    """An axis cut in two where an input says."""
    x = m.value(ranks=(1, 4))
    if m.depth:
        raise TypeRefused("bodies have no inputs of their own")
    axis = m.draw.integer(0, x.rank - 1)
    (number,) = m.emit("abs", m.new(I64, (), constant=False))
    (inside,) = m.emit("mod", number, x.shape[axis] + 1) if isinstance(x.shape[axis], int) else (number,)
    if inside is number:
        raise TypeRefused("only fixed axes are cut")
    name = bind(m, inside, x.shape[axis])
    zeros, stops = [0] * x.rank, list(x.shape)
    starts: list[Any] = list(zeros)
    cut: list[Any] = list(stops)
    starts[axis] = cut[axis] = name
    m.emit("slice", x, starts=zeros, stops=cut)
    return m.emit("slice", x, starts=starts, stops=stops)


DEPENDENT = (masked, distinct, head_and_tail)

__all__ = ["DEPENDENT", "bind", "distinct", "head_and_tail", "masked"]
