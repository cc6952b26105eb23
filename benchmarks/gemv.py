"""Products of few rows with constant weights against NumPy and ONNX Runtime, one thread: how fast weights are read.

    python benchmarks/gemv.py [--rounds 30]

Warm: one layer, again and again. Cold: a chain of layers whose weights together are larger than any cache.
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
from _timing import interleave, machine

SHAPES = ((1024, 1024), (4096, 1000))
ROWS = (1, 2, 4)
COLD = 96 << 20  # bytes of weights
Call = Callable[[], object]


def layers(k: int, n: int, cold: bool) -> list[np.ndarray]:
    """The weights of a chain: back and forth between ``k`` and ``n``."""
    rng, count = np.random.default_rng(0), max(2, COLD // (4 * k * n)) // 2 * 2 if cold else 1
    shapes = [(k, n) if i % 2 == 0 else (n, k) for i in range(count)]
    return [rng.standard_normal(s, np.float32) / np.float32(np.sqrt(s[0])) for s in shapes]


def candidates(x: np.ndarray, chain: list[np.ndarray]) -> dict[str, Call]:
    b = fw.Builder()
    h, w, name = b.input("x", "f32", x.shape), Writer(), "x"
    for i, weights in enumerate(chain):
        h = b.matmul(h, b.constant(weights))
        name = w.node("MatMul", [name, w.constant(f"w{i}", weights)], f"y{i}")
    y = np.empty((len(x), chain[-1].shape[1]), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        fw.compile(b.build({"y": h})).save(Path(folder) / "g.fwb")
        ours = fw.load(Path(folder) / "g.fwb", threads=1).bind({"x": x}, {"y": y})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    proto = w.model({"x": list(x.shape)}, {name: list(y.shape)}).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])

    def plain() -> np.ndarray:
        value = x
        for weights in chain:
            value = value @ weights
        return value

    ours()
    for other in (plain(), session.run(None, {"x": x})[0]):
        if not np.allclose(y, other, rtol=1e-3, atol=1e-3):
            raise SystemExit(f"answers differ by {np.abs(y - other).max():.2e}")
    return {"fusewright": ours, "numpy": plain, "onnxruntime": lambda: session.run(None, {"x": x})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    prepared = {}
    for cold in (False, True):
        for k, n in SHAPES:
            chain = layers(k, n, cold)
            for m in ROWS:
                x = np.random.default_rng(1).standard_normal((m, k), np.float32)
                prepared[f"{m}x{k}x{n}, {'cold' if cold else 'warm'}"] = (chain, candidates(x, chain))
    print(machine("fusewright", "onnxruntime"), "\n")
    print(
        "| product, weights | fusewright GB/s | numpy's time / ours | onnxruntime's time / ours |\n"
        + "| --- " * 4
        + "|"
    )
    for title, (chain, calls) in prepared.items():
        times = interleave(
            calls, rounds if len(chain) == 1 else max(3, rounds // 4), inner=10 if len(chain) == 1 else 1
        )
        best = {name: values.min() for name, values in times.items()}
        speed = sum(w.nbytes for w in chain) / best["fusewright"] / 1e9
        ratios = " | ".join(f"{best[name] / best['fusewright']:.2f}" for name in ("numpy", "onnxruntime"))
        print(f"| {title} | {speed:.0f} | {ratios} |")


if __name__ == "__main__":
    main()
