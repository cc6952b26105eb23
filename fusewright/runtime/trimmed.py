"""Outputs whose extents are found out during the run.

Owns their greatest shapes, their true ones, and the step from storage laid out for the one to an array of the other.
Kernels write such a result densely, in its true shape, from the start of the storage on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import dims
from ..core.bounds import Bounds, is_dynamic, upper
from ..core.errors import BundleRefused, TypeRefused
from ..core.manifest import RunSymbol
from .call import Array, Spec
from .expressions import Evaluator, evaluator


class Trimmed:
    """``most[i]`` gives the greatest extents of output i; ``ports`` are the outputs that may come out smaller."""

    def __init__(self, outputs: Sequence[Spec], symbols: Sequence[RunSymbol]) -> None:
        bounds: Bounds = {s.name: (s.low, dims.extent(s.high)) for s in symbols}
        try:
            self.most = [[evaluator(upper(e, bounds)) for e in s.exprs] for s in outputs]
        except TypeRefused as e:
            raise BundleRefused(f"an output's extents have no bound: {e}") from None
        self.ports: dict[int, list[Evaluator]] = {
            i: [evaluator(e) for e in s.exprs]
            for i, s in enumerate(outputs)
            if any(is_dynamic(e, bounds) for e in s.exprs)
        }

    def shape(self, port: int, env: Mapping[str, int]) -> tuple[int, ...]:
        """The true shape of an output that may come out smaller."""
        return tuple(f(env) for f in self.ports[port])

    def cut(self, stored: Sequence[Array], env: Mapping[str, int]) -> list[Array]:
        """The results in their true shapes; a copy where there is more storage, so that none is held in vain."""
        out = list(stored)
        for i in self.ports:
            shape = self.shape(i, env)
            if shape != out[i].shape:
                size = int(np.prod(shape, dtype=np.int64))
                out[i] = out[i].reshape(-1)[:size].reshape(shape).copy()
        return out

    def blocks(self, outs: Sequence[Any], env: Mapping[str, int]) -> list[Any]:
        """The leading blocks of the caller's arrays in which the results go."""
        out = list(outs)
        for i in self.ports:
            out[i] = out[i][tuple(map(slice, self.shape(i, env)))]
        return out

    def stand_ins(self, results: Sequence[Array]) -> list[Array]:
        """Storage of our own for the outputs that may come out smaller, theirs for the rest."""
        return [np.empty_like(r) if i in self.ports else r for i, r in enumerate(results)]

    def store(self, given: Sequence[Array], results: Sequence[Array], env: Mapping[str, int]) -> None:
        """Move what lies in the stand-ins to the leading blocks of the arrays given."""
        for i, (block, y) in enumerate(zip(self.blocks(given, env), self.cut(results, env))):
            if i in self.ports:
                block[...] = y
