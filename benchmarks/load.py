"""From nothing to the first answer: import, load and first call of a small network and of ResNet50, in fresh processes.

    python benchmarks/load.py [--rounds 20] [--folder FOLDER] [--prepare]

Times are counted after NumPy is imported; ONNX Runtime does the same job beside it. ResNet50 is loaded with every byte
hashed before the first call ("full") and with the weights hashed behind it ("lazy"). ``--folder`` keeps the compiled
networks, so that a second run imports no framework; ``--prepare`` only makes them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import fusewright as fw

from _timing import machine, table
from mlp_call import graph, onnx_model

FUSEWRIGHT = """
import json, sys, time
import numpy as np
x = np.zeros(json.loads(sys.argv[2]), np.float32)
threads, verify = int(sys.argv[3]), sys.argv[4]
t0 = time.perf_counter()
import fusewright as fw
fw.load  # attributes are imported on first use: this is part of the import
t1 = time.perf_counter()
bundle = fw.load(sys.argv[1], threads=threads, verify=verify)
t2 = time.perf_counter()
bundle(x)
t3 = time.perf_counter()
heavy = {"numba", "llvmlite", "networkx", "onnx", "pyfive", "rich", "hypothesis", "tensorflow"} & set(sys.modules)
assert not heavy, heavy
print(json.dumps({"import": t1 - t0, "load": t2 - t1, "first call": t3 - t2, "total": t3 - t0}))
"""
ONNXRUNTIME = """
import json, sys, time
import numpy as np
x = np.zeros(json.loads(sys.argv[2]), np.float32)
t0 = time.perf_counter()
import onnxruntime
t1 = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
t2 = time.perf_counter()
session.run(None, {session.get_inputs()[0].name: x})
t3 = time.perf_counter()
print(json.dumps({"import": t1 - t0, "load": t2 - t1, "first call": t3 - t2, "total": t3 - t0}))
"""


def prepare(folder: Path) -> None:
    """Both networks as bundles and as ONNX; what is there is kept. Only ResNet50 needs a framework."""
    if not (folder / "mlp.onnx").exists():
        fw.compile(graph()).save(folder / "mlp.fwb")
        (folder / "mlp.onnx").write_bytes(onnx_model())
    if not (folder / "resnet50.onnx").exists():
        from _models import NETWORKS

        model = NETWORKS["ResNet50"].make()
        fw.compile(model, dims={"N": 1}).save(folder / "resnet50.fwb")
        (folder / "resnet50.onnx").write_bytes(NETWORKS["ResNet50"].to_onnx(model, 1).SerializeToString())


def measure(folder: Path, name: str, threads: int, rounds: int, shapes: tuple[list[int], list[int]]) -> None:
    """Processes in turn; prints a table per step."""
    ours, theirs = str(folder / f"{name}.fwb"), str(folder / f"{name}.onnx")
    jobs = {
        "fusewright": (FUSEWRIGHT, ours, shapes[0], "full"),
        "fusewright, lazy": (FUSEWRIGHT, ours, shapes[0], "lazy"),
        "onnxruntime": (ONNXRUNTIME, theirs, shapes[1], ""),
    }
    samples: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as installed: modules compiled
    env["OPENBLAS_NUM_THREADS"] = "1"  # else NumPy's own helpers wait busily behind the import, on the second core
    for number in range(rounds + 1):
        for job, (script, path, shape, verify) in jobs.items():
            command = [sys.executable, "-c", script, path, json.dumps(shape), str(threads), verify]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
            if number:  # the first round brings the files into memory
                samples[job].append(json.loads(done.stdout))
    for row in (r for rows in samples.values() for r in rows):
        row["load and first call"] = row["load"] + row["first call"]
    for step in ("import", "load", "first call", "load and first call", "total"):
        times = {job: np.asarray([sample[step] for sample in rows]) for job, rows in samples.items()}
        print(table(f"{name}, {threads} thread(s): {step}", times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", nargs="+", default=["mlp", "resnet50"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    args = parser.parse_args()
    print(machine("fusewright", "onnxruntime"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        prepare(folder)
        if args.prepare:
            return
        if "mlp" in args.networks:
            measure(folder, "mlp", 1, args.rounds, ([1, 64], [1, 64]))
        if "resnet50" in args.networks:
            for threads in (1, 2):
                measure(folder, "resnet50", threads, args.rounds, ([1, 224, 224, 3], [1, 3, 224, 224]))


if __name__ == "__main__":
    main()
