"""Which native variants this machine can run.

Owns feature detection and the features each variant needs.
Must not know about bundles.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from functools import cache

_AVX2 = frozenset({"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# Linux's names of the x86-64-v3 and v4 levels; the kernel drops those that the operating system does not save.
REQUIRED: dict[str, frozenset[str]] = {
    "cpu-avx2": _AVX2,
    "cpu-avx512": _AVX512,
    "cpu-avx512bf16": _AVX512 | {"avx512_bf16"},
}
# Best first. Whether kernels round to bfloat16 is decided when a bundle is compiled; a strict one has none that do.
PREFERENCE = ("cpu-avx512bf16", "cpu-avx512", "cpu-avx2")


@cache
def features() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty on other systems and architectures."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def missing(variant: str) -> tuple[str, ...]:
    """The features that ``variant`` needs and this machine lacks, sorted; an unknown variant lacks itself."""
    if variant not in REQUIRED:
        return (variant,)
    return tuple(sorted(REQUIRED[variant] - features()))


def best(available: Iterable[str]) -> str | None:
    """The best of the variants that this machine can run, or None."""
    offered = set(available)
    return next((v for v in PREFERENCE if v in offered and not missing(v)), None)
