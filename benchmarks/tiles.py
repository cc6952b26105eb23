"""Contraction and depthwise kernels against the measured peak of multiply-add: one thread, every CPU variant.

    python benchmarks/tiles.py [--rounds 40] [--variants cpu-avx512bf16]

The kernels are compiled ahead of time, as bundles carry them. Each is timed with its operands in the caches, less
the time of a call that does nothing. Where the variant multiplies pairs of bfloat16, kernels of pairs are timed (their
rounding of the left operand is not).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusewright.backends.numba_cpu.templates.conv import conv
from fusewright.backends.numba_cpu.templates.conv_plan import plan_conv
from fusewright.backends.numba_cpu.templates.depthwise import depthwise, plan_depthwise
from fusewright.backends.numba_cpu.templates.epilogue import Epilogue, Stage
from fusewright.backends.numba_cpu.templates.matmul import matmul, plan_matmul
from fusewright.backends.numba_cpu.templates.template import Arg, Template, contract_call
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.variants import FAST_VARIANTS, VARIANTS, Variant
from fusewright.core.dims import evaluate, symbol
from fusewright.core.dtypes import F32
from fusewright.runtime import cpu
from fusewright.runtime.image import NativeImage

FINISH = Epilogue((Stage("bias"), Stage("relu")))
DEPTH, REPEATS = 128, 20_000
MATMULS = (
    (512, 512, 512), (2048, 2048, 2048), (128, 768, 3072), (128, 3072, 768), (32, 1024, 1024), (8, 1024, 1024),
    (1, 1024, 1024), (1, 4096, 1000),
)  # fmt: skip
CONVS = (  # image side, channels in, out, taps, stride
    (56, 64, 64, 3, 1), (28, 128, 128, 3, 1), (14, 256, 256, 3, 1), (7, 512, 512, 3, 1), (56, 128, 128, 3, 2),
    (56, 64, 256, 1, 1), (28, 512, 128, 1, 1), (14, 256, 1024, 1, 1), (7, 2048, 512, 1, 1), (224, 3, 64, 7, 2),
)  # fmt: skip
DEPTHWISE = (
    (56, 144, 3, 1), (28, 32, 3, 1), (14, 384, 3, 1), (112, 96, 3, 2), (14, 384, 3, 2), (14, 32, 3, 2), (14, 480, 5, 1)
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A kernel, the binding of its symbols and the elements of each of its buffers."""

    name: str
    template: Template
    env: dict[str, int]
    sizes: dict[str, int]


def peak(variant: Variant) -> Job:
    """The tile alone, both operands in the first-level cache."""
    width = variant.width // 4
    rows, vectors = (6, 4) if width == 16 else (6, 2)
    n = vectors * width
    call = contract_call(
        {
            "out": "out", "a": "a", "w": "w", "nk": DEPTH, "nk_last": DEPTH, "wk": n, "a_px": DEPTH, "o_px": n,
            "DT": 4, "W": width, "P": rows, "NV": vectors, "DOT": int(variant.dots),
        }
    )  # fmt: skip
    unpack = "".join(f"    {name} = args[{i}]\n" for i, name in enumerate(("a", "w", "out")))
    text = f"def peak(args, start, stop, scratch):\n{unpack}    for u in range(start, stop):\n        {call}\n"
    args = (Arg("a", "operand"), Arg("w", "weights"), Arg("out", "output"))
    flops = (4 if variant.dots else 2) * rows * n * DEPTH * REPEATS
    template = Template(text, "peak", args, REPEATS, 1, 0, flops)
    return Job("peak", template, {}, {"operand": rows * DEPTH, "weights": n * DEPTH, "output": rows * n})


