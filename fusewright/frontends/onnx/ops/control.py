"""Control flow: If, Loop and Scan as regions, or inlined where the condition or the trip count is known.

Owns what a subgraph captures. Loops whose tensors change shape are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Extent
from ....core.dtypes import BOOL, I64
from ....core.errors import FusewrightError
from ....ir.graph import Value
from ....ir.types import TensorType
from ..call import Call, op

UNROLLED = 64


@op("If")
def _if(c: Call, condition: Value) -> Any:
    branches = [c.graph("then_branch"), c.graph("else_branch")]
    condition = c.b.reshape(condition, shape=()) if condition.rank else condition
    if condition.const is not None:
        taken = branches[0 if bool(condition.const.array) else 1]
        return c.importer.inline(taken, c.scope, c.where, {})
    captured = c.importer.captures(branches, c.scope)
    regions = [c.importer.region(g, c.scope, c.where, {}, captured)[0] for g in branches]
    found = c.b.if_(condition, *captured.values(), regions=regions)
    return (found,) if isinstance(found, Value) else found


def _known_true(graph: Any, carried: str) -> bool:
    """The condition that a Loop's body gives is the one it got, unchanged."""
    name = graph.output[0].name
    made = {out: node for node in graph.node for out in node.output}
    for _ in range(len(graph.node) + 1):
        if name == carried:
            return True
        node = made.get(name)
        if node is None or node.op_type not in ("Identity", "Cast") or not node.input:
            return False
        name = node.input[0]
    return False


@op("Loop")
def _loop(c: Call, trips: Value | None, condition: Value | None, *state: Value) -> Any:
    b, body = c.b, c.graph("body")
    n = len(state)
    names = [v.name for v in body.input]
    if len(names) != n + 2 or len(body.output) < n + 1 or len(set(names)) != len(names):
        raise c.refuse("the body's signature does not fit the operands", "malformed")
    scanned = len(body.output) - 1 - n
    go = True
    if condition is not None:
        condition = b.reshape(condition, shape=()) if condition.rank else condition
        if condition.const is None:
            raise c.refuse("the first condition depends on values that are only known at run time", "data-dependent",
                           "bind it with feeds=")  # fmt: skip
        go = bool(condition.const.array)
    count: Extent | None = None
    if trips is not None:
        known = b.elements(b.reshape(trips, shape=()) if trips.rank else trips)
        if known is None:
            raise c.refuse("the trip count is only known at run time", "data-dependent", "bind it with feeds=")
        count = known.item()
    if not go:
        count = 0
    fixed = condition is None and _constant_true(body) or _known_true(body, names[1]) or _constant_true(body)
    if count is None and not fixed:
        return _while(c, body, names, state, scanned)
    if not isinstance(count, int) or not fixed:
        raise c.refuse("a loop whose number of trips depends on values", "data-dependent", "bind them with feeds=")
    count = max(count, 0)
    if count > UNROLLED or count * len(body.node) > 20_000:
        return _counted(c, body, names, state, count)
    values: list[Value] = list(state)
    stacks: list[list[Value]] = [[] for _ in range(scanned)]
    true = b.constant(np.array(True))
    for i in range(count):
        given = dict(zip(names, [b.constant(np.array(i, np.int64)), true, *values]))
        out = c.importer.inline(body, c.scope, f"{c.where}[{i}]", given)
        values = out[1 : n + 1]
        for stack, v in zip(stacks, out[n + 1 :]):
            stack.append(b.reshape(v, shape=(1, *v.shape)))
    if scanned and not count:
        raise c.refuse("a loop without trips has outputs of unknown shape", "data-dependent")
    return [*values, *(s[0] if len(s) == 1 else b.concat(*s, axis=0) for s in stacks)]


def _constant_true(graph: Any) -> bool:
    name = graph.output[0].name
    made = {out: node for node in graph.node for out in node.output}
    for _ in range(len(graph.node) + 1):
        node = made.get(name)
        if node is None:
            return any(t.name == name and (t.raw_data == b"\x01" or list(t.int32_data) == [1])
                       for t in graph.initializer)  # fmt: skip
        if node.op_type == "Identity" and node.input:
            name = node.input[0]
            continue
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            t = node.attribute[0].t
            return t.data_type == 9 and (t.raw_data == b"\x01" or list(t.int32_data) == [1])
        return False
    return False


def _counted(c: Call, body: Any, names: list[str], state: Any, count: int) -> Any:
    """A fixed number of trips: a scan over the trip numbers."""
    b = c.b
    captured = c.importer.captures([body], c.scope)
    types = {"": TensorType(I64, ())}
    inputs = {names[2 + i]: v.type for i, v in enumerate(state)}

    def finish(inner: Any, scope: Any, out: list[Value]) -> list[Value]:
        return out[1:]

    ordered = {**inputs, names[0]: types[""], names[1]: TensorType(BOOL, ())}
    region, _ = c.importer.region(body, c.scope, c.where, ordered, captured, finish)
    line = b.iota(shape=(count,), axis=0, dtype=I64)
    true = b.full((count,), True, BOOL)
    found = b.scan(*state, line, true, *captured.values(), regions=[region], n_carry=len(state), n_xs=2)
    return (found,) if isinstance(found, Value) else found


