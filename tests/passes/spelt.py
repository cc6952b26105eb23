"""Samplers of forms that a bare pattern does not reach: operands that must fit, and near misses of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fusewright.core.dtypes import BOOL, F16, F32, F64
from fusewright.testing.graphs import Maker

Sampler = Callable[[Maker], Any]


def _e(m: Maker, op: str, *operands: Any, **attrs: Any) -> Any:
    return m.emit(op, *operands, **attrs)[0]


def _x(m: Maker, shape: tuple[Any, ...]) -> Any:
    return m.new(m.draw.pick((F32, F32, F32, F16, F64)), shape, constant=False)


def _weights(m: Maker, like: Any, shape: tuple[int, ...], odd: float = 0.15) -> Any:
    """A constant, at times with an infinity in it, or an input."""
    if m.draw.chance(odd):
        return m.new(like.dtype, shape, constant=False)
    values = np.random.default_rng(m.draw.integer(0, 1 << 16)).normal(1, 1, shape)
    if values.size and m.draw.chance(odd):
        values.flat[0] = m.draw.pick((np.inf, 0.0, np.nan))
    return m.b.constant(values, like.dtype)


def _epsilon(m: Maker) -> float:
    return m.draw.pick((1e-3, 1e-5, 1.0, 1e-3, -0.5, 0.0))


def _moments(m: Maker, x: Any, axes: Any, keepdims: bool = True) -> tuple[Any, Any]:
    mean = _e(m, "reduce_mean", x, axes=axes, keepdims=keepdims)
    about = mean if m.draw.chance(0.9) else _e(m, "reduce_max", x, axes=axes, keepdims=keepdims)
    other = axes if m.draw.chance(0.9) else axes[:1]
    return mean, _e(m, "reduce_mean", _e(m, "square", _e(m, "sub", x, about)), axes=other, keepdims=keepdims)


def _folded(m: Maker, x: Any, mean: Any, inv: Any, beta: Any, other: Any = None) -> Any:
    y = _e(m, "mul", x, inv)
    inv = other if other is not None and m.draw.chance(0.1) else inv
    if beta is None:
        return _e(m, "sub", y, _e(m, "mul", mean, inv))
    if m.draw.chance(0.5):
        return _e(m, "add", y, _e(m, "sub", beta, _e(m, "mul", mean, inv)))
    return _e(m, "add", y, _e(m, "add", _e(m, "mul", _e(m, "neg", mean), inv), beta))


def layer_norm(m: Maker) -> Any:
    """The folded form, over one or two axes, with and without gamma and beta."""
    shape = m.draw.pick(((2, 3), ("N", 3), (2, 3, 4), (2, 1, 4), (3, 2, 2, 2)))
    x, rank = _x(m, shape), len(shape)
    axes = m.draw.pick(((rank - 1,), (rank - 1,), (rank - 2, rank - 1), (0,)))
    mean, var = _moments(m, x, axes)
    inv = plain = _e(m, "rsqrt", _e(m, "add", var, _epsilon(m)))
    if m.draw.chance(0.7):
        inv = _e(m, "mul", inv, _weights(m, x, m.draw.pick(((shape[-1],), (1,), (shape[-1],)))))
    return _folded(m, x, mean, inv, _weights(m, x, (shape[-1],)) if m.draw.chance(0.6) else None, plain)


def affine_norm(m: Maker) -> Any:
    """A norm, then scale and shift: along all, some or none of the normalised axes."""
    shape = m.draw.pick(((2, 3), ("N", 3), (2, 3, 4), (4, 1), (2, 2, 2)))
    x, rank = _x(m, shape), len(shape)
    axes = m.draw.pick(((rank - 1,), (rank - 1,), (rank - 2, rank - 1)))
    y = _e(m, m.draw.pick(("layer_norm", "rms_norm")), x, axes=axes, epsilon=1e-3, has_gamma=m.draw.chance(0.5))
    for op in ("mul", "add"):
        wide = [1 if d == "N" else d for d in shape]
        vector = m.draw.pick(((shape[-1],), (1,), (), (*wide[:-1], 1), (3, *wide), tuple(wide[-2:])))
        y = _e(m, op, y, _weights(m, x, vector)) if m.draw.chance(0.8) else y
    return y


def channels(m: Maker) -> Any:
    """A batch norm of inputs, constants or both, along one axis."""
    shape = m.draw.pick(((2, 3), ("N", 2, 3), (2, 2, 3), (3, 3, 3)))
    x, last = _x(m, shape), m.draw.chance(0.7)
    vector = (shape[-1],) if last else (shape[-2], 1)
    vectors = (vector, vector, vector, (1,), (shape[-2], 1))
    mean, var = (m.new(x.dtype, m.draw.pick(vectors), constant=False) for _ in range(2))
    inv = _e(m, "rsqrt", _e(m, "add", var, _epsilon(m)))
    if m.draw.chance(0.6):
        inv = _e(m, "mul", inv, _weights(m, x, vector, 0.5))
    return _folded(m, x, mean, inv, _weights(m, x, vector, 0.5) if m.draw.chance(0.6) else None)


def trained(m: Maker) -> Any:
    """A batch norm in training between the transposes and reshapes of tf.keras's layer norm."""
    n = m.draw.pick((2, 3))
    x = _x(m, m.draw.pick(((n, 2, 4), ("N", 4), (n, 4, 1))))
    rows, length = m.draw.pick(((x.shape[:-1], x.shape[-1:]), (x.shape[:1], x.shape[1:])))
    extent = _size(rows)
    y = _e(m, "reshape", x, shape=(1, extent, _size(length), 1))
    p, q = ((0, 2, 3, 1), (0, 3, 1, 2)) if m.draw.chance(0.8) else ((0, 3, 2, 1), (0, 3, 2, 1))
    y = _e(m, "transpose", y, perm=p)
    mean, var = _moments(m, y, m.draw.pick(((0, 1, 2), (0, 1, 2), (0, 1, 2), (1, 2))), keepdims=False)
    ones, zeros = (m.b.full((extent,), v, x.dtype) for v in (m.draw.pick((1.0, 1.0, 2.0)), m.draw.pick((0.0, 0.5))))
    y = _e(m, "batch_norm", y, mean, var, ones, zeros, axis=m.draw.pick((3, 3, 3, 1)), epsilon=1e-3)
    return _e(m, "reshape", _e(m, "transpose", y, perm=q), shape=x.shape)


