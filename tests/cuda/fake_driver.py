"""libcuda for tests: the calls that the runtime makes, carried out by the PTX interpreter.

The functions are C functions with prototypes of their own, so ctypes' packing is tested too. Work in a stream is not
done before somebody waits for it, and a graph's nodes run in the worst order that its edges allow: what is not ordered
shows. Owns handles, streams and contexts; memory and kernels are `ptx`'s.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np

from fusewright.runtime.cuda import device as device_module
from fusewright.runtime.cuda import driver as driver_module

from ptx.machine import Loaded
from ptx.memory import Memory
from ptx.parse import PtxError

NAMES = {1: "INVALID_VALUE", 2: "OUT_OF_MEMORY", 100: "NO_DEVICE", 101: "INVALID_DEVICE", 201: "INVALID_CONTEXT",
         209: "NO_BINARY_FOR_GPU", 218: "INVALID_PTX", 222: "UNSUPPORTED_PTX_VERSION", 400: "INVALID_HANDLE",
         500: "NOT_FOUND", 600: "NOT_READY", 719: "LAUNCH_FAILED"}  # fmt: skip


class Fault(Exception):
    """A result code other than 0."""

    def __init__(self, code: int) -> None:
        self.code = code


class FakeStream:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []


class _Event:
    def __init__(self) -> None:
        self.stream: FakeStream | None = None  # of the last record; None: never recorded
        self.after = 0  # how many pieces of that stream's work it stands behind
        self.done: list[bool] = [True]


class _Function:
    def __init__(self, module: Loaded, name: str) -> None:
        self.module, self.name, self.dynamic = module, name, 48 << 10


class _Node:
    def __init__(self, params: tuple[Any, ...], after: list[int]) -> None:
        self.params, self.after = params, after


class Params(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2_st of cuda.h, field by field."""

    _fields_ = [
        ("func", c_void_p), ("gridDimX", c_uint), ("gridDimY", c_uint), ("gridDimZ", c_uint), ("blockDimX", c_uint),
        ("blockDimY", c_uint), ("blockDimZ", c_uint), ("sharedMemBytes", c_uint),
        ("kernelParams", ctypes.POINTER(c_void_p)), ("extra", ctypes.POINTER(c_void_p)), ("kern", c_void_p),
        ("ctx", c_void_p),
    ]  # fmt: skip


_P = ctypes.POINTER
_HANDLE = _P(c_void_p)


