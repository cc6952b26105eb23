"""The built-in layer lowerings, one file per family; importing this package fills the tables of ``call``."""

from . import (
    activation,
    attention,
    conv,
    convlstm,
    core,
    keras1,
    local,
    lookup,
    merge,
    norm,
    ops,
    ops_dependent,
    ops_image,
    ops_linalg,
    ops_nn,
    ops_numpy,
    ops_order,
    ops_products,
    ops_shape,
    pooling,
    preprocessing,
    reshape,
    rnn,
    spectral,
    tfops,
    wrappers,
)

__all__ = [
    "activation", "attention", "conv", "convlstm", "core", "keras1", "local", "lookup", "merge", "norm", "ops",
    "ops_dependent", "ops_image", "ops_linalg", "ops_nn", "ops_numpy", "ops_order", "ops_products", "ops_shape",
    "pooling", "preprocessing", "reshape", "rnn", "spectral", "tfops", "wrappers",
]  # fmt: skip
