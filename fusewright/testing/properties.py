"""The twelve properties that every pass has, each a function that raises Violation.

Owns what is asked of a pass on one graph. Must not know how graphs are drawn, reduced or printed.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.dims import Dim
from ..core.errors import FusewrightError, RewriteError
from ..ir import Builder, Const, Graph, Origin, parse_graph
from ..ir.ops.control import at_most
from ..ir.target import Target
from ..passes import Pipeline
from ..passes.engine.base import Pass, loosest
from ..passes.specialise import specialise
from .allowance import Allowance
from .arena import MemoryFault, PlainTarget, Steady, check_memory
from .draw import Draw
from .exact import Exact
from .oracle import Mismatch, assert_equivalent, same_bits

Feeds = Mapping[str, np.ndarray]
PROPERTIES = {
    "terminates": "it ends, without an exception, and what it makes stops growing",
    "verifies": "the graph verifies before and after",
    "signature": "inputs and outputs keep names, order and types",
    "honest": "the graph given is untouched, and the count of rewrites is zero exactly where nothing changed",
    "semantics": "the same values, special ones included, within the declared numerics",
    "deterministic": "the same graph gives the same result, also when it comes from its text",
    "idempotent": "a second run finds nothing to do (a pipeline: after a few runs)",
    "roundtrip": "what it makes prints and parses back",
    "provenance": "every node it makes says where it comes from",
    "cost": "a pass that claims to save work never adds any",
    "metamorphic": "renaming, dead code, repeated and dropped outputs and fixed sizes change no value",
    "memory": "what it makes can be laid out: in poisoned memory, in place, it computes the same bits",
}
SECONDS = 10.0  # of computing, for one application of a pass to one small graph
PATIENCE = 20  # times as long by the clock: a pass may wait, and a busy machine has little time for it
TRIPS = 2000  # of a loop in one: none that is generated has more
_ROUNDS = 4


class Violation(AssertionError):
    """A property does not hold. ``property`` names it; ``variant`` is the graph on which it showed, if another one."""

    def __init__(self, property: str, why: str, variant: Graph | None = None) -> None:
        self.property, self.why, self.variant = property, why, variant
        super().__init__(f"{property}: {why}")


@dataclass(slots=True)
class Applied:
    """A pass's result on one graph."""

    graph: Graph
    rewritten: int
    matched: int
    declined: int
    before: Any = None  # text and contents of the graph given, before the run


@dataclass(slots=True)
class Subject:
    """A pass or pipeline under test, with what it declares."""

    tested: Pass | Pipeline
    target: Target = field(default_factory=PlainTarget)
    claims: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return repr(self.tested) if isinstance(self.tested, Pipeline) else self.tested.name

    @property
    def numerics(self) -> str:
        """The level that its author declared; a pipeline's is the loosest of those that run."""
        p = self.tested
        if not isinstance(p, Pipeline):
            return p.numerics
        levels = [p[n].numerics for n in p.names]
        return loosest(n for n in levels if n != "approx" or p.numerics == "fast")

    def apply(self, graph: Graph) -> Applied:
        """One run on a copy. Raises Violation('terminates')."""
        p = self.tested
        try:
            with _time_limit():
                if isinstance(p, Pipeline):
                    out, stats = p.run(graph, verify=0)
                    return Applied(out, stats.rewritten, stats.matched, len(stats.declined))
                out, one = p.apply(graph, self.target)
                return Applied(out, one.rewritten, one.matched, len(one.declined))
        except _TooLong:
            raise Violation(
                "terminates", f"it ran for {SECONDS:.0f} s on a graph of {len(graph.nodes)} nodes", graph
            ) from None
        except RewriteError as error:
            raise Violation("terminates", str(error), graph) from error
        except Exception as error:  # a pass is anybody's code: whatever it raises is a finding
            raise Violation("terminates", f"it raised {type(error).__name__}: {error}", graph) from error


class _TooLong(BaseException):
    pass


@contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupts in the main thread of Unix; elsewhere there is no limit. A timer of others goes on afterwards."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    allowance = Allowance(SECONDS, PATIENCE)

    def stop(number: int, frame: Any) -> None:
        if (rest := allowance.left) <= 0:
            raise _TooLong
        signal.setitimer(signal.ITIMER_REAL, rest)

    handler = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, handler)


def with_origins(graph: Graph) -> Graph:
    """A copy in which every node says where it is from, and no constant's bytes are shared with the original."""
    out = graph.clone()
    for i, node in enumerate(out.walk()):
        if node.op.name == "constant":
            node.attrs["value"] = _copied(node.attrs["value"])
        if node.origin == Origin():
            node.origin = Origin(layer=f"n{i}")
    return out


def _copied(const: Const) -> Const:
    if const.is_splat and const.array.ndim:
        one = np.array(const.array[(slice(0, 1),) * const.array.ndim]).reshape(())
        return Const(np.broadcast_to(one, const.array.shape), const.dtype)
    return Const(np.array(const.array), const.dtype)


