"""The dispatcher and the thread pool: every unit once, any number of callers, fork, exit."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.core import poolwords as w
from fusewright.runtime.image import NativeImage
from fusewright.runtime.pool import ThreadPool, pool

ROOT = Path(__file__).parents[2]
# Each unit counts itself and keeps its number in its thread's scratch for a while: a shared scratch would show.
COUNT = """
def k(args, start, stop, scratch):
    x = pi64(args[0])
    own = pi64(scratch)
    for i in range(start, stop):
        own[0] = i
        for j in range(args[1]):
            own[1] = own[0] + j
        x[i] += i32(1) if own[0] == i else i32(1000)
"""
ADD = """
def k(args, start, stop, scratch):
    x = pi64(args[0])
    for i in range(start, stop):
        x[i] += args[1]
"""
LESS = """
def k(args, start, stop, scratch):
    x = pi64(args[0])
    pu8(args[1])[0] = u8(1) if x[0] < args[2] else u8(0)
"""
HALVE = """
def k(args, start, stop, scratch):
    x = pf32(args[0])
    for i in range(start, stop):
        x[i] = x[i] * f32(0.5)
"""
CHUNKS = """
def k(args, start, stop, scratch):
    x = pi64(args[0])
    x[0] += i64(1)
    x[x[0]] = i64(stop - start)
"""
KEPT = """
def k(args, start, stop, scratch):
    x = pi64(args[0])
    own = pi64(scratch)
    x[0] += i64(1)
    x[2 * x[0] - 1], x[2 * x[0]] = own[0], i64(stop)
    own[0] = i64(77)
