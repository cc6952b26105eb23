"""Makes a failing graph small: fewer outputs, nodes and inputs, smaller sizes, simpler numbers.

Owns the moves and their order. Must not know what fails: it is given a question ``(graph, feeds) -> bool``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.dims import Dim
from ..core.dtypes import BF16, DTYPES, F32, I64, DType, decode, encode
from ..core.errors import FusewrightError
from ..ir import Builder, Const, Graph, Node, Value
from ..ir.interpreter import Interpreter
from ..passes.local.fold import inline
from ..passes.specialise import specialise
from .allowance import Allowance
from .reduce_loops import LOOP_MOVES, fresh_name

Feeds = dict[str, np.ndarray]
Fails = Callable[[Graph, Feeds], bool]
Candidate = tuple[Graph, Feeds]
Clean = Callable[[Graph, Mapping[str, np.ndarray]], Candidate]
_PATIENCE = 4  # times as long by the clock


def reduce_graph(
    graph: Graph, feeds: Mapping[str, np.ndarray], fails: Fails, seconds: float = 20.0
) -> tuple[Graph, Feeds]:
    """The smallest graph and feeds found for which ``fails`` is still true, within ``seconds`` of computing.

    ``fails`` must be true of the graph given; it may raise nothing but return False for what it cannot judge.
    """
    allowance = Allowance(seconds, _PATIENCE)
    current: Candidate = (graph, dict(feeds))
    # Where dead code itself is what fails, clearing it away with every move would find nothing smaller.
    clean = _still(fails, tidy(graph.clone(), feeds))
    if not clean:
        current = (_marked(graph), dict(feeds))
    moves = MOVES if clean else (drop_dead, *MOVES)
    progress = True
    while progress and allowance.left > 0:
        progress = False
        for move in moves:
            again = True
            while again and allowance.left > 0:
                again = False
                for candidate in move(*current, tidy if clean else unread):
                    if allowance.left <= 0:
                        break
                    if _smaller(candidate, current) and _still(fails, candidate):
                        # What has just lost its last reader may now be what fails.
                        current = candidate if clean else (_marked(candidate[0]), candidate[1])
                        progress = again = True
                        break
    return current


def _still(fails: Fails, candidate: Candidate) -> bool:
    try:
        candidate[0].verify(2)
        return fails(*candidate)
    except (FusewrightError, ValueError, TypeError, KeyError, IndexError):
        return False


def _size(candidate: Candidate) -> tuple[int, ...]:
    graph, feeds = candidate
    nodes = [n for n in graph.walk() if n.op.name not in ("input", "return")]
    computing = sum(n.op.name != "constant" for n in nodes)
    operands = sum(len(n.operands) for n in nodes)
    symbols = len(graph.symbols)
    elements = sum(a.size for a in feeds.values())
    elements += sum(n.attrs["value"].array.size for n in nodes if n.op.name == "constant")
    kinds = sum(len(np.unique(np.nan_to_num(a.astype(np.float64)))) for a in feeds.values())
    weight = sum(_weight(a) for a in feeds.values())
    weight += sum(_weight(_numbers(n.attrs["value"])) for n in nodes if n.op.name == "constant")
    return computing, len(graph.outputs), len(nodes), len(graph.inputs), operands, symbols, elements, weight, kinds


def _numbers(const: Const) -> np.ndarray:
    return np.asarray(decode(const.array, const.dtype))


def _weight(a: np.ndarray) -> int:
    """How far the numbers are from 0, 1 and other plain ones."""
    with np.errstate(all="ignore"):
        plain = np.asarray(a, np.float64)
        rank = np.where(plain == 0, 0, np.where(plain == 1, 1, np.where(np.abs(plain) == 2, 2, 4)))
        rank = rank + (np.signbit(plain) & (plain != 0))
        return int(np.sum(np.where(plain == np.round(plain), rank, 8)))


def _smaller(a: Candidate, b: Candidate) -> bool:
    return _size(a) < _size(b)


def tidy(graph: Graph, feeds: Mapping[str, np.ndarray]) -> Candidate:
    """Without what nothing reads; inputs that nothing reads go with their feeds, unless they bind a symbol."""
    for node in reversed(graph.nodes):
        if node.op.name not in ("input", "return") and not any(v.uses for v in node.results):
            graph.erase(node)
    wanted = {s for n in graph.walk() for v in n.results if n.op.name != "input" for s in v.type.symbols}
    kept: list[Value] = []
    for v in graph.inputs:
        binds = {str(d) for d in v.shape if isinstance(d, Dim)} & wanted
        if v.uses or binds:
            kept.append(v)
        else:
            graph.erase(v.producer)
    graph.inputs = kept
    return graph, {v.name: feeds[v.name] for v in kept}


def unread(graph: Graph, feeds: Mapping[str, np.ndarray]) -> Candidate:
    """Like ``tidy``, but nodes that nothing read from the start stay."""
    for node in reversed(graph.nodes):
        marked = any(v.name.startswith(_UNREAD) for v in node.results)
        if node.op.name not in ("input", "return") and not marked and not any(v.uses for v in node.results):
            graph.erase(node)
    return graph, {v.name: feeds[v.name] for v in graph.inputs}


def _marked(graph: Graph) -> Graph:
    out = graph.clone()
    for i, node in enumerate(out.nodes):
        if node.op.name != "input" and not any(v.uses for v in node.results):
            for k, v in enumerate(node.results):
                v.name = f"{_UNREAD}{i}_{k}"
    return out


_UNREAD = "unread"


# -- moves: each gives candidates, the boldest first --------------------------------------------------------------
def fix_symbols(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    sizes = {
        str(d): int(n) for v in graph.inputs for d, n in zip(v.shape, feeds[v.name].shape) if str(d) in graph.symbols
    }
    if sizes:
        try:
            yield specialise(graph, sizes), dict(feeds)
        except FusewrightError:
            return


def drop_dead(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Erase one node or input that nothing reads."""
    for i, node in enumerate(graph.nodes):
        if node.op.name == "return" or any(v.uses for v in node.results):
            continue
        out = graph.clone()
        twin = list(out.nodes)[i]
        out.inputs = [v for v in out.inputs if v.producer is not twin]
        out.erase(twin)
        yield out, {v.name: feeds[v.name] for v in out.inputs}


