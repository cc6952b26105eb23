"""A graph whose extents a call finds out, and feeds for it: tests of both runtimes share them."""

from __future__ import annotations

from typing import Any

import numpy as np

import fusewright as fw

RNG = np.random.default_rng(5)


def count(b: Any, mask: Any) -> Any:
    """How many elements of ``mask`` are true."""
    return b.reduce_sum(b.cast(b.reshape(mask, shape=(np.prod(mask.shape),)), to="i64"), axes=(0,))


def positive() -> fw.Graph:
    """Positions and doubled values of the elements above 0, and the number of them."""
    b: Any = fw.Builder()
    x = b.input("x", "f32", ("N", 3))
    mask = b.gt(x, 0.0)
    k = b.symbol_of(count(b, mask), symbol="K", high="3*N")
    at = b.nonzero(mask, size="K")
    y = b.add(b.mul(b.gather_nd(x, at), 2.0), b.cast(b.iota(shape=("K",)), to="f32"))
    return b.build({"at": at, "y": y, "k": k})


def feeds(n: int, shift: float) -> dict[str, np.ndarray]:
    """``n`` rows whose numbers are about ``shift``."""
    return {"x": (RNG.standard_normal((n, 3)) + shift).astype(np.float32)}
