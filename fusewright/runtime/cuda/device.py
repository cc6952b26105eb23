"""One GPU as the runtime holds it: its primary context, and memory and streams that are given back.

Owns lifetimes. Must not know plans.
"""

from __future__ import annotations

import os
import weakref
from functools import cache
from types import TracebackType
from typing import Any

from ...core.errors import BundleRefused, DeviceFailed
from ...core.plan import DEVICE_ALIGN
from .driver import Driver, driver


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