def square(m: Maker) -> Any:
    """Statistics of a square tensor: they fit either axis."""
    x = _x(m, (3, 3))
    mean, var = _moments(m, x, m.draw.pick(((0,), (1,))), keepdims=False)
    vectors = [_weights(m, x, (3,)) for _ in range(2)]
    return _e(m, "batch_norm", x, mean, var, *vectors, axis=m.draw.pick((-1, -1, 0)), epsilon=1e-3)


def rows(m: Maker) -> Any:
    """A softmax or norm between reshapes: of the last axes, or of others that are as long."""
    shape = m.draw.pick(((2, 3, 4), (4, 6), (2, 2, 3), ("N", 6)))
    x = _x(m, shape)
    n, last = shape[0], _size(shape[1:])
    inner = m.draw.pick(((n, last), (1, n, last), (n, last, 1), (_size(shape[:-1]), shape[-1]), (n, shape[-1], -1)))
    y = _e(m, "reshape", x, shape=inner)
    axes = m.draw.pick((-1, 1, (1, 2) if y.rank > 2 else 1))
    y = _e(m, m.draw.pick(("softmax", "log_softmax", "rms_norm")), y, axes=axes)
    return _e(m, "reshape", y, shape=shape if m.draw.chance(0.8) else (n, last))


def _size(shape: Any) -> Any:
    total: Any = 1
    for d in shape:
        total = d * total
    return total


def _scores(m: Maker, scores: Any) -> Any:
    """Scale, mask and softmax, mostly as an attention has them."""
    shape = scores.shape
    if m.draw.chance(0.6):
        factor = m.draw.pick((0.5, 0.125, 3.0, 0.0)) if m.draw.chance(0.8) else _weights(m, scores, (shape[-1],))
        scores = _e(m, m.draw.pick(("mul", "div")), scores, factor)
    kind = m.draw.pick(("none", "bool", "hidden", "float", "float"))
    mask_shape = m.draw.pick((shape, shape[-2:], (*shape[:-2], 1, shape[-1]), (2, *shape)))
    low = m.draw.pick((-1e4, -np.inf, -1e4)) if m.draw.chance(0.8) else _weights(m, scores, (shape[-1],))
    if kind == "float":
        scores = _e(m, "add", scores, m.new(scores.dtype, mask_shape, constant=False))
    elif kind != "none":
        mask = m.new(BOOL, mask_shape, constant=False)
        scores = _e(m, "where", mask, *((scores, low) if kind == "bool" else (low, scores)))
    axes = -1 if m.draw.chance(0.85) else m.draw.pick((-2, (-2, -1)))
    return _e(m, "softmax", scores, axes=axes)


