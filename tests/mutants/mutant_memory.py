"""Broken placement: what the scheduler, the offset planner or a target's promise could get wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
from mutant import Kill, Mutant, changed

from fusewright.core import planner
from fusewright.core.dtypes import BOOL, F32, I32
from fusewright.ir import Graph, Node
from fusewright.passes import schedule
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
    how = m.draw.pick(("transpose", "reverse", "cumsum", "matmul", "concat", "reduce_sum", "broadcast_to", "gather"))
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


def hunted(*patches: Patch, target: Any = None) -> Callable[[int], Kill]:
    """Random graphs with shared storage in them, laid out by the broken scheduler."""

    def fails(graph: Graph, given: Any) -> bool:
        try:
            check_memory(graph, given, target)
        except MemoryFault:
            return True
        except (IndexError, KeyError, RecursionError):
            return True
        return False

    def hunt(budget: int) -> Kill:
        start = time.monotonic()
        with ExitStack() as stacked:
            for patch in patches:
                stacked.enter_context(patch())
            for seed in range(budget):
                graph = random_graph(
                    seed, max_nodes=3 + seed % 8, echo=0.1, ops=OPS_AROUND if seed % 4 else None, dead_code=False,
                    injected=0.4,
                    inject=(views, crossed, loop, stack, spread, branch, moved), dtypes=(F32, F32, F32, I32, BOOL),
                )  # fmt: skip
                given = feeds(graph, SeededDraw(seed))
                if fails(graph, given):
                    small, _ = reduce_graph(graph, given, fails, 8.0)
                    return Kill(seed + 1, "memory", ops_of(small), time.monotonic() - start)
        return Kill(None)

    return hunt


def placed(kind: str, name: str, function: str, old: str, new: str) -> None:
    """A fault in the source of the scheduler."""
    MUTANTS.append(Mutant(name, kind, hunted(lambda: changed(schedule, function, old, new))))


def planned(kind: str, name: str, function: str, old: str, new: str) -> None:
    """A fault in the source of the offset planner, shown on random lifetimes: no two live buffers may overlap."""

    def hunt(budget: int) -> Kill:
        with changed(planner, function, old, new):
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

    MUTANTS.append(Mutant(name, kind, hunt))


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

    MUTANTS.append(Mutant(name, "codegen", hunted(target=Boaster())))


WHY = "_Scheduler._why_not"
placed("B6", "overwrites what is read later", WHY, "if frame.last[root] != at:", "if False:")
placed("B5", "overwrites inputs and constants", WHY, 'if place.kind != "buffer":', "if False:")
placed("B4", "overwrites storage of an outer value", WHY,
       "if root is None or place.index not in frame.own or place.trip is not None or place.offset != 0:",
       "if root is None:")  # fmt: skip
placed("codegen", "does not ask the target", WHY, "if not self.target.may_overwrite(node, k):", "if False:")
placed("B1", "views are values of their own", "_Scheduler._analyse",
       "frame.roots[node.operands[source]] if source is not None else v", "v")  # fmt: skip
placed("B13", "the first reader frees a value", "_Scheduler._analyse", "frame.last[frame.roots[v]] = at",
       "frame.last.setdefault(frame.roots[v], at)")  # fmt: skip
placed("B3", "outputs made by views are claimed by the view", "_Scheduler._claim", "root = frame.roots[v]", "root = v")
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
       "self._settle(frame, region.outputs, found, results, frame.loops, steps)", "pass")  # fmt: skip
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
