"""The reference interpreter: runs a graph node by node with NumPy.

Owns evaluation in the graph's own precision or in float64, with or without running error bounds. It is the semantics:
backends are tested against it, it never looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.bounds import misfit
from ..core.dims import Dim, evaluate, maximum, symbols
from ..core.dtypes import BF16, DType, decode
from ..core.errors import InputRefused, VerifyError
from .builder import Builder
from .fits import Pair, equal_extents, ordered_extents
from .graph import Graph, Node, Value
from .opdef import BoundContext, EvalContext, bind_attr
from .ops.control import CONTROL, count_trip, eval_control
from .ops.elementwise import round_to
from .scope import DEFINES, mentioned
from .types import TensorType

# Unit roundoff, least positive number, largest finite number, roundoff of sums (see BoundContext).
UNIT = {
    "f16": (2.0**-11, 2.0**-24, 65504.0, 2.0**-11),
    "bf16": (2.0**-8, 2.0**-133, 3.3895313892515355e38, 2.0**-24),
    "f32": (2.0**-24, 2.0**-149, 3.4028234663852886e38, 2.0**-24),
    "f64": (2.0**-53, 2.0**-1074, 1.7976931348623157e308, 2.0**-53),
}


def bind_symbols(inputs: Sequence[tuple[str, TensorType]], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Values of the symbols from the arrays' shapes. Raises InputRefused naming the input that does not fit."""
    env: dict[str, int] = {}
    later: list[tuple[str, int, Dim, int]] = []
    for name, type_ in inputs:
        got = tuple(shapes[name])
        if len(got) != type_.rank:
            raise InputRefused(f"input {name!r}: expected rank {type_.rank} ({type_}), got shape {got}")
        for axis, (want, have) in enumerate(zip(type_.shape, got, strict=True)):
            if isinstance(want, int):
                if want != have:
                    raise InputRefused(
                        f"input {name!r} axis {axis}: expected {want}, got {have} (shape {got}, type {type_})"
                    )
            elif (
                len(want.terms) == 1
                and want.terms[0][1] == 1
                and len(want.terms[0][0]) == 1
                and want.terms[0][0][0].op == "symbol"
            ):
                symbol = str(want)
                if env.setdefault(symbol, have) != have:
                    raise InputRefused(f"input {name!r} axis {axis}: {symbol} is {env[symbol]} elsewhere, here {have}")
            else:
                later.append((name, axis, want, have))
    for name, axis, want, have in later:
        loose = [s for s in symbols(want) if s not in env]
        if loose:
            raise InputRefused(f"input {name!r} axis {axis}: {want} cannot bind {loose[0]}, nor does another input")
        if evaluate(want, env) != have:
            raise InputRefused(f"input {name!r} axis {axis}: expected {want} = {evaluate(want, env)}, got {have}")
    return env


