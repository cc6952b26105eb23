"""Control flow and recurrence with closed regions: if, while, scan; and fused, which only groups.

Owns their typing and evaluation. Every outer value is an operand; carried and branch types must be equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from ...core.dims import extent
from ...core.dtypes import BOOL
from ...core.errors import InputRefused, TypeRefused
from ..graph import Graph, Node, refines
from ..opdef import Attrs, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, same

Types = Sequence[TensorType]
Regions = Sequence[Graph]


def _match(what: str, region: Graph, given: Types) -> None:
    if len(region.inputs) != len(given):
        raise TypeRefused(f"{what} takes {len(region.inputs)} values, got {len(given)}")
    for i, (v, t) in enumerate(zip(region.inputs, given, strict=True)):
        if not refines(t, v.type):
            raise TypeRefused(f"{what} input {i} is {v.type}, got {t}")


def _results(region: Graph) -> list[TensorType]:
    return [v.type for v in region.outputs]


def _check_carried(what: str, carried: Types, out: Types) -> None:
    for i, (a, b) in enumerate(zip(carried, out, strict=True)):
        if not refines(b, a):
            raise TypeRefused(f"{what}: carried value {i} enters as {a} and leaves as {b}")


def _run(ctx: EvalContext, region: Graph, args: Arrays) -> list[np.ndarray]:
    if ctx.run_region is None:
        raise TypeRefused("this op needs the interpreter to run its region")
    return ctx.run_region(region, args)


def _infer_if(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if len(regions) != 2:
        raise TypeRefused("if needs two regions")
    if types[0].dtype is not BOOL or types[0].rank:
        raise TypeRefused(f"the condition must be a bool scalar, not {types[0]}")
    for name, region in zip(("then", "else"), regions, strict=True):
        _match(name, region, types[1:])
    then, other = _results(regions[0]), _results(regions[1])
    if len(then) != len(other) or not all(refines(a, b) for a, b in zip(then, other, strict=True)):
        raise TypeRefused(f"branches give different types: {then} and {other}")
    return then


def _region_cost(node: Node) -> Cost:
    """One pass through every region."""
    flops, moved = 0, 0
    for region in node.regions:
        for inner in region.nodes:
            if inner.op.cost is not None:
                cost = inner.op.cost(inner)
                flops, moved = flops + cost.flops, moved + cost.bytes  # type: ignore[assignment]
    if node.op.name == "scan":
        return Cost(flops * node.attrs["length"], moved * node.attrs["length"])
    return Cost(flops, moved)


define_op(
    OpDef(
        "if", ("condition", "args*"), "opaque", _infer_if, cost=_region_cost,
        doc="regions=(then, else): run one of them on args. Both give equal types.",
    )
)  # fmt: skip


def _infer_while(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if len(regions) != 2:
        raise TypeRefused("while needs two regions, condition and body")
    cond, body = regions
    n = attrs["n_carry"] = len(types) if attrs["n_carry"] is None else attrs["n_carry"]
    _match("condition", cond, types)
    _match("body", body, types)
    if len(cond.outputs) != 1 or cond.outputs[0].type.dtype is not BOOL or cond.outputs[0].rank:
        raise TypeRefused("the condition region must give one bool scalar")
    out = _results(body)
    if len(out) != n:
        raise TypeRefused(f"the body gives {len(out)} values for {n} carried ones")
    _check_carried("while", types[:n], out)
    return list(types[:n])


define_op(
    OpDef(
        "while", ("args*",), "opaque", _infer_while, attrs={"n_carry": None}, cost=_region_cost,
        doc="regions=(condition, body) over (carried..., constants...): body while condition; gives the carried.",
    )
)  # fmt: skip


def _infer_scan(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if len(regions) != 1:
        raise TypeRefused("scan needs one region, the body")
    n, m = attrs["n_carry"], attrs["n_xs"]
    if not isinstance(n, int) or not isinstance(m, int) or n < 0 or m < 0 or n + m > len(types):
        raise TypeRefused(f"n_carry={n} and n_xs={m} do not fit {len(types)} operands")
    carried, xs, consts = types[:n], types[n : n + m], types[n + m :]
    length = None if attrs["length"] is None else extent(attrs["length"])
    for x in xs:
        if x.rank == 0:
            raise TypeRefused("a scanned operand needs an axis")
        length = x.shape[0] if length is None else same(length, x.shape[0], "scanned extents")
    if length is None:
        raise TypeRefused("scan without scanned operands needs length=")
    attrs["length"] = length
    body = regions[0]
    _match("body", body, [*carried, *(x.with_shape(x.shape[1:]) for x in xs), *consts])
    out = _results(body)
    if len(out) < n:
        raise TypeRefused(f"the body gives {len(out)} values for {n} carried ones")
    _check_carried("scan", carried, out[:n])
    return [*carried, *(t.with_shape((length, *t.shape)) for t in out[n:])]


define_op(
    OpDef(
        "scan", ("args*",), "scan", _infer_scan,
        attrs={"n_carry": 0, "n_xs": 0, "length": None, "reverse": False}, cost=_region_cost,
        doc="Operands (carried..., scanned on axis 0..., constants...); body (carried..., slices..., constants...) -> "
        "(carried..., ys...). Gives (carried..., ys stacked on axis 0...). ``reverse`` runs from the last slice to the "
        "first; stacked results keep the slices' positions.",
    )
)  # fmt: skip


def _infer_fused(types: Types, attrs: dict[str, Any], regions: Regions) -> list[TensorType]:
    if len(regions) != 1:
        raise TypeRefused("fused needs one region")
    _match("fused", regions[0], types)
    return _results(regions[0])


define_op(
    OpDef(
        "fused", ("args*",), "fused", _infer_fused, attrs={"kind": "elementwise"}, cost=_region_cost,
        doc="A group of ops that one kernel computes; means exactly its region. ``kind`` names the kernel family.",
    )
)  # fmt: skip


# How many trips of a `while` are evaluated; None: as many as it takes.
_TRIPS: ContextVar[int | None] = ContextVar("trips", default=None)


@contextmanager
def at_most(trips: int) -> Iterator[None]:
    """Inside, a ``while`` that has made ``trips`` and goes on raises InputRefused: a loop may be wrong in its end."""
    token = _TRIPS.set(trips)
    try:
        yield
    finally:
        _TRIPS.reset(token)


def count_trip(node: Node, trips: int) -> int:
    """One trip more than ``trips``. Raises InputRefused past ``at_most``."""
    if trips == _TRIPS.get():
        raise InputRefused(f"{node.where}: the loop has made {trips} trips and goes on")
    return trips + 1


def eval_control(node: Node, args: Arrays, attrs: Attrs, ctx: EvalContext) -> list[np.ndarray]:
    """Results of if, while, scan and fused through ``ctx.run_region``; the interpreter's only special case."""
    name = node.op.name
    if name == "fused":
        return _run(ctx, node.regions[0], args)
    if name == "if":
        return _run(ctx, node.regions[0 if bool(args[0]) else 1], args[1:])
    if name == "while":
        n = attrs["n_carry"]
        state, consts = list(args[:n]), list(args[n:])
        trips = 0
        while bool(_run(ctx, node.regions[0], [*state, *consts])[0]):
            trips = count_trip(node, trips)
            state = _run(ctx, node.regions[1], [*state, *consts])
        return state
    n, m, length = attrs["n_carry"], attrs["n_xs"], attrs["length"]
    state, xs, consts = list(args[:n]), args[n : n + m], list(args[n + m :])
    stacked = [np.zeros(v.type.concrete(ctx.env), ctx.np_dtype(v.dtype)) for v in node.results[n:]]
    for t in reversed(range(length)) if attrs["reverse"] else range(length):
        out = _run(ctx, node.regions[0], [*state, *(x[t] for x in xs), *consts])
        state = out[:n]
        for buffer, y in zip(stacked, out[n:], strict=True):
            buffer[t] = y
    return [*state, *stacked]


CONTROL = frozenset({"if", "while", "scan", "fused"})
