"""Counted loops: a ``while`` whose trips can be told before it starts becomes a ``scan``.

Owns trip counts, reads and writes at the loop's counter, and the rebuilding. Must not tidy what it makes: see scanned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...core.dims import Extent, ceildiv, compare_eq, compare_le, maximum, minimum
from ...core.dtypes import BOOL, DType
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.values import same_shape
from .affine import Affine, Forms, difference, extent_of, extent_value
from .scanned import tidy_loop

_COMPARE = frozenset("lt le gt ge ne".split())
Kind = Literal["carried", "fixed", "counter", "flag", "stacked"]


class _No(Exception):
    """Why a loop stays a ``while``."""


@dataclass(slots=True)
class _Item:
    """A slice per trip of an outer tensor (read, or stacked by the loop): rows ``form`` of it."""

    form: Affine
    source: Value | None = None  # of the body: what is read
    dtype: DType | None = None  # of a counter, which is read from no tensor

    def first(self, trips: Extent) -> Extent:
        """The lowest row."""
        return self.form.base if self.form.step > 0 else self.form.at(trips - 1)


@dataclass(slots=True)
class _Loop:
    """What was found out about one ``while``."""

    node: Node
    kinds: list[Kind]
    trips: Extent = 0
    forms: Forms = field(default_factory=lambda: Forms({}))
    starts: dict[int, Affine] = field(default_factory=dict)
    reads: dict[Node, _Item] = field(default_factory=dict)
    writes: dict[int, tuple[Node, _Item]] = field(default_factory=dict)
    flags: dict[int, bool] = field(default_factory=dict)  # a carried condition and what it is after the loop

    @property
    def n(self) -> int:
        return len(self.kinds)

    @property
    def cond(self) -> Graph:
        return self.node.regions[0]

    @property
    def body(self) -> Graph:
        return self.node.regions[1]


@graph_pass(numerics="exact", name="loops")
def loops(graph: Graph, ctx: PassContext) -> None:
    """``while`` with a provable number of trips -> ``scan``: slices read and stacked instead of indexed buffers."""
    for g in subgraphs(graph):
        for node in g.nodes:
            if node.op.name != "while":
                continue
            try:
                loop = _understand(node)
            except _No as why:
                ctx.decline(node, str(why))
                continue
            made, results = _rebuilt(loop)
            for old, new in zip(node.results, results, strict=True):
                if new is not None:
                    g.replace(old, new)
            erase_dead(node)
            ctx.rewrote("counted")
            if made is not None:
                tidy_loop(made, ctx)


# -- analysis ----------------------------------------------------------------------------------------------------------
def _understand(node: Node) -> _Loop:
    loop = _Loop(node, ["carried"] * node.attrs["n_carry"])
    for j in range(loop.n):
        if loop.body.outputs[j] is loop.body.inputs[j]:
            loop.kinds[j] = "fixed"
    _counters(loop)
    loop.trips = _trips(loop)
    if loop.trips == 0:
        return loop
    loop.forms = Forms(_given(loop, loop.body), loop.trips)
    _find_reads(loop)
    _find_writes(loop)
    if not loop.forms.fit(loop.trips):
        raise _No("a counter may wrap around")
    return loop


def _given(loop: _Loop, region: Graph) -> dict[Value, Affine]:
    """Forms of the region's inputs: counters, and integers from outside."""
    found = {}
    for j, (v, operand) in enumerate(zip(region.inputs, loop.node.operands, strict=True)):
        if j in loop.starts:
            found[v] = loop.starts[j]
        elif (j >= loop.n or loop.kinds[j] == "fixed") and (e := extent_of(operand)) is not None:
            found[v] = Affine(e)
    return found


def _counters(loop: _Loop) -> None:
    """Carried integers that grow by a fixed step."""
    known = _given(loop, loop.body)
    for j, (v, out) in enumerate(zip(loop.body.inputs[: loop.n], loop.body.outputs, strict=True)):
        if loop.kinds[j] != "carried" or not v.dtype.is_int or v.rank:
            continue
        # With the value itself as the trip, its successor reads base + 1 * value.
        after = Forms({**known, v: Affine(0, 1)}).of(out)
        if after is None or after.step != 1 or not isinstance(after.base, int):
            continue
        start = extent_of(loop.node.operands[j])
        if start is not None:
            loop.kinds[j] = "counter"
            loop.starts[j] = Affine(start, after.base)


