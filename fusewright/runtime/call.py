"""Arguments of a call: names, types, layouts, shapes.

Owns the way from what a user passes to C-contiguous native arrays and symbol values, and every refusal on that way.
Must not know plans, arenas or native code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core import dims
from ..core.dtypes import BF16, DType, bf16_to_f32, f32_to_bf16
from ..core.errors import BundleRefused, InputRefused
from ..core.manifest import Port, Symbol
from .expressions import evaluator

Array = np.ndarray[Any, Any]
READY = 0x101  # flags of an array that is C-contiguous and aligned
WRITABLE = READY | 0x400


class Spec:
    """A port with its shape ready to be matched."""

    __slots__ = ("name", "dtype", "stored", "shape", "exprs", "rank")

    def __init__(self, port: Port) -> None:
        self.name, self.dtype, self.stored = port.name, port.dtype, port.dtype.np
        self.shape, self.rank = port.shape, len(port.shape)
        self.exprs: list[dims.Extent] = [dims.parse(d) if isinstance(d, str) else d for d in port.shape]

    def wanted(self) -> str:
        """``f32 (N, 64)``."""
        inner = ", ".join(map(str, self.shape)) + ("," if self.rank == 1 else "")
        return f"{self.dtype} ({inner})"

    def refused(self, got: str, hint: str = "") -> InputRefused:
        """A refusal that names the input, what came and what was wanted."""
        return InputRefused(f"input {self.name!r}: got {got}, wanted {self.wanted()}{f' ({hint})' if hint else ''}")


def convert(spec: Spec, value: Any) -> Array:
    """``value`` as a C-contiguous, aligned, native array of the stored type; itself where it is that already."""
    if isinstance(value, np.ndarray):
        if hasattr(value, "_mask"):
            raise spec.refused("a masked array", "fill it first: x.filled(value)")
        array = value
    elif isinstance(value, np.generic):
        array = np.asarray(value)
    elif isinstance(value, (list, tuple, int, float)):
        return _from_python(spec, value)
    else:
        array = _foreign(spec, value)
    have = array.dtype
    if have == spec.stored and spec.dtype is not BF16:
        return np.asarray(array) if array.flags.num & READY == READY else _copy(spec, array, spec.stored)
    if spec.dtype is BF16:
        if have.name == "bfloat16":
            return _copy(spec, array, have).view(np.uint16)
        if have.newbyteorder("=") == np.float32:
            return np.asarray(f32_to_bf16(_copy(spec, array, np.dtype(np.float32))))
    elif have.newbyteorder("=") == spec.stored:
        return _copy(spec, array, spec.stored)
    want = "float32" if spec.dtype is BF16 else spec.stored.name
    hint = f"convert it yourself if that is what you mean: x.astype(np.{want if want != 'bool' else 'bool_'})"
    raise spec.refused(f"{have} {array.shape}", hint)


def _copy(spec: Spec, array: Array, dtype: np.dtype[Any]) -> Array:
    try:
        return np.array(array, dtype=dtype, order="C", copy=True, subok=False)
    except (MemoryError, ValueError) as e:
        raise spec.refused(
            f"shape {array.shape}", f"a C-contiguous copy is needed, and there is no memory: {e}"
        ) from None


def _foreign(spec: Spec, value: Any) -> Array:
    """An object of another library, through the array protocols; never through iteration."""
    protocols = ("__array__", "__array_interface__", "__array_struct__", "__dlpack__")
    if isinstance(value, type) or not any(hasattr(value, p) for p in protocols):
        if not isinstance(value, memoryview):
            raise spec.refused(f"a {type(value).__name__}", "pass a NumPy array")
    try:
        if any(hasattr(value, p) for p in protocols[:3]) or isinstance(value, memoryview):
            return np.asarray(value)
        return np.from_dlpack(value)
    except Exception as e:  # whatever the foreign object raises, the user sees one family of errors
        raise spec.refused(f"a {type(value).__name__} that gives no array: {e}", "pass a NumPy array") from e


def _from_python(spec: Spec, value: Any) -> Array:
    """A list, tuple or scalar, where the conversion loses nothing but the rounding of a Python float."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as e:
        raise spec.refused(f"a {type(value).__name__} that gives no array: {e}", "pass a NumPy array") from None
    what = f"a {type(value).__name__} of {array.dtype} {array.shape}"
    to = np.dtype(np.float32) if spec.dtype is BF16 else spec.stored
    kind = array.dtype.kind
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[spec.dtype.kind]
    if array.size and kind not in allowed:
        raise spec.refused(what, "pass a NumPy array of the right type")
    with np.errstate(all="ignore"):
        out = array.astype(to, order="C")
        if kind == "f":
            lost = bool((np.isinf(out) & np.isfinite(array)).any())
        else:
            lost = bool((out.astype(object) != array.astype(object)).any()) if array.size else False
    if lost:
        raise spec.refused(what, f"a value in it does not fit {spec.dtype}")
    return np.asarray(f32_to_bf16(out)) if spec.dtype is BF16 else out


