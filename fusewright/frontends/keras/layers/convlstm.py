"""ConvLSTM1D, 2D and 3D: LSTM cells whose products are convolutions.

Owns their step. Runs through rnn's scan. Must not know models.
"""

from __future__ import annotations

from typing import Any

from ....ir.graph import Value
from ..call import Call, layer, static
from .activation import activate
from .conv import spatial_pads
from .rnn import Cell, cell, initial_states, outputs, recur, split, steps_mask, time_major


def _maker(rank: int) -> None:
    @cell(f"ConvLSTM{rank}D", f"ConvLSTM{rank}DCell")
    def make(c: Call, x: Value) -> Cell:
        """x is [T, N, spatial..., C]; the input convolution runs once for all steps."""
        b = c.b
        kernel, strides = c.ints("kernel_size", rank), c.ints("strides", rank)
        dilations, filters = c.ints("dilation_rate", rank), c.integer("filters")
        w = c.w("kernel", (*kernel, static(c, x.shape[-1], "the channel axis"), 4 * filters))
        bias = c.w("bias", (4 * filters,)) if c.has("bias") else None
        # Time folds into the batch with the batch outermost, so that every row still belongs to one sample.
        rows = time_major(b, x)
        folded = b.reshape(rows, shape=(x.shape[1] * x.shape[0], *x.shape[2:]))
        pads = spatial_pads(c, folded, kernel, strides, dilations)
        y = b.conv(folded, w, strides=strides, pads=pads, dilations=dilations)
        if bias is not None:
            y = b.add(y, bias)
        space = y.shape[1:-1]
        sequence = time_major(b, b.reshape(y, shape=(x.shape[1], x.shape[0], *y.shape[1:])))
        recurrent = c.w("recurrent_kernel", (*kernel, filters, 4 * filters))

        def step(i: Call, v: Value, states: list[Value], consts: list[Value]) -> tuple[Value, list[Value]]:
            h, memory = states
            before = [k // 2 if i.config.get("recurrent_padding") == "theano-same" else (k - 1) // 2 for k in kernel]
            pads = tuple((low, k - 1 - low) for low, k in zip(before, kernel, strict=True))
            z = i.b.add(v, i.b.conv(h, consts[0], pads=pads))
            gate = i.config.get("recurrent_activation", "hard_sigmoid" if c.version[0] < 3 else "sigmoid")
            act = i.config.get("activation", "tanh")
            zi, zf, zc, zo = split(i.b, z, 4)
            kept = i.b.mul(activate(i, zf, gate), memory)
            memory = i.b.add(kept, i.b.mul(activate(i, zi, gate), activate(i, zc, act)))
            h = i.b.mul(activate(i, zo, gate), activate(i, memory, act))
            return h, [h, memory]

        return Cell(c, lambda _: sequence, step, [recurrent], [(*space, filters), (*space, filters)])

    @layer(f"ConvLSTM{rank}D")
    def lower(c: Call, x: Any, initial_state: Any = None, **ignored: Any) -> Any:
        value, states = initial_states(c, x, initial_state)
        value = c.need_rank(value, rank + 3)
        result, backwards = recur(c, c.spec, value, states, steps_mask(c, states), c)
        return outputs(c, result, backwards, c.flag("return_sequences"), c.flag("return_state"), c.mask)


for _rank in (1, 2, 3):
    _maker(_rank)