class FakeGpu:
    """The library object. ``log`` lists calls by name, ``launched`` the kernels in the order in which they ran."""

    def __init__(
        self,
        capability: tuple[int, int] = (9, 0),
        count: int = 1,
        version: int = 12080,
        total: int = 1 << 34,
        strict: bool = True,
        cubins: dict[bytes, str] | None = None,
        lacks: tuple[str, ...] = (),
        rewrite: Callable[[str], str] = lambda text: text,
    ) -> None:
        """``cubins``: the first 64 bytes of a cubin -> the PTX it stands for; others do not load, as on a GPU that
        they were not made for. ``lacks``: calls that the library has not. ``rewrite`` changes PTX as it is loaded, to
        see that a fault in it is found."""
        self.capability, self.count, self.version, self.total = capability, count, version, total
        self.cubins, self.rewrite = cubins or {}, rewrite
        self.memory = Memory(strict)
        self.used = 0
        self.sizes: dict[int, int] = {}
        self.handles: dict[int, Any] = {}
        self.next = 0x1000
        self.log: list[str] = []
        self.launched: list[str] = []
        self.pinned: dict[int, Any] = {}
        self.pins = True  # is there host memory that can be pinned?
        self.fault: BaseException | None = None
        self.steps = 0
        self.current = threading.local()
        self.lock = threading.RLock()  # callers let go of the interpreter while they are in here
        self.retained = 0
        self.text = b""
        self.functions: dict[str, Any] = {}
        for name, (types, method) in _CALLS.items():
            if name not in lacks:
                self.functions[name] = ctypes.CFUNCTYPE(c_int, *types)(self._wrapped(name, method))
        self.default = self._handle(FakeStream(), 1)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["functions"][name]
        except KeyError:
            raise AttributeError(name) from None

    def _wrapped(self, name: str, method: Callable[..., None]) -> Callable[..., int]:
        def call(*args: Any) -> int:
            with self.lock:
                return locked(args)

        def locked(args: tuple[Any, ...]) -> int:
            self.log.append(name)
            try:
                if name in _NEEDS_CONTEXT and not getattr(self.current, "stack", []):
                    raise Fault(201)
                method(self, *args)
            except Fault as e:
                return e.code
            except PtxError as e:
                self.fault = e
                return 719
            except BaseException as e:  # an exception must not be lost in a C callback
                self.fault = e
                return 999
            return 0

        return call

    # -- handles --------------------------------------------------------------------------------------------------
    def _handle(self, thing: Any, number: int = 0) -> int:
        if not number:
            self.next += 16
            number = self.next
        self.handles[number] = thing
        return number

    def _of(self, handle: int | None, kind: type) -> Any:
        if kind is FakeStream and not handle:
            handle = 1
        thing = self.handles.get(handle or 0)
        if not isinstance(thing, kind):
            raise Fault(400)
        return thing

    # -- streams --------------------------------------------------------------------------------------------------
    def drain(self, stream: FakeStream) -> None:
        """Do a stream's work."""
        while stream.work:
            work = stream.work.pop(0)
            work()

    def drain_all(self) -> None:
        """Do everybody's work, the stream made last first."""
        for thing in list(self.handles.values())[::-1]:
            if isinstance(thing, FakeStream):
                self.drain(thing)

    def queue(self, handle: int | None, work: Callable[[], None]) -> None:
        """Something to do when the stream's turn comes."""
        self._of(handle, FakeStream).work.append(work)

    # -- kernels --------------------------------------------------------------------------------------------------
    def params(self, function: _Function, grid: int, block: int, shared: int, pointers: Any) -> tuple[Any, ...]:
        """A launch with its parameters read now, as the driver does."""
        entry = function.module.module.entries[function.name]
        words = [c_uint64.from_address(pointers[i]).value for i in range(len(entry.params))]
        if shared > function.dynamic:
            raise Fault(1)
        return function, grid, block, shared, words

    def execute(self, launch: tuple[Any, ...]) -> None:
        """Run a kernel."""
        function, grid, block, shared, words = launch
        self.launched.append(function.name)
        self.steps += function.module.launch(function.name, grid, block, shared, words)

    def execute_graph(self, nodes: list[tuple[tuple[Any, ...], list[int]]]) -> None:
        """Nodes with the indices that they wait for: of those that may run always the last one."""
        done: set[int] = set()
        while len(done) < len(nodes):
            ready = [i for i in range(len(nodes)) if i not in done and done.issuperset(nodes[i][1])]
            self.execute(nodes[ready[-1]][0])
            done.add(ready[-1])


_CALLS: dict[str, tuple[tuple[Any, ...], Callable[..., None]]] = {}
_NEEDS_CONTEXT: set[str] = set()


