"""TensorList ops: a list is its elements stacked on axis 0 while a graph is lowered.

Owns lists of one element shape and a known length. Growing lists and lists of unlike elements are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.dims import Dim, Extent
from ....core.dtypes import DTYPES, I32, I64, DType
from ....ir.graph import Value
from ..lower import Ctx, op, same_type
from ..values import Item, ListOf, Tensor


def _list(c: Ctx, item: Item) -> ListOf:
    if not isinstance(item, ListOf):
        raise c.refuse("takes a list of tensors")
    return item


def _element(c: Ctx, item: Item) -> tuple[Extent, ...] | None:
    """An element shape from a tensor; None where anything is unknown."""
    found = c.extents(item, "the element shape")
    rank = len(c.tensor(item).shape)
    if rank == 0 or any(isinstance(d, int) and d < 0 for d in found):
        return None
    return tuple(found)


def empty(c: Ctx, dtype: DType, length: Extent, element: Sequence[Extent]) -> Tensor:
    """A stack of zeros."""
    return Tensor.of(c.bld.full((length, *element), 0, dtype))


def filled(c: Ctx, items: ListOf, like: Tensor | None = None) -> Tensor:
    """The stack, of zeros when nothing was written yet. Raises ImportRefused where the element shape is unknown."""
    if items.stack is not None:
        return items.stack
    element = items.element if items.element is not None else (None if like is None else like.shape)
    if element is None or items.length is None:
        raise c.refuse("the shape of the list's elements is not known")
    return empty(c, items.dtype, items.length, element)


@op("TensorListReserve", "EmptyTensorList", raw=True)
def _reserve(c: Ctx, shape: Item, count: Item) -> Any:
    if c.node.op == "EmptyTensorList":
        raise c.refuse("a list that grows is not supported")
    (n,) = c.extents(count, "the number of elements")
    return ListOf(c.type("element_dtype"), n, _element(c, shape))


@op("TensorListFromTensor", raw=True)
def _from_tensor(c: Ctx, item: Item, shape: Item) -> Any:
    t = c.tensor(item)
    return ListOf(t.dtype, t.shape[0], t.shape[1:], t)


@op("TensorListLength", raw=True)
def _length(c: Ctx, item: Item) -> Any:
    found = _list(c, item)
    return Tensor.known(np.array(found.length, object if isinstance(found.length, Dim) else np.int32), I32)


@op("TensorListElementShape", raw=True)
def _element_shape(c: Ctx, item: Item) -> Any:
    found = _list(c, item)
    if found.element is None or any(isinstance(d, Dim) for d in found.element):
        raise c.refuse("the shape of the list's elements is not known")
    return Tensor.known(np.array(found.element, np.int32), DTYPES["i32"])


@op("TensorListGetItem", raw=True)
def _get(c: Ctx, item: Item, index: Item, shape: Item) -> Any:
    items = _list(c, item)
    if items.stack is None and items.element is None:
        known = _element(c, shape)
        if known is None:
            raise c.refuse("the shape of the list's elements is not known")
        items = ListOf(items.dtype, items.length, known)
    return c.bld.gather(c.v(filled(c, items)), c.v(index), axis=0)


@op("TensorListSetItem", raw=True)
def _set(c: Ctx, item: Item, index: Item, value: Item) -> Any:
    items, t = _list(c, item), c.tensor(value)
    return write(c, items, c.v(index), t)


def write(c: Ctx, items: ListOf, index: Value, t: Tensor) -> ListOf:
    """The list with one element replaced."""
    stack = c.v(filled(c, items, t))
    row = c.bld.reshape(c.v(t), shape=(1, *t.shape))
    zero = c.bld.constant(np.array(0, np.int64), I64)
    at = same_type(c, index, I64)
    updated = c.bld.dynamic_update_slice(stack, row, at, *[zero] * t.rank)
    return ListOf(items.dtype, items.length, t.shape, Tensor.of(updated))


@op("TensorListStack", raw=True)
def _stack(c: Ctx, item: Item, shape: Item) -> Any:
    items = _list(c, item)
    if items.stack is None and items.element is None:
        items = ListOf(items.dtype, items.length, _element(c, shape))
    return filled(c, items)


@op("TensorListGather", raw=True)
def _gather(c: Ctx, item: Item, indices: Item, shape: Item) -> Any:
    return c.bld.gather(c.v(filled(c, _list(c, item))), c.v(indices), axis=0)