def _terms(v: Value) -> list[Value]:
    """The bools whose conjunction ``v`` is."""
    node = v.producer
    if node.op.name == "logical_and" or (node.op.name == "logical_or" and node.operands[0] is node.operands[1]):
        return [t for x in dict.fromkeys(node.operands) for t in _terms(x)]
    if node.op.name in ("reshape", "broadcast_to") and node.operands[0].rank == 0:
        return _terms(node.operands[0])
    return [v]


def _trips(loop: _Loop) -> Extent:
    """How often the body runs. Raises _No where that is not an extent."""
    forms = Forms(_given(loop, loop.cond))
    found: list[Extent] = []
    for term in _terms(loop.cond.outputs[0]):
        if term in loop.cond.inputs[: loop.n]:
            found += _rotated(loop, loop.cond.inputs.index(term))
        else:
            found += _first_false(term, forms)
    if not found:
        raise _No("its condition never fails")
    trips = found[0]
    for other in found[1:]:
        trips = minimum(trips, other)
    if not forms.fit(trips):
        raise _No("a counter may wrap around")
    return trips


def _first_false(term: Value, forms: Forms) -> list[Extent]:
    """The first trip before which ``term`` is false; nothing if it never is."""
    truth = forms.truth(term)
    if truth is not None:
        return [] if truth else [0]
    name = term.producer.op.name
    if name not in _COMPARE or not term.producer.operands[0].dtype.is_int:
        raise _No(f"its condition is {name} of values that are known at run time only")
    a, b = (forms.of(x) for x in term.producer.operands)
    if a is None or b is None:
        raise _No("its condition compares values that are known at run time only")
    if name == "ne":
        d = b - a if (b - a).step < 0 else a - b
        if d.step != -1 or compare_le(0, d.base) is not True:
            raise _No("its counter may step over the bound")
    else:
        d = difference(name, a, b)
    if d.step == 0 or d.step > 0:
        if compare_le(1, d.base) is True:
            return []
        if compare_le(d.base, 0) is True:
            return [0]
        raise _No("whether it runs at all depends on values")
    count = ceildiv(d.base, -d.step)
    return [count if compare_le(0, count) is True else maximum(count, 0)]


def _rotated(loop: _Loop, j: int) -> list[Extent]:
    """A condition that the body computes for the next trip, and that holds before the first."""
    if loop.kinds[j] == "fixed" and loop.node.operands[j].const is None:
        raise _No("whether it runs at all depends on values")
    start = loop.node.operands[j].const
    if start is None:
        raise _No("whether it runs at all depends on values")
    if not bool(start.array.reshape(())):
        return [0]
    if loop.kinds[j] == "fixed":
        return []
    forms = Forms(_given(loop, loop.body))
    found: list[Extent] = []
    for term in _terms(loop.body.outputs[j]):
        if term is loop.body.inputs[j]:
            continue  # it holds as long as the loop runs
        found += [e + 1 for e in _first_false(term, forms)]
    for e in found:
        if not forms.fit(e):
            raise _No("a counter may wrap around")
    loop.kinds[j] = "flag"
    loop.flags[j] = not found
    if loop.node.results[j].uses and found and len(_terms(loop.cond.outputs[0])) > 1:
        raise _No("which of its conditions ends it is read afterwards")
    return found


def _find_reads(loop: _Loop) -> None:
    for node in loop.body.nodes:
        if node.op.name not in ("gather", "dynamic_slice"):
            continue
        source, index = node.operands[0], node.operands[1]
        if not _invariant(loop, source) or source.rank == 0:
            continue
        if node.op.name == "gather":
            single = node.attrs["axis"] == 0 and node.attrs["batch_dims"] == 0 and all(d == 1 for d in index.shape)
        else:
            single = node.attrs["sizes"] == (1, *source.shape[1:])
        form = loop.forms.of(index) if single else None
        if form is not None and abs(form.step) == 1 and form.within(0, source.shape[0] - 1, loop.trips):
            loop.reads[node] = _Item(form, source)


