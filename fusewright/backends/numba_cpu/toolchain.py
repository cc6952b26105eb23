"""Kernel text to images of CPU variants.

Owns what a compiled kernel depends on, deduplication and image assembly; processes and their cache are ``workers``'s.
Must not import Numba: the parent process stays light.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as memoise
from importlib import metadata
from pathlib import Path

from ...core.errors import CompileRefused, MissingDependency
from ...core.poolwords import WORKER
from ..workers import Server, compile_tasks
from .image import Image, assemble
from .variants import VARIANTS

_FOLDER = Path(__file__).parent
_KEYED = (
    "registry.py prelude.py access.py streaming.py lines.py mathlib.py mathlib64.py mathtrig.py intrinsics.py "
    "dispatcher.py worker.py image.py variants.py".split()
)
_KEYED_CORE = ("poolwords.py", "winograd.py")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class KernelSource:
    """Text that defines ``(args, start, stop, scratch)`` over the prelude; ``entry`` is its symbol in the image.

    The kernel is the last function of the text with these parameters, whatever its name; others are helpers.

    ``fastmath`` holds LLVM flag names ("contract", "nsz", ...); none by default, so that NaN, infinities and the bits
    of an element do not depend on where a vector loop begins.
    """

    entry: str
    text: str
    fastmath: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Task:
    variant: str
    kind: str  # "kernel", or an entry of the dispatcher
    text: str
    fastmath: tuple[str, ...]

    @property
    def server(self) -> Server:
        return server_of(self.variant)

    def request(self) -> dict[str, object]:
        return {"kind": self.kind, "text": self.text, "fastmath": list(self.fastmath)}

    def key(self) -> str:
        return json.dumps([1, toolchain_digest(), self.variant, self.kind, self.fastmath, self.text])


def server_of(variant: str) -> Server:
    """The compiling process of a variant."""
    return Server(variant, "fusewright.backends.numba_cpu.worker", tuple(VARIANTS[variant].env.items()))


def code_files() -> list[Path]:
    """The files that decide what machine code a compiling process makes of a text."""
    core = _FOLDER.parents[1] / "core"
    folders = [path for folder in ("tiles", "vector") for path in sorted(_FOLDER.glob(f"{folder}/**/*.py"))]
    return [*(_FOLDER / name for name in _KEYED), *folders, *(core / name for name in _KEYED_CORE)]


@memoise
def toolchain_digest() -> str:
    """A digest of what decides machine code besides the kernel text: our sources and the compilers' versions."""
    try:
        parts = [f"{name} {metadata.version(name)}" for name in ("numba", "llvmlite")]
    except metadata.PackageNotFoundError as error:
        raise MissingDependency(f"compiling needs {error.name}: pip install 'fusewright[compile]'") from None
    parts.append(f"python {sys.version_info[0]}.{sys.version_info[1]}")
    parts += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in code_files()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def build_images(
    sources: Mapping[str, Sequence[KernelSource]], progress: Progress | None = None, jobs: int | None = None
) -> dict[str, Image]:
    """Compile the sources of each variant into its image; every image also holds ``run`` and ``worker``.

    Equal texts compile once. ``progress(done, total)`` counts distinct compilations. Raises CompileRefused.
    """
    plans: dict[str, dict[_Task, list[str]]] = {}
    for variant, wanted in sources.items():
        if variant not in VARIANTS:
            raise CompileRefused(f"unknown CPU variant {variant!r}; known are {', '.join(VARIANTS)}")
        plan: dict[_Task, list[str]] = {_Task(variant, kind, "", ()): [kind] for kind in ("run", WORKER)}
        seen = {"run", WORKER}
        for source in wanted:
            if source.entry in seen:
                raise CompileRefused(f"two kernels have the symbol {source.entry!r}")
            seen.add(source.entry)
            task = _Task(variant, "kernel", source.text, tuple(sorted(source.fastmath)))
            plan.setdefault(task, []).append(source.entry)
        plans[variant] = plan
    ready = compile_tasks([task for plan in plans.values() for task in plan], progress, jobs)
    return {v: assemble((names, ready[task]) for task, names in plan.items()) for v, plan in plans.items()}


def build_image(
    sources: Sequence[KernelSource], variant: str, progress: Progress | None = None, jobs: int | None = None
) -> Image:
    """``build_images`` for one variant."""
    return build_images({variant: sources}, progress, jobs)[variant]