def constants_of(graph: Graph) -> list[bytes]:
    """The bytes of every constant; digests are remembered and so prove nothing."""
    return [np.ascontiguousarray(n.attrs["value"].array).tobytes() for n in graph.walk() if n.op.name == "constant"]


def work(graph: Graph) -> int:
    """Nodes that compute something and are read."""
    live = set()
    stack = [graph.return_node]
    while stack:
        node = stack.pop()
        if node is not None and node not in live:
            live.add(node)
            stack += [v.producer for v in node.operands]
    own = sum(n.op.kind not in ("source", "view") and n.op.name != "return" for n in live)
    return own + sum(work(r) for n in live for r in n.regions)


# Each: (subject, graph with origins, feeds, first result, draw) -> None.
def verifies(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    try:
        after.graph.verify(2)
    except FusewrightError as error:
        raise Violation("verifies", str(error)) from error


def signature(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    def of(graph: Graph) -> tuple[Any, ...]:
        inputs = tuple((v.name, str(v.type)) for v in graph.inputs)
        return inputs, tuple((n, v.dtype.name, v.rank) for n, v in zip(graph.output_names, graph.outputs))

    if of(g) != of(after.graph):
        raise Violation("signature", f"{of(g)} became {of(after.graph)}")


def semantics(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    if after.rewritten or after.graph.fingerprint != g.fingerprint:
        if s.numerics != "approx" and narrowest(after.graph) < narrowest(g):
            # Its own bound would excuse it: rounding to a narrower type is no reordering.
            raise Violation("semantics", f"declared {s.numerics!r}, but it computes in a narrower type than before")
        for given in feeds:
            equal(g, after.graph, given, s.numerics, "semantics")


def narrowest(graph: Graph) -> int:
    """Bytes of the smallest float type that anything is computed in; 8 where there are none."""
    return min((v.dtype.size for n in graph.walk() for v in n.results if v.dtype.is_float), default=8)


def equal(g: Graph, h: Graph, feeds: Feeds, numerics: str, property: str, *, alone: bool = False) -> None:
    """Both graphs agree on ``feeds`` within ``numerics``; ``alone`` as in assert_equivalent. Raises Violation."""
    try:
        if numerics in ("exact", "nsz"):
            try:
                same_bits(g, feeds, Steady(g).run(feeds), Steady(h).run(feeds), numerics == "exact")
            except Mismatch:
                # NumPy adds in an order that depends on shapes. Of the same terms the exact sum, rounded once, is one.
                if sums(g) == sums(h):
                    raise
                same_bits(g, feeds, Exact(g).run(feeds), Exact(h).run(feeds), numerics == "exact")
        else:
            assert_equivalent(g, h, feeds, numerics, alone=alone)
    except (Mismatch, FusewrightError) as error:
        raise Violation(property, f"declared {numerics!r}, but {error}") from error


def sums(graph: Graph) -> Counter[object]:
    """The float contractions of a graph, by what decides their order of summation."""
    found = [n for n in graph.walk() if n.op.kind in ("contract", "window") and n.results[0].dtype.is_float]
    return Counter((n.op.name, str(n.attrs), tuple(v.type for v in n.operands)) for n in found)


def honest(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    if after.before != (str(g), constants_of(g)):
        raise Violation("honest", "it changed the graph that it was given, or contents of its constants")
    changed = after.graph.fingerprint != g.fingerprint
    if changed and not after.rewritten:
        raise Violation("honest", "the graph changed, but no rewrite was counted")
    if after.rewritten and not changed and not isinstance(s.tested, Pipeline):
        raise Violation("honest", f"{after.rewritten} rewrites were counted, but the graph is the same")


def deterministic(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    if s.apply(g).graph.fingerprint != after.graph.fingerprint:
        raise Violation("deterministic", "a second run on the same graph gave another result")
    # Text puts inputs first; where they stand is no property of the graph.
    first, second = parse_graph(str(g)), parse_graph(str(parse_graph(str(g))))
    if s.apply(first).graph.fingerprint != s.apply(second).graph.fingerprint:
        raise Violation("deterministic", "an equal graph of other objects gave another result")


def idempotent(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    rounds = _ROUNDS if isinstance(s.tested, Pipeline) else 1
    current = after
    for _ in range(rounds):
        following = s.apply(current.graph)
        if following.graph.fingerprint == current.graph.fingerprint:
            return
        current = following
    raise Violation("idempotent", f"run {rounds + 1} still changes the graph:\n{current.graph}")


def roundtrip(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    text = str(after.graph)
    try:
        again = parse_graph(text)
    except FusewrightError as error:
        raise Violation("roundtrip", f"its text does not parse: {error}\n{text}") from error
    if str(again) != text or again.fingerprint != after.graph.fingerprint:
        raise Violation("roundtrip", f"its text parses to another graph:\n{text}")


def provenance(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    for node in after.graph.walk():
        if node.op.name not in ("input", "return") and node.origin == Origin():
            raise Violation("provenance", f"{node.where} has no origin: use m.op, fw.op or Builder(..., origin)")


def cost(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    if "cost" in s.claims and work(after.graph) > work(g):
        raise Violation("cost", f"{work(g)} computing nodes became {work(after.graph)}")


def memory(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    try:
        check_memory(after.graph, feeds[0], s.target)
    except MemoryFault as error:
        raise Violation("memory", str(error)) from error


def metamorphic(s: Subject, g: Graph, feeds: Sequence[Feeds], after: Applied, draw: Draw) -> None:
    given = feeds[0]
    kind = draw.pick(tuple(VARIANTS))
    variant = VARIANTS[kind](g, given, draw)
    if variant is None:
        return
    try:
        out = s.apply(variant).graph
        try:
            out.verify(2)
        except FusewrightError as error:
            raise Violation("metamorphic", f"{kind}: {error}") from error
        if kind == "renaming" and out.fingerprint != after.graph.fingerprint:
            raise Violation("metamorphic", "renaming values changed what it does")
        equal(variant, out, given, s.numerics, "metamorphic")
    except Violation as found:
        raise Violation(found.property, found.why, variant) from found


# Graphs of the same meaning (in the outputs that they keep).
def renamed(g: Graph, feeds: Feeds, draw: Draw) -> Graph | None:
    out = g.clone()
    for i, node in enumerate(out.nodes):
        for v in node.results:
            if node.op.name != "input":
                v.name = f"other{len(out.nodes) - i}"
    return out


def with_dead_code(g: Graph, feeds: Feeds, draw: Draw) -> Graph | None:
    """Every value gets a reader that leads nowhere: a pass may do less, never something wrong."""
    out = g.clone()
    for v in [v for n in out.nodes for v in n.results if draw.chance(0.5)]:
        node = v.producer.next
        while node is not None and node.op.name == "input":
            node = node.next
        Builder(out, node, Origin(layer="dead")).reshape(v, shape=v.shape)
    return out


def repeated_outputs(g: Graph, feeds: Feeds, draw: Draw) -> Graph | None:
    out = g.clone()
    assert out.return_node is not None
    out.return_node.set_operands([*out.outputs, *out.outputs])
    out.output_names = [*out.output_names, *(f"{n}_again" for n in out.output_names)]
    return out


def inner_outputs(g: Graph, feeds: Feeds, draw: Draw) -> Graph | None:
    """Every value is an output: nothing inside a match may disappear or change."""
    out = g.clone()
    assert out.return_node is not None
    inner = [v for n in out.nodes for v in n.results if v not in out.outputs]
    out.return_node.set_operands([*out.outputs, *inner])
    out.output_names = [*out.output_names, *(f"inner_{i}" for i in range(len(inner)))]
    return out


def one_output(g: Graph, feeds: Feeds, draw: Draw) -> Graph | None:
    if len(g.outputs) < 2:
        return None
    out = g.clone()
    assert out.return_node is not None
    at = draw.integer(0, len(out.outputs) - 1)
    out.return_node.set_operands([out.outputs[at]])
    out.output_names = [out.output_names[at]]
    return out


def fixed_sizes(g: Graph, feeds: Feeds, draw: Draw) -> Graph | None:
    if not g.symbols:
        return None
    try:
        return specialise(g, sizes_of(g, feeds))
    except FusewrightError:
        return None


def sizes_of(g: Graph, feeds: Feeds) -> dict[str, int]:
    """What ``feeds`` bind the symbols to."""
    out = {}
    for v in g.inputs:
        for d, size in zip(v.shape, np.shape(feeds[v.name])):
            if isinstance(d, Dim) and str(d) in g.symbols:
                out[str(d)] = int(size)
    return out


Variant = Callable[[Graph, Feeds, Draw], Graph | None]
VARIANTS: dict[str, Variant] = {
    "renaming": renamed,
    "dead code": with_dead_code,
    "repeated outputs": repeated_outputs,
    "inner values as outputs": inner_outputs,
    "one output": one_output,
    "fixed sizes": fixed_sizes,
}
Check = Callable[[Subject, Graph, Sequence[Feeds], Applied, Draw], None]
# In this order: the first that fails is the one that names the fault best.
CHECKS: dict[str, Check] = {
    "verifies": verifies, "signature": signature, "honest": honest, "semantics": semantics, "cost": cost,
    "provenance": provenance, "roundtrip": roundtrip, "deterministic": deterministic, "idempotent": idempotent,
    "metamorphic": metamorphic, "memory": memory,
}  # fmt: skip


def check_one(
    s: Subject, graph: Graph, feeds: Sequence[Feeds], draw: Draw, only: Sequence[str] = tuple(PROPERTIES)
) -> Applied:
    """Ask the properties ``only`` of ``s`` on one graph. Raises Violation."""
    g = with_origins(graph)
    before = str(g), constants_of(g)
    after = s.apply(g)
    after.before = before
    with at_most(TRIPS):
        for name, check in CHECKS.items():
            if name in only:
                check(s, g, feeds, after, draw)
    return after


__all__ = ["PROPERTIES", "TRIPS", "Applied", "Feeds", "Subject", "Violation", "check_one", "equal", "work"]
