"""A scheduled program as the GPU target of a bundle.

Owns the order lower, compile, check the memory plan. Must not know frontends or passes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from ...core.planscope import check_scopes
from ...core.report import Report
from ...ir.program import Program
from ..numba_cpu.bundle import check_memory, report_of_plan
from ..numba_cpu.lower import ConstantStore
from ..writer import TargetImage
from .lower import lower
from .target import CudaTarget
from .toolchain import build

Progress = Callable[[int, int], None]


def cuda_target() -> CudaTarget:
    """The GPU as passes see it."""
    return CudaTarget()


def compile_cuda(
    program: Program, store: ConstantStore, progress: Progress | None = None, numerics: str = "strict"
) -> TargetImage:
    """GPU code for ``program``; constants go to ``store``. Raises CompileRefused, MissingDependency."""
    lowered = lower(program, store, numerics)
    plan = lowered.plan
    module = build(lowered.sources, progress)
    plan.entries = {source.symbol: 0 for source in lowered.sources}
    plan.verify()
    check_scopes(plan)
    check_memory(plan, program)
    files = {"kernels.ptx": module.ptx, **{f"{arch}.cubin": code for arch, code in module.cubins.items()}}
    files["resources.json"] = json.dumps({"kernels": module.resources}, sort_keys=True, separators=(",", ":")).encode()
    return TargetImage("cuda", b"", plan, ("sm_80",), files)


def report_of(
    program: Program, dims: Mapping[str, int], threads: int, reference: Sequence[str] | None = None
) -> Report:
    """The report of a program whose kernels are chosen but not compiled."""
    return report_of_plan(lower(program, ConstantStore()).plan, program, "cuda", dims, threads, reference)
