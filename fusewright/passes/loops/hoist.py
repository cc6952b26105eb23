"""Work that leaves loops: invariant nodes, and contractions of slices, done for all steps of a scan at once.

Owns which nodes leave and what they become outside. Must not know how a loop came to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.dims import Extent, compare_le
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ...ir.scope import defined, mentioned
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from .scanned import tidy_loop

# Too cheap to be kept as a value across the loop: a kernel reads them as they are, or makes them on the way.
_STAYS = frozenset(("input", "constant", "return", "broadcast_to", "iota", "reshape"))


@graph_pass(numerics="exact", name="invariant")
def invariant(graph: Graph, ctx: PassContext) -> None:
    """Nodes of a loop body that depend on nothing that changes are computed once, before the loop."""
    for g in subgraphs(graph):
        for node in g.nodes:
            if node.op.name in ("scan", "while"):
                for which in range(len(node.regions)):
                    _leave(node, which, ctx)


def _first_fixed(node: Node) -> int:
    first: int = node.attrs["n_carry"] + node.attrs.get("n_xs", 0)
    return first


def _leave(node: Node, which: int, ctx: PassContext) -> None:
    region, graph = node.regions[which], node.graph
    assert graph is not None
    first = _first_fixed(node)
    fixed: set[Value] = set(region.inputs[first:])
    own = set(defined(region))
    leaving: list[Node] = []
    for inner in region.nodes:
        if inner.op.name == "constant":
            fixed.update(inner.results)
        elif inner.op.name not in ("input", "return") and not inner.op.effects and not inner.regions:
            # An extent that the body binds means nothing outside it.
            if all(v in fixed for v in inner.operands) and mentioned(inner).isdisjoint(own):
                fixed.update(inner.results)
                leaving.append(inner)
    stays = {v for n in leaving for v in n.results}
    # Only what someone who stays reads, and only real work, with what it needs.
    roots = [n for n in leaving if n.op.name not in _STAYS and any(any(u not in leaving for u in v.users)
                                                                   for v in n.results)]  # fmt: skip
    if not roots:
        return
    need: set[Node] = set()
    stack = list(roots)
    while stack:
        n = stack.pop()
        if n not in need:
            need.add(n)
            stack += [v.producer for v in n.operands if v in stays]
    outside = {v: node.operands[first + i] for i, v in enumerate(region.inputs[first:])}
    for n in leaving:
        if n in need:
            copy_out(n, outside, graph, node, "invariant")
    for v in [v for n in roots for v in n.results if any(u not in need for u in v.users)]:
        _enter(node, which, v, outside[v])
    for n in reversed(leaving):
        erase_dead(n)
    ctx.rewrote("invariant", len(roots))


def copy_out(n: Node, outside: dict[Value, Value], graph: Graph, before: Node, why: str) -> None:
    """A copy of ``n`` before the loop, over the outer twins of its operands; constants come along."""
    for v in n.operands:
        if v not in outside:
            outside[v] = Builder(graph, before, v.producer.origin).constant(v.producer.attrs["value"])
    twin = Node(n.op, [outside[v] for v in n.operands], n.attrs, [v.type for v in n.results], (),
                Origin.merge([n.origin], why))  # fmt: skip
    graph.insert(twin, before)
    outside.update(zip(n.results, twin.results))


def _enter(node: Node, which: int, inner: Value, outer: Value) -> None:
    """``inner`` of region ``which`` becomes a new invariant operand of the loop, ``outer``."""
    node.set_operands([*node.operands, outer])
    for i, region in enumerate(node.regions):
        v = add_input(region, len(region.inputs), outer)
        if i == which:
            region.replace(inner, v)


def add_input(region: Graph, at: int, like: Value, shape: Sequence[Extent] | None = None) -> Value:
    """A new input of a region, at position ``at``."""
    taken = {v.name for v in region.inputs}
    name = next(f"h{i}" for i in range(len(taken) + 1) if f"h{i}" not in taken)
    v = Builder(region, next(iter(region.nodes), None)).input(name, like.dtype, like.shape if shape is None else shape)
    region.inputs.insert(at, region.inputs.pop())
    return v


# -- all steps at once -------------------------------------------------------------------------------------------------
Lift = Callable[[Builder, Node, Sequence[Value], Sequence[bool]], Value]


@graph_pass(numerics="reassoc", name="hoist")
def hoist(graph: Graph, ctx: PassContext) -> None:
    """Contractions of a scan's slices and invariants become one contraction over all steps, before the loop."""
    for g in subgraphs(graph):
        for node in g.nodes:
            if node.op.name == "scan":
                _hoist(node, ctx)


