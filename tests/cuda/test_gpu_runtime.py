"""The GPU runtime with hand-written kernels: the loader's calls go to a fake driver, its kernels to the interpreter."""

from __future__ import annotations

import gc
import os
import types
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.writer import Weights
from fusewright.core.errors import BundleRefused, DeviceFailed, InputRefused
from fusewright.core.plan import Launch
from fusewright.runtime.bundle import Bundle
from fusewright.runtime.cuda import arrays
from fusewright.runtime.cuda import driver as driver_module
from fusewright.runtime.cuda.bundle import CudaBundle
from fusewright.runtime.cuda.code import choose
from fusewright.runtime.cuda.device import STAGED
from fusewright.runtime.cuda.nodes import Order, unroll

import paper
from fake_driver import FakeGpu, FakeStream, fake_gpu

RNG = np.random.default_rng(11)
ELF = b"\x7fELF"


def cubin(name: str) -> bytes:
    """A file that looks like a cubin; the fake driver knows it by its first bytes."""
    return (ELF + name.encode()).ljust(128, b".")


@pytest.fixture
def gpu() -> Any:
    with fake_gpu() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield made


def load(data: Any, **options: Any) -> CudaBundle:
    bundle = fw.load(data, **options)
    assert isinstance(bundle, CudaBundle)
    return bundle


def rows(n: int) -> np.ndarray:
    return RNG.normal(size=(n, 64)).astype("f4")


