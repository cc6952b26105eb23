"""3x3 convolutions: Winograd's kernels beside the direct one, with what each must at least take. One thread.

    python benchmarks/winograd.py [--rounds 60] [--variant cpu-avx512]

Kernels are compiled ahead of time as bundles carry them, take turns, and find their operands in the caches; ratios are
of best times. The floor of a kernel is its multiplications at the measured peak (taps in the padding cost the direct
kernel nothing); ``of floor`` is the floor over the time. The roof of the other side is stated too: what inputs, results
and weights as the kernel reads them would take from memory, at the measured speed of reading it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from tiles import FINISH, Job, aligned, peak, prepare

from fusewright.backends.numba_cpu.templates.conv import conv
from fusewright.backends.numba_cpu.templates.conv_plan import plan_conv
from fusewright.backends.numba_cpu.templates.winograd import plan_winograd, winograd
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.variants import DEFAULT_VARIANTS, VARIANTS, Variant
from fusewright.core.dims import evaluate
from fusewright.core.dtypes import F32
from fusewright.runtime.image import NativeImage

SHAPES = (  # batch, image side, channels, filters
    (1, 112, 64, 64), (1, 56, 64, 64), (1, 28, 128, 128), (1, 14, 256, 256), (1, 7, 512, 512), (8, 14, 256, 256),
    (8, 7, 512, 512), (1, 35, 96, 96), (1, 56, 32, 32),
)  # fmt: skip
PADS = ((1, 1), (1, 1))
PEAK_UNITS = 500


def jobs_of(variant: Variant, shape: tuple[int, int, int, int]) -> dict[str, tuple[Job, float, float]]:
    """The kernels of a shape with the operations and the bytes that each cannot do without."""
    n, side, c, k = shape
    x_shape, w_shape = (n, side, side, c), (3, 3, c, k)
    moved = 4.0 * n * side * side * (c + k)
    sizes = {"operand": n * side * side * c, "output": n * side * side * k, "extra": k}
    direct = plan_conv(variant, F32, x_shape, w_shape, (1, 1), PADS, (1, 1), 1, True, True)
    sizes |= {"weights": direct.layout.elements}
    flops = 2.0 * n * c * k * (3 * side - 2) ** 2  # taps in the padding cost nothing
    found = {"direct": (Job("direct", conv(direct, FINISH), {}, sizes), flops, moved + 4.0 * direct.layout.elements)}
    for m in (2, 4):
        plan = plan_winograd(variant, F32, x_shape, w_shape, PADS, m)
        made = plan.points * -(-c // 16) * 16 * plan.panels * plan.tile.columns
        tiles = n * (-(-side // m)) ** 2
        job = Job(f"F{m}", winograd(plan, FINISH), {}, sizes | {"transformed": made})
        found[f"F({m}x{m})"] = (job, 2.0 * tiles * plan.points * c * k, moved + 4.0 * made)
    return found


def bandwidth(rounds: int) -> float:
    """Bytes per second of reading memory that no cache holds."""
    data = aligned(64 << 20, np.random.default_rng(0))
    best = float("inf")
    for _ in range(max(rounds // 4, 5)):
        start = time.perf_counter()
        data.max()
        best = min(best, time.perf_counter() - start)
    return data.nbytes / best


def measure(variant: Variant, rounds: int) -> str:
    """A Markdown table for one variant."""
    rng, top, found = np.random.default_rng(0), peak(variant), {s: jobs_of(variant, s) for s in SHAPES}
    # As short as the kernels: on a machine that does other work only short stretches are undisturbed.
    share = evaluate(top.template.extent, {}) // PEAK_UNITS
    flops = evaluate(top.template.flops, {}) // share
    top = replace(top, template=replace(top.template, extent=PEAK_UNITS, flops=flops))
    texts = {job.template.text for jobs in found.values() for job, *_ in jobs.values()} | {top.template.text}
    names = {text: f"k{i}" for i, text in enumerate(sorted(texts))}
    built = build_image([KernelSource(name, text) for text, name in names.items()], variant.name)
    image = NativeImage(built.code, built.symbols)
    reading = bandwidth(rounds)
    run_peak, best_peak = prepare(image, names[top.template.text], top, rng), float("inf")
    rows = []
    for shape, jobs in found.items():
        calls = {name: prepare(image, names[job.template.text], job, rng) for name, (job, *_) in jobs.items()}
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(rounds):
            start = time.perf_counter()
            run_peak()
            best_peak = min(best_peak, time.perf_counter() - start)
            for name, call in calls.items():
                call()  # brings the operands back into the caches
                for _ in range(2):
                    start = time.perf_counter()
                    call()
                    best[name] = min(best[name], time.perf_counter() - start)
        rows.append((shape, best))
    speed = evaluate(top.template.flops, {}) / best_peak
    lines = [
        f"{variant.name}, one thread, best of {2 * rounds}; measured peak {speed / 1e9:.0f} GF/s, "
        f"reading {reading / 1e9:.0f} GB/s",
        "",
        "| batch, side, channels, filters | " + " | ".join(f"{n} us | of floor" for n in found[SHAPES[0]])
        + " | bytes from memory us, each | direct / F(2x2) | direct / F(4x4) |",
        "| --- " * 10 + "|",
    ]  # fmt: skip
    for shape, best in rows:
        cells = []
        for name, (_, flops, _moved) in found[shape].items():
            cells += [f"{best[name] * 1e6:.0f}", f"{flops / speed / best[name]:.0%}"]
        cells.append(", ".join(f"{moved / reading * 1e6:.0f}" for _, _, moved in found[shape].values()))
        cells += [f"{best['direct'] / best[name]:.2f}" for name in ("F(2x2)", "F(4x4)")]
        lines.append(f"| {', '.join(map(str, shape))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--variant", nargs="+", default=list(reversed(DEFAULT_VARIANTS)))
    args = parser.parse_args()
    for name in args.variant:
        print(measure(VARIANTS[name], args.rounds) + "\n", flush=True)


if __name__ == "__main__":
    main()