class Matcher:
    """Finds the symbol values that explain the shapes of the inputs."""

    def __init__(self, inputs: Sequence[Spec], symbols: Sequence[Symbol]) -> None:
        """Raises BundleRefused when a symbol cannot be found from any shapes."""
        self.inputs, self.symbols = inputs, symbols
        self.plain: list[tuple[int, int, int | str]] = []
        self.rest: list[tuple[int, int, dims.Dim]] = []
        for i, spec in enumerate(inputs):
            for axis, e in enumerate(spec.exprs):
                if isinstance(e, int):
                    self.plain.append((i, axis, e))
                elif str(e) == spec.shape[axis] and len(e.terms) == 1 and _is_symbol(e):
                    self.plain.append((i, axis, str(e)))
                else:
                    self.rest.append((i, axis, e))
        found = {s.name for s in symbols if s.low == s.high} | {d for _, _, d in self.plain if isinstance(d, str)}
        self.order: list[tuple[int, int, str, int, Callable[[Mapping[str, int]], int]]] = []
        left = list(self.rest)
        while left:
            step = next(((i, axis, e, s) for i, axis, e in left if (s := _linear_unknown(e, found)) is not None), None)
            if step is None:
                break
            i, axis, e, name = step
            factor = next(c for m, c in e.terms if len(m) == 1 and m[0].text == name)
            self.order.append((i, axis, name, factor, evaluator(e - factor * dims.symbol(name))))
            found.add(name)
        lost = [s.name for s in symbols if s.name not in found]
        if lost:
            raise BundleRefused(f"no input shape tells the value of symbol {', '.join(lost)}")
        self.values = [(i, axis, e, evaluator(e)) for i, axis, e in self.rest]

    def solve(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """Symbol values. Raises InputRefused naming the input, the axis, what came and what was wanted."""
        env = {s.name: s.low for s in self.symbols if s.low == s.high}
        where: dict[str, str] = {}
        for spec, shape in zip(self.inputs, shapes):
            if len(shape) != spec.rank:
                raise spec.refused(f"rank {len(shape)} {shape}", f"rank {spec.rank} is needed")
        for i, axis, want in self.plain:
            have = shapes[i][axis]
            if isinstance(want, int):
                if have != want:
                    raise self.inputs[i].refused(f"shape {shapes[i]}", f"axis {axis} must be {want}")
            else:
                self._bind(env, where, want, have, i, axis, shapes)
        for i, axis, name, factor, others in self.order:
            value, over = divmod(shapes[i][axis] - others(env), factor)
            if over or value < 0:
                text = f"no {name} makes axis {axis} ({self.inputs[i].shape[axis]}) equal {shapes[i][axis]}"
                raise self.inputs[i].refused(f"shape {shapes[i]}", text)
            self._bind(env, where, name, value, i, axis, shapes)
        for i, axis, e, value_of in self.values:
            if value_of(env) != shapes[i][axis]:
                text = f"axis {axis} must be {e} = {value_of(env)}, as {_listed(env)}"
                raise self.inputs[i].refused(f"shape {shapes[i]}", text)
        for s in self.symbols:
            value = env[s.name]
            if value < s.low or (s.high is not None and value > s.high):
                place = f" (from {where[s.name]})" if s.name in where else ""
                limits = f"from {s.low} to {s.high}" if s.high is not None else f"at least {s.low}"
                limits = f"exactly {s.low}" if s.low == s.high else limits
                raise InputRefused(f"symbol {s.name} is {value}{place}, but this bundle was compiled for {limits}")
        return env

    def _bind(
        self,
        env: dict[str, int],
        where: dict[str, str],
        name: str,
        value: int,
        i: int,
        axis: int,
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        place = f"input {self.inputs[i].name!r} axis {axis}"
        known = env.setdefault(name, value)
        if known != value:
            earlier = where.get(name)
            why = f"{name} is {known} {'as ' + earlier + ' says' if earlier else 'in this bundle'}"
            raise self.inputs[i].refused(f"shape {shapes[i]}", f"axis {axis} must be {known}, as {why}")
        where.setdefault(name, place)


def _is_symbol(e: dims.Dim) -> bool:
    monomial, c = e.terms[0]
    return c == 1 and len(monomial) == 1 and monomial[0].op == "symbol"


def _linear_unknown(e: dims.Dim, known: set[str]) -> str | None:
    """The one symbol of ``e`` that is not known, if it occurs once and to the first power."""
    unknown = [s for s in dims.symbols(e) if s not in known]
    if len(unknown) != 1:
        return None
    holders = [m for m, _ in e.terms if any(unknown[0] in dims.symbols(dims.Dim((((a,), 1),))) for a in m)]
    alone = len(holders) == 1 and len(holders[0]) == 1 and holders[0][0].op == "symbol"
    return unknown[0] if alone else None


def _listed(env: Mapping[str, int]) -> str:
    return ", ".join(f"{k} = {v}" for k, v in env.items())


def ordered(specs: Sequence[Spec], args: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """Positional and named values in the order of the inputs. Raises InputRefused with all wrong names at once."""
    if not args and len(named) == len(specs):
        try:
            return [named[s.name] for s in specs]
        except KeyError:
            pass  # told below, with everything else that is wrong
    names = [s.name for s in specs]
    if len(args) > len(specs):
        raise InputRefused(f"got {len(args)} inputs, wanted {len(specs)}: {', '.join(names) or 'none'}")
    given: dict[Any, Any] = dict(zip(names, args))
    twice = [n for n in named if n in given]
    unknown = [n for n in named if n not in names]
    missing = [n for n in names if n not in given and n not in named]
    if twice or unknown or missing:
        parts = [
            f"{what} {', '.join(map(repr, found))}"
            for what, found in (("given twice:", twice), ("unknown:", unknown), ("missing:", missing))
            if found
        ]
        raise InputRefused(f"inputs {'; '.join(parts)}; this model takes {', '.join(map(repr, names)) or 'none'}")
    given.update(named)
    return [given[n] for n in names]


def by_name(specs: Sequence[Spec], inputs: Any, who: str) -> list[Any]:
    """The values of a dict of inputs in the order of the inputs. Raises InputRefused; ``who`` is what was called."""
    if not isinstance(inputs, Mapping):
        raise InputRefused(f"{who} takes a dict of inputs, not a {type(inputs).__name__}")
    return ordered(specs, (), inputs)


def listed(specs: Sequence[Spec], out: Any) -> list[Any]:
    """``out`` as one array per output. Raises InputRefused."""
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    if len(outs) != len(specs):
        raise InputRefused(f"out: got {len(outs)} arrays, wanted {len(specs)} in a tuple")
    return outs


def bfloat16_of(values: Sequence[Any]) -> np.dtype[Any] | None:
    """The caller's bfloat16 type, when one of these arrays has it."""
    for v in values:
        have = getattr(v, "dtype", None)
        if isinstance(have, np.dtype) and have.name == "bfloat16":
            return have
    return None


def outward(dtype: DType, like: np.dtype[Any] | None) -> np.dtype[Any]:
    """The NumPy type in which an output crosses the API; ``like`` is bfloat16's type when the caller uses it."""
    return (like or np.dtype(np.float32)) if dtype is BF16 else dtype.np


def decoded(stored: Array, to: np.dtype[Any]) -> Array:
    """bf16 bit patterns as ``to`` (float32, or ml_dtypes' bfloat16)."""
    return np.asarray(bf16_to_f32(stored)) if to == np.float32 else stored.view(to)


def bindable(spec: Spec, array: Any, what: str) -> Array:
    """An array of the host that a bound call reads or writes where it lies. Raises InputRefused."""
    what = f"{what} {spec.name!r}"
    if not isinstance(array, np.ndarray):
        raise InputRefused(f"{what}: got a {type(array).__name__}, wanted a NumPy array")
    stored = array.view(np.uint16) if spec.dtype is BF16 and array.dtype.name == "bfloat16" else array
    if stored.dtype != spec.stored:
        raise InputRefused(f"{what}: got {array.dtype}, wanted {spec.stored} as stored ({spec.wanted()})")
    if stored.flags.num & READY != READY:
        raise InputRefused(f"{what}: a bound array must be C-contiguous and aligned; use np.ascontiguousarray first")
    return stored


def usable_output(spec: Spec, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """``value`` if results can be stored in it. Raises InputRefused."""
    if not isinstance(value, np.ndarray) or hasattr(value, "_mask"):
        raise InputRefused(f"out for {spec.name!r}: got a {type(value).__name__}, wanted a NumPy array")
    if value.dtype.newbyteorder("=") != dtype or value.shape != shape:
        got = f"{value.dtype} {value.shape}"
        raise InputRefused(f"out for {spec.name!r}: got {got}, wanted {dtype} {shape} for {spec.wanted()}")
    if not value.flags.writeable:
        raise InputRefused(f"out for {spec.name!r}: the array is read-only")
    return value
