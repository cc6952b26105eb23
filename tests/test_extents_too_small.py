"""Inputs too small for what a model takes of them are refused, never answered from memory beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusewright as fw


def bundle(make: Any, shape: tuple[Any, ...] = ("N", "T", 3)) -> Any:
    b: Any = fw.Builder()
    return fw.compile(b.build({"y": make(b, b.input("x", "f32", shape))}))


def refusals(found: Any, x: np.ndarray) -> list[str]:
    """What the native code and the interpreter say, without the place: a fused kernel is at several."""
    told = []
    for one in (found, fw.load(found._container.data, native=False)):
        with pytest.raises(fw.InputRefused) as refusal:
            one(x)
        told.append(str(refusal.value).partition(" (")[0])
    return told


def step(b: Any, x: Any, start: int, stop: int) -> Any:
    return b.slice(x, starts=(0, start, 0), stops=(x.shape[0], stop, 3))


def last(b: Any, x: Any) -> Any:
    t = x.shape[1]
    return b.slice(x, starts=(0, t - 1, 0), stops=(x.shape[0], t, 3))


def in_a_branch(b: Any, x: Any) -> Any:
    taken = b.region([x.type], lambda r, v: r.reduce_sum(step(r, v, 2, 5), axes=(1,)))
    other = b.region([x.type], lambda r, v: r.reduce_sum(v, axes=(1,)))
    return b.if_(b.gt(b.reduce_sum(x, axes=None), 100.0), x, regions=[taken, other])


@pytest.mark.parametrize(
    ("make", "enough", "short"),
    [
        (lambda b, x: step(b, x, 100_000_000, 100_000_001), None, 3),
        (lambda b, x: step(b, x, 5, 6), 6, 3),
        (lambda b, x: b.relu(step(b, x, 2, 5)), 5, 3),
        (last, 1, 0),
        (lambda b, x: b.add(step(b, x, 0, 1), step(b, x, 1, 2)), 2, 1),
        (lambda b, x: b.top_k(b.transpose(x, perm=(0, 2, 1)), k=4, axis=2)[0], 4, 3),
        (lambda b, x: b.argmax(x, axis=1), 1, 0),
        (lambda b, x: b.pad(x, low=(0, 3, 0), high=(0, 2, 0), mode="symmetric"), 1, 0),
        (in_a_branch, 3, None),
    ],
)
def test_windows_beyond_the_end(make: Any, enough: int | None, short: int | None) -> None:
    found = bundle(make)
    if enough is not None:
        x = np.random.default_rng(0).normal(size=(2, enough, 3)).astype(np.float32)
        want = fw.load(found._container.data, native=False)(x)
        np.testing.assert_allclose(found(x), want, rtol=1e-5, atol=1e-6)
    if short is not None:
        x = np.ones((2, short, 3), np.float32)
        told = refusals(found, x)
        assert told[0] == told[1]
        with pytest.raises(fw.InputRefused):
            out = np.zeros(0, np.float32)
            found.bind({"x": x}, {"y": out})()


def test_a_branch_that_is_not_taken_is_not_asked() -> None:
    found = bundle(in_a_branch)
    assert found(np.ones((2, 3, 3), np.float32)).shape == (2, 3)
    told = refusals(found, np.full((2, 3, 3), 50, np.float32))
    assert told[0] == told[1]
    assert found(np.full((2, 6, 3), 50, np.float32)).shape == (2, 3)


def test_two_negative_extents_are_no_positive_size() -> None:
    w = np.ones((5, 5, 3, 2), np.float32)
    found = bundle(
        lambda b, x: b.reduce_mean(b.conv(x, b.constant(w)), axes=(1, 2)), ("N", "H", "W", 3)
    )  # fmt: skip
    assert found(np.ones((2, 5, 6, 3), np.float32)).shape == (2, 2)
    for size in ((3, 3), (3, 8), (8, 3), (0, 0)):
        refusals(found, np.ones((2, *size, 3), np.float32))
