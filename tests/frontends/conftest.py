"""Comparing an imported graph with eager Keras. Owns the one comparison; the tests draw models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import pytest

from fusewright.core.errors import ImportRefused
from fusewright.frontends.keras import import_keras

Compare = Callable[..., None]


def randomise(model: Any, seed: int = 0) -> None:
    """Weights away from their initial zeros and ones; variances stay positive, counters and seeds as they are."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        name = getattr(v, "path", v.name)
        if "seed" in name or name.startswith("normalization"):
            continue  # an adapted Normalization keeps a copy of its statistics
        low = 0.3 if "variance" in name else -0.6
        v.assign(rng.uniform(low, 0.9, v.shape).astype(np.float32))


def flat(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [a for k in tree for a in flat(tree[k])]
    if isinstance(tree, (list, tuple)):
        return [a for t in tree for a in flat(t)]
    return [np.asarray(tree)]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def against_keras(scratch: Path) -> Compare:
    """``compare(model, *arrays, save=())``: eager Keras against the graph from the live object and from saved files."""

    def compare(
        model: Any,
        *arrays: np.ndarray,
        save: tuple[str, ...] = (),
        rtol: float = 2e-4,
        atol: float = 2e-5,
        seed: int = 0,
    ) -> None:
        randomise(model, seed)
        want = flat(model(list(arrays) if len(arrays) > 1 else arrays[0], training=False))
        sources: list[Any] = [model]
        for suffix in save:
            path = scratch / f"model{suffix}"
            model.save(path)
            sources.append(path)
        for source in sources:
            graph = import_keras(source)
            graph.verify(level=2)
            got = list(graph.run({v.name: a for v, a in zip(graph.inputs, arrays, strict=True)}).values())
            assert len(got) == len(want)
            for g, w in zip(got, want, strict=True):
                assert g.shape == w.shape
                assert g.dtype == w.dtype
                scale = np.abs(w[np.isfinite(w)]).max(initial=1.0) if w.dtype.kind == "f" else 1.0
                np.testing.assert_allclose(
                    g.astype(np.float64), w.astype(np.float64), rtol=rtol, atol=atol * scale, err_msg=str(type(source))
                )

    return compare


@pytest.fixture(scope="session")
def refused() -> Callable[..., ImportRefused]:
    """``refused(source, code)``: importing it raises ImportRefused of that code, which is returned."""

    def check(source: Any, code: str, **options: Any) -> ImportRefused:
        with pytest.raises(ImportRefused) as caught:
            import_keras(source, **options)
        assert caught.value.code == code
        assert caught.value.reason
        return caught.value

    return check


@pytest.fixture(scope="session")
def keras_layers() -> Any:
    return keras.layers
