"""Element access that lets in-place loops vectorise: ``get`` and ``put``.

Owns the alias annotations of loops whose every element is read before its only write. Must not know about ops.

LLVM guards a vector loop by a run-time overlap check of its buffers, which an in-place loop fails. ``get`` and ``put``
carry alias scopes instead: no ``put`` of a kernel changes what a ``get`` of it reads later. That holds where
a buffer is shared at equal indices only and the stored value is computed from the loaded one.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from .registry import register


def _mark(builder: Any, instruction: Any, mine: str, others: str) -> None:
    module = builder.module
    domain = module.add_metadata(["fusewright"])
    for kind, name in (("alias.scope", mine), ("noalias", others)):
        scope = module.add_metadata([f"fusewright.{name}", domain])
        instruction.set_metadata(kind, module.add_metadata([scope]))


@intrinsic
def get(typingctx: Any, pointer: Any, index: Any) -> Any:
    """``pointer[index]``, which no ``put`` of this kernel changes before it is read."""
    if not isinstance(pointer, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(builder.gep(args[0], [args[1]]))
        _mark(builder, loaded, "read", "written")
        return loaded

    return pointer.dtype(pointer, types.int64), codegen


@intrinsic
def put(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    """``pointer[index] = value``, at a place that no later ``get`` of this kernel reads."""
    if not isinstance(pointer, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = builder.store(args[2], builder.gep(args[0], [args[1]]))
        _mark(builder, stored, "written", "read")
        return context.get_dummy_value()

    return types.void(pointer, types.int64, pointer.dtype), codegen


def _get_twin(pointer: Any, index: int) -> Any:
    return pointer[index]


def _put_twin(pointer: Any, index: int, value: Any) -> None:
    pointer[index] = value


register("get", get, _get_twin)
register("put", put, _put_twin)
