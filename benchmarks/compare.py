"""Whole networks against ONNX Runtime, OpenVINO and TensorFlow with XLA: a process each, in turns.

    python benchmarks/compare.py [NETWORK ...] [--batches 1 8] [--threads 1 2] [--rounds 5] [--numerics fast] [--write]

Contestants compute in float32 from fixed shapes (``--numerics fast``: ours as that admits; ``openvino_default`` in the
precision of OpenVINO's choice), and the answer of each is compared with float64 before it is timed. While one runs, the
others wait on a pipe: no pool of another library spins beside it. ``--files`` keeps what contestants read, so that a
second run only measures. ``--write`` records compare.md and compare.json (compare_fast.*); rows of other networks stay.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PEERS = ("onnxruntime", "openvino", "xla")
OPTIONAL = ("openvino_default",)
SECONDS = 0.4  # of calls in one turn
Call = Callable[[], Any]


# -- a contestant: loads its form of the network, then answers each line with the times of a turn ---
def fusewright(folder: Path, threads: int, x: np.ndarray, turned: np.ndarray) -> Call:
    import fusewright as fw

    bundle = fw.load(folder / "model.fwb", threads=threads)
    return lambda: bundle(x)


def onnxruntime(folder: Path, threads: int, x: np.ndarray, turned: np.ndarray) -> Call:
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: turned}
    return lambda: session.run(None, feeds)[0]


def openvino(folder: Path, threads: int, x: np.ndarray, turned: np.ndarray) -> Call:
    return _openvino(folder, threads, turned, {"INFERENCE_PRECISION_HINT": "f32"})


def openvino_default(folder: Path, threads: int, x: np.ndarray, turned: np.ndarray) -> Call:
    """In the precision that it chooses itself: bfloat16 where the CPU multiplies that faster."""
    return _openvino(folder, threads, turned, {})


def _openvino(folder: Path, threads: int, turned: np.ndarray, precision: dict[str, str]) -> Call:
    import openvino

    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **precision}
    compiled = openvino.Core().compile_model(str(folder / "model.onnx"), "CPU", config)
    request = compiled.create_infer_request()
    return lambda: request.infer([turned], share_inputs=True)[0]


def xla(folder: Path, threads: int, x: np.ndarray, turned: np.ndarray) -> Call:
    os.environ["TF_XLA_FLAGS"] = "--tf_xla_cpu_global_jit"
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import keras

    model = keras.models.load_model(folder / "model.keras", compile=False)
    traced = tf.function(lambda v: model(v, training=False), jit_compile=True)
    value = tf.constant(x)
    return lambda: traced(value).numpy()


def contest(name: str, folder: Path, threads: int) -> None:
    data = np.load(folder / "sample.npz")
    call = globals()[name](folder, threads, data["x"], data["turned"])
    want = data["y"]
    got = np.asarray(call())
    error = float(np.max(np.abs(got.reshape(want.shape) - want)) / max(float(np.max(np.abs(want))), 1e-30))
    for _ in range(3):
        call()
    print(json.dumps(error), flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + float(line)
        times = []
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


# -- the contest ---
def prepare(network: str, batch: int, folder: Path, target: str, numerics: str) -> None:
    """Every contestant's file, and the input with the answer of float64 arithmetic."""
    from _models import NETWORKS, sample

    import fusewright as fw

    net = NETWORKS[network]
    model = net.make()
    x = sample(model, batch)
    turned = np.ascontiguousarray(x.transpose(net.turn)) if net.turn else x
    model.save(folder / "model.keras")
    (folder / "model.onnx").write_bytes(net.to_onnx(model, batch).SerializeToString())
    graph = fw.import_model(folder / "model.keras")
    exact = graph.run({graph.inputs[0].name: x}, precision="f64")[graph.output_names[0]]
    fw.compile(graph, target, {"N": batch}, numerics=numerics).save(folder / "model.fwb")
    np.savez(folder / "sample.npz", x=x, turned=turned, y=exact)  # the last one: it says that all are there


