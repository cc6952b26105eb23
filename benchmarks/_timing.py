"""Side-by-side timing: interleaved repeats in one process, best and median, and the table they make."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def interleave(
    calls: Mapping[str, Callable[[], object]], rounds: int, warm: int = 3, inner: int = 1
) -> dict[str, np.ndarray]:
    """Seconds per call of each candidate: ``rounds`` samples of ``inner`` calls, candidates taking turns.

    Taking turns spreads the machine's moods over all candidates, so ratios hold even where absolute times do not.
    """
    for call in calls.values():
        for _ in range(warm):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(inner):
                call()
            times[name].append((time.perf_counter() - start) / inner)
    return {name: np.asarray(values) for name, values in times.items()}


def table(
    title: str, times: Mapping[str, np.ndarray], unit: float = 1e3, name: str = "ms", base: str = "fusewright"
) -> str:
    """A Markdown table; the last column is the candidate's best over the best of ``base`` (above 1: base is faster)."""
    lines = [f"### {title}", "", f"| | best {name} | median {name} | best / {base}'s |", "| --- | --- | --- | --- |"]
    for who, values in times.items():
        ratio = values.min() / times[base].min()
        lines.append(f"| {who} | {values.min() * unit:.3f} | {np.median(values) * unit:.3f} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def machine(*packages: str) -> str:
    """One line: the CPU's name and the versions measured. No host name, no path."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")),
            cpu,
        )
    versions = []
    for package in ("numpy", *packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} (not installed)")
    return f"{cpu}; Python {platform.python_version()}, " + ", ".join(versions)
