"""Quotients and bounds, tried out on small integers: what windows of "same" padding make of free sizes stays short."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from fusewright.core.dims import (
    Extent,
    ceildiv,
    compare_le,
    evaluate,
    floordiv,
    lower_bound,
    maximum,
    minimum,
    mod,
    parse,
    symbol,
    symbols,
)

H, W = symbol("H"), symbol("W")
MEANS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, int], int]]] = {
    "+": (lambda x, y: x + y, lambda x, y: x + y),
    "-": (lambda x, y: x - y, lambda x, y: x - y),
    "*": (lambda x, y: x * y, lambda x, y: x * y),
    "//": (floordiv, lambda x, y: x // y),
    "%": (mod, lambda x, y: x % y),
    "min": (minimum, min),
    "max": (maximum, max),
}


def drawn(rng: random.Random, depth: int) -> tuple[Extent, Callable[[int, int], int]]:
    """An extent over H and W, and the same as a function of integers that no rule has touched."""
    if depth == 0 or rng.random() < 0.15:
        n = rng.randint(-5, 7)
        return rng.choice([(H, lambda h, w: h), (W, lambda h, w: w), (n, lambda h, w: n)])
    op = rng.choice(["+", "-", "*", "//", "//", "//", "%", "min", "max"])
    x, f = drawn(rng, depth - 1)
    k = rng.randint(1, 6)
    y, g = (k, lambda h, w: k) if op in ("//", "%") else drawn(rng, depth - 1)
    make, means = MEANS[op]
    return make(x, y), lambda h, w: means(f(h, w), g(h, w))


@pytest.mark.parametrize("seed", range(8))
def test_values_bounds_and_text_of_drawn_extents(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        e, means = drawn(rng, rng.randint(1, 4))
        low, high = lower_bound(e), -lower_bound(-e)
        assert parse(str(e)) == e
        for h, w in itertools.product(range(13), repeat=2):
            value = means(h, w)
            assert evaluate(e, {"H": h, "W": w}) == value, (e, h, w)
            assert low <= value <= high, (e, h, w)


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (floordiv(floordiv(H + 1, 2) + 1, 2), "(H + 3)//4"),
        (floordiv(floordiv(floordiv(H, 2) - 1, 3) + W * 6 + 5, 6), "(H + 28)//36 + W"),
        (floordiv(floordiv(H + W, 2), 5), "(H + W)//10"),
        (floordiv(2 * H + 1, 4), "H//2"),
        (floordiv(6 * H * W + 2, 9), "(2*H*W)//3"),
        (floordiv(4 * H - 3, 6), "(2*H + 1)//3 - 1"),
        (floordiv(H - 1, 1) + 1, "H"),
        (maximum(0, 2 * ceildiv(H, 2) - H), "2*((H + 1)//2) - H"),
        (maximum(0, 2 * ceildiv(H, 2) - H - 1), "0"),
        (minimum(H, 3 * floordiv(H, 3)), "3*(H//3)"),
        (maximum(2, mod(H, 3)), "2"),
        (minimum(maximum(H, W), H), "H"),
        (maximum(minimum(H, W), H), "H"),
        (maximum(W * floordiv(H, 2) * 2, H * W + 1), "H*W + 1"),
    ],
)  # fmt: skip
def test_one_way_to_write_it(e: Extent, text: str) -> None:
    assert str(e) == text


def same(size: Extent, kernel: int, stride: int) -> tuple[Extent, Extent, Extent]:
    """Padding at both ends and the result's size, as Keras and TensorFlow define "same"."""
    total = maximum(0, (ceildiv(size, stride) - 1) * stride + kernel - size)
    low = floordiv(total, 2)
    return low, total - low, floordiv(size + total - kernel, stride) + 1


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product(range(1, 8), range(1, 5))))
def test_a_same_window_gives_a_share_of_what_it_is_given(kernel: int, stride: int) -> None:
    """Where the window is as long as its stride nothing but the rounded share is left, however many come in a row."""
    size: Extent = H
    for depth in range(1, 5):
        low, high, out = same(size, kernel, stride)
        for h in range(1, 70):
            n = h
            for _ in range(depth - 1):
                n = -(-n // stride)
            total = max(0, (-(-n // stride) - 1) * stride + kernel - n)
            found = [evaluate(e, {"H": h}) for e in (low, high, out)]
            assert found == [total // 2, total - total // 2, (n + total - kernel) // stride + 1], (low, high, out, h)
        if kernel >= stride:
            assert "max" not in f"{low} {high} {out}" and out == ceildiv(H, stride**depth)
        size = out


def test_a_text_of_many_quotients_is_judged_quickly() -> None:
    many = " + ".join(f"(A{i} + {i})//{i + 2}" for i in range(90))
    start = time.process_time()
    e = parse(f"{many} - B")
    assert compare_le(e, 0) is None and compare_le(0, e) is None and len(symbols(e)) == 91
    assert time.process_time() - start < 5