def measure(folder: Path, names: list[str], threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Best, median and error of each contestant, taking turns."""
    command = [sys.executable, __file__, "--folder", str(folder), "--threads", str(threads), "--contestant"]
    processes = {}
    out: dict[str, dict[str, float]] = {}
    for name in names:  # one after the other: nobody loads while another warms up
        process = subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{name} does not run this network: see `{' '.join(command)} {name}`")
        processes[name], out[name] = process, {"error": json.loads(line)}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write(f"{SECONDS}\n")
            process.stdin.flush()
            times[name] += json.loads(process.stdout.readline())
    for name, process in processes.items():
        process.stdin.close()
        process.wait()
        out[name] |= {"best_ms": min(times[name]) * 1e3, "median_ms": float(np.median(times[name])) * 1e3}
    return out


def ratio(row: dict[str, Any], peer: str) -> float:
    return row["found"][peer]["best_ms"] / row["found"]["fusewright"]["best_ms"]


def report(rows: list[dict[str, Any]], peers: list[str], header: str) -> str:
    lines = [header, "", "| network | batch | threads | fusewright best / median ms | "
             + " | ".join(f"{p} best / median ms | ratio" for p in peers) + " |"]  # fmt: skip
    lines.append("| --- " * (4 + 2 * len(peers)) + "|")
    for row in rows:
        ours = row["found"]["fusewright"]
        cells = [f"{ours['best_ms']:.3f} / {ours['median_ms']:.3f}"]
        for p in peers:
            other = row["found"][p]
            cells += [f"{other['best_ms']:.3f} / {other['median_ms']:.3f}", f"{ratio(row, p):.2f}"]
        lines.append(f"| {row['network']} | {row['batch']} | {row['threads']} | {' | '.join(cells)} |")
    means = {p: math.exp(sum(math.log(ratio(row, p)) for row in rows) / len(rows)) for p in peers}
    lines += ["", "Ratio: the peer's best time over ours, above 1 we are faster. Geometric means: "
              + ", ".join(f"{p} {value:.2f}" for p, value in means.items()) + "."]  # fmt: skip
    lines += ["", "Largest error over the largest result, against float64 arithmetic:", ""]
    names = ["fusewright", *peers]
    lines += ["| network | batch | " + " | ".join(names) + " |", "| --- " * (2 + len(names)) + "|"]
    for network, batch in dict.fromkeys((row["network"], row["batch"]) for row in rows):
        found = [row["found"] for row in rows if (row["network"], row["batch"]) == (network, batch)]
        worst = [f"{max(f[name]['error'] for f in found):.1e}" for name in names]
        lines.append(f"| {network} | {batch} | {' | '.join(worst)} |")
    return "\n".join(lines) + "\n"


def recorded(path: Path, peers: list[str]) -> dict[tuple[str, int, int], dict[str, Any]]:
    """The rows of a record that have all peers, by network, batch and threads."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {(r["network"], r["batch"], r["threads"]): r for r in rows if all(p in r["found"] for p in peers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS + OPTIONAL)
    parser.add_argument("--rounds", type=int, default=5, help="0 only makes the files")
    parser.add_argument("--numerics", default="strict", choices=("strict", "fast"))
    parser.add_argument("--target", default="cpu", help="what to compile for: cpu, or the name of a variant")
    parser.add_argument("--files", type=Path, help="a folder that keeps what the contestants read")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        contest(args.contestant, args.folder, args.threads[0])
        return
    from _models import NETWORKS

    from _timing import machine

    name = "compare" if args.numerics == "strict" else f"compare_{args.numerics}"
    rows = recorded(HERE / f"{name}.json", args.peers) if args.write else {}
    for network in args.networks or list(NETWORKS):
        for batch in args.batches:
            with tempfile.TemporaryDirectory() as scratch:
                folder = (args.files or Path(scratch)) / f"{network}_{batch}_{args.numerics}"
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / "sample.npz").exists():
                    prepare(network, batch, folder, args.target, args.numerics)
                for threads in args.threads if args.rounds else ():
                    found = measure(folder, ["fusewright", *args.peers], threads, args.rounds)
                    row = {"network": network, "batch": batch, "threads": threads, "found": found}
                    rows[network, batch, threads] = row
                    print(report([row], args.peers, "").strip(), flush=True)
    versions = machine("fusewright", "onnxruntime", "openvino", "tensorflow-cpu", "keras")
    order = list(NETWORKS)
    listed = sorted(rows.values(), key=lambda r: (order.index(r["network"]), r["batch"], r["threads"]))
    if not listed:
        return
    header = f"# Whole networks, each library in its own process\n\n{versions}; numerics {args.numerics}."
    text = report(listed, args.peers, header)
    print(text)
    if args.write:
        (HERE / f"{name}.md").write_text(text)
        (HERE / f"{name}.json").write_text(json.dumps({"machine": versions, "rows": listed}, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
