"""ResNet50 (random weights), batch 1, against ONNX Runtime: each in its own process, in turns.

    python benchmarks/resnet50_processes.py [--threads 1 2] [--rounds 3]

Two libraries whose idle threads spin disturb each other inside one process; with 2 threads this is the fairer figure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fusewright as fw

WARM, CALLS = 3, 25


def call_of(who: str, folder: Path, threads: int, x: np.ndarray):
    """The function to time."""
    if who == "fusewright":
        bundle = fw.load(folder / "resnet50.fwb", threads=threads)
        return lambda: bundle(x)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "resnet50.onnx"), options)
    feeds = {session.get_inputs()[0].name: np.ascontiguousarray(x.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, feeds)


def measure(who: str, folder: Path, threads: int) -> None:
    """Print the best and the median call in milliseconds."""
    call = call_of(who, folder, threads, np.random.default_rng(0).standard_normal((1, 224, 224, 3), np.float32))
    for _ in range(WARM):
        call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    times.sort()
    print(times[0] * 1e3, times[CALLS // 2] * 1e3)


def make_models(folder: Path) -> None:
    """The bundle and the ONNX file of one network."""
    import keras

    from _onnx import keras_cnn_to_onnx

    model = keras.applications.ResNet50(weights=None)
    fw.compile(model).save(folder / "resnet50.fwb")
    (folder / "resnet50.onnx").write_bytes(keras_cnn_to_onnx(model, 1).SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], Path(args.one[1]), args.threads[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        print("| threads | fusewright best / median ms | onnxruntime best / median ms | best / fusewright's |")
        print("| --- | --- | --- | --- |")
        for threads in args.threads:
            found: dict[str, list[tuple[float, float]]] = {"fusewright": [], "onnxruntime": []}
            for _ in range(args.rounds):
                for who, rows in found.items():
                    command = [sys.executable, __file__, "--one", who, folder, "--threads", str(threads)]
                    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                    rows.append((float(printed[-2]), float(printed[-1])))
            best = {who: min(r[0] for r in rows) for who, rows in found.items()}
            median = {who: sorted(r[1] for r in rows)[len(rows) // 2] for who, rows in found.items()}
            cells = [f"{best[who]:.2f} / {median[who]:.2f}" for who in found]
            print(f"| {threads} | {' | '.join(cells)} | {best['onnxruntime'] / best['fusewright']:.2f} |")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