def attention(m: Maker) -> Any:
    """Matrix products; the keys as they are, turned, or stored transposed."""
    lead: Any = m.draw.pick(((2,), ("N",), (2, 3), ("N", 1)))
    t, s, d, w = (m.draw.pick((2, 3, 1, 4)) for _ in range(4))
    q = _x(m, (*lead, t, d))
    turned = m.draw.chance(0.5)
    if turned:
        k = m.new(q.dtype, (*lead, s, d), constant=False)
    elif m.draw.chance(0.8):
        perm = (*range(len(lead)), len(lead) + 1, len(lead))
        k = _e(m, "transpose", m.new(q.dtype, (*lead, s, d), constant=False), perm=perm)
    else:
        k = m.new(q.dtype, (*lead, d, s), constant=False)
    weights = _scores(m, _e(m, "matmul", q, k, transpose_b=turned))
    return _e(m, "matmul", weights, m.new(q.dtype, (*weights.shape[:-2], s, w), constant=False))


# The first of them are attentions; the others only look like it.
EQUATIONS = (
    ("BTNH,BSNH->BNTS", "BNTS,BSNV->BTNV"), ("aecd,abcd->acbe", "acbe,aecf->abcf"), ("btd,bsd->bts", "bts,bsv->btv"),
    ("btd,bds->bts", "bts,bsv->bvt"), ("bntd,bnsd->bnts", "bnts,bsv->bntv"), ("btd,bsd->bst", "bst,bsv->btv"),
    ("btdc,bsdc->bts", "bts,bsv->btv"), ("btd,bsd->bts", "bts,bsd->btd"),
)  # fmt: skip


def einsums(m: Maker) -> Any:
    """Einsums whose subscripts are those of an attention, or nearly."""
    first, second = m.draw.pick(EQUATIONS[:4] if m.draw.chance(0.7) else EQUATIONS[4:])
    sizes = {c: m.draw.pick((2, 3, 1)) for c in sorted(set(first + second)) if c.isalpha()}
    (a, b), scores = first.split("->")[0].split(","), first.split("->")[1]
    # The second equation names the axes of the scores as the first does, or in letters of its own.
    own = dict(zip(second.split(",")[0], scores))
    sizes |= {c: sizes[own[c]] for c in own}
    q = _x(m, tuple(sizes[c] for c in a))
    k = m.new(q.dtype, tuple(sizes[c] for c in b), constant=False)
    weights = _scores(m, _e(m, "einsum", q, k, equation=first))
    values = second.split("->")[0].split(",")[1]
    v = m.new(q.dtype, tuple(sizes[c] for c in values), constant=False)
    return _e(m, "einsum", weights, v, equation=second)


def dilated(m: Maker) -> Any:
    """Padding, space-to-batch, a convolution, batch-to-space, a crop: one or two axes, perhaps one of extent 1 more."""
    two, n = m.draw.chance(0.5), m.draw.pick(("N", 2))
    block = (2, m.draw.pick((1, 2, 3))) if two else (m.draw.pick((2, 3)),)
    counts = tuple(m.draw.pick((3, 2, 4)) for _ in block)
    low, high = (tuple(m.draw.pick((0, 1, 2)) for _ in block) for _ in range(2))
    size = tuple(c * b for c, b in zip(counts, block))
    if any(s - a - b < 1 for s, a, b in zip(size, low, high)):
        low, high = ((0,) * len(block),) * 2
    x = m.new(F32, (n, *(s - a - b for s, a, b in zip(size, low, high)), 2), constant=False)
    y = _e(m, "pad", x, low=(0, *low, 0), high=(0, *high, 0)) if any((*low, *high)) else x
    k = len(block)
    y = _e(m, "reshape", y, shape=(y.shape[0], *(d for c, b in zip(counts, block) for d in (c, b)), 2))
    perm = (*(2 + 2 * i for i in range(k)), 0, *(1 + 2 * i for i in range(k)), 1 + 2 * k)
    y = _e(m, "transpose", y, perm=perm if m.draw.chance(0.9) or not two else (4, 2, 0, 1, 3, 5))
    unit = m.draw.chance(0.4)
    joined = y.shape[k] * int(np.prod(block))
    y = _e(m, "reshape", y, shape=(joined, *([1] if unit else []), *counts, 2))
    window = tuple(m.draw.pick((1, 2)) for _ in block)
    w = _weights(m, y, (*([1] if unit else []), *window, 2, m.draw.pick((2, 3))))
    pads = tuple((m.draw.pick((0, 0, 1)), 0) for _ in block)
    stride = m.draw.pick((1, 1, 1, 1, 2))
    y = _e(m, "conv", y, w, strides=stride, pads=(*([(0, 0)] if unit else []), *pads))
    kept = y.shape[-1 - k : -1]
    y = _e(m, "reshape", y, shape=(*block, x.shape[0], *kept, y.shape[-1]))
    perm = (k, *(a for i in range(k) for a in (k + 1 + i, i)), 2 * k + 1)
    y = _e(m, "transpose", y, perm=perm if m.draw.chance(0.9) or not two else (2, 3, 1, 4, 0, 5))
    full = tuple(d * b for d, b in zip(kept, block))
    if m.draw.chance(0.15):
        return _e(m, "reshape", y, shape=(x.shape[0], _size(full), y.shape[-1]))
    y = _e(m, "reshape", y, shape=(x.shape[0], *full, y.shape[-1]))
    return _crop(m, y) if m.draw.chance(0.6) else y