def _invariant(loop: _Loop, v: Value) -> bool:
    """The same on every trip, and there before the loop."""
    if v.producer.op.name == "constant":
        return True
    if v not in loop.body.inputs:
        return False
    at = loop.body.inputs.index(v)
    return at >= loop.n or loop.kinds[at] == "fixed"


def _find_writes(loop: _Loop) -> None:
    """Carried buffers of which each trip writes one row of its own and reads none."""
    for j, (v, out) in enumerate(zip(loop.body.inputs[: loop.n], loop.body.outputs, strict=True)):
        node = out.producer
        if loop.kinds[j] != "carried" or node.op.name != "dynamic_update_slice" or node.operands[0] is not v:
            continue
        if len(v.uses) != 1 or len(out.uses) != 1:
            continue  # what was written may be read
        update = node.operands[1]
        if update.shape[0] != 1 or not same_shape(update.shape[1:], v.shape[1:]):
            continue
        form = loop.forms.of(node.operands[2])
        if form is not None and abs(form.step) == 1 and form.within(0, v.shape[0] - 1, loop.trips):
            loop.writes[j] = (node, _Item(form))
            loop.kinds[j] = "stacked"


# -- rebuilding --------------------------------------------------------------------------------------------------------
def _rebuilt(loop: _Loop) -> tuple[Node | None, Sequence[Value | None]]:
    """The ``scan``, put before the ``while``, and values for those results of the latter that are read."""
    node = loop.node
    assert node.graph is not None
    origin = Origin.merge([node.origin], "loops")
    outer = Builder(node.graph, node, origin)
    if loop.trips == 0:
        return None, list(node.operands[: loop.n])
    items = [*loop.reads.values(), *(item for _, item in loop.writes.values())]
    back = sum(item.form.step < 0 for item in items)
    reverse = 2 * back > len(items)
    carried = [j for j, kind in enumerate(loop.kinds) if kind == "carried"]
    fixed = [j for j, kind in enumerate(loop.kinds) if kind == "fixed"]
    counters = [_Item(loop.starts[j], dtype=node.operands[j].dtype) for j in loop.starts]

    body = Builder(origin=origin)
    mapping: dict[Value, Value] = {}
    for j in carried:
        v = loop.body.inputs[j]
        mapping[v] = body.input(f"c{j}", v.dtype, v.shape)
    xs, slots = _slices(loop, [*counters, *loop.reads.values()], reverse, outer, body)
    mapping.update(zip((loop.body.inputs[j] for j in loop.starts), slots))
    for j in (*fixed, *range(loop.n, len(node.operands))):
        v = loop.body.inputs[j]
        mapping[v] = body.input(f"k{j}", v.dtype, v.shape)
    for j in loop.flags:
        # While the body runs, the condition that let it in holds.
        mapping[loop.body.inputs[j]] = body.constant(True, BOOL)
    read = dict(zip(loop.reads, slots[len(counters) :]))
    skipped = {update for update, _ in loop.writes.values()}
    for old in loop.body.nodes:
        if old.op.name in ("input", "return") or old in skipped:
            continue
        if old in read:
            v, want = read[old], old.results[0]
            mapping[want] = v if same_shape(v.shape, want.shape) else body.reshape(v, shape=want.shape)
            continue
        twin = Node(
            old.op, [mapping[v] for v in old.operands], old.attrs, [v.type for v in old.results],
            [r.clone() for r in old.regions], old.origin,
        )  # fmt: skip
        body.graph.insert(twin)
        mapping.update(zip(old.results, twin.results))
    ys = [mapping[update.operands[1]] for update, _ in loop.writes.values()]
    ys = [body.reshape(v, shape=v.shape[1:]) for v in ys]
    outputs = [*(mapping[loop.body.outputs[j]] for j in carried), *ys]
    region = body.build(*outputs, names=[f"r{i}" for i in range(len(outputs))])
    operands = [*(node.operands[j] for j in carried), *xs]
    operands += [node.operands[j] for j in (*fixed, *range(loop.n, len(node.operands)))]
    attrs = {"n_carry": len(carried), "n_xs": len(xs), "length": loop.trips, "reverse": reverse}
    found = list(outer.apply("scan", operands, attrs, [region])) if outputs else []
    return found[0].producer if found else None, _results(loop, carried, found, reverse, outer)