def _known(node: Node) -> tuple[set[Value], set[Value], list[Node]]:
    """Values of the body that are the same on every trip, those known for all trips before the first, and the nodes
    that make the latter from slices."""
    body = node.regions[0]
    first, n = _first_fixed(node), node.attrs["n_carry"]
    free, ready = set(body.inputs[first:]), set(body.inputs[n:first])
    parents: list[Node] = []
    own = set(defined(body))
    for inner in body.nodes:
        if inner.op.name == "constant":
            free.update(inner.results)
        elif inner.op.name not in ("input", "return") and inner.operands and not inner.op.effects:
            if all(v in free for v in inner.operands) and not inner.regions and mentioned(inner).isdisjoint(own):
                free.update(inner.results)
            elif all(v in free or v in ready for v in inner.operands) and mentioned(inner).isdisjoint(own):
                if inner.op.name in _LIFTS or inner.op.kind == "elementwise":
                    if not inner.regions and len(inner.results) == 1 and any(v in ready for v in inner.operands):
                        ready.add(inner.results[0])
                        parents.append(inner)
    return free, ready, parents


def _split_products(node: Node, ready: set[Value], ctx: PassContext) -> bool:
    """``concat(x_t, h) @ W`` becomes ``x_t @ W1 + h @ W2``: the first product can then leave the loop."""
    body, found = node.regions[0], False
    for inner in body.nodes:
        if inner.op.name != "matmul" or inner.attrs["transpose_a"] or inner.attrs["transpose_b"]:
            continue
        joined, w = inner.operands[0].producer, inner.operands[1]
        if joined.op.name != "concat" or joined.attrs["axis"] != joined.results[0].rank - 1 or w.const is None:
            continue
        known = [v in ready for v in joined.operands]
        if w.rank != 2 or not any(known) or all(known):
            continue
        if not all(isinstance(v.shape[-1], int) for v in joined.operands):
            continue
        b = Builder(body, inner, Origin.merge([inner.origin, joined.origin], "hoist"))
        sums: list[Value] = []
        # Those that stay come last: they are the product of the step, to which the other is added.
        for which in (True, False):
            low: Extent = 0
            rows: list[Value] = []
            for v, k in zip(joined.operands, known, strict=True):
                high = low + v.shape[-1]
                if k is which:
                    rows.append(b.slice(w, starts=(low, None), stops=(high, None)))
                low = high
            parts = [v for v, k in zip(joined.operands, known, strict=True) if k is which]
            x = parts[0] if len(parts) == 1 else b.concat(*parts, axis=parts[0].rank - 1)
            sums.append(b.matmul(x, rows[0] if len(rows) == 1 else b.concat(*rows, axis=0)))
        body.replace(inner.results[0], b.add(*sums))
        erase_dead(inner)
        found = True
        ctx.rewrote("split product")
    return found


def _hoist(node: Node, ctx: PassContext) -> None:
    free, ready, parents = _known(node)
    if _split_products(node, ready, ctx):
        free, ready, parents = _known(node)
    body = node.regions[0]
    first, n = _first_fixed(node), node.attrs["n_carry"]
    chosen = _chosen(parents, free)
    if not chosen:
        return
    graph = node.graph
    assert graph is not None
    outside = {v: node.operands[n + i] for i, v in enumerate(body.inputs[n:])}
    for inner in parents:
        if inner in chosen:
            _lift(inner, outside, ready, graph, node)
    done = [p for p in parents if p in chosen]
    border = [v for p in done for v in p.results if any(u not in chosen for u in v.users)]
    xs, attrs = [outside[v] for v in border], dict(node.attrs)
    for i, (inner_value, whole) in enumerate(zip(border, xs, strict=True)):
        body.replace(inner_value, add_input(body, first + i, whole, inner_value.shape))
    attrs["n_xs"] += len(xs)
    for p in reversed(done):
        erase_dead(p)
    operands = [*node.operands[:first], *xs, *node.operands[first:]]
    found = Builder(graph, node, node.origin).apply("scan", operands, attrs, [body])
    for old, new in zip(node.results, found, strict=True):
        graph.replace(old, new)
    graph.erase(node)
    ctx.rewrote("hoisted")
    tidy_loop(found[0].producer, ctx)


