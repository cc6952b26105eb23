"""Makes failing loops small: fewer values carried, read and stacked, and less work in the body.

Owns the moves of ``reduce.py`` that know ``while`` and ``scan``. Must not know what fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..ir import Builder, Graph, Node, Value

Feeds = dict[str, np.ndarray]
Candidate = tuple[Graph, Feeds]
Clean = Callable[[Graph, Mapping[str, np.ndarray]], Candidate]


def another_result(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Return another result of the same loop, and carry only what that needs."""
    for k, v in enumerate(graph.outputs):
        for other in v.producer.results:
            if other is not v:
                out, mapping = graph.clone_with_map()
                assert out.return_node is not None
                outputs = list(out.outputs)
                outputs[k] = mapping[other]
                out.return_node.set_operands(outputs)
                node = mapping[other].producer
                if "n_carry" in node.attrs:
                    _idle_dead_state(node)
                yield clean(out, feeds)
        if "n_carry" in v.producer.attrs:
            out, mapping = graph.clone_with_map()
            _idle_dead_state(mapping[v].producer)
            yield clean(out, feeds)


def _idle_dead_state(loop: Node) -> None:
    """What no result needs is handed on as it came, and the body forgets what has computed it."""
    n = loop.attrs["n_carry"]
    body = loop.regions[-1]
    live = {k for k, v in enumerate(loop.results) if v.uses}
    needed: set[Value] = set()
    if loop.op.name == "while":
        condition = loop.regions[0]
        needed = _reached(condition.outputs)
        live |= {k for k, v in enumerate(condition.inputs[:n]) if v in needed}
    grown = True
    while grown:
        reached = _reached([v for k, v in enumerate(body.outputs) if k in live])
        more = {k for k, v in enumerate(body.inputs[:n]) if v in reached} - live
        live, grown = live | more, bool(more)
    assert body.return_node is not None
    body.return_node.set_operands(
        [body.inputs[k] if k < n and k not in live else v for k, v in enumerate(body.outputs)]
    )
    _sweep(body)


def _sweep(body: Graph) -> None:
    for node in reversed(body.nodes):
        if node.op.name not in ("input", "return") and not any(v.uses for v in node.results):
            body.erase(node)


def _reached(values: Sequence[Value]) -> set[Value]:
    seen: set[Value] = set()
    todo = list(values)
    while todo:
        v = todo.pop()
        if v not in seen:
            seen.add(v)
            todo += v.producer.operands
    return seen


def drop_slots(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """A loop without one of the values that it carries, reads or stacks, where nothing asks for it."""
    for i, node in enumerate(graph.nodes):
        if node.op.name not in ("while", "scan"):
            continue
        n, xs = node.attrs["n_carry"], node.attrs.get("n_xs", 0)
        for k in reversed(range(len(node.operands))):
            if any(not _idle(region, k, n) for region in node.regions) or k < n and node.results[k].uses:
                continue
            if k < n and n == 1 or n <= k < n + xs and xs == 1:
                continue
            yield clean(_without_slot(graph, i, k, k if k < n else None), feeds)
        for k in range(n, len(node.results)):
            if not node.results[k].uses:
                yield clean(_without_slot(graph, i, None, k), feeds)


def _idle(region: Graph, k: int, carried: int) -> bool:
    """The region hands its k-th input on as it came, or does not look at it."""
    return all(k < carried and user is region.return_node and at == k for user, at in region.inputs[k].uses)


def _without_slot(graph: Graph, place: int, operand: int | None, result: int | None) -> Graph:
    """A copy whose loop at ``place`` has lost one operand and one result."""
    out = graph.clone()
    node = list(out.nodes)[place]
    attrs, n = dict(node.attrs), node.attrs["n_carry"]
    if operand is not None:
        attrs["n_carry"] -= operand < n
        if "n_xs" in attrs:
            attrs["n_xs"] -= n <= operand < n + attrs["n_xs"]
    regions = []
    for r, region in enumerate(node.regions):
        twin = region.clone()
        assert twin.return_node is not None
        if result is not None and not (node.op.name == "while" and r == 0):
            outputs = list(twin.outputs)
            del outputs[result], twin.output_names[result]
            twin.return_node.set_operands(outputs)
        if operand is not None:
            gone = twin.inputs[operand]
            twin.inputs = [v for v in twin.inputs if v is not gone]
            twin.erase(gone.producer)
        regions.append(twin)
    operands = [v for k, v in enumerate(node.operands) if k != operand]
    made = Builder(out, node, node.origin).apply(node.op, operands, attrs, regions)
    for old, new in zip((v for k, v in enumerate(node.results) if k != result), made, strict=True):
        out.replace(old, new)
    return out


def cut_bodies(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """A value that a condition or a body computes becomes one that is fed, the same in every trip."""
    for i, node in enumerate(graph.nodes):
        for r, region in enumerate(node.regions if "n_carry" in node.attrs else ()):
            for k, inner in enumerate(region.nodes):
                if inner.op.name in ("input", "return", "constant"):
                    continue
                for v in inner.results:
                    if v.uses and v.type.is_static:
                        yield clean(*_fed(graph, feeds, i, r, k, v.index))


def _fed(graph: Graph, feeds: Feeds, place: int, which: int, inner: int, index: int) -> Candidate:
    out = graph.clone()
    node = list(out.nodes)[place]
    regions = [r.clone() for r in node.regions]
    old = list(regions[which].nodes)[inner].results[index]
    dtype, shape = old.dtype, old.type.concrete({})
    for region in regions:
        # A loop's constants are its last operands.
        Builder(region, next(iter(region.nodes))).input(fresh_name(region), dtype, shape)
    regions[which].replace(old, regions[which].inputs[-1])
    _sweep(regions[which])
    name = fresh_name(out)
    given = Builder(out, next(iter(out.nodes))).input(name, dtype, shape)
    made = Builder(out, node, node.origin).apply(node.op, [*node.operands, given], dict(node.attrs), regions)
    for before, after in zip(node.results, made, strict=True):
        out.replace(before, after)
    return out, {**feeds, name: np.ones(shape, dtype.compute)}


def fresh_name(graph: Graph) -> str:
    """A name that no input has."""
    names = {v.name for v in graph.inputs}
    return next(f"v{i}" for i in range(len(names) + 1) if f"v{i}" not in names)


LOOP_MOVES: tuple[Callable[[Graph, Feeds, Clean], Iterator[Candidate]], ...] = (another_result, cut_bodies, drop_slots)

__all__ = ["LOOP_MOVES", "fresh_name"]
