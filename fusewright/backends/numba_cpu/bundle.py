"""A scheduled program as native targets of a bundle.

Owns the loop over instruction-set variants: lower, compile, check the memory plan. Must not know frontends or passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...core.plan import Plan
from ...core.plancheck import check_disjoint, check_plan
from ...core.planner import Lifetimes, plan_offsets
from ...core.planscope import check_scopes
from ...core.report import Report
from ...ir.program import Program
from ...runtime import cpu
from ..writer import TargetImage
from .choices import Choices
from .loading import loader_sources
from .lower import ConstantStore, lower
from .target import CpuTarget
from .toolchain import build_images
from .variants import VARIANTS, expand_target

Progress = Callable[[int, int], None]
_PROBES = (1, 2, 5, 17, 64, 300)  # values of the free symbols; plans are checked for the first three that fit the model


def cpu_target(choices: Choices | None = None) -> CpuTarget:
    """The CPU as passes see it; ``choices`` None: the table of the package."""
    return CpuTarget(choices)


def compile_cpu(
    program: Program, targets: Sequence[str], progress: Progress | None = None, store: ConstantStore | None = None,
    numerics: str = "strict", choices: Choices | None = None,
) -> tuple[list[TargetImage], ConstantStore]:  # fmt: skip
    """Native code for every variant behind ``targets``, and the constants they share. Raises CompileRefused."""
    names = list(dict.fromkeys(v for t in targets for v in expand_target(t, numerics)))
    store = store or ConstantStore()
    # The best variant comes first: its layout is the one stored, unless it rounds. The next one then asks for its own.
    order = sorted(names, key=lambda n: (-VARIANTS[n].width, VARIANTS[n].dots))
    lowered = {n: lower(program, VARIANTS[n], store, choices) for n in order}
    size = store.weights.size
    sources = {n: [*lowered[n].sources, *loader_sources(lowered[n].plan, VARIANTS[n], size)] for n in names}
    images = build_images(sources, progress)
    out = []
    for name in names:
        plan = lowered[name].plan
        plan.entries = dict(images[name].symbols)
        plan.verify()
        check_scopes(plan)
        check_memory(plan, program)
        out.append(TargetImage(name, images[name].code, plan, tuple(sorted(cpu.REQUIRED[name]))))
    return out, store


def check_memory(plan: Plan, program: Program) -> None:
    """Replay the plan on bytes for a few bindings: no step reads what another value overwrote. Raises VerifyError."""
    lives = Lifetimes([b.first for b in plan.buffers], [b.last for b in plan.buffers])
    checked = 0
    for probe in _PROBES:
        env = {s: _clamp(probe, *program.graph.bounds.get(s, (0, None))) for s in plan.symbols}
        values = plan.evaluate(env)
        sizes = [values[b.bytes] for b in plan.buffers]
        if min(values, default=0) < 0:
            continue  # the model's windows do not fit so small an input
        offsets, arena = plan_offsets(sizes, lives)
        check_disjoint(sizes, lives.first, lives.last, offsets)
        for found in _found(plan, env):
            check_plan(plan, {**env, **found}, offsets, arena)
        checked += 1
        if checked == 3 or not plan.symbols:
            return


def _found(plan: Plan, env: Mapping[str, int]) -> list[dict[str, int]]:
    """Values that the symbols bound during a run may take: all their greatest, all their least, all between."""
    if not plan.bound:
        return [{}]
    values = plan.evaluate(env)
    out = []
    for share in (2, 1, 0):
        out.append({b.name: b.low + max(values[b.most] - b.low, 0) * share // 2 for b in plan.bound})
    return out


def _clamp(value: int, low: int, high: int | None) -> int:
    return max(low, value) if high is None else min(max(low, value), high)


def report_of(
    program: Program, variant: str, dims: Mapping[str, int], threads: int, reference: Sequence[str] | None = None,
    batch: str | None = None,
) -> Report:  # fmt: skip
    """The report of a program whose kernels are chosen but not compiled."""
    name = expand_target(variant)[-1]
    plan = lower(program, VARIANTS[name], ConstantStore()).plan
    return report_of_plan(plan, program, name, dims, threads, reference, batch)


def report_of_plan(
    plan: Plan, program: Program, name: str, dims: Mapping[str, int], threads: int, reference: Sequence[str] | None,
    batch: str | None = None,
) -> Report:  # fmt: skip
    """The report of a plan; a free symbol left out counts as 1 (its lower bound if bounded)."""
    env = {s: dims.get(s, _clamp(1, *program.graph.bounds.get(s, (0, None)))) for s in program.graph.symbols}
    return Report.of_plan(plan, env, threads, program.placement_rows(), "strict", name, reference, batch)
