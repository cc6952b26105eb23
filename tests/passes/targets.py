"""A target for pass tests: it answers the protocol without any backend."""

from __future__ import annotations

from dataclasses import dataclass

from fusewright.testing.arena import PlainTarget


@dataclass(frozen=True)
class FakeTarget(PlainTarget):
    """``kernels``: composite ops with a kernel. ``largest``: nodes of the largest region that one kernel computes."""

    kernels: frozenset[str] = frozenset()
    block: int = 16
    largest: int = 64
    name: str = "fake"
