"""Steps of recurrent cells on GPUs: one kernel, inside its bound, in place, and on what is not finite."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cuda.bundle import cuda_target
from fusewright.core.errors import DeviceFailed
from fusewright.core.manifest import parse_canonical
from fusewright.passes import default_pipeline
from fusewright.runtime.cuda.bundle import CudaBundle
from fusewright.runtime.format import Container
from fusewright.testing.kernels import check_kernels

from fake_driver import fake_gpu
from sanitised import both_ways, spread


@pytest.fixture(autouse=True)
def arithmetic() -> Iterator[None]:
    """The interpreter computes in NumPy, which has its word to say on what is not finite."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*invalid value.*")
        yield


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def split(b: Any, x: Any, parts: int) -> list[Any]:
    w = x.shape[-1] // parts
    return [b.slice(x, starts=(None, i * w), stops=(None, (i + 1) * w)) for i in range(parts)]


def lstm(b: Any, z: Any, x: Any, c: Any) -> Any:
    i, f, g, o = split(b, b.add(z, x), 4)
    new = b.add(b.mul(b.sigmoid(f), c), b.mul(b.sigmoid(i), b.tanh(g)))
    return b.mul(b.sigmoid(o), b.tanh(new)), new


def gru(b: Any, z: Any, x: Any, c: Any) -> Any:
    (rz, rr, rh), (xz, xr, xh) = split(b, z, 3), split(b, x, 3)
    u, r = b.sigmoid(b.add(xz, rz)), b.sigmoid(b.add(xr, rr))
    return (b.add(b.mul(u, c), b.mul(b.sub(1.0, u), b.tanh(b.add(xh, b.mul(r, rh))))),)


def masked(b: Any, z: Any, x: Any, c: Any) -> Any:
    i, g = split(b, b.add(z, x), 2)
    return (b.where(b.input("m", "bool", (c.shape[0], 1)), b.mul(b.sigmoid(i), g), c),)


CELLS = {"lstm": (lstm, 4), "gru": (gru, 3), "masked": (masked, 2)}


def cell(name: str, rows: Any, k: int, width: int, transpose_b: bool = False) -> fw.Graph:
    make, parts = CELLS[name]
    b: Any = fw.Builder()
    h, x = b.input("h", "f32", (rows, k)), b.input("x", "f32", (rows, parts * width))
    w = weights(parts * width, k) if transpose_b else weights(k, parts * width)
    return b.build(*make(b, b.matmul(h, b.constant(w), transpose_b=transpose_b), x, b.input("c", "f32", (rows, width))))


