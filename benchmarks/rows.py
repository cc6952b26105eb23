"""Kernels bound by memory against a copy of the same bytes, and ONNX Runtime: one thread, 4096x4096 float32.

    python benchmarks/rows.py [--rounds 15]

Results go into bound arrays on both sides; answers are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

import fusewright as fw

from _onnx import Writer
from _timing import interleave, machine, table

SIDE = 4096
SCALE, SHIFT = 1.3, 0.2
Call = Callable[[], object]


def graphs() -> dict[str, fw.Graph]:
    """What is measured, each from ``x`` to ``y``."""
    rng, made = np.random.default_rng(0), {}
    for name in ("softmax", "layer norm", "gelu(x*a+b)"):
        b = fw.Builder()
        x = b.input("x", "f32", (SIDE, SIDE))
        if name == "softmax":
            y = b.softmax(x, axes=(1,))
        elif name == "layer norm":
            gamma, beta = (b.constant(rng.standard_normal(SIDE, np.float32)) for _ in range(2))
            y = b.layer_norm(x, gamma, beta, axes=(1,), epsilon=1e-5)
        else:
            y = b.gelu(x * SCALE + SHIFT, approximate=False)
        made[name] = b.build({"y": y})
    return made


def peers() -> dict[str, bytes]:
    """The same for ONNX Runtime."""
    rng, made = np.random.default_rng(0), {}
    for name in ("softmax", "layer norm", "gelu(x*a+b)"):
        w = Writer()
        if name == "softmax":
            w.node("Softmax", ["x"], "y", axis=-1)
        elif name == "layer norm":
            extras = [w.constant(n, rng.standard_normal(SIDE, np.float32)) for n in ("gamma", "beta")]
            w.node("LayerNormalization", ["x", *extras], "y", axis=-1, epsilon=1e-5)
        else:
            product = w.node("Mul", ["x", w.constant("scale", SCALE)], "product")
            w.node("Gelu", [w.node("Add", [product, w.constant("shift", SHIFT)], "sum")], "y")
        made[name] = w.model({"x": [SIDE, SIDE]}, {"y": [SIDE, SIDE]}).SerializeToString()
    return made


def ours(graph: fw.Graph, x: np.ndarray, y: np.ndarray, folder: Path) -> Call:
    path = folder / "case.fwb"
    fw.compile(graph).save(path)
    return fw.load(path, threads=1).bind({"x": x}, {"y": y})


def theirs(model: bytes, x: np.ndarray, y: np.ndarray) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for bind, name, array in ((binding.bind_input, "x", x), (binding.bind_output, "y", y)):
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    x = np.random.default_rng(1).standard_normal((SIDE, SIDE), np.float32)
    y, want = np.zeros_like(x), np.zeros_like(x)
    models = peers()
    calls: dict[str, Call] = {"copy": lambda: np.copyto(y, x)}
    with tempfile.TemporaryDirectory() as folder:
        for name, graph in graphs().items():
            calls[name] = ours(graph, x, y, Path(folder))
            calls[f"{name}, onnxruntime"] = theirs(models[name], x, want)
            calls[name](), calls[f"{name}, onnxruntime"]()
            error = float(np.abs(y - want).max())
            if not error <= 1e-5 * float(np.abs(want).max()):
                raise SystemExit(f"{name} differs from ONNX Runtime by {error:.2e}")
        print(machine("fusewright", "onnxruntime"))
        print(table(f"{SIDE}x{SIDE} float32, 1 thread", interleave(calls, rounds), base="copy"))


if __name__ == "__main__":
    main()
