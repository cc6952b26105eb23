"""ResNet50 (random weights) against ONNX Runtime and OpenVINO, in float32, interleaved in one process.

    python benchmarks/resnet50.py [--batch 1] [--threads 1 2] [--rounds 20] [--size 224]

Also reports the time to compile with an empty and with a warm kernel cache, and the bundle's size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnxruntime

import fusewright as fw

from _keras_onnx import keras_to_onnx
from _timing import interleave, machine, table

try:
    import openvino
except ImportError:
    openvino = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None, input_shape=(args.size, args.size, 3))
    onnx_bytes = keras_to_onnx(model, args.batch).SerializeToString()
    x = np.random.default_rng(0).standard_normal((args.batch, args.size, args.size, 3), np.float32)
    x_nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    expected = np.asarray(model(x, training=False))

    print(machine("fusewright", "onnxruntime", "openvino", "keras"))
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "resnet50.keras", Path(folder) / "resnet50.fwb"
        model.save(source)
        os.environ["FUSEWRIGHT_CACHE"] = str(Path(folder) / "cache")
        for state in ("empty", "warm"):
            start = time.perf_counter()
            fw.compile(source).save(path)
            print(f"compile and save, {state} kernel cache: {time.perf_counter() - start:.1f} s")
        weights = sum(int(np.prod(w.shape)) * 4 for w in model.weights)
        print(f"bundle {path.stat().st_size / 2**20:.1f} MiB, weights {weights / 2**20:.1f} MiB\n")
        for threads in args.threads:
            bundle = fw.load(path, threads=threads)
            calls = {"fusewright": lambda bundle=bundle: bundle(x)}
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
            calls["onnxruntime"] = lambda session=session: session.run(None, {"x": x_nchw})[0]
            if openvino is not None:
                core = openvino.Core()
                # Its default on some CPUs is bfloat16; everybody computes in float32 here.
                config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
                request = core.compile_model(core.read_model(onnx_bytes, b""), "CPU", config).create_infer_request()
                calls["openvino"] = lambda request=request: request.infer({"x": x_nchw})[0]
            for name, call in calls.items():
                worst = float(np.abs(np.asarray(call()) - expected).max())
                if not worst <= 1e-4 * float(np.abs(expected).max()):
                    raise SystemExit(f"{name} differs from Keras by {worst:.2e}")
            times = interleave(calls, args.rounds)
            print(table(f"ResNet50, batch {args.batch}, {args.size}x{args.size}, {threads} thread(s)", times))


if __name__ == "__main__":
    main()
