"""What a bundle says about itself: signature, kernels and where they came from, memory, values in place.

python examples/inspect_bundle.py [model.fwb]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import fusewright as fw

_PLACES = {"own": "in memory of its own", "output": "in the caller's array"}


def small_bundle(folder: str) -> Path:
    """A bundle to look at when none is given."""
    b = fw.Builder()
    x = b.input("image", "f32", ("N", 16, 16, 3))
    w = b.constant(np.random.default_rng(0).standard_normal((3, 3, 3, 8), np.float32))
    y = b.relu(b.conv(x, w, strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1))
    path = Path(folder) / "small.fwb"
    fw.compile(b.build({"features": b.mul(y, y)})).save(path)
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else small_bundle(folder)
        bundle = fw.load(path)
        for side in ("inputs", "outputs"):
            for value in getattr(bundle.signature, side):
                print(f"{side[:-1]:<7} {value.name}: {value.dtype} [{', '.join(map(str, value.shape))}]")
        symbols = sorted({str(d) for v in bundle.signature.inputs for d in v.shape if not isinstance(d, int)})
        for extent in (1, 8):
            report = bundle.report(dims={name: extent for name in symbols}).to_dict()
            print(
                f"\nwith {', '.join(symbols)} = {extent}: arena {report['arena_bytes']} bytes, "
                f"one op at a time {report['lower_bound_bytes']}, numerics {report['numerics']}"
            )
            for kernel in report["kernels"]:
                cost = f"{kernel['flops']:>12} flops {kernel['bytes']:>10} bytes"
                print(f"  {kernel['kind']:<12} {cost}  {kernel['origin']}")
            for row in report["in_place"]:
                place = f"over {row['reused']}" if row["reused"] else _PLACES.get(row["how"], row["how"])
                print(f"  {row['value'].strip()} {place}{f': {why}' if (why := row['why']) else ''}")


if __name__ == "__main__":
    main()