# -- calls ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("scratch", [0, 1000])
def test_any_batch(gpu: FakeGpu, order: bool, scratch: int) -> None:
    bundle = load(paper.mlp(order, scratch=scratch))
    for n in (1, 0, 5, 33, 5, 1):
        x = rows(n)
        y = bundle(x)
        assert y.shape == (n, 10) and y.dtype == np.float32
        np.testing.assert_allclose(y, paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(bundle.run({"x": x})["y"], bundle(x=x))
    out = np.empty((1, 10), "f4")
    assert bundle(x, out=out) is out
    np.testing.assert_array_equal(out, bundle(x))


def test_one_graph_per_set_of_shapes_and_its_edges(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    x = rows(40)
    bundle(x)
    before = list(gpu.log)
    for _ in range(3):
        bundle(x)
    calls = gpu.log[len(before) :]
    assert calls.count("cuGraphLaunch") == 3
    assert not {"cuGraphInstantiateWithFlags", "cuGraphExecKernelNodeSetParams_v2", "cuMemAlloc_v2"} & set(calls)
    binding = bundle._young[((40, 64),)].binding
    (run,) = binding.parts()
    assert [launch.after for launch in run] == [[], [0], [1], [2], [3]]  # type: ignore[union-attr]


def test_steps_that_share_no_bytes_are_not_ordered(gpu: FakeGpu) -> None:
    plan = paper.plan((), 1)
    a, b = plan.add_buffer(256, 0, 2), plan.add_buffer(256, 1, 2)
    args = [plan.address("b", a), plan.address("b", b)]
    plan.steps = [
        paper.call(plan, "double", [plan.address("i", 0), args[0]], 64, "rw", [256] * 2),
        paper.call(plan, "relu", [plan.address("i", 0), args[1]], 64, "rw", [256] * 2),
        paper.call(plan, "add", [*args, plan.address("o", 0)], 64, "rrw", [256] * 3),
    ]
    plan.outputs = [("o", 0, plan.expr(0))]
    bundle = load(paper.bundle(plan, [("x", "f32", (64,))], [("y", "f32", (64,))]))
    x = rows(1)[0]
    np.testing.assert_array_equal(bundle(x), 2 * x + np.maximum(x, 0))
    assert gpu.launched == ["relu_", "double_", "add_"]  # the fake runs the last that may run
    values = plan.evaluate({})
    assert [launch.after for launch in unroll(plan, values, [0, 256], 512)[0]] == [[], [], [0, 1]]  # type: ignore[union-attr]
    assert [launch.after for launch in unroll(plan, values, [0, 128], 512)[0]] == [[], [0], [1]]  # type: ignore[union-attr]


def test_edges_that_others_imply_are_left_out() -> None:
    order = Order()
    space = ("b", 0)
    edges = [
        order.add(0, [(space, 0, 64, True)]),
        order.add(1, [(space, 0, 64, False), (space, 64, 128, True)]),
        order.add(2, [(space, 0, 32, False), (space, 128, 192, True)]),
        order.add(3, [(space, 64, 192, False), (space, 0, 64, False), (space, 192, 256, True)]),
        order.add(4, [(space, 0, 64, True)]),  # after all that read it
        order.add(5, None),
        order.add(6, [(space, 500, 600, True)]),
    ]
    assert edges == [[], [0], [0], [1, 2], [3], [4], [5]]


def test_loops_are_unrolled(gpu: FakeGpu) -> None:
    bundle = load(paper.running_sums())
    for t in (1, 2, 7):
        x, z = rows(t), rows(1)[0]
        np.testing.assert_allclose(bundle(x, z), z + np.cumsum(x, 0), rtol=1e-5, atol=1e-6)
    backwards = load(paper.running_sums(reverse=True))
    np.testing.assert_array_equal(backwards(x, z), 2 * x)


def test_conditions_split_a_call(gpu: FakeGpu) -> None:
    loop = load(paper.doubled_until())
    for first in (0.7, 12.0, 9.9):
        x = np.full(64, first, "f4")
        y, want = loop(x), first
        while want < 10:
            want *= 2
        np.testing.assert_allclose(y, want, rtol=1e-6)
    branch = load(paper.doubled_until(branch=True))
    np.testing.assert_allclose(branch(np.full(64, 0.5, "f4")), 1.0)
    np.testing.assert_allclose(branch(np.full(64, 50, "f4")), 50)


def test_outputs_that_no_kernel_writes(gpu: FakeGpu) -> None:
    x = rows(3)
    y = load(paper.passed_on())(x)
    for got, want in zip(y, (x, np.arange(1, 8, dtype="f4"), 2 * x, 2 * x, np.maximum(x, 0))):
        np.testing.assert_array_equal(got, want)


def test_batches_that_do_not_fit_run_in_slices(gpu: FakeGpu) -> None:
    data, x = paper.mlp(), rows(50)
    want = load(data)(x)
    small = load(data, max_bytes=12 << 10)
    np.testing.assert_array_equal(small(x), want)
    assert small._young[((50, 64),)].rows
    arrived = np.asarray(small(Foreign(gpu, x)))
    np.testing.assert_array_equal(arrived, want)
    with pytest.raises(InputRefused, match="even one row"):
        load(data, max_bytes=600)(x)


def test_calls_from_many_threads(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    inputs = [rows(1 + i % 5) for i in range(12)]
    with ThreadPoolExecutor(4) as workers:
        results = list(workers.map(bundle, inputs))
    for x, y in zip(inputs, results):
        np.testing.assert_allclose(y, paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    assert not getattr(gpu.current, "stack", [])


def test_report_signature_and_save(gpu: FakeGpu, tmp_path: Any) -> None:
    bundle = load(paper.mlp())
    report = bundle.report(dims={"N": 8})
    assert report.target == "cuda" and report.arena_bytes == 2 * 1024 and len(report.kernels) == 5
    assert str(bundle.signature.inputs[0].name) == "x" and "cuda on Paper GPU" in repr(bundle)
    more = load(paper.mlp(scratch=1000), threads=3)
    p = more._prepare(((8, 64),), 1 << 30)
    assert more.report(dims={"N": 8}).arena_bytes == p.binding.arena == 2 * 1024 + 1024
    path = tmp_path / "m.fwb"
    bundle.save(path)
    x = rows(2)
    np.testing.assert_array_equal(load(path)(x), bundle(x))


# -- arrays in GPU memory ---------------------------------------------------------------------------------------------
class Foreign:
    """Another library's array in the fake GPU's memory; its work is under way in a stream of its own."""

    def __init__(self, gpu: FakeGpu, x: np.ndarray, shift: int = 0, strides: Any = None, late: bool = True) -> None:
        self.gpu, self.x = gpu, np.ascontiguousarray(x)
        self.base = gpu.memory.alloc(x.nbytes + shift + 1)
        self.address = self.base + shift
        gpu.next += 16
        self.stream = gpu.next
        gpu.handles[self.stream] = FakeStream()
        data = self.x.reshape(-1).view("u1")
        if late:
            gpu.queue(self.stream, lambda: gpu.memory.write(self.address, data))
        self.strides = strides

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.x.shape, "typestr": self.x.dtype.str, "data": (self.address, False), "version": 3,
                "strides": self.strides, "stream": self.stream}  # fmt: skip

    def numpy(self) -> np.ndarray:
        self.gpu.drain(self.gpu.handles[self.stream])
        return self.gpu.memory.read(self.address, self.x.nbytes).view(self.x.dtype).reshape(self.x.shape)


@pytest.mark.parametrize("shift", [0, 4, 256])
def test_arrays_of_other_libraries(gpu: FakeGpu, shift: int) -> None:
    bundle = load(paper.mlp())
    x = rows(6)
    given = Foreign(gpu, x, shift)
    y = bundle(given)
    assert "cuMemcpyHtoDAsync_v2" not in gpu.log and ("cuMemcpyDtoDAsync_v2" in gpu.log) == (shift == 4)
    assert y.shape == (6, 10) and "cuda" not in str(type(y).__mro__[1])
    np.testing.assert_allclose(np.asarray(y), paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    out = Foreign(gpu, np.zeros((6, 10), "f4"), shift, late=False)
    assert bundle(given, out=out) is out
    np.testing.assert_array_equal(out.numpy(), np.asarray(y))  # its stream waits for ours


def test_results_go_on_without_a_copy(gpu: FakeGpu) -> None:
    first, second = load(paper.running_sums(reverse=True)), load(paper.running_sums(reverse=True))
    x, z = rows(4), rows(1)[0]
    between = first(Foreign(gpu, x), z)
    np.testing.assert_array_equal(np.asarray(second(between, z)), 4 * x)
    interface = between.__cuda_array_interface__
    assert interface["shape"] == (4, 64) and interface["typestr"] == "<f4" and interface["stream"] > 2


def test_dlpack_both_ways(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    x = rows(3)
    y = bundle(Foreign(gpu, x))
    assert y.__dlpack_device__() == (2, 0)

    class Wrapped:
        """DLPack alone."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.streams = inner, []

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.inner.__dlpack_device__()

        def __dlpack__(self, *, stream: Any = None) -> Any:
            self.streams.append(stream)
            return self.inner.__dlpack__(stream=stream)

    doubled = load(paper.running_sums(reverse=True))
    start = doubled(Foreign(gpu, rows(5)), rows(1)[0])
    want = np.asarray(start)
    wrapped = Wrapped(start)
    again = doubled(wrapped, rows(1)[0])
    np.testing.assert_array_equal(np.asarray(again), 2 * want)
    assert len(wrapped.streams) == 1 and wrapped.streams[0] > 2
    gone = weakref.ref(start)
    del start, wrapped, again, doubled
    assert gone() is None  # capsules that nobody consumed give their tensor back


class Unnamed(Foreign):
    """An array of a library that works in the default stream and names none: version 2 of the interface."""

    def __init__(self, gpu: FakeGpu, x: np.ndarray, late: bool = True) -> None:
        super().__init__(gpu, x, late=False)
        self.stream = 1
        if late:
            gpu.queue(1, lambda: gpu.memory.write(self.address, self.x.reshape(-1).view("u1")))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.x.shape, "typestr": self.x.dtype.str, "data": (self.address, False), "version": 2}


class Both(Unnamed):
    """The same with DLPack beside it, which is told our stream."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: Any = None) -> Any:
        memory = types.SimpleNamespace(address=self.address, device=types.SimpleNamespace(ordinal=0))
        self.told = stream
        self.gpu.queue(stream, lambda: self.gpu.drain(self.gpu.handles[1]))  # our stream waits for theirs
        array = types.SimpleNamespace(_memory=memory, shape=self.x.shape, dtype=self.x.dtype, fw_dtype=None)
        return arrays._export(array)


@pytest.mark.parametrize("kind", [Unnamed, Both])
def test_producers_that_name_no_stream(gpu: FakeGpu, kind: type[Unnamed]) -> None:
    """What they have queued comes before us, and what they queue afterwards behind us."""
    bundle = load(paper.mlp())
    x = rows(4)
    given, out = kind(gpu, x), kind(gpu, np.zeros((4, 10), "f4"), late=False)
    assert bundle(given, out=out) is out
    seen: list[np.ndarray] = []
    gpu.queue(1, lambda: seen.append(gpu.memory.read(out.address, 160).view("f4").reshape(4, 10)))
    gpu.queue(1, lambda: gpu.memory.fill(given.address, 0, x.nbytes))
    gpu.drain(gpu.handles[1])
    np.testing.assert_allclose(seen[0], paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    assert kind is Unnamed or given.told > 2  # type: ignore[attr-defined]


def test_bound_calls(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    x = rows(4)
    room = bundle.room({"x": x})
    f = bundle.bind({"x": x}, room)
    f()
    np.testing.assert_allclose(room["y"], paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    x[...] = rows(4)
    count = len(gpu.log)
    f()
    np.testing.assert_allclose(room["y"], paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    assert "cuMemAlloc_v2" not in gpu.log[count:]
    with pytest.raises(InputRefused, match="own stream"):
        f(1)
    given, out = Foreign(gpu, x), Foreign(gpu, np.zeros((4, 10), "f4"), late=False)
    g = bundle.bind({"x": given}, {"y": out})
    g(out.stream)
    np.testing.assert_allclose(out.numpy(), paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)


def test_arrays_that_are_refused(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    x = rows(4)
    with pytest.raises(InputRefused, match="strided"):
        bundle(Foreign(gpu, x, strides=(4, 16)))
    with pytest.raises(InputRefused, match="float64"):
        bundle(Foreign(gpu, x.astype("f8")))
    with pytest.raises(InputRefused, match="wanted f32"):
        bundle(x.astype("f8"))
    with pytest.raises(InputRefused, match="axis 1 must be 64"):
        bundle(Foreign(gpu, x[:, :5]))
    with pytest.raises(InputRefused, match="memory of no GPU"):
        stray = Foreign(gpu, x)
        stray.address = 64
        bundle(stray)
    with pytest.raises(InputRefused, match="so out has to be there"):
        bundle(Foreign(gpu, x), out=np.empty((4, 10), "f4"))
    with pytest.raises(InputRefused, match=r"wanted \(4, 10\)"):
        bundle(x, out=Foreign(gpu, np.zeros((5, 10), "f4"), late=False))
    both = Foreign(gpu, np.zeros(400, "f4"))
    loop = load(paper.running_sums(reverse=True))
    first = Foreign(gpu, x)
    with pytest.raises(InputRefused, match="overlaps an input"):
        loop(first, rows(1)[0], out=first)
    with pytest.raises(InputRefused, match=r"axis|rank"):
        bundle(both)


# -- code -------------------------------------------------------------------------------------------------------------
def test_which_code_runs_where() -> None:
    names = ["kernels.ptx", "plan.json", "sm_80.cubin", "sm_86.cubin", "sm_90.cubin", "sm_90a.cubin", "sm_100.cubin"]
    assert choose(names, (8, 0)) == ["sm_80.cubin", "kernels.ptx"]
    assert choose(names, (8, 9)) == ["sm_86.cubin", "sm_80.cubin", "kernels.ptx"]
    assert choose(names, (9, 0)) == ["sm_90a.cubin", "sm_90.cubin", "kernels.ptx"]
    assert choose(names, (10, 3)) == ["sm_100.cubin", "kernels.ptx"]
    assert choose(names, (7, 5)) == ["kernels.ptx"]


def test_a_cubin_is_taken_without_a_word_and_ptx_with_a_warning() -> None:
    files = {"kernels.ptx": paper.PTX.encode(), "sm_80.cubin": cubin("eighty"), "sm_90.cubin": cubin("ninety")}
    known = {v[:64]: paper.PTX for v in files.values() if v[:4] == ELF}
    x = rows(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for capability, name in (((9, 0), "sm_90.cubin"), ((8, 6), "sm_80.cubin")):
            with fake_gpu(capability, cubins=known):
                bundle = load(paper.mlp(files=files))
                assert bundle._code.file == name
                np.testing.assert_allclose(bundle(x), paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    with fake_gpu((12, 0), cubins=known), pytest.warns(RuntimeWarning, match=r"no code for this GPU .*12\.0.*PTX now"):
        assert load(paper.mlp(files=files))._code.file == "kernels.ptx"
    with fake_gpu((9, 0)), pytest.warns(RuntimeWarning, match=r"sm_90.cubin.*NO_BINARY"):
        assert load(paper.mlp(files=files))._code.file == "kernels.ptx"


@pytest.mark.parametrize(
    "gpu_is,files,why",
    [
        ({"capability": (7, 5)}, None, r"PTX needs compute capability 8\.0"),
        ({"capability": (9, 0)}, {"sm_80.cubin": cubin("x")}, r"it has sm_80\.cubin"),
        ({"version": 11080}, {"kernels.ptx": paper.PTX.replace("7.8", "8.4").encode()}, "UNSUPPORTED_PTX"),
        ({"capability": (9, 0)}, {"kernels.ptx": b"nonsense\0"}, r"fatal: no \.version"),
        ({"capability": (9, 0)}, {"kernels.ptx": paper.PTX.replace("dense_", "dance_").encode()}, "no kernel 'dense_'"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_code_that_does_not_run_here(gpu_is: dict[str, Any], files: Any, why: str) -> None:
    with fake_gpu(**gpu_is), pytest.raises(BundleRefused, match=why):
        fw.load(paper.mlp(files=files))


def test_no_driver_no_gpu_and_an_old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(count=0), pytest.raises(BundleRefused, match="finds no GPU"):
        fw.load(paper.mlp())
    with fake_gpu(lacks=("cuGraphAddKernelNode_v2",)), pytest.raises(BundleRefused, match=r"too old.*R525"):
        fw.load(paper.mlp())
    monkeypatch.setattr(driver_module, "_LIBRARIES", ("libcuda-that-is-not-there.so",))
    driver_module.library.cache_clear()
    driver_module.driver.cache_clear()
    with pytest.raises(BundleRefused, match="no NVIDIA driver"):
        fw.load(paper.mlp())


def test_gpu_memory_runs_out() -> None:
    with fake_gpu(total=20 << 10), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = load(paper.mlp(batch=None))
        with pytest.raises(InputRefused, match="max_bytes"):
            bundle(rows(100))
        bundle.max_bytes = 1 << 30
        with pytest.raises(InputRefused, match="no GPU memory for"):
            bundle(rows(100))
    with fake_gpu(total=1 << 10), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BundleRefused, match=r"weights take 14336 bytes, Paper GPU has 1024 free"):
            fw.load(paper.mlp())


def test_a_kernel_that_asks_for_much_shared_memory(gpu: FakeGpu) -> None:
    plan = paper.plan((), 1)
    plan.kernels[paper.kernel("double")].launch = Launch(64, 64, 100 << 10)
    plan.steps = [paper.call(plan, "double", [plan.address("i", 0), plan.address("o", 0)], 64)]
    plan.outputs = [("o", 0, plan.expr(0))]
    x = rows(1)[0]
    ports = [("x", "f32", (64,))], [("y", "f32", (64,))]
    np.testing.assert_array_equal(load(paper.bundle(plan, *ports))(x), 2 * x)
    assert "cuFuncSetAttribute" in gpu.log
    plan.kernels[paper.kernel("double")].launch = Launch(64, 64, 300 << 10)
    with pytest.raises(BundleRefused, match="bytes of shared memory"):
        fw.load(paper.bundle(plan, *ports))


def test_a_fault_of_a_kernel_is_told(gpu: FakeGpu) -> None:
    plan, store = paper.plan((), 1), Weights()
    plan.steps = [paper.call(plan, "double", [plan.address("i", 0), plan.address("o", 0)], 65)]
    plan.outputs = [("o", 0, plan.expr(0))]
    bundle = load(paper.bundle(plan, [("x", "f32", (64,))], [("y", "f32", (64,))], store))
    with pytest.raises(DeviceFailed, match=r"LAUNCH_FAILED"):
        bundle(Foreign(gpu, rows(1)[0])).__array__()
    assert "past the end" in str(gpu.fault)


def test_a_forked_child_is_told(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    bundle(rows(1))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            bundle(rows(1))
        except DeviceFailed as e:
            os.write(writer, str(e).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"forked child" in os.read(reader, 1000)


def test_lazy_verification_and_damage(gpu: FakeGpu) -> None:
    data = bytearray(paper.mlp())
    container = fw.load(bytes(data))._container
    at = container._places["weights.bin"][0]
    data[at + 5] ^= 1
    with pytest.raises(BundleRefused):
        fw.load(bytes(data))
    at = container._places["native/cuda/kernels.ptx"][0]
    data = bytearray(paper.mlp())
    data[at + 100] ^= 1
    with pytest.raises(BundleRefused, match=r"kernels\.ptx does not match its hash"):
        fw.load(bytes(data), verify="lazy")


def test_a_failure_keeps_its_number_when_it_travels() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(fw.DeviceFailed("cuInit failed", 999)))
    assert isinstance(again, fw.FusewrightError) and again.code == 999 and str(again) == "cuInit failed"


def test_a_bundle_for_both_takes_the_gpu_that_fits_else_the_cpu() -> None:
    b = fw.Builder()
    graph = b.build(b.relu(b.input("x", "f32", ("N", 8))))
    with fake_gpu(count=0):
        data = fw.compile(graph, target=["cpu", "cuda"])._container.data
        assert type(fw.load(data)) is Bundle
    x = RNG.normal(size=(3, 8)).astype("f4")
    with fake_gpu(), pytest.warns(RuntimeWarning, match="PTX now|NO_BINARY"):
        np.testing.assert_array_equal(load(data)(x), np.maximum(x, 0))
    with fake_gpu((7, 5)), pytest.warns(RuntimeWarning, match="it runs on the CPU"):
        on_cpu = fw.load(data)
    assert type(on_cpu) is Bundle
    np.testing.assert_array_equal(on_cpu(x), np.maximum(x, 0))


# -- arrays of the host -----------------------------------------------------------------------------------------------
def test_small_arrays_pass_through_pinned_memory_and_large_ones_do_not(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    x = rows(6)
    np.testing.assert_allclose(bundle(x), paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    assert gpu.log.count("cuMemHostAlloc") == 1 and len(gpu.pinned) == 1
    (held,) = gpu.pinned.values()
    assert bytes(held[: x.nbytes]) == x.tobytes()
    large = rows(STAGED // (64 * 4) + 1)
    got = bundle(large)
    assert bytes(held[: got.nbytes]) == got.tobytes()  # the input went as it is, so the result comes first
    np.testing.assert_allclose(got[:5], paper.mlp_numpy(large[:5]), rtol=1e-5, atol=1e-5)


def test_without_pinned_memory_arrays_go_as_they_are(gpu: FakeGpu) -> None:
    gpu.pins = False
    x = rows(3)
    np.testing.assert_allclose(load(paper.mlp())(x), paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)
    assert not gpu.pinned


def test_slices_of_a_batch_do_not_meet_in_pinned_memory(gpu: FakeGpu) -> None:
    """Copies in are read when the stream comes to them: room of a slice under way is not used again."""
    whole = load(paper.mlp())
    x = rows(40)
    want = whole(x)
    small = load(paper.mlp(), max_bytes=12 << 10)
    np.testing.assert_array_equal(small(x), want)
    assert gpu.log.count("cuMemcpyHtoDAsync_v2") >= 3


def test_bound_calls_read_what_their_arrays_hold_now(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    x, y = rows(4), np.zeros((4, 10), np.float32)
    call = bundle.bind({"x": x}, {"y": y})
    for seed in range(3):
        x[...] = np.random.default_rng(seed).standard_normal(x.shape)
        call()
        np.testing.assert_allclose(y, paper.mlp_numpy(x), rtol=1e-5, atol=1e-5)


def test_a_bundle_gives_its_pinned_memory_back(gpu: FakeGpu) -> None:
    bundle = load(paper.mlp())
    bundle(rows(2))
    assert len(gpu.pinned) == 1
    del bundle
    gc.collect()
    assert not gpu.pinned
