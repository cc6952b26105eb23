"""The process that runs conformance cases, one after the other, so that a crash costs one case.

Reads one JSON request a line on stdin, answers one JSON line on the descriptor it was given. Must not decide totals.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import fusewright as fw
from fusewright.core.dims import evaluate, extent, symbols
from fusewright.core.dtypes import dtype
from fusewright.ir.scope import definitions

from case import Case, judge_all

MOST = 256


def run_case(suite: str, corpora: Path, key: str, native: bool, target: str) -> dict[str, Any]:
    """Compile, save, reload, run and judge one case; ``native=False`` interprets the imported graph instead."""
    module = importlib.import_module(f"suite_{suite}")
    with tempfile.TemporaryDirectory(prefix="fusewright-case-") as folder:
        scratch = Path(folder)
        case: Case = module.load(corpora, key, scratch)
        if case.uncounted == "constant":
            return _outcome("constant")
        try:
            got = _run_native(case, scratch, target) if native else _run_interpreted(case)
        except fw.FusewrightError as error:
            return _outcome(case.uncounted or "refused", f"{type(error).__name__}: {error}".replace(folder, ""))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return _outcome("crashed", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})")
        if case.wants is None:
            return _outcome(case.uncounted or "no_reference")
        detail, error = judge_all(got, case)
        if case.uncounted and not detail:
            return _outcome(case.uncounted, "agrees with an evaluation of our own", error)
        return _outcome("wrong" if detail else "passed", detail, error)


def _outcome(outcome: str, detail: str = "", max_err: float | None = None) -> dict[str, Any]:
    finite = max_err is not None and np.isfinite(max_err)
    return {"outcome": outcome, "detail": detail[:2000], "max_err": max_err if finite else None}


def _run_native(case: Case, scratch: Path, target: str) -> Mapping[str, np.ndarray]:
    graph = fw.import_model(case.source, **case.import_options)
    # A number that is computed during the run, and that nothing bounds, gets a bound as a user would give it.
    free = {n.attrs["symbol"]: (0, MOST) for n in definitions(graph) if n.attrs["high"] is None}
    path = scratch / "case.fwb"
    fw.compile(graph, target=target, dims=free).save(path)
    with _machine(target):
        bundle = fw.load(path)
        return bundle.run(_feeds(case, bundle.signature.inputs))


@contextmanager
def _machine(target: str) -> Iterator[None]:
    """What runs a bundle for ``target``: a GPU is an interpreter of its code, behind the driver's interface."""
    if target != "cuda":
        yield
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))
    fake = importlib.import_module("fake_driver")
    sys.path.pop(0)
    with fake.fake_gpu(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the driver compiles its PTX.*")
        yield


def _run_interpreted(case: Case) -> Mapping[str, np.ndarray]:
    graph = fw.import_model(case.source, **case.import_options)
    return graph.run(_feeds(case, graph.inputs), precision="f32")


def _feeds(case: Case, inputs: Any) -> dict[str, np.ndarray]:
    if isinstance(case.feeds, Mapping):
        return dict(case.feeds)
    if case.feeds is not None:
        return {value.name: feed for value, feed in zip(inputs, case.feeds, strict=True)}
    rng = np.random.default_rng(0)
    feeds = {}
    for value in inputs:
        kind = dtype(str(value.dtype))
        # A batch of 3; free image sizes and times large enough for a few strided layers.
        extents = [extent(e) for e in value.shape]
        shape = [evaluate(e, dict.fromkeys(symbols(e), 3 if axis == 0 else 24)) for axis, e in enumerate(extents)]
        drawn = rng.standard_normal(shape) if kind.is_float else rng.integers(0, 2, shape)
        feeds[value.name] = drawn.astype(kind.compute)
    return feeds


class NoFramework:
    """A finder before all others: no file format needs TensorFlow or Keras, so here they do not exist."""

    NAMES = frozenset(("tensorflow", "keras", "tf_keras", "tensorboard", "torch", "jax"))

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in self.NAMES:
            raise ModuleNotFoundError(f"{name} is not to be used here", name=name)


def main() -> None:
    sys.meta_path.insert(0, NoFramework())
    # Answers go out on a private copy of stdout: whatever a library prints lands on stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = run_case(
            request["suite"], Path(request["corpora"]), request["key"], request["native"], request["target"]
        )
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
