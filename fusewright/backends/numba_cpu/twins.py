"""The unjitted lane: kernel text run as plain Python over bounds-checked memory.

Owns Memory (registered buffers), checked pointers and the scalar twins of the prelude.
Must not import Numba.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ...core.dtypes import bf16_to_f32, f32_to_bf16


class OutOfBounds(IndexError):
    """A kernel touched bytes outside every registered buffer, or wrote to a read-only one."""


class Memory:
    """Address space of an unjitted run: ``add`` NumPy buffers, then use it as a context manager."""

    current: Memory | None = None

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._spans: list[tuple[int, int, np.ndarray, bool]] = []
        self._outer: list[Memory | None] = []

    def add(self, array: np.ndarray, writable: bool = True) -> int:
        """Register a C-contiguous array and return its address."""
        if not array.flags.c_contiguous:
            raise ValueError("only C-contiguous arrays can be registered")
        start = int(array.ctypes.data)
        at = bisect.bisect_right(self._starts, start)
        self._starts.insert(at, start)
        raw = array.reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)
        self._spans.insert(at, (start, start + array.nbytes, raw, writable and array.flags.writeable))
        return start

    def view(self, address: int, dtype: Any, count: int, write: bool = False) -> np.ndarray:
        """``count`` elements of ``dtype`` at ``address`` as an array over the registered buffer; checked."""
        size = np.dtype(dtype).itemsize * int(count)
        if size == 0:
            return np.empty(0, dtype)
        for at in range(bisect.bisect_right(self._starts, address) - 1, -1, -1):
            start, stop, raw, writable = self._spans[at]
            if start <= address and address + size <= stop:
                if write and not writable:
                    raise OutOfBounds(f"write to the read-only buffer at {start:#x}")
                return raw[address - start : address - start + size].view(dtype)
            if start <= address < stop:
                break
        raise OutOfBounds(f"{size} bytes at {address:#x} are in no registered buffer")

    def __enter__(self) -> Memory:
        self._outer.append(Memory.current)
        Memory.current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Memory.current = self._outer.pop()


def view(address: int, dtype: Any, count: int, write: bool = False) -> np.ndarray:
    """``Memory.view`` on the memory of the run in progress (what twins of tiles use)."""
    if Memory.current is None:
        raise RuntimeError("no Memory is active")
    return Memory.current.view(int(address), dtype, count, write)


class Pointer:
    """A typed address; every load and store is checked against the active Memory."""

    __slots__ = ("address", "dtype")

    def __init__(self, address: int, dtype: np.dtype[Any]) -> None:
        self.address, self.dtype = int(address), dtype

    def __getitem__(self, index: int) -> Any:
        return view(self.address + int(index) * self.dtype.itemsize, self.dtype, 1)[0]

    def __setitem__(self, index: int, value: Any) -> None:
        slot = view(self.address + int(index) * self.dtype.itemsize, self.dtype, 1, write=True)
        slot[0] = wrap(value, self.dtype)


def pointer_twin(np_name: str) -> Callable[[int], Pointer]:
    kind = np.dtype(np_name)
    return lambda address: Pointer(address, kind)


def wrap(value: Any, kind: np.dtype[Any]) -> Any:
    """``value`` converted as compiled code converts: integers wrap, float to integer gives INT_MIN out of range."""
    if kind.kind not in "iu":
        return kind.type(value)
    if isinstance(value, (float, np.floating)):
        wide = 64 if kind.itemsize == 8 or kind.name == "uint32" else 32
        low, x = -(2 ** (wide - 1)), float(value)
        if kind.name == "uint64" and x >= 2.0**63:
            whole = int(x) if x < 2.0**64 else 0
        else:
            whole = int(x) if math.isfinite(x) and low <= x < -low else low
    else:
        whole = int(value)
    return np.array(whole & (2 ** (8 * kind.itemsize) - 1), dtype=f"u{kind.itemsize}").view(kind)[()]


def cast_twin(np_name: str) -> Callable[[Any], Any]:
    kind = np.dtype(np_name)
    return lambda x: wrap(x, kind)


def _same(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``fn`` quietly and give the result in the first operand's type."""

    def twin(x: Any, *rest: Any) -> Any:
        kind = np.asarray(x).dtype
        with np.errstate(all="ignore"):
            return kind.type(fn(x, *rest)) if kind.kind == "f" else wrap(fn(x, *rest), kind)

    return twin


