"""The tables of ops that every machine folds to the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusewright.core.dtypes import DTYPES
from fusewright.ir import Builder
from fusewright.ir.folding import INTEGER, MAX_BYTES, MOVES, ROUNDED, affordable, same_everywhere
from fusewright.ir.opdef import EvalContext, get_op

PLAIN = sorted(n for n in ROUNDED if get_op(n).kind == "elementwise" and not get_op(n).attrs)


def node_of(op: str, dtype: str, count: int, **attrs: Any) -> Any:
    b = Builder()
    return getattr(b, op)(*(b.input(f"x{i}", DTYPES[dtype], (3,)) for i in range(count)), **attrs).producer


def test_the_tables_hold_ops_and_each_once() -> None:
    assert len(MOVES | ROUNDED | INTEGER) == len(MOVES) + len(ROUNDED) + len(INTEGER)
    assert all(get_op(n).eval is not None for n in MOVES | ROUNDED | INTEGER)


@pytest.mark.parametrize("name", PLAIN)
def test_rounded_ops_are_the_exact_result_rounded_once(name: str) -> None:
    """For one operation on float32, float64 is exact enough: rounding its result again gives the same float32."""
    op, rng = get_op(name), np.random.default_rng(7)
    logical = name.startswith("logical")
    values = [rng.standard_normal(4096) * 10.0 ** rng.integers(-6, 7, 4096) for _ in range(3)]
    args = [v > 0 if logical else v.astype(np.float32) for v in values[: len(op.operands)]]
    if name == "where":
        args[0] = values[0] > 0
    if name == "clip":
        args[1], args[2] = np.minimum(args[1], args[2]), np.maximum(args[1], args[2])
    wide = [a if a.dtype == bool else a.astype(np.float64) for a in args]
    assert op.eval is not None
    with np.errstate(all="ignore"):
        got, want = op.eval(args, {}, EvalContext({})), op.eval(wide, {}, EvalContext({}))
        if name == "rsqrt":  # two operations, each rounded
            want = np.float32(1) / np.sqrt(wide[0]).astype(np.float32)
    np.testing.assert_array_equal(got, np.asarray(want).astype(np.asarray(got).dtype))


def test_types_decide() -> None:
    assert same_everywhere(node_of("reduce_max", "i32", 1, axes=(0,)))
    assert not same_everywhere(node_of("reduce_max", "f32", 1, axes=(0,)))  # -0 or 0, as the order has it
    assert same_everywhere(node_of("floordiv", "i64", 2)) and not same_everywhere(node_of("floordiv", "f64", 2))
    assert same_everywhere(node_of("rsqrt", "f32", 1)) and not same_everywhere(node_of("exp", "f32", 1))


def test_the_budget() -> None:
    assert affordable(4096, 0) and not affordable(4097, 0)
    assert affordable(16 * 1000, 1000) and not affordable(16 * 1000 + 1, 1000)
    assert affordable(MAX_BYTES, MAX_BYTES) and not affordable(MAX_BYTES + 1, MAX_BYTES)