def _while(c: Call, body: Any, names: list[str], state: Any, scanned: int) -> Any:
    """Until the body's condition fails: results of each trip would have an extent that values decide."""
    b = c.b
    if scanned:
        raise c.refuse("a loop that stacks values for a number of trips that is not known", "data-dependent")
    captured = c.importer.captures([body], c.scope)
    count, true = b.constant(np.array(0, np.int64)), b.constant(np.array(True))
    carried = [true, count, *state]
    inputs = {names[1]: true.type, names[0]: count.type, **{names[2 + i]: v.type for i, v in enumerate(state)}}

    def finish(inner: Any, scope: Any, out: list[Value]) -> list[Value]:
        go = inner.reshape(out[0], shape=()) if out[0].rank else out[0]
        return [go, inner.add(scope.names[names[0]], 1), *out[1:]]

    region, _ = c.importer.region(body, c.scope, c.where, inputs, captured, finish)
    types = [v.type for v in (*carried, *captured.values())]
    keep = b.region(types, lambda inner, *args: inner.logical_or(args[0], args[0]))
    found = b.while_(*carried, *captured.values(), regions=[keep, region], n_carry=len(carried))
    return list(found)[2:]


@op("Scan")
def _scan(c: Call, *operands: Value) -> Any:
    if c.opset < 9:
        return _batched_scan(c, operands)
    b, body, m = c.b, c.graph("body"), c.integer("num_scan_inputs")
    n = len(operands) - (m or 0)
    names = [v.name for v in body.input]
    if not m or n < 0 or len(names) != n + m or len(body.output) < n or len(set(names)) != len(names):
        raise c.refuse("the body's signature does not fit the operands", "malformed")
    outs = len(body.output) - n
    in_axes, out_axes = c.ints("scan_input_axes", (0,) * m), c.ints("scan_output_axes", (0,) * outs)
    in_turns = c.ints("scan_input_directions", (0,) * m)
    out_turns = c.ints("scan_output_directions", (0,) * outs)
    if len(in_axes) != m or len(in_turns) != m or len(out_axes) != outs or len(out_turns) != outs:
        raise c.refuse("axes and directions do not fit the operands", "malformed")
    xs = []
    for v, axis, turn in zip(operands[n:], in_axes, in_turns):
        at = c.axis(axis, v.rank)
        v = b.transpose(v, perm=(at, *(i for i in range(v.rank) if i != at))) if at else v
        xs.append(b.reverse(v, axes=(0,)) if turn else v)
    state = operands[:n]
    captured = c.importer.captures([body], c.scope)
    inputs = {names[i]: v.type for i, v in enumerate(state)}
    inputs.update({names[n + i]: v.type.with_shape(v.shape[1:]) for i, v in enumerate(xs)})
    region, _ = c.importer.region(body, c.scope, c.where, inputs, captured)
    found = b.scan(*state, *xs, *captured.values(), regions=[region], n_carry=n, n_xs=m)
    results = [found] if isinstance(found, Value) else list(found)
    for i, (axis, turn) in enumerate(zip(out_axes, out_turns), n):
        v = results[i]
        v = b.reverse(v, axes=(0,)) if turn else v
        at = c.axis(axis, v.rank)
        if at:
            v = b.transpose(v, perm=(*range(1, at + 1), 0, *range(at + 1, v.rank)))
        results[i] = v
    return results


def _batched_scan(c: Call, operands: tuple[Value | None, ...]) -> Any:
    """Opset 8: axis 0 of everything is a batch, whose rows are scanned one after the other."""
    b, body, m = c.b, c.graph("body"), c.integer("num_scan_inputs")
    if operands[0] is not None:
        raise c.refuse("sequences of different lengths in one batch", "unsupported-version")
    given = [v for v in operands[1:] if v is not None]
    n = len(given) - (m or 0)
    names = [v.name for v in body.input]
    turns = c.ints("directions", (0,) * (m or 0))
    if not m or n < 0 or len(given) + 1 != len(operands) or len(names) != n + m or len(body.output) < n:
        raise c.refuse("the body's signature does not fit the operands", "malformed")
    rows = given[0].shape[0] if given[0].rank else None
    if not isinstance(rows, int) or not 0 < rows <= UNROLLED or len(turns) != m or any(v.rank < 1 for v in given):
        raise c.refuse(f"a batch of {rows} rows is not supported", "unsupported-version")
    captured = c.importer.captures([body], c.scope)
    inputs = {names[i]: v.type.with_shape(v.shape[1:] if i < n else v.shape[2:]) for i, v in enumerate(given)}
    results: list[list[Value]] = []
    for row in range(rows):
        region, _ = c.importer.region(body, c.scope, f"{c.where}[{row}]", inputs, captured)
        picked = []
        for i, v in enumerate(given):
            one = b.slice(v, starts=(row, *(0,) * (v.rank - 1)), stops=(row + 1, *v.shape[1:]))
            one = b.reshape(one, shape=v.shape[1:])
            picked.append(b.reverse(one, axes=(0,)) if i >= n and turns[i - n] else one)
        found = b.scan(*picked, *captured.values(), regions=[region], n_carry=n, n_xs=m)
        results.append([found] if isinstance(found, Value) else list(found))
    return [
        b.concat(*(b.reshape(v, shape=(1, *v.shape)) for v in column), axis=0) for column in zip(*results, strict=True)
    ]


_ = FusewrightError
