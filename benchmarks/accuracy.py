"""How exact are whole models and each of their kernels? Against float64, beside eager Keras in float32.

    python benchmarks/accuracy.py [ResNet50 | model.keras | model.h5 ...] [--batch 1] [--folder DIR] [--no-kernels]

A name is taken from ``keras.applications`` (random weights, random batch-norm statistics) and saved both as ``.keras``
and as ``.h5``; ``--folder`` keeps the files. The rule: a model's largest error is at most 4 times eager Keras's plus
1e-6 max|y|, and at most 1e-4 max|y|; every kernel stays inside its own error bound. Exit code 1 if something does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
from _models import lived_in

import fusewright as fw
from fusewright.testing.kernels import KernelVerdict, available_variants, check_kernels

from _timing import machine

MODELS = ("ResNet50", "MobileNetV2", "EfficientNetB0", "InceptionV3")


@dataclass(frozen=True)
class Accuracy:
    """One file on one instruction set; errors are the largest absolute ones over all outputs."""

    model: str
    format: str
    variant: str
    size: float  # max|y|
    error: float
    keras: float

    @property
    def allowed(self) -> float:
        return min(4 * self.keras + 1e-6 * self.size, 1e-4 * self.size)

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed

    def row(self) -> tuple[str, ...]:
        share = f"{self.error / self.keras:.2f}" if self.keras else "-"
        return (
            self.model, self.format, self.variant, f"{self.size:.3g}", f"{self.keras / self.size:.1e}",
            f"{self.error / self.size:.1e}", share, f"{self.allowed / self.size:.1e}", "yes" if self.ok else "**NO**",
        )  # fmt: skip


def make(name: str, folder: Path) -> list[Path]:
    """``keras.applications.<name>`` with a life behind it, as ``.keras`` and ``.h5``."""
    paths = [folder / f"{name}{suffix}" for suffix in (".keras", ".h5")]
    if not all(p.exists() for p in paths):
        keras.utils.set_random_seed(1)
        model = getattr(keras.applications, name)(weights=None)
        lived_in(model, feeds_for(model, 1)[0])
        for p in paths:
            model.save(p)
    return paths


def feeds_for(model: Any, batch: int) -> list[np.ndarray]:
    """Random inputs; pixels in 0..255 for a model that scales them itself."""
    rng = np.random.default_rng(0)
    pixels = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    low, high = (0, 255) if pixels else (-1, 1)
    shapes = [(batch, *(96 if d is None else d for d in x.shape[1:])) for x in model.inputs]
    return [rng.uniform(low, high, s).astype(np.float32) for s in shapes]


def largest(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(np.asarray(g, np.float64) - w).max(initial=0)) for g, w in zip(got, want, strict=True))


def whole_model(path: Path, reference: Path, batch: int) -> tuple[list[Accuracy], fw.Graph, dict[str, np.ndarray]]:
    """Errors of every variant and of eager Keras (loading ``reference``) against the float64 interpreter."""
    model = keras.models.load_model(reference, compile=False)
    xs = feeds_for(model, batch)
    eager = [np.asarray(y) for y in _listed(model(xs if len(xs) > 1 else xs[0], training=False))]
    graph = fw.import_model(path)
    feeds = {v.name: x for v, x in zip(graph.inputs, xs, strict=True)}
    exact = list(graph.run(feeds, precision="f64").values())
    size = max(float(np.abs(y).max(initial=0)) for y in exact)
    rows = []
    for variant in available_variants():
        native = list(fw.compile(path, target=variant).run(feeds).values())
        rows.append(Accuracy(path.stem, path.suffix, variant, size, largest(native, exact), largest(eager, exact)))
    return rows, graph, feeds


def _listed(y: Any) -> list[Any]:
    return list(y) if isinstance(y, (list, tuple)) else [y]


def kernel_row(name: str, variant: str, all_verdicts: Sequence[KernelVerdict]) -> tuple[str, ...]:
    verdicts = [v for v in all_verdicts if v.variant == variant]
    ranked = sorted(verdicts, key=lambda v: -v.worst)
    worst, wrong = ranked[0], sum(not v.ok for v in verdicts)
    return (
        name, variant, str(len(verdicts)), str(wrong),
        f"{worst.worst:.3f}", f"{np.median([v.worst for v in verdicts]):.3f}",
        f"{max(v.undecided for v in verdicts):.2%}", worst.name, worst.origin.split("/")[0],
    )  # fmt: skip


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-kernels", action="store_true")
    args = parser.parse_args()

    rows: list[Accuracy] = []
    kernels: list[tuple[str, ...]] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for given in args.models:
            name, graphs = Path(given).stem, {}
            paths = [Path(given)] if Path(given).suffix else make(given, folder)
            for path in paths:
                try:
                    # Keras cannot read back every .h5 that it writes; the .keras file holds the same weights.
                    found, graph, feeds = whole_model(path, paths[0], args.batch)
                except fw.FusewrightError as error:
                    failures.append(f"{path.name}: {type(error).__name__}: {error}")
                    continue
                rows += found
                failures += [
                    f"{r.model}{r.format} on {r.variant}: {r.error:.3g} > {r.allowed:.3g}" for r in found if not r.ok
                ]
                graphs.setdefault(graph.fingerprint, (graph, feeds))
                print(f"{path.name}: done", file=sys.stderr, flush=True)
            # Both formats of one model give one graph: its kernels are checked once.
            for graph, feeds in () if args.no_kernels else graphs.values():
                verdicts = check_kernels(graph, feeds)
                kernels += [kernel_row(name, v, verdicts) for v in available_variants()]
                failures += [str(v) for v in verdicts if not v.ok]
                print(f"{name}: {len(verdicts)} kernel verdicts", file=sys.stderr, flush=True)

    print(machine("fusewright", "keras", "tensorflow", "numba") + f"\n\nBatch {args.batch}.\n")
    print("Errors are the largest ones, as a share of max|y|.\n")
    head = ("model", "file", "variant", "max|y|", "Keras error", "our error", "ours / Keras", "allowed", "inside")
    print(markdown(head, [r.row() for r in rows]))
    if kernels:
        head = ("model", "variant", "kernels", "outside", "worst", "median", "undecided", "worst kernel", "where")
        print("\nEach kernel beside its own bound, on the values that the run feeds to it (1 = at the bound).\n")
        print(markdown(head, kernels))
    print("\n".join(["", *failures]) if failures else "\nEverything is inside its bound.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
