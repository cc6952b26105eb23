"""Compile a real trained model, reload the bundle, run it, and compare with exact arithmetic.

    python examples/demo.py emotion_model.hdf5 [-o emotion.fwb]

The model classifies the emotion of a 64x64 grey face (input scaled to [-1, 1]). ``make demo`` downloads it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

import fusewright as fw

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def draw_face(size: int = 64, smile: float = 1.0) -> np.ndarray:
    """A grey face as uint8 [size, size]: shaded oval, hair, eyes, brows, nose and a mouth curved by ``smile``."""
    v, u = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]

    def blob(cu: float, cv: float, ru: float, rv: float) -> np.ndarray:
        distance = ((u - cu) / ru) ** 2 + ((v - cv) / rv) ** 2
        return 1 / (1 + np.exp(np.minimum(12 * (distance - 1), 50)))

    picture = 60 + 20 * v
    picture += (165 - 40 * u - 15 * v - picture) * blob(0, 0.05, 0.68, 0.88)
    picture += (45 - picture) * blob(0, -0.86, 0.72, 0.33)
    for side in (-1, 1):
        picture += (195 - picture) * blob(side * 0.29, -0.14, 0.15, 0.06)
        picture += (50 - picture) * blob(side * 0.29, -0.14, 0.07, 0.06)
        picture += (70 - picture) * blob(side * 0.29, -0.34, 0.19, 0.045)
    picture += (125 - picture) * blob(0.04, 0.14, 0.05, 0.2)
    bend = v - (0.52 - smile * 0.5 * u**2)
    picture += (80 - picture) * np.exp(-((bend / 0.055) ** 2)) * (np.abs(u) < 0.36)
    noise = np.random.default_rng(0).normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def preprocess(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> float32 [1, H, W, 1] in [-1, 1], as the model was trained."""
    return (((picture.astype(np.float32) / 255) - 0.5) * 2)[None, :, :, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("emotion.fwb"))
    args = parser.parse_args()

    start = time.perf_counter()
    graph = fw.import_model(args.model)
    imported = time.perf_counter()
    fw.compile(args.model).save(args.output)
    compiled = time.perf_counter()
    bundle = fw.load(args.output)
    loaded = time.perf_counter()
    print(f"model      {args.model.name}: {args.model.stat().st_size / 1e3:.0f} kB, {len(graph.nodes)} nodes")
    print(f"bundle     {args.output.name}: {args.output.stat().st_size / 1e3:.0f} kB, runs with NumPy alone")
    print(
        f"time       import {imported - start:.2f} s, compile and save {compiled - imported:.2f} s, "
        f"load {1e3 * (loaded - compiled):.1f} ms"
    )

    report = bundle.report().to_dict()
    kinds = Counter(kernel["kind"] for kernel in report["kernels"])
    print(
        f"kernels    {len(report['kernels'])}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    )
    reused = sum(1 for row in report["in_place"] if row["reused"])
    fused = [kernel for kernel in report["kernels"] if "<fuse>" in kernel["origin"]]
    print(f"fused      {len(fused)} kernels do the work of several layers, for example")
    for kernel in fused[:5]:
        layers = kernel["origin"].partition("/")[0]
        print(f"             {kernel['name']} <- {layers}")
    print(
        f"memory     arena {report['arena_bytes'] / 1e3:.0f} kB for one picture "
        f"(one op at a time: {report['lower_bound_bytes'] / 1e3:.0f} kB), {reused} values computed in place"
    )

    x = preprocess(draw_face())
    y = bundle(x)
    exact = graph.run({graph.inputs[0].name: x}, precision="f64")
    reference = exact[graph.output_names[0]]
    error = float(np.abs(y - reference).max())
    times = []
    for _ in range(200):
        before = time.perf_counter()
        bundle(x)
        times.append(time.perf_counter() - before)
    print(f"answer     {EMOTIONS[int(y[0].argmax())]} ({100 * float(y[0].max()):.0f} %)")
    print(f"error      {error:.2e} at most, against the same graph in float64")
    print(f"call       best {1e3 * min(times):.3f} ms, median {1e3 * float(np.median(times)):.3f} ms")
    if not error <= 1e-5:
        raise SystemExit("the bundle differs from the reference by more than 1e-5")


if __name__ == "__main__":
    main()
