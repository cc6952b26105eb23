"""Optimiser steps of ai.onnx.preview.training: plain arithmetic on parameters, gradients and state.

Owns their update formulas.
"""

from __future__ import annotations

from typing import Any

from ....core.dtypes import F32
from ....ir.graph import Value
from ..call import Call, op

DOMAIN = "ai.onnx.preview.training"


def _groups(c: Call, values: tuple[Value, ...], parts: int) -> list[tuple[Value, ...]]:
    n = len(values) // parts
    if not n or len(values) != n * parts:
        raise c.refuse(f"{len(values)} tensors do not split into {parts} groups", "malformed")
    return [tuple(values[p * n + i] for p in range(parts)) for i in range(n)]


def _regular(c: Call, x: Value, g: Value) -> Value:
    return c.b.add(c.b.mul(x, c.number("norm_coefficient", 0.0)), g)


def _columns(rows: Any) -> list[Value]:
    return [v for column in zip(*rows) for v in column]


@op("Adagrad", domain=DOMAIN)
def _adagrad(c: Call, rate: Value, step: Value, *values: Value) -> Any:
    b = c.b
    rows = []
    for x, g, h in _groups(c, values, 3):
        decay = b.add(b.mul(b.cast(step, to=F32), c.number("decay_factor", 0.0)), 1.0)
        r = b.div(b.cast(rate, to=x.dtype), b.cast(decay, to=x.dtype))
        g = _regular(c, x, g)
        h = b.add(h, b.square(g))
        rows.append((b.sub(x, b.div(b.mul(r, g), b.add(b.sqrt(h), c.number("epsilon", 1e-6)))), h))
    return _columns(rows)


@op("Adam", domain=DOMAIN)
def _adam(c: Call, rate: Value, step: Value, *values: Value) -> Any:
    b, alpha, beta = c.b, c.number("alpha", 0.9), c.number("beta", 0.999)
    rows = []
    for x, g, v, h in _groups(c, values, 4):
        g = _regular(c, x, g)
        v = b.add(b.mul(v, alpha), b.mul(g, 1 - alpha))
        h = b.add(b.mul(h, beta), b.mul(b.square(g), 1 - beta))
        t = b.cast(step, to=x.dtype)
        powers = [b.sub(1.0, b.pow(c.like(p, x), t)) for p in (beta, alpha)]
        r = b.cast(rate, to=x.dtype)
        r = b.where(b.gt(t, 0.0), b.div(b.mul(r, b.sqrt(powers[0])), powers[1]), r)
        new = b.sub(x, b.div(b.mul(r, v), b.add(b.sqrt(h), c.number("epsilon", 1e-6))))
        rows.append((b.mul(new, 1 - c.number("norm_coefficient_post", 0.0)), v, h))
    return _columns(rows)


@op("Momentum", domain=DOMAIN)
def _momentum(c: Call, rate: Value, step: Value, *values: Value) -> Any:
    b, alpha, beta, mode = c.b, c.number("alpha"), c.number("beta"), c.text("mode")
    if alpha is None or beta is None or mode not in ("standard", "nesterov"):
        raise c.refuse(f"alpha {alpha}, beta {beta}, mode {mode!r}", "malformed")
    rows = []
    for x, g, v in _groups(c, values, 3):
        g = _regular(c, x, g)
        share = b.where(b.gt(step, c.like(0, step)), c.like(beta, x), c.like(1.0, x))
        v = b.add(b.mul(v, alpha), b.mul(share, g))
        turn = v if mode == "standard" else b.add(g, b.mul(v, alpha))
        rows.append((b.sub(x, b.mul(b.cast(rate, to=x.dtype), turn)), v))
    return _columns(rows)
