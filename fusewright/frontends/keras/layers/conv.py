"""Convolutions: plain, transposed, depthwise, separable.

Owns padding modes, data formats and Keras' output sizes. Must not know models.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....core.dims import Extent
from ....ir.graph import Value
from ....ir.ops.window import same_pads
from ..call import Call, layer, static
from .activation import activate

Pads = tuple[tuple[Extent, Extent], ...]


def spatial_pads(
    c: Call, x: Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], causal: bool = False
) -> Pads:
    """The ``padding`` option as (low, high) per spatial axis of a channels-last ``x``."""
    mode = str(c.get("padding", "valid")).lower()
    if mode == "valid":
        return tuple((0, 0) for _ in kernel)
    if mode == "same":
        return tuple(
            same_pads(n, k, s, d) for n, k, s, d in zip(x.shape[1:-1], kernel, strides, dilations, strict=True)
        )
    if mode == "theano-same":  # half the window before, whatever the stride
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        return tuple((r // 2, (r - 1) // 2) for r in reach)
    if mode == "causal" and causal and len(kernel) == 1:
        return (((kernel[0] - 1) * dilations[0], 0),)
    raise c.refuse(f"padding={mode!r} is not supported")


def _finish(c: Call, y: Value, filters: int) -> Value:
    if c.has("bias"):
        y = c.b.add(y, c.w("bias", (filters,)))
    return c.from_last(activate_channels_last(c, y))


def activate_channels_last(c: Call, y: Value) -> Value:
    """The activation option. A softmax works on the layer's own last axis, so channels_first needs the turn first."""
    option = c.config.get("activation")
    name = option.get("config") if isinstance(option, dict) else option
    if c.channels_first and name in ("softmax", "log_softmax", "glu", "sparsemax"):
        raise c.refuse(f"activation {name!r} with channels_first", "put it in an Activation layer")
    return activate(c, y, option)


def _conv(rank: int) -> None:
    @layer(f"Conv{rank}D", f"Convolution{rank}D")
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        x = c.float(c.to_last(x))
        kernel, strides = c.ints("kernel_size", rank), c.ints("strides", rank)
        dilations, filters = c.ints("dilation_rate", rank), c.integer("filters")
        groups = c.integer("groups", 1)
        channels = static(c, x.shape[-1], "the channel axis")
        pads = spatial_pads(c, x, kernel, strides, dilations, causal=True)
        w = c.w("kernel", (*kernel, channels // groups, filters))
        return _finish(c, c.b.conv(x, w, strides=strides, pads=pads, dilations=dilations, groups=groups), filters)


def _conv_transpose(rank: int) -> None:
    @layer(f"Conv{rank}DTranspose", f"Convolution{rank}DTranspose")
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        x = c.float(c.to_last(x))
        kernel, strides = c.ints("kernel_size", rank), c.ints("strides", rank)
        dilations, filters = c.ints("dilation_rate", rank), c.integer("filters")
        extra = c.ints("output_padding", rank, low=0) if c.config.get("output_padding") is not None else None
        mode = str(c.get("padding", "valid")).lower()
        if mode not in ("valid", "same"):
            raise c.refuse(f"padding={mode!r} is not supported")
        pads, more = [], []
        for i in range(rank):
            reach, s = (kernel[i] - 1) * dilations[i] + 1, strides[i]
            # Length beyond (n - 1) * stride that Keras gives the result, and the crop that TensorFlow's SAME implies.
            if mode == "valid":
                tail = reach + (max(reach, s) - reach if extra is None else extra[i])
            elif extra is None:
                tail = s
            else:
                tail = reach % 2 + extra[i] if c.version[0] >= 3 else reach - 2 * (reach // 2) + extra[i]
            low = max(reach - tail, 0) // 2 if mode == "same" else 0
            high = reach - tail - low
            pads.append((low, max(high, 0)))
            more.append(max(-high, 0))
        w = c.w("kernel", (*kernel, filters, static(c, x.shape[-1], "the channel axis")))
        y = c.b.conv_transpose(x, w, strides=strides, pads=tuple(pads), output_padding=tuple(more), dilations=dilations)
        return _finish(c, y, filters)


def depthwise(c: Call, x: Value, kernel: Value, strides: Sequence[int], pads: Pads, dilations: Sequence[int]) -> Value:
    """Depthwise convolution; ``kernel`` is [spatial..., C, multiplier] as Keras keeps it."""
    *spatial, channels, multiplier = kernel.shape
    w = c.b.reshape(kernel, shape=(*spatial, 1, channels * multiplier))
    return c.b.conv(
        x, w, strides=tuple(strides), pads=pads, dilations=tuple(dilations), groups=static(c, channels, "channels")
    )


def _depthwise(rank: int) -> None:
    @layer(f"DepthwiseConv{rank}D")
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        x = c.float(c.to_last(x))
        kernel, strides, dilations = c.ints("kernel_size", rank), c.ints("strides", rank), c.ints("dilation_rate", rank)
        multiplier, channels = c.integer("depth_multiplier", 1), static(c, x.shape[-1], "the channel axis")
        w = c.w("depthwise_kernel", (*kernel, channels, multiplier))
        y = depthwise(c, x, w, strides, spatial_pads(c, x, kernel, strides, dilations), dilations)
        return _finish(c, y, channels * multiplier)


def _separable(rank: int) -> None:
    @layer(f"SeparableConv{rank}D", f"SeparableConvolution{rank}D")
    def lower(c: Call, x: Value) -> Value:
        c.need_rank(x, rank + 2)
        x = c.float(c.to_last(x))
        kernel, strides, dilations = c.ints("kernel_size", rank), c.ints("strides", rank), c.ints("dilation_rate", rank)
        multiplier, channels = c.integer("depth_multiplier", 1), static(c, x.shape[-1], "the channel axis")
        filters = c.integer("filters")
        w = c.w("depthwise_kernel", (*kernel, channels, multiplier))
        y = depthwise(c, x, w, strides, spatial_pads(c, x, kernel, strides, dilations, causal=True), dilations)
        point = c.w("pointwise_kernel", (*([1] * rank), channels * multiplier, filters))
        return _finish(c, c.b.conv(y, point), filters)


for _rank in (1, 2, 3):
    _conv(_rank)
    _conv_transpose(_rank)
    if _rank < 3:
        _depthwise(_rank)
        _separable(_rank)
