"""The machines that code is made for: which family a target's name belongs to, and who makes its code.

Owns the list of families. Must not know what a family does. Numba is not imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..core.errors import CompileRefused
from ..core.report import Report
from ..ir.program import Program
from ..ir.target import Target
from .numba_cpu import bundle as cpu
from .numba_cpu.lower import ConstantStore
from .numba_cpu.variants import VARIANTS
from .numba_cuda import bundle as cuda
from .writer import TargetImage

Progress = Callable[[int, int], None]
NAMES = ("cpu", *VARIANTS, "cuda")


def family_of(name: object) -> str:
    """``cpu`` or ``cuda``. Raises CompileRefused for a name that is no target's."""
    if name not in NAMES:
        raise CompileRefused(f"target {name!r} is not available; there are {', '.join(NAMES)}")
    return "cuda" if name == "cuda" else "cpu"


def families(names: Sequence[str]) -> dict[str, list[str]]:
    """The targets asked for, by family, in order."""
    out: dict[str, list[str]] = {}
    for name in names:
        out.setdefault(family_of(name), []).append(name)
    return out


def target_of(family: str) -> Target:
    """The machine as passes see it."""
    return cuda.cuda_target() if family == "cuda" else cpu.cpu_target()


def images(
    family: str, program: Program, names: Sequence[str], store: ConstantStore, progress: Progress | None = None,
    numerics: str = "strict",
) -> list[TargetImage]:  # fmt: skip
    """Code for every target ``names`` of a family; constants go to ``store``. Raises CompileRefused."""
    if family == "cuda":
        return [cuda.compile_cuda(program, store, progress, numerics)]
    return cpu.compile_cpu(program, names, progress, store, numerics)[0]


def report_of(
    name: str, program: Program, dims: dict[str, int], threads: int, reference: Sequence[str] | None = None
) -> Report:
    """The report of a program whose kernels are chosen but not compiled."""
    if family_of(name) == "cuda":
        return cuda.report_of(program, dims, threads, reference)
    return cpu.report_of(program, name, dims, threads, reference)
