"""The CUDA driver through ctypes: libcuda alone, no toolkit, no other package.

Owns the declarations of the calls that the runtime makes, and the way from result codes to typed errors.
Must not know plans or bundles.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any

from ...core.errors import BundleRefused, DeviceFailed, InputRefused

OUT_OF_MEMORY, NO_DEVICE, NOT_READY = 2, 100, 600
NO_BINARY, INVALID_PTX, UNSUPPORTED_PTX, NO_JIT = 209, 218, 222, 221
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _PROCESSORS, _SHARED_OPTIN = 75, 76, 16, 97
_JIT_LOG, _JIT_LOG_SIZE = 5, 6
_MAX_DYNAMIC_SHARED = 8
_NON_BLOCKING, _NO_TIMING = 1, 2
_ORDINAL = 9
_PORTABLE = 1  # for every context of the process
_LIBRARIES = ("libcuda.so.1", "libcuda.so")


class NodeParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS, version 2."""

    _fields_ = [
        ("func", c_void_p), ("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint), ("params", c_void_p),
        ("extra", c_void_p), ("kern", c_void_p), ("ctx", c_void_p),
    ]  # fmt: skip


_OUT = POINTER(c_void_p)
_PTR, _SIZE, _DEV = c_uint64, c_size_t, c_int
# Every call with its arguments; all give a CUresult. Versions are those of CUDA 12 and 13 (driver R525 and newer).
CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, _DEV),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, _DEV),
    "cuDevicePrimaryCtxRetain": (_OUT, _DEV),
    "cuDevicePrimaryCtxRelease_v2": (_DEV,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (_OUT,),
    "cuModuleLoadDataEx": (_OUT, c_void_p, c_uint, POINTER(c_int), _OUT),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (_OUT, c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(_PTR), _SIZE),
    "cuMemFree_v2": (_PTR,),
    "cuMemHostAlloc": (_OUT, _SIZE, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoD_v2": (_PTR, c_void_p, _SIZE),
    "cuMemcpyHtoDAsync_v2": (_PTR, c_void_p, _SIZE, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _PTR, _SIZE, c_void_p),
    "cuMemcpyDtoDAsync_v2": (_PTR, _PTR, _SIZE, c_void_p),
    "cuMemsetD8Async": (_PTR, c_ubyte, _SIZE, c_void_p),
    "cuPointerGetAttribute": (c_void_p, c_int, _PTR),
    "cuStreamCreate": (_OUT, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuEventCreate": (_OUT, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, _OUT, _OUT),
    "cuGraphCreate": (_OUT, c_uint),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphAddKernelNode_v2": (_OUT, c_void_p, _OUT, _SIZE, POINTER(NodeParams)),
    "cuGraphInstantiateWithFlags": (_OUT, c_void_p, c_uint64),
    "cuGraphExecKernelNodeSetParams_v2": (c_void_p, c_void_p, POINTER(NodeParams)),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
}


@cache
def library() -> Any:
    """libcuda. Raises BundleRefused where there is none."""
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BundleRefused("no NVIDIA driver here (libcuda.so.1 cannot be loaded); native=False interprets the graph")


class KernelArgs:
    """Parameter words of one launch, in memory that stays where it is; ``pointers`` is what the driver takes."""

    __slots__ = ("words", "pointers")

    def __init__(self, words: Sequence[int]) -> None:
        count = len(words)
        self.words = (c_uint64 * count)(*[w & 0xFFFFFFFFFFFFFFFF for w in words])
        base = ctypes.addressof(self.words)
        self.pointers = (c_void_p * count)(*[base + 8 * i for i in range(count)])


class Driver:
    """The driver's calls with Python types; failures are raised."""

    def __init__(self, lib: Any) -> None:
        self._calls: dict[str, Callable[..., int]] = {}
        missing = []
        for name, types in CALLS.items():
            function = getattr(lib, name, None)
            if function is None:
                missing.append(name)
                continue
            function.argtypes, function.restype = types, c_int
            self._calls[name] = function
        if missing:
            raise BundleRefused(f"the NVIDIA driver is too old: it has no {missing[0]}; R525 or newer is needed")
        code = self._calls["cuInit"](0)
        if code == NO_DEVICE:
            raise BundleRefused("the NVIDIA driver finds no GPU; native=False interprets the graph")
        self.check(code, "cuInit")

    # -- errors ---------------------------------------------------------------------------------------------------
    def name(self, code: int) -> str:
        """The driver's name of a result code."""
        text = c_char_p()
        self._calls["cuGetErrorName"](code, byref(text))
        return text.value.decode() if text.value else f"error {code}"

    def check(self, code: int, what: str) -> None:
        """Raises DeviceFailed for a result code other than 0."""
        if code:
            raise DeviceFailed(f"{what} failed: {self.name(code)} ({code})", code)

    def _do(self, name: str, *args: Any) -> None:
        code = self._calls[name](*args)
        if code:
            self.check(code, name)

    def _made(self, name: str, *args: Any) -> int:
        out = c_void_p()
        self._do(name, byref(out), *args)
        return out.value or 0

    def _number(self, name: str, *args: Any) -> int:
        out = c_int()
        self._do(name, byref(out), *args)
        return out.value

    # -- devices --------------------------------------------------------------------------------------------------
    def version(self) -> int:
        """1000 * major + 10 * minor of the newest CUDA that the driver knows."""
        return self._number("cuDriverGetVersion")

    def count(self) -> int:
        """How many GPUs there are."""
        return self._number("cuDeviceGetCount")

    def device(self, ordinal: int) -> int:
        """The handle of a GPU."""
        return self._number("cuDeviceGet", ordinal)

    def device_name(self, device: int) -> str:
        """What the GPU is called."""
        text = ctypes.create_string_buffer(256)
        self._do("cuDeviceGetName", text, 256, device)
        return text.value.decode("ascii", "replace")

    def capability(self, device: int) -> tuple[int, int]:
        """Compute capability."""
        major, minor = (self._number("cuDeviceGetAttribute", a, device) for a in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        return major, minor

    def processors(self, device: int) -> int:
        """Streaming multiprocessors."""
        return self._number("cuDeviceGetAttribute", _PROCESSORS, device)

    def shared_limit(self, device: int) -> int:
        """Bytes of shared memory that one block may ask for."""
        return self._number("cuDeviceGetAttribute", _SHARED_OPTIN, device)

    def retain(self, device: int) -> int:
        """The primary context, which other libraries in the process use too."""
        return self._made("cuDevicePrimaryCtxRetain", device)

    def release(self, device: int) -> None:
        """Let go of the primary context."""
        self._do("cuDevicePrimaryCtxRelease_v2", device)

    def push(self, context: int) -> None:
        """Make a context current on this thread."""
        self._do("cuCtxPushCurrent_v2", context)

    def pop(self) -> None:
        """Back to the context before."""
        self._made("cuCtxPopCurrent_v2")

    # -- modules --------------------------------------------------------------------------------------------------
    def load(self, image: bytes) -> int:
        """A module from a cubin or from PTX (a zero byte is added). Raises DeviceFailed with the compiler's log."""
        data = ctypes.create_string_buffer(image + b"\0", len(image) + 1)
        log = ctypes.create_string_buffer(8192)
        options = (c_int * 2)(_JIT_LOG, _JIT_LOG_SIZE)
        values = (c_void_p * 2)(ctypes.addressof(log), len(log))
        out = c_void_p()
        call = self._calls["cuModuleLoadDataEx"]
        code = call(byref(out), ctypes.cast(data, c_void_p), 2, options, values)
        if code:
            text = log.value.decode("utf-8", "replace").strip()
            raise DeviceFailed(f"the GPU driver refuses the code: {self.name(code)}{': ' + text if text else ''}", code)
        return out.value or 0

    def unload(self, module: int) -> None:
        """Forget a module."""
        self._do("cuModuleUnload", module)

    def function(self, module: int, symbol: str) -> int:
        """A kernel of a module."""
        return self._made("cuModuleGetFunction", module, symbol.encode("ascii"))

    def allow_shared(self, function: int, size: int) -> None:
        """Let a kernel have that much dynamic shared memory (needed above 48 KiB)."""
        self._do("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, size)

    # -- memory ---------------------------------------------------------------------------------------------------
    def free_bytes(self) -> int:
        """Bytes of device memory that nobody has."""
        free, total = c_size_t(), c_size_t()
        self._do("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def alloc(self, size: int, what: str) -> int:
        """The address of ``size`` bytes. Raises InputRefused when the GPU has not that much."""
        out = _PTR()
        code = self._calls["cuMemAlloc_v2"](byref(out), max(size, 1))
        if code == OUT_OF_MEMORY:
            raise InputRefused(f"no GPU memory for {what} of {size} bytes: use a smaller batch, or set max_bytes")
        self.check(code, "cuMemAlloc")
        return out.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._do("cuMemFree_v2", address)

    def pin(self, size: int) -> int:
        """The address of ``size`` bytes of host memory that the GPU copies from and to by itself; 0: there are none."""
        out = c_void_p()
        code = self._calls["cuMemHostAlloc"](byref(out), size, _PORTABLE)
        if code != OUT_OF_MEMORY:
            self.check(code, "cuMemHostAlloc")
        return out.value or 0

    def unpin(self, address: int) -> None:
        """Give such memory back."""
        self._do("cuMemFreeHost", address)

    def upload(self, to: int, source: int, size: int) -> None:
        """Host to device, done when it returns."""
        if size:
            self._do("cuMemcpyHtoD_v2", to, source, size)

    def send(self, to: int, source: int, size: int, stream: int) -> None:
        """Host to device in a stream."""
        if size:
            self._do("cuMemcpyHtoDAsync_v2", to, source, size, stream)

    def fetch(self, to: int, source: int, size: int, stream: int) -> None:
        """Device to host in a stream."""
        if size:
            self._do("cuMemcpyDtoHAsync_v2", to, source, size, stream)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Device to device in a stream."""
        if size:
            self._do("cuMemcpyDtoDAsync_v2", to, source, size, stream)

    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        """Set bytes in a stream."""
        if size:
            self._do("cuMemsetD8Async", address, value, size, stream)

    def ordinal_of(self, address: int) -> int | None:
        """Which GPU an address belongs to; None when it is no device memory."""
        out = c_int(-1)
        code = self._calls["cuPointerGetAttribute"](ctypes.cast(byref(out), c_void_p), _ORDINAL, address)
        return None if code else out.value

    # -- streams --------------------------------------------------------------------------------------------------
    def stream(self) -> int:
        """A new stream that does not wait for the default one."""
        return self._made("cuStreamCreate", _NON_BLOCKING)

    def end_stream(self, stream: int) -> None:
        """Forget a stream."""
        self._do("cuStreamDestroy_v2", stream)

    def wait(self, stream: int) -> None:
        """Until everything in a stream is done."""
        self._do("cuStreamSynchronize", stream)

    def event(self, timing: bool = False) -> int:
        """A new event."""
        return self._made("cuEventCreate", 0 if timing else _NO_TIMING)

    def end_event(self, event: int) -> None:
        """Forget an event."""
        self._do("cuEventDestroy_v2", event)

    def record(self, event: int, stream: int) -> None:
        """The event happens when the stream has come this far."""
        self._do("cuEventRecord", event, stream)

    def wait_event(self, event: int) -> None:
        """Until an event has happened."""
        self._do("cuEventSynchronize", event)

    def happened(self, event: int) -> bool:
        """Has it?"""
        code = self._calls["cuEventQuery"](event)
        if code not in (0, NOT_READY):
            self.check(code, "cuEventQuery")
        return code == 0

    def milliseconds(self, start: int, stop: int) -> float:
        """Time between two events."""
        out = c_float()
        self._do("cuEventElapsedTime", byref(out), start, stop)
        return out.value

    def after(self, later: int, earlier: int) -> None:
        """What comes into stream ``later`` from now on waits for what is in stream ``earlier`` by now."""
        event = self.event()
        try:
            self.record(event, earlier)
            self._do("cuStreamWaitEvent", later, event, 0)
        finally:
            self.end_event(event)  # the driver keeps it until it has happened

    # -- launches -------------------------------------------------------------------------------------------------
    def launch(self, function: int, grid: int, block: int, shared: int, args: KernelArgs, stream: int) -> None:
        """One kernel, now."""
        self._do("cuLaunchKernel", function, grid, 1, 1, block, 1, 1, shared, stream, args.pointers, None)

    def graph(self) -> int:
        """An empty graph."""
        return self._made("cuGraphCreate", 0)

    def end_graph(self, graph: int) -> None:
        """Forget a graph; what was instantiated from it lives on."""
        self._do("cuGraphDestroy", graph)

    def add_node(self, graph: int, after: Sequence[int], params: NodeParams) -> int:
        """A kernel node that runs after the nodes ``after``."""
        before = (c_void_p * max(1, len(after)))(*after)
        return self._made("cuGraphAddKernelNode_v2", graph, before, len(after), byref(params))

    def instantiate(self, graph: int) -> int:
        """A graph ready to launch."""
        return self._made("cuGraphInstantiateWithFlags", graph, 0)

    def change_node(self, executable: int, node: int, params: NodeParams) -> None:
        """Other parameters for a node from the next launch on."""
        self._do("cuGraphExecKernelNodeSetParams_v2", executable, node, byref(params))

    def end_executable(self, executable: int) -> None:
        """Forget a graph that was ready to launch."""
        self._do("cuGraphExecDestroy", executable)

    def launch_graph(self, executable: int, stream: int) -> None:
        """All of a graph, in a stream."""
        self._do("cuGraphLaunch", executable, stream)


def node_params(function: int, grid: int, block: int, shared: int, args: KernelArgs) -> NodeParams:
    """The driver's record of one launch; ``args`` must live as long as it is used."""
    return NodeParams(
        function,
        (c_uint * 3)(grid, 1, 1),
        (c_uint * 3)(block, 1, 1),
        shared,
        ctypes.addressof(args.pointers),
        None,
        None,
        None,
    )


@cache
def driver() -> Driver:
    """The driver of this process. Raises BundleRefused."""
    return Driver(library())