def _crop(m: Maker, y: Any) -> Any:
    first = tuple(m.draw.pick((0, 0, 1)) for _ in y.shape[1:-1])
    last = tuple(d - m.draw.pick((0, 1, 2)) for d in y.shape[1:-1])
    if any(b - a < 1 for a, b in zip(first, last)):
        return y
    lead = m.draw.pick((0, 0, 0, 1)) if isinstance(y.shape[0], int) else 0
    steps = m.draw.pick(((1,) * y.rank, (1,) * y.rank, (1, *(2 for _ in first), 1)))
    return _e(m, "slice", y, starts=(lead, *first, 0), stops=(y.shape[0], *last, y.shape[-1]), steps=steps)


def cropped(m: Maker) -> Any:
    """A padded convolution and a crop."""
    x = m.new(F32, (m.draw.pick(("N", 2)), 5, 4, 2), constant=False)
    w = _weights(m, x, (2, 3, 2, 2))
    pads = tuple((m.draw.pick((1, 0, 2)), m.draw.pick((1, 0, 2))) for _ in range(2))
    dilations = m.draw.pick((1, 1, 2)) if pads[1] != (0, 0) else 1
    return _crop(m, _e(m, "conv", x, w, pads=pads, strides=m.draw.pick((1, 1, 1, 2)), dilations=dilations))


def groups(m: Maker) -> Any:
    """Channels in groups, last or behind the batch, with members of their own axis or joined with what follows."""
    last, flat = m.draw.chance(0.5), m.draw.chance(0.5)
    n, g, k, hw = m.draw.pick((2, "N")), m.draw.pick((2, 3, 1)), m.draw.pick((2, 1, 3)), (2, 3)
    axis = 3 if last and not flat else 1
    shape = (n, *hw, g * k) if axis == 3 else (n, g * k, *hw)
    x = _x(m, shape)
    inner = (n, g, k * 6) if flat else (*shape[:axis], g, k, *shape[axis + 1 :])
    if m.draw.chance(0.1):
        inner = (n, k, g * 6) if flat else (*shape[:axis], k, g, *shape[axis + 1 :])
    y = _e(m, "reshape", x, shape=inner)
    axes = tuple(i for i in range(1, len(inner)) if i != axis)
    attrs = {"axes": axes if m.draw.chance(0.9) else axes[:1], "epsilon": 1e-3}
    if flat and m.draw.chance(0.7):
        own = [m.b.full((g, 1), m.draw.pick(v), x.dtype) for v in ((1.0, 1.0, 0.5), (0.0, 0.0, 0.0, 0.5))]
        y = _e(m, "layer_norm", y, *own, **attrs)
    else:
        y = _e(m, "layer_norm", y, **attrs)
    for op in ("mul", "add"):
        if m.draw.chance(0.6):
            each = (g, 1) if flat else tuple(inner[axis : axis + 2]) + (1,) * (len(inner) - axis - 2)
            y = _e(m, op, y, _weights(m, x, each if m.draw.chance(0.85) else (inner[-1],)))
    y = _e(m, "reshape", y, shape=shape if m.draw.chance(0.9) else (n, *reversed(shape[1:])))
    return _per_channel(m, y, g * k, axis)


def _per_channel(m: Maker, y: Any, channels: int, axis: int) -> Any:
    for op in ("mul", "add"):
        if m.draw.chance(0.5):
            vector = (channels,) + (1,) * (y.rank - axis - 1) if m.draw.chance(0.8) else (int(str(y.shape[-1])),)
            y = _e(m, op, y, _weights(m, y, vector))
    return y


