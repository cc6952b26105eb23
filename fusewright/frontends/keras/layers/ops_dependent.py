"""``keras.ops`` nodes whose results have extents that depend on values: Nonzero, Unique.

Owns their options; what they are built of is the frontends' common ``dependent``.
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import I32
from ....ir.graph import Value
from ....ir.scope import defined
from ... import dependent as common
from ..call import Call, operation
from .ops import option, value


def _fresh(c: Call) -> common.Fresh:
    fresh = common.Fresh()
    fresh.taken.update(c.b.graph.symbols, defined(c.b.graph))
    return fresh


@operation("Nonzero")
def _nonzero(c: Call, x: Any, **k: Any) -> list[Value]:
    v = value(c, x)
    if not v.rank:
        raise c.refuse("a scalar has no positions")
    at, b = common.nonzero(c.b, _fresh(c), v), c.b
    n = at.shape[0]
    columns = [b.slice(at, starts=(0, i), stops=(n, i + 1)) for i in range(v.rank)]
    return [c.cast(b.reshape(column, shape=(n,)), I32) for column in columns]


@operation("Unique")
def _unique(c: Call, x: Any, **k: Any) -> Any:
    v, axis = value(c, x), option(c, k, "axis")
    if option(c, k, "size") is not None:
        raise c.refuse("size= is not supported", hint="leave it out: the extent is found out during the run")
    order = "value" if option(c, k, "sorted", True) else "first"
    along = None if axis is None else c.axis(axis, v.rank)
    found, first, inverse, counts = common.unique_along(c.b, _fresh(c), v, along, order, False)
    out = [found]
    if option(c, k, "return_index"):
        out.append(c.cast(first, I32))
    if option(c, k, "return_inverse"):
        out.append(c.cast(c.b.reshape(inverse, shape=v.shape) if along is None else inverse, I32))
    if option(c, k, "return_counts"):
        out.append(c.cast(counts, I32))
    return out if len(out) > 1 else out[0]