def _chosen(parents: Sequence[Node], free: set[Value]) -> set[Node]:
    """Contractions, what they need, and what follows them without being larger: a tail for their kernel."""
    heavy = [p for p in parents if p.op.name == "matmul" or (p.op.name == "conv" and p.operands[1] in free)]
    chosen: set[Node] = set()
    stack = list(heavy)
    possible = set(parents)
    while stack:
        p = stack.pop()
        if p not in chosen:
            chosen.add(p)
            stack += [v.producer for v in p.operands if v.producer in possible]
    for p in parents:
        if p in chosen or p.op.kind != "elementwise":
            continue
        sources = [v for v in p.operands if v not in free]
        size = p.results[0].type.size
        if sources and all(v.producer in chosen and compare_le(size, v.type.size) is True for v in sources):
            chosen.add(p)
    return chosen


def _lift(inner: Node, outside: dict[Value, Value], ready: set[Value], graph: Graph, node: Node) -> None:
    """Compute ``inner`` for all steps before the scan."""
    for v in inner.operands:
        _bring(v, outside, graph, node)
    b = Builder(graph, node, Origin.merge([inner.origin], "hoist"))
    moving = [v in ready for v in inner.operands]
    lift = _LIFTS.get(inner.op.name, _aligned)
    outside[inner.results[0]] = lift(b, inner, [outside[v] for v in inner.operands], moving)


def _bring(v: Value, outside: dict[Value, Value], graph: Graph, node: Node) -> None:
    """Give ``v``, which is the same on every trip, a twin before the scan."""
    stack = [v]
    while stack:
        top = stack[-1]
        missing = [x for x in top.producer.operands if x not in outside and x.producer.op.name != "constant"]
        if top in outside or not missing:
            stack.pop()
            if top not in outside and top.producer.op.name == "constant":
                outside[top] = Builder(graph, node, top.producer.origin).constant(top.producer.attrs["value"])
            elif top not in outside:
                copy_out(top.producer, outside, graph, node, "hoist")
        stack += missing if top not in outside else []


def _spread(b: Builder, v: Value, rank: int) -> Value:
    """All steps of a value, its own axes aligned to the right of ``rank`` axes."""
    missing = rank + 1 - v.rank
    return v if missing <= 0 else b.reshape(v, shape=(v.shape[0], *(1,) * missing, *v.shape[1:]))


def _aligned(b: Builder, n: Node, given: Sequence[Value], moving: Sequence[bool]) -> Value:
    """Elementwise ops and matmul: operands broadcast, so the axis of steps is one more axis on the left."""
    rank = n.results[0].rank
    parts = [_spread(b, v, rank) if m else v for v, m in zip(given, moving, strict=True)]
    return b.apply(n.op, parts, n.attrs)[0]


def _conv(b: Builder, n: Node, given: Sequence[Value], moving: Sequence[bool]) -> Value:
    """Steps and samples are one batch."""
    x = given[0]
    flat = b.reshape(x, shape=(x.shape[0] * x.shape[1], *x.shape[2:]))
    y = b.apply(n.op, [flat, *given[1:]], n.attrs)[0]
    return b.reshape(y, shape=(*x.shape[:2], *y.shape[1:]))


def _transpose(b: Builder, n: Node, given: Sequence[Value], moving: Sequence[bool]) -> Value:
    return b.transpose(given[0], perm=(0, *(p + 1 for p in n.attrs["perm"])))


def _reshape(b: Builder, n: Node, given: Sequence[Value], moving: Sequence[bool]) -> Value:
    return b.reshape(given[0], shape=(given[0].shape[0], *n.results[0].shape))


def _slice(b: Builder, n: Node, given: Sequence[Value], moving: Sequence[bool]) -> Value:
    a = n.attrs
    return b.slice(given[0], starts=(None, *a["starts"]), stops=(None, *a["stops"]), steps=(1, *a["steps"]))


def _concat(b: Builder, n: Node, given: Sequence[Value], moving: Sequence[bool]) -> Value:
    steps = next(v.shape[0] for v, m in zip(given, moving, strict=True) if m)
    parts = [v if m else b.broadcast_to(v, shape=(steps, *v.shape)) for v, m in zip(given, moving, strict=True)]
    return b.concat(*parts, axis=n.attrs["axis"] + 1)


_LIFTS: dict[str, Lift] = {
    "matmul": _aligned, "conv": _conv, "transpose": _transpose, "reshape": _reshape, "slice": _slice, "concat": _concat,
}  # fmt: skip