def drop_outputs(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    count = len(graph.outputs)
    for keep in ([i] for i in range(count)) if count > 1 else ():
        yield _with_outputs(graph, feeds, keep, clean)
    for i in range(count) if count > 2 else ():
        yield _with_outputs(graph, feeds, [k for k in range(count) if k != i], clean)


def _with_outputs(graph: Graph, feeds: Feeds, keep: Sequence[int], clean: Clean) -> Candidate:
    out = graph.clone()
    assert out.return_node is not None
    outputs = out.outputs
    out.return_node.set_operands([outputs[i] for i in keep])
    out.output_names = [out.output_names[i] for i in keep]
    return clean(out, feeds)


def return_inner(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Return an operand instead of a result: what came after it did not matter."""
    for k, v in enumerate(graph.outputs):
        for x in v.producer.operands:
            out, mapping = graph.clone_with_map()
            assert out.return_node is not None
            outputs = list(out.outputs)
            outputs[k] = mapping[x]
            out.return_node.set_operands(outputs)
            yield clean(out, feeds)


def bypass(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Read an operand, or any earlier value, of the same type instead of a result."""
    earlier: list[Value] = []
    jobs: list[tuple[Value, Value]] = []
    for node in graph.nodes:
        if node.op.name not in ("input", "return", "constant"):
            for v in node.results:
                jobs += [(v, x) for x in dict.fromkeys([*node.operands, *earlier[:4]]) if x.type is v.type]
        earlier += node.results
    for old, new in reversed(jobs):
        out, mapping = graph.clone_with_map()
        out.replace(mapping[old], mapping[new])
        yield clean(out, feeds)


def cut(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Replace a value by a fresh input that is fed what it was."""
    try:
        values = _values(graph, feeds)
    except FusewrightError:
        return
    for node in reversed(graph.nodes):
        if node.op.name in ("input", "return"):
            continue
        if node.op.name == "constant" and node.results[0].type.size == 1:
            continue
        for v in node.results:
            if v in values and v.uses and v.type.is_static:
                out, mapping = graph.clone_with_map()
                name = fresh_name(out)
                first = next(iter(out.nodes))
                fresh = Builder(out, first).input(name, v.dtype, v.shape)
                target = mapping[v]
                for user, index in target.uses:
                    user.set_operand(index, fresh)
                yield clean(out, {**feeds, name: values[v]})


def _values(graph: Graph, feeds: Feeds) -> dict[Value, np.ndarray]:
    found: dict[Node, list[np.ndarray]] = {}
    Interpreter(graph, watch=lambda node, out: found.__setitem__(node, [np.array(o) for o in out])).run(feeds)
    values = {v: a for node, arrays in found.items() for v, a in zip(node.results, arrays)}
    for node in graph.nodes:
        if node.op.name == "constant":
            values[node.results[0]] = np.array(_numbers(node.attrs["value"]))
    return values


def open_regions(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Put the body of a fused node or of a branch in its place."""
    for i, node in enumerate(graph.nodes):
        first = {"fused": 0, "if": 1}.get(node.op.name)
        if first is None:
            continue
        for which in range(len(node.regions)):
            out = graph.clone()
            twin = list(out.nodes)[i]
            new = inline(twin.regions[which], list(twin.operands[first:]), twin)
            try:
                for old, v in zip(twin.results, new):
                    out.replace(old, v)
            except FusewrightError:
                continue
            yield clean(out, feeds)


def shrink_regions(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Inside a body: erase a node, or read one of its operands or an argument of the body instead of its result."""
    for i, node in enumerate(graph.nodes):
        for r, region in enumerate(node.regions):
            for k, inner in enumerate(region.nodes):
                if inner.op.name in ("input", "return"):
                    continue
                pool = [*inner.operands, *region.inputs]
                choices = [[x for x in dict.fromkeys(pool) if x.type is v.type] for v in inner.results if v.uses]
                for pick in range(max((len(c) for c in choices), default=1)):
                    if any(pick >= len(c) for c in choices):
                        continue
                    out = graph.clone()
                    body = list(out.nodes)[i].regions[r]
                    twin, before = list(body.nodes)[k], list(region.nodes)
                    for v, c in zip([v for v in twin.results if v.uses], choices):
                        at = before.index(c[pick].producer)
                        body.replace(v, list(body.nodes)[at].results[c[pick].index])
                    body.erase(twin)
                    yield clean(out, feeds)


def hold(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Replace a small value that is computed by a constant of what it was."""
    try:
        values = _values(graph, feeds)
    except FusewrightError:
        return
    for node in graph.nodes:
        if node.op.name in ("input", "return", "constant"):
            continue
        for v in node.results:
            if v in values and v.uses and v.type.is_static and values[v].size <= 8:
                out, mapping = graph.clone_with_map()
                array = values[v]
                stored = encode(array.astype(np.float32), v.dtype) if v.dtype is BF16 else array.astype(v.dtype.np)
                twin = mapping[v].producer
                held = Builder(out, twin, twin.origin).constant(Const(np.array(stored, order="C"), v.dtype))
                out.replace(mapping[v], held)
                yield clean(out, feeds)


def bypass_alike(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Everywhere at once, read an operand instead of an op's result: what must stay alike is made smaller alike."""
    for name in sorted({n.op.name for n in graph.walk()} - {"input", "constant", "return"}):
        for which in (0, 1):
            out = graph.clone()
            for node in [n for n in out.walk() if n.op.name == name]:
                if which < len(node.operands) and len(node.results) == 1 and node.graph is not None:
                    operand, made = node.operands[which], node.results[0]
                    if operand.type is made.type:
                        node.graph.replace(made, operand)
                        node.graph.erase(node)
            yield clean(out, feeds)


def shrink_extents(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Make one extent smaller wherever it occurs: in inputs, constants and attributes."""
    types = [v for n in graph.nodes if n.op.name in ("input", "constant") for v in n.results]
    extents = sorted({d for v in types for d in v.shape if isinstance(d, int) and d > 1}, reverse=True)
    for d in extents:
        for smaller in (1, 2, d // 2, d - 1):
            if 0 < smaller < d:
                try:
                    yield _resized(graph, feeds, d, smaller)
                except (FusewrightError, ValueError):
                    continue


def _resized(graph: Graph, feeds: Feeds, old: int, new: int) -> Candidate:
    b = Builder()
    mapping: dict[Value, Value] = {}
    fed: Feeds = {}

    def attr(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(attr(v) for v in value)
        return new if isinstance(value, int) and not isinstance(value, bool) and value == old else value

    def sliced(a: np.ndarray) -> np.ndarray:
        return np.array(a[tuple(slice(0, new) if n == old else slice(None) for n in a.shape)])

    outputs: list[Value] = []
    for node in graph.nodes:
        b.current_origin = node.origin
        if node.op.name == "input":
            v = node.results[0]
            mapping[v] = b.input(v.name, v.dtype, attr(v.shape))
            fed[v.name] = sliced(feeds[v.name])
        elif node is graph.return_node:
            outputs = [mapping[v] for v in node.operands]
        elif node.op.name == "constant":
            const = node.attrs["value"]
            mapping[node.results[0]] = b.constant(Const(sliced(const.array), const.dtype))
        else:
            operands = [mapping[v] for v in node.operands]
            attrs = {k: attr(v) if k in _SIZES else v for k, v in node.attrs.items()}
            results = b.apply(node.op, operands, attrs, [r.clone() for r in node.regions])
            mapping.update(zip(node.results, results, strict=True))
    out = b.build(*outputs, names=graph.output_names)
    out.bounds = dict(graph.bounds)
    return out, fed


_SIZES = frozenset({"shape", "stops", "sizes", "length", "channels"})


def plain_types(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Integers of one type, floats of one type: what casts between them goes."""
    for kind, to in (("i", I64), ("f", F32)):
        try:
            out = _retyped(graph, {d: to for d in DTYPES.values() if d.kind == kind})
        except FusewrightError:
            continue
        yield clean(out, {v.name: np.asarray(feeds[v.name], v.dtype.compute) for v in out.inputs})


def _retyped(graph: Graph, types: Mapping[DType, DType]) -> Graph:
    b = Builder()
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        b.current_origin = node.origin
        if node is graph.return_node:
            continue
        made = node.results[0]
        to = types.get(made.dtype, made.dtype)
        if node.op.name == "input":
            mapping[made] = b.input(made.name, to, made.shape)
        elif node.op.name == "constant":
            mapping[made] = b.constant(_numbers(node.attrs["value"]), to)
        elif node.op.name == "cast" and mapping[node.operands[0]].dtype is to:
            mapping[made] = mapping[node.operands[0]]
        else:
            attrs = {k: types.get(v, v) if isinstance(v, DType) else v for k, v in node.attrs.items()}
            regions = [_retyped(r, types) for r in node.regions]
            results = b.apply(node.op, [mapping[v] for v in node.operands], attrs, regions)
            mapping.update(zip(node.results, results, strict=True))
    out = b.build(*(mapping[v] for v in graph.outputs), names=graph.output_names)
    out.bounds = dict(graph.bounds)
    return out


def plain_constants(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Contents become 0, 1, 2, or one element repeated."""
    for i, node in enumerate(graph.nodes):
        if node.op.name != "constant":
            continue
        const: Const = node.attrs["value"]
        for array in _plainer(_numbers(const)):
            out = graph.clone()
            twin = list(out.nodes)[i]
            stored = (
                encode(array.astype(np.float32), const.dtype)
                if const.dtype is BF16
                else array.astype(const.array.dtype)
            )
            fresh = Const(np.ascontiguousarray(stored).reshape(const.array.shape), const.dtype)
            out.replace(twin.results[0], Builder(out, twin, twin.origin).constant(fresh))
            yield clean(out, feeds)


def plain_feeds(graph: Graph, feeds: Feeds, clean: Clean) -> Iterator[Candidate]:
    """Numbers fed become 0, 1, 2, or one element repeated; a special value is kept where it matters."""
    for name, a in feeds.items():
        for array in _plainer(a):
            yield graph, {**feeds, name: array}


def _plainer(a: np.ndarray) -> Iterator[np.ndarray]:
    if not a.size:
        return
    for value in (0, 1, 2):
        yield np.full(a.shape, value, a.dtype)
    flat = a.ravel()
    with np.errstate(all="ignore"):
        odd = [x for x in (flat[0], *flat[~np.isfinite(flat.astype(np.float64))][:1], flat[-1])]
    for x in odd:
        yield np.full(a.shape, x, a.dtype)
    if 1 < a.size <= 32:
        for i in range(a.size):
            for value in (0, 1):
                b = a.copy().ravel()
                b[i] = value
                yield b.reshape(a.shape)


MOVES: tuple[Callable[[Graph, Feeds, Clean], Iterator[Candidate]], ...] = (
    drop_outputs, cut, return_inner, bypass, hold, *LOOP_MOVES, open_regions, bypass_alike, shrink_regions,
    fix_symbols, plain_types, shrink_extents, plain_constants, plain_feeds,
)  # fmt: skip


def ops_of(graph: Graph) -> int:
    """Ops that compute: what is neither an input, a constant nor the return node."""
    return sum(n.op.name not in ("input", "constant", "return") for n in graph.walk())


__all__ = ["ops_of", "reduce_graph", "tidy"]
