"""Program -> plan and kernel sources for GPUs.

Owns launches and the naming of GPU kernels; binding steps to places is the CPU's lowering.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from ...core.dims import compare_eq, floordiv
from ...core.errors import CompileRefused
from ...ir import program as p
from ...ir.graph import Const, Node, Value
from ...ir.types import TensorType
from ..numba_cpu.lower import ConstantStore, Lowered, Lowering
from ..numba_cpu.select import Chosen
from . import select
from .toolchain import Source
from .words import Placed

WIDE = 16  # bytes


def lower(program: p.Program, store: ConstantStore, numerics: str = "strict") -> Lowered:
    """Bind every step of ``program`` to GPU kernels. Raises CompileRefused with everything that has none."""
    lowering = CudaLowering(program, store, 1 if numerics == "fast" else 3)
    lowered = lowering.run()
    if lowering.refused:
        first = next(iter(lowering.refused.values()))
        hint = f"write them with other ops, or register kernels: @fw.register_kernel({first!r}, target='cuda')"
        raise CompileRefused(f"{'; '.join(lowering.refused)} ({hint})")
    return lowered


class CudaLowering(Lowering):
    """Kernels of the GPU; ``products`` of tf32 numbers per product of float32 ones: 3 keep the accuracy, 1 does not."""

    def __init__(self, program: p.Program, store: ConstantStore, products: int) -> None:
        super().__init__(program, store)
        self.products = products
        self.refused: dict[str, str] = {}  # why, and the op

    def choose(self, node: Node, fixed: Mapping[int, Const]) -> Sequence[Chosen]:
        try:
            return select.choose(node, fixed, self.wide, self.products)
        except CompileRefused as error:
            self.refused.setdefault(str(error), node.op.name)
            return []

    def wide(self, v: Value) -> bool:
        """Whether ``v`` begins where 16 bytes can be read at once, in every trip of the loops around."""
        place = self.program.places[v]
        if place.kind == "constant":
            return place.trip is None
        offsets = [place.offset, *([place.trip.delta] if place.trip is not None else [])]
        return all(compare_eq(floordiv(e, WIDE) * WIDE, e) is True for e in offsets)

    def copy(self, t: TensorType) -> Chosen:
        return select.copy_kernel(t)

    def add(self, chosen: Chosen, kind: str) -> int:
        assert isinstance(chosen, Placed)
        own = (
            chosen.text,
            len(chosen.args),
            chosen.mode,
            chosen.block,
            chosen.units,
            chosen.most != 0,
            chosen.room != 0,
            chosen.resident,
        )
        symbol = f"{chosen.name}_{hashlib.sha256(repr(own).encode()).hexdigest()[:16]}"
        self.sources.setdefault(symbol, Source(symbol, *own))
        flops, moved, scratch = (self.most(e) for e in (chosen.flops, chosen.bytes, chosen.whole))
        key = (symbol, kind, str(flops), str(moved), str(scratch))
        if key not in self.kernels:
            self.kernels[key] = self.plan.add_kernel(
                chosen.name, symbol, kind, flops, moved, scratch, chosen.launch
            )  # fmt: skip
        return self.kernels[key]
