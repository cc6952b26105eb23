"""How control flow and fused regions are sampled. Bodies grow with cheap ops; carried values keep their types.

Owns operands and regions of if, while, scan and fused. Must not know what the bodies hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.dtypes import BOOL, I32
from ..ir import Graph, TensorType, Value
from .graphs import CONTROL_SAMPLERS, SAMPLERS, Maker
from .samples import sampler

_BODY = ("add", "mul", "sub", "maximum", "relu", "tanh", "neg", "where", "transpose", "reduce_sum", "sigmoid", "square")


def _body(m: Maker) -> None:
    m.grow(m.options.max_nodes, [SAMPLERS[n] for n in _BODY])


def _arguments(m: Maker, most: int) -> list[Value]:
    return [m.value(new=0.1) for _ in range(m.draw.integer(0, most))]


def _same_types(m: Maker, types: Sequence[TensorType]) -> list[Value]:
    """Values of ``types``, the newest first, so that a body returns what it computed."""
    out = []
    for t in types:
        found = next((v for v in reversed(m.values) if v.type is t and m.draw.chance(0.8)), None)
        out.append(found if found is not None else m.of_type(t))
    return out


@sampler("if")
def _if(m: Maker, name: str) -> Any:
    args = _arguments(m, 3)
    types = [v.type for v in args]
    wanted: list[TensorType] = []

    def then(r: Maker, inputs: list[Value]) -> list[Value]:
        _body(r)
        out = [r.value(new=0.1) for _ in range(r.draw.integer(1, 2))]
        wanted.extend(v.type for v in out)
        return out

    def other(r: Maker, inputs: list[Value]) -> list[Value]:
        _body(r)
        return _same_types(r, wanted)

    condition = m.value((BOOL,), (0, 0))
    regions = [m.region(types, then), m.region(types, other)]
    return m.emit(name, condition, *args, regions=regions)


@sampler("while")
def _while(m: Maker, name: str) -> Any:
    counter = m.b.constant(0, I32)
    carried, consts = _arguments(m, 2), _arguments(m, 1)
    types = [v.type for v in (counter, *carried, *consts)]
    trips = m.draw.integer(0, 3)
    condition = m.region(types, lambda r, v: [r.b.lt(v[0], r.b.constant(trips, I32))])

    def body(r: Maker, v: list[Value]) -> list[Value]:
        _body(r)
        return [r.b.add(v[0], r.b.constant(1, I32)), *_same_types(r, types[1 : 1 + len(carried)])]

    regions = [condition, m.region(types, body)]
    return m.emit(name, counter, *carried, *consts, regions=regions, n_carry=1 + len(carried))


@sampler("scan")
def _scan(m: Maker, name: str) -> Any:
    xs = [m.value(ranks=(1, 4))]
    if m.draw.chance(0.3):
        more = m.find(lambda v: v.rank > 0 and v.shape[0] == xs[0].shape[0])
        xs += [more] if more is not None else []
    carried, consts = _arguments(m, 2), _arguments(m, 1)
    types = [v.type for v in carried]
    inner = [*types, *(x.type.with_shape(x.shape[1:]) for x in xs), *(c.type for c in consts)]

    def body(r: Maker, v: list[Value]) -> list[Value]:
        _body(r)
        ys = [r.value(new=0.1) for _ in range(r.draw.integer(0 if carried else 1, 2))]
        return [*_same_types(r, types), *ys]

    region = m.region(inner, body)
    return m.emit(
        name, *carried, *xs, *consts, regions=[region], n_carry=len(carried), n_xs=len(xs), reverse=m.draw.chance(0.4)
    )


@sampler("fused")
def _fused(m: Maker, name: str) -> Any:
    args = [m.value(new=0.1) for _ in range(m.draw.integer(1, 3))]

    def body(r: Maker, v: list[Value]) -> list[Value]:
        _body(r)
        return [r.value(new=0.0) for _ in range(r.draw.integer(1, 2))]

    region: Graph = m.region([v.type for v in args], body)
    return m.emit(name, *args, regions=[region])


CONTROL_SAMPLERS += [SAMPLERS[n] for n in ("if", "while", "scan", "fused")]
