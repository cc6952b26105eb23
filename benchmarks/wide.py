"""Networks of many kinds against ONNX Runtime and OpenVINO: a process each, in turns, as in compare.py.

    python benchmarks/wide.py [NETWORK ...] [--batches 1 8] [--threads 1 2] [--rounds 3] [--files FOLDER] [--write]

Errors are against Keras. ``--files`` keeps what contestants read; ``--write`` records wide.md and wide.json, where rows
of other networks stay.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from compare import measure, ratio, recorded, report

from _timing import machine

HERE = Path(__file__).resolve().parent
PEERS = ["onnxruntime", "openvino"]


def prepare(network: str, batch: int, folder: Path, target: str) -> None:
    """Every contestant's file, and the input with Keras' answer."""
    from _wide_models import make, sample

    import fusewright as fw

    from _keras_onnx import keras_to_onnx, turned

    model = make(network)
    x = sample(model, batch)
    (folder / "model.onnx").write_bytes(keras_to_onnx(model, batch).SerializeToString())
    fw.compile(model, target, {"N": batch}).save(folder / "model.fwb")
    first = np.ascontiguousarray(np.moveaxis(x, -1, 1)) if turned(model) else x
    answer = np.asarray(model(x, training=False))
    np.savez(folder / "sample.npz", x=x, turned=first, y=answer)  # the last one: it says that all are there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="0 only makes the files")
    parser.add_argument("--target", default="cpu", help="what to compile for: cpu, or the name of a variant")
    parser.add_argument("--files", type=Path, help="a folder that keeps what the contestants read")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rows = recorded(HERE / "wide.json", PEERS) if args.write else {}
    if not args.networks:
        from _wide_models import NETWORKS

        args.networks = list(NETWORKS)
    for network in args.networks:
        for batch in args.batches:
            with tempfile.TemporaryDirectory() as scratch:
                folder = (args.files or Path(scratch)) / f"{network}_{batch}"
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / "sample.npz").exists():
                    prepare(network, batch, folder, args.target)
                for threads in args.threads if args.rounds else ():
                    found = measure(folder, ["fusewright", *PEERS], threads, args.rounds)
                    row = {"network": network, "batch": batch, "threads": threads, "found": found}
                    rows[network, batch, threads] = row
                    print(network, batch, threads, *(f"{p} {ratio(row, p):.2f}" for p in PEERS), flush=True)
    if not rows:
        return
    versions = machine("fusewright", "onnxruntime", "openvino", "keras")
    listed = sorted(rows.values(), key=lambda r: (r["network"].lower(), r["batch"], r["threads"]))
    text = report(listed, PEERS, f"# Networks of many kinds, each library in its own process\n\n{versions}; strict.")
    text = text.replace("against float64 arithmetic", "against Keras")
    print(text)
    if args.write:
        (HERE / "wide.md").write_text(text)
        (HERE / "wide.json").write_text(json.dumps({"machine": versions, "rows": listed}, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
