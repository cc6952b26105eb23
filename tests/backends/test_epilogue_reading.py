"""Which elementwise tails a tile applies in its registers, and that what they mean is what the interpreter computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.select.epilogue import read
from fusewright.testing.kernels import check_kernels

CHANNELS = 20
Tail = Callable[[Any, Any], Any]


def vector(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, CHANNELS).astype(np.float32)


def twice(b: Any, y: Any) -> Any:
    """Two gates, one behind the other."""
    y = b.hard_swish(y)
    return b.mul(b.clip(b.add(y, 3.0), 0.0, 6.0), y)


TAILS: dict[str, tuple[Tail, tuple[str, ...]]] = {
    "hard_swish": (lambda b, y: b.hard_swish(y), ("keep", "affine", "clip", "gate")),
    "hard_sigmoid": (lambda b, y: b.hard_sigmoid(y), ("affine", "clip")),
    "leaky_relu": (lambda b, y: b.leaky_relu(y, alpha=0.2), ("leak",)),
    "slope where not below": (lambda b, y: b.where(b.ge(y, 0.0), y, b.mul(vector(), y)), ("slope",)),
    "slope of two halves": (lambda b, y: b.sub(b.relu(y), b.mul(vector(), b.relu(b.neg(y)))), ("slope",)),
    "two gates": (twice, ("keep", "affine", "clip", "gate", "keep", "affine", "clip", "gate")),
    "gate behind a bias": (lambda b, y: b.mul(b.relu(b.add(b.add(y, vector()), 1.0)), b.add(y, vector())),
                           ("bias", "keep", "affine", "relu", "gate")),
    "silu": (lambda b, y: b.silu(b.add(y, vector())), ("bias", "form")),
    "tanh of a gelu": (lambda b, y: b.tanh(b.gelu(y, approximate=True)), ("form", "form")),
    "gate of a sigmoid": (lambda b, y: b.mul(b.sigmoid(b.mul(y, 1.5)), y), ("keep", "affine", "form", "gate")),
    "residual behind an exp": (lambda b, y: b.mul(b.exp(y), vector()), ("form", "scale")),
    # Not what the stages say: 0 times an infinite slope, another threshold, a sum instead of a product.
    "slope where above": (lambda b, y: b.where(b.gt(y, 0.0), y, b.mul(y, vector())), ("expr",)),
    "another threshold": (lambda b, y: b.where(b.lt(y, 1.0), b.mul(y, vector()), y), ("expr",)),
    "an infinite leak": (lambda b, y: b.where(b.lt(y, 0.0), b.mul(y, np.inf), y), ("expr",)),
    "sum with what was kept": (lambda b, y: b.add(b.relu(b.mul(y, 0.5)), y), ("expr",)),
    "square of the chain": (lambda b, y: b.mul(b.add(y, 1.0), b.add(y, 1.0)), ("affine", "expr")),
    "a function without a form": (lambda b, y: b.silu(b.erf(y)), ("expr",)),
    "three readers": (lambda b, y: b.mul(b.mul(b.relu(y), y), b.clip(y, -1.0, 1.0)), ("expr",)),
}  # fmt: skip


def net(tail: Tail, dtype: str = "float32") -> fw.Graph:
    b: Any = fw.Builder()
    x = b.input("x", dtype, ("N", 5, 6, CHANNELS))
    w = np.random.default_rng(1).normal(0, 0.3, (3, 3, CHANNELS, CHANNELS)).astype(dtype)
    return b.build({"y": tail(b, b.conv(x, w, pads=((1, 1), (1, 1))))})


@pytest.mark.parametrize("name", TAILS)
def test_stages_of_a_tail(name: str) -> None:
    tail, want = TAILS[name]
    fused = [s.node for s in fw.plan(net(tail)).program.walk() if s.node.op.name == "fused"]
    found = read(fused[0])
    assert len(fused) == 1 and found is not None
    assert tuple(s.kind for s in found.epilogue.stages) == want


@pytest.mark.parametrize("name", [n for n, (_, stages) in TAILS.items() if "expr" not in stages])
def test_stages_stay_inside_the_bound(name: str) -> None:
    x = np.random.default_rng(2).normal(0, 2, (2, 5, 6, CHANNELS)).astype(np.float32)
    x[0, 0, :3, 0] = np.nan, np.inf, -np.inf
    verdicts = check_kernels(net(TAILS[name][0]), {"x": x})
    assert verdicts and [str(v) for v in verdicts if not v.ok] == []


NUMBERS: dict[str, Tail] = {
    "no number": lambda b, y: b.clip(y, np.nan, 1.0),
    "no end": lambda b, y: b.clip(y, 0.1, np.inf),
    "far from 0": lambda b, y: b.clip(y, -1e38, 1e38),
    "the greatest": lambda b, y: b.add(b.relu(y), np.finfo(y.dtype.np).max),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NUMBERS)
def test_any_number_stays_inside_the_bound(name: str, dtype: str) -> None:
    """What a slot, which holds float32, cannot say is said in text."""
    x = np.random.default_rng(2).normal(0, 2, (2, 5, 6, CHANNELS)).astype(dtype)
    verdicts = check_kernels(net(NUMBERS[name], dtype), {"x": x})
    assert verdicts and [str(v) for v in verdicts if not v.ok] == []
