"""``fw.load``: bundles for the runtime, or for the interpreter.

Owns the choice between native code and the portable graph. The native way imports NumPy and the runtime only.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from . import lazy
from .core.errors import BundleRefused
from .runtime import bundle as native_bundle
from .runtime.format import Container

if TYPE_CHECKING:
    from .portable import PortableBundle
    from .runtime.cuda.bundle import CudaBundle


def load(
    source: str | os.PathLike[str] | bytes,
    threads: int | None = None,
    native: bool = True,
    verify: str = "full",
    max_bytes: int | None = None,
) -> native_bundle.Bundle | CudaBundle | PortableBundle:
    """A bundle from a ``.fwb`` file (or its bytes).

    ``threads`` overrides the number stored at compile time; ``native=False`` interprets the portable graph with NumPy,
    on any platform; ``verify`` is 'full' (every byte hashed now) or 'lazy' (weights hashed in the background);
    ``max_bytes`` bounds the memory of one call (None: half of what is available). A bundle with code for GPUs runs on
    the first one where there is one that fits, else on the CPU if it has code for that too. Raises BundleRefused,
    BundleNotFound.
    """
    if native:
        container = Container.open(source)
        names = {t.name for t in container.manifest.targets}
        if "cuda" in names:
            cuda: Any = lazy("runtime.cuda.bundle")
            if names == {"cuda"} or cuda.usable():
                try:
                    on_gpu: CudaBundle = cuda.CudaBundle(container, threads, verify, max_bytes)
                    return on_gpu
                except BundleRefused as e:
                    if names == {"cuda"}:
                        raise
                    warnings.warn(f"{e}; it runs on the CPU", RuntimeWarning, stacklevel=2)
        return native_bundle.Bundle(container, threads, verify, max_bytes)
    portable: Any = lazy("portable")
    found: PortableBundle = portable.load(source, max_bytes=max_bytes)
    return found
