"""Kernel text compiled inside this process, for tests and benchmarks of templates.

Owns nothing of the bundle's way: images are made by the toolchain. Must not be imported by it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit, types

from .. import registry
from ..twins import Memory, run_unjitted

SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64, types.int64)
_C_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def compile_text(text: str, entry: str) -> Callable[[int, int, int, int], None]:
    """A C function ``f(args_address, start, stop, scratch)`` of our own generated ``text``."""
    registry.load_all()
    llvm.initialize_native_asmparser()  # some tiles hold an instruction of their own
    space: dict[str, Any] = dict(registry.JITTED)
    exec(compile(text, f"<kernel {entry}>", "exec"), space)
    options = {"_nrt": False, "no_cpython_wrapper": True, "error_model": "numpy", "fastmath": False}
    jitted = njit(SIGNATURE, **options)(space[entry])
    compiled = jitted.overloads[jitted.signatures[0]]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
    function = _C_TYPE(address)
    function.keep_alive = jitted  # type: ignore[attr-defined]
    return function


def run_text(
    function: Callable[[int, int, int, int], None],
    words: Sequence[int],
    extent: int,
    scratch_bytes: int = 0,
    chunks: int = 1,
) -> None:
    """Call ``function`` over ``[0, extent)`` in ``chunks`` pieces, between which the scratch's first word says, as the
    dispatcher has it, where the last one ended."""
    block = np.array(list(words), np.int64)
    scratch = aligned(scratch_bytes)
    edges = np.linspace(0, extent, chunks + 1).astype(int)
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        function(block.ctypes.data, int(start), int(stop), scratch.ctypes.data)
        scratch[:8].view(np.int64)[:] = stop


def run_twin(
    text: str,
    entry: str,
    words: Sequence[int],
    arrays: Sequence[np.ndarray[Any, Any]],
    extent: int,
    scratch_bytes: int = 0,
) -> None:
    """The same text as plain Python over bounds-checked ``arrays``."""
    registry.load_all()
    memory = Memory()
    scratch = aligned(scratch_bytes)
    for array in (*arrays, scratch):
        memory.add(array)
    run_unjitted(registry.TWINS, text, entry, list(words), 0, extent, int(scratch.ctypes.data), memory)


def aligned(count: int) -> np.ndarray[Any, Any]:
    """``count`` bytes on a 64-byte boundary."""
    raw = np.zeros(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count]
