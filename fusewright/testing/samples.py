"""How each op of the table is sampled: operands and attributes that fit, on the edges as often as inside.

Owns one sampler per op (windows and control flow stand beside it), written from the op's documentation and not from its
``infer``: where the two disagree, one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..core.dims import Extent, product
from ..core.dtypes import BF16, BOOL, DTYPES, FLOATS, I32, I64, INTS, U8, DType
from ..core.errors import TypeRefused
from ..ir import OPS, TensorType, Value
from .graphs import SAMPLERS, Maker, elementwise, number

NUMBERS = (*FLOATS, *INTS)
Sampler = Callable[[Maker], Any]


def sampler(*names: str) -> Callable[[Callable[[Maker, str], Any]], Callable[[Maker, str], Any]]:
    """Enter a sampler for ops that are sampled alike."""

    def enter(fn: Callable[[Maker, str], Any]) -> Callable[[Maker, str], Any]:
        for name in names:
            SAMPLERS[name] = lambda m, _name=name: fn(m, _name)  # type: ignore[misc]
        return fn

    return enter


for _op in OPS.values():
    if _op.kind == "elementwise" and _op.name not in ("where", "cast"):
        SAMPLERS[_op.name] = elementwise(_op)


@sampler("where")
def _where(m: Maker, name: str) -> Any:
    x = m.value()
    return m.emit(name, m.like(x, BOOL), x, m.like(x))


@sampler("cast")
def _cast(m: Maker, name: str) -> Any:
    x = m.value(m.draw.pick((None, FLOATS, INTS)))
    inner = [v.dtype for v in x.producer.operands]
    return m.emit(name, x, to=m.draw.pick((*inner, *FLOATS) if m.draw.chance(0.4) else list(DTYPES.values())))


def _axes(m: Maker, rank: int, some: bool = False) -> tuple[int, ...]:
    """A subset of the axes, some of them counted from the end; of equal ones mostly one."""
    if m.cube and rank and m.draw.chance(0.6):
        return (m.draw.integer(-rank, rank - 1),)
    axes = [i - rank * m.draw.integer(0, 1) for i in range(rank) if m.draw.chance(0.5)]
    return tuple(axes or ([rank - 1] if some and rank else []))


def _axis(m: Maker, rank: int) -> int:
    return m.draw.integer(-rank, rank - 1)


def static_axis(v: Value, axis: int, least: int = 0) -> bool:
    """Axis ``axis`` of ``v`` is a number of at least ``least``."""
    d = v.shape[axis]
    return isinstance(d, int) and d >= least


def static(v: Value, least: int = 0) -> bool:
    """Every axis of ``v`` is a number of at least ``least``."""
    return all(static_axis(v, i, least) for i in range(v.rank))


# Shape and movement.
@sampler("reshape")
def _reshape(m: Maker, name: str) -> Any:
    x = m.value()
    how = m.draw.pick(("flat", "merge", "split", "one", "swap"))
    shape: list[Any] = list(x.shape)
    at = m.draw.integer(0, max(x.rank - 1, 0))
    if how == "flat" or x.rank == 0:
        shape = [-1] if how == "flat" and x.type.size != 0 else [product(x.shape)]
    elif how == "merge" and x.rank > 1:
        at = min(at, x.rank - 2)
        shape[at : at + 2] = [x.shape[at] * x.shape[at + 1]]
    elif how == "split":
        d = x.shape[at]
        part = next((p for p in (2, 3, 4, 5) if isinstance(d, int) and d and d % p == 0), 1)
        shape[at : at + 1] = [part, d // part]
    elif how == "one":
        shape.insert(at, 1)
    else:
        shape = shape[::-1]
    return m.emit(name, x, shape=tuple(shape))


@sampler("broadcast_to")
def _broadcast_to(m: Maker, name: str) -> Any:
    x = m.value(ranks=(0, 4))
    shape = [m.extent(static=False) if d == 1 and m.draw.chance(0.7) else d for d in x.shape]
    lead = [m.extent(static=False) for _ in range(m.draw.integer(0, min(2, 5 - x.rank)))]
    return m.emit(name, x, shape=(*lead, *shape))


def _permutation(m: Maker, rank: int) -> tuple[int, ...]:
    left, perm = list(range(rank)), []
    while left:
        perm.append(left.pop(m.draw.integer(0, len(left) - 1)))
    return tuple(perm)


@sampler("transpose")
def _transpose(m: Maker, name: str) -> Any:
    x = m.value()
    return m.emit(name, x, perm=_permutation(m, x.rank))


@sampler("slice")
def _slice(m: Maker, name: str) -> Any:
    x = m.value(ranks=(1, 5))
    starts: list[Any] = []
    stops: list[Any] = []
    steps = []
    alike = m.cube and m.draw.chance(0.7)
    for d in x.shape:
        if alike and isinstance(d, int) and d > 1:
            # As long along every axis, and not at the same place: what takes one axis for another keeps the type.
            starts.append(m.draw.integer(0, 1))
            stops.append(starts[-1] + d - 1)
            steps.append(1)
            continue
        steps.append(m.draw.pick((1, 1, 2, 3)))
        if not isinstance(d, int) or m.draw.chance(0.3):
            starts.append(m.draw.pick((0, None)))
            stops.append(None)
            continue
        # Mostly a large part: of a few elements, a second slice leaves none.
        a = m.draw.pick((0, min(1, d), m.draw.integer(0, d)))
        b = max(a, m.draw.pick((d, d - 1, d + 1, m.draw.integer(a, d + 1))))
        starts.append(a - d if a < d and m.draw.chance(0.3) else a)
        stops.append(b)
    return m.emit(name, x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


@sampler("reverse")
def _reverse(m: Maker, name: str) -> Any:
    x = m.value(ranks=(1, 5))
    return m.emit(name, x, axes=_axes(m, x.rank))


@sampler("pad")
def _pad(m: Maker, name: str) -> Any:
    mode = m.draw.pick(("constant", "constant", "constant", "constant", "reflect", "symmetric", "edge"))
    x = m.value(accept=lambda v: mode == "constant" or static(v, 1), make=lambda rank: m.shape(rank, True, 1))
    top = [2] * x.rank if mode in ("constant", "edge") else [d - (mode == "reflect") for d in x.shape]
    low, high = ([m.draw.integer(0, number(t) if number(t) < 3 else 3) for t in top] for _ in range(2))
    # Around the inner axes only, as in front of a window; or around some axes.
    inner = x.rank > 2 and m.draw.chance(0.6)
    for i in range(x.rank):
        if i in (0, x.rank - 1) if inner else m.draw.chance(0.3):
            low[i] = high[i] = 0
    if mode == "constant" and m.draw.chance(0.3):
        value = m.b.constant(0, x.dtype) if m.draw.chance(0.4) and x.dtype is not BF16 else m.value((x.dtype,), (0, 0))
        return m.emit(name, x, value, low=low, high=high)
    return m.emit(name, x, low=low, high=high, mode=mode)


@sampler("concat")
def _concat(m: Maker, name: str) -> Any:
    x = m.value(ranks=(1, 5))
    axis = m.draw.integer(0, x.rank - 1)
    parts = [x]
    more = 1
    while (known := m.given(more)) is not None and known.rank == x.rank:
        more += 1
        axis = next((i for i, (p, q) in enumerate(zip(x.shape, known.shape)) if p != q), axis)
        parts.append(m.value())
    for _ in range(m.draw.integer(0, 2) if more == 1 else 0):
        fits = lambda v: (
            v.dtype is x.dtype and v.rank == x.rank
            and all(i == axis or p == q for i, (p, q) in enumerate(zip(v.shape, x.shape)))
        )  # fmt: skip
        shape = list(x.shape)
        shape[axis] = m.extent(static=False)
        found = m.find(fits) if m.draw.chance(0.7) else None
        if found is None and m.fits(shape):
            found = m.new(x.dtype, shape)
        parts.append(found if found is not None else x)
    if more == 1 and m.draw.chance(0.3):
        parts.reverse()
    return m.emit(name, *parts, axis=axis - x.rank * m.draw.integer(0, 1))


# Sources, gathers, scatters, sorts.
@sampler("iota")
def _iota(m: Maker, name: str) -> Any:
    shape = m.shape(m.draw.integer(1, 3))
    # Counting past what the type holds exactly is not asked for: f16 and bf16 stop at small integers.
    return m.emit(name, shape=shape, axis=_axis(m, len(shape)), dtype=m.dtype(NUMBERS))


def _indices(m: Maker, ranks: tuple[int, int], make: Callable[[int], Sequence[Extent]] | None = None) -> Value:
    kinds = (I64, I32, U8)
    return m.value(kinds, ranks, make=make, new=0.6)


@sampler("gather")
def _gather(m: Maker, name: str) -> Any:
    x = m.value(ranks=(1, 4))
    axis = m.draw.integer(0, x.rank - 1)
    batch = m.draw.integer(0, axis) if m.draw.chance(0.3) else 0
    if batch:
        shape = (*x.shape[:batch], *m.shape(m.draw.integer(0, 2)))
        if not m.fits(shape):
            raise TypeRefused("over the cap of elements")
        return m.emit(name, x, m.new(I64, shape), axis=axis, batch_dims=batch)
    return m.emit(name, x, _indices(m, (0, 2)), axis=axis - x.rank * m.draw.integer(0, 1))


@sampler("gather_nd")
def _gather_nd(m: Maker, name: str) -> Any:
    x = m.value(ranks=(1, 4))
    batch = m.draw.integer(0, x.rank - 1) if m.draw.chance(0.3) else 0
    depth = m.draw.integer(0, x.rank - batch)
    shape = (*x.shape[:batch], *m.shape(m.draw.integer(0, 1)), depth)
    if not m.fits(shape):
        raise TypeRefused("over the cap of elements")
    return m.emit(name, x, m.new(m.draw.pick((I64, I32)), shape), batch_dims=batch)


@sampler("scatter_nd")
def _scatter_nd(m: Maker, name: str) -> Any:
    x = m.value(NUMBERS, ranks=(1, 4))
    depth = m.draw.integer(0, x.rank)
    lead = m.shape(m.draw.integer(0, 2), static=True)
    shape = (*lead, *x.shape[depth:])
    if not m.fits(shape):
        raise TypeRefused("over the cap of elements")
    indices = m.new(m.draw.pick((I64, I32)), (*lead, depth))
    reduction = m.draw.pick(("set", "add", "mul", "max", "min"))
    return m.emit(name, x, indices, m.of_type(TensorType(x.dtype, shape)), reduction=reduction)


def _starts(m: Maker, rank: int) -> list[Value]:
    return [m.value((I64, I32), (0, 0)) for _ in range(rank)]


@sampler("dynamic_slice")
def _dynamic_slice(m: Maker, name: str) -> Any:
    x = m.value(accept=static, make=lambda rank: m.shape(rank, True))
    sizes = tuple(m.draw.integer(0, number(d)) for d in x.shape)
    return m.emit(name, x, *_starts(m, x.rank), sizes=sizes)


@sampler("dynamic_update_slice")
def _dynamic_update(m: Maker, name: str) -> Any:
    x = m.value(accept=static, make=lambda rank: m.shape(rank, True))
    sizes = tuple(m.draw.integer(0, number(d)) for d in x.shape)
    return m.emit(name, x, m.of_type(TensorType(x.dtype, sizes)), *_starts(m, x.rank))


@sampler("cumsum", "cumprod")
def _cumulative(m: Maker, name: str) -> Any:
    x = m.value(NUMBERS, ranks=(1, 4))
    return m.emit(name, x, axis=_axis(m, x.rank), exclusive=m.draw.chance(0.5), reverse=m.draw.chance(0.5))


@sampler("sort")
def _sort(m: Maker, name: str) -> Any:
    x = m.value([d for d in (*NUMBERS, BOOL) if d is not BF16], ranks=(1, 4))
    return m.emit(name, x, axis=_axis(m, x.rank), descending=m.draw.chance(0.5))


@sampler("top_k")
def _top_k(m: Maker, name: str) -> Any:
    x = m.value([d for d in NUMBERS if d is not BF16], (1, 4), static, lambda rank: m.shape(rank, True))
    axis = _axis(m, x.rank)
    k = m.draw.integer(0, number(x.shape[axis]))
    return m.emit(name, x, k=k, axis=axis, largest=m.draw.chance(0.7))


# Reductions.
def _reduction(domain: Sequence[DType]) -> Callable[[Maker, str], Any]:
    def sample(m: Maker, name: str) -> Any:
        x = m.value(domain)
        axes = m.draw.pick((None, _axes(m, x.rank), _axes(m, x.rank, some=True)))
        axes = _axes(m, x.rank) if axes is None and m.cube else axes
        return m.emit(name, x, axes=axes, keepdims=m.draw.chance(0.5))

    return sample


sampler("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")(_reduction(NUMBERS))
sampler("reduce_mean")(_reduction(FLOATS))
sampler("reduce_any", "reduce_all")(_reduction((BOOL,)))


@sampler("argmax", "argmin")
def _arg(m: Maker, name: str) -> Any:
    x = m.value(ranks=(1, 4), accept=lambda v: static(v, 1), make=lambda rank: m.shape(rank, True, 1))
    return m.emit(name, x, axis=_axis(m, x.rank), keepdims=m.draw.chance(0.5))


# Contractions.
def _swapped(shape: Sequence[Extent], flag: bool) -> tuple[Extent, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if flag else tuple(shape)


@sampler("matmul")
def _matmul(m: Maker, name: str) -> Any:
    ta, tb = m.draw.chance(0.3), m.draw.chance(0.3)
    second = m.given(1)
    if second is not None and m.given(0) is None and second.rank > 1:
        rows = _swapped(second.shape, tb)[-2]
        fits = lambda v: _swapped(v.shape, ta)[-1] == rows
        a = m.value((second.dtype,), (2, 4), fits, lambda rank: _swapped((*m.shape(rank - 1), rows), ta), new=0.5)
        return m.emit(name, a, m.value(), transpose_a=ta, transpose_b=tb)
    a = m.value(NUMBERS, ranks=(2, 4))
    inner = _swapped(a.shape, ta)[-1]
    lead = m.draw.pick(((), a.shape[:-2], tuple(1 for _ in a.shape[:-2])))
    shape = _swapped((*lead, inner, m.extent()), tb)
    fits = lambda v: v.dtype is a.dtype and v.rank == 2 and _swapped(v.shape, tb)[0] == inner
    b = m.find(fits) if m.draw.chance(0.3) else None
    if b is None and not m.fits(shape):
        raise TypeRefused("over the cap of elements")
    return m.emit(
        name, a, b if b is not None else m.weights(TensorType(a.dtype, shape)), transpose_a=ta, transpose_b=tb
    )


@sampler("einsum")
def _einsum(m: Maker, name: str) -> Any:
    a = m.value(NUMBERS, ranks=(1, 4))
    letters = "abcd"[: a.rank]
    sizes = dict(zip(letters, a.shape))
    if m.draw.chance(0.25):
        out = "".join(letters[i] for i in _permutation(m, a.rank))[: m.draw.integer(0, a.rank)]
        return m.emit(name, a, equation=f"{letters}->{out}")
    sizes |= {"x": m.extent(), "y": m.extent()}
    pool = [*letters, "x", "y"]
    second = "".join(pool[i] for i in _permutation(m, len(pool)))[: m.draw.integer(1, 3)]
    union = [c for c in pool if c in letters or c in second]
    out = "".join(union[i] for i in _permutation(m, len(union)))[: m.draw.integer(0, min(4, len(union)))]
    shape = [sizes[c] for c in second]
    if not m.fits(shape) or m.size([sizes[c] for c in union]) > 1 << 16:
        raise TypeRefused("over the cap of elements")
    return m.emit(name, a, m.of_type(TensorType(a.dtype, shape)), equation=f"{letters},{second}->{out}")


def divisor(m: Maker, channels: int) -> int:
    """A number of groups that the channels split into."""
    return m.draw.pick([g for g in (1, 1, 2, 3, channels) if channels % g == 0])


# Composites.
@sampler("softmax", "log_softmax")
def _softmax(m: Maker, name: str) -> Any:
    x = m.value(FLOATS, ranks=(1, 4))
    return m.emit(name, x, axes=m.draw.pick((-1, _axis(m, x.rank), _axes(m, x.rank, some=True))))


def _epsilon(m: Maker) -> float:
    return m.draw.pick((1e-3, 1e-5, 1.0))


@sampler("batch_norm")
def _batch_norm(m: Maker, name: str) -> Any:
    x = m.value(FLOATS, ranks=(1, 4))
    axis = _axis(m, x.rank)
    count, gamma = m.draw.integer(2, 4), m.draw.chance(0.6)
    vectors = [m.weights(TensorType(x.dtype, (x.shape[axis],))) for _ in range(count + (gamma and count == 2))]
    return m.emit(name, x, *vectors, axis=axis, epsilon=_epsilon(m), has_gamma=gamma or len(vectors) == 4)


@sampler("layer_norm", "rms_norm")
def _layer_norm(m: Maker, name: str) -> Any:
    x = m.value(FLOATS, ranks=(1, 4))
    axes = _axes(m, x.rank, some=True)
    shape = tuple(d if i in axes or i - x.rank in axes else 1 for i, d in enumerate(x.shape))
    rest = [m.of_type(TensorType(x.dtype, shape)) for _ in range(m.draw.integer(0, 2))]
    return m.emit(name, x, *rest, axes=axes, epsilon=_epsilon(m), has_gamma=m.draw.chance(0.5) or len(rest) == 2)


@sampler("group_norm")
def _group_norm(m: Maker, name: str) -> Any:
    x = m.value(FLOATS, (2, 4), lambda v: static_axis(v, -1, 1), lambda rank: (*m.shape(rank - 1), 4))
    channels = number(x.shape[-1])
    rest = [m.of_type(TensorType(x.dtype, (channels,))) for _ in range(m.draw.integer(0, 2))]
    return m.emit(
        name, x, *rest, groups=divisor(m, channels), axis=-1, epsilon=_epsilon(m),
        has_gamma=m.draw.chance(0.5) or len(rest) == 2,
    )  # fmt: skip


@sampler("attention")
def _attention(m: Maker, name: str) -> Any:
    q = m.value(FLOATS, (3, 4), lambda v: static_axis(v, -1, 1), lambda rank: (*m.shape(rank - 1), 4))
    keys = m.extent(least=1)
    shapes = [(*q.shape[:-2], keys, q.shape[-1]), (*q.shape[:-2], keys, m.draw.pick((2, 1, 5)))]
    mask_shape = (q.shape[-2], keys)
    if not all(m.fits(s) for s in (*shapes, (*q.shape[:-1], keys))):
        raise TypeRefused("over the cap of elements")
    k, v = (m.of_type(TensorType(q.dtype, s)) for s in shapes)
    mask = [m.of_type(TensorType(m.draw.pick((BOOL, q.dtype)), mask_shape))] if m.draw.chance(0.4) else []
    scale = m.draw.pick((None, 0.5, 1.0))
    masked = -1e4 if q.dtype.name == "f16" else -1e9
    return m.emit(name, q, k, v, *mask, scale=scale, causal=m.draw.chance(0.3), masked=masked)


__all__ = ["NUMBERS", "divisor", "sampler", "static", "static_axis"]
