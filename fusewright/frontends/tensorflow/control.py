"""Control flow: If, While, Switch and Merge -> regions of the IR.

Owns what is carried, what is invariant, and the matching of branch types. A condition known at import picks its side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.dtypes import BOOL, I32
from ...ir.builder import Builder
from ...ir.graph import Graph, Value
from .graphdef import TFFunction
from .lower import Ctx, op
from .values import Complex, Dead, Item, ListOf, Resource, Strings, Tensor

# One side of a conditional: from the items that enter its region to those that it gives.
Side = Callable[[Builder, list[Item]], list[Item]]
_FORWARD = ("Identity", "StopGradient", "Snapshot")


def _truth(c: Ctx, item: Item) -> Value:
    """A bool scalar: TensorFlow takes any scalar as a condition."""
    v = c.v(item)
    if v.dtype is not BOOL:
        v = c.bld.ne(v, c.const(0, v))
    return v if v.rank == 0 else c.bld.reshape(v, shape=())


@op("If", "StatelessIf", raw=True)
def _if(c: Ctx, condition: Item, *args: Item) -> Any:
    t = c.tensor(condition)
    branches = [c.function("then_branch"), c.function("else_branch")]
    if t.is_constant:
        return c.lowerer.call(branches[0 if bool(np.any(t.content)) else 1], args, c)
    sides: list[Side] = [lambda b, items, n=n: c.lowerer.call(n, items, c, b) for n in branches]  # type: ignore[misc]
    return _branch(c, _truth(c, condition), sides, args)


@op("Case", "StatelessCase", raw=True)
def _case(c: Ctx, index: Item, *args: Item) -> Any:
    names, t = c.functions("branches"), c.tensor(index)
    if not names:
        raise c.refuse("has no branches", code="malformed")
    if t.is_constant or len(names) == 1:
        at = c.number_of(t, "the index") if len(names) > 1 else 0
        return c.lowerer.call(names[at if 0 <= at < len(names) else -1], args, c)
    return _chosen(c, c.bld, [index, *args], names, 0)


def _chosen(c: Ctx, b: Builder, items: Sequence[Item], names: Sequence[str], at: int) -> list[Item]:
    """Branch ``at`` if the index ``items[0]`` says so, else one of the later ones; the last takes what is left."""
    if at + 1 == len(names):
        return c.lowerer.call(names[at], items[1:], c, b)
    inner = Ctx(c.lowerer, c.node, c.scope)
    inner.bld = b
    v = inner.v(items[0])
    return _branch(
        inner,
        b.eq(v, inner.const(at, v)),
        [
            lambda b, items: c.lowerer.call(names[at], items[1:], c, b),
            lambda b, items: _chosen(c, b, items, names, at + 1),
        ],
        items,
    )


def _branch(c: Ctx, condition: Value, sides: Sequence[Side], args: Sequence[Item]) -> list[Item]:
    values = [c.v(t) for t in _flatten(args) if t.content is None or t.content.dtype == object]
    builders = [Builder(origin=c.bld.current_origin) for _ in sides]
    found = [side(b, _entered(b, args)) for side, b in zip(sides, builders, strict=True)]
    if len(found[0]) != len(found[1]):
        raise c.refuse("the branches give different numbers of values", code="malformed")
    like = [_alike(c, builders, pair) for pair in zip(*found, strict=True)]
    parts = [_flatten([pair[k] for pair in like]) for k in range(2)]
    shapes = [[p.shape for p in side] for side in parts]
    if shapes[0] != shapes[1]:
        raise c.refuse(f"the branches give different shapes: {shapes[0]} and {shapes[1]}", code="unsupported-op")
    out: list[Tensor] = []
    if parts[0]:
        regions = [
            b.build(*[p.value(b) for p in side], names=_numbered(len(side)))
            for b, side in zip(builders, parts, strict=True)
        ]
        out = [Tensor.of(v) for v in c.bld.apply("if", [condition, *values], {}, regions)]
    return [_rebuilt(pair[0], out) for pair in like]


def _alike(c: Ctx, builders: Sequence[Builder], pair: tuple[Item, ...]) -> tuple[Item, ...]:
    """The results of both branches in one form: a list that one of them never writes is zeros there."""
    first, second = pair
    if type(first) is not type(second):
        raise c.refuse("the branches give different kinds of values", code="unsupported-op")
    if isinstance(first, Resource) and isinstance(second, Resource) and first.key == second.key:
        return pair
    if isinstance(first, ListOf) and isinstance(second, ListOf):
        if first.length != second.length:
            raise c.refuse(f"the branches give lists of {first.length} and {second.length}", code="unsupported-op")
        if (first.stack is None) == (second.stack is None):
            return pair
        element = first.element if second.element is None else second.element
        if element is None or first.length is None:
            raise c.refuse("the shape of the list's elements is not known", code="unsupported-op")
        out = []
        for item, b in zip((first, second), builders, strict=True):
            full = item.stack or Tensor.of(b.full((first.length, *element), 0, item.dtype))
            out.append(ListOf(item.dtype, item.length, element, full, item.grows))
        return tuple(out)
    if not isinstance(first, (Tensor, Complex)):
        raise c.refuse("a branch gives something that is no tensor", code="unsupported-op")
    return pair


def _numbered(n: int) -> list[str]:
    return [f"r{i}" for i in range(n)]


def _parts(item: Item) -> list[Tensor]:
    """The tensors that an item is made of."""
    if isinstance(item, Tensor):
        return [item]
    if isinstance(item, Complex):
        return [item.re, item.im]
    if isinstance(item, ListOf):
        return [] if item.stack is None else [item.stack]
    return []


def _flatten(items: Sequence[Item]) -> list[Tensor]:
    return [p for item in items for p in _parts(item)]


def _rebuilt(item: Item, parts: list[Tensor]) -> Item:
    """The item with its tensors replaced by the next of ``parts``."""
    if isinstance(item, Tensor):
        return parts.pop(0)
    if isinstance(item, Complex):
        return Complex(parts.pop(0), parts.pop(0))
    if isinstance(item, ListOf) and item.stack is not None:
        stack = parts.pop(0)
        return ListOf(item.dtype, item.length, stack.shape[1:], stack, item.grows)
    return item


def _entered(b: Builder, items: Sequence[Item]) -> list[Item]:
    """The items inside a region: known contents stay known, the rest are inputs."""
    parts = []
    for t in _flatten(items):
        if t.content is not None and t.content.dtype != object:
            parts.append(Tensor.known(t.content, t.dtype))
        elif t.content is not None:
            # Symbolic extents are the same inside; the input is there for what needs a value.
            value = b.input(f"a{len(b.graph.inputs)}", t.dtype, t.shape)
            parts.append(Tensor(t.dtype, t.shape, t.content, value))
        else:
            parts.append(Tensor.of(b.input(f"a{len(b.graph.inputs)}", t.dtype, t.shape)))
    return [_rebuilt(item, parts) for item in items]


# -- loops -------------------------------------------------------------------------------------------------------------


@op("While", "StatelessWhile", raw=True)
def _while(c: Ctx, *args: Item) -> Any:
    return loop(c, c.function("cond"), c.function("body"), list(args))


def _unchanged(function: TFFunction) -> list[bool]:
    """Which outputs are an argument of the same position, passed through."""
    out = []
    for (arg, _), output in zip(function.args, function.outputs, strict=False):
        ref = function.returns.get(output)
        seen: set[str] = set()
        while ref is not None and ref.node in function.nodes and ref.node not in seen:
            node = function.nodes[ref.node]
            seen.add(ref.node)
            ref = node.inputs[0] if node.op in _FORWARD and node.inputs else None
        out.append(ref is not None and ref.node == arg)
    return out


def loop(c: Ctx, cond: str, body: str, args: list[Item]) -> list[Item]:
    """A while loop: what the body passes through unchanged is a constant of the loop, the rest is carried."""
    function = c.lowerer.function(body, c.where)
    if len(function.outputs) != len(args) or len(function.args) != len(args):
        raise c.refuse("the body gives another number of values than it takes", code="malformed")
    fixed = _unchanged(function)
    moving = [i for i, f in enumerate(fixed) if not f]
    for i in moving:
        if isinstance(args[i], (Resource, Strings, Dead)):
            raise c.refuse("the loop changes something that is no tensor", code="unsupported-op")
    args = _with_elements(c, body, args, fixed)
    carried = _flatten([args[i] for i in moving])
    constants = [
        t
        for i, item in enumerate(args)
        if fixed[i]
        for t in _parts(item)
        if t.content is None or t.content.dtype == object
    ]
    condition, _ = _region(c, cond, args, moving, carried, only_condition=True)
    step, results = _region(c, body, args, moving, carried)
    values = [c.v(t) for t in (*carried, *constants)]
    for t, r in zip(carried, results, strict=True):
        if t.shape != r.shape:
            raise c.refuse(
                f"a carried value enters as {list(t.shape)} and leaves as {list(r.shape)}", code="unsupported-op"
            )
    if not carried:
        raise c.refuse("the loop changes nothing", code="unsupported-op")
    out = c.bld.apply("while", values, {"n_carry": len(carried)}, [condition, step])
    parts = [Tensor.of(v) for v in out[: len(carried)]]
    return [args[i] if fixed[i] else _rebuilt(args[i], parts) for i in range(len(args))]


def _region(
    c: Ctx,
    name: str,
    args: Sequence[Item],
    moving: Sequence[int],
    carried: Sequence[Tensor],
    only_condition: bool = False,
) -> tuple[Graph, list[Tensor]]:
    b = Builder(origin=c.bld.current_origin)
    parts = [Tensor.of(b.input(f"a{i}", t.dtype, t.shape)) for i, t in enumerate(carried)]
    fixed = _entered(b, [item for i, item in enumerate(args) if i not in moving])
    inside: list[Item] = []
    for i, item in enumerate(args):
        inside.append(_rebuilt(item, parts) if i in moving else fixed.pop(0))
    found = c.lowerer.call(name, inside, c, b)
    if only_condition:
        if len(found) != 1 or not isinstance(found[0], Tensor):
            raise c.refuse("the condition is no tensor", code="malformed")
        inner = Ctx(c.lowerer, c.node, c.scope)
        inner.bld = b
        return b.build({"r0": _truth(inner, found[0])}), []
    results = _flatten([found[i] for i in moving])
    if len(results) != len(carried):
        raise c.refuse("the body gives other kinds of values than it takes", code="unsupported-op")
    return b.build(*[t.value(b) for t in results], names=_numbered(len(results))), results


def _with_elements(c: Ctx, body: str, args: list[Item], fixed: Sequence[bool]) -> list[Item]:
    """Lists that enter empty get their element shape from what the body writes, and start as zeros."""
    bare = [i for i, a in enumerate(args) if isinstance(a, ListOf) and a.stack is None and not fixed[i]]
    if not bare:
        return args
    out = list(args)
    if any(a.element is None for i in bare if isinstance(a := args[i], ListOf)):
        b = Builder()
        trial = [a if f else _vague(a) for a, f in zip(args, fixed, strict=True)]
        found = c.lowerer.call(body, _entered(b, trial), c, b)
        for i in bare:
            item, result = args[i], found[i]
            if isinstance(item, ListOf) and isinstance(result, ListOf) and item.element is None:
                out[i] = ListOf(item.dtype, item.length, result.element, None, item.grows)
    for i in bare:
        item = out[i]
        if not isinstance(item, ListOf) or item.element is None or item.length is None:
            raise c.refuse("the shape of the list's elements is not known", code="unsupported-op")
        stack = Tensor.of(c.bld.full((item.length, *item.element), 0, item.dtype))
        out[i] = ListOf(item.dtype, item.length, item.element, stack, item.grows)
    return out


def _vague(item: Item) -> Item:
    """A carried value's first contents say nothing about the later ones."""
    if isinstance(item, Tensor):
        return Tensor(item.dtype, item.shape)
    if isinstance(item, ListOf) and item.stack is not None:
        return ListOf(item.dtype, item.length, item.element, Tensor(item.dtype, item.stack.shape), item.grows)
    return item


# -- TF1 conditionals: conds.py has made those of unknown conditions If nodes already ----------------------------------


@op("Switch", "RefSwitch", raw=True)
def _switch(c: Ctx, item: Item, condition: Item) -> Any:
    t = c.tensor(condition)
    if t.is_constant:
        taken = bool(np.any(t.content))
        return [Dead() if taken else item, item if taken else Dead()]
    # A tensor inside a branch that is asked for by name is what it would be if the branch were taken.
    return [item, item]


@op("Merge", "RefMerge", raw=True)
def _merge(c: Ctx, *items: Item) -> Any:
    alive = [(i, item) for i, item in enumerate(items) if not isinstance(item, Dead)]
    if not alive:
        return [Dead(), Dead()]
    if len(alive) > 1:
        raise c.refuse(f"its {len(alive)} inputs do not belong to one condition", code="unsupported-op")
    at, item = alive[0]
    return [item, Tensor.of(c.const(at, I32))]
