"""Loading and running bundles of hand-written kernels."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusewright.backends.writer import TargetImage, Weights, save_bundle, write_bundle
from fusewright.cli import main
from fusewright.core.dtypes import F32
from fusewright.core.errors import BundleRefused, CompileRefused, InputRefused, VerifyError
from fusewright.core.layout import Layout
from fusewright.core.manifest import Port, Signature, Symbol
from fusewright.core.plan import Bump, Call, Loop, Plan
from fusewright.runtime import cpu, prepare
from fusewright.runtime.bundle import Bundle, load
from fusewright.runtime.format import Container, Entry
from fusewright.runtime.format import Layout as FileLayout

SIZES = (64, 64, 64, 10)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 200])
def test_mlp_at_any_batch(tiny: Any, mlp: Bundle, n: int) -> None:
    x = tiny.rows(n)
    y = mlp(x)
    assert y.shape == (n, 10) and y.dtype == np.float32
    np.testing.assert_allclose(y, tiny.mlp_numpy(x), rtol=1e-5, atol=1e-5)


def test_concurrent_calls(tiny: Any, data: memoryview) -> None:
    bundle = load(data, threads=2)
    inputs = [tiny.rows(1 + i % 7, seed=i) for i in range(24)]
    want = [load(data, threads=1)(x) for x in inputs]

    def work(i: int) -> bool:
        return all(np.array_equal(bundle(inputs[(i + k) % 24]), want[(i + k) % 24]) for k in range(60))

    with ThreadPoolExecutor(8) as workers:
        assert all(workers.map(work, range(24)))
    assert len(bundle._arenas) <= 9


def test_more_shapes_than_are_kept(tiny: Any, data: memoryview) -> None:
    bundle = load(data, threads=1)
    for n in [*range(300), *range(300, 0, -7)]:
        x = tiny.rows(n)
        np.testing.assert_allclose(bundle(x), tiny.mlp_numpy(x), rtol=1e-4, atol=1e-4)
    assert len(bundle._young) <= 64 and len(bundle._old) <= 64
    assert len(bundle._arenas) == 1 and len(bundle._arenas[0].contexts) <= 128


def test_bind(tiny: Any, mlp: Bundle) -> None:
    x, y = tiny.rows(5), np.empty((5, 10), "f4")
    f = mlp.bind({"x": x}, {"y": y})
    for seed in range(3):
        x[...] = tiny.rows(5, seed)
        assert f() is None
        np.testing.assert_array_equal(y, mlp(x))
    for inputs, outputs, words in [
        ({}, {"y": y}, "takes the inputs 'x'"),
        ({"x": x}, {"z": y}, "takes the outputs 'y'"),
        ({"x": x[:, ::-1]}, {"y": y}, "C-contiguous"),
        ({"x": x.astype("f8")}, {"y": y}, "float64"),
        ({"x": x.tolist()}, {"y": y}, "list"),
        ({"x": x}, {"y": y[:4]}, "shape"),
        ({"x": x}, {"y": x.reshape(-1)[:50].reshape(5, 10)}, "overlaps"),
    ]:
        with pytest.raises(InputRefused, match=words):
            mlp.bind(inputs, outputs)


def test_bind_of_passed_on_outputs(tiny: Any) -> None:
    passing, x = load(tiny.passing()), np.ones((2, 2), "f4")
    y, c = np.empty((2, 2), "f4"), np.empty(3, "f4")
    f = passing.bind({"x": x}, {"same": y, "constant": c})
    f()
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(c, [0, 1, 2])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_loops(tiny: Any, reverse: bool, steps: int) -> None:
    x = np.arange(4 * steps, dtype="f4").reshape(steps, 4)
    bundle = load(tiny.running_sum(reverse))
    for _ in range(2):
        want = x[::-1].cumsum(0)[::-1] if reverse else x.cumsum(0)
        np.testing.assert_array_equal(bundle(x), want.astype("f4"))


def test_while_and_if(tiny: Any) -> None:
    bundle, z = load(tiny.while_double()), np.ones(4, "f4")
    for first in (1.0, 3.0, 10.0, 50.0):
        x = want = np.array([first, 1, -1, 0], "f4")
        while want[0] < 10:
            want = want + want
        np.testing.assert_array_equal(bundle(x, True, z), want + 1)
        np.testing.assert_array_equal(bundle(x, False, z), want)


def test_nested_loops_move_one_word_twice(tiny: Any) -> None:
    """y[a, b] = x[a, b] + z[b], one element at a time, the inner loop backwards."""
    plan = tiny.plan(("A", "B"), 2)
    one, four, row = plan.expr(1), plan.expr(4), plan.expr("4*B")
    args = [plan.address("i", 0), plan.address("i", 1), plan.address("o", 0)]
    call = Call(1, args, one, 1, "add", "rrw", [0, 1, 2], [four] * 3)
    inner = Loop(plan.expr("B"), [Bump(2, k, four, True) for k in range(3)], [call])
    plan.steps = [Loop(plan.expr("A"), [Bump(2, k, row) for k in (0, 2)], [inner])]
    plan.outputs = [plan.address("o", 0)]
    ports = [("x", "f32", ("A", "B")), ("z", "f32", ("B",))], [("y", "f32", ("A", "B"))]
    bundle = load(tiny.bundle(plan, *ports, symbols=(Symbol("A"), Symbol("B")), batch=None))
    rng = np.random.default_rng(0)
    for a, b in ((3, 4), (1, 1), (5, 2), (0, 3), (3, 0)):
        x, z = rng.normal(size=(a, b)).astype("f4"), rng.normal(size=b).astype("f4")
        np.testing.assert_array_equal(bundle(x, z), x + z)


def test_save_and_reload(tiny: Any, data: memoryview, tmp_path: Path) -> None:
    bundle, path = load(data), tmp_path / "m.fwb"
    bundle.save(path)
    assert path.read_bytes() == bytes(data)
    again = load(path)
    again.save(path)  # over the very file it was loaded from
    assert path.read_bytes() == bytes(data)
    x = tiny.rows(4)
    np.testing.assert_array_equal(again(x), bundle(x))
    np.testing.assert_array_equal(load(bytes(data))(x), bundle(x))
    save_bundle(data, tmp_path / "n.fwb")
    assert (tmp_path / "n.fwb").read_bytes() == bytes(
        tiny.mlp(in_place=[{"value": "h1", "reused": "h0", "why": "relu"}])
    )


def test_signature_and_report(mlp: Bundle) -> None:
    port = mlp.signature.inputs[0]
    assert (port.name, port.dtype, port.shape) == ("x", F32, ("N", 64))
    assert [p.name for p in mlp.signature.outputs] == ["y"]
    r = mlp.report({"N": 8}, threads=3)
    assert r.dims == {"N": 8} and r.lower_bound_bytes == 8 * 512 and r.scratch_bytes == 192
    assert r.arena_bytes == 8 * 512 + 192  # scratch of three threads included
    assert [k["origin"] for k in r.kernels] == ["layer0", "layer1", "layer2"]
    d = r.to_dict()
    assert json.loads(json.dumps(d)) == d and d["in_place"][0]["reused"] == "h0" and d["numerics"] == "strict"
    assert mlp.report().dims == {"N": 1} and "3 kernels" in repr(r)
    assert mlp.graph_text() == "graph\n" and "cpu-avx2" in repr(mlp)
    with pytest.raises(InputRefused, match="no symbol 'Q'"):
        mlp.report({"Q": 1})
    with pytest.raises(InputRefused, match="symbol N"):
        mlp.report({"N": -1})


def test_reports_of_loops_and_bounds(tiny: Any) -> None:
    bundle = load(tiny.add(symbols=(Symbol("N", 2, 4),)))
    assert bundle.report().dims == {"N": 2}
    r = load(tiny.running_sum()).report({"T": 5})
    assert [k["origin"] for k in r.kernels] == ["init", "add", "keep"] and r.flops == 0


def test_damage_found_before_and_after_loading(tiny: Any, data: memoryview, tmp_path: Path) -> None:
    path = tmp_path / "m.fwb"
    broken = bytearray(data)
    at = load(data)._container._places["weights.bin"][0]
    broken[at + 5] ^= 1
    path.write_bytes(broken)
    with pytest.raises(BundleRefused, match="weights"):
        load(path)
    lazy = load(path, verify="lazy")
    for t in threading.enumerate():
        if t.name == "fusewright-verify":
            t.join()
    for use in (lambda: lazy(tiny.rows(1)), lambda: lazy.run({"x": tiny.rows(1)})):
        with pytest.raises(BundleRefused, match="weights"):
            use()
    good = load(data, verify="lazy")
    assert good(tiny.rows(1)).shape == (1, 10)
    for name in ("native/cpu-avx2/code.bin", "native/cpu-avx2/plan.json", "graph.txt", "report.json"):
        broken = bytearray(data)
        broken[load(data)._container._places[name][0]] ^= 0x80
        for verify in ("full", "lazy"):
            with pytest.raises(BundleRefused, match=name):
                load(bytes(broken), verify=verify)


@pytest.mark.parametrize(
    "more", [{"verify": "no"}, {"threads": 0}, {"threads": "2"}, {"max_bytes": -1}, {"threads": True}]
)
def test_bad_options(data: memoryview, more: dict[str, Any]) -> None:
    with pytest.raises(BundleRefused, match=next(iter(more))):
        load(data, **more)


def test_thread_defaults(tiny: Any, data: memoryview) -> None:
    assert load(data).threads == len(os.sched_getaffinity(0))
    stored = tiny.mlp(threads=3)
    assert load(stored).threads == 3 and load(stored, threads=5).threads == 5


def test_a_cpu_that_lacks_features(data: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"avx2"}))
    with pytest.raises(BundleRefused, match=r"cpu-avx2 needs .*fma.*native=False"):
        load(data)


def _write(tiny: Any, plan: Plan, **changes: Any) -> memoryview:
    ports = Signature([Port("x", F32, ("N", 2))], [Port("y", F32, ("N", 2))])
    target = TargetImage("cpu-avx2", tiny.image.code, plan)
    parts: dict[str, Any] = {"weights": Weights(), "targets": [target], "symbols": [Symbol("N")], "batch": None}
    return write_bundle(signature=ports, graph_text="", **{**parts, **changes})


def test_parts_that_do_not_fit_are_refused_when_written(tiny: Any) -> None:
    plan = tiny.plan(("N",), 1)
    plan.outputs = [plan.address("i", 0)]
    assert load(_write(tiny, plan))(np.ones((1, 2), "f4")).shape == (1, 2)
    target = TargetImage("cpu-avx2", tiny.image.code, plan)
    with pytest.raises(CompileRefused, match="one name"):
        _write(tiny, plan, targets=[target, target])
    with pytest.raises(CompileRefused, match="symbols"):
        _write(tiny, plan, symbols=[])
    with pytest.raises(CompileRefused, match="past the end of the code"):
        _write(tiny, plan, targets=[TargetImage("cpu-avx2", b"x", plan)])
    plan.add_constant(0, 8)
    with pytest.raises(CompileRefused, match="past the end of the weights"):
        _write(tiny, plan)
    plan.constants.clear()
    plan.outputs.append(plan.address("i", 0))
    with pytest.raises(CompileRefused, match="inputs and outputs"):
        _write(tiny, plan)
    plan.outputs.pop()
    empty = _write(tiny, plan, targets=[])
    with pytest.raises(BundleRefused, match="it has none"):
        load(empty)


def test_weights_are_packed_once_and_aligned() -> None:
    w = Weights()
    a = np.arange(3, dtype="f4")
    assert w.add(a) == (0, 12) and w.add(a.copy()) == (0, 12) and w.add(a.astype(">f4")) == (0, 12)
    assert w.add(np.asfortranarray(np.arange(6.0).reshape(2, 3))) == (64, 48)
    assert w.add(np.empty((0, 3), "f4"))[1] == 0 and w.add(np.array(True)) == (128, 1)
    blob = b"".join(bytes(p) for p in w.pieces)
    assert len(blob) == w.size and np.frombuffer(blob[64:112]).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_bundle_can_be_dropped_during_its_call(tiny: Any, data: memoryview) -> None:
    x, results = tiny.rows(50), []
    bundle: Bundle | None = load(data, threads=2)
    gone = weakref.ref(bundle)

    def work(b: Bundle) -> None:
        results.extend(b(x) for _ in range(50))

    thread = threading.Thread(target=work, args=(bundle,))
    thread.start()
    bundle = None
    thread.join()
    del thread
    gc.collect()
    assert gone() is None and len(results) == 50 and all(np.array_equal(r, results[0]) for r in results)


def _python(code: str, *args: str) -> str:
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def path(data: memoryview, tmp_path: Path) -> str:
    save_bundle(data, tmp_path / "mlp.fwb")
    return str(tmp_path / "mlp.fwb")


def test_before_and_after_fork(path: str) -> None:
    text = _python(
        """
        import os, sys, threading
        import numpy as np
        from fusewright.runtime.bundle import load
        x = np.random.default_rng(0).normal(size=(64, 64)).astype("f4")
        b, lazy = load(sys.argv[1], threads=2), load(sys.argv[1], threads=2, verify="lazy")
        want = b(x)
        stop = threading.Event()
        busy = threading.Thread(target=lambda: [b(x) for _ in iter(stop.is_set, True)])
        busy.start()
        codes = []
        for _ in range(8):
            pid = os.fork()
            if pid == 0:
                ok = all(np.array_equal(f(x), want) for f in (b, lazy, load(sys.argv[1], threads=2)) for _ in range(20))
                os._exit(0 if ok and np.array_equal(b(x[:3]), want[:3]) else 1)
            codes.append(os.waitpid(pid, 0)[1])
        stop.set()
        busy.join()
        print(codes, np.array_equal(b(x), want))
        """,
        path,
    )
    assert text == f"{[0] * 8} True\n"


def test_only_numpy_and_the_standard_library(path: str) -> None:
    text = _python(
        """
        import sys
        import numpy as np
        before = set(sys.modules)
        from fusewright.runtime.bundle import load
        load(sys.argv[1])(np.zeros((2, 64), "f4"))
        new = {m.partition(".")[0] for m in set(sys.modules) - before}
        print(sorted(new - set(sys.stdlib_module_names)), sorted(new & {"zipfile", "asyncio", "tempfile", "pathlib"}))
        ours = {m.split(".")[1] for m in sys.modules if m.startswith("fusewright.")}
        print(sorted(ours - {"core", "runtime"}))
        """,
        path,
    )
    assert text == "['fusewright'] []\n[]\n"


def test_small_work_starts_no_threads(path: str) -> None:
    text = _python(
        """
        import sys, threading
        import numpy as np
        from fusewright.runtime.bundle import load
        b = load(sys.argv[1], threads=2)
        b(np.zeros((2, 64), "f4"))
        few = threading.active_count()
        b(np.zeros((200, 64), "f4"))
        print(few, threading.active_count())
        """,
        path,
    )
    assert text == "1 2\n"


def test_constants_in_another_layout_are_made_at_load(tiny: Any) -> None:
    """y = x + c, with c stored transposed and padded."""
    c = np.arange(6, dtype="f4").reshape(2, 3)
    stored = Layout((2, 3), [("transpose", (1, 0)), ("pad", (4, 2))])
    plan, weights = tiny.plan((), 1), Weights()
    k = plan.add_constant(*weights.add(stored.pack(c)), "f32", stored, Layout((2, 3)))
    span, six = plan.expr(24), plan.expr(6)
    args = [plan.address("i", 0), plan.address("c", k), plan.address("o", 0)]
    plan.steps = [Call(1, args, six, 64, "add", "rrw", [0, -1, 1], [span] * 3)]
    plan.outputs = [plan.address("o", 0), plan.address("c", k)]
    outs = [("y", "f32", (2, 3)), ("same", "f32", (2, 3))]
    bundle = load(tiny.bundle(plan, [("x", "f32", (2, 3))], outs, weights, (), None))
    x = np.ones((2, 3), "f4")
    y, same = bundle(x)
    np.testing.assert_array_equal(y, x + c)
    np.testing.assert_array_equal(same, c)
    plan.constants[k].wanted = Layout((2, 3), [("pad", (2, 9999))])
    with pytest.raises(VerifyError, match="layouts"):
        plan.verify()


def test_layouts_beyond_the_memory_there_is_are_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, weights = tiny.plan((), 1), Weights()
    stored, wanted = Layout((16, 1024)), Layout((16, 1024), [("pad", (16, 64 * 1024))])
    where = weights.add(np.ones(stored.shape, "f4"))
    for _ in range(5):
        plan.add_constant(*where, "f32", stored, wanted)
    plan.outputs = [plan.address("i", 0)]
    data = tiny.bundle(plan, [("x", "f32", (2,))], [("y", "f32", (2,))], weights, (), None)
    monkeypatch.setattr(prepare, "_CHECKED", 1 << 20)
    monkeypatch.setattr(prepare, "available_bytes", lambda: 4 << 22)
    with pytest.raises(BundleRefused, match=f"memory: no memory for {5 << 22} bytes"):
        load(data)
    monkeypatch.setattr(prepare, "available_bytes", lambda: 5 << 22)
    assert load(data)(np.ones(2, "f4")).tolist() == [1, 1]


def test_scalars_in_and_out(tiny: Any) -> None:
    bundle = load(tiny.add((), symbols=(Symbol("N", 1, 1),), batch=None))
    for _ in range(3):
        y = bundle(np.float32(2), np.array(3, "f4"))
        assert y.shape == () and y == 5
    assert bundle(1, 2.5) == 3.5


_LEAVES = [
    None,
    True,
    -1,
    0,
    1,
    2,
    63,
    64,
    1 << 40,
    1 << 70,
    "",
    "N",
    "Q",
    "N // 0",
    "(((",
    "min(N",
    "x" * 300,
    [],
    {},
    [1],
    {"a": 1},
]


def _mutated(data: Any, rng: random.Random) -> Any:
    """A copy with one place changed."""
    raw = json.loads(json.dumps(data))
    at, key = raw, None
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.9:
            at = at[key]
            continue
        break
    if key is None:
        return rng.choice(_LEAVES)
    if isinstance(at, dict) and rng.random() < 0.15:
        del at[key]
    elif isinstance(at, list) and rng.random() < 0.15:
        at.append(at[key])
    else:
        at[key] = rng.choice(_LEAVES)
    return raw


def _member(data: memoryview, name: str) -> bytes:
    return bytes(Container.open(data).raw(name))


def _with_member(data: memoryview, name: str, text: bytes) -> bytes:
    """The bundle with another text for a member, and right hashes."""
    parts = {n: _member(data, n) for n in Container.open(data)._places} | {name: text}
    if name != "manifest.json":
        manifest = json.loads(parts["manifest.json"])
        manifest["members"][name] = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        parts["manifest.json"] = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    tag = hashlib.sha256(parts["manifest.json"]).hexdigest()
    layout = FileLayout([Entry(n, len(p), 0) for n, p in parts.items()], tag)
    return b"".join(h + p for h, p in zip(layout.headers, parts.values())) + layout.tail


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[" * 100_000,
        b"[]",
        b'{"in_place":[7]}',
        b'{"in_place":[{"how":"view"}]}',
        b'{"in_place":[{"reused":"b","role":["view"]}]}',
        b'{"in_place":[],"lower_bound_bytes":["Q"]}',
    ],
)
def test_what_is_no_report_is_refused(data: memoryview, tmp_path: Path, text: bytes) -> None:
    broken = _with_member(data, "report.json", text)
    with pytest.raises(BundleRefused, match=r"report\.json"):
        load(broken).report()
    (tmp_path / "m.fwb").write_bytes(broken)
    assert main(["inspect", str(tmp_path / "m.fwb")]) == 1


@pytest.mark.parametrize("which", ["manifest.json", "native/cpu-avx2/plan.json", "report.json"])
def test_altered_descriptions_with_right_hashes_are_loaded_or_refused(tiny: Any, which: str) -> None:
    """Nothing but BundleRefused comes out of loading, preparing or reporting (the native code is not run)."""
    rng = random.Random(which)
    sources = [tiny.mlp(in_place=[{"value": "a", "reused": "b", "why": "c"}]), tiny.running_sum(), tiny.while_double()]
    outcomes = {"refused": 0, "loaded": 0}
    for turn in range(600):
        source = sources[turn % 3]
        text = json.dumps(_mutated(json.loads(_member(source, which)), rng), sort_keys=True, separators=(",", ":"))
        data = _with_member(source, which, text.encode())
        try:
            bundle = load(data, threads=1)
            for n in (0, 3):
                shapes = tuple(tuple(d if isinstance(d, int) else n for d in p.shape) for p in bundle.signature.inputs)
                with contextlib.suppress(InputRefused):
                    bundle._prepare(shapes, 1 << 30)
            bundle.report()
            outcomes["loaded"] += 1
        except (BundleRefused, InputRefused):
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_the_best_target_that_runs_is_taken(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny.plan(("N",), 1)
    plan.outputs = [plan.address("i", 0)]
    both = [TargetImage(n, tiny.image.code, plan, tuple(cpu.REQUIRED[n])) for n in ("cpu-avx2", "cpu-avx512")]
    data = _write(tiny, plan, targets=both)
    for have, want in ((cpu.REQUIRED["cpu-avx512"], "cpu-avx512"), (cpu.REQUIRED["cpu-avx2"], "cpu-avx2")):
        monkeypatch.setattr(cpu, "features", lambda have=have: frozenset(have))
        assert load(data).target == want


def test_calls_at_odd_times(path: str) -> None:
    """From a signal handler in the middle of calls, from a finaliser and while the interpreter ends."""
    text = _python(
        """
        import atexit, signal, sys
        import numpy as np
        from fusewright.runtime.bundle import load
        b = load(sys.argv[1], threads=2)
        x = np.random.default_rng(0).normal(size=(64, 64)).astype("f4")
        want, seen = b(x), []

        class Late:
            def __del__(self):
                seen.append(np.array_equal(b(x), want))

        signal.signal(signal.SIGALRM, lambda *_: seen.append(np.array_equal(b(x), want)))
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        ok = all(np.array_equal(b(x[: 1 + i % 64]), want[: 1 + i % 64]) for i in range(3000))
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
        late = Late()
        del late
        atexit.register(lambda: print(np.array_equal(b(x), want), flush=True))
        print(ok, len(seen) > 2, all(seen))
        """,
        path,
    )
    assert text == "True True True\nTrue\n"
