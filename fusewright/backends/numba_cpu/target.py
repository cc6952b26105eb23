"""The CPU as passes see it.

Owns the answers to ir.target.Target for x86-64. Must not know passes.
"""

from __future__ import annotations

from ...core.dims import Extent, compare_le, product
from ...core.dtypes import F32
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.opdef import Cost
from ..registry import registered_kernel
from . import loops
from .choices import Choices, shipped
from .select import attention, contract, gated, kernels
from .templates.conv_plan import supports_blocked
from .templates.depthwise import covers


def _narrow(node: Node, block: int) -> bool:
    """Writing the few channels of ``node`` as a block and reordering them moves less than reordering its operand."""
    x, y = node.operands[0], node.results[0]
    blocked, plain = product((*y.shape[:-1], block)), y.type.size
    return compare_le(blocked + 2 * plain, 2 * x.type.size) is True


def _heavy(w: Value, x: Value) -> bool:
    """The weights outweigh an image so far that reading them is what takes the time, which rows of pixels do best."""
    return compare_le(w.type.size, 4 * product(x.shape[1:])) is not True


class CpuTarget:
    """x86-64 with AVX2 or AVX-512: 16 channels per block on both, so that plans and weights are shared."""

    name = "cpu"
    block = 16
    cache_bytes = (32 << 10, 1 << 20, 16 << 20)

    def __init__(self, choices: Choices | None = None) -> None:
        self.choices = shipped() if choices is None else choices

    def supports(self, node: Node) -> bool:
        return kernels.supports(node)

    def dedicated(self, node: Node) -> bool:
        return registered_kernel(node.op.name, "cpu") is not None

    def can_fuse(self, kind: str, region: Graph) -> bool:
        if any(map(self.dedicated, region.nodes)):
            return False
        if kind == "contract":
            return contract.can_fuse(region)
        if kind == "gated":
            return gated.can_fuse(region)
        if kind == "attention":
            return attention.can_fuse(region)
        b = Builder()
        inputs = [b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(region.inputs)]
        return loops.supports(b.apply("fused", inputs, {"kind": kind}, [region])[0].producer)

    def prefers_blocked(self, node: Node, given: bool = False) -> bool:
        """Two-dimensional float32 convolutions with constant weights that fill at least one block of results, or whose
        operand lies blocked and would cost more to reorder than their result does. Transposed ones read plain rows as
        well: they follow an operand that lies blocked."""
        if node.op.name not in ("conv", "conv_transpose"):
            return False
        x, w = node.operands
        y, groups = node.results[0], node.attrs["groups"]
        channels, outputs = x.shape[-1], y.shape[-1]
        if x.rank != 4 or y.dtype is not F32 or w.const is None:
            return False
        if not isinstance(channels, int) or not isinstance(outputs, int):
            return False
        if outputs < self.block and not (given and groups == 1 and _narrow(node, self.block)):
            return False
        if node.op.name == "conv_transpose":
            if not given or outputs < self.block or _heavy(w, x):
                return False
        elif covers(channels, outputs, groups, y.dtype.size):
            return True
        reads, writes = supports_blocked(2, channels, outputs, groups)
        return writes and (groups == 1 or reads)

    def winograd_tile(self, node: Node, most: int) -> int:
        return contract.winograd_tile(node, most, self.choices)

    def prefers_bf16(self, node: Node) -> bool:
        return gated.prefers_bf16(node) if gated.gates(node) else contract.prefers_bf16(node)

    def workspace(self, node: Node) -> tuple[Extent, ...]:
        return kernels.workspace(node)

    def may_overwrite(self, node: Node, operand: int) -> bool:
        return kernels.may_overwrite(node, operand)

    def cost(self, node: Node) -> Cost:
        return kernels.cost_of(node)
