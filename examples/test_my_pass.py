"""For the tester: a pass and its property tests, in one file.

pytest examples/test_my_pass.py, or without the tests: pytest --fw-pass test_my_pass
"""

from __future__ import annotations

import pytest

import fusewright as fw
from fusewright.testing import PassFailure, check_pass, prove

double_negation = fw.rewrite(lambda x: -(-(x)), lambda x: x, numerics="exact")  # noqa: B002 - two negations

# Wrong at -0.0: the sum is +0.0, so this is no "exact" rewrite. "nsz" would be an honest promise.
add_zero = fw.rewrite(lambda x: x + 0, lambda x: x, numerics="exact")


def test_double_negation() -> None:
    assert check_pass(double_negation).fired > 0
    assert prove(double_negation).holds


def test_adding_zero_is_found_out() -> None:
    with pytest.raises(PassFailure) as found:
        check_pass(add_zero)
    assert found.value.property == "semantics"
    print(found.value.repro)


if __name__ == "__main__":
    test_double_negation()
    test_adding_zero_is_found_out()
