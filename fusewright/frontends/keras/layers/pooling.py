"""Pooling and global pooling.

Owns window sizes, padding and mask-weighted means. Must not know models.
"""

from __future__ import annotations

from typing import Any

from ....ir.graph import Value
from ..call import Call, layer
from .conv import spatial_pads


def _pool(rank: int, kind: str) -> None:
    names = [f"{kind}Pooling{rank}D", f"{'Avg' if kind == 'Average' else 'Max'}Pool{rank}D"]

    @layer(*names)
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        x = c.to_last(x)
        key = "pool_size" if "pool_size" in c.config else "pool_length"
        window = c.ints(key, rank, default=2)
        strides = c.ints("strides", rank, default=list(window))
        x = x if kind == "Max" else c.float(x)
        pool = c.b.max_pool if kind == "Max" else c.b.avg_pool
        if c.config.get("padding") == "theano-same":
            # The backend of Keras 1 pads both sides by this much and cuts what is more than ceil(n / stride).
            low = [k - 2 if k > 2 and k % 2 else k - 1 for k in window]
            y = pool(x, window=window, strides=strides, pads=tuple((p, p) for p in low))
            kept = tuple((n + s - 1) // s for n, s in zip(x.shape[1:-1], strides, strict=True))
            return c.from_last(c.b.slice(y, starts=(None,) * y.rank, stops=(None, *kept, None)))
        pads = spatial_pads(c, x, window, strides, [1] * rank)
        return c.from_last(pool(x, window=window, strides=strides, pads=pads))


def _global(rank: int, kind: str) -> None:
    names = [f"Global{kind}Pooling{rank}D", f"Global{'Avg' if kind == 'Average' else 'Max'}Pool{rank}D"]

    @layer(*names)
    def lower(c: Call, x: Value, **ignored: Any) -> Value:
        c.need_rank(x, rank + 2)
        first = c.channels_first
        axes = tuple(range(2, rank + 2)) if first else tuple(range(1, rank + 1))
        keep = c.flag("keepdims")
        if kind == "Max":
            return c.b.reduce_max(x, axes=axes, keepdims=keep)
        if rank == 1 and c.mask is not None:
            return _masked_mean(c, c.float(x), c.mask, axes[0], keep)
        return c.b.reduce_mean(c.float(x), axes=axes, keepdims=keep)


def _masked_mean(c: Call, x: Value, mask: Value, axis: int, keep: bool) -> Value:
    b = c.b
    weight = c.cast(mask, x.dtype)
    weight = b.reshape(weight, shape=(*weight.shape, 1) if axis == 1 else (weight.shape[0], 1, weight.shape[1]))
    total = b.reduce_sum(b.mul(x, weight), axes=(axis,), keepdims=keep)
    return b.div(total, b.reduce_sum(weight, axes=(axis,), keepdims=keep))


for _rank in (1, 2, 3):
    for _kind in ("Max", "Average"):
        _pool(_rank, _kind)
        _global(_rank, _kind)


def _adaptive(rank: int, kind: str) -> None:
    @layer(f"Adaptive{kind}Pooling{rank}D")
    def lower(c: Call, x: Value) -> Value:
        """Bin i of m covers [floor(i n / m), ceil((i + 1) n / m)); bins are cut axis by axis."""
        c.need_rank(x, rank + 2)
        x = c.to_last(x)
        sizes = c.ints("output_size", rank)
        for axis, m in enumerate(sizes, start=1):
            n = x.shape[axis]
            if not isinstance(n, int):
                raise c.refuse("spatial axes must be static", "give them with shapes=")
            parts = []
            for i in range(m):
                lo, hi = i * n // m, -(-(i + 1) * n // m)
                part = c.b.slice(
                    x, starts=tuple(lo if a == axis else None for a in range(x.rank)),
                    stops=tuple(hi if a == axis else None for a in range(x.rank)),
                )  # fmt: skip
                reduce = c.b.reduce_max if kind == "Max" else c.b.reduce_mean
                parts.append(reduce(part, axes=(axis,), keepdims=True))
            x = c.b.concat(*parts, axis=axis)
        return c.from_last(x)


for _rank in (1, 2, 3):
    for _kind in ("Max", "Average"):
        _adaptive(_rank, _kind)
