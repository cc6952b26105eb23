"""A GPU run in which every buffer lies alone: gaps between buffers are forbidden, and nothing is written before a run.

Owns the spread layout for tests. With the plan's own layout a stray access may hit a neighbour; here it is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from fusewright.runtime.cuda import bundle as bundle_module
from fusewright.runtime.cuda.bundle import CudaBundle, Workspace
from fusewright.runtime.room import Room

from fake_driver import FakeGpu
from ptx.memory import FORBIDDEN, UNWRITTEN

GAP = 512


class _Spread(Room):
    """Each buffer in a place of its own."""

    def place(self, env: dict[str, int], values: Any, limit: int) -> tuple[list[int], int]:
        offsets, at = [], GAP
        for size in self.sizes(values):
            offsets.append(at)
            at += size + GAP
        return offsets, at


@contextmanager
def spread(gpu: FakeGpu) -> Iterator[None]:
    """Bundles loaded inside have spread layouts, and their calls start with an arena that nobody wrote."""
    room, once = bundle_module.Room, CudaBundle._once

    def guarded(self: CudaBundle, space: Workspace, p: Any, inputs: Any, outputs: Any) -> dict[str, int]:
        space.grow(p.binding.arena, p.total - p.binding.arena)
        gpu.drain_all()
        assert space.arena is not None
        binding, base = p.binding, space.arena.address
        gpu.memory.mark(base, space.arena.size, FORBIDDEN)
        sizes = [int(binding.values[b.bytes]) for b in self._plan.buffers]
        for at, size in (*zip(binding.offsets, sizes), (binding.scratch, self._room.scratch(binding.values))):
            gpu.memory.mark(base + at, size, UNWRITTEN)
        return once(self, space, p, inputs, outputs)

    bundle_module.Room, CudaBundle._once = _Spread, guarded  # type: ignore[misc, method-assign]
    try:
        yield
    finally:
        bundle_module.Room, CudaBundle._once = room, once  # type: ignore[misc, method-assign]


def both_ways(gpu: FakeGpu, data: Any, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Outputs of the bundle; the run on the plan's own layout and the spread one give the same bits."""
    normal = CudaBundle(_container(data)).run(feeds)
    with spread(gpu):
        alone = CudaBundle(_container(data)).run(feeds)
    for name, y in normal.items():
        if y.tobytes() != alone[name].tobytes():
            raise AssertionError(f"output {name!r} differs when no two buffers share memory")
    return normal


def _container(data: Any) -> Any:
    return bundle_module.Container.open(data)
