"""How much memory there is, arenas, and the sanitised run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusewright.backends.writer import Weights, save_bundle
from fusewright.core.errors import InputRefused, VerifyError
from fusewright.core.manifest import Symbol
from fusewright.core.plan import Call
from fusewright.runtime import memory
from fusewright.runtime.bundle import load
from fusewright.runtime.memory import Arena, available_bytes
from fusewright.runtime.sanitise import sanitised_run


def test_limits_of_cgroups_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 100 kB\nMemAvailable:    9000 kB\n",
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/memory.max": "max\n",
        "/sys/fs/cgroup/a/memory.max": "5000000\n",
        "/sys/fs/cgroup/a/memory.current": "4000000\n",
    }
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    assert available_bytes() == 1_000_000
    files["/sys/fs/cgroup/a/memory.current"] = "6000000\n"
    assert available_bytes() == 0
    files["/proc/self/cgroup"] = "5:cpu,memory:/x\n4:pids:/x\n"
    files["/sys/fs/cgroup/memory/x/memory.limit_in_bytes"] = "700\n"
    files["/sys/fs/cgroup/memory/x/memory.usage_in_bytes"] = "200\n"
    assert available_bytes() == 500
    files["/proc/self/cgroup"] = ""
    assert available_bytes() == 9000 * 1024


def test_there_is_memory_here() -> None:
    assert available_bytes() > 1 << 20


def test_arenas_are_aligned_and_grow() -> None:
    arena = Arena(100)
    assert arena.address % 64 == 0 and arena.size == 100
    arena.contexts["x"] = 1
    arena.grow(50)
    assert arena.size == 100 and arena.contexts
    arena.grow(1 << 20)
    assert arena.address % 4096 == 0 and not arena.contexts
    arena.view(1 << 19, 8)[:] = 7
    assert arena.view((1 << 19) + 7, 1)[0] == 7
    with pytest.raises(InputRefused, match=str(1 << 60)):
        arena.grow(1 << 60)
    arena.grow(64)
    assert arena.size == 64


def test_an_address_space_limit_leads_to_slices(tiny: Any, tmp_path: Path) -> None:
    """With little room the batch runs in slices instead of dying."""
    save_bundle(tiny.mlp((8, 20000, 2)), tmp_path / "m.fwb")
    code = """
        import resource, sys
        import numpy as np
        from fusewright.runtime.bundle import load
        b = load(sys.argv[1], threads=1)
        x = np.ones((2000, 8), "f4")
        one = b(x[:1])
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
        y = b(x)
        print(bool((y == one).all()), b._arenas[0].size < 51 << 20)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "m.fwb")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.parametrize("n", [0, 1, 3, 50])
def test_sanitised_runs_give_the_same_bits(tiny: Any, n: int) -> None:
    rng = np.random.default_rng(n)
    for threads in (1, 2):
        mlp = load(tiny.mlp(), threads=threads)
        x = rng.normal(size=(n, 64)).astype("f4")
        np.testing.assert_array_equal(sanitised_run(mlp, {"x": x})["y"], mlp(x))
        loop = load(tiny.running_sum(n % 2 == 0), threads=threads)
        x = rng.normal(size=(n, 4)).astype("f4")
        np.testing.assert_array_equal(sanitised_run(loop, {"x": x})["y"], loop(x))
        passing = load(tiny.passing(), threads=threads)
        assert sanitised_run(passing, {"x": x[:, :2]})["same"].shape == (n, 2)


def test_sanitised_runs_of_threads_without_scratch_find_nothing(tiny: Any) -> None:
    """The dispatcher notes in the scratch where a chunk ended, and must not be told of scratch that is not there."""
    mlp = load(tiny.mlp(scratch=0), threads=2)
    x = tiny.rows(50)
    np.testing.assert_array_equal(sanitised_run(mlp, {"x": x})["y"], mlp(x))


def _copier(tiny: Any, count: str, source: str = "i", target: str = "b", live: tuple[int, int] = (0, 1)) -> Any:
    """x -> buffer -> y, the first copy of ``count`` bytes (64 are right)."""
    plan = tiny.plan((), 1)
    plan.add_buffer(64, *live), plan.add_buffer(64, 1, 2)
    size = plan.expr(64)
    ends = {"i": plan.address("i", 0), "b": plan.address("b", 0), "o": plan.address("o", 0)}
    first = Call(2, [ends[source], ends[target]], plan.expr(count), 1 << 20, "first", "rw", [-1, 1], [size] * 2)
    half = plan.expr(32)
    sides = [plan.address("i", 0, 32), plan.address("b", 1)]
    second = Call(2, sides, half, 1 << 20, "second", "rw", [-1, 2], [half] * 2)
    last = Call(2, [ends["b"], ends["o"]], size, 1 << 20, "last", "rw", [1, 3], [size] * 2)
    plan.steps = [first, second, last]
    plan.outputs = [ends["o"]]
    ports = [("x", "u8", (64,))], [("y", "u8", (64,))]
    return load(tiny.bundle(plan, *ports, Weights(), (Symbol("N", 1, 1),), None), threads=1)


def test_the_sanitiser_sees_each_fault(tiny: Any) -> None:
    x = {"x": np.arange(64, dtype="u1")}
    np.testing.assert_array_equal(sanitised_run(_copier(tiny, "64", live=(0, 2)), x)["y"], x["x"])
    for bundle, words in [
        (_copier(tiny, "65", live=(0, 2)), "outside its buffers, after buffer 0, which is used by first, last"),
        (_copier(tiny, "65", "b", "o", live=(0, 2)), "outside output 'y'"),
        (_copier(tiny, "8", "b", "i", live=(0, 2)), "wrote to input 'x'"),
        (_copier(tiny, "63", live=(0, 2)), "nobody wrote"),
        (_copier(tiny, "64", live=(0, 0)), "differs when no two buffers share memory"),
    ]:
        with pytest.raises(VerifyError, match=words):
            sanitised_run(bundle, x)
