"""A Builder that folds constants and follows the contents of small integer tensors, so shape arithmetic disappears.

Owns what is known of a value at import: its constant, or its elements as extents. Must not know ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.dims import Dim, Extent, compare_eq, compare_le, floordiv, lower_bound, maximum, minimum, mod
from ...core.dtypes import BF16, I64
from ...ir.builder import Builder, Operand
from ...ir.folding import FREE_BYTES, MOVES, affordable, same_everywhere
from ...ir.graph import Const, Graph, Node, Value
from ...ir.opdef import EvalContext, OpDef, get_op

SMALL = 64
_FOLLOWED = frozenset("reshape broadcast_to transpose slice reverse concat".split())
_CONTEXT = EvalContext({})


class Folder(Builder):
    """Builder whose results are constants wherever their operands are, within a budget.

    Only exact or correctly rounded operations are folded, so that every machine makes the same bytes.
    """

    def __init__(self, graph: Graph | None = None, **kwargs: Any) -> None:
        super().__init__(graph, **kwargs)
        # Elements of small integer tensors that are extents: object arrays of the value's own shape.
        self.contents: dict[Value, np.ndarray] = {}

    def apply(
        self, op: OpDef | str, operands: Sequence[Operand], attrs: Mapping[str, Any], regions: Sequence[Graph] = ()
    ) -> tuple[Value, ...]:
        """As ``Builder.apply``; a result that is known comes back as a constant."""
        results = super().apply(get_op(op) if isinstance(op, str) else op, operands, attrs, regions)
        if len(results) != 1:
            return results
        node = results[0].producer
        const = _fold(node)
        if const is not None:
            self.graph.erase(node)
            return (self.constant(const),)
        known = self._follow(node)
        if known is None:
            return results
        return (self._known(results[0], known),)

    def _known(self, value: Value, known: np.ndarray) -> Value:
        if all(not isinstance(e, Dim) for e in known.flat):
            return self.constant(np.array(known.tolist(), value.dtype.np).reshape(known.shape))
        self.contents[value] = known
        return value

    def elements(self, value: Value) -> np.ndarray | None:
        """The elements as extents (object array of the value's shape), or None when they are not known."""
        found = self.contents.get(value)
        if found is not None:
            return found
        const = value.const
        if const is None or const.array.size > SMALL or const.dtype is BF16:
            return None
        array = const.array
        if array.dtype.kind == "f" and not (np.all(np.isfinite(array)) and np.all(array == np.rint(array))):
            return None
        out = np.empty(array.shape, object)
        out[...] = [] if not array.size else np.array([int(v) for v in array.flat], object).reshape(array.shape)
        return out

    def dims(self, extents: Sequence[Extent]) -> Value:
        """An i64 vector of extents."""
        if all(isinstance(e, int) for e in extents):
            return self.constant(np.array(extents, np.int64).reshape(len(extents)))
        parts = [self.reshape(self.dim(e), shape=(1,)) for e in extents]
        out = parts[0] if len(parts) == 1 else self.concat(*parts, axis=0)
        known = np.empty(len(extents), object)
        known[:] = list(extents)
        self.contents[out] = known
        return out

    def dim(self, e: Extent) -> Value:
        """An extent as an i64 scalar."""
        if isinstance(e, int):
            return self.constant(np.array(e, np.int64))
        total: Value | None = None
        for monomial, factor in e.terms:
            term = self.constant(np.array(factor, np.int64))
            for atom in monomial:
                term = self.mul(term, self._atom(atom))
            total = term if total is None else self.add(total, term)
        assert total is not None
        known = np.empty((), object)
        known[()] = e
        self.contents[total] = known
        return total

    def _atom(self, atom: Any) -> Value:
        if atom.op == "symbol":
            # The number of ones there are: no op reads an extent.
            ones = self.full((Dim((((atom,), 1),)),), 1, I64)
            return self.reduce_sum(ones, axes=(0,))
        name = {"//": "floordiv", "%": "mod", "min": "minimum", "max": "maximum"}[atom.op]
        return super().apply(name, [self.dim(atom.args[0]), self.dim(atom.args[1])], {})[0]

    def _follow(self, node: Node) -> np.ndarray | None:
        """Elements of the result as extents, where those of the operands are known."""
        out = node.results[0]
        if not node.operands or not isinstance(out.type.size, int) or out.type.size > SMALL:
            return None
        if not any(v in self.contents for v in node.operands):
            return None
        args = []
        for v in node.operands:
            known = self.elements(v)
            if known is None:
                return None
            args.append(known)
        name = node.op.name
        if name in _FOLLOWED or (name == "gather" and node.operands[1].const is not None):
            if name == "gather":
                args[1] = np.asarray(node.operands[1].const.array)  # type: ignore[union-attr]
            assert node.op.eval is not None
            return np.asarray(node.op.eval(args, node.attrs, _CONTEXT), object)
        return _compute(name, args, node)


def _compute(name: str, args: list[np.ndarray], node: Node) -> np.ndarray | None:
    if name == "cast":
        return args[0] if node.attrs["to"].is_int or node.attrs["to"].is_float else None
    if name in ("floor", "ceil", "round", "trunc"):
        return args[0]
    if name in ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min") and len(node.attrs["axes"]) == args[0].ndim:
        return _reduce(name, args[0]).reshape(node.results[0].type.concrete({}))
    fn = _ARITHMETIC.get(name)
    if fn is None:
        return None
    if name == "div" and not all(isinstance(b, int) and b != 0 for b in args[1].flat):
        return None
    found = np.broadcast_arrays(*args)
    out = np.empty(found[0].shape, object)
    for at in np.ndindex(out.shape):
        value = fn(*(a[at] for a in found))
        if value is None:
            return None
        out[at] = value
    return out


def _reduce(name: str, values: np.ndarray) -> np.ndarray:
    total: Extent | None = None
    for v in values.flat:
        if total is None:
            total = v
        else:
            total = {"reduce_sum": lambda a, b: a + b, "reduce_prod": lambda a, b: a * b, "reduce_max": maximum,
                     "reduce_min": minimum}[name](total, v)  # fmt: skip
    out = np.empty((), object)
    out[()] = total
    return out


def _exact(a: Extent, b: Extent) -> Extent | None:
    """a / b where it leaves no rest."""
    if b == 0:
        return None
    q = floordiv(a, b)
    return q if compare_eq(q * b, a) is True else None


def _toward_zero(a: Extent, b: Extent) -> Extent | None:
    if b == 0 or not (lower_bound(a) >= 0 and lower_bound(b) >= 0):
        return None
    return floordiv(a, b)


def _decided(answer: bool | None, flip: bool = False) -> int | None:
    return None if answer is None else int(answer != flip)


def _choose(c: Any, a: Extent, b: Extent) -> Extent | None:
    return None if isinstance(c, Dim) else (a if c else b)


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "neg": lambda a: -a,
    "floordiv": lambda a, b: None if b == 0 else floordiv(a, b), "mod": lambda a, b: None if b == 0 else mod(a, b),
    "div": _exact, "truncdiv": _toward_zero, "maximum": maximum, "minimum": minimum, "where": _choose,
    "eq": lambda a, b: _decided(compare_eq(a, b)), "ne": lambda a, b: _decided(compare_eq(a, b), True),
    "le": lambda a, b: _decided(compare_le(a, b)), "lt": lambda a, b: _decided(compare_le(b, a), True),
    "ge": lambda a, b: _decided(compare_le(b, a)), "gt": lambda a, b: _decided(compare_le(a, b), True),
}  # fmt: skip