def _slices(
    loop: _Loop, items: Sequence[_Item], reverse: bool, outer: Builder, body: Builder
) -> tuple[list[Value], list[Value]]:
    """Scanned operands for ``items`` and the slices that the body gets. Equal reads share one."""
    xs: list[Value] = []
    slots: list[Value] = []
    made: dict[tuple[Value | DType | None, Affine], Value] = {}
    for item in items:
        key = (item.source if item.source is not None else item.dtype, item.form)
        if key not in made:
            whole = _counted(loop, item, outer) if item.source is None else _rows(loop, item, outer)
            if (item.form.step < 0) != reverse:
                whole = outer.reverse(whole, axes=(0,))
            made[key] = body.input(f"x{len(xs)}", whole.dtype, whole.shape[1:])
            xs.append(whole)
        slots.append(made[key])
    return xs, slots


def _counted(loop: _Loop, item: _Item, outer: Builder) -> Value:
    """The counter's values in growing order."""
    assert item.dtype is not None
    line = outer.iota(shape=(loop.trips,), axis=0, dtype=item.dtype)
    form = item.form
    if form.step == 0:
        line = outer.sub(line, line)
    elif abs(form.step) != 1:
        line = outer.mul(line, abs(form.step))
    low = item.first(loop.trips) if form.step else form.base
    return line if low == 0 else outer.add(line, extent_value(outer, low, item.dtype))


def _rows(loop: _Loop, item: _Item, outer: Builder) -> Value:
    """The rows that the loop reads, in growing order."""
    inside = item.source
    assert inside is not None
    const = inside.const
    if const is not None:
        whole = outer.constant(const)
    else:
        whole = loop.node.operands[loop.body.inputs.index(inside)]
    low = item.first(loop.trips)
    if low == 0 and compare_eq(loop.trips, whole.shape[0]) is True:
        return whole
    rest = (None,) * (whole.rank - 1)
    return outer.slice(whole, starts=(low, *rest), stops=(low + loop.trips, *rest))


def _results(loop: _Loop, carried: list[int], found: list[Value], reverse: bool, outer: Builder) -> list[Value | None]:
    out: list[Value | None] = []
    final = dict(zip(carried, found))
    stacked = dict(zip(loop.writes, found[len(carried) :]))
    for j, operand in enumerate(loop.node.operands[: loop.n]):
        if not loop.node.results[j].uses:
            out.append(None)
        elif j in final:
            out.append(final[j])
        elif j in stacked:
            ys, item = stacked[j], loop.writes[j][1]
            ys = ys if (item.form.step < 0) == reverse else outer.reverse(ys, axes=(0,))
            out.append(_spliced(operand, ys, item.first(loop.trips), loop.trips, outer))
        elif j in loop.starts:
            out.append(extent_value(outer, loop.starts[j].at(loop.trips), operand.dtype))
        elif j in loop.flags:
            out.append(outer.constant(loop.flags[j], BOOL))
        else:
            out.append(operand)
    return out


def _spliced(buffer: Value, ys: Value, low: Extent, trips: Extent, outer: Builder) -> Value:
    """``buffer`` with rows ``low`` and on replaced by ``ys``."""
    size, rest = buffer.shape[0], (None,) * (buffer.rank - 1)
    if low == 0 and compare_eq(trips, size) is True:
        return ys
    parts = [ys]
    if low != 0:
        parts.insert(0, outer.slice(buffer, starts=(0, *rest), stops=(low, *rest)))
    if compare_eq(low + trips, size) is not True:
        parts.append(outer.slice(buffer, starts=(low + trips, *rest), stops=(size, *rest)))
    return outer.concat(*parts, axis=0)
