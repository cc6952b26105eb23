"""Kernels that users registered for their own ops.

Owns the one table that user code fills (never a file). Must not know how a target uses a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.errors import CompileRefused
from ..ir.declare import fits
from ..ir.opdef import OPS

Generator = Callable[..., Any]
TARGETS = ("cpu", "cuda")
_KERNELS: dict[tuple[str, str], Generator] = {}


def register_kernel(op: str, target: str = "cpu") -> Callable[[Generator], Generator]:
    """Register the kernel of op ``op`` on ``target`` (public as ``fw.register_kernel``).

    ``fn(node, variant)`` returns a kernel Template, or a list of them that run one after the other: see
    ``fusewright.backends.numba_cpu.templates.template``. A registered kernel goes before the built-in one. ``target``
    is "cpu" or "cuda"; there ``variant`` is "cuda", one text serves all GPUs.
    Raises CompileRefused for an op that does not exist, a target without kernels of its own, and a ``fn`` that takes
    other arguments.
    """
    if target not in TARGETS:
        raise CompileRefused(f"kernels can be registered for {' and '.join(map(repr, TARGETS))}, not {target!r}")
    if op not in OPS:
        raise CompileRefused(f"there is no op {op!r}: define it first, with fw.define_op")

    def add(fn: Generator) -> Generator:
        if why := fits(fn, "node", "variant"):
            raise CompileRefused(f"register_kernel: the kernel of {op!r} {why}")
        _KERNELS[op, target] = fn
        return fn

    return add


def unregister_kernel(op: str, target: str = "cpu") -> None:
    """Forget a registered kernel; no error when there is none."""
    _KERNELS.pop((op, target), None)


def registered_kernel(op: str, target: str) -> Generator | None:
    """The user's kernel of that op, or None."""
    return _KERNELS.get((op, target))
