"""The GPU path on a real GPU: is the code accepted, are the numbers right, how fast is it beside its peers?

    python benchmarks/gpu.py build DIR [--only TEXT]     where there is a compiler; needs no GPU
    python benchmarks/gpu.py run DIR [--json F] [...]    where there is a GPU; needs NumPy, and peers if they are there
    python benchmarks/gpu.py bars                        what is asked for of each case

See gpu.md for what to copy where and how to read the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_peers
import numpy as np
from gpu_cases import CASES, Case

import fusewright as fw

LARGER_THAN_CACHE = 256 << 20  # bytes that a rotation of buffers touches


def file_of(folder: Path, case: Case, mode: str) -> Path:
    """Where a case's bundle lies."""
    return folder / ("".join(c if c.isalnum() else "_" for c in case.name) + f".{mode}.fwb")


def chosen(only: str) -> list[Case]:
    """The cases whose name or kind has ``only`` in it."""
    return [c for c in CASES if only.lower() in f"{c.kind} {c.name}".lower()]


# -- build ------------------------------------------------------------------------------------------------------------
def build(folder: Path, only: str = "") -> int:
    """Compile every case to a bundle; the number of those that were refused."""
    folder.mkdir(parents=True, exist_ok=True)
    refused = 0
    for case in chosen(only):
        for mode in case.modes:
            start = time.perf_counter()
            try:
                fw.compile(case.graph(), target="cuda", numerics=mode).save(file_of(folder, case, mode))
                note = f"{time.perf_counter() - start:.1f} s"
            except fw.FusewrightError as e:
                note, refused = f"refused: {e}", refused + 1
            print(f"{case.name} [{mode}]: {note}", flush=True)
    return refused


# -- a GPU's memory, without another library --------------------------------------------------------------------------
def on_gpu(bundle: Any, port: Any, array: np.ndarray) -> Any:
    """``array`` in GPU memory."""
    from fusewright.runtime.cuda.arrays import DeviceArray
    from fusewright.runtime.cuda.device import Memory, Stream

    with bundle.device as gpu:
        memory, stream = Memory(gpu, array.nbytes, port.name), Stream(gpu)
        gpu.driver.upload(memory.address, array.ctypes.data, array.nbytes)
    return DeviceArray(memory, array.shape, port.dtype, stream)


