"""Lowerings of TensorFlow ops by family. Importing this package fills the tables of ``lower``."""

from __future__ import annotations

from . import (
    cell,
    complexes,
    dependent,
    elementwise,
    image,
    linalg,
    lists,
    matrix,
    movement,
    ragged,
    reduce,
    refused,
    search,
    segment,
    shape,
    special,
    spectral,
    state,
    window,
)  # fmt: skip

FAMILIES = (
    cell, dependent, elementwise, image, linalg, lists, matrix, movement, ragged, reduce, refused, search, segment,
    shape, special, spectral, state, window,
)  # fmt: skip

complexes.register()
