"""What flows between nodes while a graph is lowered.

Owns Tensor (a value of the IR, or contents that are known already) and the kinds that are no tensors. Knows no op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.dims import Dim, Extent
from ...core.dtypes import I64, DType, encode
from ...core.errors import ImportRefused
from ...ir.builder import Builder
from ...ir.graph import Const, Value


class Tensor:
    """A tensor. ``content``, where known, is a NumPy array of its values, or an object array of ints and Dims."""

    __slots__ = ("dtype", "shape", "content", "_values", "_stored")

    def __init__(
        self, dtype: DType, shape: Sequence[Extent], content: np.ndarray | None = None, value: Value | None = None
    ) -> None:
        self.dtype, self.shape, self.content = dtype, tuple(shape), content
        self._values: dict[int, Value] = {}
        self._stored: Const | None = None
        if value is not None:
            self._values[id(value.graph)] = value

    @staticmethod
    def of(value: Value) -> Tensor:
        const = value.const
        if const is not None and const.array.size <= 1024:
            return Tensor(value.dtype, value.shape, _decode(const), value)
        return Tensor(value.dtype, value.shape, None, value)

    @staticmethod
    def known(array: np.ndarray, dtype: DType) -> Tensor:
        """A tensor of known contents (compute type, or objects)."""
        return Tensor(dtype, array.shape, array)

    @staticmethod
    def weight(array: np.ndarray, dtype: DType) -> Tensor:
        """A variable's contents in stored form: what needs decoding is not decoded, as nothing but values is made."""
        if dtype.np == dtype.compute:
            return Tensor.known(array, dtype)
        out = Tensor(dtype, array.shape)
        out._stored = Const(array, dtype)
        return out

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_constant(self) -> bool:
        return self.content is not None and self.content.dtype != object

    def value(self, b: Builder) -> Value:
        """The tensor as a value of the graph that ``b`` builds."""
        found = self._values.get(id(b.graph))
        if found is None and self._stored is not None:
            found = self._values[id(b.graph)] = b.constant(self._stored)
        if found is None:
            if self.content is None:
                raise ImportRefused("unsupported-op", "", "a value is used outside the region that makes it")
            found = self._values[id(b.graph)] = _materialise(b, self.content, self.dtype)
        return found


def _decode(const: Const) -> np.ndarray:
    from_bits = const.array if const.dtype.np == const.dtype.compute else None
    if from_bits is None:
        return (const.array.astype(np.uint32) << 16).view(np.float32).reshape(const.array.shape)
    return from_bits


def _materialise(b: Builder, content: np.ndarray, dtype: DType) -> Value:
    if content.dtype != object:
        if content.size > 1 and not any(content.strides):
            # One repeated value stays one, however large the tensor claims to be.
            one = encode(np.array(content[(0,) * content.ndim]), dtype)
            return b.broadcast_to(b.constant(Const(np.asarray(one, dtype.np), dtype)), shape=content.shape)
        return b.constant(Const(np.asarray(encode(content, dtype), dtype.np), dtype))
    parts = [_extent(b, e, dtype) for e in content.ravel()]
    if content.ndim == 0:
        return parts[0]
    rows = [b.reshape(p, shape=(1,)) for p in parts]
    return b.reshape(b.concat(*rows, axis=0), shape=content.shape)


def _extent(b: Builder, e: Extent, dtype: DType) -> Value:
    """An extent as a number: so many ones, added up."""
    if not isinstance(e, Dim):
        return b.constant(np.asarray(e, dtype.np))
    positive: list[tuple[Any, int]] = [(m, c) for m, c in e.terms if c > 0]
    negative = [(m, -c) for m, c in e.terms if c < 0]
    total: Value | None = None
    for terms, add in ((positive, True), (negative, False)):
        if not terms:
            continue
        extent = Dim(tuple(terms)) if any(m for m, _ in terms) else terms[0][1]
        one = b.reduce_sum(b.full((extent,), 1, I64), axes=(0,)) if isinstance(extent, Dim) else b.constant(extent, I64)
        total = one if total is None and add else b.neg(one) if total is None else b.sub(total, one)
    assert total is not None
    return total if dtype is I64 else b.cast(total, to=dtype)


@dataclass
class Complex:
    """A complex tensor as its two parts."""

    re: Tensor
    im: Tensor

    def each(self, fn: Callable[[Tensor], Any]) -> Complex:
        """What ``fn`` makes of both parts."""
        re, im = fn(self.re), fn(self.im)
        return Complex(Tensor.of(re) if isinstance(re, Value) else re, Tensor.of(im) if isinstance(im, Value) else im)


@dataclass
class Resource:
    """A handle to a variable (``key`` in the variables' table), or to something else that cannot be read."""

    key: str
    kind: str = "variable"


@dataclass
class Strings:
    """A string tensor: only file names and messages, which nothing computes with."""

    values: list[bytes]


@dataclass
class ListOf:
    """A TensorList or TensorArray: elements stacked on axis 0 (``stack`` None: no element written yet)."""

    dtype: DType
    length: Extent | None
    element: tuple[Extent, ...] | None
    stack: Tensor | None = None
    grows: bool = False


@dataclass
class Dead:
    """The side of a conditional that is known not to run."""


@dataclass
class Withheld:
    """A result that is refused as soon as something needs it, unless only its size counts (``unsigned``)."""

    reason: str
    unsigned: Tensor | None = None
    code: str = "unsupported-op"
    hint: str = ""


Item = Tensor | Complex | Resource | Strings | ListOf | Dead | Withheld