def grouped(m: Maker) -> Any:
    """A group norm, then scale and shift per channel or along something else."""
    axis = m.draw.pick((1, 3, -1))
    x = _x(m, (m.draw.pick((2, "N")), 4, 4, 4))
    y = _e(m, "group_norm", x, groups=m.draw.pick((2, 1, 4)), axis=axis, epsilon=1e-3, has_gamma=m.draw.chance(0.5))
    for op in ("mul", "add"):
        vectors = ((4, 1, 1) if axis == 1 else (4,), (1,), (4,), (4, 1), (3, 1, 4, 4, 4))
        if m.draw.chance(0.8):
            y = _e(m, op, y, _weights(m, x, m.draw.pick((vectors[0], *vectors))))
    return y


def _index(m: Maker, t: int, s: int) -> tuple[Any, Any]:
    """Numbers of rows and columns, as a matrix, or as vectors that stand and lie."""
    dtype = m.draw.pick(("i32", "i64"))
    if m.draw.chance(0.5):
        return _e(m, "iota", shape=(t, s), axis=0, dtype=dtype), _e(m, "iota", shape=(t, s), axis=1, dtype=dtype)
    rows = _e(m, "reshape", _e(m, "iota", shape=(t,), axis=0, dtype=dtype), shape=(t, 1))
    columns = _e(m, "iota", shape=(s,), axis=0, dtype=dtype)
    return rows, _e(m, "reshape", columns, shape=(1, s)) if m.draw.chance(0.5) else columns


def _lower(m: Maker, t: int, s: int) -> Any:
    """A mask that keeps the lower triangle in one of many spellings, or one nearly like it."""
    i, j = _index(m, t, s)
    shift = m.draw.pick((0, 0, 0, 1, -1))
    how = m.draw.integer(0, 6)
    if how == 0:
        return _e(m, "ge", _e(m, "add", i, m.b.constant(shift, i.dtype)), j)
    if how == 1:
        return _e(m, "le", _e(m, "sub", j, i), m.b.constant(shift, i.dtype))
    if how == 2:
        return _e(m, "logical_not", _e(m, "lt", i, j) if shift == 0 else _e(m, "le", i, j))
    if how == 3:
        keep = _e(m, "lt", j, _e(m, "add", i, m.b.constant(1 + shift, i.dtype)))
        return _e(m, "where", keep, m.b.constant(m.draw.pick((True, True, True, False))), m.b.constant(False))
    if how == 4:
        return _e(m, "le", i, j) if m.draw.chance(0.5) else _e(m, "logical_not", _e(m, "ge", i, j))
    size = max(t, s) + 2
    whole = m.b.constant(np.tri(size, size, shift) > 0)
    start = m.draw.pick((0, 0, 0, 1))
    return _e(m, "slice", whole, starts=(start, 0), stops=(start + t, s))


def causal(m: Maker) -> Any:
    """An attention that masks the future, and perhaps more."""
    n, heads = m.draw.pick((2, "N")), 2
    t = m.draw.pick((2, 3, 4, 1))
    s = t if m.draw.chance(0.7) else m.draw.pick((2, 5))
    q = m.new(F32, (n, heads, t, 2), constant=False)
    k, v = (m.new(F32, (n, heads, s, 2), constant=False) for _ in range(2))
    mask = _lower(m, t, s)
    if m.draw.chance(0.3):
        mask = _e(m, "reshape", mask, shape=(1, 1, *mask.shape))
    if m.draw.chance(0.3):
        mask = _e(m, "logical_and", m.new(BOOL, (n, 1, 1, s), constant=False), mask)
    if m.draw.chance(0.2):
        mask = _e(m, "broadcast_to", mask, shape=(n, heads, t, s))
    return _e(m, "attention", q, k, v, mask, scale=0.5, masked=m.draw.pick((-1e9, float("-inf"), -1e9)))


SAMPLERS: dict[str, tuple[Sampler, ...]] = {
    "rows between reshapes": (rows,),
    "layer_norm, folded": (layer_norm,), "scale into norm": (affine_norm,), "shift into norm": (affine_norm,),
    "shift into scaled norm": (affine_norm,), "batch_norm": (channels,),
    "batch_norm of own statistics": (trained, square),
    "attention": (attention,), "attention, divided": (attention,), "attention of einsums": (einsums,),
    "group_norm": (groups,), "scale into group_norm": (grouped,), "shift into group_norm": (grouped,),
    "shift into scaled group_norm": (grouped,), "causal attention": (causal,),
    "attention of einsums, divided": (einsums,), "dilated convolution": (dilated,), "crop of convolution": (cropped,),
}  # fmt: skip
ALL: tuple[Sampler, ...] = (
    layer_norm, affine_norm, channels, trained, rows, groups, grouped, attention, einsums, causal, dilated, cropped,
)  # fmt: skip
