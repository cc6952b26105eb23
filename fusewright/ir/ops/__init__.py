"""The op table, one file per family. Importing this package fills ``opdef.OPS``."""

from . import (
    bits,
    blocked,
    composite,
    contract,
    control,
    data,
    dependent,
    elementwise,
    reduce,
    resample,
    resize,
    shape,
    window,
)

__all__ = [
    "bits",
    "blocked",
    "composite",
    "contract",
    "control",
    "data",
    "dependent",
    "elementwise",
    "reduce",
    "resample",
    "resize",
    "shape",
    "window",
]
