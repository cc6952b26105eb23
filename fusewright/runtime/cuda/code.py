"""Which of a bundle's GPU code runs on a GPU: a cubin of its architecture, else the PTX.

Owns the choice and the loaded module. Must not know plans beyond the names of their kernels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping

from ...core.errors import BundleRefused, DeviceFailed
from ...core.plan import Plan
from ..format import Container
from .device import Device
from .driver import INVALID_PTX, NO_BINARY, NO_JIT, UNSUPPORTED_PTX

FALLBACK = "kernels.ptx"
_CUBIN = re.compile(r"sm_(\d+)(\d)(a?)\.cubin$")
_TARGET = re.compile(rb"^\.target\s+sm_(\d+)(\d)(a?)", re.M)
_PLAIN_SHARED = 48 << 10  # dynamic shared memory that needs no leave
_WRONG_CODE = (NO_BINARY, INVALID_PTX, UNSUPPORTED_PTX, NO_JIT)


def choose(names: Iterable[str], capability: tuple[int, int]) -> list[str]:
    """Files that may run on a GPU, the best first: cubins of its major version and at most its minor one, newest
    first (one ``a`` alone on exactly that GPU), then the PTX."""
    fitting: list[tuple[int, bool, str]] = []
    ptx: list[str] = []
    for name in names:
        m = _CUBIN.match(name)
        if m:
            major, minor, special = int(m[1]), int(m[2]), bool(m[3])
            if major == capability[0] and (minor == capability[1] or not special and minor < capability[1]):
                fitting.append((minor, special, name))
        elif name == FALLBACK:
            ptx.append(name)
    return [name for _, _, name in sorted(fitting, reverse=True)] + ptx


class Code:
    """The kernels of a plan on a GPU: ``functions[i]`` runs kernel i; ``file`` is what was loaded."""

    def __init__(self, device: Device, container: Container, folder: str, plan: Plan) -> None:
        """The device is current. Raises BundleRefused."""
        prefix = folder + "/"
        names = [n.removeprefix(prefix) for n in container.manifest.members if n.startswith(prefix)]
        self.device = device
        self.module, self.file = _load(device, container, prefix, names)
        handles: dict[str, int] = {}
        for kernel in plan.kernels:
            if kernel.symbol not in handles:
                handles[kernel.symbol] = _function(device, container, self.module, kernel.symbol, self.file)
        _allow_shared(device, container, plan, handles)
        self.functions = [handles[k.symbol] for k in plan.kernels]


def _load(device: Device, container: Container, prefix: str, names: list[str]) -> tuple[int, str]:
    have = ".".join(map(str, device.capability))
    reasons: list[str] = []
    for name in choose(names, device.capability):
        code = container.read(prefix + name)
        if name == FALLBACK:
            m = _TARGET.search(code)
            if m and (int(m[1]), int(m[2])) > device.capability:
                reasons.append(f"its PTX needs compute capability {int(m[1])}.{int(m[2])}")
                continue
            why = reasons[-1] if reasons else "the bundle has no code for this GPU"
            text = f"{container.where}: {why} ({device.name}, {have}): the driver compiles its PTX now"
            warnings.warn(text, RuntimeWarning, stacklevel=6)
        try:
            return device.driver.load(code), name
        except DeviceFailed as e:
            if e.code not in _WRONG_CODE:
                raise
            reasons.append(f"{name}: {e}")
    offered = ", ".join(sorted(n for n in names if n == FALLBACK or n.endswith(".cubin"))) or "none"
    why = "; ".join(reasons) or f"it has {offered}"
    raise container.refused(f"no code in it runs on {device.name} (compute capability {have}): {why}")


def _function(device: Device, container: Container, module: int, symbol: str, file: str) -> int:
    try:
        return device.driver.function(module, symbol)
    except DeviceFailed as e:
        raise container.refused(f"{file} has no kernel {symbol!r}: {e}") from None


def _allow_shared(device: Device, container: Container, plan: Plan, handles: Mapping[str, int]) -> None:
    """Ask for the dynamic shared memory that kernels need beyond what every GPU gives."""
    most: dict[str, int] = {}
    for kernel in plan.kernels:
        if kernel.launch is None:
            raise BundleRefused(f"kernel {kernel.name} has no launch record: this plan is not for a GPU")
        most[kernel.symbol] = max(most.get(kernel.symbol, 0), kernel.launch.shared)
    for symbol, size in most.items():
        if size > device.shared_limit:
            raise container.refused(
                f"kernel {symbol} needs {size} bytes of shared memory, {device.name} has {device.shared_limit}"
            )
        if size > _PLAIN_SHARED:
            device.driver.allow_shared(handles[symbol], size)
