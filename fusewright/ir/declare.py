"""Ops that users declare: their row of the table is looked at, and tried on a few types, before it is taken.

Owns ``define_op`` as the public sees it and the refusal of signatures. Must not know any particular op.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, TypeVar, get_args

import numpy as np

from ..core.dims import Dim
from ..core.dtypes import DType, dtype
from ..core.errors import TypeRefused
from .builder import Builder
from .graph import Node, Value, refines
from .opdef import OPS, REQUIRED, Cost, EvalContext, Kind, OpDef, bind_attr, canonical_attr
from .opdef import define_op as enter
from .types import TensorType

T = TypeVar("T")
_TRIED = 24
_HINTED = 8
_BINDING = {"N": 3}
_PROBES: tuple[tuple[str, tuple[int | str, ...]], ...] = (
    ("f32", (2, 4)), ("f32", ("N", 4)), ("f32", (2, 6, 6, 4)), ("i32", (2, 4)), ("bool", (2, 4)), ("f32", (4,)),
    ("f32", (3, 3, 4, 4)), ("f32", ()), ("i64", ()),
)  # fmt: skip
# field -> what it is called with
_CALLED = {
    "infer": ("operand types", "attrs", "regions"),
    "eval": ("arrays", "attrs", "context"),
    "bound": ("arrays", "errors", "result", "context"),
    "decompose": ("builder", "operands", "attrs"),
    "cost": ("node",),
    "sample": ("draw", "make"),
}


def define_op(op: OpDef) -> OpDef:
    """Add an op to the table (public as ``fw.define_op``), once it has been tried on drawn types.

    Raises TypeRefused if the name is taken, and lists everything that does not hold together.
    """
    if not isinstance(op, OpDef):
        raise TypeRefused(f"define_op takes an OpDef, not a {type(op).__name__}")
    faults = list(_faults(op))
    if op.name not in OPS and not faults:
        found = list(_probe(op))
        # Of each field the first: the same fault shows with most types.
        faults += {f.partition(":")[0]: f for f in reversed(found)}.values()
    if faults:
        raise TypeRefused(f"op {op.name!r} cannot be declared like this:" + "".join(f"\n  {f}" for f in faults))
    return enter(op)


def fits(fn: Any, *names: str) -> str:
    """Why ``fn`` cannot be called with one positional argument per name; empty if it can, or hides its signature."""
    if not callable(fn):
        return f"is {fn!r}, not a function of ({', '.join(names)})"
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*names)
    except TypeError:
        return f"is called with ({', '.join(names)}), but takes {signature}"
    return ""


# -- as written --------------------------------------------------------------------------------------------------------
def _faults(op: OpDef) -> Iterator[str]:
    taken = isinstance(op.name, str) and hasattr(Builder, op.name)
    if not (isinstance(op.name, str) and op.name.isidentifier()) or keyword.iskeyword(op.name) or taken:
        reserved = "taken by the Builder" if taken else "not an identifier"
        yield f"name: {op.name!r} is {reserved}, and the name becomes a method of it: choose another"
    if op.kind not in get_args(Kind):
        yield f"kind: {op.kind!r} is none of {', '.join(map(repr, get_args(Kind)))}; 'opaque' assumes nothing"
    yield from _operand_faults(op.operands)
    if not isinstance(op.attrs, Mapping):
        yield f"attrs: {op.attrs!r} is not a mapping from name to default"
    else:
        yield from _attr_faults(op)
    if op.eval is None and op.decompose is None:
        yield "eval, decompose: an op needs one of them: what it computes, in NumPy or in ops that exist"
    for name, arguments in _CALLED.items():
        fn = getattr(op, name)
        why = fits(fn, *arguments) if fn is not None or name == "infer" else ""
        if why:
            yield f"{name}: {why}"
    yield from _promises(op)


def _operand_faults(operands: Any) -> Iterator[str]:
    if not isinstance(operands, tuple) or not all(isinstance(n, str) for n in operands):
        yield f"operands: {operands!r} is not a tuple of names, such as ('x',) or ('x', 'weights', 'bias?')"
        return
    plain = [n.rstrip("*?") for n in operands]
    if bad := [n for n, p in zip(operands, plain) if not p.isidentifier() or len(n) - len(p) > 1]:
        yield f"operands: {bad[0]!r} is not a name, with a ? or a * at its end where it is optional or any number"
    if len(set(plain)) != len(plain):
        yield f"operands: {', '.join(plain)} are not distinct"
    if any(n.endswith("*") for n in operands[:-1]):
        yield "operands: only the last one may stand for any number (*)"
    optional = [n.endswith("?") for n in operands]
    if optional != sorted(optional):
        yield "operands: those that may be left out (?) come last"


def _attr_faults(op: OpDef) -> Iterator[str]:
    names = {n.rstrip("*?") for n in op.operands if isinstance(n, str)} if isinstance(op.operands, tuple) else set()
    for name, default in op.attrs.items():
        if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
            yield f"attrs: {name!r} is not an identifier"
        elif name in names or name == "regions":
            yield f"attrs: {name!r} is the name of an operand, or of the regions: choose another"
        if default is not REQUIRED:
            try:
                canonical_attr(default)
            except TypeRefused as error:
                yield f"attrs: the default of {name!r}: {error}; it may be a number, text, a type, an extent or a tuple"


def _promises(op: OpDef) -> Iterator[str]:
    if not isinstance(op.operands, tuple):
        return
    count = len(op.operands)
    for i in op.overwrites if isinstance(op.overwrites, tuple) else ():
        if not isinstance(i, int) or not 0 <= i < count:
            yield f"overwrites: there is no operand {i!r}; {', '.join(map(str, op.operands))} are 0 to {count - 1}"
    if not isinstance(op.overwrites, tuple):
        yield f"overwrites: {op.overwrites!r} is not a tuple of operand indices"
    for result, i in op.views.items():
        if not isinstance(i, int) or not 0 <= i < count or not isinstance(result, int) or result < 0:
            yield f"views: {result!r}: {i!r} is not a result index and the index of one of {count} operands"
    if op.commutative and count != 2:
        yield f"commutative: it has {count} operands, not two"
    if op.scalar is not None:
        if op.kind != "elementwise":
            yield f"scalar: an element expression belongs to kind 'elementwise', not {op.kind!r}"
        try:
            ast.parse(op.scalar, mode="eval")
        except (SyntaxError, TypeError, ValueError):
            yield f"scalar: {op.scalar!r} is not one expression over a, b, c and attributes"


# -- tried out ---------------------------------------------------------------------------------------------------------
class _Dice:
    """What a ``sample`` hint asks for its decisions (testing/draw.py has the interface)."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        return self._random.choice(options)

    def chance(self, share: float) -> bool:
        return self._random.random() < share


