"""Every kernel call of whole networks, timed in place, against what it must at least take.

    python benchmarks/layers.py [NETWORK ...] [--batches 1 8] [--threads 1 2] [--write] [--folder FOLDER]
    python benchmarks/layers.py --picture          # draws the SVGs again from the recorded JSON; needs matplotlib

With ``--folder`` the compiled networks are kept there, and a second run measures without importing a framework. A
call's floor is the longest of: its multiplications at the measured FMA peak (Winograd's products alone, taps in the
padding not counted) and the functions of its epilogue at what they take in the first-level cache, its weights at the
measured bandwidth of the level that holds the whole model, and its operands and results at that of the level that holds
them. ``--write`` records layers/NETWORK.md and .json, and the pictures are drawn from them afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tiles import peak
from tiles import prepare as bind_tile

import fusewright as fw
from fusewright.backends.numba_cpu.tiles.layout import STAGE_FORMS
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.runtime.image import NativeImage

from _timing import machine

HERE = Path(__file__).resolve().parent / "layers"
VARIANT = "cpu-avx512"
NAMES = ("ResNet50", "MobileNetV2", "EfficientNetB0", "InceptionV3", "encoder", "lstm")
LEVELS = {"L2": 768 << 10, "L3": 12 << 20, "memory": 256 << 20}  # bytes that measure a level
HOLDS = {"L2": 1 << 20, "L3": 32 << 20}  # bytes that a level can hold at all
MEAN, LEAST = 0.93, 0.80  # the bars for dense and conv: share of the peak, time-weighted, and of any layer's floor
SECONDS = 4.0  # of passes per network, batch and number of threads
Row = dict[str, Any]
CACHED, AGAIN = 4096, 512  # numbers that a function is timed on, and how often in one call
FUNCTION = """
def NAME_(args, start, stop, scratch):
    x, y = pf32(args[0]), pf32(args[1])
    for r in range(args[2]):
        for i in range(start, stop):
            put(y, i, NAME(get(x, i)))
"""
READ = """
def read(args, start, stop, scratch):
    x, y = pi64(args[0]), pi64(args[1])
    for i in range(start, stop):
        total = i
        for j in range(args[2]):
            total += x[j]
        y[0] = total
