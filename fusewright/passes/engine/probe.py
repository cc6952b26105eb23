"""Verification level 3: run the graph before and after a pass on probe inputs.

Owns drawing inputs and comparing results within the running error bounds. Must not know any pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from ...core.dtypes import BF16
from ...core.errors import FusewrightError, VerifyError
from ...ir.graph import Graph
from ...ir.interpreter import BoundedInterpreter, Interpreter

_SIZES = (2, 3, 1, 4, 8, 16, 32, 64)
_SETS = 2
_SUMS = frozenset({"contract", "window", "reduce", "scan", "fused", "opaque"})


def draw_feeds(graph: Graph, seed: int = 0) -> dict[str, np.ndarray] | None:
    """Random inputs for a binding under which every input shape is possible; None when none was found."""
    rng = np.random.default_rng(seed)
    for size in _SIZES:
        env = {}
        for i, s in enumerate(graph.symbols):
            low, high = graph.bounds.get(s, (0, None))
            env[s] = max(low, min(size + (i + seed) % 2, size + 1 if high is None else high))
        try:
            feeds = {v.name: _draw(rng, v.type.concrete(env), v.dtype.name) for v in graph.inputs}
            Interpreter(graph).run(feeds)
        except (FusewrightError, ValueError):
            continue
        return feeds
    return None


def _draw(rng: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    if any(d < 0 for d in shape):
        raise ValueError("a negative extent")
    if name == "bool":
        return rng.random(shape) < 0.5
    if name[0] == "f" or name == BF16.name:
        return np.asarray(rng.standard_normal(shape), {"f16": np.float16, "f64": np.float64}.get(name, np.float32))
    return rng.integers(0 if name[0] == "u" else -4, 5, shape).astype({"i": "int", "u": "uint"}[name[0]] + name[1:])


Bounded = dict[str, tuple[np.ndarray, np.ndarray]]


class Probes:
    """Inputs and the results that a graph had at first; ``check`` compares a later form of it."""

    def __init__(self, graph: Graph) -> None:
        found = [draw_feeds(graph, seed) for seed in range(_SETS)]
        self.feeds = [f for f in found if f is not None]
        self.exact = [Interpreter(graph).run(f) for f in self.feeds]
        self.bounded: list[Bounded] = [BoundedInterpreter(graph).run_bounded(f) for f in self.feeds]

    def check(self, graph: Graph, name: str, numerics: str) -> None:
        """Compare with what the graph computed before. Raises VerifyError naming the pass ``name``."""
        for i, feeds in enumerate(self.feeds):
            got = Interpreter(graph).run(feeds)
            bounded = BoundedInterpreter(graph).run_bounded(feeds)
            if numerics == "exact":
                # NumPy sums in an order that depends on memory layout, so movement alone may change such bits.
                strict = not any(n.op.kind in _SUMS for n in graph.walk())
                if strict and not _same_bits(got, self.exact[i]):
                    _blame(name, "is not bit for bit what it was")
            if numerics != "approx":
                for output, (want, want_err) in self.bounded[i].items():
                    value, err = bounded[output]
                    problem = difference(value, want, err + want_err)
                    if problem:
                        _blame(name, f"{output!r} {problem}")
            self.exact[i], self.bounded[i] = got, bounded


def _blame(name: str, problem: str) -> NoReturn:
    raise VerifyError(f"pass {name!r} changed what the graph computes: output {problem}", name)


def _same_bits(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    for name, x in a.items():
        y = b[name]
        if x.dtype.kind != "f":
            same = np.array_equal(x, y)
        else:
            # Any NaN equals any NaN; zeros keep their signs.
            same = np.array_equal(x, y, equal_nan=True) and np.array_equal(_signs(x), _signs(y))
        if not same:
            return False
    return True


def _signs(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.signbit(x) & ~np.isnan(x))


def difference(got: np.ndarray, want: np.ndarray, allowed: np.ndarray) -> str:
    """How two results differ by more than ``allowed`` (inf: undecided), or '' when they agree."""
    if got.shape != want.shape:
        return f"has shape {got.shape}, had {want.shape}"
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    with np.errstate(all="ignore"):
        slack = np.asarray(allowed, np.float64) + 1e-9 * np.abs(b)
        wrong = (a != b) & ~(np.abs(a - b) <= slack) & ~(np.isnan(a) & np.isnan(b)) & np.isfinite(slack)
    if not np.any(wrong):
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"is {a[at]:.9g} at {at}, was {b[at]:.9g} (allowed {slack[at] if slack.ndim else float(slack):.3g})"
