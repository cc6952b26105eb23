"""Lowerings of TensorFlow ops by family. Importing this package fills the tables of ``lower``."""

from __future__ import annotations

from . import (
    cell,
    elementwise,
    image,
    linalg,
    lists,
    matrix,
    movement,
    reduce,
    refused,
    segment,
    shape,
    spectral,
    state,
    window,
)  # fmt: skip

FAMILIES = (
    cell, elementwise, image, linalg, lists, matrix, movement, reduce, refused, segment, shape, spectral, state, window,
)  # fmt: skip
