"""Lowerings of ONNX operators, by family; importing this package fills the table in ``call``."""

from . import (
    activation,
    classical,
    control,
    deform,
    dependent,
    elementwise,
    indexing,
    matmul,
    norm,
    quant,
    reduce,
    resize,
    rnn,
    shape,
    signal,
    training,
    window,
)

__all__ = [
    "activation", "classical", "control", "deform", "dependent", "elementwise", "indexing", "matmul", "norm", "quant",
    "reduce", "resize", "rnn", "shape", "signal", "training", "window",
]  # fmt: skip