"""
SOURCES = [
    KernelSource("kept", KEPT),
    KernelSource("chunks", CHUNKS),
    KernelSource("count", COUNT),
    KernelSource("add", ADD),
    KernelSource("less", LESS),
    KernelSource("halve", HALVE),
]
STRIDE = 256


@pytest.fixture(scope="module")
def image() -> NativeImage:
    made = build_image(SOURCES, "cpu-avx2")
    return NativeImage(made.code, made.symbols)


class Table:
    """A step table under construction; keeps what it points to."""

    def __init__(self, image: NativeImage) -> None:
        self.image, self.words, self.keep = image, [0], []

    def address(self, values: list[int]) -> int:
        block = np.array(values, np.int64)
        self.keep.append(block)
        return int(block.ctypes.data)

    def call(self, symbol: str, values: list[int], extent: int, grain: int = 1) -> None:
        self.words += [w.CALL, self.image.address(symbol), self.address(values), extent, grain]

    def run(self, threads: int = 1, block: int | None = None) -> int:
        words = [*self.words, w.HALT]
        words[0] = len(words)
        program = np.array(words, np.int64)
        scratch = np.zeros(STRIDE * max(threads, 1) + 64, np.uint8)
        base = int(scratch.ctypes.data)
        return self.image.run(
            program.ctypes.data, pool().address if block is None else block, threads, base + -base % 64, STRIDE
        )


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("extent", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("grain", [0, 1, 3, 5000])
def test_every_unit_runs_once(image: NativeImage, threads: int, extent: int, grain: int) -> None:
    pool().ensure(threads, image)
    x = np.zeros(extent + 1, np.int64)
    table = Table(image)
    for _ in range(20):
        table.call("count", [x.ctypes.data, 50], extent, grain)
    assert table.run(threads) == 0
    assert (x[:extent] == 20).all() and x[extent] == 0


@pytest.mark.parametrize("extent,grain", [(28, 1), (1000, 1), (1000, 60), (7, 3)])
def test_chunks_shrink_so_that_threads_end_together(image: NativeImage, extent: int, grain: int) -> None:
    """Equal chunks left one of two threads with 16 of 28 units. A thread takes from its own part of the units first."""
    block, x = np.zeros(w.WORDS, np.int64), np.zeros(extent + 2, np.int64)
    block[w.MAGIC] = w.LAYOUT
    table = Table(image)
    table.call("chunks", [x.ctypes.data], extent, grain)
    assert table.run(2, int(block.ctypes.data)) == 0  # without helpers: the caller takes them all, in order
    chunks, half = x[1 : x[0] + 1], extent // 2
    own = int(np.searchsorted(np.cumsum(chunks), half)) + 1
    for part, units in ((chunks[:own], half), (chunks[own:], extent - half)):
        assert part.sum() == units and (np.diff(part) <= 0).all()
        assert part[-1] <= grain and part[0] == min(max(units // 2, grain), units) and (part[:-1] >= grain).all()


def test_what_others_took_is_left_to_them(image: NativeImage) -> None:
    """The words of the parts count only with the epoch of their step."""
    block, x = np.zeros(w.WORDS, np.int64), np.zeros(30, np.int64)
    block[w.MAGIC], block[w.STATE] = w.LAYOUT, 41 << 32
    block[w.NEXT], block[w.NEXT + w.LINE] = (40 << 32) | 30, (42 << 32) | 20
    table = Table(image)
    table.call("count", [x.ctypes.data, 1], 30)
    assert table.run(3, int(block.ctypes.data)) == 0
    assert x.tolist() == [1] * 10 + [0] * 10 + [1] * 10
    assert block[w.STATE] == 42 << 32
    assert [int(v) for v in block[w.NEXT :: w.LINE][:3]] == [(42 << 32) | n for n in (10, 20, 30)]


def test_epochs_may_begin_again(image: NativeImage) -> None:
    block, x = np.zeros(w.WORDS, np.int64), np.zeros(30, np.int64)
    block[w.MAGIC], block[w.STATE] = w.LAYOUT, np.uint64(0xFFFFFFFF << 32).astype(np.int64)
    block[w.NEXT :: w.LINE] = (1 << 32) | 30  # of the first step of the round that ends
    table = Table(image)
    table.call("count", [x.ctypes.data, 1], 30)
    assert table.run(3, int(block.ctypes.data)) == 0
    assert (x == 1).all() and block[w.STATE] == 1 << 32


def test_scratch_tells_where_the_last_chunk_ended(image: NativeImage) -> None:
    block, x = np.zeros(w.WORDS, np.int64), np.zeros(200, np.int64)
    block[w.MAGIC] = w.LAYOUT
    table = Table(image)
    for _ in range(2):
        table.call("kept", [x.ctypes.data], 40)
    assert table.run(2, int(block.ctypes.data)) == 0
    kept, stops = x[1 : 2 * x[0] : 2].tolist(), x[2 : 2 * x[0] + 1 : 2].tolist()
    step = len(stops) // 2
    assert stops[:step] == stops[step:] and stops[-1] == 40 and step > 4
    assert kept == [0, *stops[: step - 1]] * 2


def test_an_image_of_another_layout_lends_no_helpers(image: NativeImage) -> None:
    own = ThreadPool()
    old = NativeImage(b"\xc3" * 64, {"run": 0, "worker": 0})
    own.ensure(3, old)
    assert own.helpers == 0
    own.ensure(2, image)
    assert own.helpers == 1


def test_a_pool_of_another_layout_is_left_alone(image: NativeImage) -> None:
    foreign = np.zeros(w.WORDS, np.int64)
    x = np.zeros(100, np.int64)
    table = Table(image)
    table.call("count", [x.ctypes.data, 1], 100)
    for block in (0, int(foreign.ctypes.data)):
        assert table.run(4, block) == 0
    assert (x == 2).all() and not foreign.any()


def test_a_busy_pool_leaves_the_work_to_the_caller(image: NativeImage) -> None:
    block = np.zeros(w.WORDS, np.int64)
    block[w.MAGIC], block[w.BUSY] = w.LAYOUT, 1
    x = np.zeros(100, np.int64)
    table = Table(image)
    table.call("count", [x.ctypes.data, 1], 100)
    assert table.run(4, int(block.ctypes.data)) == 0
    assert (x == 1).all() and block[w.BUSY] == 1 and block[w.STATE] == 0
    block[w.BUSY] = 0
    assert table.run(4, int(block.ctypes.data)) == 0  # nobody helps; the caller does it all and hands the pool back
    assert (x == 2).all() and block[w.BUSY] == 0


def test_many_callers_at_once(image: NativeImage) -> None:
    pool().ensure(4, image)
    arrays = [np.zeros(500, np.int64) for _ in range(6)]
    failures: list[int] = []

    def caller(x: np.ndarray) -> None:
        for _ in range(100):
            table = Table(image)
            for _ in range(5):
                table.call("count", [x.ctypes.data, 20], len(x), 7)
            failures.append(table.run(4))

    threads = [threading.Thread(target=caller, args=(x,)) for x in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(failures) and all((x == 500).all() for x in arrays)


def test_sleeping_helpers_wake(image: NativeImage) -> None:
    shared = pool()
    shared.ensure(3, image)
    block = np.ctypeslib.as_array((ctypes.c_int64 * w.WORDS).from_address(shared.address))
    deadline = time.monotonic() + 20
    while block[w.SLEEPERS] + 1 < 1 << shared.helpers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert block[w.SLEEPERS] + 1 == 1 << shared.helpers >= 4
    x = np.zeros(64, np.int64)
    table = Table(image)
    table.call("count", [x.ctypes.data, 3_000_000], 64)
    assert table.run(3) == 0 and (x == 1).all()
    assert block[w.STATE] & 0xFFFF == 0 and block[w.BUSY] == 0


def test_what_a_helper_reads_lies_in_one_line() -> None:
    read = (w.STATE, w.FN, w.ARGS, w.EXTENT, w.GRAIN, w.PARTS, w.SCRATCH, w.STRIDE)
    others = (w.MAGIC, w.SPINS, w.BUSY, w.SLEEPERS, w.NEXT)
    (line,) = {at // 8 for at in read}
    assert len(set(read)) == 8 and line not in {at // 8 for at in others}


@pytest.mark.parametrize("helpers", [0, 1, 2])
@pytest.mark.parametrize("extent,grain", [(4, 1), (3, 1), (7, 2), (6, 4)])
def test_parts_of_one_chunk_whoever_comes(image: NativeImage, helpers: int, extent: int, grain: int) -> None:
    """Four threads are meant to share a step, and fewer are there: the caller takes the parts of those that are not."""
    own = ThreadPool()
    own.ensure(helpers + 1, image)
    assert own.helpers == helpers
    state = (ctypes.c_int64 * w.WORDS).from_address(own.address)
    x = np.zeros(extent + 1, np.int64)
    table = Table(image)
    for _ in range(500):
        table.call("count", [x.ctypes.data, 20], extent, grain)
    for _ in range(4):
        assert table.run(4, own.address) == 0
        assert state[w.STATE] & 0xFFFF == 0 and state[w.BUSY] == 0
    assert (x[:extent] == 2000).all() and x[extent] == 0


@pytest.mark.parametrize("at_endloop", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_loops_move_their_bumps(image: NativeImage, count: int, at_endloop: bool) -> None:
    x = np.zeros(8, np.int64)
    table = Table(image)
    words = np.array([x.ctypes.data, 3], np.int64)
    at = len(table.words)
    bumps = table.address([words.ctypes.data, x.ctypes.data, 8, words.ctypes.data + 8, 3, 10])
    table.words += [w.LOOP, count, 0, -1, 2, bumps]
    table.words += [w.CALL, image.address("add"), words.ctypes.data, 1, 1]
    table.words += [w.ENDLOOP, at]
    table.words[at + 2] = len(table.words) - (2 if at_endloop else 0)
    for _ in range(2):
        assert table.run() == 0
    assert x.tolist() == [2 * (3 + 10 * i) if i < count else 0 for i in range(8)]


def test_nested_loops_and_branches(image: NativeImage) -> None:
    x, flag = np.zeros(1, np.int64), np.zeros(1, np.uint8)
    table = Table(image)
    outer = len(table.words)
    table.words += [w.LOOP, 3, 0, 0, 0, 0]
    inner = len(table.words)
    table.words += [w.LOOP, 4, 0, 0, 0, 0]
    table.call("add", [x.ctypes.data, 1], 1)
    table.words += [w.ENDLOOP, inner]
    table.words[inner + 2] = len(table.words)
    table.words += [w.ENDLOOP, outer]
    table.words[outer + 2] = len(table.words)
    # while x < 20: x += 3
    start = len(table.words)
    table.call("less", [x.ctypes.data, flag.ctypes.data, 20], 1)
    branch = len(table.words)
    table.words += [w.BRANCH, flag.ctypes.data, 0]
    table.call("add", [x.ctypes.data, 3], 1)
    table.words += [w.JUMP, start]
    table.words[branch + 2] = len(table.words)
    assert table.run() == 0 and x[0] == 21


def test_an_unknown_instruction_stops(image: NativeImage) -> None:
    table = Table(image)
    table.words += [99]
    assert table.run() == 1


def test_fork_before_and_after(image: NativeImage) -> None:
    shared = pool()
    shared.ensure(2, image)
    x = np.zeros(1000, np.int64)

    def once() -> bool:
        x[:] = 0
        table = Table(image)
        table.call("count", [x.ctypes.data, 10], 1000, 1)
        return table.run(2) == 0 and bool((x == 1).all())

    assert once()
    child = os.fork()
    if child == 0:
        good = shared.helpers == 0 and once()
        shared.ensure(3, image)
        good = good and shared.helpers == 2 and once()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert once() and shared.helpers >= 1


@pytest.mark.parametrize("threads", [1, 2])
def test_underflow_is_gradual_whatever_the_thread_says(image: NativeImage, threads: int) -> None:
    libm = ctypes.CDLL("libm.so.6")
    state, tiny = (ctypes.c_uint32 * 8)(), np.full(4096, 1.2e-38, np.float32)
    assert libm.fegetenv(state) == 0
    plain = state[7]
    pool().ensure(threads, image)
    table = Table(image)
    table.call("halve", [tiny.ctypes.data], len(tiny), 16)
    state[7] = plain | 0x8040  # flush to zero, denormals are zero: what loading a fast-math library does to its thread
    libm.fesetenv(state)
    try:
        assert table.run(threads) == 0
        libm.fegetenv(state)
        after = state[7]
    finally:
        state[7] = plain
        libm.fesetenv(state)
    assert after & 0x8040 == 0x8040
    assert (tiny == np.float32(6e-39)).all() and (tiny > 0).all()


def test_only_the_missing_helpers_are_started(image: NativeImage) -> None:
    own = ThreadPool()
    before = threading.active_count()
    own.ensure(1, image)
    assert own.helpers == 0
    own.ensure(3, image)
    own.ensure(2, image)
    assert own.helpers == 2 and threading.active_count() == before + 2


@pytest.mark.parametrize("nap", [0.0, 0.3])
def test_the_interpreter_exits_with_helpers_about(nap: float) -> None:
    script = f"""