class _Faulty(Exception):
    """What is wrong with the op, found on one draw."""


def _probe(op: OpDef) -> Iterator[str]:
    draws: Iterator[Callable[[Builder], tuple[Sequence[Any], Mapping[str, Any]]]]
    draws = _hinted(op) if op.sample is not None else _typed(op)
    for draw in draws:
        b = Builder()
        try:
            operands, attrs = draw(b)
            _try(op, b, operands, attrs)
        except _Faulty as fault:
            yield str(fault)
        except TypeRefused:
            continue  # an op need not take everything


def _typed(op: OpDef) -> Iterator[Callable[[Builder], tuple[Sequence[Any], Mapping[str, Any]]]]:
    """Operands of a few types; with every attribute at its default, so nothing where one has none."""
    if any(default is REQUIRED for default in op.attrs.values()):
        return
    n = max(1, op.required) if op.operands else 0
    mixed = product(_PROBES[:4], repeat=n) if 2 <= n <= 3 else ()
    for types in islice([*((p,) * n for p in _PROBES), *mixed], _TRIED):
        yield lambda b, types=types: ([b.input(f"a{i}", *t) for i, t in enumerate(types)], {})  # type: ignore[misc]


def _hinted(op: OpDef) -> Iterator[Callable[[Builder], tuple[Sequence[Any], Mapping[str, Any]]]]:
    sample = op.sample
    assert sample is not None
    for seed in range(_HINTED):

        def draw(b: Builder, seed: int = seed) -> tuple[Sequence[Any], Mapping[str, Any]]:
            dice = _Dice(seed)

            def make(dtypes: Sequence[DType] | None = None, ranks: tuple[int, int] = (0, 5), accept: Any = None,
                     make: Any = None, **_: Any) -> Value:  # fmt: skip
                rank = dice.integer(*ranks)
                shape = make(rank) if make is not None else [dice.integer(1, 4) for _ in range(rank)]
                return b.input(f"a{len(b.graph.inputs)}", dice.pick(dtypes or (dtype("f32"),)), shape)

            try:
                operands, attrs = sample(dice, make)
            except TypeRefused:
                raise
            except Exception as error:
                raise _Faulty(f"sample: raised {type(error).__name__}: {error}") from error
            return operands, attrs

        yield draw


