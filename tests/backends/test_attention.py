"""The attention kernel: every mask, views read in place, inside its bounds; same bits per row and thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.ir import Builder, Graph
from fusewright.testing.kernels import check_kernels

ENV = {"N": 3, "T": 11, "S": 29}


def feeds_of(graph: Graph, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for v in graph.inputs:
        shape = v.type.concrete(ENV)
        if v.dtype.name == "bool":
            out[v.name] = rng.random(shape) < 0.6
        else:
            out[v.name] = (scale * rng.standard_normal(shape)).astype(v.dtype.np)
    return out


def plain(q: Any, k: Any, v: Any, mask: tuple[str, Any] | None = None, dtype: str = "f32", **attrs: Any) -> Graph:
    b: Any = Builder()
    given = [b.input(n, dtype, s) for n, s in (("q", q), ("k", k), ("v", v))]
    given += [b.input("mask", *mask)] if mask else []
    return b.build(b.attention(*given, **attrs))


def heads(b: Any, x: Any, count: int) -> Any:
    n, t, c = x.shape
    return b.transpose(b.reshape(x, shape=(n, t, count, c // count)), perm=(0, 2, 1, 3))


def block(length: Any = 10, count: int = 2, width: int = 24) -> Graph:
    """Queries, keys and values as slices of one tensor, a mask from lengths, heads joined again."""
    b: Any = Builder()
    x, keep = b.input("x", "f32", ("N", length, 3 * width)), b.input("keep", "f32", ("N", length))
    parts = [
        b.slice(x, starts=(0, 0, i * width), stops=("N", length, (i + 1) * width), steps=(1, 1, 1)) for i in range(3)
    ]
    q, k, v = (heads(b, p, count) for p in parts)
    mask = b.mul(b.sub(1.0, b.reshape(keep, shape=("N", 1, 1, length))), -1e4)
    y = b.attention(q, k, v, mask, causal=True)
    return b.build({"y": b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), shape=("N", length, width))})


CASES = {
    "bool mask, tiled depth": lambda: plain((2, 3, 17, 32), (2, 3, 40, 32), (2, 3, 40, 24), ("bool", (2, 1, 1, 40))),
    "symbolic lengths": lambda: plain(("N", 2, "T", 20), ("N", 2, "S", 20), ("N", 2, "S", 16), ("f32", ("T", "S"))),
    "one key head for all, long rows": lambda: plain((2, 3, 5, 8), (2, 1, 600, 8), (2, 1, 600, 8), causal=True),
    "double": lambda: plain((4, 7, 12), (4, 9, 12), (1, 9, 5), dtype="f64", scale=0.3),
    "one query": lambda: plain((2, 2, 1, 16), (2, 2, 33, 16), (2, 2, 33, 16), ("f32", (33,))),
    "keys end in the first vector of a panel": lambda: plain((1, 2, 25, 64), (1, 2, 196, 64), (1, 2, 196, 64)),
    "keys end in its last vector": lambda: plain((1, 2, 7, 64), (1, 2, 121, 64), (1, 2, 121, 64)),
    "views around it": block,
}


@pytest.mark.parametrize("name", CASES)
def test_inside_its_bounds(name: str) -> None:
    graph = CASES[name]()
    verdicts = check_kernels(graph, feeds_of(graph))
    assert verdicts and all(v.ok for v in verdicts), "\n".join(map(str, verdicts))
    assert all("attention" in v.name for v in verdicts)


def test_rows_that_are_all_masked_and_rows_with_nan() -> None:
    graph = plain((2, 1, 4, 16), (2, 1, 8, 16), (2, 1, 8, 16), ("bool", (2, 1, 4, 8)))
    feeds = feeds_of(graph)
    feeds["mask"][0, 0, 1] = False
    feeds["q"][1, 0, 2, 3] = np.nan
    feeds["v"][0, 0, 5, 5] = np.inf
    assert all(v.ok for v in check_kernels(graph, feeds))


def test_views_cost_no_kernel() -> None:
    program = fw.plan(block()).program
    assert [s.node.attrs["kind"] for s in program.walk()] == ["attention"]


def test_a_sample_alone_has_the_bits_it_has_in_a_batch_on_any_threads(tmp_path: Path) -> None:
    bundle = fw.compile(block(140, 3, 48), target="cpu")
    bundle.save(tmp_path / "block.fwb")
    rng = np.random.default_rng(1)
    x, keep = rng.standard_normal((5, 140, 144)).astype(np.float32), np.ones((5, 140), np.float32)
    whole = bundle(x, keep)
    for threads in (1, 2, 8):
        assert np.array_equal(fw.load(tmp_path / "block.fwb", threads=threads)(x, keep), whole)
    assert np.array_equal(bundle(x[3:4], keep[3:4])[0], whole[3])


def test_what_stays_outside_is_right_too() -> None:
    b: Any = Builder()
    q, k = (b.input(n, "f32", (2, 2, 9, 6)) for n in "qk")
    # Values that are not dense along the depth; a result whose heads do not become an axis of what follows.
    turned = b.transpose(b.input("v", "f32", (2, 2, 6, 9)), perm=(0, 1, 3, 2))
    flat = b.reshape(b.transpose(b.attention(q, k, turned), perm=(0, 2, 1, 3)), shape=(2, 9, 12))
    graph = b.build(b.neg(flat), b.attention(q, b.concat(k, k, axis=2), b.concat(turned, turned, axis=2)))
    verdicts = check_kernels(graph, feeds_of(graph))
    assert all(v.ok for v in verdicts) and sum("attention" in v.name for v in verdicts) >= 2
