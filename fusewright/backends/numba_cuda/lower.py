"""Program -> plan and kernel sources for GPUs.

Owns launches and the naming of GPU kernels; binding steps to places is the CPU's lowering.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from ...core.errors import CompileRefused
from ...ir import program as p
from ...ir.graph import Const, Node
from ...ir.scope import definitions
from ...ir.types import TensorType
from ..numba_cpu.lower import ConstantStore, Lowered, Lowering
from ..numba_cpu.select import Chosen
from . import select
from .toolchain import Source
from .words import Placed


def lower(program: p.Program, store: ConstantStore) -> Lowered:
    """Bind every step of ``program`` to GPU kernels. Raises CompileRefused."""
    found = [n.attrs["symbol"] for n in definitions(program.graph)]
    if found:
        raise CompileRefused(
            f"target 'cuda' needs extents that are known before a call; {', '.join(found)} are found out during it. "
            "Compile for 'cpu', or fix the inputs that decide them"
        )
    return CudaLowering(program, store).run()


class CudaLowering(Lowering):
    """Kernels of the GPU."""

    def choose(self, node: Node, fixed: Mapping[int, Const]) -> Sequence[Chosen]:
        return select.choose(node, fixed)

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
