"""What passes may ask a target instead of guessing.

Owns the protocol only; backends implement it. Must not know any backend.
"""

from __future__ import annotations

from typing import Protocol

from ..core.dims import Extent
from .graph import Graph, Node
from .opdef import Cost


class Target(Protocol):
    """A machine that kernels are made for.

    ``name``         the target's public name
    ``block``        channels per block of blocked layouts (0: this target does not block)
    ``cache_bytes``  sizes of the data caches that one thread sees, nearest first
    """

    @property
    def name(self) -> str: ...

    @property
    def block(self) -> int: ...

    @property
    def cache_bytes(self) -> tuple[int, ...]: ...

    def supports(self, node: Node) -> bool:
        """There is a kernel for ``node`` as it stands; otherwise a composite op is decomposed."""
        ...

    def dedicated(self, node: Node) -> bool:
        """Somebody registered a kernel for just this op: it runs as it stands, neither decomposed nor fused."""
        ...

    def can_fuse(self, kind: str, region: Graph) -> bool:
        """One kernel of family ``kind`` ('elementwise', 'contract') can compute ``region``."""
        ...

    def prefers_blocked(self, node: Node, given: bool = False) -> bool:
        """``node`` (a conv or pool) is faster on blocked operands; ``given``: its first operand is blocked already."""
        ...

    def winograd_tile(self, node: Node, most: int) -> int:
        """Side m, at most ``most``, of the tiles F(m x m, 3 x 3) in which ``node`` (a blocked 3 x 3 convolution of
        stride 1) is fastest; 0: direct sums are."""
        ...

    def prefers_bf16(self, node: Node) -> bool:
        """Some machines of this target compute ``node`` (a contraction of f32, or one fused with what reads its parts)
        faster from operands that are rounded to bfloat16 than in any other way."""
        ...

    def workspace(self, node: Node) -> tuple[Extent, ...]:
        """Bytes of each scratch buffer that all threads share while ``node`` runs."""
        ...

    def may_overwrite(self, node: Node, operand: int) -> bool:
        """The kernel reads each element of ``operand`` before its only write to that place of the result that lies over
        it: result 0, or any one result of an elementwise node."""
        ...

    def cost(self, node: Node) -> Cost:
        """Operations and bytes of ``node`` on this target."""
        ...
