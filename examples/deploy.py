"""For the deployer: compile once, then serve from the bundle with NumPy alone.

python examples/deploy.py
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import fusewright as fw


def make_graph() -> fw.Graph:
    """A two-layer classifier; in real life this is ``fw.compile("model.keras")``."""
    rng = np.random.default_rng(0)
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 64))
    hidden = b.relu(
        b.add(b.matmul(x, b.constant(rng.standard_normal((64, 32), np.float32))), b.constant(np.ones(32, np.float32)))
    )
    logits = b.matmul(hidden, b.constant(rng.standard_normal((32, 10), np.float32)))
    return b.build({"probabilities": b.softmax(logits, axes=-1)})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fwb"

        # On the build machine, once:
        fw.compile(make_graph(), target="cpu").save(path)

        # On the serving machine (numpy is the only dependency). Hashes are checked before anything runs:
        bundle = fw.load(path, threads=1)
        for value in bundle.signature.inputs:
            print("input", value.name, value.dtype, value.shape)

        # Any batch size; the same bundle may be called from many threads at once.
        batches = [np.random.default_rng(i).standard_normal((n, 64), np.float32) for i, n in enumerate((1, 8, 3))]
        with ThreadPoolExecutor(3) as threads:
            for x, y in zip(batches, threads.map(bundle, batches)):
                print(f"batch {len(x)} -> {y.shape}, rows sum to {y.sum(axis=1).round(4)}")

        # A fixed binding without checks or allocation, for the tightest loops:
        x, y = batches[0], np.empty((1, 10), np.float32)
        step = bundle.bind({"x": x}, {"probabilities": y})
        step()
        print("bound call:", y.argmax(axis=1))

        # What does not fit is refused with a message, never computed wrongly:
        try:
            bundle(np.zeros((2, 63), np.float32))
        except fw.InputRefused as error:
            print("refused:", error)


if __name__ == "__main__":
    main()
