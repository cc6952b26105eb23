"""Depthwise 3x3 convolutions against ONNX Runtime and OpenVINO, one thread: eight layers in one model.

    python benchmarks/depthwise.py [--rounds 40]

With stride 1 the layers follow each other, with stride 2 they share an input and their results are added; so the
reorders at the model's ends weigh little. Peers get channels first, we channels last; answers are compared first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino

import fusewright as fw

from _onnx import Writer
from _timing import interleave, machine, table

CASES = ((144, 56, 1), (384, 14, 1), (144, 56, 2), (384, 14, 2))
LAYERS = 8
Call = Callable[[], object]


def weights(channels: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((3, 3, 1, channels), np.float32) / 3, rng.standard_normal(channels, np.float32))
        for _ in range(LAYERS)
    ]


def graph(channels: int, side: int, stride: int) -> fw.Graph:
    b = fw.Builder()
    x = b.input("x", "f32", (1, side, side, channels))
    h, total = x, None
    for w, bias in weights(channels):
        pads = ((1, 1), (1, 1)) if stride == 1 else ((0, 1), (0, 1))
        attrs = {"strides": (stride, stride), "pads": pads, "dilations": (1, 1), "groups": channels}
        y = b.add(b.conv(h if stride == 1 else x, b.constant(w), **attrs), b.constant(bias))
        if stride == 1:
            h = b.relu(y)
        else:
            total = y if total is None else b.add(total, y)
    return b.build({"y": h if total is None else total})


def model(channels: int, side: int, stride: int) -> bytes:
    w, h, total = Writer(), "x", ""
    pads = [1, 1, 1, 1] if stride == 1 else [0, 0, 1, 1]
    for i, (kernel, bias) in enumerate(weights(channels)):
        given = [w.constant(f"w{i}", kernel.transpose(3, 2, 0, 1)), w.constant(f"b{i}", bias)]
        y = w.node(
            "Conv", [h if stride == 1 else "x", *given], f"c{i}", group=channels, pads=pads, strides=[stride] * 2
        )
        if stride == 1:
            h = w.node("Relu", [y], f"r{i}")
        else:
            total = w.node("Add", [total, y], f"t{i}") if total else y
    last, out = (h, side) if stride == 1 else (total, side // 2)
    return w.model({"x": [1, channels, side, side]}, {last: [1, channels, out, out]}).SerializeToString()


def peers(proto: bytes, x: np.ndarray) -> dict[str, Call]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    hints = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(openvino.Core().read_model(proto, b""), "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def vino() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data

    return {"onnxruntime": lambda: session.run(None, {"x": x})[0], "openvino": vino}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    print(machine("fusewright", "onnxruntime", "openvino"))
    prepared: dict[str, dict[str, Call]] = {}
    for channels, side, stride in CASES:
        x = np.random.default_rng(1).standard_normal((1, side, side, channels), np.float32)
        out = side // stride
        y = np.empty((1, out, out, channels), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            fw.compile(graph(channels, side, stride)).save(Path(folder) / "d.fwb")
            bundle = fw.load(Path(folder) / "d.fwb", threads=1)
        calls: dict[str, Call] = {"fusewright": bundle.bind({"x": x}, {"y": y})}
        calls |= peers(model(channels, side, stride), np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        calls["fusewright"]()
        for name in ("onnxruntime", "openvino"):
            error = np.abs(np.asarray(calls[name]()).transpose(0, 2, 3, 1) - y).max()
            if not error <= 1e-4 * np.abs(y).max():
                raise SystemExit(f"{name} differs by {error:.2e}")
        prepared[f"{channels} channels, {side}x{side}, stride {stride}"] = calls
    for title, calls in prepared.items():
        print(
            table(
                f"{LAYERS} layers, {title}", interleave(calls, rounds, inner=10), unit=1e6 / LAYERS, name="us per layer"
            )
        )


if __name__ == "__main__":
    main()