def _in_double(fn: Callable[[np.longdouble], Any]) -> Callable[[Any], Any]:
    """A scalar function evaluated in extended precision and rounded back."""

    def twin(x: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.asarray(x).dtype.type(fn(np.longdouble(x)))

    return twin


def _sigmoid(x: np.longdouble) -> Any:
    e = np.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else (x if np.isnan(x) else e / (1 + e))


def floordiv(x: Any, y: Any) -> Any:
    kind = np.asarray(x).dtype
    with np.errstate(all="ignore"):
        if kind.kind == "f":
            return np.floor_divide(x, y)
        return wrap(0 if int(y) == 0 else int(x) // int(y), kind)


def mod(x: Any, y: Any) -> Any:
    kind = np.asarray(x).dtype
    with np.errstate(all="ignore"):
        if kind.kind == "f":
            return np.mod(x, y)
        return wrap(0 if int(y) == 0 else int(x) % int(y), kind)


def truncdiv(x: Any, y: Any) -> Any:
    kind = np.asarray(x).dtype
    with np.errstate(all="ignore"):
        if kind.kind == "f":
            return kind.type(np.trunc(x / y))
        a, b = int(x), int(y)
        whole = 0 if b == 0 else abs(a) // abs(b)
        return wrap(whole if (a < 0) == (b < 0) else -whole, kind)


def rem(x: Any, y: Any) -> Any:
    kind = np.asarray(x).dtype
    with np.errstate(all="ignore"):
        if kind.kind == "f":
            return np.fmod(x, y)
        a, b = int(x), int(y)
        whole = 0 if b == 0 else abs(a) % abs(b)
        return wrap(-whole if a < 0 else whole, kind)


def shift_left(x: Any, y: Any) -> Any:
    kind = np.asarray(x).dtype
    n = int(y)
    return wrap(int(x) << n if 0 <= n < 8 * kind.itemsize else 0, kind)


def shift_right(x: Any, y: Any) -> Any:
    kind = np.asarray(x).dtype
    n = int(y)
    if 0 <= n < 8 * kind.itemsize:
        return wrap(int(x) >> n, kind)
    return wrap(-1 if int(x) < 0 else 0, kind)


def power(x: Any, y: Any) -> Any:
    kind = np.asarray(x).dtype
    with np.errstate(all="ignore"):
        if kind.kind == "f":
            # NumPy's vector loops give NaN for pow(-inf, 0.5).
            return kind.type(math.pow(x, y) if np.isinf(x) or np.isinf(y) else np.power(x, y))
        a, n = int(x), int(y)
        if n >= 0:
            return wrap(pow(a, n, 2 ** (8 * kind.itemsize)), kind)
        return wrap(1 if a == 1 else (-1 if n % 2 else 1) if a == -1 else 0, kind)


def fma(x: Any, y: Any, z: Any) -> Any:
    """One rounding for f32 (double holds the product exactly); for f64 through extended precision."""
    kind = np.asarray(x).dtype
    with np.errstate(all="ignore"):
        return kind.type(np.longdouble(x) * np.longdouble(y) + np.longdouble(z))


def f16_f32(x: Any) -> Any:
    return np.float32(np.uint16(x).view(np.float16))


def f32_f16(x: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.float16(x).view(np.uint16)


def bf16_f32(x: Any) -> Any:
    return bf16_to_f32(np.array(x, np.uint16))[()]


def f32_bf16(x: Any) -> Any:
    return f32_to_bf16(np.array(x, np.float32))[()]


def round_to_odd(x: Any) -> Any:
    """float64 to float32, inexact results made odd, so that a second rounding is right."""
    with np.errstate(all="ignore"):
        y = np.float32(x)
    if np.isnan(x) or float(y) == float(x):
        return y
    pattern = int(y.view(np.int32)) - (1 if abs(float(y)) > abs(float(x)) else 0)
    return np.array(pattern | 1, np.int64).astype(np.int32).view(np.float32)[()]


SCALARS: dict[str, Callable[..., Any]] = {
    "exp": _same(np.exp), "expm1": _same(np.expm1), "log": _same(np.log), "log1p": _same(np.log1p),
    "sqrt": _same(np.sqrt), "rsqrt": _in_double(lambda x: 1 / np.sqrt(x)), "sin": _same(np.sin), "cos": _same(np.cos),
    "tan": _same(np.tan), "asin": _same(np.arcsin), "acos": _same(np.arccos), "atan": _same(np.arctan),
    "sinh": _same(np.sinh), "cosh": _same(np.cosh), "tanh": _same(np.tanh), "asinh": _same(np.arcsinh),
    "acosh": _same(np.arccosh), "atanh": _same(np.arctanh), "sigmoid": _in_double(_sigmoid),
    "softplus": _in_double(lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))),
    "silu": _in_double(lambda x: x * _sigmoid(x)),
    "gelu": _same(lambda x: x * 0.5 * math.erfc(x * -math.sqrt(0.5))),
    "gelu_tanh": _in_double(lambda x: x * _sigmoid(x * (1 + 0.044715 * x * x) * (2 * math.sqrt(2 / math.pi)))),
    "erf": _same(lambda x: math.erf(x)), "erfc": _same(lambda x: math.erfc(x)),
    "atan2": _same(np.arctan2), "pow": power, "floordiv": floordiv, "mod": mod, "truncdiv": truncdiv, "rem": rem,
    "maximum": _same(np.maximum), "minimum": _same(np.minimum), "floor": _same(np.floor), "ceil": _same(np.ceil),
    "trunc": _same(np.trunc), "rint": _same(np.rint), "fabs": _same(np.abs), "absolute": _same(lambda x: abs(x)),
    "sign": _same(np.sign), "copysign": _same(np.copysign), "fma": fma,
    "relu": _same(lambda x: np.maximum(x, type(x)(0))),
    "isnan": lambda x: bool(np.isnan(x)), "isinf": lambda x: bool(np.isinf(x)),
    "isfinite": lambda x: bool(np.isfinite(x)),
    "select": lambda c, x, y: x if c else y, "shift_left": shift_left, "shift_right": shift_right,
    "f16_f32": f16_f32, "f32_f16": f32_f16, "bf16_f32": bf16_f32, "f32_bf16": f32_bf16,
    "f64_f16": lambda x: f32_f16(round_to_odd(x)), "f64_bf16": lambda x: f32_bf16(round_to_odd(x)),
    "bits": lambda x: np.asarray(x).view(f"i{np.asarray(x).dtype.itemsize}")[()],
    "from_bits": lambda x: np.asarray(x).view(f"f{np.asarray(x).dtype.itemsize}")[()],
}  # fmt: skip


def run_unjitted(
    namespace: dict[str, Any],
    text: str,
    entry: str,
    args: Sequence[int],
    start: int,
    stop: int,
    scratch: int,
    memory: Memory,
) -> None:
    """Run kernel ``text`` (our own generated source) over ``memory`` with ``namespace`` as its prelude."""
    space = dict(namespace)
    exec(compile(text, f"<kernel {entry}>", "exec"), space)
    with memory, np.errstate(all="ignore"):
        space[entry](tuple(int(a) for a in args), int(start), int(stop), int(scratch))