import sys, time
import numpy as np
from fusewright.backends.numba_cpu.toolchain import build_image
from fusewright.runtime.image import NativeImage
from fusewright.runtime.pool import pool
made = build_image([], "cpu-avx2")
image = NativeImage(made.code, made.symbols)
pool().ensure(4, image)
del image
time.sleep({nap})
assert "numba" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("pin", ["0", "1"])
def test_helpers_can_be_pinned(pin: str) -> None:
    script = """
import os, pathlib, time
from fusewright.backends.numba_cpu.toolchain import build_image
from fusewright.runtime.image import NativeImage
from fusewright.runtime.pool import pool
made = build_image([], "cpu-avx2")
pool().ensure(3, NativeImage(made.code, made.symbols))
cpus, masks, end = sorted(os.sched_getaffinity(0)), [], time.monotonic() + 20
while time.monotonic() < end:
    tasks = [int(t.name) for t in pathlib.Path("/proc/self/task").iterdir() if t.name != str(os.getpid())]
    masks = sorted(sorted(os.sched_getaffinity(t)) for t in tasks)
    wanted = sorted([cpus[(n + 1) % len(cpus)]] for n in range(2)) if PIN else [cpus, cpus]
    if all(mask in masks for mask in wanted):
        print("as wanted")
        break
    time.sleep(0.05)
assert sorted(os.sched_getaffinity(0)) == cpus  # the caller is left alone
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FUSEWRIGHT_PIN": pin}
    command = [sys.executable, "-c", f"PIN = {pin}\n{script}"]
    done = subprocess.run(command, env=env, timeout=60, capture_output=True, text=True)
    assert done.stdout == "as wanted\n", done.stderr
