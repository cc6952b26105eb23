"""Proof that every output row depends on one input row alone.

Owns the row-independence analysis that the manifest records and slicing relies on. Must not change the graph.

For each value it tracks which axis carries the batch symbol S: that axis has extent S*f and row r of it belongs to
sample r // f. ``FREE`` values do not depend on the batch at all. An op that mixes samples ends the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core.dims import Dim, Extent, compare_eq, floordiv, product, symbol, symbols
from ..ir.graph import Graph, Node, Value
from ..ir.interpreter import decomposition


class _Mixed(Exception):
    """Some sample reaches another."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The batch runs along ``axis``, whose extent is the batch symbol times ``factor``."""

    axis: int
    factor: Extent = 1


FREE = None
State = Rows | None


def batch_symbol(graph: Graph) -> str | None:
    """The symbol that is axis 0 of every input and output and in which every output is row-independent, or None."""
    values = [*graph.inputs, *graph.outputs]
    if not graph.inputs or any(v.rank == 0 for v in values):
        return None
    heads = {str(v.shape[0]) for v in values}
    first = graph.inputs[0].shape[0]
    if len(heads) != 1 or not isinstance(first, Dim) or first != symbol(str(symbols(first)[0])):
        return None
    name = str(first)
    if any(name in symbols(d) for v in graph.inputs for d in v.shape[1:]):
        return None
    try:
        out = _Rows(name).graph(graph, [Rows(0)] * len(graph.inputs))
    except _Mixed:
        return None
    return name if all(state == Rows(0) for state in out) else None


class _Rows:
    def __init__(self, name: str) -> None:
        self.name = name
        self.symbol = symbol(name)

    def graph(self, graph: Graph, inputs: Sequence[State]) -> list[State]:
        states: dict[Value, State] = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            if node.op.name == "input":
                continue
            given = [states[v] for v in node.operands]
            if node is graph.return_node:
                return given
            for v, state in zip(node.results, self.node(node, given), strict=True):
                states[v] = state
        raise _Mixed

    def node(self, node: Node, given: list[State]) -> list[State]:
        name, rule = node.op.name, _RULES.get(node.op.name)
        if rule is None and node.op.kind == "elementwise":
            rule = _Rows.elementwise
        if rule is not None:
            return rule(self, node, given)
        if all(s is FREE for s in given) and not any(self.name in v.type.symbols for v in node.results):
            if not node.regions and not any(self._mentions(a) for a in node.attrs.values()):
                return [FREE] * len(node.results)
        if name == "fused":
            return self.graph(node.regions[0], given)
        if node.op.decompose is not None:
            return self.graph(decomposition(node), given)
        raise _Mixed

    def _mentions(self, attr: object) -> bool:
        if isinstance(attr, tuple):
            return any(self._mentions(a) for a in attr)
        return isinstance(attr, Dim) and self.name in symbols(attr)

    # -- rules ----------------------------------------------------------------------------------------------------
    def elementwise(self, node: Node, given: list[State]) -> list[State]:
        rank = node.results[0].rank
        found = {
            Rows(s.axis + rank - v.rank, s.factor) for v, s in zip(node.operands, given, strict=True) if s is not FREE
        }
        if len(found) > 1:
            raise _Mixed
        state = found.pop() if found else FREE
        if state is FREE and any(self.name in v.type.symbols for v in node.operands):
            raise _Mixed
        return [state] * len(node.results)

    def broadcast_to(self, node: Node, given: list[State]) -> list[State]:
        shape = node.results[0].shape
        if given[0] is not FREE:
            return [Rows(given[0].axis + len(shape) - node.operands[0].rank, given[0].factor)]
        return [self._only_axis(shape, set())]

    def iota(self, node: Node, given: list[State]) -> list[State]:
        return [self._only_axis(node.results[0].shape, {node.attrs["axis"]})]

    def _only_axis(self, shape: Sequence[Extent], forbidden: set[int]) -> State:
        """The axis along which equal rows were laid out for each sample."""
        axes = [i for i, d in enumerate(shape) if self.name in symbols(d)]
        if not axes:
            return FREE
        if len(axes) > 1 or axes[0] in forbidden:
            raise _Mixed
        factor = floordiv(shape[axes[0]], self.symbol)
        if compare_eq(factor * self.symbol, shape[axes[0]]) is not True or self.name in symbols(factor):
            raise _Mixed
        return Rows(axes[0], factor)

    def reshape(self, node: Node, given: list[State]) -> list[State]:
        state, x, shape = given[0], node.operands[0], node.results[0].shape
        if state is FREE:
            return [FREE]
        before = product(x.shape[: state.axis])
        for axis in range(len(shape)):
            lead = product(shape[:axis])
            if compare_eq(lead, before) is True and self.name in symbols(shape[axis]):
                factor = floordiv(shape[axis], self.symbol)
                if compare_eq(factor * self.symbol, shape[axis]) is True and self.name not in symbols(factor):
                    return [Rows(axis, factor)]
        raise _Mixed

    def transpose(self, node: Node, given: list[State]) -> list[State]:
        state = given[0]
        return [state if state is FREE else Rows(node.attrs["perm"].index(state.axis), state.factor)]

    def along(self, node: Node, given: list[State]) -> list[State]:
        """Ops that work along the axes named by ``axis`` or ``axes`` and keep the rank."""
        axes = _axes(node)
        found = {s for s in given if s is not FREE}
        if len(found) > 1 or any(s.axis in axes for s in found):
            raise _Mixed
        state = found.pop() if found else FREE
        if state is not FREE and node.op.name == "concat" and any(s is FREE for s in given):
            raise _Mixed
        return [state] * len(node.results)

    def norm(self, node: Node, given: list[State]) -> list[State]:
        if any(s is not FREE for s in given[1:]):
            raise _Mixed
        return self.along(node, given[:1])

    def reduce(self, node: Node, given: list[State]) -> list[State]:
        state = given[0]
        if state is FREE:
            return [FREE] * len(node.results)
        axes = _axes(node)
        if state.axis in axes:
            raise _Mixed
        shift = 0 if node.attrs["keepdims"] else sum(a < state.axis for a in axes)
        return [Rows(state.axis - shift, state.factor)] * len(node.results)

    def untouched(self, node: Node, given: list[State]) -> list[State]:
        """slice and pad: the batch axis must come through whole."""
        state = given[0]
        if any(s is not FREE for s in given[1:]):
            raise _Mixed
        if state is FREE:
            return [FREE]
        x, y = node.operands[0].shape[state.axis], node.results[0].shape[state.axis]
        if x != y or node.attrs.get("steps", (1,) * 8)[state.axis] != 1:
            raise _Mixed
        return [state]

    def matmul(self, node: Node, given: list[State]) -> list[State]:
        a, b = node.operands
        rank = node.results[0].rank
        found = set()
        for v, s, flipped, inner in (
            (a, given[0], node.attrs["transpose_a"], -1),
            (b, given[1], node.attrs["transpose_b"], -2),
        ):
            if s is FREE:
                continue
            at = s.axis - v.rank
            at = {-1: -2, -2: -1}.get(at, at) if flipped else at
            if at == inner:
                raise _Mixed
            found.add(Rows(at + rank, s.factor))
        if len(found) > 1:
            raise _Mixed
        return [found.pop() if found else FREE]

    def window(self, node: Node, given: list[State]) -> list[State]:
        if any(s is not FREE for s in given[1:]) or (given[0] is not FREE and given[0].axis != 0):
            raise _Mixed
        return [given[0]]

    def gather(self, node: Node, given: list[State]) -> list[State]:
        (x, i), axis, batch = given, node.attrs["axis"], node.attrs["batch_dims"]
        if x is FREE and i is FREE:
            return [FREE]
        if i is FREE and x is not FREE and x.axis != axis:
            shift = node.operands[1].rank - batch - 1 if x.axis > axis else 0
            return [Rows(x.axis + shift, x.factor)]
        if x is FREE and i is not FREE and i.axis >= batch:
            return [Rows(axis + i.axis - batch, i.factor)]
        if x == i and x is not FREE and x.axis < batch:
            return [x]
        raise _Mixed

    def scan(self, node: Node, given: list[State]) -> list[State]:
        n, m = node.attrs["n_carry"], node.attrs["n_xs"]
        if self._mentions(node.attrs["length"]) or any(s is not FREE and s.axis == 0 for s in given[n : n + m]):
            raise _Mixed
        slices = [FREE if s is FREE else Rows(s.axis - 1, s.factor) for s in given[n : n + m]]
        out = self.graph(node.regions[0], [*given[:n], *slices, *given[n + m :]])
        if out[:n] != given[:n]:
            raise _Mixed
        return [*out[:n], *(FREE if s is FREE else Rows(s.axis + 1, s.factor) for s in out[n:])]


