"""Extents that a call finds out while it runs, on a GPU: loops, branches, refusals, results of every kind of array."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from found import count, feeds, positive

import fusewright as fw
from fusewright.core.errors import InputRefused
from fusewright.runtime.cuda.arrays import DeviceArray
from fusewright.runtime.cuda.bundle import CudaBundle
from fusewright.runtime.cuda.device import Memory, Stream
from fusewright.runtime.format import Container

from fake_driver import FakeGpu, fake_gpu
from sanitised import both_ways

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[FakeGpu]:
    with warnings.catch_warnings(), fake_gpu((8, 6)) as found:
        warnings.filterwarnings("ignore", message=".*the driver compiles its PTX.*")
        yield found


def same(got: Any, want: Any) -> None:
    assert list(got) == list(want)
    for name in want:
        assert got[name].shape == want[name].shape and got[name].dtype == want[name].dtype, name
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_none_some_and_all_in_any_order(gpu: FakeGpu) -> None:
    graph = positive()
    data = fw.compile(graph, target="cuda")._container.data
    bundle = CudaBundle(Container.open(data))
    for n, shift in ((4, 0), (4, 9), (4, -9), (1, 0), (0, 0), (7, 0.3)):
        given = feeds(n, shift)
        same(bundle.run(given), graph.run(given))
        same(both_ways(gpu, data, given), graph.run(given))


def test_results_given_bound_and_on_the_device() -> None:
    graph = positive()
    bundle = fw.compile(graph, target="cuda")
    given = feeds(4, 0.2)
    want = graph.run(given)
    outs = np.full((12, 2), -7), np.full(12, -7, np.float32), np.zeros((), np.int64)
    at, y, k = bundle(given["x"], out=outs)
    assert at.base is outs[0] and y.base is outs[1]
    same({"at": at, "y": y, "k": k}, want)
    assert (outs[0][len(at) :] == -7).all() and (outs[1][len(y) :] == -7).all()
    room = bundle.room(given)
    call = bundle.bind(given, room)
    for shift in (0.5, -9, 9):
        given["x"][...] = feeds(4, shift)["x"]
        found, want = call(), graph.run(given)
        assert found == {"K": len(want["y"])}
        np.testing.assert_array_equal(room["y"][: found["K"]], want["y"])


def test_arrays_on_the_device_come_in_their_true_shapes() -> None:
    graph = positive()
    bundle: Any = fw.compile(graph, target="cuda")
    given = feeds(6, 0)
    with bundle.device as device:
        memory, stream = Memory(device, given["x"].nbytes, "x"), Stream(device)
        device.driver.upload(memory.address, given["x"].ctypes.data, given["x"].nbytes)
    x = DeviceArray(memory, given["x"].shape, graph.inputs[0].dtype, stream)
    found = bundle.run({"x": x})
    assert all(isinstance(a, DeviceArray) for a in found.values())
    same({name: np.asarray(a) for name, a in found.items()}, graph.run(given))
    with pytest.raises(InputRefused, match="found out during the call"):
        bundle(x, out=tuple(found.values()))
    with pytest.raises(InputRefused, match="bind it to arrays of the host"):
        bundle.bind({"x": x}, bundle.room(given))


def test_a_number_out_of_range_is_refused_and_the_next_call_works() -> None:
    b: Any = fw.Builder()
    b.symbol_of(b.input("n", "i64", ()), symbol="K", high=8)
    bundle = fw.compile(b.build({"y": b.iota(shape=("K",))}), target="cuda")
    for n in (9, -1, 2**40):
        with pytest.raises(InputRefused, match=f"K came out as {n}.* from 0 to 8"):
            bundle(np.int64(n))
        np.testing.assert_array_equal(bundle(np.int64(5)), np.arange(5))


def test_equal_extents_are_checked_during_the_run() -> None:
    b: Any = fw.Builder()
    parts = []
    for i, v in enumerate((b.input("x", "f32", (6,)), b.input("y", "f32", (6,)))):
        mask = b.gt(v, 0.0)
        b.symbol_of(count(b, mask), symbol=f"K{i}", high=6)
        parts.append(b.gather_nd(v, b.nonzero(mask, size=f"K{i}")))
    graph = b.build({"z": b.add(parts[0], b.view_as(parts[1], shape=("K0",)))})
    bundle = fw.compile(graph, target="cuda")
    one = np.array([1, -1, 2, 3, -4, 0], np.float32)
    with pytest.raises(InputRefused, match="an extent is"):
        bundle(one, -one)
    np.testing.assert_array_equal(bundle(one, one), np.array([2, 4, 6], np.float32))


def test_products_of_rows_that_are_found_out() -> None:
    """Launches of tensor cores and of rows are laid out when their extents are known."""
    b: Any = fw.Builder()
    x = b.input("x", "f32", ("N", 48))
    mask = b.gt(b.reduce_sum(x, axes=(1,)), 0.0)
    b.symbol_of(count_rows(b, mask), symbol="K", high="N")
    rows = b.gather(x, b.reshape(b.nonzero(mask, size="K"), shape=("K",)), axis=0)
    w = np.random.default_rng(0).standard_normal((48, 40)).astype(np.float32)
    graph = b.build({"y": b.softmax(b.relu(b.matmul(rows, b.constant(w))), axes=(1,))})
    bundle = fw.compile(graph, target="cuda")
    for n in (70, 3, 0):
        given = {"x": RNG.standard_normal((n, 48)).astype(np.float32)}
        same(bundle.run(given), graph.run(given))


def count_rows(b: Any, mask: Any) -> Any:
    return b.reduce_sum(b.cast(mask, to="i64"), axes=(0,))


def test_inside_loops_and_branches(gpu: FakeGpu) -> None:
    """A scan whose body binds a symbol each trip, a while around one, an if with one on either side."""

    def row_body(b: Any, total: Any, row: Any) -> Any:
        mask = b.gt(row, 0.0)
        b.symbol_of(count(b, mask), symbol="K", high=5)
        s = b.reduce_sum(b.add(b.gather_nd(row, b.nonzero(mask, size="K")), 1.0), axes=(0,))
        return b.add(total, s), s

    def side(name: str, sign: float) -> Any:
        def body(b: Any, x: Any) -> Any:
            mask = b.gt(b.mul(x, sign), 0.0)
            b.symbol_of(count(b, mask), symbol=name, high=5)
            return b.reduce_sum(b.gather_nd(x, b.nonzero(mask, size=name)), axes=(0,))

        return body

    b: Any = fw.Builder()
    x, flag, turns = b.input("x", "f32", ("N", 5)), b.input("flag", "bool", ()), b.input("turns", "i64", ())
    zero = b.constant(0.0)
    f32, vec, i64 = zero.type, x.type.with_shape((5,)), turns.type
    total, each = b.scan(zero, x, regions=[b.region([f32, vec], row_body)], n_carry=1, n_xs=1)
    line = b.reduce_sum(x, axes=(0,))
    chosen = b.if_(flag, line, regions=[b.region([vec], side("P", 1.0)), b.region([vec], side("M", -1.0))])

    def cond(b: Any, i: Any, acc: Any, x: Any, turns: Any) -> Any:
        return b.lt(i, turns)

    def body(b: Any, i: Any, acc: Any, x: Any, turns: Any) -> Any:
        b.symbol_of(i, symbol="I", high=5)
        return b.add(i, 1), b.add(acc, b.reduce_sum(b.slice(x, starts=(0,), stops=("I",)), axes=(0,)))

    types = [i64, f32, vec, i64]
    _, grown = b.while_(
        b.constant(0, "i64"), zero, line, turns, regions=[b.region(types, cond), b.region(types, body)], n_carry=2
    )
    graph = b.build({"total": total, "each": each, "chosen": chosen, "grown": grown})
    data = fw.compile(graph, target="cuda")._container.data
    for n, flag_, turns_ in ((3, True, 6), (4, False, 0), (0, True, 2), (1, False, 3)):
        drawn = RNG.standard_normal((n, 5)).astype(np.float32)
        given = {"x": drawn, "flag": np.bool_(flag_), "turns": np.int64(turns_)}
        same(both_ways(gpu, data, given), graph.run(given))
