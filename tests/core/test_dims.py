"""Extents against Python integers: text, arithmetic, comparison, monotonicity; and the limits on text."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fusewright.core import dims
from fusewright.core.dims import Dim, Extent
from fusewright.core.errors import ParseError, TypeRefused

NAMES = ("N", "M", "batch.size")
ENVS = st.fixed_dictionaries({n: st.integers(0, 40) for n in NAMES})


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Extent, str]:
    """An extent, and a Python expression over the symbols that means the same."""
    return draw(_EXPRESSIONS)


def _binary(children: st.SearchStrategy[tuple[Extent, str]]) -> st.SearchStrategy[tuple[Extent, str]]:
    def combine(a: tuple[Extent, str], b: tuple[Extent, str], op: str) -> tuple[Extent, str] | None:
        x, y = a[0], b[0]
        text = f"({a[1]} {op} {b[1]})"
        if op == "+":
            return x + y, text
        if op == "-":
            return x - y, text
        if op == "*":
            return x * y, text
        if op in ("//", "%"):
            if not isinstance(y, int) or y == 0:
                return None
            return (dims.floordiv if op == "//" else dims.mod)(x, y), text
        return (dims.minimum if op == "min" else dims.maximum)(x, y), f"{op}({a[1]}, {b[1]})"

    ops = st.sampled_from(("+", "-", "*", "//", "%", "min", "max"))
    return st.builds(combine, children, children, ops).filter(lambda v: v is not None)  # type: ignore[arg-type]


_LEAVES = st.one_of(
    st.integers(-6, 9).map(lambda n: (n, str(n))),
    st.sampled_from(NAMES).map(lambda n: (dims.symbol(n), f"env[{n!r}]")),
)
_EXPRESSIONS: st.SearchStrategy[tuple[Extent, str]] = st.recursive(_LEAVES, _binary, max_leaves=8)


def value(text: str, env: dict[str, int]) -> int:
    return int(eval(text, {"env": env, "min": min, "max": max}))


@given(pairs(), ENVS)
def test_an_extent_means_what_python_means(pair: tuple[Extent, str], env: dict[str, int]) -> None:
    assert dims.evaluate(pair[0], env) == value(pair[1], env)


@given(pairs())
def test_text_parses_back(pair: tuple[Extent, str]) -> None:
    again = dims.parse(str(pair[0]))
    assert again == pair[0] and str(again) == str(pair[0])
    assert pickle.loads(pickle.dumps(pair[0])) == pair[0]


@given(pairs(), pairs(), ENVS)
def test_substitution_is_evaluation_in_steps(a: tuple[Extent, str], b: tuple[Extent, str], env: dict[str, int]) -> None:
    inner = dims.evaluate(b[0], env)
    assume(inner >= 0)
    stepwise = dims.evaluate(dims.substitute(a[0], {"N": b[0]}), env)
    assert stepwise == dims.evaluate(a[0], {**env, "N": inner})


@given(pairs(), pairs(), ENVS)
def test_comparison_never_lies(a: tuple[Extent, str], b: tuple[Extent, str], env: dict[str, int]) -> None:
    x, y = dims.evaluate(a[0], env), dims.evaluate(b[0], env)
    for verdict, truth in ((dims.compare_eq(a[0], b[0]), x == y), (dims.compare_le(a[0], b[0]), x <= y)):
        assert verdict is None or verdict is truth
    assert dims.lower_bound(a[0]) <= x


@given(pairs(), ENVS, ENVS)
def test_monotone_means_monotone(a: tuple[Extent, str], low: dict[str, int], more: dict[str, int]) -> None:
    assume(dims.is_monotone(a[0]))
    high = {n: low[n] + more[n] for n in NAMES}
    assert dims.evaluate(a[0], low) <= dims.evaluate(a[0], high)


@given(pairs(), pairs())
def test_equal_extents_are_interchangeable(a: tuple[Extent, str], b: tuple[Extent, str]) -> None:
    assert (a[0] + b[0]) - b[0] == a[0]
    assert a[0] + b[0] == b[0] + a[0] and a[0] * b[0] == b[0] * a[0]
    assert hash(a[0] + b[0]) == hash(b[0] + a[0])
    # A constant is never a Dim.
    assert not isinstance(a[0] - a[0], Dim) and (a[0] - a[0]) == 0


def test_exact_quotients_disappear() -> None:
    n, m = dims.symbol("N"), dims.symbol("M")
    assert dims.floordiv(n * m * 6, n * 2) == m * 3
    assert dims.mod(n * 8 + 3, 4) == 3
    assert dims.floordiv(n * 4 + m, 4) == n + dims.floordiv(m, 4)
    assert str(dims.floordiv(n + 1, 2)) == "(N + 1)//2"
    assert dims.ceildiv(n, 1) == n


@pytest.mark.parametrize(
    "text", ["", "N +", "(N", "N)", "N$", "min(N)", "min(N, 2", "1.5", "--N", "N // 0", "N % 0", "*N"]
)
def test_bad_text_is_a_parse_error(text: str) -> None:
    with pytest.raises(ParseError):
        dims.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1000 + "N" + ")" * 1000,
        "//".join(["N"] + ["2"] * 500),
        "*".join(f"(a{i} + b{i} + 1)" for i in range(40)),
        "9" * 100,
        "N + " * 100_000 + "N",
    ],
)
def test_text_that_asks_for_too_much_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        dims.parse(text)


@pytest.mark.parametrize("bad", ["1N", "", "a b", "min", "N-1"])
def test_what_cannot_name_a_symbol(bad: str) -> None:
    with pytest.raises(TypeRefused):
        dims.symbol(bad)


def test_what_is_no_extent() -> None:
    for bad in (True, 1.5, None):
        with pytest.raises(TypeRefused):
            dims.extent(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeRefused, match="N"):
        dims.evaluate(dims.symbol("N"), {})
