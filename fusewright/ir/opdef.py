"""OpDef: everything the compiler knows about one op, in one row of one table.

Owns the record, the registry and attribute canonicalisation. Must not know any particular op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..core.dims import Dim, Extent, evaluate, extent, substitute
from ..core.dtypes import DType, dtype
from ..core.errors import NoSuchOp, TypeRefused
from .graph import Const, Graph, Node, Value
from .types import TensorType

Kind = Literal[
    "elementwise", "broadcast", "view", "reduce", "contract", "window", "gather", "scan", "fused", "opaque", "source"
]
Attrs = Mapping[str, Any]
REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class EvalContext:
    """How ``eval`` computes: ``env`` binds symbols; ``wide`` computes every float in float64."""

    env: MutableMapping[str, int]
    wide: bool = False
    run_region: Callable[[Graph, Sequence[np.ndarray]], list[np.ndarray]] | None = None

    def np_dtype(self, dt: DType) -> np.dtype[Any]:
        """The NumPy type in which values of ``dt`` are computed."""
        return np.dtype(np.float64) if self.wide and dt.is_float else dt.compute

    def bind(self, name: str, value: int) -> None:
        """From here on the symbol ``name`` stands for ``value``."""
        self.env[name] = value


@dataclass(frozen=True, slots=True)
class BoundContext:
    """What an error bound may look at: attributes resolved, and the result's arithmetic.

    ``u`` is the unit roundoff, ``eta`` the least positive number, ``top`` the largest finite one; ``acc`` the roundoff
    of sums (bf16 sums in float32 and rounds once). Integers and bools round nothing: 0, 0, inf, 0. ``overflows``: what
    is beyond ``top`` for certain is the infinity that ``eval`` gives, not undecided.
    """

    attrs: Attrs
    ctx: EvalContext
    u: float = 2.0**-24
    eta: float = 2.0**-149
    top: float = 3.4028234663852886e38
    acc: float = 2.0**-24
    overflows: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """Arithmetic operations and bytes moved, as extents."""

    flops: Extent
    bytes: Extent


@dataclass(frozen=True, eq=False)
class OpDef:
    """One op.

    name        canonical name, also the Builder method
    operands    names of the operands; a trailing ``*`` takes any number, a trailing ``?`` may be left out (at the end)
    attrs       name -> default (REQUIRED if none)
    kind        what passes may assume about its access pattern
    infer       (operand types, attrs, regions) -> result types; raises TypeRefused
    eval        (arrays, attrs with extents bound, context) -> array or tuple: the semantics
    bound       (arrays, errors, result, BoundContext) -> absolute error of any float32 evaluation (see facts: running
                error analysis, Higham, Accuracy and Stability of Numerical Algorithms, ch. 3)
    scalar      elementwise only: the element expression over a, b, c... and attribute names
    views       result index -> operand index whose storage the result may share unchanged
    overwrites  operands whose storage a kernel may reuse for result 0 when it reads each element (ops along an axis:
                each line) before it writes there
    ulp         documented error of the library function behind it, in float32 units in the last place
    decompose   composite only: (builder, operands, attrs) -> values in simpler ops
    sample      hint for generators: (draw, make operand) -> (operands, attrs), or None
    """

    name: str
    operands: tuple[str, ...]
    kind: Kind
    infer: Callable[[Sequence[TensorType], dict[str, Any], Sequence[Graph]], Sequence[TensorType]]
    eval: Callable[[Sequence[np.ndarray], Attrs, EvalContext], Any] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    bound: Callable[[Sequence[np.ndarray], Sequence[np.ndarray], np.ndarray, BoundContext], np.ndarray] | None = None
    scalar: str | None = None
    views: Mapping[int, int] = field(default_factory=dict)
    overwrites: tuple[int, ...] = ()
    commutative: bool = False
    effects: frozenset[str] = frozenset()
    ulp: float = 0.5
    cost: Callable[[Node], Cost] | None = None
    sample: Callable[..., Any] | None = None
    decompose: Callable[..., Any] | None = None
    gradient: Callable[..., Any] | None = None
    doc: str = ""

    @property
    def variadic(self) -> bool:
        return bool(self.operands) and self.operands[-1].endswith("*")

    @property
    def required(self) -> int:
        return sum(not n.endswith(("*", "?")) for n in self.operands)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, OpDef] = {}


def define_op(op: OpDef) -> OpDef:
    """Add an op to the table as it stands (declare.py looks at those of users). TypeRefused if the name is taken."""
    if op.name in OPS:
        raise TypeRefused(f"op {op.name!r} is defined already")
    OPS[op.name] = op
    return op


def get_op(name: str) -> OpDef:
    """The op called ``name``. Raises NoSuchOp naming near matches."""
    if name in OPS:
        return OPS[name]
    near = [n for n in OPS if n.startswith(name[:3])][:5]
    raise NoSuchOp(f"there is no op {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))


def canonical_attr(value: Any) -> Any:
    """An attribute in its one hashable form: tuples for sequences, Python's ints and floats, extents, DTypes, Const."""
    if value is None or isinstance(value, (bool, int, float, str, Dim, DType, Const)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(canonical_attr(v) for v in value)
    if isinstance(value, np.generic):
        return canonical_attr(value.item())
    if isinstance(value, (np.dtype, type)):
        return dtype(value)
    raise TypeRefused(f"an attribute cannot hold {type(value).__name__}")


def fill_attrs(op: OpDef, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` canonical, in table order, with defaults. Raises TypeRefused for a missing or unknown name."""
    unknown = [n for n in given if n not in op.attrs]
    if unknown:
        raise TypeRefused(f"{op.name} has no attribute {unknown[0]!r}; it has {', '.join(op.attrs) or 'none'}")
    out = {}
    for name, default in op.attrs.items():
        value = given.get(name, default)
        if value is REQUIRED:
            raise TypeRefused(f"{op.name} needs the attribute {name!r}")
        out[name] = _like_default(op, name, canonical_attr(value), default)
    return out


def _like_default(op: OpDef, name: str, value: Any, default: Any) -> Any:
    """The value in its default's type where that is bool, float or str, so that equal attributes are one."""
    if isinstance(default, bool) and isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(default, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, (bool, float)) or isinstance(default, str) and not isinstance(value, str):
        raise TypeRefused(f"{op.name}: {name} must be a {type(default).__name__}, not {value!r}")
    return value


def substitute_attr(value: Any, env: Mapping[str, Extent]) -> Any:
    """The attribute with symbols replaced."""
    if isinstance(value, Dim):
        return substitute(value, env)
    if isinstance(value, tuple):
        return tuple(substitute_attr(v, env) for v in value)
    return value


def bind_attr(value: Any, env: Mapping[str, int]) -> Any:
    """The attribute with every extent an int."""
    if isinstance(value, Dim):
        return evaluate(value, env)
    if isinstance(value, tuple):
        return tuple(bind_attr(v, env) for v in value)
    return value


def extents(values: Sequence[Any]) -> tuple[Extent, ...]:
    """Attribute helper: a tuple of extents from ints, names and Dims."""
    return tuple(extent(v) for v in values)


__all__ = [
    "OPS", "REQUIRED", "Attrs", "BoundContext", "Cost", "EvalContext", "Kind", "OpDef", "Value", "bind_attr",
    "canonical_attr", "define_op", "extents", "fill_attrs", "get_op", "substitute_attr",
]  # fmt: skip
