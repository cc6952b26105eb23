"""Sources and state: constants, placeholders, variables.

Owns reading variables through their handles. Nothing is ever written: assignments have no lowering.
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import F32, F64
from ....core.errors import ImportRefused
from ..lower import Ctx, op
from ..tensors import COMPLEX64, COMPLEX128, STRING, array_of, complex_of, decoded, strings_of
from ..values import Complex, Item, Resource, Strings, Tensor, Withheld


@op("Const", "HostConst", raw=True)
def _const(c: Ctx) -> Any:
    proto = c.tensor_proto("value")
    if proto.get("dtype") == STRING:
        return Strings(strings_of(proto, c.where, c.limits))
    if proto.get("dtype") in (COMPLEX64, COMPLEX128):
        re, im = complex_of(proto, c.where, c.limits, c.lowerer.graph.file_bytes)
        kind = F32 if proto["dtype"] == COMPLEX64 else F64
        return Complex(Tensor.known(re, kind), Tensor.known(im, kind))
    array, kind = array_of(proto, c.where, c.limits, c.lowerer.graph.file_bytes)
    return Tensor.known(decoded(array, kind), kind)


@op("Placeholder", "PlaceholderV2", raw=True)
def _placeholder(c: Ctx) -> Any:
    return Withheld(
        f"the outputs need the placeholder {c.node.name!r}, which is not among the inputs", None, "no-such-input",
        f"add it to inputs=, or bind it with feeds={{{c.node.name!r}: ...}}",
    )  # fmt: skip


@op("NoOp", "Assert", raw=True)
def _nothing(c: Ctx, *items: Item) -> Any:
    return []


@op("VarHandleOp", raw=True)
def _handle(c: Ctx) -> Any:
    if c.scope.path:
        raise c.refuse("a variable made inside a function has no stored value")
    return Resource(c.node.name)


def contents(c: Ctx, name: str) -> Tensor:
    """What a variable holds, or the refusal that nothing does."""
    c.lowerer.reads.setdefault(name, c.where)
    found = c.lowerer.variables(name)
    if found is None:
        raise ImportRefused(
            "weights", c.where, f"the variable {name!r} has no stored value",
            "import the SavedModel or checkpoint that holds it, or bind it with feeds=",
        )  # fmt: skip
    return found


@op("ReadVariableOp", raw=True)
def _read(c: Ctx, handle: Item) -> Any:
    if not isinstance(handle, Resource) or handle.kind != "variable":
        raise c.refuse("reads something that is no variable")
    return contents(c, handle.key)


@op("VariableV2", "Variable", raw=True)
def _variable(c: Ctx) -> Any:
    if c.scope.path:
        raise c.refuse("a variable made inside a function has no stored value")
    return contents(c, c.node.name)
