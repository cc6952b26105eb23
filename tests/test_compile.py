"""From a graph to a bundle and back: the promises that span all parts."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

import fusewright as fw
from fusewright.core import slices

RNG = np.random.default_rng(7)


def small_net():
    """Convolution, recurrence and a dense head: each kind of kernel once."""
    rng = np.random.default_rng(3)
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 8, 8, 3))
    w = b.constant(rng.normal(size=(3, 3, 3, 16)).astype(np.float32) * 0.3)
    y = b.relu(b.add(b.conv(x, w, pads=((1, 1), (1, 1))), b.constant(rng.normal(size=16).astype(np.float32))))
    y = b.max_pool(y, window=2)
    steps = b.transpose(b.reshape(y, shape=("N", 4, 64)), perm=(1, 0, 2))
    start = b.full(("N", 5), 0.0, "f32")
    u = rng.normal(size=(64, 5)).astype(np.float32) * 0.1
    v = rng.normal(size=(5, 5)).astype(np.float32) * 0.3

    def cell(r, h, s):
        new = r.tanh(r.add(r.matmul(s, r.constant(u)), r.matmul(h, r.constant(v))))
        return new, new

    body = b.region([start.type, steps.type.with_shape(steps.shape[1:])], cell)
    last, all_steps = b.scan(start, steps, n_carry=1, n_xs=1, regions=[body])
    head = b.softmax(b.matmul(last, b.constant(rng.normal(size=(5, 4)).astype(np.float32))))
    return b.build({"probabilities": head, "states": b.transpose(all_steps, perm=(1, 0, 2))})


@pytest.fixture(scope="module")
def graph():
    return small_net()


@pytest.fixture(scope="module")
def bundle(graph):
    return fw.compile(graph)


def images(n):
    return RNG.normal(size=(n, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_native_equals_the_float64_interpreter(graph, bundle, n):
    x = images(n)
    want = graph.run({"x": x}, precision="f64")
    got = bundle.run({"x": x})
    assert list(got) == ["probabilities", "states"]
    for name, value in want.items():
        assert got[name].shape == value.shape and got[name].dtype == np.float32
        assert np.max(np.abs(got[name] - value), initial=0) <= 2e-6


def test_saved_loaded_and_portable_forms_agree(tmp_path, bundle):
    path = tmp_path / "net.fwb"
    bundle.save(path)
    x = images(3)
    want = bundle(x)
    for a, b in zip(want, fw.load(path)(x), strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(want, fw.load(path, native=False)(x), strict=True):
        assert np.max(np.abs(a - b)) <= 2e-6
    assert [p.name for p in tmp_path.iterdir()] == ["net.fwb"]


def test_every_variant_computes(graph, bundle):
    x = images(2)
    narrow = fw.compile(graph, target="cpu-avx2")
    assert narrow.target == "cpu-avx2"
    for a, b in zip(narrow(x), bundle(x), strict=True):
        assert np.max(np.abs(a - b)) <= 2e-6


def test_bits_do_not_depend_on_threads_or_batch_split(tmp_path, bundle):
    path = tmp_path / "net.fwb"
    bundle.save(path)
    x = images(9)
    want = fw.load(path, threads=1)(x)
    for threads in (2, 8):
        for a, b in zip(want, fw.load(path, threads=threads)(x), strict=True):
            assert np.array_equal(a, b)
    parts = [bundle(x[i : i + 1]) for i in range(9)]
    for k, whole in enumerate(want):
        assert np.array_equal(whole, np.concatenate([p[k] for p in parts]))
    tight = fw.load(path, threads=1, max_bytes=bundle.report({"N": 2}, 1).arena_bytes + 100_000)
    for a, b in zip(want, tight(x), strict=True):
        assert np.array_equal(a, b)


def test_results_into_given_arrays_when_the_shapes_were_seen_before(bundle):
    x = images(3)
    want = bundle(x)
    outs = tuple(np.full_like(y, np.nan) for y in want)
    for _ in range(2):
        got = bundle(x, out=outs)
        assert all(a is b for a, b in zip(got, outs, strict=True))
        for a, b in zip(want, outs, strict=True):
            assert np.array_equal(a, b)
    room = np.empty(sum(y.size for y in want), np.float32)
    crowded = tuple(room[: y.size].reshape(y.shape) for y in want)
    with pytest.raises(fw.InputRefused, match="overlap"):
        bundle(x, out=crowded)
    with pytest.raises(fw.InputRefused, match="read-only"):
        locked = np.empty_like(want[0])
        locked.flags.writeable = False
        bundle(x, out=(locked, *outs[1:]))


def test_fixed_and_bounded_symbols(graph):
    fixed = fw.compile(graph, dims={"N": 2}, target="cpu-avx2")
    assert fixed.signature.inputs[0].shape == (2, 8, 8, 3)
    with pytest.raises(fw.InputRefused):
        fixed(images(3))
    bounded = fw.compile(graph, dims={"N": (1, 4)}, target="cpu-avx2")
    assert bounded(images(4))[0].shape == (4, 4)
    with pytest.raises(fw.InputRefused):
        bounded(images(5))


def test_a_fixed_batch_beyond_the_cache_runs_in_slices(tmp_path, graph, monkeypatch):
    x = images(8)
    whole = fw.compile(graph, dims={"N": 8})
    arena = whole.report(threads=1).arena_bytes
    monkeypatch.setattr(slices, "CACHE", arena // 4)
    sliced = fw.compile(graph, dims={"N": np.int64(8)})
    assert str(sliced.signature) == str(whole.signature) and sliced.manifest.batch == "N"
    planned = fw.plan(graph, dims={"N": 8}).report(threads=1)
    assert sliced.report(threads=1).arena_bytes == planned.arena_bytes < arena // 2
    path = tmp_path / "net.fwb"
    sliced.save(path)
    for threads in (1, 2):
        loaded = fw.load(path, threads=threads)
        for got, again, want in zip(loaded(x), sliced(x), whole(x), strict=True):
            assert np.array_equal(got, again)
            assert np.allclose(got, want, rtol=1e-5, atol=1e-5)
    for got, want in zip(fw.load(path, native=False)(x), whole(x), strict=True):
        assert np.allclose(got, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(fw.InputRefused, match="axis 0 must be 8"):
        sliced(x[:7])
    assert fw.compile(graph, dims={"N": (8, 8)}).signature.inputs[0].shape[0] == "N"
    assert fw.compile(graph, dims={"N": 3}).manifest.batch is None  # no two slices of two


@pytest.mark.parametrize(
    "dims", [{"M": 2}, {"N": -1}, {"N": "2"}, {"N": (3, 2)}, {"N": True}, {"N": (1, "2")}, {"N": 1.5}, ["N"]]
)
def test_bad_dims_are_refused(graph, dims):
    with pytest.raises(fw.CompileRefused):
        fw.compile(graph, dims=dims)


def test_unknown_targets_and_modes_are_refused(graph):
    with pytest.raises(fw.CompileRefused, match="tpu"):
        fw.compile(graph, target="tpu")
    with pytest.raises(fw.CompileRefused):
        fw.compile(graph, target="cpu-mmx")
    with pytest.raises(fw.CompileRefused, match="sloppy"):
        fw.compile(graph, numerics="sloppy")
    for wrong in ({"target": None}, {"target": [1]}, {"pipeline": "cpu"}, {"threads": 0}, {"threads": "2"}):
        with pytest.raises(fw.CompileRefused):
            fw.compile(graph, **wrong)


def test_the_report_states_kernels_and_memory(graph, bundle):
    report = bundle.report({"N": 4}).to_dict()
    planned = fw.plan(graph).report({"N": 4}).to_dict()
    assert report["arena_bytes"] == planned["arena_bytes"] >= report["lower_bound_bytes"] > 0
    assert [k["name"] for k in report["kernels"]] == [k["name"] for k in planned["kernels"]]
    assert sum(k["flops"] for k in report["kernels"]) > 2 * 4 * 64 * 27 * 16
    assert {"value", "reused", "why"} <= set(report["in_place"][0])


def test_constants_are_stored_once(graph, bundle):
    constants = sum(n.attrs["value"].array.nbytes for n in graph.walk() if n.op.name == "constant")
    weights = len(bundle._container.raw("weights.bin"))
    assert weights <= 1.5 * constants + 4096  # panels of this tiny net are mostly padding


SCRIPT = """
import hashlib, sys
sys.path.insert(0, {tests!r})
import fusewright as fw
from test_compile import small_net
b = fw.compile(small_net())
b.save({out!r})
print(hashlib.sha256(open({out!r}, "rb").read()).hexdigest())
"""


def run(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_same_bytes_under_other_hash_seeds_and_without_a_compiler(tmp_path, bundle):
    here = os.path.dirname(__file__)
    bundle.save(tmp_path / "here.fwb")
    want = hashlib.sha256((tmp_path / "here.fwb").read_bytes()).hexdigest()
    code = SCRIPT.format(tests=here, out=str(tmp_path / "there.fwb"))
    assert run(code, PYTHONHASHSEED="1", FUSEWRIGHT_CACHE=str(tmp_path / "cache")) == want
    assert run(code, PYTHONHASHSEED="2", PATH="/nonexistent", FUSEWRIGHT_CACHE="off") == want


LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
import fusewright as fw
b = fw.load({path!r})
p, s = b(np.zeros((2, 8, 8, 3), np.float32))
assert p.shape == (2, 4) and abs(float(p.sum()) - 2) < 1e-5
loaded = {{m.split(".")[0] for m in sys.modules}} & set({heavy!r})
assert not loaded, loaded
assert not [m for m in sys.modules if m.startswith(("fusewright.ir", "fusewright.passes", "fusewright.backends"))]
print("ok")
"""


def test_loading_needs_numpy_only(tmp_path, bundle):
    heavy = ["numba", "llvmlite", "networkx", "onnx", "pyfive", "rich", "hypothesis", "tensorflow", "keras", "scipy"]
    bundle.save(tmp_path / "net.fwb")
    assert run(LOAD.format(heavy=heavy, path=str(tmp_path / "net.fwb"))) == "ok"


def test_a_child_process_may_call_a_bundle_of_its_parent(bundle):
    x = images(2)
    want = bundle(x)
    pid = os.fork()
    if pid == 0:
        same = all(np.array_equal(a, b) for a, b in zip(bundle(x), want, strict=True))
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_users_pass_joins_the_pipeline(graph):
    fired = []

    @fw.graph_pass(numerics="exact")
    def spy(g, ctx):
        fired.append(len(g.nodes))

    pipeline = fw.default_pipeline("cpu").after("simplify", spy)
    assert "spy" in pipeline.names
    fw.compile(graph, target="cpu-avx2", pipeline=pipeline)
    assert fired
