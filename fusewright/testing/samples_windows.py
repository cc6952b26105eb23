"""How windows are sampled: convolutions, pools, resizes, and their forms in blocked layouts.

Owns strides, padding and groups on the edges as often as inside. Must not know other ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.dims import Extent
from ..core.dtypes import BOOL, F32, F64, FLOATS, I64, DType
from ..ir import TensorType, Value
from ..ir.ops.winograd import applies
from .graphs import PREFERS, Maker, number
from .samples import NUMBERS, divisor, sampler, static_axis


# Windows.
def _image(m: Maker, domain: Sequence[DType] = NUMBERS, blocked: bool = False) -> Value:
    ranks = (4, 5) if blocked else (3, 5)
    fits = lambda v: all(static_axis(v, i, 1) for i in range(1, v.rank)) and m.size(v.shape[1:]) < 1024
    return m.value(domain, ranks, fits, lambda rank: _image_shape(m, rank, blocked), new=0.4)


def _image_shape(m: Maker, rank: int, blocked: bool = False) -> tuple[Extent, ...]:
    # A batch may be symbolic; windows slide over fixed axes.
    lead = (m.extent(static=False, least=0), m.draw.pick((1, 2))) if blocked else (m.extent(static=False, least=0),)
    space = [m.draw.pick((5, 4, 3, 7, 1, 2)) for _ in range(rank - len(lead) - 1)]
    shape = (*lead, *space, m.draw.pick((16, 4) if blocked else (2, 1, 3, 4, 8)))
    return shape if m.fits(shape) else (1, *shape[1:])


for _name in ("conv", "conv_transpose", "max_pool", "avg_pool", "resize"):
    PREFERS[_name] = lambda m: _image_shape(m, m.draw.pick((3, 4, 5)))
PREFERS["matmul"] = lambda m: m.shape(m.draw.pick((2, 2, 3)))


def _window(m: Maker, x: Value, first: int, space: int) -> dict[str, Any]:
    """window, strides, pads, dilations that fit the spatial axes."""
    window, pads, dilations = [], [], []
    for d in x.shape[first : first + space]:
        size = number(d)
        low, high = (m.draw.integer(0, 2), m.draw.integer(0, 2)) if m.draw.chance(0.6) else (0, 0)
        k = m.draw.integer(1, min(size + low + high, 3))
        dilation = m.draw.pick((1, 1, 2)) if (k - 1) * 2 + 1 <= size + low + high else 1
        window.append(k)
        pads.append((low, high))
        dilations.append(dilation)
    strides = tuple(m.draw.pick((1, 1, 2, 3)) for _ in range(space))
    return {"window": tuple(window), "strides": strides, "pads": tuple(pads), "dilations": tuple(dilations)}


@sampler("conv")
def _conv(m: Maker, name: str) -> Any:
    x = _image(m)
    attrs = _window(m, x, 1, x.rank - 2)
    channels = number(x.shape[-1])
    groups = divisor(m, channels)
    shape = (*attrs.pop("window"), channels // groups, groups * m.draw.pick((1, 2, 3)))
    return m.emit(name, x, m.weights(TensorType(x.dtype, shape)), groups=groups, **attrs)


@sampler("conv_transpose")
def _conv_transpose(m: Maker, name: str) -> Any:
    x = _image(m)
    channels = number(x.shape[-1])
    attrs = _spread(m, [number(n) for n in x.shape[1:-1]])
    groups = divisor(m, channels)
    shape = (*attrs.pop("kernel"), m.draw.pick((1, 2, 3)), channels)
    return m.emit(name, x, m.weights(TensorType(x.dtype, shape)), groups=groups, **attrs)


def _spread(m: Maker, space: Sequence[int]) -> dict[str, Any]:
    """kernel, strides, crops and the rest of a transposed convolution of ``space``."""
    kernel = tuple(m.draw.integer(1, 3) for _ in space)
    strides = tuple(m.draw.pick((1, 2, 3)) for _ in space)
    dilations = tuple(m.draw.pick((1, 1, 2)) for _ in space)
    full = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(space, kernel, strides, dilations, strict=True)]
    pads = tuple((m.draw.integer(0, min(1, f // 2)), m.draw.integer(0, min(1, f // 2))) for f in full)
    padding = tuple(m.draw.integer(0, s - 1) for s in strides)
    return {
        "kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations, "output_padding": padding,
    }  # fmt: skip


@sampler("max_pool", "avg_pool")
def _pool(m: Maker, name: str) -> Any:
    x = _image(m, FLOATS if name == "avg_pool" else (*NUMBERS, BOOL))
    extra: dict[str, Any] = {"count_include_pad": m.draw.chance(0.5)} if name == "avg_pool" else {}
    return m.emit(name, x, **_window(m, x, 1, x.rank - 2), **extra)


@sampler("resize")
def _resize(m: Maker, name: str) -> Any:
    method = m.draw.pick(("nearest", "linear", "cubic", "lanczos3", "lanczos5"))
    x = _image(m, (*NUMBERS, BOOL) if method == "nearest" else FLOATS)
    return m.emit(
        name, x, sizes=tuple(m.draw.pick((4, 1, 2, 7, 10)) for _ in range(x.rank - 2)), method=method,
        coordinates=m.draw.pick(("half_pixel", "asymmetric", "align_corners")),
        rounding=m.draw.pick(("floor", "round_half_down", "round_half_up", "ceil")),
        antialias=m.draw.chance(0.3), cubic=m.draw.pick((-0.5, -0.75)), edge=m.draw.pick(("clamp", "drop")),
    )  # fmt: skip


@sampler("resample")
def _resample(m: Maker, name: str) -> Any:
    count, after = m.draw.pick((2, 1)), m.draw.integer(0, 1)
    axes = lambda rank: range(max(rank - count - after, 0), max(rank - count - after, 0) + count)
    x = m.value(
        (F32, F64), (count, 5), lambda v: all(static_axis(v, i, 1) for i in axes(v.rank)),
        lambda rank: tuple(m.draw.pick((5, 1, 2, 11, 16)) for _ in range(rank)),
    )  # fmt: skip
    tables: list[Value] = []
    for axis in axes(x.rank):
        n, taps = m.draw.pick((4, 1, 7)), m.draw.integer(1, min(number(x.shape[axis]), 10))
        # Most places are outside: they are clamped.
        tables += [m.new(I64, (n,)), m.weights(TensorType(x.dtype, (n, taps)))]
    return m.emit(name, x, *tables, axes=tuple(axes(x.rank)))


# Blocked layouts.
@sampler("to_blocked")
def _to_blocked(m: Maker, name: str) -> Any:
    x = m.value(ranks=(2, 4), accept=lambda v: static_axis(v, -1), make=lambda rank: (*m.shape(rank - 1), 5))
    return m.emit(name, x, block=m.draw.pick((16, 4)))


@sampler("from_blocked")
def _from_blocked(m: Maker, name: str) -> Any:
    x = m.value(
        ranks=(3, 5), accept=lambda v: static_axis(v, 1, 1) and static_axis(v, -1, 1),
        make=lambda rank: (2, 2, *[2] * (rank - 3), 4),
    )  # fmt: skip
    blocks, block = number(x.shape[1]), number(x.shape[-1])
    return m.emit(name, x, channels=m.draw.integer((blocks - 1) * block + 1, blocks * block))


@sampler("conv_blocked")
def _conv_blocked(m: Maker, name: str) -> Any:
    blocked = m.draw.chance(0.7)
    x = _image(m, NUMBERS, blocked)
    first = 2 if blocked else 1
    block = number(x.shape[-1]) if blocked else m.draw.pick((16, 4))
    attrs = _window(m, x, first, x.rank - first - 1)
    channels = number(x.shape[1]) * block - m.draw.integer(0, block - 1) if blocked else number(x.shape[-1])
    groups = divisor(m, channels)
    shape = (*attrs.pop("window"), channels // groups, groups * m.draw.pick((1, 2, 3)))
    if blocked and applies(shape, {**attrs, "groups": groups}):
        attrs["winograd"] = m.draw.pick((2, 4, 0))
    w = m.weights(TensorType(x.dtype, shape))
    return m.emit(name, x, w, groups=groups, block=block, x_blocked=blocked, **attrs)


@sampler("conv_transpose_blocked")
def _conv_transpose_blocked(m: Maker, name: str) -> Any:
    blocked = m.draw.chance(0.7)
    x = _image(m, NUMBERS, blocked)
    first = 2 if blocked else 1
    block = number(x.shape[-1]) if blocked else m.draw.pick((16, 4))
    channels = number(x.shape[1]) * block - m.draw.integer(0, block - 1) if blocked else number(x.shape[-1])
    attrs = _spread(m, [number(n) for n in x.shape[first:-1]])
    groups = divisor(m, channels)
    w = m.weights(TensorType(x.dtype, (*attrs.pop("kernel"), m.draw.pick((1, 2, 3)), channels)))
    return m.emit(name, x, w, groups=groups, block=block, x_blocked=blocked, **attrs)


@sampler("max_pool_blocked", "avg_pool_blocked")
def _pool_blocked(m: Maker, name: str) -> Any:
    x = _image(m, FLOATS if name[0] == "a" else NUMBERS, blocked=True)
    extra: dict[str, Any] = {"count_include_pad": m.draw.chance(0.5)} if name[0] == "a" else {}
    return m.emit(name, x, **_window(m, x, 2, x.rank - 3), **extra)
