"""Planned memory of every keras.applications class against the lower bound, and against TensorFlow Lite's arena.

Each model is built with random weights in a process of its own; nothing is compiled. Writes a Markdown table.

    python benchmarks/memory.py [--models A,B] [--lite] [--out benchmarks/memory.md]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

NOTES = """\
What is over the aim is so by the scratch of convolutions in Winograd tiles: every thread has its own,
beside the arena. Xception: its shortcut reads a strided slice, so that the value sliced need not wait for the branch.
NASNet: pools of one element and crops of a padding are slices; fewer channels than a block stay in blocks.
"""
LITE = ("MobileNetV2", "DenseNet121")
BAR = 1.10
# Classes that leave the image size open are planned at this one.
OPEN = {"MobileNetV3Small": 224, "MobileNetV3Large": 224}


def quick_weights() -> None:
    """Random numbers without the cost of drawing hundreds of millions of them: one block, repeated."""
    import keras

    block = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32) * 0.05

    def draw(self: Any, shape: Any, dtype: Any = None, **rest: Any) -> Any:
        return keras.ops.convert_to_tensor(np.resize(block, shape))

    for name in ("VarianceScaling", "RandomNormal", "TruncatedNormal", "RandomUniform"):
        getattr(keras.src.initializers.random_initializers, name).__call__ = draw


def classes() -> list[str]:
    """The names of keras.applications that build a model."""
    import keras

    return [n for n in dir(keras.applications) if n[0].isupper()]


def build(name: str) -> Any:
    import keras

    quick_weights()
    size = {"input_shape": (OPEN[name], OPEN[name], 3)} if name in OPEN else {}
    return getattr(keras.applications, name)(weights=None, **size)


def plan(name: str) -> dict[str, Any]:
    """The figures of one model at batch 1."""
    import fusewright as fw

    planned = fw.plan(fw.import_model(build(name)), dims={"N": 1})
    one, two = planned.report(threads=1), planned.report(threads=2)
    rows = [r for r in one.in_place if r["role"]]
    return {
        "name": name, "kernels": len(one.kernels), "bound": one.lower_bound_bytes, "one": one.arena_bytes,
        "two": two.arena_bytes, "share": one.in_place_share, "copies": sum(k["kind"] == "copy" for k in one.kernels),
        "rows": len(rows), "concat": sum(r["how"] == "in concat" for r in one.in_place),
    }  # fmt: skip


def lite(name: str) -> int:
    """Bytes of the arena that TensorFlow Lite plans for one call: the range in which its tensors lie, with inputs and
    outputs, without constants. Built-in kernels, since a delegate's memory cannot be seen."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(build(name))
    interpreter = tf.lite.Interpreter(
        model_content=converter.convert(),
        num_threads=1,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    ranges = []
    for detail in interpreter.get_tensor_details():
        try:
            view = interpreter.tensor(detail["index"])()
        except ValueError:
            continue  # temporary tensors without memory
        ranges.append((view.ctypes.data, view.ctypes.data + view.nbytes))
    given = [d["index"] for d in (*interpreter.get_input_details(), *interpreter.get_output_details())]
    return arena(ranges, interpreter.tensor(given[0])().ctypes.data)


def arena(ranges: list[tuple[int, int]], inside: int) -> int:
    """The bytes of the stretch of overlapping or neighbouring ranges that holds the address ``inside``."""
    low = high = inside
    grown = True
    while grown:
        grown = False
        for a, b in ranges:
            near = a <= high + 4096 and b >= low - 4096
            if near and (a < low or b > high):
                low, high, grown = min(low, a), max(high, b), True
    return high - low


def child(*flags: str) -> Any:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(flags)}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]], peers: dict[str, int]) -> str:
    out = [
        "# Planned memory", "",
        "Batch 1, random weights, `python benchmarks/memory.py --lite`. Arena: intermediates and scratch, without the",
        "caller's arrays. Bound: the need of the neediest op of the imported, unfused graph (`lower_bound_bytes`),",
        f"which fusion may beat; the aim is at most {BAR:.2f} of it. In place, in concat: results that lie over an",
        "operand, or were written straight into a concat.", "",
        "| model | kernels | bound MiB | arena MiB, 1 thread | ratio | ratio, 2 threads | elementwise in place "
        "| residual in place | in concat |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for r in rows:
        shares = []
        for role in ("elementwise", "residual"):
            counts = r["share"][role]
            shares.append(f"{counts['in place']} of {sum(counts.values())}")
        one, two = r["one"] / r["bound"], r["two"] / r["bound"]
        mark = " **over**" if max(one, two) > BAR else ""
        out.append(
            f"| {r['name']} | {r['kernels']} | {r['bound'] / 2**20:.2f} | {r['one'] / 2**20:.2f} | {one:.3f} "
            f"| {two:.3f}{mark} | {' | '.join(shares)} | {r['concat']} |"
        )
    if peers:
        ours = {r["name"]: r["one"] for r in rows}
        out += ["", "| model | arena MiB, 1 thread | TensorFlow Lite, its inputs and outputs included |",
                "| --- | --- | --- |"]  # fmt: skip
        out += [f"| {n} | {ours[n] / 2**20:.2f} | {size / 2**20:.2f} |" for n, size in peers.items()]
    return "\n".join([*out, "", NOTES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models")
    parser.add_argument("--lite", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(lite(args.child) if args.lite else plan(args.child)))
        return
    names = args.models.split(",") if args.models else classes()
    rows: list[dict[str, Any]] = []
    peers: dict[str, int] = {}
    for name in names:
        rows.append(child("--child", name))
        one, two = rows[-1]["one"] / rows[-1]["bound"], rows[-1]["two"] / rows[-1]["bound"]
        print(f"{name:20s} {one:.3f} {two:.3f}", flush=True)
        if args.lite and name in LITE:
            peers[name] = child("--child", name, "--lite")
        if args.out:
            with open(args.out, "w") as file:
                file.write(table(sorted(rows, key=lambda r: r["name"]), peers))


if __name__ == "__main__":
    main()
