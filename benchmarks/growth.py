"""How time grows with the batch and the length of sequences, and what a second thread brings: one bundle, all sizes.

    python benchmarks/growth.py [--folder FOLDER] [--prepare] [--write] [NETWORK ...]

The line is drawn by operations and bytes: for each kernel of the report the longer of its operations at the FMA peak
and its bytes at the bandwidth of the cache level that holds them, summed, times one factor per network and number of
threads (the median of measured over predicted). A size is off the line by how much its time is over that product.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from layers import VARIANT, level_of, roofs

import fusewright as fw

from _timing import machine

HERE = Path(__file__).resolve().parent
LEAST_GAIN, MOST_OFF = 1.85, 0.10  # the bars
SECONDS = 0.5  # of calls per size
SIZES = {
    "ResNet50": (1, 2, 4, 8, 16, 32, 64),
    "dense": (1, 2, 4, 8, 16, 32, 64),
    "encoder layer": (32, 64, 128, 256, 512, 1024, 2048),
}


def prepare(name: str, folder: Path) -> None:
    """The bundle with its size left free."""
    import keras

    keras.utils.set_random_seed(0)
    if name == "ResNet50":
        model = keras.applications.ResNet50(weights=None)
    elif name == "dense":
        x = keras.Input((1024,), name="x")
        y = x
        for _ in range(4):
            y = keras.layers.Dense(1024, activation="relu")(y)
        model = keras.Model(x, y)
    else:
        x = keras.Input((None, 768), name="x")
        y = keras.layers.LayerNormalization()(x + keras.layers.MultiHeadAttention(12, 64)(x, x))
        h = keras.layers.Dense(3072, activation="gelu")(y)
        model = keras.Model(x, keras.layers.LayerNormalization()(y + keras.layers.Dense(768)(h)))
    fw.compile(model, target=VARIANT).save(folder / f"{name}.fwb")


def predicted(bundle: Any, dims: dict[str, int], top: dict[str, float]) -> float:
    """Seconds at the roofs. A batch that runs in slices takes what its slices take."""
    report = bundle.report(dims)
    kernels, batch = report.kernels, bundle.manifest.batch
    if report.rows_at_once:
        return predicted(bundle, {**dims, batch: report.rows_at_once}, top) * dims[batch] / report.rows_at_once
    return sum(max(k["flops"] / top["flops"], k["bytes"] / top[level_of(k["bytes"])]) for k in kernels)


def best(bundle: Any, x: np.ndarray) -> float:
    bundle(x)
    found, end, rounds = float("inf"), time.perf_counter() + SECONDS, 0
    while rounds < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        bundle(x)
        found, rounds = min(found, time.perf_counter() - start), rounds + 1
    return found


def measure(name: str, folder: Path, tops: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    """A row per size."""
    bundles = {t: fw.load(folder / f"{name}.fwb", threads=t) for t in tops}
    (port,) = bundles[1].signature.inputs
    free = [d for d in port.shape if isinstance(d, str)]
    rng, rows = np.random.default_rng(0), []
    for size in SIZES[name]:
        dims = {**dict.fromkeys(free, 1), free[-1]: size}
        x = rng.standard_normal([dims.get(d, d) for d in port.shape], np.float32)
        row: dict[str, Any] = {"size": size, "flops": bundles[1].report(dims).flops}
        for threads, top in tops.items():
            row[f"time{threads}"] = best(bundles[threads], x)
            row[f"line{threads}"] = predicted(bundles[threads], dims, top)
        rows.append(row)
    for threads in tops:
        factor = float(np.median([r[f"time{threads}"] / r[f"line{threads}"] for r in rows]))
        for r in rows:
            r[f"off{threads}"] = r[f"time{threads}"] / (factor * r[f"line{threads}"]) - 1
    return rows


def text(name: str, rows: list[dict[str, Any]]) -> str:
    head = "| size | Gop | 1 thread ms | off the line | 2 threads ms | off the line | 1 / 2 threads |"
    lines = [f"## {name}", "", head, "| --- " * 7 + "|"]
    for r in rows:
        marks = ["" if abs(r[k]) <= MOST_OFF else " (missed)" for k in ("off1", "off2")]
        gain = r["time1"] / r["time2"]
        lines.append(
            f"| {r['size']} | {r['flops'] / 1e9:.2f} | {r['time1'] * 1e3:.3f} | {r['off1']:+.0%}{marks[0]} "
            f"| {r['time2'] * 1e3:.3f} | {r['off2']:+.0%}{marks[1]} "
            f"| {gain:.2f}{'' if gain >= LEAST_GAIN else ' (missed)'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(SIZES), metavar="NETWORK")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--write", action="store_true", help="record growth.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        for name in args.networks:
            if not (folder / f"{name}.fwb").exists():
                prepare(name, folder)
        if args.prepare:
            return
        tops = {t: roofs(t) for t in (1, 2)}
        bars = f"within {MOST_OFF:.0%} of the line; a second thread makes it {LEAST_GAIN} times as fast."
        head = f"# Time against size\n\n{machine('fusewright')}\n\nWritten by `growth.py`, which says what the line is."
        page = [f"{head} Bars: {bars}\n"]
        page += [text(name, measure(name, folder, tops)) for name in args.networks]
    sys.stdout.write("\n".join(page))
    if args.write:
        (HERE / "growth.md").write_text("\n".join(page))


if __name__ == "__main__":
    main()
