"""One node as its lowering sees it: operands, attributes, opset, and what is known of small tensors.

Owns the table of lowerings and the refusals they raise. Must not know any particular operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ...core.dims import Extent
from ...core.dtypes import DType, decode
from ...core.errors import ImportRefused
from ...ir.graph import Const, Value
from ..positions import Positions
from .fold import Folder
from .reader import element_type

if TYPE_CHECKING:
    from .importer import Importer
    from .scope import Scope

Lowering = Callable[..., Any]
OPS: dict[tuple[str, str], Lowering] = {}
# Known operators that no lowering can have, and why.
REFUSED: dict[tuple[str, str], tuple[str, str]] = {}
_KIND = onnx.AttributeProto


def op(*names: str, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Register the lowering of operators: ``fn(call, *operands)`` gives a Value or a tuple of them."""

    def add(fn: Lowering) -> Lowering:
        for name in names:
            OPS[(domain, name)] = fn
        return fn

    return add


class Call:
    """A node being lowered. ``b`` is the Builder, ``inputs`` Values (None where left out)."""

    def __init__(
        self, importer: Importer, scope: Scope, node: Any, inputs: Sequence[Value | None], opset: int, where: str
    ) -> None:
        self.importer, self.scope, self.node = importer, scope, node
        self.b: Folder = scope.b
        self.inputs = list(inputs)
        self.opset, self.where = opset, where
        self.attrs = importer.attributes(scope, node, where)

    @property
    def type(self) -> str:
        return str(self.node.op_type)

    @property
    def n_outputs(self) -> int:
        return len(self.node.output)

    def wants(self, index: int) -> bool:
        """Is output ``index`` named at all?"""
        return index < len(self.node.output) and bool(self.node.output[index])

    def input(self, index: int) -> Value | None:
        """Operand ``index``, or None when it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def refuse(self, reason: str, code: str = "unsupported-option", hint: str = "") -> ImportRefused:
        """The refusal for this node."""
        return ImportRefused(code, self.where, f"{self.type}: {reason}", hint)

    def _attr(self, name: str, kinds: tuple[int, ...]) -> Any:
        a = self.attrs.get(name)
        if a is None:
            return None
        if a.type not in kinds:
            raise self.refuse(f"attribute {name} has a wrong type", "malformed")
        return a

    def integer(self, name: str, default: Any = None) -> Any:
        """An integer attribute."""
        a = self._attr(name, (_KIND.INT,))
        return default if a is None else int(a.i)

    def number(self, name: str, default: Any = None) -> Any:
        """A float attribute, as the float32 that the file holds."""
        a = self._attr(name, (_KIND.FLOAT,))
        return default if a is None else float(a.f)

    def text(self, name: str, default: Any = None) -> Any:
        """A string attribute."""
        a = self._attr(name, (_KIND.STRING,))
        return default if a is None else a.s.decode("utf-8", "replace")

    def ints(self, name: str, default: Any = None) -> Any:
        """An attribute of integers, as a tuple."""
        a = self._attr(name, (_KIND.INTS,))
        return default if a is None else tuple(int(i) for i in a.ints)

    def floats(self, name: str, default: Any = None) -> Any:
        """An attribute of floats, as a tuple."""
        a = self._attr(name, (_KIND.FLOATS,))
        return default if a is None else tuple(float(f) for f in a.floats)

    def strs(self, name: str, default: Any = None) -> Any:
        """An attribute of strings, as a tuple."""
        a = self._attr(name, (_KIND.STRINGS,))
        return default if a is None else tuple(s.decode("utf-8", "replace") for s in a.strings)

    def tensor(self, name: str) -> Const | None:
        """A tensor attribute."""
        a = self._attr(name, (_KIND.TENSOR,))
        return None if a is None else self.importer.tensor(a.t, f"{self.where}.{name}")

    def graph(self, name: str) -> Any:
        """A graph attribute. Raises ImportRefused when there is none."""
        a = self._attr(name, (_KIND.GRAPH,))
        if a is None:
            raise self.refuse(f"attribute {name} is missing", "malformed")
        return a.g

    def element(self, name: str, default: DType | None = None) -> DType:
        """An attribute that names an element type."""
        code = self.integer(name)
        if code is None:
            if default is None:
                raise self.refuse(f"attribute {name} is missing", "malformed")
            return default
        return element_type(code, self.where)

    def const(self, value: Value, what: str) -> np.ndarray:
        """The array of an operand that has to be known at import."""
        if value.const is None:
            raise self.refuse(
                f"{what} depends on values that are only known at run time", "data-dependent",
                "bind the input it comes from with feeds=",
            )  # fmt: skip
        return decode(value.const.array, value.dtype)

    def extents(self, value: Value, what: str) -> tuple[Extent, ...]:
        """The elements of an integer operand that shape a result: ints, or extents of symbols."""
        if value.rank > 1:
            raise self.refuse(f"{what} must be a vector, not {value.type}", "malformed")
        known = self.b.elements(value)
        if known is None:
            array = self.const(value, what)
            if array.dtype.kind not in "iu":
                raise self.refuse(f"{what} must be integers", "malformed")
            return tuple(int(v) for v in array.ravel())
        return tuple(known.ravel().tolist())

    @property
    def positions(self) -> Positions:
        """Extents and positions that are computed while the model runs."""
        return Positions(self.b, self.importer.fresh, self.b.dim)

    def elements(self, value: Value, what: str) -> list[Extent | Value]:
        """As ``extents``, with an i64 scalar for each element that depends on values."""
        if value.const is not None or self.b.elements(value) is not None or not value.dtype.is_int:
            return list(self.extents(value, what))
        found = self.positions.elements(value)
        return list(self.extents(value, what)) if found is None else found

    def sizes(self, value: Value, what: str) -> tuple[Extent, ...]:
        """As ``extents``; what depends on values is bound during the run."""
        at = self.positions
        return tuple(at.size(e) for e in self.elements(value, what))

    def known_ints(self, value: Value, what: str) -> tuple[int, ...]:
        """As ``extents``, where nothing may be symbolic (axes, steps...)."""
        found = self.extents(value, what)
        out = tuple(v for v in found if isinstance(v, int))
        if len(out) != len(found):
            raise self.refuse(f"{what} depends on the symbolic extent {found}", "data-dependent", "fix it with shapes=")
        return out

    def scalar(self, value: Value, what: str) -> Any:
        """The one element of an operand that has to be known, as a Python number."""
        array = self.const(value, what)
        if array.size != 1:
            raise self.refuse(f"{what} must be one element, not {value.type}", "malformed")
        return array.ravel()[0].item()

    def axis(self, axis: int, rank: int) -> int:
        """A possibly negative axis, checked."""
        if not -rank <= axis < max(rank, 1):
            raise self.refuse(f"axis {axis} is outside rank {rank}", "malformed")
        return axis + rank if axis < 0 else axis

    def like(self, number: Any, value: Value) -> Value:
        """A scalar constant of the operand's element type."""
        return self.b.constant(number, value.dtype)


__all__ = ["OPS", "REFUSED", "Call", "op"]
