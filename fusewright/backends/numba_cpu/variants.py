"""The CPU instruction-set variants that bundles may carry.

Owns their names, the compiler settings behind them and the order of preference.
Must not import Numba: the toolchain's parent process reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import CompileRefused


@dataclass(frozen=True, slots=True)
class Variant:
    """``cpu`` and ``features`` are LLVM names; ``width`` is the widest vector in bytes; ``dots``: multiplies bfloat16
    pairs. ``tile``: rows and vectors of register tiles where they were chosen for the kernel at hand, else (0, 0)."""

    name: str
    cpu: str
    features: str
    width: int
    dots: bool = False
    tile: tuple[int, int] = (0, 0)

    @property
    def env(self) -> dict[str, str]:
        """Both variables always: left out, the building machine's own features would leak into the code."""
        return {"NUMBA_CPU_NAME": self.cpu, "NUMBA_CPU_FEATURES": self.features}


VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant("cpu-avx2", "x86-64-v3", "", 32),
        Variant("cpu-avx512", "x86-64-v4", "-prefer-256-bit", 64),
        Variant("cpu-avx512bf16", "x86-64-v4", "-prefer-256-bit,+avx512bf16", 64, True),
    )
}
DEFAULT_VARIANTS = ("cpu-avx2", "cpu-avx512")
FAST_VARIANTS = (*DEFAULT_VARIANTS, "cpu-avx512bf16")  # strict arithmetic has no use for the last


def expand_target(target: str, numerics: str = "strict") -> tuple[str, ...]:
    """The variants behind a target name: ``"cpu"`` is all that ``numerics`` uses, a variant's name is itself."""
    if target == "cpu":
        return FAST_VARIANTS if numerics == "fast" else DEFAULT_VARIANTS
    if target in VARIANTS:
        return (target,)
    raise CompileRefused(f"unknown CPU target {target!r}; known are cpu, {', '.join(VARIANTS)}")
