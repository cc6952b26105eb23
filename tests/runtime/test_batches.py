"""How many rows of a batch run at a time: all, as many as memory allows, or as many as stay in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusewright.core import slices
from fusewright.core.errors import InputRefused
from fusewright.core.plan import Call
from fusewright.runtime import bundle as bundle_module
from fusewright.runtime.bundle import Bundle, load
from fusewright.runtime.memory import Arena


def test_bits_do_not_depend_on_threads_batch_or_slices(tiny: Any, data: memoryview) -> None:
    x = tiny.rows(97)
    want = load(data, threads=1)(x)
    for threads in (2, 8):
        np.testing.assert_array_equal(load(data, threads=threads)(x), want)
    bundle = load(data, threads=2)
    np.testing.assert_array_equal(np.concatenate([bundle(x[:40]), bundle(x[40:])]), want)
    for limit in (700, 2000, 9000, 30000):
        small = load(data, threads=2, max_bytes=limit)
        np.testing.assert_array_equal(small(x), want)
        out = np.empty((97, 10), "f4")
        assert small(x, out=out) is out
        np.testing.assert_array_equal(out, want)
        assert max(a.size for a in small._arenas) <= limit


def test_slices_are_as_large_as_fit(tiny: Any, data: memoryview) -> None:
    bundle = load(data, threads=1, max_bytes=64 + 512 * 10)
    p = bundle._prepare(((1000, 64),), bundle._limit())
    assert p.rows == 10 and p.total <= bundle.max_bytes
    assert bundle(tiny.rows(1000)).shape == (1000, 10)
    whole = load(data, threads=1, max_bytes=64 + 512 * 1000)
    assert whole._prepare(((1000, 64),), whole._limit()).rows == 0


def test_a_batch_that_leaves_the_cache_runs_in_slices(
    monkeypatch: pytest.MonkeyPatch, tiny: Any, data: memoryview
) -> None:
    x = tiny.rows(270)
    bundle = load(data, threads=2)
    want, arena = bundle(x), bundle.report({"N": 270}).arena_bytes
    monkeypatch.setattr(slices, "CACHE", 80 * 512)
    bundle = load(data, threads=2)
    p = bundle._prepare((x.shape,), bundle._limit())
    assert p.rows == 68 and p.total < arena / 3
    assert bundle.report({"N": 270}).arena_bytes == p.total and bundle.report({"N": 270}).rows_at_once == 68
    assert bundle.report({"N": 70}).rows_at_once is None
    bundle = load(data, threads=1)
    for n in (270, 269, 64, 3):  # slices of one size, a rest, and none
        np.testing.assert_array_equal(bundle(x[:n]), want[:n])
        out = np.full((n, 10), np.nan, "f4")
        bound = bundle.bind({"x": x[:n]}, {"y": out})
        for _ in range(2):
            out[...] = np.nan
            assert bound() is None
            np.testing.assert_array_equal(out, want[:n])
    steps = bundle.profile({"x": x[:269]}, rounds=3)
    assert [(s.runs, len(s.seconds)) for s in steps] == [(4, 3)] * 3
    dependent = load(tiny.mlp(batch=None), threads=1)
    assert dependent._prepare((x.shape,), dependent._limit()).rows == 0


def test_the_last_slice_may_need_the_most_memory(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    plan = tiny.plan(("N",), 1)
    size = plan.expr("32*N")
    between = plan.address("b", plan.add_buffer("32*N + 65536*(N % 2)", 0, 1))
    for i, (source, to) in enumerate([(plan.address("i", 0), between), (between, plan.address("o", 0))]):
        plan.steps.append(Call(2, [source, to], size, 1 << 20, "copy", "rw", [i, i + 1], [size, size]))
    plan.outputs = [plan.address("o", 0)]
    bundle = load(tiny.bundle(plan, [("x", "f32", ("N", 8))], [("y", "f32", ("N", 8))]), threads=1)
    monkeypatch.setattr(slices, "CACHE", 6 * 32)
    x = np.arange(13 * 8, dtype="f4").reshape(13, 8)
    p = bundle._prepare((x.shape,), bundle._limit())
    (whole, *_, rest), arena = [part for part, _, _ in bundle._slices(p)], Arena(p.total)
    assert whole.rows and rest.total > whole.total
    pieces = bundle._pieces(arena, p, [x], [np.empty_like(x)])
    assert all(c.scratch - part.binding.arena == arena.address for c, part, _, _ in pieces)
    np.testing.assert_array_equal(bundle(x), x)


def test_a_batch_that_cannot_be_sliced_states_its_bytes(tiny: Any, data: memoryview) -> None:
    with pytest.raises(InputRefused, match=r"even one row.*576 bytes.*max_bytes is 500"):
        load(data, threads=1, max_bytes=500)(tiny.rows(3))
    dependent = load(tiny.mlp(batch=None), threads=1, max_bytes=2000)
    assert dependent(tiny.rows(2)).shape == (2, 10)
    with pytest.raises(InputRefused, match=rf"this call \(N = 100\) needs an arena of {512 * 100 + 64} bytes"):
        dependent(tiny.rows(100))


def test_absurd_sizes_are_refused_not_wrapped(mlp: Bundle) -> None:
    with pytest.raises(InputRefused, match="overflow 62 bits"):
        mlp._prepare((((1 << 62) - 1, 64),), 1 << 40)
    huge = np.broadcast_to(np.zeros((1, 64), "f4"), (1 << 45, 64))
    with pytest.raises(InputRefused, match="no memory"):
        mlp(huge)


def test_less_memory_than_expected_turns_into_slices(
    tiny: Any, data: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = tiny.rows(3000)
    bundle = load(data, threads=1)
    want = bundle(x)
    bundle._arenas.clear()
    monkeypatch.setattr(bundle_module, "_GROWTH_CHECKED", 1000)
    monkeypatch.setattr(bundle_module, "available_bytes", lambda: 200_000)
    np.testing.assert_array_equal(bundle(x), want)
    assert bundle._arenas[0].size <= 100_000


def test_a_plan_serves_smaller_bindings(tiny: Any, data: memoryview) -> None:
    bundle = load(data, threads=1)
    bundle(tiny.rows(100)), bundle(tiny.rows(80))
    assert len(bundle._template.plans) == 1
    bundle(tiny.rows(1)), bundle(tiny.rows(101))
    assert len(bundle._template.plans) == 2
