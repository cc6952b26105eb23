"""Times of single steps: the walk does what the dispatcher does, and counts what it ran."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import InputRefused
from fusewright.core.plan import Call, Plan
from fusewright.runtime import bundle as bundle_module
from fusewright.runtime.bundle import load
from fusewright.runtime.profile import Walk, rows_of

RNG = np.random.default_rng(3)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The output arrays that profiles filled."""
    kept: list[np.ndarray] = []
    real = bundle_module.new_array

    def note(*args: Any) -> np.ndarray:
        kept.append(real(*args))
        kept[-1].fill(7)
        return kept[-1]

    monkeypatch.setattr(bundle_module, "new_array", note)
    return kept


def test_of_two_layouts_of_one_constant_the_larger_one_counts() -> None:
    plan = Plan((), 0)
    args = [plan.address("c", plan.add_constant(offset, size)) for offset, size in ((0, 256), (0, 64), (512, 32))]
    plan.steps = [Call(plan.add_kernel("k", "k", "contract"), args, plan.expr(1))]
    row = {"name": "k", "kind": "contract", "origin": "", "flops": 0, "bytes": 0}
    assert [r.constants for r in rows_of(plan, [row])] == [256 + 32]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_call_has_its_row(tiny: Any, threads: int, written: list[np.ndarray]) -> None:
    bundle = load(tiny.mlp(grain=1), threads=threads)
    x = RNG.normal(size=(9, 64)).astype("f4")
    rows = bundle.profile({"x": x}, rounds=4, warm=1)
    assert [(r.kernel, r.origin, r.runs, len(r.seconds)) for r in rows] == [
        ("dense", f"layer{i}", 1, 4) for i in range(3)
    ]
    assert [r.constants for r in rows] == [4 * (64 * 64 + 64), 4 * (64 * 64 + 64), 4 * (64 * 10 + 10)]
    assert all(r.extent == 9 and r.grain == 1 and min(r.seconds) > 0 for r in rows)
    np.testing.assert_array_equal(written[0], bundle(x))
    assert "3 runs" not in repr(rows[0]) and rows[0].to_dict()["seconds"] == rows[0].seconds


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loops_are_walked_as_the_dispatcher_walks_them(
    tiny: Any, trips: int, reverse: bool, written: list[np.ndarray]
) -> None:
    bundle = load(tiny.running_sum(reverse))
    x = RNG.normal(size=(trips, 4)).astype("f4")
    rows = bundle.profile({"x": x}, rounds=2)
    assert [(r.origin, r.runs) for r in rows] == [("init", 1), ("add", trips), ("keep", trips)]
    np.testing.assert_array_equal(written[0], bundle(x))


@pytest.mark.parametrize("flag", [False, True])
def test_conditions_are_followed(tiny: Any, flag: bool, written: list[np.ndarray]) -> None:
    bundle = load(tiny.while_double())
    x, z = np.full(4, 3, "f4"), np.ones(4, "f4")
    rows = {r.origin: r for r in bundle.profile({"x": x, "flag": np.array(flag), "z": z}, rounds=2)}
    want = {"load": 1, "test": 3, "double": 2, "then": int(flag), "else": int(not flag)}  # 3, 6, 12
    assert {k: r.runs for k, r in rows.items()} == want
    np.testing.assert_array_equal(written[0], bundle(x, np.array(flag), z))