def _axes(node: Node) -> tuple[int, ...]:
    axes = node.attrs.get("axes", node.attrs.get("axis"))
    return (axes,) if isinstance(axes, int) else tuple(axes or ())


def _dependent(self: _Rows, node: Node, given: list[State]) -> list[State]:
    """An extent that depends on values may depend on every row."""
    raise _Mixed


_RULES: dict[str, Callable[[_Rows, Node, list[State]], list[State]]] = {
    "constant": lambda self, node, given: [FREE],
    "broadcast_to": _Rows.broadcast_to,
    "iota": _Rows.iota,
    "reshape": _Rows.reshape,
    "transpose": _Rows.transpose,
    "slice": _Rows.untouched,
    "pad": _Rows.untouched,
    "matmul": _Rows.matmul,
    "gather": _Rows.gather,
    "scan": _Rows.scan,
    "symbol_of": _dependent,
    **dict.fromkeys(("concat", "cumsum", "cumprod", "sort", "top_k", "softmax", "log_softmax", "reverse"), _Rows.along),
    **dict.fromkeys(("layer_norm", "rms_norm"), _Rows.norm),
    **dict.fromkeys(
        ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_any", "reduce_all", "argmax",
         "argmin"), _Rows.reduce,
    ),
    **dict.fromkeys(
        ("conv", "conv_transpose", "max_pool", "avg_pool", "resize", "resample", "conv_blocked",
         "conv_transpose_blocked", "max_pool_blocked", "avg_pool_blocked", "to_blocked", "from_blocked"), _Rows.window,
    ),
}  # fmt: skip
