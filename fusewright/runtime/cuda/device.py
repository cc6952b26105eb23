"""One GPU as the runtime holds it: its primary context, and memory and streams that are given back.

Owns lifetimes. Must not know plans.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import cache
from types import TracebackType
from typing import Any

from ...core.errors import BundleRefused, DeviceFailed
from ...core.plan import DEVICE_ALIGN
from .driver import Driver, driver

STAGED = 1 << 20  # bytes of an array; the driver moves larger ones piece by piece, which an own copy would only delay
STAGING = 8 << 20  # bytes for all arrays of a call


class Device:
    """A GPU with its primary context retained. ``with device:`` makes the context current on this thread."""

    def __init__(self, ordinal: int) -> None:
        self.driver: Driver = driver()
        count = self.driver.count()
        if not 0 <= ordinal < count:
            raise BundleRefused(f"there is no GPU {ordinal}: the driver finds {count}")
        self.ordinal, self.handle = ordinal, self.driver.device(ordinal)
        self.capability = self.driver.capability(self.handle)
        self.name = self.driver.device_name(self.handle)
        self.shared_limit = self.driver.shared_limit(self.handle)
        self.context = self.driver.retain(self.handle)
        self._process = os.getpid()

    def __enter__(self) -> Device:
        if os.getpid() != self._process:
            raise DeviceFailed("a GPU bundle does not work in a forked child: load it there, in a process of its own")
        self.driver.push(self.context)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.driver.pop()

    def quietly(self, release: Any, handle: int) -> None:
        """Give a handle back when its owner goes; at the end of the process the driver may be gone already."""
        if os.getpid() != self._process:
            return
        try:
            self.driver.push(self.context)
            try:
                release(handle)
            finally:
                self.driver.pop()
        except DeviceFailed:
            pass


class Memory:
    """``size`` bytes of device memory at ``address``, given back with the object."""

    __slots__ = ("address", "size", "device", "_end", "__weakref__")

    def __init__(self, device: Device, size: int, what: str) -> None:
        """The device is current. Raises InputRefused when there is no memory."""
        self.device, self.size = device, size
        self.address = device.driver.alloc(size, what)
        self._end = weakref.finalize(self, device.quietly, device.driver.free, self.address)

    def free(self) -> None:
        """Now, not later."""
        self._end()


class Staging:
    """Host memory that the GPU reads and writes by itself: arrays of a call pass through it, so that no copy has to
    wait for the one before.

    Owns no stream: whoever waited for the copies calls ``land``.
    """

    __slots__ = ("device", "address", "size", "used", "_back", "__weakref__")

    def __init__(self, device: Device, size: int) -> None:
        """The device is current. Where there is no such memory, nothing fits."""
        self.device, self.used = device, 0
        self.address = device.driver.pin(size)
        self.size = size if self.address else 0
        self._back: list[tuple[Any, int, int]] = []
        if self.address:
            weakref.finalize(self, device.quietly, device.driver.unpin, self.address)

    def place(self, size: int) -> int:
        """The address of ``size`` bytes that are free until the copies have landed; 0 where they do not fit."""
        if size > STAGED or self.used + size > self.size:
            return 0
        at = self.address + self.used
        self.used += aligned(size)
        return at

    def give(self, array: Any, at: int, size: int) -> None:
        """``size`` bytes at ``at`` go to ``array`` when they have landed."""
        self._back.append((array, at, size))

    def land(self) -> None:
        """The stream has been waited for: results go on to their arrays, and all room is free again."""
        for array, at, size in self._back:
            ctypes.memmove(array.__array_interface__["data"][0], at, size)
        self._back.clear()
        self.used = 0

    def forget(self) -> None:
        """The call failed: its results go nowhere."""
        self._back.clear()


class Stream:
    """A stream, ended with the object."""

    __slots__ = ("handle", "device", "__weakref__")

    def __init__(self, device: Device) -> None:
        self.device, self.handle = device, device.driver.stream()
        weakref.finalize(self, device.quietly, device.driver.end_stream, self.handle)


class Event:
    """An event, ended with the object."""

    __slots__ = ("handle", "__weakref__")

    def __init__(self, device: Device) -> None:
        self.handle = device.driver.event()
        weakref.finalize(self, device.quietly, device.driver.end_event, self.handle)


@cache
def device(ordinal: int = 0) -> Device:
    """A GPU of this process. Raises BundleRefused when there is no driver or no such GPU."""
    return Device(ordinal)


def aligned(size: int) -> int:
    """``size`` rounded up to what every array on the device is aligned to."""
    return (size + DEVICE_ALIGN - 1) & -DEVICE_ALIGN
