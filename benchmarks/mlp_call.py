"""What one call costs: a 64-64-64-10 network at batch 1, against ONNX Runtime and plain NumPy, one thread.

python benchmarks/mlp_call.py [--rounds 200]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import fusewright as fw

from _timing import interleave, machine, table

SIZES = (64, 64, 64, 10)


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((i, o), np.float32) / np.sqrt(np.float32(i)), rng.standard_normal(o, np.float32))
        for i, o in zip(SIZES, SIZES[1:])
    ]


def graph() -> fw.Graph:
    b = fw.Builder()
    h = b.input("x", "f32", ("N", SIZES[0]))
    for i, (w, bias) in enumerate(weights()):
        h = b.add(b.matmul(h, b.constant(w)), b.constant(bias))
        h = b.relu(h) if i < len(SIZES) - 2 else h
    return b.build({"y": h})


def onnx_model() -> bytes:
    nodes, constants, name = [], [], "x"
    for i, (w, bias) in enumerate(weights()):
        constants += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"h{i}"]))
        name = f"h{i}"
        if i < len(SIZES) - 2:
            nodes.append(helper.make_node("Relu", [name], [f"r{i}"]))
            name = f"r{i}"
    value = helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "mlp",
            [value("x", onnx.TensorProto.FLOAT, ["N", SIZES[0]])],
            [value(name, onnx.TensorProto.FLOAT, ["N", SIZES[-1]])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    proto.ir_version = 8
    return proto.SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    layers = weights()
    x = np.random.default_rng(1).standard_normal((1, SIZES[0]), np.float32)

    def numpy_call() -> np.ndarray:
        h = x
        for i, (w, bias) in enumerate(layers):
            h = h @ w + bias
            h = np.maximum(h, 0) if i < len(layers) - 1 else h
        return h

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlp.fwb"
        fw.compile(graph()).save(path)
        bundle = fw.load(path, threads=1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(onnx_model(), options, providers=["CPUExecutionProvider"])
        y = np.empty((1, SIZES[-1]), np.float32)
        bound = bundle.bind({"x": x}, {"y": y})
        calls = {
            "fusewright": lambda: bundle(x),
            "fusewright, by name": lambda: bundle(x=x),
            "fusewright, out=": lambda: bundle(x, out=y),
            "fusewright, bound": bound,
            "onnxruntime": lambda: session.run(None, {"x": x}),
            "numpy": numpy_call,
        }
        expected = numpy_call()
        for name in ("fusewright", "onnxruntime"):
            error = float(np.abs(np.asarray(calls[name]()).reshape(expected.shape) - expected).max())
            if not error <= 1e-5 * float(np.abs(expected).max()):
                raise SystemExit(f"{name} differs from NumPy by {error:.2e}")
        print(machine("fusewright", "onnxruntime"))
        times = interleave(calls, args.rounds, warm=50, inner=100)
        print(table("One call of a 64-64-64-10 network, batch 1, 1 thread", times, unit=1e6, name="us"))


if __name__ == "__main__":
    main()
