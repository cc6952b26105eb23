"""Every float32 number through every float32 function: the largest error in units in the last place, and time in cache.

    python benchmarks/ulps.py [--write] [--step 1] [NAME ...]

The reference is the function's float64 form, whose own error tests/backends/test_mathlib.py bounds. A wrong class (NaN,
infinity, sign of zero) counts as an infinite error. ``--step`` looks at each so manieth block of 2**16 numbers.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from fusewright.backends.numba_cpu import mathlib
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.variants import DEFAULT_VARIANTS
from fusewright.runtime.cpu import missing
from fusewright.runtime.image import NativeImage

from _timing import machine

HERE = Path(__file__).resolve().parent
BLOCK, LANES, REPEATS = 1 << 16, 64, 20
NAMES = [n for n in mathlib.UNARY if n != "rsqrt"]
SCAN = """
def k(args, start, stop, scratch):
    got, want, worst = pf32(scratch), pf64(scratch + 4096), pf64(args[0])
    for b in range(start, stop):
        for j in range(1024):
            put(got, j, NAME(from_bits(u32(b * 1024 + j))))
        for j in range(1024):
            put(want, j, NAME(f64(from_bits(u32(b * 1024 + j)))))
        for jb in range(0, 1024, 64):
            for l in range(64):
                y, w = get(got, jb + l), get(want, jb + l)
                r = f32(w)
                e = ((bits(w) >> 52) & 2047) - 1023
                e = select(e < -126, -126, select(e > 127, 127, e))
                apart = absolute(f64(y) - w) / from_bits((e + 1000) << 52)
                zeros = (y == f32(0.0)) & (r == f32(0.0)) & (i32(bits(y) ^ bits(r)) < 0)
                apart = select((apart == apart) & (not zeros), apart, INF)
                same = (bits(y) == bits(r)) | ((y != y) & (r != r))
                finite = absolute(r) < INF32
                apart = select(same & (not finite), f64(0.0), apart)
                put(worst, l, select(apart > worst[l], apart, worst[l]))
""".replace("INF32", "from_bits(i32(0x7F800000))").replace("INF", "from_bits(0x7FF0000000000000)")
TIME = """
def k(args, start, stop, scratch):
    x, z = pf32(args[0]), pf32(args[1])
    for r in range(20):
        for i in range(start, stop):
            put(z, i, NAME(get(x, i)))
"""
INSIDE = {"log": (0, 100), "log1p": (-1, 100), "acosh": (1, 100), "asin": (-1, 1), "acos": (-1, 1), "atanh": (-1, 1)}


def worst_of(image: NativeImage, name: str, step: int) -> tuple[float, float]:
    """(largest error, an argument near it)."""
    scan, scratch = image.kernel(f"scan_{name}"), np.empty(1024 * 12, np.uint8)
    lanes, worst, place = np.zeros(LANES), 0.0, 0
    block = np.array([lanes.ctypes.data], np.int64)
    for b in range(0, (1 << 32) // BLOCK, step):
        scan(block.ctypes.data, b * BLOCK // 1024, (b + 1) * BLOCK // 1024, scratch.ctypes.data)
        if lanes.max() > worst:
            worst, place = float(lanes.max()), b * BLOCK
    return worst, float(np.array([place], np.uint32).view(np.float32)[0])


def speed_of(image: NativeImage, name: str, rounds: int = 40) -> float:
    """Nanoseconds per element of 4,096 in the first-level cache."""
    x = np.random.default_rng(0).uniform(*INSIDE.get(name, (-20, 20)), 4096).astype(np.float32)
    z, best = np.empty_like(x), float("inf")
    block, call = np.array([x.ctypes.data, z.ctypes.data], np.int64), image.kernel(f"time_{name}")
    for _ in range(rounds):
        start = time.perf_counter()
        call(block.ctypes.data, 0, len(x), 0)
        best = min(best, time.perf_counter() - start)
    return best / REPEATS / len(x) * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    names = args.names or NAMES
    here = [v for v in DEFAULT_VARIANTS if not missing(v)]
    images = {}
    for variant in here:
        texts = {f"{kind}_{n}": t.replace("NAME", n) for n in names for kind, t in (("scan", SCAN), ("time", TIME))}
        built = build_image([KernelSource(entry, text) for entry, text in texts.items()], variant)
        images[variant] = NativeImage(built.code, built.symbols)
    lines = ["| function | " + " | ".join(f"{v}, ns per element" for v in here) + " | stated ULP | largest error |"]
    lines.append("| --- " * (len(here) + 3) + "|")
    for name in names:
        speeds = " | ".join(f"{speed_of(images[v], name):.2f}" for v in here)
        stated, found = mathlib.ULPS[name][0], "not looked at"
        if not args.speed_only:
            found = "{:.3f} near {:.3g}".format(*worst_of(images[here[-1]], name, args.step))
        lines.append(f"| {name} | {speeds} | {stated} | {found} |")
        print(lines[-1], flush=True)
    if args.write:
        intro = (
            f"# Recorded: `ulps.py`\n\nOne thread; errors of {here[-1]} over all 2**32 float32 numbers against the "
            "float64 form; times best of 40 with 4,096 numbers in the first-level cache.\n"
            + machine("numba", "llvmlite")
        )
        (HERE / "ulps.md").write_text(intro + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
