"""How the time of the default pipeline and of scheduling grows with the graph.

    python benchmarks/pass_time.py [--sizes 1000 10000 100000] [--write]

Graphs that look like real ones: residual convolutional networks, transformers, elementwise DAGs. What counts is the
last column: time per node as a multiple of that of the smallest size. ``--write`` records the table in pass_time.md.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fusewright as fw
from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.passes.memory.schedule import schedule

HERE = Path(__file__).resolve().parent


class _Net:
    """A graph under construction; weights are small, fixed and all different."""

    def __init__(self) -> None:
        self.b: Any = fw.Builder()
        self.data = np.random.default_rng(0)

    def weights(self, *shape: int) -> Any:
        return self.b.constant((self.data.standard_normal(shape) / 6).astype(np.float32))

    @property
    def size(self) -> int:
        return len(self.b.graph.nodes)

    def dense(self, x: Any, n: int) -> Any:
        return self.b.add(self.b.matmul(x, self.weights(x.shape[-1], n)), self.weights(n))


def convolutional(size: int) -> fw.Graph:
    """Residual blocks of two 3x3 convolutions with batch norm."""
    net = _Net()
    b = net.b
    y = b.input("x", "f32", ("N", 32, 32, 16))
    while net.size < size:
        z = y
        for last in (False, True):
            z = b.conv(z, net.weights(3, 3, 16, 16), pads=((1, 1), (1, 1)))
            z = b.batch_norm(z, net.weights(16), b.constant((net.data.random(16) + 0.5).astype(np.float32)))
            z = z if last else b.relu(z)
        y = b.relu(b.add(y, z))
    return b.build(b.reduce_mean(y, axes=(1, 2)))


def transformer(size: int, length: int = 16, width: int = 32, heads: int = 4) -> fw.Graph:
    """Post-norm blocks, everything but softmax and norm spelt out."""
    net = _Net()
    b = net.b
    y = b.input("x", "f32", ("N", length, width))

    def split(v: Any) -> Any:
        return b.transpose(b.reshape(v, shape=("N", length, heads, width // heads)), perm=(0, 2, 1, 3))

    while net.size < size:
        q, k, v = (split(net.dense(y, width)) for _ in range(3))
        scores = b.softmax(b.mul(b.matmul(q, k, transpose_b=True), 0.35))
        joined = b.reshape(b.transpose(b.matmul(scores, v), perm=(0, 2, 1, 3)), shape=("N", length, width))
        y = b.layer_norm(b.add(y, net.dense(joined, width)), net.weights(width), net.weights(width))
        h = net.dense(y, 2 * width)
        h = b.mul(b.mul(h, 0.5), b.add(b.erf(b.mul(h, 0.70710678)), 1.0))
        y = b.layer_norm(b.add(y, net.dense(h, width)), net.weights(width), net.weights(width))
    return b.build(y)


def elementwise(size: int) -> fw.Graph:
    """A random DAG of unary and binary ops over the last eight values, a softmax now and then."""
    r = random.Random(0)
    net = _Net()
    b = net.b
    values = [b.input("x", "f32", ("N", 64))]
    while net.size < size:
        x, y = r.choice(values[-8:]), r.choice(values[-8:])
        kind = r.random()
        if kind < 0.4:
            values.append(getattr(b, r.choice(["relu", "tanh", "exp", "neg", "abs", "sigmoid"]))(x))
        elif kind < 0.5:
            values.append(b.mul(x, float(r.randrange(1, 5))))
        elif kind < 0.53:
            values.append(b.softmax(x))
        else:
            values.append(getattr(b, r.choice(["add", "mul", "sub", "maximum"]))(x, y))
    return b.build(*values[-4:])


KINDS: dict[str, Callable[[int], fw.Graph]] = {
    "convolutional": convolutional,
    "transformer": transformer,
    "elementwise": elementwise,
}


def measure(graph: fw.Graph) -> tuple[float, float, str]:
    """Seconds of processor time of the pipeline and of the schedule, and the three dearest passes."""
    begin = time.process_time()
    final, stats = fw.default_pipeline("cpu").run(graph)
    middle = time.process_time()
    schedule(final, cpu_target())
    end = time.process_time()
    dearest = sorted(stats, key=lambda s: -s.seconds)[:3]
    shares = ", ".join(f"{s.name} {s.seconds / stats.seconds:.0%}" for s in dearest)
    return middle - begin, end - middle, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    lines = [
        "| graph | nodes | pipeline s | schedule s | dearest passes | per node, pipeline | per node, schedule |",
        "| --- " * 7 + "|",
    ]
    for kind, make in KINDS.items():
        measure(make(args.sizes[0]))  # first uses of tables and templates
        base: tuple[float, float] | None = None
        for size in args.sizes:
            graph = make(size)
            nodes = len(graph.nodes)
            passes, places, dearest = measure(graph)
            base = base or (passes / nodes, places / nodes)
            growth = f"{passes / nodes / base[0]:.2f} | {places / nodes / base[1]:.2f}"
            lines.append(f"| {kind} | {nodes} | {passes:.2f} | {places:.2f} | {dearest} | {growth} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        intro = (
            "# Time of the passes\n\nWritten by `python benchmarks/pass_time.py --write`: processor seconds, shared "
            "machine.\nRead the last two columns: time per node, as a multiple of the smallest graph's.\n\n"
        )
        (HERE / "pass_time.md").write_text(intro + text)


if __name__ == "__main__":
    main()