"""


# -- preparing: the only part that imports a framework ---
def prepare(names: Iterable[str], batches: Iterable[int], folder: Path) -> None:
    """FOLDER/network/batch: the bundle, its input, and the work of each call. What is there is kept."""
    from _models import NETWORKS, keras, sample
    from _work import works

    for name in names:
        wanted = [b for b in batches if not (folder / name / str(b) / "work.json").exists()]
        if not wanted:
            continue
        keras.utils.set_random_seed(0)
        model = NETWORKS[name].make()
        for batch in wanted:
            place = folder / name / str(batch)
            place.mkdir(parents=True, exist_ok=True)
            graph = fw.import_model(model)
            np.save(place / "x.npy", sample(model, batch))
            fw.compile(graph, target=VARIANT, dims={"N": batch}).save(place / "model.fwb")
            program = fw.plan(graph, target=VARIANT, dims={"N": batch}).program
            # A batch that is still a symbol may run in slices; of how many rows depends on the threads.
            slices = [n for n in range(1, batch + 1) if batch % n == 0] if program.graph.symbols else [batch]
            found = {n: works(program, VARIANT, {"N": n} if program.graph.symbols else {}) for n in slices}
            (place / "work.json").write_text(json.dumps(found))


# -- measuring the machine ---
def together(calls: list[Callable[[], object]], rounds: int) -> float:
    """Best seconds of a round in which each call runs once, in a thread of its own from the second on."""
    best, gate = float("inf"), threading.Barrier(len(calls))

    def helper(call: Callable[[], object]) -> None:
        for _ in range(rounds):
            gate.wait()
            call()
            gate.wait()

    others = [threading.Thread(target=helper, args=(c,), daemon=True) for c in calls[1:]]
    for t in others:
        t.start()
    for _ in range(rounds):
        gate.wait()
        start = time.perf_counter()
        calls[0]()
        gate.wait()
        best = min(best, time.perf_counter() - start)
    for t in others:
        t.join()
    return best


def roofs(threads: int) -> dict[str, float]:
    """Floating-point operations per second of the tile alone, and bytes per second read from each level."""
    job, rng = peak(VARIANTS[VARIANT]), np.random.default_rng(0)
    built = build_image([KernelSource("peak", job.template.text), KernelSource("read", READ)], VARIANT)
    image = NativeImage(built.code, built.symbols)
    calls = [bind_tile(image, "peak", job, rng) for _ in range(threads)]
    out, reader = {"flops": threads * job.template.flops / together(calls, 30)}, image.kernel("read")
    for level, size in LEVELS.items():
        times = max(1, (32 << 20) // size)
        share = size if level == "L2" else size // threads  # the second-level cache is each core's own
        parts = [np.ones(share // 8 + 8, np.int64) for _ in range(threads)]
        blocks = [np.array([p.ctypes.data + -p.ctypes.data % 64, p.ctypes.data, share // 8]) for p in parts]
        calls = [lambda b=b, n=times: reader(b.ctypes.data, 0, n, 0) for b in blocks]
        out[level] = threads * share * times / together(calls, 12)
    return out


def functions(threads: int) -> dict[str, float]:
    """Seconds per number of each function that an epilogue may hold, all threads at it."""
    sources = [KernelSource(f"{name}_", FUNCTION.replace("NAME", name)) for name in STAGE_FORMS]
    built = build_image(sources, VARIANT)
    image, out = NativeImage(built.code, built.symbols), {}
    x = np.random.default_rng(0).uniform(-8, 8, CACHED).astype(np.float32)
    for name in STAGE_FORMS:
        kernel, results = image.kernel(f"{name}_"), [np.empty_like(x) for _ in range(threads)]
        blocks = [np.array([x.ctypes.data, y.ctypes.data, AGAIN]) for y in results]
        calls = [lambda b=b, k=kernel: k(b.ctypes.data, 0, CACHED, 0) for b in blocks]
        out[name] = together(calls, 30) / (AGAIN * CACHED * threads)
    return out


# -- measuring a network ---
def measure(
    place: Path, threads: int, top: dict[str, float], costs: dict[str, float]
) -> tuple[list[Row], dict[str, float]]:
    """A row per kernel call, and the times of whole calls and of the sum of their steps."""
    bundle = fw.load(place / "model.fwb", threads=threads)
    x, report = np.load(place / "x.npy"), bundle.report()
    works = json.loads((place / "work.json").read_text())[str(report.rows_at_once or len(x))]
    for _ in range(3):
        bundle(x)
    start = time.perf_counter()
    bundle(x)
    rounds = int(min(max(SECONDS / 2 / (time.perf_counter() - start), 5), 200))
    (name,) = (p.name for p in bundle.signature.inputs)
    whole = []
    for _ in range(rounds):
        start = time.perf_counter()
        bundle(x)
        whole.append(time.perf_counter() - start)
    steps = bundle.profile({name: x}, rounds=rounds, warm=1)
    if len(steps) != len(works):
        raise SystemExit(f"{place}: {len(steps)} calls, but {len(works)} in work.json: remove the folder")
    held = sum(s.constants for s in steps) + report.arena_bytes
    home = level_of(held)
    rows = []
    for step, work in zip(steps, works, strict=True):
        flops = work["flops"] * step.runs
        least = {
            "flops": flops / top["flops"],
            # From afar once; a loop finds them nearer from its second trip on.
            "weights": step.constants / top[home] + (step.runs - 1) * step.constants / top[level_of(step.constants)],
            "moved": step.runs * work["moved"] / top[level_of(work["moved"])],
        }
        bound = max(least, key=lambda k: least[k])
        behind = step.runs * sum(count * costs[name] for name, count in work["functions"].items())
        floor = max(least["flops"] + behind, least[bound])
        rows.append({
            "kernel": step.kernel, "kind": work["kind"], "label": work["label"], "origin": step.origin,
            "runs": step.runs, "flops": flops, "weights": step.constants, "moved": work["moved"] * step.runs,
            "extent": step.extent, "grain": step.grain, "functions": behind,
            "bound": "functions" if bound != "flops" and floor > least[bound] else bound, "floor": floor,
            "peak": least["flops"], "best": min(step.seconds) or 1e-9, "median": float(np.median(step.seconds)),
        })  # fmt: skip
    passes = np.sum([s.seconds for s in steps], 0)
    return rows, {"whole": min(whole), "whole_median": float(np.median(whole)), "steps": float(passes.min())}


def level_of(size: int) -> str:
    """The nearest level that holds ``size`` bytes."""
    return next((level for level, most in HOLDS.items() if size <= most), "memory")


# -- reporting ---
def barred(row: Row) -> bool:
    """Dense products and direct convolutions that multiplications bound."""
    return row["kind"] in ("dense", "conv") and row["bound"] == "flops"


def verdict(rows: list[Row]) -> dict[str, Any]:
    """The figures that the bars are about."""
    held = [r for r in rows if barred(r)]
    measured = [(r["floor"] / r["best"], r["label"], r["origin"]) for r in rows if r["kind"] in ("dense", "conv")]
    worst = dict(zip(("share", "label", "origin"), min(measured))) if measured else None
    return {
        "floor_share": sum(r["floor"] for r in rows) / sum(r["best"] for r in rows),
        "mean": sum(r["peak"] for r in held) / sum(r["best"] for r in held) if held else None,
        "time_share": sum(r["best"] for r in held) / sum(r["best"] for r in rows),
        "worst": worst,
        "under": sum(share < LEAST for share, *_ in measured),
    }


def grouped(rows: list[Row]) -> list[list[Row]]:
    """Calls of the same kernel with the same work, largest loss first."""
    groups: dict[Any, list[Row]] = {}
    for r in rows:
        groups.setdefault((r["kernel"], r["label"], r["flops"], r["weights"], r["moved"]), []).append(r)
    return sorted(groups.values(), key=lambda g: -sum(r["best"] - r["floor"] for r in g))


def text(name: str, cases: list[dict[str, Any]], header: str) -> str:
    """The page of a network."""
    lines = [
        f"# {name}: every kernel call against its floor",
        "",
        header,
        "",
        "Written by `layers.py`, which says what a floor is. Microseconds, of all calls of a row together, best of the "
        "rounds; calls of the same kernel and work share a row, largest loss first.",
        "",
        f"![roofline]({name}.svg)",
        "",
        "Bars: dense products and direct convolutions that multiplications bound take at least "
        f"{MEAN:.0%} of the peak by multiplications alone, weighted by time, and none takes more than {1 / LEAST:.2f} "
        "times its floor, in which the functions of its epilogue are work as well.",
        "",
        "| batch | threads | call ms | sum of steps ms | floor / time, all | of peak, barred | share of the time "
        f"| least of floor | under {LEAST:.0%} |",
        "| --- " * 9 + "|",
    ]
    for c in cases:
        v, worst = c["verdict"], c["verdict"]["worst"]
        least = f"{worst['label']}: {worst['share']:.0%}" if worst else "none"
        mean = "none" if v["mean"] is None else f"{v['mean']:.0%}{'' if v['mean'] >= MEAN else ' (missed)'}"
        lines.append(
            f"| {c['batch']} | {c['threads']} | {c['times']['whole'] * 1e3:.2f} | {c['times']['steps'] * 1e3:.2f} "
            f"| {v['floor_share']:.0%} | {mean} | {v['time_share']:.0%} "
            f"| {least} | {v['under']} |"
        )
    for c in cases:
        r = c["roofs"]
        reading = ", ".join(f"{k} {r[k] / 1e9:.0f} GB/s" for k in LEVELS)
        lines += [
            "",
            f"## Batch {c['batch']}, {c['threads']} thread{'s' * (c['threads'] > 1)}",
            "",
            f"Peak {r['flops'] / 1e9:.0f} GF/s; reading {reading}.{_priced(c)}",
            "",
            "| calls | kernel | work | best | median | GF/s | bound by | floor | floor / best |",
            "| --- " * 9 + "|",
        ]
        for g in grouped(c["rows"]):
            best, floor = sum(r["best"] for r in g), sum(r["floor"] for r in g)
            runs = f"{len(g)}" + (f" x {g[0]['runs']}" if g[0]["runs"] != 1 else "")
            speed = f"{sum(r['flops'] for r in g) / best / 1e9:.0f}" if g[0]["flops"] and best else ""
            lines.append(
                f"| {runs} | {g[0]['kernel']} | {g[0]['label']} | {best * 1e6:.0f} "
                f"| {sum(r['median'] for r in g) * 1e6:.0f} | {speed} | {g[0]['bound']} | {floor * 1e6:.0f} "
                f"| {f'{floor / best:.0%}' if best else ''} |"
            )
    return "\n".join(lines) + "\n"


def _priced(case: dict[str, Any]) -> str:
    """The sentence on functions in floors, where there are any."""
    if not any(r["functions"] for r in case["rows"]):
        return ""
    costs = ", ".join(f"{name} {seconds * 1e12:.0f}" for name, seconds in case["costs"].items())
    return f" Functions of epilogues count in floors, in picoseconds per number: {costs}."


def rounded(data: Any) -> Any:
    """Four digits of every fraction: more is noise."""
    if isinstance(data, dict):
        return {k: rounded(v) for k, v in data.items()}
    if isinstance(data, list):
        return [rounded(v) for v in data]
    return float(f"{data:.4g}") if isinstance(data, float) else data


def record(name: str, cases: list[dict[str, Any]], header: str) -> None:
    """The page and its numbers; rows without their names, which stand once above them."""
    HERE.mkdir(exist_ok=True)
    (HERE / f"{name}.md").write_text(text(name, cases, header))
    columns = list(cases[0]["rows"][0])
    flat = [{**c, "rows": [[row[k] for k in columns] for row in c["rows"]]} for c in cases]
    data = json.dumps(rounded({"machine": header, "columns": columns, "cases": flat}), separators=(",", ":"))
    (HERE / f"{name}.json").write_text(data.replace('[["', '[\n["').replace('],["', '],\n["') + "\n")


def draw() -> None:
    """The pictures of what is recorded."""
    from _roofline import picture

    for path in sorted(HERE.glob("*.json")):
        data = json.loads(path.read_text())
        for case in data["cases"]:
            case["rows"] = [dict(zip(data["columns"], row, strict=True)) for row in case["rows"]]
        path.with_suffix(".svg").write_text(picture(path.stem, data["cases"], LEVELS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NAMES, metavar="NETWORK")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only compile into --folder")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--picture", action="store_true")
    args = parser.parse_args()
    if args.picture:
        return draw()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        if any(not (folder / n / str(b) / "work.json").exists() for n in args.networks for b in args.batches):
            prepare(args.networks, args.batches, folder)
        if args.prepare:
            return
        header, tops = machine("fusewright"), {t: roofs(t) for t in args.threads}
        costs = {t: functions(t) for t in args.threads}
        for name in args.networks:
            cases = []
            for batch in args.batches:
                for threads in args.threads:
                    rows, times = measure(folder / name / str(batch), threads, tops[threads], costs[threads])
                    cases.append({"batch": batch, "threads": threads, "roofs": tops[threads], "costs": costs[threads],
                                  "times": times, "verdict": verdict(rows), "rows": rows})  # fmt: skip
            page = text(name, cases, header)
            sys.stdout.write(page if not args.write else page.partition("\n## ")[0] + "\n")
            if args.write:
                record(name, cases, header)


if __name__ == "__main__":
    main()
