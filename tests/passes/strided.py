"""What strided 1x1 convolutions read, drawn: chains of convolutions, pools and elementwise ops, and near misses."""

from __future__ import annotations

from typing import Any

from fusewright.core.dtypes import F32
from fusewright.testing import Maker


def strided_reader(m: Maker) -> Any:
    """One or two 1x1 convolutions of stride 2 or 3 behind a short chain that starts with a convolution."""
    d = m.draw
    x = m.new(F32, (d.pick((1, 2)), d.pick((3, 4, 5)), d.pick((2, 3)), 2), constant=False)
    v = m.emit("conv", x, m.new(F32, (d.pick((1, 3)), 1, 2, 2), constant=True), pads=((1, 1), (0, 0)),
               strides=d.pick(((1, 1), (1, 1), (2, 1))))[0]  # fmt: skip
    for _ in range(d.integer(0, 2)):
        kind = d.pick(("relu", "neg", "add", "mul", "pool"))
        if kind == "pool":
            v = m.emit(d.pick(("max_pool", "avg_pool")), v, window=(2, 1), strides=(1, 1), pads=((1, 0), (0, 0)))[0]
        elif kind in ("relu", "neg"):
            v = m.emit(kind, v)[0]
        else:
            shape = d.pick((tuple(v.shape), (2,), (v.shape[2], 2), (1, v.shape[2], 1), (v.shape[1], 1, 2)))
            v = m.emit(kind, v, m.new(F32, shape))[0]
    step = d.pick(((2, 2), (2, 1), (3, 2)))
    window = d.pick(((1, 1), (1, 1), (1, 1), (2, 1)))
    pads = d.pick((((0, 0), (0, 0)),) * 4 + (((1, 0), (0, 0)),))
    made = m.emit("conv", v, m.new(F32, (*window, 2, 3), constant=True), strides=step, pads=pads)
    if d.chance(0.3):
        other = d.pick((step, step, (1, 1), (1, 3)))
        m.emit("conv", v, m.new(F32, (1, 1, 2, 1), constant=True), strides=other)
    return made