def _try(op: OpDef, b: Builder, operands: Sequence[Any], attrs: Mapping[str, Any]) -> None:
    """Raises _Faulty for what does not fit; TypeRefused where ``infer`` refuses the operands."""
    given = ", ".join(str(v.type) for v in operands if isinstance(v, Value))
    try:
        results = b.apply(op, operands, attrs)
    except TypeRefused:
        raise
    except Exception as error:
        raise _Faulty(
            f"infer: raised {type(error).__name__} ({error}) for {given or 'no operands'}: it raises TypeRefused for "
            "what the op does not take"
        ) from error
    if any(not isinstance(v.type, TensorType) for v in results):
        raise _Faulty(f"infer: gave {results[0].type!r} for {given}, not a list of TensorType")
    node = results[0].producer if results else None
    if node is None:
        raise _Faulty(f"infer: gave no type for {given}")
    if op.cost is not None:
        _try_cost(op.cost, node, given)
    if op.decompose is not None:
        _try_decompose(op.decompose, node, given)
    if op.eval is not None and not node.regions:
        _try_eval(op.eval, node, given)


def _try_cost(cost: Callable[[Node], Cost], node: Node, given: str) -> None:
    try:
        found = cost(node)
    except Exception as error:
        raise _Faulty(
            f"cost: raised {type(error).__name__} ({error}) for ({given}); node.operands has {len(node.operands)}, "
            f"node.attrs {', '.join(node.attrs) or 'nothing'}"
        ) from error
    parts = (found.flops, found.bytes) if isinstance(found, Cost) else (None,)
    if not all(isinstance(p, (int, Dim)) for p in parts):
        raise _Faulty(f"cost: gave {found!r} for ({given}), not Cost(flops, bytes) of extents")


def _try_decompose(decompose: Callable[..., Any], node: Node, given: str) -> None:
    b = Builder()
    try:
        out = decompose(b, [b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(node.operands)], node.attrs)
    except Exception as error:
        raise _Faulty(
            f"decompose: raised {type(error).__name__} ({error}) for ({given}), which infer takes: make both take it, "
            "or neither"
        ) from error
    values = out if isinstance(out, (tuple, list)) else (out,)
    want = [v.type for v in node.results]
    if not all(isinstance(v, Value) and v.producer.graph is b.graph for v in values):
        raise _Faulty(f"decompose: gave {out!r}, not values made with the builder that it is given")
    have = [v.type for v in values]
    if len(have) != len(want) or not all(refines(h, w) for h, w in zip(have, want)):
        raise _Faulty(f"decompose: gives {_types(have)} for ({given}), infer says {_types(want)}: make them agree")


def _try_eval(evaluate: Callable[..., Any], node: Node, given: str) -> None:
    rng = np.random.default_rng(0)
    arrays = []
    for v in node.operands:
        if v.const is not None:
            arrays.append(np.asarray(v.const.array))
            continue
        drawn = rng.standard_normal(v.type.concrete(_BINDING))
        arrays.append((drawn if v.dtype.is_float else drawn > 0).astype(v.dtype.compute))
    attrs = {k: bind_attr(a, _BINDING) for k, a in node.attrs.items()}
    try:
        with np.errstate(all="ignore"):
            out = evaluate(arrays, attrs, EvalContext(dict(_BINDING)))
    except Exception as error:
        raise _Faulty(
            f"eval: raised {type(error).__name__} ({error}) for ({given}), which infer takes: make both take it, "
            "or neither"
        ) from error
    found = [np.asarray(a) for a in (out if isinstance(out, tuple) else (out,))]
    want = [(v.type, v.type.concrete(_BINDING), np.dtype(v.dtype.compute)) for v in node.results]
    # NumPy promotes integers and bools; the interpreter takes them back, and real numbers of another precision.
    agree = len(found) == len(want) and all(
        a.shape == shape and (a.dtype.kind == of.kind or of.kind != "f") for a, (_, shape, of) in zip(found, want)
    )
    if not agree:
        have = ", ".join(f"{a.dtype}{list(a.shape)}" for a in found)
        raise _Faulty(f"eval: gives {have} for ({given}), infer says {_types(t for t, _, _ in want)}: make them agree")


def _types(types: Any) -> str:
    return ", ".join(map(str, types)) or "nothing"


__all__ = ["define_op", "fits"]
