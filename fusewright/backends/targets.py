"""The machines that code is made for: which family a target's name belongs to, and who makes its code.

Owns the list of families. Must not know what a family does. Numba is not imported here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..core.errors import CompileRefused
from ..core.report import Report
from ..ir.program import Program
from ..ir.target import Target
from .numba_cpu import bundle as cpu
from .numba_cpu import tune as search
from .numba_cpu.choices import Choices, read, shipped
from .numba_cpu.lower import ConstantStore
from .numba_cpu.variants import VARIANTS, expand_target
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


def target_of(family: str, choices: Choices | None = None) -> Target:
    """The machine as passes see it; ``choices`` are those of CPU kernels, None: the table of the package."""
    return cuda.cuda_target() if family == "cuda" else cpu.cpu_target(choices)


def images(
    family: str, program: Program, names: Sequence[str], store: ConstantStore, progress: Progress | None = None,
    numerics: str = "strict", choices: Choices | None = None,
) -> list[TargetImage]:  # fmt: skip
    """Code for every target ``names`` of a family; constants go to ``store``. Raises CompileRefused."""
    if family == "cuda":
        return [cuda.compile_cuda(program, store, progress, numerics)]
    return cpu.compile_cpu(program, names, progress, store, numerics, choices)[0]


def choices_of(path: str | os.PathLike[str] | None = None, new: bool = False) -> Choices:
    """The table of the package, under that of a file, which may be missing if it is ``new``. Raises CompileRefused."""
    return shipped() if path is None else choices_in(path, new).over(shipped())


def choices_in(path: str | os.PathLike[str], new: bool = False) -> Choices:
    """The choices in a file alone; none where a ``new`` one is not there. Raises CompileRefused."""
    return read(path, new)


def tune(
    program: Program, names: Sequence[str], numerics: str, threads: int, known: Choices,
    progress: Progress | None = None,
) -> tuple[Choices, list[dict[str, Any]]]:  # fmt: skip
    """Choices of CPU kernels that were timed here, and the rows of those that differ from the rules'. Raises
    CompileRefused."""
    variant = search.variant_for([v for t in names for v in expand_target(t, numerics)])
    sites = search.sites_of(program, program.graph.bounds)
    found, rows = search.tune(sites, variant, 4 if numerics == "fast" else 2, threads, known, None, progress)
    return found, [row.to_json() for row in rows if row.choice.to_json()]


def report_of(
    name: str, program: Program, dims: dict[str, int], threads: int, reference: Sequence[str] | None = None,
    batch: str | None = None,
) -> Report:  # fmt: skip
    """The report of a program whose kernels are chosen but not compiled."""
    if family_of(name) == "cuda":
        return cuda.report_of(program, dims, threads, reference)
    return cpu.report_of(program, name, dims, threads, reference, batch)
