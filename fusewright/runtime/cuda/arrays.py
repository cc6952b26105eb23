"""Arrays in GPU memory, ours and others', without a copy.

Owns the two protocols by which libraries pass them (``__cuda_array_interface__`` 3 and DLPack) and their rules for
streams. Must not know plans or bundles.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.dtypes import BF16, DType
from ...core.errors import InputRefused
from ..call import Array, Spec
from .device import Device, Memory, Stream

_CUDA, _PINNED, _MANAGED = 2, 3, 13  # DLPack's device types
_BFLOAT = 4
_DEFAULT = 1  # the stream in which libraries work when nobody says otherwise


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int), ("device_id", ctypes.c_int), ("ndim", ctypes.c_int),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class _DLManaged(ctypes.Structure):
    _fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]


def _capsule_call(name: str, result: Any, *types: Any) -> Any:
    prototype = ctypes.PYFUNCTYPE(result, *types)
    return prototype((name, ctypes.pythonapi))


_get_pointer = _capsule_call("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_raw_pointer = _capsule_call("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_raw_valid = _capsule_call("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_new_capsule = _capsule_call("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _DESTRUCTOR)


class Given:
    """A C-contiguous array on the device: ``address``, ``shape``, element size; ``owner`` keeps it alive.

    ``stream`` is the producer's (0: none stated), which has to wait for us before the memory is used again.
    """

    __slots__ = ("address", "shape", "item", "owner", "stream", "writable")

    def __init__(
        self, address: int, shape: tuple[int, ...], item: int, owner: Any, stream: int, writable: bool
    ) -> None:
        self.address, self.shape, self.item, self.owner = address, shape, item, owner
        self.stream, self.writable = stream, writable

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.item

    def rows(self, start: int, stop: int) -> Given:
        """Rows of axis 0."""
        row = math.prod(self.shape[1:]) * self.item
        return Given(
            self.address + start * row,
            (stop - start, *self.shape[1:]),
            self.item,
            self.owner,
            self.stream,
            self.writable,
        )


def on_device(value: Any) -> bool:
    """Does ``value`` say that it lies in GPU memory?"""
    if isinstance(value, (np.ndarray, np.generic, list, tuple, int, float)):
        return False
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    try:
        return device is not None and device()[0] in (_CUDA, _MANAGED)
    except Exception:  # a foreign object's own fault shows when it is converted
        return False


def given(spec: Spec, value: Any, device: Device, stream: int, what: str = "input") -> Given:
    """``value`` without a copy; ``stream`` waits for what its producer has queued. Raises InputRefused."""
    if isinstance(value, DeviceArray):
        return value.given(spec, device, stream, what)
    try:
        interface = value.__cuda_array_interface__
    except AttributeError:
        interface = None
    # Version 2 of the interface says nothing of streams; DLPack does.
    if isinstance(interface, Mapping) and ("stream" in interface or not hasattr(value, "__dlpack__")):
        found = _interface(spec, value, interface, device, stream, what)
    else:
        found = _dlpack(spec, value, stream, what)
    owner = device.driver.ordinal_of(found.address) if found.nbytes else device.ordinal
    if owner != device.ordinal:
        place = "memory of no GPU" if owner is None else f"GPU {owner}"
        raise _refused(spec, what, f"an array in {place}", f"this bundle is loaded on GPU {device.ordinal}")
    return found


def _refused(spec: Spec, what: str, got: str, hint: str = "") -> InputRefused:
    tail = f" ({hint})" if hint else ""
    return InputRefused(f"{what} {spec.name!r}: got {got}, wanted {spec.wanted()}{tail}")


def _same_type(spec: Spec, have: np.dtype[Any]) -> bool:
    return have == spec.stored or (spec.dtype is BF16 and have.itemsize == 2 and have.kind in "uV")


def _interface(spec: Spec, value: Any, raw: Mapping[str, Any], device: Device, stream: int, what: str) -> Given:
    try:
        have, shape = np.dtype(raw["typestr"]), tuple(int(d) for d in raw["shape"])
        address, readonly = int(raw["data"][0]), bool(raw["data"][1])
        strides, theirs = raw.get("strides"), raw.get("stream", _DEFAULT)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise _refused(
            spec, what, f"a {type(value).__name__} whose __cuda_array_interface__ is malformed: {e}"
        ) from None
    if not _same_type(spec, have):
        raise _refused(spec, what, f"{have} {shape} on the GPU", "convert it there first")
    _contiguous(spec, shape, None if strides is None else [s // have.itemsize for s in strides], what)
    if raw.get("mask") is not None:
        raise _refused(spec, what, "a masked array", "fill it first")
    if theirs is not None:
        if not isinstance(theirs, int) or theirs < 1:
            raise _refused(spec, what, f"an array of stream {theirs!r}", "1 is the default stream, 0 is not allowed")
        device.driver.after(stream, theirs)
    return Given(address, shape, have.itemsize, value, theirs or 0, not readonly)


def _dlpack(spec: Spec, value: Any, stream: int, what: str) -> Given:
    try:
        capsule = value.__dlpack__(stream=stream)
        pointer = _get_pointer(capsule, b"dltensor")
    except Exception as e:  # whatever the foreign object raises, the user sees one family of errors
        raise _refused(spec, what, f"a {type(value).__name__} that gives no DLPack tensor: {e}") from e
    tensor = _DLManaged.from_address(pointer).tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = [tensor.strides[i] for i in range(tensor.ndim)] if tensor.strides else None
    kind = {0: "i", 1: "u", 2: "f", _BFLOAT: "V", 6: "b"}.get(tensor.code, "?")
    wanted = (kind, tensor.bits, tensor.lanes)
    good = (
        wanted == ("V", 16, 1)
        if spec.dtype is BF16 and kind == "V"
        else wanted == (spec.stored.kind, 8 * spec.stored.itemsize, 1)
    )
    if not good:
        raise _refused(
            spec,
            what,
            f"elements of DLPack type {tensor.code} with {tensor.bits} bits, {shape}",
            "convert it there first",
        )
    _contiguous(spec, shape, strides, what)
    # The capsule stays unconsumed: when it goes, it gives the tensor back itself.
    address = (tensor.data or 0) + tensor.byte_offset
    # It says nothing of what the producer does afterwards: most work in the default stream, which waits for us.
    return Given(address, shape, spec.stored.itemsize, (value, capsule), _DEFAULT, True)


def _contiguous(spec: Spec, shape: tuple[int, ...], strides: list[int] | None, what: str) -> None:
    if strides is None or 0 in shape:
        return
    step = 1
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if extent != 1 and stride != step:
            raise _refused(spec, what, f"a strided array {shape} on the GPU", "make it C-contiguous there first")
        step *= extent


class DeviceArray:
    """A result in GPU memory. NumPy takes it with ``numpy.asarray`` (a copy), GPU libraries through
    ``__cuda_array_interface__`` and DLPack (no copy). Work that fills it may still be under way: both protocols say so.
    """

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: DType, stream: Stream) -> None:
        self._memory, self._stream = memory, stream
        self.shape, self.fw_dtype, self.dtype = shape, dtype, dtype.np
        self._exports: dict[int, Any] = {}

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * self.dtype.itemsize

    def leading(self, shape: tuple[int, ...]) -> DeviceArray:
        """The first elements, as an array of this shape; the memory stays one."""
        return DeviceArray(self._memory, shape, self.fw_dtype, self._stream)

    def given(self, spec: Spec, device: Device, stream: int, what: str) -> Given:
        """Ourselves as an argument of another call."""
        if self.fw_dtype is not spec.dtype:
            raise _refused(spec, what, f"{self.fw_dtype} {self.shape} on the GPU")
        if stream != self._stream.handle:
            device.driver.after(stream, self._stream.handle)
        return Given(self._memory.address, self.shape, self.dtype.itemsize, self, self._stream.handle, True)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self._memory.address if self.size else 0, False),
            "version": 3, "strides": None, "stream": self._stream.handle,
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._memory.device.ordinal

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule of version 0 of DLPack, which every library reads."""
        if stream != -1 and stream != self._stream.handle:
            with self._memory.device as device:
                device.driver.after(1 if stream is None else stream, self._stream.handle)
        return _export(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array in GPU memory cannot be a NumPy array without a copy")
        out = np.empty(self.shape, self.dtype)
        with self._memory.device as device:
            device.driver.fetch(out.ctypes.data, self._memory.address, out.nbytes, self._stream.handle)
            device.driver.wait(self._stream.handle)
        return out if dtype is None else out.astype(dtype)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.fw_dtype} {self.shape} on GPU {self._memory.device.ordinal}>"


