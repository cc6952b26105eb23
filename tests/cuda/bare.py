"""A process with NumPy alone: no compiler, no frontend, no GPU. Runs a bundle's PTX through the fake driver.

python bare.py BUNDLE INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

FORBIDDEN = ("numba", "llvmlite", "numba_cuda", "tensorflow", "keras", "tf_keras", "networkx", "onnx", "ml_dtypes",
             "fusewright.ir", "fusewright.passes", "fusewright.frontends", "fusewright.backends",
             "fusewright.compiler")  # fmt: skip


class _Blocker:
    """Refuses imports that a machine which only runs bundles would not have, and those that it must not need."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if any(name == f or name.startswith(f + ".") for f in FORBIDDEN):
            raise ImportError(f"{name} is not here")


sys.meta_path.insert(0, _Blocker())  # type: ignore[arg-type]

import numpy as np  # noqa: E402

from fake_driver import fake_gpu  # noqa: E402
from sanitised import both_ways  # noqa: E402


def main(bundle: str, inputs: str, outputs: str) -> None:
    """Outputs under their names, and the kernels that ran."""
    warnings.simplefilter("ignore", RuntimeWarning)
    with np.load(inputs) as feeds, fake_gpu() as gpu:
        found = both_ways(gpu, bundle, dict(feeds))
        np.savez(outputs, **{f"y_{k}": v for k, v in found.items()}, kernels=np.array(gpu.launched))


if __name__ == "__main__":
    main(*sys.argv[1:])
