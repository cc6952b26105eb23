"""The GPU as passes see it.

Owns the answers to ir.target.Target for NVIDIA GPUs. Must not know passes.
"""

from __future__ import annotations

from ...core.dims import Extent
from ...ir.builder import Builder
from ...ir.graph import Graph, Node
from ...ir.opdef import Cost
from ..numba_cpu.select.kernels import cost_of
from . import select


class CudaTarget:
    """NVIDIA GPUs of compute capability 8.0 and newer: channels stay last, nothing is blocked."""

    name = "cuda"
    block = 0
    cache_bytes = (128 << 10, 40 << 20)

    def supports(self, node: Node) -> bool:
        return select.supports(node)

    def dedicated(self, node: Node) -> bool:
        return select.own(node)

    def can_fuse(self, kind: str, region: Graph) -> bool:
        if any(map(self.dedicated, region.nodes)):
            return False
        if kind == "contract":
            return select.can_fuse(region)
        if kind == "attention":
            return select.can_attend(region)
        if kind == "gated":
            return select.can_gate(region)
        b = Builder()
        inputs = [b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(region.inputs)]
        return select.supports(b.apply("fused", inputs, {"kind": kind}, [region])[0].producer)

    def prefers_blocked(self, node: Node, given: bool = False) -> bool:
        return False

    def winograd_tile(self, node: Node, most: int) -> int:
        return 0

    def prefers_bf16(self, node: Node) -> bool:
        return False

    def workspace(self, node: Node) -> tuple[Extent, ...]:
        return select.workspace(node)

    def may_overwrite(self, node: Node, operand: int) -> bool:
        return select.may_overwrite(node, operand)

    def cost(self, node: Node) -> Cost:
        return cost_of(node)