# -- export -----------------------------------------------------------------------------------------------------------
_exported: dict[int, tuple[Any, ...]] = {}  # address of a managed tensor -> what it needs to live


def _release(pointer: int) -> None:
    _exported.pop(pointer, None)


def _unused(capsule: int) -> None:
    """A capsule goes; if nobody took the tensor out of it, the tensor goes too."""
    if _raw_valid(capsule, b"dltensor"):
        _exported.pop(_raw_pointer(capsule, b"dltensor"), None)


_deleter, _destructor = _DELETER(_release), _DESTRUCTOR(_unused)


def _export(array: DeviceArray) -> Any:
    rank = len(array.shape)
    shape = (ctypes.c_int64 * max(1, rank))(*array.shape)
    codes = {"i": 0, "u": 1, "f": 2, "b": 6}
    code = _BFLOAT if array.fw_dtype is BF16 else codes[array.dtype.kind]
    address = array._memory.address
    tensor = _DLTensor(
        address, _CUDA, array._memory.device.ordinal, rank, code, 8 * array.dtype.itemsize, 1,
        ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)), None, 0,
    )  # fmt: skip
    managed = _DLManaged(tensor, None, _deleter)
    pointer = ctypes.addressof(managed)
    _exported[pointer] = (managed, shape, array)
    return _new_capsule(pointer, b"dltensor", _destructor)
