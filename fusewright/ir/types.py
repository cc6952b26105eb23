"""Tensor types: an element type and a symbolic shape.

Owns interning and shape helpers. Must not know about ops or graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.dims import DimLike, Extent, evaluate, extent, product, substitute, symbols
from ..core.dtypes import DType, dtype
from ..core.errors import TypeRefused

Shape = tuple[Extent, ...]


class TensorType:
    """An interned ``dtype[shape]``. Equal types are one object; ``shape`` holds ints and Dims.

    ``size``: number of elements; ``nbytes``: of a dense array of this type.
    """

    __slots__ = ("dtype", "shape", "size", "nbytes", "__weakref__")
    _table: dict[tuple[str, tuple[str, ...]], TensorType] = {}

    dtype: DType
    shape: Shape
    size: Extent
    nbytes: Extent

    def __new__(cls, element: Any, shape: Iterable[DimLike] = ()) -> TensorType:
        dt = dtype(element)
        dims = tuple(extent(d) for d in shape)
        if any(isinstance(d, int) and d < 0 for d in dims):
            raise TypeRefused(f"an extent is negative: {dt}[{', '.join(map(str, dims))}]")
        key = (dt.name, tuple(map(str, dims)))
        found = cls._table.get(key)
        if found is None:
            found = object.__new__(cls)
            object.__setattr__(found, "dtype", dt)
            object.__setattr__(found, "shape", dims)
            # Asked for again and again, and products of symbolic extents are slow.
            object.__setattr__(found, "size", product(dims))
            object.__setattr__(found, "nbytes", found.size * dt.size)
            cls._table[key] = found
        return found

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("TensorType is frozen")

    def __reduce__(self) -> tuple[object, ...]:
        return (TensorType, (self.dtype, self.shape))

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols in the shape, sorted."""
        return tuple(sorted({s for d in self.shape for s in symbols(d)}))

    @property
    def is_static(self) -> bool:
        """True when every extent is an int."""
        return all(isinstance(d, int) for d in self.shape)

    def with_shape(self, shape: Iterable[DimLike]) -> TensorType:
        """The same element type with another shape."""
        return TensorType(self.dtype, shape)

    def with_dtype(self, element: Any) -> TensorType:
        """The same shape with another element type."""
        return TensorType(element, self.shape)

    def substitute(self, env: Mapping[str, Extent]) -> TensorType:
        """The type with symbols of ``env`` replaced."""
        return TensorType(self.dtype, (substitute(d, env) for d in self.shape))

    def concrete(self, env: Mapping[str, int]) -> tuple[int, ...]:
        """The shape under a binding of its symbols."""
        return tuple(evaluate(d, env) for d in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__
