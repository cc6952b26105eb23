"""Tidying of ``scan`` and ``while``: what no one reads goes, what is carried twice is carried once.

Owns the lists of carried, scanned and invariant values. Must not know what a body computes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from ...core.dims import compare_le
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Origin, Value
from ..engine.base import PassContext, erase_dead, graph_pass, subgraphs
from ..engine.values import attr_key, splat_scalar


@graph_pass(numerics="exact", name="carried")
def carried(graph: Graph, ctx: PassContext) -> None:
    """Drop dead, fixed and doubled values of loops."""
    # A loop that has lost an operand leaves a result unread, of another loop or around its own.
    while any([tidy_loop(n, ctx) for g in subgraphs(graph) for n in g.nodes if n.op.name in ("scan", "while")]):
        pass


def tidy_loop(node: Node, ctx: PassContext) -> bool:
    """Apply every rule until none fires; each one makes a new node. True when one fired."""
    current: Node | None = node
    fired = False
    while current is not None:
        node = current
        current = None
        for what, rule in (
            ("dead", _dead), ("fixed", _fixed), ("doubled", _doubled), ("congruent", _congruent), ("last", _last),
            ("unread", _unread),
        ):  # fmt: skip
            made = rule(node)
            # A rule may leave nothing of the loop.
            if made is not None or node.graph is None:
                current = made
                fired = True
                ctx.rewrote(what)
                break
    return fired


def _counts(node: Node) -> tuple[int, int]:
    """How many values are carried, and scanned."""
    return node.attrs["n_carry"], node.attrs.get("n_xs", 0)


def _dead(node: Node) -> Node | None:
    """Results that no one reads, and carried values that only feed themselves or such."""
    n, _ = _counts(node)
    body = node.regions[-1]
    wanted = {j for j in range(n) if node.results[j].uses}
    roots = [body.outputs[j] for j in wanted]
    roots += [body.outputs[i] for i in range(n, len(node.results)) if node.results[i].uses]
    extra = node.regions[0] if node.op.name == "while" else None
    if extra is not None:
        wanted |= {j for j in range(n) if extra.inputs[j].uses}
        roots += [body.outputs[j] for j in wanted]
    place = {v: j for j, v in enumerate(body.inputs[:n])}
    seen: set[Value] = set()
    while roots:
        v = roots.pop()
        if v in seen:
            continue
        seen.add(v)
        if v in place and place[v] not in wanted:
            wanted.add(place[v])
            roots.append(body.outputs[place[v]])
        roots += v.producer.operands
    dead = [j for j in range(n) if j not in wanted]
    idle = [i for i in range(n, len(node.results)) if not node.results[i].uses]
    if not dead and not idle:
        return None
    return _without(node, drop={*dead, *idle}, instead={})


def _unread(node: Node) -> Node | None:
    """Scanned and invariant operands that no region reads."""
    n, _ = _counts(node)
    drop = {i for i in range(n, len(node.operands)) if not any(r.inputs[i].uses for r in node.regions)}
    return _without(node, operands=drop) if drop else None


def _doubled(node: Node) -> Node | None:
    """Scanned, or invariant, operands that are one value."""
    n, m = _counts(node)
    first: dict[Hashable, int] = {}
    drop = set()
    for i in range(n, len(node.operands)):
        at = first.setdefault((node.operands[i], i < n + m), i)
        if at != i:
            for region in node.regions:
                region.replace(region.inputs[i], region.inputs[at])
            drop.add(i)
    return _without(node, operands=drop) if drop else None


def _fixed(node: Node) -> Node | None:
    """Carried values that the body hands on as they are become invariant."""
    n, _ = _counts(node)
    body = node.regions[-1]
    fixed = [j for j in range(n) if body.outputs[j] is body.inputs[j]]
    if not fixed:
        return None
    return _without(node, drop=set(fixed), instead={j: node.operands[j] for j in fixed}, move=fixed)


def _congruent(node: Node) -> Node | None:
    """Carried values that start equal and stay equal: one assumes that they are, and splits until it holds."""
    n, _ = _counts(node)
    if n < 2:
        return None
    body = node.regions[-1]
    group: list[Hashable] = [_start(v) for v in node.operands[:n]]
    while True:
        number: dict[Hashable, int] = {}
        ids: dict[Value, int] = {}
        for j, v in enumerate(body.inputs):
            ids[v] = number.setdefault(("carried", group[j]) if j < n else ("input", j), len(number))
        for inner in body.nodes:
            if inner.op.name not in ("input", "return"):
                key = _key(inner, ids)
                for i, v in enumerate(inner.results):
                    ids[v] = number.setdefault((key, i), len(number))
        finer: list[Hashable] = [(group[j], ids[body.outputs[j]]) for j in range(n)]
        if len(set(finer)) == len(set(group)):
            break
        group = finer
    first: dict[Hashable, int] = {}
    same = {j: at for j in range(n) if (at := first.setdefault(finer[j], j)) != j}
    if not same:
        return None
    for region in node.regions:
        for j, at in same.items():
            region.replace(region.inputs[j], region.inputs[at])
    return _without(node, drop=set(same), instead={j: at for j, at in same.items()})


def _start(v: Value) -> Hashable:
    """Equal for values that are equal for sure."""
    one = splat_scalar(v)
    return (v.type, one.tobytes()) if one is not None else v


def _key(node: Node, ids: dict[Value, int]) -> Hashable:
    const = node.results[0].const if node.results else None
    if const is not None:
        return ("constant", _start(node.results[0]) if const.is_splat else id(const))
    if node.regions or node.op.effects:
        return node
    operands = [ids[v] for v in node.operands]
    if node.op.commutative and len(operands) == 2:
        operands.sort()
    return (node.op.name, tuple(operands), tuple((k, attr_key(a)) for k, a in node.attrs.items()))


def _last(node: Node) -> Node | None:
    """A carried value that no trip reads, while another one carries the same elements: the last are the same."""
    if node.op.name != "scan":
        return None
    n, _ = _counts(node)
    body = node.regions[0]
    runs = compare_le(1, node.attrs["length"]) is True
    for j in range(n):
        if body.inputs[j].uses:
            continue
        v = _below(body.outputs[j])
        for k in range(n):
            if k == j or _below(body.outputs[k]) is not v or not (runs or _same_start(node, j, k)):
                continue
            b = Builder(node.graph, node.next, Origin.merge([node.origin], "carried"))
            twin = b.reshape(node.results[k], shape=node.results[j].shape)
            return _without(node, drop={j}, instead={j: twin})
    return None


def _same_start(node: Node, j: int, k: int) -> bool:
    a, b = splat_scalar(node.operands[j]), splat_scalar(node.operands[k])
    return a is not None and b is not None and bool(a.tobytes() == b.tobytes())


def _below(v: Value) -> Value:
    """The value whose elements, in order, ``v`` has."""
    while v.producer.op.name == "reshape":
        v = v.producer.operands[0]
    return v


def _without(
    node: Node,
    drop: Iterable[int] = (),
    instead: dict[int, Value | int] | None = None,
    operands: Iterable[int] = (),
    move: Sequence[int] = (),
) -> Node | None:
    """A loop without the results ``drop`` (carried ones leave as operands too) and without ``operands``.

    ``instead`` says what stands for a dropped result: a value, or another result of the loop. ``move`` makes dropped
    carried values invariant operands. None when nothing is left of the loop.
    """
    graph = node.graph
    assert graph is not None
    n, m = _counts(node)
    results, instead = set(drop), instead or {}
    gone = set(operands) | {j for j in results if j < n}
    order = [i for i in range(len(node.operands)) if i not in gone] + list(move)
    kept = [i for i in range(len(node.results)) if i not in results]
    carried = sum(j not in gone for j in range(n))
    for which, region in enumerate(node.regions):
        is_body = which == len(node.regions) - 1
        if is_body:
            ret = region.return_node
            assert ret is not None
            ret.set_operands([region.outputs[i] for i in kept])
            region.output_names = [region.output_names[i] for i in kept]
            for inner in reversed(region.nodes):
                erase_dead(inner)
        inputs = region.inputs
        region.inputs = [inputs[i] for i in order]
        for i in gone - set(move):
            region.erase(inputs[i].producer)
    new: Sequence[Value] = ()
    if kept:
        attrs = {**node.attrs, "n_carry": carried}
        if "n_xs" in attrs:
            attrs["n_xs"] = sum(i not in gone for i in range(n, n + m))
        given = [node.operands[i] for i in order]
        new = Builder(graph, node, node.origin).apply(node.op, given, attrs, node.regions)
        for i, v in zip(kept, new, strict=True):
            graph.replace(node.results[i], v)
    for i, other in instead.items():
        graph.replace(node.results[i], other if isinstance(other, Value) else new[kept.index(other)])
    erase_dead(node)
    if new and node.graph is not None:
        graph.erase(node)
    return new[0].producer if new else None
