"""Contents of tensors: ordinary numbers, exact ones, special ones; and whole feeds for a graph.

Owns values and bindings of symbols. Must not know how graphs are made or checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import numpy as np
from hypothesis import strategies as st

from ..core.dims import evaluate
from ..core.dtypes import BF16, DType, encode
from ..ir import Graph
from .draw import Draw, HypothesisDraw

# In the order in which shrinking prefers them. Dyadic numbers k/2 make float arithmetic exact.
KINDS = ("dyadic", "ones", "normal", "dyadic", "normal", "special", "spread")
SPECIAL = (0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 3e38, -3e38, 2.0**24, 1.0 + 2.0**-23, 65504.0, 0.5, 1.5)
EXTENTS = (2, 1, 3, 0, 5, 8)


def contents(draw: Draw, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    """An array of ``element`` (bf16 as float32) and ``shape``; one draw decides the kind, one the seed."""
    return np.array(_contents(draw, element, shape))


def _contents(draw: Draw, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    kind = draw.pick(KINDS)
    rng = np.random.default_rng(draw.integer(0, 1 << 16))
    if element.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if element.is_int:
        return _integers(rng, kind, element, shape)
    values = _floats(rng, kind, element, shape)
    with np.errstate(all="ignore"):
        out = values.astype(np.float32 if element is BF16 else element.np)
    if element is BF16:
        bits = encode(out, BF16)
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return out


def _integers(rng: np.random.Generator, kind: str, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    low = 0 if element.kind == "u" else -4
    values = np.ones(shape, element.np) if kind == "ones" else rng.integers(low, 9, shape).astype(element.np)
    if kind in ("special", "spread"):
        info = np.iinfo(element.np)
        salt = np.array([info.min, info.max, 0, 1, info.max // 2], element.np)
        values = np.where(rng.random(shape) < 0.3, rng.choice(salt, shape), values)
    return np.asarray(values, element.np)


def _floats(rng: np.random.Generator, kind: str, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "dyadic":
        return np.asarray(rng.integers(-16, 17, shape) / 2.0)
    if kind == "ones":
        return np.ones(shape)
    values = np.asarray(rng.standard_normal(shape))
    if kind == "special":
        return np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), values)
    if kind == "spread":
        reach = 3 if element.name == "f16" else 10
        return values * 10.0 ** rng.uniform(-reach, reach, shape)
    return values


def bindings(draw: Draw, graph: Graph) -> dict[str, int]:
    """A value for each symbol of the inputs, inside the graph's bounds."""
    env = {}
    for name in graph.symbols:
        low, high = graph.bounds.get(name, (0, None))
        options = [e for e in EXTENTS if e >= low and (high is None or e <= high)]
        env[name] = draw.pick(options or [low])
    return env


def _layout(draw: Draw, array: np.ndarray) -> np.ndarray:
    """The same elements, now and then in Fortran order, spread out or backwards in memory."""
    if array.ndim == 0 or not draw.chance(0.2):
        return array
    kind = draw.pick(("fortran", "strided", "negative"))
    if kind == "fortran":
        return np.asfortranarray(array)
    if kind == "negative":
        return np.ascontiguousarray(array[::-1])[::-1]
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def _drawn(graph: Graph, draw: Draw, env: Mapping[str, int] | None) -> dict[str, np.ndarray]:
    bound = dict(env) if env is not None else bindings(draw, graph)
    out = {}
    for v in graph.inputs:
        shape = tuple(evaluate(d, bound) for d in v.shape)
        array = _layout(draw, contents(draw, v.dtype, shape))
        # Read-only: a run that writes to its inputs fails at once.
        array.flags.writeable = False
        out[v.name] = array
    return out


@overload
def feeds(graph: Graph, draw: Draw, env: Mapping[str, int] | None = None) -> dict[str, np.ndarray]: ...


@overload
def feeds(graph: Graph, draw: None = None, env: Mapping[str, int] | None = None) -> st.SearchStrategy[Any]: ...


def feeds(graph: Graph, draw: Draw | None = None, env: Mapping[str, int] | None = None) -> Any:
    """Arrays by input name that fit ``graph``: drawn at once with ``draw``, else a Hypothesis strategy of such dicts.

    ``env`` binds symbols; without it they are drawn inside the graph's bounds. bf16 inputs are float32 arrays.
    """
    if draw is not None:
        return _drawn(graph, draw, env)

    @st.composite
    def strategy(drawer: Any) -> dict[str, np.ndarray]:
        return _drawn(graph, HypothesisDraw(drawer), env)

    return strategy()


__all__ = ["KINDS", "SPECIAL", "bindings", "contents", "feeds"]