def feeds_of(graph: fw.Graph, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    drawn = {v.name: (rng.standard_normal(v.type.concrete({"N": rows})), v.dtype) for v in graph.inputs}
    return {name: x > 0 if dt.kind == "b" else x.astype(dt.np) for name, (x, dt) in drawn.items()}


@pytest.mark.parametrize(
    "name,rows,k,width,transposed",
    [("lstm", 1, 64, 16, False), ("lstm", 21, 37, 11, False), ("gru", 3, 600, 24, False), ("gru", 2, 130, 9, True),
     ("masked", 17, 16, 8, True), ("masked", 5, 200, 40, False)],
)  # fmt: skip
def test_one_kernel_inside_its_bound(name: str, rows: int, k: int, width: int, transposed: bool) -> None:
    graph = cell(name, "N", k, width, transposed)
    with fake_gpu((8, 6)):
        verdicts = check_kernels(graph, feeds_of(graph, rows), target="cuda")
    assert [v.name.partition("(")[0] for v in verdicts] == ["gated"]
    assert all(v.ok and v.worst > 0 for v in verdicts), "\n".join(map(str, verdicts))


def test_a_row_alone_has_the_bits_it_has_in_a_batch() -> None:
    graph = cell("lstm", "N", 70, 24)
    feeds = feeds_of(graph, 20)
    with fake_gpu((8, 6)):
        bundle = fw.compile(graph, target="cuda")
        whole, alone = bundle.run(feeds), bundle.run({name: x[18:19] for name, x in feeds.items()})
    assert all(np.array_equal(alone[name][0], y[18]) for name, y in whole.items())


def test_infinities_and_the_largest_numbers_count_as_they_are() -> None:
    b: Any = fw.Builder()
    h, x = b.input("h", "f32", ("N", 32)), b.input("x", "f32", ("N", 16))
    i, g = split(b, b.add(b.matmul(h, b.constant(np.eye(32, 16, dtype=np.float32))), x), 2)
    graph = b.build(b.maximum(i, g))
    feeds = feeds_of(graph, 5)
    feeds["h"][0, 3], feeds["h"][1, 9], feeds["h"][2, 5] = np.inf, -np.inf, np.nan
    feeds["h"][3, 6] = np.finfo(np.float32).max
    feeds["x"][3, 6] = 0
    with fake_gpu((8, 6)):
        got = fw.compile(graph, target="cuda").run(feeds)["output"]
    z = feeds["h"] @ np.eye(32, 16, dtype=np.float32) + feeds["x"]
    np.testing.assert_allclose(got, np.maximum(z[:, :8], z[:, 8:]), rtol=1e-5)
    assert got[3, 6] == np.finfo(np.float32).max


@pytest.mark.parametrize("rows,kind", [("N", "gated"), (64, "gated"), (4096, "contract")])
def test_many_rows_go_to_tiles(rows: Any, kind: str) -> None:
    final, _ = default_pipeline(cuda_target()).run(cell("lstm", rows, 64, 32))
    assert kind in [n.attrs["kind"] for n in final.nodes if n.op.name == "fused"]


def network(kind: str) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    layer = getattr(keras.layers, kind)
    model = keras.Sequential([keras.Input((7, 5)), layer(20, return_sequences=True)])
    for w in model.weights:
        w.assign(np.random.default_rng(w.shape[0]).normal(0, 0.4, w.shape))
    return model


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_step_is_one_kernel(kind: str) -> None:
    graph = fw.import_model(network(kind))
    x = np.random.default_rng(2).standard_normal((3, 7, 5)).astype(np.float32)
    port = graph.inputs[0].name
    with fake_gpu((8, 6)) as gpu:
        data = fw.compile(graph, target="cuda")._container.data
        bundle = CudaBundle(Container.open(data))
        before = len(gpu.launched)
        got = bundle.run({port: x})
        names = [name.rpartition("_")[0] for name in gpu.launched[before:]]
        assert both_ways(gpu, data, {port: x}).keys() == got.keys()
    want = graph.run({port: x}, precision="f64")
    for name, y in want.items():
        assert np.abs(got[name] - y).max() <= 1e-6 * max(1, np.abs(y).max())
    # Besides: two transposes, the first states (made, and copied), the product over all steps, the last state.
    steps = max((n for n in set(names) if n != "copy"), key=names.count)
    assert names.count(steps) == 7 and names.count("copy") <= 3 and len(names) <= 7 + 3 + 4, names
    assert kind == "SimpleRNN" or steps == "gated"


def test_what_the_assembler_says_and_that_barriers_are_needed() -> None:
    graph = cell("lstm", "N", 70, 24)
    feeds = feeds_of(graph, 20)
    with fake_gpu((8, 6)):
        data = fw.compile(graph, target="cuda")._container.data
    container = Container.open(data)
    table = parse_canonical(bytes(container.read("native/cuda/resources.json")), "resources.json")["kernels"]
    for archs in table.values():
        assert all(u["spills"] == u["stack"] == 0 and u["registers"] <= 128 for u in archs.values())
    text = container.read("native/cuda/kernels.ptx").decode()
    found = []
    for m in list(re.finditer(r"bar(?:rier)?\.sync[^;]*;", text))[:2]:
        with fake_gpu((8, 6), rewrite=lambda t, m=m: t[: m.start()] + t[m.end() :]) as gpu, spread(gpu):
            with pytest.raises(DeviceFailed):
                CudaBundle(Container.open(data)).run(feeds)
            found.append(type(gpu.fault).__name__)
    assert found == ["Race", "Race"]
