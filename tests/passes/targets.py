"""A target for pass tests: it answers the protocol without any backend."""

from __future__ import annotations

from dataclasses import dataclass

from fusewright.core.dims import Extent
from fusewright.ir.graph import Graph, Node
from fusewright.ir.opdef import Cost


@dataclass(frozen=True)
class FakeTarget:
    """``kernels``: composite ops with a kernel. ``largest``: nodes of the largest region that one kernel computes."""

    kernels: frozenset[str] = frozenset()
    block: int = 16
    largest: int = 64
    name: str = "fake"
    cache_bytes: tuple[int, ...] = (32 << 10, 1 << 20)

    def supports(self, node: Node) -> bool:
        return node.op.decompose is None or node.op.name in self.kernels

    def can_fuse(self, kind: str, region: Graph) -> bool:
        return sum(n.op.name not in ("input", "constant", "return") for n in region.nodes) <= self.largest

    def prefers_blocked(self, node: Node) -> bool:
        return node.results[0].dtype.is_float

    def workspace(self, node: Node) -> tuple[Extent, ...]:
        return ()

    def may_overwrite(self, node: Node, operand: int) -> bool:
        return operand in node.op.overwrites

    def cost(self, node: Node) -> Cost:
        return node.op.cost(node) if node.op.cost is not None else Cost(0, 0)