class Interpreter:
    """Runs one graph. ``precision`` 'f32' computes each dtype as itself, 'f64' computes every float in float64."""

    def __init__(
        self, graph: Graph, precision: str = "f32", watch: Callable[[Node, list[np.ndarray]], None] | None = None
    ):
        if precision not in ("f32", "f64"):
            raise InputRefused(f"precision must be 'f32' or 'f64', not {precision!r}")
        self.graph = graph
        self.wide = precision == "f64"
        self.watch = watch
        self._decompositions: dict[Node, Graph] = {}
        self._conditions: dict[Node, list[Pair]] = {}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name for arrays by name. bf16 crosses as float32. Raises InputRefused."""
        arrays, env = self._check(feeds)
        ctx = self._context(env)
        with np.errstate(all="ignore"):
            out = self._region(self.graph, arrays, ctx)
        return dict(zip(self.graph.output_names, (np.array(o) for o in out), strict=True))

    def _context(self, env: dict[str, int]) -> EvalContext:
        holder: list[EvalContext] = []
        ctx = EvalContext(env, self.wide, lambda g, a: self._region(g, a, holder[0]))
        holder.append(ctx)
        return ctx

    def _check(self, feeds: Mapping[str, Any]) -> tuple[list[np.ndarray], dict[str, int]]:
        names = [v.name for v in self.graph.inputs]
        unknown = [n for n in feeds if n not in names]
        missing = [n for n in names if n not in feeds]
        if unknown or missing:
            raise InputRefused(f"inputs are {names}; missing {missing or 'none'}, unknown {unknown or 'none'}")
        arrays = [self._feed(v, feeds[v.name]) for v in self.graph.inputs]
        env = bind_symbols(
            [(v.name, v.type) for v in self.graph.inputs], {n: a.shape for n, a in zip(names, arrays, strict=True)}
        )
        return arrays, env

    def _feed(self, v: Value, given: Any) -> np.ndarray:
        array = np.asarray(given)
        if v.dtype is BF16:
            # Also a wide run reads what a bf16 input can hold.
            array = round_to(np.asarray(array, np.float32), BF16)
            return array.astype(np.float64) if self.wide else array
        if array.dtype.newbyteorder("=") != v.dtype.np and not (
            self.wide and v.dtype.is_float and array.dtype == np.float64
        ):
            if not (
                isinstance(given, (list, tuple, int, float, bool))
                or array.dtype.kind == v.dtype.kind == "f"
                and self.wide
            ):
                raise InputRefused(f"input {v.name!r}: expected {v.dtype}, got {array.dtype}")
        return array.astype(np.float64 if self.wide and v.dtype.is_float else v.dtype.np)

    def constant(self, node: Node) -> np.ndarray:
        """The contents of a ``constant`` node in computing precision."""
        const = node.attrs["value"]
        array = decode(const.array, const.dtype)
        return array.astype(np.float64) if self.wide and const.dtype.is_float else array

    def _region(self, graph: Graph, args: Sequence[np.ndarray], ctx: EvalContext) -> list[np.ndarray]:
        values: dict[Value, np.ndarray] = dict(zip(graph.inputs, args, strict=True))
        left = {v: len(v.uses) for node in graph.nodes for v in node.results}
        for node in graph.nodes:
            if node.op.name == "input":
                continue
            operands = [values[v] for v in node.operands]
            if node is graph.return_node:
                return operands
            for v, array in zip(node.results, self.evaluate(node, operands, ctx), strict=True):
                values[v] = array
            for v in node.operands:
                left[v] -= 1
                if not left[v]:
                    del values[v]
        raise VerifyError("the graph has no return node")

    def evaluate(self, node: Node, operands: Sequence[np.ndarray], ctx: EvalContext) -> list[np.ndarray]:
        """Results of one node for concrete operands."""
        if node.op.name == "constant":
            return [self.constant(node)]
        self._fit(node, ctx)
        attrs = {k: bind_attr(v, ctx.env) for k, v in node.attrs.items()}
        if node.op.name in CONTROL:
            out = eval_control(node, operands, attrs, ctx)
        elif node.op.eval is not None:
            result = node.op.eval(operands, attrs, ctx)
            out = list(result) if isinstance(result, tuple) else [result]
        else:
            out = self._region(self.decomposition(node), operands, ctx)
        out = [self._settle(v, a, ctx) for v, a in zip(node.results, out, strict=True)]
        if self.watch is not None:
            self.watch(node, out)
        return out

    def _fit(self, node: Node, ctx: EvalContext) -> None:
        """Raises InputRefused where the extents of this run are none that the node can have."""
        if node not in self._conditions:
            pairs = [(maximum(low, high), high) for low, high in ordered_extents(node)]
            self._conditions[node] = [p for p in (*equal_extents(node), *pairs) if isinstance(p[0] - p[1], Dim)]
        for need, have in self._conditions[node]:
            if not ctx.env.keys() >= {*symbols(need), *symbols(have)}:
                continue  # bound by this very node or in its regions
            if (least := evaluate(need, ctx.env)) != (size := evaluate(have, ctx.env)):
                raise InputRefused(misfit(least, size) + (f" ({node.origin})" if str(node.origin) else ""))

    def decomposition(self, node: Node) -> Graph:
        """The closed graph that a composite node means."""
        if node not in self._decompositions:
            self._decompositions[node] = decomposition(node)
        return self._decompositions[node]

    def _settle(self, v: Value, array: np.ndarray, ctx: EvalContext) -> np.ndarray:
        """The array in the type that the graph states: a mismatch is a bug in an op's eval or infer."""
        want = v.type.concrete(ctx.env)
        array = np.asarray(array)
        if array.shape != want:
            raise VerifyError(f"computed shape {array.shape}, its type says {want} ({v.type})", v.producer.where)
        target = ctx.np_dtype(v.dtype)
        if array.dtype != target:
            array = array.astype(target)
        return round_to(array, v.dtype) if v.dtype is BF16 and not ctx.wide else array


