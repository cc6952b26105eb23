"""The GPU's attention kernel: every mask and view, inside its bounds, rows that are not finite, and what it leaves out.

The PTX that ships runs in the interpreter of ``tests/cuda``; expected values are NumPy's or the float64 interpreter's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import DeviceFailed
from fusewright.core.manifest import parse_canonical
from fusewright.runtime.cuda.bundle import CudaBundle
from fusewright.runtime.format import Container
from fusewright.testing.kernels import check_kernels

from fake_driver import fake_gpu
from sanitised import spread

ENV = {"N": 3, "T": 37, "S": 45}


@pytest.fixture(autouse=True)
def arithmetic() -> Iterator[None]:
    """The interpreter computes in NumPy, which has its word to say on what is not finite."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*(invalid value|overflow).*")
        yield


def feeds_of(graph: fw.Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for v in graph.inputs:
        shape = v.type.concrete(ENV)
        drawn = rng.standard_normal(shape)
        out[v.name] = drawn > -0.3 if v.dtype.name == "bool" else drawn.astype(v.dtype.np)
    return out


def plain(q: Any, k: Any, v: Any, mask: tuple[str, Any] | None = None, **attrs: Any) -> fw.Graph:
    b: Any = fw.Builder()
    given = [b.input(n, "f32", s) for n, s in (("q", q), ("k", k), ("v", v))]
    given += [b.input("mask", *mask)] if mask else []
    return b.build(b.attention(*given, **attrs))


def block(length: Any = 19, count: int = 2, width: int = 24) -> fw.Graph:
    """Queries, keys and values as slices of one tensor, a mask from lengths, heads joined again."""
    b: Any = fw.Builder()
    x, keep = b.input("x", "f32", ("N", length, 3 * width)), b.input("keep", "f32", ("N", length))

    def heads(i: int) -> Any:
        part = b.slice(x, starts=(0, 0, i * width), stops=("N", length, (i + 1) * width), steps=(1, 1, 1))
        return b.transpose(b.reshape(part, shape=("N", length, count, width // count)), perm=(0, 2, 1, 3))

    mask = b.mul(b.sub(1.0, b.reshape(keep, shape=("N", 1, 1, length))), -1e4)
    y = b.attention(heads(0), heads(1), heads(2), mask, causal=True)
    return b.build({"y": b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), shape=("N", length, width))})


CASES = {
    "two blocks of queries": lambda: plain((2, 70, 32), (2, 33, 32), (2, 33, 40)),
    "causal, several blocks": lambda: plain((1, 150, 8), (1, 140, 8), (1, 140, 8), causal=True),
    "bool mask": lambda: plain((2, 3, 17, 32), (2, 3, 40, 32), (2, 3, 40, 24), ("bool", (2, 1, 1, 40))),
    "symbolic lengths": lambda: plain(("N", 2, "T", 20), ("N", 2, "S", 20), ("N", 2, "S", 16), ("f32", ("T", "S"))),
    "one key head for all": lambda: plain((2, 3, 5, 9), (2, 1, 60, 9), (2, 1, 60, 11), causal=True, scale=0.5),
    "fewer numbers than a fragment": lambda: plain((3, 9, 3), (3, 7, 3), (3, 7, 1)),
    "one query": lambda: plain((2, 2, 1, 16), (2, 2, 33, 16), (2, 2, 33, 16), ("f32", (33,))),
    "the largest heads": lambda: plain((1, 20, 128), (1, 40, 128), (1, 40, 128)),
    "views around it": block,
}


@pytest.mark.parametrize("name", CASES)
def test_inside_its_bounds(name: str) -> None:
    graph = CASES[name]()
    with fake_gpu((8, 6)):
        verdicts = check_kernels(graph, feeds_of(graph), target="cuda")
    assert verdicts and all(v.ok and v.worst > 0 for v in verdicts), "\n".join(map(str, verdicts))
    assert all("attention" in v.name for v in verdicts)


@pytest.mark.parametrize("numerics,least,most", [("strict", 0, 1e-6), ("fast", 2e-5, 5e-3)])
def test_only_fast_rounds_to_tf32(numerics: str, least: float, most: float) -> None:
    graph = plain((2, 40, 64), (2, 50, 64), (2, 50, 64), causal=True)
    feeds = feeds_of(graph)
    got = run(graph, feeds, numerics)
    want = graph.run(feeds, precision="f64")["output"]
    assert least <= np.abs(got - want).max() / np.abs(want).max() <= most


@pytest.mark.parametrize("depth,causal", [(16, False), (32, True), (64, True), (96, False), (128, True)])
def test_scores_never_leave_the_registers(depth: int, causal: bool) -> None:
    bundle = fw.compile(plain(*[(2, 70, depth)] * 3, causal=causal), target="cuda")
    read = bundle._container.read
    kernels = parse_canonical(bytes(read("native/cuda/resources.json")), "resources.json")["kernels"]
    assert len(kernels) == 1 and bundle.report().arena_bytes == 0
    for archs in kernels.values():
        assert set(archs) == {"sm_80", "sm_90"}
        for used in archs.values():
            assert used["spills"] == used["stack"] == 0 and used["shared"] <= 48 << 10, used


def test_views_cost_no_kernel() -> None:
    program = fw.plan(block(), target="cuda").program
    assert [s.node.attrs["kind"] for s in program.walk()] == ["attention"]


@pytest.mark.parametrize("shape,dtype", [((2, 9, 136), "f32"), ((2, 9, 16), "f64")])
def test_what_the_kernel_does_not_serve_is_computed_otherwise(shape: tuple[int, ...], dtype: str) -> None:
    b: Any = fw.Builder()
    graph = b.build(b.attention(*(b.input(n, dtype, shape) for n in "qkv"), causal=True))
    feeds = feeds_of(graph)
    with fake_gpu((8, 6)):
        verdicts = check_kernels(graph, feeds, target="cuda")
    assert len(verdicts) > 1 and all(v.ok for v in verdicts)


def test_barriers_and_waits_are_needed() -> None:
    """Without any one of them that the walk has, another warp's copies or reads are met: a race."""
    graph = plain((1, 130, 16), (1, 130, 16), (1, 130, 16))
    feeds = feeds_of(graph)
    with fake_gpu((8, 6)):
        data = fw.compile(graph, target="cuda")._container.data
    text = Container.open(data).read("native/cuda/kernels.ptx").decode()

    def fault(cut: re.Match[str]) -> BaseException | None:
        with fake_gpu((8, 6), rewrite=lambda t: t[: cut.start()] + t[cut.end() :]) as gpu, spread(gpu):
            try:
                CudaBundle(Container.open(data)).run(feeds)
            except DeviceFailed:
                return gpu.fault
        return None

    found = [fault(m) for m in re.finditer(r"(bar(?:rier)?\.sync|cp\.async\.wait_group)[^;]*;", text)]
    # Behind the last block of keys nothing is under way any more: what guards the next step there is not needed.
    kinds = [type(f).__name__ for f in found]
    assert len(kinds) >= 11 and kinds[:6] == ["Race"] * 6 and kinds.count("Race") >= len(kinds) - 2, kinds


# -- rows that are not finite ---------------------------------------------------------------------------------------
def run(graph: fw.Graph, feeds: dict[str, np.ndarray], numerics: str = "strict") -> np.ndarray:
    with fake_gpu((8, 6)):
        return fw.compile(graph, target="cuda", numerics=numerics).run(feeds)["output"]


def as_numpy(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(want))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    finite = np.isfinite(want)
    np.testing.assert_allclose(got[finite], want[finite], rtol=1e-4, atol=1e-5)


def reference(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, masked: float = -1e9) -> np.ndarray:
    s = q.astype("f8") @ k.astype("f8").swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        s = np.where(mask, s, masked) if mask.dtype == bool else s + mask
    if causal:
        s = np.where(np.arange(s.shape[-2])[:, None] >= np.arange(s.shape[-1]), s, masked)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v.astype("f8")


def test_rows_all_masked_and_operands_that_are_not_finite() -> None:
    graph = plain((2, 4, 16), (2, 40, 16), (2, 40, 16), ("bool", (2, 4, 40)))
    feeds = feeds_of(graph)
    feeds["mask"][0, 1] = False  # evenly over all keys
    feeds["q"][1, 2, 3] = np.nan
    feeds["v"][0, 5, 5], feeds["v"][0, 35, 7] = np.inf, -np.inf
    feeds["v"][1, 6, 4] = np.finfo(np.float32).max  # infinite once rounded to tf32
    as_numpy(run(graph, feeds), reference(**feeds))


def test_a_key_infinitely_far_away_has_no_weight() -> None:
    """Split in two, the infinity would make NaN of a score that is minus infinity."""
    graph = plain((1, 3, 8), (1, 40, 8), (1, 40, 8))
    feeds = feeds_of(graph)
    feeds["q"][...] = np.abs(feeds["q"])
    feeds["k"][0, 34] = -np.inf
    want = reference(feeds["q"], feeds["k"], feeds["v"])
    assert np.isfinite(want).all()
    as_numpy(run(graph, feeds), want)


def test_float_masks_of_minus_infinity() -> None:
    """Keys hidden from the first on, and a row with no key left, which is NaN as in NumPy."""
    graph = plain((1, 6, 8), (1, 70, 8), (1, 70, 8), ("f32", (6, 70)))
    feeds = feeds_of(graph)
    feeds["mask"][...] = 0
    feeds["mask"][2, :66] = feeds["mask"][4] = -np.inf
    want = reference(**feeds)
    assert np.isnan(want[0, 4]).all() and np.isfinite(want[0, 2]).all()
    as_numpy(run(graph, feeds), want)


@pytest.mark.parametrize("causal", [False, True])
def test_without_keys_results_are_zero(causal: bool) -> None:
    """A product over no keys, whose weights nobody divides."""
    graph = plain(("N", "T", 8), ("N", "S", 8), ("N", "S", 12), causal=causal)
    feeds = {"q": np.ones((2, 3, 8), "f4"), "k": np.ones((2, 0, 8), "f4"), "v": np.ones((2, 0, 12), "f4")}
    as_numpy(run(graph, feeds), np.zeros((2, 3, 12)))


@pytest.mark.parametrize("masked", [-1e9, -np.inf, -3.0])
def test_keys_behind_the_diagonal_count_as_the_op_says(masked: float) -> None:
    """Blocks of keys that all queries have hidden are left out only where their weights are zero: not for small
    ``masked``, not for rows that are masked throughout, and zero times an infinite value is still NaN."""
    b: Any = fw.Builder()
    given = [b.input(n, "f32", (2, 130, 8)) for n in "qkv"] + [b.input("mask", "bool", (2, 130, 130))]
    graph = b.build(b.attention(*given, causal=True, masked=masked))
    feeds = feeds_of(graph)
    feeds["mask"][...] = True
    if masked == -1e9:
        feeds["mask"][0, 3] = False
    feeds["v"][1, 129, 2] = np.inf
    as_numpy(run(graph, feeds), reference(**feeds, causal=True, masked=masked))
