"""Lowerings of TensorFlow ops by family. Importing this package fills the tables of ``lower``."""

from __future__ import annotations

from . import (
    cell,
    dependent,
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
    special,
    spectral,
    state,
    window,
)  # fmt: skip

FAMILIES = (
    cell, dependent, elementwise, image, linalg, lists, matrix, movement, reduce, refused, segment, shape, special,
    spectral, state, window,
)  # fmt: skip
