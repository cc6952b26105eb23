"""Extents that a call finds out while it runs: storage, patched step tables, outputs, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from found import count, feeds, positive

import fusewright as fw
from fusewright.cli import main
from fusewright.core.errors import CompileRefused, InputRefused, VerifyError
from fusewright.core.plan import Plan
from fusewright.core.planscope import check_scopes
from fusewright.runtime.sanitise import sanitised_run

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def bundle():
    return fw.compile(positive(), target="cpu-avx2")


def same(got, want):
    assert list(got) == list(want)
    for name in want:
        assert got[name].shape == want[name].shape, name
        assert got[name].dtype == want[name].dtype
        np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("shift", [-9, 0, 9])
def test_none_some_and_all(bundle, threads, shift):
    graph = positive()
    loaded = fw.load(bundle._container.data, threads=threads)
    for n in (4, 1, 0, 7):
        given = feeds(n, shift)
        same(loaded.run(given), graph.run(given))


def test_calls_with_different_counts_follow_each_other(bundle):
    graph = positive()
    for shift in (0, 9, -9, 0.3, -0.5, 9):
        given = feeds(5, shift)
        same(bundle.run(given), graph.run(given))


def test_signature_names_the_symbol_and_its_bound(bundle):
    assert str(bundle.signature) == "(x: f32[N, 3]) -> (at: i64[K, 2], y: f32[K], k: i64[]) where K <= 3*N"
    assert bundle.manifest.batch is None


def test_report_counts_a_free_symbol_as_its_bound(bundle):
    small, large = bundle.report({"N": 1}), bundle.report({"N": 100})
    assert 0 < small.arena_bytes < large.arena_bytes
    assert large.kernels[-1]["bytes"] > small.kernels[-1]["bytes"] > 0


def test_results_own_what_they_need_and_no_more(bundle):
    given = feeds(64, -2.0)
    at, y, k = bundle(given["x"])
    assert len(y) == k < 192
    assert y.flags.c_contiguous and (y.base is None or y.base.nbytes == y.nbytes)
    assert at.flags.c_contiguous


def test_out_is_laid_out_for_the_bound_and_filled_from_the_front(bundle):
    given = feeds(4, 0.2)
    want = positive().run(given)
    outs = np.full((12, 2), -7), np.full(12, -7, np.float32), np.zeros((), np.int64)
    at, y, k = bundle(given["x"], out=outs)
    assert at.base is outs[0] and y.base is outs[1]
    same({"at": at, "y": y, "k": k}, want)
    assert (outs[0][len(at) :] == -7).all() and (outs[1][len(y) :] == -7).all()
    with pytest.raises(InputRefused, match="wanted"):
        bundle(given["x"], out=(np.zeros((3, 2), np.int64), outs[1], outs[2]))


def test_bind_gives_the_symbols(bundle):
    given = feeds(4, 0.2)
    outs = {"at": np.zeros((12, 2), np.int64), "y": np.zeros(12, np.float32), "k": np.zeros((), np.int64)}
    call = bundle.bind(given, outs)
    for shift in (0.5, -9, 9):
        given["x"][...] = feeds(4, shift)["x"]
        found = call()
        want = positive().run(given)
        assert found == {"K": len(want["y"])}
        np.testing.assert_array_equal(outs["y"][: found["K"]], want["y"])
        np.testing.assert_array_equal(outs["at"][: found["K"]], want["at"])


def test_bytes_are_written_where_they_belong(bundle):
    for n, shift in ((6, 0), (6, 9), (6, -9), (0, 0)):
        given = feeds(n, shift)
        same(sanitised_run(bundle, given), positive().run(given))


def test_portable_bundle_agrees(bundle):
    portable = fw.load(bundle._container.data, native=False)
    given = feeds(5, 0)
    same(portable.run(given), bundle.run(given))
    outs = np.zeros((15, 2), np.int64), np.zeros(15, np.float32), np.zeros((), np.int64)
    at, y, k = portable(given["x"], out=outs)
    assert at.base is outs[0]
    same({"at": at, "y": y, "k": np.asarray(k)}, bundle.run(given))


def test_room_is_what_bind_wants(bundle, tmp_path, capsys):
    given = feeds(4, 0.5)
    outs = bundle.room(given)
    assert {name: a.shape for name, a in outs.items()} == {"at": (12, 2), "y": (12,), "k": ()}
    found = bundle.bind(given, outs)()
    assert found["K"] == outs["k"] == len(bundle.run(given)["y"])
    bundle.save(tmp_path / "m.fwb")
    assert main(["bench", str(tmp_path / "m.fwb"), "--dim", "N=5", "--seconds", "0.01"]) == 0
    assert "bound" in capsys.readouterr().out


def limited(high=None) -> fw.Graph:
    b = fw.Builder()
    n = b.input("n", "i64", ())
    b.symbol_of(n, symbol="K", high=high)
    return b.build({"y": b.iota(shape=("K",))})


def test_a_number_out_of_range_is_refused_and_the_next_call_works():
    bundle = fw.compile(limited(8), target="cpu-avx2")
    for n in (3, 8, 0):
        np.testing.assert_array_equal(bundle(np.int64(n)), np.arange(n))
    for n in (9, -1, 2**40):
        with pytest.raises(InputRefused, match=f"K came out as {n}.* from 0 to 8"):
            bundle(np.int64(n))
        np.testing.assert_array_equal(bundle(np.int64(5)), np.arange(5))
    call = bundle.bind({"n": np.array(9)}, {"y": np.zeros(8, np.int64)})
    with pytest.raises(InputRefused, match="K came out as 9"):
        call()


def test_without_a_bound_the_compiler_says_how_to_give_one():
    with pytest.raises(CompileRefused, match=r"K.*no upper bound.*dims=\{'K'"):
        fw.compile(limited(), target="cpu-avx2")
    bundle = fw.compile(limited(), target="cpu-avx2", dims={"K": (1, 5)})
    np.testing.assert_array_equal(bundle(np.int64(5)), np.arange(5))
    with pytest.raises(InputRefused, match="from 1 to 5"):
        bundle(np.int64(0))


def test_equal_extents_are_checked_during_the_run():
    b = fw.Builder()
    x, y = b.input("x", "f32", (6,)), b.input("y", "f32", (6,))
    parts = []
    for i, v in enumerate((x, y)):
        mask = b.gt(v, 0.0)
        b.symbol_of(count(b, mask), symbol=f"K{i}", high=6)
        parts.append(b.gather_nd(v, b.nonzero(mask, size=f"K{i}")))
    graph = b.build({"z": b.add(parts[0], b.view_as(parts[1], shape=("K0",)))})
    bundle = fw.compile(graph, target="cpu-avx2")
    one = np.array([1, -1, 2, 3, -4, 0], np.float32)
    np.testing.assert_array_equal(bundle(one, np.flip(one).copy()), graph.run({"x": one, "y": np.flip(one)})["z"])
    for run in (lambda: bundle(one, -one), lambda: graph.run({"x": one, "y": -one})):
        with pytest.raises(InputRefused):
            run()
    np.testing.assert_array_equal(bundle(one, one), np.array([2, 4, 6], np.float32))


def test_arithmetic_on_a_symbol():
    """Quotients, remainders, products and least and greatest of a run-time extent reach kernels as numbers."""
    b = fw.Builder()
    n, x = b.input("n", "i64", ()), b.input("x", "f32", ("T", 2))
    b.symbol_of(n, symbol="K", high="T")
    shapes = ["K//2", "K%3", "min(K, 4)", "max(K, 3)", "2*K + 1", "T - K", "K*T", "(K + T)//2", "K*K"]
    outs = {f"y{i}": b.iota(shape=(s,)) for i, s in enumerate(shapes)}
    outs["head"] = b.slice(x, starts=(0, 0), stops=("K", 2))
    outs["tail"] = b.slice(x, starts=("K", 0), stops=("T", 2))
    graph = b.build(outs)
    bundle = fw.compile(graph, target="cpu-avx2")
    for t in (5, 8):
        for k in range(t + 1):
            given = {"n": np.int64(k), "x": RNG.standard_normal((t, 2)).astype(np.float32)}
            same(bundle.run(given), graph.run(given))


def test_inside_loops_and_branches():
    """A scan whose body binds a symbol each trip, a while around one, an if with one on either side."""

    def row_body(b, total, row):
        mask = b.gt(row, 0.0)
        b.symbol_of(count(b, mask), symbol="K", high=5)
        kept = b.gather_nd(row, b.nonzero(mask, size="K"))
        s = b.reduce_sum(b.add(kept, 1.0), axes=(0,))
        return b.add(total, s), s

    def side(name, sign):
        def body(b, x):
            mask = b.gt(b.mul(x, sign), 0.0)
            b.symbol_of(count(b, mask), symbol=name, high=5)
            return b.reduce_sum(b.gather_nd(x, b.nonzero(mask, size=name)), axes=(0,))

        return body

    b = fw.Builder()
    x, flag, turns = b.input("x", "f32", ("N", 5)), b.input("flag", "bool", ()), b.input("turns", "i64", ())
    zero = b.constant(0.0)
    f32, vec = zero.type, x.type.with_shape((5,))
    total, each = b.scan(zero, x, regions=[b.region([f32, vec], row_body)], n_carry=1, n_xs=1)
    line = b.reduce_sum(x, axes=(0,))
    chosen = b.if_(flag, line, regions=[b.region([vec], side("P", 1.0)), b.region([vec], side("M", -1.0))])
    i64 = turns.type

    def cond(b, i, acc, x, turns):
        return b.lt(i, turns)

    def body(b, i, acc, x, turns):
        b.symbol_of(i, symbol="I", high=5)
        head = b.slice(x, starts=(0,), stops=("I",))
        return b.add(i, 1), b.add(acc, b.reduce_sum(head, axes=(0,)))

    types = [i64, f32, vec, i64]
    _, grown = b.while_(
        b.constant(0, "i64"), zero, line, turns, regions=[b.region(types, cond), b.region(types, body)], n_carry=2
    )
    graph = b.build({"total": total, "each": each, "chosen": chosen, "grown": grown})
    graph.verify()
    again = fw.parse_graph(str(graph))
    assert again.fingerprint == graph.fingerprint
    bundle = fw.compile(graph, target="cpu-avx2")
    for n, flag_, turns_ in ((3, True, 6), (4, False, 0), (0, True, 2), (1, False, 3)):
        given = {
            "x": RNG.standard_normal((n, 5)).astype(np.float32),
            "flag": np.bool_(flag_),
            "turns": np.int64(turns_),
        }
        want = graph.run(given)
        for got in (bundle.run(given), sanitised_run(bundle, given)):
            for name in want:
                np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_a_plan_that_uses_a_symbol_too_early_is_refused(bundle):
    raw = json.loads(bundle._container.read("native/cpu-avx2/plan.json"))
    raw["steps"] = [s for s in raw["steps"] if s["op"] != "bind"]
    with pytest.raises(VerifyError, match="K before it is set"):
        check_scopes(Plan.from_bytes(json.dumps(raw).encode()))
    raw = json.loads(bundle._container.read("native/cpu-avx2/plan.json"))
    raw["buffers"][0]["bytes"] = next(i for i, e in enumerate(raw["exprs"]) if "K" in e)
    with pytest.raises(VerifyError, match="size of buffer 0 uses K"):
        check_scopes(Plan.from_bytes(json.dumps(raw).encode()))


def test_windows_that_are_not_known_to_fit_are_checked():
    """A slice, a window and a difference that their bounds alone do not keep inside are refused where they leave."""
    b = fw.Builder()
    x, n, m = b.input("x", "f32", (6, 2)), b.input("n", "i64", ()), b.input("m", "i64", ())
    b.symbol_of(n, symbol="K", high=50)
    b.symbol_of(m, symbol="L", high=50)
    zero = b.constant(0, "i64")
    outs = {
        "head": b.slice(x, starts=(0, 0), stops=("K", 2)),
        "window": b.dynamic_slice(x, m, zero, sizes=("K", 2)),
        "rest": b.iota(shape=("K - L",)),
    }
    graph = b.build(outs)
    bundle = fw.compile(graph, target="cpu-avx2")
    values = RNG.standard_normal((6, 2)).astype(np.float32)
    for k, m_ in ((3, 2), (6, 0), (0, 0), (6, 6), (7, 1), (50, 50), (2, 3), (5, 1)):
        given = {"x": values, "n": np.int64(k), "m": np.int64(m_)}
        if m_ <= k <= 6:
            same(bundle.run(given), graph.run(given))
        else:
            with pytest.raises(InputRefused, match=r"an extent is -?\d+ where \d+ is needed"):
                bundle.run(given)
