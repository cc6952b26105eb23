"""prove: every value of the small types, special values of the others, within the declared numerics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import InputRefused
from fusewright.passes.engine.rewrite import Rewrite
from fusewright.passes.local.simplify import RULES
from fusewright.testing import prove

op = fw.op


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_every_rule_of_simplify_is_proved(rule: Rewrite) -> None:
    proof = prove(rule)
    assert proof.holds and proof and proof.counterexample is None
    assert proof.tried >= 2 and proof.numerics == rule.numerics


def test_how_much_is_tried() -> None:
    one = prove(fw.rewrite(lambda x: x * 1, lambda x: x, numerics="exact"))
    assert one.tried >= 1 << 16 and {"f16", "i8"} <= set(one.exhaustive)
    two = prove(fw.rewrite(lambda x, y: x + -y, lambda x, y: x - y, numerics="exact"))
    assert "i8" in two.exhaustive and "f16" in two.dtypes
    bools = prove(fw.rewrite(lambda x: op.logical_not(op.logical_not(x)), lambda x: x, numerics="exact"))
    assert bools.exhaustive == ("bool",) and bools.tried == 2


@pytest.mark.parametrize(
    ("pattern", "replacement", "numerics", "holds"),
    [
        (lambda x: x + 0, lambda x: x, "exact", False),
        (lambda x: x + 0, lambda x: x, "nsz", True),
        (lambda x: x * 0, lambda x: op.sub(x, x), "nsz", True),
        (lambda x: x * 0, lambda x: op.relu(op.neg(op.abs(x))), "nsz", False),
        (lambda x: op.maximum(x, 0), lambda x: op.where(op.gt(x, 0), x, op.sub(x, x)), "nsz", False),
        (lambda x, y: op.lt(x, y), lambda x, y: op.logical_not(op.ge(x, y)), "exact", False),
        (lambda x, y: op.minimum(-x, -y), lambda x, y: -op.maximum(x, y), "exact", False),
        (lambda x: op.square(x), lambda x: x * x, "exact", True),
        (lambda x: op.floordiv(x, 2), lambda x: op.truncdiv(x, 2), "exact", False),
        (lambda x, y: op.logical_and(x, y), lambda x, y: op.logical_or(x, y), "exact", False),
    ],
)
def test_verdicts(pattern: Any, replacement: Any, numerics: str, holds: bool) -> None:
    rule = fw.rewrite(pattern, replacement, numerics=numerics)
    proof = prove(rule)
    assert proof.holds is holds
    if not holds:
        assert proof.counterexample is not None
        example = proof.counterexample
        feeds = {k: np.asarray([v]) for k, v in example.values.items()}
        before = example.graph.run({v.name: feeds[v.name] for v in example.graph.inputs})["y"]
        assert np.array_equal(before[0], example.before, equal_nan=before.dtype.kind == "f")
        assert str(example).startswith(example.dtype)


def test_known_constants_are_tried_where_a_rule_asks_for_them() -> None:
    @fw.rewrite(lambda x, low, high: op.relu(op.clip(x, low, high)), numerics="nsz")
    def relu_clip(m: Any, x: Any, low: Any, high: Any) -> Any:
        if m.scalar(low) is None or m.scalar(high) is None:
            return m.decline("unknown limits")
        return op.clip(x, 0, high)

    proof = prove(relu_clip)
    assert not proof.holds and proof.counterexample is not None
    assert proof.counterexample.before != proof.counterexample.after


def test_an_overflow_on_the_way_is_no_unit_in_the_last_place() -> None:
    """1 / y overflows where y is subnormal, and 0 times that is NaN: the bounds of the replacement are no excuse."""
    product = fw.rewrite(lambda x, y: x / y, lambda x, y: x * op.reciprocal(y), numerics="ulp(4)")
    found = prove(product).counterexample
    assert found is not None and found.dtype == "f16"
    assert np.isfinite(found.before) and not np.isfinite(found.after)
    assert prove(fw.rewrite(lambda x: x / 3, lambda x: x * (1 / 3), numerics="ulp(4)"))


def test_what_cannot_be_proved() -> None:
    with pytest.raises(InputRefused, match="not elementwise"):
        prove(fw.rewrite(lambda x: op.reduce_sum(op.neg(x)), lambda x: -op.reduce_sum(x), numerics="reassoc"))
    with pytest.raises(InputRefused, match="one rewrite"):
        prove(fw.default_pipeline())  # type: ignore[arg-type]
    never = fw.rewrite(lambda x: op.relu(x), numerics="exact")(lambda m, x: m.decline("never"))
    proof = prove(never)
    assert not proof.holds and proof.tried == 0 and proof.reason == "never"