def decomposition(node: Node) -> Graph:
    """A composite node as a closed graph of simpler ops. Raises VerifyError if the op has no decomposition."""
    if node.op.decompose is None:
        raise VerifyError(f"{node.op.name} has neither eval nor decompose", node.where)
    b = Builder(origin=node.origin)
    inputs = [b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(node.operands)]
    out = node.op.decompose(b, inputs, node.attrs)
    return b.build(*(out if isinstance(out, (tuple, list)) else (out,)))


class BoundedInterpreter(Interpreter):
    """Runs in float64 and carries, beside each value, a bound on the error of any evaluation in the graph's own types.

    See Higham, Accuracy and Stability of Numerical Algorithms, ch. 3 (running error analysis). ``inf`` means undecided.
    A finite bound beside NaN or an infinity means that this class is certain; such a bound is always 0.

    What is beyond a type's largest number is undecided, since another order of the same arithmetic may not get there.
    With ``overflows`` the order of ``eval`` counts: where every rounding of every allowed operand overflows, the value
    is that infinity.
    """

    def __init__(self, graph: Graph, overflows: bool = False) -> None:
        super().__init__(graph, "f64")
        self.overflows = overflows
        # Symbols that were bound to a number which rounding may have decided.
        self.undecided: set[str] = set()

    def run_bounded(self, feeds: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """name -> (float64 value, absolute error bound)."""
        arrays, env = self._check(feeds)
        ctx = self._context(env)
        with np.errstate(all="ignore"):
            out = self._bounded(self.graph, arrays, [np.zeros(a.shape) for a in arrays], ctx)
        return {n: pair for n, pair in zip(self.graph.output_names, out, strict=True)}

    def _bounded(
        self, graph: Graph, args: Sequence[np.ndarray], errs: Sequence[np.ndarray], ctx: EvalContext
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        values: dict[Value, tuple[np.ndarray, np.ndarray]] = dict(
            zip(graph.inputs, zip(args, errs, strict=True), strict=True)
        )
        for node in graph.nodes:
            if node.op.name == "input":
                continue
            pairs = [values[v] for v in node.operands]
            if node is graph.return_node:
                return pairs
            for v, pair in zip(node.results, self._bounded_node(node, pairs, ctx), strict=True):
                values[v] = pair
        raise VerifyError("the graph has no return node")

    def _bounded_node(
        self, node: Node, pairs: Sequence[tuple[np.ndarray, np.ndarray]], ctx: EvalContext
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        if node.op.name == "constant":
            return [(a, np.zeros(a.shape)) for a in self.evaluate(node, (), ctx)]
        arrays, errs = [p[0] for p in pairs], [p[1] for p in pairs]
        if node.op.name == DEFINES and np.any(errs[0]):
            self.undecided.add(node.attrs["symbol"])
        if self.undecided and self._loose(node):
            return [(a, np.full(a.shape, np.inf)) for a in self.evaluate(node, arrays, ctx)]
        attrs = {k: bind_attr(v, ctx.env) for k, v in node.attrs.items()}
        if node.op.name == "fused":
            return self._bounded(node.regions[0], arrays, errs, ctx)
        if node.op.name == "if" and not np.any(errs[0]):
            return self._bounded(node.regions[0 if bool(arrays[0]) else 1], arrays[1:], errs[1:], ctx)
        if node.op.name == "scan":
            return self._bounded_scan(node, pairs, attrs, ctx)
        if node.op.name == "while":
            return self._bounded_while(node, pairs, attrs, ctx)
        if node.op.eval is None and node.op.name not in CONTROL:
            return self._bounded(self.decomposition(node), arrays, errs, ctx)
        out = self.evaluate(node, arrays, ctx)
        if node.op.name in ("sort", "top_k"):
            return self._bounded_order(attrs["axis"], out, errs[0], arrays[0].shape)
        if node.op.bound is None or len(out) != 1:
            dirty = any(np.any(e) for e in errs)
            return [(o, np.full(o.shape, np.inf) if dirty else np.zeros(o.shape)) for o in out]
        bound = node.op.bound(arrays, errs, out[0], self._arithmetic(node, attrs, ctx))
        err = np.broadcast_to(np.asarray(bound, np.float64), out[0].shape)
        return [self._overflow(node.results[0].dtype, out[0], err)]

    def _arithmetic(self, node: Node, attrs: Mapping[str, Any], ctx: EvalContext) -> BoundContext:
        return BoundContext(attrs, ctx, *_unit(node.results[0].dtype), overflows=self.overflows)

    def _loose(self, node: Node) -> bool:
        """Does an extent of the node hang on an undecided symbol?"""
        found = mentioned(node) | {s for v in node.operands for s in v.type.symbols}
        return not found.isdisjoint(self.undecided)

    def _bounded_scan(
        self, node: Node, pairs: Sequence[tuple[np.ndarray, np.ndarray]], attrs: Mapping[str, Any], ctx: EvalContext
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        n, m, length = attrs["n_carry"], attrs["n_xs"], attrs["length"]
        state, xs, consts = list(pairs[:n]), pairs[n : n + m], list(pairs[n + m :])
        shapes = [(v.type.concrete(ctx.env), ctx.np_dtype(v.dtype)) for v in node.results[n:]]
        stacked = [(np.zeros(shape, dt), np.zeros(shape)) for shape, dt in shapes]
        for t in reversed(range(length)) if attrs["reverse"] else range(length):
            inputs = [*state, *((x[t], e[t]) for x, e in xs), *consts]
            out = self._bounded(node.regions[0], [p[0] for p in inputs], [p[1] for p in inputs], ctx)
            state = out[:n]
            for (values, errors), (y, e) in zip(stacked, out[n:], strict=True):
                values[t], errors[t] = y, e
        return [*state, *stacked]

    def _bounded_while(
        self, node: Node, pairs: Sequence[tuple[np.ndarray, np.ndarray]], attrs: Mapping[str, Any], ctx: EvalContext
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Nothing is decided from the first trip on whose condition is not."""
        n = attrs["n_carry"]
        state, consts = list(pairs[:n]), list(pairs[n:])
        trips = 0
        while True:
            inputs = [*state, *consts]
            arrays, errs = [p[0] for p in inputs], [p[1] for p in inputs]
            ((go, err),) = self._bounded(node.regions[0], arrays, errs, ctx)
            if np.any(err):
                out = self.evaluate(node, [p[0] for p in pairs], ctx)
                return [(o, np.full(o.shape, np.inf)) for o in out]
            if not bool(go):
                return state
            trips = count_trip(node, trips)
            state = self._bounded(node.regions[1], arrays, errs, ctx)

    @staticmethod
    def _bounded_order(
        axis: int, out: Sequence[np.ndarray], err: np.ndarray, shape: Sequence[int]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Sorting moves no value further than the largest error of its line; positions need exact operands."""
        err = np.broadcast_to(err, shape)
        worst = np.max(err, axis=axis, keepdims=True, initial=0.0)
        position = np.where(worst > 0, np.inf, 0.0)
        return [(o, np.broadcast_to(e, o.shape)) for o, e in zip(out, (worst, position), strict=True)]

    def _overflow(self, dt: DType, value: np.ndarray, err: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and bound where the narrow type ends: a float64 value out there may be infinite or a number.

        All of an interval beyond the end is infinite: a finite result of the narrow type is at most the end, and so
        not inside the interval that holds every finite result. Two units further out rounding cannot come back.
        """
        if not dt.is_float:
            return value, err
        unit, _, top, _ = _unit(dt)
        if np.max(np.abs(value) + err, initial=0.0) <= top:
            return value, err
        known, inside = np.isfinite(err), np.isfinite(value)
        err = np.where(known & ~inside, 0.0, err)
        with np.errstate(all="ignore"):
            reach = np.where(known, err, 0.0)
            beyond = inside & known & (np.abs(value) - reach > top * (1 + 2 * unit))
            err = np.where(inside & (np.abs(value) + reach > top), np.inf, err)
            if not self.overflows or not np.any(beyond):
                return value, err
            return np.where(beyond, np.copysign(np.inf, value), value).astype(value.dtype), np.where(beyond, 0.0, err)


def _unit(dt: DType) -> tuple[float, float, float, float]:
    return UNIT.get(dt.name, (0.0, 0.0, np.inf, 0.0))


__all__ = ["BoundedInterpreter", "Interpreter", "bind_symbols", "decomposition"]
