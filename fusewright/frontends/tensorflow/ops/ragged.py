"""Ragged tensors where they become ordinary ones: rows of several lengths in a padded tensor, and rows of ranges.

Owns the two ops; a ragged tensor itself is nothing but its values and the ends of its rows.
"""

from __future__ import annotations

from typing import Any

from ....core.dims import Extent
from ....core.dtypes import I64
from ....ir.graph import Value
from ... import dependent as common
from ..lower import Ctx, op, same_type
from ..values import Item
from . import positions


def _line(c: Ctx, size: Extent) -> Value:
    out: Value = c.bld.iota(shape=(size,), axis=0, dtype=I64)
    return out


def _part(c: Ctx, v: Value, start: Extent, stop: Extent) -> Value:
    out: Value = c.bld.slice(v, starts=(start,), stops=(stop,))
    return out


def _ends(c: Ctx, kind: str, given: list[Value]) -> Value:
    """[0, end of row 0, end of row 1...] of one partition; takes its operands off the end of ``given``."""
    b = c.bld
    if kind == "ROW_SPLITS":
        return common.as_i64(b, given.pop())
    if kind != "VALUE_ROWIDS" or len(given) < 2:
        raise c.refuse(f"a partition by {kind} is not supported")
    rows, count = common.as_i64(b, given.pop()), common.as_i64(b, given.pop())
    n = positions.computed(c).size(positions.computed(c).element(count, 0))
    before = b.lt(b.reshape(rows, shape=(1, rows.shape[0])), b.reshape(_line(c, n + 1), shape=(n + 1, 1)))
    out: Value = b.reduce_sum(b.cast(before, to=I64), axes=(1,))
    return out


def _padded(c: Ctx, values: Value, ends: Value, fill: Value, rows: int, width: int) -> Value:
    """[rows, width, ...]: the values of each row, and ``fill`` behind them. -1: as many as there are."""
    b, total = c.bld, values.shape[0]
    n = ends.shape[0] - 1
    first, last = _part(c, ends, 0, n), _part(c, ends, 1, n + 1)
    m: Extent = width
    if width < 0:  # of all rows, those that are cut off as well
        longest = b.reduce_max(b.concat(b.sub(last, first), b.full((1,), 0, I64), axis=0), axes=(0,))
        m = common.bound(b, c.lowerer.fresh, longest, total, "M")
    if rows >= 0:  # rows that are not there are empty
        none = b.full((rows,), 0, I64)
        first, last = (_part(c, b.concat(v, none, axis=0), 0, rows) for v in (first, last))
        n = rows
    lengths = b.sub(last, first)
    at = b.reshape(_line(c, m), shape=(1, m))
    inside = b.lt(at, b.reshape(lengths, shape=(n, 1)))
    spare = positions.computed(c).number(total)  # one more row, of what is filled in
    place = b.where(inside, b.add(b.reshape(first, shape=(n, 1)), at), spare)
    table = b.concat(values, b.broadcast_to(fill, shape=(1, *values.shape[1:])), axis=0)
    out: Value = b.gather(table, place, axis=0)
    return out


@op("RaggedTensorToTensor", raw=True)
def _to_tensor(c: Ctx, shape: Item, item: Item, default: Item, *partitions: Item) -> Any:
    kinds = [
        bytes(k).decode("ascii", "replace")
        for k in c.node.attrs.get("row_partition_types", {}).get("list", {}).get("s", [])
    ]
    given = [c.v(p) for p in partitions]
    values, fill = c.v(item), c.v(default)
    levels = [k for k in kinds if k != "FIRST_DIM_SIZE"]
    wanted = c.ints(shape, "the shape")
    if not levels or kinds != (["FIRST_DIM_SIZE", *levels] if levels[0] == "VALUE_ROWIDS" else levels):
        raise c.refuse(f"partitions by {', '.join(kinds) or 'nothing'} are not supported")
    if levels[0] == "VALUE_ROWIDS" and len(levels) > 1:
        raise c.refuse("nested rows by row ids are not supported")
    if c.tensor(shape).rank == 0:
        wanted = []
    if any(w < -1 for w in wanted):
        raise c.refuse(f"{wanted} is not a shape", code="malformed")
    wanted += [-1] * (len(levels) + values.rank - len(wanted))
    if len(wanted) != len(levels) + values.rank:
        raise c.refuse(f"{wanted} has not the rank of the tensor", code="malformed")
    for level in reversed(range(len(levels))):
        rows = wanted[0] if level == 0 else -1
        values = _padded(c, values, _ends(c, levels[level], given), fill, rows, wanted[level + 1])
    return values


@op("RaggedRange")
def _range(c: Ctx, starts: Value, limits: Value, deltas: Value) -> Any:
    b = c.bld
    n = next((v.shape[0] for v in (starts, limits, deltas) if v.rank), 1)
    first, last, by = (b.broadcast_to(v, shape=(n,)) for v in (starts, limits, deltas))
    counts = positions.computed(c).steps(first, last, by)
    ends = b.cumsum(counts, axis=0)
    splits = b.concat(b.full((1,), 0, I64), ends, axis=0)
    k = positions.computed(c).size(b.reduce_sum(counts, axes=(0,)))
    place = _line(c, k)
    # The row of each value: as many rows have ended before it.
    over = b.le(b.reshape(ends, shape=(1, n)), b.reshape(place, shape=(k, 1)))
    row = b.reduce_sum(b.cast(over, to=I64), axes=(1,))
    step = same_type(c, b.sub(place, b.gather(splits, row, axis=0)), starts.dtype)
    dense = b.add(b.gather(first, row, axis=0), b.mul(step, b.gather(by, row, axis=0)))
    return [same_type(c, splits, c.type("Tsplits", 9)), dense]