def _call(*types: Any, context: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def keep(method: Callable[..., None]) -> Callable[..., None]:
        _CALLS[method.__name__] = types, method
        if context:
            _NEEDS_CONTEXT.add(method.__name__)
        return method

    return keep


@_call(c_uint, context=False)
def cuInit(gpu: FakeGpu, flags: int) -> None:
    if gpu.count == 0:
        raise Fault(100)


@_call(_P(c_int), context=False)
def cuDriverGetVersion(gpu: FakeGpu, out: Any) -> None:
    out[0] = gpu.version


@_call(c_int, _P(c_char_p), context=False)
def cuGetErrorName(gpu: FakeGpu, code: int, out: Any) -> None:
    text = "CUDA_ERROR_" + NAMES.get(code, "UNKNOWN")
    if gpu.fault is not None and code in (719, 999):
        text += f": {type(gpu.fault).__name__}: {gpu.fault}"
    gpu.text = text.encode()
    out[0] = gpu.text


@_call(_P(c_int), context=False)
def cuDeviceGetCount(gpu: FakeGpu, out: Any) -> None:
    out[0] = gpu.count


@_call(_P(c_int), c_int, context=False)
def cuDeviceGet(gpu: FakeGpu, out: Any, ordinal: int) -> None:
    if not 0 <= ordinal < gpu.count:
        raise Fault(101)
    out[0] = ordinal


@_call(c_void_p, c_int, c_int, context=False)
def cuDeviceGetName(gpu: FakeGpu, text: int, size: int, device: int) -> None:
    ctypes.memmove(text, b"Paper GPU\0", 10)


@_call(_P(c_int), c_int, c_int, context=False)
def cuDeviceGetAttribute(gpu: FakeGpu, out: Any, attribute: int, device: int) -> None:
    out[0] = {75: gpu.capability[0], 76: gpu.capability[1], 16: 132, 97: 227 << 10}[attribute]


@_call(_HANDLE, c_int, context=False)
def cuDevicePrimaryCtxRetain(gpu: FakeGpu, out: Any, device: int) -> None:
    gpu.retained += 1
    out[0] = 0x77


@_call(c_int, context=False)
def cuDevicePrimaryCtxRelease_v2(gpu: FakeGpu, device: int) -> None:
    gpu.retained -= 1


@_call(c_void_p, context=False)
def cuCtxPushCurrent_v2(gpu: FakeGpu, context: int) -> None:
    if context != 0x77:
        raise Fault(201)
    gpu.current.stack = [*getattr(gpu.current, "stack", []), context]


@_call(_HANDLE)
def cuCtxPopCurrent_v2(gpu: FakeGpu, out: Any) -> None:
    out[0] = gpu.current.stack.pop()


@_call(_HANDLE, c_void_p, c_uint, _P(c_int), _HANDLE)
def cuModuleLoadDataEx(gpu: FakeGpu, out: Any, image: int, count: int, options: Any, values: Any) -> None:
    given = {options[i]: values[i] for i in range(count)}
    data = ctypes.string_at(image)
    if data[:4] == b"\x7fELF":
        text = gpu.cubins.get(ctypes.string_at(image, 64))
        if text is None:
            raise Fault(209)
    else:
        text = data.decode("ascii")
        version = re.search(r"\.version\s+(\d+)\.(\d+)", text)
        target = re.search(r"\.target\s+sm_(\d+)(\d)", text)
        if version is None or target is None:
            ctypes.memmove(given[5], b"fatal: no .version\0", 19)
            raise Fault(218)
        # CUDA 11.8 knows PTX 7.8, 12.x knows 8.x, 13.x knows 9.x.
        most = (gpu.version // 1000 - 4, gpu.version % 1000 // 10)
        if (int(version[1]), int(version[2])) > most:
            raise Fault(222)
        if (int(target[1]), int(target[2])) > gpu.capability:
            raise Fault(218)
    out[0] = gpu._handle(Loaded(gpu.rewrite(text), gpu.memory))


@_call(c_void_p)
def cuModuleUnload(gpu: FakeGpu, module: int) -> None:
    gpu._of(module, Loaded).unload()
    del gpu.handles[module]


@_call(_HANDLE, c_void_p, c_char_p)
def cuModuleGetFunction(gpu: FakeGpu, out: Any, module: int, name: bytes) -> None:
    loaded = gpu._of(module, Loaded)
    if name.decode() not in loaded.module.entries:
        raise Fault(500)
    loaded.code(name.decode())  # an unknown instruction shows at load
    out[0] = gpu._handle(_Function(loaded, name.decode()))


@_call(c_void_p, c_int, c_int)
def cuFuncSetAttribute(gpu: FakeGpu, function: int, attribute: int, value: int) -> None:
    f = gpu._of(function, _Function)
    if attribute != 8 or value + f.module.static_shared(f.name) > 227 << 10:
        raise Fault(1)
    f.dynamic = value


@_call(_P(c_size_t), _P(c_size_t))
def cuMemGetInfo_v2(gpu: FakeGpu, free: Any, total: Any) -> None:
    free[0], total[0] = gpu.total - gpu.used, gpu.total


@_call(_P(c_uint64), c_size_t)
def cuMemAlloc_v2(gpu: FakeGpu, out: Any, size: int) -> None:
    if size == 0:
        raise Fault(1)
    if gpu.used + size > gpu.total:
        raise Fault(2)
    out[0] = address = gpu.memory.alloc(size)
    gpu.sizes[address] = size
    gpu.used += size


@_call(c_uint64)
def cuMemFree_v2(gpu: FakeGpu, address: int) -> None:
    gpu.drain_all()
    gpu.memory.free(address)
    gpu.used -= gpu.sizes.pop(address)


@_call(_P(c_void_p), c_size_t, c_uint)
def cuMemHostAlloc(gpu: FakeGpu, out: Any, size: int, flags: int) -> None:
    if size == 0 or flags != 1:
        raise Fault(1)
    if not gpu.pins:
        raise Fault(2)
    held = (c_ubyte * size)(*[0xA5] * min(size, 4096))
    out[0] = address = ctypes.addressof(held)
    gpu.pinned[address] = held


@_call(c_void_p)
def cuMemFreeHost(gpu: FakeGpu, address: int) -> None:
    gpu.drain_all()
    if gpu.pinned.pop(address, None) is None:
        raise Fault(1)


def _host(address: int, size: int) -> np.ndarray:
    return np.frombuffer((c_ubyte * size).from_address(address), np.uint8)


@_call(c_uint64, c_void_p, c_size_t)
def cuMemcpyHtoD_v2(gpu: FakeGpu, to: int, source: int, size: int) -> None:
    gpu.memory.write(to, _host(source, size))


@_call(c_uint64, c_void_p, c_size_t, c_void_p)
def cuMemcpyHtoDAsync_v2(gpu: FakeGpu, to: int, source: int, size: int, stream: int) -> None:
    if any(base <= source and source + size <= base + len(held) for base, held in gpu.pinned.items()):
        gpu.queue(stream, lambda: gpu.memory.write(to, _host(source, size)))  # read when the stream comes to it
        return
    data = _host(source, size).copy()  # from pageable memory the driver takes a copy before it returns
    gpu.queue(stream, lambda: gpu.memory.write(to, data))


@_call(c_void_p, c_uint64, c_size_t, c_void_p)
def cuMemcpyDtoHAsync_v2(gpu: FakeGpu, to: int, source: int, size: int, stream: int) -> None:
    def work() -> None:
        _host(to, size)[:] = gpu.memory.read(source, size)

    gpu.queue(stream, work)


@_call(c_uint64, c_uint64, c_size_t, c_void_p)
def cuMemcpyDtoDAsync_v2(gpu: FakeGpu, to: int, source: int, size: int, stream: int) -> None:
    gpu.queue(stream, lambda: gpu.memory.copy(to, source, size))


@_call(c_uint64, c_ubyte, c_size_t, c_void_p)
def cuMemsetD8Async(gpu: FakeGpu, address: int, value: int, size: int, stream: int) -> None:
    gpu.queue(stream, lambda: gpu.memory.fill(address, value, size))


@_call(c_void_p, c_int, c_uint64)
def cuPointerGetAttribute(gpu: FakeGpu, out: int, attribute: int, address: int) -> None:
    try:
        gpu.memory.find(address)
    except PtxError:
        raise Fault(1) from None
    c_int.from_address(out).value = 0


@_call(_HANDLE, c_uint)
def cuStreamCreate(gpu: FakeGpu, out: Any, flags: int) -> None:
    if flags != 1:
        raise Fault(1)
    out[0] = gpu._handle(FakeStream())


@_call(c_void_p)
def cuStreamDestroy_v2(gpu: FakeGpu, stream: int) -> None:
    gpu.drain(gpu._of(stream, FakeStream))
    del gpu.handles[stream]


@_call(c_void_p)
def cuStreamSynchronize(gpu: FakeGpu, stream: int) -> None:
    gpu.drain(gpu._of(stream, FakeStream))


@_call(c_void_p, c_void_p, c_uint)
def cuStreamWaitEvent(gpu: FakeGpu, stream: int, event: int, flags: int) -> None:
    e = gpu._of(event, _Event)
    earlier, done = e.stream, e.done

    def work() -> None:
        while earlier is not None and not done[0]:
            earlier.work.pop(0)()

    gpu.queue(stream, work)


@_call(_HANDLE, c_uint)
def cuEventCreate(gpu: FakeGpu, out: Any, flags: int) -> None:
    out[0] = gpu._handle(_Event())


@_call(c_void_p)
def cuEventDestroy_v2(gpu: FakeGpu, event: int) -> None:
    gpu._of(event, _Event)
    del gpu.handles[event]


@_call(c_void_p, c_void_p)
def cuEventRecord(gpu: FakeGpu, event: int, stream: int) -> None:
    e, s = gpu._of(event, _Event), gpu._of(stream, FakeStream)
    e.stream, e.done = s, [False]
    done = e.done

    def work() -> None:
        done[0] = True

    s.work.append(work)


@_call(c_void_p)
def cuEventQuery(gpu: FakeGpu, event: int) -> None:
    if not gpu._of(event, _Event).done[0]:
        raise Fault(600)


@_call(c_void_p)
def cuEventSynchronize(gpu: FakeGpu, event: int) -> None:
    e = gpu._of(event, _Event)
    while e.stream is not None and not e.done[0]:
        e.stream.work.pop(0)()


@_call(_P(c_float), c_void_p, c_void_p)
def cuEventElapsedTime(gpu: FakeGpu, out: Any, start: int, stop: int) -> None:
    if not (gpu._of(start, _Event).done[0] and gpu._of(stop, _Event).done[0]):
        raise Fault(600)
    out[0] = 1.0


@_call(c_void_p, *[c_uint] * 7, c_void_p, _HANDLE, _HANDLE)
def cuLaunchKernel(
    gpu: FakeGpu, function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int,
    pointers: Any, extra: Any,
) -> None:  # fmt: skip
    if (gy, gz, by, bz) != (1, 1, 1, 1) or extra:
        raise Fault(1)
    launch = gpu.params(gpu._of(function, _Function), gx, bx, shared, pointers)
    gpu.queue(stream, lambda: gpu.execute(launch))


class _Graph:
    def __init__(self) -> None:
        self.nodes: dict[int, _Node] = {}


class _Exec:
    def __init__(self, nodes: dict[int, _Node]) -> None:
        self.nodes = {k: _Node(n.params, list(n.after)) for k, n in nodes.items()}


@_call(_HANDLE, c_uint)
def cuGraphCreate(gpu: FakeGpu, out: Any, flags: int) -> None:
    out[0] = gpu._handle(_Graph())


@_call(c_void_p)
def cuGraphDestroy(gpu: FakeGpu, graph: int) -> None:
    for node in gpu._of(graph, _Graph).nodes:
        del gpu.handles[node]
    del gpu.handles[graph]


def _node_params(gpu: FakeGpu, p: Any) -> tuple[Any, ...]:
    if (p.gridDimY, p.gridDimZ, p.blockDimY, p.blockDimZ) != (1, 1, 1, 1) or p.extra:
        raise Fault(1)
    return gpu.params(gpu._of(p.func, _Function), p.gridDimX, p.blockDimX, p.sharedMemBytes, p.kernelParams)


@_call(_HANDLE, c_void_p, _HANDLE, c_size_t, _P(Params))
def cuGraphAddKernelNode_v2(gpu: FakeGpu, out: Any, graph: int, after: Any, count: int, params: Any) -> None:
    g = gpu._of(graph, _Graph)
    before = [after[i] for i in range(count)]
    if len(set(before)) != count or not set(before) <= g.nodes.keys():
        raise Fault(1)
    node = _Node(_node_params(gpu, params[0]), before)
    out[0] = handle = gpu._handle(node)
    g.nodes[handle] = node


@_call(_HANDLE, c_void_p, c_uint64)
def cuGraphInstantiateWithFlags(gpu: FakeGpu, out: Any, graph: int, flags: int) -> None:
    out[0] = gpu._handle(_Exec(gpu._of(graph, _Graph).nodes))


@_call(c_void_p, c_void_p, _P(Params))
def cuGraphExecKernelNodeSetParams_v2(gpu: FakeGpu, executable: int, node: int, params: Any) -> None:
    nodes = gpu._of(executable, _Exec).nodes
    gpu._of(node, _Node)
    nodes[node].params = _node_params(gpu, params[0])


@_call(c_void_p)
def cuGraphExecDestroy(gpu: FakeGpu, executable: int) -> None:
    gpu._of(executable, _Exec)
    del gpu.handles[executable]


@_call(c_void_p, c_void_p)
def cuGraphLaunch(gpu: FakeGpu, executable: int, stream: int) -> None:
    nodes = gpu._of(executable, _Exec).nodes
    place = {handle: i for i, handle in enumerate(nodes)}
    now = [(n.params, [place[a] for a in n.after]) for n in nodes.values()]
    gpu.queue(stream, lambda: gpu.execute_graph(now))


@contextmanager
def fake_gpu(*args: Any, **kwargs: Any) -> Iterator[FakeGpu]:
    """A process with that GPU: ``fusewright.load`` finds it. Whatever went wrong in the interpreter is raised."""
    gpu = FakeGpu(*args, **kwargs)
    before = driver_module.library
    driver_module.driver.cache_clear()
    device_module.device.cache_clear()
    driver_module.library = lambda: gpu  # type: ignore[assignment]
    try:
        yield gpu
    finally:
        driver_module.library = before
        driver_module.driver.cache_clear()
        device_module.device.cache_clear()
