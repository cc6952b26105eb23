"""Broken placement: what the scheduler, the offset planner or a target's promise could get wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
from mutant import Control, Kill, Mutant, changed

from fusewright.core import planner
from fusewright.core.dtypes import BOOL, F32, I32
from fusewright.ir import Graph, Node
from fusewright.passes.memory import arrange, order, schedule, storage
from fusewright.testing import Maker, MemoryFault, PlainTarget, SeededDraw, check_memory, feeds, random_graph
from fusewright.testing.reduce import ops_of, reduce_graph

MUTANTS: list[Mutant] = []
OPS_AROUND = (
    "add",
    "mul",
    "relu",
    "exp",
    "reshape",
    "concat",
    "transpose",
    "where",
    "neg",
    "reduce_sum",
    "broadcast_to",
)
Patch = Callable[[], AbstractContextManager[None]]


def views(m: Maker) -> Any:
    """One value seen through two views, one of them computed over (B1)."""
    x = m.value(ranks=(1, 3), new=0.3)
    a = m.emit(m.draw.pick(("relu", "neg", "square")), x)[0]
    first = m.emit("reshape", a, shape=(-1,))[0] if a.type.size != 0 else a
    second = m.emit("reshape", a, shape=(*a.shape, 1))[0]
    return m.emit("add", m.emit("neg", first)[0], second if m.draw.chance(0.5) else first)


def crossed(m: Maker) -> Any:
    """f(x, x') where x' is x in another shape: element i of the one is not element i of the other."""
    d = m.draw.pick((2, 3, 4))
    a = m.emit("exp", m.new(F32, (d, 1)))[0]
    return m.emit("add", a, m.emit("reshape", a, shape=(1, d) if m.draw.chance(0.5) else (d,))[0])


def loop(m: Maker) -> Any:
    """Carried values that trade places, beside a value read in every trip."""
    t = m.new(F32, (3,)), m.new(F32, (3,))
    keep = m.emit("exp", m.value((F32,), (1, 1), lambda v: v.shape == (3,), lambda r: (3,)))[0]
    swap, total = m.draw.chance(0.5), m.draw.chance(0.5)

    def body(r: Maker, v: list[Any]) -> list[Any]:
        new = r.emit("add", v[0], v[2])[0]
        return [v[1], v[0] if total else new] if swap else [new, r.emit("neg", v[1])[0]]

    region = m.region([t[0].type, t[1].type, keep.type], body)
    out = m.emit("scan", *t, keep, regions=[region], n_carry=2, n_xs=0, length=m.draw.pick((2, 3)))
    return m.emit("add", out[0], keep if m.draw.chance(0.5) else out[1])


def stack(m: Maker) -> Any:
    """A scan over slices that stacks results, forwards or backwards."""
    x = m.emit("neg", m.new(F32, (4, 2)))[0]
    start = m.emit("exp", m.new(F32, (2,)))[0]

    def body(r: Maker, v: list[Any]) -> list[Any]:
        total = r.emit("add", r.emit("mul", v[0], v[1])[0], v[1])[0]
        return [total, r.emit("neg", total)[0]]

    region = m.region([start.type, start.type], body)
    out = m.emit("scan", start, x, regions=[region], n_carry=1, n_xs=1, reverse=m.draw.chance(0.5))
    return m.emit("add", out[1], x)


def spread(m: Maker) -> Any:
    """A small dying value beside a large one."""
    a, b = m.emit("exp", m.new(F32, (3,)))[0], m.emit("neg", m.new(F32, (40, 3)))[0]
    operands = (a, b) if m.draw.chance(0.5) else (b, a)
    return m.emit("neg", m.emit("add", *operands)[0])


def branch(m: Maker) -> Any:
    """A branch whose result is a value from outside, or computed."""
    x = m.emit("exp", m.new(F32, (3,)))[0]
    y = m.emit("neg", x)[0]
    types = [x.type, y.type]
    one = m.region(types, lambda r, v: [r.emit("add", v[0], v[1])[0]])
    other = m.region(types, lambda r, v: [v[m.draw.integer(0, 1)]])
    out = m.emit("if", m.value((BOOL,), (0, 0)), x, y, regions=[one, other])
    return m.emit("mul", out[0], x)


def moved(m: Maker) -> Any:
    """A dying value that a transpose, reduction, product or shift reads, with more to come."""
    d = m.draw.pick((3, 2, 4))
    a = m.emit("exp", m.new(F32, (d, d)))[0]
    how = m.draw.pick(
        ("transpose", "reverse", "cumsum", "matmul", "matmul", "concat", "reduce_sum", "broadcast_to", "gather")
    )
    if how == "transpose":
        b = m.emit("transpose", a, perm=(1, 0))[0]
    elif how == "reverse":
        b = m.emit("reverse", a, axes=(0,))[0]
    elif how == "cumsum":
        b = m.emit("cumsum", a, axis=0, reverse=m.draw.chance(0.5))[0]
    elif how == "matmul":
        b = m.emit("matmul", a, m.new(F32, (d, d)))[0]
    elif how == "reduce_sum":
        b = m.emit("reduce_sum", a, axes=(0,), keepdims=True)[0]
    elif how == "broadcast_to":
        b = m.emit("broadcast_to", m.emit("reduce_sum", a, axes=(0,))[0], shape=(d, d))[0]
    elif how == "gather":
        b = m.emit("gather", a, m.b.constant(np.arange(d)[::-1].copy()), axis=0)[0]
    else:
        b = m.emit("concat", a, a, axis=0)[0]
    return m.emit("neg", m.emit("square", b)[0])


def parts(m: Maker) -> Any:
    """Values joined where they are written: concats of concats, a part read again, twice, or through a view."""
    rows = [m.draw.pick((1, 2, 3)) for _ in range(3)]
    made = [m.emit(m.draw.pick(("exp", "neg", "square")), m.new(F32, (n, 2)))[0] for n in rows]
    if m.draw.chance(0.4):
        made[1] = m.emit("relu", made[1])[0]
    if m.draw.chance(0.3):
        made[2] = m.emit("reshape", m.emit("reshape", made[2], shape=(-1,))[0], shape=(rows[2], 2))[0]
    how = m.draw.integer(0, 5)
    if how == 5:
        turned = [m.emit("reshape", v, shape=(2, -1))[0] for v in made]
        y = m.emit("reshape", m.emit("concat", *turned, axis=1)[0], shape=(-1, 2))[0]
    elif how == 0:
        y = m.emit("concat", *made, axis=0)[0]
    elif how == 1:
        y = m.emit("concat", m.emit("concat", *made[:2], axis=0)[0], made[2], axis=0)[0]
    elif how == 2:
        inner = m.emit("concat", *made[1:], axis=0)[0]
        y = m.emit("add", m.emit("concat", made[0], inner, axis=0)[0], m.emit("concat", inner, made[0], axis=0)[0])[0]
    elif how == 3:
        y = m.emit("concat", made[0], made[0], m.new(F32, (1, 2)), made[1], axis=0)[0]
    else:
        y = m.emit("concat", m.emit("reshape", made[0], shape=(1, rows[0], 2))[0],
                   m.emit("reshape", made[1], shape=(1, rows[1], 2))[0], axis=1)[0]  # fmt: skip
        y = m.emit("reshape", y, shape=(-1, 2))[0]
    z = m.emit(m.draw.pick(("neg", "tanh")), y)[0]
    again = m.emit("reduce_sum", made[m.draw.integer(0, 2)], axes=(0,))[0]
    return m.emit("add", z, again) if m.draw.chance(0.6) else m.emit("add", m.emit("neg", z)[0], y)


def pieces(m: Maker) -> Any:
    """Slices of one value that overlap, meet or lie apart; one of them computed over."""
    d = m.draw.pick((4, 6))
    x = m.emit("exp", m.new(F32, (d, 3)))[0]

    def cut(low: int, high: int) -> Any:
        return m.emit("slice", x, starts=(low, 0), stops=(high, 3), steps=(1, 1))[0]

    how, low = m.draw.integer(0, 3), m.draw.integer(0, 2)
    if how == 0:
        # One row of a value beside all of it, some of its columns, every second row.
        row = cut(low, low + 1)
        columns = m.emit("slice", x, starts=(0, low % 2), stops=(d, low % 2 + 2), steps=(1, 1))[0]
        rows = m.emit("slice", x, starts=(0, 0), stops=(d, 3), steps=(2, 1))[0]
        some = m.emit("concat", columns, m.emit("neg", columns)[0], axis=0)[0]
        several = (m.emit("add", *((x, row) if m.draw.chance(0.5) else (row, x)))[0], some, m.emit("exp", rows)[0])
        return several[m.draw.integer(0, 2)]
    a, b = cut(0, d // 2), cut(low, low + d // 2)
    if how == 1:
        return m.emit("mul", a, b)
    if m.draw.chance(0.3):
        b = m.emit("slice", b, starts=(0, 1), stops=(1, 3), steps=(1, 1))[0]
        b = m.emit("reduce_sum", b, axes=(0, 1))[0]
    y = m.emit("mul", m.emit("neg", a)[0] if m.draw.chance(0.5) else a, b)[0]
    if m.draw.chance(0.4):
        y = m.emit("concat", y, a, axis=0)[0]
    return m.emit("add", y, m.emit("reduce_sum", x, axes=(0,))[0] if m.draw.chance(0.5) else m.new(F32, (3,)))


def carried(m: Maker) -> Any:
    """States written where they lie: read before, beside or after the new value is made, in one loop or in two."""
    t = m.emit("exp", m.new(F32, (4,)))[0], m.emit("neg", m.new(F32, (4,)))[0]
    how, twice, joins = m.draw.integer(0, 5), m.draw.chance(0.3), m.draw.chance(0.3)

    def body(r: Maker, v: list[Any]) -> list[Any]:
        h, c = v[0], v[1]
        if how == 0:
            new = r.emit("add", h, c)[0]
            return [r.emit("tanh", new)[0], r.emit("mul", c, new)[0]]
        if how == 1:
            new = r.emit("neg", h)[0]
            return [new, r.emit("add", r.emit("square", c)[0], h)[0]]
        if how == 2:
            return [r.emit("reverse", h, axes=(0,))[0], r.emit("cumsum", c, axis=0)[0]]
        if how == 3:
            first = r.emit("slice", h, starts=(0,), stops=(2,), steps=(1,))[0]
            last = r.emit("slice", h, starts=(2,), stops=(4,), steps=(1,))[0]
            return [r.emit("concat", r.emit("neg", last)[0], first, axis=0)[0], c]
        if how == 4:
            return [r.emit("add", h, r.emit("reduce_sum", h, axes=(0,))[0])[0], h]
        new = r.emit("mul", h, c)[0]
        return [new, new]

    region = m.region([t[0].type, t[1].type], body)
    if twice:
        nested = region

        def outer(r: Maker, v: list[Any]) -> list[Any]:
            out = r.emit("scan", *v, regions=[nested], n_carry=2, n_xs=0, length=2)
            return [out[0], r.emit("sub", out[1], v[0])[0]] if joins else [out[1], out[0]]

        region = m.region([t[0].type, t[1].type], outer)
    start = (t[0], t[0]) if m.draw.chance(0.2) else t
    out = m.emit("scan", *start, regions=[region], n_carry=2, n_xs=0, length=m.draw.pick((2, 3, 1)))
    if m.draw.chance(0.3):
        return m.emit("concat", out[0], out[1], axis=0)
    return m.emit("add", out[0], t[m.draw.integer(0, 1)] if m.draw.chance(0.4) else out[1])


INJECTED = (views, crossed, loop, stack, spread, branch, moved, parts, pieces, carried)


def hunted(*patches: Patch, target: Any = None, how: Any = None, by: Any = None) -> Callable[[int], Kill]:
    """Random graphs with shared storage in them, laid out by the broken scheduler."""

    def fails(graph: Graph, given: Any) -> bool:
        try:
            check_memory(graph, given, target, how or schedule.schedule)
        except MemoryFault:
            return True
        except (IndexError, KeyError, RecursionError):
            return True
        return False

    def hunt(budget: int) -> Kill:
        start = time.thread_time()
        with ExitStack() as stacked:
            for patch in patches:
                stacked.enter_context(patch())
            for seed in range(budget):
                graph = random_graph(
                    seed, max_nodes=3 + seed % 8, echo=0.1, ops=OPS_AROUND if seed % 4 else None, dead_code=False,
                    injected=0.4,
                    inject=(by,) if by else INJECTED, dtypes=(F32, F32, F32, I32, BOOL),
                )  # fmt: skip
                given = feeds(graph, SeededDraw(seed))
                if fails(graph, given):
                    small, _ = reduce_graph(graph, given, fails, 8.0)
                    return Kill(seed + 1, "memory", ops_of(small), time.thread_time() - start)
        return Kill(None)

    return hunt


def sound(how: Any = None, by: Any = None) -> Control:
    """The scheduler as it is."""
    return Control(("memory", how, by), hunted(how=how, by=by))


def placed(
    kind: str, name: str, function: str, old: str, new: str, module: Any = schedule, how: Any = None, by: Any = None
) -> None:
    """A fault in the source of the scheduler, or of what it asks; ``by``: the one sampler that is sure to meet it."""
    hunt = hunted(lambda: changed(module, function, old, new), how=how, by=by)
    MUTANTS.append(Mutant(name, kind, hunt, control=sound(how, by)))


def planned(kind: str, name: str, function: str, old: str, new: str) -> None:
    """A fault in the source of the offset planner, shown on random lifetimes: no two live buffers may overlap."""

    def hunt(budget: int) -> Kill:
        with changed(planner, function, old, new):
            return overlapping(budget)

    MUTANTS.append(Mutant(name, kind, hunt, control=Control(("planner",), overlapping)))


def overlapping(budget: int) -> Kill:
    """Random lifetimes, until two of them share bytes."""
    for seed in range(budget):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 3 + seed // 8))
        sizes = [int(s) for s in rng.integers(0, 1000, count)]
        first = [int(f) for f in rng.integers(0, 20, count)]
        last = [f + int(n) for f, n in zip(first, rng.integers(0, 9, count))]
        offsets, total = planner.plan_offsets(sizes, planner.Lifetimes(first, last))
        if not apart(sizes, first, last, offsets, total):
            return Kill(seed + 1, "overlap", None)
    return Kill(None)


def apart(sizes: list[int], first: list[int], last: list[int], offsets: list[int], total: int) -> bool:
    """Buffers that live together share no byte, and all lie inside the arena."""
    for i, (a, n) in enumerate(zip(offsets, sizes)):
        if a % 64 or a + n > total:
            return False
        for j in range(i):
            together = first[i] <= last[j] and first[j] <= last[i]
            if together and a < offsets[j] + sizes[j] and offsets[j] < a + n:
                return False
    return True


def promised(name: str, may_overwrite: Callable[[Node, int], bool]) -> None:
    """A target that promises more than its kernels keep."""

    class Boaster(PlainTarget):
        def may_overwrite(self, node: Node, operand: int) -> bool:
            return may_overwrite(node, operand)

    hunt = hunted(lambda: changed(*UNASKED), target=Boaster())
    MUTANTS.append(Mutant(name, "codegen", hunt, control=sound()))


WHY, FORBIDS, CONCAT = "_Scheduler._why_not", "order_forbids", "Storage._concat"
UNASKED = (schedule, FORBIDS, 'node.op.name != "fused" and k not in node.op.overwrites', "False")
placed("B6", "overwrites what is read later", WHY, "if frame.storage.last[root] != at:", "if False:", by=views)
placed("B5", "overwrites inputs and constants", WHY, 'if place.kind != "buffer":', "if False:")
placed("B4", "overwrites storage of an outer value", WHY,
       "if place.index not in frame.own or place.trip is not None:", "if False:")  # fmt: skip
placed("in-place", "overwrites a part of what is read elsewhere", WHY,
       "if compare_eq(root.type.nbytes, operand.type.nbytes) is not True:", "if False:", by=pieces)  # fmt: skip
placed("B2", "looks at no other shape of what it overwrites", FORBIDS,
       "any(storage.root[v] is root and v.shape != result.shape for v in node.operands)", "False",
       by=pieces)  # fmt: skip
UNPROMISED = (schedule, "Layout.promised", "return found", "return True")
MUTANTS.append(
    Mutant(
        "asks neither op nor target",
        "codegen",
        hunted(lambda: changed(*UNASKED), lambda: changed(*UNPROMISED)),
        control=sound(),
    )
)
placed("B1", "views are values of their own", "Storage.__init__",
       "v if source is None else self.base[node.operands[source]]", "v", storage)  # fmt: skip
placed("B13", "the first reader frees a value", "Storage.__init__", "self.last[self.root[v]] = at",
       "self.last.setdefault(self.root[v], at)", storage)  # fmt: skip
placed("B3", "outputs made by views are claimed by the view", "_Scheduler._claim",
       "base = frame.storage.base[v]", "base = v")  # fmt: skip
placed(
    "B13",
    "a part is no reader of its storage",
    "Storage._bottom",
    "v = self.inside[v].whole",
    "break",
    storage,
    by=parts,
)
placed("in-place", "parts that interleave are joined", CONCAT,
       "if not all(compare_eq(d, 1) is True for d in y.shape[:axis]):", "if False:", storage, by=parts)  # fmt: skip
placed("in-place", "every part at the start of the concat", CONCAT, "offset = offset + v.type.nbytes",
       "offset = offset + 0", storage)  # fmt: skip
placed("in-place", "a part in two concats", "Storage._may_join", "part not in self.inside and", "", storage)
placed("B3", "an output is written into a concat only", "Storage._may_join", "and part not in self._given", "", storage)
placed("in-place", "parts from elsewhere are not copied", "_Scheduler._join",
       "if k not in frame.storage.joined[node]:", "if False:")  # fmt: skip
placed("in-place", "copied parts go to the start", "_Scheduler._join", "home.offset + offset", "home.offset")
placed(
    "shape", "slices of any form are views", "slice_offset", "if spread and not whole:", "if False:", storage, by=pieces
)
placed("shape", "steps of a slice are not looked at", "slice_offset",
       'any(step != 1 for step in attrs["steps"])', "False", storage, by=pieces)  # fmt: skip
placed("shape", "slices begin where their operand does", "slice_offset", "total = total + start *",
       "total = total + 0 * start *", storage)  # fmt: skip
placed("B14", "a state is written while it is read", "_Scheduler._replaces", "return last < at[node]", "return True")
placed("B14", "a joined state is written while it is read", "_Scheduler._replaces",
       "return last < min(at[v.producer] for v in frame.storage.inside if frame.storage.root[v] is new)",
       "return True", by=carried)  # fmt: skip
placed("B14", "a state is written before its own kernel has read it", "_Scheduler._replaces",
       "return all(not self._order_forbids(frame, node, k, new.index) for k in reads)", "return True")  # fmt: skip
placed("B14", "two states start in one storage", "_carries",
       "return [k for k, v in enumerate(node.operands) if frame.storage.root[v] is root] == [i]",
       "return True")  # fmt: skip
placed("B14", "a state starts over what is read later", "_Scheduler._states",
       "frame.storage.last[root] == at and", "")  # fmt: skip
placed("B14", "a state starts in storage of others", "_Scheduler._states",
       'place.kind == "buffer" and place.index in frame.own and place.trip is None', "True")  # fmt: skip
placed("schedule", "runs what is not ready", "_search", "if not sizes.needs[u] & ~after", "if True", order,
       arrange.arrange)  # fmt: skip
placed("B14", "carried values move one by one", "_Scheduler._settle",
       "if (source[0].kind, source[0].index) in written:", "if False:")  # fmt: skip
placed("B14", "carried values are not moved", "_Scheduler._settle", "for t, source, target in staged:", "for _ in ():")
placed("schedule", "loops end before their bodies", "_Scheduler._close_loop", "span[1] = self.number - 1", "pass")
placed(
    "schedule", "slices of a reversed scan run forwards", "_moving", "v.type.nbytes, reverse)", "v.type.nbytes, False)"
)
placed("schedule", "every trip reads the first slice", "_moving", "Trip(loop.id, v.type.nbytes, reverse)",
       "Trip(loop.id, 0, reverse)")  # fmt: skip
placed("schedule", "a scan starts without its state", "_Scheduler._enter",
       "self._copy(self._spot(v), target, v.type, out)", "pass")  # fmt: skip
placed("B13", "lifetimes end one step early", "_Scheduler._touch", "buffer.last = max(buffer.last, step)",
       "buffer.last = max(buffer.last, step - 1, buffer.first)")  # fmt: skip
placed("B13", "reads do not prolong a life", "_Scheduler._node", "for v in (*node.operands, *node.results):",
       "for v in node.results:")  # fmt: skip
placed("schedule", "constants of one shape are one", "_Scheduler._constant", "const.digest not in self.constants",
       "const.digest not in self.constants and not self.constants")  # fmt: skip
placed("schedule", "a branch writes no result", "_Scheduler._if",
       "self._settle(frame, region.outputs, found, results, frame.loops, steps, [])", "pass")  # fmt: skip
planned("B13", "neighbours that end where one starts do not count", "Lifetimes.__init__", "self.last[j] >= start",
        "self.last[j] > start")  # fmt: skip
planned("in-place", "gaps are taken without looking at their size", "_place", "if gap >= size and", "if gap > 0 and")
planned("in-place", "every buffer at the bottom", "_place", "at if best < 0 else best", "0")
planned("in-place", "sizes are not rounded up", "plan_offsets", "(s + ALIGN - 1) & -ALIGN", "s & -ALIGN")
promised("may overwrite anything", lambda node, k: True)
promised("may overwrite a contraction's operand", lambda node, k: node.op.kind in ("contract", "window", "elementwise"))
promised(
    "may overwrite what is moved about", lambda node, k: node.op.name in ("transpose", "reverse", "sort", "cumsum")
)
promised("may overwrite through a broadcast", lambda node, k: node.op.kind in ("broadcast", "gather", "view"))

EQUIVALENT = {
    "overwrites an operand of another size": "then its shape is another as well, which the last check refuses",
    "reads one storage in two shapes": "operand and result are of one size, so shapes differ in extents of 1 only",
    "the later of two outputs claims the array": "both places are the later one's, which is written",
    "lifetimes are not closed over loops": "what a loop reads or carries is touched at both of its ends already",
    "may overwrite a reduction's operand": "the sizes are equal only where nothing is reduced",
}