def test_a_scan_inside_a_scan(written: list[np.ndarray]) -> None:
    inner = fw.Builder()
    c, v = inner.input("c", "f32", ()), inner.input("v", "f32", ())
    body = inner.build(inner.add(inner.mul(c, 0.5), v), inner.mul(c, v))
    outer = fw.Builder()
    c, row = outer.input("c", "f32", ()), outer.input("row", "f32", (4,))
    last, ys = outer.scan(c, row, n_carry=1, n_xs=1, regions=[body])
    outer_body = outer.build(last, ys)
    b = fw.Builder()
    last, ys = b.scan(b.input("c", "f32", ()), b.input("x", "f32", (3, 4)), n_carry=1, n_xs=1, regions=[outer_body])
    bundle = fw.compile(b.build({"last": last, "ys": ys}), target="cpu-avx2")
    feeds = {"c": np.float32(1), "x": RNG.normal(size=(3, 4)).astype("f4")}
    rows = bundle.profile(feeds, rounds=1)
    assert max(r.runs for r in rows) == 12
    for got, want in zip(written[:2], bundle.run(feeds).values(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_extents_found_during_the_run() -> None:
    b = fw.Builder()
    x = b.input("x", "f32", ("N",))
    mask = b.gt(x, 0.0)
    k = b.symbol_of(b.reduce_sum(b.cast(mask, to="i64"), axes=(0,)), symbol="K", high="N")
    y = b.mul(b.gather_nd(x, b.nonzero(mask, size="K")), 2.0)
    bundle = fw.compile(b.build({"y": y, "k": k}), target="cpu-avx2")
    signs = np.where(np.arange(6000) % 3, 1, -1).astype("f4")

    def extents(x: np.ndarray) -> list[int]:
        return [r.extent for r in bundle.profile({"x": x}, rounds=2)]

    none, some, whole = (extents(x) for x in (-np.abs(signs), signs, np.abs(signs)))
    behind = [i for i, (a, c) in enumerate(zip(none, whole, strict=True)) if a != c]
    assert behind and all(none[i] == 0 < some[i] < whole[i] for i in behind)


def test_a_refused_extent_ends_the_walk_as_it_ends_a_call() -> None:
    b = fw.Builder()
    n = b.input("n", "i64", ())
    b.symbol_of(n, symbol="K", high="4")
    bundle = fw.compile(b.build({"y": b.iota(shape=("K",), axis=0, dtype="i64")}), target="cpu-avx2")
    with pytest.raises(InputRefused) as by_call:
        bundle(np.int64(5))
    with pytest.raises(InputRefused) as by_profile:
        bundle.profile({"n": np.int64(5)})
    assert str(by_profile.value) == str(by_call.value)


def test_what_handing_over_takes_is_subtracted(tiny: Any) -> None:
    """A clock that moves only while the dispatcher runs: 5 for an empty table, 5 + extent for a step."""
    bundle = load(tiny.mlp())
    now = [0.0]

    def entry(table: ctypes.c_int64, *rest: Any) -> int:
        words = (ctypes.c_int64 * 6).from_address(table.value)
        now[0] += 5 + (words[4] if words[1] == 1 else 0)
        return 0

    x = RNG.normal(size=(9, 64)).astype("f4")
    p = bundle._prepare((x.shape,), bundle._limit())
    arena = bundle_module.Arena(p.total)
    context = bundle._context(arena, p)
    steps = bundle_module.rows_of(bundle._plan, bundle.report({"N": 9}).kernels)
    walk = Walk(entry, context.args, context.words, steps, lambda: now[0])
    assert walk.run() == 0 and [s.seconds for s in steps] == [[9.0]] * 3


def test_wrong_arguments_are_refused(tiny: Any) -> None:
    bundle = load(tiny.mlp())
    x = RNG.normal(size=(9, 64)).astype("f4")
    for more in ({"rounds": 0}, {"warm": -1}, {"rounds": 1.5}):
        with pytest.raises(InputRefused, match="profile"):
            bundle.profile({"x": x}, **more)
    with pytest.raises(InputRefused, match="'x'"):
        bundle.profile({"x": x[:, :3]})
    tight = load(tiny.mlp(), threads=1, max_bytes=100)
    with pytest.raises(InputRefused, match="even one row of the batch"):
        tight.profile({"x": x})


def test_a_batch_in_slices_is_one_pass(tiny: Any) -> None:
    small = load(tiny.mlp(), threads=1, max_bytes=64 + 512 * 80)
    steps = small.profile({"x": np.zeros((200, 64), "f4")}, rounds=2)
    assert [s.runs for s in steps] == [3, 3, 3] and all(len(s.seconds) == 2 for s in steps)
    assert [s.extent for s in steps] == [40, 40, 40]
