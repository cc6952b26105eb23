"""How long a compile of ResNet50 takes: each instruction set with an empty and a warm kernel cache, and XLA beside it.

    python benchmarks/compile_time.py [--rounds 2] [--network ResNet50] [--folder FOLDER] [--prepare]

Each compile is a process of its own; counted is ``fw.compile`` from the .keras file to the bundle, and for XLA the
first call of a traced function less a second one. ``--folder`` keeps the .keras file.
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

from _timing import machine, table

OURS = """
import json, sys, time
import fusewright as fw
fw.compile
start = time.perf_counter()
fw.compile(sys.argv[1], target=sys.argv[2])
print(json.dumps(time.perf_counter() - start))
"""
XLA = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np, tensorflow as tf
model = keras.models.load_model(sys.argv[1], compile=False)
x = tf.zeros((1, *model.input_shape[1:]))
call = tf.function(lambda v: model(v, training=False), jit_compile=True)
times = []
for _ in range(2):
    start = time.perf_counter()
    call(x).numpy()
    times.append(time.perf_counter() - start)
print(json.dumps(times[0] - times[1]))
"""
VARIANTS = ("cpu-avx2", "cpu-avx512")


def seconds(script: str, *args: str, cache: str = "off") -> float:
    env = {**os.environ, "FUSEWRIGHT_CACHE": cache}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--network", default="ResNet50")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source = (args.folder or Path(temporary)) / f"{args.network}.keras"
        if not source.exists():
            from _models import NETWORKS

            NETWORKS[args.network].make().save(source)
        if args.prepare:
            return
        times: dict[str, list[float]] = {}
        for number in range(args.rounds):
            for variant in VARIANTS:
                cache = f"{temporary}/{variant}-{number}"
                for state in ("empty", "warm"):
                    took = seconds(OURS, str(source), variant, cache=cache)
                    times.setdefault(f"{variant}, {state} kernel cache", []).append(took)
            times.setdefault("XLA", []).append(seconds(XLA, str(source)))
        print(machine("fusewright", "tensorflow", "keras"))
        found = {who: np.asarray(t) for who, t in times.items()}
        print(table(f"{args.network}: compile", found, 1.0, "s", f"{VARIANTS[1]}, empty kernel cache"))


if __name__ == "__main__":
    main()
