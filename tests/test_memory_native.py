"""Shared storage in compiled bundles: concats, slices and carried values in place, for any N and number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import fusewright as fw
from fusewright.ir import Graph
from fusewright.runtime.sanitise import sanitised_run


def network() -> Graph:
    """Parts of a concat at offsets that depend on N, slices of it, and a loop whose state replaces itself."""
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 16))
    w = b.constant(np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16))
    tall = b.concat(b.matmul(x, w), b.concat(b.tanh(x), b.sigmoid(b.matmul(x, w)), axis=0), axis=0)
    n = x.shape[0]
    wide = b.cumsum(tall, axis=1)
    middle = b.slice(wide, starts=(n, 0), stops=(2 * n, 16), steps=(1, 1))
    last = b.slice(wide, starts=(2 * n, 0), stops=(3 * n, 16), steps=(1, 1))
    gated = b.mul(b.softmax(middle), last)
    region = b.region(
        [gated.type, gated.type, w.type],
        lambda r, h, c, k: (r.tanh(r.add(r.matmul(h, k), c)), r.mul(r.add(c, 1.0), 0.5)),
    )
    h, c = b.scan(gated, b.exp(x), w, n_carry=2, length=4, regions=[region])
    return b.build(b.matmul(tall, w), b.softmax(b.add(h, c)), names=["tall", "state"])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = str(tmp_path_factory.mktemp("memory") / "m.fwb")
    fw.compile(network(), target="cpu-avx2").save(target)
    return target


def test_the_plan_shares_what_it_can() -> None:
    report = fw.plan(network()).report({"N": 4})
    how = [row["how"] for row in report.in_place]
    assert how.count("in concat") >= 2 and how.count("view") >= 2
    assert not any(k["name"].startswith(("concat", "slice")) for k in report.kernels)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_poisoned_runs_equal_the_interpreter(path: str, threads: int) -> None:
    bundle, rng = fw.load(path, threads=threads), np.random.default_rng(0)
    for n in (1, 3, 64, 0):
        x = rng.normal(size=(n, 16)).astype(np.float32)
        want = network().run({"x": x}, precision="f64")
        got = sanitised_run(bundle, {"x": x})
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)
        for name, array in bundle.run({"x": x}).items():
            np.testing.assert_array_equal(array, got[name])
