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
    if c.b("resize_if_index_out_of_bounds", False):
        at = c.tensor(index)
        if at.is_constant:
            items = _grown(c, items, c.number_of(at, "the index") + 1)
        elif items.length == 0:
            raise c.refuse("a list that grows is not supported", "give the TensorArray its size", "data-dependent")
    return write(c, items, c.v(index), t)


def write(c: Ctx, items: ListOf, index: Value, t: Tensor) -> ListOf:
    """The list with one element replaced."""
    stack = c.v(filled(c, items, t))
    if items.grows and c.tensor(index).content is None:
        raise c.refuse("a list that grows is not supported")
    known = c.tensor(index).content
    if known is not None and isinstance(items.length, int) and not 0 <= int(known.reshape(())) < items.length:
        raise c.refuse(f"element {known} of a list of {items.length}")
    row = c.bld.reshape(c.v(t), shape=(1, *t.shape))
    zero = c.bld.constant(np.array(0, np.int64), I64)
    at = same_type(c, index, I64)
    updated = c.bld.dynamic_update_slice(stack, row, at, *[zero] * t.rank)
    return ListOf(items.dtype, items.length, t.shape, Tensor.of(updated), items.grows)


@op("TensorListStack", raw=True)
def _stack(c: Ctx, item: Item, shape: Item) -> Any:
    items = _list(c, item)
    if items.stack is None and items.element is None:
        items = ListOf(items.dtype, items.length, _element(c, shape))
    return filled(c, items)


@op("TensorListGather", raw=True)
def _gather(c: Ctx, item: Item, indices: Item, shape: Item) -> Any:
    return c.bld.gather(c.v(filled(c, _list(c, item))), c.v(indices), axis=0)


# -- TensorArrays: the handle says what it holds, the flow is the state ------------------------------------------------


def _state(c: Ctx, handle: Item, flow: Item) -> ListOf:
    if not isinstance(handle, ListOf) or not isinstance(flow, ListOf):
        raise c.refuse("takes a TensorArray")
    if flow.element is None and handle.element is not None:
        return ListOf(flow.dtype, flow.length, handle.element, flow.stack, flow.grows)
    return flow


@op("TensorArrayV3", raw=True)
def _array(c: Ctx, size: Item) -> Any:
    (n,) = c.extents(size, "the size")
    shape = c.shape("element_shape")
    element = None if shape is None or any(d is None for d in shape) else tuple(int(d) for d in shape if d is not None)
    grows = c.b("dynamic_size", False)
    return [ListOf(c.type("dtype"), n, element, None, grows), ListOf(c.type("dtype"), n, element, None, grows)]


@op("TensorArrayWriteV3", raw=True)
def _array_write(c: Ctx, handle: Item, index: Item, value: Item, flow: Item) -> Any:
    items = _state(c, handle, flow)
    at = c.tensor(index)
    if items.grows and at.is_constant and isinstance(items.length, int):
        items = _grown(c, items, int(c.array(at, "the index").reshape(())) + 1)
    return write(c, items, c.v(index), c.tensor(value))


def _grown(c: Ctx, items: ListOf, length: int) -> ListOf:
    if isinstance(items.length, int) and length <= items.length:
        return items
    stack = items.stack
    if stack is not None and isinstance(items.length, int):
        high = (length - items.length, *(0,) * (stack.rank - 1))
        stack = Tensor.of(c.bld.pad(c.v(stack), low=(0,) * stack.rank, high=high))
    return ListOf(items.dtype, length, items.element, stack, True)


@op("TensorArrayReadV3", raw=True)
def _array_read(c: Ctx, handle: Item, index: Item, flow: Item) -> Any:
    return c.bld.gather(c.v(filled(c, _state(c, handle, flow))), c.v(index), axis=0)


@op("TensorArraySizeV3", raw=True)
def _array_size(c: Ctx, handle: Item, flow: Item) -> Any:
    n = _state(c, handle, flow).length
    return Tensor.known(np.array(n, object if isinstance(n, Dim) else np.int32), I32)


def _whole(c: Ctx, indices: Item, length: Extent | None) -> bool:
    """Whether the indices are 0, 1, 2... up to the length."""
    t = c.tensor(indices)
    if t.is_constant and isinstance(length, int):
        return c.ints(t, "the indices") == list(range(length))
    if t.rank == 1 and t.shape[0] == length and t.content is None:
        producer = c.v(t).producer
        while producer.op.name == "cast":
            producer = producer.operands[0].producer
        return producer.op.name == "iota"
    return False


@op("TensorArrayScatterV3", raw=True)
def _array_scatter(c: Ctx, handle: Item, indices: Item, value: Item, flow: Item) -> Any:
    items, t = _state(c, handle, flow), c.tensor(value)
    rows = c.tensor(indices)
    if items.grows and rows.is_constant:
        items = _grown(c, items, max([-1, *c.ints(rows, "the indices")]) + 1)
    if _whole(c, indices, items.length):
        return ListOf(items.dtype, items.length, t.shape[1:], t, items.grows)
    if items.grows and not rows.is_constant:
        raise c.refuse("a list that grows is not supported")
    element = Tensor(t.dtype, t.shape[1:])
    i = c.v(indices)
    stack = c.bld.scatter_nd(c.v(filled(c, items, element)), c.bld.reshape(i, shape=(*i.shape, 1)), c.v(t))
    return ListOf(items.dtype, items.length, t.shape[1:], Tensor.of(stack), items.grows)


@op("TensorArrayGatherV3", raw=True)
def _array_gather(c: Ctx, handle: Item, indices: Item, flow: Item) -> Any:
    items = _state(c, handle, flow)
    shape = c.shape("element_shape")
    if items.stack is None and items.element is None and shape is not None and None not in shape:
        items = ListOf(items.dtype, items.length, tuple(int(d) for d in shape if d is not None))
    stack = filled(c, items)
    return stack if _whole(c, indices, items.length) else c.bld.gather(c.v(stack), c.v(indices), axis=0)


@op("TensorArrayConcatV3", raw=True)
def _array_concat(c: Ctx, handle: Item, flow: Item) -> Any:
    v = c.v(filled(c, _state(c, handle, flow)))
    if v.rank < 2:
        raise c.refuse("scalars are not concatenated")
    if isinstance(v.shape[0], Dim) or isinstance(v.shape[1], Dim):
        raise c.refuse("the lengths are not fixed", "fix them with shapes=")
    lengths = Tensor.known(np.full(v.shape[0], v.shape[1], np.int64), I64)
    return [c.bld.reshape(v, shape=(v.shape[0] * v.shape[1], *v.shape[2:])), lengths]


@op("TensorArraySplitV3", raw=True)
def _array_split(c: Ctx, handle: Item, value: Item, lengths: Item, flow: Item) -> Any:
    items, v, sizes = _state(c, handle, flow), c.v(value), c.ints(lengths, "the lengths")
    if not sizes or len(set(sizes)) != 1:
        raise c.refuse("pieces of different lengths are not supported")
    stack = Tensor.of(c.bld.reshape(v, shape=(len(sizes), sizes[0], *v.shape[1:])))
    return ListOf(items.dtype, len(sizes), stack.shape[1:], stack, items.grows)
