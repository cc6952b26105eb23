"""From nothing to the first answer: import, load and first call of a small network, in fresh processes.

    python benchmarks/load.py [--rounds 20]

Times are counted after NumPy is imported; ONNX Runtime does the same job beside it.
"""

from __future__ import annotations

import argparse
import json
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
x = np.zeros((1, 64), np.float32)
t0 = time.perf_counter()
import fusewright as fw
fw.load  # attributes are imported on first use: this is part of the import
t1 = time.perf_counter()
bundle = fw.load(sys.argv[1], threads=1)
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
x = np.zeros((1, 64), np.float32)
t0 = time.perf_counter()
import onnxruntime
t1 = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
t2 = time.perf_counter()
session.run(None, {"x": x})
t3 = time.perf_counter()
print(json.dumps({"import": t1 - t0, "load": t2 - t1, "first call": t3 - t2, "total": t3 - t0}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    print(machine("fusewright", "onnxruntime"))
    with tempfile.TemporaryDirectory() as folder:
        bundle, peer = Path(folder) / "mlp.fwb", Path(folder) / "mlp.onnx"
        fw.compile(graph()).save(bundle)
        peer.write_bytes(onnx_model())
        samples: dict[str, list[dict[str, float]]] = {"fusewright": [], "onnxruntime": []}
        for _ in range(args.rounds):
            for name, script, path in (("fusewright", FUSEWRIGHT, bundle), ("onnxruntime", ONNXRUNTIME, peer)):
                done = subprocess.run(
                    [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
                )
                samples[name].append(json.loads(done.stdout))
        for step in ("import", "load", "first call", "total"):
            times = {name: np.asarray([sample[step] for sample in rows]) for name, rows in samples.items()}
            print(table(f"Small network: {step}", times))


if __name__ == "__main__":
    main()