def jobs_of(variant: Variant) -> list[Job]:
    """Everything that is measured for a variant, the peak first."""
    jobs, pairs = [peak(variant)], variant.dots
    left = "temp" if pairs else "operand"  # elements of 4 bytes, some of them unused pairs
    for m, k, n in MATMULS:
        plan = plan_matmul(variant, F32, (symbol("N"), k), (k, n), constant_b=True, pairs=pairs)
        sizes = {left: m * k, "weights": evaluate(plan.packed_elements, {}), "output": m * n, "extra": n}
        jobs.append(Job(f"matmul {m}x{k}x{n}", matmul(variant, F32, plan, FINISH), {"N": m}, sizes))
    for side, c, k, taps, stride in CONVS:
        shape, pads = (1, side, side, c), ((taps // 2, taps // 2),) * 2
        steps, blocked = (stride, stride), c >= 16
        if pairs and not blocked:
            continue
        window = (taps, taps, c, k), steps, pads, (1, 1), 1
        chosen = plan_conv(variant, F32, shape, *window, blocked, True, pairs=pairs)
        out = (side // stride) ** 2 * k
        sizes = {left: side * side * c, "weights": chosen.layout.elements, "output": out, "extra": k}
        jobs.append(Job(f"conv {taps}x{taps}/{stride} {c}->{k}, {side}", conv(chosen, FINISH), {}, sizes))
    for side, c, taps, stride in () if pairs else DEPTHWISE:
        shape, pads = (1, side, side, c), ((taps // 2, taps // 2),) * 2
        picked = plan_depthwise(variant, F32, shape, (taps, taps, 1, c), (stride, stride), pads, (1, 1), True)
        sizes = {"operand": side * side * c, "weights": taps * taps * c, "output": side * side * c, "extra": c}
        jobs.append(Job(f"depthwise {taps}x{taps}/{stride} {c}, {side}", depthwise(picked, FINISH), {}, sizes))
    return jobs


def aligned(count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` random float32 on a 64-byte boundary."""
    raw = np.empty(count * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + count * 4].view(np.float32)
    array[:] = rng.standard_normal(count, dtype=np.float32)
    return array


def prepare(
    image: NativeImage, symbol_name: str, job: Job, rng: np.random.Generator, idle: bool = False
) -> Callable[[], None]:
    """A call of the whole job without arguments; ``idle``: of no unit of it."""
    arrays = {kind: aligned(size, rng) for kind, size in job.sizes.items()}
    words = [
        evaluate(arg.value, job.env) if arg.kind == "dim" else arrays[arg.kind].ctypes.data for arg in job.template.args
    ]
    block, extent = np.array(words, np.int64), 0 if idle else evaluate(job.template.extent, job.env)
    scratch = aligned(evaluate(job.template.scratch_bytes, job.env) // 4, rng)
    kernel = image.kernel(symbol_name)

    def run() -> None:
        assert arrays  # the addresses in the block are theirs
        kernel(block.ctypes.data, 0, extent, scratch.ctypes.data)

    return run


def measure(variant: Variant, rounds: int) -> str:
    """A Markdown table for one variant."""
    rng, jobs = np.random.default_rng(0), jobs_of(variant)
    sources = [KernelSource(f"k{i}", job.template.text) for i, job in enumerate(jobs)]
    built = build_image(sources, variant.name)
    image = NativeImage(built.code, built.symbols)
    calls = {job.name: prepare(image, f"k{i}", job, rng) for i, job in enumerate(jobs)}
    calls["idle"] = prepare(image, "k0", jobs[0], rng, idle=True)
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # brings the operands back into the caches that the other kernels emptied
            for _ in range(3):
                start = time.perf_counter()
                call()
                best[name] = min(best[name], time.perf_counter() - start)
    # A call from Python takes as long as a small kernel.
    speed = {job.name: evaluate(job.template.flops, job.env) / (best[job.name] - best["idle"]) / 1e9 for job in jobs}
    lines = [
        f"{variant.name}, one thread, best of {3 * rounds}; measured peak {speed['peak']:.0f} GF/s",
        "",
        "| kernel, bias and relu fused | GF/s | of peak |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {v:.0f} | {v / speed['peak']:.0%} |" for name, v in speed.items() if name != "peak"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    runnable = [v for v in reversed(FAST_VARIANTS) if not cpu.missing(v)]
    parser.add_argument("--variants", nargs="+", choices=runnable, default=runnable)
    args = parser.parse_args()
    for name in args.variants:
        print(measure(VARIANTS[name], args.rounds) + "\n")


if __name__ == "__main__":
    main()