def _static(value: Any) -> bool:
    return all(map(_static, value)) if isinstance(value, tuple) else not isinstance(value, Dim)


def _fold(node: Node) -> Const | None:
    """The constant that a node is, or None."""
    name, out = node.op.name, node.results[0]
    consts = [v.const for v in node.operands]
    if any(c is None for c in consts) or node.op.eval is None or not out.type.is_static:
        return None
    if not same_everywhere(node) or not all(map(_static, node.attrs.values())):
        return None
    size = int(np.prod(out.type.concrete({}), dtype=object)) * out.dtype.size
    given = sum(c.array.nbytes for c in consts if c is not None)
    view = name in ("reshape", "transpose", "slice", "reverse") and size <= given
    if name == "broadcast_to" and size > FREE_BYTES:
        return None
    if not view and not affordable(size, given):
        return None
    if any(c.dtype is BF16 for c in consts if c is not None) and name not in MOVES:
        return None
    if out.dtype is BF16 and name not in MOVES:
        return None
    arrays = [c.array for c in consts if c is not None]
    result = np.asarray(node.op.eval(arrays, node.attrs, _CONTEXT))
    if result.dtype != out.dtype.np:
        result = result.astype(out.dtype.np)
    splat = result.size > 1 and not any(result.strides)
    return Const(result if splat or view and name == "reshape" else np.ascontiguousarray(result).reshape(result.shape),
                 out.dtype)  # fmt: skip


__all__ = ["SMALL", "Folder"]
