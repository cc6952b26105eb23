"""A bundle that is interpreted refuses what the native one refuses, by the same error with the same words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusewright as fw


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """(native, interpreted): two inputs that share N, a bounded symbol, an integer input, two outputs."""
    b: Any = fw.Builder()
    x, y = b.input("x", "f32", ("N", "T", 3)), b.input("y", "i32", ("N", "2*T"))
    graph = b.build({"total": b.reduce_sum(x, axes=(2,)), "last": b.slice(y, starts=(0, 1), stops=("N", 5))})
    found = fw.compile(graph, dims={"N": (1, 4)})
    return found, fw.load(found._container.data, native=False)


X, Y = np.ones((2, 3, 3), np.float32), np.ones((2, 6), np.int32)


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f(X),
        lambda f: f(X, Y, X),
        lambda f: f(X, Y, x=X),
        lambda f: f(X, z=Y),
        lambda f: f(X[0], Y),
        lambda f: f(X.astype(np.float64), Y),
        lambda f: f(X, Y.astype(np.int64)),
        lambda f: f(X, [[1.5] * 6] * 2),
        lambda f: f(X, Y[:1]),
        lambda f: f(X, Y[:, :5]),
        lambda f: f(X[:, :2], Y[:, :4]),
        lambda f: f(np.ones((5, 3, 3), np.float32), np.ones((5, 6), np.int32)),
        lambda f: f(X[:0], Y[:0]),
        lambda f: f(np.ma.masked_array(X), Y),
        lambda f: f(object(), Y),
        lambda f: f("x", Y),
        lambda f: f(X, Y, out=np.zeros((2, 3), np.float32)),
        lambda f: f(X, Y, out=(np.zeros((2, 3), np.float64), np.zeros((2, 4), np.int32))),
        lambda f: f(X, Y, out=(np.zeros((2, 2), np.float32), np.zeros((2, 4), np.int32))),
        lambda f: f.run([X, Y]),
        lambda f: f.run({"x": X}),
        lambda f: f.run({"x": X, 1: Y}),
    ],
)
def test_the_same_words(call: Any, pair: tuple[Any, Any]) -> None:
    told = []
    for found in pair:
        with pytest.raises(fw.InputRefused) as refusal:
            call(found)
        told.append(str(refusal.value))
    assert told[0] == told[1]


def test_the_same_results(pair: tuple[Any, Any]) -> None:
    for call in (
        lambda f: f(X, Y),
        lambda f: f(y=Y, x=X),
        lambda f: f(X.tolist(), Y.tolist()),
        lambda f: f(np.asfortranarray(X), Y[::1]),
        lambda f: f(X, Y, out=(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.int32))),
    ):
        for got, want in zip(call(pair[1]), call(pair[0]), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def test_a_result_that_comes_out_smaller_fills_the_leading_block() -> None:
    b: Any = fw.Builder()
    x = b.input("x", "f32", (6,))
    mask = b.gt(x, 0.0)
    b.symbol_of(b.reduce_sum(b.cast(mask, to="i64"), axes=(0,)), symbol="K", high=6)
    native = fw.compile(b.build({"at": b.nonzero(mask, size="K")}))
    interpreted = fw.load(native._container.data, native=False)
    feed = np.float32([1, -1, 2, -2, 3, 0])
    for found in (native, interpreted):
        room = np.full((6, 1), -1, np.int64)
        np.testing.assert_array_equal(found(feed, out=room), [[0], [2], [4]])
        np.testing.assert_array_equal(room.ravel(), [0, 2, 4, -1, -1, -1])
        with pytest.raises(fw.InputRefused, match="wanted int64"):
            found(feed, out=np.zeros((3, 1), np.int64))