def feeds(bundle: Any, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fresh inputs with N = ``n``."""
    out = {}
    for port in bundle.signature.inputs:
        shape = tuple(d if isinstance(d, int) else n for d in port.shape)
        integers = port.dtype.np.kind in "iu"
        drawn = rng.integers(0, 1000, shape) if integers else rng.standard_normal(shape, np.float32)
        out[port.name] = drawn.astype(port.dtype.np)
    return out


def event_seconds(bundle: Any, work: Callable[[int], None], repeats: int) -> float:
    """Seconds per call of ``work(stream)``, by events around ``repeats`` calls; the median of five."""
    from fusewright.runtime.cuda.device import Stream

    with bundle.device as gpu:
        stream, driver = Stream(gpu), gpu.driver
        start, stop = driver.event(timing=True), driver.event(timing=True)
        times = []
        for _ in range(5):
            work(stream.handle)
            driver.record(start, stream.handle)
            for _ in range(repeats):
                work(stream.handle)
            driver.record(stop, stream.handle)
            driver.wait_event(stop)
            times.append(driver.milliseconds(start, stop) / 1e3 / repeats)
    return float(np.median(times))


def fallback(bundle: Any) -> str:
    """Does this driver take the bundle's PTX, whatever was loaded?"""
    with bundle.device as gpu:
        try:
            gpu.driver.unload(gpu.driver.load(bundle._container.read("native/cuda/kernels.ptx")))
        except fw.FusewrightError as e:
            return str(e)
    return "accepted"


def copy_bandwidth(bundle: Any, size: int) -> float:
    """Bytes per second read and written by a copy inside the GPU's memory."""
    from fusewright.runtime.cuda.device import Memory

    with bundle.device as gpu:
        a, b = (Memory(gpu, size, "a copy") for _ in range(2))
        gpu.driver.fill(a.address, 1, size, 0)
        seconds = event_seconds(bundle, lambda stream: gpu.driver.copy(b.address, a.address, size, stream), 10)
    return 2 * size / seconds


# -- numerics ---------------------------------------------------------------------------------------------------------
def numerics(bundle: Any, path: Path, case: Case, mode: str, seed: int) -> dict[str, Any]:
    """Errors against float64 on fresh data into poisoned outputs over a poisoned arena, and equality of three runs."""
    given = feeds(bundle, case.check, np.random.default_rng(seed))
    exact = fw.load(path, native=False).graph.run(given, precision="f64")
    results = []
    for poison in (0xFF, 0xA5, 0x00):
        with bundle.device as gpu:
            for space in bundle._idle:
                if space.arena is not None:
                    gpu.driver.fill(space.arena.address, poison, space.arena.size, space.stream.handle)
        room = bundle.room(given)
        for y in room.values():
            y.reshape(-1).view(np.uint8)[...] = poison
        out = tuple(room[p.name] for p in bundle.signature.outputs)
        bundle(*[given[p.name] for p in bundle.signature.inputs], out=out if len(out) > 1 else out[0])
        results.append(room)
    worst = 0.0
    for name, want in exact.items():
        error = np.abs(results[0][name].astype(np.float64) - want)
        worst = max(
            worst,
            float(np.nan_to_num(error, nan=np.inf).max(initial=0)) / max(float(np.abs(want).max(initial=0)), 1e-30),
        )
    same = all(r[k].tobytes() == results[0][k].tobytes() for r in results for k in r)
    limit = 1e-4 if mode == "strict" else 3e-2
    return {"error": worst, "limit": limit, "same_bits": same, "right": worst <= limit and same}


# -- speed ------------------------------------------------------------------------------------------------------------
def rotation(bundle: Any, n: int) -> tuple[Callable[[int], None], int]:
    """A call that goes through enough sets of buffers to leave every cache, and the bytes of one set."""
    rng = np.random.default_rng(0)
    given = feeds(bundle, n, rng)
    room = bundle.room(given)
    size = sum(a.nbytes for a in (*given.values(), *room.values()))
    calls = []
    for _ in range(min(8, 1 + LARGER_THAN_CACHE // max(size, 1))):
        ins = {p.name: on_gpu(bundle, p, given[p.name]) for p in bundle.signature.inputs}
        outs = {p.name: on_gpu(bundle, p, room[p.name]) for p in bundle.signature.outputs}
        calls.append(bundle.bind(ins, outs))
    turn: Iterator[int] = iter(range(1 << 60))

    def call(stream: int) -> None:
        calls[next(turn) % len(calls)](stream)

    return call, size


def jax_peer(case: Case, n: int, mode: str, repeats: int) -> dict[str, float]:
    """Seconds of JAX, jitted. Empty where it is not there, or has no GPU."""
    try:
        import jax
    except ImportError:
        return {}
    if case.jax is None or jax.default_backend() != "gpu":
        return {}
    try:
        return {"jax": gpu_peers.milliseconds(jax, case.jax, n, mode == "fast", repeats) / 1e3}
    except Exception as e:  # a peer's failure is a line in the table, not the end of the run
        print(f"  jax: {type(e).__name__}: {str(e)[:120]}", flush=True)
        return {}


def peers(case: Case, n: int, mode: str, repeats: int) -> dict[str, float]:
    """Seconds of torch: eager, compiled, in a CUDA graph. Empty where it is not there."""
    try:
        import torch
    except ImportError:
        return {}
    if case.peer is None or not torch.cuda.is_available():
        return {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    dtype = torch.bfloat16 if mode == "fast" else torch.float32
    out: dict[str, float] = {}

    def measure(name: str, function: Callable[[], Any]) -> None:
        for _ in range(3):
            function()
        times = []
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(5):
            start.record()
            for _ in range(repeats):
                function()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop) / 1e3 / repeats)
        out[name] = float(np.median(times))

    with torch.no_grad():
        for name, make in (("torch", lambda f: f), ("torch.compile", lambda f: torch.compile(f, mode="max-autotune"))):
            try:
                measure(name, make(case.peer(torch, n, dtype)))
            except Exception as e:  # a peer's failure is a line in the table, not the end of the run
                print(f"  {name}: {type(e).__name__}: {str(e)[:120]}", flush=True)
        try:
            function = case.peer(torch, n, dtype)
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    function()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                function()
            measure("torch graph", graph.replay)
        except Exception as e:
            print(f"  torch graph: {type(e).__name__}: {str(e)[:120]}", flush=True)
    return out


def matrix_peaks() -> dict[str, float]:
    """FLOP/s of torch's 8192^3 products."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    out = {}
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        torch.mm(a, b)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b)
        torch.cuda.synchronize()
        out[name] = 10 * 2 * 8192.0**3 / (time.perf_counter() - start)
    return out


def sanitizers(folder: Path, only: str) -> dict[str, str]:
    """memcheck and racecheck of compute-sanitizer over the numerics; what it printed last, or that it is not there."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"compute-sanitizer": "not installed"}
    out = {}
    for kind in ("memcheck", "racecheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, __file__, "run", str(folder)]
        done = subprocess.run([*command, "--only", only, "--numerics-only"], capture_output=True, text=True)
        lines = [x for x in done.stdout.splitlines() if x.startswith("=========")]
        out[kind] = f"{'clean' if done.returncode == 0 else f'exit {done.returncode}'}: {lines[-1] if lines else ''}"
    return out


# -- run --------------------------------------------------------------------------------------------------------------
def run(folder: Path, only: str = "", numerics_only: bool = False, scale: int = 1, repeats: int = 20) -> dict[str, Any]:
    """All rows. ``scale`` divides the sizes that are timed (for a look at the script itself)."""
    seed = int.from_bytes(os.urandom(4), "little")
    found: dict[str, Any] = {"seed": seed, "rows": [], "refused": {}}
    for case in chosen(only):
        for mode in case.modes:
            path = file_of(folder, case, mode)
            if not path.exists():
                continue
            row = one(case, mode, path, seed, found, numerics_only, scale, repeats)
            if row is not None:
                found["rows"] += row
    if not numerics_only:
        found["matrix_peaks"] = matrix_peaks()
    return found


def one(
    case: Case, mode: str, path: Path, seed: int, found: dict[str, Any], numerics_only: bool, scale: int, repeats: int
) -> list[dict[str, Any]] | None:
    """The rows of one bundle."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            bundle: Any = fw.load(path)
        except fw.FusewrightError as e:
            found["refused"][f"{case.name} [{mode}]"] = str(e)
            print(f"{case.name} [{mode}]: {e}", flush=True)
            return None
    if "gpu" not in found:
        driver, gpu = bundle.device.driver, bundle.device
        found["gpu"] = {"name": gpu.name, "capability": list(gpu.capability), "driver": driver.version()}
    row: dict[str, Any] = {"case": case.name, "kind": case.kind, "mode": mode, "code": bundle._code.file}
    row.update(load_s=time.perf_counter() - start, warnings=[str(w.message) for w in said], ptx=fallback(bundle))
    row.update(numerics(bundle, path, case, mode, seed))
    print(
        f"{case.name} [{mode}]: {row['code']}, error {row['error']:.1e}, {'right' if row['right'] else 'WRONG'}",
        flush=True,
    )
    if numerics_only:
        return [row]
    if "copy_bandwidth" not in found["gpu"]:
        found["gpu"]["copy_bandwidth"] = copy_bandwidth(bundle, (512 << 20) // scale)
    rows = []
    for n in sorted({max(1, t // scale) for t in case.time}):
        call, size = rotation(bundle, n)
        seconds = event_seconds(bundle, call, repeats)
        report = bundle.report(dims={"N": n})
        constants = sum(c.size for c in bundle._plan.constants)
        moved = size + (constants if case.kind != "memory" else 0)
        found_beside = {**peers(case, n, mode, repeats), **jax_peer(case, n, mode, repeats)}
        beside = {k: v * 1e3 for k, v in found_beside.items()}
        share, rate = moved / seconds / found["gpu"]["copy_bandwidth"], report.flops / seconds / 1e12
        timed = {"n": n, "ms": seconds * 1e3, "kernels": len(report.kernels), "tflops": rate, "of_bandwidth": share}
        rows.append({**row, **timed, "peers_ms": beside, "bar": case.asked(mode)})
    return rows


HEAD = (
    "case",
    "mode",
    "N",
    "code",
    "error",
    "right",
    "ms",
    "TFLOP/s",
    "of bandwidth",
    "best peer's time / ours",
    "bar",
    "met",
)


def met(row: dict[str, Any]) -> str:
    """Whether a timed row reaches its bar; nothing where there is nothing to compare with."""
    if "bar" not in row:
        return ""
    share = row["of_bandwidth"] if row["kind"] == "memory" else None
    if share is None and row["peers_ms"]:
        share = min(row["peers_ms"].values()) / row["ms"]
    return "" if share is None else "yes" if share >= row["bar"] else "no"


def bars() -> str:
    """Markdown: what is asked for of each case and mode."""
    lines = ["| case | mode | N | at least | of |", "| --- " * 5 + "|"]
    for c in CASES:
        for mode in c.modes:
            sizes = ", ".join(map(str, c.time))
            lines.append(f"| {c.name} | {mode} | {sizes} | {c.asked(mode):.2f} | {c.against} |")
    return "\n".join(lines) + "\n"


def table(found: dict[str, Any]) -> str:
    """Markdown: one line per case, mode and size."""
    gpu = found.get("gpu")
    lines = []
    if gpu:
        version = f"{gpu['driver'] // 1000}.{gpu['driver'] % 1000 // 10}"
        capability = ".".join(map(str, gpu["capability"]))
        copied = f"; copy {gpu['copy_bandwidth'] / 1e12:.2f} TB/s" if "copy_bandwidth" in gpu else ""
        lines.append(f"{gpu['name']}, compute capability {capability}, driver for CUDA {version}{copied}")
    lines += ["", "| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|"]
    for r in found["rows"]:
        best = min(r.get("peers_ms", {}).items(), key=lambda kv: kv[1], default=None)
        beside = "" if best is None or "ms" not in r else f"{best[1] / r['ms']:.2f} ({best[0]})"
        speed = (f"{r['ms']:.4f}", f"{r['tflops']:.2f}", f"{r['of_bandwidth']:.2f}") if "ms" in r else ("", "", "")
        verdict = "yes" if r["right"] else "NO"
        first = (r["case"], r["mode"], str(r.get("n", "")), r["code"], f"{r['error']:.1e}", verdict)
        cells = (*first, *speed, beside, f"{r['bar']:.2f}" if "bar" in r else "", met(r))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\nrefused: {k}: {v}" for k, v in found["refused"].items())]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: built, or all accepted and right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("build", "run", "bars"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gpu_bundles"))
    parser.add_argument("--only", default="", help="cases whose kind or name has this in it")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--numerics-only", action="store_true", help="no timing")
    parser.add_argument("--sanitize", action="store_true", help="also under compute-sanitizer, where it is installed")
    parser.add_argument("--scale", type=int, default=1, help="divide the timed sizes")
    parser.add_argument("--repeats", type=int, default=20, help="calls per sample")
    options = parser.parse_args(arguments)
    if options.action == "bars":
        print(bars())
        return 0
    if options.action == "build":
        return 1 if build(options.folder, options.only) else 0
    found = run(options.folder, options.only, options.numerics_only, options.scale, options.repeats)
    if options.sanitize:
        found["sanitizers"] = sanitizers(options.folder, options.only)
    print(table(found))
    for name, text in found.get("sanitizers", {}).items():
        print(f"{name}: {text}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0 if found["rows"] and not found["refused"] and all(r["right"] for r in found["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
